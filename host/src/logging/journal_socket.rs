//! The way to the journal: its native socket, one datagram per entry, a sealed memfd for what is larger than a datagram.
//!
//! It is used where standard error is the journal's already, as `JOURNAL_STREAM` says. Nobody waits for it for long: a
//! journal that takes nothing is waited for once ([`PATIENCE`]); from then on entries are offered without waiting, until
//! one is taken. The address is looked up for each entry, so that a journal which comes back is found. What becomes of an
//! entry that cannot be delivered is [`super`]'s business.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, memfd_create};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr, sendto};

/// Where systemd's journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// How long an entry waits for a journal that is behind: a hook waits with it.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// The journal.
pub(super) struct Journal {
    socket: UnixDatagram,
    address: SocketAddrUnix,
    /// The last entry was not taken in time.
    stalled: AtomicBool,
}

impl Journal {
    /// If that is where standard error goes. It is no more once somebody has redirected it, though the variable is there.
    pub(super) fn behind_stderr() -> Option<Journal> {
        let told = std::env::var("JOURNAL_STREAM").ok()?;
        let (device, inode) = told.split_once(':')?;
        let stream = fstat(io::stderr()).ok()?;
        let is_it = device.parse() == Ok(stream.st_dev) && inode.parse() == Ok(stream.st_ino);
        if is_it { Journal::at(Path::new(SOCKET)).ok() } else { None }
    }

    fn at(path: &Path) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Journal { socket, address: SocketAddrUnix::new(path)?, stalled: AtomicBool::new(false) })
    }

    /// Hands an entry over.
    pub(super) fn send(&self, entry: &[u8]) -> io::Result<()> {
        let waits = if self.stalled.load(Ordering::Relaxed) { SendFlags::DONTWAIT } else { SendFlags::empty() };
        let flags = waits | SendFlags::NOSIGNAL;
        let sent = match sendto(&self.socket, entry, flags, &self.address) {
            // The second: no memory for one that large in one piece.
            Err(Errno::MSGSIZE | Errno::NOBUFS) => self.send_large(entry, flags),
            sent => sent.map(drop).map_err(io::Error::from),
        };
        let in_vain = sent.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
        self.stalled.store(in_vain, Ordering::Relaxed);
        sent
    }

    /// The journal maps only what nobody can change any more.
    fn send_large(&self, entry: &[u8], flags: SendFlags) -> io::Result<()> {
        let mut file = File::from(memfd_create("pernetd-log", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        file.write_all(entry)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        sendmsg_addr(&self.socket, &self.address, &[IoSlice::new(&[])], &mut control, flags)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_journal_that_hangs_is_waited_for_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let there = UnixDatagram::bind(&path).expect("a socket");
        let journal = Journal::at(&path).expect("the same socket");
        let began = Instant::now();
        let taken = (0..100_000).take_while(|_| journal.send(b"MESSAGE=x\n").is_ok()).count();
        assert!(began.elapsed() >= PATIENCE && taken < 100_000, "it was waited for");
        let began = Instant::now();
        assert!((0..1000).all(|_| journal.send(b"MESSAGE=x\n").is_err()));
        assert!(began.elapsed() < PATIENCE, "and not again: {:?}", began.elapsed());
        let mut entry = [0; 64];
        for _ in 0..taken {
            there.recv(&mut entry).expect("what was taken");
        }
        journal.send(b"MESSAGE=y\n").expect("it is back");
        let length = there.recv(&mut entry).expect("that");
        assert_eq!(&entry[..length], b"MESSAGE=y\n");
    }

    #[test]
    fn a_journal_that_comes_back_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let journal = Journal::at(&path).expect("no socket yet");
        assert!(journal.send(b"MESSAGE=x\n").is_err());
        let first = UnixDatagram::bind(&path).expect("a socket");
        journal.send(b"MESSAGE=x\n").expect("the first");
        drop(first);
        assert!(journal.send(b"MESSAGE=x\n").is_err(), "nobody listens");
        std::fs::remove_file(&path).expect("its name");
        let second = UnixDatagram::bind(&path).expect("another");
        journal.send(b"MESSAGE=x\n").expect("the second");
        assert_eq!(second.recv(&mut [0; 64]).expect("that"), 10);
    }
}
