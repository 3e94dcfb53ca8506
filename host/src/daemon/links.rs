//! Link messages on their way from the one socket to the namespaces, and what follows when some were lost.
//!
//! The loop only sorts them; comparing them with the mirror, and calling hooks, is a job for the workers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pernet_plugin_api::NetCookie;

use crate::discovery::links::LinkEvent;
use crate::engine::{self, Departed, LinkObservation, Net, Observed, ReadToken};
use crate::logging::catalog;

use super::device_past::{Seeing, seeing};
use super::namespaces::complain;
use super::place::Place;
use super::{Daemon, Event, figures};

/// At most one log line per overrun storm.
const OVERRUN_LOG: Duration = Duration::from_secs(5);

/// So many messages of one namespace may wait: more than a slow hook lets gather, and little memory. Where a hook hangs
/// they are dropped, and its devices are listed once it is over.
const MOST: usize = 4096;

/// Link messages of one namespace that no worker has taken yet.
#[derive(Default)]
pub(super) struct Backlog(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    seen: Vec<Observed>,
    /// Some were lost: a list of everything is newer than all that waits.
    lost: bool,
    /// The loss on the whole socket that this is a part of.
    resync: Option<Arc<Resync>>,
    /// A job that takes them is queued.
    queued: bool,
}

impl Backlog {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds messages; true if that was more than may wait.
    fn push(&self, run: Vec<Observed>) -> bool {
        let mut waiting = self.waiting();
        if waiting.lost {
            return false;
        }
        waiting.seen.extend(run);
        let overflowed = waiting.seen.len() > MOST;
        if overflowed {
            waiting.lose();
        }
        overflowed
    }

    fn lose(&self) {
        self.waiting().lose();
    }

    /// The same, where everything was lost.
    fn lose_with_all(&self, resync: &Arc<Resync>) {
        let mut waiting = self.waiting();
        waiting.lose();
        waiting.resync = Some(Arc::clone(resync));
    }

    /// Whether a job has to be queued; from then on it counts as queued.
    fn needs_job(&self) -> bool {
        !std::mem::replace(&mut self.waiting().queued, true)
    }

    /// Compares all that waits with the mirror; plugins' own devices that went elsewhere are `departed`.
    fn work_off(&self, token: &ReadToken, net: &Arc<Net>, place: &Place, departed: &dyn Fn(Departed)) {
        let Waiting { seen, lost, resync, .. } = std::mem::take(&mut *self.waiting());
        let tell = |observed: Observed| {
            let moved = matches!(observed.what, LinkObservation::Gone { moved: Some(_), .. });
            let what = if moved { Seeing::Move } else { Seeing::Others };
            let seen = seeing(what, || engine::links_seen(token, net, observed));
            complain(&seen.errors);
            seen.departed.into_iter().for_each(departed);
            if seen.lost {
                self.lose();
            }
        };
        seen.into_iter().for_each(tell);
        if !lost || !net.watched() {
            return;
        }
        match place.dump_at() {
            Ok((fence, links)) => {
                tell(Observed { fence, what: LinkObservation::Dump(links) });
                drop(resync);
            }
            Err(e) => {
                tracing::warn!(
                    message_id = catalog::LINKS_LOST,
                    netns = %net.name(),
                    errno = e.raw_os_error(),
                    "cannot list its devices: {e}; tried again at its next event"
                );
                self.waiting().resync = resync;
                self.lose();
            }
        }
    }
}

impl Waiting {
    fn lose(&mut self) {
        self.seen = Vec::new();
        self.lost = true;
    }
}

/// A loss of link events until every namespace is listed again: the last that was concerned ends it.
struct Resync {
    since: Instant,
    namespaces: usize,
    /// What was told of its beginning is told of its end.
    told: bool,
}

impl Drop for Resync {
    fn drop(&mut self) {
        if self.told {
            tracing::info!(
                message_id = catalog::LINKS_RESYNCED,
                namespaces = self.namespaces,
                "the devices of {} namespaces are listed again, {:?} after link events were lost",
                self.namespaces,
                self.since.elapsed()
            );
        }
    }
}

/// A plugin's own device between two namespaces. One that arrives nowhere is lost: its end is told, and it is released.
pub(crate) struct InTransit(Option<Departed>);

impl Drop for InTransit {
    fn drop(&mut self) {
        if let Some(departed) = self.0.take() {
            complain(&seeing(Seeing::Others, || engine::lost(departed)));
        }
    }
}

