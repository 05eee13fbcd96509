//! What the group says, and what it is told: assignments, drains, fences and commits.

use tokio::time::Instant;

use super::core::{Core, Phase};
use super::effect::{Effect, Moment, TakenUp, Tell};
use super::part::Part;
use crate::driver::{Drain, Policy, Rebalance, policy};
use crate::finished;
use crate::seam::{Commit, LogError};
use crate::topic::TopicPartition;

impl<T> Core<T> {
    /// Partitions came.
    pub(crate) fn assigned(&mut self, partitions: Vec<TopicPartition>) {
        self.effects.push_back(Effect::Tell(Tell::Rebalanced(Rebalance::Assigned, partitions.clone())));
        self.unassigned.extend(partitions);
        // Whatever failed before has no say in it.
        if self.is_running() && !self.assigning {
            self.assign();
        }
    }

    /// Takes up what could not be taken up before, once that is due.
    pub(super) fn take_up(&mut self, now: Instant) {
        if self.is_running() && !self.assigning && !self.unassigned.is_empty() && self.assign_retry.is_due(now) {
            self.assign();
        }
    }

    fn assign(&mut self) {
        self.assigning = true;
        self.effects.push_back(Effect::Assign(self.unassigned.clone()));
    }

    /// They are read from where the group has committed.
    pub(crate) fn taken_up(&mut self, taken: Vec<TakenUp>) {
        self.assigning = false;
        self.assign_retry.worked();
        for TakenUp { partition, fence, committed } in taken {
            // Gone again while that was being done.
            if !self.unassigned.contains(&partition) {
                continue;
            }
            self.unassigned.retain(|p| *p != partition);
            let part = Part::new(self.epochs.begin(partition), fence, partition, committed);
            self.parts.insert(partition, part);
        }
        self.look_for_rereads();
    }

    /// They could not be assigned, for now or for good.
    pub(crate) fn not_taken_up(&mut self, error: LogError, at: Moment) {
        self.assigning = false;
        self.assign_retry.failed(at.now, at.chance);
        match error {
            LogError::Transient(_) => self.effects.push_back(Effect::Tell(Tell::LogFailed(error))),
            LogError::Fenced(partition) => {
                self.unassigned.retain(|p| *p != partition);
                self.fenced(partition, at);
            }
            LogError::BelowLogStart { .. } | LogError::Fatal(_) => self.end_with(error, at),
        }
    }

    /// Partitions are asked back: what is in flight may end.
    pub(crate) fn revoked(&mut self, partitions: Vec<TopicPartition>, now: Instant) {
        self.unassigned.retain(|p| !partitions.contains(p));
        self.discard(&partitions);
        for partition in &partitions {
            if let Some(part) = self.parts.get_mut(partition) {
                part.draining = true;
            }
        }
        self.drains.push(Drain { partitions, deadline: now + self.config.drain_deadline });
    }

    /// Partitions are gone already.
    pub(crate) fn lost(&mut self, partitions: Vec<TopicPartition>) {
        self.effects.push_back(Effect::Tell(Tell::Rebalanced(Rebalance::Lost, partitions.clone())));
        for drain in &mut self.drains {
            drain.partitions.retain(|p| !partitions.contains(p));
        }
        self.drains.retain(|drain| !drain.partitions.is_empty());
        self.leaving.iter_mut().for_each(|leaving| leaving.retain(|p| !partitions.contains(p)));
        self.leaving.retain(|leaving| !leaving.is_empty());
        self.unassigned.retain(|p| !partitions.contains(p));
        self.drop_partitions(&partitions);
        self.effects.push_back(Effect::Unassign(partitions));
    }

