//! The host's table: what a plugin may call, from any thread, under a token that names its instance.
//!
//! Tokens are numbers, never pointers: one that is no more gets `ESTALE`. A call that would wait for what its own
//! thread's hook holds gets `EDEADLK` at once. What is asked for is done by the daemon, through [`HostServices`].
//!
//! Not here: locks, queues and workers (engine, daemon).

use super::inner::{Inner, InstanceRef};
use super::running::{Held, current_hook, held_by_this_thread};
use super::status::status_of;
use crate::engine::Failure;
use abi_stable::prefix_type::WithMetadata;
use abi_stable::std_types::{RSlice, RStr};
use pernet_plugin_api::NetCookie;
use pernet_plugin_api::abi::{
    HoldReturn, HostMod, HostModRef, LogRecord, NetdevChange, NetdevHandle, NetdevReturn, NetdevSpec, NetdevState,
    Status,
};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

/// A line of a plugin's log, with where it came from.
#[derive(Clone, Debug)]
pub struct LogLine<'a> {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// Which instance of it.
    pub generation: u64,
    /// The namespace of the hook that wrote it; none for a line from outside every hook.
    pub netns: Option<Arc<str>>,
    /// That hook.
    pub hook: Option<&'static str>,
    /// 1 error … 5 trace.
    pub level: u8,
    /// The module that wrote it.
    pub target: &'a str,
    /// The text.
    pub message: &'a str,
    /// The other fields, as a JSON object; empty for none.
    pub fields: &'a str,
}

/// A call of a hook that has ended.
#[derive(Clone, Debug)]
pub struct HookRecord<'a> {
    /// The plugin's name.
    pub plugin: &'a Arc<str>,
    /// `pernet.init`, `netdev.register`, …
    pub hook: &'static str,
    /// The namespace's name; empty for what concerns none or several.
    pub netns: &'a Arc<str>,
    /// The device's name, for device events.
    pub device: Option<&'a str>,
    /// How it ended.
    pub result: Result<(), &'a Failure>,
    /// How long it took.
    pub duration: Duration,
}

