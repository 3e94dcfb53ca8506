//! Addresses of devices are announced to the neighbours.
//!
//! Who moves an address from one machine, container or hardware address to another has to tell the others on the link:
//! their caches still have the old place. This plugin does it in every namespace: when a device becomes able to send (it
//! is up and has a carrier), and when its hardware address changes, each of its IPv4 addresses is announced by a
//! gratuitous ARP (RFC 5227), each of its IPv6 addresses by an unsolicited neighbour advertisement (RFC 4861), several
//! times over. The addresses are read anew each time, so that one which comes a little later than its device is announced,
//! too. An IPv6 address that is still being checked for duplicates waits until it is done.
//!
//! Not announced: addresses of loopback devices, of devices without Ethernet addresses or without ARP, and addresses that
//! are valid on this host only.
//!
//! In `plugins.d/40-neighbour.toml`, all with their defaults:
//!
//! ```toml
//! [config]
//! interval = 1000          # milliseconds between two announcements
//! count = 3                # how many; 0 for none
//! devices = ["*"]          # globs of device names; what one with ! in front matches is left out ("!veth*")
//! ```
//!
//! These are defaults: each namespace has the sysctls `neighbour.interval`, `neighbour.count` and `neighbour.devices`
//! (globs with blanks between them), which count from the next announcement on.

#![forbid(unsafe_code)]

mod config;
mod knobs;
mod frame;
mod route;
mod schedule;
mod space;
mod announcer;
mod pernet;
mod netdev;

use std::sync::Arc;

use pernet_plugin_api::prelude::*;

use crate::announcer::Announcer;
use crate::config::Config;
use crate::netdev::Devices;
use crate::pernet::Spaces;

/// The plugin: a subsystem, a notifier, and the thread that announces.
#[derive(Debug)]
pub struct Neighbour {
    announcer: Arc<Announcer>,
}

impl Plugin for Neighbour {
    type Config = Config;

    fn check(config: &Config) -> std::result::Result<(), ConfigError> {
        config.knobs().map(drop)
    }

    fn init(reg: &mut Registrar, host: Host, config: Config) -> Result<Self> {
        let defaults = config.knobs()?;
        let announcer = Announcer::start(&host)?;
        let spaces = Spaces { host, defaults, announcer: Arc::clone(&announcer) };
        let id = reg.pernet_subsys("neighbour", spaces)?;
        reg.notifier("neighbour-devices", 0, Devices { id, announcer: Arc::clone(&announcer) })?;
        Ok(Neighbour { announcer })
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.announcer.stop();
    }
}

export_plugin!(
    Neighbour,
    name = "neighbour",
    level = "late",
    description = "announces the addresses of devices to their neighbours (gratuitous ARP, neighbour advertisements)",
    license = "MIT OR Apache-2.0",
);
