//! Sets of sysctl tables: registration, directories, permissions, and the end of a table (K7.1 to K7.6, K7.12).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use pernet_plugin_api::ExitReason;

use super::knobs::*;
use super::recorder::*;
use crate::engine::*;

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EACCES: i32 = 13;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const ENOTDIR: i32 = 20;
const EINVAL: i32 = 22;
const EDEADLK: i32 = 35;
const ETIMEDOUT: i32 = 110;
const ESTALE: i32 = 116;

const OTHER: Credentials = Credentials { uid: 1000, gid: 1000, privileged: false };

/// A plugin that acts in two namespaces.
struct Two {
    _world: Arc<World>,
    list: PernetList,
    nets: [Arc<Net>; 2],
    owner: Arc<Owner>,
}

fn two() -> Two {
    let (world, list) = (World::new(), PernetList::new());
    let owner = add(&list, world.plugin("a", 0).subsys(), &[]).owner.clone();
    let nets = [world.net(1, &[]), world.net(2, &[])];
    nets.iter().for_each(|net| assert_eq!(set_up(&list, net).state, NetState::Live));
    Two { _world: world, list, nets, owner }
}

impl Two {
    fn register(&self, net: usize, path: &str, names: &[&str], data: &Arc<Memory>) -> Result<Arc<CtlHeader>, Failure> {
        register_net_sysctl(&self.nets[net], &self.owner, path, ints(names, data), |_| ())
    }
}

fn put(set: &CtlSet, path: &str, names: &[&str]) -> Result<Arc<CtlHeader>, Failure> {
    set.register(path, ints(names, &Memory::new()), |_| ())
}

fn open(set: &CtlSet, path: &str) -> CtlFile {
    CtlFile::open(found(set, path), &ROOT, CtlAccess::ReadWrite).unwrap()
}

#[test]
fn k7_1_each_net_has_a_set_of_its_own() {
    let two = two();
    let (one, other) = (Memory::new(), Memory::new());
    two.register(0, "a/b", &["n"], &one).unwrap();
    assert_eq!(two.nets[1].sysctl().look("a/b/n").unwrap_err().errno, ENOENT);
    two.register(1, "a/b", &["n"], &other).unwrap();
    open(two.nets[0].sysctl(), "a/b/n").write(&ROOT, b"7").unwrap();
    assert_eq!((one.number(0, 0), other.number(0, 0)), (7, 0));
}

#[test]
fn k7_1_an_open_file_keeps_belonging_to_the_net_and_table_of_open_time() {
    let two = two();
    let (old, new) = (Memory::new(), Memory::new());
    let header = two.register(0, "a", &["n"], &old).unwrap();
    let file = open(two.nets[0].sysctl(), "a/n");
    assert!(file.node().header().net().is_some_and(|net| Arc::ptr_eq(&net, &two.nets[0])));
    two.nets[0].sysctl().unregister(&header, PATIENCE).unwrap();
    two.register(0, "a", &["n"], &new).unwrap();
    assert_eq!(file.write(&ROOT, b"7").unwrap_err().errno, ENOENT, "not the one that is there now");
    assert_eq!((old.number(0, 0), new.number(0, 0)), (0, 0));
}

