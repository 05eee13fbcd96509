//! What an SQL database has to do for the log. Each method is one transaction (or one read); none may be dropped half way by its
//! caller, so the callers run them in tasks of their own.

use async_trait::async_trait;
use tokio::sync::watch;

use super::balance::{Holding, Turn};
use crate::seam::{Commit, Fence, LogError, LogIdentity, LogRecord, NewRecord};
use crate::topic::{Topic, TopicPartition};

/// What a partition holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) partition: TopicPartition,
    /// The database's own number for it.
    pub(crate) id: i64,
    /// The offset of the first record.
    pub(crate) start: i64,
    /// One past the last.
    pub(crate) end: i64,
}

/// One caller's records: all of them, or none where the fence does not hold.
#[derive(Debug)]
pub(crate) struct AppendRequest {
    pub(crate) records: Vec<NewRecord>,
    pub(crate) fence: Option<Fence>,
}

/// What became of an [`AppendRequest`].
#[derive(Debug)]
pub(crate) enum AppendOutcome {
    /// In the order of its records.
    Appended(Vec<(TopicPartition, i64)>),
    Fenced(TopicPartition),
}

/// One member of one group.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) group: String,
    pub(crate) id: String,
    pub(crate) topics: Vec<Topic>,
    /// The partition count of every topic.
    pub(crate) partitions: i32,
    pub(crate) lease_ttl_ms: i64,
}

#[async_trait]
pub(crate) trait Dialect: Send + Sync + 'static {
    /// Makes or upgrades the tables; safe beside other processes that do the same.
    async fn migrate(&self) -> Result<(), LogError>;

    /// Forgets the members of an instance, or all, and frees their leases.
    async fn forget_members(&self, instance: Option<&str>) -> Result<(), LogError>;

    async fn create_topics(&self, partitions: i32) -> Result<(), LogError>;

    async fn identity(&self) -> Result<LogIdentity, LogError>;

    /// One transaction for all; outcomes in the order of `requests`.
    async fn append(&self, requests: &[AppendRequest]) -> Result<Vec<AppendOutcome>, LogError>;

    /// Bumped after each append of this process.
    fn appended(&self) -> watch::Receiver<u64>;

    /// Bumped after each change of members or leases by this process.
    fn groups_changed(&self) -> watch::Receiver<u64>;

    async fn spans(&self, topics: &[Topic]) -> Result<Vec<Span>, LogError>;

    /// Records from `offset` on; at least one where there is one, then up to both limits.
    async fn read(&self, span: &Span, offset: i64, max_records: usize, max_bytes: usize) -> Result<Vec<LogRecord>, LogError>;

    /// The next offset and what stands beside it, in the order of `partitions`.
    async fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<(i64, String)>>, LogError>;

    /// Commits, each under its lease's epoch; those whose epoch is no longer the lease's are left out and named.
    async fn commit(&self, group: &str, commits: &[(Commit, i64)]) -> Result<Vec<TopicPartition>, LogError>;

    /// A member's turn: looks at its group, decides by [`super::balance::decide`], and writes what was decided.
    async fn turn(&self, member: &Member, holdings: &[Holding]) -> Result<Turn, LogError>;

    /// Gives leases (partition, epoch) back; a newer epoch is left alone.
    async fn release(&self, member: &Member, leases: &[(TopicPartition, i64)]) -> Result<(), LogError>;

    /// Forgets the member and frees its leases.
    async fn leave(&self, member: &Member) -> Result<(), LogError>;

    async fn delete_before(&self, partition: TopicPartition, offset: i64) -> Result<i64, LogError>;
}
