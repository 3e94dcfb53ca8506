//! How a plugin's device comes to be: `register_netdevice`, step by step (K2.4).
//!
//! Name → `ndo_init` → index → POST_INIT → the kernel's own device → the lists → REGISTER. What a step that fails undoes
//! is the table's. A pair is registered as veth does it: the peer first, and whole (K4.7); both names are resolved
//! before, since the kernel makes both ends in one.

use std::sync::Arc;

use pernet_plugin_api::{EventKind, RegState};

use super::failure::{EBUSY, EINVAL, ENODEV, Failure};
use super::fence::Settled;
use super::links::{Created, IFF_OPERATIONAL, IFF_UP, Link};
use super::mirror::{NetDevice, find, put};
use super::net::Net;
use super::netdev::OwnDevice;
use super::notifier::NetdevEvent;
use super::pernet::ReadToken;
use super::refs::destroy;
use super::rtnl::RtnlGuard;
use super::undo::Who;
use super::unregister::Kernel;
use super::walk::{Walk, own_error};

/// `register_netdevice`. A failed one leaves nothing behind but what the table says: the device is still to be freed
/// by its plugin.
///
/// # Errors
/// K2.4; and `EPERM` without the net's lock or outside of a hook, `EBUSY` if it is registered or was, `ESTALE` where its
/// plugin does not act, `ENODEV` where the namespace is going.
pub fn register_netdevice(rtnl: &RtnlGuard<'_>, net: &Arc<Net>, dev: &Arc<OwnDevice>) -> Result<(), Failure> {
    net.check_held(rtnl)?;
    Walk::within(|walk| walk.register_one(net, dev))
}

/// The same for the two ends of a pair, each in its namespace; both locks may be the same.
///
/// # Errors
/// As [`register_netdevice`]; and `EINVAL` if they are not each other's peers.
pub fn register_pair(
    rtnls: (&RtnlGuard<'_>, &RtnlGuard<'_>),
    nets: (&Arc<Net>, &Arc<Net>),
    devs: (&Arc<OwnDevice>, &Arc<OwnDevice>),
) -> Result<(), Failure> {
    nets.0.check_held(rtnls.0)?;
    nets.1.check_held(rtnls.1)?;
    Walk::within(|walk| walk.register_two(nets, devs))
}

/// `register_netdev`: takes the lock for it.
///
/// # Errors
/// As [`register_netdevice`], and those of the lock.
pub fn register_netdev(token: &ReadToken, net: &Arc<Net>, dev: &Arc<OwnDevice>) -> Result<(), Failure> {
    let mut walk = Walk::new(token.list());
    let answer = walk.lock(&[&**net]).and_then(|held| {
        let answer = walk.register_one(net, dev);
        walk.release(held);
        answer
    });
    walk.finish_at(net);
    answer
}

impl Walk {
    fn register_one(&mut self, net: &Arc<Net>, dev: &Arc<OwnDevice>) -> Result<(), Failure> {
        if dev.peer().is_some() {
            return Err(Failure::new(EINVAL, format!("{dev} has a peer; register both together")));
        }
        self.claim(net, dev)?;
        let answer = self.register_claimed(net, dev);
        self.unclaim(net, dev);
        answer
    }

    fn register_claimed(&mut self, net: &Arc<Net>, dev: &Arc<OwnDevice>) -> Result<(), Failure> {
        let end = self.name_end(net, dev, None)?;
        let draft = self.prepare(net, dev, &end.name)?;
        let made = self.make(end, None);
        let (created, _) = made.inspect_err(|_| self.unmade(net, dev, &draft))?;
        let settled = self.behind(net, dev, &created);
        let settled = settled.inspect_err(|_| self.unmade(net, dev, &draft))?;
        self.enlist(net, dev, draft, created, &settled);
        self.announce(net, dev, None)?;
        self.catch_up(net, dev, settled);
        Ok(())
    }

