//! What plugins see of the lives of namespaces: order, reasons, names, and the daemon's own end.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use std::time::Duration;

use machine::{HOME, Machine, SOON, both, inside, name_path, of, one, second_name};
use pernetd::linux::{netns, rtnetlink};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::process::Signal;
use sandbox::{netns_add, netns_del, wait_until};

fn main() -> ExitCode {
    let trials = [
        both("inits in the configured order, exits in reverse", order),
        both("what exists at the start is set up", late_start),
        both("an exit still sees its namespace", exit_while_alive),
        one("each end has its reason", reasons),
        one("on_stop = undo asks the exits of a stop to undo", on_stop_undo),
        both("devices go between the exits of devices and of subsystems", devices_at_death),
        one("only an @ glob matches the host; any exclude wins", globs),
        both("one namespace under several names is one", several_names),
        both("a change of names is judged again", judged_again),
        both("named again, a namespace has another life", another_life),
        one("SIGTERM runs the exits in reverse and ends with 0", |m| stopped_by(m, Signal::TERM)),
        one("SIGINT runs the exits in reverse and ends with 0", |m| stopped_by(m, Signal::INT)),
        one("a second signal ends at once while a hook hangs", second_signal),
        one("a stop gives up on a hook that hangs, and names it", stop_while_hanging),
        both("an umount without unlink is an end", umount_without_unlink),
        both("a name taken again at once is another namespace", taken_again),
        both("odd names", odd_names),
        both("a plain umount is never busy", umount_is_not_busy),
        both("a placeholder that never becomes a mount blocks nobody", placeholder),
        both("a namespace deleted during its own setup", deleted_during_setup),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

/// The link in /proc of the namespace that has this name.
fn inode_of(name: &str) -> String {
    format!("net:[{}]", fs::metadata(name_path(name)).unwrap().ino())
}

fn order(mut m: Machine) {
    m.probe(5, "late", "", "");
    m.probe(10, "b", "", "device_op = true");
    m.probe(20, "a", "", "");
    m.probe(60, "pure", "", "");
    m.start();
    let shown = m.ctl(["plugin", "list"]);
    let names: Vec<_> = shown.as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["probe-pure", "probe-b", "probe-a", "probe-late"], "by level, then by file");
    assert_eq!(
        m.trace(),
        ["pure plugin.init", "b plugin.init", "a plugin.init", "late plugin.init"],
        "nothing is called in @host"
    );
    m.forget();

    netns_add("blue");
    m.wait_state("blue", "live");
    assert_eq!(of(&m.calls(), "blue"), ["pure init", "b init", "a init", "late init", "b device.init"]);
    let subsystems = m.netns("blue")["subsystems"].clone();
    assert_eq!(subsystems, serde_json::json!(["probe-pure", "probe-b", "probe-a", "probe-late"]));
    let blue = inode_of("blue");
    m.calls().iter().for_each(|c| assert_eq!(c.inside, blue, "{}", c.trace()));
    m.forget();

    netns_del("blue");
    m.wait_gone("blue");
    let end = [
        "b device.pre_exit Died",
        "late pre_exit Died",
        "a pre_exit Died",
        "b pre_exit Died",
        "pure pre_exit Died",
        "b device.exit Died",
        "b device.exit_batch Died",
        "late exit Died",
        "late exit_batch Died",
        "a exit Died",
        "a exit_batch Died",
        "b exit Died",
        "b exit_batch Died",
        "pure exit Died",
        "pure exit_batch Died",
        "late free",
        "a free",
        "b device.free",
        "b free",
        "pure free",
    ];
    assert_eq!(of(&m.calls(), "blue"), end);
    let home = fs::read_link("/proc/self/ns/net").unwrap();
    for call in m.calls().iter().filter(|c| c.hook.ends_with("exit") || c.hook.ends_with("batch")) {
        let at_home = call.hook == "pernet.exit_batch";
        assert_eq!(call.inside == *home.to_str().unwrap(), at_home, "{}", call.trace());
        assert!(at_home || call.inside == blue, "{}", call.trace());
        assert!(at_home || call.area_is_mine == Some(true), "{}", call.trace());
    }
    m.forget();
    m.stop();
    assert_eq!(m.trace(), ["late plugin.drop", "a plugin.drop", "b plugin.drop", "pure plugin.drop"]);
}

fn late_start(mut m: Machine) {
    m.probe(10, "a", "", "notifier = 0");
    m.probe(20, "b", "", "");
    for name in ["blue", "green", "red"] {
        netns_add(name);
    }
    m.start();
    assert_eq!(m.status()["namespaces"]["live"], 4, "with @host");
    for name in ["blue", "green", "red"] {
        assert_eq!(of(&m.calls(), name), ["a init", "b init", "a netdev.register lo"], "{name}");
        assert_eq!(m.netns(name)["state"], "live");
    }
    m.stop();
    m.forget();
    // The next start adopts what it finds: lives are the daemon's, so it is the first one again.
    m.start();
    let inits = m.calls().into_iter().filter(|c| c.hook == "pernet.init" && c.plugin == "probe-a");
    let lives: BTreeMap<_, _> = inits.map(|c| (c.netns, c.generation)).collect();
    assert_eq!(lives, ["blue", "green", "red"].map(|n| (n.to_owned(), Some(1))).into());
    m.stop();
}

fn exit_while_alive(mut m: Machine) {
    m.probe(10, "a", "", "read = \"/proc/sys/net/ipv4/ip_default_ttl\"");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    inside("blue", || fs::write("/proc/sys/net/ipv4/ip_default_ttl", "77").unwrap());
    let (inode, before) = (inode_of("blue"), m.calls());
    assert!(before.iter().any(|c| c.hook == "pernet.init" && c.read.as_deref() != Some("77")));
    m.forget();
    netns_del("blue");
    m.wait_gone("blue");
    for call in m.calls().iter().filter(|c| ["pernet.pre_exit", "pernet.exit"].contains(&&*c.hook)) {
        assert_eq!((call.inside.as_str(), call.read.as_deref()), (&*inode, Some("77")), "{}", call.trace());
    }
    let seen = m.calls().iter().filter(|c| c.read.as_deref() == Some("77")).count();
    assert!(seen >= 2, "pre_exit and exit");
    m.stop();
}

fn reasons(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "label = \"old\"");
    m.probe(30, "c", "", "");
    m.probe(40, "d", "", "faults = [{ hook = \"pernet.init\", netns = \"bad\", action = { fail = 5 } }]");
    m.start();
    for name in ["blue", "gone"] {
        netns_add(name);
        m.wait_state(name, "live");
    }
    netns_add("bad");
    m.wait_state("bad", "failed");
    netns_del("gone");
    m.wait_gone("gone");
    m.no_probe(10, "a");
    m.probe(20, "b", "", "label = \"new\"");
    assert_eq!(m.reload().code, 0);
    netns_del("bad");
    m.wait_gone("bad");
    m.stop();
    let exits = |plugin: &str, netns: &str| -> Vec<String> {
        let calls = m.calls().into_iter().filter(|c| c.plugin == plugin && c.netns == netns && c.hook == "pernet.exit");
        calls.map(|c| c.reason.unwrap()).collect()
    };
    assert_eq!(exits("probe-a", "gone"), ["Died"]);
    assert_eq!(exits("probe-a", "blue"), ["Removed"]);
    assert_eq!(exits("probe-b", "blue"), ["Replaced", "Stopped"]);
    assert_eq!(exits("probe-c", "blue"), ["Stopped"]);
    // It failed at least once more when it was retried.
    assert!(!exits("probe-c", "bad").is_empty());
    assert!(exits("probe-c", "bad").iter().all(|r| r == "RolledBack"));
    assert_eq!(exits("probe-d", "bad"), [""; 0], "no exit without an init");
}

