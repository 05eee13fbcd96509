//! Appends through two idempotent producers: one for what somebody waits for, one for history.
//!
//! Records of one call, and of calls in the order in which they were first polled, enter their producer's queue in that order; its
//! idempotence keeps it per partition, and a topic's records all go by one. A full queue makes the caller wait, and everybody behind
//! it. Every record is answered exactly once: by its delivery report, or as unconfirmed where none can come any more.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use memori_schemas::ids::partition_of;
use rdkafka::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header as KafkaHeader, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::{Notify, oneshot};

use super::Shared;
use super::blocking::detached;
use super::config::{Haste, MAX_MESSAGE_BYTES};
use crate::seam::{AppendError, Fence, NewRecord, Position, Producer};
use crate::topic::TopicPartition;

/// What a record's frame in a batch of its own takes at most: a local refusal is cheaper than the broker's.
const FRAME_BYTES: usize = 1024;
/// A full queue is looked at again after this time even when no report came.
const QUEUE_RECHECK: Duration = Duration::from_millis(50);

type Outcome = Result<Position, AppendError>;

/// One call's records, as their reports come in.
struct Pending {
    outcomes: Mutex<Vec<Option<Outcome>>>,
    left: AtomicUsize,
    done: Notify,
}

impl Pending {
    fn settle(&self, index: usize, outcome: Outcome) {
        if let Some(slot) = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
            *slot = Some(outcome);
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }
}

/// Who waits for a record's report.
enum Waits {
    /// A call of several, for the record at that place.
    ForSeveral(Arc<Pending>, usize),
    /// A call of this one.
    ForOne(oneshot::Sender<Outcome>),
}

/// One record's place in its call. Settles it on drop, so that a record that librdkafka forgets is not waited for.
pub(super) struct Ticket {
    waits: Option<Waits>,
    source: TopicPartition,
}

impl Ticket {
    fn new(waits: Waits, source: TopicPartition) -> Self {
        Self { waits: Some(waits), source }
    }

    fn settle(mut self, outcome: Outcome) {
        self.tell(outcome);
    }

    fn tell(&mut self, outcome: Outcome) {
        match self.waits.take() {
            Some(Waits::ForSeveral(pending, index)) => pending.settle(index, outcome),
            // Nobody is there any more who would want to know.
            Some(Waits::ForOne(answer)) => drop(answer.send(outcome)),
            None => {}
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.waits.is_some() {
            self.tell(Err(AppendError::Unconfirmed("the producer was closed".to_owned())));
        }
    }
}

/// Turns delivery reports into answers.
pub(super) struct Reports {
    /// A report means that the queue has room.
    room: Arc<Notify>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka producer");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, report: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        self.room.notify_waiters();
        let outcome = match report {
            // librdkafka reports a duplicate sequence number as delivered, at an invalid offset.
            Ok(message) => Ok(Position { source: ticket.source, offset: Some(message.offset()).filter(|offset| *offset >= 0) }),
            Err((error, _)) => Err(append_error(error)),
        };
        ticket.settle(outcome);
    }
}

/// librdkafka's producer. Its drop waits for its threads and for what it still has, so that is done elsewhere.
struct Native(Option<ThreadedProducer<Reports>>);

impl Deref for Native {
    type Target = ThreadedProducer<Reports>;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("it is taken on drop only")
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        let native = self.0.take();
        std::thread::spawn(move || drop(native));
    }
}

/// One producer's queue, and whose turn it is to fill it.
struct Line {
    shared: Arc<Shared>,
    haste: Haste,
    /// Held while a call's records enter the queue. Made when first wanted, and again where it has failed for good.
    turn: tokio::sync::Mutex<Option<Arc<Native>>>,
    room: Arc<Notify>,
}

impl Line {
    fn new(shared: &Arc<Shared>, haste: Haste) -> Self {
        Self { shared: Arc::clone(shared), haste, turn: tokio::sync::Mutex::default(), room: Arc::default() }
    }

    fn make(&self) -> Result<Arc<Native>, KafkaError> {
        let reports = Reports { room: Arc::clone(&self.room) };
        let native = ThreadedProducer::from_config_and_context(&self.shared.properties.producer(self.haste), reports)?;
        Ok(Arc::new(Native(Some(native))))
    }

    /// Puts one record into the queue, waiting for room.
    async fn enqueue(&self, turn: &mut Option<Arc<Native>>, record: &NewRecord, ticket: Ticket) {
        let partition = ticket.source.partition;
        let native = match turn {
            Some(native) => native,
            None => match self.make() {
                Ok(made) => turn.insert(made),
                Err(error) => return ticket.settle(Err(append_error(&error))),
            },
        };
        let mut next = BaseRecord::with_opaque_to(self.shared.names.of(record.topic), Box::new(ticket))
            .partition(partition)
            .key(record.key.as_ref())
            .payload(record.payload.as_ref())
            .headers(headers(record));
        // The first try waits for nobody; those behind it are registered before they try, so that a report in between is not missed.
        let mut room = None;
        let (error, back) = loop {
            match native.send(next) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    next = back;
                    if let Some(room) = room.take() {
                        let _ = tokio::time::timeout(QUEUE_RECHECK, room).await;
                    }
                    let mut waiting = Box::pin(self.room.notified());
                    waiting.as_mut().enable();
                    room = Some(waiting);
                }
                Err(broken) => break broken,
            }
        };
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.replace(native);
        }
        back.delivery_opaque.settle(Err(append_error(&error)));
    }

    /// A producer with a fatal error never works again; what it still had is reported as unconfirmed.
    fn replace(&self, native: &mut Arc<Native>) {
        match self.make() {
            Ok(fresh) => {
                tracing::error!(error = ?native.client().fatal_error(), "the kafka producer failed for good and is replaced");
                *native = fresh;
            }
            Err(error) => tracing::error!(%error, "the kafka producer failed for good and cannot be replaced yet"),
        }
    }
}

