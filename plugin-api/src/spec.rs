//! A device as its plugin wants it made: kind, name, and what the kernel shall be told of it.
//!
//! Mirrors what `alloc_netdev` and a kind's `setup` take. Kinds with options encode them as the kernel's
//! `IFLA_INFO_DATA` (`linux/if_link.h`); every other kind of the kernel comes by name, with raw attributes. What can be
//! checked without a namespace is checked by [`crate::Host::alloc_netdev`], the rest when it is registered.

use std::net::IpAddr;

use crate::Netdev;
use crate::abi;
use crate::attribute::Attributes;

/// Attribute numbers of `linux/if_link.h`.
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_GROUP: u16 = 2;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_GROUP6: u16 = 16;
const IFLA_VXLAN_LOCAL6: u16 = 17;

/// [`abi::NetdevSpec::flags`].
const OFFLOADS: u32 = 1;
const NEEDS_FREE: u32 = 2;
const IMMUTABLE: u32 = 4;

/// A device that is to be: a kind, a name, and options. Given to [`crate::Host::alloc_netdev`].
///
/// A name is 1 to 15 bytes, or a pattern with one `%d`, which becomes the lowest number that is free (K2.1). When the
/// daemon stops, a device that still has the very name asked for here, in the namespace where it was registered, stays as
/// it is, and the next daemon takes it over when the plugin registers it again; every other one is deleted.
#[derive(Clone, Debug)]
#[must_use = "it makes no device before `alloc_netdev`"]
pub struct NetdevSpec {
    pub(crate) name: String,
    alt_names: Vec<String>,
    pub(crate) kind: String,
    data: Attributes,
    /// An attribute was too long to encode.
    pub(crate) is_too_long: bool,
    address: Vec<u8>,
    pub(crate) mtu: u32,
    min_mtu: u32,
    max_mtu: u32,
    ifindex: u32,
    link: u32,
    pub(crate) queues: u16,
    flags: u32,
    pub(crate) peer: Option<Netdev>,
}

impl NetdevSpec {
    /// A device of any kind that the kernel makes over rtnetlink (`ip link add … type KIND`).
    pub fn kind(kind: &str, name: &str) -> Self {
        NetdevSpec {
            name: name.to_owned(),
            alt_names: Vec::new(),
            kind: kind.to_owned(),
            data: Attributes::default(),
            is_too_long: false,
            address: Vec::new(),
            mtu: 0,
            min_mtu: 0,
            max_mtu: 0,
            ifindex: 0,
            link: 0,
            queues: 0,
            flags: 0,
            peer: None,
        }
    }

    /// A device whose frames are Ethernet frames, and pass through the plugin: what the namespace sends comes to
    /// [`crate::NetDeviceOps::start_xmit`], what the plugin gives to [`crate::Datapath::netif_rx`] is received there.
    pub fn tap(name: &str) -> Self {
        NetdevSpec { queues: 1, ..Self::kind("tap", name) }
    }

    /// The same with IP packets instead of Ethernet frames.
    pub fn tun(name: &str) -> Self {
        NetdevSpec { queues: 1, ..Self::kind("tun", name) }
    }

    /// One end of a pair. Allocate one end so, and the other with it as [`peer`](Self::peer); without, the kernel
    /// makes and names the other end, which is then no device of the plugin's.
    pub fn veth(name: &str) -> Self {
        Self::kind("veth", name)
    }

    /// A bridge.
    pub fn bridge(name: &str) -> Self {
        Self::kind("bridge", name)
    }

    /// An intermediate functional block.
    pub fn ifb(name: &str) -> Self {
        Self::kind("ifb", name)
    }

    /// A VXLAN tunnel.
    pub fn vxlan(name: &str, vxlan: &Vxlan) -> Self {
        NetdevSpec { data: vxlan.encode(), ..Self::kind("vxlan", name) }
    }

    /// A macvlan on top of a device of the same namespace, given by its ifindex.
    pub fn macvlan(name: &str, lower: u32, mode: MacvlanMode) -> Self {
        let spec = Self::kind("macvlan", name).attribute(IFLA_MACVLAN_MODE, &(mode as u32).to_ne_bytes());
        NetdevSpec { link: lower, ..spec }
    }

    /// Appends an attribute of the kind's own (`IFLA_INFO_DATA`), its bytes as the kernel wants them.
    pub fn attribute(mut self, number: u16, value: &[u8]) -> Self {
        self.is_too_long |= !self.data.put(number, value);
        self
    }

