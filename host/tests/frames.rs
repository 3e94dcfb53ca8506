//! Frames of real tun and tap devices through a plugin's datapath: TCP between two namespaces over a wire of two devices,
//! with what the kernel leaves to the devices with offloads, and is to find done by those without; and in the real daemon,
//! what a plugin that goes wrong over its frames does to itself and to others.
#![allow(unsafe_code)] // SIOCSIFADDR and its mask: an address without a tool that might be missing.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

#[path = "../../plugin-api/tests/device_host/mod.rs"]
mod device_host;
mod machine;
mod sandbox;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use device_host::{Loaded, STOP, loaded, until};
use machine::{HOME, Machine, SOON, inside, one};
use pernet_plugin_api::abi::OpsHandle;
use pernet_plugin_api::prelude::*;
use pernetd::linux::ns::{self, Pin};
use pernetd::linux::rtnetlink;
use pernetd::linux::tun::{self, NewTun, Queues, TunKind};
use rustix::mount::{MountFlags, mount_bind, mount_remount};
use sandbox::{example_cdylib, netns_add, netns_del, trial, wait_until};
use serde_json::{Value, json};

/// Enough for super-frames of every size that a connection comes to.
const BYTES: usize = 8 << 20;

fn main() -> ExitCode {
    let no_tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun").is_err();
    if no_tun {
        eprintln!("frames: /dev/net/tun cannot be opened here: all is ignored");
    }
    let trials = [
        trial("tap to tap", || transfer(TunKind::Tap, false, false)),
        trial("a tap with offloads to one without", || transfer(TunKind::Tap, true, false)),
        trial("a tap without offloads to one with", || transfer(TunKind::Tap, false, true)),
        trial("tap to tap, both with offloads", || transfer(TunKind::Tap, true, true)),
        trial("a tun with offloads to one without", || transfer(TunKind::Tun, true, false)),
        trial("tun to tun, both with offloads", || transfer(TunKind::Tun, true, true)),
        trial("an open device whose queues are let go pins no namespace", no_pin),
    ];
    let real = [
        one("a panic in start_xmit ends its plugin, without anybody asking", panicked),
        one("a tun device that may not be opened is named, with what to do", not_allowed),
        one("a start_xmit that hangs costs its own frames, and a namespace's end a bounded time", hanging),
    ];
    let all = trials.into_iter().chain(real.into_iter().flatten());
    sandbox::main(all.map(|trial| trial.ignored_if(no_tun)).collect())
}

/// What comes goes into the other device.
struct Wire(Arc<OnceLock<Datapath>>);

impl NetDeviceOps for Wire {
    const XMIT: bool = true;

    fn start_xmit(&self, queue: &Queue<'_>, frames: &mut Batch) {
        if let Some(other) = self.0.get() {
            let _ = other.netif_rx_list(queue.index(), frames);
        }
    }
}

/// One end: a namespace with a device that is up, and its datapath.
struct End {
    space: Pin,
    /// The host's own descriptors, which keep the device.
    _queues: Queues,
    dev: Netdev,
    ops: OpsHandle,
}

fn end(plugin: &Loaded, name: &str, kind: TunKind, offloads: bool, last: u8, other: &Arc<OnceLock<Datapath>>) -> End {
    let (_, space) = ns::identify(&netns_add(name)).unwrap();
    let spec = match kind {
        TunKind::Tun => NetdevSpec::tun("wire0"),
        TunKind::Tap => NetdevSpec::tap("wire0"),
    };
    let dev = plugin.host.alloc_netdev(spec.offloads(offloads), Wire(Arc::clone(other))).unwrap();
    let ops = plugin.last_ops();
    let inside = || {
        let queues = tun::create(&NewTun { kind, name: "wire0", queues: 1, offloads, ifindex: 0 }).unwrap();
        let lent = queues.iter().map(|queue| queue.try_clone().unwrap()).collect();
        // As at ndo_open: in the namespace, and before the device is up.
        assert_eq!(plugin.open(ops, lent, offloads).errno, 0);
        set_address("wire0", Ipv4Addr::new(10, 0, 0, last));
        rtnetlink::set_up(rtnetlink::find("wire0").unwrap().ifindex).unwrap();
        queues
    };
    let queues = ns::visit(&space, inside).unwrap();
    End { space, _queues: queues, dev, ops }
}

