//! How a plugin's device comes to be: `register_netdevice`, step by step (K2.4).
//!
//! Name → `ndo_init` → index → POST_INIT → the kernel's own device → the lists → REGISTER. What a step that fails undoes
//! is the table's. A pair is registered as veth does it: the peer first, and whole (K4.7); both names are resolved
//! before, since the kernel makes both ends in one.

use std::sync::Arc;

use pernet_plugin_api::{EventKind, RegState};

use super::failure::{EBUSY, EEXIST, EINVAL, ENODEV, Failure};
use super::fence::Settled;
use super::links::{Created, IFF_OPERATIONAL, IFF_UP, Link, Wanted};
use super::mirror::{NetDevice, find, put};
use super::name::{Wish, check_alt_name, names_of, taken_already};
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

/// A name that is taken by one of a plugin's.
struct Named {
    name: String,
    is_pattern: bool,
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
        let named = self.named(net, dev, None)?;
        let draft = self.prepare(net, dev, &named.name)?;
        let made = self.make(net, dev, named, None);
        let (created, _) = made.inspect_err(|_| self.unmade(net, dev, &draft))?;
        let settled = self.behind(net, dev, &created);
        let settled = settled.inspect_err(|_| self.unmade(net, dev, &draft))?;
        self.enlist(net, dev, draft, created, &settled);
        self.announce(net, dev)?;
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
        let peer_named = self.named(peer_net, peer, None)?;
        let beside = Arc::ptr_eq(net, peer_net).then_some(&*peer_named.name);
        let named = self.named(net, dev, beside)?;
        let peer_draft = self.prepare(peer_net, peer, &peer_named.name)?;
        let made = self.make(net, dev, named, Some((peer_net, peer, peer_named)));
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
        self.announce(peer_net, peer).inspect_err(|_| self.unmake(net, created.link.ifindex))?;
        self.catch_up(peer_net, peer, peer_settled);
        let finished = self.prepare(net, dev, &name).and_then(|draft| {
            self.enlist(net, dev, draft, created, &settled);
            self.announce(net, dev)
        });
        if let Err(refused) = finished {
            // Deletes both ends, if the other one's failure did not.
            if peer.is_registered_in(peer_net) {
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

    /// Step 2: the name, and those besides. `beside`: one that is about to be taken.
    fn named(&mut self, net: &Arc<Net>, dev: &OwnDevice, beside: Option<&str>) -> Result<Named, Failure> {
        let wish = Wish::of(&dev.spec.name)?;
        let devices = net.devices();
        let links = devices.iter().map(|device| &device.link);
        let taken = names_of(links.clone()).chain(beside);
        for (n, alt) in dev.spec.alt_names.iter().enumerate() {
            check_alt_name(alt)?;
            let others = dev.spec.alt_names.iter().take(n).map(String::as_str);
            if taken.clone().chain(others).any(|name| name == alt) {
                return Err(taken_already(alt));
            }
        }
        if let Wish::Literal(name) = wish
            && self.is_left(net, dev, name, links)?
        {
            return Ok(Named { name: name.to_owned(), is_pattern: false });
        }
        let is_pattern = matches!(wish, Wish::Pattern(..));
        Ok(Named { name: wish.resolve(taken)?, is_pattern })
    }

    /// Whether a device of that name is there that an earlier daemon left.
    fn is_left<'l>(
        &mut self,
        net: &Arc<Net>,
        dev: &OwnDevice,
        name: &str,
        mut links: impl Iterator<Item = &'l Link>,
    ) -> Result<bool, Failure> {
        let kinds = [&*dev.spec.kind, kernel_kind(&dev.spec.kind)];
        let Some(link) = links.find(|link| link.name == name && kinds.contains(&&*link.kind)) else { return Ok(false) };
        if find(net, link.ifindex).is_none_or(|known| known.own.is_some()) {
            return Ok(false);
        }
        let alias = alias(dev);
        let wanted = Wanted { spec: &dev.spec, name, alias: &alias };
        self.section(net, || net.namespace().is_left(&wanted))?
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

    /// Step 8: the kernel's own device, or both ends of a pair. A pattern's name that somebody took in this moment is
    /// not tried again.
    fn make(
        &mut self,
        net: &Arc<Net>,
        dev: &OwnDevice,
        mut named: Named,
        mut peer: Option<(&Arc<Net>, &Arc<OwnDevice>, Named)>,
    ) -> Result<(Created, Option<Created>), Failure> {
        let alias = alias(dev);
        let mut refused: Vec<String> = Vec::new();
        loop {
            let wanted = Wanted { spec: &dev.spec, name: &named.name, alias: &alias };
            let other = peer.as_ref().map(|(net, dev, named)| {
                let wanted = Wanted { spec: &dev.spec, name: &named.name, alias: &alias };
                (&***net, wanted)
            });
            let create = || net.namespace().create(&wanted, other.as_ref().map(|(net, wanted)| (*net, wanted)));
            let failure = match self.section(net, create).and_then(|made| made) {
                Ok((created, _)) if created.adopted && !is_kernels(net, &created) => taken_already(&named.name),
                Ok(made) => return Ok(made),
                Err(failure) if failure.errno == EEXIST => failure,
                Err(failure) => return Err(failure),
            };
            // Which of the two names it was, nobody says.
            let patterns = named.is_pattern || peer.as_ref().is_some_and(|(.., named)| named.is_pattern);
            if !patterns {
                return Err(failure);
            }
            if let Some((net, dev, named)) = &mut peer {
                retry_name(net, dev, named, &mut refused)?;
            }
            retry_name(net, dev, &mut named, &mut refused)?;
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

    /// Step 10: REGISTER. After a refusal it is unregistered as any other, except that its plugin frees it.
    fn announce(&mut self, net: &Arc<Net>, dev: &Arc<OwnDevice>) -> Result<(), Failure> {
        let Some(device) = dev.listed(net) else {
            return Err(Failure::new(ENODEV, format!("{dev} went while it was being registered")));
        };
        let asked = self.ask(net, &NetdevEvent::new(EventKind::Register, &device));
        asked.inspect_err(|_| {
            dev.life().needs_free = false;
            let _ = self.unregister_own(vec![(dev.clone(), Kernel::Delete)]);
        })
    }
}

/// Whether the mirror has it as the kernel's own. Otherwise it is no leftover, but one that somebody just moved here.
fn is_kernels(net: &Net, created: &Created) -> bool {
    find(net, created.link.ifindex).is_some_and(|known| known.own.is_none())
}

/// The next name of a pattern, after those that the kernel refused.
fn retry_name(net: &Net, dev: &OwnDevice, named: &mut Named, refused: &mut Vec<String>) -> Result<(), Failure> {
    if named.is_pattern {
        refused.push(std::mem::take(&mut named.name));
        let devices = net.devices();
        let taken = names_of(devices.iter().map(|device| &device.link)).chain(refused.iter().map(String::as_str));
        named.name = Wish::of(&dev.spec.name)?.resolve(taken)?;
    }
    Ok(())
}

/// The kernel's word for a kind: it calls a tap a tun too.
fn kernel_kind(kind: &str) -> &str {
    if kind == "tap" { "tun" } else { kind }
}

/// What marks a device as its plugin's.
pub(super) fn alias(dev: &OwnDevice) -> String {
    format!("pernetd: {}", dev.owner.name)
}
