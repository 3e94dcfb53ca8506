//! The managed namespaces: from an observed name to a setup, from the last name's end to the exits, and the retries.
//!
//! Everything here is the loop's; what acts inside a namespace is a job for the workers. A job that calls hooks holds
//! a read token of the pernet list, taken before it is queued; while an operation has the list for itself such jobs
//! are held back here, in order.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pernet_plugin_api::{ExitReason, NetCookie};

use crate::discovery::{Batch, NamedNs, Observation};
use crate::engine::{self, HookError, Net, NetChange, NetState, ReadToken};
use crate::linux::ns::Pin;
use crate::logging::catalog;

use super::chronicle::{Farewell, Grave};
use super::links::Backlog;
use super::past::Moment;
use super::place::{Handle, Place};
use super::setups::{self, Setup};
use super::standing::Standing;
use super::{Daemon, Event, Phase};

/// A namespace that failed is tried again after this long, then twice as long each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait between two tries.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// One managed namespace.
pub(super) struct Managed {
    /// The engine's namespace.
    pub(super) net: Arc<Net>,
    /// Its descriptor.
    pub(super) place: Arc<Place>,
    /// Its link messages on their way to a worker.
    pub(super) backlog: Arc<Backlog>,
    /// Its place in the order of creation.
    birth: u64,
    /// How long to wait before the next try; `None` while nothing is wrong.
    backoff: Option<Duration>,
    /// When that is: of all the entries of the heap only this one counts.
    pub(super) retry_at: Option<Instant>,
    /// It was failed or degraded when last looked at, which an operator has been told.
    troubled: bool,
    /// One of those that were there at the start and are not set up yet.
    first: bool,
    /// A setup is queued or running.
    pub(super) setting_up: bool,
    /// The last setup that is over.
    pub(super) setup: Option<Setup>,
    /// Its state, and since when.
    pub(super) standing: Standing,
    /// Why its end has begun.
    pub(super) ends: Option<&'static str>,
}

/// A namespace that was named again while its exits ran.
pub(super) struct Rebirth {
    generation: u32,
    names: Vec<Arc<str>>,
    pin: Pin,
}

/// A job that waits for the pernet list.
pub(super) struct Held(NetCookie, HookJob);

pub(super) type HookJob = Box<dyn FnOnce(&ReadToken) + Send>;

/// When to try a namespace again; the heap's top is the earliest.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Retry(Reverse<Instant>, NetCookie);

impl Daemon {
    /// The host's own namespace is managed from the start to the end, whatever names it.
    pub(super) fn begin_host(&mut self, cookie: NetCookie, pin: Pin) {
        let changes = self.names.observe([]);
        self.carry_out(changes, &mut HashMap::from([(cookie, pin)]));
    }

    /// One drained queue of names. Deaths are decided only after all of it, so that a moved mount is no death.
    pub(super) fn observe_names(&mut self, batch: Batch) {
        if self.phase == Phase::Stopping {
            return;
        }
        let mut pins = HashMap::new();
        let mut seen = Vec::new();
        let mut scanned = false;
        for observation in batch.0 {
            match observation {
                Observation::Name(named) => {
                    if let Some((path, cookie)) = self.take_pin(named, &mut pins) {
                        seen.push(engine::Observation::Named(path, cookie));
                    }
                }
                // Late news of whoever had the name before: the lease counts until its mount has been seen.
                Observation::NoName(path) if self.is_leased(&path) => {}
                Observation::NoName(path) => seen.push(engine::Observation::Unnamed(path)),
                Observation::Snapshot(all) => {
                    let mut all: Vec<_> = all.into_iter().filter_map(|n| self.in_snapshot(n, &mut pins)).collect();
                    // A leased name has no mount yet, and is no less a name for that.
                    all.extend(self.leased_names());
                    seen.push(engine::Observation::Snapshot(all));
                    scanned = true;
                }
            }
        }
        let changes = self.names.observe(seen);
        self.carry_out(changes, &mut pins);
        self.scanned |= scanned;
        if !self.left_mounts.is_empty() {
            self.take_up_left_mounts();
        }
        self.check_ready();
    }

    fn take_pin(&mut self, named: NamedNs, pins: &mut HashMap<NetCookie, Pin>) -> Option<(PathBuf, NetCookie)> {
        let (cookie, pin) = named.identity?;
        self.lease_seen(&named.path, cookie);
        pins.insert(cookie, pin);
        Some((named.path, cookie))
    }

