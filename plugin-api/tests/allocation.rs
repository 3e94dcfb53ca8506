//! Nothing allocates per frame: counted over every thread of the process, in a test that has it to itself.

mod counting_allocator;
mod device_host;

use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use counting_allocator::allocates_nothing;
use device_host::*;
use pernet_plugin_api::abi::OpsHandle;
use pernet_plugin_api::prelude::*;

/// What a device does with frames before they go on into another one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    AsTheyAre,
    /// Each of them twice.
    Copied,
    /// Super-frames as their segments.
    Segmented,
}

struct Forward {
    to: Datapath,
    how: How,
    /// A batch more, for what is made of one.
    more: Mutex<Batch>,
    gate: Arc<Gate>,
}

/// Where `start_xmit` can be made to wait, so that the next batch is a full one.
#[derive(Default)]
struct Gate {
    is_closed: Mutex<bool>,
    opened: Condvar,
    /// The longest batch that passed.
    most: AtomicUsize,
}

impl Gate {
    fn set_closed(&self, is_closed: bool) {
        *lock(&self.is_closed) = is_closed;
        self.opened.notify_all();
    }

    fn pass(&self, frames: usize) {
        self.most.fetch_max(frames, Ordering::Relaxed);
        let mut is_closed = lock(&self.is_closed);
        while *is_closed {
            is_closed = self.opened.wait(is_closed).expect("no panic");
        }
    }
}

impl NetDeviceOps for Forward {
    const XMIT: bool = true;

    fn start_xmit(&self, queue: &Queue<'_>, frames: &mut Batch) {
        self.gate.pass(frames.len());
        let mut more = lock(&self.more);
        for frame in frames.drain() {
            match self.how {
                How::AsTheyAre => more.push(frame),
                How::Copied => more.extend([frame.try_clone().expect("memory"), frame]),
                How::Segmented => frame.segment(&mut more).expect("segments"),
            }
        }
        let _ = self.to.netif_rx_list(queue.index(), &mut more);
    }
}

/// Two devices, the one sending into the other, and the kernel's end of each.
struct Path {
    near: UnixDatagram,
    far: UnixDatagram,
    ops: [OpsHandle; 2],
    gate: Arc<Gate>,
    _devices: [Netdev; 2],
}

impl Path {
    /// With a virtio header at the one's end, and at the other's.
    fn new(plugin: &Loaded, how: How, from: bool, to: bool) -> Path {
        let into = plugin.host.alloc_netdev(NetdevSpec::tap("to%d").offloads(to), ()).expect("a device");
        let into_ops = plugin.last_ops();
        let gate = Arc::new(Gate::default());
        let more = Mutex::new(Batch::new());
        let forward = Forward { to: into.datapath().clone(), how, more, gate: Arc::clone(&gate) };
        let dev = plugin.host.alloc_netdev(NetdevSpec::tap("from%d").offloads(from), forward).expect("a device");
        let ops = plugin.last_ops();
        let ((a, far), (b, near)) = (long_queue(), long_queue());
        assert_eq!(plugin.open(into_ops, vec![a], to).errno, 0);
        assert_eq!(plugin.open(ops, vec![b], from).errno, 0);
        Path { near, far, ops: [ops, into_ops], gate, _devices: [dev, into] }
    }

    fn send(&self, frame: &[u8]) {
        while self.near.send(frame).is_err() {
            std::thread::yield_now();
        }
    }

    /// The next frame that comes out.
    fn receive<'b>(&self, buffer: &'b mut [u8]) -> &'b [u8] {
        loop {
            match self.far.recv(buffer) {
                Ok(len) => return &buffer[..len],
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    fn end(self, plugin: &Loaded) {
        for ops in self.ops {
            assert_eq!(plugin.ndo(ops, STOP).0.errno, 0);
        }
    }
}

#[test]
fn no_frame_allocates_once_the_pool_is_warm() {
    let plugin = loaded();
    one_by_one(&plugin);
    full_batches(&plugin);
    copies(&plugin);
    super_frames(&plugin);
    assert_eq!(plugin.destroy().errno, 0);
}

/// Of every length, also such as are dropped.
fn one_by_one(plugin: &Loaded) {
    for offloads in [false, true] {
        let path = Path::new(plugin, How::AsTheyAre, offloads, offloads);
        // With offloads the first twelve bytes are the virtio header: nothing is left to do.
        let ahead = if offloads { 12 } else { 0 };
        let mut lengths = [60, 14, 1514, 9000, 13, 600].map(|len| frame(ahead + len, 0));
        lengths.iter_mut().for_each(|frame| frame[..ahead].fill(0));
        let mut buffer = vec![0; 70_000];
        allocates_nothing("one by one", 2_000, || {
            for sent in &lengths {
                path.send(sent);
                // Frames of a wrong length cost nothing either; they never arrive.
                if !matches!(sent.len() - ahead, 13 | 9000) {
                    assert_eq!(path.receive(&mut buffer), sent.as_slice());
                }
            }
        });
        path.end(plugin);
    }
}

fn full_batches(plugin: &Loaded) {
    let path = Path::new(plugin, How::AsTheyAre, false, false);
    let sent = frame(60, 3);
    let mut buffer = vec![0; 100];
    allocates_nothing("full batches", 200, || {
        path.gate.set_closed(true);
        (0..2 * Batch::MOST).for_each(|_| path.send(&sent));
        path.gate.set_closed(false);
        (0..2 * Batch::MOST).for_each(|_| assert_eq!(path.receive(&mut buffer), sent));
    });
    assert_eq!(path.gate.most.load(Ordering::Relaxed), Batch::MOST, "there was a full one");
    path.end(plugin);
}

fn copies(plugin: &Loaded) {
    let path = Path::new(plugin, How::Copied, true, true);
    let mut small = vec![0; 12];
    small.extend(frame(60, 4));
    let big = super_frame(60_000);
    let mut buffer = vec![0; 70_000];
    allocates_nothing("copies", 1_000, || {
        for sent in [&small, &big] {
            path.send(sent);
            (0..2).for_each(|_| assert_eq!(path.receive(&mut buffer), sent.as_slice()));
        }
    });
    path.end(plugin);
}

/// Segments are made by the plugin, or by a device that has no offloads.
fn super_frames(plugin: &Loaded) {
    for (how, to) in [(How::Segmented, true), (How::AsTheyAre, false)] {
        let path = Path::new(plugin, how, true, to);
        let big = super_frame(60_000);
        let mut buffer = vec![0; 70_000];
        let ahead = if to { 12 } else { 0 };
        allocates_nothing("super-frames", 500, || {
            path.send(&big);
            let mut left = 60_000;
            while left > 0 {
                left -= path.receive(&mut buffer).len() - ahead - 54;
            }
        });
        let received = plugin.stats(path.ops[1]).rx_packets;
        assert_eq!(received % 60_000u64.div_ceil(1400), 0, "each came as its segments: {received}");
        path.end(plugin);
    }
}
