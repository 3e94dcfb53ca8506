//! K3 over observed devices: the chain, the replay, and the events that a comparison gives.

use std::sync::Arc;

use pernet_plugin_api::{ExitReason, Verdict};

use super::recorder::*;
use crate::engine::*;

fn watched(devices: &[&str]) -> (Arc<World>, PernetList, Arc<Net>) {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("a", 0).notifier(0), &[]);
    let net = world.net(1, devices);
    set_up(&list, &net);
    world.take();
    (world, list, net)
}

fn seen(link: &Link) -> LinkObservation {
    LinkObservation::Seen(link.clone())
}

#[test]
fn k3_1_priority_descending_then_list_order() {
    let (world, list) = (World::new(), PernetList::new());
    add(&list, world.plugin("b", 1).notifier(0).notifier(9), &[]);
    add(&list, world.plugin("a", 0).notifier(0).notifier(-1), &[]);
    let net = world.net(1, &[]);
    set_up(&list, &net);
    see(&list, &net, seen(&link(1, "lo")));
    let order = ["b.n1.register(lo)@1", "a.n0.register(lo)@1", "b.n0.register(lo)@1", "a.n1.register(lo)@1"];
    assert_eq!(world.take(), order);
}

#[test]
fn k3_3_stop_and_bad_cut_the_chain_and_an_error_does_not() {
    for (verdict, errno) in [(Verdict::Stop, None), (Verdict::Bad, Some(1))] {
        let (world, list, net) = watched(&["lo"]);
        add(&list, world.plugin("b", 1).notifier(0), std::slice::from_ref(&net));
        world.take();
        world.verdict("a.n0.register(eth0)@1", verdict);
        let errors = see(&list, &net, seen(&link(2, "eth0")));
        assert_eq!(world.take(), ["a.n0.register(eth0)@1"]);
        assert_eq!(errors.first().map(|e| e.failure.errno), errno);
    }
    let (world, list, net) = watched(&["lo"]);
    add(&list, world.plugin("b", 1).notifier(0), std::slice::from_ref(&net));
    world.fail("a.n0.register(eth0)@1");
    let errors = see(&list, &net, seen(&link(2, "eth0")));
    assert_eq!(world.take_only("eth0"), ["a.n0.register(eth0)@1", "b.n0.register(eth0)@1"]);
    assert_eq!((errors[0].hook, errors.len()), ("netdev.register", 1));
}

#[test]
fn k3_4_what_happened_has_happened_and_the_error_is_shown_until_it_is_resolved() {
    let (world, list, net) = watched(&["lo"]);
    world.fail("a.n0.register(eth0)@1");
    see(&list, &net, seen(&link(2, "eth0")));
    assert_eq!((net.devices().len(), net.state()), (2, NetState::Live));
    assert_eq!(net.error().unwrap().hook, "netdev.register");
    see(&list, &net, seen(&link(1, "lo+")));
    assert!(net.error().is_some(), "another device says nothing about this one");
    see(&list, &net, seen(&link(2, "eth0+")));
    assert_eq!(net.error(), None);
    world.fail("a.n0.up(eth1)@1");
    see(&list, &net, seen(&link(3, "eth1+")));
    assert!(net.error().is_some());
    world.fail("a.n0.unregister(eth1)@1");
    see(&list, &net, LinkObservation::Gone { ifindex: 3, moved: None });
    assert_eq!(net.error(), None, "a device that is gone is no error");
}

