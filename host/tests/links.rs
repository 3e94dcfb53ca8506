//! Link events of many namespaces by one socket, and link requests, against the kernel of this machine.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod sandbox;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use pernet_plugin_api::NetCookie;
use pernetd::discovery::links::{LinkEvent, LinkSource, Subscription};
use pernetd::discovery::nsid;
use pernetd::engine::Link;
use pernetd::linux::ns::{self, Pin};
use pernetd::linux::rtnetlink;
use pernetd::netlink::Requests;
use sandbox::{netns_add, netns_del, trial, wait_until};

const DEADLINE: Duration = Duration::from_secs(10);
const ROOMY: usize = 4 << 20;
const IFF_UP: u32 = 1;
const LO: u32 = 1;

fn main() -> ExitCode {
    sandbox::main(vec![
        trial("what changes after a dump comes as events", what_changes_after_a_dump),
        trial("the life of a veth pair is told in order", the_life_of_a_veth_pair),
        trial("up, down, up are three events", up_down_up),
        trial("a port that leaves its bridge is not gone", a_port_leaves_its_bridge),
        trial("a moved device is gone here and seen there", a_moved_device),
        trial("a change whose sender has an echo of it is heard too", a_change_with_an_echo),
        trial("unsubscribed namespaces are silent", unsubscribed_namespaces_are_silent),
        trial("nothing is open while nobody subscribes", nothing_open_without_subscribers),
        trial("a second subscription takes the id that is there", a_second_subscription),
        trial("a namespace may die while subscribed", a_namespace_dies),
        trial("ids of the operator's namespace stay free", ids_stay_free),
        trial("after an overrun a dump restores the view", after_an_overrun),
        trial("an overrun is reported even if the flood never ends", a_flood_without_end),
        trial("an own change's echo is always before its fence", an_echo_is_before_its_fence),
        trial("after an overrun fences still come to an end", fences_end_after_an_overrun),
        trial("without subscribers there is nothing to fence", nothing_to_fence),
        trial("many threads subscribe and unsubscribe at once", many_threads),
        trial("a dump of many links is whole", a_dump_of_many_links),
        trial("a refusal carries the kernel's words", a_refusal_carries_the_kernels_words),
        trial("a request leaves no socket behind", a_request_leaves_no_socket),
    ])
}

/// A named namespace.
struct Space {
    cookie: NetCookie,
    pin: Pin,
}

fn space(name: &str) -> Space {
    let (cookie, pin) = ns::identify(&netns_add(name)).unwrap();
    Space { cookie, pin }
}

impl Space {
    /// Acts inside.
    fn inside<T>(&self, act: impl FnOnce() -> T) -> T {
        ns::enter(&self.pin).unwrap();
        let result = act();
        ns::home().unwrap();
        result
    }

    fn mtu(&self, mtu: u32) {
        self.inside(|| rtnetlink::set_mtu(LO, mtu)).unwrap();
    }

    fn links(&self) -> BTreeMap<u32, Link> {
        self.inside(rtnetlink::dump_links).unwrap().into_iter().map(|link| (link.ifindex, link)).collect()
    }
}

/// A source, and what it sent.
struct Heard {
    source: Arc<LinkSource>,
    batches: Receiver<Vec<LinkEvent>>,
    waiting: VecDeque<LinkEvent>,
}

fn listen(receive_buffer: usize) -> Heard {
    ns::take_seat_here().unwrap();
    let (send, batches) = unbounded();
    let source = LinkSource::start(receive_buffer, Box::new(move |batch| drop(send.send(batch))));
    Heard { source, batches, waiting: VecDeque::new() }
}

impl Heard {
    fn subscribe(&self, space: &Space) -> Subscription {
        self.source.subscribe(space.cookie, space.pin.as_fd()).unwrap()
    }

