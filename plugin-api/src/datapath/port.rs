//! A tun or tap device's frames: its queues while it is open, and the way in.
//!
//! Mirrors the part of `ndo_open` and `ndo_stop` that concerns queues, and has `netif_rx` for authors. What that does is in
//! [`super::receive`], the threads' own work in [`super::queue`]; registration is the host's.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, retry_on_intr};

use super::counters::Counters;
use super::frame::{Batch, Frame, Framing, no_memory};
use super::pool::Pool;
use super::queue::Worker;
use super::segment;
use super::starter::Starter;
use super::vnet::VnetHeader;
use crate::abi::Status;
use crate::host::{self, Shared};
use crate::log::Caller;
use crate::netdev_ops::AnyNetdevOps;
use crate::own::NetdevRef;
use crate::work::{Work, WorkTable};
use crate::{Error, NetCookie, NetdevSpec, Result, Stats};

/// How long a stop waits for calls of `start_xmit` that have begun.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// The MTU of a device of which nobody said any.
const MTU: u32 = 1500;

/// The way of frames into a device's namespace, and the memory for them. Clones name the same; it keeps no device.
#[derive(Clone)]
pub struct Datapath(pub(super) Arc<Port>);

/// What a device's threads and the callers of `netif_rx` share.
pub(crate) struct Port {
    name: String,
    /// None for the kinds whose frames never come here.
    framing: Option<Framing>,
    pub(super) mtu: AtomicU32,
    /// The cookie of the namespace in which it was opened last.
    net: AtomicU64,
    pub(super) counters: Box<[Counters]>,
    /// While the device is open. Read-locked over writes, which never block: a stop waits for them.
    pub(super) queues: RwLock<Option<Arc<Queues>>>,
    workers: Mutex<Vec<Worker>>,
    /// A panic in `start_xmit` that the host does not know of yet.
    fault: Mutex<Option<Status>>,
    pub(super) pool: Arc<Pool>,
    starter: Arc<Starter>,
    work: Arc<WorkTable>,
}

/// The descriptors of an open device.
pub(super) struct Queues {
    pub(super) fds: Vec<OwnedFd>,
    /// Whether frames have a virtio header in front of them.
    pub(super) vnet: bool,
    /// Readable as soon as the threads are to end; nobody ever reads it.
    pub(super) stop: OwnedFd,
}

impl Datapath {
    pub(crate) fn new(spec: &NetdevSpec, shared: &Shared) -> Self {
        let framing = match spec.kind.as_str() {
            "tap" => Some(Framing::Ethernet),
            "tun" => Some(Framing::Ip),
            _ => None,
        };
        let queues = if framing.is_some() { usize::from(spec.queues.max(1)) } else { 0 };
        Datapath(Arc::new(Port {
            name: spec.name.clone(),
            framing,
            mtu: AtomicU32::new(if spec.mtu == 0 { MTU } else { spec.mtu }),
            net: AtomicU64::new(0),
            counters: (0..queues).map(|_| Counters::default()).collect(),
            queues: RwLock::new(None),
            workers: Mutex::new(Vec::new()),
            fault: Mutex::new(None),
            pool: Arc::clone(&shared.pool),
            starter: Arc::clone(&shared.starter),
            work: Arc::clone(&shared.work),
        }))
    }

    /// How many queues the device has: at least 1 for tun and tap, else 0.
    #[must_use]
    pub fn queues(&self) -> u16 {
        u16::try_from(self.0.counters.len()).unwrap_or(u16::MAX)
    }

