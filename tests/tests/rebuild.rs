//! Deletions outlive the view: a fact forgotten and an entity erased stay so after the tables are dropped and built again from the
//! log, and so does everything else.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use memori_event_log::sqlite::SqliteDatabase;
use memori_tests::audit::{self, Observed};
use memori_tests::client::{Api, escape};
use memori_tests::distributed::Distributed;
use memori_tests::embedded::Embedded;
use memori_tests::servers::Servers;
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::Store as _;
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::sqlite::SqliteStore;
use reqwest::StatusCode;
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(120);
const TENANT: &str = "tenant-a";

fn event(event_id: &str, entity_id: &str, text: &str) -> Value {
    let at = format!("2026-02-0{}T10:00:00Z", 1 + event_id.len() % 9);
    json!({"event_id": event_id, "entity_id": entity_id, "session_id": "s", "occurred_at": at, "messages": [{"role": "user", "content": text}]})
}

async fn post(api: &Api, events: &[Value]) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for event in events {
        let answer = api.post("/v1/events", event).await?;
        ensure!(answer.status == StatusCode::ACCEPTED, "{}: {}", answer.status, answer.body);
        ids.push(event["event_id"].as_str().context("an id")?.to_owned());
    }
    api.wait_final(&ids, WITHIN).await?;
    Ok(ids)
}

async fn recalled(api: &Api, entity_id: &str) -> anyhow::Result<String> {
    let answer =
        api.post("/v1/recall", &json!({"entity_id": entity_id, "query": "tea", "limit": 100, "include_messages": true})).await?;
    ensure!(answer.status == StatusCode::OK, "{}: {}", answer.status, answer.body);
    Ok(answer.body["facts"].to_string())
}

/// Teaches, forgets one fact, erases one entity, teaches some more; returns every event id.
async fn teach_and_delete(api: &Api) -> anyhow::Result<Vec<String>> {
    let mut ids = post(
        api,
        &[
            event("k1", "kept", "I live in Lisbon."),
            event("k22", "kept", "I like jasmine tea."),
            event("f1", "forgetful", "I like oolong tea."),
            event("f22", "forgetful", "I live in Porto."),
            event("e1", "erased", "I like secret tea."),
            event("e22", "erased", "My name is Nobody."),
        ],
    )
    .await?;

    let facts = api.facts("forgetful").await?;
    let oolong = facts.iter().find(|fact| fact["content"].to_string().contains("oolong")).context("oolong was learned")?;
    let fact_id = oolong["fact_id"].as_str().context("an id")?;
    let answer = api.delete(&format!("/v1/facts/{fact_id}")).await?;
    ensure!(answer.status == StatusCode::NO_CONTENT, "DELETE fact: {}: {}", answer.status, answer.body);
    ensure!(!recalled(api, "forgetful").await?.contains("oolong"), "a forgotten fact is recalled");

    let answer = api.delete(&format!("/v1/entities/{}", escape("erased"))).await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "DELETE entity: {}: {}", answer.status, answer.body);
    let receipt = answer.body["erasure_id"].as_str().context("a receipt's id")?.to_owned();
    let since = std::time::Instant::now();
    while api.export("erased").await?.iter().any(|line| ["message", "fact"].contains(&line["type"].as_str().unwrap_or(""))) {
        ensure!(since.elapsed() < WITHIN, "an erased entity is still exported");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = api.get(&format!("/v1/erasures/{receipt}")).await?;
    ensure!(answer.status == StatusCode::OK, "receipt: {}: {}", answer.status, answer.body);

    // What comes later is another matter: a new message teaches the fact again, an erased entity may come back.
    ids.extend(post(api, &[event("k333", "kept", "I have 3 cats."), event("n1", "newcomer", "I like oolong tea.")]).await?);
    Ok(ids)
}

async fn seen(api: &Api, ids: &[String]) -> anyhow::Result<Observed> {
    audit::observe(api, ids, WITHIN).await
}

