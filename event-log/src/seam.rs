//! The seam that every provider of the log stands behind. The conformance suite holds each of them to it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::topic::{Topic, TopicPartition};

/// A record's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name, lower case.
    pub name: Cow<'static, str>,
    /// Its bytes.
    pub value: Bytes,
}

impl Header {
    /// The names that our own records bear: every record has some of them, so that a name is not to cost an allocation each time.
    const NAMES: [&'static str; 6] = ["tenant", "lane", "generation", "schema", "traceparent", "tracestate"];

    /// One that was read.
    #[must_use]
    pub fn read(name: &str, value: Bytes) -> Self {
        let ours = Self::NAMES.into_iter().find(|ours| *ours == name);
        Self { name: ours.map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed), value }
    }
}

/// A record to append. Its partition is murmur2 of `key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// Where to.
    pub topic: Topic,
    /// [`memori_schemas::ids::log_key`].
    pub key: Bytes,
    /// Framed bytes.
    pub payload: Bytes,
    /// Trace context, tenant, lane, generation, fingerprint, [`LATE`].
    pub headers: Vec<Header>,
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Where it stands.
    pub source: TopicPartition,
    /// Its offset there.
    pub offset: i64,
    /// When the log took it, milliseconds since 1970.
    pub appended_at_ms: i64,
    /// Its key.
    pub key: Bytes,
    /// Framed bytes.
    pub payload: Bytes,
    /// Its headers.
    pub headers: Vec<Header>,
}

/// The header of a record that says what somebody has waited for a second for, or nobody waits for: on its way it may wait a twentieth more,
/// in company.
pub const LATE: &str = "late";

impl NewRecord {
    /// Whether it has the header [`LATE`].
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.headers.iter().any(|header| header.name == LATE)
    }
}

impl LogRecord {
    /// Whether it has the header [`LATE`].
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.header(LATE).is_some()
    }

    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|h| h.name == name).map(|h| h.value.as_ref())
    }

    /// What it counts for in a budget of bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.key.len() + self.payload.len()
    }
}

/// Where an appended record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Topic and partition.
    pub source: TopicPartition,
    /// Offset; `None` where the log has the record for certain but no longer knows where: a retry found that an earlier try, whose
    /// answer was lost, had appended it.
    pub offset: Option<i64>,
}

/// The right to append results of, and to commit, one partition: checked inside the log's own transaction where the log can
/// (SQL: a lease's epoch), and carried but unused where the log fences otherwise (Kafka: the group's generation).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The consumer group.
    pub group: String,
    /// The partition whose work this is.
    pub source: TopicPartition,
    /// The lease's epoch at the provider.
    pub epoch: i64,
}

/// Where to start reading an assigned partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the group's committed offset, else at the log's start.
    Committed,
    /// At this offset. One below the log's start is [`LogError::BelowLogStart`], never a reset.
    Offset(i64),
}

/// How far a group is in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Which partition.
    pub partition: TopicPartition,
    /// The offset of the next record to read.
    pub next_offset: i64,
    /// Text that stands beside it until the next commit, of at most [`crate::finished::MAX_BYTES`]. A log that refuses it for its
    /// length takes the offset without it.
    pub metadata: String,
}

impl Commit {
    /// With nothing beside it.
    #[must_use]
    pub fn at(partition: TopicPartition, next_offset: i64) -> Self {
        Self { partition, next_offset, metadata: String::new() }
    }
}

/// What a group had committed of a partition when it was assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The offset of the next record to read.
    pub next_offset: i64,
    /// What stood beside it, whoever wrote it; empty where nothing did.
    pub metadata: String,
    /// One past the log's last record at that time.
    pub log_end: i64,
}

/// Why a record was not appended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// No delivery report within the time, or the log is away. It may or may not have been appended.
    #[error("the log did not confirm the record: {0}")]
    Unconfirmed(String),
    /// It will never fit.
    #[error("the log refuses the record as too large: {0}")]
    TooLarge(String),
    /// It will never take it, however small it is: says why.
    #[error("the log will never take the record: {0}")]
    Unacceptable(String),
    /// The fence's lease has passed to another owner. Nothing was appended.
    #[error("the lease of {0} has passed to another owner")]
    Fenced(TopicPartition),
    /// The log refuses it for another reason that a retry does not mend.
    #[error("the log refuses the record: {0}")]
    Refused(String),
}

