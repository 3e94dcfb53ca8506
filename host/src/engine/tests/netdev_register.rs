//! K2.3 and K2.4: the states of a device, the order of a registration, and what each failing step undoes.

use pernet_plugin_api::{ExitReason, RegState, Verdict};

use super::kernel::{EBUSY, EEXIST, EINVAL, ENODEV};
use super::lab::*;
use super::ndo::*;
use super::recorder::*;
use crate::engine::*;

/// What every failure must leave: nothing in the kernel, nothing in the mirror, a balanced ledger.
fn assert_nothing_of(lab: &Lab, dev: &OwnDevice) {
    assert_eq!(lab.world.kernel.ours(), []);
    assert_ne!(dev.reg_state(), RegState::Registered);
    assert!(lab.net(1).devices().iter().all(|dev| dev.own.is_none()));
    assert!(lab.net(1).own_devices().is_empty());
    lab.world.ledger.assert_balanced();
    lab.settle();
    lab.assert_agrees();
}

#[test]
fn k2_4_the_order_of_a_registration() {
    let lab = lab(1);
    let dev = lab.own(tap("t%d"));
    assert_eq!(dev.reg_state(), RegState::Uninitialized);
    let (state, at_init) = (dev.clone(), dev.clone());
    lab.world.at("a.ndo_init(t0)@1", move |net| {
        assert_eq!(at_init.reg_state(), RegState::Uninitialized);
        assert!(net.devices().iter().all(|dev| dev.link.name != "t0"), "not in any list yet");
    });
    lab.world.at("w.n0.register(t0)@1", move |net| {
        assert_eq!(state.reg_state(), RegState::Registered);
        let known = net.devices().into_iter().find(|dev| dev.link.name == "t0").unwrap();
        assert!(known.own.is_some() && !known.link.is_up() && known.link.ifindex > 1);
    });
    lab.register(&dev).unwrap();
    assert_eq!(
        lab.take(),
        [
            "a.ndo_init(t0)@1",
            "w.n0.post_init(t0)@1",
            "x.n0.post_init(t0)@1",
            "k.create(t0)@1",
            "w.n0.register(t0)@1",
            "x.n0.register(t0)@1",
        ]
    );
    assert_eq!(lab.settle(), []);
    assert_eq!(lab.take(), Vec::<String>::new(), "the echo is no event");
    assert_eq!(lab.net(1).own_devices().len(), 1);
    lab.assert_agrees();
}

#[test]
fn k2_4_with_nobody_listening_a_namespace_with_an_own_device_is_watched() {
    let (world, list) = (World::new(), PernetList::new());
    let a = add(&list, world.plugin("a", 0).subsys(), &[]).owner.clone();
    let net = world.net(1, &["lo", "eth0"]);
    set_up(&list, &net);
    assert!(!net.watched());
    let dev = world.own(&a, "t0", tap("t0"));
    register_netdev(&list.read().unwrap(), &net, &dev).unwrap();
    assert!(net.watched());
    assert_eq!(net.devices().len(), 3);
    unregister_netdev(&list.read().unwrap(), &dev).unwrap();
    world.ledger.assert_balanced();
    assert_eq!(world.kernel.links(1).len(), 2);
}

#[test]
fn k2_4_row_1_a_spec_that_makes_no_sense_is_einval_and_undoes_nothing() {
    let lab = lab(1);
    let senseless = [
        LinkSpec { kind: String::new(), ..tap("t0") },
        LinkSpec { min_mtu: 2000, max_mtu: 1000, ..tap("t1") },
        LinkSpec { mtu: 100, min_mtu: 200, ..tap("t2") },
        LinkSpec { mtu: 300, max_mtu: 200, ..tap("t3") },
    ];
    for spec in senseless {
        let what = format!("{spec:?}");
        let label = spec.name.clone();
        let ops = lab.world.ops(&lab.a, &label);
        // Refused as early as may be: at the allocation, or here.
        let answer = alloc_netdev(&lab.a, spec, ops, None).and_then(|dev| lab.register(&dev));
        assert_eq!(refused(answer), EINVAL, "{what}");
        assert_eq!((lab.calls(&label).init, lab.calls(&label).destructor), (0, 0), "{what}");
    }
    assert_eq!(lab.world.kernel.ours(), []);
    assert_eq!(lab.take(), Vec::<String>::new());
}

