//! The names of everything that the writer measures. Labels are bounded: topics, lanes, classes, causes.

#![allow(clippy::disallowed_macros, reason = "this is a metrics module")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use memori_event_log::driver::batch::{Batch, FlushCause};
use memori_event_log::driver::{Levels, Observer, Rebalance};
use memori_event_log::{LogError, TopicPartition};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::store::FlushReport;

const RECORDS: &str = "memori_writer_records_total";
const FLUSH_ROWS: &str = "memori_writer_flush_rows";
const FLUSH_SECONDS: &str = "memori_writer_flush_seconds";
const FLUSH_RETRIES: &str = "memori_writer_flush_retries_total";
const ROWS_WRITTEN: &str = "memori_writer_rows_written_total";
const APPLIED: &str = "memori_writer_applied_total";
const DEAD_LETTERED: &str = "memori_writer_dead_lettered_total";
const ERASED: &str = "memori_writer_erased_total";
const REFUSED: &str = "memori_writer_refused_total";
const PASSED: &str = "memori_writer_passed_total";
const FENCED: &str = "memori_writer_fenced_total";
const DROPPED: &str = "memori_writer_dropped_records_total";
const OF_DROPPED: &str = "memori_writer_dropped_generation_records_total";
const GENERATIONS: &str = "memori_generations";
const ROWS_FREED: &str = "memori_writer_generation_rows_freed_total";
const LOG_ERRORS: &str = "memori_writer_log_errors_total";
const IN_FLIGHT: &str = "memori_writer_in_flight_records";
const HELD_RECORDS: &str = "memori_writer_held_records";
const HELD_BYTES: &str = "memori_writer_held_bytes";
const LAG_EVENTS: &str = "memori_writer_lag_events";
const LAG_SECONDS: &str = "memori_writer_lag_seconds";
const HALTED: &str = "memori_writer_halted_partitions";
const RECALLABLE: &str = "memori_accepted_to_recallable_seconds";

/// Describes every metric once.
pub fn describe() {
    describe_counter!(RECORDS, "records flushed; labels: topic");
    describe_histogram!(FLUSH_ROWS, "records in a flush; labels: cause");
    describe_histogram!(FLUSH_SECONDS, "how long a flush took, retries included; labels: cause");
    describe_counter!(FLUSH_RETRIES, "flushes that failed and were tried again; labels: cause");
    describe_counter!(ROWS_WRITTEN, "rows written to the store");
    describe_counter!(APPLIED, "events that became applied");
    describe_counter!(DEAD_LETTERED, "events that became dead-lettered; labels: class");
    describe_counter!(ERASED, "events that became erased");
    describe_counter!(REFUSED, "fact events that the writer dead-lettered; labels: class");
    describe_counter!(PASSED, "records passed over because another owns their dead letter; labels: topic, class");
    describe_counter!(FENCED, "partitions at which another owner's write was met");
    describe_counter!(DROPPED, "records whose partition had gone before they were written");
    describe_counter!(OF_DROPPED, "records that the sink passed over because their generation is dropped");
    describe_gauge!(GENERATIONS, "generations beside the first that are `running` or `paused`; labels: state");
    describe_counter!(ROWS_FREED, "rows of dropped generations that were removed");
    for state in ["running", "paused"] {
        gauge!(GENERATIONS, "state" => state).set(0.0);
    }
    describe_counter!(LOG_ERRORS, "failures of the log that were tried again");
    describe_gauge!(IN_FLIGHT, "records that a flush is writing");
    describe_gauge!(HELD_RECORDS, "records that were read and are not yet written");
    describe_gauge!(HELD_BYTES, "bytes of records that were read and are not yet written");
    describe_gauge!(LAG_EVENTS, "records on the log that are not yet written; labels: topic, lane");
    describe_gauge!(LAG_SECONDS, "how long ago the log took the first record that is not yet written; labels: topic, lane");
    describe_gauge!(HALTED, "partitions that stand still until someone acts");
    describe_histogram!(RECALLABLE, "from an event's acceptance to the commit that makes its facts recallable");
    // A counter that begins with its first event has not grown by it: an alert on growth would miss the first of each.
    for name in [OF_DROPPED, ROWS_FREED, ROWS_WRITTEN, APPLIED, ERASED, FENCED, DROPPED, LOG_ERRORS] {
        counter!(name).increment(0);
    }
    for class in memori_schemas::DeadLetterClass::ALL {
        counter!(DEAD_LETTERED, "class" => class.as_str()).increment(0);
        counter!(REFUSED, "class" => class.as_str()).increment(0);
    }
    for cause in [FlushCause::Rows, FlushCause::Bytes, FlushCause::Age, FlushCause::Drain] {
        counter!(FLUSH_RETRIES, "cause" => cause.as_str()).increment(0);
    }
    // That a writer is there is read off these.
    for name in [IN_FLIGHT, HELD_RECORDS, HELD_BYTES, HALTED] {
        gauge!(name).set(0.0);
    }
}

/// A fact event was refused.
pub(crate) fn refused(class: &'static str) {
    counter!(REFUSED, "class" => class).increment(1);
}

/// A record was passed over.
pub(crate) fn passed(topic: &'static str, class: &'static str) {
    counter!(PASSED, "topic" => topic, "class" => class).increment(1);
}

