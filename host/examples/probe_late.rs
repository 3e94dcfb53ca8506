//! A probe called `probe-late`: see `probe/mod.rs`.

#[path = "probe/mod.rs"]
mod probe;

use pernet_plugin_api::prelude::*;

const NAME: &str = "probe-late";
const BUILD: u32 = 1;

export_plugin!(probe::Probe, name = "probe-late", level = "late", description = "records its calls, for tests");
