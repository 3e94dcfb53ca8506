//! What a plugin changes of its own device: `dev_open`, `dev_set_mtu`, `dev_change_name` and their like (K2.7).
//!
//! Everybody is asked (K3.4), the plugin's operation is called, the kernel is told, the mirror follows, and the change is
//! told. What is refused afterwards is put back. After each change the line to the observations is drawn (`fence.rs`). Under
//! which upper device it is, is `upper.rs`'s.

use std::sync::Arc;

use pernet_plugin_api::EventKind;

use super::failure::{EEXIST, EINVAL, ENODEV, ENOENT, Failure};
use super::fence::Settled;
use super::links::{IFF_OPERATIONAL, IFF_UP, Link, LinkChange};
use super::mirror::{NetDevice, apply, replace};
use super::name::{Wish, check_alt_name, names_of, taken_already};
use super::net::Net;
use super::netdev::{OwnDevice, check_mtu};
use super::notifier::NetdevEvent;
use super::rtnl::RtnlGuard;
use super::undo::Who;
use super::walk::Walk;

/// A device that may be changed, where it is and as it is.
pub(super) struct Current<'a> {
    pub(super) net: Arc<Net>,
    pub(super) dev: &'a Arc<OwnDevice>,
    pub(super) device: Arc<NetDevice>,
}

