//! Recall in the service, with the entity's image hot: validate it, rank all facts exactly, build the answer.
//!
//! The floor is a bare loop that does only what validates the image: one read of the entity's version row from the same store over
//! the same connections.

use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use memori_event_log::sqlite::SqliteDatabase;
use memori_schemas::ids;
use memori_tests::servers::Servers;
use memori_writer::postgres::PostgresTarget;
use memori_writer::reads::{PostgresReads, ReadStore, SqliteReads};
use memori_writer::recall::query::RecallQuery;
use memori_writer::recall::{Recall, RecallConfig};
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::sqlite::SqliteStore;
use memori_writer::store::{self, Store};

use crate::report::{Better, Report, quantile};
use crate::{Options, input};

const ENTITY: &str = "user-0";
const QUERIES: [&str; 8] = [
    "Where did the user go for jasmine tea?",
    "trail running in Oslo",
    "What does the user like about Kyoto?",
    "chess openings",
    "Which trip was number 17-1?",
    "Has the user ever been to Nairobi?",
    "baroque music next spring",
    "plans",
];

async fn ours(recall: &Recall, tenant: &str, count: usize) -> anyhow::Result<Vec<f64>> {
    let mut took = Vec::with_capacity(count);
    for n in 0..count {
        let query = RecallQuery::new(ENTITY, QUERIES[n % QUERIES.len()]);
        let since = Instant::now();
        let answer = recall.recall(tenant, &query, "bench").await?;
        took.push(since.elapsed().as_secs_f64() * 1e3);
        ensure!(!answer.facts.is_empty(), "nothing was recalled");
    }
    Ok(took)
}

async fn floor(reads: &dyn ReadStore, tenant: &str, count: usize) -> anyhow::Result<Vec<f64>> {
    let key = ids::entity_key(tenant, ENTITY);
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let since = Instant::now();
        let version = reads.entity_version(tenant, &key).await?;
        took.push(since.elapsed().as_secs_f64() * 1e3);
        ensure!(version.version.is_some(), "there is no such entity");
    }
    Ok(took)
}

async fn measure(
    name: &str,
    store: &dyn Store,
    reads: Arc<dyn ReadStore>,
    options: Options,
    report: &mut Report,
) -> anyhow::Result<()> {
    let recall = Recall::new(reads.clone(), RecallConfig::default());
    let count = if options.quick { 50 } else { 400 };
    let mut from = 0;
    for facts in [100_usize, 1_000, 10_000] {
        let tenant = format!("facts-{facts}");
        // Two facts an event.
        let events = facts / 2;
        store::flush(store, &input::flush(&tenant, 1, events, 2, from)).await?;
        from += i64::try_from(events)?;
        let image = recall.facts(&tenant, ids::entity_key(&tenant, ENTITY)).await?;
        ensure!(image.len() == facts, "{} facts instead of {facts}", image.len());
        ours(&recall, &tenant, 20).await?;
        let (mut our_runs, mut floor_runs) = (Vec::new(), Vec::new());
        for _ in 0..options.runs {
            our_runs.push(ours(&recall, &tenant, count).await?);
            floor_runs.push(floor(&*reads, &tenant, count).await?);
        }
        for (which, share) in [("p50", 0.5), ("p99", 0.99)] {
            let of = |runs: &[Vec<f64>]| runs.iter().map(|run| quantile(run, share)).collect::<Vec<_>>();
            report.add("recall", &format!("{facts} {which} {name}"), "ms", Better::Lower, &of(&our_runs), &of(&floor_runs));
        }
    }
    Ok(())
}

pub(crate) async fn run(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let database = SqliteDatabase::open(&folder.path().join("recall.db")).await?;
    let store = SqliteStore::new(database.clone());
    store.migrate().await?;
    measure("SQLite", &store, Arc::new(SqliteReads::new(database.reads().clone())), options, report).await?;

    let url = servers.empty_database().await?;
    let target = PostgresTarget::parse(&url, "bench")?;
    let store = PostgresStore::new(target.pool(2)?, &url);
    store.migrate().await?;
    measure("Postgres", &store, Arc::new(PostgresReads::new(target.pool(4)?)), options, report).await
}
