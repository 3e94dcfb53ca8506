//! An entry that somebody opened: who may (K7.5), and what remains of it when its table has gone (K7.6).
//!
//! A file belongs to the table of the time when it was opened, whatever is registered there later (K7.1). It keeps a
//! position, which several callers may share; who keeps his own uses [`CtlFile::read_at`] and [`CtlFile::write_at`].

use std::sync::atomic::{AtomicU64, Ordering};

use super::ctl_table::{CtlEntry, PAGE};
use super::failure::{EACCES, EPERM, Failure};
use super::sysctl::CtlNode;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub uid: u32,
    /// Group; 0 for who is in root's group besides.
    pub gid: u32,
    /// Has the owner's rights, whoever it is: the kernel's `CAP_NET_ADMIN` in the namespace's user namespace.
    pub privileged: bool,
}

impl Credentials {
    /// The daemon itself.
    pub const DAEMON: Credentials = Credentials { uid: 0, gid: 0, privileged: true };
}

/// What an entry is opened for. Bits as in a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtlAccess {
    /// To be run: never granted.
    Execute = 1,
    /// To be written.
    Write = 2,
    /// To be read.
    Read = 4,
    /// Both.
    ReadWrite = 6,
}

/// Whether a mode lets somebody do this (K7.5): the owner's bits count for the privileged and for uid 0, the group's for
/// gid 0, else the others'.
#[must_use]
pub fn sysctl_perm(mode: u16, who: &Credentials, access: CtlAccess) -> bool {
    let bits = match who {
        _ if who.privileged || who.uid == 0 => mode >> 6,
        _ if who.gid == 0 => mode >> 3,
        _ => mode,
    };
    let wanted = access as u16;
    wanted & !bits == 0
}

/// An open entry.
#[derive(Debug)]
pub struct CtlFile {
    node: CtlNode,
    position: AtomicU64,
}

impl CtlFile {
    /// Opens an entry.
    ///
    /// # Errors
    /// `EACCES` where its mode does not allow that: to nobody, if no bit does.
    pub fn open(node: CtlNode, who: &Credentials, access: CtlAccess) -> Result<CtlFile, Failure> {
        permitted(EACCES, node.entry(), who, access)?;
        Ok(CtlFile { node, position: AtomicU64::new(0) })
    }

    /// What it is of.
    #[must_use]
    pub fn node(&self) -> &CtlNode {
        &self.node
    }

    /// Reads on.
    ///
    /// # Errors
    /// `ENOENT` if its table is unregistered, `EPERM` where its mode does not allow it, what its handler answers.
    pub fn read(&self, who: &Credentials, count: usize) -> Result<Vec<u8>, Failure> {
        self.move_on(|position| self.read_at(who, position, count))
    }

    /// Writes on; how many bytes were taken.
    ///
    /// # Errors
    /// As [`CtlFile::read`]; `EINVAL` for what the entry does not take, `ENOMEM` for more than a page.
    pub fn write(&self, who: &Credentials, bytes: &[u8]) -> Result<usize, Failure> {
        self.move_on(|position| self.write_at(who, position, bytes))
    }

    /// Reads at a position of the caller's, which moves on as the entry's kind moves it.
    ///
    /// # Errors
    /// As [`CtlFile::read`].
    pub fn read_at(&self, who: &Credentials, position: &mut u64, count: usize) -> Result<Vec<u8>, Failure> {
        let may = |entry: &CtlEntry| permitted(EPERM, entry, who, CtlAccess::Read);
        self.node.header().read(self.node.index(), position, count, may)
    }

    /// Writes at a position of the caller's, likewise.
    ///
    /// # Errors
    /// As [`CtlFile::write`].
    pub fn write_at(&self, who: &Credentials, position: &mut u64, bytes: &[u8]) -> Result<usize, Failure> {
        let may = |entry: &CtlEntry| permitted(EPERM, entry, who, CtlAccess::Write);
        self.node.header().write(self.node.index(), position, bytes, may)
    }

    /// Two at once on the same file both begin where it was: no lock is held while a handler runs. After an error the
    /// position is as before.
    fn move_on<T>(&self, act: impl FnOnce(&mut u64) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut position = self.position.load(Ordering::Acquire);
        let answer = act(&mut position)?;
        self.position.store(position, Ordering::Release);
        Ok(answer)
    }
}

impl CtlNode {
    /// Writes a value as the daemon itself does. Unlike a write, a refusal leaves a vector as it was, whole.
    ///
    /// # Errors
    /// As [`CtlFile::open`] and [`CtlFile::write`].
    pub fn set(&self, bytes: &[u8]) -> Result<usize, Failure> {
        let daemon = &Credentials::DAEMON;
        let file = CtlFile::open(self.clone(), daemon, CtlAccess::Write)?;
        let is_vector = self.entry().kind.range().is_some() && self.entry().len > 1;
        let before = if is_vector { Some(self.header().read(self.index(), &mut 0, PAGE, |_| Ok(()))?) } else { None };
        file.write(daemon, bytes).inspect_err(|_| {
            if let Some(before) = &before {
                // What was read just now is taken, or nothing more can be done.
                let _ = file.write_at(daemon, &mut 0, before);
            }
        })
    }
}

fn permitted(errno: i32, entry: &CtlEntry, who: &Credentials, access: CtlAccess) -> Result<(), Failure> {
    if sysctl_perm(entry.mode, who, access) {
        return Ok(());
    }
    let what = format!("the mode {:04o} of {} does not allow that", entry.mode, entry.name);
    Err(Failure::new(errno, what))
}
