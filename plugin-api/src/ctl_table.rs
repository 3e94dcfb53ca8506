//! A table of entries, as an author writes it: `struct ctl_table`.
//!
//! Owns names, modes and ranges, and the entries' own handlers. What a table must not be is the daemon's to refuse, at
//! its registration.

use std::fmt;
use std::ops::{Bound, RangeBounds};

use crate::abi::{CtlCall, CtlEntry};
use crate::knob::Behind;
use crate::{BoolKnob, Error, IntKnob, Result, TextKnob, UintKnob, UlongKnob};

/// [`CtlEntry::kind`].
#[derive(Clone, Copy, Debug)]
enum Kind {
    Int = 0,
    Uint = 1,
    Bool = 2,
    Ulong = 3,
    Text = 4,
    Own = 5,
}

/// A table of sysctls, to be registered by [`Host::register_net_sysctl`](crate::Host::register_net_sysctl).
///
/// ```
/// # use pernet_plugin_api::prelude::*;
/// let (interval, active) = (UintKnob::new(1_000), BoolKnob::new(true));
/// let table = CtlTable::new().uint("interval", &interval, 10..=60_000).bool("active", &active).mode(0o600);
/// ```
///
/// A number out of its range is refused, never put right (K7.8). Entries have the mode 0644 unless another is given.
#[derive(Default)]
pub struct CtlTable {
    pub(crate) entries: Vec<Entry>,
}

pub(crate) struct Entry {
    name: String,
    mode: u16,
    kind: Kind,
    len: usize,
    bounds: [Option<u64>; 2],
    pub(crate) behind: Box<dyn Behind>,
}

impl CtlTable {
    /// Without entries.
    #[must_use]
    pub fn new() -> Self {
        CtlTable::default()
    }

    /// An `int`, or a vector of them. `..` is every number of the type.
    #[must_use]
    pub fn int(self, name: &str, knob: &IntKnob, range: impl RangeBounds<i32>) -> Self {
        let [min, max] = inclusive(&range, |n| n.checked_add(1), |n| n.checked_sub(1), [i32::MAX, i32::MIN]);
        let bits = |bound: Option<i32>| bound.map(|n| i64::from(n).cast_unsigned());
        self.entry(name, Kind::Int, knob.len(), [bits(min), bits(max)], knob.clone())
    }

    /// An `unsigned int`.
    #[must_use]
    pub fn uint(self, name: &str, knob: &UintKnob, range: impl RangeBounds<u32>) -> Self {
        let bounds = inclusive(&range, |n| n.checked_add(1), |n| n.checked_sub(1), [u32::MAX, 0]);
        self.entry(name, Kind::Uint, 1, bounds.map(|bound| bound.map(u64::from)), knob.clone())
    }

    /// Yes or no.
    #[must_use]
    pub fn bool(self, name: &str, knob: &BoolKnob) -> Self {
        self.entry(name, Kind::Bool, 1, [None, None], knob.clone())
    }

    /// An `unsigned long`, or a vector of them.
    #[must_use]
    pub fn ulong(self, name: &str, knob: &UlongKnob, range: impl RangeBounds<u64>) -> Self {
        let bounds = inclusive(&range, |n| n.checked_add(1), |n| n.checked_sub(1), [u64::MAX, 0]);
        self.entry(name, Kind::Ulong, knob.len(), bounds, knob.clone())
    }

    /// A line of text.
    #[must_use]
    pub fn text(self, name: &str, knob: &TextKnob) -> Self {
        self.entry(name, Kind::Text, knob.room(), [None, None], knob.clone())
    }

    /// An entry with handlers of its own, over texts: what is read gets a newline at its end, what is written comes
    /// without its newline, and only what is written at the file's beginning comes.
    #[must_use]
    pub fn own(
        self,
        name: &str,
        read: impl Fn() -> Result<String> + Send + Sync + 'static,
        write: impl Fn(&str) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.entry(name, Kind::Own, 0, [None, None], Whole { read, write })
    }

    /// The same for one that only tells; its mode is 0444.
    #[must_use]
    pub fn show(self, name: &str, read: impl Fn() -> Result<String> + Send + Sync + 'static) -> Self {
        let refuse = |_: &str| Err(Error::new(libc::EPERM, "it can only be read"));
        self.own(name, read, refuse).mode(0o444)
    }

