//! The boot: in which order what is called, what is not called and why, what the record says of it, and the chart.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::fs::{self, File};
use std::process::ExitCode;

use machine::{Machine, SOON, of, one, plugin_file};
use sandbox::{example_cdylib, netns_add, wait_until};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let trials = [
        one("K5.1: levels in turn, pernetd's own first in each", order),
        one("K5.2, K5.5: who fails is not asked to exit, and takes along only who requires it", failing),
        one("K5.2: each in turn fails, and the rest is as if it had not been there", each_in_turn),
        one("K5.3: a blacklisted plugin is not called, nor who requires it", blacklisted),
        one("K5.3: a blacklisted plugin's code is not even mapped", not_mapped),
        one("K5.3: a blacklisted plugin with a broken file is no mistake", broken_and_blacklisted),
        one("K5.3: names are exact, and what nothing is called is a warning", odd_names),
        one("K5.3: the environment's list takes the place of the file's", environment),
        one("a reload reads the list again", reloaded),
        one("a reload that fails leaves the list as it was", reload_fails),
        one("one of pernetd's own can be blacklisted, and what requires it is refused", own_part),
        one("without net_dev_init no plugin has devices", no_devices),
        one("nothing goes on without a vital part", vital),
        one("a vital part that fails takes back what has started", vital_fails),
        one("a cycle is refused with the chain written out", cycle),
        one("a missing requirement is refused with the chain written out", missing),
        one("K5.6: what others require cannot be taken out", in_use),
        one("K5.6: an exit cannot veto", no_veto),
        one("a plugin refused for its file is in the record, and so is who requires it", refused_file),
        one("a namespace's setup is told hook by hook", setup),
        one("a setup that was rolled back is told, and the next one takes its place", setup_fails),
        one("ready is told when it is", ready),
        one("the chart is a picture of all that", chart),
        one("a chart that cannot be written is refused, and nothing is left", unwritable),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

/// The record's initcalls.
#[track_caller]
fn initcalls(m: &Machine) -> Vec<Value> {
    m.ctl(["boot"])["initcalls"].as_array().unwrap().clone()
}

/// The initcall of this name.
#[track_caller]
fn initcall(m: &Machine, name: &str) -> Value {
    let found = initcalls(m).into_iter().find(|call| call["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}"))
}

/// What became of the probes.
fn results(m: &Machine) -> Vec<(String, String)> {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let probe =
        |call: &Value| Some((word(&call["name"]).strip_prefix("plugin.probe-")?.to_owned(), word(&call["result"])));
    initcalls(m).iter().filter_map(probe).collect()
}

fn pairs(results: &[(&str, &str)]) -> Vec<(String, String)> {
    results.iter().map(|(name, result)| (name.to_string(), result.to_string())).collect()
}

/// Why a plugin does not run, as `plugin list` has it.
#[track_caller]
fn why(m: &Machine, letter: &str) -> String {
    m.plugin(letter)["error"]["message"].as_str().unwrap_or_else(|| panic!("{letter} is well")).to_owned()
}

const FAILS: &str = "faults = [{ hook = \"init\", action = { fail = 5 } }]";

fn order(mut m: Machine) {
    m.probe(10, "late", "", "");
    m.probe(20, "b", "", "");
    m.probe(30, "a", "", "");
    m.probe(40, "pure", "", "");
    m.start();
    let calls = initcalls(&m);
    let names: Vec<_> = calls.iter().map(|c| format!("{} {}", c["level"], c["name"]).replace('"', "")).collect();
    let expected = [
        "pure net_ns_init",
        "pure workqueue_init",
        "pure plugin.probe-pure",
        "core net_sysctl_init",
        "core sock_init",
        "core rtnetlink_init",
        "subsys net_dev_init",
        "subsys plugin.probe-b",
        "subsys plugin.probe-a",
        "fs pernetfs_init",
        "fs netctl_init",
        "late control_init",
        "late discovery_init",
        "late plugin.probe-late",
    ];
    assert_eq!(names, expected);
    assert_eq!(m.trace(), ["pure plugin.init", "b plugin.init", "a plugin.init", "late plugin.init"]);
    let us = |call: &Value, field: &str| call[field].as_u64().unwrap();
    // One after the other, K5.2.
    for pair in calls.windows(2) {
        assert!(us(&pair[0], "start_us") + us(&pair[0], "duration_us") <= us(&pair[1], "start_us") + 1, "{pair:?}");
    }
    let boot = m.ctl(["boot"]);
    assert!(us(&boot, "initcalls_us") >= us(&calls[13], "start_us") + us(&calls[13], "duration_us"), "{boot}");
    assert!(us(&boot, "ready_us") >= us(&boot, "initcalls_us"), "{boot}");
    for call in &calls {
        assert_eq!((&call["result"], &call["error"], &call["errno"]), (&json!("ok"), &Value::Null, &Value::Null));
        let is_plugin = call["name"].as_str().unwrap().starts_with("plugin.");
        assert_eq!(call["prepare_us"].is_u64(), is_plugin, "{call}");
    }
    let table = String::from_utf8(m.pernetctl_for_people(["boot"]).output().unwrap().stdout).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].contains(": 14 initcalls in ") && lines[0].contains(", ready after "), "{table}");
    assert!(
        lines[2].split_whitespace().eq(["ORDER", "LEVEL", "INITCALL", "AT", "TIME", "PREPARED", "RESULT"]),
        "{table}"
    );
    assert!(lines[3].trim_start().starts_with("0      pure    net_ns_init") && lines[3].ends_with("ok"), "{table}");
    m.stop();
}

