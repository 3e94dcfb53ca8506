//! What other programs do to devices of plugins' own, and observations that come late, or not at all.

use std::sync::Arc;

use pernet_plugin_api::RegState;

use super::lab::*;
use super::ndo::*;
use super::recorder::*;
use crate::engine::*;

const NONE: [String; 0] = [];

fn index(dev: &OwnDevice) -> u32 {
    dev.device().unwrap().link.ifindex
}

fn brief(lab: &Lab) -> Vec<String> {
    lab.take().into_iter().filter(|call| !call.starts_with("x.")).collect()
}

/// A registered (and opened) device whose echo has come.
fn quiet(lab: &Lab, spec: LinkSpec, up: bool) -> Arc<OwnDevice> {
    let dev = if up { lab.opened(spec) } else { lab.registered(spec) };
    lab.settle();
    assert_eq!(lab.take(), NONE);
    dev
}

#[test]
fn deleted_by_another_program_it_ends_as_if_unregistered() {
    let lab = lab(1);
    let dev = quiet(&lab, LinkSpec { needs_free: true, ..tap("t0") }, true);
    lab.world.kernel.other_deletes(1, index(&dev));
    assert_eq!(lab.settle(), []);
    let calls = brief(&lab);
    let told: Vec<_> = calls.iter().filter(|call| !call.starts_with("k.")).cloned().collect();
    assert_eq!(
        told,
        [
            "w.n0.goingdown(t0)@1",
            "a.ndo_stop(t0)@1",
            "w.n0.down(t0)@1",
            "w.n0.unregister(t0)@1",
            "w.n0.pre_uninit(t0)@1",
            "a.ndo_uninit(t0)@1",
            "a.destructor(t0)",
            "a.free(t0)",
        ]
    );
    assert_eq!(dev.reg_state(), RegState::Released);
    lab.assert_agrees();
}

#[test]
fn renamed_by_another_program_it_is_told_and_no_veto_counts() {
    let lab = lab(1);
    let dev = quiet(&lab, tap("t0"), true);
    lab.world.verdict("w.n0.changename(t0>wan)@1", pernet_plugin_api::Verdict::Bad);
    lab.world.kernel.other(1, index(&dev), &LinkChange::Name("wan"));
    lab.settle();
    assert_eq!(lab.take(), ["w.n0.changename(t0>wan)@1"]);
    assert_eq!(dev.device().unwrap().link.name, "wan");
    lab.assert_agrees();
    // The plugin goes on with it under its new name.
    lab.set_mtu(&dev, 1400).unwrap();
    lab.unregister(&dev).unwrap();
    assert_eq!(lab.world.kernel.links(1).len(), 1);
    lab.world.ledger.assert_balanced();
}

#[test]
fn set_up_and_down_by_another_program_it_is_opened_and_stopped() {
    let lab = lab(1);
    let dev = quiet(&lab, tap("t0"), false);
    lab.world.kernel.other(1, index(&dev), &LinkChange::Up);
    assert_eq!(lab.settle(), []);
    assert_eq!(lab.calls("t0").open, 1);
    let calls = brief(&lab);
    assert!(calls.contains(&"w.n0.up(t0)@1".to_owned()), "{calls:?}");
    lab.world.kernel.other(1, index(&dev), &LinkChange::Down);
    assert_eq!(lab.settle(), []);
    assert_eq!(lab.calls("t0").stop, 1);
    assert!(brief(&lab).contains(&"w.n0.down(t0)@1".to_owned()));
    lab.assert_agrees();
}

