//! Hooks that do not come out: an operator is told once of each, and once more when it has.
//!
//! Nothing is looked for while nothing runs: whatever calls a hook begins with an event of the loop, and from then on
//! there is a look every [`EVERY`] until no hook is running any more. What a hook that hangs holds up is shown by
//! `pernetctl status`; nothing is done about it here.

use std::time::{Duration, Instant};

use crate::logging::catalog;
use crate::plugin::running::{Running, running};

/// Longer than any hook should take, also one that waits for the network.
const LONG: Duration = Duration::from_secs(10);
/// How late an operator may learn of it.
const EVERY: Duration = Duration::from_secs(5);

/// What was told.
#[derive(Default)]
pub(super) struct Hangs {
    /// When to look; none while no hook was running at the last look.
    due: Option<Instant>,
    told: Vec<Running>,
}

impl Hangs {
    /// When the loop has to look.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Looks if it is time. With an event a hook may begin to run.
    pub(super) fn look(&mut self, event: bool) {
        let now = Instant::now();
        if self.due.is_some_and(|due| due <= now) {
            let running = running();
            self.tell(&running);
            self.due = (!running.is_empty()).then(|| now + EVERY);
        }
        if event && self.due.is_none() {
            self.due = Some(now + EVERY);
        }
    }

    fn tell(&mut self, running: &[Running]) {
        let over = |hook: &Running| !running.iter().any(|r| r.is_same_call(hook));
        self.told.extract_if(.., |hook| over(hook)).for_each(|hook| {
            tracing::info!(
                message_id = catalog::HOOK_RETURNED,
                plugin = %hook.plugin,
                netns = netns(&hook),
                hook = hook.hook,
                device = hook.device.as_str(),
                generation = hook.generation,
                "{} that hung has returned, after less than {} s",
                hook.hook,
                hook.since.elapsed().as_secs() + 1
            );
        });
        for hook in running.iter().filter(|r| r.since.elapsed() >= LONG) {
            if self.told.iter().any(|told| told.is_same_call(hook)) {
                continue;
            }
            tracing::warn!(
                message_id = catalog::HOOK_HANGS,
                plugin = %hook.plugin,
                netns = netns(hook),
                hook = hook.hook,
                device = hook.device.as_str(),
                generation = hook.generation,
                "{} has been running for {} s: it holds a thread{}",
                hook.hook,
                hook.since.elapsed().as_secs(),
                if hook.cookie.is_some() { ", and its namespace for as long as it runs" } else { "" }
            );
            self.told.push(hook.clone());
        }
    }
}

fn netns(hook: &Running) -> Option<&str> {
    Some(&*hook.netns).filter(|netns| !netns.is_empty())
}
