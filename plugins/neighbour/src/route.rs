//! What the kernel says of a device and its addresses, over a netlink socket that was made in the device's namespace.
//!
//! The socket acts there wherever the thread is that uses it. Answers are walked through for the few attributes that
//! count, as the daemon does it: the typed decoder refuses a whole message for one attribute that it does not expect.

use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use pernet_plugin_api::{Error, Result, Socket};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::frame::Mac;

/// Nothing of an answer is longer.
const ROOM: usize = 32 * 1024;

const IFINFOMSG: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_AF_SPEC: u16 = 26;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Within the part of `IFLA_AF_SPEC` that is IPv6's: its settings, of which `forwarding` is the first.
const IFLA_INET6_CONF: u16 = 2;

const IFADDRMSG: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_OPTIMISTIC: u32 = 0x04;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;
const RT_SCOPE_HOST: u8 = 254;

const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 1 << 3;
const IFF_RUNNING: u32 = 1 << 6;
const IFF_NOARP: u32 = 1 << 7;

/// The Ethernet address by which a device can be announced: one that is up, has a carrier, and whose neighbours ask for
/// addresses.
pub(crate) fn speaks(flags: u32, address: &[u8]) -> Option<Mac> {
    let wanted = IFF_UP | IFF_RUNNING;
    let fits = flags & (wanted | IFF_LOOPBACK | IFF_NOARP) == wanted;
    Mac::try_from(address).ok().filter(|mac| fits && *mac != Mac::default())
}

/// A device as it is now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) name: String,
    /// `None` for one that is not to be announced.
    pub(crate) speaks: Option<Mac>,
    /// It forwards IPv6.
    pub(crate) is_router: bool,
}

/// A device's addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) v4: Vec<Ipv4Addr>,
    pub(crate) v6: Vec<Ipv6Addr>,
    /// So many IPv6 addresses are being checked for duplicates.
    pub(crate) tentative: usize,
}

/// The device with this index; `None` if there is none.
pub(crate) fn link(socket: &Socket, ifindex: u32) -> Result<Option<Link>> {
    let mut request = LinkMessage::default();
    request.header.index = ifindex;
    let mut found = None;
    let asked = ask(socket, RouteNetlinkMessage::GetLink(request), 0, |answer| found = read_link(answer));
    match asked {
        Err(error) if error.errno() == Errno::NODEV.raw_os_error() => Ok(None),
        asked => asked.map(|()| found),
    }
}

/// The addresses of the device with this index.
pub(crate) fn addresses(socket: &Socket, ifindex: u32) -> Result<Addresses> {
    let mut found = Addresses::default();
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    ask(socket, request, NLM_F_DUMP, |answer| read_address(answer, ifindex, &mut found))?;
    Ok(found)
}

/// Sends a request and gives each message of the answer, until the one that ends it.
fn ask(socket: &Socket, request: RouteNetlinkMessage, flags: u16, mut each: impl FnMut(&[u8])) -> Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    send(socket, &bytes, SendFlags::empty()).map_err(failed)?;
    bytes.resize(ROOM, 0);
    loop {
        // The kernel answers within the send, and makes the next part of a dump within the receive: one that would block is
        // an answer that will not come.
        let (len, _) = recv(socket, &mut bytes[..], RecvFlags::DONTWAIT).map_err(failed)?;
        if len == 0 {
            return Err(Error::new(Errno::SHUTDOWN.raw_os_error(), "the daemon has shut the socket"));
        }
        let mut rest = &bytes[..len];
        while !rest.is_empty() {
            let answer = NetlinkBuffer::new_checked(rest).map_err(|e| unexpected(&e.to_string()))?;
            match answer.message_type() {
                NLMSG_ERROR | NLMSG_DONE => return verdict(answer.payload()),
                _ => each(answer.payload()),
            }
            // Of a dump the end is a message of its own; of a single object the answer is all.
            if flags & NLM_F_DUMP == 0 {
                return Ok(());
            }
            let length = usize::try_from(answer.length()).unwrap_or(usize::MAX).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn verdict(payload: &[u8]) -> Result<()> {
    match payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(code) if code < 0 => Err(failed(Errno::from_raw_os_error(code.saturating_neg()))),
        _ => Ok(()),
    }
}

fn read_link(payload: &[u8]) -> Option<Link> {
    let flags = word(payload.get(8..)?)?;
    let (mut name, mut address, mut is_router) = (String::new(), Vec::new(), false);
    for attribute in NlasIterator::new(payload.get(IFINFOMSG..)?).flatten() {
        let value = attribute.value();
        match attribute.kind() {
            IFLA_ADDRESS => address = value.to_vec(),
            IFLA_IFNAME => name = String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned(),
            IFLA_AF_SPEC => is_router = forwards(value),
            _ => {}
        }
    }
    Some(Link { name, speaks: speaks(flags, &address), is_router })
}

fn forwards(families: &[u8]) -> bool {
    let mut families = NlasIterator::new(families).flatten();
    let inet6 = families.find(|family| family.kind() == u16::from(AF_INET6));
    let Some(inet6) = inet6 else { return false };
    let conf = NlasIterator::new(inet6.value()).flatten().find(|part| part.kind() == IFLA_INET6_CONF);
    conf.and_then(|conf| word(conf.value())).is_some_and(|forwarding| forwarding != 0)
}

fn read_address(payload: &[u8], ifindex: u32, found: &mut Addresses) {
    let (Some([family, _, flags, scope, index @ ..]), Some(attributes)) =
        (payload.first_chunk::<IFADDRMSG>(), payload.get(IFADDRMSG..))
    else {
        return;
    };
    if u32::from_ne_bytes(*index) != ifindex || *scope == RT_SCOPE_HOST {
        return;
    }
    let (mut flags, mut address, mut local) = (u32::from(*flags), None, None);
    for attribute in NlasIterator::new(attributes).flatten() {
        match attribute.kind() {
            IFA_ADDRESS => address = Some(attribute.value().to_vec()),
            IFA_LOCAL => local = Some(attribute.value().to_vec()),
            IFA_FLAGS => flags = word(attribute.value()).unwrap_or(flags),
            _ => {}
        }
    }
    // Where the two differ, the other one is the peer's.
    let Some(own) = local.or(address) else { return };
    match *family {
        AF_INET => found.v4.extend(own.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))),
        AF_INET6 if flags & IFA_F_DADFAILED != 0 => {}
        AF_INET6 if flags & (IFA_F_TENTATIVE | IFA_F_OPTIMISTIC) != 0 => found.tentative += 1,
        AF_INET6 => found.v6.extend(own.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets))),
        _ => {}
    }
}

