//! The RTNL: one lock per [`super::Net`], `rtnl_lock` and `rtnl_unlock`.
//!
//! Every hook in a namespace runs under its lock, which makes hooks there one at a time, deferred work and calls from
//! other threads included. Dropping a guard unlocks, *then* runs the todo list (`todo.rs`); there is no other way to unlock,
//! and so no `__rtnl_unlock` that would leave what was queued (K2.6(7)). `&RtnlGuard` is the proof of holding it
//! (`ASSERT_RTNL`). Two nets are locked in cookie order. What can never be had (the own lock again, a
//! second net out of order) is `EDEADLK` at once; every other wait has a deadline.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use pernet_plugin_api::NetCookie;

use super::failure::{EDEADLK, EPERM, ETIMEDOUT, Failure};
use super::refs::Ended;
use super::todo::{self, NotDeferred, Todo, Work};

/// How long a lock is waited for before the wait is given up as hopeless: a hook hangs in that namespace.
const PATIENCE: Duration = Duration::from_secs(10);

thread_local! {
    /// Cookies of the nets that this thread has locked, in locking order, which is ascending.
    static HELD: RefCell<Vec<NetCookie>> = const { RefCell::new(Vec::new()) };
}

/// Why a lock was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockError {
    /// This thread holds it already, or one that comes after it: waiting would never end.
    Deadlock,
    /// Another thread did not give it up in time.
    Timeout,
    /// This thread does not hold it, as `ASSERT_RTNL` wants.
    NotHeld,
}

impl LockError {
    /// `EDEADLK`, `ETIMEDOUT` or `EPERM`.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            LockError::Deadlock => EDEADLK,
            LockError::Timeout => ETIMEDOUT,
            LockError::NotHeld => EPERM,
        }
    }
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LockError::Deadlock => {
                "this thread's hook already holds the lock of this namespace, or of one after it; use defer"
            }
            LockError::Timeout => "another hook in this namespace did not end in time",
            LockError::NotHeld => {
                "this thread does not hold the lock of this namespace; call it from a hook or use run_in"
            }
        })
    }
}

impl std::error::Error for LockError {}

impl From<LockError> for Failure {
    fn from(e: LockError) -> Self {
        Failure::new(e.errno(), e.to_string())
    }
}

#[derive(Default)]
struct State {
    owner: Option<ThreadId>,
    todo: Todo,
}

/// The lock of one net.
pub struct Rtnl {
    cookie: NetCookie,
    state: Mutex<State>,
    freed: Condvar,
}

impl Rtnl {
    /// The lock of the net with this cookie, which is its rank in the locking order.
    #[must_use]
    pub fn new(cookie: NetCookie) -> Self {
        Rtnl { cookie, state: Mutex::new(State::default()), freed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `rtnl_lock`, with a deadline of ten seconds.
    pub fn lock(&self) -> Result<RtnlGuard<'_>, LockError> {
        self.lock_within(PATIENCE)
    }

    /// `rtnl_lock`, with a deadline.
    pub fn lock_within(&self, deadline: Duration) -> Result<RtnlGuard<'_>, LockError> {
        self.acquire(deadline)?;
        Ok(RtnlGuard { rtnl: self, here: PhantomData })
    }

    /// `ASSERT_RTNL`: the proof for whoever is in a hook and so was not handed the guard.
    ///
    /// # Errors
    /// [`LockError::NotHeld`] where this thread does not hold the lock.
    pub fn assert_rtnl(&self) -> Result<HeldRtnl<'_>, LockError> {
        if !self.held_by_me() {
            return Err(LockError::NotHeld);
        }
        Ok(HeldRtnl(ManuallyDrop::new(RtnlGuard { rtnl: self, here: PhantomData })))
    }

    /// Whether the calling thread holds it.
    #[must_use]
    pub fn held_by_me(&self) -> bool {
        self.state().owner == Some(thread::current().id())
    }

    /// The same, for who mostly does not: nothing is locked to find that out.
    pub(super) fn held_here(&self) -> bool {
        HELD.with_borrow(|held| held.contains(&self.cookie)) && self.held_by_me()
    }

    /// Leaves work for whoever unlocks.
    ///
    /// # Errors
    /// The work comes back where nobody holds the lock, or where deferred work has been deferring work for too long.
    pub fn defer(&self, work: Work) -> Result<(), NotDeferred> {
        let mut state = self.state();
        if state.owner.is_none() {
            return Err(NotDeferred::NobodyHolds(work));
        }
        if !todo::may_defer() {
            return Err(NotDeferred::TooDeep(work));
        }
        state.todo.work.push(work);
        Ok(())
    }

    /// `net_set_todo`: a device was unregistered, and the rest of its end comes after the unlock. Ask under the lock.
    pub(super) fn set_todo(&self, ended: Ended) {
        self.state().todo.ended.push(ended);
    }

    fn acquire(&self, deadline: Duration) -> Result<(), LockError> {
        if HELD.with_borrow(|held| held.last().is_some_and(|last| *last >= self.cookie)) {
            return Err(LockError::Deadlock);
        }
        let waited = self.freed.wait_timeout_while(self.state(), deadline, |state| state.owner.is_some());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if state.owner.is_some() {
            return Err(LockError::Timeout);
        }
        state.owner = Some(thread::current().id());
        HELD.with_borrow_mut(|held| held.push(self.cookie));
        Ok(())
    }

    /// Gives up the lock and takes the todo list, in one step.
    fn release(&self) -> Todo {
        let mut state = self.state();
        state.owner = None;
        let todo = std::mem::take(&mut state.todo);
        drop(state);
        // All: a waiter whose deadline just passed must not swallow the only call.
        self.freed.notify_all();
        HELD.with_borrow_mut(|held| held.retain(|cookie| *cookie != self.cookie));
        todo
    }
}

