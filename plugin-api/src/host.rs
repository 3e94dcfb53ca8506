//! What a plugin may ask of the daemon: to register things, during its init, and to run work, at any time.
//!
//! Mirrors `register_pernet_subsys` and its like, and work that the kernel puts off until `rtnl_unlock`. A registration
//! is only declared here; the host carries it out when init returns.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::abi::{Registration, Status};
use crate::area::Owner;
use crate::chain::NotifierTable;
use crate::datapath::{Pool, Starter};
use crate::filesystem::{FileSystem, KernMount};
use crate::log::{self, Caller};
use crate::netdev_ops::OpsTable;
use crate::pernet::{AnyOps, Registered};
use crate::socket::SocketFamily;
use crate::super_block::{AnyFileSystem, SuperTable};
use crate::sysctl::SysctlTables;
use crate::work::{Work, WorkTable};
use crate::{Error, Figures, Net, NetCookie, Notifier, PernetId, PernetOps, Result};

/// Takes registrations. There is one only during the plugin's `init`.
pub struct Registrar {
    instance: u64,
    pub(crate) registrations: Vec<Registration>,
    pub(crate) ops: Vec<Box<dyn AnyOps>>,
    pub(crate) notifiers: Vec<Box<dyn Notifier>>,
    pub(crate) families: Vec<Box<dyn SocketFamily>>,
    pub(crate) filesystems: Vec<Box<dyn AnyFileSystem>>,
}

/// [`Registration::class`].
#[derive(Clone, Copy)]
enum Class {
    Subsys = 0,
    Device = 1,
    Notifier = 2,
    FileSystem = 3,
    Family = 4,
}

/// [`Registration::priority`] of a file system type: users cannot mount it.
const NO_USER: i32 = 1;

impl Registrar {
    pub(crate) fn new(instance: u64) -> Self {
        Registrar {
            instance,
            registrations: Vec::new(),
            ops: Vec::new(),
            notifiers: Vec::new(),
            filesystems: Vec::new(),
            families: Vec::new(),
        }
    }

    /// Registers a pernet subsystem: its init comes before the namespace's devices are shown, its exit after they are
    /// gone (K1.1(1)). The name is for the operator's eyes.
    pub fn pernet_subsys<O: PernetOps>(&mut self, name: &str, ops: O) -> Result<PernetId<O::State>> {
        self.pernet(Class::Subsys, name, ops)
    }

    /// Registers a pernet device: after every subsystem, and its exit comes while the namespace's devices are still
    /// there. What owns network devices belongs here (K1.5).
    pub fn pernet_device<O: PernetOps>(&mut self, name: &str, ops: O) -> Result<PernetId<O::State>> {
        self.pernet(Class::Device, name, ops)
    }

    /// Registers a notifier. A higher priority is told earlier; among equals, who registered earlier (K3.1). Each
    /// namespace with such a notifier costs every sender of link events on the host: register one only if needed.
    pub fn notifier<N: Notifier>(&mut self, name: &str, priority: i32, notifier: N) -> Result<()> {
        let number = number(self.notifiers.len())?;
        self.declare(Class::Notifier, number, priority, name)?;
        self.notifiers.push(Box::new(notifier));
        Ok(())
    }

    /// Offers a protocol family by this name (`sock_register`), in every namespace in which the plugin acts: 1 to 63 letters
    /// a–z, digits, `-` and `_`, a letter first. Whoever connects to it there gets the other end of a socket pair.
    ///
    /// It is registered before the plugin's first hook in a namespace, and taken back after its last. A name that the
    /// kernel or another plugin has fails the plugin's start (`EEXIST`, K6.8).
    pub fn sock_family<F: SocketFamily>(&mut self, name: &str, family: F) -> Result<()> {
        let number = number(self.families.len())?;
        self.declare(Class::Family, number, 0, name)?;
        self.families.push(Box::new(family));
        Ok(())
    }

    /// Registers a file system type under this name (`register_filesystem`), which users can mount. It is there before
    /// the plugin's hooks run anywhere, and goes after its last exit; its mounts end then (K6.2).
    ///
    /// # Errors
    /// `EINVAL` for an empty name. What the daemon refuses later fails the plugin: a name with a dot (`EINVAL`, K6.1), or
    /// one that somebody has registered (`EBUSY`).
    pub fn filesystem<F: FileSystem>(&mut self, name: &str, fs: F) -> Result<()> {
        self.file_system(name, 0, fs)
    }

    /// The same for internal mounts only ([`Host::kern_mount`]): a user who mounts it gets `EINVAL` (`SB_NOUSER`, K6.5).
    ///
    /// # Errors
    /// As [`filesystem`](Self::filesystem).
    pub fn internal_filesystem<F: FileSystem>(&mut self, name: &str, fs: F) -> Result<()> {
        self.file_system(name, NO_USER, fs)
    }

