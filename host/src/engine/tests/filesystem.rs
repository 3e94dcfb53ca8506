//! K6.1 to K6.5: file system types, their mounts, and the end of both; and what answers of a file system are let through.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, Weak};
use std::time::Duration;

use pernet_plugin_api::{DirEntry, FileAttr, FileCaller, NetCookie, OpenFile};

use super::kernel::EINVAL;
use crate::engine::*;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const ENOENT: i32 = 2;
const EBUSY: i32 = 16;
const ENODEV: i32 = 19;
const LONG: Duration = Duration::from_secs(30);

/// What its file systems were asked, and what they are to answer.
#[derive(Default)]
struct World {
    trace: Mutex<Vec<String>>,
    /// The next mount fails.
    broken: AtomicBool,
    killed: AtomicUsize,
    answer: Mutex<Answer>,
}

/// What a superblock of the world's answers.
#[derive(Clone)]
struct Answer {
    attr: FileAttr,
    entries: Vec<DirEntry>,
    bytes: Vec<u8>,
    written: usize,
    kill_fails: bool,
}

impl Default for Answer {
    fn default() -> Self {
        let attr = FileAttr::file(2, 0o644);
        Answer { attr, entries: Vec::new(), bytes: b"text".to_vec(), written: 4, kill_fails: false }
    }
}

struct Fs(Arc<World>);

struct Sb {
    world: Arc<World>,
    name: String,
}

impl World {
    fn note(&self, what: impl Into<String>) {
        self.trace.lock().unwrap().push(what.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.trace.lock().unwrap())
    }

    fn fs(self: &Arc<Self>, name: &str) -> Arc<FileSystemType> {
        Arc::new(FileSystemType::new(name, "a", Box::new(Fs(Arc::clone(self)))))
    }

    fn internal(self: &Arc<Self>, name: &str) -> Arc<FileSystemType> {
        let fs = FileSystemType::new(name, "a", Box::new(Fs(Arc::clone(self))));
        Arc::new(fs.for_internal_mounts())
    }
}

impl FileSystem for Fs {
    fn mount(&self, request: &MountRequest, internal: bool) -> Result<Box<dyn SuperBlock>, Failure> {
        if self.0.broken.load(Ordering::Relaxed) {
            return Err(Failure::new(ENOSPC, "as asked"));
        }
        let name = request.source.clone();
        self.0.note(format!("mount {name}{}", if internal { " internally" } else { "" }));
        Ok(Box::new(Sb { world: Arc::clone(&self.0), name }))
    }
}

impl SuperBlock for Sb {
    fn getattr(&self, ino: u64) -> Result<FileAttr, Failure> {
        self.world.note(format!("getattr {ino} of {}", self.name));
        Ok(self.world.answer.lock().unwrap().attr)
    }

    fn lookup(&self, _: FileCaller, _: u64, name: &str) -> Result<FileAttr, Failure> {
        if name == "none" {
            return Err(Failure::new(ENOENT, "no such file"));
        }
        Ok(self.world.answer.lock().unwrap().attr)
    }

    fn readdir(&self, _: FileCaller, _: u64) -> Result<Vec<DirEntry>, Failure> {
        Ok(self.world.answer.lock().unwrap().entries.clone())
    }

    fn open(&self, _: FileCaller, ino: u64, _: i32) -> Result<u64, Failure> {
        Ok(ino * 10)
    }

    fn release(&self, file: OpenFile) -> Result<(), Failure> {
        self.world.note(format!("release {} {}", file.ino, file.handle));
        Ok(())
    }

    fn read(&self, _: OpenFile, _: u64, _: usize) -> Result<Vec<u8>, Failure> {
        Ok(self.world.answer.lock().unwrap().bytes.clone())
    }

    fn write(&self, _: OpenFile, _: u64, _: &[u8]) -> Result<usize, Failure> {
        Ok(self.world.answer.lock().unwrap().written)
    }

    fn truncate(&self, _: FileCaller, ino: u64, _: u64) -> Result<FileAttr, Failure> {
        self.getattr(ino)
    }

    fn readlink(&self, _: u64) -> Result<Vec<u8>, Failure> {
        Ok(self.world.answer.lock().unwrap().bytes.clone())
    }

    fn kill_sb(&self) -> Result<(), Failure> {
        self.world.note(format!("kill_sb {}", self.name));
        self.world.killed.fetch_add(1, Ordering::Relaxed);
        let fails = self.world.answer.lock().unwrap().kill_fails;
        if fails { Err(Failure::new(EIO, "as asked")) } else { Ok(()) }
    }
}

