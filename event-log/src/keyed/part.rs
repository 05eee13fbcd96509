//! One assigned partition.

use super::deferred::Deferred;
use crate::epochs::Epoch;
use crate::finished;
use crate::ledger::Ledger;
use crate::seam::{Commit, Committed, Fence};
use crate::topic::TopicPartition;

#[derive(Debug)]
pub(super) struct Part {
    pub(super) epoch: Epoch,
    pub(super) ledger: Ledger,
    pub(super) fence: Option<Fence>,
    pub(super) in_flight: usize,
    /// Of this epoch: records and their bytes.
    pub(super) held: (usize, usize),
    /// Nothing more of it is wanted for now.
    pub(super) resting: bool,
    pub(super) halted: bool,
    pub(super) draining: bool,
    pub(super) deferred: Deferred,
    /// A read of what was put off is under way.
    pub(super) rereading: bool,
    /// Somebody who is put off may have got room since that was last looked at.
    pub(super) may_reread: bool,
    committed: Option<Commit>,
    /// Something may have to be committed.
    pub(super) changed: bool,
}

impl Part {
    pub(super) fn new(epoch: Epoch, fence: Option<Fence>, partition: TopicPartition, committed: Option<Committed>) -> Self {
        let ledger = match &committed {
            Some(Committed { next_offset, metadata, log_end }) => {
                let known = finished::decode(metadata, *next_offset, *log_end).unwrap_or_else(|| {
                    tracing::warn!(%partition, "what stands beside the committed offset is not ours: what was finished above it is done again");
                    Vec::new()
                });
                Ledger::resume(*next_offset, &known)
            }
            None => Ledger::new(),
        };
        Self {
            epoch,
            ledger,
            fence,
            in_flight: 0,
            held: (0, 0),
            resting: false,
            halted: false,
            draining: false,
            deferred: Deferred::default(),
            rereading: false,
            may_reread: false,
            committed: committed.map(|Committed { next_offset, metadata, .. }| Commit { partition, next_offset, metadata }),
            changed: false,
        }
    }

    /// Whether it takes on work.
    pub(super) fn is_open(&self) -> bool {
        !self.halted && !self.draining
    }

    /// What has moved since the last commit.
    pub(super) fn take_commit(&mut self, partition: TopicPartition, max_bytes: usize) -> Option<Commit> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let (next_offset, metadata) = self.ledger.to_commit(max_bytes)?;
        let commit = Commit { partition, next_offset, metadata };
        (self.committed.as_ref() != Some(&commit)).then_some(commit)
    }

    pub(super) fn has_committed(&mut self, commit: Commit) {
        self.committed = Some(commit);
    }
}
