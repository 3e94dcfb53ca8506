//! sockfs: the inode behind every socket, and the list of them all.
//!
//! Mirrors the socket half of `sockfs`: an inode is taken from a cache, has a number that is never given again (K6.6),
//! and is given back when its socket is released. It owns the numbers and the bound; what a socket is, is `socket.rs`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::failure::{EBADF, ENFILE, Failure};
use super::member::Owner;
use super::socket::Socket;

/// `S_IFSOCK | 0777` (K6.6).
pub const SOCK_MODE: u32 = 0o140_777;

/// The file system of sockets.
pub struct SockFs {
    /// The next number; 1 is the root's (K6.5).
    next: AtomicU64,
    in_use: AtomicUsize,
    most: usize,
    /// Those that somebody may name, shut ones included. Held for a look-up only: closing a descriptor takes time.
    inodes: Mutex<HashMap<u64, Arc<Socket>>>,
}

impl SockFs {
    /// An empty one, of at most so many inodes.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        let (next, in_use) = (AtomicU64::new(2), AtomicUsize::new(0));
        Arc::new(SockFs { next, in_use, most, inodes: Mutex::default() })
    }

    fn inodes(&self) -> MutexGuard<'_, HashMap<u64, Arc<Socket>>> {
        self.inodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `sock_alloc_inode`; it is given back when what is returned is dropped.
    pub(super) fn alloc(self: &Arc<Self>) -> Result<Inode, Failure> {
        let one_more = |used: usize| (used < self.most).then_some(used + 1);
        self.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).map_err(|used| {
            let what = format!("plugins have {used} sockets, and may have no more; raise the limit of open files");
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
