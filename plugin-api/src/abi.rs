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
pub const API_MINOR: u32 = 2;

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
    /// 0 pernet subsystem, 1 pernet device, 2 netdevice notifier, 3 file system type, 4 protocol family.
    pub class: u8,
    /// Number of the op, notifier, file system type or family within the plugin: each counts from 0.
    pub number: u32,
    /// Notifiers: higher is called earlier (K3.1). File system types: bit 0, users cannot mount it (K6.5). Else 0.
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

/// An instance's own table entry for the ops of a device that it allocated; the host gives it back in every call.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpsHandle(pub u64);

/// A device that the host keeps for a plugin, from `alloc_netdev` on; 0 is none. Never used again.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NetdevHandle(pub u64);

/// A device as its plugin wants it made; see [`crate::NetdevSpec`] for the fields' meaning.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct NetdevSpec<'a> {
    /// A name, or a pattern with one `%d`.
    pub name: RStr<'a>,
    pub alt_names: RSlice<'a, RStr<'a>>,
    /// `tun` and `tap` are made through the device file, every other kind over rtnetlink.
    pub link_kind: RStr<'a>,
    /// The content of `IFLA_INFO_DATA`: netlink attributes, in the machine's byte order.
    pub data: RSlice<'a, u8>,
    /// Empty: the kernel's choice.
    pub address: RSlice<'a, u8>,
    /// 0: the kind's own.
    pub mtu: u32,
    /// 0: no bound.
    pub min_mtu: u32,
    /// 0: no bound.
    pub max_mtu: u32,
    /// 0: the next free one.
    pub ifindex: u32,
    /// ifindex of the lower device (`IFLA_LINK`), 0 for none.
    pub link: u32,
    /// tun and tap: how many queues, at least 1. Other kinds: 0.
    pub queues: u32,
    /// Bit 0: tun and tap frames carry a virtio header, and the kernel may leave segmentation and checksums to it.
    /// Bit 1: freed by the host when its unregistration is done. Bit 2: it may not be moved to another namespace.
    pub flags: u32,
    /// The other end (kind `veth`), allocated before, and registered together with this one. 0: none of the plugin's.
    pub peer: NetdevHandle,
    /// What the plugin calls the ops.
    pub ops: OpsHandle,
}

/// What [`HostMod::alloc_netdev`] answers.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct NetdevReturn {
    pub status: Status,
    pub dev: NetdevHandle,
}

/// A change of a device of the plugin's own.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct NetdevChange<'a> {
    /// 0 open, 1 close, 2 rename to `text`, 3 MTU `number`, 4 hardware address `bytes`, 5 upper device with ifindex
    /// `number` (0: none), 6 add the alternative name `text`, 7 delete it, 8 move to the namespace with cookie `number`, 9
    /// the same with a choice (older hosts: EOPNOTSUPP): `text` is the name or pattern that it has there if its own is
    /// taken (empty: it is refused then), `bytes` the index that it shall have, of 4 bytes (empty: its own, or any).
    pub what: u8,
    pub number: u64,
    pub text: RStr<'a>,
    pub bytes: RSlice<'a, u8>,
}

/// What [`HostMod::netdev_state`] answers: a device of the plugin's own, as the host knows it.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct NetdevState {
    pub status: Status,
    /// [`crate::RegState`] as a number.
    pub reg_state: u8,
    /// 0 while it is not registered.
    pub cookie: u64,
    pub ifindex: u32,
    pub serial: u64,
    pub mtu: u32,
    pub flags: u32,
    pub master: u32,
    pub name: RString,
    pub address: RVec<u8>,
}

/// What [`HostMod::netdev_hold`] answers: a reference, to be given to [`HostMod::netdev_put`] once.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct HoldReturn {
    pub status: Status,
    pub reference: u64,
}

/// A call of a device's operation (`ndo_*`).
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct NdoCall<'a> {
    /// 0 init, 1 uninit, 2 open, 3 stop, 4 change_mtu, 5 set_mac_address, 6 get_stats, 7 destructor.
    pub op: u8,
    pub ifindex: u32,
    pub serial: u64,
    /// The MTU that it has; at change_mtu the new one.
    pub mtu: u32,
    /// `IFF_*` flags.
    pub flags: u32,
    pub name: RStr<'a>,
    /// The hardware address that it has; at set_mac_address the new one.
    pub address: RSlice<'a, u8>,
    /// At open of a tun or tap: a descriptor of each queue, which are the callee's from here on.
    pub queues: RSlice<'a, i32>,
    /// 1 where frames carry a virtio header of 12 bytes.
    pub vnet_header: u8,
}

