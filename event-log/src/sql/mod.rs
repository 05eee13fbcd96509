//! The log as tables of an SQL database: the embedded provider.
//!
//! Promises: an append is answered once its transaction is durable; offsets are dense and in commit order, because a counter row
//! per partition moves in the appending transaction; partitions of a group are held by leases, and every fenced append and every
//! commit compares the lease's epoch in its own transaction, so a process that slept through its lease cannot write.
//!
//! What differs between databases stands behind [`dialect::Dialect`]; everything else here is written once.

mod appender;
mod balance;
mod consumer;
pub(crate) mod dialect;
mod headers;
mod membership;
pub mod postgres;
mod sqlite;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::seam::{Consumer, Log, LogError, LogIdentity, LogRecord, Producer};
use crate::sqlite::SqliteDatabase;
use crate::topic::{Topic, TopicPartition};
use appender::Appender;
use dialect::Dialect;

/// The largest payload, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = memori_schemas::framing::MAX_PAYLOAD_BYTES;

/// With no other process to look for, members and consumers are woken by their own; looking is for safety only.
const EXCLUSIVE_INTERVAL: Duration = Duration::from_secs(5);
const EXCLUSIVE_LEASE_TTL: Duration = Duration::from_secs(60);

/// How the SQL log behaves.
#[derive(Clone, Debug)]
pub struct SqlLogConfig {
    /// How long a lease outlives its last renewal. A member that is gone without a word is replaced after this.
    pub lease_ttl: Duration,
    /// How often a member looks at its group; leases are renewed after a third of their life.
    pub heartbeat: Duration,
    /// How often consumers look for records of other processes; those of this process wake them at once.
    pub poll_interval: Duration,
    /// The caller holds the database for itself, by a lock of its own: members that are recorded in it are dead, and their leases
    /// are free at once. The times above then grow, because nobody else is to be noticed.
    pub exclusive: bool,
    /// A name that nobody else has while the log is open, because the caller holds a lock of its own on whatever bears the name:
    /// members that are recorded under it are dead, and their leases are free at once.
    pub instance: Option<String>,
    /// Connections to a Postgres database, at most, beside the one that listens.
    pub connections: u32,
}

impl Default for SqlLogConfig {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(10),
            heartbeat: Duration::from_millis(500),
            poll_interval: Duration::from_millis(200),
            exclusive: false,
            instance: None,
            connections: 12,
        }
    }
}

/// The log in an SQL database.
pub struct SqlLog {
    dialect: Arc<dyn Dialect>,
    appender: Arc<Appender>,
    config: SqlLogConfig,
}

impl SqlLog {
    /// Opens the log in a SQLite file, migrating its tables. Call it inside a runtime: it starts the appending task.
    ///
    /// # Errors
    /// The database is not reachable, or its log was made by a newer version.
    pub async fn open(database: SqliteDatabase, config: SqlLogConfig) -> Result<Self, LogError> {
        Self::with_dialect(Arc::new(sqlite::SqliteDialect::new(database)), config).await
    }

    /// Opens the log in a Postgres database, `postgres://user:password@host:port/database?sslmode=…`, making its tables in the schema
    /// `memori`. Call it inside a runtime: it starts the appending task and those that wake.
    ///
    /// # Errors
    /// [`LogError::Transient`] where the server is away; [`LogError::Fatal`] where the URL, the rights, the server's version or the
    /// log's own do not do, with what to change.
    pub async fn open_postgres(url: &str, config: SqlLogConfig) -> Result<Self, LogError> {
        Self::with_dialect(Arc::new(postgres::PostgresDialect::new(url, config.connections)?), config).await
    }

    async fn with_dialect(dialect: Arc<dyn Dialect>, mut config: SqlLogConfig) -> Result<Self, LogError> {
        dialect.migrate().await?;
        if config.exclusive {
            dialect.forget_members(None).await?;
            config.poll_interval = config.poll_interval.max(EXCLUSIVE_INTERVAL);
            config.heartbeat = config.heartbeat.max(EXCLUSIVE_INTERVAL);
            config.lease_ttl = config.lease_ttl.max(EXCLUSIVE_LEASE_TTL);
        } else if let Some(instance) = &config.instance {
            dialect.forget_members(Some(&member_prefix(instance))).await?;
        }
        let appender = Arc::new(Appender::start(Arc::clone(&dialect)));
        Ok(Self { dialect, appender, config })
    }

    /// Frees at once what a process held that opened the log under this instance's name and is gone: the caller has its lock.
    ///
    /// # Errors
    /// The database is not reachable.
    pub async fn forget_instance(&self, instance: &str) -> Result<(), LogError> {
        let (dialect, prefix) = (Arc::clone(&self.dialect), member_prefix(instance));
        uncancelled(async move { dialect.forget_members(Some(&prefix)).await }).await
    }

    async fn span(&self, partition: TopicPartition) -> Result<dialect::Span, LogError> {
        let spans = self.dialect.spans(&[partition.topic]).await?;
        spans.into_iter().find(|span| span.partition == partition).ok_or_else(|| missing(partition))
    }

    /// Deletes the records of a partition below `offset`: its log then starts there, at its end at most. Answers the new start.
    ///
    /// # Errors
    /// The database is not reachable, or the topic is missing.
    pub async fn delete_before(&self, partition: TopicPartition, offset: i64) -> Result<i64, LogError> {
        let dialect = Arc::clone(&self.dialect);
        uncancelled(async move { dialect.delete_before(partition, offset).await }).await
    }
}

#[async_trait]
impl Log for SqlLog {
    fn producer(&self) -> Arc<dyn Producer> {
        self.appender.clone()
    }

    async fn subscribe(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Consumer>, LogError> {
        let partitions = self.dialect.identity().await?.partitions;
        Ok(Box::new(consumer::SqlConsumer::join(Arc::clone(&self.dialect), &self.config, group, topics, partitions)))
    }

    async fn create_topics(&self, partitions: i32) -> Result<(), LogError> {
        if partitions < 1 {
            return Err(LogError::Fatal(format!("a topic has at least one partition, not {partitions}")));
        }
        let dialect = Arc::clone(&self.dialect);
        uncancelled(async move { dialect.create_topics(partitions).await }).await
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        self.dialect.identity().await
    }

    async fn watermarks(&self, partition: TopicPartition) -> Result<(i64, i64), LogError> {
        let span = self.span(partition).await?;
        Ok((span.start, span.end))
    }

    async fn read(&self, partition: TopicPartition, offset: i64, max_records: usize) -> Result<Vec<LogRecord>, LogError> {
        let span = self.span(partition).await?;
        if offset < span.start {
            return Err(LogError::BelowLogStart { source_partition: partition, wanted: offset, log_start: span.start });
        }
        if offset >= span.end || max_records == 0 {
            return Ok(Vec::new());
        }
        self.dialect.read(&span, offset, max_records, usize::MAX).await
    }
}

/// What the ids of an instance's members begin with.
fn member_prefix(instance: &str) -> String {
    format!("{instance}/")
}

fn missing(partition: TopicPartition) -> LogError {
    LogError::Fatal(format!("the log has no {partition}: create the topics first"))
}

/// Runs a transaction in a task of its own, so that a caller who is dropped half way does not leave it open.
async fn uncancelled<T: Send + 'static>(
    transaction: impl Future<Output = Result<T, LogError>> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::spawn(transaction).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(e) => Err(LogError::Transient(format!("the runtime is shutting down: {e}"))),
    }
}
