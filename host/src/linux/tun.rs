//! tun and tap devices through `/dev/net/tun`, in the network namespace that the calling thread is in. Mirrors
//! `drivers/net/tun.c`, since rtnetlink makes no device of these kinds.
//!
//! Owns the conversation with the device file. A device lives as long as one of its queues is open, and every queue
//! pins the namespace in which it was opened: who holds [`Queues`] closes them before the namespace's pin. Nothing here
//! makes the device node: a machine or a sandbox without it has its reason, and our node would bypass it.
#![allow(unsafe_code)] // ioctl of /dev/net/tun, which no crate in use wraps.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{
    IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_TUN, IFF_TUN_EXCL, IFF_VNET_HDR, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6,
    TUN_F_USO4, TUN_F_USO6,
};

use crate::netlink::NetlinkError;

const DEVICE: &str = "/dev/net/tun";

/// `struct virtio_net_hdr_v1`: what precedes every frame of a device with offloads.
pub const VNET_HEADER: i32 = 12;

/// The descriptors of a device's queues, non-blocking and close-on-exec, by queue number.
pub type Queues = Vec<OwnedFd>;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunKind {
    /// IP packets, without a link layer.
    Tun,
    /// Ethernet frames.
    Tap,
}

impl TunKind {
    /// By the name of the link kind.
    #[must_use]
    pub fn from_name(kind: &str) -> Option<TunKind> {
        match kind {
            "tun" => Some(TunKind::Tun),
            "tap" => Some(TunKind::Tap),
            _ => None,
        }
    }
}

/// A device to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewTun<'a> {
    /// Which.
    pub kind: TunKind,
    /// Its name: a literal one.
    pub name: &'a str,
    /// How many queues; 0 is 1.
    pub queues: u32,
    /// Frames carry a virtio header, and the kernel may leave checksums and segmentation to whoever reads them.
    pub offloads: bool,
    /// Index; 0: the kernel chooses.
    pub ifindex: u32,
}

/// Makes a device with all its queues. It begins down, and with a carrier: its reader opens before the device goes up
/// (K2.7), so nothing is queued that nobody reads, and a carrier of our own making would be one more state to keep.
///
/// # Errors
/// `EEXIST` when the name is taken, whoever has it; and as the kernel refuses.
pub fn create(new: &NewTun<'_>) -> Result<Queues, NetlinkError> {
    let request = request(new).map_err(|e| failed(new, &e))?;
    let first = open().map_err(|e| cannot_open(new, &e))?;
    if new.ifindex != 0 {
        set(&first, libc::TUNSETIFINDEX, new.ifindex.cast_signed()).map_err(|e| failed(new, &e))?;
    }
    // EXCL: else a tun of this name that somebody made would become ours.
    attach(&first, &request, IFF_TUN_EXCL).map_err(|e| refused(new, &e))?;
    with_the_rest(new, &request, first)
}

/// The same queues of a device that was moved here, opened anew: the old ones keep the namespace in which they were opened.
/// Nobody may have a duplicate of them. Between the two it is kept without a descriptor, up or down as it is.
///
/// # Errors
/// As the kernel refuses; or `ENODEV` where the device of that name is not the one with that index. It may then be left
/// without descriptors, and is to be deleted.
pub fn reopen(moved: &NewTun<'_>, old: Queues) -> Result<Queues, NetlinkError> {
    let request = request(moved).map_err(|e| failed(moved, &e))?;
    let gone = || io::Error::from_raw_os_error(libc::ENODEV);
    let persist = |queues: &Queues, on| tell(queues.first().ok_or_else(gone)?, libc::TUNSETPERSIST, on);
    persist(&old, 1).map_err(|e| failed(moved, &e))?;
    drop(old);
    let first = open().map_err(|e| cannot_open(moved, &e))?;
    attach(&first, &request, 0).map_err(|e| failed(moved, &e))?;
    // Without EXCL a name that is free makes a device, and one that is somebody else's is taken.
    if super::rtnetlink::find_described(moved.name)?.is_none_or(|found| found.link.ifindex != moved.ifindex) {
        return Err(failed(moved, &gone()).advise("somebody else deleted or renamed it at once"));
    }
    let queues = with_the_rest(moved, &request, first)?;
    persist(&queues, 0).map_err(|e| failed(moved, &e))?;
    Ok(queues)
}

/// All queues, after the first.
fn with_the_rest(new: &NewTun<'_>, request: &Request, first: File) -> Result<Queues, NetlinkError> {
    let mut queues = vec![OwnedFd::from(first)];
    for _ in 1..new.queues {
        let queue = open().map_err(|e| cannot_open(new, &e))?;
        attach(&queue, request, 0).map_err(|e| failed(new, &e))?;
        queues.push(queue.into());
    }
    if new.offloads {
        offload(&queues).map_err(|e| failed(new, &e))?;
    }
    Ok(queues)
}

