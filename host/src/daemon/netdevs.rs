//! Plugins' own devices, by the numbers under which plugins know them; and what plugins ask for them.
//!
//! Owns the numbers: a device's from `alloc_netdev` until its memory is released, a reference's until it is put. Both
//! end with the instance that has them; a device that somebody else still holds stays visible after that. What a
//! registration is, is the engine's: here the locks that the caller must hold are asserted, and the names resolved.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::bounded;
use pernet_plugin_api::{NetCookie, RegState};

use super::services::{Services, Task, gone};
use crate::engine::{
    self, Failure, HeldRtnl, Link, LinkSpec, Net, NetDeviceOps, NetdevRef, NotifierBlock, OwnDevice, Owner, RtnlGuard,
};
use crate::logging::catalog;
use crate::plugin::{ChangeNetdev, InstanceRef, NetdevSnapshot};

/// An instance, by which it can be told whose something is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Whose(Arc<str>, u64);

impl Whose {
    pub(super) fn of(instance: &InstanceRef) -> Self {
        Whose(Arc::clone(&instance.plugin), instance.generation)
    }

    pub(super) fn owner(owner: &Owner) -> Self {
        Whose(Arc::clone(&owner.name), owner.generation)
    }
}

/// A device that a plugin allocated.
struct Kept {
    dev: Arc<OwnDevice>,
    /// Who may name it; nobody once it is freed, or its instance has ended.
    whose: Option<Whose>,
}

/// All devices and references. Locks are held for a look-up only, never while a hook runs.
#[derive(Default)]
pub(super) struct Netdevs {
    /// The kernel's `dev_boot_phase`, the other way round: whether `net_dev_init` has been.
    open: AtomicBool,
    /// By the engine's number of it, which is never given again.
    devices: Mutex<HashMap<u64, Kept>>,
    references: Mutex<HashMap<u64, (Whose, NetdevRef)>>,
    last_reference: AtomicU64,
    /// The engine's numbers of notifiers of one namespace's own chain, by the plugin's.
    notifiers: Mutex<HashMap<(Whose, u64, u32), u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Netdevs {
    /// `net_dev_init`: devices may come from here on.
    pub(super) fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    fn find(&self, instance: &InstanceRef, dev: u64) -> Result<Arc<OwnDevice>, Failure> {
        let whose = Whose::of(instance);
        let devices = lock(&self.devices);
        let kept = devices.get(&dev).filter(|kept| kept.whose.as_ref() == Some(&whose));
        let no_such = || Failure::new(libc::ENOENT, "this device is freed; allocate another");
        kept.map(|kept| Arc::clone(&kept.dev)).ok_or_else(no_such)
    }

    /// Nobody names it any more. It stays visible until it is released.
    fn disown(&self, dev: u64) {
        if let Some(kept) = lock(&self.devices).get_mut(&dev) {
            kept.whose = None;
        }
    }

    /// Takes from an instance what it has: devices are freed, references put.
    fn take_back(&self, owner: &Owner) {
        let whose = Whose::owner(owner);
        let held: Vec<_> = lock(&self.references).extract_if(|_, (holder, _)| *holder == whose).collect();
        drop(held);
        let mut left = Vec::new();
        for kept in lock(&self.devices).values_mut().filter(|kept| kept.whose.as_ref() == Some(&whose)) {
            kept.whose = None;
            left.push(Arc::clone(&kept.dev));
        }
        for dev in left {
            if let Err(failure) = engine::free_netdev(&dev) {
                tracing::warn!(
                    message_id = catalog::DEVICE_ASTRAY,
                    plugin = %owner.name,
                    generation = owner.generation,
                    errno = failure.errno,
                    "a device of a plugin that has ended cannot be freed: {failure}"
                );
            }
        }
    }

    /// Devices that are unregistered and still held: out of their namespace's lists, which may have gone itself.
    pub(super) fn held(&self) -> Vec<Arc<OwnDevice>> {
        let held = |dev: &&Arc<OwnDevice>| dev.reg_state() == RegState::Unregistered && !dev.holders().is_empty();
        let mut held: Vec<_> = lock(&self.devices).values().map(|kept| &kept.dev).filter(held).cloned().collect();
        held.sort_by_key(|dev| dev.id);
        held
    }
}

/// The lock of this namespace, as this thread's hook holds it.
fn assert_rtnl(net: &Net) -> Result<HeldRtnl<'_>, Failure> {
    net.rtnl().assert_rtnl().map_err(|_| {
        let name = net.name();
        let what =
            format!("this thread does not hold the lock of namespace {name}; call it in a hook there, or in run_in");
        Failure::new(libc::EPERM, what)
    })
}

/// The namespace in which a device is registered.
fn net_of(dev: &OwnDevice) -> Result<Arc<Net>, Failure> {
    dev.net().ok_or_else(|| Failure::new(libc::ENODEV, "the device is not registered"))
}

