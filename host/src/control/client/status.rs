//! `status`: on one screen, and what is wrong first.
//!
//! 24 lines of 80 columns are what every terminal has: what does not fit is counted, and where to read more is told. As JSON
//! it is everything.

use std::time::SystemTime;

use super::boot::time as took;
use super::connection::Connection;
use super::page::{cut, relative, width};
use super::{End, call, print};
use crate::control::wire::{Status, Trouble};

/// Lines of a screen; the prompt below takes the last one.
const LINES: usize = 23;

/// Asks and prints. With `check`, something that is wrong is a failure.
pub(super) fn run(daemon: &mut Connection, json: bool, check: bool) -> Result<(), End> {
    let status = daemon.call::<call::Status_Reply>("Status", &call::Status_Args {})?.status;
    print(json, &status, |status| screen(status, SystemTime::now(), width()))?;
    if check && !status.troubles.is_empty() { Err(End::Told) } else { Ok(()) }
}

fn screen(s: &Status, now: SystemTime, width: usize) -> String {
    let facts = facts(s, now);
    // Between the first line and what is so anyhow, with an empty line.
    let room = LINES - facts.len() - 2;
    let mut lines = vec![headline(s)];
    lines.extend(troubles(&s.troubles, room));
    if !s.troubles.is_empty() {
        lines.push(String::new());
    }
    lines.extend(facts);
    lines.iter().map(|line| cut(line, width) + "\n").collect()
}

fn headline(s: &Status) -> String {
    let state = s.state.as_str();
    let count: u64 = s.troubles.iter().map(|trouble| trouble.count).sum();
    match count {
        0 => format!("all is well: {state}, {} namespaces and {} plugins live", s.namespaces.live, s.plugins.live),
        1 => format!("1 thing is wrong; pernetd is {state}"),
        many => format!("{many} things are wrong; pernetd is {state}"),
    }
}

/// Two lines each while there is room, then one each, then their number.
fn troubles(troubles: &[Trouble], room: usize) -> Vec<String> {
    let long = troubles.len() * 2 <= room;
    let fit = if long || troubles.len() <= room { troubles.len() } else { room - 1 };
    let mut lines = Vec::new();
    for trouble in &troubles[..fit] {
        let Trouble { kind, name, what, remedy, count } = trouble;
        let kind = if kind == "netns" { "namespace" } else { kind };
        let whose = match (*count, kind) {
            // Its sentence begins with its name.
            (_, "hook" | "generations") => String::new(),
            (1, "reload") => format!("{name} "),
            (1, _) => format!("{kind} {name} "),
            (count, _) => format!("{count} {kind}s ({name}, …) "),
        };
        lines.push(format!("! {whose}{what}"));
        if long {
            lines.push(format!("  → {remedy}"));
        }
    }
    let left: u64 = troubles[fit..].iter().map(|trouble| trouble.count).sum();
    if left > 0 {
        lines.push(format!("! and {left} more: pernetctl status --json"));
    }
    lines
}

/// What is so, well or not.
fn facts(s: &Status, now: SystemTime) -> Vec<String> {
    let (n, p) = (&s.namespaces, &s.plugins);
    let row = |about: &str, what: String| format!("{about:<12} {what}");
    let counts =
        [(n.live, "live"), (n.degraded, "degraded"), (n.failed, "failed"), (n.setup, "setup"), (n.dying, "dying")];
    let mut rows = vec![
        row("pernetd", format!("{}, {}, generation {}", s.version, s.state.as_str(), s.generation)),
        row("namespaces", join(&counts)),
        row("plugins", join(&[(p.live, "live"), (p.failed, "failed"), (p.refused, "refused")])),
        row("devices", format!("{}; {} resyncs after a loss of events", s.devices, s.resyncs)),
        row("discovery", format!("{} ({})", s.discovery, s.folders.join(", "))),
    ];
    let reload = s.last_reload.as_ref().map_or_else(
        || "none since the start".to_owned(),
        |r| {
            let result = if r.ok { "ok" } else { "failed" };
            format!("{result}, {} ({}), setups waited {}", r.time, relative(&r.time, now), took(r.pause_us))
        },
    );
    rows.push(row("last reload", reload));
    let used: Vec<&str> = s.facilities.iter().filter(|f| f.used).map(|f| &*f.name).collect();
    let unused: Vec<&str> = s.facilities.iter().filter(|f| !f.used).map(|f| &*f.name).collect();
    if !used.is_empty() {
        rows.push(row("in use", used.join(", ")));
    }
    if !unused.is_empty() {
        rows.push(row("not in use", unused.join(", ")));
    }
    rows.push(row("retired", format!("{} generations of plugins", s.retired_generations)));
    rows
}

/// `3 live, 1 failed`
fn join(counts: &[(u64, &str)]) -> String {
    counts.iter().map(|(n, word)| format!("{n} {word}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(count: usize) -> Vec<Trouble> {
        let one = |n| Trouble {
            kind: "netns".into(),
            name: format!("n{n}"),
            what: "failed: p pernet.init: no".into(),
            remedy: format!("pernetctl why n{n}"),
            count: 1,
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        assert_eq!(troubles(&wrong(2), 5).len(), 4, "each with what to ask");
        assert_eq!(troubles(&wrong(3), 5).len(), 3, "one line each");
        let lines = troubles(&wrong(9), 5);
        assert_eq!((lines.len(), &*lines[4]), (5, "! and 5 more: pernetctl status --json"));
        assert_eq!(troubles(&wrong(0), 5), Vec::<String>::new());
    }

    #[test]
    fn many_that_are_alike_are_one_line() {
        let alike = Trouble { count: 1_000, ..wrong(1).remove(0) };
        assert_eq!(troubles(&[alike], 5)[0], "! 1000 namespaces (n0, …) failed: p pernet.init: no");
    }
}
