//! A plugin at work: code and configuration made into an instance, from the author's `init` to its `Drop`.
//!
//! Mirrors a module's states Coming, Live and Going. What `init` registered is data here; the engine carries it out
//! ([`Instance::member`], [`Instance::families`]). Once [`Instance::destroy`] has begun, no call goes in any more, and
//! the plugin's `Drop` runs when the last one has come out.
//!
//! Not here: the calls themselves ([`super::call`]), and which generation replaces which (daemon).

use super::PluginError;
use super::call::{Hook, NotifierCaller, PernetCaller, Place};
use super::family::FamilyCaller;
use super::fs::FsCaller;
use super::host_api::{self, HostServices};
use super::inner::{Inner, InstanceRef};
use super::load::Code;
use super::running::{Guard, running};
use super::status::failure_of;
use crate::engine::{Class, FileSystemType, Member, NetProtoFamily, Owner, Registration};
use crate::logging::catalog;
use pernet_plugin_api::abi::{self, CreateReturn, InstanceHandle};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    /// A protocol family; the name is by which others know it.
    Family,
    /// A file system type; true if it is for internal mounts only.
    FileSystem(bool),
}

/// A plugin instance. Dropping it ends it, if [`Instance::destroy`] has not.
pub struct Instance {
    inner: Arc<Inner>,
    registered: Vec<Registered>,
    /// Made once: a type is registered and unregistered as the same.
    filesystems: Vec<Arc<FileSystemType>>,
    ended: Mutex<bool>,
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
        let answer = start(&inner, config_json).inspect_err(|_| inner.forget())?;
        let _ = inner.handle.set(answer.instance);
        let understood = understand(answer.registrations.as_slice());
        let mut instance =
            Instance { inner, registered: Vec::new(), filesystems: Vec::new(), ended: Mutex::new(false) };
        match understood {
            Ok(registered) => {
                instance.filesystems = filesystems(&instance.inner, &registered);
                instance.registered = registered;
            }
            Err(what) => {
                instance.destroy()?;
                return Err(PluginError::Registrations { plugin: instance.name().to_string(), what });
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
                tracing::warn!(
                    message_id = catalog::WORK_FAILED,
                    plugin = %me.plugin,
                    generation = me.generation,
                    errno = failure.errno,
                    "work that init deferred cannot be queued: {failure}; it is dropped"
                );
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

    /// Its file system types, in the order in which it registered them.
    #[must_use]
    pub fn filesystems(&self) -> &[Arc<FileSystemType>] {
        &self.filesystems
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
        self.inner.is_poisoned()
    }

    /// A way to it that does not keep it.
    #[must_use]
    pub fn downgrade(&self) -> InstanceRef {
        InstanceRef::of(&self.inner)
    }

    /// What the engine registers in every namespace for it.
    #[must_use]
    pub fn member(&self, owner: Arc<Owner>) -> Member {
        let (mut ops, mut notifiers) = (0.., 0..);
        let registrations = self.registered.iter().filter_map(|registered| {
            let mut pernet = |class| {
                let op = ops.next().unwrap_or_default();
                let ops = Arc::new(PernetCaller { instance: Arc::clone(&self.inner), op });
                Some(Registration::Pernet { class, ops })
            };
            match registered.kind {
                RegisteredKind::PernetSubsys => pernet(Class::Subsys),
                RegisteredKind::PernetDevice => pernet(Class::Device),
                RegisteredKind::Notifier(priority) => {
                    let number = notifiers.next().unwrap_or_default();
                    let block = Arc::new(NotifierCaller { instance: Arc::clone(&self.inner), number });
                    Some(Registration::Notifier { priority, block })
                }
                RegisteredKind::FileSystem(_) | RegisteredKind::Family => None,
            }
        });
        Member::new(owner, registrations.collect())
    }

    /// The protocol families that it offers, in order.
    pub fn families(&self) -> impl Iterator<Item = (&str, Arc<dyn NetProtoFamily>)> {
        let families = self.registered.iter().filter(|registered| registered.kind == RegisteredKind::Family);
        (0..).zip(families).map(|(number, family)| {
            let ops = Arc::new(FamilyCaller { instance: Arc::clone(&self.inner), number });
            (&*family.name, ops as Arc<dyn NetProtoFamily>)
        })
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
        let called = (guard.since, guard.since.elapsed());
        drop(guard);
        let failure = failure_of(&status);
        inner.report(Hook::Drop, &Place::home(), failure.as_ref(), called);
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
            tracing::warn!(
                message_id = catalog::PLUGIN_STUCK,
                plugin = %self.inner.name,
                generation = self.inner.generation,
                "this instance did not end well: {error}"
            );
        }
    }
}

/// Runs the author's `init`.
fn start(inner: &Inner, config_json: &str) -> Result<CreateReturn, PluginError> {
    let guard = Guard::enter(inner.running(Hook::Init, &Place::home()));
    let answer = inner.code.module.create()(host_api::host_mod(), inner.token, config_json.into());
    let called = (guard.since, guard.since.elapsed());
    drop(guard);
    let failure = failure_of(&answer.status);
    inner.report(Hook::Init, &Place::home(), failure.as_ref(), called);
    let plugin = inner.name.to_string();
    match failure {
        Some(failure) => Err(PluginError::Init { plugin, failure }),
        None if answer.instance.0 == 0 => {
            Err(PluginError::Registrations { plugin, what: "it made no instance".into() })
        }
        None => Ok(answer),
    }
}

fn filesystems(inner: &Arc<Inner>, registered: &[Registered]) -> Vec<Arc<FileSystemType>> {
    let types = registered.iter().filter_map(|r| {
        if let RegisteredKind::FileSystem(internal) = r.kind { Some((&r.name, internal)) } else { None }
    });
    let one = |(number, (name, internal)): (u32, (&String, bool))| {
        let ops = Box::new(FsCaller { instance: Arc::clone(inner), number });
        let fs = FileSystemType::new(name.as_str(), Arc::clone(&inner.name), ops);
        Arc::new(if internal { fs.for_internal_mounts() } else { fs })
    };
    (0..).zip(types).map(one).collect()
}

/// What an answer of `create` registers, if it makes sense: only a plugin that is not made with the macro can err.
fn understand(registrations: &[abi::Registration]) -> Result<Vec<Registered>, String> {
    let (mut ops, mut notifiers, mut filesystems, mut families) = (0, 0, 0, 0);
    let one = |r: &abi::Registration| {
        let (kind, counter) = match r.class {
            0 => (RegisteredKind::PernetSubsys, &mut ops),
            1 => (RegisteredKind::PernetDevice, &mut ops),
            2 => (RegisteredKind::Notifier(r.priority), &mut notifiers),
            3 => (RegisteredKind::FileSystem(r.priority & 1 != 0), &mut filesystems),
            4 => (RegisteredKind::Family, &mut families),
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
