//! The pool of threads that work inside namespaces.
//!
//! Jobs of one key (a namespace) run one at a time and in order, jobs of different keys in parallel. A thread that is
//! still inside a namespace after its job is brought home; one that cannot come home is ended and replaced. A panic in a
//! job ends that job only. A job that never returns keeps its thread: while all threads are held that way, others are
//! started for the rest, and end when they are no longer needed. Knows nothing of what a job does, and takes no lock but
//! its own queue's, for moments.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pernet_plugin_api::NetCookie;

use super::ns::{self, Pin};
use crate::logging::catalog;

/// When the system has no thread for us.
const AGAIN: Duration = Duration::from_secs(1);

/// How long no job may begin while some are ready, before the threads count as held.
const HELD: Duration = Duration::from_millis(500);

/// How many threads are started beyond the pool's size at most.
const SPARE: usize = 64;

/// What a worker is asked to do.
pub type Job = Box<dyn FnOnce() + Send>;

/// The pool. Dropping it lets queued jobs finish, and does not wait for them.
pub struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// A job is ready, or the pool stops.
    ready: Condvar,
    /// A job is done.
    done: Condvar,
    /// For the keeper: a thread has ended, or jobs are ready and nobody is idle.
    keeper: Condvar,
    home: Arc<Pin>,
}

struct State {
    /// How many threads there are to be.
    size: usize,
    /// What a worker may take now: at most one job per key.
    ready: VecDeque<(Option<NetCookie>, Job)>,
    /// Keys with a job ready or running, with the jobs that wait for their turn.
    keys: HashMap<NetCookie, VecDeque<Job>>,
    waiting: usize,
    running: usize,
    threads: usize,
    /// Threads that wait for `ready`, and callers that wait for `done`: whom nobody waits for is not woken.
    idle: usize,
    draining: usize,
    /// Jobs begun so far.
    begun: u64,
    /// The keeper looks after the ready jobs already.
    watched: bool,
    stopping: bool,
}

impl State {
    fn new(size: usize) -> State {
        State {
            size,
            ready: VecDeque::new(),
            keys: HashMap::new(),
            waiting: 0,
            running: 0,
            threads: 0,
            idle: 0,
            draining: 0,
            begun: 0,
            watched: false,
            stopping: false,
        }
    }
}

