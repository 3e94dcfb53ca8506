//! A device's operations: what an author writes for a device of his own, and the table where they wait for calls.
//!
//! Mirrors `struct net_device_ops`: each `ndo_X` of the kernel is a method `X` here. When they are called is the host's
//! engine (K2.4, K2.5, K2.7); frames are in [`crate::datapath`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::abi::{NdoCall, NetdevHandle, NetdevStats, OpsHandle};
use crate::datapath::{Batch, Datapath, Queue};
use crate::{Error, Net, Result};

/// What a plugin does for one device. Every method has a default that does nothing; `()` is a device without ops.
///
/// All but [`get_stats`](Self::get_stats), [`get_ethtool_stats`](Self::get_ethtool_stats),
/// [`destructor`](Self::destructor) and [`start_xmit`](Self::start_xmit) run inside the device's namespace, with its
/// device lock (the RTNL) held, one at a time. An op may change other devices of the namespace through its [`Net`]. The
/// ops are dropped when the device is freed.
#[expect(unused_variables, reason = "most ops need few of them")]
pub trait NetDeviceOps: Send + Sync + 'static {
    /// Whether frames that the namespace sends (tun and tap) are wanted: whether there are threads that call
    /// [`start_xmit`](Self::start_xmit). Without, they pile up in the kernel's queue and are dropped there.
    const XMIT: bool = false;

    /// The device is being registered, and not in the kernel yet: it has a name and no index. An error refuses it, and
    /// then neither [`uninit`](Self::uninit) nor [`destructor`](Self::destructor) is called (K2.4 step 4).
    fn init(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        Ok(())
    }

    /// It is unregistered and told gone; the kernel's device is gone before that, so that its name and index were free when
    /// it was told (K2.5). A daemon that stops leaves it there. After a registration that failed there never was one, or none
    /// any more. An error is shown, and stops nothing.
    fn uninit(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        Ok(())
    }

    /// It is about to go up. An error refuses it, without any event (K2.7); of a device that somebody else set up, it is
    /// set down again. Frames may come in and go out as soon as this has returned.
    fn open(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        Ok(())
    }

    /// It goes down: no [`start_xmit`](Self::start_xmit) begins any more, and all have returned, but for one that took
    /// longer than a second. An error is shown, and stops nothing.
    fn stop(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        Ok(())
    }

    /// Its MTU is about to become `mtu` bytes. An error refuses it, unless somebody else made the change.
    fn change_mtu(&self, net: &Net<'_>, dev: &NdoDevice<'_>, mtu: u32) -> Result<()> {
        Ok(())
    }

    /// Its hardware address is about to become this. An error refuses it, unless somebody else made the change.
    fn set_mac_address(&self, net: &Net<'_>, dev: &NdoDevice<'_>, address: &[u8]) -> Result<()> {
        Ok(())
    }

    /// What the plugin itself counted, such as frames that it took from a batch and dropped later; added to what the
    /// datapath counted. From any thread, outside the namespace.
    fn get_stats(&self) -> Stats {
        Stats::default()
    }

    /// Counters that only this kind of device has, in the order in which they are to be shown: the kernel's
    /// `ethtool_ops::get_ethtool_stats`. `pernetctl dev show` shows them; the program `ethtool` cannot, it asks the
    /// kernel's driver of the device. From any thread, outside the namespace.
    fn get_ethtool_stats(&self) -> Vec<(Cow<'static, str>, u64)> {
        Vec::new()
    }

    /// The kernel's `priv_destructor`: after the last reference is gone, or when a registration failed after
    /// [`init`](Self::init). Release what belongs to the device as such. From any thread, possibly with the lock held.
    fn destructor(&self) {}

    /// Frames that the namespace sent through the device, at most 64, on the queue's own thread, which is outside every
    /// namespace. Only with [`XMIT`](Self::XMIT).
    ///
    /// Take out of the batch what goes on: into another device ([`Datapath::netif_rx_list`]), or away. What is left in
    /// it when this returns is dropped and counted in the device's own `tx_dropped`, which [`Datapath::stats`] and
    /// `pernetctl dev show` have. While this waits, the kernel's queue fills; what finds it full is dropped by the kernel
    /// and counted in the kernel's `tx_dropped` (`ip -s link`), and no sender is held up. A panic ends the thread, and the
    /// plugin as a panic in any hook does.
    fn start_xmit(&self, queue: &Queue<'_>, frames: &mut Batch) {}
}

