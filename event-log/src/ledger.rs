//! The frontier of one partition: the end of the finished prefix, the only offset that may be committed; and what is finished above it.
//!
//! Promises: the frontier never passes a delivered record that is not finished, and passes every finished prefix at once. Offsets may
//! have gaps (transaction markers, compaction): what was never delivered does not hold it back. Memory grows with the changes between
//! finished, open and missing offsets above the frontier, not with the records: a million open ones in a row are one run. An epoch
//! that resumes knows what was finished before it, and says so when such a record is delivered.

mod times;

use std::collections::BTreeMap;

pub use times::MARKS;

use self::times::Times;
use crate::finished::{self, Run};

/// What a delivered record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// To be worked on.
    Fresh,
    /// It has been delivered in this epoch: not to be worked on again.
    Repeated,
    /// It was finished in an earlier epoch: not to be worked on again.
    Finished,
}

/// Offsets of one state: open ones follow each other without a gap, finished ones have no open one between them.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    last: i64,
    /// Delivered ones among them.
    records: usize,
    finished: bool,
}

/// What of one partition, in one epoch, has been delivered and what of it is finished.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// By first offset, disjoint, all at or above `reached`. The first is open, or lies above what has been delivered.
    stretches: BTreeMap<i64, Stretch>,
    /// The end of the finished prefix. None before the first delivery of an epoch that resumes nothing.
    reached: Option<i64>,
    /// Whether anything is finished at all.
    begun: bool,
    last: Option<(i64, i64)>,
    open: usize,
    unfinished: usize,
    times: Times,
}

impl Ledger {
    /// Nothing delivered, nothing known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing delivered; all below `frontier` is finished, and `known` above it, ascending and disjoint: [`finished::decode`].
    #[must_use]
    pub fn resume(frontier: i64, known: &[Run]) -> Self {
        let mut ledger = Self { reached: Some(frontier), begun: true, ..Self::default() };
        for run in known {
            ledger.stretches.insert(run.first, Stretch { last: run.last, records: 0, finished: true });
        }
        ledger
    }

    /// A record came. One that does not lie above all before it is a repetition.
    pub fn deliver(&mut self, offset: i64, appended_at_ms: i64) -> Delivered {
        if self.last.is_some_and(|(last, _)| offset <= last) {
            return Delivered::Repeated;
        }
        self.last = Some((offset, appended_at_ms));
        let reached = *self.reached.get_or_insert(offset);
        if offset < reached {
            return Delivered::Finished;
        }
        self.open += 1;
        self.times.push(offset, appended_at_ms);
        let delivered = match self.stretches.range_mut(..=offset).next_back() {
            Some((_, stretch)) if stretch.finished && stretch.last >= offset => {
                stretch.records += 1;
                Delivered::Finished
            }
            Some((_, stretch)) if !stretch.finished && stretch.last + 1 == offset => {
                stretch.last = offset;
                stretch.records += 1;
                Delivered::Fresh
            }
            _ => {
                self.stretches.insert(offset, Stretch { last: offset, records: 1, finished: false });
                Delivered::Fresh
            }
        };
        self.unfinished += usize::from(delivered == Delivered::Fresh);
        self.advance();
        delivered
    }

    /// A record's work is done for good. False where it is not open.
    pub fn finish(&mut self, offset: i64) -> bool {
        let Some((&first, &stretch)) = self.stretches.range(..=offset).next_back() else { return false };
        if stretch.finished || stretch.last < offset {
            return false;
        }
        self.begun = true;
        self.unfinished -= 1;
        self.stretches.remove(&first);
        if first < offset {
            self.stretches.insert(first, Stretch { last: offset - 1, records: records(first, offset - 1), finished: false });
        }
        if offset < stretch.last {
            let rest = Stretch { last: stretch.last, records: records(offset + 1, stretch.last), finished: false };
            self.stretches.insert(offset + 1, rest);
        }
        let mut done = Stretch { last: offset, records: 1, finished: true };
        let mut begins = offset;
        // What lies between two delivered offsets and was not delivered never will be; ahead of the last one it still may.
        if let Some((&next, &after)) = self.stretches.range(offset + 1..).next()
            && after.finished
            && (next == offset + 1 || self.last.is_some_and(|(last, _)| next <= last))
        {
            self.stretches.remove(&next);
            done = Stretch { last: after.last, records: done.records + after.records, finished: true };
        }
        if let Some((&before, &earlier)) = self.stretches.range(..offset).next_back()
            && earlier.finished
        {
            begins = before;
            done.records += earlier.records;
        }
        self.stretches.insert(begins, done);
        self.advance();
        true
    }

