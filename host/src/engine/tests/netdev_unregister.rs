//! K2.5 and K2.6: the order of an unregistration, and what is left for after the unlock.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use pernet_plugin_api::{ExitReason, RegState, Verdict};

use super::lab::*;
use super::ndo::*;
use super::recorder::*;
use crate::engine::*;

const LONG: Duration = Duration::from_secs(20);

/// Waits until something is so, and fails loudly where it never is.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !so() {
        assert!(Instant::now() < end, "{what}");
        thread::yield_now();
    }
}

fn hold(dev: &OwnDevice, holder: &str, purpose: &str) -> NetdevRef {
    let known = dev.device().unwrap();
    dev_hold(&dev.net().unwrap(), known.link.ifindex, known.serial, holder, purpose).unwrap()
}

#[test]
fn k2_5_the_order_of_an_unregistration() {
    let lab = lab(1);
    let dev = lab.registered(LinkSpec { needs_free: true, ..tap("t0") });
    let (state, world) = (dev.clone(), lab.world.clone());
    lab.world.at("w.n0.unregister(t0)@1", move |net| {
        assert_eq!(state.reg_state(), RegState::Unregistering);
        assert!(net.devices().iter().all(|dev| dev.link.name != "t0"), "out of the lists before anybody hears");
    });
    lab.held(1, |held| {
        unregister_many(&[held], std::slice::from_ref(&dev))?;
        world.note("unlock".into());
        Ok(())
    })
    .unwrap();
    assert_eq!(
        lab.take(),
        [
            // Its name and index are free before anybody hears (K2.5(3)).
            "k.delete(t0)@1",
            "w.n0.unregister(t0)@1",
            "x.n0.unregister(t0)@1",
            "w.n0.pre_uninit(t0)@1",
            "x.n0.pre_uninit(t0)@1",
            "a.ndo_uninit(t0)@1",
            "unlock",
            "a.destructor(t0)",
            "a.free(t0)",
        ]
    );
    assert_eq!(dev.reg_state(), RegState::Released);
    assert_eq!(lab.settle(), []);
    assert_eq!(lab.take(), Vec::<String>::new(), "the echo of the end is no event");
    lab.assert_agrees();
    assert!(lab.net(1).own_devices().is_empty());
}

#[test]
fn k2_5_2_all_that_are_up_are_closed_as_one_batch_before_any_goes() {
    let lab = lab(1);
    let devs = [lab.opened(tap("t0")), lab.registered(tap("t1")), lab.opened(tap("t2"))];
    lab.unregister_in(1, &devs).unwrap();
    let calls = lab.take();
    let only_w = calls.iter().filter(|call| !call.starts_with("x.") && !call.starts_with("k."));
    assert_eq!(
        only_w.collect::<Vec<_>>(),
        [
            "w.n0.goingdown(t0)@1",
            "w.n0.goingdown(t2)@1",
            "a.ndo_stop(t0)@1",
            "a.ndo_stop(t2)@1",
            "w.n0.down(t0)@1",
            "w.n0.down(t2)@1",
            "w.n0.unregister(t0)@1",
            "w.n0.pre_uninit(t0)@1",
            "a.ndo_uninit(t0)@1",
            "w.n0.unregister(t1)@1",
            "w.n0.pre_uninit(t1)@1",
            "a.ndo_uninit(t1)@1",
            "w.n0.unregister(t2)@1",
            "w.n0.pre_uninit(t2)@1",
            "a.ndo_uninit(t2)@1",
            "a.destructor(t0)",
            "a.destructor(t1)",
            "a.destructor(t2)",
        ]
    );
    lab.world.ledger.assert_balanced();
    lab.settle();
    lab.assert_agrees();
}

