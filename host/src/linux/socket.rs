//! The descriptors of plugins' sockets: made inside a namespace, and taken out of it again.
//!
//! A descriptor keeps the namespace's pin: whatever happens, it is closed before the pin is. To *shut* one is to put an
//! *inert* socket in its place (`dup3`), one whose other end is closed, so that the namespace is let go while the number
//! cannot become somebody else's file in the hands of a plugin that still uses it. A system call that is blocked on the old
//! file keeps it; such calls are woken, by what each family has for it.
//!
//! To close a packet socket takes the kernel an RCU grace period (measured: 12 ms), during which its closer sleeps; many at
//! once share one. So these are closed by a thread of their own, all that wait at the same time side by side.
#![allow(unsafe_code)] // bind(2) and sendto(2) with addresses of families that no crate in use knows.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use pernet_plugin_api::NetCookie;
use rustix::io::{DupFlags, Errno, dup3};
use rustix::net::sockopt::{set_socket_linger, socket_domain, socket_type};
use rustix::net::{
    AddressFamily, Protocol, Shutdown, SocketFlags, SocketType, getpeername, shutdown, socket_with, socketpair,
};
use rustix::process::{Resource, getrlimit};

use super::ns::{self, Pin};
use crate::engine::{Failure, Sock, SockFamily, SockSpec, sock_type_name};

/// So many packet sockets are closed side by side.
const ABREAST: usize = 32;

/// A blocked reader takes one message with it, and several may be blocked.
const READERS: usize = 8;

/// `lo` in every namespace.
const LOOPBACK: i32 = 1;

/// An ethertype for experiments, which nobody listens to (IEEE 802).
const ETH_P_EXPERIMENT: u16 = 0x88b5;

/// What all descriptors share.
pub struct Sockets {
    /// Reads as ended, and takes nothing.
    inert: OwnedFd,
    closer: Sender<Held>,
    home: Pin,
}

/// A descriptor, and what it is in. Closed in this order.
struct Held {
    fd: OwnedFd,
    /// `None` where it is in no managed namespace (any more).
    pin: Option<Arc<Pin>>,
    /// `AF_*`, of one whose blocked callers are to be woken first.
    wake: Option<i32>,
}

/// A plugin's socket.
pub struct Descriptor {
    number: RawFd,
    family: i32,
    /// Empty only while it is dropped.
    held: Mutex<Option<Held>>,
    sockets: Arc<Sockets>,
}

impl Sockets {
    /// Called at home, where the inert socket and the thread that closes stay.
    ///
    /// # Errors
    /// When a descriptor or a thread cannot be had.
    pub fn start() -> io::Result<Arc<Sockets>> {
        let (_, home) = ns::current()?;
        let (inert, other) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        drop(other);
        let (closer, closing) = unbounded();
        thread::Builder::new().name("sock-closer".into()).spawn(move || close_all(&closing))?;
        Ok(Arc::new(Sockets { inert, closer, home }))
    }

    /// `socket(2)` in the namespace with this cookie, on a thread with a seat; `inside`: which should be there already.
    ///
    /// # Errors
    /// As the kernel refuses.
    pub fn create(
        self: &Arc<Self>,
        spec: &SockSpec,
        (cookie, pin): (NetCookie, Arc<Pin>),
        inside: bool,
    ) -> Result<Descriptor, Failure> {
        // The thread is a hook's, which may have taken it elsewhere: the kernel is asked where the socket is.
        let is_there = |fd: &OwnedFd| ns::cookie_of(fd.as_fd()).is_ok_and(|there| there == cookie);
        let here = if inside { open(spec).ok().filter(is_there) } else { None };
        let fd = here.map_or_else(|| ns::visit(&pin, || open(spec)).and_then(|opened| opened), Ok);
        Ok(self.hold(fd.map_err(|e| refused(spec, &e))?, spec.family, Some(pin)))
    }

    /// Both ends of a connection: the one for a plugin in the namespace of the pin, the other for whoever connects.
    ///
    /// # Errors
    /// `EINVAL` for a type that such a pair cannot be of, or as the kernel refuses.
    pub fn pair(self: &Arc<Self>, kind: i32, pin: Arc<Pin>) -> Result<(Descriptor, Descriptor), Failure> {
        let kind = pair_type(kind)?;
        let make = || socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
        // A Unix socket keeps the namespace that it was made in.
        let made = if ns::is_away() { ns::visit(&self.home, make) } else { Ok(make()) };
        let made = made.and_then(|pair| Ok(pair?));
        let (one, other) = made.map_err(|e| failure(format!("cannot make a pair of sockets: {e}"), &e))?;
        Ok((self.hold(one, libc::AF_UNIX, Some(pin)), self.hold(other, libc::AF_UNIX, None)))
    }

