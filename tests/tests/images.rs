//! What recall's images are made from: an image that is brought up to date by what changed is the image that is read whole, and so
//! is one made of packs and what changed since, after any sequence of flushes, removals and faults included, on both databases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use memori_event_log::sqlite::SqliteDatabase;
use memori_event_log::topic::Topic;
use memori_schemas::{EntityKey, ids};
use memori_tests::faults::FaultyStore;
use memori_tests::flushes::{self, Run};
use memori_tests::scenario::{self, TENANT};
use memori_tests::servers::Servers;
use memori_tests::storm::tell;
use memori_writer::plan::EntityRef;
use memori_writer::postgres::PostgresTarget;
use memori_writer::reads::rows::{Changes, FactRows, MessageRows, Packed, Shown};
use memori_writer::reads::{PostgresReads, ReadStore, SqliteReads};
use memori_writer::store::Store;
use memori_writer::store::packs::{NewPacks, PackKind, PackStore, Packing};
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::sqlite::SqliteStore;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const GENERATION: i32 = 1;
/// Images of how many earlier versions are kept, to be brought up to date.
const KEPT: usize = 4;

/// All that images of one entity are made from.
#[derive(Clone)]
struct Rows {
    facts: FactRows,
    messages: MessageRows,
}

impl Rows {
    async fn whole(reads: &dyn ReadStore, entity: &EntityKey, model: Option<&str>) -> anyhow::Result<Self> {
        let facts = reads.fact_rows(TENANT, entity, GENERATION, model).await?;
        let messages = reads.message_rows(TENANT, entity, GENERATION, model).await?;
        Ok(Self { facts, messages })
    }

    fn shown(&self) -> Option<Shown> {
        Some(Shown { version: self.facts.version?, epoch: self.facts.epoch })
    }

    /// With what changed in the place of what was; nothing is removed.
    fn brought_up(mut self, facts: FactRows, messages: MessageRows) -> Self {
        let named: BTreeSet<_> = facts.facts.iter().map(|fact| fact.fact_id).collect();
        let kept = &mut self.facts;
        kept.facts.retain(|fact| !named.contains(&fact.fact_id));
        kept.mentions.retain(|mention| !named.contains(&mention.fact_id));
        kept.validity.retain(|interval| !named.contains(&interval.fact_id));
        kept.version = facts.version;
        kept.facts.extend(facts.facts);
        kept.mentions.extend(facts.mentions);
        kept.validity.extend(facts.validity);
        kept.unnamed.extend(facts.unnamed);
        let named: BTreeSet<_> = messages.messages.iter().map(|message| message.message_key).collect();
        let kept = &mut self.messages;
        kept.messages.retain(|message| !named.contains(&message.message_key));
        kept.version = messages.version;
        kept.messages.extend(messages.messages);
        kept.unnamed.extend(messages.unnamed);
        self
    }

    /// Each row once, as text, in one order.
    fn lines(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        let (facts, messages) = (&self.facts, &self.messages);
        lines.insert(format!("facts {:?} {} {}", facts.version, facts.epoch, facts.generation));
        lines.insert(format!("messages {:?} {} {}", messages.version, messages.epoch, messages.generation));
        lines.extend(facts.facts.iter().map(|row| format!("{row:?}")));
        lines.extend(facts.mentions.iter().map(|row| format!("{row:?}")));
        lines.extend(facts.validity.iter().map(|row| format!("{row:?}")));
        lines.extend(facts.unnamed.iter().map(|row| format!("of facts: {row:?}")));
        lines.extend(messages.messages.iter().map(|row| format!("{row:?}")));
        lines.extend(messages.unnamed.iter().map(|row| format!("of messages: {row:?}")));
        lines
    }
}

fn same(what: &str, whole: &Rows, other: &Rows) -> anyhow::Result<()> {
    let (whole, other) = (whole.lines(), other.lines());
    let lacks: Vec<_> = whole.difference(&other).take(5).collect();
    let invents: Vec<_> = other.difference(&whole).take(5).collect();
    ensure!(lacks.is_empty() && invents.is_empty(), "{what}\nlacks {lacks:#?}\ninvents {invents:#?}");
    Ok(())
}

/// How often each way was taken.
#[derive(Debug, Default)]
struct Seen {
    brought_up: usize,
    unchanged: usize,
    reloaded: usize,
    packed: usize,
    outrun: usize,
    from_packs: usize,
    at_once: usize,
    from_packs_and_changes: usize,
    by_rows: usize,
}

