//! K2.8: a device of a plugin's own moves to another namespace, by its plugin or by another program.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pernet_plugin_api::{RegState, Verdict};

use super::kernel::{Descriptors, EBUSY, EEXIST, EINVAL, ENODEV};
use super::lab::*;
use super::ndo::*;
use super::recorder::ODD;
use crate::engine::*;

const NONE: [String; 0] = [];

fn at(dev: &OwnDevice) -> (u64, String) {
    (dev.net().unwrap().cookie.0, dev.device().unwrap().link.name.clone())
}

/// The namespace that the device's descriptors keep.
fn kept_by(dev: &OwnDevice) -> Option<u64> {
    let queues = dev.life().queues.clone()?;
    queues.downcast_ref::<Descriptors>().map(|queues| queues.opened)
}

fn of_w(lab: &Lab) -> Vec<String> {
    lab.take().into_iter().filter(|call| !call.starts_with("x.")).collect()
}

fn assert_same(lab: &Lab) {
    lab.assert_agrees();
    lab.settle();
    lab.assert_agrees();
    assert_eq!(lab.take(), NONE, "the echo is no event");
}

#[test]
fn k2_8_the_order_of_a_move_of_a_device_that_is_up() {
    let lab = lab(2);
    let dev = lab.opened(tap("t0"));
    let serial = dev.device().unwrap().serial;
    let seen = dev.clone();
    lab.world.at("w.n0.unregister(t0)@1", move |net| {
        assert_eq!(seen.reg_state(), RegState::Registered, "that is how a move is told from an end");
        assert!(net.devices().iter().all(|dev| dev.link.name != "t0"));
    });
    lab.travel(&dev, 2, None, 0).unwrap();
    let calls = of_w(&lab);
    let told: Vec<_> = calls.iter().filter(|call| !call.starts_with("k.")).cloned().collect();
    assert_eq!(
        told,
        ["w.n0.goingdown(t0)@1", "a.ndo_stop(t0)@1", "w.n0.down(t0)@1", "w.n0.unregister(t0)@1", "w.n0.register(t0)@2",],
        "not initialised again, and not opened again"
    );
    assert!(calls.contains(&"k.move(t0=2)@1".to_owned()));
    assert_eq!((at(&dev), dev.reg_state()), ((2, "t0".into()), RegState::Registered));
    assert_eq!(kept_by(&dev), Some(2), "nothing of it keeps the namespace that it left");
    assert!(!dev.device().unwrap().link.is_up());
    assert!(dev.device().unwrap().serial > serial, "a new serial");
    assert!(lab.net(1).own_devices().is_empty());
    assert_eq!(lab.net(2).own_devices().len(), 1);
    assert_same(&lab);
    // It goes on there.
    lab.held(2, |held| dev_open(held, &dev)).unwrap();
    lab.unregister_in(2, std::slice::from_ref(&dev)).unwrap();
    lab.world.ledger.assert_balanced();
    lab.take();
    assert_same(&lab);
}

#[test]
fn k2_8_to_where_it_is_is_nothing() {
    let lab = lab(1);
    let dev = lab.opened(tap("t0"));
    let answer = lab.held(1, |held| dev_change_net_namespace((held, held), &dev, lab.net(1), None, 0));
    answer.unwrap();
    assert_eq!((lab.take(), at(&dev)), (vec![], (1, "t0".into())));
    assert!(dev.device().unwrap().link.is_up());
}

#[test]
fn k2_8_what_may_not_move_is_einval() {
    let lab = lab(2);
    let marked = lab.opened(LinkSpec { immutable: true, ..tap("t0") });
    let bridge = lab.opened(spec("bridge", "br0"));
    for dev in [&marked, &bridge] {
        assert_eq!(refused(lab.travel(dev, 2, None, 0)), EINVAL);
        assert_eq!((at(dev).0, dev.reg_state()), (1, RegState::Registered));
    }
    let calls = lab.take();
    assert!(calls.iter().all(|call| !call.contains("unregister(")), "{calls:?}");
    lab.settle();
    lab.assert_agrees();
}

