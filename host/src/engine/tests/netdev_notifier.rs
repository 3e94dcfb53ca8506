//! K3 over devices of plugins' own: who is told first, whose answer counts, and the chain of one namespace.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use pernet_plugin_api::{ExitReason, RegState, Verdict};

use super::kernel::EEXIST;
use super::lab::*;
use super::ndo::*;
use super::recorder::*;
use crate::engine::*;

const NONE: [String; 0] = [];
const ENOENT: i32 = 2;
const EDEADLK: i32 = 35;

/// Puts a block of plugin `a` on the chain of namespace 1 alone.
fn chain(lab: &Lab, number: usize, priority: i32) -> Result<u64, Failure> {
    let block = lab.world.block("a", number);
    lab.held(1, |held| register_notifier_net(held, lab.net(1), &lab.a, priority, block))
}

fn unchain(lab: &Lab, id: u64) -> Answer {
    lab.held(1, |held| unregister_notifier_net(held, lab.net(1), id))
}

/// The events of one kind, in the order in which they were told.
fn told(lab: &Lab, kind: &str) -> Vec<String> {
    let this = |call: &String| call.split_once('.').is_some_and(|(_, call)| call.contains(&format!(".{kind}(")));
    lab.take().into_iter().filter(this).collect()
}

#[test]
fn k3_1_equal_priorities_keep_the_order_of_registration_and_higher_ones_come_first() {
    let lab = lab(1);
    for (number, priority) in [(1, 0), (2, 5), (3, 0), (4, -1)] {
        chain(&lab, number, priority).unwrap();
    }
    lab.take();
    lab.register(&lab.own(tap("t0"))).unwrap();
    let order = ["a.n2", "a.n1", "a.n3", "a.n4", "w.n0", "x.n0"].map(|who| format!("{who}.register(t0)@1"));
    assert_eq!(told(&lab, "register"), order, "the namespace's own chain is first, whatever its priorities (K3.2)");
}

#[test]
fn k3_1_the_same_block_twice_is_eexist_and_an_unknown_one_enoent() {
    let lab = lab(1);
    let block = lab.world.block("a", 1);
    let add = || lab.held(1, |held| register_notifier_net(held, lab.net(1), &lab.a, 0, block.clone()));
    let id = add().unwrap();
    assert_eq!(refused(add()), EEXIST);
    lab.take();
    unchain(&lab, id).unwrap();
    lab.take();
    assert_eq!(refused(unchain(&lab, id)), ENOENT);
    assert_eq!(lab.take(), NONE, "and no replay");
    assert!(add().is_ok(), "free again");
}

#[test]
fn k3_2_a_stop_in_the_namespaces_own_chain_keeps_it_from_everybody_else_and_is_success() {
    let lab = lab(1);
    chain(&lab, 1, 0).unwrap();
    chain(&lab, 2, 0).unwrap();
    lab.take();
    lab.world.verdict("a.n1.register(t0)@1", Verdict::Stop);
    let dev = lab.own(tap("t0"));
    lab.register(&dev).unwrap();
    assert_eq!(told(&lab, "register"), ["a.n1.register(t0)@1"]);
    assert_eq!(dev.reg_state(), RegState::Registered);
    lab.world.verdict("a.n2.pre_up(t0)@1", Verdict::Bad);
    assert_eq!(refused(lab.open(&dev)), 1);
    assert_eq!(told(&lab, "pre_up"), ["a.n1.pre_up(t0)@1", "a.n2.pre_up(t0)@1"]);
}

#[test]
fn k3_2_the_chain_of_one_namespace_hears_of_no_other() {
    let lab = lab(2);
    chain(&lab, 1, 0).unwrap();
    lab.take();
    lab.register_in(2, &lab.own(tap("t0"))).unwrap();
    assert!(lab.take().iter().all(|call| !call.starts_with("a.n1")));
}

