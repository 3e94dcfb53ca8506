//! Nothing allocates per frame: counted over every thread of the process, in a test that has it to itself.
#![allow(unsafe_code)] // A global allocator is unsafe to write.

mod device_host;
mod stub_host;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use device_host::*;
use pernet_plugin_api::prelude::*;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: the trait asks that memory be as `System` gives it: everything is passed on as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is handed on; `System` gave the memory.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on; `System` gave the memory.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Frames go on into another device.
struct Forward(Datapath);

impl NetDeviceOps for Forward {
    const XMIT: bool = true;

    fn start_xmit(&self, queue: &Queue<'_>, frames: &mut Batch) {
        let _ = self.0.netif_rx_list(queue.index(), frames);
    }
}

#[test]
fn no_frame_allocates_once_the_pool_is_warm() {
    let plugin = loaded();
    for offloads in [false, true] {
        let to = plugin.host.alloc_netdev(NetdevSpec::tap("to%d").offloads(offloads), ()).expect("a device");
        let to_ops = plugin.last_ops();
        let forward = Forward(to.datapath().clone());
        let from = plugin.host.alloc_netdev(NetdevSpec::tap("from%d").offloads(offloads), forward).expect("a device");
        let from_ops = plugin.last_ops();
        let ((a, far), (b, near)) = (queue(), queue());
        assert_eq!(plugin.open(to_ops, vec![a], offloads).errno, 0);
        assert_eq!(plugin.open(from_ops, vec![b], offloads).errno, 0);
        // With offloads the first twelve bytes are the virtio header: nothing is left to do.
        let ahead = if offloads { 12 } else { 0 };
        let mut lengths = [60, 14, 1514, 9000, 13, 600].map(|len| frame(ahead + len, 0));
        lengths.iter_mut().for_each(|frame| frame[..ahead].fill(0));
        let mut answer = vec![0; 70_000];
        let mut pass = |times: usize| {
            for i in 0..times {
                let sent = &lengths[i % lengths.len()];
                while near.send(sent).is_err() {
                    std::thread::yield_now();
                }
                // Frames of a wrong length cost nothing either; they never arrive.
                if matches!(sent.len() - ahead, 13 | 9000) {
                    continue;
                }
                while far.recv(&mut answer).map_err(|_| std::thread::yield_now()).is_err() {}
                assert_eq!(&answer[..sent.len()], sent.as_slice());
            }
        };
        pass(500);
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        pass(20_000);
        let allocated = ALLOCATIONS.load(Ordering::SeqCst) - before;
        assert_eq!(allocated, 0, "with offloads: {offloads}");
        assert_eq!(plugin.stats(to_ops).rx_packets, 20_500 / 6 * 4 + 4, "what was sent came through");
        assert_eq!((plugin.ndo(from_ops, STOP).0.errno, plugin.ndo(to_ops, STOP).0.errno), (0, 0));
        drop((from, to));
    }
    assert_eq!(plugin.destroy().errno, 0);
}
