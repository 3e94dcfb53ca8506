//! From a plugin's file to what its initcall needs: opened, judged, mapped, its configuration accepted, and put in order.
//!
//! Nothing of the plugin runs in a namespace here. One that is blacklisted is read and no more: mapping it would run
//! its constructors, which may be the very reason why it is on the list. Running it is `plugins.rs`'s and `boot.rs`'s.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{self, Config, PluginConfig, initcall_of};
use crate::engine::{self, Item, Level};
use crate::plugin::{self, Code, Judge};

use super::initcalls::{self, OWN};
use super::plugins::Trouble;

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
    /// Not there if it is blacklisted.
    pub(super) code: Option<Arc<Code>>,
    /// When that was, and how long it took.
    pub(super) prepared: (Instant, Duration),
}

impl Prepared {
    /// Same content, same configuration: such a plugin sees nothing of a reload, though its place may change.
    pub(super) fn same_as(&self, other: &Prepared) -> bool {
        self.sha256 == other.sha256 && self.config.same_meaning(&other.config)
    }

    /// What the other one, which takes its place, has that it has not.
    pub(super) fn difference(&self, other: &Prepared) -> &'static str {
        match (self.sha256 == other.sha256, self.config.same_meaning(&other.config)) {
            (false, true) => "its file has changed",
            (true, false) => "its configuration has changed",
            (false, false) => "its file and its configuration have changed",
            (true, true) => "it had panicked, or what it requires was replaced",
        }
    }

    /// The plugins among what it needs; the rest are the daemon's own initcalls, which no namespace knows.
    pub(super) fn required_plugins(&self) -> impl Iterator<Item = &String> {
        self.requires.iter().filter(|name| !initcalls::is_own(name))
    }

    /// What it needs, as initcalls are called.
    pub(super) fn required_initcalls(&self) -> Vec<String> {
        let called = |name: &String| if initcalls::is_own(name) { name.clone() } else { initcall_of(name) };
        self.requires.iter().map(called).collect()
    }
}

/// A plugin that cannot be prepared, and why.
pub(super) type Refusal = (Arc<PluginConfig>, Trouble);

/// Prepares every enabled plugin, in file order; what is refused is told, the rest go on.
pub(super) fn prepare_all(judge: &Judge, config: &Config) -> Vec<Result<Prepared, Refusal>> {
    let blacklist = initcalls::blacklist(config);
    let enabled = config.plugins.iter().filter(|p| p.enabled);
    enabled
        .map(|p| {
            let config = Arc::new(p.clone());
            let prepared = match blacklist.refuses(&initcall_of(&p.name)) {
                None => prepare(judge, &config),
                // Whatever may be wrong with the file, this is why it is not called.
                Some(failure) => read(judge, &config).map_err(|_| Trouble::blacklisted(&failure)),
            };
            prepared.map_err(|trouble| (config, trouble))
        })
        .collect()
}

/// Opens, checks and maps one plugin's file and lets it judge its configuration.
fn prepare(judge: &Judge, config: &Arc<PluginConfig>) -> Result<Prepared, Trouble> {
    let began = Instant::now();
    let file = open(judge, config)?;
    let code = Code::load(&file).map_err(|e| asked_by(config, "load", &e))?;
    code.check_config(&config.config_json)
        .map_err(|refusal| Trouble::mistake(&config.refusal(&refusal.field, &refusal.message)))?;
    of_note(config, &file, Some(code), began)
}

/// Reads one plugin's file and runs nothing of it.
fn read(judge: &Judge, config: &Arc<PluginConfig>) -> Result<Prepared, Trouble> {
    let began = Instant::now();
    of_note(config, &open(judge, config)?, None, began)
}

fn open(judge: &Judge, config: &PluginConfig) -> Result<plugin::file::PluginFile, Trouble> {
    plugin::file::open(judge, &config.file, Some(&config.name)).map_err(|e| asked_by(config, "open", &e))
}

fn of_note(
    config: &Arc<PluginConfig>,
    file: &plugin::file::PluginFile,
    code: Option<Arc<Code>>,
    began: Instant,
) -> Result<Prepared, Trouble> {
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
        prepared: (began, began.elapsed()),
    })
}

/// An error of a plugin's file, with the drop-in that asks for that file.
fn asked_by(config: &PluginConfig, step: &str, error: &plugin::PluginError) -> Trouble {
    Trouble::new(step, format!("{}: {error}", config.path().display())).asked_by(config.path())
}

/// The order in which plugins are registered, as indices into `prepared`. The daemon's own initcalls can be named, too.
pub(super) fn order(prepared: &[Prepared]) -> Result<Vec<usize>, Trouble> {
    let own = OWN.iter().map(|own| Item { name: own.name, level: own.level, file_name: "", after: &[], requires: &[] });
    let plugins = prepared.iter().map(|p| Item {
        name: &p.config.name,
        level: p.level,
        file_name: &p.config.file_name,
        after: &p.after,
        requires: &p.requires,
    });
    let items: Vec<Item<'_>> = own.chain(plugins).collect();
    let sorted = engine::order(&items).map_err(|error| {
        let plugin = prepared.iter().find(|p| p.config.name == error.plugin());
        plugin.map_or_else(|| Trouble::new("order", &error), |p| Trouble::mistake(&misplaced(p, &error)))
    })?;
    Ok(sorted.into_iter().filter_map(|at| at.checked_sub(OWN.len())).collect())
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

/// Splits what was prepared from what is refused; what requires a refused plugin is refused with it, and with why.
pub(super) fn sort_out(results: Vec<Result<Prepared, Refusal>>) -> (Vec<Prepared>, Vec<Refusal>) {
    let mut good = Vec::new();
    let mut refused: Vec<Refusal> = Vec::new();
    for result in results {
        match result {
            Ok(prepared) => good.push(prepared),
            Err(refusal) => refused.push(refusal),
        }
    }
    let lacks = |p: &Prepared, refused: &[Refusal]| {
        let (lost, why) = refused.iter().find(|(lost, _)| p.requires.contains(&lost.name))?;
        Some(Trouble::required(&lost.name, why))
    };
    while let Some((at, why)) = good.iter().enumerate().find_map(|(at, p)| Some((at, lacks(p, &refused)?))) {
        refused.push((good.remove(at).config, why));
    }
    (good, refused)
}
