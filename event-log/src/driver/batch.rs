//! In batches, for a sink that moves its own offsets in the transaction that writes: for the writer.
//!
//! Promises: one flush at a time, while the next batch gathers; a batch that failed for a while is tried again as it is; a batch
//! that another owner's write has overtaken is dropped, and reading goes on where the store says. Commits to the group are hints
//! for lag figures only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use super::sink::{BatchConfig, BatchSink, SinkError};
pub use crate::gather::{Advance, Batch, FlushCause, StandBack};

use super::asking::{Answers, ask};
use super::lag::{self, LagProbe};
use super::sink::{Flushed, flush};
use super::{Drain, Observer, Policy, Rebalance, Retry, policy};
use crate::budget::{Budget, Gate};
use crate::epochs::{Epoch, Epochs};
use crate::gather::{Gather, GatherLimits, is_backfill};
use crate::seam::{Commit, Consumer, ConsumerEvent, Log, LogError, LogRecord, Start};
use crate::topic::TopicPartition;

/// How often held partitions are asked about, between flushes.
const HELD_INTERVAL: Duration = Duration::from_millis(250);
/// How often the group is told how far the store is.
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);

struct Part {
    /// Where the sink let it begin, or how far it has been written since.
    start: Start,
    /// When the log took the last record that was written, milliseconds since 1970.
    written_at_ms: Option<i64>,
    /// The next record that is not a repetition.
    expected: i64,
    held: bool,
    draining: bool,
    /// The sink cannot take its next record.
    halted: bool,
    committed: Option<i64>,
}

/// What is being written.
struct InFlight {
    epochs: BTreeMap<TopicPartition, (Epoch, i64, i64)>,
    give_up: CancellationToken,
}

/// What may be held of backfill, and of all else: a lane that is full stops no other.
struct Budgets([Budget; 2]);

impl Budgets {
    fn new(events: usize, bytes: usize) -> Self {
        Self([Budget::new(events, bytes), Budget::new(events, bytes)])
    }

    fn one(&mut self, backfill: bool) -> &mut Budget {
        &mut self.0[usize::from(backfill)]
    }

    fn of(&mut self, partition: TopicPartition) -> &mut Budget {
        self.one(is_backfill(partition))
    }

    fn held(&self) -> (usize, usize) {
        self.0.iter().map(Budget::held).fold((0, 0), |all, held| (all.0 + held.0, all.1 + held.1))
    }

    fn is_any_closed(&self) -> bool {
        self.0.iter().any(|budget| budget.gate() == Gate::Closed)
    }
}

struct Batches {
    config: BatchConfig,
    observer: Arc<dyn Observer>,
    consumer: Box<dyn Consumer>,
    /// Away while it flushes or is asked.
    sink: Option<Box<dyn BatchSink>>,
    flushing: JoinSet<Flushed>,
    asking: JoinSet<Answers>,
    /// About whom, as far as the answer still counts.
    asked: BTreeSet<TopicPartition>,
    in_flight: Option<InFlight>,
    epochs: Epochs,
    parts: BTreeMap<TopicPartition, Part>,
    /// To begin (anew) once the sink is there to be asked.
    to_begin: BTreeSet<TopicPartition>,
    gather: Gather,
    budgets: Budgets,
    drains: Vec<Drain>,
    /// For the log and for the sink's starts.
    retry: Retry,
    held_at: Instant,
    commit_at: Instant,
    stop_by: Option<Instant>,
    lag: LagProbe,
}

