//! Eight processes hammer the mounted types while namespaces come and go: nobody hangs, nobody reads what is no more,
//! and nothing is left.
//!
//! For 5 seconds; `PERNET_HAMMER_SECONDS=30` makes it as long as one likes.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;
mod shell;
mod sysctls;

use std::env;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use machine::{Machine, one};
use sandbox::{Trial, tie, wait_until};
use shell::{errno_of, fuse_is_lacking, run, text};

fn main() -> ExitCode {
    let lacking = fuse_is_lacking();
    let trials = one("eight processes, and namespaces that come and go", hammer);
    let trials = trials.into_iter().map(|trial: Trial| trial.ignored_if(lacking).deadline(duration() + PATIENCE * 2));
    sandbox::main(trials.collect())
}

/// For what is to end by itself, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn duration() -> Duration {
    let seconds = env::var("PERNET_HAMMER_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// Until the file `/pernet/stop` is there; what fails beside that is complained about, and ends it.
fn repeat(what: &str) -> Child {
    let script = format!("n=0; while ! test -e /pernet/stop; do n=$((n+1)); {what}; done; echo $n");
    let mut command = Command::new("bash");
    tie(command.args(["-c", &script]).stdout(Stdio::piped()).stderr(Stdio::piped())).spawn().unwrap()
}

/// Its threads by name, and its descriptors by what they are of.
fn at_rest(m: &Machine) -> Vec<String> {
    let process = format!("/proc/{}", m.pid().as_raw_pid());
    let all = |folder: &str| fs::read_dir(format!("{process}/{folder}")).unwrap().flatten();
    let threads = all("task").filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    // Sockets and namespaces are of the same kind, whichever they are.
    let kind = |target: String| target.split('[').next().unwrap_or_default().to_owned();
    let descriptors = all("fd").filter_map(|fd| Some(kind(fs::read_link(fd.path()).ok()?.display().to_string())));
    let mut here: Vec<String> = threads.map(|name| name.trim().to_owned()).chain(descriptors).collect();
    here.sort();
    here
}

fn mount_all(m: &Machine) {
    for n in 0..4 {
        fs::create_dir_all(format!("/mnt/fs{n}")).unwrap();
        m.ctl(["mount", "-t", "probefs", &format!("/mnt/fs{n}")]);
    }
    for (at, fs) in [("/mnt/p", "pernetfs"), ("/mnt/c", "netctl")] {
        fs::create_dir_all(at).unwrap();
        m.ctl(["mount", "-t", fs, at]);
    }
}

fn unmount_all(m: &Machine) {
    for at in ["fs0", "fs1", "fs2", "fs3", "p", "c"] {
        m.ctl(["umount", &format!("/mnt/{at}")]);
    }
    wait_until("no mount is left", PATIENCE, || m.ctl(["mount"]).as_array().unwrap().is_empty());
}

fn hammer(mut m: Machine) {
    m.probe(20, "fs", "", "filesystems = [{ name = \"probefs\" }]");
    sysctls::started(&mut m, "");
    // Once before, so that what is made once is there.
    mount_all(&m);
    run("find /mnt > /dev/null; grep -rs . /mnt > /dev/null; true");
    unmount_all(&m);
    m.ctl(["netns", "add", "first"]);
    m.ctl(["netns", "del", "first"]);
    // A client that has gone may still have its thread and socket: neither may be counted as there for good.
    wait_until("the threads for mounts have gone", PATIENCE, || threads(&m, "fuse") + threads(&m, "control-peer") == 0);
    let before = at_rest(&m);
    mount_all(&m);

    let gone = "No such file or directory|Stale file handle";
    // What tar says where a file goes, or becomes shorter, while it looks at it.
    let changed =
        "file changed as we read it|File removed before we read it|File shrank|Exiting with failure|Cannot stat";
    let children = [
        // What was written and closed is what is read.
        repeat(
            "echo $n > /mnt/fs0/note; v=$(cat /mnt/fs0/note); test $v = $n || { echo stale: $v, not $n >&2; exit 1; }",
        ),
        repeat(
            "k=/mnt/c/blue/probe/int; echo $n > $k; v=$(cat $k); test $v = $n || { echo stale: $v, not $n >&2; exit 1; }",
        ),
        repeat("cmp /mnt/fs2/big /mnt/fs3/big || exit 1"),
        repeat("tar -C /mnt -cf - fs2 fs3 | tar -tf - > /dev/null || exit 1"),
        repeat("find /mnt -type f > /dev/null 2> /pernet/find || true"),
        repeat(&format!("grep -r live /mnt/p 2>&1 > /dev/null | grep -Ev '{gone}' && exit 1; true")),
        repeat(&format!("tar -C /mnt -cf - p c/@host 2>&1 > /dev/null | grep -Ev '{gone}|{changed}' && exit 1; true")),
        repeat(&format!(
            "cat /mnt/p/namespaces/*/devices/*/mtu /mnt/c/*/probe/interval 2>&1 > /dev/null | grep -Ev '{gone}' && exit 1; true"
        )),
    ];
    let until = Instant::now() + duration();
    let mut lives = 0;
    while Instant::now() < until {
        let name = format!("n{}", lives % 7);
        m.ctl(["netns", "add", &name]);
        let state = format!("/mnt/p/namespaces/{name}/state");
        assert_eq!(text(&state), "live\n", "what is there shows");
        m.ctl(["netns", "del", &name]);
        assert_eq!(errno_of(fs::metadata(&state)), libc::ENOENT, "and what is gone does not");
        lives += 1;
    }
    File::create("/pernet/stop").unwrap();
    let ended = Instant::now();
    let mut rounds = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaint.is_empty(), "{complaint}");
        rounds.push(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    assert!(ended.elapsed() < PATIENCE, "nobody hangs");
    println!("{lives} namespaces; rounds: {}", rounds.join(", "));
    assert!(rounds.iter().all(|round| round.parse::<u64>().unwrap() > 0) && lives > 0);

    unmount_all(&m);
    wait_until("the threads for mounts have gone", PATIENCE, || threads(&m, "fuse") == 0);
    let rested = Instant::now();
    while at_rest(&m) != before {
        // What is left over is told.
        assert!(rested.elapsed() < PATIENCE, "before {before:?}\nnow    {:?}", at_rest(&m));
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let count = |hook: &str| m.calls().iter().filter(|call| call.hook == hook).count();
    assert_eq!((count("fs.mount"), count("fs.kill_sb")), (8, 8), "each mount is killed once");
    assert!(
        m.calls().iter().all(|call| call.hook != "fs.kill_sb" || call.errno == Some(0)),
        "with every file released"
    );
    assert!(Path::new("/mnt/fs0").exists());
    m.stop();
}

fn threads(m: &Machine, prefix: &str) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", m.pid().as_raw_pid())).unwrap().flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with(prefix)).count()
}
