//! The loopback device of the namespace that the calling thread is in, over rtnetlink.
//!
//! A socket belongs to the namespace in which it was opened and keeps it alive: it lives for one hook only. The buffers
//! are on the stack and of an answer only the header is read, since every namespace of the host pays for this.

use std::io;

use netlink_packet_core::{ErrorBuffer, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use pernet_plugin_api::{Error, Result};

/// `lo` is the first device of every namespace (K1.6), so this is its index.
const IFINDEX: u32 = 1;
/// One page holds any answer about one link without its statistics: the kernel builds it in no more.
const ANSWER: usize = 4096;

/// `lo`, here and now.
pub(crate) struct Lo(Socket);

impl Lo {
    pub(crate) fn open() -> Result<Self> {
        Socket::new(NETLINK_ROUTE).map(Lo).map_err(|e| failed("opening a netlink socket", e))
    }

    /// Whether it is administratively up.
    pub(crate) fn is_up(&self) -> Result<bool> {
        let mut message = about_lo();
        // The statistics are most of an answer, and of no use here.
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answer = self.ask(RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST);
        let link = answer.map_err(|e| failed("asking for lo", e))?;
        let link = link.ok_or_else(|| failed("asking for lo", unexpected("an acknowledgement without the link")))?;
        Ok(link.flags.contains(LinkFlags::Up))
    }

    /// Brings it up or takes it down.
    pub(crate) fn set_up(&self, up: bool) -> Result<()> {
        let mut message = about_lo();
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.header.change_mask = LinkFlags::Up;
        let answer = self.ask(RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST | NLM_F_ACK);
        let what = if up { "bringing lo up" } else { "taking lo down" };
        answer.map(drop).map_err(|e| failed(what, e))
    }

    /// Sends one request and reads its one answer: a link, or an acknowledgement (`None`), or an error.
    fn ask(&self, request: RouteNetlinkMessage, flags: u16) -> io::Result<Option<LinkHeader>> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags;
        message.finalize();
        let mut out = [0; 64];
        let out = out.get_mut(..message.buffer_len()).ok_or_else(|| unexpected("a request of that length"))?;
        message.serialize(out);
        self.0.send_to(out, &SocketAddr::new(0, 0), 0)?;
        let mut answer = [0; ANSWER];
        let len = self.0.recv(&mut &mut answer[..], 0)?;
        read_answer(answer.get(..len).unwrap_or(&answer))
    }
}

fn about_lo() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = IFINDEX;
    message
}

fn read_answer(answer: &[u8]) -> io::Result<Option<LinkHeader>> {
    let answer = NetlinkBuffer::new_checked(answer).map_err(unexpected)?;
    if answer.message_type() != NLMSG_ERROR {
        return LinkHeader::parse(answer.payload()).map(Some).map_err(unexpected);
    }
    match ErrorBuffer::new_checked(answer.payload()).map_err(unexpected)?.code() {
        None => Ok(None),
        Some(code) => Err(io::Error::from_raw_os_error(code.get().saturating_neg())),
    }
}

fn unexpected(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's answer makes no sense: {}", what.to_string()))
}

fn failed(what: &str, e: io::Error) -> Error {
    let e = Error::from(e);
    Error::new(e.errno(), format!("{what}: {e}"))
}
