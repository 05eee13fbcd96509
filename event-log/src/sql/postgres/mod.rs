//! The Postgres dialect: tables in the schema `memori` of a user's own database, with no extension and no special role.
//!
//! Each writing method is one transaction at READ COMMITTED that takes its locks in one fixed order: leases, then partitions, each
//! sorted. Times are the server's. An append that failed for a passing reason before its COMMIT is tried again for
//! [`RETRIED_FOR`]; one whose COMMIT got no answer is looked for first (see [`append`]).

mod append;
mod connection;
mod groups;
pub mod schema;
mod wake;

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr as _;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{Connection as _, PgPool, Row as _};
use tokio::sync::watch;
use uuid::Uuid;

use super::balance::{Holding, Turn};
use super::dialect::{AppendOutcome, AppendRequest, Dialect, Member, Span};
use super::{headers, missing, uncancelled};
use crate::backoff::Backoff;
use crate::seam::{Commit, LogError, LogIdentity, LogRecord};
use crate::topic::{Topic, TopicPartition};
use append::{Done, Failure, Placed};
use connection::{Lent, in_time, log_error};
use wake::Wakes;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");
/// Apart from the table of the store's migrations, which lives in the same schema.
const MIGRATIONS_TABLE: &str = "memori.log_migrations";
const SCHEMA: &str = "memori";
/// The log's tables in the schema that it shares with the store's view. Whoever drops the view leaves these alone: they are what it
/// is rebuilt from.
pub const TABLES: [&str; 9] = [
    "log_cluster",
    "log_group_offsets",
    "log_groups",
    "log_leases",
    "log_members",
    "log_migrations",
    "log_partitions",
    "log_records",
    "log_topics",
];
/// `log_records.place` is the partition's number shifted by this, plus the offset.
const OFFSET_BITS: u32 = 40;
/// How long an append is tried again before its callers are told that it is not confirmed.
const RETRIED_FOR: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LONGEST: Duration = Duration::from_secs(1);
/// Rows that one statement of [`Dialect::delete_before`] deletes at most.
const DELETE_ROWS: i64 = 20_000;

/// Records from a place on, up to a number of rows and of bytes; at least one where there is one. Sizes are known without reading
/// what they are the sizes of.
const READ: &str = "SELECT place, appended_at_ms, record_key, headers, payload FROM ( \
      SELECT *, sum(octet_length(record_key) + octet_length(payload)) OVER (ORDER BY place ROWS UNBOUNDED PRECEDING) \
          - octet_length(record_key) - octet_length(payload) AS before \
        FROM (SELECT * FROM memori.log_records WHERE place >= $1 AND place < $2 ORDER BY place LIMIT $3) AS nearest \
    ) AS measured WHERE before < $4 ORDER BY place";

pub(super) struct PostgresDialect {
    options: PgConnectOptions,
    pool: PgPool,
    wakes: Wakes,
    /// The partition count of every topic, once it is known: it never changes. 0 before.
    partitions: AtomicI32,
}

impl PostgresDialect {
    /// Understands the URL; connects when it is first used.
    pub(super) fn new(url: &str, connections: u32) -> Result<Self, LogError> {
        let options = options(url)?;
        let (pool, listening) = connection::pools(options.clone(), connections);
        let wakes = Wakes::start(pool.clone(), listening);
        Ok(Self { options, pool, wakes, partitions: AtomicI32::new(0) })
    }

    async fn partitions(&self) -> Result<i32, LogError> {
        match self.partitions.load(Ordering::Relaxed) {
            0 => Ok(self.identity().await?.partitions),
            known => Ok(known),
        }
    }

    /// What a statement that may be run twice answers. Connections that rested while the server was restarted are found out by their
    /// first use, so one that fails is followed by one that has just answered.
    async fn fetch<'q>(&self, query: impl Fn() -> PgQuery<'q> + Send) -> Result<Vec<PgRow>, LogError> {
        match in_time(fetch_on(Lent::from(&self.pool).await?, query())).await {
            Err(LogError::Transient(_)) => in_time(fetch_on(Lent::answering(&self.pool).await?, query())).await,
            fetched => fetched,
        }
    }
}

