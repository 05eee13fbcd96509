//! The machine: records and completions in, work out. Assignments and commits are in [`super::group`], the budget in [`super::flow`],
//! what was put off in [`super::reread`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::effect::{Counts, Effect, Moment, Tell, Ticket, Window};
use super::part::Part;
use super::tenants::Tenants;
use super::watchdog::Watchdog;
use crate::budget::Budget;
use crate::driver::{Drain, Held, KeyedConfig, Reading, RecordHandler, Retry, Verdict, Work};
use crate::epochs::{Epoch, Epochs};
use crate::ledger::Delivered;
use crate::schedule::{Key, Schedule, Scheduled, Windowing};
use crate::seam::{LogError, LogRecord};
use crate::topic::TopicPartition;

/// A record that is held.
#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) held: Arc<Held<T>>,
    tenant: Arc<str>,
    cost: u64,
    pub(super) bytes: usize,
    window: Windowing,
    pub(super) epoch: Epoch,
    attempt: u32,
    first_tried_at_ms: i64,
}

impl<T> Scheduled for Entry<T> {
    fn tenant(&self) -> &Arc<str> {
        &self.tenant
    }

    fn cost(&self) -> u64 {
        self.cost
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn window(&self) -> Windowing {
        self.window
    }
}

/// A window in flight.
#[derive(Debug)]
struct Running<T> {
    key: Key,
    entries: Vec<Entry<T>>,
    epoch: Epoch,
    began_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// Takes nothing new on; what is in flight may end until then.
    Stopping(Instant),
    /// The last commit is under way.
    Leaving,
    Ended,
}

/// The state of one member of a group.
#[derive(Debug)]
pub(crate) struct Core<T> {
    pub(super) config: KeyedConfig,
    pub(super) epochs: Epochs,
    pub(super) parts: BTreeMap<TopicPartition, Part>,
    /// Assignments that could not be taken up yet.
    pub(super) unassigned: Vec<TopicPartition>,
    pub(super) assigning: bool,
    pub(super) schedule: Schedule<Entry<T>>,
    pub(super) budget: Budget,
    running: BTreeMap<Ticket, Running<T>>,
    tickets: Ticket,
    pub(super) bound: usize,
    pub(super) tenants: Tenants,
    pub(super) drains: Vec<Drain>,
    /// Drained, and let go once what they finished is committed.
    pub(super) leaving: Vec<Vec<TopicPartition>>,
    /// Asking the consumer.
    pub(super) retry: Retry,
    /// Taking up assignments. Apart, because what the group has to say may be why that fails.
    pub(super) assign_retry: Retry,
    pub(super) commit_at: Instant,
    pub(super) committing: bool,
    /// Those of which something is put off.
    pub(super) deferring: BTreeSet<TopicPartition>,
    pub(super) rereads: usize,
    /// Whose turn to be read again it was last.
    pub(super) reread_last: Option<TopicPartition>,
    pub(super) reread_retry: Retry,
    pub(super) phase: Phase,
    pub(super) error: Option<LogError>,
    watchdog: Watchdog,
    pub(super) counts: Counts,
    pub(super) effects: VecDeque<Effect<T>>,
}

impl<T> Core<T> {
    pub(crate) fn new(config: KeyedConfig, now: Instant) -> Self {
        Self {
            epochs: Epochs::new(),
            parts: BTreeMap::new(),
            unassigned: Vec::new(),
            assigning: false,
            schedule: Schedule::new(&config.topics, config.windows.clone(), config.fairness.clone(), config.lanes),
            budget: Budget::new(config.budget_events, config.budget_bytes),
            running: BTreeMap::new(),
            tickets: 0,
            bound: config.max_concurrency.get(),
            tenants: Tenants::new(config.read_ahead_records),
            drains: Vec::new(),
            leaving: Vec::new(),
            retry: Retry::new(),
            assign_retry: Retry::new(),
            commit_at: now + config.commit_interval,
            committing: false,
            deferring: BTreeSet::new(),
            rereads: 0,
            reread_last: None,
            reread_retry: Retry::new(),
            phase: Phase::Running,
            error: None,
            watchdog: Watchdog::new(config.stall_after, now),
            counts: Counts::default(),
            effects: VecDeque::new(),
            config,
        }
    }

    /// What to do next.
    pub(crate) fn next_effect(&mut self) -> Option<Effect<T>> {
        self.effects.pop_front()
    }

    /// What was counted since it was last taken.
    pub(crate) fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Windows in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.running.len()
    }

    /// Whether a place that comes free may be used.
    pub(crate) fn has_waiting(&self) -> bool {
        self.is_running() && !self.schedule.is_empty()
    }

    /// Records and bytes held.
    pub(crate) fn held(&self) -> (usize, usize) {
        self.budget.held()
    }

