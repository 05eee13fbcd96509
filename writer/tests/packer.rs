//! The packer beside a store: it packs what is worth it, tells of nothing that was removed, and what it made can be read.

mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use memori_event_log::sqlite::SqliteDatabase;
use memori_schemas::{EntityKey, FactKind, Role, ids};
use memori_writer::api::ApiConfig;
use memori_writer::packer::due::MIN_ITEMS;
use memori_writer::packer::{Packer, PackerConfig};
use memori_writer::plan::EntityRef;
use memori_writer::reads::{ReadStore, SqliteReads};
use memori_writer::recall::image::OUTLINED;
use memori_writer::recall::packed::{FactChunk, MessageChunk, unpack_unnamed};
use memori_writer::recall::{EntityImage, Recall, RecallConfig, RecallQuery, Recalled};
use memori_writer::store::packs::PackKind;
use memori_writer::store::sqlite::SqliteStore;
use tokio_util::sync::CancellationToken;
use world::{TENANT, World, event};

struct Packed {
    world: World,
    store: SqliteStore,
    reads: Arc<SqliteReads>,
    /// Of what is told.
    session: Option<String>,
    _folder: tempfile::TempDir,
}

async fn packed() -> Packed {
    let folder = tempfile::tempdir().unwrap();
    let database = SqliteDatabase::open(&folder.path().join("memori.db")).await.unwrap();
    let store = SqliteStore::new(database.clone());
    let reads = Arc::new(SqliteReads::new(database.reads().clone()));
    let world = World::over(Arc::new(store.clone()), reads.clone(), ApiConfig::default()).await;
    Packed { world, store, reads, session: None, _folder: folder }
}

/// Facts of a chunk that are not digests of others.
fn stored(chunk: Bytes) -> usize {
    FactChunk::without_vectors(chunk).unwrap().facts().filter(|fact| fact.kind() == FactKind::Fact).count()
}

impl Packed {
    async fn tell(&mut self, from: usize, to: usize) {
        for n in from..to {
            let minute = i64::try_from(n).unwrap();
            let mut e = event("ann", &format!("e{n}"), minute, &[(Role::User, &format!("I like tea number {n}"))]);
            e.session_id = self.session.clone();
            self.world.told(&e, &[(FactKind::Fact, &format!("Ann likes tea number {n}"))]);
        }
        self.world.flush().await;
    }

