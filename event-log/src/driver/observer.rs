//! What a driver tells: the rooms turn it into metrics and logs.

use std::time::Duration;

use super::batch::{Batch, FlushCause};
use crate::seam::LogError;
use crate::topic::TopicPartition;

/// How an assignment changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rebalance {
    /// Partitions came.
    Assigned,
    /// Partitions were asked back, and have been drained and let go.
    Revoked,
    /// Partitions were gone already.
    Lost,
}

/// Listens to a driver. Called from its task: answer at once.
pub trait Observer: Send + Sync + 'static {
    /// Windows that are being worked on (keyed), or records that a flush is writing (batches).
    fn in_flight(&self, _records: usize) {}

    /// Records and bytes held, in flight ones included.
    fn held(&self, _records: usize, _bytes: usize) {}

    /// The budget is full (true) or open again.
    fn paused(&self, _paused: bool) {}

    /// How far a partition is behind: records not yet finished, and how long ago the log took the first of them. Every few seconds,
    /// once something of the partition has been read.
    fn lag(&self, _partition: TopicPartition, _events: i64, _seconds: f64) {}

    /// The assignment changed.
    fn rebalanced(&self, _change: Rebalance, _partitions: &[TopicPartition]) {}

    /// Work whose partition had gone, or had come anew, was dropped; it is delivered again to whoever has it.
    fn dropped_by_epoch(&self, _records: usize) {}

    /// Records came again that an earlier assignment had finished above the frontier; they were not worked on.
    fn skipped_as_finished(&self, _records: usize) {}

    /// Records that are put off: read past, because their tenant holds its share, and to be read again.
    fn deferred(&self, _records: usize) {}

    /// So many more were put off.
    fn put_off(&self, _records: usize) {}

    /// So many that were put off are held again.
    fn reread(&self, _records: usize) {}

    /// Work on a partition has stood still for too long; the driver ends.
    fn stalled(&self, _partition: TopicPartition, _still: Duration) {}

    /// A partition stands still until someone acts on `reason`.
    fn halted(&self, _partition: TopicPartition, _reason: &str) {}

    /// The log failed and is asked again.
    fn log_failed(&self, _error: &LogError) {}

    /// Another owner was met; the partition's work was dropped.
    fn fenced(&self, _partition: TopicPartition) {}

    /// A record is tried again after `wait`.
    fn record_retried(&self, _wait: Duration) {}

    /// A batch was written, in `took`, its retries included.
    fn flushed(&self, _batch: &Batch, _took: Duration) {}

    /// A flush failed and is tried again after `wait`.
    fn flush_retried(&self, _cause: FlushCause, _reason: &str, _wait: Duration) {}
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {}
