//! A probe called `probe-pure`: see `probe/mod.rs`.

#[path = "probe/mod.rs"]
mod probe;

use pernet_plugin_api::prelude::*;

const NAME: &str = "probe-pure";
const BUILD: u32 = 1;

export_plugin!(probe::Probe, name = "probe-pure", level = "pure", description = "records its calls, for tests");
