//! A probe called `probe-e`: see `probe/mod.rs`.

#[path = "probe/mod.rs"]
mod probe;

use pernet_plugin_api::prelude::*;

const NAME: &str = "probe-e";
const BUILD: u32 = 1;

export_plugin!(probe::Probe, name = "probe-e", level = "subsys", description = "records its calls, for tests");