/// Runs a change under the lock that was proven.
pub(super) fn changing(
    rtnl: &RtnlGuard<'_>,
    dev: &Arc<OwnDevice>,
    change: impl FnOnce(&mut Walk, &Current<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let gone = || Failure::new(ENODEV, format!("{dev} is not registered"));
    dev.may_change()?;
    let net = dev.net().ok_or_else(gone)?;
    net.check_held(rtnl)?;
    let device = dev.listed(&net).ok_or_else(gone)?;
    Walk::within(|walk| change(walk, &Current { net, dev, device }))
}

/// `dev_open`. Up already: nothing happens.
///
/// # Errors
/// A refusal at PRE_UP, `ndo_open`'s or the kernel's; then it is down still, and nobody is told.
pub fn dev_open(rtnl: &RtnlGuard<'_>, dev: &Arc<OwnDevice>) -> Result<(), Failure> {
    changing(rtnl, dev, |walk, at| {
        if at.device.link.is_up() {
            return Ok(());
        }
        walk.open(&at.net, dev, &at.device)?;
        let settled = walk.kernel(at, &LinkChange::Up).inspect_err(|_| walk.stop(&at.net, dev, &at.device))?;
        let up = settled.link.clone().flatten().map_or(IFF_UP, |link| link.flags | IFF_UP);
        let seen = Link { flags: up, ..Link::default() };
        let device = at.put(|link| apply(link, EventKind::Up, &seen))?;
        walk.tell(&at.net, Who::All, &NetdevEvent::new(EventKind::Up, &device));
        walk.catch_up(&at.net, dev, settled);
        Ok(())
    })
}

/// `dev_close`. Down already: nothing happens.
///
/// # Errors
/// Only the kernel's; it is seen then that the device is up still, and it is opened again.
pub fn dev_close(rtnl: &RtnlGuard<'_>, dev: &Arc<OwnDevice>) -> Result<(), Failure> {
    changing(rtnl, dev, |walk, at| walk.close(at))
}

/// `dev_set_mtu`. The same again: nothing happens. Out of bounds is refused, never clamped.
///
/// # Errors
/// `EINVAL` out of bounds; a refusal at PRECHANGEMTU, `ndo_change_mtu`'s or the kernel's, and nothing is changed; or
/// one at CHANGEMTU, after which the old value is back and everybody is told again.
pub fn dev_set_mtu(rtnl: &RtnlGuard<'_>, dev: &Arc<OwnDevice>, mtu: u32) -> Result<(), Failure> {
    changing(rtnl, dev, |walk, at| {
        let old = at.device.link.mtu;
        if old == mtu {
            return Ok(());
        }
        check_mtu(&dev.spec, mtu)?;
        walk.ask(&at.net, &NetdevEvent::new(EventKind::PreChangeMtu, &at.device))?;
        let settled = walk.store_mtu(at, old, mtu)?;
        let device = at.put(|link| link.mtu = mtu)?;
        let asked = walk.ask(&at.net, &NetdevEvent::new(EventKind::ChangeMtu, &device));
        walk.conclude(at, asked, settled, |walk| {
            let back = walk.store_mtu(at, mtu, old);
            let back = walk.is_back(at, EventKind::ChangeMtu, back, |link| link.mtu = old);
            walk.again(at, EventKind::ChangeMtu, None);
            back
        })
    })
}

/// `dev_set_mac_address`.
///
/// # Errors
/// `EINVAL` where its length is not the device's; a refusal at PRE_CHANGEADDR, `ndo_set_mac_address`'s or the kernel's,
/// and nothing is changed.
pub fn dev_set_mac_address(rtnl: &RtnlGuard<'_>, dev: &Arc<OwnDevice>, address: &[u8]) -> Result<(), Failure> {
    changing(rtnl, dev, |walk, at| {
        let old = &at.device.link.address;
        if address.is_empty() || !old.is_empty() && old.len() != address.len() {
            let why = format!("a hardware address of this device has {} bytes, not {}", old.len(), address.len());
            return Err(Failure::new(EINVAL, why));
        }
        walk.ask(&at.net, &NetdevEvent::new(EventKind::PreChangeAddr, &at.device))?;
        let settled = if old == address { None } else { Some(walk.store_address(at, old, address)?) };
        let device = at.put(|link| link.address = address.to_vec())?;
        walk.tell(&at.net, Who::All, &NetdevEvent::new(EventKind::ChangeAddr, &device));
        walk.catch_up(&at.net, dev, settled);
        Ok(())
    })
}

/// `dev_change_name`: to a name, or a pattern's lowest free unit; its own present name counts as taken (K2.1(7)). The same
/// name again: nothing happens.
///
/// # Errors
/// K2.1's; the kernel's, and nobody is told; or a refusal at CHANGENAME, after which the old name is back and CHANGENAME
/// is told again (K2.1(8)).
pub fn dev_change_name(rtnl: &RtnlGuard<'_>, dev: &Arc<OwnDevice>, name: &str) -> Result<(), Failure> {
    changing(rtnl, dev, |walk, at| {
        let old = at.device.link.name.clone();
        if old == name {
            return Ok(());
        }
        let (new, settled) = walk.rename(at, Wish::of(name)?)?;
        let device = at.put(|link| link.name.clone_from(&new))?;
        let event = NetdevEvent { old_name: Some(&old), ..NetdevEvent::new(EventKind::ChangeName, &device) };
        let asked = walk.ask(&at.net, &event);
        walk.conclude(at, asked, settled, |walk| {
            let back = walk.kernel(at, &LinkChange::Name(&old));
            let back = walk.is_back(at, EventKind::ChangeName, back, |link| link.name.clone_from(&old))?;
            walk.again(at, EventKind::ChangeName, Some(&new));
            Some(back)
        })
    })
}

/// Gives it another name besides. No event tells it (K2.1(9)).
///
/// # Errors
/// `ERANGE` for one of 128 bytes and more, `EEXIST` for one that is taken, or the kernel's.
pub fn altname_add(rtnl: &RtnlGuard<'_>, dev: &Arc<OwnDevice>, name: &str) -> Result<(), Failure> {
    changing(rtnl, dev, |walk, at| {
        check_alt_name(name)?;
        if at.net.devices().iter().any(|device| device.link.is_called(name)) {
            return Err(taken_already(name));
        }
        let settled = walk.kernel(at, &LinkChange::AddAltName(name))?;
        at.put(|link| {
            link.alt_names.retain(|alt| alt != name);
            link.alt_names.push(name.to_owned());
        })?;
        walk.catch_up(&at.net, dev, settled);
        Ok(())
    })
}

/// Takes such a name away.
///
/// # Errors
/// `ENOENT` where nobody has it, `EINVAL` where it is a name proper or another device's; or the kernel's.
pub fn altname_del(rtnl: &RtnlGuard<'_>, dev: &Arc<OwnDevice>, name: &str) -> Result<(), Failure> {
    changing(rtnl, dev, |walk, at| {
        if !at.net.devices().iter().any(|device| device.link.is_called(name)) {
            return Err(Failure::new(ENOENT, format!("no device here is called `{}`", name.escape_debug())));
        }
        if !at.device.link.alt_names.iter().any(|alt| alt == name) {
            let why = format!("`{}` is no alternative name of this device", name.escape_debug());
            return Err(Failure::new(EINVAL, why));
        }
        let settled = walk.kernel(at, &LinkChange::DelAltName(name))?;
        at.put(|link| link.alt_names.retain(|alt| alt != name))?;
        walk.catch_up(&at.net, dev, settled);
        Ok(())
    })
}

impl Current<'_> {
    /// Its next state, from what it is now: a hook may have changed it meanwhile.
    pub(super) fn put(&self, change: impl FnOnce(&mut Link)) -> Result<Arc<NetDevice>, Failure> {
        let gone = || Failure::new(ENODEV, format!("{} went meanwhile", self.dev));
        let device = self.dev.listed(&self.net).ok_or_else(gone)?;
        Ok(replace(&self.net, &device, change))
    }
}

impl Walk {
    /// A change of the kernel's device, and the line behind it.
    pub(super) fn kernel(&mut self, at: &Current<'_>, change: &LinkChange<'_>) -> Result<Settled, Failure> {
        let (net, ifindex) = (&at.net, at.device.link.ifindex);
        self.section(net, || net.namespace().change(ifindex, change))??;
        Ok(self.settle(net, at.dev, ifindex))
    }