    /// One end of a connection that somebody else made.
    ///
    /// # Errors
    /// `EINVAL` for what is no connected Unix socket of this type.
    pub fn adopt(self: &Arc<Self>, fd: OwnedFd, kind: i32, pin: Arc<Pin>) -> Result<Descriptor, Failure> {
        let wanted = pair_type(kind)?;
        let fits = socket_domain(&fd).is_ok_and(|domain| domain == AddressFamily::UNIX)
            && socket_type(&fd).is_ok_and(|kind| kind == wanted)
            && getpeername(&fd).is_ok();
        if !fits {
            let what = format!("the descriptor is of no connected Unix socket of type {}", sock_type_name(kind));
            return Err(Failure::new(libc::EINVAL, what));
        }
        Ok(self.hold(fd, libc::AF_UNIX, Some(pin)))
    }

    fn hold(self: &Arc<Self>, fd: OwnedFd, family: i32, pin: Option<Arc<Pin>>) -> Descriptor {
        let (number, held) = (fd.as_raw_fd(), Mutex::new(Some(Held { fd, pin, wake: None })));
        Descriptor { number, family, held, sockets: Arc::clone(self) }
    }

    fn close_elsewhere(&self, held: Held) {
        // Without the thread, what comes back is closed here.
        let _ = self.closer.send(held);
    }
}

/// Until nobody can send any more.
fn close_all(closing: &Receiver<Held>) {
    while let Ok(first) = closing.recv() {
        let mut batch: Vec<Held> = std::iter::once(first).chain(closing.try_iter()).collect();
        let share = batch.len().div_ceil(ABREAST);
        thread::scope(|scope| {
            while batch.len() > share {
                let part = batch.split_off(batch.len() - share);
                let close = move || part.into_iter().for_each(close);
                // What cannot have a thread of its own was dropped with it, and so is closed all the same.
                let _ = thread::Builder::new().name("sock-close".into()).spawn_scoped(scope, close);
            }
            batch.into_iter().for_each(close);
        });
    }
}

fn close(held: Held) {
    if let Some(family) = held.wake {
        wake(held.fd.as_fd(), family);
    }
    drop(held);
}

