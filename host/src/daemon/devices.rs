//! What an operator sees of devices: lists, and one device with everything that is known of it.
//!
//! Where a namespace is watched its mirror answers, else a look into the kernel; counters are asked for only where one
//! device is looked at. Made on the thread for looks, since both enter namespaces; plugins' own devices whose namespace
//! has gone, but not their last reference, are shown as they were.

use std::sync::Arc;

use crate::control::wire::{Device, DeviceDetails, DeviceHolder, DeviceStats};
use crate::control::{ControlError, Reply};
use crate::engine::{Link, Net};
use crate::linux::link_stats::{self, Counters};

use super::Daemon;
use super::place::Place;

/// A namespace to look at, and the way into it.
pub(super) type Inhabited = (Arc<Net>, Arc<Place>);

/// One device as it was found.
struct Found {
    link: Link,
    serial: Option<u64>,
    reg_state: &'static str,
}

impl Daemon {
    pub(super) fn dev_list(&self, netns: Option<&str>, reply: Reply<Vec<Device>>) {
        let nets = match self.asked_for(netns) {
            Ok(nets) => nets,
            Err(error) => return reply.send(Err(error)),
        };
        self.looks.run_anywhere(Box::new(move || {
            reply.send(Ok(nets.iter().flat_map(|(net, place)| list(net, place)).collect()));
        }));
    }

    pub(super) fn dev_show(&self, name: String, netns: Option<&str>, reply: Reply<Vec<DeviceDetails>>) {
        let nets = match self.asked_for(netns) {
            Ok(nets) => nets,
            Err(error) => return reply.send(Err(error)),
        };
        let netns = netns.map(str::to_owned);
        self.looks.run_anywhere(Box::new(move || {
            let shown: Vec<DeviceDetails> = nets.iter().flat_map(|(net, place)| show(net, place, &name)).collect();
            reply.send(if shown.is_empty() {
                Err(ControlError::no_such_device(&name, netns.as_deref()))
            } else {
                Ok(shown)
            });
        }));
    }

    /// The namespaces that are asked about: the one of this name, or all.
    fn asked_for(&self, netns: Option<&str>) -> Result<Vec<Inhabited>, ControlError> {
        let mut nets = self.in_order();
        if let Some(name) = netns {
            let cookie = self.by_name(name).map(|n| n.cookie).ok_or_else(|| ControlError::no_such_netns(name))?;
            nets.retain(|(net, _)| net.cookie == cookie);
        }
        Ok(nets)
    }
}

/// How many devices a namespace has.
pub(super) fn number(net: &Net, place: &Place) -> usize {
    if net.watched() { net.device_count() } else { found(net, place).len() }
}

/// The devices of a namespace: the mirror where it is kept, else a look into the kernel.
fn found(net: &Net, place: &Place) -> Vec<Found> {
    if net.watched() {
        let mirrored = |d: &Arc<crate::engine::NetDevice>| Found {
            link: d.link.clone(),
            serial: Some(d.serial),
            reg_state: d.reg_state.as_str(),
        };
        return net.devices().iter().map(mirrored).collect();
    }
    // One that is just going has none to show.
    let mut links = place.dump().unwrap_or_default();
    links.sort_by_key(|l| l.ifindex);
    links.into_iter().map(|link| Found { link, serial: None, reg_state: "registered" }).collect()
}

fn list(net: &Net, place: &Place) -> Vec<Device> {
    let netns = net.name();
    found(net, place).into_iter().map(|found| row(&netns, found)).collect()
}

fn show(net: &Net, place: &Place, name: &str) -> Vec<DeviceDetails> {
    let netns = net.name();
    let called = |found: &Found| found.link.name == name;
    found(net, place).into_iter().filter(called).map(|found| details(&netns, place, found)).collect()
}

fn row(netns: &str, found: Found) -> Device {
    let Found { link, reg_state, .. } = found;
    Device {
        netns: netns.to_owned(),
        ifindex: u64::from(link.ifindex),
        up: link.is_up(),
        name: link.name,
        kind: (!link.kind.is_empty()).then_some(link.kind),
        mtu: u64::from(link.mtu),
        owner: "kernel".to_owned(),
        reg_state: reg_state.to_owned(),
        alt_names: Vec::new(),
        address: address(&link.address),
        stats: None,
    }
}

fn details(netns: &str, place: &Place, found: Found) -> DeviceDetails {
    let ifindex = found.link.ifindex;
    let (master, serial) = (found.link.master, found.serial);
    let stats = place.visit(|| link_stats::of(ifindex)).ok().and_then(Result::ok);
    let holders: Vec<DeviceHolder> = Vec::new();
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
        waiting: false,
        holders,
        plugin_stats: None,
    }
}

/// `02:00:5e:00:53:01`; nothing where there is none.
fn address(bytes: &[u8]) -> Option<String> {
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
