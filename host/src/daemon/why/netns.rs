//! The story of a namespace.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{self, PluginConfig};
use crate::control::StoryKind;
use crate::control::wire::{Cause, Fact, Happening, Part, Story};
use crate::engine::{Holder, HookError, Net, NetState};
use crate::plugin::running::{Running, running, thread_of};

use super::causes::of_error;
use super::{SeenNet, Witness, blank, fact, listed};
use crate::daemon::boot::micros;
use crate::daemon::chronicle::Grave;
use crate::daemon::past::{Answer, Moment, bare_row, many, span};
use crate::daemon::plugins::Known;
use crate::daemon::requests::shown_state;
use crate::daemon::shell_word::{operand, why_command};

/// What a namespace's state came from and leads to.
struct Outlook {
    what: String,
    causes: Vec<Cause>,
    next: String,
    next_time: Option<String>,
    remedies: Vec<String>,
}

impl SeenNet {
    /// When the hook was called that this cause is about, and for how long, if that was in the last setup.
    fn date(&self, cause: &mut Cause) {
        let (Some(plugin), Some(hook), Some(setup)) = (&cause.plugin, &cause.hook, &self.setup) else { return };
        if let Some((time, took)) = setup.failing(plugin, hook) {
            cause.time = Some(Moment::from(time).text());
            cause.duration_us = Some(micros(took));
        }
    }
}

impl Witness {
    pub(super) fn of_netns(&self) -> Vec<Story> {
        if !self.named.is_empty() {
            return self.named.iter().map(|seen| self.netns(seen)).collect();
        }
        self.shared.chronicle.grave(&self.name).map(|grave| of_grave(&self.name, &grave)).into_iter().collect()
    }

    fn netns(&self, seen: &SeenNet) -> Story {
        let SeenNet { net, place, setup, .. } = seen;
        let state = shown_state(net);
        let Outlook { what, causes, next, next_time, remedies } = self.outlook(seen);
        let rolled_back = matches!(net.state(), NetState::Failed | NetState::Degraded);
        let undone = setup.as_ref().filter(|_| rolled_back).map(|setup| setup.undone(&net.name())).unwrap_or_default();
        let past = place.past();
        let mut happenings = vec![bare_row(seen.born, "it was found, or added")];
        happenings.extend(past.rows());
        let left_off = past.left_off.into();
        drop(past);
        Story {
            since: Some(seen.since.text()),
            causes,
            undone,
            next,
            next_time,
            remedies,
            parts: self.parts_in(net).into_iter().chain(self.masked(net)).collect(),
            facts: self.facts(seen),
            happenings,
            left_off,
            ..blank(StoryKind::Netns, &net.name(), state.as_str(), what)
        }
    }

    fn outlook(&self, seen: &SeenNet) -> Outlook {
        let net = &seen.net;
        let hooks: Vec<Running> = running().into_iter().filter(|hook| hook.cookie == Some(net.cookie)).collect();
        let outlook = |what: String, next: String| Outlook {
            what,
            causes: Vec::new(),
            next,
            next_time: None,
            remedies: hanging(&hooks),
        };
        if net.dying() {
            let why = seen.ends.unwrap_or("its last name was removed");
            let next = self.waits(&hooks, "the exits run; then it is let go");
            return outlook(format!("it is going: {why}"), next);
        }
        match net.state() {
            NetState::Failed => self.troubled(seen, &hooks, net.failed().into_iter().collect()),
            NetState::Degraded => self.troubled(seen, &hooks, net.absent()),
            NetState::Setup | NetState::Dying => {
                let next = self.waits(&hooks, "its setup goes on");
                outlook("its setup is not over".to_owned(), next)
            }
            NetState::Live => {
                let next = self.waits(&hooks, "nothing, until its names, the configuration or a plugin change");
                let who = acts(&net.subsystems());
                let missing = self.missing(net);
                if missing.is_empty()
                    && let Some((error, _)) = net.notice()
                {
                    return self.complaining(&error, &who, outlook(String::new(), next));
                }
                let Some(first) = missing.first() else {
                    let well = if hooks.iter().any(is_long) { "a hook hangs" } else { "all is well" };
                    return outlook(format!("{well}: {who}"), next);
                };
                let names: Vec<&str> = missing.iter().map(|known| &*known.row.name).collect();
                let what = format!("{who}; {} would act here, and cannot run", listed(&names));
                let see = names.iter().map(|name| format!("see `{}`", why_command(name)));
                let Outlook { what, next, mut remedies, .. } = outlook(what, next);
                remedies.extend(see);
                Outlook { what, causes: self.chain_of_plugin(first), next, next_time: None, remedies }
            }
        }
    }

