//! What a lineage made is taken back, stays so over a rebuild, and can be made again.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use memori_tests::administration::Operator;
use memori_tests::client::Api;
use memori_tests::distributed::Distributed;
use memori_tests::embedded::Embedded;
use memori_tests::keys::Keys;
use memori_tests::replays;
use memori_tests::servers::Servers;
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::Store as _;
use memori_writer::store::postgres::PostgresStore;
use reqwest::StatusCode;
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(120);
const TENANT: &str = "tenant-a";

async fn post(api: &Api, events: &[(&str, &str, &str)]) -> anyhow::Result<()> {
    for (n, (id, entity, text)) in events.iter().enumerate() {
        let event = json!({"event_id": id, "entity_id": entity, "occurred_at": format!("2026-03-0{}T10:00:00Z", n + 1),
            "messages": [{"role": "user", "content": text}]});
        let answer = api.post("/v1/events", &event).await?;
        ensure!(answer.status == StatusCode::ACCEPTED, "{}: {}", answer.status, answer.body);
    }
    let ids: Vec<String> = events.iter().map(|(id, ..)| (*id).to_owned()).collect();
    api.wait_final(&ids, WITHIN).await
}

/// As the operator, who names the tenant.
async fn ask(api: &Api, path: &str, mut body: Value) -> anyhow::Result<Value> {
    body["tenant"] = TENANT.into();
    let answer = operator(api).post(path, &body).await?;
    ensure!(answer.status == StatusCode::OK, "{path}: {}: {}", answer.status, answer.body);
    Ok(answer.body)
}

fn operator(api: &Api) -> Api {
    api.with_key(Some(Keys::OPERATOR))
}

async fn lineage(api: &Api) -> anyhow::Result<Value> {
    let answer = operator(api).get(&format!("/v1/admin/lineages?tenant={TENANT}")).await?;
    ensure!(answer.status == StatusCode::OK, "{}: {}", answer.status, answer.body);
    let found = answer.body["lineages"].as_array().context("lineages")?.clone();
    ensure!(found.len() == 1, "{found:?}");
    Ok(found[0].clone())
}

async fn known(api: &Api, entity: &str) -> anyhow::Result<String> {
    Ok(Value::from(api.facts(entity).await?).to_string())
}

/// Everything that a client sees of it, through one front door.
async fn withdrawn_and_made_again(api: &Api) -> anyhow::Result<()> {
    post(api, &[("a1", "ann", "I live in Lisbon."), ("a2", "ann", "I like jasmine tea."), ("b1", "bob", "I have 3 cats.")])
        .await?;
    let before = lineage(api).await?;
    ensure!(before["extractor"] == "builtin" && before["events"] == 3 && before["withdrawn"] == 0, "{before}");
    ensure!(before["facts"].as_i64() >= Some(3), "{before}");
    let shown = (known(api, "ann").await?, known(api, "bob").await?);
    ensure!(shown.0.contains("Lisbon") && shown.1.contains("cats"), "{shown:?}");

    // Nothing, without a selection; nothing, of another lineage; nothing, when only asked what it would be.
    let refused = operator(api).post("/v1/admin/lineages/withdraw", &json!({"tenant": TENANT})).await?;
    ensure!(refused.status == StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.body);
    let other = ask(api, "/v1/admin/lineages/withdraw", json!({"model": "gpt-none"})).await?;
    ensure!(other["entities"] == 0, "{other}");
    let dry = ask(api, "/v1/admin/lineages/withdraw", json!({"extractor": "builtin", "dry_run": true})).await?;
    ensure!(dry["entities"] == 2 && dry["events"] == 3 && dry["withdrawal_id"].is_null(), "{dry}");
    ensure!(known(api, "ann").await? == shown.0);

    let done = ask(api, "/v1/admin/lineages/withdraw", json!({"extractor": "builtin", "generation": 1})).await?;
    ensure!(done["entities"] == 2 && done["events"] == 3 && done["applied"] == 2, "{done}");
    for entity in ["ann", "bob"] {
        ensure!(api.facts(entity).await?.is_empty(), "{entity} is still known: {}", known(api, entity).await?);
        ensure!(api.export(entity).await?.iter().any(|line| line["type"] == "message"), "what was said stays");
    }
    let event = api.event("a1").await?.context("an event")?;
    ensure!(event["status"] == "applied" && event["facts"] == 0, "{event}");
    let after = lineage(api).await?;
    ensure!(after["withdrawn"] == 3 && after["facts"] == 0 && after["mentions"] == 0, "{after}");
    let again = ask(api, "/v1/admin/lineages/withdraw", json!({"extractor": "builtin"})).await?;
    ensure!(again["entities"] == 0, "what is withdrawn is not found again: {again}");
    // What is extracted later stands.
    post(api, &[("b2", "bob", "I live in Porto.")]).await?;
    ensure!(known(api, "bob").await?.contains("Porto"));
    // Each call is a line of the audit log, one that goes on with a withdrawal of the caller's naming too.
    let asked = acts(api, "facts.withdraw").await?;
    for _ in 0..2 {
        ask(api, "/v1/admin/lineages/withdraw", json!({"model": "gpt-none", "withdrawal_id": "mine"})).await?;
    }
    let named = acts(api, "facts.withdraw").await?;
    ensure!(named.len() == asked.len() + 2 && named[..2].iter().all(|line| line["subject"] == "mine"), "{named:?}");
    Ok(())
}

