//! Sockets inside namespaces, on the real daemon: made from wherever, listed, and closed by the host where a plugin leaves
//! them open, so that no namespace lives on for one.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use machine::{Call, Machine, SOON, inside, one};
use pernet_plugin_api::NetCookie;
use pernetd::linux::{ns, rtnetlink};
use rustix::process::{
    ForeignRawFd, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, getrlimit, pidfd_getfd, pidfd_open, setrlimit,
};
use sandbox::{netns_add, netns_del, wait_until};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let trials = [
        one("hooks and threads of the plugin's own make sockets inside, of any namespace", made_inside),
        one("a refusal has the kernel's errno and leaves nothing", refused),
        one("a plugin that releases its sockets leaves no trace", released),
        one("what a plugin leaves open is shut and named, and the namespace is gone", left_open),
        one("a blocked reader is woken, whatever the family", woken),
        one("a blocked reader of a packet socket is woken while lo is up, too", woken_with_lo),
        one("a number that was shut is nobody else's until it is released", number_stays),
        one("what a plugin has forgotten ends with the plugin", forgotten),
        one("a replaced plugin leaves no socket, and the next one makes its own", replaced),
        one("plugins have at most half of the descriptors", limit),
        one("how many sockets plugins may have is a knob", bound),
        one("a thousand namespaces with a socket each", many).map_each(|t| t.deadline(Duration::from_secs(180))),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

/// A probe has a file open to which it records.
const ITS_FILE: usize = 1;

/// Trials, each changed.
trait MapEach {
    fn map_each(self, change: impl Fn(sandbox::Trial) -> sandbox::Trial) -> Self;
}

impl MapEach for Vec<sandbox::Trial> {
    fn map_each(self, change: impl Fn(sandbox::Trial) -> sandbox::Trial) -> Self {
        self.into_iter().map(change).collect()
    }
}

/// A `sockets` key with these.
fn sockets(wanted: &[String]) -> String {
    format!("sockets = [{}]", wanted.join(", "))
}

/// One in the init of every namespace, of a family and a type, with more keys.
fn socket(family: i32, kind: i32, more: &str) -> String {
    format!("{{ hook = \"pernet.init\", family = {family}, kind = {kind}{more} }}")
}

fn udp(more: &str) -> String {
    socket(libc::AF_INET, libc::SOCK_DGRAM, more)
}

fn find(m: &Machine, hook: &str) -> Vec<Call> {
    m.calls().into_iter().filter(|c| c.hook == hook).collect()
}

/// The `ino` and `fd` of a socket that was made.
fn made(call: &Call) -> (u64, i32) {
    assert_eq!(call.errno, Some(0), "{:?}", call.message);
    let (ino, fd) = call.message.as_deref().unwrap().split_once(' ').unwrap();
    (ino.strip_prefix("ino=").unwrap().parse().unwrap(), fd.strip_prefix("fd=").unwrap().parse().unwrap())
}

fn list(m: &Machine) -> Vec<Value> {
    m.ctl(["sock", "list"]).as_array().unwrap().clone()
}

/// The daemon's descriptor of this number.
fn descriptor(m: &Machine, fd: i32) -> OwnedFd {
    let daemon = pidfd_open(m.pid(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(daemon, ForeignRawFd::from(fd), PidfdGetfdFlags::empty()).unwrap()
}

fn count_fds(m: &Machine) -> usize {
    fs::read_dir(format!("/proc/{}/fd", m.pid().as_raw_pid())).unwrap().count()
}

/// The daemon's descriptors, when nobody is connected to it.
fn fds(m: &Machine) -> usize {
    let tasks = format!("/proc/{}/task", m.pid().as_raw_pid());
    wait_until("nobody is connected", SOON, || {
        let tasks = fs::read_dir(&tasks).unwrap().flatten();
        let names: Vec<String> = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok()).collect();
        !names.iter().any(|name| name.trim() == "control-peer")
    });
    count_fds(m)
}

/// The daemon's own, once nothing of what it did is left.
fn wait_fds(m: &Machine, count: usize) {
    wait_until(&format!("{count} descriptors"), SOON, || count_fds(m) == count);
}

fn cookie(name: &str) -> NetCookie {
    inside(name, || ns::current().unwrap().0)
}

/// A device out here whose other end is in there: it goes when that namespace has really ended.
fn tie_to(name: &str, device: &str) {
    let (_, there) = inside(name, ns::current).unwrap();
    rtnetlink::create_veth(device, "far", Some(there.as_fd())).unwrap();
}

fn is_tied(device: &str) -> bool {
    rtnetlink::find(device).is_ok()
}

fn made_inside(mut m: Machine) {
    let thread = ", own_thread = true";
    let wanted = [udp(""), socket(libc::AF_PACKET, libc::SOCK_RAW, thread)];
    // What comes later may have sockets made in what was there before, whatever the lock order.
    let other = ["green", "red"].map(|netns| udp(&format!(", netns = \"{netns}\", to = \"blue\"")));
    m.probe(10, "a", "", &sockets(&[wanted.as_slice(), &other].concat()));
    m.start();
    for name in ["blue", "green", "red"] {
        netns_add(name);
        m.wait_state(name, "live");
    }
    wait_until("all are made", SOON, || find(&m, "sock.create").len() == 8);
    let rows = list(&m);
    assert_eq!(rows.len(), 8);
    let calls: Vec<(u64, i32)> = find(&m, "sock.create").iter().map(made).collect();
    for row in &rows {
        let (_, fd) = *calls.iter().find(|(ino, _)| row["ino"] == *ino).unwrap();
        let there = ns::cookie_of(descriptor(&m, fd).as_fd()).unwrap();
        assert_eq!(there, cookie(row["netns"].as_str().unwrap()), "{row}");
        assert_eq!((&row["owner"], &row["state"]), (&json!("probe-a"), &json!("open")));
        assert!(row["age_ms"].as_u64().unwrap() < 60_000);
    }
    let of = |netns: &str| m.ctl(["sock", "list", "--netns", netns]).as_array().unwrap().len();
    assert_eq!([of("blue"), of("green"), of("red")], [4, 2, 2]);
    let kinds: Vec<String> = rows.iter().map(|row| format!("{} {}", row["family"], row["type"])).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "\"packet\" \"raw\"").count(), 3);
    // By inode, which is the order of their making.
    assert!(rows.iter().map(|row| row["ino"].as_u64().unwrap()).is_sorted());
    let table = m.pernetctl_for_people(["sock", "list", "--netns", "red"]).output().unwrap().stdout;
    assert!(String::from_utf8(table).unwrap().trim_start().starts_with("INO"));
    let missing = m.ask(["sock", "list", "--netns", "none"]);
    assert_eq!((missing.code, missing.stderr.contains("there is no such namespace")), (1, true));
    m.stop();
}

