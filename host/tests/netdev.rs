//! Devices of plugins' own, in real namespaces: made, shown, changed by others, left behind and taken over again.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use machine::{HOME, Machine, SOON, has_tun, inside, link, name_path, of, one};
use pernetd::linux::{netns, rtnetlink};
use rustix::mount::mount_bind;
use sandbox::{Trial, netns_add, netns_del, wait_until};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let no_tun = !has_tun();
    let with_tun = |name: &str, test: fn(Machine)| -> Vec<Trial> {
        one(name, test).into_iter().map(|trial| trial.ignored_if(no_tun)).collect()
    };
    let trials = [
        one("a bridge is in the namespace, and its plugin's", bridge),
        with_tun("a tap is in the namespace, and its plugin's", tap),
        one("a veth pair has its ends in two namespaces", pair),
        one("the monitor tells each operation of a device", operations),
        one("somebody else's changes are followed", followed),
        one("somebody else's deletion is an unregistration", deleted),
        one("moved by somebody else to a managed namespace, it is the plugin's there", moved),
        one("its plugin moves it, under another name and index where that is wanted", moved_by_its_plugin),
        with_tun("moved by somebody else, a tap keeps the namespace that it left no longer", |m| tap_moved("tap", m)),
        with_tun("moved by somebody else, a tun keeps the namespace that it left no longer", |m| tap_moved("tun", m)),
        one("a reload that takes the plugin out takes its devices out", removed),
        one("a namespace's end ends its devices", namespace_ends),
        one("K2.9(4): a namespace's end ends what hangs on it elsewhere", ends_elsewhere),
        one("who holds a device is shown, and waited for no longer than configured", held),
        one("a namespace's end puts what is held there", held_at_an_end),
        one("a device that is put in time is gone at once", put_in_time),
        one("who waits for ten seconds says so, and for whom", long_wait),
        one("without the tun device the registration says so, and the rest runs", no_device_file),
        one("a veto of REGISTER leaves nothing in the kernel", vetoed),
        one("a name that is taken is refused", taken),
        one("moved out of sight, it has ended", lost),
        one("a plugin that panics in an operation loses its devices", panicked),
        one("a plugin that hangs over its counters holds nobody up", hanging),
        one("a loss of events loses no device", resynced),
        one("a thread of a plugin's own registers and unregisters", outside),
        one("a namespace's own chain is told first, and ends with its plugin", own_chain),
        one("a notifier is not registered from within the chain", within_the_chain),
        one("a pattern's name that somebody else took unseen is the next one", taken_unseen),
        with_tun("a tap's name that somebody else took unseen is the next one", taken_unseen_tap),
        with_tun("an alternative name that somebody else took unseen is refused once", refused_once),
        one("one name in two namespaces is two devices", same_name),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

/// IFF_RUNNING.
const RUNNING: u32 = 1 << 6;
const BRIDGE: &str = "{ netns = \"blue\", kind = \"bridge\", name = \"br0\", must = true }";
const BRIDGE_UP: &str = "{ netns = \"blue\", kind = \"bridge\", name = \"br0\", must = true, open = true }";

fn started(m: &mut Machine, netdevs: &str) {
    m.netdev("", netdevs, "");
    m.start();
    m.add("blue");
}

fn bridge(mut m: Machine) {
    started(&mut m, BRIDGE);
    let kernel = link("blue", "br0").unwrap();
    assert_eq!((kernel.kind.as_str(), kernel.is_up()), ("bridge", false), "made down");
    let [row] = &m.listed("br0")[..] else { panic!("one br0: {}", m.ctl(["dev", "list"])) };
    assert_eq!(
        (&row["netns"], &row["owner"], &row["kind"]),
        (&json!("blue"), &json!("probe-netdev"), &json!("bridge"))
    );
    assert_eq!((&row["reg_state"], &row["stats"]), (&json!("registered"), &Value::Null));
    assert_eq!(row["ifindex"], kernel.ifindex);
    let shown = m.show("br0");
    assert_eq!(shown["stats"]["rx_packets"], 0, "{shown}");
    assert_eq!((&shown["plugin_stats"]["rx_packets"], &shown["waiting"]), (&json!(7), &json!(false)), "{shown}");
    assert!(shown["serial"].as_u64().is_some() && shown["address"].is_string(), "{shown}");
    let lo = m.ctl(["dev", "show", "lo", "--netns", "blue"]);
    assert_eq!((&lo["owner"], &lo["plugin_stats"]), (&json!("kernel"), &Value::Null));
    let unknown = m.ask(["dev", "show", "eth9", "--netns", "blue"]);
    assert_eq!((unknown.code, unknown.stderr.lines().count()), (1, 1), "{}", unknown.stderr);
    assert!(unknown.stderr.contains("device eth9: there is no such device in namespace blue"), "{}", unknown.stderr);
    m.stop();
}

fn tap(mut m: Machine) {
    started(&mut m, "{ netns = \"blue\", kind = \"tap\", name = \"wire%d\", must = true, open = true }");
    let kernel = link("blue", "wire0").unwrap();
    assert!(kernel.is_up() && kernel.kind == "tun", "{kernel:?}");
    assert_eq!(m.listed("wire0")[0]["owner"], "probe-netdev");
    m.stop();
    assert_eq!(link("blue", "wire0"), None, "it goes with its descriptors");
}

fn pair(mut m: Machine) {
    let pair =
        "{ netns = \"blue\", kind = \"veth\", name = \"a%d\", peer = \"b%d\", peer_netns = \"green\", open = true }";
    m.netdev("", pair, "");
    m.start();
    for netns in ["blue", "green"] {
        m.add(netns);
    }
    m.wait_call("netdev netdev.register_netdevice blue a0 0");
    for (netns, name) in [("blue", "a0"), ("green", "b0")] {
        let kernel = link(netns, name).unwrap();
        assert!(kernel.kind == "veth" && kernel.is_up(), "{kernel:?}");
        let row = &m.listed(name)[0];
        assert_eq!((&row["netns"], &row["owner"]), (&json!(netns), &json!("probe-netdev")), "{row}");
    }
    // One end's deletion is the other's.
    inside("green", || rtnetlink::delete("b0").unwrap());
    wait_until("both ends are gone", SOON, || m.listed("a0").is_empty() && m.listed("b0").is_empty());
    m.wait_call("netdev netdev.ndo_uninit blue a0");
    m.wait_call("netdev netdev.ndo_uninit green b0");
    m.stop();
}

fn operations(mut m: Machine) {
    m.netdev("", BRIDGE_UP, "");
    m.start();
    let mut monitor = m.pernetctl(["monitor"]);
    let output = File::create(m.path("monitor")).unwrap();
    let mut monitor = monitor.stdout(output).spawn().unwrap();
    // The first line tells that it listens.
    let lines = || -> Vec<Value> {
        let text = fs::read_to_string(m.path("monitor")).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let mut round = 0;
    wait_until("the monitor listens", SOON, || {
        round += 1;
        m.add(&format!("n{round}"));
        !lines().is_empty()
    });
    m.add("blue");
    let hooks = || -> Vec<String> {
        let told = lines();
        let of_br0 = told.iter().filter(|l| l["device"] == "br0" && l["netns"] == "blue");
        of_br0.map(|l| format!("{} {}", l["hook"].as_str().unwrap(), l["result"].as_str().unwrap())).collect()
    };
    let expected = [
        "netdev.ndo_init ok",
        "netdev.post_init ok",
        "netdev.register ok",
        "netdev.pre_up ok",
        "netdev.ndo_open ok",
        "netdev.up ok",
    ];
    wait_until("it is up", SOON, || hooks().last().is_some_and(|last| last.starts_with("netdev.up")));
    assert_eq!(hooks(), expected);
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    m.stop();
}

fn followed(mut m: Machine) {
    started(&mut m, BRIDGE);
    let ifindex = link("blue", "br0").unwrap().ifindex;
    m.forget();
    inside("blue", move || rtnetlink::set_up(ifindex).unwrap());
    m.wait_call("netdev netdev.ndo_open blue br0");
    m.wait_call("netdev netdev.up blue br0");
    inside("blue", move || rtnetlink::set_mtu(ifindex, 1400).unwrap());
    m.wait_call("netdev netdev.ndo_change_mtu blue br0");
    inside("blue", move || rtnetlink::set_address(ifindex, &[2, 0, 0x5e, 0, 0x53, 9]).unwrap());
    m.wait_call("netdev netdev.ndo_set_mac_address blue br0");
    inside("blue", move || rtnetlink::set_down(ifindex).unwrap());
    m.wait_call("netdev netdev.ndo_stop blue br0");
    inside("blue", move || rtnetlink::rename(ifindex, "br7").unwrap());
    m.wait_call("netdev netdev.changename blue br7");
    let row = m.show("br7");
    assert_eq!((&row["mtu"], &row["up"], &row["ifindex"]), (&json!(1400), &json!(false), &json!(ifindex)), "{row}");
    assert_eq!((&row["address"], &row["owner"]), (&json!("02:00:5e:00:53:09"), &json!("probe-netdev")), "{row}");
    m.stop();
}

fn deleted(mut m: Machine) {
    started(&mut m, BRIDGE_UP);
    m.forget();
    inside("blue", || rtnetlink::delete("br0").unwrap());
    m.wait_call("netdev netdev.destructor blue");
    // A bridge with nothing in it may tell of its flags first.
    let calls: Vec<_> = of(&m.calls(), "blue").into_iter().filter(|t| !t.starts_with("netdev netdev.change")).collect();
    let end = [
        "netdev netdev.goingdown br0",
        "netdev netdev.ndo_stop br0",
        "netdev netdev.down br0",
        "netdev netdev.unregister br0",
        "netdev netdev.pre_uninit br0",
        "netdev netdev.ndo_uninit br0",
        "netdev netdev.destructor",
    ];
    assert_eq!(calls, end);
    assert_eq!(m.listed("br0"), [Value::Null; 0]);
    m.stop();
}

fn moved(mut m: Machine) {
    started(&mut m, "{ netns = \"blue\", kind = \"ifb\", name = \"ifb7\", must = true }");
    m.add("green");
    let serial = m.show("ifb7")["serial"].clone();
    m.forget();
    let green = File::open(name_path("green")).unwrap();
    let ifindex = link("blue", "ifb7").unwrap().ifindex;
    inside("blue", move || rtnetlink::move_to(ifindex, green.as_fd()).unwrap());
    m.wait_call("netdev netdev.unregister blue ifb7");
    m.wait_call("netdev netdev.register green ifb7");
    wait_until("it is the plugin's there", SOON, || {
        let rows = m.listed("ifb7");
        rows.len() == 1 && rows[0]["netns"] == "green" && rows[0]["owner"] == "probe-netdev"
    });
    assert_ne!(m.show("ifb7")["serial"], serial, "a new registration");
    assert!(!m.trace().iter().any(|t| t.contains("ndo_uninit")), "a move is no end: {:?}", m.trace());
    m.no_probe(50, "netdev");
    assert_eq!(m.reload().code, 0);
    assert_eq!(link("green", "ifb7"), None);
    m.stop();
}

fn moved_by_its_plugin(mut m: Machine) {
    let ifb = |name: &str, rest: &str| {
        format!("{{ netns = \"blue\", kind = \"ifb\", name = \"{name}\", open = true, move_to = \"green\"{rest} }}")
    };
    let wanted = [
        ifb("ifb5", ""),
        ifb("ifb6", ", move_as = \"x%d\""),
        ifb("ifb7", ", move_as = \"x%d\", move_index = 77"),
        ifb("ifb8", ", move_as = \"x%d\", move_index = 1"),
        ifb("ifb9", ""),
    ];
    m.netdev("", &wanted.join(", "), "");
    m.start();
    m.add("green");
    inside("green", || {
        for name in ["ifb6", "ifb7", "ifb9"] {
            rtnetlink::create(name, "bridge").unwrap();
        }
        // Of which the kernel tells nobody.
        rtnetlink::add_alt_name(1, "x0").unwrap();
    });
    m.add("blue");
    for (name, errno) in [("ifb5", 0), ("x1", 0), ("x2", 0), ("ifb8", libc::EBUSY), ("ifb9", libc::EEXIST)] {
        m.wait_call(&format!("netdev netdev.move blue {name} {errno}"));
    }
    for (netns, name) in [("green", "ifb5"), ("green", "x1"), ("green", "x2"), ("blue", "ifb8"), ("blue", "ifb9")] {
        let row = m.show(name);
        let row = row.as_array().map_or(&row, |rows| rows.iter().find(|r| r["kind"] == "ifb").unwrap());
        assert_eq!((&row["netns"], &row["owner"]), (&json!(netns), &json!("probe-netdev")), "{row}");
        // What was refused was refused before it was closed (K2.8).
        assert_eq!(row["up"], netns == "blue", "{row}");
        assert_eq!(link(netns, name).unwrap().ifindex, row["ifindex"]);
    }
    assert_eq!(link("green", "x2").unwrap().ifindex, 77);
    m.stop();
}

/// A witness tells that a namespace is gone: the end of a veth whose other end was in it.
fn tap_moved(kind: &str, mut m: Machine) {
    started(&mut m, &format!("{{ netns = \"blue\", kind = \"{kind}\", name = \"t0\", must = true, open = true }}"));
    m.add("green");
    m.add("red");
    let (blue, green) = (File::open(name_path("blue")).unwrap(), File::open(name_path("green")).unwrap());
    inside("red", move || rtnetlink::create_veth("here", "there", Some(blue.as_fd())).unwrap());
    m.forget();
    let ifindex = link("blue", "t0").unwrap().ifindex;
    inside("blue", move || rtnetlink::move_to(ifindex, green.as_fd()).unwrap());
    wait_until("it is the plugin's there", SOON, || {
        m.listed("t0").iter().any(|row| row["netns"] == "green" && row["owner"] == "probe-netdev")
    });
    m.forget();
    netns_del("blue");
    m.wait_gone("blue");
    wait_until("the namespace itself is gone", SOON, || link("red", "here").is_none());
    assert_eq!(of(&m.calls(), "green"), [""; 0], "it is the plugin's still");
    let there = link("green", "t0").unwrap();
    assert_eq!((there.kind.as_str(), there.is_up()), ("tun", false));
    inside("green", move || rtnetlink::set_up(there.ifindex).unwrap());
    m.wait_call("netdev netdev.ndo_open green t0");
    m.wait_call("netdev netdev.up green t0");
    assert!(link("green", "t0").unwrap().flags & RUNNING != 0, "its queues are attached");
    m.stop();
    assert_eq!(link("green", "t0"), None, "it goes with its descriptors");
}

fn removed(mut m: Machine) {
    started(&mut m, &format!("{BRIDGE_UP}, {{ netns = \"blue\", kind = \"ifb\", name = \"ifb7\", must = true }}"));
    assert!(link("blue", "ifb7").is_some());
    m.forget();
    m.no_probe(50, "netdev");
    assert_eq!(m.reload().code, 0);
    assert_eq!((link("blue", "br0"), link("blue", "ifb7")), (None, None));
    assert_eq!((m.listed("br0").len(), m.listed("ifb7").len()), (0, 0));
    let calls = of(&m.calls(), "blue");
    let at = |what: &str| calls.iter().position(|c| c == what).unwrap_or_else(|| panic!("{what}: {calls:?}"));
    assert!(at("netdev device.exit Removed") < at("netdev netdev.ndo_uninit ifb7"), "{calls:?}");
    assert!(at("netdev netdev.ndo_uninit ifb7") < at("netdev netdev.ndo_uninit br0"), "the newest first: {calls:?}");
    m.stop();
}

fn namespace_ends(mut m: Machine) {
    started(&mut m, BRIDGE_UP);
    m.forget();
    netns_del("blue");
    m.wait_gone("blue");
    let calls = of(&m.calls(), "blue");
    let at = |what: &str| calls.iter().position(|c| c == what).unwrap_or_else(|| panic!("{what}: {calls:?}"));
    assert!(at("netdev device.exit Died") < at("netdev netdev.ndo_stop br0"), "{calls:?}");
    assert!(at("netdev netdev.ndo_stop br0") < at("netdev netdev.ndo_uninit br0"), "{calls:?}");
    assert!(at("netdev netdev.unregister br0") < at("netdev netdev.unregister lo"), "`lo` last: {calls:?}");
    assert_eq!(calls.iter().filter(|c| *c == "netdev netdev.destructor").count(), 1, "{calls:?}");
    assert_eq!(m.listed("br0"), [Value::Null; 0]);
    m.stop();
}

fn ends_elsewhere(mut m: Machine) {
    let pair =
        "{ netns = \"blue\", kind = \"veth\", name = \"a%d\", peer = \"b%d\", peer_netns = \"green\", open = true }";
    // Of this one the kernel made the other end.
    let single = "{ netns = \"blue\", kind = \"veth\", name = \"single\", open = true }";
    m.netdev("", &[pair, single].join(", "), "");
    m.start();
    for netns in ["blue", "green"] {
        m.add(netns);
    }
    m.wait_call("netdev netdev.register_netdevice blue a0 0");
    let green = File::open(name_path("green")).unwrap();
    inside("blue", || {
        let other = rtnetlink::dump_links().unwrap().into_iter().find(|link| link.name.starts_with("veth")).unwrap();
        rtnetlink::move_to(other.ifindex, green.as_fd()).unwrap();
    });
    drop(green);
    m.forget();
    netns_del("green");
    m.wait_gone("green");
    for name in ["a0", "single"] {
        m.wait_call(&format!("netdev netdev.unregister blue {name}"));
        m.wait_call(&format!("netdev netdev.ndo_uninit blue {name}"));
        assert_eq!((link("blue", name), m.listed(name).len()), (None, 0), "{name}");
    }
    m.wait_call("netdev netdev.ndo_uninit green b0");
    m.stop();
}

/// A second plugin that holds `br0` in `blue` until the file `let-go` is there.
fn holder(m: &Machine) {
    let holds = format!(
        "holds = [{{ netns = \"blue\", device = \"br0\", purpose = \"its queue\", until = \"{HOME}/let-go\" }}]"
    );
    m.probe(10, "a", "", &format!("subsys = false\nnotifier = 5\n{holds}"));
}

fn held(mut m: Machine) {
    m.main("unregister_timeout = 1");
    holder(&m);
    started(&mut m, BRIDGE);
    m.wait_call("a netdev.dev_hold blue br0 0");
    let by = json!([{ "plugin": "probe-a", "purpose": "its queue" }]);
    assert_eq!((&m.show("br0")["holders"], &m.show("br0")["waiting"]), (&by, &json!(false)));
    m.no_probe(50, "netdev");
    assert_eq!(m.reload().code, 0, "{}", m.log());
    // The wait is over; the kernel's device is gone, ours is not.
    assert_eq!(link("blue", "br0"), None);
    let shown = m.show("br0");
    assert_eq!(
        (&shown["reg_state"], &shown["holders"], &shown["netns"]),
        (&json!("unregistered"), &by, &json!("blue"))
    );
    assert_eq!(m.listed("br0")[0]["reg_state"], "unregistered");
    assert!(m.log().contains("br0") && m.log().contains("its queue"), "{}", m.log());
    m.write("let-go", "");
    wait_until("it is gone when it is put", SOON, || m.ask(["dev", "show", "br0"]).code == 1);
    assert_eq!(m.listed("br0"), [Value::Null; 0]);
    m.stop();
}

fn held_at_an_end(mut m: Machine) {
    m.main("unregister_timeout = 1");
    holder(&m);
    started(&mut m, BRIDGE);
    m.wait_call("a netdev.dev_hold blue br0 0");
    m.no_probe(50, "netdev");
    assert_eq!(m.reload().code, 0, "{}", m.log());
    assert_eq!(m.show("br0")["reg_state"], "unregistered");
    netns_del("blue");
    m.wait_gone("blue");
    assert_eq!(m.ask(["dev", "show", "br0"]).code, 1, "what a plugin holds in a namespace ends with it there");
    m.stop();
}

fn put_in_time(mut m: Machine) {
    m.main("unregister_timeout = 30");
    holder(&m);
    started(&mut m, BRIDGE);
    m.wait_call("a netdev.dev_hold blue br0 0");
    m.no_probe(50, "netdev");
    let mut reload = m.pernetctl(["reload"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_until("the last reference is waited for", SOON, || {
        let answer = m.ask(["dev", "show", "br0"]);
        answer.code == 0 && answer.json["waiting"] == true
    });
    let shown = m.pernetctl_for_people(["dev", "show", "br0"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("unregistered, down; waiting for br0 to become free"), "{shown}");
    assert!(shown.contains("held by") && shown.contains("probe-a for its queue"), "{shown}");
    m.write("let-go", "");
    wait_until("the reload is done", SOON, || reload.try_wait().unwrap().is_some());
    assert_eq!(m.ask(["dev", "show", "br0"]).code, 1);
    assert!(!m.log().contains("to become free"), "that is for who waits long: {}", m.log());
    m.stop();
}

fn long_wait(mut m: Machine) {
    m.main("unregister_timeout = 60");
    holder(&m);
    started(&mut m, BRIDGE);
    m.wait_call("a netdev.dev_hold blue br0 0");
    m.no_probe(50, "netdev");
    let mut reload = m.pernetctl(["reload"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let said = "waiting for br0 to become free. Usage count = 1: probe-a (its queue)";
    wait_until("the log says so", SOON * 2, || m.log().contains(said));
    assert_eq!(m.ctl(["dev", "show", "br0"])["waiting"], true, "and it waits on");
    m.write("let-go", "");
    wait_until("the reload is done", SOON, || reload.try_wait().unwrap().is_some());
    m.stop();
}

fn no_device_file(mut m: Machine) {
    let empty = m.path("empty");
    fs::create_dir(&empty).unwrap();
    if Path::new("/dev/net").exists() {
        mount_bind(&empty, "/dev/net").unwrap();
    }
    m.probe(10, "a", "", "");
    m.netdev("on_init_failure = \"skip\"", "{ netns = \"blue\", kind = \"tap\", name = \"wire%d\", must = true }", "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "degraded");
    let row = m.netns("blue");
    let message = row["error"]["message"].as_str().unwrap();
    assert!(message.contains("/dev/net/tun"), "{message}");
    assert_eq!(row["subsystems"], json!(["probe-a"]), "the rest runs");
    assert_eq!(link("blue", "wire0"), None);
    m.stop();
}

fn vetoed(mut m: Machine) {
    let veto = "faults = [{ hook = \"netdev.register\", netns = \"blue\", device = \"br0\", action = { fail = 1 } }]";
    m.probe(10, "a", "", &format!("subsys = false\nnotifier = -5\n{veto}"));
    m.netdev("on_init_failure = \"skip\"", BRIDGE, "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "degraded");
    assert_eq!(link("blue", "br0"), None, "nothing is left in the kernel");
    assert_eq!(m.listed("br0"), [Value::Null; 0]);
    let calls = of(&m.calls(), "blue");
    assert!(calls.iter().any(|c| c == "netdev netdev.register_netdevice br0 1"), "{calls:?}");
    // Who had agreed is told that it goes.
    assert!(calls.iter().any(|c| c == "netdev netdev.unregister br0"), "{calls:?}");
    m.stop();
}

fn taken(mut m: Machine) {
    netns_add("blue");
    inside("blue", || rtnetlink::create("br0", "bridge").unwrap());
    m.netdev("on_init_failure = \"skip\"", BRIDGE, "");
    m.start();
    m.wait_state("blue", "degraded");
    assert!(
        m.trace().contains(&format!("netdev netdev.register_netdevice blue br0 {}", libc::EEXIST)),
        "{:?}",
        m.trace()
    );
    assert!(!m.trace().iter().any(|t| t.contains("ndo_init")), "refused before anything is done: {:?}", m.trace());
    // By the kernel's name and with a sentence, to the plugin and to the operator.
    let told = m.calls().into_iter().find_map(|call| call.message).unwrap();
    assert_eq!(told, "a device is called `br0` already; choose another name (EEXIST)");
    assert_eq!(m.netns("blue")["error"]["message"], told.as_str());
    let table = String::from_utf8(m.pernetctl_for_people(["netns", "list"]).output().unwrap().stdout).unwrap();
    assert!(table.contains(&told), "{table}");
    assert!(m.log().contains(&told), "{}", m.log());
    assert_eq!(m.listed("br0")[0]["owner"], "kernel");
    m.stop();
    assert!(link("blue", "br0").is_some(), "somebody else's stays");
}

fn same_name(mut m: Machine) {
    let both = BRIDGE.replace("blue", "green");
    m.netdev("", &format!("{BRIDGE}, {both}"), "");
    m.start();
    for netns in ["blue", "green"] {
        m.add(netns);
    }
    let shown = m.show("br0");
    let netns: Vec<_> = shown.as_array().unwrap().iter().map(|d| d["netns"].clone()).collect();
    assert_eq!(netns, ["blue", "green"]);
    assert_eq!(m.ctl(["dev", "show", "br0", "--netns", "green"])["netns"], "green");
    let table = m.pernetctl_for_people(["dev", "show", "br0"]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    let rows = |words: [&str; 2]| table.lines().filter(|line| line.split_whitespace().eq(words)).count();
    let shown = [["owner", "probe-netdev"], ["netns", "blue"], ["netns", "green"]].map(rows);
    assert_eq!(shown, [2, 1, 1], "a table for each:\n{table}");
    m.stop();
}

fn lost(mut m: Machine) {
    started(&mut m, "{ netns = \"blue\", kind = \"ifb\", name = \"ifb7\", must = true }");
    m.forget();
    let elsewhere = netns::create().unwrap();
    let ifindex = link("blue", "ifb7").unwrap().ifindex;
    inside("blue", move || {
        rtnetlink::move_to(ifindex, elsewhere.as_fd()).unwrap();
    });
    m.wait_call("netdev netdev.ndo_uninit blue ifb7");
    m.wait_call("netdev netdev.destructor blue");
    assert_eq!(m.listed("ifb7"), [Value::Null; 0]);
    m.stop();
}

fn panicked(mut m: Machine) {
    m.probe(10, "a", "", "");
    let fault = "faults = [{ hook = \"netdev.ndo_change_mtu\", netns = \"blue\", action = \"panic\" }]";
    m.netdev("", BRIDGE_UP, fault);
    m.start();
    m.add("blue");
    let ifindex = link("blue", "br0").unwrap().ifindex;
    inside("blue", move || rtnetlink::set_mtu(ifindex, 1400).unwrap());
    wait_until("the plugin has failed", SOON, || m.plugin("netdev")["state"] == "failed");
    wait_until("its device is gone", SOON, || link("blue", "br0").is_none());
    assert_eq!(m.plugin("a")["state"], "live");
    assert_eq!(m.listed("br0"), [Value::Null; 0]);
    m.stop();
}

fn resynced(mut m: Machine) {
    m.main("netlink.receive_buffer = 4096");
    started(&mut m, BRIDGE_UP);
    let before = m.show("br0");
    let ifindex = link("blue", "br0").unwrap().ifindex;
    let mut mtu = 1000;
    wait_until("events are lost", SOON, || {
        inside("blue", || {
            for _ in 0..300 {
                mtu = if mtu == 9000 { 1000 } else { mtu + 1 };
                rtnetlink::set_mtu(ifindex, mtu).unwrap();
            }
        });
        m.status()["resyncs"].as_u64().unwrap() > 0
    });
    wait_until("the view is the kernel's", SOON, || m.show("br0")["mtu"] == mtu);
    let after = m.show("br0");
    assert_eq!((&after["serial"], &after["owner"]), (&before["serial"], &before["owner"]), "the same registration");
    m.stop();
}

fn outside(mut m: Machine) {
    let until = format!("{HOME}/done");
    m.netdev("", &format!("{{ netns = \"blue\", kind = \"bridge\", name = \"br0\", until = \"{until}\" }}"), "");
    m.start();
    m.add("blue");
    m.wait_call("netdev netdev.register_netdev blue 0");
    assert_eq!(m.listed("br0")[0]["owner"], "probe-netdev");
    m.write("done", "");
    m.wait_call("netdev netdev.free blue 0");
    let calls = of(&m.calls(), "blue");
    let at = |what: &str| calls.iter().position(|c| c == what).unwrap_or_else(|| panic!("{what}: {calls:?}"));
    assert!(at("netdev netdev.destructor") < at("netdev netdev.unregister_netdev 0"), "waited for: {calls:?}");
    assert_eq!((link("blue", "br0"), m.listed("br0").len()), (None, 0));
    m.stop();
}

fn own_chain(mut m: Machine) {
    m.netdev("", BRIDGE, "net_notifier = -100");
    m.start();
    m.add("blue");
    let calls = of(&m.calls(), "blue");
    let at = |what: &str| calls.iter().position(|c| c == what).unwrap_or_else(|| panic!("{what}: {calls:?}"));
    assert!(at("netdev own.register lo") < at("netdev own.register br0"), "what exists is replayed: {calls:?}");
    // Whatever the priorities (K3.2).
    assert!(at("netdev own.register br0") < at("netdev netdev.register br0"), "{calls:?}");
    m.forget();
    m.no_probe(50, "netdev");
    assert_eq!(m.reload().code, 0);
    let calls = of(&m.calls(), "blue");
    let gone = |what: &str| calls.iter().filter(|c| *c == what).count();
    assert_eq!((gone("netdev own.unregister br0"), gone("netdev own.unregister lo")), (1, 1), "{calls:?}");
    m.stop();
}

/// A daemon that keeps the devices of two namespaces, whose `lo` somebody else gave another name since then: of that the
/// kernel tells nobody (K2.1.9). Then the plugin comes.
fn unseen(m: &mut Machine, names: &[(&str, &'static str)], netdevs: &str) {
    m.probe(10, "a", "", "subsys = false\nnotifier = 0");
    m.start();
    for netns in ["blue", "green"] {
        m.add(netns);
    }
    for (netns, name) in names {
        inside(netns, || rtnetlink::add_alt_name(1, name).unwrap());
    }
    m.netdev("on_init_failure = \"skip\"", netdevs, "");
    assert_eq!(m.reload().code, 0, "{}", m.log());
}

fn taken_unseen(mut m: Machine) {
    let bridge = "{ netns = \"blue\", kind = \"bridge\", name = \"br%d\" }";
    let pair = "{ netns = \"blue\", kind = \"veth\", name = \"a%d\", peer = \"b%d\", peer_netns = \"green\" }";
    // Either end of a pair, one of two pairs' each.
    let other = pair.replace("a%d", "c%d").replace("b%d", "d%d");
    let names = [("blue", "br0"), ("blue", "a0"), ("green", "d0")];
    unseen(&mut m, &names, &[bridge, pair, &other].join(", "));
    for call in ["br1", "a1", "c0"] {
        m.wait_call(&format!("netdev netdev.register_netdevice blue {call} 0"));
    }
    for (netns, name) in [("blue", "br1"), ("blue", "a1"), ("green", "b0"), ("blue", "c0"), ("green", "d1")] {
        assert_eq!(m.listed(name)[0]["owner"], "probe-netdev", "{name}");
        assert!(link(netns, name).is_some(), "{name}");
    }
    m.stop();
}

fn taken_unseen_tap(mut m: Machine) {
    unseen(&mut m, &[("blue", "t0")], "{ netns = \"blue\", kind = \"tap\", name = \"t%d\" }");
    m.wait_call("netdev netdev.register_netdevice blue t1 0");
    assert_eq!((link("blue", "t0").is_none(), m.listed("t1").len()), (true, 1));
    m.stop();
}

fn refused_once(mut m: Machine) {
    let tap = "{ netns = \"blue\", kind = \"tap\", name = \"t%d\", alt_names = [\"front\"] }";
    unseen(&mut m, &[("blue", "front")], tap);
    m.wait_call(&format!("netdev netdev.register_netdevice blue t%d {}", libc::EEXIST));
    let told = m.calls().into_iter().find_map(|call| call.message).unwrap();
    assert!(told.contains("the alternative name front"), "{told}");
    // The kernel gives indices in turn, so it shows how many devices were made.
    let next = inside("blue", || {
        rtnetlink::create("next", "bridge").unwrap();
        rtnetlink::find("next").unwrap().ifindex
    });
    assert_eq!(next, 3, "after lo and the one that was refused");
    assert_eq!(m.netns("blue")["state"], "live");
    m.stop();
}

fn within_the_chain(mut m: Machine) {
    let ask = |hook: &str| format!("{{ hook = \"{hook}\", netns = \"blue\", ask = \"notifier\", to = \"blue\" }}");
    let works = ["pernet.init", "netdev.pre_up"].map(ask).join(", ");
    m.netdev("", BRIDGE_UP, &format!("works = [{works}]"));
    m.start();
    m.add("blue");
    let answers = |m: &Machine| -> Vec<i32> {
        let asked = m.calls().into_iter().filter(|c| c.hook == "register_notifier");
        asked.map(|c| c.errno.unwrap()).collect()
    };
    assert_eq!(answers(&m), [0, libc::EDEADLK], "K3.7: in an init; K3.8: not from a notifier's event");
    assert!(link("blue", "br0").unwrap().is_up(), "and nobody was held up");
    m.stop();
}

fn hanging(mut m: Machine) {
    let fault =
        format!("faults = [{{ hook = \"netdev.ndo_get_stats\", netns = \"\", action = {{ until = \"{HOME}/go\" }} }}]");
    m.netdev("", BRIDGE, &fault);
    m.start();
    m.add("blue");
    for _ in 0..2 {
        let shown = m.show("br0");
        assert_eq!((&shown["plugin_stats"], &shown["stats"]["rx_packets"]), (&Value::Null, &json!(0)), "{shown}");
    }
    m.write("go", "");
    wait_until("it counts again", SOON, || m.show("br0")["plugin_stats"]["rx_packets"] == 7);
    m.stop();
}
