//! What ranks facts, read alone, answers as everything that is known of them does: on both databases, after any sequence of flushes,
//! erasures and packings, and while they go on.

#[path = "../../writer/tests/world/mod.rs"]
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use memori_embedding::{EmbedError, Embedder, Embedding};
use memori_event_log::sqlite::SqliteDatabase;
use memori_schemas::{EntityKey, FactKind, Micros, Role, Vector, ids};
use memori_tests::Servers;
use memori_writer::api::ApiConfig;
use memori_writer::plan::EntityRef;
use memori_writer::postgres::PostgresTarget;
use memori_writer::reads::{PostgresReads, ReadStore, SqliteReads};
use memori_writer::recall::answer::answer;
use memori_writer::recall::packed::{made_by, pack_messages, pack_unnamed};
use memori_writer::recall::{EntityImage, Model, Recall, RecallConfig, RecallQuery, Recalled, image};
use memori_writer::store::Store;
use memori_writer::store::packs::{NewPacks, PackKind, PackStore};
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::sqlite::SqliteStore;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use world::{TENANT, World, event, fact};

const MODEL: &str = "tiny@1";
const DIMENSIONS: usize = 8;
const ROUNDS: usize = 60;

/// A direction that is a function of the text.
fn direction(text: &str) -> Embedding {
    let component = |n: usize| {
        let sum = text.bytes().fold(n as u64 + 1, |sum, byte| sum.wrapping_mul(0x0100_0000_01B3).wrapping_add(u64::from(byte)));
        f32::from(u8::try_from(sum >> 20 & 0xFF).unwrap_or_default()) - 127.5
    };
    Embedding::quantise(&(0..DIMENSIONS).map(component).collect::<Vec<_>>())
}

struct Directions;

#[async_trait]
impl Embedder for Directions {
    fn model(&self) -> &str {
        MODEL
    }

    fn dimensions(&self) -> usize {
        DIMENSIONS
    }

    async fn embed(&self, texts: &[String]) -> Result<Vec<Embedding>, EmbedError> {
        Ok(texts.iter().map(|text| direction(text)).collect())
    }
}

struct Here<S> {
    world: World,
    store: Arc<S>,
    reads: Arc<dyn ReadStore>,
    entity: String,
    key: EntityKey,
    /// It keeps nothing.
    cold: Recall,
    said: usize,
}

fn wording(n: usize) -> String {
    format!("Ann likes {} number {n} in {}", ["tea", "coffee", "rye bread"][n % 3], ["Oslo", "Lima"][n % 2])
}

impl<S: Store + PackStore> Here<S> {
    async fn new(store: Arc<S>, reads: Arc<dyn ReadStore>) -> Self {
        let world = World::over(store.clone(), reads.clone(), ApiConfig::default()).await;
        let config = RecallConfig { cache_bytes: 0, ..RecallConfig::default() };
        let cold = Recall::with_embedder(reads.clone(), config, Some(Arc::new(Directions)));
        let mut here = Self { world, store, reads, entity: String::new(), key: EntityKey([0; 16]), cold, said: 0 };
        here.somebody_new();
        here
    }

    /// Of whom nothing is known: what an erasure covers does not come back.
    fn somebody_new(&mut self) {
        self.entity.push('a');
        self.key = ids::entity_key(TENANT, &self.entity);
        self.said = 0;
    }

    async fn erase(&mut self) -> Result<()> {
        self.world.erased(&self.entity, &format!("of {}", self.entity));
        self.world.flush().await;
        let query = RecallQuery { limit: 1_000, ..RecallQuery::new(&*self.entity, "tea") };
        let answer = self.cold.recall(TENANT, &query, "test").await?;
        ensure!(answer.facts.is_empty() && answer.instructions.is_empty(), "what was erased is shown: {answer:?}");
        self.somebody_new();
        Ok(())
    }

    async fn tell(&mut self, events: usize) {
        for _ in 0..events {
            let n = self.said;
            let minute = i64::try_from(n).unwrap_or_default();
            let mut e = event(&self.entity, &format!("{}-{n}", self.entity), minute, &[(Role::User, &wording(n))]);
            e.session_id = Some(format!("s{}", n / 5));
            let kind = if n % 7 == 3 { FactKind::Instruction } else { FactKind::Fact };
            let mut learned = fact(&e, 0, kind, &wording(n));
            let Embedding { scale, values } = direction(&learned.text);
            let values = values.iter().map(|value| value.cast_unsigned()).collect();
            learned.vector = (n % 4 != 1).then(|| Vector { model: MODEL.to_owned(), scale, values });
            learned.subject = Some("Ann".to_owned());
            self.world.said(&e);
            self.world.learned(&e, 1, vec![learned]);
            self.said += 1;
        }
        self.world.flush().await;
    }

    async fn pack(&self) -> Result<()> {
        let facts = self.reads.fact_rows(TENANT, &self.key, 1, Some(MODEL)).await?;
        let messages = self.reads.message_rows(TENANT, &self.key, 1, Some(MODEL)).await?;
        let (Some(version), Some(later)) = (facts.version, messages.version) else { return Ok(()) };
        let of_facts = image::pack(&self.key, &facts, Some(MODEL), 0);
        let packs = NewPacks {
            entity: EntityRef { tenant: TENANT.to_owned(), key: self.key },
            generation: 1,
            made_by: made_by(Some(MODEL)),
            version: version.min(later),
            chunks: vec![
                (PackKind::Facts, of_facts.facts),
                (PackKind::Vectors, of_facts.vectors),
                (PackKind::Outline, of_facts.outline),
                (PackKind::Messages, pack_messages(&messages, Some(MODEL))),
                (PackKind::Unnamed, vec![pack_unnamed(&facts.unnamed).into()]),
            ],
        };
        self.store.put_packs(&packs).await?;
        Ok(())
    }