#[test]
fn k2_8_a_name_clash_without_a_pattern_is_eexist_before_anything_is_done() {
    let lab = lab(2);
    let dev = lab.opened(tap("t0"));
    lab.world.kernel.other_adds(2, "t0", "ifb").unwrap();
    lab.settle();
    lab.take();
    assert_eq!(refused(lab.travel(&dev, 2, None, 0)), EEXIST);
    assert_eq!(lab.take(), NONE);
    assert!(dev.device().unwrap().link.is_up());
    lab.travel(&dev, 2, Some("t%d"), 0).unwrap();
    assert_eq!(at(&dev), (2, "t1".into()));
    assert_eq!(lab.world.kernel.find(2, "t1").map(|link| link.ifindex), dev.device().map(|d| d.link.ifindex));
    lab.take();
    assert_same(&lab);
}

#[test]
fn k2_8_what_is_taken_there_unread_is_refused_before_anything_is_done_too() {
    let lab = lab(2);
    let dev = lab.opened(LinkSpec { alt_names: vec!["wan".into()], ifindex: 40, ..tap("t0") });
    lab.settle();
    // What somebody else made there, of which nobody has read.
    let other = lab.world.kernel.other_adds(2, "t0", "ifb").unwrap();
    assert_eq!(refused(lab.travel(&dev, 2, None, 0)), EEXIST);
    assert_eq!(refused(lab.travel(&dev, 2, Some("u%d"), other)), EBUSY);
    lab.world.kernel.other(2, other, &LinkChange::AddAltName("wan"));
    assert_eq!(
        refused(lab.travel(&dev, 2, Some("u%d"), 0)),
        EEXIST,
        "an alternative name's, for which there is no pattern"
    );
    assert_eq!(lab.take(), NONE);
    assert!(dev.device().unwrap().link.is_up());
    lab.world.kernel.other(2, other, &LinkChange::DelAltName("wan"));
    lab.travel(&dev, 2, Some("t%d"), 0).unwrap();
    assert_eq!(at(&dev), (2, "t1".into()));
    lab.settle();
    lab.assert_agrees();
}

#[test]
fn k2_8_a_patterns_name_that_is_taken_in_the_same_moment_is_the_next_one() {
    let lab = lab(2);
    let dev = lab.registered(tap("t0"));
    let world = lab.world.clone();
    // As soon as one is found, somebody else takes it; a few times.
    lab.world.at("k.move(t0=2)@1", move |_| {
        let free = (0..3).find(|n| world.kernel.find(2, &format!("t{n}")).is_none());
        free.map(|n| world.kernel.other_adds(2, &format!("t{n}"), "ifb").unwrap());
    });
    lab.travel(&dev, 2, Some("t%d"), 0).unwrap();
    lab.world.heal();
    assert_eq!(at(&dev), (2, "t3".into()));
    lab.settle();
    lab.assert_agrees();
    lab.unregister_in(2, std::slice::from_ref(&dev)).unwrap();
    lab.world.ledger.assert_balanced();
}

#[test]
fn k2_8_a_pattern_is_for_a_clash_only_and_must_be_one_that_gives_a_name() {
    let lab = lab(2);
    let dev = lab.registered(tap("t0"));
    lab.travel(&dev, 2, Some("u%d"), 0).unwrap();
    assert_eq!(at(&dev), (2, "t0".into()), "it keeps the name that it has");
    let next = lab.registered(tap("t0"));
    for bad in ["", "a/b", "%s", "u%d%d"] {
        assert_eq!(refused(lab.travel(&next, 2, Some(bad), 0)), EINVAL, "{bad:?}");
    }
    assert_eq!(refused(lab.travel(&next, 2, Some("lo"), 0)), EEXIST);
    lab.travel(&next, 2, Some("literal"), 0).unwrap();
    assert_eq!(at(&next), (2, "literal".into()));
    lab.settle();
    lab.assert_agrees();
}

