//! Appending on Postgres: one transaction for all that a group of callers handed over.
//!
//! Promises: leases, then partitions, are locked in one fixed order, so appends do not deadlock with each other; counters move and
//! rows are written by one statement under those locks; a fence is compared under a lock that whoever takes the lease over waits
//! for. An append whose COMMIT got no answer is not guessed about: the next try waits on the same locks until the first is over,
//! and looks whether its records stand where they were put.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::{PgPool, Row as _};

use super::super::dialect::{AppendOutcome, AppendRequest};
use super::super::{headers, missing};
use super::connection::{Lent, log_error};
use super::{OFFSET_BITS, source};
use crate::seam::{LogError, NewRecord};
use crate::topic::TopicPartition;

/// One statement writes at most this much, but one record at least.
const INSERT_BYTES: usize = 16 * 1024 * 1024;
const INSERT_ROWS: usize = 2048;

const LOCK_LEASES: &str = "SELECT l.group_name, l.topic, l.log_partition, l.epoch FROM memori.log_leases l \
    JOIN unnest($1::text[], $2::text[], $3::int4[]) AS q (g, t, p) ON l.group_name = q.g AND l.topic = q.t AND l.log_partition = q.p \
    WHERE l.owner IS NOT NULL ORDER BY l.group_name, l.topic, l.log_partition FOR SHARE OF l";
const LOCK_PARTITIONS: &str = "SELECT p.id::int8, p.topic, p.log_partition, p.end_offset FROM memori.log_partitions p \
    JOIN unnest($1::text[], $2::int4[]) AS q (t, n) ON p.topic = q.t AND p.log_partition = q.n ORDER BY p.id FOR NO KEY UPDATE OF p";
const MOVE_AND_INSERT: &str = "WITH moved AS (UPDATE memori.log_partitions p SET end_offset = q.e \
      FROM unnest($1::int8[], $2::int8[]) AS q (i, e) WHERE p.id = q.i) \
    INSERT INTO memori.log_records (place, appended_at_ms, record_key, headers, payload) \
    SELECT q.w, (extract(epoch FROM statement_timestamp()) * 1000)::int8, q.k, q.h, q.y \
      FROM unnest($3::int8[], $4::bytea[], $5::bytea[], $6::bytea[]) AS q (w, k, h, y)";
const STANDS: &str =
    "SELECT EXISTS (SELECT FROM memori.log_records WHERE place = $1 AND record_key = $2 AND headers = $3 AND payload = $4)";

/// A record's place: its partition's number and its offset there, and both in one.
#[derive(Clone, Copy, Debug)]
struct Place {
    request: usize,
    record: usize,
    target: TopicPartition,
    offset: i64,
    place: i64,
}

/// What one transaction wrote, or may have written.
#[derive(Debug)]
pub(super) struct Placed {
    fenced: Vec<Option<TopicPartition>>,
    places: Vec<Place>,
}

impl Placed {
    pub(super) fn outcomes(&self, requests: &[AppendRequest]) -> Vec<AppendOutcome> {
        let mut places = self.places.iter().map(|place| (place.target, place.offset));
        let outcome = |(request, fenced): (&AppendRequest, &Option<TopicPartition>)| match fenced {
            Some(partition) => AppendOutcome::Fenced(*partition),
            None => AppendOutcome::Appended(places.by_ref().take(request.records.len()).collect()),
        };
        requests.iter().zip(&self.fenced).map(outcome).collect()
    }
}

/// How a try ended that did not fail.
pub(super) enum Done {
    /// By this transaction.
    Now(Placed),
    /// By the one before it.
    Before,
}

/// Why a try failed.
pub(super) enum Failure {
    /// This transaction wrote nothing.
    Nothing(LogError),
    /// The answer to COMMIT was lost.
    Unknown(LogError, Placed),
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        Self::Nothing(error)
    }
}

/// One transaction. `earlier` is what one before it, whose end is not known, may have written.
pub(super) async fn attempt(
    pool: &PgPool,
    partitions: i32,
    requests: &[AppendRequest],
    earlier: Option<&Placed>,
) -> Result<Done, Failure> {
    let mut lent = Lent::begin(pool).await?;
    let held = lock_leases(&mut lent, requests).await?;
    let mut ends = lock_partitions(&mut lent, partitions, requests).await?;
    if let Some(first) = earlier.and_then(|placed| placed.places.first())
        && stands(&mut lent, first, requests).await?
    {
        lent.rollback().await;
        return Ok(Done::Before);
    }
    let fenced: Vec<Option<TopicPartition>> = requests
        .iter()
        .map(|request| {
            let fence = request.fence.as_ref()?;
            let epoch = held.get(&(fence.group.as_str(), fence.source));
            (epoch != Some(&fence.epoch)).then_some(fence.source)
        })
        .collect();
    let placed = place(fenced, partitions, requests, &mut ends)?;
    if placed.places.is_empty() {
        lent.rollback().await;
        return Ok(Done::Now(placed));
    }
    write(&mut lent, requests, &placed.places, &ends).await?;
    match lent.commit().await {
        Ok(()) => Ok(Done::Now(placed)),
        // The server says that it did not happen; but a lost connection (class 08) is what a pooler says in its place.
        Err(error @ sqlx::Error::Database(_)) if !is_lost_connection(&error) => Err(Failure::Nothing(log_error(error))),
        Err(error) => Err(Failure::Unknown(log_error(error), placed)),
    }
}