/// What was told of mounts that ended.
type Told = Arc<Mutex<Vec<(u64, Option<i32>)>>>;

fn lab() -> (Arc<World>, Arc<FileSystems>, Told) {
    let told = Told::default();
    let ears = Arc::clone(&told);
    let tell = move |mount: &Mount, failure: Option<&Failure>| {
        ears.lock().unwrap().push((mount.id, failure.map(|f| f.errno)));
    };
    (Arc::default(), Arc::new(FileSystems::new(Box::new(tell))), told)
}

fn request(source: &str) -> MountRequest {
    MountRequest { source: source.to_owned(), ..MountRequest::default() }
}

fn names(all: &FileSystems) -> Vec<String> {
    all.types().iter().map(|fs| fs.name.to_string()).collect()
}

fn errno<T>(result: Result<T, Failure>) -> i32 {
    result.err().map_or(0, |failure| failure.errno)
}

#[test]
fn k6_1_a_name_with_a_dot_or_none_is_einval() {
    let (world, all, _) = lab();
    for name in ["", "a.b", ".", "a b", "a/b", "a\n", "a,b", "a\\b"] {
        assert_eq!(errno(all.register_filesystem(&world.fs(name))), EINVAL, "{name:?}");
    }
    assert_eq!(names(&all), Vec::<String>::new());
}

#[test]
fn k6_1_the_same_type_or_the_same_name_is_ebusy_wherever_it_stands() {
    let (world, all, _) = lab();
    let (first, last) = (world.fs("first"), world.fs("last"));
    all.register_filesystem(&first).unwrap();
    all.register_filesystem(&last).unwrap();
    // The kernel's link misses the tail; here every place is found.
    for again in [&first, &last] {
        assert_eq!(errno(all.register_filesystem(again)), EBUSY);
        let other = FileSystemType::new(&*again.name, "b", Box::new(Fs(Arc::clone(&world))));
        let refused = all.register_filesystem(&Arc::new(other)).unwrap_err();
        assert_eq!(refused.errno, EBUSY);
        assert!(refused.message.contains("`a`"), "it says whose the name is: {refused}");
    }
    assert_eq!(names(&all), ["first", "last"]);
}

#[test]
fn k6_1_the_list_is_in_the_order_of_registration() {
    let (world, all, _) = lab();
    let types: Vec<_> = ["c", "a", "b"].iter().map(|name| world.fs(name)).collect();
    types.iter().for_each(|fs| all.register_filesystem(fs).unwrap());
    assert_eq!(names(&all), ["c", "a", "b"]);
    all.unregister_filesystem(&types[0]).unwrap();
    all.register_filesystem(&types[0]).unwrap();
    assert_eq!(names(&all), ["a", "b", "c"], "it is appended again");
}

#[test]
fn k6_2_to_unregister_what_is_not_registered_is_einval() {
    let (world, all, _) = lab();
    let fs = world.fs("a");
    assert_eq!(errno(all.unregister_filesystem(&fs)), EINVAL);
    all.register_filesystem(&fs).unwrap();
    assert_eq!(errno(all.unregister_filesystem(&world.fs("a"))), EINVAL, "another of this name is another");
    all.unregister_filesystem(&fs).unwrap();
    assert_eq!(errno(all.unregister_filesystem(&fs)), EINVAL, "once");
}

#[test]
fn k6_2_mounts_are_unaffected_and_keep_their_type_but_a_new_one_is_enodev() {
    let (world, all, _) = lab();
    let fs = world.fs("a");
    all.register_filesystem(&fs).unwrap();
    let mount = all.mount("a", request("one")).unwrap();
    all.unregister_filesystem(&fs).unwrap();
    assert_eq!(errno(all.mount("a", request("two"))), ENODEV);
    let kept: Weak<FileSystemType> = Arc::downgrade(&fs);
    drop(fs);
    assert!(kept.upgrade().is_some(), "the mount keeps it");
    assert_eq!(mount.getattr(2).unwrap(), FileAttr::file(2, 0o644));
    assert_eq!(all.mounts().len(), 1);
    drop(mount);
    assert_eq!(world.take(), ["mount one", "getattr 2 of one", "kill_sb one"]);
    assert!(kept.upgrade().is_none(), "and nobody else does");
}

