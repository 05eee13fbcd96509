//! `memori rebuild`: the view made again from the log is the one before, row by row, with everything running or with nothing.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use memori_event_log::sqlite::SqliteDatabase;
use memori_event_log::{Topic, TopicPartition};
use memori_tests::audit;
use memori_tests::client::{Api, escape};
use memori_tests::distributed::Distributed;
use memori_tests::embedded::Embedded;
use memori_tests::servers::Servers;
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::sqlite::SqliteStore;
use memori_writer::store::{Dump, Store};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use reqwest::StatusCode;
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(120);
const TENANT: &str = "tenant-a";

/// Conversations of several entities, a forgotten fact, an erased entity; returns every event's id.
async fn live_a_little(api: &Api) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for (n, (entity, text)) in [
        ("ann", "I live in Lisbon."),
        ("ann", "I like jasmine tea."),
        ("ann", "I moved to Porto."),
        ("bob", "I like oolong tea."),
        ("bob", "I have 3 cats."),
        ("eve", "My name is Nobody."),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("event-{n}");
        let event = json!({"event_id": id, "entity_id": entity, "occurred_at": format!("2026-02-0{}T10:00:00Z", n + 1),
            "messages": [{"role": "user", "content": text}]});
        let answer = api.post("/v1/events", &event).await?;
        ensure!(answer.status == StatusCode::ACCEPTED, "{}: {}", answer.status, answer.body);
        ids.push(id);
    }
    api.wait_final(&ids, WITHIN).await?;
    let facts = api.facts("bob").await?;
    let oolong = facts.iter().find(|fact| fact["content"].to_string().contains("oolong")).context("oolong was learned")?;
    let answer = api.delete(&format!("/v1/facts/{}", oolong["fact_id"].as_str().context("an id")?)).await?;
    ensure!(answer.status == StatusCode::NO_CONTENT, "DELETE fact: {}: {}", answer.status, answer.body);
    let answer = api.delete(&format!("/v1/entities/{}", escape("eve"))).await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "DELETE entity: {}: {}", answer.status, answer.body);
    while !api.export("eve").await?.iter().all(|line| line["type"] != "message" && line["type"] != "fact") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(ids)
}

fn rebuilt(output: &Output) -> anyhow::Result<Value> {
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "memori rebuild: {}\n{out}\n{errors}", output.status);
    let last: Value = serde_json::from_str(out.lines().last().context("it said nothing")?)?;
    ensure!(last["state"] == "done" && last["progress"]["records"] == last["progress"]["of"], "{last}");
    Ok(last)
}

fn same(before: &Dump, after: &Dump) -> anyhow::Result<()> {
    let difference = before.difference(after);
    ensure!(difference.is_empty() && before == after, "the rebuilt view is another one: {difference:#?}");
    ensure!(
        before.0["facts"].len() > 3 && !before.0["forgets"].is_empty() && !before.0["erasures"].is_empty(),
        "too little to compare"
    );
    Ok(())
}

fn postgres(url: &str) -> anyhow::Result<PostgresStore> {
    Ok(PostgresStore::new(PostgresTarget::parse(url, "rebuild")?.pool(1)?, url))
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() -> anyhow::Result<()> {
    let mut shape = Embedded::start(&[TENANT.to_owned()], &[])?;
    let ids = live_a_little(&shape.api(TENANT)).await?;
    let before = audit::observe(&shape.api(TENANT), &ids, WITHIN).await?;
    let refused = shape.memori(&["rebuild", "--yes"])?;
    ensure!(
        refused.status.code() == Some(2) && String::from_utf8_lossy(&refused.stderr).contains("in use"),
        "a folder that is in use: {refused:?}"
    );
    shape.process.stop()?;
    let asked = shape.memori(&["rebuild"])?;
    ensure!(asked.status.code() == Some(2) && String::from_utf8_lossy(&asked.stderr).contains("--yes"), "{asked:?}");
    let file = shape.database()?;
    let dump = async || -> anyhow::Result<Dump> {
        let database = SqliteDatabase::open(&file).await?;
        let dump = SqliteStore::new(database.clone()).dump().await?;
        database.close().await;
        Ok(dump)
    };
    let stored = dump().await?;
    rebuilt(&shape.memori(&["rebuild", "--yes", "--json"])?)?;
    same(&stored, &dump().await?)?;
    tokio::task::block_in_place(|| shape.process.start_again())?;
    audit::none(&audit::unlike(&before, &audit::observe(&shape.api(TENANT), &ids, WITHIN).await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_on_postgres() -> anyhow::Result<()> {
    let url = tokio::task::block_in_place(Servers::shared)?.empty_database().await?;
    let mut shape = Embedded::on_postgres(&[TENANT.to_owned()], &url, &[])?;
    live_a_little(&shape.api(TENANT)).await?;
    tokio::task::block_in_place(|| shape.process.stop())?;
    let store = postgres(&url)?;
    let before = store.dump().await?;
    rebuilt(&shape.memori(&["rebuild", "--yes", "--json"])?)?;
    same(&before, &store.dump().await?)
}

/// Everything runs on; recall never shows a half of the old view beside a half of the new one under one version.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_writer_that_runs() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let shape = Distributed::start(servers, &[TENANT.to_owned()], 1, &[]).await?;
    let api = shape.api(TENANT);
    let ids = live_a_little(&api).await?;
    let store = postgres(&shape.database)?;
    let (before, stored) = (audit::observe(&api, &ids, WITHIN).await?, store.dump().await?);
    for _ in 0..2 {
        rebuilt(&shape.memori(&["rebuild", "--platform", "--yes", "--json"])?)?;
        same(&stored, &store.dump().await?)?;
        audit::none(&audit::unlike(&before, &audit::observe(&api, &ids, WITHIN).await?))?;
    }
    // The writer that ran beside goes on with what is new.
    let event = json!({"event_id": "after", "entity_id": "bob", "messages": [{"role": "user", "content": "I like oolong tea."}]});
    ensure!(api.post("/v1/events", &event).await?.status == StatusCode::ACCEPTED);
    api.wait_final(&["after".to_owned()], WITHIN).await?;
    ensure!(
        api.facts("bob").await?.iter().any(|fact| fact["content"].to_string().contains("oolong")),
        "a new message teaches again"
    );
    Ok(())
}

/// What the log has lost a rebuild would lose as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_has_lost_its_head_is_refused() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let shape = Distributed::start(servers, &[TENANT.to_owned()], 1, &[]).await?;
    live_a_little(&shape.api(TENANT)).await?;
    let store = postgres(&shape.database)?;
    let before = store.dump().await?;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers.kafka_brokers()).create()?;
    let row = before.0["events"].first().context("an event")?;
    let trimmed = TopicPartition {
        topic: Topic::ConversationsLive,
        partition: i32::try_from(row["log_partition"].as_i64().context("a partition")?)?,
    };
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&format!("{}.{}", shape.prefix, trimmed.topic), trimmed.partition, Offset::Offset(1))?;
    for element in admin.delete_records(&list, &AdminOptions::new()).await?.elements() {
        element.error()?;
    }
    let refused = shape.memori(&["rebuild", "--platform", "--yes"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(2) && said.contains(&trimmed.to_string()) && said.contains("archive.url"), "{said}");
    ensure!(before == store.dump().await?, "it was touched");
    Ok(())
}
