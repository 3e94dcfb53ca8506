//! Tells the crate which compiler and target build it: both stand in every plugin's metadata note.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=PERNET_TARGET={}", variable("TARGET"));
    println!("cargo:rustc-env=PERNET_RUSTC={}", rustc_version().unwrap_or_default());
}

/// A variable that cargo sets for build scripts; empty under another build system, which the note then shows.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// `rustc 1.95.0 (…)` without its first word. For information only, so a compiler that does not answer is no error.
fn rustc_version() -> Option<String> {
    let output = Command::new(std::env::var_os("RUSTC")?).arg("--version").output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?;
    Some(line.trim().trim_start_matches("rustc ").to_owned())
}
