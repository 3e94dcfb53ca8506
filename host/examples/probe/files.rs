//! A probe's file system: a few files that answer as they should, and some that answer nonsense when they are asked for.
//!
//! Mounts and their ends are recorded as hooks are. File operations are not, they are too many; but where a fault is
//! configured for one (`hook = "fs.read"`, `device` being the file's name) it is recorded and goes wrong.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use pernet_plugin_api::prelude::*;

use super::Shared;
use super::record::Line;

/// The files by number, from 2 on. Those whose name begins with `bad` are in no listing.
const FILES: [&str; 15] = [
    "hello",
    "note",
    "who",
    "mount",
    "counts",
    "inside",
    "big",
    "link",
    "dir",
    "bad-mode",
    "bad-ino",
    "bad-size",
    "bad-read",
    "bad-write",
    "bad-dir",
];
const ROOT: u64 = 1;
/// The one file in `dir`.
const LEAF: u64 = 100;
const BAD_LINK: u64 = 101;

/// The file system.
pub(super) struct Files {
    pub(super) shared: Arc<Shared>,
    pub(super) host: Host,
}

/// One mount.
pub(super) struct Mounted {
    net: Option<NetCookie>,
    shown: String,
    note: Mutex<Vec<u8>>,
    opened: AtomicU64,
    released: AtomicU64,
}

fn name(ino: u64) -> Result<&'static str> {
    match ino {
        ROOT => Ok("/"),
        LEAF => Ok("leaf"),
        BAD_LINK => Ok("bad-link"),
        _ => {
            let file = usize::try_from(ino).ok().and_then(|ino| FILES.get(ino.checked_sub(2)?));
            file.copied().ok_or_else(|| Error::new(2, "there is no such file"))
        }
    }
}

/// More than one request of the kernel's can take.
static BIG: LazyLock<Vec<u8>> = LazyLock::new(|| (0..200_000).flat_map(|n| format!("{n:07}\n").into_bytes()).collect());

fn piece(content: &[u8], offset: u64, len: usize) -> Vec<u8> {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
    content[from..(from + len).min(content.len())].to_vec()
}

impl Files {
    fn at(&self, hook: &str, ino: u64) -> Result<()> {
        let line = Line { device: Some(name(ino)?), ..Line::at_home(hook) };
        self.shared.call_if_faulty(line)
    }

    fn content(&self, sb: &Mounted, ino: u64, caller: FileCaller) -> Result<Vec<u8>> {
        Ok(match name(ino)? {
            "hello" | "leaf" => b"hello\n".to_vec(),
            "note" => sb.note.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            "who" => format!("{} {} {}\n", caller.uid, caller.gid, caller.pid).into_bytes(),
            "mount" => sb.shown.clone().into_bytes(),
            "counts" => {
                let (opened, released) = (sb.opened.load(Ordering::Relaxed), sb.released.load(Ordering::Relaxed));
                format!("{opened} {released}\n").into_bytes()
            }
            "inside" => {
                let net = sb.net.ok_or_else(|| Error::new(22, "this mount is for no namespace"))?;
                self.host.run_in(net, |net| format!("{}\n", net.name()))?.into_bytes()
            }
            _ => Vec::new(),
        })
    }
}

impl FileSystem for Files {
    type Super = Mounted;

    fn mount(&self, request: &MountRequest<'_>) -> Result<Mounted> {
        let cookie = request.net.map(|net| net.0);
        self.shared.call(Line { cookie, device: Some(request.source), ..Line::at_home("fs.mount") })?;
        if let Some(wrong) = request.option("refuse") {
            return Err(Error::new(wrong.parse().unwrap_or(22), "as the options ask"));
        }
        let MountRequest { net, internal, source, options } = *request;
        let shown = format!("source={source}\noptions={options}\ninternal={internal}\nnet={}\n", net.is_some());
        Ok(Mounted { net, shown, note: Mutex::default(), opened: AtomicU64::new(0), released: AtomicU64::new(0) })
    }

    fn kill_sb(&self, sb: Mounted) -> Result<()> {
        let (opened, released) = (sb.opened.into_inner(), sb.released.into_inner());
        let cookie = sb.net.map(|net| net.0);
        let left = i32::try_from(opened - released).ok();
        self.shared.call(Line { cookie, errno: left, ..Line::at_home("fs.kill_sb") })
    }

