//! A registered table: `struct ctl_table_header`, with the count of calls that are in it.
//!
//! A table is *coming* until whoever registers it has given its entries their first values: nobody else sees it so
//! long. Unregistered, it lets nobody in any more, and is freed when the last call has come out (K7.6): by whoever
//! waits for that, or where he has given up by the last call itself. Calls run with no lock held.

use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::ctl_kind;
use super::ctl_table::{CtlAt, CtlData, CtlEntry, CtlTable, check_table};
use super::failure::{EDEADLK, ENOENT, ETIMEDOUT, Failure, HookError};
use super::member::Owner;
use super::net::Net;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The tables in whose calls this thread is, the innermost last.
    static INSIDE: RefCell<Vec<Arc<CtlHeader>>> = const { RefCell::new(Vec::new()) };
}

/// A registered table.
pub struct CtlHeader {
    /// Never given again.
    pub id: u64,
    /// The plugin that registered it; none for the daemon's own.
    pub owner: Option<Arc<Owner>>,
    /// Its directory, with `/` between components.
    pub path: String,
    /// Its entries.
    pub entries: Vec<CtlEntry>,
    data: Arc<dyn CtlData>,
    net: Weak<Net>,
    state: Mutex<State>,
    /// The last call has come out.
    empty: Condvar,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// Calls that are in it.
    inside: usize,
    /// Nobody waits for its end any more: the last call frees it.
    abandoned: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// Linked, and seen by nobody.
    #[default]
    Coming,
    Live,
    /// Unlinked.
    Gone,
}

impl CtlHeader {
    /// Checks a table (K7.2) that is to be registered.
    pub(super) fn new(
        net: Weak<Net>,
        owner: Option<Arc<Owner>>,
        path: &str,
        table: CtlTable,
    ) -> Result<Arc<CtlHeader>, Failure> {
        check_table(path, &table.entries)?;
        Ok(Arc::new(CtlHeader {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            owner,
            path: path.to_owned(),
            entries: table.entries,
            data: table.data,
            net,
            state: Mutex::default(),
            empty: Condvar::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The namespace that it is in, while that is there; none for the daemon's own tables.
    #[must_use]
    pub fn net(&self) -> Option<Arc<Net>> {
        self.net.upgrade()
    }

    /// The name of the plugin that registered it.
    #[must_use]
    pub fn plugin(&self) -> &str {
        self.owner.as_ref().map_or("pernetd", |owner| &owner.name)
    }

    pub(super) fn is_of(&self, owner: &Arc<Owner>) -> bool {
        self.owner.as_ref().is_some_and(|known| Arc::ptr_eq(known, owner))
    }

    /// Shown from here on, unless it has been unregistered meanwhile.
    pub(super) fn go_live(&self) {
        let mut state = self.state();
        if state.phase == Phase::Coming {
            state.phase = Phase::Live;
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.state().phase == Phase::Live
    }

    /// Keeps it from being freed while it is given its first values.
    pub(super) fn enter_coming(self: &Arc<Self>) -> Inside {
        self.state().inside += 1;
        Inside::new(self)
    }

    fn enter(self: &Arc<Self>) -> Result<Inside, Failure> {
        let mut state = self.state();
        if state.phase == Phase::Gone {
            let what = format!("the sysctl table {} is unregistered; open what is there now", self.path);
            return Err(Failure::new(ENOENT, what));
        }
        state.inside += 1;
        drop(state);
        Ok(Inside::new(self))
    }

    /// Reads an entry, if the table is still there and `may` (asked then, K7.5) lets it be read.
    pub(super) fn read(
        self: &Arc<Self>,
        entry: usize,
        position: &mut u64,
        count: usize,
        may: impl FnOnce(&CtlEntry) -> Result<(), Failure>,
    ) -> Result<Vec<u8>, Failure> {
        let _inside = self.enter()?;
        may(&self.entries[entry])?;
        ctl_kind::read(&self.entries[entry], &*self.data, &self.at(entry), position, count)
    }

    /// Writes one.
    pub(super) fn write(
        self: &Arc<Self>,
        entry: usize,
        position: &mut u64,
        bytes: &[u8],
        may: impl FnOnce(&CtlEntry) -> Result<(), Failure>,
    ) -> Result<usize, Failure> {
        let _inside = self.enter()?;
        may(&self.entries[entry])?;
        ctl_kind::write(&self.entries[entry], &*self.data, &self.at(entry), position, bytes)
    }

    fn at(&self, entry: usize) -> CtlAt {
        CtlAt { net: self.net(), entry }
    }

    /// Refuses to wait for a call in which this very thread is.
    pub(super) fn check_outside(self: &Arc<Self>) -> Result<(), Failure> {
        if INSIDE.with_borrow(|inside| inside.iter().any(|header| Arc::ptr_eq(header, self))) {
            let what = format!("the sysctl table {} cannot be unregistered by one of its own handlers", self.path);
            return Err(Failure::new(EDEADLK, what));
        }
        Ok(())
    }

    /// Lets nobody in any more: it is taken out of its set.
    pub(super) fn close(&self) {
        self.state().phase = Phase::Gone;
    }

    /// Waits for the calls that are in it, and frees it. It is closed.
    pub(super) fn end(&self, patience: Duration) -> Result<(), Failure> {
        let state = self.state();
        let waited = self.empty.wait_timeout_while(state, patience, |state| state.inside > 0);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if state.inside == 0 {
            drop(state);
            return self.data.free();
        }
        state.abandoned = true;
        let what = format!(
            "the sysctl table {} is unregistered, but {} of its handlers did not return within {patience:?}; it is freed when they do",
            self.path, state.inside
        );
        Err(Failure::new(ETIMEDOUT, what))
    }

    fn leave(&self) {
        let mut state = self.state();
        state.inside -= 1;
        if state.inside > 0 || state.phase != Phase::Gone {
            return;
        }
        let is_mine = std::mem::take(&mut state.abandoned);
        drop(state);
        self.empty.notify_all();
        if !is_mine {
            return;
        }
        if let (Err(failure), Some(net)) = (self.data.free(), self.net()) {
            // Nobody is left who asked for it: it is told to the world.
            let plugin = self.plugin().into();
            net.namespace().noted(&HookError { plugin, hook: "sysctl.free", netns: net.name(), device: None, failure });
        }
    }
}

impl fmt::Debug for CtlHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CtlHeader({} {} of {})", self.id, self.path, self.plugin())
    }
}

/// A call that is in a table. It belongs to its thread.
pub(super) struct Inside(());

impl Inside {
    fn new(header: &Arc<CtlHeader>) -> Inside {
        INSIDE.with_borrow_mut(|inside| inside.push(header.clone()));
        Inside(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // Taken out before it leaves: what frees it may be a plugin's code, which may call again.
        let header = INSIDE.with_borrow_mut(Vec::pop);
        if let Some(header) = header {
            header.leave();
        }
    }
}

/// Whether this thread is in a call of a table that is being unregistered: whoever does that waits for the call, which
/// should not wait for anything of his.
#[must_use]
pub fn in_unregistered_table() -> bool {
    INSIDE.with_borrow(|inside| inside.iter().any(|header| header.state().phase == Phase::Gone))
}
