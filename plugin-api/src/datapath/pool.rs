//! The memory of frames: buffers in a few sizes that come back when a frame is dropped, wherever that is.
//!
//! The kernel's skb cache in spirit: bounded, shared by the devices of an instance, and without any allocation once it
//! is warm. A frame may outlive its device and its instance; the pool then lives until the last is gone.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of the buffers: for ordinary frames, for jumbo frames, for super-frames with their headers.
const SIZES: [usize; 3] = [2048, 10 * 1024, 66 * 1024];
/// Bytes that all buffers of an instance may have together.
const LIMIT: usize = 64 << 20;

/// What a frame of this many bytes fits in is worth copying a frame into, rather than giving a big buffer away.
pub(crate) const SMALL: usize = SIZES[0];

/// An instance's buffers.
pub(crate) struct Pool(Mutex<Inner>);

struct Inner {
    limit: usize,
    /// Bytes of all buffers, free or in use.
    total: usize,
    free: [Vec<Box<[u8]>>; SIZES.len()],
}

impl Pool {
    pub(crate) fn new() -> Self {
        Pool(Mutex::new(Inner { limit: LIMIT, total: 0, free: Default::default() }))
    }

    pub(crate) fn set_limit(&self, bytes: usize) {
        self.lock().limit = bytes;
    }

    /// A buffer of at least this many bytes, with whatever content; `None` if the bound is reached, or none is that big.
    pub(crate) fn get(self: &Arc<Self>, bytes: usize) -> Option<Buffer> {
        let class = SIZES.iter().position(|size| bytes <= *size)?;
        let pooled = self.lock().take(class);
        let bytes = match pooled? {
            Found::Free(bytes) => bytes,
            // Filled with zeros outside the lock; its bytes are counted already.
            Found::Room => vec![0; SIZES[class]].into_boxed_slice(),
        };
        Some(Buffer { bytes, pool: Arc::clone(self) })
    }

    /// Bytes of all buffers, and of those that are free.
    #[cfg(test)]
    pub(crate) fn usage(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.total, inner.free.iter().flatten().map(|b| b.len()).sum())
    }

    /// Nothing of an author runs under this lock, so a poisoned one is sound.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("Pool").field("limit", &inner.limit).field("total", &inner.total).finish_non_exhaustive()
    }
}

enum Found {
    Free(Box<[u8]>),
    Room,
}

impl Inner {
    fn take(&mut self, class: usize) -> Option<Found> {
        if let Some(bytes) = self.free[class].pop() {
            return Some(Found::Free(bytes));
        }
        // What lies idle in other sizes makes room for the size that is needed.
        while self.total + SIZES[class] > self.limit {
            let idle = self.free.iter_mut().rev().find_map(Vec::pop)?;
            self.total -= idle.len();
        }
        self.total += SIZES[class];
        Some(Found::Room)
    }

    /// Takes a buffer back; gives back what the bound no longer allows.
    fn put(&mut self, bytes: Box<[u8]>) -> Option<Box<[u8]>> {
        match SIZES.iter().position(|size| bytes.len() == *size) {
            Some(class) if self.total <= self.limit => {
                self.free[class].push(bytes);
                None
            }
            _ => {
                self.total -= bytes.len();
                Some(bytes)
            }
        }
    }
}

/// A piece of memory of the pool's, which goes back when it is dropped.
pub(crate) struct Buffer {
    pub(crate) bytes: Box<[u8]>,
    pool: Arc<Pool>,
}

impl Buffer {
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // An empty box is no allocation. What is too much is freed after the lock.
        let bytes = std::mem::take(&mut self.bytes);
        let excess = self.pool.lock().put(bytes);
        drop(excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_from_any_thread_and_are_used_again() {
        let pool = Arc::new(Pool::new());
        let first = pool.get(1500).expect("room");
        let place = first.bytes.as_ptr();
        std::thread::spawn(move || drop(first)).join().expect("no panic");
        assert_eq!(pool.usage(), (2048, 2048));
        assert_eq!(pool.get(60).expect("room").bytes.as_ptr(), place, "the same one");
        assert_eq!(pool.get(3000).expect("room").bytes.len(), 10 * 1024);
        assert!(pool.get(67 * 1024).is_none(), "nothing is that big");
    }

    #[test]
    fn the_bound_holds_and_idle_buffers_make_room() {
        let pool = Arc::new(Pool::new());
        pool.set_limit(5 * 2048);
        let held: Vec<Buffer> = std::iter::from_fn(|| pool.get(1)).collect();
        assert_eq!((held.len(), pool.usage().0), (5, 5 * 2048));
        drop(held);
        assert_eq!(pool.usage(), (5 * 2048, 5 * 2048), "kept for the next");
        let big = pool.get(9000).expect("the idle ones go");
        assert_eq!(pool.usage().0, 10 * 1024);
        assert!(pool.get(1).is_none(), "the bound counts what is in use");
        pool.set_limit(0);
        drop(big);
        assert_eq!(pool.usage(), (0, 0), "a lower bound takes effect as buffers come back");
    }
}
