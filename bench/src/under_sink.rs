//! Recall while the sink writes as fast as it can into the same Postgres: over recall while nobody writes, in the same run.
//!
//! The sink's inputs are made beforehand, so that what slows recall is the flush: its planning and encoding here, its rows there.
//! Between the recalls of each run stands the least that a read from that Postgres takes, `SELECT 1` over a connection of its own:
//! what the two share of the machine slows that, too, and no reader of ours can be faster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use memori_service::background::Background;
use memori_tests::servers::Servers;
use memori_writer::pace::{Pace, Readers};
use memori_writer::postgres::PostgresTarget;
use memori_writer::reads::PostgresReads;
use memori_writer::recall::{Recall, RecallConfig};
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::{self, FlushInput, Store};

use crate::report::{Better, Report, quantile};
use crate::{Options, input, recall};

const TENANT: &str = "recalled";
const FACTS: usize = 1_000;
/// Of one flush.
const EVENTS: usize = 500;
const ENTITIES: usize = 100;

/// Milliseconds of each of `count` reads of nothing.
async fn nothing(
    client: &tokio_postgres::Client,
    statement: &tokio_postgres::Statement,
    count: usize,
) -> anyhow::Result<Vec<f64>> {
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let since = Instant::now();
        client.query_one(statement, &[]).await?;
        took.push(since.elapsed().as_secs_f64() * 1e3);
    }
    Ok(took)
}

/// Flushes one after the other until it is told to stop, or has no more; answers how many, and in how many seconds.
async fn write(store: PostgresStore, inputs: Vec<FlushInput>, pace: Pace, stop: Arc<AtomicBool>) -> anyhow::Result<(usize, f64)> {
    let (since, mut done) = (Instant::now(), 0);
    for input in inputs {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        store::flush(&store, &input).await?;
        pace.rest(began.elapsed()).await;
        done += 1;
    }
    Ok((done, since.elapsed().as_secs_f64()))
}

pub(crate) async fn run(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    let url = servers.empty_database().await?;
    let target = PostgresTarget::parse(&url, "bench")?;
    let store = PostgresStore::new(target.pool(2)?, &url);
    store.migrate().await?;
    let reads = Arc::new(PostgresReads::new(target.pool(4)?));
    let recalls = Recall::with_embedder(reads, RecallConfig::default(), Some(Arc::new(recall::Directions)));
    store::flush(&store, &input::flush(TENANT, 1, 0..FACTS / 2, 2, 0)).await?;
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let select = client.prepare("SELECT 1").await?;
    let background = Background::start("bench-sink")?;
    let mut from = i64::try_from(FACTS / 2)?;
    let (count, flushes) = if options.quick { (50, 4) } else { (1_000, 40) };
    recall::ours(&recalls, TENANT, 50).await?;
    let shares = [100, 50, 25];
    let mut idle: Vec<Vec<f64>> = Vec::new();
    let mut under: Vec<Vec<Vec<f64>>> = vec![Vec::new(); shares.len()];
    let mut floor_idle: Vec<Vec<f64>> = Vec::new();
    let mut floors: Vec<Vec<Vec<f64>>> = vec![Vec::new(); shares.len()];
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); shares.len()];
    for run in 0..options.runs {
        idle.push(recall::ours(&recalls, TENANT, count).await?);
        floor_idle.push(nothing(&client, &select, count).await?);
        for (at, share_percent) in shares.into_iter().enumerate() {
            let mut inputs = Vec::new();
            for n in 0..flushes {
                inputs.push(input::flush(&format!("{run}-{share_percent}-{n}"), ENTITIES, 0..EVENTS, 2, from));
                from += i64::try_from(EVENTS)?;
            }
            let (readers, stop) = (Readers::default(), Arc::new(AtomicBool::new(false)));
            let pace = Pace { readers: readers.clone(), share_percent };
            let writing = background.spawn(write(store.clone(), inputs, pace, stop.clone()));
            // Until the sink is done, however long that is: each recall meets it.
            let (mut took, mut floor) = (Vec::new(), Vec::new());
            while !writing.is_finished() && took.len() < count {
                let _reading = readers.enter();
                took.extend(recall::ours(&recalls, TENANT, 10).await?);
                floor.extend(nothing(&client, &select, 10).await?);
            }
            stop.store(true, Ordering::Relaxed);
            let (done, seconds) = writing.await??;
            // What the sink did not get to is passed over: its offsets go back to where it stands.
            from -= i64::try_from((flushes - done) * EVENTS)?;
            under[at].push(took);
            floors[at].push(floor);
            #[allow(clippy::cast_precision_loss, reason = "a rate")]
            rates[at].push((done * EVENTS) as f64 / seconds);
        }
    }
    for (which, share) in [("p50", 0.5), ("p99", 0.99)] {
        let of = |runs: &[Vec<f64>]| runs.iter().map(|run| quantile(run, share)).collect::<Vec<_>>();
        for (at, share_percent) in shares.into_iter().enumerate() {
            let case = format!("{FACTS} facts {which}, sink at {share_percent} %");
            report.add("under sink", &case, "ms", Better::Lower, &of(&under[at]), &of(&idle));
            report.add("under sink", &format!("{case}, SELECT 1"), "ms", Better::Lower, &of(&floors[at]), &of(&floor_idle));
            report.add("under sink", &format!("{case}, over SELECT 1"), "ms", Better::Lower, &of(&under[at]), &of(&floors[at]));
        }
    }
    for (at, share_percent) in shares.into_iter().enumerate().skip(1) {
        report.add("under sink", &format!("the sink at {share_percent} %"), "events/s", Better::Higher, &rates[at], &rates[0]);
    }
    Ok(())
}
