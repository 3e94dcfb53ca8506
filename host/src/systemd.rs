//! What the daemon tells its service manager, and what it gets from it: plain functions.
//!
//! Without a service manager they do nothing. A message that cannot be sent is logged and no more: the daemon's work
//! does not depend on who watches it.

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::control::{SOCKET, listening};
use crate::linux::peer;
use crate::logging::catalog;

fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!(
            message_id = catalog::MANAGER_DEAF,
            "the service manager could not be notified: {e}; it may think that pernetd hangs"
        );
    }
}

/// The existing namespaces have been replayed (or a reload is over), and this is the result.
pub fn ready(text: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(text)]);
}

/// What `systemctl status` shows.
pub fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

/// A reload begins; [`ready`] ends it.
pub fn reloading() {
    // Both in one message: from version 253 on, RELOADING without the time that belongs to it is an error.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(e) => tracing::warn!(
            message_id = catalog::MANAGER_DEAF,
            "the service manager is not told of the reload: no clock: {e}"
        ),
    }
}

/// The exits begin.
pub fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("running the plugins' exits")]);
}

/// How often [`watchdog_ping`] is to be called: half of what the unit's `WatchdogSec` allows; `None` if nobody watches.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// The daemon loop turns.
pub fn watchdog_ping() {
    notify(&[NotifyState::Watchdog]);
}

/// Whether there is a service manager to tell.
#[must_use]
pub fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Has the service manager keep a descriptor over a restart, under a name. It lets go by itself once the descriptor has
/// nothing at its other end.
pub fn store(name: &str, descriptor: BorrowedFd<'_>) {
    let states = [NotifyState::FdStore, NotifyState::FdName(name)];
    if let Err(e) = sd_notify::notify_with_fds(&states, &[descriptor]) {
        tracing::warn!(
            message_id = catalog::MANAGER_DEAF,
            "the service manager does not keep {name} over a restart: {e}"
        );
    }
}

/// Has it let go.
pub fn unstore(name: &str) {
    notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// What it has kept under names that begin so. To be called once, at start.
#[must_use]
pub fn stored(prefix: &str) -> Vec<(String, OwnedFd)> {
    let Ok(descriptors) = sd_notify::listen_fds_with_names() else { return Vec::new() };
    let ours = descriptors.filter(|(_, name)| name.starts_with(prefix));
    let take = |(number, name): (RawFd, String)| match peer::take_inherited(number) {
        Ok(descriptor) => Some((name, descriptor)),
        Err(e) => {
            tracing::warn!(message_id = catalog::MANAGER_DEAF, "descriptor {number} ({name}) is not used: {e}");
            None
        }
    };
    ours.filter_map(take).collect()
}

/// The control socket, if the service manager made it: a descriptor named `io.pernetd`, or the only one without a name.
/// To be called once, at start.
#[must_use]
pub fn control_socket() -> Option<UnixListener> {
    let descriptors = match sd_notify::listen_fds_with_names() {
        Ok(descriptors) => descriptors,
        Err(e) => {
            tracing::warn!(
                message_id = catalog::MANAGER_DEAF,
                "the service manager's sockets are not used: {e}; correct LISTEN_FDS"
            );
            return None;
        }
    };
    // Without a FileDescriptorName= systemd calls a descriptor after its unit, and others call it "unknown".
    let ours = |name: &str| [SOCKET, "pernetd.socket", "unknown"].contains(&name);
    let (number, _) = descriptors.into_iter().find(|(_, name)| ours(name))?;
    let unused = |e: &dyn std::fmt::Display| {
        tracing::warn!(message_id = catalog::MANAGER_DEAF, "descriptor {number} is not used: {e}");
    };
    let socket = peer::take_inherited(number).inspect_err(|e| unused(e)).ok()?;
    listening(socket).inspect_err(|e| unused(e)).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    /// Notifications go where the environment says, which only a process of its own can have changed.
    #[test]
    fn a_reload_is_told_with_its_time_in_one_message() -> Result<(), Box<dyn std::error::Error>> {
        if std::env::var_os("PERNET_TEST_NOTIFY").is_some() {
            super::reloading();
            super::ready("3 namespaces");
            super::stopping();
            return Ok(());
        }
        let dir = tempfile::tempdir()?;
        let socket = UnixDatagram::bind(dir.path().join("notify"))?;
        let mut child = Command::new(std::env::current_exe()?);
        let name = "systemd::tests::a_reload_is_told_with_its_time_in_one_message";
        child.args(["--exact", name]).env("PERNET_TEST_NOTIFY", "1");
        assert!(child.env("NOTIFY_SOCKET", dir.path().join("notify")).output()?.status.success());
        socket.set_nonblocking(true)?;
        let next = || -> std::io::Result<String> {
            let mut buffer = [0; 4096];
            let n = socket.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
        };
        let reloading = next()?;
        assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
        assert_eq!(next()?, "READY=1\nSTATUS=3 namespaces\n");
        assert!(next()?.starts_with("STOPPING=1\n"));
        Ok(())
    }
}