/// `struct ifreq` of TUNSETIFF.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

fn request(new: &NewTun<'_>) -> io::Result<Request> {
    let mut name = [0; libc::IFNAMSIZ];
    // With an empty name or a pattern the kernel would choose; the choice is made before.
    let fits = (1..libc::IFNAMSIZ).contains(&new.name.len()) && !new.name.contains(['%', '\0']);
    let room = name.get_mut(..new.name.len()).filter(|_| fits);
    room.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?.copy_from_slice(new.name.as_bytes());
    let kind = if new.kind == TunKind::Tun { IFF_TUN } else { IFF_TAP };
    let mut flags = kind | IFF_NO_PI;
    flags |= if new.queues > 1 { IFF_MULTI_QUEUE } else { 0 };
    flags |= if new.offloads { IFF_VNET_HDR } else { 0 };
    Ok(Request { name, flags: short(flags), rest: [0; 22] })
}

/// The flags fill all 16 bits of a field that C declares signed.
#[allow(clippy::cast_possible_truncation)]
fn short(flags: libc::c_int) -> libc::c_short {
    flags as libc::c_short
}

fn open() -> io::Result<File> {
    // The library adds O_CLOEXEC.
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE)
}

fn attach(queue: &File, request: &Request, more: libc::c_int) -> io::Result<()> {
    let mut request = *request;
    request.flags |= short(more);
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, whose size `request` has; it outlives the call, and the
    // descriptor is open.
    done(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

/// Sets the size of the header at each queue, and what the device may leave to the reader. `TUN_F_TSO_ECN` is left out:
/// without it the kernel itself cuts the rare frame that carries the mark, and a reader has one case less.
fn offload(queues: &[OwnedFd]) -> io::Result<()> {
    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    for queue in queues {
        set(queue, libc::TUNSETVNETHDRSZ, VNET_HEADER)?;
        // UDP segmentation came with 6.2; an older kernel refuses the whole mask.
        tell(queue, libc::TUNSETOFFLOAD, tcp | TUN_F_USO4 | TUN_F_USO6)
            .or_else(|_| tell(queue, libc::TUNSETOFFLOAD, tcp))?;
    }
    Ok(())
}

/// For an ioctl that reads an int.
fn set(queue: &impl AsRawFd, what: libc::Ioctl, mut value: libc::c_int) -> io::Result<()> {
    // SAFETY: both that are used here, TUNSETVNETHDRSZ and TUNSETIFINDEX, read one int from their argument, which
    // outlives the call; the descriptor is open.
    done(unsafe { libc::ioctl(queue.as_raw_fd(), what, &raw mut value) })
}

/// For an ioctl whose argument is the value.
fn tell(queue: &impl AsRawFd, what: libc::Ioctl, value: libc::c_uint) -> io::Result<()> {
    // SAFETY: both that are used here, TUNSETOFFLOAD and TUNSETPERSIST, take a number and no pointer; the descriptor is
    // open.
    done(unsafe { libc::ioctl(queue.as_raw_fd(), what, libc::c_ulong::from(value)) })
}

fn done(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn failed(new: &NewTun<'_>, error: &io::Error) -> NetlinkError {
    let kind = if new.kind == TunKind::Tun { "tun" } else { "tap" };
    NetlinkError::from_io(format!("create the {kind} link {}", new.name), error)
}

/// The kernel says EBUSY both of a name that is taken, by whatever device, and of an index.
fn refused(new: &NewTun<'_>, error: &io::Error) -> NetlinkError {
    let mut failed = failed(new, error);
    if failed.errno == libc::EBUSY && super::rtnetlink::find_described(new.name).is_ok_and(|found| found.is_some()) {
        failed.errno = libc::EEXIST;
        return failed.advise("a device of this name exists; give this one another, or delete that one");
    }
    match failed.errno {
        libc::EBUSY if new.ifindex != 0 => failed.advise("the index is taken; ask for another, or for none"),
        libc::EPERM => failed.advise("CAP_NET_ADMIN in this network namespace is needed"),
        _ => failed,
    }
}

fn cannot_open(new: &NewTun<'_>, error: &io::Error) -> NetlinkError {
    let failed = failed(new, error);
    let (why, then) = match failed.errno {
        libc::ENOENT => ("is not there", "load the module (modprobe tun), or give the service this device"),
        libc::ENXIO | libc::ENODEV => ("has no driver behind it", "load the module (modprobe tun)"),
        libc::EACCES | libc::EPERM => {
            ("may not be opened", "the service needs DeviceAllow=/dev/net/tun rw, and its user the right to the file")
        }
        _ => ("cannot be opened", "see whether it is a character device with the numbers 10 and 200"),
    };
    failed.advise(&format!("{DEVICE} {why}: {then}"))
}
