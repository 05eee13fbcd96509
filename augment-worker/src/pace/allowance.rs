//! What a provider says is left of its limits: obeyed until its next word, or until it said that all is there again.

use std::time::{Duration, Instant};

use super::bucket::whole;

/// One limit as an answer told it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Remaining {
    pub(crate) remaining: u64,
    /// Of so many, where that was said.
    pub(crate) limit: Option<u64>,
    /// When all of it is there again.
    pub(crate) resets_after: Duration,
    /// Whether it comes back bit by bit until then, or all at once.
    pub(crate) is_steady: bool,
}

/// What an answer told of both limits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Allowed {
    pub(crate) requests: Option<Remaining>,
    pub(crate) tokens: Option<Remaining>,
}

/// What is left of one limit.
#[derive(Clone, Copy, Debug)]
struct Left {
    level: f64,
    per_second: f64,
    at: Instant,
    until: Instant,
}

/// What is left of one limit, as far as is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allowance {
    left: Option<Left>,
    /// The number of the call that told it.
    told_by: u64,
}

impl Allowance {
    /// The answer to call number `call` told `remaining`; what was taken since that call began is not in it yet.
    pub(crate) fn told(&mut self, now: Instant, call: u64, remaining: Remaining, taken_since: f64) {
        // Answers overtake one another.
        if self.left.is_some() && call < self.told_by {
            return;
        }
        self.told_by = call;
        let seconds = remaining.resets_after.as_secs_f64();
        let missing =
            remaining.limit.filter(|_| remaining.is_steady).map_or(0, |limit| limit.saturating_sub(remaining.remaining));
        #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
        let (missing, level) = (missing as f64, remaining.remaining as f64 - taken_since);
        let per_second = if seconds > 0.0 { missing / seconds } else { 0.0 };
        self.left = now.checked_add(remaining.resets_after).map(|until| Left { level, per_second, at: now, until });
    }

    /// Whether anything was told.
    pub(crate) fn is_known(&self) -> bool {
        self.left.is_some()
    }

    fn level(&self, now: Instant) -> Option<(f64, Left)> {
        let left = self.left.filter(|left| now < left.until)?;
        Some((left.level + left.per_second * now.saturating_duration_since(left.at).as_secs_f64(), left))
    }

    /// How often `cost` could be taken now.
    pub(crate) fn times(&self, now: Instant, cost: f64) -> usize {
        self.level(now).map_or(usize::MAX, |(level, _)| whole((level + 1e-6) / cost.max(f64::MIN_POSITIVE)))
    }

    /// How long until `cost` can be taken.
    pub(crate) fn wait(&self, now: Instant, cost: f64) -> Duration {
        let Some((level, left)) = self.level(now) else { return Duration::ZERO };
        let missing = cost - level;
        if missing <= 1e-6 {
            return Duration::ZERO;
        }
        let steady = Duration::try_from_secs_f64(missing / left.per_second).unwrap_or(Duration::MAX);
        steady.min(left.until.saturating_duration_since(now))
    }

    /// Takes it.
    pub(crate) fn take(&mut self, cost: f64) {
        if let Some(left) = &mut self.left {
            left.level -= cost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn said(remaining: u64, limit: Option<u64>, seconds: u64, is_steady: bool) -> Remaining {
        Remaining { remaining, limit, resets_after: Duration::from_secs(seconds), is_steady }
    }

    #[test]
    fn nothing_left_means_waiting_until_something_is() {
        let now = Instant::now();
        let mut allowance = Allowance::default();
        assert_eq!((allowance.times(now, 1.0), allowance.wait(now, 1.0)), (usize::MAX, Duration::ZERO));
        allowance.told(now, 1, said(0, Some(60), 60, false), 0.0);
        assert_eq!((allowance.times(now, 1.0), allowance.wait(now, 1.0)), (0, Duration::from_secs(60)));
        assert_eq!(allowance.times(now + Duration::from_secs(60), 1.0), usize::MAX);
        allowance.told(now, 2, said(0, Some(60), 60, true), 0.0);
        assert_eq!(allowance.wait(now, 2.0), Duration::from_secs(2));
        assert_eq!(allowance.times(now + Duration::from_secs(5), 1.0), 5);
    }

    #[test]
    fn what_was_taken_since_counts_and_old_words_do_not() {
        let now = Instant::now();
        let mut allowance = Allowance::default();
        allowance.told(now, 7, said(10, Some(60), 30, false), 4.0);
        assert_eq!(allowance.times(now, 1.0), 6);
        allowance.take(5.0);
        assert_eq!(allowance.times(now, 1.0), 1);
        allowance.told(now, 6, said(11, Some(60), 30, false), 0.0);
        assert_eq!(allowance.times(now, 1.0), 1);
        assert_eq!(allowance.times(now, 0.5), 2);
    }
}
