//! What has happened to plugins, and what was known of namespaces that have gone: for who asks why.
//!
//! A namespace's own past is kept with it ([`Place`](super::place::Place)); here is what belongs to none, or outlives it.
//! Written where something goes wrong, at a reload, and at a namespace's end, never by a hook that ends well. Its locks are
//! held for moments. Everything is bounded: entries per plugin, plugins that are gone, namespaces that are gone.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pernet_plugin_api::NetCookie;

use crate::engine::{Failure, HookError, Net, NetState};
use crate::plugin::HookRecord;

use super::device_past::DevicePast;
use super::past::{Answer, Moment, Past, span};
use super::place::place_of;
use super::plugins::{Entry, Live, Trouble};
use super::reload::Report;
use super::services::Places;

/// Namespaces that have gone.
const MOST_GRAVES: usize = 256;
/// Their devices.
const MOST_DEVICES: usize = 256;
/// Plugins, those that are gone included.
const MOST_PLUGINS: usize = 256;

/// Why a namespace's exits ran, and what came of them.
#[derive(Clone)]
pub(crate) struct Farewell {
    began: Moment,
    pub(super) took: Duration,
    pub(super) errors: Vec<HookError>,
}

impl Farewell {
    /// Runs the exits.
    pub(super) fn of(exits: impl FnOnce() -> Vec<HookError>) -> Farewell {
        let (began, since) = (Moment::now(), std::time::Instant::now());
        let errors = exits();
        Farewell { began, took: since.elapsed(), errors }
    }

    /// When that began.
    pub(super) fn began(&self) -> Moment {
        self.began
    }
}

/// A namespace that has gone.
#[derive(Clone)]
pub(super) struct Grave {
    pub(super) names: Vec<Arc<str>>,
    pub(super) cookie: NetCookie,
    pub(super) generation: u32,
    pub(super) born: Moment,
    /// What it was before its end began.
    pub(super) state: NetState,
    pub(super) why: &'static str,
    pub(super) farewell: Farewell,
    pub(super) past: Past,
}

/// A device that has gone with its namespace.
#[derive(Clone)]
pub(super) struct DeviceGrave {
    pub(super) netns: Arc<str>,
    pub(super) past: Arc<DevicePast>,
}

#[derive(Default)]
struct Graves {
    nets: VecDeque<Grave>,
    devices: VecDeque<DeviceGrave>,
}

/// A plugin's past.
#[derive(Clone, Default)]
pub(super) struct PluginPast {
    /// Starts, replacements, ends.
    pub(super) lives: Past,
    /// What its hooks answered.
    pub(super) answers: Past,
    /// The panic that poisoned it last, and when.
    pub(super) panic: Option<(Moment, Answer)>,
    /// When its last instance was made.
    pub(super) made: Option<Moment>,
}

/// What a reload failed of: what is wrong one by one, each with its plugin if it is about one.
#[derive(Clone)]
struct Refusal {
    at: Moment,
    causes: Vec<(String, Trouble)>,
}

