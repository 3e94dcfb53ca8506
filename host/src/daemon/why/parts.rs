//! Whether each plugin acts in a namespace, and why or why not.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{PluginConfig, Selected};
use crate::control::wire::Part;
use crate::engine::{Net, NetState};

use super::Witness;
use crate::daemon::plugins::Known;

/// Names of namespaces that are told of each group.
const MOST_NAMES: usize = 8;
/// Groups of namespaces that are told of a plugin.
const MOST_GROUPS: usize = 16;

impl Witness {
    /// Each plugin that is configured, in this namespace.
    pub(super) fn parts_in(&self, net: &Net) -> Vec<Part> {
        let acting = net.subsystems();
        let mut parts: Vec<Part> = self.known.iter().map(|known| self.part(net, &acting, known)).collect();
        let others = self.config.plugins.iter().filter(|config| self.known(&config.name).is_none());
        parts.extend(others.map(|config| not_known(net, config)));
        parts
    }

    /// This plugin in every namespace, those that are alike together.
    pub(super) fn parts_of(&self, known: &Known) -> Vec<Part> {
        let mut groups: BTreeMap<(bool, String), Part> = BTreeMap::new();
        for (net, _) in &self.nets {
            let part = self.part(net, &net.subsystems(), known);
            // What a plugin says often has the namespace's name in it, and is the same all the same.
            let alike = part.why.replace(&*net.name(), "…");
            let group = groups.entry((!part.acts, alike));
            let group = group.or_insert_with(|| Part { namespaces: Vec::new(), count: 0, ..part.clone() });
            group.count += 1;
            if group.namespaces.len() < MOST_NAMES {
                group.namespaces.extend(part.namespaces);
            }
        }
        groups.into_values().collect()
    }

    fn part(&self, net: &Net, acting: &[Arc<str>], known: &Known) -> Part {
        let name = &known.row.name;
        let acts = acting.iter().any(|plugin| **plugin == **name);
        let why = if acts { included(&known.config, net) } else { self.why_not(net, known) };
        Part { plugin: name.clone(), namespaces: vec![net.name().to_string()], count: 1, acts, why }
    }

    fn why_not(&self, net: &Net, known: &Known) -> String {
        let config = &known.config;
        if let Some(trouble) = &known.trouble {
            return match (&*trouble.hook, known.is_wanted) {
                ("initcall", _) => trouble.message.clone(),
                _ => format!("the plugin is {}: {}", known.row.state.as_str(), trouble.told()),
            };
        }
        if let Some(why) = not_selected(config, net) {
            return why;
        }
        if let Some(error) = net.absent().into_iter().find(|error| *error.plugin == *known.row.name) {
            return format!("{} failed: {}", error.hook, error.failure);
        }
        let unselected = |name: &&String| self.known(name).is_some_and(|it| not_selected(&it.config, net).is_some());
        if let Some(required) = known.requires.iter().find(unselected) {
            return format!("it requires {required}, which is not to act here");
        }
        match (net.failed(), net.state()) {
            (Some(error), _) if *error.plugin == *known.row.name => format!("{} failed: {}", error.hook, error.failure),
            (Some(error), _) => format!("the setup was undone, since {} failed", error.plugin),
            (None, NetState::Setup) => "the setup is not over".to_owned(),
            (None, NetState::Dying) => "the namespace is going".to_owned(),
            // It has registered nothing that a namespace could have.
            (None, _) => "it registers nothing for namespaces, or is just being taken in or out".to_owned(),
        }
    }
}

/// The first groups, the others as one: a plugin may fail for another reason in each of ten thousand namespaces.
pub(super) fn bounded(mut parts: Vec<Part>) -> Vec<Part> {
    if parts.len() <= MOST_GROUPS {
        return parts;
    }
    let rest = parts.split_off(MOST_GROUPS - 1);
    for acts in [true, false] {
        let alike: Vec<&Part> = rest.iter().filter(|part| part.acts == acts).collect();
        let Some(first) = alike.first() else { continue };
        let names = alike.iter().flat_map(|part| part.namespaces.iter().cloned());
        parts.push(Part {
            namespaces: names.take(MOST_NAMES).collect(),
            count: alike.iter().map(|part| part.count).sum(),
            why: format!("for {} other reasons: ask for each by itself", alike.len()),
            ..(*first).clone()
        });
    }
    parts
}

fn included(config: &PluginConfig, net: &Net) -> String {
    match config.selector.judge(&net.names(), net.is_host) {
        Selected::Included(glob) => format!("included by {glob:?}"),
        _ => "it is about to leave: its configuration no longer includes this namespace".to_owned(),
    }
}

fn not_selected(config: &PluginConfig, net: &Net) -> Option<String> {
    match config.selector.judge(&net.names(), net.is_host) {
        Selected::Included(_) => None,
        Selected::Excluded(glob) => Some(format!("excluded by {glob:?}, {}", config.place_of("namespaces"))),
        Selected::NotIncluded if net.is_host => {
            Some("only a glob that begins with @ includes the host's own namespace, and it has none".to_owned())
        }
        Selected::NotIncluded => Some(format!("no include fits, {}", config.place_of("namespaces"))),
    }
}

/// One that is configured, and was given no turn.
fn not_known(net: &Net, config: &PluginConfig) -> Part {
    let why = match config.enabled {
        false => format!("disabled, {}", config.place_of("enabled")),
        true => "it is not taken in yet".to_owned(),
    };
    Part { plugin: config.name.clone(), namespaces: vec![net.name().to_string()], count: 1, acts: false, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_reasons_there_are_the_story_is_short() {
        let part = |n: usize| Part {
            plugin: "p".into(),
            namespaces: vec![format!("n{n}")],
            count: 1,
            acts: n == 0,
            why: format!("pernet.init failed: {n}"),
        };
        let all: Vec<Part> = (0..10_000).map(part).collect();
        let told = bounded(all);
        assert_eq!((told.len(), told.iter().map(|part| part.count).sum::<u64>()), (MOST_GROUPS, 10_000));
        let last = told.last().map(|part| (part.namespaces.len(), part.acts, &*part.why));
        assert_eq!(last, Some((MOST_NAMES, false, "for 9985 other reasons: ask for each by itself")));
        assert_eq!(bounded((0..MOST_GROUPS).map(part).collect()).len(), MOST_GROUPS);
    }
}
