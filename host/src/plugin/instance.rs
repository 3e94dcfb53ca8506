//! A plugin at work: code and configuration made into an instance, from the author's `init` to its `Drop`.
//!
//! Mirrors a module's states Coming, Live and Going. What `init` registered is data here; the engine carries it out
//! ([`Instance::member`]). Once [`Instance::destroy`] has begun, no call goes in any more, and the plugin's `Drop` runs
//! when the last one has come out.
//!
//! Not here: the calls themselves ([`super::call`]), and which generation replaces which (daemon).

use super::PluginError;
use super::call::{Hook, NotifierCaller, PernetCaller, Place};
use super::gate::Gate;
use super::host_api::{self, HookRecord, HostServices};
use super::load::Code;
use super::running::{Guard, Running, running};
use super::status::failure_of;
use crate::engine::{At, Class, Failure, Member, Owner, Registration};
use pernet_plugin_api::abi::{self, InstanceHandle};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long an instance's end waits for its last call. Its hooks are out by then; this is for deferred work.
const LAST_CALL: Duration = Duration::from_secs(10);

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginState {
    /// Its `init` runs.
    Coming,
    /// It can be called.
    Live,
    /// Its end has begun: nothing is called any more.
    Going,
}

/// What an instance's `init` registered, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// What kind of thing.
    pub kind: RegisteredKind,
    /// The author's name for it.
    pub name: String,
}

/// The kinds of things that a plugin registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisteredKind {
    /// A pernet subsystem.
    PernetSubsys,
    /// A pernet device.
    PernetDevice,
    /// A netdevice notifier, with its priority.
    Notifier(i32),
}

/// Work that init deferred: the namespaces and the work's number.
type Early = Vec<(Vec<u64>, u64)>;

pub(super) struct Inner {
    pub(super) name: Arc<str>,
    pub(super) generation: u64,
    pub(super) token: u64,
    pub(super) code: Arc<Code>,
    pub(super) services: Arc<dyn HostServices>,
    pub(super) gate: Gate,
    handle: OnceLock<InstanceHandle>,
    poisoned: AtomicBool,
    /// What was deferred before there was an instance to call; none from then on.
    early: Mutex<Option<Early>>,
}

/// A plugin instance. Dropping it ends it, if [`Instance::destroy`] has not.
pub struct Instance {
    inner: Arc<Inner>,
    registered: Vec<Registered>,
    ended: Mutex<bool>,
}

/// A way to an instance that does not keep it: after its end, every call through it is refused.
#[derive(Clone)]
pub struct InstanceRef {
    inner: Weak<Inner>,
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// Which instance of it.
    pub generation: u64,
}

impl Instance {
    /// Makes an instance: runs the author's `init`.
    ///
    /// `config_json` should have passed [`Code::check_config`]. Nothing is registered yet: [`Instance::member`] says
    /// what is to be.
    ///
    /// # Errors
    /// `init` failed or panicked, or registered what cannot be. Nothing of the instance is left.
    pub fn create(
        code: &Arc<Code>,
        generation: u64,
        config_json: &str,
        services: Arc<dyn HostServices>,
    ) -> Result<Instance, PluginError> {
        host_api::set_log_level(services.log_level());
        let inner = Arc::new(Inner::new(code, generation, services));
        host_api::know(inner.token, &inner);
        code.instances.fetch_add(1, Ordering::Relaxed);
        let guard = Guard::enter(inner.running(Hook::Init, &Place::home()));
        let answer = code.module.create()(host_api::host_mod(), inner.token, config_json.into());
        let duration = guard.since.elapsed();
        drop(guard);
        let failure = failure_of(&answer.status);
        inner.report(Hook::Init, &Place::home(), failure.as_ref(), duration);
        if let Some(failure) = failure {
            inner.forget();
            return Err(PluginError::Init { plugin: inner.name.to_string(), failure });
        }
        let _ = inner.handle.set(answer.instance);
        let registered = understand(answer.instance, answer.registrations.as_slice());
        let mut instance = Instance { inner, registered: Vec::new(), ended: Mutex::new(false) };
        match registered {
            Ok(registered) => instance.registered = registered,
            Err(what) => {
                let plugin = instance.inner.name.to_string();
                instance.destroy()?;
                return Err(PluginError::Registrations { plugin, what });
            }
        }
        instance.defer_early();
        Ok(instance)
    }

