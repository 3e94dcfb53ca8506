//! Devices of plugins' own: `struct net_device`, `alloc_netdev` and `free_netdev`.
//!
//! An [`OwnDevice`] goes through the states of K2.3. Here is what it is, and its ends that need no namespace; it is
//! registered in `register.rs`, unregistered in `unregister.rs`, changed in `change.rs`, moved in `relocate.rs`; what
//! others do to it is `external.rs`'s business, and who holds it `refs.rs`'s. Its own lock comes after a net's record.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pernet_plugin_api::{NetCookie, RegState};

use super::failure::{EBUSY, EINVAL, EIO, ENODEV, ERANGE, Failure};
use super::links::{EthtoolStat, Holder, LinkSpec, Queues, Stats};
use super::member::{At, Owner};
use super::mirror::{NetDevice, find};
use super::net::Net;
use super::refs::References;
use super::walk::Walk;

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
    /// `ethtool_ops::get_ethtool_stats`.
    fn get_ethtool_stats(&self) -> Result<Vec<EthtoolStat>, Failure> {
        Ok(Vec::new())
    }
    /// `priv_destructor`: the last reference is gone.
    fn destructor(&self) -> Result<(), Failure>;
    /// `free_netdev`: drops the ops.
    fn free(&self) -> Result<(), Failure>;
}

/// `IFNAMSIZ` without its end.
const LONGEST_NAME: usize = 15;
/// Most queues of a device (K4.6).
const MOST_QUEUES: u32 = 4096;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

pub(super) struct Life {
    pub(super) reg_state: RegState,
    /// A registration is under way.
    pub(super) claimed: bool,
    /// It is being unregistered, or is on its way to another namespace: nobody may change it.
    pub(super) dismantle: bool,
    /// Somebody moved it away, and it has not been seen where it went.
    pub(super) departed: bool,
    /// Between `ndo_open` and `ndo_stop` (the kernel's START bit).
    pub(super) open: bool,
    /// `ndo_uninit` is due.
    pub(super) initialised: bool,
    pub(super) needs_free: bool,
    /// Its end has begun: the destructor is about to be called, or is running.
    pub(super) ending: bool,
    /// Where it is registered, or was until its end is over.
    pub(super) net: Option<Arc<Net>>,
    /// Where it was registered, once it has been moved.
    pub(super) born: Option<NetCookie>,
    /// As it is, or was last.
    pub(super) device: Option<Arc<NetDevice>>,
    pub(super) queues: Option<Queues>,
    pub(super) peer: Weak<OwnDevice>,
    /// How many changes it had.
    changes: u64,
    pub(super) references: References,
}

/// A device of a plugin's own, from `alloc_netdev` on.
pub struct OwnDevice {
    /// Never reused.
    pub id: u64,
    /// Whose it is.
    pub owner: Arc<Owner>,
    /// As its plugin wants it made.
    pub spec: LinkSpec,
    pub(super) ops: Arc<dyn NetDeviceOps>,
    life: Mutex<Life>,
}

/// `alloc_netdev`: takes the ops; nothing is made yet. `peer`: the other end, allocated before, which is registered
/// together with this one.
///
/// # Errors
/// What is wrong in the specification, whatever the namespace; then the ops are the caller's still.
pub fn alloc_netdev(
    owner: &Arc<Owner>,
    spec: LinkSpec,
    ops: Arc<dyn NetDeviceOps>,
    peer: Option<Arc<OwnDevice>>,
) -> Result<Arc<OwnDevice>, Failure> {
    if owner.poisoned() {
        return Err(Failure::new(EIO, format!("plugin `{}` panicked; it makes no devices", owner.name)));
    }
    check_spec(&spec)?;
    if let Some(peer) = &peer {
        check_peer(owner, &spec, peer)?;
    }
    let life = Life {
        reg_state: RegState::Uninitialized,
        claimed: false,
        dismantle: false,
        departed: false,
        open: false,
        initialised: false,
        needs_free: spec.needs_free,
        ending: false,
        net: None,
        born: None,
        device: None,
        queues: None,
        peer: peer.as_ref().map_or_else(Weak::new, Arc::downgrade),
        changes: 0,
        references: References::default(),
    };
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let dev = Arc::new(OwnDevice { id, owner: owner.clone(), spec, ops, life: Mutex::new(life) });
    if let Some(peer) = peer {
        peer.life().peer = Arc::downgrade(&dev);
    }
    Ok(dev)
}

