//! Link events of many namespaces by one socket, and link requests, against the kernel of this machine.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod sandbox;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use pernet_plugin_api::NetCookie;
use pernetd::discovery::links::{LinkEvent, LinkSource, Subscription};
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
        trial("unsubscribed namespaces are silent", unsubscribed_namespaces_are_silent),
        trial("nothing is open while nobody subscribes", nothing_open_without_subscribers),
        trial("a second subscription takes the id that is there", a_second_subscription),
        trial("a namespace may die while subscribed", a_namespace_dies),
        trial("ids of the operator's namespace stay free", ids_stay_free),
        trial("after an overrun a dump restores the view", after_an_overrun),
        trial("an overrun is reported even if the flood never ends", a_flood_without_end),
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
    let LinkEvent::Seen { cookie, subscription: number, link } = heard.next() else { panic!("not seen") };
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
    let mut there = story(&told, &red, |link| link.name.clone());
    there.dedup();
    assert_eq!(there, ["far", "near"]);
    assert_eq!(blue.links().len(), 1);
    assert_eq!(red.links().len(), 3);
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