/// What makes an event of this kind of the device that is there, up, with a bridge beside it.
fn cause(lab: &Lab, kind: &str, dev: &Arc<OwnDevice>, bridge: &Arc<OwnDevice>) -> Answer {
    match kind {
        "post_init" | "register" => lab.register(&lab.own(tap("t9"))),
        "pre_up" | "up" => lab.close(dev).and_then(|()| lab.open(dev)),
        "goingdown" | "down" => lab.close(dev),
        "pre_changemtu" | "changemtu" => lab.set_mtu(dev, 1400),
        "pre_changeaddr" | "changeaddr" => lab.held(1, |held| dev_set_mac_address(held, dev, &[2, 0, 0, 0, 9, 9])),
        "changename" => lab.rename(dev, "t9"),
        "pre_changeupper" | "changeupper" => {
            lab.held(1, |held| dev_set_master(held, dev, bridge.device().unwrap().link.ifindex))
        }
        _ => lab.unregister(dev),
    }
}

fn event(kind: &str) -> String {
    match kind {
        "post_init" | "register" => format!("w.n0.{kind}(t9)@1"),
        "changename" => "w.n0.changename(t0>t9)@1".into(),
        _ => format!("w.n0.{kind}(t0)@1"),
    }
}

const HONOURED: [&str; 9] = [
    "post_init",
    "register",
    "pre_up",
    "pre_changemtu",
    "changemtu",
    "pre_changeaddr",
    "changename",
    "pre_changeupper",
    "changeupper",
];
const IGNORED: [&str; 6] = ["up", "goingdown", "down", "unregister", "pre_uninit", "changeaddr"];

#[test]
fn k3_4_honoured_events_one_by_one_bad_is_eperm_an_error_its_errno_and_a_panic_is_no_answer() {
    for kind in HONOURED {
        for way in ["bad", "error", "panic"] {
            let lab = lab(1);
            let (dev, bridge) = (lab.opened(tap("t0")), lab.registered(spec("bridge", "br0")));
            let call = event(kind);
            match way {
                "bad" => lab.world.verdict(&call, Verdict::Bad),
                "error" => lab.world.fail(&call),
                _ => lab.world.panic_at(&call),
            }
            let answer = cause(&lab, kind, &dev, &bridge).map_err(|failure| failure.errno);
            let calls = lab.take();
            let after = calls.iter().skip_while(|c| **c != call).nth(1);
            let next_is_asked = after == Some(&call.replacen('w', "x", 1));
            if way == "panic" {
                // It poisons who panicked, refuses nothing, and the others are asked.
                assert!(lab.list.members().iter().any(|m| &*m.owner.name == "w" && m.owner.poisoned()), "{kind}");
                assert_eq!((answer, next_is_asked), (Ok(()), true), "{kind}");
            } else {
                let errno = if way == "bad" { 1 } else { ODD };
                assert_eq!((answer, next_is_asked), (Err(errno), false), "{kind} {way}: a refusal cuts the chain");
            }
            assert!(calls.contains(&call), "{kind} {way}");
            lab.world.heal();
            lab.settle();
            lab.assert_agrees();
        }
    }
}

#[test]
fn k3_3_stop_ends_the_walk_and_is_success_for_every_event() {
    for kind in HONOURED.iter().chain(&IGNORED) {
        let lab = lab(1);
        let (dev, bridge) = (lab.opened(tap("t0")), lab.registered(spec("bridge", "br0")));
        let call = event(kind);
        lab.world.verdict(&call, Verdict::Stop);
        assert_eq!(cause(&lab, kind, &dev, &bridge), Ok(()), "{kind}");
        let calls = lab.take();
        assert!(calls.contains(&call), "{kind}: {calls:?}");
        assert!(!calls.contains(&call.replacen('w', "x", 1)), "{kind}: who comes later misses it silently");
        lab.settle();
        lab.assert_agrees();
    }
}

#[test]
fn k3_4_ignored_events_one_by_one_change_nothing_bad_cuts_the_chain_and_an_errno_does_not() {
    for kind in IGNORED {
        for bad in [true, false] {
            let lab = lab(1);
            let (dev, bridge) = (lab.opened(tap("t0")), lab.registered(spec("bridge", "br0")));
            let call = event(kind);
            if bad {
                lab.world.verdict(&call, Verdict::Bad);
            } else {
                lab.world.fail(&call);
            }
            assert_eq!(cause(&lab, kind, &dev, &bridge), Ok(()), "{kind}");
            let calls = lab.take();
            assert!(calls.contains(&call), "{kind}");
            // Unlike the kernel's: one plugin's error shall not blind the others.
            assert_eq!(calls.contains(&call.replacen('w', "x", 1)), !bad, "{kind}");
            lab.settle();
            lab.assert_agrees();
        }
    }
}

