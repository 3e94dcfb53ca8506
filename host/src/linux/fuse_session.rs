//! One FUSE connection: a mount carried to its users, request by request.
//!
//! Each request is a call of the engine's [`Mount`], and each has one answer: the call's, or another's that came first.
//! A call that takes too long is answered with `EIO` by the server's keeper, one whose process was interrupted with `EINTR`
//! (after a moment, since most calls are over by then), and all with `ENODEV` when the mount is ended from inside. What the
//! call itself says later is dropped then, and what it left behind (an open file, a lookup) is taken back.
//!
//! The connection is the kernel's lease too: it ends when the last file of the mount is closed, wherever it was attached.
//! Threads and time are `fuse_server.rs`'s.

use std::collections::HashMap;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use pernet_plugin_api::{DirEntry, FileCaller, OpenFile};
use rustix::io::Errno;

use super::fuse_wire::{self, Header, Operation, Setattr};
use crate::engine::{Failure, Mount, MountRef};

/// Calls that are given up and have not returned: with more of them a mount answers `EIO` without calling.
const HELD_MOST: usize = 16;
/// How long a call may go on whose process was interrupted.
const INTERRUPTED: Duration = Duration::from_millis(100);
/// The kernel takes no errno beyond this from a file system.
const ERRNO_MOST: i32 = 511;

/// Told once: that the mount can be used, or why it never will be.
pub type Ready = Box<dyn FnOnce(Result<(), String>) + Send>;

/// A connection.
pub(super) struct Session {
    pub(super) id: u64,
    mount: Arc<Mount>,
    /// What keeps the mount, until the connection ends.
    usage: Mutex<Option<MountRef>>,
    /// Taken out at the end. Calls that are still inside hold the session, but not the connection.
    device: RwLock<Option<OwnedFd>>,
    flights: Mutex<HashMap<u64, Flight>>,
    /// Calls that were given up and are still inside.
    overdue: AtomicUsize,
    directories: Mutex<HashMap<u64, Option<Arc<Vec<DirEntry>>>>>,
    last_directory: AtomicU64,
    ready: Mutex<Option<Ready>>,
    last_complaint: Mutex<Option<Instant>>,
}

/// A request that is being carried out.
struct Flight {
    since: Instant,
    what: &'static str,
    interrupted: Option<Instant>,
    /// Somebody else has answered.
    answered: bool,
    /// It was given up.
    overdue: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    pub(super) fn new(id: u64, device: OwnedFd, mount: MountRef, ready: Ready) -> Arc<Session> {
        Arc::new(Session {
            id,
            mount: Arc::clone(&mount),
            usage: Mutex::new(Some(mount)),
            device: RwLock::new(Some(device)),
            flights: Mutex::default(),
            overdue: AtomicUsize::new(0),
            directories: Mutex::default(),
            last_directory: AtomicU64::new(0),
            ready: Mutex::new(Some(ready)),
            last_complaint: Mutex::new(None),
        })
    }

    /// Does something with the connection; `None` once it has ended.
    pub(super) fn with_device<T>(&self, act: impl FnOnce(&OwnedFd) -> T) -> Option<T> {
        self.device.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(act)
    }

    pub(super) fn mount(&self) -> &Arc<Mount> {
        &self.mount
    }

