//! The archiver: batches of records to files and manifests, each record once.
//!
//! Promises: a partition's records are in the archive as soon as a manifest names their files, and its put, where nothing is yet, is the last
//! step: whoever else archives the same partition fails there and goes on where the other's range ends. A restart goes on where the
//! chain ends. What an erasure takes is not written; and before the control's own range is committed, all that is there already is written
//! again without it. Memory is bounded by two batches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use memori_event_log::driver::batch::{Advance, Batch, BatchConfig, BatchSink, SinkError, run_batches};
use memori_event_log::driver::{LiveBound, StandBack};
use memori_event_log::{Log, LogError, LogIdentity, LogRecord, Start, Topic, TopicPartition};
use memori_schemas::Micros;
use tokio_util::sync::CancellationToken;

use crate::erase::Erasures;
use crate::manifest::{DataFile, Manifest, VERSION};
use crate::metrics;
use crate::place::{self, Place};
use crate::store::{AT_ONCE, Archive, ArchiveError, Put};

/// The consumer group of all archivers of one log.
pub const GROUP: &str = "memori-archive";
/// Controls that are read at a time.
const CONTROLS_PAGE: usize = 1_000;
/// Records of a batch, whatever their bytes.
const BATCH_RECORDS: usize = 200_000;
/// Tries to write a revision beside somebody else who does.
const REVISIONS: u32 = 100;

/// How the archiver behaves.
#[derive(Clone, Copy, Debug)]
pub struct ArchiverConfig {
    /// Bytes of records that close a batch.
    pub roll_bytes: usize,
    /// Age that closes a batch.
    pub roll_age: Duration,
    /// Begin at the log's start where the archive has nothing and the log has lost its head.
    pub begin_at_log_start: bool,
    /// How long what was gathered may take to be written when the process stops.
    pub drain_deadline: Duration,
}

/// Archives everything on the log, until `shutdown`; then drains.
///
/// # Errors
/// What no retry mends: the text says what to do.
pub async fn run_archiver(
    log: Arc<dyn Log>,
    archive: Arc<Archive>,
    config: ArchiverConfig,
    shutdown: CancellationToken,
) -> Result<(), LogError> {
    let identity = log.identity().await?;
    let batches = BatchConfig {
        group: GROUP.to_owned(),
        topics: Topic::ALL.to_vec(),
        batch_rows: LiveBound::from(BATCH_RECORDS),
        batch_bytes: config.roll_bytes,
        batch_max_age: config.roll_age,
        // Nobody waits for an archive.
        backfill: StandBack::never(config.roll_age),
        budget_events: BATCH_RECORDS * 2,
        budget_bytes: config.roll_bytes.saturating_mul(2),
        drain_deadline: config.drain_deadline,
    };
    let sink = Archiver::new(log.clone(), archive, identity, config);
    run_batches(log, batches, Box::new(sink), Arc::new(metrics::ArchiverObserver), shutdown).await
}

/// Writes batches to an archive.
pub struct Archiver {
    log: Arc<dyn Log>,
    archive: Arc<Archive>,
    identity: LogIdentity,
    config: ArchiverConfig,
    /// Tells what this one has put from what another has.
    writer: String,
    /// By partition number.
    erasures: BTreeMap<i32, Erasures>,
    /// The last attempt at a flush may have put manifests.
    unsure: bool,
}

impl std::fmt::Debug for Archiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archiver").field("writer", &self.writer).finish_non_exhaustive()
    }
}

fn archive_failed(error: ArchiveError) -> SinkError {
    match error {
        ArchiveError::Away(_) | ArchiveError::Missing(_) => SinkError::Retry(error.to_string()),
        ArchiveError::Broken(_) => SinkError::Halt(error.to_string()),
    }
}

fn log_failed(error: LogError) -> SinkError {
    match error {
        LogError::Transient(_) | LogError::Fenced(_) => SinkError::Retry(error.to_string()),
        LogError::BelowLogStart { .. } | LogError::Fatal(_) => SinkError::Halt(error.to_string()),
    }
}

