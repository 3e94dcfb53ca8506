//! The part of the host's table that is about devices of a plugin's own, and notifiers of one namespace.
//!
//! Data of the ABI becomes the engine's, and the daemon does what is asked for, through [`HostServices`]. Who may wait
//! for which namespace's lock is judged here, so that nothing ever waits for itself.

use super::call::NotifierCaller;
use super::host_api::{HostServices, find_open, guarded, is_there, may_wait_for};
use super::inner::InstanceRef;
use super::ndo::NdoCaller;
use super::running::holds;
use crate::engine::{Failure, LinkSpec, RegState};
use abi_stable::std_types::{RSlice, RStr};
use pernet_plugin_api::NetCookie;
use pernet_plugin_api::abi::{HoldReturn, NetdevChange, NetdevHandle, NetdevReturn, NetdevSpec, NetdevState, Status};
use std::sync::Arc;

/// A change of a registered device, as a plugin asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeNetdev<'a> {
    /// Set it up.
    Open,
    /// Set it down.
    Close,
    /// Rename it, to a name or by a pattern.
    Name(&'a str),
    /// Change its MTU.
    Mtu(u32),
    /// Change its hardware address.
    Address(&'a [u8]),
    /// Put it under the upper device with this index, or with 0 under none.
    Master(u32),
    /// Add an alternative name.
    AddAltName(&'a str),
    /// Delete an alternative name.
    DelAltName(&'a str),
    /// Move it to the namespace with this cookie.
    MoveTo(u64),
}

/// A device of a plugin's own, as the plugin is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetdevSnapshot {
    /// Where it is in its life.
    pub reg_state: RegState,
    /// The namespace that it is registered in; 0 for none.
    pub cookie: u64,
    /// Its index there; 0 before it has one.
    pub ifindex: u32,
    /// Of its registration; 0 before it has one.
    pub serial: u64,
    /// MTU in bytes.
    pub mtu: u32,
    /// `IFF_*` flags.
    pub flags: u32,
    /// ifindex of its upper device; 0 for none.
    pub master: u32,
    /// Its name, or the pattern before it has one.
    pub name: String,
    /// Hardware address.
    pub address: Vec<u8>,
}

/// [`NetdevSpec::flags`].
const OFFLOADS: u32 = 1;
const NEEDS_FREE: u32 = 2;
const IMMUTABLE: u32 = 4;

pub(super) extern "C" fn run_in_two(token: u64, first: u64, second: u64, work: u64) -> Status {
    guarded(|| {
        let instance = find_open(token)?;
        if first == second {
            return Err(Failure::new(libc::EINVAL, "run_in_two takes two different namespaces"));
        }
        // Of the two, the first in lock order is the one that a hook's own namespace must come before.
        may_wait_for("run_in_two", NetCookie(first.min(second)))?;
        is_there(&instance)?;
        instance.services.run_in_two(&InstanceRef::of(&instance), first, second, work)
    })
}

pub(super) extern "C" fn alloc_netdev(token: u64, spec: &NetdevSpec<'_>) -> NetdevReturn {
    let mut dev = NetdevHandle::default();
    let status = guarded(|| {
        let instance = find_open(token)?;
        let vnet_header = spec.flags & OFFLOADS != 0;
        let ops = Arc::new(NdoCaller { instance: Arc::clone(&instance), ops: spec.ops, vnet_header });
        let me = InstanceRef::of(&instance);
        dev = NetdevHandle(instance.services.alloc_netdev(&me, link_spec(spec), spec.peer.0, ops)?);
        Ok(())
    });
    NetdevReturn { status, dev }
}

fn link_spec(spec: &NetdevSpec<'_>) -> LinkSpec {
    LinkSpec {
        name: spec.name.to_string(),
        alt_names: spec.alt_names.iter().map(ToString::to_string).collect(),
        kind: spec.link_kind.to_string(),
        data: spec.data.to_vec(),
        address: spec.address.to_vec(),
        mtu: spec.mtu,
        min_mtu: spec.min_mtu,
        max_mtu: spec.max_mtu,
        ifindex: spec.ifindex,
        link: spec.link,
        queues: spec.queues,
        offloads: spec.flags & OFFLOADS != 0,
        needs_free: spec.flags & NEEDS_FREE != 0,
        immutable: spec.flags & IMMUTABLE != 0,
    }
}

pub(super) extern "C" fn register_netdevice(token: u64, cookie: u64, dev: NetdevHandle, peer_cookie: u64) -> Status {
    with(token, |services, me| services.register_netdevice(me, cookie, dev.0, peer_cookie))
}

pub(super) extern "C" fn unregister_netdevices(token: u64, devs: RSlice<'_, NetdevHandle>) -> Status {
    let devs: Vec<u64> = devs.iter().map(|dev| dev.0).collect();
    with(token, |services, me| services.unregister_netdevices(me, &devs))
}

pub(super) extern "C" fn free_netdev(token: u64, dev: NetdevHandle) -> Status {
    with(token, |services, me| services.free_netdev(me, dev.0))
}

pub(super) extern "C" fn netdev_change(token: u64, dev: NetdevHandle, change: &NetdevChange<'_>) -> Status {
    with(token, |services, me| services.netdev_change(me, dev.0, understood(change)?))
}

/// Only a plugin that is not made with the macro, or is newer, can ask for something else.
fn understood<'a>(change: &'a NetdevChange<'a>) -> Result<ChangeNetdev<'a>, Failure> {
    let text = change.text.as_str();
    let number = || {
        let why = |_| Failure::new(libc::EINVAL, format!("{} is no number of 32 bits", change.number));
        u32::try_from(change.number).map_err(why)
    };
    Ok(match change.what {
        0 => ChangeNetdev::Open,
        1 => ChangeNetdev::Close,
        2 => ChangeNetdev::Name(text),
        3 => ChangeNetdev::Mtu(number()?),
        4 => ChangeNetdev::Address(change.bytes.as_slice()),
        5 => ChangeNetdev::Master(number()?),
        6 => ChangeNetdev::AddAltName(text),
        7 => ChangeNetdev::DelAltName(text),
        8 => ChangeNetdev::MoveTo(change.number),
        other => return Err(Failure::new(libc::EOPNOTSUPP, format!("change {other} of a device is unknown"))),
    })
}

pub(super) extern "C" fn netdev_state(token: u64, dev: NetdevHandle) -> NetdevState {
    let mut seen = None;
    let status = with(token, |services, me| {
        seen = Some(services.netdev_state(me, dev.0)?);
        Ok(())
    });
    let seen = seen.unwrap_or(NetdevSnapshot {
        reg_state: RegState::Uninitialized,
        cookie: 0,
        ifindex: 0,
        serial: 0,
        mtu: 0,
        flags: 0,
        master: 0,
        name: String::new(),
        address: Vec::new(),
    });
    NetdevState {
        status,
        reg_state: seen.reg_state as u8,
        cookie: seen.cookie,
        ifindex: seen.ifindex,
        serial: seen.serial,
        mtu: seen.mtu,
        flags: seen.flags,
        master: seen.master,
        name: seen.name.into(),
        address: seen.address.into(),
    }
}

pub(super) extern "C" fn netdev_hold(
    token: u64,
    cookie: u64,
    ifindex: u32,
    serial: u64,
    purpose: RStr<'_>,
) -> HoldReturn {
    let mut reference = 0;
    let status = with(token, |services, me| {
        reference = services.netdev_hold(me, cookie, ifindex, serial, purpose.as_str())?;
        Ok(())
    });
    HoldReturn { status, reference }
}

pub(super) extern "C" fn netdev_put(token: u64, reference: u64) -> Status {
    with(token, |services, me| services.netdev_put(me, reference))
}

pub(super) extern "C" fn register_notifier(token: u64, cookie: u64, priority: i32, number: u32) -> Status {
    guarded(|| {
        let instance = find_open(token)?;
        may_have_lock_of("register_notifier", cookie)?;
        is_there(&instance)?;
        let block = Arc::new(NotifierCaller { instance: Arc::clone(&instance), number });
        instance.services.register_notifier(&InstanceRef::of(&instance), cookie, priority, block, number)
    })
}

pub(super) extern "C" fn unregister_notifier(token: u64, cookie: u64, number: u32) -> Status {
    guarded(|| {
        let instance = find_open(token)?;
        may_have_lock_of("unregister_notifier", cookie)?;
        instance.services.unregister_notifier(&InstanceRef::of(&instance), cookie, number)
    })
}

/// The lock that this thread's hook holds is used; another one is waited for, if that may be.
fn may_have_lock_of(what: &str, cookie: u64) -> Result<(), Failure> {
    if holds(NetCookie(cookie)) { Ok(()) } else { may_wait_for(what, NetCookie(cookie)) }
}

fn with(token: u64, call: impl FnOnce(&dyn HostServices, &InstanceRef) -> Result<(), Failure>) -> Status {
    guarded(|| {
        let instance = find_open(token)?;
        call(&*instance.services, &InstanceRef::of(&instance))
    })
}
