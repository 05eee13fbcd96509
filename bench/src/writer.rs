//! The sink's flush over raw COPY: the same rows into the same indexed tables of the same durable Postgres.
//!
//! The floor does only what any writer must: per flush one transaction that COPYs, in binary and table by table, exactly the rows
//! that ours left behind, already encoded. It looks nothing up, locks nothing, decides nothing.

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

const TABLES: [&str; 8] = ["entities", "events", "messages", "outcomes", "facts", "mentions", "fact_stats", "validity"];
const FACTS_PER_EVENT: usize = 2;

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The rows of one tenant as COPY takes them, by table.
async fn rows_of(client: &Client, tenant: &str) -> anyhow::Result<Vec<(&'static str, Bytes)>> {
    let mut tables = Vec::new();
    for table in TABLES {
        let statement = format!("COPY (SELECT * FROM memori.{table} WHERE tenant = '{tenant}') TO STDOUT (FORMAT binary)");
        let pieces: Vec<Bytes> = client.copy_out(&statement).await?.try_collect().await?;
        let mut all = BytesMut::new();
        pieces.iter().for_each(|piece| all.extend_from_slice(piece));
        tables.push((table, all.freeze()));
    }
    Ok(tables)
}

/// Copies them in one transaction; answers the number of rows and the seconds.
async fn copy(client: &mut Client, tables: &[(&'static str, Bytes)]) -> anyhow::Result<(u64, f64)> {
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
    Ok((rows, since.elapsed().as_secs_f64()))
}

pub(crate) async fn run(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    let (our_url, floor_url) = (servers.empty_database().await?, servers.empty_database().await?);
    let store = PostgresStore::new(PostgresTarget::parse(&our_url, "bench")?.pool(1)?, &our_url);
    store.migrate().await?;
    PostgresStore::new(PostgresTarget::parse(&floor_url, "bench")?.pool(1)?, &floor_url).migrate().await?;
    let our_client = connect(&our_url).await?;
    let mut floor_client = connect(&floor_url).await?;
    let flushes = if options.quick { 3 } else { 10 };
    let mut from = 0;
    for (case, records, entities) in [("1000 records", 1_000_usize, 100_usize), ("5000 records", 5_000, 500)] {
        let events = records / 2;
        let (mut our_runs, mut floor_runs) = (Vec::new(), Vec::new());
        // The first run warms caches and plans, and is dropped.
        for run in 0..=options.runs {
            let (mut our_seconds, mut floor_seconds, mut total) = (0.0, 0.0, 0);
            for flush in 0..flushes {
                let tenant = format!("{records}-{run}-{flush}");
                let input = input::flush(&tenant, entities, events, FACTS_PER_EVENT, from);
                from += i64::try_from(events)?;
                let since = Instant::now();
                store::flush(&store, &input).await?;
                our_seconds += since.elapsed().as_secs_f64();
                let tables = rows_of(&our_client, &tenant).await?;
                let (rows, seconds) = copy(&mut floor_client, &tables).await?;
                let implied = entities + events * (1 + 2 + 1 + 4 * FACTS_PER_EVENT);
                ensure!(rows == implied as u64, "{rows} rows instead of {implied}");
                floor_seconds += seconds;
                total += rows;
            }
            #[allow(clippy::cast_precision_loss, reason = "a rate")]
            let total = total as f64;
            if run > 0 {
                our_runs.push(total / our_seconds);
                floor_runs.push(total / floor_seconds);
            }
        }
        report.add("writer", case, "rows/s", Better::Higher, &our_runs, &floor_runs);
    }
    our_client.batch_execute("SELECT 1").await.context("the connection outlived the runs")
}
