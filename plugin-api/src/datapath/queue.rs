//! A queue's thread: what the namespace sends, in batches, to `start_xmit`.
//!
//! Mirrors a transmit queue of a driver. The thread is outside every namespace, and has the queue's descriptor only while
//! it reads or waits, so that one that hangs in an author's code pins nothing but a named reference to its device.

use std::fmt;
use std::io::IoSliceMut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, readv, retry_on_intr};

use super::frame::{Batch, ETHERNET, Frame, VLAN_TAGS};
use super::pool::{Buffer, SMALL};
use super::port::{Datapath, Port, Queues};
use super::starter::Starter;
use super::vnet::{VNET_LEN, VnetHeader};
use crate::abi::Status;
use crate::log::Caller;
use crate::netdev_ops::AnyNetdevOps;
use crate::own::NetdevRef;
use crate::{Result, Stats, guard};

/// What a super-frame may have beyond an MTU of its own.
const SUPER: usize = 65535;
/// A descriptor that fails may recover (a device that is down for a moment); until it is told to stop, the thread asks
/// again after this.
const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The queue that a batch came from.
#[derive(Clone, Copy)]
pub struct Queue<'a> {
    index: u16,
    datapath: &'a Datapath,
}

impl<'a> Queue<'a> {
    /// Its number, from 0.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The device's own way in: what goes there comes back to the namespace that sent it.
    #[must_use]
    pub fn datapath(&self) -> &'a Datapath {
        self.datapath
    }
}

impl fmt::Debug for Queue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("index", &self.index).field("datapath", self.datapath).finish()
    }
}

/// A queue's thread, as the device knows it.
pub(super) struct Worker {
    pub(super) queue: u16,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and the device tell each other.
struct Progress {
    stopping: AtomicBool,
    end: Mutex<End>,
    ended: Condvar,
}

#[derive(Default)]
struct End {
    over: bool,
    /// What a thread that was not waited for gives back at its end.
    held: Option<NetdevRef>,
}

impl Worker {
    pub(super) fn start(
        datapath: &Datapath,
        queue: u16,
        device: &str,
        ops: &Arc<dyn AnyNetdevOps>,
        caller: Caller,
        starter: &Starter,
    ) -> Result<Worker> {
        let progress =
            Arc::new(Progress { stopping: AtomicBool::new(false), end: Mutex::default(), ended: Condvar::new() });
        let (datapath, ops, mine) = (datapath.clone(), Arc::clone(ops), Over(Arc::clone(&progress)));
        let body = move || {
            // Told last, whatever happens: the ops may be dropped here, and that is the author's code.
            let over = mine;
            serve(&datapath, queue, &*ops, caller, &over.0);
            let _ = guard::discard(caller, ops);
            drop(datapath);
            drop(over);
        };
        let thread = starter.spawn(format!("{device}-{queue}"), body)?;
        Ok(Worker { queue, progress, thread: Some(thread) })
    }

    /// Tells the thread to end after what it is at.
    pub(super) fn tell(&self) {
        self.progress.stopping.store(true, Ordering::Release);
    }

    pub(super) fn is_over(&self) -> bool {
        self.progress.end().over
    }