fn on_stop_undo(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "on_stop = \"undo\"", "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    m.forget();
    m.stop();
    let exits: Vec<_> = m.trace().into_iter().filter(|t| t.contains(" exit ")).collect();
    assert_eq!(exits, ["b exit blue Removed", "a exit blue Stopped"]);
}

fn devices_at_death(mut m: Machine) {
    m.probe(10, "a", "", "device_op = true\nnotifier = 0");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    assert_eq!(of(&m.calls(), "blue"), ["a init", "a netdev.register lo", "a device.init"]);
    inside("blue", || {
        rtnetlink::create("br0", "bridge").unwrap();
        rtnetlink::create("br1", "bridge").unwrap();
        rtnetlink::set_up(rtnetlink::find("br0").unwrap().ifindex).unwrap();
    });
    for trace in ["a netdev.register blue br0", "a netdev.register blue br1", "a netdev.up blue br0"] {
        m.wait_call(trace);
    }
    m.forget();
    netns_del("blue");
    m.wait_gone("blue");
    let end = [
        "a device.pre_exit Died",
        "a pre_exit Died",
        "a device.exit Died",
        "a device.exit_batch Died",
        "a netdev.unregister br1",
        "a netdev.goingdown br0",
        "a netdev.down br0",
        "a netdev.unregister br0",
        "a netdev.unregister lo",
        "a exit Died",
        "a exit_batch Died",
        "a device.free",
        "a free",
    ];
    // The bridge may still have told of its flags when the end began.
    let calls: Vec<_> = of(&m.calls(), "blue").into_iter().filter(|t| !t.starts_with("a netdev.change")).collect();
    assert_eq!(calls, end);
    m.stop();
}

