//! The order of plugins: initcall levels, then file names, then `after` and `requires`.
//!
//! Mirrors the initcall levels of `init.h` (K5.1); within a level the file name stands for the link order. What the
//! kernel does not have: a plugin may name others that come before it. Pure: names in, order or refusal out.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

/// The levels, earliest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// No dependencies at all.
    Pure,
    /// Core infrastructure.
    Core,
    /// After the core.
    Postcore,
    /// What depends on the machine.
    Arch,
    /// Subsystems: most plugins.
    Subsys,
    /// File systems.
    Fs,
    /// Devices.
    Device,
    /// After all others.
    Late,
}

impl Level {
    /// All, earliest first.
    pub const ALL: [Level; 8] =
        [Level::Pure, Level::Core, Level::Postcore, Level::Arch, Level::Subsys, Level::Fs, Level::Device, Level::Late];

    /// The operator's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Pure => "pure",
            Level::Core => "core",
            Level::Postcore => "postcore",
            Level::Arch => "arch",
            Level::Subsys => "subsys",
            Level::Fs => "fs",
            Level::Device => "device",
            Level::Late => "late",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Level::ALL.into_iter().find(|level| level.as_str() == word).ok_or_else(|| {
            let known = Level::ALL.map(Level::as_str).join(", ");
            format!("`{word}` is no level; the levels are {known}")
        })
    }
}

/// A plugin to be put in order.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// The plugin's name.
    pub name: &'a str,
    /// Its level.
    pub level: Level,
    /// The file name of its configuration: `NN-name.toml`.
    pub file_name: &'a str,
    /// Plugins that come before it, if they are there.
    pub after: &'a [String],
    /// Plugins that come before it and must be there.
    pub requires: &'a [String],
}

/// Why there is no order. Each names the plugin whose configuration is to be changed, see [`OrderError::plugin`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderError {
    /// Two plugins with one name.
    Duplicate {
        /// The name.
        name: String,
    },
    /// Each comes after the next, and the last after the first.
    Cycle {
        /// The names; the first is also the last.
        chain: Vec<String>,
    },
    /// A required plugin is not there.
    MissingRequires {
        /// Who requires it.
        plugin: String,
        /// What is not there.
        requires: String,
    },
    /// A plugin would come after one of a later level.
    AfterLaterLevel {
        /// Who.
        plugin: String,
        /// Its level.
        level: Level,
        /// After whom.
        after: String,
        /// That one's level.
        after_level: Level,
    },
}

impl OrderError {
    /// The plugin whose configuration says what cannot be.
    #[must_use]
    pub fn plugin(&self) -> &str {
        match self {
            OrderError::Duplicate { name } => name,
            OrderError::Cycle { chain } => chain.first().map_or("", String::as_str),
            OrderError::MissingRequires { plugin, .. } | OrderError::AfterLaterLevel { plugin, .. } => plugin,
        }
    }

    /// The plugin that its configuration names and that cannot come first.
    #[must_use]
    pub fn other(&self) -> Option<&str> {
        match self {
            OrderError::Duplicate { .. } => None,
            OrderError::Cycle { chain } => chain.get(1).map(String::as_str),
            OrderError::MissingRequires { requires, .. } => Some(requires),
            OrderError::AfterLaterLevel { after, .. } => Some(after),
        }
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            OrderError::Duplicate { .. } => "rename or disable one",
            OrderError::Cycle { .. } => "take one of them out of `after` or `requires`",
            OrderError::MissingRequires { .. } => "add it, enable it, or take it out of `requires`",
            OrderError::AfterLaterLevel { .. } => "take it out of `after` or `requires`: levels are the plugins' own",
        }
    }
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OrderError::Duplicate { name } => write!(f, "two plugins are named `{name}`"),
            OrderError::Cycle { chain } => {
                let chain: Vec<String> = chain.iter().map(|name| format!("`{name}`")).collect();
                write!(f, "these plugins wait for each other: {}", chain.join(" after "))
            }
            OrderError::MissingRequires { plugin, requires } => {
                write!(f, "plugin `{plugin}` requires `{requires}`, which is not configured, or not enabled")
            }
            OrderError::AfterLaterLevel { plugin, level, after, after_level } => write!(
                f,
                "plugin `{plugin}` (level {level}) cannot come after `{after}` (level {after_level}): a level ends \
                 before the next begins"
            ),
        }
    }
}

