//! Packet sockets: a frame out of a device.
//!
//! Their addresses (`sockaddr_ll`) are in no safe crate, and an author writes no `unsafe`; so what every user of such a
//! socket needs is here.

// sendto(2) with an address of a family that no crate in use knows.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

use crate::{Error, Result, Socket};

impl Socket {
    /// Sends a frame out of the device with this index in the socket's namespace, without waiting for room. Of a packet
    /// socket (`AF_PACKET`) of type `SOCK_RAW`: the frame begins with its link-layer header. `protocol` is its ethertype,
    /// for who looks at frames on their way out.
    ///
    /// # Errors
    /// As `sendto(2)`: `ENXIO` or `ENODEV` for a device that is not there, `ENETDOWN` for one that is down, `EAGAIN` where
    /// there is no room.
    pub fn send_frame(&self, ifindex: u32, protocol: u16, frame: &[u8]) -> Result<()> {
        let number = |_| Error::fixed(libc::ENXIO, "there is no device with such an index");
        // SAFETY: `zeroed` asks for a type of which zeros are a value: plain numbers.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(number)?;
        to.sll_ifindex = i32::try_from(ifindex).map_err(number)?;
        to.sll_protocol = protocol.to_be();
        let length = libc::socklen_t::try_from(size_of_val(&to)).map_err(number)?;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: sendto reads the frame and `length` bytes of the address, both of which outlive the call; the descriptor
        // is open as long as the socket is.
        let sent = unsafe {
            libc::sendto(self.as_raw_fd(), frame.as_ptr().cast(), frame.len(), flags, (&raw const to).cast(), length)
        };
        if sent < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
    }
}
