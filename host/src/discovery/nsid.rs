//! Ids by which one network namespace knows others (K1.4): assigning one, asking for one.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::NlasIterator;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};

use crate::netlink::{NetlinkError, Requests};

/// `RTM_DELNSID`: an id has lost its namespace.
pub(super) const DELNSID: u16 = 89;

const NETNSA_NSID: u16 = 1;
const RTGENMSG_ALIGNED: usize = 4;

/// Makes the namespace of `requests` know the namespace `netns` as `nsid` (-1: the kernel chooses).
///
/// `EEXIST`: that id is taken, or the namespace has one already; an id cannot be taken back while its namespace lives.
pub(super) fn assign(requests: &mut Requests, netns: BorrowedFd<'_>, nsid: i32) -> Result<(), NetlinkError> {
    let message = RouteNetlinkMessage::NewNsId(about(netns, &[NsidAttribute::Id(nsid)]));
    requests.ask(&|| format!("assign the id {nsid} to a network namespace"), message, 0, |_| {})
}

/// The id by which the namespace of `requests` knows the namespace `netns`, if it has one.
pub fn query(requests: &mut Requests, netns: BorrowedFd<'_>) -> Result<Option<i32>, NetlinkError> {
    let message = RouteNetlinkMessage::GetNsId(about(netns, &[]));
    let mut found = None;
    requests.ask(&|| "ask for the id of a network namespace".into(), message, 0, |answer| found = parse(answer))?;
    Ok(found)
}

/// Which of these namespaces the one that the calling thread is in knows as `nsid`. It takes a request for each: for the
/// rare case that an id has come from there and nobody here assigned it.
pub fn whose<K, N: AsFd>(nsid: i32, candidates: impl IntoIterator<Item = (K, N)>) -> Result<Option<K>, NetlinkError> {
    let mut requests = Requests::open()?;
    for (key, netns) in candidates {
        if query(&mut requests, netns.as_fd())? == Some(nsid) {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// The id that a `RTM_*NSID` message is about; -1 is the kernel's word for none.
pub(super) fn parse(payload: &[u8]) -> Option<i32> {
    let attribute = NlasIterator::new(payload.get(RTGENMSG_ALIGNED..)?)
        .flatten()
        .find(|attribute| attribute.kind() == NETNSA_NSID)?;
    let nsid = i32::from_ne_bytes(*attribute.value().first_chunk()?);
    (nsid >= 0).then_some(nsid)
}

fn about(netns: BorrowedFd<'_>, more: &[NsidAttribute]) -> NsidMessage {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(netns.as_raw_fd().unsigned_abs()));
    message.attributes.extend_from_slice(more);
    message
}