    #[track_caller]
    fn next(&mut self) -> LinkEvent {
        while self.waiting.is_empty() {
            self.waiting.extend(self.batches.recv_timeout(DEADLINE).expect("an event within the deadline"));
        }
        self.waiting.pop_front().unwrap()
    }

    /// What is told up to the change of `space`'s `lo` to an MTU that nothing else has.
    #[track_caller]
    fn until_mark(&mut self, space: &Space, mtu: u32) -> Vec<LinkEvent> {
        space.mtu(mtu);
        let mut told = Vec::new();
        loop {
            match self.next() {
                LinkEvent::Seen { cookie, link, .. } if cookie == space.cookie && link.mtu == mtu => return told,
                event => told.push(event),
            }
        }
    }
}

/// Events of one namespace in words, without repetitions: the kernel tells some states twice.
fn story(events: &[LinkEvent], space: &Space, of: impl Fn(&Link) -> String) -> Vec<String> {
    let mut story: Vec<String> = events
        .iter()
        .filter_map(|event| match event {
            LinkEvent::Seen { cookie, link, .. } if *cookie == space.cookie => Some(of(link)),
            LinkEvent::Gone { cookie, ifindex, .. } if *cookie == space.cookie => Some(format!("{ifindex} gone")),
            _ => None,
        })
        .collect();
    story.dedup();
    story
}

fn up(link: &Link) -> &'static str {
    if link.flags & IFF_UP == 0 { "down" } else { "up" }
}

fn what_changes_after_a_dump() {
    let mut heard = listen(ROOMY);
    let blue = space("blue");
    let subscription = heard.subscribe(&blue);
    let links = blue.links();
    assert_eq!(links.len(), 1);
    assert_eq!((links[&LO].name.as_str(), links[&LO].mtu, up(&links[&LO])), ("lo", 65536, "down"));
    assert_eq!(heard.subscribe(&blue), subscription, "subscribing twice changes nothing");

    blue.inside(|| rtnetlink::set_up(LO)).unwrap();
    let LinkEvent::Seen { cookie, subscription: number, link, .. } = heard.next() else { panic!("not seen") };
    assert_eq!((cookie, number), (blue.cookie, subscription.number));
    assert_eq!((link.name.as_str(), up(&link)), ("lo", "up"));
    assert_eq!(heard.source.resyncs(), 0);
}

fn the_life_of_a_veth_pair() {
    let mut heard = listen(ROOMY);
    let blue = space("blue");
    heard.subscribe(&blue);
    let address = [2, 0, 0, 0, 0, 7];
    let ifindex = blue.inside(|| {
        rtnetlink::create_veth("near", "far", None).unwrap();
        let near = rtnetlink::find("near").unwrap();
        assert_eq!(near.kind, "veth");
        rtnetlink::rename(near.ifindex, "nearer").unwrap();
        rtnetlink::set_mtu(near.ifindex, 1400).unwrap();
        rtnetlink::set_address(near.ifindex, &address).unwrap();
        rtnetlink::set_up(near.ifindex).unwrap();
        rtnetlink::set_down(near.ifindex).unwrap();
        rtnetlink::delete("nearer").unwrap();
        near.ifindex
    });
    let told = heard.until_mark(&blue, 60_001);
    let of = |link: &Link| {
        let ours = if link.address == address { " ours" } else { "" };
        format!("{} {} {}{ours}", link.name, link.mtu, up(link))
    };
    let near: Vec<_> = told.iter().filter(|event| about(event) == ifindex).cloned().collect();
    let near = story(&near, &blue, of);
    let gone = format!("{ifindex} gone");
    let expected = [
        "near 1500 down",
        "nearer 1500 down",
        "nearer 1400 down",
        "nearer 1400 down ours",
        "nearer 1400 up ours",
        "nearer 1400 down ours",
        &gone,
    ];
    assert_eq!(near, expected);
    assert_eq!(blue.links().len(), 1);
}

