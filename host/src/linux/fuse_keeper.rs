//! The keeper of those who serve mounts: it answers for calls that take too long, and replaces the threads that they hold.
//!
//! One thread, for all mounts together. It sleeps while nothing is going on, and ends when there is no mount.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::fuse_server::{Shared, lock};

/// How often it looks while calls are going on.
const TICK: Duration = Duration::from_millis(50);

impl Shared {
    pub(super) fn wake_keeper(&self) {
        let _keeper = lock(&self.keeper);
        self.begun.notify_all();
    }

    /// The keeper's life: until there is no mount.
    pub(super) fn keep(self: Arc<Self>) {
        loop {
            let mut guard = lock(&self.keeper);
            self.keeper_sleeps.store(true, Ordering::SeqCst);
            // Asked after that was said: who begins a call from here on wakes the keeper.
            if self.calls.load(Ordering::SeqCst) == 0 {
                if self.keeper_leaves() {
                    return;
                }
                guard = self.begun.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.keeper_sleeps.store(false, Ordering::SeqCst);
            // Not at once: most calls are over by then, and the next ones need not wake anybody.
            drop(self.begun.wait_timeout(guard, TICK).unwrap_or_else(PoisonError::into_inner));
            self.look_after_calls();
        }
    }

    fn keeper_leaves(&self) -> bool {
        let mut threads = lock(&self.threads);
        let no_mount = self.read_sessions().is_empty();
        if no_mount {
            threads.keeper = false;
        }
        no_mount
    }

    fn look_after_calls(self: &Arc<Self>) {
        let deadline = Duration::from_millis(self.deadline.load(Ordering::Relaxed));
        let sessions: Vec<_> = self.read_sessions().values().cloned().collect();
        sessions.iter().for_each(|session| session.give_up(deadline));
        // All may be held by calls that were given up just now.
        if !sessions.is_empty() {
            self.need_a_listener();
        }
    }
}
