//! Assignments have epochs: what was begun in an earlier one does not count in a later one.
//!
//! Promises: no two assignments share an epoch; work is admitted only in the epoch it was begun in; what is not is counted.

use std::collections::BTreeMap;

use crate::topic::TopicPartition;

/// One assignment of one partition. Never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

/// The epochs of one consumer.
#[derive(Clone, Debug, Default)]
pub struct Epochs {
    last: u64,
    current: BTreeMap<TopicPartition, Epoch>,
    dropped: u64,
}

impl Epochs {
    /// Nothing assigned.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A partition is assigned (again): its earlier epoch, if any, is over.
    pub fn begin(&mut self, partition: TopicPartition) -> Epoch {
        self.last += 1;
        self.current.insert(partition, Epoch(self.last));
        Epoch(self.last)
    }

    /// A partition is gone. False where it was not assigned.
    pub fn end(&mut self, partition: TopicPartition) -> bool {
        self.current.remove(&partition).is_some()
    }

    /// The epoch of a partition that is assigned.
    #[must_use]
    pub fn current(&self, partition: TopicPartition) -> Option<Epoch> {
        self.current.get(&partition).copied()
    }

    /// Whether work that was begun in `epoch` still counts; counts it as dropped where not.
    pub fn admit(&mut self, partition: TopicPartition, epoch: Epoch) -> bool {
        let current = self.current(partition) == Some(epoch);
        self.dropped += u64::from(!current);
        current
    }

    /// How much work was dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topic::Topic;

    #[derive(Clone, Debug)]
    enum Step {
        Begin(i32),
        End(i32),
        /// The n-th piece of work that was ever begun completes.
        Complete(usize),
    }

    proptest! {
        /// The model notes, for each piece of work, whether anything happened to its partition since.
        #[test]
        fn late_work_is_dropped_and_counted(steps in proptest::collection::vec(
            prop_oneof![(0..3_i32).prop_map(Step::Begin), (0..3_i32).prop_map(Step::End), (0_usize..100).prop_map(Step::Complete)], 0..100)) {
            let at = |partition| TopicPartition { topic: Topic::ConversationsLive, partition };
            let mut epochs = Epochs::new();
            let mut works: Vec<(i32, Epoch, bool)> = Vec::new();
            let mut assigned = [false; 3];
            let mut dropped = 0;
            for step in steps {
                match step {
                    Step::Begin(partition) => {
                        works.iter_mut().filter(|work| work.0 == partition).for_each(|work| work.2 = false);
                        let epoch = epochs.begin(at(partition));
                        prop_assert!(works.iter().all(|work| work.1 != epoch), "an epoch was used twice");
                        works.push((partition, epoch, true));
                        assigned[usize::try_from(partition).expect("small")] = true;
                    }
                    Step::End(partition) => {
                        works.iter_mut().filter(|work| work.0 == partition).for_each(|work| work.2 = false);
                        let was = std::mem::replace(&mut assigned[usize::try_from(partition).expect("small")], false);
                        prop_assert_eq!(epochs.end(at(partition)), was);
                    }
                    Step::Complete(n) if !works.is_empty() => {
                        let (partition, epoch, counts) = works[n % works.len()];
                        prop_assert_eq!(epochs.admit(at(partition), epoch), counts);
                        dropped += u64::from(!counts);
                    }
                    Step::Complete(_) => {}
                }
                prop_assert_eq!(epochs.dropped(), dropped);
            }
        }
    }
}
