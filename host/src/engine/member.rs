//! Who is registered: a plugin's configuration as the engine needs it, and what the plugin registered, in order.
//!
//! Mirrors `struct pernet_operations` and `struct notifier_block`. The traits are the engine's only way to a plugin;
//! `plugin/call.rs` implements them over the ABI, tests in memory.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use pernet_plugin_api::{ExitReason, Verdict};

use super::failure::{Failure, HookError};
use super::generic::Area;
use super::net::Net;
use super::notifier::NetdevEvent;

/// Where a hook is called: the namespace, and the plugin's own areas in it by op number.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// The namespace.
    pub net: &'a Net,
    /// The private areas of the same plugin's ops; empty slots are 0.
    pub areas: &'a [Area],
}

/// A pernet operation (`struct pernet_operations`).
///
/// Everything but `exit_batch` is called inside the namespace, under its RTNL; `exit_batch` at home.
pub trait Operations: Send + Sync {
    /// The namespace appears, or this op does. What is returned fills the op's slot.
    fn init(&self, at: &At<'_>) -> Result<Area, Failure>;
    /// Everything of the plugin is still in force and is about to go.
    fn pre_exit(&self, at: &At<'_>, reason: ExitReason) -> Result<(), Failure>;
    /// This op goes. Its area, and those of the plugin's other ops, are still there.
    fn exit(&self, at: &At<'_>, reason: ExitReason) -> Result<(), Failure>;
    /// This op's exits have run in all these namespaces.
    fn exit_batch(&self, nets: &[At<'_>], reason: ExitReason) -> Result<(), Failure>;
    /// Drops an area, after every op's exit.
    fn free(&self, area: Area) -> Result<(), Failure>;
}

/// A netdevice notifier (`struct notifier_block`). Called inside the namespace, under its RTNL.
pub trait NotifierBlock: Send + Sync {
    /// Something happened to a device.
    fn call(&self, at: &At<'_>, event: &NetdevEvent<'_>) -> Result<Verdict, Failure>;
}

/// Which half of the list an op belongs to (K1.1(1)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Initialised before the namespace's devices are told, and gone after them.
    Subsys,
    /// Initialised after the namespace's devices are told, and gone before them.
    Device,
}

/// What a failing init does to the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnInitFailure {
    /// The kernel's rules: a setup fails as a whole, a registration is undone everywhere (K1.2).
    #[default]
    Rollback,
    /// The plugin is absent in that namespace, which is degraded; the rest go on.
    Skip,
}

/// Whether a plugin acts in a namespace, by its names.
pub type Selects = Box<dyn Fn(&Net) -> bool + Send + Sync>;

/// A plugin instance as its configuration describes it.
pub struct Owner {
    /// The plugin's name, unique in the list.
    pub name: Arc<str>,
    /// Which instance of it: counts from 1 with each reload that changes it.
    pub generation: u64,
    /// What a failing init does to the rest.
    pub on_init_failure: OnInitFailure,
    /// Exits at the daemon's end are told `Removed`, and so undo, instead of `Stopped`.
    pub undo_on_stop: bool,
    /// Whether it acts in a namespace. Judged at setup and again when names change.
    pub selects: Selects,
    /// Plugins without which it is absent.
    pub requires: Vec<Arc<str>>,
    place: AtomicUsize,
    poison: OnceLock<HookError>,
    /// It was told that it cannot refuse what the kernel did.
    told_off: AtomicBool,
}

impl Owner {
    /// A plugin with the defaults: rolls back, leaves effects at a stop, acts everywhere, requires nothing.
    ///
    /// `place` is its position by configuration (see [`super::order`]); the list is sorted by it.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, generation: u64, place: usize) -> Self {
        Owner {
            name: name.into(),
            generation,
            on_init_failure: OnInitFailure::default(),
            undo_on_stop: false,
            selects: Box::new(|_| true),
            requires: Vec::new(),
            place: AtomicUsize::new(place),
            poison: OnceLock::new(),
            told_off: AtomicBool::new(false),
        }
    }

    /// Its position by configuration.
    #[must_use]
    pub fn place(&self) -> usize {
        self.place.load(Ordering::Relaxed)
    }

    pub(super) fn set_place(&self, place: usize) {
        self.place.store(place, Ordering::Relaxed);
    }

    /// Whether it panicked: nothing more is asked of it except its exits.
    #[must_use]
    pub fn poisoned(&self) -> bool {
        self.poison.get().is_some()
    }

    /// The panic that poisoned it.
    #[must_use]
    pub fn poison_error(&self) -> Option<&HookError> {
        self.poison.get()
    }

    /// Marks it as panicked. The first error stays.
    pub fn poison(&self, why: HookError) {
        let _ = self.poison.set(why);
    }

    /// Whether this is the first time that it refuses what cannot be refused.
    pub(super) fn refuses_first(&self) -> bool {
        !self.told_off.load(Ordering::Relaxed) && !self.told_off.swap(true, Ordering::Relaxed)
    }

    /// The reason that this plugin's exits are told.
    pub(super) fn told(&self, reason: ExitReason) -> ExitReason {
        if reason == ExitReason::Stopped && self.undo_on_stop { ExitReason::Removed } else { reason }
    }
}

/// One thing that a plugin registered.
pub enum Registration {
    /// A pernet subsystem or pernet device. Its number is its position among the plugin's pernet registrations.
    Pernet {
        /// Which half of the list.
        class: Class,
        /// Its hooks.
        ops: Arc<dyn Operations>,
    },
    /// A netdevice notifier. Its number is its position among the plugin's notifiers.
    Notifier {
        /// Higher is called earlier (K3.1).
        priority: i32,
        /// Its hook.
        block: Arc<dyn NotifierBlock>,
    },
}

/// A step of a registration, by number within its kind.
#[derive(Clone, Copy)]
pub(super) enum Step {
    Op(usize),
    Notifier(usize),
}

/// One plugin instance with what it registered, in the order in which it did.
pub struct Member {
    /// The plugin.
    pub owner: Arc<Owner>,
    ops: Vec<(Class, Arc<dyn Operations>)>,
    notifiers: Vec<(i32, Arc<dyn NotifierBlock>)>,
    steps: Vec<Step>,
}

impl Member {
    /// At most so many pernet ops, and so many notifiers, per plugin.
    pub const MOST: usize = 64;

    /// A plugin and its registrations in order.
    #[must_use]
    pub fn new(owner: Arc<Owner>, registrations: Vec<Registration>) -> Self {
        let mut member = Member { owner, ops: Vec::new(), notifiers: Vec::new(), steps: Vec::new() };
        for registration in registrations {
            match registration {
                Registration::Pernet { class, ops } => {
                    member.steps.push(Step::Op(member.ops.len()));
                    member.ops.push((class, ops));
                }
                Registration::Notifier { priority, block } => {
                    member.steps.push(Step::Notifier(member.notifiers.len()));
                    member.notifiers.push((priority, block));
                }
            }
        }
        member
    }

    /// The pernet ops by number.
    #[must_use]
    pub fn ops(&self) -> &[(Class, Arc<dyn Operations>)] {
        &self.ops
    }

    /// The notifiers by number, each with its priority.
    #[must_use]
    pub fn notifiers(&self) -> &[(i32, Arc<dyn NotifierBlock>)] {
        &self.notifiers
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Where its first hook stands in a setup: among the subsystems, at the replay, among the devices.
    pub(super) fn first_phase(&self) -> u8 {
        if self.ops.iter().any(|(class, _)| *class == Class::Subsys) {
            0
        } else if self.notifiers.is_empty() {
            2
        } else {
            1
        }
    }
}
