//! The units as they are shipped: systemd reads them without a complaint, and what the service can reach stays little.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use libtest_mimic::{Arguments, Trial};

const UNITS: [&str; 3] = ["pernetd.service", "pernetd.socket", "pernetd-netns.service"];

/// Calls that are newer than some systemd's list of them: such a one ignores the name, and the filter then answers
/// ENOSYS, on which the daemon falls back.
const NEWER_CALLS: [&str; 2] = ["statmount", "listmount"];

/// The exposure that the service may have at most, in tenths (`systemd-analyze security`).
const EXPOSURE: &str = "40";

fn main() -> ExitCode {
    let tool = Command::new("systemd-analyze").arg("--version").output();
    let there = tool.is_ok_and(|o| o.status.success());
    let trials = [
        ("systemd_accepts_every_line_of_the_units", verify as fn()),
        ("the_service_is_not_exposed_more_than_it_was", exposure),
        ("no_unit_is_left_out_here", complete),
        ("every_hardening_key_has_its_reason", reasons),
    ];
    let trial = |(name, test): (&str, fn())| {
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        trial.with_ignored_flag(!there)
    };
    libtest_mimic::run(&Arguments::from_args(), trials.map(trial).into()).exit_code()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd")
}

fn text(unit: &str) -> String {
    fs::read_to_string(folder().join(unit)).expect("the unit is there")
}

fn systemd_analyze(arguments: &[&str], units: &[PathBuf]) -> Output {
    Command::new("systemd-analyze").args(arguments).args(units).output().expect("systemd-analyze runs")
}

/// The exit code of `verify` is 0 for a key that systemd does not know: what counts is that it says nothing. All of them
/// at once, so that what they say of each other is looked at, too.
fn verify() {
    let installed = tempfile::tempdir().expect("a folder");
    let install = |unit: &str| {
        let text = text(unit)
            .replace("/usr/bin/pernetd", env!("CARGO_BIN_EXE_pernetd"))
            .replace("/usr/bin/pernetctl", env!("CARGO_BIN_EXE_pernetctl"));
        assert!(!text.contains("=/usr/bin/"), "a program that is not ours:\n{text}");
        let path = installed.path().join(unit);
        fs::write(&path, text).expect("the unit is written");
        path
    };
    let verify = systemd_analyze(&["verify", "--man=no"], &UNITS.map(install));
    let said = String::from_utf8_lossy(&verify.stderr);
    let known = |line: &&str| !NEWER_CALLS.iter().any(|call| line.ends_with(&format!("ignoring: {call}")));
    // The host's own units may have faults too; ours are named.
    let complaints: Vec<&str> = said.lines().filter(|l| l.contains("pernet")).filter(known).collect();
    assert!(verify.status.success() && complaints.is_empty(), "{}:\n{said}", verify.status);
}

fn exposure() {
    let threshold = format!("--threshold={EXPOSURE}");
    let security =
        systemd_analyze(&["security", "--no-pager", "--offline=yes", &threshold], &[folder().join("pernetd.service")]);
    let said = String::from_utf8_lossy(&security.stdout);
    assert!(said.contains("Overall exposure level"), "{}", String::from_utf8_lossy(&security.stderr));
    assert!(security.status.success(), "{said}");
}

fn complete() {
    let shipped = fs::read_dir(folder()).expect("the folder is there");
    let mut found: Vec<String> = shipped.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    found.retain(|name| {
        [".service", ".socket", ".mount", ".target", ".path", ".timer"].iter().any(|e| name.ends_with(e))
    });
    found.sort();
    let mut known = UNITS.map(str::to_owned);
    known.sort();
    assert_eq!(found, known);
}

/// A key that follows nothing but a blank line has none; several may share one.
fn reasons() {
    let service = text("pernetd.service");
    let (_, hardening) = service.split_once("LimitNOFILE=").expect("what comes after it is hardening");
    let (hardening, _) = hardening.split_once("[Install]").expect("the next section");
    let lines: Vec<&str> = hardening.lines().skip(1).collect();
    let bare = lines.windows(2).filter(|pair| pair[0].is_empty() && !pair[1].is_empty() && !pair[1].starts_with('#'));
    let bare: Vec<&str> = bare.map(|pair| pair[1]).collect();
    assert!(bare.is_empty(), "without a reason: {bare:?}");
    assert!(lines.iter().filter(|line| line.starts_with("Protect")).count() > 5, "{hardening}");
}