fn failing(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", &format!("works = []\n{FAILS}"));
    m.probe(30, "c", "requires = [\"probe-b\"]", "");
    m.probe(40, "d", "requires = [\"probe-c\"]", "");
    m.probe(50, "e", "after = [\"probe-b\"]", "");
    m.start();
    let expected = [("a", "ok"), ("b", "failed"), ("c", "refused"), ("d", "refused"), ("e", "ok")];
    assert_eq!(results(&m), pairs(&expected));
    assert_eq!(m.trace(), ["a plugin.init", "b plugin.init", "e plugin.init"], "no exit of b, and c and d not called");
    assert_eq!(initcall(&m, "plugin.probe-b")["errno"], 5);
    let b = initcall(&m, "plugin.probe-b")["error"].as_str().unwrap().to_owned();
    assert!(b.contains("as asked, in init"), "{b}");
    let d = initcall(&m, "plugin.probe-d");
    let chain = format!("requires `plugin.probe-c`, which requires `plugin.probe-b`, which failed: {b}");
    assert_eq!((&d["errno"], d["error"].as_str().unwrap()), (&json!(19), &*chain));
    assert_eq!(["b", "c", "d"].map(|p| m.plugin(p)["state"].clone()), ["failed", "failed", "failed"]);
    assert_eq!(why(&m, "d"), format!("{chain}; repair that one first"));
    assert!(m.log().contains("initcall plugin.probe-b returned -5 after "), "{}", m.log());
    assert!(m.log().contains("initcall plugin.probe-c was not called: requires"), "{}", m.log());
    netns_add("blue");
    m.wait_state("blue", "live");
    assert_eq!(m.netns("blue")["subsystems"], json!(["probe-a", "probe-e"]));
    // Repaired, a reload calls what is left; what ran does not notice.
    m.probe(20, "b", "", "");
    m.forget();
    assert_eq!(m.reload().code, 0);
    assert_eq!(m.netns("blue")["subsystems"], json!(["probe-a", "probe-b", "probe-c", "probe-d", "probe-e"]));
    assert_eq!(of(&m.calls(), "blue"), ["b init", "c init", "d init"]);
    assert_eq!(results(&m), pairs(&expected), "the record is the boot's");
    m.stop();
}

/// Each requires the one before it, but for `c`. Whoever started ends once, newest first; nobody else does.
fn each_in_turn(mut m: Machine) {
    let letters = ["a", "b", "c", "d", "e"];
    for fails in 0..letters.len() {
        let requires = |n: usize| n > 0 && n != 2;
        for (n, letter) in letters.iter().enumerate() {
            let keys = if requires(n) { format!("requires = [\"probe-{}\"]", letters[n - 1]) } else { String::new() };
            m.probe(10 + u32::try_from(n).unwrap(), letter, &keys, if n == fails { FAILS } else { "" });
        }
        m.forget();
        m.start();
        let mut expected: Vec<&str> = Vec::new();
        for n in 0..letters.len() {
            let held_up = requires(n) && expected[n - 1] != "ok";
            expected.push(if held_up { "refused" } else { ["ok", "failed"][usize::from(n == fails)] });
        }
        let pairs = pairs(&letters.into_iter().zip(expected.iter().copied()).collect::<Vec<_>>());
        assert_eq!(results(&m), pairs);
        m.stop();
        let with = |results: &[&str]| -> Vec<&str> {
            letters.into_iter().zip(&expected).filter(|(_, result)| results.contains(result)).map(|(l, _)| l).collect()
        };
        let mut calls: Vec<String> = with(&["ok", "failed"]).iter().map(|l| format!("{l} plugin.init")).collect();
        calls.extend(with(&["ok"]).iter().rev().map(|l| format!("{l} plugin.drop")));
        assert_eq!(m.trace(), calls, "{} fails", letters[fails]);
    }
}

