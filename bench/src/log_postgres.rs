//! Appends to the SQL log on Postgres over one INSERT of the same bytes into a plain table, each ended by a commit.
//!
//! What a log adds to the floor: counters that move under locks, a key that is a range, and the round trips of a transaction.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use memori_event_log::seam::{Log, NewRecord};
use memori_event_log::sql::{SqlLog, SqlLogConfig};
use memori_tests::servers::Servers;

use crate::Options;
use crate::report::{Better, Report};

const PARTITIONS: i32 = 4;
const PAYLOAD_BYTES: usize = 600;
/// Records of one append.
const BATCHES: [usize; 3] = [1, 100, 1_000];

pub(crate) async fn run(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    let url = servers.empty_database().await?;
    let log = SqlLog::open_postgres(&url, SqlLogConfig::default()).await?;
    log.create_topics(PARTITIONS).await?;
    let (floor, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    let driving = tokio::spawn(connection);
    floor
        .batch_execute("CREATE TABLE floor (id bigserial PRIMARY KEY, record_key bytea NOT NULL, payload bytea NOT NULL)")
        .await?;
    for batch in BATCHES {
        let records = crate::producer::records(batch, PAYLOAD_BYTES);
        let appends = if options.quick { 5 } else { (20_000 / batch).clamp(20, 500) };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        // One that is not counted: statements are prepared, pages are there.
        for run in 0..=options.runs {
            let figures = (append(&log, &records, appends).await?, insert(&floor, &records, appends).await?);
            if run > 0 {
                ours.push(figures.0);
                theirs.push(figures.1);
            }
        }
        report.add("log_postgres", &format!("{batch} records an append"), "records/s", Better::Higher, &ours, &theirs);
    }
    drop(floor);
    driving.await?.context("the floor's connection")
}

#[allow(clippy::cast_precision_loss, reason = "counts of a bench")]
fn rate(records: usize, since: Instant) -> f64 {
    records as f64 / since.elapsed().as_secs_f64()
}

async fn append(log: &SqlLog, records: &[NewRecord], appends: usize) -> anyhow::Result<f64> {
    let producer = log.producer();
    let since = Instant::now();
    for _ in 0..appends {
        for result in producer.append(records, None).await {
            ensure!(result.is_ok(), "{result:?}");
        }
    }
    Ok(rate(records.len() * appends, since))
}

async fn insert(floor: &tokio_postgres::Client, records: &[NewRecord], appends: usize) -> anyhow::Result<f64> {
    let sql = "INSERT INTO floor (record_key, payload) SELECT * FROM unnest($1::bytea[], $2::bytea[])";
    let statement = floor.prepare(sql).await?;
    let since = Instant::now();
    for _ in 0..appends {
        let keys: Vec<&[u8]> = records.iter().map(|record| record.key.as_ref()).collect();
        let payloads: Vec<&[u8]> = records.iter().map(|record| record.payload.as_ref()).collect();
        floor.execute(&statement, &[&keys, &payloads]).await?;
    }
    Ok(rate(records.len() * appends, since))
}
