//! The reload transaction, and the other works that need the pernet list for themselves: start, stop, and the removal
//! of a plugin that panicked.
//!
//! Two phases. *Prepare* reads and checks everything with the old set live; an error there changes nothing. *Commit*
//! works under the write token: what leaves exits in reverse order, what comes inits in order, and an error walks the
//! same steps back. These functions run on a thread of their own, never on the loop: hooks are called from here.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::config::{self, CommandLine, Config, Sysctls};
use crate::control::wire;
use crate::engine::{self, Net, PernetList, WriteToken};
use crate::plugin::{self, Judge};
use pernet_plugin_api::ExitReason;

use super::enlist::{delist, enlist};
use super::filesystems::{self, Filesystems};
use super::namespaces::complain;
use super::pernetfs::Readers;
use super::plugins::{self, Entry, Live, Maker, Plugins, Prepared, Trouble};
use super::running_set::{Failed, Running, RunningSet};
use super::services::Places;
use super::sockets::Sockets;
use super::sysctls::NetSysctl;

/// How long a writer waits for the hooks that run. Longer than any hook should take, shorter than an operator's patience.
const DRAIN: Duration = Duration::from_secs(20);

/// What the loop and these works share.
pub(super) struct Shared {
    /// The registration model.
    pub(super) list: Arc<PernetList>,
    /// Managed namespaces in creation order, by a number that counts. Held for moments, never across a hook.
    pub(super) nets: RwLock<BTreeMap<u64, Arc<Net>>>,
    /// Managed namespaces by cookie.
    pub(super) places: Arc<Places>,
    /// The plugins. Held for moments by the loop, and by these works only to read and to publish, not across a hook.
    pub(super) plugins: Mutex<Plugins>,
    /// Plugins' sockets and protocol families.
    pub(super) sockets: Arc<Sockets>,
    /// File system types and mounts.
    pub(super) filesystems: Arc<Filesystems>,
    /// Who may read `pernetfs`.
    pub(super) readers: Arc<Readers>,
    /// Makes instances.
    pub(super) maker: Maker,
    /// How long a plugin that goes is waited for, in seconds (`unregister_timeout`); a reload may change it, and a knob.
    pub(super) patience: AtomicU64,
    /// The sysctls of pernetd and its plugins.
    pub(super) sysctls: Arc<NetSysctl>,
    /// Judges plugin files; made before any namespace was entered.
    pub(super) judge: Judge,
}

/// What became of one plugin in a reload.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The plugin's name.
    pub(super) name: String,
    /// `kept`, `added`, `replaced`, `removed` or `failed`.
    pub(super) action: &'static str,
    /// What went wrong with it.
    pub(super) error: Option<String>,
}

/// What became of a reload.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// Whether the new set runs.
    pub(super) ok: bool,
    /// Per plugin, in registration order; removed ones last.
    pub(super) plugins: Vec<Row>,
    /// Why it did not succeed, as one text; several lines where several things are wrong.
    pub(super) error: Option<String>,
    /// How long no hook was admitted.
    pub(super) pause: Duration,
    /// The configuration that is now in force, if it changed.
    pub(super) config: Option<Arc<Config>>,
}

impl Shared {
    /// The plugins, whatever a panicking thread left.
    pub(super) fn plugins(&self) -> MutexGuard<'_, Plugins> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plugins as they are shown.
    pub(super) fn shown(&self) -> Arc<Vec<wire::Plugin>> {
        self.plugins().rows()
    }

    /// How long what goes is waited for.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(self.patience.load(Ordering::Relaxed))
    }

    /// Has what goes be waited for so many seconds.
    pub(super) fn set_patience(&self, seconds: u64) {
        self.patience.store(seconds, Ordering::Relaxed);
        self.list.set_unregister_timeout(Duration::from_secs(seconds));
    }

    /// Managed namespaces in creation order.
    pub(super) fn nets(&self) -> Vec<Arc<Net>> {
        self.nets.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Adds one as the youngest; its number.
    pub(super) fn add_net(&self, net: &Arc<Net>) -> u64 {
        let mut nets = self.nets.write().unwrap_or_else(PoisonError::into_inner);
        let birth = nets.last_key_value().map_or(0, |(last, _)| last + 1);
        nets.insert(birth, Arc::clone(net));
        birth
    }

    pub(super) fn remove_net(&self, birth: u64) {
        self.nets.write().unwrap_or_else(PoisonError::into_inner).remove(&birth);
    }

    fn write(&self) -> Result<WriteToken, Trouble> {
        self.list.write(DRAIN).map_err(|blocked| {
            let seconds = DRAIN.as_secs();
            let what = format!("{seconds} s passed while hooks were still running ({blocked}){}", hanging());
            Trouble::new("reload", format!("{what}; nothing was changed"))
        })
    }
}

