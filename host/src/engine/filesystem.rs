//! File system types and their mounts: `register_filesystem`, `unregister_filesystem`, `kern_mount`.
//!
//! Mirrors `fs/filesystems.c` (K6.1 to K6.3), and of `fs/namespace.c` what an internal mount is (K6.4). A type is a name
//! with what makes its mounts; the list has them in the order of registration. Unregistering one leaves its mounts as
//! they are (K6.2): they keep the type. Whoever takes the type's code away ends them first ([`FileSystems::end_mounts`]).
//!
//! Not here: how a user's mount reaches the mount table (FUSE, in `linux`), and who may mount (the control door).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pernet_plugin_api::NetCookie;

use super::failure::{EBUSY, EINVAL, ENODEV, Failure};
use super::mount::{Mount, MountRef};
use super::superblock::{FileSystem, MountRequest};

/// A file system type (`struct file_system_type`).
pub struct FileSystemType {
    /// Its name, unique in the list.
    pub name: Arc<str>,
    /// Whose it is: a plugin's name, or `pernetd`.
    pub owner: Arc<str>,
    /// Users cannot mount it (`SB_NOUSER`, K6.5).
    pub no_user: bool,
    /// It judges itself who may open what, instead of having the kernel judge the permission bits.
    pub judges_access: bool,
    ops: Box<dyn FileSystem>,
    /// Its owner is about to go: it counts as absent (K6.3).
    going: AtomicBool,
}

impl FileSystemType {
    /// A type that users can mount.
    pub fn new(name: impl Into<Arc<str>>, owner: impl Into<Arc<str>>, ops: Box<dyn FileSystem>) -> Self {
        FileSystemType {
            name: name.into(),
            owner: owner.into(),
            no_user: false,
            judges_access: false,
            ops,
            going: AtomicBool::new(false),
        }
    }

    /// Only for internal mounts (`SB_NOUSER`).
    #[must_use]
    pub fn for_internal_mounts(self) -> Self {
        FileSystemType { no_user: true, ..self }
    }

    /// Judging itself who may open what.
    #[must_use]
    pub fn judging_access(self) -> Self {
        FileSystemType { judges_access: true, ..self }
    }

    /// Whether its owner is about to go: then nobody finds it (K6.3), though it is still registered.
    pub fn set_going(&self, going: bool) {
        self.going.store(going, Ordering::Relaxed);
    }
}

/// Told of a mount that has ended, and of what its `kill_sb` answered if it failed.
pub type Unmounted = Box<dyn Fn(&Mount, Option<&Failure>) + Send + Sync>;

/// The registered types and all mounts.
pub struct FileSystems(Arc<Table>);

/// What mounts lead back to.
pub(super) struct Table {
    /// In the order of registration. Held for a look-up only.
    types: Mutex<Vec<Arc<FileSystemType>>>,
    /// In the order in which they were made. Held for a look-up only.
    mounts: Mutex<Vec<Arc<Mount>>>,
    last: AtomicU64,
    told: Unmounted,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    /// A mount's superblock is no more.
    pub(super) fn unmounted(&self, mount: &Mount, failure: Option<Failure>) {
        lock(&self.mounts).retain(|known| known.id != mount.id);
        (self.told)(mount, failure.as_ref());
    }
}

impl FileSystems {
    /// None yet.
    #[must_use]
    pub fn new(told: Unmounted) -> Self {
        FileSystems(Arc::new(Table {
            types: Mutex::default(),
            mounts: Mutex::default(),
            last: AtomicU64::new(0),
            told,
        }))
    }

