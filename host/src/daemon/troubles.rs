//! What is wrong now, in one list, the worst first: what `status` leads with.
//!
//! Made from what the loop knows when it is asked for. Of namespaces a few are told each by itself; of many, those that failed
//! for the same reason are one, with their number.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::control::wire::{self, Trouble};
use crate::engine::{HookError, NetState};

use super::Daemon;
use super::namespaces::Managed;
use super::shell_word::why_command;

/// So many namespaces are told each by itself.
const EACH: usize = 8;
/// So many retired generations are many: each keeps its code mapped.
const MANY_RETIRED: u64 = 32;

impl Daemon {
    /// What is wrong; with what the status says already.
    pub(super) fn troubles(&self, status: &wire::Status) -> Vec<Trouble> {
        let mut troubles = namespaces(self.nets.values().filter_map(Managed::wrong).collect());
        troubles.extend(self.troubled_plugins());
        troubles.extend(status.last_reload.as_ref().and_then(failed_reload));
        troubles.extend(status.pinned.iter().map(hanging));
        troubles.extend(status.facilities.iter().filter_map(degraded));
        troubles.extend(self.leaked());
        let retired = status.retired_generations;
        if retired >= MANY_RETIRED {
            let what = format!("{retired} generations of plugins are retired, and their code stays mapped");
            troubles.push(trouble("generations", "retired", what, "restart the daemon when it suits"));
        }
        troubles
    }

    fn troubled_plugins(&self) -> Vec<Trouble> {
        let known = self.shared.plugins().known();
        let wrong = known.iter().filter(|known| !known.is_wanted);
        let told = wrong.filter_map(|known| {
            let why = known.trouble.as_ref()?;
            let state = if why.hook == "panic" { "poisoned" } else { known.row.state.as_str() };
            let what = format!("{state}: {}", one_line(&why.told()));
            Some(trouble("plugin", &known.row.name, what, &why_command(&known.row.name)))
        });
        told.collect()
    }

    /// Devices that are unregistered and still held.
    fn leaked(&self) -> Vec<Trouble> {
        let held = self.shared.maker.held();
        let told = held.iter().filter(|own| !own.is_waited_for()).map(|own| {
            let name = own.device().map_or_else(|| own.spec.name.clone(), |device| device.link.name.clone());
            let holders: Vec<String> = own.holders().iter().map(|holder| holder.plugin.to_string()).collect();
            let what = format!("unregistered, and held by {}", holders.join(", "));
            trouble("dev", &name, what, &why_command(&name))
        });
        told.collect()
    }
}

fn trouble(kind: &str, name: &str, what: String, remedy: &str) -> Trouble {
    Trouble { kind: kind.to_owned(), name: name.to_owned(), what, remedy: remedy.to_owned(), count: 1 }
}

/// Several lines as one.
fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).collect::<Vec<_>>().join(" | ")
}

/// How wrong a namespace is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum How {
    Failed,
    Degraded,
    /// It is live, and a hook about a device has failed, which stops nobody.
    Complains,
}

impl How {
    fn word(self) -> &'static str {
        match self {
            How::Failed => "failed",
            How::Degraded => "degraded",
            How::Complains => "live, but a hook failed",
        }
    }
}

/// A namespace that is wrong: its name, and why.
type Wrong = (How, Arc<str>, Option<HookError>);

impl Managed {
    /// What is wrong with it. While it is tried again it is as wrong as it was before.
    fn wrong(&self) -> Option<Wrong> {
        let net = &self.net;
        let tried_again = net.state() == NetState::Setup;
        let state = if tried_again { self.standing.state } else { net.state() };
        let error = || net.error().or_else(|| self.setup.as_ref()?.error(&net.name()));
        match state {
            _ if net.dying() => None,
            NetState::Failed => Some((How::Failed, net.name(), error())),
            NetState::Degraded => Some((How::Degraded, net.name(), error())),
            _ => net.notice().map(|(error, _)| (How::Complains, net.name(), Some(error))),
        }
    }
}

/// The failed first, then the degraded, then who complains; by name.
fn namespaces(mut wrong: Vec<Wrong>) -> Vec<Trouble> {
    wrong.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    if wrong.len() <= EACH {
        return wrong.iter().map(|(how, name, error)| namespace(*how, name, error.as_ref())).collect();
    }
    alike(&wrong)
}

