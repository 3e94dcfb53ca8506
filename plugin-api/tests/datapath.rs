//! Frames through a device's queues: datagram sockets stand for tun and tap, one frame to a datagram either way.
#![forbid(unsafe_code)]

mod device_host;

use std::num::NonZeroU64;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use device_host::*;
use pernet_plugin_api::abi::{OpsHandle, Status};
use pernet_plugin_api::prelude::*;
use pernet_plugin_api::{Framing, VnetHeader};
use rustix::thread::{current_timer_slack, set_current_timer_slack};

/// Frames go where the test says: to another device, into a list, or nowhere.
struct Passing<F>(F);

impl<F: Fn(&Queue<'_>, &mut Batch) + Send + Sync + 'static> NetDeviceOps for Passing<F> {
    const XMIT: bool = true;

    fn start_xmit(&self, queue: &Queue<'_>, frames: &mut Batch) {
        (self.0)(queue, frames);
    }
}

/// A device that is allocated, and its ops.
fn device(plugin: &Loaded, spec: NetdevSpec, ops: impl NetDeviceOps) -> (Netdev, OpsHandle) {
    let dev = plugin.host.alloc_netdev(spec, ops).expect("a device");
    (dev, plugin.last_ops())
}

/// A device that gives the test's list what it sends, and whose one queue is open.
fn keeping(plugin: &Loaded, spec: NetdevSpec, vnet: bool) -> (Netdev, OpsHandle, UnixDatagram, Kept) {
    let kept = Kept::default();
    let list = Arc::clone(&kept);
    let take = move |_: &Queue<'_>, frames: &mut Batch| lock(&list).extend(frames.drain());
    let (dev, ops) = device(plugin, spec, Passing(take));
    let (fd, kernels) = queue();
    assert_eq!(plugin.open(ops, vec![fd], vnet).errno, 0);
    (dev, ops, kernels, kept)
}

type Kept = Arc<Mutex<Vec<Frame>>>;

fn send(kernels: &UnixDatagram, frame: &[u8]) {
    until("the queue has room", || kernels.send(frame).is_ok());
}

#[test]
fn frames_come_out_and_go_in_on_every_queue() {
    let plugin = loaded();
    let reflect = |queue: &Queue<'_>, frames: &mut Batch| {
        frames.iter_mut().for_each(|frame| frame.bytes_mut()[0] = 0xee);
        let all = frames.len();
        assert_eq!(queue.datapath().netif_rx_list(queue.index(), frames), Ok(all));
    };
    let (dev, ops) = device(&plugin, NetdevSpec::tap("multi%d").queues(2), Passing(reflect));
    assert_eq!((dev.datapath().queues(), dev.datapath().is_open()), (2, false));
    let down = dev.datapath().netif_rx(0, dev.datapath().alloc_frame(&frame(60, 1)).expect("memory"));
    assert_eq!(down.expect_err("down").errno(), libc::ENETDOWN);
    let (queues, kernels): (Vec<_>, Vec<_>) = (0..2).map(|_| queue()).unzip();
    assert_eq!(plugin.open(ops, queues, false).errno, 0);
    assert!(dev.datapath().is_open());
    until("a thread for each queue", || threads("multi%d-") == 2);
    for (i, kernel) in kernels.iter().enumerate() {
        for len in [14, 60, 1514] {
            let mut sent = frame(len, u8::try_from(i).expect("small"));
            send(kernel, &sent);
            sent[0] = 0xee;
            assert_eq!(receive(kernel), sent);
        }
    }
    // The thread counts after the frames are in.
    until("all are counted", || plugin.stats(ops).tx_packets == 6);
    let stats = plugin.stats(ops);
    assert_eq!((stats.tx_bytes, stats.rx_packets, stats.rx_bytes), (2 * 1588, 6, 2 * 1588));
    assert_eq!((stats.rx_dropped, stats.tx_dropped, stats.tx_errors + stats.rx_errors), (1, 0, 0));
    assert_eq!(plugin.ndo(ops, STOP).0.errno, 0);
    assert!(!dev.datapath().is_open());
    until("the threads are gone", || threads("multi%d-") == 0);
    assert_eq!(kernels[0].send(&[0; 60]).expect_err("closed").raw_os_error(), Some(libc::ECONNREFUSED));
    // Up again, on other queues; counters go on.
    let (fd, kernels) = queue();
    assert_eq!(plugin.open(ops, vec![fd], false).errno, 0);
    send(&kernels, &frame(60, 9));
    assert_eq!(receive(&kernels).len(), 60);
    until("counted", || plugin.stats(ops).tx_packets == 7);
    assert_eq!(plugin.destroy().errno, 0);
    // A thread that is joined stays in /proc for a moment.
    until("an instance leaves no thread", || threads("multi%d-") + threads("netdev-starter") == 0);
}