#[test]
fn k2_4_row_2_a_name_that_cannot_be_had_undoes_nothing_and_calls_no_destructor() {
    let lab = lab(1);
    let _there = lab.registered(tap("t0"));
    for (name, errno) in [("t0", EEXIST), ("lo", EEXIST), ("a b", EINVAL), ("%d%d", EINVAL)] {
        let dev = lab.world.own(&lab.a, name, LinkSpec { ..tap(name) });
        assert_eq!(refused(lab.register(&dev)), errno, "{name}");
        assert_eq!(lab.take(), Vec::<String>::new(), "{name}");
        assert_eq!(dev.reg_state(), RegState::Uninitialized);
        free_netdev(&dev).unwrap();
        assert_eq!(lab.take(), [format!("a.free({name})")], "and no destructor");
    }
}

#[test]
fn k2_4_row_4_a_failed_ndo_init_has_no_uninit_and_no_destructor() {
    let lab = lab(1);
    let dev = lab.own(tap("t0"));
    lab.world.fail("a.ndo_init(t0)@1");
    assert_eq!(refused(lab.register(&dev)), ODD);
    assert_eq!(lab.take(), ["a.ndo_init(t0)@1"]);
    assert_eq!(dev.reg_state(), RegState::Uninitialized);
    assert_nothing_of(&lab, &dev);
    // The name is free, and the device may be tried again.
    lab.world.heal();
    lab.register(&dev).unwrap();
}

#[test]
fn k2_4_row_6_an_index_that_cannot_be_had_undoes_the_init_and_calls_the_destructor() {
    let lab = lab(1);
    let dev = lab.own(LinkSpec { ifindex: 1, ..tap("t0") });
    assert_eq!(refused(lab.register(&dev)), EBUSY);
    assert_eq!(lab.take(), ["a.ndo_init(t0)@1", "a.ndo_uninit(t0)@1", "a.destructor(t0)"]);
    assert_nothing_of(&lab, &dev);
}

#[test]
fn k2_4_row_7_a_post_init_veto_undoes_the_init_and_pre_uninit_is_not_sent() {
    for veto in [Some(Verdict::Bad), None] {
        let lab = lab(1);
        let dev = lab.own(tap("t0"));
        match veto {
            Some(verdict) => lab.world.verdict("x.n0.post_init(t0)@1", verdict),
            None => lab.world.fail("x.n0.post_init(t0)@1"),
        }
        assert_eq!(refused(lab.register(&dev)), if veto.is_some() { 1 } else { ODD }, "the vetoer's errno");
        assert_eq!(
            lab.take(),
            [
                "a.ndo_init(t0)@1",
                "w.n0.post_init(t0)@1",
                "x.n0.post_init(t0)@1",
                "a.ndo_uninit(t0)@1",
                "a.destructor(t0)",
            ]
        );
        assert_nothing_of(&lab, &dev);
    }
}

#[test]
fn k2_4_row_8_the_kernels_refusal_is_told_by_pre_uninit_and_then_undone_as_row_7() {
    let lab = lab(1);
    let dev = lab.own(tap("t0"));
    lab.world.fail("k.create(t0)@1");
    assert_eq!(refused(lab.register(&dev)), ODD);
    assert_eq!(
        lab.take(),
        [
            "a.ndo_init(t0)@1",
            "w.n0.post_init(t0)@1",
            "x.n0.post_init(t0)@1",
            "k.create(t0)@1",
            "w.n0.pre_uninit(t0)@1",
            "x.n0.pre_uninit(t0)@1",
            "a.ndo_uninit(t0)@1",
            "a.destructor(t0)",
        ]
    );
    assert_eq!(dev.reg_state(), RegState::Unregistered);
    assert_nothing_of(&lab, &dev);
    free_netdev(&dev).unwrap();
    assert_eq!(lab.take(), ["a.free(t0)"]);
    assert_eq!(dev.reg_state(), RegState::Released);
}

