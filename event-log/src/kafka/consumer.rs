//! One member of a group.
//!
//! librdkafka reports a change of assignment inside its poll. The callback here answers nothing: it hands the change to
//! [`Consumer::next`], and the group waits until the caller has drained and answers with [`Consumer::assign`] or
//! [`Consumer::unassign`]. Only while closing, and for changes that concern no partition, is it answered on the spot.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::blocking::{REQUEST_TIMEOUT, detached};
use super::config::Haste;
use super::names::log_error;
use super::{Shared, check_place};
use crate::seam::{Commit, Committed, Consumer, ConsumerEvent, Fence, LogError, LogRecord, Start};
use crate::topic::{Topic, TopicPartition};

/// Records of one event at most, so that the caller is back at its loop soon.
const MAX_RECORDS: usize = 1000;
/// Their bytes, but for the last record.
const MAX_BYTES: usize = 1024 * 1024;
/// How many partitions' offsets are asked for at the same time.
const ASKING: usize = 8;

/// Between two tries of a commit.
const COMMIT_PAUSE: Duration = Duration::from_millis(20);
/// A commit meets these while the group rebalances or its coordinator moves. librdkafka takes part in that by itself, and under
/// cooperative assignment what this member holds stays its own until it lets go, so the commit is tried again: with the
/// generation that it has then.
const PASSING: &[RDKafkaErrorCode] = &[
    RDKafkaErrorCode::RebalanceInProgress,
    RDKafkaErrorCode::IllegalGeneration,
    RDKafkaErrorCode::StaleMemberEpoch,
    RDKafkaErrorCode::CoordinatorLoadInProgress,
    RDKafkaErrorCode::CoordinatorNotAvailable,
    RDKafkaErrorCode::NotCoordinator,
    RDKafkaErrorCode::WaitingForCoordinator,
];
/// The group goes on without this member.
const FENCED: &[RDKafkaErrorCode] = &[
    RDKafkaErrorCode::UnknownMemberId,
    RDKafkaErrorCode::FencedInstanceId,
    RDKafkaErrorCode::FencedMemberEpoch,
    RDKafkaErrorCode::AssignmentLost,
];

/// A change of assignment that the caller was told of and has not answered.
#[derive(Clone, Debug)]
enum Unanswered {
    Assign,
    Revoke(TopicPartitionList),
}

#[derive(Debug)]
enum Change {
    Assigned(Vec<TopicPartition>),
    Revoked(Vec<TopicPartition>),
    Lost(Vec<TopicPartition>),
}

pub(super) struct Group {
    shared: Arc<Shared>,
    changes: mpsc::UnboundedSender<Change>,
    unanswered: Mutex<Option<Unanswered>>,
    closing: AtomicBool,
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka consumer");
    }
}

impl ConsumerContext for Group {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, change: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let assigns = change == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let answer_now = list.count() == 0 || self.closing.load(Ordering::Acquire);
        if answer_now {
            // while closing nothing is taken on, but the group waits for an answer all the same
            let answered = if assigns {
                consumer.incremental_assign(&TopicPartitionList::new())
            } else {
                consumer.incremental_unassign(list)
            };
            if let Err(error) = answered {
                tracing::warn!(%error, "kafka rebalance");
            }
            return;
        }
        let partitions = self.shared.names.partitions(list);
        let (unanswered, change) = if assigns {
            (Unanswered::Assign, Change::Assigned(partitions))
        } else if consumer.assignment_lost() {
            (Unanswered::Revoke(list.clone()), Change::Lost(partitions))
        } else {
            (Unanswered::Revoke(list.clone()), Change::Revoked(partitions))
        };
        *self.unanswered.lock().unwrap_or_else(PoisonError::into_inner) = Some(unanswered);
        // the receiver lives as long as the consumer that polls
        let _ = self.changes.send(change);
    }
}

type Native = StreamConsumer<Group>;

/// What is known of a partition that librdkafka reads for this member.
#[derive(Clone, Debug)]
struct Held {
    epoch: i64,
    lost: bool,
    /// The next record that is told; none before the first one of a partition that is read from wherever the log began.
    next_offset: Option<i64>,
    /// What the group had committed when it was taken up there.
    committed: Option<Committed>,
}

/// Where a partition is taken up.
type Resolved = (TopicPartition, Offset, Option<Committed>);

/// Why one is not, and what the group had committed there.
struct Refused {
    error: LogError,
    committed: Option<(TopicPartition, Committed)>,
}

