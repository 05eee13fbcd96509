//! How long recall takes over the SQLite store: `cargo run -p memori-writer --example recall_speed --release`.
//! Prints milliseconds per size: reading and indexing once, then p50 and p99 of hot recalls, and of ranking alone.
#![allow(clippy::print_stdout, reason = "it is a command")]

use std::sync::Arc;
use std::time::Instant;

use memori_event_log::sqlite::SqliteDatabase;
use memori_schemas::{Micros, ids};
use memori_writer::reads::SqliteReads;
use memori_writer::recall::answer::answer;
use memori_writer::recall::{Recall, RecallConfig, RecallQuery};
use memori_writer::store::Store as _;
use memori_writer::store::sqlite::SqliteStore;

const WORDS: &[&str] = &[
    "prefers", "coffee", "tea", "Berlin", "Paris", "running", "guitar", "meeting", "project", "Rust", "Python", "garden",
    "allergic", "peanuts", "sister", "brother", "birthday", "holiday", "mountain", "river", "cooks", "lentils", "reads",
    "novels", "cycling", "train",
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let database = SqliteDatabase::open(&folder.path().join("speed.db")).await?;
    SqliteStore::new(database.clone()).migrate().await?;
    for size in [100_u32, 1_000, 10_000] {
        let entity = format!("entity-{size}");
        fill(&database, &entity, size).await?;
        let recall = Recall::new(Arc::new(SqliteReads::new(database.reads().clone())), RecallConfig::default());
        let query = |n: usize| {
            let word = |k: usize| WORDS[(n * 7 + k * 5) % WORDS.len()];
            RecallQuery::new(entity.clone(), format!("what does Alice think about {} and {} in {}", word(1), word(2), word(3)))
        };
        let began = Instant::now();
        recall.recall("t", &query(0), "single").await?;
        let cold = began.elapsed().as_secs_f64() * 1e3;
        let mut hot = Vec::new();
        for n in 0..500 {
            let began = Instant::now();
            recall.recall("t", &query(n), "single").await?;
            hot.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let image = recall.facts("t", ids::entity_key("t", &entity)).await?;
        let mut pure = Vec::new();
        for n in 0..500 {
            let began = Instant::now();
            std::hint::black_box(answer(&image, None, &query(n), None, Micros(0)));
            pure.push(began.elapsed().as_secs_f64() * 1e3);
        }
        hot.sort_by(f64::total_cmp);
        pure.sort_by(f64::total_cmp);
        println!(
            "{size:>6} facts: first {cold:.2} ms, hot p50 {:.3} p99 {:.3} ms, ranking p50 {:.3} ms, image {} kB",
            hot[250],
            hot[495],
            pure[250],
            image.bytes / 1_000
        );
    }
    Ok(())
}

async fn fill(database: &SqliteDatabase, entity: &str, size: u32) -> anyhow::Result<()> {
    let key = ids::entity_key("t", entity);
    let mut connection = database.writes().acquire().await?;
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    sqlx::query("INSERT INTO entities (tenant, entity_key, entity_id, version) VALUES ('t', $1, $2, 1)")
        .bind(&key.0[..])
        .bind(entity)
        .execute(&mut *connection)
        .await?;
    for n in 0..size {
        let word = |k: u32| WORDS[(n * 31 + k * k * 17 + n / 26 * k) as usize % WORDS.len()];
        let text = format!("Alice {} {} with {} and {} every {} ({n})", word(1), word(2), word(3), word(4), word(5));
        let id = ids::fact_id(&key, 1, memori_schemas::FactKind::Fact, Some("Alice"), &text);
        let (id, at) = (id.0.as_bytes().to_vec(), i64::from(n) * 1_000_000);
        sqlx::query(
            "INSERT INTO facts VALUES ('t', $1, 1, $2, 0, $3, 'Alice', NULL, NULL, NULL, 0.9, NULL, 'builtin/1', $4, $5, 0)",
        )
        .bind(&key.0[..])
        .bind(&id)
        .bind(&text)
        .bind(at)
        .bind(format!("event-{n}"))
        .execute(&mut *connection)
        .await?;
        sqlx::query("INSERT INTO fact_stats VALUES ('t', $1, 1, $2, 1, $3, $3)")
            .bind(&key.0[..])
            .bind(&id)
            .bind(at)
            .execute(&mut *connection)
            .await?;
        sqlx::query("INSERT INTO validity VALUES ('t', $1, 1, $2, $3, NULL, NULL)")
            .bind(&key.0[..])
            .bind(&id)
            .bind(at)
            .execute(&mut *connection)
            .await?;
        sqlx::query(
            "INSERT INTO mentions (tenant, entity_key, generation, fact_id, message_key, event_id, content_hash, message_index, message_id, \
             session_id, occurred_at_us, lane, log_partition, log_offset, text_hash, triple_hash, surface) VALUES ('t', $1, 1, $2, $3, $4, $5, 0, $4, 's', $6, 0, 0, $7, $3, NULL, '{\"process_id\":null}')",
        )
        .bind(&key.0[..])
        .bind(&id)
        .bind(&id)
        .bind(format!("event-{n}"))
        .bind(&[0_u8; 32][..])
        .bind(at)
        .bind(i64::from(n))
        .execute(&mut *connection)
        .await?;
    }
    sqlx::raw_sql("COMMIT").execute(&mut *connection).await?;
    Ok(())
}