/// What must hold before and after.
fn check(observed: &Observed) -> anyhow::Result<()> {
    let status = |id: &str| observed.events[id].as_ref().map_or("unknown", |status| status["status"].as_str().unwrap_or(""));
    for (id, expected) in [("k1", "applied"), ("f1", "applied"), ("e1", "erased"), ("e22", "erased"), ("n1", "applied")] {
        ensure!(status(id) == expected, "event {id} is {}, not {expected}", status(id));
    }
    let facts_of = |entity: &str| -> String {
        let lines = observed.entities.get(entity).into_iter().flatten();
        lines.filter(|line| line["type"] == "fact").map(Value::to_string).collect()
    };
    ensure!(
        facts_of("kept").contains("jasmine") && facts_of("kept").contains("Lisbon"),
        "kept lost a fact: {}",
        facts_of("kept")
    );
    ensure!(
        !facts_of("forgetful").contains("oolong") && facts_of("forgetful").contains("Porto"),
        "forgetful: {}",
        facts_of("forgetful")
    );
    ensure!(facts_of("newcomer").contains("oolong"), "forgetting one entity's fact touched another's: {}", facts_of("newcomer"));
    for (entity, lines) in &observed.entities {
        for line in lines {
            let text = line.to_string();
            ensure!(!text.contains("secret tea") && !text.contains("Nobody"), "erased words are exported for {entity}: {text}");
        }
    }
    Ok(())
}

fn check_rebuilt(before: &Observed, after: &Observed) -> anyhow::Result<()> {
    check(after).context("after the rebuild")?;
    audit::none(&audit::unlike(before, after)).context("the rebuilt view is another one")
}

/// After the rebuild deletions still name messages, not statements.
async fn teach_again(api: &Api) -> anyhow::Result<()> {
    post(api, &[event("f333", "forgetful", "I like oolong tea."), event("e333", "erased", "I like open tea.")]).await?;
    ensure!(recalled(api, "forgetful").await?.contains("oolong"), "a new message does not teach a forgotten fact again");
    let again = recalled(api, "erased").await?;
    ensure!(again.contains("open tea") && !again.contains("secret"), "after an erasure: {again}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() -> anyhow::Result<()> {
    let mut shape = Embedded::start(&[TENANT.to_owned()], &[])?;
    let api = shape.api(TENANT);
    let ids = teach_and_delete(&api).await?;
    let before = seen(&api, &ids).await?;
    check(&before)?;

    shape.process.stop()?;
    let database = SqliteDatabase::open(&shape.database()?).await?;
    SqliteStore::new(database.clone()).drop_view().await?;
    database.reads().close().await;
    database.writes().close().await;
    drop(database);
    tokio::task::block_in_place(|| shape.process.start_again())?;

    check_rebuilt(&before, &seen(&api, &ids).await?)?;
    teach_again(&api).await
}

/// The log stands beside the view in one schema, and is not dropped with it.
#[tokio::test(flavor = "multi_thread")]
async fn embedded_on_postgres() -> anyhow::Result<()> {
    let url = tokio::task::block_in_place(Servers::shared)?.empty_database().await?;
    let mut shape = Embedded::on_postgres(&[TENANT.to_owned()], &url, &[])?;
    let api = shape.api(TENANT);
    let ids = teach_and_delete(&api).await?;
    let before = seen(&api, &ids).await?;
    check(&before)?;

    tokio::task::block_in_place(|| shape.process.stop())?;
    let store = PostgresStore::new(PostgresTarget::parse(&url, "rebuild")?.pool(1)?, &url);
    store.drop_view().await?;
    ensure!(store.dump().await.is_err(), "the view is still there");
    tokio::task::block_in_place(|| shape.process.start_again())?;

    check_rebuilt(&before, &seen(&api, &ids).await?)?;
    teach_again(&api).await
}

#[tokio::test(flavor = "multi_thread")]
async fn distributed() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let mut shape = Distributed::start(servers, &[TENANT.to_owned()], 1, &[]).await?;
    let api = shape.api(TENANT);
    let ids = teach_and_delete(&api).await?;
    let before = seen(&api, &ids).await?;
    check(&before)?;

    tokio::task::block_in_place(|| shape.writer.stop())?;
    let store = PostgresStore::new(PostgresTarget::parse(&shape.database, "rebuild")?.pool(1)?, &shape.database);
    store.drop_view().await?;
    ensure!(store.dump().await.is_err(), "the view is still there");
    shape.migrate()?;
    tokio::task::block_in_place(|| shape.writer.start_again())?;

    check_rebuilt(&before, &seen(&api, &ids).await?)?;
    teach_again(&api).await
}
