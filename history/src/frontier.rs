//! How far an import is: the end of the prefix of records whose events are all settled. Only that may stand in a checkpoint.
//!
//! Pure. Memory grows with what is in flight.

use std::collections::VecDeque;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::record::Bad;

/// A place in a source: behind a record of an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The number of the input, from 0.
    pub input: usize,
    /// The last record of it that is done, by its number; 0 before the first.
    pub record: u64,
}

/// What came of the records before a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Records that were read.
    pub records: u64,
    /// Events that the log has.
    pub events: u64,
    /// Their messages.
    pub messages: u64,
    /// Parts of records that were set aside.
    pub rejected: u64,
    /// Parts of records that are passed by on purpose.
    pub passed: u64,
    /// Events without a time of their own: they have that of the import.
    pub timeless: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.events += other.events;
        self.messages += other.messages;
        self.rejected += other.rejected;
        self.passed += other.passed;
        self.timeless += other.timeless;
    }
}

/// What is set aside of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Where it stands.
    pub place: Place,
    /// What it is, and why.
    pub bad: Bad,
}

/// A record whose events are on their way, or that waits behind such.
#[derive(Debug)]
struct Open {
    place: Place,
    left: usize,
    counts: Counts,
    bad: Vec<Bad>,
}

/// Records in their order, as far as they are open.
#[derive(Debug, Default)]
pub struct Frontier {
    /// The number of the first of `open`.
    first: u64,
    open: VecDeque<Open>,
    place: Place,
    counts: Counts,
}

impl Frontier {
    /// Everything up to `place` is done and came to `counts`.
    #[must_use]
    pub fn resume(place: Place, counts: Counts) -> Self {
        Self { place, counts, ..Self::default() }
    }

    /// A record begins, of which `events` are on their way; `counts` is what is already known of it, without its events. Answers the
    /// number by which they are settled.
    pub fn begin(&mut self, place: Place, events: usize, mut counts: Counts, bad: Vec<Bad>) -> u64 {
        counts.rejected += bad.len() as u64;
        self.open.push_back(Open { place, left: events, counts, bad });
        self.first + self.open.len() as u64 - 1
    }

    /// One event of record `number` is on the log, with so many messages.
    pub fn delivered(&mut self, number: u64, messages: u64, timeless: bool) {
        let Some(open) = self.of(number) else { return };
        open.left = open.left.saturating_sub(1);
        open.counts += Counts { events: 1, messages, timeless: u64::from(timeless), ..Counts::default() };
    }

    /// One event of record `number` is refused for good.
    pub fn refused(&mut self, number: u64, bad: Bad) {
        let Some(open) = self.of(number) else { return };
        open.left = open.left.saturating_sub(1);
        open.counts.rejected += 1;
        open.bad.push(bad);
    }

    fn of(&mut self, number: u64) -> Option<&mut Open> {
        self.open.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Moves past what is settled. Answers what of it is set aside, in order.
    pub fn advance(&mut self) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        while self.open.front().is_some_and(|open| open.left == 0) {
            let Some(open) = self.open.pop_front() else { break };
            self.first += 1;
            self.place = open.place;
            self.counts += open.counts;
            rejected.extend(open.bad.into_iter().map(|bad| Rejected { place: open.place, bad }));
        }
        rejected
    }

    /// The end of the settled prefix.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// What it came to.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Records that are not settled, or wait behind such.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the order in which events are settled: the place is that of the longest settled prefix, and the counts and rejects
        /// are those of its records.
        #[test]
        fn it_stands_at_the_settled_prefix(records in proptest::collection::vec((0_usize..4, 0_usize..2), 1..30), order in any::<u64>(), resumed in 0_u64..5) {
            let mut frontier = Frontier::resume(Place { input: 0, record: resumed }, Counts { records: resumed, ..Counts::default() });
            let mut events = Vec::new();
            for (n, (count, bad)) in records.iter().enumerate() {
                let place = Place { input: 0, record: resumed + n as u64 + 1 };
                let bad = vec![Bad { reason: n.to_string(), text: String::new() }; *bad];
                let number = frontier.begin(place, *count, Counts { records: 1, ..Counts::default() }, bad);
                events.extend((0..*count).map(|k| (number, n, k)));
            }
            let mut left: Vec<usize> = records.iter().map(|(count, _)| *count).collect();
            let mut state = order | 1;
            let mut rejected = frontier.advance();
            while !events.is_empty() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (number, n, k) = events.swap_remove((state >> 33) as usize % events.len());
                left[n] -= 1;
                if k == 1 {
                    frontier.refused(number, Bad { reason: n.to_string(), text: String::new() });
                } else {
                    frontier.delivered(number, 2, false);
                }
                rejected.extend(frontier.advance());
                let done = left.iter().take_while(|left| **left == 0).count();
                prop_assert_eq!(frontier.place().record, resumed + done as u64);
                let refused = |n: &usize| u64::from(records[*n].0 > 1) + records[*n].1 as u64;
                let delivered = |n: &usize| records[*n].0 as u64 - u64::from(records[*n].0 > 1);
                let expected = Counts {
                    records: resumed + done as u64,
                    events: (0..done).map(|n| delivered(&n)).sum(),
                    messages: 2 * (0..done).map(|n| delivered(&n)).sum::<u64>(),
                    rejected: (0..done).map(|n| refused(&n)).sum(),
                    ..Counts::default()
                };
                prop_assert_eq!(frontier.counts(), expected);
                prop_assert_eq!(rejected.len() as u64, expected.rejected);
                prop_assert!(rejected.is_sorted_by_key(|rejected| rejected.place));
            }
            prop_assert_eq!(frontier.open(), 0);
        }
    }
}
