//! K1.1 and K1.2 over the list: order, registration, unregistration, and what a failure undoes.

use std::sync::Arc;

use pernet_plugin_api::ExitReason;

use super::recorder::*;
use crate::engine::*;

fn live(list: &PernetList, world: &Arc<World>, cookies: &[u64]) -> Vec<Arc<Net>> {
    let nets: Vec<_> = cookies.iter().map(|c| world.net(*c, &["lo"])).collect();
    nets.iter().for_each(|net| assert_eq!(set_up(list, net).state, NetState::Live));
    nets
}

#[test]
fn k1_1_1_subsystems_come_before_devices_whatever_the_registration_order() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).device().subsys(), &[]);
    add(&list, world.plugin("b", 1).subsys().device(), &[]);
    live(&list, &world, &[1]);
    assert_eq!(world.take(), ["a.init1@1", "b.init0@1", "a.init0@1", "b.init1@1"]);
}

#[test]
fn order_is_by_place_not_by_arrival() {
    let (world, list) = (World::new(), PernetList::new());
    let nets = live(&list, &world, &[1]);
    add(&list, world.plugin("c", 2).subsys(), &nets);
    add(&list, world.plugin("a", 0).subsys(), &nets);
    add(&list, world.plugin("b", 1).subsys(), &nets);
    assert_eq!(world.take(), ["c.init0@1", "a.init0@1", "b.init0@1"]);
    assert_eq!(names(&nets[0]), ["a", "b", "c"]);
    clean_up(&list, &nets[0], ExitReason::Died);
    assert_eq!(world.take_only(".exit0"), ["c.exit0@1:Died", "b.exit0@1:Died", "a.exit0@1:Died"]);
}

#[test]
fn k1_1_3_death_runs_reverse() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys().device(), &[]);
    add(&list, world.plugin("b", 1).subsys().device(), &[]);
    let nets = live(&list, &world, &[1]);
    world.take();
    assert_eq!(clean_up(&list, &nets[0], ExitReason::Died), []);
    assert_eq!(nets[0].state(), NetState::Dying);
    assert_eq!(
        world.take(),
        [
            "b.pre_exit1@1:Died",
            "a.pre_exit1@1:Died",
            "b.pre_exit0@1:Died",
            "a.pre_exit0@1:Died",
            "b.exit1@1:Died",
            "b.batch1@1:Died",
            "a.exit1@1:Died",
            "a.batch1@1:Died",
            "b.exit0@1:Died",
            "b.batch0@1:Died",
            "a.exit0@1:Died",
            "a.batch0@1:Died",
            "b.free1@1",
            "b.free0@1",
            "a.free1@1",
            "a.free0@1",
        ]
    );
}

#[test]
fn a_second_cleanup_finds_nothing_to_do() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys().notifier(0), &[]);
    let nets = live(&list, &world, &[1]);
    clean_up(&list, &nets[0], ExitReason::Died);
    world.take();
    clean_up(&list, &nets[0], ExitReason::Died);
    assert_eq!(set_up(&list, &nets[0]).state, NetState::Dying);
    assert_eq!(world.take(), Vec::<String>::new());
}

#[test]
fn k1_1_4_registration_and_unregistration_go_in_creation_order() {
    let (world, list) = (World::new(), PernetList::new());
    let nets = live(&list, &world, &[3, 1, 2]);
    add(&list, world.plugin("a", 0).subsys(), &nets);
    assert_eq!(world.take(), ["a.init0@3", "a.init0@1", "a.init0@2"]);
    let (member, errors) = unregister(&write(&list), "a", &nets, ExitReason::Removed);
    assert!(member.is_some() && errors.is_empty());
    assert_eq!(
        world.take(),
        [
            "a.pre_exit0@3:Removed",
            "a.pre_exit0@1:Removed",
            "a.pre_exit0@2:Removed",
            "a.exit0@3:Removed",
            "a.exit0@1:Removed",
            "a.exit0@2:Removed",
            "a.batch0@3,1,2:Removed",
            "a.free0@3",
            "a.free0@1",
            "a.free0@2",
        ]
    );
    assert!(list.members().is_empty());
}

#[test]
fn a_registration_goes_op_by_op_each_over_all_nets() {
    let (world, list) = (World::new(), PernetList::new());
    let nets = live(&list, &world, &[1, 2]);
    add(&list, world.plugin("a", 0).device().notifier(0).subsys(), &nets);
    assert_eq!(
        world.take(),
        ["a.init0@1", "a.init0@2", "a.n0.register~(lo)@1", "a.n0.register~(lo)@2", "a.init1@1", "a.init1@2",]
    );
}

