//! Namespaces by their nsfs file handle (Linux 6.18): which namespace a name shows, and a descriptor of it, without
//! opening anything through the name's mount.
//!
//! Mirrors `struct nsfs_file_handle` and `FD_NSFS_ROOT` of the kernel's uapi. The descriptor belongs to the kernel's own
//! nsfs mount, so it never makes the operator's `umount` busy, and no thread has to enter. Whether this kernel can is
//! found out once, by trying it on our own namespace. Where it cannot, `ns::identify` enters instead.
#![allow(unsafe_code)] // name_to_handle_at and open_by_handle_at: no crate knows nsfs handles yet.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

/// Take the mount's never-reused id, not the one that is reused (6.12).
const AT_HANDLE_MNT_ID_UNIQUE: libc::c_int = 0x001;
/// Stands for the root of nsfs where a descriptor is expected.
const FD_NSFS_ROOT: RawFd = -10003;
/// The handle type of nsfs (`FILEID_NSFS`).
const FILEID_NSFS: i32 = 0xf1;

/// `struct file_handle` with `struct nsfs_file_handle` as its content.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    content: Content,
}

/// `struct nsfs_file_handle`. Packed to 4 because `file_handle`'s content begins at offset 8 whatever its alignment.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default)]
struct Content {
    ns_id: u64,
    ns_type: u32,
    ns_inum: u32,
}

const CONTENT_BYTES: u32 = 16;

/// Which network namespace is mounted at a path, and by which mount.
#[derive(Clone, Copy, Debug)]
pub struct Handle {
    raw: RawHandle,
    /// The mount that answered for the path, by its never-reused id.
    pub mount: u64,
}

impl Handle {
    /// The namespace's id, which is its net cookie.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.raw.content.ns_id
    }

    /// The namespace's inode, which another may have after its end.
    #[must_use]
    pub fn inode(&self) -> u64 {
        u64::from(self.raw.content.ns_inum)
    }
}

/// Whether this kernel has nsfs handles, and why we think so.
pub fn available() -> &'static Result<(), String> {
    static AVAILABLE: OnceLock<Result<(), String>> = OnceLock::new();
    AVAILABLE.get_or_init(|| {
        let own = handle_at(c"/proc/thread-self/ns/net", libc::AT_SYMLINK_FOLLOW)
            .map_err(|e| format!("no nsfs file handles (name_to_handle_at: {e})"))?
            .ok_or("no nsfs file handles (another handle type)")?;
        open(&own).map(drop).map_err(|e| format!("no nsfs file handles (open_by_handle_at: {e})"))
    })
}

/// The handle of the network namespace mounted at `path`; `None` when something else is there.
///
/// # Errors
/// `ENOENT` when the name is gone.
pub fn handle(path: &Path) -> io::Result<Option<Handle>> {
    handle_at(&CString::new(path.as_os_str().as_bytes())?, 0)
}

fn handle_at(path: &CStr, flags: libc::c_int) -> io::Result<Option<Handle>> {
    let mut raw = RawHandle { bytes: CONTENT_BYTES, ..RawHandle::default() };
    let mut mount: u64 = 0;
    // SAFETY: the path is NUL-terminated; `raw` is a file_handle with room for the `bytes` that it announces; with
    // AT_HANDLE_MNT_ID_UNIQUE the kernel writes 64 bits to `mount`, and an older kernel refuses the flag and writes none.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            &raw mut raw,
            &raw mut mount,
            flags | AT_HANDLE_MNT_ID_UNIQUE,
        )
    };
    if done < 0 {
        let error = io::Error::last_os_error();
        // EOPNOTSUPP: a file system without handles; EOVERFLOW: its handle is longer than a namespace's.
        let foreign = matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EOVERFLOW));
        return if foreign { Ok(None) } else { Err(error) };
    }
    let is_net = raw.kind == FILEID_NSFS && raw.bytes == CONTENT_BYTES && raw.content.ns_type == net_type();
    Ok(is_net.then_some(Handle { raw, mount }))
}

fn net_type() -> u32 {
    libc::CLONE_NEWNET.cast_unsigned()
}

/// Opens the namespace of a handle.
///
/// # Errors
/// `ESTALE` when the namespace has ended, `EPERM` without CAP_SYS_ADMIN over it.
pub fn open(handle: &Handle) -> io::Result<OwnedFd> {
    // SAFETY: the handle is one that the kernel filled, of the length that it announces; the kernel only reads it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            FD_NSFS_ROOT,
            &raw const handle.raw,
            libc::O_RDONLY | libc::O_CLOEXEC,
        )
    };
    let fd = RawFd::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Finds a namespace of which only the inode is known, without touching any mount of it.
