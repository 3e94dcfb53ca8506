//! What a file system does, and whether its answers can be: `file_system_type.mount`, `struct super_block` and the
//! operations of its files.
//!
//! The traits are the engine's only way to a file system; `plugin/fs.rs` implements them over the ABI, the daemon for its
//! own types, tests in memory. Whoever carries a mount to its users (FUSE) asks through [`super::Mount`], which judges
//! every answer here: one that makes no sense is `EIO` to him who asked, and harms nobody else.

use std::sync::Arc;

use pernet_plugin_api::{DirEntry, FileAttr, FileCaller, NetCookie, OpenFile};

use super::failure::{EINVAL, EIO, ENOENT, EPERM, EROFS, Failure};

/// The number of every mount's root.
pub const ROOT_INO: u64 = 1;

/// Which kind of file a mode says.
const S_IFMT: u32 = 0o170_000;
const S_IFIFO: u32 = 0o010_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFSOCK: u32 = 0o140_000;

/// The kernel's bounds of a name and of a path.
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4096;

/// A file system type's way to make mounts.
pub trait FileSystem: Send + Sync {
    /// Makes a superblock; `internal` for `kern_mount`. After an error there is none, and no [`SuperBlock::kill_sb`].
    ///
    /// # Errors
    /// The type refuses the mount.
    fn mount(&self, request: &MountRequest, internal: bool) -> Result<Box<dyn SuperBlock>, Failure>;
}

/// What is asked to be mounted.
#[derive(Clone, Debug, Default)]
pub struct MountRequest {
    /// The namespace that the mount is for: it ends with that.
    pub net: Option<NetCookie>,
    /// Its name, for the operator.
    pub netns: Option<Arc<str>>,
    /// As given to mount(8).
    pub source: String,
    /// Where it is to be, as whoever mounts it says: for the operator. Empty for an internal mount.
    pub target: String,
    /// Separated by commas.
    pub options: String,
}

/// One mount of a file system. Called from any thread, many at once; [`SuperBlock::kill_sb`] once, after all others.
#[expect(unused_variables, reason = "most file systems need few of them")]
pub trait SuperBlock: Send + Sync {
    /// What a file is.
    fn getattr(&self, ino: u64) -> Result<FileAttr, Failure>;
    /// The file of this name in a directory.
    fn lookup(&self, caller: FileCaller, parent: u64, name: &str) -> Result<FileAttr, Failure> {
        Err(Failure::new(ENOENT, "there is no such file"))
    }
    /// The kernel has forgotten so many lookups of a file: it knows the number no more when all of them are.
    fn forget(&self, ino: u64, lookups: u64) {}
    /// What is in a directory, without `.` and `..`.
    fn readdir(&self, caller: FileCaller, ino: u64) -> Result<Vec<DirEntry>, Failure> {
        Ok(Vec::new())
    }
    /// Whether the caller may do what these bits say (4 read, 2 write, 1 execute). Only a type is asked that judges
    /// access itself.
    fn access(&self, caller: FileCaller, ino: u64, mask: u32) -> Result<(), Failure> {
        Ok(())
    }
    /// Opens a file with `O_*` flags; the answer comes with every call for it.
    fn open(&self, caller: FileCaller, ino: u64, flags: i32) -> Result<u64, Failure> {
        Ok(0)
    }
    /// At most `len` bytes from `offset` on.
    fn read(&self, file: OpenFile, offset: u64, len: usize) -> Result<Vec<u8>, Failure> {
        Err(Failure::new(EINVAL, "this file cannot be read"))
    }
    /// Writes at `offset`; how many bytes were taken.
    fn write(&self, file: OpenFile, offset: u64, bytes: &[u8]) -> Result<usize, Failure> {
        Err(Failure::new(EROFS, "this file system is only for reading"))
    }
    /// Cuts or extends a file.
    fn truncate(&self, caller: FileCaller, ino: u64, size: u64) -> Result<FileAttr, Failure> {
        self.getattr(ino)
    }
    /// Where a symbolic link leads.
    fn readlink(&self, ino: u64) -> Result<Vec<u8>, Failure> {
        Err(Failure::new(EINVAL, "this file is no symbolic link"))
    }
    /// An open file is closed.
    fn release(&self, file: OpenFile) -> Result<(), Failure> {
        Ok(())
    }
    /// With which errno a file or directory is not made: nobody but the file system makes any.
    fn no_create(&self) -> i32 {
        EPERM
    }
    /// With which one is not removed, renamed or linked.
    fn no_change(&self) -> i32 {
        EPERM
    }
    /// Ends the mount.
    ///
    /// # Errors
    /// For the log: the mount is ended all the same.
    fn kill_sb(&self) -> Result<(), Failure>;
}

