//! The operator's client.

use std::path::Path;
use std::process::ExitCode;

use pernetd::control::client;

fn main() -> ExitCode {
    client::run(plugin_info)
}

/// Not read in this build.
fn plugin_info(_file: &Path) -> Result<serde_json::Value, String> {
    Err("plugin files cannot be read yet".to_owned())
}