/// The lines of the audit log that tell of an act, the latest first.
async fn acts(api: &Api, act: &str) -> anyhow::Result<Vec<Value>> {
    let log = operator(api).get("/v1/admin/audit").await?.body;
    let lines = log["acts"].as_array().with_context(|| format!("an audit log: {log}"))?;
    Ok(lines.iter().filter(|line| line["act"] == act).cloned().collect())
}

async fn made_again(api: &Api) -> anyhow::Result<()> {
    let dry = ask(api, "/v1/admin/lineages/re-extract", json!({"extractor": "builtin", "dry_run": true})).await?;
    ensure!(dry["events"] == 3 && dry["refused"] == 0, "{dry}");
    let gone = ask(api, "/v1/admin/lineages/re-extract", json!({"extractor": "builtin"})).await?;
    ensure!(gone["events"] == 3, "{gone}");
    let since = std::time::Instant::now();
    while lineage(api).await?["withdrawn"] != 0 {
        ensure!(since.elapsed() < WITHIN, "the events are not extracted again: {}", lineage(api).await?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(known(api, "ann").await?.contains("Lisbon") && known(api, "bob").await?.contains("cats"));
    let none = ask(api, "/v1/admin/lineages/re-extract", json!({})).await?;
    ensure!(none["events"] == 0, "{none}");
    ensure!(!acts(api, "facts.re_extract").await?.is_empty(), "an extraction that is asked for is an act");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() -> anyhow::Result<()> {
    let mut shape = Embedded::start(&[TENANT.to_owned()], &[])?;
    withdrawn_and_made_again(&shape.api(TENANT)).await?;
    let before = (known(&shape.api(TENANT), "ann").await?, known(&shape.api(TENANT), "bob").await?);
    for again in [false, true] {
        if again {
            made_again(&shape.api(TENANT)).await?;
        }
        let api = shape.api(TENANT);
        let before = if again { (known(&api, "ann").await?, known(&api, "bob").await?) } else { before.clone() };
        shape.process.stop()?;
        let output = shape.memori(&["rebuild", "--yes"])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        tokio::task::block_in_place(|| shape.process.start_again())?;
        let api = shape.api(TENANT);
        ensure!((known(&api, "ann").await?, known(&api, "bob").await?) == before, "a rebuild makes another memory");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn distributed() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let shape = Distributed::start(servers, &[TENANT.to_owned()], 1, &[]).await?;
    let api = shape.api(TENANT);
    withdrawn_and_made_again(&api).await?;
    let store = PostgresStore::new(PostgresTarget::parse(&shape.database, "withdraw")?.pool(1)?, &shape.database);
    let rebuild = async || -> anyhow::Result<()> {
        let before = store.dump().await?;
        let output = shape.memori(&["rebuild", "--platform", "--yes"])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let after = store.dump().await?;
        ensure!(before == after, "the rebuilt view is another one: {:#?}", before.difference(&after));
        Ok(())
    };
    rebuild().await?;
    made_again(&api).await?;
    rebuild().await
}

/// What was carried over into another generation is withdrawn there, and what is withdrawn is not carried over.
#[tokio::test(flavor = "multi_thread")]
async fn carried_over_and_withdrawn() -> anyhow::Result<()> {
    let shape = Embedded::start(&[TENANT.to_owned()], &[])?;
    let (api, operator) = (shape.api(TENANT), Operator::at(&shape.process.api()));
    post(&api, &[("a1", "ann", "I live in Lisbon."), ("b1", "bob", "I have 3 cats.")]).await?;
    let before = (known(&api, "ann").await?, known(&api, "bob").await?);
    ensure!(before.0.contains("Lisbon") && before.1.contains("cats"), "{before:?}");
    let keep = json!({"tenants": [TENANT], "extractor": "keep"});

    let kept = replays::start(&operator, &keep).await?;
    replays::done(&operator, kept, 2).await?;
    replays::cut_over(&operator, kept, TENANT).await?;
    ensure!(known(&api, "ann").await?.contains("Lisbon"), "what is carried over is known");
    // Of the one generation, and not of the other.
    let done = ask(&api, "/v1/admin/lineages/withdraw", json!({"extractor": "builtin", "generation": kept})).await?;
    ensure!(done["entities"] == 2 && done["applied"] == 2, "{done}");
    ensure!(api.facts("ann").await?.is_empty() && api.facts("bob").await?.is_empty(), "it is withdrawn where it was carried to");
    replays::act(&operator, kept, "roll-back", &json!({"tenants": [TENANT]})).await?;
    ensure!((known(&api, "ann").await?, known(&api, "bob").await?) == before, "the generation before is as it was");

    // Of all generations, and so of one that is made later.
    let done = ask(&api, "/v1/admin/lineages/withdraw", json!({"extractor": "builtin"})).await?;
    ensure!(done["applied"] == 2, "{done}");
    ensure!(api.facts("ann").await?.is_empty());
    let later = replays::start(&operator, &keep).await?;
    replays::done(&operator, later, 2).await?;
    replays::cut_over(&operator, later, TENANT).await?;
    ensure!(api.facts("ann").await?.is_empty() && api.facts("bob").await?.is_empty(), "what is withdrawn was carried over");
    post(&api, &[("a2", "ann", "I live in Porto.")]).await?;
    ensure!(known(&api, "ann").await?.contains("Porto"), "what is extracted later stands");
    Ok(())
}