#[test]
fn k2_4_row_8_a_device_that_stands_there_already_is_the_kernels_refusal() {
    let lab = lab(1);
    // The mirror does not know of it yet.
    lab.world.kernel.other_adds(1, "t0", "ifb").unwrap();
    let dev = lab.own(tap("t0"));
    assert_eq!(refused(lab.register(&dev)), EEXIST);
    assert_eq!((lab.calls("t0").uninit, lab.calls("t0").destructor), (1, 1));
    lab.settle();
    assert_eq!(lab.world.kernel.links(1).len(), 2, "another's device is nobody's to delete");
    assert_nothing_of(&lab, &dev);
}

#[test]
fn k2_4_row_10_a_register_veto_is_a_full_unregister_and_the_rest_is_at_the_unlock() {
    let lab = lab(1);
    let dev = lab.own(LinkSpec { needs_free: true, ..tap("t0") });
    lab.world.verdict("w.n0.register(t0)@1", Verdict::Bad);
    let seen = dev.clone();
    let world = lab.world.clone();
    let answer = lab.held(1, |held| {
        let answer = register_netdevice(held, lab.net(1), &dev);
        assert_eq!(seen.reg_state(), RegState::Unregistering, "the rest is for the unlock");
        world.note("unlock".into());
        answer
    });
    assert_eq!(refused(answer), 1);
    assert_eq!(
        lab.take(),
        [
            "a.ndo_init(t0)@1",
            "w.n0.post_init(t0)@1",
            "x.n0.post_init(t0)@1",
            "k.create(t0)@1",
            "w.n0.register(t0)@1",
            "k.delete(t0)@1",
            // (a) x hears of the end without having heard of the beginning.
            "w.n0.unregister(t0)@1",
            "x.n0.unregister(t0)@1",
            "w.n0.pre_uninit(t0)@1",
            "x.n0.pre_uninit(t0)@1",
            "a.ndo_uninit(t0)@1",
            "unlock",
            "a.destructor(t0)",
        ],
        "and it is not freed, although it was to be"
    );
    assert_eq!(dev.reg_state(), RegState::Unregistered);
    assert_nothing_of(&lab, &dev);
    free_netdev(&dev).unwrap();
    assert_eq!(lab.take(), ["a.free(t0)"], "(c) after the unlock it is immediate");
}

#[test]
fn k2_4_a_register_veto_after_another_listener_was_content_tells_both_the_end() {
    let lab = lab(1);
    let dev = lab.own(tap("t0"));
    lab.world.verdict("x.n0.register(t0)@1", Verdict::Bad);
    assert_eq!(refused(lab.register(&dev)), 1);
    let calls = lab.take();
    for (kind, times) in [("register", 2), ("unregister", 2), ("pre_uninit", 2)] {
        let told = calls.iter().filter(|call| call.contains(&format!(".{kind}(")));
        assert_eq!(told.count(), times, "{kind}");
    }
}

#[test]
fn k2_4_c_freed_before_the_unlock_it_is_freed_by_the_todo() {
    let lab = lab(1);
    let dev = lab.own(tap("t0"));
    lab.world.verdict("x.n0.register(t0)@1", Verdict::Bad);
    let answer = lab.held(1, |held| {
        let answer = register_netdevice(held, lab.net(1), &dev);
        free_netdev(&dev).unwrap();
        assert_eq!(lab.calls("t0").free, 0, "not before the unlock");
        answer
    });
    assert_eq!(refused(answer), 1);
    let calls = lab.take();
    assert_eq!(calls[calls.len() - 2..], ["a.destructor(t0)", "a.free(t0)"]);
    assert_eq!(dev.reg_state(), RegState::Released);
    lab.world.ledger.assert_all_freed();
}

#[test]
fn k2_4_c_freed_while_its_destructor_runs_it_is_freed_after_it() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    let (again, world) = (dev.clone(), lab.world.clone());
    lab.world.at_nowhere("a.destructor(t0)", move || {
        // By whichever thread.
        free_netdev(&again).unwrap();
        assert_eq!(world.ledger.of("a.t0").free, 0, "the destructor is called in it still");
    });
    lab.unregister(&dev).unwrap();
    lab.world.heal();
    assert_eq!((lab.calls("t0").free, dev.reg_state()), (1, RegState::Released));
}