#[test]
fn k7_2_a_table_with_a_fault_is_not_registered() {
    let set = CtlSet::default();
    let long = "x".repeat(256);
    let named = |name: &str| entry(name, CtlKind::Int);
    let faulty = [
        named(""),
        named("."),
        named(".."),
        named("a/b"),
        named("a b"),
        named("a\nb"),
        named("a=b"),
        named("a:b"),
        named("a*"),
        named("-a"),
        named(&long),
        mode(0o755),
        mode(0o1644),
        mode(0o611),
        vector("n", CtlKind::Int, 0),
        vector("n", CtlKind::Int, 1025),
        vector("n", CtlKind::Uint, 2),
        vector("n", CtlKind::Bool, 2),
        vector("n", CtlKind::Uint, 0),
        vector("n", CtlKind::Text, 1),
        vector("n", CtlKind::Text, 4097),
        bounded(CtlKind::Int, 1, 5, 4),
        bounded(CtlKind::Int, 1, -2_147_483_649, 0),
        bounded(CtlKind::Uint, 1, -1, 5),
        bounded(CtlKind::Uint, 1, 0, 1 << 32),
        bounded(CtlKind::Ulong, 1, 0, 1 << 64),
        bounded(CtlKind::Bool, 1, 0, 1),
        bounded(CtlKind::Text, 8, 0, 1),
        bounded(CtlKind::Own, 0, 0, 1),
    ];
    for fault in faulty {
        let data = Memory::new();
        let entries = [entry("good", CtlKind::Int), fault.clone(), entry("also", CtlKind::Int)];
        let refused = set.register("a/b", table(&entries, &data), |_| panic!("nothing to give values to")).unwrap_err();
        assert_eq!(refused.errno, EINVAL, "{fault:?}: {refused}");
        assert!(refused.message.contains("entry 1"), "{refused}");
        assert_eq!(tree(&set), Vec::<String>::new(), "{fault:?}");
        assert_eq!(data.times_freed(), 0, "it stays the caller's");
    }
}

#[test]
fn k7_2_a_bad_path_is_refused() {
    let set = CtlSet::default();
    for path in ["", "/", "a/", "/a", "a//b", "a/../b", "a/./b", "a b", "a/b=c", "a:b", "a/*", "a\t"] {
        let refused = put(&set, path, &["n"]).unwrap_err();
        assert_eq!(refused.errno, EINVAL, "{path:?}: {refused}");
        assert_eq!(tree(&set), Vec::<String>::new());
    }
}

#[test]
fn k7_2_a_duplicate_is_refused_and_nothing_of_its_table_stays() {
    let set = CtlSet::default();
    put(&set, "a/b", &["n"]).unwrap();
    put(&set, "a/c/d", &["m"]).unwrap();
    let before = tree(&set);
    for (path, names, errno) in [
        ("a/b", vec!["x", "n", "y"], EEXIST),
        ("a/b", vec!["x", "x"], EEXIST),
        ("e", vec!["x", "y", "x"], EEXIST),
        ("a", vec!["x", "b"], EEXIST),
        ("a", vec!["x", "c"], EEXIST),
        ("a/b/n", vec!["x"], ENOTDIR),
        ("a/b/n/deep", vec!["x"], ENOTDIR),
    ] {
        let refused = put(&set, path, &names).unwrap_err();
        assert_eq!(refused.errno, errno, "{path} {names:?}: {refused}");
        assert_eq!(tree(&set), before, "{path} {names:?}");
    }
    let said = put(&set, "a/b", &["n"]).unwrap_err().message;
    assert_eq!(said, "sysctl duplicate entry: a/b/n");
}

#[test]
fn k7_2_registration_asks_whether_the_plugin_acts() {
    let two = two();
    let data = Memory::new();
    let stranger = Arc::new(Owner::new("b", 1, 9));
    let refused = register_net_sysctl(&two.nets[0], &stranger, "a", ints(&["n"], &data), |_| ()).unwrap_err();
    assert_eq!(refused.errno, ESTALE);
    assert_eq!(clean_up(&two.list, &two.nets[0], ExitReason::Died), []);
    assert_eq!(two.register(0, "a", &["n"], &data).unwrap_err().errno, ENODEV);
    assert_eq!(tree(two.nets[0].sysctl()), Vec::<String>::new());
}

#[test]
fn k7_2_nobody_sees_a_table_before_it_has_its_first_values() {
    let set = Arc::new(CtlSet::default());
    let data = Memory::new();
    let before = |header: &Arc<CtlHeader>| {
        assert_eq!(set.look("a/n").unwrap_err().errno, ENOENT);
        assert!(set.below("").is_empty() && set.tables().is_empty());
        assert_eq!(put(&set, "a", &["n"]).unwrap_err().errno, EEXIST, "its place is taken all the same");
        CtlNode::all_of(header).for_each(|node| assert_eq!(node.set(b"5\n").unwrap(), 2));
    };
    set.register("a", ints(&["n"], &data), before).unwrap();
    assert_eq!(open(&set, "a/n").read(&ROOT, 9).unwrap(), b"5\n");
}

