//! The SQLite dialect. Each writing method is one `BEGIN IMMEDIATE` transaction on the one writing connection.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite, Transaction};
use tokio::sync::watch;
use uuid::Uuid;

use super::balance::{Holding, LeaseRow, MemberRow, Stage, Turn, decide};
use super::dialect::{AppendOutcome, AppendRequest, Dialect, Member, Span};
use super::headers;
use super::missing;
use crate::seam::{Commit, LogError, LogIdentity, LogRecord, NewRecord};
use crate::sqlite::SqliteDatabase;
use crate::topic::{Topic, TopicPartition};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");
/// Apart from the table of the store's migrations, which may live in the same file.
const MIGRATIONS_TABLE: &str = "log_migrations";
/// `log_records.place` is the partition's row id shifted by this, plus the offset.
const OFFSET_BITS: u32 = 40;
/// Rows per INSERT: few statement texts, so that the prepared ones are found again.
const INSERT_ROWS: [usize; 3] = [64, 8, 1];

pub(super) struct SqliteDialect {
    database: SqliteDatabase,
}

impl SqliteDialect {
    pub(super) fn new(database: SqliteDatabase) -> Self {
        Self { database }
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, LogError> {
        self.database.writes().begin_with("BEGIN IMMEDIATE").await.map_err(log_error)
    }
}

fn now_ms() -> i64 {
    memori_schemas::Micros::now().0.div_euclid(1_000)
}

/// Which failures may pass: a locked or full database, an I/O error, a pool that is out of connections.
#[expect(clippy::needless_pass_by_value, reason = "used as a function in map_err")]
fn log_error(error: sqlx::Error) -> LogError {
    /// SQLITE_BUSY, SQLITE_LOCKED, SQLITE_INTERRUPT, SQLITE_IOERR, SQLITE_FULL: the low byte of an extended code.
    const PASSING: [i32; 5] = [5, 6, 9, 10, 13];
    let message = format!("the log's database: {error}");
    match &error {
        sqlx::Error::Database(e) => {
            let code = e.code().and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff);
            if code.is_some_and(|code| PASSING.contains(&code)) { LogError::Transient(message) } else { LogError::Fatal(message) }
        }
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            LogError::Transient(message)
        }
        _ => LogError::Fatal(message),
    }
}

fn source(row: &SqliteRow) -> Result<TopicPartition, LogError> {
    let name: &str = row.try_get("topic").map_err(log_error)?;
    let topic = Topic::parse(name)
        .ok_or_else(|| LogError::Fatal(format!("the log has a topic {name:?} that this version does not know: upgrade first")))?;
    Ok(TopicPartition { topic, partition: row.try_get("log_partition").map_err(log_error)? })
}

#[async_trait]
impl Dialect for SqliteDialect {
    async fn migrate(&self) -> Result<(), LogError> {
        let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
        migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
        // In one immediate transaction, because the migrator itself takes no lock on SQLite.
        let mut tx = self.begin().await?;
        migrator.run_direct(None, &mut *tx, false).await.map_err(|e| match e {
            MigrateError::VersionMissing(version) => LogError::Fatal(format!(
                "the log was made by a newer version (migration {version} is unknown here): upgrade first"
            )),
            e => LogError::Fatal(format!("migrating the log: {e}")),
        })?;
        sqlx::query("INSERT INTO log_cluster (one, cluster_id) VALUES (1, ?) ON CONFLICT DO NOTHING")
            .bind(Uuid::new_v4().to_string())
            .execute(&mut *tx)
            .await
            .map_err(log_error)?;
        tx.commit().await.map_err(log_error)
    }

    async fn forget_members(&self, instance: Option<&str>) -> Result<(), LogError> {
        let prefix = instance.unwrap_or_default();
        let mut tx = self.begin().await?;
        for sql in [
            "DELETE FROM log_members WHERE substr(member, 1, length(?1)) = ?1",
            "UPDATE log_leases SET owner = NULL, expires_at_ms = 0 WHERE substr(owner, 1, length(?1)) = ?1",
        ] {
            sqlx::query(sql).bind(prefix).execute(&mut *tx).await.map_err(log_error)?;
        }
        tx.commit().await.map_err(log_error)
    }

