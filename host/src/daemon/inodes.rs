//! Numbers of files whose content is made when it is asked for.
//!
//! A file's number is made from what it is, so that it is the same in a listing, at each lookup and after a restart. What
//! stands behind a number is kept for as long as the kernel may use it: until it has forgotten every lookup.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::engine::{Failure, ROOT_INO};

/// The files of one mount that the kernel knows.
pub(super) struct Inodes<N> {
    root: N,
    /// Held for a look-up only.
    known: Mutex<HashMap<u64, Known<N>>>,
}

struct Known<N> {
    node: N,
    lookups: u64,
}

impl<N: Clone + Eq + Hash> Inodes<N> {
    pub(super) fn new(root: N) -> Self {
        Inodes { root, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Known<N>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands behind a number.
    pub(super) fn node(&self, ino: u64) -> Result<N, Failure> {
        if ino == ROOT_INO {
            return Ok(self.root.clone());
        }
        let stale = || Failure::new(libc::ESTALE, "this file is not known any more; open it anew");
        self.lock().get(&ino).map(|known| known.node.clone()).ok_or_else(stale)
    }

    /// A file's number, for a listing.
    pub(super) fn number(&self, node: &N) -> u64 {
        if *node == self.root {
            return ROOT_INO;
        }
        let known = self.lock();
        let mut ino = hashed(node);
        while known.get(&ino).is_some_and(|other| other.node != *node) {
            ino = ino.wrapping_add(1).max(ROOT_INO + 1);
        }
        ino
    }

    /// A file has been looked up: the kernel knows its number from here on.
    pub(super) fn look_up(&self, node: &N) -> u64 {
        if *node == self.root {
            return ROOT_INO;
        }
        let mut known = self.lock();
        let mut ino = hashed(node);
        loop {
            match known.entry(ino) {
                Entry::Vacant(free) => {
                    free.insert(Known { node: node.clone(), lookups: 1 });
                    return ino;
                }
                Entry::Occupied(mut here) if here.get().node == *node => {
                    here.get_mut().lookups += 1;
                    return ino;
                }
                // Two files with one number are as good as never, and still not to be taken for each other.
                Entry::Occupied(_) => ino = ino.wrapping_add(1).max(ROOT_INO + 1),
            }
        }
    }

    /// The kernel has forgotten so many lookups.
    pub(super) fn forget(&self, ino: u64, lookups: u64) {
        if let Entry::Occupied(mut known) = self.lock().entry(ino) {
            known.get_mut().lookups = known.get().lookups.saturating_sub(lookups);
            if known.get().lookups == 0 {
                known.remove();
            }
        }
    }

    /// How many files the kernel knows.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }
}

fn hashed(node: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    hasher.finish().max(ROOT_INO + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All files have the same number at first.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Same(&'static str);

    impl Hash for Same {
        fn hash<H: Hasher>(&self, _: &mut H) {}
    }

    #[test]
    fn a_number_is_known_until_all_its_lookups_are_forgotten() {
        let inodes = Inodes::new("root");
        assert_eq!((inodes.look_up(&"root"), inodes.number(&"root")), (1, 1));
        let ino = inodes.number(&"a");
        assert_eq!((inodes.look_up(&"a"), inodes.look_up(&"a"), inodes.number(&"a")), (ino, ino, ino));
        inodes.forget(ino, 1);
        assert_eq!(inodes.node(ino), Ok("a"));
        inodes.forget(ino, 1);
        assert_eq!(inodes.node(ino).map_err(|f| f.errno), Err(libc::ESTALE));
        inodes.forget(ino, 7);
        assert_eq!((inodes.len(), inodes.node(1)), (0, Ok("root")));
    }

    #[test]
    fn two_files_never_have_one_number() {
        let inodes = Inodes::new(Same("root"));
        let (a, b) = (inodes.look_up(&Same("a")), inodes.look_up(&Same("b")));
        assert_ne!(a, b);
        assert_eq!((inodes.node(a), inodes.node(b)), (Ok(Same("a")), Ok(Same("b"))));
        inodes.forget(a, 1);
        assert_eq!(inodes.node(b), Ok(Same("b")));
    }
}