/// The lock, held. Dropping it is `rtnl_unlock`: the lock is given up, then the todo runs.
#[must_use = "dropping the guard unlocks at once"]
pub struct RtnlGuard<'a> {
    rtnl: &'a Rtnl,
    /// Not `Send`: the lock belongs to the thread that took it.
    here: PhantomData<*const ()>,
}

impl RtnlGuard<'_> {
    /// Which net's lock this is.
    #[must_use]
    pub fn cookie(&self) -> NetCookie {
        self.rtnl.cookie
    }

    /// `rtnl_unlock`, as dropping it is; says how many pieces of work ran.
    pub fn unlock(self) -> usize {
        let rtnl = self.rtnl;
        std::mem::forget(self);
        todo::run(rtnl.release())
    }
}

impl Drop for RtnlGuard<'_> {
    fn drop(&mut self) {
        todo::run(self.rtnl.release());
    }
}

/// The proof that this thread holds the lock. Dropping it does nothing.
pub struct HeldRtnl<'a>(ManuallyDrop<RtnlGuard<'a>>);

impl<'a> Deref for HeldRtnl<'a> {
    type Target = RtnlGuard<'a>;

    fn deref(&self) -> &RtnlGuard<'a> {
        &self.0
    }
}

/// Two locks, held. Dropping it gives up both, then runs both todo lists.
#[must_use = "dropping the guard unlocks at once"]
pub struct RtnlPair<'a> {
    first: &'a Rtnl,
    second: &'a Rtnl,
    here: PhantomData<*const ()>,
}

impl Drop for RtnlPair<'_> {
    fn drop(&mut self) {
        let second = self.second.release();
        let mut first = self.first.release();
        first.append(second);
        todo::run(first);
    }
}

/// Locks any number of nets, in cookie order, each with a deadline.
///
/// # Errors
/// [`LockError::Deadlock`] if two are the same, or this thread holds one that is not before all.
pub(super) fn lock_all<'a>(
    nets: impl Iterator<Item = &'a Rtnl>,
    deadline: Option<Duration>,
) -> Result<Vec<RtnlGuard<'a>>, LockError> {
    let mut nets: Vec<&Rtnl> = nets.collect();
    nets.sort_by_key(|rtnl| rtnl.cookie);
    let mut held = Vec::with_capacity(nets.len());
    for rtnl in nets {
        match rtnl.lock_within(deadline.unwrap_or(PATIENCE)) {
            Ok(guard) => held.push(guard),
            Err(e) => {
                unlock_all(held);
                return Err(e);
            }
        }
    }
    Ok(held)
}

/// Gives up all of them, then runs what was left, and says how many pieces that were.
pub(super) fn unlock_all(held: Vec<RtnlGuard<'_>>) -> usize {
    let mut left = Todo::default();
    for guard in held.into_iter().rev() {
        let rtnl = guard.rtnl;
        std::mem::forget(guard);
        let mut todo = rtnl.release();
        // The first net's work comes first.
        std::mem::swap(&mut todo, &mut left);
        left.append(todo);
    }
    todo::run(left)
}

/// Locks two nets, in cookie order whichever way they are named.
///
/// # Errors
/// [`LockError::Deadlock`] if they are the same net, or this thread holds one that is not before both.
pub fn lock_two<'a>(a: &'a Rtnl, b: &'a Rtnl) -> Result<RtnlPair<'a>, LockError> {
    let (first, second) = if a.cookie <= b.cookie { (a, b) } else { (b, a) };
    first.acquire(PATIENCE)?;
    if let Err(e) = second.acquire(PATIENCE) {
        todo::run(first.release());
        return Err(e);
    }
    Ok(RtnlPair { first, second, here: PhantomData })
}
