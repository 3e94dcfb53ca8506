//! A stand-in for the daemon with devices and sysctl tables: it keeps what a plugin allocates and registers, and does what
//! it is asked for, in memory. Tests drive the plugin through its table, as the daemon does.
#![allow(dead_code, reason = "each test binary uses its part")]

use super::stub_host;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{RSlice, RStr, RString, RVec};
use pernet_plugin_api::abi::{
    AreaHandle, CtlEntry, CtlHandle, HoldReturn, HostMod, HostModRef, InstanceHandle, LogRecord, NamesReturn, NdoCall,
    NetInfo, NetdevChange, NetdevHandle, NetdevReturn, NetdevSpec, NetdevState, NetdevStats, NumberReturn, OpsHandle,
    PluginModRef, Status,
};
use pernet_plugin_api::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

pub(crate) const INIT: u8 = 0;
pub(crate) const UNINIT: u8 = 1;
pub(crate) const OPEN: u8 = 2;
pub(crate) const STOP: u8 = 3;
pub(crate) const CHANGE_MTU: u8 = 4;
pub(crate) const SET_MAC_ADDRESS: u8 = 5;
pub(crate) const GET_STATS: u8 = 6;
pub(crate) const DESTRUCTOR: u8 = 7;

/// A plugin of nothing but its way to the host.
pub(crate) struct Bed;

impl Plugin for Bed {
    type Config = NoConfig;

    fn init(_: &mut Registrar, host: Host, _: NoConfig) -> Result<Self> {
        *lock(&HANDLE) = Some(host);
        Ok(Bed)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static HANDLE: Mutex<Option<Host>> = Mutex::new(None);
static TRACE: Mutex<Vec<String>> = Mutex::new(Vec::new());
static RUNNING: Mutex<Option<(PluginModRef, InstanceHandle)>> = Mutex::new(None);
static DEFERRED: Mutex<Vec<u64>> = Mutex::new(Vec::new());
static TABLES: Mutex<BTreeMap<u64, CtlHandle>> = Mutex::new(BTreeMap::new());
static DEVICES: Mutex<BTreeMap<u64, Device>> = Mutex::new(BTreeMap::new());

/// A device as the host keeps it.
struct Device {
    ops: OpsHandle,
    name: String,
    /// Where it is registered.
    cookie: u64,
}

/// What was traced if nothing was.
pub(crate) const NOTHING: [&str; 0] = [];

/// The work that was deferred since it was asked for last.
pub(crate) fn deferred() -> Vec<u64> {
    std::mem::take(&mut lock(&DEFERRED))
}

/// Leaves a trace.
pub(crate) fn note(what: impl Into<String>) {
    lock(&TRACE).push(what.into());
}

/// What was traced since it was asked for last.
pub(crate) fn taken() -> Vec<String> {
    std::mem::take(&mut lock(&TRACE))
}

pub(crate) fn status(errno: i32, message: &str) -> Status {
    Status { errno, panicked: 0, message: RString::from(message) }
}

/// Waits for a condition, a bounded time.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not in 20 s: {what}");
        std::thread::yield_now();
    }
}

/// The threads of this process whose name begins so.
pub(crate) fn threads(prefix: &str) -> usize {
    let names = std::fs::read_dir("/proc/self/task").expect("/proc").filter_map(|task| {
        // A thread may end while it is looked at.
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    });
    names.filter(|name| name.starts_with(prefix)).count()
}

// ---- the table ----

extern "C" fn log_level() -> u8 {
    5
}

extern "C" fn log(token: u64, record: &LogRecord<'_>) {
    eprintln!("{token}: {} {}", record.message, record.fields);
}

/// What is deferred waits for the test.
extern "C" fn defer(_: u64, cookies: RSlice<'_, u64>, work: u64) -> Status {
    note(format!("defer {work} in {cookies:?}"));
    lock(&DEFERRED).push(work);
    status(0, "")
}

/// Cookie 405 goes away while the work waits.
extern "C" fn run_in(_: u64, cookie: u64, work: u64) -> Status {
    let (module, instance) = lock(&RUNNING).expect("an instance");
    if cookie == 405 {
        return module.drop_work()(instance, work);
    }
    module.run_work()(instance, work, RSlice::from_slice(&[net(cookie)]))
}

