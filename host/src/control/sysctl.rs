//! Sysctls over the control socket: which are meant, and what became of each.
//!
//! The daemon says which namespaces are meant ([`super::Request::Sysctls`]); what is asked of their sysctls is done
//! here, on the connection's own thread, since it is plugins' code that answers: a handler that hangs holds up its caller
//! and nobody else. Whether a mode allows it is judged with the caller's credentials, as for a file.

use std::borrow::Cow;
use std::fmt;

use super::access::Peer;
use super::request::{ControlError, ErrorKind};
use super::wire::Sysctl;
use crate::config::SysctlKey;

/// Who asks, as far as a mode is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// User.
    pub uid: u32,
    /// Group; 0 for who is in root's group besides.
    pub gid: u32,
    /// Root or the daemon's own user.
    pub privileged: bool,
}

impl Asker {
    pub(super) fn of(peer: &Peer) -> Asker {
        Asker { uid: peer.uid(), gid: if peer.is_member(0) { 0 } else { peer.gid() }, privileged: peer.is_privileged() }
    }
}

/// What came of an access, as the kernel would say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errno {
    /// Positive.
    pub errno: i32,
    /// The sentence.
    pub message: String,
}

/// The sysctls of one namespace.
pub trait SysctlSet: Send + Sync + fmt::Debug {
    /// All sysctls at this path and below it, in order, without their values; `""` is all of them.
    fn list(&self, path: &str) -> Vec<Sysctl>;
    /// The whole of what a sysctl reads as.
    fn read(&self, path: &str, who: &Asker) -> Result<Vec<u8>, Errno>;
    /// Writes at its beginning; how many bytes were taken.
    fn write(&self, path: &str, who: &Asker, bytes: &[u8]) -> Result<usize, Errno>;
}

/// In which namespaces, as the caller wrote it, and their sysctls.
pub(super) struct Sets {
    pub(super) netns: Option<String>,
    pub(super) sets: Vec<Box<dyn SysctlSet>>,
}

impl Sets {
    /// Those at a key and below it, without values.
    pub(super) fn list(&self, key: Option<&str>) -> Result<Vec<Sysctl>, ControlError> {
        let path = key.map(path_of).transpose()?.unwrap_or_default();
        let found: Vec<Sysctl> = self.sets.iter().flat_map(|set| set.list(&path)).collect();
        match key {
            Some(key) if found.is_empty() => Err(self.no_such(key)),
            _ => Ok(found),
        }
    }

    /// The same with values. Of a directory, or of all, those that nobody may read are left out.
    pub(super) fn read(&self, key: Option<&str>, who: &Asker) -> Result<Vec<Sysctl>, ControlError> {
        let path = key.map(path_of).transpose()?.unwrap_or_default();
        let mut read = Vec::new();
        for set in &self.sets {
            for found in set.list(&path) {
                let at = path_of(&found.key)?;
                if at == path || found.mode & 0o444 != 0 {
                    read.push(with_value(found, set.read(&at, who)));
                }
            }
        }
        match key {
            Some(key) if read.is_empty() => Err(self.no_such(key)),
            _ => Ok(read),
        }
    }

    /// Writes one in each namespace that has it.
    pub(super) fn write(&self, key: &str, who: &Asker, value: &str) -> Result<Vec<Sysctl>, ControlError> {
        let path = path_of(key)?;
        let line = format!("{value}\n");
        let mut written = Vec::new();
        for set in &self.sets {
            let found = set.list(&path).into_iter();
            for one in found.filter(|found| path_of(&found.key).is_ok_and(|at| at == path)) {
                written.push(told(one, value, set.write(&path, who, line.as_bytes()), line.len()));
            }
        }
        if !written.is_empty() {
            return Ok(written);
        }
        if self.sets.iter().any(|set| !set.list(&path).is_empty()) {
            let remedy = "name a sysctl in it";
            return Err(ControlError::new(ErrorKind::Invalid, key, "EISDIR: it is a directory of sysctls", remedy));
        }
        Err(self.no_such(key))
    }

    fn no_such(&self, key: &str) -> ControlError {
        let netns = self.netns.as_deref().unwrap_or("@host");
        let what = if self.sets.len() == 1 {
            format!("ENOENT: there is no such sysctl in namespace {netns}")
        } else {
            format!("ENOENT: no namespace that is called {netns} has such a sysctl")
        };
        let remedy = "see those that are there with `pernetctl sysctl -a --netns NAME`, and which plugin has it";
        ControlError::new(ErrorKind::NotFound, format!("sysctl {key}"), what, remedy)
    }
}

fn path_of(key: &str) -> Result<String, ControlError> {
    let wrong =
        |fault: crate::config::KeyFault| ControlError::new(ErrorKind::Invalid, "sysctl", fault.message, fault.hint);
    SysctlKey::parse(key).map(|key| key.path().to_owned()).map_err(wrong)
}

fn with_value(sysctl: Sysctl, read: Result<Vec<u8>, Errno>) -> Sysctl {
    match read {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let value = text.strip_suffix('\n').unwrap_or(&text).to_owned();
            Sysctl { value: Some(value), ..sysctl }
        }
        Err(error) => failed(sysctl, &error),
    }
}

/// What was written, and what was left over of it: a vector takes no more than it has elements (K7.9).
fn told(sysctl: Sysctl, value: &str, written: Result<usize, Errno>, len: usize) -> Sysctl {
    match written {
        Ok(taken) => {
            let left = value.get(taken.min(len)..).map(str::trim).filter(|left| !left.is_empty());
            Sysctl { value: Some(value.to_owned()), left_over: left.map(str::to_owned), ..sysctl }
        }
        Err(error) => failed(sysctl, &error),
    }
}

fn failed(sysctl: Sysctl, error: &Errno) -> Sysctl {
    Sysctl { errno: Some(name(error.errno).into_owned()), error: Some(error.message.clone()), ..sysctl }
}

/// The kernel's name of an error number.
#[must_use]
pub fn name(errno: i32) -> Cow<'static, str> {
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::ENXIO => "ENXIO",
        libc::E2BIG => "E2BIG",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::ENOTDIR => "ENOTDIR",
        libc::EISDIR => "EISDIR",
        libc::EINVAL => "EINVAL",
        libc::ENFILE => "ENFILE",
        libc::EMFILE => "EMFILE",
        libc::EFBIG => "EFBIG",
        libc::ENOSPC => "ENOSPC",
        libc::EROFS => "EROFS",
        libc::ERANGE => "ERANGE",
        libc::EDEADLK => "EDEADLK",
        libc::ENOSYS => "ENOSYS",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::ESTALE => "ESTALE",
        libc::ECANCELED => "ECANCELED",
        other => return Cow::Owned(format!("errno {other}")),
    };
    Cow::Borrowed(name)
}
