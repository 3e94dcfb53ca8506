//! K6.8 and the families' half of K6.9: who offers what, and who is connected to it.

use std::sync::Arc;
use std::time::Instant;

use pernet_plugin_api::ExitReason;

use super::recorder::*;
use super::sock::*;
use crate::engine::*;

#[test]
fn k6_8_a_family_is_there_once() {
    let room = room();
    room.register(&room.a, "echo").unwrap();
    for (owner, name) in [(&room.a, "echo"), (&room.b, "echo"), (&room.b, "inet"), (&room.b, "unix")] {
        assert_eq!(errno(room.register(owner, name)), 17, "{name}");
    }
    let failure = room.register(&room.b, "echo").unwrap_err();
    assert!(failure.message.contains("plugin `a`"), "{failure}");
    // What was refused is not registered: the first one still answers.
    assert_eq!(&*room.families.find("echo").unwrap().owner.name, "a");
    let too_long = "a".repeat(64);
    for name in ["", "Echo", "9p", "-x", "a b", "a.b", "ä", too_long.as_str()] {
        assert_eq!(errno(room.register(&room.b, name)), 22, "{name:?}");
    }
    room.register(&room.b, &"a".repeat(63)).unwrap();
    assert_eq!(room.families.list().len(), 2);
}

#[test]
fn k6_8_there_is_room_for_so_many_families() {
    let room = room();
    (0..NPROTO).for_each(|n| room.register(&room.a, &format!("f{n}")).unwrap());
    assert_eq!(errno(room.register(&room.a, "one-more")), 105);
    sock_unregister(&room.families, &room.a, "f7").unwrap();
    room.register(&room.a, "one-more").unwrap();
}

#[test]
fn k6_8_one_unregisters_ones_own_and_who_is_connected_stays_so() {
    let room = room();
    room.register(&room.a, "echo").unwrap();
    room.connect(1, "echo").unwrap();
    assert_eq!(errno(sock_unregister(&room.families, &room.b, "echo")), 1);
    assert!(room.families.find("echo").is_some(), "unlike the kernel's, it does not clear whoever's it is");
    assert_eq!(errno(sock_unregister(&room.families, &room.a, "other")), 2);
    sock_unregister(&room.families, &room.a, "echo").unwrap();
    assert_eq!(errno(sock_unregister(&room.families, &room.a, "echo")), 2);
    let connected = room.fs.sockets();
    assert_eq!((connected.len(), connected[0].is_shut()), (1, false));
    drop(connected);
    unregister(&write(&room.list), "a", &room.nets, ExitReason::Removed);
    assert!(room.fs.sockets()[0].is_shut(), "until the plugin goes");
}

#[test]
fn a_connection_is_a_hook_of_the_family_and_a_socket_of_its_plugin() {
    let room = room();
    room.register(&room.a, "echo").unwrap();
    room.connect(2, "echo").unwrap();
    assert_home();
    assert_eq!(room.world.take(), ["a.connected(echo)@2"]);
    let sockets = room.fs.sockets();
    assert_eq!((&*sockets[0].owner.name, sockets[0].family.to_string(), sockets[0].kind), ("a", "echo".into(), STREAM));
    assert_eq!((&*sockets[0].netns(), sockets[0].is_shut()), ("ns2", false));
    room.release(&room.a, sockets[0].ino()).unwrap();
    drop(sockets);
    room.assert_empty();
    room.world.assert_all_work_ran();
}

#[test]
fn k6_9_who_cannot_be_connected_to_takes_nothing() {
    let room = room();
    room.register(&room.a, "echo").unwrap();
    // The plugin refuses: its end is closed, whether it has closed it itself or not.
    for drops in [false, true] {
        let name = format!("deaf{}", u8::from(drops));
        let ops = Arc::new(Ears { world: room.world.clone(), fs: room.fs.clone(), drops });
        sock_register(&room.families, &room.b, &name, ops).unwrap();
        room.world.fail(&format!("b.connected({name})@1"));
        assert_eq!(errno(room.connect(1, &name)), ODD);
        room.assert_empty();
    }
    room.world.heal();
    // No inode.
    let all: Vec<_> = (0..8).map(|_| room.made(1, &room.a)).collect();
    room.world.take();
    assert_eq!(errno(room.connect(1, "echo")), ENFILE);
    assert_eq!(room.world.take(), ["k.close(11)@1"]);
    drop(all);
    // The namespace is going, or has gone.
    room.net(2).mark_dying();
    assert_eq!(errno(room.connect(2, "echo")), 116);
    // Where the plugin does not act, nobody offers its family.
    room.inos().into_iter().for_each(|ino| room.release(&room.a, ino).unwrap());
    let member = unregister(&write(&room.list), "a", &room.nets[..1], ExitReason::Removed).0.unwrap();
    assert_eq!(errno(room.connect(1, "echo")), EAFNOSUPPORT);
    room.assert_empty();
    // Nor where it has panicked.
    register(&write(&room.list), member, &room.nets[..1]).unwrap();
    room.world.panic_at("a.connected(echo)@1");
    let failure = room.connect(1, "echo").unwrap_err();
    assert!(failure.panicked, "{failure}");
    let poison = room.a.poison_error().expect("it is poisoned");
    assert_eq!((poison.hook, &*poison.netns), ("sock.connected", "ns1"));
    assert_eq!(errno(room.connect(1, "echo")), EAFNOSUPPORT);
    room.assert_empty();
}

#[test]
fn a_plugin_that_has_only_a_family_acts_where_it_is_selected() {
    let (world, list) = (World::new(), PernetList::new());
    let c = add(&list, world.plugin("c", 0).only(|net| net.cookie.0 == 1), &[]).owner.clone();
    let nets: Vec<_> = [1, 2].map(|cookie| world.net(cookie, &["lo"])).into();
    nets.iter().for_each(|net| assert_eq!(set_up(&list, net).state, NetState::Live));
    assert_eq!((names(&nets[0]), names(&nets[1])), (vec!["c".to_owned()], vec![]));
    let (fs, families) = (SockFs::new(2, (5, 6)), Families::default());
    let room = Room { world, list, fs, families, nets, a: c.clone(), b: c };
    room.register(&room.a, "echo").unwrap();
    room.connect(1, "echo").unwrap();
    assert_eq!(errno(room.connect(2, "echo")), EAFNOSUPPORT);
    clean_up(&room.list, room.net(1), ExitReason::Died);
    assert!(room.fs.sockets()[0].is_shut());
}

#[test]
fn the_other_end_of_a_plugins_own_connection_is_in_no_namespace() {
    let room = room();
    room.register(&room.a, "echo").unwrap();
    let family = room.families.find("echo").unwrap();
    let adopt = || {
        let sock = room.world.sock(0);
        sock_adopt(&room.fs, room.net(1), &room.b, (&family, STREAM), sock, Instant::now())
    };
    let end = adopt().unwrap();
    clean_up(&room.list, room.net(1), ExitReason::Died);
    assert!(!end.is_shut(), "it keeps no namespace");
    assert_eq!((&*end.netns(), end.cookie.0), ("ns1", 1));
    drop(end);
    assert_eq!(sock_release_all(&room.fs, &room.b), 1);
    let all: Vec<_> = (0..8).map(|_| adopt().unwrap()).collect();
    assert_eq!(errno(adopt()), ENFILE);
    drop(all);
    assert_eq!(sock_release_all(&room.fs, &room.b), 8);
    room.assert_empty();
}
