//! Recall in the service, without the query's embedding: hot (the image is validated, all facts are ranked, the answer is built) and
//! cold (the image is read and decoded first, every time).
//!
//! The floor is a bare loop that does only what validates an image: one read of the entity's version row from the same store over
//! the same connections. The peer is the same question as one SQL statement with pgvector and full text search.

use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use async_trait::async_trait;
use memori_embedding::{EmbedError, Embedder, Embedding};
use memori_event_log::sqlite::SqliteDatabase;
use memori_schemas::ids;
use memori_tests::servers::Servers;
use memori_writer::packer::{Packer, PackerConfig};
use memori_writer::plan::EntityRef;
use memori_writer::postgres::PostgresTarget;
use memori_writer::reads::{PostgresReads, ReadStore, SqliteReads};
use memori_writer::recall::query::RecallQuery;
use memori_writer::recall::{Recall, RecallConfig};
use memori_writer::store::packs::PackStore;
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::sqlite::SqliteStore;
use memori_writer::store::{self, Store};

use crate::recall_peer::Peer;
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

/// Events that one flush brings.
const EVENTS_AT_ONCE: usize = 2_500;
const FACTS_PER_EVENT: usize = 2;

/// Makes vectors of the model that the stored ones are of, at no cost.
pub(crate) struct Directions;

#[async_trait]
impl Embedder for Directions {
    fn model(&self) -> &str {
        input::MODEL
    }

    fn dimensions(&self) -> usize {
        input::DIMENSIONS
    }

    async fn embed(&self, texts: &[String]) -> Result<Vec<Embedding>, EmbedError> {
        let embedding = |text: &String| {
            let vector = input::vector(text);
            Embedding { scale: vector.scale, values: vector.values.iter().map(|byte| byte.cast_signed()).collect() }
        };
        Ok(texts.iter().map(embedding).collect())
    }
}

pub(crate) async fn ours(recall: &Recall, tenant: &str, count: usize) -> anyhow::Result<Vec<f64>> {
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

async fn measure<S: Store + PackStore>(
    name: &str,
    store: Arc<S>,
    reads: Arc<dyn ReadStore>,
    peer: Option<&Peer>,
    options: Options,
    report: &mut Report,
) -> anyhow::Result<()> {
    let with_cache = |cache_bytes| {
        Recall::with_embedder(reads.clone(), RecallConfig { cache_bytes, ..RecallConfig::default() }, Some(Arc::new(Directions)))
    };
    let (hot, cold) = (with_cache(1 << 30), with_cache(0));
    let packing = PackerConfig { store: store.clone(), reads: reads.clone(), model: Some(input::MODEL.to_owned()) };
    let (packer, _handle) = Packer::new(packing);
    let sizes: &[usize] = if options.quick { &[100, 1_000] } else { &[100, 1_000, 10_000, 100_000] };
    let mut from = 0;
    for &facts in sizes.iter().filter(|facts| **facts <= options.most_facts) {
        // About as long for each size.
        let count = (if options.quick { 40 } else { 400 }).min(2_000_000 / facts);
        let tenant = format!("facts-{facts}");
        let events = facts / FACTS_PER_EVENT;
        for first in (0..events).step_by(EVENTS_AT_ONCE) {
            let numbers = first..(first + EVENTS_AT_ONCE).min(events);
            let next = from + i64::try_from(numbers.len())?;
            store::flush(&*store, &input::flush(&tenant, 1, numbers, FACTS_PER_EVENT, from)).await?;
            from = next;
        }
        let entity = EntityRef { tenant: tenant.clone(), key: ids::entity_key(&tenant, ENTITY) };
        // As the sink does beside its flushes, once enough has changed.
        packer.pack(&entity).await;
        let image = hot.facts(&tenant, entity.key).await?;
        let shown = image.facts().filter(|fact| fact.kind() == memori_schemas::FactKind::Fact).count();
        ensure!(shown == facts, "{shown} facts instead of {facts}");
        if name == "Postgres" {
            #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
            let bytes = image.bytes as f64 / facts as f64;
            report.add(
                "recall",
                &format!("{facts} cache per fact"),
                "bytes",
                Better::Lower,
                &[bytes],
                &[input::DIMENSIONS as f64],
            );
        }
        drop(image);
        let (mut hot_runs, mut cold_runs, mut floor_runs, mut peer_runs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        ours(&hot, &tenant, QUERIES.len()).await?;
        if let Some(peer) = peer {
            peer.fill(&tenant, ENTITY, events, FACTS_PER_EVENT).await?;
            peer.ask(&tenant, ENTITY, &QUERIES, QUERIES.len()).await?;
        }
        for _ in 0..options.runs {
            hot_runs.push(ours(&hot, &tenant, count).await?);
            cold_runs.push(ours(&cold, &tenant, count.div_ceil(8)).await?);
            floor_runs.push(floor(&*reads, &tenant, count).await?);
            if let Some(peer) = peer {
                peer_runs.push(peer.ask(&tenant, ENTITY, &QUERIES, count.div_ceil(20)).await?);
            }
        }
        for (which, share) in [("p50", 0.5), ("p99", 0.99)] {
            let of = |runs: &[Vec<f64>]| runs.iter().map(|run| quantile(run, share)).collect::<Vec<_>>();
            let (hot, cold, floor) = (of(&hot_runs), of(&cold_runs), of(&floor_runs));
            report.add("recall", &format!("{facts} {which} {name}"), "ms", Better::Lower, &hot, &floor);
            report.add("recall", &format!("{facts} {which} {name}, cold"), "ms", Better::Lower, &cold, &floor);
            if peer.is_some() {
                // Above 1 is faster than the peer.
                report.add(
                    "recall",
                    &format!("{facts} {which} over pgvector + ts_rank"),
                    "ms",
                    Better::Lower,
                    &hot,
                    &of(&peer_runs),
                );
            }
        }
    }
    Ok(())
}

pub(crate) async fn run(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let database = SqliteDatabase::open(&folder.path().join("recall.db")).await?;
    let store = Arc::new(SqliteStore::new(database.clone()));
    store.migrate().await?;
    measure("SQLite", store, Arc::new(SqliteReads::new(database.reads().clone())), None, options, report).await?;

    let url = servers.empty_database().await?;
    let target = PostgresTarget::parse(&url, "bench")?;
    let store = Arc::new(PostgresStore::new(target.pool(2)?, &url));
    store.migrate().await?;
    let peer = Peer::connect(&servers.empty_database().await?).await?;
    measure("Postgres", store, Arc::new(PostgresReads::new(target.pool(4)?)), Some(&peer), options, report).await
}
