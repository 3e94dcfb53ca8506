//! Writing a setting, and undoing it. How a key's file is reached is `proc`.
//!
//! `/proc/sys/net` shows the namespace of the thread that opens a file there, and a hook's thread is inside. A value is
//! compared word by word, since the kernel prints tabs where an operator wrote blanks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use pernet_plugin_api::{Error, Result};
use rustix::fs::OFlags;

use crate::key::Key;
use crate::proc::Proc;

/// The tree of settings.
#[derive(Debug)]
pub(crate) struct Tree {
    proc: Proc,
}

/// A value that we replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// What was there; `None` for a key that can only be written.
    pub(crate) before: Option<String>,
    /// What the kernel made of the value that we wrote.
    pub(crate) after: String,
}

impl Tree {
    /// The kernel's.
    pub(crate) fn of_the_kernel() -> Self {
        Tree { proc: Proc::new() }
    }

    /// One in a folder, for tests.
    #[cfg(test)]
    pub(crate) fn at(root: &std::path::Path) -> Self {
        Tree { proc: Proc::at(root) }
    }

    /// Gives a setting its value; `None` if it has it already.
    pub(crate) fn set(&self, key: &Key, value: &str) -> Result<Option<Change>> {
        self.try_set(key, value).map_err(|e| refused(key, value, e))
    }

    fn try_set(&self, key: &Key, value: &str) -> io::Result<Option<Change>> {
        let file = match self.proc.open(key.path(), OFlags::RDWR) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return self.write_only(key, value).map(Some),
            Err(e) => return Err(e),
        };
        let before = read(&file)?;
        if is_same(&before, value) {
            return Ok(None);
        }
        write(&file, value)?;
        Ok(Some(Change { before: Some(before), after: read(&file)? }))
    }

    /// Puts back what was there, if the value is still the one that we wrote. A key that is gone is as good.
    pub(crate) fn undo(&self, key: &Key, change: &Change) -> Result<()> {
        let Some(before) = &change.before else { return Ok(()) };
        match self.try_undo(key, before, &change.after) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|e| refused(key, before, e)),
        }
    }

    fn try_undo(&self, key: &Key, before: &str, after: &str) -> io::Result<()> {
        let file = self.proc.open(key.path(), OFlags::RDWR)?;
        if is_same(&read(&file)?, after) { write(&file, before) } else { Ok(()) }
    }

    /// Whether a device's key is missing because the device is: it went or was renamed since the event, or does not
    /// speak that protocol. Where already the folder of all devices is missing, the key is wrong.
    pub(crate) fn lacks_device(&self, key: &Key, device: &str) -> bool {
        let Some(folder) = key.device_folder(device) else { return false };
        !self.proc.has(&folder) && folder.rsplit_once('/').is_some_and(|(above, _)| self.proc.has(above))
    }

    /// Some keys (`net.ipv4.route.flush`) are there to be written only: there is nothing to compare with or to put back.
    fn write_only(&self, key: &Key, value: &str) -> io::Result<Change> {
        write(&self.proc.open(key.path(), OFlags::WRONLY)?, value)?;
        Ok(Change { before: None, after: value.to_owned() })
    }
}

/// Most values are a few bytes; a list of ports may be long. The kernel gives a value in one read or cuts it.
fn read(file: &File) -> io::Result<String> {
    let mut text = vec![0; 512];
    loop {
        let len = file.read_at(&mut text, 0)?;
        if len < text.len() {
            return Ok(String::from_utf8_lossy(&text[..len]).trim_end().to_owned());
        }
        text.resize(len * 4, 0);
    }
}

/// In one call: the kernel takes each write for a value of its own.
fn write(file: &File, value: &str) -> io::Result<()> {
    if file.write_at(value.as_bytes(), 0)? == value.len() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "the kernel took only part of the value"))
}

fn is_same(a: &str, b: &str) -> bool {
    a.split_whitespace().eq(b.split_whitespace())
}

fn refused(key: &Key, value: &str, e: io::Error) -> Error {
    let hint = match e.kind() {
        io::ErrorKind::NotFound => {
            ": no such key in this namespace: mistyped, its kernel module is not loaded, its device is not there, or \
             only the host has it"
        }
        io::ErrorKind::InvalidInput => ": the kernel refuses this value",
        io::ErrorKind::PermissionDenied => ": read-only here",
        _ => "",
    };
    let e = Error::from(e);
    Error::new(e.errno(), format!("{key} = {value}: {e}{hint}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A tree of ordinary files.
    pub(crate) fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let root = tempfile::tempdir().expect("a folder");
        for (path, value) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, value).expect("a file");
        }
        let tree = Tree::at(root.path());
        (root, tree)
    }

    pub(crate) fn value(root: &tempfile::TempDir, path: &str) -> String {
        std::fs::read_to_string(root.path().join(path)).expect(path).trim_end().to_owned()
    }

    fn key(text: &str) -> Key {
        Key::parse(text).expect(text)
    }

    #[test]
    fn only_a_different_value_is_a_change() {
        let (root, tree) = tree(&[("net/a", "1\t2\n")]);
        assert_eq!(tree.set(&key("net.a"), "1 2"), Ok(None));
        let change = tree.set(&key("net.a"), "3 4").expect("written").expect("a change");
        assert_eq!((change.before.as_deref(), change.after.as_str()), (Some("1\t2"), "3 4"));
        assert_eq!(tree.undo(&key("net.a"), &change), Ok(()));
        assert_eq!(value(&root, "net/a"), "1\t2");
    }

    #[test]
    fn what_somebody_else_wrote_since_stays() {
        let (root, tree) = tree(&[("net/a", "1\n")]);
        let change = tree.set(&key("net.a"), "2").expect("written").expect("a change");
        std::fs::write(root.path().join("net/a"), "9\n").expect("somebody else");
        assert_eq!(tree.undo(&key("net.a"), &change), Ok(()));
        assert_eq!(value(&root, "net/a"), "9");
        std::fs::remove_file(root.path().join("net/a")).expect("gone");
        assert_eq!(tree.undo(&key("net.a"), &change), Ok(()));
    }

    #[test]
    fn a_refusal_names_key_value_and_errno() {
        let (_root, tree) = tree(&[("net/ipv4/conf/eth0/x", "1\n")]);
        let refusal = tree.set(&key("net.b"), "7").expect_err("not there");
        assert_eq!(refusal.errno(), 2);
        assert!(refusal.message().starts_with("net.b = 7: No such file"), "{refusal}");
    }

    #[test]
    fn a_missing_device_is_no_wrong_key() {
        let (_root, tree) = tree(&[("net/ipv4/conf/eth0/x", "1\n")]);
        assert!(tree.lacks_device(&key("net.ipv4.conf.<dev>.x"), "eth1"));
        assert!(!tree.lacks_device(&key("net.ipv4.conf.<dev>.y"), "eth0"));
        assert!(!tree.lacks_device(&key("net.ipv4.cnf.<dev>.x"), "eth0"));
    }
}