    /// Hands over what init deferred, now that there is somebody to call.
    fn defer_early(&self) {
        let early = self.inner.early().take().unwrap_or_default();
        let me = self.downgrade();
        for (cookies, work) in early {
            if let Err(failure) = self.inner.services.defer(&me, &cookies, work) {
                tracing::warn!(plugin = %me.plugin, error = %failure, "work that init deferred cannot be queued; it is dropped");
                let _ = me.drop_work(work);
            }
        }
    }

    /// The plugin's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.inner.name
    }

    /// Which instance of the plugin.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// The code that it runs.
    #[must_use]
    pub fn code(&self) -> &Arc<Code> {
        &self.inner.code
    }

    /// What its init registered, in order.
    #[must_use]
    pub fn registrations(&self) -> &[Registered] {
        &self.registered
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> PluginState {
        match () {
            () if self.inner.is_closed() => PluginState::Going,
            () if self.inner.is_coming() => PluginState::Coming,
            () => PluginState::Live,
        }
    }

    /// Whether it has panicked: only its exits are called.
    #[must_use]
    pub fn poisoned(&self) -> bool {
        self.inner.poisoned.load(Ordering::Relaxed)
    }

    /// A way to it that does not keep it.
    #[must_use]
    pub fn downgrade(&self) -> InstanceRef {
        InstanceRef::of(&self.inner)
    }

    /// What the engine registers for it.
    #[must_use]
    pub fn member(&self, owner: Arc<Owner>) -> Member {
        let (mut ops, mut notifiers) = (0.., 0..);
        let registrations = self.registered.iter().map(|registered| {
            let mut pernet = |class| {
                let op = ops.next().unwrap_or_default();
                Registration::Pernet { class, ops: Arc::new(PernetCaller { instance: Arc::clone(&self.inner), op }) }
            };
            match registered.kind {
                RegisteredKind::PernetSubsys => pernet(Class::Subsys),
                RegisteredKind::PernetDevice => pernet(Class::Device),
                RegisteredKind::Notifier(priority) => {
                    let number = notifiers.next().unwrap_or_default();
                    let block = Arc::new(NotifierCaller { instance: Arc::clone(&self.inner), number });
                    Registration::Notifier { priority, block }
                }
            }
        });
        Member::new(owner, registrations.collect())
    }

    /// Ends it: waits for the last call, then runs the author's `Drop`. Its registrations must have been undone.
    ///
    /// # Errors
    /// A call is still in there after the deadline (the instance is not dropped then, only closed; this may be called
    /// again), or the author's `Drop` panicked.
    pub fn destroy(&self) -> Result<(), PluginError> {
        self.destroy_within(LAST_CALL)
    }

    /// [`Instance::destroy`] with another deadline.
    ///
    /// # Errors
    /// As there.
    pub fn destroy_within(&self, deadline: Duration) -> Result<(), PluginError> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if *ended {
            return Ok(());
        }
        let inner = &self.inner;
        if !inner.gate.close(deadline) {
            let hook = running().into_iter().find(|r| r.token == inner.token);
            let inside = hook.map_or(String::from("a hook"), |h| format!("{} in namespace `{}`", h.hook, h.netns));
            return Err(PluginError::Busy { plugin: inner.name.to_string(), inside });
        }
        *ended = true;
        let guard = Guard::enter(inner.running(Hook::Drop, &Place::home()));
        let handle = inner.handle.get().copied().unwrap_or(InstanceHandle(0));
        let status = inner.code.module.destroy()(handle);
        let duration = guard.since.elapsed();
        drop(guard);
        let failure = failure_of(&status);
        inner.report(Hook::Drop, &Place::home(), failure.as_ref(), duration);
        inner.forget();
        match failure {
            Some(failure) => Err(PluginError::Drop { plugin: inner.name.to_string(), failure }),
            None => Ok(()),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = self.destroy() {
            tracing::warn!(plugin = %self.inner.name, %error, "a plugin instance did not end well");
        }
    }
}

impl InstanceRef {
    pub(super) fn of(inner: &Arc<Inner>) -> Self {
        let (plugin, generation) = (Arc::clone(&inner.name), inner.generation);
        InstanceRef { inner: Arc::downgrade(inner), plugin, generation }
    }