/// Packs that were made and not yet stored, and what they hold: a chunk's bytes are the place of its rows in a list.
#[derive(Default)]
struct Packer {
    held: Vec<Rows>,
    waiting: Vec<NewPacks>,
}

impl Packer {
    fn make(&mut self, entity: EntityKey, model: Option<&str>, rows: &Rows) {
        let (Some(facts), Some(messages)) = (rows.facts.version, rows.messages.version) else { return };
        let chunk = || vec![self.held.len().to_le_bytes().to_vec().into()];
        self.waiting.push(NewPacks {
            entity: EntityRef { tenant: TENANT.to_owned(), key: entity },
            generation: GENERATION,
            made_by: memori_writer::recall::packed::made_by(model),
            version: facts.min(messages),
            chunks: [PackKind::Facts, PackKind::Vectors, PackKind::Messages, PackKind::Unnamed]
                .map(|kind| (kind, chunk()))
                .to_vec(),
        });
        self.held.push(rows.clone());
    }

    async fn store(&mut self, store: &dyn PackStore, rng: &mut StdRng, seen: &mut Seen) -> anyhow::Result<()> {
        for packs in std::mem::take(&mut self.waiting) {
            // Flushes come in between, for some.
            if rng.random_bool(0.5) {
                self.waiting.push(packs);
                continue;
            }
            match store.put_packs(&packs).await? {
                Packing::Packed => seen.packed += 1,
                Packing::Outrun => seen.outrun += 1,
            }
        }
        Ok(())
    }

    fn rows(&self, chunk: &bytes::Bytes) -> anyhow::Result<&Rows> {
        Ok(&self.held[usize::from_le_bytes(chunk.as_ref().try_into()?)])
    }

    /// What packs and changes make together.
    fn assembled(&self, facts: Packed<FactRows>, messages: Packed<MessageRows>) -> anyhow::Result<Rows> {
        let [chunk] = &facts.unnamed[..] else { anyhow::bail!("{} chunks", facts.unnamed.len()) };
        let packed = self.rows(chunk)?;
        ensure!(messages.unnamed == facts.unnamed);
        ensure!(facts.chunks == [PackKind::Facts, PackKind::Vectors].map(|kind| (kind, chunk.clone())));
        ensure!(messages.chunks == [(PackKind::Messages, chunk.clone())]);
        let mut rows = Rows { facts: packed.facts.clone(), messages: packed.messages.clone() };
        (rows.facts.epoch, rows.messages.epoch) = (facts.since.epoch, messages.since.epoch);
        Ok(rows.brought_up(facts.since, messages.since))
    }
}