impl Descriptor {
    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sock for Descriptor {
    fn number(&self) -> i32 {
        self.number
    }

    fn shut(&self) -> Result<(), Failure> {
        let mut guard = self.held();
        let Some(held) = guard.as_mut() else { return Ok(()) };
        // The old file under another number: who is blocked is woken when every new call goes to the inert one, or it would
        // only block again.
        let old = held.fd.try_clone();
        if old.is_err() {
            wake(held.fd.as_fd(), self.family);
        }
        while let Err(error) = dup3(&self.sockets.inert, &mut held.fd, DupFlags::CLOEXEC) {
            // BUSY: another thread opens this very number; that is over soon, since it is taken.
            if !matches!(error, Errno::INTR | Errno::BUSY) {
                return Err(failure(format!("cannot shut descriptor {}: {error}", self.number), &error.into()));
            }
        }
        let pin = held.pin.take();
        drop(guard);
        if let Ok(fd) = old {
            self.sockets.close_elsewhere(Held { fd, pin, wake: Some(self.family) });
        }
        Ok(())
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let held = self.held().take();
        match held {
            Some(held) if self.family == libc::AF_PACKET && held.pin.is_some() => self.sockets.close_elsewhere(held),
            held => drop(held),
        }
    }
}

fn open(spec: &SockSpec) -> io::Result<OwnedFd> {
    let family = u16::try_from(spec.family).map_err(|_| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
    let kind = SocketType::from_raw(spec.sock_type().cast_unsigned());
    let flags = SocketFlags::from_bits_retain((spec.kind & libc::SOCK_NONBLOCK).cast_unsigned()) | SocketFlags::CLOEXEC;
    let protocol = NonZeroU32::new(spec.protocol.cast_unsigned()).map(Protocol::from_raw);
    Ok(socket_with(AddressFamily::from_raw(family), kind, flags, protocol)?)
}

fn pair_type(kind: i32) -> Result<SocketType, Failure> {
    match kind {
        libc::SOCK_STREAM => Ok(SocketType::STREAM),
        libc::SOCK_DGRAM => Ok(SocketType::DGRAM),
        libc::SOCK_SEQPACKET => Ok(SocketType::SEQPACKET),
        other => {
            Err(Failure::new(libc::EINVAL, format!("a connection is of type stream, dgram or seqpacket, not {other}")))
        }
    }
}

fn refused(spec: &SockSpec, error: &io::Error) -> Failure {
    let (family, kind) = (SockFamily::Kernel(spec.family), sock_type_name(spec.sock_type()));
    let then = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; the daemon needs CAP_NET_RAW in this namespace",
        Some(libc::EMFILE | libc::ENFILE) => "; raise the limit of open files (LimitNOFILE=)",
        Some(libc::EAFNOSUPPORT) => "; load the module of this family, or allow it (RestrictAddressFamilies=)",
        _ => "",
    };
    failure(format!("cannot make a socket ({family}, {kind}, {}): {error}{then}", spec.protocol), error)
}

fn failure(message: String, error: &io::Error) -> Failure {
    Failure::new(error.raw_os_error().unwrap_or(libc::EIO), message)
}

/// Wakes whoever is blocked on a socket that is about to be closed. Nothing of it may fail loudly: what a socket of this
/// family does not have, it does not need.
///
/// Neither packet nor netlink sockets can be shut down. A netlink socket sends itself an empty message. A packet socket is
/// bound to `lo`: if that is down the kernel tells the reader so, and if it is up a frame comes by. A packet socket in a
/// fanout group cannot be bound again, and families without `shutdown` other than these have nothing at all: a call that is
/// blocked on such a one keeps the namespace until it returns by itself.
fn wake(socket: BorrowedFd<'_>, family: i32) {
    match family {
        libc::AF_PACKET => wake_packet(socket),
        libc::AF_NETLINK => wake_netlink(socket),
        _ => {
            let _ = shutdown(socket, Shutdown::Both);
            // What was not sent is not waited for, and a connection in the middle of its end would keep the namespace.
            let _ = set_socket_linger(socket, Some(Duration::ZERO));
        }
    }
}

fn wake_packet(socket: BorrowedFd<'_>) {
    // SAFETY: `zeroed` asks for a type of which zeros are a value: plain numbers.
    let mut lo: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    (lo.sll_family, lo.sll_protocol) = (family_of(libc::AF_PACKET), every_protocol());
    (lo.sll_ifindex, lo.sll_halen) = (LOOPBACK, 6);
    bind(socket, &lo);
    // A frame to `lo` as SOCK_RAW wants it; SOCK_DGRAM takes it as content.
    let mut frame = [0; 60];
    frame[12..14].copy_from_slice(&ETH_P_EXPERIMENT.to_be_bytes());
    lo.sll_protocol = ETH_P_EXPERIMENT.to_be();
    (0..READERS).for_each(|_| send(socket, &frame, &lo));
}

fn wake_netlink(socket: BorrowedFd<'_>) {
    // SAFETY: as above.
    let mut own: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    own.nl_family = family_of(libc::AF_NETLINK);
    // One that is bound already stays where it is.
    bind(socket, &own);
    let mut length = libc::socklen_t::try_from(size_of_val(&own)).unwrap_or_default();
    // SAFETY: getsockname writes at most `length` bytes to the address, which is that large, and the length; both outlive
    // the call, and the descriptor is open because it is borrowed.
    unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut own).cast(), &raw mut length) };
    own.nl_groups = 0;
    // `struct nlmsghdr` of an NLMSG_NOOP: its length and its type, the rest being zero.
    let mut noop = [0; 16];
    noop[..4].copy_from_slice(&16u32.to_ne_bytes());
    noop[4..6].copy_from_slice(&crate::netlink::NLMSG_NOOP.to_ne_bytes());
    (0..READERS).for_each(|_| send(socket, &noop, &own));
}

/// The numbers are small; C declares the field with 16 bits.
fn family_of(family: i32) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).unwrap_or_default()
}

/// `htons(ETH_P_ALL)`
fn every_protocol() -> u16 {
    u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be()
}

fn bind<A>(socket: BorrowedFd<'_>, address: &A) {
    let length = libc::socklen_t::try_from(size_of::<A>()).unwrap_or_default();
    // SAFETY: bind reads `length` bytes of the address, which is that large and outlives the call; the descriptor is open
    // because it is borrowed. What the address says, the kernel judges.
    unsafe { libc::bind(socket.as_raw_fd(), (&raw const *address).cast(), length) };
}

fn send<A>(socket: BorrowedFd<'_>, bytes: &[u8], address: &A) {
    let length = libc::socklen_t::try_from(size_of::<A>()).unwrap_or_default();
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: sendto reads `bytes` and `length` bytes of the address, both of which outlive the call; the descriptor is open
    // because it is borrowed.
    unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags,
            (&raw const *address).cast(),
            length,
        )
    };
}

/// How many descriptors this process may have open.
#[must_use]
pub fn descriptor_limit() -> usize {
    getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}
