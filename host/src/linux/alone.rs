//! Whether another daemon is at work in the same network namespace: a name that only one process at a time can have there.
//!
//! An abstract Unix address is the network namespace's, whatever mounts and folders who asks has; the kernel gives it back
//! however its owner ends. Anybody can take it, so that it is taken proves nothing: it is a reason to say so, no more.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};

const NAME: &[u8] = b"io.pernetd";

/// Takes the name, for as long as the descriptor is open; `None` if somebody has it.
///
/// # Errors
/// When no socket can be made.
pub fn take_name() -> io::Result<Option<OwnedFd>> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    match bind(&socket, &SocketAddrUnix::new_abstract_name(NAME)?) {
        Ok(()) => Ok(Some(socket)),
        Err(Errno::ADDRINUSE) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