    /// Whether it is open, so that frames can go in.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.opened().is_some()
    }

    /// A frame for this device, in memory of the pool.
    ///
    /// # Errors
    /// `ENOBUFS` if there is no memory for it, `EOPNOTSUPP` for a device that is neither tun nor tap.
    pub fn alloc_frame(&self, bytes: &[u8]) -> Result<Frame> {
        let framing = self.0.framing()?;
        Frame::copy_of(&self.0.pool, bytes, VnetHeader::default(), framing).ok_or_else(no_memory)
    }

    /// Gives the namespace a frame, as if it came in through the device. Any thread may; it never blocks.
    ///
    /// Frames of another device of the same plugin go in as they are, without a copy; those with something left to do
    /// ([`Frame::vnet`]) are finished first if this device has no offloads. A device with fewer queues takes the number
    /// modulo its own.
    ///
    /// # Errors
    /// `ENETDOWN` while the device is not open; `ENOBUFS` if its queue is full; `EMSGSIZE` for a frame that is too short
    /// or too long for the device; what segmentation or the kernel answers. The frame is dropped then, and counted.
    pub fn netif_rx(&self, queue: u16, frame: Frame) -> Result<()> {
        self.0.framing()?;
        let mut tally = Stats::default();
        let result = self.0.receive_all(queue, std::iter::once(frame), &mut tally);
        self.0.count(queue, &tally);
        result?.1
    }

    /// Gives the namespace all frames of a batch, in order, as [`netif_rx`](Self::netif_rx), and how many went in. Those
    /// that do not are dropped and counted; the batch is empty afterwards.
    ///
    /// # Errors
    /// `ENETDOWN` while the device is not open, `EOPNOTSUPP` for one that is neither tun nor tap.
    pub fn netif_rx_list(&self, queue: u16, frames: &mut Batch) -> Result<usize> {
        let mut tally = Stats::default();
        let result = match self.0.framing() {
            Ok(_) => self.0.receive_all(queue, frames.drain(), &mut tally).map(|(written, _)| written),
            Err(error) => {
                frames.clear();
                Err(error)
            }
        };
        self.0.count(queue, &tally);
        result
    }

    /// What passed, over all queues and for the device's whole life. What the ops add is not in it.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.counters.iter().map(Counters::read).fold(Stats::default(), |sum, one| sum + one)
    }

    /// Takes the queues over, and starts a thread for each if the ops transmit.
    pub(crate) fn open(
        &self,
        ops: &Arc<dyn AnyNetdevOps>,
        caller: Caller,
        net: NetCookie,
        fds: Vec<OwnedFd>,
        vnet: bool,
        mtu: u32,
    ) -> Result<()> {
        let port = &self.0;
        if port.framing.is_none() {
            return Ok(());
        }
        self.set_mtu(mtu);
        port.net.store(net.0, Ordering::Relaxed);
        if fds.is_empty() || fds.len() > port.counters.len() {
            let why = format!("{}: the daemon gave {} queues of {}", port.name, fds.len(), port.counters.len());
            return Err(Error::new(libc::EINVAL, why));
        }
        let mut workers = port.workers();
        workers.retain(|worker| !worker.is_over());
        if let Some(worker) = workers.first() {
            let why = format!("start_xmit of queue {} has not returned since the device was last up", worker.queue);
            return Err(Error::new(libc::EBUSY, why));
        }
        for fd in &fds {
            fcntl_setfl(fd, fcntl_getfl(fd).map_err(os)? | OFlags::NONBLOCK).map_err(os)?;
        }
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(os)?;
        let count = fds.len();
        *port.queues.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(Queues { fds, vnet, stop }));
        for index in 0..u16::try_from(count).unwrap_or(u16::MAX) {
            if !ops.transmits() {
                break;
            }
            match Worker::start(self, index, &port.name, ops, caller, &port.starter) {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    drop(workers);
                    self.stop(|_| None);
                    return Err(Error::new(error.errno(), format!("the thread of queue {index}: {error}")));
                }
            }
        }
        Ok(())
    }

    /// Lets the queues go, and waits a short time for the threads. For one that does not come out of `start_xmit`, `hold`
    /// gives what it shall hold until it does.
    pub(crate) fn stop(&self, hold: impl Fn(u16) -> Option<NetdevRef>) {
        let open = self.0.queues.write().unwrap_or_else(PoisonError::into_inner).take();
        let mut workers = self.0.workers();
        for worker in workers.iter() {
            worker.tell();
        }
        if let Some(queues) = open {
            // Only a full counter could fail, and this is the one write.
            let _ = retry_on_intr(|| rustix::io::write(&queues.stop, &1u64.to_ne_bytes()));
        }
        let deadline = Instant::now() + PATIENCE;
        workers.retain_mut(|worker| {
            if worker.wait(deadline) {
                worker.join();
                return false;
            }
            worker.keep(|| hold(worker.queue));
            true
        });
    }

    pub(crate) fn set_mtu(&self, mtu: u32) {
        self.0.mtu.store(mtu, Ordering::Relaxed);
    }

    /// Keeps a panic of `start_xmit` until the daemon is told, and has it come for that. Where it cannot come (the
    /// namespace is just going, or the instance), the next operation of the device tells it, which an end has, too.
    pub(super) fn fail(&self, caller: Caller, status: Status) {
        let mut fault = self.0.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if fault.is_some() {
            return;
        }
        *fault = Some(status);
        drop(fault);
        let net = self.0.net.load(Ordering::Relaxed);
        let _ = host::queue(caller, &self.0.work, &[net], Work::Fault(self.clone()));
    }

    /// A panic of `start_xmit` that nobody was told of yet.
    pub(crate) fn take_fault(&self) -> Option<Status> {
        self.0.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Port {
    fn framing(&self) -> Result<Framing> {
        self.framing.ok_or(Error::fixed(libc::EOPNOTSUPP, "the device is neither tun nor tap: it has no queues"))
    }

    /// What frames begin with, for the threads of a device that has some.
    pub(super) fn framing_of_queue(&self) -> Framing {
        self.framing.unwrap_or(Framing::Ethernet)
    }

    pub(super) fn opened(&self) -> Option<Arc<Queues>> {
        self.queues.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn count(&self, queue: u16, tally: &Stats) {
        if let Some(counters) = self.counters.get(usize::from(queue) % self.counters.len().max(1)) {
            counters.add(tally);
        }
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Worker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a frame is one that a device of this MTU may have.
    pub(super) fn fits(&self, frame: &Frame) -> Result<()> {
        let framing = self.framing_of_queue();
        let length = if frame.vnet().gso() == 0 { frame.len() } else { segment::longest_segment(frame, framing)? };
        let mtu = usize::try_from(self.mtu.load(Ordering::Relaxed)).unwrap_or(usize::MAX / 2);
        let longest = framing.longest(mtu, frame.bytes());
        if length < framing.shortest() || length > longest {
            return Err(Error::fixed(libc::EMSGSIZE, "the frame is too short or too long for the device"));
        }
        Ok(())
    }
}

pub(super) fn os(errno: Errno) -> Error {
    std::io::Error::from(errno).into()
}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath")
            .field("name", &self.0.name)
            .field("queues", &self.0.counters.len())
            .field("open", &self.is_open())
            .finish_non_exhaustive()
    }
}
