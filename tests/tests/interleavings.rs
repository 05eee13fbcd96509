//! Any order of arrival ends in the same tables: the records of one partition at four writers, interleaved and batched at random,
//! on real stores that fail now and then, also after the commit, when only the answer is lost.
//!
//! `MEMORI_SOAK=1` runs more seeds; a failure names the seed, and `MEMORI_SEED=n` runs that one alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use memori_event_log::sqlite::SqliteDatabase;
use memori_event_log::topic::Topic;
use memori_tests::faults::FaultyStore;
use memori_tests::flushes::{self, Run};
use memori_tests::scenario::{self, Partition};
use memori_tests::servers::Servers;
use memori_tests::storm::tell;
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::sqlite::SqliteStore;
use memori_writer::store::{self, Dump, Store, StoreError};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

const WRITERS: usize = 4;

fn seeds(small: u64, large: u64) -> Vec<u64> {
    match std::env::var("MEMORI_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None if std::env::var_os("MEMORI_SOAK").is_some() => (0..large).collect(),
        None => (0..small).collect(),
    }
}

/// Everything in one flush: no order at all.
async fn at_once(store: &dyn Store, partition: &Partition) -> anyhow::Result<Dump> {
    let runs: Vec<Run<'_>> = partition.iter().map(|(topic, records)| Run { topic: *topic, from: 0, records }).collect();
    store::flush(store, &flushes::input(&runs)).await?;
    Ok(store.dump().await?)
}

/// Four writers side by side, each with some of the topics, each in batches of its own.
async fn interleaved(store: Arc<dyn Store>, partition: &Partition, seed: u64) -> anyhow::Result<Dump> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut topics: Vec<Topic> = Topic::ALL.to_vec();
    topics.shuffle(&mut rng);
    let mut shares: Vec<Vec<Topic>> = vec![Vec::new(); WRITERS];
    for (n, topic) in topics.into_iter().enumerate() {
        let writer = if n < WRITERS { n } else { rng.random_range(0..WRITERS) };
        shares[writer].push(topic);
    }
    let mut writers = tokio::task::JoinSet::new();
    for share in shares {
        let (store, partition, seed) = (FaultyStore::new(store.clone(), rng.random()), partition.clone(), rng.random());
        writers.spawn(async move { write(&store, &partition, &share, seed).await });
    }
    while let Some(writer) = writers.join_next().await {
        writer.context("a writer panicked")??;
    }
    Ok(store.dump().await?)
}

async fn write(store: &dyn Store, partition: &Partition, topics: &[Topic], seed: u64) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut next: BTreeMap<Topic, usize> = topics.iter().map(|topic| (*topic, 0)).collect();
    let mut most = rng.random_range(1..6);
    while next.iter().any(|(topic, next)| *next < partition[topic].len()) {
        let mut runs = Vec::new();
        for (topic, next) in &mut next {
            let left = &partition[topic][*next..];
            let count = rng.random_range(0..=most).min(left.len());
            if count > 0 {
                runs.push(Run { topic: *topic, from: *next, records: &left[..count] });
                *next += count;
            }
        }
        if runs.is_empty() {
            continue;
        }
        let input = flushes::input(&runs);
        flushes::flush(store, input.clone()).await?;
        if rng.random_bool(0.3) {
            // A batch that was written and is handed over again, by a writer that did not hear of it.
            let zombie = store::flush(store, &input).await;
            ensure!(matches!(zombie, Err(StoreError::Fenced(_))), "a zombie's flush: {zombie:?}");
        }
        if rng.random_bool(0.2) {
            most = rng.random_range(1..40);
        }
        for _ in 0..rng.random_range(0..4) {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

fn same(what: &str, seed: u64, expected: &Dump, found: &Dump) -> anyhow::Result<()> {
    ensure!(expected == found, "{what}, seed {seed}: another order, other tables\n{}", expected.difference(found).join("\n"));
    Ok(())
}

async fn sqlite(folder: &std::path::Path, name: &str) -> anyhow::Result<Arc<dyn Store>> {
    let store = SqliteStore::new(SqliteDatabase::open(&folder.join(format!("{name}.db"))).await?);
    store.migrate().await?;
    Ok(Arc::new(store))
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_stores() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let seeds = seeds(6, 200);
    for seed in &seeds {
        let partition = scenario::partition(*seed, 2, 8);
        let reference = sqlite(folder.path(), &format!("{seed}-once")).await?;
        let expected = at_once(&*reference, &partition).await?;
        ensure!(expected.0.values().map(Vec::len).sum::<usize>() > 20, "seed {seed} leaves almost nothing");
        for round in 0..2 {
            let store = sqlite(folder.path(), &format!("{seed}-{round}")).await?;
            let found = interleaved(store, &partition, seed.wrapping_mul(31).wrapping_add(round)).await?;
            same("SQLite", *seed, &expected, &found)?;
        }
    }
    tell(&format!("interleavings: {} seeds on SQLite", seeds.len()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_stores() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let folder = tempfile::tempdir()?;
    let seeds = seeds(3, 60);
    for seed in &seeds {
        let partition = scenario::partition(1_000 + *seed, 3, 8);
        // The reference is the other store: both must end in the same tables.
        let reference = sqlite(folder.path(), &format!("{seed}-once")).await?;
        let expected = at_once(&*reference, &partition).await?;
        let url = servers.empty_database().await?;
        let store = PostgresStore::new(PostgresTarget::parse(&url, "interleavings")?.pool(WRITERS)?, &url);
        store.migrate().await?;
        let found = interleaved(Arc::new(store), &partition, *seed).await?;
        same("Postgres", 1_000 + *seed, &expected, &found)?;
    }
    tell(&format!("interleavings: {} seeds on Postgres", seeds.len()));
    Ok(())
}
