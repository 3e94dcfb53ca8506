//! What link events cost: us per event, the sender per change; and what subscribing and dumping cost. A program that
//! prints a table; run it with `cargo bench -p pernetd --bench links`.
//!
//! CPU time of the threads concerned, not the clock: on a small machine the clock measures the neighbours.
#![allow(clippy::unwrap_used)] // A benchmark ends where something that must work does not.

#[path = "../tests/sandbox/mod.rs"]
mod sandbox;

use std::os::fd::AsFd;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs};

use crossbeam_channel::{Receiver, unbounded};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use pernetd::discovery::links::{LinkEvent, LinkSource};
use pernetd::linux::ns::{self, Pin};
use pernetd::linux::rtnetlink;
use pernetd::netlink::Requests;
use rustix::time::{ClockId, clock_gettime};
use sandbox::{netns_add, trial};

const SHOW: &str = "PERNET_SANDBOX_SHOW";
const DEADLINE: Duration = Duration::from_secs(30);
const CHANGES: u32 = 20_000;
const LO: u32 = 1;

fn main() -> ExitCode {
    if env::var_os(SHOW).is_none() {
        // Without cargo's `--bench`, which makes the harness ignore all trials, and one after the other.
        let again = Command::new("/proc/self/exe").args(["--test-threads", "1"]).env(SHOW, "1").status();
        return ExitCode::from(u8::from(!again.is_ok_and(|status| status.success())));
    }
    let counts = [10, 1_000, 4_000];
    let trials = counts.map(|count| trial(format!("link events of {count} namespaces"), move || measure(count)));
    let dumps = trial("dumps", dumps);
    sandbox::main(trials.into_iter().chain([dumps]).map(|trial| trial.deadline(Duration::from_secs(300))).collect())
}

fn measure(count: u32) {
    ns::take_seat_here().unwrap();
    let spaces: Vec<_> = (0..count).map(|n| ns::identify(&netns_add(format!("n{n}"))).unwrap()).collect();
    // Large enough to hold a flood whole: what a loss costs is another question.
    let (source, batches) = listen(256 << 20);
    // The kernel searches the ids one after the other: the one in the middle stands for all.
    let middle = &spaces[count as usize / 2].1;
    let nobody = sender(middle, CHANGES);
    let start = thread_cpu();
    for (cookie, pin) in &spaces {
        source.subscribe(*cookie, pin.as_fd()).unwrap();
    }
    let subscribing = (thread_cpu() - start) / count;

    let before = reader_cpu();
    let flood = sender(middle, CHANGES);
    let heard = take(&batches, CHANGES);
    let flooded = (reader_cpu() - before) / heard;

    let before = reader_cpu();
    let alone = one_by_one(middle, &batches, CHANGES / 10);
    let paced = (reader_cpu() - before) / (CHANGES / 10);
    println!("{count} namespaces subscribed, {} losses", source.resyncs());
    println!("  sender, per change: nobody listens {nobody:?}; listened to {flood:?}, one at a time {alone:?}");
    println!("  reader, per event: in a flood {flooded:?}, one at a time {paced:?}");
    println!("  subscribing, per namespace: {subscribing:?}");
}

fn listen(receive_buffer: usize) -> (Arc<LinkSource>, Receiver<Vec<LinkEvent>>) {
    let (send, batches) = unbounded();
    (LinkSource::start(receive_buffer, Box::new(move |batch| drop(send.send(batch)))), batches)
}

/// CPU time of one MTU change in a namespace, the kernel's delivery to whoever listens included.
fn sender(pin: &Pin, changes: u32) -> Duration {
    ns::enter(pin).unwrap();
    let mut requests = Requests::open().unwrap();
    let start = thread_cpu();
    (0..changes).for_each(|n| change_mtu(&mut requests, n));
    let spent = thread_cpu() - start;
    ns::home().unwrap();
    spent / changes
}

/// The same, but each change waits until the one before was heard.
fn one_by_one(pin: &Pin, batches: &Receiver<Vec<LinkEvent>>, changes: u32) -> Duration {
    ns::enter(pin).unwrap();
    let mut requests = Requests::open().unwrap();
    let mut spent = Duration::ZERO;
    for n in 0..changes {
        let start = thread_cpu();
        change_mtu(&mut requests, n);
        spent += thread_cpu() - start;
        take(batches, 1);
    }
    ns::home().unwrap();
    spent / changes
}

fn change_mtu(requests: &mut Requests, n: u32) {
    let mut message = LinkMessage::default();
    message.header.index = LO;
    message.attributes.push(LinkAttribute::Mtu(2000 + n % 2));
    requests.ask(&|| "change the MTU".into(), RouteNetlinkMessage::SetLink(message), 0, |_| {}).unwrap();
}

fn take(batches: &Receiver<Vec<LinkEvent>>, events: u32) -> u32 {
    let mut taken = 0;
    while taken < events as usize {
        taken += batches.recv_timeout(DEADLINE).unwrap().len();
    }
    u32::try_from(taken).unwrap()
}

fn dumps() {
    ns::take_seat_here().unwrap();
    for links in [0, 2, 100] {
        let (_, pin) = ns::identify(&netns_add(format!("dump{links}"))).unwrap();
        ns::enter(&pin).unwrap();
        (0..links / 2).for_each(|n| rtnetlink::create_veth(&format!("a{n}"), &format!("b{n}"), None).unwrap());
        let (start, rounds) = (thread_cpu(), 1_000);
        (0..rounds).for_each(|_| assert_eq!(rtnetlink::dump_links().unwrap().len(), links + 1));
        let whole = (thread_cpu() - start) / rounds;
        println!("a dump of {} links, its socket included: {whole:?}", links + 1);
        ns::home().unwrap();
    }
}

fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
}

/// CPU time of the reader thread, once it has nothing left to do.
fn reader_cpu() -> Duration {
    let start = Instant::now();
    let (mut last, mut same) = (Duration::MAX, Instant::now());
    while same.elapsed() < Duration::from_millis(50) {
        assert!(start.elapsed() < DEADLINE, "the reader does not come to rest");
        let now = schedstat();
        if now != last {
            (last, same) = (now, Instant::now());
        }
        std::thread::yield_now();
    }
    last
}

fn schedstat() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let is_reader = |name: &str| name.trim() == "links";
    let reader =
        tasks.map(|task| task.path()).find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|n| is_reader(&n)));
    let text = fs::read_to_string(reader.unwrap().join("schedstat")).unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}
