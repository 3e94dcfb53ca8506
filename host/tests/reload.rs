//! Reloads: what changes, what sees nothing of it, and that a reload that fails leaves everything as it was.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ExitCode, Stdio};

use machine::{Machine, SOON, both, of, one, plugin_file, probe_file};
use rustix::process::Signal;
use sandbox::{netns_add, netns_del, wait_until};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let trials = [
        one("added, removed, changed and kept plugins", all_kinds),
        one("a changed file is loaded, the old code is retired", changed_file),
        one("a broken file changes nothing", broken_files),
        one("a wrong configuration changes nothing and names its place", wrong_configuration),
        one("a commit that fails in a namespace brings the old generation back", failing_commit),
        one("a reload that failed fails again as a whole", fails_again),
        one("a commit that fails in the plugin's own init brings the old generation back", failing_plugin_init),
        one("an old generation that cannot come back is failed with both errors", cannot_come_back),
        one("what requires a changed plugin exits before it and inits after it", dependents),
        one("a cycle and a missing requirement change nothing", impossible_order),
        one("a plugin refused at the start leaves the rest running", refused_at_start),
        one("a wrong configuration ends the start", bad_start),
        one("a failed plugin is tried again by a reload", failed_is_retried),
        one("a plugin that panics in a namespace exits once everywhere", panic_in_init),
        one("a plugin that panics in its exit ends like any other", panic_in_exit),
        one("SIGHUPs during a reload cause exactly one more", one_more),
        one("what stepped aside and cannot come back is failed, once", cannot_step_back),
        one("what only a start can change stays, and is said to", start_only),
        both("a namespace added during a slow reload is set up after it", added_meanwhile),
        both("a namespace deleted during a slow reload exits after it", deleted_meanwhile),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

/// The actions of a reload, in the order of its answer.
fn actions(reload: &Value) -> Vec<(&str, &str)> {
    let rows = reload["plugins"].as_array().unwrap();
    rows.iter().map(|p| (p["name"].as_str().unwrap(), p["action"].as_str().unwrap())).collect()
}

/// Namespaces in this order, which is then the order of their creation.
fn add(m: &Machine, names: &[&str]) {
    for name in names {
        netns_add(name);
        m.wait_state(name, "live");
    }
}

/// Everything that must be as it was: who runs, in which order and generation, and where.
fn standing(m: &Machine) -> (Value, Value, Value) {
    let plugins = m.ctl(["plugin", "list"]);
    let live = plugins.as_array().unwrap().iter().filter(|p| p["state"] == "live");
    let live: Vec<_> = live.map(|p| json!([p["name"], p["generation"], p["order"], p["namespaces"]])).collect();
    (json!(live), m.ctl(["netns", "list"]), m.status()["generation"].clone())
}

fn all_kinds(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "label = \"old\"");
    m.probe(30, "c", "", "");
    m.probe(40, "d", "", "");
    m.start();
    add(&m, &["blue", "green"]);
    m.forget();
    m.probe(15, "e", "", "");
    m.probe(20, "b", "", "label = \"new\"");
    m.no_probe(30, "c");
    m.write(&probe_file(40, "d"), &format!("enabled = false\n[config]\nrecord = \"{}\"\n", machine::CALLS));
    let reload = m.ctl(["reload"]);
    let expected = [
        ("probe-a", "kept"),
        ("probe-e", "added"),
        ("probe-b", "replaced"),
        ("probe-c", "removed"),
        ("probe-d", "removed"),
    ];
    assert_eq!((&reload["ok"], &reload["generation"]), (&true.into(), &2.into()));
    assert_eq!(actions(&reload), expected);
    let blue = [
        "d pre_exit Removed",
        "d exit Removed",
        "d free",
        "c pre_exit Removed",
        "c exit Removed",
        "c free",
        "b pre_exit Replaced",
        "b exit Replaced",
        "b free",
        "e init",
        "b init",
    ];
    assert_eq!(of(&m.calls(), "blue"), blue);
    assert_eq!(of(&m.calls(), "green"), blue);
    let labels: Vec<_> = m.calls().into_iter().filter(|c| c.plugin == "probe-b").map(|c| c.label).collect();
    assert!(labels.is_sorted_by(|a, b| a == b || (a == "old" && b == "new")), "{labels:?}");
    let order = json!(["probe-a", "probe-e", "probe-b"]);
    assert_eq!(m.netns("blue")["subsystems"], order, "each in its place");
    let last = m.status()["last_reload"].clone();
    assert_eq!((&last["ok"], &last["error"]), (&true.into(), &Value::Null));

    // Nothing has changed now.
    m.forget();
    let last = m.hup();
    assert_eq!(last["ok"], true);
    assert_eq!(m.trace(), [""; 0]);
    let reload = m.ctl(["reload"]);
    assert_eq!(actions(&reload), [("probe-a", "kept"), ("probe-e", "kept"), ("probe-b", "kept")]);
    // A new place alone is no change of the plugin.
    fs::rename(m.path(&probe_file(10, "a")), m.path(&probe_file(50, "a"))).unwrap();
    assert_eq!(actions(&m.ctl(["reload"])), [("probe-e", "kept"), ("probe-b", "kept"), ("probe-a", "kept")]);
    assert_eq!(m.trace(), [""; 0]);
    netns_del("blue");
    m.wait_gone("blue");
    let exits: Vec<_> = m.trace().into_iter().filter(|t| t.contains(" exit ")).collect();
    assert_eq!(exits, ["a exit blue Died", "b exit blue Died", "e exit blue Died"], "by the new order");
    m.stop();
}

