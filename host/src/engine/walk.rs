//! One walk over the list by one thread: where the thread is, and what has gone wrong so far.
//!
//! Setups, undoes and device events are all walks. This is the only place where hooks are entered: inside the
//! namespace, under its RTNL, guarded by what the plugin's state allows. It decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::failure::{ENOSYS, EPERM, Failure, HookError};
use super::member::{At, Member, Owner};
use super::net::Net;
use super::pernet::{List, OpRef, PernetList, ReadToken};

/// One thread's way over the list.
pub(super) struct Walk<'a> {
    pub(super) list: &'a List,
    serials: &'a AtomicU64,
    /// Where the thread was brought last.
    inside: Option<Arc<Net>>,
    /// Nothing ran since that may have taken it elsewhere.
    surely: bool,
    pub(super) errors: Vec<HookError>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(list: &'a List, serials: &'a AtomicU64) -> Self {
        Walk { list, serials, inside: None, surely: false, errors: Vec::new() }
    }

    /// Comes home and gives what went wrong.
    pub(super) fn finish(mut self) -> Vec<HookError> {
        let _ = self.home();
        std::mem::take(&mut self.errors)
    }

    pub(super) fn next_serial(&self) -> u64 {
        self.serials.fetch_add(1, Ordering::Relaxed)
    }

    /// Acts at home from here on.
    pub(super) fn home(&mut self) -> Result<(), Failure> {
        let Some(net) = self.inside.take() else { return Ok(()) };
        let came = net.namespace().home();
        if let Err(failure) = &came {
            self.errors.push(own_error(&net, "namespace.home", failure.clone()));
        }
        came
    }

    /// Runs `f` inside the namespace, under its RTNL; then unlocks, which runs what was deferred, still inside.
    ///
    /// Where the thread cannot get inside, `f` does not run: a hook never acts in another namespace than its own.
    pub(super) fn section<R>(&mut self, net: &Arc<Net>, f: impl FnOnce() -> R) -> Result<R, Failure> {
        if !self.surely || !self.inside.as_ref().is_some_and(|here| Arc::ptr_eq(here, net)) {
            net.namespace().enter()?;
            (self.inside, self.surely) = (Some(net.clone()), true);
        }
        let held = net.rtnl().lock()?;
        let answer = f();
        // Work for two nets ends in the other one.
        self.surely = held.unlock() == 0;
        Ok(answer)
    }

    /// Notes an error of a plugin. A panic poisons it.
    pub(super) fn note(&mut self, net: &Net, member: &Member, hook: &'static str, failure: Failure) -> HookError {
        let panicked = failure.panicked;
        let error = HookError { plugin: member.owner.name.clone(), hook, netns: net.name(), failure };
        if panicked {
            member.owner.poison(error.clone());
        }
        self.errors.push(error.clone());
        error
    }

    /// An op's init. Its area is in the slot, and it counts as live, before the unlock.
    pub(super) fn init(&mut self, net: &Arc<Net>, op: &OpRef) -> Result<(), HookError> {
        let Some(areas) = net.tenant(&op.member, |t| t.areas()) else { return Ok(()) };
        let answer = self.section(net, || {
            let area = op.ops().init(&At { net, areas: &areas })?;
            net.tenant(&op.member, |t| t.initialised(op.number, area));
            Ok(())
        });
        answer.and_then(|answer| answer).map_err(|failure| self.note(net, &op.member, "pernet.init", failure))
    }
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        let _ = self.home();
    }
}

/// An error of the daemon's own, not of a plugin.
pub(super) fn own_error(net: &Net, hook: &'static str, failure: Failure) -> HookError {
    HookError { plugin: "pernetd".into(), hook, netns: net.name(), failure }
}

/// What a veto decodes to (K3.3).
pub(super) fn refused() -> Failure {
    Failure::new(EPERM, "the notifier refused (verdict BAD)")
}

/// Runs a plugin's work inside the first of these nets (one or two), under the lock of each, as a hook is run.
///
/// The list is the one of the walk that this thread is in, else the token's, else the current one.
///
/// # Errors
/// The work's own; or it did not run: `EDEADLK` where this thread holds a lock that forbids it, `ETIMEDOUT` where the
/// lock was not free in time, `ESTALE` where no hook of the plugin is in force.
#[expect(unused_variables, reason = "being written")]
pub fn work_in(
    list: &PernetList,
    token: Option<&ReadToken>,
    nets: &[Arc<Net>],
    owner: &Owner,
    patience: Duration,
    f: impl FnOnce(&[At<'_>]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    Err(Failure::new(ENOSYS, "work is not run by the engine yet"))
}
