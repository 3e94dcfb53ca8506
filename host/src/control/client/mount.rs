//! `pernetctl mount` and `umount`: mounts are made here, in the caller's mount namespace, and served by the daemon.
//!
//! The mount is made attached nowhere, its connection handed to the daemon, and attached when the daemon serves it: so a
//! mount that is refused never shows, and one whose maker dies in between is nobody's to clear away. What a killed daemon
//! left is only to be seen from here, too: mounting again takes its place.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::connection::Connection;
use super::failure::Failure;
use crate::control::wire::generated::{FilesystemList_Args, FilesystemList_Reply, Mount_Args, Mount_Reply};
use crate::control::wire::{Filesystem, MountEntry};
use crate::linux::fuse::{self, NewMount};
use crate::linux::mount_table::{self, mounted_at, open_directory};

/// What is to be mounted, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The file system type.
    pub(super) fs: String,
    pub(super) netns: Option<String>,
    /// For the type itself, separated by commas.
    pub(super) options: String,
    pub(super) source: String,
    pub(super) directory: PathBuf,
    pub(super) read_only: bool,
}

/// Why a mount is not made, by whose fault: mount(8) has an exit status for each.
#[derive(Debug)]
pub(super) enum Refused {
    /// The caller may not.
    Permission(Failure),
    /// The machine lacks something.
    System(Failure),
    /// Everything else.
    Mount(Failure),
}

impl Refused {
    pub(super) fn failure(self) -> Failure {
        match self {
            Refused::Permission(failure) | Refused::System(failure) | Refused::Mount(failure) => failure,
        }
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Refused::Mount(failure)
    }
}

/// Mounts; what the daemon now serves.
pub(super) fn mount(daemon: &mut Connection, wanted: &Wanted) -> Result<MountEntry, Refused> {
    let fs = check_type(daemon, &wanted.fs)?;
    let place = Place::take(&wanted.directory, &wanted.fs)?;
    let device = fuse::open_device().map_err(no_device)?;
    let new = NewMount {
        fs: &fs.name,
        source: &wanted.source,
        read_only: wanted.read_only,
        default_permissions: !fs.judges_access,
    };
    let detached = fuse::mount_detached(&device, &new).map_err(|e| not_mounted(&wanted.directory, &e))?;
    let arguments = Mount_Args {
        fs: wanted.fs.clone(),
        netns: wanted.netns.clone(),
        source: wanted.source.clone(),
        target: place.path.display().to_string(),
        options: wanted.options.clone(),
    };
    daemon.send("Mount", &arguments, false, Some(device.as_fd()))?;
    let served: Mount_Reply = daemon.receive()?.reply;
    // The daemon's copy keeps the connection from here on.
    drop(device);
    fuse::attach(&detached, &place.directory).map_err(|e| not_mounted(&wanted.directory, &e))?;
    Ok(served.mount)
}

/// Everything that can be said without mounting (`mount -f`).
pub(super) fn check(daemon: &mut Connection, wanted: &Wanted) -> Result<(), Refused> {
    check_type(daemon, &wanted.fs)?;
    Ok(Place::look(&wanted.directory, &wanted.fs, false).map(drop)?)
}

/// The type, as the daemon has it. It judges again when it is asked to mount; this is for the options of the mount.
fn check_type(daemon: &mut Connection, name: &str) -> Result<Filesystem, Failure> {
    let all: FilesystemList_Reply = daemon.call("FilesystemList", &FilesystemList_Args {})?;
    let wanted = name.split('.').next().unwrap_or_default();
    let place = format!("file system type {name}");
    match all.filesystems.iter().find(|fs| fs.name == wanted) {
        Some(fs) if fs.user => Ok(fs.clone()),
        Some(_) => {
            let remedy = "choose another type (`pernetctl fs list`)";
            Err(Failure::new(place, "EINVAL: it is for internal mounts only; users cannot mount it", remedy))
        }
        None => {
            let names: Vec<&str> = all.filesystems.iter().filter(|fs| fs.user).map(|fs| fs.name.as_str()).collect();
            let what = format!("ENODEV: it is not registered; there are: {}", names.join(", "));
            Err(Failure::new(place, what, "choose one of these, or configure the plugin that has it"))
        }
    }
}

/// A directory to mount on, which nobody else mounts on meanwhile.
struct Place {
    directory: OwnedFd,
    path: PathBuf,
    /// Two who mount at once would lie on top of each other, each seeing a free directory.
    _lock: Option<File>,
}

impl Place {
    /// Takes the directory, and clears away what a daemon that is gone left there.
    fn take(path: &Path, fs: &str) -> Result<Place, Failure> {
        let free = Place::look(path, fs, true)?;
        let lock = File::open(format!("/proc/self/fd/{}", free.directory.as_raw_fd()));
        let lock = lock.and_then(|lock| flock(&lock, FlockOperation::LockExclusive).map_err(Into::into).map(|()| lock));
        let lock = lock.map_err(|e| Failure::new(path.display(), format!("cannot be locked: {e}"), AS_ROOT))?;
        // Whoever had the lock has mounted by now.
        Ok(Place { _lock: Some(lock), ..Place::look(path, fs, true)? })
    }

