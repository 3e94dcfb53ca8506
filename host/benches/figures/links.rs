//! What a link event costs the daemon, and the one who causes it.
//!
//! An MTU change is the event: it is told to whoever listens and changes nothing else. The kernel's own part and what
//! the request costs are in the sender's figures; the first line, with nobody listening, is what to compare with.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use pernetd::linux::netns;
use pernetd::linux::ns::{self, Pin};
use pernetd::netlink::Requests;
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};

use crate::daemon::Daemon;
use crate::numbers::{per, us};
use crate::sandbox::RUN_NETNS;

const NAMESPACES: usize = 1_000;
const CHANGES: usize = 10_000;
/// Of more that wait in one namespace the daemon makes one listing.
const WAITING: usize = 4_000;
/// A receive buffer as small as an ordinary user's holds 92 messages.
const BURST: usize = 32;
const PAUSE: Duration = Duration::from_micros(400);
const LO: u32 = 1;

const QUIET: &str = "";
const SUBSCRIBING: &str = r#"
[[config.profile]]
name = "figures"
[[config.profile.device]]
include = ["eth*"]
settings = { "net.ipv4.conf.<dev>.rp_filter" = 0 }
"#;

pub(crate) fn measure() {
    ns::take_seat_here().unwrap();
    netns::prepare_folder(Path::new(RUN_NETNS)).unwrap();
    let names = (0..NAMESPACES).map(|n| Path::new(RUN_NETNS).join(format!("n{n}")));
    let paths: Vec<_> = names.collect();
    for path in &paths {
        netns::take_name(path).unwrap();
        netns::bind(std::os::fd::AsFd::as_fd(&netns::create().unwrap()), path).unwrap();
    }
    // The kernel searches the ids one after the other: the one in the middle stands for all.
    let (_, middle) = ns::identify(&paths[NAMESPACES / 2]).unwrap();
    println!("\nlink events (MTU changes) beside {NAMESPACES} namespaces; CPU in us per event");
    println!("{:60} {:>7} {:>7} {:>8}", "", "sender", "daemon", "resyncs");
    row("no daemon", &middle, None);
    let daemon = Daemon::start("", QUIET);
    row("the daemon, no plugin wants device events", &middle, Some(&daemon));
    daemon.stop();
    let daemon = Daemon::start("netlink.receive_buffer = 268435456", SUBSCRIBING);
    row("one plugin does, everywhere", &middle, Some(&daemon));
    daemon.stop();
}

fn row(what: &str, place: &Pin, daemon: Option<&Daemon>) {
    let rhythms: [(&str, usize, Duration); 3] =
        [("one at a time", 1, PAUSE), ("in bursts of 32", BURST, PAUSE * 8), ("in a flood", CHANGES, PAUSE)];
    for (how, burst, pause) in rhythms {
        let changes = if burst == 1 { CHANGES / 5 } else { CHANGES };
        let (resyncs, cpu) = daemon.map_or_else(Default::default, |d| (lost(d), d.cpu()));
        let sender = send(place, changes, burst, pause);
        let (cpu, resyncs) = daemon.map_or_else(Default::default, |d| {
            let spent = d.cpu() - cpu;
            (us(per(spent, changes)), (lost(d) - resyncs).to_string())
        });
        println!("{:60} {:>7} {cpu:>7} {resyncs:>8}", format!("{what}, {how}"), us(sender));
    }
    if let Some(daemon) = daemon {
        let before = (lost(daemon), daemon.cpu());
        daemon.signal(Signal::STOP);
        let sender = send(place, WAITING, WAITING, PAUSE);
        daemon.signal(Signal::CONT);
        let cpu = us(per(daemon.cpu() - before.1, WAITING));
        let resyncs = lost(daemon) - before.0;
        println!("{:60} {:>7} {cpu:>7} {resyncs:>8}", format!("{what}, all waiting at once"), us(sender));
    }
}

/// How often messages were lost.
fn lost(daemon: &Daemon) -> u64 {
    daemon.ask("Status", &serde_json::Value::Null)["status"]["resyncs"].as_u64().unwrap()
}

/// The sender's CPU time per change.
fn send(place: &Pin, changes: usize, burst: usize, pause: Duration) -> Duration {
    ns::enter(place).unwrap();
    let mut requests = Requests::open().unwrap();
    let mut spent = Duration::ZERO;
    for n in 0..changes / burst {
        let start = thread_cpu();
        (0..burst).for_each(|k| change_mtu(&mut requests, n * burst + k));
        spent += thread_cpu() - start;
        let until = Instant::now() + pause;
        // A rhythm, not a wait for something: what is heard one at a time is measured by sending one at a time.
        while Instant::now() < until {
            thread::park_timeout(until.saturating_duration_since(Instant::now()));
        }
    }
    ns::home().unwrap();
    per(spent, changes)
}

fn change_mtu(requests: &mut Requests, n: usize) {
    let mut message = LinkMessage::default();
    message.header.index = LO;
    message.attributes.push(LinkAttribute::Mtu(2000 + u32::try_from(n % 2).unwrap()));
    requests.ask(&|| "change the MTU".into(), RouteNetlinkMessage::SetLink(message), 0, |_| {}).unwrap();
}

fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
}
