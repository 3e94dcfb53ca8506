//! K2.7: open, close, MTU, hardware address and upper device of plugins' own devices.

use std::sync::Arc;

use pernet_plugin_api::Verdict;

use super::kernel::{EBUSY, EEXIST, EINVAL, ENODEV};
use super::lab::*;
use super::ndo::*;
use super::recorder::ODD;
use crate::engine::*;

const NONE: [String; 0] = [];

fn up(dev: &OwnDevice) -> bool {
    dev.device().unwrap().link.is_up()
}

/// The device as the kernel has it.
fn real(lab: &Lab, dev: &OwnDevice) -> Link {
    lab.world.kernel.find(1, &dev.device().unwrap().link.name).unwrap()
}

/// The calls without those of the second listener, who hears what the first does.
fn brief(lab: &Lab) -> Vec<String> {
    lab.take().into_iter().filter(|call| !call.starts_with("x.")).collect()
}

fn set_address(lab: &Lab, dev: &Arc<OwnDevice>, address: &[u8]) -> Answer {
    lab.held(1, |held| dev_set_mac_address(held, dev, address))
}

fn set_master(lab: &Lab, dev: &Arc<OwnDevice>, master: &OwnDevice) -> Answer {
    let ifindex = master.device().unwrap().link.ifindex;
    lab.held(1, |held| dev_set_master(held, dev, ifindex))
}

/// What must hold after anything: the kernel and the mirror say the same, before and after the echo.
fn assert_same(lab: &Lab) {
    lab.assert_agrees();
    lab.settle();
    lab.assert_agrees();
    assert_eq!(lab.take(), NONE, "the echo is no event");
}

#[test]
fn k2_7_open_order_and_a_second_open_is_nothing() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    let seen = dev.clone();
    lab.world.at("w.n0.pre_up(t0)@1", move |_| assert!(!up(&seen), "told before"));
    let seen = dev.clone();
    lab.world.at("w.n0.up(t0)@1", move |_| assert!(up(&seen), "told after"));
    lab.open(&dev).unwrap();
    let calls = lab.take();
    assert_eq!(calls.len(), 6, "{calls:?}");
    assert_eq!(calls[..2], ["w.n0.pre_up(t0)@1", "x.n0.pre_up(t0)@1"]);
    assert!(calls[2..4].contains(&"a.ndo_open(t0)@1".to_owned()) && calls[2..4].contains(&"k.up(t0)@1".to_owned()));
    assert_eq!(calls[4..], ["w.n0.up(t0)@1", "x.n0.up(t0)@1"]);
    assert!(real(&lab, &dev).is_up());
    lab.open(&dev).unwrap();
    assert_eq!(lab.take(), NONE);
    assert_same(&lab);
}

#[test]
fn k2_7_open_of_what_is_not_there_is_enodev() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    lab.unregister(&dev).unwrap();
    lab.take();
    assert_eq!(refused(lab.open(&dev)), ENODEV);
    assert_eq!(lab.take(), NONE);
}

#[test]
fn k2_7_open_a_pre_up_veto_is_honoured_and_tells_nobody_more() {
    for (fails, errno) in [(false, 1), (true, ODD)] {
        let lab = lab(1);
        let dev = lab.registered(tap("t0"));
        if fails {
            lab.world.fail("x.n0.pre_up(t0)@1");
        } else {
            lab.world.verdict("x.n0.pre_up(t0)@1", Verdict::Bad);
        }
        assert_eq!(refused(lab.open(&dev)), errno);
        assert_eq!(lab.take(), ["w.n0.pre_up(t0)@1", "x.n0.pre_up(t0)@1"], "no compensating event");
        assert!(!up(&dev) && !real(&lab, &dev).is_up());
        lab.world.heal();
        lab.open(&dev).unwrap();
        lab.take();
        assert_same(&lab);
    }
}

#[test]
fn k2_7_open_a_failed_ndo_open_is_the_errno_and_no_event() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    lab.world.fail("a.ndo_open(t0)@1");
    assert_eq!(refused(lab.open(&dev)), ODD);
    let calls = lab.take();
    assert!(!calls.iter().any(|call| call.contains(".up(t0)@1") && !call.starts_with("k.")), "{calls:?}");
    assert!(!up(&dev) && !real(&lab, &dev).is_up());
    assert_eq!(lab.calls("t0").open, 0);
    assert_same(&lab);
}

#[test]
fn k2_7_open_the_kernels_refusal_stops_what_was_opened() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    lab.world.fail("k.up(t0)@1");
    assert_eq!(refused(lab.open(&dev)), ODD);
    let calls = lab.calls("t0");
    assert_eq!(calls.open, calls.stop);
    assert!(!up(&dev));
    assert!(lab.take().iter().all(|call| !call.contains("n0.up(")));
    assert_same(&lab);
}