/// What the daemon does for plugins. Called on whatever thread the plugin is on; must not wait for that plugin's end.
pub trait HostServices: Send + Sync {
    /// Takes a line of a plugin's log.
    fn log(&self, line: LogLine<'_>);
    /// The most verbose level that is wanted: 0 none, 1 error … 5 trace. Asked for when an instance is made; a later
    /// change is told by [`set_log_level`].
    fn log_level(&self) -> u8;
    /// A hook's call has ended.
    fn hook_called(&self, record: HookRecord<'_>);
    /// Queues work for after the unlock in one namespace, or two; later either [`InstanceRef::run_work`] or
    /// [`InstanceRef::drop_work`] is called for it, once. An error means that it was not queued.
    fn defer(&self, instance: &InstanceRef, cookies: &[u64], work: u64) -> Result<(), Failure>;
    /// Runs work inside a namespace and waits for it. The caller is in no hook, or only in hooks of namespaces before
    /// this one in lock order.
    fn run_in(&self, instance: &InstanceRef, cookie: u64, work: u64) -> Result<(), Failure>;
    /// INTERIM
    fn run_in_two(&self, instance: &InstanceRef, first: u64, second: u64, work: u64) -> Result<(), Failure>;
    /// INTERIM
    fn alloc_netdev(
        &self,
        instance: &InstanceRef,
        spec: crate::engine::LinkSpec,
        peer: u64,
        ops: Arc<dyn crate::engine::NetDeviceOps>,
    ) -> Result<u64, Failure>;
    /// INTERIM
    fn register_netdevice(&self, instance: &InstanceRef, cookie: u64, dev: u64, peer: u64) -> Result<(), Failure>;
    /// INTERIM
    fn unregister_netdevices(&self, instance: &InstanceRef, devs: &[u64]) -> Result<(), Failure>;
    /// INTERIM
    fn free_netdev(&self, instance: &InstanceRef, dev: u64) -> Result<(), Failure>;
    /// INTERIM
    fn netdev_change(&self, instance: &InstanceRef, dev: u64, change: ChangeNetdev<'_>) -> Result<(), Failure>;
    /// INTERIM
    fn netdev_state(&self, instance: &InstanceRef, dev: u64) -> Result<NetdevSnapshot, Failure>;
    /// INTERIM
    fn netdev_hold(
        &self,
        instance: &InstanceRef,
        cookie: u64,
        ifindex: u32,
        serial: u64,
        purpose: &str,
    ) -> Result<u64, Failure>;
    /// INTERIM
    fn netdev_put(&self, instance: &InstanceRef, reference: u64) -> Result<(), Failure>;
    /// INTERIM
    fn register_notifier(
        &self,
        instance: &InstanceRef,
        cookie: u64,
        priority: i32,
        block: Arc<dyn crate::engine::NotifierBlock>,
        number: u32,
    ) -> Result<(), Failure>;
    /// INTERIM
    fn unregister_notifier(&self, instance: &InstanceRef, cookie: u64, number: u32) -> Result<(), Failure>;
    /// An instance panicked, for the first time. Only its exits will be called from now on.
    fn poisoned(&self, plugin: &str, generation: u64, failure: &Failure);
}

/// INTERIM
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum ChangeNetdev<'a> {
    Open,
    Close,
    Name(&'a str),
    Mtu(u32),
    Address(&'a [u8]),
    Master(u32),
    AddAltName(&'a str),
    DelAltName(&'a str),
    MoveTo(u64),
}
/// INTERIM
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct NetdevSnapshot {
    pub reg_state: pernet_plugin_api::RegState,
    pub cookie: u64,
    pub ifindex: u32,
    pub serial: u64,
    pub mtu: u32,
    pub flags: u32,
    pub master: u32,
    pub name: String,
    pub address: Vec<u8>,
}

static LOG_LEVEL: AtomicU8 = AtomicU8::new(0);
static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);
static INSTANCES: LazyLock<RwLock<HashMap<u64, Weak<Inner>>>> = LazyLock::new(RwLock::default);

/// Tells all plugins how verbose to be.
pub fn set_log_level(level: u8) {
    LOG_LEVEL.store(level, Ordering::Relaxed);
}

fn instances() -> RwLockReadGuard<'static, HashMap<u64, Weak<Inner>>> {
    INSTANCES.read().unwrap_or_else(PoisonError::into_inner)
}

fn instances_mut() -> RwLockWriteGuard<'static, HashMap<u64, Weak<Inner>>> {
    INSTANCES.write().unwrap_or_else(PoisonError::into_inner)
}

/// A token that no instance ever had.
pub(super) fn new_token() -> u64 {
    NEXT_TOKEN.fetch_add(1, Ordering::Relaxed)
}

pub(super) fn know(token: u64, instance: &Arc<Inner>) {
    instances_mut().insert(token, Arc::downgrade(instance));
}

pub(super) fn forget(token: u64) {
    instances_mut().remove(&token);
}

fn find(token: u64) -> Option<Arc<Inner>> {
    instances().get(&token).and_then(Weak::upgrade)
}

/// The instance behind a token, while it may still ask for things.
fn find_open(token: u64) -> Result<Arc<Inner>, Failure> {
    let instance = find(token).filter(|i| !i.is_closed());
    instance.ok_or_else(|| Failure::new(libc::ESTALE, "this plugin instance is gone"))
}

/// The table that every instance is given.
pub(super) fn host_mod() -> HostModRef {
    const TABLE: &WithMetadata<HostMod> = &WithMetadata::new(HostMod {
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
    });
    HostModRef(TABLE.static_as_prefix())
}

extern "C" fn log_level() -> u8 {
    LOG_LEVEL.load(Ordering::Relaxed)
}

extern "C" fn log(token: u64, record: &LogRecord<'_>) {
    // A panic must not unwind into the plugin, and a line of a log is not worth more than itself.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let Some(instance) = find(token) else { return };
        let hook = current_hook().filter(|hook| hook.token == token);
        instance.services.log(LogLine {
            plugin: Arc::clone(&instance.name),
            generation: instance.generation,
            netns: hook.as_ref().map(|h| Arc::clone(&h.netns)).filter(|n| !n.is_empty()),
            hook: hook.map(|h| h.hook),
            level: record.level,
            target: record.target.as_str(),
            message: record.message.as_str(),
            fields: record.fields.as_str(),
        });
    }));
}