impl Services {
    /// An instance is about to end: what it allocated is freed while its code can still be asked to drop it.
    pub(super) fn ending(&self, owner: &Owner) {
        self.netdevs.take_back(owner);
        self.filesystems.take_back(owner);
    }

    /// An instance has ended. What a thread of its own did meanwhile is taken back too; nothing more can come.
    pub(super) fn ended(&self, owner: &Arc<Owner>) {
        self.owners.remove(owner);
        self.netdevs.take_back(owner);
        self.sockets.take_back(owner);
        self.filesystems.take_back(owner);
        let whose = Whose::owner(owner);
        lock(&self.netdevs.notifiers).retain(|(theirs, ..), _| *theirs != whose);
    }

    pub(super) fn alloc(
        &self,
        instance: &InstanceRef,
        spec: LinkSpec,
        peer: u64,
        ops: Arc<dyn NetDeviceOps>,
    ) -> Result<u64, Failure> {
        let owner = self.owners.get(instance)?;
        if !self.netdevs.open.load(Ordering::Acquire) {
            let why = "devices can be had after net_dev_init only; see `pernetctl boot` for what became of it";
            return Err(Failure::new(libc::ENODEV, why));
        }
        let peer = if peer == 0 { None } else { Some(self.netdevs.find(instance, peer)?) };
        let dev = engine::alloc_netdev(&owner, spec, ops, peer)?;
        let mut devices = lock(&self.netdevs.devices);
        if devices.len() == devices.capacity() {
            // Instead of growing, if that is enough: nobody else tells that the engine has released one.
            devices.retain(|_, kept| kept.dev.reg_state() != RegState::Released);
        }
        // Asked again under the lock: whoever ends the instance asks for the lock after it is no more an owner.
        let whose = self.owners.get(instance).is_ok().then(|| Whose::of(instance));
        devices.insert(dev.id, Kept { dev: Arc::clone(&dev), whose });
        Ok(dev.id)
    }

    pub(super) fn register(&self, instance: &InstanceRef, cookie: u64, dev: u64, peer: u64) -> Result<(), Failure> {
        let dev = self.netdevs.find(instance, dev)?;
        let net = self.net(cookie)?;
        let held = assert_rtnl(&net)?;
        match (dev.peer(), peer) {
            (None, 0) => engine::register_netdevice(&held, &net, &dev),
            (Some(other), peer) if peer != 0 => {
                let peer_net = self.net(peer)?;
                let peer_held = assert_rtnl(&peer_net)?;
                engine::register_pair((&held, &peer_held), (&net, &peer_net), (&dev, &other))
            }
            (Some(_), _) => Err(Failure::new(
                libc::EINVAL,
                "this device has another end; register both with register_netdevice_pair",
            )),
            (None, _) => Err(Failure::new(libc::EINVAL, "this device was allocated without another end")),
        }
    }

    pub(super) fn unregister(&self, instance: &InstanceRef, devs: &[u64]) -> Result<(), Failure> {
        let found = devs.iter().map(|dev| self.netdevs.find(instance, *dev));
        let devs: Vec<Arc<OwnDevice>> = found.collect::<Result<_, _>>()?;
        let mut nets: Vec<Arc<Net>> = Vec::new();
        for net in devs.iter().filter_map(|dev| dev.net()) {
            if nets.iter().all(|known| !Arc::ptr_eq(known, &net)) {
                nets.push(net);
            }
        }
        let held: Vec<HeldRtnl<'_>> = nets.iter().map(|net| assert_rtnl(net)).collect::<Result<_, _>>()?;
        engine::unregister_many(&held.iter().map(|held| &**held).collect::<Vec<_>>(), &devs)
    }

    pub(super) fn free(&self, instance: &InstanceRef, dev: u64) -> Result<(), Failure> {
        engine::free_netdev(&self.netdevs.find(instance, dev)?)?;
        self.netdevs.disown(dev);
        Ok(())
    }

    pub(super) fn change(&self, instance: &InstanceRef, dev: u64, change: &ChangeNetdev<'_>) -> Result<(), Failure> {
        let dev = self.netdevs.find(instance, dev)?;
        let net = net_of(&dev)?;
        let held = assert_rtnl(&net)?;
        match change {
            ChangeNetdev::Open => engine::dev_open(&held, &dev),
            ChangeNetdev::Close => engine::dev_close(&held, &dev),
            ChangeNetdev::Name(name) => engine::dev_change_name(&held, &dev, name),
            ChangeNetdev::Mtu(mtu) => engine::dev_set_mtu(&held, &dev, *mtu),
            ChangeNetdev::Address(address) => engine::dev_set_mac_address(&held, &dev, address),
            ChangeNetdev::Master(ifindex) => engine::dev_set_master(&held, &dev, *ifindex),
            ChangeNetdev::AddAltName(name) => engine::altname_add(&held, &dev, name),
            ChangeNetdev::DelAltName(name) => engine::altname_del(&held, &dev, name),
            ChangeNetdev::MoveTo { cookie, pattern, ifindex } => {
                let to = self.net(*cookie)?;
                let to_held = assert_rtnl(&to)?;
                engine::dev_change_net_namespace((&held, &to_held), &dev, &to, *pattern, *ifindex)
            }
        }
    }

