//! A probe's sockets inside namespaces, and the protocol families that it offers.
//!
//! A socket that is made is a line `sock.create` with an errno, and `ino=… fd=…` or the sentence as its message; likewise
//! `sock.connect`. What a thread gets that reads one is a line `sock.read`, its length or its errno.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use pernet_plugin_api::prelude::*;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::Shared;
use super::config::{Connect, Keep, WantedSocket};
use super::record::Line;

type Job = Box<dyn FnOnce() + Send>;

/// What a probe has of sockets.
pub(super) struct Socks {
    inner: Arc<Inner>,
    starter: Mutex<Option<JoinHandle<()>>>,
}

struct Inner {
    host: Host,
    /// With the namespace of each that goes with it.
    kept: Mutex<Vec<(Option<NetCookie>, Arc<Socket>)>>,
    /// For threads at home: one that a hook starts would stay in its namespace.
    jobs: Mutex<Option<Sender<Job>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Socks {
    pub(super) fn new(host: Host) -> Socks {
        let (jobs, todo) = channel();
        let starter = Mutex::new(Some(thread::spawn(move || start_all(&todo))));
        Socks { inner: Arc::new(Inner { host, kept: Mutex::default(), jobs: Mutex::new(Some(jobs)) }), starter }
    }

    /// Makes and connects what is wanted in this hook of this namespace. A refusal fails nothing.
    pub(super) fn begin(&self, shared: &Arc<Shared>, hook: &str, net: &Net<'_>) {
        let config = &shared.config;
        let to = |name: &str| if name.is_empty() { net.cookie() } else { shared.works.cookie(name) };
        for wanted in config.sockets.iter().filter(|wanted| wanted.at.is(hook, net.name())) {
            let (there, wanted) = (to(&wanted.at.to), wanted.clone());
            let own_thread = wanted.at.own_thread;
            self.run(shared, net, own_thread, move |inner, shared, netns| inner.create(shared, netns, there, &wanted));
        }
        for wanted in config.connects.iter().filter(|wanted| wanted.at.is(hook, net.name())) {
            let (there, wanted) = (to(&wanted.at.to), wanted.clone());
            let own_thread = wanted.at.own_thread;
            self.run(shared, net, own_thread, move |inner, shared, netns| inner.connect(shared, netns, there, &wanted));
        }
    }

    fn run(
        &self,
        shared: &Arc<Shared>,
        net: &Net<'_>,
        own_thread: bool,
        act: impl FnOnce(&Arc<Inner>, &Arc<Shared>, &str) + Send + 'static,
    ) {
        if !own_thread {
            return act(&self.inner, shared, net.name());
        }
        let (inner, shared, netns) = (Arc::clone(&self.inner), Arc::clone(shared), net.name().to_owned());
        self.inner.at_home(move || act(&inner, &shared, &netns));
    }

    /// Lets go of what was to be kept only as long as this namespace.
    pub(super) fn leave(&self, net: &Net<'_>) {
        let gone: Vec<_> = lock(&self.inner.kept).extract_if(.., |(of, _)| *of == Some(net.cookie())).collect();
        drop(gone);
    }

    /// Lets go of everything, and waits for the threads.
    pub(super) fn end(&self) {
        drop(std::mem::take(&mut *lock(&self.inner.kept)));
        drop(lock(&self.inner.jobs).take());
        if let Some(thread) = lock(&self.starter).take() {
            let _ = thread.join();
        }
    }
}

/// Each in a thread of its own; then waits for all of them.
fn start_all(todo: &Receiver<Job>) {
    let threads: Vec<_> = todo.iter().map(thread::spawn).collect();
    for thread in threads {
        let _ = thread.join();
    }
}

impl Inner {
    fn at_home(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(jobs) = &*lock(&self.jobs) {
            let _ = jobs.send(Box::new(job));
        }
    }