type PgQuery<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

async fn fetch_on(mut lent: Lent, query: PgQuery<'_>) -> Result<Vec<PgRow>, LogError> {
    let rows = query.fetch_all(&mut *lent).await.map_err(log_error)?;
    lent.give_back();
    Ok(rows)
}

fn options(url: &str) -> Result<PgConnectOptions, LogError> {
    // An error of the URL's syntax may quote it, password and all.
    let options = PgConnectOptions::from_str(url).map_err(|_| {
        LogError::Fatal(
            "the database's url cannot be used: it must be postgres://user:password@host:port/database?sslmode=…".to_owned(),
        )
    })?;
    Ok(options.application_name("memori-log"))
}

fn source(row: &PgRow) -> Result<TopicPartition, LogError> {
    let name: &str = row.try_get("topic").map_err(log_error)?;
    let topic = Topic::parse(name)
        .ok_or_else(|| LogError::Fatal(format!("the log has a topic {name:?} that this version does not know: upgrade first")))?;
    Ok(TopicPartition { topic, partition: row.try_get("log_partition").map_err(log_error)? })
}

async fn migrate(options: PgConnectOptions) -> Result<(), LogError> {
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    // One transaction under a lock of its own: the migrator's would belong to a session.
    migrator.set_locking(false);
    let mut connection = connection::connect(&options).await?;
    let mut tx = connection.begin().await.map_err(log_error)?;
    schema::prepare(&mut tx, &[SCHEMA]).await?;
    migrator.run_direct(None, &mut *tx, false).await.map_err(|e| match e {
        MigrateError::VersionMissing(version) => {
            LogError::Fatal(format!("the log was made by a newer version (migration {version} is unknown here): upgrade first"))
        }
        MigrateError::Execute(e) => log_error(e),
        e => LogError::Fatal(format!("migrating the log: {e}")),
    })?;
    sqlx::query("INSERT INTO memori.log_cluster (one, cluster_id) VALUES (1, $1) ON CONFLICT DO NOTHING")
        .bind(Uuid::new_v4().to_string())
        .execute(&mut *tx)
        .await
        .map_err(log_error)?;
    tx.commit().await.map_err(log_error)?;
    connection.close().await.map_err(log_error)
}

#[async_trait]
impl Dialect for PostgresDialect {
    async fn migrate(&self) -> Result<(), LogError> {
        uncancelled(migrate(self.options.clone())).await
    }

    async fn forget_members(&self, instance: Option<&str>) -> Result<(), LogError> {
        in_time(groups::forget(&self.pool, instance.unwrap_or_default())).await?;
        self.wakes.groups_changed();
        Ok(())
    }