#[test]
fn k2_4_c_freed_while_its_failed_registration_is_undone_is_ebusy() {
    let lab = lab(1);
    let dev = lab.own(tap("t0"));
    lab.world.fail("k.create(t0)@1");
    let again = dev.clone();
    let (sender, answers) = std::sync::mpsc::channel();
    lab.world.at("w.n0.pre_uninit(t0)@1", move |_| {
        sender.send(free_netdev(&again).map_err(|failure| failure.errno)).unwrap();
    });
    assert_eq!(refused(lab.register(&dev)), ODD);
    lab.world.heal();
    assert_eq!(answers.iter().collect::<Vec<_>>(), [Err(EBUSY)]);
    assert_nothing_of(&lab, &dev);
    free_netdev(&dev).unwrap();
}

#[test]
fn k2_4_row_10_neither_end_of_a_refused_pair_is_freed_although_it_was_to_be() {
    for refusal in ["x.n0.register(p0)@2", "a.ndo_init(n0)@1", "x.n0.post_init(n0)@1", "x.n0.register(n0)@1"] {
        for there in [1, 2] {
            let lab = lab(2);
            let wanted = |name: &str| LinkSpec { needs_free: true, ..spec("veth", name) };
            let peer = lab.own(wanted("p0"));
            let near = lab.world.own_peered(&lab.a, "n0", wanted("n0"), Some(peer.clone()));
            lab.world.fail(&refusal.replace("@2", &format!("@{there}")));
            assert_eq!(refused(lab.register_pair(&near, &peer, there)), ODD);
            lab.world.heal();
            lab.settle();
            for dev in [&near, &peer] {
                free_netdev(dev).unwrap_or_else(|failure| panic!("{refusal} {there}: {dev}: {failure}"));
            }
            lab.world.ledger.assert_balanced();
            lab.world.ledger.assert_all_freed();
        }
    }
}

#[test]
fn k2_3_a_life_goes_through_its_states_in_order() {
    let lab = lab(1);
    let dev = lab.own(tap("t0"));
    let states = std::sync::Arc::new(std::sync::Mutex::new(vec![dev.reg_state()]));
    for call in ["w.n0.register(t0)@1", "w.n0.unregister(t0)@1", "a.ndo_uninit(t0)@1"] {
        let (states, dev) = (states.clone(), dev.clone());
        lab.world.at(call, move |_| states.lock().unwrap().push(dev.reg_state()));
    }
    lab.register(&dev).unwrap();
    lab.unregister(&dev).unwrap();
    states.lock().unwrap().push(dev.reg_state());
    free_netdev(&dev).unwrap();
    states.lock().unwrap().push(dev.reg_state());
    assert_eq!(
        *states.lock().unwrap(),
        [
            RegState::Uninitialized,
            RegState::Registered,
            RegState::Unregistering,
            RegState::Unregistering,
            RegState::Unregistered,
            RegState::Released,
        ]
    );
}

#[test]
fn k2_3_calls_in_the_wrong_state_are_refused_and_change_nothing() {
    let lab = lab(2);
    let fresh = lab.own(tap("t0"));
    assert_eq!(refused(lab.travel(&fresh, 2, None, 0)), EINVAL, "a move of what is not registered");
    assert_eq!(refused(lab.open(&fresh)), ENODEV);
    let dev = lab.registered(tap("t1"));
    assert_eq!(refused(lab.register(&dev)), EBUSY, "registered already");
    assert_eq!(refused(free_netdev(&dev)), EBUSY, "free while registered");
    assert_eq!(lab.take(), Vec::<String>::new());
    lab.unregister(&dev).unwrap();
    lab.take();
    assert_eq!(refused(lab.unregister(&dev)), EINVAL, "unregistered twice");
    assert_eq!(refused(lab.register(&dev)), EBUSY, "no second life");
    free_netdev(&dev).unwrap();
    assert_eq!(refused(free_netdev(&dev)), EINVAL, "freed twice");
    assert_eq!(lab.take(), ["a.free(t1)"]);
}