fn check_spec(spec: &LinkSpec) -> Result<(), Failure> {
    let wrong = |why: &str| Err(Failure::new(EINVAL, format!("device `{}`: {why}", spec.name.escape_debug())));
    if spec.name.len() > LONGEST_NAME {
        return wrong("a name, or a pattern, has at most 15 bytes");
    }
    if i32::try_from(spec.ifindex).is_err() {
        return wrong("its index has more than 31 bits");
    }
    if spec.kind.is_empty() {
        return wrong("it has no kind; say what it shall be (tap, veth, …)");
    }
    if spec.max_mtu > 0 && spec.min_mtu > spec.max_mtu {
        return wrong("its smallest MTU is larger than its largest");
    }
    let tuntap = matches!(&*spec.kind, "tun" | "tap");
    if tuntap != (1..=MOST_QUEUES).contains(&spec.queues) || !tuntap && spec.queues != 0 {
        return wrong("a tun or tap has 1 to 4096 queues, other kinds have 0");
    }
    if spec.mtu != 0 { check_mtu(spec, spec.mtu) } else { Ok(()) }
}

/// K2.7: an MTU is refused, never clamped.
pub(super) fn check_mtu(spec: &LinkSpec, mtu: u32) -> Result<(), Failure> {
    if mtu < spec.min_mtu {
        return Err(Failure::new(EINVAL, format!("mtu {mtu} is less than the device's minimum of {}", spec.min_mtu)));
    }
    if spec.max_mtu > 0 && mtu > spec.max_mtu {
        return Err(Failure::new(EINVAL, format!("mtu {mtu} is more than the device's maximum of {}", spec.max_mtu)));
    }
    if i32::try_from(mtu).is_err() {
        return Err(Failure::new(ERANGE, format!("mtu {mtu} is no MTU")));
    }
    Ok(())
}

fn check_peer(owner: &Arc<Owner>, spec: &LinkSpec, peer: &OwnDevice) -> Result<(), Failure> {
    let wrong = |why: &str| Err(Failure::new(EINVAL, format!("device `{}`: {why}", spec.name.escape_debug())));
    if spec.kind != "veth" || peer.spec.kind != "veth" {
        return wrong("only two veth devices can be each other's peer");
    }
    if !Arc::ptr_eq(owner, &peer.owner) {
        return wrong("its peer is another plugin's");
    }
    let life = peer.life();
    if life.reg_state != RegState::Uninitialized || life.claimed || life.peer.strong_count() > 0 {
        return wrong("its peer is registered, or has a peer already");
    }
    Ok(())
}

/// `free_netdev`: of one that is not registered. While its unregistration is not done, that frees it (K2.4(c)).
///
/// # Errors
/// `EBUSY` while it is registered or being registered, `EINVAL` if it is free already; or what dropping the ops answered.
pub fn free_netdev(dev: &Arc<OwnDevice>) -> Result<(), Failure> {
    let mut life = dev.life();
    match life.reg_state {
        RegState::Registered => Err(Failure::new(EBUSY, format!("{dev} is registered; unregister it first"))),
        RegState::Released => Err(Failure::new(EINVAL, format!("{dev} is free already"))),
        RegState::Unregistering | RegState::Unregistered if life.net.is_some() => {
            life.needs_free = true;
            Ok(())
        }
        // Its ops are needed until all that it did is undone.
        _ if life.claimed => Err(Failure::new(EBUSY, format!("{dev} is being registered; free it when that is over"))),
        _ => {
            life.reg_state = RegState::Released;
            drop(life);
            dev.ops.free()
        }
    }
}

