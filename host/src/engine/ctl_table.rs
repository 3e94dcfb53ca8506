//! A table as it is registered: `struct ctl_table`, and what stands behind its entries.
//!
//! Owns the kinds of entries and the checks of a table (K7.2). What stands behind an entry is reached through
//! [`CtlData`]: `plugin/` implements it over the ABI, the daemon for its own knobs. What a read and a write mean is
//! `ctl_kind.rs`.

use std::fmt;
use std::sync::Arc;

use super::ctl_value::Number;
use super::failure::{EEXIST, EINVAL, Failure};
use super::net::Net;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtlKind {
    /// `proc_dointvec_minmax`: a vector of `int`.
    Int,
    /// `proc_douintvec_minmax`: one `unsigned int`.
    Uint,
    /// `proc_dobool`: any number but 0 is 1.
    Bool,
    /// `proc_doulongvec_minmax`: a vector of `unsigned long`.
    Ulong,
    /// `proc_dostring`.
    Text,
    /// The table's own read and write.
    Own,
}

impl CtlKind {
    /// As the operator reads it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            CtlKind::Int => "int",
            CtlKind::Uint => "uint",
            CtlKind::Bool => "bool",
            CtlKind::Ulong => "ulong",
            CtlKind::Text => "string",
            CtlKind::Own => "own",
        }
    }

    /// The smallest and largest number of the type; none for what is no number.
    #[must_use]
    pub fn range(self) -> Option<(Number, Number)> {
        match self {
            CtlKind::Int => Some((i32::MIN.into(), i32::MAX.into())),
            CtlKind::Uint => Some((0, u32::MAX.into())),
            CtlKind::Bool => Some((0, 1)),
            CtlKind::Ulong => Some((0, u64::MAX.into())),
            CtlKind::Text | CtlKind::Own => None,
        }
    }
}

/// One entry of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CtlEntry {
    /// Its name in its directory.
    pub name: String,
    /// Permission bits, within `0o666`.
    pub mode: u16,
    /// What it is.
    pub kind: CtlKind,
    /// Numbers: how many elements. Text: `maxlen`, one more than the bytes of its longest text. Own: nothing.
    pub len: usize,
    /// The smallest number that it takes; none for its type's.
    pub min: Option<Number>,
    /// The largest.
    pub max: Option<Number>,
}

impl CtlEntry {
    /// The numbers that it takes: its type's, within its bounds.
    pub(super) fn takes(&self) -> (Number, Number) {
        let (least, most) = self.kind.range().unwrap_or_default();
        (self.min.unwrap_or(least).max(least), self.max.unwrap_or(most).min(most))
    }

    /// What is to be written, as a part of a sentence.
    pub(super) fn wanted(&self) -> String {
        let (least, most) = self.takes();
        match (self.kind, self.len) {
            (CtlKind::Bool, _) => "write 0 or 1".to_owned(),
            (_, 1) => format!("write a number from {least} to {most}"),
            (_, len) => format!("write up to {len} numbers from {least} to {most}, with blanks between them"),
        }
    }
}

/// Where an access happens.
#[derive(Clone)]
pub struct CtlAt {
    /// The namespace of the table, while it is there; none for the daemon's own tables.
    pub net: Option<Arc<Net>>,
    /// Position of the entry in its table.
    pub entry: usize,
}

/// What stands behind a table. Called from any thread, many at once, and with none of the engine's locks held. Only what
/// its entries' kinds need is called.
#[expect(unused_variables, reason = "what has no entry of a kind needs nothing of it")]
pub trait CtlData: Send + Sync {
    /// One element of a number.
    fn load(&self, at: &CtlAt, index: usize) -> Result<Number, Failure> {
        Err(of_another_kind())
    }
    /// Changes one element; it is within the entry's bounds.
    fn store(&self, at: &CtlAt, index: usize, value: Number) -> Result<(), Failure> {
        Err(of_another_kind())
    }
    /// A text.
    fn text(&self, at: &CtlAt) -> Result<Vec<u8>, Failure> {
        Err(of_another_kind())
    }
    /// Changes it; it is shorter than the entry's `len`, and has neither NUL nor newline.
    fn set_text(&self, at: &CtlAt, text: &[u8]) -> Result<(), Failure> {
        Err(of_another_kind())
    }
    /// An own entry: at most `count` bytes from a position on; none at its end.
    fn read(&self, at: &CtlAt, position: u64, count: usize) -> Result<Vec<u8>, Failure> {
        Err(of_another_kind())
    }
    /// An own entry: how many of the bytes were taken.
    fn write(&self, at: &CtlAt, position: u64, bytes: &[u8]) -> Result<usize, Failure> {
        Err(of_another_kind())
    }
    /// The table is unregistered, and no call follows.
    fn free(&self) -> Result<(), Failure> {
        Ok(())
    }
}