#[test]
fn k2_7_open_the_answer_of_up_is_ignored_but_cuts_the_chain() {
    for verdict in [Verdict::Bad, Verdict::Stop] {
        let lab = lab(1);
        let dev = lab.registered(tap("t0"));
        lab.world.verdict("w.n0.up(t0)@1", verdict);
        lab.open(&dev).unwrap();
        assert!(up(&dev));
        assert!(lab.take().iter().all(|call| call != "x.n0.up(t0)@1"));
        assert_same(&lab);
    }
}

#[test]
fn k2_7_close_order_and_a_second_close_is_nothing() {
    let lab = lab(1);
    let dev = lab.opened(tap("t0"));
    let seen = dev.clone();
    lab.world.at("w.n0.goingdown(t0)@1", move |_| assert!(up(&seen), "still shown as up"));
    let seen = dev.clone();
    lab.world.at("w.n0.down(t0)@1", move |_| assert!(!up(&seen)));
    lab.close(&dev).unwrap();
    let calls = lab.take();
    assert_eq!(calls.len(), 6, "{calls:?}");
    assert_eq!(calls[..2], ["w.n0.goingdown(t0)@1", "x.n0.goingdown(t0)@1"]);
    assert!(calls[2..4].contains(&"a.ndo_stop(t0)@1".to_owned()) && calls[2..4].contains(&"k.down(t0)@1".to_owned()));
    assert_eq!(calls[4..], ["w.n0.down(t0)@1", "x.n0.down(t0)@1"]);
    assert!(!real(&lab, &dev).is_up());
    lab.close(&dev).unwrap();
    assert_eq!(lab.take(), NONE);
    assert_same(&lab);
}

#[test]
fn k2_7_close_cannot_be_refused_by_anybody_of_ours() {
    let lab = lab(1);
    let dev = lab.opened(tap("t0"));
    lab.world.verdict("w.n0.goingdown(t0)@1", Verdict::Bad);
    lab.world.fail("a.ndo_stop(t0)@1");
    lab.world.fail("w.n0.down(t0)@1");
    let _ = lab.close(&dev);
    assert!(!up(&dev) && !real(&lab, &dev).is_up());
    assert_eq!(lab.calls("t0").stop, 1);
    let calls = lab.take();
    assert!(!calls.contains(&"x.n0.goingdown(t0)@1".to_owned()), "BAD cuts the chain, and no more");
    assert!(calls.contains(&"w.n0.down(t0)@1".to_owned()));
    assert_same(&lab);
}

#[test]
fn k2_7_mtu_order_equal_is_silent_and_up_or_down_is_the_same() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    lab.set_mtu(&dev, 1500).unwrap();
    assert_eq!(lab.take(), NONE);
    let shown = |dev: &Arc<OwnDevice>, mtu: u32| {
        let dev = dev.clone();
        move |_: &Net| assert_eq!(dev.device().unwrap().link.mtu, mtu)
    };
    lab.world.at("w.n0.pre_changemtu(t0)@1", shown(&dev, 1500));
    lab.world.at("a.ndo_change_mtu(t0=1400)@1", shown(&dev, 1500));
    lab.world.at("w.n0.changemtu(t0)@1", shown(&dev, 1400));
    let expected =
        ["w.n0.pre_changemtu(t0)@1", "a.ndo_change_mtu(t0=1400)@1", "k.mtu(t0=1400)@1", "w.n0.changemtu(t0)@1"];
    lab.set_mtu(&dev, 1400).unwrap();
    assert_eq!(brief(&lab), expected);
    assert_eq!(real(&lab, &dev).mtu, 1400);
    assert_same(&lab);
    lab.world.heal();
    lab.open(&dev).unwrap();
    lab.take();
    lab.set_mtu(&dev, 9000).unwrap();
    assert_eq!(real(&lab, &dev).mtu, 9000);
    lab.take();
    assert_same(&lab);
}

#[test]
fn k2_7_mtu_out_of_bounds_is_einval_and_never_clamped() {
    let lab = lab(1);
    let dev = lab.registered(LinkSpec { min_mtu: 1000, max_mtu: 2000, ..tap("t0") });
    for mtu in [0, 999, 2001, 65536, u32::MAX] {
        assert_eq!(refused(lab.set_mtu(&dev, mtu)), EINVAL, "{mtu}");
        assert_eq!(real(&lab, &dev).mtu, 1500);
    }
    assert_eq!(lab.take(), NONE, "nobody is asked");
    for mtu in [1000, 2000] {
        lab.set_mtu(&dev, mtu).unwrap();
        assert_eq!(real(&lab, &dev).mtu, mtu);
    }
    // The kind's own bounds are the kernel's to know.
    let dev = lab.registered(tap("t1"));
    assert_eq!(refused(lab.set_mtu(&dev, 67)), EINVAL);
    assert_eq!(dev.device().unwrap().link.mtu, 1500);
    lab.take();
    assert_same(&lab);
}

