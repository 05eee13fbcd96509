//! One partition of a [`crate::scenario`], written into a store by the real sink in batches that its seed cuts, from wherever the
//! store stands; and the exact answer to what a store must hold where it stands.
//!
//! Promises: batches depend on the seed alone, so two writers of one replay want to write the same; [`Replay::check`] compares
//! offsets and every base table with what the records before those offsets leave in an untroubled store: between batches after the
//! same batches, in the end after all records at once. Between they may differ: an outcome that alone tells of a copy that was
//! erased is not kept, and the copy may be in a later batch than another copy of its event.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use memori_event_log::driver::batch::{Advance, Batch, BatchSink as _, FlushCause, SinkError};
use memori_event_log::sql::{SqlLog, SqlLogConfig};
use memori_event_log::sqlite::SqliteDatabase;
use memori_event_log::{LogIdentity, LogRecord, Topic, TopicPartition};
use memori_schemas::{DeadLetter, DeadLetterClass, EntityKey, Lane, LogRecordBody, Micros, framing, ids};
use memori_writer::notify::Commits;
use memori_writer::postgres::PostgresTarget;
use memori_writer::sink::Sink;
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::sqlite::SqliteStore;
use memori_writer::store::{Dump, OffsetKey, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;

use crate::scenario::{self, Partition, TENANT};

const CLUSTER: &str = "cluster";
const ENTITIES: usize = 3;
const EVENTS_EACH: usize = 8;
/// Records of one topic that a batch takes at most.
const MOST: usize = 9;
/// A write that was refused for a while is tried again after this long.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// As often as that; what does not mend in this time is an error.
const TRIES: usize = 1_500;

/// How far a store is: the next offset of every topic's one partition.
pub type Stand = BTreeMap<Topic, usize>;

/// What one batch takes of each topic.
type Cut = BTreeMap<Topic, Range<usize>>;

/// How a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is written, by this call.
    Written,
    /// Another had written it.
    Fenced,
}

/// Records, and how they are cut into batches.
pub struct Replay {
    records: BTreeMap<Topic, Vec<LogRecord>>,
    cuts: Vec<Cut>,
    identity: LogIdentity,
}

/// A sink on a store.
pub struct Writer {
    sink: Sink,
    store: Arc<dyn Store>,
    refusals: Vec<String>,
    _folder: tempfile::TempDir,
}

fn number(n: usize) -> i64 {
    i64::try_from(n).expect("few records")
}

/// A letter about a record whose key tells no entity.
fn letter_of_nobody() -> LogRecordBody {
    LogRecordBody::DeadLetter(DeadLetter {
        tenant: None,
        entity_id: None,
        source_topic: Topic::ConversationsLive.as_str().to_owned(),
        source_topic_id: "id-of-an-earlier-topic".to_owned(),
        source_partition: 0,
        source_offset: 3,
        lane: Lane::Live,
        generation: 1,
        class: DeadLetterClass::Poison,
        reason: "not a record".to_owned(),
        attempts: 1,
        covers: Vec::new(),
        original_key: b"?".to_vec(),
        original_payload: b"???".to_vec(),
        failed_at: Micros(1_770_000_000_000_000),
        key_id: None,
    })
}

fn key_of(body: &LogRecordBody) -> Vec<u8> {
    let entity_id = match body {
        LogRecordBody::Conversation(event) => Some(event.entity_id.as_str()),
        LogRecordBody::Facts(record) => Some(record.entity_id.as_str()),
        LogRecordBody::DeadLetter(letter) => letter.entity_id.as_deref(),
        LogRecordBody::EraseEntity(control) => Some(control.entity_id.as_str()),
        LogRecordBody::ForgetFact(control) => Some(control.entity_id.as_str()),
        LogRecordBody::WithdrawFacts(control) => Some(control.entity_id.as_str()),
        LogRecordBody::Flush(_) => None,
    };
    entity_id.map_or_else(|| b"?".to_vec(), |entity_id| ids::log_key(TENANT, entity_id))
}

