//! `pernetfs`: what is running, as files. The kernel's counterpart is `/proc`: one value per file, made when it is read.
//!
//! A mount for a namespace shows that namespace's folder only. Who may read is what `control.read` says, as over the
//! control socket; nobody writes. What there is, is in `tree.rs`; the values are those that a client gets.

mod tree;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam_channel::Sender;
use pernet_plugin_api::{DirEntry, FileAttr, FileCaller, OpenFile};

use crate::config::ControlRead;
use crate::engine::{Failure, FileSystem, FileSystemType, MountRequest, SuperBlock};
use crate::linux::peer;

use super::Event;
use super::ask::Ask;
use super::inodes::Inodes;
use tree::{Node, Tree};

/// Its name.
const NAME: &str = "pernetfs";

/// The type, as it is registered.
pub(super) fn new(events: Sender<Event>, readers: &Arc<Readers>) -> Arc<FileSystemType> {
    let ops = PernetFs { events, readers: Arc::clone(readers) };
    Arc::new(FileSystemType::new(NAME, "pernetd", Box::new(ops)))
}

/// Who may read the files: owner, group and permission bits of a file and of a folder.
pub(super) struct Readers(RwLock<(u32, u32)>);

impl Readers {
    /// Those of `control.read`. A group that does not exist has no members.
    pub(super) fn new(read: &ControlRead) -> Readers {
        Readers(RwLock::new(Readers::judged(read)))
    }

    /// The configuration has changed.
    pub(super) fn set(&self, read: &ControlRead) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Readers::judged(read);
    }

    fn judged(read: &ControlRead) -> (u32, u32) {
        match read {
            ControlRead::Root => (0, 0o700),
            ControlRead::All => (0, 0o777),
            ControlRead::Group(name) => match peer::group_id(name) {
                Ok(Some(id)) => (id, 0o770),
                _ => (0, 0o700),
            },
        }
    }

    fn permit(&self, attr: FileAttr) -> FileAttr {
        let (gid, mask) = *self.0.read().unwrap_or_else(PoisonError::into_inner);
        let attr = FileAttr { mode: attr.mode & (!0o777 | mask), ..attr };
        // Root, and the daemon's own user.
        attr.with_owner(rustix::process::geteuid().as_raw(), gid)
    }
}

struct PernetFs {
    events: Sender<Event>,
    readers: Arc<Readers>,
}

impl FileSystem for PernetFs {
    fn mount(&self, request: &MountRequest, _: bool) -> Result<Box<dyn SuperBlock>, Failure> {
        if !request.options.is_empty() {
            let what = format!("{NAME} has no option `{}`", request.options);
            return Err(Failure::new(libc::EINVAL, what));
        }
        let tree = Tree::new(Ask::new(self.events.clone()));
        let root = match (&request.netns, request.net) {
            (Some(netns), Some(_)) => tree.namespace(netns)?,
            _ => Node::Root,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Box::new(Super {
            tree,
            inodes: Inodes::new(root),
            readers: Arc::clone(&self.readers),
            mounted: i64::try_from(now).unwrap_or_default(),
            open: Mutex::default(),
            last: AtomicU64::new(0),
        }))
    }
}

struct Super {
    tree: Tree,
    inodes: Inodes<Node>,
    readers: Arc<Readers>,
    /// In seconds since 1970: the time of every file, so that who compares it sees no change while he reads.
    mounted: i64,
    /// What open files have shown so far: a reader gets one state, in however many pieces he reads it.
    open: Mutex<HashMap<u64, Option<Arc<str>>>>,
    last: AtomicU64,
}

impl Super {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, Option<Arc<str>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file that is not there any more shows at its content; a folder is for the caller to look after.
    fn attr(&self, ino: u64, node: &Node) -> Result<FileAttr, Failure> {
        let attr = if node.is_directory() {
            FileAttr::directory(ino, 0o555)
        } else {
            FileAttr::file(ino, 0o444).with_size(self.tree.content(node)?.len() as u64)
        };
        Ok(self.readers.permit(attr).with_mtime(self.mounted))
    }
}

impl SuperBlock for Super {
    fn getattr(&self, ino: u64) -> Result<FileAttr, Failure> {
        let node = self.inodes.node(ino)?;
        self.tree.check(&node)?;
        self.attr(ino, &node)
    }

    fn lookup(&self, _: FileCaller, parent: u64, name: &str) -> Result<FileAttr, Failure> {
        let node = self.tree.child(&self.inodes.node(parent)?, name)?;
        let attr = self.attr(self.inodes.number(&node), &node)?;
        Ok(FileAttr { ino: self.inodes.look_up(&node), ..attr })
    }

    fn forget(&self, ino: u64, lookups: u64) {
        self.inodes.forget(ino, lookups);
    }

    fn readdir(&self, _: FileCaller, ino: u64) -> Result<Vec<DirEntry>, Failure> {
        let children = self.tree.children(&self.inodes.node(ino)?)?;
        let entry = |(name, node): (String, Node)| {
            let ino = self.inodes.number(&node);
            if node.is_directory() { DirEntry::directory(ino, name) } else { DirEntry::file(ino, name) }
        };
        Ok(children.into_iter().map(entry).collect())
    }

    fn open(&self, _: FileCaller, ino: u64, flags: i32) -> Result<u64, Failure> {
        self.inodes.node(ino)?;
        // Root is not held up by permission bits.
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            return Err(Failure::new(libc::EACCES, "what is running is only to be read here; use pernetctl"));
        }
        let handle = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open().insert(handle, None);
        Ok(handle)
    }

    fn read(&self, file: OpenFile, offset: u64, len: usize) -> Result<Vec<u8>, Failure> {
        let shown = self.open().get(&file.handle).cloned().flatten().filter(|_| offset > 0);
        let content = match shown {
            Some(content) => content,
            None => {
                let content: Arc<str> = self.tree.content(&self.inodes.node(file.ino)?)?.into();
                if let Some(open) = self.open().get_mut(&file.handle) {
                    *open = Some(Arc::clone(&content));
                }
                content
            }
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let to = from.saturating_add(len).min(content.len());
        Ok(content.as_bytes()[from..to].to_vec())
    }

    fn truncate(&self, _: FileCaller, _: u64, _: u64) -> Result<FileAttr, Failure> {
        Err(Failure::new(libc::EACCES, "what is running is only to be read here"))
    }

    fn release(&self, file: OpenFile) -> Result<(), Failure> {
        self.open().remove(&file.handle);
        Ok(())
    }

    fn kill_sb(&self) -> Result<(), Failure> {
        Ok(())
    }
}