    /// The next request, if there is one. `ENODEV`: the mount is gone.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.with_device(|device| rustix::io::read(device, buffer)).unwrap_or(Err(Errno::NODEV))
    }

    fn send(&self, unique: u64, errno: i32, body: &[u8]) -> Result<(), Errno> {
        let header = fuse_wire::out_header(unique, errno, body.len());
        let parts = [IoSlice::new(&header), IoSlice::new(body)];
        let sent = self.with_device(|device| rustix::io::writev(device, &parts)).unwrap_or(Err(Errno::NODEV));
        sent.map(drop)
    }

    /// Ends the connection: whoever waits for a call is told so, and the kernel ends what it still has of the mount. The
    /// mount itself ends with its last call. Only the first time does anything.
    pub(super) fn end(&self, why: &str) {
        let unanswered = self.answer_in_place(|_| Some(libc::ENODEV));
        for (unique, errno, _) in unanswered {
            let _ = self.send(unique, errno, &[]);
        }
        drop(self.device.write().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(ready) = lock(&self.ready).take() {
            ready(Err(why.to_owned()));
        }
        // After the lock: this may be the mount's last use, whose end is the file system's code.
        let usage = lock(&self.usage).take();
        drop(usage);
    }

    /// Takes the answer of those calls out of their hands for which an errno is given: which, with what, and whose.
    fn answer_in_place(&self, judge: impl Fn(&mut Flight) -> Option<i32>) -> Vec<(u64, i32, &'static str)> {
        let mut taken = Vec::new();
        for (unique, flight) in lock(&self.flights).iter_mut().filter(|(_, flight)| !flight.answered) {
            if let Some(errno) = judge(flight) {
                flight.answered = true;
                taken.push((*unique, errno, flight.what));
            }
        }
        taken
    }

    /// Gives up calls that take longer than the deadline, or whose process was interrupted a moment ago.
    pub(super) fn give_up(&self, deadline: Duration) {
        let now = Instant::now();
        let late = self.answer_in_place(|flight| {
            let interrupted = flight.interrupted.is_some_and(|at| now.duration_since(at) >= INTERRUPTED);
            if now.duration_since(flight.since) >= deadline {
                flight.overdue = true;
                self.overdue.fetch_add(1, Ordering::Relaxed);
                Some(libc::EIO)
            } else {
                interrupted.then_some(libc::EINTR)
            }
        });
        for (unique, errno, what) in late {
            if errno == libc::EIO {
                let (fs, owner) = (&*self.mount.fs.name, &*self.mount.fs.owner);
                tracing::warn!(plugin = owner, fs, "{what} has not returned for {deadline:?}; its caller got EIO");
            }
            let _ = self.send(unique, errno, &[]);
        }
    }

    /// Calls that were given up and are still inside.
    pub(super) fn held(&self) -> usize {
        self.overdue.load(Ordering::Relaxed)
    }

    fn begin(self: &Arc<Self>, unique: u64, what: &'static str) -> Answer {
        let flight = Flight { since: Instant::now(), what, interrupted: None, answered: false, overdue: false };
        lock(&self.flights).insert(unique, flight);
        Answer { session: Arc::clone(self), unique, done: false }
    }

    /// Whether a request may take its time, so that somebody else has to listen meanwhile.
    pub(super) fn may_wait(operation: &Operation<'_>) -> bool {
        use Operation::{Destroy, Init, Interrupt, Other, Statfs};
        !matches!(operation, Init { .. } | Destroy | Interrupt { .. } | Statfs | Other)
    }

    /// Carries out one request, and answers it.
    pub(super) fn carry_out(self: &Arc<Self>, header: Header, operation: Operation<'_>) {
        let unique = header.unique;
        let sent = match operation {
            Operation::Init { major, minor, flags } => return self.init(unique, major, minor, flags),
            Operation::Interrupt { unique: which } => return self.interrupt(unique, which),
            Operation::Forget { forgotten } => {
                return forgotten.into_iter().for_each(|(ino, lookups)| self.mount.forget(ino, lookups));
            }
            Operation::Destroy => self.send(unique, 0, &[]),
            Operation::Statfs => self.send(unique, 0, &fuse_wire::statfs()),
            // The kernel does without, and asks no more.
            Operation::Other => self.send(unique, libc::ENOSYS, &[]),
            _ if self.held() >= HELD_MOST => {
                self.complain("too many of its calls do not return; another is not made");
                self.send(unique, libc::EIO, &[])
            }
            operation => return self.call(header, operation),
        };
        // Who asked may be gone.
        let _ = sent;
    }

    fn init(&self, unique: u64, major: u32, minor: u32, flags: u32) {
        let answer = fuse_wire::init(major, minor, flags);
        let sent = match &answer {
            Ok(body) => self.send(unique, 0, body).map_err(|e| format!("the kernel does not take the answer: {e}")),
            Err(_) => self.send(unique, libc::EPROTO, &[]).map_err(|e| e.to_string()),
        };
        if let Some(ready) = lock(&self.ready).take() {
            ready(answer.and(sent));
        }
    }

    /// The process behind a request has a signal to see to.
    fn interrupt(&self, unique: u64, which: u64) {
        let mut flights = lock(&self.flights);
        match flights.get_mut(&which) {
            Some(flight) => flight.interrupted = flight.interrupted.or_else(|| Some(Instant::now())),
            None => {
                drop(flights);
                // It is answered, or about to be begun by another thread: the kernel knows, and asks again if need be.
                let _ = self.send(unique, libc::EAGAIN, &[]);
            }
        }
    }

    fn call(self: &Arc<Self>, header: Header, operation: Operation<'_>) {
        let caller = FileCaller { uid: header.uid, gid: header.gid, pid: header.pid };
        let (ino, mount) = (header.ino, &self.mount);
        let answer = self.begin(header.unique, name(&operation));
        let open = |handle| OpenFile { ino, handle, caller };
        match operation {
            Operation::Lookup { name } => self.lookup(answer, caller, ino, name),
            Operation::Getattr => answer.give(mount.getattr(ino).map(|attr| fuse_wire::attr(&attr))),
            Operation::Setattr(wanted) => answer.give(self.setattr(caller, ino, wanted)),
            Operation::Readlink => answer.give(mount.readlink(ino)),
            Operation::Open { flags } => match mount.open(caller, ino, flags) {
                Ok(handle) => {
                    if !answer.ok(&fuse_wire::open(handle)) {
                        let _ = mount.release(open(handle));
                    }
                }
                Err(failure) => answer.fail(&failure),
            },
            Operation::Read { handle, offset, len } => answer.give(mount.read(open(handle), offset, len as usize)),
            Operation::Write { handle, offset, bytes } => {
                answer.give(mount.write(open(handle), offset, bytes).map(fuse_wire::written));
            }
            Operation::Release { handle } => answer.give(mount.release(open(handle)).map(|()| Vec::new())),
            Operation::Opendir => answer.give(self.opendir(caller, ino)),
            Operation::Readdir { handle, offset, len } => {
                answer.give(self.readdir(caller, ino, handle, offset, len as usize));
            }
            Operation::Releasedir { handle } => {
                lock(&self.directories).remove(&handle);
                answer.give(Ok(Vec::new()));
            }
            Operation::Access { mask } => answer.give(mount.access(caller, ino, mask).map(|()| Vec::new())),
            Operation::Create => answer.fail(&mount.no_create()),
            Operation::Change => answer.fail(&mount.no_change()),
            _ => answer.fail(&Failure::new(libc::ENOSYS, "this is carried out elsewhere")),
        }
    }

    fn lookup(&self, answer: Answer, caller: FileCaller, parent: u64, name: &[u8]) {
        // Names are text here: no file has another.
        let Ok(name) = std::str::from_utf8(name) else {
            return answer.fail(&Failure::new(libc::ENOENT, "there is no such file"));
        };
        match self.mount.lookup(caller, parent, name) {
            Ok(attr) => {
                if !answer.ok(&fuse_wire::entry(&attr)) {
                    self.mount.forget(attr.ino, 1);
                }
            }
            Err(failure) => answer.fail(&failure),
        }
    }

    /// Times are nobody's business here, and may be set; as in procfs.
    fn setattr(&self, caller: FileCaller, ino: u64, wanted: Setattr) -> Result<Vec<u8>, Failure> {
        if wanted.ownership {
            return Err(Failure::new(libc::EPERM, "mode and owner of a file are the file system's to say"));
        }
        let attr = match wanted.size {
            Some(size) => self.mount.truncate(caller, ino, size)?,
            None => self.mount.getattr(ino)?,
        };
        Ok(fuse_wire::attr(&attr))
    }

    fn opendir(&self, caller: FileCaller, ino: u64) -> Result<Vec<u8>, Failure> {
        const READ: u32 = 4;
        if self.mount.fs.judges_access {
            self.mount.access(caller, ino, READ)?;
        }
        let handle = self.last_directory.fetch_add(1, Ordering::Relaxed) + 1;
        lock(&self.directories).insert(handle, None);
        Ok(fuse_wire::opendir(handle))
    }

    /// A listing is made when it is read from its beginning, and stays as it was until then.
    fn readdir(&self, caller: FileCaller, ino: u64, handle: u64, from: u64, len: usize) -> Result<Vec<u8>, Failure> {
        let known = lock(&self.directories).get(&handle).cloned().flatten().filter(|_| from > 0);
        let entries = match known {
            Some(entries) => entries,
            None => {
                let entries = Arc::new(self.mount.readdir(caller, ino)?);
                if let Some(directory) = lock(&self.directories).get_mut(&handle) {
                    *directory = Some(Arc::clone(&entries));
                }
                entries
            }
        };
        Ok(fuse_wire::readdir(ino, &entries, from, len))
    }

    /// Logs what is wrong with the file system, at most once a second.
    fn complain(&self, what: &str) {
        let mut last = lock(&self.last_complaint);
        if last.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            *last = Some(Instant::now());
            let (fs, owner) = (&*self.mount.fs.name, &*self.mount.fs.owner);
            tracing::warn!(plugin = owner, fs, "{what}");
        }
    }
}

