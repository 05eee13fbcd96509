//! When the log took the records above a frontier, in bounded memory.

use std::collections::VecDeque;

/// Times that a ledger keeps at most.
pub const MARKS: usize = 256;
/// How many are left when these are too many.
const MARKS_AFTER: usize = 192;

#[derive(Clone, Copy, Debug)]
struct Mark {
    first: i64,
    records: usize,
    /// Of the oldest of them.
    appended_at_ms: i64,
}

/// When the log took the records above the frontier: each while they are few, later of several neighbours the oldest.
#[derive(Clone, Debug)]
pub(super) struct Times {
    marks: VecDeque<Mark>,
    /// Records that a new mark takes.
    stride: usize,
}

impl Default for Times {
    fn default() -> Self {
        Self { marks: VecDeque::new(), stride: 1 }
    }
}

impl Times {
    /// A record above all before it.
    pub(super) fn push(&mut self, offset: i64, appended_at_ms: i64) {
        self.join(Mark { first: offset, records: 1, appended_at_ms });
        if self.marks.len() > MARKS {
            // Two neighbours hold more than a stride together, so strides stay small beside what is open.
            while self.marks.len() > MARKS_AFTER {
                self.stride *= 2;
                let marks = std::mem::take(&mut self.marks);
                marks.into_iter().for_each(|mark| self.join(mark));
            }
        }
    }

    fn join(&mut self, mark: Mark) {
        match self.marks.back_mut() {
            Some(last) if last.records + mark.records <= self.stride => {
                last.records += mark.records;
                last.appended_at_ms = last.appended_at_ms.min(mark.appended_at_ms);
            }
            _ => self.marks.push_back(mark),
        }
    }

    /// Nothing is asked for any more.
    pub(super) fn clear(&mut self) {
        self.marks.clear();
        self.stride = 1;
    }

    /// Nothing below `offset` is asked for any more.
    pub(super) fn pass(&mut self, offset: i64) {
        while self.marks.get(1).is_some_and(|next| next.first <= offset) {
            self.marks.pop_front();
        }
        while self.stride > 1 && self.marks.len() < MARKS / 4 {
            self.stride /= 2;
        }
    }

    /// Of the record at `offset`, or of an older neighbour.
    pub(super) fn at(&self, offset: i64) -> Option<i64> {
        let after = self.marks.partition_point(|mark| mark.first <= offset);
        self.marks.get(after.checked_sub(1)?).map(|mark| mark.appended_at_ms)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the order of the times, and however the front moves: never later than the truth, and not of a record that is
        /// farther away than a mark is wide.
        #[test]
        fn a_time_is_that_of_the_oldest_of_its_neighbours(
            records in proptest::collection::vec((1_i64..3, 0_i64..1000), 1..3000),
            passes in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..20),
        ) {
            let mut offset = 0;
            let records: Vec<(i64, i64)> = records.into_iter().map(|(ahead, ms)| { offset += ahead; (offset, ms) }).collect();
            let mut passes: Vec<(usize, usize)> = passes.iter().map(|(when, to)| {
                let when = when.index(records.len());
                (when, to.index(when + 1))
            }).collect();
            passes.sort_unstable();
            let mut passes = passes.into_iter().peekable();
            let (mut times, mut front) = (Times::default(), 0);
            let mut most = 0;
            for (n, &(offset, ms)) in records.iter().enumerate() {
                times.push(offset, ms);
                most = most.max(n + 1 - front);
                while let Some((_, to)) = passes.next_if(|(when, _)| *when == n) {
                    front = front.max(to);
                    times.pass(records[front].0);
                }
                prop_assert!(times.len() <= MARKS);
                let width = if n < MARKS { 1 } else { most.div_ceil(47) };
                for at in [front, (front + n) / 2, n] {
                    let told = times.at(records[at].0).expect("it is not passed");
                    let near = &records[(at + 1).saturating_sub(width)..(at + width).min(n + 1)];
                    prop_assert!(told <= records[at].1, "{told} is younger than {:?}", records[at]);
                    prop_assert!(near.iter().any(|(_, ms)| *ms == told), "{told} is of none of {near:?}");
                }
            }
        }
    }
}