impl OwnDevice {
    pub(super) fn life(&self) -> MutexGuard<'_, Life> {
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
        self.life().device.clone()
    }

    /// Where it is registered, or was last while it is not free yet.
    #[must_use]
    pub fn net(&self) -> Option<Arc<Net>> {
        self.life().net.clone()
    }

    /// The other end of a pair, while there is one.
    #[must_use]
    pub fn peer(&self) -> Option<Arc<OwnDevice>> {
        self.life().peer.upgrade()
    }

    /// Who keeps it from being free, the oldest first.
    #[must_use]
    pub fn holders(&self) -> Vec<Holder> {
        self.life().references.holders().to_vec()
    }

    /// Whether its unregistration waits for the last of them.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.life().references.is_waited_for()
    }

    /// What its plugin counts.
    ///
    /// # Errors
    /// What the plugin answered; `EIO` where it panicked before.
    pub fn stats(&self) -> Result<Stats, Failure> {
        self.check_owner()?;
        self.ops.get_stats()
    }

    /// What its plugin counts beyond that.
    ///
    /// # Errors
    /// As of [`OwnDevice::stats`].
    pub fn ethtool_stats(&self) -> Result<Vec<EthtoolStat>, Failure> {
        self.check_owner()?;
        self.ops.get_ethtool_stats()
    }

    /// Whether its plugin may be asked for anything but exits.
    pub(super) fn check_owner(&self) -> Result<(), Failure> {
        if self.owner.poisoned() {
            let why = format!("plugin `{}` panicked earlier; only its exits are called", self.owner.name);
            return Err(Failure::new(EIO, why));
        }
        Ok(())
    }

    /// Whether it is in its namespace's lists, or about to be.
    pub(super) fn is_listed(&self) -> bool {
        let life = self.life();
        life.claimed || life.reg_state == RegState::Registered
    }

    pub(super) fn is_registered_in(&self, net: &Arc<Net>) -> bool {
        let life = self.life();
        life.reg_state == RegState::Registered && life.net.as_ref().is_some_and(|here| Arc::ptr_eq(here, net))
    }

    /// Whether anybody but its unregistration may change it.
    pub(super) fn may_change(&self) -> Result<(), Failure> {
        let life = self.life();
        if life.reg_state == RegState::Registered && !life.dismantle {
            return Ok(());
        }
        Err(Failure::new(ENODEV, format!("{self} is {}, so it cannot be changed", life.reg_state.as_str())))
    }

    pub(super) fn is_now(&self, device: &Arc<NetDevice>) {
        self.life().device = Some(device.clone());
    }

    pub(super) fn count_change(&self) -> u64 {
        let mut life = self.life();
        life.changes += 1;
        life.changes
    }

    pub(super) fn changes(&self) -> u64 {
        self.life().changes
    }

    /// As the mirror of this net has it.
    pub(super) fn listed(&self, net: &Net) -> Option<Arc<NetDevice>> {
        let last = self.device()?;
        find(net, last.link.ifindex).filter(|device| device.serial == last.serial)
    }
}

impl Walk {
    /// Asks the plugin for a device's operation. A panic poisons it, and counts as an error.
    pub(super) fn ndo(
        &mut self,
        net: &Arc<Net>,
        dev: &OwnDevice,
        hook: &'static str,
        call: impl FnOnce(&dyn NetDeviceOps, &At<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let areas = net.areas_of(&dev.owner);
        let answer = self.section(net, || call(&*dev.ops, &At { net, areas: &areas })).and_then(|answer| answer);
        if let Err(failure) = answer.as_ref().map_err(Failure::clone)
            && failure.panicked
        {
            self.note(net, &dev.owner, hook, failure);
        }
        answer
    }

    /// The same for an exit: its error stops nothing.
    pub(super) fn ndo_exit(
        &mut self,
        net: &Arc<Net>,
        dev: &OwnDevice,
        hook: &'static str,
        call: impl FnOnce(&dyn NetDeviceOps, &At<'_>) -> Result<(), Failure>,
    ) {
        let areas = net.areas_of(&dev.owner);
        let answer = self.section(net, || call(&*dev.ops, &At { net, areas: &areas }));
        self.judge(net, &dev.owner, hook, answer);
    }
}

impl fmt::Display for OwnDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device `{}` of plugin `{}`", self.spec.name.escape_debug(), self.owner.name)
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