#[test]
fn k2_3_one_that_was_never_registered_is_skipped_and_the_rest_are_unregistered() {
    let lab = lab(1);
    let (one, fresh, two) = (lab.registered(tap("t0")), lab.own(tap("t1")), lab.registered(tap("t2")));
    let (ended, late) = (lab.registered(tap("t3")), lab.registered(tap("t4")));
    lab.unregister(&ended).unwrap();
    // That it was asked is answered, with the first error; it stops nothing.
    lab.world.fail("k.delete(t4)@1");
    let devs = [&one, &fresh, &ended, &two, &late].map(Clone::clone);
    assert_eq!(refused(lab.unregister_in(1, &devs)), EINVAL);
    assert_eq!(late.reg_state(), RegState::Unregistered);
    assert_eq!(refused(lab.unregister_in(1, std::slice::from_ref(&fresh))), EINVAL);
    assert_eq!((one.reg_state(), two.reg_state()), (RegState::Unregistered, RegState::Unregistered));
    assert_eq!(fresh.reg_state(), RegState::Uninitialized);
    assert_eq!(lab.calls("t1"), Calls::default());
    lab.world.ledger.assert_balanced();
}

#[test]
fn k2_3_never_registered_it_is_freed_without_a_destructor() {
    let lab = lab(1);
    let dev = lab.own(tap("t0"));
    free_netdev(&dev).unwrap();
    assert_eq!(lab.take(), ["a.free(t0)"]);
    assert_eq!(dev.reg_state(), RegState::Released);
}

#[test]
fn k2_4_a_panic_in_ndo_init_poisons_the_plugin_and_fails_the_registration() {
    let lab = lab(1);
    let dev = lab.own(tap("t0"));
    lab.world.panic_at("a.ndo_init(t0)@1");
    assert!(lab.register(&dev).is_err());
    assert!(lab.a.poisoned());
    assert_eq!(lab.take(), ["a.ndo_init(t0)@1"]);
    assert_nothing_of(&lab, &dev);
}

#[test]
fn k2_4_registered_from_an_init_under_its_lock() {
    let (world, list) = (World::new(), PernetList::new());
    let member = add(&list, world.plugin("a", 0).subsys(), &[]);
    add(&list, world.plugin("w", 1).notifier(0), &[]);
    let net = world.net(1, &["lo"]);
    let dev = world.own(&member.owner, "t0", tap("t0"));
    let (own, weak) = (dev.clone(), std::sync::Arc::downgrade(&net));
    world.at("a.init0@1", move |_| {
        let net = weak.upgrade().unwrap();
        let held = net.rtnl().assert_rtnl().unwrap();
        register_netdevice(&held, &net, &own).unwrap();
    });
    assert_eq!(set_up(&list, &net).state, NetState::Live);
    assert_eq!(
        world.take(),
        ["a.init0@1", "a.ndo_init(t0)@1", "k.create(t0)@1", "w.n0.register~(lo)@1", "w.n0.register~(t0)@1"],
        "who listens hears of it once, by the replay"
    );
    world.heal();
    assert_eq!(clean_up(&list, &net, ExitReason::Died), []);
    world.ledger.assert_balanced();
    assert_eq!(world.kernel.ours(), []);
    assert_eq!(dev.reg_state(), RegState::Unregistered);
}

#[test]
fn k2_4_registered_in_an_init_that_fails_it_is_undone_with_the_rest() {
    let (world, list) = (World::new(), PernetList::new());
    let member = add(&list, world.plugin("a", 0).subsys(), &[]);
    let net = world.net(1, &["lo"]);
    let dev = world.own(&member.owner, "t0", tap("t0"));
    let (own, weak) = (dev.clone(), std::sync::Arc::downgrade(&net));
    world.at("a.init0@1", move |_| {
        let net = weak.upgrade().unwrap();
        let held = net.rtnl().assert_rtnl().unwrap();
        register_netdevice(&held, &net, &own).unwrap();
        dev_open(&held, &own).unwrap();
    });
    world.fail("a.init0@1");
    assert_eq!(set_up(&list, &net).state, NetState::Failed);
    world.ledger.assert_balanced();
    assert_eq!((world.kernel.ours(), dev.reg_state()), (vec![], RegState::Unregistered));
    assert!(!net.watched() && net.devices().is_empty());
}

