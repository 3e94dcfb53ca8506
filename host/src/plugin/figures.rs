//! What the calls of plugins' hooks come to: how many, how long, how many failed, by plugin and hook.
//!
//! Counted where every call passes, by every worker at once: three relaxed additions at most, no lock and no memory but
//! the table that a plugin gets with its first instance. It outlives the instance, so that a reload resets nothing; there
//! is one for each name that was ever configured.
//!
//! Not here: who shows them (the plugin that asks, see [`super::host_figures`]).

use super::call::Hook;
use std::array::from_fn;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Upper bounds of the durations, in nanoseconds: 1 us to 10 s.
pub const BOUNDS: [u64; 11] = [
    1_000,
    10_000,
    100_000,
    250_000,
    1_000_000,
    2_500_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// The calls of one plugin's hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookFigures {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// `pernet.init`, …
    pub hook: &'static str,
    /// How many failed.
    pub errors: u64,
    /// All of them together.
    pub nanoseconds: u64,
    /// By [`BOUNDS`], not cumulative, and what took longer.
    pub calls: [u64; BOUNDS.len() + 1],
}

/// One hook's counters, on cache lines of their own: different hooks do not disturb each other.
#[derive(Default)]
#[repr(align(64))]
struct Counters {
    /// Known from its first call on.
    name: OnceLock<&'static str>,
    errors: AtomicU64,
    nanoseconds: AtomicU64,
    calls: [AtomicU64; BOUNDS.len() + 1],
}

/// The counters of one plugin, by [`Hook::index`].
pub(super) struct PluginFigures([Counters; Hook::INDICES]);

impl PluginFigures {
    fn new() -> Self {
        PluginFigures(from_fn(|_| Counters::default()))
    }

    /// A call has ended.
    pub(super) fn count(&self, hook: Hook, took: Duration, failed: bool) {
        let Some(counters) = self.0.get(hook.index()) else { return };
        counters.name.get_or_init(|| hook.as_str());
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // Most calls are short, so the search begins there.
        let at = BOUNDS.iter().position(|bound| nanoseconds <= *bound).unwrap_or(BOUNDS.len());
        counters.calls[at].fetch_add(1, Ordering::Relaxed);
        counters.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        if failed {
            counters.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Those that were called.
    fn read<'a>(&'a self, plugin: &'a Arc<str>) -> impl Iterator<Item = HookFigures> + 'a {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.0.iter().filter_map(move |counters| {
            Some(HookFigures {
                plugin: Arc::clone(plugin),
                hook: counters.name.get()?,
                errors: load(&counters.errors),
                nanoseconds: load(&counters.nanoseconds),
                calls: from_fn(|at| load(&counters.calls[at])),
            })
        })
    }
}

/// By plugin. Held for moments, when an instance is made and when somebody asks; never for a call.
static ALL: Mutex<BTreeMap<Arc<str>, Arc<PluginFigures>>> = Mutex::new(BTreeMap::new());

fn all() -> MutexGuard<'static, BTreeMap<Arc<str>, Arc<PluginFigures>>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The counters of this plugin.
pub(super) fn of(plugin: &Arc<str>) -> Arc<PluginFigures> {
    Arc::clone(all().entry(Arc::clone(plugin)).or_insert_with(|| Arc::new(PluginFigures::new())))
}

/// What the hooks of these plugins come to, in the order of their names.
#[must_use]
pub fn hook_figures(plugins: impl Fn(&str) -> bool) -> Vec<HookFigures> {
    let all = all().clone();
    all.iter().filter(|(name, _)| plugins(name)).flat_map(|(name, figures)| figures.read(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fs::FileOp;
    use super::super::ndo::Ndo;
    use super::*;
    use pernet_plugin_api::EventKind;
    use std::collections::BTreeSet;

    fn hooks() -> Vec<Hook> {
        use Hook::{
            Check, CtlFree, CtlRead, CtlWrite, Drop, DropWork, EthtoolStats, FsKillSb, FsMount, Init, Load, NetdevFree,
            PernetExit, PernetExitBatch, PernetFree, PernetInit, PernetPreExit, SockConnected, Work,
        };
        use {FileOp::*, Ndo as N};
        let mut hooks = vec![
            Load,
            Check,
            Init,
            Drop,
            PernetInit,
            PernetPreExit,
            PernetExit,
            PernetExitBatch,
            PernetFree,
            Work,
            DropWork,
            NetdevFree,
            EthtoolStats,
            FsMount,
            FsKillSb,
            SockConnected,
            CtlRead,
            CtlWrite,
            CtlFree,
        ];
        hooks.extend([Lookup, Getattr, Readdir, Open, Read, Write, Truncate, Readlink, Release].map(Hook::File));
        let ndos = [N::Init, N::Uninit, N::Open, N::Stop, N::ChangeMtu, N::SetMacAddress, N::GetStats, N::Destructor];
        hooks.extend(ndos.map(Hook::Ndo));
        hooks.extend((0..=u8::MAX).filter_map(EventKind::from_u8).map(Hook::Netdev));
        hooks
    }

    #[test]
    fn each_hook_has_a_number_of_its_own() {
        let hooks = hooks();
        let indices: BTreeSet<usize> = hooks.iter().map(|hook| hook.index()).collect();
        let names: BTreeSet<&str> = hooks.iter().map(|hook| hook.as_str()).collect();
        assert_eq!((indices.len(), names.len()), (hooks.len(), hooks.len()));
        assert!(indices.last().is_some_and(|last| *last < Hook::INDICES));
    }

    #[test]
    fn calls_are_sorted_by_how_long_they_took() {
        let figures = PluginFigures::new();
        for (nanoseconds, failed) in [(0, false), (1_000, false), (1_001, true), (10_000_000_001, true)] {
            figures.count(Hook::PernetInit, Duration::from_nanos(nanoseconds), failed);
        }
        figures.count(Hook::Work, Duration::from_micros(300), false);
        let read: Vec<_> = figures.read(&"p".into()).collect();
        let [init, work] = &read[..] else { panic!("{read:?}") };
        assert_eq!((init.hook, init.errors, init.nanoseconds), ("pernet.init", 2, 10_000_002_002));
        assert_eq!(init.calls, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!((work.hook, work.errors, work.calls[4]), ("work.run", 0, 1));
    }

    #[test]
    fn no_call_is_lost_between_threads() {
        let figures = PluginFigures::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| figures.count(Hook::CtlRead, Duration::ZERO, false)));
            }
        });
        assert_eq!(figures.read(&"p".into()).map(|hook| hook.calls[0]).collect::<Vec<_>>(), [40_000]);
    }
}
