//! The threads that serve FUSE mounts, all mounts together.
//!
//! A thread that takes a request carries it out itself, so that the fewest have to wake; before a call that may wait it
//! sees to it that somebody else listens. So one call that takes its time, or never returns, holds up nobody else, as in
//! [`super::worker`]. Threads that are not needed any more end, and all of them when there is no mount.
//!
//! A keeper (`fuse_keeper.rs`) looks after calls that take too long. No thread here ever enters a namespace.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::thread;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::fuse;
use super::fuse_session::{Ready, Session};
use super::fuse_wire;
use crate::engine::{Mount, MountRef};
use crate::logging::catalog;

/// Threads at most, beside those that calls hold which were given up.
const MOST: usize = 64;
/// So many may wait for something to do for as long as they like.
const IDLE: usize = 2;
/// How long others do.
const LINGER: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// Of the descriptor that wakes all who wait; sessions count from 1.
const WAKE: u64 = 0;

/// Serves mounts. Dropping it ends them all.
pub struct FuseServer(Arc<Shared>);

pub(super) struct Shared {
    epoll: OwnedFd,
    wake: OwnedFd,
    /// Held for a look-up only.
    sessions: RwLock<HashMap<u64, Arc<Session>>>,
    last: AtomicU64,
    /// How many threads there are; the lock decides who ends.
    pub(super) threads: Mutex<Threads>,
    /// How many of them wait for something to do.
    idle: AtomicUsize,
    pub(super) keeper: Mutex<()>,
    /// For the keeper: a call has begun while it slept, or there is nothing left to keep. For who drains: none goes on.
    pub(super) begun: Condvar,
    pub(super) keeper_sleeps: AtomicBool,
    /// Turns that are being taken.
    pub(super) calls: AtomicUsize,
    /// No more are.
    draining: AtomicBool,
    /// In milliseconds.
    pub(super) deadline: AtomicU64,
}

#[derive(Default)]
pub(super) struct Threads {
    serving: usize,
    pub(super) keeper: bool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FuseServer {
    /// A server without mounts. A call is given up after the deadline.
    ///
    /// # Errors
    /// When the kernel has no descriptor for it.
    pub fn new(deadline: Duration) -> io::Result<FuseServer> {
        let shared = Shared {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            sessions: RwLock::default(),
            last: AtomicU64::new(WAKE),
            threads: Mutex::default(),
            idle: AtomicUsize::new(0),
            keeper: Mutex::default(),
            begun: Condvar::new(),
            keeper_sleeps: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            deadline: AtomicU64::new(0),
        };
        epoll::add(&shared.epoll, &shared.wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        let server = FuseServer(Arc::new(shared));
        server.set_deadline(deadline);
        Ok(server)
    }

    /// After how long a call is given up, from now on.
    pub fn set_deadline(&self, deadline: Duration) {
        let millis = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        self.0.deadline.store(millis, Ordering::Relaxed);
    }

    /// After how long a call is given up.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.0.deadline.load(Ordering::Relaxed))
    }

    /// Serves a mount on a connection that is mounted somewhere, or nowhere yet. `ready` is told once when it answers, or
    /// why it never will. From here on the connection keeps the mount; who else used it need not.
    ///
    /// # Errors
    /// When the descriptor is none of FUSE's, or no thread can be started: the connection and the mount are let go.
    pub fn serve(&self, device: OwnedFd, mount: MountRef, ready: Ready) -> io::Result<()> {
        if !fuse::is_device(&device) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the descriptor is not one of /dev/fuse"));
        }
        rustix::fs::fcntl_setfl(&device, OFlags::NONBLOCK)?;
        let shared = &self.0;
        let id = shared.last.fetch_add(1, Ordering::Relaxed) + 1;
        let engines: Arc<Mount> = Arc::clone(&mount);
        let session = Session::new(id, device, mount, ready);
        shared.write_sessions().insert(id, Arc::clone(&session));
        let started = shared.start(&session);
        if started.is_err() {
            shared.end(&session, "it cannot be served");
        }
        started?;
        let (server, session) = (Arc::downgrade(shared), Arc::downgrade(&session));
        engines.carried_by(Box::new(move || ended_from_inside(&server, &session)));
        Ok(())
    }

