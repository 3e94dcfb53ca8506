//! The connections that are being answered: a thread each, a few at a time, each for a bounded time.
//!
//! When all places are taken the oldest connection ends for the new one, so that those who hang keep nobody out.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pernet_plugin_api::prelude::*;

use crate::collect::Collector;
use crate::http::{self, Asked, Refused};

/// As many connections are answered. Each may hold a scrape's whole text (36 MB of 1,000 namespaces) for as long as it
/// takes it, and anybody on the host may connect.
const MOST: usize = 8;
/// As many threads there are: one whose connection has ended may still wait for a scrape.
const THREADS: usize = 64;
/// For the request to come, and for what is left of it after the answer.
const REQUEST: Duration = Duration::from_secs(5);
/// For the answer to be taken.
const ANSWER: Duration = Duration::from_secs(30);
/// An end that is waited for.
const END: Duration = Duration::from_secs(5);
/// A call of write takes so much at most, so that the time is looked at.
const CHUNK: usize = 256 * 1024;

/// The connections.
pub(crate) struct Connections {
    host: Host,
    collector: Arc<Collector>,
    state: Mutex<State>,
    /// A thread has ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// Oldest first.
    open: Vec<(u64, Arc<TcpStream>)>,
    next: u64,
    threads: usize,
    stopping: bool,
}

impl Connections {
    pub(crate) fn new(host: Host, collector: Arc<Collector>) -> Self {
        Connections { host, collector, state: Mutex::default(), ended: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a connection, on a thread of its own. One that is too many is closed.
    pub(crate) fn answer(self: &Arc<Self>, stream: TcpStream) {
        let mut state = self.lock();
        if state.stopping || state.threads >= THREADS {
            return;
        }
        if state.open.len() >= MOST {
            let (_, oldest) = state.open.remove(0);
            let _ = oldest.shutdown(Shutdown::Both);
        }
        let (number, stream) = (state.next, Arc::new(stream));
        state.next += 1;
        state.threads += 1;
        state.open.push((number, Arc::clone(&stream)));
        drop(state);
        let me = Arc::clone(self);
        let serve = move || {
            let _place = Place { connections: &me, number };
            me.host.attribute(|| serve(&stream, &me.collector));
        };
        if let Err(e) = thread::Builder::new().name("metrics-scrape".into()).spawn(serve) {
            tracing::warn!("no thread for a connection: {e}");
            self.leave(number);
        }
    }

    fn leave(&self, number: u64) {
        let mut state = self.lock();
        state.open.retain(|(open, _)| *open != number);
        state.threads -= 1;
        drop(state);
        self.ended.notify_all();
    }

    /// Ends all of them, and takes no more. The collector has been stopped.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        for (_, stream) in &state.open {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let until = Instant::now() + END;
        while state.threads > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::error!("{} threads for scrapes have not ended", state.threads);
                return;
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A thread's place among the others, until it ends, however it does.
struct Place<'a> {
    connections: &'a Connections,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.connections.leave(self.number);
    }
}

/// Reads the request, answers it, and closes so that the answer arrives. An error is the client's business only.
fn serve(stream: &TcpStream, collector: &Collector) {
    let done = match request(stream) {
        Ok(asked) => answer(stream, asked, collector),
        Err(Some(refused)) => send(stream, &[&refused.answer()]),
        Err(None) => return,
    };
    if done.is_ok() && stream.shutdown(Shutdown::Write).is_ok() {
        // To close with something unread would cut off the answer.
        drain(stream);
    }
}

/// `None`: there is nobody to answer.
fn request(mut stream: &TcpStream) -> Result<Asked, Option<Refused>> {
    let until = Instant::now() + REQUEST;
    let (mut head, mut part) = (Vec::new(), [0; 1024]);
    while !http::is_whole(&head) {
        if head.len() > http::HEAD {
            return Err(Some(Refused::TooLarge));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Some(Refused::Timeout));
        }
        stream.set_read_timeout(Some(left)).map_err(|_| None)?;
        match stream.read(&mut part) {
            Ok(0) => return Err(if head.is_empty() { None } else { Some(Refused::BadRequest) }),
            Ok(length) => head.extend_from_slice(&part[..length]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(Some(Refused::Timeout));
            }
            Err(_) => return Err(None),
        }
    }
    http::understand(&head).map_err(Some)
}

fn answer(stream: &TcpStream, asked: Asked, collector: &Collector) -> std::io::Result<()> {
    match asked {
        Asked::Index(with_text) => {
            let text = if with_text { http::INDEX } else { "" };
            send(stream, &[&http::found(asked, http::INDEX.len()), text.as_bytes()])
        }
        Asked::Metrics(with_text) => {
            let Some(body) = collector.collect() else { return send(stream, &[&Refused::Unavailable.answer()]) };
            let head = http::found(asked, body.len());
            let text = body.parts.iter().map(Vec::as_slice).filter(|_| with_text);
            send(stream, &std::iter::once(&*head).chain(text).collect::<Vec<_>>())
        }
    }
}

/// Sends all of it, or gives up when it is not taken in time.
fn send(mut stream: &TcpStream, parts: &[&[u8]]) -> std::io::Result<()> {
    let until = Instant::now() + ANSWER;
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            stream.set_write_timeout(Some(left))?;
            match stream.write(&rest[..rest.len().min(CHUNK)]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => rest = &rest[length..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

fn drain(mut stream: &TcpStream) {
    let until = Instant::now() + REQUEST;
    let (mut part, mut left) = ([0; 1024], 64 * 1024usize);
    while left > 0 {
        let time = until.saturating_duration_since(Instant::now());
        if time.is_zero() || stream.set_read_timeout(Some(time)).is_err() {
            return;
        }
        match stream.read(&mut part) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
            Ok(length) => left = left.saturating_sub(length),
        }
    }
}
