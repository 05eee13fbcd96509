//! Counts what is allocated, for the benches that tell it.

use std::alloc::{GlobalAlloc, Layout};
use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};

use tikv_jemallocator::Jemalloc;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// The programs' allocator, counted.
pub(crate) struct Counted;

// SAFETY: everything is the allocator's; beside it only counters move.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { Jemalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { Jemalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(size.saturating_sub(layout.size()) as u64, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { Jemalloc.realloc(pointer, layout, size) }
    }
}

/// What was allocated by Rust code of this process; libraries in C have their own way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    pub(crate) allocations: u64,
    pub(crate) bytes: u64,
}

impl Sub for Count {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { allocations: self.allocations - earlier.allocations, bytes: self.bytes - earlier.bytes }
    }
}

/// Until now.
pub(crate) fn count() -> Count {
    Count { allocations: ALLOCATIONS.load(Ordering::Relaxed), bytes: BYTES.load(Ordering::Relaxed) }
}
