//! What names show, read from the names themselves, and what was told already.
//!
//! Both methods only decide where to look and when; this is the look. A name counts when a network namespace is mounted
//! on it: not a placeholder, not a symbolic link, not what lies hidden below another mount. Only changes are told. Every
//! look at a name holds its mount for a moment, so what the mount table tells already is not asked again.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use pernet_plugin_api::NetCookie;

use super::{NamedNs, Observation};
use crate::linux::ns::Pin;
use crate::linux::nsfs::{self, Finder, Handle};
use crate::logging::catalog;

/// What tells one namespace from another. The id is never reused, but 0 where the kernel does not give it. The inode is
/// reused only after its namespace has ended, and who was told of a name holds that namespace until told that it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    id: u64,
    inode: u64,
}

#[derive(Debug)]
pub(super) struct Seen {
    told: HashMap<PathBuf, Key>,
    /// Ask by handle; else by inode.
    handles: bool,
    finder: Finder,
    /// The device number of nsfs.
    nsfs: u64,
}

/// What a name shows now.
enum Shown {
    ByHandle(Handle),
    ByInode(u64),
}

impl Seen {
    pub(super) fn new(handles: bool) -> Seen {
        let nsfs = rustix::fs::stat("/proc/self/ns/net").map_or(0, |own| own.st_dev);
        Seen { told: HashMap::new(), handles: handles && nsfs::available().is_ok(), finder: Finder::default(), nsfs }
    }

    /// The names that were told.
    pub(super) fn names(&self) -> impl Iterator<Item = &Path> {
        self.told.keys().map(PathBuf::as_path)
    }

    /// The inode of the namespace that the name was told to show.
    pub(super) fn inode(&self, path: &Path) -> Option<u64> {
        self.told.get(path).map(|key| key.inode)
    }

    /// Looks at one name; returns what changed, if anything did.
    pub(super) fn look(&mut self, path: PathBuf) -> Option<Observation> {
        match self.shown(&path) {
            Some(shown) if self.told.get(&path) == Some(&shown.key()) => None,
            Some(shown) => Some(self.tell(path, shown.key(), shown.identity())),
            None => self.gone(path),
        }
    }

    /// Nothing is mounted on the name.
    pub(super) fn gone(&mut self, path: PathBuf) -> Option<Observation> {
        self.told.remove(&path).map(|_| Observation::NoName(path))
    }

    /// The mount table says that the network namespace with this inode is on top. The name itself is asked only where
    /// that does not lead to the namespace.
    pub(super) fn shows(&mut self, path: PathBuf, inode: u64) -> Option<Observation> {
        let told = self.told.get(&path).copied().filter(|told| told.inode == inode);
        if !self.handles {
            return if told.is_some() { None } else { Some(self.tell(path, Key { id: 0, inode }, None)) };
        }
        match self.finder.find(inode, told.map(|told| told.id)) {
            Some((id, _)) if told.is_some_and(|told| told.id == id) => None,
            Some((id, fd)) => Some(self.tell(path, Key { id, inode }, identity(id, fd))),
            None => self.look(path),
        }
    }

    fn tell(&mut self, path: PathBuf, key: Key, identity: Option<(NetCookie, Pin)>) -> Observation {
        self.told.insert(path.clone(), key);
        Observation::Name(NamedNs { path, inode: key.inode, identity })
    }

    /// Looks at these names; they and no others count from now on.
    pub(super) fn snapshot(&mut self, names: HashSet<PathBuf>) -> Observation {
        self.told.clear();
        let mut found = Vec::with_capacity(names.len());
        for path in names {
            if let Some(shown) = self.shown(&path) {
                let key = shown.key();
                self.told.insert(path.clone(), key);
                found.push(NamedNs { path, inode: key.inode, identity: shown.identity() });
            }
        }
        Observation::Snapshot(found)
    }

    /// What is gone already shows nothing; that is no error.
    fn shown(&mut self, path: &Path) -> Option<Shown> {
        if self.handles {
            return match nsfs::handle(path) {
                Ok(handle) => handle.inspect(|handle| self.finder.learn(handle.id())).map(Shown::ByHandle),
                Err(error) => complain(path, &error),
            };
        }
        match rustix::fs::lstat(path) {
            Ok(stat) => (stat.st_dev == self.nsfs).then_some(Shown::ByInode(stat.st_ino)),
            Err(error) => complain(path, &error.into()),
        }
    }
}

impl Shown {
    fn key(&self) -> Key {
        match self {
            Shown::ByHandle(handle) => Key { id: handle.id(), inode: handle.inode() },
            Shown::ByInode(inode) => Key { id: 0, inode: *inode },
        }
    }

    /// `None` where a worker has to enter, or to say what is wrong with this namespace.
    fn identity(&self) -> Option<(NetCookie, Pin)> {
        let Shown::ByHandle(handle) = self else { return None };
        identity(handle.id(), nsfs::open(handle).ok()?)
    }
}

/// `None` where no descriptor is left for it, too.
fn identity(id: u64, fd: OwnedFd) -> Option<(NetCookie, Pin)> {
    Some((NetCookie(id), Pin::keep(fd).ok()?))
}

fn complain(path: &Path, error: &io::Error) -> Option<Shown> {
    if error.kind() != io::ErrorKind::NotFound {
        tracing::warn!(
            message_id = catalog::NAME_UNREADABLE,
            path = %path.display(),
            errno = error.raw_os_error(),
            "cannot look at the name {}: {error}; it is taken for absent",
            path.display()
        );
    }
    None
}