#[test]
fn k2_7_mtu_a_veto_before_changes_nothing() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    lab.world.verdict("w.n0.pre_changemtu(t0)@1", Verdict::Bad);
    assert_eq!(refused(lab.set_mtu(&dev, 1400)), 1);
    assert_eq!(lab.take(), ["w.n0.pre_changemtu(t0)@1"]);
    lab.world.heal();
    lab.world.fail("a.ndo_change_mtu(t0=1400)@1");
    assert_eq!(refused(lab.set_mtu(&dev, 1400)), ODD);
    assert_eq!(brief(&lab), ["w.n0.pre_changemtu(t0)@1", "a.ndo_change_mtu(t0=1400)@1"]);
    assert_eq!((real(&lab, &dev).mtu, dev.device().unwrap().link.mtu), (1500, 1500));
    assert_same(&lab);
}

#[test]
fn k2_7_mtu_a_veto_after_restores_the_old_one_and_tells_everyone_again() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    lab.world.verdict("w.n0.changemtu(t0)@1", Verdict::Bad);
    assert_eq!(refused(lab.set_mtu(&dev, 1400)), 1);
    let calls = lab.take();
    assert_eq!((real(&lab, &dev).mtu, dev.device().unwrap().link.mtu), (1500, 1500));
    let last: Vec<_> = calls.iter().skip_while(|call| *call != "w.n0.changemtu(t0)@1").cloned().collect();
    assert_eq!(
        last,
        [
            "w.n0.changemtu(t0)@1",
            "a.ndo_change_mtu(t0=1500)@1",
            "k.mtu(t0=1500)@1",
            // To everyone; w refuses again, which cuts the chain again.
            "w.n0.changemtu(t0)@1",
        ]
    );
    assert_same(&lab);
    lab.world.heal();
    lab.world.fail("x.n0.changemtu(t0)@1");
    assert_eq!(refused(lab.set_mtu(&dev, 1400)), ODD);
    let told = lab.take().iter().filter(|call| *call == "w.n0.changemtu(t0)@1").count();
    assert_eq!((told, real(&lab, &dev).mtu), (2, 1500));
    assert_same(&lab);
}

#[test]
fn k2_7_mtu_the_kernels_refusal_is_undone_at_the_ops() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    lab.world.fail("k.mtu(t0=1400)@1");
    assert_eq!(refused(lab.set_mtu(&dev, 1400)), ODD);
    assert!(lab.take().iter().all(|call| !call.contains(".changemtu(")));
    assert_eq!((real(&lab, &dev).mtu, dev.device().unwrap().link.mtu), (1500, 1500));
    assert_same(&lab);
}

#[test]
fn k2_7_address_order_and_the_same_one_skips_the_op() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    let new = [2, 0, 0, 0, 9, 9];
    set_address(&lab, &dev, &new).unwrap();
    assert_eq!(
        brief(&lab),
        ["w.n0.pre_changeaddr(t0)@1", "a.ndo_set_mac_address(t0=9)@1", "k.address(t0=9)@1", "w.n0.changeaddr(t0)@1"]
    );
    assert_eq!((real(&lab, &dev).address, &dev.device().unwrap().link.address[..]), (new.to_vec(), &new[..]));
    assert_same(&lab);
    set_address(&lab, &dev, &new).unwrap();
    assert!(brief(&lab).iter().all(|call| !call.contains("ndo_set_mac_address")), "the same bytes");
    assert_same(&lab);
}

#[test]
fn k2_7_address_of_another_length_is_einval_a_veto_is_honoured_and_the_event_after_is_not() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    let before = real(&lab, &dev).address;
    for bad in [&[][..], &[1], &[2, 0, 0, 0, 0, 0, 0]] {
        assert_eq!(refused(set_address(&lab, &dev, bad)), EINVAL, "{bad:?}");
    }
    assert_eq!(lab.take(), NONE);
    lab.world.verdict("w.n0.pre_changeaddr(t0)@1", Verdict::Bad);
    assert_eq!(refused(set_address(&lab, &dev, &[2, 0, 0, 0, 9, 9])), 1);
    assert_eq!(lab.take(), ["w.n0.pre_changeaddr(t0)@1"]);
    lab.world.heal();
    lab.world.fail("a.ndo_set_mac_address(t0=9)@1");
    assert_eq!(refused(set_address(&lab, &dev, &[2, 0, 0, 0, 9, 9])), ODD);
    assert_eq!(brief(&lab), ["w.n0.pre_changeaddr(t0)@1", "a.ndo_set_mac_address(t0=9)@1"]);
    assert_eq!(real(&lab, &dev).address, before);
    lab.world.heal();
    lab.world.verdict("w.n0.changeaddr(t0)@1", Verdict::Bad);
    set_address(&lab, &dev, &[2, 0, 0, 0, 9, 9]).unwrap();
    assert_eq!(real(&lab, &dev).address, [2, 0, 0, 0, 9, 9], "CHANGEADDR is not honoured");
    lab.take();
    assert_same(&lab);
}

