//! What the worker counts. Labels are bounded: lanes, kinds, classes, reasons from fixed lists.

#![allow(clippy::disallowed_macros, reason = "this is the metrics module")]

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use memori_event_log::driver::{Levels, Observer, Rebalance};
use memori_event_log::{LogError, TopicPartition};
use memori_schemas::{DeadLetterClass, FactKind, Lane};
use memori_service::health::Health;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Events being worked on.
pub const IN_FLIGHT: &str = "memori_worker_events_in_flight";
/// Events held: read and not yet done.
pub const HELD_EVENTS: &str = "memori_worker_held_events";
/// Their bytes.
pub const HELD_BYTES: &str = "memori_worker_held_bytes";
/// Whether the budget is full and reading pauses (1).
pub const PAUSED: &str = "memori_worker_paused";
/// Events whose facts are in the log, by lane.
pub const EXTRACTED: &str = "memori_worker_events_extracted_total";
/// Facts in the log, by kind.
pub const FACTS: &str = "memori_worker_facts_total";
/// Records given up, by class.
pub const DEAD_LETTERED: &str = "memori_worker_events_dead_lettered_total";
/// Attempts that are repeated, by reason.
pub const RETRIES: &str = "memori_worker_retries_total";
/// Seconds of one call to the extractor, by lane.
pub const EXTRACTION_SECONDS: &str = "memori_worker_extraction_seconds";
/// Calls to the extractor, repeated ones included, by lane. Over [`EXTRACTED`]: what windows save.
pub const EXTRACTIONS: &str = "memori_worker_extractions_total";
/// Windows that failed for good and were worked on event by event, by class.
pub const WINDOWS_APART: &str = "memori_worker_windows_apart_total";
/// Outcomes of windows that did not fit one record and were split by event.
pub const OUTCOMES_SPLIT: &str = "memori_worker_outcomes_split_total";
/// Events not yet done, by lane.
pub const LAG_EVENTS: &str = "memori_worker_lag_events";
/// Age of the oldest of them, by lane.
pub const LAG_SECONDS: &str = "memori_worker_lag_seconds";
/// Changes of the assignment, by change.
pub const REBALANCES: &str = "memori_worker_rebalances_total";
/// Work dropped because its partition had gone.
pub const DROPPED: &str = "memori_worker_dropped_by_epoch_total";
/// Events that came again and had been done before the restart or rebalance.
pub const SKIPPED: &str = "memori_worker_skipped_as_finished_total";
/// Events that are put off now: read past, because their tenant holds its share of a full budget.
pub const DEFERRED: &str = "memori_worker_deferred_events";
/// Events that were put off.
pub const PUT_OFF: &str = "memori_worker_put_off_total";
/// Events that were put off and have been read again.
pub const REREAD: &str = "memori_worker_reread_total";
/// Work that stood still for too long; the worker ends.
pub const STALLS: &str = "memori_worker_stalls_total";
/// Partitions that stand still until someone acts.
pub const HALTED: &str = "memori_worker_halted_partitions";
/// Failures to read or to commit.
pub const LOG_FAILURES: &str = "memori_worker_log_failures_total";
/// Vectors made, by what they are of.
pub const VECTORS: &str = "memori_worker_vectors_total";
/// Texts that stay without a vector, by cause.
pub const VECTORS_LEFT_OUT: &str = "memori_worker_vectors_left_out_total";

/// Replays that run in this process.
pub const REPLAYS_RUNNING: &str = "memori_worker_replays_running";
/// Records that the replays of this process have not come to.
pub const REPLAY_LAG: &str = "memori_worker_replay_lag_events";
/// Events that were carried over from one generation to another.
pub const CARRIED: &str = "memori_worker_events_carried_over_total";

/// Whether a burst of dead letters holds the worker back (1).
pub const DEAD_LETTER_BURST: &str = "memori_worker_dead_letter_burst";

/// Why texts have no vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeftOut {
    /// There is no model, or none is wanted.
    NoModel,
    /// The embedder gave up after its retries.
    Unavailable,
    /// The embedder will never do it.
    Refused,
    /// With them the record would not fit the log.
    TooLarge,
}

impl LeftOut {
    const ALL: [Self; 4] = [Self::NoModel, Self::Unavailable, Self::Refused, Self::TooLarge];

