//! The plugin `wire` in the real daemon: what goes into a cable in one namespace comes out in the other, as configured.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::fs::{self, File};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use machine::{HOME, Machine, SOON, inside, of, one, second_name};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket};
use sandbox::{Trial, cdylib, netns_add, netns_del, wait_until};
use serde_json::Value;

/// The file of the configuration, and the plugin's name there.
const DROP_IN: &str = "plugins.d/50-wire.toml";
const BLUE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const RED: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// A UDP port where nobody ever reads.
const DISCARD: u16 = 9;

fn main() -> ExitCode {
    let lacks_tun = File::options().read(true).write(true).open("/dev/net/tun").is_err();
    let trials = [
        real("two namespaces reach each other", ping),
        real("a cable within one namespace", within_one),
        real("a delay is kept within a tenth", delay),
        real("a loss of a tenth loses a tenth of ten thousand", loss),
        real("a rate is kept within a tenth", rate),
        real("frames are doubled, and jump ahead", doubled_and_reordered),
        real("a full queue drops its tail", full_queue),
        real("several queues", several_queues),
        real("a namespace goes and comes back", gone_and_back),
        real("a namespace comes back at once, again and again", back_at_once),
        real("a flood while namespaces die", flood),
        real("any name of a namespace will do, and one that never came is told", by_any_name),
        real("a reload changes a running cable and nothing else", reload),
        real("a capture has what passed", capture),
        real("a device that is somebody else's is left alone", somebody_elses),
        real("full speed with offloads", iperf).map_each(|t| t.ignored_if(!is_installed("iperf3"))),
        real("tcpdump reads a capture", tcpdump).map_each(|t| t.ignored_if(!is_installed("tcpdump"))),
    ];
    let real = trials.into_iter().flatten().map(|trial| trial.ignored_if(lacks_tun));
    let pure = [one("a wrong configuration is refused by its field", refusals)];
    sandbox::main(real.chain(pure.into_iter().flatten()).collect())
}

fn real(name: &str, test: fn(Machine)) -> Vec<Trial> {
    one(name, test)
}

/// Trials, each changed.
trait MapEach {
    fn map_each(self, change: impl Fn(Trial) -> Trial) -> Self;
}

impl MapEach for Vec<Trial> {
    fn map_each(self, change: impl Fn(Trial) -> Trial) -> Self {
        self.into_iter().map(change).collect()
    }
}

fn is_installed(tool: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(tool).is_file())
}

/// A cable from blue to red with further keys.
fn cable(keys: &str) -> String {
    format!(
        "[[config.cables]]\nname = \"c\"\n\
         a = {{ netns = \"blue\", device = \"eth0\", address = \"02:00:00:00:00:01\" }}\n\
         b = {{ netns = \"red\", device = \"eth0\", address = \"02:00:00:00:00:02\" }}\n{keys}\n"
    )
}

/// Installs the plugin with this configuration.
fn configure(m: &Machine, config: &str) {
    m.install_file(&cdylib("wire"), Path::new("/plugins/libpernet_wire.so"));
    m.write(DROP_IN, config);
}

