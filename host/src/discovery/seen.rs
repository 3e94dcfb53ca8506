//! What names show, read from the names themselves, and what was told already.
//!
//! Both methods only decide where to look and when; this is the look. A name counts when a network namespace is mounted
//! on it: not a placeholder, not a symbolic link, not what lies hidden below another mount. Only changes are told.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use pernet_plugin_api::NetCookie;

use super::{NamedNs, Observation};
use crate::linux::ns::Pin;
use crate::linux::nsfs::{self, Handle};

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
        Seen { told: HashMap::new(), handles: handles && nsfs::available().is_ok(), nsfs }
    }

    /// The names that were told.
    pub(super) fn names(&self) -> impl Iterator<Item = &Path> {
        self.told.keys().map(PathBuf::as_path)
    }

    /// The inode of the namespace that the name was told to show.
    pub(super) fn inode(&self, path: &Path) -> Option<u64> {
        self.told.get(path).map(|key| key.inode)
    }

    /// Looks at these names; returns what changed.
    pub(super) fn look_again(&mut self, touched: HashSet<PathBuf>) -> Vec<Observation> {
        touched.into_iter().filter_map(|path| self.look(path)).collect()
    }

    /// Looks at one name; returns what changed, if anything did.
    pub(super) fn look(&mut self, path: PathBuf) -> Option<Observation> {
        let shown = self.shown(&path);
        match shown {
            Some(shown) if self.told.get(&path) == Some(&shown.key()) => None,
            Some(shown) => {
                self.told.insert(path.clone(), shown.key());
                Some(Observation::Name(NamedNs { path, identity: shown.identity() }))
            }
            None => self.told.remove(&path).map(|_| Observation::NoName(path)),
        }
    }

    /// Looks at these names; they and no others count from now on.
    pub(super) fn snapshot(&mut self, names: HashSet<PathBuf>) -> Observation {
        self.told.clear();
        let mut found = Vec::with_capacity(names.len());
        for path in names {
            if let Some(shown) = self.shown(&path) {
                self.told.insert(path.clone(), shown.key());
                found.push(NamedNs { path, identity: shown.identity() });
            }
        }
        Observation::Snapshot(found)
    }

    /// What is gone already shows nothing; that is no error.
    fn shown(&self, path: &Path) -> Option<Shown> {
        if self.handles {
            return match nsfs::handle(path) {
                Ok(handle) => handle.map(Shown::ByHandle),
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
        Some((NetCookie(handle.id()), nsfs::open(handle).ok()?.into()))
    }
}

fn complain(path: &Path, error: &io::Error) -> Option<Shown> {
    if error.kind() != io::ErrorKind::NotFound {
        tracing::warn!(path = %path.display(), %error, "cannot look at a name; taken for absent");
    }
    None
}
