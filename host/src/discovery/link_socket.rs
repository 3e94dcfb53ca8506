//! The socket that hears of the links of every namespace which has an id here (`NETLINK_LISTEN_ALL_NSID`), and the
//! private namespace around it.
//!
//! Owns the system calls of listening and nothing of their meaning: what ids stand for is `links.rs`'s.
#![allow(unsafe_code)] // recvmmsg with this control message, which no crate in use wraps; unshare, unsafe in rustix.

use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::ptr;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::sockopt;
use rustix::thread::UnshareFlags;

use crate::netlink::NetlinkError;

const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_NSID: u32 = 28;

/// Where the socket is bound in its private namespace. Not to a process id, as the kernel would choose: a sender that
/// asks for an echo (`NLM_F_ECHO`) has its message kept from all sockets on the host with its own port number, in
/// whatever namespace, and a process in a container may well have our process id.
const PORT: u32 = 0x7065_726e;

/// Datagrams per system call.
const SLOTS: usize = 32;
#[allow(clippy::cast_possible_truncation)] // A small constant.
const VECTORS: libc::c_uint = SLOTS as libc::c_uint;
/// Room for one datagram. Only pages that a message reaches are ever touched; one that does not fit counts as lost.
const SLOT: usize = 16 * 1024;

/// Puts the calling thread, and no other, into a new network namespace.
pub(super) fn leave_for_private_namespace() -> Result<(), NetlinkError> {
    // SAFETY: the callee's condition is about UnshareFlags::FILES, which would make descriptors differ between
    // threads; NEWNET is given alone.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|e| {
        NetlinkError::from_io("make a private network namespace to listen in", &e.into())
            .advise("CAP_SYS_ADMIN is needed, and RestrictNamespaces= of the service must allow net")
    })
}

/// Room for what one receive can bring.
pub(super) struct Slots {
    buffers: Vec<u8>,
    controls: [Control; SLOTS],
}

/// Room for one `NETLINK_LISTEN_ALL_NSID` control message, aligned as `cmsghdr` must be.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 64]);

/// One datagram as received.
pub(super) struct Datagram<'a> {
    /// The id of the namespace that sent it; `None` for the socket's own.
    pub(super) nsid: Option<i32>,
    pub(super) bytes: &'a [u8],
}

/// What one receive brought.
pub(super) enum Received {
    /// So many datagrams; fewer than [`LinkSocket::FULL`] means that there were no more.
    Datagrams(usize),
    /// Nothing is queued.
    Empty,
    /// Some were lost, since the queue was full: whatever is still queued is older than the loss.
    Lost,
}

pub(super) struct LinkSocket {
    socket: Socket,
    slots: Slots,
    /// For each slot: its datagram, or `None` for one that did not fit.
    filled: Vec<Option<(Option<i32>, usize)>>,
}

impl LinkSocket {
    /// A receive that brings so many datagrams may have left more.
    pub(super) const FULL: usize = SLOTS;

