//! Puts a plugin's bytes where the dynamic loader can map them, under a name that no other content ever has.
//!
//! The dynamic loader matches by name before it looks at the file: the same path gives the old code back, whatever is
//! there now. So the bytes go into a sealed memfd, opened through `/proc/self/fd/N`, and N stays open for the life of
//! the process, since a reused number would be the old code again. Where the system refuses to execute a memfd
//! (`vm.memfd_noexec`, SELinux), a file named by the content's hash in a private folder takes its place.
//!
//! Not here: what is done with the mapped code ([`super::load`]).

// `mmap` asks whether the descriptor may be executed, and `dlopen` is a foreign call that runs foreign constructors.
#![allow(unsafe_code)]

use super::file::PluginFile;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, fstat, memfd_create};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

/// Why the bytes could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// No memfd, or none that may be executed, and no folder to fall back to.
    #[error(
        "this system does not let a memfd be executed ({source}) and there is no folder to use instead: allow it \
             (sysctl vm.memfd_noexec below 2, SELinux) or give the daemon a state folder"
    )]
    NoPlace {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The folder that takes the memfd's place.
    #[error(
        "cannot put the plugin's code into {folder}: {source}; the folder must be the daemon's own, mode 0700, \
             and on a file system without noexec"
    )]
    Folder {
        /// The folder.
        folder: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The dynamic loader's answer.
    #[error("the dynamic loader refuses it: {0}; build it on this system, or install what it links to")]
    Loader(String),
}

/// Maps the code, for ever. Runs the file's constructors.
pub(super) fn map(file: &PluginFile, folder: Option<&Path>) -> Result<Library, MapError> {
    match sealed_memfd(file) {
        Ok(fd) => {
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let library = open(Path::new(&path))?;
            // Not closed, ever: the loader knows this code by this number.
            std::mem::forget(fd);
            Ok(library)
        }
        Err(source) => match folder {
            Some(folder) => map_from_folder(file, folder),
            None => Err(MapError::NoPlace { source }),
        },
    }
}

/// A memfd with the bytes that nobody can change any more and that may be executed.
fn sealed_memfd(file: &PluginFile) -> io::Result<OwnedFd> {
    let name = format!("pernetd:{}@{}", file.note.name, &file.sha256[..8]);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match memfd_create(name.as_str(), flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 the flag is unknown, and every memfd may be executed.
        Err(Errno::INVAL) => memfd_create(name.as_str(), flags)?,
        made => made?,
    };
    let mut memory = File::from(fd);
    memory.write_all(&file.bytes)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&memory, seals)?;
    may_execute(memory.as_fd(), file.bytes.len())?;
    Ok(OwnedFd::from(memory))
}

/// Asks the kernel, not its settings: several may refuse, each in its own way.
fn may_execute(fd: BorrowedFd<'_>, len: usize) -> io::Result<()> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE);
    // SAFETY: a new private mapping at an address of the kernel's choice touches no memory of ours; the descriptor is
    // open, being borrowed.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `at` and `len` are of the mapping just made, to which nothing points.
    unsafe { libc::munmap(at, len) };
    Ok(())
}

/// The fallback: a file that only the daemon's user can reach, removed as soon as it is mapped.
fn map_from_folder(file: &PluginFile, folder: &Path) -> Result<Library, MapError> {
    let failed = |source| MapError::Folder { folder: folder.display().to_string(), source };
    let path = folder.join(format!("{}.so", file.sha256));
    write_private(&path, folder, &file.bytes).map_err(failed)?;
    let library = open(&path);
    std::fs::remove_file(&path).map_err(failed)?;
    library
}

fn write_private(path: &Path, folder: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let stat = fstat(rustix::fs::open(folder, flags, Mode::empty())?)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    // What a crashed run left behind is not trusted to be whole.
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o500).open(path)?;
    file.write_all(bytes)
}

fn open(path: &Path) -> Result<Library, MapError> {
    // SAFETY: dlopen's condition is that the file's constructors may be run in this process: the file was judged,
    // read whole, and its note and shape were found to be a plugin's for this machine (`file::open`), and what is at
    // `path` are those very bytes, which nobody else can change. NODELETE, so that they stay valid for ever.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL | libc::RTLD_NODELETE) };
    library.map_err(|e| {
        let source = std::error::Error::source(&e).map(ToString::to_string);
        MapError::Loader(source.unwrap_or_else(|| e.to_string()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_refused_where_others_can_write() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("code");
        let path = inner.join("x.so");
        write_private(&path, &inner, b"first").expect("a new folder is private");
        write_private(&path, &inner, b"second").expect("what is there is replaced");
        assert_eq!(std::fs::read(&path).expect("readable"), b"second");
        std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let refused = write_private(&path, &inner, b"third").expect_err("others can look in");
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }
}
