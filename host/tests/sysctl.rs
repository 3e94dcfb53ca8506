//! `pernetctl sysctl`, through the real daemon: in the habits of sysctl(8), over plugins' knobs and the daemon's own.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;
mod sysctls;

use std::fs;
use std::io::Write;
use std::process::{ExitCode, Stdio};

use machine::{Machine, SOON, one};
use rustix::process::{Resource, getrlimit};
use sandbox::wait_until;
use serde_json::{Value, json};
use sysctls::{Done, add, bad, good, lines, probe, started, sysctl, value, wait_log};

fn main() -> ExitCode {
    let trials = [
        one("what is there is shown", shown),
        one("a knob is read and set in the habits of sysctl", habits),
        one("what is wrong is told, and the rest goes on", mistakes),
        one("each kind of knob refuses what the kernel's refuses", refusals),
        one("a pattern is every namespace that it matches", patterns),
        one("a file sets what it says", files),
        one("with --json it is one document", as_json),
        one("the daemon's own knobs change it at once", own_knobs),
        one("the pool of workers has the size that it is set to", workers),
        one("sysctl.d counts for the daemon's own knobs, before the main file", own_knobs_configured),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

const ALL: &str = "probe.bool = 1
probe.bounded = 128
probe.fixed = 42
probe.globs = *
probe.int = 3
probe.interval = 1000
probe.own = 
probe.secret = 42
probe.text = quiet
probe.uint = 4294967295
probe.ulong = 7
probe.ulongs = 1\t2\t3
probe.vector = 4096\t131072\t6291456
";

fn shown(mut m: Machine) {
    started(&mut m, "");
    let home = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    let all = good(&m, &["-a", "--netns", "blue"]);
    assert_eq!(all, format!("{ALL}probe.where = {home}\n"), "a handler runs in the daemon's own namespace");
    assert_eq!(good(&m, &["--netns", "blue", "probe"]), all, "a directory is all that is in it");
    let names = good(&m, &["-a", "-N", "--netns", "blue"]);
    assert_eq!(names.lines().count(), 15, "also one that nobody may read: {names}");
    let workers = std::thread::available_parallelism().unwrap();
    let sockets = getrlimit(Resource::Nofile).current.unwrap() / 2;
    let own = format!(
        "pernetd.filesystem_timeout = 10\npernetd.log_level = info\npernetd.max_sockets = {sockets}\npernetd.receive_buffer = 8388608\npernetd.unregister_timeout = 10\npernetd.workers = {workers}\n"
    );
    assert_eq!(good(&m, &["-a"]), own, "without --netns it is the host's own namespace, where the probe is not");
    m.stop();
}

fn habits(mut m: Machine) {
    started(&mut m, "");
    let blue = |arguments: &[&str]| good(&m, &[&["--netns", "blue"], arguments].concat());
    assert_eq!(blue(&["probe.interval"]), "probe.interval = 1000\n");
    assert_eq!(blue(&["probe/interval"]), "probe.interval = 1000\n");
    assert_eq!(blue(&["-n", "probe.interval"]), "1000\n");
    assert_eq!(blue(&["-N", "probe.interval"]), "probe.interval\n");
    assert_eq!(blue(&["probe.interval=50"]), "probe.interval = 50\n");
    assert_eq!(
        blue(&["-w", "probe.interval=0x40", "probe.text = two words "]),
        "probe.interval = 0x40\nprobe.text = two words\n"
    );
    assert_eq!(blue(&["probe.interval", "probe.text"]), "probe.interval = 64\nprobe.text = two words\n");
    assert_eq!(blue(&["-q", "probe.interval=60"]), "");
    assert_eq!(blue(&["-n", "probe.interval=70"]), "70\n");
    assert_eq!(blue(&["-N", "probe.interval=80"]), "probe.interval\n");
    assert_eq!(blue(&["-e", "probe.nope", "probe.interval", "nope=5"]), "probe.interval = 80\n");
    assert_eq!(
        blue(&["probe.vector=5"]) + &blue(&["probe.vector"]),
        "probe.vector = 5\nprobe.vector = 5\t131072\t6291456\n"
    );
    assert_eq!(blue(&["probe.text="]) + &blue(&["probe.text"]), "probe.text = \nprobe.text = \n");
    assert_eq!(blue(&["probe.own=a = b"]) + &blue(&["probe.own"]), "probe.own = a = b\nprobe.own = a = b\n");
    // A key may say itself where it is.
    assert_eq!(good(&m, &["blue:probe.interval=90"]), "probe.interval = 90\n");
    assert_eq!(
        good(&m, &["--netns", "@host", "blue:probe.interval", "pernetd.log_level"]),
        "probe.interval = 90\npernetd.log_level = info\n"
    );
    let left = sysctl(&m, &["--netns", "blue", "probe.bounded=300 400"]);
    assert_eq!((left.code, left.out.as_str()), (0, "probe.bounded = 300 400\n"));
    assert_eq!(left.err, "pernetctl: probe.bounded: `400` was left over: it takes fewer numbers\n");
    assert_eq!(blue(&["probe.bounded"]), "probe.bounded = 300\n");
    m.stop();
}

fn mistakes(mut m: Machine) {
    started(&mut m, "");
    let done = sysctl(
        &m,
        &["--netns", "blue", "probe.nope", "probe.interval=64abc", "net.ipv4.ip_forward=1", "probe.interval"],
    );
    assert_eq!((done.code, done.out.as_str()), (1, "probe.interval = 1000\n"));
    let said: Vec<&str> = done.err.lines().collect();
    assert_eq!(
        said,
        [
            "pernetctl: sysctl probe.nope: ENOENT: there is no such sysctl in namespace blue; see those that are there with `pernetctl sysctl -a --netns NAME`, and which plugin has it",
            "pernetctl: blue:probe.interval: cannot be set: EINVAL: `64abc` is no number; write a number from 10 to 60000",
            "pernetctl: sysctl: `net.ipv4.ip_forward` is a sysctl of the kernel's; the plugin `sysctl` sets those: write it into its `[config]`, in plugins.d",
        ]
    );
    let only = |arguments: &[&str], part: &str| {
        let said = bad(&m, arguments);
        assert!(said.starts_with("pernetctl: ") && said.contains(part) && said.lines().count() == 1, "{said}");
    };
    only(&["-w", "probe.interval"], "`probe.interval`: it sets nothing; write KEY=VALUE");
    only(&["--netns", "nowhere", "probe.interval"], "namespace nowhere: there is no such namespace");
    only(&["-e", "--netns", "nowhere", "probe.interval"], "there is no such namespace");
    only(&["--netns", "re*", "probe.interval"], "namespaces re*: none is called so");
    only(&["--netns", "blue", "probe=5"], "EISDIR");
    only(&["--netns", "blue", "probe..x"], "a component that is empty");
    only(&["--netns", "blue", "probe.*"], "is a pattern");
    only(&["--netns", "blue", "probe.interval.x"], "ENOENT");
    only(&["--netns", "blue", "probe.fixed=1"], "EACCES: the mode 0444 of fixed does not allow that");
    only(&["--netns", "blue", "probe.where=1"], "EACCES");
    only(&["--netns", "blue", "probe.sink"], "blue:probe.sink: cannot be read: EACCES");
    // Usage is another matter.
    for wrong in [&["sysctl"][..], &["sysctl", "-n", "-N", "x"], &["sysctl", "--nope", "x"]] {
        assert_eq!(m.pernetctl_for_people(wrong.iter().copied()).output().unwrap().status.code(), Some(2));
    }
    m.stop();
    assert_eq!(sysctl(&m, &["-a"]).code, 3, "nobody answers");
}

fn refusals(mut m: Machine) {
    started(&mut m, "");
    for (key, value, errno) in [
        ("int", "2147483648", "EINVAL"),
        ("int", "-2147483649", "EINVAL"),
        ("int", "64abc", "EINVAL"),
        ("int", "", "EINVAL"),
        ("int", "  ", "EINVAL"),
        ("bounded", "0", "EINVAL"),
        ("uint", "-1", "EINVAL"),
        ("uint", "4294967296", "EINVAL"),
        ("interval", "9", "EINVAL"),
        ("interval", "60001", "EINVAL"),
        ("bool", "yes", "EINVAL"),
        ("ulong", "1000001", "EINVAL"),
        ("ulong", "-1", "EINVAL"),
        ("vector", "0 5 5", "EINVAL"),
        ("vector", "x", "EINVAL"),
        ("globs", "[[", "EINVAL"),
        ("own", "fail 28", "ENOSPC"),
    ] {
        let key = format!("probe.{key}");
        let before = sysctls::value(&m, "blue", &key);
        let said = bad(&m, &["--netns", "blue", &format!("{key}={value}")]);
        assert!(said.contains(&format!("cannot be set: {errno}: ")), "{key}={value}: {said}");
        assert_eq!(sysctls::value(&m, "blue", &key), before, "{key}={value}");
    }
    let page = " ".repeat(4096);
    let said = bad(&m, &["--netns", "blue", &format!("probe.own=x{page}x")]);
    assert!(said.contains("ENOMEM: 4099 bytes at once: write at most a page, 4096"), "{said}");
    assert_eq!(value(&m, "blue", "probe.own"), "");
    // What the kernel's strings do: cut off, without a word.
    good(&m, &["--netns", "blue", "probe.text=a text of more than fifteen bytes"]);
    assert_eq!(value(&m, "blue", "probe.text"), "a text of more ");
    m.stop();
}

fn patterns(mut m: Machine) {
    started(&mut m, "");
    add(&m, "blue-2");
    add(&m, "red");
    good(&m, &["--netns", "red", "probe.interval=77"]);
    assert_eq!(
        good(&m, &["--netns", "*", "probe.interval"]),
        "blue:probe.interval = 1000\nblue-2:probe.interval = 1000\nred:probe.interval = 77\n"
    );
    assert_eq!(
        good(&m, &["--netns", "blue*", "-w", "probe.interval=50"]),
        "blue:probe.interval = 50\nblue-2:probe.interval = 50\n"
    );
    assert_eq!(good(&m, &["-n", "--netns", "*", "probe.interval"]), "50\n50\n77\n");
    assert_eq!(good(&m, &["-N", "--netns", "b*2", "probe.interval"]), "blue-2:probe.interval\n");
    // The host's own is meant by name only; of several, those that have it are meant.
    assert_eq!(good(&m, &["--netns", "@*", "-n", "pernetd.log_level"]), "info\n");
    let said = bad(&m, &["--netns", "*", "pernetd.log_level"]);
    assert!(said.contains("ENOENT: no namespace that is called * has such a sysctl"), "{said}");
    let said = bad(&m, &["--netns", "*", "probe.interval=5"]);
    assert_eq!(said.lines().count(), 3, "each refuses for itself: {said}");
    m.stop();
}

fn files(mut m: Machine) {
    started(&mut m, "");
    add(&m, "red");
    let text = "# a comment\nprobe.interval = 50\nred:probe.interval = 60\n*.ulong* = 9\n-probe.ulongs\n-probe.int = nonsense\n\
                probe.bounded = 0\n@host:pernetd.unregister_timeout = 30\nprobe.nope = 1\nprobe.text = end\n";
    m.write("some.conf", text);
    let done = sysctl(&m, &["-p", "/pernet/some.conf"]);
    assert_eq!(done.code, 1);
    let set = "blue:probe.interval = 50\nred:probe.interval = 50\nred:probe.interval = 60\nblue:probe.ulong = 9\n\
               red:probe.ulong = 9\n@host:pernetd.unregister_timeout = 30\nblue:probe.text = end\nred:probe.text = end\n";
    assert_eq!(done.out, set);
    let said: Vec<&str> = done.err.lines().collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(
        said[0].starts_with("pernetctl: /pernet/some.conf:7: blue:probe.bounded: cannot be set: EINVAL"),
        "{said:?}"
    );
    assert!(said[1].starts_with("pernetctl: /pernet/some.conf:7: red:probe.bounded"), "{said:?}");
    assert!(said[2].starts_with("pernetctl: /pernet/some.conf:9: sysctl probe.nope: ENOENT"), "{said:?}");
    assert_eq!(value(&m, "blue", "probe.ulongs"), "1\t2\t3", "excluded from the pattern");
    // Standard input, and only one namespace.
    let mut child = m.pernetctl_for_people(["sysctl", "-e", "-q", "-p", "-", "--netns", "red"]);
    let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"probe.interval = 99\nprobe.nope = 1\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!((value(&m, "red", "probe.interval"), value(&m, "blue", "probe.interval")), ("99".into(), "50".into()));
    // A file with a mistake is not begun with.
    m.write("wrong.conf", "probe.interval = 11\nnonsense\n");
    let said = bad(&m, &["-p", "/pernet/wrong.conf"]);
    assert!(said.contains("/pernet/wrong.conf:2:1: `nonsense` is no assignment"), "{said}");
    assert!(bad(&m, &["-p", "/pernet/nowhere.conf"]).contains("/pernet/nowhere.conf: cannot be read"));
    assert_eq!(value(&m, "blue", "probe.interval"), "50");
    m.stop();
}

fn as_json(mut m: Machine) {
    started(&mut m, "");
    let row = |key: &str, mode: u32, kind: &str, value: Value| {
        json!({ "netns": "blue", "key": key, "plugin": "probe-sysctl", "mode": mode, "kind": kind, "value": value,
                "left_over": null, "errno": null, "error": null })
    };
    let read = m.ctl(["sysctl", "--netns", "blue", "probe.vector", "probe.secret"]);
    let vector = row("probe.vector", 0o644, "int", json!("4096\t131072\t6291456"));
    assert_eq!(read, json!([vector, row("probe.secret", 0o600, "uint", json!("42"))]));
    let answer = m.ask(["sysctl", "--netns", "blue", "probe.interval=1"]);
    assert_eq!(answer.code, 1);
    let failed = &answer.json[0];
    assert_eq!((&failed["errno"], &failed["value"]), (&json!("EINVAL"), &Value::Null));
    assert_eq!(failed["error"], "`1` is out of range; write a number from 10 to 60000");
    assert!(answer.stderr.contains("cannot be set: EINVAL"), "{}", answer.stderr);
    assert_eq!(m.ctl(["sysctl", "-e", "probe.nope"]), json!([]));
    assert_eq!(m.ctl(["sysctl", "-a"])[0]["plugin"], "pernetd");
    m.stop();
}

fn own_knobs(mut m: Machine) {
    started(&mut m, "");
    assert!(!m.log().contains("DEBUG"));
    good(&m, &["-w", "pernetd.log_level=debug"]);
    add(&m, "red");
    wait_log(&m, "DEBUG probe-sysctl red              the probe has its sysctls");
    lines(&m, "probe.interval = 500\n");
    assert_eq!(m.ctl(["reload"])["ok"], true);
    wait_log(&m, "/pernet/sysctl.d/50-test.conf:1: probe.interval = 500");
    good(&m, &["-w", "pernetd.log_level=error"]);
    let before = m.log().len();
    add(&m, "green");
    assert_eq!(m.log().len(), before, "nothing is logged but errors");
    for (setting, part) in [
        ("pernetd.log_level=loud", "EINVAL: `loud` is no level; write error, warn, info, debug or trace"),
        ("pernetd.unregister_timeout=0", "EINVAL: `0` is out of range; write a number from 1 to 3600"),
        ("pernetd.workers=0", "EINVAL: `0` is out of range; write a number from 1 to 1024"),
        ("pernetd.receive_buffer=1", "EACCES"),
    ] {
        let said = bad(&m, &[setting]);
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(good(&m, &["-n", "pernetd.log_level", "pernetd.unregister_timeout"]), "error\n10\n");
    // A reload undoes nothing that was set by hand, unless the file says something else than before.
    good(&m, &["-q", "pernetd.unregister_timeout=44"]);
    assert_eq!(m.ctl(["reload"])["ok"], true);
    assert_eq!(good(&m, &["-n", "pernetd.log_level", "pernetd.unregister_timeout"]), "error\n44\n");
    m.main("unregister_timeout = 20\nlog.level = \"warn\"");
    assert_eq!(m.ctl(["reload"])["ok"], true);
    assert_eq!(good(&m, &["-n", "pernetd.log_level", "pernetd.unregister_timeout"]), "warn\n20\n");
    m.stop();
}

/// Threads of the pool.
fn pool(m: &Machine) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", m.pid().as_raw_pid())).unwrap().flatten();
    tasks.filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm == "worker\n")).count()
}