/// The answer to one request. Dropped, it is `EIO`.
struct Answer {
    session: Arc<Session>,
    unique: u64,
    done: bool,
}

impl Answer {
    fn give(self, result: Result<Vec<u8>, Failure>) {
        match result {
            Ok(body) => drop(self.ok(&body)),
            Err(failure) => self.fail(&failure),
        }
    }

    /// Whether it has come to who asked: else nobody knows what it says.
    fn ok(mut self, body: &[u8]) -> bool {
        self.deliver(0, body)
    }

    fn fail(mut self, failure: &Failure) {
        let errno = match failure.errno {
            // To the kernel this would mean that there is no such operation at all, ever.
            libc::ENOSYS => libc::EOPNOTSUPP,
            errno @ 1..=ERRNO_MOST => errno,
            _ => libc::EIO,
        };
        if errno == libc::EIO {
            self.session.complain(&failure.message);
        }
        self.deliver(errno, &[]);
    }

    fn deliver(&mut self, errno: i32, body: &[u8]) -> bool {
        self.done = true;
        let Some(flight) = lock(&self.session.flights).remove(&self.unique) else { return false };
        if flight.overdue {
            self.session.overdue.fetch_sub(1, Ordering::Relaxed);
        }
        // `ENOENT`: the kernel has given the request up.
        !flight.answered && self.session.send(self.unique, errno, body).is_ok()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.done {
            self.deliver(libc::EIO, &[]);
        }
    }
}

/// As the operator knows it.
fn name(operation: &Operation<'_>) -> &'static str {
    match operation {
        Operation::Lookup { .. } => "fs.lookup",
        Operation::Getattr => "fs.getattr",
        Operation::Setattr(_) => "fs.truncate",
        Operation::Readlink => "fs.readlink",
        Operation::Open { .. } => "fs.open",
        Operation::Read { .. } => "fs.read",
        Operation::Write { .. } => "fs.write",
        Operation::Release { .. } => "fs.release",
        Operation::Opendir | Operation::Readdir { .. } | Operation::Releasedir { .. } => "fs.readdir",
        _ => "a file operation",
    }
}