fn globs(mut m: Machine) {
    m.probe(10, "a", "namespaces = { include = [\"*\"] }", "");
    m.probe(20, "b", "namespaces = { include = [\"@*\"] }", "");
    m.probe(30, "c", "namespaces = { include = [\"web-*\", \"@host\"], exclude = [\"*-test\"] }", "");
    m.probe(40, "d", "namespaces = { exclude = [\"web-*\"] }", "");
    m.start();
    for name in ["blue", "web-1", "web-test"] {
        netns_add(name);
        m.wait_state(name, "live");
    }
    let listed = m.ctl(["netns", "list"]);
    let acts = |n: usize| (listed[n]["name"].as_str().unwrap(), listed[n]["subsystems"].clone());
    assert_eq!(acts(0), ("@host", serde_json::json!(["probe-b", "probe-c"])), "the host is first");
    assert_eq!(acts(1), ("blue", serde_json::json!(["probe-a", "probe-d"])));
    assert_eq!(acts(2), ("web-1", serde_json::json!(["probe-a", "probe-c"])));
    assert_eq!(acts(3), ("web-test", serde_json::json!(["probe-a"])));
    // A name of the host's namespace in a folder, as Docker makes it, changes nothing.
    let path = name_path("default");
    netns::take_name(&path).unwrap();
    mount_bind("/proc/self/ns/net", &path).unwrap();
    wait_until("the host has another name", SOON, || !m.netns("default").is_null());
    assert_eq!(m.netns("default")["name"], "@host");
    assert_eq!(m.netns("default")["subsystems"], serde_json::json!(["probe-b", "probe-c"]));
    m.forget();
    m.stop();
    let end: Vec<_> = of(&m.calls(), "@host").into_iter().filter(|t| t.contains(" exit ")).collect();
    assert_eq!(end, ["c exit Stopped", "b exit Stopped"]);
}

fn several_names(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let cookie = m.netns("blue")["cookie"].clone();
    second_name("blue", "azure");
    wait_until("both names are there", SOON, || !m.netns("azure").is_null());
    let row = m.netns("azure");
    assert_eq!((&row["name"], &row["cookie"]), (&"azure".into(), &cookie), "the first by bytes");
    assert_eq!(row["names"], serde_json::json!(["azure", "blue"]));
    assert_eq!(m.status()["namespaces"]["live"], 2, "with @host");
    m.forget();
    netns_del("azure");
    m.wait_gone("azure");
    assert_eq!(m.netns("blue")["name"], "blue");
    assert_eq!(m.trace(), [""; 0], "a name less is no end");
    netns_del("blue");
    m.wait_gone("blue");
    assert_eq!(m.trace(), ["a pre_exit blue Died", "a exit blue Died", "a exit_batch blue Died", "a free blue"]);
    m.stop();
}

