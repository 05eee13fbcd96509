//! A member of a group that reads the archive first, where its place lies before the topic's start, and then the topic from exactly the next
//! offset on.
//!
//! While a partition is read from the archive the log's own member holds it, paused at the topic's start: who has which partition is the
//! group's to say. Promises: every record once and in order over the change; what is decoded is bounded, for all partitions together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use memori_event_log::{Commit, Committed, Consumer, ConsumerEvent, Fence, LogError, LogRecord, Start, TopicPartition};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::log::History;

/// Records of one event at most.
const MAX_RECORDS: usize = 1_000;
/// Their bytes, but for the last record.
const MAX_BYTES: usize = 1024 * 1024;
/// Between two tries to read an archive that is away.
const PAUSE: Duration = Duration::from_secs(1);

/// What a reader of the archive tells.
enum Told {
    Records(Vec<LogRecord>),
    /// From here on the topic has it.
    Reached(i64),
    Failed(LogError),
}

struct Message {
    partition: TopicPartition,
    reading: u64,
    told: Told,
}

/// A partition that is read from the archive.
struct Reading {
    number: u64,
    paused: watch::Sender<bool>,
    _stop: DropGuard,
}

pub(crate) struct ArchivedConsumer {
    inner: Box<dyn Consumer>,
    history: Arc<History>,
    readings: BTreeMap<TopicPartition, Reading>,
    /// The topic has lost their next record while it was read: it is the archive's turn again, from there.
    fallen: BTreeMap<TopicPartition, i64>,
    /// Read to their end, and to go on in the topic.
    reached: BTreeMap<TopicPartition, i64>,
    /// By whoever reads.
    paused: BTreeSet<TopicPartition>,
    sender: mpsc::Sender<Message>,
    messages: mpsc::Receiver<Message>,
    numbers: u64,
}

impl ArchivedConsumer {
    pub(crate) fn new(inner: Box<dyn Consumer>, history: Arc<History>) -> Self {
        let (sender, messages) = mpsc::channel(1);
        let (readings, fallen, reached, paused) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { inner, history, readings, fallen, reached, paused, sender, messages, numbers: 0 }
    }

    fn read_archive(&mut self, partition: TopicPartition, from: i64) {
        self.numbers += 1;
        let (paused, pauses) = watch::channel(self.paused.contains(&partition));
        let stop = CancellationToken::new();
        let reader = Reader {
            history: self.history.clone(),
            partition,
            next: from,
            number: self.numbers,
            pauses,
            sender: self.sender.clone(),
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(reader.run()));
        tracing::info!(%partition, from, "reading the archive, up to where the topic begins");
        self.readings.insert(partition, Reading { number: self.numbers, paused, _stop: stop.drop_guard() });
    }

    /// Takes a partition up: the archive where its place lies before the topic's start, else the topic.
    async fn take_up(&mut self, partition: TopicPartition, start: Start) -> Result<(), LogError> {
        let assigned = self.inner.assign(&[(partition, start)]).await;
        let (log_start, from) = match assigned {
            Err(LogError::BelowLogStart { source_partition, wanted, log_start }) if source_partition == partition => {
                (log_start, wanted)
            }
            Ok(()) if start == Start::Committed && self.inner.committed(partition).is_none() => {
                // A group that is new to it begins at the first record that there ever was.
                let (log_start, _) = self.history.log.watermarks(partition).await?;
                match self.history.begins(partition, log_start).await? {
                    Some(begins) if begins < log_start => (log_start, begins),
                    _ => return Ok(()),
                }
            }
            other => return other,
        };
        let begins = self.history.begins(partition, log_start).await?;
        if begins.is_none_or(|begins| begins > from) {
            return Err(LogError::BelowLogStart { source_partition: partition, wanted: from, log_start });
        }
        self.inner.assign(&[(partition, Start::Offset(log_start))]).await?;
        self.inner.pause(&[partition])?;
        self.read_archive(partition, from);
        Ok(())
    }

    /// Goes on in the archive.
    async fn fall_back(&mut self) -> Result<(), LogError> {
        while let Some((&partition, &next)) = self.fallen.iter().next() {
            self.take_up(partition, Start::Offset(next)).await?;
            self.fallen.remove(&partition);
        }
        Ok(())
    }

