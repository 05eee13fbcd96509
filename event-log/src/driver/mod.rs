//! The shells around the machines: one task that owns a consumer and everything it decides by, by value.
//!
//! [`keyed`] works on windows of records, in order per key (the worker); [`batch`] gathers them for a sink that keeps the offsets
//! itself (the writer). Both pause at a full budget, drain in order when partitions go, and never commit past open work.

mod asking;
pub mod batch;
#[cfg(test)]
mod bounded;
mod handler;
pub mod keyed;
mod lag;
mod live;
mod observer;
mod sink;
#[cfg(test)]
mod tests;

pub use crate::schedule::{Fairness, LaneFloors, Share, WindowBounds, Windowing};
pub use batch::{Advance, Batch, BatchConfig, BatchSink, FlushCause, SinkError, StandBack, run_batches};
pub use handler::{Held, Reading, RecordHandler, Verdict, Work};
pub use keyed::{KeyedConfig, run_keyed};
pub use live::{Level, Levels, LiveBound};
pub use observer::{Observer, Rebalance, Unobserved};

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::seam::LogError;
use crate::topic::TopicPartition;

/// How often the lag is looked up.
const LAG_INTERVAL: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

fn retry_backoff() -> Backoff {
    Backoff::new(FIRST_RETRY, LONGEST_RETRY)
}

fn now_ms() -> i64 {
    memori_schemas::Micros::now().0.div_euclid(1_000)
}

/// Partitions that were revoked together, and by when they are given up, drained or not.
#[derive(Debug)]
pub(crate) struct Drain {
    pub(crate) partitions: Vec<TopicPartition>,
    pub(crate) deadline: Instant,
}

/// When the consumer is asked again after it failed.
#[derive(Debug)]
pub(crate) struct Retry {
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Retry {
    pub(crate) fn new() -> Self {
        Self { backoff: retry_backoff(), not_before: None }
    }

    /// `chance` is uniform in 0..1.
    pub(crate) fn failed(&mut self, now: Instant, chance: f64) {
        self.not_before = Some(now + self.backoff.next(chance));
    }

    pub(crate) fn worked(&mut self) {
        self.backoff.reset();
        self.not_before = None;
    }

    /// When to look again; none where the consumer is asked anyway.
    pub(crate) fn wake_at(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|at| *at > now)
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }
}

/// What an error of the log means for a driver.
pub(crate) enum Policy {
    /// Ask again later.
    Again(LogError),
    /// Drop the partition's work and go on.
    Drop(TopicPartition),
    /// Stop, and say so.
    Halt(LogError),
}

pub(crate) fn policy(error: LogError) -> Policy {
    match error {
        LogError::Transient(_) => Policy::Again(error),
        LogError::Fenced(partition) => Policy::Drop(partition),
        LogError::BelowLogStart { .. } | LogError::Fatal(_) => Policy::Halt(error),
    }
}
