//! Discovery of namespaces, by either method, against the kernel of this machine.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod sandbox;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use pernetd::discovery::{self, Batch, Method, NamedNs, Observation, Options, Started};
use pernetd::linux::{netns, ns, worker::Workers};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_move, unmount};
use sandbox::{RUN_NETNS, Trial, make_shared, mount_events, netns_add, netns_del, nsfs_handles, trial, wait_until};

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

type Test = (&'static str, fn(How));

const TESTS: &[Test] = &[
    ("a name comes and goes", comes_and_goes),
    ("what exists at the start is in the first batch", exists_at_start),
    ("a folder made later is watched", folder_made_later),
    ("a folder that is removed and made again is watched", folder_made_again),
    ("a folder behind a link is shown as configured", folder_behind_a_link),
    ("200 names added and removed leave nothing", many_at_once),
    ("a name taken again at once shows the new namespace", taken_again),
    ("two threads at the same name", two_threads_one_name),
    ("an umount that leaves the name ends it", umount_without_unlink),
    ("a mount that moves is no death", move_within_folder),
    ("a name seen twice through a shared mount is one", double_mount),
    ("the topmost mount counts", shadowed_name),
    ("a mount over the folder hides its names", shadowed_folder),
    ("placeholders that never become mounts hold up nobody", placeholders),
    ("odd names", odd_names),
    ("links and files do not count", not_a_mount),
    ("a plain umount of a known name is never busy", umount_of_a_known_name),
    ("a plain umount at once is hardly ever busy", umount_at_once),
    ("lost events are made good by a scan", overflow),
    ("a scan on request", rescan_on_request),
    ("no descriptor and no thread is left", nothing_is_left),
    ("after random operations the view is the kernel's", random_operations),
];

fn each(how: How) -> Vec<Trial> {
    let events = if how.method == Method::Fanotify { mount_events() } else { &Ok(()) };
    let handles = if how.handles { nsfs_handles() } else { &Ok(()) };
    let by = if how.handles { "handles" } else { "inodes" };
    let title = |name| format!("{} with {by}: {name}", how.method);
    TESTS.iter().map(|(name, test)| trial(title(name), move || test(how)).needs(events).needs(handles)).collect()
}

/// What an owner of discovery knows: each name with the inode of the namespace that it shows.
#[derive(Default)]
struct View {
    names: BTreeMap<PathBuf, Option<u64>>,
    /// The inode that each name was told to have: identifying it must lead there.
    told: BTreeMap<PathBuf, u64>,
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
                Observation::Name(name) => {
                    self.told.insert(name.path.clone(), name.inode);
                    self.names.extend([identify(name)]);
                }
                Observation::NoName(path) => assert!(self.names.remove(&path).is_some(), "{}", path.display()),
                Observation::Snapshot(names) => {
                    self.told = names.iter().map(|name| (name.path.clone(), name.inode)).collect();
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
    workers: Arc<Workers>,
}

impl Watch {
    fn start(how: How) -> Watch {
        Watch::start_in(how, &[RUN_NETNS])
    }

    /// Starts discovery, and waits for the first batch.
    fn start_in(how: How, folders: &[&str]) -> Watch {
        Watch::start_gated(how, folders, Arc::default())
    }

    /// While somebody holds the gate, discovery cannot deliver, and so reads nothing.
    fn start_gated(how: How, folders: &[&str], gate: Arc<Mutex<()>>) -> Watch {
        let view = Arc::new(Mutex::new(View::default()));
        let (told, workers) = (Arc::clone(&view), Arc::new(Workers::new(1).unwrap()));
        let identifiers = Arc::clone(&workers);
        let identify = move |name: NamedNs| {
            let inode = match &name.identity {
                Some((_, pin)) => Some(inode(pin.as_fd())),
                None => enter_and_identify(&identifiers, &name.path, name.inode),
            };
            (name.path, inode)
        };
        let send = Box::new(move |batch| {
            drop(gate.lock());
            told.lock().unwrap().apply(batch, &identify);
        });
        let folders = folders.iter().map(PathBuf::from).collect();
        let started = discovery::start(Options { method: Some(how.method), folders, handles: how.handles }, send);
        let watch = Watch { view, started: started.unwrap(), workers };
        wait_until("the first batch", SOON, || watch.view.lock().unwrap().batches > 0);
        assert_eq!(watch.view.lock().unwrap().snapshots, 1);
        watch
    }

    #[track_caller]
    fn settles(&self) {
        self.settles_after("at last");
    }

    #[track_caller]
    fn settles_after(&self, what: &str) {
        wait_until(&format!("{what}: the view is what the kernel shows"), SOON, || {
            self.identify_again();
            self.view.lock().unwrap().names == shown(&[RUN_NETNS])
        });
    }

    /// What could not be identified is tried again, as the daemon does.
    fn identify_again(&self) {
        let mut view = self.view.lock().unwrap();
        let View { names, told, .. } = &mut *view;
        for (path, inode) in names.iter_mut().filter(|(_, inode)| inode.is_none()) {
            *inode = enter_and_identify(&self.workers, path, told[path]);
        }
    }

    #[track_caller]
    fn sees(&self, what: &str, holds: impl Fn(&View) -> bool) {
        wait_until(what, SOON, || holds(&self.view.lock().unwrap()));
    }
}

fn enter_and_identify(workers: &Workers, path: &Path, told: u64) -> Option<u64> {
    let (send, receive) = mpsc::channel();
    let path = path.to_owned();
    workers.run_anywhere(Box::new(move || {
        send.send(ns::identify_by_entering(&path).ok().map(|(_, pin)| inode(pin.as_fd()))).unwrap();
    }));
    receive.recv().unwrap().filter(|inode| *inode == told)
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

fn folder_made_later(how: How) {
    let watch = Watch::start_in(how, &[RUN_NETNS, "/run/docker/netns"]);
    let path = netns::add(Path::new("/run/docker/netns"), OsStr::new("default")).unwrap();
    let other = netns_add("blue");
    watch.sees("both names", |view| view.names.contains_key(&path) && view.names.contains_key(&other));
}

fn folder_made_again(how: How) {
    plain_folder();
    let watch = Watch::start(how);
    for round in 0..5 {
        let path = plain_add(&format!("n{round}"));
        watch.sees("the name", |view| view.names.contains_key(&path));
        netns::remove(&path).unwrap();
        fs::remove_dir(RUN_NETNS).unwrap();
        plain_folder();
    }
    watch.settles();
}

fn folder_behind_a_link(how: How) {
    let watch = Watch::start_in(how, &["/var/run/netns", RUN_NETNS]);
    netns_add("blue");
    let shown = |view: &View| view.names.keys().eq([Path::new("/var/run/netns/blue")]);
    watch.sees("the configured name, once", shown);
    netns_add("red");
    watch.sees("the other", |view| view.names.len() == 2);
    watch.started.rescan();
    watch.sees("the scan", |view| view.snapshots > 1);
    assert!(watch.view.lock().unwrap().names.keys().all(|name| name.starts_with("/var/run/netns")));
}

fn many_at_once(how: How) {
    let watch = Watch::start(how);
    for n in 0..200 {
        netns_add(format!("n{n}"));
    }
    watch.sees("200 names", |view| view.names.len() == 200);
    watch.settles();
    for n in 0..200 {
        netns_del(format!("n{n}"));
        netns_add(format!("m{n}"));
        netns_del(format!("m{n}"));
    }
    watch.sees("no name", |view| view.names.is_empty());
}

fn taken_again(how: How) {
    let watch = Watch::start(how);
    for _ in 0..100 {
        netns_add("blue");
        netns_del("blue");
    }
    netns_add("blue");
    watch.settles();
}

fn two_threads_one_name(how: How) {
    let watch = Watch::start(how);
    let add_and_remove = || {
        for _ in 0..100 {
            let _ = netns::add(Path::new(RUN_NETNS), OsStr::new("blue"));
            let _ = netns::remove(&Path::new(RUN_NETNS).join("blue"));
        }
    };
    thread::scope(|scope| {
        scope.spawn(add_and_remove);
        scope.spawn(add_and_remove);
    });
    watch.settles();
}

/// A folder without a mount of its own, so that what is mounted in it stays where it is put.
fn plain_folder() {
    fs::create_dir(RUN_NETNS).unwrap();
}

fn plain_add(name: &str) -> PathBuf {
    let path = Path::new(RUN_NETNS).join(name);
    netns::take_name(&path).unwrap();
    netns::bind(netns::create().unwrap().as_fd(), &path).unwrap();
    path
}

fn umount_without_unlink(how: How) {
    let watch = Watch::start(how);
    let path = netns_add("blue");
    watch.settles();
    unmount(&path, UnmountFlags::empty()).unwrap();
    watch.sees("the name without a mount is gone", |view| view.names.is_empty());
    netns::bind(netns::create().unwrap().as_fd(), &path).unwrap();
    watch.sees("the name is used again", |view| view.names.contains_key(&path));
    watch.settles();
}

fn move_within_folder(how: How) {
    plain_folder();
    let path = plain_add("a");
    let watch = Watch::start(how);
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "a")] {
        let (from, to) = (path.with_file_name(from), path.with_file_name(to));
        let _ = netns::take_name(&to);
        mount_move(&from, &to).unwrap();
        watch.settles();
    }
    assert!(watch.view.lock().unwrap().died.is_empty());
}

fn double_mount(how: How) {
    make_shared("/run");
    let watch = Watch::start(how);
    let path = netns_add("blue");
    let lines = fs::read_to_string("/proc/self/mountinfo").unwrap().matches(" /run/netns/blue ").count();
    assert_eq!(lines, 2, "the same mount is there twice");
    watch.sees("blue", |view| view.names.contains_key(&path));
    netns_del("blue");
    watch.sees("nothing", |view| view.names.is_empty());
    let view = watch.view.lock().unwrap();
    assert_eq!((view.died.len(), view.snapshots), (1, view.snapshots));
}

fn shadowed_name(how: How) {
    plain_folder();
    let path = plain_add("blue");
    let watch = Watch::start(how);
    let bottom = watch.view.lock().unwrap().names[&path];
    netns::bind(netns::create().unwrap().as_fd(), &path).unwrap();
    watch.settles();
    let top = watch.view.lock().unwrap().names[&path];
    assert_ne!(bottom, top);
    mount_bind("/usr/bin/env", &path).unwrap();
    watch.sees("a file lies on top", |view| view.names.is_empty());
    unmount(&path, UnmountFlags::empty()).unwrap();
    watch.sees("the second namespace", |view| view.names.get(&path) == Some(&top));
    unmount(&path, UnmountFlags::empty()).unwrap();
    watch.sees("the first namespace", |view| view.names.get(&path) == Some(&bottom));
}

fn shadowed_folder(how: How) {
    netns_add("blue");
    let watch = Watch::start(how);
    for cover in [RUN_NETNS, "/run"] {
        mount("tmpfs", cover, "tmpfs", MountFlags::empty(), None).unwrap();
        watch.sees("blue is hidden", |view| view.names.is_empty());
        if cover == RUN_NETNS {
            plain_add("red");
            watch.settles();
            watch.sees("red", |view| view.names.len() == 1);
        }
        unmount(cover, UnmountFlags::DETACH).unwrap();
        watch.sees("blue is back", |view| view.names.keys().eq([&Path::new(RUN_NETNS).join("blue")]));
    }
}

fn placeholders(how: How) {
    netns_add("first");
    let watch = Watch::start(how);
    for n in 0..100 {
        netns::take_name(&Path::new(RUN_NETNS).join(format!("never{n}"))).unwrap();
    }
    let start = Instant::now();
    let path = netns_add("blue");
    watch.sees("blue", |view| view.names.contains_key(&path));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    watch.settles();
    // One of them does become one, later.
    netns::bind(netns::create().unwrap().as_fd(), &Path::new(RUN_NETNS).join("never7")).unwrap();
    watch.sees("never7", |view| view.names.len() == 3);
}

fn odd_names(how: How) {
    let long = "x".repeat(255);
    let names: [&[u8]; 12] = [
        long.as_bytes(),
        b"a b",
        b" ",
        b"tab\tand\nline",
        b"\xff\xfe",
        b"back\\slash",
        b"\\040",
        b"@host",
        b"#x",
        b"...",
        "name-\u{fc}\u{f1}\u{ee}".as_bytes(),
        b"net:[1] - nsfs nsfs",
    ];
    netns_add("first");
    let watch = Watch::start(how);
    for name in names {
        netns_add(OsStr::from_bytes(name));
    }
    watch.sees("all", |view| view.names.len() == names.len() + 1);
    watch.settles();
    watch.started.rescan();
    watch.sees("the scan", |view| view.snapshots > 1);
    watch.settles();
    for name in names {
        unmount(Path::new(RUN_NETNS).join(OsStr::from_bytes(name)), UnmountFlags::empty()).unwrap();
    }
    watch.sees("one", |view| view.names.len() == 1);
}

fn not_a_mount(how: How) {
    plain_folder();
    let path = |name: &str| Path::new(RUN_NETNS).join(name);
    symlink("/proc/self/ns/net", path("link")).unwrap();
    fs::write(path("file"), "").unwrap();
    fs::create_dir(path("folder")).unwrap();
    let below = path("folder").join("deep");
    netns::take_name(&below).unwrap();
    netns::bind(netns::create().unwrap().as_fd(), &below).unwrap();
    let watch = Watch::start(how);
    symlink(&below, path("another link")).unwrap();
    netns::take_name(&path("uts")).unwrap();
    mount_bind("/proc/self/ns/uts", path("uts")).unwrap();
    let real = plain_add("real");
    watch.sees("the real one and no other", |view| view.names.keys().eq([&real]));
    watch.started.rescan();
    watch.sees("the scan", |view| view.snapshots > 1);
    assert_eq!(watch.view.lock().unwrap().names.len(), 1);
}

fn plain_umount(path: &Path) -> Result<(), Errno> {
    unmount(path, UnmountFlags::empty())
}

fn umount_of_a_known_name(how: How) {
    let watch = Watch::start(how);
    let path = netns_add("blue");
    for round in 0..if how.method == Method::Fanotify { 200 } else { 50 } {
        watch.sees("the name is known", |view| view.names.contains_key(&path));
        assert_eq!(plain_umount(&path), Ok(()), "in round {round}");
        watch.sees("it is gone", |view| view.names.is_empty());
        netns::bind(netns::create().unwrap().as_fd(), &path).unwrap();
    }
}

fn umount_at_once(how: How) {
    if how.method == Method::Inotify || !how.handles {
        // There a name has to be touched to know what it shows, for a fraction of a microsecond.
        return;
    }
    let watch = Watch::start(how);
    let path = netns_add("blue");
    watch.settles();
    let busy = (0..200).filter(|round| {
        let busy = match plain_umount(&path) {
            Ok(()) => false,
            Err(Errno::BUSY) => unmount(&path, UnmountFlags::DETACH).is_ok(),
            Err(error) => panic!("umount: {error}"),
        };
        netns::bind(netns::create().unwrap().as_fd(), &path).unwrap();
        // At another distance to the mount each time, where discovery is at work.
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(round % 100) {
            std::hint::spin_loop();
        }
        busy
    });
    let busy = busy.count();
    // Only a namespace that cannot be found by its inode makes discovery touch its name: two in 20,000, when measured.
    assert!(busy <= 1, "busy {busy} times of 200");
    watch.settles();
}

fn overflow(how: How) {
    let queue = |what: &str| -> usize {
        let limit = fs::read_to_string(format!("/proc/sys/fs/{what}/max_queued_events")).unwrap();
        limit.trim().parse().unwrap()
    };
    let gate = Arc::new(Mutex::new(()));
    let watch = Watch::start_gated(how, &[RUN_NETNS], Arc::clone(&gate));
    let (path, netns) = (netns_add("blue"), netns::create().unwrap());
    watch.settles();
    let closed = gate.lock();
    netns_add("red");
    let rounds = queue(if how.method == Method::Fanotify { "fanotify" } else { "inotify" }) / 2 + 100;
    for _ in 0..rounds {
        if how.method == Method::Fanotify {
            netns::bind(netns.as_fd(), &path).unwrap();
            unmount(&path, UnmountFlags::DETACH).unwrap();
        } else {
            let other = path.with_file_name("other");
            netns::take_name(&other).unwrap();
            fs::remove_file(&other).unwrap();
        }
    }
    netns_del("blue");
    netns_add("late");
    drop(closed);
    watch.sees("a scan", |view| view.snapshots > 1);
    watch.settles();
}

fn rescan_on_request(how: How) {
    let watch = Watch::start(how);
    netns_add("blue");
    watch.settles();
    for scans in 2..5 {
        watch.started.rescan();
        watch.sees("a scan", |view| view.snapshots >= scans);
    }
    watch.settles();
    assert!(watch.view.lock().unwrap().died.is_empty());
}

fn nothing_is_left(how: How) {
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    // Whatever is opened once and kept (what the kernel can do, is found out once).
    drop(Watch::start(how));
    wait_until("one thread is left", SOON, || threads() == 1);
    let before = descriptors();
    let watch = Watch::start(how);
    let running = descriptors();
    for n in 0..50 {
        netns_add(format!("n{n}"));
    }
    watch.sees("50 names", |view| view.names.len() == 50);
    // This test keeps no pin, so none may be open.
    wait_until("no more descriptors than before", SOON, || descriptors() == running);
    drop(watch);
    wait_until("all descriptors and threads are gone", SOON, || descriptors() == before && threads() == 1);
}

/// Small and the same each time for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn random_operations(how: How) {
    plain_folder();
    let watch = Watch::start(how);
    let kept = netns::create().unwrap();
    for seed in 0..30 {
        let mut random = Random(seed);
        for _ in 0..random.below(40) {
            random_operation(&mut random, kept.as_fd());
        }
        watch.settles_after(&format!("seed {seed}"));
    }
}

/// Some fail, since what they want is not there: that is as good as any.
fn random_operation(random: &mut Random, kept: BorrowedFd<'_>) {
    let mut name = || Path::new(RUN_NETNS).join(format!("n{}", random.below(6)));
    let (path, other) = (name(), name());
    match random.below(12) {
        0..3 => {
            let _ = netns::take_name(&path);
            let _ = netns::bind(netns::create().unwrap().as_fd(), &path);
        }
        3 => drop(netns::take_name(&path)),
        4 => drop(netns::bind(kept, &path)),
        5 => drop(unmount(&path, UnmountFlags::empty())),
        6..9 => drop(netns::remove(&path)),
        9 => drop(mount_move(&path, &other)),
        10 => drop(fs::rename(&path, &other)),
        _ => drop(mount_bind("/usr/bin/env", &path)),
    }
    if random.below(40) == 0 {
        let _ = mount("tmpfs", RUN_NETNS, "tmpfs", MountFlags::empty(), None);
    }
    if random.below(10) == 0 {
        let _ = unmount(RUN_NETNS, UnmountFlags::DETACH);
    }
}