/// The daemon runs with this cable, and both its namespaces are there. Nothing but what a test sends is on the cable.
fn start(m: &mut Machine, keys: &str) {
    configure(m, &cable(keys));
    for name in ["blue", "red"] {
        netns_add(name);
        // IPv6, where the kernel has it, would look for routers and neighbours.
        let all = ["all", "default"].map(|which| format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"));
        let present = || all.iter().filter(|path| Path::new(path).exists());
        inside(name, || present().try_for_each(|path| fs::write(path, "1"))).unwrap();
    }
    m.start();
    for name in ["blue", "red"] {
        m.wait_state(name, "live");
    }
    give_addresses();
}

fn give_addresses() {
    give_address("blue", "eth0", BLUE, RED, "02:00:00:00:00:02");
    give_address("red", "eth0", RED, BLUE, "02:00:00:00:00:01");
}

/// The neighbour is given: a cable that loses frames would lose those that ask for it, too.
#[track_caller]
fn give_address(netns: &str, device: &str, own: Ipv4Addr, other: Ipv4Addr, address: &str) {
    ip(netns, &format!("address add {own}/24 dev {device}"));
    ip(netns, &format!("neighbour replace {other} lladdr {address} dev {device}"));
}

#[track_caller]
fn ip(netns: &str, arguments: &str) -> String {
    let output = inside(netns, || Command::new("ip").args(arguments.split(' ')).output().unwrap());
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The device as `pernetctl dev show` has it.
#[track_caller]
fn show(m: &Machine, netns: &str, device: &str) -> Value {
    m.ctl(["dev", "show", device, "--netns", netns])
}

fn plugin_stat(m: &Machine, netns: &str, counter: &str) -> u64 {
    show(m, netns, "eth0")["plugin_stats"][counter].as_u64().unwrap()
}

/// A counter of the plugin's own.
#[track_caller]
fn counter(m: &Machine, netns: &str, name: &str) -> u64 {
    let device = show(m, netns, "eth0");
    let all = device["plugin_counters"].as_array().unwrap();
    let found = all.iter().find(|counter| counter["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {device}"))["value"].as_u64().unwrap()
}

/// Echo requests from one namespace; the kernel of the other answers.
struct Pinger {
    socket: OwnedFd,
    to: SocketAddr,
    sent: u16,
}

impl Pinger {
    fn new(from: &str, to: Ipv4Addr) -> Self {
        let socket = inside(from, || socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap());
        Pinger { socket, to: SocketAddrV4::new(to, 0).into(), sent: 0 }
    }

    /// How long the answer took; none if there is none in time.
    fn ping(&mut self, patience: Duration) -> Option<Duration> {
        self.sent += 1;
        let request = echo(self.sent);
        let begin = Instant::now();
        sendto(&self.socket, &request, SendFlags::empty(), &self.to).unwrap();
        while let Some(left) = patience.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
            set_socket_timeout(&self.socket, Timeout::Recv, Some(left)).unwrap();
            let mut answer = [MaybeUninit::uninit(); 256];
            let Ok(((answer, _), _)) = recv(&self.socket, &mut answer, RecvFlags::empty()) else { continue };
            // After the IP header of 20 bytes: an echo reply with our number.
            if answer.get(20) == Some(&0) && answer.get(26..28) == Some(&self.sent.to_be_bytes()) {
                return Some(begin.elapsed());
            }
        }
        None
    }

    fn is_answered(&mut self) -> bool {
        self.ping(Duration::from_millis(200)).is_some()
    }
}

/// An echo request: type 8, its checksum, identifier 0, a number. Numbers here are too low for a carry in the sum.
fn echo(number: u16) -> [u8; 8] {
    let ([c, d], [n, o]) = ((!(0x0800 + number)).to_be_bytes(), number.to_be_bytes());
    [8, 0, c, d, 0, 0, n, o]
}

/// A socket in a namespace that sends to nobody who reads.
fn sender(from: &str, to: Ipv4Addr) -> UdpSocket {
    inside(from, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.connect((to, DISCARD)).unwrap();
        socket
    })
}

/// A machine that is busy is late now and then; a cable that is wrong is so every time.
#[track_caller]
fn mostly(what: &str, mut in_time: impl FnMut() -> Result<(), String>) {
    let mut why = String::new();
    for _ in 0..5 {
        match in_time() {
            Ok(()) => return,
            Err(found) => why = found,
        }
    }
    panic!("{what}: {why}");
}

fn within_a_tenth(found: f64, wanted: f64) -> Result<(), String> {
    if (found - wanted).abs() <= wanted / 10.0 { Ok(()) } else { Err(format!("{found}, wanted {wanted}")) }
}

/// What the plugin counts, what `dev show` has of the kernel, and `ip -s link` agree, once no frame passes in between.
#[track_caller]
fn same_counters(m: &Machine) {
    for netns in ["blue", "red"] {
        wait_until(&format!("all count the same in {netns}"), SOON, || {
            let device = show(m, netns, "eth0");
            let kernel: Value = serde_json::from_str(&ip(netns, "-json -stats link show eth0")).unwrap();
            let is_same = |way: &str, what: &str| {
                let (name, link) = (format!("{way}_{what}"), &kernel[0]["stats64"][way][what]);
                link.is_u64() && *link == device["stats"][&name] && *link == device["plugin_stats"][&name]
            };
            ["rx", "tx"].into_iter().all(|way| is_same(way, "packets") && is_same(way, "bytes"))
        });
    }
}

