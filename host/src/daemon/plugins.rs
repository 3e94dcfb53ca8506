//! The plugins as the operator sees them: one entry per configured plugin, live, failed or refused.
//!
//! It owns the instances and how one is made from a file; which entries change, in which order, is `reload.rs`'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::{self, Config, OnStop, PluginConfig};
use crate::control::wire;
use crate::engine::{self, HookError, Item, Level, Member, OnInitFailure, OwnDevice, Owner};
use crate::plugin::{self, Code, HostServices, Instance, Judge, PluginError};

use super::services::Services;

/// Why a plugin is not live.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    /// The namespace that it failed in, if it was one.
    pub(super) namespace: Option<String>,
    /// The hook that failed, or the step of loading (`open`, `config`, `plugin.init`, …).
    pub(super) hook: String,
    /// What, where, and what to do.
    pub(super) message: String,
}

impl Trouble {
    /// Trouble outside any namespace.
    pub(super) fn new(hook: &str, message: impl ToString) -> Self {
        Trouble { namespace: None, hook: hook.to_owned(), message: message.to_string() }
    }
}

impl Trouble {
    /// With the hook and the namespace, for where these are not shown beside it.
    pub(super) fn told(&self) -> String {
        self.namespace
            .as_ref()
            .map_or_else(|| self.message.clone(), |netns| format!("{} in {netns}: {}", self.hook, self.message))
    }
}

impl From<&HookError> for Trouble {
    fn from(e: &HookError) -> Self {
        Trouble { namespace: Some(e.netns.to_string()), hook: e.hook.to_owned(), message: e.failure.to_string() }
    }
}

/// A file that passed every check that needs no effect: trusted, read, mapped, its configuration accepted.
#[derive(Clone)]
pub(super) struct Prepared {
    /// Its file's section of the configuration.
    pub(super) config: Arc<PluginConfig>,
    /// What was read from the note.
    pub(super) version: String,
    /// Level by its note.
    pub(super) level: Level,
    /// Content hash, lower-case hexadecimal.
    pub(super) sha256: String,
    /// What it comes after, by configuration and note together.
    pub(super) after: Vec<String>,
    /// What it needs, by configuration and note together.
    pub(super) requires: Vec<String>,
    code: Arc<Code>,
}

impl Prepared {
    /// Same content, same configuration: such a plugin sees nothing of a reload, though its place may change.
    pub(super) fn same_as(&self, other: &Prepared) -> bool {
        self.sha256 == other.sha256 && self.config.same_meaning(&other.config)
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
            Entry::Failed(prepared, _) | Entry::NotAdded(prepared, _) => &prepared.config,
            Entry::Refused(config, _) => config,
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

/// Opens, checks and maps one plugin's file and lets it judge its configuration; nothing of it runs in a namespace.
pub(super) fn prepare(judge: &Judge, config: &Arc<PluginConfig>) -> Result<Prepared, Trouble> {
    let file = plugin::file::open(judge, &config.file, Some(&config.name))
        .map_err(|e| Trouble::new("open", asked_by(config, &e)))?;
    let code = Code::load(&file).map_err(|e| Trouble::new("load", asked_by(config, &e)))?;
    code.check_config(&config.config_json)
        .map_err(|refusal| Trouble::new("config", config.refusal(&refusal.field, &refusal.message)))?;
    let level = Level::ALL
        .into_iter()
        .find(|l| l.as_str() == file.note.level)
        .ok_or_else(|| Trouble::new("open", format!("{}: unknown level {}", config.file.display(), file.note.level)))?;
    let both = |a: &[String], b: &[String]| a.iter().chain(b).cloned().collect::<Vec<_>>();
    Ok(Prepared {
        config: Arc::clone(config),
        version: file.note.version.clone(),
        level,
        sha256: file.sha256.clone(),
        after: both(&config.after, &file.note.after),
        requires: both(&config.requires, &file.note.requires),
        code,
    })
}

/// An error of a plugin's file, with the drop-in that asks for that file.
fn asked_by(config: &PluginConfig, error: &plugin::PluginError) -> String {
    format!("{}: {error}", config.path().display())
}

/// Prepares every enabled plugin, in file order; what is refused is told, the rest go on.
pub(super) fn prepare_all(judge: &Judge, config: &Config) -> Vec<Result<Prepared, (Arc<PluginConfig>, Trouble)>> {
    let enabled = config.plugins.iter().filter(|p| p.enabled);
    enabled
        .map(|p| {
            let config = Arc::new(p.clone());
            prepare(judge, &config).map_err(|trouble| (config, trouble))
        })
        .collect()
}

/// The order in which plugins are registered, as indices into `prepared`.
pub(super) fn order(prepared: &[Prepared]) -> Result<Vec<usize>, String> {
    let items: Vec<Item<'_>> = prepared
        .iter()
        .map(|p| Item {
            name: &p.config.name,
            level: p.level,
            file_name: &p.config.file_name,
            after: &p.after,
            requires: &p.requires,
        })
        .collect();
    engine::order(&items).map_err(|error| {
        let plugin = prepared.iter().find(|p| p.config.name == error.plugin());
        plugin.map_or_else(|| error.to_string(), |p| misplaced(p, &error).to_string())
    })
}

/// An error of the order, at the key that names the other plugin; the file's own note may name it too.
fn misplaced(plugin: &Prepared, error: &engine::OrderError) -> config::ConfigError {
    const OWN: &str = "the plugin's own file asks for that; configure the other plugin to suit, or disable this one";
    let config = &plugin.config;
    let names = |list: &[String]| error.other().is_some_and(|other| list.iter().any(|name| name == other));
    let key = if names(&config.requires) {
        "requires"
    } else if names(&config.after) {
        "after"
    } else {
        return config.key_error("", error.to_string(), OWN);
    };
    config.key_error(key, error.to_string(), error.hint())
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
        // Before its init, which may allocate.
        self.services.owners.insert(&owner);
        match Instance::create(&prepared.code, generation, &config.config_json, services) {
            Ok(instance) => Ok(Live { prepared: prepared.clone(), generation, owner, instance }),
            Err(e) => {
                self.services.ended(&owner);
                Err(Trouble::new("plugin.init", e))
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
    owner.requires = prepared.requires.iter().map(|r| r.as_str().into()).collect();
    owner.selects = Box::new(move |net| config.selects(&net.names(), net.is_host));
    owner
}

/// All entries. An operation takes them, rearranges them and puts them back; the rows are what is shown meanwhile.
#[derive(Default)]
pub(super) struct Plugins {
    /// In registration order: live ones as registered, failed ones where they would be; last those that have no place,
    /// the refused.
    entries: Vec<Entry>,
    rows: Arc<Vec<wire::Plugin>>,
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
            Entry::Refused(config, trouble) => wire::Plugin { error: error(trouble), ..bare_row(config, order) },
        }
    }
}
