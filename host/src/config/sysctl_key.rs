//! The name of a sysctl of pernetd's or a plugin's: from what an operator writes to its path, and back.
//!
//! As sysctl(8) has it: the first separator that occurs, a dot or a slash, is the separator; in a key with dots a slash
//! stands for a dot within a component. Owns the refusal of what is the kernel's.

use std::fmt;

use glob::{MatchOptions, Pattern};

/// What is below `/proc/sys`: never pernetd's.
const KERNEL: [&str; 11] = ["abi", "crypto", "debug", "dev", "fs", "kernel", "net", "sunrpc", "user", "vm", "xen"];

/// As a shell matches paths: `*` stays within a component.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFault {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// A key, or a pattern of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysctlKey {
    path: String,
    /// Only where it is a pattern.
    glob: Option<Pattern>,
}

impl SysctlKey {
    /// Reads a key that means one sysctl, or a directory.
    ///
    /// # Errors
    /// It is none, or the kernel's.
    pub fn parse(text: &str) -> Result<SysctlKey, KeyFault> {
        let path = path_of(text)?;
        if is_glob(&path) {
            return Err(fault(format!("`{text}` is a pattern"), "name one sysctl, or a directory of them"));
        }
        Ok(SysctlKey { path, glob: None })
    }

    /// Reads a key that may be a pattern.
    ///
    /// # Errors
    /// It is none, or the kernel's.
    pub fn parse_pattern(text: &str) -> Result<SysctlKey, KeyFault> {
        let path = path_of(text)?;
        let glob = is_glob(&path).then(|| Pattern::new(&path)).transpose();
        let glob = glob.map_err(|e| fault(format!("`{text}`: {}", e.msg), "correct the pattern"))?;
        Ok(SysctlKey { path, glob })
    }

    /// Its path, with `/` between components.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it is a pattern.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        self.glob.is_some()
    }

    /// Whether it means the sysctl at this path.
    #[must_use]
    pub fn means(&self, path: &str) -> bool {
        self.glob.as_ref().map_or(self.path == path, |glob| glob.matches_with(path, OPTIONS))
    }

    /// Whether it is in this directory, which is one at the top.
    pub(super) fn is_below(&self, first: &str) -> bool {
        self.path.split('/').next() == Some(first)
    }
}

/// With dots, as sysctl(8) prints it.
impl fmt::Display for SysctlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&dotted(&self.path))
    }
}

/// A path as a key with dots.
#[must_use]
pub fn dotted(path: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    path.chars().map(swap).collect()
}

/// Whether a path would be the kernel's.
#[must_use]
pub fn is_kernels(path: &str) -> bool {
    path.split('/').next().is_some_and(|first| KERNEL.contains(&first))
}

fn path_of(text: &str) -> Result<String, KeyFault> {
    let has_dots = text.chars().find(|c| matches!(c, '.' | '/')) == Some('.');
    let path = if has_dots { dotted(text) } else { text.to_owned() };
    let shown = text.escape_debug();
    if path.is_empty() {
        return Err(fault("there is no key".to_owned(), "write for example neighbour.count"));
    }
    if is_kernels(&path) {
        let hint = "the plugin `sysctl` sets those: write it into its `[config]`, in plugins.d";
        return Err(fault(format!("`{shown}` is a sysctl of the kernel's"), hint));
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(fault(format!("`{shown}` has a component that is empty, or no name"), "correct the key"));
    }
    if path.chars().any(|c| c.is_whitespace() || c.is_control() || c == ':') {
        return Err(fault(format!("`{shown}` has a blank or a colon in it"), "correct the key"));
    }
    Ok(path)
}

fn is_glob(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

fn fault(message: String, hint: &str) -> KeyFault {
    KeyFault { message, hint: hint.to_owned() }
}
