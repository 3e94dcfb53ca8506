//! Which hook each thread is in: for the logs' attribution, for `EDEADLK`, and for the operator who asks what hangs.
//!
//! Each thread has its own slot, which only it writes; who asks for all of them takes each slot's lock for a moment.
//! Hooks can nest (work that a hook runs in another namespace), so a slot is a stack.

use super::call::Hook;
use super::device_name::DeviceName;
use pernet_plugin_api::NetCookie;
use rustix::thread::{Pid, gettid};
use std::cell::OnceCell;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A hook that is being called.
#[derive(Clone, Debug)]
pub struct Running {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// Which instance of it.
    pub generation: u64,
    /// As the operator sees it: `pernet.init`, …
    pub hook: &'static str,
    /// The namespace it is in, the later one of two; none for what runs at home.
    pub cookie: Option<NetCookie>,
    /// The earlier one of two.
    pub(super) other: Option<NetCookie>,
    /// That namespace's name; empty for what runs at home. Of what is called from anywhere, the one that it concerns.
    pub netns: Arc<str>,
    /// The device that it is about, if any.
    pub device: DeviceName,
    /// It is called from anywhere, and nothing is held for it.
    pub(super) is_free: bool,
    /// Since when.
    pub since: Instant,
    pub(super) token: u64,
}

impl Running {
    /// Whether both are the same call.
    #[must_use]
    pub fn is_same_call(&self, other: &Running) -> bool {
        (self.token, self.since, self.hook) == (other.token, other.since, other.hook)
    }
}

type Stack = Mutex<Vec<Running>>;

/// A thread's hooks, the innermost last.
struct Slot {
    thread: Pid,
    stack: Stack,
}

static SLOTS: Mutex<Vec<Weak<Slot>>> = Mutex::new(Vec::new());

