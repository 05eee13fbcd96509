//! A member's side of its group: one task owns what it holds, takes its turns, and tells the consumer.
//!
//! Promises: what was given up is free only after the consumer has let go of it; events come in the order in which they were
//! decided. A member that is dropped without leaving is as one that was killed: its leases run out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::balance::{Holding, Stage};
use super::dialect::{Dialect, Member};
use crate::seam::LogError;
use crate::topic::TopicPartition;

#[derive(Debug)]
pub(super) enum MembershipEvent {
    /// With the leases' epochs.
    Assigned(Vec<(TopicPartition, i64)>),
    Revoked(Vec<TopicPartition>),
    Lost(Vec<TopicPartition>),
    Failed(LogError),
}

pub(super) enum Command {
    /// The consumer has let go of these.
    Release(Vec<TopicPartition>, oneshot::Sender<()>),
    /// The database says that the lease has passed on.
    Look,
    Leave(oneshot::Sender<()>),
}

/// Runs until the consumer leaves or is gone.
pub(super) async fn run(
    dialect: Arc<dyn Dialect>,
    member: Member,
    heartbeat: Duration,
    mut commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::UnboundedSender<MembershipEvent>,
) {
    let mut holdings: BTreeMap<TopicPartition, Holding> = BTreeMap::new();
    let mut changed = dialect.groups_changed();
    let mut next_turn = Instant::now();
    loop {
        // Commands first: a release or a goodbye decides what the next turn sees. The clock before the notice, so that a busy
        // group cannot keep a lease from being renewed.
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(Command::Release(partitions, done)) => {
                    let leases: Vec<_> = partitions.iter().filter_map(|p| holdings.remove(p)).map(|h| (h.partition, h.epoch)).collect();
                    if let Err(e) = dialect.release(&member, &leases).await {
                        // They run out by themselves.
                        tracing::warn!(error = %e, group = %member.group, "leases could not be given back");
                    }
                    let _ = done.send(());
                }
                Some(Command::Look) => next_turn = Instant::now(),
                Some(Command::Leave(done)) => {
                    if let Err(e) = dialect.leave(&member).await {
                        tracing::warn!(error = %e, group = %member.group, "the group could not be left; its leases run out");
                    }
                    let _ = done.send(());
                    return;
                }
                None => return,
            },
            () = tokio::time::sleep_until(next_turn) => {
                next_turn = Instant::now() + heartbeat;
                changed.mark_unchanged();
                if !take_turn(&*dialect, &member, &mut holdings, &events).await {
                    return;
                }
            }
            notice = changed.changed() => if notice.is_ok() { next_turn = Instant::now() },
        }
    }
}

/// Whether to go on.
async fn take_turn(
    dialect: &dyn Dialect,
    member: &Member,
    holdings: &mut BTreeMap<TopicPartition, Holding>,
    events: &mpsc::UnboundedSender<MembershipEvent>,
) -> bool {
    let held: Vec<Holding> = holdings.values().copied().collect();
    let turn = match dialect.turn(member, &held).await {
        Ok(turn) => turn,
        Err(e @ LogError::Transient(_)) => {
            tracing::warn!(error = %e, group = %member.group, "a group's turn failed; it is taken again");
            return true;
        }
        Err(e) => {
            let _ = events.send(MembershipEvent::Failed(e));
            return false;
        }
    };
    let mut stage = |partitions: &[TopicPartition], stage| {
        for partition in partitions {
            if let Some(holding) = holdings.get_mut(partition) {
                holding.stage = stage;
            }
        }
    };
    stage(&turn.lost, Stage::Lost);
    stage(&turn.surplus, Stage::Surrendering);
    for &(partition, epoch) in &turn.taken {
        holdings.insert(partition, Holding { partition, epoch, stage: Stage::Held });
    }
    // A consumer that is gone ends the task at its next command.
    if !turn.lost.is_empty() {
        let _ = events.send(MembershipEvent::Lost(turn.lost));
    }
    if !turn.surplus.is_empty() {
        let _ = events.send(MembershipEvent::Revoked(turn.surplus));
    }
    if !turn.taken.is_empty() {
        let _ = events.send(MembershipEvent::Assigned(turn.taken));
    }
    true
}