    fn create(self: &Arc<Self>, shared: &Arc<Shared>, netns: &str, there: NetCookie, wanted: &WantedSocket) {
        let made = self.host.sock_create(there, wanted.family, wanted.kind, wanted.protocol);
        let Some(socket) = answer(shared, "sock.create", netns, made) else { return };
        if wanted.read {
            let (shared, socket, netns) = (Arc::clone(shared), Arc::clone(&socket), netns.to_owned());
            self.at_home(move || note(&shared, &netns, "sock.read", recv_some(&socket).map(|got| got.len())));
        }
        match wanted.keep {
            Keep::Drop => {}
            Keep::Net => lock(&self.kept).push((Some(there), socket)),
            Keep::Plugin => lock(&self.kept).push((None, socket)),
            Keep::Forget => std::mem::forget(socket),
        }
    }

    /// Says something and reads the answer.
    fn connect(self: &Arc<Self>, shared: &Arc<Shared>, netns: &str, there: NetCookie, wanted: &Connect) {
        let made = self.host.sock_connect(there, &wanted.family, wanted.kind);
        let Some(socket) = answer(shared, "sock.connect", netns, made) else { return };
        let said = send(&*socket, wanted.say.as_bytes(), SendFlags::NOSIGNAL);
        let heard = said.and_then(|_| recv_some(&socket)).map(|heard| String::from_utf8_lossy(&heard).into_owned());
        let line = Line { netns, ..Line::at_home("sock.heard") };
        shared.note(Line { message: heard.as_deref().ok(), errno: errno(heard.as_ref().err()), ..line });
    }
}

fn answer(shared: &Shared, what: &str, netns: &str, made: Result<Socket>) -> Option<Arc<Socket>> {
    let errno = Some(made.as_ref().err().map_or(0, Error::errno));
    let message = match &made {
        Ok(socket) => format!("ino={} fd={}", socket.ino(), socket.as_raw_fd()),
        Err(error) => error.to_string(),
    };
    shared.note(Line { netns, errno, message: Some(&message), ..Line::at_home(what) });
    made.ok().map(Arc::new)
}

fn errno(error: Option<&Errno>) -> Option<i32> {
    Some(error.map_or(0, |error| error.raw_os_error()))
}

fn note(shared: &Shared, netns: &str, what: &str, done: Result<usize, Errno>) {
    let message = done.map_or_else(|_| String::new(), |len| format!("{len} bytes"));
    shared.note(Line { netns, errno: errno(done.as_ref().err()), message: Some(&message), ..Line::at_home(what) });
}

fn recv_some(socket: &impl AsFd) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; 64 * 1024];
    let (_, len) = recv(socket, &mut bytes[..], RecvFlags::empty())?;
    bytes.truncate(len);
    Ok(bytes)
}

/// A family that sends back what it is sent, with who sent it in front.
pub(super) struct Echo(pub(super) Arc<Shared>, pub(super) String);

impl SocketFamily for Echo {
    fn connected(&self, net: &Net<'_>, connection: Connection) -> Result<()> {
        let who = format!("{} kind={} uid={} pid={}", self.1, connection.kind, connection.uid, connection.pid);
        self.0.call(Line { message: Some(&who), ..Line::of("sock.connected", "family", net) })?;
        let (shared, netns) = (Arc::clone(&self.0), net.name().to_owned());
        self.0.socks.inner.at_home(move || {
            let done = echo(&connection.socket);
            note(&shared, &netns, "sock.echo", done);
        });
        Ok(())
    }
}

/// Until the other side ends; how much it was.
fn echo(socket: &Socket) -> Result<usize, Errno> {
    let mut all = 0;
    loop {
        let got = recv_some(socket)?;
        if got.is_empty() {
            return Ok(all);
        }
        all += got.len();
        let mut left = got.as_slice();
        while !left.is_empty() {
            left = &left[send(socket, left, SendFlags::NOSIGNAL)?..];
        }
    }
}