/// The epochs of the leases that fences name and somebody holds.
async fn lock_leases<'r>(
    lent: &mut Lent,
    requests: &'r [AppendRequest],
) -> Result<HashMap<(&'r str, TopicPartition), i64>, LogError> {
    let wanted: BTreeSet<(&str, TopicPartition)> =
        requests.iter().filter_map(|request| request.fence.as_ref()).map(|fence| (fence.group.as_str(), fence.source)).collect();
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(LOCK_LEASES)
        .bind(wanted.iter().map(|(group, _)| *group).collect::<Vec<_>>())
        .bind(wanted.iter().map(|(_, source)| source.topic.as_str()).collect::<Vec<_>>())
        .bind(wanted.iter().map(|(_, source)| source.partition).collect::<Vec<_>>())
        .fetch_all(&mut **lent)
        .await
        .map_err(log_error)?;
    let mut held = HashMap::with_capacity(rows.len());
    for row in rows {
        let (group, source): (&str, _) = (row.get("group_name"), source(&row)?);
        if let Some(&lease) = wanted.iter().find(|lease| **lease == (group, source)) {
            held.insert(lease, row.get("epoch"));
        }
    }
    Ok(held)
}

/// Where a partition ends: its number and the offset of its next record.
type Ends = BTreeMap<TopicPartition, (i64, i64)>;

async fn lock_partitions(lent: &mut Lent, partitions: i32, requests: &[AppendRequest]) -> Result<Ends, LogError> {
    let wanted: BTreeSet<TopicPartition> =
        requests.iter().flat_map(|request| &request.records).map(|record| target(record, partitions)).collect();
    let rows = sqlx::query(LOCK_PARTITIONS)
        .bind(wanted.iter().map(|wanted| wanted.topic.as_str()).collect::<Vec<_>>())
        .bind(wanted.iter().map(|wanted| wanted.partition).collect::<Vec<_>>())
        .fetch_all(&mut **lent)
        .await
        .map_err(log_error)?;
    let mut ends = Ends::new();
    for row in rows {
        ends.insert(source(&row)?, (row.get("id"), row.get("end_offset")));
    }
    Ok(ends)
}

fn target(record: &NewRecord, partitions: i32) -> TopicPartition {
    TopicPartition { topic: record.topic, partition: memori_schemas::ids::partition_of(&record.key, partitions) }
}

async fn stands(lent: &mut Lent, place: &Place, requests: &[AppendRequest]) -> Result<bool, LogError> {
    let record = &requests[place.request].records[place.record];
    sqlx::query_scalar(STANDS)
        .bind(place.place)
        .bind(record.key.as_ref())
        .bind(headers::encode(&record.headers))
        .bind(record.payload.as_ref())
        .fetch_one(&mut **lent)
        .await
        .map_err(log_error)
}

/// Gives every record of the requests that hold its place, and moves the ends.
fn place(
    fenced: Vec<Option<TopicPartition>>,
    partitions: i32,
    requests: &[AppendRequest],
    ends: &mut Ends,
) -> Result<Placed, LogError> {
    let mut places = Vec::new();
    for (r, request) in requests.iter().enumerate().filter(|(r, _)| fenced[*r].is_none()) {
        for (n, record) in request.records.iter().enumerate() {
            let target = target(record, partitions);
            let (id, end) = ends.get_mut(&target).ok_or_else(|| missing(target))?;
            places.push(Place { request: r, record: n, target, offset: *end, place: (*id << OFFSET_BITS) + *end });
            *end += 1;
        }
    }
    Ok(Placed { fenced, places })
}

async fn write(lent: &mut Lent, requests: &[AppendRequest], mut places: &[Place], ends: &Ends) -> Result<(), LogError> {
    // The counters move with the first rows. Those of fenced requests' partitions are written as they were.
    let (mut ids, mut moved): (Vec<i64>, Vec<i64>) = ends.values().copied().unzip();
    while !places.is_empty() {
        let (mut rows, mut bytes) = (0, 0);
        while rows < places.len().min(INSERT_ROWS) && (rows == 0 || bytes < INSERT_BYTES) {
            bytes += requests[places[rows].request].records[places[rows].record].payload.len();
            rows += 1;
        }
        let (now, later) = places.split_at(rows);
        places = later;
        let records: Vec<&NewRecord> = now.iter().map(|place| &requests[place.request].records[place.record]).collect();
        sqlx::query(MOVE_AND_INSERT)
            .bind(std::mem::take(&mut ids))
            .bind(std::mem::take(&mut moved))
            .bind(now.iter().map(|place| place.place).collect::<Vec<_>>())
            .bind(records.iter().map(|record| record.key.as_ref()).collect::<Vec<&[u8]>>())
            .bind(records.iter().map(|record| headers::encode(&record.headers)).collect::<Vec<_>>())
            .bind(records.iter().map(|record| record.payload.as_ref()).collect::<Vec<&[u8]>>())
            .execute(&mut **lent)
            .await
            .map_err(log_error)?;
    }
    Ok(())
}

fn is_lost_connection(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code.starts_with("08"))
}
