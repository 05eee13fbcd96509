//! A member: a core, and a shell around it that does what it says on the model's log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::spec::STALL_AFTER;
use super::tenure::{Task, Tenure};
use super::world::{Grant, Stored, World};
use crate::driver::{Rebalance, Verdict, Work};
use crate::keyed::core::Core;
use crate::keyed::effect::{Effect, Moment, Reread, TakenUp, Tell, Ticket};
use crate::seam::{Commit, Committed, LogError, LogRecord};
use crate::topic::TopicPartition;

/// What the group has to say, in order.
#[derive(Debug)]
pub(super) enum Letter {
    Assigned(usize, Grant),
    Revoked(usize),
    Lost(Vec<usize>),
}

/// Where a consumer reads.
#[derive(Debug)]
struct Position {
    next: usize,
    is_paused: bool,
    /// Records that were on their way when it was paused.
    late: usize,
}

pub(super) struct Member {
    pub(super) id: usize,
    pub(super) core: Core<()>,
    pub(super) inbox: VecDeque<Letter>,
    pub(super) grants: BTreeMap<usize, Grant>,
    positions: BTreeMap<usize, Position>,
    tenures: BTreeMap<usize, Tenure>,
    pub(super) tasks: BTreeMap<Ticket, Task>,
    rereads: Vec<Reread>,
    pub(super) frozen: bool,
    pub(super) bound: usize,
    pub(super) ended: bool,
    pub(super) halted: bool,
    /// When its core wants to be woken.
    pub(super) wake_at: Instant,
    /// Records that may lie above twice the budget.
    slack: usize,
}

fn moment(world: &mut World) -> Moment {
    let unix_ms = i64::try_from((world.now - world.begun).as_millis()).expect("short") + 1;
    Moment { now: world.now, unix_ms, chance: world.chance.unit() }
}

impl Member {
    pub(super) fn new(id: usize, world: &World) -> Self {
        Self {
            id,
            core: Core::new(world.spec.config(), world.now),
            inbox: VecDeque::new(),
            grants: BTreeMap::new(),
            positions: BTreeMap::new(),
            tenures: BTreeMap::new(),
            tasks: BTreeMap::new(),
            rereads: Vec::new(),
            frozen: false,
            bound: world.spec.bound,
            ended: false,
            halted: false,
            wake_at: world.now,
            slack: 0,
        }
    }

    /// As the shell's loop does: due things, then what the core wants, until it wants nothing.
    pub(super) fn settle(&mut self, world: &mut World) {
        for turn in 0.. {
            assert!(turn < 100, "the core keeps itself busy");
            self.core.limit(self.bound);
            let at = moment(world);
            self.core.tick(at, false);
            let mut acted = false;
            while let Some(effect) = self.core.next_effect() {
                acted = true;
                self.perform(effect, world);
                if self.ended {
                    return;
                }
            }
            if !acted && self.core.wake_at(world.now) > world.now {
                break;
            }
        }
        self.wake_at = self.core.wake_at(world.now);
        self.check(world);
    }

    fn check(&mut self, world: &mut World) {
        let (events, bytes) = self.core.held();
        // Every tenant of every partition may hold one record, and each partition may overshoot its share by what one delivery brings.
        let shares = world.partitions.len() * (world.spec.tenants + world.spec.batch);
        let most = 2 * world.spec.budget_events + shares + self.slack;
        assert!(events <= most, "{events} records are held, {most} at most");
        assert!(bytes == 0 || events > 0);
        assert_eq!(self.core.in_flight(), self.tasks.len(), "what is in flight is known");
        let counts = self.core.take_counts();
        world.seen.put_off += counts.put_off;
        world.seen.reread += counts.reread;
        world.seen.skipped += counts.skipped;
    }

    fn perform(&mut self, effect: Effect<()>, world: &mut World) {
        match effect {
            Effect::Work(ticket, work) => self.begins(ticket, &work, world),
            Effect::Reread(reread) => self.rereads.push(reread),
            Effect::Assign(partitions) => self.assign(partitions, world),
            Effect::Unassign(partitions) => {
                for at in partitions {
                    let index = world.find(at);
                    self.positions.remove(&index);
                    self.tenures.remove(&index);
                    let owns = world.owns(index, self.id, self.grants.remove(&index));
                    if owns && world.partitions[index].is_asked_back {
                        world.partitions[index].owner = None;
                        world.partitions[index].is_asked_back = false;
                    }
                }
            }
            Effect::Commit(commits) => self.commit(commits, world),
            Effect::Pause(partitions) => {
                for at in partitions {
                    let late = world.chance.below(world.spec.batch + 1);
                    if let Some(position) = self.positions.get_mut(&world.find(at)) {
                        (position.is_paused, position.late) = (true, late);
                        self.slack += late;
                    }
                }
            }
            Effect::Resume(partitions) => {
                for at in partitions {
                    if let Some(position) = self.positions.get_mut(&world.find(at)) {
                        position.is_paused = false;
                    }
                }
            }
            Effect::Tell(Tell::Fenced(at)) => {
                // The core drops it; what it still reads of it is not taken.
                self.tenures.remove(&world.find(at));
                world.seen.fenced += 1;
            }
            Effect::Tell(Tell::Dropped(records)) => world.seen.dropped += records,
            Effect::Tell(Tell::Halted(..)) => world.seen.halted += 1,
            Effect::Tell(Tell::Rebalanced(Rebalance::Revoked, _)) => world.seen.drained += 1,
            Effect::Tell(Tell::Stalled(_, still)) => {
                world.seen.stalled += 1;
                assert!(still >= STALL_AFTER);
                assert!(self.tasks.values().any(|task| world.now - task.began_at >= STALL_AFTER), "nothing stood still");
            }
            Effect::Tell(_) => {}
            Effect::End(error) => {
                let stalled = matches!(&error, Some(LogError::Fatal(why)) if why.contains("stood still"));
                assert!(error.is_none() || stalled, "it ended: {error:?}");
                self.ended = true;
            }
        }
    }