    /// An entry with handlers of its own, over bytes: `read` gets a position and how many bytes at most, and gives none
    /// at the end; `write` gets a position and bytes, and says how many it took.
    #[must_use]
    pub fn own_at(
        self,
        name: &str,
        read: impl Fn(u64, usize) -> Result<Vec<u8>> + Send + Sync + 'static,
        write: impl Fn(u64, &[u8]) -> Result<usize> + Send + Sync + 'static,
    ) -> Self {
        self.entry(name, Kind::Own, 0, [None, None], Positioned { read, write })
    }

    /// The mode of the entry that was put in last: permission bits for reading and writing.
    #[must_use]
    pub fn mode(mut self, mode: u16) -> Self {
        if let Some(last) = self.entries.last_mut() {
            last.mode = mode;
        }
        self
    }

    fn entry(
        mut self,
        name: &str,
        kind: Kind,
        len: usize,
        bounds: [Option<u64>; 2],
        behind: impl Behind + 'static,
    ) -> Self {
        let (name, behind) = (name.to_owned(), Box::new(behind));
        self.entries.push(Entry { name, mode: 0o644, kind, len, bounds, behind });
        self
    }
}

impl Entry {
    pub(crate) fn raw(&self) -> CtlEntry<'_> {
        let [min, max] = self.bounds;
        CtlEntry {
            name: self.name.as_str().into(),
            mode: self.mode,
            kind: self.kind as u8,
            bounds: u8::from(min.is_some()) | u8::from(max.is_some()) << 1,
            len: u32::try_from(self.len).unwrap_or(u32::MAX),
            min: min.unwrap_or_default(),
            max: max.unwrap_or_default(),
        }
    }
}

impl fmt::Debug for CtlTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| &entry.name)).finish()
    }
}

/// A range with its ends in it; one that has nothing in it becomes `empty`, whose ends are the wrong way round.
fn inclusive<T: Copy>(
    range: &impl RangeBounds<T>,
    next: impl Fn(T) -> Option<T>,
    last: impl Fn(T) -> Option<T>,
    empty: [T; 2],
) -> [Option<T>; 2] {
    let nothing = empty.map(Some);
    let from = match range.start_bound() {
        Bound::Included(from) => Some(*from),
        Bound::Excluded(before) => match next(*before) {
            None => return nothing,
            from => from,
        },
        Bound::Unbounded => None,
    };
    match range.end_bound() {
        Bound::Included(to) => [from, Some(*to)],
        Bound::Excluded(after) => last(*after).map_or(nothing, |to| [from, Some(to)]),
        Bound::Unbounded => [from, None],
    }
}

/// Handlers over whole texts.
struct Whole<R, W> {
    read: R,
    write: W,
}

impl<R, W> Behind for Whole<R, W>
where
    R: Fn() -> Result<String> + Send + Sync,
    W: Fn(&str) -> Result<()> + Send + Sync,
{
    fn read(&self, call: &CtlCall<'_>) -> Result<(u64, Vec<u8>)> {
        let mut text = (self.read)()?;
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let rest = usize::try_from(call.index).ok().and_then(|from| text.as_bytes().get(from..)).unwrap_or_default();
        let count = usize::try_from(call.number).unwrap_or(usize::MAX).min(rest.len());
        Ok((0, rest[..count].to_vec()))
    }

    fn write(&self, call: &CtlCall<'_>) -> Result<u64> {
        if call.index == 0 {
            let text = str::from_utf8(&call.bytes).map_err(|_| Error::new(libc::EINVAL, "write it in UTF-8"))?;
            (self.write)(text.strip_suffix('\n').unwrap_or(text))?;
        }
        Ok(call.bytes.len() as u64)
    }
}

/// Handlers over bytes and positions.
struct Positioned<R, W> {
    read: R,
    write: W,
}

impl<R, W> Behind for Positioned<R, W>
where
    R: Fn(u64, usize) -> Result<Vec<u8>> + Send + Sync,
    W: Fn(u64, &[u8]) -> Result<usize> + Send + Sync,
{
    fn read(&self, call: &CtlCall<'_>) -> Result<(u64, Vec<u8>)> {
        let most = usize::try_from(call.number).unwrap_or(usize::MAX);
        let mut bytes = (self.read)(call.index, most)?;
        bytes.truncate(most);
        Ok((0, bytes))
    }

    fn write(&self, call: &CtlCall<'_>) -> Result<u64> {
        (self.write)(call.index, &call.bytes).map(|taken| taken.min(call.bytes.len()) as u64)
    }
}
