//! All lines of `sysctl.d`, and which of them counts for a sysctl.
//!
//! The files are read as systemd does it (`drop_ins.rs`), in the order of their names. Of the lines that are about a
//! sysctl, one that names it counts before one with a pattern, and of those the last.

use super::sysctl_file::{Asks, SysctlLine};

/// The lines, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sysctls {
    pub(super) lines: Vec<SysctlLine>,
}

impl Sysctls {
    /// The line that counts for the sysctl at this path, in a namespace with these names; its value and whether a refusal
    /// is to be passed over in silence.
    pub fn counting<S: AsRef<str>>(&self, names: &[S], is_host: bool, path: &str) -> Option<(&SysctlLine, &str, bool)> {
        let about = || self.lines.iter().rev().filter(|line| line.is_about(names, is_host, path));
        let set = |line: &'_ SysctlLine| matches!(line.asks, Asks::Set { .. });
        let named = about().find(|line| !line.key.is_pattern() && set(line));
        let by_pattern = || {
            let excluded = about().any(|line| line.asks == Asks::Exclude);
            about().find(|line| set(line)).filter(|_| !excluded)
        };
        let line = named.or_else(by_pattern)?;
        match &line.asks {
            Asks::Set { value, quietly } => Some((line, value, *quietly)),
            Asks::Exclude => None,
        }
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}
