//! Entering network namespaces and holding them.
//!
//! Owns the thread's seat: the namespace that a worker thread calls home, and whether it is away. Only threads that took
//! a seat (`worker.rs`) can enter; any other thread gets an error, so that no thread of the process is ever left in a
//! foreign namespace by accident. A pin is never opened through the bind mount, which would make the operator's
//! `umount` fail with EBUSY. Does not decide when to enter, and keeps no list of namespaces.
#![allow(unsafe_code)] // ioctl(NS_GET_ID) and getsockopt(SO_NETNS_COOKIE), which no crate wraps.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use pernet_plugin_api::NetCookie;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{descriptors, nsfs};

/// `_IOR(0xb7, 13, __u64)`: the namespace's never-reused id (6.18), the same number as `SO_NETNS_COOKIE`.
const NS_GET_ID: libc::Ioctl = 0x8008_b70d_u32 as libc::Ioctl;
/// `f_type` of a file on nsfs.
const NSFS_MAGIC: u64 = 0x6e73_6673;
const OWN: &str = "/proc/thread-self/ns/net";

/// The one descriptor that keeps a managed namespace alive until its exits are done.
#[derive(Debug)]
pub struct Pin(OwnedFd);

impl AsFd for Pin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Pin {
    /// As `From`, for one that is kept as long as its namespace is managed.
    ///
    /// # Errors
    /// `EMFILE` when only the rest is left that is not for namespaces.
    pub fn keep(fd: OwnedFd) -> io::Result<Pin> {
        descriptors::keep(fd).map(Pin)
    }
}

impl From<OwnedFd> for Pin {
    /// Takes a descriptor that is known to be of a network namespace and not to come through a bind mount.
    fn from(fd: OwnedFd) -> Self {
        Pin(fd)
    }
}

/// A worker thread's place: where it comes home to.
struct Seat {
    home: Arc<Pin>,
    away: bool,
    /// Coming home failed: the thread is in a foreign namespace and must end.
    lost: bool,
}

thread_local! {
    static SEAT: RefCell<Option<Seat>> = const { RefCell::new(None) };
}

/// Makes the calling thread, which must be there, one that may enter namespaces and comes home to this one.
pub fn take_seat(home: Arc<Pin>) {
    SEAT.with_borrow_mut(|seat| *seat = Some(Seat { home, away: false, lost: false }));
}

/// The same, with the namespace that the thread is in now as its home.
///
/// # Errors
/// As [`current`].
pub fn take_seat_here() -> io::Result<()> {
    take_seat(Arc::new(current()?.1));
    Ok(())
}

fn with_seat<T>(act: impl FnOnce(&mut Seat) -> io::Result<T>) -> io::Result<T> {
    SEAT.with_borrow_mut(|seat| match seat {
        Some(seat) if seat.lost => Err(io::Error::other("this thread could not come home and must end")),
        Some(seat) => act(seat),
        None => Err(io::Error::new(io::ErrorKind::PermissionDenied, "only a worker thread may enter a namespace")),
    })
}

/// The calling thread acts inside the namespace until `home`. From one namespace straight into another is allowed.
///
/// # Errors
/// On a thread that is no worker, or when the kernel refuses; the thread then is where it was.
pub fn enter(pin: &Pin) -> io::Result<()> {
    enter_fd(pin.as_fd())
}

fn enter_fd(fd: BorrowedFd<'_>) -> io::Result<()> {
    with_seat(|seat| {
        move_into_link_name_space(fd, Some(LinkNameSpaceType::Network))?;
        seat.away = true;
        Ok(())
    })
}

/// The calling thread comes home; nothing to do where it is home already.
///
/// # Errors
/// On a thread that is no worker, and when the kernel refuses: the thread is lost then, and its pool ends it.
pub fn home() -> io::Result<()> {
    with_seat(|seat| {
        if !seat.away {
            return Ok(());
        }
        match move_into_link_name_space(seat.home.as_fd(), Some(LinkNameSpaceType::Network)) {
            Ok(()) => {
                seat.away = false;
                Ok(())
            }
            Err(error) => {
                seat.lost = true;
                Err(error.into())
            }
        }
    })
}

/// Whether the calling thread may enter namespaces.
#[must_use]
pub fn has_seat() -> bool {
    SEAT.with_borrow(Option::is_some)
}

/// Whether the calling thread is inside a namespace that is not its home.
#[must_use]
pub fn is_away() -> bool {
    SEAT.with_borrow(|seat| seat.as_ref().is_some_and(|seat| seat.away || seat.lost))
}

/// Which namespace the calling thread is in, with a pin of it.
///
/// # Errors
/// When /proc is not there, or no socket can be made on a kernel before 6.18.
pub fn current() -> io::Result<(NetCookie, Pin)> {
    let fd = OwnedFd::from(File::open(OWN)?);
    let cookie = match id_of(fd.as_fd()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => socket_cookie()?,
        other => other?,
    };
    Ok((cookie, Pin(fd)))
}