fn ping(mut m: Machine) {
    start(&mut m, "");
    for netns in ["blue", "red"] {
        let device = show(&m, netns, "eth0");
        assert_eq!(
            (device["owner"].as_str(), device["reg_state"].as_str(), device["up"].as_bool(), device["mtu"].as_u64()),
            (Some("wire"), Some("registered"), Some(true), Some(1500)),
            "{device}"
        );
    }
    assert!(Pinger::new("blue", RED).is_answered());
    assert!(Pinger::new("red", BLUE).is_answered());
    for (netns, counter) in [("blue", "tx_packets"), ("blue", "rx_packets"), ("red", "tx_packets")] {
        assert!(plugin_stat(&m, netns, counter) >= 2, "{netns} {counter}");
    }
    same_counters(&m);
    m.stop();
    assert!(m.log().contains("cable c, a to b: "), "what became of all frames is in the log");
}

fn within_one(mut m: Machine) {
    configure(&m, &cable("").replace("\"red\", device = \"eth0\"", "\"blue\", device = \"eth1\""));
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    // An address of one's own is reached by lo, so what goes over the cable is looked at from outside.
    give_address("blue", "eth0", BLUE, RED, "02:00:00:00:00:02");
    let socket = sender("blue", RED);
    let before = plugin_stat(&m, "blue", "tx_packets");
    socket.send(b"to eth1").unwrap();
    let arrived = || show(&m, "blue", "eth1")["plugin_stats"]["rx_packets"].as_u64().unwrap();
    wait_until("the frame is at the other end", SOON, || {
        arrived() >= 1 && plugin_stat(&m, "blue", "tx_packets") > before
    });
    m.stop();
}

fn delay(mut m: Machine) {
    start(&mut m, "a_to_b = { delay = \"20ms\" }");
    let mut blue = Pinger::new("blue", RED);
    mostly("a delay of 20 ms", || {
        let mut took: Vec<_> = (0..21).map(|_| blue.ping(SOON).unwrap()).collect();
        took.sort();
        assert!(took[0] >= Duration::from_millis(20), "{:?}", took[0]);
        eprintln!("delay: {:?} to {:?}, median {:?}", took[0], took[20], took[10]);
        within_a_tenth(took[10].as_secs_f64() * 1e3, 20.0)
    });
    m.stop();
}

fn loss(mut m: Machine) {
    start(&mut m, "a_to_b = { loss = \"10%\" }\nseed = 1");
    let socket = sender("blue", RED);
    // One that listens: else red answers each frame with a refusal.
    let listener = inside("red", || UdpSocket::bind((RED, DISCARD)).unwrap());
    let sent_before = plugin_stat(&m, "blue", "tx_packets");
    let (arrived_before, dropped_before) = (delivered("red"), plugin_stat(&m, "blue", "tx_dropped"));
    for round in 1..=100 {
        for _ in 0..100 {
            socket.send(&[7; 32]).unwrap();
        }
        // The kernel's queue in front of the device is short: what it dropped would not be the cable's loss.
        wait_until("the cable took them", SOON, || plugin_stat(&m, "blue", "tx_packets") - sent_before >= round * 100);
    }
    assert_eq!(plugin_stat(&m, "blue", "tx_packets") - sent_before, 10_000);
    let dropped = plugin_stat(&m, "blue", "tx_dropped") - dropped_before;
    wait_until("the rest arrived", SOON, || delivered("red") - arrived_before + dropped == 10_000);
    within_a_tenth(dropped as f64, 1000.0).unwrap();
    assert_eq!((counter(&m, "blue", "lost"), counter(&m, "blue", "no_room")), (dropped, 0));
    assert_eq!(counter(&m, "blue", "arrived"), 10_000 - dropped);
    drop(listener);
    m.stop();
}