fn changed_file(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "");
    m.start();
    add(&m, &["blue"]);
    let before = m.plugin("a");
    m.forget();
    m.install("probe_a_v2", "a");
    assert_eq!(actions(&m.ctl(["reload"])), [("probe-a", "replaced"), ("probe-b", "kept")]);
    let builds: Vec<_> = m.calls().into_iter().map(|c| (c.trace(), c.build)).collect();
    let expected = [
        ("a pre_exit blue Replaced", 1),
        ("a exit blue Replaced", 1),
        ("a exit_batch blue Replaced", 1),
        ("a free blue", 1),
        ("a plugin.drop", 1),
        ("a plugin.init", 2),
        ("a init blue", 2),
    ];
    assert_eq!(builds, expected.map(|(trace, build)| (trace.to_owned(), build)));
    assert_eq!(m.status()["retired_generations"], 1);
    let all = m.ctl(["plugin", "list"]);
    let states: Vec<_> = all.as_array().unwrap().iter().map(|p| (&p["name"], &p["state"])).collect();
    let (a, b) = (json!("probe-a"), json!("probe-b"));
    assert_eq!(states, [(&a, &json!("live")), (&b, &json!("live")), (&a, &json!("retired"))]);
    assert_eq!(all[2]["sha256"], before["sha256"]);
    assert_ne!(all[0]["sha256"], before["sha256"]);

    // Back to the first content: its code is still mapped, and in use again.
    fs::remove_file(plugin_file("a")).unwrap();
    m.install("probe_a", "a");
    m.forget();
    assert_eq!(m.reload().code, 0);
    let last = m.calls().pop().unwrap();
    assert_eq!((last.trace().as_str(), last.build, last.instance), ("a init blue", 1, 2), "a fresh instance");
    assert_eq!(m.plugin("a")["sha256"], before["sha256"]);
    m.stop();
}

