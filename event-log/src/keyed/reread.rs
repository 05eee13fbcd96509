//! Who is put off, and what is read again of it.
//!
//! A tenant's share of a partition is the budget, divided by the partitions and by the tenants of which the partition holds something.
//! It counts only while the budget is full: who holds it is put off, and who holds half of it or less is read again. While the budget is
//! not full, whoever waits longest is read again.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::core::Core;
use super::deferred::Room;
use super::effect::{Effect, Moment, Reread, Tell};
use crate::budget::Gate;
use crate::driver::RecordHandler;
use crate::seam::{LogError, LogRecord};
use crate::topic::TopicPartition;

/// Reads of what was put off at a time.
const REREADS: usize = 4;

/// All of them, beginning behind `last`: reads are few, and partitions take turns.
fn in_turn(all: &BTreeSet<TopicPartition>, last: Option<TopicPartition>) -> impl Iterator<Item = TopicPartition> {
    let (before, after): (Vec<_>, Vec<_>) = all.iter().copied().partition(|partition| Some(*partition) <= last);
    after.into_iter().chain(before)
}

impl<T> Core<T> {
    /// Whether it helps anyone to read on past what is not kept.
    pub(super) fn may_put_off(&self) -> bool {
        self.config.read_ahead_records > 0 && !self.tenants.is_one()
    }

    pub(super) fn puts_off(&self, partition: TopicPartition, tenant: &str) -> bool {
        // The order of its keys: nothing overtakes what is put off.
        if self.parts.get(&partition).is_some_and(|part| part.deferred.holds(tenant)) {
            return true;
        }
        self.may_put_off() && self.budget.gate() == Gate::Closed && self.room(partition, tenant).is_none()
    }

    pub(super) fn put_off(&mut self, partition: TopicPartition, tenant: &Arc<str>, record: &LogRecord) {
        let Some(part) = self.parts.get_mut(&partition) else { return };
        part.deferred.saw(record.bytes());
        part.deferred.put_off(tenant, record.offset);
        part.may_reread = true;
        self.deferring.insert(partition);
        self.counts.put_off += 1;
        self.rest_or_flow(&[partition]);
    }

    fn share(&self, partition: TopicPartition) -> Room {
        let deferred = self.parts.get(&partition).map_or(0, |part| part.deferred.tenants());
        let count = self.parts.len().max(1).saturating_mul(self.schedule.tenants_in(partition).max(deferred).max(1));
        Room { records: (self.config.budget_events / count).max(1), bytes: (self.config.budget_bytes / count).max(1) }
    }

    /// How much more of a tenant may be held: what there is while the budget is not full, then what is left of its share.
    fn room(&self, partition: TopicPartition, tenant: &str) -> Room {
        if self.budget.gate() == Gate::Open {
            let (records, bytes) = self.budget.held();
            return Room {
                records: self.config.budget_events.saturating_sub(records),
                bytes: self.config.budget_bytes.saturating_sub(bytes),
            };
        }
        if self.is_overfull() {
            return Room { records: 0, bytes: 0 };
        }
        let (share, held) = (self.share(partition), self.schedule.held(partition, tenant));
        Room { records: share.records.saturating_sub(held.items), bytes: share.bytes.saturating_sub(held.bytes) }
    }

    /// Reads again what was put off: of anybody while the budget is not full, else of those that hold no more than half of their share.
    pub(super) fn read_again(&mut self, now: Instant) {
        if !self.is_running() || !self.reread_retry.is_due(now) {
            return;
        }
        let (mut asked, mut nobody) = (Vec::new(), Vec::new());
        for partition in in_turn(&self.deferring, self.reread_last) {
            if self.rereads + asked.len() >= REREADS {
                break;
            }
            let (share, open) = (self.share(partition), self.budget.gate() == Gate::Open);
            let Some(part) = self.parts.get(&partition).filter(|part| part.may_reread && part.is_open() && !part.rereading)
            else {
                continue;
            };
            let chunk = part.deferred.next(|tenant| {
                let room = self.room(partition, tenant);
                let holds_half = room.records < share.records.div_ceil(2) || room.bytes < share.bytes.div_ceil(2);
                (if open { !room.is_none() } else { !holds_half }).then_some(room)
            });
            match chunk {
                Some(chunk) => {
                    let (offset, max_records) = (chunk.offset, chunk.max_records);
                    asked.push((Reread { partition, epoch: part.epoch, offset, max_records }, chunk.tenant));
                }
                None => nobody.push(partition),
            }
        }
        for partition in nobody {
            if let Some(part) = self.parts.get_mut(&partition) {
                part.may_reread = false;
            }
        }
        for (reread, tenant) in asked {
            if let Some(part) = self.parts.get_mut(&reread.partition) {
                part.rereading = true;
                part.deferred.asked(&tenant);
            }
            self.reread_last = Some(reread.partition);
            self.rereads += 1;
            self.effects.push_back(Effect::Reread(reread));
        }
    }

