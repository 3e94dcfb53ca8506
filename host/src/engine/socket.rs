//! Sockets inside namespaces: `sock_create`, `sock_release`, and what becomes of those that are left open.
//!
//! Mirrors `struct socket` and the order of `__sock_create` (K6.9): the arguments are judged, an inode is taken, the
//! world makes the socket, and whatever fails gives back what was taken before. A socket belongs to a plugin in one life
//! of a namespace. What the plugin leaves open when it goes from there is *shut*: the namespace is let go, and the
//! plugin's number for it stays taken until the plugin releases it. How a descriptor is made and shut is the world's
//! ([`Sock`], [`super::Namespace::socket`]); here is who has which, and that each ends once.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use pernet_plugin_api::NetCookie;

use super::failure::{EAFNOSUPPORT, EINVAL, ESTALE, Failure};
use super::family::{Family, SockFamily, sock_type_name};
use super::member::Owner;
use super::net::Net;
use super::pernet::{PernetList, ReadToken};
use super::sockfs::{Inode, SockFs};
use super::walk::{Walk, hook_in, own_error};

/// `SOCK_TYPE_MASK`: the rest of a type is flags.
const SOCK_TYPE_MASK: i32 = 0xf;
/// `SOCK_MAX`.
const SOCK_MAX: i32 = 11;
/// `SOCK_NONBLOCK | SOCK_CLOEXEC`.
const SOCK_FLAGS: i32 = 0o4_000 | 0o2_000_000;
/// Families are 16 bits in an address (`sa_family_t`).
const FAMILIES: i32 = u16::MAX as i32;

/// A socket as the world made it. Dropping it closes it.
pub trait Sock: Send + Sync {
    /// By which the world calls it; the engine only passes it on.
    fn number(&self) -> i32;
    /// Lets go of the namespace and wakes who waits for the socket; its number stays taken until this is dropped.
    fn shut(&self) -> Result<(), Failure>;
}

/// What is asked of `socket(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SockSpec {
    /// `AF_*`.
    pub family: i32,
    /// `SOCK_*`, with `SOCK_NONBLOCK` if wanted.
    pub kind: i32,
    /// Of the family's own.
    pub protocol: i32,
}

impl SockSpec {
    /// `SOCK_*` without flags.
    #[must_use]
    pub fn sock_type(&self) -> i32 {
        self.kind & SOCK_TYPE_MASK
    }

    /// K6.9, before anything is taken.
    fn check(&self) -> Result<(), Failure> {
        if !(0..=FAMILIES).contains(&self.family) {
            return Err(Failure::new(EAFNOSUPPORT, format!("{} is no address family", self.family)));
        }
        if self.sock_type() >= SOCK_MAX || self.kind & !(SOCK_TYPE_MASK | SOCK_FLAGS) != 0 {
            return Err(Failure::new(EINVAL, format!("{:#x} is no socket type", self.kind)));
        }
        Ok(())
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ucred {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process, in the daemon's numbering; 0 where it has none there.
    pub pid: u32,
}

/// A connection to a family, as the family is told of it.
pub struct Connection {
    /// The plugin's end.
    pub socket: Arc<Socket>,
    /// Who has the other.
    pub peer: Ucred,
}

/// A socket of a plugin.
pub struct Socket {
    /// Whose it is.
    pub owner: Arc<Owner>,
    /// The namespace that it is in, or leads to.
    pub cookie: NetCookie,
    /// Family.
    pub family: SockFamily,
    /// `SOCK_*`.
    pub kind: i32,
    /// Protocol; 0 for a plugin's family.
    pub protocol: i32,
    /// Since when it is.
    pub born: Instant,
    net: Weak<Net>,
    /// What the namespace was called then: it may be gone.
    netns: Arc<str>,
    shut: AtomicBool,
    /// Closed before the inode is given back.
    sock: Box<dyn Sock>,
    inode: Inode,
}

impl Socket {
    /// Its number in sockfs.
    #[must_use]
    pub fn ino(&self) -> u64 {
        self.inode.ino
    }

    /// Its namespace's name.
    #[must_use]
    pub fn netns(&self) -> Arc<str> {
        self.net.upgrade().map_or_else(|| self.netns.clone(), |net| net.name())
    }

    /// Whether the host has shut it.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }

    /// By which the world calls it.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.sock.number()
    }

    fn shut(&self) -> Result<(), Failure> {
        self.shut.store(true, Ordering::Release);
        self.sock.shut()
    }
}

/// The path that sockfs gives (K6.6).
impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "socket:[{}]", self.ino())
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} {}/{} of `{}`", self.family, sock_type_name(self.kind), self.owner.name)
    }
}

/// A socket that is about to be: what it is, whose, and the world's part of it.
struct New<'a> {
    owner: &'a Arc<Owner>,
    family: SockFamily,
    kind: i32,
    protocol: i32,
    born: Instant,
}

impl New<'_> {
    fn finish(self, net: &Arc<Net>, inode: Inode, sock: Box<dyn Sock>) -> Arc<Socket> {
        let New { owner, family, kind, protocol, born } = self;
        Arc::new(Socket {
            owner: owner.clone(),
            cookie: net.cookie,
            family,
            kind,
            protocol,
            born,
            net: Arc::downgrade(net),
            netns: net.name(),
            shut: AtomicBool::new(false),
            sock,
            inode,
        })
    }
}

