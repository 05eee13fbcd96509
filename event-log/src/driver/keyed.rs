//! Record by record, in order per key, keys beside each other: for the worker.
//!
//! Promises: of one key at most one record is being worked on, and the next one only after it; a key that waits for a retry holds
//! back no other; a partition's committed offset never passes a record that is not done, and what is done above it is
//! committed beside it and not done again; work whose partition has gone does not count, however late it ends. Topics take turns, and a full budget rests only those partitions that hold their share of it: one
//! entity's flood, or a backfill, delays nobody elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handler::{Held, RecordHandler, Verdict, WindowBounds, Work};
use super::lag::{self, LagProbe};
use super::lanes::{Key, Lanes};
use super::live::LiveBound;
use super::{Drain, Observer, Policy, Rebalance, Retry, now_ms, policy};
use crate::budget::{Budget, Gate};
use crate::epochs::{Epoch, Epochs};
use crate::finished;
use crate::ledger::{Delivered, Ledger};
use crate::seam::{Commit, Committed, Consumer, ConsumerEvent, Fence, Log, LogError, LogRecord, Start};
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
    /// Windows worked on at a time. Raised, it is used at once; lowered, what is in flight ends first.
    pub max_concurrency: LiveBound,
    /// Records held at most by all partitions together (what was on its way overshoots it). Once it is full, each partition may
    /// hold its share, so that all together hold twice as many at most.
    pub budget_events: usize,
    /// The same in bytes.
    pub budget_bytes: usize,
    /// How often frontiers are committed.
    pub commit_interval: Duration,
    /// How long work in flight may take to end when partitions go or the process stops.
    pub drain_deadline: Duration,
}

struct Item<T> {
    held: Arc<Held<T>>,
    bytes: usize,
    epoch: Epoch,
    attempt: u32,
    first_tried_at_ms: i64,
}

struct Completion<T> {
    key: Key,
    item: Item<T>,
    verdict: Verdict,
}

struct Part {
    epoch: Epoch,
    ledger: Ledger,
    fence: Option<Fence>,
    in_flight: usize,
    /// Of this epoch: records and their bytes.
    held: (usize, usize),
    /// It rests because it holds its share of a full budget.
    resting: bool,
    committed: Option<Commit>,
    halted: bool,
    draining: bool,
}

struct Keyed<H: RecordHandler> {
    config: KeyedConfig,
    handler: Arc<H>,
    observer: Arc<dyn Observer>,
    consumer: Box<dyn Consumer>,
    epochs: Epochs,
    parts: BTreeMap<TopicPartition, Part>,
    /// Assignments that could not be taken up yet.
    unassigned: Vec<TopicPartition>,
    queues: Lanes<Item<H::Item>>,
    budget: Budget,
    running: JoinSet<Completion<H::Item>>,
    drains: Vec<Drain>,
    retry: Retry,
    commit_at: Instant,
    /// Set while stopping: when to go, drained or not.
    stop_by: Option<Instant>,
    /// Wakes when the bound of what is in flight moves.
    bound: watch::Receiver<usize>,
    lag: LagProbe,
}

/// Runs until `shutdown`, or until the log says something that no retry mends.
///
/// # Errors
/// [`LogError::BelowLogStart`] and [`LogError::Fatal`]; what was finished has been committed before.
pub async fn run_keyed<H: RecordHandler>(
    log: Arc<dyn Log>,
    config: KeyedConfig,
    handler: Arc<H>,
    observer: Arc<dyn Observer>,
    shutdown: CancellationToken,
) -> Result<(), LogError> {
    let consumer = log.subscribe(&config.group, &config.topics).await?;
    let mut keyed = Keyed {
        handler,
        observer,
        consumer,
        epochs: Epochs::new(),
        parts: BTreeMap::new(),
        unassigned: Vec::new(),
        queues: Lanes::new(),
        budget: Budget::new(config.budget_events, config.budget_bytes),
        running: JoinSet::new(),
        drains: Vec::new(),
        retry: Retry::new(),
        commit_at: Instant::now() + config.commit_interval,
        stop_by: None,
        bound: config.max_concurrency.watch(),
        lag: LagProbe::new(log),
        config,
    };
    let mut result = keyed.run(&shutdown).await;
    if result.is_err() {
        // What is in flight still ends in order, so that it is not done again.
        keyed.stop();
        while let Some(by) = keyed.stop_by.filter(|_| !keyed.running.is_empty()) {
            let Ok(Some(done)) = tokio::time::timeout_at(by, keyed.running.join_next()).await else { break };
            keyed.completed(done);
        }
    }
    if let Err(e) = keyed.commit().await
        && result.is_ok()
    {
        result = Err(e);
    }
    keyed.running.detach_all();
    keyed.consumer.close(keyed.config.drain_deadline).await;
    result
}