#[test]
fn an_open_that_fails_at_an_observed_up_sets_the_device_down_again_and_is_noted() {
    let lab = lab(1);
    let dev = quiet(&lab, tap("t0"), false);
    lab.world.fail("a.ndo_open(t0)@1");
    lab.world.kernel.other(1, index(&dev), &LinkChange::Up);
    let errors = lab.settle();
    assert_eq!((errors.len(), &*errors[0].plugin, errors[0].failure.errno), (1, "a", ODD), "{errors:?}");
    assert!(!lab.world.kernel.find(1, "t0").unwrap().is_up());
    assert!(!dev.device().unwrap().link.is_up());
    assert_eq!(lab.calls("t0").open, 0);
    assert!(lab.net(1).error().is_some(), "shown");
    lab.assert_agrees();
    lab.world.heal();
    lab.open(&dev).unwrap();
    lab.settle();
    lab.assert_agrees();
    let told = lab.take();
    let ups = told.iter().filter(|call| *call == "w.n0.up(t0)@1").count();
    let downs = told.iter().filter(|call| *call == "w.n0.down(t0)@1").count();
    assert_eq!(ups, downs + 1, "UP and DOWN alternate: {told:?}");
}

#[test]
fn mtu_and_address_by_another_program_go_to_the_ops_and_an_error_is_only_noted() {
    let lab = lab(1);
    let dev = quiet(&lab, tap("t0"), true);
    lab.world.kernel.other(1, index(&dev), &LinkChange::Mtu(1400));
    assert_eq!(lab.settle(), []);
    assert_eq!(brief(&lab), ["a.ndo_change_mtu(t0=1400)@1", "w.n0.changemtu(t0)@1"], "nobody is asked");
    lab.world.fail("a.ndo_set_mac_address(t0=9)@1");
    lab.world.kernel.other(1, index(&dev), &LinkChange::Address(&[2, 0, 0, 0, 9, 9]));
    assert_eq!(lab.settle().len(), 1);
    assert_eq!(brief(&lab), ["a.ndo_set_mac_address(t0=9)@1", "w.n0.changeaddr(t0)@1"]);
    assert_eq!(dev.device().unwrap().link.address, [2, 0, 0, 0, 9, 9]);
    lab.assert_agrees();
}

#[test]
fn every_own_change_is_told_once_however_late_its_echo() {
    let lab = lab(1);
    let dev = lab.own(tap("t0"));
    lab.register(&dev).unwrap();
    lab.open(&dev).unwrap();
    lab.rename(&dev, "t1").unwrap();
    lab.set_mtu(&dev, 1400).unwrap();
    lab.close(&dev).unwrap();
    lab.open(&dev).unwrap();
    lab.rename(&dev, "t0").unwrap();
    let told: Vec<_> = brief(&lab).into_iter().filter(|call| call.starts_with("w.")).collect();
    assert_eq!(told.len(), 12, "{told:?}");
    assert!(lab.world.waiting() > 5, "the echoes are all on the way");
    lab.settle();
    assert_eq!(lab.take(), NONE);
    assert_eq!((lab.calls("t0").open, lab.calls("t0").stop), (2, 1));
    lab.assert_agrees();
}

#[test]
fn a_foreign_change_before_an_own_one_is_not_lost_with_the_echo() {
    let lab = lab(1);
    let dev = quiet(&lab, tap("t0"), false);
    // Its message is older than our fence; what it said is found by the look.
    lab.world.kernel.other(1, index(&dev), &LinkChange::Mtu(1400));
    lab.open(&dev).unwrap();
    lab.settle();
    assert_eq!(dev.device().unwrap().link.mtu, 1400);
    let told = lab.take().iter().filter(|call| *call == "w.n0.changemtu(t0)@1").count();
    assert_eq!(told, 1);
    lab.assert_agrees();
}

/// What another program did meanwhile, unread, is known after all: told once, and its op was called.
#[track_caller]
fn assert_mtu_is_known(lab: &Lab, dev: &OwnDevice, what: &str) {
    lab.world.heal();
    lab.settle();
    assert_eq!(dev.device().unwrap().link.mtu, 1300, "{what}");
    let calls = lab.take();
    for call in ["a.ndo_change_mtu(t0=1300)@1", "w.n0.changemtu(t0)@1"] {
        assert_eq!(calls.iter().filter(|c| *c == call).count(), 1, "{what}: {call} in {calls:?}");
    }
    lab.assert_agrees();
}