impl NetDeviceOps for () {}

/// A device for the time of one op; [`crate::Netdev::state`] knows more, at any time.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct NdoDevice<'a> {
    /// Index in its namespace; 0 at `init`.
    pub ifindex: u32,
    /// Never reused; 0 at `init`.
    pub serial: u64,
    /// Its name.
    pub name: &'a str,
    /// Hardware address; at `set_mac_address` the new one. Empty where the device has none.
    pub address: &'a [u8],
    /// MTU in bytes; at `change_mtu` the new one.
    pub mtu: u32,
    /// `IFF_*` flags.
    pub flags: u32,
    /// Where frames go in, see [`Datapath::netif_rx`].
    pub datapath: &'a Datapath,
}

impl<'a> NdoDevice<'a> {
    pub(crate) fn read(call: &'a NdoCall<'a>, datapath: &'a Datapath) -> Self {
        NdoDevice {
            ifindex: call.ifindex,
            serial: call.serial,
            name: call.name.as_str(),
            address: call.address.as_slice(),
            mtu: call.mtu,
            flags: call.flags,
            datapath,
        }
    }
}

/// Counters of a device (`struct rtnl_link_stats64`, the part that a plugin can know). `rx` is what the namespace
/// receives, `tx` what it sends; frames and bytes of whole frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames that the namespace received.
    pub rx_packets: u64,
    /// Bytes of these.
    pub rx_bytes: u64,
    /// Frames for the namespace that were dropped: the device was down, or its queue full.
    pub rx_dropped: u64,
    /// Frames for the namespace that were wrong (too short, too long, not to be segmented) or that the kernel refused.
    pub rx_errors: u64,
    /// Frames that the namespace sent, and that the plugin took.
    pub tx_packets: u64,
    /// Bytes of these.
    pub tx_bytes: u64,
    /// Frames that the namespace sent, and that were dropped: left in the batch, or no memory for them.
    pub tx_dropped: u64,
    /// Frames that the namespace sent, and that were wrong.
    pub tx_errors: u64,
}

impl std::ops::Add for Stats {
    type Output = Stats;

    fn add(self, other: Stats) -> Stats {
        Stats {
            rx_packets: self.rx_packets.wrapping_add(other.rx_packets),
            rx_bytes: self.rx_bytes.wrapping_add(other.rx_bytes),
            rx_dropped: self.rx_dropped.wrapping_add(other.rx_dropped),
            rx_errors: self.rx_errors.wrapping_add(other.rx_errors),
            tx_packets: self.tx_packets.wrapping_add(other.tx_packets),
            tx_bytes: self.tx_bytes.wrapping_add(other.tx_bytes),
            tx_dropped: self.tx_dropped.wrapping_add(other.tx_dropped),
            tx_errors: self.tx_errors.wrapping_add(other.tx_errors),
        }
    }
}

impl From<Stats> for NetdevStats {
    fn from(stats: Stats) -> Self {
        let Stats { rx_packets, rx_bytes, rx_dropped, rx_errors, tx_packets, tx_bytes, tx_dropped, tx_errors } = stats;
        NetdevStats { rx_packets, rx_bytes, rx_dropped, rx_errors, tx_packets, tx_bytes, tx_dropped, tx_errors }
    }
}

