//! The life of a plugin's sysctls: what `sysctl.d` says of them when they come and when it changes, and how they go with
//! their namespace, their plugin, or with a handler that is in the way.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;
mod sysctls;

use std::fs;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use machine::{Machine, SOON, one, second_name};
use sandbox::{netns_add, netns_del, wait_until};
use sysctls::{
    FILE, add, bad, begin, done, ended, good, inode, lines, probe, record, started, sysctl, value, wait_log,
    wait_record,
};

fn main() -> ExitCode {
    let trials = [
        one("a line counts before its plugin is there", before_the_plugin),
        one("a value that is refused is told with its place, and the default stays", refused),
        one("a reload carries out what has changed, and no more", reloaded),
        one("a mistake in sysctl.d fails the reload, and the check", mistakes),
        one("a reload that fails leaves the old lines in force", rolled_back),
        one("a new name has the lines for it carried out", renamed),
        one("a namespace's end takes its sysctls along", namespace_ends),
        one("a namespace's end waits for a handler, no longer than configured", hanging),
        one("a handler that wants into a namespace that ends is told so", wanting_in),
        one("a reload that takes the plugin out does not wait for what it holds up", plugin_goes),
        one("what a plugin leaves is unregistered and named", left),
        one("a handler cannot unregister its own table", from_inside),
        one("a handler that panics is its caller's EIO and its plugin's end", panicking),
        one("a handler that hangs holds up nobody else", others_go_on),
        one("a handler that hangs holds up neither a reload nor the end", reload_and_end),
        one("a plugin that fails in its registrations leaves nothing", failing),
        one("readers and writers while namespaces come and go", hammered),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

const FIRST: &str = "int=3 interval=1000 bool=true vector=[4096, 131072, 6291456] text=quiet";

fn before_the_plugin(mut m: Machine) {
    let text = "probe.interval = 50\nblue-*:probe.interval = 60\nprobe.vector = 5\nprobe.text = from a file\nprobe.own = own\n\
                later.count = 9\n";
    lines(&m, text);
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    probe(&m, "");
    assert_eq!(m.ctl(["reload"])["ok"], true);
    // The plugin itself sees them when its registration returns.
    wait_record("registered blue int=3 interval=50 bool=true vector=[5, 131072, 6291456] text=from a file");
    add(&m, "blue-2");
    wait_record("registered blue-2 int=3 interval=60 bool=true vector=[5, 131072, 6291456] text=from a file");
    assert_eq!((value(&m, "blue", "probe.own"), value(&m, "blue-2", "probe.interval")), ("own".into(), "60".into()));
    m.stop();
}

fn refused(mut m: Machine) {
    let text = "probe.interval = 5\n-probe.uint = -1\nprobe.vector = 7 8 x\nprobe.globs = [[\nprobe.fixed = 1\nprobe.own = fail 5\n\
                probe.int = 2\n";
    lines(&m, text);
    started(&mut m, "");
    wait_record(&format!("registered blue {}", FIRST.replace("int=3", "int=2")));
    let log = m.log();
    for part in [
        "WARN  probe-sysctl blue             /pernet/sysctl.d/50-test.conf:1: probe.interval = 5: `5` is out of range; write a number from 10 to 60000 (EINVAL); it stays as it was",
        "/pernet/sysctl.d/50-test.conf:3: probe.vector = 7 8 x: `x` is no number",
        "/pernet/sysctl.d/50-test.conf:4: probe.globs = [[: `[[` is no pattern",
        "/pernet/sysctl.d/50-test.conf:5: probe.fixed = 1: the mode 0444 of fixed does not allow that",
        "/pernet/sysctl.d/50-test.conf:6: probe.own = fail 5: as asked, in a handler",
    ] {
        assert!(log.contains(part), "{part}\n{log}");
    }
    assert!(!log.contains("probe.uint"), "passed over in silence: {log}");
    assert_eq!(value(&m, "blue", "probe.vector"), "4096\t131072\t6291456", "whole, though two of its values are right");
    m.stop();
}

fn reloaded(mut m: Machine) {
    lines(&m, "probe.interval = 50\nprobe.bounded = 60\nprobe.ulong = 70\n");
    started(&mut m, "");
    add(&m, "red");
    good(&m, &["-q", "--netns", "blue", "probe.interval=51", "probe.bounded=61", "probe.ulong=71", "probe.int=5"]);
    lines(
        &m,
        "# the first line has moved\nprobe.interval = 50\nprobe.bounded = 66\nblue:probe.int = 9\nred:probe.text = new\n",
    );
    assert_eq!(m.ctl(["reload"])["ok"], true);
    let of = |netns: &str| {
        ["interval", "bounded", "ulong", "int", "text"].map(|key| value(&m, netns, &format!("probe.{key}")))
    };
    assert_eq!(
        of("blue"),
        ["51", "66", "71", "9", "quiet"],
        "what was set by hand stays where the lines say the same as before, or no more"
    );
    assert_eq!(of("red"), ["50", "66", "70", "3", "new"]);
    let kept = record().iter().filter(|line| line.starts_with("registered")).count();
    assert_eq!(kept, 2, "the plugin saw nothing of it");
    add(&m, "green");
    assert_eq!(value(&m, "green", "probe.bounded"), "66");
    m.stop();
}

fn mistakes(mut m: Machine) {
    lines(&m, "probe.interval = 50\n");
    started(&mut m, "");
    assert_eq!(m.check().0, 0);
    for (text, part) in [
        ("probe.interval = 60\nnonsense\n", "50-test.conf:2:1: `nonsense` is no assignment"),
        (
            "probe.interval = 60\nnet.core.somaxconn = 5\n",
            "50-test.conf:2:1: `net.core.somaxconn` is a sysctl of the kernel's; the plugin `sysctl` sets those",
        ),
        ("probe.interval = 60\n[x:probe.int = 5\n", "50-test.conf:2:1: `[x`"),
    ] {
        lines(&m, text);
        let (code, said) = m.check();
        assert!(code == 1 && said.contains(part), "{said}");
        let answer = m.reload();
        assert!(answer.code == 1 && answer.stderr.contains(part), "{}", answer.stderr);
        assert_eq!(value(&m, "blue", "probe.interval"), "50");
    }
    m.stop();
    m.spawn();
    assert_eq!(m.end().code(), Some(78), "nor does it start with one");
}

fn rolled_back(mut m: Machine) {
    lines(&m, "probe.interval = 50\n");
    started(&mut m, "");
    good(&m, &["-q", "--netns", "blue", "probe.interval=51"]);
    lines(&m, "probe.interval = 60\n");
    // Its table is refused, after the lines have been taken over.
    probe(&m, "path = \"net/probe\"");
    assert_eq!(m.reload().code, 1);
    assert_eq!(value(&m, "blue", "probe.interval"), "50", "the plugin was put back, with the old lines");
    add(&m, "red");
    assert_eq!(value(&m, "red", "probe.interval"), "50");
    probe(&m, "");
    assert_eq!(m.ctl(["reload"])["ok"], true);
    assert_eq!(value(&m, "red", "probe.interval"), "60");
    m.stop();
}

fn renamed(mut m: Machine) {
    lines(&m, "probe.interval = 50\nlab-*:probe.interval = 60\nlab-*:probe.bounded = 70\n");
    started(&mut m, "");
    good(&m, &["-q", "--netns", "blue", "probe.int=8"]);
    second_name("blue", "lab-1");
    wait_until("the lines of the new name", SOON, || {
        sysctl(&m, &["-n", "--netns", "lab-1", "probe.interval", "probe.bounded", "probe.int"]).out == "60\n70\n8\n"
    });
    m.stop();
}

fn namespace_ends(mut m: Machine) {
    started(&mut m, "");
    add(&m, "red");
    netns_del("blue");
    m.wait_gone("blue");
    wait_record("unregistered blue 0");
    assert!(bad(&m, &["--netns", "blue", "probe.int"]).contains("there is no such namespace"));
    assert_eq!(good(&m, &["--netns", "*", "-N", "probe.int"]), "red:probe.int\n");
    add(&m, "blue");
    assert_eq!(value(&m, "blue", "probe.interval"), "1000");
    m.stop();
    assert!(!m.log().contains("sysctl"), "nothing was left: {}", m.log());
}

fn hanging(mut m: Machine) {
    m.main("unregister_timeout = 1");
    started(&mut m, "");
    let write = begin(&m, "blue", "probe.own=until /pernet/go");
    wait_record("hanging");
    netns_del("blue");
    m.wait_gone("blue");
    wait_record(&format!("unregistered blue {}", libc::ETIMEDOUT));
    let told = "the sysctl table probe is unregistered, but 1 of its handlers did not return within 1s; it is freed when they do";
    wait_log(&m, told);
    fs::write("/pernet/go", "").unwrap();
    assert_eq!(ended(write), (0, String::new()), "who was in gets his answer");
    // In time, nothing is said.
    add(&m, "red");
    fs::remove_file("/pernet/go").unwrap();
    good(&m, &["-q", "pernetd.unregister_timeout=20"]);
    let hung = record().len();
    let write = begin(&m, "red", "probe.own=until /pernet/go");
    wait_until("the handler hangs", SOON, || record()[hung..].contains(&"hanging".to_owned()));
    netns_del("red");
    wait_until("red is dying", SOON, || m.netns("red")["state"] == "dying");
    bad(&m, &["--netns", "red", "probe.int"]);
    fs::write("/pernet/go", "").unwrap();
    m.wait_gone("red");
    wait_record("unregistered red 0");
    assert_eq!(ended(write).0, 0);
    m.stop();
}

fn wanting_in(mut m: Machine) {
    started(&mut m, "");
    good(&m, &["-q", "--netns", "blue", "probe.own=run_in"]);
    assert_eq!(value(&m, "blue", "probe.own"), format!("blue {}", inode("blue")), "the way into the namespace");
    // The namespace's end waits for the handler, and the handler for the namespace, but for a moment.
    let write = begin(&m, "blue", "probe.own=run_in /pernet/go");
    wait_record("hanging");
    netns_del("blue");
    wait_until("its exit waits", SOON, || {
        m.netns("blue")["state"] == "dying" && !m.status()["pinned"].as_array().unwrap().is_empty()
    });
    let begun = Instant::now();
    fs::write("/pernet/go", "").unwrap();
    let (code, said) = ended(write);
    assert!(
        code == 1 && said.contains("ECANCELED: the sysctl table that this is a handler of is unregistered"),
        "{said}"
    );
    m.wait_gone("blue");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    wait_record("unregistered blue 0");
    m.stop();
}

fn plugin_goes(mut m: Machine) {
    started(&mut m, "");
    let write = begin(&m, "blue", "probe.own=until /pernet/go");
    wait_record("hanging");
    m.remove(FILE);
    let reload = m.pernetctl_for_people(["reload"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it is out of sight", SOON, || sysctl(&m, &["--netns", "blue", "probe.int"]).code == 1);
    fs::write("/pernet/go", "").unwrap();
    assert_eq!(ended(reload), (0, String::new()));
    assert_eq!(ended(write).0, 0);
    wait_record("unregistered blue 0");
    // And one that wants into the namespace, which the reload holds closed.
    fs::remove_file("/pernet/go").unwrap();
    probe(&m, "label = \"again\"");
    assert_eq!(m.ctl(["reload"])["ok"], true);
    assert_eq!(value(&m, "blue", "probe.own"), "again");
    m.remove(FILE);
    let write = begin(&m, "blue", "probe.own=run_in /pernet/go");
    wait_until("it hangs", SOON, || record().iter().filter(|line| *line == "hanging").count() == 2);
    let reload = m.pernetctl_for_people(["reload"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it is out of sight", SOON, || sysctl(&m, &["--netns", "blue", "probe.int"]).code == 1);
    fs::write("/pernet/go", "").unwrap();
    assert_eq!(ended(reload), (0, String::new()));
    assert!(ended(write).1.contains("ECANCELED"));
    let pause = m.status()["last_reload"]["pause_us"].as_u64().unwrap();
    assert!(pause < 5_000_000, "{pause} us");
    m.stop();
}

fn left(mut m: Machine) {
    started(&mut m, "leave = true");
    add(&m, "red");
    netns_del("blue");
    m.wait_gone("blue");
    let told = "sysctl.unregister failed: it left the sysctl table probe registered; it is unregistered now (EBUSY)";
    let at = |netns: &str| format!("probe-sysctl {netns:16} {told}");
    wait_log(&m, &at("blue"));
    assert!(!m.log().contains(&at("red")));
    m.remove(FILE);
    assert_eq!(m.ctl(["reload"])["ok"], true);
    wait_log(&m, &at("red"));
    assert!(bad(&m, &["--netns", "red", "probe.int"]).contains("ENOENT"));
    // The same path is free again.
    probe(&m, "");
    assert_eq!(m.ctl(["reload"])["ok"], true);
    assert_eq!(value(&m, "red", "probe.int"), "3");
    m.stop();
}

fn from_inside(mut m: Machine) {
    started(&mut m, "");
    let said = bad(&m, &["--netns", "blue", "probe.own=unregister"]);
    assert!(
        said.contains("EDEADLK: the sysctl table probe cannot be unregistered by one of its own handlers"),
        "{said}"
    );
    wait_record(&format!("from a handler {}", libc::EDEADLK));
    assert_eq!(value(&m, "blue", "probe.int"), "3", "it is there still");
    netns_del("blue");
    m.wait_gone("blue");
    wait_log(&m, "it left the sysctl table probe registered");
    m.stop();
}

fn panicking(mut m: Machine) {
    started(&mut m, "");
    add(&m, "red");
    let said = bad(&m, &["--netns", "blue", "probe.own=panic"]);
    assert!(said.contains("cannot be set: EIO: ") && said.contains("as asked, in a handler"), "{said}");
    wait_until("the plugin has failed", SOON, || m.plugin("sysctl")["state"] == "failed");
    assert_eq!(m.plugin("sysctl")["error"]["hook"], "panic");
    assert!(bad(&m, &["--netns", "red", "probe.int"]).contains("ENOENT"), "its tables go with it");
    assert_eq!(m.status()["state"], "running");
    assert_eq!(m.ctl(["reload"])["ok"], true);
    assert_eq!(value(&m, "red", "probe.int"), "3");
    m.stop();
}

fn others_go_on(mut m: Machine) {
    started(&mut m, "");
    let writes: Vec<_> = (0..6).map(|_| begin(&m, "blue", "probe.own=until /pernet/go")).collect();
    wait_until("all hang", SOON, || record().iter().filter(|line| *line == "hanging").count() == 6);
    assert_eq!((value(&m, "blue", "probe.int"), value(&m, "blue", "probe.own")), ("3".into(), String::new()));
    good(&m, &["-q", "--netns", "blue", "probe.int=4"]);
    add(&m, "red");
    // A client that goes is nobody's trouble.
    let mut gone = begin(&m, "red", "probe.own=until /pernet/go");
    wait_until("it hangs, too", SOON, || record().iter().filter(|line| *line == "hanging").count() == 7);
    gone.kill().unwrap();
    gone.wait().unwrap();
    assert_eq!(value(&m, "red", "probe.int"), "3");
    fs::write("/pernet/go", "").unwrap();
    writes.into_iter().for_each(|write| assert_eq!(ended(write).0, 0));
    m.stop();
}

fn reload_and_end(mut m: Machine) {
    m.main("unregister_timeout = 1");
    started(&mut m, "");
    add(&m, "red");
    lines(&m, "probe.own = until /pernet/go\nprobe.int = 5\n");
    assert_eq!(m.ctl(["reload"])["ok"], true);
    wait_log(&m, "a handler does not return (1s): not all of sysctl.d's changes are carried out yet");
    assert_eq!(
        value(&m, "blue", "probe.int"),
        "5",
        "the lines of a namespace are carried out in the order of the keys"
    );
    // It goes on where it was, as soon as it can.
    assert_eq!(value(&m, "red", "probe.int"), "3");
    fs::write("/pernet/go", "").unwrap();
    wait_until("red has its turn", SOON, || value(&m, "red", "probe.int") == "5");
    fs::remove_file("/pernet/go").unwrap();
    let hung = record().len();
    let write = begin(&m, "blue", "probe.own=until /pernet/go");
    wait_until("it hangs", SOON, || record().len() > hung);
    m.stop();
    assert!(m.log().contains("sysctl.write") && m.log().contains("does not return"), "{}", m.log());
    assert_eq!(ended(write).0, 3, "nobody is left to answer");
}

fn failing(mut m: Machine) {
    let more = |path: &str, names: &str| {
        format!("more = [{{ path = \"first\", names = [\"x\"] }}, {{ path = \"{path}\", names = [{names}] }}]")
    };
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    for (path, names, errno, part) in [
        ("probe", "\"new\", \"int\"", "EEXIST", "sysctl duplicate entry: probe/int"),
        ("a", "\"x\", \"x\"", "EEXIST", "sysctl duplicate entry: a/x"),
        ("a", "\"x\", \"\"", "EINVAL", "it is empty"),
        ("a//b", "\"x\"", "EINVAL", "it is empty"),
        ("probe/int", "\"x\"", "ENOTDIR", "is an entry, not a directory"),
        ("net/ipv4", "\"x\"", "EINVAL", "its first directory is not for plugins"),
        ("pernetd", "\"x\"", "EINVAL", "its first directory is not for plugins"),
    ] {
        probe(&m, &more(path, names));
        let answer = m.reload();
        assert!(answer.code == 1 && answer.stderr.contains(part), "{errno} {path}: {}", answer.stderr);
        assert_eq!(good(&m, &["-a", "--netns", "blue"]), "", "{path}: nothing stays");
    }
    probe(&m, &more("second", "\"y\""));
    assert_eq!(m.ctl(["reload"])["ok"], true);
    assert_eq!(good(&m, &["--netns", "blue", "first", "second"]), "first.x = 0\nsecond.y = 0\n");
    m.stop();
}

fn hammered(mut m: Machine) {
    started(&mut m, "");
    let until = Instant::now() + Duration::from_secs(4);
    thread::scope(|scope| {
        for client in 0..3 {
            scope.spawn(move || {
                while Instant::now() < until {
                    let mut command = Command::new(env!("CARGO_BIN_EXE_pernetctl"));
                    command.args(["--runtime-dir", "/pernet/run", "sysctl", "-e", "--netns", "n*", "probe.vector"]);
                    let done = done(command.arg("probe.own").arg(format!("probe.interval={}", 100 + client)));
                    // Between the look and the call a namespace may go.
                    let expected = |line: &&str| {
                        ["none is called so", "ENOENT", "no such sysctl"].iter().any(|part| line.contains(part))
                    };
                    assert!(done.err.lines().all(|line| expected(&line)), "{}", done.err);
                }
            });
        }
        let mut n = 0;
        while Instant::now() < until {
            n += 1;
            add(&m, &format!("n{n}"));
            if n > 3 {
                netns_del(format!("n{}", n - 3));
            }
        }
        assert!(n > 20, "only {n} namespaces");
    });
    assert_eq!(value(&m, "blue", "probe.interval"), "1000");
    m.stop();
    assert!(!m.log().contains("WARN") && !m.log().contains("ERROR"), "{}", m.log());
}
