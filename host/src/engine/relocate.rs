//! Moves of plugins' devices between namespaces: `dev_change_net_namespace` (K2.8).
//!
//! The device keeps its state and its operations' state: `ndo_uninit` and `ndo_init` are not called. In the old namespace it
//! is told gone, with `reg_state` still registered; in the new one it is told as new, down, with a new serial. One that
//! somebody else moved is *departed* until it is seen where it went; if nobody keeps that namespace, it is lost. What it is
//! called there, and what may be in the way, is `destination.rs`'s.

use std::sync::Arc;

use pernet_plugin_api::{EventKind, RegState};

use super::destination::Destination;
use super::failure::{EINVAL, ENODEV, Failure, HookError};
use super::links::{IFF_OPERATIONAL, IFF_UP, Link, LinkChange};
use super::mirror::{NetDevice, find, put, remove, replace};
use super::net::{Net, NetState};
use super::netdev::OwnDevice;
use super::notifier::NetdevEvent;
use super::pernet::{List, ReadToken};
use super::refs::{Ended, netdev_run_todo};
use super::rtnl::RtnlGuard;
use super::undo::Who;
use super::walk::{Walk, own_error};

/// A device that somebody moved out of its namespace, on its way to where it went.
pub struct Departed {
    /// The device.
    pub dev: Arc<OwnDevice>,
    /// The id of the namespace where it is now, as the one that it left knows it.
    pub nsid: i32,
    /// Its index there.
    pub ifindex: u32,
    from: Arc<Net>,
    list: Arc<List>,
    /// As it was told gone.
    device: Arc<NetDevice>,
}

impl std::fmt::Debug for Departed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Departed({} from {} to nsid {} as {})", self.dev, self.from.name(), self.nsid, self.ifindex)
    }
}

/// `dev_change_net_namespace`, under both locks. It is closed, and not opened again.
///
/// `pattern`: its name there, if its own is taken. `ifindex`: its index there; 0: its own if that is free, else any.
///
/// # Errors
/// K2.8: `EINVAL` if it may not be moved or is not registered, `EEXIST` for a name and `EBUSY` for an index that is
/// taken there, and nothing is done; or the kernel's, and it is down, where it was.
pub fn dev_change_net_namespace(
    rtnls: (&RtnlGuard<'_>, &RtnlGuard<'_>),
    dev: &Arc<OwnDevice>,
    to: &Arc<Net>,
    pattern: Option<&str>,
    ifindex: u32,
) -> Result<(), Failure> {
    if dev.spec.immutable {
        return Err(Failure::new(EINVAL, format!("{dev}: netns is immutable")));
    }
    if dev.may_change().is_err() {
        return Err(Failure::new(EINVAL, format!("{dev} is not registered, so it cannot be moved")));
    }
    let from = dev.net().ok_or_else(|| Failure::new(EINVAL, format!("{dev} is not registered")))?;
    from.check_held(rtnls.0)?;
    to.check_held(rtnls.1)?;
    if Arc::ptr_eq(&from, to) {
        return Ok(());
    }
    if to.state() == NetState::Dying {
        return Err(Failure::new(ENODEV, "the namespace is going; nothing can be moved into it"));
    }
    Walk::within(|walk| walk.relocate(&from, dev, to, pattern, ifindex))
}

/// An index comes back: it may be another device by now.
fn is_same(seen: &Link, known: &Link) -> bool {
    seen.kind == known.kind && seen.address == known.address
}

impl Walk {
    fn relocate(
        &mut self,
        from: &Arc<Net>,
        dev: &Arc<OwnDevice>,
        to: &Arc<Net>,
        pattern: Option<&str>,
        ifindex: u32,
    ) -> Result<(), Failure> {
        // From here on the other net's observations wait for its lock.
        to.record().own.push(dev.clone());
        let answer = self.relocate_known(from, dev, to, pattern, ifindex);
        let at = dev.net();
        for net in [from, to] {
            if !at.as_ref().is_some_and(|at| Arc::ptr_eq(at, net)) {
                net.record().own.retain(|own| !Arc::ptr_eq(own, dev));
            }
            self.unwatch_if_idle(net);
        }
        answer
    }

