//! Processes that have opened one database as a library share it: they are killed without warning while clients post to all of them,
//! and in the end the memory is exactly what was accepted implies; what one of them takes, whichever works on it, is waited for there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use memori_event_log::sqlite::SqliteDatabase;
use memori_tests::drive::{self, Pace, Weather};
use memori_tests::libraries::{Libraries, TENANT};
use memori_tests::model::Model;
use memori_tests::servers::Servers;
use memori_tests::storm::{self, tell};
use memori_tests::workload::{self, Expect, Step, Workload, WorkloadConfig};
use memori_tests::{audit, process};
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::sqlite::SqliteStore;
use memori_writer::store::{Dump, Store as _};
use serde_json::json;

const FINAL_WITHIN: Duration = Duration::from_secs(180);

/// Clients of one tenant. What contradicts an earlier event is left out: of two doors, each knows only what it has heard of.
fn generate() -> Workload {
    let seed = std::env::var("MEMORI_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_260_301);
    let (events, entities) = if std::env::var_os("MEMORI_SOAK").is_some() { (3_000, 200) } else { (240, 24) };
    let config = WorkloadConfig { seed, events, tenants: 1, entities, clients_per_tenant: 6 };
    tell(&format!("libraries: {config:?}"));
    let mut workload = workload::generate(config);
    workload.tenants = vec![TENANT.to_owned()];
    for client in &mut workload.clients {
        TENANT.clone_into(&mut client.tenant);
        for step in &mut client.steps {
            if let Step::Batch(posts) | Step::Ndjson(posts) = step {
                posts.retain(|post| post.expect != Expect::Conflict);
            }
        }
        let contradicts = |step: &Step| step.posts().iter().any(|post| post.expect == Expect::Conflict);
        client.steps.retain(|step| !step.posts().is_empty() && !contradicts(step));
    }
    workload
}

/// Clients post to all of them while each is killed `kills` times; then every process tells what the input implies.
async fn storm(libraries: &mut Libraries) -> anyhow::Result<Model> {
    let workload = generate();
    let mut model = Model::default();
    for ((tenant, _), body) in workload.accepted() {
        model.accept(&tenant, &body);
    }
    let apis: Vec<_> = (0..libraries.processes.len()).map(|number| libraries.api(number)).collect();
    let turn = AtomicUsize::new(0);
    let pace = Pace::up_to(0);
    let api = |_: &str| apis[turn.fetch_add(1, Ordering::Relaxed) % apis.len()].clone();
    futures::future::try_join(
        drive::drive(&workload, api, &pace, Weather::Storm { exact_door: false }),
        storm::strike(libraries, &pace, workload.requests(), workload.config.seed),
    )
    .await?;
    ensure!(libraries.starts() == libraries.processes.len() * (1 + libraries.kills), "{} starts", libraries.starts());
    let ids = drive::event_ids(&workload, TENANT);
    for (number, api) in apis.iter().enumerate() {
        let observed = audit::observe(api, &ids, FINAL_WITHIN).await?;
        audit::none(&audit::differences(&model, TENANT, &observed))
            .map_err(|e| e.context(format!("as library {number} tells it")))?;
    }
    Ok(model)
}

/// What the stopped libraries left in the tables.
fn check_tables(model: &Model, tables: &Dump) -> anyhow::Result<()> {
    audit::none(&audit::table_differences(model, tables))
}

fn stop_all(libraries: &mut Libraries) -> anyhow::Result<()> {
    for process in &mut libraries.processes {
        ensure!(process.stop()?.success(), "a library did not stop well:\n{}", process.log_text());
    }
    Ok(())
}

/// One event after the other, each of another entity, to each process in turn, and waited for there. The slowest, and the one in
/// the middle.
async fn latencies(libraries: &Libraries, events: usize) -> anyhow::Result<(Duration, Duration)> {
    let mut took = Vec::new();
    for number in 0..events {
        let api = libraries.api(number);
        let id = format!("latency-{number}");
        let event = json!({
            "event_id": id,
            "entity_id": format!("person {number}"),
            "messages": [{"role": "user", "content": "I live in Lisbon."}],
        });
        let began = Instant::now();
        api.post("/v1/events", &event).await?;
        api.wait_final(&[id], FINAL_WITHIN).await?;
        took.push(began.elapsed());
        let facts = api.facts(&format!("person {number}")).await?;
        ensure!(facts.iter().any(|fact| fact["content"].as_str().is_some_and(|text| text.contains("Lisbon"))), "{facts:?}");
    }
    took.sort_unstable();
    Ok((took[took.len() / 2], took[took.len() - 1]))
}

async fn wait_is_woken(libraries: &Libraries, what: &str) -> anyhow::Result<()> {
    // The first ones wait until the leases have found their owners.
    latencies(libraries, 12).await?;
    let (median, slowest) = latencies(libraries, 60).await?;
    tell(&format!("{what}: from the post to the end of its wait {median:?} in the middle, {slowest:?} at worst, over 60 events"));
    ensure!(median < Duration::from_secs(1), "{what}: processes do not hear of each other: {median:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_one_sqlite_file() -> anyhow::Result<()> {
    let mut libraries = tokio::task::block_in_place(|| Libraries::start(3, None, 2))?;
    wait_is_woken(&libraries, "SQLite").await?;
    stop_all(&mut libraries)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_one_sqlite_file_killed() -> anyhow::Result<()> {
    let mut libraries = tokio::task::block_in_place(|| Libraries::start(3, None, 2))?;
    let model = storm(&mut libraries).await?;
    stop_all(&mut libraries)?;
    let database = SqliteDatabase::open(libraries.database().as_ref()).await?;
    let tables = SqliteStore::new(database.clone()).dump().await?;
    database.close().await;
    check_tables(&model, &tables)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_one_postgres() -> anyhow::Result<()> {
    let url = tokio::task::block_in_place(Servers::shared)?.empty_database().await?;
    let mut libraries = tokio::task::block_in_place(|| Libraries::start(3, Some(&url), 2))?;
    wait_is_woken(&libraries, "Postgres").await?;
    stop_all(&mut libraries)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_one_postgres_killed() -> anyhow::Result<()> {
    let url = tokio::task::block_in_place(Servers::shared)?.empty_database().await?;
    let mut libraries = tokio::task::block_in_place(|| Libraries::start(3, Some(&url), 2))?;
    let model = storm(&mut libraries).await?;
    stop_all(&mut libraries)?;
    let store = PostgresStore::new(PostgresTarget::parse(&url, "audit")?.pool(1)?, &url);
    check_tables(&model, &store.dump().await?)
}

/// One is killed for good: what it held is the others' within the leases' time, and nobody restarts it.
#[tokio::test(flavor = "multi_thread")]
async fn the_dead_are_replaced() -> anyhow::Result<()> {
    let mut libraries = tokio::task::block_in_place(|| Libraries::start(2, None, 1))?;
    latencies(&libraries, 8).await?;
    libraries.processes.remove(0).kill();
    let began = Instant::now();
    // More entities than partitions, so that some fall on each that the dead one held.
    let ids: Vec<String> = (0..32).map(|number| format!("after-{number}")).collect();
    let api = libraries.api(0);
    for (number, id) in ids.iter().enumerate() {
        let event = json!({"event_id": id, "entity_id": format!("heir {number}"), "messages": [{"role": "user", "content": "I like tea."}]});
        api.post("/v1/events", &event).await?;
    }
    api.wait_final(&ids, FINAL_WITHIN).await?;
    let took = began.elapsed();
    tell(&format!("what a dead process held was worked on after {took:?}"));
    ensure!(took < Duration::from_secs(20), "{took:?}");
    stop_all(&mut libraries)
}

/// `memori up` wants its folder to itself, and says who is in the way; a library that comes later is sent to the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_and_libraries_keep_out_of_each_others_way() -> anyhow::Result<()> {
    let libraries = tokio::task::block_in_place(|| Libraries::start(1, None, 0))?;
    let refused = std::process::Command::new(process::binary("memori")?)
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(libraries.dir().join("data"))
        .output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(2) && said.contains("opened it as a library"), "{:?}: {said}", refused.status);
    Ok(())
}
