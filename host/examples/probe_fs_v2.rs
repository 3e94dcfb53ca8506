//! Another build of `probe-fs`, told apart by its record: see `probe/mod.rs`, and `probe/files.rs` for its file system.

#[path = "probe/mod.rs"]
mod probe;

use pernet_plugin_api::prelude::*;

const NAME: &str = "probe-fs";
const BUILD: u32 = 2;

export_plugin!(probe::Probe, name = "probe-fs", level = "fs", description = "records its calls, for tests");
