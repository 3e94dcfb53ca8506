//! The entries of a host's table that a test's host has nothing behind: each answers `ENOSYS`.
#![allow(dead_code, reason = "each test binary uses its part")]

use abi_stable::std_types::{RSlice, RStr, RString};
use pernet_plugin_api::abi::{CtlEntry, CtlHandle, NumberReturn, SockReturn, Status};

fn nothing() -> Status {
    Status { errno: libc::ENOSYS, panicked: 0, message: RString::from("there is none here") }
}

pub(crate) extern "C" fn register_net_sysctl(
    _: u64,
    _: u64,
    _: RStr<'_>,
    _: RSlice<'_, CtlEntry<'_>>,
    _: CtlHandle,
) -> NumberReturn {
    NumberReturn { status: nothing(), number: 0 }
}

pub(crate) extern "C" fn unregister_net_sysctl(_: u64, _: u64, _: u64) -> Status {
    nothing()
}

pub(crate) extern "C" fn kern_mount(_: u64, _: RStr<'_>, _: u64, _: RStr<'_>) -> NumberReturn {
    NumberReturn { status: nothing(), number: 0 }
}

pub(crate) extern "C" fn kern_unmount(_: u64, _: u64) -> Status {
    nothing()
}

pub(crate) extern "C" fn sock_create(_: u64, _: u64, _: i32, _: i32, _: i32) -> SockReturn {
    SockReturn { status: nothing(), ino: 0, fd: -1 }
}

pub(crate) extern "C" fn sock_release(_: u64, _: u64) -> Status {
    nothing()
}

pub(crate) extern "C" fn sock_connect(_: u64, _: u64, _: RStr<'_>, _: i32) -> SockReturn {
    SockReturn { status: nothing(), ino: 0, fd: -1 }
}
