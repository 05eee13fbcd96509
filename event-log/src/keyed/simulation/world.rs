//! The log and the group, as the model has them: records, what is committed, who owns what.

use bytes::Bytes;
use tokio::time::Instant;

use super::spec::{Chance, Spec, alone, payload};
use crate::seam::LogRecord;
use crate::topic::TopicPartition;

/// What a group has committed of a partition.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) next_offset: i64,
    pub(super) metadata: String,
}

/// The right to a partition. Numbers grow.
pub(super) type Grant = u64;

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) at: TopicPartition,
    pub(super) log: Vec<LogRecord>,
    pub(super) stored: Option<Stored>,
    /// Member and grant.
    pub(super) owner: Option<(usize, Grant)>,
    pub(super) is_asked_back: bool,
    /// How often each record was paid for.
    pub(super) paid: Vec<usize>,
}

impl Partition {
    pub(super) fn end(&self) -> i64 {
        self.log.last().map_or(0, |record| record.offset + 1)
    }

    /// The record of the same key before this one.
    pub(super) fn before(&self, index: usize) -> Option<usize> {
        self.log[..index].iter().rposition(|record| record.key == self.log[index].key)
    }

    /// The index of the first record at or above `offset`.
    pub(super) fn index(&self, offset: i64) -> usize {
        self.log.partition_point(|record| record.offset < offset)
    }

    pub(super) fn is_finished(&self) -> bool {
        self.stored.as_ref().map_or(0, |stored| stored.next_offset) >= self.end()
    }
}

/// What happened, so that a run that never came to it is noticed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) steps: usize,
    pub(super) windows: usize,
    /// Windows of several records.
    pub(super) joined: usize,
    pub(super) retried: usize,
    pub(super) apart: usize,
    pub(super) put_off: usize,
    pub(super) reread: usize,
    /// Records that were finished before, beside the frontier.
    pub(super) skipped: usize,
    pub(super) fenced: usize,
    pub(super) dropped: usize,
    pub(super) drained: usize,
    pub(super) stalled: usize,
    pub(super) halted: usize,
    pub(super) crashed: usize,
    pub(super) paid_twice: usize,
    /// Records that were finished at least once.
    pub(super) outcomes: usize,
}

/// How many figures [`Seen`] has.
pub(super) const SEEN: usize = 16;

impl Seen {
    pub(super) fn all(&self) -> [usize; SEEN] {
        let Self { steps, windows, joined, retried, apart, put_off, reread, skipped, .. } = *self;
        let Self { fenced, dropped, drained, stalled, halted, crashed, paid_twice, outcomes, .. } = *self;
        [
            steps, windows, joined, retried, apart, put_off, reread, skipped, fenced, dropped, drained, stalled, halted, crashed,
            paid_twice, outcomes,
        ]
    }
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) seen: Seen,
    pub(super) spec: Spec,
    pub(super) chance: Chance,
    pub(super) now: Instant,
    pub(super) begun: Instant,
    pub(super) partitions: Vec<Partition>,
    pub(super) grants: Grant,
    pub(super) tenures: u64,
    /// Nothing goes wrong any more.
    pub(super) is_ending: bool,
    /// Everything that is tried succeeds.
    pub(super) is_over: bool,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut chance = Chance::of(seed);
        let spec = Spec::draw(&mut chance);
        Self::with(chance, spec)
    }

    /// Of what is set, with what is left to chance drawn from `seed`.
    pub(super) fn of(seed: u64, spec: Spec) -> Self {
        Self::with(Chance::of(seed), spec)
    }

    fn with(chance: Chance, spec: Spec) -> Self {
        let partition = |&at: &TopicPartition| Partition {
            at,
            log: Vec::new(),
            stored: None,
            owner: None,
            is_asked_back: false,
            paid: Vec::new(),
        };
        let partitions = spec.partitions.iter().map(partition).collect();
        let now = Instant::now();
        Self {
            seen: Seen::default(),
            spec,
            chance,
            now,
            begun: now,
            partitions,
            grants: 0,
            tenures: 0,
            is_ending: false,
            is_over: false,
        }
    }

    pub(super) fn find(&self, at: TopicPartition) -> usize {
        self.partitions.iter().position(|partition| partition.at == at).expect("one of the model's")
    }

    /// Whether something goes wrong now, so often in a hundred of a schedule's troubles.
    pub(super) fn goes_wrong(&mut self, percent: usize) -> bool {
        !self.is_ending && self.spec.trouble > 0 && self.chance.percent(percent)
    }

    pub(super) fn append(&mut self) {
        let index = self.chance.below(self.partitions.len());
        // A flood of one tenant, or one of many records.
        let (count, tenant) =
            if self.chance.percent(25) { (self.chance.below(40), 0) } else { (1, self.chance.below(self.spec.tenants)) };
        for _ in 0..count {
            let hole = i64::from(self.chance.percent(10));
            let key = format!("t{tenant}/{}", self.chance.below(self.spec.keys));
            let payload = payload(&mut self.chance);
            self.put(index, hole, key, payload);
        }
    }

    /// A record that no window takes beside another.
    pub(super) fn append_alone(&mut self, index: usize, key: String) {
        let payload = alone(&mut self.chance);
        self.put(index, 0, key, payload);
    }

    fn put(&mut self, index: usize, hole: i64, key: String, payload: Bytes) {
        let partition = &mut self.partitions[index];
        let record = LogRecord {
            source: partition.at,
            offset: partition.end() + hole,
            appended_at_ms: 1,
            key: key.into_bytes().into(),
            payload,
            headers: Vec::new(),
        };
        partition.log.push(record);
        partition.paid.push(0);
    }

    pub(super) fn owns(&self, index: usize, member: usize, grant: Option<Grant>) -> bool {
        grant.is_some_and(|grant| self.partitions[index].owner == Some((member, grant)))
    }

    pub(super) fn is_done(&self) -> bool {
        self.partitions.iter().all(Partition::is_finished)
    }
}
