//! What has happened to the devices of one namespace, those that have gone included.
//!
//! The engine tells each event as it tells the notifiers ([`Links::told`](crate::engine::Links::told)), so a namespace that no
//! plugin watches has none. Kept with the namespace: the last events of each device, and the last devices that have gone. A
//! plugin's own device that moves to another namespace takes its past along.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pernet_plugin_api::{EventKind, RegState};

use crate::engine::{Failure, Link, NetdevEvent, OwnDevice};

use super::device_past::{DevicePast, What, is_a_move};
use super::past::Answer;

/// Devices that have gone and are kept, per namespace.
const MOST_GONE: usize = 4;
/// Plugins' devices on their way.
const MOST_ON_THEIR_WAY: usize = 16;

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

fn take_from_its_way(own: u64) -> Option<OnItsWay> {
    let mut waiting = lock(&ON_THEIR_WAY);
    let at = waiting.iter().position(|(id, ..)| *id == own)?;
    waiting.remove(at)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What of an event is kept; nothing of those that only ask, or go before another.
fn kept_of(event: &NetdevEvent<'_>) -> Option<What> {
    let link = &event.device.link;
    Some(match event.kind {
        EventKind::Register => What::Registered,
        EventKind::Unregister if event.device.reg_state == RegState::Registered => What::MovedAway,
        EventKind::Unregister if is_a_move() && event.device.own.is_none() => What::MovedAway,
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
                past.follow(&what, &event.device.link);
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

    /// A plugin's own device has come from elsewhere, and was seen here before it was known to be that: its past goes on.
    pub(super) fn arrived(&self, own: &OwnDevice) {
        let Some(device) = own.device() else { return };
        let mut kept = lock(&self.0);
        let Some(past) = kept.here.get_mut(&device.link.ifindex).filter(|past| past.serial == device.serial) else {
            return;
        };
        let Some((_, from, before)) = take_from_its_way(own.id) else { return };
        (past.entries, past.left_off, past.owner) = (before.entries, before.left_off, before.owner);
        past.push(What::MovedHere(from));
    }

    /// The past of the device with this index, which is still there. The serial tells it from one that had the index before,
    /// and went while nobody watched.
    pub(super) fn of(&self, index: u32, serial: u64) -> Option<DevicePast> {
        lock(&self.0).here.get(&index).filter(|past| past.serial == serial).map(|past| (**past).clone())
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
        let moved = event.device.own.as_ref().and_then(|own| take_from_its_way(own.id));
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
