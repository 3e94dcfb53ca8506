//! A plugin's device operations: the engine's [`NetDeviceOps`] over the ABI.
//!
//! Mirrors the calls of `net_device_ops`. At an open the queues of a tun or tap go along: a duplicate of each descriptor,
//! the plugin's from the call on; the host's own stay for the device's life. What is called when is the engine's.

use super::call::{Hook, Place, with_info};
use super::inner::Inner;
use crate::engine::{At, EthtoolStat, Failure, NetDevice, NetDeviceOps, Queues, Stats};
use abi_stable::std_types::{RSlice, RVec};
use pernet_plugin_api::abi::{NdoCall, NetInfo, NetdevStats, OpsHandle, Status};
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// [`NdoCall::op`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ndo {
    Init = 0,
    Uninit = 1,
    Open = 2,
    Stop = 3,
    ChangeMtu = 4,
    SetMacAddress = 5,
    GetStats = 6,
    Destructor = 7,
}

impl Ndo {
    /// The hook's name as the operator sees it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Ndo::Init => "netdev.ndo_init",
            Ndo::Uninit => "netdev.ndo_uninit",
            Ndo::Open => "netdev.ndo_open",
            Ndo::Stop => "netdev.ndo_stop",
            Ndo::ChangeMtu => "netdev.ndo_change_mtu",
            Ndo::SetMacAddress => "netdev.ndo_set_mac_address",
            Ndo::GetStats => "netdev.ndo_get_stats",
            Ndo::Destructor => "netdev.destructor",
        }
    }

    /// Whether it ends something, so that a panicked plugin is still asked for it.
    pub(super) fn is_exit(self) -> bool {
        matches!(self, Ndo::Uninit | Ndo::Stop | Ndo::Destructor)
    }

    /// Whether it is an event in a device's life, rather than a question or a release of memory.
    pub(super) fn is_told(self) -> bool {
        !matches!(self, Ndo::GetStats | Ndo::Destructor)
    }
}

/// The ops that a plugin gave with a device.
pub(super) struct NdoCaller {
    pub(super) instance: Arc<Inner>,
    pub(super) ops: OpsHandle,
    /// Frames carry a virtio header.
    pub(super) vnet_header: bool,
}

impl NdoCaller {
    fn at(
        &self,
        ndo: Ndo,
        at: &At<'_>,
        dev: &NetDevice,
        change: Change<'_>,
        queues: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let link = &dev.link;
        let call = NdoCall {
            op: ndo as u8,
            ifindex: link.ifindex,
            serial: dev.serial,
            mtu: change.mtu.unwrap_or(link.mtu),
            flags: link.flags,
            name: link.name.as_str().into(),
            address: change.address.unwrap_or(&link.address).into(),
            queues: RSlice::EMPTY,
            vnet_header: u8::from(self.vnet_header),
        };
        with_info(at, Some(&link.name), |place, net| self.ask(ndo, place, net, &call, queues)).map(drop)
    }

    /// Calls of a device that may be in no namespace, from wherever.
    fn anywhere(&self, ndo: Ndo) -> Result<NetdevStats, Failure> {
        let call = NdoCall {
            op: ndo as u8,
            ifindex: 0,
            serial: 0,
            mtu: 0,
            flags: 0,
            name: "".into(),
            address: RSlice::EMPTY,
            queues: RSlice::EMPTY,
            vnet_header: u8::from(self.vnet_header),
        };
        let nowhere = NetInfo { cookie: 0, generation: 0, name: "".into(), areas: RSlice::EMPTY };
        self.ask(ndo, &Place::home(), &nowhere, &call, Vec::new())
    }

    fn ask(
        &self,
        ndo: Ndo,
        place: &Place<'_>,
        net: &NetInfo<'_>,
        call: &NdoCall<'_>,
        queues: Vec<OwnedFd>,
    ) -> Result<NetdevStats, Failure> {
        self.instance.ask(Hook::Ndo(ndo), place, |table, instance| {
            // Without the entry, and where the call is not admitted, they are still ours and closed here.
            let Some(entry) = table.ndo() else { return (no_entry(), NetdevStats::default()) };
            let queues: Vec<RawFd> = queues.into_iter().map(IntoRawFd::into_raw_fd).collect();
            let answer = entry(instance, self.ops, net, &NdoCall { queues: queues.as_slice().into(), ..*call });
            (answer.status, answer.stats)
        })
    }
}

/// What a call is about to change, if anything.
#[derive(Default)]
struct Change<'a> {
    mtu: Option<u32>,
    address: Option<&'a [u8]>,
}

