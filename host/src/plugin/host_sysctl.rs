//! The part of the host's table that is about sysctl tables of a plugin's own.

use super::host_api::guarded;
use crate::engine::Failure;
use abi_stable::std_types::{RSlice, RStr};
use pernet_plugin_api::abi::{CtlEntry, CtlHandle, NumberReturn, Status};

pub(super) extern "C" fn register_net_sysctl(
    _token: u64,
    _cookie: u64,
    _path: RStr<'_>,
    _entries: RSlice<'_, CtlEntry<'_>>,
    _table: CtlHandle,
) -> NumberReturn {
    NumberReturn { status: guarded(|| Err(missing())), number: 0 }
}

pub(super) extern "C" fn unregister_net_sysctl(_token: u64, _number: u64) -> Status {
    guarded(|| Err(missing()))
}

fn missing() -> Failure {
    Failure::new(libc::ENOSYS, "this host has no sysctl tables")
}
