//! What an author does with devices: under the lock that a hook holds ([`Net`]), or taking it ([`Host`]).
//!
//! Mirrors `register_netdevice` and its like, and the `register_netdev` that locks. Every call goes to the host; its
//! rules (K2.4 to K2.8) are the engine's.

use std::sync::Arc;

use crate::abi::{NetdevChange, NetdevHandle};
use crate::chain::NotifierId;
use crate::datapath::Datapath;
use crate::host::{accepted, missing};
use crate::netdev_ops::{AnyNetdevOps, Entry};
use crate::own::NetdevRef;
use crate::{Error, Host, Net, NetCookie, NetDeviceOps, Netdev, NetdevSpec, Notifier, Result};

/// [`NetdevChange::what`].
#[derive(Clone, Copy)]
enum What {
    Open = 0,
    Close = 1,
    Name = 2,
    Mtu = 3,
    Address = 4,
    Master = 5,
    AddAltName = 6,
    DelAltName = 7,
    MoveTo = 8,
    MoveAs = 9,
}

/// Devices of the plugin's own, under the lock of their namespace: in its hooks, and in work that runs in it.
///
/// A call from another thread, and one in `exit_batch`, which runs without the lock, is `EPERM`. Nested events are
/// delivered before the call returns; what an unregistration leaves happens after the unlock (K2.6).
impl Net<'_> {
    /// Registers a device here (K2.4): it gets a name and an index, its ops' `init` is called, the kernel's device is
    /// made, and everybody is told. It is down.
    ///
    /// The kernel's device is made before REGISTER is told: one that a notifier refuses there was visible to other programs for
    /// a moment. At POST_INIT it has index 0, unless it asked for one.
    ///
    /// A device whose registration fails before the kernel's is made may be registered again. After the kernel's refusal, and
    /// after a notifier's veto of REGISTER, it is at its end, and must be freed.
    ///
    /// # Errors
    /// `EEXIST` for a name in use, `EINVAL` for one that is none, `ENFILE` for a pattern without a free number, `EBUSY`
    /// for an index in use or a device that is registered, what `init` or a notifier answered, what the kernel answers.
    pub fn register_netdevice(&self, dev: &Netdev) -> Result<()> {
        register(self, dev, 0)
    }

    /// Registers both ends of a `veth`, this one here and its peer there: in the same namespace, or in another one whose
    /// lock is held too ([`Host::run_in_two`], [`Host::defer_two`]). Both or none; after a refusal both are the plugin's to
    /// free, whatever [`NetdevSpec::needs_free`] says.
    ///
    /// # Errors
    /// As [`register_netdevice`](Net::register_netdevice); `EINVAL` if `peer` is not the other end.
    pub fn register_netdevice_pair(&self, dev: &Netdev, peer_net: &Net<'_>, peer: &Netdev) -> Result<()> {
        if dev.mate().is_none_or(|(mate, _)| mate != peer.handle()) {
            return Err(Error::new(libc::EINVAL, "the two devices were not allocated as each other's peer"));
        }
        register(self, dev, peer_net.cookie().0)
    }

    /// Unregisters a device (K2.5): closed, the kernel's device deleted, out of the lists, told gone, its ops' `uninit` called.
    /// After the unlock its references are waited for, and its `destructor` is called.
    ///
    /// # Errors
    /// `EINVAL` if it is not registered, `EPERM` if the lock of its namespace is not held.
    pub fn unregister_netdevice(&self, dev: &Netdev) -> Result<()> {
        self.unregister_many(&[dev])
    }

    /// Unregisters several at once: each step for all of them before the next (K2.5). All are in this namespace, or in
    /// another one whose lock is held too.
    ///
    /// # Errors
    /// `EPERM` if one of the locks is not held, and nothing is done; else one that cannot be is left out, and the others
    /// go.
    pub fn unregister_many(&self, devs: &[&Netdev]) -> Result<()> {
        let Some(first) = devs.first() else { return Ok(()) };
        let handles: Vec<NetdevHandle> = devs.iter().map(|dev| dev.handle()).collect();
        let unregister = first.caller().host.unregister_netdevices().ok_or_else(missing)?;
        accepted(unregister(first.caller().token, handles.as_slice().into()))
    }

    /// Sets it up (K2.7). Up already is no error, and nothing happens.
    ///
    /// # Errors
    /// What a notifier of PRE_UP or the ops' `open` answered, or the kernel.
    pub fn dev_open(&self, dev: &Netdev) -> Result<()> {
        change(dev, What::Open, 0, "", &[])
    }

    /// Sets it down.
    ///
    /// # Errors
    /// What the kernel answers; ops and notifiers cannot refuse it.
    pub fn dev_close(&self, dev: &Netdev) -> Result<()> {
        change(dev, What::Close, 0, "", &[])
    }

    /// Changes its MTU, in bytes.
    ///
    /// # Errors
    /// `EINVAL` beyond its bounds; what a notifier, its ops or the kernel answers. It then has the old one.
    pub fn dev_set_mtu(&self, dev: &Netdev, mtu: u32) -> Result<()> {
        change(dev, What::Mtu, u64::from(mtu), "", &[])
    }

    /// Changes its hardware address.
    ///
    /// # Errors
    /// What a notifier of PRE_CHANGEADDR, its ops or the kernel answers.
    pub fn dev_set_mac_address(&self, dev: &Netdev, address: &[u8]) -> Result<()> {
        change(dev, What::Address, 0, "", address)
    }

    /// Renames it, to a name or by a pattern; the name that it has counts as used (K2.1(7)).
    ///
    /// # Errors
    /// `EEXIST`, `EINVAL`, `ENFILE` as at a registration; what a notifier of CHANGENAME answers, and then it has its old
    /// name again.
    pub fn dev_change_name(&self, dev: &Netdev, name: &str) -> Result<()> {
        change(dev, What::Name, 0, name, &[])
    }

    /// Puts it under an upper device, given by its ifindex, or with 0 under none.
    ///
    /// # Errors
    /// `EEXIST` if it is there already, `EBUSY` under another one; what a notifier or the kernel answers.
    pub fn dev_set_master(&self, dev: &Netdev, master: u32) -> Result<()> {
        change(dev, What::Master, u64::from(master), "", &[])
    }

    /// Adds an alternative name.
    ///
    /// # Errors
    /// `EEXIST` for one in use, `ERANGE` from 128 bytes on (K2.1(9)).
    pub fn altname_add(&self, dev: &Netdev, name: &str) -> Result<()> {
        change(dev, What::AddAltName, 0, name, &[])
    }

    /// Deletes an alternative name.
    ///
    /// # Errors
    /// `ENOENT` for an unknown one, `EINVAL` for a name that is not an alternative one of this device.
    pub fn altname_del(&self, dev: &Netdev, name: &str) -> Result<()> {
        change(dev, What::DelAltName, 0, name, &[])
    }

    /// Moves it to another namespace, whose lock is held too (K2.8). It is down there, and keeps its name; its index, if
    /// that is free there. Its ops see neither `uninit` nor `init`, notifiers see it go here and come there.
    ///
    /// # Errors
    /// `EEXIST` for a name or alternative name in use there; `EINVAL` for one that may not move.
    pub fn dev_change_net_namespace(&self, dev: &Netdev, to: &Net<'_>) -> Result<()> {
        change(dev, What::MoveTo, to.cookie().0, "", &[])
    }

    /// The same with a choice: the name, or the pattern, that it has there if its own is taken; and the index that it shall
    /// have (0: as above).
    ///
    /// # Errors
    /// As [`dev_change_net_namespace`](Net::dev_change_net_namespace); `EINVAL` for a pattern that gives no name, `ENFILE` for
    /// one without a free number, `EBUSY` for an index in use there. An alternative name in use there is `EEXIST` whatever
    /// the pattern.
    pub fn dev_change_net_namespace_as(
        &self,
        dev: &Netdev,
        to: &Net<'_>,
        pattern: Option<&str>,
        ifindex: u32,
    ) -> Result<()> {
        let ifindex = ifindex.to_ne_bytes();
        let ifindex = if ifindex == [0; 4] { &[][..] } else { &ifindex };
        change(dev, What::MoveAs, to.cookie().0, pattern.unwrap_or_default(), ifindex)
    }
}