#[test]
fn a_foreign_change_before_an_own_one_that_is_vetoed_is_not_lost_with_it() {
    for kind in ["changename", "changeupper"] {
        let lab = lab(1);
        let (dev, bridge) = (quiet(&lab, tap("t0"), false), quiet(&lab, spec("bridge", "br0"), false));
        lab.world.kernel.other(1, index(&dev), &LinkChange::Mtu(1300));
        if kind == "changename" {
            lab.world.verdict("w.n0.changename(t0>t9)@1", pernet_plugin_api::Verdict::Bad);
            assert_eq!(refused(lab.rename(&dev, "t9")), 1);
        } else {
            lab.world.verdict("w.n0.changeupper(t0)@1", pernet_plugin_api::Verdict::Bad);
            assert_eq!(refused(lab.held(1, |held| dev_set_master(held, &dev, index(&bridge)))), 1);
        }
        assert_mtu_is_known(&lab, &dev, kind);
    }
}

#[test]
fn a_foreign_rename_before_an_mtu_that_is_vetoed_is_not_lost_with_it() {
    let lab = lab(1);
    let dev = quiet(&lab, tap("t0"), false);
    lab.world.kernel.other(1, index(&dev), &LinkChange::Name("wan"));
    lab.world.verdict("w.n0.changemtu(t0)@1", pernet_plugin_api::Verdict::Bad);
    assert_eq!(refused(lab.set_mtu(&dev, 1400)), 1);
    lab.world.heal();
    lab.settle();
    assert_eq!((&*dev.device().unwrap().link.name, dev.device().unwrap().link.mtu), ("wan", 1500));
    assert!(lab.take().contains(&"w.n0.changename(t0>wan)@1".to_owned()));
    lab.assert_agrees();
}

#[test]
fn a_foreign_change_before_a_change_that_cannot_be_put_back_is_not_lost_with_it() {
    let lab = lab(1);
    let dev = quiet(&lab, tap("t0"), false);
    lab.world.kernel.other(1, index(&dev), &LinkChange::Mtu(1300));
    lab.world.fail("w.n0.changename(t0>t9)@1");
    lab.world.fail("k.name(t9=t0)@1");
    assert_eq!(refused(lab.rename(&dev, "t9")), ODD);
    lab.world.heal();
    lab.settle();
    let link = &dev.device().unwrap().link;
    assert_eq!((&*link.name, link.mtu), ("t9", 1300), "the name stays the kernel's");
    lab.assert_agrees();
}

#[test]
fn a_foreign_change_before_an_observed_up_that_is_refused_is_not_lost_with_it() {
    let lab = lab(1);
    let dev = quiet(&lab, tap("t0"), false);
    lab.world.fail("a.ndo_open(t0)@1");
    lab.world.kernel.other(1, index(&dev), &LinkChange::Up);
    lab.world.kernel.other(1, index(&dev), &LinkChange::Mtu(1300));
    assert_eq!(lab.settle().len(), 1, "of the open");
    assert!(!dev.device().unwrap().link.is_up());
    assert_mtu_is_known(&lab, &dev, "refused");
}