/// The address, and a mask that makes a route to the other end; a tun's own would be that of a single address.
fn set_address(name: &str, address: Ipv4Addr) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    for (what, ip) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, Ipv4Addr::new(255, 0, 0, 0))] {
        // SAFETY: `zeroed` asks for a type of which zeros are a value: a name of zeros, and an address of no family.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from.cast_signed());
        let ip = libc::sockaddr_in {
            sin_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap(),
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from(ip).to_be() },
            sin_zero: [0; 8],
        };
        // SAFETY: both are plain data of the same size; `sockaddr` is what each family's address is passed as.
        request.ifr_ifru.ifru_addr = unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(ip) };
        // SAFETY: both calls read an `ifreq`, which lives until they return.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw const request) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

fn transfer(kind: TunKind, from_offloads: bool, to_offloads: bool) {
    ns::take_seat_here().unwrap();
    let plugin = loaded();
    let (near_path, far_path) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
    let near = end(&plugin, "near", kind, from_offloads, 1, &far_path);
    let far = end(&plugin, "far", kind, to_offloads, 2, &near_path);
    near_path.set(near.dev.datapath().clone()).unwrap();
    far_path.set(far.dev.datapath().clone()).unwrap();

    let listener = ns::visit(&far.space, || TcpListener::bind("10.0.0.2:0")).unwrap().unwrap();
    let place = listener.local_addr().unwrap();
    let content: Vec<u8> = (0..BYTES).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect();
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
        got
    });
    let mut stream = ns::visit(&near.space, || TcpStream::connect(place)).unwrap().unwrap();
    stream.write_all(&content).unwrap();
    drop(stream);
    assert!(reader.join().unwrap() == content, "the content is not what was sent");

    // A queue's thread counts a batch when it is through.
    let all = u64::try_from(BYTES).unwrap();
    until("all is counted", || plugin.stats(near.ops).tx_bytes > all && plugin.stats(far.ops).rx_bytes > all);
    let (sent, received) = (plugin.stats(near.ops), plugin.stats(far.ops));
    // No frame of this MTU has as much payload: fewer frames are super-frames.
    let segments = u64::try_from(BYTES / 1500).unwrap();
    eprintln!("sent {sent:?}\nreceived {received:?}");
    assert_eq!(sent.tx_packets < segments, from_offloads, "super-frames come from a device with offloads only");
    assert_eq!(received.rx_packets < segments, from_offloads && to_offloads, "and go into one with offloads only");
    assert_eq!((sent.tx_errors, sent.rx_errors, received.rx_errors, received.tx_errors), (0, 0, 0, 0));
    for end in [&near, &far] {
        assert_eq!(plugin.ndo(end.ops, STOP).0.errno, 0);
    }
    assert_eq!(plugin.destroy().errno, 0);
}

/// Once the host has closed its own, nothing of the plugin's keeps the namespace: its device ends with it.
fn no_pin() {
    ns::take_seat_here().unwrap();
    let plugin = loaded();
    let other = Arc::new(OnceLock::new());
    let End { space, _queues: queues, dev, ops } = end(&plugin, "near", TunKind::Tap, false, 1, &other);
    let watch = ns::visit(&space, || std::fs::metadata("/proc/thread-self/ns/net")).unwrap().unwrap();
    let in_it = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
        let same = |task: &std::fs::DirEntry| {
            let theirs = std::fs::metadata(task.path().join("ns/net"));
            theirs.is_ok_and(|theirs| std::os::unix::fs::MetadataExt::ino(&theirs) == ino(&watch))
        };
        tasks.filter(same).count()
    };
    until("the queue has its thread", || device_host::threads("wire0-") == 1);
    assert_eq!(in_it(), 0, "no thread is in the device's namespace");
    assert_eq!(plugin.ndo(ops, STOP).0.errno, 0);
    drop(queues);
    assert!(ns::visit(&space, || rtnetlink::find("wire0")).unwrap().is_err(), "a tap ends with its last descriptor");
    drop(dev);
    assert_eq!(plugin.destroy().errno, 0);
}

fn ino(of: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(of)
}

/// Configures a plugin with a tap `bad0` in each namespace, with these keys and those of its `[config]`.
fn configure_bad(m: &Machine, keys: &str, config: &str) {
    m.install_file(&example_cdylib("bad_devices"), Path::new("/plugins/libbad_devices.so"));
    let file = format!("file = \"libbad_devices.so\"\n{keys}\n[config]\n{config}\n");
    m.write("plugins.d/50-bad-devices.toml", &file);
}

