//! One walk over the list by one thread: where the thread is, and what has gone wrong so far.
//!
//! Setups, undoes, device events, a plugin's work and what a hook asks of the engine are all walks. This is the only
//! place where hooks are entered: inside the namespace, under its RTNL, guarded by what the plugin's state allows. A
//! walk that begins in a hook is *nested*: it takes the outer walk's list, does not lock what the thread holds already,
//! and brings the thread back to where the outer walk was. It decides nothing.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use pernet_plugin_api::NetCookie;

use super::failure::{EPERM, ESTALE, Failure, HookError};
use super::member::{At, Owner};
use super::mirror::NetDevice;
use super::net::Net;
use super::pernet::{List, OpRef, PernetList, ReadToken};
use super::rtnl::{RtnlGuard, lock_all, unlock_all};

/// What a thread's walks know of each other.
struct Frame {
    list: Arc<List>,
    /// Where the thread was brought last.
    inside: Option<Arc<Net>>,
    /// Nothing ran since that may have taken it elsewhere.
    surely: bool,
    /// It is not where the outer walk left it.
    moved: bool,
    /// A hook is running: whatever begins now is inside it.
    in_hook: bool,
    /// The net whose chain is being walked.
    chain: Option<NetCookie>,
    errors: Vec<HookError>,
}

