//! Profiles of `net.*` settings, for namespaces and for the devices in them.
//!
//! A namespace starts with the kernel's defaults, whatever the host's own `sysctl.conf` says. This plugin writes the
//! settings of each profile that fits the namespace's name when it appears, and those for devices whenever a device is
//! there, appears, or is renamed. In `plugins.d/20-sysctl.toml`:
//!
//! ```toml
//! [[config.profile]]
//! name = "router"                       # for messages
//! include = ["*"]                       # globs of namespace names; the default. "@host" must be named, "*" is not it
//! exclude = ["lab-*"]                   # any exclude wins
//! [config.profile.settings]
//! "net.ipv4.ip_forward" = true          # an integer, a boolean (1 or 0) or a string
//! "net.ipv4.ip_local_port_range" = "20000 60999"
//!
//! [[config.profile.device]]             # for each device whose name fits; include and exclude as above
//! include = ["veth*", "eth0.*"]
//! [config.profile.device.settings]
//! "net.ipv4.conf.<dev>.rp_filter" = 0   # <dev> stands for the device
//! ```
//!
//! Keys are written as for sysctl(8): with dots or with slashes, whichever comes first being the separator
//! (`net/ipv4/conf/eth0.100/rp_filter`). Where two profiles that fit name the same key, the later one counts. Keys
//! that reset others (`net.ipv4.ip_forward`) are written before those, whatever their order in the file.
//!
//! A key that is missing in the namespace, or a value that the kernel refuses, fails that namespace's init and names
//! the key; what was written there before is put back. Settings are undone when the plugin is removed or rolled back,
//! in reverse, and only where the value is still the one that was written.

#![forbid(unsafe_code)]

mod key;
mod select;
mod config;
mod proc;
mod setting;
mod written;
mod pernet;
mod netdev;

use std::sync::Arc;

use pernet_plugin_api::prelude::*;

use crate::config::{Config, Plan};
use crate::netdev::Devices;
use crate::pernet::Settings;
use crate::setting::Tree;

/// The plugin: a subsystem, and a notifier if some profile is about devices.
#[derive(Debug)]
pub struct Sysctl;

impl Plugin for Sysctl {
    type Config = Config;

    fn check(config: &Config) -> std::result::Result<(), ConfigError> {
        Plan::new(config).map(drop)
    }

    fn init(reg: &mut Registrar, _host: Host, config: Config) -> Result<Self> {
        let plan = Plan::new(&config)?;
        let has_devices = plan.has_devices();
        let tree = Arc::new(Tree::of_the_kernel());
        let id = reg.pernet_subsys("sysctl", Settings { plan, tree: Arc::clone(&tree) })?;
        // Every namespace with a listener costs the senders of link events: none without need.
        if has_devices {
            reg.notifier("sysctl-devices", 0, Devices { id, tree })?;
        }
        Ok(Sysctl)
    }
}

export_plugin!(
    Sysctl,
    name = "sysctl",
    level = "subsys",
    description = "net.* sysctl profiles for namespaces and their devices",
    license = "MIT OR Apache-2.0",
);
