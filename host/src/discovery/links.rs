//! Link events of all subscribed namespaces by one socket. What `NETLINK_LISTEN_ALL_NSID` is to the kernel, this is to
//! the daemon.
//!
//! Owns a reader thread in a network namespace of its own, where the ids that it assigns to subscribed namespaces are
//! in nobody's way, and the table of these ids. It compares nothing and remembers no device: every message becomes one
//! [`LinkEvent`], and after a loss the daemon dumps.
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
use std::time::{Duration, Instant};

use pernet_plugin_api::NetCookie;

use super::link_socket::{Datagram, LinkSocket, Received, leave_for_private_namespace};
use super::nsid;
use crate::engine::Link;
use crate::netlink::{NetlinkError, Requests, link, messages};

/// Datagrams to one batch: bounds what a flood keeps from the loop, and the memory of one batch.
const BATCH: usize = 1024;

/// After a loss the queue is emptied before anybody dumps, since messages queued before the dump are older than it. A
/// flood can make that long; then a resync goes ahead in between, and another one follows at the end.
const DRAIN: Duration = Duration::from_millis(500);

/// What the kernel said of a device, or that it said more than we could hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// A device is there, and this is what it looks like now.
    Seen {
        /// Its namespace.
        cookie: NetCookie,
        /// The [`Subscription::number`] under which it was heard.
        subscription: u64,
        /// The device.
        link: Link,
    },
    /// A device is gone: deleted, or moved to another namespace.
    Gone {
        /// Its namespace.
        cookie: NetCookie,
        /// The [`Subscription::number`] under which it was heard.
        subscription: u64,
        /// Its index there.
        ifindex: u32,
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

struct Shared {
    send: Mutex<SendBatch>,
    resyncs: AtomicU64,
}

#[derive(Default)]
struct State {
    listener: Option<Listener>,
    subscriptions: u64,
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
struct Table {
    by_nsid: HashMap<i32, (NetCookie, u64)>,
    by_cookie: HashMap<NetCookie, Subscription>,
}

impl LinkSource {
    /// A source that gives its socket a receive buffer of so many bytes, and batches of events to `send`. Opens
    /// nothing yet.
    #[must_use]
    pub fn start(receive_buffer: usize, send: SendBatch) -> Arc<Self> {
        let shared = Arc::new(Shared { send: Mutex::new(send), resyncs: AtomicU64::new(0) });
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
            None => Listener::start(self.receive_buffer, &self.shared)?,
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
    fn start(receive_buffer: usize, shared: &Arc<Shared>) -> Result<Self, NetlinkError> {
        let doing = "start listening for link events";
        let (stop, table, shared) = (Arc::default(), Arc::default(), Arc::clone(shared));
        let (opened, opening) = crossbeam_channel::bounded(1);
        let reader = {
            let (stop, table) = (Arc::clone(&stop), Arc::clone(&table));
            move |socket| Reader { socket, stop, table, shared, lost_since: None }.run()
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

impl Drop for Listener {
    fn drop(&mut self) {
        // In this order: whatever the reader wakes up for, it looks afterwards.
        self.stop.store(true, Ordering::SeqCst);
        self.requests.nudge(self.port);
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
    fn retire(&mut self, nsid: i32) {
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

/// The far end: reads, translates, sends.
struct Reader {
    socket: LinkSocket,
    stop: Arc<AtomicBool>,
    table: Arc<Mutex<Table>>,
    shared: Arc<Shared>,
    /// Set from a loss until the queue has been empty once.
    lost_since: Option<Instant>,
}

impl Reader {
    fn run(mut self) {
        while !self.stop.load(Ordering::SeqCst) {
            self.read_batch();
        }
    }

    fn read_batch(&mut self) {
        let mut events = Vec::new();
        let drained = self.drain(&mut events);
        let overdue = self.lost_since.is_some_and(|since| since.elapsed() >= DRAIN);
        if self.lost_since.is_some() && (drained || overdue) {
            self.lost_since = (!drained).then(Instant::now);
            self.shared.resyncs.fetch_add(1, Ordering::Relaxed);
            events.push(LinkEvent::Overrun);
        }
        if !events.is_empty() {
            lock(&self.shared.send)(events);
        }
    }

    /// Waits for something, then reads until nothing is queued (true), or the batch is full.
    fn drain(&mut self, events: &mut Vec<LinkEvent>) -> bool {
        let mut read = 0;
        while read < BATCH {
            // After a loss there is no waiting before the queue was found empty, and the loss reported.
            match self.socket.receive(read == 0 && self.lost_since.is_none()) {
                Received::Empty => return true,
                Received::Lost => {
                    self.lost_since.get_or_insert_with(Instant::now);
                    read += 1;
                }
                Received::Datagrams(count) => {
                    let whole = translate(self.socket.datagrams(), &mut lock(&self.table), events);
                    if !whole {
                        self.lost_since.get_or_insert_with(Instant::now);
                    }
                    // Saves the call that would say so. After a loss it has to be said: an error may hide behind the
                    // short count.
                    if count < LinkSocket::FULL && self.lost_since.is_none() {
                        return true;
                    }
                    read += count;
                }
            }
        }
        false
    }
}

/// Appends what the datagrams say of subscribed namespaces; false if one of them was cut off.
fn translate<'a>(
    datagrams: impl Iterator<Item = Option<Datagram<'a>>>,
    table: &mut Table,
    events: &mut Vec<LinkEvent>,
) -> bool {
    let mut whole = true;
    for datagram in datagrams {
        let Some(Datagram { nsid, bytes }) = datagram else {
            whole = false;
            continue;
        };
        for message in messages(bytes) {
            match nsid {
                Some(nsid) => {
                    let Some(&(cookie, subscription)) = table.by_nsid.get(&nsid) else { continue };
                    events.extend(event(cookie, subscription, message.message_type(), message.payload()));
                }
                // Of the private namespace itself only the end of an id is of interest.
                None if message.message_type() == nsid::DELNSID => {
                    nsid::parse(message.payload()).into_iter().for_each(|nsid| table.retire(nsid));
                }
                None => {}
            }
        }
    }
    whole
}

fn event(cookie: NetCookie, subscription: u64, message_type: u16, payload: &[u8]) -> Option<LinkEvent> {
    match message_type {
        link::NEWLINK => Some(LinkEvent::Seen { cookie, subscription, link: link::parse(payload)? }),
        link::DELLINK => Some(LinkEvent::Gone { cookie, subscription, ifindex: link::ifindex(payload)? }),
        _ => None,
    }
}

/// A panic of another thread leaves nothing half done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
