//! The plugins as the operator sees them: one entry per configured plugin, live, failed or refused.
//!
//! It owns the instances and how one is made from what was prepared; which entries change, in which order, is `boot.rs`'s
//! and `reload.rs`'s.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::{self, ConfigError, OnStop, PluginConfig, Position};
use crate::control::wire;
use crate::engine::{Failure, HookError, Member, OnInitFailure, OwnDevice, Owner};
use crate::plugin::{HostServices, Instance, PluginError};

use super::prepared::Prepared;
use super::services::Services;

/// Why a plugin is not live.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    /// The namespace that it failed in, if it was one.
    pub(super) namespace: Option<String>,
    /// The hook that failed, or the step of loading (`open`, `config`, `plugin.init`, …).
    pub(super) hook: String,
    /// As the kernel would answer.
    pub(super) errno: i32,
    /// The file of the configuration that is the reason, and where in it.
    at: Option<Box<(PathBuf, Option<Position>)>>,
    /// What, where, and what to do.
    pub(super) message: String,
}

/// The hook of one that is not called at all.
const INITCALL: &str = "initcall";

/// How the trouble of one that requires another ends.
pub(super) const REPAIR: &str = "; repair that one first";

impl Trouble {
    /// Trouble outside any namespace.
    pub(super) fn new(hook: &str, message: impl ToString) -> Self {
        let (hook, message) = (hook.to_owned(), message.to_string());
        Trouble { namespace: None, hook, errno: libc::EINVAL, at: None, message }
    }

    /// A mistake in the configuration.
    pub(super) fn mistake(error: &ConfigError) -> Self {
        Trouble { at: Some(Box::new((error.file.clone(), error.position))), ..Trouble::new("config", error) }
    }

    /// A file of the configuration asks for what is wrong.
    pub(super) fn asked_by(self, file: &Path) -> Self {
        Trouble { at: Some(Box::new((file.to_owned(), None))), ..self }
    }

    /// The file of the configuration that is the reason.
    pub(super) fn file(&self) -> Option<&Path> {
        self.at.as_deref().map(|(file, _)| &**file)
    }

    /// Logs it: an error of this id, about this plugin unless it has no name.
    pub(super) fn tell(&self, message_id: &str, plugin: &str, text: &str) {
        let at = self.at.as_deref();
        let (file, position) = at.map_or((None, None), |(file, at)| (Some(file.display()), *at));
        tracing::error!(
            message_id,
            plugin = Some(plugin).filter(|plugin| !plugin.is_empty()),
            netns = self.namespace,
            // Not a step of the loading.
            hook = Some(&*self.hook).filter(|hook| hook.contains('.')),
            errno = self.errno,
            config_file = file.map(tracing::field::display),
            config_line = position.map(|at| at.line),
            config_column = position.map(|at| at.column),
            "{text}"
        );
    }

    /// It is on the list: what its initcall got.
    pub(super) fn blacklisted(failure: &Failure) -> Self {
        Trouble { errno: failure.errno, ..Trouble::new(INITCALL, &failure.message) }
    }

    /// It requires one that does not run, and this is why that one does not.
    pub(super) fn required(lost: &str, why: &Trouble) -> Self {
        let told = why.told();
        let why = told.strip_suffix(REPAIR).unwrap_or(&told);
        Trouble::not_called(&format!("requires `{lost}`, which does not run: {why}{REPAIR}"))
    }

    /// Its initcall was not called, for want of another.
    pub(super) fn not_called(why: &str) -> Self {
        Trouble { errno: libc::ENODEV, ..Trouble::new("requires", why) }
    }

    /// Whether the list itself is the trouble.
    pub(super) fn is_blacklisting(&self) -> bool {
        self.hook == INITCALL
    }

    /// As an initcall answers.
    pub(super) fn failure(&self) -> Failure {
        Failure::new(self.errno, self.told())
    }

    /// With the hook and the namespace, for where these are not shown beside it.
    pub(super) fn told(&self) -> String {
        self.namespace
            .as_ref()
            .map_or_else(|| self.message.clone(), |netns| format!("{} in {netns}: {}", self.hook, self.message))
    }
}

impl From<&HookError> for Trouble {
    fn from(e: &HookError) -> Self {
        Trouble {
            namespace: Some(e.netns.to_string()),
            hook: e.hook.to_owned(),
            errno: e.failure.errno,
            at: None,
            message: e.failure.to_string(),
        }
    }
}

/// A plugin that runs.
pub(super) struct Live {
    /// What it was made from; kept so that a failed reload can make it again.
    pub(super) prepared: Prepared,
    /// Counts over the daemon's life, so that no two instances share one.
    pub(super) generation: u64,
    /// The engine's view of it.
    pub(super) owner: Arc<Owner>,
    /// The instance itself.
    pub(super) instance: Instance,
}

