//! One member of a group on the SQL log: reads what it is assigned, woken by appends of its own process and by a slow look for
//! those of others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::dialect::{Dialect, Member};
use super::membership::{self, Command, MembershipEvent};
use super::{SqlLogConfig, member_prefix, missing, uncancelled};
use crate::seam::{Commit, Committed, Consumer, ConsumerEvent, Fence, LogError, LogRecord, Start};
use crate::topic::{Topic, TopicPartition};

/// One read takes at most this much of one partition, and stops after this much of all.
const READ_PARTITION_RECORDS: usize = 500;
const READ_BYTES: usize = 8 * 1024 * 1024;
const READ_RECORDS: usize = 4000;

/// An assigned partition.
struct Reading {
    epoch: i64,
    /// The offset of the next record; none until [`Consumer::assign`].
    next_offset: Option<i64>,
    /// Grows with every assign, so that a read that began before it is not taken for one after it.
    seek: u64,
    paused: bool,
    /// What the group had committed when it was taken up there.
    committed: Option<Committed>,
}

type Read = JoinHandle<Result<Vec<(TopicPartition, u64, Vec<LogRecord>)>, LogError>>;

pub(super) struct SqlConsumer {
    dialect: Arc<dyn Dialect>,
    group: String,
    topics: Vec<Topic>,
    commands: mpsc::UnboundedSender<Command>,
    events: mpsc::UnboundedReceiver<MembershipEvent>,
    appended: watch::Receiver<u64>,
    poll_interval: Duration,
    readings: BTreeMap<TopicPartition, Reading>,
    /// The read on its way; it survives a dropped `next`.
    read: Option<Read>,
    /// Nothing to read until then, or until an append.
    idle_until: Option<Instant>,
    /// Where the next read begins its round, so that every partition has its turn.
    round: usize,
    seeks: u64,
}

impl SqlConsumer {
    pub(super) fn join(dialect: Arc<dyn Dialect>, config: &SqlLogConfig, group: &str, topics: &[Topic], partitions: i32) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        let (sender, events) = mpsc::unbounded_channel();
        let member = Member {
            group: group.to_owned(),
            id: format!("{}{}", config.instance.as_deref().map(member_prefix).unwrap_or_default(), Uuid::new_v4()),
            topics: topics.to_vec(),
            partitions,
            lease_ttl_ms: i64::try_from(config.lease_ttl.as_millis()).unwrap_or(i64::MAX),
        };
        tokio::spawn(membership::run(Arc::clone(&dialect), member, config.heartbeat, received, sender));
        Self {
            appended: dialect.appended(),
            dialect,
            group: group.to_owned(),
            topics: topics.to_vec(),
            commands,
            events,
            poll_interval: config.poll_interval,
            readings: BTreeMap::new(),
            read: None,
            idle_until: None,
            round: 0,
            seeks: 0,
        }
    }

    fn translate(&mut self, event: MembershipEvent) -> Result<ConsumerEvent, LogError> {
        match event {
            MembershipEvent::Assigned(leases) => {
                for &(partition, epoch) in &leases {
                    self.readings
                        .insert(partition, Reading { epoch, next_offset: None, seek: 0, paused: false, committed: None });
                }
                Ok(ConsumerEvent::Assigned(leases.into_iter().map(|(partition, _)| partition).collect()))
            }
            MembershipEvent::Revoked(partitions) => Ok(ConsumerEvent::Revoked(partitions)),
            MembershipEvent::Lost(partitions) => {
                for partition in &partitions {
                    self.readings.remove(partition);
                }
                Ok(ConsumerEvent::Lost(partitions))
            }
            MembershipEvent::Failed(e) => Err(e),
        }
    }

    /// Begins a read of what flows; false where nothing does.
    fn begin_read(&mut self) -> bool {
        let mut wanted: Vec<(TopicPartition, u64, i64)> = self
            .readings
            .iter()
            .filter(|(_, reading)| !reading.paused)
            .filter_map(|(&partition, reading)| reading.next_offset.map(|offset| (partition, reading.seek, offset)))
            .collect();
        if wanted.is_empty() {
            return false;
        }
        self.round += 1;
        let turn = self.round % wanted.len();
        wanted.rotate_left(turn);
        // What is appended from here on wakes the next read.
        self.appended.mark_unchanged();
        self.read = Some(tokio::spawn(read(Arc::clone(&self.dialect), self.topics.clone(), wanted)));
        true
    }

    /// Takes what a read brought of partitions that still stand where they stood.
    fn take(&mut self, read: Vec<(TopicPartition, u64, Vec<LogRecord>)>) -> Vec<LogRecord> {
        let mut taken = Vec::new();
        for (partition, seek, records) in read {
            let Some(reading) = self.readings.get_mut(&partition).filter(|reading| reading.seek == seek) else { continue };
            if let Some(last) = records.last() {
                reading.next_offset = Some(last.offset + 1);
                taken.extend(records);
            }
        }
        taken
    }
}