    /// Live, but a hook about a device has failed.
    fn complaining(&self, error: &HookError, who: &str, outlook: Outlook) -> Outlook {
        let HookError { plugin, device, .. } = error;
        let about = device.as_ref().map_or_else(String::new, |device| format!(" for device {device}"));
        let what = format!("{who}; {} of {plugin}{about} failed, which stops nobody", error.hook);
        let mut causes = vec![of_error(error)];
        causes.extend(self.of_key(plugin, &error.failure.message));
        let mend = format!("correct what {plugin} says; this is told until the device or the plugin goes");
        let see = device.as_ref().map(|device| format!("see `pernetctl why --dev {}`", operand(device)));
        let mut remedies = outlook.remedies;
        remedies.extend([Some(mend), see].into_iter().flatten());
        Outlook { what, causes, remedies, ..outlook }
    }

    /// The plugins that are to act here, and do not run anywhere.
    fn missing(&self, net: &Net) -> Vec<&Known> {
        let names = net.names();
        let wanted = self.known.iter().filter(|known| !known.is_live() && !known.is_wanted);
        wanted.filter(|known| known.config.selects(&names, net.is_host)).collect()
    }

    /// Failed, or degraded.
    fn troubled(&self, seen: &SeenNet, hooks: &[Running], errors: Vec<HookError>) -> Outlook {
        let net = &seen.net;
        let chains = errors.iter().map(|error| self.chain_of(net, error));
        let mut causes = chains.max_by_key(Vec::len).unwrap_or_default();
        causes.iter_mut().for_each(|cause| seen.date(cause));
        let what = if net.state() == NetState::Failed {
            "its setup failed, and all that had been done was undone: no plugin acts in it".to_owned()
        } else {
            let absent: Vec<String> = errors.iter().map(|error| error.plugin.to_string()).collect();
            let verb = if absent.len() == 1 { "is" } else { "are" };
            format!("{} {verb} absent; {}", listed(&absent), acts(&net.subsystems()))
        };
        let mut remedies = hanging(hooks);
        remedies.extend(self.remedies(net, &errors, &causes));
        let at = seen.retry_at.filter(|at| *at > Instant::now() && !seen.setting_up);
        let next = match at {
            Some(_) => "it is tried again",
            None if self.busy => "it is tried again when the reload, or what else holds the plugins, is over",
            None => "it is being tried again now",
        };
        let next = self.waits(hooks, next);
        Outlook { what, causes, next, next_time: at.map(|at| Moment::of(at).text()), remedies }
    }

    /// What to do about the plugin at the root: the others are absent for want of it.
    fn remedies(&self, net: &Net, errors: &[HookError], causes: &[Cause]) -> Vec<String> {
        let root = errors.iter().find(|error| !error.failure.message.starts_with("requires `"));
        let Some(error) = root.or(errors.first()) else { return Vec::new() };
        let (plugin, name) = (&error.plugin, net.name());
        let mut remedies = vec![match causes.iter().find_map(|cause| cause.place.as_ref()) {
            _ if error.failure.panicked => format!("mend or update plugin {plugin}, then `pernetctl reload`"),
            Some(place) => format!("correct {place}, then `pernetctl reload`"),
            None => format!("correct what {plugin} says, then `pernetctl netns retry {}`", operand(&name)),
        }];
        if let Some(known) = self.known(plugin) {
            remedies.extend(keep_away(&known.config, &name, net.state() == NetState::Failed));
        }
        remedies
    }

    /// What comes next, and for whom it waits.
    fn waits(&self, hooks: &[Running], next: &str) -> String {
        match hooks.first() {
            Some(hook) => {
                let (plugin, seconds) = (&hook.plugin, hook.since.elapsed().as_secs());
                format!("{} of plugin {plugin} has been running for {seconds} s; after it: {next}", hook.hook)
            }
            None if self.busy => format!("{next}; a reload holds the plugins just now"),
            None => next.to_owned(),
        }
    }

    fn facts(&self, seen: &SeenNet) -> Vec<Fact> {
        let net = &seen.net;
        let mut facts = Vec::new();
        let names: Vec<Arc<str>> = net.names();
        facts.push(fact("names", names.join(", ")));
        facts.push(fact("life", format!("cookie {}, life {} of it", net.cookie.0, net.generation)));
        if let Some(setup) = &seen.setup {
            let (time, took, hooks) = setup.told();
            let slowest = setup.slowest().map_or_else(String::new, |slowest| format!("; the slowest {slowest}"));
            let hooks = many(hooks as u64, "hook", "hooks");
            let told = format!("{}, {hooks}{slowest}", span(took));
            facts.push(Fact { time: Some(Moment::from(time).text()), ..fact("last setup", told) });
        }
        if seen.tries > 0 {
            facts.push(fact("tries", format!("{} failed since it was live", many(seen.tries.into(), "has", "have"))));
        }
        if let Some((error, ifindex)) = net.notice() {
            let told = format!("{} of {} for device {ifindex} failed: {}", error.hook, error.plugin, error.failure);
            facts.push(fact("complaint", format!("{told}; it stops nobody")));
        }
        facts.extend(self.holders(net).into_iter().map(|holder| fact("held by", holder)));
        facts
    }

