//! File system types of a plugin's own: what an author writes for one, and what he sees of a mount and of its files.
//!
//! Mirrors `struct file_system_type` and the parts of `super_operations`, `inode_operations` and `file_operations` that
//! a file system needs whose content is made when it is asked for. Files are named by numbers of the author's choice
//! (inodes), 1 being the root. Where superblocks wait for the host's calls is in `super_block.rs`.

use std::fmt;

use crate::abi::{self, MountCall};
use crate::host::accepted;
use crate::log::Caller;
use crate::{Error, NetCookie, Result};

/// A file system type (`struct file_system_type`), registered by [`crate::Registrar::filesystem`].
///
/// Each mount has a superblock of its own: what [`mount`](Self::mount) makes and [`kill_sb`](Self::kill_sb) gets back,
/// once, after the last call. All other calls come from any thread, many at once, outside every namespace and under no
/// lock; [`crate::Host::run_in`] is the way into one. Who calls a file does not wait for ever: after a bound he gets `EIO`,
/// though the call itself goes on.
///
/// An error goes to who called, with its errno. An answer that cannot be (a file that is no kind of file, more bytes than
/// were asked for, a name with a slash) becomes `EIO` for him. A panic does too, and poisons the plugin as everywhere.
///
/// The permission bits that [`getattr`](Self::getattr) shows are judged by the kernel before anything is called; what may
/// be opened beyond that is for [`open`](Self::open) to refuse. Nothing is kept by the kernel: each look at a file asks.
#[expect(unused_variables, reason = "most file systems need few of them")]
pub trait FileSystem: Send + Sync + 'static {
    /// What the file system keeps for one mount: its superblock. `()` for nothing.
    type Super: Send + Sync + 'static;

    /// Somebody mounts it. An error refuses the mount, and then there is no [`kill_sb`](Self::kill_sb).
    ///
    /// A mount for a namespace ends before the plugin's exits there, and every mount before the plugin does.
    fn mount(&self, request: &MountRequest<'_>) -> Result<Self::Super>;

    /// The mount has ended: the last user of its files is gone.
    fn kill_sb(&self, sb: Self::Super) -> Result<()> {
        drop(sb);
        Ok(())
    }

    /// What a file is. The root, number 1, is a directory and always there.
    fn getattr(&self, sb: &Self::Super, ino: u64) -> Result<FileAttr>;

    /// The file of this name in a directory; `ENOENT` if there is none.
    fn lookup(&self, sb: &Self::Super, caller: FileCaller, parent: u64, name: &str) -> Result<FileAttr> {
        Err(Error::fixed(libc::ENOENT, "there is no such file"))
    }

    /// What is in a directory, without `.` and `..`.
    fn readdir(&self, sb: &Self::Super, caller: FileCaller, ino: u64) -> Result<Vec<DirEntry>> {
        Ok(Vec::new())
    }

    /// A file is opened, with `O_*` flags. The answer is the author's number for this open file, which comes with every
    /// call for it until [`release`](Self::release).
    fn open(&self, sb: &Self::Super, caller: FileCaller, ino: u64, flags: i32) -> Result<u64> {
        Ok(0)
    }

    /// At most `len` bytes from `offset` on; less (or nothing) at the end of the file.
    fn read(&self, sb: &Self::Super, file: OpenFile, offset: u64, len: usize) -> Result<Vec<u8>> {
        Err(Error::fixed(libc::EINVAL, "this file cannot be read"))
    }

    /// Writes at `offset`, and says how many of the bytes were taken: at least one.
    fn write(&self, sb: &Self::Super, file: OpenFile, offset: u64, bytes: &[u8]) -> Result<usize> {
        Err(Error::fixed(libc::EROFS, "this file system is only for reading"))
    }

    /// A file is cut or extended to `size` bytes, as a shell's `>` does before it opens. A file whose content is made
    /// when it is read has nothing to cut: the default says just what the file is.
    fn truncate(&self, sb: &Self::Super, caller: FileCaller, ino: u64, size: u64) -> Result<FileAttr> {
        self.getattr(sb, ino)
    }

    /// Where a symbolic link leads.
    fn readlink(&self, sb: &Self::Super, ino: u64) -> Result<Vec<u8>> {
        Err(Error::fixed(libc::EINVAL, "this file is no symbolic link"))
    }

    /// An open file is closed, by the last who had it. An error goes to the log: there is nobody to tell.
    fn release(&self, sb: &Self::Super, file: OpenFile) -> Result<()> {
        Ok(())
    }
}

/// A mount that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct MountRequest<'a> {
    /// The namespace that it is for, if it is for one.
    pub net: Option<NetCookie>,
    /// Whether it is an internal mount (`kern_mount`), in no mount table.
    pub internal: bool,
    /// What is mounted, as given to mount(8); most file systems have no use for it.
    pub source: &'a str,
    /// Options, separated by commas.
    pub options: &'a str,
}

impl<'a> MountRequest<'a> {
    pub(crate) fn read(call: &'a MountCall<'a>) -> Self {
        MountRequest {
            net: Some(NetCookie(call.cookie)).filter(|cookie| cookie.0 != 0),
            internal: call.internal != 0,
            source: call.source.as_str(),
            options: call.options.as_str(),
        }
    }