#[test]
fn k3_5_own_devices_are_replayed_to_a_late_listener_and_post_init_never_is() {
    let lab = lab(1);
    let _devs = [lab.opened(tap("t0")), lab.registered(tap("t1"))];
    add(&lab.list, lab.world.plugin("late", 9).notifier(0), &lab.nets);
    assert_eq!(
        lab.take(),
        ["late.n0.register~(lo)@1", "late.n0.register~(t0)@1", "late.n0.up~(t0)@1", "late.n0.register~(t1)@1"]
    );
    unregister(&write(&lab.list), "late", &lab.nets, ExitReason::Removed);
    assert_eq!(
        lab.take(),
        [
            "late.n0.unregister~(t1)@1",
            "late.n0.goingdown~(t0)@1",
            "late.n0.down~(t0)@1",
            "late.n0.unregister~(t0)@1",
            "late.n0.unregister~(lo)@1",
        ],
        "a replay: the devices stay"
    );
    assert_eq!(lab.calls("t0"), Calls { init: 1, open: 1, ..Calls::default() });
    lab.assert_agrees();
}

#[test]
fn k3_7_the_replay_to_a_namespaces_own_listener_and_its_rollback() {
    let lab = lab(1);
    let _devs = [lab.opened(tap("t0")), lab.registered(tap("t1"))];
    lab.world.fail("a.n1.register~(t1)@1");
    assert_eq!(refused(chain(&lab, 1, 0)), ODD);
    assert_eq!(
        lab.take(),
        [
            "a.n1.register~(lo)@1",
            "a.n1.register~(t0)@1",
            "a.n1.up~(t0)@1",
            "a.n1.register~(t1)@1",
            "a.n1.goingdown~(t0)@1",
            "a.n1.down~(t0)@1",
            "a.n1.unregister~(t0)@1",
            "a.n1.unregister~(lo)@1",
        ],
        "backwards from before the failing one, which gets nothing"
    );
    lab.world.heal();
    lab.register(&lab.own(tap("t2"))).unwrap();
    assert!(lab.take().iter().all(|call| !call.starts_with("a.n1")), "it is not on the chain");
    lab.world.fail("a.n1.up~(t0)@1");
    chain(&lab, 1, 0).expect("the answer to UP is ignored");
}

#[test]
fn k3_6_who_leaves_the_namespaces_own_chain_sees_each_device_go_and_hears_no_more() {
    let lab = lab(1);
    let dev = lab.opened(tap("t0"));
    let id = chain(&lab, 1, 0).unwrap();
    lab.take();
    lab.world.fail("a.n1.unregister~(t0)@1");
    unchain(&lab, id).unwrap();
    let expected = ["a.n1.unregister~(lo)@1", "a.n1.goingdown~(t0)@1", "a.n1.down~(t0)@1", "a.n1.unregister~(t0)@1"];
    assert_eq!(lab.take(), expected, "forwards");
    lab.close(&dev).unwrap();
    assert!(lab.take().iter().all(|call| !call.starts_with("a.n1")));
}

#[test]
fn k3_7_the_namespaces_own_chain_hears_the_kernels_devices_too_and_ends_with_its_plugin() {
    let (world, list) = (World::new(), PernetList::new());
    let a = add(&list, world.plugin("a", 0).subsys(), &[]).owner.clone();
    let net = world.net(1, &["lo"]);
    set_up(&list, &net);
    assert!(!net.watched());
    let block = world.block("a", 1);
    let register = || {
        work_in(
            &list,
            Some(&list.read().unwrap()),
            std::slice::from_ref(&net),
            &a,
            std::time::Duration::from_secs(9),
            |_| register_notifier_net(&*net.rtnl().assert_rtnl()?, &net, &a, 0, block.clone()).map(drop),
        )
    };
    register().unwrap();
    assert!(net.watched(), "somebody wants to know");
    world.kernel.other_adds(1, "eth0", "ifb").unwrap();
    world.settle(&list);
    assert!(world.take().contains(&"a.n1.register(eth0)@1".to_owned()));
    unregister(&write(&list), "a", std::slice::from_ref(&net), ExitReason::Removed);
    world.take();
    assert!(!net.watched(), "nobody does any more");
    world.kernel.other_adds(1, "eth1", "ifb").unwrap();
    world.settle(&list);
    assert_eq!(world.take(), NONE, "no code of a plugin runs after its end");
}

