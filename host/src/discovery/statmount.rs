//! The mount table by id: `statmount` and `listmount` (Linux 6.8).
//!
//! Mirrors `struct mnt_id_req` and `struct statmount` of the kernel's uapi, as far as used. Ids are the never-reused
//! ones, the same that mount events carry. Decides nothing.
#![allow(unsafe_code)] // Two system calls that no crate wraps.

use std::ffi::OsStr;
use std::io;
use std::mem::size_of;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::mountinfo;

const SYS_STATMOUNT: libc::c_long = 457;
const SYS_LISTMOUNT: libc::c_long = 458;
/// In place of an id: below the root of this process.
const LSMT_ROOT: u64 = u64::MAX;
const STATMOUNT_MNT_BASIC: u64 = 0x2;
const STATMOUNT_MNT_ROOT: u64 = 0x8;
const STATMOUNT_MNT_POINT: u64 = 0x10;
const WANTED: u64 = STATMOUNT_MNT_BASIC | STATMOUNT_MNT_ROOT | STATMOUNT_MNT_POINT;
/// Not in the crate yet: ask for the mount's never-reused id (6.8).
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
/// Room for a path of any length.
const ROOM: usize = 8192;

/// `struct mnt_id_req`, first version.
#[repr(C)]
#[derive(Debug)]
struct MntIdReq {
    size: u32,
    spare: u32,
    mnt_id: u64,
    param: u64,
}

/// `struct statmount`, to the first string of its tail.
#[repr(C)]
#[derive(Debug)]
struct Statmount {
    size: u32,
    mnt_opts: u32,
    mask: u64,
    sb_dev: [u32; 2],
    sb_magic: u64,
    sb_flags: u32,
    fs_type: u32,
    mnt_id: u64,
    mnt_parent_id: u64,
    mnt_id_old: [u32; 2],
    mnt_attr: u64,
    mnt_propagation: u64,
    mnt_peer_group: u64,
    mnt_master: u64,
    propagate_from: u64,
    mnt_root: u32,
    mnt_point: u32,
    mnt_ns_id: u64,
    later: [u64; 49],
    strings: [u8; ROOM],
}

/// One mount.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mount<'a> {
    /// On which mount it lies.
    pub parent: u64,
    /// Where, as a real path below our root.
    pub point: &'a Path,
    /// The inode, if it is of a network namespace.
    pub netns: Option<u64>,
}

/// Asks about one mount at a time, with one buffer.
#[derive(Debug)]
pub(super) struct MountTable {
    answer: Box<Statmount>,
}

impl MountTable {
    /// # Errors
    /// `ENOSYS` or `EPERM` where the kernel or a filter refuses the calls.
    pub(super) fn new() -> io::Result<MountTable> {
        // SAFETY: `Statmount` is integers and arrays of them: all zero is a value of it.
        let mut table = MountTable { answer: Box::new(unsafe { std::mem::zeroed::<Statmount>() }) };
        if let Some(id) = list(LSMT_ROOT, 0, &mut [0; 1])?.first() {
            table.mount(*id)?;
        }
        Ok(table)
    }

    /// What and where the mount is; `None` when it is gone, or outside our root.
    ///
    /// # Errors
    /// What the kernel says beyond that.
    pub(super) fn mount(&mut self, id: u64) -> io::Result<Option<Mount<'_>>> {
        let request = request(id, WANTED);
        // SAFETY: the request announces its size, which is the first version's; the kernel writes at most the size of
        // the answer, which is ours alone. Both outlive the call.
        let done = unsafe {
            libc::syscall(SYS_STATMOUNT, &raw const request, &raw mut *self.answer, size_of::<Statmount>(), 0)
        };
        if done < 0 {
            let error = io::Error::last_os_error();
            // EPERM is the answer for what our root does not reach.
            let absent = matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EPERM));
            return if absent { Ok(None) } else { Err(error) };
        }
        if self.answer.mask & WANTED != WANTED {
            return Ok(None);
        }
        let point = Path::new(OsStr::from_bytes(self.string(self.answer.mnt_point)));
        let netns = mountinfo::netns(self.string(self.answer.mnt_root));
        Ok(Some(Mount { parent: self.answer.mnt_parent_id, point, netns }))
    }

    fn string(&self, at: u32) -> &[u8] {
        let tail = self.answer.strings.get(at as usize..).unwrap_or_default();
        tail.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// The ids of all mounts below our root.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn ids(&self) -> io::Result<Vec<u64>> {
        let mut all = Vec::new();
        let mut page = vec![0; 1024];
        loop {
            let after = all.last().copied().unwrap_or(0);
            let got = list(LSMT_ROOT, after, &mut page)?;
            all.extend_from_slice(got);
            if got.len() < 1024 {
                return Ok(all);
            }
        }
    }
}

/// The mount that is on top at a path.
///
/// # Errors
/// When there is nothing.
pub(super) fn mount_at(path: &Path) -> io::Result<u64> {
    let mask = StatxFlags::from_bits_retain(STATX_MNT_ID_UNIQUE);
    Ok(statx(CWD, path, AtFlags::NO_AUTOMOUNT, mask)?.stx_mnt_id)
}

fn request(mnt_id: u64, param: u64) -> MntIdReq {
    MntIdReq { size: 24, spare: 0, mnt_id, param }
}

fn list(below: u64, after: u64, page: &mut [u64]) -> io::Result<&[u64]> {
    let request = request(below, after);
    // SAFETY: the request as in `point`; the kernel writes at most as many ids as the page has room for.
    let got = unsafe { libc::syscall(SYS_LISTMOUNT, &raw const request, page.as_mut_ptr(), page.len(), 0) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    Ok(&page[..got.min(page.len())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn layout_is_the_kernels() {
        assert_eq!(size_of::<MntIdReq>(), 24);
        assert_eq!(offset_of!(Statmount, sb_magic), 24);
        assert_eq!(offset_of!(Statmount, fs_type), 36);
        assert_eq!(offset_of!(Statmount, mnt_id), 40);
        assert_eq!(offset_of!(Statmount, mnt_attr), 64);
        assert_eq!((offset_of!(Statmount, mnt_root), offset_of!(Statmount, mnt_point)), (104, 108));
        assert_eq!(offset_of!(Statmount, mnt_ns_id), 112);
        assert_eq!(offset_of!(Statmount, strings), 512);
    }

    #[test]
    fn agrees_with_mountinfo() {
        let Ok(mut table) = MountTable::new() else { return };
        let ids = table.ids().expect("the calls work here");
        let point = |id: &u64| Some(table.mount(*id).expect("it works")?.point.to_owned());
        let points: Vec<_> = ids.iter().filter_map(point).collect();
        let text = std::fs::read("/proc/self/mountinfo").expect("it can be read");
        for line in text.split(|b| *b == b'\n').filter_map(|line| std::str::from_utf8(line).ok()) {
            let Some(point) = line.split(' ').nth(4).filter(|point| !point.contains('\\') && *point != "/") else {
                continue;
            };
            assert!(points.iter().any(|known| known == Path::new(point)), "{point}");
        }
    }
}