/// Writes a partition in random batches through a store that fails now and then, and after each flush brings older images of each
/// entity up to date.
async fn follow<S: Store + PackStore>(store: S, reads: &dyn ReadStore, seed: u64, seen: &mut Seen) -> anyhow::Result<()> {
    const ENTITIES: usize = 2;
    let partition = scenario::partition(seed, ENTITIES, 8);
    let mut rng = StdRng::seed_from_u64(seed);
    let store = Arc::new(store);
    let packs: &dyn PackStore = &*store.clone();
    let store = FaultyStore::new(store, rng.random());
    let mut packer = Packer::default();
    let of: Vec<(EntityKey, Option<&str>)> = (0..ENTITIES)
        .map(|n| ids::entity_key(TENANT, &format!("user-{n}")))
        .flat_map(|entity| [(entity, None), (entity, Some("one@1")), (entity, Some("two@1"))])
        .collect();
    let mut images: Vec<Vec<Rows>> = vec![Vec::new(); of.len()];
    let mut next: BTreeMap<Topic, usize> = partition.keys().map(|topic| (*topic, 0)).collect();
    while next.iter().any(|(topic, next)| *next < partition[topic].len()) {
        let mut runs = Vec::new();
        for (topic, next) in &mut next {
            let left = &partition[topic][*next..];
            let count = rng.random_range(0..=3).min(left.len());
            if count > 0 && rng.random_bool(0.5) {
                runs.push(Run { topic: *topic, from: *next, records: &left[..count] });
                *next += count;
            }
        }
        flushes::flush(&store, flushes::input(&runs)).await?;
        packer.store(packs, &mut rng, seen).await?;
        for ((entity, model), images) in of.iter().zip(&mut images) {
            let whole = Rows::whole(reads, entity, *model).await?;
            if rng.random_bool(0.2) {
                packer.make(*entity, *model, &whole);
            }
            let facts = reads.packed_facts(TENANT, entity, GENERATION, *model).await?;
            let messages = reads.packed_messages(TENANT, entity, GENERATION, *model).await?;
            match (facts, messages) {
                (Some(facts), Some(messages)) => {
                    let nothing = facts.since.facts.is_empty() && messages.since.messages.is_empty();
                    *if nothing { &mut seen.from_packs } else { &mut seen.from_packs_and_changes } += 1;
                    same(&format!("seed {seed}: from packs"), &whole, &packer.assembled(facts, messages)?)?;
                }
                (None, None) => seen.by_rows += 1,
                (facts, messages) => anyhow::bail!("seed {seed}: facts {facts:?}, messages {messages:?}"),
            }
            let (mut of_facts, mut of_messages) = (Vec::new(), Vec::new());
            let (head, facts) =
                reads.facts_as_packed(TENANT, entity, *model, &mut |kind, chunk| of_facts.push((kind, chunk))).await?;
            let (again, messages) =
                reads.messages_as_packed(TENANT, entity, *model, &mut |kind, chunk| of_messages.push((kind, chunk))).await?;
            let facts = facts.map(|(unnamed, since)| Packed { chunks: of_facts, unnamed, since });
            let messages = messages.map(|(unnamed, since)| Packed { chunks: of_messages, unnamed, since });
            ensure!(head == again && head == reads.entity_version(TENANT, entity).await?, "seed {seed}: another version");
            if let (Some(facts), Some(messages)) = (facts, messages) {
                seen.at_once += 1;
                same(&format!("seed {seed}: from packs at once"), &whole, &packer.assembled(facts, messages)?)?;
            }
            for image in &mut *images {
                let Some(shown) = image.shown() else { continue };
                let facts = reads.fact_changes_since(TENANT, entity, GENERATION, *model, shown).await?;
                let messages = reads.message_changes_since(TENANT, entity, GENERATION, *model, shown).await?;
                match (facts, messages) {
                    (Changes::Since(facts), Changes::Since(messages)) => {
                        let nothing = facts.facts.is_empty() && messages.messages.is_empty();
                        *if nothing { &mut seen.unchanged } else { &mut seen.brought_up } += 1;
                        *image = image.clone().brought_up(facts, messages);
                        same(&format!("seed {seed}: from {shown:?}"), &whole, image)?;
                    }
                    (Changes::Reload, Changes::Reload) => {
                        seen.reloaded += 1;
                        *image = whole.clone();
                    }
                    (facts, messages) => anyhow::bail!("seed {seed}: facts {facts:?}, messages {messages:?}"),
                }
            }
            images.push(whole);
            if images.len() > KEPT {
                // What stays is of any age: some have come a long way by changes alone.
                images.remove(rng.random_range(0..images.len()));
            }
        }
    }
    Ok(())
}

fn seeds(small: u64, large: u64) -> Vec<u64> {
    match std::env::var("MEMORI_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None if std::env::var_os("MEMORI_SOAK").is_some() => (0..large).collect(),
        None => (0..small).collect(),
    }
}

fn all_ways(seen: &Seen) -> anyhow::Result<()> {
    let few = |count: usize| count < 10;
    let images = [seen.brought_up, seen.unchanged, seen.reloaded];
    let packs = [seen.packed, seen.outrun, seen.from_packs, seen.at_once, seen.from_packs_and_changes, seen.by_rows];
    ensure!(!images.into_iter().chain(packs).any(few), "the test saw little: {seen:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut seen = Seen::default();
    for seed in seeds(12, 200) {
        let database = SqliteDatabase::open(&folder.path().join(format!("{seed}.db"))).await?;
        let store = SqliteStore::new(database.clone());
        store.migrate().await?;
        let reads = SqliteReads::new(database.reads().clone());
        follow(store, &reads, seed, &mut seen).await.context("on SQLite")?;
    }
    tell(&format!("images on SQLite: {seen:?}"));
    all_ways(&seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let mut seen = Seen::default();
    for seed in seeds(5, 60) {
        let url = servers.empty_database().await?;
        let pool = |name: &str| PostgresTarget::parse(&url, name)?.pool(2);
        let store = PostgresStore::new(pool("images-sink")?, &url);
        store.migrate().await?;
        let reads = PostgresReads::new(pool("images-reads")?);
        follow(store, &reads, 1_000 + seed, &mut seen).await.context("on Postgres")?;
    }
    tell(&format!("images on Postgres: {seen:?}"));
    all_ways(&seen)
}
