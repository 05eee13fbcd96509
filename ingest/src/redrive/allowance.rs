//! How fast events may be put back: so many a second, and no more at once than a second's worth.

use std::time::{Duration, Instant};

/// A bucket that fills evenly. It is given the time.
#[derive(Debug)]
pub(crate) struct Allowance {
    per_second: u64,
    /// Millionths of an event, at most a second's worth.
    saved: u64,
    filled_at: Instant,
}

const WHOLE: u64 = 1_000_000;

impl Allowance {
    /// Full at the start.
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        let per_second = u64::from(per_second.max(1));
        Self { per_second, saved: per_second * WHOLE, filled_at: now }
    }

    /// Takes as many of `wanted` as there are.
    pub(crate) fn take(&mut self, wanted: usize, now: Instant) -> usize {
        self.fill(now);
        let taken = wanted.min(usize::try_from(self.saved / WHOLE).unwrap_or(usize::MAX));
        self.saved -= taken as u64 * WHOLE;
        taken
    }

    /// Gives back what was taken and not used.
    pub(crate) fn give_back(&mut self, unused: usize) {
        self.saved = self.saved.saturating_add(unused as u64 * WHOLE).min(self.per_second * WHOLE);
    }

    /// How long until there is one.
    pub(crate) fn wait(&mut self, now: Instant) -> Duration {
        self.fill(now);
        let lacking = WHOLE.saturating_sub(self.saved);
        Duration::from_micros(lacking.div_ceil(self.per_second))
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at).as_micros();
        let added = u64::try_from(passed).unwrap_or(u64::MAX).saturating_mul(self.per_second);
        self.saved = self.saved.saturating_add(added).min(self.per_second * WHOLE);
        self.filled_at = self.filled_at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_is_given_at_once_and_the_rest_evenly() {
        let start = Instant::now();
        let mut allowance = Allowance::new(10, start);
        assert_eq!(allowance.take(1_000, start), 10);
        assert_eq!(allowance.take(1, start), 0);
        assert_eq!(allowance.wait(start), Duration::from_millis(100));
        assert_eq!(allowance.take(1_000, start + Duration::from_millis(350)), 3);
        assert_eq!(allowance.take(1_000, start + Duration::from_secs(3_600)), 10, "what is saved is bounded");
    }

    proptest! {
        #[test]
        fn no_span_gets_more_than_its_share(per_second in 1_u32..500, steps in proptest::collection::vec((0_u64..3_000, 0_usize..400), 1..60)) {
            let start = Instant::now();
            let (mut allowance, mut now, mut given) = (Allowance::new(per_second, start), start, 0);
            for (passed, wanted) in steps {
                now += Duration::from_millis(passed);
                given += allowance.take(wanted, now) as u128;
                let share = u128::from(per_second) * ((now - start).as_micros() + 1_000_000) / 1_000_000;
                prop_assert!(given <= share, "{given} of {share}");
                let wait = allowance.wait(now);
                prop_assert!(wait <= Duration::from_secs(1));
                let one = allowance.take(1, now);
                prop_assert_eq!(wait.is_zero(), one == 1);
                allowance.give_back(one);
            }
        }
    }
}
