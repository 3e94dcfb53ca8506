//! What was done here before it is seen: the fences between own changes and their echo in the stream of observations.
//!
//! A change of a plugin's own device is applied to the mirror at once, and the kernel's message about it comes later, when
//! it may be stale. So after each change a fence goes through the stream, and then the link is looked at: an observation
//! of that index that was read before the fence is older than the look, and is dropped; the first one read after it lifts
//! that. What the look shows besides, somebody else did.

use std::sync::Arc;

use super::links::Link;
use super::mirror::{LinkObservation, Observed};
use super::net::{Net, NetState, Record};
use super::netdev::OwnDevice;
use super::unregister::Kernel;
use super::walk::{Walk, own_error};

/// What was seen right after a change, behind its fence.
pub(super) struct Settled {
    /// How many changes the device had had then.
    change: u64,
    /// `None` if it could not be looked at, `Some(None)` if there is no link.
    pub(super) link: Option<Option<Link>>,
}

/// An index whose observations lag behind what was done here, until the fence is read.
pub(super) struct Ahead {
    ifindex: u32,
    fence: u64,
    /// It was not there behind the fence: how it went is told before it, and counts.
    missing: bool,
}

impl Net {
    /// Whether an observation counts: `None` if it does not, else whether plugins have devices here, so that it has to
    /// be compared under the lock. One short lock for all of it: this is asked for every link event of the host.
    pub(super) fn admits(&self, seen: &Observed) -> Option<bool> {
        let mut record = self.record();
        let open = matches!(record.state, NetState::Live | NetState::Degraded) && !self.dying();
        if !open || !record.watched {
            return None;
        }
        if !matches!(seen.what, LinkObservation::Dump(_)) {
            // A list is newer than its fence; but what was sent before that may be unread still.
            record.ahead.retain(|ahead| ahead.fence > seen.fence);
        }
        let stale = match &seen.what {
            LinkObservation::Seen(link) => record.is_stale(link, seen.fence),
            LinkObservation::Gone { ifindex, .. } => record.is_ahead(*ifindex, seen.fence),
            // Parts of it may be: `merge` leaves those out.
            LinkObservation::Dump(_) => false,
        };
        (!stale).then_some(!record.own.is_empty())
    }
}

impl Record {
    /// Whether what is seen of this link is older than what was done here to it, or to who has its name now: then it
    /// has lost the name, or is gone, and that is in the stream still.
    pub(super) fn is_stale(&self, seen: &Link, fence: u64) -> bool {
        let stale = |ahead: &Ahead| ahead.ifindex == seen.ifindex || self.is_called(ahead.ifindex, &seen.name);
        self.ahead_of(fence).any(stale)
    }

    fn draw(&mut self, line: Ahead) {
        self.ahead.retain(|ahead| ahead.ifindex != line.ifindex);
        self.ahead.push(line);
    }

    /// Whose fences come after this one.
    fn ahead_of(&self, fence: u64) -> impl Iterator<Item = &Ahead> {
        self.ahead.iter().filter(move |ahead| ahead.fence > fence && !ahead.missing)
    }

    /// Whether it was not there behind a fence that is not read yet.
    fn is_missing(&self, dev: &OwnDevice) -> bool {
        let ifindex = dev.device().map(|device| device.link.ifindex);
        self.ahead.iter().any(|ahead| ahead.missing && Some(ahead.ifindex) == ifindex)
    }

    fn is_called(&self, ifindex: u32, name: &str) -> bool {
        let at = self.devices.binary_search_by_key(&ifindex, |device| device.link.ifindex);
        at.is_ok_and(|at| self.devices[at].link.is_called(name))
    }

    /// The same for an index of which nothing else is seen.
    pub(super) fn is_ahead(&self, ifindex: u32, fence: u64) -> bool {
        self.ahead_of(fence).any(|ahead| ahead.ifindex == ifindex)
    }
}

impl Walk {
    /// Draws the line behind what was just done to the link with this index, and looks what it is like there. Where that
    /// cannot be seen there is no line: then the messages tell it, old ones and all.
    pub(super) fn settle(&mut self, net: &Arc<Net>, dev: &OwnDevice, ifindex: u32) -> Settled {
        let change = dev.count_change();
        let fence = self.send_fence(net);
        let looked = self.section(net, || net.namespace().look(ifindex)).and_then(|link| link);
        let link = looked.map_err(|failure| self.complain(own_error(net, "netdev.look", failure))).ok();
        if let (Some(fence), Some(seen)) = (fence, &link) {
            net.record().draw(Ahead { ifindex, fence, missing: seen.is_none() });
        }
        Settled { change, link }
    }

    /// Draws the line alone, behind what was just taken away here.
    pub(super) fn fence(&mut self, net: &Arc<Net>, ifindex: u32) {
        if let Some(fence) = self.send_fence(net) {
            net.record().draw(Ahead { ifindex, fence, missing: false });
        }
    }

    /// `None` where nobody listens, or it could not be sent.
    fn send_fence(&mut self, net: &Arc<Net>) -> Option<u64> {
        let sent = self.section(net, || net.namespace().fence()).and_then(|fence| fence);
        let sent = sent.map_err(|failure| self.complain(own_error(net, "netdev.fence", failure)));
        sent.ok().filter(|fence| *fence != 0)
    }

    /// Takes in what somebody else did meanwhile; unless the device was changed here since, which has been looked at then.
    pub(super) fn catch_up(&mut self, net: &Arc<Net>, dev: &Arc<OwnDevice>, settled: impl Into<Option<Settled>>) {
        let Some(settled) = settled.into() else { return };
        if dev.changes() != settled.change || !dev.is_registered_in(net) {
            return;
        }
        match settled.link {
            // What was seen before the fence is dropped, so the index may be another device's by now, as after a loss.
            Some(Some(link)) => self.observe(net, &link, true),
            // That it went, and whether it was deleted or moved, is in the stream; if there is one.
            Some(None) if net.record().is_missing(dev) => {}
            Some(None) => drop(self.unregister_own(vec![(dev.clone(), Kernel::Gone)])),
            None => {}
        }
    }
}
