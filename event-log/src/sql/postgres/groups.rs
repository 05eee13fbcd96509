//! Members, leases and committed offsets on Postgres.
//!
//! Promises: whoever changes a group's members or leases holds the lock of the group's row, so turns come one after the other;
//! times are the server's; a commit compares epochs under locks that whoever takes a lease over waits for.

use std::collections::BTreeSet;

use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row as _};

use super::super::balance::{Holding, LeaseRow, MemberRow, Stage, Turn, decide};
use super::super::dialect::Member;
use super::connection::{Lent, log_error};
use super::source;
use crate::seam::{Commit, LogError};
use crate::topic::{Topic, TopicPartition};

const GROUP: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8 AS now_ms, \
      NULL::text AS topic, NULL::int4 AS log_partition, NULL::text AS owner, NULL::int8 AS epoch, NULL::int8 AS expires_at_ms, \
      NULL::text AS member, NULL::text AS topics \
    UNION ALL SELECT NULL, topic, log_partition, owner, epoch, expires_at_ms, NULL, NULL FROM memori.log_leases WHERE group_name = $1 \
    UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, expires_at_ms, member, topics FROM memori.log_members WHERE group_name = $1";
/// In the order in which appends lock them.
const LOCK_LEASES: &str =
    "SELECT FROM memori.log_leases WHERE group_name = $1 ORDER BY group_name, topic, log_partition FOR NO KEY UPDATE";
const RENEW: &str = "UPDATE memori.log_leases l SET expires_at_ms = $1 FROM unnest($2::text[], $3::int4[], $4::int8[]) AS q (t, p, e) \
    WHERE l.group_name = $5 AND l.owner = $6 AND l.topic = q.t AND l.log_partition = q.p AND l.epoch = q.e";
const TAKE: &str = "INSERT INTO memori.log_leases (group_name, topic, log_partition, owner, epoch, expires_at_ms) \
    SELECT $5, q.t, q.p, $6, q.e, $1 FROM unnest($2::text[], $3::int4[], $4::int8[]) AS q (t, p, e) \
    ON CONFLICT (group_name, topic, log_partition) \
    DO UPDATE SET owner = excluded.owner, epoch = excluded.epoch, expires_at_ms = excluded.expires_at_ms";
const RELEASE: &str = "UPDATE memori.log_leases l SET owner = NULL, expires_at_ms = 0 \
    FROM unnest($1::text[], $2::int4[], $3::int8[]) AS q (t, p, e) \
    WHERE l.group_name = $4 AND l.owner = $5 AND l.topic = q.t AND l.log_partition = q.p AND l.epoch = q.e";
const COMMIT: &str = "WITH held AS MATERIALIZED ( \
      SELECT l.topic, l.log_partition, q.n, q.m FROM memori.log_leases l \
        JOIN unnest($1::text[], $2::int4[], $3::int8[], $4::text[], $5::int8[]) AS q (t, p, n, m, e) \
          ON l.topic = q.t AND l.log_partition = q.p AND l.epoch = q.e \
        WHERE l.group_name = $6 AND l.owner IS NOT NULL ORDER BY l.group_name, l.topic, l.log_partition FOR SHARE OF l) \
    INSERT INTO memori.log_group_offsets (group_name, topic, log_partition, next_offset, metadata) \
      SELECT $6, topic, log_partition, n, m FROM held \
    ON CONFLICT (group_name, topic, log_partition) DO UPDATE SET next_offset = excluded.next_offset, metadata = excluded.metadata \
    RETURNING topic, log_partition";

/// A group as one statement sees it.
struct Group {
    now_ms: i64,
    members: Vec<(MemberRow, i64)>,
    leases: Vec<LeaseRow>,
}

async fn group(lent: &mut Lent, name: &str) -> Result<Group, LogError> {
    let rows = sqlx::query(GROUP).bind(name).fetch_all(&mut **lent).await.map_err(log_error)?;
    let mut group = Group { now_ms: 0, members: Vec::new(), leases: Vec::new() };
    for row in &rows {
        if let Some(id) = row.get::<Option<String>, _>("member") {
            let topics = row.get::<&str, _>("topics").split(',').filter_map(Topic::parse).collect();
            group.members.push((MemberRow { id, topics }, row.get("expires_at_ms")));
        } else if row.get::<Option<&str>, _>("topic").is_some() {
            group.leases.push(lease(row)?);
        } else {
            group.now_ms = row.get("now_ms");
        }
    }
    Ok(group)
}