fn broken_files(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "");
    m.start();
    add(&m, &["blue"]);
    let before = standing(&m);
    m.forget();
    let whole = fs::read(plugin_file("b")).unwrap();
    let truncated = &whole[..whole.len() / 2];
    let breakages: [(&str, &dyn Fn()); 5] = [
        ("truncated", &|| fs::write(m.path("new"), truncated).unwrap()),
        ("no ELF", &|| fs::write(m.path("new"), "#!/bin/sh\n").unwrap()),
        ("another plugin", &|| fs::write(m.path("new"), fs::read(plugin_file("a")).unwrap()).unwrap()),
        ("writable by others", &|| {
            fs::write(m.path("new"), &whole).unwrap();
            fs::set_permissions(m.path("new"), fs::Permissions::from_mode(0o777)).unwrap();
        }),
        ("not there", &|| fs::write(m.path("new"), "").unwrap()),
    ];
    for (what, breakage) in breakages {
        let _ = fs::remove_file(m.path("new"));
        breakage();
        fs::rename(m.path("new"), plugin_file("b")).unwrap();
        if what == "not there" {
            fs::remove_file(plugin_file("b")).unwrap();
        }
        // Something else has changed, too, and must not happen alone.
        m.probe(10, "a", "", "label = \"new\"");
        let answer = m.reload();
        assert_eq!(answer.code, 1, "{what}: {answer:?}");
        assert_eq!(answer.json["ok"], false, "{what}");
        assert_eq!(actions(&answer.json), [("probe-b", "failed")], "{what}");
        assert!(answer.stderr.lines().count() == 1 && answer.stderr.contains("probe_b"), "{what}: {}", answer.stderr);
        let last = m.hup();
        assert_eq!(last["ok"], false, "{what}");
        assert!(last["error"].as_str().unwrap().contains("libpernet_probe_b.so"), "{what}: {last}");
        assert_eq!(standing(&m), before, "{what}");
        assert_eq!(m.check().0, 1, "{what}");
        assert_eq!(m.trace(), [""; 0], "{what}");
    }
    // What runs, runs from what was loaded.
    add(&m, &["green"]);
    assert_eq!(of(&m.calls(), "green"), ["a init", "b init"]);
    m.stop();
}

fn wrong_configuration(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "");
    m.start();
    add(&m, &["blue"]);
    let before = standing(&m);
    m.forget();
    let calls = machine::CALLS;
    let mistakes = [
        ("enabled = true\nnamespaces = { include = [\"*\" }\n".to_owned(), ":2:31"),
        ("enabled = true\n\n  colour = \"red\"\n".to_owned(), ":3:3"),
        ("enabled = \"yes\"\n".to_owned(), ":1:11"),
        ("namespaces = { include = [\"a[\"] }\n".to_owned(), ":1:"),
        (format!("[config]\nrecord = \"{calls}\"\n  nonsense = 1\n"), ":3:3"),
        (format!("[config]\nrecord = \"{calls}\"\nrefuse = \"because\"\n"), ":3:1"),
    ];
    for (text, place) in mistakes {
        m.write(&probe_file(20, "b"), &text);
        m.probe(10, "a", "", "label = \"new\"");
        let place = format!("/pernet/plugins.d/20-probe-b.toml{place}");
        let answer = m.reload();
        assert_eq!(answer.code, 1, "{text}");
        assert!(answer.stderr.contains(&place), "{text}: {}", answer.stderr);
        assert_eq!(answer.stderr.lines().count(), 1, "{}", answer.stderr);
        let last = m.hup();
        assert_eq!(last["ok"], false);
        assert!(last["error"].as_str().unwrap().contains(&place), "{text}: {last}");
        let (code, said) = m.check();
        assert!(code == 1 && said.contains(&place), "{text}: {said}");
        assert_eq!(standing(&m), before, "{text}");
        assert_eq!(m.trace(), [""; 0], "{text}");
    }
    // Two files for one plugin.
    m.probe(20, "b", "", "");
    m.probe(25, "b", "", "");
    let answer = m.reload();
    assert!(answer.code == 1 && answer.stderr.contains("25-probe-b.toml"), "{}", answer.stderr);
    assert_eq!(standing(&m), before);
    m.stop();
}

