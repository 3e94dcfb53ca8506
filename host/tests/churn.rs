//! Namespaces coming and going in masses: none is left over, no life is half, and nothing is kept of them.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod lives;
mod machine;
mod sandbox;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use machine::{Machine, Method, both, name_path};
use pernetd::linux::netns;
use sandbox::{RUN_NETNS, wait_until};

/// For hundreds of namespaces, in a debug build, on two busy cores.
const LATER: Duration = Duration::from_secs(30);
const MANY: usize = 500;
const THREADS: usize = 4;

fn main() -> ExitCode {
    let trials = [
        both("500 namespaces added at once and deleted at once", many),
        both("500 namespaces, each deleted as soon as it is added", fleeting),
        both("two threads add and delete one name", one_name),
        both("memory and descriptors do not grow with what came and went", footprint),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

/// A daemon with a probe that sees namespaces and devices.
fn running(mut m: Machine) -> Machine {
    m.probe(10, "a", "", "notifier = 0");
    netns::prepare_folder(Path::new(RUN_NETNS)).unwrap();
    m.start();
    m
}

/// Calls `act` with each of so many names, shared out over some threads.
fn each(names: usize, act: impl Fn(&str) + Sync) {
    let act = &act;
    thread::scope(|scope| {
        for first in 0..THREADS {
            scope.spawn(move || (first..names).step_by(THREADS).for_each(|n| act(&format!("n{n}"))));
        }
    });
}

fn add(name: &str) {
    netns::add(Path::new(RUN_NETNS), OsStr::new(name)).unwrap();
}

fn delete(name: &str) {
    netns::remove(&name_path(name)).unwrap();
}

fn live(m: &Machine) -> usize {
    usize::try_from(m.status()["namespaces"]["live"].as_u64().unwrap()).unwrap()
}

fn wait_live(m: &Machine, count: usize) {
    // The host's own is one too.
    wait_until(&format!("{count} namespaces are live"), LATER, || live(m) == count + 1);
}

/// Nothing but the host's own is known, in any state.
fn wait_none(m: &Machine) {
    let names = || m.ctl(["netns", "list"]).as_array().unwrap().len();
    wait_until("none is left over", LATER, || names() == 1);
    assert_eq!(m.netns("@host")["state"], "live");
}

/// What is open, by kind, once no connection that was just served is open any more.
fn settled_descriptors(m: &Machine) -> Vec<String> {
    let (mut last, mut same) = (descriptors(m), 0);
    wait_until("the same descriptors stay open", LATER, || {
        let now = descriptors(m);
        same = if now == last { same + 1 } else { 0 };
        last = now;
        same == 20
    });
    last
}

fn descriptors(m: &Machine) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{}/fd", m.pid().as_raw_pid())).unwrap().flatten();
    let mut kinds: Vec<String> =
        open.filter_map(|fd| fs::read_link(fd.path()).ok()).map(|to| kind(&to.display().to_string())).collect();
    kinds.sort_unstable();
    kinds
}

/// Without the numbers, which differ from one of a kind to the next.
fn kind(target: &str) -> String {
    target.chars().filter(|c| !c.is_ascii_digit()).collect()
}

fn check_descriptors(m: &Machine, before: &[String]) {
    // What closes late (a connection, the listener for links) closes within the deadline; what leaks does not.
    wait_until("the descriptors are as they were", LATER, || descriptors(m) == before);
}

fn many(m: Machine) {
    let mut m = running(m);
    let before = settled_descriptors(&m);
    each(MANY, add);
    wait_live(&m, MANY);
    assert_eq!(m.status()["devices"].as_u64().unwrap(), u64::try_from(MANY).unwrap() + 1, "a lo in each");
    each(MANY, delete);
    wait_none(&m);
    check_descriptors(&m, &before);
    assert_eq!(lives::all_ended(&lives::check(&m.calls())), MANY);
    m.stop();
}

fn fleeting(m: Machine) {
    let mut m = running(m);
    let before = settled_descriptors(&m);
    each(MANY, |name| {
        add(name);
        delete(name);
    });
    // What comes after all of them is seen after all of them.
    add("last");
    m.wait_state("last", "live");
    delete("last");
    wait_none(&m);
    check_descriptors(&m, &before);
    let lives = lives::check(&m.calls());
    assert!(lives::all_ended(&lives) >= 1);
    m.stop();
}

/// Of each try only one thread's can work; what the daemon sees of it is up to chance.
fn one_name(m: Machine) {
    const ROUNDS: usize = 300;
    let mut m = running(m);
    let before = settled_descriptors(&m);
    let rounds = |add_first: bool| {
        for round in 0..ROUNDS {
            if add_first || round % 3 == 0 {
                let _ = netns::add(Path::new(RUN_NETNS), OsStr::new("same"));
            }
            let _ = netns::remove(&name_path("same"));
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| rounds(true));
        scope.spawn(|| rounds(false));
    });
    let _ = netns::remove(&name_path("same"));
    wait_none(&m);
    add("same");
    m.wait_state("same", "live");
    delete("same");
    wait_none(&m);
    check_descriptors(&m, &before);
    lives::all_ended(&lives::check(&m.calls()));
    m.stop();
}

/// Anonymous memory in KiB.
fn memory(m: &Machine) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", m.pid().as_raw_pid())).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

fn footprint(m: Machine) {
    const AT_ONCE: usize = 250;
    /// What a life may leave behind: its number, for a next one.
    const LEFT_OF_EACH: u64 = 400;
    let mut m = running(m);
    let before = settled_descriptors(&m);
    let cycle = |m: &Machine| {
        each(AT_ONCE, add);
        wait_live(m, AT_ONCE);
        each(AT_ONCE, delete);
        wait_none(m);
    };
    // The allocator's own stock settles, also that of threads which a busy machine adds.
    (0..8).for_each(|_| cycle(&m));
    let first = memory(&m);
    let cycles: u64 = if m.method() == Method::Fanotify { 12 } else { 4 };
    (0..cycles).for_each(|_| cycle(&m));
    let lives = cycles * u64::try_from(AT_ONCE).unwrap();
    let grown = memory(&m).saturating_sub(first) * 1024;
    assert!(grown < 512 * 1024 + lives * LEFT_OF_EACH, "{grown} bytes more after {lives} lives");
    check_descriptors(&m, &before);
    m.stop();
}
