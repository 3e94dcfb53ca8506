//! Sockets inside namespaces, and protocol families of a plugin's own.
//!
//! Mirrors `sock_create` and `sock_register`. The descriptor is the host's: [`Socket`] lends its number, and releases it.
//! What a plugin leaves open in a namespace, the host shuts when the namespace or the plugin goes, so that no namespace
//! lives on for a socket; rules K6.6 to K6.9 are the host's.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::abi::{ConnectCall, SockReturn};
use crate::host::accepted;
use crate::lent::Lent;
use crate::log::Caller;
use crate::{Error, Host, Net, NetCookie, Result};

/// A socket inside a namespace, usable from any thread, wherever that is: by [`AsFd`], with whichever crate one likes.
///
/// Dropping it closes it. One that is kept beyond the plugin's last exit in its namespace is shut by the host, and named
/// in its log: from then on its number leads to a socket whose other end is closed (a read gives 0, a write `EPIPE`), and
/// a thread that is blocked on it is woken. Drop it all the same. Keep no duplicate of the descriptor: nobody could take
/// the namespace from it.
pub struct Socket {
    caller: Caller,
    ino: u64,
    fd: Lent,
}

impl Socket {
    fn of(caller: Caller, answer: SockReturn) -> Result<Self> {
        let fd = Lent::answered(&answer);
        accepted(answer.status)?;
        let none = || Error::new(libc::EIO, "the daemon made a socket without a descriptor");
        Ok(Socket { caller, ino: answer.ino, fd: fd.ok_or_else(none)? })
    }

    /// Its inode in sockfs, by which `pernetctl sock list` and the log call it: `socket:[INO]`. Never given again.
    #[must_use]
    pub fn ino(&self) -> u64 {
        self.ino
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(release) = self.caller.host.sock_release() {
            // After the instance's end the host has released all of its sockets itself.
            let _ = release(self.caller.token, self.ino);
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "socket:[{}]", self.ino)
    }
}

/// A protocol family that a plugin offers by name; see [`crate::Registrar::sock_family`].
pub trait SocketFamily: Send + Sync + 'static {
    /// Somebody has connected in this namespace: `pernetctl sock connect`, another plugin, or a program that uses the
    /// control socket. Called inside the namespace, as a hook, so one at a time there: give the socket to a thread of the
    /// plugin's own, and return. That thread is started in `init`, at home: one that is started here stays in the namespace
    /// and keeps it alive.
    ///
    /// An error is told to whoever connects, and the connection is closed.
    fn connected(&self, net: &Net<'_>, connection: Connection) -> Result<()>;
}

/// A connection to a family.
#[derive(Debug)]
#[non_exhaustive]
pub struct Connection {
    /// This end of a pair of connected Unix sockets. Of datagrams, a reader does not see that the other side has ended; a
    /// write then is `ECONNREFUSED`.
    pub socket: Socket,
    /// `SOCK_STREAM`, `SOCK_DGRAM` or `SOCK_SEQPACKET`.
    pub kind: i32,
    /// Who has the other end: effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process, as the daemon sees it; 0 where it has no number there.
    pub pid: u32,
}

impl Connection {
    pub(crate) fn read(caller: Caller, call: &ConnectCall) -> Result<Self> {
        let none = || Error::new(libc::EIO, "the daemon brought a connection without a descriptor");
        let socket = Socket { caller, ino: call.ino, fd: Lent::brought(call).ok_or_else(none)? };
        Ok(Connection { socket, kind: call.kind, uid: call.uid, gid: call.gid, pid: call.pid })
    }
}

impl Net<'_> {
    /// Makes a socket in this namespace; the arguments are those of `socket(2)`. It is close-on-exec always.
    ///
    /// A plain `socket()` does the same in a hook, and would keep the namespace alive for as long as it is open: this one
    /// is shut by the host at the end, and seen in `pernetctl sock list`.
    ///
    /// # Errors
    /// As [`Host::sock_create`].
    pub fn sock_create(&self, family: i32, kind: i32, protocol: i32) -> Result<Socket> {
        create(self.caller(), self.cookie(), family, kind, protocol)
    }
}

impl Host {
    /// Makes a socket inside a namespace in which the plugin acts, from any thread, in a hook or not: nothing is waited
    /// for but the socket. The arguments are those of `socket(2)`.
    ///
    /// # Errors
    /// K6.9: `EAFNOSUPPORT` for a family that is none or that the kernel lacks, `EINVAL` for a type that is none, `ENFILE`
    /// if plugins have too many sockets, or what the kernel answers. `ENOENT` if the namespace is not managed, `ESTALE` if
    /// it is going, or the plugin does not act there (any more).
    pub fn sock_create(&self, net: NetCookie, family: i32, kind: i32, protocol: i32) -> Result<Socket> {
        create(self.caller(), net, family, kind, protocol)
    }

    /// Connects to a protocol family that some plugin offers, in a namespace; `kind` is `SOCK_STREAM`, `SOCK_DGRAM` or
    /// `SOCK_SEQPACKET`. The namespace is not kept alive by this end; when it goes, the other end is closed.
    ///
    /// Not for hooks: from one that may not wait for that namespace, and from `init`, it is `EDEADLK` or `EAGAIN` at once.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` if nobody offers the family there, `EINVAL` for another type, `ENOENT` if the namespace is not
    /// managed, and what the other plugin answers.
    pub fn sock_connect(&self, net: NetCookie, family: &str, kind: i32) -> Result<Socket> {
        let connect = self.caller().host.sock_connect().ok_or_else(missing)?;
        Socket::of(self.caller(), connect(self.caller().token, net.0, family.into(), kind))
    }
}

fn create(caller: Caller, net: NetCookie, family: i32, kind: i32, protocol: i32) -> Result<Socket> {
    let create = caller.host.sock_create().ok_or_else(missing)?;
    Socket::of(caller, create(caller.token, net.0, family, kind, protocol))
}

/// The host's table is older than what is asked for.
fn missing() -> Error {
    Error::new(libc::ENOSYS, "this pernetd is older than sockets of plugins' own; update it")
}
