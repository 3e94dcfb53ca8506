//! Sysctls of plugins and of the daemon itself, through the real `pernetctl`: read, set, listed, configured in
//! `sysctl.d`, and what becomes of them when their namespace or plugin goes.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::process::ExitCode;

use machine::{Machine, one};
use sandbox::netns_add;

fn main() -> ExitCode {
    let trials = [one("a plugin's knob is read and set", read_and_set)];
    sandbox::main(trials.into_iter().flatten().collect())
}

const RECORD: &str = "/pernet/record";

/// Configures the probe.
fn probe(m: &Machine, config: &str) {
    m.install("probe_sysctl", "sysctl");
    m.write("plugins.d/30-probe-sysctl.toml", &format!("[config]\nrecord = \"{RECORD}\"\n{config}\n"));
}

/// What `pernetctl sysctl` did: its exit status, and both outputs.
#[track_caller]
fn sysctl(m: &Machine, arguments: &[&str]) -> (i32, String, String) {
    let output = m.pernetctl_for_people(["sysctl"].into_iter().chain(arguments.iter().copied())).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn read_and_set(mut m: Machine) {
    probe(&m, "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    assert_eq!(sysctl(&m, &["--netns", "blue", "probe.interval"]).1, "probe.interval = 1000\n");
    m.stop();
}
