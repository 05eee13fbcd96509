//! What the next batch will be made of: records in the order in which they came, cut by rows, bytes or age.
//!
//! Promises: records of a partition leave in order and without a hole; each batch says, per partition, from which offset to which
//! it moves it, and these moves join end to end until the partition begins anew.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::seam::LogRecord;
use crate::topic::TopicPartition;

/// Why a batch was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushCause {
    /// It has as many records as it may.
    Rows,
    /// It has as many bytes.
    Bytes,
    /// Its first record has waited long enough.
    Age,
    /// Partitions go, or the process stops.
    Drain,
}

impl FlushCause {
    /// As a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Bytes => "bytes",
            Self::Age => "age",
            Self::Drain => "drain",
        }
    }
}

/// What is written in one transaction.
#[derive(Clone, Debug)]
pub struct Batch {
    /// In the order of each partition.
    pub records: Vec<LogRecord>,
    /// One per partition of `records`.
    pub advances: Vec<Advance>,
    /// Why it was cut here.
    pub cause: FlushCause,
}

/// How a batch moves one partition's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// Which.
    pub partition: TopicPartition,
    /// What the store's row must hold: what the sink's `starts` said or the advance before this one; 0 where `starts` left it
    /// to the log.
    pub from_offset: i64,
    /// What it holds then.
    pub next_offset: i64,
}

/// When a batch is due.
#[derive(Clone, Copy, Debug)]
pub struct GatherLimits {
    /// Records in a batch.
    pub rows: usize,
    /// Bytes in a batch; a larger record goes alone.
    pub bytes: usize,
    /// How long the first record waits.
    pub max_age: Duration,
}

/// The gathered records of one consumer.
#[derive(Debug)]
pub struct Gather {
    limits: GatherLimits,
    records: VecDeque<(Instant, LogRecord)>,
    bytes: usize,
    from: BTreeMap<TopicPartition, i64>,
}

impl Gather {
    /// Nothing gathered.
    #[must_use]
    pub fn new(limits: GatherLimits) -> Self {
        Self { limits, records: VecDeque::new(), bytes: 0, from: BTreeMap::new() }
    }

    /// From now on a batch has at most so many records. Whether that is another bound than before.
    pub fn set_rows(&mut self, rows: usize) -> bool {
        let moved = self.limits.rows != rows;
        self.limits.rows = rows;
        moved
    }

    /// A partition begins (anew) at an offset: what is gathered of it is dropped and returned.
    pub fn begin(&mut self, partition: TopicPartition, from_offset: i64) -> Vec<LogRecord> {
        let dropped = self.end(&[partition]);
        self.from.insert(partition, from_offset);
        dropped
    }

