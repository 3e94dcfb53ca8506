//! A small machine of another kernel: what it consists of, its boot, and what its tests say.
#![allow(unreachable_pub)] // A test binary has no outside.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

pub mod boot;
pub mod initramfs;
pub mod kernel;
pub mod results;
