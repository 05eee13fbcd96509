//! What belongs to one process: after a fork the child makes its own.
//!
//! A child has one thread, and whatever lock another thread of its parent held stays locked for ever. So nothing of the parent is
//! touched in the child, not even to drop it: a value carries the process that made it, and is found by a pointer that is swapped,
//! not behind a lock.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// One value per process, made when it is first asked for. What an older process made is left alone, and leaked.
pub struct PerProcess<T> {
    current: AtomicPtr<Owned<T>>,
}

struct Owned<T> {
    process: u32,
    value: T,
}

impl<T: Send + Sync + 'static> PerProcess<T> {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { current: AtomicPtr::new(ptr::null_mut()) }
    }

    /// This process's.
    pub fn get_or_make(&self, make: impl FnOnce() -> T) -> &'static T {
        let process = std::process::id();
        let current = self.current.load(Ordering::Acquire);
        if let Some(owned) = whole(current)
            && owned.process == process
        {
            return &owned.value;
        }
        let made = Box::into_raw(Box::new(Owned { process, value: make() }));
        match self.current.compare_exchange(current, made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => whole(made).map_or_else(|| unreachable!("just made"), |owned| &owned.value),
            Err(winner) => {
                // Another thread was first; nobody has seen ours.
                // SAFETY: `made` came from `Box::into_raw` above and was never shared.
                drop(unsafe { Box::from_raw(made) });
                whole(winner).map_or_else(|| unreachable!("a winner is never null"), |owned| &owned.value)
            }
        }
    }
}

impl<T: Send + Sync + 'static> Default for PerProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}

fn whole<T>(pointer: *mut Owned<T>) -> Option<&'static Owned<T>> {
    // SAFETY: every pointer that was ever stored came from `Box::into_raw` and is never freed, since whoever loses the race frees
    // only what was not stored.
    unsafe { pointer.as_ref() }
}

/// The process is about to end: nothing is started any more.
static EXITING: AtomicBool = AtomicBool::new(false);

/// Says that the process is about to end.
pub fn exit_begins() {
    EXITING.store(true, Ordering::SeqCst);
}

/// Whether the process is about to end.
#[must_use]
pub fn is_exiting() -> bool {
    EXITING.load(Ordering::SeqCst)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn all_threads_get_the_same_one() {
        static VALUES: PerProcess<u32> = PerProcess::new();
        static MADE: AtomicU32 = AtomicU32::new(0);
        let threads: Vec<_> =
            (0..8).map(|_| std::thread::spawn(|| *VALUES.get_or_make(|| MADE.fetch_add(1, Ordering::SeqCst)))).collect();
        let seen: Vec<u32> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    }
}