    async fn create_topics(&self, partitions: i32) -> Result<(), LogError> {
        in_time(async {
            let mut lent = Lent::begin(&self.pool).await?;
            // One at a time: a second caller finds them made.
            sqlx::query("SELECT FROM memori.log_cluster FOR UPDATE").execute(&mut *lent).await.map_err(log_error)?;
            let present: Vec<(String, i32)> =
                sqlx::query_as("SELECT topic, partitions FROM memori.log_topics").fetch_all(&mut *lent).await.map_err(log_error)?;
            let present: HashMap<&str, i32> = present.iter().map(|(topic, partitions)| (topic.as_str(), *partitions)).collect();
            for topic in Topic::ALL {
                match present.get(topic.as_str()) {
                    Some(present) if *present == partitions => {}
                    Some(present) => {
                        lent.rollback().await;
                        return Err(LogError::Fatal(format!(
                            "{topic} has {present} partitions, not {partitions}: the count is fixed when the topics are made; set it to {present}"
                        )));
                    }
                    None => {
                        sqlx::query(
                            "WITH made AS (INSERT INTO memori.log_topics (topic, topic_id, partitions) VALUES ($1, $2, $3)) \
                             INSERT INTO memori.log_partitions (topic, log_partition, start_offset, end_offset) \
                             SELECT $1, n, 0, 0 FROM generate_series(0, $3 - 1) AS n",
                        )
                        .bind(topic.as_str())
                        .bind(Uuid::new_v4().to_string())
                        .bind(partitions)
                        .execute(&mut *lent)
                        .await
                        .map_err(log_error)?;
                    }
                }
            }
            lent.commit().await.map_err(log_error)
        })
        .await
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        let rows = self
            .fetch(|| {
                sqlx::query(
                    "SELECT c.cluster_id, t.topic, t.topic_id, t.partitions FROM memori.log_cluster c CROSS JOIN memori.log_topics t",
                )
            })
            .await?;
        let (mut named, mut topic_ids) = (None, BTreeMap::new());
        for row in rows {
            if let Some(topic) = Topic::parse(row.get("topic")) {
                topic_ids.insert(topic, row.get("topic_id"));
                named = Some((row.get("cluster_id"), row.get("partitions")));
            }
        }
        match named {
            Some((cluster_id, partitions)) if topic_ids.len() == Topic::ALL.len() => {
                self.partitions.store(partitions, Ordering::Relaxed);
                Ok(LogIdentity { cluster_id, topic_ids, partitions })
            }
            _ => Err(LogError::Fatal("the log has no topics yet: create them first".to_owned())),
        }
    }

    async fn append(&self, requests: &[AppendRequest]) -> Result<Vec<AppendOutcome>, LogError> {
        let began = Instant::now();
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        let mut earlier: Option<Placed> = None;
        loop {
            let partitions = self.partitions().await?;
            let attempt = append::attempt(&self.pool, partitions, requests, earlier.as_ref());
            // Cut off, it may have written what nobody looks for any more: that is the end of trying.
            let attempted = match tokio::time::timeout(connection::OVERDUE, attempt).await {
                Ok(attempted) => attempted,
                Err(_) => return Err(connection::overdue()),
            };
            let error = match attempted {
                Ok(done) => {
                    let outcomes = match (&done, &earlier) {
                        (Done::Now(placed), _) | (Done::Before, Some(placed)) => placed.outcomes(requests),
                        (Done::Before, None) => return Err(LogError::Fatal("an append was found that was not made".to_owned())),
                    };
                    self.wakes.appended();
                    return Ok(outcomes);
                }
                Err(Failure::Nothing(error)) => error,
                Err(Failure::Unknown(error, placed)) => {
                    earlier = Some(placed);
                    error
                }
            };
            if !matches!(error, LogError::Transient(_)) || began.elapsed() > RETRIED_FOR {
                return Err(error);
            }
            tracing::warn!(%error, "an append failed; it is tried again");
            tokio::time::sleep(backoff.next(rand::random())).await;
        }
    }

    fn appended(&self) -> watch::Receiver<u64> {
        self.wakes.on_append()
    }

    fn groups_changed(&self) -> watch::Receiver<u64> {
        self.wakes.on_change()
    }

    async fn spans(&self, topics: &[Topic]) -> Result<Vec<Span>, LogError> {
        let names: Vec<&str> = topics.iter().map(|topic| topic.as_str()).collect();
        let query = || {
            sqlx::query(
                "SELECT id::int8, topic, log_partition, start_offset, end_offset FROM memori.log_partitions WHERE topic = ANY($1)",
            )
            .bind(names.clone())
        };
        let rows = self.fetch(query).await?;
        let span = |row: &PgRow| {
            Ok(Span { partition: source(row)?, id: row.get("id"), start: row.get("start_offset"), end: row.get("end_offset") })
        };
        rows.iter().map(span).collect()
    }

