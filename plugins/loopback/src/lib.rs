//! `lo` is up in every namespace.
//!
//! The kernel makes each namespace with its loopback device down, and much that runs inside (a resolver on 127.0.0.53,
//! a health check, a test) expects it up. This plugin brings it up when the namespace appears. It takes it down again
//! only if the plugin itself goes (or a later plugin's init rolls the namespace back), it was this plugin that brought
//! it up, and it is up still; at a namespace's death, a reload and the daemon's end it stays as it is.
//!
//! No configuration of its own. In `plugins.d/10-loopback.toml`:
//!
//! ```toml
//! name = "loopback"
//! namespaces = { include = ["*"] }
//! ```

#![forbid(unsafe_code)]

mod pernet;
mod link;

use pernet_plugin_api::prelude::*;

use crate::pernet::Up;

/// The plugin: one subsystem, nothing else.
#[derive(Debug)]
pub struct Loopback;

impl Plugin for Loopback {
    type Config = NoConfig;

    fn init(reg: &mut Registrar, _host: Host, _config: NoConfig) -> Result<Self> {
        reg.pernet_subsys("loopback", Up)?;
        Ok(Loopback)
    }
}

export_plugin!(
    Loopback,
    name = "loopback",
    level = "subsys",
    description = "brings lo up in every network namespace",
    license = "MIT OR Apache-2.0",
);
