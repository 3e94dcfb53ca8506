//! The n-th call fails, for every n: afterwards the state is as before, or as the rules say.

use std::sync::Arc;

use pernet_plugin_api::ExitReason;

use super::recorder::*;
use crate::engine::*;

fn populated() -> (Arc<World>, PernetList) {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys().notifier(0).device(), &[]);
    add(&list, world.plugin("b", 10).subsys().subsys().notifier(5), &[]);
    add(&list, world.plugin("c", 20).device().notifier(0).subsys(), &[]);
    (world, list)
}

/// What must not change: who is where, which devices are known, how many areas are in use.
fn picture(world: &World, list: &PernetList, nets: &[Arc<Net>]) -> String {
    let members: Vec<_> = list.members().iter().map(|m| m.owner.name.to_string()).collect();
    let each: Vec<_> = nets.iter().map(|n| (n.state(), names(n), n.devices(), n.watched())).collect();
    format!("{members:?} {each:?} {}", world.areas_in_use())
}

#[test]
fn a_setup_whose_nth_call_fails_leaves_nothing_behind_and_succeeds_when_retried() {
    let (world, list) = populated();
    let mut failures = 0;
    for nth in 1.. {
        let net = world.net(nth, &["lo+", "eth0"]);
        world.count_again();
        world.fail_nth.store(usize::try_from(nth).unwrap(), std::sync::atomic::Ordering::SeqCst);
        let setup = set_up(&list, &net);
        if setup.errors.is_empty() {
            assert_eq!(setup.state, NetState::Live);
            break;
        }
        failures += 1;
        world.heal();
        if setup.state == NetState::Failed {
            assert!(!net.watched() && net.devices().is_empty() && net.subsystems().is_empty());
            assert_eq!(world.areas_in_use(), 0);
        } else {
            assert_eq!(setup.errors[0].hook.split('.').next(), Some("netdev"), "{:?}", setup.errors);
        }
        assert_eq!(set_up(&list, &net).state, NetState::Live);
        assert_eq!(names(&net), ["a", "b", "c"]);
        assert_eq!(clean_up(&list, &net, ExitReason::Died), []);
        assert_eq!(world.areas_in_use(), 0);
    }
    assert_eq!(failures, 6 + 3 * 3, "six inits; three notifiers with a REGISTER each of two devices and one UP");
}

#[test]
fn a_registration_whose_nth_call_fails_leaves_everything_as_it_was() {
    let (world, list) = populated();
    let nets: Vec<_> = (1..=5).map(|c| world.net(c, &["lo+", "eth0"])).collect();
    nets.iter().for_each(|net| drop(set_up(&list, net)));
    let before = picture(&world, &list, &nets);
    let plugin = || world.plugin("new", 5).device().notifier(3).subsys().build();
    for nth in 1.. {
        world.count_again();
        world.take();
        world.fail_nth.store(nth, std::sync::atomic::Ordering::SeqCst);
        let failed = register(&write(&list), plugin(), &nets).is_err();
        let made = world.count_again();
        world.heal();
        let calls = world.take();
        assert!(calls.iter().all(|call| call.starts_with("new.")), "nobody else is called");
        if made < nth {
            break;
        }
        if !failed {
            // Only the UP of a replay may fail without consequence.
            assert!(calls[nth - 1].contains(".up~"), "{}", calls[nth - 1]);
            unregister(&write(&list), "new", &nets, ExitReason::Removed);
        }
        assert_eq!(picture(&world, &list, &nets), before, "after failing {}", calls[nth - 1]);
    }
    assert_eq!(names(&nets[4]), ["a", "new", "b", "c"]);
}

#[test]
fn a_skipped_plugin_whose_nth_call_fails_harms_nobody() {
    for nth in 1.. {
        let (world, list) = (World::new(), PernetList::new());
        add(&list, world.plugin("a", 0).subsys().notifier(0).device().skip(), &[]);
        add(&list, world.plugin("b", 1).subsys().requires("a").device().skip(), &[]);
        add(&list, world.plugin("c", 2).subsys().device().skip(), &[]);
        let net = world.net(1, &["lo+"]);
        world.count_again();
        world.fail_nth.store(nth, std::sync::atomic::Ordering::SeqCst);
        let setup = set_up(&list, &net);
        if setup.errors.is_empty() {
            break;
        }
        assert_ne!(setup.state, NetState::Failed);
        let absent: Vec<_> = net.absent().iter().map(|e| e.plugin.to_string()).collect();
        assert!(names(&net).iter().all(|name| !absent.contains(name)));
        assert_eq!(names(&net).len() + absent.len(), 3);
        world.heal();
        assert_eq!(set_up(&list, &net).state, NetState::Live);
        assert_eq!(names(&net), ["a", "b", "c"]);
        clean_up(&list, &net, ExitReason::Died);
        assert_eq!(world.areas_in_use(), 0);
    }
}

#[test]
fn a_teardown_whose_nth_call_fails_tears_down_all_the_same() {
    let (world, list) = populated();
    let mut whole = Vec::new();
    for nth in 0.. {
        let net = world.life(1, u32::try_from(nth).unwrap() + 1);
        set_up(&list, &net);
        world.take();
        world.count_again();
        world.fail_nth.store(nth, std::sync::atomic::Ordering::SeqCst);
        let errors = clean_up(&list, &net, ExitReason::Died);
        world.heal();
        let calls = world.take();
        if nth == 0 {
            whole.clone_from(&calls);
        }
        assert_eq!(calls, whole);
        assert_eq!(world.areas_in_use(), 0);
        if nth > 0 && errors.is_empty() {
            break;
        }
    }
}
