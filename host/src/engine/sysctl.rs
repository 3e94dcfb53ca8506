//! The sysctl tables of a namespace: `struct ctl_table_set`, `register_net_sysctl`.
//!
//! Each [`Net`] has a set of its own, a tree of directories with entries (K7.1). A table goes in as a whole or not at
//! all (K7.2): everything is looked at before anything is put in, under the set's one lock, so there is nothing to undo.
//! Directories come with the first table below them and go with the last (K7.3). The lock is held for moments, never
//! while a handler runs. What remains of a plugin at its end in a namespace is taken out here, and told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::ctl_header::CtlHeader;
use super::ctl_table::{CtlEntry, CtlTable, duplicate};
use super::failure::{EBUSY, ENOENT, ENOTDIR, Failure, HookError};
use super::member::Owner;
use super::net::Net;
use super::walk::Walk;

/// What stands under a name.
enum Node {
    Dir(Dir),
    Entry(CtlNode),
}

/// There is one, beside the root, while it has a table or another directory in it.
#[derive(Default)]
struct Dir {
    /// Those that are registered with this very path.
    tables: Vec<Arc<CtlHeader>>,
    names: BTreeMap<String, Node>,
}

/// One entry of a registered table, as it was found.
#[derive(Clone, Debug)]
pub struct CtlNode {
    header: Arc<CtlHeader>,
    index: usize,
}

impl CtlNode {
    /// All entries of a table.
    pub fn all_of(header: &Arc<CtlHeader>) -> impl Iterator<Item = CtlNode> {
        (0..header.entries.len()).map(|index| CtlNode { header: header.clone(), index })
    }

    /// Its table.
    #[must_use]
    pub fn header(&self) -> &Arc<CtlHeader> {
        &self.header
    }

    /// Its position in its table.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// What it is.
    #[must_use]
    pub fn entry(&self) -> &CtlEntry {
        &self.header.entries[self.index]
    }

    /// Where it is, with `/` between components.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.header.path, self.entry().name)
    }
}

/// What a path leads to.
#[derive(Clone, Debug)]
pub enum CtlFound {
    /// A directory, with its names in order: an entry, or none for a directory.
    Dir(Vec<(String, Option<CtlNode>)>),
    /// An entry.
    Entry(CtlNode),
}

/// A set of tables.
#[derive(Default)]
pub struct CtlSet {
    root: Mutex<Dir>,
}

impl CtlSet {
    fn root(&self) -> MutexGuard<'_, Dir> {
        self.root.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is at this path; `""` is the root.
    ///
    /// # Errors
    /// `ENOENT` where nothing is, `ENOTDIR` below an entry.
    pub fn look(&self, path: &str) -> Result<CtlFound, Failure> {
        let missing = || Failure::new(ENOENT, format!("there is no sysctl {path}"));
        let root = self.root();
        let mut dir = &*root;
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        while let Some(part) = parts.next() {
            match dir.names.get(part) {
                Some(Node::Dir(below)) => dir = below,
                Some(Node::Entry(node)) if !node.header.is_live() => return Err(missing()),
                Some(Node::Entry(_)) if parts.next().is_some() => {
                    return Err(Failure::new(ENOTDIR, format!("`{part}` in {path} is no directory")));
                }
                Some(Node::Entry(node)) => return Ok(CtlFound::Entry(node.clone())),
                None => return Err(missing()),
            }
        }
        Ok(CtlFound::Dir(dir.visible().map(|(name, node)| (name.clone(), node.cloned())).collect()))
    }