async fn read(
    dialect: Arc<dyn Dialect>,
    topics: Vec<Topic>,
    wanted: Vec<(TopicPartition, u64, i64)>,
) -> Result<Vec<(TopicPartition, u64, Vec<LogRecord>)>, LogError> {
    let spans: BTreeMap<_, _> = dialect.spans(&topics).await?.into_iter().map(|span| (span.partition, span)).collect();
    let (mut read, mut records_left, mut bytes_left) = (Vec::new(), READ_RECORDS, READ_BYTES);
    for (partition, seek, offset) in wanted {
        let span = spans.get(&partition).ok_or_else(|| missing(partition))?;
        if offset < span.start {
            return Err(LogError::BelowLogStart { source_partition: partition, wanted: offset, log_start: span.start });
        }
        if offset >= span.end {
            continue;
        }
        let records = dialect.read(span, offset, records_left.min(READ_PARTITION_RECORDS), bytes_left).await?;
        // Records below the log's start vanish between two statements only by a deletion.
        if records.first().is_some_and(|first| first.offset != offset) {
            let log_start = records.first().map_or(span.end, |first| first.offset);
            return Err(LogError::BelowLogStart { source_partition: partition, wanted: offset, log_start });
        }
        records_left = records_left.saturating_sub(records.len());
        bytes_left = bytes_left.saturating_sub(records.iter().map(LogRecord::bytes).sum());
        read.push((partition, seek, records));
        if records_left == 0 || bytes_left == 0 {
            break;
        }
    }
    Ok(read)
}

#[async_trait]
impl Consumer for SqlConsumer {
    async fn next(&mut self) -> Result<ConsumerEvent, LogError> {
        loop {
            if self.read.is_none() && self.idle_until.is_none() && !self.begin_read() {
                self.idle_until = Some(Instant::now() + self.poll_interval);
            }
            let reading = self.read.is_some();
            let idle_until = self.idle_until.unwrap_or_else(Instant::now);
            // The group first: what it takes away is not to be read on. Then what has been read; idling ends by an append, or
            // by the clock for appends of other processes.
            tokio::select! {
                biased;
                event = self.events.recv() => {
                    let event = event.ok_or_else(|| LogError::Transient("the group has been left".to_owned()))?;
                    return self.translate(event);
                }
                result = async { match self.read.as_mut() { Some(read) => read.await, None => std::future::pending().await } }, if reading => {
                    self.read = None;
                    let records = self.take(result.map_err(|e| LogError::Transient(format!("a read was cut off: {e}")))??);
                    if records.is_empty() {
                        self.idle_until = Some(Instant::now() + self.poll_interval);
                    } else {
                        return Ok(ConsumerEvent::Records(records));
                    }
                }
                changed = self.appended.changed(), if !reading => {
                    changed.map_err(|_| LogError::Transient("the database is closed".to_owned()))?;
                    self.idle_until = None;
                }
                () = tokio::time::sleep_until(idle_until), if !reading => self.idle_until = None,
            }
        }
    }