    /// One that could not be identified just now shows what it showed before, until more is known of it: nobody has
    /// seen that go.
    fn in_snapshot(&mut self, named: NamedNs, pins: &mut HashMap<NetCookie, Pin>) -> Option<(PathBuf, NetCookie)> {
        let before = self.names.at(&named.path).map(|cookie| (named.path.clone(), cookie));
        self.take_pin(named, pins).or(before)
    }

    /// Carries out what observations mean.
    pub(super) fn carry_out(&mut self, changes: Vec<NetChange>, pins: &mut HashMap<NetCookie, Pin>) {
        for change in changes {
            match change {
                NetChange::Appeared { cookie, generation, names } => {
                    let Some(pin) = pins.remove(&cookie) else {
                        let netns = names.first();
                        tracing::error!(
                            message_id = catalog::OWN_MISTAKE,
                            netns = netns.map(|name| &**name),
                            "a namespace (cookie {}) appeared without a descriptor; it is not managed",
                            cookie.0
                        );
                        continue;
                    };
                    if self.nets.contains_key(&cookie) {
                        self.reborn.insert(cookie, Rebirth { generation, names, pin });
                    } else {
                        self.begin(cookie, generation, names, pin);
                    }
                }
                NetChange::Renamed { cookie, names, .. } => self.renamed(cookie, names),
                NetChange::Died { cookie, .. } => self.end(cookie, ExitReason::Died),
            }
        }
        self.check_waiters();
    }

    /// Takes a namespace under management and queues its setup.
    pub(super) fn begin(&mut self, cookie: NetCookie, generation: u32, names: Vec<Arc<str>>, pin: Pin) {
        let place = Place::new(cookie, pin, &self.links, &self.shared.sockets);
        let is_host = names.first().is_some_and(|n| **n == *engine::HOST);
        let handle = Box::new(Handle(Arc::clone(&place)));
        let net = if is_host {
            Net::init_net(cookie, generation, handle, Arc::clone(&self.shared.sysctls.init_net))
        } else {
            Net::new(cookie, generation, handle, false)
        };
        net.set_names(names);
        place.belongs_to(&net);
        let birth = self.shared.add_net(&net);
        self.shared.places.insert(&net);
        // Not those that come later: where namespaces come and go all the time, READY would wait for ever.
        let first = self.phase == Phase::Starting && !self.scanned;
        self.nets.insert(
            cookie,
            Managed {
                net,
                place,
                backlog: Arc::default(),
                birth,
                backoff: None,
                retry_at: None,
                troubled: false,
                first,
                setting_up: false,
                setup: None,
                standing: Standing::begin(),
                ends: None,
            },
        );
        self.first_setups += usize::from(first);
        if let Some(managed) = self.nets.get(&cookie) {
            tracing::debug!(netns = %managed.net.name(), cookie = cookie.0, life = generation, "appeared");
        }
        self.queue_setup(cookie);
    }

    pub(super) fn queue_setup(&mut self, cookie: NetCookie) {
        let Some(managed) = self.nets.get_mut(&cookie) else { return };
        if managed.setting_up {
            return;
        }
        managed.setting_up = true;
        let (net, place, events) = (Arc::clone(&managed.net), Arc::clone(&managed.place), self.events.clone());
        self.submit(
            cookie,
            Box::new(move |token| {
                let setup = setups::record(&net, || complain(&engine::setup_net(token, &net).errors));
                place.unwatch_if_idle(&net);
                let _ = events.send(Event::SetUp(cookie, setup));
            }),
        );
    }

    /// Queues a job that may call hooks, or holds it back while an operation has the pernet list.
    /// False when the daemon is stopping: the job is dropped then, on a worker.
    pub(super) fn submit(&mut self, cookie: NetCookie, job: HookJob) -> bool {
        if self.phase == Phase::Stopping {
            self.workers.run_anywhere(Box::new(move || drop(job)));
            return false;
        }
        let token = if self.held.is_empty() { self.shared.list.read() } else { None };
        match token {
            Some(token) => self.workers.queue(cookie, Box::new(move || job(&token))),
            None => {
                self.held.push_back(Held(cookie, job));
                true
            }
        }
    }