#[test]
fn k7_3_directories_come_with_the_first_table_and_go_with_the_last() {
    let set = CtlSet::default();
    let deep = put(&set, "a/b/c", &["n"]).unwrap();
    let middle = put(&set, "a/b", &["m"]).unwrap();
    let again = put(&set, "a/b/c", &["o"]).unwrap();
    let empty = put(&set, "a/e", &[]).unwrap();
    assert_eq!(tree(&set), ["a/", "a/b/", "a/b/c/", "a/b/c/n", "a/b/c/o", "a/b/m", "a/e/"]);
    let end = |header: &Arc<CtlHeader>| set.unregister(header, PATIENCE).unwrap();
    end(&deep);
    assert_eq!(tree(&set), ["a/", "a/b/", "a/b/c/", "a/b/c/o", "a/b/m", "a/e/"]);
    end(&again);
    assert_eq!(tree(&set), ["a/", "a/b/", "a/b/m", "a/e/"]);
    end(&middle);
    assert_eq!(tree(&set), ["a/", "a/e/"], "a table without entries keeps its directory");
    end(&empty);
    assert_eq!(tree(&set), Vec::<String>::new());
    assert_eq!(set.unregister(&deep, PATIENCE).unwrap_err().errno, ENOENT, "once only");
}

/// The kernel takes the write bits of a table in another net than its own that points to static memory. Here a table
/// never points anywhere: what stands behind two tables is the same only if their author gave it to both.
#[test]
fn k7_4_what_two_nets_share_is_shared_on_purpose_and_stays_writable() {
    let two = two();
    let shared = Memory::new();
    two.register(0, "a", &["n"], &shared).unwrap();
    let header = two.register(1, "a", &["n"], &shared).unwrap();
    assert_eq!(found(two.nets[1].sysctl(), "a/n").entry().mode, 0o644);
    open(two.nets[1].sysctl(), "a/n").write(&ROOT, b"9").unwrap();
    assert_eq!(open(two.nets[0].sysctl(), "a/n").read(&ROOT, 9).unwrap(), b"9\n");
    two.nets[1].sysctl().unregister(&header, PATIENCE).unwrap();
    assert!(open(two.nets[0].sysctl(), "a/n").read(&ROOT, 9).is_ok());
}

#[test]
fn k7_5_which_bits_count_for_whom() {
    let who = |uid, gid, privileged| Credentials { uid, gid, privileged };
    let owner = [who(0, 5, false), who(1000, 1000, true), who(0, 0, true)];
    let group = [who(1000, 0, false)];
    let others = [who(1000, 1000, false)];
    for (mode, class, read, write) in [
        (0o600, &owner[..], true, true),
        (0o600, &group[..], false, false),
        (0o600, &others[..], false, false),
        (0o644, &owner[..], true, true),
        (0o644, &group[..], true, false),
        (0o644, &others[..], true, false),
        (0o662, &group[..], true, true),
        (0o662, &others[..], false, true),
        (0o066, &owner[..], false, false),
        (0o444, &owner[..], true, false),
        (0o200, &owner[..], false, true),
        (0o000, &owner[..], false, false),
    ] {
        for who in class {
            assert_eq!(sysctl_perm(mode, who, CtlAccess::Read), read, "{mode:o} {who:?}");
            assert_eq!(sysctl_perm(mode, who, CtlAccess::Write), write, "{mode:o} {who:?}");
            assert_eq!(sysctl_perm(mode, who, CtlAccess::ReadWrite), read && write, "{mode:o} {who:?}");
            assert!(!sysctl_perm(mode, who, CtlAccess::Execute));
        }
    }
}