#[test]
fn k6_3_what_is_before_the_first_dot_is_the_name() {
    let (world, all, _) = lab();
    all.register_filesystem(&world.fs("fuse")).unwrap();
    for name in ["fuse", "fuse.a", "fuse.a.b", "fuse."] {
        assert_eq!(&*all.get_fs_type(name).unwrap().name, "fuse", "{name}");
    }
    for name in ["", ".fuse", "fus", "fusee", "FUSE"] {
        assert_eq!(errno(all.get_fs_type(name)), ENODEV, "{name}");
    }
}

#[test]
fn k6_3_an_unknown_type_is_enodev_and_the_answer_lists_those_that_are() {
    let (world, all, _) = lab();
    for fs in [world.fs("one"), world.internal("hidden"), world.fs("two")] {
        all.register_filesystem(&fs).unwrap();
    }
    let refused = all.mount("three", request("x")).err().unwrap();
    assert_eq!(refused.errno, ENODEV);
    assert!(refused.message.ends_with("there are: one, two"), "{refused}");
}

#[test]
fn k6_3_a_type_whose_owner_goes_counts_as_absent() {
    let (world, all, _) = lab();
    let fs = world.fs("a");
    all.register_filesystem(&fs).unwrap();
    fs.set_going(true);
    assert_eq!(errno(all.mount("a", request("x"))), ENODEV);
    assert_eq!(errno(all.register_filesystem(&world.fs("a"))), EBUSY, "its name is not free yet");
    assert_eq!(errno(all.kern_mount(&fs, request("late"))), ENODEV);
    assert_eq!(world.take(), ["mount late internally", "kill_sb late"], "one that was on its way is undone");
}

#[test]
fn k6_4_an_internal_mount_is_in_no_table() {
    let (world, all, told) = lab();
    // As sockfs is: registered, then mounted by the type itself.
    let fs = world.internal("sockfs");
    all.register_filesystem(&fs).unwrap();
    let mount = all.kern_mount(&fs, request("none"));
    assert_eq!((all.mounts().len(), all.internal_mounts()), (0, 1));
    assert_eq!(world.take(), ["mount none internally"]);
    all.kern_unmount(mount);
    assert_eq!((all.internal_mounts(), world.take()), (0, vec!["kill_sb none".to_owned()]));
    assert_eq!(told.lock().unwrap().as_slice(), [(1, None)]);
}

#[test]
fn k6_4_an_error_of_a_mount_leaves_nothing_to_undo() {
    let (world, all, told) = lab();
    let fs = world.fs("a");
    all.register_filesystem(&fs).unwrap();
    world.broken.store(true, Ordering::Relaxed);
    let mount = all.kern_mount(&fs, request("x"));
    assert_eq!(errno(all.mount("a", request("x"))), ENOSPC);
    assert!(mount.as_ref().is_err_and(|failure| failure.errno == ENOSPC));
    all.kern_unmount(mount);
    assert_eq!((world.take(), all.mounts().len(), all.internal_mounts()), (vec![], 0, 0));
    assert!(told.lock().unwrap().is_empty(), "what was not mounted does not end");
    // Nor does anything keep the type.
    all.unregister_filesystem(&fs).unwrap();
    assert_eq!(Arc::strong_count(&fs), 1);
}

#[test]
fn k6_5_a_user_cannot_mount_an_internal_type() {
    let (world, all, _) = lab();
    all.register_filesystem(&world.internal("sockfs")).unwrap();
    let refused = all.mount("sockfs", request("x")).err().unwrap();
    assert_eq!(refused.errno, EINVAL);
    assert_eq!(world.take(), Vec::<String>::new(), "the type is not asked");
}

/// Registers a type, mounts it internally, registers another, mounts that for a user: with the given step failing, and
/// each of the steps before taken back in reverse.
fn boot(world: &Arc<World>, all: &FileSystems, failing: usize) -> Result<(), Failure> {
    let fail_at = |step: usize| world.broken.store(step == failing, Ordering::Relaxed);
    let first = if failing == 0 { world.fs("in.valid") } else { world.internal("first") };
    all.register_filesystem(&first)?;
    fail_at(1);
    let undo_first = || all.unregister_filesystem(&first).unwrap();
    let inner = all.kern_mount(&first, request("inner")).inspect_err(|_| undo_first())?;
    let second = if failing == 2 { world.fs("first") } else { world.fs("second") };
    let undo_inner = |inner| {
        all.kern_unmount(Ok(inner));
        undo_first();
    };
    if let Err(failure) = all.register_filesystem(&second) {
        undo_inner(inner);
        return Err(failure);
    }
    fail_at(3);
    match all.mount("second", request("outer")) {
        Ok(outer) => drop(outer),
        Err(failure) => {
            all.unregister_filesystem(&second).unwrap();
            undo_inner(inner);
            return Err(failure);
        }
    }
    all.unregister_filesystem(&second).unwrap();
    undo_inner(inner);
    Ok(())
}