fn failing_commit(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "label = \"old\"");
    m.probe(30, "c", "", "");
    m.start();
    add(&m, &["blue", "green", "red"]);
    let (_, nets, generation) = standing(&m);
    let old = m.plugin("b");
    m.forget();
    let fault = "faults = [{ hook = \"pernet.init\", netns = \"green\", action = { fail = 22 } }]";
    m.probe(20, "b", "", &format!("label = \"new\"\n{fault}"));
    m.probe(15, "e", "", "");
    let answer = m.reload();
    assert_eq!((answer.code, &answer.json["ok"]), (1, &false.into()), "{}", answer.stderr);
    assert!(answer.stderr.contains("as asked, in pernet.init of green"), "{}", answer.stderr);
    let calls: Vec<_> = m.calls().into_iter().filter(|c| c.plugin == "probe-b").collect();
    let story: Vec<_> = calls.iter().map(|c| format!("{} {}: {}", c.label, c.instance, c.trace())).collect();
    let mut expected = Vec::new();
    for (hook, reason) in [("pre_exit", " Replaced"), ("exit", " Replaced"), ("free", "")] {
        expected.extend(["blue", "green", "red"].map(|n| format!("old 1: b {hook} {n}{reason}")));
        if hook == "exit" {
            expected.push("old 1: b exit_batch blue,green,red Replaced".into());
        }
    }
    expected.extend(["old 1: b plugin.drop", "new 2: b plugin.init", "new 2: b init blue"].map(String::from));
    expected.extend(["new 2: b init green", "new 2: b pre_exit blue RolledBack"].map(String::from));
    expected.extend(["new 2: b exit blue RolledBack", "new 2: b exit_batch blue RolledBack"].map(String::from));
    expected.extend(["new 2: b free blue", "new 2: b plugin.drop", "old 3: b plugin.init"].map(String::from));
    expected.extend(["blue", "green", "red"].map(|n| format!("old 3: b init {n}")));
    assert_eq!(story, expected);
    let untouched: Vec<_> = m.trace().into_iter().filter(|t| t.starts_with("a ") || t.starts_with("c ")).collect();
    assert_eq!(untouched, [""; 0], "unchanged plugins see nothing");
    // What was added before the failure has gone again.
    let added = m.trace().into_iter().filter(|t| t.starts_with("e ") && t.contains("exit blue"));
    assert_eq!(added.collect::<Vec<_>>(), ["e pre_exit blue RolledBack", "e exit blue RolledBack"]);
    let (_, nets_now, generation_now) = standing(&m);
    assert_eq!((nets_now, generation_now), (nets, generation));
    let names: Vec<_> =
        m.ctl(["plugin", "list"]).as_array().unwrap().iter().map(|p| json!([p["name"], p["state"]])).collect();
    let set = [json!(["probe-a", "live"]), json!(["probe-b", "live"]), json!(["probe-c", "live"])];
    assert_eq!(names[..3], set, "the order is kept");
    assert_eq!(m.plugin("b")["sha256"], old["sha256"]);
    add(&m, &["late"]);
    assert_eq!(of(&m.calls(), "late"), ["a init", "b init", "c init"]);
    m.stop();
}

fn fails_again(mut m: Machine) {
    m.probe(10, "a", "", "label = \"old\"");
    m.start();
    add(&m, &["blue"]);
    let before = standing(&m);
    m.probe(10, "a", "", "label = \"new\"");
    m.probe(20, "b", "", "faults = [{ hook = \"pernet.init\", action = { fail = 5 } }]");
    for round in 1..=3 {
        let answer = m.reload();
        assert_eq!((answer.code, &answer.json["ok"]), (1, &false.into()), "round {round}");
        let (plugins, nets, generation) = standing(&m);
        assert_eq!((&nets, &generation), (&before.1, &before.2), "round {round}");
        assert_eq!(plugins.as_array().unwrap().len(), 1, "round {round}");
        assert_eq!(m.calls().last().unwrap().label, "old", "round {round}");
        assert_eq!(m.plugin("b")["state"], "failed", "round {round}");
    }
    m.no_probe(20, "b");
    assert_eq!(m.reload().code, 0);
    assert_eq!(m.plugin("b")["state"], "retired", "only its code is left");
    m.stop();
}

fn failing_plugin_init(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "label = \"old\"");
    m.start();
    add(&m, &["blue"]);
    for (hook, action) in [("init", "{ fail = 22 }"), ("init", "\"panic\""), ("pernet.init", "\"panic\"")] {
        m.forget();
        let fault = format!("faults = [{{ hook = \"{hook}\", action = {action} }}]");
        m.probe(20, "b", "", &format!("label = \"new\"\n{fault}"));
        let answer = m.reload();
        assert_eq!(answer.code, 1, "{hook} {action}");
        assert!(answer.stderr.contains(&format!("as asked, in {hook}")), "{}", answer.stderr);
        let last = m.calls().pop().unwrap();
        assert_eq!((last.trace().as_str(), last.label.as_str()), ("b init blue", "old"), "{hook} {action}");
        assert_eq!(m.plugin("b")["state"], "live", "{hook} {action}");
        assert_eq!(m.netns("blue")["state"], "live");
        assert_eq!(m.netns("blue")["subsystems"], json!(["probe-a", "probe-b"]));
    }
    m.stop();
}