fn blacklisted(mut m: Machine) {
    m.main("initcall_blacklist = [\n  \"plugin.probe-b\",\n]");
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "");
    m.probe(30, "c", "requires = [\"probe-b\"]", "");
    m.probe(40, "d", "requires = [\"probe-c\"]", "");
    assert_eq!(m.check(), (0, String::new()), "it is no mistake");
    m.start();
    assert_eq!(results(&m), pairs(&[("a", "ok"), ("b", "blacklisted"), ("c", "refused"), ("d", "refused")]));
    assert_eq!(m.trace(), ["a plugin.init"]);
    let reason = "blacklisted by initcall_blacklist, /pernet/pernetd.toml:4";
    let b = initcall(&m, "plugin.probe-b");
    assert_eq!((&b["errno"], &b["error"], &b["duration_us"]), (&json!(1), &json!(reason), &json!(0)));
    assert_eq!((why(&m, "b"), m.plugin("b")["state"].clone()), (reason.to_owned(), json!("refused")));
    assert_eq!(m.plugin("b")["level"], "subsys", "its note was read");
    let c = format!("requires `plugin.probe-b`, which is {reason}");
    assert_eq!(initcall(&m, "plugin.probe-c")["error"], c);
    assert_eq!(why(&m, "c"), format!("{c}; take that one off the list first"));
    assert_eq!(initcall(&m, "plugin.probe-d")["error"], format!("requires `plugin.probe-c`, which {c}"));
    assert_eq!(["c", "d"].map(|p| m.plugin(p)["state"].clone()), ["refused", "refused"]);
    assert!(m.log().contains(&format!("initcall plugin.probe-b was not called: {reason}")), "{}", m.log());
    let table = String::from_utf8(m.pernetctl_for_people(["boot"]).output().unwrap().stdout).unwrap();
    assert!(table.lines().any(|l| l.contains("plugin.probe-b") && l.ends_with(reason)), "{table}");
    m.stop();
}

fn not_mapped(mut m: Machine) {
    let file = m.path("leaves_mark.so");
    m.install_file(&example_cdylib("bad_constructor_leaves_mark"), &file);
    m.write("plugins.d/10-leaves-mark.toml", "file = \"/pernet/leaves_mark.so\"\n");
    let mark = |m: &Machine| std::env::temp_dir().join(format!("pernet-test-mark-{}", m.pid().as_raw_pid()));
    m.start();
    assert!(mark(&m).exists(), "else the rest shows nothing");
    m.stop();
    m.main("initcall_blacklist = [\"plugin.leaves-mark\"]");
    m.start();
    assert!(!mark(&m).exists(), "its constructor ran");
    assert_eq!(initcall(&m, "plugin.leaves-mark")["result"], "blacklisted");
    assert_eq!(m.reload().code, 0);
    assert!(!mark(&m).exists(), "its constructor ran in the reload");
    m.stop();
}

fn broken_and_blacklisted(mut m: Machine) {
    m.main("initcall_blacklist = [\"plugin.probe-b\"]");
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "");
    m.probe(30, "c", "requires = [\"probe-b\"]", "");
    fs::write(plugin_file("b"), "no plugin").unwrap();
    assert_eq!(m.check(), (0, String::new()));
    m.start();
    assert_eq!(results(&m), pairs(&[("a", "ok"), ("b", "blacklisted"), ("c", "refused")]));
    assert_eq!(why(&m, "b"), "blacklisted by initcall_blacklist, /pernet/pernetd.toml:3");
    assert!(why(&m, "c").contains("requires `probe-b`, which does not run: blacklisted by"), "{}", why(&m, "c"));
    let reload = m.reload();
    assert_eq!(reload.code, 0, "{}", reload.stderr);
    assert_eq!(["a", "b", "c"].map(|p| m.plugin(p)["state"].clone()), ["live", "refused", "refused"]);
    m.main("");
    assert_eq!(m.reload().code, 1, "off the list it is a mistake like any other");
    m.stop();
}