/// Counters as `ndo_get_stats64` gives them: what the plugin itself did with frames.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetdevStats {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub rx_dropped: u64,
    pub rx_errors: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub tx_dropped: u64,
    pub tx_errors: u64,
}

/// What [`PluginMod::ndo`] answers.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct NdoReturn {
    pub status: Status,
    /// Of get_stats; else zeros.
    pub stats: NetdevStats,
}

/// What [`HostMod::net_names`] answers.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct NamesReturn {
    pub status: Status,
    pub names: RVec<RString>,
}

/// A counter that only devices of this kind have.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct EthtoolStat {
    pub name: RString,
    pub value: u64,
}

/// What [`PluginMod::get_ethtool_stats`] answers.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct EthtoolStatsReturn {
    pub status: Status,
    /// In the order in which they are to be shown.
    pub stats: RVec<EthtoolStat>,
}

/// One entry of a sysctl table, as a plugin registers it.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct CtlEntry<'a> {
    pub name: RStr<'a>,
    /// Permission bits, within `0o666`.
    pub mode: u16,
    /// 0 int, 1 uint, 2 bool, 3 ulong, 4 string, 5 the plugin's own read and write.
    pub kind: u8,
    /// Bit 0: `min` counts. Bit 1: `max` counts.
    pub bounds: u8,
    /// Numbers: how many elements. Strings: how many bytes it may have, one more than its longest text. Own: 0.
    pub len: u32,
    /// Smallest value: an `i64` for int, else a `u64`, as its bits.
    pub min: u64,
    /// Largest value, likewise.
    pub max: u64,
}

/// A plugin's own table entry for a sysctl table that it registered; the host gives it back in every call.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtlHandle(pub u64);

/// What [`HostMod::register_net_sysctl`], [`HostMod::kern_mount`] and their like answer: a number for what there is now.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct NumberReturn {
    pub status: Status,
    /// Never used again; 0 is none.
    pub number: u64,
}

/// An access to one entry of a sysctl table.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct CtlCall<'a> {
    /// 0 read, 1 write.
    pub what: u8,
    /// Position of the entry in its table.
    pub entry: u32,
    /// Numbers: which element. Own: the position in the file. Strings: 0.
    pub index: u64,
    /// A write to a number: its value, an int as the bits of an `i64`. Own reads: how many bytes at most.
    pub number: u64,
    /// A write to a string: the whole new text. An own write: what is written.
    pub bytes: RSlice<'a, u8>,
}

/// What [`PluginMod::ctl`] answers.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct CtlReturn {
    pub status: Status,
    /// A number that was read. An own write: how many bytes it took.
    pub number: u64,
    /// A string, or what an own read gives.
    pub bytes: RVec<u8>,
}

/// What a file is, as `stat` shows it.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileAttr {
    /// Its number in its file system; 1 is the root.
    pub ino: u64,
    /// `S_IF*` and permission bits.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// In bytes. Files whose content is made when they are read may say 0: it is read to its end all the same.
    pub size: u64,
    /// When its content changed: seconds since 1970.
    pub mtime: i64,
}

/// A name in a folder.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct DirEntry {
    pub ino: u64,
    /// `S_IF*` bits.
    pub mode: u32,
    pub name: RString,
}

/// A file operation of a mounted file system; see [`crate::FileSystem`] for their meaning.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct FileCall<'a> {
    /// 0 lookup (`text`: the name), 1 getattr, 2 readdir, 3 open (`number`: `O_*` flags), 4 read (`number`: how many
    /// bytes), 5 write (`bytes`), 6 truncate (`number`: the new size), 7 readlink, 8 release.
    pub op: u8,
    pub ino: u64,
    /// Position in the file.
    pub offset: u64,
    pub number: u64,
    /// What `open` answered for this open file.
    pub handle: u64,
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub text: RStr<'a>,
    pub bytes: RSlice<'a, u8>,
}

/// What [`PluginMod::file`] answers.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FileReturn {
    pub status: Status,
    /// Of lookup, getattr and truncate.
    pub attr: FileAttr,
    /// Of open: the plugin's number for the open file. Of write: how many bytes.
    pub number: u64,
    /// Of read and readlink.
    pub bytes: RVec<u8>,
    /// Of readdir, without `.` and `..`.
    pub entries: RVec<DirEntry>,
}

