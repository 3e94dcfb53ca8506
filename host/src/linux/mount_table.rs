//! What is mounted at a directory, as the caller's mount namespace has it.
//!
//! By the id of the mount that an open directory is in, so that no path is asked twice: a path can change in between, and
//! on a dead FUSE mount only opening it as a path works at all. Mirrors one line of `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Where it is.
    pub point: PathBuf,
    /// `fuse.pernetfs`, `tmpfs`, …
    pub fs_type: String,
    /// As it was given to mount(8).
    pub source: String,
}

/// A directory to mount on, or to unmount: opened as a path, whatever is there.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, and what else the path's folders say.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The mount whose root the directory is; `None` if it is an ordinary directory of the mount that it is in.
///
/// # Errors
/// When procfs is not mounted.
pub fn mounted_at(directory: impl AsFd) -> io::Result<Option<MountEntry>> {
    let number = directory.as_fd().as_raw_fd();
    let path = fs::read_link(format!("/proc/self/fd/{number}"))?;
    let found = line_of(&directory)?.and_then(|line| entry(&line));
    Ok(found.filter(|mount| mount.point == path))
}

/// The line of the mount that the directory is in.
fn line_of(directory: impl AsFd) -> io::Result<Option<Vec<u8>>> {
    let number = directory.as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim);
    let table = fs::read("/proc/self/mountinfo")?;
    let mut lines = table.split(|byte| *byte == b'\n');
    let found = lines.find(|line| line.split(|b| *b == b' ').next() == id.map(str::as_bytes));
    Ok(found.map(<[u8]>::to_vec))
}

/// Whether the mount that a folder is in, or will be, neither hears of mounts in other mount namespaces nor tells of its own.
///
/// # Errors
/// When procfs is not mounted.
pub fn is_private(folder: &Path) -> io::Result<bool> {
    let Some(directory) = folder.ancestors().find_map(|there| open_directory(there).ok()) else { return Ok(false) };
    Ok(line_of(directory)?.is_some_and(|line| !propagates(&line)))
}

fn propagates(line: &[u8]) -> bool {
    let optional = line.split(|byte| *byte == b' ').skip(6).take_while(|field| *field != b"-");
    optional.into_iter().any(|field| field.starts_with(b"shared:") || field.starts_with(b"master:"))
}

/// `36 35 0:39 / /run/x rw,nosuid shared:1 - fuse.pernetfs none rw,user_id=0`
fn entry(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = PathBuf::from(unescaped(fields.nth(4)?));
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |field: &[u8]| unescaped(field).to_string_lossy().into_owned();
    Some(MountEntry { point, fs_type: text(after.next()?), source: text(after.next()?) })
}

/// Blanks and backslashes are written as `\040`.
fn unescaped(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &after[3..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// Whether a mount is one of FUSE's, and of which subtype.
#[must_use]
pub fn fuse_subtype(fs_type: &str) -> Option<&str> {
    fs_type.strip_prefix("fuse.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_understood() {
        let line = br"63 43 0:39 / /tmp/a\040b\134 rw,nosuid shared:7 master:1 - fuse.pernetfs no\040ne rw,user_id=0";
        let expected =
            MountEntry { point: PathBuf::from("/tmp/a b\\"), fs_type: "fuse.pernetfs".into(), source: "no ne".into() };
        assert_eq!(entry(line), Some(expected));
        assert_eq!(entry(b"63 43 0:39 / /tmp"), None);
        assert!(propagates(line) && propagates(b"1 2 0:3 / /x rw master:1 - tmpfs shared:1 rw"));
        assert!(
            !propagates(b"1 2 0:3 / /shared:1 rw - tmpfs shared:1 rw")
                && !propagates(b"1 2 0:3 / /x rw unbindable - t t")
        );
        assert_eq!(fuse_subtype("fuse.pernetfs"), Some("pernetfs"));
        assert_eq!(fuse_subtype("tmpfs"), None);
    }

    #[test]
    fn the_roots_of_mounts_are_told_from_other_directories() -> io::Result<()> {
        let proc = mounted_at(open_directory(Path::new("/proc"))?)?;
        assert_eq!(proc.map(|mount| mount.fs_type).as_deref(), Some("proc"));
        assert_eq!(mounted_at(open_directory(Path::new("/proc/self"))?)?, None);
        assert!(open_directory(Path::new("/proc/version")).is_err());
        Ok(())
    }
}