extern "C" fn run_in_two(_: u64, first: u64, second: u64, work: u64) -> Status {
    let (module, instance) = lock(&RUNNING).expect("an instance");
    if second == 405 {
        return module.drop_work()(instance, work);
    }
    note(format!("run_in_two {first} {second}"));
    module.run_work()(instance, work, RSlice::from_slice(&[net(first.min(second)), net(first.max(second))]))
}

extern "C" fn alloc_netdev(_: u64, spec: &NetdevSpec<'_>) -> NetdevReturn {
    if spec.name.as_str() == "refused" {
        return NetdevReturn { status: status(libc::EINVAL, "told to refuse"), dev: NetdevHandle(0) };
    }
    let mut devices = lock(&DEVICES);
    let number = devices.keys().last().map_or(1, |last| last + 1);
    devices.insert(number, Device { ops: spec.ops, name: spec.name.to_string(), cookie: 0 });
    NetdevReturn { status: status(0, ""), dev: NetdevHandle(number) }
}

extern "C" fn register_netdevice(_: u64, cookie: u64, dev: NetdevHandle, peer_cookie: u64) -> Status {
    note(format!("register {} in {cookie}, peer in {peer_cookie}", dev.0));
    lock(&DEVICES).get_mut(&dev.0).expect("a device").cookie = cookie;
    status(0, "")
}

/// Only under the lock of the namespace where it is, which is what a test says with its cookie.
extern "C" fn unregister_netdevices(_: u64, devs: RSlice<'_, NetdevHandle>) -> Status {
    for dev in devs.iter() {
        note(format!("unregister {}", dev.0));
        lock(&DEVICES).get_mut(&dev.0).expect("a device").cookie = 0;
    }
    status(0, "")
}

extern "C" fn free_netdev(_: u64, dev: NetdevHandle) -> Status {
    let mut devices = lock(&DEVICES);
    match devices.get(&dev.0) {
        None => return status(libc::ENOENT, "it is freed"),
        Some(device) if device.cookie != 0 => return status(libc::EBUSY, "it is registered"),
        Some(_) => {}
    }
    let device = devices.remove(&dev.0).expect("seen");
    drop(devices);
    let (module, instance) = lock(&RUNNING).expect("an instance");
    (module.netdev_free().expect("there"))(instance, device.ops)
}

extern "C" fn netdev_change(_: u64, dev: NetdevHandle, change: &NetdevChange<'_>) -> Status {
    note(format!("change {} {} {} {:?} {:?}", dev.0, change.what, change.number, &*change.text, change.bytes));
    status(0, "")
}

extern "C" fn netdev_state(_: u64, dev: NetdevHandle) -> NetdevState {
    let devices = lock(&DEVICES);
    let found = devices.get(&dev.0);
    NetdevState {
        status: if found.is_some() { status(0, "") } else { status(libc::ENOENT, "it is freed") },
        reg_state: u8::from(found.is_some_and(|d| d.cookie != 0)),
        cookie: found.map_or(0, |d| d.cookie),
        ifindex: 7,
        serial: 70,
        mtu: 1500,
        flags: 1,
        master: 3,
        name: found.map_or("", |d| &d.name).into(),
        address: vec![2, 0, 0, 0, 0, 1].into(),
    }
}

extern "C" fn netdev_hold(_: u64, cookie: u64, ifindex: u32, serial: u64, purpose: RStr<'_>) -> HoldReturn {
    note(format!("hold {cookie} {ifindex} {serial} for {purpose}"));
    HoldReturn { status: status(0, ""), reference: 99 }
}

extern "C" fn netdev_put(_: u64, reference: u64) -> Status {
    note(format!("put {reference}"));
    status(0, "")
}

extern "C" fn register_notifier(_: u64, cookie: u64, priority: i32, number: u32) -> Status {
    if cookie == 404 {
        return status(libc::ENOENT, "no such namespace");
    }
    note(format!("notifier {number} in {cookie} at {priority}"));
    status(0, "")
}

/// Cookie 405 is gone since; the lock of 406 is not to be had.
extern "C" fn unregister_notifier(_: u64, cookie: u64, _: u32) -> Status {
    match cookie {
        405 => status(libc::ENOENT, "gone"),
        406 => status(libc::EDEADLK, "held"),
        _ => status(0, ""),
    }
}

extern "C" fn net_names(_: u64, _: u64) -> NamesReturn {
    NamesReturn { status: status(libc::ENOENT, "no namespace has further names here"), names: RVec::new() }
}