    fn register_two(
        &mut self,
        nets: (&Arc<Net>, &Arc<Net>),
        devs: (&Arc<OwnDevice>, &Arc<OwnDevice>),
    ) -> Result<(), Failure> {
        let pair = [(devs.0, devs.1), (devs.1, devs.0)];
        if !pair.iter().all(|(dev, other)| dev.peer().is_some_and(|peer| Arc::ptr_eq(&peer, other))) {
            return Err(Failure::new(EINVAL, format!("{} and {} are not each other's peers", devs.0, devs.1)));
        }
        self.claim(nets.1, devs.1)?;
        let answer = self.claim(nets.0, devs.0).and_then(|()| {
            let answer = self.register_claimed_two(nets, devs);
            self.unclaim(nets.0, devs.0);
            answer
        });
        self.unclaim(nets.1, devs.1);
        answer
    }

    /// K4.7: the peer first.
    fn register_claimed_two(
        &mut self,
        (net, peer_net): (&Arc<Net>, &Arc<Net>),
        (dev, peer): (&Arc<OwnDevice>, &Arc<OwnDevice>),
    ) -> Result<(), Failure> {
        let peer_end = self.name_end(peer_net, peer, None)?;
        let end = self.name_end(net, dev, Some(&peer_end))?;
        let peer_draft = self.prepare(peer_net, peer, &peer_end.name)?;
        let made = self.make(end, Some(peer_end));
        let (created, peer_created) = made.inspect_err(|_| self.unmade(peer_net, peer, &peer_draft))?;
        let name = created.link.name.clone();
        let both = self.behind(net, dev, &created).and_then(|settled| {
            let peer_created = peer_created.ok_or_else(|| Failure::new(ENODEV, "the kernel gave no peer"))?;
            let peer_settled = self.behind(peer_net, peer, &peer_created)?;
            Ok((settled, peer_created, peer_settled))
        });
        let (settled, peer_created, peer_settled) = both.inspect_err(|_| {
            self.unmake(net, created.link.ifindex);
            self.unmade(peer_net, peer, &peer_draft);
        })?;
        self.enlist(peer_net, peer, peer_draft, peer_created, &peer_settled);
        self.announce(peer_net, peer, None).inspect_err(|_| self.unmake(net, created.link.ifindex))?;
        self.catch_up(peer_net, peer, peer_settled);
        let finished = self.prepare(net, dev, &name).and_then(|draft| {
            self.enlist(net, dev, draft, created, &settled);
            self.announce(net, dev, Some(peer))
        });
        if let Err(refused) = finished {
            // Deletes both ends, if the other one's failure did not.
            if peer.is_registered_in(peer_net) {
                peer.life().needs_free = false;
                let _ = self.unregister_own(vec![(peer.clone(), Kernel::Delete)]);
            }
            return Err(refused);
        }
        self.catch_up(net, dev, settled);
        Ok(())
    }

    /// Nobody else registers it, and the net knows that something is under way.
    fn claim(&mut self, net: &Arc<Net>, dev: &Arc<OwnDevice>) -> Result<(), Failure> {
        net.check_acting(&dev.owner)?;
        dev.check_owner()?;
        let mut life = dev.life();
        if life.claimed || life.reg_state != RegState::Uninitialized {
            let state = life.reg_state.as_str();
            return Err(Failure::new(EBUSY, format!("{dev} is {state}, and a device is registered once")));
        }
        life.claimed = true;
        drop(life);
        net.record().own.push(dev.clone());
        self.watch(net).inspect_err(|_| self.unclaim(net, dev))
    }

    fn unclaim(&mut self, net: &Arc<Net>, dev: &Arc<OwnDevice>) {
        let mut life = dev.life();
        life.claimed = false;
        let here = life.net.is_some();
        drop(life);
        if !here {
            net.record().own.retain(|own| !Arc::ptr_eq(own, dev));
        }
        self.unwatch_if_idle(net);
    }

    /// Steps 4 to 7: `ndo_init`, the index, POST_INIT.
    fn prepare(&mut self, net: &Arc<Net>, dev: &Arc<OwnDevice>, name: &str) -> Result<NetDevice, Failure> {
        let spec = &dev.spec;
        let link = Link {
            ifindex: spec.ifindex,
            name: name.to_owned(),
            kind: spec.kind.clone(),
            address: spec.address.clone(),
            mtu: spec.mtu,
            alt_names: spec.alt_names.clone(),
            ..Link::default()
        };
        let serial = self.next_serial();
        let draft = NetDevice { link, serial, reg_state: RegState::Uninitialized, own: Some(dev.clone()) };
        self.ndo(net, dev, "ndo.init", |ops, at| ops.init(at, &draft))?;
        dev.life().initialised = true;
        let in_use = find(net, spec.ifindex).is_some_and(|known| known.own.is_some() || known.link.name != name);
        let reserved = if spec.ifindex != 0 && in_use {
            Err(Failure::new(EBUSY, format!("index {} is in use in this namespace", spec.ifindex)))
        } else {
            Ok(())
        };
        let event = NetdevEvent::new(EventKind::PostInit, &draft);
        let agreed = reserved.and_then(|()| self.ask(net, &event));
        agreed.inspect_err(|_| self.unprepare(net, dev, &draft))?;
        Ok(draft)
    }

