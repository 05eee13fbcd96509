//! A log whose partitions begin where the archive does: what the topic has lost is read from the archive, with its own offsets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use memori_event_log::{Consumer, Log, LogError, LogIdentity, LogRecord, Producer, Topic, TopicPartition};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;

use crate::consumer::ArchivedConsumer;
use crate::manifest::Manifest;
use crate::place::Place;
use crate::store::{Archive, ArchiveError, Link};

/// Ranges of the archive that one process has decoded at a time, beside the one that it keeps.
const RANGES_AT_ONCE: usize = 2;
/// What was listed that lately is not listed again for a question that is asked again soon.
const LISTED_FOR: Duration = Duration::from_secs(1);
/// However long ago: a listing that has what is looked for only grows.
const EVER: Duration = Duration::MAX;

/// A log before which there is an archive.
pub struct ArchivedLog {
    inner: Arc<dyn Log>,
    history: Arc<History>,
}

/// The archive of one log.
pub(crate) struct History {
    pub(crate) log: Arc<dyn Log>,
    archive: Arc<Archive>,
    identity: OnceCell<LogIdentity>,
    chains: Mutex<BTreeMap<TopicPartition, Arc<Chain>>>,
    pub(crate) ranges: Arc<Semaphore>,
}

/// What was listed of a partition. It only grows.
struct Chain {
    place: Place,
    links: Vec<Link>,
    /// Where the last range ends.
    end: i64,
    listed_at: Instant,
}

/// Puts the archive that `url` names before a log; without one the log is as it was.
///
/// # Errors
/// [`LogError::Fatal`] for a URL that names nothing usable.
pub fn behind(log: Arc<dyn Log>, url: Option<&str>) -> Result<Arc<dyn Log>, LogError> {
    let Some(url) = url else { return Ok(log) };
    let archive = Archive::open(url).map_err(|e| LogError::Fatal(format!("archive.url: {e}")))?;
    Ok(Arc::new(ArchivedLog::new(log, Arc::new(archive))))
}

pub(crate) fn log_error(error: ArchiveError) -> LogError {
    match error {
        ArchiveError::Away(_) | ArchiveError::Missing(_) => LogError::Transient(error.to_string()),
        ArchiveError::Broken(_) => LogError::Fatal(error.to_string()),
    }
}

impl ArchivedLog {
    /// An archive before a log.
    #[must_use]
    pub fn new(inner: Arc<dyn Log>, archive: Arc<Archive>) -> Self {
        let ranges = Arc::new(Semaphore::new(RANGES_AT_ONCE));
        let (identity, chains) = (OnceCell::new(), Mutex::default());
        let history = Arc::new(History { log: inner.clone(), archive, identity, chains, ranges });
        Self { inner, history }
    }
}

impl History {
    async fn place(&self, partition: TopicPartition) -> Result<Place, LogError> {
        let identity = self.identity.get_or_try_init(|| self.log.identity()).await?;
        Place::of(identity, partition)
            .ok_or_else(|| LogError::Fatal(format!("the log has no topic {}; create the topics", partition.topic)))
    }

    /// The ranges of a partition as they were listed no longer ago than that.
    async fn chain(&self, partition: TopicPartition, within: Duration) -> Result<Arc<Chain>, LogError> {
        let known = self.chains.lock().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned();
        if let Some(known) = known.filter(|known| known.listed_at.elapsed() < within) {
            return Ok(known);
        }
        let place = self.place(partition).await?;
        let links = self.archive.chain(&place).await.map_err(log_error)?;
        // A range ends where the next one begins: whoever puts one begins at the end of the one before.
        let end = match links.last() {
            Some(last) => self.archive.manifest(&place, *last).await.map_err(log_error)?.to,
            None => 0,
        };
        let chain = Arc::new(Chain { place, links, end, listed_at: Instant::now() });
        self.chains.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, chain.clone());
        Ok(chain)
    }

    /// From which offset on the archive leads to the topic's start without a hole; none where it does not. What was listed before the
    /// topic lost its head does not count as a hole.
    pub(crate) async fn begins(&self, partition: TopicPartition, log_start: i64) -> Result<Option<i64>, LogError> {
        self.leads_to(partition, log_start, Duration::ZERO).await
    }

    async fn leads_to(&self, partition: TopicPartition, log_start: i64, listed: Duration) -> Result<Option<i64>, LogError> {
        for within in [EVER, listed] {
            let chain = self.chain(partition, within).await?;
            if chain.end >= log_start {
                return Ok(chain.links.first().map(|first| first.from));
            }
        }
        Ok(None)
    }

    /// The range that holds an offset.
    pub(crate) async fn holding(&self, partition: TopicPartition, offset: i64) -> Result<Option<Manifest>, LogError> {
        for within in [EVER, Duration::ZERO] {
            let chain = self.chain(partition, within).await?;
            let link = chain.links.iter().rev().find(|link| link.from <= offset);
            if let Some(link) = link.filter(|_| offset < chain.end) {
                let manifest = self.archive.manifest(&chain.place, *link).await.map_err(log_error)?;
                return Ok((offset < manifest.to).then_some(manifest));
            }
        }
        Ok(None)
    }

    /// Its records; of a range that somebody wrote again meanwhile, those of the newer revision.
    pub(crate) async fn records(&self, manifest: &Manifest) -> Result<Arc<Vec<LogRecord>>, LogError> {
        match self.archive.records(manifest).await {
            Err(ArchiveError::Missing(what)) => match self.archive.beginning_at(&manifest.place, manifest.from).await {
                Ok(Some(newer)) if newer.revision > manifest.revision => self.archive.records(&newer).await.map_err(log_error),
                Ok(_) => {
                    Err(LogError::Fatal(format!("the archive has lost {what}: restore it; `memori archive verify` looks closer")))
                }
                Err(error) => Err(log_error(error)),
            },
            read => read.map_err(log_error),
        }
    }
}

#[async_trait]
impl Log for ArchivedLog {
    fn producer(&self) -> Arc<dyn Producer> {
        self.inner.producer()
    }

    async fn subscribe(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Consumer>, LogError> {
        let inner = self.inner.subscribe(group, topics).await?;
        Ok(Box::new(ArchivedConsumer::new(inner, group, topics, self.history.clone())))
    }

    async fn create_topics(&self, partitions: i32) -> Result<(), LogError> {
        self.inner.create_topics(partitions).await
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        self.inner.identity().await
    }

    async fn watermarks(&self, partition: TopicPartition) -> Result<(i64, i64), LogError> {
        let (log_start, end) = self.inner.watermarks(partition).await?;
        if log_start == 0 {
            return Ok((0, end));
        }
        let begins = self.history.leads_to(partition, log_start, LISTED_FOR).await?;
        Ok((begins.map_or(log_start, |begins| begins.min(log_start)), end))
    }

    async fn read(&self, partition: TopicPartition, offset: i64, max_records: usize) -> Result<Vec<LogRecord>, LogError> {
        let (mut next, mut out) = (offset, Vec::new());
        while out.len() < max_records {
            let gone = match self.inner.read(partition, next, max_records - out.len()).await {
                Ok(records) => {
                    out.extend(records);
                    break;
                }
                Err(gone @ LogError::BelowLogStart { .. }) => gone,
                Err(error) => return Err(error),
            };
            let Some(manifest) = self.history.holding(partition, next).await? else { return Err(gone) };
            let records = self.history.records(&manifest).await?;
            out.extend(records.iter().filter(|record| record.offset >= next).take(max_records - out.len()).cloned());
            next = manifest.to;
        }
        Ok(out)
    }
}
