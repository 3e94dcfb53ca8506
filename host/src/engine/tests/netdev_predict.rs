//! What each call of a plugin about its own device should answer, and do, while nothing is on the way: a small reference of
//! K2.1, K2.2, K2.7 and K2.8, over what the kernel has.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::kernel::{EBUSY, EEXIST, EINVAL, ENODEV, EOPNOTSUPP, Kernel};
use super::netdev_turns::*;
use crate::engine::*;

const ENOENT: i32 = 2;

/// A device as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) net: u64,
    pub(super) name: String,
    pub(super) up: bool,
    pub(super) mtu: u32,
    pub(super) address: Vec<u8>,
    pub(super) master: u32,
    pub(super) alts: Vec<String>,
}

impl Expected {
    pub(super) fn of(net: u64, link: &Link) -> Self {
        let Link { name, mtu, address, master, alt_names, .. } = link.clone();
        Expected { net, name, up: link.is_up(), mtu, address, master, alts: alt_names }
    }
}

pub(super) struct Slot {
    pub(super) dev: Arc<OwnDevice>,
    pub(super) label: String,
    /// What the kernel knows it by.
    pub(super) id: u64,
    pub(super) kind: &'static str,
    /// The slot of a veth's other end.
    pub(super) peer: Option<usize>,
    pub(super) is: Expected,
    /// Another program moved it, and that was not read yet.
    pub(super) away: bool,
}

/// What a call should do: the state after it, or the errno with which it is refused.
pub(super) type Prediction = Result<Expected, i32>;

/// The kernel, and the devices that are in the slots.
pub(super) struct Known<'m> {
    pub(super) kernel: &'m Kernel,
    pub(super) slots: &'m BTreeMap<usize, Slot>,
}

impl Known<'_> {
    /// Where the kernel has the device, and as what.
    pub(super) fn real(&self, slot: &Slot) -> Option<(Expected, u32)> {
        self.kernel.at(slot.id).map(|(net, link)| (Expected::of(net, &link), link.ifindex))
    }

    pub(super) fn is_taken(&self, net: u64, name: &str) -> bool {
        self.kernel.find(net, name).is_some()
    }

    /// What the name is there, beside these names; or that it cannot be had.
    pub(super) fn resolve(&self, net: u64, pattern: &str, beside: &[String]) -> Result<String, i32> {
        let taken = |name: &String| self.is_taken(net, name) || beside.contains(name);
        match pattern.split_once("%d") {
            None => Some(pattern.to_owned()).filter(|name| !taken(name)).ok_or(EEXIST),
            Some((stem, _)) => {
                Ok((0..).map(|unit| format!("{stem}{unit}")).find(|name| !taken(name)).unwrap_or_default())
            }
        }
    }

    /// What a change by its plugin should do.
    pub(super) fn predict(&self, slot: usize, change: Change) -> Prediction {
        let is = self.slots[&slot].is.clone();
        Ok(match change {
            Change::Up => Expected { up: true, ..is },
            Change::Down => Expected { up: false, ..is },
            Change::Name(name) if NAMES[name] == is.name => is,
            Change::Name(name) => Expected { name: self.resolve(is.net, NAMES[name], &[])?, ..is },
            Change::Mtu(mtu) if mtu == is.mtu || (68..=65535).contains(&mtu) => Expected { mtu, ..is },
            Change::Mtu(_) => return Err(EINVAL),
            Change::Address(byte) => Expected { address: vec![2, 9, 9, 9, 9, byte], ..is },
            Change::Master(None) => Expected { master: 0, ..is },
            Change::Master(Some(upper)) => Expected { master: self.predict_master(slot, upper)?, ..is },
            Change::AddAlt(name) if self.is_taken(is.net, NAMES[name]) => return Err(EEXIST),
            Change::AddAlt(name) => Expected { alts: [&*is.alts, &[NAMES[name].to_owned()]].concat(), ..is },
            Change::DelAlt(name) if is.alts.iter().any(|alt| alt == NAMES[name]) => {
                Expected { alts: is.alts.iter().filter(|alt| *alt != NAMES[name]).cloned().collect(), ..is }
            }
            Change::DelAlt(name) => return Err(if self.is_taken(is.net, NAMES[name]) { EINVAL } else { ENOENT }),
        })
    }

    /// The index of the upper device that is wanted; one that is not there for a slot that is empty, or elsewhere.
    pub(super) fn upper(&self, slot: usize, upper: usize) -> u32 {
        let there = self.slots.get(&upper).and_then(|upper| self.real(upper));
        there.filter(|(real, _)| real.net == self.slots[&slot].is.net).map_or(4711, |(_, ifindex)| ifindex)
    }

    /// K2.7.
    pub(super) fn predict_master(&self, slot: usize, upper: usize) -> Result<u32, i32> {
        let (is, wanted) = (&self.slots[&slot].is, self.upper(slot, upper));
        let links = self.kernel.links(is.net);
        let at = |ifindex: u32| links.iter().find(|link| link.ifindex == ifindex);
        let own = self.real(&self.slots[&slot]).map_or(0, |(_, ifindex)| ifindex);
        if wanted == own {
            return Err(EBUSY);
        }
        if is.master != 0 {
            return Err(if is.master == wanted { EEXIST } else { EBUSY });
        }
        let first = at(wanted).ok_or(ENODEV)?;
        let above = std::iter::successors(Some(first), |link| at(link.master));
        if above.skip(1).any(|link| link.ifindex == own) {
            return Err(EBUSY);
        }
        if first.kind == "bridge" { Ok(wanted) } else { Err(EOPNOTSUPP) }
    }

    /// K2.8.
    pub(super) fn predict_move(&self, slot: usize, to: u64, pattern: Option<&str>, wanted: u32) -> Prediction {
        let known = &self.slots[&slot];
        let is = &known.is;
        let name = match (self.is_taken(to, &is.name), pattern) {
            (false, _) => is.name.clone(),
            (true, None) => return Err(EEXIST),
            (true, Some(pattern)) => self.resolve(to, pattern, &is.alts)?,
        };
        if is.alts.iter().any(|alt| self.is_taken(to, alt)) {
            return Err(EEXIST);
        }
        if wanted != 0 && self.kernel.links(to).iter().any(|link| link.ifindex == wanted) {
            return Err(EBUSY);
        }
        // That one the kernel refuses.
        if known.kind == "bridge" {
            Err(EINVAL)
        } else {
            Ok(Expected { net: to, name, up: false, master: 0, ..is.clone() })
        }
    }
}
