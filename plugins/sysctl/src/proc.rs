//! `/proc/sys` by way of an instance of procfs of our own, thrown away again and again.
//!
//! The kernel keeps an entry `net` of `/proc/sys` for each namespace that ever looked there, all in one chain, and who
//! opens a first key in a new namespace walks that chain several times: 20 µs beside 10 namespaces, 2.7 ms beside
//! 2,000. An instance of our own has a chain of its own, which stays short when the instance is replaced after a few
//! opens. Where none can be made (without the rights, or in a user namespace that does not own its process ids), and
//! where somebody has made `/proc/sys` read-only for us, the usual path serves.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pernet_plugin_api::tracing;
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, StatVfsMountFlags, accessat, openat, statvfs};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Making and ending an instance costs as much as eight opens: with this, a tenth of each open.
const OPENS: usize = 64;
const USUAL: &str = "/proc/sys";

/// The way to the keys.
#[derive(Debug)]
pub(crate) struct Proc {
    /// Where there is no instance.
    usual: PathBuf,
    /// `None` once making one has failed: it would again.
    instance: Mutex<Option<Instance>>,
}

/// One instance, and how often it may still be used.
#[derive(Debug)]
struct Instance {
    root: Arc<OwnedFd>,
    left: usize,
}

impl Proc {
    pub(crate) fn new() -> Self {
        let read_only = statvfs(USUAL).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY));
        let first = if read_only { None } else { Instance::new() };
        Proc { usual: USUAL.into(), instance: Mutex::new(first) }
    }

    /// Ordinary files in a folder, for tests.
    #[cfg(test)]
    pub(crate) fn at(folder: &std::path::Path) -> Self {
        Proc { usual: folder.into(), instance: Mutex::new(None) }
    }

    /// Opens a key, by its path below `/proc/sys`.
    pub(crate) fn open(&self, path: &str, access: OFlags) -> io::Result<File> {
        let flags = access | OFlags::CLOEXEC;
        let opened = match self.root() {
            Some(root) => openat(&*root, below_sys(path), flags, Mode::empty()),
            None => openat(CWD, self.usual.join(path), flags, Mode::empty()),
        };
        Ok(File::from(opened?))
    }

    /// Whether there is something at this path.
    pub(crate) fn has(&self, path: &str) -> bool {
        let found = match self.root() {
            Some(root) => accessat(root.as_fd(), below_sys(path), Access::EXISTS, AtFlags::empty()),
            None => accessat(CWD, self.usual.join(path), Access::EXISTS, AtFlags::empty()),
        };
        found.is_ok()
    }

    /// The instance to use now. An old one ends with its last user.
    fn root(&self) -> Option<Arc<OwnedFd>> {
        let mut instance = self.instance.lock().unwrap_or_else(PoisonError::into_inner);
        if instance.as_ref().is_some_and(|instance| instance.left == 0) {
            *instance = Instance::new();
        }
        let instance = instance.as_mut()?;
        instance.left -= 1;
        Some(Arc::clone(&instance.root))
    }
}

impl Instance {
    /// Not mounted anywhere: only the descriptor leads to it.
    fn new() -> Option<Self> {
        let make = || {
            let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(context.as_fd())?;
            let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        };
        match make() {
            Ok(root) => Some(Instance { root: Arc::new(root), left: OPENS }),
            Err(e) => {
                tracing::debug!("no procfs of our own ({e}); with thousands of namespaces each setting takes longer");
                None
            }
        }
    }
}

fn below_sys(path: &str) -> String {
    format!("sys/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// With the rights and without, the same keys are there.
    #[test]
    fn keys_are_found_however_often_the_instance_changes() {
        let proc = Proc::new();
        for _ in 0..2 * OPENS + 1 {
            let mut value = String::new();
            let key = "net/ipv4/ip_default_ttl";
            proc.open(key, OFlags::RDONLY).and_then(|mut file| file.read_to_string(&mut value)).expect(key);
            assert!(value.trim_end().parse::<u8>().is_ok(), "{value}");
        }
        assert!(proc.has("net/ipv4/conf/lo") && !proc.has("net/ipv4/conf/no-such"));
        let missing = proc.open("net/no-such", OFlags::RDONLY).expect_err("not there");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