#[test]
fn k2_4_a_pair_is_announced_other_end_first_and_both_stand_or_none() {
    let lab = lab(2);
    let (one, other) = lab.pair("v0", "v1");
    lab.register_pair(&other, &one, 2).unwrap();
    assert_eq!((one.reg_state(), other.reg_state()), (RegState::Registered, RegState::Registered));
    assert_eq!(lab.world.kernel.ours(), [(1, "v1".to_owned()), (2, "v0".to_owned())]);
    let calls = lab.take();
    let first = |call: &str| calls.iter().position(|c| c == call).unwrap_or_else(|| panic!("{call} in {calls:?}"));
    assert_eq!(calls.iter().filter(|call| call.starts_with("k.create")).count(), 1);
    assert!(first("w.n0.register(v0)@2") > first("k.create(v1,v0@2)@1"));
    assert!(first("w.n0.register(v1)@1") > first("k.create(v1,v0@2)@1"));
    lab.settle();
    assert_eq!(lab.take(), Vec::<String>::new());
    lab.assert_agrees();
    // One end takes the other along.
    lab.unregister_in(1, std::slice::from_ref(&other)).ok();
    lab.settle();
    assert_eq!(lab.world.kernel.ours(), []);
    assert_eq!((one.reg_state(), other.reg_state()), (RegState::Unregistered, RegState::Unregistered));
    lab.world.ledger.assert_balanced();
    lab.assert_agrees();
}

#[test]
fn k2_4_a_pair_whose_second_end_is_refused_leaves_none() {
    let refusals = [
        "a.ndo_init(v0)@2",
        "a.ndo_init(v1)@1",
        "x.n0.post_init(v0)@2",
        "x.n0.post_init(v1)@1",
        "k.create(v1,v0@2)@1",
        "x.n0.register(v0)@2",
        "x.n0.register(v1)@1",
    ];
    for refusal in refusals {
        let lab = lab(2);
        let (one, other) = lab.pair("v0", "v1");
        lab.world.fail(refusal);
        assert_eq!(refused(lab.register_pair(&other, &one, 2)), ODD, "{refusal}");
        assert!(lab.take().iter().any(|call| call == refusal), "{refusal}");
        lab.world.heal();
        lab.settle();
        assert_eq!(lab.take(), Vec::<String>::new(), "{refusal}: what was there for a moment is nobody's news");
        assert_eq!(lab.world.kernel.ours(), [], "{refusal}");
        for dev in [&one, &other] {
            assert_ne!(dev.reg_state(), RegState::Registered, "{refusal}");
        }
        lab.world.ledger.assert_balanced();
        lab.assert_agrees();
        for dev in [&one, &other] {
            free_netdev(dev).unwrap();
        }
        lab.world.ledger.assert_all_freed();
    }
}

#[test]
fn k2_4_without_the_lock_nothing_is_registered() {
    const EPERM: i32 = 1;
    let lab = lab(2);
    let dev = lab.own(tap("t0"));
    let (peer, near) = lab.pair("p0", "n0");
    lab.take();
    // The lock of another namespace proves nothing.
    assert_eq!(refused(lab.held(2, |held| register_netdevice(held, lab.net(1), &dev))), EPERM);
    for (cookie, nets) in [(1, (1, 2)), (2, (1, 2)), (1, (2, 2))] {
        let nets = (lab.net(nets.0), lab.net(nets.1));
        let answer = lab.held(cookie, |held| register_pair((held, held), nets, (&near, &peer)));
        assert_eq!(refused(answer), EPERM, "with the lock of {cookie} alone");
    }
    // Nor does one that was let go.
    let stale = lab.inside(&[1], || Ok(lab.net(1).rtnl().assert_rtnl()?)).unwrap();
    assert_eq!(refused(lab.inside(&[2], || register_netdevice(&stale, lab.net(1), &dev))), EPERM);
    // Nor is a thread that merely holds it in a hook.
    let held = lab.net(1).rtnl().lock().unwrap();
    assert_eq!(refused(register_netdevice(&held, lab.net(1), &dev)), EPERM);
    drop(held);
    assert_eq!(lab.net(1).rtnl().assert_rtnl().err().map(LockError::errno), Some(EPERM));
    assert_eq!(lab.take(), Vec::<String>::new(), "nobody was asked");
    for dev in [&dev, &peer, &near] {
        assert_eq!(dev.reg_state(), RegState::Uninitialized);
    }
    assert_nothing_of(&lab, &dev);
    lab.register(&dev).unwrap();
}