#[test]
fn whichever_step_fails_nothing_is_left() {
    for failing in 0..=4 {
        let (world, all, _) = lab();
        assert_eq!(boot(&world, &all, failing).is_err(), failing < 4, "step {failing}");
        assert_eq!((names(&all), all.mounts().len(), all.internal_mounts()), (vec![], 0, 0), "step {failing}");
        let trace = world.take();
        let count = |what: &str| trace.iter().filter(|line| line.starts_with(what)).count();
        assert_eq!(count("mount"), count("kill_sb"), "step {failing}: {trace:?}");
    }
}

#[test]
fn kill_sb_comes_once_after_the_last_use_and_its_error_is_told() {
    let (world, all, told) = lab();
    all.register_filesystem(&world.fs("a")).unwrap();
    world.answer.lock().unwrap().kill_fails = true;
    let mount = all.mount("a", request("x")).unwrap();
    let seen = Arc::clone(&mount);
    drop(mount);
    assert_eq!(world.killed.load(Ordering::Relaxed), 1);
    assert_eq!(told.lock().unwrap().as_slice(), [(seen.id, Some(EIO))]);
    assert_eq!(errno(seen.getattr(1)), ENODEV, "who only looks at it keeps nothing alive");
}

fn ring(bell: &AtomicUsize) {
    bell.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn a_mount_that_is_ended_from_inside_is_dead_at_once_for_all_who_use_it() {
    let (world, all, _) = lab();
    let fs = world.fs("a");
    all.register_filesystem(&fs).unwrap();
    let mounts = ["one", "two"].map(|source| all.mount("a", request(source)).unwrap());
    let internal = all.kern_mount(&fs, request("three")).unwrap();
    let other = world.fs("b");
    all.register_filesystem(&other).unwrap();
    let kept = all.mount("b", request("kept")).unwrap();
    let rung = Arc::new(AtomicUsize::new(0));
    let bell = Arc::clone(&rung);
    mounts[0].carried_by(Box::new(move || ring(&bell)));
    world.take();
    assert_eq!(all.end_mounts(&fs, LONG), []);
    assert_eq!(world.take(), ["kill_sb three", "kill_sb two", "kill_sb one"], "newest first");
    assert_eq!(rung.load(Ordering::Relaxed), 1, "who carries it is told");
    for mount in mounts.iter().chain([&internal]) {
        assert_eq!((errno(mount.getattr(2)), mount.has_ended()), (ENODEV, true));
    }
    kept.getattr(2).unwrap();
    drop((mounts, internal));
    assert_eq!(world.killed.load(Ordering::Relaxed), 3, "once each");
    // One that is mounted on by who comes too late hears it all the same.
    let late = Arc::clone(&kept);
    drop(kept);
    let bell = Arc::clone(&rung);
    late.carried_by(Box::new(move || ring(&bell)));
    assert_eq!(rung.load(Ordering::Relaxed), 2);
}

#[test]
fn mounts_for_a_namespace_end_with_it() {
    let (world, all, _) = lab();
    all.register_filesystem(&world.fs("a")).unwrap();
    let of = |cookie| MountRequest { net: Some(NetCookie(cookie)), ..request(&cookie.to_string()) };
    let (one, two, none) =
        (all.mount("a", of(1)).unwrap(), all.mount("a", of(2)).unwrap(), all.mount("a", request("-")).unwrap());
    assert_eq!(all.end_mounts_in(NetCookie(2), LONG), []);
    assert_eq!([&one, &two, &none].map(|mount| mount.has_ended()), [false, true, false]);
}

/// A file system whose reads wait for each other.
struct Meeting {
    inside: Barrier,
    out: Barrier,
    killed: AtomicUsize,
}

impl SuperBlock for Arc<Meeting> {
    fn getattr(&self, _: u64) -> Result<FileAttr, Failure> {
        Ok(FileAttr::directory(1, 0o555))
    }

    fn read(&self, _: OpenFile, _: u64, _: usize) -> Result<Vec<u8>, Failure> {
        self.inside.wait();
        self.out.wait();
        Ok(Vec::new())
    }

    fn kill_sb(&self) -> Result<(), Failure> {
        self.killed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl FileSystem for Arc<Meeting> {
    fn mount(&self, _: &MountRequest, _: bool) -> Result<Box<dyn SuperBlock>, Failure> {
        Ok(Box::new(Arc::clone(self)))
    }
}

fn meeting() -> (Arc<Meeting>, FileSystems, Arc<FileSystemType>) {
    let meeting = Arc::new(Meeting { inside: Barrier::new(2), out: Barrier::new(2), killed: AtomicUsize::new(0) });
    let fs = Arc::new(FileSystemType::new("m", "a", Box::new(Arc::clone(&meeting))));
    (meeting, FileSystems::new(Box::new(|_, _| ())), fs)
}

const FILE: OpenFile = OpenFile { ino: 2, handle: 0, caller: FileCaller { uid: 0, gid: 0, pid: 0 } };

#[test]
fn the_end_waits_for_the_last_call() {
    let (meeting, all, fs) = meeting();
    let mount = all.kern_mount(&fs, MountRequest::default()).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| mount.read(FILE, 0, 1));
        meeting.inside.wait();
        let ender = scope.spawn(|| all.end_mounts(&fs, LONG));
        while !mount.has_ended() {
            std::thread::yield_now();
        }
        assert_eq!((mount.calls(), meeting.killed.load(Ordering::Relaxed)), (1, 0));
        assert_eq!(errno(mount.read(FILE, 0, 1)), ENODEV, "nobody else comes in");
        meeting.out.wait();
        assert_eq!(reader.join().unwrap(), Ok(Vec::new()), "who was inside gets his answer");
        assert_eq!(ender.join().unwrap(), []);
    });
    assert_eq!(meeting.killed.load(Ordering::Relaxed), 1);
}

