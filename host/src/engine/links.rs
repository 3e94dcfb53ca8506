//! How the engine acts on links: the trait [`Links`], and what it wants made and changed.
//!
//! Mirrors the part of rtnetlink that `register_netdevice` needs: a link is made, deleted, changed and looked at, and a
//! *fence* says how far the stream of observations lags behind. The daemon implements it with netlink and the tun
//! device file, tests in memory. Nothing here decides anything.

use std::any::Any;
use std::sync::Arc;

use super::failure::{Failure, HookError};
use super::net::Net;
use super::notifier::NetdevEvent;

/// Administratively up.
pub(super) const IFF_UP: u32 = 1;
/// Running, lower up, dormant: the kernel's own, and follow from going up or down.
pub(super) const IFF_OPERATIONAL: u32 = 1 << 6 | 1 << 16 | 1 << 17;

/// A link as the kernel says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Index in its namespace.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Link kind; empty where the kernel gives none.
    pub kind: String,
    /// Hardware address; empty where there is none.
    pub address: Vec<u8>,
    /// Maximum transmission unit.
    pub mtu: u32,
    /// `IFF_*` flags.
    pub flags: u32,
    /// ifindex of the upper device that it belongs to; 0 for none.
    pub master: u32,
    /// Alternative names.
    pub alt_names: Vec<String>,
}

impl Link {
    /// Whether it is administratively up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }

    /// Whether it is called so, by its name or an alternative one.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name == name || self.alt_names.iter().any(|alt| alt == name)
    }
}

/// A device as its plugin wants it made. 0 and empty mean the kind's or the kernel's own choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkSpec {
    /// A name, or a pattern with one `%d`.
    pub name: String,
    /// Alternative names, given at creation.
    pub alt_names: Vec<String>,
    /// `tun` and `tap` are made through the device file, every other kind over rtnetlink.
    pub kind: String,
    /// The content of `IFLA_INFO_DATA`: netlink attributes, in the machine's byte order.
    pub data: Vec<u8>,
    /// Hardware address.
    pub address: Vec<u8>,
    /// Maximum transmission unit.
    pub mtu: u32,
    /// The smallest that is accepted; 0: no bound.
    pub min_mtu: u32,
    /// The largest that is accepted; 0: no bound.
    pub max_mtu: u32,
    /// The index that it shall have; 0: the next free one.
    pub ifindex: u32,
    /// ifindex of the lower device (`IFLA_LINK`).
    pub link: u32,
    /// tun and tap: how many queues, at least 1. Other kinds: 0.
    pub queues: u32,
    /// tun and tap: frames carry a virtio header, and the kernel may leave segmentation and checksums to it.
    pub offloads: bool,
    /// Freed by the host when its unregistration is done (`needs_free_netdev`).
    pub needs_free: bool,
    /// It may not be moved to another namespace (`netns_immutable`).
    pub immutable: bool,
}

/// What the kernel gave together with a device: the descriptors of a tun's or tap's queues. Opaque to the engine, which
/// keeps it for the device's life and hands it to `ndo_open`.
pub type Queues = Arc<dyn Any + Send + Sync>;

/// A link that was made, or taken over.
pub struct Created {
    /// As it is now.
    pub link: Link,
    /// Of a tun or tap.
    pub queues: Option<Queues>,
    /// It was there already, marked as the same plugin's: a daemon that was stopped or killed left it.
    pub adopted: bool,
}

/// A link to be made.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// All but the name.
    pub spec: &'a LinkSpec,
    /// The name, no longer a pattern.
    pub name: &'a str,
    /// What marks it as its plugin's.
    pub alias: &'a str,
}

