//! A probe called `probe-netdev`: see `probe/mod.rs`; its `netdevs` are devices of its own.

#[path = "probe/mod.rs"]
mod probe;

use pernet_plugin_api::prelude::*;

const NAME: &str = "probe-netdev";
const BUILD: u32 = 1;

export_plugin!(probe::Probe, name = "probe-netdev", level = "device", description = "has devices, for tests");
