//! A mount: a superblock with those who use it, until its end.
//!
//! Mirrors `struct mount` and `struct super_block` in one, since each mount has a superblock of its own (`mount_nodev`).
//! A use ([`MountRef`]) keeps it, as does a call that is inside; when the last of them has gone, `kill_sb` is called,
//! once, after a `release` of every file that is still open. A mount can also be ended from inside, when its type or its namespace goes: then calls are refused from that
//! moment on, whoever carries it is told, and `kill_sb` follows the last call that is still inside.
//!
//! No lock is held while the file system is called. Which mounts there are is `filesystem.rs`'s.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use pernet_plugin_api::{DirEntry, FileAttr, FileCaller, OpenFile};

use super::failure::{EBUSY, ENODEV, Failure};
use super::filesystem::{FileSystemType, Table};
use super::superblock::{MountRequest, SuperBlock, judge_attr, judge_entries, judge_link, judge_read, judge_written};

thread_local! {
    /// Of the mounts in whose calls this thread is, whether they were ended from inside; the innermost last.
    static INSIDE: RefCell<Vec<Arc<AtomicBool>>> = const { RefCell::new(Vec::new()) };
}

/// Whether this thread is in a call of a mount that was ended from inside: whoever ended it waits for the call, which
/// should not wait for anything of his.
#[must_use]
pub fn in_ended_mount() -> bool {
    INSIDE.with_borrow(|inside| inside.iter().any(|over| over.load(Ordering::Acquire)))
}

/// Who is told that a mount was ended from inside: whoever carries it to its users.
pub type Carrier = Box<dyn Fn() + Send + Sync>;

/// One mount.
pub struct Mount {
    /// Never used again.
    pub id: u64,
    /// Its type, which it keeps (the module's reference).
    pub fs: Arc<FileSystemType>,
    /// As it was asked for.
    pub request: MountRequest,
    /// In no mount table (`kern_mount`).
    pub internal: bool,
    sb: Box<dyn SuperBlock>,
    table: Weak<Table>,
    life: Mutex<Life>,
    /// Open files, each as often as it was opened so. What ends with open files releases them itself: whoever carries a
    /// mount does not come to tell of each.
    open: Mutex<HashMap<(u64, u64), usize>>,
    /// A call has come out of a mount that has ended.
    left: Condvar,
    /// The same as in `life`, for those who are inside.
    over: Arc<AtomicBool>,
    carrier: OnceLock<Carrier>,
}

#[derive(Default)]
struct Life {
    uses: usize,
    calls: usize,
    /// Nobody may call any more.
    ended: bool,
    /// So many wait for the last call, and kill the superblock then.
    enders: usize,
    kill: Kill,
}

/// How far the superblock's end is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kill {
    #[default]
    NotYet,
    Running,
    Done,
}

impl Life {
    /// Whether it is for the caller to kill the superblock: once, when nobody can be inside any more.
    fn begin_kill(&mut self) -> bool {
        let now = self.ended && self.calls == 0 && self.kill == Kill::NotYet;
        if now {
            self.kill = Kill::Running;
        }
        now
    }
}

/// A use of a mount (`mntget`); dropping it is `mntput`.
pub struct MountRef(Arc<Mount>);

impl MountRef {
    /// The first use of a new mount.
    pub(super) fn new(
        id: u64,
        fs: &Arc<FileSystemType>,
        request: MountRequest,
        internal: bool,
        sb: Box<dyn SuperBlock>,
        table: &Arc<Table>,
    ) -> Self {
        MountRef(Arc::new(Mount {
            id,
            fs: Arc::clone(fs),
            request,
            internal,
            sb,
            table: Arc::downgrade(table),
            life: Mutex::new(Life { uses: 1, ..Life::default() }),
            open: Mutex::default(),
            left: Condvar::new(),
            over: Arc::default(),
            carrier: OnceLock::new(),
        }))
    }
}

impl std::ops::Deref for MountRef {
    type Target = Arc<Mount>;

    fn deref(&self) -> &Arc<Mount> {
        &self.0
    }
}

impl Drop for MountRef {
    fn drop(&mut self) {
        let mut life = self.0.life();
        life.uses -= 1;
        life.ended |= life.uses == 0;
        let kill = life.enders == 0 && life.begin_kill();
        drop(life);
        if kill {
            self.0.kill();
        }
    }
}

