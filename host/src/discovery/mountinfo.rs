//! `/proc/self/mountinfo`: which names have a network namespace mounted on them, and a wake-up when mounts change.
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

    /// Calls with the real path of each mount of a network namespace, in the table's order.
    pub(super) fn for_each_netns(&mut self, mut call: impl FnMut(&Path)) -> io::Result<()> {
        self.file.rewind()?;
        self.text.clear();
        self.file.read_to_end(&mut self.text)?;
        for point in self.text.split(|byte| *byte == b'\n').filter_map(netns_point) {
            call(Path::new(OsStr::from_bytes(&point)));
        }
        Ok(())
    }
}

/// The mount point of a line, if it is of a network namespace.
fn netns_point(line: &[u8]) -> Option<Cow<'_, [u8]>> {
    // id parent major:minor root point …
    let mut fields = line.split(|byte| *byte == b' ').skip(3);
    fields.next().filter(|root| root.starts_with(b"net:["))?;
    fields.next().map(unescape)
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
    fn lines_of_network_namespaces() {
        let line =
            |root: &str, point: &str| format!("36 35 0:4 {root} {point} rw shared:7 - nsfs nsfs rw").into_bytes();
        let point = |root, name| netns_point(&line(root, name)).map(Cow::into_owned);
        assert_eq!(point("net:[4026532247]", "/run/netns/a"), Some(b"/run/netns/a".to_vec()));
        assert_eq!(point("net:[1]", "/r/a\\040b\\134040\\012"), Some(b"/r/a b\\040\n".to_vec()));
        assert_eq!(point("net:[1]", "/r/\\0"), Some(b"/r/\\0".to_vec()));
        assert_eq!(point("mnt:[4026532247]", "/run/x"), None);
        assert_eq!(point("/", "/run"), None);
        assert!(netns_point(b"").is_none() && netns_point(b"36 35 0:4 net:[1]").is_none());
    }
}
