//! `sock connect`: a connection to a protocol family that a plugin offers, for a program or for standard input and output.
//!
//! The pair of sockets is made here, and one end handed over: so the connection is the caller's own from the start, and
//! the daemon is not in the middle of it.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::connection::Connection;
use super::failure::Failure;
use crate::control::wire::generated::{SockConnect_Args, SockConnect_Reply};

/// More than a datagram of a Unix socket has by default.
const CHUNK: usize = 256 * 1024;

/// How long datagrams are waited for when there is nothing more to say.
const SILENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// A connection's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SockType {
    /// Bytes in order.
    Stream,
    /// Messages.
    Dgram,
    /// Messages, with an end.
    Seqpacket,
}

impl SockType {
    fn raw(self) -> SocketType {
        match self {
            SockType::Stream => SocketType::STREAM,
            SockType::Dgram => SocketType::DGRAM,
            SockType::Seqpacket => SocketType::SEQPACKET,
        }
    }
}

impl fmt::Display for SockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SockType::Stream => "stream",
            SockType::Dgram => "dgram",
            SockType::Seqpacket => "seqpacket",
        })
    }
}

/// Connects to a protocol family that a plugin offers in a namespace, through the daemon whose control socket is in
/// `runtime_dir`. What is returned is one end of a pair of Unix sockets, close-on-exec, of which the plugin has the other:
/// a stream is `UnixStream::from(it)`, datagrams are `UnixDatagram::from(it)`. The daemon sees nothing of what passes.
///
/// # Errors
/// The daemon is not reachable, the caller may not (it must be root or the daemon's user), there is no such namespace or
/// family, or the plugin refuses; the text says what, where, and what to do.
pub fn sock_connect(runtime_dir: &Path, netns: &str, family: &str, kind: SockType) -> Result<OwnedFd, Failure> {
    let failed = |e| Failure::new(format!("protocol family {family}"), format!("no pair of sockets: {e}"), "try again");
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind.raw(), SocketFlags::CLOEXEC, None).map_err(failed)?;
    let mut daemon = Connection::open(runtime_dir)?;
    let (netns, family) = (netns.to_owned(), family.to_owned());
    let arguments = SockConnect_Args { netns, family, r#type: kind.to_string() };
    daemon.send("SockConnect", &arguments, false, Some(theirs.as_fd()))?;
    // The plugin shall be the only one who has it: else its end would not be seen here.
    drop(theirs);
    daemon.receive::<SockConnect_Reply>()?;
    Ok(ours)
}

/// Copies standard input to the socket and the socket to standard output, until the other side ends.
pub(super) fn relay(socket: &OwnedFd, kind: SockType) -> io::Result<()> {
    // Reads and writes of a stream are those of any connected socket: one call, one message.
    let (mut from, to) = (UnixStream::from(socket.try_clone()?), UnixStream::from(socket.try_clone()?));
    let (said, saying) = io::pipe()?;
    // Not joined: it may be waiting for a terminal when the other side has ended.
    thread::spawn(move || {
        tell(&to, kind);
        drop(saying);
    });
    let (mut out, mut chunk) = (io::stdout().lock(), vec![0; CHUNK]);
    let mut said_all = false;
    loop {
        let patience = (said_all && kind == SockType::Dgram).then_some(&SILENCE);
        let mut fds = [PollFd::new(&from, PollFlags::IN), PollFd::new(&said, PollFlags::IN)];
        let watched = if said_all { 1 } else { 2 };
        match poll(&mut fds[..watched], patience) {
            Ok(0) => return Ok(()),
            Err(Errno::INTR) => continue,
            ready => drop(ready?),
        }
        said_all |= !fds[1].revents().is_empty();
        if fds[0].revents().is_empty() {
            continue;
        }
        match from.read(&mut chunk) {
            // An empty datagram is no end.
            Ok(0) if kind != SockType::Dgram => return Ok(()),
            Ok(len) => {
                out.write_all(&chunk[..len])?;
                out.flush()?;
            }
            // It has ended without reading what it was told last.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Standard input, message by message; then its end.
fn tell(mut to: &UnixStream, kind: SockType) {
    let (mut input, mut chunk) = (io::stdin().lock(), vec![0; CHUNK]);
    loop {
        match input.read(&mut chunk) {
            Ok(0) => break,
            // The other side has ended.
            Ok(len) if to.write_all(&chunk[..len]).is_err() => return,
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    if kind != SockType::Dgram {
        let _ = to.shutdown(Shutdown::Write);
    }
}