fn about(event: &LinkEvent) -> u32 {
    match event {
        LinkEvent::Seen { link, .. } => link.ifindex,
        LinkEvent::Gone { ifindex, .. } => *ifindex,
        LinkEvent::Overrun => 0,
    }
}

fn up_down_up() {
    let mut heard = listen(ROOMY);
    let blue = space("blue");
    heard.subscribe(&blue);
    blue.inside(|| {
        rtnetlink::set_up(LO).unwrap();
        rtnetlink::set_down(LO).unwrap();
        rtnetlink::set_up(LO).unwrap();
    });
    let told = heard.until_mark(&blue, 60_001);
    assert_eq!(story(&told, &blue, |link| up(link).into()), ["up", "down", "up"]);
}

fn a_port_leaves_its_bridge() {
    let mut heard = listen(ROOMY);
    let blue = space("blue");
    heard.subscribe(&blue);
    let (bridge, port) = blue.inside(|| {
        rtnetlink::create("br", "bridge").unwrap();
        rtnetlink::create_veth("port", "far", None).unwrap();
        let (bridge, port) = (rtnetlink::find("br").unwrap(), rtnetlink::find("port").unwrap());
        assert_eq!(bridge.kind, "bridge");
        rtnetlink::set_master(port.ifindex, bridge.ifindex).unwrap();
        rtnetlink::set_master(port.ifindex, 0).unwrap();
        (bridge.ifindex, port.ifindex)
    });
    let told = heard.until_mark(&blue, 60_001);
    assert!(!told.iter().any(|event| matches!(event, LinkEvent::Gone { .. })), "{told:?}");
    let port: Vec<_> = told.into_iter().filter(|event| about(event) == port).collect();
    let masters = story(&port, &blue, |link| link.master.to_string());
    assert_eq!(masters, ["0".to_owned(), bridge.to_string(), "0".to_owned()]);
}

fn a_moved_device() {
    let mut heard = listen(ROOMY);
    let (blue, red) = (space("blue"), space("red"));
    heard.subscribe(&blue);
    heard.subscribe(&red);
    let ifindex = blue.inside(|| {
        rtnetlink::create_veth("near", "far", Some(red.pin.as_fd())).unwrap();
        let near = rtnetlink::find("near").unwrap().ifindex;
        rtnetlink::move_to(near, red.pin.as_fd()).unwrap();
        near
    });
    let told = heard.until_mark(&blue, 60_001);
    assert_eq!(story(&told, &blue, |link| link.name.clone()), ["near".to_owned(), format!("{ifindex} gone")]);
    let from_blue = blue.inside(|| nsid::query(&mut Requests::open().unwrap(), red.pin.as_fd())).unwrap();
    let new_index = red.links().values().find(|link| link.name == "near").unwrap().ifindex;
    let gone = told.iter().find_map(|event| match event {
        LinkEvent::Gone { moved, .. } => Some(*moved),
        _ => None,
    });
    assert_eq!(gone, Some(from_blue.zip(Some(new_index))), "by blue's id for red, not by ours");
    let managed = || [("blue", blue.pin.as_fd()), ("red", red.pin.as_fd())];
    let whose = |nsid| blue.inside(|| nsid::whose(nsid, managed())).unwrap();
    assert_eq!((whose(from_blue.unwrap()), whose(4711)), (Some("red"), None));
    let mut there = story(&told, &red, |link| link.name.clone());
    there.dedup();
    assert_eq!(there, ["far", "near"]);
    assert_eq!(blue.links().len(), 1);
    assert_eq!(red.links().len(), 3);
}

fn a_change_with_an_echo() {
    let mut heard = listen(ROOMY);
    let blue = space("blue");
    heard.subscribe(&blue);
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName("br".into()));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
    let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO;
    // The sender's port is this process's id, as the kernel chooses for whoever comes first.
    let made = |r: &mut Requests| r.ask(&|| "make br".into(), RouteNetlinkMessage::NewLink(message), flags, |_| {});
    blue.inside(|| made(&mut Requests::open().unwrap())).unwrap();
    let told = heard.until_mark(&blue, 60_001);
    assert_eq!(story(&told, &blue, |link| link.name.clone()), ["br"]);
}

