//! The ABI: what crosses between the daemon and a plugin, and nothing else does.
//!
//! Frozen rules. Plain data, opaque handles and descriptors only, so that the same plugin can run in a process of
//! its own and a C plugin can be adapted to the same calls. A plain `repr(C)` struct never changes within a major
//! version; the two tables ([`PluginMod`], [`HostMod`]) only grow at the end, and what is added there is looked up
//! as an option. Every entry of a plugin stops its panics inside the plugin and reports them in [`Status`].
//!
//! A hook's namespace-private data never crosses: the plugin gives an opaque [`AreaHandle`] at init and gets it back.

// abi_stable's derive expands to such code; the names are its own.
#![allow(unsafe_code, non_camel_case_types, missing_docs, clippy::undocumented_unsafe_blocks)]

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::package_version_strings;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RSlice, RStr, RString, RVec};

/// Major version of the interface: equal on both sides.
pub const API_MAJOR: u32 = 1;
/// Minor version of the interface: a plugin's is at most the host's.
pub const API_MINOR: u32 = 0;

/// An opaque plugin instance, made by [`PluginMod::create`]; 0 is none.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceHandle(pub u64);

/// An op's private area in one namespace, opaque to the host; 0 is the empty slot.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AreaHandle(pub u64);

/// How a call ended. `errno` 0 is success; it is positive otherwise. C plugins may answer anything: the host maps
/// what is not a positive errno to EIO.
#[repr(C)]
#[derive(StableAbi, Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub errno: i32,
    /// 1 if the plugin's code panicked (and was caught inside the plugin).
    pub panicked: u8,
    pub message: RString,
}

/// A namespace, as a hook is told of it.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct NetInfo<'a> {
    pub cookie: u64,
    /// Which life of the namespace: counts from 1.
    pub generation: u32,
    pub name: RStr<'a>,
    /// This plugin's areas here, by op number; an op without a private area, or not yet initialised, has 0.
    pub areas: RSlice<'a, AreaHandle>,
}

/// A device event; see [`crate::DeviceInfo`] for the fields' meaning.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct DeviceEvent<'a> {
    /// [`crate::EventKind`] as a number.
    pub kind: u8,
    /// 1 while what exists is replayed to a new notifier, or taken back from one that goes.
    pub replay: u8,
    pub ifindex: u32,
    pub mtu: u32,
    pub flags: u32,
    pub master: u32,
    pub serial: u64,
    pub name: RStr<'a>,
    /// The name before a ChangeName; else empty.
    pub old_name: RStr<'a>,
    pub link_kind: RStr<'a>,
    pub address: RSlice<'a, u8>,
}

/// One thing that a plugin's init registered. Order matters: it is the order of registration.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct Registration {
    /// 0 pernet subsystem, 1 pernet device, 2 netdevice notifier.
    pub class: u8,
    /// Number of the op, or of the notifier, within the plugin: each counts from 0.
    pub number: u32,
    /// Notifiers: higher is called earlier (K3.1). Else 0.
    pub priority: i32,
    /// For the operator's eyes.
    pub name: RString,
}

/// What [`PluginMod::check_config`] answers.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct ConfigStatus {
    pub status: Status,
    /// The refused field as `a.b[2].c`, a key that is not bare being quoted as in TOML ([`crate::field_steps`] reads it);
    /// empty where the error concerns the whole.
    pub field: RString,
}

/// What [`PluginMod::create`] answers.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct CreateReturn {
    pub status: Status,
    pub instance: InstanceHandle,
    pub registrations: RVec<Registration>,
}

/// What [`PluginMod::pernet_init`] answers.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct InitReturn {
    pub status: Status,
    pub area: AreaHandle,
}

/// What [`PluginMod::netdev_event`] answers. The verdict counts only where the status is success.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct EventReturn {
    pub status: Status,
    /// [`crate::Verdict`] as a number.
    pub verdict: u8,
}

/// A line of a plugin's log.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct LogRecord<'a> {
    /// 1 error … 5 trace.
    pub level: u8,
    pub target: RStr<'a>,
    pub message: RStr<'a>,
    /// The other fields, as a JSON object; empty for none.
    pub fields: RStr<'a>,
}

/// The plugin's table, its root module. Entries after `last_prefix_field` are options to the other side.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModRef)))]
#[sabi(missing_field(option))]
pub struct PluginMod {
    /// Parses and judges a configuration (JSON) without any effect.
    pub check_config: extern "C" fn(config: RStr<'_>) -> ConfigStatus,
    /// Makes an instance: the author's `init`. `token` names the instance in calls to the host.
    pub create: extern "C" fn(host: HostModRef, token: u64, config: RStr<'_>) -> CreateReturn,
    /// Drops an instance: the author's `Drop`. No other call to it follows.
    pub destroy: extern "C" fn(instance: InstanceHandle) -> Status,
    pub pernet_init: extern "C" fn(instance: InstanceHandle, op: u32, net: &NetInfo<'_>) -> InitReturn,
    pub pernet_pre_exit: extern "C" fn(instance: InstanceHandle, op: u32, net: &NetInfo<'_>, reason: u8) -> Status,
    pub pernet_exit: extern "C" fn(instance: InstanceHandle, op: u32, net: &NetInfo<'_>, reason: u8) -> Status,
    pub pernet_exit_batch:
        extern "C" fn(instance: InstanceHandle, op: u32, nets: RSlice<'_, NetInfo<'_>>, reason: u8) -> Status,
    /// Drops a private area, after every op's exit in that namespace.
    pub pernet_free: extern "C" fn(instance: InstanceHandle, op: u32, area: AreaHandle) -> Status,
    pub netdev_event: extern "C" fn(
        instance: InstanceHandle,
        notifier: u32,
        net: &NetInfo<'_>,
        event: &DeviceEvent<'_>,
    ) -> EventReturn,
    /// Runs work that the plugin handed to [`HostMod::defer`] or [`HostMod::run_in`], once. `nets` has one or two.
    pub run_work: extern "C" fn(instance: InstanceHandle, work: u64, nets: RSlice<'_, NetInfo<'_>>) -> Status,
    /// Drops work that will never run (its namespace or the plugin went first).
    #[sabi(last_prefix_field)]
    pub drop_work: extern "C" fn(instance: InstanceHandle, work: u64) -> Status,
}

impl RootModule for PluginModRef {
    abi_stable::declare_root_module_statics! {PluginModRef}
    const BASE_NAME: &'static str = "pernet_plugin";
    const NAME: &'static str = "pernet_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}

/// The host's table. Every call names the instance by its token; a token that is no more gets ESTALE.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostModRef)))]
#[sabi(missing_field(option))]
pub struct HostMod {
    /// The most verbose level that the host wants: 0 none, 1 error … 5 trace.
    pub log_level: extern "C" fn() -> u8,
    pub log: extern "C" fn(token: u64, record: &LogRecord<'_>),
    /// Queues work for after the unlock, in one namespace, or two (both locked, in cookie order).
    pub defer: extern "C" fn(token: u64, cookies: RSlice<'_, u64>, work: u64) -> Status,
    /// Runs work inside a namespace and waits for it; EDEADLK from a hook that may not wait for it.
    #[sabi(last_prefix_field)]
    pub run_in: extern "C" fn(token: u64, cookie: u64, work: u64) -> Status,
}
