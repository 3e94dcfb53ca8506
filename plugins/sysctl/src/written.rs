//! What we wrote in one namespace: the record that undoing goes by.
//!
//! Owns the merge of repeated writes (the first old value is the one to put back) and the hand-over to the generation
//! that follows in the same place. When what happens is `pernet` and `netdev`; how a value is written is `setting`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pernet_plugin_api::{Error, Net, Result, tracing};

use crate::config::Wanted;
use crate::key::Key;
use crate::setting::{Change, Tree};

/// What a generation left to the next one, by namespace and life. Both are of the same file, so they share this. A
/// generation of another file finds nothing here, and adopts the values as it finds them.
static LEFT: Mutex<BTreeMap<(u64, u32), Written>> = Mutex::new(BTreeMap::new());

/// The record of a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) settings: Changes,
    /// By serial, which unlike the name and the ifindex stays with the device.
    pub(crate) devices: BTreeMap<u64, Device>,
}

/// The record of a device.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Device {
    /// Its name when we last heard of it; the keys still have `<dev>` in them.
    pub(crate) name: String,
    pub(crate) settings: Changes,
}

/// Changes by key, in the order in which they are made.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes(BTreeMap<Key, Change>);

/// Whose settings they are: the namespace's, or a device's, by its name.
pub(crate) type Whose<'a> = Option<&'a str>;

impl Written {
    /// Takes over what the generation before left here.
    pub(crate) fn take_over(net: &Net<'_>) -> Self {
        lock(&LEFT).remove(&life(net)).unwrap_or_default()
    }

    /// Leaves the record to the generation that follows.
    pub(crate) fn leave(self, net: &Net<'_>) {
        if self != Written::default() {
            lock(&LEFT).insert(life(net), self);
        }
    }

    /// Undoes all, in reverse; goes on after a failure, and tells the first.
    pub(crate) fn undo(self, tree: &Tree) -> Result<()> {
        let devices = self.undo_devices(tree);
        devices.0.and(devices.1.undo(tree, None))
    }

    fn undo_devices(self, tree: &Tree) -> (Result<()>, Changes) {
        let undo = |done: Result<()>, device: Device| done.and(device.settings.undo(tree, Some(&device.name)));
        (self.devices.into_values().rev().fold(Ok(()), undo), self.settings)
    }
}

impl Changes {
    /// Writes one setting; an old record of the key keeps its old value.
    pub(crate) fn set(&mut self, tree: &Tree, key: &Key, value: &str, whose: Whose<'_>) -> Result<()> {
        let Some(change) = tree.set(&of(key, whose), value)? else { return Ok(()) };
        match self.0.get_mut(key) {
            Some(known) => known.after = change.after,
            None => drop(self.0.insert(key.clone(), change)),
        }
        Ok(())
    }

    /// Undoes what is not wanted any more. A failure is logged: it is no reason against what is wanted now.
    pub(crate) fn keep_only(&mut self, tree: &Tree, wanted: &Wanted<'_>, whose: Whose<'_>) {
        let all = std::mem::take(&mut self.0).into_iter();
        let (kept, unwanted) = all.partition(|(key, _)| wanted.contains_key(key));
        self.0 = kept;
        if let Err(e) = Changes(unwanted).undo(tree, whose) {
            tracing::warn!("a setting that is no more configured stays: {e}");
        }
    }

    /// Undoes all, in reverse; goes on after a failure, and tells the first.
    pub(crate) fn undo(self, tree: &Tree, whose: Whose<'_>) -> Result<()> {
        let undo = |done: Result<()>, (key, change): (Key, Change)| done.and(tree.undo(&of(&key, whose), &change));
        self.0.into_iter().rev().fold(Ok(()), undo)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn of<'a>(key: &'a Key, whose: Whose<'_>) -> Cow<'a, Key> {
    match whose {
        Some(device) => Cow::Owned(key.for_device(device)),
        None => Cow::Borrowed(key),
    }
}

fn life(net: &Net<'_>) -> (u64, u32) {
    (net.cookie().0, net.generation())
}

/// An error with the profile that asked for the setting.
pub(crate) fn asked_by(profile: &str, e: &Error) -> Error {
    Error::new(e.errno(), format!("profile `{profile}`: {e}"))
}

/// What a lock of this plugin holds is sound at every step, so a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::tests::{tree, value};

    fn key(text: &str) -> Key {
        Key::parse(text).expect(text)
    }

    #[test]
    fn the_first_old_value_is_put_back() {
        let (root, tree) = tree(&[("net/a", "1"), ("net/b", "1")]);
        let mut changes = Changes::default();
        for step in ["2", "3", "3"] {
            changes.set(&tree, &key("net.a"), step, None).expect("written");
        }
        changes.set(&tree, &key("net.b"), "1", None).expect("written");
        assert_eq!(changes.0.len(), 1, "a value that was there is nobody's change");
        changes.undo(&tree, None).expect("undone");
        assert_eq!(value(&root, "net/a"), "1");
    }

    #[test]
    fn what_is_no_more_wanted_is_undone() {
        let (root, tree) = tree(&[("net/a", "1"), ("net/b", "1")]);
        let mut changes = Changes::default();
        changes.set(&tree, &key("net.a"), "2", None).expect("written");
        changes.set(&tree, &key("net.b"), "2", None).expect("written");
        let (kept, setting) = (key("net.b"), crate::config::Setting { value: "2".into(), profile: "p".into() });
        changes.keep_only(&tree, &Wanted::from([(&kept, &setting)]), None);
        assert_eq!((value(&root, "net/a"), value(&root, "net/b")), ("1".to_owned(), "2".to_owned()));
        assert_eq!(changes.0.keys().collect::<Vec<_>>(), [&kept]);
    }

    #[test]
    fn undoing_goes_on_after_a_failure() {
        let (root, tree) = tree(&[("net/a", "1"), ("net/b", "1")]);
        let mut changes = Changes::default();
        changes.set(&tree, &key("net.a"), "2", None).expect("written");
        changes.set(&tree, &key("net.b"), "2", None).expect("written");
        std::fs::remove_file(root.path().join("net/b")).expect("gone");
        std::fs::create_dir(root.path().join("net/b")).expect("a folder cannot be opened for writing");
        let failure = changes.undo(&tree, None).expect_err("a folder");
        assert!(failure.message().starts_with("net.b = 1"), "{failure}");
        assert_eq!(value(&root, "net/a"), "1");
    }
}