/// `sock_create`: a socket made inside a namespace in which the plugin acts. The calling thread may be in any place, and
/// needs no lock: it is brought there by [`super::Namespace::socket`], for as long as that takes.
///
/// # Errors
/// K6.9: `EAFNOSUPPORT`, `EINVAL`, `ENFILE`, or what the kernel answers. `ESTALE` where the plugin does not act (any more),
/// and in a namespace that is going, unless one of its own hooks asks. Nothing is left then.
pub fn sock_create(
    fs: &Arc<SockFs>,
    net: &Arc<Net>,
    owner: &Arc<Owner>,
    spec: SockSpec,
    born: Instant,
) -> Result<Arc<Socket>, Failure> {
    spec.check()?;
    if net.dying() && !net.rtnl().held_by_me() {
        return Err(going(net));
    }
    net.check_joined(owner)?;
    let inode = fs.alloc()?;
    let sock = net.namespace().socket(&spec)?;
    let (family, kind) = (SockFamily::Kernel(spec.family), spec.sock_type());
    let new = New { owner, family, kind, protocol: spec.protocol, born };
    publish(fs, net, new.finish(net, inode, sock))
}

fn going(net: &Net) -> Failure {
    Failure::new(ESTALE, format!("namespace `{}` is going", net.name()))
}

/// From here on it is found. Its plugin may have gone from the namespace since it was asked for: then it is closed again.
fn publish(fs: &SockFs, net: &Arc<Net>, socket: Arc<Socket>) -> Result<Arc<Socket>, Failure> {
    fs.insert(&socket);
    match net.add_socket(&socket) {
        Ok(()) => Ok(socket),
        Err(failure) => {
            drop(fs.take(&socket.owner, socket.ino()));
            Err(failure)
        }
    }
}

/// `sock_release`, by whose it is: closed, once.
///
/// # Errors
/// `EBADF` if the plugin has none of this number, or no longer.
pub fn sock_release(fs: &SockFs, owner: &Owner, ino: u64) -> Result<(), Failure> {
    forget(fs.take(owner, ino)?);
    Ok(())
}

/// Releases whatever a plugin instance that has ended still has; the number of them.
pub fn sock_release_all(fs: &SockFs, owner: &Owner) -> usize {
    fs.take_all(owner).into_iter().map(forget).count()
}

/// Out of its namespace's list. Closed here, unless it is being shut at this moment.
fn forget(socket: Arc<Socket>) {
    if let Some(net) = socket.net.upgrade() {
        net.remove_socket(&socket);
    }
}

/// The end of a connection that is a plugin's own: in no namespace, so that it ends with its plugin or when it is released.
///
/// # Errors
/// `ENFILE`.
pub fn sock_adopt(
    fs: &Arc<SockFs>,
    net: &Arc<Net>,
    owner: &Arc<Owner>,
    (family, kind): (&Family, i32),
    sock: Box<dyn Sock>,
    born: Instant,
) -> Result<Arc<Socket>, Failure> {
    let new = New { owner, family: SockFamily::Plugin(family.name.clone()), kind, protocol: 0, born };
    let socket = new.finish(net, fs.alloc()?, sock);
    fs.insert(&socket);
    Ok(socket)
}

/// Somebody connects to a family that a plugin offers: it is told inside the namespace, as by a hook, and given its end.
///
/// # Errors
/// `EAFNOSUPPORT` where the plugin does not act in that namespace, or has panicked; `ESTALE` where the namespace is going;
/// `ENFILE`; those of a plugin's work (see [`super::work_in`]); what the plugin answers. The end is closed then.
pub fn sock_connect(
    list: &PernetList,
    token: Option<&ReadToken>,
    fs: &Arc<SockFs>,
    (net, family): (&Arc<Net>, &Family),
    call: Call,
    patience: Duration,
) -> Result<(), Failure> {
    let owner = &family.owner;
    let absent = |why: &str| {
        let what = format!("protocol family `{}`: plugin `{}` {why}", family.name, owner.name);
        Failure::new(EAFNOSUPPORT, what)
    };
    if owner.poisoned() {
        return Err(absent("has panicked"));
    }
    if net.dying() {
        return Err(going(net));
    }
    net.check_joined(owner).map_err(|_| absent(&format!("does not act in `{}`", net.name())))?;
    let Call { kind, sock, peer, born } = call;
    hook_in(list, token, std::slice::from_ref(net), (owner, "sock.connected"), patience, |at| {
        let at = at.first().ok_or_else(|| absent("does not act there"))?;
        let new = New { owner, family: SockFamily::Plugin(family.name.clone()), kind, protocol: 0, born };
        let socket = publish(fs, net, new.finish(net, fs.alloc()?, sock))?;
        let connection = Connection { socket: socket.clone(), peer };
        let answer = family.ops.connected(at, &connection);
        if answer.is_err() {
            // Where the plugin was not called, or is not written in Rust, it is ours to end.
            let _ = sock_release(fs, owner, socket.ino());
        }
        answer
    })
}

/// What somebody who connects brings along.
pub struct Call {
    /// `SOCK_STREAM`, `SOCK_DGRAM` or `SOCK_SEQPACKET`.
    pub kind: i32,
    /// The end that the plugin gets.
    pub sock: Box<dyn Sock>,
    /// Who has the other.
    pub peer: Ucred,
    /// When.
    pub born: Instant,
}

impl Walk {
    /// A plugin has gone from a net: what it left open there is shut, and told.
    pub(super) fn shut_sockets(&self, net: &Net, owner: &Owner) {
        for socket in net.take_sockets(owner) {
            net.namespace().left_open(&socket);
            if let Err(failure) = socket.shut() {
                self.complain(own_error(net, "sock.release", failure));
            }
        }
    }
}