/// Runs until `shutdown`, or until the log or the sink says something that no retry mends.
///
/// # Errors
/// [`LogError::BelowLogStart`], [`LogError::Fatal`], and a sink's [`SinkError::Halt`] as the latter.
pub async fn run_batches(
    log: Arc<dyn Log>,
    config: BatchConfig,
    sink: Box<dyn BatchSink>,
    observer: Arc<dyn Observer>,
    shutdown: CancellationToken,
) -> Result<(), LogError> {
    let consumer = log.subscribe(&config.group, &config.topics).await?;
    let limits = GatherLimits {
        rows: config.batch_rows.get().max(1),
        bytes: config.batch_bytes.max(1),
        max_age: config.batch_max_age,
        backfill: config.backfill,
    };
    let now = Instant::now();
    let mut batches = Batches {
        observer,
        consumer,
        sink: Some(sink),
        flushing: JoinSet::new(),
        asking: JoinSet::new(),
        asked: BTreeSet::new(),
        in_flight: None,
        epochs: Epochs::new(),
        parts: BTreeMap::new(),
        to_begin: BTreeSet::new(),
        gather: Gather::new(limits),
        budgets: Budgets::new(config.budget_events, config.budget_bytes),
        drains: Vec::new(),
        retry: Retry::new(),
        held_at: now,
        commit_at: now + COMMIT_INTERVAL,
        stop_by: None,
        lag: LagProbe::new(log),
        config,
    };
    let result = batches.run(&shutdown).await;
    if result.is_err()
        && let Some(in_flight) = &batches.in_flight
    {
        in_flight.give_up.cancel();
        let by = Instant::now() + batches.config.drain_deadline;
        if let Ok(Some(Ok(flushed))) = tokio::time::timeout_at(by, batches.flushing.join_next()).await
            && flushed.result.is_ok()
        {
            batches.written(&flushed.batch, flushed.took);
        }
    }
    // A hint only: its failure is nobody's.
    let _ = batches.commit().await;
    // A flush that outlives its deadline is not torn out of its transaction.
    batches.flushing.detach_all();
    batches.consumer.close(batches.config.drain_deadline).await;
    result
}