    fn file_system<F: FileSystem>(&mut self, name: &str, flags: i32, fs: F) -> Result<()> {
        let number = number(self.filesystems.len())?;
        self.declare(Class::FileSystem, number, flags, name)?;
        self.filesystems.push(Box::new(fs));
        Ok(())
    }

    fn pernet<O: PernetOps>(&mut self, class: Class, name: &str, ops: O) -> Result<PernetId<O::State>> {
        let op = number(self.ops.len())?;
        self.declare(class, op, 0, name)?;
        let id = PernetId::new(Owner { instance: self.instance, op });
        self.ops.push(Box::new(Registered { ops, id }));
        Ok(id)
    }

    fn declare(&mut self, class: Class, number: u32, priority: i32, name: &str) -> Result<()> {
        if name.is_empty() {
            return Err(Error::new(libc::EINVAL, "a registration needs a name, which the operator sees"));
        }
        self.registrations.push(Registration { class: class as u8, number, priority, name: name.into() });
        Ok(())
    }
}

impl fmt::Debug for Registrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registrar").field("registrations", &self.registrations).finish_non_exhaustive()
    }
}

fn number(len: usize) -> Result<u32> {
    u32::try_from(len).map_err(|_| Error::new(libc::ENOSPC, "too many registrations"))
}

/// The way to the daemon, from any thread, for as long as one likes: after the instance's end every call gets `ESTALE`.
#[derive(Clone)]
pub struct Host {
    caller: Caller,
    shared: Arc<Shared>,
}

/// What an instance has waiting for calls of the host, and what its devices share.
pub(crate) struct Shared {
    pub(crate) work: Arc<WorkTable>,
    pub(crate) devices: OpsTable,
    pub(crate) notifiers: NotifierTable,
    pub(crate) supers: SuperTable,
    pub(crate) sysctls: SysctlTables,
    pub(crate) pool: Arc<Pool>,
    pub(crate) starter: Arc<Starter>,
}

impl Shared {
    /// Called in the daemon's own namespace: the starter's threads are in whichever this is.
    pub(crate) fn new() -> Self {
        Shared {
            work: Arc::new(WorkTable::new()),
            devices: OpsTable::new(),
            notifiers: NotifierTable::new(),
            supers: SuperTable::new(),
            sysctls: SysctlTables::new(),
            pool: Arc::new(Pool::new()),
            starter: Arc::new(Starter::new()),
        }
    }
}

impl Host {
    pub(crate) fn new(caller: Caller, shared: Arc<Shared>) -> Self {
        Host { caller, shared }
    }

