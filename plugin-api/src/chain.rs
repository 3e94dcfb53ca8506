//! Notifiers that are registered while the plugin runs, each in one namespace's own chain.
//!
//! Mirrors `register_netdevice_notifier_net`. The notifier stays in the plugin; the host knows its number, which never
//! meets those of the notifiers that `init` declared.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Error, NetCookie, Notifier, Result};

/// Names a notifier of one namespace's chain, for its unregistration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "it is what unregisters the notifier"]
pub struct NotifierId {
    pub(crate) net: NetCookie,
    pub(crate) number: u32,
}

/// The first number of a notifier that is registered at run time; those of `init` count from 0.
pub(crate) const FIRST: u32 = 1 << 31;

/// One instance's notifiers of this sort.
pub(crate) struct NotifierTable(Mutex<Inner>);

struct Inner {
    next: u32,
    closed: bool,
    notifiers: BTreeMap<u32, Arc<dyn Notifier>>,
}

impl NotifierTable {
    pub(crate) fn new() -> Self {
        NotifierTable(Mutex::new(Inner { next: FIRST, closed: false, notifiers: BTreeMap::new() }))
    }

    pub(crate) fn insert(&self, notifier: Arc<dyn Notifier>) -> Result<u32> {
        let mut inner = self.lock();
        if inner.closed {
            // The notifier is the author's, and so is its drop: it comes after the lock.
            drop(inner);
            return Err(Error::new(libc::ESTALE, "this plugin instance has ended"));
        }
        // Two milliards of registrations later a number may be somebody's still.
        while inner.notifiers.contains_key(&inner.next) {
            inner.next = inner.next.wrapping_add(1).max(FIRST);
        }
        let number = inner.next;
        inner.next = number.wrapping_add(1).max(FIRST);
        inner.notifiers.insert(number, notifier);
        Ok(number)
    }

    pub(crate) fn get(&self, number: u32) -> Option<Arc<dyn Notifier>> {
        self.lock().notifiers.get(&number).cloned()
    }

    pub(crate) fn take(&self, number: u32) -> Option<Arc<dyn Notifier>> {
        self.lock().notifiers.remove(&number)
    }

    /// Refuses new ones from now on, and gives back what is left, newest first, for dropping.
    pub(crate) fn close(&self) -> Vec<Arc<dyn Notifier>> {
        let mut inner = self.lock();
        inner.closed = true;
        std::mem::take(&mut inner.notifiers).into_values().rev().collect()
    }

    /// Nothing of an author runs under this lock, so a poisoned one is sound.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
