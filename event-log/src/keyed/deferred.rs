//! What of one partition was read past and not kept, by tenant, to be read again when there is room.
//!
//! Promises: a tenant's records come back in log order, each once. While something of a tenant is put off, all that comes newer of it
//! has to be, so that where a tenant goes on is one offset. Memory grows with tenants and runs, at most [`RUNS`] of a tenant, never
//! with records. Who asks longest goes first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Runs that a tenant is remembered by; beyond them, what lies between is read in vain.
const RUNS: usize = 64;
/// Offsets between two records that are read rather than remembered.
const GAP: i64 = 64;
/// Records of one read at most.
const CHUNK: usize = 512;

#[derive(Debug)]
struct Backlog {
    /// Ascending; the first offset of the first, and the last of the last, are of records that were put off.
    runs: VecDeque<(i64, i64)>,
    records: usize,
    /// When it was last asked for.
    turn: u64,
}

impl Backlog {
    fn next(&self) -> i64 {
        self.runs.front().map_or(i64::MAX, |run| run.0)
    }

    fn last(&self) -> i64 {
        self.runs.back().map_or(i64::MIN, |run| run.1)
    }

    /// Goes on behind `offset`.
    fn pass(&mut self, offset: i64) {
        while let Some(run) = self.runs.front_mut().filter(|run| run.0 <= offset) {
            if run.1 > offset {
                run.0 = offset + 1;
                return;
            }
            self.runs.pop_front();
        }
    }
}

/// What to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// For whom.
    pub(super) tenant: Arc<str>,
    pub(super) offset: i64,
    pub(super) max_records: usize,
}

/// How much more of a tenant may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

impl Room {
    pub(super) fn is_none(self) -> bool {
        self.records == 0 || self.bytes == 0
    }
}

#[derive(Debug, Default)]
pub(super) struct Deferred {
    tenants: BTreeMap<Arc<str>, Backlog>,
    records: usize,
    runs: usize,
    /// The largest record among those put off and their neighbours: what a read may cost in memory.
    largest: usize,
    turns: u64,
}

impl Deferred {
    pub(super) fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    pub(super) fn holds(&self, tenant: &str) -> bool {
        self.tenants.contains_key(tenant)
    }

    /// Tenants of whom something is put off.
    pub(super) fn tenants(&self) -> usize {
        self.tenants.len()
    }

    pub(super) fn records(&self) -> usize {
        self.records
    }

    pub(super) fn runs(&self) -> usize {
        self.runs
    }

    /// A record that lies among those that are put off, of whomever.
    pub(super) fn saw(&mut self, bytes: usize) {
        self.largest = self.largest.max(bytes);
    }

    /// Puts off a record that lies above all before it.
    pub(super) fn put_off(&mut self, tenant: &Arc<str>, offset: i64) {
        let backlog = self.tenants.entry(Arc::clone(tenant)).or_insert_with(|| Backlog {
            runs: VecDeque::new(),
            records: 0,
            turn: self.turns,
        });
        backlog.records += 1;
        self.records += 1;
        let full = backlog.runs.len() >= RUNS;
        match backlog.runs.back_mut() {
            Some(run) if full || offset - run.1 <= GAP => run.1 = offset,
            _ => {
                backlog.runs.push_back((offset, offset));
                self.runs += 1;
            }
        }
    }

    /// What to read for the tenant that has room and was asked for longest ago.
    pub(super) fn next(&self, room: impl Fn(&str) -> Option<Room>) -> Option<Chunk> {
        let mut best: Option<(&Arc<str>, &Backlog, Room)> = None;
        for (tenant, backlog) in &self.tenants {
            let is_before = |other: &Backlog| (backlog.turn, backlog.next()) < (other.turn, other.next());
            if best.is_none_or(|(_, other, _)| is_before(other))
                && let Some(room) = room(tenant)
            {
                best = Some((tenant, backlog, room));
            }
        }
        let (tenant, backlog, room) = best?;
        let span: i64 = backlog.runs.iter().map(|run| run.1 - run.0 + 1).sum();
        let sparseness = usize::try_from(span).unwrap_or(usize::MAX).div_ceil(backlog.records.max(1));
        let by_bytes = room.bytes / self.largest.max(1);
        let max_records = room.records.saturating_mul(sparseness).min(CHUNK).min(by_bytes).max(1);
        Some(Chunk { tenant: Arc::clone(tenant), offset: backlog.next(), max_records })
    }

    /// A read for `tenant` has begun.
    pub(super) fn asked(&mut self, tenant: &str) {
        self.turns += 1;
        if let Some(backlog) = self.tenants.get_mut(tenant) {
            backlog.turn = self.turns;
        }
    }

    /// Whether a record that a read from `from` on brought is one that was put off, and the next of its tenant.
    pub(super) fn awaits(&self, tenant: &str, from: i64, offset: i64) -> bool {
        self.tenants
            .get(tenant)
            .is_some_and(|backlog| from <= backlog.next() && (backlog.next()..=backlog.last()).contains(&offset))
    }

