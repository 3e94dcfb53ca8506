//! `status`: on one screen, and what is wrong first.
//!
//! 24 lines of 80 columns are what every terminal has: what does not fit is counted, and where to read more is told. As JSON
//! it is everything.

use std::time::SystemTime;

use super::boot::time as took;
use super::connection::Connection;
use super::page::{cut, relative, width, wrap};
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
    lines.extend(troubles(&s.troubles, room, width));
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
        0 => {
            let plural = |count, one: &str| if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") };
            let (namespaces, plugins) = (plural(s.namespaces.live, "namespace"), plural(s.plugins.live, "plugin"));
            format!("all is well: {state}, {namespaces} and {plugins} live")
        }
        1 => format!("1 thing is wrong; pernetd is {state}"),
        many => format!("{many} things are wrong; pernetd is {state}"),
    }
}

/// Whole and with what to do while there is room; else in two lines each, or one, or as many as fit and their number.
fn troubles(troubles: &[Trouble], room: usize, width: usize) -> Vec<String> {
    let remedy = |trouble: &Trouble| format!("  → {}", trouble.remedy);
    let whole = |trouble: &Trouble| {
        let mut lines: Vec<String> = wrap("! ", &sentence(trouble), width).lines().map(str::to_owned).collect();
        if lines.len() > 3 {
            lines.truncate(3);
            lines[2] += "…";
        }
        lines.push(remedy(trouble));
        lines
    };
    let line = |trouble: &Trouble| format!("! {}", sentence(trouble));
    let all: Vec<String> = troubles.iter().flat_map(whole).collect();
    if all.len() <= room {
        return all;
    }
    if troubles.len() * 2 <= room {
        return troubles.iter().flat_map(|trouble| [line(trouble), remedy(trouble)]).collect();
    }
    let fit = if troubles.len() <= room { troubles.len() } else { room - 1 };
    let mut lines: Vec<String> = troubles[..fit].iter().map(line).collect();
    let left: u64 = troubles[fit..].iter().map(|trouble| trouble.count).sum();
    if left > 0 {
        lines.push(format!("! and {left} more: pernetctl status --json"));
    }
    lines
}

fn sentence(trouble: &Trouble) -> String {
    let Trouble { kind, name, what, count, .. } = trouble;
    let kind = if kind == "netns" { "namespace" } else { kind };
    match (*count, kind) {
        // Its sentence begins with its name.
        (_, "hook" | "generations") => what.clone(),
        (1, "reload") => format!("{name} {what}"),
        (1, _) => format!("{kind} {name} {what}"),
        (count, _) => format!("{count} {kind}s ({name}, …) {what}"),
    }
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
    let retired = if s.retired_generations == 1 { "generation" } else { "generations" };
    rows.push(row("retired", format!("{} {retired} of plugins", s.retired_generations)));
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
        let lines = |count, room, width| troubles(&wrong(count), room, width);
        assert_eq!(lines(2, 5, 80).len(), 4, "each with what to ask");
        assert_eq!(lines(1, 5, 25), ["! namespace n0 failed: p", "  pernet.init: no", "  → pernetctl why n0"]);
        assert_eq!(lines(2, 5, 25).len(), 4, "not whole, but with what to ask");
        assert_eq!(lines(3, 5, 80).len(), 3, "one line each");
        let many = lines(9, 5, 80);
        assert_eq!((many.len(), &*many[4]), (5, "! and 5 more: pernetctl status --json"));
        assert_eq!(lines(0, 5, 80), Vec::<String>::new());
    }

    #[test]
    fn many_that_are_alike_are_one_line() {
        let alike = Trouble { count: 1_000, ..wrong(1).remove(0) };
        assert_eq!(troubles(&[alike], 5, 80)[0], "! 1000 namespaces (n0, …) failed: p pernet.init: no");
    }
}