#[test]
fn k2_5_3_name_and_index_are_free_in_the_same_section() {
    let lab = lab(1);
    let dev = lab.registered(LinkSpec { ifindex: 9, alt_names: vec!["alias".into()], ..tap("t0") });
    let next = lab.own(LinkSpec { ifindex: 9, alt_names: vec!["alias".into()], ..tap("t0") });
    lab.held(1, |held| {
        unregister_many(&[held], std::slice::from_ref(&dev))?;
        register_netdevice(held, lab.net(1), &next)
    })
    .unwrap();
    assert_eq!(next.device().unwrap().link.ifindex, 9);
    assert_eq!(dev.reg_state(), RegState::Unregistered);
    lab.settle();
    lab.assert_agrees();
    assert_eq!(next.reg_state(), RegState::Registered, "the echo of the first one's end is not the second's");
}

#[test]
fn k2_5_named_twice_it_goes_once() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    lab.unregister_in(1, &[dev.clone(), dev.clone()]).unwrap();
    assert_eq!((lab.calls("t0").uninit, lab.calls("t0").destructor), (1, 1));
}

#[test]
fn k2_5_errors_of_stop_uninit_and_destructor_stop_nothing() {
    let lab = lab(1);
    let dev = lab.opened(LinkSpec { needs_free: true, ..tap("t0") });
    for call in ["a.ndo_stop(t0)@1", "a.ndo_uninit(t0)@1", "a.destructor(t0)", "a.free(t0)"] {
        lab.world.fail(call);
    }
    lab.world.verdict("w.n0.unregister(t0)@1", Verdict::Bad);
    let _ = lab.unregister(&dev);
    assert_eq!(
        lab.calls("t0"),
        Calls { init: 1, uninit: 1, open: 1, stop: 1, destructor: 1, free: 1 },
        "nothing is left out"
    );
    assert_eq!((dev.reg_state(), lab.world.kernel.ours()), (RegState::Released, vec![]));
    lab.settle();
    lab.assert_agrees();
}

#[test]
fn k2_5_a_device_that_the_kernel_has_not_any_more_is_unregistered_all_the_same() {
    let lab = lab(1);
    let dev = lab.opened(tap("t0"));
    lab.world.kernel.other_deletes(1, dev.device().unwrap().link.ifindex);
    lab.unregister(&dev).unwrap();
    assert_eq!(dev.reg_state(), RegState::Unregistered);
    lab.world.ledger.assert_balanced();
    lab.settle();
    lab.assert_agrees();
    assert_eq!(lab.calls("t0").uninit, 1, "the late message changes nothing");
}

#[test]
fn k2_5_one_that_the_kernel_does_not_delete_ends_here_with_its_errno_and_is_nobodys() {
    let lab = lab(1);
    let dev = lab.opened(spec("ifb", "i0"));
    lab.world.fail("k.delete(i0)@1");
    assert_eq!(refused(lab.unregister(&dev)), ODD);
    assert_eq!((dev.reg_state(), lab.calls("i0").destructor), (RegState::Unregistered, 1));
    lab.world.ledger.assert_balanced();
    lab.settle();
    lab.assert_agrees();
    assert!(lab.net(1).devices().iter().any(|known| known.link.name == "i0" && known.own.is_none()), "it is there");
}

#[test]
fn k2_6_1_the_destructor_runs_after_the_unlock_before_the_call_returns_without_the_lock() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    let (net, world) = (lab.net(1).clone(), lab.world.clone());
    let held = lab.net(1).clone();
    lab.world.at("a.ndo_uninit(t0)@1", move |net| {
        let world = world.clone();
        // Work that was left before the device: the todo is in order.
        net.rtnl().defer(Box::new(move || world.note("work".into()))).unwrap();
    });
    lab.unregister(&dev).unwrap();
    assert!(!net.rtnl().held_by_me() && !held.rtnl().held_by_me());
    let calls = lab.take();
    assert_eq!(calls.last().unwrap(), "a.destructor(t0)");
    assert!(calls.contains(&"work".to_owned()));
}

