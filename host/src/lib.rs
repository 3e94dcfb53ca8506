//! pernetd: plugins in every network namespace of a host. The modules, in the order in which data flows.

pub mod config;
pub mod control;
pub mod daemon;
pub mod discovery;
pub mod engine;
pub mod linux;
pub mod plugin;
pub mod systemd;
