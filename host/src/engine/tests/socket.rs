//! K6.6 and K6.9: sockets and their inodes; and what becomes of a socket that is left open.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use pernet_plugin_api::ExitReason;
use proptest::prelude::*;

use super::recorder::*;
use super::sock::*;
use crate::engine::*;

/// `SOCK_NONBLOCK`.
const NONBLOCK: i32 = 0o4000;

#[test]
fn k6_6_each_socket_is_an_inode_whose_number_never_comes_back() {
    let room = room();
    let first = room.made(1, &room.a);
    let second = room.made(2, &room.b);
    assert_eq!((first.to_string(), second.to_string()), ("socket:[2]".into(), "socket:[3]".into()), "1 is the root's");
    assert_eq!(SOCK_MODE, 0o140_777);
    assert_eq!((&*first.owner.name, first.cookie.0, &*first.netns()), ("a", 1, "ns1"));
    assert_eq!((first.family.to_string(), first.kind, first.protocol), ("inet".into(), DGRAM, 0));
    let (a, b) = (first.ino(), second.ino());
    drop((first, second));
    room.release(&room.a, a).unwrap();
    assert_eq!(room.made(1, &room.a).ino(), b + 1);
    assert_eq!(room.inos(), [b, b + 1]);
}

#[test]
fn k6_6_a_socket_is_closed_before_its_inode_is_given_back_and_once() {
    let room = room();
    let fs = SockFs::new(1, (5, 6));
    let one = sock_create(&fs, room.net(1), &room.a, udp(), Instant::now()).unwrap();
    let ino = one.ino();
    // Somebody looks at it while it is released: it is closed when he has looked away.
    sock_release(&fs, &room.a, ino).unwrap();
    assert_eq!((room.world.socks.open(), fs.in_use()), (vec![1], 1));
    assert_eq!(errno(sock_create(&fs, room.net(1), &room.a, udp(), Instant::now())), ENFILE);
    drop(one);
    assert_eq!((room.world.socks.open(), fs.in_use()), (vec![], 0));
    assert_eq!(errno(sock_release(&fs, &room.a, ino)), EBADF, "once");
    assert_eq!(room.world.take(), ["k.socket(2,2)@1", "k.close(1)@1"]);
}

#[test]
fn only_whose_it_is_releases_a_socket() {
    let room = room();
    let ino = room.made(1, &room.a).ino();
    for (owner, ino) in [(&room.b, ino), (&room.a, ino + 1), (&room.a, 0)] {
        assert_eq!(errno(room.release(owner, ino)), EBADF);
    }
    assert_eq!(room.world.socks.open().len(), 1);
    room.release(&room.a, ino).unwrap();
    room.assert_empty();
}

#[test]
fn k6_9_arguments_are_judged_before_anything_is_taken() {
    let room = room();
    let spec = |family, kind| SockSpec { family, kind, protocol: 0 };
    for (family, kind, expected) in [
        (-1, DGRAM, EAFNOSUPPORT),
        (65_536, DGRAM, EAFNOSUPPORT),
        // The family comes first.
        (-1, -1, EAFNOSUPPORT),
        (INET, -1, 22),
        (INET, 11, 22),
        (INET, DGRAM | 0x40, 22),
    ] {
        assert_eq!(errno(room.create(1, &room.a, spec(family, kind))), expected, "{family} {kind}");
    }
    assert_eq!(room.world.take(), Vec::<String>::new(), "the kernel is not asked");
    let socket = room.create(1, &room.a, spec(INET, STREAM | NONBLOCK)).unwrap();
    assert_eq!(socket.kind, STREAM);
}