fn odd_names(mut m: Machine) {
    m.main("initcall_blacklist = [\"probe-a\", \"plugin.probe\", \"net_dev_inti\"]");
    m.probe(10, "a", "", "");
    let warnings = [
        "/pernet/pernetd.toml:3:23: initcall_blacklist names \"probe-a\", which no initcall is called; did you mean \
         \"plugin.probe-a\"?",
        "/pernet/pernetd.toml:3:34: initcall_blacklist names \"plugin.probe\", which no initcall is called; did you mean \
         \"plugin.probe-a\"?",
        "/pernet/pernetd.toml:3:50: initcall_blacklist names \"net_dev_inti\", which no initcall is called; did you mean \
         \"net_dev_init\"?",
    ];
    let (code, said) = m.check();
    assert_eq!(code, 0);
    m.start();
    for warning in warnings {
        assert!(said.contains(warning), "{said}");
        assert!(m.log().contains(warning), "{}", m.log());
    }
    assert_eq!(m.plugin("a")["state"], "live");
    m.stop();
    m.main("initcall_blacklist = [\"plugin/probe-a\"]");
    let (code, said) = m.check();
    assert!(code == 1 && said.contains(":3:23: \"plugin/probe-a\" is no initcall's name; write plugin.NAME"), "{said}");
}

fn environment(mut m: Machine) {
    m.main("initcall_blacklist = [\"plugin.probe-a\"]");
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "");
    m.probe(30, "c", "", "");
    m.environment = vec![("PERNETD_INITCALL_BLACKLIST", "plugin.probe-b,plugin.probe-c")];
    m.start();
    assert_eq!(results(&m), pairs(&[("a", "ok"), ("b", "blacklisted"), ("c", "blacklisted")]));
    let place = "environment variable PERNETD_INITCALL_BLACKLIST";
    assert_eq!(why(&m, "c"), format!("blacklisted by initcall_blacklist, {place}"));
    m.stop();
    m.environment = vec![("PERNETD_INITCALL_BLACKLIST", "")];
    m.start();
    assert_eq!(results(&m), pairs(&[("a", "ok"), ("b", "ok"), ("c", "ok")]));
    m.stop();
}

fn reloaded(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "requires = [\"probe-a\"]", "");
    m.probe(30, "c", "", "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    m.forget();
    m.main("initcall_blacklist = [\"plugin.probe-a\", \"sock_init\"]");
    let reload = m.ctl(["reload"]);
    let reason = "blacklisted by initcall_blacklist, /pernet/pernetd.toml:3";
    let b = format!("requires: requires `plugin.probe-a`, which is {reason}; take that one off the list first");
    let rows = json!([
        { "name": "probe-c", "action": "kept", "error": null },
        { "name": "probe-a", "action": "removed", "error": reason },
        { "name": "probe-b", "action": "removed", "error": b.strip_prefix("requires: ") },
    ]);
    assert_eq!(reload["plugins"], rows);
    let exits = ["pre_exit", "exit", "exit_batch", "free"];
    let exits: Vec<String> = ["b", "a"].iter().flat_map(|p| exits.map(|exit| format!("{p} {exit}"))).collect();
    let calls: Vec<_> = of(&m.calls(), "blue").iter().map(|t| t.replace(" Removed", "")).collect();
    assert_eq!(calls, exits);
    assert_eq!(["a", "b", "c"].map(|p| m.plugin(p)["state"].clone()), ["refused", "refused", "live"]);
    assert_eq!(why(&m, "a"), reason);
    let own = "initcall_blacklist has changed for sock_init; it stays as it was until pernetd is started again";
    assert!(m.log().contains(own), "{}", m.log());
    // Again: nothing changes, and nobody is called.
    m.forget();
    assert_eq!(m.ctl(["reload"])["plugins"], rows);
    assert_eq!(m.trace(), [""; 0]);
    m.main("");
    let reload = m.ctl(["reload"]);
    let actions: Vec<_> = reload["plugins"].as_array().unwrap().iter().map(|p| p["action"].clone()).collect();
    assert_eq!(actions, ["replaced", "replaced", "kept"]);
    assert_eq!(of(&m.calls(), "blue"), ["a init", "b init"]);
    assert_eq!(m.netns("blue")["subsystems"], json!(["probe-a", "probe-b", "probe-c"]));
    m.stop();
}

