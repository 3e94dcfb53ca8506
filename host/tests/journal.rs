//! The daemon's log: as entries of a journal with their fields, and as lines where there is no journal, or not any more.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod journald;
mod machine;
mod sandbox;

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use journald::{Entry, Journal, SOCKET, bind};
use machine::{Machine, SOON, one};
use pernetd::logging::catalog;
use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use sandbox::{netns_add, wait_until};

fn main() -> ExitCode {
    let trials = [
        one("a setup that fails is told with its fields, and its mending", setup),
        one("a hook of a device that fails is told with the device", device),
        one("a hook that hangs is told, and that it has returned", hang),
        one("a plugin that panics is told, and what it panicked about", panics),
        one("a plugin's lines are attributed, on its own threads too", plugin_lines),
        one("a reload that fails has an entry for each mistake, with its place", reload),
        one("a start that fails is an entry with its place", start),
        one("a message of a mebibyte comes whole", large),
        one("without the journal's socket lines go to standard error, until it is back", gone),
        one("a journal that hangs holds nobody up, and what is lost is told", hanging),
        one("a standard error that is not the journal's gets lines", elsewhere),
    ];
    let has_journalctl = Command::new("journalctl").arg("--version").output().is_ok();
    let compiled = sandbox::trial("systemd compiles the catalog", compiled).ignored_if(!has_journalctl);
    let terminals = one("on a terminal there are colours, unless they are not wanted", terminal);
    let terminals = terminals.into_iter().map(|trial| trial.ignored_if(terminal_of_its_own().is_err()));
    sandbox::main(trials.into_iter().flatten().chain(terminals).chain([compiled]).collect())
}

/// The stream that systemd would have made: a socket, of which the other end is ours.
fn stream() -> (UnixStream, OwnedFd) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours, theirs.into())
}

/// A daemon whose journal is ours.
fn in_journal(m: &mut Machine) -> (Journal, UnixStream) {
    let journal = Journal::default();
    journal.serve(bind());
    let (ours, theirs) = stream();
    m.spawn_logging_to(theirs, true);
    (journal, ours)
}

fn text(entry: &Entry) -> &str {
    entry.get("MESSAGE")
}

