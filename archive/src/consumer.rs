//! A member of a group that reads the archive first, where its place lies before the topic's start, and then the topic from exactly the next
//! offset on.
//!
//! While a partition is read from the archive the log's own member holds it, paused at the topic's start: who has which partition is the
//! group's to say, and so is when it goes. Promises: every record once and in order over the change; nothing of a partition after the group
//! has asked for it back; what is decoded is bounded, for all partitions together.
//!
//! A member that the topic has overtaken (its next record is gone while it reads) cannot be moved: a stopped fetch begins anew only with
//! an assignment, and to give a partition back and take it again would answer a change of the group that has not been told yet. So it gives
//! everything back, as if the group had asked for it, leaves, and joins again; what it has committed then lies in the archive.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use memori_event_log::{Commit, Committed, Consumer, ConsumerEvent, Fence, LogError, LogRecord, Start, Topic, TopicPartition};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::log::History;

/// Records of one event at most.
const MAX_RECORDS: usize = 1_000;
/// Their bytes, but for the last record.
const MAX_BYTES: usize = 1024 * 1024;
/// Between two tries to read an archive, or to go on in a topic, that is away.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a member that has given everything back may take to leave.
const LEAVING: Duration = Duration::from_secs(10);

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

/// A partition that whoever reads was told of, and has not let go.
#[derive(Default)]
struct Held {
    /// It has been taken up.
    taken: bool,
    /// It is asked for back.
    going: bool,
    /// Its records come from the topic.
    flows: bool,
    /// The topic has overtaken the log's own member, whose fetch has stopped.
    overtaken: bool,
    /// What the group had committed when it was taken up there.
    committed: Option<Committed>,
}

pub(crate) struct ArchivedConsumer {
    inner: Box<dyn Consumer>,
    group: String,
    topics: Vec<Topic>,
    history: Arc<History>,
    held: BTreeMap<TopicPartition, Held>,
    readings: BTreeMap<TopicPartition, Reading>,
    /// Read to their end, and to go on in the topic.
    reached: BTreeMap<TopicPartition, i64>,
    /// By whoever reads.
    paused: BTreeSet<TopicPartition>,
    /// At the log's own member, for the archive's sake.
    rested: BTreeSet<TopicPartition>,
    /// Asked back by the group after they were let go: to be answered.
    unheld: Vec<TopicPartition>,
    /// All is to be given back, and the group joined again.
    rejoins: bool,
    /// It has been asked for.
    rejoining: bool,
    /// Not before then is going on in the topic tried again.
    again_at: Option<Instant>,
    sender: mpsc::Sender<Message>,
    messages: mpsc::Receiver<Message>,
    numbers: u64,
}

