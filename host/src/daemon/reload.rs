//! The reload transaction, and the other works that need the pernet list for themselves: stop, and the removal of a
//! plugin that panicked. The start is `boot.rs`'s.
//!
//! Two phases. *Prepare* reads and checks everything with the old set live; an error there changes nothing. *Commit*
//! works under the write token: what leaves exits in reverse order, what comes inits in order, and an error walks the
//! same steps back. These functions run on a thread of their own, never on the loop: hooks are called from here.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::config::{CommandLine, Config, ConfigErrors, Sysctls, initcall_of};
use crate::control::wire;
use crate::engine::{self, Called, Net, Outcome, PernetList, Undo, WriteToken};
use crate::logging::catalog;
use crate::plugin::{self, Judge};
use pernet_plugin_api::ExitReason;

use super::boot::{self, Boot};
use super::chronicle::Chronicle;
use super::enlist::{delist, enlist};
use super::filesystems::{self, Filesystems};
use super::initcalls::{self, OWN};
use super::namespaces::complain;
use super::pernetfs::Readers;
use super::plugins::{Entry, Live, Maker, Plugins, Trouble};
use super::prepared::{Prepared, order, prepare_all, sort_out};
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
    /// What has happened to plugins, and what was known of what has gone.
    pub(super) chronicle: Arc<Chronicle>,
    /// What ran at the start; set once, then only read.
    pub(super) boot: OnceLock<Boot>,
    /// What takes the daemon's own parts back, oldest first; taken at the end.
    pub(super) parts: Mutex<Vec<Undo>>,
}

