//! The plugin `neighbour` in the real daemon: what it announces arrives at the other end of a cable, byte by byte, as often
//! and as soon as its knobs say.
#![allow(unsafe_code)] // bind(2) of a packet socket to a device.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use machine::{Machine, SOON, inside, one};
use pernetd::linux::{ns, rtnetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socket_with};
use sandbox::{Trial, cdylib, netns_add, netns_del, wait_until};
use serde_json::{Value, json};

const DROP_IN: &str = "plugins.d/40-neighbour.toml";
const MAC: [u8; 6] = [2, 0, 0x5e, 0, 0x53, 1];
const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

fn main() -> ExitCode {
    let no_ipv6 = std::fs::read_to_string("/proc/net/if_inet6").is_err();
    let trials = [
        one("a device that comes up is announced, as often and as soon as configured", announced),
        one("the frames are those of the two RFCs", frames),
        one("tcpdump reads them so", tcpdump).map_each(|t| t.ignored_if(!is_installed("tcpdump"))),
        one("an address that is being checked waits, and is announced then", tentative),
        one("an address that comes a little later is announced, too", late_address),
        one("a router says that it is one", router),
        one("another hardware address is announced anew", address_change),
        one("a device without a carrier waits for it", carrier),
        one("devices that are not meant, or have no neighbours, are left alone", left_alone),
        one("the knobs count at once", knobs),
        one("a quiet namespace has no sockets, and goes", quiet),
        one("a start, a reload and an end in the middle of it", in_the_middle),
        one("a wrong configuration is refused by its field", refusals),
    ];
    let ignore = |trial: Trial| trial.ignored_if(no_ipv6 || !is_installed("ip"));
    sandbox::main(trials.into_iter().flatten().map(ignore).collect())
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

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn start(m: &mut Machine, config: &str) {
    m.install_file(&cdylib("neighbour"), "/plugins/libpernet_neighbour.so".as_ref());
    m.write(DROP_IN, &format!("[config]\n{config}\n"));
    m.start();
}

/// A namespace with a device `eth0`, down, whose other end is `name` out here, up; and what arrives at that.
fn cable(m: &Machine, name: &str) -> Ear {
    netns_add(name);
    m.wait_state(name, "live");
    let (_, there) = inside(name, ns::current).unwrap();
    rtnetlink::create_veth(name, "eth0", Some(there.as_fd())).unwrap();
    drop(there);
    let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
    ip(&format!("-n {name} link set eth0 address {mac}"));
    let near = rtnetlink::find(name).unwrap().ifindex;
    rtnetlink::set_up(near).unwrap();
    Ear::at(near)
}

/// Hears every frame that comes in by a device.
struct Ear {
    socket: OwnedFd,
    begun: Instant,
}

/// An announcement that was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Heard {
    at: Duration,
    address: IpAddr,
    /// By which hardware address it is to be reached.
    mac: [u8; 6],
    frame: Vec<u8>,
}

impl Ear {
    fn at(ifindex: u32) -> Ear {
        let every = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
        // SAFETY: `zeroed` asks for a type of which zeros are a value: plain numbers.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap();
        (address.sll_protocol, address.sll_ifindex) = (every, i32::try_from(ifindex).unwrap());
        let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap();
        // SAFETY: bind reads `length` bytes of the address, which is that large and outlives the call.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        Ear { socket, begun: Instant::now() }
    }

    /// The next announcement within so long.
    fn next(&self, patience: Duration) -> Option<Heard> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            set_socket_timeout(&self.socket, Timeout::Recv, Some(left)).unwrap();
            let mut frame = vec![0; 2048];
            let Ok((_, len)) = recv(&self.socket, &mut frame[..], RecvFlags::empty()) else { return None };
            frame.truncate(len);
            if let Some((address, mac)) = announcement(&frame) {
                return Some(Heard { at: self.begun.elapsed(), address, mac, frame });
            }
        }
    }

    /// The next one, which must come.
    #[track_caller]
    fn hear(&self, address: impl Into<IpAddr>) -> Heard {
        let address = address.into();
        let until = Instant::now() + SOON;
        while let Some(heard) = self.next(until.saturating_duration_since(Instant::now())) {
            if heard.address == address {
                return heard;
            }
        }
        panic!("{address} was not announced");
    }

    /// All until nothing has come for so long.
    fn all(&self, silence: Duration) -> Vec<Heard> {
        std::iter::from_fn(|| self.next(silence)).collect()
    }
}