#[test]
fn a_call_that_does_not_return_is_given_up_and_kill_sb_follows_it() {
    let (meeting, all, fs) = meeting();
    let mount = all.kern_mount(&fs, MountRequest::default()).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| mount.read(FILE, 0, 1));
        meeting.inside.wait();
        let failures = all.end_mounts(&fs, Duration::from_millis(1));
        assert_eq!(failures.iter().map(|f| f.errno).collect::<Vec<_>>(), [EBUSY]);
        assert_eq!(meeting.killed.load(Ordering::Relaxed), 0);
        meeting.out.wait();
        reader.join().unwrap().unwrap();
    });
    assert_eq!(meeting.killed.load(Ordering::Relaxed), 1);
    drop(mount);
    assert_eq!(meeting.killed.load(Ordering::Relaxed), 1);
}

#[test]
fn the_last_use_may_go_while_a_call_is_inside() {
    let (meeting, all, fs) = meeting();
    let mount = all.kern_mount(&fs, MountRequest::default()).unwrap();
    let seen = Arc::clone(&mount);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || seen.read(FILE, 0, 1));
        meeting.inside.wait();
        drop(mount);
        assert_eq!(meeting.killed.load(Ordering::Relaxed), 0);
        meeting.out.wait();
        reader.join().unwrap().unwrap();
    });
    assert_eq!(meeting.killed.load(Ordering::Relaxed), 1);
}

#[test]
fn kill_sb_is_called_once_whoever_is_first() {
    for round in 0..200 {
        let (world, all, told) = lab();
        let fs = world.fs("a");
        all.register_filesystem(&fs).unwrap();
        let mount = all.mount("a", request("x")).unwrap();
        let seen = Arc::clone(&mount);
        std::thread::scope(|scope| {
            scope.spawn(|| while seen.getattr(2).is_ok() {});
            scope.spawn(|| while seen.getattr(2).is_ok() {});
            scope.spawn(|| all.end_mounts(&fs, LONG));
            scope.spawn(|| all.end_mounts(&fs, LONG));
            scope.spawn(|| drop(mount));
        });
        assert_eq!(world.killed.load(Ordering::Relaxed), 1, "round {round}");
        assert_eq!(told.lock().unwrap().len(), 1);
        assert_eq!(all.mounts().len(), 0);
    }
}

