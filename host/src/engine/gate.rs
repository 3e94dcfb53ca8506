//! The gate of the pernet list: `pernet_ops_rwsem`.
//!
//! Many readers (setups, deaths, link events) or one writer (registration, commit of a reload). Unlike the kernel's,
//! no reader ever waits here: while a writer waits or works, admission is refused, and the caller keeps the job for
//! later. So no worker is blocked, and the writer has only the jobs that already have their token to wait for, with a
//! deadline. What is guarded is a snapshot that a reader takes along: nothing global is locked while hooks run.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The writer's deadline passed while jobs were still running. Admission is open again; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Jobs that still hold a read token; 0 if it was another writer.
    pub readers: usize,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.readers {
            0 => f.write_str("another change of the plugin list is still going on; try again when it is done"),
            n => write!(f, "{n} jobs in namespaces did not end in time; see which hook hangs, then try again"),
        }
    }
}

impl std::error::Error for Blocked {}

struct State<T> {
    readers: usize,
    writer: bool,
    value: Arc<T>,
}

/// A value that many may read, each as the snapshot of its admission, or one may replace.
pub(super) struct Gate<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Gate<T> {
    pub(super) fn new(value: T) -> Arc<Self> {
        let state = State { readers: 0, writer: false, value: Arc::new(value) };
        Arc::new(Gate { state: Mutex::new(state), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is current, without admission: for a look from outside.
    pub(super) fn current(&self) -> Arc<T> {
        self.lock().value.clone()
    }

    /// Admission; `None` while a writer waits or works.
    pub(super) fn read(self: &Arc<Self>) -> Option<Admission<T>> {
        let mut state = self.lock();
        if state.writer {
            return None;
        }
        state.readers += 1;
        Some(Admission { gate: self.clone(), value: state.value.clone() })
    }

    /// Stops admission, then waits for the readers to drain. On failure admission is open again.
    pub(super) fn write(self: &Arc<Self>, deadline: Duration) -> Result<Exclusive<T>, Blocked> {
        let end = Instant::now().checked_add(deadline);
        let left = || end.map_or(deadline, |end| end.saturating_duration_since(Instant::now()));
        let mut state = self.lock();
        state = self.wait(state, left(), |state| state.writer);
        if state.writer {
            return Err(Blocked { readers: 0 });
        }
        state.writer = true;
        state = self.wait(state, left(), |state| state.readers > 0);
        if state.readers > 0 {
            let readers = state.readers;
            state.writer = false;
            self.changed.notify_all();
            return Err(Blocked { readers });
        }
        Ok(Exclusive { gate: self.clone() })
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State<T>>,
        left: Duration,
        busy: impl Fn(&State<T>) -> bool,
    ) -> MutexGuard<'a, State<T>> {
        let waited = self.changed.wait_timeout_while(state, left, |state| busy(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// A reader's place inside; dropping it leaves.
pub(super) struct Admission<T> {
    gate: Arc<Gate<T>>,
    pub(super) value: Arc<T>,
}

impl<T> Drop for Admission<T> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.readers -= 1;
        if state.readers == 0 {
            self.gate.changed.notify_all();
        }
    }
}

/// The writer's place; dropping it opens admission.
pub(super) struct Exclusive<T> {
    gate: Arc<Gate<T>>,
}

impl<T> Exclusive<T> {
    pub(super) fn current(&self) -> Arc<T> {
        self.gate.current()
    }

    pub(super) fn replace(&self, value: impl Into<Arc<T>>) {
        self.gate.lock().value = value.into();
    }
}

impl<T> Drop for Exclusive<T> {
    fn drop(&mut self) {
        self.gate.lock().writer = false;
        self.gate.changed.notify_all();
    }
}
