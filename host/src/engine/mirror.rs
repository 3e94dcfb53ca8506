//! The mirror of a namespace's devices, and the events that follow from comparing it with what the kernel says.
//!
//! Mirrors `struct net_device` as far as it can be observed. An observation is compared with what was known; the
//! differences are applied one at a time, and each is told to the notifier chain, so a live message, a resync and a
//! late start take the same path. A device's identity is (cookie, ifindex, serial): an ifindex comes back.
//!
//! Devices that plugins make themselves stand here too, with their owner (`netdev.rs`).

use std::sync::Arc;

use pernet_plugin_api::{EventKind, RegState};

use super::failure::HookError;
use super::links::{IFF_OPERATIONAL, IFF_UP, Link, Wanted};
use super::make::alias;
use super::net::Net;
use super::netdev::OwnDevice;
use super::notifier::NetdevEvent;
use super::pernet::ReadToken;
use super::relocate::Departed;
use super::undo::Who;
use super::unregister::Kernel;
use super::walk::{Walk, own_error};

/// A device in the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetDevice {
    /// What the kernel last said, as far as it has been told.
    pub link: Link,
    /// Given at each registration, and never again.
    pub serial: u64,
    /// Where it stands.
    pub reg_state: RegState,
    /// A plugin's; `None` for one that the kernel made.
    pub own: Option<Arc<OwnDevice>>,
}

/// What was seen of a namespace's links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkObservation {
    /// A live message: this link is so now.
    Seen(Link),
    /// A live message: this link is gone.
    Gone {
        /// Its index.
        ifindex: u32,
        /// Somebody moved it: the id of its new namespace, as this one knows it, and its index there.
        moved: Option<(i32, u32)>,
    },
    /// Everything that there is, after a loss or a late start. What is not in it is gone.
    Dump(Vec<Link>),
}

/// An observation, and its place in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The number of the last fence that was read before it ([`super::Links::fence`]); of a dump, of the last that was sent before
    /// the list was begun.
    pub fence: u64,
    /// What was seen.
    pub what: LinkObservation,
}

/// What followed from an observation.
#[derive(Debug, Default)]
pub struct Seen {
    /// What went wrong, in order.
    pub errors: Vec<HookError>,
    /// Plugins' devices that somebody moved away: each goes to [`super::arrived`] or [`super::lost`].
    pub departed: Vec<Departed>,
    /// It could not be taken in: list the devices again.
    pub lost: bool,
}

/// By ifindex: the order in which what exists is told. So `lo` is first, whatever it is called (K1.6: it has 1).
pub(super) fn sort_links(links: &mut [Link]) {
    links.sort_by_key(|link| link.ifindex);
}

/// Whether both can be the same device. A kind never changes. A hardware address may, in a live message; but after a
/// loss an ifindex with another address is taken for another device, since the messages that would tell are lost.
fn same_device(known: &Link, seen: &Link, after_loss: bool) -> bool {
    known.kind == seen.kind && (!after_loss || known.address == seen.address)
}

/// What turns `known` into `seen`, in the order in which it is told.
///
/// The name first, so that every later event calls the device what it is called. Going down before, going up after
/// the settings: as the kernel's own tools do it, and what is told to be up has its settings. Other flags last.
pub(super) fn changes(known: &Link, seen: &Link) -> Vec<EventKind> {
    let mut kinds = Vec::new();
    let flipped = known.flags ^ seen.flags;
    let toggled = flipped & IFF_UP != 0;
    let implied = if toggled { IFF_UP | IFF_OPERATIONAL } else { IFF_UP };
    let mut differs = |is: bool, kind: &[EventKind]| kinds.extend(kind.iter().filter(|_| is));
    differs(known.name != seen.name, &[EventKind::ChangeName]);
    differs(toggled && known.is_up(), &[EventKind::GoingDown, EventKind::Down]);
    differs(known.address != seen.address, &[EventKind::ChangeAddr]);
    differs(known.mtu != seen.mtu, &[EventKind::ChangeMtu]);
    differs(known.master != seen.master, &[EventKind::ChangeUpper]);
    differs(toggled && seen.is_up(), &[EventKind::Up]);
    differs(flipped & !implied != 0, &[EventKind::Change]);
    kinds
}

/// Applies the part of `seen` that an event of this kind tells.
pub(super) fn apply(link: &mut Link, kind: EventKind, seen: &Link) {
    match kind {
        EventKind::ChangeName => link.name.clone_from(&seen.name),
        EventKind::ChangeAddr => link.address.clone_from(&seen.address),
        EventKind::ChangeMtu => link.mtu = seen.mtu,
        EventKind::ChangeUpper => link.master = seen.master,
        EventKind::Up | EventKind::Down => {
            let with = IFF_UP | IFF_OPERATIONAL;
            link.flags = link.flags & !with | seen.flags & with;
        }
        EventKind::Change => link.flags = seen.flags,
        // Told while the device is still shown as up; the two ends of a life have no part.
        _ => {}
    }
}