fn judged_again(mut m: Machine) {
    m.probe(10, "a", "namespaces = { include = [\"web-*\"] }", "");
    m.probe(20, "b", "namespaces = { exclude = [\"web-*\"] }", "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let acts = |name: &str| m.netns(name)["subsystems"].clone();
    assert_eq!(acts("blue"), serde_json::json!(["probe-b"]));
    m.forget();
    second_name("blue", "web-1");
    wait_until("judged by both names", SOON, || acts("blue") == serde_json::json!(["probe-a"]));
    netns_del("web-1");
    wait_until("judged by the one that is left", SOON, || acts("blue") == serde_json::json!(["probe-b"]));
    let kinds = ["pernet.init", "pernet.exit"];
    let calls: Vec<_> = m.calls().into_iter().filter(|c| kinds.contains(&&*c.hook)).collect();
    let lives: Vec<_> = calls.iter().map(|c| c.generation).collect();
    assert_eq!(of(&calls, "blue"), ["b exit Removed", "a init", "a exit Removed", "b init"]);
    assert_eq!(lives, [Some(1); 4], "all in one life");
    m.stop();
}

fn another_life(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let cookie = m.netns("blue")["cookie"].clone();
    // Held as by a process that lives in it.
    let held = inside("blue", || File::open("/proc/thread-self/ns/net").unwrap());
    netns_del("blue");
    m.wait_gone("blue");
    let path = name_path("green");
    netns::take_name(&path).unwrap();
    netns::bind(held.as_fd(), &path).unwrap();
    m.wait_state("green", "live");
    assert_eq!(m.netns("green")["cookie"], cookie);
    let inits = m.calls().into_iter().filter(|c| c.hook == "pernet.init");
    let lives: Vec<_> = inits.map(|c| (c.netns, c.cookie, c.generation)).collect();
    let cookie = cookie.as_u64();
    assert_eq!(lives, [("blue".to_owned(), cookie, Some(1)), ("green".to_owned(), cookie, Some(2))]);
    m.stop();
}

fn stopped_by(mut m: Machine, signal: Signal) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "device_op = true");
    m.start();
    for name in ["blue", "green"] {
        netns_add(name);
        m.wait_state(name, "live");
    }
    m.forget();
    m.signal(signal);
    assert_eq!(m.end().code(), Some(0), "{}", m.log());
    let mut end = Vec::new();
    for what in ["b device.pre_exit", "b pre_exit", "a pre_exit"] {
        end.extend(["blue", "green"].map(|netns| format!("{what} {netns} Stopped")));
    }
    for (what, batch) in
        [("b device.exit", "b device.exit_batch"), ("b exit", "b exit_batch"), ("a exit", "a exit_batch")]
    {
        end.extend(["blue", "green"].map(|netns| format!("{what} {netns} Stopped")));
        end.push(format!("{batch} blue,green Stopped"));
    }
    let trace = m.trace();
    assert_eq!(trace[..end.len()], end, "creation order over namespaces, one batch");
    let drops: Vec<_> = trace.iter().filter(|t| t.ends_with("plugin.drop")).collect();
    assert_eq!(drops, ["b plugin.drop", "a plugin.drop"]);
    assert!(name_path("blue").exists() && name_path("green").exists(), "the namespaces are not ours");
    assert!(m.ask(["status"]).code == 3, "nobody is there any more");
}

fn second_signal(mut m: Machine) {
    let hang = "faults = [{ hook = \"pernet.exit\", netns = \"blue\", action = { until = \"/pernet/never\" } }]";
    m.probe(10, "a", "", hang);
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    m.signal(Signal::TERM);
    m.wait_call("a exit blue Stopped");
    assert!(m.alive(), "the hook hangs");
    // One that comes together with the first is no second one.
    wait_until("a later signal ends it", SOON, || {
        if m.alive() {
            m.signal(Signal::TERM);
        }
        !m.alive()
    });
    assert_eq!(m.end().code(), Some(70));
}

fn stop_while_hanging(mut m: Machine) {
    m.main("workers = 2");
    let hang = "faults = [{ hook = \"pernet.init\", netns = \"blue\", action = { until = \"/pernet/never\" } }]";
    m.probe(10, "a", "", hang);
    m.start();
    netns_add("green");
    m.wait_state("green", "live");
    netns_add("blue");
    m.wait_call("a init blue");
    m.forget();
    m.signal(Signal::TERM);
    wait_until("the daemon gives up", Duration::from_secs(40), || !m.alive());
    assert_eq!(m.end().code(), Some(70));
    assert!(m.log().contains("pernet.init of probe-a in blue"), "what hangs is named: {}", m.log());
    assert_eq!(m.trace(), [""; 0], "no plugin is dropped with its hook still running");
}

fn umount_without_unlink(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    unmount(name_path("blue"), UnmountFlags::empty()).unwrap();
    m.wait_gone("blue");
    m.wait_call("a exit blue Died");
    assert!(name_path("blue").is_file(), "the name itself is the operator's");
    m.stop();
}