/// The hooks that a writer waited for in vain, by name.
fn hanging() -> String {
    let hooks = plugin::running::running_for_longer_than(DRAIN / 2).into_iter();
    let hooks: Vec<String> = hooks.map(|r| format!("{} of {} in {}", r.hook, r.plugin, r.netns)).collect();
    if hooks.is_empty() { String::new() } else { format!(": {}", hooks.join(", ")) }
}

/// Brings up every plugin of the configuration before any namespace is known. A bad plugin file is refused and the
/// rest run; a contradiction in the order ends the start.
pub(super) fn start(shared: &Shared, config: &Config) -> Result<(), String> {
    let (good, refused) = sort_out(plugins::prepare_all(&shared.judge, config));
    let order = plugins::order(&good)?;
    let write = shared.write().map_err(|t| t.message)?;
    let mut entries = Vec::new();
    for (place, index) in order.into_iter().enumerate() {
        entries.push(bring_up(shared, &write, &good[index], place, &entries));
    }
    for entry in &refused {
        if let Entry::Refused(config, trouble) = entry {
            tracing::error!(plugin = config.name, "plugin refused: {}", trouble.message);
        }
    }
    entries.extend(refused);
    shared.plugins().put(entries);
    Ok(())
}

/// Splits what was prepared from what is refused; what requires a refused plugin is refused with it.
fn sort_out(results: Vec<Result<Prepared, (Arc<config::PluginConfig>, Trouble)>>) -> (Vec<Prepared>, Vec<Entry>) {
    let mut good = Vec::new();
    let mut refused = Vec::new();
    for result in results {
        match result {
            Ok(prepared) => good.push(prepared),
            Err((config, trouble)) => refused.push(Entry::Refused(config, trouble)),
        }
    }
    while let Some(i) =
        good.iter().position(|p: &Prepared| refused.iter().any(|r| p.requires.iter().any(|q| q == r.name())))
    {
        let orphan = good.remove(i);
        let why = Trouble::new("requires", "a plugin that it requires is refused; repair that one first");
        refused.push(Entry::Refused(orphan.config, why));
    }
    (good, refused)
}

fn bring_up(shared: &Shared, write: &WriteToken, prepared: &Prepared, place: usize, before: &[Entry]) -> Entry {
    let missing = prepared.requires.iter().find(|r| !before.iter().any(|e| e.name() == **r && e.live().is_some()));
    if let Some(missing) = missing {
        let why = format!("requires {missing}, which does not run; repair that one first");
        return Entry::Failed(prepared.clone(), Trouble::new("requires", why));
    }
    match register_new(shared, write, prepared, place) {
        Ok(live) => Entry::Live(live),
        Err(trouble) => {
            tracing::error!(plugin = prepared.config.name, "plugin failed: {}", trouble.message);
            Entry::Failed(prepared.clone(), trouble)
        }
    }
}

/// Makes an instance and registers it in every live namespace, or leaves nothing of it.
pub(super) fn register_new(
    shared: &Shared,
    write: &WriteToken,
    prepared: &Prepared,
    place: usize,
) -> Result<Live, Trouble> {
    let live = shared.maker.create(prepared, place)?;
    match enlist(shared, write, &live) {
        Ok(()) => Ok(live),
        Err(trouble) => {
            destroy(shared, live);
            Err(trouble)
        }
    }
}