/// What became of one plugin in a reload.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The plugin's name.
    pub(super) name: String,
    /// `kept`, `added`, `replaced`, `removed` or `failed`.
    pub(super) action: &'static str,
    /// What went wrong with it, or why it is left out.
    pub(super) error: Option<String>,
    /// What has changed, of one that was replaced.
    pub(super) why: Option<&'static str>,
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
    /// The same one by one, each with its plugin if it is about one, for the log.
    pub(super) causes: Vec<(String, Trouble)>,
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

    /// The start is over.
    pub(super) fn booted(&self, boot: Boot, parts: Vec<Undo>) {
        let _ = self.boot.set(boot);
        *self.parts.lock().unwrap_or_else(PoisonError::into_inner) = parts;
    }

    pub(super) fn write(&self) -> Result<WriteToken, Trouble> {
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

/// Makes an instance and registers it in every live namespace, or leaves nothing of it.
pub(super) fn register_new(
    shared: &Shared,
    write: &WriteToken,
    prepared: &Prepared,
    place: usize,
) -> Result<Live, Trouble> {
    let began = Instant::now();
    let live = shared.maker.create(prepared, place)?;
    match enlist(shared, write, &live) {
        Ok(()) => {
            shared.chronicle.made(&live, began.elapsed());
            Ok(live)
        }
        Err(trouble) => {
            destroy(shared, live);
            Err(trouble)
        }
    }
}

pub(super) fn destroy(shared: &Shared, live: Live) {
    shared.plugins().ended(&live);
    shared.chronicle.said(&live.prepared.config.name, &format!("generation {} was ended", live.generation));
    if let Err(e) = shared.maker.end(&live, shared.patience()) {
        tracing::error!(
            message_id = catalog::PLUGIN_STUCK,
            plugin = live.prepared.config.name,
            generation = live.generation,
            "{e}"
        );
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
    /// Who is no part of it, because of the blacklist or for want of one of the daemon's own parts.
    left_out: Vec<Entry>,
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
    let rows = rows.map(|(name, t)| Row { name: name.clone(), action: "failed", error: Some(t.told()), why: None });
    let text: Vec<String> = troubles.iter().map(|(_, t)| t.told()).collect();
    Report { plugins: rows.collect(), error: Some(text.join("\n")), causes: troubles.to_vec(), ..Report::default() }
}

fn prepare(shared: &Shared, command_line: &CommandLine) -> Result<Plan, Vec<(String, Trouble)>> {
    let wrong = |e: ConfigErrors| e.0.iter().map(|e| (String::new(), Trouble::mistake(e))).collect::<Vec<_>>();
    let config = Config::load(&command_line.paths()).map_err(wrong)?;
    boot::judge_blacklist(&config, boot::doubt).map_err(wrong)?;
    let results = prepare_all(&shared.judge, &config);
    let refused = results.iter().filter_map(|result| result.as_ref().err());
    let bad: Vec<_> = refused.filter(|(_, trouble)| !trouble.is_blacklisting()).collect();
    if !bad.is_empty() {
        return Err(bad.into_iter().map(|(config, trouble)| (config.name.clone(), trouble.clone())).collect());
    }
    let (good, unread) = sort_out(results);
    let sorted = order(&good).map_err(|trouble| vec![(String::new(), trouble)])?;
    let (new, mut left_out) = admit(shared, &config, sorted.into_iter().map(|at| &good[at]));
    left_out.extend(unread.into_iter().map(|(config, trouble)| Entry::Refused(config, trouble)));
    Ok(Plan { config: Arc::new(config), new, left_out })
}

/// Who of the plugins in their order may run, by the rules of a boot; and who not. The daemon's own parts stay as they
/// are, whatever the list says of them now.
fn admit<'a>(
    shared: &Shared,
    config: &Config,
    ordered: impl Iterator<Item = &'a Prepared>,
) -> (Vec<Prepared>, Vec<Entry>) {
    let blacklist = initcalls::blacklist(config);
    let mut before: Vec<Called> = shared.boot.get().map_or_else(Vec::new, |boot| boot.own.clone());
    warn_of_own(&before, config);
    let (mut new, mut left_out) = (Vec::new(), Vec::new());
    for prepared in ordered {
        let name = initcall_of(&prepared.config.name);
        let obstacle = engine::obstacle(&name, &prepared.required_initcalls(), &before, &blacklist);
        match &obstacle {
            None => new.push(prepared.clone()),
            Some(outcome) => left_out.push(boot::not_called(prepared, outcome, &before, &left_out)),
        }
        let (start, took, outcome) = (Duration::ZERO, Duration::ZERO, obstacle.unwrap_or(Outcome::Done));
        before.push(Called { name, level: prepared.level, vital: false, start, took, outcome });
    }
    (new, left_out)
}

/// A part that has started is not stopped, and one that has not is not started, before the next start.
fn warn_of_own(own: &[Called], config: &Config) {
    let blacklist = initcalls::blacklist(config);
    for part in own.iter().filter(|call| OWN.iter().any(|own| own.name == call.name)) {
        let was = matches!(part.outcome, Outcome::Blacklisted(_));
        if was != blacklist.refuses(&part.name).is_some() {
            let name = &part.name;
            tracing::warn!(
                message_id = catalog::NEEDS_RESTART,
                key = "initcall_blacklist",
                "initcall_blacklist has changed for {name}; it stays as it was until pernetd is started again"
            );
        }
    }
}

fn commit(shared: &Shared, write: &WriteToken, plan: Plan, lines_before: &Arc<Sysctls>) -> Report {
    let entries = shared.plugins().take();
    let old_names: Vec<String> = entries.iter().map(|e| e.name().to_owned()).collect();
    let replaced = |name: &str, old: &[Prepared]| {
        let before = old.iter().find(|p| p.config.name == name)?;
        let after = plan.new.iter().find(|p| p.config.name == name)?;
        Some(before.difference(after))
    };
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
    // A plugin of the set in force that had failed already holds nobody up by failing again. One that was left out was
    // not in force.
    let in_force = idle.iter().filter(|e| !matches!(e, Entry::NotAdded(..) | Entry::Skipped(..)));
    let may_fail: HashSet<&str> = in_force.map(Entry::name).collect();

    match set.arrange(&plan.new, ExitReason::Replaced, &|name| may_fail.contains(name)) {
        Ok(failures) => {
            let mut entries = set.entries(&plan.new, failures);
            entries.extend(plan.left_out);
            let report = success(plan.config, &entries, (&old_names, &before), &|name| replaced(name, &old));
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
    let mut rest = String::from("; the old set was put back");
    for (prepared, second) in &mut not_restored {
        rest += &format!(", but {} did not come back: {}", prepared.config.name, second.told());
        second.message = format!("{}; and putting it back: {}", trouble.message, second.message);
    }
    let mut bad: Vec<_> = not_restored.iter().map(|(p, t)| (p.config.name.clone(), t.clone())).collect();
    if bad.iter().all(|(n, _)| *n != name) {
        bad.insert(0, (name.clone(), trouble.clone()));
    }
    let text = format!("{name}: {}{rest}", trouble.told());
    let mut cause = trouble.clone();
    cause.message += &rest;
    let mut causes = vec![(name.clone(), cause)];
    causes.extend(bad.iter().filter(|(n, _)| *n != name).cloned());
    let mut entries = set.entries(old, not_restored);
    idle.retain(|e| e.name() != name);
    entries.append(&mut idle);
    if !entries.iter().any(|e| e.name() == name) {
        entries.push(Entry::NotAdded(failed, trouble));
    }
    (entries, Report { error: Some(text), causes, ..refused(&bad) })
}

fn success(
    config: Arc<Config>,
    entries: &[Entry],
    (old_names, before): (&[String], &HashSet<u64>),
    difference: &dyn Fn(&str) -> Option<&'static str>,
) -> Report {
    let row = |e: &Entry| {
        let (action, error) = match e {
            Entry::Live(l) if before.contains(&l.generation) => ("kept", None),
            Entry::Live(l) if old_names.contains(&l.prepared.config.name) => ("replaced", None),
            Entry::Live(_) => ("added", None),
            Entry::Skipped(_, t) => ("removed", Some(t.told())),
            Entry::Refused(_, t) if t.is_blacklisting() => ("removed", Some(t.told())),
            Entry::Failed(_, t) | Entry::NotAdded(_, t) | Entry::Refused(_, t) => ("failed", Some(t.told())),
        };
        let why = if action == "replaced" { difference(e.name()) } else { None };
        Row { name: e.name().to_owned(), action, error, why }
    };
    let mut rows: Vec<Row> = entries.iter().map(row).collect();
    let gone = old_names.iter().filter(|n| !entries.iter().any(|e| e.name() == *n));
    rows.extend(gone.map(|n| Row { name: n.clone(), action: "removed", error: None, why: None }));
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
    tracing::error!(
        message_id = catalog::PLUGIN_PANICKED,
        plugin = name,
        generation,
        "plugin failed: {}; its exits are called, and no other hook until it is reloaded",
        trouble.message
    );
    shared.chronicle.said(name, &format!("it is poisoned and taken out everywhere: {}", trouble.message));
    let write = shared.write()?;
    let mut entries = shared.plugins().take();
    let dependents = shared.list.dependents(name);
    for entry in entries.iter_mut().rev() {
        let orphan = dependents.iter().any(|d| **d == *entry.name());
        if entry.live().is_none() || (entry.name() != name && !orphan) {
            continue;
        }
        let why = if orphan { Trouble::required(name, trouble) } else { trouble.clone() };
        if orphan {
            shared.chronicle.said(entry.name(), &format!("it is taken out: {}", why.told()));
        }
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
    // What plugins stood on goes after them.
    let parts = std::mem::take(&mut *shared.parts.lock().unwrap_or_else(PoisonError::into_inner));
    parts.into_iter().rev().for_each(|undo| undo());
    Ok(())
}