/// What came on the stream so far.
fn so_far(stream: &mut UnixStream) -> String {
    stream.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

fn setup(mut m: Machine) {
    let fault =
        "faults = [{ hook = \"pernet.init\", netns = \"blue\", when = \"/pernet/broken\", action = { fail = 19 } }]";
    m.probe(10, "a", "", fault);
    m.write("broken", "");
    let (journal, mut stream) = in_journal(&mut m);
    m.wait_running();
    let ready = journal.wait_id(catalog::READY);
    assert!(text(&ready).starts_with("ready: 1 namespaces, 1 of 1 plugins live"), "{ready:?}");
    netns_add("blue");
    let failed = journal.wait_id(catalog::NETNS_FAILED);
    for (field, value) in [
        ("PRIORITY", "4"),
        ("SYSLOG_IDENTIFIER", "pernetd"),
        ("PERNET_NETNS", "blue"),
        ("PERNET_PLUGIN", "probe-a"),
        ("PERNET_HOOK", "pernet.init"),
        ("ERRNO", "19"),
    ] {
        assert_eq!(failed.get(field), value, "{failed:?}");
    }
    assert!(text(&failed).starts_with("probe-a: failed: pernet.init: as asked, in pernet.init of blue"), "{failed:?}");
    assert!(text(&failed).ends_with("(ENODEV); tried again in 1s"), "{failed:?}");
    assert!(failed.get("CODE_FILE").ends_with("namespaces.rs") && !failed.get("CODE_LINE").is_empty(), "{failed:?}");
    let hook = journal.wait_id(catalog::HOOK_FAILED);
    assert_eq!((hook.get("PERNET_HOOK"), hook.get("PERNET_NETNS")), ("pernet.init", "blue"));
    m.remove("broken");
    m.ctl(["netns", "retry", "blue"]);
    let mended = journal.wait_id(catalog::NETNS_MENDED);
    assert_eq!((mended.get("PERNET_NETNS"), mended.get("PRIORITY")), ("blue", "6"));
    m.stop();
    journal.wait_id(catalog::STOPPING);
    for entry in journal.entries() {
        assert!(!text(&entry).is_empty() && !entry.get("PRIORITY").is_empty() && !entry.get("TID").is_empty());
    }
    assert_eq!(so_far(&mut stream), "", "nothing is said twice");
}

fn device(mut m: Machine) {
    m.probe(10, "a", "", "notifier = 0\nfaults = [{ hook = \"netdev.up\", netns = \"blue\", action = { fail = 5 } }]");
    let (journal, _stream) = in_journal(&mut m);
    m.wait_running();
    netns_add("blue");
    m.wait_state("blue", "live");
    machine::inside("blue", || pernetd::linux::rtnetlink::set_up(1).unwrap());
    let failed = journal.wait_id(catalog::HOOK_FAILED);
    let fields =
        ["PERNET_PLUGIN", "PERNET_NETNS", "PERNET_HOOK", "PERNET_DEVICE", "ERRNO"].map(|name| failed.get(name));
    assert_eq!(fields, ["probe-a", "blue", "netdev.up", "lo", "5"], "{failed:?}");
    assert!(text(&failed).starts_with("probe-a: netdev.up of lo failed: as asked, in netdev.up of blue"), "{failed:?}");
    m.stop();
}

fn hang(mut m: Machine) {
    m.probe(
        10,
        "a",
        "",
        "faults = [{ hook = \"pernet.init\", netns = \"blue\", action = { until = \"/pernet/go-on\" } }]",
    );
    let (journal, _stream) = in_journal(&mut m);
    m.wait_running();
    netns_add("blue");
    let fields =
        |e: &Entry| ["PLUGIN", "NETNS", "HOOK", "GENERATION"].map(|f| e.get(&format!("PERNET_{f}")).to_owned());
    let hangs = journal.wait_id(catalog::HOOK_HANGS);
    assert_eq!(fields(&hangs), ["probe-a", "blue", "pernet.init", "1"], "{hangs:?}");
    assert!(text(&hangs).starts_with("probe-a in blue: pernet.init has been running for 1"), "{hangs:?}");
    m.write("go-on", "");
    let returned = journal.wait_id(catalog::HOOK_RETURNED);
    assert_eq!(fields(&returned), fields(&hangs));
    assert_eq!(journal.entries().iter().filter(|e| e.get("MESSAGE_ID") == catalog::HOOK_HANGS).count(), 1, "once");
    m.stop();
}

fn panics(mut m: Machine) {
    m.probe(10, "a", "", "faults = [{ hook = \"pernet.init\", netns = \"blue\", action = \"panic\" }]");
    let (journal, _stream) = in_journal(&mut m);
    m.wait_running();
    netns_add("blue");
    let taken_out = journal.wait_id(catalog::PLUGIN_PANICKED);
    let fields = ["PRIORITY", "PERNET_PLUGIN", "PERNET_GENERATION"].map(|name| taken_out.get(name));
    assert_eq!(fields, ["3", "probe-a", "1"], "{taken_out:?}");
    let said = journal.wait("its panic", |e| text(e).contains("panicked: as asked"));
    let fields = ["PERNET_PLUGIN", "PERNET_NETNS", "PERNET_HOOK"].map(|name| said.get(name));
    assert_eq!(fields, ["probe-a", "blue", "pernet.init"], "{said:?}");
    assert!(said.get("PERNET_LOCATION").contains("probe/mod.rs:"), "{said:?}");
    m.stop();
}

fn plugin_lines(mut m: Machine) {
    m.probe(10, "log", "", r#"say = "one\nPRIORITY=0""#);
    netns_add("blue");
    let (journal, _stream) = in_journal(&mut m);
    let said = journal.wait("the hook's line", |e| text(e).contains("one\nPRIORITY=0"));
    for (field, value) in [
        ("MESSAGE", "probe-log in blue: one\nPRIORITY=0 answer=42 device=eth7 own_netns=elsewhere"),
        ("PRIORITY", "4"),
        ("PERNET_PLUGIN", "probe-log"),
        ("PERNET_NETNS", "blue"),
        ("PERNET_HOOK", "pernet.init"),
        ("PERNET_GENERATION", "1"),
        ("PERNET_DEVICE", "eth7"),
        ("PERNET_OWN_NETNS", "elsewhere"),
        ("PERNET_ANSWER", "42"),
        ("PERNET_TARGET", "probe_log"),
    ] {
        assert_eq!(said.get(field), value, "{field}: {said:?}");
    }
    let own = journal.wait("its thread's line", |e| text(e).contains("from a thread"));
    for (field, value) in [
        ("MESSAGE", "probe-log in blue: from a thread of its own why=\"it may\""),
        ("PERNET_PLUGIN", "probe-log"),
        ("PERNET_GENERATION", "1"),
        ("PERNET_NETNS", "blue"),
        ("PERNET_HOOK", ""),
        ("PERNET_WHY", "it may"),
    ] {
        assert_eq!(own.get(field), value, "{field}: {own:?}");
    }
    m.wait_running();
    m.stop();
}

fn reload(mut m: Machine) {
    m.probe(10, "a", "", "");
    let (journal, _stream) = in_journal(&mut m);
    m.wait_running();
    m.main("[log]\nlevel = \"loud\"");
    m.write("plugins.d/20-x.toml", "level = 3\n");
    assert_eq!(m.reload().code, 1);
    let told: Vec<Entry> =
        journal.entries().into_iter().filter(|e| e.get("MESSAGE_ID") == catalog::RELOAD_FAILED).collect();
    let place = |e: &Entry| ["FILE", "LINE", "COLUMN"].map(|part| e.get(&format!("PERNET_CONFIG_{part}")).to_owned());
    let places: Vec<[String; 3]> = told.iter().map(place).collect();
    assert_eq!(places, [["/pernet/pernetd.toml", "4", "9"], ["/pernet/plugins.d/20-x.toml", "1", "1"]], "{told:?}");
    for entry in &told {
        let [file, line, column] = place(entry);
        assert!(text(entry).starts_with(&format!("reload failed: {file}:{line}:{column}: ")), "{entry:?}");
        assert_eq!(entry.get("PRIORITY"), "3");
    }
    // A plugin that fails to start is named, with where it was.
    netns_add("blue");
    m.wait_state("blue", "live");
    m.main("");
    m.remove("plugins.d/20-x.toml");
    m.probe(20, "b", "", "faults = [{ hook = \"pernet.init\", netns = \"blue\", action = { fail = 5 } }]");
    assert_eq!(m.reload().code, 1);
    let failed =
        journal.wait("the plugin's failure", |e| e.get("PERNET_PLUGIN") == "probe-b" && text(e).contains("reload"));
    let fields = ["MESSAGE_ID", "PERNET_NETNS", "PERNET_HOOK", "ERRNO"].map(|name| failed.get(name));
    assert_eq!(fields, [catalog::RELOAD_FAILED, "blue", "pernet.init", "5"]);
    assert!(text(&failed).ends_with("; the old set was put back"), "{failed:?}");
    m.no_probe(20, "b");
    assert_eq!(m.reload().code, 0);
    assert_eq!(journal.wait_id(catalog::RELOADED).get("PERNET_GENERATION"), "2");
    m.stop();
}

fn start(mut m: Machine) {
    m.main("workers = \"many\"");
    let (journal, mut stream) = in_journal(&mut m);
    assert_eq!(m.end().code(), Some(78));
    let told = journal.wait_id(catalog::NOT_STARTED);
    let place = ["FILE", "LINE", "COLUMN"].map(|part| told.get(&format!("PERNET_CONFIG_{part}")).to_owned());
    assert_eq!(place, ["/pernet/pernetd.toml", "3", "11"], "{told:?}");
    assert!(text(&told).starts_with("pernetd did not start: /pernet/pernetd.toml:3:11: "), "{told:?}");
    assert_eq!((told.get("PRIORITY"), so_far(&mut stream).as_str()), ("3", ""));
}

fn large(mut m: Machine) {
    m.probe(10, "log", "", "say = \"begin\"\nlength = 1048576");
    netns_add("blue");
    let (journal, _stream) = in_journal(&mut m);
    let said = journal.wait("the large one", |e| text(e).starts_with("probe-log in blue: begin..."));
    assert!(
        said.large
            && text(&said).len() == "probe-log in blue:  answer=42 device=eth7 own_netns=elsewhere".len() + (1 << 20),
        "{}",
        text(&said).len()
    );
    assert_eq!((said.get("PERNET_NETNS"), said.get("PERNET_ANSWER")), ("blue", "42"));
    m.wait_running();
    m.stop();
}

fn gone(mut m: Machine) {
    let journal = Journal::default();
    let (mut ours, theirs) = stream();
    m.spawn_logging_to(theirs, true);
    m.wait_running();
    let mut said = String::new();
    wait_until("it is said on the stream", SOON, || {
        said += &so_far(&mut ours);
        said.contains("ready: ")
    });
    // With the mark by which the other end knows the priority.
    assert!(said.lines().all(|line| line.starts_with("<6>")), "{said}");
    journal.serve(bind());
    assert_eq!(m.reload().code, 0);
    journal.wait_id(catalog::RELOADED);
    fs::remove_file(SOCKET).unwrap();
    m.write("pernetd.toml", "what = 1\n");
    assert_eq!(m.reload().code, 1);
    let said = so_far(&mut ours);
    assert!(said.starts_with("<3>reload failed: /pernet/pernetd.toml:1:1: "), "{said}");
    m.stop();
}

fn hanging(mut m: Machine) {
    m.probe(10, "log", "", "say = \"x\"\nlength = 2000\nflood = 5000");
    let socket = bind();
    let (mut ours, theirs) = stream();
    // As much room as anybody may have: how many lines that is depends on what memory the kernel has at hand for each.
    sockopt::set_socket_send_buffer_size(&theirs, 1 << 20).unwrap();
    m.spawn_logging_to(theirs, true);
    m.wait_running();
    let began = Instant::now();
    for n in 0..20 {
        netns_add(format!("n{n}"));
    }
    for n in 0..20 {
        m.wait_state(&format!("n{n}"), "live");
    }
    assert_eq!(m.reload().code, 0, "nor the loop");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // 100,000 lines are more than fits anywhere; wait until their threads are through.
    let mut stream = String::new();
    let journal = Journal::default();
    m.remove("plugins.d/10-probe-log.toml");
    assert_eq!(m.reload().code, 0, "its Drop joins its threads");
    journal.serve(socket);
    wait_until("what was lost is told", SOON, || {
        stream += &so_far(&mut ours);
        assert_eq!(m.reload().code, 0);
        journal.entries().iter().any(|e| e.get("MESSAGE_ID") == catalog::LINES_LOST)
    });
    let lost = journal.wait_id(catalog::LINES_LOST);
    assert!(lost.get("PERNET_LOST").parse::<u64>().unwrap() > 10_000, "{lost:?}");
    let kept = stream.lines().filter(|line| line.contains("of the flood")).count();
    eprintln!("kept {kept}");
    assert!(kept > 10, "as much as there was room for, not {kept}");
    m.stop();
}

fn elsewhere(mut m: Machine) {
    m.probe(10, "log", "", r#"say = "one\n2026-01-01T00:00:00.000000Z ERROR forged\u001b[2J""#);
    m.environment.push(("JOURNAL_STREAM", "1:2"));
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    wait_until("all is said", SOON, || m.log().contains("from a thread"));
    m.stop();
    let log = m.log();
    let said = log.lines().find(|line| line.contains("forged")).unwrap();
    let words: Vec<&str> = said.split_whitespace().collect();
    let time = humantime::parse_rfc3339(words[0]).unwrap();
    assert!(time.elapsed().unwrap() < Duration::from_secs(60), "{said}");
    assert_eq!(words[1..4], ["WARN", "probe-log", "blue"]);
    assert!(
        said.ends_with(
            r"one\n2026-01-01T00:00:00.000000Z ERROR forged\x1b[2J answer=42 device=eth7 own_netns=elsewhere"
        ),
        "{said}"
    );
    assert!(
        log.lines().any(|line| line.contains("probe-log    blue             from a thread of its own why=\"it may\"")),
        "{log}"
    );
    for line in log.lines() {
        assert!(humantime::parse_rfc3339(line.split(' ').next().unwrap()).is_ok(), "a line without its time: {line}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

fn terminal(mut m: Machine) {
    for (term, no_color, colours) in [("xterm", "", true), ("xterm", "1", false), ("dumb", "", false)] {
        let (ours, theirs) = terminal_of_its_own().unwrap();
        m.environment = vec![("TERM", term), ("NO_COLOR", no_color)];
        m.spawn_logging_to(theirs, false);
        m.wait_running();
        let mut shown = String::new();
        wait_until("it is shown", SOON, || {
            let mut chunk = [0; 4096];
            let n = rustix::io::read(&ours, &mut chunk).unwrap_or(0);
            shown += std::str::from_utf8(&chunk[..n]).unwrap();
            shown.contains("ready: ")
        });
        assert_eq!(shown.contains("\x1b[32mINFO \x1b[0m"), colours, "{term} {no_color}: {shown:?}");
        assert_eq!(shown.contains("Z INFO  -            -                ready: "), !colours, "{term}: {shown:?}");
        m.stop();
    }
}

/// Our end, which does not block, and the one that is a terminal.
fn terminal_of_its_own() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let theirs = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

fn compiled() {
    let folder = "/root-of-a-system/usr/lib/systemd/catalog";
    fs::create_dir_all(folder).unwrap();
    fs::create_dir_all("/root-of-a-system/var/lib/systemd/catalog").unwrap();
    let catalog = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/pernetd.catalog");
    fs::copy(catalog, Path::new(folder).join("pernetd.catalog")).unwrap();
    let journalctl = |option: &str| {
        let output = Command::new("journalctl").args(["--root", "/root-of-a-system", option]).output().unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaints.is_empty(), "{complaints}");
        String::from_utf8(output.stdout).unwrap()
    };
    journalctl("--update-catalog");
    let listed = journalctl("--list-catalog");
    for (name, id) in catalog::ALL {
        assert!(listed.contains(&format!("{id} pernetd: ")), "{name}: {listed}");
    }
}
