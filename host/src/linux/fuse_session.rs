//! One FUSE connection: a mount carried to its users, request by request.
//!
//! Each request is a call of the engine's [`Mount`], and each has one answer: the call's, or another's that came first.
//! A call that takes too long is answered with `EIO` by the server's keeper, one whose process was interrupted with `EINTR`
//! (after a moment, since most calls are over by then), and all with `ENODEV` when the mount is ended from inside. What the
//! call itself says later is dropped then, and what it left behind (an open file, a lookup) is taken back.
//!
//! The connection is the kernel's lease too: it ends when the last file of the mount is closed, wherever it was attached.
//! What each request asks for is in `fuse_request.rs`; threads and time are `fuse_server.rs`'s.

use std::collections::HashMap;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use pernet_plugin_api::DirEntry;
use rustix::io::Errno;

use super::fuse_wire;
use crate::engine::{Failure, Mount, MountRef};
use crate::logging::catalog;

/// How long a call may go on whose process was interrupted.
const INTERRUPTED: Duration = Duration::from_millis(100);
/// The kernel takes no errno beyond this from a file system.
const ERRNO_MOST: i32 = 511;

/// Told once: that the mount can be used, or why it never will be.
pub type Ready = Box<dyn FnOnce(Result<(), String>) + Send>;

/// A connection.
pub(super) struct Session {
    pub(super) id: u64,
    mount: Arc<Mount>,
    /// What keeps the mount, until the connection ends.
    usage: Mutex<Option<MountRef>>,
    /// Taken out at the end. Calls that are still inside hold the session, but not the connection.
    device: RwLock<Option<OwnedFd>>,
    pub(super) flights: Mutex<HashMap<u64, Flight>>,
    /// Calls that were given up and are still inside.
    overdue: AtomicUsize,
    pub(super) directories: Mutex<HashMap<u64, Option<Arc<Vec<DirEntry>>>>>,
    pub(super) last_directory: AtomicU64,
    ready: Mutex<Option<Ready>>,
    last_complaint: Mutex<Option<Instant>>,
}

/// A request that is being carried out.
pub(super) struct Flight {
    since: Instant,
    what: &'static str,
    pub(super) interrupted: Option<Instant>,
    /// Somebody else has answered.
    answered: bool,
    /// It was given up.
    overdue: bool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    pub(super) fn new(id: u64, device: OwnedFd, mount: MountRef, ready: Ready) -> Arc<Session> {
        Arc::new(Session {
            id,
            mount: Arc::clone(&mount),
            usage: Mutex::new(Some(mount)),
            device: RwLock::new(Some(device)),
            flights: Mutex::default(),
            overdue: AtomicUsize::new(0),
            directories: Mutex::default(),
            last_directory: AtomicU64::new(0),
            ready: Mutex::new(Some(ready)),
            last_complaint: Mutex::new(None),
        })
    }

    /// Does something with the connection; `None` once it has ended.
    pub(super) fn with_device<T>(&self, act: impl FnOnce(&OwnedFd) -> T) -> Option<T> {
        self.device.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(act)
    }

    pub(super) fn mount(&self) -> &Arc<Mount> {
        &self.mount
    }

