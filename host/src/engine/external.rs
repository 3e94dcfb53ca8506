//! What somebody else does to a plugin's device: seen, and taken through the same events and operations.
//!
//! It has happened, so nobody is asked, with one exception: what may not go up, or cannot be opened, is set down again. A deletion and a
//! move are `mirror.rs`'s to route.

use std::sync::Arc;

use pernet_plugin_api::EventKind;

use super::failure::Failure;
use super::fence::Settled;
use super::links::{Link, LinkChange};
use super::mirror::{NetDevice, apply, changes, replace};
use super::net::Net;
use super::netdev::OwnDevice;
use super::notifier::NetdevEvent;
use super::undo::Who;
use super::walk::{Walk, own_error};

impl Walk {
    /// A plugin's own device as it was seen against the mirror.
    ///
    /// What a hook changes of the device meanwhile is newer than what was seen, and has been looked at itself.
    pub(super) fn observe_own(&mut self, net: &Arc<Net>, dev: &Arc<OwnDevice>, seen: &Link) {
        let before = dev.changes();
        let Some(known) = dev.listed(net) else { return };
        if known.link.alt_names != seen.alt_names {
            replace(net, &known, |link| link.alt_names.clone_from(&seen.alt_names));
        }
        for kind in changes(&known.link, seen) {
            let Some(device) = dev.listed(net).filter(|_| dev.may_change().is_ok()) else { return };
            match kind {
                EventKind::Up => self.observed_up(net, dev, &device, seen),
                EventKind::GoingDown => self.tell(net, Who::All, &NetdevEvent::new(kind, &device)),
                _ => self.observed_change(net, dev, &device, kind, seen),
            }
            if dev.changes() != before {
                return;
            }
        }
    }

    fn observed_change(
        &mut self,
        net: &Arc<Net>,
        dev: &Arc<OwnDevice>,
        device: &NetDevice,
        kind: EventKind,
        seen: &Link,
    ) {
        let before = dev.changes();
        match kind {
            EventKind::Down => self.stop(net, dev, device),
            EventKind::ChangeMtu => {
                let answer = self.change_mtu(net, dev, device, seen.mtu);
                self.judge_seen(net, dev, "ndo.change_mtu", answer);
            }
            EventKind::ChangeAddr => {
                let answer = self.set_mac_address(net, dev, device, &seen.address);
                self.judge_seen(net, dev, "ndo.set_mac_address", answer);
            }
            _ => {}
        }
        if dev.changes() != before {
            return;
        }
        let Some(device) = dev.listed(net) else { return };
        let old_name = (kind == EventKind::ChangeName).then(|| device.link.name.clone());
        let device = replace(net, &device, |link| apply(link, kind, seen));
        let event = NetdevEvent { old_name: old_name.as_deref(), ..NetdevEvent::new(kind, &device) };
        self.tell(net, Who::All, &event);
    }

    /// Somebody took it up. What its plugin, or a notifier at PRE_UP, refuses is set down again.
    fn observed_up(&mut self, net: &Arc<Net>, dev: &Arc<OwnDevice>, device: &NetDevice, seen: &Link) {
        let before = dev.changes();
        let mut settled = None;
        if let Err(failure) = self.open(net, dev, device) {
            self.judge_seen(net, dev, "ndo.open", Err(failure));
            let is_down;
            (is_down, settled) = self.set_down_again(net, dev, device.link.ifindex);
            if is_down {
                return self.catch_up(net, dev, settled);
            }
        } else if dev.changes() != before {
            return;
        }
        let Some(device) = dev.listed(net) else { return };
        let device = replace(net, &device, |link| apply(link, EventKind::Up, seen));
        self.tell(net, Who::All, &NetdevEvent::new(EventKind::Up, &device));
        self.catch_up(net, dev, settled);
    }

    /// Sets it down, as often as somebody takes it up in the same moment, but not for ever. Says whether it is down, or
    /// stays up and so has to be shown as it is; and what it was like behind the last line that was drawn for that.
    fn set_down_again(&mut self, net: &Arc<Net>, dev: &OwnDevice, ifindex: u32) -> (bool, Option<Settled>) {
        let mut settled = None;
        for _ in 0..3 {
            let down = self.section(net, || net.namespace().change(ifindex, &LinkChange::Down)).and_then(|done| done);
            if let Err(failure) = down {
                self.complain(own_error(net, "netdev.down", failure));
                break;
            }
            let now = settled.insert(self.settle(net, dev, ifindex));
            if !now.link.as_ref().is_some_and(|link| link.as_ref().is_some_and(Link::is_up)) {
                return (true, settled);
            }
        }
        (false, settled)
    }

    /// An error about what has happened is shown, and stops nothing. A panic was noted when it came.
    fn judge_seen(&mut self, net: &Net, dev: &OwnDevice, hook: &'static str, answer: Result<(), Failure>) {
        if let Err(failure) = answer
            && !failure.panicked
        {
            let device = dev.device();
            let error = self.note_about(net, device.as_deref(), &dev.owner, hook, failure);
            if let Some(device) = device {
                net.note_device_error(error, device.link.ifindex);
            }
        }
    }

    /// PRE_UP and `ndo_open`.
    pub(super) fn open(&mut self, net: &Arc<Net>, dev: &Arc<OwnDevice>, device: &NetDevice) -> Result<(), Failure> {
        self.ask(net, &NetdevEvent::new(EventKind::PreUp, device))?;
        dev.check_owner()?;
        let queues = dev.life().queues.clone();
        self.ndo(net, dev, "ndo.open", |ops, at| ops.open(at, device, queues.as_ref()))?;
        dev.life().open = true;
        net.resolve_device_error(Some(&dev.owner.name), device.link.ifindex);
        Ok(())
    }

    pub(super) fn change_mtu(
        &mut self,
        net: &Arc<Net>,
        dev: &OwnDevice,
        device: &NetDevice,
        mtu: u32,
    ) -> Result<(), Failure> {
        dev.check_owner()?;
        self.ndo(net, dev, "ndo.change_mtu", |ops, at| ops.change_mtu(at, device, mtu))
    }

    pub(super) fn set_mac_address(
        &mut self,
        net: &Arc<Net>,
        dev: &OwnDevice,
        device: &NetDevice,
        address: &[u8],
    ) -> Result<(), Failure> {
        dev.check_owner()?;
        self.ndo(net, dev, "ndo.set_mac_address", |ops, at| ops.set_mac_address(at, device, address))
    }
}