#[test]
fn k2_6_4_whichever_is_free_first_ends_first_and_others_may_take_the_lock_meanwhile() {
    let lab = lab(1);
    let (one, two) = (lab.registered(tap("t0")), lab.registered(tap("t1")));
    let reference = hold(&one, "b", "a route");
    thread::scope(|scope| {
        let going = scope.spawn(|| lab.unregister_in(1, &[one.clone(), two.clone()]));
        until("t1 ends", || lab.calls("t1").destructor == 1);
        assert_eq!((lab.calls("t0").destructor, one.reg_state()), (0, RegState::Unregistered));
        drop(lab.net(1).rtnl().lock_within(LONG).expect("who waits for a reference holds no lock"));
        let third = lab.own(tap("t0"));
        lab.register(&third).unwrap();
        assert!(!going.is_finished(), "it waits");
        let holders = one.holders();
        assert_eq!(holders.len(), 1);
        assert_eq!((&*holders[0].plugin, &*holders[0].purpose), ("b", "a route"));
        assert!(lab.net(1).own_devices().iter().any(|dev| Arc::ptr_eq(dev, &one)), "visible while it waits");
        drop(reference);
        going.join().unwrap().unwrap();
    });
    assert_eq!((lab.calls("t0").destructor, one.reg_state()), (1, RegState::Unregistered));
    assert!(one.holders().is_empty());
}

#[test]
fn k2_6_5_unregister_is_told_again_each_second_on_a_device_that_is_out_of_every_list() {
    let lab = lab(1);
    lab.unregister_pace(Duration::from_millis(20), LONG);
    let dev = lab.registered(tap("t0"));
    let reference = hold(&dev, "b", "a route");
    thread::scope(|scope| {
        let going = scope.spawn(|| lab.unregister(&dev));
        let told = || lab.world.count("w.n0.unregister(t0)@1");
        until("UNREGISTER is told again", || told() >= 2);
        assert!(lab.net(1).devices().iter().all(|dev| dev.link.name != "t0"));
        assert_eq!(lab.calls("t0").uninit, 1, "only told");
        drop(reference);
        going.join().unwrap().unwrap();
    });
    assert_eq!(lab.calls("t0").destructor, 1);
}

#[test]
fn k2_6_5_by_default_it_is_told_again_each_second_and_named_after_ten() {
    let pace = crate::engine::todo::Patience::default().pace();
    assert_eq!((pace.retell, pace.warn), (Duration::from_secs(1), Duration::from_secs(10)));
    assert_eq!(pace.bound, pace.warn, "named before it is given up");
}

#[test]
fn k2_6_5_after_long_the_wait_names_the_holders_again_and_again() {
    let lab = lab(1);
    lab.unregister_pace(LONG, Duration::from_millis(20));
    let dev = lab.registered(tap("t0"));
    let (one, two) = (hold(&dev, "b", "a route"), hold(&dev, "c", "datapath, queue 0"));
    thread::scope(|scope| {
        let going = scope.spawn(|| lab.unregister(&dev));
        until("both are named", || lab.world.count("k.waiting(t0: b/a route, c/datapath, queue 0)@1") >= 2);
        drop(one);
        until("one is named", || lab.world.count("k.waiting(t0: c/datapath, queue 0)@1") >= 1);
        drop(two);
        going.join().unwrap().unwrap();
    });
    assert_eq!(lab.calls("t0").destructor, 1);
    assert!(lab.take().iter().all(|call| !call.starts_with("k.leaked")));
}

#[test]
fn k2_6_5_the_wait_is_bounded_and_what_it_leaves_is_leaked_and_visible() {
    let lab = lab(1);
    lab.unregister_timeout(Duration::from_millis(50));
    let dev = lab.registered(LinkSpec { needs_free: true, ..tap("t0") });
    let reference = hold(&dev, "b", "a route");
    let _ = lab.unregister(&dev);
    let calls = lab.take();
    assert!(calls.contains(&"k.leaked(t0: b/a route)@1".to_owned()), "{calls:?}");
    assert_eq!((lab.calls("t0").uninit, lab.calls("t0").destructor, lab.calls("t0").free), (1, 0, 0));
    assert_eq!(dev.reg_state(), RegState::Unregistered);
    let left = lab.net(1).own_devices();
    assert_eq!((left.len(), left[0].holders().len()), (1, 1));
    assert_eq!(lab.world.kernel.ours(), [], "the kernel's device is gone");
    // Nothing else is harmed.
    let next = lab.registered(tap("t0"));
    lab.unregister(&next).unwrap();
    drop(reference);
    assert!(dev.holders().is_empty());
    assert_eq!((lab.calls("t0").destructor, lab.calls("t0").free), (1, 1), "who lets it go last ends it");
    assert!(lab.net(1).own_devices().is_empty());
}