fn refused(mut m: Machine) {
    let (inet, dgram) = (libc::AF_INET, libc::SOCK_DGRAM);
    let wanted = [
        socket(-1, dgram, ""),
        socket(44_444, dgram, ""),
        socket(inet, 99, ""),
        socket(inet, libc::SOCK_STREAM, ", protocol = 255"),
        udp(", to = \"nowhere\""),
        // From a thread, the same.
        socket(-1, dgram, ", own_thread = true"),
    ];
    m.probe(10, "a", "", &sockets(&wanted));
    // Where it does not act, a plugin makes none.
    m.probe(20, "b", "namespaces = { exclude = [\"green\"] }", "");
    m.start();
    let before = fds(&m);
    netns_add("blue");
    m.wait_state("blue", "live");
    wait_until("all are refused", SOON, || find(&m, "sock.create").len() == 6);
    let mut errnos: Vec<i32> = find(&m, "sock.create").iter().map(|c| c.errno.unwrap()).collect();
    errnos.sort_unstable();
    let (af, kind, protocol) = (libc::EAFNOSUPPORT, libc::EINVAL, libc::EPROTONOSUPPORT);
    assert_eq!(errnos, [libc::ENOENT, kind, protocol, af, af, af]);
    for call in find(&m, "sock.create") {
        assert!(call.message.is_some_and(|message| message.len() > 10), "it says why");
    }
    assert_eq!(list(&m), Vec::<Value>::new());
    wait_fds(&m, before + 1);
    m.stop();
}

