//! `pernetctl why` of namespaces and plugins: each state is made for real, and its story is the one that happened.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use machine::{HOME, Machine, SOON, inside, one, plugin_file, probe_file, second_name};
use pernetd::linux::rtnetlink;
use sandbox::{netns_add, netns_del, wait_until};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let trials = [
        one("a namespace that failed: the cause, what was undone, the next try; then it is mended", failed),
        one("a cause leads to the key of the plugin's configuration", named_key),
        one("a degraded namespace: who is absent, and who for want of another", degraded),
        one("why each plugin does not act in a namespace", parts),
        one("a setup that hangs, and an end that waits for it", hanging),
        one("a namespace that is gone: when, why, and what its exits said", gone),
        one("a live one tells who holds it and its other names", live),
        one("a name that nothing has: what is near", near),
        one("a name that two things have", ambiguous),
        one("a plugin that runs: file, order, namespaces, and its generations", running),
        one("a plugin that is refused, and who requires it", refused),
        one("a plugin that failed: its init, and a reload that was to add it", failed_plugin),
        one("a plugin that panicked: in which hook, where and when", poisoned),
        one("a plugin that is blacklisted, disabled, masked, not read, removed", left_out),
        one("a failed reload puts a generation back, and says so", rolled_back),
        one("one that a failed reload left as it was: since when, and what is wrong with its file", left_as_it_was),
        one("a hook about a device that failed and stops nobody is told wherever one asks", complaint),
        one("two lives of a name: one that is going and hangs, and the next", two_lives),
        one("a plugin that fails everywhere for the same reason is told so once", many_alike),
        one("what is told to be typed takes odd names for names", odd_names),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

const FAILS: &str =
    "faults = [{ hook = \"pernet.init\", netns = \"blue\", when = \"/pernet/broken\", action = { fail = 1 } }]";

/// The one story of a name.
#[track_caller]
fn story(m: &Machine, arguments: &[&str]) -> Value {
    let stories = m.ctl([&["why"], arguments].concat());
    assert_eq!(stories.as_array().unwrap().len(), 1, "{stories:#}");
    stories[0].clone()
}

/// As people read it.
#[track_caller]
fn text(m: &Machine, arguments: &[&str]) -> String {
    let output = m.pernetctl_for_people([&["why"], arguments].concat()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let wide = |line: &&str| line.chars().count() > 80 && line.trim().contains(' ');
    assert_eq!(text.lines().filter(wide).collect::<Vec<_>>(), [""; 0], "{text}");
    text
}

/// Line breaks are the width's.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn tells(text: &str, sentence: &str) {
    assert!(flat(text).contains(sentence), "{sentence}\n--- is not in\n{text}");
}

fn whats(rows: &Value) -> Vec<&str> {
    rows.as_array().unwrap().iter().map(|row| row["what"].as_str().unwrap()).collect()
}

/// Why the plugin acts, or not, by the namespace's story.
fn part<'v>(story: &'v Value, plugin: &str) -> (bool, &'v str) {
    let parts = story["parts"].as_array().unwrap();
    let part = parts.iter().find(|part| part["plugin"] == plugin).unwrap_or_else(|| panic!("{plugin}: {parts:#?}"));
    (part["acts"].as_bool().unwrap(), part["why"].as_str().unwrap())
}

fn facts<'v>(story: &'v Value, about: &str) -> Vec<&'v str> {
    let all = story["facts"].as_array().unwrap().iter();
    all.filter(|fact| fact["about"] == about).map(|fact| fact["what"].as_str().unwrap()).collect()
}

#[track_caller]
fn fact<'v>(story: &'v Value, about: &str) -> &'v str {
    facts(story, about).first().unwrap_or_else(|| panic!("{about}: {story:#}"))
}