    async fn read(&self, span: &Span, offset: i64, max_records: usize, max_bytes: usize) -> Result<Vec<LogRecord>, LogError> {
        let (partition, base) = (span.partition, span.id << OFFSET_BITS);
        let query = || {
            sqlx::query(READ)
                .bind(base + offset)
                .bind(base + (1 << OFFSET_BITS))
                .bind(i64::try_from(max_records).unwrap_or(i64::MAX))
                .bind(i64::try_from(max_bytes).unwrap_or(i64::MAX))
        };
        let record = |row: PgRow| {
            Ok(LogRecord {
                source: partition,
                offset: row.get::<i64, _>("place") - base,
                appended_at_ms: row.get("appended_at_ms"),
                key: Bytes::from(row.get::<Vec<u8>, _>("record_key")),
                payload: Bytes::from(row.get::<Vec<u8>, _>("payload")),
                headers: headers::decode(row.get("headers"))
                    .map_err(|e| LogError::Fatal(format!("a record of {partition}: {e}")))?,
            })
        };
        self.fetch(query).await?.into_iter().map(record).collect()
    }

    async fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<(i64, String)>>, LogError> {
        let query = || {
            sqlx::query("SELECT topic, log_partition, next_offset, metadata FROM memori.log_group_offsets WHERE group_name = $1")
                .bind(group)
        };
        let mut committed = HashMap::new();
        for row in self.fetch(query).await? {
            committed.insert(source(&row)?, (row.get("next_offset"), row.get("metadata")));
        }
        Ok(partitions.iter().map(|partition| committed.remove(partition)).collect())
    }

    async fn commit(&self, group: &str, commits: &[(Commit, i64)]) -> Result<Vec<TopicPartition>, LogError> {
        in_time(groups::commit(&self.pool, group, commits)).await
    }

    async fn turn(&self, member: &Member, holdings: &[Holding]) -> Result<Turn, LogError> {
        let (turn, changed) = in_time(groups::turn(&self.pool, member, holdings)).await?;
        if changed {
            self.wakes.groups_changed();
        }
        Ok(turn)
    }

    async fn release(&self, member: &Member, leases: &[(TopicPartition, i64)]) -> Result<(), LogError> {
        in_time(groups::release(&self.pool, member, leases)).await?;
        self.wakes.groups_changed();
        Ok(())
    }

    async fn leave(&self, member: &Member) -> Result<(), LogError> {
        in_time(groups::leave(&self.pool, member)).await?;
        self.wakes.groups_changed();
        Ok(())
    }

    async fn delete_before(&self, partition: TopicPartition, offset: i64) -> Result<i64, LogError> {
        // The start moves first, so that nobody is served what is about to go; then rows go, some at a time, and whatever a run that
        // broke off has left goes with the next.
        let moved = || {
            sqlx::query(
                "UPDATE memori.log_partitions SET start_offset = greatest(start_offset, least($1, end_offset)) \
                 WHERE topic = $2 AND log_partition = $3 RETURNING id::int8, start_offset",
            )
            .bind(offset)
            .bind(partition.topic.as_str())
            .bind(partition.partition)
        };
        let moved = self.fetch(moved).await?;
        let row = moved.first().ok_or_else(|| missing(partition))?;
        let (base, start) = (row.get::<i64, _>("id") << OFFSET_BITS, row.get::<i64, _>("start_offset"));
        loop {
            let delete = || {
                sqlx::query(
                    "WITH gone AS (DELETE FROM memori.log_records WHERE place IN \
                       (SELECT place FROM memori.log_records WHERE place >= $1 AND place < $2 ORDER BY place LIMIT $3) RETURNING 1) \
                     SELECT count(*) AS gone FROM gone",
                )
                .bind(base)
                .bind(base + start)
                .bind(DELETE_ROWS)
            };
            let rows = self.fetch(delete).await?;
            if rows.first().is_none_or(|row| row.get::<i64, _>("gone") < DELETE_ROWS) {
                return Ok(start);
            }
        }
    }
}
