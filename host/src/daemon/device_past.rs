//! What has happened to the devices of one namespace: who did what to each, and when.
//!
//! The engine tells each event as it tells the notifiers ([`Links::told`](crate::engine::Links::told)), so a namespace that no
//! plugin watches has none. Kept with the namespace: the last events of each device, and the last devices that have gone. A
//! plugin's own device that moves to another namespace takes its past along.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pernet_plugin_api::{EventKind, RegState};

use crate::control::wire;
use crate::engine::{Failure, Link, NetdevEvent};
use crate::plugin::running::current_hook;

use super::past::{Answer, Moment, bare_row};

/// Events that are kept of one device.
const MOST_EVENTS: usize = 10;
/// Devices that have gone and are kept, per namespace.
const MOST_GONE: usize = 4;
/// Plugins' devices on their way.
const MOST_ON_THEIR_WAY: usize = 16;

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

/// Runs what takes in an observation.
pub(super) fn seeing<T>(what: Seeing, f: impl FnOnce() -> T) -> T {
    let before = SEEING.replace(what);
    let answer = f();
    SEEING.set(before);
    answer
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
enum What {
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

#[derive(Clone, Debug)]
struct Entry {
    at: Moment,
    by: By,
    what: What,
}

/// One device's.
#[derive(Clone, Debug)]
pub(super) struct DevicePast {
    /// As it was told last.
    pub(super) link: Link,
    serial: u64,
    /// The plugin that made it.
    pub(super) owner: Option<Arc<str>>,
    /// It went to another namespace.
    pub(super) moved: bool,
    /// It was refused, and so never was.
    pub(super) refused: bool,
    entries: VecDeque<Entry>,
    pub(super) left_off: u32,
}

/// The namespace's devices'. The lock is held for moments.
#[derive(Default)]
pub(super) struct DevicesPast(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// By index.
    here: BTreeMap<u32, Box<DevicePast>>,
    gone: VecDeque<DevicePast>,
}

/// A plugin's own device between two namespaces: its number, where it left, and its past.
type OnItsWay = (u64, Arc<str>, DevicePast);

/// Those that have left a namespace, until they are seen in another.
static ON_THEIR_WAY: Mutex<VecDeque<OnItsWay>> = Mutex::new(VecDeque::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DevicePast {
    fn new(event: &NetdevEvent<'_>) -> DevicePast {
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

    fn push(&mut self, what: What) {
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

/// What of an event is kept; nothing of those that only ask, or go before another.
fn kept_of(event: &NetdevEvent<'_>) -> Option<What> {
    let link = &event.device.link;
    Some(match event.kind {
        EventKind::Register => What::Registered,
        EventKind::Unregister if event.device.reg_state == RegState::Registered => What::MovedAway,
        EventKind::Unregister if SEEING.get() == Seeing::Move && event.device.own.is_none() => What::MovedAway,
        EventKind::Unregister => What::Gone,
        EventKind::Up => What::Up,
        EventKind::Down => What::Down,
        EventKind::ChangeName => What::Renamed(event.old_name.unwrap_or_default().into()),
        EventKind::ChangeMtu => What::Mtu(link.mtu),
        EventKind::ChangeAddr => What::Address,
        EventKind::ChangeUpper => What::Upper(link.master),
        _ => return None,
    })
}

impl DevicesPast {
    /// An event is told.
    pub(super) fn told(&self, event: &NetdevEvent<'_>) {
        let Some(what) = kept_of(event) else { return };
        let mut kept = lock(&self.0);
        match what {
            What::Registered => kept.came(event),
            What::Gone | What::MovedAway => kept.went(event, what),
            what => {
                let past = kept.of(event);
                past.link.clone_from(&event.device.link);
                past.push(what);
            }
        }
    }

    /// Somebody refused what was asked about a plugin's device.
    pub(super) fn refused(&self, event: &NetdevEvent<'_>, failure: &Failure) {
        let what = What::Refused(Box::new((event.kind.hook_name(), failure.clone())));
        let mut kept = lock(&self.0);
        if event.device.reg_state == RegState::Uninitialized {
            return kept.never_came(DevicePast::new(event), what);
        }
        kept.of(event).push(what);
    }

    /// A hook that concerned a device answered with an error.
    pub(super) fn answered(&self, device: &str, index: impl FnOnce() -> Option<(Link, u64)>, answer: Answer) {
        let what = What::Answer(Box::new(answer.clone()));
        let mut kept = lock(&self.0);
        if let Some(past) = kept.here.values_mut().find(|past| past.link.name == device) {
            return past.push(what);
        }
        if let Some(past) = kept.gone.iter_mut().rev().find(|past| past.link.name == device) {
            return past.push(what);
        }
        let blank = |link, serial, owner| {
            let entries = VecDeque::new();
            DevicePast { link, serial, owner, moved: false, refused: false, entries, left_off: 0 }
        };
        match index() {
            Some((link, serial)) => {
                let index = link.ifindex;
                kept.here.entry(index).or_insert_with(|| Box::new(blank(link, serial, None))).push(what);
            }
            // A device of its plugin's that never came to be: an operation of its own said no.
            None if answer.hook.starts_with("netdev.ndo_") => {
                let link = Link { name: device.to_owned(), ..Link::default() };
                kept.never_came(blank(link, 0, Some(answer.plugin)), what);
            }
            None => {}
        }
    }

    /// The past of the device with this index, which is still there.
    pub(super) fn of(&self, index: u32) -> Option<DevicePast> {
        lock(&self.0).here.get(&index).map(|past| (**past).clone())
    }

    /// Those of this name that have gone, the last one first.
    pub(super) fn gone(&self, name: &str) -> Vec<DevicePast> {
        let kept = lock(&self.0);
        kept.gone.iter().rev().filter(|past| past.is_called(name)).cloned().collect()
    }

    /// The names of those that have gone.
    pub(super) fn gone_names(&self) -> Vec<String> {
        lock(&self.0).gone.iter().map(|past| past.link.name.clone()).collect()
    }

    /// The namespace is gone: what is known of its devices, the last one last.
    pub(super) fn take(&self) -> Vec<DevicePast> {
        std::mem::take(&mut lock(&self.0).gone).into()
    }
}

impl DevicePast {
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.link.name == name || self.link.alt_names.iter().any(|alt| alt == name)
    }
}

impl Kept {
    /// What is known of the event's device, from now on if nothing was.
    fn of(&mut self, event: &NetdevEvent<'_>) -> &mut DevicePast {
        let past = self.here.entry(event.device.link.ifindex).or_insert_with(|| Box::new(DevicePast::new(event)));
        if past.serial != event.device.serial {
            **past = DevicePast::new(event);
        }
        past
    }

    fn came(&mut self, event: &NetdevEvent<'_>) {
        let own = event.device.own.as_ref().map(|own| own.id);
        let mut waiting = own.map(|own| (own, lock(&ON_THEIR_WAY)));
        let moved = waiting.as_mut().and_then(|(own, waiting)| {
            let at = waiting.iter().position(|(id, ..)| id == own)?;
            waiting.remove(at)
        });
        drop(waiting);
        let mut past = DevicePast::new(event);
        match moved {
            Some((_, from, before)) => {
                (past.entries, past.left_off) = (before.entries, before.left_off);
                past.push(What::MovedHere(from));
            }
            None => past.push(What::Registered),
        }
        self.here.insert(event.device.link.ifindex, Box::new(past));
    }

    fn went(&mut self, event: &NetdevEvent<'_>, what: What) {
        let device = event.device;
        let known = self.here.get(&device.link.ifindex).is_some_and(|past| past.serial == device.serial);
        // Told again, to those who hold it.
        if !known && self.gone.iter().any(|past| past.serial == device.serial) {
            return;
        }
        let past = if known { self.here.remove(&device.link.ifindex) } else { None };
        let mut past = past.map_or_else(|| DevicePast::new(event), |past| *past);
        past.link.clone_from(&device.link);
        past.moved = what == What::MovedAway;
        past.push(what);
        if let Some(own) = device.own.as_ref().filter(|_| past.moved) {
            let mut waiting = lock(&ON_THEIR_WAY);
            if waiting.len() == MOST_ON_THEIR_WAY {
                waiting.pop_front();
            }
            let from = own.net().map_or_else(|| "another namespace".into(), |net| net.name());
            waiting.push_back((own.id, from, past.clone()));
        }
        // Every namespace has one of these, and it ends with it.
        if device.link.ifindex != 1 {
            self.keep_gone(past);
        }
    }

    fn never_came(&mut self, mut past: DevicePast, what: What) {
        past.refused = true;
        let same = |known: &&mut DevicePast| known.refused && known.link.name == past.link.name;
        if let Some(known) = self.gone.iter_mut().find(same) {
            return known.push(what);
        }
        past.push(what);
        self.keep_gone(past);
    }

    fn keep_gone(&mut self, past: DevicePast) {
        if self.gone.len() == MOST_GONE {
            self.gone.pop_front();
        }
        self.gone.push_back(past);
    }
}