#[test]
fn without_start_xmit_there_is_no_thread_and_frames_still_go_in() {
    let plugin = loaded();
    let (dev, ops) = device(&plugin, NetdevSpec::tun("mute%d"), ());
    let (fd, kernels) = queue();
    assert_eq!(plugin.open(ops, vec![fd], false).errno, 0);
    assert_eq!(threads("mute%d-"), 0);
    dev.datapath().netif_rx(0, dev.datapath().alloc_frame(&[0x45; 20]).expect("memory")).expect("in");
    assert_eq!(receive(&kernels), [0x45; 20]);
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn a_device_that_is_neither_tun_nor_tap_has_no_frames() {
    let plugin = loaded();
    let (dev, ops) = device(&plugin, NetdevSpec::bridge("br%d"), Passing(|_: &Queue<'_>, _: &mut Batch| {}));
    assert_eq!(plugin.open(ops, Vec::new(), false).errno, 0);
    assert_eq!(dev.datapath().alloc_frame(&[0; 60]).expect_err("none").errno(), libc::EOPNOTSUPP);
    assert_eq!(dev.datapath().netif_rx_list(0, &mut Batch::new()).expect_err("none").errno(), libc::EOPNOTSUPP);
    assert_eq!(threads("br%d-"), 0);
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn frames_of_a_wrong_length_are_counted_and_dropped_both_ways() {
    // The outer tag of two is another one; an MTU leaves room for two, as the kernel's tap gives and takes them.
    let tagged = |len: usize, tags: usize| {
        let mut bytes = frame(len, 2);
        for at in (0..tags).map(|tag| 12 + 4 * tag) {
            bytes[at..at + 2].copy_from_slice(if at + 4 < 12 + 4 * tags { &[0x88, 0xa8] } else { &[0x81, 0x00] });
        }
        bytes
    };
    let plugin = loaded();
    for (spec, shortest, longest) in [(NetdevSpec::tap("len%d"), 14, 1514), (NetdevSpec::tun("len%d"), 20, 1500)] {
        let (dev, ops, kernels, kept) = keeping(&plugin, spec, false);
        let wrong = [
            frame(shortest - 1, 1),
            frame(longest + 1, 1),
            frame(9000, 1),
            tagged(longest + 5, 1),
            tagged(longest + 9, 2),
            tagged(longest + 12, 3),
        ];
        let right = [frame(shortest, 1), frame(longest, 1)];
        for bytes in wrong.iter().chain(&right) {
            send(&kernels, bytes);
            let one = dev.datapath().alloc_frame(bytes).expect("memory");
            let result = dev.datapath().netif_rx(0, one);
            assert_eq!(result.err().map(|e| e.errno()), wrong.contains(bytes).then_some(libc::EMSGSIZE));
        }
        until("the right ones are through", || lock(&kept).len() == 2);
        until("all are counted", || plugin.stats(ops).tx_packets == 2);
        assert_eq!(lock(&kept).iter().map(|f| f.bytes().to_vec()).collect::<Vec<_>>(), right);
        assert_eq!([receive(&kernels), receive(&kernels)], right);
        let stats = plugin.stats(ops);
        assert_eq!((stats.tx_errors, stats.rx_errors, stats.rx_packets), (6, 6, 2));
        for tags in (1..=2).filter(|_| shortest == 14) {
            lock(&kept).clear();
            let bytes = tagged(1514 + 4 * tags, tags);
            send(&kernels, &bytes);
            until("tags are over and above", || lock(&kept).len() == 1);
            assert_eq!(lock(&kept)[0].bytes(), bytes);
            dev.datapath().netif_rx(0, dev.datapath().alloc_frame(&bytes).expect("memory")).expect("in");
            assert_eq!(receive(&kernels), bytes);
        }
        // A new MTU counts at once.
        let (status, _) = plugin.call(ops, CHANGE_MTU, Vec::new(), false, 9000);
        assert_eq!(status.errno, 0);
        lock(&kept).clear();
        send(&kernels, &frame(9000, 3));
        until("a jumbo frame", || lock(&kept).first().is_some_and(|f| f.len() == 9000));
        assert_eq!(plugin.ndo(ops, STOP).0.errno, 0);
    }
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn what_is_left_in_the_batch_is_dropped_and_counted() {
    let plugin = loaded();
    let every_other = |_: &Queue<'_>, frames: &mut Batch| {
        let mut odd = false;
        frames.retain_mut(|frame| {
            odd = frame.bytes()[0] == 1;
            !odd
        });
    };
    let (_dev, ops) = device(&plugin, NetdevSpec::tap("left%d"), Passing(every_other));
    let (fd, kernels) = queue();
    assert_eq!(plugin.open(ops, vec![fd], false).errno, 0);
    for i in 0..10 {
        send(&kernels, &frame(100, i % 2));
    }
    until("all are counted", || plugin.stats(ops).tx_dropped == 5);
    assert_eq!((plugin.stats(ops).tx_packets, plugin.stats(ops).tx_bytes), (5, 500));
    assert_eq!(plugin.destroy().errno, 0);
}

/// A door that start_xmit waits at.
#[derive(Default)]
struct Door {
    open: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicBool,
}

impl Door {
    fn pass(&self) {
        let mut open = lock(&self.open);
        self.waiting.store(true, Ordering::Release);
        while !*open {
            open = self.opened.wait(open).expect("no panic");
        }
    }

    fn open(&self) {
        *lock(&self.open) = true;
        self.opened.notify_all();
    }
}

fn blocked(plugin: &Loaded) -> (Netdev, OpsHandle, UnixDatagram, Arc<Door>) {
    let door = Arc::new(Door::default());
    let at = Arc::clone(&door);
    let (dev, ops) = device(plugin, NetdevSpec::tap("stuck%d"), Passing(move |_: &Queue<'_>, _: &mut Batch| at.pass()));
    let (fd, kernels) = queue();
    assert_eq!(plugin.open(ops, vec![fd], false).errno, 0);
    send(&kernels, &frame(60, 1));
    until("it blocks", || door.waiting.load(Ordering::Acquire));
    (dev, ops, kernels, door)
}

#[test]
fn a_plugin_that_blocks_blocks_its_own_queue_only() {
    let plugin = loaded();
    let (_dev, ops, kernels, door) = blocked(&plugin);
    let (_other, other_ops, other_kernels, kept) = keeping(&plugin, NetdevSpec::tap("free%d"), false);
    let mut queued = 0;
    let full = loop {
        match kernels.send(&frame(1000, 2)) {
            Ok(_) => queued += 1,
            Err(error) => break error,
        }
        assert!(queued < 100_000, "nothing is unbounded");
    };
    assert_eq!(full.raw_os_error(), Some(libc::EAGAIN), "the sender sees it");
    for i in 0..100 {
        send(&other_kernels, &frame(60, i));
    }
    until("the other one goes on", || lock(&kept).len() == 100);
    assert_eq!(plugin.stats(other_ops).tx_errors, 0);
    assert_eq!(plugin.stats(ops).tx_packets, 0);
    door.open();
    until("what was queued is through", || plugin.stats(ops).tx_dropped == queued + 1);
    lock(&kept).clear();
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn a_stop_waits_a_second_and_leaves_a_named_reference() {
    let plugin = loaded();
    let (_dev, ops, kernels, door) = blocked(&plugin);
    taken();
    let begun = Instant::now();
    assert_eq!(plugin.ndo(ops, STOP).0.errno, 0);
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(taken(), ["hold 3 7 70 for datapath, queue 0"]);
    assert_eq!(threads("stuck%d-"), 1);
    assert!(kernels.send(&[0; 60]).is_err(), "the thread that hangs has no descriptor that pins a namespace");
    let (fd, _kernels) = queue();
    let again = plugin.open(ops, vec![fd], false);
    assert_eq!(again.errno, libc::EBUSY, "a second thread would hang, too: {again:?}");
    assert_eq!(plugin.ndo(ops, STOP).0.errno, 0);
    assert_eq!(taken(), NOTHING, "one reference is enough");
    door.open();
    until("the reference is given back", || taken() == ["put 99"]);
    until("the thread is gone", || threads("stuck%d-") == 0);
    let (fd, kernels) = queue();
    assert_eq!(plugin.open(ops, vec![fd], false).errno, 0, "now it can go up");
    send(&kernels, &frame(60, 1));
    until("and works", || plugin.stats(ops).tx_dropped == 2);
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn an_instances_end_does_not_wait_for_ever() {
    let plugin = loaded();
    let (dev, _ops, _kernels, door) = blocked(&plugin);
    let begun = Instant::now();
    assert_eq!(plugin.destroy().errno, 0);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(!dev.datapath().is_open());
    door.open();
    until("the thread is gone", || threads("stuck%d-") == 0);
}

/// A device with one queue, whose `start_xmit` has panicked.
fn fallen(plugin: &Loaded) -> (Netdev, OpsHandle) {
    let fall = |_: &Queue<'_>, frames: &mut Batch| panic!("as told, with {} frames", frames.len());
    let (dev, ops) = device(plugin, NetdevSpec::tap("fall%d"), Passing(fall));
    let (fd, kernels) = queue();
    assert_eq!(plugin.open(ops, vec![fd], false).errno, 0);
    send(&kernels, &frame(60, 1));
    until("it fell", || dev.datapath().stats().tx_dropped == 1);
    until("the thread is gone", || threads("fall%d-") == 0);
    (dev, ops)
}

#[track_caller]
fn tells_of_the_panic(told: &Status) {
    assert_eq!((told.errno, told.panicked), (libc::EIO, 1));
    let message = told.message.as_str();
    assert!(message.contains("start_xmit of queue 0") && message.contains("as told, with 1 frames"), "{message}");
}

#[test]
fn a_panic_ends_its_queue_and_the_daemon_comes_for_it() {
    let plugin = loaded();
    let (_dev, ops) = fallen(&plugin);
    let works = deferred();
    assert_eq!(taken(), [format!("defer {} in [3]", works[0])]);
    tells_of_the_panic(&plugin.run_work(works[0]));
    assert_eq!(plugin.stats(ops).tx_dropped, 1, "it is told once");
    assert_eq!(plugin.ndo(ops, STOP).0.errno, 0);
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn a_panic_that_the_daemon_cannot_come_for_is_told_by_the_next_operation() {
    let plugin = loaded();
    for comes_late in [false, true] {
        let (_dev, ops) = fallen(&plugin);
        let work = deferred()[0];
        if !comes_late {
            assert_eq!(plugin.module.drop_work()(plugin.instance, work).errno, 0, "its namespace goes");
        }
        tells_of_the_panic(&plugin.ndo(ops, STOP).0);
        if comes_late {
            assert_eq!(plugin.run_work(work).errno, 0, "it is told once");
        }
    }
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn a_full_queue_drops_and_says_so() {
    let plugin = loaded();
    let (dev, ops) = device(&plugin, NetdevSpec::tap("full%d"), ());
    let (fd, kernels) = queue();
    assert_eq!(plugin.open(ops, vec![fd], false).errno, 0);
    let mut batch = Batch::new();
    let mut sent = 0;
    let mut written = 0;
    while sent == written {
        assert!(sent < 100_000, "nothing is unbounded");
        (0..64).for_each(|_| batch.push(dev.datapath().alloc_frame(&frame(1000, 1)).expect("memory")));
        sent += 64;
        written += dev.datapath().netif_rx_list(0, &mut batch).expect("open");
        assert!(batch.is_empty());
    }
    let one = dev.datapath().alloc_frame(&frame(60, 1)).expect("memory");
    assert_eq!(dev.datapath().netif_rx(0, one).expect_err("full").errno(), libc::ENOBUFS);
    let stats = plugin.stats(ops);
    assert_eq!((stats.rx_packets, stats.rx_dropped, stats.rx_errors), (written as u64, (sent - written + 1) as u64, 0));
    receive(&kernels);
    let one = dev.datapath().alloc_frame(&frame(60, 1)).expect("memory");
    dev.datapath().netif_rx(0, one).expect("there is room again");
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn super_frames_pass_whole_between_offloads_and_in_segments_to_others() {
    let plugin = loaded();
    let (_from, ops, kernels, kept) = keeping(&plugin, NetdevSpec::tap("super%d").offloads(true), true);
    let whole = super_frame(60_000);
    let mut small = vec![0; 12];
    small.extend(frame(60, 5));
    send(&kernels, &whole);
    send(&kernels, &small);
    let mut too_long = super_frame(60_000);
    too_long[4..6].copy_from_slice(&4000u16.to_ne_bytes());
    send(&kernels, &too_long);
    until("two are through", || lock(&kept).len() == 2);
    until("two are counted", || plugin.stats(ops).tx_packets == 2);
    until("segments of 4000 bytes do not fit the MTU", || plugin.stats(ops).tx_errors == 1);
    let mut frames: Vec<Frame> = lock(&kept).drain(..).collect();
    assert_eq!((frames[0].bytes(), frames[1].bytes()), (&whole[12..], &small[12..]));
    assert_eq!(frames[0].vnet().gso(), VnetHeader::GSO_TCPV4);
    assert_eq!(frames[0].framing(), Framing::Ethernet);

    let (with, with_ops) = device(&plugin, NetdevSpec::tap("with%d").offloads(true), ());
    let (fd, with_kernels) = queue();
    assert_eq!(plugin.open(with_ops, vec![fd], true).errno, 0);
    with.datapath().netif_rx(0, frames[0].try_clone().expect("memory")).expect("in");
    assert_eq!(receive(&with_kernels), whole, "as it came");

    let (without, without_ops) = device(&plugin, NetdevSpec::tap("none%d"), ());
    let (fd, without_kernels) = queue();
    assert_eq!(plugin.open(without_ops, vec![fd], false).errno, 0);
    let segments = std::thread::scope(|scope| {
        let count = 60_000usize.div_ceil(1400);
        let reader = scope.spawn(move || (0..count).map(|_| receive(&without_kernels).len() - 54).sum::<usize>());
        // The socket's queue is shorter than this; a tap's is not.
        let mut batch = Batch::new();
        frames.remove(0).segment(&mut batch).expect("segments");
        for segment in batch.drain() {
            let mut one = Some(segment);
            until("room", || {
                let copy = one.as_ref().expect("not sent").try_clone().expect("memory");
                without.datapath().netif_rx(0, copy).is_ok()
            });
            one = None;
            assert!(one.is_none());
        }
        reader.join().expect("no panic")
    });
    assert_eq!(segments, 60_000);
    assert_eq!(plugin.stats(without_ops).rx_packets, 60_000u64.div_ceil(1400));

    let (fd, short_kernels) = queue();
    let (short, short_ops) = device(&plugin, NetdevSpec::tap("short%d"), ());
    assert_eq!(plugin.open(short_ops, vec![fd], false).errno, 0);
    let mut little = super_frame(3000)[12..].to_vec();
    little[16..18].copy_from_slice(&3040u16.to_be_bytes());
    let mut one = short.datapath().alloc_frame(&little).expect("memory");
    one.set_vnet(VnetHeader { flags: 1, gso_type: 1, hdr_len: 0, gso_size: 1400, csum_start: 34, csum_offset: 16 });
    short.datapath().netif_rx(0, one).expect("in, as segments");
    assert_eq!([(); 3].map(|()| receive(&short_kernels).len()), [1454, 1454, 254]);
    let mut lie = short.datapath().alloc_frame(&little).expect("memory");
    lie.set_vnet(VnetHeader { flags: 1, gso_type: 4, hdr_len: 0, gso_size: 1400, csum_start: 34, csum_offset: 16 });
    assert_eq!(short.datapath().netif_rx(0, lie).expect_err("no IPv6").errno(), libc::EINVAL);
    assert_eq!(plugin.stats(short_ops).rx_errors, 1);
    assert_eq!(plugin.destroy().errno, 0);
}

#[test]
fn a_plugin_that_keeps_too_much_loses_frames_and_gets_memory_back() {
    let plugin = loaded();
    plugin.host.set_frame_memory(20 * 2048);
    let (dev, ops, kernels, kept) = keeping(&plugin, NetdevSpec::tap("greedy%d"), false);
    for i in 0..100 {
        send(&kernels, &frame(100, i));
    }
    until("all are counted", || {
        let stats = plugin.stats(ops);
        stats.tx_packets + stats.tx_dropped == 100
    });
    assert!(plugin.stats(ops).tx_dropped >= 80, "{:?}", plugin.stats(ops));
    assert!(lock(&kept).len() <= 20);
    assert_eq!(plugin.stats(ops).tx_packets, lock(&kept).len() as u64);
    while dev.datapath().alloc_frame(&[0; 60]).map(|one| lock(&kept).push(one)).is_ok() {}
    assert_eq!(dev.datapath().alloc_frame(&[0; 60]).expect_err("all is kept").errno(), libc::ENOBUFS);
    // From another thread, as any.
    let all = std::mem::take(&mut *lock(&kept));
    std::thread::spawn(move || drop(all)).join().expect("no panic");
    send(&kernels, &frame(100, 0));
    until("it goes on", || lock(&kept).len() == 1);
    assert_eq!(plugin.destroy().errno, 0);
    // A frame may outlive its instance.
    assert_eq!(lock(&kept)[0].len(), 100);
}

/// A thread inherits its timer slack from the one that starts it, as it does its namespace.
#[test]
fn queues_threads_are_not_started_from_the_hooks_thread() {
    const MARK: u64 = 123_456;
    let plugin = loaded();
    let slack = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&slack);
    let look = move |_: &Queue<'_>, _: &mut Batch| {
        seen.store(current_timer_slack().expect("a slack"), Ordering::Release);
    };
    let (_dev, ops) = device(&plugin, NetdevSpec::tap("slack%d"), Passing(look));
    let (fd, kernels) = queue();
    std::thread::scope(|scope| {
        let hook = || {
            set_current_timer_slack(NonZeroU64::new(MARK)).expect("set");
            let child = std::thread::spawn(|| current_timer_slack().expect("a slack"));
            assert_eq!(child.join().expect("no panic"), MARK, "what this test builds on");
            assert_eq!(plugin.open(ops, vec![fd], false).errno, 0);
        };
        scope.spawn(hook).join().expect("no panic");
    });
    send(&kernels, &frame(60, 1));
    until("it was called", || slack.load(Ordering::Acquire) != 0);
    assert_ne!(slack.load(Ordering::Acquire), MARK);
    assert_eq!(plugin.destroy().errno, 0);
}
