//! Work that waits for the host to run it: closures stay in the plugin, the host knows their numbers.
//!
//! A panic on a thread of the plugin's own waits here, too: the host comes for it as for any work, and is told.
//! Each is run once or dropped once, whichever the host asks for first. Closed when the instance ends.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::abi::Status;
use crate::datapath::Datapath;
use crate::{Error, Net, NetCookie, Result};

/// A closure and the namespaces it is for.
pub(crate) enum Work {
    One(NetCookie, InOne),
    Two(NetCookie, NetCookie, InTwo),
    /// Nothing to do but to tell of a device's panic, unless that was told meanwhile. Dropped unrun, it leaves the panic
    /// to be told by the device's next operation.
    Fault(Datapath),
}

type InOne = Box<dyn FnOnce(&Net<'_>) + Send>;
type InTwo = Box<dyn FnOnce(&Net<'_>, &Net<'_>) + Send>;

impl Work {
    /// Runs it in the namespaces that it was queued for, in whichever order the host lists them.
    pub(crate) fn run(self, nets: &[Net<'_>]) -> Result<(), Status> {
        let find = |cookie: NetCookie| {
            let missing =
                || Error::new(libc::EINVAL, format!("the daemon ran work outside its namespace {}", cookie.0));
            nets.iter().find(|n| n.cookie() == cookie).ok_or_else(missing)
        };
        match self {
            Work::One(net, work) => work(find(net)?),
            Work::Two(first, second, work) => work(find(first)?, find(second)?),
            Work::Fault(datapath) => datapath.take_fault().map_or(Ok(()), Err)?,
        }
        Ok(())
    }
}

/// One instance's waiting work.
pub(crate) struct WorkTable(Mutex<Inner>);

struct Inner {
    next: u64,
    closed: bool,
    waiting: BTreeMap<u64, Work>,
}

impl WorkTable {
    pub(crate) fn new() -> Self {
        WorkTable(Mutex::new(Inner { next: 1, closed: false, waiting: BTreeMap::new() }))
    }

    pub(crate) fn insert(&self, work: Work) -> Result<u64> {
        let mut inner = self.lock();
        if inner.closed {
            // The closure is the author's code too: it is dropped after the lock.
            drop(inner);
            drop(work);
            return Err(Error::new(libc::ESTALE, "this plugin instance has ended"));
        }
        let id = inner.next;
        inner.next += 1;
        inner.waiting.insert(id, work);
        Ok(id)
    }

    /// Takes work out, to run or drop it; `None` if that was done before.
    pub(crate) fn take(&self, id: u64) -> Option<Work> {
        self.lock().waiting.remove(&id)
    }

    /// Refuses new work from now on, and gives back what waits, for dropping.
    pub(crate) fn close(&self) -> Vec<Work> {
        let mut inner = self.lock();
        inner.closed = true;
        std::mem::take(&mut inner.waiting).into_values().collect()
    }

    /// Nothing of an author runs under this lock, so a poisoned one is sound.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