    /// Undoes steps 4 to 7.
    fn unprepare(&mut self, net: &Arc<Net>, dev: &Arc<OwnDevice>, draft: &NetDevice) {
        self.uninit(net, dev, draft);
        destroy(net, dev);
    }

    /// `ndo_uninit`, once.
    pub(super) fn uninit(&mut self, net: &Arc<Net>, dev: &OwnDevice, device: &NetDevice) {
        if std::mem::take(&mut dev.life().initialised) {
            self.ndo_exit(net, dev, "ndo.uninit", |ops, at| ops.uninit(at, device));
        }
    }

    /// What a failed step 8 undoes: as step 7, and who saw POST_INIT is told.
    fn unmade(&mut self, net: &Arc<Net>, dev: &Arc<OwnDevice>, draft: &NetDevice) {
        dev.life().reg_state = RegState::Unregistered;
        let gone = NetDevice { reg_state: RegState::Unregistered, ..draft.clone() };
        self.tell(net, Who::All, &NetdevEvent::new(EventKind::PreUninit, &gone));
        self.unprepare(net, dev, &gone);
    }

    /// Takes a kernel's device away that came into no list. Nobody is told of it: the line is drawn behind its end.
    fn unmake(&mut self, net: &Arc<Net>, ifindex: u32) {
        let deleted = self.section(net, || net.namespace().delete(ifindex)).and_then(|deleted| deleted);
        self.fence(net, ifindex);
        if let Err(failure) = deleted
            && failure.errno != ENODEV
        {
            self.complain(own_error(net, "netdev.delete", failure));
            self.see_left(net, ifindex);
        }
    }

    /// The line behind a device that was just made.
    fn behind(&mut self, net: &Arc<Net>, dev: &OwnDevice, created: &Created) -> Result<Settled, Failure> {
        let settled = self.settle(net, dev, created.link.ifindex);
        if let Some(None) = settled.link {
            return Err(Failure::new(ENODEV, "somebody deleted the device as soon as it was made"));
        }
        Ok(settled)
    }

    /// Step 9: it can be found by name and index.
    fn enlist(&mut self, net: &Arc<Net>, dev: &Arc<OwnDevice>, draft: NetDevice, created: Created, settled: &Settled) {
        // One that is taken over was the kernel's until now.
        if let Some(known) = find(net, created.link.ifindex) {
            self.unregister_device(net, &known, Who::All, false);
        }
        let mut link = settled.link.clone().flatten().unwrap_or(created.link);
        // A device is registered down; one that is up already then goes up.
        link.flags &= !(IFF_UP | IFF_OPERATIONAL);
        let mut life = dev.life();
        life.reg_state = RegState::Registered;
        life.dismantle = false;
        life.net = Some(net.clone());
        life.queues = created.queues;
        drop(life);
        put(net, Arc::new(NetDevice { link, reg_state: RegState::Registered, ..draft }));
    }

    /// Step 10: REGISTER. After a refusal it is unregistered as any other, except that its plugin frees it; and its peer,
    /// which is registered already and goes with it.
    fn announce(&mut self, net: &Arc<Net>, dev: &Arc<OwnDevice>, peer: Option<&Arc<OwnDevice>>) -> Result<(), Failure> {
        let Some(device) = dev.listed(net) else {
            return Err(Failure::new(ENODEV, format!("{dev} went while it was being registered")));
        };
        let asked = self.ask(net, &NetdevEvent::new(EventKind::Register, &device));
        asked.inspect_err(|_| {
            for end in [dev].into_iter().chain(peer) {
                end.life().needs_free = false;
            }
            let _ = self.unregister_own(vec![(dev.clone(), Kernel::Delete)]);
        })
    }
}