#[test]
fn k2_6_6_two_references_by_two_plugins_are_both_named_and_each_put_counts_once() {
    let lab = lab(1);
    lab.unregister_timeout(Duration::from_millis(50));
    let dev = lab.registered(tap("t0"));
    let (one, two) = (hold(&dev, "b", "one"), hold(&dev, "c", "two"));
    let purposes = |dev: &OwnDevice| dev.holders().iter().map(|h| h.purpose.to_string()).collect::<Vec<_>>();
    assert_eq!(purposes(&dev), ["one", "two"]);
    drop(one);
    assert_eq!(purposes(&dev), ["two"]);
    let _ = lab.unregister(&dev);
    assert_eq!(lab.calls("t0").destructor, 0);
    drop(two);
}

#[test]
fn dev_hold_names_a_device_by_index_and_serial() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    let known = dev.device().unwrap();
    let hold = |ifindex, serial| dev_hold(lab.net(1), ifindex, serial, "b", "x").map(drop).map_err(|f| f.errno);
    assert_eq!(hold(known.link.ifindex, known.serial), Ok(()));
    assert_eq!(hold(known.link.ifindex, known.serial + 1), Err(super::kernel::ENODEV), "another device of that index");
    assert_eq!(hold(4711, known.serial), Err(super::kernel::ENODEV));
    let lo = lab.net(1).devices()[0].clone();
    assert_eq!(hold(1, lo.serial), Ok(()), "the kernel's devices too");
    lab.unregister(&dev).unwrap();
    assert_eq!(hold(known.link.ifindex, known.serial), Err(super::kernel::ENODEV), "no new reference on what goes");
}

#[test]
fn k2_6_the_lock_again_is_edeadlk_from_ndo_and_from_the_chain() {
    let lab = lab(1);
    let (sender, errors) = mpsc::channel();
    for call in ["a.ndo_init(t0)@1", "w.n0.register(t0)@1", "a.ndo_uninit(t0)@1"] {
        let sender = sender.clone();
        lab.world.at(call, move |net| sender.send(net.rtnl().lock().err()).unwrap());
    }
    let dev = lab.own(tap("t0"));
    lab.register(&dev).unwrap();
    lab.unregister(&dev).unwrap();
    drop(sender);
    lab.world.heal();
    assert_eq!(errors.iter().collect::<Vec<_>>(), vec![Some(LockError::Deadlock); 3]);
}

#[test]
fn k2_6_a_plugins_end_unregisters_what_it_left_newest_first() {
    let lab = lab(1);
    let (one, two) = (lab.opened(tap("t0")), lab.registered(tap("t1")));
    let (_, errors) = unregister(&write(&lab.list), "a", &lab.nets, ExitReason::Removed);
    assert_eq!(errors, []);
    let calls = lab.take();
    let ends: Vec<_> = calls.iter().filter(|c| c.starts_with("a.") || c.starts_with("k.delete")).cloned().collect();
    let at = |call: &str| ends.iter().position(|c| c.starts_with(call)).unwrap_or_else(|| panic!("{call}: {ends:?}"));
    assert!(at("a.pre_exit0@1") < at("a.ndo_uninit(t1)"));
    assert!(at("a.ndo_uninit(t1)") < at("a.ndo_uninit(t0)"), "newest first");
    assert!(at("a.ndo_uninit(t0)") < at("a.exit0@1"), "before the subsystem's exit");
    assert!(at("a.ndo_stop(t0)") < at("a.ndo_uninit(t0)"));
    assert_eq!((one.reg_state(), two.reg_state()), (RegState::Unregistered, RegState::Unregistered));
    lab.world.ledger.assert_balanced();
    assert_eq!(lab.world.kernel.ours(), []);
    // The others were told, and stay.
    assert!(calls.contains(&"w.n0.unregister(t0)@1".to_owned()));
    lab.settle();
    lab.assert_agrees();
}

