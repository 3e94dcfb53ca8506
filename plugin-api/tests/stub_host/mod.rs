//! The entries of a host's table that a test's host has nothing behind: each answers `ENOSYS`, but for internal mounts.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::{Mutex, PoisonError};

use abi_stable::std_types::{RSlice, RStr, RString, RVec};
use pernet_plugin_api::abi::{
    CtlEntry, CtlHandle, Figure, FiguresReturn, HookFigures, NumberReturn, SockReturn, Status,
};

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

/// Knows one type, and numbers its mounts as their namespaces.
pub(crate) extern "C" fn kern_mount(_: u64, fs: RStr<'_>, cookie: u64, _: RStr<'_>) -> NumberReturn {
    if fs != "known" {
        let status = Status { errno: libc::ENODEV, panicked: 0, message: RString::from("no such type") };
        return NumberReturn { status, number: 0 };
    }
    NumberReturn { status: Status { errno: 0, panicked: 0, message: RString::new() }, number: cookie }
}

static UNMOUNTED: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// What was unmounted since it was asked for last.
pub(crate) fn unmounted() -> Vec<u64> {
    std::mem::take(&mut UNMOUNTED.lock().unwrap_or_else(PoisonError::into_inner))
}

pub(crate) extern "C" fn kern_unmount(_: u64, mount: u64) -> Status {
    UNMOUNTED.lock().unwrap_or_else(PoisonError::into_inner).push(mount);
    Status { errno: 0, panicked: 0, message: RString::new() }
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

/// One of each.
pub(crate) extern "C" fn figures(_: u64) -> FiguresReturn {
    let status = Status { errno: 0, panicked: 0, message: RString::new() };
    let hook = HookFigures {
        plugin: "p".into(),
        hook: "pernet.init".into(),
        errors: 1,
        nanoseconds: 2_500,
        calls: RVec::from(vec![1, 0, 2]),
    };
    let figure = Figure { what: "namespaces".into(), of: "live".into(), value: 7 };
    FiguresReturn {
        status,
        version: "9.9.9".into(),
        bounds: RVec::from(vec![1_000, 2_000]),
        hooks: RVec::from(vec![hook]),
        figures: RVec::from(vec![figure]),
    }
}
