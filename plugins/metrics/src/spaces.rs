//! The namespaces in which the plugin acts, for whoever collects. It keeps none of them: they are cookies.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pernet_plugin_api::NetCookie;

/// A namespace.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) cookie: NetCookie,
    /// So many series it had last; none before the first time.
    series: AtomicUsize,
    /// It has been asked, and has not answered yet.
    asked: AtomicBool,
}

impl Space {
    pub(crate) fn series(&self) -> usize {
        self.series.load(Ordering::Relaxed)
    }

    pub(crate) fn set_series(&self, series: usize) {
        self.series.store(series, Ordering::Relaxed);
    }

    /// Whether it may be asked: whoever is told so does, and says when it is over.
    pub(crate) fn ask(&self) -> bool {
        !self.asked.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn answered(&self) {
        self.asked.store(false, Ordering::Relaxed);
    }
}

/// All of them, in the order in which they came. (Cookies are in no order: each processor has its own stock of them.)
#[derive(Debug, Default)]
pub(crate) struct Spaces(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    places: HashMap<NetCookie, u64>,
    spaces: BTreeMap<u64, Arc<Space>>,
}

impl Spaces {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, cookie: NetCookie) {
        let space = Arc::new(Space { cookie, series: AtomicUsize::new(0), asked: AtomicBool::new(false) });
        let mut state = self.lock();
        let place = state.next;
        state.next += 1;
        state.places.insert(cookie, place);
        state.spaces.insert(place, space);
    }

    pub(crate) fn remove(&self, cookie: NetCookie) {
        let mut state = self.lock();
        if let Some(place) = state.places.remove(&cookie) {
            state.spaces.remove(&place);
        }
    }

    pub(crate) fn has(&self, space: &Arc<Space>) -> bool {
        let state = self.lock();
        let known = state.places.get(&space.cookie).and_then(|place| state.spaces.get(place));
        known.is_some_and(|known| Arc::ptr_eq(known, space))
    }

    pub(crate) fn all(&self) -> Vec<Arc<Space>> {
        self.lock().spaces.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_life_is_another_space() {
        let spaces = Spaces::default();
        spaces.insert(NetCookie(2));
        spaces.insert(NetCookie(1));
        let all = spaces.all();
        assert_eq!(all.iter().map(|space| space.cookie.0).collect::<Vec<_>>(), [2, 1], "in the order of their coming");
        assert!(all[0].ask() && !all[0].ask());
        all[0].answered();
        assert!(all[0].ask());
        spaces.remove(NetCookie(2));
        spaces.insert(NetCookie(2));
        assert!(!spaces.has(&all[0]) && spaces.has(&all[1]));
    }
}
