//! A plugin's file system under its users' hands: what it answers, and what goes wrong in it, reaches him who asked and
//! nobody else; and it ends with its plugin, its namespace, and the daemon.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;
mod shell;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use machine::{Machine, SOON, one, plugin_file};
use rustix::process::{Pid, Signal, kill_process};
use sandbox::{netns_add, netns_del, tie, wait_until};
use serde_json::Value;
use shell::{errno_of, fuse_is_lacking, is_mounted, run, text};

fn main() -> ExitCode {
    let trials = [
        one("a file system of a plugin's is used like any", used),
        one("an error is an answer to who asked", errors),
        one("nonsense is EIO to who asked, and the mount lives", nonsense),
        one("a panic is EIO to who asked, and ends the plugin's mounts only", panics),
        one("a call that blocks holds up nobody else, and is given up", blocks),
        one("calls that never return do not use up the daemon", held),
        one("whoever is interrupted in a call that blocks is free", interrupted),
        one("a file operation may act in namespaces, but not wait for their end", run_in),
        one("a plugin that is replaced or removed takes its mounts along", reloads),
        one("a file system that cannot be registered fails its plugin wholly", registrations),
        one("internal mounts end with their namespace, their type and their mounter", internal),
    ];
    let lacking = fuse_is_lacking();
    sandbox::main(trials.into_iter().flatten().map(|trial| trial.ignored_if(lacking)).collect())
}

const PROBEFS: &str = "filesystems = [{ name = \"probefs\" }]";

/// A machine with `probefs` mounted on `/mnt`, where this goes wrong.
fn begin(m: &mut Machine, main: &str, faults: &str) {
    m.main(main);
    m.probe(20, "fs", "", &format!("{PROBEFS}\nfaults = [{faults}]"));
    m.start();
    fs::create_dir("/mnt").unwrap();
    m.ctl(["mount", "-t", "probefs", "/mnt"]);
}

fn fault(op: &str, file: &str, action: &str) -> String {
    format!("{{ hook = \"fs.{op}\", device = \"{file}\", action = {action} }}")
}

fn used(mut m: Machine) {
    begin(&mut m, "", "");
    assert_eq!(run("cat /mnt/hello /mnt/link /mnt/dir/leaf"), "hello\nhello\nhello\n");
    run("echo one > /mnt/note && echo two >> /mnt/note");
    assert_eq!(text("/mnt/note"), "one\ntwo\n");
    run("printf x > /mnt/note");
    assert_eq!(text("/mnt/note"), "x", "cut first, then written");
    run("truncate -s 3 /mnt/note");
    assert_eq!(fs::read("/mnt/note").unwrap(), b"x\0\0");
    // Longer than one request of the kernel's, both ways.
    let long: Vec<u8> = (0..700_000u32).flat_map(|n| n.to_le_bytes()).take(700_000).collect();
    fs::write("/mnt/note", &long).unwrap();
    assert!(fs::read("/mnt/note").unwrap() == long, "what was written is read");
    assert_eq!(run("tail -c 8 /mnt/big; wc -c < /mnt/big"), "0199999\n1600000\n");
    assert_eq!(run("readlink /mnt/link"), "hello\n");
    let who = text("/mnt/who");
    assert_eq!(who.trim(), format!("0 0 {}", std::process::id()));
    assert_eq!(run("find /mnt -type f | wc -l"), "7\n");
    assert_eq!(run("tar -C /mnt -cf /pernet/all.tar --exclude counts --exclude mount --exclude who . 2>&1"), "");
    assert_eq!(run("tar -xOf /pernet/all.tar ./dir/leaf ./hello"), "hello\n", "the size of the leaf is unknown");
    assert_eq!(run("grep -rl hello /mnt | sort"), "/mnt/dir/leaf\n/mnt/hello\n/mnt/link\n".replace("/mnt/link\n", ""));
    assert_eq!(errno_of(fs::metadata("/mnt/none")), libc::ENOENT);
    assert_eq!(errno_of(fs::create_dir("/mnt/new")), libc::EPERM);
    run("umount /mnt");
    m.wait_call("fs fs.kill_sb 0");
    m.stop();
}

