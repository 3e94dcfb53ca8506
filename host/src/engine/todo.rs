//! Work for after the unlock: `net_todo_list` and `netdev_run_todo`.
//!
//! Whoever holds a net's RTNL may leave work on its todo; the unlocking thread takes the list and gives up the lock in
//! one step, then runs it in order (K2.6(1)). So each piece runs exactly once, before the unlocking call returns, and
//! may take the lock again. What others add later is theirs.
//!
//! Devices whose unregistration is to be ended come last, in `refs.rs`: a plugin's work may be what gives up the last
//! reference to one.

use std::cell::Cell;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use super::refs::{self, Ended};

/// A piece of work. Dropping it unrun is how it learns that it never will.
pub type Work = Box<dyn FnOnce() + Send>;

/// Why work was not taken; it comes back.
pub enum NotDeferred {
    /// Nobody holds the lock, so nobody would run it: queue it as a job of its own.
    NobodyHolds(Work),
    /// Work that defers work that defers work …: this thread is too deep in it already.
    TooDeep(Work),
}

impl fmt::Debug for NotDeferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotDeferred::NobodyHolds(_) => "NobodyHolds",
            NotDeferred::TooDeep(_) => "TooDeep",
        })
    }
}

/// So many todo lists may run inside each other on one thread. Each is a stack frame of a plugin's making.
const DEEPEST: u32 = 32;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Whether this thread may still leave work behind.
pub(super) fn may_defer() -> bool {
    DEPTH.get() < DEEPEST
}

/// What is left for after the unlock.
#[derive(Default)]
pub(super) struct Todo {
    pub(super) work: Vec<Work>,
    pub(super) ended: Vec<Ended>,
}

impl Todo {
    pub(super) fn append(&mut self, mut later: Todo) {
        self.work.append(&mut later.work);
        self.ended.append(&mut later.ended);
    }
}

/// Runs a todo list in order, and gives its length. The lock that guarded it is already free.
pub(super) fn run(todo: Todo) -> usize {
    let pieces = todo.work.len() + todo.ended.len();
    if pieces > 0 {
        let _depth = Deeper::enter();
        // K2.6(3): before anything is waited for.
        todo.ended.iter().for_each(Ended::begin);
        todo.work.into_iter().for_each(|work| work());
        refs::netdev_run_todo(todo.ended);
    }
    pieces
}

/// How long an unregistration waits for a device's last reference.
pub(super) struct Patience(Mutex<Pace>);

/// Its steps, all counted from the beginning.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// UNREGISTER is told again so often.
    pub(super) retell: Duration,
    /// The wait is told to the operator so often.
    pub(super) warn: Duration,
    /// Then the device is given up.
    pub(super) bound: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Patience(Mutex::new(Pace { retell: seconds(1), warn: seconds(10), bound: seconds(10) }))
    }
}

impl Patience {
    fn inner(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn pace(&self) -> Pace {
        *self.inner()
    }

    pub(super) fn set_bound(&self, bound: Duration) {
        self.inner().bound = bound;
    }

    #[cfg(test)]
    pub(super) fn set_pace(&self, retell: Duration, warn: Duration, bound: Duration) {
        *self.inner() = Pace { retell, warn, bound };
    }
}

struct Deeper;

impl Deeper {
    fn enter() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Deeper
    }
}

impl Drop for Deeper {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}
