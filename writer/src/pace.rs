//! The sink's pace while somebody recalls.
//!
//! Promises: while nobody recalls, the sink never rests. While somebody does, it rests after each flush, so that flushes take the
//! configured share of its time; each rest is bounded, so that a slow flush is not followed by an endless one. Nothing here is a
//! lock: a recall waits for no flush, and a flush for no recall.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use memori_schemas::Micros;

/// Somebody recalls as long as the last one ended no longer ago.
const STILL_US: i64 = 200_000;
/// A rest ends after this.
const LONGEST_REST: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct Seen {
    reading: AtomicUsize,
    ended_at_us: AtomicI64,
}

/// Who recalls. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Readers(Arc<Seen>);

/// One recall under way.
#[derive(Debug)]
pub struct Reading(Readers);

impl Readers {
    /// One begins; it ends when the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> Reading {
        self.0.reading.fetch_add(1, Ordering::Relaxed);
        Reading(self.clone())
    }

    fn any(&self, now_us: i64) -> bool {
        self.0.reading.load(Ordering::Relaxed) > 0 || now_us - self.0.ended_at_us.load(Ordering::Relaxed) < STILL_US
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.0.ended_at_us.store(Micros::now().0, Ordering::Relaxed);
        self.0.0.reading.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How fast a sink goes.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Who recalls from the same store.
    pub readers: Readers,
    /// Of its time, while somebody recalls; 100: it never rests.
    pub share_percent: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { readers: Readers::default(), share_percent: 100 }
    }
}

impl Pace {
    /// How long to rest after a flush of `took`.
    fn rest_after(&self, took: Duration, now_us: i64) -> Duration {
        let share = self.share_percent.clamp(1, 100);
        if share == 100 || !self.readers.any(now_us) {
            return Duration::ZERO;
        }
        (took * (100 - share) / share).min(LONGEST_REST)
    }

    /// Rests after a flush of `took`, where it must.
    pub async fn rest(&self, took: Duration) {
        let rest = self.rest_after(took, Micros::now().0);
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(60);

    #[test]
    fn it_rests_in_proportion_and_within_bounds_while_somebody_recalls() {
        let pace = Pace { share_percent: 25, ..Pace::default() };
        let now = Micros::now().0;
        assert_eq!(pace.rest_after(TOOK, now), Duration::ZERO, "nobody recalls");
        let reading = pace.readers.clone().enter();
        assert_eq!(pace.rest_after(TOOK, now), TOOK * 3);
        assert_eq!(pace.rest_after(Duration::from_secs(30), now), LONGEST_REST);
        drop(reading);
        let ended = Micros::now().0;
        assert_eq!(pace.rest_after(TOOK, ended), TOOK * 3, "somebody did a moment ago");
        assert_eq!(pace.rest_after(TOOK, ended + STILL_US), Duration::ZERO);
    }

    #[test]
    fn a_full_share_never_rests() {
        let pace = Pace::default();
        let _reading = pace.readers.enter();
        assert_eq!(pace.rest_after(TOOK, Micros::now().0), Duration::ZERO);
    }
}