    async fn assign(&mut self, starts: &[(TopicPartition, Start)]) -> Result<(), LogError> {
        let partitions: Vec<TopicPartition> = starts.iter().map(|(partition, _)| *partition).collect();
        let spans: BTreeMap<_, _> =
            self.dialect.spans(&self.topics).await?.into_iter().map(|span| (span.partition, span)).collect();
        let committed = self.dialect.committed(&self.group, &partitions).await?;
        let mut positions = Vec::with_capacity(starts.len());
        for (&(partition, start), committed) in starts.iter().zip(committed) {
            let span = spans.get(&partition).ok_or_else(|| missing(partition))?;
            let committed = committed.filter(|_| start == Start::Committed).map(|(next_offset, metadata)| Committed {
                next_offset,
                metadata,
                log_end: span.end,
            });
            let wanted = match start {
                Start::Committed => committed.as_ref().map_or(span.start, |committed| committed.next_offset),
                Start::Offset(offset) => offset,
            };
            if wanted < span.start {
                if let Some(reading) = self.readings.get_mut(&partition) {
                    reading.committed = committed;
                }
                return Err(LogError::BelowLogStart { source_partition: partition, wanted, log_start: span.start });
            }
            if wanted > span.end {
                return Err(LogError::Fatal(format!(
                    "{partition} ends at offset {}, but {wanted} is wanted: the log is older than what has been read of it; restore the log, or rebuild",
                    span.end
                )));
            }
            positions.push((partition, wanted, committed));
        }
        for (partition, wanted, committed) in positions {
            // One that has been lost meanwhile is not there any more.
            if let Some(reading) = self.readings.get_mut(&partition) {
                self.seeks += 1;
                reading.seek = self.seeks;
                reading.next_offset = Some(wanted);
                reading.committed = committed;
            }
        }
        self.idle_until = None;
        Ok(())
    }

    async fn unassign(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        for partition in partitions {
            self.readings.remove(partition);
        }
        let (done, released) = oneshot::channel();
        if self.commands.send(Command::Release(partitions.to_vec(), done)).is_ok() {
            // An error means that the task has ended, with it the membership.
            let _ = released.await;
        }
        Ok(())
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        for partition in partitions {
            if let Some(reading) = self.readings.get_mut(partition) {
                reading.paused = true;
            }
        }
        Ok(())
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        for partition in partitions {
            if let Some(reading) = self.readings.get_mut(partition) {
                reading.paused = false;
            }
        }
        self.idle_until = None;
        Ok(())
    }

    fn committed(&self, partition: TopicPartition) -> Option<&Committed> {
        self.readings.get(&partition)?.committed.as_ref()
    }

    async fn commit(&mut self, commits: &[Commit]) -> Result<(), LogError> {
        let mut leased = Vec::with_capacity(commits.len());
        let mut gone = None;
        for commit in commits {
            match self.readings.get(&commit.partition) {
                Some(reading) => leased.push((commit.clone(), reading.epoch)),
                None => gone = Some(commit.partition),
            }
        }
        let (dialect, group) = (Arc::clone(&self.dialect), self.group.clone());
        let fenced = uncancelled(async move { dialect.commit(&group, &leased).await }).await?;
        if !fenced.is_empty() {
            let _ = self.commands.send(Command::Look);
        }
        match fenced.into_iter().next().or(gone) {
            Some(partition) => Err(LogError::Fenced(partition)),
            None => Ok(()),
        }
    }

    fn fence(&self, partition: TopicPartition) -> Option<Fence> {
        self.readings.get(&partition).map(|reading| Fence { group: self.group.clone(), source: partition, epoch: reading.epoch })
    }

    async fn close(self: Box<Self>, deadline: Duration) {
        let (done, left) = oneshot::channel();
        if self.commands.send(Command::Leave(done)).is_ok() {
            // Only the waiting is cut short: the task goes on.
            let _ = tokio::time::timeout(deadline, left).await;
        }
    }
}