fn reload_fails(mut m: Machine) {
    m.main("initcall_blacklist = [\"plugin.probe-a\"]");
    m.probe(10, "a", "", FAILS);
    m.probe(20, "b", "", "");
    m.start();
    // It was no part of the set, so it may not fail now.
    m.main("");
    let reload = m.reload();
    assert!(reload.code == 1 && reload.stderr.contains("as asked, in init"), "{}", reload.stderr);
    assert_eq!(m.plugin("b")["state"], "live");
    m.main("initcall_blacklist = [\"plugin.probe-a\", \"control_init\"]");
    let reload = m.reload();
    let why = "/pernet/pernetd.toml:3:41: initcall_blacklist names \"control_init\", without which pernetd cannot run";
    assert!(reload.code == 1 && reload.stderr.contains(why), "{}", reload.stderr);
    m.main("initcall_blacklist = [\"plugin.probe-a\"]");
    assert_eq!(m.reload().code, 0);
    assert_eq!(m.plugin("a")["state"], "refused");
    m.stop();
}

fn own_part(mut m: Machine) {
    m.main("initcall_blacklist = [\"sock_init\"]");
    m.probe(10, "a", "requires = [\"sock_init\"]", "");
    m.probe(20, "b", "after = [\"sock_init\"]", "");
    m.start();
    assert_eq!(initcall(&m, "sock_init")["result"], "blacklisted");
    let why_a = "requires `sock_init`, which is blacklisted by initcall_blacklist, /pernet/pernetd.toml:3";
    assert_eq!((&initcall(&m, "plugin.probe-a")["error"], &m.plugin("a")["state"]), (&json!(why_a), &json!("refused")));
    assert_eq!(m.plugin("b")["state"], "live");
    // The parts are the start's.
    m.main("");
    assert_eq!(m.reload().code, 0);
    assert_eq!(m.plugin("a")["state"], "refused");
    m.stop();
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    assert_eq!(
        m.netns("blue")["subsystems"],
        json!(["probe-a", "probe-b"]),
        "requiring it keeps it out of no namespace"
    );
    m.stop();
    m.probe(30, "pure", "requires = [\"sock_init\"]", "");
    let (code, said) = m.check();
    assert!(
        code == 1 && said.contains("`probe-pure` (level pure) cannot come after `sock_init` (level core)"),
        "{said}"
    );
}

fn no_devices(mut m: Machine) {
    m.main("initcall_blacklist = [\"net_dev_init\"]");
    let device = "netdevs = [{ netns = \"blue\", kind = \"bridge\", name = \"br0\" }]";
    m.probe(10, "a", "", &format!("device_op = true\n{device}"));
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let refused = m.calls().into_iter().find(|call| call.hook == "netdev.register_netdevice").unwrap();
    assert_eq!(refused.errno, Some(19), "{refused:?}");
    assert!(refused.message.as_ref().unwrap().contains("net_dev_init"), "{refused:?}");
    m.stop();
    m.main("");
    m.forget();
    m.start();
    let done = m.calls().into_iter().find(|call| call.hook == "netdev.register_netdevice").unwrap();
    assert_eq!(done.errno, Some(0), "{done:?}");
    m.stop();
}

fn vital(mut m: Machine) {
    for name in ["net_ns_init", "workqueue_init", "rtnetlink_init", "control_init", "discovery_init"] {
        m.main(&format!("initcall_blacklist = [\"{name}\"]"));
        let (code, said) = m.check();
        let why =
            format!("/pernet/pernetd.toml:3:23: initcall_blacklist names \"{name}\", without which pernetd cannot run");
        assert!(code == 1 && said.contains(&why), "{said}");
        m.spawn();
        assert_eq!(m.end().code(), Some(78));
        assert!(m.log().contains(&why), "{}", m.log());
    }
}