fn errors(mut m: Machine) {
    let faults = [
        fault("open", "hello", "{ fail = 28 }"),
        fault("read", "who", "{ fail = 116 }"),
        fault("write", "note", "{ fail = 27 }"),
        fault("readdir", "dir", "{ fail = 13 }"),
        // Numbers that mean something else to the kernel than they say.
        fault("read", "big", "{ fail = 38 }"),
        fault("open", "counts", "{ fail = 38 }"),
        fault("read", "mount", "{ fail = 512 }"),
        fault("readlink", "link", "{ fail = 4095 }"),
    ];
    begin(&mut m, "", &faults.join(", "));
    assert_eq!(errno_of(File::open("/mnt/hello")), libc::ENOSPC);
    assert_eq!(errno_of(fs::read("/mnt/who")), libc::ESTALE);
    assert_eq!(errno_of(fs::write("/mnt/note", "x")), libc::EFBIG);
    assert_eq!(
        errno_of(fs::read_dir("/mnt/dir").map(|mut dir| dir.next().unwrap().map(drop)).and_then(|r| r)),
        libc::EACCES
    );
    assert_eq!(errno_of(fs::read("/mnt/big")), libc::EOPNOTSUPP);
    assert_eq!(errno_of(File::open("/mnt/counts")), libc::EOPNOTSUPP);
    assert_eq!(errno_of(File::open("/mnt/counts")), libc::EOPNOTSUPP, "and again: opens are not done without");
    assert_eq!(errno_of(fs::read("/mnt/mount")), libc::EIO);
    assert_eq!(errno_of(fs::read_link("/mnt/link")), libc::EIO);
    assert_eq!(m.plugin("fs")["state"], "live", "none of it is the operator's business");
    assert_eq!(text("/mnt/dir/leaf"), "hello\n");
    m.stop();
}

fn nonsense(mut m: Machine) {
    begin(&mut m, "", "");
    for _ in 0..2 {
        for name in ["bad-mode", "bad-ino", "bad-size"] {
            assert_eq!(errno_of(fs::symlink_metadata(format!("/mnt/{name}"))), libc::EIO, "{name}");
        }
        assert_eq!(errno_of(fs::read("/mnt/bad-read")), libc::EIO);
        assert_eq!(errno_of(File::options().write(true).open("/mnt/bad-write").unwrap().write(b"x")), libc::EIO);
        let listed = fs::read_dir("/mnt/bad-dir").and_then(|mut dir| dir.try_for_each(|entry| entry.map(drop)));
        assert_eq!(errno_of(listed), libc::EIO);
        assert_eq!(errno_of(fs::read_link("/mnt/bad-link")), libc::EIO);
        assert_eq!(text("/mnt/hello"), "hello\n", "the mount lives");
    }
    assert_eq!(m.plugin("fs")["state"], "live");
    assert!(m.log().contains("the file system answered nonsense"), "{}", m.log());
    m.stop();
}