#[test]
fn register_netdev_takes_the_lock_and_from_a_hook_that_holds_it_is_edeadlk() {
    let lab = lab(1);
    let dev = lab.own(tap("t0"));
    let answer = lab.inside(&[1], || {
        let token = lab.list.read().unwrap();
        register_netdev(&token, lab.net(1), &dev)
    });
    assert_eq!(refused(answer), 35);
    assert_nothing_of(&lab, &dev);
    register_netdev(&lab.list.read().unwrap(), lab.net(1), &dev).unwrap();
    unregister_netdev(&lab.list.read().unwrap(), &dev).unwrap();
    assert_home();
    assert_eq!(dev.reg_state(), RegState::Unregistered);
    lab.world.ledger.assert_balanced();
}

#[test]
fn a_device_that_a_daemon_before_left_is_taken_over_and_anothers_is_not() {
    let lab = lab(1);
    let before = lab.opened(tap("t0"));
    let alias = lab.world.kernel.ours();
    assert_eq!(alias, [(1, "t0".to_owned())]);
    // A daemon that is stopped leaves it; the next one has a mirror of its own.
    let ifindex = before.device().unwrap().link.ifindex;
    let (world, list) = (World::on(&lab.world), PernetList::new());
    let a = add(&list, world.plugin("a", 0).subsys(), &[]).owner.clone();
    let other = add(&list, world.plugin("b", 1).subsys(), &[]).owner.clone();
    let net = world.life(1, 2);
    set_up(&list, &net);
    let theirs = world.own(&other, "t0", tap("t0"));
    assert_eq!(refused(register_netdev(&list.read().unwrap(), &net, &theirs)), EEXIST, "another plugin's mark");
    let kind = world.own(&a, "t0", spec("tun", "t0"));
    assert_eq!(refused(register_netdev(&list.read().unwrap(), &net, &kind)), EEXIST, "another kind");
    let ours = world.own(&a, "t0", tap("t0"));
    register_netdev(&list.read().unwrap(), &net, &ours).unwrap();
    assert_eq!(ours.device().unwrap().link.ifindex, ifindex);
    assert_eq!(net.devices().len(), 2);
    let foreign = world.kernel.other_adds(1, "eth0", "tap").unwrap();
    assert!(foreign > 0);
    let dev = world.own(&a, "eth0", tap("eth0"));
    assert_eq!(refused(register_netdev(&list.read().unwrap(), &net, &dev)), EEXIST, "nobody's mark");
}

#[test]
fn a_device_of_this_daemon_that_was_just_moved_here_is_not_taken_over_by_another_one() {
    let lab = lab(2);
    let dev = lab.opened(spec("ifb", "i0"));
    lab.settle();
    // Moved by another program, and not seen yet: it has our mark, our kind, and the name that is wanted next.
    lab.world.kernel.other_moves(1, dev.device().unwrap().link.ifindex, 2);
    let next = lab.own(spec("ifb", "i0"));
    assert_eq!(refused(lab.register_in(2, &next)), EEXIST);
    lab.settle();
    assert_eq!((dev.reg_state(), dev.net().unwrap().cookie.0), (RegState::Registered, 2));
    assert_eq!(lab.world.kernel.ours(), [(2, "i0".to_owned())]);
    lab.assert_agrees();
}

#[test]
fn k2_4_the_two_ends_of_a_pair_in_one_namespace_have_two_names() {
    let lab = lab(1);
    let (one, other) = lab.pair("v%d", "v%d");
    lab.register_pair(&other, &one, 1).unwrap();
    let name = |dev: &OwnDevice| dev.device().unwrap().link.name.clone();
    assert_eq!((name(&one), name(&other)), ("v0".into(), "v1".into()), "the peer is first");
    let (same, again) = lab.pair("w0", "w0");
    lab.take();
    assert_eq!(refused(lab.register_pair(&again, &same, 1)), EEXIST);
    assert_eq!(lab.take(), Vec::<String>::new(), "before anything is done");
    lab.settle();
    lab.assert_agrees();
}