    /// A record is held again.
    pub(super) fn took(&mut self, tenant: &str, offset: i64) {
        let Some(backlog) = self.tenants.get_mut(tenant) else { return };
        let runs = backlog.runs.len();
        backlog.pass(offset);
        backlog.records -= 1;
        self.records -= 1;
        self.runs -= runs - backlog.runs.len();
        if backlog.records == 0 {
            self.runs -= backlog.runs.len();
            self.tenants.remove(tenant);
            self.forget();
        }
    }

    /// Everything from `from` to `to` has been read: who took all of it, or had nothing there, goes on behind it. Says how many
    /// records were not there any more.
    pub(super) fn passed(&mut self, from: i64, to: i64, is_left: &BTreeSet<Arc<str>>) -> usize {
        let mut gone = 0;
        self.tenants.retain(|tenant, backlog| {
            if is_left.contains(tenant) || !(from..=to).contains(&backlog.next()) {
                return true;
            }
            let runs = backlog.runs.len();
            backlog.pass(to);
            self.runs -= runs - backlog.runs.len();
            if backlog.runs.is_empty() {
                gone += backlog.records;
            }
            !backlog.runs.is_empty()
        });
        self.records -= gone;
        self.forget();
        gone
    }

    fn forget(&mut self) {
        if self.tenants.is_empty() {
            self.largest = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The model is the list of what is put off, per tenant; the log is an array.
        #[test]
        fn everything_comes_back_once_and_in_order(
            tenants in proptest::collection::vec(0_usize..4, 1..400),
            off in proptest::collection::vec(any::<bool>(), 400),
            rooms in proptest::collection::vec((0_usize..4, 1_usize..20), 0..40),
        ) {
            let names: Vec<Arc<str>> = ["a", "b", "c", "d"].map(Arc::from).to_vec();
            let mut deferred = Deferred::default();
            let mut waiting: Vec<Vec<i64>> = vec![Vec::new(); 4];
            // A log with holes.
            let log: Vec<(i64, usize)> = (0..).step_by(3).zip(tenants).collect();
            for (&(offset, tenant), off) in log.iter().zip(off) {
                deferred.saw(10);
                if off || deferred.holds(&names[tenant]) {
                    deferred.put_off(&names[tenant], offset);
                    waiting[tenant].push(offset);
                }
            }
            let everybody = (0..200).map(|n| (n % 4, 1000));
            for (whose, room) in rooms.into_iter().chain(everybody) {
                let Some(chunk) = deferred.next(|tenant| (*names[whose] == *tenant).then_some(Room { records: room, bytes: 1000 })) else {
                    prop_assert!(waiting[whose].is_empty());
                    continue;
                };
                deferred.asked(&chunk.tenant);
                prop_assert!((1..=100).contains(&chunk.max_records), "bytes bound it: {chunk:?}");
                prop_assert!(chunk.offset <= waiting[whose][0]);
                let read: Vec<(i64, usize)> = log.iter().filter(|(offset, _)| *offset >= chunk.offset).take(chunk.max_records).copied().collect();
                let (mut left, mut room) = (BTreeSet::new(), room);
                for &(offset, tenant) in &read {
                    let name = &names[tenant];
                    if left.contains(name) || !deferred.awaits(name, chunk.offset, offset) {
                        continue;
                    }
                    if tenant != whose && offset % 2 == 0 || room == 0 {
                        left.insert(Arc::clone(name));
                        continue;
                    }
                    room -= 1;
                    prop_assert_eq!(offset, waiting[tenant].remove(0));
                    deferred.took(name, offset);
                }
                let to = read.last().expect("it was there").0;
                prop_assert_eq!(deferred.passed(chunk.offset, to, &left), 0);
                prop_assert_eq!(deferred.records(), waiting.iter().map(Vec::len).sum::<usize>());
                for (tenant, waiting) in waiting.iter().enumerate() {
                    prop_assert_eq!(deferred.holds(&names[tenant]), !waiting.is_empty());
                }
            }
            prop_assert_eq!((deferred.records(), deferred.runs(), deferred.is_empty()), (0, 0, true));
        }
    }

    #[test]
    fn who_waits_longest_is_read_for_first_and_gaps_are_not_read() {
        let (a, b): (Arc<str>, Arc<str>) = (Arc::from("a"), Arc::from("b"));
        let mut deferred = Deferred::default();
        (0..100).for_each(|offset| deferred.put_off(&a, offset));
        deferred.put_off(&b, 100);
        deferred.put_off(&b, 100_000);
        let room = Some(Room { records: 10, bytes: usize::MAX });
        let asked: Vec<i64> = (0..4)
            .map(|_| {
                let chunk = deferred.next(|_| room).expect("both wait");
                deferred.asked(&chunk.tenant);
                chunk.offset
            })
            .collect();
        assert_eq!(asked, [0, 100, 0, 100]);
        deferred.took("b", 100);
        assert_eq!(deferred.next(|tenant| room.filter(|_| tenant == "b")).expect("it waits").offset, 100_000);
        assert_eq!(deferred.passed(100_000, 100_000, &BTreeSet::new()), 1, "what is gone is told");
    }
}