/// The log's producer.
pub(super) struct KafkaProducer {
    shared: Arc<Shared>,
    live: Line,
    history: Line,
}

impl KafkaProducer {
    pub(super) fn new(shared: Arc<Shared>) -> Result<Self, KafkaError> {
        let (mut live, history) = (Line::new(&shared, Haste::Live), Line::new(&shared, Haste::History));
        // What is wrong with the settings shows at the start.
        *live.turn.get_mut() = Some(live.make()?);
        Ok(Self { shared, live, history })
    }

    fn line(&self, haste: Haste) -> &Line {
        match haste {
            Haste::Live => &self.live,
            Haste::History => &self.history,
        }
    }

    /// Puts those of a call's records that are in such haste into their line.
    async fn append_in(&self, haste: Haste, records: &[NewRecord], pending: &Arc<Pending>) {
        if !records.iter().any(|record| Haste::of(record.topic) == haste) {
            return;
        }
        let line = self.line(haste);
        let mut turn = line.turn.lock().await;
        for (index, record) in records.iter().enumerate().filter(|(_, record)| Haste::of(record.topic) == haste) {
            match self.place(record).await {
                Ok(place) => {
                    let ticket = Ticket::new(Waits::ForSeveral(Arc::clone(pending), index), place);
                    line.enqueue(&mut turn, record, ticket).await;
                }
                Err(error) => pending.settle(index, Err(error)),
            }
        }
    }

    /// Where a record goes.
    async fn place(&self, record: &NewRecord) -> Result<TopicPartition, AppendError> {
        let bytes = record.key.len()
            + record.payload.len()
            + record.headers.iter().map(|h| h.name.len() + h.value.len() + 10).sum::<usize>();
        if bytes > MAX_MESSAGE_BYTES - FRAME_BYTES {
            return Err(AppendError::TooLarge(format!("{bytes} bytes of at most {MAX_MESSAGE_BYTES}")));
        }
        match self.shared.partition_count(record.topic).await {
            Ok(partitions) => Ok(TopicPartition { topic: record.topic, partition: partition_of(&record.key, partitions) }),
            Err(crate::seam::LogError::Transient(why)) => Err(AppendError::Unconfirmed(why)),
            Err(error) => Err(AppendError::Refused(error.to_string())),
        }
    }
}

#[async_trait]
impl Producer for KafkaProducer {
    /// Kafka fences by the group's generation when offsets are committed, so the fence is not looked at here.
    async fn append(&self, records: &[NewRecord], _fence: Option<&Fence>) -> Vec<Outcome> {
        let count = records.len();
        if count == 0 {
            return Vec::new();
        }
        let pending =
            Arc::new(Pending { outcomes: Mutex::new(vec![None; count]), left: AtomicUsize::new(count), done: Notify::new() });
        for haste in [Haste::Live, Haste::History] {
            self.append_in(haste, records, &pending).await;
        }
        pending.done.notified().await;
        let outcomes = std::mem::take(&mut *pending.outcomes.lock().unwrap_or_else(PoisonError::into_inner));
        outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(|| Err(AppendError::Unconfirmed("no delivery report".to_owned()))))
            .collect()
    }

    async fn append_one(&self, record: &NewRecord, _fence: Option<&Fence>) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let line = self.line(if record.is_late() { Haste::History } else { Haste::of(record.topic) });
        let mut turn = line.turn.lock().await;
        let place = self.place(record).await?;
        line.enqueue(&mut turn, record, Ticket::new(Waits::ForOne(answer), place)).await;
        drop(turn);
        answered.await.unwrap_or_else(|_| Err(AppendError::Unconfirmed("no delivery report".to_owned())))
    }

    async fn flush(&self, deadline: Duration) {
        let until = tokio::time::Instant::now() + deadline;
        let lines = [&self.live, &self.history].map(|line| async move {
            let Ok(turn) = tokio::time::timeout_at(until, line.turn.lock()).await else { return };
            let Some(native) = turn.as_ref().map(Arc::clone) else { return };
            drop(turn);
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            if let Ok(Err(error)) = detached(move || native.flush(left)).await {
                tracing::warn!(%error, "the kafka producer still has records that are not confirmed");
            }
        });
        futures::future::join_all(lines).await;
    }
}

fn headers(record: &NewRecord) -> OwnedHeaders {
    record.headers.iter().fold(OwnedHeaders::new_with_capacity(record.headers.len()), |headers, header| {
        headers.insert(KafkaHeader { key: &header.name, value: Some(header.value.as_ref()) })
    })
}

/// What a failed delivery means to the caller: whether a retry may help.
fn append_error(error: &KafkaError) -> AppendError {
    let said = error.to_string();
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge | RDKafkaErrorCode::InvalidMessageSize,
        ) => AppendError::TooLarge(said),
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::PolicyViolation
            | RDKafkaErrorCode::UnsupportedCompressionType
            | RDKafkaErrorCode::UnsupportedForMessageFormat,
        ) => AppendError::Refused(said),
        _ => AppendError::Unconfirmed(said),
    }
}