#[test]
fn k3_7_it_may_be_registered_in_an_init_and_hears_of_what_the_init_registers_next() {
    let (world, list) = (World::new(), PernetList::new());
    let member = add(&list, world.plugin("a", 0).subsys(), &[]);
    let net = world.net(1, &["lo"]);
    let dev = world.own(&member.owner, "t0", tap("t0"));
    let (owner, block, weak) = (member.owner.clone(), world.block("a", 1), Arc::downgrade(&net));
    world.at("a.init0@1", move |_| {
        let net = weak.upgrade().unwrap();
        let held = net.rtnl().assert_rtnl().unwrap();
        register_notifier_net(&held, &net, &owner, 0, block.clone()).unwrap();
        register_netdevice(&held, &net, &dev).unwrap();
    });
    assert_eq!(set_up(&list, &net).state, NetState::Live);
    let calls = world.take();
    for call in ["a.n1.register~(lo)@1", "a.n1.post_init(t0)@1", "a.n1.register(t0)@1"] {
        assert_eq!(calls.iter().filter(|c| *c == call).count(), 1, "{call}: {calls:?}");
    }
    world.heal();
    clean_up(&list, &net, ExitReason::Died);
    let calls = world.take();
    for call in ["a.n1.unregister(t0)@1", "a.n1.unregister(lo)@1"] {
        assert_eq!(calls.iter().filter(|c| c.replace('~', "") == call).count(), 1, "{call}: {calls:?}");
    }
}

#[test]
fn k3_8_who_removes_itself_in_the_walk_is_the_last_to_miss_and_the_rest_are_told() {
    let lab = lab(1);
    let id = chain(&lab, 1, 5).unwrap();
    chain(&lab, 2, 0).unwrap();
    lab.take();
    let net = lab.net(1).clone();
    let answer = Arc::new(Mutex::new(None));
    let slot = answer.clone();
    lab.world.at("a.n1.register(t0)@1", move |_| {
        let held = net.rtnl().assert_rtnl().unwrap();
        *slot.lock().unwrap() = Some(unregister_notifier_net(&held, &net, id));
    });
    lab.register(&lab.own(tap("t0"))).unwrap();
    assert_eq!(*answer.lock().unwrap(), Some(Ok(())));
    let calls = lab.take();
    for call in ["a.n2.register(t0)@1", "w.n0.register(t0)@1", "x.n0.register(t0)@1"] {
        assert!(calls.contains(&call.to_owned()), "{call}: {calls:?}");
    }
    lab.world.heal();
    lab.register(&lab.own(tap("t1"))).unwrap();
    assert!(lab.take().iter().all(|call| !call.starts_with("a.n1")));
}

#[test]
fn k3_8_the_lock_again_from_within_the_chain_is_edeadlk() {
    let lab = lab(1);
    let (sender, errors) = mpsc::channel();
    let (list, net, dev) = (lab.list.clone(), lab.net(1).clone(), lab.own(tap("t1")));
    lab.world.at("w.n0.register(t0)@1", move |_| {
        let token = list.read().unwrap();
        sender.send(register_netdev(&token, &net, &dev).map_err(|failure| failure.errno)).unwrap();
    });
    lab.register(&lab.own(tap("t0"))).unwrap();
    lab.world.heal();
    assert_eq!(errors.iter().collect::<Vec<_>>(), [Err(EDEADLK)]);
}

