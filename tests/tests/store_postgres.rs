//! The store on Postgres is held to the suite of all stores, and to what the store on SQLite makes of the same records.

use std::sync::Arc;

use anyhow::Context as _;
use memori_event_log::sqlite::SqliteDatabase;
use memori_tests::servers::Servers;
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::Store;
use memori_writer::store::conformance as suite;
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::sqlite::SqliteStore;

async fn store() -> anyhow::Result<Arc<dyn Store>> {
    let url = Servers::shared()?.empty_database().await?;
    let pool = PostgresTarget::parse(&url, "store-test")?.pool(6)?;
    let store = PostgresStore::new(pool, url);
    store.migrate().await?;
    Ok(Arc::new(store))
}

async fn two() -> anyhow::Result<[Arc<dyn Store>; 2]> {
    Ok([store().await?, store().await?])
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() -> anyhow::Result<()> {
    let found = suite::a_scenario_leaves_what_it_says(store().await?).await;
    suite::a_zombie_writes_nothing(store().await?).await;
    suite::offsets_belong_to_cluster_and_topic(store().await?).await;
    suite::writers_meet_on_one_entity(store().await?).await;
    suite::letters_of_nobody_are_a_set(store().await?).await;
    suite::the_view_can_be_rebuilt(store().await?).await;

    let folder = tempfile::tempdir()?;
    let sqlite = SqliteStore::new(SqliteDatabase::open(&folder.path().join("reference.db")).await?);
    sqlite.migrate().await.context("migrates")?;
    let expected = suite::a_scenario_leaves_what_it_says(Arc::new(sqlite)).await;
    assert_eq!(expected, found, "{:?}", expected.difference(&found));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn batching_does_not_matter() -> anyhow::Result<()> {
    suite::batching_does_not_matter(&two().await?).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_take_turns() -> anyhow::Result<()> {
    for run in 1..4 {
        let url = Servers::shared()?.empty_database().await?;
        let writer = || -> anyhow::Result<Arc<dyn Store>> {
            Ok(Arc::new(PostgresStore::new(PostgresTarget::parse(&url, "store-test")?.pool(2)?, url.as_str())))
        };
        let writers = [writer()?, writer()?];
        writers[0].migrate().await?;
        suite::writers_take_turns(&writers, store().await?, run).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_commit_writes_once() -> anyhow::Result<()> {
    suite::a_lost_answer_to_commit_writes_once(&two().await?).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_repeated_by_upserts() -> anyhow::Result<()> {
    suite::a_conflict_is_repeated_by_upserts(&two().await?).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_may_migrate_at_once() -> anyhow::Result<()> {
    let url = Servers::shared()?.empty_database().await?;
    let pool = PostgresTarget::parse(&url, "store-test")?.pool(2)?;
    let store = PostgresStore::new(pool, url);
    let (one, two) = tokio::join!(store.migrate(), store.migrate());
    one?;
    two?;
    Ok(())
}
