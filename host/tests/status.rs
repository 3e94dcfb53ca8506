//! `pernetctl status`: what is wrong comes first, and all of it fits on one screen.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::fs::{self, File};
use std::process::ExitCode;
use std::time::Duration;

use machine::{Machine, SOON, one, plugin_file};
use sandbox::{netns_add, wait_until};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let trials = [
        one("all is well, and the first line says so", well),
        one("a thousand failing namespaces are one line on one screen", thousand),
        one("each kind of trouble, the worst first", kinds),
        one("a few namespaces are told each by itself, the failed first", each),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

/// As people see it; it fits on 24 lines of 80 columns.
#[track_caller]
fn screen(m: &Machine) -> Vec<String> {
    let output = m.pernetctl_for_people(["status"]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert!(lines.len() < 24, "{} lines\n{text}", lines.len());
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
    lines
}

/// The exit status of `status --check`.
fn check(m: &Machine) -> i32 {
    m.ask(["status", "--check"]).code
}

fn troubles(m: &Machine) -> Vec<Value> {
    m.status()["troubles"].as_array().unwrap().clone()
}

fn well(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    assert_eq!(screen(&m)[0], "all is well: running, 2 namespaces and 1 plugin live");
    assert_eq!((troubles(&m), check(&m)), (Vec::new(), 0));
    m.stop();
    assert_eq!(m.ask(["status", "--check"]).code, 3, "nobody is there");
}

fn thousand(mut m: Machine) {
    m.probe(10, "a", "", "faults = [{ hook = \"pernet.init\", netns = \"n*\", action = { fail = 5 } }]");
    m.probe(
        20,
        "b",
        "on_init_failure = \"skip\"",
        "faults = [{ hook = \"pernet.init\", netns = \"d*\", action = { fail = 5 } }]",
    );
    fs::write(plugin_file("c"), "no plugin").unwrap();
    m.write("plugins.d/30-probe-c.toml", "");
    (0..1_000).for_each(|n| drop(netns_add(format!("n{n:03}"))));
    (0..3).for_each(|n| drop(netns_add(format!("d{n}"))));
    m.spawn();
    wait_until("all have been tried", Duration::from_secs(60), || {
        let answer = m.ask(["status"]);
        let counts = &answer.json["namespaces"];
        (&counts["failed"], &counts["degraded"]) == (&json!(1_000), &json!(3))
    });
    let all = troubles(&m);
    let netns: Vec<_> = all.iter().filter(|it| it["kind"] == "netns").collect();
    assert_eq!(netns.len(), 2, "{all:#?}");
    assert_eq!((&netns[0]["name"], &netns[0]["count"]), (&json!("n000"), &json!(1_000)));
    assert_eq!((&netns[1]["name"], &netns[1]["count"]), (&json!("d0"), &json!(3)));
    assert_eq!(netns[0]["remedy"], "pernetctl why n000");
    let lines = screen(&m);
    assert_eq!(lines[0], "1003 things are wrong; pernetd is running");
    assert!(lines[1].starts_with("! 1000 namespaces (n000, …) failed: probe-a pernet.init: as asked"), "{lines:#?}");
    assert!(lines.iter().any(|line| line == "  → pernetctl why n000"), "{lines:#?}");
    // Those that are just being tried again count as in setup.
    let counted = || screen(&m).iter().any(|line| line.starts_with("namespaces   1 live, 3 degraded, 1000 failed"));
    wait_until("none is being tried again", SOON, counted);
    assert_eq!(check(&m), 1);
    m.stop();
}

fn kinds(mut m: Machine) {
    let hangs = "{ hook = \"pernet.init\", netns = \"slow\", action = { until = \"/pernet/go\" } }";
    let fails = "{ hook = \"pernet.init\", netns = \"blue\", action = { fail = 1 } }";
    m.probe(10, "a", "", &format!("faults = [{hangs}, {fails}]"));
    m.probe(20, "b", "", "");
    m.probe(30, "c", "", "faults = [{ hook = \"init\", action = { fail = 13 } }]");
    fs::write(plugin_file("b"), "no plugin").unwrap();
    m.start();
    m.probe(40, "d", "", "unknown_key = 1");
    assert_eq!(m.reload().code, 1);
    netns_add("blue");
    m.wait_state("blue", "failed");
    netns_add("slow");
    wait_until("a hook hangs", SOON, || troubles(&m).iter().any(|it| it["kind"] == "hook"));
    let all = troubles(&m);
    let told: Vec<_> = all.iter().map(|it| (it["kind"].as_str().unwrap(), it["name"].as_str().unwrap())).collect();
    let expected =
        [("netns", "blue"), ("plugin", "probe-c"), ("plugin", "probe-b"), ("reload", "last reload"), ("hook", "slow")];
    assert_eq!(told, expected, "{all:#?}");
    assert!(all[1]["what"].as_str().unwrap().starts_with("failed: "), "{all:#?}");
    assert!(all[2]["what"].as_str().unwrap().starts_with("refused: /pernet/plugins.d/20-probe-b.toml"), "{all:#?}");
    assert_eq!(all[2]["remedy"], "pernetctl why probe-b");
    let lines = screen(&m).join("\n");
    assert!(lines.starts_with("5 things are wrong; pernetd is running\n! namespace blue failed: "), "{lines}");
    assert!(lines.contains("! slow is pinned by probe-a pernet.init, which has been running for "), "{lines}");
    // A broken file is told with its place.
    m.probe(40, "d", "enabledd = true", "");
    assert_eq!(m.reload().code, 1);
    let reload = troubles(&m).into_iter().find(|it| it["kind"] == "reload").unwrap();
    assert!(reload["what"].as_str().unwrap().contains("/pernet/plugins.d/40-probe-d.toml:1:1:"), "{reload}");
    assert!(screen(&m).iter().any(|line| line.contains("40-probe-d.toml:1:1")), "{:#?}", screen(&m));
    File::create(m.path("go")).unwrap();
    m.wait_state("slow", "live");
    m.stop();
}

fn each(mut m: Machine) {
    m.probe(10, "a", "", "faults = [{ hook = \"pernet.init\", netns = \"f*\", action = { fail = 5 } }]");
    m.probe(
        20,
        "b",
        "on_init_failure = \"skip\"",
        "faults = [{ hook = \"pernet.init\", netns = \"d*\", action = { fail = 5 } }]",
    );
    m.start();
    for (name, state) in [("d1", "degraded"), ("f1", "failed"), ("f0", "failed")] {
        netns_add(name);
        m.wait_state(name, state);
    }
    let names: Vec<_> = troubles(&m).iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["f0", "f1", "d1"]);
    let lines = screen(&m);
    assert!(lines[1].starts_with("! namespace f0 failed: probe-a pernet.init: as asked"), "{lines:#?}");
    m.stop();
}