    /// All entries at this path and below it, in the order of their paths; none where nothing is.
    #[must_use]
    pub fn below(&self, path: &str) -> Vec<CtlNode> {
        let root = self.root();
        let mut dir = &*root;
        let mut found = Vec::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            match dir.names.get(part) {
                Some(Node::Dir(below)) => dir = below,
                Some(Node::Entry(node)) => {
                    found.extend(Some(node.clone()).filter(|node| node.header.is_live() && node.path() == path));
                    return found;
                }
                None => return found,
            }
        }
        dir.collect(&mut found);
        found
    }

    /// The tables that are registered, without those that are only coming.
    #[must_use]
    pub fn tables(&self) -> Vec<Arc<CtlHeader>> {
        self.root().tables().into_iter().filter(|header| header.is_live()).collect()
    }

    /// Registers a table of the daemon's own.
    ///
    /// `before` gives the entries their first values: nobody else sees the table before it returns.
    ///
    /// # Errors
    /// Those of [`register_net_sysctl`].
    pub fn register(
        &self,
        path: &str,
        table: CtlTable,
        before: impl FnOnce(&Arc<CtlHeader>),
    ) -> Result<Arc<CtlHeader>, Failure> {
        let header = CtlHeader::new(Weak::new(), None, path, table)?;
        self.put_in(&header, || Ok(()), before)?;
        Ok(header)
    }

    /// `unregister_net_sysctl_table`: takes a table out, waits for the calls that are in it, and frees it (K7.6).
    ///
    /// # Errors
    /// `EDEADLK` from one of its own handlers, and it stays; `ENOENT` if it is out already; `ETIMEDOUT` if a handler does
    /// not return, and what freeing it answers: it is out all the same.
    pub fn unregister(&self, header: &Arc<CtlHeader>, patience: Duration) -> Result<(), Failure> {
        header.check_outside()?;
        if !self.root().take_out(header) {
            return Err(Failure::new(ENOENT, format!("the sysctl table {} is not registered", header.path)));
        }
        header.end(patience)
    }

    /// The table with this number, of this plugin.
    #[must_use]
    pub fn find(&self, id: u64, owner: &Arc<Owner>) -> Option<Arc<CtlHeader>> {
        self.root().tables().into_iter().find(|header| header.id == id && header.is_of(owner))
    }

    /// Takes out whatever is a plugin's, the newest first.
    fn take_out_all(&self, owner: &Arc<Owner>) -> Vec<Arc<CtlHeader>> {
        let mut root = self.root();
        let mut theirs = root.tables();
        theirs.retain(|header| header.is_of(owner) && root.take_out(header));
        theirs.reverse();
        theirs
    }

    fn put_in(
        &self,
        header: &Arc<CtlHeader>,
        check: impl FnOnce() -> Result<(), Failure>,
        before: impl FnOnce(&Arc<CtlHeader>),
    ) -> Result<(), Failure> {
        let mut root = self.root();
        // Under the lock: a plugin whose end takes out what it has here finds this one, or it does not get in.
        check()?;
        root.put_in(header)?;
        let coming = header.enter_coming();
        drop(root);
        before(header);
        header.go_live();
        drop(coming);
        Ok(())
    }
}

impl Dir {
    fn visible(&self) -> impl Iterator<Item = (&String, Option<&CtlNode>)> {
        self.names.iter().filter_map(|(name, node)| match node {
            Node::Dir(_) => Some((name, None)),
            Node::Entry(node) => node.header.is_live().then_some((name, Some(node))),
        })
    }

    fn collect(&self, found: &mut Vec<CtlNode>) {
        for node in self.names.values() {
            match node {
                Node::Dir(dir) => dir.collect(found),
                Node::Entry(node) => found.extend(Some(node.clone()).filter(|node| node.header.is_live())),
            }
        }
    }

    /// All tables in it and below it, in the order in which they came.
    fn tables(&self) -> Vec<Arc<CtlHeader>> {
        let mut tables = self.tables.clone();
        for node in self.names.values() {
            if let Node::Dir(dir) = node {
                tables.extend(dir.tables());
            }
        }
        tables.sort_by_key(|header| header.id);
        tables
    }