extern "C" fn defer(token: u64, cookies: RSlice<'_, u64>, work: u64) -> Status {
    guarded(|| {
        let instance = find_open(token)?;
        let cookies = cookies.as_slice();
        match cookies {
            [_] => {}
            [a, b] if a != b => {}
            _ => return Err(Failure::new(libc::EINVAL, "defer takes one namespace, or two different ones")),
        }
        if instance.keep_for_later(cookies, work) {
            return Ok(());
        }
        instance.services.defer(&InstanceRef::of(&instance), cookies, work)
    })
}

extern "C" fn run_in(token: u64, cookie: u64, work: u64) -> Status {
    guarded(|| {
        let instance = find_open(token)?;
        let deadlock =
            |why| Err(Failure::new(libc::EDEADLK, format!("run_in would wait for itself: {why}; use defer")));
        match held_by_this_thread() {
            Held::Everything => return deadlock("this hook runs while the list of plugins is locked"),
            Held::UpTo(held) if held == NetCookie(cookie) => return deadlock("this hook is in that namespace"),
            Held::UpTo(held) if held > NetCookie(cookie) => {
                return deadlock("this hook is in a namespace that comes after that one in lock order");
            }
            Held::UpTo(_) | Held::Nothing => {}
        }
        if instance.is_coming() {
            return Err(Failure::new(libc::EAGAIN, "the plugin's init has not returned yet; use defer"));
        }
        instance.services.run_in(&InstanceRef::of(&instance), cookie, work)
    })
}

fn not_yet() -> Result<(), Failure> {
    Err(Failure::new(libc::ENOSYS, "devices are not there yet"))
}

extern "C" fn run_in_two(_token: u64, _first: u64, _second: u64, _work: u64) -> Status {
    guarded(not_yet)
}

extern "C" fn alloc_netdev(_token: u64, _spec: &NetdevSpec<'_>) -> NetdevReturn {
    NetdevReturn { status: guarded(not_yet), dev: NetdevHandle(0) }
}

extern "C" fn register_netdevice(_token: u64, _cookie: u64, _dev: NetdevHandle, _peer_cookie: u64) -> Status {
    guarded(not_yet)
}

extern "C" fn unregister_netdevices(_token: u64, _devs: RSlice<'_, NetdevHandle>) -> Status {
    guarded(not_yet)
}

extern "C" fn free_netdev(_token: u64, _dev: NetdevHandle) -> Status {
    guarded(not_yet)
}

extern "C" fn netdev_change(_token: u64, _dev: NetdevHandle, _change: &NetdevChange<'_>) -> Status {
    guarded(not_yet)
}

extern "C" fn netdev_state(_token: u64, _dev: NetdevHandle) -> NetdevState {
    let status = guarded(not_yet);
    NetdevState {
        status,
        reg_state: 0,
        cookie: 0,
        ifindex: 0,
        serial: 0,
        mtu: 0,
        flags: 0,
        master: 0,
        name: "".into(),
        address: Vec::new().into(),
    }
}

extern "C" fn netdev_hold(_token: u64, _cookie: u64, _ifindex: u32, _serial: u64, _purpose: RStr<'_>) -> HoldReturn {
    HoldReturn { status: guarded(not_yet), reference: 0 }
}

extern "C" fn netdev_put(_token: u64, _reference: u64) -> Status {
    guarded(not_yet)
}

extern "C" fn register_notifier(_token: u64, _cookie: u64, _priority: i32, _number: u32) -> Status {
    guarded(not_yet)
}

extern "C" fn unregister_notifier(_token: u64, _cookie: u64, _number: u32) -> Status {
    guarded(not_yet)
}

/// The host's own panics stop here, as a plugin's stop inside the plugin.
fn guarded(call: impl FnOnce() -> Result<(), Failure>) -> Status {
    let result = catch_unwind(AssertUnwindSafe(call));
    status_of(result.unwrap_or_else(|_| Err(Failure::new(libc::EIO, "pernetd itself panicked in this call"))))
}
