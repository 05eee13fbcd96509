//! Kafka away under load: what was accepted is in the spool and is delivered afterwards, once; with the spool full the door says
//! 503, and counts it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use memori_tests::audit;
use memori_tests::client::{Api, metric};
use memori_tests::distributed::Distributed;
use memori_tests::drive::{self, Pace, Weather};
use memori_tests::model::Model;
use memori_tests::servers::Servers;
use memori_tests::storm::tell;
use memori_tests::workload::{self, WorkloadConfig};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(180);
const SPOOL_BYTES: u64 = 64 * 1_024;

#[tokio::test(flavor = "multi_thread")]
async fn everything_accepted_is_delivered_once() -> anyhow::Result<()> {
    let config = WorkloadConfig { seed: 7, events: 240, tenants: 2, entities: 20, clients_per_tenant: 2 };
    let workload = workload::generate(config);
    let mut model = Model::default();
    for ((tenant, _), body) in workload.accepted() {
        model.accept(&tenant, &body);
    }
    let servers = tokio::task::block_in_place(Servers::start)?;
    let shape = Distributed::start(&servers, &workload.tenants, 1, &[]).await?;
    let apis: BTreeMap<String, Api> = workload.tenants.iter().map(|tenant| (tenant.clone(), shape.api(tenant))).collect();
    let api = |tenant: &str| apis[tenant].clone();

    let requests = workload.requests();
    let pace = Pace::up_to(requests / 3);
    let outage = async {
        pace.reached(requests / 6).await;
        tokio::task::block_in_place(|| servers.kill9_kafka())?;
        // Most of the load is posted, and answered, while there is no broker.
        pace.allow(requests * 2 / 3);
        pace.reached(requests * 2 / 3).await;
        let metrics = admin(&shape.ingest.admin()).metrics().await?;
        let spooled = metric(&metrics, "memori_ingest_events_accepted_total", &["durable_in=\"spool\""])
            .context("spooled events are not counted")?;
        ensure!(spooled > 0.0, "nothing was spooled while the broker was away");
        tell(&format!("kafka away: {spooled} events went into the spool"));
        tokio::task::block_in_place(|| servers.restart_kafka())?;
        pace.allow(usize::MAX);
        anyhow::Ok(())
    };
    futures::future::try_join(drive::drive(&workload, api, &pace, Weather::Storm { exact_door: false }), outage).await?;

    let mut found = Vec::new();
    for tenant in &workload.tenants {
        let observed = audit::observe(&api(tenant), &drive::event_ids(&workload, tenant), WITHIN).await?;
        found.extend(audit::differences(&model, tenant, &observed));
    }
    audit::none(&found)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_visibly_and_loses_nothing() -> anyhow::Result<()> {
    let tenant = "tenant-a".to_owned();
    let servers = tokio::task::block_in_place(Servers::start)?;
    let bound = SPOOL_BYTES.to_string();
    let mut shape =
        Distributed::start(&servers, std::slice::from_ref(&tenant), 1, &[("MEMORI__INGEST__SPOOL_MAX_BYTES", &bound)]).await?;
    let api = shape.api(&tenant);
    tokio::task::block_in_place(|| servers.kill9_kafka())?;

    let mut model = Model::default();
    let mut accepted = Vec::new();
    let mut refused: Option<Value> = None;
    for n in 0..200 {
        let body = json!({"event_id": format!("evt-{n}"), "entity_id": format!("user-{}", n % 5), "session_id": "s",
            "occurred_at": format!("2026-03-01T00:{:02}:{:02}Z", n / 60, n % 60),
            "messages": [{"role": "user", "content": format!("I own item {n}.")}, {"role": "assistant", "content": "x".repeat(2_000)}]});
        let answer = api.send(api.request(Method::POST, "/v1/events").json(&body)).await?;
        match answer.status {
            StatusCode::ACCEPTED => {
                ensure!(refused.is_none() || answer.body["durable_in"] == "spool", "durable in no log: {}", answer.body);
                model.accept(&tenant, &body);
                accepted.push(format!("evt-{n}"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                refused = Some(answer.body);
                break;
            }
            status => anyhow::bail!("{status}: {}", answer.body),
        }
    }
    let refused = refused.context("the spool never filled")?;
    ensure!(refused["status"] == 503, "no problem document: {refused}");
    ensure!(!accepted.is_empty(), "nothing was accepted into an empty spool");
    let metrics = admin(&shape.ingest.admin()).metrics().await?;
    let counted = metric(&metrics, "memori_ingest_spool_full_total", &[]).context("a refusal is not counted")?;
    ensure!(counted >= 1.0, "one refusal, {counted} counted");
    let on_disk: u64 =
        std::fs::read_dir(shape.spool_dir())?.filter_map(|entry| entry.ok()?.metadata().ok()).map(|m| m.len()).sum();
    ensure!(on_disk <= SPOOL_BYTES * 2, "the spool holds {on_disk} bytes, its bound is {SPOOL_BYTES}");

    // Not even a kill of the door loses what lies in the spool.
    tokio::task::block_in_place(|| {
        shape.ingest.kill();
        servers.restart_kafka()?;
        shape.ingest.start_again()
    })?;
    let observed = audit::observe(&api, &accepted, WITHIN).await?;
    audit::none(&audit::differences(&model, &tenant, &observed))?;
    // And there is room again.
    let answer =
        api.post("/v1/events", &json!({"entity_id": "user-0", "messages": [{"role": "user", "content": "I like tea."}]})).await?;
    ensure!(answer.status == StatusCode::ACCEPTED && answer.body["durable_in"] == "log", "{}: {}", answer.status, answer.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_that_restarts_without_kafka_takes_events() -> anyhow::Result<()> {
    let tenant = "tenant-a".to_owned();
    let servers = tokio::task::block_in_place(Servers::start)?;
    let mut shape = Distributed::start(&servers, std::slice::from_ref(&tenant), 1, &[]).await?;
    let api = shape.api(&tenant);
    let body = |n: usize| {
        json!({"event_id": format!("evt-{n}"), "entity_id": format!("user-{}", n % 5), "session_id": "s",
            "occurred_at": format!("2026-03-01T00:00:{n:02}Z"), "messages": [{"role": "user", "content": format!("I own item {n}.")}]})
    };
    let mut model = Model::default();
    let mut post = async |n: usize, durable_in: &str| {
        let answer = api.post("/v1/events", &body(n)).await?;
        ensure!(answer.status == StatusCode::ACCEPTED && answer.body["durable_in"] == durable_in, "{n}: {}", answer.body);
        model.accept(&tenant, &body(n));
        anyhow::Ok(())
    };
    for n in 0..10 {
        post(n, "log").await?;
    }
    tokio::task::block_in_place(|| servers.kill9_kafka())?;
    for n in 10..20 {
        post(n, "spool").await?;
    }
    // Neither what lies in the spool nor the way in needs the broker.
    tokio::task::block_in_place(|| shape.ingest.kill_and_restart())?;
    let ready = async || {
        let answer = admin(&shape.ingest.admin()).get("/readyz").await?;
        anyhow::Ok((answer.status, answer.body.as_str().unwrap_or_default().to_owned()))
    };
    let (status, text) = ready().await?;
    ensure!(status == StatusCode::OK && text.contains("degraded: log: "), "{status}: {text}");
    for n in 20..30 {
        post(n, "spool").await?;
    }
    let again = api.post("/v1/events", &body(12)).await?;
    ensure!(again.body["status"] == "duplicate" && again.body["durable_in"] == "spool", "{}: {}", again.status, again.body);
    let erasure = api.send(api.request(Method::DELETE, "/v1/entities/nobody")).await?;
    ensure!(erasure.status == StatusCode::SERVICE_UNAVAILABLE, "{}: {}", erasure.status, erasure.body);

    tokio::task::block_in_place(|| servers.restart_kafka())?;
    let event_ids: Vec<String> = (0..30).map(|n| format!("evt-{n}")).collect();
    let observed = audit::observe(&api, &event_ids, WITHIN).await?;
    let since = std::time::Instant::now();
    while ready().await?.1 != "ready\n" {
        ensure!(since.elapsed() < WITHIN, "still degraded: {}", ready().await?.1);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    audit::none(&audit::differences(&model, &tenant, &observed))?;
    let answer = api.post("/v1/events", &body(30)).await?;
    ensure!(answer.status == StatusCode::ACCEPTED && answer.body["durable_in"] == "log", "{}: {}", answer.status, answer.body);
    // The door remembers again what went straight to the log before it was killed.
    let (mut known, mut forgotten) = (0, Vec::new());
    for n in 0..10 {
        let answer = api.post("/v1/events", &body(n)).await?;
        if answer.body["status"] == "duplicate" { known += 1 } else { forgotten.push(answer.body) }
    }
    ensure!(known == 10, "the door took {forgotten:?} for new");
    let erasure = api.delete("/v1/entities/nobody").await?;
    ensure!(erasure.status == StatusCode::ACCEPTED, "{}: {}", erasure.status, erasure.body);
    Ok(())
}

fn admin(base: &str) -> Api {
    Api::new(base, None)
}
