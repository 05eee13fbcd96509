//! What the next batch will be made of: records in the order in which they came, cut by rows, bytes or age; those of the backfill lane
//! behind all others.
//!
//! Promises: records of a partition leave in order and without a hole; each batch says, per partition, from which offset to which
//! it moves it, and these moves join end to end until the partition begins anew. What is not backfill waits for none of it but for what is
//! being written, and while such comes, that is little.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use memori_schemas::Lane;
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
    /// How long a record waits that somebody waits for.
    pub max_age: Duration,
    /// How the others stand back.
    pub backfill: StandBack,
}

/// How records that nobody waits for stand back behind all others: those of the backfill lane, and those that are late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandBack {
    /// How long one waits that is late ([`crate::seam::LATE`]), unless another makes a batch due before.
    pub late_max_age: Duration,
    /// How long the first of the backfill lane waits.
    pub max_age: Duration,
    /// How many of that lane a batch has at most while others come: whoever comes next waits until they are written.
    pub rows_beside: usize,
}

impl StandBack {
    /// They wait as long as others, and are as many.
    #[must_use]
    pub fn never(max_age: Duration) -> Self {
        Self { late_max_age: max_age, max_age, rows_beside: usize::MAX }
    }
}

/// Others come as long as the last one came no longer ago than this.
const BESIDE: Duration = Duration::from_secs(1);

/// The gathered records of one consumer.
#[derive(Debug)]
pub struct Gather {
    limits: GatherLimits,
    first: Line,
    backfill: Line,
    /// When the last record came that is not backfill.
    first_came_at: Option<Instant>,
    from: BTreeMap<TopicPartition, i64>,
}

/// Records in the order in which they came, each with when it makes a batch due.
#[derive(Debug, Default)]
struct Line {
    records: VecDeque<(Instant, LogRecord)>,
    bytes: usize,
    /// The earliest.
    due_at: Option<Instant>,
}

impl Line {
    fn push(&mut self, due_at: Instant, record: LogRecord) {
        self.bytes += record.bytes();
        self.due_at = Some(self.due_at.map_or(due_at, |earliest| earliest.min(due_at)));
        self.records.push_back((due_at, record));
    }

    fn push_front(&mut self, due_at: Instant, record: LogRecord) {
        self.bytes += record.bytes();
        self.due_at = Some(self.due_at.map_or(due_at, |earliest| earliest.min(due_at)));
        self.records.push_front((due_at, record));
    }

    fn look_when_due(&mut self) {
        self.due_at = self.records.iter().map(|(due_at, _)| *due_at).min();
    }

    /// Drops what is of these.
    fn end(&mut self, partitions: &[TopicPartition]) -> Vec<LogRecord> {
        let (gone, kept): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.records).into_iter().partition(|(_, record)| partitions.contains(&record.source));
        self.records = kept;
        let gone: Vec<LogRecord> = gone.into_iter().map(|(_, record)| record).collect();
        self.bytes -= gone.iter().map(LogRecord::bytes).sum::<usize>();
        self.look_when_due();
        gone
    }

    /// Moves the first of them behind `batch`, up to so many rows of its own and up to the bounds of the whole.
    fn take(&mut self, most: usize, limits: &GatherLimits, batch: &mut Vec<LogRecord>, bytes: &mut usize) {
        for _ in 0..most {
            let Some((_, next)) = self.records.front() else { break };
            if !batch.is_empty() && (batch.len() >= limits.rows || *bytes + next.bytes() > limits.bytes) {
                break;
            }
            let Some((_, record)) = self.records.pop_front() else { break };
            *bytes += record.bytes();
            self.bytes -= record.bytes();
            batch.push(record);
        }
        self.look_when_due();
    }
}

pub(crate) fn is_backfill(partition: TopicPartition) -> bool {
    partition.topic.lane() == Some(Lane::Backfill)
}

impl Gather {
    /// Nothing gathered.
    #[must_use]
    pub fn new(limits: GatherLimits) -> Self {
        Self { limits, first: Line::default(), backfill: Line::default(), first_came_at: None, from: BTreeMap::new() }
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
        let mut gone = self.first.end(partitions);
        gone.extend(self.backfill.end(partitions));
        gone
    }

    fn line(&mut self, partition: TopicPartition) -> &mut Line {
        if is_backfill(partition) { &mut self.backfill } else { &mut self.first }
    }

