//! `/proc/self/mountinfo`: where network namespaces and other things are mounted, and a wake-up when that changes.
//!
//! Mirrors `show_mountinfo` of the kernel's `fs/proc_namespace.c`. Its text is read whole, so its cost grows with the number
//! of mounts; who calls decides how often. Reading is not atomic: a mount that moves meanwhile may be missed.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The table, open: one descriptor for waiting and for reading.
#[derive(Debug)]
pub(super) struct Mountinfo {
    file: File,
    text: Vec<u8>,
}

impl AsFd for Mountinfo {
    /// Ready (POLLPRI) when mounts have changed since it was last polled.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Mountinfo {
    pub(super) fn open() -> io::Result<Mountinfo> {
        Ok(Mountinfo { file: File::open("/proc/thread-self/mountinfo")?, text: Vec::new() })
    }

    /// Calls with the real path of each mount and, if it is of a network namespace, its inode; in the table's order.
    pub(super) fn for_each(&mut self, mut call: impl FnMut(&Path, Option<u64>)) -> io::Result<()> {
        self.file.rewind()?;
        self.text.clear();
        self.file.read_to_end(&mut self.text)?;
        for (point, netns) in self.text.split(|byte| *byte == b'\n').filter_map(mount) {
            call(Path::new(OsStr::from_bytes(&point)), netns);
        }
        Ok(())
    }
}

/// A line's mount point, and the inode if a network namespace is mounted there.
fn mount(line: &[u8]) -> Option<(Cow<'_, [u8]>, Option<u64>)> {
    // id parent major:minor root point …
    let mut fields = line.split(|byte| *byte == b' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    Some((unescape(point), netns(root)))
}

/// nsfs writes its roots as `net:[4026532247]`.
pub(super) fn netns(root: &[u8]) -> Option<u64> {
    let inode = root.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(inode).ok()?.parse().ok()
}

/// Blanks, line ends and backslashes stand as `\ooo`.
fn unescape(field: &[u8]) -> Cow<'_, [u8]> {
    if !field.contains(&b'\\') {
        return Cow::Borrowed(field);
    }
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let octal = after.first_chunk::<3>().filter(|_| *first == b'\\').and_then(byte);
        plain.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    Cow::Owned(plain)
}

fn byte(digits: &[u8; 3]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_byte_by_byte() {
        let line =
            |root: &str, point: &str| format!("36 35 0:4 {root} {point} rw shared:7 - nsfs nsfs rw").into_bytes();
        let read = |root, point| mount(&line(root, point)).map(|(point, netns)| (point.into_owned(), netns));
        assert_eq!(read("net:[4026532247]", "/run/netns/a"), Some((b"/run/netns/a".to_vec(), Some(4_026_532_247))));
        assert_eq!(read("net:[1]", r"/a\040b\134040\012"), Some((b"/a b\\040\n".to_vec(), Some(1))));
        assert_eq!(read("net:[1]", r"/r/\0"), Some((br"/r/\0".to_vec(), Some(1))));
        assert_eq!(read("mnt:[4026532247]", "/run/x"), Some((b"/run/x".to_vec(), None)));
        assert_eq!(read("/net:[1]", "/run"), Some((b"/run".to_vec(), None)));
        assert!(mount(b"").is_none() && mount(b"36 35 0:4 net:[1]").is_none());
    }
}
