//! Mounts that outlive the daemon, where a service manager keeps their connections over a restart.
//!
//! Each user's mount is written down in the state folder, and its connection put into the manager's store under the same
//! name. The next daemon serves it again: nobody has to mount anew, and who asked in between has only waited. Without a
//! manager nothing is kept. Whoever stops the service for good has its store emptied, and the mounts are dead then.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use pernet_plugin_api::NetCookie;
use serde::{Deserialize, Serialize};

use crate::engine::{Mount, MountRequest, Net};
use crate::logging::catalog;
use crate::systemd;

use super::filesystems::{self, Filesystems};
use super::{Daemon, Phase};

/// What the names of kept connections begin with.
const PREFIX: &str = "mount-";
/// There while no request can be in a daemon that is gone: it stopped in order.
const CLEAN: &str = "clean";

/// A mount as it is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    fs: String,
    /// The namespace that it is for, by its cookie, which a restart does not change.
    cookie: Option<u64>,
    source: String,
    target: String,
    options: String,
}

/// A mount that a daemon before this one has left.
pub(super) struct Left {
    name: String,
    device: OwnedFd,
    record: Record,
    /// Requests may have been taken off it that nobody has answered.
    unanswered: bool,
}

/// Those of this daemon.
pub(super) struct KeptMounts {
    folder: PathBuf,
    /// Tells this daemon's names from those of others.
    started: u128,
    last: AtomicU64,
    /// By the mount's number. Held for a look-up only.
    names: Mutex<HashMap<u64, String>>,
    /// What ends from here on is kept.
    stopping: AtomicBool,
}

impl KeptMounts {
    pub(super) fn new(state_dir: &Path) -> KeptMounts {
        KeptMounts {
            folder: state_dir.join("mounts"),
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros()),
            last: AtomicU64::new(0),
            names: Mutex::default(),
            stopping: AtomicBool::new(false),
        }
    }

    fn names(&self) -> MutexGuard<'_, HashMap<u64, String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the manager keep a mount that is being served.
    pub(super) fn keep(&self, mount: &Mount, device: BorrowedFd<'_>) {
        if !systemd::is_there() {
            return;
        }
        let name = format!("{PREFIX}{}-{}", self.started, self.last.fetch_add(1, Ordering::Relaxed) + 1);
        match self.write(&name, &Record::of(mount)) {
            Ok(()) => {
                systemd::store(&name, device);
                self.names().insert(mount.id, name);
            }
            Err(e) => {
                let folder = self.folder.display();
                let (fs, target) = (&*mount.fs.name, &*mount.request.target);
                tracing::warn!(
                    message_id = catalog::MOUNT_DEAD,
                    fs,
                    target,
                    errno = e.raw_os_error(),
                    "the mount of {fs} on {target} will not outlive this daemon: {folder}: {e}"
                );
            }
        }
    }

    fn write(&self, name: &str, record: &Record) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        fs::write(self.folder.join(name), serde_json::to_vec(record)?)
    }

    /// A mount has ended: unless it is this daemon that does, it is kept no more.
    pub(super) fn ended(&self, mount: u64) {
        if self.stopping.load(Ordering::Acquire) {
            return;
        }
        let name = self.names().remove(&mount);
        if let Some(name) = name {
            self.forget(&name);
        }
    }

    fn forget(&self, name: &str) {
        systemd::unstore(name);
        let _ = fs::remove_file(self.folder.join(name));
    }

    /// The daemon ends: what is kept stays kept.
    pub(super) fn stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// It has ended in order: no request is in it any more.
    pub(super) fn stopped(&self) {
        if systemd::is_there() && !self.names().is_empty() {
            // Without it, the next one asks the kernel for requests that were not answered.
            let _ = fs::write(self.folder.join(CLEAN), "");
        }
    }

    /// What the manager has kept of the daemon before. To be called once, at start.
    pub(super) fn left(&self) -> Vec<Left> {
        let clean = fs::remove_file(self.folder.join(CLEAN)).is_ok();
        let left: Vec<Left> = systemd::stored(PREFIX)
            .into_iter()
            .filter_map(|(name, device)| {
                let text = fs::read(self.folder.join(&name));
                let record = text.and_then(|text| Ok(serde_json::from_slice(&text)?));
                match record {
                    Ok(record) => Some(Left { name, device, record, unanswered: !clean }),
                    Err(e) => {
                        tracing::warn!(
                            message_id = catalog::MOUNT_DEAD,
                            fs = "unknown",
                            target = "unknown",
                            "{name}: a mount that was kept is let go, as it is not known what it was: {e}"
                        );
                        self.forget(&name);
                        None
                    }
                }
            })
            .collect();
        self.sweep(&left);
        left
    }

    /// Takes away what is written of mounts that nobody has kept.
    fn sweep(&self, left: &[Left]) {
        for file in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = file.file_name();
            if left.iter().all(|left| *left.name != *name) {
                let _ = fs::remove_file(file.path());
            }
        }
    }
}

