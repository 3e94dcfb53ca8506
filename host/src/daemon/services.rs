//! What the daemon does for a plugin that calls it: log, defer, run in a namespace, and count its hooks.
//!
//! Called from any thread, in the middle of a hook or from a plugin's own thread. It owns nothing: a log line goes to
//! the subscriber, a hook's record to the monitor, work to the daemon loop, which alone decides when it runs.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use pernet_plugin_api::NetCookie;

use super::chronicle::Chronicle;
use super::filesystems::Filesystems;
use super::netdevs::Netdevs;
use super::plugins::Trouble;
use super::sockets::Sockets;
use super::sysctls::NetSysctl;
use super::{Daemon, Event, setups};
use crate::control::monitor::{HookLine, Monitor};
use crate::engine::{
    self, CtlTable, Failure, LinkSpec, Net, NetDeviceOps, NotDeferred, NotifierBlock, Owner, PernetList, ReadToken,
    SockSpec,
};
use crate::logging::{self, catalog};
use crate::plugin::{ChangeNetdev, HookRecord, HostServices, InstanceRef, LogLine, NetdevSnapshot};

/// How long `run_in` waits: longer than a namespace's queue should ever be.
pub(super) const RUN_IN: Duration = Duration::from_secs(30);

/// How often it looks whether there is still somebody to wait for.
const LOOK: Duration = Duration::from_millis(50);

/// Managed namespaces by cookie, for those who are not the loop. The lock is held for a look-up only.
#[derive(Default)]
pub(super) struct Places(RwLock<HashMap<NetCookie, Arc<Net>>>);

impl Places {
    pub(super) fn insert(&self, net: &Arc<Net>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(net.cookie, Arc::clone(net));
    }

    pub(super) fn remove(&self, cookie: NetCookie) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&cookie);
    }

    pub(super) fn get(&self, cookie: NetCookie) -> Option<Arc<Net>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&cookie).cloned()
    }
}

/// What is to be done under a namespace's lock.
pub(super) enum Task {
    /// The plugin's number for its work.
    Plugins(u64),
    /// What the plugin asked of the daemon itself.
    Hosts(Box<dyn FnOnce() -> Result<(), Failure> + Send>),
}

/// Work that a plugin wants run in one namespace, or in two with both locked.
pub(crate) struct Work {
    instance: InstanceRef,
    owner: Arc<Owner>,
    nets: Vec<Arc<Net>>,
    list: Arc<PernetList>,
    /// Taken when it runs.
    task: Option<Task>,
    /// Who waits for it (`run_in`); nobody for `defer`.
    reply: Option<Sender<Result<(), Failure>>>,
}

impl Work {
    fn netns(&self) -> Arc<str> {
        self.nets.first().map_or_else(|| "".into(), |net| net.name())
    }

    /// Runs it inside its first namespace, under the lock of each: nothing else of a plugin runs there meanwhile.
    fn run(mut self, token: Option<&ReadToken>) {
        let result = self.run_locked(token);
        if let (Err(failure), None) = (&result, &self.reply) {
            let InstanceRef { plugin, generation, .. } = &self.instance;
            tracing::warn!(
                message_id = catalog::WORK_FAILED,
                %plugin,
                netns = %self.netns(),
                hook = "work.run",
                generation,
                errno = failure.errno,
                "deferred work failed: {failure}"
            );
        }
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(result);
        }
    }

    /// Through the engine, so that what the work registers or changes finds the list and its place.
    fn run_locked(&mut self, token: Option<&ReadToken>) -> Result<(), Failure> {
        let (list, nets, owner) = (Arc::clone(&self.list), self.nets.clone(), Arc::clone(&self.owner));
        engine::work_in(&list, token, &nets, &owner, RUN_IN, |at| match self.task.take().ok_or_else(gone)? {
            Task::Plugins(work) => self.instance.run_work(work, at),
            Task::Hosts(act) => act(),
        })
    }
}

impl Drop for Work {
    /// Work that never ran is dropped in the plugin too; whoever waits for it learns it from the closed channel.
    fn drop(&mut self) {
        if let Some(Task::Plugins(work)) = self.task.take()
            && let Err(failure) = self.instance.drop_work(work)
        {
            let InstanceRef { plugin, generation, .. } = &self.instance;
            tracing::debug!(%plugin, generation, hook = "work.drop", "work that never ran: {failure}");
        }
    }
}

impl Daemon {
    /// Work from outside the lock of its namespace: a job of its own, after those that are queued.
    pub(super) fn work(&mut self, work: Work) {
        let Some(cookie) = work.nets.first().map(|net| net.cookie) else { return };
        // Unless it can be queued it is dropped, on a worker: a closure's drop is the plugin's code.
        if !self.submit(cookie, Box::new(move |token| work.run(Some(token)))) {
            tracing::debug!("work came while the daemon is stopping");
        }
    }
}