#[test]
fn k6_9_what_fails_gives_back_what_was_taken_before() {
    let room = room();
    // The kernel has no such family: the inode goes back.
    room.world.fail("k.socket(2,2)@1");
    assert_eq!(errno(room.create(1, &room.a, udp())), ODD);
    room.assert_empty();
    room.world.heal();
    // No inode: nothing is made.
    let all: Vec<_> = (0..8).map(|_| room.made(1, &room.a)).collect();
    room.world.take();
    assert_eq!(errno(room.create(1, &room.a, udp())), ENFILE);
    assert_eq!(room.world.take(), Vec::<String>::new());
    drop(all);
    room.inos().into_iter().for_each(|ino| room.release(&room.a, ino).unwrap());
    room.assert_empty();
    // The plugin leaves while the socket is made: nobody would ever shut it.
    let (list, net) = (room.list.clone(), room.net(2).clone());
    room.world.at("k.socket(2,2)@1", move |here| {
        assert_eq!(here.cookie.0, 1);
        clean_up(&list, &net, ExitReason::Died);
    });
    let left = sock_create(&room.fs, room.net(1), &room.a, udp(), Instant::now()).unwrap();
    assert!(!left.is_shut(), "another namespace's end is nothing to it");
    room.world.heal();
    let (list, net) = (room.list.clone(), room.net(1).clone());
    room.world.at("k.socket(2,2)@1", move |_| drop(clean_up(&list, &net, ExitReason::Died)));
    assert_eq!(errno(room.create(1, &room.b, udp())), 116);
    assert!(left.is_shut());
    assert_eq!(room.world.socks.keeping(1), Vec::<i32>::new());
    drop(left);
    assert_eq!((sock_release_all(&room.fs, &room.a), sock_release_all(&room.fs, &room.b)), (1, 0));
    room.assert_empty();
}

#[test]
fn a_namespace_that_is_going_has_no_sockets_but_those_of_its_own_exits() {
    let room = room();
    room.net(1).mark_dying();
    assert_eq!(errno(room.create(1, &room.a, udp())), 116);
    let (fs, owner) = (room.fs.clone(), room.a.clone());
    let nets = room.nets.clone();
    room.world.at("a.exit0@1", move |_| {
        let socket = sock_create(&fs, &nets[0], &owner, udp(), Instant::now()).unwrap();
        sock_create(&fs, &nets[0], &owner, udp(), Instant::now()).unwrap();
        sock_release(&fs, &owner, socket.ino()).unwrap();
    });
    room.world.take();
    clean_up(&room.list, room.net(1), ExitReason::Died);
    // The areas are dropped first, and what is left after them is shut.
    let story: Vec<_> = room.world.take().into_iter().skip_while(|call| call != "a.exit0@1:Died").collect();
    let expected = [
        "a.exit0@1:Died",
        "k.socket(2,2)@1",
        "k.socket(2,2)@1",
        "k.close(1)@1",
        "a.batch0@1:Died",
        "b.free1@1",
        "b.free0@1",
        "a.free0@1",
        "k.left(2)@1",
        "k.shut(2)@1",
    ];
    assert_eq!(story, expected);
    assert_eq!(errno(room.create(1, &room.a, udp())), 116);
}

#[test]
fn what_a_plugin_leaves_open_is_shut_when_it_goes_from_the_namespace_and_nobody_elses() {
    let room = room();
    let (a1, a2, b1) = (room.made(1, &room.a), room.made(2, &room.a), room.made(1, &room.b));
    let released = room.made(1, &room.a);
    room.release(&room.a, released.ino()).unwrap();
    drop(released);
    room.world.take();
    // From one namespace.
    clean_up(&room.list, room.net(1), ExitReason::Died);
    assert_eq!((a1.is_shut(), a2.is_shut(), b1.is_shut()), (true, false, true));
    assert_eq!(room.world.take_only("k."), ["k.left(3)@1", "k.shut(3)@1", "k.left(1)@1", "k.shut(1)@1"]);
    assert_eq!((room.world.socks.keeping(1), room.world.socks.keeping(2)), (vec![], vec![2]));
    // It is listed until it is released, under the name that the namespace had.
    assert_eq!(room.inos(), [2, 3, 4]);
    assert_eq!(&*a1.netns(), "ns1");
    room.release(&room.a, a1.ino()).unwrap();
    // Everywhere.
    unregister(&write(&room.list), "a", &room.nets, ExitReason::Removed);
    assert!(a2.is_shut());
    assert_eq!(errno(room.create(2, &room.a, udp())), 116);
    assert_eq!(sock_release_all(&room.fs, &room.a), 1);
    drop((a1, a2));
    assert_eq!(room.inos(), [b1.ino()]);
    assert_eq!(room.world.socks.open(), [3], "b's is shut, and its number still b's");
}