    fn getattr(&self, sb: &Mounted, ino: u64) -> Result<FileAttr> {
        self.at("fs.getattr", ino)?;
        Ok(match name(ino)? {
            "/" | "dir" | "bad-dir" => FileAttr::directory(ino, 0o755),
            "link" | "bad-link" => FileAttr::symlink(ino),
            "bad-mode" => FileAttr { mode: 0o644, ..FileAttr::file(ino, 0) },
            "bad-ino" => FileAttr::file(0, 0o644),
            "bad-size" => FileAttr::file(ino, 0o644).with_size(u64::MAX),
            "hello" => FileAttr::file(ino, 0o444).with_size(6),
            "big" => FileAttr::file(ino, 0o444).with_size(1_600_000),
            "note" => {
                let size = sb.note.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
                FileAttr::file(ino, 0o644).with_size(size)
            }
            "who" => FileAttr::file(ino, 0o444),
            _ => FileAttr::file(ino, 0o644),
        })
    }

    fn lookup(&self, sb: &Mounted, _: FileCaller, parent: u64, wanted: &str) -> Result<FileAttr> {
        let none = || Error::new(2, "there is no such file");
        let ino = match (parent, wanted) {
            (ROOT, "bad-link") => BAD_LINK,
            (ROOT, _) => FILES.iter().position(|file| *file == wanted).ok_or_else(none)? as u64 + 2,
            (_, "leaf") if name(parent)? == "dir" => LEAF,
            _ => return Err(none()),
        };
        self.at("fs.lookup", ino)?;
        self.getattr(sb, ino)
    }

    fn readdir(&self, _: &Mounted, _: FileCaller, ino: u64) -> Result<Vec<DirEntry>> {
        self.at("fs.readdir", ino)?;
        Ok(match name(ino)? {
            "dir" => vec![DirEntry::file(LEAF, "leaf")],
            "bad-dir" => vec![DirEntry::file(LEAF, "a/b")],
            _ => {
                let listed = (2..).zip(FILES).filter(|(_, name)| !name.starts_with("bad") && *name != "inside");
                let entry = |(ino, name)| match name {
                    "dir" => DirEntry::directory(ino, name),
                    "link" => DirEntry::symlink(ino, name),
                    _ => DirEntry::file(ino, name),
                };
                listed.map(entry).collect()
            }
        })
    }

    fn open(&self, sb: &Mounted, _: FileCaller, ino: u64, _: i32) -> Result<u64> {
        self.at("fs.open", ino)?;
        Ok(sb.opened.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn read(&self, sb: &Mounted, file: OpenFile, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.at("fs.read", file.ino)?;
        if name(file.ino)? == "bad-read" {
            return Ok(vec![b'x'; len + 1]);
        }
        if name(file.ino)? == "big" {
            return Ok(piece(&BIG, offset, len));
        }
        Ok(piece(&self.content(sb, file.ino, file.caller)?, offset, len))
    }

    fn write(&self, sb: &Mounted, file: OpenFile, offset: u64, bytes: &[u8]) -> Result<usize> {
        self.at("fs.write", file.ino)?;
        match name(file.ino)? {
            "bad-write" => Ok(bytes.len() + 1),
            "note" => {
                let mut note = sb.note.lock().unwrap_or_else(PoisonError::into_inner);
                let from = usize::try_from(offset).map_err(|_| Error::new(27, "that far"))?;
                if from + bytes.len() > 1 << 20 {
                    return Err(Error::new(28, "a note is at most a megabyte"));
                }
                let end = note.len().max(from + bytes.len());
                note.resize(end, 0);
                note[from..from + bytes.len()].copy_from_slice(bytes);
                Ok(bytes.len())
            }
            _ => Err(Error::new(30, "only the note can be written")),
        }
    }

    fn truncate(&self, sb: &Mounted, _: FileCaller, ino: u64, size: u64) -> Result<FileAttr> {
        self.at("fs.truncate", ino)?;
        if name(ino)? == "note" {
            let mut note = sb.note.lock().unwrap_or_else(PoisonError::into_inner);
            note.resize(usize::try_from(size.min(1 << 20)).unwrap_or(0), 0);
        }
        self.getattr(sb, ino)
    }

    fn readlink(&self, _: &Mounted, ino: u64) -> Result<Vec<u8>> {
        self.at("fs.readlink", ino)?;
        Ok(if ino == BAD_LINK { b"a\0b".to_vec() } else { b"hello".to_vec() })
    }

    fn release(&self, sb: &Mounted, file: OpenFile) -> Result<()> {
        sb.released.fetch_add(1, Ordering::Relaxed);
        self.at("fs.release", file.ino)
    }
}