#[test]
fn an_answer_that_cannot_be_is_eio() {
    let (world, all, _) = lab();
    all.register_filesystem(&world.fs("a")).unwrap();
    let mount = all.mount("a", request("x")).unwrap();
    let me = FileCaller::default();
    let (file, directory) = (FileAttr::file(2, 0o644), FileAttr::directory(2, 0o755));
    let attr = |attr: FileAttr| {
        world.answer.lock().unwrap().attr = attr;
        (errno(mount.lookup(me, 1, "f")), errno(mount.getattr(2)), errno(mount.truncate(me, 2, 0)))
    };
    for good in [file, directory, FileAttr::symlink(2), FileAttr { mode: 0o014_4755, ..file }] {
        assert_eq!(attr(good), (0, 0, 0), "{good:?}");
    }
    for mode in [0, 0o644, 0o020_644, 0o060_644, 0o160_644, 0o110_644, 0o100_644 | 1 << 20, u32::MAX] {
        assert_eq!(attr(FileAttr { mode, ..file }), (EIO, EIO, EIO), "{mode:#o}");
    }
    assert_eq!(attr(FileAttr { ino: 0, ..file }), (EIO, EIO, EIO));
    assert_eq!(attr(FileAttr { ino: 3, ..file }), (0, EIO, EIO), "another file than was asked for");
    assert_eq!(attr(FileAttr { ino: 1, ..directory }), (EIO, EIO, EIO), "the root is in no directory");
    assert_eq!(attr(FileAttr { size: 1 << 63, ..file }), (EIO, EIO, EIO));
    assert_eq!(attr(FileAttr { nlink: 0, ..file }), (0, 0, 0));
    assert_eq!(mount.getattr(2).unwrap().nlink, 1);
    world.answer.lock().unwrap().attr = FileAttr { ino: 1, ..file };
    assert_eq!(errno(mount.getattr(1)), EIO, "a root that is a file");
    assert_eq!(errno(mount.lookup(me, 1, "none")), ENOENT, "an error is an answer");
    nonsense_in_lists_and_bytes(&world, &mount);
}

fn nonsense_in_lists_and_bytes(world: &World, mount: &Mount) {
    let me = FileCaller::default();
    let entries = |entries: Vec<DirEntry>| {
        world.answer.lock().unwrap().entries = entries;
        errno(mount.readdir(me, 1))
    };
    let long = "n".repeat(255);
    assert_eq!(entries(vec![DirEntry::file(2, "a"), DirEntry::directory(3, "ö"), DirEntry::file(4, &*long)]), 0);
    for name in ["", ".", "..", "a/b", "a\0b", &(long + "n")] {
        assert_eq!(entries(vec![DirEntry::file(3, "fine"), DirEntry::file(2, name)]), EIO, "{name:?}");
    }
    assert_eq!(entries(vec![DirEntry::file(0, "a")]), EIO);
    assert_eq!(entries(vec![DirEntry { mode: 0o020_000, ..DirEntry::file(2, "a") }]), EIO);
    assert_eq!(errno(mount.read(FILE, 0, 4)), 0);
    assert_eq!(errno(mount.read(FILE, 0, 3)), EIO, "more than was asked for");
    let written = |written| {
        world.answer.lock().unwrap().written = written;
        errno(mount.write(FILE, 0, b"four"))
    };
    assert_eq!([0, 1, 4, 5].map(written), [EIO, 0, 0, EIO]);
    assert_eq!(errno(mount.write(FILE, 0, b"")), EIO);
    for (target, expected) in [(&b"x"[..], 0), (b"", EIO), (b"a\0b", EIO), (&[b'a'; 4096], EIO), (&[b'a'; 4095], 0)] {
        world.answer.lock().unwrap().bytes = target.to_vec();
        assert_eq!(errno(mount.readlink(2)), expected, "{} bytes", target.len());
    }
}

#[test]
fn whatever_is_open_at_the_end_is_released_before_kill_sb() {
    let (world, all, _) = lab();
    let fs = world.fs("a");
    all.register_filesystem(&fs).unwrap();
    let me = FileCaller::default();
    for from_inside in [false, true] {
        let mount = all.mount("a", request("x")).unwrap();
        let opened: Vec<u64> = [2, 2, 3].map(|ino| mount.open(me, ino, 0).unwrap()).into();
        assert_eq!(opened, [20, 20, 30]);
        mount.release(OpenFile { ino: 2, handle: 20, caller: me }).unwrap();
        world.take();
        if from_inside {
            all.end_mounts(&fs, LONG);
        } else {
            drop(mount);
        }
        let mut trace = world.take();
        assert_eq!(trace.pop().as_deref(), Some("kill_sb x"));
        trace.sort();
        assert_eq!(trace, ["release 2 20", "release 3 30"]);
    }
}