#[test]
fn k7_5_open_is_refused_with_eacces_and_a_later_access_with_eperm() {
    let knob = Knob::new(mode(0o644));
    let opened = |who: &Credentials, access| CtlFile::open(knob.node(), who, access).map_err(|failure| failure.errno);
    assert_eq!(opened(&OTHER, CtlAccess::Write).err(), Some(EACCES));
    assert_eq!(opened(&OTHER, CtlAccess::Execute).err(), Some(EACCES));
    assert_eq!(opened(&ROOT, CtlAccess::Execute).err(), Some(EACCES));
    // Opened by somebody who may, and handed on: judged again, by who asks.
    let file = opened(&ROOT, CtlAccess::ReadWrite).unwrap();
    assert_eq!(file.write(&OTHER, b"5").unwrap_err().errno, EPERM);
    assert_eq!(file.read(&OTHER, 9).unwrap(), b"0\n");
    let fixed = Knob::new(mode(0o444));
    assert_eq!(CtlFile::open(fixed.node(), &ROOT, CtlAccess::Write).unwrap_err().errno, EACCES, "not to root either");
    assert_eq!(fixed.node().set(b"5\n").unwrap_err().errno, EACCES, "nor to the daemon itself");
    let file = CtlFile::open(fixed.node(), &ROOT, CtlAccess::Read).unwrap();
    assert_eq!(file.write(&ROOT, b"5").unwrap_err().errno, EPERM);
    assert_eq!(fixed.data.calls.load(Ordering::SeqCst), 0, "no handler was asked");
}

/// A handler that says when it is in, and stays until it is let go.
fn holding(data: &Memory) -> (std::sync::mpsc::Receiver<()>, std::sync::mpsc::Sender<()>) {
    let (told, is_in) = channel();
    let (let_go, held) = channel::<()>();
    let held = std::sync::Mutex::new(held);
    data.at_each(move |what| {
        if what == "load" {
            told.send(()).unwrap();
            held.lock().unwrap().recv().unwrap();
        }
        Ok(())
    });
    (is_in, let_go)
}

#[test]
fn k7_6_unregister_waits_for_handlers_in_flight_and_frees_once() {
    let knob = Knob::new(entry("n", CtlKind::Int));
    let (is_in, let_go) = holding(&knob.data);
    let (file, again) = (knob.file(), knob.file());
    thread::scope(|scope| {
        let reader = scope.spawn(|| file.read(&ROOT, 9));
        is_in.recv_timeout(PATIENCE).unwrap();
        let (set, header) = (&knob.set, knob.node().header().clone());
        let unregister = scope.spawn(move || set.unregister(&header, PATIENCE));
        // It is out of sight at once, and lets nobody in.
        while knob.set.look("dir/n").is_ok() {
            thread::yield_now();
        }
        assert_eq!(again.read(&ROOT, 9).unwrap_err().errno, ENOENT);
        assert_eq!(again.write(&ROOT, b"5").unwrap_err().errno, ENOENT);
        assert_eq!((knob.data.times_freed(), unregister.is_finished()), (0, false), "somebody is in it");
        let_go.send(()).unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), b"0\n", "who was in gets his answer");
        unregister.join().unwrap().unwrap();
    });
    assert_eq!(knob.data.times_freed(), 1);
}

#[test]
fn k7_6_the_wait_is_bounded_and_the_last_handler_frees() {
    let knob = Knob::new(entry("n", CtlKind::Int));
    let (is_in, let_go) = holding(&knob.data);
    let file = knob.file();
    thread::scope(|scope| {
        let reader = scope.spawn(|| file.read(&ROOT, 9));
        is_in.recv_timeout(PATIENCE).unwrap();
        let refused = knob.set.unregister(knob.node().header(), Duration::from_millis(1)).unwrap_err();
        assert_eq!(refused.errno, ETIMEDOUT, "{refused}");
        assert_eq!((tree(&knob.set), knob.data.times_freed()), (Vec::new(), 0));
        let_go.send(()).unwrap();
        reader.join().unwrap().unwrap();
    });
    assert_eq!(knob.data.times_freed(), 1);
}