/// From here on, whoever is called so tries to put one more notifier on the chain of namespace 1. Gives the answers.
fn intrude(lab: &Lab, calls: &[&str]) -> mpsc::Receiver<Result<u64, i32>> {
    let (sender, answers) = mpsc::channel();
    for (number, call) in (50..).zip(calls) {
        let (sender, net, owner) = (sender.clone(), lab.net(1).clone(), lab.a.clone());
        let block = lab.world.block("a", number);
        lab.world.at(call, move |_| {
            let held = net.rtnl().assert_rtnl().unwrap();
            let answer = register_notifier_net(&held, &net, &owner, 0, block.clone());
            sender.send(answer.map_err(|failure| failure.errno)).unwrap();
        });
    }
    answers
}

#[test]
fn k3_8_registering_a_notifier_from_within_the_chain_is_edeadlk_at_once() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    let id = chain(&lab, 1, 0).unwrap();
    let within = [
        // A listener of the namespace's own chain, and one of all; what is asked, told, and told back after a veto.
        "a.n1.post_init(t1)@1",
        "w.n0.register(t1)@1",
        "w.n0.changemtu(t1)@1",
        "a.n1.unregister(t1)@1",
        // An operation that a listener's own change calls.
        "a.ndo_open(t0)@1",
        // The replay to one that comes, and to one that goes.
        "a.n2.register~(t0)@1",
        "a.n1.unregister~(lo)@1",
        // One that the kernel made.
        "w.n0.register(eth0)@1",
    ];
    let answers = intrude(&lab, &within);
    let (net, other) = (lab.net(1).clone(), dev.clone());
    lab.world.at("x.n0.register(t1)@1", move |_| {
        dev_open(&net.rtnl().assert_rtnl().unwrap(), &other).unwrap();
    });
    let new = lab.own(tap("t1"));
    lab.register(&new).unwrap();
    lab.set_mtu(&new, 1400).unwrap();
    lab.unregister(&new).unwrap();
    chain(&lab, 2, 0).unwrap();
    unchain(&lab, id).unwrap();
    lab.world.kernel.other_adds(1, "eth0", "ifb").unwrap();
    lab.settle();
    let calls = lab.take();
    for call in within {
        assert!(calls.iter().any(|c| c == call), "{call}: {calls:?}");
    }
    assert!(calls.iter().all(|call| !call.contains("a.n5")), "nobody came: {calls:?}");
    lab.world.heal();
    assert_eq!(answers.iter().collect::<Vec<_>>(), vec![Err(EDEADLK); within.len()]);
}

#[test]
fn k3_8_out_of_the_chain_a_hook_may_register_one_and_so_may_work_that_the_chain_left() {
    let lab = lab(1);
    let answers = intrude(&lab, &["a.ndo_init(t0)@1", "a.ndo_open(t0)@1", "a.ndo_uninit(t0)@1"]);
    let (sender, deferred) = mpsc::channel();
    let (net, owner, block, list) = (lab.net(1).clone(), lab.a.clone(), lab.world.block("a", 60), lab.list.clone());
    lab.world.at("w.n0.register(t0)@1", move |held| {
        let (sender, net, owner) = (sender.clone(), net.clone(), owner.clone());
        let (block, list) = (block.clone(), list.clone());
        let work = move || {
            let nets = std::slice::from_ref(&net);
            let done = work_in(&list, None, nets, &owner, std::time::Duration::from_secs(9), |_| {
                register_notifier_net(&*net.rtnl().assert_rtnl()?, &net, &owner, 0, block.clone()).map(drop)
            });
            sender.send(done).unwrap();
        };
        held.rtnl().defer(Box::new(work)).unwrap();
    });
    let dev = lab.own(tap("t0"));
    lab.register(&dev).unwrap();
    lab.open(&dev).unwrap();
    lab.unregister(&dev).unwrap();
    lab.world.heal();
    assert_eq!(deferred.iter().collect::<Vec<_>>(), [Ok(())]);
    assert_eq!(answers.iter().filter(Result::is_ok).count(), 3);
}

#[test]
fn k3_8_the_chain_of_another_namespace_is_another_chain() {
    let lab = lab(2);
    let (sender, answers) = mpsc::channel();
    let (net, owner, block) = (lab.net(2).clone(), lab.a.clone(), lab.world.block("a", 60));
    lab.world.at("w.n0.register(t0)@1", move |_| {
        let held = net.rtnl().lock().unwrap();
        sender.send(register_notifier_net(&held, &net, &owner, 0, block.clone()).map(drop)).unwrap();
    });
    lab.register(&lab.own(tap("t0"))).unwrap();
    lab.world.heal();
    assert_eq!(answers.iter().collect::<Vec<_>>(), [Ok(())]);
}

