//! A scrape: every namespace is asked, a few at a time, and what they say becomes one text.
//!
//! Namespaces are read on the daemon's workers, as work that waits for its turn there. At most [`AT_ONCE`] of it is queued,
//! so that a new namespace's setup waits for a few of them and not for all. Who does not answer within [`PATIENCE`] (a hook
//! hangs there) is missing in this scrape, and is not asked again before it has answered. Whoever asks while a scrape is
//! being made gets that one.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pernet_plugin_api::Figures;
use pernet_plugin_api::prelude::*;

use crate::config::Settings;
use crate::encode::Encoder;
use crate::families::Body;
use crate::globs::Globs;
use crate::read::Raw;
use crate::spaces::{Space, Spaces};

const AT_ONCE: usize = 4;
/// Who takes longer no longer counts among those few.
const SLOW: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(2);
/// Of the memory that namespaces are read into, so much is kept.
const KEPT: usize = 2 * AT_ONCE;

/// Makes scrapes, one at a time.
pub(crate) struct Collector {
    host: Host,
    spaces: Arc<Spaces>,
    timeout: Duration,
    metrics: Globs,
    devices: Globs,
    max_series: usize,
    state: Mutex<State>,
    /// A scrape is done, or there will be none any more.
    done: Condvar,
    memory: Arc<Mutex<Vec<Vec<u8>>>>,
    /// That an older daemon tells nothing of itself was logged.
    complained: AtomicBool,
}

#[derive(Default)]
struct State {
    /// How to reach who makes one now.
    running: Option<Sender<Answer>>,
    /// Scrapes so far.
    count: u64,
    /// Whoever waits for the one that is being made, and it, when it is.
    waiting: usize,
    body: Option<Arc<Body>>,
    /// At rest.
    encoder: Option<Box<Encoder>>,
    stopping: bool,
}

enum Answer {
    /// `None`: it is gone, or the daemon does nothing there at the moment.
    Of(Arc<Space>, Option<Raw>),
    Stop,
}

/// A question to a namespace. However it ends, that is told.
struct Question {
    space: Arc<Space>,
    answer: Sender<Answer>,
    raw: Option<Raw>,
}

