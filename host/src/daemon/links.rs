//! Link messages on their way from the one socket to the namespaces, and what follows when some were lost.
//!
//! The loop only sorts them; comparing them with the mirror, and calling hooks, is a job for the workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pernet_plugin_api::NetCookie;

use crate::discovery::links::LinkEvent;
use crate::engine::{self, LinkObservation};

use super::Daemon;

/// At most one log line per overrun storm.
const OVERRUN_LOG: Duration = Duration::from_secs(5);

impl Daemon {
    /// Link messages, grouped by namespace: one job each, in the order of the stream.
    pub(super) fn observe_links(&mut self, events: Vec<LinkEvent>) {
        let mut runs: Vec<(NetCookie, Vec<LinkObservation>)> = Vec::new();
        for event in events {
            let (cookie, number, observation) = match event {
                LinkEvent::Seen { cookie, subscription, link } => (cookie, subscription, LinkObservation::Seen(link)),
                LinkEvent::Gone { cookie, subscription, ifindex } => {
                    (cookie, subscription, LinkObservation::Gone { ifindex })
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

    fn links_seen(&mut self, cookie: NetCookie, run: Vec<LinkObservation>) {
        let Some(managed) = self.nets.get(&cookie) else { return };
        let net = Arc::clone(&managed.net);
        self.submit(
            cookie,
            Box::new(move |token| {
                for observation in run {
                    engine::links_seen(token, &net, observation);
                }
            }),
        );
    }

    /// Messages were lost: every watched namespace is dumped, and the differences are the events.
    fn resync(&mut self) {
        self.resyncs += 1;
        if self.last_overrun.is_none_or(|t| t.elapsed() > OVERRUN_LOG) {
            tracing::warn!(
                "link events were lost; every watched namespace is listed again (netlink.receive_buffer sets the room)"
            );
            self.last_overrun = Some(Instant::now());
        }
        let watched: Vec<_> = self
            .nets
            .values()
            .filter(|m| m.net.watched())
            .map(|m| (Arc::clone(&m.net), Arc::clone(&m.place)))
            .collect();
        for (net, place) in watched {
            self.submit(
                net.cookie,
                Box::new(move |token| match place.dump() {
                    Ok(links) => {
                        engine::links_seen(token, &net, LinkObservation::Dump(links));
                    }
                    Err(e) => tracing::warn!(netns = %net.name(), "cannot list its devices: {e}"),
                }),
            );
        }
    }

    /// Namespaces in which no plugin wants device events any more are not listened to any more.
    pub(super) fn unwatch_idle(&mut self) {
        for managed in self.nets.values() {
            managed.place.unwatch_if_idle(&managed.net);
        }
    }
}
