//! Who of a group holds what: a pure decision of one member, taken in turn and written in the transaction that read the state.
//!
//! Promises: a member takes free or expired leases up to its fair share of each topic and gives surplus up; it never takes what
//! another holds, nor what it has not yet let go of itself. Once every member has had its turns, and none comes or goes, each
//! partition is held and no two members differ by more than one partition of a topic.

use std::collections::{BTreeMap, BTreeSet};

use crate::topic::{Topic, TopicPartition};

/// A member as the group's table has it; those that have expired are left out before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberRow {
    pub(crate) id: String,
    pub(crate) topics: Vec<Topic>,
}

/// A lease as the group's table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaseRow {
    pub(crate) partition: TopicPartition,
    pub(crate) owner: Option<String>,
    pub(crate) epoch: i64,
    pub(crate) expires_at_ms: i64,
}

/// What a member does with a partition it has been given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It works on it.
    Held,
    /// It has been told to give it up and is draining.
    Surrendering,
    /// It has been told that it is gone and has not yet let go.
    Lost,
}

/// A partition that a member has been given and not yet let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) partition: TopicPartition,
    pub(crate) epoch: i64,
    pub(crate) stage: Stage,
}

/// What a turn decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Leases to take, with their new epoch.
    pub(crate) taken: Vec<(TopicPartition, i64)>,
    /// Leases to give up once drained.
    pub(crate) surplus: Vec<TopicPartition>,
    /// Leases that another has taken, or that are gone.
    pub(crate) lost: Vec<TopicPartition>,
    /// The earliest expiry of what is kept.
    pub(crate) earliest_expiry_ms: Option<i64>,
}

/// A member's turn. `members` are the living ones, this one among them.
pub(crate) fn decide(
    me: &str,
    members: &[MemberRow],
    leases: &[LeaseRow],
    partitions: i32,
    holdings: &[Holding],
    now_ms: i64,
) -> Turn {
    let leases: BTreeMap<TopicPartition, &LeaseRow> = leases.iter().map(|lease| (lease.partition, lease)).collect();
    let holdings: BTreeMap<TopicPartition, &Holding> = holdings.iter().map(|holding| (holding.partition, holding)).collect();
    let mut turn = Turn::default();
    let mut kept: BTreeMap<Topic, BTreeSet<TopicPartition>> = BTreeMap::new();
    for (&partition, holding) in &holdings {
        let lease = leases.get(&partition).filter(|lease| lease.owner.as_deref() == Some(me) && lease.epoch == holding.epoch);
        match (holding.stage, lease) {
            (Stage::Lost, _) => {}
            (_, None) => turn.lost.push(partition),
            (stage, Some(lease)) => {
                turn.earliest_expiry_ms =
                    Some(turn.earliest_expiry_ms.map_or(lease.expires_at_ms, |ms| ms.min(lease.expires_at_ms)));
                if stage == Stage::Held {
                    kept.entry(partition.topic).or_default().insert(partition);
                }
            }
        }
    }
    let topics: BTreeSet<Topic> = members.iter().filter(|m| m.id == me).flat_map(|m| m.topics.iter().copied()).collect();
    for topic in topics {
        let share = fair_share(me, members, topic, partitions);
        let mine = kept.remove(&topic).unwrap_or_default();
        if mine.len() > share {
            turn.surplus.extend(mine.iter().skip(share));
            continue;
        }
        let free = (0..partitions).map(|partition| TopicPartition { topic, partition }).filter_map(|partition| {
            if holdings.contains_key(&partition) {
                return None;
            }
            match leases.get(&partition) {
                None => Some((partition, 1)),
                // A lease of this very member that it does not hold is left from a turn whose answer was lost.
                Some(lease) if lease.owner.is_none() || lease.owner.as_deref() == Some(me) || lease.expires_at_ms <= now_ms => {
                    Some((partition, lease.epoch + 1))
                }
                Some(_) => None,
            }
        });
        turn.taken.extend(free.take(share - mine.len()));
    }
    turn
}

/// How many partitions of a topic are this member's: the members in order of their ids, those who get one more rotated by topic.
fn fair_share(me: &str, members: &[MemberRow], topic: Topic, partitions: i32) -> usize {
    let mut ids: Vec<&str> = members.iter().filter(|m| m.topics.contains(&topic)).map(|m| m.id.as_str()).collect();
    ids.sort_unstable();
    let Some(index) = ids.iter().position(|id| *id == me) else { return 0 };
    let partitions = usize::try_from(partitions).unwrap_or(0);
    let (each, left) = (partitions / ids.len(), partitions % ids.len());
    let turn = Topic::ALL.iter().position(|t| *t == topic).unwrap_or(0);
    each + usize::from((index + turn) % ids.len() < left)
}