fn register(net: &Net<'_>, dev: &Netdev, peer_cookie: u64) -> Result<()> {
    let caller = dev.caller();
    let register = caller.host.register_netdevice().ok_or_else(missing)?;
    accepted(register(caller.token, net.cookie().0, dev.handle(), peer_cookie))
}

fn change(dev: &Netdev, what: What, number: u64, text: &str, bytes: &[u8]) -> Result<()> {
    let caller = dev.caller();
    let change = caller.host.netdev_change().ok_or_else(missing)?;
    let told = NetdevChange { what: what as u8, number, text: text.into(), bytes: bytes.into() };
    accepted(change(caller.token, dev.handle(), &told))
}

/// Devices of the plugin's own, from any thread. What takes a namespace's lock is not for a hook that holds it, or one
/// that comes after it in lock order: that is `EDEADLK` at once, and [`Net`] has the call for those.
impl Host {
    /// Allocates a device (`alloc_netdev`), of which the kernel knows nothing yet. `()` is ops that do nothing.
    ///
    /// # Errors
    /// `EINVAL` for a spec that can be for no device; `ESTALE` after the instance's end.
    pub fn alloc_netdev<O: NetDeviceOps>(&self, spec: NetdevSpec, ops: O) -> Result<Netdev> {
        if spec.is_too_long {
            let why = format!("device `{}`: an attribute of more than 65531 bytes cannot be told", spec.name);
            return Err(Error::new(libc::EINVAL, why));
        }
        let alloc = self.caller().host.alloc_netdev().ok_or_else(missing)?;
        let datapath = Datapath::new(&spec, self.shared());
        let ops: Arc<dyn AnyNetdevOps> = Arc::new(ops);
        let entry = Arc::new(Entry::new(ops, datapath));
        let number = self.shared().devices.insert(&entry)?;
        let answer = spec.with_raw(number, |raw| alloc(self.caller().token, raw));
        if let Err(error) = accepted(answer.status) {
            // Dropped after the table's lock, as everything of an author's.
            drop(self.shared().devices.take(number));
            return Err(error);
        }
        let _ = entry.dev.set(answer.dev);
        Ok(Netdev::new(self.caller(), answer.dev, &entry, spec.peer.as_ref()))
    }