impl std::error::Error for OrderError {}

/// Puts plugins in order: level, then file name, and a plugin that names others only after all of those.
///
/// Among those that may come next, the first by level and file name does. `after` an unknown plugin is ignored.
/// Gives positions in `items`, in order.
///
/// # Errors
/// There is none, see [`OrderError`].
pub fn order(items: &[Item<'_>]) -> Result<Vec<usize>, OrderError> {
    let mut by_rank: Vec<usize> = (0..items.len()).collect();
    by_rank.sort_by_key(|&i| (items[i].level, items[i].file_name.as_bytes(), items[i].name));
    let ranked: Vec<Item<'_>> = by_rank.iter().map(|&i| items[i]).collect();
    let before = before(&ranked)?;
    let mut waits: Vec<usize> = before.iter().map(Vec::len).collect();
    let mut ready: BinaryHeap<_> = (0..waits.len()).filter(|&i| waits[i] == 0).map(Reverse).collect();
    let mut sorted = Vec::with_capacity(items.len());
    while let Some(Reverse(next)) = ready.pop() {
        sorted.push(by_rank[next]);
        for (i, _) in before.iter().enumerate().filter(|(_, before)| before.contains(&next)) {
            waits[i] -= 1;
            if waits[i] == 0 {
                ready.push(Reverse(i));
            }
        }
    }
    if sorted.len() < items.len() { Err(cycle(&ranked, &before, &waits)) } else { Ok(sorted) }
}

/// For each item, whom it comes after, each once.
fn before(items: &[Item<'_>]) -> Result<Vec<Vec<usize>>, OrderError> {
    let mut by_name = HashMap::new();
    for (i, item) in items.iter().enumerate() {
        if by_name.insert(item.name, i).is_some() {
            return Err(OrderError::Duplicate { name: item.name.to_owned() });
        }
    }
    items.iter().map(|item| before_one(items, &by_name, item)).collect()
}

fn before_one(items: &[Item<'_>], by_name: &HashMap<&str, usize>, item: &Item<'_>) -> Result<Vec<usize>, OrderError> {
    if let Some(requires) = item.requires.iter().find(|name| !by_name.contains_key(name.as_str())) {
        return Err(OrderError::MissingRequires { plugin: item.name.to_owned(), requires: requires.clone() });
    }
    let named = item.requires.iter().chain(item.after).filter_map(|name| by_name.get(name.as_str()).copied());
    let mut seen = HashSet::new();
    let before: Vec<usize> = named.filter(|i| seen.insert(*i)).collect();
    match before.iter().map(|&i| &items[i]).find(|other| other.level > item.level) {
        None => Ok(before),
        Some(other) => Err(OrderError::AfterLaterLevel {
            plugin: item.name.to_owned(),
            level: item.level,
            after: other.name.to_owned(),
            after_level: other.level,
        }),
    }
}

/// Follows those that still wait until one comes again.
fn cycle(items: &[Item<'_>], before: &[Vec<usize>], waits: &[usize]) -> OrderError {
    let mut path: Vec<usize> = Vec::new();
    let mut next = waits.iter().position(|&w| w > 0);
    while let Some(at) = next {
        if let Some(start) = path.iter().position(|&i| i == at) {
            path.drain(..start);
            path.push(at);
            break;
        }
        path.push(at);
        next = before[at].iter().copied().find(|&i| waits[i] > 0);
    }
    OrderError::Cycle { chain: path.iter().map(|&i| items[i].name.to_owned()).collect() }
}
