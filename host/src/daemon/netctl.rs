//! `netctl`: the sysctls of pernetd and its plugins as files. The kernel's counterpart is `/proc/sys/net`.
//!
//! A mount for a namespace shows its sysctls; one for none has a folder for each namespace. What a file does is what the
//! entry's handler does (K7.7 to K7.11), and who may is judged as there (K7.5). Files have the size of their value, which
//! the kernel's do not, so that an archive of them is one.
//!
//! The kernel moves a file's position by what was written; an entry's kind may move it otherwise (K7.10). So an open file
//! keeps a position of its own, which counts for as long as nobody seeks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam_channel::Sender;
use pernet_plugin_api::{DirEntry, FileAttr, FileCaller, NetCookie, OpenFile};

use crate::engine::{
    Credentials, CtlAccess, CtlFile, CtlFound, CtlNode, Failure, FileSystem, FileSystemType, MountRequest, Net,
    SuperBlock, sysctl_perm,
};
use crate::linux::process;

use super::Event;
use super::ask::Ask;
use super::file_names::{file_name, real_name};
use super::inodes::Inodes;
use super::services::Places;

/// Its name.
const NAME: &str = "netctl";
/// As much of a value as is looked at for its size.
const VALUE: usize = 64 << 10;

/// The type, as it is registered.
pub(super) fn new(events: Sender<Event>, places: &Arc<Places>) -> Arc<FileSystemType> {
    let ops = NetCtl { events, places: Arc::clone(places) };
    Arc::new(FileSystemType::new(NAME, "pernetd", Box::new(ops)).judging_access())
}

struct NetCtl {
    events: Sender<Event>,
    places: Arc<Places>,
}

/// A file or folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Node {
    /// The folder of namespaces.
    All,
    /// In a namespace, in one of its lives: a path with `/` between components; the empty one is its folder.
    In(NetCookie, u32, Arc<str>),
}

impl FileSystem for NetCtl {
    fn mount(&self, request: &MountRequest, _: bool) -> Result<Box<dyn SuperBlock>, Failure> {
        if !request.options.is_empty() {
            return Err(Failure::new(libc::EINVAL, format!("{NAME} has no option `{}`", request.options)));
        }
        let root = match request.net {
            Some(cookie) => folder_of(&*self.places.get(cookie).ok_or_else(gone)?),
            None => Node::All,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Box::new(Super {
            ask: Ask::new(self.events.clone()),
            places: Arc::clone(&self.places),
            inodes: Inodes::new(root),
            mounted: i64::try_from(now).unwrap_or_default(),
            open: Mutex::default(),
            last: AtomicU64::new(0),
        }))
    }
}

fn folder_of(net: &Net) -> Node {
    Node::In(net.cookie, net.generation, "".into())
}

fn gone() -> Failure {
    Failure::new(libc::ENOENT, "the namespace is gone")
}

/// An open entry.
struct Open {
    file: CtlFile,
    positions: Mutex<Positions>,
    /// Opened for appending, which moves the kernel's position to the end and means nothing here.
    appends: bool,
}

/// Where the next access is if nobody seeks: as the kernel thinks, and as the entry does.
#[derive(Clone, Copy, Default)]
struct Positions {
    kernels: u64,
    own: u64,
}

impl Open {
    /// Acts at a position. No lock is held meanwhile: two at once both begin where it was (K7.12).
    fn at<T>(
        &self,
        offset: u64,
        len: impl Fn(&T) -> usize,
        act: impl FnOnce(&mut u64) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let before = *self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = self.appends || offset == before.kernels;
        let mut own = if goes_on { before.own } else { offset };
        let done = act(&mut own)?;
        let kernels = offset + len(&done) as u64;
        *self.positions.lock().unwrap_or_else(PoisonError::into_inner) = Positions { kernels, own };
        Ok(done)
    }
}

struct Super {
    ask: Ask,
    places: Arc<Places>,
    inodes: Inodes<Node>,
    /// In seconds since 1970: the time of every file.
    mounted: i64,
    /// Held for a look-up only.
    open: Mutex<HashMap<u64, Arc<Open>>>,
    last: AtomicU64,
}

