//! What a plugin's socket costs: made by a hook and by a thread of the plugin's own, beside socket(2) itself; and what
//! daemon and namespaces cost with one each.
//!
//! The plugin `bench_sockets` (an example of this crate) makes its sockets in the init of a namespace and says how long
//! each took.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use pernetd::linux::netns;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::daemon::Daemon;
use crate::numbers::{percentile, us};
use crate::sandbox::{RUN_NETNS, example_cdylib, netns_add, netns_del, wait_until};

const TIMED: usize = 1_000;
const NAMESPACES: usize = 1_000;
const TIMES: &str = "/pernet/times";
const SOON: Duration = Duration::from_secs(120);
/// Packet sockets are of no protocol: none that hears everything.
const KINDS: [(&str, [i32; 3]); 2] = [("UDP", [2, 2, 0]), ("packet", [17, 3, 0])];

pub(crate) fn measure() {
    if !example_cdylib("bench_sockets").exists() {
        println!("\nsockets: not measured; first cargo build --release -p pernetd --example bench_sockets");
        return;
    }
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    netns::prepare_folder(Path::new(RUN_NETNS)).unwrap();
    println!("\na socket made / released, in us (p50, p99), by the clock");
    println!("{:8} {:>34} {:>34} {:>34}", "", "socket(2), close(2)", "by a hook", "by a plugin's thread");
    for (what, kind) in KINDS {
        let shown = |times: [Vec<Duration>; 2]| {
            let [make, release] = times.map(|mut t| [50, 99].map(|percent| us(percentile(&mut t, percent))).join(", "));
            format!("{make} / {release}")
        };
        let (bare, hook, thread) = (shown(bare(kind)), shown(timed(kind, false)), shown(timed(kind, true)));
        println!("{what:8} {bare:>34} {hook:>34} {thread:>34}");
    }
    println!("\n{NAMESPACES} namespaces; memory and descriptors of the daemon, each less its own without namespaces");
    println!("{:24} {:>12} {:>9} {:>9} {:>6} {:>18}", "", "start, ms", "CPU, ms", "Pss KiB", "fds", "all removed, ms");
    let without = many("without sockets", 0, KINDS[0].1);
    for (what, kind) in KINDS {
        let with = many(&format!("one {what} socket each"), 1, kind);
        println!(
            "{:24} {} bytes of Pss, {:.3} fds per socket",
            "",
            (with.0.saturating_sub(without.0)) / NAMESPACES as u64,
            (with.1 - without.1) as f64 / NAMESPACES as f64
        );
    }
}

/// The system calls alone, in this namespace.
fn bare([family, kind, protocol]: [i32; 3]) -> [Vec<Duration>; 2] {
    let family = AddressFamily::from_raw(family.try_into().unwrap());
    let kind = SocketType::from_raw(kind.try_into().unwrap());
    let protocol = u32::try_from(protocol).ok().and_then(std::num::NonZeroU32::new).map(Protocol::from_raw);
    let one = |_| {
        let since = Instant::now();
        let socket = black_box(socket_with(family, kind, SocketFlags::CLOEXEC, protocol).unwrap());
        let made = since.elapsed();
        drop(socket);
        (made, since.elapsed() - made)
    };
    let (made, released) = (0..TIMED).map(one).unzip();
    [made, released]
}

fn start(kind: [i32; 3], timed: usize, by_thread: bool, kept: usize) -> Daemon {
    let config =
        format!("kind = {kind:?}\ntimed = {timed}\nby_thread = {by_thread}\nkept = {kept}\ntimes = \"{TIMES}\"");
    let text = format!("file = \"libbench_sockets.so\"\nnamespaces.include = [\"s*\"]\n[config]\n{config}\n");
    Daemon::start_with(&[("30-bench-sockets.toml", &text)])
}

fn timed(kind: [i32; 3], by_thread: bool) -> [Vec<Duration>; 2] {
    let daemon = start(kind, TIMED, by_thread, 0);
    netns_add("s");
    daemon.wait("s");
    netns_del("s");
    wait_until("the namespace's end", SOON, || !daemon.knows("s"));
    daemon.stop();
    let text = fs::read_to_string(TIMES).unwrap();
    fs::remove_file(TIMES).unwrap();
    let nanos = |word: &str| Duration::from_nanos(word.parse().unwrap());
    let both = text.lines().map(|line| line.split_once(' ').unwrap());
    let (made, released): (Vec<_>, Vec<_>) = both.map(|(made, released)| (nanos(made), nanos(released))).unzip();
    assert_eq!(made.len(), TIMED);
    [made, released]
}

/// One row; what the daemon has of memory and descriptors for the namespaces.
fn many(what: &str, kept: usize, kind: [i32; 3]) -> (u64, usize) {
    let none = start(kind, 0, false, kept);
    let _ = none.cpu();
    let (empty, few) = (none.memory().0, none.fds());
    none.stop();
    (0..NAMESPACES).for_each(|n| drop(netns_add(format!("s{n}"))));
    let daemon = start(kind, 0, false, kept);
    let (ready, cpu) = (daemon.ready_after, daemon.cpu());
    let (memory, fds) = (daemon.memory().0.saturating_sub(empty), daemon.fds() - few);
    let since = Instant::now();
    (0..NAMESPACES).for_each(|n| netns_del(format!("s{n}")));
    wait_until("everything is closed", SOON, || daemon.fds() == few);
    let removed = since.elapsed();
    daemon.stop();
    let ms = |time: Duration| format!("{:.0}", time.as_secs_f64() * 1e3);
    println!("{what:24} {:>12} {:>9} {:>9} {fds:>6} {:>18}", ms(ready), ms(cpu), memory / 1024, ms(removed));
    (memory, fds)
}