/// Which namespace is mounted at `path`, with a pin of it, without opening anything through the mount and without
/// entering. `None` where the kernel cannot (before 6.18): `identify` on a worker thread can.
#[must_use]
pub fn identify_without_entering(path: &Path) -> Option<io::Result<(NetCookie, Pin)>> {
    nsfs::available().as_ref().ok()?;
    Some(identify_by_handle(path).map(|(cookie, pin, _)| (cookie, pin)))
}

/// The same, and which mount (by its never-reused id) it was that answered for the path.
///
/// # Errors
/// `ENOENT` when the name is gone, `EINVAL` when no network namespace is mounted there.
pub fn identify_by_handle(path: &Path) -> io::Result<(NetCookie, Pin, u64)> {
    let handle = nsfs::handle(path)?.ok_or_else(not_a_netns)?;
    let pin = Pin::keep(nsfs::open(&handle)?)?;
    Ok((NetCookie(handle.id()), pin, handle.mount))
}

/// Which namespace is mounted at `path`, with a pin of it. On a worker thread, since it may have to enter.
///
/// # Errors
/// `ENOENT` when the name is gone, `EINVAL` when no network namespace is mounted there (yet).
pub fn identify(path: &Path) -> io::Result<(NetCookie, Pin)> {
    if let Some(answer) = identify_without_entering(path) {
        return answer;
    }
    identify_by_entering(path)
}

/// As `identify`, for a name of which it is known what inode its namespace has.
///
/// # Errors
/// As `identify`, and `EAGAIN` when the name shows another namespace at this moment.
pub fn identify_as(path: &Path, inode: u64) -> io::Result<(NetCookie, Pin)> {
    expect(identify(path)?, inode)
}

fn expect(found: (NetCookie, Pin), inode: u64) -> io::Result<(NetCookie, Pin)> {
    if rustix::fs::fstat(&found.1)?.st_ino == inode { Ok(found) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

/// As `identify`, on a kernel without nsfs handles.
///
/// # Errors
/// As `identify`.
pub fn identify_by_entering(path: &Path) -> io::Result<(NetCookie, Pin)> {
    // A look before opening: the name may be anything, and opening some things has effects.
    if rustix::fs::statfs(path)?.f_type.cast_unsigned() != NSFS_MAGIC {
        return Err(not_a_netns());
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
    let through_mount = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    adopt(through_mount.into())
}

/// Which namespace a descriptor is of, with a pin of our own; for a descriptor that somebody handed over. On a worker
/// thread, since it enters.
///
/// # Errors
/// `EINVAL` when it is of no network namespace, `EPERM` when we may not enter it.
pub fn adopt(fd: OwnedFd) -> io::Result<(NetCookie, Pin)> {
    let entered = enter_fd(fd.as_fd());
    // At once: if it came through a bind mount, the operator's umount fails with EBUSY as long as it is open.
    drop(fd);
    entered?;
    let found = current();
    home()?;
    let (cookie, pin) = found?;
    Ok((cookie, Pin::keep(pin.0)?))
}

/// Acts inside a namespace and comes back to where the thread was, which may be another one. On a worker thread.
///
/// # Errors
/// When the kernel refuses to enter; or to come back, and then the thread is lost.
pub fn visit<T>(pin: &Pin, act: impl FnOnce() -> T) -> io::Result<T> {
    let back = if is_away() { Some(OwnedFd::from(File::open(OWN)?)) } else { None };
    enter(pin)?;
    let value = act();
    match back {
        Some(place) => enter_fd(place.as_fd())?,
        None => home()?,
    }
    Ok(value)
}

fn not_a_netns() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

fn id_of(fd: BorrowedFd<'_>) -> io::Result<NetCookie> {
    let mut id: u64 = 0;
    // SAFETY: NS_GET_ID writes 64 bits to its argument, which outlives the call; `fd` is open.
    match unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_ID, &raw mut id) } {
        0 => Ok(NetCookie(id)),
        _ => Err(io::Error::last_os_error()),
    }
}

fn socket_cookie() -> io::Result<NetCookie> {
    cookie_of(socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?.as_fd())
}

/// Which namespace a socket was made in.
///
/// # Errors
/// When it is no socket.
pub fn cookie_of(socket: BorrowedFd<'_>) -> io::Result<NetCookie> {
    let mut id: u64 = 0;
    let mut len: libc::socklen_t = 8;
    // SAFETY: getsockopt writes at most `len` bytes, the size of `id`, and the length; both outlive the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut id).cast(),
            &raw mut len,
        )
    };
    match done {
        0 => Ok(NetCookie(id)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_worker_may_enter() {
        let (_, pin) = current().expect("our own namespace");
        let refused = enter(&pin).expect_err("this thread took no seat");
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(home().is_err());
    }

    #[test]
    fn both_sources_of_the_cookie_agree() {
        let fd = File::open(OWN).expect("our own namespace");
        if let Ok(id) = id_of(fd.as_fd()) {
            assert_eq!(id, socket_cookie().expect("a socket"));
        }
    }
}
