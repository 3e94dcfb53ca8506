//! A plugin's things in one namespace: the private areas of its ops, and which of its hooks are in force there.
//!
//! Mirrors `net_generic`: an empty slot before init, filled by init, dropped after *every* op's exit (K1.1(5e)), so
//! that an op's exit may still read another op's area. The engine never looks into an area: it is the callee's handle.

use std::sync::Arc;

use super::member::Member;

/// An op's private area in one namespace, opaque to the engine. 0 is the empty slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Area(pub u64);

/// One plugin in one namespace.
pub(super) struct Tenant {
    pub(super) member: Arc<Member>,
    /// By op number. Shared, so that a hook can be handed the slice while no lock is held.
    areas: Arc<[Area]>,
    /// Bit n: op n's init succeeded and its exit has not begun.
    live: u64,
    /// Bit n: notifier n is on this namespace's chain.
    chained: u64,
    /// The plugin's end here has come to its devices: it registers no more.
    pub(super) closed: bool,
}

impl Tenant {
    pub(super) fn new(member: Arc<Member>) -> Self {
        let areas = member.ops().iter().map(|_| Area::default()).collect();
        Tenant { member, areas, live: 0, chained: 0, closed: false }
    }

    pub(super) fn areas(&self) -> Arc<[Area]> {
        self.areas.clone()
    }

    /// Whether any of the plugin's hooks is in force here. One that has none in namespaces (it offers a protocol family)
    /// acts as long as it is here.
    pub(super) fn in_force(&self) -> bool {
        self.live | self.chained != 0 || self.member.steps().is_empty()
    }

    pub(super) fn is_live(&self, op: usize) -> bool {
        self.live & (1 << op) != 0
    }

    pub(super) fn initialised(&mut self, op: usize, area: Area) {
        self.live |= 1 << op;
        self.fill(op, area);
    }

    /// Marks the exit as begun; false if there is none due. This is what makes an exit happen exactly once.
    pub(super) fn begin_exit(&mut self, op: usize) -> bool {
        let due = self.is_live(op);
        self.live &= !(1 << op);
        due
    }

    /// Empties a slot and gives what was in it.
    pub(super) fn take_area(&mut self, op: usize) -> Option<Area> {
        let area = self.areas.get(op).copied().filter(|a| *a != Area::default())?;
        self.fill(op, Area::default());
        Some(area)
    }

    fn fill(&mut self, op: usize, area: Area) {
        // A new slice, not a write into the old one: a hook may still be reading that.
        self.areas = self.areas.iter().enumerate().map(|(n, a)| if n == op { area } else { *a }).collect();
    }

    pub(super) fn is_chained(&self, notifier: usize) -> bool {
        self.chained & (1 << notifier) != 0
    }

    pub(super) fn has_chained(&self) -> bool {
        self.chained != 0
    }

    pub(super) fn chain(&mut self, notifier: usize) {
        self.chained |= 1 << notifier;
    }

    pub(super) fn unchain(&mut self, notifier: usize) {
        self.chained &= !(1 << notifier);
    }

    pub(super) fn unchain_all(&mut self) {
        self.chained = 0;
    }
}