fn failed(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", FAILS);
    m.start();
    File::create(m.path("broken")).unwrap();
    netns_add("blue");
    m.wait_state("blue", "failed");
    let told = story(&m, &["blue"]);
    assert_eq!((&told["kind"], &told["state"]), (&json!("netns"), &json!("failed")));
    let cause = &told["causes"][0];
    assert_eq!(cause["what"], "pernet.init of plugin probe-b failed: as asked, in pernet.init of blue (EPERM)");
    assert_eq!(
        (&cause["plugin"], &cause["hook"], &cause["netns"], &cause["errno"]),
        (&json!("probe-b"), &json!("pernet.init"), &json!("blue"), &json!("EPERM"))
    );
    let undone = &told["undone"];
    assert_eq!(whats(undone), ["the init of probe-a was undone"]);
    assert!(undone[0]["duration_us"].is_u64() && undone[0]["time"].as_str() >= told["happenings"][0]["time"].as_str());
    assert_eq!(part(&told, "probe-a"), (false, "the setup was undone, since probe-b failed"));
    assert!(!part(&told, "probe-b").0 && part(&told, "probe-b").1.contains("as asked"), "{told:#}");
    assert!(
        cause["time"].as_str() >= told["happenings"][0]["time"].as_str() && cause["duration_us"].is_u64(),
        "{cause}"
    );
    let remedies = told["remedies"].to_string();
    for remedy in ["pernetctl netns retry blue", "on_init_failure", "/pernet/plugins.d/20-probe-b.toml", "exclude"] {
        assert!(remedies.contains(remedy), "{remedies}");
    }

    // It is tried again, and the same error is one entry that counts.
    let mut told = Value::Null;
    wait_until("it was tried in vain once more, and waits", SOON, || {
        told = story(&m, &["blue"]);
        let again = told["happenings"].as_array().unwrap().iter().any(|it| it["count"].as_u64() >= Some(2));
        again && told["next_time"].is_string()
    });
    assert_eq!(told["next"], "it is tried again");
    assert!(told["next_time"].as_str() > told["since"].as_str(), "{told:#}");
    let whole = text(&m, &["blue"]);
    assert!(whole.starts_with("namespace blue is failed, since "), "{whole}");
    for sentence in [
        "because pernet.init of plugin probe-b failed: as asked, in pernet.init of blue (EPERM); ",
        "undone ",
        "the init of probe-a was undone, ",
        "next it is tried again, ",
        "to do correct what probe-b says, then `pernetctl netns retry blue`",
        "probe-a: does not act, the setup was undone, since probe-b failed",
        " times since ",
        "it failed, and what had been done was undone",
    ] {
        tells(&whole, sentence);
    }

    fs::remove_file(m.path("broken")).unwrap();
    assert_eq!(m.ctl(["netns", "retry", "blue"])["state"], "live");
    let told = story(&m, &["blue"]);
    assert_eq!((&told["state"], &told["causes"], &told["undone"]), (&json!("live"), &json!([]), &json!([])));
    assert_eq!(told["what"], "all is well: probe-a and probe-b act in it");
    let happened = whats(&told["happenings"]);
    assert_eq!(happened[0], "it was found, or added");
    assert!(happened.contains(&"pernet.init of probe-b failed"), "{happened:?}");
    assert!(happened.last().unwrap().starts_with("it is live again, after "), "{happened:?}");
    assert!(fact(&told, "last setup").contains(" hooks; the slowest pernet.init of probe-"), "{told:#}");
    tells(&text(&m, &["blue"]), "probe-a: acts, included by \"*\"");
    m.stop();
}

fn named_key(mut m: Machine) {
    m.install_file(&sandbox::cdylib("sysctl"), std::path::Path::new("/plugins/libpernet_sysctl.so"));
    let config = "[[config.profile]]\nname = \"x\"\nsettings = { \"net.ipv4.no_such_key\" = 1 }\n";
    m.write("plugins.d/20-sysctl.toml", config);
    m.start();
    netns_add("blue");
    m.wait_state("blue", "failed");
    let told = story(&m, &["blue"]);
    let causes = told["causes"].as_array().unwrap();
    assert!(causes[0]["what"].as_str().unwrap().contains("net.ipv4.no_such_key"), "{told:#}");
    let last = causes.last().unwrap();
    assert_eq!(last["what"], "its configuration says so: the key net.ipv4.no_such_key");
    assert_eq!(last["place"], "/pernet/plugins.d/20-sysctl.toml:3:14");
    let correct = "correct /pernet/plugins.d/20-sysctl.toml:3:14, then `pernetctl reload`";
    assert_eq!(told["remedies"][0], correct);
    tells(&text(&m, &["blue"]), "← its configuration says so: the key net.ipv4.no_such_key");
    m.stop();
}

