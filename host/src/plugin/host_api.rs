//! The host's table: what a plugin may call, from any thread, under a token that names its instance.
//!
//! Tokens are numbers, never pointers: one that is no more gets `ESTALE`. A call that would wait for what its own
//! thread's hook holds gets `EDEADLK` at once. What is asked for is done by the daemon, through [`HostServices`].
//!
//! Not here: the entries about devices ([`super::host_devices`]); locks, queues and workers (engine, daemon).

use super::host_devices::{self, ChangeNetdev, NetdevSnapshot};
use super::inner::{Inner, InstanceRef};
use super::running::{Held, current_hook, held_by_this_thread};
use super::status::status_of;
use super::{host_filesystem, host_socket, host_sysctl};
use crate::engine::{CtlTable, Failure, LinkSpec, NetDeviceOps, NotifierBlock, SockSpec};
use abi_stable::prefix_type::WithMetadata;
use abi_stable::std_types::{RSlice, RString};
use pernet_plugin_api::NetCookie;
use pernet_plugin_api::abi::{HostMod, HostModRef, LogRecord, NamesReturn, Status};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::{Duration, Instant};

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
    /// The device that the hook is about.
    pub device: Option<Arc<str>>,
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
    /// The namespace; of two the later one in lock order.
    pub cookie: Option<NetCookie>,
    /// The device's name, for device events.
    pub device: Option<&'a str>,
    /// How it ended.
    pub result: Result<(), &'a Failure>,
    /// When it was called.
    pub since: Instant,
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
    /// The same in two namespaces, both locked, inside the first that is named. The caller is in no hook, or only in
    /// hooks of namespaces before both in lock order.
    fn run_in_two(&self, instance: &InstanceRef, first: u64, second: u64, work: u64) -> Result<(), Failure> {
        let _ = (instance, first, second, work);
        Err(no_devices())
    }
    /// Allocates a device, with the other end (0: none) that was allocated before, and gives its number.
    fn alloc_netdev(
        &self,
        instance: &InstanceRef,
        spec: LinkSpec,
        peer: u64,
        ops: Arc<dyn NetDeviceOps>,
    ) -> Result<u64, Failure> {
        let _ = (instance, spec, peer, ops);
        Err(no_devices())
    }
    /// Registers a device in a namespace whose lock this thread holds, and its other end in another one (0: none).
    fn register_netdevice(&self, instance: &InstanceRef, cookie: u64, dev: u64, peer: u64) -> Result<(), Failure> {
        let _ = (instance, cookie, dev, peer);
        Err(no_devices())
    }
    /// Unregisters devices in namespaces whose locks this thread holds.
    fn unregister_netdevices(&self, instance: &InstanceRef, devs: &[u64]) -> Result<(), Failure> {
        let _ = (instance, devs);
        Err(no_devices())
    }
    /// Frees a device, or has it freed when its unregistration is done.
    fn free_netdev(&self, instance: &InstanceRef, dev: u64) -> Result<(), Failure> {
        let _ = (instance, dev);
        Err(no_devices())
    }
    /// Changes a registered device, under the lock of its namespace.
    fn netdev_change(&self, instance: &InstanceRef, dev: u64, change: ChangeNetdev<'_>) -> Result<(), Failure> {
        let _ = (instance, dev, change);
        Err(no_devices())
    }
    /// A device as it is now.
    fn netdev_state(&self, instance: &InstanceRef, dev: u64) -> Result<NetdevSnapshot, Failure> {
        let _ = (instance, dev);
        Err(no_devices())
    }
    /// Takes a reference to any device, and gives its number. Waits for no lock of a namespace: it is called from hooks.
    fn netdev_hold(
        &self,
        instance: &InstanceRef,
        cookie: u64,
        ifindex: u32,
        serial: u64,
        purpose: &str,
    ) -> Result<u64, Failure> {
        let _ = (instance, cookie, ifindex, serial, purpose);
        Err(no_devices())
    }
    /// Gives a reference back.
    fn netdev_put(&self, instance: &InstanceRef, reference: u64) -> Result<(), Failure> {
        let _ = (instance, reference);
        Err(no_devices())
    }
    /// Registers a notifier in one namespace's chain, under its lock: the one that this thread's hook holds, or it is
    /// taken. `number` is the plugin's name for it.
    fn register_notifier(
        &self,
        instance: &InstanceRef,
        cookie: u64,
        priority: i32,
        block: Arc<dyn NotifierBlock>,
        number: u32,
    ) -> Result<(), Failure> {
        let _ = (instance, cookie, priority, block, number);
        Err(no_devices())
    }
    /// Unregisters it; `ENOENT` if it is not there (any more).
    fn unregister_notifier(&self, instance: &InstanceRef, cookie: u64, number: u32) -> Result<(), Failure> {
        let _ = (instance, cookie, number);
        Err(no_devices())
    }
    /// All names of a namespace.
    fn net_names(&self, instance: &InstanceRef, cookie: u64) -> Result<Vec<Arc<str>>, Failure> {
        let _ = (instance, cookie);
        Err(Failure::new(libc::ENOSYS, "this host has no names of namespaces"))
    }
    /// Registers a sysctl table in a namespace; its number. Waits for no lock of a namespace: it is called from hooks.
    fn register_net_sysctl(
        &self,
        instance: &InstanceRef,
        cookie: u64,
        path: &str,
        table: CtlTable,
    ) -> Result<u64, Failure> {
        let _ = (instance, cookie, path, table);
        Err(Failure::new(libc::ENOSYS, "this host has no sysctl tables"))
    }
    /// Unregisters it, and waits for the calls that are in it.
    fn unregister_net_sysctl(&self, instance: &InstanceRef, cookie: u64, number: u64) -> Result<(), Failure> {
        let _ = (instance, cookie, number);
        Err(Failure::new(libc::ENOSYS, "this host has no sysctl tables"))
    }
    /// Makes an internal mount of any registered type; its number.
    fn kern_mount(&self, instance: &InstanceRef, fs: &str, cookie: u64, options: &str) -> Result<u64, Failure> {
        let _ = (instance, fs, cookie, options);
        Err(Failure::new(libc::ENOSYS, "this host has no file systems"))
    }
    /// Ends it.
    fn kern_unmount(&self, instance: &InstanceRef, mount: u64) -> Result<(), Failure> {
        let _ = (instance, mount);
        Err(Failure::new(libc::ENOSYS, "this host has no file systems"))
    }
    /// Makes a socket inside a namespace; its inode and descriptor, which stays the host's. Waits for no lock of a
    /// namespace: it is called from hooks.
    fn sock_create(&self, instance: &InstanceRef, cookie: u64, spec: SockSpec) -> Result<(u64, i32), Failure> {
        let _ = (instance, cookie, spec);
        Err(Failure::new(libc::ENOSYS, "this host has no sockets"))
    }
    /// Releases a socket that the instance has.
    fn sock_release(&self, instance: &InstanceRef, ino: u64) -> Result<(), Failure> {
        let _ = (instance, ino);
        Err(Failure::new(libc::ENOSYS, "this host has no sockets"))
    }
    /// Connects to a family that a plugin offers, as [`HostServices::run_in`] does its work; the caller's end.
    fn sock_connect(
        &self,
        instance: &InstanceRef,
        cookie: u64,
        family: &str,
        kind: i32,
    ) -> Result<(u64, i32), Failure> {
        let _ = (instance, cookie, family, kind);
        Err(Failure::new(libc::ENOSYS, "this host has no sockets"))
    }
    /// An instance panicked, for the first time. Only its exits will be called from now on.
    fn poisoned(&self, plugin: &str, generation: u64, failure: &Failure);
}