#[test]
fn k3_5_a_late_notifier_sees_each_device_once_and_its_refusal_fails_the_registration() {
    let (world, list) = (World::new(), PernetList::new());
    let nets: Vec<_> = [1, 2].map(|c| world.net(c, &["lo+", "eth0+", "eth1"])).into();
    nets.iter().for_each(|net| drop(set_up(&list, net)));
    world.fail("a.n0.register~(eth1)@2");
    let member = world.plugin("a", 0).notifier(0);
    let errors = register(&write(&list), member.build(), &nets).unwrap_err();
    assert_eq!((errors[0].hook, &*errors[0].netns), ("netdev.register", "ns2"));
    assert_eq!(
        world.take(),
        [
            "a.n0.register~(lo)@1",
            "a.n0.up~(lo)@1",
            "a.n0.register~(eth0)@1",
            "a.n0.up~(eth0)@1",
            "a.n0.register~(eth1)@1",
            "a.n0.register~(lo)@2",
            "a.n0.up~(lo)@2",
            "a.n0.register~(eth0)@2",
            "a.n0.up~(eth0)@2",
            "a.n0.register~(eth1)@2",
            // The failing net: back from before the failing device, which gets nothing.
            "a.n0.goingdown~(eth0)@2",
            "a.n0.down~(eth0)@2",
            "a.n0.unregister~(eth0)@2",
            "a.n0.goingdown~(lo)@2",
            "a.n0.down~(lo)@2",
            "a.n0.unregister~(lo)@2",
            // The nets before it.
            "a.n0.unregister~(eth1)@1",
            "a.n0.goingdown~(eth0)@1",
            "a.n0.down~(eth0)@1",
            "a.n0.unregister~(eth0)@1",
            "a.n0.goingdown~(lo)@1",
            "a.n0.down~(lo)@1",
            "a.n0.unregister~(lo)@1",
        ]
    );
    assert!(nets.iter().all(|net| !net.watched()));
}

#[test]
fn k3_5_the_namespaces_that_had_agreed_are_undone_in_the_order_of_their_creation() {
    let (world, list) = (World::new(), PernetList::new());
    let nets: Vec<_> = [1, 2, 3].map(|c| world.net(c, &["lo"])).into();
    nets.iter().for_each(|net| drop(set_up(&list, net)));
    world.fail("a.n0.register~(lo)@3");
    let errors = register(&write(&list), world.plugin("a", 0).notifier(0).build(), &nets).unwrap_err();
    assert_eq!((errors.len(), errors[0].failure.errno), (1, ODD));
    // The kernel's is 2, 1.
    assert_eq!(world.take_only("unregister"), ["a.n0.unregister~(lo)@1", "a.n0.unregister~(lo)@2"]);
}

#[test]
fn k3_5_a_veto_is_honoured_and_an_error_of_up_is_not() {
    let (world, list) = (World::new(), PernetList::new());
    let nets = [world.net(1, &["lo+"])];
    set_up(&list, &nets[0]);
    world.verdict("a.n0.register~(lo)@1", Verdict::Bad);
    let errors = register(&write(&list), world.plugin("a", 0).notifier(0).build(), &nets).unwrap_err();
    assert_eq!(errors[0].failure.errno, 1);
    world.heal();
    world.fail("a.n0.up~(lo)@1");
    add(&list, world.plugin("a", 0).notifier(0), &nets);
    world.heal();
    world.verdict("b.n0.register~(lo)@1", Verdict::Stop);
    add(&list, world.plugin("b", 1).notifier(0), &nets);
}

#[test]
fn k3_6_who_goes_sees_each_device_go_once_newest_first_and_the_others_see_nothing() {
    let (world, list, net) = watched(&["lo", "eth0+"]);
    add(&list, world.plugin("b", 1).notifier(0), std::slice::from_ref(&net));
    world.take();
    unregister(&write(&list), "a", std::slice::from_ref(&net), ExitReason::Removed);
    assert_eq!(
        world.take(),
        ["a.n0.goingdown~(eth0)@1", "a.n0.down~(eth0)@1", "a.n0.unregister~(eth0)@1", "a.n0.unregister~(lo)@1",]
    );
    assert_eq!((net.watched(), net.devices().len()), (true, 2));
}

