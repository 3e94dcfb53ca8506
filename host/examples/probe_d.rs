//! A probe called `probe-d`: see `probe/mod.rs`.

#[path = "probe/mod.rs"]
mod probe;

use pernet_plugin_api::prelude::*;

const NAME: &str = "probe-d";
const BUILD: u32 = 1;

export_plugin!(probe::Probe, name = "probe-d", level = "subsys", description = "records its calls, for tests");
