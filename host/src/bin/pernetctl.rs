//! The operator's client: thin. Everything is `pernetd::control::client`, but for reading plugin files, which is the
//! loader's: so the client half of `control` needs no `plugin`.

use std::path::Path;
use std::process::ExitCode;

use pernetd::control::client;
use pernetd::plugin::file;

fn main() -> ExitCode {
    client::run(plugin_info)
}

/// The metadata of a plugin file, read without running any of its code.
fn plugin_info(path: &Path) -> Result<serde_json::Value, String> {
    let (note, sha256) = file::info(path).map_err(|e| e.to_string())?;
    let mut value = serde_json::to_value(note).map_err(|e| e.to_string())?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("file".into(), path.display().to_string().into());
        fields.insert("sha256".into(), sha256.into());
    }
    Ok(value)
}
