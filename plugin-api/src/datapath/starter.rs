//! The thread that starts an instance's other threads.
//!
//! A thread is in the network namespace of the one that started it, and keeps that alive. Devices are opened inside
//! their namespaces, so their threads come from here: from a thread that was started with the instance, at home.

use std::io;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

/// It calls nothing but `spawn`.
const STACK: usize = 64 * 1024;

type Body = Box<dyn FnOnce() + Send>;

struct Request {
    name: String,
    body: Body,
    answer: SyncSender<io::Result<JoinHandle<()>>>,
}

/// The way to the starting thread, which ends with it.
pub(crate) struct Starter(Mutex<Option<Running>>);

struct Running {
    requests: Sender<Request>,
    thread: JoinHandle<()>,
}

impl Starter {
    /// Starts it. Without a thread, every later start is refused.
    pub(crate) fn new() -> Self {
        let (requests, receiver) = channel::<Request>();
        let serve = move || {
            for Request { name, body, answer } in receiver {
                // Who asked waits for it.
                let _ = answer.send(Builder::new().name(name).spawn(body));
            }
        };
        let thread = Builder::new().name("netdev-starter".to_owned()).stack_size(STACK).spawn(serve);
        Starter(Mutex::new(thread.ok().map(|thread| Running { requests, thread })))
    }

    /// Starts a thread at home.
    pub(crate) fn spawn(&self, name: String, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        let (answer, answered) = sync_channel(1);
        let gone = || io::Error::from_raw_os_error(libc::ESTALE);
        let running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let request = Request { name, body: Box::new(body), answer };
        running.as_ref().ok_or_else(gone)?.requests.send(request).map_err(|_| gone())?;
        drop(running);
        answered.recv().map_err(|_| gone())?
    }

    /// Ends it, and waits for that: it only ever waits for requests.
    pub(crate) fn stop(&self) {
        let running = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { requests, thread }) = running {
            drop(requests);
            let _ = thread.join();
        }
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        // A queue's thread may be the last to hold it; it must not wait here for a thread that it is not.
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take();
    }
}