    fn as_str(self) -> &'static str {
        match self {
            Self::NoModel => "no_model",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::TooLarge => "too_large",
        }
    }
}

/// The reasons of [`RETRIES`].
const RETRY_REASONS: [&str; 10] = [
    "timeout",
    "rate_limited",
    "unavailable",
    "misconfigured",
    "out_of_quota",
    "not_asked",
    "extractor_down",
    "append_unconfirmed",
    "fenced",
    "dead_letter_burst",
];

/// The worker of the live lanes runs here: its absence is an alert, which a process for replays alone must not silence.
pub(crate) fn begins() {
    gauge!(PAUSED).set(0.0);
}

/// Describes every metric once, and makes the counters that an alarm may ask for before they first count.
pub fn describe() {
    describe_gauge!(IN_FLIGHT, "events being worked on");
    describe_gauge!(HELD_EVENTS, "events read and not yet done");
    describe_gauge!(HELD_BYTES, Unit::Bytes, "bytes of events read and not yet done");
    describe_gauge!(PAUSED, "1 while the budget is full and reading pauses");
    describe_counter!(EXTRACTED, "events whose facts are in the log; labels: lane");
    describe_counter!(FACTS, "facts in the log; labels: kind");
    describe_counter!(DEAD_LETTERED, "records given up; labels: class");
    describe_counter!(RETRIES, "attempts that are repeated; labels: reason");
    describe_histogram!(EXTRACTION_SECONDS, Unit::Seconds, "one call to the extractor; labels: lane");
    describe_counter!(
        EXTRACTIONS,
        "calls to the extractor, repeated ones included; beside `…_events_extracted_total` it shows what windows save; labels: lane"
    );
    describe_counter!(WINDOWS_APART, "windows that failed for good, and were worked on event by event; labels: class");
    describe_counter!(OUTCOMES_SPLIT, "outcomes of windows that did not fit one record");
    describe_gauge!(LAG_EVENTS, "events in the log that are not yet done; labels: lane");
    describe_gauge!(LAG_SECONDS, Unit::Seconds, "age of the oldest event in the log that is not yet done; labels: lane");
    describe_counter!(REBALANCES, "changes of the assignment; labels: change");
    describe_counter!(DROPPED, "work dropped because its partition had gone");
    describe_counter!(
        SKIPPED,
        "events that came again after a restart or a rebalance, had been done before it, and were not worked on again"
    );
    describe_gauge!(DEFERRED, "events put off now: read past, because their tenant holds its share of a full budget");
    describe_counter!(PUT_OFF, "events that were put off");
    describe_counter!(REREAD, "events that were put off and have been read again");
    describe_counter!(STALLS, "work that stood still for `worker.stall_after_ms`: the worker ends, to be started again");
    describe_gauge!(HALTED, "partitions that stand still until someone acts");
    describe_counter!(VECTORS, "vectors made, of `fact` or `message`; labels: of");
    describe_counter!(
        VECTORS_LEFT_OUT,
        "texts that stay without a vector: `no_model`, `unavailable`, `refused`, `too_large`; labels: cause"
    );
    describe_counter!(LOG_FAILURES, "failures to read the log or to commit");
    for lane in Lane::ALL {
        counter!(EXTRACTED, "lane" => lane.as_str()).increment(0);
        counter!(EXTRACTIONS, "lane" => lane.as_str()).increment(0);
        gauge!(LAG_EVENTS, "lane" => lane.as_str()).set(0.0);
        gauge!(LAG_SECONDS, "lane" => lane.as_str()).set(0.0);
    }
    for class in DeadLetterClass::ALL {
        counter!(DEAD_LETTERED, "class" => class.as_str()).increment(0);
        counter!(WINDOWS_APART, "class" => class.as_str()).increment(0);
    }
    for kind in FactKind::ALL {
        counter!(FACTS, "kind" => kind.as_str()).increment(0);
    }
    for reason in RETRY_REASONS {
        counter!(RETRIES, "reason" => reason).increment(0);
    }
    for of in ["fact", "message"] {
        counter!(VECTORS, "of" => of).increment(0);
    }
    for cause in LeftOut::ALL {
        counter!(VECTORS_LEFT_OUT, "cause" => cause.as_str()).increment(0);
    }
    counter!(OUTCOMES_SPLIT).increment(0);
    counter!(DROPPED).increment(0);
    counter!(SKIPPED).increment(0);
    counter!(LOG_FAILURES).increment(0);
    describe_gauge!(DEAD_LETTER_BURST, "1 while a burst of dead letters holds the worker back");
    gauge!(DEAD_LETTER_BURST).set(0.0);
    for counted in [PUT_OFF, REREAD, STALLS] {
        counter!(counted).increment(0);
    }
    describe_gauge!(REPLAYS_RUNNING, "replays that run in this process");
    describe_gauge!(REPLAY_LAG, "records that the replays of this process have not come to");
    describe_counter!(CARRIED, "events that were carried over from one generation to another");
    gauge!(REPLAYS_RUNNING).set(0.0);
    gauge!(REPLAY_LAG).set(0.0);
    counter!(CARRIED).increment(0);
    gauge!(DEFERRED).set(0.0);
    gauge!(HALTED).set(0.0);
    gauge!(IN_FLIGHT).set(0.0);
    crate::llm::metrics::describe();
}