#[test]
fn every_difference_is_its_own_event_in_a_fixed_order() {
    let (world, list, net) = watched(&["lo", "eth0+"]);
    let mut link = link(2, "wan+");
    (link.mtu, link.master, link.address) = (9000, 7, vec![9]);
    link.flags |= 0x100;
    see(&list, &net, seen(&link));
    assert_eq!(
        world.take(),
        [
            "a.n0.changename(eth0>wan)@1",
            "a.n0.changeaddr(wan)@1",
            "a.n0.changemtu(wan)@1",
            "a.n0.changeupper(wan)@1",
            "a.n0.change(wan)@1",
        ]
    );
    link.flags = 0x100;
    link.mtu = 1500;
    see(&list, &net, seen(&link));
    assert_eq!(world.take(), ["a.n0.goingdown(wan)@1", "a.n0.down(wan)@1", "a.n0.changemtu(wan)@1"]);
    link.flags = 0x101 | 1 << 6 | 1 << 16;
    see(&list, &net, seen(&link));
    assert_eq!(world.take(), ["a.n0.up(wan)@1"], "running follows from up");
    link.flags &= !(1 << 16);
    see(&list, &net, seen(&link));
    assert_eq!(world.take(), ["a.n0.change(wan)@1"], "the carrier went");
    see(&list, &net, seen(&link));
    assert_eq!(world.take(), Vec::<String>::new());
    assert_eq!(net.devices()[1].link, link);
}

#[test]
fn an_address_is_a_change_live_and_another_device_after_a_loss() {
    let (world, list, net) = watched(&["lo", "eth0"]);
    let serial = net.devices()[1].serial;
    let mut link = link(2, "eth0");
    link.address = vec![8];
    see(&list, &net, seen(&link));
    assert_eq!((world.take(), net.devices()[1].serial), (vec!["a.n0.changeaddr(eth0)@1".to_owned()], serial));
    link.address = vec![9];
    see(&list, &net, LinkObservation::Dump(vec![link.clone(), super::recorder::link(1, "lo")]));
    assert_eq!(world.take(), ["a.n0.unregister(eth0)@1", "a.n0.register(eth0)@1"]);
    assert!(net.devices()[1].serial > serial);
    link.kind = "ifb".into();
    see(&list, &net, seen(&link));
    assert_eq!(world.take(), ["a.n0.unregister(eth0)@1", "a.n0.register(eth0)@1"]);
}

#[test]
fn a_dump_takes_away_what_is_missing_newest_first_and_adds_what_is_new() {
    let (world, list, net) = watched(&["lo", "eth0+", "eth1"]);
    let dump = vec![link(9, "eth9+"), link(4, "eth4"), link(1, "lo")];
    see(&list, &net, LinkObservation::Dump(dump));
    assert_eq!(
        world.take(),
        [
            "a.n0.unregister(eth1)@1",
            "a.n0.goingdown(eth0)@1",
            "a.n0.down(eth0)@1",
            "a.n0.unregister(eth0)@1",
            "a.n0.register(eth4)@1",
            "a.n0.register(eth9)@1",
            "a.n0.up(eth9)@1",
        ]
    );
    see(&list, &net, LinkObservation::Gone { ifindex: 77, moved: None });
    assert_eq!(world.take(), Vec::<String>::new());
}

#[test]
fn a_device_is_told_as_it_is_at_each_event() {
    let (world, list, net) = watched(&["lo", "eth0+"]);
    world.at("a.n0.goingdown(eth0)@1", |net| assert_eq!(net.devices().len(), 2));
    world.at("a.n0.unregister(eth0)@1", |net| assert_eq!(net.devices().len(), 1));
    see(&list, &net, LinkObservation::Gone { ifindex: 2, moved: None });
    assert_eq!(world.take().len(), 3);
}

#[test]
fn a_panic_in_a_notifier_silences_its_plugin() {
    let (world, list, net) = watched(&["lo"]);
    world.panic_at("a.n0.register(eth0)@1");
    see(&list, &net, seen(&link(2, "eth0+")));
    assert_eq!(world.take(), ["a.n0.register(eth0)@1"], "not even the UP that follows");
    assert!(list.members()[0].owner.poisoned());
}