#[test]
fn k2_8_an_alternative_name_that_clashes_is_eexist() {
    let lab = lab(2);
    let dev = lab.opened(LinkSpec { alt_names: vec!["wan".into()], ..tap("t0") });
    lab.world.kernel.other_adds(2, "wan", "ifb").unwrap();
    lab.settle();
    lab.take();
    assert_eq!(refused(lab.travel(&dev, 2, Some("t%d"), 0)), EEXIST);
    assert_eq!(lab.take(), NONE);
    assert_eq!(at(&dev), (1, "t0".into()));
    assert!(dev.device().unwrap().link.is_up());
}

#[test]
fn k2_8_an_index_that_is_taken_is_ebusy() {
    let lab = lab(2);
    let dev = lab.opened(tap("t0"));
    assert_eq!(refused(lab.travel(&dev, 2, None, 1)), EBUSY);
    assert_eq!(lab.take(), NONE);
    assert!(dev.device().unwrap().link.is_up());
}

#[test]
fn k2_8_register_there_is_not_honoured() {
    for verdict in [Verdict::Bad, Verdict::Stop] {
        let lab = lab(2);
        let dev = lab.registered(tap("t0"));
        lab.world.verdict("w.n0.register(t0)@2", verdict);
        lab.travel(&dev, 2, None, 0).unwrap();
        assert_eq!((at(&dev).0, dev.reg_state()), (2, RegState::Registered));
        assert!(!lab.take().contains(&"x.n0.register(t0)@2".to_owned()), "it cuts the chain");
        assert_same(&lab);
    }
}

#[test]
fn k2_8_the_kernels_refusal_leaves_it_where_it_is() {
    let lab = lab(2);
    let dev = lab.opened(tap("t0"));
    lab.world.fail("k.move(t0=2)@1");
    assert_eq!(refused(lab.travel(&dev, 2, None, 0)), ODD);
    assert_eq!((at(&dev), dev.reg_state()), ((1, "t0".into()), RegState::Registered));
    lab.settle();
    lab.assert_agrees();
    let calls = lab.calls("t0");
    assert_eq!(dev.device().unwrap().link.is_up(), calls.open > calls.stop);
    lab.world.heal();
    lab.unregister(&dev).unwrap();
    lab.world.ledger.assert_balanced();
}

#[test]
fn k2_8_a_reference_is_to_the_device_and_moves_along() {
    let lab = lab(2);
    lab.unregister_timeout(std::time::Duration::from_millis(50));
    let dev = lab.registered(tap("t0"));
    let known = dev.device().unwrap();
    let held = dev_hold(lab.net(1), known.link.ifindex, known.serial, "b", "a route").unwrap();
    lab.travel(&dev, 2, None, 0).unwrap();
    assert_eq!(dev.holders().len(), 1);
    let _ = lab.unregister_in(2, std::slice::from_ref(&dev));
    assert_eq!(lab.calls("t0").destructor, 0, "it waits for it there");
    drop(held);
}