pub(crate) fn extracted(lane: Lane, events: usize, kinds: &BTreeMap<FactKind, u64>) {
    counter!(EXTRACTED, "lane" => lane.as_str()).increment(events as u64);
    for (kind, n) in kinds {
        counter!(FACTS, "kind" => kind.as_str()).increment(*n);
    }
}

pub(crate) fn vectors(facts: usize, messages: usize) {
    counter!(VECTORS, "of" => "fact").increment(facts as u64);
    counter!(VECTORS, "of" => "message").increment(messages as u64);
}

pub(crate) fn vectors_left_out(cause: LeftOut, texts: usize) {
    counter!(VECTORS_LEFT_OUT, "cause" => cause.as_str()).increment(texts as u64);
}

pub(crate) fn dead_lettered(class: DeadLetterClass) {
    counter!(DEAD_LETTERED, "class" => class.as_str()).increment(1);
}

pub(crate) fn dead_letter_burst(on: bool) {
    gauge!(DEAD_LETTER_BURST).set(f64::from(u8::from(on)));
}

pub(crate) fn carried_over(events: usize) {
    counter!(CARRIED).increment(events as u64);
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) fn replays_running(replays: usize) {
    gauge!(REPLAYS_RUNNING).set(replays as f64);
}

/// What the driver of a replay tells.
#[derive(Debug, Default)]
pub(crate) struct OfReplay(Mutex<BTreeMap<TopicPartition, i64>>);

impl OfReplay {
    /// What this replay adds to the lag of all.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    fn tell(&self, change: impl FnOnce(&mut BTreeMap<TopicPartition, i64>)) {
        let mut lags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before: i64 = lags.values().sum();
        change(&mut lags);
        gauge!(REPLAY_LAG).increment((lags.values().sum::<i64>() - before) as f64);
    }
}

impl Drop for OfReplay {
    fn drop(&mut self) {
        self.tell(BTreeMap::clear);
    }
}

impl Observer for OfReplay {
    fn lag(&self, partition: TopicPartition, events: i64, _seconds: f64) {
        self.tell(|lags| {
            lags.insert(partition, events);
        });
    }

    fn rebalanced(&self, change: Rebalance, partitions: &[TopicPartition]) {
        if change != Rebalance::Assigned {
            self.tell(|lags| lags.retain(|partition, _| !partitions.contains(partition)));
        }
    }

    fn dropped_by_epoch(&self, records: usize) {
        counter!(DROPPED).increment(records as u64);
    }

    fn halted(&self, partition: TopicPartition, reason: &str) {
        tracing::error!(%partition, reason, "a partition of a replay stands still");
    }

    fn log_failed(&self, error: &LogError) {
        counter!(LOG_FAILURES).increment(1);
        tracing::warn!(%error, "the log failed a replay; asking again");
    }
}

/// `reason` is one of [`RETRY_REASONS`].
pub(crate) fn retried(reason: &'static str) {
    debug_assert!(RETRY_REASONS.contains(&reason), "an undeclared reason");
    counter!(RETRIES, "reason" => reason).increment(1);
}

pub(crate) fn window_apart(class: DeadLetterClass) {
    counter!(WINDOWS_APART, "class" => class.as_str()).increment(1);
}

pub(crate) fn outcome_split() {
    counter!(OUTCOMES_SPLIT).increment(1);
}

