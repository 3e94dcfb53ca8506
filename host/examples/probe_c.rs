//! A probe called `probe-c`: see `probe/mod.rs`.

#[path = "probe/mod.rs"]
mod probe;

use pernet_plugin_api::prelude::*;

const NAME: &str = "probe-c";
const BUILD: u32 = 1;

export_plugin!(probe::Probe, name = "probe-c", level = "subsys", description = "records its calls, for tests");
