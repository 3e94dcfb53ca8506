//! The socket in the runtime folder: made safely, open to all, gone at the end.
//!
//! A lock on the folder says which daemon is at home there; it goes with its process however that ends, so that a
//! socket found under it is known to be stale.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{getegid, geteuid};

/// The socket's file name, and the interface's.
pub const SOCKET: &str = "io.pernetd";

/// Paths up to this length fit into a socket address (108 bytes with the final NUL).
const ADDRESS_MAX: usize = 107;

/// The runtime folder, in which only one daemon is at home at a time.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    /// Locked.
    folder: File,
}

/// Where clients come in.
#[derive(Debug)]
pub struct Door {
    pub(super) listener: UnixListener,
    /// The file to remove at the end; none if the service manager made the socket.
    file: Option<PathBuf>,
    /// Held as long as the door.
    _home: Home,
}

/// Why there is no door.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}; {remedy}", path.display())]
pub struct DoorError {
    path: PathBuf,
    what: String,
    remedy: &'static str,
    /// As the kernel says it.
    pub(crate) errno: i32,
}

impl DoorError {
    /// Whether another daemon is the reason.
    pub(crate) fn is_occupied(&self) -> bool {
        self.errno == libc::EADDRINUSE
    }
}

impl Home {
    /// Moves in; the folder is created if need be. Before anything that another daemon could be hurt by.
    ///
    /// # Errors
    /// When another daemon is at home there, others could put a socket of theirs there, or it cannot be made.
    pub fn claim(runtime_dir: &Path) -> Result<Home, DoorError> {
        let failed = |e: io::Error| unusable(runtime_dir, &e);
        DirBuilder::new().recursive(true).mode(0o755).create(runtime_dir).map_err(failed)?;
        let folder = File::open(runtime_dir).map_err(failed)?;
        check_owner(&folder, runtime_dir)?;
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(occupied(&runtime_dir.join(SOCKET)));
        }
        Ok(Home { path: runtime_dir.to_owned(), folder })
    }
}

impl Door {
    /// Makes the socket.
    ///
    /// # Errors
    /// When somebody answers there, something else has the name, or it cannot be made.
    pub fn open(home: Home) -> Result<Door, DoorError> {
        let file = home.path.join(SOCKET);
        check_free(&home.folder, &file)?;
        let listener = bind(&home.folder, &home.path).map_err(|e| unusable(&home.path, &e))?;
        Ok(Door { listener, file: Some(file), _home: home })
    }

    /// Takes the socket that the service manager made; it stays when the daemon ends.
    #[must_use]
    pub fn inherited(listener: UnixListener, home: Home) -> Door {
        Door { listener, file: None, _home: home }
    }
}

/// A descriptor of the service manager's, as what it has to be.
///
/// # Errors
/// When it is no listening Unix socket.
pub(crate) fn listening(socket: OwnedFd) -> Result<UnixListener, DoorError> {
    let listener = UnixListener::from(socket);
    match listener.local_addr() {
        Ok(_) if rustix::net::sockopt::socket_acceptconn(&listener).unwrap_or(false) => Ok(listener),
        _ => Err(DoorError {
            path: "the socket of the service manager".into(),
            what: "it is no listening Unix stream socket".into(),
            remedy: "correct the socket unit: ListenStream= with a path, FileDescriptorName=io.pernetd",
            errno: libc::EINVAL,
        }),
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Ours alone: the lock on the folder is still held.
        if let Some(file) = &self.file {
            let _ = fs::remove_file(file);
        }
    }
}

/// Who may write to the folder could have clients talk to a socket of his own.
fn check_owner(folder: &File, path: &Path) -> Result<(), DoorError> {
    let found = folder.metadata().map_err(|e| unusable(path, &e))?;
    let unsafe_for = |what: String, remedy| DoorError { path: path.to_owned(), what, remedy, errno: libc::EPERM };
    if ![0, geteuid().as_raw()].contains(&found.uid()) {
        let what = format!("it belongs to uid {}, who could put another socket there", found.uid());
        return Err(unsafe_for(what, "give it to root or to the daemon's user (chown), or another with --runtime-dir"));
    }
    let mode = found.permissions().mode() & 0o7777;
    // Whose own group that is, is often in it alone: a umask of 002 is made for that.
    let group = mode & 0o020 != 0 && found.gid() != getegid().as_raw();
    if mode & 0o002 != 0 || group {
        let what = format!("it is writable by others (mode {mode:04o}), who could put another socket there");
        return Err(unsafe_for(what, "chmod go-w it, or give another with --runtime-dir"));
    }
    Ok(())
}