/// IP packets that the namespace has taken in (`InReceives`).
fn delivered(netns: &str) -> u64 {
    let text = inside(netns, || fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let rows: Vec<Vec<&str>> = text.lines().filter(|l| l.starts_with("Ip:")).map(|l| l.split(' ').collect()).collect();
    let column = rows[0].iter().position(|name| *name == "InReceives").unwrap();
    rows[1][column].parse().unwrap()
}

fn rate(mut m: Machine) {
    start(&mut m, "a_to_b = { rate = \"8mbit\" }");
    let socket = sender("blue", RED);
    let listener = inside("red", || UdpSocket::bind((RED, DISCARD)).unwrap());
    listener.set_read_timeout(Some(SOON)).unwrap();
    mostly("400 frames of 1,000 bytes at 8 Mbit/s", || {
        // Headers of 14, 20 and 8 bytes.
        for _ in 0..400 {
            socket.send(&[7; 1000 - 42]).unwrap();
        }
        let mut buffer = [0; 2000];
        listener.recv(&mut buffer).unwrap();
        let first = Instant::now();
        for _ in 1..400 {
            listener.recv(&mut buffer).unwrap();
        }
        within_a_tenth(first.elapsed().as_secs_f64() * 1e3, 399.0)
    });
    m.stop();
}

/// Sends numbered datagrams from blue, and gives the numbers that arrive in red until `count` have.
fn numbers(m: &Machine, sent: u8, count: usize) -> Vec<u8> {
    let socket = sender("blue", RED);
    let listener = inside("red", || UdpSocket::bind((RED, DISCARD)).unwrap());
    listener.set_read_timeout(Some(SOON)).unwrap();
    for number in 0..sent {
        socket.send(&[number]).unwrap();
    }
    let mut buffer = [0; 2];
    let arrived = (0..count).map(|_| listener.recv(&mut buffer).map(|_| buffer[0]).unwrap()).collect();
    assert!(m.alive());
    arrived
}

fn doubled_and_reordered(mut m: Machine) {
    start(&mut m, "a_to_b = { delay = \"50ms\", duplicate = \"100%\", reorder = \"100%\", gap = 5 }");
    // Of ten copies each fifth jumps ahead: the first one of 2, of which the fifth copy is, and the second one of 4.
    let mut arrived = numbers(&m, 5, 10);
    assert_eq!(arrived[..2], [2, 4], "{arrived:?}");
    assert_eq!(arrived[2..], [0, 0, 1, 1, 2, 3, 3, 4], "in order otherwise");
    arrived.sort_unstable();
    assert_eq!(arrived, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
    wait_until("all is counted", SOON, || counter(&m, "blue", "arrived") == 10);
    assert_eq!((counter(&m, "blue", "duplicated"), counter(&m, "blue", "reordered")), (5, 2));
    assert_eq!((counter(&m, "red", "duplicated"), counter(&m, "red", "arrived")), (0, 0), "each way its own");
    m.stop();
    assert!(m.log().contains("duplicated, "), "{}", m.log());
}

fn full_queue(mut m: Machine) {
    start(&mut m, "a_to_b = { delay = \"500ms\", limit = 10 }\nb_to_a = { delay = \"600s\" }");
    let before = plugin_stat(&m, "blue", "tx_dropped");
    assert_eq!(numbers(&m, 30, 10), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "the first ones had room");
    assert_eq!(plugin_stat(&m, "blue", "tx_dropped") - before, 20);
    assert_eq!((counter(&m, "blue", "no_room"), counter(&m, "blue", "waiting")), (20, 0));
    sender("red", BLUE).send(b"for later").unwrap();
    wait_until("it waits", SOON, || counter(&m, "red", "waiting") == 1);
    assert_eq!(counter(&m, "red", "arrived"), 0);
    m.stop();
}

fn several_queues(mut m: Machine) {
    start(&mut m, "queues = 4\nboth = { loss = 0.000001 }");
    for netns in ["blue", "red"] {
        let device: Value = serde_json::from_str(&ip(netns, "-json -details link show eth0")).unwrap();
        let tap = &device[0]["linkinfo"]["info_data"];
        assert_eq!((&tap["multi_queue"], &tap["numqueues"]), (&Value::from(true), &Value::from(4)), "{device}");
    }
    assert!(Pinger::new("blue", RED).is_answered());
    // Many flows, so that the kernel uses more than one queue.
    let listener = inside("red", || UdpSocket::bind((RED, DISCARD)).unwrap());
    listener.set_read_timeout(Some(SOON)).unwrap();
    let senders: Vec<_> = (0..64).map(|_| sender("blue", RED)).collect();
    let mut buffer = [0; 2];
    for socket in &senders {
        socket.send(b"x").unwrap();
        listener.recv(&mut buffer).unwrap();
    }
    m.stop();
}

fn gone_and_back(mut m: Machine) {
    start(&mut m, "");
    let mut blue = Pinger::new("blue", RED);
    assert!(blue.is_answered());
    let before = show(&m, "blue", "eth0");
    netns_del("red");
    m.wait_gone("red");
    let dropped = plugin_stat(&m, "blue", "tx_dropped");
    assert!(!blue.is_answered());
    wait_until("what nobody receives is dropped and counted", SOON, || plugin_stat(&m, "blue", "tx_dropped") > dropped);
    assert_eq!(counter(&m, "blue", "unplugged"), plugin_stat(&m, "blue", "tx_dropped"));
    netns_add("red");
    m.wait_state("red", "live");
    give_address("red", "eth0", RED, BLUE, "02:00:00:00:00:01");
    wait_until("the cable carries again", SOON, || blue.is_answered());
    let after = show(&m, "blue", "eth0");
    assert_eq!((&after["ifindex"], &after["serial"]), (&before["ifindex"], &before["serial"]), "blue was left alone");
    // A device counts its own frames, not those of the one that was there before it.
    assert!(plugin_stat(&m, "blue", "tx_dropped") > 0);
    netns_del("blue");
    m.wait_gone("blue");
    netns_add("blue");
    m.wait_state("blue", "live");
    assert_eq!(plugin_stat(&m, "blue", "tx_dropped"), 0);
    m.stop();
}

fn back_at_once(mut m: Machine) {
    start(&mut m, "both = { delay = \"1ms\" }");
    // The old life may still be taken down while the new one is set up.
    for _ in 0..20 {
        netns_del("red");
        netns_add("red");
    }
    m.wait_state("red", "live");
    wait_until("red has its device", SOON, || ip("red", "-o link show").contains("eth0"));
    give_address("red", "eth0", RED, BLUE, "02:00:00:00:00:01");
    let mut blue = Pinger::new("blue", RED);
    wait_until("the cable carries again", SOON, || blue.is_answered());
    m.stop();
}

fn flood(mut m: Machine) {
    start(&mut m, "b_to_a = { delay = \"1ms\" }");
    let is_over = AtomicBool::new(false);
    let sent = [AtomicU64::new(0), AtomicU64::new(0)];
    std::thread::scope(|scope| {
        // Also where a check fails: the senders end, and the scope with them.
        let _over = Over(&is_over);
        for ((from, to), sent) in [("blue", RED), ("red", BLUE)].into_iter().zip(&sent) {
            let socket = sender(from, to);
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    // Without its device it has no way to send.
                    let done = socket.send(&[7; 1000]);
                    sent.fetch_add(u64::from(done.is_ok()), Ordering::Relaxed);
                }
            });
        }
        wait_until("both send", SOON, || sent.iter().all(|sent| sent.load(Ordering::Relaxed) > 1000));
        // First one that receives, and sends; then the last one.
        netns_del("red");
        m.wait_gone("red");
        let before = plugin_stat(&m, "blue", "tx_dropped");
        wait_until("the flood goes on, and is dropped and counted", SOON, || {
            plugin_stat(&m, "blue", "tx_dropped") > before + 1000
        });
        netns_add("red");
        m.wait_state("red", "live");
        let arrived = || show(&m, "red", "eth0")["plugin_stats"]["rx_packets"].as_u64().unwrap();
        wait_until("the next life gets it", SOON, || arrived() > 1000);
        netns_del("blue");
        m.wait_gone("blue");
        netns_del("red");
        m.wait_gone("red");
    });
    wait_until("no queue has its thread any more", SOON, || {
        let threads = fs::read_dir(format!("/proc/{}/task", m.pid().as_raw_pid())).unwrap();
        let mut names = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        !names.any(|name| name.starts_with("eth0-"))
    });
    m.stop();
}