/// The address that a frame announces, whatever else it may say.
fn announcement(frame: &[u8]) -> Option<(IpAddr, [u8; 6])> {
    match u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]) {
        0x0806 if frame.get(20..22)? == [0, 1] && frame.get(28..32)? == frame.get(38..42)? => {
            let address: [u8; 4] = frame[28..32].try_into().unwrap();
            Some((IpAddr::from(address), frame[22..28].try_into().unwrap()))
        }
        // An advertisement with one option.
        0x86dd if *frame.get(20)? == 58 && *frame.get(54)? == 136 && frame.len() == 86 => {
            let address: [u8; 16] = frame[62..78].try_into().unwrap();
            Some((IpAddr::from(address), frame[80..86].try_into().unwrap()))
        }
        _ => None,
    }
}

fn sockets(m: &Machine) -> Vec<Value> {
    m.ctl(["sock", "list"]).as_array().unwrap().clone()
}

/// Nothing more is to come, as the plugin says by having no sockets.
fn wait_quiet(m: &Machine) {
    wait_until("nothing is left to announce", SOON, || sockets(m).is_empty());
}

fn announced(mut m: Machine) {
    start(&mut m, "interval = 150\ncount = 4");
    let ear = cable(&m, "blue");
    ip("-n blue address add 192.0.2.1/24 dev eth0");
    ip("-n blue link set eth0 up");
    let first = ear.hear(V4);
    assert_eq!(first.mac, MAC);
    let others: Vec<_> = (0..3).map(|_| ear.hear(V4)).collect();
    wait_quiet(&m);
    let more: Vec<_> = ear.all(Duration::from_millis(300));
    assert!(more.iter().all(|heard| heard.address != V4), "four times: {more:?}");
    // Three intervals; a frame may be read a little late.
    let took = others[2].at - first.at;
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(3), "{took:?}");
    m.stop();
}

fn frames(mut m: Machine) {
    start(&mut m, "count = 1");
    let ear = cable(&m, "blue");
    ip("-n blue address add 192.0.2.1/24 dev eth0");
    ip("-n blue address add 2001:db8::1/64 dev eth0 nodad");
    ip("-n blue link set eth0 up");
    let (mut v4, mut v6) = (None, None);
    while v4.is_none() || v6.is_none() {
        let heard = ear.next(SOON).expect("both are announced");
        match heard.address {
            address if address == V4 => v4 = Some(heard),
            address if address == V6 => v6 = Some(heard),
            _ => {}
        }
    }
    let mut arp = vec![0xff; 6];
    arp.extend_from_slice(&MAC);
    arp.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend_from_slice(&MAC);
    arp.extend_from_slice(&V4.octets());
    arp.extend_from_slice(&[0; 6]);
    arp.extend_from_slice(&V4.octets());
    arp.resize(60, 0);
    assert_eq!(v4.unwrap().frame, arp);
    let frame = v6.unwrap().frame;
    assert_eq!((&frame[..6], &frame[6..12]), (&[0x33, 0x33, 0, 0, 0, 1][..], &MAC[..]));
    assert_eq!(
        (frame[14], &frame[18..22]),
        (0x60, &[0, 32, 58, 255][..]),
        "the hop limit is 255, or it is thrown away"
    );
    assert_eq!(frame[22..38], V6.octets());
    assert_eq!(frame[38..54], Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets());
    assert_eq!((frame[54], frame[55], frame[58]), (136, 0, 0x20), "override, not solicited, no router");
    assert_eq!((&frame[78..80], &frame[80..]), (&[2, 1][..], &MAC[..]));
    m.stop();
}