fn unusable(path: &Path, e: &io::Error) -> DoorError {
    let remedy = "make it a folder that pernetd can write to, or give another with --runtime-dir";
    let errno = e.raw_os_error().unwrap_or(libc::EIO);
    DoorError { path: path.to_owned(), what: e.to_string(), remedy, errno }
}

/// What has the socket's name already: nothing, a stale socket, a daemon that answers, or no socket at all.
fn check_free(folder: &File, file: &Path) -> Result<(), DoorError> {
    match fs::symlink_metadata(file) {
        Err(_) => Ok(()),
        Ok(found) if !found.file_type().is_socket() => {
            let what = "there is something here that is not a socket".to_owned();
            Err(DoorError { path: file.to_owned(), what, remedy: "move it away", errno: libc::EEXIST })
        }
        Ok(_) if UnixStream::connect(address(folder, file, SOCKET)).is_ok() => Err(occupied(file)),
        Ok(_) => Ok(()),
    }
}

fn occupied(file: &Path) -> DoorError {
    let remedy = "stop it (systemctl stop pernetd), or give this one another folder with --runtime-dir";
    let (what, errno) = ("another pernetd runs here".to_owned(), libc::EADDRINUSE);
    DoorError { path: file.to_owned(), what, remedy, errno }
}

/// Binds under another name and renames, so that nobody ever meets a socket that is not ready or has another mode.
fn bind(folder: &File, runtime_dir: &Path) -> io::Result<UnixListener> {
    let new = format!(".{SOCKET}.new");
    let path = runtime_dir.join(&new);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(address(folder, &path, &new))?;
    fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    fs::rename(&path, runtime_dir.join(SOCKET))?;
    Ok(listener)
}

/// Connects to the daemon of a runtime folder.
pub(super) fn connect(runtime_dir: &Path) -> io::Result<UnixStream> {
    let folder = File::open(runtime_dir)?;
    UnixStream::connect(address(&folder, &runtime_dir.join(SOCKET), SOCKET))
}

/// The path, or the same by way of the open folder if it is too long for a socket address.
fn address(folder: &File, path: &Path, name: &str) -> PathBuf {
    if path.as_os_str().len() <= ADDRESS_MAX {
        return path.to_owned();
    }
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn a_stale_socket_is_replaced_and_ours_is_removed() -> Outcome {
        let dir = tempfile::tempdir()?;
        let runtime = dir.path().join("a".repeat(100));
        fs::create_dir(&runtime)?;
        drop(UnixListener::bind(address(&File::open(&runtime)?, &runtime.join(SOCKET), SOCKET))?);
        let door = Door::open(Home::claim(&runtime)?)?;
        assert_eq!(fs::symlink_metadata(runtime.join(SOCKET))?.permissions().mode() & 0o777, 0o666);
        connect(&runtime)?;
        drop(door);
        assert_eq!(fs::read_dir(&runtime)?.count(), 0);
        Ok(())
    }

    #[test]
    fn a_living_daemon_and_a_foreign_file_are_left_alone() -> Outcome {
        let dir = tempfile::tempdir()?;
        let open = || Door::open(Home::claim(dir.path())?);
        let first = open()?;
        assert!(open().is_err_and(|e| e.to_string().contains("another pernetd")));
        drop(first);
        let listener = UnixListener::bind(dir.path().join(SOCKET))?;
        assert!(open().is_err_and(|e| e.to_string().contains("another pernetd")));
        drop(listener);
        fs::remove_file(dir.path().join(SOCKET))?;
        fs::write(dir.path().join(SOCKET), "precious")?;
        assert!(open().is_err());
        assert_eq!(fs::read_to_string(dir.path().join(SOCKET))?, "precious");
        Ok(())
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_no_home() -> Outcome {
        let dir = tempfile::tempdir()?;
        for (mode, safe) in [(0o755, true), (0o700, true), (0o777, false), (0o1777, false), (0o702, false)] {
            fs::set_permissions(dir.path(), Permissions::from_mode(mode))?;
            assert_eq!(Home::claim(dir.path()).is_ok(), safe, "{mode:o}");
        }
        Ok(())
    }
}
