//! Making devices over rtnetlink: `RTM_NEWLINK` with `NLM_F_CREATE | NLM_F_EXCL`, in the network namespace that the
//! calling thread is in. Mirrors `rtnl_newlink_create` (K4.6); what exists is `rtnetlink.rs`'s, tun and tap `tun.rs`'s.
//!
//! A device is made down, in one request with all that the kernel takes at creation; its alias and its alternative
//! names are not of that. Decides nothing: whose a name is, and what to do when it is taken, is the caller's.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};

use super::rtnetlink;
use crate::netlink::link::Described;
use crate::netlink::{NetlinkError, Requests};

/// A device to be made. 0 and empty: as the kernel chooses.
#[derive(Clone, Debug, Default)]
pub struct NewLink<'a> {
    /// Its name: a literal one.
    pub name: &'a str,
    /// Its kind: `veth`, `bridge`, `vxlan`, …
    pub kind: &'a str,
    /// The content of `IFLA_INFO_DATA`, in the machine's byte order.
    pub data: &'a [u8],
    /// Hardware address.
    pub address: &'a [u8],
    /// MTU.
    pub mtu: u32,
    /// Index.
    pub ifindex: u32,
    /// ifindex of the device below it.
    pub link: u32,
    /// How many queues it has each way, where the kind has a choice.
    pub queues: u32,
}

/// Makes a device and says what it looks like.
pub fn create(new: &NewLink<'_>) -> Result<Described, NetlinkError> {
    let mut info = vec![LinkInfo::Kind(InfoKind::from(new.kind))];
    if !new.data.is_empty() {
        info.push(LinkInfo::Data(InfoData::Other(new.data.to_vec())));
    }
    request(&|| format!("create the {} link {}", new.kind, new.name), new, info)
}

/// Makes a pair of veth devices in one request, `near` here and `far` in the namespace `netns`, or here too. Kind
/// and data of both say nothing. The answer is about `near`; its [`Described::lower`] is the index of `far`, which the
/// kernel announces first (K4.7).
pub fn create_pair(
    near: &NewLink<'_>,
    far: &NewLink<'_>,
    netns: Option<BorrowedFd<'_>>,
) -> Result<Described, NetlinkError> {
    let doing = || format!("create the veth pair {} and {}", near.name, far.name);
    if far.ifindex != 0 && near.ifindex == 0 {
        // It would give the other end any, without a word.
        let reason = "the kernel takes the other end's index only together with this end's; give both, or none".into();
        return Err(NetlinkError { doing: doing(), errno: libc::EINVAL, reason });
    }
    let mut other = message(far);
    other.attributes.extend(netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())));
    let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other)))];
    request(&doing, &NewLink { kind: "veth", ..near.clone() }, info)
}

/// Looks the device up by its name, as it had to be free. Not by `NLM_F_ECHO`, which since 6.2 brings the new device's
/// message back to whoever made it: the kernel then keeps that message from every listener on the host that has the
/// same port number, in whatever namespace, and port numbers are mostly process ids.
fn request(doing: &dyn Fn() -> String, new: &NewLink<'_>, info: Vec<LinkInfo>) -> Result<Described, NetlinkError> {
    let mut message = message(new);
    message.attributes.push(LinkAttribute::LinkInfo(info));
    let asked = Requests::open()?.ask(doing, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, |_| {});
    asked.or_else(|refused| Err(index_or_name(new, refused)?))?;
    let made = rtnetlink::find_described(new.name)?.filter(|made| made.link.kind == new.kind);
    made.ok_or_else(|| NetlinkError {
        doing: doing(),
        errno: libc::ENODEV,
        reason: "it was made, and deleted or renamed by somebody else at once".into(),
    })
}

/// rtnetlink finds a device by its index first and calls that EEXIST too; of an index in use the kernel's own word is EBUSY
/// (K2.2(2)). Where both are taken, the name comes first (K2.4).
fn index_or_name(new: &NewLink<'_>, refused: NetlinkError) -> Result<NetlinkError, NetlinkError> {
    let maybe = refused.errno == libc::EEXIST && new.ifindex != 0;
    if !maybe || rtnetlink::look(new.ifindex)?.is_none() || rtnetlink::find_described(new.name)?.is_some() {
        return Ok(refused);
    }
    let reason = "the index is taken; ask for another, or for none".into();
    Ok(NetlinkError { errno: libc::EBUSY, reason, ..refused })
}

/// What both ends of a pair may say of themselves.
fn message(new: &NewLink<'_>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = new.ifindex;
    let mut add = |wanted: bool, attribute: LinkAttribute| message.attributes.extend(wanted.then_some(attribute));
    add(!new.name.is_empty(), LinkAttribute::IfName(new.name.to_owned()));
    add(!new.address.is_empty(), LinkAttribute::Address(new.address.to_vec()));
    add(new.mtu != 0, LinkAttribute::Mtu(new.mtu));
    add(new.link != 0, LinkAttribute::Link(new.link));
    add(new.queues != 0, LinkAttribute::NumTxQueues(new.queues));
    add(new.queues != 0, LinkAttribute::NumRxQueues(new.queues));
    message
}
