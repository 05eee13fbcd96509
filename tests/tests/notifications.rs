//! Several writers on one store: who waits at one is woken by what another commits, through Postgres and not by looking again and
//! again; and goes on being woken after the connection that listens was cut.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use memori_tests::client::{Api, metric};
use memori_tests::distributed::Distributed;
use memori_tests::process::Process;
use memori_tests::servers::Servers;
use memori_tests::storm::tell;
use reqwest::StatusCode;
use serde_json::{Value, json};

const TENANT: &str = "tenant-a";
const ENTITIES: usize = 24;
/// Nobody looks without being told for as long as a test may run.
const NEVER_MS: &str = "3600000";
const WAIT_MS: u64 = 60_000;

/// Waits at one writer, as the front door does.
async fn wait_at(writer: &Process, event_ids: &[String]) -> anyhow::Result<Value> {
    let answer = reqwest::Client::new()
        .post(format!("{}/internal/v1/events/wait", writer.api()))
        .bearer_auth("between-ingest-and-writer")
        .header("x-memori-tenant", TENANT)
        .json(&json!({"event_ids": event_ids, "timeout_ms": WAIT_MS}))
        .timeout(Duration::from_millis(WAIT_MS * 2))
        .send()
        .await?;
    ensure!(answer.status() == StatusCode::OK, "wait: {}", answer.status());
    Ok(answer.json().await?)
}

async fn count(writer: &Process, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
    Ok(metric(&Api::new(&writer.admin(), None).metrics().await?, name, labels).unwrap_or(0.0))
}

/// Begins to wait at both writers, posts one event of every entity, and sees all of them become final at both.
async fn round(shape: &Distributed<'_>, other: &Process, round: usize) -> anyhow::Result<()> {
    let event_ids: Vec<String> = (0..ENTITIES).map(|n| format!("evt-{round}-{n}")).collect();
    let api = shape.api(TENANT);
    let waiting = [wait_at(&shape.writer, &event_ids), wait_at(other, &event_ids)];
    let posting = async {
        until(WAIT_MS, "both writers have a waiter", async || {
            let waiters = "memori_writer_waiters";
            Ok(count(&shape.writer, waiters, &[]).await? >= 1.0 && count(other, waiters, &[]).await? >= 1.0)
        })
        .await?;
        for (n, event_id) in event_ids.iter().enumerate() {
            let body = json!({"event_id": event_id, "entity_id": format!("user-{n}"),
                "messages": [{"role": "user", "content": format!("I own item {round}.")}]});
            let answer = api.post("/v1/events", &body).await?;
            ensure!(answer.status == StatusCode::ACCEPTED, "{}: {}", answer.status, answer.body);
        }
        anyhow::Ok(())
    };
    let (answers, ()) = futures::future::try_join(try_join_all(waiting), posting).await?;
    for (answer, at) in answers.iter().zip(["the first writer", "the other"]) {
        ensure!(answer["complete"] == true, "a wait at {at} was not woken within {WAIT_MS} ms: {answer}");
    }
    Ok(())
}

async fn until(within_ms: u64, what: &str, look: impl AsyncFn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let since = Instant::now();
    while !look().await? {
        ensure!(since.elapsed() < Duration::from_millis(within_ms), "not within {within_ms} ms: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_end_by_what_another_writer_commits() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let shape = Distributed::start(servers, &[TENANT.to_owned()], 1, &[("MEMORI__WRITER__LOOK_AGAIN_MS", NEVER_MS)]).await?;
    let other = shape.another_writer("writer-2")?;

    // Once both have partitions, every wait is for commits of both.
    let flushed = "memori_writer_flush_seconds_count";
    let mut rounds = 0;
    loop {
        let before = [count(&shape.writer, flushed, &[]).await?, count(&other, flushed, &[]).await?];
        round(&shape, &other, rounds).await?;
        rounds += 1;
        let after = [count(&shape.writer, flushed, &[]).await?, count(&other, flushed, &[]).await?];
        if before.iter().zip(after).all(|(before, after)| after > *before) {
            break;
        }
        ensure!(rounds < 60, "one of two writers got no partition: flushes {after:?}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    tell(&format!("both writers flush after {rounds} rounds"));

    // Rounds that begin with a cut: some commits fall into the time without a listener, and are made up for by looking on return.
    let database = shape.database.rsplit('/').next().and_then(|name| name.split('?').next()).context("a database")?;
    for cut in 1..=3 {
        let reconnected = "cause=\"reconnected\"";
        let seen = count(&shape.writer, "memori_writer_wake_ups_total", &[reconnected]).await?;
        servers
            .administer(&format!(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}' and query like 'LISTEN %'"
            ))
            .await?;
        round(&shape, &other, rounds + cut).await?;
        until(WAIT_MS, "the writer listens again", async || {
            Ok(count(&shape.writer, "memori_writer_wake_ups_total", &[reconnected]).await? > seen)
        })
        .await?;
    }
    for writer in [&shape.writer, &other] {
        ensure!(count(writer, "memori_writer_wake_ups_total", &["cause=\"notified\""]).await? > 0.0, "never notified");
        ensure!(count(writer, "memori_writer_wake_ups_total", &["cause=\"poll\""]).await? == 0.0, "a wake-up was a poll's");
    }
    Ok(())
}
