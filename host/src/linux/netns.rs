//! Making a network namespace and giving it a name, as `ip netns add` and `ip netns del` do.
//!
//! Mirrors iproute2's `ipnetns.c`: the folder is a shared mount of its own, so that names reach other mount namespaces;
//! the name is a placeholder file, taken with `O_EXCL`, on which the namespace is bind-mounted. Acts in the mount
//! namespace of its caller, and never changes the network namespace of a calling thread. Judges no names.
#![allow(unsafe_code)] // unshare(2) of a thread that lives for this call only.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Mounts may lie on top of each other; more than this on one name is not ours to clear away.
const STACK_MAX: usize = 64;

/// A new network namespace that nothing but the returned descriptor holds.
///
/// # Errors
/// When no thread can be started, or the kernel refuses a namespace (`EPERM`, `ENOSPC` at its limit).
pub fn create() -> io::Result<OwnedFd> {
    let maker = thread::Builder::new().name("netns-create".into()).spawn(|| {
        // SAFETY: unshare_unsafe asks that no other code relies on what is unshared staying shared. Only the network
        // namespace of this thread changes, the thread runs nothing but this closure, and it ends with it.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        Ok(OwnedFd::from(File::open("/proc/thread-self/ns/net")?))
    })?;
    maker.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes a namespace panicked")))
}

/// Makes `folder` ready to hold names: it exists and is a shared mount, as iproute2 wants it.
///
/// # Errors
/// When it cannot be made, or mounting is forbidden.
pub fn prepare_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let lock = File::open(folder)?;
    // Two callers at once would each bind the folder on itself; iproute2 takes the same lock.
    flock(&lock, FlockOperation::LockExclusive)?;
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match mount_change(folder, shared) {
        Err(Errno::INVAL) => {
            mount_bind_recursive(folder, folder)?;
            Ok(mount_change(folder, shared)?)
        }
        other => Ok(other?),
    }
}

/// Takes the name: the placeholder, which must not exist yet.
///
/// # Errors
/// `EEXIST` when the name is taken.
pub fn take_name(path: &Path) -> io::Result<()> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o000).open(path).map(drop)
}

/// Whether a name holds a namespace already.
#[must_use]
pub fn is_bound(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == libc::NSFS_MAGIC)
}

/// Binds a namespace on a name that was taken.
///
/// # Errors
/// When the name is gone or mounting is forbidden.
pub fn bind(netns: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    Ok(mount_bind(format!("/proc/self/fd/{}", netns.as_raw_fd()), path)?)
}

/// Makes a namespace called `name` in `folder`: everything that `ip netns add` does. Returns its path.
///
/// # Errors
/// `EEXIST` when the name is taken; on any other error the name is given back.
pub fn add(folder: &Path, name: &OsStr) -> io::Result<PathBuf> {
    prepare_folder(folder)?;
    let path = folder.join(name);
    take_name(&path)?;
    match create().and_then(|netns| bind(netns.as_fd(), &path)) {
        Ok(()) => Ok(path),
        Err(error) => {
            let _ = fs::remove_file(&path);
            Err(error)
        }
    }
}

/// Removes a name: detaches what is mounted on it, then unlinks it. What is gone already is no error.
///
/// # Errors
/// When detaching or unlinking is forbidden, or the name is no plain file.
pub fn remove(path: &Path) -> io::Result<()> {
    for _ in 0..STACK_MAX {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