/// What a file is, if it can be: of the file with this number, if one was asked for.
pub(super) fn judge_attr(attr: FileAttr, asked: Option<u64>) -> Result<FileAttr, Failure> {
    let kind = attr.mode & S_IFMT;
    let nonsense = |what: String| Err(Failure::new(EIO, format!("the file system answered nonsense: {what}")));
    match attr {
        FileAttr { ino: 0, .. } => nonsense("a file with the number 0".into()),
        FileAttr { ino, .. } if asked.is_some_and(|asked| asked != ino) => {
            nonsense(format!("file {ino} where another was asked for"))
        }
        FileAttr { ino: ROOT_INO, .. } if asked.is_none() => nonsense("the root in a directory".into()),
        FileAttr { mode, .. } if mode & !(S_IFMT | 0o7777) != 0 || !is_kind(kind) => {
            nonsense(format!("the mode {mode:#o}, which is no kind of file that can be here"))
        }
        // The kernel would take the whole mount for broken.
        FileAttr { ino: ROOT_INO, .. } if kind != S_IFDIR => nonsense("a root that is no directory".into()),
        FileAttr { size, .. } if i64::try_from(size).is_err() => nonsense(format!("a size of {size} bytes")),
        attr => Ok(FileAttr { nlink: attr.nlink.max(1), ..attr }),
    }
}

/// Devices are none: a mount is `nodev`.
fn is_kind(kind: u32) -> bool {
    [S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK].contains(&kind)
}

pub(super) fn judge_entries(entries: Vec<DirEntry>) -> Result<Vec<DirEntry>, Failure> {
    let wrong = entries.iter().find(|entry| {
        let name = entry.name.as_bytes();
        let is_name = !matches!(name, b"" | b"." | b"..") && name.len() <= NAME_MAX;
        entry.ino == 0 || !is_kind(entry.mode & S_IFMT) || !is_name || name.iter().any(|b| matches!(b, b'/' | 0))
    });
    match wrong {
        Some(DirEntry { ino, mode, name }) => {
            let what = format!("an entry {name:?} with number {ino} and mode {mode:#o}, which cannot be");
            Err(Failure::new(EIO, format!("the file system answered nonsense: {what}")))
        }
        None => Ok(entries),
    }
}

pub(super) fn judge_read(bytes: Vec<u8>, len: usize) -> Result<Vec<u8>, Failure> {
    if bytes.len() > len {
        let what = format!("{} bytes where {len} were asked for", bytes.len());
        return Err(Failure::new(EIO, format!("the file system answered nonsense: {what}")));
    }
    Ok(bytes)
}

/// A write that took nothing would be tried again without end.
pub(super) fn judge_written(written: usize, given: usize) -> Result<usize, Failure> {
    if written > given || (written == 0 && given > 0) {
        let what = format!("{written} bytes written of {given}");
        return Err(Failure::new(EIO, format!("the file system answered nonsense: {what}")));
    }
    Ok(written)
}

pub(super) fn judge_link(target: Vec<u8>) -> Result<Vec<u8>, Failure> {
    if target.is_empty() || target.len() >= PATH_MAX || target.contains(&0) {
        let what = format!("a link to a path of {} bytes that can be none", target.len());
        return Err(Failure::new(EIO, format!("the file system answered nonsense: {what}")));
    }
    Ok(target)
}
