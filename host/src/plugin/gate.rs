//! The door to an instance: calls go in and out, and once it is closed and empty, none goes in again.
//!
//! A counter instead of a lock, because a hook may be called from within a hook of the same instance: with a
//! reader-writer lock, a waiting writer would make that a deadlock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

const CLOSED: usize = 1 << (usize::BITS - 1);

#[derive(Default)]
pub(super) struct Gate {
    /// How many are inside, and whether it is closed.
    inside: AtomicUsize,
    waiting: Mutex<()>,
    left: Condvar,
}

/// Somebody inside.
pub(super) struct Pass<'a>(&'a Gate);

impl Gate {
    /// Goes in; `None` once the gate is closed.
    pub(super) fn enter(&self) -> Option<Pass<'_>> {
        let before = self.inside.fetch_add(1, Ordering::Acquire);
        let pass = Pass(self);
        if before & CLOSED == 0 { Some(pass) } else { None }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.inside.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Closes, and waits until nobody is inside; false if that takes longer than the deadline. It stays closed.
    pub(super) fn close(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        let mut guard = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.inside.fetch_or(CLOSED, Ordering::AcqRel);
        while self.inside.load(Ordering::Acquire) != CLOSED {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            guard = self.left.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let before = self.0.inside.fetch_sub(1, Ordering::AcqRel);
        if before == CLOSED + 1 {
            // Under the lock, so that it cannot fall between the closer's look and its wait.
            let _guard = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn closing_waits_for_who_is_inside_and_lets_nobody_in() {
        let gate = Gate::default();
        let inside = gate.enter().expect("open");
        assert!(!gate.close(Duration::ZERO), "somebody is inside");
        assert!(gate.enter().is_none(), "closed all the same");
        std::thread::scope(|scope| {
            let (told, closed) = channel();
            let gate = &gate;
            scope.spawn(move || told.send(gate.close(Duration::from_secs(30))));
            drop(inside);
            assert!(closed.recv_timeout(Duration::from_secs(30)).expect("in time"));
        });
        assert!(gate.close(Duration::ZERO), "closed and empty");
    }
}