fn cannot_come_back(mut m: Machine) {
    let broken = "faults = [{ hook = \"pernet.init\", when = \"/pernet/broken\", action = { fail = 5 } }]";
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", &format!("label = \"old\"\n{broken}"));
    m.probe(30, "c", "", "");
    m.start();
    add(&m, &["blue"]);
    m.forget();
    File::create(m.path("broken")).unwrap();
    m.probe(20, "b", "", "faults = [{ hook = \"init\", action = { fail = 22 } }]");
    let answer = m.reload();
    assert_eq!(answer.code, 1);
    let row = m.plugin("b");
    assert_eq!(row["state"], "failed");
    let message = row["error"]["message"].as_str().unwrap();
    assert!(message.contains("in init of") && message.contains("in pernet.init of blue"), "both errors: {message}");
    assert_eq!(m.netns("blue")["subsystems"], json!(["probe-a", "probe-c"]));
    assert!(m.trace().iter().all(|t| t.starts_with("b ")), "the others are untouched");
    fs::remove_file(m.path("broken")).unwrap();
    m.probe(20, "b", "", "");
    assert_eq!(m.reload().code, 0);
    assert_eq!(m.netns("blue")["subsystems"], json!(["probe-a", "probe-b", "probe-c"]));
    m.stop();
}

fn dependents(mut m: Machine) {
    m.probe(10, "a", "", "label = \"old\"");
    m.probe(20, "b", "", "");
    m.probe(30, "c", "requires = [\"probe-a\"]", "");
    m.probe(40, "d", "requires = [\"probe-c\"]", "");
    m.start();
    add(&m, &["blue"]);
    m.forget();
    m.probe(10, "a", "", "label = \"new\"");
    let reload = m.ctl(["reload"]);
    assert_eq!(actions(&reload)[0], ("probe-a", "replaced"));
    assert_eq!(actions(&reload)[1..], [("probe-b", "kept"), ("probe-c", "kept"), ("probe-d", "kept")]);
    let kinds = ["pernet.init", "pernet.exit", "init", "drop"];
    let calls: Vec<_> = m.calls().into_iter().filter(|c| kinds.contains(&&*c.hook)).collect();
    let story = [
        "d exit blue Replaced",
        "c exit blue Replaced",
        "a exit blue Replaced",
        "a plugin.drop",
        "a plugin.init",
        "a init blue",
        "c init blue",
        "d init blue",
    ];
    assert_eq!(machine::traces(&calls), story, "b is in nobody's way");
    m.stop();
}

fn cannot_step_back(mut m: Machine) {
    let broken = "faults = [{ hook = \"pernet.init\", when = \"/pernet/broken\", action = { fail = 5 } }]";
    m.probe(10, "a", "", "label = \"old\"");
    m.probe(20, "b", "", "");
    m.probe(30, "c", "requires = [\"probe-a\"]", broken);
    m.start();
    add(&m, &["blue"]);
    m.forget();
    File::create(m.path("broken")).unwrap();
    m.probe(10, "a", "", "label = \"new\"");
    let answer = m.reload();
    assert_eq!((answer.code, &answer.json["ok"]), (1, &false.into()), "{}", answer.stderr);
    let all = m.ctl(["plugin", "list"]);
    let rows = all.as_array().unwrap().iter().filter(|p| p["state"] != "retired");
    let states: Vec<_> = rows.map(|p| json!([p["name"], p["state"]])).collect();
    let expected = [["probe-a", "live"], ["probe-b", "live"], ["probe-c", "failed"]];
    assert_eq!(states, expected.map(|row| json!(row)), "each once");
    assert_eq!(m.netns("blue")["subsystems"], json!(["probe-a", "probe-b"]));
    let drops = m.trace().into_iter().filter(|t| t == "c plugin.drop").count();
    assert_eq!(drops, 2, "the one that stepped aside, and the fresh one that came in its place");
    fs::remove_file(m.path("broken")).unwrap();
    assert_eq!(m.reload().code, 0);
    assert_eq!(m.netns("blue")["subsystems"], json!(["probe-a", "probe-b", "probe-c"]));
    m.stop();
}

