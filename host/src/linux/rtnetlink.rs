//! Requests about links that exist, in the network namespace that the calling thread is in. Mirrors what `ip link` asks
//! of `net/core/rtnetlink.c`; `link_create.rs` makes them.
//!
//! Every call opens a socket and drops it before it returns: a socket that stayed would keep its namespace alive after
//! the operator deleted it. Decides nothing, listens to nothing.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, Prop,
};

use super::link_create::{self, NewLink};
use crate::engine::Link;
use crate::netlink::link::Described;
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
    ask_for(&|| format!("find the link {name}"), named(name)).map(|described| described.link)
}

/// All about the device of this name (or alternative name), if there is one.
pub fn find_described(name: &str) -> Result<Option<Described>, NetlinkError> {
    unless_gone(ask_for(&|| format!("find the link {name}"), named(name)))
}

/// All about the device with this index, if there is one.
pub fn look(ifindex: u32) -> Result<Option<Described>, NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    unless_gone(ask_for(&|| format!("look at the link with index {ifindex}"), message))
}

/// Creates a device of a kind that needs no options (`ifb`, `bridge`, …); it begins down.
pub fn create(name: &str, kind: &str) -> Result<(), NetlinkError> {
    link_create::create(&NewLink { name, kind, ..NewLink::default() }).map(drop)
}

/// Creates a pair of veth devices, `name` here and `peer` in the namespace `peer_netns`, or here too.
pub fn create_veth(name: &str, peer: &str, peer_netns: Option<BorrowedFd<'_>>) -> Result<(), NetlinkError> {
    let end = |name| NewLink { name, ..NewLink::default() };
    link_create::create_pair(&end(name), &end(peer), peer_netns).map(drop)
}

/// Deletes the device of this name.
pub fn delete(name: &str) -> Result<(), NetlinkError> {
    let message = RouteNetlinkMessage::DelLink(named(name));
    Requests::open()?.ask(&|| format!("delete the link {name}"), message, 0, |_| {})
}

/// Deletes the device with this index.
pub fn delete_index(ifindex: u32) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    let doing = || format!("delete the link with index {ifindex}");
    Requests::open()?.ask(&doing, RouteNetlinkMessage::DelLink(message), 0, |_| {})
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

/// Writes an alias on a device; an empty one takes it off.
pub fn set_alias(ifindex: u32, alias: &str) -> Result<(), NetlinkError> {
    let message = indexed(ifindex, LinkAttribute::IfAlias(alias.to_owned()));
    change(&|| format!("write the alias `{alias}` on the link with index {ifindex}"), message)
}

/// Changes what is particular to a device's kind (`IFLA_INFO_DATA`), as far as the kind lets itself be changed.
pub fn set_data(ifindex: u32, kind: &str, data: &[u8]) -> Result<(), NetlinkError> {
    let info = vec![LinkInfo::Kind(InfoKind::from(kind)), LinkInfo::Data(InfoData::Other(data.to_vec()))];
    let message = indexed(ifindex, LinkAttribute::LinkInfo(info));
    // Not RTM_SETLINK, which leaves this part out without a word.
    let doing = || format!("change the settings of the {kind} link with index {ifindex}");
    Requests::open()?.ask(&doing, RouteNetlinkMessage::NewLink(message), 0, |_| {})
}

/// Gives a device one more name.
pub fn add_alt_name(ifindex: u32, name: &str) -> Result<(), NetlinkError> {
    let doing = || format!("give the link with index {ifindex} the alternative name {name}");
    Requests::open()?.ask(&doing, RouteNetlinkMessage::NewLinkProp(alt_name(ifindex, name)), 0, |_| {})
}

/// Takes such a name off a device.
pub fn del_alt_name(ifindex: u32, name: &str) -> Result<(), NetlinkError> {
    let doing = || format!("take the alternative name {name} off the link with index {ifindex}");
    Requests::open()?.ask(&doing, RouteNetlinkMessage::DelLinkProp(alt_name(ifindex, name)), 0, |_| {})
}

/// Moves a device into another namespace. It keeps its name, and its index where that is free there.
pub fn move_to(ifindex: u32, netns: BorrowedFd<'_>) -> Result<(), NetlinkError> {
    move_as(ifindex, netns, 0, None)
}

/// The same, with the index that it shall have there (0: as above; one that is taken is EBUSY) and, unless it shall keep
/// it, the name: a literal one. The kernel forms a pattern twice (K2.1(7)).
pub fn move_as(ifindex: u32, netns: BorrowedFd<'_>, there: u32, name: Option<&str>) -> Result<(), NetlinkError> {
    let mut message = indexed(ifindex, LinkAttribute::NetNsFd(netns.as_raw_fd()));
    if there != 0 {
        message.attributes.push(LinkAttribute::NewIfIndex(there.cast_signed()));
    }
    message.attributes.extend(name.map(|name| LinkAttribute::IfName(name.to_owned())));
    change(&|| format!("move the link with index {ifindex} to another network namespace"), message)
}

/// What the kernel says of one device.
fn ask_for(doing: &dyn Fn() -> String, mut message: LinkMessage) -> Result<Described, NetlinkError> {
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut found = None;
    Requests::open()?
        .ask(doing, RouteNetlinkMessage::GetLink(message), 0, |payload| found = link::describe(payload))?;
    found.ok_or_else(|| NetlinkError {
        doing: doing(),
        errno: libc::EPROTO,
        reason: "the kernel's answer has no link".into(),
    })
}

fn unless_gone(asked: Result<Described, NetlinkError>) -> Result<Option<Described>, NetlinkError> {
    match asked {
        Err(e) if e.errno == libc::ENODEV => Ok(None),
        other => other.map(Some),
    }
}

fn change(doing: &dyn Fn() -> String, message: LinkMessage) -> Result<(), NetlinkError> {
    Requests::open()?.ask(doing, RouteNetlinkMessage::SetLink(message), 0, |_| {})
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn alt_name(ifindex: u32, name: &str) -> LinkMessage {
    indexed(ifindex, LinkAttribute::PropList(vec![Prop::AltIfName(name.to_owned())]))
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
