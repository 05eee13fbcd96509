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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOPICS: [Topic; 2] = [Topic::ConversationsLive, Topic::FactsLive];
    const TTL_MS: i64 = 100;

    #[derive(Clone, Debug)]
    enum Step {
        Join,
        /// The n-th member takes its turn.
        Turn(usize),
        /// The n-th member lets go of what it was told to.
        LetGo(usize),
        Leave(usize),
        /// The n-th member vanishes.
        Crash(usize),
        Pass(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => Just(Step::Join),
            8 => (0_usize..8).prop_map(Step::Turn),
            4 => (0_usize..8).prop_map(Step::LetGo),
            1 => (0_usize..8).prop_map(Step::Leave),
            1 => (0_usize..8).prop_map(Step::Crash),
            2 => (0_i64..60).prop_map(Step::Pass),
        ]
    }

    #[derive(Default)]
    struct Group {
        members: BTreeMap<String, i64>,
        leases: BTreeMap<TopicPartition, LeaseRow>,
        alive: Vec<(String, BTreeMap<TopicPartition, Holding>)>,
        joined: usize,
        now_ms: i64,
    }

    impl Group {
        /// As the dialect's transaction does it.
        fn turn(&mut self, index: usize, partitions: i32) {
            let (id, holdings) = &mut self.alive[index];
            let now_ms = self.now_ms;
            self.members.insert(id.clone(), now_ms + TTL_MS);
            self.members.retain(|_, expires_at_ms| *expires_at_ms > now_ms);
            let members: Vec<MemberRow> =
                self.members.keys().map(|id| MemberRow { id: id.clone(), topics: TOPICS.to_vec() }).collect();
            let leases: Vec<LeaseRow> = self.leases.values().cloned().collect();
            let held: Vec<Holding> = holdings.values().copied().collect();
            let turn = decide(id, &members, &leases, partitions, &held, now_ms);
            for holding in held.iter().filter(|holding| holding.stage != Stage::Lost) {
                let lease = self.leases.get_mut(&holding.partition).expect("it was taken");
                if lease.owner.as_ref() == Some(id) && lease.epoch == holding.epoch {
                    lease.expires_at_ms = now_ms + TTL_MS;
                }
            }
            for (partition, epoch) in turn.taken {
                let before = self.leases.get(&partition).map_or(0, |lease| lease.epoch);
                assert!(epoch > before, "epochs grow with every change of hands");
                assert!(!holdings.contains_key(&partition), "it has not let go of it");
                self.leases
                    .insert(partition, LeaseRow { partition, owner: Some(id.clone()), epoch, expires_at_ms: now_ms + TTL_MS });
                holdings.insert(partition, Holding { partition, epoch, stage: Stage::Held });
            }
            turn.lost.iter().for_each(|p| holdings.get_mut(p).expect("it held it").stage = Stage::Lost);
            turn.surplus.iter().for_each(|p| holdings.get_mut(p).expect("it held it").stage = Stage::Surrendering);
        }

        fn let_go(&mut self, index: usize) {
            let (id, holdings) = &mut self.alive[index];
            let leases = &mut self.leases;
            holdings.retain(|partition, holding| {
                let lease = leases.get_mut(partition).expect("it was taken");
                let goes = holding.stage != Stage::Held;
                if goes && lease.owner.as_ref() == Some(id) && lease.epoch == holding.epoch {
                    (lease.owner, lease.expires_at_ms) = (None, 0);
                }
                !goes
            });
        }

        fn gone(&mut self, index: usize, in_order: bool) {
            let (id, _) = self.alive.remove(index);
            if in_order {
                self.members.remove(&id);
                self.leases.values_mut().filter(|lease| lease.owner.as_ref() == Some(&id)).for_each(|lease| {
                    (lease.owner, lease.expires_at_ms) = (None, 0);
                });
            }
        }
    }

    proptest! {
        #[test]
        fn nobody_is_robbed_and_everybody_gets_a_fair_share(
            partitions in 1..7_i32,
            steps in proptest::collection::vec(step(), 0..120),
        ) {
            let mut group = Group::default();
            for step in steps {
                let count = group.alive.len();
                // What lives and has not run out stays its owner's.
                let safe: Vec<LeaseRow> =
                    group.leases.values().filter(|lease| lease.owner.is_some() && lease.expires_at_ms > group.now_ms).cloned().collect();
                match step {
                    Step::Join => {
                        group.joined += 1;
                        // Ids in no order of joining.
                        let id = format!("{:02}-{}", (group.joined * 37) % 64, group.joined);
                        group.alive.push((id, BTreeMap::new()));
                    }
                    Step::Turn(n) if count > 0 => {
                        group.turn(n % count, partitions);
                        for lease in safe {
                            prop_assert_eq!(&group.leases[&lease.partition].owner, &lease.owner, "a lease was robbed");
                        }
                    }
                    Step::LetGo(n) if count > 0 => group.let_go(n % count),
                    Step::Leave(n) if count > 0 => group.gone(n % count, true),
                    Step::Crash(n) if count > 0 => group.gone(n % count, false),
                    Step::Pass(ms) => group.now_ms += ms,
                    _ => {}
                }
            }
            // Calm: nobody comes or goes, everybody has its turns, and lets go when told to.
            for _ in 0..6 {
                group.now_ms += TTL_MS / 3;
                for index in 0..group.alive.len() {
                    group.turn(index, partitions);
                    group.let_go(index);
                }
            }
            if !group.alive.is_empty() {
                for topic in TOPICS {
                    let counts: Vec<usize> =
                        group.alive.iter().map(|(_, holdings)| holdings.keys().filter(|p| p.topic == topic).count()).collect();
                    prop_assert_eq!(counts.iter().sum::<usize>(), usize::try_from(partitions).expect("small"));
                    prop_assert!(counts.iter().max().expect("some") - counts.iter().min().expect("some") <= 1, "{:?}", counts);
                }
            }
        }
    }
}
