//! How a plugin's device ends: `unregister_netdevice_many`, in its order (K2.5).
//!
//! Closed → out of the kernel and the lists → UNREGISTER, PRE_UNINIT, `ndo_uninit` each. The rest (the wait for
//! references, the destructor) comes after the unlock, in `refs.rs`. The same serves a plugin's or namespace's end, a
//! refused registration, and a device that somebody else deleted. Errors are collected; nothing stops it.

use std::sync::Arc;

use pernet_plugin_api::{EventKind, ExitReason, RegState};

use super::failure::{EBUSY, EINVAL, ENODEV, EPERM, Failure};
use super::links::{IFF_OPERATIONAL, IFF_UP};
use super::mirror::{NetDevice, remove, replace};
use super::net::{Net, NetState};
use super::netdev::OwnDevice;
use super::notifier::NetdevEvent;
use super::pernet::ReadToken;
use super::refs::Ended;
use super::rtnl::RtnlGuard;
use super::undo::Who;
use super::walk::{Walk, own_error};

/// What becomes of the kernel's own device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    /// It is deleted.
    Delete,
    /// It is gone already.
    Gone,
    /// It stays as it is, for the daemon that comes after this one.
    Leave,
}

/// One that is being unregistered.
struct Going {
    dev: Arc<OwnDevice>,
    net: Arc<Net>,
    kernel: Kernel,
    /// As it is told.
    device: Arc<NetDevice>,
    was_up: bool,
    /// It could not be deleted.
    stays: bool,
}