    /// Appends attributes of the kind's own that are encoded already.
    pub fn data(mut self, encoded: &[u8]) -> Self {
        self.data.append(encoded);
        self
    }

    /// Adds an alternative name: up to 127 bytes, and of a looser form than a name (K2.1(9)).
    pub fn alt_name(mut self, name: &str) -> Self {
        self.alt_names.push(name.to_owned());
        self
    }

    /// The hardware address; else the kernel chooses.
    pub fn address(mut self, address: &[u8]) -> Self {
        self.address = address.to_vec();
        self
    }

    /// The MTU in bytes; else the kind's own.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// The bounds of later changes of the MTU, in bytes; 0 for no bound of the plugin's own. A change beyond is refused
    /// (`EINVAL`), not clamped (K2.7).
    pub fn mtu_bounds(mut self, min: u32, max: u32) -> Self {
        (self.min_mtu, self.max_mtu) = (min, max);
        self
    }

    /// The index that it shall have; else the next one. One in use is `EBUSY` (K2.2). Of a `veth` pair the peer can have one
    /// only together with the other end: alone it is `EINVAL`, since the kernel would not heed it.
    pub fn ifindex(mut self, ifindex: u32) -> Self {
        self.ifindex = ifindex;
        self
    }

    /// The lower device, by its index in the same namespace (`IFLA_LINK`).
    pub fn link(mut self, lower: u32) -> Self {
        self.link = lower;
        self
    }

    /// tun and tap: how many queues, at least 1, each with a thread of its own if the ops transmit.
    pub fn queues(mut self, queues: u16) -> Self {
        self.queues = queues;
        self
    }

    /// tun and tap: frames carry a [`crate::VnetHeader`], and the kernel may leave segmentation and checksums to it:
    /// frames of up to 64 KiB then come where the namespace's own TCP sends much.
    pub fn offloads(self, on: bool) -> Self {
        self.flag(OFFLOADS, on)
    }

    /// Freed by the daemon as soon as its unregistration is done, as `needs_free_netdev` in the kernel.
    pub fn needs_free(self, on: bool) -> Self {
        self.flag(NEEDS_FREE, on)
    }

    /// It may not be moved to another namespace (`netns_immutable`).
    pub fn immutable(self, on: bool) -> Self {
        self.flag(IMMUTABLE, on)
    }

    /// veth: the other end, allocated before. The two are registered together, by
    /// [`Net::register_netdevice_pair`](crate::Net::register_netdevice_pair), in one namespace or in two.
    pub fn peer(mut self, other: &Netdev) -> Self {
        self.peer = Some(other.clone());
        self
    }

    /// Shows the spec as it crosses to the host.
    pub(crate) fn with_raw<R>(&self, ops: abi::OpsHandle, f: impl FnOnce(&abi::NetdevSpec<'_>) -> R) -> R {
        let alt_names: Vec<_> = self.alt_names.iter().map(|name| name.as_str().into()).collect();
        f(&abi::NetdevSpec {
            name: self.name.as_str().into(),
            alt_names: alt_names.as_slice().into(),
            link_kind: self.kind.as_str().into(),
            data: self.data.as_bytes().into(),
            address: self.address.as_slice().into(),
            mtu: self.mtu,
            min_mtu: self.min_mtu,
            max_mtu: self.max_mtu,
            ifindex: self.ifindex,
            link: self.link,
            queues: u32::from(self.queues),
            flags: self.flags,
            peer: self.peer.as_ref().map_or_else(abi::NetdevHandle::default, Netdev::handle),
            ops,
        })
    }

    fn flag(mut self, flag: u32, on: bool) -> Self {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
        self
    }
}

/// How a macvlan treats the others on its lower device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MacvlanMode {
    /// They do not see each other.
    Private = 1,
    /// They reach each other through a switch outside.
    Vepa = 2,
    /// They reach each other directly.
    Bridge = 4,
    /// It has the lower device to itself.
    Passthru = 8,
    /// It takes frames by their sender's address.
    Source = 16,
}

/// The options of a VXLAN tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    id: u32,
    far: Option<IpAddr>,
    local: Option<IpAddr>,
    port: u16,
    lower: u32,
}

impl Vxlan {
    /// A tunnel with this network identifier (24 bits).
    #[must_use]
    pub fn new(id: u32) -> Self {
        Vxlan { id, far: None, local: None, port: 4789, lower: 0 }
    }

