//! sockfs: the inode behind every socket, and the list of them all.
//!
//! Mirrors `sockfs` of `net/socket.c`: an inode is taken from a cache, has a number that is never given again (K6.6), and
//! is given back when its socket is released. It is a file system type, for internal mounts only (K6.5), whose files are
//! the sockets. It owns the numbers and the bound; what a socket is, is `socket.rs`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pernet_plugin_api::{DirEntry, FileAttr, FileCaller};

use super::failure::{EBADF, ENFILE, ENOENT, Failure};
use super::filesystem::FileSystemType;
use super::member::Owner;
use super::socket::Socket;
use super::superblock::{FileSystem, MountRequest, ROOT_INO, SuperBlock};

/// `S_IFSOCK | 0777` (K6.6).
pub const SOCK_MODE: u32 = 0o140_777;
/// `S_IFDIR | 0600`: the root of a pseudo file system (K6.5).
const ROOT_MODE: u32 = 0o040_600;

/// The file system of sockets.
pub struct SockFs {
    /// The next number; the root has the first (K6.5).
    next: AtomicU64,
    in_use: AtomicUsize,
    most: AtomicUsize,
    /// User and group of whoever makes the sockets.
    creator: (u32, u32),
    /// Those that somebody may name, shut ones included. Held for a look-up only: closing a descriptor takes time.
    inodes: Mutex<HashMap<u64, Arc<Socket>>>,
}

impl SockFs {
    /// An empty one, of at most so many inodes, which belong to this user and group (`fsuid`, `fsgid`).
    #[must_use]
    pub fn new(most: usize, creator: (u32, u32)) -> Arc<Self> {
        let (next, in_use) = (AtomicU64::new(ROOT_INO + 1), AtomicUsize::new(0));
        Arc::new(SockFs { next, in_use, most: AtomicUsize::new(most), creator, inodes: Mutex::default() })
    }

    /// From now on there may be so many; what is there beyond that stays.
    pub fn set_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    fn inodes(&self) -> MutexGuard<'_, HashMap<u64, Arc<Socket>>> {
        self.inodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `sock_alloc_inode`; it is given back when what is returned is dropped.
    pub(super) fn alloc(self: &Arc<Self>) -> Result<Inode, Failure> {
        let most = self.most.load(Ordering::Relaxed);
        let one_more = |used: usize| (used < most).then_some(used + 1);
        self.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).map_err(|used| {
            let what = format!("plugins have {used} sockets, and may have no more; raise max_sockets");
            Failure::new(ENFILE, what)
        })?;
        let ino = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(Inode { ino, fs: self.clone() })
    }

    /// Inodes that are not given back yet.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    /// All sockets, oldest first.
    #[must_use]
    pub fn sockets(&self) -> Vec<Arc<Socket>> {
        let mut all: Vec<_> = self.inodes().values().cloned().collect();
        all.sort_unstable_by_key(|socket| socket.ino());
        all
    }

    /// The socket with this number.
    #[must_use]
    pub fn find(&self, ino: u64) -> Option<Arc<Socket>> {
        self.inodes().get(&ino).cloned()
    }

    pub(super) fn insert(&self, socket: &Arc<Socket>) {
        self.inodes().insert(socket.ino(), socket.clone());
    }

    /// Whoever takes it out is who releases it.
    pub(super) fn take(&self, owner: &Owner, ino: u64) -> Result<Arc<Socket>, Failure> {
        let mut inodes = self.inodes();
        let mine = inodes.get(&ino).is_some_and(|socket| std::ptr::eq(&raw const *socket.owner, owner));
        let taken = if mine { inodes.remove(&ino) } else { None };
        taken.ok_or_else(|| {
            let what = format!("plugin `{}` has no socket:[{ino}], or has released it before", owner.name);
            Failure::new(EBADF, what)
        })
    }

    /// The same for all that a plugin has.
    pub(super) fn take_all(&self, owner: &Owner) -> Vec<Arc<Socket>> {
        let mine = |_: &u64, socket: &mut Arc<Socket>| std::ptr::eq(&raw const *socket.owner, owner);
        self.inodes().extract_if(mine).map(|(_, socket)| socket).collect()
    }
}

/// An inode in use.
pub(super) struct Inode {
    pub(super) ino: u64,
    fs: Arc<SockFs>,
}

impl Drop for Inode {
    fn drop(&mut self) {
        self.fs.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The file system type, each of whose mounts shows the same sockets.
#[must_use]
pub fn sock_fs_type(fs: &Arc<SockFs>, owner: &str) -> FileSystemType {
    FileSystemType::new("sockfs", owner, Box::new(SockSuper(fs.clone()))).for_internal_mounts()
}

struct SockSuper(Arc<SockFs>);

impl SockSuper {
    fn attr(&self, ino: u64, mode: u32) -> FileAttr {
        let (uid, gid) = self.0.creator;
        FileAttr { ino, mode, nlink: 1, uid, gid, size: 0, mtime: 0 }
    }
}

impl FileSystem for SockSuper {
    fn mount(&self, _: &MountRequest, _: bool) -> Result<Box<dyn SuperBlock>, Failure> {
        Ok(Box::new(SockSuper(self.0.clone())))
    }
}

fn none() -> Failure {
    Failure::new(ENOENT, "there is no such socket, or no longer")
}

impl SuperBlock for SockSuper {
    fn getattr(&self, ino: u64) -> Result<FileAttr, Failure> {
        if ino == ROOT_INO {
            return Ok(self.attr(ino, ROOT_MODE));
        }
        self.0.find(ino).map(|_| self.attr(ino, SOCK_MODE)).ok_or_else(none)
    }

    fn lookup(&self, _: FileCaller, _: u64, name: &str) -> Result<FileAttr, Failure> {
        let number = name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        let ino = number.and_then(|number| number.parse().ok()).ok_or_else(none)?;
        // One socket has one name, without zeros or a sign before it; the root is no socket.
        self.0.find(ino).filter(|socket| socket.to_string() == name).ok_or_else(none)?;
        self.getattr(ino)
    }

    fn readdir(&self, _: FileCaller, _: u64) -> Result<Vec<DirEntry>, Failure> {
        let entry = |socket: Arc<Socket>| DirEntry { ino: socket.ino(), mode: SOCK_MODE, name: socket.to_string() };
        Ok(self.0.sockets().into_iter().map(entry).collect())
    }

    fn kill_sb(&self) -> Result<(), Failure> {
        Ok(())
    }
}