    fn put_in(&mut self, header: &Arc<CtlHeader>) -> Result<(), Failure> {
        self.check_room(header)?;
        let mut dir = self;
        for part in header.path.split('/') {
            let node = dir.names.entry(part.to_owned()).or_insert_with(|| Node::Dir(Dir::default()));
            // `check_room` has seen that no entry is in the way.
            let Node::Dir(below) = node else { return Ok(()) };
            dir = below;
        }
        dir.tables.push(header.clone());
        for (index, entry) in header.entries.iter().enumerate() {
            dir.names.insert(entry.name.clone(), Node::Entry(CtlNode { header: header.clone(), index }));
        }
        Ok(())
    }

    /// Whether a table can be put in, without any change.
    fn check_room(&self, header: &CtlHeader) -> Result<(), Failure> {
        let mut dir = self;
        for part in header.path.split('/') {
            match dir.names.get(part) {
                Some(Node::Dir(below)) => dir = below,
                Some(Node::Entry(_)) => {
                    let what = format!("sysctl path {}: `{part}` is an entry, not a directory", header.path);
                    return Err(Failure::new(ENOTDIR, what));
                }
                None => return Ok(()),
            }
        }
        match header.entries.iter().find(|entry| dir.names.contains_key(&entry.name)) {
            Some(entry) => Err(duplicate(&header.path, &entry.name)),
            None => Ok(()),
        }
    }

    /// Takes a table out, with the directories that were there for it; false if it was not in.
    fn take_out(&mut self, header: &Arc<CtlHeader>) -> bool {
        let parts: Vec<&str> = header.path.split('/').collect();
        self.take_out_below(header, &parts)
    }

    fn take_out_below(&mut self, header: &Arc<CtlHeader>, path: &[&str]) -> bool {
        let Some((first, rest)) = path.split_first() else {
            self.names.retain(|_, node| !matches!(node, Node::Entry(node) if Arc::ptr_eq(&node.header, header)));
            let at = self.tables.iter().position(|known| Arc::ptr_eq(known, header));
            return at.map(|at| self.tables.remove(at).close()).is_some();
        };
        let Some(Node::Dir(below)) = self.names.get_mut(*first) else { return false };
        let found = below.take_out_below(header, rest);
        if below.tables.is_empty() && below.names.is_empty() {
            self.names.remove(*first);
        }
        found
    }
}

/// `register_net_sysctl`: puts a plugin's table into a namespace, all of it or nothing of it. Its path has `/` between
/// components. No lock of the namespace is needed.
///
/// `before` gives the entries their first values, by calls of the table's handlers: nobody else sees it before that.
///
/// # Errors
/// `EINVAL` for a table or a path that cannot be, `EEXIST` for an entry that is there, `ENOTDIR` where an entry is in the
/// way, `ESTALE` where the plugin does not act. What stands behind the table is not freed then.
pub fn register_net_sysctl(
    net: &Arc<Net>,
    owner: &Arc<Owner>,
    path: &str,
    table: CtlTable,
    before: impl FnOnce(&Arc<CtlHeader>),
) -> Result<Arc<CtlHeader>, Failure> {
    let header = CtlHeader::new(Arc::downgrade(net), Some(owner.clone()), path, table)?;
    net.sysctl().put_in(&header, || net.check_acting(owner), before)?;
    Ok(header)
}

impl Walk {
    /// K7.6: a plugin's exit should have unregistered its tables. What it left here is, and the operator is told.
    pub(super) fn unregister_left_tables(&self, net: &Net, owner: &Arc<Owner>) {
        let error = |failure| {
            let (plugin, netns) = (owner.name.clone(), net.name());
            HookError { plugin, hook: "sysctl.unregister", netns, device: None, failure }
        };
        for header in net.sysctl().take_out_all(owner) {
            let what = format!("it left the sysctl table {} registered; it is unregistered now", header.path);
            self.complain(error(Failure::new(EBUSY, what)));
            if let Err(failure) = header.end(self.list().common.patience.pace().bound) {
                self.complain(error(failure));
            }
        }
    }
}