    /// An operation has let go of the list: what waited for it goes on, in order.
    pub(super) fn release_held(&mut self) {
        while let Some(Held(cookie, job)) = self.held.pop_front() {
            let Some(token) = self.shared.list.read() else {
                self.held.push_front(Held(cookie, job));
                return;
            };
            self.workers.queue(cookie, Box::new(move || job(&token)));
        }
    }

    /// A setup is over.
    pub(super) fn set_up(&mut self, cookie: NetCookie, setup: Setup) {
        let Some(managed) = self.nets.get_mut(&cookie) else { return };
        managed.setting_up = false;
        tracing::debug!(netns = %managed.net.name(), "set up in {:?}: {}", setup.total, managed.net.state());
        managed.setup = Some(setup);
        managed.standing.look(&managed.net, &mut managed.place.past(), true);
        self.first_setups -= usize::from(std::mem::take(&mut managed.first));
        self.judged(cookie);
        self.check_ready();
    }

    /// A setup is over, or a change of names has been judged: where something is wrong, a time for another try is set.
    pub(super) fn judged(&mut self, cookie: NetCookie) {
        let Some(managed) = self.nets.get_mut(&cookie) else { return };
        if managed.setting_up {
            return;
        }
        managed.standing.look(&managed.net, &mut managed.place.past(), false);
        match managed.net.state() {
            state @ (NetState::Failed | NetState::Degraded) => {
                let wait = managed.backoff.map_or(FIRST_RETRY, |b| (b * 2).min(LAST_RETRY));
                let at = Instant::now() + wait;
                (managed.backoff, managed.retry_at) = (Some(wait), Some(at));
                self.retries.push(Retry(Reverse(at), cookie));
                managed.troubled = true;
                tell_troubled(&managed.net, state, wait);
            }
            state => {
                (managed.backoff, managed.retry_at) = (None, None);
                if std::mem::take(&mut managed.troubled) && state == NetState::Live {
                    let netns = managed.net.name();
                    tracing::info!(message_id = catalog::NETNS_MENDED, %netns, "live again: all its plugins are set up");
                }
            }
        }
        self.lease_set_up(cookie);
        self.check_waiters();
    }

