//! What has happened to one device: who did what to it, and when.
//!
//! Whose doing it was is known by where the thread is that tells it: in a plugin's hook, taking in an observation
//! ([`seeing`]), or in neither, where it is the daemon that sets up or undoes. Which devices there are is
//! `devices_past.rs`'s.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::control::wire;
use crate::engine::{Failure, Link, NetdevEvent};
use crate::plugin::running::current_hook;

use super::past::{Answer, Moment, bare_row};

/// Events that are kept of one device.
const MOST_EVENTS: usize = 10;

/// What a thread is doing when events are told outside of any hook.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seeing {
    /// It undoes or sets up: what is told is pernetd's doing.
    Nothing,
    /// It takes in what somebody else did.
    Others,
    /// Somebody else moved a device to another namespace.
    Move,
}

thread_local! {
    static SEEING: Cell<Seeing> = const { Cell::new(Seeing::Nothing) };
}

/// Whether this thread takes in that somebody moved a device away.
pub(super) fn is_a_move() -> bool {
    SEEING.get() == Seeing::Move
}

/// Runs what takes in an observation.
pub(super) fn seeing<T>(what: Seeing, f: impl FnOnce() -> T) -> T {
    let _back = Back(SEEING.replace(what));
    f()
}

/// Puts back what the thread did before, however it ends.
struct Back(Seeing);

impl Drop for Back {
    fn drop(&mut self) {
        SEEING.set(self.0);
    }
}

/// Whose doing it was.
#[derive(Clone, Debug, PartialEq, Eq)]
enum By {
    Somebody,
    Pernetd,
    Plugin(Arc<str>),
}

/// What happened to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Registered,
    Up,
    Down,
    Renamed(Box<str>),
    Mtu(u32),
    Address,
    Upper(u32),
    MovedAway,
    MovedHere(Arc<str>),
    Gone,
    /// A notifier or an operation of its own refused this.
    Refused(Box<(&'static str, Failure)>),
    /// A hook that concerned it answered with an error.
    Answer(Box<Answer>),
}

/// One event.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    at: Moment,
    by: By,
    what: What,
}

/// One device's.
#[derive(Clone, Debug)]
pub(super) struct DevicePast {
    /// As it was told last.
    pub(super) link: Link,
    pub(super) serial: u64,
    /// The plugin that made it.
    pub(super) owner: Option<Arc<str>>,
    /// It went to another namespace.
    pub(super) moved: bool,
    /// It was refused, and so never was.
    pub(super) refused: bool,
    pub(super) entries: VecDeque<Entry>,
    pub(super) left_off: u32,
}

impl DevicePast {
    pub(super) fn new(event: &NetdevEvent<'_>) -> DevicePast {
        let device = event.device;
        DevicePast {
            link: device.link.clone(),
            serial: device.serial,
            owner: device.own.as_ref().map(|own| Arc::clone(&own.owner.name)),
            moved: false,
            refused: false,
            entries: VecDeque::new(),
            left_off: 0,
        }
    }

    /// Takes over what an event has changed.
    pub(super) fn follow(&mut self, what: &What, now: &Link) {
        let link = &mut self.link;
        match what {
            What::Up | What::Down => link.flags = now.flags,
            What::Renamed(_) => link.name.clone_from(&now.name),
            What::Mtu(mtu) => link.mtu = *mtu,
            What::Address => link.address.clone_from(&now.address),
            What::Upper(master) => link.master = *master,
            _ => link.clone_from(now),
        }
    }

    pub(super) fn push(&mut self, what: What) {
        let by = match current_hook() {
            Some(hook) => By::Plugin(hook.plugin),
            None if SEEING.get() == Seeing::Nothing => By::Pernetd,
            None => By::Somebody,
        };
        if self.entries.len() == MOST_EVENTS {
            self.entries.pop_front();
            self.left_off += 1;
        }
        self.entries.push_back(Entry { at: Moment::now(), by, what });
    }

    /// When it came to be up or down, or ended; as far as that was seen.
    pub(super) fn since(&self) -> Option<Moment> {
        let tells = |e: &&Entry| {
            matches!(
                e.what,
                What::Registered | What::Up | What::Down | What::Gone | What::MovedAway | What::MovedHere(_)
            )
        };
        self.entries.iter().rev().find(tells).or_else(|| self.entries.back().filter(|_| self.refused)).map(|e| e.at)
    }

    /// The last refusal or error that has not been followed by its going up: why it is not.
    pub(super) fn obstacle(&self) -> Option<wire::Happening> {
        let after_up = self.entries.iter().rev().take_while(|e| e.what != What::Up);
        let wrong = |e: &&Entry| matches!(e.what, What::Refused(_) | What::Answer(_));
        after_up.into_iter().find(wrong).map(|e| e.row(&self.link.name))
    }

    /// Who set it down last, if it was set down at all since it came.
    pub(super) fn set_down(&self) -> Option<wire::Happening> {
        self.entries.iter().rev().find(|e| e.what == What::Down).map(|e| e.row(&self.link.name))
    }

    pub(super) fn rows(&self) -> Vec<wire::Happening> {
        self.entries.iter().map(|entry| entry.row(&self.link.name)).collect()
    }
}

impl Entry {
    fn row(&self, device: &str) -> wire::Happening {
        let by = match &self.by {
            By::Somebody => "by somebody else".to_owned(),
            By::Pernetd => "by pernetd".to_owned(),
            By::Plugin(plugin) => format!("by plugin {plugin}"),
        };
        let what = match &self.what {
            What::Registered if self.by == By::Somebody => "it came".to_owned(),
            What::Registered => format!("registered {by}"),
            What::Up => format!("set up {by}"),
            What::Down => format!("set down {by}"),
            What::Renamed(old) => format!("renamed {by}; it was {old}"),
            What::Mtu(mtu) => format!("mtu {mtu} set {by}"),
            What::Address => format!("given another hardware address {by}"),
            What::Upper(0) => format!("taken out of its upper device {by}"),
            What::Upper(master) => format!("put under the device with index {master} {by}"),
            What::MovedAway => format!("moved to another namespace {by}"),
            What::MovedHere(from) => format!("moved here from {from}"),
            What::Gone if self.by == By::Somebody => "deleted by somebody else, or with its other end".to_owned(),
            What::Gone => format!("unregistered {by}"),
            What::Refused(refused) => format!("{} was refused", refused.0),
            What::Answer(answer) => answer.told(),
        };
        let row = match &self.what {
            What::Answer(answer) => answer.row(),
            What::Refused(refused) => wire::Happening {
                hook: Some(refused.0.to_owned()),
                error: Some(refused.1.message.clone()),
                errno: Some(crate::control::errno_name(refused.1.errno).into_owned()),
                ..bare_row(self.at, "")
            },
            _ => bare_row(self.at, ""),
        };
        let plugin = if let By::Plugin(plugin) = &self.by { Some(plugin.to_string()) } else { None };
        let (time, first, plugin) = (self.at.text(), self.at.text(), row.plugin.clone().or(plugin));
        wire::Happening { time, first, what, plugin, device: Some(device.to_owned()), ..row }
    }
}

impl DevicePast {
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.link.name == name || self.link.alt_names.iter().any(|alt| alt == name)
    }
}