impl Archiver {
    /// Between a log, whose ids are `identity`, and an archive.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, archive: Arc<Archive>, identity: LogIdentity, config: ArchiverConfig) -> Self {
        let writer = uuid::Uuid::new_v4().simple().to_string();
        Self { log, archive, identity, config, writer, erasures: BTreeMap::new(), unsure: false }
    }

    fn place(&self, partition: TopicPartition) -> Result<Place, SinkError> {
        Place::of(&self.identity, partition)
            .ok_or_else(|| SinkError::Halt(format!("the log has no topic {}; create the topics", partition.topic)))
    }

    /// Takes in the controls of a partition's number up to their end; answers whether an erasure was among them.
    async fn refresh(&mut self, partition: i32) -> Result<bool, SinkError> {
        let controls = TopicPartition { topic: Topic::Controls, partition };
        let known = self.erasures.entry(partition).or_default();
        let (log_start, end) = self.log.watermarks(controls).await.map_err(log_failed)?;
        if known.until == 0 && log_start > 0 && self.config.begin_at_log_start {
            known.until = log_start;
        }
        let mut erased = false;
        while known.until < end {
            let records = self.log.read(controls, known.until, CONTROLS_PAGE).await.map_err(log_failed)?;
            // What is left below the end is markers of the log's own.
            let Some(last) = records.last().map(|record| record.offset) else { break };
            for record in &records {
                erased |= known.control(record).map_err(archive_failed)?.is_some();
            }
            known.until = last + 1;
        }
        Ok(erased)
    }

    fn without_erased(&self, record: LogRecord) -> LogRecord {
        self.erasures.get(&record.source.partition).and_then(|erasures| erasures.apply(&record)).unwrap_or(record)
    }

    /// Files of these records, by tenant and day; `maker` names them.
    async fn files(&self, place: &Place, from: i64, maker: &str, records: Vec<LogRecord>) -> Result<Vec<DataFile>, ArchiveError> {
        let mut by_owner: BTreeMap<(String, String), Vec<LogRecord>> = BTreeMap::new();
        for record in records {
            let owner = (place::tenant_of(&record.key).to_owned(), place::day_of(record.appended_at_ms));
            by_owner.entry(owner).or_default().push(record);
        }
        let mut writing = Vec::with_capacity(by_owner.len());
        for ((tenant, day), records) in by_owner {
            let path = place.data(&tenant, &day, from, maker);
            writing.push(self.archive.put_records(path, tenant, day, records).boxed());
        }
        futures::stream::iter(writing).buffered(AT_ONCE).try_collect().await
    }

    /// Commits one partition's part of a batch; what was committed.
    async fn commit(&mut self, advance: &Advance, records: Vec<LogRecord>) -> Result<Manifest, SinkError> {
        let place = self.place(advance.partition)?;
        if self.unsure
            && let Some(present) = self.archive.beginning_at(&place, advance.from_offset).await.map_err(archive_failed)?
        {
            return self.ours(present, advance);
        }
        let count = records.len() as u64;
        let records = records.into_iter().map(|record| self.without_erased(record)).collect();
        let files = self.files(&place, advance.from_offset, &self.writer, records).await.map_err(archive_failed)?;
        let manifest = Manifest {
            version: VERSION,
            place,
            from: advance.from_offset,
            to: advance.next_offset,
            revision: 0,
            writer: self.writer.clone(),
            controls_until: self.erasures.get(&advance.partition.partition).map_or(0, |erasures| erasures.until),
            made_at_us: Micros::now().0,
            files,
        };
        match self.archive.put_manifest(&manifest).await.map_err(archive_failed)? {
            Put::Done => {
                metrics::committed(advance.partition.topic.as_str(), count, manifest.files.len() as u64, manifest.bytes());
                Ok(manifest)
            }
            Put::Taken => {
                let present = self.archive.beginning_at(&manifest.place, advance.from_offset).await.map_err(archive_failed)?;
                present.map_or_else(|| Err(SinkError::Fenced(vec![advance.partition])), |present| self.ours(present, advance))
            }
        }
    }

    /// What stands there is what an earlier attempt of this very flush has put, or another's.
    fn ours(&self, present: Manifest, advance: &Advance) -> Result<Manifest, SinkError> {
        if present.writer == self.writer && present.to == advance.next_offset {
            Ok(present)
        } else {
            Err(SinkError::Fenced(vec![advance.partition]))
        }
    }

    /// Writes what a manifest names again without what was erased, as its next revision; only files of `tenants`, where they are named.
    async fn erase_in(&self, mut manifest: Manifest, tenants: Option<&BTreeSet<String>>) -> Result<(), ArchiveError> {
        let Some(erasures) = self.erasures.get(&manifest.place.partition) else { return Ok(()) };
        for _ in 0..REVISIONS {
            let mut next = Manifest {
                revision: manifest.revision + 1,
                writer: self.writer.clone(),
                controls_until: erasures.until,
                made_at_us: Micros::now().0,
                ..manifest.clone()
            };
            let mut replaced = Vec::new();
            for file in &mut next.files {
                if tenants.is_some_and(|tenants| !tenants.contains(&file.tenant)) {
                    continue;
                }
                let records = match self.archive.file(&manifest.place, file).await {
                    Ok(records) => records,
                    // Somebody has written it again meanwhile, or the tenant was dropped.
                    Err(ArchiveError::Missing(_)) => continue,
                    Err(error) => return Err(error),
                };
                let mut changed = false;
                let left: Vec<LogRecord> = records
                    .into_iter()
                    .map(|record| {
                        let left = erasures.apply(&record);
                        changed |= left.is_some();
                        left.unwrap_or(record)
                    })
                    .collect();
                if changed {
                    let maker = format!("{}r{}", self.writer, next.revision);
                    let path = manifest.place.data(&file.tenant, &file.day, manifest.from, &maker);
                    let again = self.archive.put_records(path, file.tenant.clone(), file.day.clone(), left).await?;
                    replaced.push(std::mem::replace(file, again));
                }
            }
            if replaced.is_empty() {
                return Ok(());
            }
            if self.archive.put_manifest(&next).await? == Put::Done {
                metrics::rewritten(replaced.len() as u64);
                for file in replaced {
                    self.archive.delete(&file.path).await?;
                }
                return Ok(());
            }
            match self.archive.beginning_at(&manifest.place, manifest.from).await? {
                Some(present) => manifest = present,
                None => return Err(ArchiveError::Missing(manifest.place.manifest(manifest.from, 0))),
            }
        }
        Err(ArchiveError::Away("others write revisions of the same manifest again and again".to_owned()))
    }

    /// Applies the erasures of a partition's number to all that is archived of these tenants.
    async fn sweep(&self, partition: i32, tenants: &BTreeSet<String>) -> Result<(), SinkError> {
        let mut begins: BTreeSet<(TopicPartition, i64)> = BTreeSet::new();
        for tenant in tenants {
            for (name, _) in self.archive.list(&place::tenant_folder(tenant)).await.map_err(archive_failed)? {
                let Some((topic, topic_id, number, from)) = place::of_data(&name) else { continue };
                let Some(topic) = Topic::parse(topic).filter(|topic| *topic != Topic::Controls && number == partition) else {
                    continue;
                };
                if self.identity.topic_ids.get(&topic).is_some_and(|id| place::plain(id) == topic_id) {
                    begins.insert((TopicPartition { topic, partition }, from));
                }
            }
        }
        for (source, from) in begins {
            let place = self.place(source)?;
            if let Some(manifest) = self.archive.beginning_at(&place, from).await.map_err(archive_failed)? {
                self.erase_in(manifest, Some(tenants)).await.map_err(archive_failed)?;
            }
        }
        Ok(())
    }

    async fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let numbers: BTreeSet<i32> = batch.advances.iter().map(|advance| advance.partition.partition).collect();
        for number in &numbers {
            self.refresh(*number).await?;
        }
        let mut records: BTreeMap<TopicPartition, Vec<LogRecord>> = BTreeMap::new();
        for record in &batch.records {
            records.entry(record.source).or_default().push(record.clone());
        }
        // Their own range is committed last, so that a sweep that breaks off is done again.
        let (controls, others): (Vec<&Advance>, Vec<&Advance>) =
            batch.advances.iter().partition(|advance| advance.partition.topic == Topic::Controls);
        let mut put = Vec::with_capacity(batch.advances.len());
        for advance in others {
            let records = records.remove(&advance.partition).unwrap_or_default();
            put.push(self.commit(advance, records).await?);
        }
        for advance in controls {
            let records = records.remove(&advance.partition).unwrap_or_default();
            let mut erased = Erasures::default();
            let mut tenants = BTreeSet::new();
            for record in &records {
                tenants.extend(erased.control(record).map_err(archive_failed)?.map(|control| control.tenant));
            }
            if !tenants.is_empty() {
                self.sweep(advance.partition.partition, &tenants).await?;
            }
            self.commit(advance, records).await?;
        }
        // What was asked to be erased while it was written, whoever swept meanwhile, was not there to be swept.
        let mut asked: BTreeSet<i32> = BTreeSet::new();
        for number in numbers {
            if self.refresh(number).await? {
                asked.insert(number);
            }
        }
        for manifest in put.into_iter().filter(|manifest| asked.contains(&manifest.place.partition)) {
            self.erase_in(manifest, None).await.map_err(archive_failed)?;
        }
        Ok(())
    }
}