    fn relocate_known(
        &mut self,
        from: &Arc<Net>,
        dev: &Arc<OwnDevice>,
        to: &Arc<Net>,
        pattern: Option<&str>,
        ifindex: u32,
    ) -> Result<(), Failure> {
        self.watch(to)?;
        let gone = || Failure::new(EINVAL, format!("{dev} is not registered"));
        let known = dev.listed(from).ok_or_else(gone)?;
        let index = known.link.ifindex;
        // It is found there by its name, and somebody may have changed that.
        let seen = self.section(from, || from.namespace().look(index))??.filter(|seen| is_same(seen, &known.link));
        let changed = || format!("somebody deleted or moved {dev}, or changed its address, just now");
        let seen = seen.ok_or_else(|| Failure::new(ENODEV, changed()))?;
        let mut there = Destination::of(&seen, to, &self.links_of(to)?, pattern, ifindex)?;
        let device = self.close_to_move(from, dev)?;
        while let Err(refused) = self.move_link(from, index, to, &there) {
            let links = self.links_of(to).map_err(|_| refused.clone())?;
            there.instead(&seen, &links, refused)?;
        }
        dev.count_change();
        self.fence(from, index);
        let name = there.name.unwrap_or(seen.name);
        let there = self.moved_to(to, &device, there.ifindex, name);
        self.tell_moved(from, dev, &device);
        let there = there.and_then(|link| self.enlist_moved(to, dev, link));
        there.inspect_err(|_| self.end_lost(from, dev, &device))
    }

    fn move_link(&mut self, from: &Arc<Net>, index: u32, to: &Net, there: &Destination) -> Result<(), Failure> {
        let change = LinkChange::MoveTo { net: to, ifindex: there.ifindex, name: there.name.as_deref() };
        self.section(from, || from.namespace().change(index, &change))?
    }

    /// What was moved, as it is there. That it cannot be looked at does not undo the move.
    fn moved_to(&mut self, to: &Arc<Net>, device: &NetDevice, ifindex: u32, name: String) -> Result<Link, Failure> {
        let seen = self.find_there(to, ifindex, &name).or_else(|_| self.find_there(to, ifindex, &name));
        match seen {
            Ok(Some(link)) => Ok(link),
            Ok(None) => {
                let why = format!("somebody deleted `{name}` as soon as it was moved to `{}`", to.name());
                Err(Failure::new(ENODEV, why))
            }
            Err(_) if ifindex != 0 => Ok(Link { ifindex, name, master: 0, ..device.link.clone() }),
            Err(failure) => Err(failure),
        }
    }

    /// The link where it was moved to.
    fn find_there(&mut self, to: &Arc<Net>, ifindex: u32, name: &str) -> Result<Option<Link>, Failure> {
        if ifindex != 0 {
            return self.section(to, || to.namespace().look(ifindex)).and_then(|link| link);
        }
        let links = self.section(to, || to.namespace().list())??;
        Ok(links.into_iter().find(|link| link.name == name))
    }

    /// UNREGISTER in the namespace that it left; it stays registered (K2.8).
    fn tell_moved(&mut self, from: &Arc<Net>, dev: &OwnDevice, device: &NetDevice) {
        remove(from, device);
        dev.life().dismantle = true;
        self.tell(from, Who::All, &NetdevEvent::new(EventKind::Unregister, device));
        from.resolve_device_error(None, device.link.ifindex);
    }

    /// The descriptors of a tun or tap keep the namespace in which they were opened, so they are opened anew where it is.
    /// It was stopped before it was moved: its plugin has none.
    fn reopen(&mut self, to: &Arc<Net>, dev: &OwnDevice, ifindex: u32) -> Result<(), Failure> {
        let Some(queues) = dev.life().queues.take() else { return Ok(()) };
        let reopened = self.section(to, || to.namespace().reopen(ifindex, &dev.spec, queues)).and_then(|queues| queues);
        let ended =
            |why: Failure| Failure::new(why.errno, format!("{dev} is moved to `{}` and ends: {why}", to.name()));
        dev.life().queues = Some(reopened.map_err(ended)?);
        Ok(())
    }

    /// REGISTER in the namespace where it is now; an answer is not asked for. After an error it is nowhere.
    fn enlist_moved(&mut self, to: &Arc<Net>, dev: &Arc<OwnDevice>, seen: Link) -> Result<(), Failure> {
        let ifindex = seen.ifindex;
        self.reopen(to, dev, ifindex)?;
        let settled = self.settle(to, dev, ifindex);
        let mut link = settled.link.clone().flatten().unwrap_or(seen);
        link.flags &= !(IFF_UP | IFF_OPERATIONAL);
        let same =
            |known: &NetDevice| known.own.is_none() && known.link.kind == link.kind && known.link.name == link.name;
        let (known, stale): (Vec<_>, Vec<_>) = find(to, ifindex).into_iter().partition(|known| same(known));
        // One that went without our having seen it.
        stale.iter().for_each(|stale| self.unregister_device(to, stale, Who::All, false));
        let mut life = dev.life();
        let left = life.net.replace(to.clone());
        life.born = life.born.or(left.map(|left| left.cookie));
        (life.dismantle, life.departed) = (false, false);
        drop(life);
        match known.first() {
            // It was seen there before we came: told already.
            Some(known) => {
                let own = Some(dev.clone());
                let known =
                    NetDevice { own, link: Link { flags: link.flags, ..known.link.clone() }, ..(**known).clone() };
                put(to, Arc::new(known));
            }
            None => {
                let (serial, reg_state) = (self.next_serial(), RegState::Registered);
                let device = Arc::new(NetDevice { link, serial, reg_state, own: Some(dev.clone()) });
                put(to, device.clone());
                self.tell(to, Who::All, &NetdevEvent::new(EventKind::Register, &device));
            }
        }
        self.catch_up(to, dev, settled);
        Ok(())
    }