    /// Serves a mount on a connection that another process has served before. `unanswered`: it may have taken requests
    /// that it did not answer; the kernel hands them over again.
    ///
    /// # Errors
    /// As [`FuseServer::serve`]; where the mount has gone; and where the kernel cannot hand over again what it must.
    pub fn take_up(&self, device: OwnedFd, mount: MountRef, unanswered: bool) -> io::Result<()> {
        match rustix::io::write(&device, &fuse_wire::resend()) {
            Err(Errno::INVAL) if unanswered => {
                let what = "this kernel (before 6.9) does not hand over again what was not answered";
                return Err(io::Error::new(io::ErrorKind::Unsupported, what));
            }
            Ok(_) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        self.serve(device, mount, Box::new(|_| ()))
    }

    /// Takes no more requests, and waits until all that were taken are answered; they stay in the kernel's queues. `false`
    /// when the time is up first.
    #[must_use]
    pub fn drain(&self, at_most: Duration) -> bool {
        let shared = &self.0;
        shared.draining.store(true, Ordering::SeqCst);
        // Asked after that was said: who takes a turn from here on sees it, who took one before is counted.
        let going_on = |_: &mut ()| shared.calls.load(Ordering::SeqCst) > 0;
        let waited = shared.begun.wait_timeout_while(lock(&shared.keeper), at_most, going_on);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Drop for FuseServer {
    fn drop(&mut self) {
        let all: Vec<_> = self.0.read_sessions().values().cloned().collect();
        for session in all {
            self.0.end(&session, "the daemon is stopping");
        }
    }
}

fn ended_from_inside(server: &Weak<Shared>, session: &Weak<Session>) {
    if let (Some(server), Some(session)) = (server.upgrade(), session.upgrade()) {
        server.end(&session, "the mount was ended");
    }
}

impl Shared {
    pub(super) fn read_sessions(&self) -> std::sync::RwLockReadGuard<'_, HashMap<u64, Arc<Session>>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_sessions(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<u64, Arc<Session>>> {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens to a new session.
    fn start(self: &Arc<Self>, session: &Session) -> io::Result<()> {
        let listening = EventFlags::IN | EventFlags::ONESHOT;
        let added =
            session.with_device(|device| epoll::add(&self.epoll, device, EventData::new_u64(session.id), listening));
        added.unwrap_or(Err(Errno::NODEV))?;
        let mut threads = lock(&self.threads);
        if !threads.keeper {
            let keeper = Arc::clone(self);
            thread::Builder::new().name("fuse-keeper".into()).spawn(move || keeper.keep())?;
            threads.keeper = true;
        }
        drop(threads);
        if self.idle.load(Ordering::Relaxed) == 0 { self.start_thread() } else { Ok(()) }
    }

    fn start_thread(self: &Arc<Self>) -> io::Result<()> {
        let mut threads = lock(&self.threads);
        if threads.serving >= MOST + self.held() {
            return Ok(());
        }
        let server = Arc::clone(self);
        // Counted from now on, so that nobody starts another for the same reason.
        self.idle.fetch_add(1, Ordering::Relaxed);
        let started = thread::Builder::new().name("fuse".into()).spawn(move || server.work());
        match started {
            Ok(_) => threads.serving += 1,
            Err(_) => drop(self.idle.fetch_sub(1, Ordering::Relaxed)),
        }
        started.map(drop)
    }

    /// Calls that were given up and hold a thread each.
    fn held(&self) -> usize {
        self.read_sessions().values().map(|session| session.held()).sum()
    }

    /// Ends a session; nobody finds it any more.
    fn end(&self, session: &Session, why: &str) {
        session.with_device(|device| epoll::delete(&self.epoll, device));
        session.end(why);
        let mut sessions = self.write_sessions();
        sessions.remove(&session.id);
        let last = sessions.is_empty();
        drop(sessions);
        if last {
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
            self.wake_keeper();
        }
    }

    /// A thread's life. It begins as one that waits.
    fn work(self: Arc<Self>) {
        let mut buffer = vec![0; fuse_wire::BUFFER];
        let mut events: Vec<Event> = Vec::with_capacity(1);
        loop {
            let lingers = self.idle.load(Ordering::Relaxed) > IDLE;
            let waited = epoll::wait(&self.epoll, spare_capacity(&mut events), lingers.then_some(&LINGER));
            let event = events.pop().map(|event| event.data.u64());
            match (waited, event) {
                (Ok(_), Some(WAKE)) | (Ok(0), _) => {
                    if self.leaves(lingers) {
                        return;
                    }
                    // There is a mount again: nobody needs to look any more.
                    let _ = rustix::io::read(&self.wake, &mut [0; 8]);
                }
                (Ok(_), Some(id)) => {
                    self.idle.fetch_sub(1, Ordering::Relaxed);
                    let session = self.read_sessions().get(&id).cloned();
                    if let Some(session) = session {
                        self.take_counted_turn(&session, &mut buffer);
                    }
                    self.idle.fetch_add(1, Ordering::Relaxed);
                }
                (Err(Errno::INTR), _) | (Ok(_), None) => {}
                (Err(error), _) => {
                    tracing::error!(
                        message_id = catalog::OWN_MISTAKE,
                        errno = error.raw_os_error(),
                        "a thread that serves mounts ends: epoll: {error}"
                    );
                    self.idle.fetch_sub(1, Ordering::Relaxed);
                    lock(&self.threads).serving -= 1;
                    return;
                }
            }
        }
    }

    /// Whether a thread that has waited long enough, or was woken to look, is needed no more.
    fn leaves(&self, lingered: bool) -> bool {
        let mut threads = lock(&self.threads);
        let no_mount = self.read_sessions().is_empty();
        let too_many = lingered && self.idle.load(Ordering::Relaxed) > IDLE;
        if !no_mount && !too_many {
            return false;
        }
        threads.serving -= 1;
        self.idle.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// Takes a turn, unless no more are taken: the keeper looks after it, and who drains waits for it.
    fn take_counted_turn(self: &Arc<Self>, session: &Arc<Session>, buffer: &mut [u8]) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.keeper_sleeps.load(Ordering::SeqCst) {
            self.wake_keeper();
        }
        if !self.draining.load(Ordering::SeqCst) {
            self.take_turn(session, buffer);
        }
        let was_last = self.calls.fetch_sub(1, Ordering::SeqCst) == 1;
        if was_last && self.draining.load(Ordering::SeqCst) {
            self.wake_keeper();
        }
    }

    /// Takes one request off a session and carries it out.
    fn take_turn(self: &Arc<Self>, session: &Arc<Session>, buffer: &mut [u8]) {
        let len = match session.receive(buffer) {
            Ok(len) => len,
            // Nothing there, or it was withdrawn meanwhile.
            Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => return self.listen(session),
            Err(error) => {
                // The mount's end is the file system's code, which may take its time.
                self.need_a_listener();
                let why = match error {
                    Errno::NODEV => "it was unmounted before it could be used".to_owned(),
                    error => format!("the connection cannot be read: {error}"),
                };
                return self.end(session, &why);
            }
        };
        self.listen(session);
        let (header, operation) = match fuse_wire::parse(&buffer[..len]) {
            Ok(request) => request,
            Err(error) => {
                let mount = session.mount();
                let (fs, target) = (&*mount.fs.name, &*mount.request.target);
                tracing::error!(
                    message_id = catalog::MOUNT_DEAD,
                    fs,
                    target,
                    "the mount of {fs} on {target} is given up: {error}"
                );
                return self.end(session, "the kernel is not understood");
            }
        };
        if Session::may_wait(&operation) {
            self.need_a_listener();
        }
        // A panic of pernetd's own is `EIO` to who asked; a plugin's stops in the plugin.
        if catch_unwind(AssertUnwindSafe(|| session.carry_out(header, operation))).is_err() {
            let fs = &*session.mount().fs.name;
            tracing::error!(
                message_id = catalog::OWN_MISTAKE,
                fs,
                "pernetd itself panicked in a file operation of {fs}"
            );
        }
    }

    /// Sees to it that somebody waits for requests, where there may be another thread.
    pub(super) fn need_a_listener(self: &Arc<Self>) {
        if self.idle.load(Ordering::Relaxed) == 0
            && let Err(error) = self.start_thread()
        {
            tracing::error!(
                message_id = catalog::THREADS_EXHAUSTED,
                errno = error.raw_os_error(),
                "no other thread can be started for mounts: {error}; they wait for each other's calls"
            );
        }
    }

    /// The next request of a session is for whoever is idle.
    fn listen(&self, session: &Session) {
        let listening = EventFlags::IN | EventFlags::ONESHOT;
        session.with_device(|device| epoll::modify(&self.epoll, device, EventData::new_u64(session.id), listening));
    }
}