#[test]
fn k7_6_a_handler_cannot_unregister_its_own_table() {
    let knob = Arc::new(Knob::new(entry("n", CtlKind::Int)));
    let (inner, answers) = (knob.clone(), Arc::new(std::sync::Mutex::new(Vec::new())));
    let noted = answers.clone();
    knob.data.at_each(move |what| {
        if what == "store" {
            let refused = inner.set.unregister(inner.node().header(), PATIENCE).unwrap_err();
            noted.lock().unwrap().push(refused.errno);
            assert!(!in_unregistered_table());
        }
        Ok(())
    });
    knob.write("5").unwrap();
    assert_eq!(*answers.lock().unwrap(), [EDEADLK]);
    assert_eq!(knob.read(), "5\n", "it is there still");
    knob.data.at_each(|_| Ok(()));
    knob.set.unregister(knob.node().header(), PATIENCE).unwrap();
}

#[test]
fn k7_6_a_handler_may_unregister_another_table_and_is_told_of_its_own_end() {
    let knob = Arc::new(Knob::new(entry("n", CtlKind::Int)));
    let other = put(&knob.set, "other", &["m"]).unwrap();
    let (told, is_in) = channel();
    let inner = knob.clone();
    knob.data.at_each(move |what| {
        if what == "load" {
            inner.set.unregister(&other, PATIENCE).unwrap();
            told.send(()).unwrap();
            while !in_unregistered_table() {
                thread::yield_now();
            }
        }
        Ok(())
    });
    let (header, file) = (knob.node().header().clone(), knob.file());
    thread::scope(|scope| {
        scope.spawn(|| file.read(&ROOT, 9).unwrap());
        is_in.recv_timeout(PATIENCE).unwrap();
        knob.set.unregister(&header, PATIENCE).unwrap();
    });
    assert_eq!(tree(&knob.set), Vec::<String>::new());
    knob.data.at_each(|_| Ok(()));
}

#[test]
fn k7_6_what_a_plugin_leaves_at_a_net_s_end_is_unregistered_and_told() {
    let two = two();
    let (left, kept) = (Memory::new(), Memory::new());
    two.register(0, "a/b", &["n"], &left).unwrap();
    two.register(0, "c", &["m"], &left).unwrap();
    two.register(1, "a/b", &["n"], &kept).unwrap();
    let file = open(two.nets[0].sysctl(), "a/b/n");
    let errors = clean_up(&two.list, &two.nets[0], ExitReason::Died);
    let said: Vec<_> = errors.iter().map(|e| (&*e.plugin, e.hook, e.failure.errno, &*e.failure.message)).collect();
    let told = |path: &'static str| ("a", "sysctl.unregister", EBUSY, path);
    assert_eq!(
        said,
        [
            told("it left the sysctl table c registered; it is unregistered now"),
            told("it left the sysctl table a/b registered; it is unregistered now"),
        ]
    );
    assert_eq!(file.read(&ROOT, 9).unwrap_err().errno, ENOENT);
    assert_eq!((tree(two.nets[0].sysctl()), left.times_freed()), (Vec::new(), 2));
    assert_eq!((tree(two.nets[1].sysctl()).len(), kept.times_freed()), (3, 0), "the other net is another matter");
}

#[test]
fn k7_6_what_a_plugin_leaves_when_it_goes_is_unregistered_in_every_net() {
    let two = two();
    let data = Memory::new();
    let own = two.nets[0].sysctl().register("own", ints(&["n"], &Memory::new()), |_| ()).unwrap();
    for net in 0..2 {
        two.register(net, "a", &["n"], &data).unwrap();
    }
    let (_, errors) = unregister(&write(&two.list), "a", &two.nets, ExitReason::Removed);
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert_eq!(data.times_freed(), 2);
    assert_eq!(tree(two.nets[0].sysctl()), ["own/", "own/n"], "the daemon's own stays");
    assert_eq!(own.plugin(), "pernetd");
}

#[test]
fn k7_6_a_handler_that_hangs_holds_up_a_net_s_end_no_longer_than_configured() {
    let two = two();
    two.list.set_unregister_timeout(Duration::from_millis(1));
    let data = Memory::new();
    two.register(0, "a", &["n"], &data).unwrap();
    let (is_in, let_go) = holding(&data);
    let file = open(two.nets[0].sysctl(), "a/n");
    thread::scope(|scope| {
        let reader = scope.spawn(|| file.read(&ROOT, 9));
        is_in.recv_timeout(PATIENCE).unwrap();
        let errors = clean_up(&two.list, &two.nets[0], ExitReason::Died);
        let errnos: Vec<_> = errors.iter().map(|e| e.failure.errno).collect();
        assert_eq!((errnos, data.times_freed()), (vec![EBUSY, ETIMEDOUT], 0));
        let_go.send(()).unwrap();
        reader.join().unwrap().unwrap();
    });
    assert_eq!(data.times_freed(), 1);
}

