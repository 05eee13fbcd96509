//! A budget per minute: a bucket that fills steadily, so that over no minute more is taken than the budget.

use std::time::{Duration, Instant};

const MINUTE_SECONDS: f64 = 60.0;
/// Of the budget, what may be taken at once after a rest.
const BURST: f64 = 0.05;

/// A bucket. It may be overdrawn by what is larger than all of it, and by what turns out larger than was estimated.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    level: f64,
    capacity: f64,
    per_second: f64,
    at: Instant,
}

impl Bucket {
    /// A full one for so much per minute.
    pub(crate) fn new(per_minute: f64, now: Instant) -> Self {
        let capacity = (per_minute * BURST).max(1.0);
        // What may come at once is part of the minute, so the rest of the minute brings that much less; a burst of one is the call
        // that the next minute begins with.
        let steady = per_minute - if capacity > 1.0 { capacity } else { 0.0 };
        Self { level: capacity, capacity, per_second: steady / MINUTE_SECONDS, at: now }
    }

    fn level_at(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level + passed * self.per_second).min(self.capacity)
    }

    /// How often `cost` could be taken now.
    pub(crate) fn times(&self, now: Instant, cost: f64) -> usize {
        let wanted = cost.min(self.capacity).max(f64::MIN_POSITIVE);
        // A level that is short by rounding is there.
        whole((self.level_at(now) + 1e-6) / wanted)
    }

    /// How long until `cost` can be taken.
    pub(crate) fn wait(&self, now: Instant, cost: f64) -> Duration {
        let missing = cost.min(self.capacity) - self.level_at(now);
        if missing <= 1e-6 {
            Duration::ZERO
        } else {
            Duration::try_from_secs_f64(missing / self.per_second).unwrap_or(Duration::MAX)
        }
    }

    /// Takes it, be it there or not. A negative one is given back.
    pub(crate) fn take(&mut self, now: Instant, cost: f64) {
        self.level = (self.level_at(now) - cost).min(self.capacity);
        self.at = now.max(self.at);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounded from below; what is beyond usize is as good as that"
)]
pub(crate) fn whole(number: f64) -> usize {
    number.max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::Bucket;

    proptest! {
        /// Whoever takes as soon as it is there takes nearly all of the budget, and over no minute more than that.
        #[test]
        fn over_no_minute_more_than_the_budget(per_minute in 1_u32..2_000, idle_ms in proptest::collection::vec(0_u64..3_000, 1..400)) {
            let start = Instant::now();
            let mut bucket = Bucket::new(f64::from(per_minute), start);
            let (mut now, mut taken) = (start, Vec::new());
            for idle in idle_ms.into_iter().chain(std::iter::repeat_n(0, 200)) {
                now += Duration::from_millis(idle);
                now += bucket.wait(now, 1.0) + Duration::from_micros(1);
                prop_assert!(bucket.times(now, 1.0) >= 1);
                bucket.take(now, 1.0);
                taken.push(now);
            }
            for (at, first) in taken.iter().enumerate() {
                let within = taken[at..].iter().take_while(|t| t.duration_since(*first) < Duration::from_secs(60)).count();
                prop_assert!(within <= per_minute as usize, "{within} in a minute");
            }
        }
    }

    #[test]
    fn nearly_all_of_it_is_used() {
        let start = Instant::now();
        for per_minute in [1.0, 10.0, 600.0] {
            let mut bucket = Bucket::new(per_minute, start);
            let (mut now, mut taken) = (start, 0);
            while now.duration_since(start) < Duration::from_secs(600) {
                bucket.take(now, 1.0);
                taken += 1;
                now += bucket.wait(now, 1.0);
            }
            let share = f64::from(taken) / (per_minute * 10.0);
            assert!((0.93..=1.01).contains(&share), "{per_minute}: {share}");
        }
    }

    #[test]
    fn an_estimate_is_settled_and_what_is_larger_than_all_waits_for_a_full_bucket() {
        let start = Instant::now();
        let mut bucket = Bucket::new(6_000.0, start);
        assert_eq!((bucket.times(start, 100.0), bucket.times(start, 1e9)), (3, 1));
        bucket.take(start, 1_000.0);
        assert_eq!(bucket.times(start, 1.0), 0);
        let wait = bucket.wait(start, 1.0);
        bucket.take(start, -900.0);
        assert!(bucket.wait(start, 1.0) < wait);
        assert_eq!(bucket.times(start, 100.0), 2);
    }
}