#[test]
fn whatever_ends_a_plugin_somewhere_shuts_its_sockets_there() {
    // A failed setup.
    let room = room();
    let leak = |room: &Room, call: &str| {
        let (fs, owner, nets) = (room.fs.clone(), room.a.clone(), room.nets.clone());
        room.world.at(call, move |net| {
            let net = nets.iter().find(|known| known.cookie == net.cookie).expect("one of them");
            drop(sock_create(&fs, net, &owner, udp(), Instant::now()).unwrap());
        });
    };
    clean_up(&room.list, room.net(1), ExitReason::Died);
    let mut room = room;
    room.nets[0] = room.world.life(1, 2);
    leak(&room, "a.init0@1");
    room.world.fail("b.init0@1");
    assert_eq!(set_up(&room.list, room.net(1)).state, NetState::Failed);
    assert_eq!(room.world.take_only("k.shut").len(), 1, "the setup was rolled back");
    room.world.heal();
    assert_eq!(set_up(&room.list, room.net(1)).state, NetState::Live);
    // A registration that fails in the second namespace.
    let (fs, nets) = (room.fs.clone(), room.nets.clone());
    let member = room.world.plugin("c", 2).subsys().build();
    let owner = member.owner.clone();
    room.world.at("c.init0@1", move |_| drop(sock_create(&fs, &nets[0], &owner, udp(), Instant::now()).unwrap()));
    room.world.fail("c.init0@2");
    room.world.take();
    register(&write(&room.list), member, &room.nets).unwrap_err();
    assert_eq!(room.world.take_only("k.shut").len(), 1);
    room.world.heal();
    // The daemon's end.
    let last = room.made(2, &room.b);
    cleanup_all(&write(&room.list), &room.nets, ExitReason::Stopped);
    assert!(last.is_shut());
    assert_eq!((room.world.socks.keeping(1), room.world.socks.keeping(2)), (vec![], vec![]));
}

#[test]
fn a_plugin_that_a_change_of_names_drives_out_leaves_no_socket() {
    let (world, list) = (World::new(), PernetList::new());
    let a = add(&list, world.plugin("a", 0).subsys().only(|net| &*net.name() != "red"), &[]).owner.clone();
    let net = world.net(1, &["lo"]);
    set_up(&list, &net);
    let fs = SockFs::new(2, (5, 6));
    let socket = sock_create(&fs, &net, &a, udp(), Instant::now()).unwrap();
    net.set_names(vec!["red".into()]);
    rejudge_net(&list.read().unwrap(), &net);
    assert!(socket.is_shut());
    assert_eq!(errno(sock_create(&fs, &net, &a, udp(), Instant::now())), 116);
    assert_eq!(&*socket.netns(), "red", "the namespace lives on");
}

#[test]
fn a_socket_that_cannot_be_shut_is_complained_about_and_stops_nobody() {
    let room = room();
    let (one, other) = (room.made(1, &room.a), room.made(1, &room.a));
    room.world.fail("k.shut(1)@1");
    let errors = clean_up(&room.list, room.net(1), ExitReason::Died);
    assert_eq!(errors.iter().map(|e| e.hook).collect::<Vec<_>>(), ["sock.release"]);
    assert!(one.is_shut() && other.is_shut());
    assert_eq!(room.world.take_only("k.shut"), ["k.shut(1)@1", "k.shut(2)@1"]);
}

