//! A network namespace as both sides name it: its cookie and why an exit is called.

/// The kernel's net cookie (`SO_NETNS_COOKIE`): never reused, unlike the inode, the nsid and the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetCookie(pub u64);

/// Why an exit is called, which decides whether it undoes its effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitReason {
    /// The last name of the namespace is gone: release, and touch nothing that a process inside may still use.
    Died = 0,
    /// The plugin goes: undo.
    Removed = 1,
    /// A new generation of the plugin follows in the same place.
    Replaced = 2,
    /// A later step of the setup or registration failed: undo.
    RolledBack = 3,
    /// The daemon ends: leave effects in place, so that an upgrade is no outage.
    Stopped = 4,
}

impl ExitReason {
    /// The reason with this number, or `None` for a number that this version does not know.
    #[must_use]
    pub fn from_u8(n: u8) -> Option<Self> {
        use ExitReason::{Died, Removed, Replaced, RolledBack, Stopped};
        [Died, Removed, Replaced, RolledBack, Stopped].into_iter().find(|r| *r as u8 == n)
    }

    /// Whether an exit told this reason puts back what the plugin changed.
    #[must_use]
    pub fn undoes(self) -> bool {
        matches!(self, ExitReason::Removed | ExitReason::RolledBack)
    }
}
