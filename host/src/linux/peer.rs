//! Who is at the other end of a Unix socket, and sockets that systemd hands over.
//!
//! `SO_PEERGROUPS` and the group database have no safe wrapper in the crates at hand, and that of `SO_PEERCRED` takes a
//! process for one with a number, which one of another PID namespace has not here. What the peer may do is judged
//! elsewhere.
#![allow(unsafe_code)] // getsockopt(2), getgrnam_r(3), and taking over an inherited descriptor.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// More groups than this are an error; the kernel allows 65536 per process.
const GROUPS_MAX: usize = 65536;

/// Who connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process; 0 where it has no number in this PID namespace.
    pub pid: u32,
}

/// The credentials of the peer, as they were when it connected.
///
/// # Errors
/// When the descriptor is no socket.
pub fn credentials(socket: impl AsFd) -> io::Result<Credentials> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut bytes = libc::socklen_t::try_from(size_of_val(&credentials)).map_err(io::Error::other)?;
    // SAFETY: getsockopt writes at most `bytes` bytes to the credentials, which are that large and any bytes of which are
    // a value, and the length to `bytes`; both live across the call, and the descriptor is open because it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut bytes,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let libc::ucred { pid, uid, gid } = credentials;
    Ok(Credentials { uid, gid, pid: u32::try_from(pid).unwrap_or_default() })
}

/// The supplementary groups of the peer, as they were when it connected.
///
/// # Errors
/// When the descriptor is no connected Unix socket.
pub fn groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: getsockopt writes at most `bytes` bytes to the buffer, which is that large, and the length to
        // `bytes`; both live across the call, and the descriptor is open because it is borrowed.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count > GROUPS_MAX {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// The id of a group by its name; `None` if there is no such group.
///
/// # Errors
/// When the group database cannot be asked.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name)?;
    let mut buffer: Vec<libc::c_char> = vec![0; 1024];
    loop {
        let mut entry = std::mem::MaybeUninit::<libc::group>::uninit();
        let mut found: *mut libc::group = std::ptr::null_mut();
        // SAFETY: the name is a C string; the entry and the buffer (with its length) are ours and live across the
        // call; `found` is set to null or to the entry, whose strings lie in the buffer.
        let error = unsafe {
            libc::getgrnam_r(name.as_ptr(), entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found)
        };
        match error {
            0 if found.is_null() => return Ok(None),
            // SAFETY: the call succeeded and found one, so `entry` is initialised; the id is plain data.
            0 => return Ok(Some(unsafe { entry.assume_init_ref() }.gr_gid)),
            libc::ERANGE if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            _ => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Takes over a descriptor that the service manager passed, by its number.
///
/// # Errors
/// When the number is not one of an open descriptor above standard error.
///
/// # Panics
/// Never.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only asks; any number may be given.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if number <= libc::STDERR_FILENO || flags < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: as above; the descriptor is open.
    unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) };
    // SAFETY: from_raw_fd asks for an open descriptor that nobody else owns. It is open, checked above; the numbers in
    // LISTEN_FDS belong to the process that they are addressed to, and only `systemd.rs` asks for each once, at start.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_peer_is_this_process() -> io::Result<()> {
        let (ours, _theirs) = UnixStream::pair()?;
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        assert_eq!(credentials(&ours)?, Credentials { uid, gid, pid: std::process::id() });
        Ok(())
    }

    #[test]
    fn groups_of_the_peer_are_those_of_this_process() -> io::Result<()> {
        let (ours, _theirs) = UnixStream::pair()?;
        let mut groups = groups(&ours)?;
        let mut expected: Vec<u32> = rustix::process::getgroups()?.into_iter().map(|g| g.as_raw()).collect();
        groups.sort_unstable();
        expected.sort_unstable();
        assert_eq!(groups, expected);
        Ok(())
    }

    #[test]
    fn root_is_group_0_and_nonsense_is_none() -> io::Result<()> {
        assert_eq!(group_id("root")?, Some(0));
        assert_eq!(group_id("no such group, surely")?, None);
        Ok(())
    }
}
