//! The reads on Postgres answer what the reads on SQLite answer, byte for byte, to the same memory.

#[path = "../../writer/tests/world/mod.rs"]
mod world;

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use memori_schemas::{FactKind, Role, ids};
use memori_tests::Servers;
use memori_writer::api::ApiConfig;
use memori_writer::postgres::PostgresTarget;
use memori_writer::reads::PostgresReads;
use memori_writer::store::postgres::PostgresStore;
use serde_json::{Value, json};
use world::{TENANT, World, event, fact, rehash};

use Role::{Assistant, User};

async fn remember(world: &mut World) {
    let mut told = event("alice", "e1", 0, &[(User, "I prefer async Python"), (Assistant, "Noted: async Python!")]);
    (told.process_id, told.session_id) = (Some("bot".into()), Some("s-1".into()));
    rehash(&mut told);
    let mut python = fact(&told, 0, FactKind::Fact, "Alice prefers async Python");
    (python.subject, python.predicate, python.object) =
        (Some("Alice".into()), Some("prefers".into()), Some("async Python".into()));
    world.said(&told);
    world.learned(&told, 1, vec![python]);
    for (n, city) in ["Paris", "Berlin", "Paris"].iter().enumerate() {
        let e = event("alice", &format!("c{n}"), 100 * i64::try_from(n).unwrap(), &[(User, &format!("I live in {city}, {n}"))]);
        let mut lives = fact(&e, 0, FactKind::Fact, &format!("Alice lives in {city}"));
        lives.slot = Some("user/lives_in".into());
        world.said(&e);
        world.learned(&e, 1, vec![lives]);
        world.flush().await;
    }
    let metric = event("alice", "m", 400, &[(User, "Always use metric units"), (User, "他住在巴黎")]);
    world.told(&metric, &[(FactKind::Instruction, "Always use metric units for Alice"), (FactKind::Attribute, "他住在巴黎")]);
    let second = event("alice", "g2", 500, &[(User, "another pipeline")]);
    world.said(&second);
    world.learned(&second, 2, vec![fact(&second, 0, FactKind::Fact, "of another pipeline")]);
    let dead = event("bob", "dead", 0, &[(User, "x")]);
    world.said(&dead);
    world.buried(&dead, "refused");
    let gone = event("carol", "gone", 0, &[(User, "y")]);
    world.told(&gone, &[(FactKind::Fact, "soon gone")]);
    world.flush().await;
    world.erased("carol", "x1");
    world.forgotten("alice", &fact(&metric, 0, FactKind::Attribute, "他住在巴黎"), "f1");
    world.flush().await;
}

/// Answers without what tells the time it took.
async fn answers(world: &World) -> Vec<(String, u16, Value)> {
    let key = ids::entity_key(TENANT, "alice");
    let python = ids::fact_id(&key, 1, FactKind::Fact, Some("Alice"), "Alice prefers async Python");
    let second = ids::fact_id(&key, 2, FactKind::Fact, None, "of another pipeline");
    let events = json!({"event_ids": ["e1", "c0", "c1", "g2", "dead", "gone", "nobody"], "timeout_ms": 0});
    let only_ids = json!({"event_ids": events["event_ids"]});
    let mut all = Vec::new();
    for path in [
        "/v1/entities?limit=1".to_owned(),
        "/v1/entities".to_owned(),
        "/v1/entities/alice/facts?limit=2".to_owned(),
        "/v1/entities/alice/facts".to_owned(),
        format!("/v1/facts/{python}"),
        format!("/v1/facts/{second}"),
        format!("/v1/facts/{python}/lineage"),
        format!("/internal/v1/facts/{python}/forget"),
        format!("/v1/facts/{}", ids::fact_id(&key, 1, FactKind::Fact, None, "never")),
        "/v1/erasures/x1".to_owned(),
        "/v1/erasures/x2".to_owned(),
    ] {
        let answer = world.get(&path).await;
        all.push((path, answer.status.as_u16(), answer.json()));
    }
    let export = world.get("/v1/entities/alice/export").await;
    all.push(("export".into(), export.status.as_u16(), export.lines().into()));
    for (path, body) in [
        (
            "/v1/recall",
            json!({"entity_id": "alice", "query": "where does Alice live", "include_messages": true, "include_superseded": true}),
        ),
        ("/v1/recall", json!({"entity_id": "alice", "query": "Python", "as_of": "2026-01-01T02:00:00Z", "process_id": "bot"})),
        ("/v1/recall", json!({"entity_id": "carol", "query": "gone"})),
        ("/internal/v1/events/status", only_ids.clone()),
        ("/internal/v1/events/known", only_ids),
        ("/internal/v1/events/wait", events),
        ("/internal/v1/controls/wait", json!({"entity_id": "alice", "forget_id": "f1"})),
        ("/internal/v1/controls/wait", json!({"entity_id": "carol", "erasure_id": "x1"})),
        ("/internal/v1/controls/wait", json!({"entity_id": "carol", "erasure_id": "x2", "timeout_ms": 0})),
    ] {
        let answer = world.post(path, body).await;
        let mut shown = answer.json();
        if let Some(fields) = shown.as_object_mut() {
            fields.remove("took_ms");
        }
        all.push((path.to_owned(), answer.status.as_u16(), shown));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_answers_as_sqlite_does() -> Result<()> {
    let servers = tokio::task::spawn_blocking(Servers::shared).await??;
    let url = servers.empty_database().await?;
    let pool = |name: &str| PostgresTarget::parse(&url, name)?.pool(4);
    let store = PostgresStore::new(pool("sink")?, url.clone());
    let reads = PostgresReads::new(pool("recall")?);
    let mut postgres = World::over(Arc::new(store), Arc::new(reads), ApiConfig::default()).await;
    let mut sqlite = World::sqlite().await;
    remember(&mut postgres).await;
    remember(&mut sqlite).await;
    let (ours, theirs) = (answers(&postgres).await, answers(&sqlite).await);
    ensure!(ours.len() == theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        ensure!(ours == theirs, "Postgres: {ours:#?}\nSQLite: {theirs:#?}");
    }
    // They agree about something: what was said is there, on both.
    let recalled = ours.iter().find(|(path, ..)| path == "/v1/recall").context("a recall")?;
    ensure!(recalled.1 == 200 && recalled.2["facts"].as_array().is_some_and(|facts| facts.len() == 3), "{recalled:#?}");

    // Many readers at once, each its own snapshot.
    let reads = (0..32).map(|_| postgres.get("/v1/entities/alice/facts"));
    for answer in futures::future::join_all(reads).await {
        ensure!(answer.status == 200);
    }
    Ok(())
}