/// All of it.
#[derive(Default)]
pub(super) struct Chronicle {
    plugins: Mutex<BTreeMap<Arc<str>, PluginPast>>,
    graves: Mutex<Graves>,
    /// Of the last reload, if it failed.
    refusal: Mutex<Option<Refusal>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Chronicle {
    /// A hook has ended with an error: told to the plugin's past, and to that of the namespace or the device.
    pub(super) fn answered(&self, record: &HookRecord<'_>, failure: &Failure, places: &Places) {
        let answer = Answer {
            plugin: Arc::clone(record.plugin),
            hook: record.hook,
            netns: Arc::clone(record.netns),
            device: record.device.map(Into::into),
            failure: failure.clone(),
        };
        if let Some(net) = record.cookie.and_then(|cookie| places.get(cookie))
            && let Some(place) = place_of(&net)
        {
            match record.device {
                Some(name) => place.devices.answered(name, || index_of(&net, name), answer.clone()),
                None => place.past().answered(answer.clone(), record.duration),
            }
        }
        self.with(record.plugin, |past| {
            if failure.panicked {
                past.panic = Some((Moment::now(), answer.clone()));
            }
            past.answers.answered(answer, record.duration);
        });
    }

    fn with(&self, plugin: &str, f: impl FnOnce(&mut PluginPast)) {
        let mut plugins = lock(&self.plugins);
        if let Some(past) = plugins.get_mut(plugin) {
            return f(past);
        }
        if plugins.len() == MOST_PLUGINS {
            // The one that was told of longest ago.
            let last = |past: &PluginPast| past.lives.iter().chain(past.answers.iter()).map(|it| it.last).max();
            let oldest = plugins.iter().min_by_key(|(_, past)| last(past)).map(|(name, _)| Arc::clone(name));
            oldest.map(|name| plugins.remove(&name));
        }
        f(plugins.entry(plugin.into()).or_default());
    }

    pub(super) fn plugin(&self, name: &str) -> Option<PluginPast> {
        lock(&self.plugins).get(name).cloned()
    }

    pub(super) fn plugin_names(&self) -> Vec<String> {
        lock(&self.plugins).keys().map(ToString::to_string).collect()
    }

    /// Something happened to a plugin.
    pub(super) fn said(&self, plugin: &str, what: &str) {
        self.with(plugin, |past| past.lives.said(what));
    }

    /// An instance is there, made in so long.
    pub(super) fn made(&self, live: &Live, took: Duration) {
        let Live { prepared, generation, .. } = live;
        let what = format!("generation {generation} was made in {}, version {}", span(took), prepared.version);
        self.with(&prepared.config.name, |past| {
            past.lives.said(what);
            past.made = Some(Moment::now());
        });
    }

    /// What the start came to, for those that do not run.
    pub(super) fn booted(&self, entries: &[Entry]) {
        for entry in entries {
            if let Some(trouble) = entry.trouble() {
                self.said(entry.name(), &format!("the start left it out: {}", trouble.told()));
            }
        }
    }

    /// What a reload came to, for those that it changed.
    pub(super) fn reloaded(&self, report: &Report, generation: u64) {
        let Report { ok, plugins, causes, .. } = report;
        let which = if *ok { format!("reload to generation {generation}") } else { "a reload that failed".to_owned() };
        for row in plugins.iter().filter(|row| row.action != "kept") {
            let error = row.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
            let why = row.why.as_ref().map_or_else(String::new, |why| format!(", since {why}"));
            self.said(&row.name, &format!("{} by {which}{why}{error}", row.action));
        }
        *lock(&self.refusal) = (!ok).then(|| Refusal { at: Moment::now(), causes: causes.clone() });
    }

    /// What the last reload failed of, as far as it is about this plugin: itself, or its file of the configuration.
    pub(super) fn refusal(&self, plugin: &str, file: &Path) -> Option<(Moment, Trouble)> {
        let refusal = lock(&self.refusal);
        let Refusal { at, causes } = refusal.as_ref()?;
        let mine = |(name, trouble): &&(String, Trouble)| name == plugin || trouble.file() == Some(file);
        causes.iter().find(mine).map(|(_, trouble)| (*at, trouble.clone()))
    }

    /// A namespace has gone.
    pub(super) fn bury(&self, grave: Grave, devices: Vec<DevicePast>) {
        let mut graves = lock(&self.graves);
        let netns = grave.names.first().cloned().unwrap_or_default();
        for past in devices {
            if graves.devices.len() == MOST_DEVICES {
                graves.devices.pop_front();
            }
            graves.devices.push_back(DeviceGrave { netns: Arc::clone(&netns), past: Arc::new(past) });
        }
        if graves.nets.len() == MOST_GRAVES {
            graves.nets.pop_front();
        }
        graves.nets.push_back(grave);
    }

    /// The last namespace of this name that has gone.
    pub(super) fn grave(&self, name: &str) -> Option<Grave> {
        lock(&self.graves).nets.iter().rev().find(|grave| grave.names.iter().any(|it| **it == *name)).cloned()
    }

    /// The last devices of this name that have gone with their namespaces, the last one first.
    pub(super) fn device_graves(&self, name: &str) -> Vec<DeviceGrave> {
        lock(&self.graves).devices.iter().rev().filter(|grave| grave.past.is_called(name)).cloned().collect()
    }

    /// The names of all that has gone: namespaces, devices.
    pub(super) fn gone_names(&self) -> (Vec<String>, Vec<String>) {
        let graves = lock(&self.graves);
        let nets = graves.nets.iter().flat_map(|grave| &grave.names).map(ToString::to_string).collect();
        (nets, graves.devices.iter().map(|grave| grave.past.link.name.clone()).collect())
    }
}

fn index_of(net: &Net, name: &str) -> Option<(crate::engine::Link, u64)> {
    let devices = net.devices();
    devices.iter().find(|device| device.link.name == name).map(|device| (device.link.clone(), device.serial))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grave(name: &str) -> Grave {
        Grave {
            names: vec![name.into()],
            cookie: NetCookie(1),
            generation: 1,
            born: Moment::now(),
            state: NetState::Live,
            why: "its name was removed",
            farewell: Farewell::of(Vec::new),
            past: Past::default(),
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_last_counts() {
        let chronicle = Chronicle::default();
        (0..=MOST_GRAVES).for_each(|n| chronicle.bury(grave(&n.to_string()), Vec::new()));
        assert!(chronicle.grave("0").is_none() && chronicle.grave("1").is_some());
        chronicle.bury(Grave { generation: 7, ..grave("1") }, Vec::new());
        assert_eq!(chronicle.grave("1").map(|grave| grave.generation), Some(7));
        (0..=MOST_PLUGINS).for_each(|n| chronicle.said(&format!("p{n}"), "made"));
        assert_eq!(chronicle.plugin_names().len(), MOST_PLUGINS);
        assert!(chronicle.plugin("p0").is_none(), "the oldest goes");
    }
}