pub(super) fn destroy(shared: &Shared, live: Live) {
    shared.plugins().ended(&live);
    if let Err(e) = shared.maker.end(&live, shared.patience()) {
        tracing::error!(plugin = live.prepared.config.name, "{e}");
        // A call that did not come out is still in there: what it may use is leaked, and dropping it would only wait
        // once more.
        std::mem::forget(live.instance);
    }
}

/// What a reload is going to do, worked out with the old set live.
struct Plan {
    config: Arc<Config>,
    /// The new set in its new order.
    new: Vec<Prepared>,
}

/// Reads the configuration again and brings the running set in line with it, or changes nothing.
pub(super) fn reload(shared: &Shared, command_line: &CommandLine) -> Report {
    let plan = match prepare(shared, command_line) {
        Ok(plan) => plan,
        Err(troubles) => return refused(&troubles),
    };
    let lines = Arc::new(plan.config.sysctls.clone());
    let waited = Instant::now();
    let (mut report, before) = match shared.write() {
        Ok(write) => {
            // What is registered on the way has them.
            let before = shared.sysctls.replace(lines);
            (commit(shared, &write, plan, &before), before)
        }
        Err(trouble) => return Report { pause: waited.elapsed(), ..refused(&[(String::new(), trouble)]) },
    };
    report.pause = waited.elapsed();
    if report.ok {
        // After the lock: handlers may wait for a namespace.
        shared.sysctls.changed(shared.nets(), before, shared.patience());
    }
    report
}

fn refused(troubles: &[(String, Trouble)]) -> Report {
    let rows = troubles.iter().filter(|(name, _)| !name.is_empty());
    let rows = rows.map(|(name, t)| Row { name: name.clone(), action: "failed", error: Some(t.told()) });
    let text: Vec<String> = troubles.iter().map(|(_, t)| t.told()).collect();
    Report { plugins: rows.collect(), error: Some(text.join("\n")), ..Report::default() }
}

fn prepare(shared: &Shared, command_line: &CommandLine) -> Result<Plan, Vec<(String, Trouble)>> {
    let config = Config::load(&command_line.paths()).map_err(|e| vec![(String::new(), Trouble::new("config", e))])?;
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for result in plugins::prepare_all(&shared.judge, &config) {
        match result {
            Ok(prepared) => good.push(prepared),
            Err((config, trouble)) => bad.push((config.name.clone(), trouble)),
        }
    }
    if !bad.is_empty() {
        return Err(bad);
    }
    let order = plugins::order(&good).map_err(|e| vec![(String::new(), Trouble::new("config", e))])?;
    let new: Vec<Prepared> = order.into_iter().map(|i| good[i].clone()).collect();
    Ok(Plan { config: Arc::new(config), new })
}

fn commit(shared: &Shared, write: &WriteToken, plan: Plan, lines_before: &Arc<Sysctls>) -> Report {
    let entries = shared.plugins().take();
    let old_names: Vec<String> = entries.iter().map(|e| e.name().to_owned()).collect();
    let mut set = RunningSet { shared, write, running: Vec::new() };
    let mut idle = Vec::new();
    for entry in entries {
        match entry {
            Entry::Live(live) => set.running.push(Running { live, registered: true }),
            other => idle.push(other),
        }
    }
    let old: Vec<Prepared> = set.running.iter().map(|r| r.live.prepared.clone()).collect();
    let before: HashSet<u64> = set.running.iter().map(|r| r.live.generation).collect();
    // A plugin of the set in force that had failed already holds nobody up by failing again.
    let in_force = idle.iter().filter(|e| !matches!(e, Entry::NotAdded(..)));
    let may_fail: HashSet<&str> = in_force.map(Entry::name).collect();

    match set.arrange(&plan.new, ExitReason::Replaced, &|name| may_fail.contains(name)) {
        Ok(failures) => {
            let entries = set.entries(&plan.new, failures);
            let report = success(plan.config, &entries, &old_names, &before);
            shared.plugins().put(entries);
            report
        }
        Err(error) => {
            shared.sysctls.replace(Arc::clone(lines_before));
            let (entries, report) = put_back(set, &old, idle, *error);
            shared.plugins().put(entries);
            report
        }
    }
}

