//! The plugin's side of the ABI: every entry of [`PluginMod`], each in a guard, and the macro that exports them.
//!
//! Owns the instance behind an [`InstanceHandle`]. Only plain data and opaque handles come and go here; what they mean
//! is in the safe files. Every entry trusts the host to keep the handles' protocol as [`crate::abi`] states it.

// Handles become references here; nothing but the protocol says that they are live.
#![allow(unsafe_code)]

use std::any::Any;
use std::borrow::Cow;
use std::os::fd::{FromRawFd, OwnedFd};
use std::panic;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use abi_stable::library::{CheckTypeLayout, LibHeader, ROOT_MODULE_LOADER_NAME, RootModuleError, RootModuleResult};
use abi_stable::prefix_type::{PrefixRefTrait, PrefixTypeTrait};
use abi_stable::std_types::{RResult, RSlice, RStr, RString, RVec};

use crate::abi::{
    AreaHandle, ConfigStatus, ConnectCall, CreateReturn, CtlCall, CtlHandle, CtlReturn, DeviceEvent, EthtoolStat,
    EthtoolStatsReturn, EventReturn, FileCall, FileReturn, HostModRef, InitReturn, InstanceHandle, MountCall, NdoCall,
    NdoReturn, NetInfo, NetdevStats, NumberReturn, OpsHandle, PluginMod, PluginModRef, Registration, Status,
};
use crate::area::{Areas, Taken};
use crate::chain;
use crate::host::Shared;
use crate::log::{self, Caller};
use crate::pernet::AnyOps;
use crate::plugin;
use crate::socket::{Connection, SocketFamily};
use crate::super_block::AnyFileSystem;
use crate::sysctl;
use crate::{Error, Event, ExitReason, Host, MountRequest, Net, Notifier, Plugin, Registrar, Result, Verdict, guard};

/// Exports a type that implements [`Plugin`] as *the* plugin of this shared library.
///
/// ```text
/// export_plugin!(MyPlugin, name = "my-plugin", level = "subsys", description = "what it does",
///                after = ["other"], requires = ["another"], license = "MIT");
/// ```
///
/// The keys may come in any order, and all but `name` may be left out; `level` is then `device`. The version is that of
/// the crate. The library's crate type is `cdylib`, and its file `libpernet_<name>.so` (`-` as `_`) if the operator
/// shall need no `file` key. One plugin per library: a second one is an error of the linker.
///
/// A name or a level that the daemon would refuse does not compile:
///
/// ```compile_fail
/// # use pernet_plugin_api::prelude::*;
/// # struct P;
/// # impl Plugin for P {
/// #     type Config = NoConfig;
/// #     fn init(_: &mut Registrar, _: Host, _: NoConfig) -> Result<Self> { Ok(P) }
/// # }
/// export_plugin!(P, name = "My_Plugin");
/// ```
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty $(, $key:ident = $value:expr)* $(,)?) => {
        const _: () = {
            const METADATA: $crate::note::Metadata = $crate::note::Metadata::new(
                ::core::env!("CARGO_PKG_VERSION"),
                if ::core::cfg!(panic = "unwind") { "unwind" } else { "abort" },
            )
            $(.$key(&$value))*
            .checked();

            #[used]
            #[unsafe(link_section = ".note.pernet")]
            static NOTE: $crate::note::Note<{ METADATA.note_len() }> = $crate::note::Note::encode(&METADATA);

            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            static HEADER: $crate::__private::LibHeader = $crate::__private::header::<$plugin>();
        };
    };
}

// The macro's name for the header must be the one that abi_stable looks for.
const _: () = {
    let (ours, theirs) = (b"_1as_0lib_1header_0root_bmodule_bloader", ROOT_MODULE_LOADER_NAME.as_bytes());
    assert!(ours.len() == theirs.len());
    let mut i = 0;
    while i < ours.len() {
        assert!(ours[i] == theirs[i]);
        i += 1;
    }
};