    async fn create_topics(&self, partitions: i32) -> Result<(), LogError> {
        let mut tx = self.begin().await?;
        for topic in Topic::ALL {
            let present: Option<i32> = sqlx::query_scalar("SELECT partitions FROM log_topics WHERE topic = ?")
                .bind(topic.as_str())
                .fetch_optional(&mut *tx)
                .await
                .map_err(log_error)?;
            match present {
                Some(present) if present == partitions => {}
                Some(present) => {
                    tx.rollback().await.map_err(log_error)?;
                    return Err(LogError::Fatal(format!(
                        "{topic} has {present} partitions, not {partitions}: the count is fixed when the topics are made; set it to {present}"
                    )));
                }
                None => {
                    sqlx::query("INSERT INTO log_topics (topic, topic_id, partitions) VALUES (?, ?, ?)")
                        .bind(topic.as_str())
                        .bind(Uuid::new_v4().to_string())
                        .bind(partitions)
                        .execute(&mut *tx)
                        .await
                        .map_err(log_error)?;
                    for partition in 0..partitions {
                        sqlx::query(
                            "INSERT INTO log_partitions (topic, log_partition, start_offset, end_offset) VALUES (?, ?, 0, 0)",
                        )
                        .bind(topic.as_str())
                        .bind(partition)
                        .execute(&mut *tx)
                        .await
                        .map_err(log_error)?;
                    }
                }
            }
        }
        tx.commit().await.map_err(log_error)
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        let cluster_id =
            sqlx::query_scalar("SELECT cluster_id FROM log_cluster").fetch_one(self.database.reads()).await.map_err(log_error)?;
        let rows: Vec<(String, String, i32)> = sqlx::query_as("SELECT topic, topic_id, partitions FROM log_topics")
            .fetch_all(self.database.reads())
            .await
            .map_err(log_error)?;
        let mut partitions = None;
        let mut topic_ids = BTreeMap::new();
        for (name, id, count) in rows {
            if let Some(topic) = Topic::parse(&name) {
                topic_ids.insert(topic, id);
                partitions = Some(count);
            }
        }
        match partitions {
            Some(partitions) if topic_ids.len() == Topic::ALL.len() => Ok(LogIdentity { cluster_id, topic_ids, partitions }),
            _ => Err(LogError::Fatal("the log has no topics yet: create them first".to_owned())),
        }
    }

    async fn append(&self, requests: &[AppendRequest]) -> Result<Vec<AppendOutcome>, LogError> {
        let mut tx = self.begin().await?;
        let result = append(&mut tx, requests).await;
        match result {
            Ok(outcomes) => {
                tx.commit().await.map_err(log_error)?;
                self.database.appended().send_modify(|n| *n += 1);
                Ok(outcomes)
            }
            Err(e) => {
                tx.rollback().await.map_err(log_error)?;
                Err(e)
            }
        }
    }

    fn appended(&self) -> watch::Receiver<u64> {
        self.database.appended().subscribe()
    }

    fn groups_changed(&self) -> watch::Receiver<u64> {
        self.database.groups_changed().subscribe()
    }

    async fn spans(&self, topics: &[Topic]) -> Result<Vec<Span>, LogError> {
        let rows = sqlx::query("SELECT id, topic, log_partition, start_offset, end_offset FROM log_partitions")
            .fetch_all(self.database.reads())
            .await
            .map_err(log_error)?;
        let mut spans = Vec::with_capacity(rows.len());
        for row in rows {
            let span =
                Span { partition: source(&row)?, id: row.get("id"), start: row.get("start_offset"), end: row.get("end_offset") };
            if topics.contains(&span.partition.topic) {
                spans.push(span);
            }
        }
        Ok(spans)
    }

    async fn read(&self, span: &Span, offset: i64, max_records: usize, max_bytes: usize) -> Result<Vec<LogRecord>, LogError> {
        let (partition, base) = (span.partition, span.id << OFFSET_BITS);
        let mut rows = sqlx::query(
            "SELECT place, appended_at_ms, record_key, headers, payload FROM log_records WHERE place >= ? AND place < ? ORDER BY place LIMIT ?",
        )
        .bind(base + offset)
        .bind(base + (1 << OFFSET_BITS))
        .bind(i64::try_from(max_records).unwrap_or(i64::MAX))
        .fetch(self.database.reads());
        let mut records = Vec::new();
        let mut bytes = 0;
        while bytes < max_bytes {
            let Some(row) = rows.try_next().await.map_err(log_error)? else { break };
            let record = LogRecord {
                source: partition,
                offset: row.get::<i64, _>("place") - base,
                appended_at_ms: row.get("appended_at_ms"),
                key: Bytes::from(row.get::<Vec<u8>, _>("record_key")),
                payload: Bytes::from(row.get::<Vec<u8>, _>("payload")),
                headers: headers::decode(row.get("headers"))
                    .map_err(|e| LogError::Fatal(format!("a record of {partition}: {e}")))?,
            };
            bytes += record.bytes();
            records.push(record);
        }
        Ok(records)
    }