/// One row of `pernetctl plugin list`.
pub(super) enum Entry {
    /// Running.
    Live(Live),
    /// Its init failed or it panicked; retried by a reload.
    Failed(Prepared, Trouble),
    /// It failed while a reload added it, and with it the reload: shown, but no part of the set in force.
    NotAdded(Prepared, Trouble),
    /// Its initcall is blacklisted, or it requires one that is.
    Skipped(Prepared, Trouble),
    /// Its file or configuration is not acceptable.
    Refused(Arc<PluginConfig>, Trouble),
}

impl Entry {
    /// The plugin's name.
    pub(super) fn name(&self) -> &str {
        &self.config().name
    }

    /// Its configuration.
    pub(super) fn config(&self) -> &Arc<PluginConfig> {
        match self {
            Entry::Live(live) => &live.prepared.config,
            Entry::Failed(prepared, _) | Entry::NotAdded(prepared, _) | Entry::Skipped(prepared, _) => &prepared.config,
            Entry::Refused(config, _) => config,
        }
    }

    /// Why it does not run.
    pub(super) fn trouble(&self) -> Option<&Trouble> {
        match self {
            Entry::Live(_) => None,
            Entry::Failed(_, trouble)
            | Entry::NotAdded(_, trouble)
            | Entry::Skipped(_, trouble)
            | Entry::Refused(_, trouble) => Some(trouble),
        }
    }

    /// The running plugin, if it runs.
    pub(super) fn live(&self) -> Option<&Live> {
        match self {
            Entry::Live(live) => Some(live),
            _ => None,
        }
    }
}

/// Makes instances, each with a generation of its own.
pub(super) struct Maker {
    next_generation: AtomicU64,
    services: Arc<Services>,
}

impl Maker {
    /// A maker whose instances call `services`.
    pub(super) fn new(services: Arc<Services>) -> Self {
        Maker { next_generation: AtomicU64::new(1), services }
    }

    /// Runs the plugin's own init. What it declares is not yet registered: [`Live::member`] is for that.
    pub(super) fn create(&self, prepared: &Prepared, place: usize) -> Result<Live, Trouble> {
        let generation = self.next_generation.fetch_add(1, Ordering::Relaxed);
        let config = &prepared.config;
        let services = Arc::clone(&self.services) as Arc<dyn HostServices>;
        let owner = Arc::new(owner(prepared, generation, place));
        let Some(code) = &prepared.code else {
            return Err(Trouble::new("load", "it was blacklisted when its file was read, so its code is not there"));
        };
        // Before its init, which may allocate.
        self.services.owners.insert(&owner);
        match Instance::create(code, generation, &config.config_json, services) {
            Ok(instance) => Ok(Live { prepared: prepared.clone(), generation, owner, instance }),
            Err(e) => {
                self.services.ended(&owner);
                let errno = if let PluginError::Init { failure, .. } = &e { failure.errno } else { libc::EINVAL };
                Err(Trouble { errno, ..Trouble::new("plugin.init", e) })
            }
        }
    }

    /// Ends an instance whose registrations are undone. What it allocated is dropped in it, so before its `Drop`.
    pub(super) fn end(&self, live: &Live, patience: Duration) -> Result<(), PluginError> {
        self.services.ending(&live.owner);
        live.instance.destroy_within(patience)?;
        self.services.ended(&live.owner);
        Ok(())
    }

    /// From here on plugins may have devices of their own.
    pub(super) fn open_netdevs(&self) {
        self.services.netdevs.open();
    }

    /// Plugins' own devices that are unregistered and still held.
    pub(super) fn held(&self) -> Vec<Arc<OwnDevice>> {
        self.services.netdevs.held()
    }
}

impl Live {
    /// What the engine registers for this plugin.
    pub(super) fn member(&self) -> Arc<Member> {
        Arc::new(self.instance.member(Arc::clone(&self.owner)))
    }
}

fn owner(prepared: &Prepared, generation: u64, place: usize) -> Owner {
    let config = Arc::clone(&prepared.config);
    let on_init_failure = match config.on_init_failure {
        config::OnInitFailure::Rollback => OnInitFailure::Rollback,
        config::OnInitFailure::Skip => OnInitFailure::Skip,
    };
    let mut owner = Owner::new(config.name.as_str(), generation, place);
    owner.on_init_failure = on_init_failure;
    owner.undo_on_stop = config.on_stop == OnStop::Undo;
    owner.requires = prepared.required_plugins().map(|r| r.as_str().into()).collect();
    owner.selects = Box::new(move |net| config.selects(&net.names(), net.is_host));
    owner
}

/// What is known of a configured plugin, for who asks why it is as it is.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) config: Arc<PluginConfig>,
    /// As it is shown, without the count of namespaces.
    pub(super) row: wire::Plugin,
    /// By configuration and note together; empty where its file was refused.
    pub(super) after: Vec<String>,
    pub(super) requires: Vec<String>,
    /// Why it does not run.
    pub(super) trouble: Option<Trouble>,
    /// It is left out because of the blacklist, as the operator wants.
    pub(super) is_wanted: bool,
    /// Its failure is the reload's that would have added it.
    pub(super) not_added: bool,
}

