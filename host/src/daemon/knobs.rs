//! The daemon's own sysctls, `@host:pernetd.*`: what of the main configuration can be changed while it runs.
//!
//! They are registered by the same call as a plugin's, and a change takes effect at once. It is not kept: the next start
//! begins with the configuration again, of which `sysctl.d` counts before the main file.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::config::LogLevel;
use crate::engine::{CtlAt, CtlData, CtlEntry, CtlHeader, CtlKind, CtlTable, Failure, Number};
use crate::linux::worker::Workers;
use crate::logging::catalog;
use crate::{logging, plugin};

use super::reload::Shared;
use super::sysctls::{NetSysctl, OWN};

/// The levels by the words for them, from the least that is logged to the most.
const LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

/// The entries, by position in the table.
#[derive(Clone, Copy)]
enum Knob {
    FilesystemTimeout,
    LogLevel,
    ReceiveBuffer,
    UnregisterTimeout,
    Workers,
}

const KNOBS: [Knob; 5] =
    [Knob::FilesystemTimeout, Knob::LogLevel, Knob::ReceiveBuffer, Knob::UnregisterTimeout, Knob::Workers];

impl Knob {
    fn entry(self) -> CtlEntry {
        let number = |name: &str, mode, kind, min, max| CtlEntry {
            name: name.to_owned(),
            mode,
            kind,
            len: 1,
            min: Some(min),
            max: Some(max),
        };
        match self {
            Knob::LogLevel => CtlEntry {
                name: "log_level".to_owned(),
                mode: 0o644,
                kind: CtlKind::Text,
                len: 8,
                min: None,
                max: None,
            },
            // Fixed when the socket for link events is opened.
            Knob::ReceiveBuffer => number("receive_buffer", 0o444, CtlKind::Ulong, 0, Number::from(u64::MAX)),
            Knob::FilesystemTimeout => number("filesystem_timeout", 0o644, CtlKind::Uint, 1, 3600),
            Knob::UnregisterTimeout => number("unregister_timeout", 0o644, CtlKind::Uint, 1, 3600),
            Knob::Workers => number("workers", 0o644, CtlKind::Uint, 1, 1024),
        }
    }
}

/// What the knobs turn.
pub(super) struct Knobs {
    /// It has the sysctls itself.
    pub(super) shared: Weak<Shared>,
    pub(super) workers: Arc<Workers>,
    pub(super) receive_buffer: usize,
}

impl Knobs {
    fn shared(&self) -> Result<Arc<Shared>, Failure> {
        self.shared.upgrade().ok_or_else(|| Failure::new(libc::ESTALE, "pernetd is ending"))
    }
}

/// The registered knobs; dropping this unregisters them.
pub(super) struct Registered {
    sysctl: Arc<NetSysctl>,
    header: Arc<CtlHeader>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        // No handler of theirs waits for anything.
        if let Err(failure) = self.sysctl.init_net.unregister(&self.header, Duration::from_secs(1)) {
            tracing::warn!(message_id = catalog::OWN_MISTAKE, errno = failure.errno, "its own knobs: {failure}");
        }
    }
}

/// Registers them.
///
/// # Errors
/// Whatever is in their way; then none is there.
pub(super) fn register(sysctl: &Arc<NetSysctl>, knobs: Knobs) -> Result<Registered, Failure> {
    let table = CtlTable { entries: KNOBS.map(Knob::entry).into(), data: Arc::new(knobs) };
    let header = sysctl.register(OWN, table)?;
    Ok(Registered { sysctl: Arc::clone(sysctl), header })
}

fn knob(at: &CtlAt) -> Result<Knob, Failure> {
    KNOBS.get(at.entry).copied().ok_or_else(|| Failure::new(libc::EINVAL, "there is no such knob"))
}

fn not_of_this_kind() -> Failure {
    Failure::new(libc::EINVAL, "this knob is of another kind")
}

impl CtlData for Knobs {
    fn load(&self, at: &CtlAt, _: usize) -> Result<Number, Failure> {
        match knob(at)? {
            Knob::ReceiveBuffer => Ok(self.receive_buffer as Number),
            Knob::FilesystemTimeout => Ok(self.shared()?.filesystems.fuse.deadline().as_secs().into()),
            Knob::UnregisterTimeout => Ok(self.shared()?.patience.load(Ordering::Relaxed).into()),
            Knob::Workers => Ok(self.workers.size() as Number),
            Knob::LogLevel => Err(not_of_this_kind()),
        }
    }

    fn store(&self, at: &CtlAt, _: usize, value: Number) -> Result<(), Failure> {
        let beyond = |_| Failure::new(libc::EINVAL, "the number is too large");
        match knob(at)? {
            Knob::FilesystemTimeout => {
                let seconds = u64::try_from(value).map_err(beyond)?;
                self.shared()?.filesystems.fuse.set_deadline(Duration::from_secs(seconds));
            }
            Knob::UnregisterTimeout => self.shared()?.set_patience(u64::try_from(value).map_err(beyond)?),
            Knob::Workers => self.workers.set_size(usize::try_from(value).map_err(beyond)?),
            Knob::ReceiveBuffer | Knob::LogLevel => return Err(not_of_this_kind()),
        }
        Ok(())
    }

    fn text(&self, at: &CtlAt) -> Result<Vec<u8>, Failure> {
        match knob(at)? {
            Knob::LogLevel => {
                let (word, _) = LEVELS[usize::from(logging::level()).clamp(1, LEVELS.len()) - 1];
                Ok(word.into())
            }
            _ => Err(not_of_this_kind()),
        }
    }

    fn set_text(&self, at: &CtlAt, text: &[u8]) -> Result<(), Failure> {
        let Knob::LogLevel = knob(at)? else { return Err(not_of_this_kind()) };
        let found = LEVELS.iter().find(|(word, _)| word.as_bytes() == text.trim_ascii());
        let (_, level) = found.ok_or_else(|| {
            let what = format!("`{}` is no level; write error, warn, info, debug or trace", text.escape_ascii());
            Failure::new(libc::EINVAL, what)
        })?;
        set_log_level(*level);
        Ok(())
    }
}

/// Has the daemon log so much from now on, and its plugins too.
pub(super) fn set_log_level(level: LogLevel) {
    logging::set_level(level);
    plugin::host_api::set_log_level(logging::level());
}