    /// Registers a device in a namespace, taking its lock: [`Net::register_netdevice`] in [`Host::run_in`].
    ///
    /// # Errors
    /// Those of both.
    pub fn register_netdev(&self, net: NetCookie, dev: &Netdev) -> Result<()> {
        let dev = dev.clone();
        self.run_in(net, move |net| net.register_netdevice(&dev))?
    }

    /// Registers both ends of a `veth`, taking the locks of both namespaces, or the one of the same.
    ///
    /// # Errors
    /// Those of [`Net::register_netdevice_pair`] and [`Host::run_in_two`].
    pub fn register_netdev_pair(&self, net: NetCookie, dev: &Netdev, peer_net: NetCookie, peer: &Netdev) -> Result<()> {
        let (dev, peer) = (dev.clone(), peer.clone());
        if net == peer_net {
            return self.run_in(net, move |net| net.register_netdevice_pair(&dev, net, &peer))?;
        }
        self.run_in_two(net, peer_net, move |net, peer_net| net.register_netdevice_pair(&dev, peer_net, &peer))?
    }

    /// Unregisters a device, taking the lock of the namespace that it is in; of a `veth` whose two ends are the plugin's
    /// and registered, both ends, and both locks. Its references were waited for when this returns.
    ///
    /// # Errors
    /// `EINVAL` if it is not registered; those of [`Host::run_in`]; `EAGAIN` if somebody keeps moving it.
    pub fn unregister_netdev(&self, dev: &Netdev) -> Result<()> {
        // It may be moved between the look and the lock: the host then says that the lock is the wrong one.
        for _ in 0..4 {
            let not_registered = || Error::new(libc::EINVAL, "the device is not registered");
            let net = dev.state()?.net.ok_or_else(not_registered)?;
            let one = dev.clone();
            let result = match dev.mate() {
                Some((_, Some(there))) if there != net => {
                    self.run_in_two(net, there, move |net, _| net.unregister_netdevice(&one))
                }
                _ => self.run_in(net, move |net| net.unregister_netdevice(&one)),
            };
            match result? {
                Err(error) if error.errno() == libc::EPERM => {}
                result => return result,
            }
        }
        Err(Error::new(libc::EAGAIN, "the device was moved again and again while it was to be unregistered"))
    }

    /// Takes a reference to a device (`dev_hold`), by its identity. The purpose is what the operator reads when the
    /// device's end has to wait for it.
    ///
    /// # Errors
    /// `ENOENT` if the namespace is not managed, `ENODEV` if there is no such device in it.
    pub fn dev_hold(&self, net: NetCookie, ifindex: u32, serial: u64, purpose: &str) -> Result<NetdevRef> {
        NetdevRef::hold(self.caller(), net, ifindex, serial, purpose)
    }

    /// Registers a notifier in one namespace's own chain, which is told before the others (K3.2). It is replayed what
    /// exists first (K3.5), and called until it is unregistered or the namespace goes.
    ///
    /// From a hook of that namespace the lock that it holds is used, which its pernet ops may need (K3.7); else it is
    /// taken. What is left when the plugin goes is unregistered then.
    ///
    /// # Errors
    /// `ENOENT` if the namespace is not managed; what the notifier answers to the replay; `EDEADLK` at once from within
    /// that namespace's chain, which is a notifier's `event` there and whatever it calls (K3.8), and from a hook in a
    /// namespace that comes after that one in lock order. [`Host::defer`] is the way then.
    pub fn register_netdevice_notifier_net<N: Notifier>(
        &self,
        net: NetCookie,
        priority: i32,
        notifier: N,
    ) -> Result<NotifierId> {
        let caller = self.caller();
        let register = caller.host.register_notifier().ok_or_else(missing)?;
        let number = self.shared().notifiers.insert(Arc::new(notifier))?;
        let status = register(caller.token, net.0, priority, number);
        accepted(status).inspect_err(|_| drop(self.shared().notifiers.take(number)))?;
        Ok(NotifierId { net, number })
    }

    /// Unregisters such a notifier: it is told that each device goes (K3.6), and then dropped.
    ///
    /// # Errors
    /// `ENOENT` if its namespace is gone, and with it the registration: it is dropped then, too. `EDEADLK` as at the
    /// registration: it stays then.
    pub fn unregister_netdevice_notifier_net(&self, id: NotifierId) -> Result<()> {
        let caller = self.caller();
        let unregister = caller.host.unregister_notifier().ok_or_else(missing)?;
        let result = accepted(unregister(caller.token, id.net.0, id.number));
        if result.as_ref().err().is_none_or(|error| error.errno() == libc::ENOENT) {
            drop(self.shared().notifiers.take(id.number));
        }
        result
    }
}