impl Question {
    fn put(&mut self, net: &Net<'_>, bytes: Vec<u8>) {
        match Raw::read(net, bytes) {
            Ok(raw) => self.raw = Some(raw),
            Err(e) => tracing::warn!(netns = net.name(), "not in this scrape: {e}"),
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.space.answered();
        // Nobody listens any more when it is too late.
        let _ = self.answer.send(Answer::Of(Arc::clone(&self.space), self.raw.take()));
    }
}

impl Collector {
    pub(crate) fn new(host: Host, spaces: Arc<Spaces>, settings: &Settings) -> Self {
        let &Settings { timeout, max_series, .. } = settings;
        let (metrics, devices) = (settings.metrics.clone(), settings.devices.clone());
        let (state, done, memory) = (Mutex::default(), Condvar::new(), Arc::default());
        Collector {
            host,
            spaces,
            timeout,
            metrics,
            devices,
            max_series,
            state,
            done,
            memory,
            complained: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No more scrapes; who waits for one is told.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        if let Some(running) = &state.running {
            let _ = running.send(Answer::Stop);
        }
        drop(state);
        self.done.notify_all();
    }

    /// A scrape; none when the plugin ends.
    pub(crate) fn collect(&self) -> Option<Arc<Body>> {
        let mut state = self.lock();
        if state.stopping {
            return None;
        }
        if state.running.is_some() {
            return self.wait(state);
        }
        let (sender, answers) = channel();
        state.running = Some(sender.clone());
        let encoder = state.encoder.take();
        drop(state);
        // Whatever becomes of it, nobody waits for it in vain.
        let mut turn = Turn { collector: self, encoder, body: None };
        let new = || Box::new(Encoder::new(&self.metrics, &self.devices, self.max_series));
        let encoder = turn.encoder.get_or_insert_with(new);
        turn.body = self.scrape(encoder, &sender, &answers).map(Arc::new);
        turn.body.clone()
    }

    fn wait(&self, mut state: MutexGuard<'_, State>) -> Option<Arc<Body>> {
        let before = state.count;
        state.waiting += 1;
        while state.count == before && !state.stopping {
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        let body = state.body.clone();
        if state.waiting == 0 {
            state.body = None;
        }
        body
    }

    fn scrape(&self, encoder: &mut Encoder, sender: &Sender<Answer>, answers: &Receiver<Answer>) -> Option<Body> {
        let began = Instant::now();
        let until = began + self.timeout;
        let spaces = self.spaces.all();
        encoder.begin(&self.figures(), &spaces);
        let mut next = spaces.iter();
        let mut asked: HashMap<u64, Instant> = HashMap::new();
        loop {
            let now = Instant::now();
            let quick = asked.values().filter(|since| now < **since + SLOW).count();
            if now < until && quick < AT_ONCE && next.len() > 0 {
                for space in next.by_ref().take(AT_ONCE - quick) {
                    if self.ask(space, sender) {
                        asked.insert(space.cookie.0, now);
                    } else {
                        encoder.missing();
                    }
                }
                continue;
            }
            asked.retain(|_, since| {
                let waits = now < until.min(*since + PATIENCE);
                if !waits {
                    encoder.missing();
                }
                waits
            });
            if now >= until || (asked.is_empty() && next.len() == 0) {
                next.for_each(|_| encoder.missing());
                return Some(encoder.end(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)));
            }
            match answers.recv_timeout(self.next_look(&asked, next.len() > 0, now).min(until - now)) {
                // What comes too late has been counted as missing.
                Ok(Answer::Of(space, raw)) if asked.remove(&space.cookie.0).is_some() => {
                    self.take(encoder, &space, raw)
                }
                Ok(Answer::Of(..)) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Answer::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn figures(&self) -> Figures {
        self.host.figures().unwrap_or_else(|e| {
            if !self.complained.swap(true, Ordering::Relaxed) {
                tracing::warn!("pernetd's own figures are missing: {e}");
            }
            Figures::default()
        })
    }

    /// When somebody becomes slow, or has been waited for long enough.
    fn next_look(&self, asked: &HashMap<u64, Instant>, more: bool, now: Instant) -> Duration {
        let looks = asked.values().flat_map(|since| {
            let slow = (more && *since + SLOW > now).then_some(*since + SLOW);
            [slow, Some(*since + PATIENCE)].into_iter().flatten()
        });
        looks.min().map_or(PATIENCE, |look| look.saturating_duration_since(now))
    }

    fn take(&self, encoder: &mut Encoder, space: &Arc<Space>, raw: Option<Raw>) {
        match raw {
            Some(raw) => {
                encoder.add(space, &raw);
                let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
                if memory.len() < KEPT {
                    memory.push(raw.into_memory());
                }
            }
            None if self.spaces.has(space) => encoder.missing(),
            None => {}
        }
    }

    /// Has a namespace be read; false if it still is since the last time.
    fn ask(&self, space: &Arc<Space>, answer: &Sender<Answer>) -> bool {
        if !space.ask() {
            return false;
        }
        let mut question = Question { space: Arc::clone(space), answer: answer.clone(), raw: None };
        let memory = Arc::clone(&self.memory);
        let work = move |net: &Net<'_>| {
            let bytes = memory.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
            question.put(net, bytes);
        };
        if let Err(e) = self.host.defer(space.cookie, work) {
            tracing::debug!(cookie = space.cookie.0, "not asked: {e}");
        }
        true
    }
}

/// The right to make a scrape.
struct Turn<'a> {
    collector: &'a Collector,
    encoder: Option<Box<Encoder>>,
    body: Option<Arc<Body>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.collector.lock();
        state.running = None;
        state.count += 1;
        if !std::thread::panicking() {
            state.encoder = self.encoder.take();
        }
        // Nobody keeps it but who sends it.
        state.body = if state.waiting > 0 { self.body.take() } else { None };
        drop(state);
        self.collector.done.notify_all();
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
