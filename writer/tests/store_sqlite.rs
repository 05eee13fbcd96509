//! The store on SQLite is held to the suite of all stores.

use std::sync::Arc;

use memori_event_log::sqlite::SqliteDatabase;
use memori_writer::store::Store;
use memori_writer::store::conformance as suite;
use memori_writer::store::sqlite::SqliteStore;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    async fn store(&self, name: &str) -> Arc<dyn Store> {
        let database = SqliteDatabase::open(&self.0.path().join(format!("{name}.db"))).await.expect("opens");
        let store = SqliteStore::new(database);
        store.migrate().await.expect("migrates");
        Arc::new(store)
    }

    async fn two(&self) -> [Arc<dyn Store>; 2] {
        [self.store("one").await, self.store("two").await]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let folder = Folder::new();
    suite::a_scenario_leaves_what_it_says(folder.store("scenario").await).await;
    suite::a_zombie_writes_nothing(folder.store("zombie").await).await;
    suite::offsets_belong_to_cluster_and_topic(folder.store("offsets").await).await;
    suite::writers_meet_on_one_entity(folder.store("writers").await).await;
    suite::letters_of_nobody_are_a_set(folder.store("letters").await).await;
    suite::the_view_can_be_rebuilt(folder.store("rebuilt").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batching_does_not_matter() {
    suite::batching_does_not_matter(&Folder::new().two().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_commit_writes_once() {
    suite::a_lost_answer_to_commit_writes_once(&Folder::new().two().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_repeated_by_upserts() {
    suite::a_conflict_is_repeated_by_upserts(&Folder::new().two().await).await;
}