fn unsubscribed_namespaces_are_silent() {
    let mut heard = listen(ROOMY);
    let (blue, red, never) = (space("blue"), space("red"), space("never"));
    heard.subscribe(&blue);
    heard.subscribe(&red);
    red.mtu(1001);
    assert_eq!(story(&[heard.next()], &red, |link| link.mtu.to_string()), ["1001"]);
    heard.source.unsubscribe(red.cookie);
    red.mtu(1002);
    never.mtu(1003);
    assert_eq!(heard.until_mark(&blue, 60_001), []);
}

fn nothing_open_without_subscribers() {
    let heard = listen(ROOMY);
    let (blue, red) = (space("blue"), space("red"));
    let before = sockets();
    assert!(!heard.source.listening());
    for _ in 0..3 {
        heard.subscribe(&blue);
        heard.subscribe(&red);
        assert!(heard.source.listening());
        assert_eq!(sockets(), before + 2, "one that listens, one for requests");
        heard.source.unsubscribe(blue.cookie);
        assert!(heard.source.listening());
        heard.source.unsubscribe(red.cookie);
        assert!(!heard.source.listening());
        wait_until("the sockets are closed", DEADLINE, || sockets() == before);
        wait_until("the thread is gone", DEADLINE, || !reader_runs());
    }
}

/// The sockets of this process.
fn sockets() -> usize {
    let entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
    entries.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))).count()
}

fn reader_runs() -> bool {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok()).any(|name| name.trim() == "links")
}

fn a_second_subscription() {
    let mut heard = listen(ROOMY);
    let (blue, red) = (space("blue"), space("red"));
    let first = heard.subscribe(&blue);
    let other = heard.subscribe(&red);
    assert_ne!(first.nsid, other.nsid);
    heard.source.unsubscribe(blue.cookie);
    assert_eq!(heard.source.subscription(blue.cookie), None);
    let second = heard.subscribe(&blue);
    assert_eq!(second.nsid, first.nsid, "a namespace keeps its id for its life");
    assert_ne!(second.number, first.number);
    assert_eq!(heard.source.subscription(blue.cookie), Some(second));
    blue.mtu(1001);
    assert!(matches!(heard.next(), LinkEvent::Seen { subscription, .. } if subscription == second.number));
}

fn a_namespace_dies() {
    let mut heard = listen(ROOMY);
    let (blue, red) = (space("blue"), space("red"));
    heard.subscribe(&blue);
    let gone = heard.subscribe(&red);
    let cookie = red.cookie;
    drop(red);
    netns_del("red");
    wait_until("its id is retired", DEADLINE, || heard.source.subscription(cookie).is_none());
    heard.source.unsubscribe(cookie);
    assert_eq!(heard.until_mark(&blue, 60_001), [], "devices that die with their namespace are not announced");
    let new = space("red");
    assert_ne!(heard.subscribe(&new).nsid, gone.nsid, "an id is never used twice");
    assert_eq!(heard.until_mark(&new, 60_002), []);
}

fn ids_stay_free() {
    let heard = listen(ROOMY);
    let blue = space("blue");
    heard.subscribe(&blue);
    let fd = blue.pin.as_fd().as_raw_fd().unsigned_abs();
    let mut message = NsidMessage::default();
    message.attributes = vec![NsidAttribute::Fd(fd), NsidAttribute::Id(77)];
    let mut requests = Requests::open().unwrap();
    let doing = || "set the id 77".to_owned();
    requests.ask(&doing, RouteNetlinkMessage::NewNsId(message.clone()), 0, |_| {}).unwrap();
    let again = requests.ask(&doing, RouteNetlinkMessage::NewNsId(message), 0, |_| {}).unwrap_err();
    assert_eq!(again.errno, libc::EEXIST);
    let mut heard = heard;
    assert_eq!(heard.until_mark(&blue, 60_001), []);
}