#[test]
fn k1_2_a_failed_registration_is_undone_everywhere_and_the_failing_net_gets_no_exit() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("other", 0).subsys(), &[]);
    let nets = live(&list, &world, &[1, 2, 3]);
    world.take();
    world.fail("a.init1@2");
    let errors = register(&write(&list), world.plugin("a", 1).subsys().subsys().build(), &nets).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!((&*errors[0].plugin, errors[0].hook, &*errors[0].netns), ("a", "pernet.init", "ns2"));
    assert_eq!(errors[0].failure.errno, ODD, "the errno verbatim");
    assert_eq!(
        world.take(),
        [
            "a.init0@1",
            "a.init0@2",
            "a.init0@3",
            "a.init1@1",
            "a.init1@2",
            "a.pre_exit1@1:RolledBack",
            "a.pre_exit0@1:RolledBack",
            "a.pre_exit0@2:RolledBack",
            "a.pre_exit0@3:RolledBack",
            "a.exit1@1:RolledBack",
            "a.batch1@1:RolledBack",
            "a.exit0@1:RolledBack",
            "a.exit0@2:RolledBack",
            "a.exit0@3:RolledBack",
            "a.batch0@1,2,3:RolledBack",
            "a.free1@1",
            "a.free0@1",
            "a.free0@2",
            "a.free0@3",
        ]
    );
    assert_eq!(list.members().len(), 1);
    assert!(nets.iter().all(|net| net.state() == NetState::Live && names(net) == ["other"]));
}

#[test]
fn a_skipping_plugin_that_fails_in_one_net_is_absent_there_only() {
    let (world, list) = (World::new(), PernetList::new());
    let nets = live(&list, &world, &[1, 2]);
    world.fail("a.init1@1");
    add(&list, world.plugin("a", 0).subsys().subsys().skip(), &nets);
    assert_eq!(
        world.take(),
        [
            "a.init0@1",
            "a.init0@2",
            "a.init1@1",
            "a.pre_exit0@1:RolledBack",
            "a.exit0@1:RolledBack",
            "a.batch0@1:RolledBack",
            "a.free0@1",
            "a.init1@2",
        ]
    );
    assert_eq!((nets[0].state(), nets[1].state()), (NetState::Degraded, NetState::Live));
    assert_eq!(nets[0].error().unwrap().failure.message, "a.init1@1 was told to fail");
    world.heal();
    assert_eq!(set_up(&list, &nets[0]).state, NetState::Live);
    assert_eq!(nets[0].error(), None);
    assert_eq!(world.take(), ["a.init0@1", "a.init1@1"]);
}

#[test]
fn a_name_is_registered_once_and_what_is_required_must_be_there() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys(), &[]);
    let twice = register(&write(&list), world.plugin("a", 1).subsys().build(), &[]).unwrap_err();
    assert_eq!(twice[0].failure.errno, 17);
    let lonely = register(&write(&list), world.plugin("b", 1).requires("c").build(), &[]).unwrap_err();
    assert_eq!(lonely[0].failure.errno, 2);
    assert!(lonely[0].to_string().contains("`c`"), "{}", lonely[0]);
    let many = (0..65).fold(world.plugin("m", 2), |plugin, _| plugin.subsys());
    assert_eq!(register(&write(&list), many.build(), &[]).unwrap_err()[0].failure.errno, 7);
    assert!(unregister(&write(&list), "nobody", &[], ExitReason::Removed).0.is_none());
}

#[test]
fn a_panic_during_registration_undoes_it_everywhere_whatever_the_policy() {
    let (world, list) = (World::new(), PernetList::new());
    let nets = live(&list, &world, &[1, 2]);
    world.panic_at("a.init0@2");
    let member = world.plugin("a", 0).subsys().skip().build();
    assert!(register(&write(&list), member.clone(), &nets).is_err());
    assert!(member.owner.poisoned());
    assert_eq!(world.take_only("exit0"), ["a.pre_exit0@1:RolledBack", "a.exit0@1:RolledBack"]);
    assert!(list.members().is_empty() && nets.iter().all(|n| n.state() == NetState::Live));
}