impl From<LogError> for Refused {
    fn from(error: LogError) -> Self {
        Self { error, committed: None }
    }
}

/// What stands beside a committed offset. A broker hands out whatever bytes another program committed; the library panics over those
/// that are no text.
fn metadata(element: &TopicPartitionListElem<'_>) -> String {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| element.metadata().to_owned())).unwrap_or_default()
}

/// A member of a group on Kafka.
pub(super) struct KafkaConsumer {
    shared: Arc<Shared>,
    group: String,
    /// Taken when it is closed.
    native: Option<Arc<Native>>,
    changes: mpsc::UnboundedReceiver<Change>,
    held: BTreeMap<TopicPartition, Held>,
    paused: BTreeSet<TopicPartition>,
    /// What the group had committed at a place that the log has lost, so that it was not taken up there.
    refused: BTreeMap<TopicPartition, Committed>,
    /// What went wrong after records that are told first.
    failure: Option<KafkaError>,
    /// Partitions whose next record is gone, to be told one by one.
    gaps: VecDeque<LogError>,
    epochs: i64,
}

impl KafkaConsumer {
    /// Joins the group of one topic. `beside`: how many members of this process share what may be fetched ahead.
    pub(super) fn join(shared: Arc<Shared>, group: &str, topic: Topic, beside: usize) -> Result<Self, LogError> {
        let (sender, changes) = mpsc::unbounded_channel();
        let context =
            Group { shared: Arc::clone(&shared), changes: sender, unanswered: Mutex::new(None), closing: AtomicBool::new(false) };
        let native: Native = shared
            .properties
            .consumer(&shared.names.group_of(group, topic), beside, Haste::of(topic))
            .create_with_context(context)
            .map_err(|error| log_error("open a consumer", &error))?;
        let consumer = Self {
            group: group.to_owned(),
            native: Some(Arc::new(native)),
            changes,
            held: BTreeMap::new(),
            paused: BTreeSet::new(),
            refused: BTreeMap::new(),
            failure: None,
            gaps: VecDeque::new(),
            epochs: 0,
            shared: Arc::clone(&shared),
        };
        consumer.native()?.subscribe(&[shared.names.of(topic)]).map_err(|error| log_error("subscribe", &error))?;
        Ok(consumer)
    }

    fn native(&self) -> Result<Arc<Native>, LogError> {
        self.native.clone().ok_or_else(|| LogError::Fatal("the consumer is closed".to_owned()))
    }

