//! Debian releases as machines for tests: made once, booted for each test, driven from outside, written down.
//!
//! [`roots`] makes the file systems and keeps them, [`keeper`] gives each test a process that nothing outlives,
//! [`container`] is the booted system in it, [`transcript`] what was done there. A test binary has `mod sandbox;` too.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part of this.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

pub mod cgroup;
pub mod container;
pub mod keeper;
pub mod packages;
pub mod roots;
pub mod transcript;

/// A release that the packages are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// As Debian calls it.
    pub name: &'static str,
    /// Its number.
    pub number: u32,
}

/// Those that are tested.
pub const RELEASES: [Release; 2] = [Release { name: "bookworm", number: 12 }, Release { name: "trixie", number: 13 }];