    /// The other end's address.
    #[must_use]
    pub fn remote(mut self, address: IpAddr) -> Self {
        self.far = Some(address);
        self
    }

    /// A multicast group instead of one other end; it needs a [`lower`](Self::lower) device.
    #[must_use]
    pub fn group(self, address: IpAddr) -> Self {
        // The kernel tells the two apart by the address alone.
        self.remote(address)
    }

    /// This end's address.
    #[must_use]
    pub fn local(mut self, address: IpAddr) -> Self {
        self.local = Some(address);
        self
    }

    /// The UDP port of the other end; 4789 is the default, as the standard says (the kernel's own default is older).
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The device that it sends through, by its index in the same namespace.
    #[must_use]
    pub fn lower(mut self, ifindex: u32) -> Self {
        self.lower = ifindex;
        self
    }

    fn encode(&self) -> Attributes {
        let mut data = Attributes::default();
        let mut put = |number, value: &[u8]| {
            let fits = data.put(number, value);
            debug_assert!(fits, "an address or a number is short");
        };
        put(IFLA_VXLAN_ID, &self.id.to_ne_bytes());
        match self.far {
            Some(IpAddr::V4(address)) => put(IFLA_VXLAN_GROUP, &address.octets()),
            Some(IpAddr::V6(address)) => put(IFLA_VXLAN_GROUP6, &address.octets()),
            None => {}
        }
        match self.local {
            Some(IpAddr::V4(address)) => put(IFLA_VXLAN_LOCAL, &address.octets()),
            Some(IpAddr::V6(address)) => put(IFLA_VXLAN_LOCAL6, &address.octets()),
            None => {}
        }
        if self.lower != 0 {
            put(IFLA_VXLAN_LINK, &self.lower.to_ne_bytes());
        }
        // A port is the one number here that the kernel takes in network order.
        put(IFLA_VXLAN_PORT, &self.port.to_be_bytes());
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn attributes(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut found = Vec::new();
        while let [a, b, c, d, ..] = *bytes {
            let length = usize::from(u16::from_ne_bytes([a, b]));
            found.push((u16::from_ne_bytes([c, d]), bytes[4..length].to_vec()));
            bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        }
        found
    }

    #[test]
    fn a_vxlan_is_told_as_the_kernel_numbers_it() {
        let v4 = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
        let spec = NetdevSpec::vxlan("vx%d", &Vxlan::new(42).remote(v4(1)).local(v4(2)).lower(7));
        let expected = [
            (1, 42u32.to_ne_bytes().to_vec()),
            (2, vec![10, 0, 0, 1]),
            (4, vec![10, 0, 0, 2]),
            (3, 7u32.to_ne_bytes().to_vec()),
            (15, vec![0x12, 0xb5]),
        ];
        assert_eq!(attributes(spec.data.as_bytes()), expected);
        let six = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let spec = NetdevSpec::vxlan("vx%d", &Vxlan::new(1).group(six).local(six).port(1));
        let numbers: Vec<u16> = attributes(spec.data.as_bytes()).into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, [1, 16, 17, 15]);
    }

    #[test]
    fn a_spec_crosses_as_it_was_written() {
        let spec = NetdevSpec::macvlan("m0", 3, MacvlanMode::Bridge).alt_name("front").mtu_bounds(68, 9000);
        spec.needs_free(true).immutable(true).needs_free(false).with_raw(abi::OpsHandle(5), |raw| {
            assert_eq!((raw.name.as_str(), raw.link_kind.as_str(), raw.link), ("m0", "macvlan", 3));
            assert_eq!(attributes(raw.data.as_slice()), [(1, 4u32.to_ne_bytes().to_vec())]);
            assert_eq!((raw.min_mtu, raw.max_mtu, raw.mtu, raw.queues), (68, 9000, 0, 0));
            assert_eq!((raw.flags, raw.ops, raw.peer.0), (4, abi::OpsHandle(5), 0));
            assert_eq!(raw.alt_names.iter().map(|n| n.as_str()).collect::<Vec<_>>(), ["front"]);
        });
        NetdevSpec::tap("t%d").offloads(true).with_raw(abi::OpsHandle(1), |raw| {
            assert_eq!((raw.queues, raw.flags), (1, 1));
        });
        assert!(NetdevSpec::kind("x", "x").attribute(1, &vec![0; 70_000]).is_too_long);
    }
}
