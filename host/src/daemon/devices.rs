//! What an operator sees of devices: lists, and one device with everything that is known of it.
//!
//! Where a namespace is watched its mirror answers, else a look into the kernel; counters are asked for only where one
//! device is looked at. Made on the thread for looks, since both enter namespaces; plugins' own devices whose namespace
//! has gone, but not their last reference, are shown as they were.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::control::wire::{Device, DeviceCounter, DeviceDetails, DeviceHolder, DeviceStats};
use crate::control::{ControlError, Reply};
use crate::engine::{EthtoolStat, Holder, Link, Net, NetDevice, OwnDevice, RegState, Stats};
use crate::linux::link_stats::{self, Counters};
use crate::linux::worker::Workers;

use super::Daemon;
use super::place::Place;

/// How long a plugin may take to say what it counted.
const COUNTING: Duration = Duration::from_secs(1);

/// A namespace to look at, and the way into it.
pub(super) type Inhabited = (Arc<Net>, Arc<Place>);

/// One device as it was found.
pub(super) struct Found {
    pub(super) link: Link,
    pub(super) serial: Option<u64>,
    pub(super) reg_state: RegState,
    pub(super) own: Option<Arc<OwnDevice>>,
}

impl Found {
    fn mirrored(device: &NetDevice) -> Found {
        Found {
            link: device.link.clone(),
            serial: Some(device.serial),
            reg_state: device.reg_state,
            own: device.own.clone(),
        }
    }

    /// One that is out of every list, and held.
    pub(super) fn held(own: Arc<OwnDevice>) -> Option<Found> {
        let reg_state = own.reg_state();
        Some(Found { reg_state, own: Some(Arc::clone(&own)), ..Found::mirrored(&*own.device()?) })
    }

    pub(super) fn is_called(&self, name: &str) -> bool {
        self.link.name == name || self.link.alt_names.iter().any(|alt| alt == name)
    }
}

impl Daemon {
    pub(super) fn dev_list(&self, netns: Option<&str>, reply: Reply<Vec<Device>>) {
        let look = match self.look_at(netns) {
            Ok(look) => look,
            Err(error) => return reply.send(Err(error)),
        };
        self.looks.run_anywhere(Box::new(move || {
            let mut rows = Vec::new();
            look.each(|netns, found, _| rows.push(row(netns, found)));
            reply.send(Ok(rows));
        }));
    }

    pub(super) fn dev_show(&self, name: String, netns: Option<&str>, reply: Reply<Vec<DeviceDetails>>) {
        let look = match self.look_at(netns) {
            Ok(look) => look,
            Err(error) => return reply.send(Err(error)),
        };
        let (netns, workers) = (netns.map(str::to_owned), Arc::clone(&self.workers));
        self.looks.run_anywhere(Box::new(move || {
            let mut shown = Vec::new();
            look.each(|netns, found, place| {
                if found.is_called(&name) {
                    let counted = found.own.as_ref().map(|own| counted(own, &workers)).unwrap_or_default();
                    shown.push(details(netns, found, place, counted));
                }
            });
            let none = || ControlError::no_such_device(&name, netns.as_deref());
            reply.send(if shown.is_empty() { Err(none()) } else { Ok(shown) });
        }));
    }

    /// What is asked about: the namespace of this name, or everything.
    fn look_at(&self, netns: Option<&str>) -> Result<Look, ControlError> {
        let mut held = self.shared.maker.held();
        let Some(name) = netns else { return Ok(Look { nets: self.in_order(), held }) };
        // Not by way of all of them: files ask this for each device.
        let known = self.by_name(name).and_then(|net| self.nets.get(&net.cookie));
        let managed = known.ok_or_else(|| ControlError::no_such_netns(name))?;
        held.retain(|own| own.net().is_some_and(|net| net.cookie == managed.net.cookie));
        Ok(Look { nets: vec![(Arc::clone(&managed.net), Arc::clone(&managed.place))], held })
    }
}

/// What is to be looked at.
struct Look {
    nets: Vec<Inhabited>,
    /// Devices that are unregistered and still held: in no list of any namespace.
    held: Vec<Arc<OwnDevice>>,
}

impl Look {
    /// Every device with its namespace's name, and the way to its kernel's device; those that are held come last, as
    /// their namespaces may have gone.
    fn each(self, mut tell: impl FnMut(&str, Found, Option<&Place>)) {
        for (net, place) in &self.nets {
            let netns = net.name();
            found(net, place).into_iter().for_each(|found| tell(&netns, found, Some(place)));
        }
        for own in self.held {
            let netns = own.net().map_or_else(|| "".into(), |net| net.name());
            if let Some(found) = Found::held(own) {
                tell(&netns, found, None);
            }
        }
    }
}