fn namespace(how: How, name: &str, error: Option<&HookError>) -> Trouble {
    let device = |e: &HookError| e.device.as_ref().map_or_else(String::new, |device| format!(" for {device}"));
    let why = error.map_or_else(String::new, |e| format!(": {} {}{}: {}", e.plugin, e.hook, device(e), e.failure));
    trouble("netns", name, one_line(&format!("{}{why}", how.word())), &why_command(name))
}

/// Those with the same plugin, hook and errno are one.
fn alike(wrong: &[Wrong]) -> Vec<Trouble> {
    let mut groups: BTreeMap<_, Trouble> = BTreeMap::new();
    for (how, name, error) in wrong {
        let key = error.as_ref().map(|e| (Arc::clone(&e.plugin), e.hook, e.failure.errno));
        let group = groups.entry((*how, key));
        let group = group.or_insert_with(|| Trouble { count: 0, ..namespace(*how, name, error.as_ref()) });
        group.count += 1;
    }
    let mut groups: Vec<((How, _), Trouble)> = groups.into_iter().collect();
    groups.sort_by_key(|((how, _), group)| (*how, std::cmp::Reverse(group.count)));
    groups.into_iter().map(|(_, group)| group).collect()
}

fn failed_reload(reload: &wire::LastReload) -> Option<Trouble> {
    let error = reload.error.as_ref().filter(|_| !reload.ok)?;
    let (first, others) = error.split_once('\n').unwrap_or((error, ""));
    let more = others.lines().count();
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    let what = format!("failed{more}: {first}");
    Some(trouble("reload", "last reload", what, "correct it, then `pernetctl reload`; the old set runs on"))
}

fn hanging(pinned: &wire::Pinned) -> Trouble {
    let wire::Pinned { netns, plugin, hook, seconds } = pinned;
    let what = format!("{netns} is pinned by {plugin} {hook}, which has been running for {seconds} s");
    let name = if netns.is_empty() { plugin } else { netns };
    trouble("hook", name, what, &why_command(name))
}

/// A facility without a remedy needs nothing done.
pub(super) fn degraded(facility: &wire::Facility) -> Option<Trouble> {
    let remedy = facility.remedy.as_ref()?;
    let detail = facility.detail.as_ref().map_or("not as it should be", String::as_str);
    Some(trouble("facility", &facility.name, one_line(detail), remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Failure;

    #[test]
    fn only_what_wants_something_done_is_trouble() {
        let facility = |remedy: Option<&str>| wire::Facility {
            name: "mount discovery".into(),
            used: true,
            detail: Some("slower\nthan it could be".into()),
            remedy: remedy.map(str::to_owned),
        };
        assert!(degraded(&facility(None)).is_none());
        let told = degraded(&facility(Some("mount it"))).map(|it| (it.kind, it.name, it.what, it.remedy));
        let expected = ["facility", "mount discovery", "slower | than it could be", "mount it"].map(str::to_owned);
        assert_eq!(told, Some(expected.into()));
    }

    #[test]
    fn a_failed_reload_is_told_by_its_first_error() {
        let reload = |ok, error: &str| {
            let error = Some(error.to_owned());
            failed_reload(&wire::LastReload { time: String::new(), ok, error, pause_us: 0 }).map(|it| it.what)
        };
        assert_eq!(reload(true, "a"), None);
        assert_eq!(reload(false, "/a:1:2: no").as_deref(), Some("failed: /a:1:2: no"));
        assert_eq!(reload(false, "/a:1:2: no\n/b: no\n/c: no").as_deref(), Some("failed (and 2 more): /a:1:2: no"));
    }

    #[test]
    fn many_are_told_by_what_they_failed_of_the_failed_first() {
        let error = |plugin: &str, errno| HookError {
            plugin: plugin.into(),
            hook: "pernet.init",
            netns: "x".into(),
            device: None,
            failure: Failure::new(errno, "no"),
        };
        let mut wrong: Vec<Wrong> = Vec::new();
        (0..20).for_each(|n| wrong.push((How::Degraded, format!("d{n}").into(), Some(error("a", 1)))));
        (0..3).for_each(|n| wrong.push((How::Failed, format!("f{n}").into(), Some(error("a", 1)))));
        (0..5).for_each(|n| wrong.push((How::Failed, format!("g{n}").into(), Some(error("b", 1)))));
        let told: Vec<_> = alike(&wrong).into_iter().map(|it| (it.name, it.count)).collect();
        assert_eq!(told, [("g0".to_owned(), 5), ("f0".to_owned(), 3), ("d0".to_owned(), 20)]);
    }
}