/// Promiscuous and up, by one message: the part of it that comes after UP is told too, whether UP was refused, and
/// whether the device could be set down again.
#[test]
fn what_an_observed_up_that_is_refused_brings_besides_is_told() {
    const PROMISC: u32 = 0x100;
    for stays_up in [false, true] {
        let lab = lab(1);
        let dev = quiet(&lab, tap("t0"), false);
        lab.world.fail("a.ndo_open(t0)@1");
        if stays_up {
            // Whoever sets it up does so again at once.
            let (world, ifindex) = (lab.world.clone(), index(&dev));
            lab.world.at("k.look()@1", move |_| world.kernel.other(1, ifindex, &LinkChange::Up));
        }
        lab.world.kernel.state().space(1).links.lock().unwrap().last_mut().unwrap().flags |= PROMISC;
        lab.world.kernel.other(1, index(&dev), &LinkChange::Up);
        lab.settle();
        let link = &dev.device().unwrap().link;
        assert_eq!((link.flags & PROMISC, link.is_up()), (PROMISC, stays_up));
        assert!(lab.take().contains(&"w.n0.change(t0)@1".to_owned()), "{stays_up}");
        lab.world.heal();
        lab.settle();
        lab.assert_agrees();
    }
}

#[test]
fn a_foreign_down_and_up_before_an_own_change_keeps_open_and_stop_in_step() {
    let lab = lab(1);
    let dev = quiet(&lab, tap("t0"), true);
    lab.world.kernel.other(1, index(&dev), &LinkChange::Down);
    lab.set_mtu(&dev, 1400).unwrap();
    lab.settle();
    lab.assert_agrees();
    let calls = lab.calls("t0");
    assert_eq!((calls.open, calls.stop), (1, 1), "{:?}", lab.take());
    assert!(!dev.device().unwrap().link.is_up());
}

#[test]
fn a_foreign_change_after_an_own_one_is_told() {
    let lab = lab(1);
    let dev = lab.opened(tap("t0"));
    lab.world.kernel.other(1, index(&dev), &LinkChange::Name("wan"));
    lab.settle();
    assert_eq!(brief(&lab), ["w.n0.changename(t0>wan)@1"]);
    lab.world.kernel.other_deletes(1, index(&dev));
    lab.settle();
    assert_eq!(dev.reg_state(), RegState::Unregistered);
    lab.assert_agrees();
}

#[test]
fn the_echo_of_an_end_does_not_end_the_next_device_of_that_index() {
    let lab = lab(1);
    let dev = lab.registered(LinkSpec { ifindex: 9, ..tap("t0") });
    lab.unregister(&dev).unwrap();
    // Another program's, with the same index, while our end's echo is still on the way.
    lab.world.kernel.state().space(1).set_last(8);
    assert_eq!(lab.world.kernel.other_adds(1, "eth0", "ifb"), Ok(9));
    lab.settle();
    lab.assert_agrees();
    let told: Vec<_> = brief(&lab).into_iter().filter(|call| call.contains("eth0")).collect();
    assert_eq!(told, ["w.n0.register(eth0)@1"]);
}

#[test]
fn the_other_end_of_a_veth_that_is_the_kernels_own_goes_by_observation() {
    let lab = lab(1);
    let dev = lab.own(spec("veth", "v0"));
    lab.register(&dev).unwrap();
    lab.settle();
    assert!(lab.net(1).devices().iter().any(|d| d.link.name == "veth0" && d.own.is_none()));
    lab.take();
    // Deleting the kernel's end takes ours along.
    let other = lab.world.kernel.find(1, "veth0").unwrap().ifindex;
    lab.world.kernel.other_deletes(1, other);
    lab.settle();
    assert_eq!(dev.reg_state(), RegState::Unregistered);
    lab.world.ledger.assert_balanced();
    lab.assert_agrees();
}

