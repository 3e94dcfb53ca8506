//! File system types and mounts in the daemon: what plugins register and mount internally, and when that ends.
//!
//! A plugin's types are there before its hooks run anywhere, and go after its last exit. Its mounts end before its exits,
//! also when another generation follows, and those for a namespace before the exits there. Owns the numbers
//! under which plugins know their internal mounts. Users' mounts are in `mounts.rs`.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pernet_plugin_api::NetCookie;

use super::kept_mounts::KeptMounts;
use super::netdevs::Whose;
use super::plugins::{Live, Trouble};
use super::reload::Shared;
use super::services::Services;
use crate::control::errno_name;
use crate::engine::{Failure, FileSystemType, FileSystems, Mount, MountRef, MountRequest, Net, Owner, Undo};
use crate::linux::fuse_server::FuseServer;
use crate::logging::catalog;
use crate::plugin::InstanceRef;

/// All types and mounts.
pub(super) struct Filesystems {
    /// The engine's view.
    pub(super) types: FileSystems,
    /// What carries mounts to users.
    pub(super) fuse: FuseServer,
    /// Those of users that outlive the daemon.
    pub(super) kept: Arc<KeptMounts>,
    /// Plugins' internal mounts, by the number that the plugin knows. Held for a look-up only.
    internal: Mutex<HashMap<u64, (Whose, MountRef)>>,
    last: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Filesystems {
    /// None yet. A call of a file system is given up after the deadline.
    pub(super) fn new(deadline: Duration, state_dir: &Path) -> io::Result<Filesystems> {
        let kept = Arc::new(KeptMounts::new(state_dir));
        let keeper = Arc::clone(&kept);
        let told = move |mount: &Mount, failure: Option<&Failure>| {
            keeper.ended(mount.id);
            unmounted(mount, failure);
        };
        Ok(Filesystems {
            types: FileSystems::new(Box::new(told)),
            fuse: FuseServer::new(deadline)?,
            kept,
            internal: Mutex::default(),
            last: AtomicU64::new(0),
        })
    }

    /// Registers a type of the daemon's own, and says how that is taken back.
    pub(super) fn register_own(self: &Arc<Self>, fs: Arc<FileSystemType>) -> Result<Undo, Failure> {
        self.types.register_filesystem(&fs)?;
        let filesystems = Arc::clone(self);
        Ok(Box::new(move || complain_of(filesystems.types.unregister_filesystem(&fs))))
    }

    /// A namespace goes: whatever is mounted for it ends.
    pub(super) fn end_mounts_in(&self, net: &Net, patience: Duration) {
        self.tell_users("namespace", |mount| mount.request.net == Some(net.cookie));
        complain(&self.types.end_mounts_in(net.cookie, patience));
    }

    /// The daemon ends, and before the exits its mounts do. Calls that are going on come out first, so that nobody who
    /// uses a mount that is kept sees anything of it.
    pub(super) fn stop(&self, patience: Duration) {
        self.kept.stopping();
        for fs in self.types.types() {
            fs.set_going(true);
        }
        if !self.fuse.drain(patience) {
            tracing::warn!(
                message_id = catalog::FILE_CALL_HANGS,
                "file operations did not return within {patience:?}; their callers got an error"
            );
        }
        for fs in self.types.types().iter().rev() {
            complain(&self.types.end_mounts(fs, patience));
        }
        self.kept.stopped();
    }

    /// Whoever uses these mounts will find them dead.
    fn tell_users(&self, whose: &str, those: impl Fn(&Mount) -> bool) {
        let users = |mount: &&Arc<Mount>| !mount.internal && !mount.has_ended() && those(mount);
        for mount in self.types.mounts().iter().filter(users) {
            let (plugin, fs, target) = (&*mount.fs.owner, &*mount.fs.name, &*mount.request.target);
            tracing::warn!(
                message_id = catalog::MOUNT_ENDED,
                plugin,
                fs,
                target,
                "the mount of {fs} on {target} ends with its {whose}; unmount it, or mount it anew"
            );
        }
    }

    pub(super) fn unmount(&self, instance: &InstanceRef, mount: u64) -> Result<(), Failure> {
        let whose = Whose::of(instance);
        let mut internal = lock(&self.internal);
        let mine = internal.get(&mount).is_some_and(|(holder, _)| *holder == whose);
        let ended = if mine { internal.remove(&mount) } else { None };
        drop(internal);
        // Outside the lock: its end is a file system's code.
        let (_, mount) = ended.ok_or_else(|| Failure::new(libc::EINVAL, "there is no such mount, or no longer"))?;
        self.types.kern_unmount(Ok(mount));
        Ok(())
    }

    /// Takes from an instance what it has mounted.
    pub(super) fn take_back(&self, owner: &Owner) {
        let whose = Whose::owner(owner);
        let left: Vec<_> = lock(&self.internal).extract_if(|_, (holder, _)| *holder == whose).collect();
        drop(left);
    }
}

/// `EBUSY: what happened`.
pub(super) fn told(failure: &Failure) -> String {
    format!("{}: {}", errno_name(failure.errno), failure.message)
}

/// What the daemon says of a mount's end.
fn unmounted(mount: &Mount, failure: Option<&Failure>) {
    let (plugin, fs) = (&*mount.fs.owner, &*mount.fs.name);
    match failure {
        Some(failure) => tracing::warn!(
            message_id = catalog::FILE_SYSTEM_AT_FAULT,
            plugin,
            fs,
            hook = "fs.kill_sb",
            errno = failure.errno,
            "fs.kill_sb of a mount of {fs} failed: {}",
            told(failure)
        ),
        None => tracing::debug!(plugin, fs, "a mount of {fs} has ended"),
    }
}

fn complain(failures: &[Failure]) {
    for failure in failures {
        tracing::warn!(message_id = catalog::FILE_SYSTEM_AT_FAULT, errno = failure.errno, "{}", told(failure));
    }
}

/// Registers a plugin's types, or leaves none registered.
pub(super) fn announce(shared: &Shared, live: &Live) -> Result<(), Trouble> {
    for (done, fs) in live.instance.filesystems().iter().enumerate() {
        fs.set_going(false);
        if let Err(failure) = shared.filesystems.types.register_filesystem(fs) {
            for before in live.instance.filesystems()[..done].iter().rev() {
                complain_of(shared.filesystems.types.unregister_filesystem(before));
            }
            return Err(Trouble::new("register_filesystem", told(&failure)));
        }
    }
    Ok(())
}

/// Its exits are about to run: from now on nobody finds its types, and their mounts have ended.
pub(super) fn end_mounts(shared: &Shared, live: &Live) {
    live.instance.filesystems().iter().for_each(|fs| fs.set_going(true));
    for fs in live.instance.filesystems() {
        shared.filesystems.tell_users("plugin", |mount| Arc::ptr_eq(&mount.fs, fs));
    }
    for fs in live.instance.filesystems().iter().rev() {
        complain(&shared.filesystems.types.end_mounts(fs, shared.patience()));
    }
}

/// Takes a plugin's types off the list. What is mounted of them has ended, or does now.
pub(super) fn withdraw(shared: &Shared, live: &Live) {
    end_mounts(shared, live);
    for fs in live.instance.filesystems().iter().rev() {
        complain_of(shared.filesystems.types.unregister_filesystem(fs));
    }
}

fn complain_of(result: Result<(), Failure>) {
    complain(result.err().as_slice());
}

impl Services {
    pub(super) fn mount_internally(
        &self,
        instance: &InstanceRef,
        fs: &str,
        cookie: u64,
        options: &str,
    ) -> Result<u64, Failure> {
        let types = &self.filesystems.types;
        let net = if cookie == 0 { None } else { Some(self.net(cookie)?) };
        let request = MountRequest { options: options.to_owned(), ..request_for(net.as_deref()) };
        let mount = types.kern_mount(&types.get_fs_type(fs)?, request)?;
        is_there_still(net.as_deref())?;
        let number = self.filesystems.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mut internal = lock(&self.filesystems.internal);
        // Asked under the lock, as the end takes it after it: a mount that comes too late is ended at once.
        let known = self.owners.get(instance);
        if known.is_ok() {
            internal.insert(number, (Whose::of(instance), mount));
            return Ok(number);
        }
        drop(internal);
        drop(mount);
        known.map(|_| number)
    }
}

/// A request for a mount that is for a namespace, or for none.
pub(super) fn request_for(net: Option<&Net>) -> MountRequest {
    MountRequest { net: net.map(|net| net.cookie), netns: net.map(Net::name), ..MountRequest::default() }
}

/// Asked when the mount can be found: whoever ends the namespace's mounts has marked it before.
pub(super) fn is_there_still(net: Option<&Net>) -> Result<(), Failure> {
    match net {
        Some(net) if net.dying() => {
            Err(Failure::new(libc::ENOENT, format!("namespace {} has just gone", NetCookie(net.cookie.0).0)))
        }
        _ => Ok(()),
    }
}
