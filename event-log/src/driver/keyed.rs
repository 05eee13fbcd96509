//! Windows of records, in order per key, keys beside each other: for the worker.
//!
//! The decisions, and what they promise, are [`crate::keyed`]'s. This is the shell: one task that owns the consumer and does what the
//! core says, in order, and tells it what happened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handler::{RecordHandler, Verdict};
use super::lag::{self, LagProbe};
use super::live::LiveBound;
use super::{Observer, now_ms};
use crate::keyed::core::Core;
use crate::keyed::effect::{Effect, Moment, Reread, TakenUp, Tell, Ticket};
use crate::schedule::{Fairness, LaneFloors, WindowBounds};
use crate::seam::{Consumer, ConsumerEvent, Log, LogError, LogRecord, Start};
use crate::topic::{Topic, TopicPartition};

/// How a keyed driver behaves.
#[derive(Clone, Debug)]
pub struct KeyedConfig {
    /// The consumer group.
    pub group: String,
    /// What it reads.
    pub topics: Vec<Topic>,
    /// When the windows of a topic close; absent: one record each.
    pub windows: BTreeMap<Topic, WindowBounds>,
    /// How tenants take turns.
    pub fairness: Fairness,
    /// What each lane is left.
    pub lanes: LaneFloors,
    /// Windows worked on at a time. Raised, it is used at once; lowered, what is in flight ends first; at 0 nothing new begins.
    pub max_concurrency: LiveBound,
    /// Records held at most by all partitions together (what was on its way overshoots it). Once it is full, each tenant may hold its
    /// share of each partition, so that all together hold twice as many at most.
    pub budget_events: usize,
    /// The same in bytes.
    pub budget_bytes: usize,
    /// Records of a partition that are read ahead of one that is not done, at most, past what is put off; the budget's at least. 0:
    /// nothing is put off. Once so many came of one tenant alone, nothing is put off either, until another one is seen.
    pub read_ahead_records: usize,
    /// How often frontiers are committed.
    pub commit_interval: Duration,
    /// How long work in flight may take to end when partitions go or the process stops.
    pub drain_deadline: Duration,
    /// How long work may stand still before the driver ends with an error. Longer than any call with all that it may wait for.
    pub stall_after: Duration,
}

impl KeyedConfig {
    /// Of this group, with bounds that fit most.
    #[must_use]
    pub fn new(group: impl Into<String>, topics: Vec<Topic>) -> Self {
        Self {
            group: group.into(),
            topics,
            windows: BTreeMap::new(),
            fairness: Fairness::default(),
            lanes: LaneFloors::default(),
            max_concurrency: 50.into(),
            budget_events: 10_000,
            budget_bytes: 64 << 20,
            read_ahead_records: 1_000_000,
            commit_interval: Duration::from_secs(1),
            drain_deadline: Duration::from_secs(20),
            stall_after: Duration::from_secs(15 * 60),
        }
    }
}

struct Shell<H: RecordHandler> {
    core: Core<H::Item>,
    log: Arc<dyn Log>,
    handler: Arc<H>,
    observer: Arc<dyn Observer>,
    consumer: Box<dyn Consumer>,
    running: JoinSet<(Ticket, Verdict)>,
    rereads: JoinSet<(Reread, Result<Vec<LogRecord>, LogError>)>,
    lag: LagProbe,
    /// Wakes when the bound of what is in flight moves.
    bound: watch::Receiver<usize>,
    /// What was told last: in flight, held records and bytes, put off.
    told: (usize, (usize, usize), usize),
}

