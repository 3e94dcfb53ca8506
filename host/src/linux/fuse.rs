//! FUSE as its mounter sees it: the device, and a mount that is whole before anybody sees it.
//!
//! The mount is made with the kernel's newer calls (`fsopen`, `fsmount`, `move_mount`): it exists, and can be served,
//! while it is in no mount table. So nothing appears before the daemon has accepted it, nothing is left when somebody
//! dies in between, and who comes by never meets a mount that does not answer yet. `mount(2)` would do all at once.
//!
//! Acts in the mount namespace of its caller. How a mount is served is in `fuse_session.rs`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use rustix::process::{getegid, geteuid};

const DEVICE: &str = "/dev/fuse";
/// Of `/dev/fuse`, on every Linux.
const DEVICE_NUMBER: (u32, u32) = (10, 229);

/// A mount to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewMount<'a> {
    /// The file system type: it shows as `fuse.TYPE`.
    pub fs: &'a str,
    /// As mount(8) shows it.
    pub source: &'a str,
    /// Nothing can be written through it.
    pub read_only: bool,
    /// The kernel judges permission bits; else the file system itself does.
    pub default_permissions: bool,
}

/// Opens the device: a connection that is yet to be mounted.
///
/// # Errors
/// `ENOENT` without the device, `EACCES` where it is not for this user, `ENODEV` without FUSE in the kernel.
pub fn open_device() -> io::Result<OwnedFd> {
    Ok(open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?)
}

/// Whether a descriptor is of the device.
#[must_use]
pub fn is_device(descriptor: impl AsFd) -> bool {
    let Ok(stat) = fstat(descriptor) else { return false };
    let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && number == DEVICE_NUMBER
}

/// Mounts a connection nowhere yet. The mount is gone with the descriptor, unless it is attached.
///
/// # Errors
/// `EPERM` for who may not mount.
pub fn mount_detached(device: impl AsFd, new: &NewMount<'_>) -> io::Result<OwnedFd> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: &str| fsconfig_set_string(&context, key, value);
    set("source", new.source)?;
    set("subtype", new.fs)?;
    set("fd", &device.as_fd().as_raw_fd().to_string())?;
    set("rootmode", "40000")?;
    set("user_id", &geteuid().as_raw().to_string())?;
    set("group_id", &getegid().as_raw().to_string())?;
    // Who may see what is for the files' own bits to say, as in procfs.
    fsconfig_set_flag(&context, "allow_other")?;
    if new.default_permissions {
        fsconfig_set_flag(&context, "default_permissions")?;
    }
    fsconfig_create(&context)?;
    let mut attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, new.read_only);
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Puts a detached mount on a directory, in one step.
///
/// # Errors
/// `ENOENT` if the directory has been removed since it was opened.
pub fn attach(mount: impl AsFd, directory: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", directory, "", flags)?)
}

/// Takes the topmost mount off a directory; a lazy way leaves it to those who still use it.
///
/// # Errors
/// `EBUSY` while something uses it (never when lazy), `EINVAL` if nothing is mounted there.
pub fn detach(point: &Path, lazy: bool) -> io::Result<()> {
    let flags = if lazy { UnmountFlags::DETACH | UnmountFlags::NOFOLLOW } else { UnmountFlags::NOFOLLOW };
    Ok(unmount(point, flags)?)
}

/// Whether an error says that the mount's daemon is gone.
#[must_use]
pub fn is_dead(error: &io::Error) -> bool {
    [Errno::NOTCONN, Errno::CONNABORTED].iter().any(|dead| error.raw_os_error() == Some(dead.raw_os_error()))
}

/// Whether the mount that a directory is the root of answers: its root is asked for.
///
/// # Errors
/// Its answer, if it is an error.
pub fn look(directory: impl AsFd) -> io::Result<()> {
    Ok(fstat(directory).map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn other_files_are_not_the_device() -> io::Result<()> {
        assert!(!is_device(File::open("/dev/null")?));
        assert!(!is_device(File::open("/proc/self/stat")?));
        match open_device() {
            Ok(device) => assert!(is_device(device)),
            // A machine, or a user, without it.
            Err(error) => assert!(error.raw_os_error().is_some(), "{error}"),
        }
        Ok(())
    }
}
