//! What it costs to use a knob as a file: through `netctl`, beside the kernel's own in /proc/sys, one reader and several
//! at once; and to look through `pernetfs`.
//!
//! The plugin `probe_sysctl` (an example of this crate) has the knobs.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::numbers::{percentile, us};
use crate::sandbox::{example_cdylib, netns_add, plugins_dir};

const CALLS: usize = 5_000;
const KERNELS: &str = "/proc/sys/net/core/somaxconn";
const OURS: &str = "/mnt/probe/uint";
/// For the looks through many.
const NAMESPACES: usize = 200;

pub(crate) fn measure() {
    if !example_cdylib("probe_sysctl").exists() {
        println!("\nfiles: not measured; first cargo build --release -p pernetd --example probe_sysctl");
        return;
    }
    if File::options().read(true).write(true).open("/dev/fuse").is_err() {
        println!("\nfiles: not measured; there is no /dev/fuse here");
        return;
    }
    let config = "file = \"libprobe_sysctl.so\"\n[config]\nrecord = \"/pernet/record\"\n";
    plugins_dir(&[example_cdylib("probe_sysctl")]);
    let daemon = Daemon::start_with(&[("30-probe-sysctl.toml", config)]);
    netns_add("bench");
    daemon.wait("bench");
    mount("netctl", "/mnt", &["--netns", "bench"]);
    println!("\na knob as a file, in us (p50, p99); ours is a uint behind a plugin, on a mount of netctl");
    println!("{:44} {:>20} {:>20}", "", "read", "set");
    row("/proc/sys: open, access, close", whole(KERNELS));
    row("netctl: the same", whole(OURS));
    row("/proc/sys: access to an open file", open(KERNELS));
    row("netctl: the same", open(OURS));
    println!("accesses to open files per second, by readers at once: {}", at_once());
    many(&daemon);
    for at in ["/mnt", "/p"] {
        pernetctl(&["umount", at]);
    }
    daemon.stop();
}

fn row(what: &str, [mut read, mut set]: [Vec<Duration>; 2]) {
    let shown = |samples: &mut [Duration]| format!("{} / {}", us(percentile(samples, 50)), us(percentile(samples, 99)));
    println!("{what:44} {:>20} {:>20}", shown(&mut read), shown(&mut set));
}

fn pernetctl(arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pernetctl"));
    command.args(["--runtime-dir", "/pernet/run"]).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    assert!(command.status().unwrap().success(), "{arguments:?}");
}

fn mount(fs: &str, at: &str, more: &[&str]) {
    fs::create_dir_all(at).unwrap();
    pernetctl(&[&["mount", "-t", fs], more, &[at]].concat());
}

fn sampled(mut act: impl FnMut()) -> Vec<Duration> {
    let one = |_| {
        let start = Instant::now();
        act();
        start.elapsed()
    };
    (0..CALLS).map(one).collect()
}

/// As a shell does it.
fn whole(path: &str) -> [Vec<Duration>; 2] {
    let mut bytes = [0; 64];
    let read = sampled(|| drop(black_box(File::open(path).unwrap().read(&mut bytes))));
    let set = sampled(|| OpenOptions::new().write(true).open(path).unwrap().write_all(b"4096\n").unwrap());
    [read, set]
}

fn open(path: &str) -> [Vec<Duration>; 2] {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut bytes = [0; 64];
    let read = sampled(|| _ = black_box(file.read_at(&mut bytes, 0)));
    let set = sampled(|| _ = file.write_at(b"4096\n", 0).unwrap());
    [read, set]
}

fn at_once() -> String {
    let rate = |readers: usize| {
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..readers {
                scope.spawn(|| {
                    let file = File::open(OURS).unwrap();
                    let mut bytes = [0; 64];
                    (0..CALLS).for_each(|_| _ = black_box(file.read_at(&mut bytes, 0).unwrap()));
                });
            }
        });
        let calls = (CALLS * readers) as f64;
        format!("{readers}: {:.0}", calls / start.elapsed().as_secs_f64())
    };
    [1, 2, 4, 8].map(rate).join(", ")
}

/// A look through all of many namespaces, as `grep -r` makes it.
fn many(daemon: &Daemon) {
    for n in 0..NAMESPACES {
        netns_add(format!("n{n}"));
    }
    daemon.wait(&format!("n{}", NAMESPACES - 1));
    mount("pernetfs", "/p", &[]);
    let (mut files, start, before) = (0, Instant::now(), daemon.cpu());
    for folder in fs::read_dir("/p/namespaces").unwrap().flatten() {
        for file in fs::read_dir(folder.path()).unwrap().flatten().filter(|file| file.file_type().unwrap().is_file()) {
            black_box(fs::read(file.path()).unwrap());
            files += 1;
        }
    }
    let (elapsed, cpu) = (start.elapsed(), daemon.cpu() - before);
    let each = |time: Duration| us(time / files);
    println!(
        "pernetfs: {files} files of {NAMESPACES} namespaces read, each {} us, of that {} us of the daemon's processor time",
        each(elapsed),
        each(cpu)
    );
}