fn degraded(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "on_init_failure = \"skip\"", FAILS);
    m.probe(30, "c", "requires = [\"probe-b\"]", "");
    m.start();
    File::create(m.path("broken")).unwrap();
    netns_add("blue");
    m.wait_state("blue", "degraded");
    let told = story(&m, &["blue"]);
    assert_eq!(told["what"], "probe-b and probe-c are absent; probe-a acts in it");
    let causes = whats(&told["causes"]);
    assert!(causes[0].contains("plugin probe-c failed: requires `probe-b`, which is absent"), "{causes:?}");
    assert!(causes[1].contains("plugin probe-b failed: as asked"), "{causes:?}");
    assert!(told["remedies"][0].as_str().unwrap().starts_with("correct what probe-b says"), "{told:#}");
    assert!(part(&told, "probe-a").0 && !part(&told, "probe-c").0);
    tells(&text(&m, &["blue"]), "← pernet.init of plugin probe-b failed: as asked");
    // The plugin's side of it.
    let told = story(&m, &["probe-b"]);
    assert_eq!(told["what"], "it acts in 0 namespaces, and failed in 1");
    assert_eq!(told["remedies"][0], "see `pernetctl why blue`");
    m.stop();
}

fn parts(mut m: Machine) {
    m.main("initcall_blacklist = [\"plugin.probe-b\"]");
    m.probe(10, "a", "namespaces = { exclude = [\"bl*\"] }", "");
    m.probe(20, "b", "", "");
    m.probe(30, "c", "enabled = false", "");
    m.probe(40, "d", "namespaces = { include = [\"web-*\"] }", "");
    m.probe(50, "e", "", "faults = [{ hook = \"init\", action = { fail = 5 } }]");
    m.probe(60, "late", "requires = [\"probe-d\"]", "");
    m.write("plugins.d/70-masked.toml", "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let told = story(&m, &["blue"]);
    assert_eq!(part(&told, "probe-a"), (false, "excluded by \"bl*\", /pernet/plugins.d/10-probe-a.toml:1:1"));
    assert_eq!(part(&told, "probe-b").1, "blacklisted by initcall_blacklist, /pernet/pernetd.toml:3");
    assert_eq!(part(&told, "probe-c").1, "disabled, /pernet/plugins.d/30-probe-c.toml:1:1");
    assert_eq!(part(&told, "probe-d").1, "no include fits, /pernet/plugins.d/40-probe-d.toml:1:1");
    assert!(part(&told, "probe-e").1.starts_with("the plugin is failed: "), "{told:#}");
    assert!(part(&told, "probe-e").1.contains("as asked"), "{told:#}");
    assert_eq!(part(&told, "probe-late").1, "it requires probe-d, which is not to act here");
    assert_eq!(part(&told, "masked").1, "masked by the empty file /pernet/plugins.d/70-masked.toml");
    let host = story(&m, &["@host"]);
    assert_eq!(
        part(&host, "probe-a").1,
        "only a glob that begins with @ includes the host's own namespace, and it has none"
    );
    assert_eq!(told["what"], "no plugin acts in it; probe-e would act here, and cannot run");
    assert_eq!(told["remedies"], json!(["see `pernetctl why probe-e`"]));
    assert!(
        told["causes"][0]["what"].as_str().unwrap().starts_with("plugin.init of plugin probe-e failed"),
        "{told:#}"
    );
    m.stop();
}

fn left_as_it_was(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let before = story(&m, &["probe-a"]);
    for (wrong, place) in [("nonsense = 1", "10-probe-a.toml:4:1"), ("= nonsense", "10-probe-a.toml:4:1")] {
        m.probe(10, "a", "", wrong);
        assert_eq!(m.reload().code, 1);
        let told = story(&m, &["probe-a"]);
        assert_eq!((&told["state"], &told["since"]), (&json!("live"), &before["since"]), "{told:#}");
        let what = "it acts in 1 namespace as it did before the last reload, which failed by it";
        assert_eq!(told["what"], what, "{told:#}");
        assert!(told["causes"][0]["what"].as_str().unwrap().contains(place), "{told:#}");
        assert_eq!(told["remedies"], json!(["correct that, then `pernetctl reload`"]), "{told:#}");
        assert_eq!(told["next"], "it runs on as it is, until a reload succeeds");
    }
    m.probe(10, "a", "", "");
    assert_eq!(m.reload().code, 0);
    let told = story(&m, &["probe-a"]);
    assert_eq!((&told["what"], &told["since"]), (&json!("all is well: it acts in 1 namespace"), &before["since"]));
    m.stop();
}

fn two_lives(mut m: Machine) {
    let fault =
        format!("action = {{ until = \"{HOME}/go\" }} }}, {{ hook = \"pernet.exit\", action = {{ fail = 5 }} }}");
    m.probe(
        10,
        "a",
        "",
        &format!("faults = [{{ hook = \"pernet.exit\", netns = \"blue\", when = \"{HOME}/hang\", {fault}]"),
    );
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    m.write("hang", "");
    netns_del("blue");
    wait_until("its exit hangs", SOON, || story(&m, &["blue"])["state"] == "dying");
    netns_add("blue");
    wait_until("there is another", SOON, || m.ctl(["why", "blue"]).as_array().unwrap().len() == 2);
    wait_until("that is live", SOON, || m.ctl(["why", "blue"])[0]["state"] == "live");
    wait_until("the hook is told to hang", SOON, || m.status()["troubles"] != json!([]));
    assert_eq!(m.status()["troubles"][0]["remedy"], "pernetctl why blue");
    let told = m.ctl(["why", "blue"])[1].clone();
    assert_eq!(told["state"], "dying", "{told:#}");
    wait_until("what hangs can be found", SOON, || {
        let remedies = m.ctl(["why", "blue"])[1]["remedies"].to_string();
        let thread = remedies.split("`cat /proc/").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
        fs::metadata(format!("/proc/{}/task/{thread}", m.pid().as_raw_nonzero())).is_ok_and(|_| !thread.is_empty())
    });
    m.remove("hang");
    m.write("go", "");
    wait_until("one is gone", SOON, || m.ctl(["why", "blue"]).as_array().unwrap().len() == 1);
    netns_del("blue");
    wait_until("so is the other", SOON, || story(&m, &["blue"])["state"] == "gone");
    // What its exit said is told once, after the exits began.
    let told = story(&m, &["blue"]);
    let happened = whats(&told["happenings"]);
    let (began, failed) = ("its last name was removed; the exits began", "pernet.exit of probe-a failed");
    assert_eq!(happened[1..], [began, failed], "{told:#}");
    m.stop();
}

fn complaint(mut m: Machine) {
    let fault = "faults = [{ hook = \"netdev.up\", netns = \"blue\", device = \"lo\", action = { fail = 16 } }]";
    m.probe(10, "a", "", &format!("subsys = false\nnotifier = 0\n{fault}"));
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    assert_eq!(story(&m, &["blue"])["what"], "all is well: probe-a acts in it");
    inside("blue", || rtnetlink::set_up(1).unwrap());
    wait_until("it is told in status", SOON, || m.status()["troubles"] != json!([]));
    let status = m.status();
    let wrong = &status["troubles"][0];
    assert_eq!((&wrong["kind"], &wrong["name"]), (&json!("netns"), &json!("blue")));
    let what = wrong["what"].as_str().unwrap();
    assert!(what.starts_with("live, but a hook failed: probe-a netdev.up for lo: as asked"), "{what}");
    let told = story(&m, &["blue"]);
    assert_eq!(told["state"], "live");
    assert_eq!(told["what"], "probe-a acts in it; netdev.up of probe-a for device lo failed, which stops nobody");
    assert_eq!(told["causes"][0]["errno"], "EBUSY", "{told:#}");
    assert!(told["remedies"].to_string().contains("see `pernetctl why --dev lo`"), "{told:#}");
    let told = story(&m, &["probe-a"]);
    assert_eq!(told["what"], "it acts in 1 namespace; in 1 a hook of it failed, which stops nobody");
    assert_eq!(told["remedies"], json!(["see `pernetctl why blue`"]));
    m.stop();
}

fn many_alike(mut m: Machine) {
    m.probe(10, "a", "", "faults = [{ hook = \"pernet.init\", netns = \"bad*\", action = { fail = 1 } }]");
    m.start();
    (0..20).for_each(|n| drop(netns_add(format!("bad{n}"))));
    netns_add("good");
    wait_until("all have failed", SOON, || m.status()["namespaces"]["failed"] == 20);
    m.wait_state("good", "live");
    let told = story(&m, &["probe-a"]);
    assert_eq!(told["what"], "it acts in 1 namespace, and failed in 20");
    let parts = told["parts"].as_array().unwrap();
    let counts: Vec<_> = parts.iter().map(|part| (part["acts"] == true, part["count"].as_u64().unwrap())).collect();
    assert_eq!(counts.iter().filter(|it| **it == (false, 20)).count(), 1, "what is the same is told once: {told:#}");
    assert_eq!(parts.len(), 3, "{told:#}");
    tells(&text(&m, &["probe-a"]), "and 12 more: it does not act, pernet.init failed: as asked");
    m.stop();
}

fn odd_names(mut m: Machine) {
    m.probe(10, "a", "namespaces = { include = [\"*\"], exclude = [\"x\"] }", FAILS.replace("blue", "*").as_str());
    m.probe(20, "b", "", "faults = [{ hook = \"pernet.init\", netns = \"*b*\", action = { fail = 1 } }]");
    m.start();
    let name = "a b;$(touch /pernet/oops)[1]".replace('/', ":");
    netns_add(&name);
    m.wait_state(&name, "failed");
    let told = story(&m, &[&name]);
    let remedies = told["remedies"].to_string();
    assert!(remedies.contains(&format!("`pernetctl netns retry '{name}'`")), "{remedies}");
    let glob = name.replace("[1]", "[[]1[]]");
    assert!(
        told["remedies"].as_array().unwrap().iter().any(|it| {
            it.as_str().unwrap().starts_with(&format!("or keep it away: exclude = [\"{glob}\"] under [namespaces] in "))
        }),
        "{remedies}"
    );
    let status = m.status();
    assert_eq!(status["troubles"][0]["remedy"], format!("pernetctl why '{name}'"));
    // What is told works.
    m.probe(20, "b", &format!("namespaces = {{ exclude = [\"{glob}\"] }}"), "");
    assert_eq!(m.reload().code, 0);
    m.wait_state(&name, "live");
    assert_eq!(m.netns(&name)["subsystems"], json!(["probe-a"]));
    File::create(m.path("broken")).unwrap();
    netns_add("-x");
    m.wait_state("-x", "failed");
    let remedies = story(&m, &["--", "-x"])["remedies"].to_string();
    assert!(remedies.contains("`pernetctl netns retry -- -x`"), "{remedies}");
    // Where something is excluded already, it is added to that.
    assert!(remedies.contains("add \\\"-x\\\" to exclude under [namespaces] in "), "{remedies}");
    m.stop();
}

fn hanging(mut m: Machine) {
    m.probe(
        10,
        "a",
        "",
        "faults = [{ hook = \"pernet.init\", netns = \"blue\", action = { until = \"/pernet/go\" } },\n\
         { hook = \"pernet.exit\", netns = \"blue\", action = { until = \"/pernet/gone\" } }]",
    );
    m.start();
    netns_add("blue");
    m.wait_state("blue", "setup");
    wait_until("its hook is seen to hang", SOON, || {
        story(&m, &["blue"])["remedies"].to_string().contains("pernet.init of plugin probe-a does not return")
    });
    let told = story(&m, &["blue"]);
    assert_eq!(told["state"], "setup");
    assert!(told["next"].as_str().unwrap().starts_with("pernet.init of plugin probe-a has been running for "));
    assert!(fact(&told, "held by").starts_with("pernet.init of plugin probe-a, for "), "{told:#}");
    assert!(fact(&story(&m, &["probe-a"]), "in a hook").starts_with("pernet.init in blue, for "));
    // What waits for the hook is told, too.
    let reload = m.pernetctl(["reload"]).spawn().unwrap();
    wait_until("the reload waits", SOON, || m.status()["state"] == "reloading");
    fs::write(m.path("go"), "").unwrap();
    assert!(reload.wait_with_output().unwrap().status.success());
    m.wait_state("blue", "live");
    netns_del("blue");
    m.wait_state("blue", "dying");
    let told = story(&m, &["blue"]);
    assert_eq!((&told["state"], &told["what"]), (&json!("dying"), &json!("it is going: its last name was removed")));
    wait_until("the exit is seen", SOON, || {
        story(&m, &["blue"])["next"].as_str().unwrap().starts_with("pernet.exit of plugin probe-a has been running")
    });
    fs::write(m.path("gone"), "").unwrap();
    m.wait_gone("blue");
    m.stop();
}

fn gone(mut m: Machine) {
    m.probe(10, "a", "", "faults = [{ hook = \"pernet.exit\", netns = \"blue\", action = { fail = 16 } }]");
    m.probe(20, "b", "", "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    netns_del("blue");
    m.wait_gone("blue");
    let told = story(&m, &["blue"]);
    assert_eq!((&told["kind"], &told["state"]), (&json!("netns"), &json!("gone")));
    let what = told["what"].as_str().unwrap();
    assert!(what.starts_with("it is gone: its last name was removed; its exits ran in "), "{what}");
    assert!(what.ends_with("s, with an error, which stopped nothing"), "{what}");
    let last = told["happenings"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["what"], &last["errno"]), (&json!("pernet.exit of probe-a failed"), &json!("EBUSY")));
    assert_eq!(fact(&told, "before"), "it was live");
    tells(&text(&m, &["blue"]), "namespace blue is gone, since ");
    // It comes again, and the new one is told.
    netns_add("blue");
    m.wait_state("blue", "live");
    assert_eq!(story(&m, &["blue"])["state"], "live");
    m.stop();
}

fn live(mut m: Machine) {
    m.probe(10, "a", "", "sockets = [{ hook = \"pernet.init\", family = 2, kind = 2 }]");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    second_name("blue", "zwei");
    wait_until("it has two names", SOON, || m.netns("zwei")["names"] == json!(["blue", "zwei"]));
    let told = story(&m, &["zwei"]);
    assert_eq!((&told["name"], fact(&told, "names")), (&json!("blue"), "blue, zwei"));
    assert_eq!(facts(&told, "held by"), ["1 socket of plugin probe-a"]);
    assert!(whats(&told["happenings"]).contains(&"its names are blue, zwei from here on"), "{told:#}");
    assert!(told["since"].is_string());
    m.stop();
}

fn near(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    netns_add("frontend");
    m.wait_state("frontend", "live");
    let answer = m.ask(["why", "frontned"]);
    assert_eq!(answer.code, 1);
    let line = "pernetctl: frontned: no namespace, plugin or device is called so, and none was of late; did you mean \
                `frontend` (netns)?";
    assert!(answer.stderr.starts_with(line), "{}", answer.stderr);
    let answer = m.ask(["why", "--plugin", "prob-a"]);
    assert!(answer.stderr.contains("no plugin is called so") && answer.stderr.contains("`probe-a` (plugin)"));
    assert!(!m.ask(["why", "--dev", "frontned"]).stderr.contains("frontend"), "narrowed");
    let answer = m.ask(["why", "qqqqqq"]);
    assert!(!answer.stderr.contains("did you mean") && answer.stderr.contains("pernetctl netns list"));
    assert_eq!(m.ask(["why", "--dev", "--netns", "x"]).code, 2, "one kind at a time");
    m.stop();
}

fn ambiguous(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    netns_add("probe-a");
    netns_add("lo");
    m.wait_state("probe-a", "live");
    m.wait_state("lo", "live");
    let kinds = |arguments: &[&str]| {
        let stories = m.ctl([&["why"], arguments].concat());
        stories.as_array().unwrap().iter().map(|it| it["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&["probe-a"]), ["netns", "plugin"]);
    assert_eq!(kinds(&["--plugin", "probe-a"]), ["plugin"]);
    assert_eq!(kinds(&["lo"]), ["netns", "dev", "dev", "dev"], "of the host and of both");
    assert_eq!(kinds(&["lo", "--netns"]), ["netns"]);
    assert_eq!(kinds(&["probe-a:lo"]), ["dev"]);
    let both = text(&m, &["probe-a"]);
    assert!(both.contains("namespace probe-a is live") && both.contains("\n\nplugin probe-a is live"), "{both}");
    m.stop();
}

fn running(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "after = [\"probe-a\", \"nobody\"]\nrequires = [\"probe-a\", \"sock_init\"]", "label = \"old\"");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let told = story(&m, &["probe-b"]);
    assert_eq!((&told["state"], &told["what"]), (&json!("live"), &json!("all is well: it acts in 1 namespace")));
    assert_eq!(fact(&told, "file"), "/plugins/libpernet_probe_b.so");
    assert_eq!(fact(&told, "configuration"), "/pernet/plugins.d/20-probe-b.toml");
    assert_eq!(
        fact(&told, "order"),
        "place 1: level subsys, then its file's name 20-probe-b.toml; after probe-a (place 0), nobody (not there); \
         requires probe-a (place 0), sock_init (pernetd's own)"
    );
    assert_eq!(fact(&told, "drop-in"), "/pernet/plugins.d/20-probe-b.toml counts");
    let acts: Vec<_> =
        told["parts"].as_array().unwrap().iter().map(|part| (part["acts"] == true, &part["count"])).collect();
    assert_eq!(acts, [(true, &json!(1)), (false, &json!(1))], "in blue, not in @host");

    m.probe(20, "b", "", "label = \"new\"");
    assert_eq!(m.reload().code, 0);
    m.install("probe_a_v2", "a");
    assert_eq!(m.reload().code, 0);
    let told = story(&m, &["probe-b"]);
    let happened = whats(&told["happenings"]).join("\n");
    assert!(
        happened.contains("generation 2 was made in ") && happened.contains("generation 2 was ended"),
        "{happened}"
    );
    assert!(happened.contains("replaced by reload to generation 2, since its configuration has changed"), "{happened}");
    let told = story(&m, &["probe-a"]);
    let happened = whats(&told["happenings"]).join("\n");
    assert!(happened.contains("replaced by reload to generation 3, since its file has changed"), "{happened}");
    let whole = text(&m, &["probe-a"]);
    tells(&whole, "plugin probe-a is live, since ");
    tells(&whole, "blue: it acts, included by \"*\"");
    m.stop();
}

fn refused(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "requires = [\"probe-a\"]", "");
    m.probe(30, "c", "requires = [\"probe-b\"]", "");
    m.probe(40, "d", "", "refuse = \"not like this\"");
    fs::set_permissions(plugin_file("a"), fs::Permissions::from_mode(0o666)).unwrap();
    m.start();
    let told = story(&m, &["probe-c"]);
    assert_eq!(
        (&told["state"], &told["what"]),
        (&json!("refused"), &json!("it was refused before any of its code ran"))
    );
    let causes = whats(&told["causes"]);
    assert_eq!(
        causes[..2],
        ["plugin probe-c requires probe-b, which does not run", "plugin probe-b requires probe-a, which does not run"]
    );
    assert!(
        causes[2].starts_with("the file of plugin probe-a is refused: ") && causes[2].contains("writable"),
        "{causes:?}"
    );
    assert_eq!(told["causes"][0]["place"], "/pernet/plugins.d/30-probe-c.toml:1:1");
    assert_eq!(told["causes"][2]["place"], "/plugins/libpernet_probe_a.so");
    assert_eq!(told["next"], "nothing, until the configuration is read again");
    assert!(told["remedies"][0].as_str().unwrap().starts_with("put the file of plugin probe-a right"), "{told:#}");
    let happened = whats(&told["happenings"]);
    assert!(happened[0].starts_with("the start left it out: requires `probe-b`"), "{happened:?}");
    let told = story(&m, &["probe-d"]);
    assert!(told["causes"][0]["what"].as_str().unwrap().contains("40-probe-d.toml:4:1"), "{told:#}");
    tells(&text(&m, &["probe-c"]), "← plugin probe-b requires probe-a, which does not run");
    // One that is itself refused has that to put right, whatever it requires.
    fs::set_permissions(plugin_file("c"), fs::Permissions::from_mode(0o666)).unwrap();
    m.write(&probe_file(30, "c"), "requires = [\"probe-b\"]\n[config]\nrecord = \"/pernet/calls\"\n");
    m.stop();
    m.start();
    let told = story(&m, &["probe-c"]);
    assert!(whats(&told["causes"])[0].starts_with("the file of plugin probe-c is refused: "), "{told:#}");
    let remedy = told["remedies"][0].as_str().unwrap();
    assert!(remedy.starts_with("put the file right") && remedy.contains("libpernet_probe_c.so"), "{told:#}");
    assert!(told["remedies"][1].as_str().unwrap().contains("30-probe-c.toml"), "{told:#}");
    m.stop();
}

fn failed_plugin(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "faults = [{ hook = \"init\", action = { fail = 13 } }]");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let told = story(&m, &["probe-b"]);
    assert_eq!((&told["state"], &told["what"]), (&json!("failed"), &json!("it could not start, and acts nowhere")));
    let cause = &told["causes"][0];
    assert!(cause["what"].as_str().unwrap().starts_with("plugin.init of plugin probe-b failed: "), "{told:#}");
    assert_eq!((&cause["errno"], &cause["hook"]), (&json!("EACCES"), &json!("plugin.init")));
    assert!(whats(&told["happenings"]).contains(&"plugin.init of probe-b failed"), "{told:#}");

    m.probe(30, "c", "", FAILS);
    File::create(m.path("broken")).unwrap();
    assert_eq!(m.reload().code, 1);
    let told = story(&m, &["probe-c"]);
    assert!(told["what"].as_str().unwrap().starts_with("a reload that was to add it failed by it"), "{told:#}");
    let cause = &told["causes"][0];
    assert_eq!((&cause["netns"], &cause["hook"]), (&json!("blue"), &json!("pernet.init")));
    let happened = whats(&told["happenings"]).join("\n");
    assert!(happened.contains("failed by a reload that failed: pernet.init in blue: as asked"), "{happened}");
    m.stop();
}

fn poisoned(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "faults = [{ hook = \"pernet.init\", netns = \"bad\", action = \"panic\" }]");
    m.probe(30, "c", "requires = [\"probe-b\"]", "");
    m.start();
    netns_add("bad");
    wait_until("it is failed", SOON, || m.plugin("b")["state"] == "failed");
    let told = story(&m, &["probe-b"]);
    assert_eq!(told["what"], "it panicked, and was taken out everywhere");
    let causes = told["causes"].as_array().unwrap();
    assert!(causes[0]["what"].as_str().unwrap().starts_with("plugin probe-b is poisoned: generation 2 panicked"));
    assert!(causes[1]["what"].as_str().unwrap().starts_with("pernet.init panicked in bad: "), "{told:#}");
    assert!(causes[1]["time"].is_string(), "{told:#}");
    assert_eq!((&causes[1]["hook"], &causes[1]["netns"]), (&json!("pernet.init"), &json!("bad")));
    let happened = whats(&told["happenings"]).join("\n");
    assert!(happened.contains("it is poisoned and taken out everywhere"), "{happened}");
    let told = story(&m, &["probe-c"]);
    assert_eq!(whats(&told["causes"])[0], "plugin probe-c requires probe-b, which does not run");
    assert!(whats(&told["causes"])[1].contains("is poisoned"), "{told:#}");
    m.wait_state("bad", "live");
    assert!(part(&story(&m, &["bad"]), "probe-b").1.contains("panicked"));
    let status = m.status();
    let wrong = status["troubles"].as_array().unwrap().iter().find(|it| it["name"] == "probe-b").unwrap();
    assert!(wrong["what"].as_str().unwrap().starts_with("poisoned: "), "{wrong}");
    m.stop();
}

