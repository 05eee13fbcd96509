//! What the core wants done, and what it is told.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::driver::{Held, Rebalance, Work};
use crate::epochs::Epoch;
use crate::seam::{Commit, Committed, Fence, LogError};
use crate::topic::TopicPartition;

/// Now, and a chance that is uniform in 0..1: the core asks for neither.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) now: Instant,
    pub(crate) unix_ms: i64,
    pub(crate) chance: f64,
}

/// One piece of work that was begun; numbers grow.
pub(crate) type Ticket = u64;

/// A read of what was put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reread {
    pub(crate) partition: TopicPartition,
    pub(crate) epoch: Epoch,
    pub(crate) offset: i64,
    pub(crate) max_records: usize,
}

/// To be done in this order, each to its end before the next, but for work and rereads: those end when they end.
#[derive(Debug)]
pub(crate) enum Effect<T> {
    /// Answer with `completed`.
    Work(Ticket, Work<T>),
    /// Answer with `reread`.
    Reread(Reread),
    /// Answer with `taken_up` or `not_taken_up`.
    Assign(Vec<TopicPartition>),
    /// Answer a failure with `failed`.
    Unassign(Vec<TopicPartition>),
    /// Answer with `committed`.
    Commit(Vec<Commit>),
    Pause(Vec<TopicPartition>),
    Resume(Vec<TopicPartition>),
    Tell(Tell),
    /// Close the consumer, and go, with this error.
    End(Option<LogError>),
}

/// For whoever observes.
#[derive(Debug)]
pub(crate) enum Tell {
    Rebalanced(Rebalance, Vec<TopicPartition>),
    Dropped(usize),
    Halted(TopicPartition, String),
    LogFailed(LogError),
    Fenced(TopicPartition),
    Retried(Duration),
    Full(bool),
    Stalled(TopicPartition, Duration),
}

/// What is too frequent to be told one by one; taken with `take_counts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Records that were finished before this assignment.
    pub(crate) skipped: usize,
    pub(crate) put_off: usize,
    pub(crate) reread: usize,
}

/// A partition that the log has assigned.
#[derive(Clone, Debug)]
pub(crate) struct TakenUp {
    pub(crate) partition: TopicPartition,
    pub(crate) fence: Option<Fence>,
    pub(crate) committed: Option<Committed>,
}

/// A window's records, as work has them.
pub(super) type Window<T> = Vec<Arc<Held<T>>>;
