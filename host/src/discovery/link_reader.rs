//! The thread that hears of links: reads the socket, translates what concerns subscribed namespaces, sends it on.
//!
//! Owns the order of the stream: batches, losses and fences are told in the place at which they stand in it. What a
//! namespace's id stands for is in the table that it shares with `links.rs`; it decides nothing else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pernet_plugin_api::NetCookie;

use super::link_socket::{Datagram, LinkSocket, Received};
use super::links::{LinkEvent, Shared, Table, lock, on_the_wire};
use super::nsid;
use crate::netlink::{NLMSG_NOOP, link, messages};

/// Datagrams to one batch: bounds what a flood keeps from the loop, and the memory of one batch.
const BATCH: usize = 1024;

/// After a loss the queue is emptied before anybody dumps, since messages queued before the dump are older than it. A
/// flood can make that long; then a resync goes ahead in between, and another one follows at the end.
const DRAIN: Duration = Duration::from_millis(500);

/// The far end: reads, translates, sends.
pub(super) struct Reader {
    pub(super) socket: LinkSocket,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) table: Arc<Mutex<Table>>,
    pub(super) shared: Arc<Shared>,
    /// The number of the last fence that was read, or is known to be lost and passed.
    pub(super) fence: u64,
    /// Set from a loss until the queue has been empty once.
    pub(super) lost_since: Option<Instant>,
}

impl Reader {
    pub(super) fn run(mut self) {
        while !self.stop.load(Ordering::SeqCst) {
            self.read_batch();
        }
    }

    fn read_batch(&mut self) {
        let mut events = Vec::new();
        // Before anything is received: when the queue is empty afterwards, all that was told before these is read.
        let missed = self.shared.missed.load(Ordering::SeqCst);
        if missed > self.fence {
            self.lost_since.get_or_insert_with(Instant::now);
        }
        let drained = self.drain(&mut events);
        let overdue = self.lost_since.is_some_and(|since| since.elapsed() >= DRAIN);
        if self.lost_since.is_some() && (drained || overdue) {
            self.lost_since = (!drained).then(Instant::now);
            if drained {
                self.fence = self.fence.max(missed);
            }
            self.shared.resyncs.fetch_add(1, Ordering::Relaxed);
            events.push(LinkEvent::Overrun);
        }
        if !events.is_empty() {
            lock(&self.shared.send)(events);
        }
    }

    /// Waits for something, then reads until nothing is queued (true), or the batch is full.
    fn drain(&mut self, events: &mut Vec<LinkEvent>) -> bool {
        let mut read = 0;
        while read < BATCH {
            // After a loss there is no waiting before the queue was found empty, and the loss reported.
            match self.socket.receive(read == 0 && self.lost_since.is_none()) {
                Received::Empty => return true,
                Received::Lost => {
                    self.lost_since.get_or_insert_with(Instant::now);
                    read += 1;
                }
                Received::Datagrams(count) => {
                    let mut table = lock(&self.table);
                    let whole = translate(self.socket.datagrams(), &mut table, &mut self.fence, events);
                    drop(table);
                    if !whole {
                        self.lost_since.get_or_insert_with(Instant::now);
                    }
                    // Saves the call that would say so. After a loss it has to be said: an error may hide behind the
                    // short count.
                    if count < LinkSocket::FULL && self.lost_since.is_none() {
                        return true;
                    }
                    read += count;
                }
            }
        }
        false
    }
}

/// Appends what the datagrams say of subscribed namespaces; false if one of them was cut off.
fn translate<'a>(
    datagrams: impl Iterator<Item = Option<Datagram<'a>>>,
    table: &mut Table,
    fence: &mut u64,
    events: &mut Vec<LinkEvent>,
) -> bool {
    let mut whole = true;
    for datagram in datagrams {
        let Some(Datagram { nsid, bytes }) = datagram else {
            whole = false;
            continue;
        };
        for message in messages(bytes) {
            match nsid {
                Some(nsid) => {
                    let Some(&of) = table.by_nsid.get(&nsid) else { continue };
                    events.extend(event(of, *fence, message.message_type(), message.payload()));
                }
                // Nobody else has a socket in the private namespace: an empty message is ours.
                None if message.message_type() == NLMSG_NOOP => *fence = fence_after(*fence, message.sequence_number()),
                // Of that namespace itself only the end of an id is of interest.
                None if message.message_type() == nsid::DELNSID => {
                    nsid::parse(message.payload()).into_iter().for_each(|nsid| table.retire(nsid));
                }
                None => {}
            }
        }
    }
    whole
}

fn event((cookie, subscription): (NetCookie, u64), fence: u64, message_type: u16, payload: &[u8]) -> Option<LinkEvent> {
    match message_type {
        link::NEWLINK => Some(LinkEvent::Seen { cookie, subscription, fence, link: link::parse(payload)? }),
        link::DELLINK => {
            let (ifindex, moved) = (link::ifindex(payload)?, link::moved(payload));
            Some(LinkEvent::Gone { cookie, subscription, fence, ifindex, moved })
        }
        _ => None,
    }
}

/// The fence's whole number, of which a message carries the lower half. Numbers only rise; one that does not is the
/// end's nudge, or a fence that was sent twice.
fn fence_after(last: u64, carried: u32) -> u64 {
    let step = carried.wrapping_sub(on_the_wire(last)).cast_signed();
    if carried == 0 { last } else { last + u64::try_from(step).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_counted_on_from_the_last() {
        assert_eq!(fence_after(0, 1), 1);
        assert_eq!(fence_after(7, 9), 9);
        assert_eq!(fence_after(9, 9), 9, "sent twice");
        assert_eq!(fence_after(9, 8), 9, "never back");
        assert_eq!(fence_after(9, 0), 9, "the nudge of the end");
        let wrap = u64::from(u32::MAX);
        assert_eq!(fence_after(wrap, 1), wrap + 2, "past the end of what a message carries");
    }
}