/// What is known of a partition from what the group had committed.
fn resumed(partition: TopicPartition, committed: Option<&Committed>) -> Ledger {
    let Some(Committed { next_offset, metadata, log_end }) = committed else { return Ledger::new() };
    let known = finished::decode(metadata, *next_offset, *log_end).unwrap_or_else(|| {
        tracing::warn!(%partition, "what stands beside the committed offset is not ours: what was finished above it is done again");
        Vec::new()
    });
    Ledger::resume(*next_offset, &known)
}

impl<H: RecordHandler> Keyed<H> {
    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), LogError> {
        loop {
            let now = Instant::now();
            self.queues.wake(now);
            self.dispatch();
            self.settle_drains(now).await?;
            // Whatever becomes of the assignments, the log is asked as well: what the group has to say may be why they cannot be taken up.
            let ask = self.retry.is_due(now);
            if ask && !self.unassigned.is_empty() {
                self.assign().await?;
            }
            if now >= self.commit_at {
                self.commit_at = now + self.config.commit_interval;
                self.commit().await?;
            }
            self.lag.tick(now, self.parts.keys().copied().collect());
            if let Some(by) = self.stop_by
                && (self.running.is_empty() || now >= by)
            {
                return Ok(());
            }
            // Completions first: they free the budget and the keys, and there are never more of them than work in flight, so
            // they cannot starve the rest. Shutdown before new work. The clock (retries, drains, commits) before the log, which
            // always has more: a busy log must not keep the frontier from being committed.
            let wake_at = self.wake_at(now);
            tokio::select! {
                biased;
                Some(done) = self.running.join_next(), if !self.running.is_empty() => {
                    self.completed(done);
                    while let Some(done) = self.running.try_join_next() {
                        self.completed(done);
                    }
                }
                () = shutdown.cancelled(), if self.stop_by.is_none() => self.stop(),
                // Never an error: the configuration holds the other end.
                _ = self.bound.changed() => {}
                () = tokio::time::sleep_until(wake_at) => {}
                ends = self.lag.looked() => self.tell_lag(&ends),
                event = self.consumer.next(), if ask => match event {
                    Ok(event) => {
                        self.retry.worked();
                        self.happened(event).await?;
                    }
                    Err(e) => self.failed(e)?,
                },
            }
        }
    }

    fn wake_at(&self, now: Instant) -> Instant {
        let drains = self.drains.iter().map(|drain| drain.deadline);
        [Some(self.commit_at), Some(self.lag.due_at), self.queues.next_wake(), self.retry.wake_at(now), self.stop_by]
            .into_iter()
            .flatten()
            .chain(drains)
            .min()
            .unwrap_or(self.commit_at)
    }

    /// Transient errors are asked again, fences drop their partition, the rest ends the driver.
    fn failed(&mut self, error: LogError) -> Result<(), LogError> {
        match policy(error) {
            Policy::Again(e) => {
                self.observer.log_failed(&e);
                self.retry.failed(Instant::now());
                Ok(())
            }
            Policy::Drop(partition) => {
                self.fenced(partition);
                Ok(())
            }
            Policy::Halt(e) => Err(e),
        }
    }

    async fn happened(&mut self, event: ConsumerEvent) -> Result<(), LogError> {
        match event {
            ConsumerEvent::Records(records) => {
                for record in records {
                    self.received(record);
                }
            }
            ConsumerEvent::Assigned(partitions) => {
                self.observer.rebalanced(Rebalance::Assigned, &partitions);
                self.unassigned.extend(partitions);
                if self.stop_by.is_none() {
                    self.assign().await?;
                }
            }
            ConsumerEvent::Revoked(partitions) => {
                self.unassigned.retain(|p| !partitions.contains(p));
                let dropped = self.queues.discard(|(partition, _)| partitions.contains(partition));
                self.give_back(&dropped);
                for partition in &partitions {
                    if let Some(part) = self.parts.get_mut(partition) {
                        part.draining = true;
                    }
                }
                self.drains.push(Drain { partitions, deadline: Instant::now() + self.config.drain_deadline });
            }
            ConsumerEvent::Lost(partitions) => {
                self.observer.rebalanced(Rebalance::Lost, &partitions);
                for drain in &mut self.drains {
                    drain.partitions.retain(|p| !partitions.contains(p));
                }
                self.drains.retain(|drain| !drain.partitions.is_empty());
                self.unassigned.retain(|p| !partitions.contains(p));
                self.drop_partitions(&partitions);
                if let Err(e) = self.consumer.unassign(&partitions).await {
                    self.failed(e)?;
                }
            }
        }
        Ok(())
    }

    async fn assign(&mut self) -> Result<(), LogError> {
        let partitions = self.unassigned.clone();
        let starts: Vec<_> = partitions.iter().map(|partition| (*partition, Start::Committed)).collect();
        if let Err(e) = self.consumer.assign(&starts).await {
            if let LogError::Fenced(partition) = e {
                self.unassigned.retain(|p| *p != partition);
            }
            return self.failed(e);
        }
        self.unassigned.clear();
        for &partition in &partitions {
            let committed = self.consumer.committed(partition);
            let part = Part {
                epoch: self.epochs.begin(partition),
                ledger: resumed(partition, committed),
                fence: self.consumer.fence(partition),
                in_flight: 0,
                held: (0, 0),
                resting: false,
                committed: committed.map(|c| Commit { partition, next_offset: c.next_offset, metadata: c.metadata.clone() }),
                halted: false,
                draining: false,
            };
            self.parts.insert(partition, part);
        }
        Ok(())
    }

    fn received(&mut self, record: LogRecord) {
        let partition = record.source;
        let Some(part) = self.parts.get_mut(&partition) else {
            self.observer.dropped_by_epoch(1);
            return;
        };
        // What a partition that is about to stop still brings is read again by whoever has it next.
        if part.halted || part.draining || self.stop_by.is_some() {
            return;
        }
        match part.ledger.deliver(record.offset, record.appended_at_ms) {
            Delivered::Fresh => {}
            Delivered::Repeated => return,
            Delivered::Finished => return self.observer.skipped_as_finished(1),
        }
        let reading = self.handler.read(&record);
        let bytes = record.bytes() + reading.bytes;
        part.held = (part.held.0 + 1, part.held.1 + bytes);
        let gate = self.budget.take(bytes);
        let key = (partition, record.key.clone());
        let held = Arc::new(Held { record, item: reading.item });
        self.queues.push(key, Item { held, bytes, epoch: part.epoch, attempt: 0, first_tried_at_ms: 0 });
        self.gate_moved(gate);
        self.rest_or_flow(&[partition]);
    }

    fn dispatch(&mut self) {
        if self.stop_by.is_some() {
            return;
        }
        while self.running.len() < self.config.max_concurrency.get() {
            let Some((key, mut item)) = self.queues.pop() else { break };
            let Some(part) = self.parts.get_mut(&key.0).filter(|part| part.epoch == item.epoch) else {
                // Discarded with its partition in every case; a key must not stay busy for it.
                self.queues.done(&key);
                self.give_back(&[item]);
                continue;
            };
            part.in_flight += 1;
            if item.attempt == 0 {
                item.first_tried_at_ms = now_ms();
            }
            let work = Work {
                window: vec![Arc::clone(&item.held)],
                attempt: item.attempt,
                first_tried_at_ms: item.first_tried_at_ms,
                fence: part.fence.clone(),
            };
            let handler = Arc::clone(&self.handler);
            self.running.spawn(async move { Completion { verdict: handler.handle(work).await, key, item } });
        }
        self.observer.in_flight(self.running.len());
    }

    fn completed(&mut self, done: Result<Completion<H::Item>, tokio::task::JoinError>) {
        let Completion { key, mut item, verdict } = match done {
            Ok(completion) => completion,
            // A handler's panic is a broken invariant: the process dies and replays.
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => return,
        };
        let partition = key.0;
        if !self.epochs.admit(partition, item.epoch) {
            self.observer.dropped_by_epoch(1);
            self.queues.done(&key);
            self.give_back(&[item]);
            return;
        }
        let Some(part) = self.parts.get_mut(&partition) else { return };
        part.in_flight -= 1;
        match verdict {
            Verdict::Done => {
                part.ledger.finish(item.held.record.offset);
                self.queues.done(&key);
                self.give_back(&[item]);
            }
            Verdict::Apart if !part.halted && !part.draining && self.stop_by.is_none() => {
                item.attempt = 0;
                self.queues.park(&key, item, Instant::now());
            }
            Verdict::RetryAfter(wait) if !part.halted && !part.draining && self.stop_by.is_none() => {
                self.observer.record_retried(wait);
                item.attempt = item.attempt.saturating_add(1);
                self.queues.park(&key, item, Instant::now() + wait);
            }
            Verdict::RetryAfter(_) | Verdict::Apart => {
                self.queues.done(&key);
                self.give_back(&[item]);
            }
            Verdict::Halt(reason) => {
                part.halted = true;
                self.queues.done(&key);
                let dropped = self.queues.discard(|(p, _)| *p == partition);
                self.give_back(&dropped);
                self.give_back(&[item]);
                tracing::error!(%partition, reason, "the partition is halted");
                self.observer.halted(partition, &reason);
                if let Err(e) = self.consumer.pause(&[partition]) {
                    self.observer.log_failed(&e);
                }
            }
        }
    }

    fn give_back(&mut self, items: &[Item<H::Item>]) {
        let bytes = items.iter().map(|item| item.bytes).sum();
        let mut touched = Vec::new();
        for item in items {
            let partition = item.held.record.source;
            if let Some(part) = self.parts.get_mut(&partition).filter(|part| part.epoch == item.epoch) {
                part.held = (part.held.0.saturating_sub(1), part.held.1.saturating_sub(item.bytes));
                touched.push(partition);
            }
        }
        let gate = self.budget.give(items.len(), bytes);
        self.gate_moved(gate);
        touched.sort_unstable();
        touched.dedup();
        self.rest_or_flow(&touched);
    }

    fn gate_moved(&mut self, moved: Option<Gate>) {
        let (events, bytes) = self.budget.held();
        self.observer.held(events, bytes);
        let Some(gate) = moved else { return };
        self.observer.paused(gate == Gate::Closed);
        let all: Vec<_> = self.parts.keys().copied().collect();
        self.rest_or_flow(&all);
    }

    /// While the budget is full, those of `partitions` that hold their share rest, until they hold half of it. So does one that has
    /// gone far ahead of a record that is not done: what is finished behind it is remembered, and would be done again.
    fn rest_or_flow(&mut self, partitions: &[TopicPartition]) {
        let full = self.budget.gate() == Gate::Closed;
        let count = self.parts.len().max(1);
        let share = ((self.config.budget_events / count).max(1), (self.config.budget_bytes / count).max(1));
        let most_open = self.config.budget_events.max(2);
        let (mut rest, mut flow) = (Vec::new(), Vec::new());
        for partition in partitions {
            let Some(part) = self.parts.get_mut(partition).filter(|part| !part.halted && !part.draining) else { continue };
            let open = part.ledger.open();
            let holds_its_share = full && (part.held.0 >= share.0 || part.held.1 >= share.1);
            let has_room = !full || (part.held.0 <= share.0 / 2 && part.held.1 <= share.1 / 2);
            if !part.resting && (holds_its_share || open >= most_open) {
                part.resting = true;
                rest.push(*partition);
            } else if part.resting && has_room && open <= most_open / 2 {
                part.resting = false;
                flow.push(*partition);
            }
        }
        // Nothing flows any more once the process stops.
        let flowing = if flow.is_empty() || self.stop_by.is_some() { Ok(()) } else { self.consumer.resume(&flow) };
        let resting = if rest.is_empty() { Ok(()) } else { self.consumer.pause(&rest) };
        for error in [flowing, resting].into_iter().filter_map(Result::err) {
            self.observer.log_failed(&error);
        }
    }

    /// Another owner was met. If the partition turns out to be ours still, it begins anew where the group has committed; if not,
    /// the log will say so.
    fn fenced(&mut self, partition: TopicPartition) {
        self.observer.fenced(partition);
        let begins_anew = self.parts.get(&partition).is_some_and(|part| !part.draining);
        let resting = self.parts.get(&partition).is_some_and(|part| part.resting);
        self.drop_partitions(&[partition]);
        if begins_anew && self.stop_by.is_none() {
            // It holds nothing when it begins anew. What comes of it before is not taken.
            if resting && let Err(e) = self.consumer.resume(&[partition]) {
                self.observer.log_failed(&e);
            }
            self.unassigned.push(partition);
            self.retry.failed(Instant::now());
        }
    }

    /// The partitions' work no longer counts.
    fn drop_partitions(&mut self, partitions: &[TopicPartition]) {
        let dropped = self.queues.discard(|(partition, _)| partitions.contains(partition));
        self.give_back(&dropped);
        for partition in partitions {
            self.epochs.end(*partition);
            self.parts.remove(partition);
        }
        if !dropped.is_empty() {
            self.observer.dropped_by_epoch(dropped.len());
        }
    }

    /// Lets go of revoked partitions whose work in flight has ended, or has had its time.
    async fn settle_drains(&mut self, now: Instant) -> Result<(), LogError> {
        let mut index = 0;
        while index < self.drains.len() {
            let drain = &self.drains[index];
            let drained = drain.partitions.iter().all(|p| self.parts.get(p).is_none_or(|part| part.in_flight == 0));
            if !drained && now < drain.deadline {
                index += 1;
                continue;
            }
            let partitions = self.drains.swap_remove(index).partitions;
            self.commit().await?;
            self.drop_partitions(&partitions);
            if let Err(e) = self.consumer.unassign(&partitions).await {
                self.failed(e)?;
            }
            self.observer.rebalanced(Rebalance::Revoked, &partitions);
        }
        Ok(())
    }

    /// Commits the frontiers that have moved, and what is finished above them.
    async fn commit(&mut self) -> Result<(), LogError> {
        loop {
            let moved: Vec<Commit> = self
                .parts
                .iter()
                .filter_map(|(&partition, part)| {
                    let (next_offset, metadata) = part.ledger.to_commit(finished::MAX_BYTES)?;
                    let commit = Commit { partition, next_offset, metadata };
                    (part.committed.as_ref() != Some(&commit)).then_some(commit)
                })
                .collect();
            if moved.is_empty() {
                return Ok(());
            }
            match self.consumer.commit(&moved).await {
                Ok(()) => {
                    for commit in moved {
                        if let Some(part) = self.parts.get_mut(&commit.partition) {
                            part.committed = Some(commit);
                        }
                    }
                    return Ok(());
                }
                // Without it the rest can be committed.
                Err(LogError::Fenced(partition)) if self.parts.contains_key(&partition) => {
                    self.fenced(partition);
                }
                // At the next interval, or by whoever reads on.
                Err(e) => return self.failed(e),
            }
        }
    }

    /// Takes nothing new on; what is in flight may end.
    fn stop(&mut self) {
        self.stop_by = Some(Instant::now() + self.config.drain_deadline);
        let dropped = self.queues.discard(|_| true);
        self.give_back(&dropped);
        let partitions: Vec<_> = self.parts.keys().copied().collect();
        if let Err(e) = self.consumer.pause(&partitions) {
            self.observer.log_failed(&e);
        }
    }

    fn tell_lag(&self, ends: &[(TopicPartition, i64)]) {
        for &(partition, end) in ends {
            if let Some(part) = self.parts.get(&partition) {
                lag::tell(&*self.observer, partition, end, part.ledger.standing());
            }
        }
    }
}