    /// Partitions are gone: what is gathered of them is dropped and returned.
    pub fn end(&mut self, partitions: &[TopicPartition]) -> Vec<LogRecord> {
        for partition in partitions {
            self.from.remove(partition);
        }
        let (gone, kept): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.records).into_iter().partition(|(_, record)| partitions.contains(&record.source));
        self.records = kept;
        let gone: Vec<LogRecord> = gone.into_iter().map(|(_, record)| record).collect();
        self.bytes -= gone.iter().map(LogRecord::bytes).sum::<usize>();
        gone
    }

    /// Gathers a record. One of a partition that has not begun comes back.
    ///
    /// # Errors
    /// The record, where its partition has not begun.
    pub fn push(&mut self, now: Instant, record: LogRecord) -> Result<(), LogRecord> {
        if !self.from.contains_key(&record.source) {
            return Err(record);
        }
        self.bytes += record.bytes();
        self.records.push_back((now, record));
        Ok(())
    }

    /// Why a batch is due now, if it is.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<FlushCause> {
        let (first, _) = self.records.front()?;
        if self.records.len() >= self.limits.rows {
            Some(FlushCause::Rows)
        } else if self.bytes >= self.limits.bytes {
            Some(FlushCause::Bytes)
        } else {
            (*first + self.limits.max_age <= now).then_some(FlushCause::Age)
        }
    }

    /// When the first record's age makes a batch due.
    #[must_use]
    pub fn due_at(&self) -> Option<Instant> {
        self.records.front().map(|(first, _)| *first + self.limits.max_age)
    }

    /// Takes a batch: as many of the first records as the limits allow, and one at least.
    pub fn take(&mut self, cause: FlushCause) -> Option<Batch> {
        let (mut rows, mut bytes) = (0, 0);
        for (_, record) in &self.records {
            if rows > 0 && (rows >= self.limits.rows || bytes + record.bytes() > self.limits.bytes) {
                break;
            }
            rows += 1;
            bytes += record.bytes();
        }
        let records: Vec<LogRecord> = self.records.drain(..rows).map(|(_, record)| record).collect();
        self.bytes -= bytes;
        let mut ends: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        for record in &records {
            ends.insert(record.source, record.offset + 1);
        }
        let advances: Vec<Advance> = ends
            .into_iter()
            .filter_map(|(partition, next_offset)| {
                let from_offset = self.from.insert(partition, next_offset)?;
                Some(Advance { partition, from_offset, next_offset })
            })
            .collect();
        (!records.is_empty()).then_some(Batch { records, advances, cause })
    }

    /// A batch was not written: its records go back to the front, but for those of partitions that have begun anew since or are
    /// gone (`counts` says which still count), which are returned.
    pub fn restore(&mut self, now: Instant, batch: Batch, counts: impl Fn(TopicPartition) -> bool) -> Vec<LogRecord> {
        let mut dropped = Vec::new();
        for record in batch.records.into_iter().rev() {
            if counts(record.source) {
                self.bytes += record.bytes();
                self.records.push_front((now, record));
            } else {
                dropped.push(record);
            }
        }
        for advance in batch.advances.into_iter().filter(|advance| counts(advance.partition)) {
            self.from.insert(advance.partition, advance.from_offset);
        }
        dropped
    }

    /// Whether anything of this partition is gathered.
    #[must_use]
    pub fn holds(&self, partition: TopicPartition) -> bool {
        self.first_of(partition).is_some()
    }

    /// The first gathered record of a partition.
    #[must_use]
    pub fn first_of(&self, partition: TopicPartition) -> Option<&LogRecord> {
        self.records.iter().map(|(_, record)| record).find(|record| record.source == partition)
    }

    /// Records gathered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing is gathered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::topic::Topic;

    fn at(partition: i32) -> TopicPartition {
        TopicPartition { topic: Topic::ConversationsLive, partition }
    }

    fn record(partition: i32, offset: i64, size: usize) -> LogRecord {
        LogRecord {
            source: at(partition),
            offset,
            appended_at_ms: 0,
            key: Bytes::new(),
            payload: Bytes::from(vec![0; size]),
            headers: Vec::new(),
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Partition, gap before the offset, size.
        Push(i32, i64, usize),
        /// Take, and write (true) or restore.
        Take(bool),
        /// The partition moves to another offset, as after a fence.
        Begin(i32, i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => ((0..3_i32), (0..3_i64), (0..40_usize)).prop_map(|(p, gap, size)| Step::Push(p, gap, size)),
            3 => any::<bool>().prop_map(Step::Take),
            1 => ((0..3_i32), (0..1000_i64)).prop_map(|(p, from)| Step::Begin(p, from)),
        ]
    }

    proptest! {
        /// The model is a store: one row per partition, compared and moved as the sink does it, and per partition what came in.
        #[test]
        fn what_is_written_joins_end_to_end(steps in proptest::collection::vec(step(), 0..200)) {
            let now = Instant::now();
            let mut gather = Gather::new(GatherLimits { rows: 5, bytes: 60, max_age: Duration::from_secs(1) });
            let (mut rows, mut waiting, mut last) = ([0_i64; 3], [const { Vec::<i64>::new() }; 3], [0_i64; 3]);
            for partition in 0..3 {
                gather.begin(at(partition), 0);
            }
            for step in steps {
                match step {
                    Step::Push(partition, gap, size) => {
                        let p = usize::try_from(partition).expect("small");
                        let offset = last[p] + gap;
                        last[p] = offset + 1;
                        waiting[p].push(offset);
                        prop_assert!(gather.push(now, record(partition, offset, size)).is_ok());
                    }
                    Step::Begin(partition, from) => {
                        let p = usize::try_from(partition).expect("small");
                        let dropped: Vec<i64> = gather.begin(at(partition), from).iter().map(|r| r.offset).collect();
                        prop_assert_eq!(&dropped, &waiting[p]);
                        waiting[p].clear();
                        (rows[p], last[p]) = (from, from);
                    }
                    Step::Take(write) => {
                        let Some(batch) = gather.take(FlushCause::Age) else {
                            prop_assert!(waiting.iter().all(Vec::is_empty));
                            continue;
                        };
                        let bytes: usize = batch.records.iter().map(LogRecord::bytes).sum();
                        prop_assert!(batch.records.len() <= 5 && (bytes <= 60 || batch.records.len() == 1));
                        if !write {
                            prop_assert!(gather.restore(now, batch, |_| true).is_empty());
                            continue;
                        }
                        for advance in &batch.advances {
                            let p = usize::try_from(advance.partition.partition).expect("small");
                            prop_assert_eq!(rows[p], advance.from_offset, "the compare would fail");
                            rows[p] = advance.next_offset;
                            let written: Vec<i64> =
                                batch.records.iter().filter(|r| r.source == advance.partition).map(|r| r.offset).collect();
                            prop_assert_eq!(written.last().copied(), Some(advance.next_offset - 1));
                            let expected: Vec<i64> = waiting[p].drain(..written.len()).collect();
                            prop_assert_eq!(written, expected);
                        }
                    }
                }
                prop_assert_eq!(gather.len(), waiting.iter().map(Vec::len).sum::<usize>());
            }
        }
    }

    #[test]
    fn rows_that_are_moved_cut_the_next_batch() {
        let now = Instant::now();
        let mut gather = Gather::new(GatherLimits { rows: 10, bytes: 100, max_age: Duration::from_secs(1) });
        gather.begin(at(0), 0);
        for offset in 0..5 {
            gather.push(now, record(0, offset, 1)).expect("begun");
        }
        assert_eq!(gather.due(now), None);
        assert!(gather.set_rows(2) && !gather.set_rows(2), "it is another bound once");
        assert_eq!(gather.due(now), Some(FlushCause::Rows));
        assert_eq!(gather.take(FlushCause::Rows).map(|batch| batch.records.len()), Some(2));
        assert!(gather.set_rows(10));
        assert_eq!(gather.take(FlushCause::Age).map(|batch| batch.records.len()), Some(3));
    }

    #[test]
    fn is_due_by_rows_bytes_or_age() {
        let now = Instant::now();
        let limits = GatherLimits { rows: 2, bytes: 100, max_age: Duration::from_millis(10) };
        let mut gather = Gather::new(limits);
        gather.begin(at(0), 0);
        assert_eq!(gather.due(now), None);
        gather.push(now, record(0, 0, 1)).expect("begun");
        assert_eq!((gather.due(now), gather.due_at()), (None, Some(now + limits.max_age)));
        assert_eq!(gather.due(now + limits.max_age), Some(FlushCause::Age));
        gather.push(now, record(0, 1, 1)).expect("begun");
        assert_eq!(gather.due(now), Some(FlushCause::Rows));
        gather.begin(at(0), 2);
        gather.push(now, record(0, 2, 100)).expect("begun");
        assert_eq!(gather.due(now), Some(FlushCause::Bytes));
        assert!(gather.push(now, record(1, 0, 1)).is_err(), "not begun");
    }
}
