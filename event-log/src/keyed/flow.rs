//! What is held, and which partitions rest because of it.

use smallvec::SmallVec;

use super::core::{Core, Entry};
use super::effect::{Effect, Tell};
use crate::budget::Gate;
use crate::topic::TopicPartition;

/// Runs of a partition, of its ledger and of what is put off, at most: then it rests.
const MOST_RUNS: usize = 16_384;

impl<T> Core<T> {
    /// Whether twice the budget is held: the budget, and all shares of it once more.
    pub(super) fn is_overfull(&self) -> bool {
        let (records, bytes) = self.budget.held();
        records >= self.config.budget_events.saturating_mul(2) || bytes >= self.config.budget_bytes.saturating_mul(2)
    }

    /// A record is held from here on.
    pub(super) fn holds(&mut self, partition: TopicPartition, bytes: usize) {
        if let Some(part) = self.parts.get_mut(&partition) {
            part.held = (part.held.0 + 1, part.held.1 + bytes);
        }
        let gate = self.budget.take(bytes);
        self.gate_moved(gate);
        self.rest_or_flow(&[partition]);
    }

    /// These are held no longer.
    pub(super) fn give_back(&mut self, entries: &[Entry<T>]) {
        let bytes = entries.iter().map(|entry| entry.bytes).sum();
        // A window is of one partition; only what is dropped is of several.
        let mut touched: SmallVec<[TopicPartition; 1]> = SmallVec::new();
        for entry in entries {
            let partition = entry.held.record.source;
            if let Some(part) = self.parts.get_mut(&partition).filter(|part| part.epoch == entry.epoch) {
                part.held = (part.held.0.saturating_sub(1), part.held.1.saturating_sub(entry.bytes));
                if touched.last() != Some(&partition) {
                    touched.push(partition);
                }
            }
        }
        let was_overfull = self.is_overfull();
        let gate = self.budget.give(entries.len(), bytes);
        self.gate_moved(gate);
        if was_overfull && !self.is_overfull() {
            self.look_for_rereads();
        }
        touched.sort_unstable();
        touched.dedup();
        for partition in &touched {
            if let Some(part) = self.parts.get_mut(partition) {
                part.may_reread = true;
            }
        }
        self.rest_or_flow(&touched);
    }

    fn gate_moved(&mut self, moved: Option<Gate>) {
        let Some(gate) = moved else { return };
        // Windows that are open hold the memory that they wait in.
        self.schedule.set_full(gate == Gate::Closed);
        self.effects.push_back(Effect::Tell(Tell::Full(gate == Gate::Closed)));
        self.look_for_rereads();
        self.rest_or_flow_all();
    }

    /// Somebody who was put off may have room now.
    pub(super) fn look_for_rereads(&mut self) {
        self.parts.values_mut().for_each(|part| part.may_reread = true);
    }

    pub(super) fn rest_or_flow_all(&mut self) {
        let all = self.partitions();
        self.rest_or_flow(&all);
    }

    /// While the budget is full and nothing is put off, those of `partitions` that hold their share rest, until they hold half of it.
    /// So does one that has been read far ahead of a record that is not done: what lies between is remembered.
    pub(super) fn rest_or_flow(&mut self, partitions: &[TopicPartition]) {
        let full = self.budget.gate() == Gate::Closed && !self.may_put_off();
        let count = self.parts.len().max(1);
        let share = ((self.config.budget_events / count).max(1), (self.config.budget_bytes / count).max(1));
        let most_open = self.config.read_ahead_records.max(self.config.budget_events).max(2);
        let (mut rest, mut flow) = (Vec::new(), Vec::new());
        for partition in partitions {
            let Some(part) = self.parts.get_mut(partition).filter(|part| part.is_open()) else { continue };
            let (open, runs) = (part.ledger.open(), part.ledger.runs() + part.deferred.runs());
            let holds_its_share = full && (part.held.0 >= share.0 || part.held.1 >= share.1);
            let has_room = !full || (part.held.0 <= share.0 / 2 && part.held.1 <= share.1 / 2);
            if !part.resting && (holds_its_share || open >= most_open || runs >= MOST_RUNS) {
                part.resting = true;
                rest.push(*partition);
            } else if part.resting && has_room && open <= most_open / 2 && runs <= MOST_RUNS / 2 {
                part.resting = false;
                flow.push(*partition);
            }
        }
        // Nothing flows any more once the process stops.
        if !flow.is_empty() && self.is_running() {
            self.effects.push_back(Effect::Resume(flow));
        }
        if !rest.is_empty() {
            self.effects.push_back(Effect::Pause(rest));
        }
    }
}
