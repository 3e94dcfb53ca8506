//! Superblocks: where a plugin's mounts wait for the host's calls, each under a number.
//!
//! Mirrors `struct super_block` with its type's private data. The host names a file system by its place in the order of
//! registration and a superblock by the number that its mount got; whatever else it names is refused.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use abi_stable::std_types::{RString, RVec};

use crate::abi::{self, FileCall, FileReturn, Status};
use crate::filesystem::{DirEntry, FileAttr, FileCaller, FileSystem, MountRequest, OpenFile};
use crate::{Error, Result};

/// A superblock whose type only its file system knows.
type Erased = dyn Any + Send + Sync;

/// A file system without the type of its superblocks, which the host does not know.
pub(crate) trait AnyFileSystem: Send + Sync {
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<Erased>>;
    fn kill_sb(&self, sb: Arc<Erased>) -> Result<()>;
    fn call(&self, sb: &Erased, call: &FileCall<'_>) -> Result<Answer>;
}

/// What a file operation answers.
#[derive(Default)]
pub(crate) struct Answer {
    attr: abi::FileAttr,
    number: u64,
    bytes: Vec<u8>,
    entries: Vec<DirEntry>,
}

impl Answer {
    fn attr(attr: FileAttr) -> Self {
        Answer { attr: attr.into(), ..Answer::default() }
    }

    fn number(number: u64) -> Self {
        Answer { number, ..Answer::default() }
    }

    fn bytes(bytes: Vec<u8>) -> Self {
        Answer { bytes, ..Answer::default() }
    }
}

impl From<Result<Answer, Status>> for FileReturn {
    fn from(result: Result<Answer, Status>) -> Self {
        let (status, answer) = match result {
            Ok(answer) => (Status::OK, answer),
            Err(status) => (status, Answer::default()),
        };
        let entry = |e: DirEntry| abi::DirEntry { ino: e.ino, mode: e.mode, name: RString::from(e.name) };
        let entries: RVec<abi::DirEntry> = answer.entries.into_iter().map(entry).collect();
        FileReturn { status, attr: answer.attr, number: answer.number, bytes: answer.bytes.into(), entries }
    }
}

impl<F: FileSystem> AnyFileSystem for F {
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<Erased>> {
        Ok(Arc::new(FileSystem::mount(self, request)?))
    }

    fn kill_sb(&self, sb: Arc<Erased>) -> Result<()> {
        let busy = |_| Error::new(libc::EBUSY, "the daemon ended a mount in the middle of a call of it");
        let sb = Arc::downcast::<F::Super>(sb).map_err(|_| no_such_mount())?;
        FileSystem::kill_sb(self, Arc::try_unwrap(sb).map_err(busy)?)
    }

    fn call(&self, sb: &Erased, call: &FileCall<'_>) -> Result<Answer> {
        let sb: &F::Super = sb.downcast_ref().ok_or_else(no_such_mount)?;
        let caller = FileCaller { uid: call.uid, gid: call.gid, pid: call.pid };
        let file = OpenFile { ino: call.ino, handle: call.handle, caller };
        let len = || usize::try_from(call.number).map_err(|_| Error::fixed(libc::EINVAL, "more than there can be"));
        Ok(match call.op {
            0 => Answer::attr(self.lookup(sb, caller, call.ino, call.text.as_str())?),
            1 => Answer::attr(self.getattr(sb, call.ino)?),
            2 => Answer { entries: self.readdir(sb, caller, call.ino)?, ..Answer::default() },
            3 => Answer::number(self.open(sb, caller, call.ino, flags(call.number))?),
            4 => Answer::bytes(self.read(sb, file, call.offset, len()?)?),
            5 => Answer::number(self.write(sb, file, call.offset, call.bytes.as_slice())? as u64),
            6 => Answer::attr(self.truncate(sb, caller, call.ino, call.number)?),
            7 => Answer::bytes(self.readlink(sb, call.ino)?),
            8 => self.release(sb, file).map(|()| Answer::default())?,
            other => return Err(Error::new(libc::ENOSYS, format!("file operation {other} is newer than this plugin"))),
        })
    }
}

/// `O_*` flags are 32 bits; what a newer kernel may have above them is not for this version.
fn flags(number: u64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "just that")]
    let flags = number as u32;
    flags.cast_signed()
}

/// One mount.
struct Super {
    /// Of which file system, by its number in the plugin.
    fs: u32,
    sb: Arc<Erased>,
}

/// One instance's superblocks.
pub(crate) struct SuperTable(Mutex<Inner>);

struct Inner {
    next: u64,
    supers: BTreeMap<u64, Super>,
}

impl SuperTable {
    pub(crate) fn new() -> Self {
        SuperTable(Mutex::new(Inner { next: 1, supers: BTreeMap::new() }))
    }

    pub(crate) fn insert(&self, fs: u32, sb: Arc<Erased>) -> u64 {
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        inner.supers.insert(number, Super { fs, sb });
        number
    }

    /// The superblock of a call, which keeps it for the time of that call.
    pub(crate) fn get(&self, fs: u32, number: u64) -> Result<Arc<Erased>> {
        let inner = self.lock();
        let found = inner.supers.get(&number).filter(|it| it.fs == fs);
        found.map(|it| Arc::clone(&it.sb)).ok_or_else(no_such_mount)
    }

    pub(crate) fn take(&self, fs: u32, number: u64) -> Result<Arc<Erased>> {
        let mut inner = self.lock();
        let mine = inner.supers.get(&number).is_some_and(|it| it.fs == fs);
        let taken = if mine { inner.supers.remove(&number) } else { None };
        taken.map(|it| it.sb).ok_or_else(no_such_mount)
    }

    /// Those that the host has not ended, newest first, for dropping.
    pub(crate) fn take_all(&self) -> Vec<Arc<Erased>> {
        std::mem::take(&mut self.lock().supers).into_values().rev().map(|it| it.sb).collect()
    }

    /// Nothing of an author runs under this lock, so a poisoned one is sound.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_such_mount() -> Error {
    Error::fixed(libc::EINVAL, "the daemon named no mount of this file system")
}
