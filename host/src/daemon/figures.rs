//! The daemon's own figures: what the loop counts, and what there is at the moment, for plugins that show it.
//!
//! The loop adds to a [`Tally`]; whoever asks reads it, and looks at namespaces and plugins as they are then, without the
//! loop. The hooks' figures are kept where they are called (`plugin/figures.rs`).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::control::wire::{NetnsState, PluginState};
use crate::plugin::{self, Figure};

use super::requests::{LONG, shown_state};
use super::services::Services;

/// What the loop counts since the start.
#[derive(Default)]
pub(super) struct Tally {
    /// Setups of namespaces in trouble that were tried again.
    pub(super) retries: AtomicU64,
    /// Losses of link events after which namespaces were listed again.
    pub(super) resyncs: AtomicU64,
    /// Reloads that succeeded.
    pub(super) reloads: AtomicU64,
    /// Reloads that did not.
    pub(super) failed_reloads: AtomicU64,
}

/// One more.
pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Services {
    pub(super) fn all_figures(&self) -> Vec<Figure> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (tally, figure) = (&self.tally, |what, of, value| Figure { what, of, value });
        let mut figures = vec![
            figure("retries", "", load(&tally.retries)),
            figure("resyncs", "", load(&tally.resyncs)),
            figure("reloads", "ok", load(&tally.reloads)),
            figure("reloads", "error", load(&tally.failed_reloads)),
            figure("retired_generations", "", plugin::load::retired_generations() as u64),
            figure("hanging_hooks", "", plugin::running::running_for_longer_than(LONG).len() as u64),
        ];
        figures.extend(self.namespaces());
        figures.extend(self.plugins());
        figures
    }

    fn namespaces(&self) -> [Figure; 5] {
        let mut counts = ["live", "degraded", "failed", "setup", "dying"].map(|of| (of, 0));
        for net in self.places.all() {
            let at = match shown_state(&net) {
                NetnsState::live => 0,
                NetnsState::degraded => 1,
                NetnsState::failed => 2,
                NetnsState::setup => 3,
                NetnsState::dying => 4,
            };
            counts[at].1 += 1;
        }
        counts.map(|(of, value)| Figure { what: "namespaces", of, value })
    }

    fn plugins(&self) -> [Figure; 3] {
        let mut counts = ["live", "failed", "refused"].map(|of| (of, 0));
        for row in self.rows().iter() {
            match row.state {
                PluginState::live => counts[0].1 += 1,
                PluginState::failed => counts[1].1 += 1,
                PluginState::refused => counts[2].1 += 1,
                // Counted as generations.
                PluginState::retired => {}
            }
        }
        counts.map(|(of, value)| Figure { what: "plugins", of, value })
    }
}
