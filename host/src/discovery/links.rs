//! Link events of all subscribed namespaces by one socket. What `NETLINK_LISTEN_ALL_NSID` is to the kernel, this is to
//! the daemon.
//!
//! Owns a reader thread in a network namespace of its own, where the ids that it assigns to subscribed namespaces are
//! in nobody's way, and the table of these ids; what the thread does is `link_reader.rs`'s. It compares nothing and
//! remembers no device: every message becomes one [`LinkEvent`], and after a loss the daemon dumps. Whoever changes a
//! device himself marks the place in the stream ([`LinkSource::fence`]), to know which events are older than that.
//!
//! A listener costs every sender of link events on the host, and an id, once assigned, lives as long as its namespace.
//! So the thread, its namespace and its sockets exist only while somebody is subscribed; the next time begins with a
//! new namespace and no ids.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use pernet_plugin_api::NetCookie;

use super::link_reader::Reader;
use super::link_socket::{LinkSocket, leave_for_private_namespace};
use super::nsid;
use crate::engine::Link;
use crate::netlink::{NetlinkError, Requests};

/// What the kernel said of a device, or that it said more than we could hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// A device is there, and this is what it looks like now.
    Seen {
        /// Its namespace.
        cookie: NetCookie,
        /// The [`Subscription::number`] under which it was heard.
        subscription: u64,
        /// The number of the last [`LinkSource::fence`] before it.
        fence: u64,
        /// The device.
        link: Link,
    },
    /// A device is gone: deleted, or moved to another namespace.
    Gone {
        /// Its namespace.
        cookie: NetCookie,
        /// The [`Subscription::number`] under which it was heard.
        subscription: u64,
        /// The number of the last [`LinkSource::fence`] before it.
        fence: u64,
        /// Its index there.
        ifindex: u32,
        /// Where it was moved, if it was: an id that means something inside this namespace only, and its index there.
        moved: Option<(i32, u32)>,
    },
    /// Events were lost, of which namespace nobody knows: dump every subscribed one. All that was sent before is older
    /// than such a dump.
    Overrun,
}

/// That a namespace is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The id of the namespace in the listener's private namespace.
    pub nsid: i32,
    /// Never reused, and in each event. An event that waited in a queue while its namespace was unsubscribed and
    /// subscribed again is older than the dump that followed: it has an old number, and must be dropped.
    pub number: u64,
}

/// Where batches of events go. Called on the reader thread, without locks but its own: it may block, but the kernel's
/// queue fills meanwhile.
pub type SendBatch = Box<dyn Fn(Vec<LinkEvent>) + Send>;

/// The source of link events: closed until the first subscription and after the last.
pub struct LinkSource {
    receive_buffer: usize,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

pub(super) struct Shared {
    pub(super) send: Mutex<SendBatch>,
    pub(super) resyncs: AtomicU64,
    /// The highest number of a fence that found the reader's queue full.
    pub(super) missed: AtomicU64,
}

#[derive(Default)]
struct State {
    listener: Option<Listener>,
    subscriptions: u64,
    /// The number of the last fence, whoever listened then.
    fences: u64,
}

/// The near end of a reader thread. Dropping it ends the thread, and with it the sockets and their namespace.
struct Listener {
    requests: Requests,
    next_nsid: i32,
    table: Arc<Mutex<Table>>,
    stop: Arc<AtomicBool>,
    /// Of the reader's socket.
    port: u32,
}

#[derive(Default)]
pub(super) struct Table {
    pub(super) by_nsid: HashMap<i32, (NetCookie, u64)>,
    by_cookie: HashMap<NetCookie, Subscription>,
}

impl LinkSource {
    /// A source that gives its socket a receive buffer of so many bytes, and batches of events to `send`. Opens
    /// nothing yet.
    #[must_use]
    pub fn start(receive_buffer: usize, send: SendBatch) -> Arc<Self> {
        let shared = Arc::new(Shared { send: Mutex::new(send), resyncs: AtomicU64::new(0), missed: AtomicU64::new(0) });
        Arc::new(LinkSource { receive_buffer, shared, state: Mutex::default() })
    }

    /// Listens to the namespace `netns`, whose cookie is `cookie`. What changes there after the return comes as
    /// events: so dump now. A namespace that is subscribed already keeps its subscription.
    pub fn subscribe(&self, cookie: NetCookie, netns: BorrowedFd<'_>) -> Result<Subscription, NetlinkError> {
        let mut state = lock(&self.state);
        if let Some(known) = state.subscription(cookie) {
            return Ok(known);
        }
        let mut listener = match state.listener.take() {
            Some(listener) => listener,
            None => Listener::start(self.receive_buffer, &self.shared, state.fences)?,
        };
        state.subscriptions += 1;
        let subscribed = listener.subscribe(cookie, netns, state.subscriptions);
        state.keep_if_needed(listener);
        subscribed
    }

    /// Stops listening to a namespace; after the last one the socket is closed.
    pub fn unsubscribe(&self, cookie: NetCookie) {
        let mut state = lock(&self.state);
        if let Some(listener) = state.listener.take() {
            lock(&listener.table).remove(cookie);
            state.keep_if_needed(listener);
        }
    }

    /// The current subscription of a namespace, if it has one.
    pub fn subscription(&self, cookie: NetCookie) -> Option<Subscription> {
        lock(&self.state).subscription(cookie)
    }