    /// Records that are put off.
    pub(crate) fn deferred(&self) -> usize {
        self.deferring.iter().filter_map(|partition| self.parts.get(partition)).map(|part| part.deferred.records()).sum()
    }

    /// The partitions that are assigned.
    pub(crate) fn partitions(&self) -> Vec<TopicPartition> {
        self.parts.keys().copied().collect()
    }

    /// Where a partition stands: [`crate::ledger::Ledger::standing`].
    pub(crate) fn standing(&self, partition: TopicPartition) -> Option<(i64, i64)> {
        self.parts.get(&partition)?.ledger.standing()
    }

    /// Whether it takes on work.
    pub(super) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Whether the consumer is to be asked.
    pub(crate) fn asks_log(&self, now: Instant) -> bool {
        self.retry.is_due(now) && self.error.is_none()
    }

    /// Windows in flight from here on.
    pub(crate) fn limit(&mut self, bound: usize) {
        self.bound = bound;
    }

    /// When to [`Self::tick`] at the latest.
    pub(crate) fn wake_at(&self, now: Instant) -> Instant {
        let stop_by = if let Phase::Stopping(by) = self.phase { Some(by) } else { None };
        let rereads = if self.deferring.is_empty() { None } else { self.reread_retry.wake_at(now) };
        let assigns = if self.unassigned.is_empty() { None } else { self.assign_retry.wake_at(now) };
        let parked = self.schedule.next_wake();
        let stalled = self.watchdog.due_at(self.oldest()).filter(|_| self.is_running());
        [Some(self.commit_at), parked, self.retry.wake_at(now), assigns, rereads, stop_by, stalled]
            .into_iter()
            .flatten()
            .chain(self.drains.iter().map(|drain| drain.deadline))
            .min()
            .unwrap_or(self.commit_at)
    }

    /// Does what the time, or anything that was told, has made due. `waits_for_log`: work stands still because the log takes nothing.
    pub(crate) fn tick(&mut self, at: Moment, waits_for_log: bool) {
        self.watch(at, waits_for_log);
        self.schedule.wake(at.now);
        self.dispatch(at);
        self.settle_drains(at.now);
        self.take_up(at.now);
        if at.now >= self.commit_at {
            self.commit_at = at.now + self.config.commit_interval;
            self.commit();
        }
        self.read_again(at.now);
        if let Phase::Stopping(by) = self.phase
            && (self.running.is_empty() || at.now >= by)
        {
            self.phase = Phase::Leaving;
            if !self.commit() {
                self.end();
            }
        }
    }

    fn oldest(&self) -> Option<Instant> {
        self.running.first_key_value().map(|(_, running)| running.began_at)
    }

    fn watch(&mut self, at: Moment, waits_for_log: bool) {
        let Some(still) = self.watchdog.look(at.now, self.oldest(), waits_for_log || self.bound == 0) else { return };
        let Some((_, running)) = self.running.first_key_value() else { return };
        if !self.is_running() {
            return;
        }
        let partition = running.key.0;
        self.effects.push_back(Effect::Tell(Tell::Stalled(partition, still)));
        let seconds = still.as_secs();
        self.end_with(LogError::Fatal(format!("work on {partition} has stood still for {seconds} s; start again")), at);
    }

    /// A record came.
    pub(crate) fn received<H: RecordHandler<Item = T>>(&mut self, record: LogRecord, handler: &H, at: Moment) {
        let partition = record.source;
        let running = self.is_running();
        let Some(part) = self.parts.get_mut(&partition) else {
            self.effects.push_back(Effect::Tell(Tell::Dropped(1)));
            return;
        };
        // What a partition that is about to stop still brings is read again by whoever has it next.
        if !part.is_open() || !running {
            return;
        }
        match part.ledger.deliver(record.offset, record.appended_at_ms) {
            Delivered::Fresh => {}
            Delivered::Repeated => return,
            Delivered::Finished => {
                part.changed = true;
                self.counts.skipped += 1;
                self.rest_or_flow(&[partition]);
                return;
            }
        }
        if !part.deferred.is_empty() {
            part.deferred.saw(record.bytes());
        }
        let mut reading = None;
        let tenant = handler.tenant(&record.key).unwrap_or_else(|| {
            let reading = reading.insert(handler.read(&record));
            Arc::clone(&reading.tenant)
        });
        if self.tenants.saw(&tenant) {
            self.rest_or_flow_all();
        }
        if self.puts_off(partition, &tenant) {
            self.put_off(partition, &tenant, &record);
            return;
        }
        let reading = reading.unwrap_or_else(|| handler.read(&record));
        self.take(record, reading, tenant, at.now);
    }