fn lease(row: &PgRow) -> Result<LeaseRow, LogError> {
    Ok(LeaseRow {
        partition: source(row)?,
        owner: row.get("owner"),
        epoch: row.get("epoch"),
        expires_at_ms: row.get("expires_at_ms"),
    })
}

/// Names of topics, partitions and numbers, as arrays.
type Columns = (Vec<&'static str>, Vec<i32>, Vec<i64>);

fn columns(leases: impl IntoIterator<Item = (TopicPartition, i64)>) -> Columns {
    let mut columns = Columns::default();
    for (partition, number) in leases {
        columns.0.push(partition.topic.as_str());
        columns.1.push(partition.partition);
        columns.2.push(number);
    }
    columns
}

/// Begins a transaction that owns the group.
async fn begin(pool: &PgPool, group: &str) -> Result<Lent, LogError> {
    let mut lent = Lent::begin(pool).await?;
    sqlx::query("INSERT INTO memori.log_groups (group_name) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(group)
        .execute(&mut *lent)
        .await
        .map_err(log_error)?;
    sqlx::query("SELECT FROM memori.log_groups WHERE group_name = $1 FOR UPDATE")
        .bind(group)
        .execute(&mut *lent)
        .await
        .map_err(log_error)?;
    sqlx::query(LOCK_LEASES).bind(group).execute(&mut *lent).await.map_err(log_error)?;
    Ok(lent)
}

/// A member's turn, and whether it changed what others decide by.
pub(super) async fn turn(pool: &PgPool, member: &Member, holdings: &[Holding]) -> Result<(Turn, bool), LogError> {
    // Most turns find nothing to do: those only read.
    let mut lent = Lent::from(pool).await?;
    let seen = group(&mut lent, &member.group).await?;
    lent.give_back();
    let renewed_enough = seen.now_ms + member.lease_ttl_ms * 2 / 3;
    let known = seen.members.iter().any(|(row, expires_at_ms)| row.id == member.id && *expires_at_ms > renewed_enough);
    if known && seen.members.iter().all(|(_, expires_at_ms)| *expires_at_ms > seen.now_ms) {
        let rows: Vec<MemberRow> = seen.members.into_iter().map(|(row, _)| row).collect();
        let turn = decide(&member.id, &rows, &seen.leases, member.partitions, holdings, seen.now_ms);
        if turn.taken.is_empty() && turn.earliest_expiry_ms.is_none_or(|ms| ms > renewed_enough) {
            return Ok((turn, false));
        }
    }

    let mut lent = begin(pool, &member.group).await?;
    let seen = group(&mut lent, &member.group).await?;
    let expires_at_ms = seen.now_ms + member.lease_ttl_ms;
    let joined = !seen.members.iter().any(|(row, _)| row.id == member.id);
    let (mut living, mut dead) = (Vec::new(), Vec::new());
    for (row, expires) in seen.members {
        if row.id == member.id {
            continue;
        }
        if expires > seen.now_ms { living.push(row) } else { dead.push(row.id) }
    }
    living.push(MemberRow { id: member.id.clone(), topics: member.topics.clone() });
    let mut turn = decide(&member.id, &living, &seen.leases, member.partitions, holdings, seen.now_ms);
    if !dead.is_empty() {
        sqlx::query("DELETE FROM memori.log_members WHERE group_name = $1 AND member = ANY($2)")
            .bind(&member.group)
            .bind(&dead)
            .execute(&mut *lent)
            .await
            .map_err(log_error)?;
    }
    sqlx::query(
        "INSERT INTO memori.log_members (group_name, member, topics, expires_at_ms) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (group_name, member) DO UPDATE SET topics = excluded.topics, expires_at_ms = excluded.expires_at_ms",
    )
    .bind(&member.group)
    .bind(&member.id)
    .bind(member.topics.iter().map(|topic| topic.as_str()).collect::<Vec<_>>().join(","))
    .bind(expires_at_ms)
    .execute(&mut *lent)
    .await
    .map_err(log_error)?;
    let kept = holdings.iter().filter(|holding| holding.stage != Stage::Lost).map(|holding| (holding.partition, holding.epoch));
    for (sql, (topics, partitions, epochs)) in [(RENEW, columns(kept)), (TAKE, columns(turn.taken.iter().copied()))] {
        if topics.is_empty() {
            continue;
        }
        sqlx::query(sql)
            .bind(expires_at_ms)
            .bind(topics)
            .bind(partitions)
            .bind(epochs)
            .bind(&member.group)
            .bind(&member.id)
            .execute(&mut *lent)
            .await
            .map_err(log_error)?;
    }
    lent.commit().await.map_err(log_error)?;
    turn.earliest_expiry_ms = Some(expires_at_ms);
    let changed = joined || !dead.is_empty() || !turn.taken.is_empty();
    Ok((turn, changed))
}

pub(super) async fn release(pool: &PgPool, member: &Member, leases: &[(TopicPartition, i64)]) -> Result<(), LogError> {
    let mut lent = begin(pool, &member.group).await?;
    let (topics, partitions, epochs) = columns(leases.iter().copied());
    sqlx::query(RELEASE)
        .bind(topics)
        .bind(partitions)
        .bind(epochs)
        .bind(&member.group)
        .bind(&member.id)
        .execute(&mut *lent)
        .await
        .map_err(log_error)?;
    lent.commit().await.map_err(log_error)
}

pub(super) async fn leave(pool: &PgPool, member: &Member) -> Result<(), LogError> {
    let mut lent = begin(pool, &member.group).await?;
    for sql in [
        "DELETE FROM memori.log_members WHERE group_name = $1 AND member = $2",
        "UPDATE memori.log_leases SET owner = NULL, expires_at_ms = 0 WHERE group_name = $1 AND owner = $2",
    ] {
        sqlx::query(sql).bind(&member.group).bind(&member.id).execute(&mut *lent).await.map_err(log_error)?;
    }
    lent.commit().await.map_err(log_error)
}

/// Forgets the members whose names begin so, and frees their leases.
pub(super) async fn forget(pool: &PgPool, prefix: &str) -> Result<(), LogError> {
    let mut lent = Lent::begin(pool).await?;
    // Everybody's turn waits: groups are few, and this happens when a process starts.
    sqlx::query("SELECT FROM memori.log_groups ORDER BY group_name FOR UPDATE").execute(&mut *lent).await.map_err(log_error)?;
    sqlx::query("SELECT FROM memori.log_leases ORDER BY group_name, topic, log_partition FOR NO KEY UPDATE")
        .execute(&mut *lent)
        .await
        .map_err(log_error)?;
    for sql in [
        "DELETE FROM memori.log_members WHERE starts_with(member, $1)",
        "UPDATE memori.log_leases SET owner = NULL, expires_at_ms = 0 WHERE starts_with(owner, $1)",
    ] {
        sqlx::query(sql).bind(prefix).execute(&mut *lent).await.map_err(log_error)?;
    }
    lent.commit().await.map_err(log_error)
}

/// Commits under the leases' epochs; answers the partitions whose lease has passed on.
pub(super) async fn commit(pool: &PgPool, group: &str, commits: &[(Commit, i64)]) -> Result<Vec<TopicPartition>, LogError> {
    if commits.is_empty() {
        return Ok(Vec::new());
    }
    let (topics, partitions, next) = columns(commits.iter().map(|(commit, _)| (commit.partition, commit.next_offset)));
    let metadata: Vec<&str> = commits.iter().map(|(commit, _)| commit.metadata.as_str()).collect();
    let epochs: Vec<i64> = commits.iter().map(|(_, epoch)| *epoch).collect();
    let mut lent = Lent::begin(pool).await?;
    let rows = sqlx::query(COMMIT)
        .bind(topics)
        .bind(partitions)
        .bind(next)
        .bind(metadata)
        .bind(epochs)
        .bind(group)
        .fetch_all(&mut *lent)
        .await
        .map_err(log_error)?;
    let committed = rows.iter().map(source).collect::<Result<BTreeSet<_>, _>>()?;
    lent.commit().await.map_err(log_error)?;
    Ok(commits.iter().map(|(commit, _)| commit.partition).filter(|partition| !committed.contains(partition)).collect())
}
