//! pernetd: plugins in every network namespace of a host. The modules, in the order in which data flows.

pub mod config;
pub mod netlink;
pub mod discovery;
pub mod engine;
pub mod plugin;
pub mod linux;
pub mod control;
pub mod systemd;
pub mod logging;
mod daemon;
mod demo;
pub mod cli;