    pub(crate) fn caller(&self) -> Caller {
        self.caller
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Queues work for one namespace: it runs inside it, once, after whoever holds its device lock lets go, and before
    /// that unlocking call returns; it may take the lock again. Without a holder it runs soon, on a worker.
    ///
    /// If the namespace or the plugin goes first, the work is dropped instead. A cookie that names no managed
    /// namespace is `ENOENT`.
    pub fn defer(&self, net: NetCookie, work: impl FnOnce(&Net<'_>) + Send + 'static) -> Result<()> {
        queue(self.caller, &self.shared.work, &[net.0], Work::One(net, Box::new(work)))
    }

    /// The same with two namespaces, both locked, in cookie order, so that no two can wait for each other. It runs
    /// inside the first, and its arguments come as they are named here.
    pub fn defer_two(
        &self,
        first: NetCookie,
        second: NetCookie,
        work: impl FnOnce(&Net<'_>, &Net<'_>) + Send + 'static,
    ) -> Result<()> {
        if first == second {
            return Err(Error::new(libc::EINVAL, "defer_two names the same namespace twice; use defer"));
        }
        queue(self.caller, &self.shared.work, &[first.0, second.0], Work::Two(first, second, Box::new(work)))
    }

    /// Runs work inside a namespace and waits for its value. Not for hooks: from one that may not wait for that
    /// namespace, and from `init`, it is `EDEADLK` at once.
    ///
    /// It is an error, too, if the namespace goes first, or the work panics.
    pub fn run_in<R: Send + 'static>(
        &self,
        net: NetCookie,
        work: impl FnOnce(&Net<'_>) -> R + Send + 'static,
    ) -> Result<R> {
        let value = Slot::default();
        let slot = value.clone();
        let id = self.shared.work.insert(Work::One(net, Box::new(move |net| slot.put(work(net)))))?;
        let status = (self.caller.host.run_in())(self.caller.token, net.0, id);
        drop(self.shared.work.take(id));
        accepted(status)?;
        value.take()
    }

    /// The same with two namespaces, both locked, in cookie order. It runs inside the first, and its arguments come as
    /// they are named here.
    ///
    /// From a hook it is `EDEADLK` unless both come after the hook's own namespace in lock order.
    pub fn run_in_two<R: Send + 'static>(
        &self,
        first: NetCookie,
        second: NetCookie,
        work: impl FnOnce(&Net<'_>, &Net<'_>) -> R + Send + 'static,
    ) -> Result<R> {
        if first == second {
            return Err(Error::new(libc::EINVAL, "run_in_two names the same namespace twice; use run_in"));
        }
        let run_in_two = self.caller.host.run_in_two().ok_or_else(missing)?;
        let value = Slot::default();
        let slot = value.clone();
        let work = Box::new(move |one: &Net<'_>, other: &Net<'_>| slot.put(work(one, other)));
        let id = self.shared.work.insert(Work::Two(first, second, work))?;
        let status = run_in_two(self.caller.token, first.0, second.0, id);
        drop(self.shared.work.take(id));
        accepted(status)?;
        value.take()
    }

    /// All names of a managed namespace, the first being [`Net::name`]. They come and go without a call of any hook.
    ///
    /// # Errors
    /// `ENOENT` if the namespace is not managed.
    pub fn net_names(&self, net: NetCookie) -> Result<Vec<String>> {
        let older = || Error::new(libc::ENOSYS, "this pernetd is older than a namespace's further names; update it");
        let answer = self.caller.host.net_names().ok_or_else(older)?(self.caller.token, net.0);
        accepted(answer.status)?;
        Ok(answer.names.into_iter().map(Into::into).collect())
    }
    /// Mounts a registered file system type internally (`kern_mount`): in no mount table, until the answer is dropped.
    /// `net` is the namespace that the mount is for, if it is for one; it ends with that namespace at the latest, and
    /// with the type.
    ///
    /// # Errors
    /// `ENODEV` for an unknown type, `ENOENT` for a namespace that is not managed, and what the type's mount answers.
    pub fn kern_mount(&self, fs: &str, net: Option<NetCookie>, options: &str) -> Result<KernMount> {
        KernMount::mount(self.caller, fs, net, options)
    }

    /// The daemon's own figures, as they are now: hook calls by plugin and hook, namespaces and plugins by state, and so on.
    /// From anywhere, at any time: nothing is waited for.
    ///
    /// ```
    /// # use pernet_plugin_api::prelude::*;
    /// /// How many calls of this plugin's hooks have failed since the daemon's start.
    /// fn failed_calls(host: &Host, plugin: &str) -> Result<u64> {
    ///     let figures = host.figures()?;
    ///     Ok(figures.hooks.iter().filter(|hook| hook.plugin == plugin).map(|hook| hook.errors).sum())
    /// }
    /// ```
    ///
    /// # Errors
    /// `ESTALE` once the instance's end is over, `ENOSYS` of a daemon that does not tell them.
    pub fn figures(&self) -> Result<Figures> {
        let older = || Error::new(libc::ENOSYS, "this pernetd is older than its figures for plugins; update it");
        let mut answer = self.caller.host.figures().ok_or_else(older)?(self.caller.token);
        let nothing = Status { errno: 0, panicked: 0, message: Default::default() };
        accepted(std::mem::replace(&mut answer.status, nothing))?;
        Ok(Figures::of(answer))
    }

    /// Bounds the memory for frames of all devices of this instance, in bytes; 64 MiB before. Buffers that are in use
    /// stay.
    pub fn set_frame_memory(&self, bytes: usize) {
        self.shared.pool.set_limit(bytes);
    }

    /// Runs `body` with this instance as the author of what it logs.
    ///
    /// Hooks need none of it. A thread that the plugin starts logs as the newest instance of its file unless it does
    /// its work in here, which matters while a reload has the old and the new instance live.
    pub fn attribute<R>(&self, body: impl FnOnce() -> R) -> R {
        let _inside = log::enter(self.caller);
        body()
    }
}

/// Has the host come for work after the unlock. What it refuses is dropped.
pub(crate) fn queue(caller: Caller, table: &WorkTable, cookies: &[u64], work: Work) -> Result<()> {
    let id = table.insert(work)?;
    let status = (caller.host.defer())(caller.token, cookies.into(), id);
    accepted(status).inspect_err(|_| drop(table.take(id)))
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("token", &self.caller.token).finish_non_exhaustive()
    }
}

/// The value that work leaves for who waits for it.
struct Slot<R>(Arc<Mutex<Option<R>>>);

impl<R> Slot<R> {
    fn put(&self, value: R) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }

    fn take(&self) -> Result<R> {
        let value = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        value.ok_or_else(|| Error::new(libc::ECANCELED, "the work did not finish: it panicked, or was dropped unrun"))
    }
}

// Derived, these would ask the same of the value.
impl<R> Default for Slot<R> {
    fn default() -> Self {
        Slot(Arc::default())
    }
}

impl<R> Clone for Slot<R> {
    fn clone(&self) -> Self {
        Slot(Arc::clone(&self.0))
    }
}

pub(crate) fn accepted(status: Status) -> Result<()> {
    if status.errno == 0 { Ok(()) } else { Err(Error::new(status.errno, status.message.into_string())) }
}

/// The host's table is older than what is asked for.
pub(crate) fn missing() -> Error {
    Error::new(libc::ENOSYS, "this pernetd is older than devices of a plugin's own; update it")
}
