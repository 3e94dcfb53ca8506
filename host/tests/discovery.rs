//! Discovery of namespaces, by either method, against the kernel of this machine.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod sandbox;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use pernetd::discovery::{self, Batch, Method, NamedNs, Observation, Options, Started};
use pernetd::linux::{netns, ns, worker::Workers};
use rustix::mount::{UnmountFlags, mount_bind, mount_move, unmount};
use sandbox::{RUN_NETNS, Trial, netns_add, netns_del, trial, wait_until};

const SOON: Duration = Duration::from_secs(10);

/// How a test runs discovery: each method, with handles and without.
#[derive(Clone, Copy)]
struct How {
    method: Method,
    handles: bool,
}

fn main() -> ExitCode {
    let hows = [Method::Fanotify, Method::Inotify].map(|method| [true, false].map(|handles| How { method, handles }));
    let trials = hows.iter().flatten().flat_map(|how| each(*how)).collect();
    sandbox::main(trials)
}

fn each(how: How) -> Vec<Trial> {
    let tests: [(&str, fn(How)); 2] = [
        ("a name comes and goes", comes_and_goes),
        ("what exists at the start is in the first batch", exists_at_start),
    ];
    let lacking = how.method == Method::Fanotify && !kernel_is_at_least(6, 15);
    let by = if how.handles { "handles" } else { "inodes" };
    let title = |name| format!("{} with {by}: {name}", how.method);
    tests.map(|(name, test)| trial(title(name), move || test(how)).ignored_if(lacking)).into()
}

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// What an owner of discovery knows: each name with the inode of the namespace that it shows.
#[derive(Default)]
struct View {
    names: BTreeMap<PathBuf, Option<u64>>,
    batches: usize,
    snapshots: usize,
    /// Namespaces that some batch left without a name.
    died: Vec<u64>,
}

impl View {
    fn apply(&mut self, batch: Batch, identify: &dyn Fn(NamedNs) -> (PathBuf, Option<u64>)) {
        let before: Vec<u64> = self.names.values().copied().flatten().collect();
        for observation in batch.0 {
            match observation {
                Observation::Name(name) => self.names.extend([identify(name)]),
                Observation::NoName(path) => assert!(self.names.remove(&path).is_some(), "{}", path.display()),
                Observation::Snapshot(names) => {
                    self.names = names.into_iter().map(identify).collect();
                    self.snapshots += 1;
                }
            }
        }
        self.batches += 1;
        let alive = |inode: &u64| self.names.values().any(|known| *known == Some(*inode));
        self.died.extend(before.into_iter().filter(|inode| !alive(inode)));
    }
}

struct Watch {
    view: Arc<Mutex<View>>,
    started: Started,
}

impl Watch {
    fn start(how: How) -> Watch {
        Watch::start_in(how, &[RUN_NETNS])
    }

    /// Starts discovery, and waits for the first batch.
    fn start_in(how: How, folders: &[&str]) -> Watch {
        let view = Arc::new(Mutex::new(View::default()));
        let (told, workers) = (Arc::clone(&view), Workers::new(1).unwrap());
        let identify = move |name: NamedNs| {
            let inode = match &name.identity {
                Some((_, pin)) => Some(inode(pin.as_fd())),
                None => enter_and_identify(&workers, &name.path),
            };
            (name.path, inode)
        };
        let send = Box::new(move |batch| told.lock().unwrap().apply(batch, &identify));
        let folders = folders.iter().map(PathBuf::from).collect();
        let started = discovery::start(Options { method: Some(how.method), folders, handles: how.handles }, send);
        let watch = Watch { view, started: started.unwrap() };
        wait_until("the first batch", SOON, || watch.view.lock().unwrap().batches > 0);
        assert_eq!(watch.view.lock().unwrap().snapshots, 1);
        watch
    }

    #[track_caller]
    fn settles(&self) {
        wait_until("the view is what the kernel shows", SOON, || {
            self.view.lock().unwrap().names == shown(&[RUN_NETNS])
        });
    }

    #[track_caller]
    fn sees(&self, what: &str, holds: impl Fn(&View) -> bool) {
        wait_until(what, SOON, || holds(&self.view.lock().unwrap()));
    }
}

fn enter_and_identify(workers: &Workers, path: &Path) -> Option<u64> {
    let (send, receive) = mpsc::channel();
    let path = path.to_owned();
    workers.run_anywhere(Box::new(move || {
        send.send(ns::identify_by_entering(&path).ok().map(|(_, pin)| inode(pin.as_fd()))).unwrap();
    }));
    receive.recv().unwrap()
}

fn inode(fd: BorrowedFd<'_>) -> u64 {
    rustix::fs::fstat(fd).unwrap().st_ino
}

/// What the kernel shows in these folders: names on which a network namespace lies on top.
fn shown(folders: &[&str]) -> BTreeMap<PathBuf, Option<u64>> {
    let nsfs = fs::metadata("/proc/self/ns/net").unwrap().dev();
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let stats = entries.filter_map(|entry| Some((entry.path(), fs::symlink_metadata(entry.path()).ok()?)));
    stats.filter(|(_, stat)| stat.dev() == nsfs).map(|(path, stat)| (path, Some(stat.ino()))).collect()
}

fn comes_and_goes(how: How) {
    let watch = Watch::start(how);
    let path = netns_add("blue");
    watch.sees("blue is there", |view| view.names.contains_key(&path));
    watch.settles();
    netns_del("blue");
    watch.sees("blue is gone", |view| view.names.is_empty());
    assert_eq!(watch.view.lock().unwrap().died.len(), 1);
}

fn exists_at_start(how: How) {
    let (one, two) = (netns_add("one"), netns_add("two"));
    let watch = Watch::start(how);
    let names: Vec<_> = watch.view.lock().unwrap().names.keys().cloned().collect();
    assert_eq!(names, [one, two]);
    watch.settles();
}