    pub(super) fn state(&self, instance: &InstanceRef, dev: u64) -> Result<NetdevSnapshot, Failure> {
        let dev = self.netdevs.find(instance, dev)?;
        let reg_state = dev.reg_state();
        let device = dev.device();
        let not_yet = || Link { name: dev.spec.name.clone(), ..Link::default() };
        let link = device.as_ref().map_or_else(not_yet, |device| device.link.clone());
        // Where it is while it is somewhere: what it had there is nobody's to use once it is gone.
        let here = dev.net().filter(|_| reg_state == RegState::Registered);
        Ok(NetdevSnapshot {
            reg_state,
            ifindex: if here.is_some() { link.ifindex } else { 0 },
            serial: device.filter(|_| here.is_some()).map_or(0, |device| device.serial),
            cookie: here.map_or(0, |net| net.cookie.0),
            mtu: link.mtu,
            flags: link.flags,
            master: link.master,
            name: link.name,
            address: link.address,
        })
    }

    pub(super) fn hold(
        &self,
        instance: &InstanceRef,
        cookie: u64,
        (ifindex, serial): (u32, u64),
        purpose: &str,
    ) -> Result<u64, Failure> {
        let net = self.net(cookie)?;
        let held = engine::dev_hold(&net, ifindex, serial, &instance.plugin, purpose)?;
        let number = self.netdevs.last_reference.fetch_add(1, Ordering::Relaxed) + 1;
        let mut references = lock(&self.netdevs.references);
        // Asked under the lock, as the end takes it after it: a reference that comes too late is put at once.
        self.owners.get(instance)?;
        references.insert(number, (Whose::of(instance), held));
        Ok(number)
    }

    pub(super) fn put(&self, instance: &InstanceRef, reference: u64) -> Result<(), Failure> {
        let whose = Whose::of(instance);
        let mut references = lock(&self.netdevs.references);
        let mine = references.get(&reference).is_some_and(|(holder, _)| *holder == whose);
        let held = if mine { references.remove(&reference) } else { None };
        drop(references);
        // Outside the lock: the last one may set free what waits for it.
        held.map(drop).ok_or_else(|| Failure::new(libc::ESTALE, "this reference was put before"))
    }

    pub(super) fn add_notifier(
        &self,
        instance: &InstanceRef,
        cookie: u64,
        (number, priority): (u32, i32),
        block: Arc<dyn NotifierBlock>,
    ) -> Result<(), Failure> {
        let (owner, net) = (self.owners.get(instance)?, self.net(cookie)?);
        let id = self.under_lock(instance, &net, move |net, held| {
            engine::register_notifier_net(held, net, &owner, priority, block)
        })?;
        lock(&self.netdevs.notifiers).insert((Whose::of(instance), cookie, number), id);
        Ok(())
    }

    pub(super) fn remove_notifier(&self, instance: &InstanceRef, cookie: u64, number: u32) -> Result<(), Failure> {
        let net = self.net(cookie)?;
        let id = lock(&self.netdevs.notifiers).remove(&(Whose::of(instance), cookie, number));
        let id = id.ok_or_else(|| Failure::new(libc::ENOENT, "this notifier is not registered in that namespace"))?;
        self.under_lock(instance, &net, move |net, held| engine::unregister_notifier_net(held, net, id))
    }

    /// Acts in a namespace under its lock: at once where this thread's hook holds it, else as a plugin's work does.
    fn under_lock<T: Send + 'static>(
        &self,
        instance: &InstanceRef,
        net: &Arc<Net>,
        act: impl FnOnce(&Arc<Net>, &RtnlGuard<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        if net.rtnl().held_by_me() {
            let held = assert_rtnl(net)?;
            return act(net, &held);
        }
        let (answer, answered) = bounded(1);
        let there = Arc::clone(net);
        let task = Task::Hosts(Box::new(move || {
            let done = assert_rtnl(&there).and_then(|held| act(&there, &held));
            let _ = answer.send(done);
            Ok(())
        }));
        self.run_and_wait(instance, &[net.cookie.0], task)?;
        answered.try_recv().unwrap_or_else(|_| Err(gone()))
    }

    pub(super) fn net(&self, cookie: u64) -> Result<Arc<Net>, Failure> {
        let unknown = || Failure::new(libc::ENOENT, "no such namespace is managed");
        self.places.get(NetCookie(cookie)).ok_or_else(unknown)
    }
}
