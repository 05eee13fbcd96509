//! How long it takes to read an entity for recall: by rows, by packs, by packs and changes, and by changes alone; and what an image
//! and an answer from packs take in all.
//! `cargo run -p memori-writer --example cold_speed --release [-- postgres://…]`; without a URL on SQLite in a temporary folder.
//! Prints p10 and p50 in milliseconds; packs with and without decoding them. Runs one after the other, on one connection.
#![allow(clippy::print_stdout, reason = "it is a command")]

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use memori_embedding::{EmbedError, Embedder, Embedding};
use memori_event_log::sqlite::SqliteDatabase;
use memori_schemas::{EntityKey, FactId, FactKind, Lane, MessageKey, TextHash, Vector, ids};
use memori_writer::packer::{Packer, PackerConfig};
use memori_writer::plan::{
    EntityBatch, EntityRef, EventCopy, EventRef, EventRow, Extraction, Marks, MentionKey, MentionRow, MessageRow,
    MessageVectorKey, MessageVectorRow, OutcomeKind, OutcomeRow, Surface,
};
use memori_writer::postgres::PostgresTarget;
use memori_writer::reads::rows::{Changes, Shown};
use memori_writer::reads::{PostgresReads, ReadStore, SqliteReads};
use memori_writer::recall::packed::FactChunk;
use memori_writer::recall::query::RecallQuery;
use memori_writer::recall::{Recall, RecallConfig};
use memori_writer::store::packs::PackStore;
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::sqlite::SqliteStore;
use memori_writer::store::{self, FlushInput, Store};

const TENANT: &str = "speed";
const MODEL: &str = "speed@1";
const DIMENSIONS: usize = 512;
const RUNS: usize = 40;

// As the programs do.
#[cfg(feature = "kafka")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Embeds at no cost.
struct OneDirection;

#[async_trait]
impl Embedder for OneDirection {
    fn model(&self) -> &str {
        MODEL
    }

    fn dimensions(&self) -> usize {
        DIMENSIONS
    }

