//! One direction of a cable that impairs: frames in at the one end, out at the other at their time.
//!
//! Owns the queue of what waits, and the thread that waits for it: one, started with the plugin and so in no namespace.
//! A frame's fate is decided by `impair` as it comes in, on the sender's thread. Nothing is allocated per frame once the
//! queue has grown to what it needs, and nothing grows beyond the limit. What a frame is, and where it goes, is the
//! caller's.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::counters::Counters;
use crate::impair::{Impairer, Impairment, Nanos};
use crate::queue::DueQueue;

/// Most frames that go on in one go.
const MOST: usize = 64;
/// Frames that waited all go on by this queue: they come from one thread.
const WAITED: u16 = 0;

/// A frame, as far as its time on a cable is concerned.
pub(crate) trait Carried: Send + Sized + 'static {
    fn len(&self) -> usize;
    /// None if there is no memory for it.
    fn copy(&self) -> Option<Self>;
}

/// Where frames come out.
pub(crate) trait Outlet: Send + Sync + 'static {
    type Frame: Carried;
    /// Frames in order.
    type Batch: Default + Extend<Self::Frame> + Send;

    /// Takes all frames out of the batch.
    fn deliver(&self, queue: u16, frames: &mut Self::Batch);
}

/// The direction. Its end is [`end`](Direction::end), after which whatever comes in is dropped and counted.
pub(crate) struct Direction<O: Outlet> {
    shared: Arc<Shared<O>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared<O: Outlet> {
    has_wait: bool,
    start: Instant,
    waiting: Mutex<Waiting<O::Frame>>,
    /// The first one's time has become an earlier one, or the end has come.
    wake: Condvar,
    /// By the sender's queue: the frames that go on at once. A queue has one thread, so nobody ever waits for these.
    ready: Vec<Mutex<O::Batch>>,
    counters: Arc<Counters>,
    outlet: Arc<O>,
}

struct Waiting<F> {
    impairer: Impairer,
    queue: DueQueue<F>,
    has_ended: bool,
}

impl<O: Outlet> Direction<O> {
    /// Starts it, with its thread if frames wait. `around` is called with what the thread does.
    pub(crate) fn start(
        plan: &Impairment,
        seed: u64,
        queues: u16,
        counters: Arc<Counters>,
        outlet: Arc<O>,
        around: impl FnOnce(&mut dyn FnMut()) + Send + 'static,
    ) -> std::io::Result<Self> {
        let queue = DueQueue::new(plan.limit);
        let waiting = Waiting { impairer: Impairer::new(plan.clone(), seed), queue, has_ended: false };
        let shared = Arc::new(Shared {
            has_wait: plan.has_wait(),
            start: Instant::now(),
            waiting: Mutex::new(waiting),
            wake: Condvar::new(),
            ready: (0..queues.max(1)).map(|_| Mutex::default()).collect(),
            counters,
            outlet,
        });
        let thread = if shared.has_wait {
            let waits = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("wire-delay".to_owned());
            Some(thread.spawn(move || around(&mut || waits.send_on()))?)
        } else {
            None
        };
        Ok(Direction { shared, thread: Mutex::new(thread) })
    }

    /// Takes frames that the one end sends.
    pub(crate) fn carry(&self, queue: u16, frames: impl Iterator<Item = O::Frame>) {
        if self.shared.has_wait {
            self.shared.put_by(frames);
        } else {
            self.shared.pass_on(queue, frames);
        }
    }

    /// How many wait now.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.shared.waiting).queue.len()
    }

    /// Drops what waits, and waits for the thread.
    pub(crate) fn end(&self) {
        let mut waiting = lock(&self.shared.waiting);
        waiting.has_ended = true;
        waiting.queue.clear();
        drop(waiting);
        self.shared.wake.notify_all();
        if let Some(thread) = lock(&self.thread).take() {
            // Its panic has been reported where it happened.
            let _ = thread.join();
        }
    }
}