/// The services, as every plugin instance holds them.
pub(super) struct Services {
    pub(super) events: Sender<Event>,
    pub(super) monitor: Arc<Monitor>,
    pub(super) places: Arc<Places>,
    /// Plugins' own devices.
    pub(super) netdevs: Netdevs,
    /// Plugins' sockets and protocol families.
    pub(super) sockets: Arc<Sockets>,
    /// File system types and mounts.
    pub(super) filesystems: Arc<Filesystems>,
    /// The instances that may ask.
    pub(super) owners: Owners,
    /// What has gone wrong.
    pub(super) chronicle: Arc<Chronicle>,
    /// What they are registered in.
    pub(super) list: Weak<PernetList>,
    /// Where their sysctls get their first values from.
    pub(super) sysctls: Arc<NetSysctl>,
}

/// The engine's view of each instance, from before its init until its end.
#[derive(Default)]
pub(super) struct Owners(RwLock<Vec<Arc<Owner>>>);

impl Owners {
    pub(super) fn insert(&self, owner: &Arc<Owner>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(owner));
    }

    pub(super) fn remove(&self, owner: &Arc<Owner>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|known| !Arc::ptr_eq(known, owner));
    }

    pub(super) fn get(&self, instance: &InstanceRef) -> Result<Arc<Owner>, Failure> {
        let owners = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mine = |o: &&Arc<Owner>| o.name == instance.plugin && o.generation == instance.generation;
        let gone = || Failure::new(libc::ESTALE, "this plugin instance is gone");
        owners.iter().find(mine).cloned().ok_or_else(gone)
    }
}

pub(super) fn gone() -> Failure {
    Failure::new(libc::ESTALE, "the namespace is gone, or the plugin does not act there")
}

impl Services {
    fn work(&self, instance: &InstanceRef, cookies: &[u64], task: Task) -> Result<Work, Failure> {
        let list = self.list.upgrade().ok_or_else(gone)?;
        let owner = self.owners.get(instance)?;
        let nets: Vec<_> =
            cookies.iter().map(|c| self.places.get(NetCookie(*c)).ok_or_else(gone)).collect::<Result<_, _>>()?;
        Ok(Work { instance: instance.clone(), owner, nets, list, task: Some(task), reply: None })
    }

    /// Runs work at once where this thread's hook may go there itself, else as a job of its own; waits for it.
    pub(super) fn run_and_wait(&self, instance: &InstanceRef, cookies: &[u64], task: Task) -> Result<(), Failure> {
        let mut work = self.work(instance, cookies, task)?;
        let (reply, answer) = bounded(1);
        work.reply = Some(reply);
        if crate::plugin::running::in_engine() {
            work.run(None);
        } else {
            self.events.send(Event::Work(work)).map_err(|_| gone())?;
        }
        wait_for(&answer, instance)
    }
}

/// Waits for work in another namespace, but not beyond the instance's end, or its table's, or its mount's: that end may
/// be waiting for this very thread, in a reload that holds the work back.
pub(super) fn wait_for<T>(answer: &Receiver<Result<T, Failure>>, instance: &InstanceRef) -> Result<T, Failure> {
    let until = Instant::now() + RUN_IN;
    loop {
        match answer.recv_timeout(LOOK) {
            Ok(result) => return result,
            Err(e) if e.is_disconnected() || instance.is_gone() => return Err(gone()),
            // Whoever unregisters the table may hold what this waits for, and waits for this call.
            Err(_) if engine::in_unregistered_table() => {
                return Err(Failure::new(
                    libc::ECANCELED,
                    "the sysctl table that this is a handler of is unregistered",
                ));
            }
            Err(_) if engine::in_ended_mount() => {
                return Err(Failure::new(libc::ECANCELED, "the mount that this is a file operation of has ended"));
            }
            Err(_) if Instant::now() >= until => {
                let what = format!("the namespace was busy for {} s", RUN_IN.as_secs());
                return Err(Failure::new(libc::ETIMEDOUT, what));
            }
            Err(_) => {}
        }
    }
}

impl HostServices for Services {
    fn log(&self, line: LogLine<'_>) {
        logging::plugin_line(&line);
    }

    fn log_level(&self) -> u8 {
        logging::level()
    }

    fn hook_called(&self, record: HookRecord<'_>) {
        setups::note(&record);
        if let Err(failure) = record.result {
            self.chronicle.answered(&record, failure, &self.places);
        }
        let error = record.result.err().map(ToString::to_string);
        self.monitor.publish(HookLine {
            plugin: record.plugin,
            hook: record.hook,
            netns: record.netns,
            device: record.device,
            error: error.as_deref(),
            duration_us: u64::try_from(record.duration.as_micros()).unwrap_or(u64::MAX),
        });
    }