    /// An option's value: the last one counts; that of an option without `=` is empty.
    #[must_use]
    pub fn option(&self, key: &str) -> Option<&'a str> {
        let each = self.options.split(',').map(|option| option.split_once('=').unwrap_or((option, "")));
        each.rev().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

/// Who calls: the process that uses the file, as its namespace of users sees it from the mount's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileCaller {
    /// The user that counts for files.
    pub uid: u32,
    /// The group that counts for files.
    pub gid: u32,
    /// The thread; 0 where it cannot be seen from here.
    pub pid: u32,
}

/// A file that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// The file's number.
    pub ino: u64,
    /// What [`FileSystem::open`] answered.
    pub handle: u64,
    /// Who calls now, which may be another than who opened it.
    pub caller: FileCaller,
}

/// What a file is, as `stat` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileAttr {
    /// Its number in its file system, not 0; 1 is the root. A number always means the same file.
    pub ino: u64,
    /// `S_IF*` and permission bits.
    pub mode: u32,
    /// How many names it has.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// In bytes. A file is read to its end whatever this says, but some programs (tar) go by it.
    pub size: u64,
    /// When its content changed: seconds since 1970.
    pub mtime: i64,
}

impl FileAttr {
    /// A plain file of root's, with these permission bits.
    #[must_use]
    pub fn file(ino: u64, permissions: u32) -> Self {
        Self::of(ino, libc::S_IFREG | (permissions & 0o7777))
    }

    /// A directory of root's, with these permission bits. One link says that its subdirectories are not counted.
    #[must_use]
    pub fn directory(ino: u64, permissions: u32) -> Self {
        Self::of(ino, libc::S_IFDIR | (permissions & 0o7777))
    }

    /// A symbolic link of root's.
    #[must_use]
    pub fn symlink(ino: u64) -> Self {
        Self::of(ino, libc::S_IFLNK | 0o777)
    }

    fn of(ino: u64, mode: u32) -> Self {
        FileAttr { ino, mode, nlink: 1, uid: 0, gid: 0, size: 0, mtime: 0 }
    }

    /// With this size.
    #[must_use]
    pub fn with_size(self, size: u64) -> Self {
        FileAttr { size, ..self }
    }

    /// With this owner and group.
    #[must_use]
    pub fn with_owner(self, uid: u32, gid: u32) -> Self {
        FileAttr { uid, gid, ..self }
    }

    /// With this time of the last change, in seconds since 1970.
    #[must_use]
    pub fn with_mtime(self, mtime: i64) -> Self {
        FileAttr { mtime, ..self }
    }
}

impl From<FileAttr> for abi::FileAttr {
    fn from(FileAttr { ino, mode, nlink, uid, gid, size, mtime }: FileAttr) -> Self {
        abi::FileAttr { ino, mode, nlink, uid, gid, size, mtime }
    }
}

impl From<abi::FileAttr> for FileAttr {
    fn from(abi::FileAttr { ino, mode, nlink, uid, gid, size, mtime }: abi::FileAttr) -> Self {
        FileAttr { ino, mode, nlink, uid, gid, size, mtime }
    }
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The file's number.
    pub ino: u64,
    /// Its `S_IF*` bits.
    pub mode: u32,
    /// The name: at most 255 bytes, without a slash.
    pub name: String,
}

impl DirEntry {
    /// A plain file.
    pub fn file(ino: u64, name: impl Into<String>) -> Self {
        DirEntry { ino, mode: libc::S_IFREG, name: name.into() }
    }

    /// A directory.
    pub fn directory(ino: u64, name: impl Into<String>) -> Self {
        DirEntry { ino, mode: libc::S_IFDIR, name: name.into() }
    }

    /// A symbolic link.
    pub fn symlink(ino: u64, name: impl Into<String>) -> Self {
        DirEntry { ino, mode: libc::S_IFLNK, name: name.into() }
    }
}

/// An internal mount (`kern_mount`): in no mount table, there for as long as this is. Dropping it is `kern_unmount`.
pub struct KernMount {
    caller: Caller,
    mount: u64,
}

impl KernMount {
    pub(crate) fn mount(caller: Caller, fs: &str, net: Option<NetCookie>, options: &str) -> Result<Self> {
        let kern_mount = caller.host.kern_mount().ok_or_else(missing)?;
        let answer = kern_mount(caller.token, fs.into(), net.map_or(0, |net| net.0), options.into());
        accepted(answer.status)?;
        Ok(KernMount { caller, mount: answer.number })
    }
}

impl Drop for KernMount {
    fn drop(&mut self) {
        if let Some(kern_unmount) = self.caller.host.kern_unmount() {
            // After the instance's end the host has ended all of its mounts itself.
            let _ = kern_unmount(self.caller.token, self.mount);
        }
    }
}

impl fmt::Debug for KernMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KernMount").field(&self.mount).finish()
    }
}

fn missing() -> Error {
    Error::new(libc::ENOSYS, "this pernetd is older than file systems of plugins' own; update it")
}