    /// Another owner was met. If the partition turns out to be ours still, it begins anew where the group has committed; if not,
    /// the log will say so.
    pub(super) fn fenced(&mut self, partition: TopicPartition, at: Moment) {
        self.effects.push_back(Effect::Tell(Tell::Fenced(partition)));
        let begins_anew = self.parts.get(&partition).is_some_and(|part| !part.draining);
        let resting = self.parts.get(&partition).is_some_and(|part| part.resting);
        self.drop_partitions(&[partition]);
        if begins_anew && self.is_running() {
            // It holds nothing when it begins anew. What comes of it before is not taken.
            if resting {
                self.effects.push_back(Effect::Resume(vec![partition]));
            }
            self.unassigned.push(partition);
            self.assign_retry.failed(at.now, at.chance);
        }
    }

    /// The partitions' work no longer counts.
    fn drop_partitions(&mut self, partitions: &[TopicPartition]) {
        let dropped = self.discard(partitions);
        for partition in partitions {
            self.epochs.end(*partition);
            self.parts.remove(partition);
        }
        self.look_for_rereads();
        if dropped > 0 {
            self.effects.push_back(Effect::Tell(Tell::Dropped(dropped)));
        }
    }

    /// Lets go of revoked partitions whose work in flight has ended, or has had its time.
    pub(super) fn settle_drains(&mut self, now: Instant) {
        let (parts, leaving) = (&self.parts, &mut self.leaving);
        self.drains.retain_mut(|drain| {
            let drained = drain.partitions.iter().all(|p| parts.get(p).is_none_or(|part| part.in_flight == 0));
            let ends = drained || now >= drain.deadline;
            if ends {
                leaving.push(std::mem::take(&mut drain.partitions));
            }
            !ends
        });
        if !self.leaving.is_empty() && !self.committing && !self.commit() {
            self.leave();
        }
    }

    fn leave(&mut self) {
        for partitions in std::mem::take(&mut self.leaving) {
            self.drop_partitions(&partitions);
            self.effects.push_back(Effect::Unassign(partitions.clone()));
            self.effects.push_back(Effect::Tell(Tell::Rebalanced(Rebalance::Revoked, partitions)));
        }
    }

    /// Commits what has moved. False where nothing has.
    pub(super) fn commit(&mut self) -> bool {
        if self.committing {
            return true;
        }
        let moved: Vec<Commit> =
            self.parts.iter_mut().filter_map(|(&partition, part)| part.take_commit(partition, finished::MAX_BYTES)).collect();
        self.committing = !moved.is_empty();
        if self.committing {
            self.effects.push_back(Effect::Commit(moved));
        }
        self.committing
    }

    /// What became of a commit. One that failed may have been made.
    pub(crate) fn committed(&mut self, commits: Vec<Commit>, result: Result<(), LogError>, at: Moment) {
        self.committing = false;
        let again = match result {
            Ok(()) => {
                for commit in commits {
                    if let Some(part) = self.parts.get_mut(&commit.partition) {
                        part.has_committed(commit);
                    }
                }
                !self.leaving.is_empty() || self.phase == Phase::Leaving
            }
            Err(error) => {
                for commit in &commits {
                    if let Some(part) = self.parts.get_mut(&commit.partition) {
                        part.changed = true;
                    }
                }
                // Without it the rest can be committed. All else: at the next interval, or by whoever reads on.
                let again = matches!(&error, LogError::Fenced(partition) if self.parts.contains_key(partition));
                self.failed(error, at);
                again
            }
        };
        if again && self.commit() {
            return;
        }
        self.leave();
        if self.phase == Phase::Leaving {
            self.end();
        }
    }

    /// Transient errors are asked again, fences drop their partition, the rest ends the driver.
    pub(crate) fn failed(&mut self, error: LogError, at: Moment) {
        match policy(error) {
            Policy::Again(e) => {
                self.effects.push_back(Effect::Tell(Tell::LogFailed(e)));
                self.retry.failed(at.now, at.chance);
            }
            Policy::Drop(partition) => self.fenced(partition, at),
            Policy::Halt(e) => self.end_with(e, at),
        }
    }

    /// The consumer answered.
    pub(crate) fn worked(&mut self) {
        self.retry.worked();
    }
}