/// A mount that is asked of a file system type.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct MountCall<'a> {
    /// The namespace that it shows; 0 for none in particular.
    pub cookie: u64,
    /// 1 for a mount of the plugin's or host's own (`kern_mount`), in no mount table.
    pub internal: u8,
    /// As given to mount(8).
    pub source: RStr<'a>,
    /// Options separated by commas.
    pub options: RStr<'a>,
}

/// What [`HostMod::sock_create`] and [`HostMod::sock_connect`] answer.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct SockReturn {
    pub status: Status,
    /// Its inode in sockfs, never used again; 0 is none. To be given to [`HostMod::sock_release`] once.
    pub ino: u64,
    /// The descriptor, the host's: the plugin uses it and does not close it; -1 for none. What the host has shut stays
    /// open until it is released or the instance has ended, as a socket whose other end is closed, so that its number is
    /// nobody else's.
    pub fd: i32,
}

/// A connection to a protocol family that a plugin offers.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct ConnectCall {
    /// `SOCK_STREAM`, `SOCK_DGRAM` or `SOCK_SEQPACKET`.
    pub kind: i32,
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    /// The plugin's end; the host's descriptor as in [`SockReturn`].
    pub fd: i32,
    /// Its inode, to be released as if it came from [`HostMod::sock_create`]; where the call fails, the host does so.
    pub ino: u64,
}

/// How often one hook of one plugin was called, how often it failed, and how long it took, since the daemon's start.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct HookFigures {
    pub plugin: RString,
    /// As the operator sees it: `pernet.init`, …
    pub hook: RString,
    pub errors: u64,
    /// All calls together.
    pub nanoseconds: u64,
    /// Calls by duration: one number for each of [`FiguresReturn::bounds`], not cumulative, and one for what took longer.
    pub calls: RVec<u64>,
}

/// A number of the daemon's.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct Figure {
    /// What is counted, see [`crate::Figure`]; more may come.
    pub what: RString,
    /// The part of it that this number is about, such as a state; empty for all of it.
    pub of: RString,
    pub value: u64,
}