impl NetDeviceOps for NdoCaller {
    fn init(&self, at: &At<'_>, dev: &NetDevice) -> Result<(), Failure> {
        self.at(Ndo::Init, at, dev, Change::default(), Vec::new())
    }

    fn uninit(&self, at: &At<'_>, dev: &NetDevice) -> Result<(), Failure> {
        self.at(Ndo::Uninit, at, dev, Change::default(), Vec::new())
    }

    fn open(&self, at: &At<'_>, dev: &NetDevice, queues: Option<&Queues>) -> Result<(), Failure> {
        let queues = queues.map_or_else(|| Ok(Vec::new()), duplicates)?;
        self.at(Ndo::Open, at, dev, Change::default(), queues)
    }

    fn stop(&self, at: &At<'_>, dev: &NetDevice) -> Result<(), Failure> {
        self.at(Ndo::Stop, at, dev, Change::default(), Vec::new())
    }

    fn change_mtu(&self, at: &At<'_>, dev: &NetDevice, mtu: u32) -> Result<(), Failure> {
        self.at(Ndo::ChangeMtu, at, dev, Change { mtu: Some(mtu), address: None }, Vec::new())
    }

    fn set_mac_address(&self, at: &At<'_>, dev: &NetDevice, address: &[u8]) -> Result<(), Failure> {
        self.at(Ndo::SetMacAddress, at, dev, Change { mtu: None, address: Some(address) }, Vec::new())
    }

    fn get_stats(&self) -> Result<Stats, Failure> {
        let NetdevStats { rx_packets, rx_bytes, rx_dropped, rx_errors, tx_packets, tx_bytes, tx_dropped, tx_errors } =
            self.anywhere(Ndo::GetStats)?;
        Ok(Stats { rx_packets, rx_bytes, rx_dropped, rx_errors, tx_packets, tx_bytes, tx_dropped, tx_errors })
    }

    /// One that is older than this has none.
    fn get_ethtool_stats(&self) -> Result<Vec<EthtoolStat>, Failure> {
        let stats = self.instance.ask(Hook::EthtoolStats, &Place::home(), |table, instance| {
            let Some(entry) = table.get_ethtool_stats() else { return (no_error(), RVec::new()) };
            let answer = entry(instance, self.ops);
            (answer.status, answer.stats)
        })?;
        Ok(stats.into_iter().map(|stat| EthtoolStat { name: stat.name.into_string(), value: stat.value }).collect())
    }

    fn destructor(&self) -> Result<(), Failure> {
        self.anywhere(Ndo::Destructor).map(drop)
    }

    fn free(&self) -> Result<(), Failure> {
        self.instance.ask(Hook::NetdevFree, &Place::home(), |table, instance| {
            (table.netdev_free().map_or_else(no_entry, |free| free(instance, self.ops)), ())
        })
    }
}

/// A duplicate of each queue's descriptor. Which type the engine carries for `linux` is agreed: std's own.
fn duplicates(queues: &Queues) -> Result<Vec<OwnedFd>, Failure> {
    let unknown = || Failure::new(libc::EIO, "pernetd itself gave the device queues of an unknown kind");
    let queues = queues.downcast_ref::<Vec<OwnedFd>>().ok_or_else(unknown)?;
    let why = |error: std::io::Error| {
        Failure::new(error.raw_os_error().unwrap_or(libc::EIO), format!("a queue's descriptor for the plugin: {error}"))
    };
    queues.iter().map(|queue| queue.try_clone().map_err(why)).collect()
}

/// Only a plugin that is older than devices, and still allocated one, has no such entry.
fn no_entry() -> Status {
    let message = "the plugin is built for an API without devices of its own; build it anew";
    Status { errno: libc::ENOSYS, panicked: 0, message: message.into() }
}

fn no_error() -> Status {
    Status { errno: 0, panicked: 0, message: "".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queues_that_cross_are_duplicates() {
        let (one, _other) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
        let ours: Queues = Arc::new(vec![OwnedFd::from(one)]);
        let theirs = duplicates(&ours).expect("duplicates");
        assert_eq!(theirs.len(), 1);
        drop(theirs);
        let kept = ours.downcast_ref::<Vec<OwnedFd>>().expect("ours");
        assert!(kept[0].try_clone().is_ok(), "ours is open still");
        let strange: Queues = Arc::new(7u32);
        assert_eq!(duplicates(&strange).expect_err("unknown").errno, libc::EIO);
    }
}