fn vital_fails(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "late", "", "");
    m.write("run/io.pernetd", "precious");
    m.spawn();
    assert_eq!(m.end().code(), Some(73));
    let said = "pernetd: control_init: /pernet/run/io.pernetd: there is something here that is not a socket";
    assert!(m.log().contains(said), "{}", m.log());
    assert!(m.log().contains("initcall control_init returned -17 after "), "{}", m.log());
    assert_eq!(
        m.trace(),
        ["a plugin.init", "a plugin.drop"],
        "what had started has ended, what comes later never began"
    );
    assert!(
        m.log().contains("plugin.probe-late was not called: nothing goes on without `control_init`"),
        "{}",
        m.log()
    );
    assert_eq!(fs::read_to_string(m.path("run/io.pernetd")).unwrap(), "precious");
    m.remove("run/io.pernetd");
    m.start();
    m.stop();
}

fn cycle(mut m: Machine) {
    m.probe(10, "a", "requires = [\"probe-b\"]", "");
    m.probe(20, "b", "after = [\"probe-c\"]", "");
    m.probe(30, "c", "requires = [\"probe-a\"]", "");
    let chain = "/pernet/plugins.d/10-probe-a.toml:1:1: these plugins wait for each other: `probe-a` after `probe-b` after \
                 `probe-c` after `probe-a`";
    refused_everywhere(&mut m, chain, |m| m.probe(30, "c", "", ""));
}

fn missing(mut m: Machine) {
    m.probe(10, "a", "requires = [\"probe-b\"]", "");
    m.probe(20, "b", "\nrequires = [\"probe-c\"]", "");
    m.probe(30, "c", "enabled = false", "");
    let chain = "/pernet/plugins.d/20-probe-b.toml:2:1: plugin `probe-a` requires `probe-b` requires `probe-c`, which is \
                 not configured, or not enabled";
    refused_everywhere(&mut m, chain, |m| m.probe(30, "c", "", ""));
}

/// Said by `--check`, at a start, and by a reload, which changes nothing.
fn refused_everywhere(m: &mut Machine, said: &str, mend: fn(&Machine)) {
    let wrong = fs::read_to_string(m.path("plugins.d/30-probe-c.toml")).unwrap();
    let (code, check) = m.check();
    assert!(code == 1 && check.contains(said), "{check}");
    m.spawn();
    assert_eq!(m.end().code(), Some(78));
    assert!(m.log().contains(said), "{}", m.log());
    assert_eq!(m.trace(), [""; 0]);
    mend(m);
    m.start();
    m.forget();
    m.write("plugins.d/30-probe-c.toml", &wrong);
    let reload = m.reload();
    assert!(reload.code == 1 && reload.stderr.contains(said), "{}", reload.stderr);
    assert_eq!(m.trace(), [""; 0]);
    assert_eq!(["a", "b", "c"].map(|p| m.plugin(p)["state"].clone()), ["live"; 3]);
    mend(m);
    m.stop();
}

/// The kernel's EWOULDBLOCK: here the configuration says what goes, so it is the reload that is refused.
fn in_use(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "requires = [\"probe-a\"]", "");
    m.start();
    m.forget();
    m.no_probe(10, "a");
    let reload = m.reload();
    assert!(reload.code == 1 && reload.stderr.contains("`probe-b` requires `probe-a`"), "{}", reload.stderr);
    assert_eq!(m.trace(), [""; 0]);
    m.no_probe(20, "b");
    assert_eq!(m.reload().code, 0);
    assert_eq!(m.trace(), ["b plugin.drop", "a plugin.drop"]);
    m.stop();
}

fn no_veto(mut m: Machine) {
    m.probe(10, "a", "", "faults = [{ hook = \"pernet.exit\", action = { fail = 16 } }]");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    m.forget();
    m.no_probe(10, "a");
    assert_eq!(m.reload().code, 0);
    assert_eq!(m.plugin("a")["state"], "retired");
    let calls = of(&m.calls(), "blue");
    assert_eq!(calls, ["a pre_exit Removed", "a exit Removed", "a exit_batch Removed", "a free"]);
    assert!(m.log().contains("as asked, in pernet.exit of blue"), "{}", m.log());
    m.stop();
}

fn refused_file(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "");
    m.probe(30, "c", "requires = [\"probe-b\"]", "");
    fs::write(plugin_file("b"), "no plugin").unwrap();
    m.start();
    assert_eq!(results(&m), pairs(&[("a", "ok"), ("b", "refused"), ("c", "refused")]));
    let b = initcall(&m, "plugin.probe-b");
    assert_eq!((&b["level"], &b["start_us"]), (&Value::Null, &Value::Null), "it had no turn");
    assert!(b["error"].as_str().unwrap().contains("/plugins/libpernet_probe_b.so"), "{b}");
    let c = initcall(&m, "plugin.probe-c")["error"].as_str().unwrap().to_owned();
    assert!(c.starts_with("requires `probe-b`, which does not run: ") && c.contains("libpernet_probe_b.so"), "{c}");
    m.stop();
}

