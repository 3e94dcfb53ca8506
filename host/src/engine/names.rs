//! Visible names → namespaces: which lives begin, go on under other names, and end.
//!
//! A namespace lives, for us, from its first visible name to its last. Ends are decided over a whole batch of
//! observations (everything that was in the queue), so a move within it is no death. Pure: paths and cookies in,
//! changes out; nothing is opened. Which namespaces a plugin wants by these names is the daemon's business.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pernet_plugin_api::NetCookie;

/// The name of the host's own namespace.
pub const HOST: &str = "@host";

/// So many ended lives are remembered, for the number of a next one. Their cookies do not come back unless a process
/// or a mount that we do not see kept the namespace, so the oldest may be forgotten.
const REMEMBERED: usize = 16_384;

/// What was seen of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// This path names this namespace.
    Named(PathBuf, NetCookie),
    /// This path names none (any more).
    Unnamed(PathBuf),
    /// These are all the names that there are.
    Snapshot(Vec<(PathBuf, NetCookie)>),
}

/// What follows from a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetChange {
    /// A life begins.
    Appeared {
        /// Whose.
        cookie: NetCookie,
        /// Which one: counts from 1.
        generation: u32,
        /// As the operator sees them, in order.
        names: Vec<Arc<str>>,
    },
    /// A life goes on under other names.
    Renamed {
        /// Whose.
        cookie: NetCookie,
        /// Which one.
        generation: u32,
        /// As the operator sees them, in order.
        names: Vec<Arc<str>>,
    },
    /// A life ends: its last name is gone.
    Died {
        /// Whose.
        cookie: NetCookie,
        /// Which one.
        generation: u32,
    },
}

/// A life that is going on.
struct Life {
    generation: u32,
    names: Vec<Arc<str>>,
}

/// The table of visible names.
pub struct Names {
    folders: Vec<PathBuf>,
    host: Option<NetCookie>,
    at: BTreeMap<PathBuf, NetCookie>,
    paths: HashMap<NetCookie, Vec<PathBuf>>,
    lives: HashMap<NetCookie, Life>,
    by_name: HashMap<Arc<str>, NetCookie>,
    ended: HashMap<NetCookie, u32>,
    ended_order: VecDeque<NetCookie>,
}

impl Names {
    /// An empty table. The folders' order is the order of names; the host's own namespace needs no name to live.
    #[must_use]
    pub fn new(folders: Vec<PathBuf>, host: Option<NetCookie>) -> Self {
        Names {
            folders,
            host,
            at: BTreeMap::new(),
            paths: HashMap::new(),
            lives: HashMap::new(),
            by_name: HashMap::new(),
            ended: HashMap::new(),
            ended_order: VecDeque::new(),
        }
    }

    /// Takes in one batch: everything that was in the queue. Deaths come first, then new names, then births, each by
    /// cookie (the kernel's order of creation), the host before all others.
    pub fn observe(&mut self, batch: impl IntoIterator<Item = Observation>) -> Vec<NetChange> {
        let mut touched: BTreeSet<NetCookie> = BTreeSet::new();
        touched.extend(self.host.filter(|host| !self.lives.contains_key(host)));
        for observation in batch {
            match observation {
                Observation::Named(path, cookie) => self.set(path, Some(cookie), &mut touched),
                Observation::Unnamed(path) => self.set(path, None, &mut touched),
                Observation::Snapshot(all) => self.replace(all, &mut touched),
            }
        }
        self.judge(touched)
    }

    /// The namespace that is visible at this path.
    #[must_use]
    pub fn at(&self, path: &Path) -> Option<NetCookie> {
        self.at.get(path).copied()
    }