///
/// Even asking a name for its handle holds its mount for a fraction of a microsecond, and a plain umount in that moment
/// fails. So ids are tried first: the kernel gives them out in ascending order, from a batch per processor, and opens a
/// handle only if id and inode belong together. A new namespace is mostly the next one of a batch that was seen lately.
/// A wrong guess costs a system call and harms nothing; who finds nothing asks the name.
#[derive(Debug, Default)]
pub struct Finder {
    /// The highest id seen of each batch, the latest batch first.
    highest: Vec<u64>,
}

/// Ids that a processor takes at a time (`COOKIE_LOCAL_BATCH`), from 1 on.
const BATCH: u64 = 4096;
const BATCHES_AT_MOST: usize = 8;
/// Tries, over all batches.
const TRIES: u64 = 64;

impl Finder {
    /// This id was seen.
    pub fn learn(&mut self, id: u64) {
        let known = self.highest.iter().position(|known| batch(*known) == batch(id));
        let highest = known.map_or(id, |at| self.highest.remove(at).max(id));
        self.highest.insert(0, highest);
        self.highest.truncate(BATCHES_AT_MOST);
    }

    /// The network namespace with this inode; `likely` is tried first.
    pub fn find(&mut self, inode: u64, likely: Option<u64>) -> Option<(u64, OwnedFd)> {
        let inode = u32::try_from(inode).ok()?;
        let found = likely.into_iter().chain(self.next_ids()).find_map(|id| Some((id, open_id(id, inode).ok()?)))?;
        self.learn(found.0);
        Some(found)
    }

    /// The nearest first, over all batches, and over the next one where one is nearly used up.
    fn next_ids(&self) -> impl Iterator<Item = u64> {
        let each = TRIES / (self.highest.len() as u64).max(1);
        let used_up = self.highest.iter().any(|highest| batch(highest + each) != batch(*highest));
        let last = self.highest.iter().copied().max().filter(|_| used_up);
        let next_batch = last.map(|last| (batch(last) + 1) * BATCH);
        let starts: Vec<u64> = self.highest.iter().copied().chain(next_batch).collect();
        (1..=each).flat_map(move |ahead| starts.clone().into_iter().map(move |start| start + ahead))
    }
}

fn batch(id: u64) -> u64 {
    id.saturating_sub(1) / BATCH
}

fn open_id(ns_id: u64, ns_inum: u32) -> io::Result<OwnedFd> {
    let content = Content { ns_id, ns_type: net_type(), ns_inum };
    open(&Handle { raw: RawHandle { bytes: CONTENT_BYTES, kind: FILEID_NSFS, content }, mount: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    #[test]
    fn layout_is_the_kernels() {
        assert_eq!(size_of::<Content>(), CONTENT_BYTES as usize);
        assert_eq!(offset_of!(RawHandle, content), 8);
        assert_eq!((offset_of!(Content, ns_type), offset_of!(Content, ns_inum)), (8, 12));
    }

    #[test]
    fn the_next_ids_are_tried_nearest_first() {
        let mut finder = Finder::default();
        assert_eq!(finder.next_ids().count(), 0);
        [4100, 9000, 4101, 4099].into_iter().for_each(|id| finder.learn(id));
        assert_eq!(finder.next_ids().take(4).collect::<Vec<_>>(), [4102, 9001, 4103, 9002]);
        let mut finder = Finder::default();
        [4100, 8190].into_iter().for_each(|id| finder.learn(id));
        assert_eq!(finder.next_ids().take(4).collect::<Vec<_>>(), [8191, 8193, 8192, 8194]);
        (0..100).for_each(|batch| finder.learn(batch * BATCH + 1));
        assert_eq!((finder.highest.len(), finder.next_ids().count()), (8, 64));
    }

    #[test]
    fn finds_our_own_namespace_by_inode() {
        if available().is_err() {
            return;
        }
        let own = handle_at(c"/proc/self/ns/net", libc::AT_SYMLINK_FOLLOW).ok().flatten().expect("our own");
        let mut finder = Finder::default();
        assert!(finder.find(own.inode(), None).is_none());
        assert!(finder.find(own.inode() + 1, Some(own.id())).is_none());
        finder.learn(own.id().saturating_sub(3).max(1));
        assert_eq!(finder.find(own.inode(), None).map(|(id, _)| id), Some(own.id()));
    }

    #[test]
    fn other_files_have_no_handle_here() {
        for path in ["/", "/proc/self/status", "/dev/null"] {
            assert!(handle(Path::new(path)).is_ok_and(|h| h.is_none()), "{path}");
        }
        assert!(handle(Path::new("/nonexistent")).is_err());
    }
}
