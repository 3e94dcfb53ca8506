//! The part of the host's table that is about sockets inside namespaces, and protocol families.

use super::host_api::{HostServices, find_open, guarded};
use super::inner::InstanceRef;
use crate::engine::Failure;
use abi_stable::std_types::RStr;
use pernet_plugin_api::abi::{SockReturn, Status};

pub(super) extern "C" fn sock_create(token: u64, cookie: u64, family: i32, kind: i32, protocol: i32) -> SockReturn {
    socket(token, |services, me| services.sock_create(me, cookie, [family, kind, protocol]))
}

pub(super) extern "C" fn sock_connect(token: u64, cookie: u64, family: RStr<'_>, kind: i32) -> SockReturn {
    socket(token, |services, me| services.sock_connect(me, cookie, family.as_str(), kind))
}

pub(super) extern "C" fn sock_release(token: u64, ino: u64) -> Status {
    guarded(|| {
        let instance = find_open(token)?;
        instance.services.sock_release(&InstanceRef::of(&instance), ino)
    })
}

fn socket(token: u64, make: impl FnOnce(&dyn HostServices, &InstanceRef) -> Result<(u64, i32), Failure>) -> SockReturn {
    let (mut ino, mut fd) = (0, -1);
    let status = guarded(|| {
        let instance = find_open(token)?;
        (ino, fd) = make(&*instance.services, &InstanceRef::of(&instance))?;
        Ok(())
    });
    SockReturn { status, ino, fd }
}