fn setup(mut m: Machine) {
    m.probe(10, "a", "", "device_op = true\nnotifier = 0");
    m.probe(20, "b", "", "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let setup = m.ctl(["boot", "--netns", "blue"]);
    let hooks = setup["hooks"].as_array().unwrap();
    let told = |hook: &Value| {
        let device = hook["device"].as_str().map(|device| format!(" {device}")).unwrap_or_default();
        format!("{} {}{device} {}", hook["plugin"], hook["hook"], hook["result"]).replace('"', "")
    };
    let expected =
        ["probe-a pernet.init ok", "probe-b pernet.init ok", "probe-a netdev.register lo ok", "probe-a pernet.init ok"];
    assert_eq!(hooks.iter().map(told).collect::<Vec<_>>(), expected, "{setup}");
    assert_eq!((&setup["state"], &setup["left_off"], &setup["netns"]), (&json!("live"), &json!(0), &json!("blue")));
    let us = |value: &Value, field: &str| value[field].as_u64().unwrap();
    let sum: u64 = hooks.iter().map(|hook| us(hook, "duration_us")).sum();
    assert!(sum <= us(&setup, "total_us"), "{setup}");
    for pair in hooks.windows(2) {
        assert!(us(&pair[0], "start_us") + us(&pair[0], "duration_us") <= us(&pair[1], "start_us") + 1, "{setup}");
    }
    // The host's own, where no plugin acts, is there too and first.
    let boot = m.ctl(["boot"]);
    let names: Vec<_> = boot["setups"].as_array().unwrap().iter().map(|s| s["netns"].clone()).collect();
    assert_eq!(names, ["@host", "blue"]);
    let answer = m.ask(["boot", "--netns", "green"]);
    assert_eq!((answer.code, answer.stderr.contains("there is no such namespace")), (1, true), "{}", answer.stderr);
    let table =
        String::from_utf8(m.pernetctl_for_people(["boot", "--netns", "blue"]).output().unwrap().stdout).unwrap();
    assert!(table.lines().any(|l| l.contains("netdev.register") && l.contains(" lo ") && l.ends_with("ok")), "{table}");
    m.stop();
}

fn setup_fails(mut m: Machine) {
    File::create(m.path("broken")).unwrap();
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "faults = [{ hook = \"pernet.init\", when = \"/pernet/broken\", action = { fail = 5 } }]");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "failed");
    let setup = m.ctl(["boot", "--netns", "blue"]);
    let hooks: Vec<_> =
        setup["hooks"].as_array().unwrap().iter().map(|h| (h["hook"].clone(), h["result"].clone())).collect();
    let word = |hook: &str, result: &str| (json!(hook), json!(result));
    let expected = [
        word("pernet.init", "ok"),
        word("pernet.init", "error"),
        word("pernet.pre_exit", "ok"),
        word("pernet.exit", "ok"),
        word("pernet.exit_batch", "ok"),
    ];
    assert_eq!((hooks, &setup["state"]), (expected.into(), &json!("failed")));
    assert!(setup["hooks"][1]["error"].as_str().unwrap().contains("as asked"), "{setup}");
    fs::remove_file(m.path("broken")).unwrap();
    m.ctl(["netns", "retry", "blue"]);
    let setup = m.ctl(["boot", "--netns", "blue"]);
    assert_eq!((&setup["state"], setup["hooks"].as_array().unwrap().len()), (&json!("live"), 2), "{setup}");
    m.stop();
}

fn ready(mut m: Machine) {
    netns_add("blue");
    m.probe(
        10,
        "a",
        "",
        "faults = [{ hook = \"pernet.init\", netns = \"blue\", action = { until = \"/pernet/go\" } }]",
    );
    m.spawn();
    wait_until("the init hangs", SOON, || m.trace().iter().any(|t| t == "a init blue"));
    let boot = m.ctl(["boot"]);
    assert_eq!((&boot["ready_us"], boot["initcalls"].as_array().unwrap().len()), (&Value::Null, 11), "{boot}");
    let answer = m.ask(["boot", "--netns", "blue"]);
    assert!(answer.code == 1 && answer.stderr.contains("its first setup is not over; wait for it with"), "{answer:?}");
    File::create(m.path("go")).unwrap();
    wait_until("it is ready", SOON, || m.ctl(["boot"])["ready_us"].is_u64());
    m.stop();
}