thread_local! {
    static SLOT: OnceCell<Arc<Slot>> = const { OnceCell::new() };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This thread's stack; none while the thread ends.
fn with_slot<R>(f: impl FnOnce(&Stack) -> R) -> Option<R> {
    SLOT.try_with(|slot| f(&slot.get_or_init(new_slot).stack)).ok()
}

fn new_slot() -> Arc<Slot> {
    let slot = Arc::new(Slot { thread: gettid(), stack: Stack::default() });
    let mut all = lock(&SLOTS);
    // Threads that ended leave a dead entry; a new one is the moment to sweep.
    all.retain(|s| s.strong_count() > 0);
    all.push(Arc::downgrade(&slot));
    slot
}

/// All hooks that are being called now, in no order.
#[must_use]
pub fn running() -> Vec<Running> {
    slots().iter().flat_map(|slot| lock(&slot.stack).clone()).collect()
}

fn slots() -> Vec<Arc<Slot>> {
    lock(&SLOTS).iter().filter_map(Weak::upgrade).collect()
}

/// The thread that is in this call, by the kernel's number, as long as it is.
#[must_use]
pub fn thread_of(call: &Running) -> Option<i32> {
    let inside = |slot: &&Arc<Slot>| lock(&slot.stack).iter().any(|hook| hook.is_same_call(call));
    slots().iter().find(inside).map(|slot| slot.thread.as_raw_nonzero().get())
}

/// The hooks that are being called for longer than this: what pins a namespace or hangs.
#[must_use]
pub fn running_for_longer_than(limit: Duration) -> Vec<Running> {
    running().into_iter().filter(|r| r.since.elapsed() > limit).collect()
}

/// The innermost hook of the calling thread.
#[must_use]
pub fn current_hook() -> Option<Running> {
    with_slot(|slot| lock(slot).last().cloned()).flatten()
}

/// Whether the calling thread is in a hook that runs where and while the engine says: it has a seat, and may hold locks.
#[must_use]
pub fn in_engine() -> bool {
    with_slot(|slot| lock(slot).iter().any(|hook| !hook.is_free)).unwrap_or(false)
}

/// What the calling thread's hooks hold, as far as waiting for a namespace is concerned.
pub(super) enum Held {
    /// It is in no hook.
    Nothing,
    /// Its hooks are in namespaces, this being the last in lock order.
    UpTo(NetCookie),
    /// It is in a hook that runs at home, under the pernet list's lock.
    Everything,
}

pub(super) fn held_by_this_thread() -> Held {
    let held = with_slot(|slot| {
        lock(slot).iter().filter(|hook| !hook.is_free).fold(Held::Nothing, |held, hook| match (held, hook.cookie) {
            (Held::Everything, _) | (_, None) => Held::Everything,
            (Held::Nothing, Some(cookie)) => Held::UpTo(cookie),
            (Held::UpTo(most), Some(cookie)) => Held::UpTo(most.max(cookie)),
        })
    });
    held.unwrap_or(Held::Nothing)
}

/// Whether the calling thread is in a hook of this namespace, and so has its lock.
pub(super) fn holds(cookie: NetCookie) -> bool {
    let is_in = |hook: &Running| [hook.cookie, hook.other].contains(&Some(cookie));
    with_slot(|slot| lock(slot).iter().any(is_in)).unwrap_or(false)
}

/// While it lives, its thread is shown as being in a hook.
pub(super) struct Guard {
    pub(super) since: Instant,
    // It belongs to its thread's stack.
    _not_send: PhantomData<*const ()>,
}

impl Guard {
    pub(super) fn enter(hook: Running) -> Self {
        let since = hook.since;
        with_slot(|slot| lock(slot).push(hook));
        Guard { since, _not_send: PhantomData }
    }

    /// For what is called at home and for no instance.
    pub(super) fn without_instance(plugin: &Arc<str>, hook: Hook) -> Self {
        let (plugin, netns, since) = (Arc::clone(plugin), Arc::from(""), Instant::now());
        Self::enter(Running {
            plugin,
            generation: 0,
            hook: hook.as_str(),
            cookie: None,
            other: None,
            netns,
            device: DeviceName::default(),
            is_free: false,
            since,
            token: 0,
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        with_slot(|slot| lock(slot).pop());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(cookie: Option<u64>) -> Running {
        let (plugin, netns) = (Arc::from("p"), Arc::from("n"));
        let cookie = cookie.map(NetCookie);
        Running {
            plugin,
            generation: 1,
            hook: "pernet.init",
            cookie,
            other: None,
            netns,
            device: DeviceName::default(),
            is_free: false,
            since: Instant::now(),
            token: 77,
        }
    }

    #[test]
    fn nested_hooks_are_seen_and_taken_back() {
        assert!(current_hook().is_none());
        let outer = Guard::enter(hook(Some(5)));
        let inner = Guard::enter(hook(Some(3)));
        assert!(matches!(held_by_this_thread(), Held::UpTo(NetCookie(5))), "the outer one is still held");
        let seen = std::thread::spawn(|| running().iter().filter(|r| r.token == 77).count()).join().expect("no panic");
        assert_eq!(seen, 2, "another thread sees both");
        let call =
            running().into_iter().find(|r| r.token == 77 && r.cookie == Some(NetCookie(3))).expect("it is there");
        let found = std::thread::spawn(move || thread_of(&call)).join().expect("no panic");
        assert_eq!(found, Some(gettid().as_raw_nonzero().get()), "and which one is in it");
        drop(inner);
        let home = Guard::enter(hook(None));
        assert!(matches!(held_by_this_thread(), Held::Everything));
        drop((home, outer));
        assert!(current_hook().is_none());
    }

    #[test]
    fn what_is_called_from_anywhere_holds_nothing() {
        let anywhere = || Guard::enter(Running { is_free: true, ..hook(None) });
        let first = anywhere();
        assert!(matches!(held_by_this_thread(), Held::Nothing) && !in_engine());
        assert!(current_hook().is_some(), "it is shown all the same");
        drop(first);
        let outer = Guard::enter(hook(Some(5)));
        let inner = anywhere();
        assert!(matches!(held_by_this_thread(), Held::UpTo(NetCookie(5))) && in_engine());
        drop((inner, outer));
    }
}
