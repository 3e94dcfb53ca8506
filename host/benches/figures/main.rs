//! The figures of the README's speed section: what pernetd costs, and how soon it has acted.
//!
//! A program that prints tables: `cargo bench -p pernetd --bench figures`; with a word behind `--`, only the part of
//! that name (`namespaces`, `links`, `log`, `files`, `devices`, `sockets`, `sysctl`, `wire`, `boundary`);
//! `PERNET_FIGURES_MOST=1000` keeps to so many namespaces. It starts the real `pernetd` with `loopback` and `sysctl` over
//! real namespaces, in a sandbox of its own, so it needs no root. Costs are CPU time, which hardly depends on what else the
//! machine does; times by the clock do.
//!
//! Started by root it keeps root's rights, as the service has them. In a user namespace two things are missing: a receive
//! buffer beyond `net.core.rmem_max`, and a procfs of the plugin's own, without which the kernel's time for a namespace's
//! first sysctl grows with the number of namespaces.
#![allow(clippy::unwrap_used)] // A benchmark ends where something that must work does not.

#[path = "../../tests/sandbox/mod.rs"]
mod sandbox;

mod boundary;
mod daemon;
mod devices;
mod files;
mod links;
mod log;
mod namespaces;
mod numbers;
mod sockets;
mod sysctl;
mod wire;

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;
use std::{env, fs};

use sandbox::trial;

/// Makes the sandbox pass on what is printed inside.
const SHOW: &str = "PERNET_SANDBOX_SHOW";
const DEADLINE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    if let Some(code) = log::logs() {
        return code;
    }
    if env::var_os("PERNET_SANDBOX").is_none() && env::var_os(SHOW).is_none() {
        return show();
    }
    let parts = [
        trial("boundary", boundary::measure),
        trial("devices", devices::measure),
        trial("files", files::measure),
        trial("links", links::measure),
        trial("log", log::measure),
        trial("namespaces", namespaces::measure),
        trial("sockets", sockets::measure),
        trial("sysctl", sysctl::measure),
        trial("wire", wire::measure),
    ];
    sandbox::main(parts.map(|part| part.deadline(DEADLINE)).into())
}

/// Runs the parts in a process of their own, without cargo's `--bench` (which makes the harness ignore all trials) and
/// without the harness's own words, unless something went wrong.
fn show() -> ExitCode {
    println!("{}", machine());
    let words = env::args().skip(1).filter(|word| word != "--bench");
    let mut command = Command::new("/proc/self/exe");
    if rustix::process::geteuid().is_root() {
        command.env("PERNET_SANDBOX_USERNS", "0");
    }
    command.args(["--test-threads", "1"]).args(words).env(SHOW, "1").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines.map_while(Result::ok).for_each(|line| println!("{line}"));
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        return ExitCode::SUCCESS;
    }
    println!("{}", String::from_utf8_lossy(&output.stdout));
    ExitCode::FAILURE
}

/// On what the figures were taken, and how busy it was.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("processor unknown", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    let load = load.split(' ').next().unwrap_or_default();
    let rights = if rustix::process::geteuid().is_root() { "as root" } else { "in a user namespace" };
    format!("{cores} cores, {model}; Linux {}; {rights}; load {load} at the start", kernel.trim())
}