fn tcpdump(mut m: Machine) {
    start(&mut m, "count = 1");
    let ear = cable(&m, "blue");
    ip("-n blue address add 192.0.2.1/24 dev eth0");
    ip("-n blue address add 2001:db8::1/64 dev eth0 nodad");
    ip("-n blue link set eth0 up");
    let (first, second) = (ear.next(SOON).unwrap(), ear.next(SOON).unwrap());
    // The header of a capture of Ethernet frames, then each frame with its time and its two lengths.
    let mut capture: Vec<u8> =
        [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1].into_iter().flat_map(u32::to_le_bytes).collect();
    for frame in [first.frame, second.frame] {
        let length = u32::try_from(frame.len()).unwrap();
        capture.extend([0, 0, length, length].into_iter().flat_map(u32::to_le_bytes));
        capture.extend(frame);
    }
    std::fs::write("/tmp/capture", capture).unwrap();
    // As root it gives up rights that a user namespace does not have.
    let mut command = Command::new("unshare");
    command.args(["-U", "--map-user=1000", "tcpdump", "-nnvr", "/tmp/capture"]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    // Newer ones have a word for it.
    let words = ["Request who-has 192.0.2.1 tell 192.0.2.1", "Announcement 192.0.2.1"];
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(words.iter().any(|word| text.contains(word)), "{text}{complaints}");
    assert!(text.contains("tgt is 2001:db8::1, Flags [override]"), "{text}");
    assert!(text.contains("[icmp6 sum ok]") && !text.contains("bad"), "{text}");
    m.stop();
}

fn tentative(mut m: Machine) {
    start(&mut m, "interval = 50\ncount = 2");
    let ear = cable(&m, "blue");
    ip("-n blue link set eth0 up");
    let link_local: Ipv6Addr = "fe80::5eff:fe00:5301".parse().unwrap();
    let heard = ear.hear(link_local);
    // The kernel takes a second for the check.
    assert!(heard.at > Duration::from_millis(300), "{:?}", heard.at);
    assert_eq!(ear.hear(link_local).mac, MAC);
    wait_quiet(&m);
    assert_eq!(ear.all(Duration::from_millis(200)), []);
    m.stop();
}

fn late_address(mut m: Machine) {
    start(&mut m, "interval = 200\ncount = 3");
    let ear = cable(&m, "blue");
    ip("-n blue address add 192.0.2.1/24 dev eth0");
    ip("-n blue link set eth0 up");
    ear.hear(V4);
    ip("-n blue address add 192.0.2.2/24 dev eth0");
    let second = Ipv4Addr::new(192, 0, 2, 2);
    (0..3).for_each(|_| assert_eq!(ear.hear(second).mac, MAC));
    m.stop();
}

fn router(mut m: Machine) {
    start(&mut m, "interval = 50\ncount = 2");
    let ear = cable(&m, "blue");
    inside("blue", || std::fs::write("/proc/sys/net/ipv6/conf/eth0/forwarding", "1")).unwrap();
    ip("-n blue address add 2001:db8::1/64 dev eth0 nodad");
    ip("-n blue link set eth0 up");
    assert_eq!(ear.hear(V6).frame[58], 0xa0, "without it, hosts would forget their router");
    m.stop();
}

fn address_change(mut m: Machine) {
    start(&mut m, "interval = 50\ncount = 2");
    let ear = cable(&m, "blue");
    ip("-n blue address add 192.0.2.1/24 dev eth0");
    ip("-n blue link set eth0 up");
    (0..2).for_each(|_| assert_eq!(ear.hear(V4).mac, MAC));
    wait_quiet(&m);
    ip("-n blue link set eth0 address 02:00:5e:00:53:09");
    let new = [2, 0, 0x5e, 0, 0x53, 9];
    (0..2).for_each(|_| assert_eq!(ear.hear(V4).mac, new));
    // While it is down, too.
    ip("-n blue link set eth0 down");
    ip("-n blue link set eth0 address 02:00:5e:00:53:0a");
    ip("-n blue link set eth0 up");
    let heard = ear.hear(V4);
    assert_eq!(heard.mac, [2, 0, 0x5e, 0, 0x53, 0x0a]);
    m.stop();
}

fn carrier(mut m: Machine) {
    start(&mut m, "interval = 50\ncount = 2");
    let ear = cable(&m, "blue");
    let near = rtnetlink::find("blue").unwrap().ifindex;
    rtnetlink::set_down(near).unwrap();
    ip("-n blue address add 192.0.2.1/24 dev eth0");
    ip("-n blue link set eth0 up");
    wait_until("the daemon knows that it is up", SOON, || m.ctl(["dev", "show", "eth0"])["up"] == true);
    assert_eq!(sockets(&m), Vec::<Value>::new(), "there is nobody to tell");
    rtnetlink::set_up(near).unwrap();
    let ear = Ear { begun: ear.begun, ..Ear::at(near) };
    (0..2).for_each(|_| assert_eq!(ear.hear(V4).mac, MAC));
    m.stop();
}

fn left_alone(mut m: Machine) {
    start(&mut m, "interval = 20\ncount = 3\ndevices = [\"eth*\", \"dummy*\", \"lo\", \"!eth1\"]");
    let ear = cable(&m, "blue");
    // Another end in blue that the globs leave out, one that asks for no addresses, and lo.
    let (_, there) = inside("blue", ns::current).unwrap();
    for (near, far) in [("one", "eth1"), ("two", "eth2"), ("three", "other")] {
        rtnetlink::create_veth(near, far, Some(there.as_fd())).unwrap();
        rtnetlink::set_up(rtnetlink::find(near).unwrap().ifindex).unwrap();
    }
    drop(there);
    let ears = ["one", "two", "three"].map(|near| Ear::at(rtnetlink::find(near).unwrap().ifindex));
    ip("-n blue link set eth2 arp off");
    for (n, device) in ["eth1", "eth2", "other"].into_iter().enumerate() {
        ip(&format!("-n blue address add 192.0.2.{}/32 dev {device}", n + 2));
        ip(&format!("-n blue link set {device} up"));
    }
    ip("-n blue link set lo up");
    // What comes last is announced: everything before it was judged by then.
    ip("-n blue address add 192.0.2.1/24 dev eth0");
    ip("-n blue link set eth0 up");
    ear.hear(V4);
    wait_quiet(&m);
    for ear in ears {
        assert_eq!(ear.all(Duration::from_millis(100)), []);
    }
    // A new name may be one that is meant.
    ip("-n blue link set other down");
    ip("-n blue link set other name eth7");
    let three = Ear::at(rtnetlink::find("three").unwrap().ifindex);
    ip("-n blue link set eth7 up");
    three.hear(Ipv4Addr::new(192, 0, 2, 4));
    m.stop();
}

fn knobs(mut m: Machine) {
    start(&mut m, "interval = 50\ncount = 1");
    let ear = cable(&m, "blue");
    let set = |key: &str, value: &str| {
        let answer = m.ask(["sysctl", "--netns", "blue", "-w", &format!("neighbour.{key}={value}")]);
        (answer.code, answer.stderr)
    };
    ip("-n blue address add 192.0.2.1/24 dev eth0");
    ip("-n blue link set eth0 up");
    ear.hear(V4);
    wait_quiet(&m);
    // Another hardware address each time: a device that goes down and up may lose its carrier once more for a moment.
    let mut last = 0x10;
    let mut again = || {
        last += 1;
        let address = format!("02:00:5e:00:53:{last:02x}");
        ip(&format!("-n blue link set eth0 address {address}"));
        let known = || m.ctl(["dev", "show", "eth0", "--netns", "blue"])["address"] == address.as_str();
        wait_until("the daemon knows the new address", SOON, known);
    };
    let v4 = |ear: &Ear| ear.all(Duration::from_millis(200)).iter().filter(|heard| heard.address == V4).count();
    assert_eq!((set("count", "0").0, v4(&ear)), (0, 0));
    again();
    assert_eq!((sockets(&m), v4(&ear)), (vec![], 0), "a count of 0 is none");
    assert_eq!(set("count", "2").0, 0);
    again();
    (0..2).for_each(|_| drop(ear.hear(V4)));
    assert_eq!(v4(&ear), 0);
    // In the middle of it: the next one comes when the new interval says, and they end when the new count says.
    assert_eq!((set("count", "100").0, set("interval", "20").0), (0, 0));
    again();
    (0..5).for_each(|_| drop(ear.hear(V4)));
    assert_eq!(set("count", "1").0, 0);
    wait_quiet(&m);
    v4(&ear);
    assert_eq!(set("devices", "wlan* !eth0").0, 0);
    again();
    assert_eq!(v4(&ear), 0);
    for (key, wrong) in [("interval", "9"), ("count", "101"), ("count", "-1"), ("devices", "eth[")] {
        let (code, why) = set(key, wrong);
        assert!(code == 1 && !why.is_empty(), "{key}={wrong}");
    }
    let read = |key: &str| {
        let arguments = ["sysctl", "-n", "--netns", "blue", key];
        let output = m.pernetctl_for_people(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(read("neighbour.devices"), "wlan* !eth0");
    assert_eq!((read("neighbour.interval"), read("neighbour.count")), ("20".into(), "1".into()));
    m.stop();
}

fn quiet(mut m: Machine) {
    start(&mut m, "interval = 3600000\ncount = 2");
    let ear = cable(&m, "blue");
    ip("-n blue address add 192.0.2.1/24 dev eth0");
    ip("-n blue link set eth0 up");
    ear.hear(V4);
    // The next one is in an hour: its sockets wait for it.
    let rows = sockets(&m);
    let kinds: Vec<_> = rows.iter().map(|row| (row["family"].clone(), row["owner"].clone())).collect();
    assert_eq!(kinds, [(json!("packet"), json!("neighbour")), (json!("netlink"), json!("neighbour"))]);
    // A device that goes down is not announced any more, and nobody needs them.
    ip("-n blue link set eth0 down");
    wait_quiet(&m);
    ip("-n blue link set eth0 up");
    ear.hear(V4);
    netns_del("blue");
    m.wait_gone("blue");
    assert_eq!(sockets(&m), Vec::<Value>::new());
    wait_until("the namespace is gone", SOON, || rtnetlink::find("blue").is_err());
    assert!(!m.log().contains("left socket") && !m.log().contains("cannot announce"), "{}", m.log());
    m.stop();
}

fn in_the_middle(mut m: Machine) {
    start(&mut m, "interval = 100\ncount = 50");
    let ear = cable(&m, "blue");
    ip("-n blue address add 192.0.2.1/24 dev eth0");
    ip("-n blue link set eth0 up");
    ear.hear(V4);
    m.write(DROP_IN, "[config]\ninterval = 10\ncount = 3\n");
    assert_eq!(m.reload().code, 0);
    // The new one begins again, by its own count.
    wait_quiet(&m);
    let heard = ear.all(Duration::from_millis(200));
    assert!(heard.iter().filter(|heard| heard.address == V4).count() >= 3, "{heard:?}");
    m.write(DROP_IN, "[config]\ninterval = 3600000\n");
    assert_eq!(m.reload().code, 0);
    ear.hear(V4);
    m.stop();
    // What is up when the daemon starts is announced, as what comes up later.
    m.start();
    ear.hear(V4);
    m.stop();
    assert!(!m.log().contains("left socket"), "{}", m.log());
}

fn refusals(m: Machine) {
    m.install_file(&cdylib("neighbour"), "/plugins/libpernet_neighbour.so".as_ref());
    for (config, says) in [
        ("interval = 5", "5 is not within 10 and 3600000"),
        ("count = 1000", "1000 is not within 0 and 100"),
        ("devices = [\"*\", \"eth[\"]", "bad glob `eth[`"),
        ("intervall = 5", "intervall"),
    ] {
        m.write(DROP_IN, &format!("[config]\n{config}\n"));
        let (code, line) = m.check();
        assert_eq!(code, 1, "{config}");
        assert!(line.contains("40-neighbour.toml:2:") && line.contains(says), "{line}");
    }
}
