//! A cable: two ends that devices are plugged into, and what is between them, each way.
//!
//! Owns the ways of frames. A direction that impairs nothing is no more than a call: the frames of the one device go
//! into the other on the sender's own thread, with no copy and no allocation. Which device is which end's is `pernet`.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use pernet_plugin_api::prelude::*;

use crate::capture::Capture;
use crate::counters::{Counted, Counters};
use crate::direction::{Carried, Direction, Outlet};
use crate::plan::{CablePlan, CapturePlan, EndPlan};

/// The cable. It is there as long as the plugin, whichever of its ends are.
pub(crate) struct Cable {
    name: Arc<str>,
    ends: [Arc<End>; 2],
    /// From end 0 to end 1, and back.
    lanes: [Lane; 2],
}

/// A socket for one device.
struct End {
    /// The namespace that it is for.
    netns: String,
    /// Whether that was ever there.
    has_met: AtomicBool,
    plugged: RwLock<Option<Plugged>>,
}

/// A device that is open.
struct Plugged {
    serial: u64,
    datapath: Datapath,
}

struct Lane {
    line: Arc<Line>,
    /// None where frames go straight on.
    direction: Option<Direction<Line>>,
}

/// What is at the far end of a lane.
struct Line {
    far: Arc<End>,
    counters: Arc<Counters>,
    capture: Option<Arc<Capture>>,
}

impl Cable {
    /// Opens its capture files and starts its threads, in the namespace of the calling thread.
    pub(crate) fn new(plan: &CablePlan, host: &Host) -> Result<Self> {
        let ends = plan.ends.each_ref().map(|end| Arc::new(End::new(end)));
        let seed = plan.seed.unwrap_or_else(|| fastrand::u64(..));
        let mut dice = fastrand::Rng::with_seed(seed);
        if plan.directions.iter().any(|direction| direction.impairment.has_chance()) {
            tracing::info!("cable {}: seed = {seed}", plan.name);
        }
        let mut files = Vec::new();
        let mut lane = |way: usize| {
            let wanted = &plan.directions[way];
            let capture = wanted.pcap.as_ref().map(|pcap| capture(pcap, plan.snaplen, host, &mut files)).transpose()?;
            let line = Line { far: Arc::clone(&ends[1 - way]), counters: Arc::default(), capture };
            Lane::new(plan, way, line, dice.u64(..), host)
        };
        let lanes = [lane(0)?, lane(1)?];
        Ok(Cable { name: Arc::clone(&plan.name), ends, lanes })
    }

    /// That end has a device.
    pub(crate) fn has_met(&self, side: usize) {
        self.ends[side].has_met.store(true, Ordering::Relaxed);
    }

    /// A device of that end has come up.
    pub(crate) fn plug(&self, side: usize, serial: u64, datapath: &Datapath) {
        let plugged = Plugged { serial, datapath: datapath.clone() };
        *self.ends[side].plugged.write().unwrap_or_else(PoisonError::into_inner) = Some(plugged);
    }

    /// It goes down. Where the next life of its namespace was quicker, that one's device stays.
    pub(crate) fn unplug(&self, side: usize, serial: u64) {
        let mut plugged = self.ends[side].plugged.write().unwrap_or_else(PoisonError::into_inner);
        if plugged.as_ref().is_some_and(|device| device.serial == serial) {
            *plugged = None;
        }
    }

    /// Takes what the device of that end sends.
    pub(crate) fn carry(&self, side: usize, queue: u16, frames: &mut Batch) {
        let lane = &self.lanes[side];
        match &lane.direction {
            Some(direction) => direction.carry(queue, frames.drain()),
            None => {
                let counters = &lane.line.counters;
                counters.frames.add(frames.len() as u64);
                counters.bytes.add(frames.iter().map(|frame| frame.len() as u64).sum());
                lane.line.deliver(queue, frames);
            }
        }
    }

    /// What became so far of all that was sent into that end.
    pub(crate) fn counted(&self, side: usize) -> Counted {
        let Line { counters, capture, .. } = &*self.lanes[side].line;
        Counted { missed: capture.as_ref().map_or(0, |capture| capture.missed()), ..counters.read() }
    }

    /// How many frames that were sent into that end are on their way.
    pub(crate) fn waiting(&self, side: usize) -> usize {
        self.lanes[side].waiting()
    }