impl<O: Outlet> Drop for Direction<O> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<O: Outlet> Shared<O> {
    fn now(&self) -> Nanos {
        Nanos::try_from(self.start.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }

    /// Loss and duplication alone: what is left goes on from this thread.
    fn pass_on(&self, queue: u16, frames: impl Iterator<Item = O::Frame>) {
        let mut ready = lock(&self.ready[usize::from(queue) % self.ready.len()]);
        let mut waiting = lock(&self.waiting);
        if waiting.has_ended {
            return self.drop_all(frames);
        }
        for frame in frames {
            waiting.impairer.survivors(frame, &self.counters, |_, frame| ready.extend(Some(frame)));
        }
        drop(waiting);
        self.outlet.deliver(queue, &mut ready);
    }

    /// Queues what survives until its time.
    fn put_by(&self, frames: impl Iterator<Item = O::Frame>) {
        let mut guard = lock(&self.waiting);
        if guard.has_ended {
            return self.drop_all(frames);
        }
        let Waiting { impairer, queue, .. } = &mut *guard;
        let (now, before) = (self.now(), queue.next_due());
        for frame in frames {
            impairer.survivors(frame, &self.counters, |impairer, frame| {
                if queue.is_full() {
                    self.counters.no_room.add(1);
                    return;
                }
                let due = impairer.due(now, frame.len());
                self.counters.reordered.add(u64::from(due.has_jumped));
                queue.push(due.at, frame);
            });
        }
        let first = queue.next_due();
        drop(guard);
        if first.is_some_and(|first| before.is_none_or(|before| first < before)) {
            self.wake.notify_one();
        }
    }

    /// The cable has ended while its devices go on: what they send is as good as sent to nobody.
    fn drop_all(&self, frames: impl Iterator<Item = O::Frame>) {
        for frame in frames {
            self.counters.frames.add(1);
            self.counters.bytes.add(frame.len() as u64);
            self.counters.unplugged.add(1);
        }
    }

    /// The thread's life.
    fn send_on(&self) {
        let mut ready = O::Batch::default();
        while self.wait_for(&mut ready) {
            self.outlet.deliver(WAITED, &mut ready);
        }
    }

    /// Waits for frames whose time has come; false at the end.
    fn wait_for(&self, ready: &mut O::Batch) -> bool {
        let mut waiting = lock(&self.waiting);
        loop {
            if waiting.has_ended {
                return false;
            }
            let now = self.now();
            if let Some(first) = waiting.queue.pop_due(now) {
                let more = std::iter::from_fn(|| waiting.queue.pop_due(now)).take(MOST - 1);
                ready.extend(std::iter::once(first).chain(more));
                return true;
            }
            waiting = match waiting.queue.next_due() {
                None => self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    let left = Duration::from_nanos(due.saturating_sub(now));
                    self.wake.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Impairer {
    /// Gives on as many copies of a frame as survive.
    fn survivors<F: Carried>(&mut self, frame: F, counters: &Counters, mut give: impl FnMut(&mut Self, F)) {
        counters.frames.add(1);
        counters.bytes.add(frame.len() as u64);
        let copies = self.copies();
        counters.lost.add(copies.lost);
        counters.duplicated.add(copies.made - 1);
        let left = copies.made - copies.lost;
        if left > 1 {
            match frame.copy() {
                Some(copy) => give(self, copy),
                None => counters.no_room.add(1),
            }
        }
        if left > 0 {
            give(self, frame);
        }
    }
}

/// What a lock of this plugin holds is sound at every step, so a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;
    const SOON: Duration = Duration::from_secs(20);

    #[derive(Clone, Debug, PartialEq)]
    struct Sent {
        number: usize,
        at: Instant,
        len: usize,
    }

    impl Carried for Sent {
        fn len(&self) -> usize {
            self.len
        }

        fn copy(&self) -> Option<Self> {
            Some(self.clone())
        }
    }

    /// Frames with the time of their arrival.
    #[derive(Default)]
    struct Seen {
        frames: Mutex<Vec<(Sent, Instant)>>,
        more: Condvar,
    }

    impl Outlet for Seen {
        type Frame = Sent;
        type Batch = Vec<Sent>;

        fn deliver(&self, _queue: u16, frames: &mut Vec<Sent>) {
            let now = Instant::now();
            lock(&self.frames).extend(frames.drain(..).map(|frame| (frame, now)));
            self.more.notify_all();
        }
    }

    impl Seen {
        fn wait(&self, count: usize) -> Vec<(Sent, Instant)> {
            let until = Instant::now() + SOON;
            let mut frames = lock(&self.frames);
            while frames.len() < count {
                assert!(Instant::now() < until, "{} of {count} arrived", frames.len());
                frames = self.more.wait_timeout(frames, SOON).expect("no panic").0;
            }
            frames.clone()
        }
    }

    fn start(plan: &Impairment) -> (Direction<Seen>, Arc<Seen>, Arc<Counters>) {
        let (seen, counters) = (Arc::new(Seen::default()), Arc::new(Counters::default()));
        let direction = Direction::start(plan, 1, 2, Arc::clone(&counters), Arc::clone(&seen), |run| run());
        let direction = direction.expect("a thread");
        (direction, seen, counters)
    }

    fn frames(numbers: std::ops::Range<usize>, len: usize) -> impl Iterator<Item = Sent> {
        numbers.map(move |number| Sent { number, at: Instant::now(), len })
    }

    fn numbers(seen: &[(Sent, Instant)]) -> Vec<usize> {
        seen.iter().map(|(frame, _)| frame.number).collect()
    }

    /// A machine that is busy is late now and then; a cable that is wrong is late every time.
    #[track_caller]
    fn mostly(what: &str, mut in_time: impl FnMut() -> bool) {
        assert!((0..5).any(|_| in_time()), "{what}: five times late by more than a tenth");
    }

    #[test]
    fn a_delay_is_kept_within_a_tenth_and_the_order_too() {
        let (direction, seen, counters) = start(&Impairment { delay: 20 * MS, ..Impairment::default() });
        let mut sent = 0;
        mostly("20 ms", || {
            for n in sent..sent + 20 {
                direction.carry(0, frames(n..n + 1, 60));
                std::thread::park_timeout(Duration::from_millis(2));
            }
            let seen = seen.wait(sent + 20);
            assert_eq!(numbers(&seen), (0..sent + 20).collect::<Vec<_>>());
            let mut took: Vec<_> = seen[sent..].iter().map(|(frame, at)| at.duration_since(frame.at)).collect();
            took.sort();
            sent += 20;
            assert!(took[0] >= Duration::from_millis(20), "{:?}", took[0]);
            took[10] <= Duration::from_millis(22)
        });
        assert_eq!((counters.read().frames, direction.waiting()), (sent as u64, 0));
    }

    #[test]
    fn a_rate_is_kept_in_real_time() {
        mostly("200 frames at 1 ms", || {
            let (direction, seen, _) = start(&Impairment { rate: 8_000_000, ..Impairment::default() });
            let begin = Instant::now();
            direction.carry(0, frames(0..200, 1000));
            let took = seen.wait(200)[199].1 - begin;
            assert!(took >= Duration::from_millis(200), "{took:?}");
            took <= Duration::from_millis(220)
        });
    }

    #[test]
    fn the_queue_is_bounded_and_its_tail_is_dropped() {
        let plan = Impairment { delay: 50 * MS, limit: 3, ..Impairment::default() };
        let (direction, seen, counters) = start(&plan);
        direction.carry(0, frames(0..5, 60));
        assert_eq!((direction.waiting(), counters.read().no_room), (3, 2));
        assert_eq!(numbers(&seen.wait(3)), [0, 1, 2]);
    }

    #[test]
    fn who_jumps_ahead_overtakes_those_who_wait() {
        let plan = Impairment { delay: 50 * MS, reorder: 1.0, gap: 3, ..Impairment::default() };
        let (direction, seen, counters) = start(&plan);
        direction.carry(0, frames(0..6, 60));
        assert_eq!(numbers(&seen.wait(6)), [2, 5, 0, 1, 3, 4]);
        assert_eq!(counters.read().reordered, 2);
    }

    #[test]
    fn loss_and_duplication_alone_need_no_thread() {
        let (direction, seen, counters) = start(&Impairment { duplicate: 1.0, ..Impairment::default() });
        assert!(lock(&direction.thread).is_none());
        direction.carry(7, frames(0..2, 60));
        assert_eq!(numbers(&seen.wait(4)), [0, 0, 1, 1]);
        assert_eq!((counters.read().frames, counters.read().duplicated), (2, 2));
        let (direction, seen, counters) = start(&Impairment { loss: 0.1, ..Impairment::default() });
        for n in 0..100 {
            direction.carry(n % 2, frames(0..100, 60));
        }
        let lost = counters.read().lost;
        assert!((900..=1100).contains(&lost), "{lost}");
        assert_eq!(seen.wait(0).len() as u64, 10_000 - lost);
    }

    #[test]
    fn an_end_drops_what_waits_and_what_comes_later_and_counts_that() {
        for (plan, waiting) in [
            (Impairment { delay: 3_600_000 * MS, ..Impairment::default() }, 5),
            (Impairment { loss: 1e-9, ..Impairment::default() }, 0),
        ] {
            let (direction, seen, counters) = start(&plan);
            direction.carry(0, frames(0..5, 60));
            assert_eq!(direction.waiting(), waiting);
            direction.end();
            direction.carry(0, frames(5..7, 60));
            assert_eq!((direction.waiting(), seen.wait(0).len()), (0, 5 - waiting));
            let counted = counters.read();
            assert_eq!((counted.frames, counted.bytes, counted.unplugged), (7, 7 * 60, 2), "{plan:?}");
        }
    }
}
