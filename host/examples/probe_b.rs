//! A probe called `probe-b`: see `probe/mod.rs`.

#[path = "probe/mod.rs"]
mod probe;

use pernet_plugin_api::prelude::*;

const NAME: &str = "probe-b";
const BUILD: u32 = 1;

export_plugin!(probe::Probe, name = "probe-b", level = "subsys", description = "records its calls, for tests");