    /// Whether the next answer is told by what ranks.
    async fn is_outlined(&self) -> Result<bool> {
        let mut kinds = BTreeSet::new();
        let mut take = |kind, _| {
            kinds.insert(kind);
        };
        self.reads.facts_outlined(TENANT, &self.key, Some(MODEL), &mut take).await?;
        ensure!(!(kinds.contains(&PackKind::Outline) && kinds.contains(&PackKind::Facts)), "one or the other");
        Ok(kinds.contains(&PackKind::Outline))
    }

    /// The answer by all rows.
    async fn by_rows(&self, query: &RecallQuery) -> Result<Recalled> {
        let rows = self.reads.fact_rows(TENANT, &self.key, 1, Some(MODEL)).await?;
        let model = Model { id: MODEL.into(), dimensions: DIMENSIONS };
        let image = EntityImage::build(&self.key, rows, Some(&model), None);
        // Nobody embeds what says nothing.
        let vector = (!query.query.is_empty()).then(|| direction(&query.query));
        Ok(answer(&image, None, query, vector.as_ref(), Micros::now()))
    }
}

fn shown(answer: Recalled) -> Result<String> {
    Ok(serde_json::to_string_pretty(&Recalled { took_ms: None, ranking: None, ..answer })?)
}

async fn alike<S: Store + PackStore>(here: &mut Here<S>) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(20_261_122);
    let (mut outlined, mut otherwise, mut erased) = (0, 0, 0);
    for round in 0..ROUNDS {
        match rng.random_range(0..20) {
            0 if here.said > 20 => {
                here.erase().await?;
                erased += 1;
            }
            1..12 => here.tell(rng.random_range(1..4)).await,
            _ => {}
        }
        if rng.random_bool(0.6) {
            here.pack().await?;
        }
        *if here.is_outlined().await? { &mut outlined } else { &mut otherwise } += 1;
        let text = ["tea in Oslo", "what does Ann like", "coffee number 7", "a summary of what Ann said", ""][round % 5];
        let query = RecallQuery { explain: true, ..RecallQuery::new(&*here.entity, text) };
        let all = RecallQuery { limit: 500, instruction_limit: 50, include_superseded: true, ..query.clone() };
        for query in [all, RecallQuery { token_budget: Some(40), ..query.clone() }, query] {
            let told = shown(here.cold.recall(TENANT, &query, "test").await?)?;
            let wanted = shown(here.by_rows(&query).await?)?;
            ensure!(told == wanted, "round {round}, {query:?}\ntold {told}\nby rows {wanted}");
        }
    }
    ensure!(outlined > ROUNDS / 4 && otherwise > ROUNDS / 8 && erased > 0, "it saw little: {outlined}, {otherwise}, {erased}");
    Ok(())
}

/// Who asks after a flush sees what it brought, and after an erasure nothing of what was there, whoever packs meanwhile.
async fn never_stale<S: Store + PackStore>(here: &mut Here<S>) -> Result<()> {
    here.somebody_new();
    here.tell(20).await;
    here.pack().await?;
    let (settled, over) = (Arc::new(AtomicUsize::new(here.said - 1)), Arc::new(AtomicBool::new(false)));
    let reader = || {
        let (cold, entity, settled, over) = (here.cold.clone(), here.entity.clone(), settled.clone(), over.clone());
        tokio::spawn(async move {
            let mut asked = 0;
            while !over.load(Ordering::Acquire) {
                let n = settled.load(Ordering::Acquire);
                let query = RecallQuery { limit: 1_000, instruction_limit: 1_000, ..RecallQuery::new(&*entity, wording(n)) };
                let answer = cold.recall(TENANT, &query, "test").await?;
                let all = answer.facts.iter().chain(&answer.instructions);
                ensure!(all.into_iter().any(|fact| fact.content == wording(n)), "what was said as number {n} is missing");
                asked += 1;
            }
            Ok(asked)
        })
    };
    let readers: Vec<_> = (0..3).map(|_| reader()).collect();
    for round in 0..ROUNDS {
        here.tell(1).await;
        settled.store(here.said - 1, Ordering::Release);
        if round % 2 == 0 {
            here.pack().await?;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    over.store(true, Ordering::Release);
    for reader in readers {
        ensure!(reader.await.context("a reader")?? > 0, "nobody asked");
    }
    here.pack().await?;
    ensure!(here.is_outlined().await?);
    here.erase().await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let database = SqliteDatabase::open(&folder.path().join("outlines.db")).await?;
    let store = Arc::new(SqliteStore::new(database.clone()));
    let mut here = Here::new(store, Arc::new(SqliteReads::new(database.reads().clone()))).await;
    alike(&mut here).await?;
    never_stale(&mut here).await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres() -> Result<()> {
    let servers = tokio::task::spawn_blocking(Servers::shared).await??;
    let url = servers.empty_database().await?;
    let pool = |name: &str| PostgresTarget::parse(&url, name)?.pool(4);
    let store = Arc::new(PostgresStore::new(pool("sink")?, url.clone()));
    let mut here = Here::new(store, Arc::new(PostgresReads::new(pool("recall")?))).await;
    alike(&mut here).await?;
    never_stale(&mut here).await
}