    /// Holds a record.
    pub(super) fn take(&mut self, record: LogRecord, reading: Reading<T>, tenant: Arc<str>, now: Instant) {
        let partition = record.source;
        let Some(part) = self.parts.get(&partition) else { return };
        let bytes = record.bytes() + reading.bytes;
        let key: (TopicPartition, Bytes) = (partition, record.key.clone());
        let entry = Entry {
            held: Arc::new(Held { record, item: reading.item }),
            tenant,
            cost: reading.cost,
            bytes,
            window: reading.window,
            epoch: part.epoch,
            attempt: 0,
            first_tried_at_ms: 0,
        };
        self.schedule.push(key, entry, now);
        self.holds(partition, bytes);
    }

    fn dispatch(&mut self, at: Moment) {
        if !self.is_running() {
            return;
        }
        while let Some((key, mut entries)) = self.schedule.pop(self.bound) {
            let epoch = entries.first().map(|entry| entry.epoch);
            let Some((part, epoch)) = self.parts.get_mut(&key.0).zip(epoch).filter(|(part, epoch)| part.epoch == *epoch) else {
                // Discarded with its partition in every case; a key must not stay busy for it.
                self.schedule.done(&key);
                self.give_back(&entries);
                continue;
            };
            part.in_flight += 1;
            for entry in entries.iter_mut().filter(|entry| entry.attempt == 0) {
                entry.first_tried_at_ms = at.unix_ms;
            }
            let window: Window<T> = entries.iter().map(|entry| Arc::clone(&entry.held)).collect();
            let work = Work {
                window,
                attempt: entries[0].attempt,
                first_tried_at_ms: entries[0].first_tried_at_ms,
                fence: part.fence.clone(),
            };
            self.tickets += 1;
            self.running.insert(self.tickets, Running { key, entries, epoch, began_at: at.now });
            self.effects.push_back(Effect::Work(self.tickets, work));
        }
    }

    /// Work has ended.
    pub(crate) fn completed(&mut self, ticket: Ticket, verdict: Verdict, at: Moment) {
        let Some(Running { key, mut entries, epoch, .. }) = self.running.remove(&ticket) else { return };
        let partition = key.0;
        let goes_on = self.is_running();
        let is_current = self.epochs.admit(partition, epoch);
        let Some(part) = self.parts.get_mut(&partition).filter(|_| is_current) else {
            self.effects.push_back(Effect::Tell(Tell::Dropped(entries.len())));
            self.schedule.done(&key);
            self.give_back(&entries);
            return;
        };
        part.in_flight -= 1;
        match verdict {
            Verdict::RetryAfter(wait) if goes_on && part.is_open() => {
                self.effects.push_back(Effect::Tell(Tell::Retried(wait)));
                entries.iter_mut().for_each(|entry| entry.attempt = entry.attempt.saturating_add(1));
                self.schedule.park(&key, entries, at.now + wait);
                return;
            }
            Verdict::Apart if goes_on && part.is_open() => {
                entries.iter_mut().for_each(|entry| entry.attempt = 0);
                self.schedule.apart(&key, entries);
                return;
            }
            Verdict::RetryAfter(_) | Verdict::Apart => {}
            Verdict::Done => {
                for entry in &entries {
                    part.ledger.finish(entry.held.record.offset);
                }
                part.changed = true;
            }
            Verdict::Halt(reason) => self.halt(partition, reason),
        }
        self.schedule.done(&key);
        self.give_back(&entries);
    }

    fn halt(&mut self, partition: TopicPartition, reason: String) {
        if let Some(part) = self.parts.get_mut(&partition) {
            part.halted = true;
        }
        self.discard(&[partition]);
        self.effects.push_back(Effect::Tell(Tell::Halted(partition, reason)));
        self.effects.push_back(Effect::Pause(vec![partition]));
    }

    /// Drops what waits of these, and what is put off. Says how many records were held.
    pub(super) fn discard(&mut self, partitions: &[TopicPartition]) -> usize {
        let dropped = self.schedule.discard(|(partition, _)| partitions.contains(partition));
        for partition in partitions {
            self.deferring.remove(partition);
            if let Some(part) = self.parts.get_mut(partition) {
                part.deferred = super::deferred::Deferred::default();
            }
        }
        self.give_back(&dropped);
        dropped.len()
    }

    /// Takes nothing new on; what is in flight may end.
    pub(crate) fn stop(&mut self, now: Instant) {
        if !self.is_running() {
            return;
        }
        self.phase = Phase::Stopping(now + self.config.drain_deadline);
        let partitions = self.partitions();
        self.discard(&partitions);
        if !partitions.is_empty() {
            self.effects.push_back(Effect::Pause(partitions));
        }
    }

    /// Stops, for a reason that no retry mends.
    pub(super) fn end_with(&mut self, error: LogError, at: Moment) {
        self.stop(at.now);
        self.error.get_or_insert(error);
    }

    pub(super) fn end(&mut self) {
        self.phase = Phase::Ended;
        self.effects.push_back(Effect::End(self.error.take()));
    }
}