impl Batches {
    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), LogError> {
        loop {
            let now = Instant::now();
            self.ask_sink(now);
            self.begin_flush(now);
            self.settle_drains(now).await?;
            if now >= self.commit_at {
                self.commit_at = now + COMMIT_INTERVAL;
                self.commit().await?;
            }
            self.lag.tick(now, self.parts.keys().copied().collect());
            if let Some(by) = self.stop_by {
                if self.flushing.is_empty() && self.gather.is_empty() {
                    return Ok(());
                }
                if now >= by {
                    if let Some(in_flight) = &self.in_flight {
                        in_flight.give_up.cancel();
                    }
                    return Ok(());
                }
            }
            // A finished flush or answer first: it gives the budget back and the sink, and there is one at most. Shutdown before new
            // records. The clock (ages, drains, held partitions) before the log, which always has more: a busy log must not
            // make a batch older than it may be.
            let wake_at = self.wake_at(now);
            let ask = self.retry.is_due(now);
            tokio::select! {
                biased;
                Some(flushed) = self.flushing.join_next(), if !self.flushing.is_empty() => self.flushed(flushed)?,
                Some(answers) = self.asking.join_next(), if !self.asking.is_empty() => self.answered(answers).await?,
                () = shutdown.cancelled(), if self.stop_by.is_none() => self.stop(),
                () = tokio::time::sleep_until(wake_at) => {}
                ends = self.lag.looked() => self.tell_lag(&ends),
                event = self.consumer.next(), if ask => match event {
                    Ok(event) => {
                        if self.to_begin.is_empty() {
                            self.retry.worked();
                        }
                        self.happened(event).await?;
                    }
                    Err(e) => self.failed(e)?,
                },
            }
        }
    }

    fn wake_at(&self, now: Instant) -> Instant {
        let due = self.gather.due_at().filter(|_| self.sink.is_some());
        let held = self.parts.values().any(|part| part.held).then_some(self.held_at).filter(|_| self.sink.is_some());
        let drains = self.drains.iter().map(|drain| drain.deadline);
        [Some(self.commit_at), Some(self.lag.due_at), due, held, self.retry.wake_at(now), self.stop_by]
            .into_iter()
            .flatten()
            .chain(drains)
            .min()
            .unwrap_or(self.commit_at)
    }

    fn failed(&mut self, error: LogError) -> Result<(), LogError> {
        match policy(error) {
            Policy::Again(e) => {
                self.observer.log_failed(&e);
                self.retry.failed(Instant::now(), rand::random());
                Ok(())
            }
            Policy::Drop(partition) => {
                // If the partition turns out to be ours still, it begins anew where the store says; if not, the log will say so.
                self.observer.fenced(partition);
                let begins_anew = self.parts.get(&partition).is_some_and(|part| !part.draining);
                self.drop_partitions(&[partition]);
                if begins_anew && self.stop_by.is_none() {
                    self.to_begin.insert(partition);
                    self.retry.failed(Instant::now(), rand::random());
                }
                Ok(())
            }
            Policy::Halt(e) => Err(e),
        }
    }

    /// What the sink is asked between flushes: where partitions begin, and whether held ones may flow.
    fn ask_sink(&mut self, now: Instant) {
        if self.sink.is_none() {
            return;
        }
        let mut begins: Vec<TopicPartition> = Vec::new();
        if self.stop_by.is_none() && self.retry.is_due(now) {
            begins.extend(&self.to_begin);
        }
        let mut held: Vec<TopicPartition> = Vec::new();
        if now >= self.held_at {
            self.held_at = now + HELD_INTERVAL;
            let waits = |(partition, part): &(&TopicPartition, &Part)| part.held && !part.draining && !begins.contains(partition);
            held.extend(self.parts.iter().filter(waits).map(|(partition, _)| *partition));
        }
        if begins.is_empty() && held.is_empty() {
            return;
        }
        let Some(sink) = self.sink.take() else { return };
        self.asked = begins.iter().chain(&held).copied().collect();
        self.asking.spawn(ask(sink, begins, held));
    }

    async fn answered(&mut self, answers: Result<Answers, tokio::task::JoinError>) -> Result<(), LogError> {
        let Answers { sink, begins, starts, flows } = match answers {
            Ok(answers) => answers,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(e) => return Err(LogError::Fatal(format!("a question to the sink was cut off: {e}"))),
        };
        self.sink = Some(sink);
        match starts {
            Ok(starts) => self.begin(&begins, &starts).await?,
            Err(e) => self.sink_failed(e)?,
        }
        self.release(flows).await
    }

    /// Partitions begin where the sink said, held.
    async fn begin(&mut self, asked: &[TopicPartition], answered: &BTreeMap<TopicPartition, Start>) -> Result<(), LogError> {
        let counts = |p: &&TopicPartition| self.asked.contains(p) && self.to_begin.contains(p) && self.stop_by.is_none();
        let partitions: Vec<TopicPartition> = asked.iter().filter(counts).copied().collect();
        if partitions.is_empty() {
            return Ok(());
        }
        let starts: Vec<(TopicPartition, Start)> =
            partitions.iter().map(|p| (*p, answered.get(p).copied().unwrap_or(Start::Committed))).collect();
        if let Err(e) = self.consumer.assign(&starts).await {
            if let LogError::Fenced(partition) = e {
                self.to_begin.remove(&partition);
            }
            return self.failed(e);
        }
        self.to_begin.retain(|p| !partitions.contains(p));
        self.retry.worked();
        for &(partition, start) in &starts {
            let from_offset = match start {
                Start::Offset(offset) => offset,
                Start::Committed => 0,
            };
            let dropped = self.gather.begin(partition, from_offset);
            self.give_back(&dropped);
            self.epochs.begin(partition);
            let part = Part {
                start,
                written_at_ms: None,
                expected: from_offset,
                held: true,
                draining: false,
                halted: false,
                committed: None,
            };
            self.parts.insert(partition, part);
        }
        self.consumer.pause(&partitions)
    }

    /// Lets held partitions flow that may. What came of them before was not taken, and is read again.
    async fn release(&mut self, flows: Vec<(TopicPartition, Result<bool, SinkError>)>) -> Result<(), LogError> {
        let mut released = Vec::new();
        for (partition, flow) in flows {
            let counts = self.parts.get(&partition).is_some_and(|part| part.held && !part.draining);
            match flow {
                Ok(true) if counts && self.asked.contains(&partition) => released.push(partition),
                Ok(_) => {}
                Err(e @ SinkError::Halt(_)) => return self.sink_failed(e),
                // It is asked again soon.
                Err(e) => tracing::warn!(%partition, error = %e, "the sink could not say whether the partition may flow"),
            }
        }
        if released.is_empty() {
            return Ok(());
        }
        let starts: Vec<_> = released.iter().filter_map(|p| self.parts.get(p).map(|part| (*p, part.start))).collect();
        if let Err(e) = self.consumer.assign(&starts).await {
            return self.failed(e);
        }
        for partition in &released {
            if let Some(part) = self.parts.get_mut(partition) {
                part.held = false;
            }
        }
        released.retain(|partition| self.budgets.of(*partition).gate() == Gate::Open);
        if !released.is_empty() && self.stop_by.is_none() {
            self.consumer.resume(&released)?;
        }
        Ok(())
    }

    fn sink_failed(&mut self, error: SinkError) -> Result<(), LogError> {
        match error {
            SinkError::Halt(reason) => Err(LogError::Fatal(reason)),
            error => {
                tracing::warn!(%error, "the sink could not say where partitions begin; it is asked again");
                self.retry.failed(Instant::now(), rand::random());
                Ok(())
            }
        }
    }

    async fn happened(&mut self, event: ConsumerEvent) -> Result<(), LogError> {
        match event {
            ConsumerEvent::Records(records) => {
                let now = Instant::now();
                for record in records {
                    self.received(now, record);
                }
            }
            ConsumerEvent::Assigned(partitions) => {
                self.observer.rebalanced(Rebalance::Assigned, &partitions);
                self.to_begin.extend(partitions);
            }
            ConsumerEvent::Revoked(partitions) => {
                for partition in &partitions {
                    self.to_begin.remove(partition);
                    self.asked.remove(partition);
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
                self.drop_partitions(&partitions);
                if let Err(e) = self.consumer.unassign(&partitions).await {
                    self.failed(e)?;
                }
            }
        }
        Ok(())
    }

    fn received(&mut self, now: Instant, record: LogRecord) {
        let partition = record.source;
        let Some(part) = self.parts.get_mut(&partition) else {
            self.observer.dropped_by_epoch(1);
            return;
        };
        // What a partition brings that is held, about to go, or to begin anew, is read again; so is what has been seen.
        let stays = part.held || part.draining || part.halted || self.stop_by.is_some() || self.to_begin.contains(&partition);
        if stays || record.offset < part.expected {
            return;
        }
        part.expected = record.offset + 1;
        let bytes = record.bytes();
        if self.gather.push(now, record).is_ok() {
            let gate = self.budgets.of(partition).take(bytes);
            self.gate_moved(is_backfill(partition), gate);
        }
    }

    /// The batch's rows may have been moved, and with them what may gather beside one that is written.
    fn obey_bound(&mut self) {
        let rows = self.config.batch_rows.get().max(1);
        if self.gather.set_rows(rows) {
            let events = self.config.budget_events.max(rows.saturating_mul(2));
            for backfill in [false, true] {
                let gate = self.budgets.one(backfill).limit_events(events);
                self.gate_moved(backfill, gate);
            }
        }
    }

    fn begin_flush(&mut self, now: Instant) {
        self.obey_bound();
        if self.sink.is_none() {
            return;
        }
        let draining =
            self.stop_by.is_some() || self.drains.iter().any(|drain| drain.partitions.iter().any(|p| self.gather.holds(*p)));
        let Some(cause) = self.gather.due(now).or(draining.then_some(FlushCause::Drain)) else { return };
        let Some(batch) = self.gather.take(now, cause) else { return };
        let Some(sink) = self.sink.take() else { return };
        let epochs = batch.advances.iter().filter_map(|advance| {
            let first = batch.records.iter().find(|record| record.source == advance.partition)?;
            Some((advance.partition, (self.epochs.current(advance.partition)?, first.offset, first.appended_at_ms)))
        });
        let give_up = CancellationToken::new();
        self.in_flight = Some(InFlight { epochs: epochs.collect(), give_up: give_up.clone() });
        self.observer.in_flight(batch.records.len());
        self.flushing.spawn(flush(sink, batch, Arc::clone(&self.observer), give_up));
    }

    fn flushed(&mut self, flushed: Result<Flushed, tokio::task::JoinError>) -> Result<(), LogError> {
        let Flushed { sink, batch, result, took } = match flushed {
            Ok(flushed) => flushed,
            // A sink's panic is a broken invariant: the process dies and replays.
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(e) => return Err(LogError::Fatal(format!("a flush was cut off: {e}"))),
        };
        self.sink = Some(sink);
        self.observer.in_flight(0);
        match result {
            Ok(()) => {
                self.written(&batch, took);
                // What was held may hang on what was just written.
                self.held_at = Instant::now();
                Ok(())
            }
            Err(SinkError::Halt(reason)) => Err(LogError::Fatal(reason)),
            Err(SinkError::StandStill { partition, offset, reason }) => {
                self.stand_still(batch, partition, offset, &reason);
                Ok(())
            }
            Err(SinkError::Fenced(partitions)) => {
                // The whole batch was refused. A sink that does not say which partitions it was is asked about all of them.
                let fenced: Vec<TopicPartition> =
                    if partitions.is_empty() { batch.advances.iter().map(|a| a.partition).collect() } else { partitions };
                for partition in &fenced {
                    self.observer.fenced(*partition);
                    let dropped = self.gather.end(&[*partition]);
                    self.give_back(&dropped);
                    if self.parts.get(partition).is_some_and(|part| !part.draining) {
                        self.to_begin.insert(*partition);
                    }
                }
                self.restore(batch, &fenced);
                // Another owner that writes on would fence again at once.
                self.retry.failed(Instant::now(), rand::random());
                Ok(())
            }
            Err(SinkError::Retry(_)) => {
                self.restore(batch, &[]);
                Ok(())
            }
        }
    }

    fn written(&mut self, batch: &Batch, took: Duration) {
        let in_flight = self.in_flight.take();
        for advance in &batch.advances {
            let epoch = in_flight.as_ref().and_then(|f| f.epochs.get(&advance.partition)).map(|(epoch, ..)| *epoch);
            let counts = epoch.is_some_and(|epoch| self.epochs.admit(advance.partition, epoch));
            let of_partition = || batch.records.iter().filter(|r| r.source == advance.partition);
            match self.parts.get_mut(&advance.partition).filter(|_| counts) {
                Some(part) => {
                    part.start = Start::Offset(advance.next_offset);
                    part.written_at_ms = of_partition().next_back().map(|r| r.appended_at_ms);
                }
                None => self.observer.dropped_by_epoch(of_partition().count()),
            }
        }
        self.give_back(&batch.records);
        self.observer.flushed(batch, took);
    }

    /// What came before the record of that partition is gathered again, and with it all of the others; it and what came after it
    /// wait in the log until the partition is assigned anew.
    fn stand_still(&mut self, mut batch: Batch, partition: TopicPartition, offset: i64, reason: &str) {
        let mut dropped = self.gather.end(&[partition]);
        let waits = |record: &LogRecord| record.source == partition && record.offset >= offset;
        dropped.extend(batch.records.extract_if(.., |record| waits(record)));
        self.give_back(&dropped);
        self.restore(batch, &[]);
        let Some(part) = self.parts.get_mut(&partition) else { return };
        part.halted = true;
        tracing::error!(%partition, offset, reason, "the partition is halted");
        self.observer.halted(partition, reason);
        if let Err(e) = self.consumer.pause(&[partition]) {
            self.observer.log_failed(&e);
        }
    }

    /// A batch that was not written goes back to what is gathered, as far as it still counts.
    fn restore(&mut self, batch: Batch, without: &[TopicPartition]) {
        let epochs = self.in_flight.take().map(|in_flight| in_flight.epochs).unwrap_or_default();
        let current = &self.epochs;
        let counts = |partition: TopicPartition| {
            !without.contains(&partition)
                && epochs.get(&partition).is_some_and(|(epoch, ..)| current.current(partition) == Some(*epoch))
        };
        let dropped = self.gather.restore(Instant::now(), batch, counts);
        self.give_back(&dropped);
        if !dropped.is_empty() {
            self.observer.dropped_by_epoch(dropped.len());
        }
    }

    fn give_back(&mut self, records: &[LogRecord]) {
        for backfill in [false, true] {
            let of = || records.iter().filter(|record| is_backfill(record.source) == backfill);
            let gate = self.budgets.one(backfill).give(of().count(), of().map(LogRecord::bytes).sum());
            self.gate_moved(backfill, gate);
        }
    }

    /// The gate of backfill, or of all else.
    fn gate_moved(&mut self, backfill: bool, moved: Option<Gate>) {
        let (events, bytes) = self.budgets.held();
        self.observer.held(events, bytes);
        let Some(gate) = moved else { return };
        let flows = |(partition, part): &(&TopicPartition, &Part)| {
            is_backfill(**partition) == backfill && !part.held && !part.draining && !part.halted
        };
        let flowing: Vec<_> = self.parts.iter().filter(flows).map(|(partition, _)| *partition).collect();
        self.observer.paused(self.budgets.is_any_closed());
        let result = match gate {
            Gate::Closed => self.consumer.pause(&flowing),
            Gate::Open if self.stop_by.is_none() => self.consumer.resume(&flowing),
            Gate::Open => Ok(()),
        };
        if let Err(e) = result {
            self.observer.log_failed(&e);
        }
    }

    fn drop_partitions(&mut self, partitions: &[TopicPartition]) {
        let dropped = self.gather.end(partitions);
        self.give_back(&dropped);
        if !dropped.is_empty() {
            self.observer.dropped_by_epoch(dropped.len());
        }
        for partition in partitions {
            self.epochs.end(*partition);
            self.parts.remove(partition);
            self.to_begin.remove(partition);
            self.asked.remove(partition);
        }
    }

    /// Lets go of revoked partitions whose records have been written, or have had their time.
    async fn settle_drains(&mut self, now: Instant) -> Result<(), LogError> {
        let mut index = 0;
        while index < self.drains.len() {
            let drain = &self.drains[index];
            let writing = |p: &TopicPartition| self.in_flight.as_ref().is_some_and(|f| f.epochs.contains_key(p));
            let late = now >= drain.deadline;
            if !late && drain.partitions.iter().any(|p| self.gather.holds(*p) || writing(p)) {
                index += 1;
                continue;
            }
            if late
                && drain.partitions.iter().any(writing)
                && let Some(in_flight) = &self.in_flight
            {
                // What of the batch is still ours is gathered again.
                in_flight.give_up.cancel();
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

    /// Tells the group how far the store is.
    async fn commit(&mut self) -> Result<(), LogError> {
        let moved: Vec<Commit> = self
            .parts
            .iter()
            .filter_map(|(&partition, part)| match part.start {
                Start::Offset(offset) if part.written_at_ms.is_some() && part.committed != Some(offset) => {
                    Some(Commit::at(partition, offset))
                }
                _ => None,
            })
            .collect();
        if moved.is_empty() {
            return Ok(());
        }
        match self.consumer.commit(&moved).await {
            Ok(()) => {
                for Commit { partition, next_offset, .. } in moved {
                    if let Some(part) = self.parts.get_mut(&partition) {
                        part.committed = Some(next_offset);
                    }
                }
                Ok(())
            }
            Err(e) => self.failed(e),
        }
    }

    fn stop(&mut self) {
        self.stop_by = Some(Instant::now() + self.config.drain_deadline);
        let partitions: Vec<_> = self.parts.keys().copied().collect();
        if let Err(e) = self.consumer.pause(&partitions) {
            self.observer.log_failed(&e);
        }
    }

    fn tell_lag(&self, ends: &[(TopicPartition, i64)]) {
        for &(partition, end) in ends {
            let Some(part) = self.parts.get(&partition) else { continue };
            let writing = self.in_flight.as_ref().and_then(|f| f.epochs.get(&partition)).map(|(_, offset, ms)| (*offset, *ms));
            let gathered = || self.gather.first_of(partition).map(|record| (record.offset, record.appended_at_ms));
            let written = || match (part.start, part.written_at_ms) {
                (Start::Offset(offset), Some(ms)) => Some((offset, ms)),
                _ => None,
            };
            lag::tell(&*self.observer, partition, end, writing.or_else(gathered).or_else(written));
        }
    }
}