#[test]
fn after_a_loss_the_view_is_the_kernels_and_every_end_is_told() {
    let lab = lab(1);
    let (gone, renamed, stays) =
        (quiet(&lab, tap("t0"), true), quiet(&lab, tap("t1"), false), quiet(&lab, tap("t2"), true));
    let kernel = &lab.world.kernel;
    kernel.other_deletes(1, index(&gone));
    kernel.other(1, index(&renamed), &LinkChange::Name("wan"));
    kernel.other(1, index(&renamed), &LinkChange::Up);
    kernel.other(1, index(&stays), &LinkChange::Down);
    kernel.state().stream.lose();
    assert_eq!(lab.settle(), []);
    assert_eq!(gone.reg_state(), RegState::Unregistered);
    assert_eq!(lab.calls("t0"), Calls { init: 1, uninit: 1, open: 1, stop: 1, destructor: 1, free: 0 });
    assert_eq!((lab.calls("t1").open, lab.calls("t2").stop), (1, 1));
    lab.assert_agrees();
    // An own device is itself after a loss, whatever its address is now.
    kernel.other(1, index(&stays), &LinkChange::Address(&[2, 0, 0, 0, 9, 9]));
    kernel.state().stream.lose();
    lab.settle();
    assert_eq!((stays.reg_state(), lab.calls("t2").uninit), (RegState::Registered, 0));
    lab.assert_agrees();
}

#[test]
fn a_device_of_another_kind_under_the_same_index_after_a_loss_is_another_device() {
    let lab = lab(1);
    let dev = quiet(&lab, LinkSpec { ifindex: 9, ..tap("t0") }, true);
    lab.world.kernel.other_deletes(1, 9);
    lab.world.kernel.state().space(1).set_last(8);
    assert_eq!(lab.world.kernel.other_adds(1, "t0", "ifb"), Ok(9));
    lab.world.kernel.state().stream.lose();
    lab.settle();
    assert_eq!(dev.reg_state(), RegState::Unregistered);
    assert_eq!(lab.calls("t0").uninit, 1);
    lab.assert_agrees();
    assert_eq!(lab.world.kernel.find(1, "t0").unwrap().kind, "ifb", "nobody deletes what is not ours");
}

#[test]
fn another_programs_device_of_the_same_kind_name_and_index_after_a_loss_is_not_the_plugins() {
    let lab = lab(1);
    let dev = quiet(&lab, LinkSpec { ifindex: 9, ..spec("ifb", "i0") }, true);
    lab.world.kernel.other_deletes(1, 9);
    lab.world.kernel.state().space(1).set_last(8);
    assert_eq!(lab.world.kernel.other_adds(1, "i0", "ifb"), Ok(9));
    lab.world.kernel.state().stream.lose();
    lab.settle();
    assert_eq!((dev.reg_state(), lab.calls("i0").uninit), (RegState::Unregistered, 1));
    lab.assert_agrees();
    lab.die(1);
    assert!(lab.take().iter().all(|call| !call.starts_with("k.delete")), "what we did not make is not deleted");
}

#[test]
fn a_list_that_is_older_than_an_own_change_does_not_undo_it() {
    let lab = lab(1);
    let up = quiet(&lab, tap("t0"), false);
    // Listed, and then changed, before the list is compared: a worker elsewhere did it.
    let listed = lab.world.kernel.links(1);
    lab.open(&up).unwrap();
    let new = lab.registered(tap("t1"));
    lab.take();
    see(&lab.list, lab.net(1), LinkObservation::Dump(listed));
    lab.settle();
    lab.world.kernel.state().stream.lose();
    lab.settle();
    assert_eq!(new.reg_state(), RegState::Registered, "it is there");
    assert_eq!((lab.calls("t0").open, lab.calls("t0").stop), (1, 0), "{:?}", lab.take());
    lab.assert_agrees();
}

#[test]
fn messages_that_are_older_than_an_own_change_and_come_after_a_list_do_not_undo_it() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    lab.open(&dev).unwrap();
    lab.take();
    // The list is newer than what waits in the socket.
    let listed = lab.world.kernel.links(1);
    let sent = lab.world.kernel.state().stream.sent();
    see_fenced(Some(&lab.world), &lab.list, lab.net(1), sent, LinkObservation::Dump(listed));
    lab.settle();
    assert_eq!((lab.calls("t0").open, lab.calls("t0").stop), (1, 0), "{:?}", lab.take());
    lab.assert_agrees();
}