/// Takes an observation into the mirror and tells the chain what follows. Nothing happens where nobody watches, or what
/// was seen is older than what was done here.
pub fn links_seen(token: &ReadToken, net: &Arc<Net>, seen: Observed) -> Seen {
    let Some(owns) = net.admits(&seen) else { return Seen::default() };
    let mut walk = Walk::new(token.list());
    if !owns {
        let departed = walk.observed(net, seen);
        return Seen { errors: walk.finish(), departed, lost: false };
    }
    // What is done to plugins' own devices is done under the lock, and comparing must not come in between.
    let held = match walk.hold(&[&**net]) {
        Ok(held) => held,
        Err(failure) => {
            walk.complain(own_error(net, "namespace.links", failure));
            return Seen { errors: walk.finish(), departed: Vec::new(), lost: true };
        }
    };
    let departed = if net.admits(&seen).is_some() { walk.observed(net, seen) } else { Vec::new() };
    walk.release(held);
    Seen { errors: walk.finish(), departed, lost: false }
}

/// The device with this index, as the mirror has it.
pub(super) fn find(net: &Net, ifindex: u32) -> Option<Arc<NetDevice>> {
    let record = net.record();
    let at = record.devices.binary_search_by_key(&ifindex, |d| d.link.ifindex).ok()?;
    record.devices.get(at).cloned()
}

/// The kernel's own device that the mirror has under this name.
fn named(net: &Net, name: &str) -> Option<Arc<NetDevice>> {
    let has_it = |device: &&Arc<NetDevice>| device.own.is_none() && device.link.name == name;
    net.record().devices.iter().find(has_it).cloned()
}

/// Puts a device into the mirror, in the place of one with its index.
pub(super) fn put(net: &Net, device: Arc<NetDevice>) {
    if let Some(own) = &device.own {
        own.is_now(&device);
    }
    let mut record = net.record();
    match record.devices.binary_search_by_key(&device.link.ifindex, |d| d.link.ifindex) {
        Ok(at) => record.devices[at] = device,
        Err(at) => record.devices.insert(at, device),
    }
}

/// Takes a device out of the mirror.
pub(super) fn remove(net: &Net, device: &NetDevice) {
    let mut record = net.record();
    let at = record.devices.binary_search_by_key(&device.link.ifindex, |d| d.link.ifindex);
    if let Some(at) = at.ok().filter(|at| record.devices[*at].serial == device.serial) {
        record.devices.remove(at);
    }
}

/// Devices in registration order; `lo` (ifindex 1) is the oldest, whatever its serial.
pub(super) fn oldest_first(net: &Net) -> Vec<Arc<NetDevice>> {
    let mut devices = net.devices();
    devices.sort_by_key(|d| (d.link.ifindex != 1, d.serial));
    devices
}

impl Walk {
    fn observed(&mut self, net: &Arc<Net>, seen: Observed) -> Vec<Departed> {
        match seen.what {
            LinkObservation::Seen(link) => self.observe(net, &link, false),
            LinkObservation::Gone { ifindex, moved } => {
                let Some(device) = find(net, ifindex) else { return Vec::new() };
                if let (Some(own), Some((nsid, there))) = (&device.own, moved) {
                    return self.depart(net, own, nsid, there).into_iter().collect();
                }
                self.unregister_device(net, &device, Who::All, false);
            }
            LinkObservation::Dump(links) => self.merge(net, links, seen.fence),
        }
        Vec::new()
    }

    /// Brings the mirror to a full list: what is missing goes, newest first; then the rest, `lo` first.
    fn merge(&mut self, net: &Arc<Net>, mut links: Vec<Link>, fence: u64) {
        sort_links(&mut links);
        // What was done to a device since the list was begun is newer than the list.
        let ahead = |device: &NetDevice| net.record().is_ahead(device.link.ifindex, fence);
        for device in oldest_first(net).iter().rev().filter(|device| !ahead(device)) {
            if links.binary_search_by_key(&device.link.ifindex, |link| link.ifindex).is_err() {
                self.unregister_device(net, device, Who::All, false);
            }
        }
        for link in links.iter().filter(|link| !net.record().is_stale(link, fence)) {
            self.observe(net, link, true);
        }
    }

    /// One link against the mirror.
    pub(super) fn observe(&mut self, net: &Arc<Net>, seen: &Link, after_loss: bool) {
        let Some(known) = find(net, seen.ifindex) else {
            return self.register_seen(net, seen);
        };
        if !same_device(&known.link, seen, after_loss) && !self.is_still(net, &known, seen) {
            self.unregister_device(net, &known, Who::All, false);
            return self.register_seen(net, seen);
        }
        if let Some(own) = &known.own {
            return self.observe_own(net, own, seen);
        }
        if known.link.name != seen.name && self.is_anothers(net, seen) {
            return;
        }
        let mut device = known;
        if device.link.alt_names != seen.alt_names {
            // No event tells it (K2.1(9)).
            device = replace(net, &device, |link| link.alt_names.clone_from(&seen.alt_names));
        }
        for kind in changes(&device.link, seen) {
            let old_name = (kind == EventKind::ChangeName).then(|| device.link.name.clone());
            device = replace(net, &device, |link| apply(link, kind, seen));
            let event = NetdevEvent { old_name: old_name.as_deref(), ..NetdevEvent::new(kind, &device) };
            self.tell(net, Who::All, &event);
        }
    }