/// Runs until `shutdown`, or until the log says something that no retry mends.
///
/// # Errors
/// [`LogError::BelowLogStart`] and [`LogError::Fatal`], the latter also where work has stood still for too long; what was finished
/// has been committed before.
pub async fn run_keyed<H: RecordHandler>(
    log: Arc<dyn Log>,
    config: KeyedConfig,
    handler: Arc<H>,
    observer: Arc<dyn Observer>,
    shutdown: CancellationToken,
) -> Result<(), LogError> {
    let consumer = log.subscribe(&config.group, &config.topics).await?;
    let drain_deadline = config.drain_deadline;
    let mut shell = Shell {
        bound: config.max_concurrency.watch(),
        core: Core::new(config, Instant::now()),
        log: Arc::clone(&log),
        handler,
        observer,
        consumer,
        running: JoinSet::new(),
        rereads: JoinSet::new(),
        lag: LagProbe::new(log),
        told: (0, (0, 0), 0),
    };
    let result = shell.run(&shutdown).await;
    shell.running.detach_all();
    shell.consumer.close(drain_deadline).await;
    result
}

fn moment() -> Moment {
    Moment { now: Instant::now(), unix_ms: now_ms(), chance: rand::random() }
}

impl<H: RecordHandler> Shell<H> {
    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), LogError> {
        let mut stopped = false;
        // One for all rounds: most of them wake by something else, at the same hour as before.
        let mut clock = std::pin::pin!(tokio::time::sleep_until(Instant::now()));
        loop {
            let bound = *self.bound.borrow_and_update();
            self.core.limit(self.handler.most_in_flight(bound));
            let at = moment();
            self.core.tick(at, self.handler.is_waiting_for_log());
            while let Some(effect) = self.core.next_effect() {
                if let Effect::End(error) = effect {
                    return error.map_or(Ok(()), Err);
                }
                self.perform(effect).await;
            }
            self.tell_levels();
            self.lag.tick(at.now, self.core.partitions());
            let wake_at = self.core.wake_at(at.now).min(self.lag.due_at);
            if clock.deadline() != wake_at {
                clock.as_mut().reset(wake_at);
            }
            let ask = self.core.asks_log(at.now);
            // Completions first: they free the budget and the keys, and there are never more of them than work in flight, so
            // they cannot starve the rest; rereads are as few. Shutdown before new work. The clock (retries, drains, commits)
            // before the log, which always has more: a busy log must not keep the frontier from being committed.
            tokio::select! {
                biased;
                Some(done) = self.running.join_next(), if !self.running.is_empty() => {
                    // What the log confirms it confirms in batches: whoever else was woken by the same one ends before the next
                    // round, which costs as much for all of them as for one.
                    tokio::task::yield_now().await;
                    let at = moment();
                    self.completed(done, at);
                    while let Some(done) = self.running.try_join_next() {
                        self.completed(done, at);
                    }
                }
                Some(read) = self.rereads.join_next(), if !self.rereads.is_empty() => {
                    let (reread, result) = unwound(read);
                    self.core.reread(reread, result, &*self.handler, moment());
                }
                () = shutdown.cancelled(), if !stopped => {
                    stopped = true;
                    self.core.stop(Instant::now());
                }
                // Never an error: the configuration holds the other end.
                _ = self.bound.changed() => {}
                () = self.handler.has_room(), if self.core.has_waiting() => {}
                () = &mut clock => {}
                ends = self.lag.looked() => self.tell_lag(&ends),
                event = self.consumer.next(), if ask => match event {
                    Ok(event) => {
                        self.core.worked();
                        self.happened(event);
                    }
                    Err(e) => self.core.failed(e, moment()),
                },
            }
        }
    }

    fn completed(&mut self, done: Result<(Ticket, Verdict), JoinError>, at: Moment) {
        let (ticket, verdict) = unwound(done);
        self.core.completed(ticket, verdict, at);
    }

    fn happened(&mut self, event: ConsumerEvent) {
        let at = moment();
        match event {
            ConsumerEvent::Records(records) => {
                for record in records {
                    self.core.received(record, &*self.handler, at);
                }
            }
            ConsumerEvent::Assigned(partitions) => self.core.assigned(partitions),
            ConsumerEvent::Revoked(partitions) => self.core.revoked(partitions, at.now),
            ConsumerEvent::Lost(partitions) => self.core.lost(partitions),
        }
    }

    async fn perform(&mut self, effect: Effect<H::Item>) {
        match effect {
            Effect::Work(ticket, work) => {
                let handler = Arc::clone(&self.handler);
                self.running.spawn(async move { (ticket, handler.handle(work).await) });
            }
            Effect::Reread(reread) => {
                let log = Arc::clone(&self.log);
                self.rereads.spawn(async move {
                    let result = log.read(reread.partition, reread.offset, reread.max_records).await;
                    (reread, result)
                });
            }
            Effect::Assign(partitions) => self.assign(&partitions).await,
            Effect::Unassign(partitions) => {
                if let Err(e) = self.consumer.unassign(&partitions).await {
                    self.core.failed(e, moment());
                }
            }
            Effect::Commit(commits) => {
                let result = self.consumer.commit(&commits).await;
                self.core.committed(commits, result, moment());
            }
            Effect::Pause(partitions) => {
                if let Err(e) = self.consumer.pause(&partitions) {
                    self.observer.log_failed(&e);
                }
            }
            Effect::Resume(partitions) => {
                if let Err(e) = self.consumer.resume(&partitions) {
                    self.observer.log_failed(&e);
                }
            }
            Effect::Tell(tell) => self.tell(&tell),
            // Looked at by whoever takes effects.
            Effect::End(_) => {}
        }
    }

    async fn assign(&mut self, partitions: &[TopicPartition]) {
        let starts: Vec<_> = partitions.iter().map(|partition| (*partition, Start::Committed)).collect();
        match self.consumer.assign(&starts).await {
            Ok(()) => {
                let taken = partitions.iter().map(|&partition| TakenUp {
                    partition,
                    fence: self.consumer.fence(partition),
                    committed: self.consumer.committed(partition).cloned(),
                });
                self.core.taken_up(taken.collect());
            }
            Err(e) => self.core.not_taken_up(e, moment()),
        }
    }

    fn tell(&self, tell: &Tell) {
        match tell {
            Tell::Rebalanced(change, partitions) => self.observer.rebalanced(*change, partitions),
            Tell::Dropped(records) => self.observer.dropped_by_epoch(*records),
            Tell::Halted(partition, reason) => {
                tracing::error!(%partition, reason, "the partition is halted");
                self.observer.halted(*partition, reason);
            }
            Tell::LogFailed(error) => self.observer.log_failed(error),
            Tell::Fenced(partition) => self.observer.fenced(*partition),
            Tell::Retried(wait) => self.observer.record_retried(*wait),
            Tell::Full(full) => self.observer.paused(*full),
            Tell::Stalled(partition, still) => {
                tracing::error!(%partition, seconds = still.as_secs(), "work stands still; the driver ends");
                self.observer.stalled(*partition, *still);
            }
        }
    }

    fn tell_levels(&mut self) {
        let now = (self.core.in_flight(), self.core.held(), self.core.deferred());
        let before = std::mem::replace(&mut self.told, now);
        if now.0 != before.0 {
            self.observer.in_flight(now.0);
        }
        if now.1 != before.1 {
            self.observer.held(now.1.0, now.1.1);
        }
        if now.2 != before.2 {
            self.observer.deferred(now.2);
        }
        let counts = self.core.take_counts();
        if counts.skipped > 0 {
            self.observer.skipped_as_finished(counts.skipped);
        }
        if counts.put_off > 0 {
            self.observer.put_off(counts.put_off);
        }
        if counts.reread > 0 {
            self.observer.reread(counts.reread);
        }
    }

    fn tell_lag(&self, ends: &[(TopicPartition, i64)]) {
        for &(partition, end) in ends {
            lag::tell(&*self.observer, partition, end, self.core.standing(partition));
        }
    }
}

/// A panic is a broken invariant: the process dies and replays.
fn unwound<R>(done: Result<R, JoinError>) -> R {
    match done {
        Ok(value) => value,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => unreachable!("nobody cancels a driver's tasks"),
    }
}