fn start_only(mut m: Machine) {
    m.start();
    let folders = m.status()["folders"].clone();
    let main = fs::read_to_string(m.path("pernetd.toml")).unwrap();
    let more = "\nworkers = 7\nnetlink.receive_buffer = 8192\n";
    m.write("pernetd.toml", &(main.replace("discovery.folders = [", "discovery.folders = [\"/run/other\", ") + more));
    assert_eq!(m.reload().code, 0);
    for key in ["discovery.*", "netlink.receive_buffer"] {
        assert!(m.log().contains(&format!("{key} has changed")), "{}", m.log());
    }
    assert!(!m.log().contains("workers has changed"), "that is carried out: {}", m.log());
    assert_eq!(m.status()["folders"], folders, "those that are looked at");
    m.stop();
}

fn impossible_order(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "requires = [\"probe-a\"]", "");
    m.start();
    add(&m, &["blue"]);
    let before = standing(&m);
    m.forget();
    m.probe(10, "a", "after = [\"probe-b\"]", "");
    let answer = m.reload();
    assert!(answer.code == 1 && answer.stderr.contains("probe-a") && answer.stderr.contains("probe-b"), "{answer:?}");
    assert!(answer.stderr.contains("/pernet/plugins.d/"), "{}", answer.stderr);
    m.no_probe(10, "a");
    let answer = m.reload();
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("20-probe-b.toml:1:1") && answer.stderr.contains("probe-a"), "{}", answer.stderr);
    assert_eq!(standing(&m), before);
    assert_eq!(m.trace(), [""; 0]);
    m.stop();
}

fn refused_at_start(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "");
    m.probe(30, "c", "requires = [\"probe-b\"]", "");
    m.probe(40, "d", "", "refuse = \"not like this\"");
    m.probe(50, "e", "", "faults = [{ hook = \"init\", action = \"panic\" }]");
    fs::write(plugin_file("b"), "no plugin").unwrap();
    assert_eq!(m.check().0, 1);
    m.start();
    let states: Vec<_> = ["a", "b", "c", "d", "e"].map(|p| m.plugin(p)["state"].clone()).into();
    assert_eq!(states, ["live", "refused", "refused", "refused", "failed"]);
    assert_eq!(m.status()["plugins"], json!({ "live": 1, "failed": 1, "refused": 3 }));
    let why = |plugin: &str| m.plugin(plugin)["error"]["message"].as_str().unwrap().to_owned();
    assert!(why("b").contains("/plugins/libpernet_probe_b.so"), "{}", why("b"));
    assert!(why("d").contains("40-probe-d.toml:4:1") && why("d").contains("not like this"), "{}", why("d"));
    assert!(why("e").contains("as asked, in init"), "{}", why("e"));
    add(&m, &["blue"]);
    assert_eq!(of(&m.calls(), "blue"), ["a init"]);
    fs::remove_file(plugin_file("b")).unwrap();
    m.install("probe_b", "b");
    m.probe(40, "d", "", "");
    m.probe(50, "e", "", "");
    assert_eq!(m.reload().code, 0);
    let all = json!(["probe-a", "probe-b", "probe-c", "probe-d", "probe-e"]);
    assert_eq!(m.netns("blue")["subsystems"], all);
    m.stop();
}