    fn begins(&mut self, ticket: Ticket, work: &Work<()>, world: &mut World) {
        let records: Vec<&LogRecord> = work.window.iter().map(|held| &held.record).collect();
        let partition = world.find(records[0].source);
        let key = records[0].key.to_vec();
        let offsets = records.iter().map(|record| record.offset).collect();
        let is_stuck = world.goes_wrong(1) && world.chance.percent(30);
        let tenure = self.tenures.get_mut(&partition).expect("work is of a partition that is held");
        let task = Task { partition, tenure: tenure.number, key, offsets, attempt: work.attempt, is_stuck, began_at: world.now };
        assert!(work.first_tried_at_ms > 0);
        assert!(self.tasks.len() < self.bound, "the bound of {}", self.bound);
        let busy = self.tasks.values().any(|other| (other.partition, &other.key) == (task.partition, &task.key));
        assert!(!busy, "two windows of one key at a time");
        tenure.begins(&task, &records, &world.partitions[partition].log, &world.spec, world.now);
        world.seen.windows += 1;
        world.seen.joined += usize::from(records.len() > 1);
        self.tasks.insert(ticket, task);
    }

    fn assign(&mut self, partitions: Vec<TopicPartition>, world: &mut World) {
        let indexes: Vec<usize> = partitions.iter().map(|&at| world.find(at)).collect();
        let gone = indexes.iter().find(|index| !world.owns(**index, self.id, self.grants.get(index).copied()));
        if let Some(&gone) = gone {
            let error = if world.chance.percent(50) {
                LogError::Fenced(world.partitions[gone].at)
            } else {
                LogError::Transient("the group is changing".to_owned())
            };
            let at = moment(world);
            return self.core.not_taken_up(error, at);
        }
        if world.goes_wrong(10) {
            let at = moment(world);
            return self.core.not_taken_up(LogError::Transient("away".to_owned()), at);
        }
        let mut taken = Vec::new();
        for index in indexes {
            let partition = &world.partitions[index];
            let next = partition.stored.as_ref().map_or(0, |stored| stored.next_offset);
            world.tenures += 1;
            self.tenures.insert(index, Tenure::new(world.tenures, &partition.log, partition.stored.as_ref()));
            self.positions.insert(index, Position { next: partition.index(next), is_paused: false, late: 0 });
            let committed = partition.stored.clone().map(|stored| Committed {
                next_offset: stored.next_offset,
                metadata: stored.metadata,
                log_end: partition.end(),
            });
            taken.push(TakenUp { partition: partition.at, fence: None, committed });
        }
        self.core.taken_up(taken);
    }

    fn commit(&mut self, commits: Vec<Commit>, world: &mut World) {
        for commit in &commits {
            let index = world.find(commit.partition);
            let tenure = self.tenures.get(&index).expect("a commit is of a partition that is held");
            tenure.commits(commit, &world.partitions[index].log);
        }
        let gone = commits.iter().map(|commit| commit.partition).find(|&at| {
            let index = world.find(at);
            !world.owns(index, self.id, self.grants.get(&index).copied())
        });
        let spurious = world.goes_wrong(2).then(|| commits[world.chance.below(commits.len())].partition);
        let result = if let Some(fenced) = gone.or(spurious) {
            Err(LogError::Fenced(fenced))
        } else {
            let (is_made, is_told) = (!world.goes_wrong(5), !world.goes_wrong(5));
            if is_made {
                for Commit { partition, next_offset, metadata } in commits.clone() {
                    let index = world.find(partition);
                    let stored = &mut world.partitions[index].stored;
                    assert!(stored.as_ref().is_none_or(|stored| stored.next_offset <= next_offset), "a frontier went back");
                    *stored = Some(Stored { next_offset, metadata });
                }
            }
            if is_made && is_told { Ok(()) } else { Err(LogError::Transient("no answer".to_owned())) }
        };
        let at = moment(world);
        self.core.committed(commits, result, at);
    }