    /// What keeps it, besides its names.
    fn holders(&self, net: &Net) -> Vec<String> {
        let hooks = running().into_iter().filter(|hook| hook.cookie == Some(net.cookie));
        let mut holders: Vec<String> = hooks
            .map(|hook| format!("{} of plugin {}, for {} s", hook.hook, hook.plugin, hook.since.elapsed().as_secs()))
            .collect();
        let mut sockets: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        let all = self.shared.sockets.parts().map(|parts| parts.fs.sockets()).unwrap_or_default();
        for socket in all.iter().filter(|socket| socket.cookie == net.cookie) {
            *sockets.entry(Arc::clone(&socket.owner.name)).or_default() += 1;
        }
        holders.extend(
            sockets
                .into_iter()
                .map(|(plugin, count)| format!("{} of plugin {plugin}", many(count as u64, "socket", "sockets"))),
        );
        for own in net.own_devices() {
            let held = own.holders();
            let device = own.device().map_or_else(|| own.spec.name.clone(), |device| device.link.name.clone());
            let told = |holder: &Holder| {
                format!("a reference to device {device}, by plugin {} for {}", holder.plugin, holder.purpose)
            };
            holders.extend(held.iter().map(told));
        }
        holders
    }

    /// Plugins whose files are masked.
    fn masked(&self, net: &Net) -> Vec<Part> {
        let masks = config::masks(&self.config_dirs).into_iter();
        let masks = masks.filter(|(name, _)| self.known(name).is_none());
        let part = |(plugin, path): (String, PathBuf)| Part {
            plugin,
            namespaces: vec![net.name().to_string()],
            count: 1,
            acts: false,
            why: format!("masked by the empty file {}", path.display()),
        };
        masks.map(part).collect()
    }
}

fn acts(plugins: &[Arc<str>]) -> String {
    match plugins {
        [] => "no plugin acts in it".to_owned(),
        [one] => format!("{one} acts in it"),
        several => format!("{} act in it", listed(several)),
    }
}

/// What an operator can do who wants the namespace without the plugin.
fn keep_away(config: &PluginConfig, netns: &str, failed: bool) -> Vec<String> {
    let file = config.path().display();
    let mut remedies = Vec::new();
    if failed && config.on_init_failure == config::OnInitFailure::Rollback {
        let place = config.place_of("on_init_failure");
        remedies.push(format!("or let the others act without it: on_init_failure = \"skip\" in {place}"));
    }
    // What a glob takes for more than itself is escaped, and a string of JSON is one of TOML.
    let glob = serde_json::Value::from(glob::Pattern::escape(netns)).to_string();
    let how = match config.selector.exclude().next() {
        None => format!("exclude = [{glob}]"),
        Some(_) => format!("add {glob} to exclude"),
    };
    remedies.push(format!("or keep it away: {how} under [namespaces] in {file}, and `pernetctl reload`"));
    remedies
}

/// Longer than any should be.
fn is_long(hook: &Running) -> bool {
    hook.since.elapsed().as_secs() >= 1
}

fn hanging(hooks: &[Running]) -> Vec<String> {
    let long = hooks.iter().filter(|hook| is_long(hook));
    let told = |hook: &Running| {
        let thread = thread_of(hook).map_or_else(String::new, |thread| {
            format!(" (thread {thread} of pernetd: `cat /proc/{thread}/stack`, or a debugger)")
        });
        format!(
            "{} of plugin {} does not return: see what it waits for{thread}; no hook can be ended but with the daemon, and \
             a restart of that leaves what plugins did in place",
            hook.hook, hook.plugin
        )
    };
    long.map(told).collect()
}

fn of_grave(name: &str, grave: &Grave) -> Story {
    let farewell = &grave.farewell;
    let past = grave.past.rows();
    // Most are in its past, with their times.
    let known = |error: &Happening| past.iter().any(|it| (&it.what, &it.error) == (&error.what, &error.error));
    let errors: Vec<Happening> = farewell
        .errors
        .iter()
        .map(|error| Happening { time: farewell.began().text(), ..Answer::from(error).row() })
        .filter(|error| !known(error))
        .collect();
    let ended = match farewell.errors.len() {
        0 => "without an error".to_owned(),
        1 => "with an error, which stopped nothing".to_owned(),
        many => format!("with {many} errors, which stopped nothing"),
    };
    let what = format!("it is gone: {}; its exits ran in {}, {ended}", grave.why, span(farewell.took));
    let names = grave.names.join(", ");
    let mut happenings = vec![bare_row(grave.born, "it was found, or added")];
    happenings.push(bare_row(farewell.began(), format!("{}; the exits began", grave.why)));
    happenings.extend(errors);
    happenings.extend(past);
    happenings.sort_by(|a, b| a.time.cmp(&b.time));
    Story {
        since: Some(farewell.began().text()),
        next: "nothing, unless a namespace is given this name again".to_owned(),
        facts: vec![
            fact("names", names),
            fact("life", format!("cookie {}, life {} of it", grave.cookie.0, grave.generation)),
            fact("before", format!("it was {}", grave.state)),
        ],
        happenings,
        left_off: grave.past.left_off.into(),
        ..blank(StoryKind::Netns, name, "gone", what)
    }
}
