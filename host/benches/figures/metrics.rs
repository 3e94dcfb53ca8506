//! What a scrape of the plugin `metrics` costs the daemon, all its threads included, those that end as well; and what a
//! scrape without a pause costs namespaces that appear meanwhile.
//!
//! Each of the namespaces has `lo` and four devices: two veth pairs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pernetd::linux::{netns, ns, rtnetlink};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::daemon::Daemon;
use crate::numbers::{ms, per, percentile};
use crate::sandbox::{RUN_NETNS, netns_add, netns_del, wait_until};

const SIZES: [usize; 3] = [10, 1_000, 2_000];
const SCRAPES: usize = 10;
const APPEAR: usize = 100;
const SOON: Duration = Duration::from_secs(120);
const ADDRESS: &str = "127.0.0.1:9964";
const DEFAULT: &str = "max_series = 2000000";
/// Without most of the protocols' counters.
const LEAN: &str = "max_series = 2000000\nmetrics = [\"*\", \"!pernet_netstat_tcp_ext_*\", \"!pernet_netstat_mp_tcp_ext_*\", \
                    \"!pernet_netstat_*icmp*\"]";

pub(crate) fn measure() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    netns::prepare_folder(Path::new(RUN_NETNS)).unwrap();
    rtnetlink::set_up(1).unwrap();
    println!("\na scrape of namespaces with lo and four devices each; CPU of the whole daemon, {SCRAPES} scrapes");
    println!(
        "{:>10} {:10} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10}",
        "namespaces", "metrics", "series", "MB", "CPU, ms", "clock, ms", "Pss before", "Pss after"
    );
    let mut there = 0;
    for size in SIZES {
        grow(there, size);
        there = size;
        row(size, "all", DEFAULT);
        if size == 1_000 {
            row(size, "fewer", LEAN);
            appear();
        }
    }
}

/// Each made by a thread that may enter it.
fn grow(from: usize, to: usize) {
    let make = move || {
        ns::take_seat_here().unwrap();
        for n in from..to {
            let path = netns_add(format!("m{n}"));
            let (_, pin) = ns::identify(&path).unwrap();
            ns::enter(&pin).unwrap();
            for (one, other) in [("a0", "a1"), ("b0", "b1")] {
                rtnetlink::create_veth(one, other, None).unwrap();
            }
            rtnetlink::set_up(1).unwrap();
            ns::home().unwrap();
        }
    };
    thread::spawn(make).join().unwrap();
}

fn start(config: &str) -> Daemon {
    Daemon::start_with(&[("60-metrics.toml", &format!("[config]\ntimeout = 60000\n{config}\n"))])
}

fn row(size: usize, what: &str, config: &str) {
    let daemon = start(config);
    let before = daemon.memory().0;
    let first = scrape();
    let (cpu, began) = (daemon.all_cpu(), Instant::now());
    (0..SCRAPES).for_each(|_| drop(scrape()));
    let (clock, spent) = (per(began.elapsed(), SCRAPES), per(daemon.all_cpu() - cpu, SCRAPES));
    let after = daemon.memory().0;
    let series = first.lines().filter(|line| !line.starts_with('#')).count();
    let whole = first.lines().any(|line| line == "pernetd_metrics_missing_namespaces 0") || what == "fewer";
    assert!(whole && first.contains(&format!("netns=\"m{}\"", size - 1)), "the scrape is not whole");
    let mb = first.len() as f64 / 1e6;
    println!(
        "{size:>10} {what:10} {series:>9} {mb:>9.1} {:>9} {:>9} {:>6} KiB {:>6} KiB",
        ms(spent),
        ms(clock),
        before / 1024,
        after / 1024
    );
    daemon.stop();
}

/// From just before the name until the daemon says that the namespace is set up, with and without scrapes all the while.
fn appear() {
    let daemon = start(DEFAULT);
    let times = || {
        let mut times: Vec<Duration> = (0..APPEAR)
            .map(|n| {
                let (name, began) = (format!("new{n}"), Instant::now());
                netns_add(&name);
                daemon.wait(&name);
                let took = began.elapsed();
                netns_del(&name);
                wait_until("its end", SOON, || !daemon.knows(&name));
                took
            })
            .collect();
        [50, 99].map(|percent| ms(percentile(&mut times, percent))).join(" / ")
    };
    let quiet = times();
    let stop = AtomicBool::new(false);
    let (busy, scrapes) = thread::scope(|scope| {
        let scraping =
            scope.spawn(|| std::iter::repeat_with(scrape).take_while(|_| !stop.load(Ordering::Relaxed)).count());
        let busy = times();
        stop.store(true, Ordering::Relaxed);
        (busy, scraping.join().unwrap())
    });
    println!(
        "{:>10} a namespace appears until it is set up, ms p50 / p99: {quiet}; during {scrapes} scrapes: {busy}",
        ""
    );
    daemon.stop();
}

fn scrape() -> String {
    let mut stream = TcpStream::connect(ADDRESS).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{}", text.get(..200).unwrap_or(&text));
    text
}