thread_local! {
    /// The walks of this thread, the innermost last.
    static FRAMES: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

/// One thread's way over the list.
pub(super) struct Walk {
    list: Arc<List>,
    /// Its frame.
    depth: usize,
    /// Not `Send`: its frame is this thread's.
    here: PhantomData<*const ()>,
}

impl Walk {
    pub(super) fn new(list: &Arc<List>) -> Self {
        let depth = FRAMES.with_borrow_mut(|frames| {
            let outer = frames.last();
            let inside = outer.and_then(|outer| outer.inside.clone());
            let surely = outer.is_some_and(|outer| outer.in_hook && outer.surely);
            let list = list.clone();
            frames.push(Frame { list, inside, surely, moved: false, in_hook: false, chain: None, errors: Vec::new() });
            frames.len() - 1
        });
        Walk { list: list.clone(), depth, here: PhantomData }
    }

    /// What a hook asks for: a walk in the one that runs the hook, to which it leaves its errors.
    pub(super) fn within<R>(f: impl FnOnce(&mut Walk) -> Result<R, Failure>) -> Result<R, Failure> {
        let list = FRAMES.with_borrow(|frames| frames.last().map(|outer| outer.list.clone()));
        let Some(list) = list else {
            return Err(Failure::new(EPERM, "this thread is in no hook; use run_in"));
        };
        let mut walk = Walk::new(&list);
        let answer = f(&mut walk);
        let errors = walk.finish();
        FRAMES.with_borrow_mut(|frames| frames.last_mut().map(|outer| outer.errors.extend(errors)));
        answer
    }

    /// Comes back and gives what went wrong.
    pub(super) fn finish(self) -> Vec<HookError> {
        self.come_back();
        self.frame(|frame| std::mem::take(&mut frame.errors))
    }

    /// The same where nobody asks what went wrong: it is told to the world of this net.
    pub(super) fn finish_at(self, net: &Net) {
        self.finish().iter().for_each(|error| net.namespace().noted(error));
    }

    fn frame<R>(&self, f: impl FnOnce(&mut Frame) -> R) -> R {
        FRAMES.with_borrow_mut(|frames| f(&mut frames[self.depth]))
    }

    pub(super) fn list(&self) -> Arc<List> {
        self.list.clone()
    }

    pub(super) fn next_serial(&self) -> u64 {
        self.list.next_serial()
    }

    /// Acts at home from here on.
    pub(super) fn home(&mut self) -> Result<(), Failure> {
        let Some(net) = self.frame(|frame| frame.inside.take()) else { return Ok(()) };
        self.frame(|frame| frame.moved = true);
        let came = net.namespace().home();
        if let Err(failure) = &came {
            self.complain(own_error(&net, "namespace.home", failure.clone()));
        }
        came
    }

    /// Brings the thread to where the outer walk was; without one, home.
    fn come_back(&self) {
        let outer = FRAMES.with_borrow(|frames| self.depth.checked_sub(1).and_then(|at| frames[at].inside.clone()));
        let (inside, moved) = self.frame(|frame| (frame.inside.take(), std::mem::take(&mut frame.moved)));
        let came = match (outer, inside) {
            (Some(net), _) if moved => net.namespace().enter().map_err(|e| own_error(&net, "namespace.enter", e)),
            (None, Some(net)) => net.namespace().home().map_err(|e| own_error(&net, "namespace.home", e)),
            _ => Ok(()),
        };
        if let Err(error) = came {
            self.complain(error);
            let outer = self.depth.wrapping_sub(1);
            FRAMES.with_borrow_mut(|frames| frames.get_mut(outer).map(|frame| frame.surely = false));
        }
    }

    /// Acts inside this namespace from here on.
    fn go(&self, net: &Arc<Net>) -> Result<(), Failure> {
        let there = |frame: &mut Frame| frame.surely && frame.inside.as_ref().is_some_and(|at| Arc::ptr_eq(at, net));
        if !self.frame(there) {
            // Before it is tried: a failure may leave the thread anywhere.
            self.frame(|frame| (frame.surely, frame.moved) = (false, true));
            net.namespace().enter()?;
            let before = self.frame(|frame| {
                frame.surely = true;
                frame.inside.replace(net.clone())
            });
            drop(before);
        }
        Ok(())
    }

    /// Runs a hook, or what may run hooks.
    fn hook<R>(&self, f: impl FnOnce() -> R) -> R {
        self.frame(|frame| frame.in_hook = true);
        let answer = f();
        self.frame(|frame| frame.in_hook = false);
        answer
    }

    /// Work that was left behind has run, and may have ended elsewhere.
    fn after(&self, pieces: usize) {
        if pieces > 0 {
            self.frame(|frame| (frame.surely, frame.moved) = (false, true));
        }
    }

    /// Runs `f` inside the namespace, under its RTNL; then unlocks, which runs what was deferred, still inside. What
    /// this thread had locked before stays locked.
    ///
    /// Where the thread cannot get inside, `f` does not run: a hook never acts in another namespace than its own.
    pub(super) fn section<R>(&mut self, net: &Arc<Net>, f: impl FnOnce() -> R) -> Result<R, Failure> {
        self.go(net)?;
        if net.rtnl().held_here() {
            return Ok(self.hook(f));
        }
        let held = net.rtnl().lock()?;
        let answer = self.hook(f);
        self.after(held.unlock());
        Ok(answer)
    }

    /// Locks these nets, as far as this thread has not, without going there. Give them to [`Walk::release`].
    pub(super) fn hold<'n>(&self, nets: &[&'n Net]) -> Result<Vec<RtnlGuard<'n>>, Failure> {
        let missing: Vec<&Net> = nets.iter().copied().filter(|net| !net.rtnl().held_here()).collect();
        Ok(lock_all(missing.iter().map(|net| net.rtnl()), None)?)
    }

    /// Does several things in one RTNL section; what is deferred meanwhile runs at its end.
    pub(super) fn locked<R>(&mut self, net: &Arc<Net>, f: impl FnOnce(&mut Walk) -> R) -> Result<R, Failure> {
        let held = self.hold(&[&**net])?;
        let answer = f(self);
        self.release(held);
        Ok(answer)
    }

    /// Locks these nets, none of which this thread may have locked.
    pub(super) fn lock<'n>(&self, nets: &[&'n Net]) -> Result<Vec<RtnlGuard<'n>>, Failure> {
        Ok(lock_all(nets.iter().map(|net| net.rtnl()), None)?)
    }

    pub(super) fn release(&self, held: Vec<RtnlGuard<'_>>) {
        self.after(unlock_all(held));
    }

    /// Notes an error.
    pub(super) fn complain(&self, error: HookError) {
        self.frame(|frame| frame.errors.push(error));
    }

    /// Notes an error of a plugin. A panic poisons it.
    pub(super) fn note(&mut self, net: &Net, owner: &Owner, hook: &'static str, failure: Failure) -> HookError {
        self.note_about(net, None, owner, hook, failure)
    }

    /// Notes an error of a plugin that is about a device.
    pub(super) fn note_about(
        &mut self,
        net: &Net,
        device: Option<&NetDevice>,
        owner: &Owner,
        hook: &'static str,
        failure: Failure,
    ) -> HookError {
        let panicked = failure.panicked;
        let (plugin, device) = (owner.name.clone(), device.map(|device| device.link.name.as_str().into()));
        let error = HookError { plugin, hook, netns: net.name(), device, failure };
        if panicked {
            owner.poison(error.clone());
        }
        self.complain(error.clone());
        error
    }

    /// Notes what an exit answered, if it was an error.
    pub(super) fn judge(
        &mut self,
        net: &Net,
        owner: &Owner,
        hook: &'static str,
        answer: Result<Result<(), Failure>, Failure>,
    ) {
        if let Err(failure) = answer.and_then(|answer| answer) {
            self.note(net, owner, hook, failure);
        }
    }

    /// An op's init. Its area is in the slot, and it counts as live, before the unlock.
    pub(super) fn init(&mut self, net: &Arc<Net>, op: &OpRef) -> Result<(), HookError> {
        let Some(areas) = net.tenant(&op.member, |t| t.areas()) else { return Ok(()) };
        let answer = self.section(net, || {
            let area = op.ops().init(&At { net, areas: &areas })?;
            net.tenant(&op.member, |t| t.initialised(op.number, area));
            Ok(())
        });
        answer.and_then(|answer| answer).map_err(|failure| self.note(net, &op.member.owner, "pernet.init", failure))
    }

    fn work(
        &mut self,
        nets: &[Arc<Net>],
        (owner, hook): (&Owner, &'static str),
        patience: Duration,
        f: impl FnOnce(&[At<'_>]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let gone = || Failure::new(ESTALE, "the namespace is gone, or the plugin does not act there");
        let first = nets.first().ok_or_else(gone)?;
        let held = lock_all(nets.iter().map(|net| net.rtnl()), Some(patience))?;
        // Under the lock: an exit that was first has taken the plugin away from here.
        let areas: Option<Vec<_>> = nets.iter().map(|net| net.areas_in_force(owner)).collect();
        let answer = areas.ok_or_else(gone).and_then(|areas| {
            let at: Vec<At<'_>> = nets.iter().zip(&areas).map(|(net, areas)| At { net, areas }).collect();
            self.go(first)?;
            self.hook(|| f(&at))
        });
        if let Err(failure) = answer.as_ref().map_err(Failure::clone)
            && failure.panicked
        {
            self.note(first, owner, hook, failure);
        }
        self.release(held);
        answer
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.come_back();
        // Dropped when the frames can be reached again: a net's last owner may be among them.
        let over = FRAMES.with_borrow_mut(|frames| frames.split_off(self.depth));
        drop(over);
    }
}

/// Runs a plugin's work inside the first of these nets (one or two), under the lock of each, as a hook is run.
///
/// The list is the one of the walk that this thread is in, else the token's, else the current one. What goes wrong
/// besides is left to that walk, else told to the first net's world ([`super::Links::noted`]).
///
/// # Errors
/// The work's own; or it did not run: `EDEADLK` where this thread holds a lock that forbids it, `ETIMEDOUT` where the
/// lock was not free in time, `ESTALE` where no hook of the plugin is in force.
pub fn work_in(
    list: &PernetList,
    token: Option<&ReadToken>,
    nets: &[Arc<Net>],
    owner: &Owner,
    patience: Duration,
    f: impl FnOnce(&[At<'_>]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    hook_in(list, token, nets, (owner, "work.run"), patience, f)
}

/// The same for a hook that has a name of its own.
pub(super) fn hook_in(
    list: &PernetList,
    token: Option<&ReadToken>,
    nets: &[Arc<Net>],
    who: (&Owner, &'static str),
    patience: Duration,
    f: impl FnOnce(&[At<'_>]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if FRAMES.with_borrow(|frames| !frames.is_empty()) {
        return Walk::within(|walk| walk.work(nets, who, patience, f));
    }
    let list = token.map_or_else(|| list.current(), |token| token.list().clone());
    let mut walk = Walk::new(&list);
    let answer = walk.work(nets, who, patience, f);
    if let Some(net) = nets.first() {
        walk.finish_at(net);
    }
    answer
}

/// Runs what walks the chain of this net, in the innermost walk, so that whatever begins inside it can tell.
pub(super) fn in_chain_of<R>(net: &Net, f: impl FnOnce() -> R) -> R {
    let set = |chain| FRAMES.with_borrow_mut(|frames| frames.last_mut().map(|frame| frame.chain = chain));
    set(Some(net.cookie));
    let answer = f();
    set(None);
    answer
}

/// Whether this thread is within the chain of this net (K3.8), at any depth.
pub(super) fn is_in_chain_of(net: &Net) -> bool {
    FRAMES.with_borrow(|frames| frames.iter().any(|frame| frame.chain == Some(net.cookie)))
}

/// An error of the daemon's own, not of a plugin.
pub(super) fn own_error(net: &Net, hook: &'static str, failure: Failure) -> HookError {
    HookError { plugin: "pernetd".into(), hook, netns: net.name(), device: None, failure }
}

/// What a veto decodes to (K3.3).
pub(super) fn refused() -> Failure {
    Failure::new(EPERM, "the notifier refused (verdict BAD)")
}