/// The daemon runs with that plugin, whose `start_xmit` goes wrong as these keys say, and its tap in blue is up.
fn start_bad(m: &mut Machine, config: &str) {
    configure_bad(m, "", &format!("op = \"start_xmit\"\n{config}"));
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    inside("blue", || {
        set_address("bad0", Ipv4Addr::new(10, 0, 0, 1));
        rtnetlink::set_up(rtnetlink::find("bad0").unwrap().ifindex).unwrap();
    });
}

fn not_allowed(mut m: Machine) {
    // The node is there, and opens no device, as where the service's policy forbids it.
    mount_bind("/dev/net/tun", "/dev/net/tun").unwrap();
    mount_remount("/dev/net/tun", MountFlags::BIND | MountFlags::NODEV, "").unwrap();
    m.probe(10, "a", "", "");
    configure_bad(&m, "on_init_failure = \"skip\"", "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "degraded");
    let row = m.netns("blue");
    let message = row["error"]["message"].as_str().unwrap();
    assert!(message.contains("/dev/net/tun may not be opened") && message.contains("DeviceAllow"), "{message}");
    assert_eq!(row["subsystems"], json!(["probe-a"]), "the rest runs");
    m.stop();
}

/// Its row of `plugin list`.
fn bad(m: &Machine) -> Value {
    let all = m.ctl(["plugin", "list"]);
    all.as_array().unwrap().iter().find(|plugin| plugin["name"] == "bad-devices").cloned().unwrap()
}

/// The namespace sends so many frames out of its device: to everybody, so it need not ask who has an address.
fn send_from_blue(frames: usize) {
    inside("blue", || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_broadcast(true).unwrap();
        for _ in 0..frames {
            // A queue that is full may be told, or not: either way nobody waits.
            let _ = socket.send_to(b"anybody?", "10.255.255.255:9");
        }
    });
}

fn panicked(mut m: Machine) {
    start_bad(&mut m, "panic = true");
    send_from_blue(1);
    // Nothing here asks for the device: that would be a call that tells of the panic by itself.
    wait_until("the plugin has failed", SOON, || bad(&m)["state"] == "failed");
    let error = bad(&m)["error"]["message"].as_str().unwrap().to_owned();
    assert!(error.contains("start_xmit") && error.contains("as asked"), "{error}");
    wait_until("its device is gone", SOON, || inside("blue", || rtnetlink::find("bad0").is_err()));
    m.stop();
}

fn hanging(mut m: Machine) {
    m.main("unregister_timeout = 1");
    m.probe(10, "a", "", "");
    start_bad(&mut m, &format!("until = \"{HOME}/go\""));
    // Its other end goes when the kernel's namespace does, which nothing may pin.
    let home = File::open("/proc/self/ns/net").unwrap();
    inside("blue", || rtnetlink::create_veth("in", "watch", Some(home.as_fd())).unwrap());
    const SENT: u64 = 5_000;
    send_from_blue(usize::try_from(SENT).unwrap());
    let show = || m.ctl(["dev", "show", "bad0", "--netns", "blue"]);
    // The kernel's queue has room for 1,000 frames.
    wait_until("the kernel drops what finds its queue full", SOON, || {
        show()["stats"]["tx_dropped"].as_u64().unwrap() >= SENT / 2
    });
    assert_eq!(show()["plugin_stats"]["tx_packets"], 0, "none has come back");
    // Nothing else waits for it: other plugins, other namespaces, the same plugin there.
    netns_add("green");
    m.wait_state("green", "live");
    assert_eq!(m.netns("green")["subsystems"], json!(["probe-a", "bad-devices"]));
    assert_eq!(bad(&m)["state"], "live");

    netns_del("blue");
    m.wait_gone("blue");
    let log = m.log();
    assert!(log.contains("start_xmit has not returned a second after"), "{log}");
    assert!(log.contains("bad0") && log.contains("datapath, queue"), "who holds the device is told: {log}");
    wait_until("the kernel's namespace has ended", SOON, || rtnetlink::find("watch").is_err());
    assert!(threads(&m) > 0, "it hangs all the same");
    netns_add("blue");
    m.wait_state("blue", "live");
    m.write("go", "");
    wait_until("the thread comes out and ends", SOON, || threads(&m) == 0);
    m.stop();
}

/// How many threads the daemon's devices have.
fn threads(m: &Machine) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", m.pid().as_raw_pid())).unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("bad%d-")).count()
}