/// `unregister_netdevice_many`, under the lock of each device's namespace. A pair whose locks are both held goes whole.
///
/// # Errors
/// `EPERM` without a lock or outside of a hook, and nothing is done. Else all that can be are unregistered, and the first
/// error is given: `EINVAL` for one that is not registered, `EBUSY` for one that is being unregistered, or why the
/// kernel did not delete one.
pub fn unregister_many(rtnls: &[&RtnlGuard<'_>], devs: &[Arc<OwnDevice>]) -> Result<(), Failure> {
    for net in devs.iter().filter_map(|dev| dev.net()) {
        let proof = rtnls.iter().find(|rtnl| rtnl.cookie() == net.cookie);
        let proof = proof.ok_or_else(|| Failure::new(EPERM, format!("the lock of `{}` is not held", net.name())))?;
        net.check_held(proof)?;
    }
    let devs = devs.iter().map(|dev| (dev.clone(), Kernel::Delete)).collect();
    Walk::within(|walk| walk.unregister_own(devs))
}

/// `unregister_netdev`: takes the lock for it, and that of its peer.
///
/// # Errors
/// As [`unregister_many`], and those of the locks.
pub fn unregister_netdev(token: &ReadToken, dev: &Arc<OwnDevice>) -> Result<(), Failure> {
    let Some(net) = dev.net() else {
        return Err(not_registered(dev));
    };
    let mut walk = Walk::new(token.list());
    let nets = with_peers(&net, std::slice::from_ref(dev));
    let answer = walk.lock(&nets.iter().map(|net| &**net).collect::<Vec<_>>()).and_then(|held| {
        let answer = walk.unregister_own(vec![(dev.clone(), Kernel::Delete)]);
        walk.release(held);
        answer
    });
    walk.finish_at(&net);
    answer
}

/// The net, and those where the peers of these devices are.
fn with_peers(net: &Arc<Net>, devs: &[Arc<OwnDevice>]) -> Vec<Arc<Net>> {
    let mut nets = vec![net.clone()];
    for other in devs.iter().filter_map(|dev| dev.peer()).filter_map(|peer| peer.net()) {
        if nets.iter().all(|net| !Arc::ptr_eq(net, &other)) {
            nets.push(other);
        }
    }
    nets
}

fn not_registered(dev: &OwnDevice) -> Failure {
    Failure::new(EINVAL, format!("{dev} is not registered"))
}

impl Going {
    /// K2.5(1): from here on nobody else changes it.
    fn begin(dev: &Arc<OwnDevice>, kernel: Kernel) -> Result<Self, Failure> {
        let mut life = dev.life();
        match (life.reg_state, life.net.clone(), life.device.clone()) {
            (RegState::Registered, Some(net), Some(device)) if !life.dismantle => {
                life.dismantle = true;
                drop(life);
                let device = dev.listed(&net).unwrap_or(device);
                let was_up = device.link.is_up();
                Ok(Going { dev: dev.clone(), net, kernel, device, was_up, stays: false })
            }
            (RegState::Registered | RegState::Unregistering, ..) => {
                Err(Failure::new(EBUSY, format!("{dev} is being unregistered already")))
            }
            _ => Err(not_registered(dev)),
        }
    }
}

/// Each once, in its last place; and after one that is deleted its peer, where this thread holds its lock too.
fn with_pairs(devs: Vec<(Arc<OwnDevice>, Kernel)>) -> Vec<(Arc<OwnDevice>, Kernel)> {
    let mut all: Vec<(Arc<OwnDevice>, Kernel)> = Vec::new();
    let mut add = |dev: Arc<OwnDevice>, kernel| {
        all.retain(|(other, _)| !Arc::ptr_eq(other, &dev));
        all.push((dev, kernel));
    };
    for (dev, kernel) in devs {
        let peer = dev.peer().filter(|_| kernel == Kernel::Delete && dev.reg_state() == RegState::Registered);
        add(dev, kernel);
        if let Some(peer) = peer.filter(|peer| is_held(peer)) {
            add(peer, kernel);
        }
    }
    all
}

/// Whether it is registered, and its lock is this thread's.
fn is_held(dev: &OwnDevice) -> bool {
    dev.reg_state() == RegState::Registered
        && dev.may_change().is_ok()
        && dev.net().is_some_and(|net| net.rtnl().held_here())
}

impl OwnDevice {
    /// Whether the next daemon finds it again: it is where its plugin registers it, under the name that it asks for; and
    /// so is its other end. A pattern's name is nobody's to expect: the next registration takes the lowest that is free.
    fn is_found_again(&self) -> bool {
        let other = self.peer().filter(|peer| peer.reg_state() == RegState::Registered);
        self.is_as_registered() && other.is_none_or(|peer| peer.is_as_registered())
    }

    fn is_as_registered(&self) -> bool {
        let life = self.life();
        let at_home = life.born.is_none() || life.born == life.net.as_ref().map(|net| net.cookie);
        at_home && !life.departed && life.device.as_ref().is_some_and(|device| device.link.name == self.spec.name)
    }
}

impl Walk {
    /// Unregisters these, in the order given. Their locks are held.
    pub(super) fn unregister_own(&mut self, devs: Vec<(Arc<OwnDevice>, Kernel)>) -> Result<(), Failure> {
        let mut first = Ok(());
        let mut going = Vec::new();
        for (dev, kernel) in with_pairs(devs) {
            match Going::begin(&dev, kernel) {
                Ok(one) => going.push(one),
                Err(failure) => first = first.and(Err(failure)),
            }
        }
        self.close_all(&mut going);
        going.iter_mut().for_each(|one| first = std::mem::replace(&mut first, Ok(())).and(self.take_out(one)));
        going.iter_mut().for_each(|one| self.unlist(one));
        going.iter().for_each(|one| self.tell_gone(one));
        let nets: Vec<Arc<Net>> = going.iter().map(|one| one.net.clone()).collect();
        going.into_iter().for_each(|one| self.leave_rest(one));
        nets.iter().for_each(|net| self.unwatch_if_idle(net));
        first
    }

    /// K2.7: as one batch.
    fn close_all(&mut self, going: &mut [Going]) {
        for one in going.iter().filter(|one| one.was_up) {
            self.tell(&one.net, Who::All, &NetdevEvent::new(EventKind::GoingDown, &one.device));
        }
        for one in &mut *going {
            self.stop(&one.net, &one.dev, &one.device);
            if one.was_up {
                one.device = replace(&one.net, &one.device, |link| link.flags &= !(IFF_UP | IFF_OPERATIONAL));
            }
        }
        for one in going.iter().filter(|one| one.was_up) {
            self.tell(&one.net, Who::All, &NetdevEvent::new(EventKind::Down, &one.device));
        }
    }

    /// `ndo_stop`, if it is due.
    pub(super) fn stop(&mut self, net: &Arc<Net>, dev: &OwnDevice, device: &NetDevice) {
        if std::mem::take(&mut dev.life().open) {
            self.ndo_exit(net, dev, "ndo.stop", |ops, at| ops.stop(at, device));
        }
    }

    /// The kernel's name and index are free before anybody is told (K2.5(3)).
    fn take_out(&mut self, one: &mut Going) -> Result<(), Failure> {
        if one.kernel != Kernel::Delete {
            return Ok(());
        }
        let (net, ifindex) = (&one.net, one.device.link.ifindex);
        let deleted = match self.section(net, || net.namespace().delete(ifindex)).and_then(|deleted| deleted) {
            Err(failure) if failure.errno != ENODEV => Err(failure),
            _ => Ok(()),
        };
        self.fence(net, ifindex);
        deleted.inspect_err(|failure| {
            one.stays = true;
            self.complain(own_error(&one.net, "netdev.delete", failure.clone()));
        })
    }

    /// K2.5(3): out of the lists.
    fn unlist(&mut self, one: &mut Going) {
        remove(&one.net, &one.device);
        one.device = Arc::new(NetDevice { reg_state: RegState::Unregistering, ..(*one.device).clone() });
        let mut life = one.dev.life();
        life.reg_state = RegState::Unregistering;
        // It is shown when it is gone, but keeps nothing alive.
        life.device = Some(Arc::new(NetDevice { own: None, ..(*one.device).clone() }));
        let queues = life.queues.take();
        drop(life);
        // A namespace lives as long as a descriptor of a tun's in it.
        drop(queues);
    }

    /// K2.5(5).
    fn tell_gone(&mut self, one: &Going) {
        self.tell(&one.net, Who::All, &NetdevEvent::new(EventKind::Unregister, &one.device));
        self.tell(&one.net, Who::All, &NetdevEvent::new(EventKind::PreUninit, &one.device));
        self.uninit(&one.net, &one.dev, &one.device);
        one.net.resolve_device_error(None, one.device.link.ifindex);
    }

    /// K2.5(7): the todo.
    fn leave_rest(&mut self, one: Going) {
        let device = Arc::new(NetDevice { reg_state: RegState::Unregistered, ..(*one.device).clone() });
        let (dev, net, list) = (one.dev, one.net, self.list());
        if one.stays && net.state() != NetState::Dying {
            self.see_left(&net, device.link.ifindex);
        }
        net.rtnl().set_todo(Ended { dev, net: net.clone(), list, device });
    }

    /// One that could not be deleted is there, and nobody's.
    pub(super) fn see_left(&mut self, net: &Arc<Net>, ifindex: u32) {
        match self.section(net, || net.namespace().look(ifindex)).and_then(|link| link) {
            Ok(Some(link)) => self.observe(net, &link, false),
            Ok(None) => {}
            Err(failure) => self.complain(own_error(net, "netdev.look", failure)),
        }
    }

    /// Unregisters what a plugin's or the namespace's end leaves over.
    pub(super) fn end_all(&mut self, net: &Arc<Net>, going: Vec<Arc<OwnDevice>>, reason: ExitReason) {
        let stays = |dev: &OwnDevice| dev.owner.told(reason) == ExitReason::Stopped && dev.is_found_again();
        let deleted: Vec<_> = going.iter().filter(|dev| !stays(dev)).cloned().collect();
        let nets = with_peers(net, &deleted);
        let nets: Vec<&Net> = nets.iter().map(|net| &**net).collect();
        // Where the other end's namespace cannot be locked, it is seen there that its device is gone.
        let held = self.hold(&nets).or_else(|_| self.hold(&[&**net]));
        let held = match held {
            Ok(held) => held,
            Err(failure) => return self.complain(own_error(net, "netdev.unregister", failure)),
        };
        let kernel = |dev: &OwnDevice| if stays(dev) { Kernel::Leave } else { Kernel::Delete };
        let (away, here): (Vec<_>, Vec<_>) = going.into_iter().partition(|dev| dev.life().departed);
        for dev in away {
            if let Some(device) = dev.device() {
                self.end_lost(net, &dev, &device);
            }
        }
        let here = here.into_iter().map(|dev| {
            let kernel = kernel(&dev);
            (dev, kernel)
        });
        let _ = self.unregister_own(here.collect());
        self.release(held);
    }
}