/// The header that the loader finds.
#[must_use]
pub const fn header<P: Plugin>() -> LibHeader {
    // SAFETY: `from_constructor` asks that the constructor's module be an erased `PluginModRef`: `constructor` erases
    // just that.
    unsafe { LibHeader::from_constructor::<PluginModRef>(constructor::<P>, CheckTypeLayout::Yes) }
}

extern "C" fn constructor<P: Plugin>() -> RootModuleResult {
    match panic::catch_unwind(module::<P>) {
        // SAFETY: `cast` asks that nobody reads more than the erased type has; the loader casts it back.
        Ok(module) => RResult::ROk(unsafe { module.to_prefix_ref().cast() }),
        Err(_) => RResult::RErr(RootModuleError::Unwound),
    }
}

/// The plugin's table.
#[must_use]
pub fn module<P: Plugin>() -> PluginModRef {
    PluginMod {
        check_config: check_config::<P>,
        create: create::<P>,
        destroy,
        pernet_init,
        pernet_pre_exit,
        pernet_exit,
        pernet_exit_batch,
        pernet_free,
        netdev_event,
        run_work,
        drop_work,
        ndo,
        netdev_free,
        get_ethtool_stats,
        ctl,
        ctl_free,
        fs_mount,
        fs_kill_sb,
        file,
        sock_connected,
    }
    .leak_into_prefix()
}

/// What an [`InstanceHandle`] stands for.
struct Instance {
    /// Of this mapping, never used again; the token is the host's name for it.
    id: u64,
    caller: Caller,
    parts: Parts,
}

/// What an instance is made of, in the reverse order of its end.
struct Parts {
    ops: Vec<Box<dyn AnyOps>>,
    notifiers: Vec<Box<dyn Notifier>>,
    families: Vec<Box<dyn SocketFamily>>,
    filesystems: Vec<Box<dyn AnyFileSystem>>,
    /// Held for its drop only; the mutex, never locked, makes it shareable without asking `Sync` of the author.
    plugin: Option<Mutex<Box<dyn Any + Send>>>,
    shared: Arc<Shared>,
}

// The host calls from any thread, several at once.
const _: fn() = || {
    fn shareable<T: Send + Sync>() {}
    shareable::<Instance>();
};

extern "C" fn check_config<P: Plugin>(config: RStr<'_>) -> ConfigStatus {
    guard::install();
    let judged = guard::call(None, || Ok(plugin::read_config::<P>(config.as_str()).err()));
    match judged {
        Ok(None) => ConfigStatus { status: Status::OK, field: RString::new() },
        Ok(Some(refusal)) => {
            ConfigStatus { field: refusal.field().into(), status: Error::new(libc::EINVAL, refusal.message()).into() }
        }
        Err(status) => ConfigStatus { status, field: RString::new() },
    }
}

extern "C" fn create<P: Plugin>(host: HostModRef, token: u64, config: RStr<'_>) -> CreateReturn {
    guard::install();
    let caller = Caller { token, host };
    log::born(caller);
    match start::<P>(caller, config.as_str()) {
        Ok((instance, registrations)) => CreateReturn { status: Status::OK, instance, registrations },
        Err(status) => {
            log::gone(caller);
            CreateReturn { status, instance: InstanceHandle(0), registrations: RVec::new() }
        }
    }
}