#[test]
fn k2_7_upper_order_and_out_again() {
    let lab = lab(1);
    let (port, bridge) = (lab.registered(tap("t0")), lab.registered(spec("bridge", "br0")));
    let ifindex = bridge.device().unwrap().link.ifindex;
    set_master(&lab, &port, &bridge).unwrap();
    let call = format!("k.master(t0={ifindex})@1");
    assert_eq!(brief(&lab), ["w.n0.pre_changeupper(t0)@1", call.as_str(), "w.n0.changeupper(t0)@1"]);
    assert_eq!((real(&lab, &port).master, port.device().unwrap().link.master), (ifindex, ifindex));
    assert_same(&lab);
    lab.held(1, |held| dev_set_master(held, &port, 0)).unwrap();
    assert_eq!(brief(&lab), ["w.n0.pre_changeupper(t0)@1", "k.master(t0=0)@1", "w.n0.changeupper(t0)@1"]);
    assert_eq!(real(&lab, &port).master, 0);
    assert_same(&lab);
}

#[test]
fn k2_7_upper_self_and_loop_are_ebusy_the_same_again_eexist_and_another_ebusy() {
    let lab = lab(1);
    let port = lab.registered(tap("t0"));
    let (one, two) = (lab.registered(spec("bridge", "br0")), lab.registered(spec("bridge", "br1")));
    assert_eq!(refused(set_master(&lab, &one, &one)), EBUSY, "itself");
    set_master(&lab, &one, &two).unwrap();
    lab.take();
    assert_eq!(refused(set_master(&lab, &two, &one)), EBUSY, "a loop");
    set_master(&lab, &port, &one).unwrap();
    lab.take();
    assert_eq!(refused(set_master(&lab, &port, &one)), EEXIST);
    assert_eq!(refused(set_master(&lab, &port, &two)), EBUSY);
    assert_eq!(refused(lab.held(1, |held| dev_set_master(held, &two, 4711))), ENODEV);
    assert_eq!(lab.take(), NONE, "nobody is asked");
    assert_same(&lab);
}

#[test]
fn k2_7_upper_nesting_deeper_than_eight_is_emlink() {
    let lab = lab(1);
    let bridges: Vec<_> = (0..10).map(|n| lab.registered(spec("bridge", &format!("br{n}")))).collect();
    let answers: Vec<_> =
        bridges.windows(2).map(|two| set_master(&lab, &two[0], &two[1]).map_err(|f| f.errno)).collect();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 8, "{answers:?}");
    assert_eq!(answers.last(), Some(&Err(31)));
    lab.take();
    assert_same(&lab);
}

#[test]
fn k2_7_upper_a_veto_before_changes_nothing_and_one_after_unlinks_without_a_second_event() {
    let lab = lab(1);
    let (port, bridge) = (lab.registered(tap("t0")), lab.registered(spec("bridge", "br0")));
    lab.world.verdict("x.n0.pre_changeupper(t0)@1", Verdict::Bad);
    assert_eq!(refused(set_master(&lab, &port, &bridge)), 1);
    assert_eq!(lab.take(), ["w.n0.pre_changeupper(t0)@1", "x.n0.pre_changeupper(t0)@1"]);
    lab.world.heal();
    lab.world.verdict("w.n0.changeupper(t0)@1", Verdict::Bad);
    assert_eq!(refused(set_master(&lab, &port, &bridge)), 1);
    let calls = lab.take();
    assert_eq!(calls.iter().filter(|call| call.contains(".changeupper(")).count(), 1, "{calls:?}");
    assert_eq!(calls.last().map(String::as_str), Some("k.master(t0=0)@1"));
    assert_eq!((real(&lab, &port).master, port.device().unwrap().link.master), (0, 0));
    assert_same(&lab);
}

#[test]
fn changes_need_the_devices_own_lock() {
    let lab = lab(2);
    let dev = lab.registered(tap("t0"));
    let wrong = |f: &dyn Fn(&RtnlGuard<'_>) -> Answer| lab.held(2, |held| f(held));
    assert!(wrong(&|held| dev_open(held, &dev)).is_err());
    assert!(wrong(&|held| dev_set_mtu(held, &dev, 1400)).is_err());
    assert!(wrong(&|held| dev_change_name(held, &dev, "t9")).is_err());
    assert!(wrong(&|held| unregister_many(&[held], std::slice::from_ref(&dev))).is_err());
    assert_eq!(lab.take(), NONE);
    assert_eq!(dev.device().unwrap().link, real(&lab, &dev));
}
