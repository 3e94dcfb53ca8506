//! Link events that were lost: afterwards the view is the kernel's, and what the plugins were told makes sense.
//!
//! The receive buffer is as small as the kernel allows, so a flood is lost for the most part. Either the daemon is
//! stopped meanwhile (SIGSTOP), and all of it is lost at once, or it runs, and loses now and then.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod lives;
mod machine;
mod sandbox;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use lives::Lives;
use machine::{Machine, SOON, both, inside, name_path, one};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use pernetd::linux::{netns, rtnetlink};
use pernetd::netlink::Requests;
use rustix::process::Signal;
use sandbox::{RUN_NETNS, netns_add, netns_del, wait_until};
use serde_json::{Value, json};

/// For what a flood leaves to do, in a debug build, on two busy cores.
const LATER: Duration = Duration::from_secs(30);
/// `IFF_UP`.
const UP: u32 = 1;

fn main() -> ExitCode {
    let trials = [
        one("a flood while the daemon is stopped", stopped),
        one("a device is replaced under its index while the daemon is stopped", replaced),
        both("namespaces die in a flood while the daemon is stopped", dying),
        both("namespaces come and go in a flood", flooded),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

/// A daemon with a probe that sees devices, and little room for their events; and these namespaces.
fn running(mut m: Machine, names: &[String]) -> Machine {
    m.main("netlink.receive_buffer = 4096");
    m.probe(10, "a", "", "notifier = 0");
    m.start();
    names.iter().for_each(|name| drop(netns_add(name)));
    names.iter().for_each(|name| m.wait_state(name, "live"));
    m
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("n{n}")).collect()
}

/// Stops the daemon, acts, and lets it go on.
fn while_stopped(m: &Machine, act: impl FnOnce()) {
    m.signal(Signal::STOP);
    let tasks = format!("/proc/{}/task", m.pid().as_raw_pid());
    let stat = |task: fs::DirEntry| fs::read_to_string(task.path().join("stat")).unwrap_or_default();
    let stopped = |stat: &String| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'));
    wait_until("all threads are stopped", LATER, || {
        fs::read_dir(&tasks).unwrap().flatten().map(stat).all(|stat| stopped(&stat))
    });
    act();
    m.signal(Signal::CONT);
}

/// What can happen to devices: they come, go, change, and are renamed; one of each is left.
fn flood(rounds: u32) {
    let index = |name: &str| rtnetlink::find(name).unwrap().ifindex;
    for round in 0..rounds {
        rtnetlink::create_veth("a", "b", None).unwrap();
        rtnetlink::set_up(index("a")).unwrap();
        rtnetlink::set_mtu(index("b"), 1300 + round % 100).unwrap();
        rtnetlink::set_address(index("b"), &[2, 0, 0, 0, 1, u8::try_from(round % 256).unwrap()]).unwrap();
        if round + 1 < rounds {
            rtnetlink::delete("a").unwrap();
        }
    }
    // Changes of one device that end where they began, but for the last.
    for mtu in (2000..2050).chain([1400]) {
        rtnetlink::set_mtu(1, mtu).unwrap();
    }
}

/// The kernel's devices of a namespace, in the form of `dev list`.
fn kernels(netns: &str) -> Vec<Value> {
    let mut links = inside(netns, || rtnetlink::dump_links().unwrap());
    links.sort_by_key(|link| link.ifindex);
    let kind = |kind: &str| if kind.is_empty() { Value::Null } else { kind.into() };
    let row = |link: &pernetd::engine::Link| {
        json!([link.ifindex, link.name, kind(&link.kind), link.flags & UP != 0, link.mtu])
    };
    links.iter().map(row).collect()
}

/// The daemon's.
fn daemons(m: &Machine, netns: &str) -> Vec<Value> {
    let answer = m.ask(["dev", "list", "--netns", netns]);
    let row = |d: &Value| json!([d["ifindex"], d["name"], d["kind"], d["up"], d["mtu"]]);
    answer.json.as_array().into_iter().flatten().map(row).collect()
}

#[track_caller]
fn wait_same(m: &Machine, names: &[String]) {
    for name in names {
        wait_until(&format!("the devices of {name} are the kernel's"), LATER, || daemons(m, name) == kernels(name));
    }
}

/// Waits until the plugin was told of exactly the devices that there are, in exactly the namespaces that there are.
#[track_caller]
fn wait_told(m: &Machine, names: &[String]) -> Lives {
    let mut expected: Vec<(String, Vec<String>)> = Vec::new();
    for name in names {
        let mut devices: Vec<String> =
            inside(name, || rtnetlink::dump_links().unwrap()).into_iter().map(|l| l.name).collect();
        devices.sort();
        expected.push((name.clone(), devices));
    }
    expected.sort();
    let mut lives = Lives::new();
    wait_until("the plugin knows the devices that there are", LATER, || {
        lives = lives::check(&m.calls());
        let living = lives.values().filter(|life| life.goes_on());
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let mut told: Vec<_> = living.map(|life| (life.netns.clone(), owned(life.devices()))).collect();
        told.sort();
        told == expected
    });
    lives
}

fn resyncs(m: &Machine) -> u64 {
    m.status()["resyncs"].as_u64().unwrap()
}

fn stopped(m: Machine) {
    let names = names(5);
    let mut m = running(m, &names);
    inside("n0", || rtnetlink::create_veth("goes", "too", None).unwrap());
    wait_same(&m, &names);
    while_stopped(&m, || {
        names.iter().for_each(|name| inside(name, || flood(20)));
        inside("n0", || rtnetlink::delete("goes").unwrap());
    });
    wait_same(&m, &names);
    assert!(resyncs(&m) > 0, "nothing was lost: this tests nothing");
    wait_until("the log tells its end", SOON, || m.log().contains(" after link events were lost"));
    wait_told(&m, &names);
    // It hears again what is not lost.
    inside("n3", || rtnetlink::delete("a").unwrap());
    wait_same(&m, &names);
    wait_told(&m, &names);
    m.stop();
}

/// A device of this kind under this index.
fn create_at(ifindex: u32, name: &str, kind: InfoKind) {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
    let request = RouteNetlinkMessage::NewLink(message);
    Requests::open().unwrap().ask(&|| "create".into(), request, NLM_F_CREATE | NLM_F_EXCL, |_| {}).unwrap();
}

fn replaced(m: Machine) {
    let names = names(1);
    let mut m = running(m, &names);
    inside("n0", || {
        create_at(77, "other-kind", InfoKind::Bridge);
        create_at(78, "other-address", InfoKind::Bridge);
        create_at(79, "same", InfoKind::Bridge);
    });
    wait_same(&m, &names);
    wait_told(&m, &names);
    m.forget();
    while_stopped(&m, || {
        inside("n0", || {
            flood(5);
            rtnetlink::delete("other-kind").unwrap();
            rtnetlink::delete("other-address").unwrap();
            create_at(77, "other-kind", InfoKind::Veth);
            create_at(78, "other-address", InfoKind::Bridge);
        });
    });
    wait_until("the new device is known", LATER, || daemons(&m, "n0") == kernels("n0"));
    assert!(resyncs(&m) > 0, "nothing was lost: this tests nothing");
    let of = |device: &str| {
        let calls = m.calls();
        let here = calls.iter().filter(|c| c.device.as_deref() == Some(device));
        here.map(|c| c.hook.strip_prefix("netdev.").unwrap().to_owned()).collect::<Vec<_>>()
    };
    for device in ["other-kind", "other-address"] {
        wait_until(device, LATER, || of(device).iter().any(|hook| hook == "register"));
        assert_eq!(of(device), ["unregister", "register"], "{device}");
    }
    assert_eq!(of("same"), Vec::<String>::new());
    m.stop();
}

fn dying(m: Machine) {
    let names = names(20);
    let mut m = running(m, &names);
    wait_same(&m, &names);
    let (die, stay) = names.split_at(10);
    while_stopped(&m, || {
        for (dies, stays) in die.iter().zip(stay) {
            inside(dies, || flood(3));
            inside(stays, || flood(3));
            netns_del(dies);
        }
    });
    die.iter().for_each(|name| m.wait_gone(name));
    wait_same(&m, stay);
    assert!(resyncs(&m) > 0, "nothing was lost: this tests nothing");
    let lives = wait_told(&m, stay);
    assert_eq!(lives.len(), names.len());
    let all = m.ctl(["dev", "list"]);
    let of_dead = |d: &&Value| die.iter().any(|name| d["netns"] == name.as_str());
    assert_eq!(all.as_array().unwrap().iter().find(of_dead), None);
    stay.iter().for_each(netns_del);
    stay.iter().for_each(|name| m.wait_gone(name));
    assert_eq!(lives::all_ended(&lives::check(&m.calls())), names.len());
    m.stop();
}

/// Two namespaces are flooded while others, with devices of their own, come and go.
fn flooded(m: Machine) {
    const COME_AND_GO: usize = 60;
    let names = names(2);
    let mut m = running(m, &names);
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(move || inside(name, || flood(150)));
        }
        scope.spawn(|| {
            for n in 0..COME_AND_GO {
                let name = format!("c{n}");
                netns::add(Path::new(RUN_NETNS), OsStr::new(&name)).unwrap();
                inside(&name, || rtnetlink::create_veth("x", "y", None).unwrap());
                netns::remove(&name_path(&name)).unwrap();
            }
        });
    });
    netns_add("last");
    m.wait_state("last", "live");
    let all: Vec<String> = names.iter().cloned().chain(["last".to_owned()]).collect();
    wait_until("what went is gone", LATER, || m.ctl(["netns", "list"]).as_array().unwrap().len() == all.len() + 1);
    wait_same(&m, &all);
    wait_told(&m, &all);
    assert!(resyncs(&m) > 0, "nothing was lost: this tests nothing");
    all.iter().for_each(netns_del);
    all.iter().for_each(|name| m.wait_gone(name));
    lives::all_ended(&lives::check(&m.calls()));
    m.stop();
}