    /// Appends a type to the list (K6.1).
    ///
    /// # Errors
    /// `EINVAL` for a name that cannot be: an empty one, or one with a dot, which separates a subtype. `EBUSY` if this
    /// type or one of this name is registered.
    pub fn register_filesystem(&self, fs: &Arc<FileSystemType>) -> Result<(), Failure> {
        let name = &*fs.name;
        let refuse = |errno, why: &str| Err(Failure::new(errno, format!("file system type `{name}`: {why}")));
        if name.is_empty() {
            return refuse(EINVAL, "a type needs a name");
        }
        if name.contains('.') {
            return refuse(EINVAL, "a name has no dot: what follows one is a subtype; name it otherwise");
        }
        if name.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ',' | '\\')) {
            return refuse(EINVAL, "a name has no blank, slash, backslash, comma or control character");
        }
        let mut types = lock(&self.0.types);
        match types.iter().find(|known| known.name == fs.name) {
            Some(known) if Arc::ptr_eq(known, fs) => refuse(EBUSY, "it is registered already"),
            Some(known) => refuse(EBUSY, &format!("`{}` has registered this name; choose another", known.owner)),
            None => {
                types.push(Arc::clone(fs));
                Ok(())
            }
        }
    }

    /// Takes a type off the list. Its mounts are unaffected (K6.2).
    ///
    /// # Errors
    /// `EINVAL` if it is not registered.
    pub fn unregister_filesystem(&self, fs: &Arc<FileSystemType>) -> Result<(), Failure> {
        let mut types = lock(&self.0.types);
        let place = types.iter().position(|known| Arc::ptr_eq(known, fs));
        let place =
            place.ok_or_else(|| Failure::new(EINVAL, format!("file system type `{}` is not registered", fs.name)))?;
        types.remove(place);
        Ok(())
    }

    /// The type of a name (`get_fs_type`): what is before the first dot counts, the rest is a subtype (K6.3).
    ///
    /// # Errors
    /// `ENODEV` if there is none, or its owner is about to go.
    pub fn get_fs_type(&self, name: &str) -> Result<Arc<FileSystemType>, Failure> {
        let wanted = name.split('.').next().unwrap_or_default();
        let types = lock(&self.0.types);
        let there = |fs: &&Arc<FileSystemType>| !fs.going.load(Ordering::Relaxed);
        let found = types.iter().filter(there).find(|fs| *fs.name == *wanted);
        found.cloned().ok_or_else(|| {
            let users = types.iter().filter(there).filter(|fs| !fs.no_user);
            let names: Vec<&str> = users.map(|fs| &*fs.name).collect();
            let what = format!("file system type `{name}` is not registered; there are: {}", names.join(", "));
            Failure::new(ENODEV, what)
        })
    }

    /// A user's mount, by the type's name.
    ///
    /// # Errors
    /// As [`FileSystems::get_fs_type`]; `EINVAL` for a type that users cannot mount (K6.5); and what the type answers.
    pub fn mount(&self, name: &str, request: MountRequest) -> Result<MountRef, Failure> {
        let fs = self.get_fs_type(name)?;
        if fs.no_user {
            let what = format!("file system type `{}` is for internal mounts only; users cannot mount it", fs.name);
            return Err(Failure::new(EINVAL, what));
        }
        self.vfs_mount(&fs, request, false)
    }

    /// An internal mount (K6.4): in no mount table, there until [`FileSystems::kern_unmount`], or its last use is dropped.
    /// The type need not be registered. After an error there is nothing to undo.
    ///
    /// # Errors
    /// What the type answers.
    pub fn kern_mount(&self, fs: &Arc<FileSystemType>, request: MountRequest) -> Result<MountRef, Failure> {
        self.vfs_mount(fs, request, true)
    }

    fn vfs_mount(&self, fs: &Arc<FileSystemType>, request: MountRequest, internal: bool) -> Result<MountRef, Failure> {
        let sb = fs.ops.mount(&request, internal)?;
        let id = self.0.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mount = MountRef::new(id, fs, request, internal, sb, &self.0);
        lock(&self.0.mounts).push(Arc::clone(&mount));
        // Asked after it can be found: whoever ends the type's mounts has set this before.
        if fs.going.load(Ordering::Relaxed) {
            let what = format!("file system type `{}` has just gone", fs.name);
            return Err(Failure::new(ENODEV, what));
        }
        Ok(mount)
    }

    /// Ends an internal mount; what is no mount (an error of [`FileSystems::kern_mount`]) is none to end (K6.4).
    pub fn kern_unmount(&self, mount: Result<MountRef, Failure>) {
        drop(mount);
    }

    /// The registered types, in the order of registration (`/proc/filesystems`).
    #[must_use]
    pub fn types(&self) -> Vec<Arc<FileSystemType>> {
        lock(&self.0.types).clone()
    }

    /// The users' mounts, in the order in which they were made. Internal ones are in no such table (K6.4).
    #[must_use]
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        lock(&self.0.mounts).iter().filter(|mount| !mount.internal).cloned().collect()
    }

    /// How many internal mounts there are.
    #[must_use]
    pub fn internal_mounts(&self) -> usize {
        lock(&self.0.mounts).iter().filter(|mount| mount.internal).count()
    }

    /// Ends all mounts of a type from inside, newest first: its owner goes. The patience is for each.
    pub fn end_mounts(&self, fs: &Arc<FileSystemType>, patience: Duration) -> Vec<Failure> {
        self.end_those(patience, |mount| Arc::ptr_eq(&mount.fs, fs))
    }

    /// Ends all mounts that are for a namespace: it goes.
    pub fn end_mounts_in(&self, net: NetCookie, patience: Duration) -> Vec<Failure> {
        self.end_those(patience, |mount| mount.request.net == Some(net))
    }

    fn end_those(&self, patience: Duration, those: impl Fn(&Mount) -> bool) -> Vec<Failure> {
        let leaving: Vec<Arc<Mount>> = lock(&self.0.mounts).iter().rev().filter(|m| those(m)).cloned().collect();
        leaving.iter().filter_map(|mount| mount.end(patience).err()).collect()
    }
}