    /// Runs work that the plugin handed to the host. The caller is inside the (first) namespace, as for a hook.
    ///
    /// # Errors
    /// The work panicked, or the instance is gone or poisoned; in the latter cases it did not run.
    pub fn run_work(&self, work: u64, nets: &[At<'_>]) -> Result<(), Failure> {
        self.upgrade()?.run_work(work, nets)
    }

    /// Drops work that will never run.
    ///
    /// # Errors
    /// Dropping it panicked, or the instance is gone, and its work with it.
    pub fn drop_work(&self, work: u64) -> Result<(), Failure> {
        self.upgrade()?.drop_work(work)
    }

    fn upgrade(&self) -> Result<Arc<Inner>, Failure> {
        let gone =
            || Failure::new(libc::ESTALE, format!("plugin `{}` (generation {}) is gone", self.plugin, self.generation));
        self.inner.upgrade().ok_or_else(gone)
    }
}

impl Inner {
    fn new(code: &Arc<Code>, generation: u64, services: Arc<dyn HostServices>) -> Self {
        Inner {
            name: Arc::clone(&code.name),
            generation,
            token: host_api::new_token(),
            code: Arc::clone(code),
            services,
            gate: Gate::default(),
            handle: OnceLock::new(),
            poisoned: AtomicBool::new(false),
            early: Mutex::new(Some(Vec::new())),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.gate.is_closed()
    }

    pub(super) fn is_coming(&self) -> bool {
        self.early().is_some()
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Relaxed)
    }

    pub(super) fn handle(&self) -> Option<InstanceHandle> {
        self.handle.get().copied()
    }

    /// Keeps work that is deferred before there is an instance to run it; false if there is one.
    pub(super) fn keep_for_later(&self, cookies: &[u64], work: u64) -> bool {
        match self.early().as_mut() {
            Some(early) => {
                early.push((cookies.to_vec(), work));
                true
            }
            None => false,
        }
    }

    fn early(&self) -> MutexGuard<'_, Option<Early>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks it as panicked; the daemon is told of the first time.
    pub(super) fn poison(&self, failure: &Failure) {
        if !self.poisoned.swap(true, Ordering::Relaxed) {
            self.services.poisoned(&self.name, self.generation, failure);
        }
    }

    pub(super) fn running(&self, hook: Hook, place: &Place<'_>) -> Running {
        Running {
            plugin: Arc::clone(&self.name),
            generation: self.generation,
            hook: hook.as_str(),
            cookie: place.last,
            netns: Arc::clone(&place.netns),
            since: Instant::now(),
            token: self.token,
        }
    }

    pub(super) fn report(&self, hook: Hook, place: &Place<'_>, failure: Option<&Failure>, duration: Duration) {
        self.services.hook_called(HookRecord {
            plugin: Arc::clone(&self.name),
            hook: hook.as_str(),
            netns: Arc::clone(&place.netns),
            device: place.device,
            result: failure.map_or(Ok(()), Err),
            duration,
        });
    }

    /// The instance is no more, or never came to be: its token is nobody's, its code is used by one less.
    fn forget(&self) {
        self.gate.close(Duration::ZERO);
        self.early().take();
        host_api::forget(self.token);
        self.code.instances.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What an answer of `create` registers, if it makes sense: only a plugin that is not made with the macro can err.
fn understand(handle: InstanceHandle, registrations: &[abi::Registration]) -> Result<Vec<Registered>, String> {
    if handle.0 == 0 {
        return Err("it made no instance".into());
    }
    let (mut ops, mut notifiers) = (0, 0);
    let one = |r: &abi::Registration| {
        let (kind, counter) = match r.class {
            0 => (RegisteredKind::PernetSubsys, &mut ops),
            1 => (RegisteredKind::PernetDevice, &mut ops),
            2 => (RegisteredKind::Notifier(r.priority), &mut notifiers),
            other => return Err(format!("registration class {other} is unknown")),
        };
        if r.number != *counter {
            return Err(format!("`{}` has number {}, its turn is {counter}", r.name, r.number));
        }
        *counter += 1;
        if *counter as usize > Member::MOST {
            return Err(format!("more than {} of a kind", Member::MOST));
        }
        Ok(Registered { kind, name: r.name.to_string() })
    };
    registrations.iter().map(one).collect()
}
