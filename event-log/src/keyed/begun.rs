//! What was begun and has not ended, by number, and the oldest of it.
//!
//! Promises: every step costs the same on average, however much is begun; memory grows with what has not ended.

use std::collections::VecDeque;

use foldhash::HashMap;

use super::effect::Ticket;

/// Numbers that may be kept beside twice those of what has not ended.
const SPARE: usize = 256;

#[derive(Debug)]
pub(super) struct Begun<T> {
    all: HashMap<Ticket, T>,
    /// In the order in which they began. The first has not ended; others may have.
    order: VecDeque<Ticket>,
}

impl<T> Default for Begun<T> {
    fn default() -> Self {
        Self { all: HashMap::default(), order: VecDeque::new() }
    }
}

impl<T> Begun<T> {
    /// Numbers grow.
    pub(super) fn insert(&mut self, ticket: Ticket, begun: T) {
        self.all.insert(ticket, begun);
        self.order.push_back(ticket);
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let ended = self.all.remove(&ticket)?;
        while self.order.front().is_some_and(|first| !self.all.contains_key(first)) {
            self.order.pop_front();
        }
        if self.order.len() > 2 * self.all.len() + SPARE {
            self.order.retain(|ticket| self.all.contains_key(ticket));
        }
        Some(ended)
    }

    pub(super) fn oldest(&self) -> Option<&T> {
        self.all.get(self.order.front()?)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As a sorted map has it, and in memory that what has not ended bounds.
        #[test]
        fn the_oldest_is_the_first_that_has_not_ended(steps in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..2_000)) {
            let (mut begun, mut model) = (Begun::default(), BTreeMap::new());
            for (number, (ends, which)) in (0..).zip(steps) {
                if ends && !model.is_empty() {
                    let ticket = *model.keys().nth(which.index(model.len())).expect("there are so many");
                    prop_assert_eq!(begun.remove(ticket), model.remove(&ticket));
                    prop_assert_eq!(begun.remove(ticket), None);
                } else {
                    begun.insert(number, number);
                    model.insert(number, number);
                }
                prop_assert_eq!(begun.oldest(), model.values().next());
                prop_assert_eq!((begun.len(), begun.is_empty()), (model.len(), model.is_empty()));
                prop_assert!(begun.order.len() <= 2 * begun.len() + SPARE + 1);
            }
        }
    }
}