/// Ops without their type. [`NetDeviceOps::XMIT`] keeps the trait itself from being one.
pub(crate) trait AnyNetdevOps: Send + Sync {
    fn transmits(&self) -> bool;
    fn init(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()>;
    fn uninit(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()>;
    fn open(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()>;
    fn stop(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()>;
    fn change_mtu(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()>;
    fn set_mac_address(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()>;
    fn get_stats(&self) -> Stats;
    fn get_ethtool_stats(&self) -> Vec<(Cow<'static, str>, u64)>;
    fn destructor(&self);
    fn start_xmit(&self, queue: &Queue<'_>, frames: &mut Batch);
}

impl<O: NetDeviceOps> AnyNetdevOps for O {
    fn transmits(&self) -> bool {
        O::XMIT
    }

    fn init(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        NetDeviceOps::init(self, net, dev)
    }

    fn uninit(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        NetDeviceOps::uninit(self, net, dev)
    }

    fn open(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        NetDeviceOps::open(self, net, dev)
    }

    fn stop(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        NetDeviceOps::stop(self, net, dev)
    }

    fn change_mtu(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        NetDeviceOps::change_mtu(self, net, dev, dev.mtu)
    }

    fn set_mac_address(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        NetDeviceOps::set_mac_address(self, net, dev, dev.address)
    }

    fn get_stats(&self) -> Stats {
        NetDeviceOps::get_stats(self)
    }

    fn get_ethtool_stats(&self) -> Vec<(Cow<'static, str>, u64)> {
        NetDeviceOps::get_ethtool_stats(self)
    }

    fn destructor(&self) {
        NetDeviceOps::destructor(self);
    }

    fn start_xmit(&self, queue: &Queue<'_>, frames: &mut Batch) {
        NetDeviceOps::start_xmit(self, queue, frames);
    }
}

/// A device's ops, from `alloc_netdev` until the host frees them.
pub(crate) struct Entry {
    pub(crate) ops: Arc<dyn AnyNetdevOps>,
    pub(crate) datapath: Datapath,
    /// The host's name of the device, once it has one.
    pub(crate) dev: OnceLock<NetdevHandle>,
    /// Nobody has a handle of the device any more: it is to be freed when its unregistration is done.
    orphaned: AtomicBool,
}

impl Entry {
    pub(crate) fn new(ops: Arc<dyn AnyNetdevOps>, datapath: Datapath) -> Self {
        Entry { ops, datapath, dev: OnceLock::new(), orphaned: AtomicBool::new(false) }
    }

    pub(crate) fn orphan(&self) {
        self.orphaned.store(true, Ordering::Release);
    }

    /// The device to be freed, if nobody has a handle of it any more.
    pub(crate) fn orphaned(&self) -> Option<NetdevHandle> {
        if self.orphaned.load(Ordering::Acquire) { self.dev.get().copied() } else { None }
    }
}

/// One instance's devices, by the number that the host gives back in every call.
pub(crate) struct OpsTable(Mutex<Inner>);

struct Inner {
    next: u64,
    closed: bool,
    entries: BTreeMap<u64, Arc<Entry>>,
}

impl OpsTable {
    pub(crate) fn new() -> Self {
        OpsTable(Mutex::new(Inner { next: 1, closed: false, entries: BTreeMap::new() }))
    }

    pub(crate) fn insert(&self, entry: &Arc<Entry>) -> Result<OpsHandle> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(Error::new(libc::ESTALE, "this plugin instance has ended"));
        }
        let id = inner.next;
        inner.next += 1;
        inner.entries.insert(id, Arc::clone(entry));
        Ok(OpsHandle(id))
    }

    pub(crate) fn get(&self, ops: OpsHandle) -> Result<Arc<Entry>> {
        self.lock().entries.get(&ops.0).cloned().ok_or_else(no_ops)
    }

    /// Takes a device's ops out, to drop them.
    pub(crate) fn take(&self, ops: OpsHandle) -> Result<Arc<Entry>> {
        self.lock().entries.remove(&ops.0).ok_or_else(no_ops)
    }

    /// Refuses new devices from now on, and shows those that are there.
    pub(crate) fn close(&self) -> Vec<Arc<Entry>> {
        let mut inner = self.lock();
        inner.closed = true;
        inner.entries.values().cloned().collect()
    }

    /// Takes out all that are left, newest first, for dropping.
    pub(crate) fn take_all(&self) -> Vec<Arc<Entry>> {
        std::mem::take(&mut self.lock().entries).into_values().rev().collect()
    }

    /// Nothing of an author runs under this lock, so a poisoned one is sound.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_ops() -> Error {
    Error::new(libc::EINVAL, "the daemon named no device of this plugin: its ops were freed before")
}
