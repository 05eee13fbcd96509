//! What the batch driver writes to, and the loop around one write.
//!
//! Promises: a batch that failed for a while is tried again as it is, with growing waits, until it is written, refused, or given up
//! between two attempts; never in the middle of one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{LiveBound, Observer, retry_backoff};
use crate::gather::{Batch, StandBack};
use crate::seam::Start;
use crate::topic::{Topic, TopicPartition};

/// Writes batches. One call at a time.
#[async_trait]
pub trait BatchSink: Send + 'static {
    /// Where reading of newly assigned partitions begins: offsets live in the store. Those left out begin as
    /// [`Start::Committed`].
    async fn starts(&mut self, assigned: &[TopicPartition]) -> Result<Vec<(TopicPartition, Start)>, SinkError>;

    /// Writes a batch in one transaction. Runs in a task of its own and is never dropped half way.
    async fn flush(&mut self, batch: &Batch) -> Result<(), SinkError>;

    /// Whether records of a partition may flow yet. Asked when it is assigned and then, until it may, after each flush and
    /// now and then.
    async fn may_flow(&mut self, _partition: TopicPartition) -> Result<bool, SinkError> {
        Ok(true)
    }
}

/// Why a sink did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// It may work later; nothing was written, or it is not known.
    #[error("the sink is not reachable: {0}")]
    Retry(String),
    /// The store's offsets of these are not what the batch says: another owner has written. Nothing was written.
    #[error("the store's offsets have been moved by another owner")]
    Fenced(Vec<TopicPartition>),
    /// It cannot take this record, and must not pass it: its partition stands still there until someone acts; the others go on.
    /// Nothing was written.
    #[error("{partition} stands still at offset {offset}: {reason}")]
    StandStill {
        /// Which partition.
        partition: TopicPartition,
        /// The record.
        offset: i64,
        /// Why, and what to do.
        reason: String,
    },
    /// No retry mends it.
    #[error("{0}")]
    Halt(String),
}

/// How a batch driver behaves.
#[derive(Clone, Debug)]
pub struct BatchConfig {
    /// The consumer group.
    pub group: String,
    /// What it reads.
    pub topics: Vec<Topic>,
    /// Records in a batch; moved, the next batch obeys.
    pub batch_rows: LiveBound,
    /// Bytes in a batch.
    pub batch_bytes: usize,
    /// How long a record waits for its batch that somebody waits for.
    pub batch_max_age: Duration,
    /// How what nobody waits for stands back behind all others.
    pub backfill: StandBack,
    /// Records of backfill held at most, and as many others (what was on its way overshoots it); once `batch_rows` has moved, two batches
    /// at least.
    pub budget_events: usize,
    /// Bytes of backfill held at most, and as many of others.
    pub budget_bytes: usize,
    /// How long what was gathered may take to be written when partitions go or the process stops.
    pub drain_deadline: Duration,
}

/// A flush that has ended.
pub(super) struct Flushed {
    pub(super) sink: Box<dyn BatchSink>,
    pub(super) batch: Batch,
    pub(super) result: Result<(), SinkError>,
    pub(super) took: Duration,
}

/// Flushes one batch, again and again as the same batch until the sink has it, refuses it, or is given up.
pub(super) async fn flush(
    mut sink: Box<dyn BatchSink>,
    batch: Batch,
    observer: Arc<dyn Observer>,
    give_up: CancellationToken,
) -> Flushed {
    let began = Instant::now();
    let mut backoff = retry_backoff();
    loop {
        let result = sink.flush(&batch).await;
        let Err(SinkError::Retry(reason)) = &result else {
            return Flushed { sink, batch, result, took: began.elapsed() };
        };
        let wait = backoff.next(rand::random());
        tracing::warn!(reason, ?wait, rows = batch.records.len(), "a flush failed and is tried again");
        observer.flush_retried(batch.cause, reason, wait);
        tokio::select! {
            biased;
            () = give_up.cancelled() => return Flushed { sink, batch, result, took: began.elapsed() },
            () = tokio::time::sleep(wait) => {}
        }
    }
}
