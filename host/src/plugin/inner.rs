//! An instance as everybody shares it who may call it: the call edge, the host's table, work that was deferred.
//!
//! It says who the instance is, lets calls in through its gate, and knows whether it is there yet, has panicked, or is
//! gone. [`InstanceRef`] is the daemon's way to it, which does not keep it.
//!
//! Not here: its making and its end ([`super::instance`]).

use super::call::{Hook, Place};
use super::device_name::DeviceName;
use super::gate::Gate;
use super::host_api::{self, HookRecord, HostServices};
use super::load::Code;
use super::running::Running;
use crate::engine::{At, Failure};
use pernet_plugin_api::abi::InstanceHandle;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Work that init deferred: the namespaces and the work's number.
pub(super) type Early = Vec<(Vec<u64>, u64)>;

pub(super) struct Inner {
    pub(super) name: Arc<str>,
    pub(super) generation: u64,
    pub(super) token: u64,
    pub(super) code: Arc<Code>,
    pub(super) services: Arc<dyn HostServices>,
    pub(super) gate: Gate,
    pub(super) handle: OnceLock<InstanceHandle>,
    poisoned: AtomicBool,
    /// What was deferred before there was an instance to call; none from then on.
    early: Mutex<Option<Early>>,
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

    /// Whether its end has begun: nothing is called any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.inner.upgrade().is_none_or(|inner| inner.is_closed())
    }

    fn upgrade(&self) -> Result<Arc<Inner>, Failure> {
        let gone =
            || Failure::new(libc::ESTALE, format!("plugin `{}` (generation {}) is gone", self.plugin, self.generation));
        self.inner.upgrade().ok_or_else(gone)
    }
}

impl Inner {
    pub(super) fn new(code: &Arc<Code>, generation: u64, services: Arc<dyn HostServices>) -> Self {
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

    pub(super) fn early(&self) -> MutexGuard<'_, Option<Early>> {
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
            other: place.other,
            netns: Arc::clone(&place.netns),
            device: place.device.map(DeviceName::new).unwrap_or_default(),
            is_free: place.is_free,
            since: Instant::now(),
            token: self.token,
        }
    }

    pub(super) fn report(
        &self,
        hook: Hook,
        place: &Place<'_>,
        failure: Option<&Failure>,
        (since, duration): (Instant, Duration),
    ) {
        self.services.hook_called(HookRecord {
            plugin: &self.name,
            hook: hook.as_str(),
            netns: &place.netns,
            cookie: place.last,
            device: place.device,
            result: failure.map_or(Ok(()), Err),
            since,
            duration,
        });
    }

    /// The instance is no more, or never came to be: its token is nobody's, its code is used by one less.
    pub(super) fn forget(&self) {
        self.gate.close(Duration::ZERO);
        self.early().take();
        host_api::forget(self.token);
        self.code.instances.fetch_sub(1, Ordering::Relaxed);
    }
}