/// What [`HostMod::figures`] answers.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct FiguresReturn {
    pub status: Status,
    /// The daemon's own version.
    pub version: RString,
    /// Upper bounds of the durations, inclusive, in nanoseconds, ascending.
    pub bounds: RVec<u64>,
    pub hooks: RVec<HookFigures>,
    pub figures: RVec<Figure>,
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
    /// A device's operation. All but get_stats and destructor run inside the namespace, under its lock.
    pub ndo:
        extern "C" fn(instance: InstanceHandle, ops: OpsHandle, net: &NetInfo<'_>, call: &NdoCall<'_>) -> NdoReturn,
    /// Drops a device's ops: `free_netdev`. No other call for them follows.
    pub netdev_free: extern "C" fn(instance: InstanceHandle, ops: OpsHandle) -> Status,
    /// A device's counters beyond [`NetdevStats`]. From anywhere, at any time, as get_stats.
    pub get_ethtool_stats: extern "C" fn(instance: InstanceHandle, ops: OpsHandle) -> EthtoolStatsReturn,
    /// Reads or writes one entry of a sysctl table. In no namespace and under no lock: many at once, from any thread.
    pub ctl: extern "C" fn(instance: InstanceHandle, table: CtlHandle, call: &CtlCall<'_>) -> CtlReturn,
    /// Drops what stands behind a table. No other call for it follows.
    pub ctl_free: extern "C" fn(instance: InstanceHandle, table: CtlHandle) -> Status,
    /// Makes a superblock of file system type `fs`; its number is the plugin's.
    pub fs_mount: extern "C" fn(instance: InstanceHandle, fs: u32, call: &MountCall<'_>) -> NumberReturn,
    /// Ends a superblock. No other call for it follows.
    pub fs_kill_sb: extern "C" fn(instance: InstanceHandle, fs: u32, sb: u64) -> Status,
    /// A file operation. In no namespace and under no lock: many at once, from any thread.
    pub file: extern "C" fn(instance: InstanceHandle, fs: u32, sb: u64, call: &FileCall<'_>) -> FileReturn,
    /// A connection to protocol family `family`, in a namespace: runs inside it, under its lock, as a hook does.
    pub sock_connected:
        extern "C" fn(instance: InstanceHandle, family: u32, net: &NetInfo<'_>, call: &ConnectCall) -> Status,
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
    /// The same with two namespaces, both locked, in cookie order; it runs inside the first that is named.
    pub run_in_two: extern "C" fn(token: u64, first: u64, second: u64, work: u64) -> Status,
    /// Checks what can be checked without a namespace, and takes the ops. On failure they stay the plugin's.
    pub alloc_netdev: extern "C" fn(token: u64, spec: &NetdevSpec<'_>) -> NetdevReturn,
    /// `register_netdevice`: EPERM unless this thread's hook holds the lock of the namespace, and of the peer's where
    /// there is a peer (`peer_cookie`, else 0).
    pub register_netdevice: extern "C" fn(token: u64, cookie: u64, dev: NetdevHandle, peer_cookie: u64) -> Status,
    /// `unregister_netdevice_many`, under the lock of each device's namespace. The rest happens after the unlock.
    pub unregister_netdevices: extern "C" fn(token: u64, devs: RSlice<'_, NetdevHandle>) -> Status,
    /// `free_netdev`: of one that is not registered. While its unregistration is not done, it is freed by that.
    pub free_netdev: extern "C" fn(token: u64, dev: NetdevHandle) -> Status,
    /// Changes a registered device, under the lock of its namespace (a move: of both).
    pub netdev_change: extern "C" fn(token: u64, dev: NetdevHandle, change: &NetdevChange<'_>) -> Status,
    pub netdev_state: extern "C" fn(token: u64, dev: NetdevHandle) -> NetdevState,
    /// `dev_hold`, with the purpose as the operator shall read it. Any device of a namespace, by index and serial.
    pub netdev_hold: extern "C" fn(token: u64, cookie: u64, ifindex: u32, serial: u64, purpose: RStr<'_>) -> HoldReturn,
    /// `dev_put`.
    pub netdev_put: extern "C" fn(token: u64, reference: u64) -> Status,
    /// `register_netdevice_notifier_net`: a notifier of one namespace's own chain, told before the others. In a hook of
    /// that namespace its lock is held already (K3.7); else it is taken: EDEADLK from a hook that may not wait for it, and
    /// from within that namespace's chain (K3.8).
    /// `number` is the plugin's, and comes back in [`PluginMod::netdev_event`]: at least 2^31, which `init`'s never reach.
    pub register_notifier: extern "C" fn(token: u64, cookie: u64, priority: i32, number: u32) -> Status,
    pub unregister_notifier: extern "C" fn(token: u64, cookie: u64, number: u32) -> Status,
    /// All names of a managed namespace as they are now; the first is that of [`NetInfo`].
    pub net_names: extern "C" fn(token: u64, cookie: u64) -> NamesReturn,
    /// `register_net_sysctl`: all of the table or nothing of it. It ends with its namespace or its plugin at the latest,
    /// and then [`PluginMod::ctl_free`] is called for it. On failure what stands behind it stays the plugin's.
    pub register_net_sysctl: extern "C" fn(
        token: u64,
        cookie: u64,
        path: RStr<'_>,
        entries: RSlice<'_, CtlEntry<'_>>,
        table: CtlHandle,
    ) -> NumberReturn,
    /// Waits for calls in flight, then frees the table. EDEADLK from one of its own calls.
    pub unregister_net_sysctl: extern "C" fn(token: u64, cookie: u64, number: u64) -> Status,
    /// `kern_mount`: a mount in no mount table, of any registered type.
    pub kern_mount: extern "C" fn(token: u64, fs: RStr<'_>, cookie: u64, options: RStr<'_>) -> NumberReturn,
    pub kern_unmount: extern "C" fn(token: u64, mount: u64) -> Status,
    /// `sock_create`: a socket made inside a managed namespace, from wherever. The host shuts what is left when the
    /// namespace or the plugin goes, before it lets go of the namespace.
    pub sock_create: extern "C" fn(token: u64, cookie: u64, family: i32, kind: i32, protocol: i32) -> SockReturn,
    /// `sock_release`.
    pub sock_release: extern "C" fn(token: u64, ino: u64) -> Status,
    /// Connects to a protocol family that some plugin offers by this name, in a namespace.
    pub sock_connect: extern "C" fn(token: u64, cookie: u64, family: RStr<'_>, kind: i32) -> SockReturn,
    /// The daemon's own figures: hook calls by plugin and hook, namespaces and plugins by state, and so on.
    pub figures: extern "C" fn(token: u64) -> FiguresReturn,
}