fn word(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn failed(errno: Errno) -> Error {
    Error::new(errno.raw_os_error(), format!("asking the kernel for addresses: {errno}"))
}

fn unexpected(what: &str) -> Error {
    Error::new(Errno::PROTO.raw_os_error(), format!("the kernel's answer makes no sense: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).expect("short");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn address(family: u8, flags: u32, scope: u8, own: &[u8], peer: Option<&[u8]>) -> Vec<u8> {
        let mut message = vec![family, 24, 0, scope, 7, 0, 0, 0];
        message.extend(attribute(IFA_ADDRESS, peer.unwrap_or(own)));
        message.extend(peer.map(|_| attribute(IFA_LOCAL, own)).unwrap_or_default());
        message.extend(attribute(IFA_FLAGS, &flags.to_ne_bytes()));
        message
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn an_address_is_ones_own_and_ready() {
        let v6 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let mut found = Addresses::default();
        for message in [
            address(AF_INET, 0x80, 0, &[192, 0, 2, 1], None),
            address(AF_INET, 0x80, 0, &[192, 0, 2, 2], Some(&[192, 0, 2, 9])),
            address(AF_INET, 0x80, RT_SCOPE_HOST, &[127, 0, 0, 1], None),
            address(AF_INET6, 0x80, 253, &v6, None),
            address(AF_INET6, 0x80 | IFA_F_TENTATIVE, 253, &v6, None),
            address(AF_INET6, 0x80 | IFA_F_TENTATIVE | IFA_F_OPTIMISTIC, 253, &v6, None),
            address(AF_INET6, 0x80 | IFA_F_TENTATIVE | IFA_F_DADFAILED, 253, &v6, None),
            vec![AF_INET, 24],
        ] {
            read_address(&message, 7, &mut found);
            read_address(&message, 8, &mut found);
        }
        let v4 = vec![Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
        assert_eq!(found, Addresses { v4, v6: vec![Ipv6Addr::from(v6)], tentative: 2 });
    }

    #[test]
    fn a_link_says_whether_it_routes() {
        let mac = [2, 0, 0, 0, 0, 1];
        for (forwarding, is_router) in [(0u32, false), (1, true), (2, true)] {
            let conf = attribute(IFLA_INET6_CONF, &[forwarding.to_ne_bytes(), [9; 4]].concat());
            let families = [attribute(AF_INET.into(), &[0; 8]), attribute(AF_INET6.into(), &conf)].concat();
            let mut message = vec![0; IFINFOMSG];
            message[8..12].copy_from_slice(&(IFF_UP | IFF_RUNNING).to_ne_bytes());
            message.extend(attribute(IFLA_IFNAME, b"eth0\0"));
            message.extend(attribute(IFLA_ADDRESS, &mac));
            message.extend(attribute(IFLA_AF_SPEC, &families));
            assert_eq!(read_link(&message), Some(Link { name: "eth0".into(), speaks: Some(mac), is_router }));
        }
    }

    #[test]
    fn only_what_is_up_and_has_neighbours_speaks() {
        let (up, mac) = (IFF_UP | IFF_RUNNING, [2, 0, 0, 0, 0, 1]);
        assert_eq!(speaks(up, &mac), Some(mac));
        for (flags, address) in [
            (IFF_UP, &mac[..]),
            (IFF_RUNNING, &mac),
            (up | IFF_LOOPBACK, &mac),
            (up | IFF_NOARP, &mac),
            (up, &[]),
            (up, &[0; 6]),
            (up, &[1; 20]),
        ] {
            assert_eq!(speaks(flags, address), None, "{flags:#x} {address:?}");
        }
    }
}
