//! What is due when: one thing for each device, found by its namespace, too.
//!
//! Pure; the times come in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// A device: its namespace's cookie, and its serial, which are never given again.
pub(crate) type Key = (u64, u64);

/// Things in the order of their times.
pub(crate) struct Schedule<T> {
    due: BTreeSet<(Instant, Key)>,
    things: BTreeMap<Key, (Instant, T)>,
}

impl<T> Schedule<T> {
    pub(crate) fn new() -> Self {
        Schedule { due: BTreeSet::new(), things: BTreeMap::new() }
    }

    /// Puts one in, instead of what was there of this device.
    pub(crate) fn put(&mut self, key: Key, at: Instant, thing: T) {
        self.take(key);
        self.due.insert((at, key));
        self.things.insert(key, (at, thing));
    }

    pub(crate) fn take(&mut self, key: Key) -> Option<T> {
        let (at, thing) = self.things.remove(&key)?;
        self.due.remove(&(at, key));
        Some(thing)
    }

    pub(crate) fn has(&self, key: Key) -> bool {
        self.things.contains_key(&key)
    }

    /// Whether there is any in this namespace.
    pub(crate) fn has_in(&self, cookie: u64) -> bool {
        self.things.range((cookie, 0)..=(cookie, u64::MAX)).next().is_some()
    }

    /// Takes all of a namespace out.
    pub(crate) fn take_in(&mut self, cookie: u64) {
        let keys: Vec<Key> = self.things.range((cookie, 0)..=(cookie, u64::MAX)).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| drop(self.take(key)));
    }

    /// When the first is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the first out, if it is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Key, T)> {
        let (_, key) = *self.due.first().filter(|(at, _)| *at <= now)?;
        self.take(key).map(|thing| (key, thing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn things_come_in_the_order_of_their_times_and_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut schedule = Schedule::new();
        schedule.put((1, 1), at(3), "c");
        schedule.put((1, 2), at(1), "a");
        schedule.put((2, 1), at(2), "b");
        schedule.put((2, 1), at(4), "d");
        assert_eq!((schedule.next(), schedule.pop(at(0))), (Some(at(1)), None));
        assert_eq!(schedule.pop(at(9)), Some(((1, 2), "a")));
        assert_eq!(schedule.pop(at(9)), Some(((1, 1), "c")));
        assert!(schedule.has((2, 1)) && !schedule.has_in(1));
        assert_eq!(schedule.pop(at(9)), Some(((2, 1), "d")));
        assert_eq!((schedule.pop(at(9)), schedule.next()), (None, None));
    }

    #[test]
    fn a_namespace_goes_whole() {
        let now = Instant::now();
        let mut schedule = Schedule::new();
        [(1, u64::MAX), (2, 0), (2, 5), (3, 0)].into_iter().for_each(|key| schedule.put(key, now, ()));
        schedule.take_in(2);
        assert_eq!((schedule.has_in(1), schedule.has_in(2), schedule.has_in(3)), (true, false, true));
        schedule.take((3, 0));
        assert_eq!(schedule.pop(now), Some(((1, u64::MAX), ())));
        assert_eq!(schedule.pop(now), None);
    }
}
