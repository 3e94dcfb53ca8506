//! What the kernel counts of one link (`IFLA_STATS64`), in the network namespace that the calling thread is in.
//!
//! Apart from `rtnetlink.rs`, because nobody who follows links wants counters: they are asked for one link at a time,
//! when an operator looks at it.

use netlink_packet_core::NlasIterator;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};

use crate::netlink::{NetlinkError, Requests};

const IFINFOMSG: usize = 16;
const IFLA_STATS64: u16 = 23;

/// `struct rtnl_link_stats64`, as far as it is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Frames received.
    pub rx_packets: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames that arrived damaged.
    pub rx_errors: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
    /// Frames that arrived and had no room.
    pub rx_dropped: u64,
    /// Frames that were to be sent and had no room.
    pub tx_dropped: u64,
}

/// The counters of the link with this index, or the kernel's ENODEV.
pub fn of(ifindex: u32) -> Result<LinkStats, NetlinkError> {
    let doing = || format!("read the counters of the link with index {ifindex}");
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    // Leaves out the counters of IPv6, which the kernel adds up over all processors.
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut found = None;
    Requests::open()?.ask(&doing, RouteNetlinkMessage::GetLink(message), 0, |payload| found = parse(payload))?;
    let silent =
        || NetlinkError { doing: doing(), errno: libc::EPROTO, reason: "the kernel's answer has no counters".into() };
    found.ok_or_else(silent)
}

fn parse(payload: &[u8]) -> Option<LinkStats> {
    let attributes = NlasIterator::new(payload.get(IFINFOMSG..)?);
    let stats = attributes.flatten().find(|attribute| attribute.kind() == IFLA_STATS64)?;
    let words = stats.value().as_chunks::<8>().0;
    let word = |n: usize| words.get(n).map(|bytes| u64::from_ne_bytes(*bytes));
    Some(LinkStats {
        rx_packets: word(0)?,
        tx_packets: word(1)?,
        rx_bytes: word(2)?,
        tx_bytes: word(3)?,
        rx_errors: word(4)?,
        tx_errors: word(5)?,
        rx_dropped: word(6)?,
        tx_dropped: word(7)?,
    })
}