fn start<P: Plugin>(caller: Caller, config: &str) -> Result<(InstanceHandle, RVec<Registration>), Status> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let shared = Arc::new(Shared::new());
    let host = Host::new(caller, Arc::clone(&shared));
    let mut reg = Registrar::new(id);
    // The registrar stays outside of the guard: unwinding through it would run more of the author's code.
    let made = guard::call(Some(caller), || {
        let config = plugin::read_config::<P>(config)?;
        P::init(&mut reg, host, config)
    });
    let (plugin, failure) = match made {
        Ok(plugin) => (Some(Mutex::new(Box::new(plugin) as Box<dyn Any + Send>)), None),
        Err(status) => (None, Some(status)),
    };
    let Registrar { ops, notifiers, filesystems, families, registrations, .. } = reg;
    let parts = Parts { ops, notifiers, filesystems, families, plugin, shared };
    if let Some(status) = failure {
        // The first failure is the one to tell; the panic hook has logged what follows from it.
        let _ = end(caller, parts);
        return Err(status);
    }
    let instance = Box::into_raw(Box::new(Instance { id, caller, parts }));
    Ok((InstanceHandle(instance.expose_provenance() as u64), registrations.into()))
}

extern "C" fn destroy(instance: InstanceHandle) -> Status {
    let Some(instance) = address(instance) else { return no_instance() };
    // SAFETY: `Box::from_raw` asks for a box's pointer that nobody else uses: `start` made it by `Box::into_raw`, and
    // no other call of the instance runs or follows, as `PluginMod::destroy` states.
    let Instance { caller, parts, .. } = *unsafe { Box::from_raw(instance) };
    let status = end(caller, parts);
    log::gone(caller);
    status.into()
}

/// Drops each part in a guard of its own, so that none is left behind by another's panic; tells the first failure.
fn end(caller: Caller, parts: Parts) -> Result<(), Status> {
    let mut first = Ok(());
    let mut then = |result: Result<(), Status>| {
        if first.is_ok() {
            first = result;
        }
    };
    let shared = parts.shared;
    // Every device is unregistered by now, unless that failed: no thread of one goes on behind the plugin's back.
    for device in shared.devices.close() {
        device.datapath.stop(|_| None);
    }
    for work in shared.work.close() {
        then(guard::discard(caller, work));
    }
    // Those of mounts whose last call did not come out in time.
    for sb in shared.supers.take_all() {
        then(guard::discard(caller, sb));
    }
    then(guard::discard(caller, parts.plugin));
    for notifier in shared.notifiers.close() {
        then(guard::discard(caller, notifier));
    }
    for table in shared.sysctls.close() {
        then(guard::discard(caller, table));
    }
    for device in shared.devices.take_all() {
        then(guard::discard(caller, device));
    }
    shared.starter.stop();
    for family in parts.families.into_iter().rev() {
        then(guard::discard(caller, family));
    }
    for fs in parts.filesystems.into_iter().rev() {
        then(guard::discard(caller, fs));
    }
    for notifier in parts.notifiers.into_iter().rev() {
        then(guard::discard(caller, notifier));
    }
    for ops in parts.ops.into_iter().rev() {
        then(guard::discard(caller, ops));
    }
    first
}

extern "C" fn pernet_init(instance: InstanceHandle, op: u32, net: &NetInfo<'_>) -> InitReturn {
    let result = on(instance, |i| i.op(op)?.init(&i.net(net)));
    match result {
        Ok(area) => InitReturn { status: Status::OK, area },
        Err(status) => InitReturn { status, area: AreaHandle(0) },
    }
}

extern "C" fn pernet_pre_exit(instance: InstanceHandle, op: u32, net: &NetInfo<'_>, reason: u8) -> Status {
    on(instance, |i| i.op(op)?.pre_exit(&i.net(net), known(reason))).into()
}

extern "C" fn pernet_exit(instance: InstanceHandle, op: u32, net: &NetInfo<'_>, reason: u8) -> Status {
    on(instance, |i| i.op(op)?.exit(&i.net(net), known(reason))).into()
}

extern "C" fn pernet_exit_batch(
    instance: InstanceHandle,
    op: u32,
    nets: RSlice<'_, NetInfo<'_>>,
    reason: u8,
) -> Status {
    on(instance, |i| i.op(op)?.exit_batch(&i.nets(nets), known(reason))).into()
}