    /// One that departed, if this is where it is.
    fn take_in(&mut self, net: &Arc<Net>, departed: &Departed) -> Result<(), Failure> {
        self.watch(net)?;
        let seen = self.find_there(net, departed.ifindex, "")?;
        match seen.filter(|link| is_same(link, &departed.device.link)) {
            Some(link) => self.enlist_moved(net, &departed.dev, link),
            None => Ok(()),
        }
    }

    /// Somebody moved a plugin's device away.
    pub(super) fn depart(&mut self, net: &Arc<Net>, dev: &Arc<OwnDevice>, nsid: i32, ifindex: u32) -> Option<Departed> {
        dev.may_change().ok()?;
        let mut device = dev.listed(net)?;
        let was_up = device.link.is_up();
        if was_up {
            self.tell(net, Who::All, &NetdevEvent::new(EventKind::GoingDown, &device));
        }
        self.stop(net, dev, &device);
        if was_up {
            let now = dev.listed(net)?;
            device = replace(net, &now, |link| link.flags &= !(IFF_UP | IFF_OPERATIONAL));
            self.tell(net, Who::All, &NetdevEvent::new(EventKind::Down, &device));
        }
        self.tell_moved(net, dev, &device);
        dev.life().departed = true;
        Some(Departed { dev: dev.clone(), nsid, ifindex, from: net.clone(), list: self.list(), device })
    }

    /// The full end of one that is nowhere any more: nobody is left who could be told.
    pub(super) fn end_lost(&mut self, from: &Arc<Net>, dev: &Arc<OwnDevice>, device: &Arc<NetDevice>) {
        let mut life = dev.life();
        if life.reg_state != RegState::Registered {
            return;
        }
        life.reg_state = RegState::Unregistering;
        life.device = Some(Arc::new(NetDevice { own: None, ..(**device).clone() }));
        let queues = life.queues.take();
        drop(life);
        drop(queues);
        self.tell(from, Who::All, &NetdevEvent::new(EventKind::PreUninit, device));
        self.uninit(from, dev, device);
        let ended = Ended { dev: dev.clone(), net: from.clone(), list: self.list(), device: device.clone() };
        if from.rtnl().held_here() {
            from.rtnl().set_todo(ended);
        } else {
            ended.begin();
            netdev_run_todo(vec![ended]);
        }
    }
}

/// A device that departed from one namespace is in this one.
pub fn arrived(token: &ReadToken, net: &Arc<Net>, departed: Departed) -> Vec<HookError> {
    let open = matches!(net.state(), NetState::Live | NetState::Degraded) && !net.dying();
    if !open {
        return lost(departed);
    }
    let mut walk = Walk::new(token.list());
    let (dev, from) = (&departed.dev, &departed.from);
    if dev.reg_state() != RegState::Registered {
        // Its plugin's end was first.
        return walk.finish();
    }
    net.record().own.push(dev.clone());
    let there = walk.hold(&[&**net]).and_then(|held| {
        let taken = walk.take_in(net, &departed);
        walk.release(held);
        taken
    });
    if let Err(failure) = &there {
        walk.complain(own_error(net, "netdev.arrived", failure.clone()));
    }
    let here = dev.is_registered_in(net);
    let other = if here { from } else { net };
    other.record().own.retain(|own| !Arc::ptr_eq(own, dev));
    walk.unwatch_if_idle(from);
    let mut errors = walk.finish();
    if !here {
        errors.extend(lost(departed));
    }
    errors
}

/// A device that departed is nowhere: its namespace is not managed, or gone, or it was deleted there. It ends.
pub fn lost(departed: Departed) -> Vec<HookError> {
    let mut walk = Walk::new(&departed.list);
    let from = &departed.from;
    match walk.hold(&[&**from]) {
        Ok(held) => {
            walk.end_lost(from, &departed.dev, &departed.device);
            walk.release(held);
        }
        Err(failure) => {
            walk.complain(own_error(from, "netdev.lost", failure));
            walk.end_lost(from, &departed.dev, &departed.device);
        }
    }
    walk.unwatch_if_idle(from);
    walk.finish()
}
