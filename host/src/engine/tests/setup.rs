//! A namespace's setup, its retries, its renaming, and its death on the way.

use std::sync::Arc;

use pernet_plugin_api::ExitReason;

use super::recorder::*;
use crate::engine::*;

#[test]
fn devices_are_replayed_between_the_subsystems_and_the_pernet_devices() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).device().notifier(0).subsys(), &[]);
    let net = world.net(1, &["lo+", "eth0"]);
    assert_eq!(set_up(&list, &net).state, NetState::Live);
    assert_eq!(
        world.take(),
        ["a.init1@1", "a.n0.register~(lo)@1", "a.n0.up~(lo)@1", "a.n0.register~(eth0)@1", "a.init0@1"]
    );
    assert!(net.watched());
    clean_up(&list, &net, ExitReason::Died);
    assert_eq!(
        world.take(),
        [
            "a.pre_exit0@1:Died",
            "a.pre_exit1@1:Died",
            "a.exit0@1:Died",
            "a.batch0@1:Died",
            "a.n0.unregister(eth0)@1",
            "a.n0.goingdown(lo)@1",
            "a.n0.down(lo)@1",
            "a.n0.unregister(lo)@1",
            "a.exit1@1:Died",
            "a.batch1@1:Died",
            "a.free1@1",
            "a.free0@1",
        ]
    );
    assert!(!net.watched() && net.devices().is_empty());
}

#[test]
fn a_net_without_notifiers_is_not_watched() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys(), &[]);
    let net = world.net(1, &["lo"]);
    set_up(&list, &net);
    assert!(!net.watched() && net.devices().is_empty());
    assert_eq!(see(&list, &net, LinkObservation::Seen(link(2, "eth0"))), []);
    assert!(net.devices().is_empty());
}

#[test]
fn k1_2_a_failed_setup_is_undone_in_reverse_and_the_failing_op_gets_no_exit() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys().notifier(0), &[]);
    add(&list, world.plugin("b", 1).device(), &[]);
    let net = world.net(1, &["lo"]);
    world.fail("b.init0@1");
    let setup = set_up(&list, &net);
    assert_eq!((setup.state, setup.errors.len()), (NetState::Failed, 1));
    assert_eq!(
        world.take(),
        [
            "a.init0@1",
            "a.n0.register~(lo)@1",
            "b.init0@1",
            "a.pre_exit0@1:RolledBack",
            "a.n0.unregister(lo)@1",
            "a.exit0@1:RolledBack",
            "a.batch0@1:RolledBack",
            "a.free0@1",
        ]
    );
    let error = net.error().unwrap();
    assert_eq!((&*error.plugin, error.hook, error.failure.errno), ("b", "pernet.init", ODD), "the errno verbatim");
    assert!(!net.watched() && net.subsystems().is_empty());
    world.heal();
    assert_eq!(set_up(&list, &net).state, NetState::Live);
    assert_eq!(world.take(), ["a.init0@1", "a.n0.register~(lo)@1", "b.init0@1"]);
    assert_eq!(net.error(), None);
}

#[test]
fn a_skipped_plugin_takes_who_requires_it_with_it_and_nobody_else() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys(), &[]);
    add(&list, world.plugin("s", 1).subsys().device().skip(), &[]);
    add(&list, world.plugin("r", 2).subsys().requires("s"), &[]);
    add(&list, world.plugin("z", 3).device(), &[]);
    let net = world.net(1, &["lo"]);
    world.fail("s.init1@1");
    assert_eq!(set_up(&list, &net).state, NetState::Degraded);
    assert_eq!(
        world.take(),
        [
            "a.init0@1",
            "s.init0@1",
            "r.init0@1",
            "s.init1@1",
            "r.pre_exit0@1:RolledBack",
            "s.pre_exit0@1:RolledBack",
            "r.exit0@1:RolledBack",
            "r.batch0@1:RolledBack",
            "s.exit0@1:RolledBack",
            "s.batch0@1:RolledBack",
            "r.free0@1",
            "s.free0@1",
            "z.init0@1",
        ]
    );
    let absent: Vec<_> = net.absent().iter().map(|e| e.to_string()).collect();
    assert_eq!(absent.len(), 2);
    assert!(absent[1].contains("requires `s`"), "{absent:?}");
    assert_eq!(names(&net), ["a", "z"]);
    // The retry is for those two only, in their order; while it fails the others see nothing.
    set_up(&list, &net);
    assert!(world.take().iter().all(|call| call.starts_with("s.") || call.starts_with("r.")));
    world.heal();
    assert_eq!(set_up(&list, &net).state, NetState::Live);
    assert_eq!(world.take(), ["s.init0@1", "r.init0@1", "s.init1@1"]);
    assert_eq!(names(&net), ["a", "s", "r", "z"]);
}

#[test]
fn a_retry_that_fails_harms_nobody_who_runs_and_the_net_stays_degraded() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("s", 0).subsys().skip(), &[]);
    add(&list, world.plugin("r", 1).subsys().requires("s"), &[]);
    add(&list, world.plugin("z", 2).subsys(), &[]);
    let net = world.net(1, &["lo"]);
    world.fail("s.init0@1");
    set_up(&list, &net);
    world.heal();
    world.fail("r.init0@1");
    world.take();
    world.at("s.init0@1", |net| assert_eq!(net.state(), NetState::Degraded, "not live before all are there"));
    assert_eq!(set_up(&list, &net).state, NetState::Degraded);
    assert_eq!(world.take(), ["s.init0@1", "r.init0@1"]);
    assert_eq!(names(&net), ["s", "z"]);
    assert_eq!(&*net.error().unwrap().plugin, "r");
}

