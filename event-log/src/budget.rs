//! How much a consumer may hold: events and bytes. Full on either axis closes the gate; it opens again at half of both.
//!
//! Promises: what is held is always counted exactly; the gate is open whenever nothing is held, so that a record larger than the
//! whole budget still passes, alone.

/// Whether records may flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// They may.
    Open,
    /// Consumers are to be paused.
    Closed,
}

/// The state of one consumer's budget.
#[derive(Clone, Debug)]
pub struct Budget {
    limit: (usize, usize),
    held: (usize, usize),
    gate: Gate,
}

impl Budget {
    /// A budget of at least one event and one byte.
    #[must_use]
    pub fn new(events: usize, bytes: usize) -> Self {
        Self { limit: (events.max(1), bytes.max(1)), held: (0, 0), gate: Gate::Open }
    }

    /// Moves the bound of events. The answer is there when the gate has moved.
    pub fn limit_events(&mut self, events: usize) -> Option<Gate> {
        self.limit.0 = events.max(1);
        self.turn()
    }

    /// Takes one event. The answer is there when the gate has moved: what was already on its way may overshoot it.
    pub fn take(&mut self, bytes: usize) -> Option<Gate> {
        self.held = (self.held.0 + 1, self.held.1 + bytes);
        self.turn()
    }

    /// Gives events back. The answer is there when the gate has moved.
    pub fn give(&mut self, events: usize, bytes: usize) -> Option<Gate> {
        debug_assert!(events <= self.held.0 && bytes <= self.held.1, "more was given back than taken");
        self.held = (self.held.0.saturating_sub(events), self.held.1.saturating_sub(bytes));
        self.turn()
    }

    fn turn(&mut self) -> Option<Gate> {
        let full = self.held.0 >= self.limit.0 || self.held.1 >= self.limit.1;
        let low = self.held.0 <= self.limit.0 / 2 && self.held.1 <= self.limit.1 / 2;
        let gate = match self.gate {
            Gate::Open if full => Gate::Closed,
            Gate::Closed if low => Gate::Open,
            gate => gate,
        };
        (gate != self.gate).then(|| {
            self.gate = gate;
            gate
        })
    }

    /// Whether records may flow.
    #[must_use]
    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// Events and bytes held.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The model is the list of what is held.
        #[test]
        fn counts_and_gates_as_the_list_does(
            events in 1_usize..8,
            bytes in 1_usize..100,
            steps in proptest::collection::vec((any::<bool>(), 0_usize..150), 0..200),
        ) {
            let mut budget = Budget::new(events, bytes);
            let mut held: Vec<usize> = Vec::new();
            let mut gate = Gate::Open;
            for (take, size) in steps {
                let moved = if take {
                    held.push(size);
                    budget.take(size)
                } else if held.is_empty() {
                    prop_assert_eq!(budget.gate(), Gate::Open, "nothing is held");
                    continue;
                } else {
                    let size = held.swap_remove(size % held.len());
                    budget.give(1, size)
                };
                let sum: usize = held.iter().sum();
                prop_assert_eq!(budget.held(), (held.len(), sum));
                let expected = if held.len() >= events || sum >= bytes {
                    Gate::Closed
                } else if held.len() * 2 <= events && sum * 2 <= bytes {
                    Gate::Open
                } else {
                    gate
                };
                prop_assert_eq!(moved, (expected != gate).then_some(expected));
                gate = expected;
                prop_assert_eq!(budget.gate(), gate);
            }
        }
    }

    #[test]
    fn a_bound_that_moves_moves_the_gate() {
        let mut budget = Budget::new(2, 100);
        assert_eq!((budget.take(1), budget.take(1)), (None, Some(Gate::Closed)));
        assert_eq!(budget.limit_events(4), Some(Gate::Open));
        assert_eq!(budget.limit_events(4), None);
        assert_eq!(budget.limit_events(1), Some(Gate::Closed));
        assert_eq!(budget.give(2, 2), Some(Gate::Open));
    }

    #[test]
    fn one_record_above_the_whole_budget_passes_alone() {
        let mut budget = Budget::new(10, 100);
        assert_eq!(budget.take(5000), Some(Gate::Closed));
        assert_eq!(budget.give(1, 5000), Some(Gate::Open));
    }
}
