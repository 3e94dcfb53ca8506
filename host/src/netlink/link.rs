//! What one link message (`RTM_NEWLINK`, `RTM_DELLINK`) says of a device. Mirrors the reading half of
//! `net/core/rtnetlink.c`.
//!
//! A zero-copy walk that takes the few attributes which the engine compares: a full decode into typed attributes costs
//! several times more, and this runs once per event of the host.

use netlink_packet_core::{NlaBuffer, NlasIterator};

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
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NEW_NETNSID: u16 = 45;
const IFLA_NEW_IFINDEX: u16 = 49;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;

/// A device with what nobody compares, but whoever made it asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// The device.
    pub link: Link,
    /// What the operator, or we, wrote on it; mostly empty.
    pub alias: String,
    /// The device below it, or a veth's other end (`IFLA_LINK`); in which namespace that is, the index does not say.
    pub lower: u32,
    /// The settings of its kind (the content of `IFLA_INFO_DATA`), as far as the kernel tells them.
    pub data: Vec<u8>,
}

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
            IFLA_LINKINFO => {
                link.kind = info(value, IFLA_INFO_KIND).map(|kind| c_string(kind.value())).unwrap_or_default()
            }
            IFLA_PROP_LIST => link.alt_names = alt_names(value),
            _ => {}
        }
    }
    (whole && !link.name.is_empty()).then_some(link)
}

/// The same with what nobody compares: for an answer, not for the stream.
#[must_use]
pub fn describe(payload: &[u8]) -> Option<Described> {
    let mut described = Described { link: parse(payload)?, ..Described::default() };
    for attribute in NlasIterator::new(payload.get(IFINFOMSG..)?).flatten() {
        match attribute.kind() {
            IFLA_IFALIAS => described.alias = c_string(attribute.value()),
            IFLA_LINK => described.lower = word(attribute.value()).unwrap_or_default(),
            IFLA_LINKINFO => {
                described.data =
                    info(attribute.value(), IFLA_INFO_DATA).map(|data| data.value().to_vec()).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(described)
}

/// Where the device of a `RTM_DELLINK` went, if it was moved to another namespace (K2.8): an id for that namespace, which
/// means something only inside the one that sent this, and its index there.
#[must_use]
pub fn moved(payload: &[u8]) -> Option<(i32, u32)> {
    let (mut nsid, mut index) = (None, None);
    for attribute in NlasIterator::new(payload.get(IFINFOMSG..)?).flatten() {
        match attribute.kind() {
            IFLA_NEW_NETNSID => nsid = attribute.value().first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)),
            IFLA_NEW_IFINDEX => index = word(attribute.value()),
            _ => {}
        }
    }
    nsid.filter(|nsid| *nsid >= 0).zip(index)
}

/// Those of the attributes that another list has not, or not with the same bytes.
#[must_use]
pub fn differing(wanted: &[u8], has: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for attribute in NlasIterator::new(wanted) {
        // What is no list of attributes is the kernel's to refuse.
        let Ok(attribute) = attribute else { return wanted.to_vec() };
        let same = |other: &NlaBuffer<&[u8]>| other.kind() == attribute.kind() && other.value() == attribute.value();
        if !NlasIterator::new(has).flatten().any(|other| same(&other)) {
            let length = usize::from(attribute.length());
            all.extend_from_slice(attribute.into_inner().get(..length).unwrap_or_default());
            all.resize(all.len().next_multiple_of(4), 0);
        }
    }
    all
}

fn info(link_info: &[u8], what: u16) -> Option<NlaBuffer<&[u8]>> {
    NlasIterator::new(link_info).flatten().find(|attribute| attribute.kind() == what)
}

fn alt_names(properties: &[u8]) -> Vec<String> {
    let names = NlasIterator::new(properties).flatten().filter(|property| property.kind() == IFLA_ALT_IFNAME);
    names.map(|name| c_string(name.value())).collect()
}

fn word(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}