fn left_out(mut m: Machine) {
    m.main("initcall_blacklist = [\"plugin.probe-a\"]");
    m.probe(10, "a", "", "");
    m.probe(20, "b", "enabled = false", "");
    m.write("plugins.d/30-mask.toml", "");
    m.probe(40, "c", "", "");
    m.start();
    let told = story(&m, &["probe-a"]);
    assert_eq!(told["what"], "the blacklist keeps it from being called");
    assert_eq!(told["causes"][0]["what"], "blacklisted by initcall_blacklist, /pernet/pernetd.toml:3");
    assert_eq!(m.status()["troubles"], json!([]), "as the operator wants it");
    let told = story(&m, &["probe-b"]);
    assert_eq!(
        (&told["state"], &told["causes"][0]["place"]),
        (&json!("disabled"), &json!("/pernet/plugins.d/20-probe-b.toml:1:1"))
    );
    let told = story(&m, &["mask"]);
    assert_eq!(
        (&told["state"], &told["causes"][0]["place"]),
        (&json!("masked"), &json!("/pernet/plugins.d/30-mask.toml"))
    );
    m.probe(50, "d", "", "");
    let told = story(&m, &["probe-d"]);
    assert_eq!((&told["state"], &told["remedies"]), (&json!("unread"), &json!(["`pernetctl reload`"])));
    m.remove(&probe_file(50, "d"));
    m.no_probe(40, "c");
    assert_eq!(m.reload().code, 0);
    let told = story(&m, &["probe-c"]);
    assert_eq!(told["state"], "gone");
    assert!(whats(&told["happenings"]).contains(&"removed by reload to generation 2"), "{told:#}");
    assert!(fs::exists(HOME).unwrap());
    m.stop();
}

fn rolled_back(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "label = \"old\"");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    File::create(m.path("broken")).unwrap();
    m.probe(20, "b", "", FAILS);
    assert_eq!(m.reload().code, 1);
    let told = story(&m, &["probe-b"]);
    assert_eq!(told["state"], "live", "the old one is back");
    let happened = whats(&told["happenings"]).join("\n");
    for what in
        ["generation 2 was ended", "pernet.init of probe-b failed", "generation 3 was ended", "generation 4 was made"]
    {
        assert!(happened.contains(what), "{what}\n{happened}");
    }
    assert!(happened.contains("failed by a reload that failed: pernet.init in blue: as asked"), "{happened}");
    let status = m.status();
    let wrong = &status["troubles"][0];
    assert_eq!((&wrong["kind"], wrong["remedy"].as_str().unwrap().contains("reload")), (&json!("reload"), true));
    m.stop();
}