    /// Waits for its end; false if that takes too long, or if it is this thread itself.
    pub(super) fn wait(&self, deadline: Instant) -> bool {
        if self.thread.as_ref().is_some_and(|thread| thread.thread().id() == thread::current().id()) {
            return false;
        }
        let mut end = self.progress.end();
        while !end.over {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return false;
            }
            end = self.progress.ended.wait_timeout(end, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// It is over: nothing of an author runs in it any more.
    pub(super) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Gives the thread a reference to keep until it ends, if it has none and has not ended.
    pub(super) fn keep(&self, hold: impl FnOnce() -> Option<NetdevRef>) {
        if self.progress.end().held.is_some() {
            return;
        }
        // Taken without the lock: it is a call to the host.
        let reference = hold();
        let mut end = self.progress.end();
        if !end.over {
            end.held = reference;
            return;
        }
        drop(end);
        drop(reference);
    }
}

impl Progress {
    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the thread is over, when it is dropped.
struct Over(Arc<Progress>);

impl Drop for Over {
    fn drop(&mut self) {
        let mut end = self.0.end();
        end.over = true;
        let held = end.held.take();
        drop(end);
        self.0.ended.notify_all();
        drop(held);
    }
}

/// How reading ended.
enum Read {
    /// There may be more.
    Full,
    /// There is no more now.
    Empty,
    /// The descriptor fails.
    Broken,
}

fn serve(datapath: &Datapath, index: u16, ops: &dyn AnyNetdevOps, caller: Caller, progress: &Progress) {
    let port = &*datapath.0;
    let queue = Queue { index, datapath };
    let mut batch = Batch::new();
    let mut spare = None;
    while !progress.stopping.load(Ordering::Acquire) {
        let Some(queues) = port.opened() else { break };
        let mut tally = Stats::default();
        let read = fill(port, &queues, index, &mut batch, &mut spare, &mut tally);
        if batch.is_empty() {
            port.count(index, &tally);
            wait(&queues, index, &read);
            continue;
        }
        drop(queues);
        let sent = size(&batch);
        let called = guard::call(Some(caller), || {
            ops.start_xmit(&queue, &mut batch);
            Ok(())
        });
        let left = size(&batch);
        batch.clear();
        tally.tx_packets += sent.0.saturating_sub(left.0);
        tally.tx_bytes += sent.1.saturating_sub(left.1);
        tally.tx_dropped += left.0;
        port.count(index, &tally);
        if let Err(Status { errno, panicked, message }) = called {
            let message = format!("start_xmit of queue {index}: {message}").into();
            datapath.fail(caller, Status { errno, panicked, message });
            break;
        }
    }
}

/// Frames and bytes of a batch.
fn size(batch: &Batch) -> (u64, u64) {
    (batch.len() as u64, batch.iter().map(|frame| frame.len() as u64).sum())
}

/// Waits until there is something to read, or the device is stopped.
fn wait(queues: &Queues, index: u16, read: &Read) {
    let mut fds =
        [PollFd::new(&queues.stop, PollFlags::IN), PollFd::new(&queues.fds[usize::from(index)], PollFlags::IN)];
    match read {
        Read::Full => return,
        Read::Broken => {
            let _ = poll(&mut fds[..1], Some(&AGAIN));
            return;
        }
        Read::Empty => {}
    }
    // An interrupted wait is one that has nothing to read.
    let _ = poll(&mut fds, None);
    if !fds[1].revents().is_empty() && !fds[1].revents().contains(PollFlags::IN) {
        // It has an error, which a read need not show: it would be asked again at once, for ever.
        let _ = poll(&mut fds[..1], Some(&AGAIN));
    }
}

/// Reads until the batch is full or there is no more. Frames that cannot be are counted, and count as one of the batch.
fn fill(
    port: &Port,
    queues: &Queues,
    index: u16,
    batch: &mut Batch,
    spare: &mut Option<Buffer>,
    tally: &mut Stats,
) -> Read {
    let mtu = usize::try_from(port.mtu.load(Ordering::Relaxed)).unwrap_or(SUPER);
    // One byte more than the longest that may be, so that a longer one shows.
    let room = if queues.vnet { SUPER } else { mtu.min(SUPER) } + ETHERNET + VLAN_TAGS + 1;
    for _ in 0..Batch::MOST {
        if spare.as_ref().is_none_or(|buffer| buffer.bytes.len() < room) {
            *spare = port.pool.get(room);
        }
        let mut nowhere = [0; 64];
        let mut header = [0; VNET_LEN];
        let has_memory = spare.is_some();
        let bytes = spare.as_mut().map_or(&mut nowhere[..], |buffer| &mut buffer.bytes[..room]);
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(bytes)];
        let parts = if queues.vnet { &mut parts[..] } else { &mut parts[1..] };
        match retry_on_intr(|| readv(&queues.fds[usize::from(index)], parts)) {
            // A socket's other end is gone; a device gives no empty frames.
            Ok(0) => return Read::Broken,
            Ok(_) if !has_memory => tally.tx_dropped += 1,
            Ok(n) => {
                let vnet = if queues.vnet { VnetHeader::read(&header) } else { VnetHeader::default() };
                let len = n.saturating_sub(if queues.vnet { VNET_LEN } else { 0 });
                take(port, spare, len, vnet, batch, tally);
            }
            Err(Errno::AGAIN) => return Read::Empty,
            Err(_) => return Read::Broken,
        }
    }
    Read::Full
}

/// Puts what was read into the batch, if it is a frame.
fn take(port: &Port, spare: &mut Option<Buffer>, len: usize, vnet: VnetHeader, batch: &mut Batch, tally: &mut Stats) {
    let Some(buffer) = spare.take() else { return };
    let read = Frame::new(buffer, len, vnet, port.framing_of_queue());
    if port.fits(&read).is_err() {
        tally.tx_errors += 1;
        *spare = Some(read.into_buffer());
        return;
    }
    if len > SMALL || read.capacity() <= SMALL {
        batch.push(read);
        return;
    }
    // A big buffer is only for big frames: most of what comes in one, with offloads, is small.
    match read.try_clone() {
        Ok(small) => batch.push(small),
        Err(_) => tally.tx_dropped += 1,
    }
    *spare = Some(read.into_buffer());
}