/// The daemon's part of a resync: the view of one namespace, by events in their order and a dump at each overrun.
fn follow(view: &mut BTreeMap<u32, Link>, event: LinkEvent, space: &Space) {
    match event {
        LinkEvent::Seen { link, .. } => drop(view.insert(link.ifindex, link)),
        LinkEvent::Gone { ifindex, .. } => drop(view.remove(&ifindex)),
        LinkEvent::Overrun => *view = space.links(),
    }
}

fn after_an_overrun() {
    ns::take_seat_here().unwrap();
    let (send, batches) = unbounded();
    let (open, gate) = unbounded::<()>();
    // The reader gets stuck in its first batch until it is told to go on.
    let stuck = move |batch: Vec<LinkEvent>| drop((gate.recv(), send.send(batch)));
    let source = LinkSource::start(4096, Box::new(stuck));
    let mut heard = Heard { source, batches, waiting: VecDeque::new() };
    let (blue, red) = (space("blue"), space("red"));
    heard.subscribe(&blue);
    heard.subscribe(&red);
    let mut view = blue.links();
    blue.inside(|| {
        for round in 0..200 {
            rtnetlink::set_mtu(LO, 1000 + round).unwrap();
        }
        rtnetlink::create_veth("near", "far", None).unwrap();
        rtnetlink::set_up(LO).unwrap();
    });
    drop(open);
    while heard.source.resyncs() == 0 {
        follow(&mut view, heard.next(), &blue);
    }
    settle(&mut heard, view, &blue);
    assert_eq!(blue.links().len(), 3);
    assert_eq!(heard.until_mark(&red, 60_003), []);
}

/// After a flood the view becomes the kernel's, and the stream goes on without further losses.
#[track_caller]
fn settle(heard: &mut Heard, mut view: BTreeMap<u32, Link>, space: &Space) {
    // This change may itself be lost; then the dump shows it.
    space.mtu(60_001);
    while view != space.links() {
        follow(&mut view, heard.next(), space);
    }
    // The queue may still be full of what was before: a mark that is lost too comes as one more loss, and is made again.
    let mut mark = 60_002;
    space.mtu(mark);
    loop {
        let event = heard.next();
        let lost = event == LinkEvent::Overrun;
        let seen = matches!(&event, LinkEvent::Seen { link, .. } if link.mtu == mark);
        follow(&mut view, event, space);
        if seen {
            break;
        }
        if lost {
            mark += 1;
            space.mtu(mark);
        }
    }
    assert_eq!(view, space.links());
}

fn a_flood_without_end() {
    let mut heard = listen(4096);
    let blue = space("blue");
    heard.subscribe(&blue);
    let (stop, stopped) = unbounded::<()>();
    let pin = Pin::from(blue.pin.as_fd().try_clone_to_owned().unwrap());
    let flood = thread::spawn(move || {
        ns::take_seat_here().unwrap();
        ns::enter(&pin).unwrap();
        for round in 0.. {
            rtnetlink::set_mtu(LO, 1000 + round % 1000).unwrap();
            if stopped.try_recv().is_err_and(|e| e.is_disconnected()) {
                return;
            }
        }
    });
    while heard.source.resyncs() == 0 {
        heard.next();
    }
    drop(stop);
    flood.join().unwrap();
    settle(&mut heard, BTreeMap::new(), &blue);
}

