//! Whether recall is worth waiting for.
//!
//! Pure. Where recalls are late again and again, each call to a model would wait a whole deadline for nothing; then only one in a
//! while is asked, until one is in time.

use std::time::{Duration, Instant};

/// So many late ones in a row.
const LATE_IN_A_ROW: u32 = 5;
/// How long nobody asks after that, and after each further late one.
const PAUSE: Duration = Duration::from_secs(1);

/// Is told how each recall ended.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    late: u32,
    not_before: Option<Instant>,
}

impl Breaker {
    /// Whether to ask now. After a pause one may, and those that come while it asks may not.
    pub(crate) fn may_ask(&mut self, now: Instant) -> bool {
        match self.not_before {
            None => true,
            Some(not_before) if now < not_before => false,
            Some(_) => {
                self.not_before = Some(now + PAUSE);
                true
            }
        }
    }

    /// There was an answer in time, whatever it said.
    pub(crate) fn in_time(&mut self) {
        *self = Self::default();
    }

    /// There was none.
    pub(crate) fn late(&mut self, now: Instant) {
        self.late = self.late.saturating_add(1);
        if self.late >= LATE_IN_A_ROW {
            self.not_before = Some(now + PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_several_late_ones_one_in_a_while_is_asked_until_one_is_in_time() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..LATE_IN_A_ROW {
            assert!(breaker.may_ask(start));
            breaker.late(start);
        }
        assert!(!breaker.may_ask(start));
        let later = start + PAUSE;
        assert!(breaker.may_ask(later), "one looks");
        assert!(!breaker.may_ask(later), "the others do not wait for it");
        breaker.late(later);
        assert!(!breaker.may_ask(later + PAUSE / 2));
        assert!(breaker.may_ask(later + PAUSE));
        breaker.in_time();
        assert!(breaker.may_ask(later + PAUSE) && breaker.may_ask(later + PAUSE));
    }

    #[test]
    fn one_in_time_between_late_ones_counts() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..4 * LATE_IN_A_ROW {
            breaker.late(now);
            breaker.in_time();
        }
        assert!(breaker.may_ask(now));
    }
}
