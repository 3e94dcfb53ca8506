//! The thread that announces: for each device that became able to speak, so many times, at intervals.
//!
//! It is at home, and acts in namespaces by the sockets that were made in them. Owns what is to be announced still.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pernet_plugin_api::prelude::*;

use crate::frame::{self, Mac};
use crate::route;
use crate::schedule::{Key, Schedule};
use crate::space::{Sockets, Space};

/// So long is a device looked at for addresses that are being checked for duplicates: the kernel takes two seconds for it
/// unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

/// A device that loses its carrier for a moment is not announced twice in a moment (RFC 4861 wants a second between two).
const GAP: Duration = Duration::from_secs(1);

/// An hour: nothing is due sooner.
const IDLE: Duration = Duration::from_secs(3600);

/// A device that is being announced.
struct Task {
    space: Arc<Space>,
    ifindex: u32,
    /// By which it was to be announced; it may have another by now.
    mac: Mac,
    since: Instant,
    /// How often it was looked at.
    rounds: u32,
    /// How often each address was announced.
    told: HashMap<IpAddr, u32>,
}

struct State {
    tasks: Schedule<Task>,
    /// What the thread is at, until it is withdrawn.
    running: Option<Key>,
    /// When each device was announced last, and as what.
    last: BTreeMap<Key, (Instant, Mac)>,
    stopping: bool,
}

/// What is left to announce of a device, as far as one can see.
#[derive(Clone, Copy)]
enum Left {
    None,
    /// An address that has to wait.
    Tentative,
    /// One that came later than the others.
    Some,
}

/// Announces, until it is stopped.
pub(crate) struct Announcer {
    state: Mutex<State>,
    /// Something is due earlier, or it stops.
    wake: Condvar,
    host: Host,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Announcer {
    /// Starts the thread; called at home, where it stays.
    pub(crate) fn start(host: &Host) -> Result<Arc<Self>> {
        let state = Mutex::new(State { tasks: Schedule::new(), running: None, last: BTreeMap::new(), stopping: false });
        let (wake, host, thread) = (Condvar::new(), host.clone(), Mutex::new(None));
        let announcer = Arc::new(Announcer { state, wake, host, thread });
        let me = Arc::clone(&announcer);
        let run = move || me.host.clone().attribute(|| me.run());
        let started = thread::Builder::new().name("neighbour".into()).spawn(run)?;
        *announcer.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
        Ok(announcer)
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(&self) {
        self.lock().stopping = true;
        self.wake.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that announces had panicked");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a device by this address from now on, anew if it is being announced already.
    pub(crate) fn begin(&self, space: &Arc<Space>, ifindex: u32, serial: u64, mac: Mac) {
        let (key, now) = ((space.cookie.0, serial), Instant::now());
        let task = Task { space: Arc::clone(space), ifindex, mac, since: now, rounds: 0, told: HashMap::new() };
        let mut state = self.lock();
        let last = state.last.get(&key).filter(|(_, told)| *told == mac);
        let at = last.map_or(now, |(last, _)| now.max(*last + GAP.min(space.knobs.interval())));
        state.tasks.put(key, at, task);
        drop(state);
        self.wake.notify_all();
    }

    /// Nothing of this device is remembered.
    pub(crate) fn forget(&self, cookie: NetCookie, serial: u64) {
        self.lock().last.remove(&(cookie.0, serial));
    }

    /// No more of this device.
    pub(crate) fn withdraw(&self, space: &Space, serial: u64) {
        let key = (space.cookie.0, serial);
        let mut state = self.lock();
        state.running.take_if(|running| *running == key);
        state.tasks.take(key);
        if !state.tasks.has_in(key.0) {
            space.close();
        }
    }

    /// No more in this namespace.
    pub(crate) fn withdraw_all(&self, cookie: NetCookie) {
        let mut state = self.lock();
        state.running.take_if(|running| running.0 == cookie.0);
        state.tasks.take_in(cookie.0);
        let keys: Vec<Key> = state.last.range((cookie.0, 0)..=(cookie.0, u64::MAX)).map(|(key, _)| *key).collect();
        keys.iter().for_each(|key| {
            state.last.remove(key);
        });
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.stopping {
            let now = Instant::now();
            let Some((key, mut task)) = state.tasks.pop(now) else {
                let wait = state.tasks.next().map_or(IDLE, |next| next.saturating_duration_since(now));
                state = self.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            };
            state.running = Some(key);
            drop(state);
            let goes_on = self.announce(&mut task);
            let told = (Instant::now(), task.mac);
            let space = Arc::clone(&task.space);
            state = self.lock();
            // It may have been withdrawn meanwhile, or begun anew.
            let goes_on = state.running.take().is_some_and(|key| {
                state.last.insert(key, told);
                goes_on
            });
            if goes_on && !state.tasks.has(key) {
                let next = Instant::now() + space.knobs.interval();
                state.tasks.put(key, next, task);
            }
            if !state.tasks.has_in(key.0) {
                // Nobody is in the way: a hook that begins now finds them closed, and the next round opens them.
                space.close();
            }
        }
    }

    /// One round; whether there is to be another.
    fn announce(&self, task: &mut Task) -> bool {
        let space = Arc::clone(&task.space);
        let (cookie, count) = (space.cookie, space.knobs.count());
        let opened = space.open(|family, kind| self.host.sock_create(cookie, family, kind, 0));
        let left = opened.and_then(|()| space.with(|sockets| task.round(sockets, count)).unwrap_or(Ok(None)));
        task.rounds += 1;
        match left {
            // It is gone, down, or not meant any more: it begins anew if that changes.
            Ok(None) => false,
            Ok(Some(Left::None)) => task.rounds < count,
            Ok(Some(Left::Tentative)) => task.rounds < count || task.since.elapsed() < PATIENCE,
            Ok(Some(Left::Some)) => true,
            Err(error) => {
                tracing::warn!(ifindex = task.ifindex, net = cookie.0, "cannot announce addresses: {error}");
                false
            }
        }
    }
}

impl Task {
    /// Announces each address that the device has now and that was not announced so many times yet. Says what is left then;
    /// nothing of a device that is not to be announced.
    fn round(&mut self, sockets: &Sockets, count: u32) -> Result<Option<Left>> {
        let Some(link) = route::link(&sockets.route, self.ifindex)? else { return Ok(None) };
        let Some(mac) = link.speaks.filter(|_| self.space.knobs.means(&link.name)) else { return Ok(None) };
        let found = route::addresses(&sockets.route, self.ifindex)?;
        let mut left = if found.tentative > 0 { Left::Tentative } else { Left::None };
        let v4 = found.v4.into_iter().map(IpAddr::V4);
        for address in v4.chain(found.v6.into_iter().map(IpAddr::V6)) {
            let told = self.told.entry(address).or_default();
            if *told < count {
                send(&sockets.packet, self.ifindex, mac, address, link.is_router)?;
                tracing::debug!(device = link.name, "announced {address}");
                *told += 1;
            }
            left = if *told < count { Left::Some } else { left };
        }
        Ok(Some(left))
    }
}

fn send(socket: &Socket, ifindex: u32, mac: Mac, address: IpAddr, is_router: bool) -> Result<()> {
    match address {
        IpAddr::V4(address) => socket.send_frame(ifindex, frame::ARP, &frame::arp_announcement(mac, address)),
        IpAddr::V6(address) => {
            socket.send_frame(ifindex, frame::IPV6, &frame::neighbour_advertisement(mac, address, is_router))
        }
    }
}

impl fmt::Debug for Announcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcer").finish_non_exhaustive()
    }
}