#[async_trait]
impl BatchSink for Archiver {
    async fn starts(&mut self, assigned: &[TopicPartition]) -> Result<Vec<(TopicPartition, Start)>, SinkError> {
        let mut starts = Vec::with_capacity(assigned.len());
        for partition in assigned {
            let place = self.place(*partition)?;
            let next = match self.archive.last(&place).await.map_err(archive_failed)? {
                Some(last) => {
                    let next = last.to;
                    // Who put it may have ended before it looked for erasures that came meanwhile.
                    self.refresh(partition.partition).await?;
                    if partition.topic != Topic::Controls
                        && self.erasures.get(&partition.partition).is_some_and(|erasures| erasures.until > last.controls_until)
                    {
                        self.erase_in(last, None).await.map_err(archive_failed)?;
                    }
                    next
                }
                None => {
                    let (log_start, _) = self.log.watermarks(*partition).await.map_err(log_failed)?;
                    if log_start > 0 && !self.config.begin_at_log_start {
                        return Err(SinkError::Halt(format!(
                            "{partition} begins at offset {log_start}, and the archive has nothing of it: what stood before is lost; set \
                             archive.begin_at_log_start to archive what there is"
                        )));
                    }
                    log_start
                }
            };
            starts.push((*partition, Start::Offset(next)));
        }
        Ok(starts)
    }

    async fn flush(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let written = self.write(batch).await;
        self.unsure = matches!(written, Err(SinkError::Retry(_)));
        written
    }
}