    /// Sets a mark at this place of the stream, and says its number: what was told before is in events with lower ones,
    /// and events with this number or a higher one tell of later. So who changed a device, and then sets a fence, knows
    /// which of its events are older than what he knows. 0: nobody is subscribed, and no event will come.
    ///
    /// Where the reader's queue is full, the mark is lost with what else is lost then: an [`LinkEvent::Overrun`] follows,
    /// and what is read after it counts as later than the mark. Never waits.
    pub fn fence(&self) -> u64 {
        let mut state = lock(&self.state);
        if state.listener.is_none() {
            return 0;
        }
        state.fences += 1;
        // 0 on the wire is the end's nudge.
        state.fences += u64::from(on_the_wire(state.fences) == 0);
        if let Some(listener) = &state.listener {
            listener.fence(state.fences, &self.shared);
        }
        state.fences
    }

    /// The number of the last fence: what a dump that begins now shows is not older than that.
    pub fn last_fence(&self) -> u64 {
        lock(&self.state).fences
    }

    /// Whether the socket is open, and so costs the senders on this host.
    pub fn listening(&self) -> bool {
        lock(&self.state).listener.is_some()
    }

    /// How often [`LinkEvent::Overrun`] was sent.
    pub fn resyncs(&self) -> u64 {
        self.shared.resyncs.load(Ordering::Relaxed)
    }
}

impl State {
    fn subscription(&self, cookie: NetCookie) -> Option<Subscription> {
        lock(&self.listener.as_ref()?.table).by_cookie.get(&cookie).copied()
    }

    fn keep_if_needed(&mut self, listener: Listener) {
        let needed = !lock(&listener.table).by_cookie.is_empty();
        self.listener = needed.then_some(listener);
    }
}

impl Listener {
    fn start(receive_buffer: usize, shared: &Arc<Shared>, fence: u64) -> Result<Self, NetlinkError> {
        let doing = "start listening for link events";
        let (stop, table, shared) = (Arc::default(), Arc::default(), Arc::clone(shared));
        let (opened, opening) = crossbeam_channel::bounded(1);
        let reader = {
            let (stop, table) = (Arc::clone(&stop), Arc::clone(&table));
            move |socket| Reader { socket, stop, table, shared, fence, lost_since: None }.run()
        };
        thread::Builder::new()
            .name("links".into())
            .spawn(move || match open(receive_buffer) {
                // Whoever waits is still there: it holds the lock under which it waits.
                Ok((socket, requests)) => opened.send(Ok((requests, socket.port()))).map(|()| reader(socket)),
                Err(e) => opened.send(Err(e)),
            })
            .map_err(|e| NetlinkError::from_io(doing, &e))?;
        let panicked = |_| NetlinkError::from_io(doing, &io::Error::other("")).advise("its thread panicked");
        let (requests, port) = opening.recv().map_err(panicked)??;
        Ok(Listener { requests, next_nsid: 0, table, stop, port })
    }

    fn subscribe(
        &mut self,
        cookie: NetCookie,
        netns: BorrowedFd<'_>,
        number: u64,
    ) -> Result<Subscription, NetlinkError> {
        let subscription = Subscription { nsid: self.assign(netns)?, number };
        // What the reader hears between the assignment and this line it drops, and may: it is older than the dump that
        // the caller will make.
        lock(&self.table).insert(cookie, subscription);
        Ok(subscription)
    }

    /// Gives the namespace an id that none had before, so that an id means the same at every place of the stream; or
    /// takes the one that it has.
    fn assign(&mut self, netns: BorrowedFd<'_>) -> Result<i32, NetlinkError> {
        loop {
            let wanted = self.next_nsid;
            self.next_nsid = wanted.saturating_add(1);
            match nsid::assign(&mut self.requests, netns, wanted) {
                Ok(()) => return Ok(wanted),
                Err(e) if e.errno == libc::EEXIST && wanted < i32::MAX => {}
                Err(e) => return Err(e),
            }
            if let Some(known) = nsid::query(&mut self.requests, netns)? {
                return Ok(known);
            }
        }
    }
}

impl Listener {
    fn fence(&self, number: u64, shared: &Shared) {
        if self.requests.nudge(self.port, on_the_wire(number)) {
            return;
        }
        shared.missed.fetch_max(number, Ordering::SeqCst);
        // Once more: the reader may have emptied its queue, looked for misses and begun to wait in the meantime. If this
        // one fails too, there is something to read still, and it looks afterwards.
        let _ = self.requests.nudge(self.port, on_the_wire(number));
    }
}

/// The part of a fence's number for which a message has room. The reader counts on from the last one.
#[allow(clippy::cast_possible_truncation)]
pub(super) fn on_the_wire(number: u64) -> u32 {
    number as u32
}

impl Drop for Listener {
    fn drop(&mut self) {
        // In this order: whatever the reader wakes up for, it looks afterwards.
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.requests.nudge(self.port, 0);
    }
}

impl Table {
    fn insert(&mut self, cookie: NetCookie, subscription: Subscription) {
        self.by_nsid.insert(subscription.nsid, (cookie, subscription.number));
        self.by_cookie.insert(cookie, subscription);
    }

    fn remove(&mut self, cookie: NetCookie) {
        if let Some(subscription) = self.by_cookie.remove(&cookie) {
            self.by_nsid.remove(&subscription.nsid);
        }
    }

    /// The id's namespace died: whoever has the id from here on is another one.
    pub(super) fn retire(&mut self, nsid: i32) {
        if let Some((cookie, _)) = self.by_nsid.remove(&nsid) {
            self.by_cookie.remove(&cookie);
        }
    }
}

fn open(receive_buffer: usize) -> Result<(LinkSocket, Requests), NetlinkError> {
    leave_for_private_namespace()?;
    let requests = Requests::open()?;
    Ok((LinkSocket::open(receive_buffer)?, requests))
}

/// A panic of another thread leaves nothing half done behind these locks.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
