//! Devices of the probe `netdev`: configured, and seen by the kernel's word and by the daemon's.

use std::fs::File;

use pernetd::engine::Link;
use pernetd::linux::rtnetlink;
use serde_json::Value;

use super::{Machine, inside};
use crate::sandbox::netns_add;

/// Whether tun and tap devices can be made here; what is about them is ignored where not.
pub fn has_tun() -> bool {
    File::options().read(true).write(true).open("/dev/net/tun").is_ok()
}

/// The device of this name in a namespace, by the kernel's word.
pub fn link(netns: &str, name: &str) -> Option<Link> {
    links(netns).into_iter().find(|link| link.name == name)
}

/// All devices of a namespace.
pub fn links(netns: &str) -> Vec<Link> {
    inside(netns, || rtnetlink::dump_links().unwrap())
}

impl Machine {
    /// Configures the probe with a notifier and a pernet device that registers these devices.
    pub fn netdev(&self, keys: &str, netdevs: &str, more: &str) {
        let config = format!("subsys = false\ndevice_op = true\nnotifier = 0\nnetdevs = [{netdevs}]\n{more}");
        self.probe(50, "netdev", keys, &config);
    }

    /// The rows of `dev list` that have this name.
    #[track_caller]
    pub fn listed(&self, name: &str) -> Vec<Value> {
        let all = self.ctl(["dev", "list"]);
        all.as_array().unwrap().iter().filter(|d| d["name"] == name).cloned().collect()
    }

    /// `dev show`.
    #[track_caller]
    pub fn show(&self, name: &str) -> Value {
        self.ctl(["dev", "show", name])
    }

    /// Adds the namespace and waits until its plugins have acted.
    #[track_caller]
    pub fn add(&self, name: &str) {
        netns_add(name);
        self.wait_state(name, "live");
    }
}