fn released(mut m: Machine) {
    let families = [libc::AF_INET, libc::AF_INET6, libc::AF_PACKET, libc::AF_NETLINK, libc::AF_UNIX];
    let mut wanted: Vec<String> = families.map(|family| socket(family, libc::SOCK_DGRAM, "")).into();
    wanted.push(udp(", keep = \"drop\""));
    m.probe(10, "a", "", &sockets(&wanted));
    m.start();
    let before = fds(&m);
    netns_add("blue");
    m.wait_state("blue", "live");
    tie_to("blue", "near");
    assert_eq!(list(&m).len(), 5);
    // One that pins the namespace, and the sockets that were asked for.
    wait_fds(&m, before + 1 + 5);
    netns_del("blue");
    m.wait_gone("blue");
    assert_eq!(list(&m), Vec::<Value>::new());
    wait_until("the namespace is gone", SOON, || !is_tied("near"));
    wait_fds(&m, before);
    assert!(!m.log().contains("left socket"), "{}", m.log());
    m.stop();
}

fn left_open(mut m: Machine) {
    let keep = ", keep = \"plugin\"";
    let wanted = [udp(keep), socket(libc::AF_PACKET, libc::SOCK_RAW, keep), udp(", keep = \"net\"")];
    m.probe(10, "a", "", &sockets(&wanted));
    m.probe(20, "b", "", &sockets(&[udp("")]));
    m.start();
    let before = fds(&m);
    netns_add("blue");
    m.wait_state("blue", "live");
    tie_to("blue", "near");
    netns_del("blue");
    m.wait_gone("blue");
    wait_until("the namespace is gone", SOON, || !is_tied("near"));
    let left: Vec<(u64, i32)> = find(&m, "sock.create").iter().filter(|c| c.plugin == "probe-a").map(made).collect();
    let log = m.log();
    for (call, what) in left.iter().zip(["inet dgram", "packet raw"]) {
        let line = log.lines().find(|line| line.contains(&format!("left socket:[{}] open: {what}", call.0)));
        let line = line.unwrap_or_else(|| panic!("{what}: {log}"));
        assert!(line.contains("probe-a") && line.contains("blue") && line.contains(" s old"), "{line}");
    }
    assert_eq!(log.matches("left socket").count(), 2, "and nothing else is");
    let rows = list(&m);
    assert_eq!(rows.iter().map(|row| row["state"].clone()).collect::<Vec<_>>(), ["shut", "shut"]);
    assert_eq!((&rows[0]["netns"], &rows[0]["owner"]), (&json!("blue"), &json!("probe-a")));
    // The numbers are still the plugin's, and lead to nothing.
    wait_fds(&m, before + 2);
    for (_, fd) in &left[..2] {
        let inert = descriptor(&m, *fd);
        assert_eq!(rustix::io::read(&inert, &mut [0; 8]), Ok(0));
        assert_eq!(rustix::io::write(&inert, b"x"), Err(rustix::io::Errno::PIPE));
    }
    // Its own end is the plugin's.
    m.no_probe(10, "a");
    assert_eq!(m.reload().code, 0);
    assert_eq!(list(&m), Vec::<Value>::new());
    wait_fds(&m, before - ITS_FILE);
    m.stop();
}

