//! What a queue's frames came to: counters without a lock.
//!
//! Mirrors `struct rtnl_link_stats64` per queue. They count for the device's whole life, over every open and stop.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Stats;

/// One queue's counters. Each stands by itself, so no order is needed between them.
#[derive(Default)]
// A cache line of its own: two queues' threads never write to the same one.
#[repr(align(64))]
pub(crate) struct Counters {
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
    rx_dropped: AtomicU64,
    rx_errors: AtomicU64,
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
    tx_dropped: AtomicU64,
    tx_errors: AtomicU64,
}

impl Counters {
    /// Adds what a batch came to.
    pub(crate) fn add(&self, stats: &Stats) {
        let add = |counter: &AtomicU64, n: u64| {
            if n != 0 {
                counter.fetch_add(n, Ordering::Relaxed);
            }
        };
        add(&self.rx_packets, stats.rx_packets);
        add(&self.rx_bytes, stats.rx_bytes);
        add(&self.rx_dropped, stats.rx_dropped);
        add(&self.rx_errors, stats.rx_errors);
        add(&self.tx_packets, stats.tx_packets);
        add(&self.tx_bytes, stats.tx_bytes);
        add(&self.tx_dropped, stats.tx_dropped);
        add(&self.tx_errors, stats.tx_errors);
    }

    pub(crate) fn read(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            rx_packets: read(&self.rx_packets),
            rx_bytes: read(&self.rx_bytes),
            rx_dropped: read(&self.rx_dropped),
            rx_errors: read(&self.rx_errors),
            tx_packets: read(&self.tx_packets),
            tx_bytes: read(&self.tx_bytes),
            tx_dropped: read(&self.tx_dropped),
            tx_errors: read(&self.tx_errors),
        }
    }
}