#[test]
fn sockets_are_made_by_many_threads_at_once() {
    let room = room();
    let fs = SockFs::new(100, (5, 6));
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (fs, room, refused) = (&fs, &room, &refused);
            scope.spawn(move || {
                for n in 0..50 {
                    match sock_create(fs, room.net(1 + (n + thread) % 2), &room.a, udp(), Instant::now()) {
                        Ok(_) => {}
                        Err(failure) => {
                            assert_eq!(failure.errno, ENFILE);
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    assert_eq!((fs.in_use(), fs.sockets().len(), refused.into_inner()), (100, 100, 100));
    assert_eq!(sock_release_all(&fs, &room.a), 100);
    assert_eq!((fs.in_use(), room.world.socks.open()), (0, vec![]));
}

#[derive(Clone, Debug)]
enum Act {
    Create(usize, bool),
    Release(usize),
    Leave(usize, bool),
    Enter(bool),
    End(bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (1..3usize, any::<bool>()).prop_map(|(net, b)| Act::Create(net, b)),
        4 => (0..8usize).prop_map(Act::Release),
        1 => (1..3usize, any::<bool>()).prop_map(|(net, b)| Act::Leave(net, b)),
        1 => any::<bool>().prop_map(Act::Enter),
        1 => any::<bool>().prop_map(Act::End),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// A model of who has which socket, in which state. That each is shut at most once and closed once, the descriptors
    /// themselves assert.
    #[test]
    fn every_socket_ends_once_whatever_happens(acts in prop::collection::vec(act(), 1..60)) {
        let room = room();
        let owner = |b: bool| if b { &room.b } else { &room.a };
        let mut here = BTreeMap::from([((1, false), true), ((1, true), true), ((2, false), true), ((2, true), true)]);
        // By number: net, plugin, shut.
        let mut model: BTreeMap<u64, (usize, bool, bool)> = BTreeMap::new();
        for act in acts {
            match act {
                Act::Create(net, b) => match room.create(net, owner(b), udp()) {
                    Ok(socket) => {
                        prop_assert!(here[&(net, b)] && model.len() < 8);
                        prop_assert!(model.last_key_value().is_none_or(|(last, _)| *last < socket.ino()));
                        model.insert(socket.ino(), (net, b, false));
                    }
                    Err(failure) => prop_assert_eq!(failure.errno, if here[&(net, b)] { ENFILE } else { 116 }),
                },
                Act::Release(nth) => {
                    let Some((ino, (_, b, _))) = model.iter().nth(nth).map(|(ino, it)| (*ino, *it)) else { continue };
                    prop_assert!(room.release(owner(!b), ino).is_err());
                    prop_assert!(room.release(owner(b), ino).is_ok());
                    model.remove(&ino);
                }
                Act::Leave(net, b) => {
                    // As a registration's end in one namespace.
                    let (name, nets) = (owner(b).name.clone(), [room.net(net).clone()]);
                    let Some(member) = unregister(&write(&room.list), &name, &nets, ExitReason::Removed).0 else { continue };
                    register(&write(&room.list), member, &[]).unwrap();
                    here.insert((net, b), false);
                    model.values_mut().filter(|it| (it.0, it.1) == (net, b)).for_each(|it| it.2 = true);
                }
                Act::Enter(b) => {
                    let name = owner(b).name.clone();
                    let Some(member) = unregister(&write(&room.list), &name, &[], ExitReason::Removed).0 else { continue };
                    let absent: Vec<_> = [1, 2].into_iter().filter(|net| !here[&(*net, b)]).collect();
                    let nets: Vec<_> = absent.iter().map(|net| room.net(*net).clone()).collect();
                    register(&write(&room.list), member, &nets).unwrap();
                    here.extend(absent.into_iter().map(|net| ((net, b), true)));
                }
                Act::End(b) => {
                    // The instance has ended where it is nowhere any more.
                    if [1, 2].iter().all(|net| !here[&(*net, b)]) {
                        let count = model.values().filter(|it| it.1 == b).count();
                        prop_assert_eq!(sock_release_all(&room.fs, owner(b)), count);
                        model.retain(|_, it| it.1 != b);
                    }
                }
            }
            let seen: Vec<_> = room.fs.sockets().iter().map(|it| (it.ino(), it.is_shut())).collect();
            let expected: Vec<_> = model.iter().map(|(ino, it)| (*ino, it.2)).collect();
            prop_assert_eq!(seen, expected);
            prop_assert_eq!((room.fs.in_use(), room.world.socks.open().len()), (model.len(), model.len()));
            for net in [1, 2] {
                let keeping = model.values().filter(|it| it.0 == net && !it.2).count();
                prop_assert_eq!(room.world.socks.keeping(net as u64).len(), keeping);
            }
        }
    }
}
