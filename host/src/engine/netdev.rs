//! Devices of plugins' own: `struct net_device` with its operations.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pernet_plugin_api::RegState;

use super::failure::{ENOSYS, Failure, HookError};
use super::links::{Holder, LinkSpec, Queues, Stats};
use super::member::{At, NotifierBlock, Owner};
use super::mirror::NetDevice;
use super::net::Net;
use super::pernet::ReadToken;
use super::rtnl::RtnlGuard;

/// A device's operations (`struct net_device_ops`).
///
/// The first six are called inside the device's namespace, under its RTNL; the others anywhere.
pub trait NetDeviceOps: Send + Sync {
    /// `ndo_init`: the device is about to be registered; it has no index yet.
    fn init(&self, at: &At<'_>, dev: &NetDevice) -> Result<(), Failure>;
    /// `ndo_uninit`: it was unregistered, or its registration failed after `init`. Called once per successful `init`.
    fn uninit(&self, at: &At<'_>, dev: &NetDevice) -> Result<(), Failure>;
    /// `ndo_open`: it is about to go up.
    fn open(&self, at: &At<'_>, dev: &NetDevice, queues: Option<&Queues>) -> Result<(), Failure>;
    /// `ndo_stop`: it is about to be down. Called once per successful `open`.
    fn stop(&self, at: &At<'_>, dev: &NetDevice) -> Result<(), Failure>;
    /// `ndo_change_mtu`; the device still shows the old one.
    fn change_mtu(&self, at: &At<'_>, dev: &NetDevice, mtu: u32) -> Result<(), Failure>;
    /// `ndo_set_mac_address`; the device still shows the old one.
    fn set_mac_address(&self, at: &At<'_>, dev: &NetDevice, address: &[u8]) -> Result<(), Failure>;
    /// `ndo_get_stats64`.
    fn get_stats(&self) -> Result<Stats, Failure>;
    /// `priv_destructor`: the last reference is gone.
    fn destructor(&self) -> Result<(), Failure>;
    /// `free_netdev`: drops the ops.
    fn free(&self) -> Result<(), Failure>;
}

struct Life {
    reg_state: RegState,
}

/// A device of a plugin's own, from `alloc_netdev` on.
pub struct OwnDevice {
    /// Never reused.
    pub id: u64,
    /// Whose it is.
    pub owner: Arc<Owner>,
    life: Mutex<Life>,
}

impl OwnDevice {
    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it stands.
    #[must_use]
    pub fn reg_state(&self) -> RegState {
        self.life().reg_state
    }

    /// As it is now, or was last; `None` before its first registration.
    #[must_use]
    pub fn device(&self) -> Option<Arc<NetDevice>> {
        None
    }

    /// Where it is registered, or was last while it is not free yet.
    #[must_use]
    pub fn net(&self) -> Option<Arc<Net>> {
        None
    }

    /// Who keeps it from being free.
    #[must_use]
    pub fn holders(&self) -> Vec<Holder> {
        Vec::new()
    }

    /// What its plugin counts.
    pub fn stats(&self) -> Result<Stats, Failure> {
        Err(not_yet())
    }
}

impl fmt::Debug for OwnDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnDevice({} of {})", self.id, self.owner.name)
    }
}

/// Each is itself only.
impl PartialEq for OwnDevice {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for OwnDevice {}

fn not_yet() -> Failure {
    Failure::new(ENOSYS, "devices of plugins' own are not there yet")
}

/// A named reference to a device (`dev_hold`); dropping it is `dev_put`.
#[derive(Debug)]
pub struct NetdevRef {}

/// A device that somebody moved out of its namespace, on its way to where it went.
#[derive(Debug)]
pub struct Departed {
    /// The device.
    pub dev: Arc<OwnDevice>,
    /// The id of the namespace where it is now, as the one that it left knows it.
    pub nsid: i32,
    /// Its index there.
    pub ifindex: u32,
}

#[expect(missing_docs, unused_variables, clippy::missing_errors_doc, reason = "being written")]
mod being_written {
    use super::*;
    pub fn alloc_netdev(
        owner: &Arc<Owner>,
        spec: LinkSpec,
        ops: Arc<dyn NetDeviceOps>,
        peer: Option<Arc<OwnDevice>>,
    ) -> Result<Arc<OwnDevice>, Failure> {
        Err(not_yet())
    }
    pub fn register_netdevice(rtnl: &RtnlGuard<'_>, net: &Arc<Net>, dev: &Arc<OwnDevice>) -> Result<(), Failure> {
        Err(not_yet())
    }
    pub fn register_pair(
        rtnls: (&RtnlGuard<'_>, &RtnlGuard<'_>),
        nets: (&Arc<Net>, &Arc<Net>),
        devs: (&Arc<OwnDevice>, &Arc<OwnDevice>),
    ) -> Result<(), Failure> {
        Err(not_yet())
    }
    pub fn register_netdev(token: &ReadToken, net: &Arc<Net>, dev: &Arc<OwnDevice>) -> Result<(), Failure> {
        Err(not_yet())
    }
    pub fn unregister_netdev(token: &ReadToken, dev: &Arc<OwnDevice>) -> Result<(), Failure> {
        Err(not_yet())
    }
    pub fn unregister_many(rtnls: &[&RtnlGuard<'_>], devs: &[Arc<OwnDevice>]) -> Result<(), Failure> {
        Err(not_yet())
    }
    pub fn free_netdev(dev: &Arc<OwnDevice>) -> Result<(), Failure> {
        Err(not_yet())
    }
    pub fn dev_open(rtnl: &RtnlGuard<'_>, dev: &Arc<OwnDevice>) -> Result<(), Failure> {
        Err(not_yet())
    }
    pub fn dev_close(rtnl: &RtnlGuard<'_>, dev: &Arc<OwnDevice>) -> Result<(), Failure> {
        Err(not_yet())
    }
    pub fn dev_set_mtu(rtnl: &RtnlGuard<'_>, dev: &Arc<OwnDevice>, mtu: u32) -> Result<(), Failure> {
        Err(not_yet())
    }
    pub fn dev_set_mac_address(rtnl: &RtnlGuard<'_>, dev: &Arc<OwnDevice>, address: &[u8]) -> Result<(), Failure> {
        Err(not_yet())
    }
    pub fn dev_change_name(rtnl: &RtnlGuard<'_>, dev: &Arc<OwnDevice>, name: &str) -> Result<(), Failure> {
        Err(not_yet())
    }
    pub fn dev_set_master(rtnl: &RtnlGuard<'_>, dev: &Arc<OwnDevice>, master: u32) -> Result<(), Failure> {
        Err(not_yet())
    }
    pub fn altname_add(rtnl: &RtnlGuard<'_>, dev: &Arc<OwnDevice>, name: &str) -> Result<(), Failure> {
        Err(not_yet())
    }
    pub fn altname_del(rtnl: &RtnlGuard<'_>, dev: &Arc<OwnDevice>, name: &str) -> Result<(), Failure> {
        Err(not_yet())
    }
    pub fn dev_change_net_namespace(
        rtnls: (&RtnlGuard<'_>, &RtnlGuard<'_>),
        dev: &Arc<OwnDevice>,
        to: &Arc<Net>,
        pattern: Option<&str>,
        ifindex: u32,
    ) -> Result<(), Failure> {
        Err(not_yet())
    }
    pub fn dev_hold(net: &Net, ifindex: u32, serial: u64, holder: &str, purpose: &str) -> Result<NetdevRef, Failure> {
        Err(not_yet())
    }
    pub fn register_notifier_net(
        rtnl: &RtnlGuard<'_>,
        net: &Arc<Net>,
        owner: &Arc<Owner>,
        priority: i32,
        block: Arc<dyn NotifierBlock>,
    ) -> Result<u64, Failure> {
        Err(not_yet())
    }
    pub fn unregister_notifier_net(rtnl: &RtnlGuard<'_>, net: &Arc<Net>, id: u64) -> Result<(), Failure> {
        Err(not_yet())
    }
    pub fn arrived(token: &ReadToken, net: &Arc<Net>, departed: Departed) -> Vec<HookError> {
        Vec::new()
    }
    pub fn lost(departed: Departed) -> Vec<HookError> {
        Vec::new()
    }
}
pub use being_written::*;