/// A change of a link.
#[derive(Clone, Copy)]
pub enum LinkChange<'a> {
    /// Take it up.
    Up,
    /// Take it down.
    Down,
    /// Rename it.
    Name(&'a str),
    /// Set its MTU.
    Mtu(u32),
    /// Set its hardware address.
    Address(&'a [u8]),
    /// Put it under the upper device with this index; 0: take it out.
    Master(u32),
    /// Give it another name besides.
    AddAltName(&'a str),
    /// Take such a name away.
    DelAltName(&'a str),
    /// Move it to another namespace.
    MoveTo {
        /// Where to.
        net: &'a Net,
        /// Its index there; 0: the one that it has, or else any.
        ifindex: u32,
        /// Its name there, where it cannot keep the one that it has.
        name: Option<&'a str>,
    },
}

/// Who holds a reference to a device, and why (`netdev_hold`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The plugin.
    pub plugin: Arc<str>,
    /// In the plugin's words.
    pub purpose: Arc<str>,
    /// Which reference: counts up, so the lowest is the oldest.
    pub serial: u64,
}

/// Counters as `ndo_get_stats64` gives them: what the plugin itself did with frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's words, as in rtnl_link_stats64")]
pub struct Stats {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub rx_dropped: u64,
    pub rx_errors: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub tx_dropped: u64,
    pub tx_errors: u64,
}

/// A counter that only devices of this kind have, as `get_ethtool_stats` gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EthtoolStat {
    /// In the plugin's words.
    pub name: String,
    /// How often.
    pub value: u64,
}

/// The links of one namespace. Everything up to `look` is called inside it, under its RTNL.
pub trait Links: Send + Sync {
    /// Subscribes to the namespace's device events (idempotent), then lists its devices, in any order.
    fn list(&self) -> Result<Vec<Link>, Failure>;
    /// Makes a link, down; with `peer`, both ends of a pair, the other one there. A link of that name that carries the
    /// wanted alias, and is of that kind, is taken over instead.
    ///
    /// # Errors
    /// `EEXIST` where a name (of either, alternative ones too) is taken, `EBUSY` where a wanted index is; then, as after any
    /// error, nothing was made.
    fn create(
        &self,
        wanted: &Wanted<'_>,
        peer: Option<(&Net, &Wanted<'_>)>,
    ) -> Result<(Created, Option<Created>), Failure>;
    /// Whether the link of that name and kind, which is there, would be taken over by [`Links::create`]. Asked before
    /// anything is done for it; who does not know lets `create` decide.
    #[expect(unused_variables, reason = "tests need none")]
    fn is_left(&self, wanted: &Wanted<'_>) -> Result<bool, Failure> {
        Ok(true)
    }
    /// Deletes a link; `ENODEV` where there is none, which is the caller's to judge.
    fn delete(&self, ifindex: u32) -> Result<(), Failure>;
    /// Changes a link: wholly, or not at all.
    fn change(&self, ifindex: u32, change: &LinkChange<'_>) -> Result<(), Failure>;
    /// Opens the queues of a tun or tap anew that was moved here, and that its plugin has not open: descriptors keep the
    /// namespace in which they were opened.
    ///
    /// # Errors
    /// The kernel's; the device is gone then.
    fn reopen(&self, ifindex: u32, spec: &LinkSpec, queues: Queues) -> Result<Queues, Failure>;
    /// Sends a mark through the stream of observations and gives its number: what is read before it is older than this
    /// call. 0: nobody listens, so nothing old can come.
    fn fence(&self) -> Result<u64, Failure>;
    /// The link as it is now; `None` where there is none.
    fn look(&self, ifindex: u32) -> Result<Option<Link>, Failure>;
    /// An unregistration has waited for the device's last reference for long, and goes on waiting.
    #[expect(unused_variables, reason = "tests need none")]
    fn waiting(&self, device: &str, holders: &[Holder]) {}
    /// An unregistration has given up waiting; the device stays until these let it go.
    #[expect(unused_variables, reason = "tests need none")]
    fn leaked(&self, device: &str, holders: &[Holder]) {}
    /// An event of a device is told to all; asked for under the RTNL, wherever the thread is, so it must be short.
    #[expect(unused_variables, reason = "tests need none")]
    fn told(&self, event: &NetdevEvent<'_>) {}
    /// What was asked about a plugin's own device is refused.
    #[expect(unused_variables, reason = "tests need none")]
    fn refused(&self, event: &NetdevEvent<'_>, failure: &Failure) {}
    /// Something went wrong in a call that answers with an errno only, or with nothing.
    #[expect(unused_variables, reason = "tests need none")]
    fn noted(&self, error: &HookError) {}
}
