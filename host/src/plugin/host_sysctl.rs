//! The part of the host's table that is about sysctl tables of a plugin's own.
//!
//! Data of the ABI becomes the engine's, and the daemon does what is asked for, through [`HostServices`]. Neither call
//! waits for a namespace's lock.

use super::ctl::CtlCaller;
use super::host_api::{find_open, guarded, is_there};
use super::inner::InstanceRef;
use crate::engine::{CtlEntry, CtlKind, CtlTable, Failure, Number};
use abi_stable::std_types::{RSlice, RStr};
use pernet_plugin_api::abi::{self, CtlHandle, NumberReturn, Status};
use std::sync::Arc;

/// [`abi::CtlEntry::bounds`].
const MIN: u8 = 1;
const MAX: u8 = 2;

pub(super) extern "C" fn register_net_sysctl(
    token: u64,
    cookie: u64,
    path: RStr<'_>,
    entries: RSlice<'_, abi::CtlEntry<'_>>,
    table: CtlHandle,
) -> NumberReturn {
    let mut number = 0;
    let status = guarded(|| {
        let instance = find_open(token)?;
        is_there(&instance)?;
        let entries: Vec<CtlEntry> = entries.iter().map(understood).collect::<Result<_, _>>()?;
        let kinds = entries.iter().map(|entry| entry.kind).collect();
        let data = Arc::new(CtlCaller { instance: Arc::clone(&instance), table, kinds });
        let me = InstanceRef::of(&instance);
        number = instance.services.register_net_sysctl(&me, cookie, path.as_str(), CtlTable { entries, data })?;
        Ok(())
    });
    NumberReturn { status, number }
}

pub(super) extern "C" fn unregister_net_sysctl(token: u64, cookie: u64, number: u64) -> Status {
    guarded(|| {
        let instance = find_open(token)?;
        instance.services.unregister_net_sysctl(&InstanceRef::of(&instance), cookie, number)
    })
}

/// Only a plugin that is not made with the macro, or is newer, has an entry of another kind.
fn understood(entry: &abi::CtlEntry<'_>) -> Result<CtlEntry, Failure> {
    let kind = match entry.kind {
        0 => CtlKind::Int,
        1 => CtlKind::Uint,
        2 => CtlKind::Bool,
        3 => CtlKind::Ulong,
        4 => CtlKind::Text,
        5 => CtlKind::Own,
        other => {
            let what = format!("sysctl `{}`: kind {other} is unknown", entry.name);
            return Err(Failure::new(libc::EOPNOTSUPP, what));
        }
    };
    let bound = |bit: u8, bits: u64| -> Option<Number> {
        let value = if kind == CtlKind::Int { bits.cast_signed().into() } else { bits.into() };
        (entry.bounds & bit != 0).then_some(value)
    };
    Ok(CtlEntry {
        name: entry.name.to_string(),
        mode: entry.mode,
        kind,
        len: usize::try_from(entry.len).unwrap_or(usize::MAX),
        min: bound(MIN, entry.min),
        max: bound(MAX, entry.max),
    })
}
