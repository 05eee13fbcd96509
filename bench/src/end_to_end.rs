//! From the answer that an event is durable to the answer that a recall sees its facts, one event at a time on an idle system.
//!
//! The floor is what no such system can avoid: one durable append and one durable commit, one after the other. Embedded: a record
//! appended to a file and fsynced, and a row committed in SQLite as the store commits. Distributed: a record acknowledged by
//! all replicas, and a row committed in Postgres.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_event_log::sqlite::SqliteDatabase;
use memori_tests::client::Api;
use memori_tests::distributed::Distributed;
use memori_tests::embedded::Embedded;
use memori_tests::servers::Servers;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::json;

use crate::Options;
use crate::report::{Better, Report, quantile};

const TENANT: &str = "tenant-a";

/// Milliseconds per event.
pub(crate) async fn ours(api: &Api, count: usize, round: usize) -> anyhow::Result<Vec<f64>> {
    let mut took = Vec::with_capacity(count);
    for n in 0..count {
        let event_id = format!("bench-{round}-{n}");
        let body = json!({"event_id": event_id, "entity_id": format!("user-{}", n % 50),
            "messages": [{"role": "user", "content": format!("I own item {round}-{n}.")}, {"role": "assistant", "content": "Noted."}]});
        let answer = api.post("/v1/events", &body).await?;
        ensure!(answer.status.as_u16() == 202, "{}: {}", answer.status, answer.body);
        let since = Instant::now();
        api.wait_final(&[event_id], Duration::from_secs(60)).await?;
        took.push(since.elapsed().as_secs_f64() * 1e3);
    }
    Ok(took)
}

async fn embedded_floor(folder: &Path, count: usize) -> anyhow::Result<Vec<f64>> {
    let database = SqliteDatabase::open(&folder.join("floor.db")).await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS floor (n integer PRIMARY KEY, body text)").execute(database.writes()).await?;
    let mut log = std::fs::File::create(folder.join("floor.log"))?;
    let record = [b'x'; 512];
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let since = Instant::now();
        tokio::task::block_in_place(|| {
            log.write_all(&record)?;
            log.sync_data()
        })?;
        sqlx::query("INSERT INTO floor (body) VALUES ($1)").bind("I own item 1.").execute(database.writes()).await?;
        took.push(since.elapsed().as_secs_f64() * 1e3);
    }
    Ok(took)
}

async fn distributed_floor(shape: &Distributed<'_>, count: usize) -> anyhow::Result<Vec<f64>> {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", shape.servers.kafka_brokers())
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .create()?;
    let topic = format!("{}.dead-letters.floor", shape.prefix);
    let admin: rdkafka::admin::AdminClient<_> =
        ClientConfig::new().set("bootstrap.servers", shape.servers.kafka_brokers()).create()?;
    let new = rdkafka::admin::NewTopic::new(&topic, 1, rdkafka::admin::TopicReplication::Fixed(1));
    for made in admin.create_topics([&new], &rdkafka::admin::AdminOptions::new()).await? {
        if let Err((name, code)) = made {
            ensure!(code == rdkafka::error::RDKafkaErrorCode::TopicAlreadyExists, "{name}: {code}");
        }
    }
    let (client, connection) = tokio_postgres::connect(&shape.database, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    client.batch_execute("CREATE TABLE IF NOT EXISTS floor (n bigserial PRIMARY KEY, body text)").await?;
    let insert = client.prepare("INSERT INTO floor (body) VALUES ($1)").await?;
    let payload = [b'x'; 512];
    let mut took = Vec::with_capacity(count);
    for n in 0..count + 5 {
        let since = Instant::now();
        let record = FutureRecord::to(&topic).key("k").payload(&payload[..]);
        let report = producer.send_result(record).map_err(|(error, _)| error)?;
        report.await?.map_err(|(error, _)| error)?;
        client.execute(&insert, &[&"I own item 1."]).await?;
        // The first ones open connections.
        if n >= 5 {
            took.push(since.elapsed().as_secs_f64() * 1e3);
        }
    }
    drop(client);
    connection.await.context("the connection's task")??;
    Ok(took)
}

fn add(report: &mut Report, case: &str, ours: &[Vec<f64>], floor: &[Vec<f64>]) {
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let of = |runs: &[Vec<f64>]| runs.iter().map(|run| quantile(run, share)).collect::<Vec<_>>();
        report.add("recallable", &format!("{case} {name}"), "ms", Better::Lower, &of(ours), &of(floor));
    }
}

pub(crate) async fn run(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    let count = if options.quick { 20 } else { 150 };
    let tenants = [TENANT.to_owned()];
    {
        let shape = Embedded::start(&tenants, &[("MEMORI__LOG__LEVEL", "warn")])?;
        let api = shape.api(TENANT);
        ours(&api, 20, usize::MAX).await?;
        let (mut our_runs, mut floor_runs) = (Vec::new(), Vec::new());
        for round in 0..options.runs {
            our_runs.push(ours(&api, count, round).await?);
            floor_runs.push(embedded_floor(&shape.data_dir(), count).await?);
        }
        add(report, "embedded", &our_runs, &floor_runs);
    }
    let shape = Distributed::start(servers, &tenants, 1, &[("MEMORI__LOG__LEVEL", "warn")]).await?;
    let api = shape.api(TENANT);
    ours(&api, 20, usize::MAX).await?;
    let (mut our_runs, mut floor_runs) = (Vec::new(), Vec::new());
    for round in 0..options.runs {
        our_runs.push(ours(&api, count, round).await?);
        floor_runs.push(distributed_floor(&shape, count).await?);
    }
    add(report, "distributed", &our_runs, &floor_runs);
    Ok(())
}
