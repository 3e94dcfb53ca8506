//! The part of the host's table that is about sockets inside namespaces, and protocol families.
//!
//! A socket is made without any lock, so every thread may ask for one, in a hook or not; to connect to a family is to
//! call a hook, so there the rules of `run_in` hold.

use super::host_api::{HostServices, find_ending, find_open, guarded, is_there, may_wait_for};
use super::inner::{Inner, InstanceRef};
use crate::engine::{Failure, SockSpec};
use abi_stable::std_types::RStr;
use pernet_plugin_api::NetCookie;
use pernet_plugin_api::abi::{SockReturn, Status};

pub(super) extern "C" fn sock_create(token: u64, cookie: u64, family: i32, kind: i32, protocol: i32) -> SockReturn {
    let spec = SockSpec { family, kind, protocol };
    socket(token, |_| Ok(()), |services, me| services.sock_create(me, cookie, spec))
}

pub(super) extern "C" fn sock_connect(token: u64, cookie: u64, family: RStr<'_>, kind: i32) -> SockReturn {
    let may = |instance: &Inner| {
        may_wait_for("sock_connect", NetCookie(cookie))?;
        is_there(instance)
    };
    socket(token, may, |services, me| services.sock_connect(me, cookie, family.as_str(), kind))
}

pub(super) extern "C" fn sock_release(token: u64, ino: u64) -> Status {
    guarded(|| {
        let instance = find_ending(token)?;
        instance.services.sock_release(&InstanceRef::of(&instance), ino)
    })
}

fn socket(
    token: u64,
    may: impl FnOnce(&Inner) -> Result<(), Failure>,
    make: impl FnOnce(&dyn HostServices, &InstanceRef) -> Result<(u64, i32), Failure>,
) -> SockReturn {
    let (mut ino, mut fd) = (0, -1);
    let status = guarded(|| {
        let instance = find_open(token)?;
        may(&instance)?;
        (ino, fd) = make(&*instance.services, &InstanceRef::of(&instance))?;
        Ok(())
    });
    SockReturn { status, ino, fd }
}
