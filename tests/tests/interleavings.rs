//! Any order of arrival ends in the same tables: the records of one partition at four writers, interleaved and batched at random,
//! on real stores that fail now and then, also after the commit, when only the answer is lost.
//!
//! `MEMORI_SOAK=1` runs more seeds; a failure names the seed, and `MEMORI_SEED=n` runs that one alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use memori_event_log::sqlite::SqliteDatabase;
use memori_event_log::topic::Topic;
use memori_schemas::{Lane, LogRecordBody, ids};
use memori_tests::faults::FaultyStore;
use memori_tests::scenario::{self, Partition, TENANT};
use memori_tests::servers::Servers;
use memori_tests::storm::tell;
use memori_writer::plan::intake::{self, Place};
use memori_writer::plan::{EntityBatch, EntityRef};
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::sqlite::SqliteStore;
use memori_writer::store::{self, Dump, FlushInput, OffsetKey, OffsetMove, Store, StoreError};
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

/// A run of records of one topic.
struct Run<'p> {
    topic: Topic,
    from: usize,
    records: &'p [LogRecordBody],
}

/// What one flush of these runs says.
fn input(runs: &[Run<'_>]) -> FlushInput {
    let mut input = FlushInput::default();
    for run in runs {
        let topic_id: Arc<str> = Arc::from(format!("id-of-{}", run.topic));
        for (n, body) in run.records.iter().enumerate() {
            let offset = i64::try_from(run.from + n).expect("few records");
            let place = Place { lane: run.topic.lane().unwrap_or(Lane::Live), topic_id: topic_id.clone(), partition: 0, offset };
            take(&mut input.entities, body, &place);
        }
        let end = |n: usize| i64::try_from(n).expect("few records");
        let key = OffsetKey { cluster_id: Arc::from("cluster"), topic_id, partition: 0 };
        input.moves.push(OffsetMove { key, from: end(run.from), next: end(run.from + run.records.len()) });
    }
    input
}

fn take(entities: &mut BTreeMap<EntityRef, EntityBatch>, body: &LogRecordBody, place: &Place) {
    let mut batch = |entity_id: &str, put: &mut dyn FnMut(&EntityRef, &mut EntityBatch)| {
        let owner = EntityRef { tenant: TENANT.to_owned(), key: ids::entity_key(TENANT, entity_id) };
        let batch = entities.entry(owner.clone()).or_default();
        batch.entity_id = entity_id.to_owned();
        put(&owner, batch);
    };
    match body {
        LogRecordBody::Conversation(event) => batch(&event.entity_id, &mut |_, batch| {
            batch.copies.push(intake::event_copy(event, place).expect("a storable event"));
        }),
        LogRecordBody::Facts(record) => batch(&record.entity_id, &mut |owner, batch| {
            batch.extractions.push(intake::extraction(owner, record, place).expect("a storable extraction"));
        }),
        LogRecordBody::DeadLetter(letter) => {
            let entity_id = letter.entity_id.as_deref().expect("the scenario's letters have owners");
            batch(entity_id, &mut |_, batch| batch.burials.push(intake::burial(letter, place)));
        }
        LogRecordBody::EraseEntity(control) => batch(&control.entity_id, &mut |_, batch| {
            batch.erasures.push(intake::erasure(control, 7).expect("a storable erasure"));
        }),
        LogRecordBody::ForgetFact(control) => batch(&control.entity_id, &mut |_, batch| {
            batch.forgets.push(intake::forget(control, 7).expect("a storable forget"));
        }),
        LogRecordBody::Flush(_) => {}
    }
}

/// Everything in one flush: no order at all.
async fn at_once(store: &dyn Store, partition: &Partition) -> anyhow::Result<Dump> {
    let runs: Vec<Run<'_>> = partition.iter().map(|(topic, records)| Run { topic: *topic, from: 0, records }).collect();
    store::flush(store, &input(&runs)).await?;
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
        let mut input = input(&runs);
        // What one of them cannot do now, it can do later; what it may have done, it does not do twice.
        let mut tries = 0;
        loop {
            match store::flush(store, &input).await {
                Ok(_) => break,
                Err(StoreError::Retry(_)) if tries < 50 => tries += 1,
                Err(StoreError::CommitUnknown(_)) if tries < 50 => {
                    input.unsure = true;
                    tries += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        input.unsure = false;
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
