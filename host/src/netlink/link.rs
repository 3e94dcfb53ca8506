//! What one link message (`RTM_NEWLINK`, `RTM_DELLINK`) says of a device. Mirrors the reading half of
//! `net/core/rtnetlink.c`.
//!
//! A zero-copy walk that takes the few attributes which the engine compares: a full decode into typed attributes costs
//! several times more, and this runs once per event of the host.

use netlink_packet_core::NlasIterator;

use super::c_string;
use crate::engine::Link;

/// `RTM_NEWLINK`.
pub const NEWLINK: u16 = 16;
/// `RTM_DELLINK`.
pub const DELLINK: u16 = 17;

const IFINFOMSG: usize = 16;
const AF_UNSPEC: u8 = 0;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;

/// The device that a message is about, or `None` if it is about something else: a message of another family is about a
/// *port* (of a bridge, mostly) and its DELLINK is no deletion.
#[must_use]
pub fn ifindex(payload: &[u8]) -> Option<u32> {
    let index = i32::from_ne_bytes(*payload.get(4..)?.first_chunk()?);
    (payload[0] == AF_UNSPEC).then_some(())?;
    u32::try_from(index).ok()
}

/// The device as a `RTM_NEWLINK` describes it. `None` for a message that does not describe all of it: wireless
/// extensions send such, and to take what they leave out for a change would be wrong.
#[must_use]
pub fn parse(payload: &[u8]) -> Option<Link> {
    let mut link = Link { ifindex: ifindex(payload)?, flags: word(payload.get(8..)?)?, ..Link::default() };
    let mut whole = false;
    for attribute in NlasIterator::new(payload.get(IFINFOMSG..)?) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            IFLA_ADDRESS => link.address = value.to_vec(),
            IFLA_IFNAME => link.name = c_string(value),
            IFLA_MTU => (link.mtu, whole) = (word(value)?, true),
            IFLA_MASTER => link.master = word(value)?,
            IFLA_LINKINFO => link.kind = kind(value),
            _ => {}
        }
    }
    (whole && !link.name.is_empty()).then_some(link)
}

fn kind(link_info: &[u8]) -> String {
    NlasIterator::new(link_info)
        .flatten()
        .find(|attribute| attribute.kind() == IFLA_INFO_KIND)
        .map(|attribute| c_string(attribute.value()))
        .unwrap_or_default()
}

fn word(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}