    /// Stops the threads and closes the files; then tells what it has done.
    pub(crate) fn end(&self) {
        for (lane, way) in self.lanes.iter().zip(["a to b", "b to a"]) {
            let waited = lane.waiting();
            if let Some(direction) = &lane.direction {
                direction.end();
            }
            let counted = lane.line.counters.read();
            tracing::info!("cable {}, {way}: {counted}, {waited} on their way at the end", self.name);
        }
        for (end, side) in self.ends.iter().zip(["a", "b"]) {
            if !end.has_met.load(Ordering::Relaxed) {
                let (cable, netns) = (&self.name, &end.netns);
                tracing::warn!("cable {cable}: its end `{side}` never had its device: no namespace was called {netns}");
            }
        }
        for capture in self.lanes.iter().filter_map(|lane| lane.line.capture.as_ref()) {
            capture.end();
            if capture.missed() > 0 {
                let (path, missed) = (capture.path().display(), capture.missed());
                tracing::warn!("cable {}: {path} lacks {missed} frames: the disk was too slow, or full", self.name);
            }
        }
    }
}

impl End {
    fn new(plan: &EndPlan) -> Self {
        End { netns: plan.netns.clone(), has_met: AtomicBool::new(false), plugged: RwLock::new(None) }
    }

    /// Where frames go in, if a device is plugged in. The lock is not held over their way: who comes or goes never waits
    /// for frames.
    fn datapath(&self) -> Option<Datapath> {
        let plugged = self.plugged.read().unwrap_or_else(PoisonError::into_inner);
        plugged.as_ref().map(|device| device.datapath.clone())
    }
}

impl Lane {
    fn new(plan: &CablePlan, way: usize, line: Line, seed: u64, host: &Host) -> Result<Self> {
        let (line, impairment) = (Arc::new(line), &plan.directions[way].impairment);
        if !impairment.is_any() {
            return Ok(Lane { line, direction: None });
        }
        let (host, counters) = (host.clone(), Arc::clone(&line.counters));
        let around = move |run: &mut dyn FnMut()| host.attribute(run);
        match Direction::start(impairment, seed, plan.queues, counters, Arc::clone(&line), around) {
            Ok(direction) => Ok(Lane { line, direction: Some(direction) }),
            Err(e) => Err(cannot_start(&plan.name, e)),
        }
    }

    fn waiting(&self) -> usize {
        self.direction.as_ref().map_or(0, Direction::waiting)
    }
}

/// Opens a file, or finds the one that the other direction has opened.
fn capture(
    wanted: &CapturePlan,
    snaplen: u32,
    host: &Host,
    files: &mut Vec<Arc<Capture>>,
) -> Result<Arc<Capture>, ConfigError> {
    if let Some(open) = files.iter().find(|open| open.path() == wanted.path) {
        return Ok(Arc::clone(open));
    }
    let refused = |e: io::Error| ConfigError::at(&wanted.field, format!("{}: {e}", wanted.path.display()));
    let capture = Arc::new(Capture::open(&wanted.path, snaplen, host).map_err(refused)?);
    files.push(Arc::clone(&capture));
    Ok(capture)
}

fn cannot_start(cable: &str, e: io::Error) -> Error {
    let e = Error::from(e);
    Error::new(e.errno(), format!("cable `{cable}`: its thread cannot be started: {e}"))
}

impl Outlet for Line {
    type Frame = Frame;
    type Batch = Batch;

    /// Gives frames to the device at the far end. A capture has them as they get there.
    fn deliver(&self, queue: u16, frames: &mut Batch) {
        if frames.is_empty() {
            return;
        }
        let count = frames.len() as u64;
        let arrived = self.far.datapath().map_or(0, |far| {
            if let Some(capture) = &self.capture {
                capture.record(frames.iter().map(|frame| frame.bytes()));
            }
            far.netif_rx_list(queue, frames).unwrap_or(0) as u64
        });
        frames.clear();
        self.counters.arrived.add(arrived);
        self.counters.unplugged.add(count - arrived);
    }
}

impl Carried for Frame {
    fn len(&self) -> usize {
        Frame::len(self)
    }

    fn copy(&self) -> Option<Self> {
        self.try_clone().ok()
    }
}
