//! What a FUSE request asks for, carried out: a call of the engine's [`crate::engine::Mount`], and its answer.
//!
//! Mirrors the operations of `fs/fuse`. What a call left behind whose answer nobody has got is taken back here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use pernet_plugin_api::{FileCaller, OpenFile};

use super::fuse_session::{Answer, Session, lock};
use super::fuse_wire::{self, Header, Operation, Setattr};
use crate::engine::Failure;

/// Calls that are given up and have not returned: with more of them a mount answers `EIO` without calling.
const HELD_MOST: usize = 16;

/// The longest name of a file; the kernel asks for longer ones, too.
const NAME_MAX: usize = 255;

impl Session {
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
                return forgotten.into_iter().for_each(|(ino, lookups)| self.mount().forget(ino, lookups));
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
        self.tell_ready(answer.and(sent));
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
        let (ino, mount) = (header.ino, self.mount());
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
            Operation::Opendir => match self.opendir(caller, ino) {
                Ok(handle) => {
                    if !answer.ok(&fuse_wire::opendir(handle)) {
                        lock(&self.directories).remove(&handle);
                    }
                }
                Err(failure) => answer.fail(&failure),
            },
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
        if name.len() > NAME_MAX {
            return answer.fail(&Failure::new(libc::ENAMETOOLONG, "no file has so long a name"));
        }
        match self.mount().lookup(caller, parent, name) {
            Ok(attr) => {
                if !answer.ok(&fuse_wire::entry(&attr)) {
                    self.mount().forget(attr.ino, 1);
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
            Some(size) => self.mount().truncate(caller, ino, size)?,
            None => self.mount().getattr(ino)?,
        };
        Ok(fuse_wire::attr(&attr))
    }

    fn opendir(&self, caller: FileCaller, ino: u64) -> Result<u64, Failure> {
        const READ: u32 = 4;
        if self.mount().fs.judges_access {
            self.mount().access(caller, ino, READ)?;
        }
        let handle = self.last_directory.fetch_add(1, Ordering::Relaxed) + 1;
        lock(&self.directories).insert(handle, None);
        Ok(handle)
    }

    /// A listing is made when it is read from its beginning, and stays as it was until then.
    fn readdir(&self, caller: FileCaller, ino: u64, handle: u64, from: u64, len: usize) -> Result<Vec<u8>, Failure> {
        let known = lock(&self.directories).get(&handle).cloned().flatten().filter(|_| from > 0);
        let entries = match known {
            Some(entries) => entries,
            None => {
                let entries = Arc::new(self.mount().readdir(caller, ino)?);
                if let Some(directory) = lock(&self.directories).get_mut(&handle) {
                    *directory = Some(Arc::clone(&entries));
                }
                entries
            }
        };
        Ok(fuse_wire::readdir(ino, &entries, from, len))
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
