//! The server: lets clients in, keeps their number within bounds, sees when they go, and ends.
//!
//! One thread waits for newcomers and for hang-ups and never does anything that takes time. Each connection has a
//! thread of its own, for which a slow or silent client is nobody else's business.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use super::RequestSink;
use super::access::{Need, Peer, Readers};
use super::connection::{self, Connection};
use super::monitor::Monitor;
use super::request::{ControlError, LeaseId, Request};
use super::socket::Door;
use crate::config::ControlRead;
use crate::logging::catalog;

/// What a client may take of the daemon.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Bytes of a message.
    pub message_bytes: usize,
    /// Time from a message's first byte to its last.
    pub half_message: Duration,
    /// Time without a message.
    pub idle: Duration,
    /// Time for a client to take a reply.
    pub write: Duration,
    /// Time for the daemon to answer what needs no hook to run.
    pub answer: Duration,
    /// Time for the client of an add to bind the name.
    pub lease: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 512,
            message_bytes: 1 << 20,
            half_message: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            write: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            lease: Duration::from_secs(60),
        }
    }
}

/// What connections share.
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) monitor: Arc<Monitor>,
    requests: RequestSink,
    readers: RwLock<Readers>,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    next: AtomicU64,
    epoll: OwnedFd,
    wake: OwnedFd,
    stopping: AtomicBool,
}

/// The running server; dropping it ends it.
pub struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Marks of the two descriptors in the epoll set that are no connections.
const LISTENER: u64 = 0;
const WAKE: u64 = 1;

/// How long newcomers wait when there are no descriptors left for them.
const BREATHER: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// JSON of any depth that serde_json takes (128) fits, in a debug build too.
pub(super) const STACK: usize = 512 * 1024;

/// Plugins' handlers of sysctls run on a connection's thread: as much as a thread has by default.
const PEER_STACK: usize = 2 * 1024 * 1024;

