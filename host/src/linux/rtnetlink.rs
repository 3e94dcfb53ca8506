//! Requests about links, in the network namespace that the calling thread is in. Mirrors what `ip link` asks of
//! `net/core/rtnetlink.c`.
//!
//! Every call opens a socket and drops it before it returns: a socket that stayed would keep its namespace alive after
//! the operator deleted it. Decides nothing, listens to nothing.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};

use crate::engine::Link;
use crate::netlink::{Answer, NetlinkError, Requests, link};

/// How often a dump is repeated that the kernel calls inconsistent, before we say so: the namespace would have to
/// change during each of them.
const DUMP_ATTEMPTS: usize = 100;

/// Every device of the current namespace.
pub fn dump_links() -> Result<Vec<Link>, NetlinkError> {
    let doing = || "list the links of the current network namespace".to_owned();
    let mut requests = Requests::open()?;
    for _ in 0..DUMP_ATTEMPTS {
        let mut message = LinkMessage::default();
        // Nobody here reads the IPv6 counters, and the kernel adds them up over all processors.
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut links = Vec::new();
        let answer = requests
            .dump(&doing, RouteNetlinkMessage::GetLink(message), |payload| links.extend(link::parse(payload)))?;
        if answer == Answer::Consistent {
            return Ok(links);
        }
    }
    Err(NetlinkError {
        doing: doing(),
        errno: libc::EAGAIN,
        reason: "its links change faster than they can be read".into(),
    })
}

/// The device of this name, or the kernel's ENODEV.
pub fn find(name: &str) -> Result<Link, NetlinkError> {
    let doing = || format!("find the link {name}");
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut found = None;
    Requests::open()?.ask(&doing, RouteNetlinkMessage::GetLink(message), 0, |payload| found = link::parse(payload))?;
    found.ok_or_else(|| NetlinkError {
        doing: doing(),
        errno: libc::EPROTO,
        reason: "the kernel's answer has no link".into(),
    })
}

/// Creates a device of a kind that needs no options (`dummy`, `bridge`, …); it begins down.
pub fn create(name: &str, kind: &str) -> Result<(), NetlinkError> {
    let info = vec![LinkInfo::Kind(InfoKind::from(kind))];
    create_with(&|| format!("create the {kind} link {name}"), named(name), info)
}

/// Creates a pair of veth devices, `name` here and `peer` in the namespace `peer_netns`, or here too. The peer is
/// announced first (K4.7).
pub fn create_veth(name: &str, peer: &str, peer_netns: Option<BorrowedFd<'_>>) -> Result<(), NetlinkError> {
    let mut far = named(peer);
    far.attributes.extend(peer_netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())));
    let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far)))];
    create_with(&|| format!("create the veth pair {name} and {peer}"), named(name), info)
}

/// Deletes the device of this name.
pub fn delete(name: &str) -> Result<(), NetlinkError> {
    let message = RouteNetlinkMessage::DelLink(named(name));
    Requests::open()?.ask(&|| format!("delete the link {name}"), message, 0, |_| {})
}

/// Takes a device up.
pub fn set_up(ifindex: u32) -> Result<(), NetlinkError> {
    let message = administrative(ifindex, LinkFlags::Up);
    change(&|| format!("take the link with index {ifindex} up"), message)
}

/// Takes a device down.
pub fn set_down(ifindex: u32) -> Result<(), NetlinkError> {
    let message = administrative(ifindex, LinkFlags::empty());
    change(&|| format!("take the link with index {ifindex} down"), message)
}

/// Renames a device.
pub fn rename(ifindex: u32, name: &str) -> Result<(), NetlinkError> {
    let message = indexed(ifindex, LinkAttribute::IfName(name.to_owned()));
    change(&|| format!("rename the link with index {ifindex} to {name}"), message)
}

/// Sets the MTU of a device.
pub fn set_mtu(ifindex: u32, mtu: u32) -> Result<(), NetlinkError> {
    change(
        &|| format!("set the MTU of the link with index {ifindex} to {mtu}"),
        indexed(ifindex, LinkAttribute::Mtu(mtu)),
    )
}

/// Sets the hardware address of a device.
pub fn set_address(ifindex: u32, address: &[u8]) -> Result<(), NetlinkError> {
    let message = indexed(ifindex, LinkAttribute::Address(address.to_vec()));
    change(&|| format!("set the address of the link with index {ifindex} to {address:02x?}"), message)
}

/// Puts a device under an upper one (a bridge, a bond), or with 0 takes it out.
pub fn set_master(ifindex: u32, master: u32) -> Result<(), NetlinkError> {
    let message = indexed(ifindex, LinkAttribute::Controller(master));
    change(&|| format!("put the link with index {ifindex} under the one with index {master}"), message)
}

/// Moves a device into another namespace. It keeps its name, and its index where that is free there.
pub fn move_to(ifindex: u32, netns: BorrowedFd<'_>) -> Result<(), NetlinkError> {
    let message = indexed(ifindex, LinkAttribute::NetNsFd(netns.as_raw_fd()));
    change(&|| format!("move the link with index {ifindex} to another network namespace"), message)
}

fn create_with(doing: &dyn Fn() -> String, mut message: LinkMessage, info: Vec<LinkInfo>) -> Result<(), NetlinkError> {
    message.attributes.push(LinkAttribute::LinkInfo(info));
    Requests::open()?.ask(doing, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, |_| {})
}

fn change(doing: &dyn Fn() -> String, message: LinkMessage) -> Result<(), NetlinkError> {
    Requests::open()?.ask(doing, RouteNetlinkMessage::SetLink(message), 0, |_| {})
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn indexed(ifindex: u32, attribute: LinkAttribute) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes.push(attribute);
    message
}

/// A change of `IFF_UP` alone: the mask keeps the kernel from taking the other flags' zeros for a wish.
fn administrative(ifindex: u32, flags: LinkFlags) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.header.flags = flags;
    message.header.change_mask = LinkFlags::Up;
    message
}