impl Daemon {
    /// Link messages, grouped by namespace, each in the order of the stream.
    pub(super) fn observe_links(&mut self, events: Vec<LinkEvent>) {
        let mut runs: Vec<(NetCookie, Vec<Observed>)> = Vec::new();
        for event in events {
            let (cookie, number, observation) = match event {
                LinkEvent::Seen { cookie, subscription, fence, link } => {
                    (cookie, subscription, Observed { fence, what: LinkObservation::Seen(link) })
                }
                LinkEvent::Gone { cookie, subscription, fence, ifindex, moved } => {
                    (cookie, subscription, Observed { fence, what: LinkObservation::Gone { ifindex, moved } })
                }
                LinkEvent::Overrun => {
                    // What was read before the loss counts less than the dumps that follow.
                    runs.clear();
                    self.resync();
                    continue;
                }
            };
            // Older than the dump of a newer subscription.
            if self.links.subscription(cookie).is_none_or(|s| s.number != number) {
                continue;
            }
            match runs.iter_mut().rev().take(8).find(|(c, _)| *c == cookie) {
                Some((_, run)) => run.push(observation),
                None => runs.push((cookie, vec![observation])),
            }
        }
        for (cookie, run) in runs {
            self.links_seen(cookie, run);
        }
    }

    fn links_seen(&mut self, cookie: NetCookie, run: Vec<Observed>) {
        let Some(managed) = self.nets.get(&cookie) else { return };
        let overflowed = managed.backlog.push(run);
        if overflowed {
            figures::add(&self.tally.resyncs);
            tracing::warn!(
                message_id = catalog::LINKS_LOST,
                netns = %managed.net.name(),
                "its hooks are slower than its link events; it is listed again"
            );
        }
        self.work_off(cookie);
    }

    /// Queues the job that takes the backlog, unless one is queued already.
    fn work_off(&mut self, cookie: NetCookie) {
        let Some(managed) = self.nets.get(&cookie) else { return };
        if !managed.backlog.needs_job() {
            return;
        }
        let (net, place, backlog) =
            (Arc::clone(&managed.net), Arc::clone(&managed.place), Arc::clone(&managed.backlog));
        let (events, shared) = (self.events.clone(), Arc::clone(&self.shared));
        let job = move |token: &ReadToken| {
            backlog.work_off(token, &net, &place, &|departed| {
                let to = place.cookie_of(departed.nsid, &shared.nets());
                let _ = events.send(Event::Departed(to, InTransit(Some(departed))));
            });
        };
        self.submit(cookie, Box::new(job));
    }

    /// A plugin's own device was moved elsewhere: to a namespace that is managed, or out of sight.
    pub(super) fn departed(&mut self, to: Option<NetCookie>, mut device: InTransit) {
        let there = to.and_then(|cookie| self.nets.get(&cookie));
        let Some((net, place)) = there.map(|managed| (Arc::clone(&managed.net), Arc::clone(&managed.place))) else {
            self.workers.run_anywhere(Box::new(move || drop(device)));
            return;
        };
        let cookie = net.cookie;
        let job = move |token: &ReadToken| {
            if let Some(departed) = device.0.take() {
                let dev = Arc::clone(&departed.dev);
                complain(&seeing(Seeing::Others, || engine::arrived(token, &net, departed)));
                place.devices.arrived(&dev);
            }
        };
        self.submit(cookie, Box::new(job));
    }

    /// Messages were lost: every namespace that is listened to is dumped, and the differences are the events. That is
    /// asked of the source, not of the mirror: a setup that has just listed its devices has no mirror yet.
    fn resync(&mut self) {
        figures::add(&self.tally.resyncs);
        let told = self.last_overrun.is_none_or(|t| t.elapsed() > OVERRUN_LOG);
        if told {
            tracing::warn!(
                message_id = catalog::LINKS_LOST,
                "link events were lost; every watched namespace is listed again (netlink.receive_buffer sets the room)"
            );
            self.last_overrun = Some(Instant::now());
        }
        let listened = self.nets.iter().filter(|(cookie, _)| self.links.subscription(**cookie).is_some());
        let cookies: Vec<NetCookie> = listened.map(|(cookie, _)| *cookie).collect();
        let resync = Arc::new(Resync { since: Instant::now(), namespaces: cookies.len(), told });
        for cookie in cookies {
            if let Some(managed) = self.nets.get(&cookie) {
                managed.backlog.lose_with_all(&resync);
            }
            self.work_off(cookie);
        }
    }

    /// Namespaces in which no plugin wants device events any more are not listened to any more.
    pub(super) fn unwatch_idle(&mut self) {
        for managed in self.nets.values() {
            managed.place.unwatch_if_idle(&managed.net);
        }
    }
}