fn taken_again(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    for _ in 0..30 {
        netns_add("blue");
        netns_del("blue");
    }
    netns_add("blue");
    let last = inode_of("blue");
    let pins = |m: &Machine| m.ctl(["netns", "list"]).as_array().unwrap().len();
    wait_until("only the last is left", SOON, || pins(&m) == 2 && m.netns("blue")["state"] == "live");
    let mut lives: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for call in m.calls().into_iter().filter(|c| ["pernet.init", "pernet.exit"].contains(&&*c.hook)) {
        lives.entry(call.cookie.unwrap()).or_default().push(call.hook.clone());
    }
    let cookie = m.netns("blue")["cookie"].as_u64().unwrap();
    for (life, hooks) in &lives {
        let expected: &[&str] = if *life == cookie { &["pernet.init"] } else { &["pernet.init", "pernet.exit"] };
        assert_eq!(hooks, expected);
    }
    let init = m.calls().into_iter().find(|c| c.cookie == Some(cookie)).unwrap();
    assert_eq!(init.inside, last);
    m.stop();
}

fn odd_names(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    let long = "n".repeat(255);
    let names: [(&[u8], &str); 8] = [
        (long.as_bytes(), &long),
        (b"with space", "with space"),
        (b"not\xffutf8", r"not\xffutf8"),
        (b"@host", r"\x40host"),
        (b"#1", r"\x231"),
        (b"back\\slash", r"back\x5cslash"),
        (b"two\nlines", r"two\x0alines"),
        ("größe".as_bytes(), "größe"),
    ];
    for (bytes, shown) in names {
        netns_add(OsStr::from_bytes(bytes));
        m.wait_state(shown, "live");
        assert!(m.trace().contains(&format!("a init {shown}")), "{shown}");
        assert_eq!(m.ctl(["netns", "wait", shown])["name"], shown);
    }
    netns_add("plain");
    m.wait_state("plain", "live");
    assert_eq!(m.ctl(["netns", "list"])[0]["subsystems"], serde_json::json!([]), "@host is not the one called so");
    for (bytes, shown) in names {
        netns_del(OsStr::from_bytes(bytes));
        m.wait_gone(shown);
        assert!(m.trace().contains(&format!("a exit {shown} Died")), "{shown}");
    }
    assert_eq!(m.netns("plain")["state"], "live");
    m.stop();
}

fn umount_is_not_busy(mut m: Machine) {
    m.probe(10, "a", "", "notifier = 0");
    m.start();
    for round in 0..60 {
        let path = netns_add("blue");
        match round % 3 {
            0 => {}
            1 => m.wait_state("blue", "live"),
            _ => m.wait_call("a init blue"),
        }
        unmount(&path, UnmountFlags::empty()).unwrap_or_else(|e| panic!("round {round}: umount: {e}"));
        fs::remove_file(&path).unwrap();
    }
    m.wait_gone("blue");
    m.stop();
}

fn placeholder(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    netns_add("first");
    netns::take_name(&name_path("ghost")).unwrap();
    for n in 0..5 {
        let name = format!("blue{n}");
        netns_add(&name);
        m.wait_state(&name, "live");
    }
    assert!(m.netns("ghost").is_null());
    assert_eq!(of(&m.calls(), "ghost"), [""; 0]);
    // And it may become one at last.
    let ns = netns::create().unwrap();
    netns::bind(ns.as_fd(), &name_path("ghost")).unwrap();
    m.wait_state("ghost", "live");
    m.stop();
}

fn deleted_during_setup(mut m: Machine) {
    m.main("workers = 3");
    m.probe(10, "a", "", "");
    let hang = "faults = [{ hook = \"pernet.init\", netns = \"blue\", action = { until = \"/pernet/go\" } }]";
    m.probe(20, "b", "", hang);
    m.probe(30, "c", "", "");
    m.start();
    netns_add("blue");
    m.wait_call("b init blue");
    netns_del("blue");
    // It holds up nobody else.
    netns_add("green");
    m.wait_state("green", "live");
    m.wait_state("blue", "dying");
    File::create(format!("{HOME}/go")).unwrap();
    m.wait_gone("blue");
    let end = [
        "a init",
        "b init",
        "b pre_exit Died",
        "a pre_exit Died",
        "b exit Died",
        "b exit_batch Died",
        "a exit Died",
        "a exit_batch Died",
        "b free",
        "a free",
    ];
    assert_eq!(of(&m.calls(), "blue"), end, "what comes later in the list is not even begun");
    m.stop();
}
