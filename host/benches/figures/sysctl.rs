//! What it costs to read and set a knob: through `pernetctl`, by a call on a connection that is there, and across the
//! boundary alone; beside the kernel's own in /proc/sys, by itself and through sysctl(8).
//!
//! The plugin `probe_sysctl` (an example of this crate) has the knobs.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pernet_plugin_api::NetCookie;
use pernetd::engine::{At, Credentials, CtlAccess, CtlFile, CtlFound, CtlSet, CtlTable, Failure, Net, Owner};
use pernetd::plugin::file::open;
use pernetd::plugin::{Code, HookRecord, HostServices, Instance, InstanceRef, Judge, LogLine};
use serde_json::{Value, json};

use crate::boundary::Here;
use crate::daemon::{Connection, Daemon};
use crate::numbers::{percentile, us};
use crate::sandbox::{example_cdylib, netns_add, plugins_dir};

const CALLS: usize = 2_000;
const PROCESSES: usize = 200;
const KERNELS: &str = "/proc/sys/net/core/somaxconn";
const ROOT: Credentials = Credentials { uid: 0, gid: 0, privileged: true };

pub(crate) fn measure() {
    if !example_cdylib("probe_sysctl").exists() {
        println!("\nsysctl: not measured; first cargo build --release -p pernetd --example probe_sysctl");
        return;
    }
    println!("\na knob, read and set, in us (p50, p99); each of ours is a uint behind a plugin");
    println!("{:44} {:>20} {:>20}", "", "read", "set");
    let row = |what: &str, [mut read, mut set]: [Vec<Duration>; 2]| {
        let shown =
            |samples: &mut [Duration]| format!("{} / {}", us(percentile(samples, 50)), us(percentile(samples, 99)));
        println!("{what:44} {:>20} {:>20}", shown(&mut read), shown(&mut set));
    };
    row("/proc/sys: open, read or write, close", in_proc());
    let config = "file = \"libprobe_sysctl.so\"\n[config]\nrecord = \"/pernet/record\"\n";
    plugins_dir(&[example_cdylib("probe_sysctl")]);
    let daemon = Daemon::start_with(&[("30-probe-sysctl.toml", config)]);
    netns_add("bench");
    daemon.wait("bench");
    row("a call on a connection that is there", on_a_connection());
    let runtime = ["--runtime-dir", "/pernet/run", "sysctl", "--netns", "bench"];
    let ours = |more: &str| command(env!("CARGO_BIN_EXE_pernetctl"), &[&runtime[..], &[more]].concat());
    row("pernetctl sysctl, a process each", [processes(|| ours("probe.uint")), processes(|| ours("probe.uint=7"))]);
    if command("sysctl", &["--version"]).output().is_ok() {
        let kernels = |more: &str| command("sysctl", &[more]);
        let both = [processes(|| kernels("net.core.somaxconn")), processes(|| kernels("net.core.somaxconn=4096"))];
        row("sysctl(8), a process each", both);
    }
    daemon.stop();
    across_the_boundary();
}

fn sampled(times: usize, mut act: impl FnMut()) -> Vec<Duration> {
    let one = |_| {
        let start = Instant::now();
        act();
        start.elapsed()
    };
    (0..times).map(one).collect()
}

fn in_proc() -> [Vec<Duration>; 2] {
    let mut bytes = [0; 64];
    let read = sampled(CALLS, || drop(black_box(File::open(KERNELS).unwrap().read(&mut bytes))));
    let set = sampled(CALLS, || {
        let mut file = fs::OpenOptions::new().write(true).open(KERNELS).unwrap();
        file.write_all(b"4096\n").unwrap();
    });
    [read, set]
}

fn on_a_connection() -> [Vec<Duration>; 2] {
    let mut connection = Connection::connect();
    let mut call = |method: &str, parameters: &Value| {
        let reply = connection.call(method, parameters);
        assert!(reply["parameters"]["sysctls"][0]["errno"].is_null(), "{reply}");
    };
    let read = json!({ "netns": "bench", "key": "probe.uint" });
    let set = json!({ "netns": "bench", "key": "probe.uint", "value": "7" });
    [sampled(CALLS, || call("SysctlRead", &read)), sampled(CALLS, || call("SysctlWrite", &set))]
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn processes(command: impl Fn() -> Command) -> Vec<Duration> {
    sampled(PROCESSES, || assert!(command().status().unwrap().success()))
}

/// The engine's read and write of an open entry, with the plugin behind it: nothing else.
fn across_the_boundary() {
    let file = plugins_dir(&[example_cdylib("probe_sysctl")]).join("libprobe_sysctl.so");
    let code = Code::load(&open(&Judge::new(), &file, None).unwrap()).unwrap();
    let services = Arc::new(Services::default());
    let config = json!({ "record": "/pernet/record" }).to_string();
    let instance = Instance::create(&code, 1, &config, Arc::clone(&services) as Arc<dyn HostServices>).unwrap();
    let owner = Owner::new(Arc::clone(instance.name()), instance.generation(), 0);
    let member = instance.member(Arc::new(owner));
    let net = Net::new(NetCookie(1), 1, Box::new(Here), false);
    member.ops()[0].1.init(&At { net: &net, areas: &[] }).unwrap();
    let Ok(CtlFound::Entry(node)) = services.0.look("probe/uint") else { panic!("registered") };
    let file = CtlFile::open(node, &ROOT, CtlAccess::ReadWrite).unwrap();
    let read = fastest(|| drop(black_box(file.read_at(&ROOT, &mut 0, 64))));
    let write = fastest(|| drop(black_box(file.write_at(&ROOT, &mut 0, b"7\n"))));
    println!("of that, the engine and the plugin's own call, in ns: read {read:.0}, set {write:.0}");
    // Its areas are not freed here: it ends with the process.
    std::mem::forget(instance);
}

/// Nanoseconds per call, of the round that was least disturbed.
fn fastest(mut act: impl FnMut()) -> f64 {
    const ROUND: u32 = 200_000;
    let round = |_| {
        let start = Instant::now();
        (0..ROUND).for_each(|_| act());
        start.elapsed()
    };
    (0..7).map(round).min().unwrap_or(Duration::MAX).as_secs_f64() * 1e9 / f64::from(ROUND)
}

/// A host that has one set of tables.
#[derive(Default)]
struct Services(CtlSet);

impl HostServices for Services {
    fn log(&self, _: LogLine<'_>) {}

    fn log_level(&self) -> u8 {
        0
    }

    fn hook_called(&self, _: HookRecord<'_>) {}

    fn defer(&self, _: &InstanceRef, _: &[u64], _: u64) -> Result<(), Failure> {
        Ok(())
    }

    fn run_in(&self, _: &InstanceRef, _: u64, _: u64) -> Result<(), Failure> {
        Ok(())
    }

    fn register_net_sysctl(&self, _: &InstanceRef, _: u64, path: &str, table: CtlTable) -> Result<u64, Failure> {
        self.0.register(path, table, |_| ()).map(|header| header.id)
    }

    fn poisoned(&self, _: &str, _: u64, failure: &Failure) {
        panic!("{failure}");
    }
}