    /// Whether a record was delivered and is not finished.
    #[must_use]
    pub fn is_open(&self, offset: i64) -> bool {
        self.stretches.range(..=offset).next_back().is_some_and(|(_, stretch)| !stretch.finished && offset <= stretch.last)
    }

    /// Passes what is finished at the front.
    fn advance(&mut self) {
        let Some(mut reached) = self.reached else { return };
        while let Some(first) = self.stretches.first_entry() {
            let delivered = self.last.is_some_and(|(last, _)| *first.key() <= last);
            if !first.get().finished || !(delivered || *first.key() <= reached) {
                break;
            }
            let stretch = first.remove();
            reached = stretch.last + 1;
            self.open -= stretch.records;
        }
        let moved = self.reached.replace(reached) != Some(reached);
        if self.open == 0 {
            self.times.clear();
        } else if moved {
            self.times.pass(self.stretches.first_key_value().map_or(reached, |(first, _)| *first));
        }
    }

    /// The next offset to read after a restart; none before anything is finished.
    #[must_use]
    pub fn frontier(&self) -> Option<i64> {
        self.reached.filter(|_| self.begun)
    }

    /// What is finished above the frontier, ascending. Offsets that the log passed over may lie within.
    pub fn finished(&self) -> impl Iterator<Item = Run> + '_ {
        self.stretches.iter().filter(|(_, stretch)| stretch.finished).map(|(&first, stretch)| Run { first, last: stretch.last })
    }

    /// What to commit: the frontier, and beside it the text of what is finished above it, in at most `max_bytes`.
    #[must_use]
    pub fn to_commit(&self, max_bytes: usize) -> Option<(i64, String)> {
        self.frontier().map(|frontier| (frontier, finished::encode(frontier, self.finished(), max_bytes)))
    }

    /// Delivered records that the frontier has not passed, finished or not.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open
    }

    /// Delivered records that are not finished.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// Runs above the frontier: what the ledger's memory, and the length of the map of what is finished, grow with.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.stretches.len()
    }

    /// Where the partition stands: the next offset that matters, and when the log took the record that stands there (or the last
    /// one before it), milliseconds since 1970. None before anything was delivered. The time is never later than the truth. It is
    /// exact unless more than [`MARKS`] records have been open since all were passed; then it is that of the oldest among
    /// neighbours that share a mark, at most a 47th of the most that were open.
    #[must_use]
    pub fn standing(&self) -> Option<(i64, i64)> {
        let (last, last_at_ms) = self.last?;
        // A finished one at the front lies above all that was delivered: nothing is open.
        match self.stretches.first_key_value().filter(|(_, stretch)| !stretch.finished) {
            Some((&offset, _)) => Some((offset, self.times.at(offset).unwrap_or(last_at_ms))),
            None => Some(((last + 1).max(self.reached.unwrap_or(last + 1)), last_at_ms)),
        }
    }
}

