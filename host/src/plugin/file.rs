//! A plugin's file, opened once: judged, read, hashed and understood through one descriptor.
//!
//! Mirrors the kernel's `finit_module`: what was checked is what is loaded, since both are the bytes that this one
//! read gave. None of the file's code has run when [`open`] returns, whatever it returns.
//!
//! Not here: mapping the code ([`super::load`]).

use super::PluginError;
use super::note::Note;
use super::trust::Judge;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, Stat, fstat, openat};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A shared library larger than this is refused: it would be read into memory whole.
const MAX_SIZE: u64 = 256 * 1024 * 1024;

/// A plugin file that was found good, with its bytes.
#[derive(Clone, Debug)]
pub struct PluginFile {
    /// Where it was opened.
    pub path: PathBuf,
    /// SHA-256 of its bytes, in hexadecimal: its identity.
    pub sha256: String,
    /// What it says about itself.
    pub note: Note,
    /// The file, whole.
    pub bytes: Vec<u8>,
}

/// Opens a plugin file, and refuses it if anything about it is wrong.
///
/// `expected_name` is the name that the configuration gives the plugin; the file must agree.
///
/// # Errors
/// Which step refused it, and why. None of its code has run.
pub fn open(judge: &Judge, path: &Path, expected_name: Option<&str>) -> Result<PluginFile, PluginError> {
    let (fd, stat) = open_regular(path)?;
    judge.judge(fd.as_fd(), path)?;
    let bytes = read_whole(fd, &stat, path)?;
    let refused = |source| PluginError::Note { path: path.to_owned(), source };
    let note = Note::of_plugin(&bytes).map_err(refused)?;
    match expected_name {
        Some(expected) if expected != note.name => {
            Err(PluginError::Name { path: path.to_owned(), expected: expected.into(), found: note.name })
        }
        _ => Ok(PluginFile { path: path.to_owned(), sha256: hash(&bytes), note, bytes }),
    }
}

/// Reads a file's metadata for the operator's eyes: no trust needed, since nothing of it is ever run.
///
/// # Errors
/// The file cannot be read, or is no plugin.
pub fn info(path: &Path) -> Result<(Note, String), PluginError> {
    let (fd, stat) = open_regular(path)?;
    let bytes = read_whole(fd, &stat, path)?;
    let note = Note::of_file(&bytes).map_err(|source| PluginError::Note { path: path.to_owned(), source })?;
    Ok((note, hash(&bytes)))
}

/// Opens without waiting for a FIFO's writer or taking a terminal, and looks at the size.
fn open_regular(path: &Path) -> Result<(OwnedFd, Stat), PluginError> {
    let open = |source| PluginError::Open { path: path.to_owned(), source };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = openat(CWD, path, flags, Mode::empty()).map_err(|e| open(e.into()))?;
    let stat = fstat(&fd).map_err(|e| open(e.into()))?;
    let size = size_of_file(&stat);
    if size > MAX_SIZE {
        return Err(PluginError::TooLarge { path: path.to_owned(), size });
    }
    Ok((fd, stat))
}

/// The bytes of the file, if nobody writes to it meanwhile.
fn read_whole(fd: OwnedFd, before: &Stat, path: &Path) -> Result<Vec<u8>, PluginError> {
    let read = |source| PluginError::Read { path: path.to_owned(), source };
    let mut file = File::from(fd);
    let mut bytes = Vec::with_capacity(usize::try_from(size_of_file(before)).unwrap_or(0));
    (&mut file).take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(read)?;
    let after = fstat(&file).map_err(|e| read(e.into()))?;
    let stamp = |s: &Stat| (s.st_size, s.st_mtime, s.st_mtime_nsec);
    if stamp(before) != stamp(&after) || bytes.len() as u64 != size_of_file(&after) {
        return Err(PluginError::BeingWritten { path: path.to_owned() });
    }
    Ok(bytes)
}

fn size_of_file(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