impl Mount {
    /// No code of others runs under this lock, so a poisoned one is sound.
    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_files(&self) -> MutexGuard<'_, HashMap<(u64, u64), usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has ended: every call is refused.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.life().ended
    }

    /// How many calls are inside.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.life().calls
    }

    /// Names who is to be told when it is ended from inside; the first who does. If it has ended already he is told now.
    pub fn carried_by(&self, carrier: Carrier) {
        let _ = self.carrier.set(carrier);
        if self.has_ended() {
            self.tell_carrier();
        }
    }

    fn tell_carrier(&self) {
        if let Some(carrier) = self.carrier.get() {
            carrier();
        }
    }

    /// Ends it from inside: refuses calls, waits for those inside, kills the superblock.
    ///
    /// # Errors
    /// A call did not come out in time: the superblock is killed when it does.
    pub(super) fn end(&self, patience: Duration) -> Result<(), Failure> {
        let mut life = self.life();
        (life.ended, life.enders) = (true, life.enders + 1);
        drop(life);
        self.over.store(true, Ordering::Release);
        self.tell_carrier();
        let busy = |life: &mut Life| life.calls > 0 || life.kill == Kill::Running;
        let waiting = self.left.wait_timeout_while(self.life(), patience, busy);
        let (mut life, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        life.enders -= 1;
        let (calls, kill) = (life.calls, life.begin_kill());
        drop(life);
        if kill {
            self.kill();
        }
        if calls == 0 {
            return Ok(());
        }
        let what = format!(
            "{calls} calls of a mount of `{}` do not return; it has ended for its users, and its kill_sb follows the \
             last of them",
            self.fs.name
        );
        Err(Failure::new(EBUSY, what))
    }

    fn kill(&self) {
        let open = std::mem::take(&mut *self.open_files());
        for ((ino, handle), times) in open {
            for _ in 0..times {
                // There is nobody to tell of an error.
                let _ = self.sb.release(OpenFile { ino, handle, caller: FileCaller::default() });
            }
        }
        let result = self.sb.kill_sb();
        if let Some(table) = self.table.upgrade() {
            table.unmounted(self, result.err());
        }
        self.life().kill = Kill::Done;
        self.left.notify_all();
    }

    /// Calls the file system, unless the mount has ended.
    fn call<T>(&self, call: impl FnOnce(&dyn SuperBlock) -> Result<T, Failure>) -> Result<T, Failure> {
        let inside = self.enter()?;
        let result = call(&*self.sb);
        drop(inside);
        result
    }

    fn enter(&self) -> Result<Inside<'_>, Failure> {
        let mut life = self.life();
        if life.ended {
            let what = format!("this mount of `{}` has ended; unmount it", self.fs.name);
            return Err(Failure::new(ENODEV, what));
        }
        life.calls += 1;
        INSIDE.with_borrow_mut(|inside| inside.push(Arc::clone(&self.over)));
        Ok(Inside(self))
    }

    /// See [`SuperBlock::getattr`].
    pub fn getattr(&self, ino: u64) -> Result<FileAttr, Failure> {
        self.call(|sb| judge_attr(sb.getattr(ino)?, Some(ino)))
    }

    /// See [`SuperBlock::lookup`].
    pub fn lookup(&self, caller: FileCaller, parent: u64, name: &str) -> Result<FileAttr, Failure> {
        self.call(|sb| judge_attr(sb.lookup(caller, parent, name)?, None))
    }

    /// See [`SuperBlock::forget`].
    pub fn forget(&self, ino: u64, lookups: u64) {
        let _ = self.call(|sb| {
            sb.forget(ino, lookups);
            Ok(())
        });
    }

    /// See [`SuperBlock::readdir`].
    pub fn readdir(&self, caller: FileCaller, ino: u64) -> Result<Vec<DirEntry>, Failure> {
        self.call(|sb| judge_entries(sb.readdir(caller, ino)?))
    }

    /// See [`SuperBlock::access`].
    pub fn access(&self, caller: FileCaller, ino: u64, mask: u32) -> Result<(), Failure> {
        self.call(|sb| sb.access(caller, ino, mask))
    }

    /// See [`SuperBlock::open`].
    pub fn open(&self, caller: FileCaller, ino: u64, flags: i32) -> Result<u64, Failure> {
        self.call(|sb| {
            let handle = sb.open(caller, ino, flags)?;
            *self.open_files().entry((ino, handle)).or_default() += 1;
            Ok(handle)
        })
    }

    /// See [`SuperBlock::read`].
    pub fn read(&self, file: OpenFile, offset: u64, len: usize) -> Result<Vec<u8>, Failure> {
        self.call(|sb| judge_read(sb.read(file, offset, len)?, len))
    }

    /// See [`SuperBlock::write`].
    pub fn write(&self, file: OpenFile, offset: u64, bytes: &[u8]) -> Result<usize, Failure> {
        self.call(|sb| judge_written(sb.write(file, offset, bytes)?, bytes.len()))
    }

    /// See [`SuperBlock::truncate`].
    pub fn truncate(&self, caller: FileCaller, ino: u64, size: u64) -> Result<FileAttr, Failure> {
        self.call(|sb| judge_attr(sb.truncate(caller, ino, size)?, Some(ino)))
    }

    /// See [`SuperBlock::readlink`].
    pub fn readlink(&self, ino: u64) -> Result<Vec<u8>, Failure> {
        self.call(|sb| judge_link(sb.readlink(ino)?))
    }

    /// See [`SuperBlock::release`].
    pub fn release(&self, file: OpenFile) -> Result<(), Failure> {
        self.call(|sb| {
            if let Entry::Occupied(mut open) = self.open_files().entry((file.ino, file.handle)) {
                *open.get_mut() -= 1;
                if *open.get() == 0 {
                    open.remove();
                }
            }
            sb.release(file)
        })
    }

    /// See [`SuperBlock::no_create`].
    pub fn no_create(&self) -> Failure {
        self.refuse(|sb| sb.no_create())
    }

    /// See [`SuperBlock::no_change`].
    pub fn no_change(&self) -> Failure {
        self.refuse(|sb| sb.no_change())
    }

    fn refuse(&self, errno: impl FnOnce(&dyn SuperBlock) -> i32) -> Failure {
        let what = "only the file system itself makes and removes its files";
        match self.call(|sb| Ok(errno(sb))) {
            Ok(errno) => Failure::new(errno, what),
            Err(ended) => ended,
        }
    }
}

/// A call inside a mount.
struct Inside<'a>(&'a Mount);

impl Drop for Inside<'_> {
    /// Also when the file system panics.
    fn drop(&mut self) {
        drop(INSIDE.with_borrow_mut(Vec::pop));
        let mut life = self.0.life();
        life.calls -= 1;
        // Whoever ends it from inside waits for this, and kills; unless he has given up, or its last use went.
        let kill = life.enders == 0 && life.begin_kill();
        let awaited = life.enders > 0 && life.calls == 0;
        drop(life);
        if awaited {
            self.0.left.notify_all();
        }
        if kill {
            self.0.kill();
        }
    }
}