    fn answered(native: &Native) {
        *native.context().unanswered.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn told(&mut self, change: Change) -> ConsumerEvent {
        match change {
            Change::Assigned(partitions) => ConsumerEvent::Assigned(partitions),
            Change::Revoked(partitions) => ConsumerEvent::Revoked(partitions),
            Change::Lost(partitions) => {
                for partition in &partitions {
                    if let Some(held) = self.held.get_mut(partition) {
                        held.lost = true;
                    }
                }
                ConsumerEvent::Lost(partitions)
            }
        }
    }

    /// What an error between records means: what is to be told, which is nothing where librdkafka mends it itself.
    ///
    /// # Errors
    /// Of a log that cannot be asked now: to be judged again.
    async fn judge(&self, error: KafkaError) -> Result<Vec<LogError>, LogError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                let gaps = self.find_gaps().await?;
                if gaps.is_empty() && self.held.values().any(|held| held.next_offset.is_none()) {
                    return Ok(vec![log_error("read", &error)]);
                }
                // Where there is none, the partition was moved or let go while the error was on its way.
                Ok(gaps)
            }
            // it is followed by the loss of the assignment
            Some(RDKafkaErrorCode::PollExceeded) => {
                tracing::warn!("this member was away for longer than max.poll.interval.ms");
                Ok(Vec::new())
            }
            _ => match log_error("read", &error) {
                fatal @ LogError::Fatal(_) => Ok(vec![fatal]),
                _ => {
                    tracing::warn!(%error, "kafka consumer");
                    Ok(Vec::new())
                }
            },
        }
    }

    /// The partitions whose next record is gone: the error that librdkafka gives names none, and there is one error for each.
    async fn find_gaps(&self) -> Result<Vec<LogError>, LogError> {
        let shared = Arc::clone(&self.shared);
        let places: Vec<_> = self.held.iter().filter_map(|(partition, held)| Some((*partition, held.next_offset?))).collect();
        detached(move || {
            let mut gaps = Vec::new();
            for (partition, wanted) in places {
                match shared.check_start(partition, wanted) {
                    Ok(_) => {}
                    Err(away @ LogError::Transient(_)) => return Err(away),
                    Err(gap) => gaps.push(gap),
                }
            }
            Ok(gaps)
        })
        .await?
    }

    /// The next gap of a partition that still stands before it.
    fn next_gap(&mut self) -> Option<LogError> {
        let stands = |held: &BTreeMap<TopicPartition, Held>, gap: &LogError| match gap {
            LogError::BelowLogStart { source_partition, wanted, .. } => {
                held.get(source_partition).is_some_and(|held| held.next_offset == Some(*wanted))
            }
            _ => true,
        };
        std::iter::from_fn(|| self.gaps.pop_front()).find(|gap| stands(&self.held, gap))
    }

    /// Resolves each start to an offset that exists, and says what the group had committed where that is the start.
    async fn resolve(&self, starts: &[(TopicPartition, Start)]) -> Result<Vec<Resolved>, Refused> {
        let native = self.native()?;
        let shared = Arc::clone(&self.shared);
        let starts = starts.to_vec();
        detached(move || {
            let committed = starts.iter().filter(|(_, start)| *start == Start::Committed).map(|(partition, _)| partition);
            let asked = shared.names.list(committed);
            let committed = if asked.count() == 0 {
                asked
            } else {
                native.committed_offsets(asked, REQUEST_TIMEOUT).map_err(|e| log_error("ask for committed offsets", &e))?
            };
            let mut resolved = Vec::with_capacity(starts.len());
            for (partition, start) in starts {
                let (offset, metadata) = match start {
                    Start::Offset(offset) => (Offset::Offset(offset), None),
                    Start::Committed => {
                        let found = committed.find_partition(shared.names.of(partition.topic), partition.partition);
                        let found =
                            found.ok_or_else(|| LogError::Transient(format!("no committed offset of {partition} was told")))?;
                        found.error().map_err(|e| log_error(&format!("ask for the committed offset of {partition}"), &e))?;
                        match found.offset() {
                            Offset::Offset(offset) => (Offset::Offset(offset), Some(metadata(&found))),
                            _ => (Offset::Beginning, None),
                        }
                    }
                };
                resolved.push((partition, offset, metadata));
            }
            let mut checked = Vec::with_capacity(resolved.len());
            for part in resolved.chunks(ASKING) {
                std::thread::scope(|scope| {
                    let asking: Vec<_> = part
                        .iter()
                        .map(|(partition, offset, metadata)| {
                            let shared = &shared;
                            scope.spawn(move || {
                                let Offset::Offset(wanted) = *offset else { return Ok((*partition, *offset, None)) };
                                let span = shared.watermarks(*partition)?;
                                let committed =
                                    metadata.clone().map(|metadata| Committed { next_offset: wanted, metadata, log_end: span.1 });
                                match check_place(*partition, wanted, span) {
                                    Ok(()) => Ok((*partition, *offset, committed)),
                                    Err(error) => {
                                        Err(Refused { error, committed: committed.map(|committed| (*partition, committed)) })
                                    }
                                }
                            })
                        })
                        .collect();
                    asking.into_iter().try_for_each(|asked| match asked.join() {
                        Ok(answer) => answer.map(|resolved| checked.push(resolved)),
                        Err(_) => Err(LogError::Fatal("a call to the Kafka library panicked".to_owned()).into()),
                    })
                })?;
            }
            Ok(checked)
        })
        .await?
    }

    fn offsets(&self, commits: &[Commit], with_metadata: bool) -> Result<Arc<TopicPartitionList>, LogError> {
        let mut list = TopicPartitionList::new();
        for Commit { partition, next_offset, metadata } in commits {
            let mut element = list.add_partition(self.shared.names.of(partition.topic), partition.partition);
            element
                .set_offset(Offset::Offset(*next_offset))
                .map_err(|error| log_error(&format!("commit {partition}"), &error))?;
            if with_metadata && !metadata.is_empty() {
                element.set_metadata(metadata);
            }
        }
        Ok(Arc::new(list))
    }

    /// Leaves the group on a thread of its own. The receiver learns when it is done.
    fn dispose(&mut self) -> Option<tokio::sync::oneshot::Receiver<()>> {
        let mut native = self.native.take()?;
        let (done, finished) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            native.context().closing.store(true, Ordering::Release);
            let unanswered = native.context().unanswered.lock().unwrap_or_else(PoisonError::into_inner).take();
            let answered = match unanswered {
                None => Ok(()),
                Some(Unanswered::Assign) => native.incremental_assign(&TopicPartitionList::new()),
                Some(Unanswered::Revoke(list)) => native.incremental_unassign(&list),
            };
            if let Err(error) = answered {
                tracing::debug!(%error, "leaving the group");
            }
            // a call whose future was dropped may still be using it
            let native = loop {
                match Arc::try_unwrap(native) {
                    Ok(native) => break native,
                    Err(shared) => native = shared,
                }
                #[allow(clippy::disallowed_methods, reason = "this thread is its own, not the runtime's")]
                std::thread::sleep(Duration::from_millis(5));
            };
            drop(native);
            let _ = done.send(());
        });
        Some(finished)
    }
}

