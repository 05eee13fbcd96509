//! The frontier of one partition: the end of the finished prefix, the only offset that may be committed.
//!
//! Promises: the frontier never passes a delivered record that is not finished, and passes every finished prefix at once.
//! Offsets may have gaps (transaction markers, compaction): what was never delivered does not hold it back.

use std::collections::VecDeque;

#[derive(Clone, Copy, Debug)]
struct Open {
    offset: i64,
    appended_at_ms: i64,
    finished: bool,
}

/// What of one partition, in one epoch, has been delivered and what of it is finished.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// In order of offsets; the first is not finished.
    open: VecDeque<Open>,
    frontier: Option<i64>,
    last: Option<(i64, i64)>,
}

impl Ledger {
    /// Nothing delivered.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A record came. False where it does not lie above all before it: it is a repetition, and is not to be worked on.
    pub fn deliver(&mut self, offset: i64, appended_at_ms: i64) -> bool {
        if self.last.is_some_and(|(last, _)| offset <= last) {
            return false;
        }
        self.last = Some((offset, appended_at_ms));
        self.open.push_back(Open { offset, appended_at_ms, finished: false });
        true
    }

    /// A record's work is done for good. False where it is not open.
    pub fn finish(&mut self, offset: i64) -> bool {
        let Ok(index) = self.open.binary_search_by_key(&offset, |open| open.offset) else { return false };
        if std::mem::replace(&mut self.open[index].finished, true) {
            return false;
        }
        while let Some(open) = self.open.front().copied().filter(|open| open.finished) {
            self.frontier = Some(open.offset + 1);
            self.open.pop_front();
        }
        true
    }

    /// The next offset to read after a restart; none before anything is finished.
    #[must_use]
    pub fn frontier(&self) -> Option<i64> {
        self.frontier
    }

    /// Delivered records that the frontier has not passed.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Where the partition stands: the next offset that matters, and when the log took the record that stands there (or the last
    /// one before it), milliseconds since 1970. None before anything was delivered.
    #[must_use]
    pub fn standing(&self) -> Option<(i64, i64)> {
        match self.open.front() {
            Some(open) => Some((open.offset, open.appended_at_ms)),
            None => self.last.map(|(offset, appended_at_ms)| (offset + 1, appended_at_ms)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// Deliver the offset that lies this far above the last.
        Deliver(i64),
        /// Finish the n-th delivered (modulo), finished or not.
        Finish(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![(-1_i64..4).prop_map(Step::Deliver), (0_usize..200).prop_map(Step::Finish)]
    }

    proptest! {
        /// The model keeps everything it ever saw, and looks through it each time.
        #[test]
        fn is_the_naive_prefix(steps in proptest::collection::vec(step(), 0..200)) {
            let mut ledger = Ledger::new();
            let mut model: BTreeMap<i64, bool> = BTreeMap::new();
            let mut last = 40;
            for step in steps {
                match step {
                    Step::Deliver(ahead) => {
                        let offset = last + ahead;
                        let fresh = model.is_empty() || offset > *model.keys().next_back().expect("not empty");
                        prop_assert_eq!(ledger.deliver(offset, offset * 10), fresh);
                        if fresh {
                            model.insert(offset, false);
                            last = offset;
                        }
                    }
                    Step::Finish(n) if !model.is_empty() => {
                        let offset = *model.keys().nth(n % model.len()).expect("within");
                        let was = model.insert(offset, true).expect("delivered");
                        prop_assert_eq!(ledger.finish(offset), !was);
                    }
                    Step::Finish(_) => prop_assert!(!ledger.finish(last)),
                }
                let finished = model.iter().take_while(|(_, done)| **done).map(|(offset, _)| *offset).last();
                prop_assert_eq!(ledger.frontier(), finished.map(|offset| offset + 1));
                let first_open = model.iter().find(|(_, done)| !**done).map(|(offset, _)| (*offset, offset * 10));
                let after_all = model.keys().next_back().map(|offset| (offset + 1, offset * 10));
                prop_assert_eq!(ledger.standing(), first_open.or(after_all));
                prop_assert_eq!(ledger.open(), model.iter().skip_while(|(_, done)| **done).count());
            }
        }
    }
}