fn by_any_name(mut m: Machine) {
    let there = cable("").replace("\"eth0\", address = \"02:00:00:00:00:01\"", "\"eth1\"").replace("\"c\"", "\"d\"");
    configure(&m, &(cable("") + &there.replace("\"red\"", "\"@host\"").replace("\"blue\"", "\"green\"")));
    netns_add("blue");
    netns_add("red");
    second_name("red", "also");
    m.start();
    m.wait_state("red", "live");
    m.wait_state("blue", "live");
    assert_eq!((&m.netns("red")["name"], &m.netns("blue")["name"]), (&Value::from("also"), &Value::from("blue")));
    assert_eq!(show(&m, "also", "eth0")["owner"], "wire");
    give_address("blue", "eth0", BLUE, RED, "02:00:00:00:00:02");
    give_address("also", "eth0", RED, BLUE, "02:00:00:00:00:01");
    assert!(Pinger::new("blue", RED).is_answered());
    m.stop();
    let log = m.log();
    for never in
        ["cable d: its end `a` never had its device: no namespace was called green", "no namespace was called @host"]
    {
        assert!(log.contains(never), "{log}");
    }
    assert!(!log.contains("cable c: its end"), "{log}");
}

/// Ends the senders.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn reload(mut m: Machine) {
    m.probe(10, "a", "", "");
    start(&mut m, "a_to_b = { delay = \"1ms\" }");
    assert!(Pinger::new("blue", RED).is_answered());
    m.forget();
    m.write(DROP_IN, &cable("a_to_b = { delay = \"50ms\" }"));
    let answer = m.reload();
    assert_eq!((answer.code, answer.json["ok"].as_bool()), (0, Some(true)), "{answer:?}");
    for name in ["blue", "red"] {
        m.wait_state(name, "live");
        assert_eq!(of(&m.calls(), name), [""; 0], "the other plugin sees nothing");
    }
    if !ip("blue", "-o -4 address show dev eth0").contains("10.9.0.1") {
        give_addresses();
    }
    let mut blue = Pinger::new("blue", RED);
    let took = blue.ping(SOON).unwrap();
    assert!(took >= Duration::from_millis(50), "{took:?}");
    // A refused change leaves the cable as it is.
    m.write(DROP_IN, &cable("a_to_b = { delay = \"50\" }"));
    let answer = m.reload();
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(blue.ping(SOON).unwrap() >= Duration::from_millis(50));
    // Without its configuration the plugin goes, and its devices with it.
    m.remove(DROP_IN);
    assert_eq!(m.reload().code, 0);
    assert!(!ip("blue", "-o link show").contains("eth0"));
    m.stop();
}

