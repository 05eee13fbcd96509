//! The archiver's metrics, and what its driver tells.
#![allow(clippy::disallowed_macros, reason = "this is the metrics module")]

use std::time::Duration;

use memori_event_log::driver::batch::{Batch, FlushCause};
use memori_event_log::driver::{Observer, Rebalance};
use memori_event_log::{LogError, TopicPartition};
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

const RECORDS: &str = "memori_archive_records_total";
const BYTES: &str = "memori_archive_bytes_total";
const FILES: &str = "memori_archive_files_total";
const MANIFESTS: &str = "memori_archive_manifests_total";
const REWRITTEN: &str = "memori_archive_rewritten_files_total";
const RETRIES: &str = "memori_archive_retries_total";
const FENCED: &str = "memori_archive_fenced_total";
const LAG_RECORDS: &str = "memori_archive_lag_records";
const LAG_SECONDS: &str = "memori_archive_lag_seconds";

/// Says what they mean.
pub fn describe() {
    describe_counter!(RECORDS, "records whose place in the archive is committed; labels: topic");
    describe_counter!(BYTES, Unit::Bytes, "bytes of data files that a manifest names");
    describe_counter!(FILES, "data files that a manifest names");
    describe_counter!(MANIFESTS, "manifests that were put");
    describe_counter!(REWRITTEN, "data files that were written again without what was erased");
    describe_counter!(RETRIES, "flushes that failed and were tried again");
    describe_counter!(FENCED, "partitions of which another archiver had written the next range");
    describe_gauge!(LAG_RECORDS, "records that are not in the archive yet; labels: topic, partition");
    describe_gauge!(
        LAG_SECONDS,
        Unit::Seconds,
        "age of the first record that is not in the archive yet; labels: topic, partition"
    );
    for name in [BYTES, FILES, MANIFESTS, REWRITTEN, RETRIES, FENCED] {
        counter!(name).absolute(0);
    }
}

pub(crate) fn committed(topic: &'static str, records: u64, files: u64, bytes: u64) {
    counter!(RECORDS, "topic" => topic).increment(records);
    counter!(FILES).increment(files);
    counter!(BYTES).increment(bytes);
    counter!(MANIFESTS).increment(1);
}

pub(crate) fn rewritten(files: u64) {
    counter!(REWRITTEN).increment(files);
}

/// Turns what the driver tells into metrics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ArchiverObserver;

impl Observer for ArchiverObserver {
    fn lag(&self, partition: TopicPartition, events: i64, seconds: f64) {
        let labels = [("topic", partition.topic.as_str().to_owned()), ("partition", partition.partition.to_string())];
        gauge!(LAG_RECORDS, &labels).set(events as f64);
        gauge!(LAG_SECONDS, &labels).set(seconds);
    }

    fn rebalanced(&self, change: Rebalance, partitions: &[TopicPartition]) {
        tracing::info!(?change, partitions = partitions.len(), "the assignment changed");
        if change == Rebalance::Assigned {
            return;
        }
        for partition in partitions {
            self.lag(*partition, 0, 0.0);
        }
    }

    fn halted(&self, partition: TopicPartition, reason: &str) {
        tracing::error!(%partition, reason, "a partition stands still");
    }

    fn log_failed(&self, error: &LogError) {
        tracing::warn!(%error, "the log failed; it is asked again");
    }

    fn fenced(&self, partition: TopicPartition) {
        counter!(FENCED).increment(1);
        tracing::warn!(%partition, "another archiver has written; going on where its range ends");
    }

    fn flushed(&self, batch: &Batch, took: Duration) {
        tracing::debug!(records = batch.records.len(), cause = batch.cause.as_str(), ?took, "archived");
    }

    fn flush_retried(&self, _cause: FlushCause, reason: &str, wait: Duration) {
        counter!(RETRIES).increment(1);
        tracing::warn!(reason, wait_ms = wait.as_millis(), "a flush failed; it is tried again");
    }
}
