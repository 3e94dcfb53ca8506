//! `pernetctl` as operators and scripts use it: what it does, what it prints as JSON, and its exit status.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ExitCode, Stdio};
use std::time::Instant;

use machine::{Machine, SOON, both, inside, name_path, of, one, plugin_file};
use pernetd::linux::{netns, rtnetlink};
use rustix::process::{Pid, Signal, kill_process};
use sandbox::{netns_add, netns_del, wait_until};
use serde_json::{Value, json};

const HANG: &str = "faults = [{ hook = \"pernet.init\", netns = \"blue\", action = { until = \"/pernet/go\" } }]";

fn main() -> ExitCode {
    let trials = [
        both("add: the inits are done before the mount is visible", add),
        both("add: a failed init gives the name back", add_fails),
        both("add: a degraded namespace is there", add_degraded),
        both("add: a client that is killed in the middle is undone", add_killed),
        both("add: a client that is interrupted gives the name back", add_interrupted),
        both("add: a name that was deleted at that moment is free", add_again),
        both("add: a name that is taken stays whose it is", add_taken),
        one("add: names that cannot be", add_bad_names),
        both("del: prints the last state after the exits", del),
        one("wait: for a name that comes, fails, or never comes", wait),
        one("retry: now, not later", retry),
        one("retry: of one that ends meanwhile", retry_outlived),
        one("status answers while every worker is in a hook that hangs", hooks_hang),
        one("dev list: what the kernel has, watched or not", dev_list),
        one("monitor: a line per call, as the contract writes it", monitor),
        one("status, netns list and plugin list have the contract's fields", shapes),
        one("the exit status: 0 done, 1 failed, 2 usage, 3 not reachable", exit_status),
        one("plugin info reads the metadata only", plugin_info),
        one("tables for people", tables),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

/// `pernetctl netns add blue` in the background.
fn begin_add(m: &Machine) -> Child {
    m.pernetctl(["netns", "add", "blue"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Whether something is mounted on the name.
fn is_mounted(name: &str) -> bool {
    let path = name_path(name);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|l| l.split(' ').nth(4).is_some_and(|at| Path::new(at) == path))
}

fn add(mut m: Machine) {
    m.probe(10, "a", "", HANG);
    m.start();
    let client = begin_add(&m);
    m.wait_call("a init blue");
    assert!(name_path("blue").exists(), "the name is taken before any work");
    assert!(!is_mounted("blue"), "but nobody can enter yet");
    assert_eq!(m.netns("blue")["state"], "setup");
    File::create(m.path("go")).unwrap();
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(is_mounted("blue"));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["name"], &answer["state"]), (&"blue".into(), &"live".into()));
    assert_eq!(answer["subsystems"], json!(["probe-a"]));
    assert_eq!(m.netns("blue")["cookie"], answer["cookie"]);
    // It is a name like any other now.
    for name in ["green", "red"] {
        assert_eq!(m.ctl(["netns", "add", name])["state"], "live");
    }
    netns_del("blue");
    m.wait_gone("blue");
    assert_eq!(of(&m.calls(), "blue"), ["a init", "a pre_exit Died", "a exit Died", "a exit_batch Died", "a free"]);
    m.stop();
}

fn add_fails(mut m: Machine) {
    m.probe(10, "a", "", "");
    let fault = "{ hook = \"pernet.init\", netns = \"blue\", when = \"/pernet/broken\", action = { fail = 28 } }";
    m.probe(20, "b", "", &format!("faults = [{fault}]"));
    m.start();
    File::create(m.path("broken")).unwrap();
    let answer = m.ask(["netns", "add", "blue"]);
    assert_eq!((answer.code, &answer.json["state"]), (1, &"failed".into()));
    let error =
        json!({ "plugin": "probe-b", "hook": "pernet.init", "message": "as asked, in pernet.init of blue (ENOSPC)" });
    assert_eq!(answer.json["error"], error);
    assert!(answer.stderr.lines().count() == 1 && answer.stderr.contains("as asked"), "{}", answer.stderr);
    assert!(!name_path("blue").exists(), "the name is given back");
    m.wait_gone("blue");
    let inits = of(&m.calls(), "blue").iter().filter(|t| *t == "b init").count();
    assert_eq!(inits, 1, "nobody retries what is gone");
    fs::remove_file(m.path("broken")).unwrap();
    assert_eq!(m.ctl(["netns", "add", "blue"])["state"], "live");
    m.stop();
}

fn add_degraded(mut m: Machine) {
    m.probe(10, "a", "", "");
    let fault = "faults = [{ hook = \"pernet.init\", action = { fail = 28 } }]";
    m.probe(20, "b", "on_init_failure = \"skip\"", fault);
    m.start();
    let answer = m.ask(["netns", "add", "blue"]);
    assert_eq!((answer.code, &answer.json["state"]), (0, &"degraded".into()), "{}", answer.stderr);
    assert!(is_mounted("blue"));
    m.stop();
}

fn add_killed(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", HANG);
    m.start();
    let mut client = begin_add(&m);
    m.wait_call("b init blue");
    client.kill().unwrap();
    client.wait().unwrap();
    m.wait_state("blue", "dying");
    File::create(m.path("go")).unwrap();
    // Told of the end between two steps, or after the last.
    wait_until("it is undone", SOON, || m.netns("blue").is_null());
    let calls: Vec<_> =
        of(&m.calls(), "blue").iter().map(|t| t.replace(" RolledBack", "").replace(" Died", "")).collect();
    let (inits, exits) = calls.split_at(2);
    assert_eq!(inits, ["a init", "b init"]);
    assert_eq!(exits.iter().filter(|t| t.contains(" exit")).count(), 4);
    // The name itself was the client's, and stays as it left it.
    assert!(name_path("blue").exists() && !is_mounted("blue"));
    fs::remove_file(name_path("blue")).unwrap();
    assert_eq!(m.ctl(["netns", "add", "blue"])["state"], "live");
    m.stop();
}

fn add_interrupted(mut m: Machine) {
    m.probe(10, "a", "", HANG);
    m.start();
    let client = begin_add(&m);
    m.wait_call("a init blue");
    kill_process(Pid::from_child(&client), Signal::INT).unwrap();
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "it is not that the daemon cannot be reached");
    assert!(!name_path("blue").exists());
    m.wait_state("blue", "dying");
    File::create(m.path("go")).unwrap();
    m.wait_gone("blue");
    m.stop();
}

fn add_again(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    let mut cookies = Vec::new();
    for _ in 0..10 {
        let added = m.ctl(["netns", "add", "blue"]);
        assert_eq!(added["state"], "live");
        cookies.push(added["cookie"].clone());
        // The news of it is still on its way when the next one is asked for.
        netns_del("blue");
    }
    let last = m.ctl(["netns", "add", "blue"]);
    assert_eq!(last["state"], "live");
    wait_until("those before are gone", SOON, || m.ctl(["netns", "list"]).as_array().unwrap().len() == 2);
    let blue = m.netns("blue");
    assert_eq!((&blue["cookie"], &blue["state"]), (&last["cookie"], &"live".into()), "late news ends nobody else");
    for cookie in cookies {
        let calls: Vec<_> = m.calls().into_iter().filter(|c| c.cookie == cookie.as_u64()).map(|c| c.hook).collect();
        assert_eq!(calls.iter().filter(|h| *h == "pernet.init").count(), 1);
        assert_eq!(calls.iter().filter(|h| *h == "pernet.exit").count(), 1);
    }
    m.stop();
}

fn add_taken(mut m: Machine) {
    m.probe(10, "a", "", HANG);
    m.start();
    netns_add("green");
    m.wait_state("green", "live");
    let cookie = m.netns("green")["cookie"].clone();
    netns::take_name(&name_path("ghost")).unwrap();
    m.forget();
    for name in ["green", "ghost"] {
        let answer = m.ask(["netns", "add", name]);
        assert_eq!(answer.code, 1);
        assert!(answer.stderr.contains("taken"), "{}", answer.stderr);
    }
    assert!(name_path("ghost").exists(), "nobody else's placeholder is removed");
    assert_eq!(m.netns("green")["cookie"], cookie);
    assert_eq!(m.trace(), [""; 0]);
    // While one is being added, too.
    let client = begin_add(&m);
    m.wait_call("a init blue");
    assert_eq!(m.ask(["netns", "add", "blue"]).code, 1);
    File::create(m.path("go")).unwrap();
    assert!(client.wait_with_output().unwrap().status.success());
    m.wait_state("blue", "live");
    m.stop();
}

fn add_bad_names(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    let long = "n".repeat(256);
    for name in ["", ".", "..", "a/b", "@host", "#1", "a\\", &long] {
        let answer = m.ask(["netns", "add", name]);
        assert_eq!(answer.code, 1, "{name:?}");
        assert_eq!(answer.stderr.lines().count(), 1, "{}", answer.stderr);
    }
    assert_eq!(m.ctl(["netns", "add", r"\x40host"])["name"], r"\x40host");
    assert!(name_path("@host").exists());
    assert_eq!(m.ctl(["netns", "del", r"\x40host"])["name"], r"\x40host");
    m.stop();
}

fn del(mut m: Machine) {
    m.probe(10, "a", "", "faults = [{ hook = \"pernet.exit\", action = { until = \"/pernet/go\" } }]");
    m.start();
    assert_eq!(m.ctl(["netns", "add", "blue"])["state"], "live");
    let cookie = m.netns("blue")["cookie"].clone();
    m.forget();
    let client = m.pernetctl(["netns", "del", "blue"]).stdout(Stdio::piped()).spawn().unwrap();
    m.wait_call("a exit blue Died");
    assert!(!is_mounted("blue"), "the name goes first");
    wait_until("and its file with it", SOON, || !name_path("blue").exists());
    assert_eq!(m.netns("blue")["state"], "dying");
    File::create(m.path("go")).unwrap();
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success());
    let last: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&last["name"], &last["state"], &last["cookie"]), (&"blue".into(), &"dying".into(), &cookie));
    assert!(m.trace().contains(&"a free blue".to_owned()), "the exits are done when it returns");

    for name in ["@host", "blue", "nobody"] {
        let answer = m.ask(["netns", "del", name]);
        assert_eq!((answer.code, answer.stderr.lines().count()), (1, 1), "{name}: {answer:?}");
    }
    assert_eq!(m.netns("@host")["state"], "live");
    // A name less of a namespace that has another.
    netns_add("blue");
    m.wait_state("blue", "live");
    machine::second_name("blue", "green");
    wait_until("both names are there", SOON, || !m.netns("green").is_null());
    let left = m.ctl(["netns", "del", "blue"]);
    assert_eq!((&left["name"], &left["state"]), (&"green".into(), &"live".into()));
    m.stop();
}

