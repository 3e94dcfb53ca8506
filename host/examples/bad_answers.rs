//! A plugin that is not made with the macro, as one in C would be, and answers what no errno, verdict or registration
//! is. For tests of the host.

#![allow(unsafe_code)]

use abi_stable::library::{CheckTypeLayout, LibHeader, RootModuleResult};
use abi_stable::prefix_type::{PrefixRefTrait, PrefixTypeTrait};
use abi_stable::std_types::{RResult, RSlice, RStr, RString, RVec};
use pernet_plugin_api::abi::{
    AreaHandle, ConfigStatus, CreateReturn, DeviceEvent, EthtoolStatsReturn, EventReturn, HostModRef, InitReturn,
    InstanceHandle, NdoCall, NdoReturn, NetInfo, NetdevStats, OpsHandle, PluginMod, PluginModRef, Registration, Status,
};
use pernet_plugin_api::note::{Metadata, Note};

const METADATA: Metadata = Metadata::new("0.1.0", "unwind").name(&"answers").checked();

#[used]
#[unsafe(link_section = ".note.pernet")]
static NOTE: Note<{ METADATA.note_len() }> = Note::encode(&METADATA);

const OK: Status = status(0);

const fn status(errno: i32) -> Status {
    Status { errno, panicked: 0, message: RString::new() }
}

extern "C" fn check_config(_config: RStr<'_>) -> ConfigStatus {
    ConfigStatus { status: OK, field: RString::new() }
}

/// The configuration says what is wrong with the registrations.
extern "C" fn create(_host: HostModRef, _token: u64, config: RStr<'_>) -> CreateReturn {
    let op = |class, number| Registration { class, number, priority: 0, name: "op".into() };
    let (instance, registrations) = match config.as_str() {
        "class" => (1, vec![op(9, 0)]),
        "number" => (1, vec![op(0, 0), op(0, 5)]),
        "many" => (1, (0..65).map(|n| op(0, n)).collect()),
        "handle" => (0, vec![op(0, 0)]),
        _ => (1, vec![op(0, 0), op(2, 0)]),
    };
    CreateReturn { status: OK, instance: InstanceHandle(instance), registrations: registrations.into() }
}

extern "C" fn destroy(_instance: InstanceHandle) -> Status {
    OK
}

extern "C" fn pernet_init(_instance: InstanceHandle, _op: u32, _net: &NetInfo<'_>) -> InitReturn {
    InitReturn { status: status(-libc::EBUSY), area: AreaHandle(0) }
}

extern "C" fn pernet_exit(_instance: InstanceHandle, _op: u32, _net: &NetInfo<'_>, _reason: u8) -> Status {
    status(70_000)
}

extern "C" fn pernet_exit_batch(
    _instance: InstanceHandle,
    _op: u32,
    _nets: RSlice<'_, NetInfo<'_>>,
    _reason: u8,
) -> Status {
    OK
}

extern "C" fn pernet_free(_instance: InstanceHandle, _op: u32, _area: AreaHandle) -> Status {
    OK
}

extern "C" fn netdev_event(
    _instance: InstanceHandle,
    _notifier: u32,
    _net: &NetInfo<'_>,
    _event: &DeviceEvent<'_>,
) -> EventReturn {
    EventReturn { status: OK, verdict: 200 }
}

extern "C" fn run_work(_instance: InstanceHandle, _work: u64, _nets: RSlice<'_, NetInfo<'_>>) -> Status {
    OK
}

extern "C" fn drop_work(_instance: InstanceHandle, _work: u64) -> Status {
    OK
}

extern "C" fn ndo(_instance: InstanceHandle, _ops: OpsHandle, _net: &NetInfo<'_>, _call: &NdoCall<'_>) -> NdoReturn {
    NdoReturn { status: OK, stats: NetdevStats::default() }
}

extern "C" fn netdev_free(_instance: InstanceHandle, _ops: OpsHandle) -> Status {
    OK
}

extern "C" fn get_ethtool_stats(_instance: InstanceHandle, _ops: OpsHandle) -> EthtoolStatsReturn {
    EthtoolStatsReturn { status: OK, stats: RVec::new() }
}

extern "C" fn constructor() -> RootModuleResult {
    let table = PluginMod {
        check_config,
        create,
        destroy,
        pernet_init,
        pernet_pre_exit: pernet_exit,
        pernet_exit,
        pernet_exit_batch,
        pernet_free,
        netdev_event,
        run_work,
        drop_work,
        ndo,
        netdev_free,
        get_ethtool_stats,
    };
    // SAFETY: `cast` asks that nobody reads more than the erased type has; the loader casts it back.
    RResult::ROk(unsafe { table.leak_into_prefix().to_prefix_ref().cast() })
}

// SAFETY: `from_constructor` asks that the constructor's module be an erased `PluginModRef`: it is.
#[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
static HEADER: LibHeader = unsafe { LibHeader::from_constructor::<PluginModRef>(constructor, CheckTypeLayout::Yes) };