    /// Numbers of stored facts, messages and unnamed events in the packs, and of facts that changed after them.
    async fn counts(&self, key: &EntityKey) -> Option<(usize, usize, usize, usize)> {
        let facts = self.reads.packed_facts(TENANT, key, 1, None).await.unwrap()?;
        let messages = self.reads.packed_messages(TENANT, key, 1, None).await.unwrap().expect("they are packed together");
        let unnamed: usize = facts.unnamed.iter().map(|chunk| unpack_unnamed(chunk.clone()).unwrap().len()).sum();
        let of_kind = |wanted| facts.chunks.iter().filter(move |(kind, _)| *kind == wanted);
        assert_eq!(of_kind(PackKind::Vectors).count(), of_kind(PackKind::Facts).count());
        let of_facts: usize = of_kind(PackKind::Facts).map(|(_, chunk)| stored(chunk.clone())).sum();
        let of_messages: usize =
            messages.chunks.iter().map(|(_, chunk)| MessageChunk::decode(chunk.clone()).unwrap().len()).sum();
        Some((of_facts, of_messages, unnamed, facts.since.facts.len()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_flushes_tell_of_is_packed_in_time() {
    let mut here = packed().await;
    let key = ids::entity_key(TENANT, "ann");
    let entity = EntityRef { tenant: TENANT.into(), key };
    let config = PackerConfig { store: Arc::new(here.store.clone()), reads: here.reads.clone(), model: None };
    let (packer, handle) = Packer::new(config);
    let stop = CancellationToken::new();
    let running = tokio::spawn(packer.run(stop.clone()));
    here.tell(0, 600).await;
    assert_eq!(here.counts(&key).await, None, "nobody was told");
    handle.flushed(vec![(entity.clone(), Some(1_200))]);
    let counts = loop {
        match here.counts(&key).await {
            Some(counts) => break counts,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    assert_eq!(counts, (600, 600, 600, 0));
    here.tell(600, 605).await;
    assert_eq!(here.counts(&key).await, Some((600, 600, 600, 5)));
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn small_entities_are_not_packed_and_erased_ones_no_longer() {
    let mut here = packed().await;
    let key = ids::entity_key(TENANT, "ann");
    let entity = EntityRef { tenant: TENANT.into(), key };
    let config = PackerConfig { store: Arc::new(here.store.clone()), reads: here.reads.clone(), model: None };
    let (packer, _handle) = Packer::new(config);
    packer.pack(&entity).await;
    here.tell(0, MIN_ITEMS / 2 - 1).await;
    packer.pack(&entity).await;
    assert_eq!(here.counts(&key).await, None, "too small");
    here.tell(MIN_ITEMS / 2 - 1, MIN_ITEMS / 2).await;
    packer.pack(&entity).await;
    assert_eq!(here.counts(&key).await.map(|counts| counts.0), Some(MIN_ITEMS / 2));
    here.world.erased("ann", "x1");
    here.world.flush().await;
    assert_eq!(here.counts(&key).await, None);
    packer.pack(&entity).await;
    assert_eq!(here.counts(&key).await, None, "nothing is left to pack");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_recall_reads_row_by_row_is_packed_and_then_read_at_once() {
    let mut here = packed().await;
    let key = ids::entity_key(TENANT, "ann");
    let config = PackerConfig { store: Arc::new(here.store.clone()), reads: here.reads.clone(), model: None };
    let (packer, handle) = Packer::new(config);
    let stop = CancellationToken::new();
    let running = tokio::spawn(packer.run(stop.clone()));
    let recall = Recall::new(here.reads.clone(), RecallConfig { cache_bytes: 0, ..RecallConfig::default() });
    recall.slow_reads().to(handle);
    here.tell(0, MIN_ITEMS).await;
    let (version, facts) = here.reads.facts_as_packed(TENANT, &key, None, &mut |_, _| {}).await.unwrap();
    assert!(facts.is_none() && version.version.is_some());
    let by_rows = recall.facts(TENANT, key).await.unwrap();
    while here.counts(&key).await.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (version, facts) = here.reads.facts_as_packed(TENANT, &key, None, &mut |_, _| {}).await.unwrap();
    assert_eq!(version, here.reads.entity_version(TENANT, &key).await.unwrap());
    assert_eq!(facts.unwrap().1.version, version.version);
    assert!(here.reads.messages_as_packed(TENANT, &key, None, &mut |_, _| {}).await.unwrap().1.is_some());
    let at_once = recall.facts(TENANT, key).await.unwrap();
    assert_eq!(at_once.version, by_rows.version);
    let contents = |image: &EntityImage| image.facts().map(|fact| fact.content().to_owned()).collect::<Vec<_>>();
    assert_eq!(contents(&at_once), contents(&by_rows));

    here.tell(MIN_ITEMS, MIN_ITEMS + 1).await;
    let (newer, facts) = here.reads.facts_as_packed(TENANT, &key, None, &mut |_, _| {}).await.unwrap();
    assert!(newer.version > version.version && facts.is_none(), "what changed is in no pack");
    assert_eq!(recall.facts(TENANT, key).await.unwrap().version, newer.version);
    let nobody = ids::entity_key(TENANT, "nobody");
    let (version, facts) = here.reads.facts_as_packed(TENANT, &nobody, None, &mut |_, _| {}).await.unwrap();
    assert!(version.version.is_none() && facts.is_none());
    assert!(recall.facts(TENANT, nobody).await.unwrap().is_empty());
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_at_hand_is_answered_by_an_outline_as_by_the_image() {
    const FACTS: usize = OUTLINED + 88;
    let mut here = packed().await;
    here.session = Some("s1".to_owned());
    let key = ids::entity_key(TENANT, "ann");
    let entity = EntityRef { tenant: TENANT.into(), key };
    let config = PackerConfig { store: Arc::new(here.store.clone()), reads: here.reads.clone(), model: None };
    let (packer, _handle) = Packer::new(config);
    let reads = here.reads.clone();
    let recall = |cache_bytes| Recall::new(reads.clone(), RecallConfig { cache_bytes, ..RecallConfig::default() });
    let (cold, hot) = (recall(0), recall(64 << 20));
    here.tell(0, FACTS).await;
    packer.pack(&entity).await;
    let mut kinds = BTreeSet::new();
    let mut take = |kind, _| {
        kinds.insert(kind);
    };
    let (_, packs) = here.reads.facts_outlined(TENANT, &key, None, &mut take).await.unwrap();
    assert!(packs.is_some() && kinds == BTreeSet::from([PackKind::Vectors, PackKind::Outline]), "{kinds:?}");

    let shown = |answer: Recalled| serde_json::to_string(&Recalled { took_ms: None, ..answer }).unwrap();
    let queries = |text: &str| {
        let query = RecallQuery { explain: true, ..RecallQuery::new("ann", text) };
        let all = RecallQuery { limit: 50, include_superseded: true, ..query.clone() };
        let digests = RecallQuery { kinds: vec![FactKind::Summary, FactKind::Timeline], limit: 20, ..query.clone() };
        [RecallQuery { token_budget: Some(30), ..query.clone() }, query, all, digests]
    };
    hot.facts(TENANT, key).await.unwrap();
    for text in ["tea number 17", "what does Ann like", "", "a summary of all that was said about tea"] {
        for query in queries(text) {
            let by_image = shown(hot.recall(TENANT, &query, "test").await.unwrap());
            assert_eq!(shown(cold.recall(TENANT, &query, "test").await.unwrap()), by_image, "{query:?}");
            // The first of these is told by the outline, and the image is read beside it.
            let completed = recall(64 << 20);
            for _ in 0..3 {
                assert_eq!(shown(completed.recall(TENANT, &query, "test").await.unwrap()), by_image, "{query:?}");
            }
        }
    }
    let first = |answer: Recalled| answer.facts.first().map(|fact| fact.content.clone());
    let query = RecallQuery::new("ann", format!("tea number {FACTS}"));
    assert_ne!(first(cold.recall(TENANT, &query, "test").await.unwrap()), Some(format!("Ann likes tea number {FACTS}")));
    here.tell(FACTS, FACTS + 1).await;
    for recall in [&cold, &hot] {
        let told = first(recall.recall(TENANT, &query, "test").await.unwrap());
        assert_eq!(told, Some(format!("Ann likes tea number {FACTS}")), "what came after the packs is seen");
    }
    here.world.erased("ann", "x1");
    here.world.flush().await;
    for recall in [&cold, &hot] {
        assert_eq!(first(recall.recall(TENANT, &query, "test").await.unwrap()), None, "what was erased is not");
    }
}