fn panics(mut m: Machine) {
    m.probe(10, "a", "", "");
    begin(&mut m, "", &fault("read", "hello", "\"panic\""));
    fs::create_dir("/other").unwrap();
    m.ctl(["mount", "-t", "pernetfs", "/other"]);
    let mut kept = File::open("/mnt/note").unwrap();
    assert_eq!(errno_of(fs::read("/mnt/hello")), libc::EIO);
    wait_until("the plugin has failed", SOON, || m.plugin("fs")["state"] == "failed");
    assert_eq!(m.plugin("fs")["error"]["hook"], "panic");
    wait_until("its mount has ended", SOON, || errno_of(fs::metadata("/mnt")) == libc::ENOTCONN);
    assert_eq!(errno_of(kept.read(&mut [0; 4])), libc::ENOTCONN);
    drop(kept);
    assert_eq!(text("/other/plugins/probe-fs/state"), "failed\n", "the others live");
    let trace = m.trace();
    let at = |what: &str| {
        trace.iter().position(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{what}: {trace:?}"))
    };
    assert!(at("fs fs.kill_sb 0") < at("fs plugin.drop"), "{trace:?}");
    let answer = m.ask(["mount", "-t", "probefs", "/mnt"]);
    assert!(answer.code == 1 && answer.stderr.contains("ENODEV"), "{}", answer.stderr);
    // Mended, the same directory is mounted anew.
    m.probe(20, "fs", "", PROBEFS);
    assert_eq!(m.reload().code, 0);
    m.ctl(["mount", "-t", "probefs", "/mnt"]);
    assert_eq!(text("/mnt/hello"), "hello\n");
    m.stop();
}

/// Somebody who reads a file in the background.
fn reader(path: &str) -> Child {
    let mut command = Command::new("cat");
    tie(command.arg(path).stdout(Stdio::piped()).stderr(Stdio::piped())).spawn().unwrap()
}

fn said(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn threads(m: &Machine) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", m.pid().as_raw_pid())).unwrap().flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.trim() == "fuse").count()
}

fn blocks(mut m: Machine) {
    let until = "{ until = \"/pernet/go\" }";
    let faults = [fault("read", "hello", until), fault("open", "who", until), fault("lookup", "note", until)];
    begin(&mut m, "filesystem.timeout = 2", &faults.join(", "));
    let began = Instant::now();
    let blocked = ["/mnt/hello", "/mnt/who", "/mnt/note"].map(reader);
    wait_until("all of them are inside", SOON, || {
        ["fs fs.read hello", "fs fs.open who", "fs fs.lookup note"]
            .iter()
            .all(|call| m.trace().iter().any(|line| line == call))
    });
    for _ in 0..100 {
        assert_eq!(text("/mnt/dir/leaf"), "hello\n", "others are answered meanwhile");
    }
    assert!(began.elapsed() < Duration::from_secs(2), "at once");
    for (child, name) in blocked.into_iter().zip(["hello", "who", "note"]) {
        assert_eq!(said(child), format!("cat: /mnt/{name}: Input/output error\n"));
    }
    assert!(began.elapsed() >= Duration::from_secs(2), "not before the time is up");
    let status = m.status();
    let pinned = status["pinned"].as_array().unwrap();
    let hooks: Vec<&str> =
        pinned.iter().filter(|pin| pin["plugin"] == "probe-fs").map(|pin| pin["hook"].as_str().unwrap()).collect();
    assert!(["fs.read", "fs.open", "fs.lookup"].iter().all(|hook| hooks.contains(hook)), "{status}");
    assert!(m.log().contains("fs.read has not returned for 2s; its caller got EIO"), "{}", m.log());
    assert_eq!(m.plugin("fs")["state"], "live");
    File::create(m.path("go")).unwrap();
    wait_until("all of them have come out", SOON, || m.status()["pinned"].as_array().unwrap().is_empty());
    assert_eq!(text("/mnt/note"), "");
    // Files that were opened for nobody are released: two of these, and the one that is open while this is read.
    wait_until("nothing is open", SOON, || {
        let counts = text("/mnt/counts");
        let (opened, released) = counts.trim().split_once(' ').unwrap();
        opened.parse::<u64>().unwrap() == released.parse::<u64>().unwrap() + 1
    });
    run("umount /mnt");
    m.wait_call("fs fs.kill_sb 0");
    m.stop();
}

fn held(mut m: Machine) {
    begin(&mut m, "filesystem.timeout = 1", &fault("read", "hello", "{ until = \"/pernet/go\" }"));
    fs::create_dir("/other").unwrap();
    m.ctl(["mount", "-t", "pernetfs", "/other"]);
    let blocked: Vec<Child> = (0..40).map(|_| reader("/mnt/hello")).collect();
    for child in blocked {
        assert!(said(child).contains("Input/output error"));
    }
    let before = Instant::now();
    assert_eq!(errno_of(fs::read("/mnt/dir/leaf")), libc::EIO, "this mount calls nobody any more");
    assert!(before.elapsed() < Duration::from_secs(1), "and says so at once");
    assert!(text("/other/status").contains("running"), "others are served");
    File::create(m.path("go")).unwrap();
    wait_until("it is as before", SOON, || fs::read("/mnt/dir/leaf").is_ok());
    assert_eq!(text("/mnt/hello"), "hello\n");
    wait_until("the threads have gone", SOON, || threads(&m) <= 2);
    m.stop();
}

fn interrupted(mut m: Machine) {
    let until = "{ until = \"/pernet/go\" }";
    begin(&mut m, "filesystem.timeout = 60", &[fault("read", "hello", until), fault("open", "who", until)].join(", "));
    for (signal, path, call) in [
        (Signal::KILL, "/mnt/hello", "fs fs.read hello"),
        (Signal::INT, "/mnt/hello", "fs fs.read hello"),
        (Signal::KILL, "/mnt/who", "fs fs.open who"),
    ] {
        m.forget();
        let mut child = reader(path);
        m.wait_call(call);
        let before = Instant::now();
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap();
        assert!(before.elapsed() < Duration::from_secs(10), "{signal:?} {path}: {:?}", before.elapsed());
    }
    assert_eq!(text("/mnt/dir/leaf"), "hello\n");
    File::create(m.path("go")).unwrap();
    wait_until("nothing is open", SOON, || {
        text("/mnt/counts")
            .trim()
            .split_once(' ')
            .is_some_and(|(opened, released)| opened.parse::<u64>().unwrap() == released.parse::<u64>().unwrap() + 1)
    });
    run("umount /mnt");
    m.wait_call("fs fs.kill_sb 0");
    m.stop();
}

fn run_in(mut m: Machine) {
    let hang = "{ hook = \"pernet.exit\", netns = \"blue\", action = { until = \"/pernet/go\" } }";
    m.probe(10, "a", "", &format!("faults = [{hang}]"));
    m.probe(20, "fs", "", PROBEFS);
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    fs::create_dir("/mnt").unwrap();
    m.ctl(["mount", "-t", "probefs", "--netns", "blue", "/mnt"]);
    assert_eq!(text("/mnt/inside"), "blue\n", "it acts inside");
    assert_eq!(text("/mnt/mount"), "source=none\noptions=\ninternal=false\nnet=true\n");
    let reading = (0..4).map(|_| {
        let mut command = Command::new("sh");
        tie(command.args(["-c", "while cat /mnt/inside; do :; done"]).stdout(Stdio::null()).stderr(Stdio::null()))
            .spawn()
            .unwrap()
    });
    let reading: Vec<Child> = reading.collect();
    netns_del("blue");
    // The mount ends before the exits, though its files are in use and ask for the namespace.
    m.wait_call("fs fs.kill_sb 0");
    m.wait_call("a exit blue Died");
    let trace = m.trace();
    let at = |what: &str| {
        trace.iter().position(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{what}: {trace:?}"))
    };
    assert!(at("fs fs.kill_sb 0") < at("fs pre_exit blue"), "{trace:?}");
    assert_eq!(errno_of(fs::metadata("/mnt")), libc::ENOTCONN);
    for mut child in reading {
        child.wait().unwrap();
    }
    File::create(m.path("go")).unwrap();
    m.wait_gone("blue");
    m.stop();
}

fn reloads(mut m: Machine) {
    m.install("probe_fs", "fs");
    begin(&mut m, "", "");
    let kept = File::open("/mnt/hello").unwrap();
    m.forget();
    m.install("probe_fs_v2", "fs");
    assert_eq!(m.reload().code, 0);
    assert_eq!(errno_of((&kept).read(&mut [0; 4])), libc::ENOTCONN, "a mount does not outlive its plugin");
    let trace = m.trace();
    let at = |what: &str| {
        trace.iter().position(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{what}: {trace:?}"))
    };
    assert!(at("fs fs.kill_sb 0") < at("fs plugin.drop") && at("fs plugin.drop") < at("fs plugin.init"), "{trace:?}");
    drop(kept);
    let answer = m.ask(["mount", "-t", "probefs", "/mnt"]);
    assert_eq!(answer.code, 0, "the new one's takes its place: {}", answer.stderr);
    assert_eq!(text("/mnt/hello"), "hello\n");
    // One that is kept sees nothing of a reload.
    let kept = File::open("/mnt/hello").unwrap();
    m.probe(10, "a", "", "");
    assert_eq!(m.reload().code, 0);
    assert_eq!((&kept).read(&mut [0; 8]).unwrap(), 6);
    drop(kept);
    m.no_probe(20, "fs");
    assert_eq!(m.reload().code, 0);
    assert_eq!(errno_of(fs::metadata("/mnt")), libc::ENOTCONN);
    assert!(m.ask(["mount", "-t", "probefs", "/mnt"]).stderr.contains("ENODEV"));
    m.ctl(["umount", "/mnt"]);
    assert!(!is_mounted("/mnt"));
    m.stop();
}

fn registrations(mut m: Machine) {
    let types = |m: &Machine| -> Vec<String> {
        let all = m.ctl(["fs", "list"]);
        all.as_array().unwrap().iter().map(|fs| fs["name"].as_str().unwrap().to_owned()).collect()
    };
    m.probe(10, "a", "", "filesystems = [{ name = \"one\" }]");
    m.start();
    let own: Vec<String> = types(&m).into_iter().filter(|name| name != "one").collect();
    for (registered, expected) in [
        ("{ name = \"two\" }, { name = \"fuse.two\" }", "EINVAL: file system type `fuse.two`: a name has no dot"),
        ("{ name = \"two\" }, { name = \"one\" }", "EBUSY: file system type `one`: `probe-a` has registered this name"),
        ("{ name = \"two\" }, { name = \"two\" }", "EBUSY: file system type `two`"),
        ("{ name = \"pernetfs\" }", "EBUSY: file system type `pernetfs`: `pernetd` has registered this name"),
        ("{ name = \"\" }", "a registration needs a name"),
    ] {
        m.probe(20, "fs", "", &format!("filesystems = [{registered}]"));
        let answer = m.reload();
        assert!(answer.code == 1 && answer.stderr.contains(expected), "{registered}: {}", answer.stderr);
        assert_eq!(
            types(&m).into_iter().filter(|name| name != "one").collect::<Vec<_>>(),
            own,
            "nothing of it is left"
        );
    }
    // A later step of the same plugin's fails: what it registered before is taken back.
    netns_add("blue");
    m.wait_state("blue", "live");
    m.probe(
        20,
        "fs",
        "",
        &format!("{PROBEFS}\nfaults = [{{ hook = \"pernet.init\", netns = \"blue\", action = {{ fail = 28 }} }}]"),
    );
    assert_eq!(m.reload().code, 1);
    assert!(!types(&m).contains(&"probefs".to_owned()));
    // One that steps aside for what it requires comes back with its type, and its mounts have ended.
    m.probe(20, "fs", "requires = [\"probe-a\"]", PROBEFS);
    assert_eq!(m.reload().code, 0);
    fs::create_dir("/mnt").unwrap();
    m.ctl(["mount", "-t", "probefs", "/mnt"]);
    m.probe(10, "a", "", "label = \"new\"\nfilesystems = [{ name = \"one\" }]");
    assert_eq!(m.reload().code, 0);
    assert_eq!(errno_of(fs::metadata("/mnt")), libc::ENOTCONN);
    m.ctl(["mount", "-t", "probefs", "/mnt"]);
    assert_eq!(text("/mnt/hello"), "hello\n");
    assert!(plugin_file("fs").exists());
    m.stop();
}

fn internal(mut m: Machine) {
    m.probe(10, "fs", "", "filesystems = [{ name = \"hidden\", internal = true }]");
    let mounts = "[{ netns = \"blue\", fs = \"hidden\", options = \"a=1\" }, { netns = \"blue\", fs = \"none\" }, { netns = \"red\", fs = \"hidden\" }]";
    m.probe(20, "b", "", &format!("kern_mounts = {mounts}"));
    m.start();
    for name in ["blue", "red"] {
        netns_add(name);
        m.wait_state(name, "live");
    }
    let mounted: Vec<Option<i32>> =
        m.calls().iter().filter(|call| call.hook == "kern_mount").map(|call| call.errno).collect();
    assert_eq!(mounted, [Some(0), Some(libc::ENODEV), Some(0)]);
    assert_eq!(m.ctl(["mount"]), Value::Array(Vec::new()), "in no table");
    let killed = |m: &Machine| m.calls().iter().filter(|call| call.hook == "fs.kill_sb").count();
    assert_eq!(killed(&m), 0);
    netns_del("blue");
    m.wait_gone("blue");
    assert_eq!(killed(&m), 1, "with its namespace");
    m.no_probe(20, "b");
    assert_eq!(m.reload().code, 0);
    assert_eq!(killed(&m), 2, "with its mounter");
    m.probe(20, "b", "", &format!("kern_mounts = {mounts}"));
    assert_eq!(m.reload().code, 0);
    assert_eq!(m.calls().iter().filter(|call| call.hook == "fs.mount").count(), 3);
    m.no_probe(10, "fs");
    assert_eq!(m.reload().code, 0);
    assert_eq!(killed(&m), 3, "with its type");
    assert_eq!(m.plugin("b")["state"], "live", "who has it mounted lives on");
    m.stop();
}
