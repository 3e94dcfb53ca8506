//! Devices of a plugin's own across its table: ops and their life, handles, references, notifiers of one namespace.
#![forbid(unsafe_code)]

mod device_host;

use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::Mutex;

use abi_stable::std_types::RSlice;
use device_host::*;
use pernet_plugin_api::abi::{DeviceEvent, InstanceHandle, NdoCall, OpsHandle, Status};
use pernet_plugin_api::prelude::*;

static FAIL_IN: Mutex<&str> = Mutex::new("");
static PANIC_IN: Mutex<&str> = Mutex::new("");

/// Traces its calls, and does what it is told.
struct Traced(&'static str);

impl Traced {
    fn at(&self, place: &'static str) -> Result<()> {
        note(format!("{} {place}", self.0));
        assert!(*lock(&PANIC_IN) != place, "as told at {place}");
        if *lock(&FAIL_IN) == place { Err(Error::new(libc::EBUSY, format!("failed at {place}"))) } else { Ok(()) }
    }
}

impl NetDeviceOps for Traced {
    fn init(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        assert_eq!((net.cookie(), dev.name), (NetCookie(3), "tap0"));
        self.at("init")
    }

    fn uninit(&self, _: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        assert_eq!((dev.ifindex, dev.serial), (7, 70));
        self.at("uninit")
    }

    fn open(&self, _: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        assert!(!dev.datapath.is_open(), "frames come after it");
        self.at("open")
    }

    fn stop(&self, _: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        assert!(!dev.datapath.is_open(), "frames ended before it");
        self.at("stop")
    }

    fn change_mtu(&self, _: &Net<'_>, _: &NdoDevice<'_>, mtu: u32) -> Result<()> {
        assert_eq!(mtu, 1400);
        self.at("change_mtu")
    }

    fn set_mac_address(&self, _: &Net<'_>, _: &NdoDevice<'_>, address: &[u8]) -> Result<()> {
        assert_eq!(address, [2, 0, 0, 0, 0, 9]);
        self.at("set_mac_address")
    }

    fn get_stats(&self) -> Stats {
        let _ = self.at("get_stats");
        Stats { tx_dropped: 5, ..Stats::default() }
    }

    fn destructor(&self) {
        let _ = self.at("destructor");
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.at("drop");
    }
}

fn traced(plugin: &Loaded) -> (Netdev, OpsHandle) {
    (*lock(&FAIL_IN), *lock(&PANIC_IN)) = ("", "");
    let dev = plugin.host.alloc_netdev(NetdevSpec::kind("dummy", "d%d"), Traced("d")).expect("a device");
    (dev, plugin.last_ops())
}

#[test]
fn ops_are_called_in_turn_and_dropped_when_the_device_is_freed() {
    let plugin = loaded();
    let (dev, ops) = traced(&plugin);
    for op in [INIT, OPEN, SET_MAC_ADDRESS, STOP, UNINIT, DESTRUCTOR] {
        assert_eq!(plugin.ndo(ops, op).0, status(0, ""));
    }
    assert_eq!(plugin.call(ops, CHANGE_MTU, Vec::new(), false, 1400).0.errno, 0);
    assert_eq!(plugin.stats(ops).tx_dropped, 5);
    let expected = ["init", "open", "set_mac_address", "stop", "uninit", "destructor", "change_mtu", "get_stats"];
    assert_eq!(taken(), expected.map(|place| format!("d {place}")));
    dev.free().expect("not registered");
    assert_eq!(taken(), ["d drop"]);
    assert_eq!(dev.free().expect_err("freed").errno(), libc::ENOENT);
    assert_eq!(plugin.ndo(ops, OPEN).0.errno, libc::EINVAL, "its ops are gone");
    assert_eq!(plugin.destroy().errno, 0);
    assert_eq!(taken(), NOTHING);
}

#[test]
fn an_instances_end_drops_what_is_left() {
    let plugin = loaded();
    let (one, _) = traced(&plugin);
    let host = plugin.host.clone();
    assert_eq!(plugin.destroy().errno, 0);
    assert_eq!(taken(), ["d drop"]);
    let late = host.alloc_netdev(NetdevSpec::tap("t%d"), Traced("late")).expect_err("the instance is gone");
    assert_eq!((late.errno(), taken()), (libc::ESTALE, vec!["late drop".to_owned()]));
    drop(one);
}

#[test]
fn a_refused_device_drops_its_ops() {
    let plugin = loaded();
    let error = plugin.host.alloc_netdev(NetdevSpec::tap("refused"), Traced("r")).expect_err("refused");
    assert_eq!((error.errno(), error.message(), taken()), (libc::EINVAL, "told to refuse", vec!["r drop".to_owned()]));
    let long = NetdevSpec::kind("x", "x").attribute(1, &vec![0; 70_000]);
    assert_eq!(plugin.host.alloc_netdev(long, ()).expect_err("too long").errno(), libc::EINVAL);
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn errors_and_panics_of_ops_stop_inside() {
    let plugin = loaded();
    let (dev, ops) = traced(&plugin);
    let places = [
        (INIT, "init"),
        (UNINIT, "uninit"),
        (OPEN, "open"),
        (STOP, "stop"),
        (SET_MAC_ADDRESS, "set_mac_address"),
        (DESTRUCTOR, "destructor"),
        (GET_STATS, "get_stats"),
    ];
    for (op, place) in places {
        *lock(&FAIL_IN) = place;
        if ![DESTRUCTOR, GET_STATS].contains(&op) {
            assert_eq!(plugin.ndo(ops, op).0, status(libc::EBUSY, &format!("failed at {place}")));
        }
        *lock(&FAIL_IN) = "";
        *lock(&PANIC_IN) = place;
        assert_panicked(&plugin.ndo(ops, op).0, place);
        *lock(&PANIC_IN) = "";
    }
    *lock(&PANIC_IN) = "drop";
    let error = dev.free().expect_err("its drop panics");
    assert!(error.message().contains("as told at drop"), "{error}");
    *lock(&PANIC_IN) = "";
    assert_eq!(plugin.destroy().errno, 0);
}

fn assert_panicked(status: &Status, place: &str) {
    assert_eq!((status.errno, status.panicked), (libc::EIO, 1), "{place}: {status:?}");
    assert!(status.message.contains(&format!("as told at {place}")), "{status:?}");
}

/// What crosses is the callee's: it is closed whoever turns out to be there.
#[test]
fn descriptors_for_nobody_are_closed() {
    let plugin = loaded();
    for instance in [plugin.instance, InstanceHandle(0)] {
        let (ours, kernels) = queue();
        let raw = [ours.into_raw_fd()];
        let call = NdoCall {
            op: OPEN,
            ifindex: 0,
            serial: 0,
            mtu: 1500,
            flags: 0,
            name: "x".into(),
            address: RSlice::EMPTY,
            queues: RSlice::from_slice(&raw),
            vnet_header: 0,
        };
        let answer = (plugin.module.ndo().expect("there"))(instance, OpsHandle(77), &net(3), &call);
        assert_eq!(answer.status.errno, libc::EINVAL);
        assert!(kernels.as_raw_fd() >= 0);
        assert_eq!(
            kernels.send(&[0; 60]).expect_err("nobody is at the other end").raw_os_error(),
            Some(libc::ECONNREFUSED)
        );
    }
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn the_last_handle_frees_what_nobody_uses() {
    let plugin = loaded();
    let (dev, _) = traced(&plugin);
    let again = dev.clone();
    drop(dev);
    assert_eq!(taken(), NOTHING, "there is another");
    drop(again);
    assert_eq!(taken(), ["d drop"]);

    let (dev, ops) = traced(&plugin);
    plugin.host.register_netdev(NetCookie(3), &dev).expect("registered");
    drop((dev, taken()));
    assert_eq!(taken(), NOTHING, "the host uses it");
    assert_eq!(plugin.ndo(ops, UNINIT).0.errno, 0);
    assert_eq!(taken(), ["d uninit"], "still registered, as this host sees it");
    plugin.unregistered_by_host();
    assert_eq!(plugin.ndo(ops, UNINIT).0.errno, 0);
    assert_eq!(taken(), ["d uninit", "d drop"], "freed with its unregistration");
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn what_is_done_with_a_device_crosses_as_it_was_said() {
    let plugin = loaded();
    let dev = plugin.host.alloc_netdev(NetdevSpec::veth("a%d"), ()).expect("one end");
    let other = plugin.host.alloc_netdev(NetdevSpec::veth("b%d").peer(&dev), ()).expect("the other");
    assert_eq!(dev.state().expect("there").net, None);
    let pair = plugin.host.register_netdev_pair(NetCookie(9), &other, NetCookie(4), &dev);
    pair.expect("registered");
    let state = other.state().expect("there");
    assert_eq!((state.reg_state, state.net, state.name.as_str()), (RegState::Registered, Some(NetCookie(9)), "b%d"));
    assert_eq!((state.ifindex, state.serial, state.mtu, state.master, state.is_up()), (7, 70, 1500, 3, true));
    let (dev, other) = (dev.clone(), other.clone());
    let work = move |net: &Net<'_>, to: &Net<'_>| -> Result<()> {
        net.dev_open(&dev)?;
        net.dev_close(&dev)?;
        net.dev_change_name(&dev, "n%d")?;
        net.dev_set_mtu(&dev, 9000)?;
        net.dev_set_mac_address(&dev, &[1, 2])?;
        net.dev_set_master(&dev, 5)?;
        net.altname_add(&dev, "long name")?;
        net.altname_del(&dev, "long name")?;
        net.dev_change_net_namespace(&dev, to)?;
        net.dev_change_net_namespace_as(&dev, to, None, 0)?;
        net.dev_change_net_namespace_as(&dev, to, Some("m%d"), u32::from_ne_bytes([1, 2, 3, 4]))?;
        net.unregister_many(&[&dev, &other])
    };
    plugin.host.run_in_two(NetCookie(9), NetCookie(4), work).expect("ran").expect("done");
    let expected = [
        "run_in_two 9 4",
        "register 2 in 9, peer in 4",
        "run_in_two 9 4",
        "change 1 0 0 \"\" []",
        "change 1 1 0 \"\" []",
        "change 1 2 0 \"n%d\" []",
        "change 1 3 9000 \"\" []",
        "change 1 4 0 \"\" [1, 2]",
        "change 1 5 5 \"\" []",
        "change 1 6 0 \"long name\" []",
        "change 1 7 0 \"long name\" []",
        "change 1 8 4 \"\" []",
        "change 1 9 4 \"\" []",
        "change 1 9 4 \"m%d\" [1, 2, 3, 4]",
        "unregister 1",
        "unregister 2",
    ];
    assert_eq!(taken(), expected);
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn a_pair_is_unregistered_under_both_locks() {
    let plugin = loaded();
    let dev = plugin.host.alloc_netdev(NetdevSpec::veth("a%d"), ()).expect("one end");
    let other = plugin.host.alloc_netdev(NetdevSpec::veth("b%d").peer(&dev), ()).expect("the other");
    // An end that is freed makes room for another.
    drop(other);
    let other = plugin.host.alloc_netdev(NetdevSpec::veth("b%d").peer(&dev), ()).expect("the other anew");
    plugin.host.register_netdev_pair(NetCookie(9), &dev, NetCookie(4), &other).expect("a pair");
    plugin.host.unregister_netdev(&dev).expect("unregistered");
    let stranger = plugin.host.alloc_netdev(NetdevSpec::veth("c%d"), ()).expect("a third");
    let wrong = plugin.host.register_netdev_pair(NetCookie(9), &dev, NetCookie(4), &stranger);
    assert_eq!(wrong.expect_err("no pair").errno(), libc::EINVAL);
    assert_eq!(plugin.host.unregister_netdev(&dev).expect_err("not registered").errno(), libc::EINVAL);
    // This host registers one end only.
    plugin.host.register_netdev(NetCookie(9), &dev).expect("one end");
    plugin.host.register_netdev(NetCookie(4), &other).expect("the other");
    taken();
    plugin.host.unregister_netdev(&other).expect("unregistered");
    assert_eq!(taken(), ["run_in_two 4 9", "unregister 2"]);
    plugin.host.unregister_netdev(&dev).expect("unregistered");
    assert_eq!(taken(), ["unregister 1"], "the other end is gone");
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn run_in_two_gives_the_value_or_an_error() {
    let plugin = loaded();
    let cookies = |a: &Net<'_>, b: &Net<'_>| (a.cookie().0, b.cookie().0);
    assert_eq!(plugin.host.run_in_two(NetCookie(9), NetCookie(4), cookies), Ok((9, 4)));
    let same = plugin.host.run_in_two(NetCookie(4), NetCookie(4), cookies);
    assert_eq!(same.expect_err("the same twice").errno(), libc::EINVAL);
    let lost = plugin.host.run_in_two(NetCookie(4), NetCookie(405), cookies);
    assert_eq!(lost.expect_err("dropped").errno(), libc::ECANCELED);
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn a_reference_is_put_once_when_it_is_dropped() {
    let plugin = loaded();
    let held = plugin.host.dev_hold(NetCookie(3), 7, 70, "a test").expect("held");
    assert_eq!(taken(), ["hold 3 7 70 for a test"]);
    drop(held);
    assert_eq!(taken(), ["put 99"]);
    assert_eq!(plugin.destroy().errno, 0);
}

struct Watch(Traced);

impl Notifier for Watch {
    fn event(&self, _: &Net<'_>, event: &Event<'_>) -> Result<Verdict> {
        note(format!("{} {}", event.kind.as_str(), event.device.name));
        self.0.at("event")?;
        Ok(Verdict::Ok)
    }
}

fn event(plugin: &Loaded, number: u32) -> (Status, u8) {
    let event = DeviceEvent {
        kind: EventKind::PreUp as u8,
        replay: 0,
        ifindex: 2,
        mtu: 1500,
        flags: 0,
        master: 0,
        serial: 1,
        name: "eth0".into(),
        old_name: "".into(),
        link_kind: "".into(),
        address: RSlice::EMPTY,
    };
    let answer = plugin.module.netdev_event()(plugin.instance, number, &net(3), &event);
    (answer.status, answer.verdict)
}

#[test]
fn notifiers_of_one_namespace_come_and_go() {
    let plugin = loaded();
    (*lock(&FAIL_IN), *lock(&PANIC_IN)) = ("", "");
    let refused = plugin.host.register_netdevice_notifier_net(NetCookie(404), 0, Watch(Traced("x")));
    assert_eq!((refused.expect_err("no such").errno(), taken()), (libc::ENOENT, vec!["x drop".to_owned()]));
    let register = |cookie| {
        plugin.host.register_netdevice_notifier_net(NetCookie(cookie), 5, Watch(Traced("w"))).expect("registered")
    };
    let one = register(3);
    let number = taken()[0].split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number");
    assert!(number >= 1 << 31, "it is no number of a notifier of init's");
    assert_eq!(event(&plugin, number), (status(0, ""), Verdict::Ok as u8));
    *lock(&PANIC_IN) = "event";
    assert_panicked(&event(&plugin, number).0, "event");
    *lock(&PANIC_IN) = "";
    taken();
    plugin.host.unregister_netdevice_notifier_net(one).expect("unregistered");
    assert_eq!(taken(), ["w drop"]);
    assert_eq!(event(&plugin, number).0.errno, libc::EINVAL);

    let (gone, held) = (register(405), register(406));
    taken();
    let answer = plugin.host.unregister_netdevice_notifier_net(gone);
    assert_eq!((answer.expect_err("gone").errno(), taken()), (libc::ENOENT, vec!["w drop".to_owned()]));
    let answer = plugin.host.unregister_netdevice_notifier_net(held);
    assert_eq!((answer.expect_err("held").errno(), taken().len()), (libc::EDEADLK, 0), "it is told on");
    assert_eq!(plugin.destroy().errno, 0);
    assert_eq!(taken(), ["w drop"]);
}