    /// The namespace of this visible name, or of this path.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<NetCookie> {
        self.by_name.get(name).or_else(|| self.at.get(Path::new(name))).copied()
    }

    fn set(&mut self, path: PathBuf, cookie: Option<NetCookie>, touched: &mut BTreeSet<NetCookie>) {
        let before = match cookie {
            Some(cookie) => self.at.insert(path.clone(), cookie),
            None => self.at.remove(&path),
        };
        if before == cookie {
            return;
        }
        if let Some(before) = before {
            self.paths.entry(before).or_default().retain(|p| *p != path);
            touched.insert(before);
        }
        if let Some(cookie) = cookie {
            touched.insert(cookie);
            touched.extend(self.shadowed(&path));
            self.paths.entry(cookie).or_default().push(path);
        } else {
            touched.extend(self.shadowed(&path));
        }
    }

    fn replace(&mut self, all: Vec<(PathBuf, NetCookie)>, touched: &mut BTreeSet<NetCookie>) {
        let now: BTreeMap<PathBuf, NetCookie> = all.into_iter().collect();
        let gone: Vec<PathBuf> = self.at.keys().filter(|path| !now.contains_key(*path)).cloned().collect();
        gone.into_iter().for_each(|path| self.set(path, None, touched));
        now.into_iter().for_each(|(path, cookie)| self.set(path, Some(cookie), touched));
    }

    /// Which folder a path is directly in.
    fn folder(&self, path: &Path) -> Option<usize> {
        self.folders.iter().position(|folder| path.parent() == Some(folder))
    }

    /// Whose file name this path's presence decides: those with the same one in later folders.
    fn shadowed(&self, path: &Path) -> Vec<NetCookie> {
        let (Some(folder), Some(file)) = (self.folder(path), path.file_name()) else { return Vec::new() };
        self.folders[folder + 1..].iter().filter_map(|later| self.at.get(&later.join(file)).copied()).collect()
    }

    fn judge(&mut self, touched: BTreeSet<NetCookie>) -> Vec<NetChange> {
        let (mut died, mut renamed, mut appeared) = (Vec::new(), Vec::new(), Vec::new());
        let host_first = touched.iter().filter(|c| self.host == Some(**c));
        let in_order: Vec<NetCookie> =
            host_first.chain(touched.iter().filter(|c| self.host != Some(**c))).copied().collect();
        // A name may go from one life to another: all leave it before any takes it.
        for life in in_order.iter().filter_map(|cookie| self.lives.get(cookie)) {
            for name in &life.names {
                self.by_name.remove(name);
            }
        }
        for cookie in in_order {
            let names = self.names_of(cookie);
            self.by_name.extend(names.iter().map(|name| (name.clone(), cookie)));
            match self.lives.get_mut(&cookie) {
                Some(life) if names.is_empty() => {
                    let generation = life.generation;
                    self.end(cookie, generation);
                    died.push(NetChange::Died { cookie, generation });
                }
                Some(life) if life.names != names => {
                    life.names.clone_from(&names);
                    renamed.push(NetChange::Renamed { cookie, generation: life.generation, names });
                }
                None if !names.is_empty() => {
                    let generation = self.ended.remove(&cookie).map_or(1, |last| last.saturating_add(1));
                    self.lives.insert(cookie, Life { generation, names: names.clone() });
                    appeared.push(NetChange::Appeared { cookie, generation, names });
                }
                Some(_) => {}
                // Named and unnamed within one batch: it never lived.
                None => drop(self.paths.remove(&cookie)),
            }
        }
        died.into_iter().chain(renamed).chain(appeared).collect()
    }

    fn end(&mut self, cookie: NetCookie, generation: u32) {
        self.lives.remove(&cookie);
        self.paths.remove(&cookie);
        self.ended.insert(cookie, generation);
        self.ended_order.push_back(cookie);
        let over = self.ended_order.len() > REMEMBERED;
        let oldest = over.then(|| self.ended_order.pop_front()).flatten();
        // One that was named again and ended again since stands in the queue a second time.
        if let Some(oldest) = oldest.filter(|oldest| !self.ended_order.contains(oldest)) {
            self.ended.remove(&oldest);
        }
    }

    /// A namespace's names by folder order, then bytes; the host's own name first.
    fn names_of(&self, cookie: NetCookie) -> Vec<Arc<str>> {
        let mut paths: Vec<&PathBuf> = self.paths.get(&cookie).into_iter().flatten().collect();
        paths.sort_by_key(|path| (self.folder(path).unwrap_or(usize::MAX), path.as_os_str().as_bytes()));
        let host = (self.host == Some(cookie)).then(|| Arc::from(HOST));
        host.into_iter().chain(paths.into_iter().map(|path| self.visible(path))).collect()
    }

    /// The file name; where an earlier folder has that already, the whole path.
    fn visible(&self, path: &Path) -> Arc<str> {
        let (Some(folder), Some(file)) = (self.folder(path), path.file_name()) else {
            return escape(path.as_os_str()).into();
        };
        let taken = self.folders[..folder].iter().any(|earlier| self.at.contains_key(&earlier.join(file)));
        escape(if taken { path.as_os_str() } else { file }).into()
    }
}

/// A name as the operator sees it: bytes that are not UTF-8, control characters, backslash, and a leading `@` or `#`
/// are written `\xNN`.
#[must_use]
pub fn escape(name: &OsStr) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            let leading = text.is_empty() && matches!(c, '@' | '#');
            if c.is_control() || c == '\\' || leading {
                escape_bytes(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(c);
            }
        }
        escape_bytes(&mut text, chunk.invalid());
    }
    text
}

fn escape_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}