/// Another thread that changes `lo` of the namespace, for every credit once, until the sender of credits is dropped.
fn flood(space: &Space) -> (Sender<()>, JoinHandle<()>) {
    let (credit, credits) = unbounded::<()>();
    let pin = Pin::from(space.pin.as_fd().try_clone_to_owned().unwrap());
    let flood = thread::spawn(move || {
        ns::take_seat_here().unwrap();
        ns::enter(&pin).unwrap();
        for (round, ()) in (0..).zip(credits) {
            rtnetlink::set_mtu(LO, 1000 + round % 1000).unwrap();
        }
    });
    (credit, flood)
}

fn an_echo_is_before_its_fence() {
    const ROUNDS: u32 = 1000;
    let mut heard = listen(ROOMY);
    let (blue, red) = (space("blue"), space("red"));
    heard.subscribe(&blue);
    heard.subscribe(&red);
    let near = blue.inside(|| {
        rtnetlink::create_veth("near", "far", None).unwrap();
        rtnetlink::find("near").unwrap().ifindex
    });
    // Bounded floods, in the same namespace and in another: what waits never fills the queue.
    let floods = [flood(&blue), flood(&red)];
    let mut fences = vec![heard.source.fence()];
    let mut echoes = 0;
    for round in 1..=ROUNDS {
        floods.iter().for_each(|(credit, _)| (0..5).for_each(|_| credit.send(()).unwrap()));
        blue.inside(|| rtnetlink::set_mtu(near, 2000 + round)).unwrap();
        fences.push(heard.source.fence());
        let mut back = false;
        while round % 4 == 0 && !back {
            let event = heard.next();
            let LinkEvent::Seen { cookie, fence, link, .. } = event else { panic!("only changes are made: {event:?}") };
            if cookie != blue.cookie || link.ifindex != near || link.mtu <= 2000 {
                continue;
            }
            let of = (link.mtu - 2000) as usize;
            assert!(fence < fences[of], "the echo of change {of} came with fence {fence}, not before {}", fences[of]);
            assert!(fence >= fences[of - 1], "change {of} was made after fence {}, not {fence}", fences[of - 1]);
            echoes += 1;
            back = link.mtu == 2000 + round;
        }
    }
    assert!(fences.is_sorted() && fences[0] > 0, "numbers rise");
    assert!(echoes >= ROUNDS, "{echoes} echoes of {ROUNDS} changes");
    assert_eq!(heard.source.resyncs(), 0);
    for (credit, thread) in floods {
        drop(credit);
        thread.join().unwrap();
    }
}

fn fences_end_after_an_overrun() {
    ns::take_seat_here().unwrap();
    let (send, batches) = unbounded();
    let (open, gate) = unbounded::<()>();
    let stuck = move |batch: Vec<LinkEvent>| drop((gate.recv(), send.send(batch)));
    let source = LinkSource::start(4096, Box::new(stuck));
    let mut heard = Heard { source, batches, waiting: VecDeque::new() };
    let blue = space("blue");
    heard.subscribe(&blue);
    (0..200).for_each(|round| blue.mtu(1000 + round));
    // The queue is full, and nobody reads it.
    let lost: Vec<u64> = (0..3).map(|_| heard.source.fence()).collect();
    assert!(lost.is_sorted() && lost[0] > 0);
    drop(open);
    let mut before = 0;
    loop {
        match heard.next() {
            LinkEvent::Seen { fence, .. } => {
                assert!(fence < lost[0], "what was told before is with an older fence");
                before += 1;
            }
            LinkEvent::Overrun => break,
            LinkEvent::Gone { .. } => panic!("nothing was deleted"),
        }
    }
    assert!(before < 200, "some were lost");
    // The loss of messages and the loss of marks may be reported as one or as two.
    let mut mtu = 60_000;
    wait_until("events are newer than the lost fences", DEADLINE, || {
        mtu += 1;
        blue.mtu(mtu);
        loop {
            match heard.next() {
                LinkEvent::Seen { fence, link, .. } if link.mtu == mtu => return fence >= lost[2],
                LinkEvent::Overrun => return false,
                _ => {}
            }
        }
    });
    let next = heard.source.fence();
    blue.mtu(1001);
    assert!(next > lost[2] && matches!(heard.next(), LinkEvent::Seen { fence, .. } if fence == next));
}