fn wait(mut m: Machine) {
    let fault = "{ hook = \"pernet.init\", netns = \"bad\", action = { fail = 5 } }";
    m.probe(10, "a", "", &format!("faults = [{fault}]"));
    m.start();
    let waiter = m.pernetctl(["netns", "wait", "blue"]).stdout(Stdio::piped()).spawn().unwrap();
    m.status();
    netns_add("blue");
    let output = waiter.wait_with_output().unwrap();
    assert!(output.status.success());
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["name"], &answer["state"]), (&"blue".into(), &"live".into()));
    assert_eq!(m.ctl(["netns", "wait", "blue", "--timeout", "5"])["state"], "live", "one that is there");
    assert_eq!(answer["devices"], 1, "also where no plugin wants device events");
    assert_eq!(m.ctl(["netns", "wait", "@host"])["name"], "@host");

    let begun = Instant::now();
    let answer = m.ask(["netns", "wait", "never", "--timeout", "1"]);
    assert_eq!((answer.code, answer.stderr.lines().count()), (1, 1), "{answer:?}");
    assert!((900..10_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    netns_add("bad");
    let answer = m.ask(["netns", "wait", "bad"]);
    assert_eq!((answer.code, &answer.json["state"]), (1, &"failed".into()));
    assert!(answer.stderr.contains("as asked"), "{}", answer.stderr);
    m.stop();
}

fn retry(mut m: Machine) {
    let fault = "{ hook = \"pernet.init\", when = \"/pernet/broken\", action = { fail = 5 } }";
    m.probe(10, "a", "", &format!("faults = [{fault}]"));
    m.start();
    File::create(m.path("broken")).unwrap();
    netns_add("blue");
    m.wait_state("blue", "failed");
    let answer = m.ask(["netns", "retry", "blue"]);
    assert_eq!((answer.code, &answer.json["state"]), (1, &"failed".into()));
    fs::remove_file(m.path("broken")).unwrap();
    assert_eq!(m.ctl(["netns", "retry", "blue"])["state"], "live");
    m.forget();
    assert_eq!(m.ctl(["netns", "retry", "blue"])["state"], "live", "nothing to do");
    assert_eq!(m.trace(), [""; 0]);
    assert_eq!(m.ask(["netns", "retry", "nobody"]).code, 1);
    m.stop();
}

fn retry_outlived(mut m: Machine) {
    m.main("workers = 3");
    let hang = "{ hook = \"pernet.init\", nth = 2, action = { until = \"/pernet/go\" } }";
    let fail = "{ hook = \"pernet.init\", nth = 1, action = { fail = 5 } }";
    m.probe(10, "a", "", &format!("faults = [{fail}, {hang}]"));
    m.start();
    netns_add("blue");
    m.wait_state("blue", "failed");
    let client = m.pernetctl(["netns", "retry", "blue"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    wait_until("it is tried again", SOON, || of(&m.calls(), "blue").iter().filter(|t| *t == "a init").count() == 2);
    // It may have been tried again for its own sake; the client waits all the same.
    wait_until("the client waits", SOON, || sleeps(&client));
    m.status();
    netns_del("blue");
    m.wait_state("blue", "dying");
    File::create(m.path("go")).unwrap();
    let output = client.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("blue"), "{said}");
    m.stop();
}

/// Whether the client waits for an answer: by then it waits for nothing else.
fn sleeps(client: &Child) -> bool {
    let call = fs::read_to_string(format!("/proc/{}/syscall", client.id())).unwrap_or_default();
    ["47 ", "45 ", "0 "].iter().any(|number| call.starts_with(number))
}

fn hooks_hang(mut m: Machine) {
    m.main("workers = 1");
    m.probe(10, "a", "", HANG);
    m.start();
    netns_add("blue");
    m.wait_call("a init blue");
    assert_eq!(m.netns("blue")["state"], "setup");
    wait_until("it is shown as pinned", SOON, || m.status()["pinned"][0]["netns"] == "blue");
    assert_eq!(m.status()["pinned"][0]["plugin"], "probe-a");
    assert!(!m.ctl(["dev", "list", "--netns", "blue"]).as_array().unwrap().is_empty());
    File::create(m.path("go")).unwrap();
    m.wait_state("blue", "live");
    m.stop();
}

fn dev_list(mut m: Machine) {
    m.probe(10, "a", "namespaces = { include = [\"watched\"] }", "notifier = 0");
    m.start();
    for name in ["watched", "idle"] {
        netns_add(name);
        m.wait_state(name, "live");
        inside(name, || {
            rtnetlink::create("br0", "bridge").unwrap();
            let br0 = rtnetlink::find("br0").unwrap().ifindex;
            rtnetlink::set_mtu(br0, 1400).unwrap();
            rtnetlink::set_up(br0).unwrap();
        });
    }
    let bridge = |netns: &str| {
        let listed = m.ctl(["dev", "list", "--netns", netns]);
        listed.as_array().unwrap().iter().find(|d| d["name"] == "br0").cloned().unwrap_or_default()
    };
    for netns in ["watched", "idle"] {
        wait_until("the bridge is up", SOON, || bridge(netns)["up"] == true && bridge(netns)["mtu"] == 1400);
        let expected = json!({
            "netns": netns, "ifindex": bridge(netns)["ifindex"], "name": "br0", "kind": "bridge", "up": true,
            "mtu": 1400, "owner": "kernel", "reg_state": "registered", "alt_names": [],
            "address": bridge(netns)["address"], "stats": null,
        });
        assert_eq!(bridge(netns)["address"].as_str().map(str::len), Some(17));
        assert_eq!(bridge(netns), expected);
        let listed = m.ctl(["dev", "list", "--netns", netns]);
        let lo = json!({
            "netns": netns, "ifindex": 1, "name": "lo", "kind": null, "up": false, "mtu": 65536, "owner": "kernel",
            "reg_state": "registered", "alt_names": [], "address": "00:00:00:00:00:00", "stats": null,
        });
        assert_eq!(listed[0], lo);
        assert_eq!(listed.as_array().unwrap().len(), 2);
    }
    let all = m.ctl(["dev", "list"]);
    let netns: Vec<_> = all.as_array().unwrap().iter().map(|d| d["netns"].as_str().unwrap()).collect();
    assert!(netns.contains(&"@host") && netns.contains(&"watched") && netns.contains(&"idle"), "{netns:?}");
    assert_eq!(m.status()["devices"], netns.len());
    assert_eq!(m.netns("watched")["devices"], 2);
    assert!(
        m.netns("watched")["nsid"].is_u64() && m.netns("idle")["nsid"].is_null(),
        "only where somebody wants events"
    );
    assert_eq!(m.ask(["dev", "list", "--netns", "nobody"]).code, 1);
    m.stop();
}

fn monitor(mut m: Machine) {
    let fault = "{ hook = \"pernet.init\", netns = \"bad\", action = { fail = 5 } }";
    m.probe(10, "a", "", &format!("notifier = 0\nfaults = [{fault}]"));
    m.start();
    let mut client = m.pernetctl(["monitor"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    // It listens once a first line has come; which it is, is not known.
    let mut n = 0;
    wait_until("it listens", SOON, || {
        n += 1;
        netns_add(format!("first{n}"));
        m.wait_state(&format!("first{n}"), "live");
        bytes_waiting(&client) || n > 50
    });
    netns_add("blue");
    m.wait_state("blue", "live");
    netns_del("blue");
    m.wait_gone("blue");
    netns_add("bad");
    m.wait_state("bad", "failed");
    let mut seen = Vec::new();
    let mut last = None;
    while !seen.iter().any(|l: &Value| l["netns"] == "bad") {
        let line = next();
        let seq = line["seq"].as_u64().unwrap();
        assert!(last.is_none_or(|last| seq == last + 1), "no gap for a fast reader");
        last = Some(seq);
        seen.push(line);
    }
    let keys = ["device", "duration_us", "error", "hook", "netns", "plugin", "result", "seq", "time"];
    for line in &seen {
        let mut has: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
        has.sort_unstable();
        assert_eq!(has, keys);
        assert!(line["duration_us"].is_u64());
        assert_time(line["time"].as_str().unwrap());
    }
    let blue: Vec<_> = seen.iter().filter(|l| l["netns"] == "blue").collect();
    let hooks: Vec<_> = blue.iter().map(|l| (l["hook"].as_str().unwrap(), l["device"].as_str())).collect();
    let expected = [
        ("pernet.init", None),
        ("netdev.register", Some("lo")),
        ("pernet.pre_exit", None),
        ("netdev.unregister", Some("lo")),
        ("pernet.exit", None),
    ];
    let shown: Vec<_> =
        hooks.iter().filter(|(hook, _)| !["pernet.exit_batch", "pernet.free"].contains(hook)).copied().collect();
    assert_eq!(shown, expected);
    assert!(blue.iter().all(|l| l["result"] == "ok" && l["error"].is_null() && l["plugin"] == "probe-a"));
    let bad = seen.last().unwrap();
    assert_eq!((&bad["result"], &bad["hook"]), (&"error".into(), &"pernet.init".into()));
    assert!(bad["error"].as_str().unwrap().contains("as asked"));
    kill_process(Pid::from_child(&client), Signal::INT).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(0), "an interrupt is how it ends");
    m.stop();
}

/// Whether the client has written something: its position counts what it wrote.
fn bytes_waiting(client: &Child) -> bool {
    let io = fs::read_to_string(format!("/proc/{}/io", client.id())).unwrap_or_default();
    let written = io.lines().find_map(|l| l.strip_prefix("wchar: ")).and_then(|n| n.parse::<u64>().ok());
    // The request itself is some ten bytes.
    written.unwrap_or(0) > 200
}

/// RFC 3339 in UTC with microseconds.
#[track_caller]
fn assert_time(text: &str) {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000000Z", "{text}");
}

/// The object has these fields at least.
#[track_caller]
fn assert_fields(object: &Value, fields: &[&str]) {
    for field in fields {
        assert!(object.get(field).is_some(), "{field} is missing in {object}");
    }
}

fn shapes(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "on_init_failure = \"skip\"", "faults = [{ hook = \"pernet.init\", action = { fail = 5 } }]");
    fs::write(plugin_file("c"), "no plugin").unwrap();
    m.probe(30, "c", "", "");
    m.start();
    assert_eq!(m.ctl(["netns", "add", "blue"])["state"], "degraded");
    let status = m.status();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&status["state"], &status["generation"]), (&"running".into(), &1.into()));
    assert_eq!(status["discovery"], m.method().word());
    assert_eq!(status["namespaces"], json!({ "live": 1, "degraded": 1, "failed": 0, "setup": 0, "dying": 0 }));
    assert_eq!(status["plugins"], json!({ "live": 2, "failed": 0, "refused": 1 }));
    let counts = ["devices", "resyncs", "retired_generations"];
    counts.iter().for_each(|count| assert!(status[count].is_u64(), "{count}: {status}"));
    assert_eq!(status["last_reload"], Value::Null);
    m.reload();
    let last = m.status()["last_reload"].clone();
    assert_fields(&last, &["time", "ok", "error", "pause_us"]);
    assert_time(last["time"].as_str().unwrap());

    let blue = m.netns("blue");
    assert_fields(&blue, &["name", "names", "cookie", "nsid", "state", "subsystems", "devices", "error"]);
    assert!(blue["cookie"].is_u64() && blue["devices"].is_u64());
    assert_fields(&blue["error"], &["plugin", "hook", "message"]);
    let plugins = m.ctl(["plugin", "list"]);
    let fields = ["name", "version", "state", "level", "order", "file", "sha256", "generation", "namespaces", "error"];
    plugins.as_array().unwrap().iter().for_each(|plugin| assert_fields(plugin, &fields));
    let (a, c) = (m.plugin("a"), m.plugin("c"));
    assert_eq!((&a["state"], &a["level"], &a["order"]), (&"live".into(), &"subsys".into(), &0.into()));
    assert_eq!((&a["file"], &a["namespaces"]), (&"/plugins/libpernet_probe_a.so".into(), &1.into()));
    assert_eq!(a["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(a["error"], Value::Null);
    assert_eq!(c["state"], "refused");
    assert_fields(&c["error"], &["namespace", "hook", "message"]);
    m.stop();
}

fn exit_status(mut m: Machine) {
    m.probe(10, "a", "", "");
    let code = |arguments: &[&str]| m.ask(arguments.iter().copied()).code;
    for command in [&["status"][..], &["netns", "list"], &["netns", "wait", "blue"], &["monitor"], &["reload"]] {
        let answer = m.ask(command.iter().copied());
        assert_eq!((answer.code, answer.stderr.lines().count()), (3, 1), "{command:?}: {answer:?}");
        assert!(answer.stderr.contains("/pernet/run"), "{}", answer.stderr);
    }
    for usage in [&[][..], &["nonsense"], &["netns"], &["netns", "add"], &["status", "more"], &["dev", "list", "--x"]] {
        assert_eq!(code(usage), 2, "{usage:?}");
    }
    m.start();
    assert_eq!(m.ask(["status"]).code, 0);
    assert_eq!(m.ask(["netns", "del", "nobody"]).code, 1);
    assert_eq!(m.ask(["netns", "wait", "nobody", "--timeout", "0"]).code, 1);
    m.stop();
    assert_eq!(m.ask(["status"]).code, 3);
}

fn plugin_info(m: Machine) {
    m.install("probe_a", "a");
    let info = m.ctl(["plugin", "info", "/plugins/libpernet_probe_a.so"]);
    assert_eq!((&info["name"], &info["level"]), (&"probe-a".into(), &"subsys".into()));
    assert_fields(&info, &["version", "api", "description", "target"]);
    fs::write("/plugins/no.so", "no plugin").unwrap();
    for file in ["/plugins/no.so", "/plugins/missing.so"] {
        let answer = m.ask(["plugin", "info", file]);
        assert_eq!((answer.code, answer.stderr.lines().count()), (1, 1), "{answer:?}");
        assert!(answer.stderr.contains(file), "{}", answer.stderr);
    }
}

fn tables(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    assert_eq!(m.ctl(["netns", "add", "blue"])["state"], "live");
    let commands: [(&[&str], &[&str]); 5] = [
        (&["status"], &["running", m.method().word()]),
        (&["netns", "list"], &["@host", "blue", "live", "probe-a"]),
        (&["plugin", "list"], &["probe-a", "subsys", "/plugins/libpernet_probe_a.so"]),
        (&["dev", "list", "--netns", "blue"], &["blue", "lo", "65536"]),
        (&["plugin", "info", "/plugins/libpernet_probe_a.so"], &["probe-a", "records its calls"]),
    ];
    for (command, words) in commands {
        let output = m.pernetctl_for_people(command.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{command:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        words.iter().for_each(|word| assert!(text.contains(word), "{word} is missing in\n{text}"));
        assert!(serde_json::from_str::<Value>(&text).is_err(), "no JSON");
    }
    m.stop();
}