    async fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<(i64, String)>>, LogError> {
        let rows = sqlx::query("SELECT topic, log_partition, next_offset, metadata FROM log_group_offsets WHERE group_name = ?")
            .bind(group)
            .fetch_all(self.database.reads())
            .await
            .map_err(log_error)?;
        let mut committed = HashMap::new();
        for row in rows {
            committed.insert(source(&row)?, (row.get("next_offset"), row.get("metadata")));
        }
        Ok(partitions.iter().map(|partition| committed.remove(partition)).collect())
    }

    async fn commit(&self, group: &str, commits: &[(Commit, i64)]) -> Result<Vec<TopicPartition>, LogError> {
        let mut tx = self.begin().await?;
        let mut fenced = Vec::new();
        for (Commit { partition, next_offset, metadata }, epoch) in commits {
            let partition = *partition;
            if !holds(&mut tx, group, partition, *epoch).await? {
                fenced.push(partition);
                continue;
            }
            sqlx::query(
                "INSERT INTO log_group_offsets (group_name, topic, log_partition, next_offset, metadata) VALUES (?, ?, ?, ?, ?) \
                 ON CONFLICT (group_name, topic, log_partition) \
                 DO UPDATE SET next_offset = excluded.next_offset, metadata = excluded.metadata",
            )
            .bind(group)
            .bind(partition.topic.as_str())
            .bind(partition.partition)
            .bind(next_offset)
            .bind(metadata)
            .execute(&mut *tx)
            .await
            .map_err(log_error)?;
        }
        tx.commit().await.map_err(log_error)?;
        Ok(fenced)
    }

    async fn turn(&self, member: &Member, holdings: &[Holding]) -> Result<Turn, LogError> {
        // Most turns find nothing to do: those only read.
        let now = now_ms();
        let mut reading = self.database.reads().begin().await.map_err(log_error)?;
        let (members, leases) = group(&mut reading, &member.group).await?;
        reading.commit().await.map_err(log_error)?;
        let renewed_enough = now + member.lease_ttl_ms * 2 / 3;
        let known = members.iter().any(|(row, expires_at_ms)| row.id == member.id && *expires_at_ms > renewed_enough);
        let all_live = members.iter().all(|(_, expires_at_ms)| *expires_at_ms > now);
        if known && all_live {
            let rows: Vec<MemberRow> = members.into_iter().map(|(row, _)| row).collect();
            let turn = decide(&member.id, &rows, &leases, member.partitions, holdings, now);
            if turn.taken.is_empty() && turn.earliest_expiry_ms.is_none_or(|ms| ms > renewed_enough) {
                return Ok(turn);
            }
        }

        let mut tx = self.begin().await?;
        let now = now_ms();
        let expires_at_ms = now + member.lease_ttl_ms;
        let gone = sqlx::query("DELETE FROM log_members WHERE group_name = ? AND expires_at_ms <= ? AND member <> ?")
            .bind(&member.group)
            .bind(now)
            .bind(&member.id)
            .execute(&mut *tx)
            .await
            .map_err(log_error)?;
        let topics = member.topics.iter().map(|topic| topic.as_str()).collect::<Vec<_>>().join(",");
        sqlx::query(
            "INSERT INTO log_members (group_name, member, topics, expires_at_ms) VALUES (?, ?, ?, ?) \
             ON CONFLICT (group_name, member) DO UPDATE SET topics = excluded.topics, expires_at_ms = excluded.expires_at_ms",
        )
        .bind(&member.group)
        .bind(&member.id)
        .bind(topics)
        .bind(expires_at_ms)
        .execute(&mut *tx)
        .await
        .map_err(log_error)?;
        let (members, leases) = group(&mut tx, &member.group).await?;
        let joined = !known;
        let rows: Vec<MemberRow> = members.into_iter().map(|(row, _)| row).collect();
        let mut turn = decide(&member.id, &rows, &leases, member.partitions, holdings, now);
        for holding in holdings.iter().filter(|holding| holding.stage != Stage::Lost) {
            sqlx::query(
                "UPDATE log_leases SET expires_at_ms = ? WHERE group_name = ? AND topic = ? AND log_partition = ? AND owner = ? AND epoch = ?",
            )
            .bind(expires_at_ms)
            .bind(&member.group)
            .bind(holding.partition.topic.as_str())
            .bind(holding.partition.partition)
            .bind(&member.id)
            .bind(holding.epoch)
            .execute(&mut *tx)
            .await
            .map_err(log_error)?;
        }
        for &(partition, epoch) in &turn.taken {
            sqlx::query(
                "INSERT INTO log_leases (group_name, topic, log_partition, owner, epoch, expires_at_ms) VALUES (?, ?, ?, ?, ?, ?) \
                 ON CONFLICT (group_name, topic, log_partition) DO UPDATE SET owner = excluded.owner, epoch = excluded.epoch, expires_at_ms = excluded.expires_at_ms",
            )
            .bind(&member.group)
            .bind(partition.topic.as_str())
            .bind(partition.partition)
            .bind(&member.id)
            .bind(epoch)
            .bind(expires_at_ms)
            .execute(&mut *tx)
            .await
            .map_err(log_error)?;
        }
        tx.commit().await.map_err(log_error)?;
        turn.earliest_expiry_ms = Some(expires_at_ms);
        if joined || gone.rows_affected() > 0 || !turn.taken.is_empty() {
            self.database.groups_changed().send_modify(|n| *n += 1);
        }
        Ok(turn)
    }

