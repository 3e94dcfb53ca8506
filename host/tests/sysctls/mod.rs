//! A machine with the plugin `probe-sysctl`, and `pernetctl sysctl` as a person uses it.
//!
//! A test binary that has this has `mod machine;` too.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part of this.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};

use crate::machine::{Machine, SOON, name_path};
use crate::sandbox::{netns_add, wait_until};

/// Where the probe writes its lines.
pub const RECORD: &str = "/pernet/record";
/// Where it is configured.
pub const FILE: &str = "plugins.d/30-probe-sysctl.toml";

/// Configures the probe.
pub fn probe(m: &Machine, config: &str) {
    m.install("probe_sysctl", "sysctl");
    m.write(FILE, &format!("[config]\nrecord = \"{RECORD}\"\n{config}\n"));
}

/// The lines of `sysctl.d`.
pub fn lines(m: &Machine, text: &str) {
    fs::create_dir_all(m.path("sysctl.d")).unwrap();
    m.write("sysctl.d/50-test.conf", text);
}

/// A running daemon with the probe in a namespace `blue`.
pub fn started(m: &mut Machine, config: &str) {
    probe(m, config);
    m.start();
    add(m, "blue");
}

/// Adds a namespace, and waits for its setup.
#[track_caller]
pub fn add(m: &Machine, name: &str) {
    netns_add(name);
    m.wait_state(name, "live");
}

/// What a command did.
#[derive(Debug, PartialEq)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// `pernetctl sysctl`.
#[track_caller]
pub fn sysctl(m: &Machine, arguments: &[&str]) -> Done {
    done(&mut m.pernetctl_for_people(["sysctl"].into_iter().chain(arguments.iter().copied())))
}

/// Any command.
#[track_caller]
pub fn done(command: &mut Command) -> Done {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// The same, where nothing may go wrong: what it printed.
#[track_caller]
pub fn good(m: &Machine, arguments: &[&str]) -> String {
    let done = sysctl(m, arguments);
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{}", done.out);
    done.out
}

/// The same, where only something goes wrong: what it complained about.
#[track_caller]
pub fn bad(m: &Machine, arguments: &[&str]) -> String {
    let done = sysctl(m, arguments);
    assert_eq!((done.code, done.out.as_str()), (1, ""), "{}", done.err);
    done.err
}

/// A value in a namespace.
#[track_caller]
pub fn value(m: &Machine, netns: &str, key: &str) -> String {
    good(m, &["-n", "--netns", netns, key]).trim_end_matches('\n').to_owned()
}

/// Begins a write and does not wait for it.
pub fn begin(m: &Machine, netns: &str, setting: &str) -> Child {
    let mut command = m.pernetctl_for_people(["sysctl", "--netns", netns, setting]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How a write that was begun ended: its exit status, and what it complained about.
#[track_caller]
pub fn ended(write: Child) -> (i32, String) {
    let output = write.wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// The probe's lines so far.
pub fn record() -> Vec<String> {
    fs::read_to_string(RECORD).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[track_caller]
pub fn wait_record(line: &str) {
    wait_until(line, SOON, || record().iter().any(|known| known == line));
}

/// Waits until the daemon has logged a line with this in it.
#[track_caller]
pub fn wait_log(m: &Machine, part: &str) {
    wait_until(part, SOON, || m.log().contains(part));
}

/// A namespace as the kernel calls it.
pub fn inode(name: &str) -> String {
    format!("net:[{}]", fs::metadata(name_path(name)).unwrap().ino())
}