#[async_trait]
impl Consumer for KafkaConsumer {
    async fn next(&mut self) -> Result<ConsumerEvent, LogError> {
        let native = self.native()?;
        loop {
            if let Some(gap) = self.next_gap() {
                return Err(gap);
            }
            if let Some(error) = self.failure.clone() {
                let found = self.judge(error).await?;
                self.failure = None;
                self.gaps.extend(found);
                continue;
            }
            let mut records: Vec<LogRecord> = Vec::new();
            let mut bytes = 0;
            let mut stream = native.stream();
            let first = tokio::select! {
                // Changes first: they are told before records that came after them.
                biased;
                Some(change) = self.changes.recv() => {
                    drop(stream);
                    return Ok(self.told(change));
                }
                first = stream.next() => first,
            };
            let mut polled = first;
            // From here to the return nothing waits, so nothing that was taken can be lost by a dropped future.
            while let Some(message) = polled {
                match message {
                    Ok(message) => {
                        if let Some(record) = self.shared.names.record(&message) {
                            bytes += record.bytes();
                            records.push(record);
                        }
                    }
                    Err(error) => {
                        self.failure = Some(error);
                        break;
                    }
                }
                if records.len() >= MAX_RECORDS || bytes >= MAX_BYTES {
                    break;
                }
                polled = stream.next().now_or_never().flatten();
            }
            for of_one in records.chunk_by(|one, next| one.source == next.source) {
                if let Some(last) = of_one.last()
                    && let Some(held) = self.held.get_mut(&last.source)
                {
                    held.next_offset = Some(last.offset + 1);
                }
            }
            if !records.is_empty() {
                return Ok(ConsumerEvent::Records(records));
            }
        }
    }

    async fn assign(&mut self, starts: &[(TopicPartition, Start)]) -> Result<(), LogError> {
        let native = self.native()?;
        for (partition, _) in starts {
            self.refused.remove(partition);
        }
        let resolved = match self.resolve(starts).await {
            Ok(resolved) => resolved,
            Err(Refused { error, committed }) => {
                self.refused.extend(committed);
                return Err(error);
            }
        };
        let moved: Vec<TopicPartition> = starts.iter().map(|(p, _)| *p).filter(|p| self.held.contains_key(p)).collect();
        let (mut list, mut moving) = (TopicPartitionList::new(), TopicPartitionList::new());
        for (partition, offset, _) in &resolved {
            let list = if moved.contains(partition) { &mut moving } else { &mut list };
            list.add_partition_offset(self.shared.names.of(partition.topic), partition.partition, *offset)
                .map_err(|error| log_error(&format!("assign {partition}"), &error))?;
        }
        // One that is held already is moved by a seek, which drops what is on its way from the old place. Letting go of it and taking
        // it anew would be an answer to the group, and a wrong one to a change that waits to be told.
        if moving.count() > 0 {
            let seeking = Arc::clone(&native);
            let sought = detached(move || seeking.seek_partitions(moving, REQUEST_TIMEOUT)).await?;
            let sought = sought.map_err(|error| log_error("move", &error))?;
            for element in sought.elements() {
                element.error().map_err(|error| log_error(&format!("move {}", element.topic()), &error))?;
            }
        }
        if list.count() > 0 {
            native.incremental_assign(&list).map_err(|error| log_error("assign", &error))?;
            Self::answered(&native);
        }
        // librdkafka remembers a pause beyond the assignment that it was for; one that is moved stays paused
        let paused: Vec<TopicPartition> = starts.iter().map(|(p, _)| *p).filter(|p| self.paused.contains(p)).collect();
        let (stay, flow): (Vec<_>, Vec<_>) = paused.into_iter().partition(|p| moved.contains(p));
        if !stay.is_empty() {
            native.pause(&self.shared.names.list(&stay)).map_err(|error| log_error("pause", &error))?;
        }
        if !flow.is_empty() {
            native.resume(&self.shared.names.list(&flow)).map_err(|error| log_error("resume", &error))?;
            flow.iter().for_each(|partition| {
                self.paused.remove(partition);
            });
        }
        self.epochs += 1;
        for (partition, offset, committed) in resolved {
            let next_offset = if let Offset::Offset(next) = offset { Some(next) } else { None };
            self.held.insert(partition, Held { epoch: self.epochs, lost: false, next_offset, committed });
        }
        Ok(())
    }