/// How many of an open run's offsets these are.
fn records(first: i64, last: i64) -> usize {
    usize::try_from(last - first + 1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// Deliver the offset that lies this far above the last.
        Deliver(i64),
        /// Deliver this many, one behind the other.
        Flood(i64),
        /// Finish the n-th delivered (modulo), finished or not.
        Finish(usize),
        /// Finish an offset that may never have been delivered.
        FinishAt(i64),
        /// The process dies after a commit of at most so many bytes, and the next epoch begins with it.
        Resume(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            40 => (-1_i64..4).prop_map(Step::Deliver),
            5 => (1_i64..40).prop_map(Step::Flood),
            100 => (0_usize..400).prop_map(Step::Finish),
            5 => (0_i64..300).prop_map(Step::FinishAt),
            3 => prop_oneof![Just(4096), 0_usize..40].prop_map(Step::Resume),
        ]
    }

    /// Keeps everything, and looks through it each time.
    #[derive(Default)]
    struct Model {
        /// What the log holds, of all epochs, with what is done for good of it.
        done: BTreeMap<i64, bool>,
        /// What this epoch knows to be done: that alone counts.
        known: BTreeSet<i64>,
        delivered: BTreeSet<i64>,
        resumed_at: Option<i64>,
    }

    impl Model {
        fn last(&self) -> Option<i64> {
            self.delivered.last().copied()
        }

        /// Everything below is finished: all that was delivered, and what is known of what comes next.
        fn frontier(&self) -> Option<i64> {
            let first = self.resumed_at.or(self.delivered.first().copied())?;
            if self.resumed_at.is_none() && self.known.is_empty() {
                return None;
            }
            let mut frontier = first;
            loop {
                let next = self.delivered.iter().find(|offset| **offset >= frontier).copied();
                match next {
                    Some(next) if self.known.contains(&next) => frontier = next + 1,
                    Some(_) => return Some(frontier),
                    None if self.known.contains(&frontier) => frontier += 1,
                    None => return Some(frontier),
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn is_the_naive_prefix(steps in proptest::collection::vec(step(), 0..200)) {
            let mut ledger = Ledger::new();
            let mut model = Model::default();
            let mut at = 40;
            let top = |model: &Model| model.done.keys().next_back().copied().unwrap_or(-1);
            let time = |offset: i64| offset * 10 - (offset % 7) * 25;
            for step in steps {
                let (deliver, finish) = match step {
                    Step::Deliver(ahead) => (vec![at + ahead], None),
                    Step::Flood(count) => ((at + 1..=at + count).collect(), None),
                    Step::Finish(n) => (vec![], model.delivered.iter().nth(n % model.delivered.len().max(1)).copied()),
                    Step::FinishAt(offset) => (vec![], Some(offset)),
                    Step::Resume(max_bytes) => {
                        let Some((frontier, text)) = ledger.to_commit(max_bytes) else { continue };
                        prop_assert!(text.len() <= max_bytes);
                        let known = finished::decode(&text, frontier, top(&model) + 1).expect("ours");
                        ledger = Ledger::resume(frontier, &known);
                        let whole: Vec<i64> = model.known.iter().copied().filter(|offset| *offset > frontier && model.done.contains_key(offset)).collect();
                        let kept: BTreeSet<i64> = known.iter().flat_map(|run| run.first..=run.last).collect();
                        // Of what the log holds, a prefix of what was finished; all of it where nothing was cut.
                        let kept_records: Vec<i64> = kept.iter().copied().filter(|offset| model.done.contains_key(offset)).collect();
                        prop_assert!(whole.starts_with(&kept_records), "{whole:?} {kept_records:?}");
                        if max_bytes == 4096 {
                            prop_assert_eq!(&whole, &kept_records);
                        }
                        model.known = kept;
                        model.delivered.clear();
                        model.resumed_at = Some(frontier);
                        at = frontier - 1;
                        continue;
                    }
                };
                for offset in deliver {
                    // The log gives what it holds: no new record turns up among those that an earlier epoch has read.
                    if offset <= top(&model) && !model.done.contains_key(&offset) {
                        continue;
                    }
                    let skipped = model.last().map_or(model.resumed_at, |last| Some(last + 1));
                    let missed = skipped.is_some_and(|from| model.done.range(from..offset.max(from)).next().is_some());
                    if missed {
                        continue;
                    }
                    let expected = if model.last().is_some_and(|last| offset <= last) {
                        Delivered::Repeated
                    } else if model.known.contains(&offset) || model.resumed_at.is_some_and(|from| offset < from) {
                        Delivered::Finished
                    } else {
                        Delivered::Fresh
                    };
                    prop_assert_eq!(ledger.deliver(offset, time(offset)), expected);
                    if expected != Delivered::Repeated {
                        model.delivered.insert(offset);
                        model.done.entry(offset).or_insert(false);
                        at = offset;
                    }
                    if expected == Delivered::Finished {
                        prop_assert!(model.done[&offset], "said to be finished and is not: {offset}");
                    }
                }
                if let Some(offset) = finish {
                    let open = model.delivered.contains(&offset) && !model.known.contains(&offset)
                        && model.resumed_at.is_none_or(|from| offset >= from);
                    prop_assert_eq!(ledger.finish(offset), open);
                    if open {
                        model.known.insert(offset);
                        model.done.insert(offset, true);
                    }
                }
                let frontier = model.frontier();
                prop_assert_eq!(ledger.frontier(), frontier);
                let above: Vec<i64> = model.delivered.iter().copied().filter(|offset| frontier.is_none_or(|f| *offset >= f)).collect();
                let unfinished: Vec<i64> = above.iter().copied().filter(|offset| !model.known.contains(offset)).collect();
                prop_assert_eq!(ledger.open(), above.len());
                prop_assert_eq!(ledger.unfinished(), unfinished.len());
                let standing = match (unfinished.first(), model.last()) {
                    (Some(open), _) => Some((*open, time(*open))),
                    (None, Some(last)) => Some(((last + 1).max(frontier.unwrap_or(0)), time(last))),
                    (None, None) => None,
                };
                let told = ledger.standing();
                prop_assert_eq!(told.map(|(offset, _)| offset), standing.map(|(offset, _)| offset));
                if model.delivered.len() <= MARKS {
                    prop_assert_eq!(told, standing);
                } else if let (Some((_, told)), Some((_, truth))) = (told, standing) {
                    prop_assert!(told <= truth, "{told} is younger than {truth}");
                }
                // Whatever is told as finished is, or was never in the log.
                for offset in ledger.finished().flat_map(|run| run.first..=run.last) {
                    prop_assert!(model.done.get(&offset).is_none_or(|done| *done) && Some(offset) > frontier, "{offset}");
                }
            }
        }
    }

    #[test]
    fn what_is_finished_while_the_first_is_open_can_be_committed() {
        let mut ledger = Ledger::new();
        for offset in 7..1007 {
            assert_eq!(ledger.deliver(offset, offset), Delivered::Fresh);
        }
        assert_eq!(ledger.to_commit(4096), None, "nothing is finished");
        (8..1007).for_each(|offset| assert!(ledger.finish(offset)));
        let (frontier, text) = ledger.to_commit(4096).expect("something is finished");
        assert_eq!((frontier, ledger.runs(), ledger.open(), ledger.unfinished()), (7, 2, 1000, 1));

        let mut next = Ledger::resume(frontier, &finished::decode(&text, frontier, 1007).expect("ours"));
        assert_eq!(next.to_commit(4096), Some((frontier, text)), "nothing has changed");
        assert_eq!(next.deliver(7, 0), Delivered::Fresh);
        assert!((8..900).all(|offset| next.deliver(offset, offset) == Delivered::Finished));
        assert!(next.finish(7));
        assert_eq!(next.frontier(), Some(1007), "what is known need not come first");
        assert!((900..1007).all(|offset| next.deliver(offset, offset) == Delivered::Finished));
        assert_eq!((next.deliver(1007, 0), next.deliver(1007, 0)), (Delivered::Fresh, Delivered::Repeated));
    }

    #[test]
    fn what_may_still_come_between_known_runs_is_not_passed() {
        let mut ledger = Ledger::resume(5, &[Run { first: 7, last: 9 }]);
        assert_eq!(ledger.deliver(5, 0), Delivered::Fresh);
        assert!(ledger.finish(5));
        assert_eq!(ledger.frontier(), Some(6), "6 has not come yet");
        assert_eq!(ledger.deliver(6, 0), Delivered::Fresh);
        assert_eq!(ledger.frontier(), Some(6));
        assert!(ledger.finish(6));
        assert_eq!(ledger.frontier(), Some(10));
    }

    #[test]
    fn a_million_open_records_are_one_run_and_a_bounded_number_of_times() {
        const RECORDS: i64 = 1_000_000;
        let mut ledger = Ledger::new();
        for offset in 0..RECORDS {
            ledger.deliver(offset, offset);
        }
        assert_eq!((ledger.runs(), ledger.open()), (1, 1_000_000));
        assert!(ledger.times.len() <= MARKS);
        // From the far end, so that the front stays where it is.
        for offset in (RECORDS / 2..RECORDS).rev() {
            ledger.finish(offset);
        }
        assert_eq!((ledger.runs(), ledger.unfinished()), (2, 500_000));
        for offset in 0..RECORDS / 2 {
            let (stands_at, appended_at_ms) = ledger.standing().expect("delivered");
            assert_eq!(stands_at, offset);
            assert!(appended_at_ms <= offset && offset - appended_at_ms <= RECORDS / 47, "{appended_at_ms} for {offset}");
            ledger.finish(offset);
        }
        assert_eq!((ledger.frontier(), ledger.runs(), ledger.open()), (Some(RECORDS), 0, 0));
        // The next are exact again.
        ledger.deliver(RECORDS, 3);
        ledger.deliver(RECORDS + 1, 9);
        ledger.finish(RECORDS);
        assert_eq!(ledger.standing(), Some((RECORDS + 1, 9)));
    }
}