#[test]
fn k2_8_moved_by_another_program_it_is_unregistered_here_as_registered_and_registered_there() {
    for late in [false, true] {
        let lab = lab(2);
        let dev = lab.opened(tap("t0"));
        lab.settle();
        lab.world.arrivals_wait.store(late, Ordering::SeqCst);
        let serial = dev.device().unwrap().serial;
        let seen = dev.clone();
        lab.world.at("w.n0.unregister(t0)@1", move |_| assert_eq!(seen.reg_state(), RegState::Registered));
        let there = lab.world.kernel.other_moves(1, dev.device().unwrap().link.ifindex, 2);
        lab.take();
        assert_eq!(lab.settle(), []);
        let calls = of_w(&lab);
        let here: Vec<_> = calls.iter().filter(|call| call.ends_with("@1")).cloned().collect();
        assert_eq!(
            here,
            ["w.n0.goingdown(t0)@1", "a.ndo_stop(t0)@1", "w.n0.down(t0)@1", "w.n0.unregister(t0)@1"],
            "late: {late}"
        );
        assert!(calls.contains(&"w.n0.register(t0)@2".to_owned()), "late {late}: {calls:?}");
        assert_eq!((at(&dev), dev.reg_state()), ((2, "t0".into()), RegState::Registered), "late: {late}");
        assert_eq!((dev.device().unwrap().link.ifindex, kept_by(&dev)), (there, Some(2)));
        assert!(dev.device().unwrap().serial > serial);
        assert_eq!((lab.calls("t0").init, lab.calls("t0").uninit), (1, 0));
        assert_same(&lab);
        assert!(lab.net(2).devices().iter().any(|d| d.own.as_ref().is_some_and(|own| Arc::ptr_eq(own, &dev))));
        lab.unregister_in(2, std::slice::from_ref(&dev)).unwrap();
        lab.world.ledger.assert_balanced();
        assert_eq!(lab.world.kernel.ours(), []);
    }
}

#[test]
fn k2_8_moved_by_another_program_to_where_nobody_manages_it_is_lost_and_ends_whole() {
    let lab = lab(1);
    let dev = lab.opened(LinkSpec { needs_free: true, ..tap("t0") });
    lab.settle();
    lab.world.kernel.other_moves(1, dev.device().unwrap().link.ifindex, 77);
    assert_eq!(lab.settle(), []);
    assert_eq!(lab.calls("t0"), Calls { init: 1, uninit: 1, open: 1, stop: 1, destructor: 1, free: 1 });
    assert!(matches!(dev.reg_state(), RegState::Unregistered | RegState::Released));
    lab.take();
    assert_same(&lab);
}

#[test]
fn k2_8_gone_again_before_it_arrived_it_ends_there() {
    let lab = lab(2);
    let dev = lab.registered(tap("t0"));
    lab.settle();
    lab.world.arrivals_wait.store(true, Ordering::SeqCst);
    let there = lab.world.kernel.other_moves(1, dev.device().unwrap().link.ifindex, 2);
    lab.world.kernel.other_deletes(2, there);
    lab.settle();
    assert_eq!((lab.calls("t0").uninit, lab.calls("t0").destructor), (1, 1));
    assert_eq!(dev.reg_state(), RegState::Unregistered);
    lab.assert_agrees();
}

#[test]
fn k2_8_the_namespace_there_dies_before_it_arrives() {
    let lab = lab(2);
    let dev = lab.registered(tap("t0"));
    lab.settle();
    lab.world.arrivals_wait.store(true, Ordering::SeqCst);
    lab.world.kernel.other_moves(1, dev.device().unwrap().link.ifindex, 2);
    lab.world.deliver(&lab.list, usize::MAX);
    lab.die(2);
    lab.settle();
    assert_eq!((lab.calls("t0").uninit, lab.calls("t0").destructor), (1, 1));
    assert_eq!(dev.reg_state(), RegState::Unregistered);
    lab.world.ledger.assert_balanced();
}

#[test]
fn k2_8_renamed_by_another_program_just_before_it_moves_it_is_found_there() {
    let lab = lab(2);
    let dev = lab.registered(tap("t0"));
    // Its index is taken there, so it is found by its name.
    lab.world.kernel.other_adds(2, "eth0", "ifb").unwrap();
    lab.settle();
    lab.world.kernel.other(1, dev.device().unwrap().link.ifindex, &LinkChange::Name("wan"));
    lab.travel(&dev, 2, None, 0).unwrap();
    assert_eq!((at(&dev), dev.reg_state()), ((2, "wan".into()), RegState::Registered));
    lab.settle();
    lab.assert_agrees();
    lab.unregister_in(2, std::slice::from_ref(&dev)).unwrap();
    assert_eq!(lab.world.kernel.ours(), []);
}