/// After a failure on the way: the same walk towards the old set, and what is told of it.
fn put_back(
    mut set: RunningSet<'_>,
    old: &[Prepared],
    mut idle: Vec<Entry>,
    (failed, trouble): Failed,
) -> (Vec<Entry>, Report) {
    let name = failed.config.name.clone();
    let mut not_restored = set.arrange(old, ExitReason::RolledBack, &|_| true).unwrap_or_default();
    let mut text = format!("{name}: {}; the old set was put back", trouble.told());
    for (prepared, second) in &mut not_restored {
        text += &format!(", but {} did not come back: {}", prepared.config.name, second.told());
        second.message = format!("{}; and putting it back: {}", trouble.message, second.message);
    }
    let mut bad: Vec<_> = not_restored.iter().map(|(p, t)| (p.config.name.clone(), t.clone())).collect();
    if bad.iter().all(|(n, _)| *n != name) {
        bad.insert(0, (name.clone(), trouble.clone()));
    }
    let mut entries = set.entries(old, not_restored);
    idle.retain(|e| e.name() != name);
    entries.append(&mut idle);
    if !entries.iter().any(|e| e.name() == name) {
        entries.push(Entry::NotAdded(failed, trouble));
    }
    (entries, Report { error: Some(text), ..refused(&bad) })
}

fn success(config: Arc<Config>, entries: &[Entry], old_names: &[String], before: &HashSet<u64>) -> Report {
    let row = |e: &Entry| {
        let (action, error) = match e {
            Entry::Live(l) if before.contains(&l.generation) => ("kept", None),
            Entry::Live(l) if old_names.contains(&l.prepared.config.name) => ("replaced", None),
            Entry::Live(_) => ("added", None),
            Entry::Failed(_, t) | Entry::NotAdded(_, t) | Entry::Refused(_, t) => ("failed", Some(t.told())),
        };
        Row { name: e.name().to_owned(), action, error }
    };
    let mut rows: Vec<Row> = entries.iter().map(row).collect();
    let gone = old_names.iter().filter(|n| !entries.iter().any(|e| e.name() == *n));
    rows.extend(gone.map(|n| Row { name: n.clone(), action: "removed", error: None }));
    Report { ok: true, plugins: rows, config: Some(config), ..Report::default() }
}

/// Takes a plugin that panicked out of every namespace, with what requires it. Its exits are called once, guarded.
///
/// Only the generation that panicked: a reload may have put another in its place since.
pub(super) fn fail(shared: &Shared, name: &str, generation: u64, trouble: &Trouble) -> Result<(), Trouble> {
    // Before anybody is held up: only operations change who lives, and they take turns.
    if !shared.plugins().lives(name, generation) {
        return Ok(());
    }
    tracing::error!(plugin = name, "plugin failed: {}", trouble.message);
    let write = shared.write()?;
    let mut entries = shared.plugins().take();
    let dependents = shared.list.dependents(name);
    for entry in entries.iter_mut().rev() {
        let orphan = dependents.iter().any(|d| **d == *entry.name());
        if entry.live().is_none() || (entry.name() != name && !orphan) {
            continue;
        }
        let why = if orphan {
            Trouble::new("requires", format!("requires {name}, which failed; repair that one, then reload"))
        } else {
            trouble.clone()
        };
        let Some(live) = entry.live() else { continue };
        delist(shared, &write, live, ExitReason::Removed);
        let prepared = live.prepared.clone();
        if let Entry::Live(live) = std::mem::replace(entry, Entry::Failed(prepared, why)) {
            destroy(shared, live);
        }
    }
    shared.plugins().put(entries);
    Ok(())
}

/// Ends everything: exits in reverse in every namespace as one batch, then the plugins, newest first.
pub(super) fn stop(shared: &Shared) -> Result<(), Trouble> {
    shared.filesystems.stop(shared.patience());
    let write = shared.write()?;
    let nets = shared.nets();
    complain(&engine::cleanup_all(&write, &nets, ExitReason::Stopped));
    let entries = shared.plugins().take();
    for entry in entries.into_iter().rev() {
        if let Entry::Live(live) = entry {
            filesystems::withdraw(shared, &live);
            destroy(shared, live);
        }
    }
    Ok(())
}