fn workers(mut m: Machine) {
    m.main("workers = 3");
    probe(&m, "");
    m.start();
    // One more is for looks.
    wait_until("3 and 1 threads", SOON, || pool(&m) == 4);
    assert_eq!(good(&m, &["pernetd.workers"]), "pernetd.workers = 3\n");
    good(&m, &["pernetd.workers=7"]);
    wait_until("7 and 1 threads", SOON, || pool(&m) == 8);
    good(&m, &["pernetd.workers=1"]);
    wait_until("1 and 1 threads", SOON, || pool(&m) == 2);
    for name in ["blue", "red", "green"] {
        add(&m, name);
    }
    m.main("workers = 2");
    assert_eq!(m.ctl(["reload"])["ok"], true);
    wait_until("2 and 1 threads", SOON, || pool(&m) == 3);
    m.stop();
}

fn own_knobs_configured(mut m: Machine) {
    m.main("unregister_timeout = 7");
    lines(&m, "@host:pernetd.unregister_timeout = 8\n@host:pernetd.receive_buffer = 9\n@*:pernetd.workers = 2000\n");
    m.start();
    let own = |m: &Machine| good(m, &["-n", "pernetd.unregister_timeout"]);
    assert_eq!(own(&m), "8\n");
    wait_log(
        &m,
        "/pernet/sysctl.d/50-test.conf:2: pernetd.receive_buffer = 9: the mode 0444 of receive_buffer does not allow that",
    );
    wait_log(&m, "/pernet/sysctl.d/50-test.conf:3: pernetd.workers = 2000: `2000` is out of range");
    m.main("unregister_timeout = 9");
    assert_eq!(m.ctl(["reload"])["ok"], true);
    assert_eq!(own(&m), "8\n", "what sysctl.d says counts before the main file");
    lines(&m, "@host:pernetd.unregister_timeout = 11\n");
    assert_eq!(m.ctl(["reload"])["ok"], true);
    assert_eq!(own(&m), "11\n");
    let Done { code, .. } = sysctl(&m, &["--netns", "@host", "pernetd"]);
    assert_eq!(code, 0);
    m.stop();
}
