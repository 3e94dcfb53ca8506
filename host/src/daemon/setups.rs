//! What each namespace's last setup was: every hook with its time and result, and the total.
//!
//! Every setup pays for this, so it costs little: hooks that end on a thread whose job is a setup are noted in a buffer of
//! that thread's own, without a lock; at the end they are copied into one piece of memory, which takes the place of
//! the last setup's. A namespace with very many devices and hooks keeps the first [`MOST`] of them.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::control::errno_name;
use crate::control::wire::{self, HookResult};
use crate::engine::{Failure, HookError, Net, NetState};
use crate::plugin::{DeviceName, HookRecord};

use super::boot::micros;
use super::past::{bare_row, span};
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
    error: Option<Box<Failure>>,
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
            error: record.result.err().map(|failure| Box::new(failure.clone())),
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

impl Setup {
    /// What was taken back in it: exits, and what went wrong in that. Of one that was not rolled back, nothing.
    pub(super) fn undone(&self, netns: &str) -> Vec<wire::Happening> {
        let undoes =
            |hook: &&HookTime| hook.hook == "pernet.exit" || (hook.error.is_some() && hook.hook.contains("exit"));
        self.hooks.iter().filter(undoes).map(|hook| self.happening(hook, netns)).collect()
    }

    fn happening(&self, hook: &HookTime, netns: &str) -> wire::Happening {
        let at = self.time + Duration::from_micros(hook.start.into());
        let plugin = &hook.plugin;
        let what = match (hook.hook, &hook.error) {
            ("pernet.exit", None) => format!("the init of {plugin} was undone"),
            (hook, None) => format!("{hook} of {plugin} was called"),
            (hook, Some(_)) => format!("{hook} of {plugin} failed, and the undo went on"),
        };
        wire::Happening {
            plugin: Some(plugin.to_string()),
            hook: Some(hook.hook.to_owned()),
            netns: Some(netns.to_owned()),
            device: hook.device.as_str().map(str::to_owned),
            error: hook.error.as_ref().map(|failure| failure.message.clone()),
            errno: hook.error.as_ref().map(|failure| errno_name(failure.errno).into_owned()),
            duration_us: Some(hook.took.into()),
            ..bare_row(at.into(), what)
        }
    }

    /// When it began, how long it took, and how many hooks it had.
    pub(super) fn told(&self) -> (SystemTime, Duration, usize) {
        (self.time, self.total, self.hooks.len() + self.left_off as usize)
    }

    /// The one that took longest.
    pub(super) fn slowest(&self) -> Option<String> {
        let hook = self.hooks.iter().max_by_key(|hook| hook.took)?;
        let device = hook.device.as_str().map_or_else(String::new, |device| format!(" of {device}"));
        let took = span(Duration::from_micros(hook.took.into()));
        Some(format!("{} of {}{device}, {took}", hook.hook, hook.plugin))
    }

    /// The init that failed in it, else whatever else did first.
    pub(super) fn error(&self, netns: &str) -> Option<HookError> {
        let wrong = || self.hooks.iter().filter(|hook| hook.error.is_some());
        let hook = wrong().find(|hook| hook.hook == "pernet.init").or_else(|| wrong().next())?;
        let failure = (**hook.error.as_ref()?).clone();
        let (plugin, device) = (Arc::clone(&hook.plugin), hook.device.as_str().map(Into::into));
        Some(HookError { plugin, hook: hook.hook, netns: netns.into(), device, failure })
    }

    /// When, and for how long, the hook ran that answered with this error.
    pub(super) fn failing(&self, plugin: &str, hook: &str) -> Option<(SystemTime, Duration)> {
        let same = |it: &&HookTime| *it.plugin == *plugin && it.hook == hook && it.error.is_some();
        let found = self.hooks.iter().find(same)?;
        Some((self.time + Duration::from_micros(found.start.into()), Duration::from_micros(found.took.into())))
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
            error: self.error.as_ref().map(|failure| failure.message.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_of_a_setup_is_small() {
        assert!(size_of::<HookTime>() <= 64);
    }

    #[test]
    fn hooks_are_noted_in_a_setup_only_and_no_more_than_are_kept() {
        let plugin: Arc<str> = "p".into();
        let hook = |hook| HookRecord {
            plugin: &plugin,
            hook,
            netns: &plugin,
            cookie: None,
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
