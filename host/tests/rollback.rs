//! An init that fails, at each position of a grid of five plugins and five namespaces: what is undone, and what is not
//! touched.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::fs::{self, File};
use std::process::ExitCode;
use std::time::Instant;

use machine::{Call, Machine, of, one, traces};
use sandbox::{netns_add, netns_del, wait_until};

const PLUGINS: [&str; 5] = ["a", "b", "c", "d", "e"];
const NAMESPACES: [&str; 5] = ["n0", "n1", "n2", "n3", "n4"];

fn main() -> ExitCode {
    let trials = [
        one("during a setup, the namespace is rolled back and failed, and retried", setups),
        one("during a setup, with skip the plugin is absent and the namespace degraded", skipped_setups),
        one("while a plugin is added, it is undone everywhere", additions),
        one("while a plugin is added with skip, it is absent where it failed", skipped_additions),
        one("a failed namespace is tried again by itself", retried),
        one("a namespace that a new name left degraded is tried again", degraded_by_name),
        one("a failed pernet device undoes the subsystems and the devices", device_fails),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

/// While this file is there, the plugin's init fails in the namespace.
fn cause(plugin: usize, namespace: usize) -> String {
    format!("/pernet/fail-{plugin}-{namespace}")
}

/// The probe's configuration: it fails where its cause is.
fn fails_with_cause(plugin: usize) -> String {
    let fault = |n: usize| {
        let (netns, when) = (NAMESPACES[n], cause(plugin, n));
        format!("{{ hook = \"pernet.init\", netns = \"{netns}\", when = \"{when}\", action = {{ fail = 16 }} }}")
    };
    format!("faults = [{}]", (0..5).map(fault).collect::<Vec<_>>().join(", "))
}

fn probe(m: &Machine, plugin: usize, keys: &str) {
    m.probe(u32::try_from(plugin).unwrap(), PLUGINS[plugin], keys, &fails_with_cause(plugin));
}

/// All plugins running, in all namespaces.
fn grid(m: &mut Machine, keys: &str) {
    (0..5).for_each(|plugin| probe(m, plugin, keys));
    m.start();
    add_all(m);
}

/// In this order, which is then the order of their creation.
fn add_all(m: &Machine) {
    for name in NAMESPACES {
        netns_add(name);
        m.wait_state(name, "live");
    }
}

/// What follows when these plugins, in list order, are undone in one namespace.
fn undone(plugins: &[&str], reason: &str) -> Vec<String> {
    let each = |hooks: &[&str]| -> Vec<String> {
        plugins.iter().rev().flat_map(|p| hooks.iter().map(move |hook| format!("{p} {hook}"))).collect()
    };
    let (pre, exit) = (format!("pre_exit {reason}"), format!("exit {reason}"));
    [each(&[&pre]), each(&[&exit, &format!("exit_batch {reason}")]), each(&["free"])].concat()
}

fn inits(plugins: &[&str]) -> Vec<String> {
    plugins.iter().map(|p| format!("{p} init")).collect()
}

fn assert_others_untouched(calls: &[Call], namespace: usize) {
    let others: Vec<_> = calls.iter().filter(|c| c.netns != NAMESPACES[namespace]).cloned().collect();
    assert_eq!(traces(&others), [""; 0]);
}

fn setups(mut m: Machine) {
    grid(&mut m, "");
    for plugin in 0..5 {
        for (namespace, name) in NAMESPACES.into_iter().enumerate() {
            netns_del(name);
            m.wait_gone(name);
            m.forget();
            File::create(cause(plugin, namespace)).unwrap();
            netns_add(name);
            m.wait_state(name, "failed");
            let calls = m.calls();
            let first = [inits(&PLUGINS[..=plugin]), undone(&PLUGINS[..plugin], "RolledBack")].concat();
            assert_eq!(of(&calls, name)[..first.len()], first, "plugin {plugin} fails in {name}");
            assert_others_untouched(&calls, namespace);
            let row = m.netns(name);
            assert_eq!(row["subsystems"], serde_json::json!([]));
            assert_eq!(row["error"]["plugin"], format!("probe-{}", PLUGINS[plugin]));
            assert_eq!(row["error"]["hook"], "pernet.init");
            let message = row["error"]["message"].as_str().unwrap();
            assert!(message.contains("as asked"), "{message}");

            fs::remove_file(cause(plugin, namespace)).unwrap();
            m.forget();
            assert_eq!(m.ctl(["netns", "retry", name])["state"], "live");
            let calls = of(&m.calls(), name);
            // The first retry of its own may just have been under way, and have failed.
            assert_eq!(calls[calls.len() - 5..], inits(&PLUGINS), "{calls:#?}");
            assert_others_untouched(&m.calls(), namespace);
        }
    }
    assert_eq!(m.status()["namespaces"]["live"], 6);
    m.stop();
}

fn skipped_setups(mut m: Machine) {
    grid(&mut m, "on_init_failure = \"skip\"");
    for (plugin, letter) in PLUGINS.into_iter().enumerate() {
        for (namespace, name) in NAMESPACES.into_iter().enumerate() {
            netns_del(name);
            m.wait_gone(name);
            m.forget();
            File::create(cause(plugin, namespace)).unwrap();
            netns_add(name);
            m.wait_state(name, "degraded");
            assert_eq!(of(&m.calls(), name)[..5], inits(&PLUGINS), "plugin {plugin} fails in {name}");
            assert_others_untouched(&m.calls(), namespace);
            let row = m.netns(name);
            let here: Vec<_> = (0..5).filter(|p| *p != plugin).map(|p| format!("probe-{}", PLUGINS[p])).collect();
            assert_eq!(row["subsystems"], serde_json::json!(here));
            assert_eq!(row["error"]["plugin"], format!("probe-{letter}"));

            fs::remove_file(cause(plugin, namespace)).unwrap();
            m.forget();
            let row = m.ctl(["netns", "retry", name]);
            assert_eq!((&row["state"], &row["error"]), (&"live".into(), &serde_json::Value::Null));
            let others = of(&m.calls(), name).into_iter().filter(|t| *t != format!("{letter} init"));
            assert_eq!(others.count(), 0, "only who was absent is tried");
            let all: Vec<_> = PLUGINS.map(|p| format!("probe-{p}")).into();
            assert_eq!(row["subsystems"], serde_json::json!(all));
        }
    }
    m.forget();
    netns_del("n4");
    m.wait_gone("n4");
    assert_eq!(of(&m.calls(), "n4"), undone(&PLUGINS, "Died"), "exits follow the list, not the arrival");
    m.stop();
}

/// What the plugin that is added sees when it fails in the namespace `failing`: K1.2.
fn added_and_undone(plugin: &str, failing: usize) -> Vec<String> {
    let mut calls = vec![format!("{plugin} plugin.init")];
    calls.extend(NAMESPACES[..=failing].iter().map(|n| format!("{plugin} init {n}")));
    for hook in ["pre_exit", "exit"] {
        calls.extend(NAMESPACES[..failing].iter().map(|n| format!("{plugin} {hook} {n} RolledBack")));
    }
    if failing > 0 {
        calls.push(format!("{plugin} exit_batch {} RolledBack", NAMESPACES[..failing].join(",")));
    }
    calls.extend(NAMESPACES[..failing].iter().map(|n| format!("{plugin} free {n}")));
    calls.push(format!("{plugin} plugin.drop"));
    calls
}

fn additions(mut m: Machine) {
    grid(&mut m, "");
    for (plugin, letter) in PLUGINS.into_iter().enumerate() {
        m.no_probe(u32::try_from(plugin).unwrap(), letter);
        assert_eq!(m.reload().code, 0);
        for (namespace, name) in NAMESPACES.into_iter().enumerate() {
            File::create(cause(plugin, namespace)).unwrap();
            probe(&m, plugin, "");
            m.forget();
            let generation = m.status()["generation"].clone();
            let answer = m.reload();
            assert_eq!(answer.code, 1, "{}", answer.json);
            assert_eq!(answer.json["ok"], false);
            // Forwards over the namespaces, and nothing of it in those that come after, or of anybody else.
            assert_eq!(m.trace(), added_and_undone(letter, namespace));
            assert_eq!(m.status()["generation"], generation);
            assert_eq!(m.status()["namespaces"]["live"], 6);
            let row = m.plugin(letter);
            assert_eq!((&row["state"], &row["namespaces"]), (&"failed".into(), &0.into()));
            assert_eq!(row["error"]["namespace"], name);
            assert_eq!(row["error"]["hook"], "pernet.init");
            m.no_probe(u32::try_from(plugin).unwrap(), letter);
            assert_eq!(m.ctl(["reload"])["plugins"].as_array().unwrap().len(), 5, "the failed one is removed");
            fs::remove_file(cause(plugin, namespace)).unwrap();
        }
        probe(&m, plugin, "");
        m.forget();
        assert_eq!(m.reload().code, 0);
        let added: Vec<_> = NAMESPACES.iter().map(|n| format!("{letter} init {n}")).collect();
        assert_eq!(m.trace()[1..], added, "in creation order");
        let row = m.netns("n2");
        assert_eq!(row["subsystems"], serde_json::json!(PLUGINS.map(|p| format!("probe-{p}"))), "in its place");
    }
    m.stop();
}

fn skipped_additions(mut m: Machine) {
    grid(&mut m, "on_init_failure = \"skip\"");
    m.no_probe(2, "c");
    assert_eq!(m.reload().code, 0);
    for (namespace, failing) in NAMESPACES.into_iter().enumerate() {
        File::create(cause(2, namespace)).unwrap();
        probe(&m, 2, "on_init_failure = \"skip\"");
        m.forget();
        let answer = m.reload();
        assert_eq!(answer.code, 0, "{}", answer.stderr);
        let trace: Vec<_> = m.trace().into_iter().filter(|t| t.starts_with("c init")).collect();
        assert_eq!(trace[..5], NAMESPACES.map(|n| format!("c init {n}")));
        for (n, name) in NAMESPACES.into_iter().enumerate() {
            let expected = if n == namespace { "degraded" } else { "live" };
            assert_eq!(m.netns(name)["state"], expected, "{name}");
        }
        assert_eq!(m.plugin("c")["namespaces"], 4);
        fs::remove_file(cause(2, namespace)).unwrap();
        assert_eq!(m.ctl(["netns", "retry", failing])["state"], "live");
        m.no_probe(2, "c");
        assert_eq!(m.reload().code, 0);
    }
    m.stop();
}

fn retried(mut m: Machine) {
    m.probe(0, "a", "", "");
    probe(&m, 1, "");
    m.start();
    File::create(cause(1, 0)).unwrap();
    netns_add("n0");
    m.wait_state("n0", "failed");
    let failed = Instant::now();
    // Twice in vain, at 1 s and 2 s after that; then the cause is gone.
    let tries = |m: &Machine| m.trace().iter().filter(|t| *t == "b init n0").count();
    wait_until("it is tried again", machine::SOON, || tries(&m) >= 2);
    assert!(failed.elapsed().as_millis() >= 900, "not before a second has gone by: {:?}", failed.elapsed());
    fs::remove_file(cause(1, 0)).unwrap();
    m.wait_state("n0", "live");
    let calls = of(&m.calls(), "n0");
    assert_eq!(calls[calls.len() - 2..], ["a init", "b init"]);
    assert_eq!(m.netns("n0")["error"], serde_json::Value::Null);
    m.stop();
}

/// A change of names has a plugin join that fails: that is tried again as a setup is.
fn degraded_by_name(mut m: Machine) {
    m.probe(0, "a", "", "");
    let fault = "faults = [{ hook = \"pernet.init\", when = \"/pernet/broken\", action = { fail = 5 } }]";
    m.probe(1, "b", "namespaces = { include = [\"other\"] }", fault);
    m.start();
    File::create(m.path("broken")).unwrap();
    netns_add("n0");
    m.wait_state("n0", "live");
    machine::second_name("n0", "other");
    m.wait_state("n0", "degraded");
    fs::remove_file(m.path("broken")).unwrap();
    m.wait_state("n0", "live");
    assert_eq!(m.netns("n0")["subsystems"], serde_json::json!(["probe-a", "probe-b"]));
    m.stop();
}

fn device_fails(mut m: Machine) {
    m.probe(0, "a", "", "notifier = 0");
    let fault = "faults = [{ hook = \"pernet.init\", nth = 2, action = { fail = 12 } }]";
    m.probe(1, "b", "", &format!("device_op = true\n{fault}"));
    m.start();
    netns_add("n0");
    m.wait_state("n0", "failed");
    let calls = [
        "a init",
        "b init",
        "a netdev.register lo",
        "b device.init",
        "b pre_exit RolledBack",
        "a pre_exit RolledBack",
        "a netdev.unregister lo",
        "b exit RolledBack",
        "b exit_batch RolledBack",
        "a exit RolledBack",
        "a exit_batch RolledBack",
        "b free",
        "a free",
    ];
    assert_eq!(of(&m.calls(), "n0")[..calls.len()], calls);
    m.stop();
}