    /// How a change ends whose event was told. One that was refused is taken back first: `back`, which says what the link
    /// was like behind the line of that. Behind whichever line came last, what others did meanwhile is taken in.
    pub(super) fn conclude(
        &mut self,
        at: &Current<'_>,
        asked: Result<(), Failure>,
        settled: Settled,
        back: impl FnOnce(&mut Walk) -> Option<Settled>,
    ) -> Result<(), Failure> {
        let settled = if asked.is_err() { back(self).unwrap_or(settled) } else { settled };
        self.catch_up(&at.net, at.dev, settled);
        asked
    }

    /// The mirror after the kernel took a change back. One that it did not stays as it is, and that is noted.
    pub(super) fn is_back(
        &mut self,
        at: &Current<'_>,
        kind: EventKind,
        back: Result<Settled, Failure>,
        change: impl FnOnce(&mut Link),
    ) -> Option<Settled> {
        match back {
            Ok(settled) => {
                // Of one that went meanwhile there is nothing to show.
                let _ = at.put(change);
                Some(settled)
            }
            Err(failure) => {
                self.note_about(&at.net, Some(&at.device), &at.dev.owner, kind.hook_name(), failure);
                None
            }
        }
    }

    /// The second round after a refusal: everybody hears that it is as it was, and nobody can refuse that.
    fn again(&mut self, at: &Current<'_>, kind: EventKind, old_name: Option<&str>) {
        if let Some(device) = at.dev.listed(&at.net) {
            self.tell(&at.net, Who::All, &NetdevEvent { old_name, ..NetdevEvent::new(kind, &device) });
        }
    }

    fn store_mtu(&mut self, at: &Current<'_>, old: u32, mtu: u32) -> Result<Settled, Failure> {
        self.change_mtu(&at.net, at.dev, &at.device, mtu)?;
        self.kernel(at, &LinkChange::Mtu(mtu)).inspect_err(|_| {
            self.put_back(at, "ndo.change_mtu", |walk| walk.change_mtu(&at.net, at.dev, &at.device, old));
        })
    }

    fn store_address(&mut self, at: &Current<'_>, old: &[u8], address: &[u8]) -> Result<Settled, Failure> {
        self.set_mac_address(&at.net, at.dev, &at.device, address)?;
        self.kernel(at, &LinkChange::Address(address)).inspect_err(|_| {
            self.put_back(at, "ndo.set_mac_address", |walk| walk.set_mac_address(&at.net, at.dev, &at.device, old));
        })
    }

    /// The plugin has agreed, and the kernel has not.
    fn put_back(&mut self, at: &Current<'_>, hook: &'static str, back: impl FnOnce(&mut Walk) -> Result<(), Failure>) {
        if let Err(failure) = back(self)
            && !failure.panicked
        {
            self.note_about(&at.net, Some(&at.device), &at.dev.owner, hook, failure);
        }
    }

    /// Gives it a name. A pattern's that somebody took in this moment is not tried again.
    fn rename(&mut self, at: &Current<'_>, wish: Wish<'_>) -> Result<(String, Settled), Failure> {
        let mut refused: Vec<String> = Vec::new();
        loop {
            let devices = at.net.devices();
            let taken = names_of(devices.iter().map(|device| &device.link));
            let name = wish.resolve(taken.chain(refused.iter().map(String::as_str)))?;
            match self.kernel(at, &LinkChange::Name(&name)) {
                Ok(settled) => return Ok((name, settled)),
                Err(failure) if failure.errno == EEXIST && matches!(wish, Wish::Pattern(..)) => refused.push(name),
                Err(failure) => return Err(failure),
            }
        }
    }

    fn close(&mut self, at: &Current<'_>) -> Result<(), Failure> {
        if !at.device.link.is_up() {
            return Ok(());
        }
        self.tell(&at.net, Who::All, &NetdevEvent::new(EventKind::GoingDown, &at.device));
        let device = at.put(|_| {})?;
        self.stop(&at.net, at.dev, &device);
        let ifindex = device.link.ifindex;
        let net = &at.net;
        let done = self.section(net, || net.namespace().change(ifindex, &LinkChange::Down)).and_then(|done| done);
        let settled = self.settle(net, at.dev, ifindex);
        let device = at.put(|link| link.flags &= !(IFF_UP | IFF_OPERATIONAL))?;
        self.tell(net, Who::All, &NetdevEvent::new(EventKind::Down, &device));
        self.catch_up(net, at.dev, settled);
        done
    }

    /// The same before a move.
    pub(super) fn close_to_move(&mut self, net: &Arc<Net>, dev: &Arc<OwnDevice>) -> Result<Arc<NetDevice>, Failure> {
        let gone = || Failure::new(ENODEV, format!("{dev} went meanwhile"));
        let device = dev.listed(net).ok_or_else(gone)?;
        self.close(&Current { net: net.clone(), dev, device })?;
        dev.listed(net).ok_or_else(gone)
    }
}