/// What a host without devices answers, such as a test's.
fn no_devices() -> Failure {
    Failure::new(libc::ENOSYS, "this host has no devices of plugins' own")
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

/// The instance behind a token, until its end is over: its `Drop` gives back what it has.
pub(super) fn find_ending(token: u64) -> Result<Arc<Inner>, Failure> {
    find(token).ok_or_else(gone)
}

/// The instance behind a token, while it may still ask for things.
pub(super) fn find_open(token: u64) -> Result<Arc<Inner>, Failure> {
    let instance = find(token).filter(|i| !i.is_closed());
    instance.ok_or_else(gone)
}

fn gone() -> Failure {
    Failure::new(libc::ESTALE, "this plugin instance is gone")
}

/// The table that every instance is given.
pub(super) fn host_mod() -> HostModRef {
    const TABLE: &WithMetadata<HostMod> = &WithMetadata::new(HostMod {
        log_level,
        log,
        defer,
        run_in,
        run_in_two: host_devices::run_in_two,
        alloc_netdev: host_devices::alloc_netdev,
        register_netdevice: host_devices::register_netdevice,
        unregister_netdevices: host_devices::unregister_netdevices,
        free_netdev: host_devices::free_netdev,
        netdev_change: host_devices::netdev_change,
        netdev_state: host_devices::netdev_state,
        netdev_hold: host_devices::netdev_hold,
        netdev_put: host_devices::netdev_put,
        register_notifier: host_devices::register_notifier,
        unregister_notifier: host_devices::unregister_notifier,
        net_names,
        register_net_sysctl: host_sysctl::register_net_sysctl,
        unregister_net_sysctl: host_sysctl::unregister_net_sysctl,
        kern_mount: host_filesystem::kern_mount,
        kern_unmount: host_filesystem::kern_unmount,
        sock_create: host_socket::sock_create,
        sock_release: host_socket::sock_release,
        sock_connect: host_socket::sock_connect,
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
            hook: hook.as_ref().map(|h| h.hook),
            device: hook.as_ref().and_then(|h| h.device.as_str()).map(Into::into),
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
        may_wait_for("run_in", NetCookie(cookie))?;
        is_there(&instance)?;
        instance.services.run_in(&InstanceRef::of(&instance), cookie, work)
    })
}

extern "C" fn net_names(token: u64, cookie: u64) -> NamesReturn {
    let mut names = Vec::new();
    let status = guarded(|| {
        let instance = find_open(token)?;
        names = instance.services.net_names(&InstanceRef::of(&instance), cookie)?;
        Ok(())
    });
    NamesReturn { status, names: names.iter().map(|name| RString::from(&**name)).collect() }
}

/// Whether this thread may wait for a namespace's lock, as far as the hooks that it is in are concerned.
pub(super) fn may_wait_for(what: &str, cookie: NetCookie) -> Result<(), Failure> {
    let deadlock = |why| Err(Failure::new(libc::EDEADLK, format!("{what} would wait for itself: {why}; use defer")));
    match held_by_this_thread() {
        Held::Everything => deadlock("this hook runs while the list of plugins is locked"),
        Held::UpTo(held) if held == cookie => deadlock("this hook is in that namespace"),
        Held::UpTo(held) if held > cookie => {
            deadlock("this hook is in a namespace that comes after that one in lock order")
        }
        Held::UpTo(_) | Held::Nothing => Ok(()),
    }
}

/// Whether there is an instance to call back.
pub(super) fn is_there(instance: &Inner) -> Result<(), Failure> {
    if instance.is_coming() {
        return Err(Failure::new(libc::EAGAIN, "the plugin's init has not returned yet; use defer"));
    }
    Ok(())
}

/// The host's own panics stop here, as a plugin's stop inside the plugin.
pub(super) fn guarded(call: impl FnOnce() -> Result<(), Failure>) -> Status {
    let result = catch_unwind(AssertUnwindSafe(call));
    status_of(result.unwrap_or_else(|_| Err(Failure::new(libc::EIO, "pernetd itself panicked in this call"))))
}