    /// Gathers a record. One of a partition that has not begun comes back.
    ///
    /// # Errors
    /// The record, where its partition has not begun.
    pub fn push(&mut self, now: Instant, record: LogRecord) -> Result<(), LogRecord> {
        if !self.from.contains_key(&record.source) {
            return Err(record);
        }
        let max_age = if is_backfill(record.source) {
            self.limits.backfill.max_age
        } else {
            self.first_came_at = Some(now);
            if record.is_late() { self.limits.backfill.late_max_age } else { self.limits.max_age }
        };
        self.line(record.source).push(now + max_age, record);
        Ok(())
    }

    /// How many records of backfill a batch may have.
    fn backfill_rows(&self, now: Instant) -> usize {
        let beside = !self.first.records.is_empty() || self.first_came_at.is_some_and(|came| now < came + BESIDE);
        if beside { self.limits.backfill.rows_beside.max(1) } else { usize::MAX }
    }

    /// Why a batch is due now, if it is.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<FlushCause> {
        if self.len() >= self.limits.rows || self.backfill.records.len() >= self.backfill_rows(now) {
            Some(FlushCause::Rows)
        } else if self.first.bytes + self.backfill.bytes >= self.limits.bytes {
            Some(FlushCause::Bytes)
        } else {
            self.due_at().is_some_and(|due| due <= now).then_some(FlushCause::Age)
        }
    }

    /// When a record's age makes a batch due.
    #[must_use]
    pub fn due_at(&self) -> Option<Instant> {
        [self.first.due_at, self.backfill.due_at].into_iter().flatten().min()
    }

    /// Takes a batch: as many of the first records as the limits allow, and one at least. Backfill whose time has not come stays, where
    /// there is anything else.
    pub fn take(&mut self, now: Instant, cause: FlushCause) -> Option<Batch> {
        let most = self.backfill_rows(now);
        let waits = cause == FlushCause::Age && self.backfill.due_at.is_some_and(|due| now < due);
        let (mut records, mut bytes) = (Vec::new(), 0);
        self.first.take(usize::MAX, &self.limits, &mut records, &mut bytes);
        if records.is_empty() || !waits {
            self.backfill.take(most, &self.limits, &mut records, &mut bytes);
        }
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
                let due_at = now + self.limits.max_age;
                self.line(record.source).push_front(due_at, record);
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
        let line = if is_backfill(partition) { &self.backfill } else { &self.first };
        line.records.iter().map(|(_, record)| record).find(|record| record.source == partition)
    }

    /// Records gathered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.first.records.len() + self.backfill.records.len()
    }

    /// Whether nothing is gathered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::topic::Topic;

    /// The last is of backfill.
    fn at(partition: i32) -> TopicPartition {
        TopicPartition { topic: if partition < 2 { Topic::ConversationsLive } else { Topic::FactsBackfill }, partition }
    }

    fn limits(rows: usize, bytes: usize, max_age: Duration) -> GatherLimits {
        GatherLimits { rows, bytes, max_age, backfill: StandBack::never(max_age) }
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
        /// So many milliseconds go by.
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => ((0..3_i32), (0..3_i64), (0..40_usize)).prop_map(|(p, gap, size)| Step::Push(p, gap, size)),
            3 => any::<bool>().prop_map(Step::Take),
            1 => ((0..3_i32), (0..1000_i64)).prop_map(|(p, from)| Step::Begin(p, from)),
            2 => (0..2_000_u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// The model is a store: one row per partition, compared and moved as the sink does it, and per partition what came in.
        #[test]
        fn what_is_written_joins_end_to_end(steps in proptest::collection::vec(step(), 0..200)) {
            let mut now = Instant::now();
            let mut gather = Gather::new(GatherLimits { backfill: StandBack { rows_beside: 2, ..StandBack::never(Duration::from_secs(3)) }, ..limits(5, 60, Duration::from_secs(1)) });
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
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                    Step::Take(write) => {
                        let (first, backfill) = (waiting[0].len() + waiting[1].len(), waiting[2].len());
                        let Some(batch) = gather.take(now, FlushCause::Age) else {
                            prop_assert!(waiting.iter().all(Vec::is_empty));
                            continue;
                        };
                        let bytes: usize = batch.records.iter().map(LogRecord::bytes).sum();
                        prop_assert!(batch.records.len() <= 5 && (bytes <= 60 || batch.records.len() == 1));
                        let of_backfill = batch.records.iter().filter(|record| is_backfill(record.source)).count();
                        prop_assert!(first == 0 || !is_backfill(batch.records[0].source), "backfill goes behind");
                        prop_assert!(first == 0 || of_backfill <= 2, "and is little beside others: {}", backfill);
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
        let mut gather = Gather::new(limits(10, 100, Duration::from_secs(1)));
        gather.begin(at(0), 0);
        for offset in 0..5 {
            gather.push(now, record(0, offset, 1)).expect("begun");
        }
        assert_eq!(gather.due(now), None);
        assert!(gather.set_rows(2) && !gather.set_rows(2), "it is another bound once");
        assert_eq!(gather.due(now), Some(FlushCause::Rows));
        assert_eq!(gather.take(now, FlushCause::Rows).map(|batch| batch.records.len()), Some(2));
        assert!(gather.set_rows(10));
        assert_eq!(gather.take(now, FlushCause::Age).map(|batch| batch.records.len()), Some(3));
    }

    #[test]
    fn is_due_by_rows_bytes_or_age() {
        let now = Instant::now();
        let limits = limits(2, 100, Duration::from_millis(10));
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

    #[test]
    fn backfill_stands_back_while_others_come() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let backfill = StandBack { late_max_age: ms(20), max_age: ms(30), rows_beside: 2 };
        let mut gather = Gather::new(GatherLimits { backfill, ..limits(10, 1_000, ms(5)) });
        gather.begin(at(0), 0);
        gather.begin(at(2), 0);
        let offsets = |batch: Option<Batch>| -> Vec<(i32, i64)> {
            batch.into_iter().flat_map(|batch| batch.records).map(|record| (record.source.partition, record.offset)).collect()
        };
        for offset in 0..3 {
            gather.push(now, record(2, offset, 1)).expect("begun");
        }
        assert_eq!((gather.due(now + ms(5)), gather.due_at()), (None, Some(now + ms(30))), "it waits longer");
        gather.push(now + ms(5), record(0, 0, 1)).expect("begun");
        assert_eq!(gather.due(now + ms(5)), Some(FlushCause::Rows), "now so many are too many");
        assert_eq!(offsets(gather.take(now + ms(5), FlushCause::Rows)), [(0, 0), (2, 0), (2, 1)]);
        gather.push(now + ms(6), record(0, 1, 1)).expect("begun");
        assert_eq!(gather.due_at(), Some(now + ms(11)));
        assert_eq!(offsets(gather.take(now + ms(11), FlushCause::Age)), [(0, 1)], "its time has not come");
        assert_eq!(gather.due(now + ms(30)), Some(FlushCause::Age));
        for offset in 3..9 {
            gather.push(now + ms(40), record(2, offset, 1)).expect("begun");
        }
        assert_eq!(offsets(gather.take(now + ms(40), FlushCause::Age)), [(2, 2), (2, 3)], "others have just come");
        let later = now + ms(6) + BESIDE;
        assert_eq!(offsets(gather.take(later, FlushCause::Age)), [(2, 4), (2, 5), (2, 6), (2, 7), (2, 8)], "nobody is beside");
    }

    #[test]
    fn what_is_late_waits_for_company_and_goes_along_with_what_is_not() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let backfill = StandBack { late_max_age: ms(50), ..StandBack::never(ms(5)) };
        let mut gather = Gather::new(GatherLimits { backfill, ..limits(2, 1_000, ms(5)) });
        gather.begin(at(0), 0);
        let late = |offset| {
            let headers = vec![crate::seam::Header { name: crate::seam::LATE.into(), value: Bytes::new() }];
            LogRecord { headers, ..record(0, offset, 1) }
        };
        gather.push(now, late(0)).expect("begun");
        assert_eq!((gather.due(now + ms(5)), gather.due_at()), (None, Some(now + ms(50))));
        gather.push(now + ms(5), record(0, 1, 1)).expect("begun");
        assert_eq!(gather.due_at(), Some(now + ms(10)), "somebody waits for this one");
        gather.push(now + ms(6), late(2)).expect("begun");
        let written = gather.take(now + ms(10), FlushCause::Age).expect("both");
        assert_eq!(written.records.len(), 2);
        assert_eq!(gather.due_at(), Some(now + ms(56)), "of what is left");
        gather.restore(now + ms(20), written, |_| true);
        assert_eq!(gather.due_at(), Some(now + ms(25)), "what was not written was due before");
    }
}
