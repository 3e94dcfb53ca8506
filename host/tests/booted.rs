//! pernetd on a booted Debian 12 and 13, from its packages, used as its operator uses it: by apt, systemctl, journalctl, ip.
//!
//! Runs with `PERNET_BOOTED=1`, as root, after `.ci/packages`; `.ci/run` does all of that. Each chapter is a session in a
//! machine of its own that has just booted. The sessions are kept: see `debian/transcript.rs`.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod chapters;
mod debian;
mod sandbox;

use std::process::ExitCode;

fn main() -> ExitCode {
    debian::keeper::main(&chapters::all())
}
