//! Work for after the unlock: `net_todo_list` and `netdev_run_todo`.
//!
//! Whoever holds a net's RTNL may leave work on its todo; the unlocking thread takes the list and gives up the lock in
//! one step, then runs it in order (K2.6(1)). So each piece runs exactly once, before the unlocking call returns, and
//! may take the lock again. What others add later is theirs.

use std::cell::Cell;
use std::fmt;

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

/// Runs a todo list in order, and gives its length. The lock that guarded it is already free.
pub(super) fn run(todo: Vec<Work>) -> usize {
    let pieces = todo.len();
    if pieces > 0 {
        let _depth = Deeper::enter();
        todo.into_iter().for_each(|work| work());
    }
    pieces
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
