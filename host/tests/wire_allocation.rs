//! Nothing of the plugin `wire` allocates per frame, on whichever thread: the whole plugin, driven by its table as the
//! daemon does it, with sockets for the kernel's ends of its devices. Nothing here touches a namespace.

#[path = "../../plugin-api/tests/counting_allocator/mod.rs"]
mod counting_allocator;
#[path = "../../plugin-api/tests/device_host/mod.rs"]
mod device_host;

use std::os::unix::net::UnixDatagram;

use counting_allocator::allocates_nothing;
use device_host::{Running, STOP, frame, long_queue, running, super_frame, until};
use pernet_plugin_api::abi::{AreaHandle, OpsHandle};
use pernet_wire::Wire;

/// Frames of what a test sends before it looks what came of them: as many as a socket has room for.
const SMALL: u64 = 32;
const LARGE: u64 = 1;
/// Rounds that are counted together.
const ROUNDS: u64 = 200;

/// A cable with both its devices, and the kernel's end of each.
struct Cable {
    plugin: Running,
    near: UnixDatagram,
    far: UnixDatagram,
    ops: [OpsHandle; 2],
    areas: [AreaHandle; 2],
    /// Frames that were sent.
    sent: u64,
    /// Frames that came out.
    received: u64,
}

impl Cable {
    /// A cable with these further keys, in JSON. Its frames carry a virtio header where it has offloads.
    fn new(keys: &str, offloads: bool) -> Cable {
        let ends = r#""a":{"netns":"blue","device":"eth0"},"b":{"netns":"red","device":"eth0"}"#;
        let plugin = running::<Wire>(&format!(r#"{{"cables":[{{"name":"c",{ends},"offloads":{offloads}{keys}}}]}}"#));
        let [(blue, a, near), (red, b, far)] = [(3, "blue"), (4, "red")].map(|(cookie, netns)| {
            let area = plugin.init(cookie, netns);
            let (ours, kernels) = long_queue();
            let ops = plugin.last_ops();
            assert_eq!(plugin.open(ops, vec![ours], offloads).errno, 0);
            (ops, area, kernels)
        });
        Cable { plugin, near, far, ops: [blue, red], areas: [a, b], sent: 0, received: 0 }
    }

    /// Sends so many of these, one after the other, and takes what comes out, until all has come to something.
    fn round(&mut self, frames: &[Vec<u8>], count: u64, copies: u64, buffer: &mut [u8]) {
        for _ in 0..count {
            let at = usize::try_from(self.sent).expect("few") % frames.len();
            until("there is room", || self.near.send(&frames[at]).is_ok());
            self.sent += 1;
        }
        until("all has come to something", || {
            while self.far.recv(buffer).is_ok() {
                self.received += 1;
            }
            let stats = self.plugin.stats(self.ops[0]);
            stats.tx_packets == self.sent && self.received + stats.tx_dropped == self.sent * copies
        });
    }

    /// Its end; how many frames it was given, and how many it dropped.
    fn end(self) -> (u64, u64) {
        let dropped = self.plugin.stats(self.ops[0]).tx_dropped;
        for ops in self.ops {
            assert_eq!(self.plugin.ndo(ops, STOP).0.errno, 0);
        }
        self.plugin.unregistered_by_host();
        self.areas.into_iter().for_each(|area| self.plugin.free(area));
        assert_eq!(self.plugin.destroy().errno, 0);
        (self.sent, dropped)
    }
}

/// Each of the frames that are sent is made into so many copies. How many were sent, and how many of all were dropped.
#[track_caller]
fn cable_allocates_nothing(keys: &str, offloads: bool, copies: u64, frames: &[Vec<u8>]) -> (u64, u64) {
    let mut cable = Cable::new(keys, offloads);
    let mut buffer = vec![0; 70_000];
    let count = if offloads { LARGE } else { SMALL };
    allocates_nothing(keys, ROUNDS, || cable.round(frames, count, copies, &mut buffer));
    cable.end()
}

#[test]
fn no_frame_allocates_once_a_cable_is_warm() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().canonicalize().expect("its real path").join("c.pcap");
    let plain = [60, 14, 1514, 600].map(|len| frame(len, 1));
    let with_header = [vec![0; 12], frame(60, 2)].concat();
    let large = [super_frame(60_000), with_header];

    let pcap = format!(r#","pcap":"{}""#, path.display());

    for (keys, offloads, copies, frames) in [
        ("", false, 1, &plain[..]),
        ("", true, 1, &large),
        (&pcap, false, 1, &plain),
        (r#","both":{"duplicate":1.0}"#, false, 2, &plain),
        (r#","both":{"duplicate":1.0}"#, true, 2, &large),
        (r#","both":{"delay":"1ms","jitter":"500us","reorder":0.1}"#, false, 1, &plain),
        (r#","both":{"rate":"1gbit"}"#, false, 1, &plain),
    ] {
        let (sent, dropped) = cable_allocates_nothing(keys, offloads, copies, frames);
        assert_eq!(dropped, 0, "{keys}: of {sent}");
    }
    assert!(std::fs::metadata(path).expect("the file").len() > ROUNDS * SMALL * 60, "what passed was captured");
    // Those that are lost, or find no room, cost nothing either.
    for (keys, copies) in [(r#","both":{"loss":0.3,"duplicate":1.0}"#, 2), (r#","both":{"delay":"1ms","limit":8}"#, 1)]
    {
        let (sent, dropped) = cable_allocates_nothing(keys, false, copies, &plain);
        assert!(dropped > sent / 10 && dropped < sent * copies, "{keys}: {dropped} of {sent}");
    }
}