#[test]
fn a_stop_ends_the_devices_here_and_leaves_the_kernels_as_they_are() {
    let lab = lab(1);
    let (one, two) = (lab.opened(spec("ifb", "i0")), lab.registered(spec("ifb", "i1")));
    assert_eq!(cleanup_all(&write(&lab.list), &lab.nets, ExitReason::Stopped), []);
    assert_home();
    assert!(lab.world.kernel.find(1, "i0").unwrap().is_up());
    assert!(!lab.world.kernel.find(1, "i1").unwrap().is_up());
    assert!(lab.take().iter().all(|call| !call.starts_with("k.")), "nothing is asked of the kernel");
    lab.world.ledger.assert_balanced();
    assert_eq!((one.reg_state(), two.reg_state()), (RegState::Unregistered, RegState::Unregistered));
}

/// Stops with devices in 1 and 2, after `act`; gives the marked ones that are left.
fn left_by_a_stop(act: impl FnOnce(&Lab)) -> Vec<(u64, String)> {
    let lab = lab(2);
    act(&lab);
    lab.settle();
    assert_eq!(cleanup_all(&write(&lab.list), &lab.nets, ExitReason::Stopped), []);
    assert_home();
    lab.world.ledger.assert_balanced();
    lab.world.kernel.ours()
}

#[test]
fn a_stop_deletes_what_no_later_start_would_find() {
    let none: Vec<(u64, String)> = Vec::new();
    let pattern = left_by_a_stop(|lab| drop(lab.opened(spec("ifb", "i%d"))));
    assert_eq!(pattern, none, "the next one would be the lowest that is free");
    let renamed = left_by_a_stop(|lab| lab.rename(&lab.registered(spec("ifb", "i0")), "i1").unwrap());
    assert_eq!(renamed, none);
    let by_others = left_by_a_stop(|lab| {
        let ifindex = lab.registered(spec("ifb", "i0")).device().unwrap().link.ifindex;
        lab.world.kernel.other(1, ifindex, &LinkChange::Name("i1"));
    });
    assert_eq!(by_others, none);
    let moved = left_by_a_stop(|lab| lab.travel(&lab.registered(spec("ifb", "i0")), 2, None, 0).unwrap());
    assert_eq!(moved, none);
    let moved_by_others = left_by_a_stop(|lab| {
        let ifindex = lab.registered(spec("ifb", "i0")).device().unwrap().link.ifindex;
        lab.settle();
        lab.world.kernel.other_moves(1, ifindex, 2);
    });
    assert_eq!(moved_by_others, none);
}

#[test]
fn a_stop_leaves_what_is_back_where_and_what_it_was() {
    let left = left_by_a_stop(|lab| {
        let dev = lab.registered(spec("ifb", "i0"));
        lab.rename(&dev, "i1").unwrap();
        lab.rename(&dev, "i0").unwrap();
        lab.travel(&dev, 2, None, 0).unwrap();
        lab.settle();
        lab.world.kernel.other_moves(2, dev.device().unwrap().link.ifindex, 1);
    });
    assert_eq!(left, [(1, "i0".to_owned())]);
}

#[test]
fn a_stop_leaves_both_ends_of_a_pair_or_none() {
    let pair = |second: &str, act: &dyn Fn(&Lab, &Arc<OwnDevice>)| {
        left_by_a_stop(|lab| {
            let (one, other) = lab.pair("v0", second);
            lab.register_pair(&one, &other, 2).unwrap();
            lab.settle();
            act(lab, &other);
        })
    };
    assert_eq!(pair("v1", &|_, _| {}), [(1, "v0".to_owned()), (2, "v1".to_owned())]);
    assert_eq!(pair("v%d", &|_, _| {}), [], "the end that is a pattern's takes the other along");
    assert_eq!(pair("v1", &|lab, other| lab.held(2, |held| dev_change_name(held, other, "v2")).unwrap()), []);
    let moves = |lab: &Lab, other: &Arc<OwnDevice>| {
        lab.world.kernel.other_moves(2, other.device().unwrap().link.ifindex, 1);
    };
    assert_eq!(pair("v1", &moves), []);
}

