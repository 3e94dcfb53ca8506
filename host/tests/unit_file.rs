//! The service as it is shipped: systemd reads it without a complaint.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

/// Calls that are newer than some systemd's list of them: such a one ignores the name, and the filter then answers
/// ENOSYS, on which the daemon falls back.
const NEWER_CALLS: [&str; 2] = ["statmount", "listmount"];

fn main() -> ExitCode {
    let tool = Command::new("systemd-analyze").arg("--version").output();
    let there = tool.is_ok_and(|o| o.status.success());
    let trial = Trial::test("systemd_accepts_every_line_of_the_unit", || {
        verify();
        Ok(())
    });
    libtest_mimic::run(&Arguments::from_args(), vec![trial.with_ignored_flag(!there)]).exit_code()
}

/// The exit code of `verify` is 0 for a key that systemd does not know: what counts is that it says nothing.
fn verify() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/pernetd.service");
    let text = fs::read_to_string(&shipped).expect("the unit is there");
    let text = text
        .replace("/usr/bin/pernetd", env!("CARGO_BIN_EXE_pernetd"))
        .replace("/usr/bin/pernetctl", env!("CARGO_BIN_EXE_pernetctl"));
    assert!(!text.contains("=/usr/bin/"), "a program that is not ours:\n{text}");

    let folder = tempfile::tempdir().expect("a folder");
    let unit = folder.path().join("pernetd.service");
    fs::write(&unit, text).expect("the unit is written");
    let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output();
    let verify = verify.expect("systemd-analyze runs");
    let said = String::from_utf8_lossy(&verify.stderr);
    let known = |line: &&str| !NEWER_CALLS.iter().any(|call| line.ends_with(&format!("ignoring: {call}")));
    // The host's own units may have faults too; ours are named.
    let complaints: Vec<&str> = said.lines().filter(|l| l.contains("pernet")).filter(known).collect();
    assert!(verify.status.success() && complaints.is_empty(), "{}:\n{said}", verify.status);
}