    async fn release(&self, member: &Member, leases: &[(TopicPartition, i64)]) -> Result<(), LogError> {
        let mut tx = self.begin().await?;
        for (partition, epoch) in leases {
            sqlx::query(
                "UPDATE log_leases SET owner = NULL, expires_at_ms = 0 WHERE group_name = ? AND topic = ? AND log_partition = ? AND owner = ? AND epoch = ?",
            )
            .bind(&member.group)
            .bind(partition.topic.as_str())
            .bind(partition.partition)
            .bind(&member.id)
            .bind(epoch)
            .execute(&mut *tx)
            .await
            .map_err(log_error)?;
        }
        tx.commit().await.map_err(log_error)?;
        self.database.groups_changed().send_modify(|n| *n += 1);
        Ok(())
    }

    async fn leave(&self, member: &Member) -> Result<(), LogError> {
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM log_members WHERE group_name = ? AND member = ?")
            .bind(&member.group)
            .bind(&member.id)
            .execute(&mut *tx)
            .await
            .map_err(log_error)?;
        sqlx::query("UPDATE log_leases SET owner = NULL, expires_at_ms = 0 WHERE group_name = ? AND owner = ?")
            .bind(&member.group)
            .bind(&member.id)
            .execute(&mut *tx)
            .await
            .map_err(log_error)?;
        tx.commit().await.map_err(log_error)?;
        self.database.groups_changed().send_modify(|n| *n += 1);
        Ok(())
    }

    async fn delete_before(&self, partition: TopicPartition, offset: i64) -> Result<i64, LogError> {
        let mut tx = self.begin().await?;
        let moved: Option<(i64, i64)> = sqlx::query_as(
            "UPDATE log_partitions SET start_offset = max(start_offset, min(?, end_offset)) WHERE topic = ? AND log_partition = ? RETURNING id, start_offset",
        )
        .bind(offset)
        .bind(partition.topic.as_str())
        .bind(partition.partition)
        .fetch_optional(&mut *tx)
        .await
        .map_err(log_error)?;
        let (id, start) = moved.ok_or_else(|| missing(partition))?;
        let base = id << OFFSET_BITS;
        sqlx::query("DELETE FROM log_records WHERE place >= ? AND place < ?")
            .bind(base)
            .bind(base + start)
            .execute(&mut *tx)
            .await
            .map_err(log_error)?;
        tx.commit().await.map_err(log_error)?;
        Ok(start)
    }
}

