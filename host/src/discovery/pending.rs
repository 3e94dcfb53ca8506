//! Names that were created and show nothing yet: when to look at each again.
//!
//! `ip netns add` makes a placeholder first and mounts the namespace on it afterwards. The wait doubles from 50 µs to
//! 50 ms and ends after 5 s: a placeholder that never becomes a mount costs nothing from then on, and holds up no other.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_micros(50);
const LONGEST: Duration = Duration::from_millis(50);
const GIVE_UP: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Pending {
    names: HashMap<PathBuf, Wait>,
    due: BTreeSet<(Instant, PathBuf)>,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    since: Instant,
    next: Instant,
    step: Duration,
}

impl Pending {
    /// The name was created now; if it was pending, that begins anew.
    pub(super) fn insert(&mut self, path: PathBuf, now: Instant) {
        self.remove(&path);
        self.set(path, Wait { since: now, next: now + FIRST, step: FIRST });
    }

    /// The name shows something, or is gone.
    pub(super) fn remove(&mut self, path: &Path) {
        if let Some((path, wait)) = self.names.remove_entry(path) {
            self.due.remove(&(wait.next, path));
        }
    }

    /// When to look next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(next, _)| *next)
    }

    /// All names, for when mounts have changed.
    pub(super) fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.names.keys()
    }

    /// Adds those whose time has come, and sets their next time.
    pub(super) fn take_due(&mut self, now: Instant, into: &mut HashSet<PathBuf>) {
        while let Some((_, path)) = self.due.first().filter(|(next, _)| *next <= now) {
            let path = path.clone();
            let Some(wait) = self.names.get(&path).copied() else { break };
            self.remove(&path);
            if now.duration_since(wait.since) < GIVE_UP {
                let step = (wait.step * 2).min(LONGEST);
                self.set(path.clone(), Wait { next: now + step, step, ..wait });
            }
            into.insert(path);
        }
    }

    fn set(&mut self, path: PathBuf, wait: Wait) {
        self.due.insert((wait.next, path.clone()));
        self.names.insert(path, wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_at_less_and_less_and_then_given_up() {
        let start = Instant::now();
        let mut pending = Pending::default();
        pending.insert("/run/netns/a".into(), start);
        let mut looks = Vec::new();
        while let Some(next) = pending.next() {
            let mut due = HashSet::new();
            pending.take_due(next, &mut due);
            assert_eq!(due.len(), 1);
            looks.push(next - start);
        }
        assert_eq!(looks[..4], [50, 150, 350, 750].map(Duration::from_micros));
        assert!(looks.windows(2).all(|pair| pair[1] - pair[0] <= LONGEST));
        assert!(looks.last().is_some_and(|last| *last >= GIVE_UP && *last < GIVE_UP + LONGEST));
        assert!(looks.len() < 120 && pending.all().next().is_none());
    }

    #[test]
    fn each_name_has_its_own_time() {
        let start = Instant::now();
        let mut pending = Pending::default();
        pending.insert("/a".into(), start);
        pending.insert("/b".into(), start + FIRST);
        let mut due = HashSet::new();
        pending.take_due(start + FIRST, &mut due);
        assert_eq!(due, HashSet::from(["/a".into()]));
        pending.remove(Path::new("/a"));
        assert_eq!(pending.next(), Some(start + FIRST * 2));
        assert_eq!(pending.all().collect::<Vec<_>>(), ["/b"]);
    }
}