fn chart(mut m: Machine) {
    m.main("initcall_blacklist = [\"plugin.probe-b\"]");
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "");
    m.probe(30, "c", "requires = [\"probe-b\"]", "");
    m.probe(40, "d", "", FAILS);
    m.start();
    for name in ["<blue>", "a&b", "green"] {
        netns_add(name);
        m.wait_state(name, "live");
    }
    // What was there before is replaced, through a link, too.
    m.write("chart.svg", "old");
    std::os::unix::fs::symlink("chart.svg", m.path("link.svg")).unwrap();
    let done = m.pernetctl_for_people(["boot", "--svg", "/pernet/link.svg"]).output().unwrap();
    assert_eq!((done.status.code(), done.stdout, done.stderr), (Some(0), Vec::new(), Vec::new()));
    assert!(m.path("link.svg").is_symlink());
    let drawn = fs::read_to_string(m.path("chart.svg")).unwrap();
    let document = roxmltree::Document::parse(&drawn).unwrap();
    let texts: Vec<&str> =
        document.descendants().filter(|node| node.has_tag_name("text")).filter_map(|node| node.text()).collect();
    let boot = m.ctl(["boot"]);
    let names = boot["initcalls"].as_array().unwrap().iter().map(|call| &call["name"]);
    for name in names.chain(boot["setups"].as_array().unwrap().iter().map(|setup| &setup["netns"])) {
        assert!(texts.contains(&name.as_str().unwrap()), "{name}: {texts:?}");
    }
    for words in
        ["pernetd 0.1.0, started ", "ready after ", "blacklisted by initcall_blacklist, /pernet/pernetd.toml:3"]
    {
        assert!(texts.iter().any(|text| text.contains(words)), "{words}: {texts:?}");
    }
    for word in ["pure", "core", "subsys", "late", "slowest", "median", "failed", "not called: blacklisted"] {
        assert!(texts.contains(&word), "{word}: {texts:?}");
    }
    let bars = |class: &str| document.descendants().filter(|node| node.attribute("class") == Some(class)).count();
    assert!(
        bars("plugin") > 1 && bars("own") > 1 && bars("failed") > 1 && bars("blacklisted") > 1 && bars("refused") > 1
    );
    // With --json the document is printed as always.
    assert_eq!(m.ctl(["boot", "--svg", "/pernet/chart.svg"])["initcalls"], boot["initcalls"]);
    m.ctl(["boot", "--svg", "/pernet/one.svg", "--netns", "a&b"]);
    let one = fs::read_to_string(m.path("one.svg")).unwrap();
    assert!(one.contains("Last setup of a&amp;b: ") && !one.contains("&lt;blue&gt;"), "{one}");
    m.stop();
}

fn unwritable(mut m: Machine) {
    m.start();
    fs::create_dir(m.path("folder")).unwrap();
    m.write("folder/file", "kept");
    let left = || fs::read_dir(m.path("folder")).unwrap().count();
    for (file, reason) in [
        ("/pernet/folder", "it is no regular file"),
        ("/dev/null", "it is no regular file"),
        ("/pernet/nowhere/x.svg", "No such file or directory"),
        ("/pernet/folder/file/x.svg", "Not a directory"),
        ("/pernet/folder/..", "it is no regular file"),
    ] {
        let answer = m.ask(["boot", "--svg", file]);
        let said = format!("pernetctl: {file}: the chart cannot be written: {reason}");
        assert!(answer.code == 1 && answer.stderr.starts_with(&said), "{}", answer.stderr);
        assert!(answer.stderr.contains("; name a file in a folder that you may write to"), "{}", answer.stderr);
    }
    assert_eq!((left(), fs::read_to_string(m.path("folder/file")).unwrap()), (1, "kept".to_owned()));
    // A folder that takes no file, even of root.
    let answer = m.ask(["boot", "--svg", "/proc/sys/x.svg"]);
    assert!(answer.code == 1 && answer.stderr.contains("the chart cannot be written"), "{}", answer.stderr);
    m.stop();
}