    /// Onto the todo of a namespace that this thread has locked, so that it runs before the unlock returns; else it
    /// becomes a job of its own.
    fn defer(&self, instance: &InstanceRef, cookies: &[u64], work: u64) -> Result<(), Failure> {
        let work = self.work(instance, cookies, Task::Plugins(work))?;
        let locked = work.nets.iter().find(|net| net.rtnl().held_by_me()).cloned();
        let Some(net) = locked else {
            return self.events.send(Event::Work(work)).map_err(|_| gone());
        };
        net.rtnl().defer(Box::new(move || work.run(None))).map_err(|refused| match refused {
            NotDeferred::NobodyHolds(_) => gone(),
            NotDeferred::TooDeep(_) => Failure::new(libc::EDEADLK, "work that defers work that defers work: too deep"),
        })
    }

    fn run_in(&self, instance: &InstanceRef, cookie: u64, work: u64) -> Result<(), Failure> {
        self.run_and_wait(instance, &[cookie], Task::Plugins(work))
    }

    fn run_in_two(&self, instance: &InstanceRef, first: u64, second: u64, work: u64) -> Result<(), Failure> {
        self.run_and_wait(instance, &[first, second], Task::Plugins(work))
    }

    fn alloc_netdev(
        &self,
        instance: &InstanceRef,
        spec: LinkSpec,
        peer: u64,
        ops: Arc<dyn NetDeviceOps>,
    ) -> Result<u64, Failure> {
        self.alloc(instance, spec, peer, ops)
    }

    fn register_netdevice(&self, instance: &InstanceRef, cookie: u64, dev: u64, peer: u64) -> Result<(), Failure> {
        self.register(instance, cookie, dev, peer)
    }

    fn unregister_netdevices(&self, instance: &InstanceRef, devs: &[u64]) -> Result<(), Failure> {
        self.unregister(instance, devs)
    }

    fn free_netdev(&self, instance: &InstanceRef, dev: u64) -> Result<(), Failure> {
        self.free(instance, dev)
    }

    fn netdev_change(&self, instance: &InstanceRef, dev: u64, change: ChangeNetdev<'_>) -> Result<(), Failure> {
        self.change(instance, dev, &change)
    }

    fn netdev_state(&self, instance: &InstanceRef, dev: u64) -> Result<NetdevSnapshot, Failure> {
        self.state(instance, dev)
    }

    fn netdev_hold(
        &self,
        instance: &InstanceRef,
        cookie: u64,
        ifindex: u32,
        serial: u64,
        purpose: &str,
    ) -> Result<u64, Failure> {
        self.hold(instance, cookie, (ifindex, serial), purpose)
    }

    fn netdev_put(&self, instance: &InstanceRef, reference: u64) -> Result<(), Failure> {
        self.put(instance, reference)
    }

    fn register_notifier(
        &self,
        instance: &InstanceRef,
        cookie: u64,
        priority: i32,
        block: Arc<dyn NotifierBlock>,
        number: u32,
    ) -> Result<(), Failure> {
        self.add_notifier(instance, cookie, (number, priority), block)
    }

    fn unregister_notifier(&self, instance: &InstanceRef, cookie: u64, number: u32) -> Result<(), Failure> {
        self.remove_notifier(instance, cookie, number)
    }

    fn net_names(&self, _: &InstanceRef, cookie: u64) -> Result<Vec<Arc<str>>, Failure> {
        Ok(self.net(cookie)?.names())
    }
    fn kern_mount(&self, instance: &InstanceRef, fs: &str, cookie: u64, options: &str) -> Result<u64, Failure> {
        self.mount_internally(instance, fs, cookie, options)
    }

    fn kern_unmount(&self, instance: &InstanceRef, mount: u64) -> Result<(), Failure> {
        self.filesystems.unmount(instance, mount)
    }

    fn sock_create(&self, instance: &InstanceRef, cookie: u64, spec: SockSpec) -> Result<(u64, i32), Failure> {
        self.create_socket(instance, cookie, spec)
    }

    fn sock_release(&self, instance: &InstanceRef, ino: u64) -> Result<(), Failure> {
        self.release_socket(instance, ino)
    }

    fn sock_connect(
        &self,
        instance: &InstanceRef,
        cookie: u64,
        family: &str,
        kind: i32,
    ) -> Result<(u64, i32), Failure> {
        self.connect_to(instance, cookie, family, kind)
    }

    fn register_net_sysctl(
        &self,
        instance: &InstanceRef,
        cookie: u64,
        path: &str,
        table: CtlTable,
    ) -> Result<u64, Failure> {
        self.register_table(instance, cookie, path, table)
    }

    fn unregister_net_sysctl(&self, instance: &InstanceRef, cookie: u64, number: u64) -> Result<(), Failure> {
        self.unregister_table(instance, cookie, number)
    }

    fn poisoned(&self, plugin: &str, generation: u64, failure: &Failure) {
        let trouble = Trouble::new("panic", format!("generation {generation} panicked: {failure}"));
        let _ = self.events.send(Event::Poisoned(plugin.into(), generation, trouble));
    }
}