    /// When the loop has to look for namespaces to retry.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.retries.peek().map(|r| r.0.0)
    }

    pub(super) fn retry_due(&mut self) {
        let now = Instant::now();
        while self.retries.peek().is_some_and(|r| r.0.0 <= now) {
            let Some(Retry(Reverse(at), cookie)) = self.retries.pop() else { return };
            // Else it was tried since, for another reason, and another time has been set.
            if self.nets.get(&cookie).is_some_and(|m| m.retry_at == Some(at)) {
                self.retry(cookie);
            }
        }
    }

    /// Tries a namespace again if there is something to try.
    pub(super) fn retry(&mut self, cookie: NetCookie) {
        let Some(managed) = self.nets.get_mut(&cookie) else { return };
        if matches!(managed.net.state(), NetState::Failed | NetState::Degraded) {
            managed.retry_at = None;
            self.queue_setup(cookie);
        }
    }

    /// After a reload everything that is in trouble is tried at once, from the shortest wait again.
    pub(super) fn retry_troubled_now(&mut self) {
        let cookies: Vec<NetCookie> = self.nets.keys().copied().collect();
        for cookie in cookies {
            if let Some(managed) = self.nets.get_mut(&cookie) {
                managed.backoff = None;
            }
            self.retry(cookie);
        }
    }

    fn renamed(&mut self, cookie: NetCookie, names: Vec<Arc<str>>) {
        if let Some(reborn) = self.reborn.get_mut(&cookie) {
            reborn.names = names;
            return;
        }
        let Some(managed) = self.nets.get(&cookie) else { return };
        let before = managed.net.names();
        let told = names.iter().map(|name| &**name).collect::<Vec<_>>().join(", ");
        managed.place.past().said(format!("its names are {told} from here on"));
        managed.net.set_names(names);
        // Which plugins act there is judged by its names, and so is which lines of sysctl.d count.
        let (net, place, events) = (Arc::clone(&managed.net), Arc::clone(&managed.place), self.events.clone());
        let (sysctls, workers) = (Arc::clone(&self.shared.sysctls), Arc::clone(&self.workers));
        self.submit(
            cookie,
            Box::new(move |token| {
                complain(&engine::rejudge_net(token, &net));
                place.unwatch_if_idle(&net);
                let _ = events.send(Event::Judged(cookie));
                // Not in the namespace's turn: a handler may want to have work run in it.
                workers.run_anywhere(Box::new(move || sysctls.renamed(&net, before)));
            }),
        );
    }

    /// Ends a life: the exits run, then the pin is closed.
    pub(super) fn end(&mut self, cookie: NetCookie, reason: ExitReason) {
        if self.reborn.remove(&cookie).is_some() {
            return;
        }
        let Some(managed) = self.nets.get_mut(&cookie) else { return };
        managed.ends = Some(match reason {
            ExitReason::RolledBack => "whoever added it went before it had a name",
            _ => "its last name was removed",
        });
        managed.standing.since = Moment::now();
        let (net, events, shared) = (Arc::clone(&managed.net), self.events.clone(), Arc::clone(&self.shared));
        tracing::debug!(netns = %net.name(), "its names are gone: its exits run");
        // A setup that is running stops at its next step.
        net.mark_dying();
        self.submit(
            cookie,
            Box::new(move |token| {
                // Before the exits: nobody looks at a plugin's files of a namespace that the plugin has left.
                shared.filesystems.end_mounts_in(&net, shared.patience());
                let farewell = Farewell::of(|| engine::cleanup_net(token, &net, reason));
                complain(&farewell.errors);
                let _ = events.send(Event::CleanedUp(cookie, farewell));
            }),
        );
    }

    pub(super) fn cleaned_up(&mut self, cookie: NetCookie, farewell: Farewell) {
        let Some(managed) = self.nets.remove(&cookie) else { return };
        self.bury(&managed, farewell);
        self.shared.remove_net(managed.birth);
        self.shared.places.remove(cookie);
        managed.place.release();
        tracing::debug!(netns = %managed.net.name(), cookie = cookie.0, "let go");
        self.first_setups -= usize::from(managed.first);
        self.answer_gone(&managed.net);
        if let Some(Rebirth { generation, names, pin }) = self.reborn.remove(&cookie) {
            self.begin(cookie, generation, names, pin);
        } else {
            self.lease_died(cookie);
        }
        self.check_ready();
    }

    /// What was known of it is kept for a while.
    fn bury(&self, managed: &Managed, farewell: Farewell) {
        let grave = Grave {
            names: managed.net.names(),
            cookie: managed.net.cookie,
            generation: managed.net.generation,
            born: managed.standing.born,
            state: managed.standing.state,
            why: managed.ends.unwrap_or("its last name was removed"),
            farewell,
            past: std::mem::take(&mut *managed.place.past()),
        };
        self.shared.chronicle.bury(grave, managed.place.devices.take());
    }

    /// Closes every pin; the exits have run.
    pub(super) fn release_all(&mut self) {
        for (_, managed) in self.nets.drain() {
            managed.place.release();
        }
    }
}

/// Logs that a namespace is failed or degraded, and why.
fn tell_troubled(net: &Net, state: NetState, wait: Duration) {
    let is_failed = state == NetState::Failed;
    let message_id = if is_failed { catalog::NETNS_FAILED } else { catalog::NETNS_DEGRADED };
    let (netns, error) = (net.name(), net.error());
    let (plugin, hook) = (error.as_ref().map(|e| &*e.plugin), error.as_ref().map(|e| e.hook));
    let errno = error.as_ref().map(|e| e.failure.errno);
    let why = error.as_ref().map_or_else(String::new, |e| format!(": {}: {}", e.hook, e.failure));
    tracing::warn!(message_id, %netns, plugin, hook, errno, "{state}{why}; tried again in {wait:?}");
}

/// Logs what hooks complained about.
pub(super) fn complain(errors: &[HookError]) {
    for e in errors {
        let netns = Some(&*e.netns).filter(|netns| !netns.is_empty());
        let about = e.device.as_ref().map_or_else(String::new, |device| format!(" of {device}"));
        let how = if e.failure.panicked { "panicked" } else { "failed" };
        tracing::warn!(
            message_id = catalog::HOOK_FAILED,
            plugin = %e.plugin,
            netns,
            hook = e.hook,
            device = e.device.as_deref(),
            errno = e.failure.errno,
            "{}{about} {how}: {}",
            e.hook,
            e.failure
        );
    }
}