/// Each is blocked in `recv` when the namespace goes, and the namespace goes all the same.
fn wake(mut m: Machine, lo_is_up: bool) {
    let keep = ", keep = \"plugin\", read = true";
    let wanted = [
        udp(keep),
        socket(libc::AF_INET, libc::SOCK_RAW, &format!("{keep}, protocol = 1")),
        socket(libc::AF_UNIX, libc::SOCK_DGRAM, keep),
        socket(libc::AF_NETLINK, libc::SOCK_RAW, keep),
        socket(libc::AF_PACKET, libc::SOCK_RAW, keep),
        // One that hears nothing, and one that hears a protocol which never comes.
        socket(libc::AF_PACKET, libc::SOCK_DGRAM, &format!("{keep}, protocol = {}", 0x88b6u16.to_be())),
    ];
    m.probe(10, "a", "", &sockets(&wanted));
    m.start();
    netns_add("blue");
    if lo_is_up {
        inside("blue", || rtnetlink::set_up(1)).unwrap();
    }
    m.wait_state("blue", "live");
    tie_to("blue", "near");
    let tasks = format!("/proc/{}/task", m.pid().as_raw_pid());
    // recvfrom, on the descriptor in question.
    let blocked = || {
        let made = find(&m, "sock.create").iter().map(made).collect::<Vec<_>>();
        let tasks = fs::read_dir(&tasks).unwrap().flatten();
        let calls: Vec<String> =
            tasks.filter_map(|task| fs::read_to_string(task.path().join("syscall")).ok()).collect();
        let waits = |fd: i32| calls.iter().any(|call| call.starts_with(&format!("{} {fd:#x} ", libc::SYS_recvfrom)));
        made.iter().filter(|(_, fd)| waits(*fd)).count()
    };
    wait_until("all readers are blocked", SOON, || blocked() == wanted.len());
    netns_del("blue");
    m.wait_gone("blue");
    wait_until("all readers are woken", SOON, || find(&m, "sock.read").len() == wanted.len());
    wait_until("the namespace is gone", SOON, || !is_tied("near"));
    m.stop();
}

fn woken(m: Machine) {
    wake(m, false);
}

fn woken_with_lo(m: Machine) {
    wake(m, true);
}

fn number_stays(mut m: Machine) {
    m.probe(10, "a", "", &sockets(&[udp(", netns = \"blue\", keep = \"plugin\"")]));
    m.probe(20, "b", "", &sockets(&[udp(", keep = \"net\"")]));
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let (_, number) = made(find(&m, "sock.create").iter().find(|c| c.plugin == "probe-a").unwrap());
    netns_del("blue");
    m.wait_gone("blue");
    m.forget();
    for n in 0..20 {
        netns_add(format!("n{n}"));
    }
    wait_until("all are set up", SOON, || find(&m, "sock.create").len() == 20);
    assert!(find(&m, "sock.create").iter().map(made).all(|(_, fd)| fd != number));
    let link = fs::read_link(format!("/proc/{}/fd/{number}", m.pid().as_raw_pid())).unwrap();
    assert!(link.to_str().unwrap().starts_with("socket:"), "{}", link.display());
    m.stop();
}

fn forgotten(mut m: Machine) {
    m.probe(10, "a", "", &sockets(&[udp(", keep = \"forget\"")]));
    m.start();
    let before = fds(&m);
    for name in ["blue", "green"] {
        netns_add(name);
        m.wait_state(name, "live");
    }
    tie_to("green", "near");
    assert_eq!(list(&m).len(), 2);
    m.no_probe(10, "a");
    assert_eq!(m.reload().code, 0);
    assert_eq!(list(&m), Vec::<Value>::new());
    assert_eq!(m.log().matches("left socket").count(), 2);
    wait_fds(&m, before + 2 - ITS_FILE);
    netns_del("green");
    wait_until("the namespace is gone", SOON, || !is_tied("near"));
    m.stop();
}

fn replaced(mut m: Machine) {
    let config = sockets(&[udp(""), udp(", keep = \"plugin\"")]);
    m.probe(10, "a", "", &config);
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let before = (fds(&m), list(&m));
    m.probe(10, "a", "", &format!("label = \"new\"\n{config}"));
    assert_eq!(m.reload().code, 0);
    let after = list(&m);
    let inos = |rows: &[Value]| rows.iter().map(|row| row["ino"].as_u64().unwrap()).collect::<Vec<_>>();
    assert!(inos(&after).first() > inos(&before.1).last(), "{after:?}");
    assert_eq!(after.iter().map(|row| row["state"].clone()).collect::<Vec<_>>(), ["open", "open"]);
    wait_fds(&m, before.0);
    m.stop();
}