    async fn unassign(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        let native = self.native()?;
        // librdkafka refuses what it does not read, such as partitions that were never answered
        let held: Vec<TopicPartition> = partitions.iter().copied().filter(|p| self.held.contains_key(p)).collect();
        native.incremental_unassign(&self.shared.names.list(&held)).map_err(|error| log_error("unassign", &error))?;
        Self::answered(&native);
        for partition in &held {
            self.held.remove(partition);
        }
        for partition in partitions {
            self.refused.remove(partition);
        }
        Ok(())
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        let held: Vec<TopicPartition> = partitions.iter().copied().filter(|p| self.held.contains_key(p)).collect();
        self.native()?.pause(&self.shared.names.list(&held)).map_err(|error| log_error("pause", &error))?;
        self.paused.extend(held);
        Ok(())
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        let held: Vec<TopicPartition> = partitions.iter().copied().filter(|p| self.held.contains_key(p)).collect();
        self.native()?.resume(&self.shared.names.list(&held)).map_err(|error| log_error("resume", &error))?;
        for partition in &held {
            self.paused.remove(partition);
        }
        Ok(())
    }

    fn committed(&self, partition: TopicPartition) -> Option<&Committed> {
        self.refused.get(&partition).or_else(|| self.held.get(&partition)?.committed.as_ref())
    }

    async fn commit(&mut self, commits: &[Commit]) -> Result<(), LogError> {
        let Some(first) = commits.first().map(|commit| commit.partition) else { return Ok(()) };
        // Kafka checks the member, not whether it still has the partition: that is checked here.
        let gone = commits.iter().map(|commit| commit.partition).find(|p| self.held.get(p).is_none_or(|held| held.lost));
        if let Some(gone) = gone {
            return Err(LogError::Fenced(gone));
        }
        let native = self.native()?;
        let mut list = self.offsets(commits, true)?;
        let until = tokio::time::Instant::now() + REQUEST_TIMEOUT;
        loop {
            if native.assignment_lost() {
                return Err(LogError::Fenced(first));
            }
            let (committer, offsets) = (Arc::clone(&native), Arc::clone(&list));
            let committing = detached(move || committer.commit(&offsets, CommitMode::Sync));
            let outcome = tokio::time::timeout_at(until, committing)
                .await
                .map_err(|_| LogError::Transient(format!("no answer to a commit within {} s", REQUEST_TIMEOUT.as_secs())))??;
            let Err(error) = outcome else { return Ok(()) };
            match error.rdkafka_error_code() {
                Some(code) if PASSING.contains(&code) && tokio::time::Instant::now() + COMMIT_PAUSE < until => {
                    tokio::time::sleep(COMMIT_PAUSE).await;
                }
                Some(code) if FENCED.contains(&code) => return Err(LogError::Fenced(first)),
                // The offsets matter; what stands beside them saves work.
                Some(RDKafkaErrorCode::OffsetMetadataTooLarge) if tokio::time::Instant::now() < until => {
                    tracing::warn!(
                        "the brokers refuse a commit's metadata as too large: what is finished out of order is done again after a \
                         restart; set offset.metadata.max.bytes to at least {}",
                        crate::finished::MAX_BYTES
                    );
                    list = self.offsets(commits, false)?;
                }
                _ => return Err(log_error("commit", &error)),
            }
        }
    }

    fn fence(&self, partition: TopicPartition) -> Option<Fence> {
        let held = self.held.get(&partition).filter(|held| !held.lost)?;
        Some(Fence { group: self.group.clone(), source: partition, epoch: held.epoch })
    }

    async fn close(mut self: Box<Self>, deadline: Duration) {
        if let Some(finished) = self.dispose()
            && tokio::time::timeout(deadline, finished).await.is_err()
        {
            tracing::warn!(group = self.group, "the kafka consumer did not leave its group in time");
        }
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.dispose();
    }
}