fn bad_start(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "late", "", "");
    let mistakes = [
        ("plugins.d/10-probe-a.toml", "colour = \"red\"\n", ":1:1"),
        ("pernetd.toml", "\n[log]\nlevle = \"info\"\n", ":3:1"),
        ("plugins.d/10-probe-a.toml", "requires = [\"nobody\"]\n[config]\nrecord = \"/pernet/calls\"\n", ":1:1"),
        ("plugins.d/10-probe-a.toml", "\n\n after = [\"probe-late\"]\n[config]\nrecord = \"/pernet/calls\"\n", ":3:2"),
    ];
    for (file, text, place) in mistakes {
        let right = fs::read_to_string(m.path(file)).unwrap();
        m.write(file, text);
        let (code, said) = m.check();
        assert!(code == 1 && said.contains(&format!("/pernet/{file}{place}")), "{said}");
        m.spawn();
        assert_eq!(m.end().code(), Some(78));
        assert!(m.log().contains(&said), "the same as --check says: {}", m.log());
        m.write(file, &right);
    }
    assert_eq!(m.check(), (0, String::new()));
    m.start();
    m.stop();
}

fn failed_is_retried(mut m: Machine) {
    File::create(m.path("broken")).unwrap();
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "faults = [{ hook = \"init\", when = \"/pernet/broken\", action = { fail = 5 } }]");
    m.probe(30, "c", "requires = [\"probe-b\"]", "");
    m.start();
    add(&m, &["blue"]);
    let state = |plugin: &str| m.plugin(plugin)["state"].clone();
    assert_eq!(["a", "b", "c"].map(state), ["live", "failed", "failed"]);
    // Still broken: it holds nobody else up.
    m.probe(40, "d", "", "");
    let reload = m.ctl(["reload"]);
    assert_eq!(actions(&reload)[1], ("probe-b", "failed"));
    assert_eq!(["a", "b", "c", "d"].map(state), ["live", "failed", "failed", "live"]);
    m.forget();
    fs::remove_file(m.path("broken")).unwrap();
    assert_eq!(m.reload().code, 0);
    assert_eq!(["a", "b", "c", "d"].map(state), ["live"; 4]);
    assert_eq!(of(&m.calls(), "blue"), ["b init", "c init"]);
    m.stop();
}

fn panic_in_init(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "faults = [{ hook = \"pernet.init\", netns = \"bad\", action = \"panic\" }]");
    m.probe(30, "c", "requires = [\"probe-b\"]", "");
    m.probe(40, "d", "", "");
    m.start();
    add(&m, &["blue", "green"]);
    m.forget();
    netns_add("bad");
    wait_until("it is failed", SOON, || m.plugin("b")["state"] == "failed");
    m.wait_state("bad", "live");
    assert_eq!(m.plugin("c")["state"], "failed", "with what requires it");
    for name in ["blue", "green"] {
        let exits = ["c pre_exit", "c exit", "c free", "b pre_exit", "b exit", "b free"];
        let calls: Vec<_> = of(&m.calls(), name).iter().map(|t| t.replace(" Removed", "")).collect();
        assert_eq!(calls, exits, "{name}");
    }
    let bad: Vec<_> = of(&m.calls(), "bad").into_iter().filter(|t| !t.contains("init")).collect();
    assert_eq!(bad, [""; 0], "no exit where no init succeeded");
    for name in ["blue", "green", "bad"] {
        assert_eq!(m.netns(name)["subsystems"], json!(["probe-a", "probe-d"]));
    }
    m.forget();
    add(&m, &["late"]);
    assert_eq!(of(&m.calls(), "late"), ["a init", "d init"], "setups go on without it");
    assert!(m.plugin("b")["error"]["message"].as_str().unwrap().contains("as asked"));
    netns_del("bad");
    m.wait_gone("bad");
    // A reload makes a fresh instance.
    m.forget();
    assert_eq!(m.reload().code, 0);
    assert_eq!(of(&m.calls(), "late"), ["b init", "c init"]);
    assert_eq!(m.calls()[0].instance, 2);
    m.stop();
}

fn panic_in_exit(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "faults = [{ hook = \"pernet.exit\", netns = \"bad\", action = \"panic\" }]");
    m.start();
    add(&m, &["blue", "bad"]);
    m.forget();
    netns_del("bad");
    m.wait_gone("bad");
    wait_until("it is failed", SOON, || m.plugin("b")["state"] == "failed");
    let exits = |m: &Machine, netns: &str| -> Vec<String> {
        of(&m.calls(), netns).into_iter().filter(|t| t.contains(" exit ")).collect()
    };
    assert_eq!(exits(&m, "bad"), ["b exit Died", "a exit Died"], "once, and the others' too");
    assert_eq!(exits(&m, "blue"), ["b exit Removed"]);
    assert_eq!(m.netns("blue")["state"], "live");
    m.stop();
    assert_eq!(exits(&m, "blue"), ["b exit Removed", "a exit Stopped"], "each once");
}