extern "C" fn pernet_free(instance: InstanceHandle, op: u32, area: AreaHandle) -> Status {
    // SAFETY: the host frees each area that `pernet_init` returned once, after every use, as `PluginMod` states.
    on(instance, |i| i.op(op)?.free(unsafe { Taken::new(area) })).into()
}

extern "C" fn netdev_event(
    instance: InstanceHandle,
    notifier: u32,
    net: &NetInfo<'_>,
    event: &DeviceEvent<'_>,
) -> EventReturn {
    let result = on(instance, |i| match Event::read(event) {
        Some(event) => i.event(notifier, &i.net(net), &event),
        None => Ok(Verdict::Done),
    });
    match result {
        Ok(verdict) => EventReturn { status: Status::OK, verdict: verdict as u8 },
        Err(status) => EventReturn { status, verdict: Verdict::Done as u8 },
    }
}

extern "C" fn run_work(instance: InstanceHandle, work: u64, nets: RSlice<'_, NetInfo<'_>>) -> Status {
    let run = |i: &Instance| Ok(i.parts.shared.work.take(work).ok_or_else(no_work)?.run(&i.nets(nets)));
    on(instance, run).and_then(|told| told).into()
}

extern "C" fn drop_work(instance: InstanceHandle, work: u64) -> Status {
    on(instance, |i| i.parts.shared.work.take(work).map(drop).ok_or_else(no_work)).into()
}

extern "C" fn ndo(instance: InstanceHandle, ops: OpsHandle, net: &NetInfo<'_>, call: &NdoCall<'_>) -> NdoReturn {
    // First of all, so that they are closed on every path.
    // SAFETY: `from_raw_fd` asks for open descriptors that nobody else owns: they are the callee's, as `NdoCall::queues`
    // states.
    let queues: Vec<OwnedFd> = call.queues.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }).collect();
    let result = on(instance, |i| i.parts.shared.devices.get(ops)?.call(i.caller, &i.net(net), call, queues));
    match result {
        Ok(Ok(stats)) => NdoReturn { status: Status::OK, stats: stats.into() },
        Ok(Err(status)) | Err(status) => NdoReturn { status, stats: NetdevStats::default() },
    }
}

extern "C" fn netdev_free(instance: InstanceHandle, ops: OpsHandle) -> Status {
    let free = |i: &Instance| {
        let device = i.parts.shared.devices.take(ops)?;
        device.datapath.stop(|_| None);
        drop(device);
        Ok(())
    };
    on(instance, free).into()
}

