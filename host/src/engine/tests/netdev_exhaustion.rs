//! The n-th call of anything fails, for every n, through the life of some devices of plugins' own.
//!
//! Hooks, ops and whatever is asked of the kernel count alike. Afterwards nothing is half done: each init has its
//! uninit and its destructor, each open its stop, the mirror is what the kernel has, and the kernel has nothing of ours.

use std::sync::Arc;

use pernet_plugin_api::{ExitReason, RegState};

use super::lab::*;
use super::ndo::*;
use super::recorder::*;
use crate::engine::*;

/// What stays true whatever failed, once everything was read; and read again.
fn assert_whole(lab: &Lab, what: &str) {
    lab.settle();
    assert_consistent(lab, what);
    lab.world.kernel.state().stream.lose();
    lab.settle();
    assert_consistent(lab, &format!("{what}, listed"));
}

fn assert_consistent(lab: &Lab, what: &str) {
    lab.assert_agrees();
    for net in &lab.nets {
        for dev in net.devices() {
            let Some(own) = &dev.own else { continue };
            assert_eq!(own.reg_state(), RegState::Registered, "{what}: {own:?} is in a list");
            let open = lab.world.ledger.is_open(&format!("a.{}", lab.label(own)));
            assert_eq!(open, dev.link.is_up(), "{what}: {own:?} is open and up, or neither");
        }
    }
}

/// A life of some devices, whatever fails on the way. Says where it is by the stage.
fn live(lab: &mut Lab, stage: &mut dyn FnMut(&Lab, &'static str)) {
    let (one, other) = lab.pair("v0", "v1");
    let dev = lab.own(LinkSpec { needs_free: true, ..tap("t%d") });
    let port = lab.own(spec("ifb", "i0"));
    lab.label_all(&[(&one, "v0"), (&other, "v1"), (&dev, "t%d"), (&port, "i0")]);
    let _ = lab.register_pair(&one, &other, 2);
    stage(lab, "a pair");
    let _ = lab.register(&dev);
    let _ = lab.register(&port);
    stage(lab, "registered");
    let _ = lab.open(&dev);
    let _ = lab.open(&port);
    let _ = lab.held(1, |held| dev_open(held, &one));
    stage(lab, "opened");
    let _ = lab.rename(&dev, "u%d");
    let _ = lab.set_mtu(&dev, 1400);
    let _ = lab.held(1, |held| dev_set_mac_address(held, &dev, &[2, 0, 0, 0, 9, 9]));
    let _ = lab.held(1, |held| altname_add(held, &dev, "alias"));
    stage(lab, "changed");
    let _ = lab.travel(&dev, 2, None, 0);
    stage(lab, "moved");
    let _ = lab.close(&port);
    let _ = lab.unregister(&port);
    let _ = free_netdev(&port);
    stage(lab, "one is gone");
    if one.reg_state() == RegState::Registered {
        lab.world.kernel.other_deletes(1, one.device().unwrap().link.ifindex);
    }
    stage(lab, "another was deleted");
    lab.settle();
    stage(lab, "and that was seen");
}

/// The end of everything, which no failure may prevent.
fn end(lab: &Lab, what: &str) {
    for net in &lab.nets {
        clean_up(&lab.list, net, ExitReason::Died);
        assert!(net.devices().is_empty() && net.own_devices().is_empty(), "{what}");
        // What the kernel does not delete is there, and nobody's.
        let left = lab.world.kernel.ours().iter().filter(|(cookie, _)| *cookie == net.cookie.0).count();
        assert!(left == 0 || what.contains("k.delete"), "{what}");
        lab.world.kernel.dies(net.cookie.0);
        lab.settle();
    }
    assert_eq!(lab.world.kernel.ours(), [], "{what}");
    lab.world.ledger.assert_balanced();
}

#[test]
fn a_life_whose_nth_call_fails_ends_whole() {
    let mut failed = Vec::new();
    for nth in 1.. {
        let mut lab = lab(2);
        lab.fail_nth(nth);
        live(&mut lab, &mut |_, _| {});
        let made = lab.world.count_again();
        lab.world.heal();
        if made < nth {
            break;
        }
        let what = format!("after the failure of call {nth}");
        failed.push(nth);
        let call = lab.world.failed();
        let what = format!("{what}, {call}");
        assert_whole(&lab, &what);
        end(&lab, &what);
    }
    assert!(failed.len() > 80, "only {} calls", failed.len());
}

#[test]
fn an_end_whose_nth_call_fails_is_an_end() {
    for nth in 1.. {
        let mut lab = lab(2);
        let kept: Arc<OwnDevice> = lab.opened(tap("k0"));
        lab.label_all(&[(&kept, "k0")]);
        let (one, other) = lab.pair("v0", "v1");
        lab.label_all(&[(&one, "v0"), (&other, "v1")]);
        lab.register_pair(&one, &other, 2).unwrap();
        lab.held(1, |held| dev_open(held, &one)).unwrap();
        lab.take();
        lab.fail_nth(nth);
        let (_, errors) = unregister(&write(&lab.list), "a", &lab.nets, ExitReason::Removed);
        let made = lab.world.count_again();
        lab.world.heal();
        if made < nth {
            assert_eq!(errors, []);
            break;
        }
        let calls = lab.take();
        for dev in [&kept, &one, &other] {
            assert_eq!(dev.reg_state(), RegState::Unregistered, "after the failure of call {nth}: {calls:?}");
        }
        lab.world.ledger.assert_balanced();
        lab.settle();
        lab.assert_agrees();
        let deletes = calls.iter().filter(|call| call.starts_with("k.delete")).count();
        let left = lab.world.kernel.ours();
        assert!(left.is_empty() || deletes > 0, "{left:?} after the failure of call {nth}: {calls:?}");
    }
}

#[test]
fn each_stage_agrees_when_nothing_fails() {
    let mut lab = lab(2);
    let mut stages = 0;
    live(&mut lab, &mut |lab, what| {
        stages += 1;
        if what != "another was deleted" {
            lab.settle();
            lab.assert_agrees();
        }
    });
    assert_eq!(stages, 8);
    let calls = lab.calls("t%d");
    assert_eq!((calls.init, calls.open, calls.stop), (1, 1, 1), "moved, it was closed");
    assert_eq!(lab.calls("i0"), Calls { init: 1, uninit: 1, open: 1, stop: 1, destructor: 1, free: 1 });
    assert_eq!(lab.calls("v0").uninit + lab.calls("v1").uninit, 2, "both ends");
    assert_whole(&lab, "without a failure");
    end(&lab, "without a failure");
    assert_eq!(lab.calls("t%d").free, 1);
}