/// Why reading, committing or administration failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// It may work later.
    #[error("the log is not reachable: {0}")]
    Transient(String),
    /// The next record is gone. Halts the consumer.
    #[error(
        "{source_partition} starts at offset {log_start}, but {wanted} is wanted: records that were never read are gone; restore the log, or rebuild"
    )]
    BelowLogStart {
        /// Which partition.
        source_partition: TopicPartition,
        /// What is wanted.
        wanted: i64,
        /// What there is.
        log_start: i64,
    },
    /// Another owner has the partition. Its work is to be dropped.
    #[error("the lease of {0} has passed to another owner")]
    Fenced(TopicPartition),
    /// A broken set-up: says what to change.
    #[error("{0}")]
    Fatal(String),
}

/// What a consumer has to tell.
#[derive(Debug)]
pub enum ConsumerEvent {
    /// Answer with [`Consumer::assign`]; nothing of these flows before.
    Assigned(Vec<TopicPartition>),
    /// Drain, commit, then answer with [`Consumer::unassign`].
    Revoked(Vec<TopicPartition>),
    /// Already gone: drop their work, then answer with [`Consumer::unassign`].
    Lost(Vec<TopicPartition>),
    /// In order per partition.
    Records(Vec<LogRecord>),
}

/// Appends records.
#[async_trait]
pub trait Producer: Send + Sync {
    /// Appends in order per key; answers, in the order of `records`, once each is durable or has failed.
    /// With a fence the append fails as a whole when the lease has passed on.
    async fn append(&self, records: &[NewRecord], fence: Option<&Fence>) -> Vec<Result<Position, AppendError>>;

    /// [`Self::append`] of one record.
    async fn append_one(&self, record: &NewRecord, fence: Option<&Fence>) -> Result<Position, AppendError> {
        let answer = self.append(std::slice::from_ref(record), fence).await.pop();
        answer.unwrap_or_else(|| Err(AppendError::Unconfirmed("the log gave no answer".to_owned())))
    }

    /// Waits until everything handed over is settled, at most `deadline`.
    async fn flush(&self, deadline: Duration);
}

/// One member of a group.
#[async_trait]
pub trait Consumer: Send {
    /// The next happening. Cancel safe: dropping the future loses nothing.
    async fn next(&mut self) -> Result<ConsumerEvent, LogError>;

    /// Starts reading partitions of an [`ConsumerEvent::Assigned`]. One that is assigned already moves to the new start; records
    /// of its old position that were on their way are not delivered.
    async fn assign(&mut self, starts: &[(TopicPartition, Start)]) -> Result<(), LogError>;

    /// Lets go of partitions of a [`ConsumerEvent::Revoked`] or [`ConsumerEvent::Lost`].
    async fn unassign(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError>;

    /// Stops delivering records of these until [`Consumer::resume`]. Records already on their way may still come.
    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError>;

    /// Undoes [`Consumer::pause`].
    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError>;

    /// What the group had committed when [`Consumer::assign`] last took this partition up at [`Start::Committed`], or could not because
    /// the log has lost that place; none where that was nothing, or it was taken up elsewhere.
    fn committed(&self, partition: TopicPartition) -> Option<&Committed>;

    /// Commits, per partition, the offset of the next record to read and what stands beside it: both or neither.
    async fn commit(&mut self, commits: &[Commit]) -> Result<(), LogError>;

    /// The right to work on an assigned partition.
    fn fence(&self, partition: TopicPartition) -> Option<Fence>;

    /// Leaves the group, within `deadline`.
    async fn close(self: Box<Self>, deadline: Duration);
}

/// What names a log, for offset rows and dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The cluster.
    pub cluster_id: String,
    /// The id of each topic: a topic that was deleted and made again has another.
    pub topic_ids: BTreeMap<Topic, String>,
    /// The partition count of every topic.
    pub partitions: i32,
}

/// A log: Kafka, or tables of an SQL database.
#[async_trait]
pub trait Log: Send + Sync {
    /// The shared producer.
    fn producer(&self) -> std::sync::Arc<dyn Producer>;

    /// Joins a group.
    async fn subscribe(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Consumer>, LogError>;

    /// Makes the topics that are missing; idempotent. Another partition count than the present one is an error.
    async fn create_topics(&self, partitions: i32) -> Result<(), LogError>;

    /// Names the log. An error where topics are missing.
    async fn identity(&self) -> Result<LogIdentity, LogError>;

    /// (log start offset, end offset) of a partition.
    async fn watermarks(&self, partition: TopicPartition) -> Result<(i64, i64), LogError>;

    /// Up to `max_records` records from `offset` on, outside any group; fewer only where the log ends.
    async fn read(&self, partition: TopicPartition, offset: i64, max_records: usize) -> Result<Vec<LogRecord>, LogError>;
}