impl Known {
    fn of(entry: &Entry, row: &wire::Plugin) -> Known {
        let prepared = match entry {
            Entry::Live(live) => Some(&live.prepared),
            Entry::Failed(prepared, _) | Entry::NotAdded(prepared, _) | Entry::Skipped(prepared, _) => Some(prepared),
            Entry::Refused(..) => None,
        };
        let names = |names: fn(&Prepared) -> &Vec<String>| prepared.map(names).cloned().unwrap_or_default();
        let is_wanted = match entry {
            Entry::Refused(_, trouble) => trouble.is_blacklisting(),
            entry => matches!(entry, Entry::Skipped(..)),
        };
        Known {
            config: Arc::clone(entry.config()),
            row: row.clone(),
            after: names(|prepared| &prepared.after),
            requires: names(|prepared| &prepared.requires),
            trouble: entry.trouble().cloned(),
            is_wanted,
            not_added: matches!(entry, Entry::NotAdded(..)),
        }
    }

    /// Whether it runs.
    pub(super) fn is_live(&self) -> bool {
        self.trouble.is_none()
    }
}

/// All entries. An operation takes them, rearranges them and puts them back; the rows are what is shown meanwhile.
#[derive(Default)]
pub(super) struct Plugins {
    /// In registration order: live ones as registered, failed ones where they would be; last those that have no place,
    /// the refused.
    entries: Vec<Entry>,
    rows: Arc<Vec<wire::Plugin>>,
    /// The same, with why.
    known: Arc<Vec<Known>>,
    /// Ended generations whose code is mapped for good.
    ended: Vec<wire::Plugin>,
}

impl Plugins {
    /// The entries, for an operation that will [`Plugins::put`] them.
    pub(super) fn take(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries)
    }

    /// The entries as they are from now on, in registration order.
    pub(super) fn put(&mut self, entries: Vec<Entry>) {
        let mut rows: Vec<wire::Plugin> = (0..).zip(&entries).map(|(order, entry)| entry.row(order)).collect();
        self.known = Arc::new(entries.iter().zip(&rows).map(|(entry, row)| Known::of(entry, row)).collect());
        // The same code may run again, in another generation: then it is not retired.
        let in_use =
            |row: &wire::Plugin| entries.iter().filter_map(Entry::live).any(|l| l.prepared.sha256 == row.sha256);
        let retired = self.ended.iter().filter(|row| !in_use(row)).cloned();
        rows.extend((rows.len() as u64..).zip(retired).map(|(order, row)| wire::Plugin { order, ..row }));
        self.entries = entries;
        self.rows = Arc::new(rows);
    }

    /// Whether this generation of the plugin runs.
    pub(super) fn lives(&self, name: &str, generation: u64) -> bool {
        self.entries
            .iter()
            .filter_map(Entry::live)
            .any(|l| l.prepared.config.name == name && l.generation == generation)
    }

    /// Remembers a generation that has ended.
    pub(super) fn ended(&mut self, live: &Live) {
        let row = live.row(0, wire::PluginState::retired);
        self.ended.retain(|r| r.sha256 != row.sha256);
        self.ended.push(row);
    }

    /// The configured ones, with why each is as it is.
    pub(super) fn known(&self) -> Arc<Vec<Known>> {
        Arc::clone(&self.known)
    }

    /// What is shown, without the counts of namespaces.
    pub(super) fn rows(&self) -> Arc<Vec<wire::Plugin>> {
        Arc::clone(&self.rows)
    }
}

impl Live {
    fn row(&self, order: u64, state: wire::PluginState) -> wire::Plugin {
        wire::Plugin { state, generation: self.generation, ..self.prepared.row(order) }
    }
}

impl Prepared {
    fn row(&self, order: u64) -> wire::Plugin {
        wire::Plugin {
            version: self.version.clone(),
            level: self.level.as_str().to_owned(),
            sha256: self.sha256.clone(),
            ..bare_row(&self.config, order)
        }
    }
}

/// What is known of a plugin whose file has told nothing yet.
fn bare_row(config: &PluginConfig, order: u64) -> wire::Plugin {
    wire::Plugin {
        name: config.name.clone(),
        version: String::new(),
        state: wire::PluginState::refused,
        level: String::new(),
        order,
        file: config.file.display().to_string(),
        sha256: String::new(),
        generation: 0,
        namespaces: 0,
        error: None,
    }
}

impl Entry {
    fn row(&self, order: u64) -> wire::Plugin {
        let error = |t: &Trouble| {
            let (namespace, hook, message) = (t.namespace.clone(), t.hook.clone(), t.message.clone());
            Some(wire::PluginError { namespace, hook, message })
        };
        match self {
            Entry::Live(live) => live.row(order, wire::PluginState::live),
            Entry::Failed(prepared, trouble) | Entry::NotAdded(prepared, trouble) => {
                wire::Plugin { state: wire::PluginState::failed, error: error(trouble), ..prepared.row(order) }
            }
            Entry::Skipped(prepared, trouble) => {
                wire::Plugin { state: wire::PluginState::refused, error: error(trouble), ..prepared.row(order) }
            }
            Entry::Refused(config, trouble) => wire::Plugin { error: error(trouble), ..bare_row(config, order) },
        }
    }
}
