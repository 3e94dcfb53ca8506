//! What it costs to register and unregister a plugin's devices, beside `ip -batch` for the same ones.
//!
//! The plugin `bench_devices` (an example of this crate) registers its devices in the init of a namespace and says how
//! long that took; so does its exit, from the first unregistration to the last destructor, after the unlock. `ip -batch`
//! makes and deletes as many in a namespace of its own.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use pernetd::linux::netns;

use crate::daemon::Daemon;
use crate::numbers::{per, us};
use crate::sandbox::{RUN_NETNS, example_cdylib, netns_add, netns_del, wait_until};

const DEVICES: usize = 1_000;
const TIMES: &str = "/pernet/times";
const SOON: Duration = Duration::from_secs(120);

pub(crate) fn measure() {
    if !example_cdylib("bench_devices").exists() {
        println!("\ndevices: not measured; first cargo build --release -p pernetd --example bench_devices");
        return;
    }
    netns::prepare_folder(Path::new(RUN_NETNS)).unwrap();
    println!("\n{DEVICES} devices of one namespace, registered and unregistered; us per device, by the clock");
    println!("{:12} {:>20} {:>20} {:>9}", "", "pernetd make + end", "ip -batch make + end", "ratio");
    for (what, kind) in [("tap", "tap"), ("veth pair", "veth")] {
        if kind == "tap" && !Path::new("/dev/net/tun").exists() {
            println!("{what:12} not measured, /dev/net/tun is not there");
            continue;
        }
        let ours = plugin(kind);
        let theirs = batch(kind);
        let ratio = (ours.0 + ours.1).as_secs_f64() / (theirs.0 + theirs.1).as_secs_f64();
        let shown =
            |(make, end): (Duration, Duration)| format!("{} + {}", us(per(make, DEVICES)), us(per(end, DEVICES)));
        println!("{what:12} {:>20} {:>20} {ratio:>9.2}", shown(ours), shown(theirs));
    }
}

/// By the plugin, in a namespace of its own.
fn plugin(kind: &str) -> (Duration, Duration) {
    let _ = fs::remove_file(TIMES);
    let config = format!("[config]\nkind = \"{kind}\"\ncount = {DEVICES}\ntimes = \"{TIMES}\"\n");
    let daemon = Daemon::start_with(&[("30-bench-devices.toml", &format!("file = \"libbench_devices.so\"\n{config}"))]);
    netns_add("bench");
    daemon.wait("bench");
    netns_del("bench");
    let times = || fs::read_to_string(TIMES).unwrap_or_default();
    wait_until("the last destructor", SOON, || times().lines().count() == 2);
    wait_until("the namespace's end", SOON, || !daemon.knows("bench"));
    daemon.stop();
    let micros: Vec<u64> = times().lines().map(|line| line.parse().unwrap()).collect();
    (Duration::from_micros(micros[0]), Duration::from_micros(micros[1]))
}

/// By `ip -batch`.
fn batch(kind: &str) -> (Duration, Duration) {
    netns_add("batch");
    let (mut make, mut end) = (String::new(), String::new());
    for n in 0..DEVICES {
        let _ = match kind {
            "tap" => writeln!(make, "tuntap add dev t{n} mode tap"),
            _ => writeln!(make, "link add a{n} type veth peer name b{n}"),
        };
        let _ = match kind {
            "tap" => writeln!(end, "tuntap del dev t{n} mode tap"),
            _ => writeln!(end, "link del a{n}"),
        };
    }
    let times = [make, end].map(|text| {
        fs::write("/pernet/batch", text).unwrap();
        let start = Instant::now();
        let status = Command::new("ip").args(["-n", "batch", "-batch", "/pernet/batch"]).status().unwrap();
        assert!(status.success());
        start.elapsed()
    });
    netns_del("batch");
    (times[0], times[1])
}
