//! The wire of `NETLINK_ROUTE`: a request, what the kernel answers, and its own sentence for a refusal (the extended
//! ack).
//!
//! Discovery (which listens) and linux (which asks) both speak it and must not know each other, so it stands beside
//! them. It owns no policy: what to ask for is theirs. [`link`] says what one link message means.

pub mod link;

use std::fmt;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::engine::Failure;

/// The type of an empty message.
pub const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_HEADER: usize = 16;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The kernel fills a dump's parts up to what was offered to the last receive, at most 32 KiB. Most dumps are small:
/// measured, more does not pay.
const RECEIVE: usize = 16 * 1024;

/// A netlink request that failed: what was tried, the errno, and what the kernel said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetlinkError {
    /// What was tried, as words that follow "cannot".
    pub doing: String,
    /// The errno, positive.
    pub errno: i32,
    /// The kernel's extended ack, or our advice; empty where there is neither.
    pub reason: String,
}

impl NetlinkError {
    /// From an I/O error of a socket call.
    pub fn from_io(doing: impl Into<String>, error: &io::Error) -> Self {
        NetlinkError { doing: doing.into(), errno: error.raw_os_error().unwrap_or(libc::EIO), reason: String::new() }
    }

    /// The same with advice, where the kernel gave no reason of its own.
    #[must_use]
    pub fn advise(mut self, advice: &str) -> Self {
        if self.reason.is_empty() {
            self.reason = advice.to_owned();
        }
        self
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refusal = pernet_plugin_api::Error::from(io::Error::from_raw_os_error(self.errno));
        write!(f, "cannot {}: {refusal}", self.doing)?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {}", self.reason) }
    }
}

impl std::error::Error for NetlinkError {}

impl From<NetlinkError> for Failure {
    fn from(e: NetlinkError) -> Self {
        Failure::new(e.errno, e.to_string())
    }
}

impl From<NetlinkError> for io::Error {
    fn from(e: NetlinkError) -> Self {
        io::Error::new(io::Error::from_raw_os_error(e.errno).kind(), e)
    }
}

/// Whether a dump is of one moment, or something changed between its parts (`NLM_F_DUMP_INTR`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Complete and of one moment.
    Consistent,
    /// Something changed between the parts of the dump: ask again.
    Interrupted,
}