#[test]
fn k2_8_another_device_that_has_its_index_by_now_is_not_moved() {
    let lab = lab(2);
    let dev = lab.registered(spec("ifb", "i0"));
    lab.settle();
    let index = dev.device().unwrap().link.ifindex;
    lab.world.kernel.other_deletes(1, index);
    lab.world.kernel.state().space(1).set_last(index - 1);
    assert_eq!(lab.world.kernel.other_adds(1, "i0", "ifb").unwrap(), index);
    assert_eq!(refused(lab.travel(&dev, 2, None, 0)), ENODEV);
    assert!(lab.world.kernel.find(1, "i0").is_some() && lab.world.kernel.find(2, "i0").is_none());
    lab.settle();
    assert_eq!(dev.reg_state(), RegState::Unregistered);
    assert!(lab.world.kernel.find(1, "i0").is_some());
    lab.assert_agrees();
}

#[test]
fn k2_8_it_takes_the_place_of_one_whose_end_was_not_seen_yet() {
    let lab = lab(2);
    let ghost = lab.own(LinkSpec { ifindex: 9, ..tap("t0") });
    lab.register_in(2, &ghost).unwrap();
    let dev = lab.registered(LinkSpec { ifindex: 9, ..tap("t1") });
    lab.world.kernel.other_deletes(2, 9);
    // The kernel has the index free again, the mirror does not.
    lab.travel(&dev, 2, None, 0).unwrap();
    lab.settle();
    assert_eq!((ghost.reg_state(), dev.reg_state()), (RegState::Unregistered, RegState::Registered));
    assert_eq!((lab.calls("t0").uninit, lab.calls("t1").uninit), (1, 0));
    lab.assert_agrees();
}

#[test]
fn k2_8_moved_on_before_it_was_looked_for_it_ends_and_the_link_is_nobodys() {
    let lab = lab(2);
    let dev = lab.opened(spec("ifb", "i0"));
    lab.settle();
    let there = lab.world.kernel.other_moves(1, dev.device().unwrap().link.ifindex, 2);
    lab.world.kernel.other_moves(2, there, 1);
    assert_eq!(lab.settle(), []);
    assert_eq!((dev.reg_state(), lab.calls("i0").uninit), (RegState::Unregistered, 1));
    lab.world.ledger.assert_balanced();
    lab.assert_agrees();
    assert!(lab.net(1).devices().iter().any(|known| known.link.name == "i0" && known.own.is_none()));
    // Its plugin may take it over again.
    let next = lab.own(spec("ifb", "i0"));
    lab.register(&next).unwrap();
    lab.settle();
    lab.assert_agrees();
}

#[test]
fn k2_8_a_tap_whose_queues_cannot_be_opened_there_ends_and_says_so() {
    for by_others in [false, true] {
        let lab = lab(2);
        let dev = lab.opened(tap("t0"));
        lab.settle();
        lab.world.fail("k.reopen(t0)@2");
        if by_others {
            lab.world.kernel.other_moves(1, dev.device().unwrap().link.ifindex, 2);
            let errors = lab.settle();
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(errors[0].to_string().contains("device `t0` of plugin `a` is moved"), "{}", errors[0]);
        } else {
            let failure = lab.travel(&dev, 2, None, 0).unwrap_err();
            assert!(failure.message.contains("is moved") && failure.message.contains("ends"), "{failure}");
        }
        assert_eq!(dev.reg_state(), RegState::Unregistered);
        let calls = lab.calls("t0");
        assert_eq!((calls.open, calls.stop, calls.uninit, calls.destructor), (1, 1, 1, 1));
        assert_eq!(lab.world.kernel.ours(), []);
        lab.world.heal();
        lab.settle();
        // It was there, and nobody's, for a moment.
        let told = |what: &str| lab.world.count(&format!("w.n0.{what}(t0)@2"));
        assert_eq!((told("register"), told("unregister")), (1, 1));
        lab.assert_agrees();
        assert!(lab.net(2).own_devices().is_empty() && lab.net(1).own_devices().is_empty());
        lab.world.ledger.assert_balanced();
    }
}
