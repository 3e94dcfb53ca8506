//! Sysctl tables of a plugin's own: registered in a namespace, asked by the host, and taken back.
//!
//! Mirrors `register_net_sysctl`. A table stays in the plugin, the host knows its number. What a read and a write mean is
//! the host's; here one element, or one text, is got and set.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::abi::{CtlCall, CtlEntry, CtlHandle};
use crate::ctl_table::CtlTable;
use crate::host::{Shared, accepted};
use crate::log::Caller;
use crate::{Error, Host, NetCookie, Result};

/// A registered table. Dropping it unregisters the table; so keep it, in the op's state for example.
///
/// A table that is still there when its namespace or its plugin ends is unregistered by the daemon, which says so in its
/// log.
#[must_use = "dropping it unregisters the table"]
pub struct CtlHeader {
    caller: Caller,
    net: NetCookie,
    /// The host's; 0 once it is unregistered.
    number: u64,
}

impl CtlHeader {
    /// `unregister_net_sysctl_table`: from here on nobody gets in; waits for the handlers that run, a bounded time. Then
    /// the table is dropped.
    ///
    /// # Errors
    /// `EDEADLK` from one of its own handlers: it stays registered, until its namespace or plugin ends. `ETIMEDOUT` if a
    /// handler did not return (`unregister_timeout`): it is out of sight, and dropped when that comes back. `ENOENT` if
    /// its namespace is gone, and the table with it.
    pub fn unregister(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let number = std::mem::take(&mut self.number);
        if number == 0 {
            return Ok(());
        }
        let unregister = self.caller.host.unregister_net_sysctl().ok_or_else(missing)?;
        accepted(unregister(self.caller.token, self.net.0, number))
    }
}

impl Drop for CtlHeader {
    fn drop(&mut self) {
        if let Err(error) = self.end()
            && ![libc::ENOENT, libc::ESTALE].contains(&error.errno())
        {
            tracing::warn!("a sysctl table: {error}");
        }
    }
}

impl fmt::Debug for CtlHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CtlHeader").field(&self.number).finish()
    }
}

impl Host {
    /// `register_net_sysctl`: registers a table in a namespace, under a path of directories with `/` between them, all of
    /// it or nothing. From a hook there usually, a pernet op's `init`; from any thread otherwise. No lock is taken.
    ///
    /// The operator sees each entry as `path/entry` (`path.entry`), in this namespace. What his `sysctl.d` says of it is
    /// written before this returns and before anybody can read it, by calls of the table's handlers on this very thread:
    /// hold no lock that they take. After that they are called on whatever thread asks, several at once, in no namespace
    /// and under no lock; [`Host::run_in`] is the way into the namespace.
    ///
    /// # Errors
    /// `EINVAL` for a table, a name or a path that cannot be, or one that begins as the kernel's own (`net`, `kernel`, …);
    /// `EEXIST` for an entry that somebody has there already; `ENOTDIR` where an entry is in the way; `ENOENT` if the
    /// namespace is not managed, `ESTALE` if the plugin does not act in it.
    pub fn register_net_sysctl(&self, net: NetCookie, path: &str, table: CtlTable) -> Result<CtlHeader> {
        let caller = self.caller();
        let register = caller.host.register_net_sysctl().ok_or_else(missing)?;
        let table = Arc::new(table);
        let handle = self.shared().sysctls.insert(&table)?;
        let entries: Vec<CtlEntry<'_>> = table.entries.iter().map(|entry| entry.raw()).collect();
        let answer = register(caller.token, net.0, path.into(), entries.as_slice().into(), handle);
        // The author's handlers are dropped after the table's lock.
        accepted(answer.status).inspect_err(|_| drop(self.shared().sysctls.take(handle)))?;
        Ok(CtlHeader { caller, net, number: answer.number })
    }
}

fn missing() -> Error {
    Error::new(libc::ENOSYS, "this pernetd is older than sysctl tables of a plugin's own; update it")
}

/// One instance's tables, by the number that the host gives back in every call.
pub(crate) struct SysctlTables(Mutex<Inner>);

struct Inner {
    next: u64,
    closed: bool,
    tables: BTreeMap<u64, Arc<CtlTable>>,
}

impl SysctlTables {
    pub(crate) fn new() -> Self {
        SysctlTables(Mutex::new(Inner { next: 1, closed: false, tables: BTreeMap::new() }))
    }

    fn insert(&self, table: &Arc<CtlTable>) -> Result<CtlHandle> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(Error::new(libc::ESTALE, "this plugin instance has ended"));
        }
        let id = inner.next;
        inner.next += 1;
        inner.tables.insert(id, Arc::clone(table));
        Ok(CtlHandle(id))
    }

    fn get(&self, table: CtlHandle) -> Result<Arc<CtlTable>> {
        self.lock().tables.get(&table.0).cloned().ok_or_else(no_table)
    }

    fn take(&self, table: CtlHandle) -> Result<Arc<CtlTable>> {
        self.lock().tables.remove(&table.0).ok_or_else(no_table)
    }

    /// Refuses new ones from now on, and gives back what is left, newest first, for dropping.
    pub(crate) fn close(&self) -> Vec<Arc<CtlTable>> {
        let mut inner = self.lock();
        inner.closed = true;
        std::mem::take(&mut inner.tables).into_values().rev().collect()
    }

    /// Nothing of an author runs under this lock, so a poisoned one is sound.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One access to one entry, as the host asks for it.
pub(crate) fn call(shared: &Shared, table: CtlHandle, call: &CtlCall<'_>) -> Result<(u64, Vec<u8>)> {
    let table = shared.sysctls.get(table)?;
    let entry = table.entries.get(call.entry as usize).ok_or_else(no_table)?;
    match call.what {
        0 => entry.behind.read(call),
        1 => entry.behind.write(call).map(|number| (number, Vec::new())),
        other => Err(Error::new(libc::EOPNOTSUPP, format!("access {other} of a sysctl is unknown"))),
    }
}

/// Drops what stands behind a table.
pub(crate) fn free(shared: &Shared, table: CtlHandle) -> Result<()> {
    shared.sysctls.take(table).map(drop)
}

fn no_table() -> Error {
    Error::new(libc::EINVAL, "the daemon named no sysctl of this plugin: its table was freed before")
}