    fn look(path: &Path, fs: &str, clear: bool) -> Result<Place, Failure> {
        loop {
            let place = Place::open(path)?;
            let Some(mount) = seen(path, &place.directory)? else { return Ok(place) };
            let dead = fuse::look(&place.directory).is_err_and(|e| fuse::is_dead(&e));
            let mine = mount_table::fuse_subtype(&mount.fs_type) == Some(fs);
            let refuse = |what: String, remedy| Err(Failure::new(path.display(), what, remedy));
            match (mine, dead) {
                (true, true) if clear => {
                    let what = "a mount whose daemon is gone is taken away; it is mounted anew";
                    eprintln!("pernetctl: {}: {what}", path.display());
                    drop(place);
                    fuse::detach(&mount.point, true).map_err(|e| not_unmounted(path, &e))?;
                }
                (true, false) => {
                    let remedy = "use it, unmount it first (`pernetctl umount`), or choose another directory";
                    return refuse(format!("EBUSY: {} is mounted there already", mount.fs_type), remedy);
                }
                (false, true) => {
                    let what = format!("a dead mount of {} lies there, which is another's", mount.fs_type);
                    return refuse(what, "unmount it first (umount -l)");
                }
                _ => return Ok(place),
            }
        }
    }

    fn open(path: &Path) -> Result<Place, Failure> {
        let directory = open_directory(path).map_err(|e| no_directory(path, &e))?;
        let resolved = std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        Ok(Place { directory, path: resolved.unwrap_or_else(|_| path.to_owned()), _lock: None })
    }
}

/// The mount whose root a directory is.
fn seen(path: &Path, directory: &OwnedFd) -> Result<Option<mount_table::MountEntry>, Failure> {
    let unseen = |e| Failure::new(path.display(), format!("what is mounted there cannot be seen: {e}"), PROC);
    mounted_at(directory).map_err(unseen)
}

/// Unmounts; what was mounted.
pub(super) fn umount(daemon: Option<&mut Connection>, path: &Path, lazy: bool) -> Result<UnmountedEntry, Failure> {
    let directory = open_directory(path).map_err(|e| no_directory(path, &e))?;
    let Some(mount) = seen(path, &directory)? else {
        let remedy = "name the directory of a mount (`pernetctl mount`, findmnt)";
        return Err(Failure::new(path.display(), "EINVAL: nothing is mounted there", remedy));
    };
    let dead = fuse::look(&directory).is_err_and(|e| fuse::is_dead(&e));
    drop(directory);
    let subtype = mount_table::fuse_subtype(&mount.fs_type);
    if !subtype.is_some_and(|fs| dead || daemon.is_some_and(|daemon| is_type(daemon, fs))) {
        let what = format!("EINVAL: a mount of {} is no mount of pernetd's", mount.fs_type);
        return Err(Failure::new(path.display(), what, "use umount(8)"));
    }
    fuse::detach(&mount.point, lazy).map_err(|e| not_unmounted(path, &e))?;
    let target = mount.point.display().to_string();
    Ok(UnmountedEntry { fs: subtype.unwrap_or_default().to_owned(), source: mount.source, target })
}

/// What `umount` took away.
#[derive(Debug, serde::Serialize)]
pub(super) struct UnmountedEntry {
    pub(super) fs: String,
    pub(super) source: String,
    pub(super) target: String,
}

fn is_type(daemon: &mut Connection, name: &str) -> bool {
    let all = daemon.call::<FilesystemList_Reply>("FilesystemList", &FilesystemList_Args {});
    all.is_ok_and(|all| all.filesystems.iter().any(|fs| fs.name == name))
}

const AS_ROOT: &str = "run this as root";
const PROC: &str = "mount procfs on /proc";

fn no_directory(path: &Path, error: &io::Error) -> Failure {
    let (what, remedy) = match error.raw_os_error() {
        Some(libc::ENOENT) => ("ENOENT: there is no such directory".to_owned(), "make it first (mkdir -p)"),
        Some(libc::ENOTDIR) => {
            ("ENOTDIR: it is no directory".to_owned(), "name a directory: mounts go on nothing else")
        }
        _ => (format!("cannot be opened: {error}"), "name a directory that can be reached"),
    };
    Failure::new(path.display(), what, remedy)
}

fn no_device(error: io::Error) -> Refused {
    let place = "/dev/fuse";
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            Refused::Permission(Failure::new(place, format!("EACCES: it is not for this user: {error}"), AS_ROOT))
        }
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            let what = format!("this kernel or container has no FUSE: {error}");
            Refused::System(Failure::new(place, what, "load it (modprobe fuse), or let the container have /dev/fuse"))
        }
        _ => Refused::System(Failure::new(place, error, "see what the system is short of")),
    }
}

fn not_mounted(directory: &Path, error: &io::Error) -> Refused {
    let failure = |what: String, remedy| Failure::new(directory.display(), what, remedy);
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            Refused::Permission(failure(format!("EPERM: this user may not mount: {error}"), AS_ROOT))
        }
        Some(libc::ENOENT) => {
            Refused::Mount(failure("ENOENT: the directory has just been removed".into(), "make it again"))
        }
        _ => Refused::Mount(failure(format!("cannot be mounted on: {error}"), "see the kernel's log (dmesg)")),
    }
}

fn not_unmounted(path: &Path, error: &io::Error) -> Failure {
    let (what, remedy) = match error.raw_os_error() {
        Some(libc::EBUSY) => (
            "EBUSY: it is in use".to_owned(),
            "end who uses it (fuser -vm), or detach it with -l: it then ends when the last file is closed",
        ),
        Some(libc::EPERM) => (format!("EPERM: this user may not unmount: {error}"), AS_ROOT),
        _ => (format!("cannot be unmounted: {error}"), "see what is mounted there (findmnt)"),
    };
    Failure::new(path.display(), what, remedy)
}