impl Workers {
    /// Starts `size` threads (at least one), whose home is the caller's network namespace.
    ///
    /// # Errors
    /// When a thread cannot be started or cannot open its own namespace.
    pub fn new(size: usize) -> io::Result<Workers> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(size.max(1))),
            ready: Condvar::new(),
            done: Condvar::new(),
            keeper: Condvar::new(),
            home: Arc::new(ns::current()?.1),
        });
        let workers = Workers { shared };
        for _ in 0..size.max(1) {
            workers.shared.start_thread()?;
        }
        let shared = Arc::clone(&workers.shared);
        thread::Builder::new().name("worker-keeper".into()).spawn(move || shared.keep())?;
        Ok(workers)
    }

    /// Queues a job of a namespace: after all earlier ones of the same key. `false` when the pool has been stopped.
    pub fn queue(&self, key: NetCookie, job: Job) -> bool {
        self.admit(Some(key), job)
    }

    /// Queues a job that belongs to no namespace.
    pub fn run_anywhere(&self, job: Job) -> bool {
        self.admit(None, job)
    }

    fn admit(&self, key: Option<NetCookie>, job: Job) -> bool {
        let mut state = self.shared.lock();
        if state.stopping {
            return false;
        }
        if let Some(turn) = key.and_then(|key| state.keys.get_mut(&key)) {
            turn.push_back(job);
            state.waiting += 1;
            return true;
        }
        if let Some(key) = key {
            state.keys.insert(key, VecDeque::new());
        }
        state.ready.push_back((key, job));
        let idle = state.idle > 0;
        let unwatched = !idle && !std::mem::replace(&mut state.watched, true);
        drop(state);
        if idle {
            self.shared.ready.notify_one();
        } else if unwatched {
            self.shared.keeper.notify_all();
        }
        true
    }

    /// How many threads it has, beside those that stand in for others that are held.
    #[must_use]
    pub fn size(&self) -> usize {
        self.shared.lock().size
    }

    /// Has it so many threads, at least one, from now on. Those that are too many end when they have nothing to do.
    pub fn set_size(&self, size: usize) {
        self.shared.lock().size = size.max(1);
        self.shared.ready.notify_all();
        self.shared.keeper.notify_all();
    }

    /// Jobs queued and not yet started.
    #[must_use]
    pub fn depth(&self) -> usize {
        let state = self.shared.lock();
        state.ready.len() + state.waiting
    }

    /// Jobs running now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shared.lock().running
    }

    /// Waits until nothing is queued or running. `false` when the time is up first.
    #[must_use]
    pub fn drain(&self, at_most: Duration) -> bool {
        let until = Instant::now() + at_most;
        let mut state = self.shared.lock();
        while state.running + state.waiting + state.ready.len() > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state.draining += 1;
            state = self.shared.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.draining -= 1;
        }
        true
    }

    /// Takes no more jobs and waits until those queued are done. `false` when the time is up first; the rest still runs.
    pub fn stop(&self, at_most: Duration) -> bool {
        self.shared.stop();
        self.drain(at_most)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock, so a poisoned one is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_thread(self: &Arc<Self>) -> io::Result<()> {
        let shared = Arc::clone(self);
        self.lock().threads += 1;
        let started = thread::Builder::new().name("worker".into()).spawn(move || shared.work());
        if started.is_err() {
            self.lock().threads -= 1;
        }
        started.map(drop)
    }

    /// Replaces threads that have ended, and adds to those that are held. A thread of its own does, since a thread begins
    /// where the one that starts it is, and with its rights: a lost one cannot start its own replacement.
    fn keep(self: Arc<Self>) {
        let mut state = self.lock();
        while !(state.stopping && state.ready.is_empty() && state.waiting == 0) {
            if state.threads >= state.size {
                if state.ready.is_empty() || state.threads >= state.size + SPARE {
                    state.watched = false;
                    state = self.keeper.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                state.watched = true;
                let begun = state.begun;
                state = self.keeper.wait_timeout(state, HELD).unwrap_or_else(PoisonError::into_inner).0;
                if state.begun != begun || state.ready.is_empty() {
                    continue;
                }
            }
            let missing = match state.size.saturating_sub(state.threads) {
                0 => state.ready.len().min((state.size + SPARE).saturating_sub(state.threads)),
                lost => lost,
            };
            drop(state);
            let started = (0..missing).try_for_each(|_| self.start_thread());
            state = self.lock();
            if let Err(error) = started {
                tracing::error!(
                    message_id = catalog::THREADS_EXHAUSTED,
                    errno = error.raw_os_error(),
                    "cannot start a worker thread: {error}; tried again in {AGAIN:?}"
                );
                state = self.keeper.wait_timeout(state, AGAIN).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    fn stop(&self) {
        self.lock().stopping = true;
        self.ready.notify_all();
        self.keeper.notify_all();
    }

    /// A worker's life: until the pool stops, or the thread is lost.
    fn work(self: Arc<Self>) {
        ns::take_seat(Arc::clone(&self.home));
        while let Some((key, job)) = self.next() {
            run(job);
            let came_home = ns::home();
            self.finish(key);
            if let Err(error) = came_home {
                tracing::error!(
                    message_id = catalog::OWN_MISTAKE,
                    errno = error.raw_os_error(),
                    "a worker thread could not come home from a namespace: {error}; it is replaced"
                );
                break;
            }
        }
        self.lock().threads -= 1;
        self.keeper.notify_all();
    }

    fn next(&self) -> Option<(Option<NetCookie>, Job)> {
        let mut state = self.lock();
        loop {
            if let Some(next) = state.ready.pop_front() {
                state.running += 1;
                state.begun += 1;
                // Who queued them may have counted on threads that were idle until they took the first of them.
                let unwatched =
                    state.idle == 0 && !state.ready.is_empty() && !std::mem::replace(&mut state.watched, true);
                drop(state);
                if unwatched {
                    self.keeper.notify_all();
                }
                return Some(next);
            }
            // A key that is busy may still have jobs waiting: whoever finishes it makes them ready and takes them.
            // One of those that were added while others were held.
            if state.stopping || state.idle >= state.size {
                return None;
            }
            state.idle += 1;
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// The job is done: the key's next one has its turn.
    fn finish(&self, key: Option<NetCookie>) {
        let mut state = self.lock();
        state.running -= 1;
        if let Some(key) = key {
            match state.keys.get_mut(&key).and_then(VecDeque::pop_front) {
                Some(job) => {
                    state.waiting -= 1;
                    // No wake-up: this thread takes the next job itself, and whoever is awake may be faster.
                    state.ready.push_back((Some(key), job));
                }
                None => drop(state.keys.remove(&key)),
            }
        }
        let draining = state.draining > 0;
        drop(state);
        if draining {
            self.done.notify_all();
        }
    }
}

fn run(job: Job) {
    // A job owns what it touches, and what it shares is behind locks that know poisoning.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
        tracing::error!(message_id = catalog::OWN_MISTAKE, "a job of a worker panicked: {}", text(panic.as_ref()));
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const SOON: Duration = Duration::from_secs(10);

    fn pool(size: usize) -> Workers {
        Workers::new(size).expect("threads can be started")
    }

    #[test]
    fn jobs_of_a_key_run_in_order_and_one_at_a_time() {
        let pool = pool(4);
        let (send, receive) = mpsc::channel();
        for n in 0..1000u64 {
            let send = send.clone();
            assert!(pool.queue(NetCookie(n % 3), Box::new(move || send.send(n).expect("it is received"))));
        }
        assert!(pool.drain(SOON));
        drop(send);
        let ran: Vec<_> = receive.iter().collect();
        assert_eq!(ran.len(), 1000);
        for key in 0..3 {
            let of_key: Vec<_> = ran.iter().filter(|n| *n % 3 == key).collect();
            assert!(of_key.is_sorted(), "{of_key:?}");
        }
    }

    #[test]
    fn a_key_that_is_busy_holds_up_no_other() {
        let pool = pool(2);
        let (release, held) = mpsc::channel::<()>();
        let (send, receive) = mpsc::channel();
        pool.queue(NetCookie(1), Box::new(move || assert!(held.recv().is_err())));
        for key in [1, 1, 2, 3] {
            let send = send.clone();
            pool.queue(NetCookie(key), Box::new(move || send.send(key).expect("it is received")));
        }
        let first: Vec<_> = (0..2).map(|_| receive.recv_timeout(SOON)).collect();
        assert_eq!(first, [Ok(2), Ok(3)]);
        // The last of the two may still be on its way out of its job.
        let deadline = Instant::now() + SOON;
        while pool.running() > 1 && Instant::now() < deadline {
            thread::yield_now();
        }
        assert_eq!((pool.depth(), pool.running()), (2, 1));
        assert!(!pool.drain(Duration::from_millis(1)));
        drop(release);
        assert!(pool.drain(SOON));
        assert_eq!(receive.try_iter().collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn jobs_that_never_return_hold_up_no_other() {
        let pool = pool(2);
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        for key in 0..10 {
            let held = Arc::clone(&held);
            pool.queue(NetCookie(key), Box::new(move || assert!(held.lock().expect("not poisoned").recv().is_err())));
        }
        let (send, receive) = mpsc::channel();
        pool.run_anywhere(Box::new(move || send.send("served").expect("it is received")));
        assert_eq!(receive.recv_timeout(SOON), Ok("served"));
        drop(release);
        assert!(pool.drain(SOON));
        // Those that were added have gone.
        let deadline = Instant::now() + SOON;
        while pool.shared.lock().threads > 2 && Instant::now() < deadline {
            thread::yield_now();
        }
        assert_eq!(pool.shared.lock().threads, 2);
    }

    #[test]
    fn a_panic_ends_its_job_only() {
        let pool = pool(1);
        let (send, receive) = mpsc::channel();
        pool.queue(NetCookie(1), Box::new(|| panic!("on purpose")));
        pool.queue(NetCookie(1), Box::new(move || send.send("next").expect("it is received")));
        assert_eq!(receive.recv_timeout(SOON), Ok("next"));
    }

    #[test]
    fn a_stopped_pool_does_what_it_has_and_takes_no_more() {
        let pool = pool(2);
        let (send, receive) = mpsc::channel();
        for n in 0..100u64 {
            let send = send.clone();
            pool.queue(NetCookie(n / 50), Box::new(move || send.send(n).expect("it is received")));
        }
        assert!(pool.stop(SOON));
        assert!(!pool.queue(NetCookie(1), Box::new(|| ())) && !pool.run_anywhere(Box::new(|| ())));
        drop(send);
        assert_eq!(receive.iter().count(), 100);
    }
}