    /// Goes on in the topic. What came of it so far was passed over.
    async fn hand_over(&mut self) -> Result<(), LogError> {
        while let Some((&partition, &next)) = self.reached.iter().next() {
            match self.inner.assign(&[(partition, Start::Offset(next))]).await {
                Ok(()) => {
                    self.reached.remove(&partition);
                    self.readings.remove(&partition);
                    tracing::info!(%partition, offset = next, "the archive is read; going on in the topic");
                    if !self.paused.contains(&partition) {
                        self.inner.resume(&[partition])?;
                    }
                }
                // The topic lost more meanwhile.
                Err(LogError::BelowLogStart { .. }) => {
                    self.reached.remove(&partition);
                    self.read_archive(partition, next);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn let_go(&mut self, partition: TopicPartition) {
        self.readings.remove(&partition);
        self.reached.remove(&partition);
        self.fallen.remove(&partition);
    }
}

#[async_trait]
impl Consumer for ArchivedConsumer {
    async fn next(&mut self) -> Result<ConsumerEvent, LogError> {
        loop {
            // Dropped half way it is done again: what is reached stays noted until it is handed over.
            self.fall_back().await?;
            self.hand_over().await?;
            tokio::select! {
                // In any order: a busy topic is not to hold up the archive, nor the other way round.
                event = self.inner.next() => match event {
                    Err(LogError::BelowLogStart { source_partition, wanted, .. }) if !self.readings.contains_key(&source_partition) => {
                        self.fallen.insert(source_partition, wanted);
                    }
                    Err(error) => return Err(error),
                    Ok(ConsumerEvent::Records(mut records)) => {
                        records.retain(|record| !self.readings.contains_key(&record.source));
                        if !records.is_empty() {
                            return Ok(ConsumerEvent::Records(records));
                        }
                    }
                    Ok(other) => return Ok(other),
                },
                Some(Message { partition, reading, told }) = self.messages.recv() => {
                    if self.readings.get(&partition).is_none_or(|current| current.number != reading) {
                        continue;
                    }
                    match told {
                        Told::Records(records) => return Ok(ConsumerEvent::Records(records)),
                        Told::Reached(next) => {
                            self.reached.insert(partition, next);
                        }
                        Told::Failed(error) => return Err(error),
                    }
                }
            }
        }
    }

    async fn assign(&mut self, starts: &[(TopicPartition, Start)]) -> Result<(), LogError> {
        for (partition, start) in starts {
            let read_before = self.readings.contains_key(partition);
            self.let_go(*partition);
            self.take_up(*partition, *start).await?;
            // The log's own member was paused for the archive's sake.
            if read_before && !self.readings.contains_key(partition) && !self.paused.contains(partition) {
                self.inner.resume(&[*partition])?;
            }
        }
        Ok(())
    }

    async fn unassign(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        for partition in partitions {
            self.let_go(*partition);
            self.paused.remove(partition);
        }
        self.inner.unassign(partitions).await
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.paused.extend(partitions);
        let (archived, others): (Vec<_>, Vec<_>) = partitions.iter().copied().partition(|p| self.readings.contains_key(p));
        for partition in archived {
            if let Some(reading) = self.readings.get(&partition) {
                reading.paused.send_replace(true);
            }
        }
        if others.is_empty() { Ok(()) } else { self.inner.pause(&others) }
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.paused.retain(|partition| !partitions.contains(partition));
        let (archived, others): (Vec<_>, Vec<_>) = partitions.iter().copied().partition(|p| self.readings.contains_key(p));
        for partition in archived {
            if let Some(reading) = self.readings.get(&partition) {
                reading.paused.send_replace(false);
            }
        }
        if others.is_empty() { Ok(()) } else { self.inner.resume(&others) }
    }

    /// Of a partition that is taken up in the archive nothing is known above its place: what was finished there is done again.
    fn committed(&self, partition: TopicPartition) -> Option<&Committed> {
        if self.readings.contains_key(&partition) { None } else { self.inner.committed(partition) }
    }

    async fn commit(&mut self, commits: &[Commit]) -> Result<(), LogError> {
        self.inner.commit(commits).await
    }

    fn fence(&self, partition: TopicPartition) -> Option<Fence> {
        self.inner.fence(partition)
    }

    async fn close(self: Box<Self>, deadline: Duration) {
        self.inner.close(deadline).await;
    }
}

/// Reads one partition of the archive, range by range.
struct Reader {
    history: Arc<History>,
    partition: TopicPartition,
    next: i64,
    number: u64,
    pauses: watch::Receiver<bool>,
    sender: mpsc::Sender<Message>,
}

impl Reader {
    async fn run(mut self) {
        loop {
            let told = match self.range().await {
                Ok(None) => continue,
                Ok(Some(offset)) => Told::Reached(offset),
                Err(error @ LogError::Transient(_)) => {
                    tracing::warn!(partition = %self.partition, %error, "the archive cannot be read now; tried again");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(error) => Told::Failed(error),
            };
            // Whoever let the partition go has dropped this task.
            let _ = self.sender.send(Message { partition: self.partition, reading: self.number, told }).await;
            return;
        }
    }

    /// Tells the records of the range that holds the next offset, or that the topic has it.
    async fn range(&mut self) -> Result<Option<i64>, LogError> {
        let (log_start, _) = self.history.log.watermarks(self.partition).await?;
        if self.next >= log_start {
            return Ok(Some(self.next));
        }
        // The other end may be gone with the consumer.
        let _ = self.pauses.wait_for(|paused| !paused).await;
        let manifest = self.history.holding(self.partition, self.next).await?.ok_or(LogError::BelowLogStart {
            source_partition: self.partition,
            wanted: self.next,
            log_start,
        })?;
        let ranges = self.history.ranges.clone();
        let Ok(_permit) = ranges.acquire().await else { return Ok(None) };
        let records = self.history.records(&manifest).await?;
        let mut rest = &records[records.partition_point(|record| record.offset < self.next)..];
        while !rest.is_empty() {
            // One that rests gives its place to others, and reads the rest again.
            if *self.pauses.borrow() {
                return Ok(None);
            }
            let (mut count, mut bytes) = (0, 0);
            while count < rest.len().min(MAX_RECORDS) && bytes < MAX_BYTES {
                bytes += rest[count].bytes();
                count += 1;
            }
            let (now, later) = rest.split_at(count);
            let told = Told::Records(now.to_vec());
            if self.sender.send(Message { partition: self.partition, reading: self.number, told }).await.is_err() {
                return Ok(None);
            }
            self.next = now.last().map_or(self.next, |record| record.offset + 1);
            rest = later;
        }
        self.next = manifest.to;
        Ok(None)
    }
}
