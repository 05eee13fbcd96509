//! Counts what is allocated, for the benches that tell it.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};

use tikv_jemallocator::Jemalloc;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// What a thread has counted before it adds it to the sums: threads that count in one place at a time slow each other down, and what is
/// measured with them.
const COUNTED_APART: u64 = 256;

thread_local! {
    static OWN: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

fn note(bytes: usize) {
    let counting = |own: &Cell<(u64, u64)>| {
        let (allocations, sum) = own.get();
        let (allocations, sum) = (allocations + 1, sum + bytes as u64);
        if allocations < COUNTED_APART {
            own.set((allocations, sum));
        } else {
            ALLOCATIONS.fetch_add(allocations, Ordering::Relaxed);
            BYTES.fetch_add(sum, Ordering::Relaxed);
            own.set((0, 0));
        }
    };
    // A thread that ends allocates a little more, which nobody misses.
    let _ = OWN.try_with(counting);
}

/// The programs' allocator, counted.
pub(crate) struct Counted;

// SAFETY: everything is the allocator's; beside it only counters move.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller promises.
        unsafe { Jemalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { Jemalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size.saturating_sub(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { Jemalloc.realloc(pointer, layout, size) }
    }
}

/// What was allocated by Rust code of this process, but for a few of each thread; libraries in C have their own way.
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