extern "C" fn get_ethtool_stats(instance: InstanceHandle, ops: OpsHandle) -> EthtoolStatsReturn {
    let read = |(name, value): (Cow<'static, str>, u64)| EthtoolStat { name: RString::from(&*name), value };
    let ask =
        |i: &Instance| Ok(i.parts.shared.devices.get(ops)?.ops.get_ethtool_stats().into_iter().map(read).collect());
    match on(instance, ask) {
        Ok(stats) => EthtoolStatsReturn { status: Status::OK, stats },
        Err(status) => EthtoolStatsReturn { status, stats: RVec::new() },
    }
}

extern "C" fn ctl(instance: InstanceHandle, table: CtlHandle, call: &CtlCall<'_>) -> CtlReturn {
    match on(instance, |i| sysctl::call(&i.parts.shared, table, call)) {
        Ok((number, bytes)) => CtlReturn { status: Status::OK, number, bytes: bytes.into() },
        Err(status) => CtlReturn { status, number: 0, bytes: RVec::new() },
    }
}

extern "C" fn ctl_free(instance: InstanceHandle, table: CtlHandle) -> Status {
    on(instance, |i| sysctl::free(&i.parts.shared, table)).into()
}

extern "C" fn fs_mount(instance: InstanceHandle, fs: u32, call: &MountCall<'_>) -> NumberReturn {
    let mount = |i: &Instance| {
        let sb = i.filesystem(fs)?.mount(&MountRequest::read(call))?;
        Ok(i.parts.shared.supers.insert(fs, sb))
    };
    match on(instance, mount) {
        Ok(number) => NumberReturn { status: Status::OK, number },
        Err(status) => NumberReturn { status, number: 0 },
    }
}

extern "C" fn fs_kill_sb(instance: InstanceHandle, fs: u32, sb: u64) -> Status {
    on(instance, |i| i.filesystem(fs)?.kill_sb(i.parts.shared.supers.take(fs, sb)?)).into()
}

extern "C" fn file(instance: InstanceHandle, fs: u32, sb: u64, call: &FileCall<'_>) -> FileReturn {
    on(instance, |i| i.filesystem(fs)?.call(&*i.parts.shared.supers.get(fs, sb)?, call)).into()
}

extern "C" fn sock_connected(instance: InstanceHandle, family: u32, net: &NetInfo<'_>, call: &ConnectCall) -> Status {
    let connected = |i: &Instance| {
        let family = i.parts.families.get(family as usize).ok_or_else(|| not_registered("protocol family"))?;
        family.connected(&i.net(net), Connection::read(i.caller, call)?)
    };
    on(instance, connected).into()
}

fn not_registered(what: &str) -> Error {
    Error::new(libc::EINVAL, format!("there is no such {what} in this plugin"))
}

/// Calls into an instance, in a guard.
fn on<T>(instance: InstanceHandle, body: impl FnOnce(&Instance) -> Result<T>) -> Result<T, Status> {
    let instance = address(instance).ok_or_else(no_instance)?;
    // SAFETY: a reference asks for a live instance that nobody has for himself: the host calls between `create` and
    // `destroy` only, as `PluginMod` states, and in between the instance is only ever shared.
    let instance = unsafe { &*instance };
    guard::call(Some(instance.caller), || body(instance))
}

fn address(instance: InstanceHandle) -> Option<*mut Instance> {
    usize::try_from(instance.0).ok().filter(|a| *a != 0).map(ptr::with_exposed_provenance_mut)
}

impl Instance {
    fn op(&self, op: u32) -> Result<&dyn AnyOps> {
        let ops = self.parts.ops.get(op as usize);
        ops.map(Box::as_ref).ok_or_else(|| Error::new(libc::EINVAL, format!("there is no op {op} in this plugin")))
    }

    fn event(&self, number: u32, net: &Net<'_>, event: &Event<'_>) -> Result<Verdict> {
        let missing = || Error::new(libc::EINVAL, format!("there is no notifier {number} in this plugin"));
        if number >= chain::FIRST {
            return self.parts.shared.notifiers.get(number).ok_or_else(missing)?.event(net, event);
        }
        self.parts.notifiers.get(number as usize).ok_or_else(missing)?.event(net, event)
    }

    fn filesystem(&self, number: u32) -> Result<&dyn AnyFileSystem> {
        self.parts.filesystems.get(number as usize).map(Box::as_ref).ok_or_else(|| not_registered("file system type"))
    }

    fn net<'a>(&self, info: &'a NetInfo<'a>) -> Net<'a> {
        // SAFETY: `new` asks for handles that are 0 or live areas of this mapping: what the host lists in `areas` are
        // those that `pernet_init` returned and that are not freed, as `NetInfo` states.
        Net::new(self.caller, info, unsafe { Areas::new(self.id, info.areas.as_slice()) })
    }

    fn nets<'a>(&self, infos: RSlice<'a, NetInfo<'a>>) -> Vec<Net<'a>> {
        infos.as_slice().iter().map(|info| self.net(info)).collect()
    }
}

/// A reason that a newer host has and this version does not know leaves effects in place, which harms least.
fn known(reason: u8) -> ExitReason {
    ExitReason::from_u8(reason).unwrap_or(ExitReason::Stopped)
}

fn no_instance() -> Status {
    Error::new(libc::EINVAL, "the daemon named no plugin instance").into()
}

fn no_work() -> Error {
    Error::new(libc::ENOENT, "this work was run or dropped before")
}
