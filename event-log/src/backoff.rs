//! How long to wait before the next attempt: doubling from the first wait to the longest, with the given chance taking up to half
//! of it away, so that members that failed together do not come back together.

use std::time::Duration;

/// The waits of one thing that is attempted again and again.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    attempts: u32,
}

impl Backoff {
    /// Waits from `first` to `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, attempts: 0 }
    }

    /// The wait after one more failure; `chance` is uniform in 0..1.
    pub fn next(&mut self, chance: f64) -> Duration {
        let doubled = self.first.saturating_mul(1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX)).min(self.longest);
        self.attempts = self.attempts.saturating_add(1).min(31);
        doubled.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0)
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let waits: Vec<u128> = (0..6).map(|_| backoff.next(0.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.next(1.0).as_millis(), 500);
        for _ in 0..100 {
            assert!(backoff.next(0.3) <= Duration::from_secs(1));
        }
        backoff.reset();
        assert_eq!(backoff.next(0.5).as_millis(), 75);
    }
}