#[test]
fn a_stop_of_a_plugin_that_undoes_deletes_its_devices() {
    let (world, list) = (World::new(), PernetList::new());
    let a = add(&list, world.plugin("a", 0).subsys().undo_on_stop(), &[]).owner.clone();
    let net = world.net(1, &["lo"]);
    set_up(&list, &net);
    let dev = world.own(&a, "i0", spec("ifb", "i0"));
    register_netdev(&list.read().unwrap(), &net, &dev).unwrap();
    assert_eq!(cleanup_all(&write(&list), std::slice::from_ref(&net), ExitReason::Stopped), []);
    assert_eq!(world.kernel.ours(), []);
}

#[test]
fn tun_and_tap_go_with_their_descriptors_which_are_closed_before_the_pin() {
    let lab = lab(1);
    let dev = lab.opened(tap("t0"));
    assert_eq!(cleanup_all(&write(&lab.list), &lab.nets, ExitReason::Stopped), []);
    assert!(lab.take().iter().all(|call| !call.starts_with("k.")), "nothing is asked of the kernel");
    assert_eq!(lab.world.kernel.ours(), [], "the descriptors are closed, though the device is known");
    assert_eq!(dev.reg_state(), RegState::Unregistered);
}

#[test]
fn k2_9_at_a_death_what_is_left_goes_in_reverse_between_the_two_kinds_of_exit() {
    let (world, list) = (World::new(), PernetList::new());
    let a = add(&list, world.plugin("a", 0).subsys().device().notifier(0), &[]).owner.clone();
    let net = world.net(1, &["lo", "eth0"]);
    set_up(&list, &net);
    let devs = ["i0", "i1"].map(|name| world.own(&a, name, spec("ifb", name)));
    devs.iter().for_each(|dev| register_netdev(&list.read().unwrap(), &net, dev).unwrap());
    work_in(&list, Some(&list.read().unwrap()), std::slice::from_ref(&net), &a, LONG, |_| {
        dev_open(&*net.rtnl().assert_rtnl()?, &devs[0])
    })
    .unwrap();
    world.take();
    assert_eq!(clean_up(&list, &net, ExitReason::Died), []);
    let calls = world.take();
    let told: Vec<_> = calls.iter().filter(|call| !call.starts_with("k.")).cloned().collect();
    assert_eq!(
        told,
        [
            "a.pre_exit1@1:Died",
            "a.pre_exit0@1:Died",
            "a.exit1@1:Died",
            "a.batch1@1:Died",
            "a.n0.goingdown(i0)@1",
            "a.ndo_stop(i0)@1",
            "a.n0.down(i0)@1",
            "a.n0.unregister(i1)@1",
            "a.n0.pre_uninit(i1)@1",
            "a.ndo_uninit(i1)@1",
            "a.n0.unregister(i0)@1",
            "a.n0.pre_uninit(i0)@1",
            "a.ndo_uninit(i0)@1",
            "a.destructor(i1)",
            "a.destructor(i0)",
            "a.n0.unregister(eth0)@1",
            "a.n0.unregister(lo)@1",
            "a.exit0@1:Died",
            "a.batch0@1:Died",
            "a.free1@1",
            "a.free0@1",
        ]
    );
    assert_eq!(world.kernel.ours(), []);
    world.ledger.assert_balanced();
}

#[test]
fn k2_9_2_and_5_the_newest_goes_first_and_lo_last_and_that_is_nobodys_to_delete() {
    let lab = lab(1);
    let _devs = ["i0", "i1"].map(|name| lab.registered(spec("ifb", name)));
    assert_eq!(lab.die(1), []);
    let calls = lab.take();
    let ends = calls.iter().filter(|call| call.starts_with("w.n0.unregister(") || call.starts_with("k."));
    let expected =
        ["k.delete(i1)@1", "k.delete(i0)@1", "w.n0.unregister(i1)@1", "w.n0.unregister(i0)@1", "w.n0.unregister(lo)@1"];
    assert_eq!(ends.collect::<Vec<_>>(), expected);
}