#[test]
fn k7_6_a_net_that_ends_while_a_table_comes_leaves_nothing() {
    let two = two();
    let data = Memory::new();
    let (told, coming) = channel();
    let (go_on, wait) = channel::<()>();
    thread::scope(|scope| {
        let (nets, owner, data) = (&two.nets, &two.owner, &data);
        let list = &two.list;
        let registers = scope.spawn(move || {
            register_net_sysctl(&nets[0], owner, "a", ints(&["n"], data), |header| {
                told.send(()).unwrap();
                wait.recv().unwrap();
                // What it is given then goes nowhere, and nothing has been freed under it.
                assert_eq!(data.times_freed(), 0);
                CtlNode::all_of(header).for_each(|node| assert_eq!(node.set(b"5\n").unwrap_err().errno, ENOENT));
            })
        });
        coming.recv_timeout(PATIENCE).unwrap();
        let ends = scope.spawn(move || clean_up(list, &nets[0], ExitReason::Died));
        // Once it is out, its place is free.
        let set = nets[0].sysctl();
        let is_out = || put(set, "a", &["n"]).map(|other| set.unregister(&other, PATIENCE).unwrap()).is_ok();
        while !is_out() {
            thread::yield_now();
        }
        go_on.send(()).unwrap();
        registers.join().unwrap().unwrap();
        assert_eq!(ends.join().unwrap().len(), 1);
    });
    assert_eq!((tree(two.nets[0].sysctl()), data.times_freed()), (Vec::new(), 1));
}

#[test]
fn k7_12_no_lock_is_held_while_a_handler_runs() {
    let knob = Arc::new(Knob::new(entry("n", CtlKind::Int)));
    let inner = knob.clone();
    knob.data.at_each(move |what| {
        if what == "load" {
            // All of this would wait for itself otherwise.
            let header = put(&inner.set, "dir/below", &["m"]).unwrap();
            assert_eq!(tree(&inner.set).len(), 4);
            inner.set.unregister(&header, PATIENCE).unwrap();
            assert_eq!(inner.write("4"), Ok(1));
        }
        Ok(())
    });
    assert_eq!(knob.read(), "4\n");
}

#[test]
fn k7_12_two_writers_race_by_element() {
    let knob = Knob::new(vector("n", CtlKind::Int, 8));
    let start = Barrier::new(2);
    thread::scope(|scope| {
        for value in ["1", "2"] {
            let (knob, start) = (&knob, &start);
            scope.spawn(move || {
                let line = [value; 8].join(" ");
                start.wait();
                for _ in 0..500 {
                    assert_eq!(knob.write(&line), Ok(line.len()));
                }
            });
        }
    });
    assert!((0..8).all(|index| [1, 2].contains(&knob.data.number(0, index))));
}

#[test]
fn k7_12_readers_and_writers_while_tables_come_and_go() {
    let set = CtlSet::default();
    let (data, done) = (Memory::new(), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let Ok(CtlFound::Entry(node)) = set.look("a/b/n") else { continue };
                    let file = CtlFile::open(node, &ROOT, CtlAccess::ReadWrite).unwrap();
                    for answer in [file.write(&ROOT, b"5").map(drop), file.read_at(&ROOT, &mut 0, 9).map(drop)] {
                        assert!(answer.is_ok() || answer.unwrap_err().errno == ENOENT);
                    }
                }
            });
        }
        for _ in 0..300 {
            let header = set.register("a/b", ints(&["n"], &data), |_| ()).unwrap();
            set.unregister(&header, PATIENCE).unwrap();
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!((tree(&set), data.times_freed()), (Vec::new(), 300));
}