impl Record {
    fn of(mount: &Mount) -> Record {
        let MountRequest { net, source, target, options, .. } = &mount.request;
        Record {
            fs: mount.fs.name.to_string(),
            cookie: net.map(|net| net.0),
            source: source.clone(),
            target: target.clone(),
            options: options.clone(),
        }
    }
}

impl Daemon {
    /// Takes up what the daemon before has left, once the namespaces have been listed: who asked meanwhile shall not be
    /// told that there are none. One whose namespace is not among them is let go.
    pub(super) fn take_up_left_mounts(&mut self) {
        if !self.scanned || self.phase == Phase::Stopping {
            return;
        }
        for left in std::mem::take(&mut self.left_mounts) {
            let net = left.record.cookie.and_then(|cookie| self.nets.get(&NetCookie(cookie)));
            let net = net.map(|managed| Arc::clone(&managed.net)).filter(|net| !net.dying());
            let filesystems = Arc::clone(&self.shared.filesystems);
            if left.record.cookie.is_none() || net.is_some() {
                // On a worker: the type's own code is asked.
                self.workers.run_anywhere(Box::new(move || take_up(&filesystems, net.as_deref(), left)));
            } else {
                filesystems.let_go(left, "its namespace is gone");
            }
        }
    }
}

fn take_up(filesystems: &Filesystems, net: Option<&Net>, left: Left) {
    let Record { fs, source, target, options, .. } = &left.record;
    let (source, target, options) = (source.clone(), target.clone(), options.clone());
    let request = MountRequest { source, target, options, ..filesystems::request_for(net) };
    let mounted = filesystems.types.mount(fs, request);
    let mount = match mounted.and_then(|mount| filesystems::is_there_still(net).map(|()| mount)) {
        Ok(mount) => mount,
        Err(failure) => return filesystems.let_go(left, &filesystems::told(&failure)),
    };
    filesystems.kept.names().insert(mount.id, left.name.clone());
    let (id, target, fs) = (mount.id, mount.request.target.clone(), Arc::clone(&mount.fs.name));
    match filesystems.fuse.take_up(left.device, mount, left.unanswered) {
        Ok(()) => tracing::info!(
            message_id = catalog::MOUNT_SERVED_AGAIN,
            fs = &*fs,
            target,
            "the mount of {fs} on {target} is served again"
        ),
        Err(e) => {
            tracing::warn!(
                message_id = catalog::MOUNT_DEAD,
                fs = &*fs,
                target,
                errno = e.raw_os_error(),
                "the mount of {fs} on {target} cannot be served again and is let go: {e}; mount it anew"
            );
            filesystems.kept.ended(id);
        }
    }
}

impl Filesystems {
    fn let_go(&self, left: Left, why: &str) {
        let Record { fs, target, .. } = &left.record;
        tracing::warn!(
            message_id = catalog::MOUNT_DEAD,
            fs,
            target,
            "the mount of {fs} on {target} is not served again: {why}; mount it anew"
        );
        drop(left.device);
        self.kept.forget(&left.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_service_manager_nothing_is_kept() -> io::Result<()> {
        let state = tempfile::tempdir()?;
        let kept = KeptMounts::new(state.path());
        fs::create_dir(state.path().join("mounts"))?;
        fs::write(state.path().join("mounts/mount-1-1"), "{}")?;
        assert!(kept.left().is_empty());
        assert!(!state.path().join("mounts/mount-1-1").exists(), "what nobody kept is swept away");
        kept.stopping();
        kept.stopped();
        assert!(!state.path().join("mounts/clean").exists());
        Ok(())
    }

    #[test]
    fn a_record_is_read_as_it_was_written() -> io::Result<()> {
        let text = r#"{"fs":"netctl","cookie":7,"source":"none","target":"/mnt","options":"a=1"}"#;
        let record: Record = serde_json::from_str(text)?;
        assert_eq!((record.cookie, &*record.fs), (Some(7), "netctl"));
        assert_eq!(serde_json::to_string(&record)?, text);
        Ok(())
    }
}