/// A socket for requests, in the network namespace in which it was opened. It keeps that namespace alive: drop it soon.
pub struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    /// Opens a socket in the calling thread's current network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let socket = Socket::new(NETLINK_ROUTE)?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            // Without it a kernel ignores filters that it does not know; with it, it says so.
            socket.set_netlink_get_strict_chk(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|e| NetlinkError::from_io("open a netlink socket", &e))?;
        Ok(Requests { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE) })
    }

    /// Asks for one thing; `each` is given the messages that come before the acknowledgement. `doing` names it in an
    /// error.
    pub fn ask(
        &mut self,
        doing: &dyn Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), NetlinkError> {
        self.exchange(doing, message, NLM_F_ACK | flags, &mut each).map(|_| ())
    }

    /// Dumps; `each` is given the payload of every message.
    pub fn dump(
        &mut self,
        doing: &dyn Fn() -> String,
        message: RouteNetlinkMessage,
        mut each: impl FnMut(&[u8]),
    ) -> Result<Answer, NetlinkError> {
        self.exchange(doing, message, NLM_F_DUMP, &mut each)
    }

    /// Sends an empty message with this number to another socket of this namespace: to end its wait, or as a mark in
    /// its queue. Does not wait itself; false where it cannot be queued, which mostly means that the queue is full.
    #[must_use]
    pub fn nudge(&self, port: u32, number: u32) -> bool {
        let mut header = NetlinkHeader::default();
        header.sequence_number = number;
        let mut message = NetlinkMessage::<RouteNetlinkMessage>::new(header, NetlinkPayload::Noop);
        message.finalize();
        let mut bytes = [0; NLMSG_HEADER];
        message.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(port, 0), libc::MSG_DONTWAIT).is_ok()
    }

    fn exchange(
        &mut self,
        doing: &dyn Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<Answer, NetlinkError> {
        self.send(message, flags).map_err(|e| NetlinkError::from_io(doing(), &e))?;
        let mut answer = Answer::Consistent;
        loop {
            self.receive().map_err(|e| NetlinkError::from_io(doing(), &e))?;
            for message in messages(&self.buffer).filter(|m| m.sequence_number() == self.sequence) {
                if message.flags() & NLM_F_DUMP_INTR != 0 {
                    answer = Answer::Interrupted;
                }
                match message.message_type() {
                    NLMSG_ERROR | NLMSG_DONE => return verdict(doing, &message).map(|()| answer),
                    _ => each(message.payload()),
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        self.buffer.clear();
        self.buffer.resize(message.buffer_len(), 0);
        message.serialize(&mut self.buffer);
        self.socket.send(&self.buffer, 0).map(|_| ())
    }

    /// Receives one datagram into the buffer. Never blocks: the kernel answers a request within the send, and makes
    /// the next part of a dump within the receive, so a receive that would block is an answer that will not come (its
    /// EAGAIN is the error).
    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            self.buffer.reserve(RECEIVE);
            match self.socket.recv(&mut self.buffer, libc::MSG_DONTWAIT | libc::MSG_TRUNC) {
                Ok(length) if length > self.buffer.len() => return Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// The messages of one datagram; whatever follows a malformed one is dropped with it.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        // Asked first: the check makes a text of every refusal, and each datagram ends with one.
        let message = if rest.is_empty() { None } else { NetlinkBuffer::new_checked(rest).ok() }?;
        let length = (message.length() as usize).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        Some(message)
    })
}

/// The outcome that an acknowledgement or the end of a dump carries. A dump's error arrives in its DONE, not as an
/// ERROR.
fn verdict(doing: &dyn Fn() -> String, message: &NetlinkBuffer<&[u8]>) -> Result<(), NetlinkError> {
    let payload = message.payload();
    let code = payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code >= 0 {
        return Ok(());
    }
    let tlvs = match message.message_type() {
        // The echoed header of our request (its payload is left out, NETLINK_CAP_ACK) stands before the attributes.
        NLMSG_ERROR => payload.get(4 + NLMSG_HEADER..),
        _ => payload.get(4..),
    };
    let tlvs = tlvs.filter(|_| message.flags() & NLM_F_ACK_TLVS != 0).unwrap_or_default();
    Err(NetlinkError { doing: doing(), errno: -code, reason: extended_ack(tlvs) })
}

fn extended_ack(tlvs: &[u8]) -> String {
    NlasIterator::new(tlvs)
        .flatten()
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| c_string(attribute.value()))
        .unwrap_or_default()
}

/// A string attribute without its terminating NUL. The kernel takes device names that are not UTF-8: what is not is
/// written `\xNN`, so that two such names stay two.
fn c_string(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    let mut text = String::with_capacity(end);
    for chunk in value[..end].utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with this payload; the kernel's are in the machine's byte order.
    fn message(message_type: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(NLMSG_HEADER + payload.len()).expect("a short payload");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([message_type.to_ne_bytes(), flags.to_ne_bytes()].concat());
        bytes.extend([0; 8]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).expect("a short value");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn judge(datagram: &[u8]) -> Result<(), NetlinkError> {
        let message = messages(datagram).next().expect("a message");
        verdict(&|| "try".into(), &message)
    }

    #[test]
    fn an_error_carries_errno_and_words() {
        let echoed = [0; NLMSG_HEADER];
        let words = [attribute(2, &[0; 4]), attribute(NLMSGERR_ATTR_MSG, b"no such thing\0")].concat();
        let payload = [&(-libc::ENODEV).to_ne_bytes()[..], &echoed, &words].concat();
        let error = judge(&message(NLMSG_ERROR, NLM_F_ACK_TLVS, &payload)).expect_err("an error");
        assert_eq!((error.errno, error.reason.as_str()), (libc::ENODEV, "no such thing"));
        assert_eq!(Failure::from(error.clone()).to_string(), error.to_string(), "the name stands in it once");
        let plain = judge(&message(NLMSG_ERROR, 0, &payload)).expect_err("an error");
        assert_eq!(plain.reason, "", "no attributes are there without their flag");
    }

    #[test]
    fn the_end_of_a_dump_carries_its_error() {
        let words = attribute(NLMSGERR_ATTR_MSG, b"bad filter\0");
        let payload = [&(-libc::EINVAL).to_ne_bytes()[..], &words].concat();
        let error = judge(&message(NLMSG_DONE, NLM_F_ACK_TLVS, &payload)).expect_err("an error");
        assert_eq!((error.errno, error.reason.as_str()), (libc::EINVAL, "bad filter"));
        assert_eq!(judge(&message(NLMSG_DONE, 0, &0i32.to_ne_bytes())), Ok(()));
        assert_eq!(judge(&message(NLMSG_DONE, 0, &[])), Ok(()));
        assert_eq!(judge(&message(NLMSG_ERROR, 0, &[0; 20])), Ok(()), "an acknowledgement");
    }

    #[test]
    fn a_malformed_message_ends_its_datagram() {
        let mut datagram = [message(20, 0, b"one"), message(21, 0, b"two")].concat();
        let types = |datagram: &[u8]| messages(datagram).map(|m| m.message_type()).collect::<Vec<_>>();
        assert_eq!(types(&datagram), [20, 21]);
        datagram.truncate(datagram.len() - 4);
        assert_eq!(types(&datagram), [20]);
        assert_eq!(types(&[0; 7]), [0u16; 0]);
    }

    /// A link message's payload: header and attributes.
    fn link_message(family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let header = [&[family, 0, 0, 0][..], &7i32.to_ne_bytes(), &1u32.to_ne_bytes(), &[0; 4]].concat();
        [header, attributes.concat()].concat()
    }

    #[test]
    fn a_link_is_read_without_its_other_attributes() {
        let info = attribute(1, b"veth\0");
        let attributes = [
            attribute(3, b"eth\xff\0"),
            attribute(4, &1400u32.to_ne_bytes()),
            attribute(23, &[1; 100]),
            attribute(10, &9u32.to_ne_bytes()),
            attribute(18 | 0x8000, &info),
            attribute(1, &[2, 0, 0, 0, 0, 1]),
        ];
        let link = link::parse(&link_message(0, &attributes)).expect("a link");
        assert_eq!((link.ifindex, link.flags, link.mtu, link.master), (7, 1, 1400, 9));
        assert_eq!((link.name.as_str(), link.kind.as_str()), ("eth\\xff", "veth"));
        assert_eq!(link.address, [2, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn what_only_some_messages_say_is_read() {
        let names = [attribute(53, b"second\0"), attribute(53, b"third\0")].concat();
        let mut attributes = vec![
            attribute(3, b"eth0\0"),
            attribute(4, &1400u32.to_ne_bytes()),
            attribute(52 | 0x8000, &names),
            attribute(5, &3u32.to_ne_bytes()),
            attribute(20, b"pernetd: wire\0"),
            attribute(18, &[attribute(1, b"vxlan\0"), attribute(2, &attribute(1, &[7, 0, 0, 0]))].concat()),
        ];
        let described = link::describe(&link_message(0, &attributes)).expect("a link");
        assert_eq!((described.alias.as_str(), described.lower), ("pernetd: wire", 3));
        assert_eq!(described.link.alt_names, ["second", "third"]);
        assert_eq!((described.link.kind.as_str(), described.data), ("vxlan", attribute(1, &[7, 0, 0, 0])));
        assert_eq!(link::moved(&link_message(0, &attributes)), None);
        attributes.push(attribute(45, &2i32.to_ne_bytes()));
        assert_eq!(link::moved(&link_message(0, &attributes)), None, "an id without an index");
        attributes.push(attribute(49, &9i32.to_ne_bytes()));
        assert_eq!(link::moved(&link_message(0, &attributes)), Some((2, 9)));
        attributes.push(attribute(45, &(-1i32).to_ne_bytes()));
        assert_eq!(link::moved(&link_message(0, &attributes)), None, "to a namespace that has no id");
    }

    #[test]
    fn settings_are_compared_attribute_by_attribute() {
        let (id, port, flag) = (attribute(1, &[7, 0, 0, 0]), attribute(15, &[0x12, 0xb5]), attribute(23, &[]));
        let nested = attribute(9 | 0x8000, &attribute(1, b"x"));
        let has = [&id[..], &attribute(4, &[1]), &port, &attribute(9, &attribute(1, b"x"))].concat();
        let differing = |wanted: &[&[u8]]| link::differing(&wanted.concat(), &has);
        assert_eq!(differing(&[&port, &id, &nested]), [0u8; 0], "in any order, and however the kernel marks a nest");
        assert_eq!(
            differing(&[&id, &attribute(15, &[0x12, 0xb6]), &flag]),
            [attribute(15, &[0x12, 0xb6]), flag].concat()
        );
        assert_eq!(differing(&[&id, &[1, 0, 0]]), [&id[..], &[1, 0, 0]].concat(), "what is no list goes to the kernel");
        assert_eq!(link::differing(&id, &[]), id);
    }

    #[test]
    fn messages_that_do_not_describe_a_device_are_not_taken_for_one() {
        let name = attribute(3, b"eth0\0");
        let mtu = attribute(4, &1400u32.to_ne_bytes());
        let whole = link_message(0, &[name.clone(), mtu.clone()]);
        assert!(link::parse(&whole).is_some());
        assert_eq!(
            link::parse(&link_message(0, &[name.clone(), attribute(11, &[0; 8])])),
            None,
            "of wireless extensions"
        );
        assert_eq!(link::parse(&link_message(7, &[name, mtu])), None, "of a bridge's port");
        assert_eq!(link::ifindex(&link_message(7, &[])), None);
        assert_eq!(link::ifindex(&link_message(0, &[])), Some(7));
        (0..whole.len()).for_each(|length| assert_eq!(link::parse(&whole[..length]), None, "cut off at {length}"));
    }
}