fn of_another_kind() -> Failure {
    Failure::new(EINVAL, "this entry is of another kind")
}

/// A table before it is registered.
pub struct CtlTable {
    /// Its entries.
    pub entries: Vec<CtlEntry>,
    /// What stands behind them.
    pub data: Arc<dyn CtlData>,
}

impl fmt::Debug for CtlTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CtlTable").field("entries", &self.entries).finish_non_exhaustive()
    }
}

/// A text takes a page at most, as everything that goes in or out at once.
pub(super) const PAGE: usize = 4096;

/// More than any table has: one is read as a whole.
const MOST_ELEMENTS: usize = 1024;

/// What a component of a path cannot be, with the reason. Beside what no file can be called: blanks and `=`, which end a
/// key where one is written, `:`, which ends a namespace's name before it, and what makes a glob of it.
pub(super) fn component_fault(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("it is empty"),
        "." | ".." => Some("it means another directory"),
        _ if name.len() > 255 => Some("it has more than 255 bytes"),
        _ if name.starts_with('-') => Some("it begins with `-`"),
        _ if name.chars().any(|c| c.is_control() || c.is_whitespace()) => Some("it has blanks in it"),
        _ if name.contains(['/', '=', ':', '*', '?', '[', ']', '#', ';']) => {
            Some("it has one of / = : * ? [ ] # ; in it")
        }
        _ => None,
    }
}

/// K7.2: what a table must not be.
pub(super) fn check_table(path: &str, entries: &[CtlEntry]) -> Result<(), Failure> {
    if let Some((part, why)) = path.split('/').find_map(|part| Some((part, component_fault(part)?))) {
        let what = format!(
            "sysctl path `{}`: `{}` is no name of a directory: {why}",
            path.escape_debug(),
            part.escape_debug()
        );
        return Err(Failure::new(EINVAL, what));
    }
    for (at, entry) in entries.iter().enumerate() {
        if let Some(why) = entry_fault(entry) {
            let what = format!("sysctl table `{path}`: entry {at}, `{}`: {why}", entry.name.escape_debug());
            return Err(Failure::new(EINVAL, what));
        }
        if entries[..at].iter().any(|before| before.name == entry.name) {
            return Err(duplicate(path, &entry.name));
        }
    }
    Ok(())
}

pub(super) fn duplicate(path: &str, name: &str) -> Failure {
    Failure::new(EEXIST, format!("sysctl duplicate entry: {path}/{name}"))
}

fn entry_fault(entry: &CtlEntry) -> Option<&'static str> {
    if let Some(why) = component_fault(&entry.name) {
        return Some(why);
    }
    if entry.mode & !0o666 != 0 {
        return Some("its mode has bits outside of rw-rw-rw-");
    }
    match entry.kind {
        CtlKind::Int | CtlKind::Ulong if !(1..=MOST_ELEMENTS).contains(&entry.len) => {
            Some("a vector has 1 to 1024 elements")
        }
        CtlKind::Uint | CtlKind::Bool if entry.len != 1 => Some("its kind is of one element"),
        CtlKind::Text if !(2..=PAGE).contains(&entry.len) => {
            Some("a string has room for 2 to 4096 bytes, its end included")
        }
        CtlKind::Bool | CtlKind::Text | CtlKind::Own if entry.min.or(entry.max).is_some() => {
            Some("its kind has no bounds")
        }
        CtlKind::Int | CtlKind::Uint | CtlKind::Ulong => bounds_fault(entry),
        CtlKind::Bool | CtlKind::Text | CtlKind::Own => None,
    }
}

fn bounds_fault(entry: &CtlEntry) -> Option<&'static str> {
    let (least, most) = entry.kind.range()?;
    let outside = |bound: Option<Number>| bound.is_some_and(|bound| !(least..=most).contains(&bound));
    let (from, to) = entry.takes();
    match () {
        () if outside(entry.min) || outside(entry.max) => Some("a bound is beyond its type"),
        () if from > to => Some("its bounds leave no number"),
        () => None,
    }
}