impl Replay {
    /// Of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::sized(seed, EVENTS_EACH)
    }

    /// Of a seed, with about so many events of each entity.
    ///
    /// # Panics
    /// Where a record of the scenario cannot be encoded.
    #[must_use]
    pub fn sized(seed: u64, events_each: usize) -> Self {
        let mut partition: Partition = scenario::partition(seed, ENTITIES, events_each);
        partition.entry(Topic::DeadLetters).or_default().push(letter_of_nobody());
        let record = |topic, offset, body: &LogRecordBody| LogRecord {
            source: TopicPartition { topic, partition: 0 },
            offset: number(offset),
            appended_at_ms: 1_770_000_000_000,
            key: key_of(body).into(),
            payload: framing::encode(body).expect("the scenario's records can be written").into(),
            headers: Vec::new(),
        };
        let records: BTreeMap<Topic, Vec<LogRecord>> = partition
            .iter()
            .map(|(topic, bodies)| (*topic, bodies.iter().enumerate().map(|(n, body)| record(*topic, n, body)).collect()))
            .collect();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut at: Stand = records.keys().map(|topic| (*topic, 0)).collect();
        let mut cuts = Vec::new();
        while at.iter().any(|(topic, next)| *next < records[topic].len()) {
            let mut cut = Cut::new();
            for (topic, next) in &mut at {
                let end = (*next + rng.random_range(0..=MOST)).min(records[topic].len());
                if end > *next {
                    cut.insert(*topic, *next..end);
                    *next = end;
                }
            }
            if !cut.is_empty() {
                cuts.push(cut);
            }
        }
        let topic_ids = Topic::ALL.into_iter().map(|topic| (topic, format!("id-of-{topic}"))).collect();
        Self { records, cuts, identity: LogIdentity { cluster_id: CLUSTER.to_owned(), topic_ids, partitions: 1 } }
    }

    /// How many batches there are.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.cuts.len()
    }

    /// Where a store stands that has the first so many batches.
    #[must_use]
    pub fn after(&self, batches: usize) -> Stand {
        let mut stand: Stand = self.records.keys().map(|topic| (*topic, 0)).collect();
        for cut in &self.cuts[..batches] {
            stand.extend(cut.iter().map(|(topic, range)| (*topic, range.end)));
        }
        stand
    }

    /// Of whom a batch speaks, in the order in which their rows are locked.
    #[must_use]
    pub fn entities(&self, batch: usize) -> BTreeSet<EntityKey> {
        let records = self.cuts[batch].iter().flat_map(|(topic, range)| &self.records[topic][range.clone()]);
        records
            .filter_map(|record| ids::parse_log_key(&record.key))
            .map(|(tenant, entity)| ids::entity_key(tenant, entity))
            .collect()
    }

    fn batch(&self, cut: &Cut) -> Batch {
        let records = cut.iter().flat_map(|(topic, range)| self.records[topic][range.clone()].iter().cloned()).collect();
        let advances = cut.iter().map(|(topic, range)| Advance {
            partition: TopicPartition { topic: *topic, partition: 0 },
            from_offset: number(range.start),
            next_offset: number(range.end),
        });
        Batch { records, advances: advances.collect(), cause: FlushCause::Rows }
    }

    /// Where a store stands.
    ///
    /// # Errors
    /// The store's.
    pub async fn stand(&self, store: &dyn Store) -> anyhow::Result<Stand> {
        let topics: Vec<Topic> = self.records.keys().copied().collect();
        let keys: Vec<OffsetKey> = topics
            .iter()
            .map(|topic| OffsetKey {
                cluster_id: CLUSTER.into(),
                topic_id: self.identity.topic_ids[topic].as_str().into(),
                partition: 0,
            })
            .collect();
        let mut tries = 0;
        let offsets = loop {
            match store.next_offsets(&keys).await {
                Ok(offsets) => break offsets,
                Err(error) if tries < TRIES => {
                    tracing::debug!(%error, "asked again");
                    tries += 1;
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        topics.into_iter().zip(offsets).map(|(topic, offset)| Ok((topic, usize::try_from(offset.unwrap_or(0))?))).collect()
    }

    /// The batch that comes next: `None` where all are written.
    ///
    /// # Errors
    /// Offsets at which no batch begins: then a flush was written in part.
    pub fn next(&self, stand: &Stand) -> anyhow::Result<Option<usize>> {
        let found = (0..=self.cuts.len()).find(|n| self.after(*n) == *stand);
        let n = found.with_context(|| format!("no batch begins at {stand:?}"))?;
        Ok((n < self.cuts.len()).then_some(n))
    }

    /// A sink of this replay on a store.
    ///
    /// # Errors
    /// The system's.
    pub async fn writer(&self, store: Arc<dyn Store>) -> anyhow::Result<Writer> {
        let folder = tempfile::tempdir()?;
        // Nothing is appended to it: no record of a scenario is refused.
        let log = SqlLog::open(SqliteDatabase::open(&folder.path().join("log.db")).await?, SqlLogConfig::default()).await?;
        let sink = Sink::new(Arc::new(log), store.clone(), self.identity.clone(), Commits::new(), Arc::new(Notify::new()));
        Ok(Writer { sink, store, refusals: Vec::new(), _folder: folder })
    }

    /// Compares a store in which nobody writes with an untroubled one; answers where it stands.
    ///
    /// # Errors
    /// What differs.
    pub async fn check(&self, what: &str, store: &dyn Store) -> anyhow::Result<Stand> {
        let stand = self.stand(store).await?;
        let expected = self.calm(&stand).await?;
        let found = store.dump().await?;
        ensure!(
            expected == found,
            "{what}: not what the records up to {stand:?} leave\n{}",
            expected.difference(&found).join("\n")
        );
        Ok(stand)
    }

    /// What the records before `stand` leave: in batches where it is between batches, and all at once in the end, when the way there
    /// must not matter any more.
    async fn calm(&self, stand: &Stand) -> anyhow::Result<Dump> {
        let folder = tempfile::tempdir()?;
        let store = open_sqlite(&folder.path().join("calm.db")).await?;
        let mut writer = self.writer(store.clone()).await?;
        let batches = (0..self.batches()).find(|batches| self.after(*batches) == *stand);
        match batches {
            Some(batches) => {
                for cut in &self.cuts[..batches] {
                    writer.sink.flush(&self.batch(cut)).await?;
                }
            }
            None => {
                let all: Cut = stand.iter().filter(|(_, end)| **end > 0).map(|(topic, end)| (*topic, 0..*end)).collect();
                writer.sink.flush(&self.batch(&all)).await?;
            }
        }
        Ok(store.dump().await?)
    }
}

impl Writer {
    /// Flushes one batch, again and again while the sink says that it may work later, as the driver does.
    ///
    /// # Errors
    /// What no retry mends, or has not mended for long.
    pub async fn flush(&mut self, replay: &Replay, batch: usize) -> anyhow::Result<Ended> {
        for _ in 0..TRIES {
            if let Some(ended) = self.try_once(replay, batch).await? {
                return Ok(ended);
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        bail!("the flush did not work in {TRIES} tries; the last said: {:?}", self.refusals.last())
    }

    /// Flushes one batch; `None` where the sink says that it may work later.
    ///
    /// # Errors
    /// What no retry mends.
    pub async fn try_once(&mut self, replay: &Replay, batch: usize) -> anyhow::Result<Option<Ended>> {
        match self.sink.flush(&replay.batch(&replay.cuts[batch])).await {
            Ok(()) => Ok(Some(Ended::Written)),
            Err(SinkError::Retry(reason)) => {
                self.refusals.push(reason);
                Ok(None)
            }
            Err(SinkError::Fenced(partitions)) => {
                ensure!(!partitions.is_empty(), "fenced, and not told where");
                Ok(Some(Ended::Fenced))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Why flushes were tried again.
    #[must_use]
    pub fn refusals(&self) -> &[String] {
        &self.refusals
    }

    /// Writes up to `flushes` batches from where the store stands.
    ///
    /// # Errors
    /// As [`Writer::flush`].
    pub async fn write(&mut self, replay: &Replay, flushes: usize) -> anyhow::Result<()> {
        for _ in 0..flushes {
            let stand = replay.stand(&*self.store).await?;
            let Some(next) = replay.next(&stand)? else { break };
            self.flush(replay, next).await?;
        }
        Ok(())
    }
}

/// A store in a SQLite file, with its tables.
///
/// # Errors
/// The system's.
pub async fn open_sqlite(path: &Path) -> anyhow::Result<Arc<dyn Store>> {
    let store = SqliteStore::new(SqliteDatabase::open(path).await?);
    store.migrate().await?;
    Ok(Arc::new(store))
}

/// The store that a text names: `postgres://…`, whose tables must be there, or the path of a SQLite file.
///
/// # Errors
/// The system's.
pub async fn open(store: &str) -> anyhow::Result<Arc<dyn Store>> {
    if store.starts_with("postgres://") {
        Ok(Arc::new(PostgresStore::new(PostgresTarget::parse(store, "replay")?.pool(2)?, store)))
    } else {
        open_sqlite(Path::new(store)).await
    }
}