    fn register_seen(&mut self, net: &Arc<Net>, seen: &Link) {
        if self.make_way(net, seen) {
            self.register_device(net, seen);
        }
    }

    /// Names are unique in a namespace, so who is mirrored under the name of a new device has lost it, and the message of
    /// that was lost: its end, or its new name, is told first. A plugin's own device is not judged by that.
    ///
    /// False where it has the name still: a list that followed a loss is newer than messages that were read after it, and
    /// what was seen is one of these. How it lost the name comes behind it.
    fn make_way(&mut self, net: &Arc<Net>, seen: &Link) -> bool {
        let Some(holder) = named(net, &seen.name) else { return true };
        match self.section(net, || net.namespace().look(holder.link.ifindex)).and_then(|link| link) {
            Ok(None) => self.unregister_device(net, &holder, Who::All, false),
            Ok(Some(now)) if now.name != seen.name => self.observe(net, &now, true),
            Ok(Some(_)) => return false,
            Err(failure) => self.complain(own_error(net, "netdev.look", failure)),
        }
        true
    }

    /// Whether another device has this name in truth: then this message of a rename is older than the last list.
    fn is_anothers(&mut self, net: &Arc<Net>, seen: &Link) -> bool {
        let Some(holder) = named(net, &seen.name) else { return false };
        let now = self.section(net, || net.namespace().look(holder.link.ifindex)).and_then(|link| link);
        matches!(now, Ok(Some(now)) if now.name == seen.name)
    }

    /// A plugin's own device that comes out of a loss with another address: it has its mark, or it is not its plugin's to
    /// change and to delete.
    fn is_still(&mut self, net: &Arc<Net>, known: &NetDevice, seen: &Link) -> bool {
        let Some(own) = known.own.as_ref().filter(|_| known.link.kind == seen.kind) else { return false };
        let alias = alias(own);
        let wanted = Wanted { spec: &own.spec, name: &seen.name, alias: &alias };
        let marked = self.section(net, || net.namespace().is_left(&wanted)).and_then(|marked| marked);
        marked.map_err(|failure| self.complain(own_error(net, "netdev.is_left", failure))).unwrap_or(false)
    }

    pub(super) fn register_device(&mut self, net: &Arc<Net>, seen: &Link) {
        let device = self.mirror_device(net, seen.clone());
        self.tell(net, Who::All, &NetdevEvent::new(EventKind::Register, &device));
        if device.link.is_up() {
            self.tell(net, Who::All, &NetdevEvent::new(EventKind::Up, &device));
        }
    }

    /// Puts a link into the mirror as a new device, telling nobody.
    pub(super) fn mirror_device(&mut self, net: &Net, link: Link) -> Arc<NetDevice> {
        let (serial, reg_state) = (self.next_serial(), RegState::Registered);
        let device = Arc::new(NetDevice { link, serial, reg_state, own: None });
        put(net, device.clone());
        device
    }

    /// Tells that a device goes: GOING_DOWN and DOWN if it was up, then UNREGISTER. As a replay (to some, who go) the
    /// device stays as it is; otherwise it leaves the mirror before anybody hears UNREGISTER, as in the kernel (K2.5),
    /// and if it is a plugin's own it ends.
    pub(super) fn unregister_device(&mut self, net: &Arc<Net>, device: &Arc<NetDevice>, who: Who<'_>, replay: bool) {
        if let Some(own) = device.own.as_ref().filter(|_| !replay) {
            let _ = self.unregister_own(vec![(own.clone(), Kernel::Gone)]);
            return;
        }
        let mut last = (**device).clone();
        let told = |kind, device: &NetDevice, walk: &mut Walk| {
            walk.tell(net, who, &NetdevEvent { replay, ..NetdevEvent::new(kind, device) });
        };
        if last.link.is_up() {
            told(EventKind::GoingDown, &last, self);
            if !replay {
                last.link.flags &= !(IFF_UP | IFF_OPERATIONAL);
            }
            told(EventKind::Down, &last, self);
        }
        if !replay {
            remove(net, device);
            last.reg_state = RegState::Unregistering;
        }
        told(EventKind::Unregister, &last, self);
        if !replay {
            net.resolve_device_error(None, device.link.ifindex);
        }
    }
}

/// Puts a device's next state into the mirror.
pub(super) fn replace(net: &Net, device: &NetDevice, change: impl FnOnce(&mut Link)) -> Arc<NetDevice> {
    let mut next = device.clone();
    change(&mut next.link);
    let next = Arc::new(next);
    put(net, next.clone());
    next
}
