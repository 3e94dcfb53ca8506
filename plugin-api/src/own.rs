//! A device of the plugin's own, as its author holds it: [`Netdev`], what is known of it, and references to devices.
//!
//! Mirrors `struct net_device` from `alloc_netdev` to `free_netdev`. The device itself is the host's; a handle that is
//! dropped never takes away what the host still uses. What is done with a device is in [`crate::Net`] and
//! [`crate::Host`].

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::abi::{NetdevHandle, NetdevState};
use crate::datapath::Datapath;
use crate::host::{accepted, missing};
use crate::log::Caller;
use crate::netdev_ops::Entry;
use crate::{NetCookie, RegState, Result};

/// A device that the plugin allocated. Clones name the same one, from any thread.
///
/// When the last clone is dropped the device is freed, as by [`free`](Netdev::free): at once if it is not registered,
/// else when its unregistration is done. A device whose ops hold it themselves is not freed that way: they want its
/// [`datapath`](Netdev::datapath). At the instance's end every device is unregistered and freed.
#[derive(Clone)]
pub struct Netdev {
    own: Arc<Own>,
}

struct Own {
    caller: Caller,
    handle: NetdevHandle,
    datapath: Datapath,
    entry: Weak<Entry>,
    /// The other end, where the plugin allocated both; 0 for none. One that is freed makes room for another.
    mate: AtomicU64,
}

impl Netdev {
    pub(crate) fn new(caller: Caller, handle: NetdevHandle, entry: &Arc<Entry>, peer: Option<&Netdev>) -> Self {
        let mate = AtomicU64::new(peer.map_or(0, |peer| peer.handle().0));
        if let Some(peer) = peer {
            peer.own.mate.store(handle.0, Ordering::Release);
        }
        let (datapath, entry) = (entry.datapath.clone(), Arc::downgrade(entry));
        Netdev { own: Arc::new(Own { caller, handle, datapath, entry, mate }) }
    }

    pub(crate) fn handle(&self) -> NetdevHandle {
        self.own.handle
    }

    pub(crate) fn caller(&self) -> Caller {
        self.own.caller
    }

    /// Where the other end is registered, if the plugin allocated both.
    pub(crate) fn mate(&self) -> Option<(NetdevHandle, Option<NetCookie>)> {
        let handle = NetdevHandle(self.own.mate.load(Ordering::Acquire));
        if handle == NetdevHandle::default() {
            return None;
        }
        Some((handle, state(self.own.caller, handle).ok().and_then(|state| state.net)))
    }

    /// Where frames go into the device, and which memory they are in. It keeps no device: a device's own ops may hold it.
    #[must_use]
    pub fn datapath(&self) -> &Datapath {
        &self.own.datapath
    }

    /// The device as the daemon knows it now.
    ///
    /// # Errors
    /// `ESTALE` after the instance's end, `ENOENT` for a device that is freed.
    pub fn state(&self) -> Result<NetdevInfo> {
        state(self.own.caller, self.own.handle)
    }

    /// Frees it (`free_netdev`): its ops are dropped. If its unregistration is not done yet, that happens when it is.
    ///
    /// # Errors
    /// `EBUSY` while it is registered, `ENOENT` if it is freed already.
    pub fn free(&self) -> Result<()> {
        free(self.own.caller, self.own.handle)
    }
}

fn state(caller: Caller, handle: NetdevHandle) -> Result<NetdevInfo> {
    let ask = caller.host.netdev_state().ok_or_else(missing)?;
    let raw = ask(caller.token, handle);
    accepted(raw.status.clone())?;
    Ok(NetdevInfo::read(raw))
}

pub(crate) fn free(caller: Caller, handle: NetdevHandle) -> Result<()> {
    let free = caller.host.free_netdev().ok_or_else(missing)?;
    accepted(free(caller.token, handle))
}

impl Drop for Own {
    fn drop(&mut self) {
        // Marked first: whichever comes later, this call or the end of its unregistration, frees it.
        if let Some(entry) = self.entry.upgrade() {
            entry.orphan();
            // It is refused while the device is registered, and after the instance's end, when everything is freed.
            let _ = free(self.caller, self.handle);
        }
    }
}

impl fmt::Debug for Netdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Netdev").field(&self.own.handle.0).finish()
    }
}

/// Two handles are equal if they name the same device.
impl PartialEq for Netdev {
    fn eq(&self, other: &Self) -> bool {
        (self.own.handle, self.own.caller.token) == (other.own.handle, other.own.caller.token)
    }
}

impl Eq for Netdev {}

/// A device of the plugin's own, as the daemon knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetdevInfo {
    /// Where it is in its life (K2.3).
    pub reg_state: RegState,
    /// The namespace that it is registered in, if it is.
    pub net: Option<NetCookie>,
    /// Index in that namespace; 0 while it is not registered.
    pub ifindex: u32,
    /// Never reused; 0 while it is not registered.
    pub serial: u64,
    /// Its name; the pattern before it is registered.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// `IFF_*` flags.
    pub flags: u32,
    /// ifindex of its upper device; 0 for none.
    pub master: u32,
    /// Hardware address; empty where it has none.
    pub address: Vec<u8>,
}

impl NetdevInfo {
    fn read(raw: NetdevState) -> Self {
        NetdevInfo {
            // A state that a newer host has and this version does not know is one of a device that is there.
            reg_state: RegState::from_u8(raw.reg_state).unwrap_or(RegState::Registered),
            net: Some(NetCookie(raw.cookie)).filter(|cookie| cookie.0 != 0),
            ifindex: raw.ifindex,
            serial: raw.serial,
            name: raw.name.into_string(),
            mtu: raw.mtu,
            flags: raw.flags,
            master: raw.master,
            address: raw.address.into_vec(),
        }
    }

    /// Whether it is administratively up (`IFF_UP`).
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags & 1 != 0
    }
}

/// A reference to a device, any device of a managed namespace; dropping it gives it back (`dev_put`), from any thread.
///
/// A device of a plugin's own that is unregistered waits for its references, a bounded time, and the operator is told who
/// holds them and what for: hold one only as long as needed.
pub struct NetdevRef {
    caller: Caller,
    reference: u64,
}

impl NetdevRef {
    pub(crate) fn hold(caller: Caller, net: NetCookie, ifindex: u32, serial: u64, purpose: &str) -> Result<Self> {
        let hold = caller.host.netdev_hold().ok_or_else(missing)?;
        let answer = hold(caller.token, net.0, ifindex, serial, purpose.into());
        accepted(answer.status)?;
        Ok(NetdevRef { caller, reference: answer.reference })
    }
}

impl Drop for NetdevRef {
    fn drop(&mut self) {
        if let Some(put) = self.caller.host.netdev_put() {
            // After the instance's end the host has given back all of its references itself.
            let _ = put(self.caller.token, self.reference);
        }
    }
}

impl fmt::Debug for NetdevRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NetdevRef").field(&self.reference).finish()
    }
}