    /// What a read brought. Of every tenant that is put off there, as much is taken as it has room for.
    pub(crate) fn reread<H: RecordHandler<Item = T>>(
        &mut self,
        reread: Reread,
        result: Result<Vec<LogRecord>, LogError>,
        handler: &H,
        at: Moment,
    ) {
        self.rereads -= 1;
        let Reread { partition, epoch, offset: from, .. } = reread;
        let running = self.is_running();
        let Some(part) = self.parts.get_mut(&partition).filter(|part| part.epoch == epoch) else { return };
        part.rereading = false;
        if !part.is_open() || !running {
            return;
        }
        let records = match result {
            Ok(records) => records,
            Err(e @ LogError::Transient(_)) => {
                self.effects.push_back(Effect::Tell(Tell::LogFailed(e)));
                self.reread_retry.failed(at.now, at.chance);
                return;
            }
            Err(e) => return self.failed(e, at),
        };
        self.reread_retry.worked();
        // Nothing there: it was, when it was put off.
        let to = records.last().map_or(i64::MAX, |record| record.offset);
        let mut left = BTreeSet::new();
        for record in records {
            self.take_again(partition, from, record, handler, &mut left, at.now);
        }
        let Some(part) = self.parts.get_mut(&partition) else { return };
        let gone = part.deferred.passed(from, to, &left);
        if part.deferred.is_empty() {
            self.deferring.remove(&partition);
        }
        if gone > 0 {
            let error = format!(
                "{gone} records of {partition} from offset {from} on were there and are gone; restore the log, or rebuild"
            );
            self.end_with(LogError::Fatal(error), at);
        }
        self.rest_or_flow(&[partition]);
    }

    fn take_again<H: RecordHandler<Item = T>>(
        &mut self,
        partition: TopicPartition,
        from: i64,
        record: LogRecord,
        handler: &H,
        left: &mut BTreeSet<Arc<str>>,
        now: Instant,
    ) {
        let offset = record.offset;
        let mut reading = None;
        let tenant = handler.tenant(&record.key).unwrap_or_else(|| {
            let reading = reading.insert(handler.read(&record));
            Arc::clone(&reading.tenant)
        });
        let Some(part) = self.parts.get(&partition) else { return };
        // Between those that were put off there may be some that were finished before.
        if left.contains(&tenant) || !part.deferred.awaits(&tenant, from, offset) || !part.ledger.is_open(offset) {
            return;
        }
        if self.room(partition, &tenant).is_none() {
            left.insert(tenant);
            return;
        }
        if let Some(part) = self.parts.get_mut(&partition) {
            part.deferred.took(&tenant, offset);
        }
        self.counts.reread += 1;
        let reading = reading.unwrap_or_else(|| handler.read(&record));
        self.take(record, reading, tenant, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Topic;

    #[test]
    fn partitions_take_turns_to_be_read_again() {
        let at = |partition| TopicPartition { topic: Topic::ConversationsLive, partition };
        let all = [0, 1, 3].map(at).into_iter().collect();
        let order = |last: Option<i32>| in_turn(&all, last.map(at)).map(|one| one.partition).collect::<Vec<_>>();
        assert_eq!([order(None), order(Some(1)), order(Some(2)), order(Some(3))], [[0, 1, 3], [3, 0, 1], [3, 0, 1], [0, 1, 3]]);
    }
}
