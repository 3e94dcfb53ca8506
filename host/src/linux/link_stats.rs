//! What the kernel counted at devices: `RTM_GETSTATS` with `IFLA_STATS_LINK_64`, in the network namespace that the
//! calling thread is in. Reads only, and on request only: the stream of link events carries no counters.

use netlink_packet_core::NlasIterator;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::stats::{StatsFilterMask, StatsMessage};

use crate::netlink::{NetlinkError, Requests};

/// `struct if_stats_msg`.
const HEADER: usize = 12;
const IFLA_STATS_LINK_64: u16 = 1;

/// The leading counters of `struct rtnl_link_stats64`, as the kernel calls them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // The kernel's names, one by one.
pub struct Counters {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}

/// Of one device, or the kernel's ENODEV.
pub fn of(ifindex: u32) -> Result<Counters, NetlinkError> {
    let doing = || format!("read the counters of the link with index {ifindex}");
    let mut found = None;
    Requests::open()?.ask(&doing, request(ifindex), 0, |payload| found = parse(payload))?;
    found.map(|(_, counters)| counters).ok_or_else(|| NetlinkError {
        doing: doing(),
        errno: libc::EPROTO,
        reason: "the kernel's answer has no counters".into(),
    })
}

/// Of every device, by ifindex. Of no one moment: counters move meanwhile anyway.
pub fn dump() -> Result<Vec<(u32, Counters)>, NetlinkError> {
    let doing = || "read the counters of the links of the current network namespace".to_owned();
    let mut all = Vec::new();
    Requests::open()?.dump(&doing, request(0), |payload| all.extend(parse(payload)))?;
    Ok(all)
}

fn request(ifindex: u32) -> RouteNetlinkMessage {
    let mut message = StatsMessage::default();
    message.header.ifindex = ifindex;
    message.header.filter_mask = StatsFilterMask::Link64;
    RouteNetlinkMessage::GetStats(message)
}

fn parse(payload: &[u8]) -> Option<(u32, Counters)> {
    let ifindex = u32::from_ne_bytes(*payload.get(4..)?.first_chunk()?);
    let attribute = NlasIterator::new(payload.get(HEADER..)?).flatten().find(|a| a.kind() == IFLA_STATS_LINK_64)?;
    let mut words = attribute.value().chunks_exact(8).filter_map(|word| word.first_chunk());
    let mut next = || words.next().map(|word| u64::from_ne_bytes(*word));
    let counters = Counters {
        rx_packets: next()?,
        tx_packets: next()?,
        rx_bytes: next()?,
        tx_bytes: next()?,
        rx_errors: next()?,
        tx_errors: next()?,
        rx_dropped: next()?,
        tx_dropped: next()?,
    };
    Some((ifindex, counters))
}