impl Server {
    /// Opens the door to clients.
    ///
    /// # Errors
    /// When a thread or descriptor cannot be had.
    pub fn start(
        door: Door,
        read: &ControlRead,
        limits: Limits,
        monitor: Arc<Monitor>,
        requests: RequestSink,
    ) -> io::Result<Server> {
        let shared = Arc::new(Shared {
            limits,
            monitor,
            requests,
            readers: RwLock::new(Readers::resolve(read)?),
            connections: Mutex::default(),
            next: AtomicU64::new(WAKE + 1),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            stopping: AtomicBool::new(false),
        });
        door.listener.set_nonblocking(true)?;
        epoll::add(&shared.epoll, &door.listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        epoll::add(&shared.epoll, &shared.wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        let server = Arc::clone(&shared);
        let run = move || server.run(&door);
        let thread = thread::Builder::new().name("control".into()).stack_size(STACK).spawn(run)?;
        Ok(Server { shared, thread: Some(thread) })
    }

    /// Who may read from now on, for connections that are open already too.
    ///
    /// # Errors
    /// When the group database cannot be asked; then nothing has changed.
    pub fn set_read(&self, read: &ControlRead) -> io::Result<()> {
        let readers = Readers::resolve(read)?;
        *self.shared.readers.write().unwrap_or_else(PoisonError::into_inner) = readers;
        Ok(())
    }

    /// The group of `control.read`, if there is no such group: worth a warning, since nobody is in it.
    #[must_use]
    pub fn missing_group(&self) -> Option<String> {
        match &*self.shared.readers.read().unwrap_or_else(PoisonError::into_inner) {
            Readers::Group { name, id: None } => Some(name.clone()),
            _ => None,
        }
    }
}

impl Drop for Server {
    /// Closes the door and every connection. Requests on their way are answered to nobody.
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The accept loop.
    fn run(self: &Arc<Self>, door: &Door) {
        let mut events = Vec::with_capacity(64);
        let mut resting = false;
        while !self.stopping.load(Ordering::Acquire) {
            let timeout = resting.then_some(&BREATHER);
            if let Err(e) = epoll::wait(&self.epoll, spare_capacity(&mut events), timeout) {
                if e != rustix::io::Errno::INTR {
                    tracing::error!(
                        message_id = catalog::CONTROL_CLOSED,
                        errno = e.raw_os_error(),
                        "the control socket is closed: epoll: {e}; restart pernetd to open it again"
                    );
                    break;
                }
                continue;
            }
            let newcomers = events.iter().any(|e: &epoll::Event| e.data.u64() == LISTENER);
            for event in events.drain(..).filter(|e| e.data.u64() > WAKE) {
                self.hung_up(event.data.u64());
            }
            if newcomers || resting {
                let refused = self.accept_all(door).err();
                let exhausted = refused.is_some();
                if let (Some(e), false) = (refused, resting) {
                    tracing::error!(
                        message_id = catalog::DESCRIPTORS_EXHAUSTED,
                        errno = e.raw_os_error(),
                        "a control connection could not be taken: {e}; raise the limit of open files (LimitNOFILE=)"
                    );
                }
                if exhausted != resting {
                    self.listen(door, !exhausted);
                }
                resting = exhausted;
            }
        }
        for connection in self.table().values() {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }

    /// Without descriptors the listener would be ready for ever: look away for a moment instead of spinning.
    fn listen(&self, door: &Door, on: bool) {
        let flags = if on { EventFlags::IN } else { EventFlags::empty() };
        let _ = epoll::modify(&self.epoll, &door.listener, EventData::new_u64(LISTENER), flags);
    }

    /// Lets in whoever waits; an error when there is nothing left to let them in with.
    fn accept_all(self: &Arc<Self>, door: &Door) -> io::Result<()> {
        loop {
            match door.listener.accept() {
                Ok((stream, _)) => {
                    if let Err(e) = self.admit(stream) {
                        tracing::debug!("a control connection was turned away: {e}");
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
                Err(e) => {
                    self.make_room(true);
                    return Err(e);
                }
            }
        }
    }

    /// A connection's thread; its client's going is watched for from the start.
    fn admit(self: &Arc<Self>, stream: UnixStream) -> io::Result<()> {
        let peer = Peer::of(&stream)?;
        stream.set_write_timeout(Some(self.limits.write))?;
        if self.table().len() >= self.limits.connections && !self.make_room(peer.is_privileged()) {
            return Err(io::Error::other("all connections are in use"));
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(id, stream, peer));
        // Only a hang-up is of interest, and it is reported whatever is asked for; once.
        epoll::add(&self.epoll, connection.stream.as_fd(), EventData::new_u64(id), EventFlags::ONESHOT)?;
        self.table().insert(id, Arc::clone(&connection));
        let shared = Arc::clone(self);
        let run = move || {
            connection::serve(&connection, &shared);
            shared.forget(&connection);
        };
        let spawned = thread::Builder::new().name("control-peer".into()).stack_size(PEER_STACK).spawn(run);
        spawned.map(drop).inspect_err(|_| drop(self.table().remove(&id)))
    }

    fn forget(&self, connection: &Connection) {
        let _ = epoll::delete(&self.epoll, connection.stream.as_fd());
        self.table().remove(&connection.id);
    }

    fn hung_up(&self, id: u64) {
        if let Some(connection) = self.table().get(&id) {
            connection.hung_up();
        }
    }

    /// Closes the connection that was idle longest, of those without privilege if there is one; if none is idle, a
    /// privileged newcomer displaces the oldest of those without. Nobody displaces one with more privilege than his
    /// own. False if nobody had to go.
    fn make_room(&self, privileged: bool) -> bool {
        let table = self.table();
        let lesser = |c: &&Arc<Connection>| privileged || !c.peer.is_privileged();
        let idle = table.values().filter(lesser).filter_map(|c| Some(((c.peer.is_privileged(), c.idle_since()?), c)));
        let unprivileged = || table.values().filter(|c| privileged && !c.peer.is_privileged()).min_by_key(|c| c.id);
        let leaving = idle.min_by_key(|(rank, _)| *rank).map(|(_, c)| c).or_else(unprivileged);
        let Some(connection) = leaving.cloned() else { return false };
        drop(table);
        // Its thread ends by itself; the place in the table is free at once, so that a burst closes no more than it is.
        let _ = connection.stream.shutdown(Shutdown::Both);
        self.table().remove(&connection.id);
        connection.hung_up();
        true
    }

    fn table(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges a peer for a method.
    pub(super) fn judge(&self, peer: &Peer, need: Need, method: &str) -> Result<(), ControlError> {
        self.readers.read().unwrap_or_else(PoisonError::into_inner).judge(peer, need, method)
    }

    /// Hands a request to the daemon.
    pub(super) fn request(&self, request: Request) {
        (self.requests)(request);
    }

    /// A lease that no other add of this daemon has had.
    pub(super) fn new_lease(&self) -> LeaseId {
        LeaseId(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// A point in time from now; far enough is never.
pub(super) fn after(duration: Duration) -> Option<Instant> {
    Instant::now().checked_add(duration)
}