fn limit(mut m: Machine) {
    // The hard limit: the daemon raises the other to it.
    setrlimit(Resource::Nofile, Rlimit { current: Some(200), maximum: Some(200) }).unwrap();
    m.probe(10, "a", "", &sockets(&vec![udp(""); 101]));
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let errnos: Vec<i32> = find(&m, "sock.create").iter().map(|c| c.errno.unwrap()).collect();
    assert_eq!((errnos.len(), &errnos[..100], errnos[100]), (101, &[0; 100][..], libc::ENFILE));
    let message = find(&m, "sock.create")[100].message.clone().unwrap();
    assert!(message.contains("raise max_sockets"), "{message}");
    // The daemon has what it needs.
    netns_add("green");
    m.wait_state("green", "live");
    netns_del("blue");
    m.wait_gone("blue");
    assert_eq!(list(&m).len(), 0, "green's init had none of them either");
    m.stop();
}

fn bound(mut m: Machine) {
    fs::create_dir(m.path("sysctl.d")).unwrap();
    m.write("sysctl.d/50-test.conf", "@host:pernetd.max_sockets = 1\n");
    m.probe(10, "a", "", &sockets(&[udp(""), udp("")]));
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let errnos = |m: &Machine| find(m, "sock.create").iter().map(|c| c.errno.unwrap()).collect::<Vec<_>>();
    assert_eq!(errnos(&m), [0, libc::ENFILE]);
    assert_eq!(m.ask(["sysctl", "pernetd.max_sockets=3"]).code, 0);
    netns_add("green");
    m.wait_state("green", "live");
    assert_eq!(errnos(&m), [0, libc::ENFILE, 0, 0]);
    assert_eq!(m.ask(["sysctl", "pernetd.max_sockets=0"]).code, 0);
    assert_eq!(list(&m).len(), 3, "what is there beyond it stays");
    m.stop();
}

/// That they are gone is seen by the bound on namespaces: as many can be made again.
fn many(mut m: Machine) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    // Two descriptors each, and again two while their numbers are not released yet; half of all are for sockets.
    let many = maximum.map_or(1000, |most| usize::try_from(most).map_or(1000, |most| 1000.min(most / 5)));
    let bound = PathBuf::from("/proc/sys/user/max_net_namespaces");
    m.probe(10, "a", "", &sockets(&[udp(", keep = \"plugin\"")]));
    m.start();
    netns_add("first");
    m.wait_state("first", "live");
    let before = fds(&m);
    let names: Vec<String> = (0..many).map(|n| format!("n{n}")).collect();
    names.iter().for_each(|name| drop(netns_add(name)));
    let live = |m: &Machine| m.status()["namespaces"]["live"].as_u64().unwrap();
    wait_until("all are live", Duration::from_secs(60), || live(&m) == 2 + many as u64);
    assert_eq!(list(&m).len(), many + 1);
    wait_fds(&m, before + 2 * many);
    names.iter().for_each(netns_del);
    wait_until("all are gone", Duration::from_secs(60), || {
        let counts = m.status()["namespaces"].clone();
        counts["live"] == 2 && counts["dying"] == 0
    });
    let rows = list(&m);
    assert_eq!(rows.iter().filter(|row| row["state"] == "shut").count(), many);
    wait_fds(&m, before + many);
    if fs::write(&bound, (many + 20).to_string()).is_ok() {
        let make = |name: &String| pernetd::linux::netns::add(sandbox::RUN_NETNS.as_ref(), name.as_ref());
        for name in &names {
            wait_until("there is room for as many again", Duration::from_secs(60), || make(name).is_ok());
        }
        wait_until("all are live", Duration::from_secs(60), || live(&m) == 2 + many as u64);
    }
    m.no_probe(10, "a");
    assert_eq!(m.reload().code, 0);
    assert_eq!(list(&m), Vec::<Value>::new());
    m.stop();
}