#[test]
fn k2_9_4_what_hangs_on_a_namespace_that_dies_goes_in_the_one_where_it_is() {
    let lab = lab(2);
    // One end is the plugin's and stays; the kernel made the other, and somebody moved it.
    let dev = lab.own(LinkSpec { needs_free: true, ..spec("veth", "v0") });
    lab.register(&dev).unwrap();
    lab.open(&dev).unwrap();
    let other = lab.world.kernel.find(1, "veth0").unwrap().ifindex;
    lab.world.kernel.other_moves(1, other, 2);
    lab.settle();
    lab.take();
    lab.die(2);
    lab.settle();
    let calls = lab.take();
    let here: Vec<_> = calls.iter().filter(|call| call.starts_with("w.") && call.ends_with("@1")).collect();
    let expected = ["goingdown", "down", "unregister", "pre_uninit"].map(|kind| format!("w.n0.{kind}(v0)@1"));
    assert_eq!(here, expected.iter().collect::<Vec<_>>());
    assert_eq!(lab.calls("v0"), Calls { init: 1, uninit: 1, open: 1, stop: 1, destructor: 1, free: 1 });
    assert_eq!(dev.reg_state(), RegState::Released);
    assert!(lab.world.kernel.ours().is_empty());
}

#[test]
fn k2_5_both_ends_of_a_pair_in_two_namespaces_go_in_one_call_each_once() {
    let lab = lab(2);
    let (one, other) = lab.pair("v0", "v1");
    lab.register_pair(&one, &other, 2).unwrap();
    lab.settle();
    lab.take();
    lab.inside(&[1, 2], || {
        let held = (lab.net(1).rtnl().assert_rtnl()?, lab.net(2).rtnl().assert_rtnl()?);
        unregister_many(&[&held.0, &held.1], &[one.clone(), other.clone()])
    })
    .unwrap();
    for label in ["v0", "v1"] {
        assert_eq!((lab.calls(label).uninit, lab.calls(label).destructor), (1, 1), "{label}");
    }
    let told = lab.take().iter().filter(|call| call.contains("w.n0.unregister(")).count();
    assert_eq!((told, lab.world.kernel.ours()), (2, vec![]));
    lab.settle();
    assert_eq!(lab.take(), Vec::<String>::new());
    lab.assert_agrees();
}

#[test]
fn a_call_from_a_hook_into_another_namespace_brings_the_thread_back() {
    let (world, list) = (World::new(), PernetList::new());
    let member = add(&list, world.plugin("a", 0).subsys().subsys(), &[]);
    let (net, other) = (world.net(1, &["lo"]), world.net(2, &["lo"]));
    set_up(&list, &other);
    let dev = world.own(&member.owner, "t0", tap("t0"));
    let (own, there, inner) = (dev.clone(), other.clone(), world.clone());
    world.at("a.init0@1", move |net| {
        let held = there.rtnl().lock().unwrap();
        register_netdevice(&held, &there, &own).unwrap();
        drop(held);
        inner.assert_inside(net, "the hook, after it registered a device elsewhere");
    });
    assert_eq!(set_up(&list, &net).state, NetState::Live);
    assert_eq!(world.kernel.ours(), [(2, "t0".to_owned())]);
    world.heal();
    clean_up(&list, &net, ExitReason::Died);
    assert_eq!(dev.reg_state(), RegState::Registered, "it is not of that namespace");
    clean_up(&list, &other, ExitReason::Died);
    assert_eq!(world.kernel.ours(), []);
}

#[test]
fn k2_5_one_end_of_a_pair_takes_the_other_along_in_the_same_call_where_its_lock_is_held() {
    let lab = lab(1);
    let (one, other) = lab.pair("v0", "v1");
    lab.register_pair(&other, &one, 1).unwrap();
    lab.unregister(&one).unwrap();
    assert_eq!((one.reg_state(), other.reg_state()), (RegState::Unregistered, RegState::Unregistered));
    lab.world.ledger.assert_balanced();
    lab.settle();
    lab.assert_agrees();
}
