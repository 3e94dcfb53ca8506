//! Another build of `probe-a`, to replace it: see `probe/mod.rs`.

#[path = "probe/mod.rs"]
mod probe;

use pernet_plugin_api::prelude::*;

const NAME: &str = "probe-a";
const BUILD: u32 = 2;

export_plugin!(probe::Probe, name = "probe-a", level = "subsys", description = "records its calls, for tests");
