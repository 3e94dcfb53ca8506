//! What stands behind a table in tests: numbers and texts in memory, which can be told what to do at a call.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::engine::*;

type Doing = Arc<dyn Fn(&str) -> Result<(), Failure> + Send + Sync>;

/// The values, by entry and element, and how often they were freed.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) numbers: Mutex<BTreeMap<(usize, usize), Number>>,
    pub(super) texts: Mutex<BTreeMap<usize, Vec<u8>>>,
    pub(super) freed: AtomicUsize,
    pub(super) calls: AtomicUsize,
    doing: Mutex<Option<Doing>>,
}

impl Memory {
    pub(super) fn new() -> Arc<Memory> {
        Arc::default()
    }

    /// Does this at every call, which is told its word.
    pub(super) fn at_each(&self, doing: impl Fn(&str) -> Result<(), Failure> + Send + Sync + 'static) {
        *self.doing.lock().unwrap() = Some(Arc::new(doing));
    }

    pub(super) fn number(&self, entry: usize, index: usize) -> Number {
        self.numbers.lock().unwrap().get(&(entry, index)).copied().unwrap_or_default()
    }

    pub(super) fn set(&self, entry: usize, values: &[Number]) {
        let mut numbers = self.numbers.lock().unwrap();
        numbers.extend(values.iter().enumerate().map(|(index, value)| ((entry, index), *value)));
    }

    pub(super) fn set_text(&self, entry: usize, text: &str) {
        self.texts.lock().unwrap().insert(entry, text.into());
    }

    pub(super) fn times_freed(&self) -> usize {
        self.freed.load(Ordering::SeqCst)
    }

    fn call(&self, what: &str) -> Result<(), Failure> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let doing = self.doing.lock().unwrap().clone();
        doing.map_or(Ok(()), |doing| doing(what))
    }
}

impl CtlData for Memory {
    fn load(&self, at: &CtlAt, index: usize) -> Result<Number, Failure> {
        self.call("load")?;
        Ok(self.number(at.entry, index))
    }

    fn store(&self, at: &CtlAt, index: usize, value: Number) -> Result<(), Failure> {
        self.call("store")?;
        self.numbers.lock().unwrap().insert((at.entry, index), value);
        Ok(())
    }

    fn text(&self, at: &CtlAt) -> Result<Vec<u8>, Failure> {
        self.call("text")?;
        Ok(self.texts.lock().unwrap().get(&at.entry).cloned().unwrap_or_default())
    }

    fn set_text(&self, at: &CtlAt, text: &[u8]) -> Result<(), Failure> {
        self.call("set_text")?;
        self.texts.lock().unwrap().insert(at.entry, text.to_vec());
        Ok(())
    }

    fn read(&self, at: &CtlAt, position: u64, count: usize) -> Result<Vec<u8>, Failure> {
        self.call("read")?;
        let all = self.texts.lock().unwrap().get(&at.entry).cloned().unwrap_or_default();
        let from = all.len().min(usize::try_from(position).unwrap());
        Ok(all[from..].iter().copied().take(count).collect())
    }

    fn write(&self, at: &CtlAt, position: u64, bytes: &[u8]) -> Result<usize, Failure> {
        self.call("write")?;
        let mut texts = self.texts.lock().unwrap();
        let text = texts.entry(at.entry).or_default();
        text.truncate(usize::try_from(position).unwrap());
        text.extend(bytes);
        Ok(bytes.len())
    }

    fn free(&self) -> Result<(), Failure> {
        self.freed.fetch_add(1, Ordering::SeqCst);
        self.call("free")
    }
}

/// One number without bounds.
pub(super) fn entry(name: &str, kind: CtlKind) -> CtlEntry {
    CtlEntry { name: name.into(), mode: 0o644, kind, len: 1, min: None, max: None }
}

/// With bounds.
pub(super) fn bounded(kind: CtlKind, len: usize, min: Number, max: Number) -> CtlEntry {
    CtlEntry { len, min: Some(min), max: Some(max), ..entry("n", kind) }
}

pub(super) fn vector(name: &str, kind: CtlKind, len: usize) -> CtlEntry {
    CtlEntry { len, ..entry(name, kind) }
}

pub(super) fn mode(mode: u16) -> CtlEntry {
    CtlEntry { mode, ..entry("n", CtlKind::Int) }
}

pub(super) fn table(entries: &[CtlEntry], data: &Arc<Memory>) -> CtlTable {
    CtlTable { entries: entries.to_vec(), data: data.clone() }
}

/// A table of ints by these names.
pub(super) fn ints(names: &[&str], data: &Arc<Memory>) -> CtlTable {
    table(&names.iter().map(|name| entry(name, CtlKind::Int)).collect::<Vec<_>>(), data)
}

/// Root.
pub(super) const ROOT: Credentials = Credentials { uid: 0, gid: 0, privileged: true };

/// A set with one entry, `dir/n`, and what is behind it.
pub(super) struct Knob {
    pub(super) set: CtlSet,
    pub(super) data: Arc<Memory>,
}

impl Knob {
    pub(super) fn new(entry: CtlEntry) -> Knob {
        let (set, data) = (CtlSet::default(), Memory::new());
        set.register(
            "dir",
            CtlTable { entries: vec![CtlEntry { name: "n".into(), ..entry }], data: data.clone() },
            |_| (),
        )
        .unwrap();
        Knob { set, data }
    }

    pub(super) fn node(&self) -> CtlNode {
        found(&self.set, "dir/n")
    }

    pub(super) fn file(&self) -> CtlFile {
        CtlFile::open(self.node(), &ROOT, CtlAccess::ReadWrite).unwrap()
    }

    /// A write of a file that is opened for it, as `echo` does; how many bytes, or the errno.
    pub(super) fn write(&self, bytes: impl AsRef<[u8]>) -> Result<usize, i32> {
        self.file().write(&ROOT, bytes.as_ref()).map_err(|failure| failure.errno)
    }

    pub(super) fn read(&self) -> String {
        String::from_utf8(self.file().read(&ROOT, 4096).unwrap()).unwrap()
    }
}

pub(super) fn found(set: &CtlSet, path: &str) -> CtlNode {
    match set.look(path).unwrap() {
        CtlFound::Entry(node) => node,
        CtlFound::Dir(names) => panic!("{path} is a directory: {names:?}"),
    }
}

/// Everything that is seen of a set, directories with a slash.
pub(super) fn tree(set: &CtlSet) -> Vec<String> {
    fn below(set: &CtlSet, path: &str, all: &mut Vec<String>) {
        let CtlFound::Dir(names) = set.look(path).unwrap() else { return };
        for (name, node) in names {
            let path = format!("{path}{name}");
            if node.is_some() {
                all.push(path);
            } else {
                all.push(format!("{path}/"));
                below(set, &format!("{path}/"), all);
            }
        }
    }
    let mut all = Vec::new();
    below(set, "", &mut all);
    all
}

/// Longer than anything here takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
