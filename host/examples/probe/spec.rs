//! A device as a test wants it, told with all the words that an author has for one.

use std::net::IpAddr;
use std::path::PathBuf;

use pernet_plugin_api::prelude::*;
use pernet_plugin_api::{MacvlanMode, Vxlan};
use serde::Deserialize;

/// A device to register.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedDevice {
    /// In the namespace of this name.
    pub(super) netns: String,
    /// Its kind.
    pub(super) kind: String,
    /// Its name or pattern.
    pub(super) name: String,
    /// The other end of a veth: its name …
    #[serde(default)]
    pub(super) peer: String,
    /// … and its namespace.
    #[serde(default)]
    pub(super) peer_netns: String,
    /// Sets it up, and its peer.
    #[serde(default)]
    pub(super) open: bool,
    /// Moves it to the namespace of this name, which is met by then.
    #[serde(default)]
    pub(super) move_to: Option<String>,
    /// Its name or pattern there, if its own is taken …
    #[serde(default)]
    pub(super) move_as: Option<String>,
    /// … and its index.
    #[serde(default)]
    pub(super) move_index: u32,
    /// A refusal fails the init.
    #[serde(default)]
    pub(super) must: bool,
    /// From a thread of the plugin's own, which unregisters it again when this file is there.
    #[serde(default)]
    pub(super) until: Option<PathBuf>,
    /// Renames it to this as soon as it is registered.
    #[serde(default)]
    pub(super) rename: String,
    /// vxlan: the network's identifier …
    #[serde(default)]
    vni: Option<u32>,
    /// … the other end …
    #[serde(default)]
    remote: Option<IpAddr>,
    /// … this end …
    #[serde(default)]
    local: Option<IpAddr>,
    /// … and the port.
    #[serde(default)]
    port: Option<u16>,
    /// The device below it, by its name: one that this probe has registered in the same namespace.
    #[serde(default)]
    pub(super) over: String,
    /// The same by its index.
    #[serde(default)]
    link: u32,
    /// Attributes of its kind, by number.
    #[serde(default)]
    attributes: Vec<(u16, Vec<u8>)>,
    /// Such that are encoded already.
    #[serde(default)]
    data: Vec<u8>,
    #[serde(default)]
    address: Vec<u8>,
    #[serde(default)]
    mtu: u32,
    #[serde(default)]
    ifindex: u32,
    #[serde(default)]
    alt_names: Vec<String>,
    /// tun and tap: how many queues; 0 is 1.
    #[serde(default)]
    queues: u16,
    #[serde(default)]
    offloads: bool,
}

impl WantedDevice {
    /// `over`: the index of the device below it, where that is wanted by name.
    pub(super) fn spec(&self, over: u32) -> NetdevSpec {
        let lower = if over == 0 { self.link } else { over };
        let name = &*self.name;
        let spec = match (&*self.kind, self.vni) {
            ("vxlan", Some(vni)) => NetdevSpec::vxlan(name, &self.tunnel(vni, over)),
            ("macvlan", _) => NetdevSpec::macvlan(name, lower, MacvlanMode::Bridge),
            ("tap", _) => NetdevSpec::tap(name),
            ("tun", _) => NetdevSpec::tun(name),
            ("veth", _) => NetdevSpec::veth(name),
            ("bridge", _) => NetdevSpec::bridge(name),
            ("ifb", _) => NetdevSpec::ifb(name),
            (kind, _) => NetdevSpec::kind(kind, name).link(lower),
        };
        let spec = if self.queues == 0 { spec } else { spec.queues(self.queues) };
        let spec = spec.offloads(self.offloads).address(&self.address).mtu(self.mtu).ifindex(self.ifindex);
        let spec = self.attributes.iter().fold(spec, |spec, (number, value)| spec.attribute(*number, value));
        let spec = if self.data.is_empty() { spec } else { spec.data(&self.data) };
        self.alt_names.iter().fold(spec, |spec, name| spec.alt_name(name))
    }

    fn tunnel(&self, vni: u32, lower: u32) -> Vxlan {
        let tunnel = Vxlan::new(vni).lower(lower);
        let tunnel = self.remote.map_or(tunnel, |address| tunnel.remote(address));
        let tunnel = self.local.map_or(tunnel, |address| tunnel.local(address));
        self.port.map_or(tunnel, |port| tunnel.port(port))
    }
}
