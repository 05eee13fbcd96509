//! How a replay stands back beside live events: a few of its own at a time, with a pause until the next few.
//!
//! Promises: while live events come, no more than so many in a second, all of a turn close together, so that the log, the writer and the
//! store are left alone in between; a second after the last live event it goes on as fast as it can. Who reads the generation is
//! not kept waiting by this: its events are the present of theirs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// From one turn to the next.
const PERIOD: Duration = Duration::from_millis(500);
/// So long after the last live event none is expected.
const LIVE_FOR: Duration = Duration::from_secs(1);

/// Whether live events come, shared by all workers of a process.
#[derive(Clone, Debug)]
pub(crate) struct Present(Arc<(Instant, AtomicU64)>);

impl Default for Present {
    fn default() -> Self {
        Self(Arc::new((Instant::now(), AtomicU64::new(0))))
    }
}

impl Present {
    /// A live event has come.
    pub(crate) fn came(&self, now: Instant) {
        // Milliseconds since the start, and one: 0 is never.
        let ms = u64::try_from(now.saturating_duration_since(self.0.0).as_millis()).unwrap_or(u64::MAX - 1) + 1;
        self.0.1.fetch_max(ms, Ordering::Relaxed);
    }

    /// Whether more are to be expected.
    fn is_live(&self, now: Instant) -> bool {
        let last_ms = self.0.1.load(Ordering::Relaxed);
        last_ms > 0 && now.saturating_duration_since(self.0.0) < Duration::from_millis(last_ms - 1) + LIVE_FOR
    }
}

/// The turns of one replay.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    present: Present,
    /// Events of a turn; absent: it does not stand back.
    per_turn: Option<usize>,
    turn: Arc<Mutex<Turn>>,
}

#[derive(Debug, Default)]
struct Turn {
    began: Option<Instant>,
    taken: usize,
}

impl Turn {
    /// Takes so many events, or says when to come again.
    fn take(&mut self, now: Instant, events: usize, per_turn: usize) -> Result<(), Instant> {
        let ends = self.began.map(|began| began + PERIOD).filter(|ends| now < *ends);
        let Some(ends) = ends else {
            *self = Self { began: Some(now), taken: events };
            return Ok(());
        };
        if self.taken >= per_turn {
            return Err(ends);
        }
        self.taken += events;
        Ok(())
    }
}

impl Turns {
    /// Turns of so many events a second altogether; 0: as many as there are.
    pub(crate) fn new(present: Present, events_per_second: u32) -> Self {
        let per_turn = (f64::from(events_per_second) * PERIOD.as_secs_f64()).ceil();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and half of a u32")]
        let per_turn = (per_turn > 0.0).then_some(per_turn as usize);
        Self { present, per_turn, turn: Arc::default() }
    }

    /// So many events go on, or not before this.
    fn try_take(&self, now: Instant, events: usize) -> Result<(), Instant> {
        match self.per_turn {
            Some(per_turn) if self.present.is_live(now) => {
                self.turn.lock().unwrap_or_else(PoisonError::into_inner).take(now, events, per_turn)
            }
            _ => Ok(()),
        }
    }

    /// Ends when so many events may go on.
    pub(crate) async fn take(&self, events: usize) {
        while let Err(until) = self.try_take(Instant::now(), events) {
            tokio::time::sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When the last of so many events goes on, one after the other; `comes` is told the time before each.
    fn last(turns: &Turns, events: usize, begin: Instant, comes: impl Fn(Instant)) -> Duration {
        let mut now = begin;
        for _ in 0..events {
            comes(now);
            while let Err(until) = turns.try_take(now, 1) {
                now = until;
            }
        }
        now - begin
    }

    #[test]
    fn beside_live_events_a_turn_is_bounded_and_the_next_one_comes() {
        let (present, begin) = (Present::default(), Instant::now());
        let turns = Turns::new(present.clone(), 20);
        // Ten at once, ten half a second later, and so on.
        assert_eq!(last(&turns, 35, begin, |now| present.came(now)), 3 * PERIOD);
    }

    #[test]
    fn a_second_after_the_last_live_event_nothing_waits() {
        let (present, begin) = (Present::default(), Instant::now());
        let turns = Turns::new(present.clone(), 20);
        present.came(begin);
        let took = last(&turns, 10_000, begin, |_| {});
        assert!(took >= LIVE_FOR - Duration::from_millis(1) && took <= LIVE_FOR + PERIOD, "{took:?}");
    }

    #[test]
    fn where_nothing_is_live_or_no_rate_is_set_nothing_waits() {
        let (quiet, free, begin) = (Turns::new(Present::default(), 1), Turns::new(Present::default(), 0), Instant::now());
        assert_eq!(last(&quiet, 1_000, begin, |_| {}), Duration::ZERO);
        assert_eq!(last(&free, 1_000, begin, |now| free.present.came(now)), Duration::ZERO);
    }

    #[test]
    fn a_window_that_is_larger_than_a_turn_takes_one() {
        let (mut turn, now) = (Turn::default(), Instant::now());
        assert_eq!(turn.take(now, 24, 10), Ok(()));
        assert_eq!(turn.take(now, 1, 10), Err(now + PERIOD));
        assert_eq!(turn.take(now + PERIOD, 1, 10), Ok(()));
    }
}
