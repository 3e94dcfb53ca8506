//! Counts what the whole process allocates, on whichever thread: for a test binary that has one test only.
#![allow(unsafe_code)] // A global allocator is unsafe to write.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: the trait asks that memory be as `System` gives it: everything is passed on as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is handed on; `System` gave the memory.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on; `System` gave the memory.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Does it `count` times over and over until all of them allocated nothing.
///
/// Pools and queues grow to the most that is ever on its way at a time, which a later turn may set anew. What allocated
/// for each frame, or now and then, would do so however often it is tried.
#[track_caller]
pub(crate) fn allocates_nothing(what: &str, count: u64, mut act: impl FnMut()) {
    const TIMES: usize = 10;
    let mut all = Vec::with_capacity(TIMES);
    while all.last() != Some(&0) {
        assert!(all.len() < TIMES, "{what}: {all:?} allocations");
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        (0..count).for_each(|_| act());
        all.push(ALLOCATIONS.load(Ordering::SeqCst) - before);
    }
}