fn nothing_to_fence() {
    let mut heard = listen(ROOMY);
    let blue = space("blue");
    assert_eq!(heard.source.fence(), 0);
    heard.subscribe(&blue);
    let first = heard.source.fence();
    assert!(first > 0);
    heard.source.unsubscribe(blue.cookie);
    assert_eq!(heard.source.fence(), 0);
    heard.subscribe(&blue);
    blue.mtu(1001);
    let event = heard.next();
    assert!(matches!(event, LinkEvent::Seen { fence, .. } if fence == first), "a new listener counts on: {event:?}");
}

fn many_threads() {
    let mut heard = listen(ROOMY);
    let before = sockets();
    let spaces: Vec<_> = (0..8).map(|n| Arc::new(space(&format!("n{n}")))).collect();
    let start = Arc::new(Barrier::new(spaces.len()));
    let threads: Vec<_> = spaces
        .iter()
        .map(|space| {
            let (space, source, start) = (Arc::clone(space), Arc::clone(&heard.source), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                for _ in 0..50 {
                    source.subscribe(space.cookie, space.pin.as_fd()).unwrap();
                    source.unsubscribe(space.cookie);
                }
                source.subscribe(space.cookie, space.pin.as_fd()).unwrap()
            })
        })
        .collect();
    let subscriptions: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let mut ids: Vec<_> = subscriptions.iter().map(|subscription| subscription.nsid).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), spaces.len());
    for (space, subscription) in spaces.iter().zip(&subscriptions) {
        space.mtu(1001);
        let LinkEvent::Seen { cookie, subscription: number, .. } = heard.next() else { panic!("not seen") };
        assert_eq!((cookie, number), (space.cookie, subscription.number));
    }
    spaces.iter().for_each(|space| heard.source.unsubscribe(space.cookie));
    wait_until("the sockets are closed", DEADLINE, || sockets() == before);
}

fn a_dump_of_many_links() {
    ns::take_seat_here().unwrap();
    let blue = space("blue");
    let names: Vec<_> = (0..150).map(|n| format!("d{n}")).collect();
    blue.inside(|| names.chunks(2).for_each(|pair| rtnetlink::create_veth(&pair[0], &pair[1], None).unwrap()));
    let links = blue.links();
    assert_eq!(links.len(), 151);
    for name in &names {
        let link = links.values().find(|link| &link.name == name).unwrap();
        assert_eq!((link.kind.as_str(), link.mtu, link.address.len()), ("veth", 1500, 6));
    }
}

fn a_refusal_carries_the_kernels_words() {
    ns::take_seat_here().unwrap();
    let blue = space("blue");
    blue.inside(|| {
        let unknown = rtnetlink::create("x", "nonsense").unwrap_err();
        assert_eq!(unknown.errno, libc::EOPNOTSUPP);
        let text = unknown.to_string();
        assert!(
            text.starts_with("cannot create the nonsense link x: ") && text.contains("Unknown device type"),
            "{text}"
        );
        let absent = rtnetlink::find("absent").unwrap_err();
        assert_eq!(absent.errno, libc::ENODEV);
        let too_small = rtnetlink::create_veth("a", "b", None)
            .and_then(|()| rtnetlink::set_mtu(rtnetlink::find("a")?.ifindex, 1))
            .unwrap_err();
        assert_eq!(too_small.errno, libc::EINVAL);
        assert!(too_small.reason.contains("mtu"), "{too_small}");
    });
}

fn a_request_leaves_no_socket() {
    ns::take_seat_here().unwrap();
    let blue = space("blue");
    let before = sockets();
    blue.links();
    blue.inside(|| rtnetlink::find("absent")).unwrap_err();
    assert_eq!(sockets(), before);
}