/// What a path leads to.
enum Found {
    Folder,
    Entry(CtlNode),
}

impl Super {
    /// The namespace, in the same life.
    fn net(&self, cookie: NetCookie, generation: u32) -> Result<Arc<Net>, Failure> {
        let net = self.places.get(cookie).filter(|net| net.generation == generation && !net.dying());
        net.ok_or_else(gone)
    }

    fn find(&self, node: &Node) -> Result<Found, Failure> {
        let Node::In(cookie, generation, path) = node else { return Ok(Found::Folder) };
        let net = self.net(*cookie, *generation)?;
        Ok(match net.sysctl().look(path)? {
            CtlFound::Dir(_) => Found::Folder,
            CtlFound::Entry(node) => Found::Entry(node),
        })
    }

    fn child(&self, parent: &Node, name: &str) -> Result<Node, Failure> {
        match parent {
            Node::All => {
                let netns = self.ask.namespace(&real_name(name))?;
                self.places.get(NetCookie(netns.cookie)).map(|net| folder_of(&net)).ok_or_else(gone)
            }
            Node::In(cookie, generation, path) if path.is_empty() => Ok(Node::In(*cookie, *generation, name.into())),
            Node::In(cookie, generation, path) => Ok(Node::In(*cookie, *generation, format!("{path}/{name}").into())),
        }
    }

    fn attr(&self, ino: u64, found: &Found) -> FileAttr {
        let attr = match found {
            Found::Folder => FileAttr::directory(ino, 0o555),
            Found::Entry(node) => FileAttr::file(ino, node.entry().mode.into()).with_size(size(node)),
        };
        attr.with_mtime(self.mounted)
    }

    fn entry(&self, ino: u64) -> Result<CtlNode, Failure> {
        match self.find(&self.inodes.node(ino)?)? {
            Found::Entry(node) => Ok(node),
            Found::Folder => Err(Failure::new(libc::EISDIR, "this is a folder of sysctls")),
        }
    }

    fn open_files(&self) -> MutexGuard<'_, HashMap<u64, Arc<Open>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, file: OpenFile) -> Result<Arc<Open>, Failure> {
        let open = self.open_files().get(&file.handle).cloned();
        open.ok_or_else(|| Failure::new(libc::EBADF, "this file is not open"))
    }
}

/// How long the value is. What nobody may read has none.
fn size(node: &CtlNode) -> u64 {
    let read = || {
        let file = CtlFile::open(node.clone(), &Credentials::DAEMON, CtlAccess::Read)?;
        file.read(&Credentials::DAEMON, VALUE)
    };
    read().map_or(0, |value| value.len() as u64)
}

/// Whether the caller may (K7.5): by his user and group first, which FUSE tells; what else he is takes a look.
fn judge<T>(caller: FileCaller, act: impl Fn(&Credentials) -> Result<T, Failure>) -> Result<T, Failure> {
    let privileged = caller.uid == rustix::process::geteuid().as_raw();
    let plain = Credentials { uid: caller.uid, gid: caller.gid, privileged };
    match act(&plain) {
        Err(failure) if matches!(failure.errno, libc::EACCES | libc::EPERM) && !privileged && caller.uid != 0 => {
            let rights = process::rights(caller.pid);
            let gid = if rights.groups.contains(&0) { 0 } else { caller.gid };
            let more = Credentials { gid, privileged: rights.net_admin, ..plain };
            if more == plain { Err(failure) } else { act(&more) }
        }
        other => other,
    }
}

impl SuperBlock for Super {
    fn getattr(&self, ino: u64) -> Result<FileAttr, Failure> {
        Ok(self.attr(ino, &self.find(&self.inodes.node(ino)?)?))
    }

    fn lookup(&self, _: FileCaller, parent: u64, name: &str) -> Result<FileAttr, Failure> {
        let node = self.child(&self.inodes.node(parent)?, name)?;
        let found = self.find(&node)?;
        Ok(self.attr(self.inodes.look_up(&node), &found))
    }