#[test]
fn k3_8_a_listener_may_unregister_another_device() {
    let lab = lab(1);
    let (one, two) = (lab.opened(tap("t0")), lab.opened(tap("t1")));
    let (net, other) = (lab.net(1).clone(), two.clone());
    lab.world.at("w.n0.goingdown(t0)@1", move |_| {
        let held = net.rtnl().assert_rtnl().unwrap();
        unregister_many(&[&held], std::slice::from_ref(&other)).unwrap();
    });
    lab.close(&one).unwrap();
    lab.world.heal();
    assert_eq!((one.reg_state(), two.reg_state()), (RegState::Registered, RegState::Unregistered));
    assert_eq!(lab.calls("t1").destructor, 1, "after the unlock");
    lab.settle();
    lab.assert_agrees();
}

#[test]
fn k3_4_a_kernels_device_cannot_be_vetoed_and_that_is_said_once() {
    for bad in [true, false] {
        let lab = lab(1);
        let add = |name: &str| {
            lab.world.kernel.other_adds(1, name, "ifb").unwrap();
            let mut errors = lab.settle();
            assert_eq!((errors.len(), errors[0].hook), (1, "netdev.register"), "{errors:?}");
            let failure = errors.remove(0).failure;
            assert_eq!(failure.errno, if bad { 1 } else { ODD });
            failure.message.contains("nothing can be refused: answer Ok")
        };
        for name in ["eth0", "eth1"] {
            let call = format!("w.n0.register({name})@1");
            if bad {
                lab.world.verdict(&call, Verdict::Bad);
            } else {
                lab.world.fail(&call);
            }
        }
        assert_eq!((add("eth0"), add("eth1")), (true, false), "said the first time, and not again");
        assert_eq!(lab.net(1).devices().len(), 3, "both are there");
    }
}

#[test]
fn k3_4_what_may_be_refused_and_an_event_that_never_may_be_get_no_such_word() {
    let lab = lab(1);
    lab.world.fail("w.n0.register(t0)@1");
    let refusal = lab.register(&lab.own(tap("t0"))).unwrap_err();
    lab.world.heal();
    lab.world.fail("w.n0.up(eth0)@1");
    let eth0 = lab.world.kernel.other_adds(1, "eth0", "ifb").unwrap();
    lab.world.kernel.other(1, eth0, &LinkChange::Up);
    let errors = lab.settle();
    assert_eq!((errors.len(), errors[0].hook), (1, "netdev.up"));
    for failure in [&refusal, &errors[0].failure] {
        assert!(!failure.message.contains("nothing can be refused"), "{failure}");
    }
}

#[test]
fn the_world_is_told_what_everybody_is_told_and_what_was_refused_but_no_replay() {
    let lab = lab(1);
    let heard = || std::mem::take(&mut *lab.world.heard.lock().unwrap());
    heard();
    let dev = lab.own(tap("t0"));
    lab.register(&dev).unwrap();
    assert_eq!(heard(), ["netdev.post_init(t0)@1", "netdev.register(t0)@1"]);
    // One that is new here is told what exists, which has happened before.
    let id = chain(&lab, 1, 0).unwrap();
    unchain(&lab, id).unwrap();
    assert_eq!(heard(), NONE);
    lab.world.verdict("w.n0.pre_up(t0)@1", Verdict::Bad);
    assert!(lab.open(&dev).is_err());
    let told = heard();
    assert_eq!(told[0], "netdev.pre_up(t0)@1");
    assert!(told[1].starts_with("netdev.pre_up(t0)@1 refused: plugin `w` refused it at netdev.pre_up"), "{told:?}");
    assert_eq!(told.len(), 2, "it has not gone up");
    lab.unregister(&dev).unwrap();
    assert_eq!(heard(), ["netdev.unregister(t0)@1", "netdev.pre_uninit(t0)@1"]);
}
