//! What is read inside a namespace, as it comes: the dump of links and the files of counters.
//!
//! It is read under the namespace's lock, in turns with its hooks, so nothing is done here that can be done later. Nothing
//! stays open: a file of `/proc/net` keeps its namespace alive. The files are those of this thread (`thread-self`), since
//! `/proc/net` itself is the main thread's.

use std::os::fd::{AsFd, OwnedFd};

use pernet_plugin_api::{Error, Net, Result};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// The files, below `/proc/net`.
pub(crate) const FILES: [&str; 6] = ["snmp", "netstat", "snmp6", "sockstat", "sockstat6", "stat/nf_conntrack"];

const NET: &str = "/proc/thread-self/net";
/// The kernel's largest part of a dump.
const PART: usize = 32 * 1024;
/// How often a dump is begun anew since links changed in the middle of it.
const DUMPS: usize = 3;

const GETLINK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const IFLA_EXT_MASK: u16 = 29;
/// Leaves out the counters of IPv6 by device, which cost more than all the rest of a link.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

/// What one namespace says.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    /// As the operator calls it.
    pub(crate) name: String,
    bytes: Vec<u8>,
    /// Where each part ends: the links, then [`FILES`].
    ends: Vec<usize>,
}

impl Raw {
    /// Reads all of it, into memory that may have been used before. Called inside the namespace.
    pub(crate) fn read(net: &Net<'_>, mut bytes: Vec<u8>) -> Result<Self> {
        bytes.clear();
        dump_links(&mut bytes).map_err(|errno| failed("the links", errno))?;
        let mut ends = vec![bytes.len()];
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, NET, flags, Mode::empty()).map_err(|errno| failed(NET, errno))?;
        for file in FILES {
            match append(&folder, file, &mut bytes) {
                // Without IPv6, or without connection tracking.
                Ok(()) | Err(Errno::NOENT) => ends.push(bytes.len()),
                Err(errno) => return Err(failed(&format!("{NET}/{file}"), errno)),
            }
        }
        Ok(Raw { name: net.name().to_owned(), bytes, ends })
    }

    pub(crate) fn links(&self) -> &[u8] {
        self.part(0)
    }

    /// One of [`FILES`]; empty where it is not there.
    pub(crate) fn file(&self, name: &str) -> &[u8] {
        FILES.iter().position(|file| *file == name).map_or(&[], |at| self.part(at + 1))
    }

    /// The memory, to be used again.
    pub(crate) fn into_memory(self) -> Vec<u8> {
        self.bytes
    }

    fn part(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or_default();
        self.ends.get(at).and_then(|end| self.bytes.get(start..*end)).unwrap_or_default()
    }
}

fn failed(what: &str, errno: Errno) -> Error {
    Error::new(errno.raw_os_error(), format!("cannot read {what}: {errno}"))
}

fn append(folder: &OwnedFd, file: &str, bytes: &mut Vec<u8>) -> rustix::io::Result<()> {
    let file = openat(folder, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut end = bytes.len();
    loop {
        bytes.resize(end + PART / 2, 0);
        let read = rustix::io::read(&file, &mut bytes[end..]);
        end += *read.as_ref().unwrap_or(&0);
        if !matches!(read, Ok(1..)) {
            bytes.truncate(end);
            return read.map(drop);
        }
    }
}

/// All links, as messages.
fn dump_links(bytes: &mut Vec<u8>) -> rustix::io::Result<()> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    for _ in 0..DUMPS {
        bytes.clear();
        send(&socket, &request(), SendFlags::empty())?;
        if receive(socket.as_fd(), bytes)? {
            break;
        }
    }
    // After several that were disturbed the last one counts: a device may be missing in it, none is wrong.
    Ok(())
}

fn request() -> Vec<u8> {
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut request = Vec::with_capacity(40);
    request.extend(40u32.to_ne_bytes());
    request.extend(GETLINK.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    // Number and port of the request, then an empty ifinfomsg.
    request.extend([0; 8 + 16]);
    request.extend(8u16.to_ne_bytes());
    request.extend(IFLA_EXT_MASK.to_ne_bytes());
    request.extend(RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    request
}

/// Receives a dump to its end; whether nothing has changed meanwhile.
fn receive(socket: impl AsFd, bytes: &mut Vec<u8>) -> rustix::io::Result<bool> {
    let mut whole = true;
    loop {
        let start = bytes.len();
        bytes.resize(start + PART, 0);
        // The kernel makes the next part within the call: one that would block would never come.
        let (length, _) = recv(&socket, &mut bytes[start..], RecvFlags::DONTWAIT)?;
        bytes.truncate(start + length);
        let mut rest = &bytes[start..];
        if rest.is_empty() {
            return Err(Errno::PROTO);
        }
        while let Some((length, kind)) = crate::link::header(rest) {
            let flags = rest.get(6..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u16::from_ne_bytes(*bytes));
            whole &= flags & NLM_F_DUMP_INTR == 0;
            let code = rest.get(16..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| i32::from_ne_bytes(*bytes));
            match kind {
                // A dump that fails after its first part says so at its end.
                NLMSG_ERROR | NLMSG_DONE if code < 0 => return Err(Errno::from_raw_os_error(code.saturating_neg())),
                NLMSG_ERROR | NLMSG_DONE => return Ok(whole),
                _ => rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let raw = Raw { name: "n".into(), bytes: b"aabccc".to_vec(), ends: vec![2, 3, 3, 6] };
        assert_eq!(raw.links(), b"aa");
        assert_eq!([raw.file("snmp"), raw.file("netstat"), raw.file("snmp6")], [&b"b"[..], b"", b"ccc"]);
        assert_eq!(raw.file("sockstat"), b"", "was not read");
        assert_eq!(raw.file("nothing"), b"");
    }

    #[test]
    fn a_dump_that_fails_at_its_end_is_none() {
        let done = |code: i32| {
            let mut message = 20u32.to_ne_bytes().to_vec();
            message.extend(NLMSG_DONE.to_ne_bytes());
            message.resize(16, 0);
            message.extend(code.to_ne_bytes());
            let (here, there) =
                rustix::net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                    .expect("a pair of sockets");
            send(&there, &message, SendFlags::empty()).expect("there is room");
            receive(&here, &mut Vec::new())
        };
        assert_eq!(done(0), Ok(true));
        assert_eq!(done(-Errno::MSGSIZE.raw_os_error()), Err(Errno::MSGSIZE));
    }

    #[test]
    fn the_own_namespace_has_lo() {
        let mut bytes = Vec::new();
        dump_links(&mut bytes).expect("any user may ask");
        assert!(bytes.windows(3).any(|name| name == b"lo\0"));
        let folder = openat(CWD, NET, OFlags::PATH, Mode::empty()).expect("it is there");
        let links = bytes.len();
        append(&folder, "snmp", &mut bytes).expect("it is there");
        assert!(bytes[links..].starts_with(b"Ip: "));
        assert_eq!(append(&folder, "nothing", &mut bytes), Err(Errno::NOENT));
    }
}