/// Its trace says what it is given. Cookie 404 is not managed.
extern "C" fn register_net_sysctl(
    _: u64,
    cookie: u64,
    path: RStr<'_>,
    entries: RSlice<'_, CtlEntry<'_>>,
    table: CtlHandle,
) -> NumberReturn {
    if cookie == 404 {
        return NumberReturn { status: status(libc::ENOENT, "no such namespace"), number: 0 };
    }
    for CtlEntry { name, mode, kind, bounds, len, min, max } in entries.iter() {
        note(format!("{path}/{name} {mode:o} {kind} {bounds} {len} {min} {max}"));
    }
    let mut tables = lock(&TABLES);
    let number = tables.keys().last().map_or(1, |last| last + 1);
    tables.insert(number, table);
    NumberReturn { status: status(0, ""), number }
}

/// Cookie 406 is in one of the table's own handlers.
extern "C" fn unregister_net_sysctl(_: u64, cookie: u64, number: u64) -> Status {
    if cookie == 406 {
        return status(libc::EDEADLK, "in a handler");
    }
    let Some(table) = lock(&TABLES).remove(&number) else { return status(libc::ENOENT, "gone") };
    let (module, instance) = lock(&RUNNING).expect("an instance");
    (module.ctl_free().expect("there"))(instance, table)
}

pub(crate) fn host() -> HostModRef {
    HostMod {
        log_level,
        log,
        defer,
        run_in,
        run_in_two,
        alloc_netdev,
        register_netdevice,
        unregister_netdevices,
        free_netdev,
        netdev_change,
        netdev_state,
        netdev_hold,
        netdev_put,
        register_notifier,
        unregister_notifier,
        net_names,
        register_net_sysctl,
        unregister_net_sysctl,
        kern_mount: stub_host::kern_mount,
        kern_unmount: stub_host::kern_unmount,
        sock_create: stub_host::sock_create,
        sock_release: stub_host::sock_release,
        sock_connect: stub_host::sock_connect,
        figures: stub_host::figures,
    }
    .leak_into_prefix()
}

pub(crate) fn net(cookie: u64) -> NetInfo<'static> {
    NetInfo { cookie, generation: 1, name: "blue".into(), areas: RSlice::EMPTY }
}

// ---- an instance ----

/// An instance as the daemon has it, alone in the process for as long as this lives.
pub(crate) struct Running {
    pub(crate) module: PluginModRef,
    pub(crate) instance: InstanceHandle,
    _turn: MutexGuard<'static, ()>,
}

/// An instance of the plugin that is nothing but its way to the host.
pub(crate) struct Loaded {
    running: Running,
    pub(crate) host: Host,
}

impl Deref for Loaded {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

pub(crate) fn loaded() -> Loaded {
    let running = running::<Bed>("");
    let host = lock(&HANDLE).take().expect("left by init");
    Loaded { running, host }
}

/// An instance of any plugin, with this configuration in JSON.
pub(crate) fn running<P: Plugin>(config: &str) -> Running {
    let turn = lock(&ONE_AT_A_TIME);
    lock(&DEVICES).clear();
    lock(&TABLES).clear();
    taken();
    deferred();
    let module = pernet_plugin_api::__private::module::<P>();
    let made = module.create()(host(), 7, config.into());
    assert_eq!(made.status.errno, 0, "{:?}", made.status);
    *lock(&RUNNING) = Some((module, made.instance));
    Running { module, instance: made.instance, _turn: turn }
}

impl Running {
    /// Runs the first pernet registration's init in a namespace.
    pub(crate) fn init(&self, cookie: u64, name: &'static str) -> AreaHandle {
        let made = self.module.pernet_init()(self.instance, 0, &NetInfo { name: name.into(), ..net(cookie) });
        assert_eq!(made.status.errno, 0, "{:?}", made.status);
        made.area
    }

    /// Drops a private area.
    pub(crate) fn free(&self, area: AreaHandle) {
        assert_eq!(self.module.pernet_free()(self.instance, 0, area).errno, 0);
    }

    /// Its end; the test keeps its turn until this is dropped.
    pub(crate) fn destroy(&self) -> Status {
        let status = self.module.destroy()(self.instance);
        *lock(&RUNNING) = None;
        status
    }

