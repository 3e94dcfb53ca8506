//! Why there is no daemon: what is wrong, and whose fault that is, which is its exit code.
//!
//! Mirrors `sysexits.h`: by the number a service manager knows whether another start can help (`RestartPreventExitStatus=`
//! in the unit), and a script what to look at. What `--check` finds is told by it alone: that exits 0 or 1.

use std::fmt;

use crate::config::{ConfigError, ConfigErrors};
use crate::logging::{self, catalog};

use super::plugins::Trouble;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The command line's.
    Usage,
    /// The machine's: another daemon is at work here, or the kernel lacks what is needed.
    Unavailable,
    /// Our own, or a plugin's: a panic, a hook that does not return.
    Software,
    /// The system's: a call failed that does not fail on a sound machine.
    System,
    /// A file of the system's is missing (`/proc`).
    SystemFile,
    /// A folder or socket that cannot be made, or not where it is safe.
    CannotCreate,
    /// Something has run out that comes again.
    Temporary,
    /// A right is missing.
    NoPermission,
    /// The configuration's.
    Configuration,
}

impl Fault {
    /// As `sysexits.h` numbers them.
    pub(crate) fn exit_code(self) -> i32 {
        match self {
            Fault::Usage => 64,
            Fault::Unavailable => 69,
            Fault::Software => 70,
            Fault::System => 71,
            Fault::SystemFile => 72,
            Fault::CannotCreate => 73,
            Fault::Temporary => 75,
            Fault::NoPermission => 77,
            Fault::Configuration => 78,
        }
    }

    /// Where nothing more is known than what the kernel said.
    pub(crate) fn of_errno(errno: i32) -> Fault {
        match errno {
            libc::EPERM | libc::EACCES => Fault::NoPermission,
            libc::ENOENT => Fault::SystemFile,
            libc::EEXIST | libc::EROFS | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG => Fault::CannotCreate,
            libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOSPC | libc::EDQUOT => Fault::Temporary,
            libc::EADDRINUSE | libc::ENOSYS | libc::EINVAL | libc::EOPNOTSUPP | libc::EAFNOSUPPORT => {
                Fault::Unavailable
            }
            _ => Fault::System,
        }
    }
}

/// What went wrong before the loop ran.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) fault: Fault,
    message: String,
    /// The mistakes in the configuration, if that is what it is.
    mistakes: Vec<ConfigError>,
}

impl Failed {
    pub(crate) fn new(fault: Fault, message: impl Into<String>) -> Failed {
        Failed { fault, message: message.into(), mistakes: Vec::new() }
    }

    /// Something of the system failed: `what`, and what the kernel said.
    pub(crate) fn system(what: &str, e: &std::io::Error) -> Failed {
        let fault = e.raw_os_error().map_or(Fault::System, Fault::of_errno);
        Failed::new(fault, format!("{what}: {e}"))
    }

    /// On standard error; where the journal is behind that, as entries of their own.
    pub(crate) fn tell(&self) {
        if !logging::is_journal() {
            eprintln!("pernetd: {}", self.message);
        } else if self.mistakes.is_empty() {
            tracing::error!(message_id = catalog::NOT_STARTED, "pernetd did not start: {}", self.message);
        }
        for mistake in self.mistakes.iter().filter(|_| logging::is_journal()) {
            Trouble::mistake(mistake).tell(catalog::NOT_STARTED, "", &format!("pernetd did not start: {mistake}"));
        }
    }
}

impl From<ConfigErrors> for Failed {
    fn from(errors: ConfigErrors) -> Self {
        Failed { fault: Fault::Configuration, message: errors.to_string(), mistakes: errors.0 }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The unit says by these numbers which starts are not tried again.
    #[test]
    fn the_unit_tries_again_what_may_pass() {
        let unit = include_str!("../../../systemd/pernetd.service");
        let line = unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus="));
        let prevented: Vec<i32> = line.unwrap_or_default().split(' ').filter_map(|code| code.parse().ok()).collect();
        let passes = [Fault::Software, Fault::System, Fault::SystemFile, Fault::Temporary];
        let stays = [Fault::Usage, Fault::Unavailable, Fault::CannotCreate, Fault::NoPermission, Fault::Configuration];
        assert_eq!(prevented, stays.map(Fault::exit_code));
        assert!(passes.iter().all(|fault| !prevented.contains(&fault.exit_code())));
    }
}