    /// The consumer says something: the group first. False where it has nothing to say.
    pub(super) fn hear(&mut self, world: &mut World) -> bool {
        if !self.core.asks_log(world.now) {
            return false;
        }
        if world.goes_wrong(3) {
            let at = moment(world);
            self.core.failed(LogError::Transient("away".to_owned()), at);
            return true;
        }
        self.core.worked();
        if let Some(letter) = self.inbox.pop_front() {
            let at = |index: &usize| world.partitions[*index].at;
            match letter {
                Letter::Assigned(index, grant) => {
                    self.grants.insert(index, grant);
                    self.core.assigned(vec![at(&index)]);
                }
                Letter::Revoked(index) => self.core.revoked(vec![at(&index)], world.now),
                Letter::Lost(indexes) => {
                    for index in &indexes {
                        self.grants.remove(index);
                        self.tenures.remove(index);
                    }
                    self.core.lost(indexes.iter().map(at).collect());
                }
            }
            return true;
        }
        let ready: Vec<usize> = self
            .positions
            .iter()
            .filter(|(index, position)| {
                let rest = world.partitions[**index].log.len() - position.next;
                rest > 0 && (!position.is_paused || position.late > 0)
            })
            .map(|(index, _)| *index)
            .collect();
        if ready.is_empty() {
            return false;
        }
        let index = ready[world.chance.below(ready.len())];
        // What was delivered comes again.
        let back = if world.goes_wrong(3) { world.chance.below(4) } else { 0 };
        let position = self.positions.get_mut(&index).expect("ready");
        position.next = position.next.saturating_sub(back);
        let mut count = 1 + world.chance.below(world.spec.batch);
        if position.is_paused {
            count = count.min(position.late);
            position.late -= count;
        }
        let log = &world.partitions[index].log;
        let end = (position.next + count).min(log.len());
        let records: Vec<LogRecord> = log[position.next..end].to_vec();
        position.next = end;
        let handler = Arc::clone(&world.spec.handler);
        let at = moment(world);
        for record in records {
            self.core.received(record, &*handler, at);
        }
        true
    }

    /// One of the reads of what was put off ends.
    pub(super) fn read(&mut self, world: &mut World) -> bool {
        if self.rereads.is_empty() {
            return false;
        }
        let reread = self.rereads.swap_remove(world.chance.below(self.rereads.len()));
        let partition = &world.partitions[world.find(reread.partition)];
        let from = partition.index(reread.offset);
        let records = partition.log[from..(from + reread.max_records).min(partition.log.len())].to_vec();
        let result = if world.goes_wrong(10) { Err(LogError::Transient("away".to_owned())) } else { Ok(records) };
        let handler = Arc::clone(&world.spec.handler);
        let at = moment(world);
        self.core.reread(reread, result, &*handler, at);
        true
    }

    /// Some work ends, well or not.
    pub(super) fn work(&mut self, world: &mut World) -> bool {
        let ready: Vec<Ticket> = self.tasks.iter().filter(|(_, task)| !task.is_stuck).map(|(ticket, _)| *ticket).collect();
        if ready.is_empty() {
            return false;
        }
        let ticket = ready[world.chance.below(ready.len())];
        let task = self.tasks.remove(&ticket).expect("in flight");
        let draw = if world.is_over { 100 } else { world.chance.below(100) };
        let verdict = match draw {
            0..15 => Verdict::RetryAfter(Duration::from_millis(world.chance.below(3) as u64 * 40)),
            15..25 if task.offsets.len() > 1 => Verdict::Apart,
            25..27 if world.spec.halts && !world.is_ending => Verdict::Halt("the model says so".to_owned()),
            _ => Verdict::Done,
        };
        if verdict == Verdict::Done {
            let partition = &mut world.partitions[task.partition];
            task.offsets.iter().for_each(|&offset| {
                let index = partition.index(offset);
                if partition.paid[index] == 0 {
                    let before = partition.before(index).map(|before| partition.paid[before]);
                    assert_ne!(before, Some(0), "an entity's outcomes begin in order");
                    world.seen.outcomes += 1;
                }
                partition.paid[index] += 1;
                world.seen.paid_twice += usize::from(partition.paid[index] > 1);
            });
        }
        world.seen.retried += usize::from(matches!(verdict, Verdict::RetryAfter(_)));
        world.seen.apart += usize::from(verdict == Verdict::Apart);
        self.halted |= matches!(verdict, Verdict::Halt(_));
        let now = world.now;
        if let Some(tenure) = self.tenures.get_mut(&task.partition).filter(|tenure| tenure.number == task.tenure) {
            match &verdict {
                Verdict::Done => tenure.done(&task),
                Verdict::RetryAfter(wait) => tenure.parks(&task, now + *wait),
                Verdict::Apart => tenure.falls_apart(&task),
                Verdict::Halt(_) => {}
            }
        }
        let at = moment(world);
        self.core.completed(ticket, verdict, at);
        true
    }

    pub(super) fn is_idle(&self) -> bool {
        self.core.held() == (0, 0) && self.core.deferred() == 0 && self.tasks.is_empty()
    }
}