/// A flush was committed at `now_us`.
pub(crate) fn committed(report: &FlushReport, now_us: i64) {
    counter!(ROWS_WRITTEN).increment(report.rows as u64);
    counter!(APPLIED).increment(report.applied);
    counter!(ERASED).increment(report.erased);
    for (class, count) in &report.dead_lettered {
        let known = memori_schemas::DeadLetterClass::parse(class).map_or("unknown", |c| c.as_str());
        counter!(DEAD_LETTERED, "class" => known).increment(*count);
    }
    for accepted_at_us in &report.applied_accepted_at_us {
        let micros = u64::try_from(now_us.saturating_sub(*accepted_at_us)).unwrap_or_default();
        histogram!(RECALLABLE).record(Duration::from_micros(micros).as_secs_f64());
    }
}

/// Turns what the driver tells into metrics.
#[derive(Debug, Default)]
pub struct SinkObserver {
    lags: Mutex<BTreeMap<TopicPartition, (i64, f64)>>,
    halted: Mutex<BTreeSet<TopicPartition>>,
    levels: Levels,
}

impl SinkObserver {
    /// Tells these levels as well.
    #[must_use]
    pub fn telling(levels: Levels) -> Self {
        Self { levels, ..Self::default() }
    }

    #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
    fn standing(&self, change: impl FnOnce(&mut BTreeSet<TopicPartition>)) {
        let mut halted = self.halted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut halted);
        gauge!(HALTED).set(halted.len() as f64);
    }

    fn lags(&self, change: impl FnOnce(&mut BTreeMap<TopicPartition, (i64, f64)>)) {
        let mut lags = self.lags.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before: BTreeSet<_> = lags.keys().map(|p| p.topic).collect();
        change(&mut lags);
        for topic in before.into_iter().chain(lags.keys().map(|p| p.topic).collect::<BTreeSet<_>>()) {
            let of_topic = || lags.iter().filter(|(p, _)| p.topic == topic).map(|(_, lag)| lag);
            let events: i64 = of_topic().map(|lag| lag.0).sum();
            let seconds = of_topic().map(|lag| lag.1).fold(0.0, f64::max);
            let lane = topic.lane().map_or("none", |lane| lane.as_str());
            #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
            gauge!(LAG_EVENTS, "topic" => topic.as_str(), "lane" => lane).set(events as f64);
            gauge!(LAG_SECONDS, "topic" => topic.as_str(), "lane" => lane).set(seconds);
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "gauges and histograms are floats")]
impl Observer for SinkObserver {
    fn in_flight(&self, records: usize) {
        self.levels.in_flight(records);
        gauge!(IN_FLIGHT).set(records as f64);
    }

    fn held(&self, records: usize, bytes: usize) {
        self.levels.held(records, bytes);
        gauge!(HELD_RECORDS).set(records as f64);
        gauge!(HELD_BYTES).set(bytes as f64);
    }

    fn lag(&self, partition: TopicPartition, events: i64, seconds: f64) {
        self.lags(|lags| {
            lags.insert(partition, (events, seconds));
        });
    }

    fn rebalanced(&self, change: Rebalance, partitions: &[TopicPartition]) {
        tracing::info!(?change, partitions = partitions.len(), "the assignment changed");
        self.standing(|halted| halted.retain(|p| !partitions.contains(p)));
        if change != Rebalance::Assigned {
            self.lags(|lags| lags.retain(|p, _| !partitions.contains(p)));
        }
    }

    fn dropped_by_epoch(&self, records: usize) {
        counter!(DROPPED).increment(records as u64);
    }

    fn halted(&self, partition: TopicPartition, reason: &str) {
        self.standing(|halted| _ = halted.insert(partition));
        tracing::error!(%partition, reason, "a partition stands still");
    }

    fn log_failed(&self, error: &LogError) {
        counter!(LOG_ERRORS).increment(1);
        tracing::warn!(%error, "the log failed; it is asked again");
    }

    fn fenced(&self, partition: TopicPartition) {
        counter!(FENCED).increment(1);
        tracing::warn!(%partition, "another owner has written; the partition's work was dropped");
    }

    fn flushed(&self, batch: &Batch, took: Duration) {
        let cause = batch.cause.as_str();
        histogram!(FLUSH_ROWS, "cause" => cause).record(batch.records.len() as f64);
        histogram!(FLUSH_SECONDS, "cause" => cause).record(took.as_secs_f64());
        for record in &batch.records {
            counter!(RECORDS, "topic" => record.source.topic.as_str()).increment(1);
        }
    }

    fn flush_retried(&self, cause: FlushCause, reason: &str, wait: Duration) {
        counter!(FLUSH_RETRIES, "cause" => cause.as_str()).increment(1);
        tracing::warn!(reason, wait_ms = wait.as_millis(), "a flush failed; it is tried again");
    }
}

pub(crate) fn of_dropped_generations(records: u64) {
    counter!(OF_DROPPED).increment(records);
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) fn generations(running: usize, paused: usize) {
    gauge!(GENERATIONS, "state" => "running").set(running as f64);
    gauge!(GENERATIONS, "state" => "paused").set(paused as f64);
}

pub(crate) fn generation_rows_freed(rows: u64) {
    counter!(ROWS_FREED).increment(rows);
}