#[test]
fn with_no_place_in_the_stream_known_the_messages_tell_what_others_did() {
    for what in ["k.fence()@1", "k.look()@1"] {
        let lab = lab(1);
        let dev = lab.registered(tap("t0"));
        lab.world.kernel.other(1, index(&dev), &LinkChange::Mtu(1300));
        lab.world.fail(what);
        // The change is done; that it could not be looked at is no reason to say otherwise.
        lab.open(&dev).unwrap();
        lab.world.heal();
        lab.settle();
        assert_eq!(dev.device().unwrap().link.mtu, 1300, "{what}: without a line the messages tell it");
        lab.assert_agrees();
        let calls = lab.calls("t0");
        assert_eq!(dev.device().unwrap().link.is_up(), calls.open > calls.stop, "{what}");
    }
}

#[test]
fn what_another_program_made_at_the_index_of_one_that_it_moved_away_is_not_the_plugins() {
    let lab = lab(2);
    let dev = quiet(&lab, LinkSpec { ifindex: 9, ..spec("ifb", "i0") }, false);
    lab.world.kernel.other_moves(1, 9, 2);
    lab.world.kernel.state().space(1).set_last(8);
    assert_eq!(lab.world.kernel.other_adds(1, "i0", "ifb"), Ok(9));
    // Nobody has read of it: it is taken up by mistake, seen for what it is, and left alone from there on.
    let _ = lab.open(&dev);
    lab.settle();
    assert!(lab.net(1).devices().iter().any(|known| known.link.ifindex == 9 && known.own.is_none()));
    assert_eq!((dev.reg_state(), lab.calls("i0").uninit), (RegState::Unregistered, 1));
    lab.world.ledger.assert_balanced();
    lab.assert_agrees();
    lab.take();
    lab.die(1);
    assert!(lab.take().iter().all(|call| !call.starts_with("k.delete")), "what we did not make is not deleted");
}

#[test]
fn a_name_that_is_seen_again_says_that_who_had_it_went_or_was_renamed() {
    for renamed in [false, true] {
        let lab = lab(1);
        let kernel = &lab.world.kernel;
        let first = kernel.other_adds(1, "eth0", "ifb").unwrap();
        lab.settle();
        lab.take();
        if renamed {
            kernel.other(1, first, &LinkChange::Name("wan"));
        } else {
            kernel.other_deletes(1, first);
        }
        // The message of that is lost, and the next one is read before the list that follows a loss.
        kernel.state().stream.forget(1);
        kernel.other_adds(1, "eth0", "ifb").unwrap();
        lab.settle();
        let told: Vec<String> = lab.take().into_iter().filter(|call| call.starts_with("w.")).collect();
        let gone = if renamed { "w.n0.changename(eth0>wan)@1" } else { "w.n0.unregister(eth0)@1" };
        assert_eq!(told, [gone, "w.n0.register(eth0)@1"]);
        lab.assert_agrees();
    }
}

#[test]
fn a_message_that_is_older_than_the_list_before_it_takes_nobodys_name() {
    for renamed in [false, true] {
        let lab = lab(1);
        let kernel = &lab.world.kernel;
        let first = kernel.other_adds(1, "eth0", "ifb").unwrap();
        if renamed {
            kernel.other(1, first, &LinkChange::Name("wan"));
        } else {
            kernel.other_deletes(1, first);
        }
        kernel.other_adds(1, "eth0", "ifb").unwrap();
        // Listed after a loss, while the messages of all that still wait.
        kernel.state().stream.miss();
        lab.settle();
        let told: Vec<String> = lab.take().into_iter().filter(|call| call.starts_with("w.")).collect();
        let wan = if renamed { vec!["w.n0.register(wan)@1"] } else { Vec::new() };
        assert_eq!(told, [wan, vec!["w.n0.register(eth0)@1"]].concat());
        lab.assert_agrees();
    }
}
