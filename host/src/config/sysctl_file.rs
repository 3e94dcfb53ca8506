//! One file of `sysctl.d`: lines in the format of sysctl.d(5), each with a pattern of namespaces before it if it has one.
//!
//! ```text
//! # a comment, as is ;
//! neighbour.count = 3           every namespace but the host's own
//! blue-*:neighbour.count = 5    those
//! @host:pernetd.log_level = debug
//! -lab-*:neighbour.count = 9    a refusal is no complaint
//! *.interval = 100              every key that matches, but not those that are named themselves
//! -neighbour.interval           nor this one
//! ```
//!
//! Which line counts where is [`super::sysctls`]'s.

use std::path::{Path, PathBuf};

use glob::Pattern;

use super::globs::Selector;
use super::source::{ConfigError, Position, Source};
use super::sysctl_key::SysctlKey;

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct SysctlLine {
    /// The pattern of namespaces before it, if there is one.
    pub netns: Option<String>,
    /// Where it counts.
    namespaces: Selector,
    /// What it is about.
    pub key: SysctlKey,
    /// What it asks for.
    pub asks: Asks,
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub position: Position,
}

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asks {
    /// This value.
    Set {
        /// As it is written, without blanks around it.
        value: String,
        /// A refusal is not worth a complaint.
        quietly: bool,
    },
    /// To be left out by patterns.
    Exclude,
}

impl SysctlLine {
    /// Whether it is about this sysctl of a namespace with these names.
    pub(super) fn is_about<S: AsRef<str>>(&self, names: &[S], is_host: bool, path: &str) -> bool {
        self.key.means(path) && self.namespaces.selects(names, is_host)
    }

    /// Whether it names this very sysctl, in a namespace of this name, so that patterns leave that alone.
    #[must_use]
    pub fn names(&self, netns: &str, path: &str) -> bool {
        let here = || self.netns.is_none() || self.namespaces.selects(&[netns], netns.starts_with('@'));
        !self.key.is_pattern() && self.key.means(path) && here()
    }

    /// Where it stands: `file:line`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.position.line)
    }
}

/// Reads a text in this format, wherever it comes from.
///
/// # Errors
/// All that is wrong with it.
pub fn parse_sysctls(path: &Path, text: &str) -> Result<Vec<SysctlLine>, Vec<ConfigError>> {
    parse(&Source::new(path, text))
}

pub(super) fn parse(source: &Source) -> Result<Vec<SysctlLine>, Vec<ConfigError>> {
    let mut lines = Vec::new();
    let mut errors = Vec::new();
    let mut start = 0;
    for line in source.text().split_inclusive('\n') {
        let at = start;
        start += line.len();
        let text = line.trim();
        if text.is_empty() || text.starts_with(['#', ';']) {
            continue;
        }
        let at = at + (line.len() - line.trim_start().len());
        match read(source, at, text) {
            Ok(line) => lines.push(line),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(lines) } else { Err(errors) }
}

/// One line, which begins at this byte.
fn read(source: &Source, at: usize, text: &str) -> Result<SysctlLine, ConfigError> {
    let (written, value) = match text.split_once('=') {
        Some((written, value)) => (written.trim_end(), Some(value.trim())),
        None => (text, None),
    };
    let (dash, written) = match written.strip_prefix('-') {
        Some(rest) => (true, rest.trim_start()),
        None => (false, written),
    };
    let at_written = at + text.find(written).unwrap_or(0);
    let asks = match value {
        Some(value) => Asks::Set { value: value.to_owned(), quietly: dash },
        None if dash => Asks::Exclude,
        None => {
            let hint = "write key = value, or -key to leave a key out of patterns";
            return Err(source.error(at, format!("`{}` is no assignment", text.escape_debug()), hint));
        }
    };
    // A key has no colon, a namespace's name may.
    let (netns, key) = match written.rsplit_once(':') {
        Some((netns, key)) => (Some(netns.trim_end()), key.trim_start()),
        None => (None, written),
    };
    let namespaces = selector(source, at_written, netns)?;
    let at_key = at_written + (written.len() - key.len());
    let key = SysctlKey::parse_pattern(key).map_err(|fault| source.error(at_key, fault.message, fault.hint))?;
    if key.is_below("pernetd") && !netns.is_some_and(|netns| netns.starts_with('@')) {
        let message = format!("`{key}` is a sysctl of the host's own namespace only");
        return Err(source.error(at_key, message, format!("write @host:{key} = …")));
    }
    let (file, position) = (source.path().to_owned(), source.position(at));
    Ok(SysctlLine { netns: netns.map(str::to_owned), namespaces, key, asks, file, position })
}

fn selector(source: &Source, at: usize, netns: Option<&str>) -> Result<Selector, ConfigError> {
    let Some(netns) = netns else { return Ok(Selector::everything()) };
    if netns.is_empty() {
        return Err(source.error(
            at,
            "there is no namespace before the colon",
            "name one, or a pattern, or leave it out",
        ));
    }
    let glob = Pattern::new(netns).map_err(|e| {
        let byte = netns.char_indices().nth(e.pos).map_or(0, |(byte, _)| byte);
        source.error(at + byte, format!("`{netns}`: {}", e.msg), "correct the pattern of namespaces")
    })?;
    Ok(Selector::new(vec![glob], Vec::new()))
}
