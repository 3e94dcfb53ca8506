//! A plugin's file system types and mounts: the engine's [`FileSystem`] and [`SuperBlock`] over the ABI.
//!
//! Mirrors the calls of `file_system_type`, `inode_operations` and `file_operations`. Whether an answer can be is the
//! engine's to judge; here data of the ABI becomes the engine's. An error of a file operation is an answer to who uses
//! the file: it is told to nobody else, unless the plugin panicked.

use super::call::{Hook, Place};
use super::inner::Inner;
use crate::engine::{Failure, FileSystem, MountRequest, SuperBlock};
use abi_stable::std_types::RSlice;
use pernet_plugin_api::abi::{self, FileCall, FileReturn, MountCall, Status};
use pernet_plugin_api::{DirEntry, FileAttr, FileCaller, OpenFile};
use std::sync::Arc;

/// [`FileCall::op`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileOp {
    Lookup = 0,
    Getattr = 1,
    Readdir = 2,
    Open = 3,
    Read = 4,
    Write = 5,
    Truncate = 6,
    Readlink = 7,
    Release = 8,
}

impl FileOp {
    /// The hook's name as the operator sees it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            FileOp::Lookup => "fs.lookup",
            FileOp::Getattr => "fs.getattr",
            FileOp::Readdir => "fs.readdir",
            FileOp::Open => "fs.open",
            FileOp::Read => "fs.read",
            FileOp::Write => "fs.write",
            FileOp::Truncate => "fs.truncate",
            FileOp::Readlink => "fs.readlink",
            FileOp::Release => "fs.release",
        }
    }
}

/// A file system type that a plugin registered.
pub(super) struct FsCaller {
    pub(super) instance: Arc<Inner>,
    pub(super) number: u32,
}

/// A mount of it.
struct SuperCaller {
    instance: Arc<Inner>,
    fs: u32,
    /// The plugin's number for it.
    sb: u64,
    /// The namespace that it is for; empty for none.
    netns: Arc<str>,
}

impl FileSystem for FsCaller {
    fn mount(&self, request: &MountRequest, internal: bool) -> Result<Box<dyn SuperBlock>, Failure> {
        let netns = request.netns.clone().unwrap_or_else(|| Arc::from(""));
        let call = MountCall {
            cookie: request.net.map_or(0, |net| net.0),
            internal: u8::from(internal),
            source: request.source.as_str().into(),
            options: request.options.as_str().into(),
        };
        let sb = self.instance.ask(Hook::FsMount, &Place::nowhere(Arc::clone(&netns)), |table, instance| {
            let Some(mount) = table.fs_mount() else { return (no_entry(), 0) };
            let answer = mount(instance, self.number, &call);
            (answer.status, answer.number)
        })?;
        Ok(Box::new(SuperCaller { instance: Arc::clone(&self.instance), fs: self.number, sb, netns }))
    }
}

impl SuperCaller {
    fn ask(&self, op: FileOp, call: FileCall<'_>) -> Result<FileReturn, Failure> {
        self.instance.ask(Hook::File(op), &Place::nowhere(Arc::clone(&self.netns)), |table, instance| {
            let Some(file) = table.file() else { return (no_entry(), nothing()) };
            let mut answer = file(instance, self.fs, self.sb, &FileCall { op: op as u8, ..call });
            let status = std::mem::replace(&mut answer.status, Status { errno: 0, panicked: 0, message: "".into() });
            (status, answer)
        })
    }

    fn attr(&self, op: FileOp, call: FileCall<'_>) -> Result<FileAttr, Failure> {
        Ok(self.ask(op, call)?.attr.into())
    }
}

impl SuperBlock for SuperCaller {
    fn getattr(&self, ino: u64) -> Result<FileAttr, Failure> {
        self.attr(FileOp::Getattr, on(ino, FileCaller::default()))
    }

    fn lookup(&self, caller: FileCaller, parent: u64, name: &str) -> Result<FileAttr, Failure> {
        self.attr(FileOp::Lookup, FileCall { text: name.into(), ..on(parent, caller) })
    }

    fn readdir(&self, caller: FileCaller, ino: u64) -> Result<Vec<DirEntry>, Failure> {
        let answer = self.ask(FileOp::Readdir, on(ino, caller))?;
        let entry = |e: abi::DirEntry| DirEntry { ino: e.ino, mode: e.mode, name: e.name.into_string() };
        Ok(answer.entries.into_iter().map(entry).collect())
    }

    fn open(&self, caller: FileCaller, ino: u64, flags: i32) -> Result<u64, Failure> {
        let number = u64::from(flags.cast_unsigned());
        Ok(self.ask(FileOp::Open, FileCall { number, ..on(ino, caller) })?.number)
    }

    fn read(&self, file: OpenFile, offset: u64, len: usize) -> Result<Vec<u8>, Failure> {
        let call = FileCall { offset, number: len as u64, ..of(file) };
        Ok(self.ask(FileOp::Read, call)?.bytes.into_vec())
    }

    fn write(&self, file: OpenFile, offset: u64, bytes: &[u8]) -> Result<usize, Failure> {
        let written = self.ask(FileOp::Write, FileCall { offset, bytes: bytes.into(), ..of(file) })?.number;
        // What is more than can be is more than was given, which the engine refuses.
        Ok(usize::try_from(written).unwrap_or(usize::MAX))
    }

    fn truncate(&self, caller: FileCaller, ino: u64, size: u64) -> Result<FileAttr, Failure> {
        self.attr(FileOp::Truncate, FileCall { number: size, ..on(ino, caller) })
    }

    fn readlink(&self, ino: u64) -> Result<Vec<u8>, Failure> {
        Ok(self.ask(FileOp::Readlink, on(ino, FileCaller::default()))?.bytes.into_vec())
    }

    fn release(&self, file: OpenFile) -> Result<(), Failure> {
        self.ask(FileOp::Release, of(file)).map(drop)
    }

    fn kill_sb(&self) -> Result<(), Failure> {
        self.instance.ask(Hook::FsKillSb, &Place::nowhere(Arc::clone(&self.netns)), |table, instance| {
            (table.fs_kill_sb().map_or_else(no_entry, |kill_sb| kill_sb(instance, self.fs, self.sb)), ())
        })
    }
}

fn on(ino: u64, FileCaller { uid, gid, pid }: FileCaller) -> FileCall<'static> {
    FileCall { op: 0, ino, offset: 0, number: 0, handle: 0, uid, gid, pid, text: "".into(), bytes: RSlice::EMPTY }
}

fn of(OpenFile { ino, handle, caller }: OpenFile) -> FileCall<'static> {
    FileCall { handle, ..on(ino, caller) }
}

fn nothing() -> FileReturn {
    FileReturn {
        status: no_entry(),
        attr: abi::FileAttr::default(),
        number: 0,
        bytes: Vec::new().into(),
        entries: Vec::new().into(),
    }
}

/// Only a plugin that is older than file systems, and still registered one, has no such entry.
fn no_entry() -> Status {
    let message = "the plugin is built for an API without file systems; build it anew";
    Status { errno: libc::ENOSYS, panicked: 0, message: message.into() }
}