/// Records of a capture file: the kept bytes of each.
fn records(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).unwrap();
    assert_eq!(file.get(..4), Some(&[0x4d, 0x3c, 0xb2, 0xa1][..]), "nanosecond magic");
    assert_eq!(file.get(20..24), Some(&[1, 0, 0, 0][..]), "LINKTYPE_ETHERNET");
    let mut rest = &file[24..];
    let mut records = Vec::new();
    while let Some((head, after)) = rest.split_at_checked(16) {
        let len = u32::from_le_bytes(head[8..12].try_into().unwrap()) as usize;
        let (kept, after) = after.split_at(len);
        records.push(kept.to_vec());
        rest = after;
    }
    assert!(rest.is_empty(), "a record that is not whole");
    records
}

/// A cable with a capture file, through which a frame went from blue to red.
fn captured(m: &mut Machine) -> std::path::PathBuf {
    let path = m.path("c.pcap");
    start(m, &format!("pcap = \"{}\"", path.display()));
    sender("blue", RED).send(b"seen by the capture").unwrap();
    let has_it = |frame: &Vec<u8>| frame.windows(19).any(|part| part == b"seen by the capture");
    wait_until("the frame is in the file", SOON, || records(&path).iter().any(has_it));
    path
}

fn capture(mut m: Machine) {
    let path = captured(&mut m);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(Pinger::new("blue", RED).is_answered());
    m.stop();
    // Both directions, and nothing lost at the end.
    let seen = records(&path);
    for to in [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]] {
        assert!(seen.iter().any(|frame| frame[..6] == to && frame.get(23) == Some(&1)), "ICMP to {to:?}");
    }
    // The next start goes on with the file.
    m.start();
    m.stop();
    assert!(records(&path).len() >= seen.len());
}