    /// Opens the socket in the calling thread's namespace. From now on every sender of link events on this host pays
    /// for it.
    pub(super) fn open(receive_buffer: usize) -> Result<Self, NetlinkError> {
        let doing = "open the socket for link events";
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(|e| NetlinkError::from_io(doing, &e))?;
        socket.set_listen_all_namespaces(true).map_err(|e| {
            NetlinkError::from_io("listen to link events of other network namespaces (NETLINK_LISTEN_ALL_NSID)", &e)
                .advise("CAP_NET_BROADCAST is needed: add it to CapabilityBoundingSet= of the service")
        })?;
        // Past net.core.rmem_max only with CAP_NET_ADMIN in the first user namespace; elsewhere we take what that
        // limit gives.
        sockopt::set_socket_recv_buffer_size_force(&socket, receive_buffer)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, receive_buffer))
            .map_err(|e| NetlinkError::from_io(doing, &e.into()))?;
        // Bound before joining: the kernel's multicasts pass over a socket without a port.
        let join = |socket: &mut Socket| -> io::Result<()> {
            socket.bind(&SocketAddr::new(PORT, 0))?;
            socket.add_membership(RTNLGRP_LINK)?;
            socket.add_membership(RTNLGRP_NSID)
        };
        join(&mut socket).map_err(|e| NetlinkError::from_io(doing, &e))?;
        let slots = Slots { buffers: vec![0; SLOTS * SLOT], controls: [Control([0; 64]); SLOTS] };
        Ok(LinkSocket { socket, slots, filled: Vec::with_capacity(SLOTS) })
    }

    /// Where to send what shall end a wait.
    pub(super) fn port(&self) -> u32 {
        PORT
    }

    /// Receives what is queued, as much as one system call brings; where nothing is, waits for the first if told to.
    ///
    /// It waits in the receive itself: to poll first costs 2 µs more, of 8 to 10 for an event that comes alone.
    pub(super) fn receive(&mut self, wait: bool) -> Received {
        self.filled.clear();
        let flags = if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        loop {
            match self.recvmmsg(flags) {
                Ok(count) => return Received::Datagrams(count),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Received::Empty,
                // ENOBUFS; an error that is not expected here is no reason to trust the stream either.
                Err(_) => return Received::Lost,
            }
        }
    }

    /// What the last receive brought, in order; `None` stands for a datagram that was cut off.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = Option<Datagram<'_>>> {
        self.filled
            .iter()
            .zip(self.slots.buffers.chunks_exact(SLOT))
            .map(|(filled, slot)| filled.and_then(|(nsid, length)| Some(Datagram { nsid, bytes: slot.get(..length)? })))
    }

    fn recvmmsg(&mut self, flags: libc::c_int) -> io::Result<usize> {
        // SAFETY: both are plain C structures for which all zeros (null pointers with length 0) is a valid value.
        let mut parts: [libc::iovec; SLOTS] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut headers: [libc::mmsghdr; SLOTS] = unsafe { mem::zeroed() };
        // Made anew for every call: the kernel writes into the lengths, and a stale control buffer would give a
        // message another one's id.
        let rooms = self.slots.buffers.chunks_exact_mut(SLOT).zip(&mut self.slots.controls);
        for ((header, part), (room, control)) in headers.iter_mut().zip(&mut parts).zip(rooms) {
            *part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: SLOT };
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = control.0.len();
        }
        // SAFETY: `headers` has SLOTS entries; each points to one iovec in `parts` over a buffer of our own of the
        // given length, and to a control buffer of the given length. All of them are borrowed mutably by nobody else
        // and outlive the call.
        let count =
            unsafe { libc::recvmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), VECTORS, flags, ptr::null_mut()) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        self.filled.extend(headers[..count].iter().map(|header| {
            let whole = header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) == 0;
            whole.then(|| (nsid(&header.msg_hdr), header.msg_len as usize))
        }));
        Ok(count)
    }
}

/// The id in a message's control data. There is none on a message from the socket's own namespace.
fn nsid(header: &libc::msghdr) -> Option<i32> {
    // SAFETY: `header` was filled by recvmmsg: its control pointer and length describe initialised memory of ours that
    // is still borrowed.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !control.is_null() {
        // SAFETY: not null, and inside the control buffer with its whole header, as CMSG_FIRSTHDR and CMSG_NXTHDR
        // guarantee.
        let cmsg = unsafe { control.read_unaligned() };
        if cmsg.cmsg_level == libc::SOL_NETLINK && cmsg.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID {
            // SAFETY: the kernel puts an int into this control message; the buffer's truncation was refused before
            // (MSG_CTRUNC).
            return Some(unsafe { libc::CMSG_DATA(control).cast::<i32>().read_unaligned() });
        }
        // SAFETY: `header` as above, `control` a control message inside it.
        control = unsafe { libc::CMSG_NXTHDR(header, control) };
    }
    None
}
