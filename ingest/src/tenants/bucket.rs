//! How fast something may go: a bucket that fills evenly. Pure: it is given the time.

use std::time::{Duration, Instant};

const WHOLE: i128 = 1_000_000;

/// A bucket of at most a second's worth, or of one whole, and what is not yet another whole one.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    /// Millionths a second.
    rate: i128,
    /// Millionths; below zero what was taken in advance.
    saved: i128,
    filled_at: Instant,
}

impl Bucket {
    /// `part` of `per_second`, full at the start: as one of so many that share it.
    pub(crate) fn new(per_second: i64, sharers: u32, now: Instant) -> Self {
        let rate = rate_of(per_second, sharers);
        Self { rate, saved: if rate == 0 { 0 } else { rate.max(WHOLE) }, filled_at: now }
    }

    /// From now on so fast. What was saved stays, within the new bound.
    pub(crate) fn set(&mut self, per_second: i64, sharers: u32, now: Instant) {
        self.fill(now);
        self.rate = rate_of(per_second, sharers);
        self.saved = self.saved.min(depth(self.rate));
    }

    /// As many of `wanted` as there are.
    pub(crate) fn take(&mut self, wanted: usize, now: Instant) -> usize {
        self.fill(now);
        let there = usize::try_from((self.saved / WHOLE).max(0)).unwrap_or(usize::MAX);
        let taken = wanted.min(there);
        self.saved -= taken as i128 * WHOLE;
        taken
    }

    /// All of `wanted`, where there is one: the rest is owed, and fills up before there is one again.
    pub(crate) fn take_all(&mut self, wanted: usize, now: Instant) -> bool {
        self.fill(now);
        let may = self.saved >= WHOLE;
        if may {
            self.saved -= wanted as i128 * WHOLE;
        }
        may
    }

    /// How long until there is one; `None`: never.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.fill(now);
        let lacking = (WHOLE - self.saved).max(0);
        if lacking == 0 {
            return Some(Duration::ZERO);
        }
        (self.rate > 0).then(|| {
            let micros = (lacking * 1_000_000 + self.rate - 1) / self.rate;
            Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
        })
    }

    fn fill(&mut self, now: Instant) {
        let passed = i128::try_from(now.saturating_duration_since(self.filled_at).as_micros()).unwrap_or(i128::MAX / 2);
        // A rate is below 2^70 millionths, and an hour fills any bucket.
        let added = passed.min(3_600 * 1_000_000) * self.rate / 1_000_000;
        self.saved = (self.saved + added).min(depth(self.rate));
        // What does not make a millionth yet is not lost.
        if added > 0 || self.saved == depth(self.rate) {
            self.filled_at = self.filled_at.max(now);
        }
    }
}

fn rate_of(per_second: i64, sharers: u32) -> i128 {
    i128::from(per_second.max(0)) * WHOLE / i128::from(sharers.max(1))
}

/// Just short of one more than a second's worth: so whoever asks each second loses no part of one.
fn depth(rate: i128) -> i128 {
    if rate == 0 { 0 } else { rate + WHOLE - 1 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_is_given_at_once_and_the_rest_evenly() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 1, start);
        assert_eq!((bucket.take(1_000, start), bucket.take(1, start)), (10, 0));
        assert_eq!(bucket.wait(start), Some(Duration::from_millis(100)));
        assert_eq!(bucket.take(1_000, start + Duration::from_millis(350)), 3);
        assert_eq!(bucket.take(1_000, start + Duration::from_secs(3_600)), 10, "what is saved is bounded");
    }

    #[test]
    fn none_is_none_and_a_third_of_one_still_comes() {
        let start = Instant::now();
        let mut none = Bucket::new(0, 1, start);
        assert_eq!((none.take(1, start + Duration::from_secs(99)), none.wait(start)), (0, None));
        let mut third = Bucket::new(1, 3, start);
        assert_eq!((third.take(5, start), third.take(5, start + Duration::from_millis(2_900))), (1, 0));
        assert_eq!(third.take(5, start + Duration::from_millis(3_001)), 1);
    }

    #[test]
    fn what_is_owed_is_paid_first() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 1, start);
        assert!(bucket.take_all(30, start), "more than a second's worth goes once");
        assert!(!bucket.take_all(1, start + Duration::from_millis(2_000)));
        assert!(bucket.take_all(1, start + Duration::from_millis(2_101)));
    }

    proptest! {
        /// One that asks for more than there is, at any times, gets what the rate gives: no more over any span, and no less in the end.
        #[test]
        fn the_rate_holds(per_second in 1_i64..500, sharers in 1_u32..5, steps in proptest::collection::vec(1_u64..900, 20..120)) {
            let start = Instant::now();
            let (mut bucket, mut now, mut given) = (Bucket::new(per_second, sharers, start), start, 0_usize);
            for passed in steps {
                now += Duration::from_millis(passed);
                given += bucket.take(1_000_000, now);
            }
            let seconds = (now - start).as_secs_f64();
            let rate = per_second as f64 / f64::from(sharers);
            prop_assert!(given as f64 <= rate * seconds + rate.max(1.0) + 0.01, "{} in {} s at {}", given, seconds, rate);
            // Whoever asks at least once a second loses nothing, but for what is not yet a whole one.
            prop_assert!(given as f64 >= (rate * seconds - 1.01).min(rate * seconds * 0.99 - 1.0), "{} in {} s at {}", given, seconds, rate);
        }

        /// Sharers together give what one alone would, under even load.
        #[test]
        fn sharers_sum_up(per_second in 3_i64..300, sharers in 1_u32..6) {
            let start = Instant::now();
            let mut buckets: Vec<Bucket> = (0..sharers).map(|_| Bucket::new(per_second, sharers, start)).collect();
            let mut given = 0;
            for step in 1..=1_000_u64 {
                let now = start + Duration::from_millis(step * 20);
                given += buckets.iter_mut().map(|bucket| bucket.take(1_000, now)).sum::<usize>();
            }
            let whole = per_second as f64 * 20.0;
            let burst = (per_second as f64).max(f64::from(sharers));
            prop_assert!((given as f64) <= whole + burst + 1.0 && (given as f64) >= whole * 0.99 - f64::from(sharers), "{given} of {whole}");
        }
    }
}