fn tcpdump(mut m: Machine) {
    let path = captured(&mut m);
    m.stop();
    // As root it would become another user, of whom there is none in the sandbox. This one has root's files all the same.
    let mut command = Command::new("unshare");
    command.args(["-U", "--map-user=1000", "tcpdump", "-nnr"]).arg(&path);
    let output = command.output().unwrap();
    let (text, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{complaints}");
    assert!(text.contains("IP 10.9.0.1.") && text.contains("> 10.9.0.2.9: UDP, length 19"), "{text}{complaints}");
}

fn somebody_elses(mut m: Machine) {
    configure(&m, &cable(""));
    netns_add("blue");
    ip("blue", "link add eth0 type bridge");
    m.start();
    m.wait_state("blue", "failed");
    let error = m.netns("blue")["error"]["message"].as_str().unwrap().to_owned();
    assert!(error.contains("`cables[0].a`") && error.contains("eth0 in blue"), "{error}");
    assert!(ip("blue", "-d -o link show eth0").contains("bridge"));
    ip("blue", "link del eth0");
    assert_eq!(m.ask(["netns", "retry", "blue"]).code, 0);
    assert_eq!(show(&m, "blue", "eth0")["owner"], "wire");
    m.stop();
}

fn iperf(mut m: Machine) {
    start(&mut m, "");
    let run = |netns: &str, arguments: &[&str]| {
        inside(netns, || {
            let mut command = Command::new("iperf3");
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            // Not tied to the thread that starts it, which ends at once.
            command.spawn().unwrap()
        })
    };
    let mut server = run("red", &["-s", "-1", "-B", "10.9.0.2", "--forceflush"]);
    let mut listening = server.stdout.take().unwrap();
    let mut banner = Vec::new();
    while !String::from_utf8_lossy(&banner).contains("listening") {
        let mut chunk = [0; 256];
        let n = listening.read(&mut chunk).unwrap();
        assert!(n > 0, "iperf3 does not serve: {}", String::from_utf8_lossy(&banner));
        banner.extend_from_slice(&chunk[..n]);
    }
    let client = run("blue", &["-c", "10.9.0.2", "-t", "2", "-J"]).wait_with_output().unwrap();
    let rest = std::thread::spawn(move || io::copy(&mut listening, &mut io::sink()));
    assert!(server.wait().unwrap().success());
    rest.join().unwrap().unwrap();
    let report: Value = serde_json::from_slice(&client.stdout).unwrap();
    let received = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or_default();
    eprintln!("iperf3: {:.2} Gbit/s", received / 1e9);
    // Far below what any machine does: it says that TCP flows, with super-frames and open checksums.
    assert!(received > 1e8, "{report}");
    same_counters(&m);
    m.stop();
}

fn refusals(mut m: Machine) {
    for (keys, field) in [
        ("both = { delay = 20 }", "cables[0].both.delay"),
        ("both = { los = 0.1 }", "cables[0].both.los"),
        ("a_to_b = { jitter = \"1ms\" }", "cables[0].a_to_b.jitter"),
        ("b_to_a = { rate = \"10\" }", "cables[0].b_to_a.rate"),
        ("pcap = \"relative\"", "cables[0].pcap"),
        ("queues = 1000", "cables[0].queues"),
    ] {
        configure(&m, &cable(keys));
        let (code, complaint) = m.check();
        assert_eq!(code, 1, "{keys}");
        let key = field.rsplit('.').next().unwrap();
        assert!(complaint.contains("50-wire.toml:") && complaint.contains(key), "{field}: {complaint}");
    }
    // A path can only be tried at the start.
    std::os::unix::fs::symlink("/etc/passwd", m.path("link")).unwrap();
    configure(&m, &cable(&format!("pcap = \"{HOME}/link\"")));
    m.spawn();
    wait_until("the plugin has failed", SOON, || {
        let plugins = m.ask(["plugin", "list"]).json;
        let wire = plugins.as_array().and_then(|all| all.iter().find(|p| p["name"] == "wire").cloned());
        wire.is_some_and(|wire| {
            let error = wire["error"]["message"].as_str().unwrap_or_default().to_owned();
            wire["state"] == "failed" && error.contains("cables[0].pcap") && error.contains("symbolic link")
        })
    });
    m.stop();
}
