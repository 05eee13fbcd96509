//! Bounds that may be moved while they are in force, and levels that may be read beside.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// A bound that whoever has a clone may move; the driver that obeys it is woken by that. At 0 nothing new begins; a bound of records
/// in a batch counts as 1 there.
#[derive(Clone, Debug)]
pub struct LiveBound(Arc<watch::Sender<usize>>);

impl LiveBound {
    /// A bound.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self(Arc::new(watch::Sender::new(bound)))
    }

    /// What is in force.
    #[must_use]
    pub fn get(&self) -> usize {
        *self.0.borrow()
    }

    /// Moves it. What is under way by the old bound ends as it was begun.
    pub fn set(&self, bound: usize) {
        self.0.send_if_modified(|current| std::mem::replace(current, bound) != bound);
    }

    /// Keeps it at the least of these, for as long as this is polled: several who bound one thing know nothing of each other.
    pub async fn follow_least(&self, of: &[Self]) {
        let mut watched: Vec<watch::Receiver<usize>> = of.iter().map(Self::watch).collect();
        if watched.is_empty() {
            return;
        }
        loop {
            let least = watched.iter_mut().map(|bound| *bound.borrow_and_update()).min();
            self.set(least.unwrap_or_default());
            // Never an error: `of` holds the other ends.
            let _ = futures::future::select_all(watched.iter_mut().map(|bound| Box::pin(bound.changed()))).await;
        }
    }

    /// Tells when it moves.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<usize> {
        self.0.subscribe()
    }
}

impl From<usize> for LiveBound {
    fn from(bound: usize) -> Self {
        Self::new(bound)
    }
}

/// How full a driver is. Written by its observer, read by anyone.
#[derive(Clone, Debug, Default)]
pub struct Levels(Arc<Cells>);

#[derive(Debug, Default)]
struct Cells {
    in_flight: AtomicUsize,
    held_records: AtomicUsize,
    held_bytes: AtomicUsize,
}

/// One look at [`Levels`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Records that are being worked on, or that a flush is writing.
    pub in_flight: usize,
    /// Records that were read and are not yet done, those in flight among them.
    pub held_records: usize,
    /// Their bytes.
    pub held_bytes: usize,
}

impl Levels {
    /// Now.
    #[must_use]
    pub fn look(&self) -> Level {
        let read = |cell: &AtomicUsize| cell.load(Ordering::Relaxed);
        Level {
            in_flight: read(&self.0.in_flight),
            held_records: read(&self.0.held_records),
            held_bytes: read(&self.0.held_bytes),
        }
    }

    /// So many are being worked on.
    pub fn in_flight(&self, records: usize) {
        self.0.in_flight.store(records, Ordering::Relaxed);
    }

    /// So many are held.
    pub fn held(&self, records: usize, bytes: usize) {
        self.0.held_records.store(records, Ordering::Relaxed);
        self.0.held_bytes.store(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_wakes_only_when_it_moves() {
        let bound = LiveBound::new(1);
        let mut watching = bound.watch();
        bound.clone().set(1);
        assert!(!watching.has_changed().unwrap());
        for moved in [7, 0] {
            bound.clone().set(moved);
            assert!(watching.has_changed().unwrap());
            assert_eq!((*watching.borrow_and_update(), bound.get()), (moved, moved));
        }
    }
    #[tokio::test]
    async fn the_least_of_several_is_in_force() {
        let parts = [LiveBound::new(50), LiveBound::new(usize::MAX)];
        let bound = LiveBound::new(9);
        let mut watching = bound.watch();
        let moving = async {
            for (part, value, least) in [(1, 4, 4), (0, 0, 0), (1, 100, 0), (0, 60, 60), (0, 7, 7)] {
                parts[part].set(value);
                let _ = watching.wait_for(|now| *now == least).await;
            }
        };
        tokio::select! {
            () = bound.follow_least(&parts) => unreachable!("it follows for ever"),
            () = moving => {}
        }
        assert_eq!(bound.get(), 7);
    }
}