    /// The next request, if there is one. `ENODEV`: the mount is gone.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.with_device(|device| rustix::io::read(device, buffer)).unwrap_or(Err(Errno::NODEV))
    }

    pub(super) fn send(&self, unique: u64, errno: i32, body: &[u8]) -> Result<(), Errno> {
        let header = fuse_wire::out_header(unique, errno, body.len());
        let parts = [IoSlice::new(&header), IoSlice::new(body)];
        let sent = self.with_device(|device| rustix::io::writev(device, &parts)).unwrap_or(Err(Errno::NODEV));
        sent.map(drop)
    }

    /// Ends the connection: whoever waits for a call is told so, and the kernel ends what it still has of the mount. The
    /// mount itself ends with its last call. Only the first time does anything.
    pub(super) fn end(&self, why: &str) {
        let unanswered = self.answer_in_place(|_| Some(libc::ENODEV));
        for (unique, errno, _) in unanswered {
            let _ = self.send(unique, errno, &[]);
        }
        drop(self.device.write().unwrap_or_else(PoisonError::into_inner).take());
        self.tell_ready(Err(why.to_owned()));
        // After the lock: this may be the mount's last use, whose end is the file system's code.
        let usage = lock(&self.usage).take();
        drop(usage);
    }

    /// Tells whoever waits for the mount to answer; only the first time does anything.
    pub(super) fn tell_ready(&self, result: Result<(), String>) {
        let ready = lock(&self.ready).take();
        if let Some(ready) = ready {
            ready(result);
        }
    }

    /// Takes the answer of those calls out of their hands for which an errno is given: which, with what, and whose.
    fn answer_in_place(&self, judge: impl Fn(&mut Flight) -> Option<i32>) -> Vec<(u64, i32, &'static str)> {
        let mut taken = Vec::new();
        for (unique, flight) in lock(&self.flights).iter_mut() {
            let errno = judge(flight);
            if let (Some(errno), false) = (errno, flight.answered) {
                flight.answered = true;
                taken.push((*unique, errno, flight.what));
            }
        }
        taken
    }

    /// Gives up calls that take longer than the deadline, or whose process was interrupted a moment ago.
    pub(super) fn give_up(&self, deadline: Duration) {
        let now = Instant::now();
        let late = self.answer_in_place(|flight| {
            let interrupted = flight.interrupted.is_some_and(|at| now.duration_since(at) >= INTERRUPTED);
            if now.duration_since(flight.since) < deadline {
                return interrupted.then_some(libc::EINTR);
            }
            // Also one that nobody waits for any more holds its thread.
            if !std::mem::replace(&mut flight.overdue, true) {
                self.overdue.fetch_add(1, Ordering::Relaxed);
            }
            Some(libc::EIO)
        });
        for (unique, errno, what) in late {
            if errno == libc::EIO {
                let (fs, owner) = (&*self.mount.fs.name, &*self.mount.fs.owner);
                tracing::warn!(
                    message_id = catalog::FILE_CALL_HANGS,
                    plugin = owner,
                    fs,
                    hook = what,
                    "{what} has not returned for {deadline:?}; its caller got EIO"
                );
            }
            let _ = self.send(unique, errno, &[]);
        }
    }

    /// Calls that were given up and are still inside.
    pub(super) fn held(&self) -> usize {
        self.overdue.load(Ordering::Relaxed)
    }

    pub(super) fn begin(self: &Arc<Self>, unique: u64, what: &'static str) -> Answer {
        let flight = Flight { since: Instant::now(), what, interrupted: None, answered: false, overdue: false };
        lock(&self.flights).insert(unique, flight);
        Answer { session: Arc::clone(self), unique, done: false }
    }

    /// Logs what is wrong with the file system, at most once a second.
    pub(super) fn complain(&self, what: &str) {
        let mut last = lock(&self.last_complaint);
        if last.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            *last = Some(Instant::now());
            let (fs, owner) = (&*self.mount.fs.name, &*self.mount.fs.owner);
            tracing::warn!(message_id = catalog::FILE_SYSTEM_AT_FAULT, plugin = owner, fs, "{fs}: {what}");
        }
    }
}

/// The answer to one request. Dropped, it is `EIO`.
pub(super) struct Answer {
    session: Arc<Session>,
    unique: u64,
    done: bool,
}

impl Answer {
    pub(super) fn give(self, result: Result<Vec<u8>, Failure>) {
        match result {
            Ok(body) => drop(self.ok(&body)),
            Err(failure) => self.fail(&failure),
        }
    }

    /// Whether it has come to who asked: else nobody knows what it says.
    pub(super) fn ok(mut self, body: &[u8]) -> bool {
        self.deliver(0, body)
    }

    pub(super) fn fail(mut self, failure: &Failure) {
        let errno = match failure.errno {
            // To the kernel this would mean that there is no such operation at all, ever.
            libc::ENOSYS => libc::EOPNOTSUPP,
            errno @ 1..=ERRNO_MOST => errno,
            _ => libc::EIO,
        };
        if errno == libc::EIO {
            self.session.complain(&failure.message);
        }
        self.deliver(errno, &[]);
    }

    fn deliver(&mut self, errno: i32, body: &[u8]) -> bool {
        self.done = true;
        let Some(flight) = lock(&self.session.flights).remove(&self.unique) else { return false };
        if flight.overdue {
            self.session.overdue.fetch_sub(1, Ordering::Relaxed);
        }
        // `ENOENT`: the kernel has given the request up.
        !flight.answered && self.session.send(self.unique, errno, body).is_ok()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.done {
            self.deliver(libc::EIO, &[]);
        }
    }
}
