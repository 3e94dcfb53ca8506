//! The order of initcalls: levels, then the daemon's own before plugins by file name, then `after` and `requires`.
//!
//! Mirrors the link order within a level (K5.1), for which the file name stands. What the kernel does not have: a plugin
//! may name others that come before it. Pure: names in, order or refusal out.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fmt;

use super::initcall::Level;

/// A plugin, or a part of the daemon's own, to be put in order.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its level.
    pub level: Level,
    /// The file name of its configuration: `NN-name.toml`. Empty for the daemon's own, which so come first in their level.
    pub file_name: &'a str,
    /// Others that come before it, if they are there.
    pub after: &'a [String],
    /// Others that come before it and must be there.
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
    /// Each requires the next, and the last is not there.
    MissingRequires {
        /// The names: at least who requires it, and what is not there; before them who needs these in turn.
        chain: Vec<String>,
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
            OrderError::MissingRequires { chain } => chain.iter().rev().nth(1).map_or("", String::as_str),
            OrderError::AfterLaterLevel { plugin, .. } => plugin,
        }
    }

    /// The plugin that its configuration names and that cannot come first.
    #[must_use]
    pub fn other(&self) -> Option<&str> {
        match self {
            OrderError::Duplicate { .. } => None,
            OrderError::Cycle { chain } => chain.get(1).map(String::as_str),
            OrderError::MissingRequires { chain } => chain.last().map(String::as_str),
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
                write!(f, "these plugins wait for each other: {}", written_out(chain, " after "))
            }
            OrderError::MissingRequires { chain } => {
                write!(f, "plugin {}, which is not configured, or not enabled", written_out(chain, " requires "))
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

fn written_out(chain: &[String], word: &str) -> String {
    chain.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(word)
}

/// Puts initcalls in order: level, then file name, and one that names others only after all of those.
///
/// Among those that may come next, the first by level and file name does; where these are the same, the first given.
/// `after` an unknown name is ignored.
/// Gives positions in `items`, in order.
///
/// # Errors
/// There is none, see [`OrderError`].
pub fn order(items: &[Item<'_>]) -> Result<Vec<usize>, OrderError> {
    let mut by_rank: Vec<usize> = (0..items.len()).collect();
    by_rank.sort_by_key(|&i| (items[i].level, items[i].file_name.as_bytes()));
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
        return Err(OrderError::MissingRequires { chain: missing(items, item, requires) });
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

/// Who needs what is not there, from the far end: each requires the next.
fn missing(items: &[Item<'_>], item: &Item<'_>, requires: &str) -> Vec<String> {
    let mut chain = vec![requires, item.name];
    let needs = |item: &Item<'_>, name: &str| item.requires.iter().any(|required| required == name);
    while let Some(next) = items.iter().find(|i| !chain.contains(&i.name) && chain.last().is_some_and(|n| needs(i, n)))
    {
        chain.push(next.name);
    }
    chain.into_iter().rev().map(str::to_owned).collect()
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