/// `pernetctl reload` in the background.
fn begin_reload(m: &Machine) -> Child {
    m.pernetctl(["reload"]).stdout(Stdio::piped()).spawn().unwrap()
}

fn end_reload(reload: Child) -> Value {
    let output = reload.wait_with_output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// How often the thread that listens to signals has gone to sleep again.
fn signals_heard(m: &Machine) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", m.pid().as_raw_pid())).unwrap();
    let mut status = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default());
    let status = status.find(|s| s.starts_with("Name:\tsignals\n")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

fn one_more(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    m.probe(20, "b", "", "faults = [{ hook = \"init\", action = { until = \"/pernet/go\" } }]");
    let first = begin_reload(&m);
    m.wait_call("b plugin.init");
    assert_eq!(m.status()["state"], "reloading");
    for _ in 0..5 {
        let heard = signals_heard(&m);
        m.signal(Signal::HUP);
        wait_until("the signal is heard", SOON, || signals_heard(&m) > heard);
    }
    // What changes meanwhile is in the one that follows.
    m.probe(30, "c", "", "");
    let second = begin_reload(&m);
    // The loop has taken both, and everything before them, when it answers this.
    wait_until("the client waits", SOON, || waits_for_an_answer(&second));
    m.status();
    File::create(m.path("go")).unwrap();
    assert_eq!(end_reload(first)["generation"], 2);
    let second = end_reload(second);
    assert_eq!(second["generation"], 3);
    assert_eq!(actions(&second), [("probe-a", "kept"), ("probe-b", "kept"), ("probe-c", "added")]);
    assert_eq!(m.ctl(["reload"])["generation"], 4, "there was exactly one more");
    m.stop();
}

/// A client that sleeps has sent what it wants.
fn waits_for_an_answer(client: &Child) -> bool {
    let wchan = fs::read_to_string(format!("/proc/{}/syscall", client.id())).unwrap_or_default();
    // recvmsg, recvfrom or read: by now there is nothing else that it waits for.
    ["47 ", "45 ", "0 "].iter().any(|number| wchan.starts_with(number))
}

fn added_meanwhile(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    add(&m, &["blue"]);
    m.probe(
        20,
        "b",
        "",
        "faults = [{ hook = \"pernet.init\", netns = \"blue\", action = { until = \"/pernet/go\" } }]",
    );
    m.forget();
    let reload = begin_reload(&m);
    m.wait_call("b init blue");
    netns_add("green");
    m.wait_state("green", "setup");
    assert_eq!(of(&m.calls(), "green"), [""; 0], "the list is being changed");
    File::create(m.path("go")).unwrap();
    assert_eq!(end_reload(reload)["ok"], true);
    m.wait_state("green", "live");
    assert_eq!(of(&m.calls(), "green"), ["a init", "b init"]);
    assert!(m.status()["last_reload"]["pause_us"].as_u64().unwrap() > 0);
    m.stop();
}

fn deleted_meanwhile(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    add(&m, &["blue", "green"]);
    m.probe(
        20,
        "b",
        "",
        "faults = [{ hook = \"pernet.init\", netns = \"blue\", action = { until = \"/pernet/go\" } }]",
    );
    m.forget();
    let reload = begin_reload(&m);
    m.wait_call("b init blue");
    netns_del("green");
    m.wait_state("green", "dying");
    File::create(m.path("go")).unwrap();
    assert_eq!(end_reload(reload)["ok"], true);
    m.wait_gone("green");
    let exits: Vec<_> = of(&m.calls(), "green").into_iter().filter(|t| t.contains(" exit ")).collect();
    let inits = of(&m.calls(), "green").iter().filter(|t| *t == "b init").count();
    let expected: &[&str] = if inits == 1 { &["b exit Died", "a exit Died"] } else { &["a exit Died"] };
    assert_eq!(exits, expected);
    m.stop();
}