/// The rows of one append, in the order in which they get their places.
async fn append(tx: &mut Transaction<'static, Sqlite>, requests: &[AppendRequest]) -> Result<Vec<AppendOutcome>, LogError> {
    let mut counts: HashMap<&str, i32> = HashMap::new();
    let topics: Vec<(String, i32)> =
        sqlx::query_as("SELECT topic, partitions FROM log_topics").fetch_all(&mut **tx).await.map_err(log_error)?;
    for (topic, partitions) in &topics {
        counts.insert(topic, *partitions);
    }
    // Which requests hold, and how many rows each partition gets.
    let mut fenced: Vec<Option<TopicPartition>> = Vec::with_capacity(requests.len());
    let mut targets: Vec<(&NewRecord, TopicPartition)> = Vec::new();
    let mut rows: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    for request in requests {
        if let Some(fence) = &request.fence
            && !holds(tx, &fence.group, fence.source, fence.epoch).await?
        {
            fenced.push(Some(fence.source));
            continue;
        }
        fenced.push(None);
        for record in &request.records {
            let topic = record.topic;
            let partitions = counts.get(topic.as_str()).ok_or_else(|| missing(TopicPartition { topic, partition: 0 }))?;
            let target = TopicPartition { topic, partition: memori_schemas::ids::partition_of(&record.key, *partitions) };
            *rows.entry(target).or_default() += 1;
            targets.push((record, target));
        }
    }
    // The counters move here, under the transaction's write lock.
    let mut next: HashMap<TopicPartition, (i64, i64)> = HashMap::with_capacity(rows.len());
    for (target, count) in rows {
        let (id, end): (i64, i64) =
            sqlx::query_as("UPDATE log_partitions SET end_offset = end_offset + ? WHERE topic = ? AND log_partition = ? RETURNING id, end_offset")
                .bind(count)
                .bind(target.topic.as_str())
                .bind(target.partition)
                .fetch_one(&mut **tx)
                .await
                .map_err(log_error)?;
        next.insert(target, (id, end - count));
    }
    let mut placed = Vec::with_capacity(targets.len());
    for (record, target) in targets {
        let Some((id, offset)) = next.get_mut(&target) else { return Err(missing(target)) };
        placed.push((record, target, (*id << OFFSET_BITS) + *offset, *offset));
        *offset += 1;
    }
    insert(tx, &placed).await?;
    let mut positions = placed.into_iter().map(|(_, target, _, offset)| (target, offset));
    Ok(requests
        .iter()
        .zip(fenced)
        .map(|(request, fenced)| match fenced {
            Some(partition) => AppendOutcome::Fenced(partition),
            None => AppendOutcome::Appended(positions.by_ref().take(request.records.len()).collect()),
        })
        .collect())
}

async fn insert(
    tx: &mut Transaction<'static, Sqlite>,
    mut placed: &[(&NewRecord, TopicPartition, i64, i64)],
) -> Result<(), LogError> {
    let appended_at_ms = now_ms();
    for chunk in INSERT_ROWS {
        while placed.len() >= chunk {
            let (now, later) = placed.split_at(chunk);
            placed = later;
            let mut query =
                QueryBuilder::<Sqlite>::new("INSERT INTO log_records (place, appended_at_ms, record_key, headers, payload) ");
            query.push_values(now, |mut row, (record, _, place, _)| {
                row.push_bind(*place)
                    .push_bind(appended_at_ms)
                    .push_bind(record.key.as_ref())
                    .push_bind(headers::encode(&record.headers))
                    .push_bind(record.payload.as_ref());
            });
            query.build().execute(&mut **tx).await.map_err(log_error)?;
        }
    }
    Ok(())
}

/// Whether the lease still has this epoch.
async fn holds(
    tx: &mut Transaction<'static, Sqlite>,
    group: &str,
    partition: TopicPartition,
    epoch: i64,
) -> Result<bool, LogError> {
    let lease: Option<(Option<String>, i64)> =
        sqlx::query_as("SELECT owner, epoch FROM log_leases WHERE group_name = ? AND topic = ? AND log_partition = ?")
            .bind(group)
            .bind(partition.topic.as_str())
            .bind(partition.partition)
            .fetch_optional(&mut **tx)
            .await
            .map_err(log_error)?;
    Ok(lease.is_some_and(|(owner, current)| owner.is_some() && current == epoch))
}

/// Members with their expiry, and leases, of one group.
async fn group(tx: &mut Transaction<'static, Sqlite>, group: &str) -> Result<(Vec<(MemberRow, i64)>, Vec<LeaseRow>), LogError> {
    let members =
        sqlx::query_as::<_, (String, String, i64)>("SELECT member, topics, expires_at_ms FROM log_members WHERE group_name = ?")
            .bind(group)
            .fetch_all(&mut **tx)
            .await
            .map_err(log_error)?
            .into_iter()
            .map(|(id, topics, expires_at_ms)| {
                (MemberRow { id, topics: topics.split(',').filter_map(Topic::parse).collect() }, expires_at_ms)
            })
            .collect();
    let rows = sqlx::query("SELECT topic, log_partition, owner, epoch, expires_at_ms FROM log_leases WHERE group_name = ?")
        .bind(group)
        .fetch_all(&mut **tx)
        .await
        .map_err(log_error)?;
    let mut leases = Vec::with_capacity(rows.len());
    for row in rows {
        leases.push(LeaseRow {
            partition: source(&row)?,
            owner: row.get("owner"),
            epoch: row.get("epoch"),
            expires_at_ms: row.get("expires_at_ms"),
        });
    }
    Ok((members, leases))
}