    fn forget(&self, ino: u64, lookups: u64) {
        self.inodes.forget(ino, lookups);
    }

    fn readdir(&self, _: FileCaller, ino: u64) -> Result<Vec<DirEntry>, Failure> {
        let node = self.inodes.node(ino)?;
        let Node::In(cookie, generation, path) = &node else {
            let all = self.ask.namespaces()?.into_iter();
            let known = all.filter_map(|netns| Some((netns.name, self.places.get(NetCookie(netns.cookie))?)));
            let entry = |(name, net): (String, Arc<Net>)| {
                DirEntry::directory(self.inodes.number(&folder_of(&net)), file_name(&name, net.cookie.0))
            };
            return Ok(known.map(entry).collect());
        };
        let CtlFound::Dir(names) = self.net(*cookie, *generation)?.sysctl().look(path)? else {
            return Err(Failure::new(libc::ENOTDIR, "this is a sysctl"));
        };
        let entry = |(name, below): (String, Option<CtlNode>)| {
            let ino = self.inodes.number(&self.child(&node, &name)?);
            Ok(if below.is_some() { DirEntry::file(ino, name) } else { DirEntry::directory(ino, name) })
        };
        names.into_iter().map(entry).collect()
    }

    fn access(&self, caller: FileCaller, ino: u64, mask: u32) -> Result<(), Failure> {
        let refused = || Failure::new(libc::EACCES, "the mode does not allow that");
        let mode = match self.find(&self.inodes.node(ino)?)? {
            // Nothing is made in a folder, by anybody.
            Found::Folder => return if mask & 2 == 0 { Ok(()) } else { Err(refused()) },
            Found::Entry(node) => node.entry().mode,
        };
        let each = [(1, CtlAccess::Execute), (2, CtlAccess::Write), (4, CtlAccess::Read)];
        let wanted = each.into_iter().filter(|(bit, _)| mask & bit != 0).map(|(_, access)| access);
        judge(
            caller,
            |who| {
                if wanted.clone().all(|access| sysctl_perm(mode, who, access)) { Ok(()) } else { Err(refused()) }
            },
        )
    }

    fn open(&self, caller: FileCaller, ino: u64, flags: i32) -> Result<u64, Failure> {
        let access = match flags & libc::O_ACCMODE {
            libc::O_RDONLY => CtlAccess::Read,
            libc::O_WRONLY => CtlAccess::Write,
            _ => CtlAccess::ReadWrite,
        };
        let node = self.entry(ino)?;
        let file = judge(caller, |who| CtlFile::open(node.clone(), who, access))?;
        let handle = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let open = Open { file, positions: Mutex::default(), appends: flags & libc::O_APPEND != 0 };
        self.open_files().insert(handle, Arc::new(open));
        Ok(handle)
    }

    fn read(&self, file: OpenFile, offset: u64, len: usize) -> Result<Vec<u8>, Failure> {
        let open = self.opened(file)?;
        judge(file.caller, |who| open.at(offset, Vec::len, |position| open.file.read_at(who, position, len)))
    }

    fn write(&self, file: OpenFile, offset: u64, bytes: &[u8]) -> Result<usize, Failure> {
        let open = self.opened(file)?;
        judge(file.caller, |who| open.at(offset, |taken| *taken, |position| open.file.write_at(who, position, bytes)))
    }

    /// A shell's `>` cuts what it writes to; there is nothing to cut.
    fn truncate(&self, _: FileCaller, ino: u64, _: u64) -> Result<FileAttr, Failure> {
        self.getattr(ino)
    }

    fn release(&self, file: OpenFile) -> Result<(), Failure> {
        self.open_files().remove(&file.handle);
        Ok(())
    }

    /// As in `/proc/sys`: what a plugin has not registered is not there, and nobody makes it.
    fn no_create(&self) -> i32 {
        libc::ENOENT
    }

    fn no_change(&self) -> i32 {
        libc::EACCES
    }

    fn kill_sb(&self) -> Result<(), Failure> {
        Ok(())
    }
}
