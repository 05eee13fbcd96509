//! The sink's flush over raw COPY: the same rows into the same indexed tables of the same durable Postgres, over one connection each.
//!
//! Ours gets what the log brings: records about entities that are known already, some of them redelivered under new offsets. It made
//! these entities itself and remembers them, as a writer does that goes on; "just started" is one that remembers nothing. The
//! floor does only what any writer must: per flush one transaction that COPYs rows, in binary and table by table, already encoded.
//! It looks nothing up, locks nothing, decides nothing, and counts no versions. Which rows:
//! - where nothing is repeated, and in "the new half", exactly those that ours left behind;
//! - in "50 % repeats", all that the records name, as if none were there: what a writer without look-ups would have to write.

use std::ops::Range;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, TryStreamExt as _};
use memori_tests::servers::Servers;
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::{self, Store};
use tokio_postgres::{Client, NoTls};

use crate::report::{Better, Report};
use crate::{Options, input};

/// The tables that these records touch, with the number of rows of each event; beside them `entities`, whose rows are there, and
/// `entity_changes`, one row per entity and flush.
const TABLES: [(&str, usize); 8] = [
    ("events", 1),
    ("messages", 2),
    ("outcomes", 1),
    ("facts", FACTS_PER_EVENT),
    ("mentions", FACTS_PER_EVENT),
    ("message_vectors", 1),
    ("fact_stats", FACTS_PER_EVENT),
    ("validity", FACTS_PER_EVENT),
];
const FACTS_PER_EVENT: usize = 2;

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// One table's rows as COPY takes them.
type Copied = Vec<(&'static str, Bytes)>;

/// The rows that the tenant's events of these numbers left, and what its flush of this number named as changed, by table.
async fn rows_of(client: &Client, tenant: &str, numbers: &Range<usize>, flush: i64) -> anyhow::Result<Copied> {
    // An event's id ends with its number.
    let of = |column: &str| {
        let number = format!("substring({column} from '[0-9]+$')::int8");
        format!("tenant = '{tenant}' AND {number} >= {} AND {number} < {}", numbers.start, numbers.end)
    };
    let mut tables = Vec::new();
    for table in TABLES.iter().map(|(table, _)| *table).chain(["entity_changes"]) {
        let condition = match table {
            "entity_changes" => format!("tenant = '{tenant}' AND version = {flush}"),
            "facts" => of("rep_event_id"),
            "fact_stats" | "validity" => {
                format!("tenant = '{tenant}' AND fact_id IN (SELECT fact_id FROM memori.facts WHERE {})", of("rep_event_id"))
            }
            _ => of("event_id"),
        };
        let statement = format!("COPY (SELECT * FROM memori.{table} WHERE {condition}) TO STDOUT (FORMAT binary)");
        let pieces: Vec<Bytes> = client.copy_out(&statement).await?.try_collect().await?;
        let mut all = BytesMut::new();
        pieces.iter().for_each(|piece| all.extend_from_slice(piece));
        tables.push((table, all.freeze()));
    }
    Ok(tables)
}

/// Copies them in one transaction; answers the number of rows and the seconds.
async fn copy(client: &mut Client, tables: &Copied) -> anyhow::Result<(usize, f64)> {
    let since = Instant::now();
    let transaction = client.transaction().await?;
    let mut rows = 0;
    for (table, bytes) in tables {
        let sink = transaction.copy_in(&format!("COPY memori.{table} FROM STDIN (FORMAT binary)")).await?;
        let mut sink = std::pin::pin!(sink);
        for start in (0..bytes.len()).step_by(64 << 10) {
            sink.send(bytes.slice(start..bytes.len().min(start + (64 << 10)))).await?;
        }
        rows += sink.finish().await?;
    }
    transaction.commit().await?;
    Ok((usize::try_from(rows)?, since.elapsed().as_secs_f64()))
}

/// How far the server's log of changes is, in bytes.
async fn wal_position(client: &Client) -> anyhow::Result<f64> {
    let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8";
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}

/// What a flush is measured on.
struct Case {
    name: &'static str,
    /// Events that ours is given.
    events: Range<usize>,
    /// Events that are there before, in ours.
    ours_before: Range<usize>,
    /// Ours has made what was there before itself.
    remembers: bool,
    /// Events whose rows the floor copies.
    floor: Range<usize>,
    /// Events that are there before, at the floor.
    floor_before: Range<usize>,
}

fn cases(events: usize) -> [Case; 4] {
    let half = events / 2;
    [
        Case {
            name: "0 % repeats",
            events: events..2 * events,
            ours_before: 0..events,
            remembers: true,
            floor: events..2 * events,
            floor_before: 0..events,
        },
        Case {
            name: "0 % repeats, just started",
            events: events..2 * events,
            ours_before: 0..events,
            remembers: false,
            floor: events..2 * events,
            floor_before: 0..events,
        },
        Case {
            name: "50 % repeats",
            events: half..half + events,
            ours_before: 0..events,
            remembers: true,
            floor: half..half + events,
            floor_before: 0..half,
        },
        Case {
            name: "50 % repeats, the new half",
            events: half..half + events,
            ours_before: 0..events,
            remembers: true,
            floor: events..half + events,
            floor_before: 0..events,
        },
    ]
}

/// Sums over the flushes of one run.
#[derive(Default)]
struct Sums {
    rows: f64,
    seconds: f64,
    wal_bytes: f64,
}

impl Sums {
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    fn add(&mut self, rows: usize, seconds: f64, wal_bytes: f64) {
        self.rows += rows as f64;
        self.seconds += seconds;
        self.wal_bytes += wal_bytes;
    }
}

pub(crate) async fn run(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    let (our_url, floor_url) = (servers.empty_database().await?, servers.empty_database().await?);
    let pool = PostgresTarget::parse(&our_url, "bench")?.pool(1)?;
    let store = PostgresStore::new(pool.clone(), &our_url);
    store.migrate().await?;
    PostgresStore::new(PostgresTarget::parse(&floor_url, "bench")?.pool(1)?, &floor_url).migrate().await?;
    let our_client = connect(&our_url).await?;
    let mut floor_client = connect(&floor_url).await?;
    let rows_each: usize = TABLES.iter().map(|(_, rows)| rows).sum();
    let mut from = 0;
    for (records, entities) in [(1_000_usize, 100_usize), (5_000, 500)] {
        let flushes = if options.quick { 1 } else { 8_000 / records };
        for case in cases(records / 2) {
            let (mut our_runs, mut floor_runs, mut our_wal, mut floor_wal) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            // The first run warms caches and plans, and is dropped.
            for run in 0..=options.runs {
                let (mut ours, mut floor) = (Sums::default(), Sums::default());
                for flush in 0..flushes {
                    let tenant = format!("{records}-{}-{run}-{flush}", case.name);
                    let mut input = |events: Range<usize>| -> anyhow::Result<_> {
                        let count = i64::try_from(events.len())?;
                        from += count;
                        Ok(input::flush(&tenant, entities, events, FACTS_PER_EVENT, from - count))
                    };
                    let (before, now) = (input(case.ours_before.clone())?, input(case.events.clone())?);
                    store::flush(&store, &before).await?;
                    let store = if case.remembers { store.clone() } else { PostgresStore::new(pool.clone(), &our_url) };
                    let wal = wal_position(&our_client).await?;
                    let since = Instant::now();
                    store::flush(&store, &now).await?;
                    let seconds = since.elapsed().as_secs_f64();
                    // Rows that the records name: what was there already counts as written.
                    let named = case.floor.len() * rows_each + entities;
                    ours.add(named, seconds, wal_position(&our_client).await? - wal);

                    copy(&mut floor_client, &rows_of(&our_client, &tenant, &case.floor_before, 1).await?).await?;
                    let tables = rows_of(&our_client, &tenant, &case.floor, 2).await?;
                    let wal = wal_position(&floor_client).await?;
                    let (rows, seconds) = copy(&mut floor_client, &tables).await?;
                    ensure!(rows == named, "{rows} rows instead of {named}");
                    floor.add(rows, seconds, wal_position(&floor_client).await? - wal);
                }
                if run > 0 {
                    #[allow(clippy::cast_precision_loss, reason = "a rate")]
                    let events = (case.events.len() * flushes) as f64;
                    our_runs.push(ours.rows / ours.seconds);
                    floor_runs.push(floor.rows / floor.seconds);
                    our_wal.push(ours.wal_bytes / events);
                    floor_wal.push(floor.wal_bytes / events);
                }
            }
            let name = format!("{records} records, {}", case.name);
            report.add("writer", &name, "rows/s", Better::Higher, &our_runs, &floor_runs);
            report.add("writer", &name, "WAL bytes/event", Better::Lower, &our_wal, &floor_wal);
        }
    }
    our_client.batch_execute("SELECT 1").await.context("the connection outlived the runs")
}
