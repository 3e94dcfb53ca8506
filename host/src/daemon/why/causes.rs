//! The chain of causes: from an error to what it comes from, the nearest first.
//!
//! A plugin that is absent for want of another leads to that one, a plugin that does not run to its file or to the one that it
//! requires, and an error that names a key of the plugin's configuration to the place of that key.

use crate::control::errno_name;
use crate::control::wire::Cause;
use crate::engine::{HookError, Net};

use super::Witness;
use crate::daemon::plugins::{Known, REPAIR};

/// No chain is longer; a cycle cannot be, but a mistake must not hang the one who asks.
const LONGEST: usize = 16;

pub(super) fn bare(what: impl Into<String>) -> Cause {
    Cause {
        what: what.into(),
        plugin: None,
        hook: None,
        netns: None,
        errno: None,
        place: None,
        time: None,
        duration_us: None,
    }
}

impl Witness {
    /// Why this error came about in a namespace.
    pub(super) fn chain_of(&self, net: &Net, error: &HookError) -> Vec<Cause> {
        let absent = net.absent();
        let mut chain = Vec::new();
        let mut error = error.clone();
        while chain.len() < LONGEST {
            chain.push(of_error(&error));
            if error.failure.panicked {
                chain.push(bare("a plugin that panicked is poisoned: only its exits are called until it is made anew"));
                return chain;
            }
            // It is absent for want of another one, which has a reason of its own.
            let requires = self.known(&error.plugin).map(|known| known.requires.clone()).unwrap_or_default();
            let waits = error.failure.errno == libc::ENODEV && error.failure.message.starts_with("requires `");
            let required = absent.iter().find(|other| waits && requires.iter().any(|name| **name == *other.plugin));
            let Some(required) = required.filter(|required| required.plugin != error.plugin) else { break };
            error = required.clone();
        }
        chain.extend(self.of_key(&error.plugin, &error.failure.message));
        chain
    }

    /// The key of the plugin's configuration that a message of its names.
    pub(super) fn of_key(&self, plugin: &str, message: &str) -> Option<Cause> {
        let (key, place) = self.known(plugin)?.config.key_named_in(message)?;
        let what = format!("its configuration says so: the key {key}");
        Some(Cause { plugin: Some(plugin.to_owned()), place: Some(place), ..bare(what) })
    }

    /// The one for want of which a plugin does not run, if it is that.
    pub(super) fn lost_by(&self, known: &Known) -> Option<&Known> {
        let trouble = known.trouble.as_ref()?;
        let waits = trouble.hook == "requires" || trouble.message.starts_with("requires `");
        let required = known.requires.iter().chain(&known.config.requires).filter(|_| waits);
        required.filter_map(|name| self.known(name)).find(|required| !required.is_live())
    }

    /// Why a plugin does not run.
    pub(super) fn chain_of_plugin(&self, known: &Known) -> Vec<Cause> {
        let mut chain = Vec::new();
        let mut known = known;
        while let Some(trouble) = known.trouble.as_ref().filter(|_| chain.len() < LONGEST) {
            let name = &known.row.name;
            let about = Cause {
                plugin: Some(name.clone()),
                hook: Some(trouble.hook.clone()),
                netns: trouble.namespace.clone(),
                errno: Some(errno_name(trouble.errno).into_owned()),
                ..bare("")
            };
            if let Some(lost) = self.lost_by(known) {
                let what = format!("plugin {name} requires {}, which does not run", lost.row.name);
                let place = Some(known.config.place_of("requires"));
                chain.push(Cause { what, place, ..about });
                known = lost;
                continue;
            }
            let why = trouble.message.strip_suffix(REPAIR).unwrap_or(&trouble.message);
            let at = trouble.namespace.as_ref().map_or_else(String::new, |netns| format!(" in {netns}"));
            let what = match &*trouble.hook {
                "panic" => format!("plugin {name} is poisoned: {why}"),
                "open" => format!("the file of plugin {name} is refused: {why}"),
                "config" => format!("the configuration of plugin {name} is refused: {why}"),
                "load" => format!("the file of plugin {name} cannot be loaded: {why}"),
                "initcall" => why.to_owned(),
                hook => format!("{hook} of plugin {name} failed{at}: {why}"),
            };
            let place = if matches!(&*trouble.hook, "open" | "load") {
                Some(known.row.file.clone())
            } else {
                known.config.key_named_in(why).map(|(_, place)| place)
            };
            chain.push(Cause { what, place, ..about });
            chain.extend(self.of_panic(known));
            break;
        }
        chain
    }

    /// In which hook, where.
    fn of_panic(&self, known: &Known) -> Option<Cause> {
        known.trouble.as_ref().filter(|trouble| trouble.hook == "panic")?;
        let (at, answer) = self.shared.chronicle.plugin(&known.row.name)?.panic?;
        let netns = (!answer.netns.is_empty()).then(|| answer.netns.to_string());
        let place = netns.as_ref().map_or_else(String::new, |netns| format!(" in {netns}"));
        let device = answer.device.as_ref().map_or_else(String::new, |device| format!(" for {device}"));
        let what = format!("{} panicked{place}{device}: {}", answer.hook, answer.failure.message);
        let time = Some(at.text());
        Some(Cause {
            time,
            plugin: Some(known.row.name.clone()),
            hook: Some(answer.hook.to_owned()),
            netns,
            ..bare(what)
        })
    }
}

pub(super) fn of_error(error: &HookError) -> Cause {
    let how = if error.failure.panicked { "panicked" } else { "failed" };
    let whose = if &*error.plugin == "pernetd" { "pernetd".to_owned() } else { format!("plugin {}", error.plugin) };
    Cause {
        what: format!("{} of {whose} {how}: {}", error.hook, error.failure),
        plugin: Some(error.plugin.to_string()),
        hook: Some(error.hook.to_owned()),
        netns: (!error.netns.is_empty()).then(|| error.netns.to_string()),
        errno: Some(errno_name(error.failure.errno).into_owned()),
        ..bare("")
    }
}