impl ArchivedConsumer {
    pub(crate) fn new(inner: Box<dyn Consumer>, group: &str, topics: &[Topic], history: Arc<History>) -> Self {
        let (sender, messages) = mpsc::channel(1);
        Self {
            inner,
            group: group.to_owned(),
            topics: topics.to_vec(),
            history,
            held: BTreeMap::new(),
            readings: BTreeMap::new(),
            reached: BTreeMap::new(),
            paused: BTreeSet::new(),
            rested: BTreeSet::new(),
            unheld: Vec::new(),
            rejoins: false,
            rejoining: false,
            again_at: None,
            sender,
            messages,
            numbers: 0,
        }
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

    /// Nothing more comes of it, from neither side.
    fn silence(&mut self, partition: TopicPartition) {
        self.readings.remove(&partition);
        self.reached.remove(&partition);
        if let Some(held) = self.held.get_mut(&partition) {
            held.flows = false;
        }
    }

    fn rest(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        if partitions.is_empty() {
            return Ok(());
        }
        self.rested.extend(partitions);
        self.inner.pause(partitions)
    }

    /// Has the log's own member take partitions up: where they start, or at the topic's start where the archive has what lies before.
    /// Tells from where on each of those is read in the archive, and what the group had committed there.
    async fn take_up(
        &mut self,
        starts: &[(TopicPartition, Start)],
    ) -> Result<BTreeMap<TopicPartition, (i64, Option<Committed>)>, LogError> {
        let mut archived = BTreeMap::new();
        let mut asked = starts.to_vec();
        loop {
            let below = match self.inner.assign(&asked).await {
                Ok(()) => break,
                Err(below @ LogError::BelowLogStart { .. }) => below,
                Err(error) => return Err(error),
            };
            let LogError::BelowLogStart { source_partition: partition, wanted, log_start } = below else { return Err(below) };
            let Some((_, start)) = asked.iter_mut().find(|(asked, _)| *asked == partition) else { return Err(below) };
            // Another time it is the topic's start that has moved meanwhile.
            if let Entry::Vacant(new) = archived.entry(partition) {
                if self.history.begins(partition, log_start).await?.is_none_or(|begins| begins > wanted) {
                    return Err(below);
                }
                let committed = self.inner.committed(partition).cloned().filter(|_| *start == Start::Committed);
                new.insert((wanted, committed));
            }
            *start = Start::Offset(log_start);
        }
        // A group that is new to a partition begins at the first record that there ever was.
        let mut new = Vec::new();
        for (partition, start) in starts {
            if *start == Start::Committed && !archived.contains_key(partition) && self.inner.committed(*partition).is_none() {
                new.push(*partition);
            }
        }
        self.rest(&new)?;
        for partition in new {
            let (log_start, _) = self.history.log.watermarks(partition).await?;
            if log_start > 0
                && let Some(begins) = self.history.begins(partition, log_start).await?
                && begins < log_start
            {
                archived.insert(partition, (begins, None));
            }
        }
        self.rest(&archived.keys().copied().collect::<Vec<_>>())?;
        Ok(archived)
    }

    /// Goes on in the topic. What came of it so far was passed over.
    async fn hand_over(&mut self) -> Result<(), LogError> {
        if self.again_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        self.again_at = None;
        while let Some((&partition, &next)) = self.reached.iter().next() {
            if self.held.get(&partition).is_none_or(|held| held.overtaken) {
                self.silence(partition);
                self.rejoins = true;
                continue;
            }
            match self.inner.assign(&[(partition, Start::Offset(next))]).await {
                Ok(()) => {
                    self.silence(partition);
                    if let Some(held) = self.held.get_mut(&partition) {
                        held.flows = true;
                    }
                    tracing::info!(%partition, offset = next, "the archive is read; going on in the topic");
                    self.rested.remove(&partition);
                    if !self.paused.contains(&partition) {
                        self.inner.resume(&[partition])?;
                    }
                }
                // The topic lost more meanwhile.
                Err(LogError::BelowLogStart { .. }) => {
                    self.reached.remove(&partition);
                    self.read_archive(partition, next);
                }
                Err(error) => {
                    // The log's own member is to be heard before that: it may say why.
                    self.again_at = Some(Instant::now() + PAUSE);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// What the log's own member cannot go on with.
    fn overtaken(&mut self, partition: TopicPartition) -> Result<(), LogError> {
        let Some(held) = self.held.get_mut(&partition) else { return Ok(()) };
        held.overtaken = true;
        if std::mem::take(&mut held.flows) {
            tracing::info!(%partition, "the topic has lost the next record: the group is left, and joined again, to read it in the archive");
            self.rejoins = true;
            self.rest(&[partition])?;
        }
        Ok(())
    }

    fn tell_readings(&self, partitions: &[TopicPartition], paused: bool) {
        for reading in partitions.iter().filter_map(|partition| self.readings.get(partition)) {
            reading.paused.send_replace(paused);
        }
    }

    /// Asks for everything back. Not while something is: an answer to this would be taken for one to that.
    fn give_back(&mut self) -> Option<ConsumerEvent> {
        if !self.rejoins || self.rejoining || self.held.values().any(|held| held.going || !held.taken) {
            return None;
        }
        self.rejoining = true;
        let all: Vec<TopicPartition> = self.held.keys().copied().collect();
        (!all.is_empty()).then(|| {
            self.going(&all);
            ConsumerEvent::Revoked(all)
        })
    }

    fn going(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.silence(*partition);
            if let Some(held) = self.held.get_mut(partition) {
                held.going = true;
            }
        }
    }

    /// Leaves the group and joins it again, once everything is given back.
    async fn rejoin(&mut self) -> Result<(), LogError> {
        let anew = self.history.log.subscribe(&self.group, &self.topics).await?;
        let left = std::mem::replace(&mut self.inner, anew);
        tokio::spawn(left.close(LEAVING));
        self.unheld.clear();
        self.rested.clear();
        (self.rejoins, self.rejoining) = (false, false);
        Ok(())
    }

    /// What whoever reads is told of a change of the group; nothing where it knows.
    fn changed(&mut self, change: ConsumerEvent) -> Option<ConsumerEvent> {
        match change {
            ConsumerEvent::Assigned(partitions) => {
                self.held.extend(partitions.iter().map(|partition| (*partition, Held::default())));
                Some(ConsumerEvent::Assigned(partitions))
            }
            ConsumerEvent::Revoked(partitions) => {
                let (held, unheld): (Vec<_>, Vec<_>) = partitions.into_iter().partition(|p| self.held.contains_key(p));
                if held.is_empty() {
                    self.unheld.extend(unheld);
                    return None;
                }
                let news: Vec<_> = held.into_iter().filter(|p| self.held.get(p).is_some_and(|held| !held.going)).collect();
                self.going(&news);
                (!news.is_empty()).then_some(ConsumerEvent::Revoked(news))
            }
            ConsumerEvent::Lost(partitions) => {
                let (held, unheld): (Vec<_>, Vec<_>) = partitions.into_iter().partition(|p| self.held.contains_key(p));
                if held.is_empty() {
                    self.unheld.extend(unheld);
                    return None;
                }
                self.going(&held);
                Some(ConsumerEvent::Lost(held))
            }
            ConsumerEvent::Records(mut records) => {
                if !self.held.values().all(|held| held.flows) {
                    records.retain(|record| self.held.get(&record.source).is_some_and(|held| held.flows));
                }
                (!records.is_empty()).then_some(ConsumerEvent::Records(records))
            }
        }
    }
}

#[async_trait]
impl Consumer for ArchivedConsumer {
    async fn next(&mut self) -> Result<ConsumerEvent, LogError> {
        loop {
            // Each of these, dropped half way, is done again.
            if !self.unheld.is_empty() {
                self.inner.unassign(&self.unheld).await?;
                self.unheld.clear();
            }
            self.hand_over().await?;
            if let Some(back) = self.give_back() {
                return Ok(back);
            }
            if self.rejoining && self.held.is_empty() {
                self.rejoin().await?;
            }
            let again_at = self.again_at.unwrap_or_else(Instant::now);
            tokio::select! {
                // In any order: a busy topic is not to hold up the archive, nor the other way round.
                event = self.inner.next() => match event {
                    Err(LogError::BelowLogStart { source_partition, .. }) => self.overtaken(source_partition)?,
                    Err(error) => return Err(error),
                    Ok(event) => if let Some(event) = self.changed(event) {
                        return Ok(event);
                    },
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
                () = tokio::time::sleep_until(again_at), if self.again_at.is_some() => {}
            }
        }
    }

    async fn assign(&mut self, starts: &[(TopicPartition, Start)]) -> Result<(), LogError> {
        for (partition, _) in starts {
            self.silence(*partition);
        }
        let archived = self.take_up(starts).await?;
        for (partition, _) in starts {
            let read = archived.get(partition);
            let committed = read.map_or_else(|| self.inner.committed(*partition).cloned(), |(_, committed)| committed.clone());
            let held = self.held.entry(*partition).or_default();
            (held.taken, held.flows, held.overtaken, held.committed) = (true, read.is_none(), false, committed);
            match read {
                Some((from, _)) => self.read_archive(*partition, *from),
                // It was paused for the archive's sake.
                None if self.rested.remove(partition) && !self.paused.contains(partition) => self.inner.resume(&[*partition])?,
                None => {}
            }
        }
        Ok(())
    }

    async fn unassign(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        for partition in partitions {
            self.silence(*partition);
            self.held.remove(partition);
            self.paused.remove(partition);
            self.rested.remove(partition);
        }
        self.inner.unassign(partitions).await
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        let held = || partitions.iter().copied().filter(|partition| self.held.contains_key(partition));
        let others: Vec<TopicPartition> = held().filter(|partition| !self.rested.contains(partition)).collect();
        self.paused.extend(held());
        self.tell_readings(partitions, true);
        if others.is_empty() { Ok(()) } else { self.inner.pause(&others) }
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.paused.retain(|partition| !partitions.contains(partition));
        self.tell_readings(partitions, false);
        let others: Vec<TopicPartition> =
            partitions.iter().copied().filter(|partition| !self.rested.contains(partition)).collect();
        if others.is_empty() { Ok(()) } else { self.inner.resume(&others) }
    }

    fn committed(&self, partition: TopicPartition) -> Option<&Committed> {
        self.held.get(&partition)?.committed.as_ref()
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