#[test]
fn a_panic_while_a_net_is_set_up_leaves_the_others_running_until_the_plugin_is_taken_out() {
    let (world, list) = (World::new(), PernetList::new());
    let member = add(&list, world.plugin("a", 0).subsys().notifier(0), &[]);
    add(&list, world.plugin("b", 1).subsys().requires("a"), &[]);
    add(&list, world.plugin("c", 2).subsys(), &[]);
    let mut nets = live(&list, &world, &[1]);
    world.panic_at("a.init0@2");
    nets.push(world.net(2, &["lo"]));
    assert_eq!(set_up(&list, &nets[1]).state, NetState::Degraded);
    assert!(member.owner.poisoned());
    assert_eq!(names(&nets[1]), ["c"]);
    // Not called any more, neither where it lives nor in new namespaces.
    world.take();
    see(&list, &nets[0], LinkObservation::Seen(link(2, "eth0")));
    nets.push(world.net(3, &["lo"]));
    assert_eq!(set_up(&list, &nets[2]).state, NetState::Degraded);
    assert!(nets[2].error().unwrap().failure.panicked);
    assert_eq!(world.take(), ["c.init0@3"]);
    // Taken out, dependents first: its one exit runs where it was, and all are whole again.
    for name in list.dependents("a").iter().rev() {
        unregister(&write(&list), name, &nets, ExitReason::Removed);
    }
    unregister(&write(&list), "a", &nets, ExitReason::Removed);
    assert_eq!(world.take_only(".exit0"), ["b.exit0@1:Removed", "a.exit0@1:Removed"]);
    assert!(nets.iter().all(|n| n.state() == NetState::Live && names(n) == ["c"] && n.error().is_none()));
}

#[test]
fn dependents_are_found_through_others_in_list_order() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys(), &[]);
    add(&list, world.plugin("b", 1).requires("a"), &[]);
    add(&list, world.plugin("x", 2), &[]);
    add(&list, world.plugin("c", 3).requires("b"), &[]);
    assert_eq!(list.dependents("a").iter().map(|n| &**n).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(list.dependents("x"), []);
}

#[test]
fn a_replaced_plugin_takes_its_dependents_through_it() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys(), &[]);
    add(&list, world.plugin("b", 1).subsys().requires("a"), &[]);
    add(&list, world.plugin("c", 2).subsys(), &[]);
    let nets = live(&list, &world, &[1]);
    world.take();
    let token = write(&list);
    let b = unregister(&token, "b", &nets, ExitReason::Replaced).0.unwrap();
    unregister(&token, "a", &nets, ExitReason::Replaced);
    register(&token, world.plugin("a", 0).subsys().build(), &nets).unwrap();
    register(&token, b, &nets).unwrap();
    drop(token);
    let calls: Vec<_> = world.take().into_iter().filter(|c| c.contains(".init") || c.contains(".exit")).collect();
    assert_eq!(calls, ["b.exit0@1:Replaced", "a.exit0@1:Replaced", "a.init0@1", "b.init0@1"]);
    assert_eq!(names(&nets[0]), ["a", "b", "c"]);
}

#[test]
fn renumbering_changes_the_order_and_calls_nobody() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys(), &[]);
    add(&list, world.plugin("b", 1).subsys(), &[]);
    let nets = live(&list, &world, &[1]);
    world.take();
    renumber(&write(&list), &[("a".into(), 1), ("b".into(), 0)]);
    assert_eq!(world.take(), Vec::<String>::new());
    assert_eq!(names(&nets[0]), ["b", "a"]);
    clean_up(&list, &nets[0], ExitReason::Died);
    assert_eq!(world.take_only(".exit0"), ["a.exit0@1:Died", "b.exit0@1:Died"]);
}

#[test]
fn a_stop_is_one_batch_and_undoes_only_where_asked() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys(), &[]);
    add(&list, world.plugin("b", 1).subsys().undo_on_stop(), &[]);
    let nets = live(&list, &world, &[1, 2]);
    world.take();
    assert_eq!(cleanup_all(&write(&list), &nets, ExitReason::Stopped), []);
    assert_eq!(world.take_only(".batch"), ["b.batch0@1,2:Removed", "a.batch0@1,2:Stopped"]);
    assert_eq!(world.areas_in_use(), 0);
}

#[test]
fn an_exit_that_fails_stops_nobody() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).subsys(), &[]);
    add(&list, world.plugin("b", 1).subsys(), &[]);
    let nets = live(&list, &world, &[1]);
    for call in ["b.pre_exit0@1", "b.exit0@1", "b.batch0@1"] {
        world.fail(call);
    }
    let errors = clean_up(&list, &nets[0], ExitReason::Died);
    let hooks: Vec<_> = errors.iter().map(|e| e.hook).collect();
    assert_eq!(hooks, ["pernet.pre_exit", "pernet.exit", "pernet.exit_batch"]);
    assert_eq!(world.take_only("a.exit0"), ["a.exit0@1:Died"]);
    assert_eq!(world.areas_in_use(), 0);
}
