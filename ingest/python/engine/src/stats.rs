//! Counters of what happened, and how long recalls took.
//!
//! Promises: nothing here locks or grows; whatever is dropped or let through untouched is counted with its reason, and reasons are
//! a fixed list.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident => $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name in the statistics.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

reasons!(
    /// Why a captured event was not kept.
    Dropped {
        /// The queue has its number of events.
        QueueEvents => "queue_events",
        /// The queue has its number of bytes.
        QueueBytes => "queue_bytes",
        /// It is larger than an event may be.
        TooLarge => "too_large",
        /// The front door refused it.
        Refused => "refused",
        /// The process ends.
        Exiting => "exiting",
        /// Our own failure.
        Internal => "internal",
    }
);

reasons!(
    /// Why a call to a model went out as it came.
    PassedThrough {
        /// Nobody said whom it is about.
        NoEntity => "no_entity",
        /// No conversation that is known.
        UnknownSurface => "unknown_surface",
        /// It asks nothing that could be recalled for.
        NoQuery => "no_query",
        /// Nothing is known, or nothing fits the budget.
        NothingRecalled => "nothing_recalled",
        /// The system behind is not up yet.
        Starting => "starting",
        /// Recall took longer than its deadline.
        Deadline => "deadline",
        /// Recalls were late again and again; this one was not asked for.
        Unanswering => "unanswering",
        /// Recall answered with an error.
        RecallFailed => "recall_failed",
        /// Too many recalls are under way.
        Busy => "busy",
        /// The request has no place for the block.
        NoPlace => "no_place",
        /// The engine is closed, or the process ends.
        Closed => "closed",
        /// Our own failure.
        Internal => "internal",
    }
);

/// The counters.
#[derive(Debug, Default)]
pub struct Stats {
    /// Turns that were begun, retries not counted.
    pub turns: AtomicU64,
    /// Retries that were recognised as the turn they repeat.
    pub retries: AtomicU64,
    /// Events that were taken into the queue.
    pub captured: AtomicU64,
    /// Answers that were cut, and captured as cut.
    pub cut: AtomicU64,
    /// Events that the log or the spool confirmed.
    pub durable: AtomicU64,
    /// Of those, in the spool.
    pub spooled: AtomicU64,
    /// Events that are known to be applied.
    pub applied: AtomicU64,
    /// Events that were erased before they were known to be applied.
    pub erased: AtomicU64,
    /// Events that are known to be dead letters, or lost.
    pub failed: AtomicU64,
    /// Calls that got a block.
    pub injected: AtomicU64,
    /// Entities that were read in ahead of their next turn.
    pub read_ahead: AtomicU64,
    /// Failures of our own that were kept from the caller.
    pub internal_errors: AtomicU64,
    dropped: [AtomicU64; Dropped::ALL.len()],
    passed_through: [AtomicU64; PassedThrough::ALL.len()],
    /// How long recalls for injection took.
    pub recall: Latency,
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Stats {
    /// An event was not kept.
    pub fn dropped(&self, why: Dropped) {
        add(&self.dropped[why as usize], 1);
    }

    /// A call went out as it came.
    pub fn passed_through(&self, why: PassedThrough) {
        add(&self.passed_through[why as usize], 1);
    }

    /// How often so.
    #[must_use]
    pub fn times_passed_through(&self, why: PassedThrough) -> u64 {
        self.passed_through[why as usize].load(Ordering::Relaxed)
    }

    /// All of it.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let dropped: Map<String, Value> =
            Dropped::ALL.iter().map(|why| (why.as_str().to_owned(), read(&self.dropped[*why as usize]).into())).collect();
        let passed: Map<String, Value> = PassedThrough::ALL
            .iter()
            .map(|why| (why.as_str().to_owned(), read(&self.passed_through[*why as usize]).into()))
            .collect();
        let shown = json!({
            "turns": read(&self.turns),
            "retries": read(&self.retries),
            "captured": read(&self.captured),
            "cut": read(&self.cut),
            "durable": read(&self.durable),
            "spooled": read(&self.spooled),
            "applied": read(&self.applied),
            "erased": read(&self.erased),
            "failed": read(&self.failed),
            "injected": read(&self.injected),
            "read_ahead": read(&self.read_ahead),
            "internal_errors": read(&self.internal_errors),
            "dropped": dropped,
            "passed_through": passed,
            "recall_timeouts": self.times_passed_through(PassedThrough::Deadline),
            "recall_ms": {
                "count": self.recall.count(),
                "p50": self.recall.quantile_ms(0.50),
                "p99": self.recall.quantile_ms(0.99),
            },
        });
        match shown {
            Value::Object(shown) => shown,
            _ => Map::new(),
        }
    }
}

/// Steps of a factor of two.
const STEPS: usize = 8;
/// Up to an hour.
const BUCKETS: usize = 33 * STEPS;

/// How long something took, in buckets that are at most an eighth of an octave wide.
#[derive(Debug)]
pub struct Latency([AtomicU64; BUCKETS]);

impl Default for Latency {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Latency {
    /// It took so long.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of a bucket"
    )]
    pub fn record(&self, took: Duration) {
        let us = took.as_micros().max(1) as f64;
        let bucket = ((us.log2() * STEPS as f64) as usize).min(BUCKETS - 1);
        add(&self.0[bucket], 1);
    }

    /// How often.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// The upper end of the bucket in which the quantile lies, in milliseconds; none before the first.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts and indices"
    )]
    pub fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let counts: Vec<u64> = self.0.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let wanted = ((total as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        let ms = ((bucket + 1) as f64 / STEPS as f64).exp2() / 1_000.0;
        Some((ms * 1_000.0).round() / 1_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket() {
        let latency = Latency::default();
        assert_eq!(latency.quantile_ms(0.5), None);
        for us in 1..=1_000 {
            latency.record(Duration::from_micros(us));
        }
        latency.record(Duration::from_secs(100_000));
        let (p50, p99) = (latency.quantile_ms(0.5).unwrap(), latency.quantile_ms(0.99).unwrap());
        assert!((0.5..0.56).contains(&p50) && (0.99..1.1).contains(&p99), "{p50} {p99}");
        assert_eq!(latency.count(), 1_001);
    }

    #[test]
    fn every_reason_is_shown() {
        let stats = Stats::default();
        stats.dropped(Dropped::QueueBytes);
        stats.passed_through(PassedThrough::Deadline);
        let shown = stats.to_json();
        assert_eq!(shown["dropped"]["queue_bytes"], 1);
        assert_eq!(shown["passed_through"].as_object().unwrap().len(), PassedThrough::ALL.len());
        assert_eq!(shown["recall_timeouts"], 1);
    }
}
