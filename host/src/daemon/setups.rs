//! What each namespace's last setup was: every hook with its time and result, and the total.
//!
//! Every setup pays for this, so it costs little: hooks that end on a thread whose job is a setup are noted in a buffer of
//! that thread's own, without a lock; at the end they are copied into one piece of memory, which takes the place of
//! the last setup's. A namespace with very many devices and hooks keeps the first [`MOST`] of them.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::control::wire::{self, HookResult};
use crate::engine::{Net, NetState};
use crate::plugin::{DeviceName, HookRecord};

use super::boot::micros;
use super::requests::state_word;

/// Hooks of one setup that are kept.
const MOST: usize = 256;

/// One hook of a setup.
#[derive(Clone)]
struct HookTime {
    plugin: Arc<str>,
    hook: &'static str,
    device: DeviceName,
    /// Since the setup began; microseconds, as what follows.
    start: u32,
    took: u32,
    error: Option<Box<str>>,
}

/// A setup that is over. A copy shares what is large.
#[derive(Clone)]
pub(crate) struct Setup {
    time: SystemTime,
    state: NetState,
    pub(super) total: Duration,
    hooks: Arc<[HookTime]>,
    /// How many more there were.
    left_off: u32,
}

/// What this thread's setup has come to so far.
#[derive(Default)]
struct Recording {
    /// None while the thread does something else.
    since: Option<Instant>,
    hooks: Vec<HookTime>,
    left_off: u32,
}

thread_local! {
    static RECORDING: RefCell<Recording> = const { RefCell::new(Recording { since: None, hooks: Vec::new(), left_off: 0 }) };
}

/// Records while it lives: a setup that panics leaves nothing behind for the thread's next one.
struct Running;

impl Running {
    fn begin(since: Instant) -> Self {
        RECORDING.with_borrow_mut(|recording| recording.since = Some(since));
        Running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RECORDING.with_borrow_mut(|recording| {
            recording.since = None;
            recording.hooks.clear();
            recording.left_off = 0;
        });
    }
}

/// Does a net's setup, and records it.
pub(super) fn record(net: &Net, setup: impl FnOnce()) -> Setup {
    let (time, since) = (SystemTime::now(), Instant::now());
    let running = Running::begin(since);
    setup();
    let total = since.elapsed();
    let (hooks, left_off) = RECORDING.with_borrow(|recording| (recording.hooks.as_slice().into(), recording.left_off));
    drop(running);
    Setup { time, state: net.state(), total, hooks, left_off }
}

/// A hook has ended on this thread; it is noted if the thread is at a setup.
pub(super) fn note(record: &HookRecord<'_>) {
    RECORDING.with_borrow_mut(|recording| {
        let Some(since) = recording.since else { return };
        if recording.hooks.len() == MOST {
            recording.left_off += 1;
            return;
        }
        recording.hooks.push(HookTime {
            plugin: Arc::clone(record.plugin),
            hook: record.hook,
            device: record.device.map(DeviceName::new).unwrap_or_default(),
            start: short_micros(record.since.saturating_duration_since(since)),
            took: short_micros(record.duration),
            error: record.result.err().map(|failure| failure.message.as_str().into()),
        });
    });
}

/// An hour and eleven minutes, at most.
fn short_micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

impl Setup {
    /// For the operator.
    pub(super) fn row(&self, net: &Net) -> wire::NetnsSetup {
        wire::NetnsSetup {
            netns: net.name().to_string(),
            cookie: net.cookie.0,
            time: wire::time(self.time),
            state: state_word(self.state),
            total_us: micros(self.total),
            hooks: self.hooks.iter().map(HookTime::row).collect(),
            left_off: self.left_off.into(),
        }
    }
}

impl HookTime {
    fn row(&self) -> wire::SetupHook {
        wire::SetupHook {
            plugin: self.plugin.to_string(),
            hook: self.hook.to_owned(),
            device: self.device.as_str().map(str::to_owned),
            start_us: self.start.into(),
            duration_us: self.took.into(),
            result: if self.error.is_some() { HookResult::error } else { HookResult::ok },
            error: self.error.as_deref().map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_of_a_setup_is_small() {
        assert!(size_of::<HookTime>() <= 72);
    }

    #[test]
    fn hooks_are_noted_in_a_setup_only_and_no_more_than_are_kept() {
        let plugin: Arc<str> = "p".into();
        let hook = |hook| HookRecord {
            plugin: &plugin,
            hook,
            netns: &plugin,
            device: None,
            result: Ok(()),
            since: Instant::now(),
            duration: Duration::ZERO,
        };
        let noted = || RECORDING.with_borrow(|r| (r.hooks.len(), r.left_off));
        note(&hook("pernet.init"));
        assert_eq!(noted(), (0, 0));
        let running = Running::begin(Instant::now());
        (0..MOST + 2).for_each(|_| note(&hook("pernet.init")));
        assert_eq!(noted(), (MOST, 2));
        drop(running);
        assert_eq!(noted(), (0, 0));
    }
}