pub(crate) fn extraction_took(lane: Lane, took: Duration) {
    counter!(EXTRACTIONS, "lane" => lane.as_str()).increment(1);
    histogram!(EXTRACTION_SECONDS, "lane" => lane.as_str()).record(took.as_secs_f64());
}

/// Turns what the driver tells into metrics.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    lags: Mutex<BTreeMap<TopicPartition, (i64, f64)>>,
    halted: Mutex<std::collections::BTreeSet<TopicPartition>>,
    levels: Levels,
    health: Option<Health>,
}

impl Metrics {
    /// Tells these as well.
    pub(crate) fn telling(levels: Levels, health: Option<Health>) -> Self {
        Self { levels, health, ..Self::default() }
    }

    fn show_lag(lags: &BTreeMap<TopicPartition, (i64, f64)>) {
        for lane in Lane::ALL {
            let of_lane = || lags.iter().filter(|(partition, _)| partition.topic.lane() == Some(*lane)).map(|(_, lag)| *lag);
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            gauge!(LAG_EVENTS, "lane" => lane.as_str()).set(of_lane().map(|(events, _)| events).sum::<i64>() as f64);
            gauge!(LAG_SECONDS, "lane" => lane.as_str()).set(of_lane().map(|(_, seconds)| seconds).fold(0.0, f64::max));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
impl Observer for Metrics {
    fn in_flight(&self, records: usize) {
        self.levels.in_flight(records);
        gauge!(IN_FLIGHT).set(records as f64);
    }

    fn held(&self, records: usize, bytes: usize) {
        self.levels.held(records, bytes);
        gauge!(HELD_EVENTS).set(records as f64);
        gauge!(HELD_BYTES).set(bytes as f64);
    }

    fn paused(&self, paused: bool) {
        gauge!(PAUSED).set(f64::from(u8::from(paused)));
    }

    fn lag(&self, partition: TopicPartition, events: i64, seconds: f64) {
        let mut lags = self.lags.lock().unwrap_or_else(PoisonError::into_inner);
        lags.insert(partition, (events, seconds));
        Self::show_lag(&lags);
    }

    fn rebalanced(&self, change: Rebalance, partitions: &[TopicPartition]) {
        let name = match change {
            Rebalance::Assigned => "assigned",
            Rebalance::Revoked => "revoked",
            Rebalance::Lost => "lost",
        };
        counter!(REBALANCES, "change" => name).increment(1);
        if change != Rebalance::Assigned {
            let mut lags = self.lags.lock().unwrap_or_else(PoisonError::into_inner);
            lags.retain(|partition, _| !partitions.contains(partition));
            Self::show_lag(&lags);
            let mut halted = self.halted.lock().unwrap_or_else(PoisonError::into_inner);
            halted.retain(|partition| !partitions.contains(partition));
            gauge!(HALTED).set(halted.len() as f64);
        }
    }

    fn dropped_by_epoch(&self, records: usize) {
        counter!(DROPPED).increment(records as u64);
    }

    fn skipped_as_finished(&self, records: usize) {
        counter!(SKIPPED).increment(records as u64);
    }

    fn deferred(&self, records: usize) {
        gauge!(DEFERRED).set(records as f64);
    }

    fn put_off(&self, records: usize) {
        counter!(PUT_OFF).increment(records as u64);
    }

    fn reread(&self, records: usize) {
        counter!(REREAD).increment(records as u64);
    }

    fn stalled(&self, partition: TopicPartition, still: Duration) {
        counter!(STALLS).increment(1);
        if let Some(health) = &self.health {
            let seconds = still.as_secs();
            health.part_failed("worker", format!("work on {partition} has stood still for {seconds} s; the process ends"));
        }
    }

    fn halted(&self, partition: TopicPartition, _reason: &str) {
        let mut halted = self.halted.lock().unwrap_or_else(PoisonError::into_inner);
        halted.insert(partition);
        gauge!(HALTED).set(halted.len() as f64);
    }

    fn log_failed(&self, error: &LogError) {
        counter!(LOG_FAILURES).increment(1);
        tracing::warn!(%error, "the log failed; asking again");
    }

    fn fenced(&self, partition: TopicPartition) {
        tracing::warn!(%partition, "another owner has the partition; its work is dropped");
    }
}
