//! Frames that wait for their time: bounded, ordered by when they are due, and in the order of arrival where that is
//! the same.
//!
//! Pure; who waits for the time is `direction`. Its memory grows to the most that ever waited and stays.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::impair::Nanos;

/// The queue of one direction.
#[derive(Debug)]
pub(crate) struct DueQueue<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    limit: usize,
    arrivals: u64,
}

#[derive(Debug)]
struct Entry<T> {
    due: Nanos,
    arrival: u64,
    what: T,
}

impl<T> DueQueue<T> {
    pub(crate) fn new(limit: usize) -> Self {
        DueQueue { heap: BinaryHeap::new(), limit, arrivals: 0 }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.heap.len() >= self.limit
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Adds one, which the caller has found room for.
    pub(crate) fn push(&mut self, due: Nanos, what: T) {
        self.arrivals += 1;
        self.heap.push(Reverse(Entry { due, arrival: self.arrivals, what }));
    }

    /// When the first is due.
    pub(crate) fn next_due(&self) -> Option<Nanos> {
        self.heap.peek().map(|Reverse(first)| first.due)
    }

    /// Takes the first, if its time has come.
    pub(crate) fn pop_due(&mut self, now: Nanos) -> Option<T> {
        if self.next_due()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(first)| first.what)
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.heap.clear();
    }
}

impl<T> Entry<T> {
    fn key(&self) -> (Nanos, u64) {
        (self.due, self.arrival)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drained(queue: &mut DueQueue<usize>, now: Nanos) -> Vec<usize> {
        std::iter::from_fn(|| queue.pop_due(now)).collect()
    }

    #[test]
    fn only_what_is_due_comes_out() {
        let mut queue = DueQueue::new(3);
        for (due, what) in [(30, 0), (10, 1), (20, 2)] {
            assert!(!queue.is_full());
            queue.push(due, what);
        }
        assert!(queue.is_full());
        assert_eq!((queue.next_due(), queue.pop_due(9)), (Some(10), None));
        assert_eq!(drained(&mut queue, 20), [1, 2]);
        assert_eq!((queue.len(), queue.next_due()), (1, Some(30)));
        queue.clear();
        assert_eq!(queue.next_due(), None);
    }

    proptest! {
        #[test]
        fn it_is_a_stable_sort_by_time(dues in prop::collection::vec(0_u64..20, 0..200)) {
            let mut queue = DueQueue::new(dues.len());
            for (what, due) in dues.iter().enumerate() {
                queue.push(*due, what);
            }
            let mut sorted: Vec<_> = (0..dues.len()).collect();
            sorted.sort_by_key(|what| dues[*what]);
            prop_assert_eq!(drained(&mut queue, 20), sorted);
        }
    }
}