/// How many devices a namespace has.
pub(super) fn number(net: &Net, place: &Place) -> usize {
    if net.watched() { net.device_count() } else { found(net, place).len() }
}

/// The devices of a namespace: the mirror where it is kept, else a look into the kernel.
pub(super) fn found(net: &Net, place: &Place) -> Vec<Found> {
    if net.watched() {
        return net.devices().iter().map(|device| Found::mirrored(device)).collect();
    }
    // One that is just going has none to show.
    let mut links = place.dump().unwrap_or_default();
    links.sort_by_key(|l| l.ifindex);
    let unknown = |link| Found { link, serial: None, reg_state: RegState::Registered, own: None };
    links.into_iter().map(unknown).collect()
}

fn row(netns: &str, found: Found) -> Device {
    let Found { link, reg_state, own, .. } = found;
    Device {
        netns: netns.to_owned(),
        ifindex: u64::from(link.ifindex),
        up: link.is_up(),
        name: link.name,
        kind: (!link.kind.is_empty()).then_some(link.kind),
        mtu: u64::from(link.mtu),
        owner: own.map_or_else(|| "kernel".to_owned(), |own| own.owner.name.to_string()),
        reg_state: reg_state.as_str().to_owned(),
        alt_names: link.alt_names,
        address: address(&link.address),
        stats: None,
    }
}

/// What a plugin counts at its device; nothing where it does not say.
#[derive(Default)]
struct Counted {
    stats: Option<Stats>,
    more: Vec<EthtoolStat>,
}

/// Asks for it on a worker, as any code of a plugin runs: should it hang there, the operator is still answered.
fn counted(own: &Arc<OwnDevice>, workers: &Workers) -> Counted {
    let (reply, answer) = bounded(1);
    let own = Arc::clone(own);
    workers.run_anywhere(Box::new(move || {
        let stats = own.stats().ok();
        let _ = reply.send(Counted { stats, more: own.ethtool_stats().unwrap_or_default() });
    }));
    answer.recv_timeout(COUNTING).unwrap_or_default()
}

fn details(netns: &str, found: Found, place: Option<&Place>, counted: Counted) -> DeviceDetails {
    let Found { link: Link { ifindex, master, .. }, serial, ref own, .. } = found;
    let stats = place.and_then(|place| place.visit(|| link_stats::of(ifindex)).ok()?.ok());
    let holders = own.as_ref().map(|own| own.holders()).unwrap_or_default();
    let holders: Vec<DeviceHolder> = holders.iter().map(holder).collect();
    let waiting = own.as_ref().is_some_and(|own| own.is_waited_for());
    let Device { netns, ifindex, name, kind, up, mtu, owner, reg_state, alt_names, address, .. } = row(netns, found);
    DeviceDetails {
        netns,
        ifindex,
        name,
        kind,
        up,
        mtu,
        owner,
        reg_state,
        alt_names,
        address,
        stats: stats.map(kernel_stats),
        master: (master != 0).then_some(u64::from(master)),
        serial,
        waiting,
        holders,
        plugin_stats: counted.stats.map(plugin_stats),
        plugin_counters: counted.more.into_iter().map(counter).collect(),
    }
}

fn counter(stat: EthtoolStat) -> DeviceCounter {
    DeviceCounter { name: stat.name, value: stat.value }
}

fn holder(holder: &Holder) -> DeviceHolder {
    DeviceHolder { plugin: holder.plugin.to_string(), purpose: holder.purpose.to_string() }
}

/// `02:00:5e:00:53:01`; nothing where there is none.
pub(super) fn address(bytes: &[u8]) -> Option<String> {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    (!hex.is_empty()).then(|| hex.join(":"))
}

fn kernel_stats(s: Counters) -> DeviceStats {
    DeviceStats {
        rx_packets: s.rx_packets,
        rx_bytes: s.rx_bytes,
        rx_dropped: s.rx_dropped,
        rx_errors: s.rx_errors,
        tx_packets: s.tx_packets,
        tx_bytes: s.tx_bytes,
        tx_dropped: s.tx_dropped,
        tx_errors: s.tx_errors,
    }
}

fn plugin_stats(s: Stats) -> DeviceStats {
    DeviceStats {
        rx_packets: s.rx_packets,
        rx_bytes: s.rx_bytes,
        rx_dropped: s.rx_dropped,
        rx_errors: s.rx_errors,
        tx_packets: s.tx_packets,
        tx_bytes: s.tx_bytes,
        tx_dropped: s.tx_dropped,
        tx_errors: s.tx_errors,
    }
}