    /// The table that was registered last.
    pub(crate) fn last_table(&self) -> CtlHandle {
        *lock(&TABLES).values().last().expect("a table")
    }

    /// How many tables are registered.
    pub(crate) fn tables(&self) -> usize {
        lock(&TABLES).len()
    }

    /// As if the host had unregistered all tables.
    pub(crate) fn tables_are_gone(&self) {
        lock(&TABLES).clear();
    }

    /// The ops of the device that was allocated last.
    pub(crate) fn last_ops(&self) -> OpsHandle {
        lock(&DEVICES).values().last().expect("a device").ops
    }

    pub(crate) fn ndo(&self, ops: OpsHandle, op: u8) -> (Status, NetdevStats) {
        self.call(ops, op, Vec::new(), false, 1500)
    }

    /// Opens a device with queues of the test's.
    pub(crate) fn open(&self, ops: OpsHandle, queues: Vec<OwnedFd>, vnet: bool) -> Status {
        self.call(ops, OPEN, queues, vnet, 1500).0
    }

    pub(crate) fn call(
        &self,
        ops: OpsHandle,
        op: u8,
        queues: Vec<OwnedFd>,
        vnet: bool,
        mtu: u32,
    ) -> (Status, NetdevStats) {
        let queues: Vec<i32> = queues.into_iter().map(IntoRawFd::into_raw_fd).collect();
        let call = NdoCall {
            op,
            ifindex: 7,
            serial: 70,
            mtu,
            flags: 0,
            name: "tap0".into(),
            address: RSlice::from_slice(&[2, 0, 0, 0, 0, 9]),
            queues: queues.as_slice().into(),
            vnet_header: u8::from(vnet),
        };
        let answer = (self.module.ndo().expect("there"))(self.instance, ops, &net(3), &call);
        (answer.status, answer.stats)
    }

    /// Runs deferred work in the namespace of the devices' operations.
    pub(crate) fn run_work(&self, work: u64) -> Status {
        self.module.run_work()(self.instance, work, RSlice::from_slice(&[net(3)]))
    }

    /// As if the host had unregistered all devices.
    pub(crate) fn unregistered_by_host(&self) {
        lock(&DEVICES).values_mut().for_each(|device| device.cookie = 0);
    }

    pub(crate) fn stats(&self, ops: OpsHandle) -> NetdevStats {
        let (status, stats) = self.ndo(ops, GET_STATS);
        assert_eq!(status.errno, 0, "{status:?}");
        stats
    }
}

/// A queue's descriptor, and the kernel's end of it.
pub(crate) fn queue() -> (OwnedFd, UnixDatagram) {
    let (ours, kernels) = UnixDatagram::pair().expect("a pair");
    kernels.set_nonblocking(true).expect("nonblocking");
    (OwnedFd::from(ours), kernels)
}

/// The same with room for more frames than a batch has: no datagrams, whose number on the way is bounded.
pub(crate) fn long_queue() -> (OwnedFd, UnixDatagram) {
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, kernels) = pair.expect("a pair");
    let kernels = UnixDatagram::from(kernels);
    kernels.set_nonblocking(true).expect("nonblocking");
    (ours, kernels)
}

/// A TCP super-frame as the kernel gives it to a device with offloads, virtio header first.
pub(crate) fn super_frame(payload: usize) -> Vec<u8> {
    let mut bytes = vec![1, 1, 0, 0];
    bytes.extend([1400u16, 34, 16, 0].iter().flat_map(|n| n.to_ne_bytes()));
    bytes.extend([2; 12]);
    bytes.extend([0x08, 0x00, 0x45, 0]);
    bytes.extend(u16::try_from(40 + payload).expect("short").to_be_bytes());
    bytes.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.extend([0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    bytes.resize(12 + 54 + payload, 7);
    bytes
}

/// An Ethernet frame of this many bytes, marked with a number.
pub(crate) fn frame(len: usize, mark: u8) -> Vec<u8> {
    let mut bytes = vec![mark; len];
    if len >= 14 {
        bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    }
    bytes
}

/// The next frame that comes out of the kernel's end.
pub(crate) fn receive(kernels: &UnixDatagram) -> Vec<u8> {
    let mut bytes = vec![0; 70_000];
    let mut len = None;
    until("a frame", || {
        len = kernels.recv(&mut bytes).ok();
        len.is_some()
    });
    bytes.truncate(len.expect("it came"));
    bytes
}