#[test]
fn a_late_notifier_in_a_retry_sees_what_exists_and_the_others_do_not_see_it_twice() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).notifier(0), &[]);
    add(&list, world.plugin("s", 1).subsys().notifier(0).skip(), &[]);
    let net = world.net(1, &["lo"]);
    world.fail("s.init0@1");
    set_up(&list, &net);
    see(&list, &net, LinkObservation::Seen(link(2, "eth0+")));
    world.heal();
    world.take();
    set_up(&list, &net);
    assert_eq!(world.take(), ["s.init0@1", "s.n0.register~(lo)@1", "s.n0.register~(eth0)@1", "s.n0.up~(eth0)@1"]);
}

#[test]
fn a_net_that_dies_during_its_setup_stops_between_ops_and_is_undone_as_died() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys(), &[]);
    add(&list, world.plugin("b", 1).subsys(), &[]);
    let net = world.net(1, &["lo"]);
    world.at("a.init0@1", Net::mark_dying);
    assert_eq!(set_up(&list, &net).state, NetState::Dying);
    let calls = world.take();
    assert_eq!(calls, ["a.init0@1", "a.pre_exit0@1:Died", "a.exit0@1:Died", "a.batch0@1:Died", "a.free0@1"]);
    clean_up(&list, &net, ExitReason::Died);
    assert_eq!(world.take(), Vec::<String>::new());
}

#[test]
fn who_is_not_selected_is_not_there_and_neither_is_who_requires_it() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys().only(|net| &*net.name() == "blue"), &[]);
    add(&list, world.plugin("r", 1).subsys().requires("a"), &[]);
    add(&list, world.plugin("z", 2).subsys(), &[]);
    let net = world.net(1, &["lo"]);
    assert_eq!(set_up(&list, &net).state, NetState::Live);
    assert_eq!(world.take(), ["z.init0@1"]);
    net.set_names(vec!["blue".into()]);
    assert_eq!(rejudge_net(&list.read().unwrap(), &net), []);
    assert_eq!(world.take(), ["a.init0@1", "r.init0@1"]);
    net.set_names(vec!["red".into()]);
    rejudge_net(&list.read().unwrap(), &net);
    assert_eq!(world.take_only(".exit0"), ["r.exit0@1:Removed", "a.exit0@1:Removed"]);
    assert_eq!((net.state(), names(&net)), (NetState::Live, vec!["z".to_owned()]));
}

#[test]
fn who_is_newly_selected_and_fails_is_absent_whatever_its_policy() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys().only(|net| &*net.name() == "blue"), &[]);
    add(&list, world.plugin("z", 1).subsys(), &[]);
    let net = world.net(1, &["lo"]);
    set_up(&list, &net);
    world.fail("a.init0@1");
    net.set_names(vec!["blue".into()]);
    assert_eq!(rejudge_net(&list.read().unwrap(), &net).len(), 1);
    assert_eq!((net.state(), names(&net)), (NetState::Degraded, vec!["z".to_owned()]));
    // No more selected, no more missed.
    net.set_names(vec!["red".into()]);
    rejudge_net(&list.read().unwrap(), &net);
    assert_eq!(net.state(), NetState::Live);
}

#[test]
fn no_hook_runs_where_the_thread_cannot_get_inside() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys(), &[]);
    let (net, closed) = (world.net(1, &["lo"]), world.net(2, &["lo"]));
    world.enter_fails(2);
    assert_eq!(set_up(&list, &closed).state, NetState::Failed);
    set_up(&list, &net);
    world.enter_fails(1);
    world.take();
    let errors = clean_up(&list, &net, ExitReason::Died);
    assert!(errors.iter().any(|e| e.hook == "pernet.exit"), "{errors:?}");
    assert_eq!(world.take_only("exit0"), Vec::<String>::new());
}

#[test]
fn a_next_life_begins_from_nothing() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys().notifier(0), &[]);
    let first = world.net(1, &["lo"]);
    set_up(&list, &first);
    let serial = first.devices()[0].serial;
    clean_up(&list, &first, ExitReason::Died);
    let second = world.life(1, 2);
    assert_eq!(set_up(&list, &second).state, NetState::Live);
    assert!(second.devices()[0].serial > serial, "a serial is never given again");
    clean_up(&list, &second, ExitReason::Died);
    assert_eq!(world.take_only(".exit0").len(), 2);
    assert_eq!(world.areas_in_use(), 0);
}

#[test]
fn setups_run_in_parallel_on_many_threads() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys().notifier(0), &[]);
    add(&list, world.plugin("b", 1).subsys().device(), &[]);
    let nets: Vec<Arc<Net>> = (1..=200).map(|cookie| world.net(cookie, &["lo", "eth0"])).collect();
    std::thread::scope(|scope| {
        for chunk in nets.chunks(25) {
            let list = &list;
            scope.spawn(move || {
                for net in chunk {
                    assert_eq!(set_up(list, net).state, NetState::Live);
                    see(list, net, LinkObservation::Gone { ifindex: 2, moved: None });
                    clean_up(list, net, ExitReason::Died);
                }
            });
        }
    });
    assert_eq!(world.areas_in_use(), 0);
    let calls = world.take();
    assert_eq!(calls.iter().filter(|c| c.contains(".exit")).count(), 600);
    assert_eq!(calls.iter().filter(|c| c.contains("unregister(")).count(), 400);
}

#[test]
fn a_net_with_two_plugins_is_small() {
    let own = size_of::<Net>();
    assert!(own <= 512, "a Net itself is {own} bytes");
}