    async fn embed(&self, texts: &[String]) -> Result<Vec<Embedding>, EmbedError> {
        Ok(texts.iter().map(|_| Embedding { scale: 0.01, values: vec![3; DIMENSIONS].into() }).collect())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    match std::env::args().nth(1) {
        None => {
            let database = SqliteDatabase::open(&folder.path().join("speed.db")).await?;
            let store = Arc::new(SqliteStore::new(database.clone()));
            measure("sqlite", store, Arc::new(SqliteReads::new(database.reads().clone()))).await
        }
        Some(url) => {
            let pool = || PostgresTarget::parse(&url, "cold-speed")?.pool(1);
            let store = Arc::new(PostgresStore::new(pool()?, &url));
            measure("postgres", store, Arc::new(PostgresReads::new(pool()?))).await
        }
    }
}

async fn measure<S: Store + PackStore>(name: &str, store: Arc<S>, reads: Arc<dyn ReadStore>) -> anyhow::Result<()> {
    store.migrate().await?;
    let config = PackerConfig { store: store.clone(), reads: reads.clone(), model: Some(MODEL.to_owned()) };
    let (packer, _handle) = Packer::new(config);
    for size in [1_000_u32, 10_000] {
        let entity = EntityRef { tenant: TENANT.to_owned(), key: ids::entity_key(TENANT, &format!("entity-{size}")) };
        let model = Some(MODEL);
        for from in (0..size).step_by(1_000) {
            fill(&*store, &entity, from, 1_000).await?;
        }
        let rows = timed(async || {
            reads.fact_rows(TENANT, &entity.key, 1, model).await?;
            Ok(())
        });
        println!("{name} {size:>6} facts, by rows:             {}", rows.await?);
        packer.pack(&entity).await;
        let packed = async || {
            let packed = reads.packed_facts(TENANT, &entity.key, 1, model).await?;
            packed.ok_or_else(|| anyhow::anyhow!("there are no packs"))
        };
        let bytes: usize = packed().await?.chunks.iter().map(|(_, chunk)| chunk.len()).sum();
        println!(
            "{name} {size:>6} facts, packs ({:>5} kB):      {}",
            bytes / 1_000,
            timed(async || packed().await.map(drop)).await?
        );
        let decoded = timed(async || {
            for pair in packed().await?.chunks.chunks_exact(2) {
                std::hint::black_box(FactChunk::decode(pair[0].1.clone(), pair[1].1.clone())?);
            }
            Ok(())
        });
        println!("{name} {size:>6} facts, packs, decoded:       {}", decoded.await?);
        let cold = RecallConfig { cache_bytes: 0, ..RecallConfig::default() };
        let cold = Recall::with_embedder(reads.clone(), cold, Some(Arc::new(OneDirection)));
        let image = timed(async || cold.facts(TENANT, entity.key).await.map(drop).map_err(Into::into));
        println!("{name} {size:>6} facts, packs, an image:      {}", image.await?);
        let query = RecallQuery::new(format!("entity-{size}"), "which tea does Alice prefer?");
        let answer = timed(async || cold.recall(TENANT, &query, "cold").await.map(drop).map_err(Into::into));
        println!("{name} {size:>6} facts, packs, an answer:     {}", answer.await?);
        let shown = reads.entity_version(TENANT, &entity.key).await?;
        let shown = Shown { version: shown.version.unwrap_or_default(), epoch: shown.epoch };
        for (from, count) in [(size, 1), (size + 1, 199)] {
            fill(&*store, &entity, from, count).await?;
            println!("{name} {size:>6} facts, packs + {count:>3} changed:  {}", timed(async || packed().await.map(drop)).await?);
            let changes = timed(async || match reads.fact_changes_since(TENANT, &entity.key, 1, model, shown).await? {
                Changes::Since(_) => Ok(()),
                Changes::Reload => anyhow::bail!("the changes are not told"),
            });
            println!("{name} {size:>6} facts, {count:>3} changes alone:    {}", changes.await?);
        }
    }
    Ok(())
}

async fn timed(mut work: impl AsyncFnMut() -> anyhow::Result<()>) -> anyhow::Result<String> {
    let mut took = Vec::new();
    for _ in 0..RUNS {
        let began = Instant::now();
        work().await?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    Ok(format!("p10 {:>7.2}  p50 {:>7.2}", took[RUNS / 10], took[RUNS / 2]))
}

/// Facts of about a hundred bytes, one message and one event each.
async fn fill(store: &dyn Store, entity: &EntityRef, from: u32, count: u32) -> anyhow::Result<()> {
    let mut batch = EntityBatch { entity_id: "someone".to_owned(), ..EntityBatch::default() };
    for n in from..from + count {
        let text = format!("Alice said in conversation {n} that she prefers tea number {} to coffee in Berlin, mostly", n % 97);
        let (copy, extraction) = said(&entity.key, n, &text);
        batch.copies.push(copy);
        batch.extractions.push(extraction);
    }
    let entities = std::collections::BTreeMap::from([(entity.clone(), batch)]);
    store::flush(store, &FlushInput { entities: entities.into(), ..FlushInput::default() }).await?;
    Ok(())
}

fn said(entity_key: &EntityKey, n: u32, text: &str) -> (EventCopy, Extraction) {
    let at_us = 1_770_000_000_000_000 + i64::from(n) * 60_000_000;
    let mut key = [0; 16];
    key[..4].copy_from_slice(&n.to_be_bytes());
    let message_key = MessageKey(key);
    let event = EventRef { event_id: format!("event-{n}"), content_hash: memori_schemas::ContentHash([1; 32]) };
    let vector = Vector {
        model: MODEL.to_owned(),
        scale: 0.01,
        values: (0..DIMENSIONS).map(|i| u8::try_from((i * 31 + n as usize * 17) % 256).unwrap_or_default()).collect(),
    };
    let message = MessageRow {
        message_key,
        event: event.clone(),
        message_index: 0,
        message_id: format!("event-{n}#0"),
        role: 0,
        name: None,
        content: text.to_owned(),
        content_format: 0,
        created_at_us: None,
        process_id: None,
        session_id: Some(format!("session-{}", n / 20)),
        occurred_at_us: at_us,
    };
    let row = EventRow {
        event: event.clone(),
        erased: false,
        process_id: None,
        session_id: message.session_id.clone(),
        occurred_at_us: at_us,
        accepted_at_us: at_us,
        spooled: false,
        lane: Lane::Live,
        log_partition: 0,
        log_offset: i64::from(n),
        origin: None,
        attempt: 0,
        marks: Marks::default(),
        client_fields: None,
    };
    let outcome = OutcomeRow {
        event: event.clone(),
        generation: 1,
        kind: OutcomeKind::Applied,
        lane: Lane::Live,
        log_topic_id: "facts".to_owned(),
        log_partition: 0,
        log_offset: i64::from(n),
        event_lane: Lane::Live,
        event_offset: i64::from(n),
        event_origin: None,
        event_spooled: false,
        event_accepted_at_us: at_us,
        attempt: 0,
        withdrawn: false,
        dead_letter_class: None,
        dead_letter_reason: None,
        extractor_name: None,
        extractor_version: None,
        extractor_model: None,
        prompt_hash: None,
        tokens_in: 0,
        tokens_out: 0,
        cost_micros: 0,
        ended_at_us: at_us,
    };
    let fact_id: FactId = ids::fact_id(entity_key, 1, FactKind::Fact, Some("Alice"), text);
    let mention = MentionRow {
        key: MentionKey { generation: 1, fact_id, message_key, event: event.clone() },
        message_index: 0,
        message_id: message.message_id.clone(),
        session_id: message.session_id.clone(),
        occurred_at_us: at_us,
        lane: Lane::Live,
        log_partition: 0,
        log_offset: i64::from(n),
        text_hash: TextHash([2; 16]),
        triple_hash: None,
        surface: Surface {
            kind: FactKind::Fact,
            text: text.to_owned(),
            subject: Some("Alice".to_owned()),
            predicate: Some("prefers".to_owned()),
            object: None,
            slot: None,
            confidence: 0.9,
            valid_from_us: None,
            valid_to_us: None,
            extractor: "builtin/1".to_owned(),
            process_id: None,
        },
        vector: Some(vector.clone()),
    };
    let key = MessageVectorKey { generation: 1, message_key, event };
    let message_vector = MessageVectorRow { key, message_index: 0, vector };
    let extraction = Extraction { outcomes: vec![outcome], mentions: vec![mention], message_vectors: vec![message_vector] };
    (EventCopy { row, messages: vec![message] }, extraction)
}
