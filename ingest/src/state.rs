//! What the routes share, and how it is built when the process starts.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use memori_event_log::{Log, LogError, Topic, TopicPartition};
use memori_schemas::{Lane, LogRecordBody, Micros, framing};
use memori_service::auth::{KeyRing, PresentedKey, Principal, presented};
use memori_service::problem::{Answer, Problem};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::accept::{Acceptor, Lookup, known_at_writer};
use crate::backend::{BackendError, WriterBackend};
#[cfg(feature = "backfill")]
use crate::backfill::{Backfills, BackfillsConfig};
use crate::door::{Accepted, EventName, RecentEvents};
use crate::flush::Flushes;
use crate::limits::Limits;
use crate::publish::{Publisher, RETRY_AFTER_SECONDS};
use crate::redrive::{Allowance, Copy, RecentCopies};
use crate::spool::{Spool, replay};
use crate::tenants::quotas::SpoolLevel;
use crate::tenants::{KeyStore, Standings, TenantsConfig};

/// Where it is known which events are being extracted right now (in one process with the worker).
pub trait ExtractingProbe: Send + Sync {
    /// Whether this event is.
    fn is_extracting(&self, tenant: &str, event_id: &str) -> bool;
}

/// The bounds and times of a front door.
#[derive(Clone, Debug)]
pub struct IngestConfig {
    /// Requests served at once, and as many that wait.
    pub max_requests: usize,
    /// Bytes of bodies held at once.
    pub max_body_bytes_in_flight: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How long a delivery report is waited for; `None` where the log itself ends the wait.
    pub log_timeout: Option<Duration>,
    /// Events that the door remembers.
    pub recent_events: usize,
    /// Bytes that the door's memory may take.
    pub recent_bytes: usize,
    /// Records of each partition that are read back at the start; with [`Lookup::Exact`] as many as the writer does not know.
    pub tail_records: usize,
    /// How long the log may take to answer at the start: brokers that have just made topics, or a leader, are not ready at once.
    pub start_deadline: Duration,
    /// Dead-lettered events that are put back in a second, at most.
    pub redrive_per_second: u32,
    /// How long one redrive goes on beginning new ones.
    pub redrive_time: Duration,
    /// How ids are looked up.
    pub lookup: Lookup,
    /// Whether a wait asks the worker to begin with what it gathers in windows.
    pub flush_on_wait: bool,
    /// How keys of the key store and quotas are kept; `None`: neither is.
    pub tenants: Option<TenantsConfig>,
    /// Where imports are kept that the API starts; `None`: it starts none.
    #[cfg(feature = "backfill")]
    pub backfills: Option<BackfillsConfig>,
    /// The process is to end: whoever still waits is answered.
    pub draining: CancellationToken,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            max_requests: 1_024,
            max_body_bytes_in_flight: 256 << 20,
            body_timeout: Duration::from_secs(30),
            log_timeout: Some(Duration::from_secs(1)),
            recent_events: 200_000,
            recent_bytes: 256 << 20,
            tail_records: 2_000,
            start_deadline: Duration::from_secs(30),
            redrive_per_second: 100,
            redrive_time: Duration::from_secs(10),
            lookup: Lookup::BestEffort(Duration::from_millis(50)),
            flush_on_wait: false,
            tenants: None,
            #[cfg(feature = "backfill")]
            backfills: None,
            draining: CancellationToken::new(),
        }
    }
}

/// What a front door is made of.
pub struct IngestParts {
    /// Where events go.
    pub log: Arc<dyn Log>,
    /// Who answers reads.
    pub backend: WriterBackend,
    /// Who may call.
    pub keys: KeyRing,
    /// Where it is known what is being extracted.
    pub extracting: Option<Arc<dyn ExtractingProbe>>,
    /// Bounds and times.
    pub config: IngestConfig,
}

/// Where the spool is, and how large it may be.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// Its folder, for one process at a time.
    pub folder: PathBuf,
    /// Its bound.
    pub max_bytes: u64,
    /// Ends its replay.
    pub shutdown: CancellationToken,
    /// Where the spools of the other processes of this machine lie that deliver to the same log.
    pub beside: Option<PathBuf>,
}

/// How long the caller of a request waits for it; beside a request that is made inside the process.
#[derive(Clone, Copy, Debug)]
pub struct Patience(pub Duration);

/// Why a front door did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The spool's folder.
    #[error("the spool in {folder} cannot be used: {source}; see ingest.spool_dir")]
    Spool {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder of imports.
    #[cfg(feature = "backfill")]
    #[error("the backfills in {folder} cannot be used: {source}; see ingest.backfill_dir")]
    Backfills {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The writer, where the door must be exact.
    #[error("what the writer knows is not readable: {0}")]
    Writer(#[from] BackendError),
}

/// What the routes share.
pub struct IngestState {
    pub(crate) log: Arc<dyn Log>,
    /// Of every topic. Empty until the log has been reached.
    partitions: Arc<OnceLock<i32>>,
    pub(crate) backend: WriterBackend,
    pub(crate) keys: KeyRing,
    key_store: Option<Arc<KeyStore>>,
    pub(crate) standings: Option<Arc<Standings>>,
    pub(crate) acceptor: Arc<Acceptor>,
    pub(crate) limits: Limits,
    pub(crate) erasures: PendingErasures,
    /// Where the worker gathers windows.
    pub(crate) flushes: Option<Flushes>,
    pub(crate) redrives: Redrives,
    #[cfg(feature = "backfill")]
    pub(crate) backfills: Option<Arc<Backfills>>,
    pub(crate) draining: CancellationToken,
    extracting: Option<Arc<dyn ExtractingProbe>>,
    spool: Option<Arc<Spool>>,
    beside: Option<PathBuf>,
}

impl IngestState {
    /// Builds a front door without a spool: while the log is away, events are refused. The door's memory comes from the log's tail.
    ///
    /// # Errors
    /// Where the log (or, for an exact door, the writer) cannot be read.
    pub async fn start(parts: IngestParts) -> Result<Self, StartError> {
        Self::start_with_spool(parts, None).await
    }

    /// Builds a front door with a spool, and begins to deliver what waits there. Where the log is away, the spool stands in for it at
    /// once; the door's memory is filled when the log is back. (With [`Lookup::Exact`] the log is needed.)
    ///
    /// # Errors
    /// As [`IngestState::start`], and where the spool's folder cannot be used.
    pub async fn start_with_spool(parts: IngestParts, spool: Option<SpoolConfig>) -> Result<Self, StartError> {
        let IngestParts { log, backend, keys, extracting, config } = parts;
        let partitions = Arc::new(OnceLock::new());
        let mut recent = RecentEvents::new(config.recent_events, config.recent_bytes);
        let stands_in = spool.is_some() && config.lookup != Lookup::Exact;
        let away = match reach(&*log, stands_in, config.start_deadline).await? {
            Some(count) => {
                let _ = partitions.set(count);
                match remember_tails(&*log, count, &backend, &config, &mut recent).await {
                    Err(error) if stands_in && is_away(&error) => Some(error),
                    tails => {
                        tails?;
                        tracing::info!(events = recent.len(), "the door remembers the log's tail");
                        None
                    }
                }
            }
            None => Some(StartError::Log(LogError::Transient("it does not answer".to_owned()))),
        };
        let mut behind = None;
        let beside = spool.as_ref().and_then(|spool| spool.beside.clone());
        if let Some(folder) = spool {
            let shutdown = folder.shutdown.clone();
            let (spool, with_spooled) = open_spool(folder, recent).await?;
            recent = with_spooled;
            if away.is_some() {
                spool.log_is_away();
            }
            tokio::spawn(replay(Arc::clone(&spool), log.producer(), shutdown.clone()));
            behind = Some((spool, shutdown));
        }
        let spool = behind.as_ref().map(|(spool, _)| Arc::clone(spool));
        let publisher = Publisher::new(log.producer(), config.log_timeout, spool.clone());
        let acceptor = Arc::new(Acceptor::new(recent, backend.clone(), config.lookup, publisher));
        if let (Some(error), Some((spool, shutdown))) = (away, behind) {
            tracing::warn!(%error, "the log is away: events go into the spool");
            let (log, partitions, backend) = (Arc::clone(&log), Arc::clone(&partitions), backend.clone());
            let (acceptor, config) = (Arc::clone(&acceptor), config.clone());
            tokio::spawn(async move {
                let catching_up = catch_up(&*log, &partitions, &backend, &config, &acceptor);
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = catching_up => spool.log_is_back(),
                }
            });
        }
        #[cfg(feature = "backfill")]
        let backfills = {
            let folder = config.backfills.as_ref().map(|backfills| backfills.folder.clone()).unwrap_or_default();
            Self::open_backfills(config.backfills, log.producer()).map_err(|source| StartError::Backfills { folder, source })?
        };
        let limits = Limits::new(config.max_requests, config.max_body_bytes_in_flight, config.body_timeout);
        let flushes = config.flush_on_wait.then(|| Flushes::new(log.producer()));
        let draining = config.draining.clone();
        let key_store = config.tenants.map(|tenants| KeyStore::start(backend.clone(), tenants.keys, draining.clone()));
        let standings = config
            .tenants
            .map(|tenants| Standings::start(backend.clone(), tenants.replicas, tenants.quota_refresh, draining.clone()));
        Ok(Self {
            log,
            partitions,
            backend,
            keys,
            key_store,
            standings,
            acceptor,
            limits,
            erasures: PendingErasures::default(),
            flushes,
            redrives: Redrives::new(config.redrive_per_second, config.redrive_time),
            #[cfg(feature = "backfill")]
            backfills,
            draining: config.draining,
            extracting,
            spool,
            beside,
        })
    }

    /// The partition count of every topic.
    ///
    /// # Errors
    /// Where the log was never reached since the start, and is not now.
    pub(crate) async fn partitions(&self) -> Result<i32, LogError> {
        match self.partitions.get() {
            Some(count) => Ok(*count),
            None => {
                let count = self.log.identity().await?.partitions;
                Ok(*self.partitions.get_or_init(|| count))
            }
        }
    }

    /// Who calls: by a key of the file, else by one of the key store.
    ///
    /// # Errors
    /// 401 and 403 for keys that let nobody in; 503 where that cannot be known now.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap) -> Answer<Principal> {
        let by_file = self.keys.authenticate(headers);
        let Some(store) = self.key_store.as_ref().filter(|_| by_file.is_err()) else { return by_file };
        match presented(headers).and_then(PresentedKey::read) {
            Some(presented) => store.admit(&presented).await,
            None => by_file,
        }
    }

    /// How much of the spool a tenant fills, while it stands in for the log.
    pub(crate) fn spool_level(&self, tenant: &str) -> Option<SpoolLevel> {
        let spool = self.spool.as_ref().filter(|spool| spool.stands_in())?;
        Some(SpoolLevel { of_tenant: spool.bytes_of(tenant), bound: spool.max_bytes() })
    }

    /// Answers, whenever it is asked, whether the log is away and the spool stands in for it.
    pub fn degraded(&self) -> impl Fn() -> Option<String> + Send + 'static {
        let spool = self.spool.clone();
        move || {
            let spool = spool.as_ref().filter(|spool| spool.stands_in())?;
            Some(format!("the log is away; {} events wait in the spool", spool.waiting()))
        }
    }

    /// Waits until no spool of this machine holds an event of this key (of any, without one): what is delivered later would bring
    /// back what is deleted now.
    ///
    /// # Errors
    /// 503 where that takes longer than `patience`.
    pub(crate) async fn delivered(&self, key: Option<&[u8]>, patience: Duration) -> Result<(), Problem> {
        let Some(spool) = &self.spool else { return Ok(()) };
        let end = tokio::time::Instant::now() + patience;
        loop {
            let mut waits = spool.holds(key);
            if let (false, Some(beside)) = (waits, &self.beside) {
                let (spool, beside, key) = (Arc::clone(spool), beside.clone(), key.map(<[u8]>::to_vec));
                let looking = tokio::task::spawn_blocking(move || spool.others_hold(&beside, key.as_deref()));
                let looked = looking.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
                waits = looked.unwrap_or_else(|error| {
                    tracing::warn!(%error, "it is not known what waits in the spools beside this one");
                    true
                });
            }
            if !waits {
                return Ok(());
            }
            let now = tokio::time::Instant::now();
            if now >= end {
                return Err(Problem::unavailable(
                    "nothing is deleted yet: events that were captured before wait in a spool of this machine, and would come back \
                     after the deletion; ask again once the platform has taken them",
                    RETRY_AFTER_SECONDS,
                ));
            }
            tokio::time::sleep(SPOOL_LOOK.min(end - now)).await;
        }
    }

    /// Answers, whenever it is asked, how many events wait in the spool.
    pub fn spooled(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let spool = self.spool.clone();
        move || spool.as_ref().map_or(0, |spool| spool.waiting())
    }

    /// Turns `accepted` into `extracting` where that is known.
    pub(crate) fn note_extracting(&self, tenant: &str, event_id: &str, status: Option<&mut Value>) {
        if let (Some(probe), Some(status)) = (&self.extracting, status)
            && *status == "accepted"
            && probe.is_extracting(tenant, event_id)
        {
            *status = "extracting".into();
        }
    }
}

/// How often it is looked whether the spools have been delivered.
const SPOOL_LOOK: Duration = Duration::from_millis(50);
/// How long the log may take to answer before a spool stands in for it.
const AWAY_AFTER: Duration = Duration::from_secs(2);
/// Between two questions whether the log is back.
const BACK_PAUSE: Duration = Duration::from_millis(500);

fn is_away(error: &StartError) -> bool {
    matches!(error, StartError::Log(LogError::Transient(_)))
}

/// The partition count; `None` where the log is away and something stands in for it. A log that answers and cannot be used, as one
/// whose topics are not made yet, is waited for.
async fn reach(log: &dyn Log, stands_in: bool, deadline: Duration) -> Result<Option<i32>, StartError> {
    if !stands_in {
        return Ok(Some(log.identity().await?.partitions));
    }
    let patience = tokio::time::Instant::now() + deadline;
    loop {
        match tokio::time::timeout(AWAY_AFTER, log.identity()).await {
            Ok(Ok(identity)) => return Ok(Some(identity.partitions)),
            Ok(Err(LogError::Transient(_))) | Err(_) => return Ok(None),
            Ok(Err(error)) if tokio::time::Instant::now() >= patience => return Err(error.into()),
            Ok(Err(error)) => tracing::info!(%error, "the log cannot be used yet"),
        }
        tokio::time::sleep(BACK_PAUSE).await;
    }
}

/// Reads every partition's tail, within the start's deadline.
async fn remember_tails(
    log: &dyn Log,
    partitions: i32,
    backend: &WriterBackend,
    config: &IngestConfig,
    recent: &mut RecentEvents,
) -> Result<(), StartError> {
    let patience = tokio::time::Instant::now() + config.start_deadline;
    // An exact door answers for history, too; of several doors none does, and what comes twice is one event behind them.
    let lanes: &[Lane] = if config.lookup == Lookup::Exact { &[Lane::Backfill, Lane::Live] } else { &[Lane::Live] };
    for (lane, partition) in lanes.iter().flat_map(|lane| (0..partitions).map(|partition| (*lane, partition))) {
        // What was remembered of a partition that is read again is remembered once.
        while let Err(error) = remember_tail(log, lane, partition, backend, config, recent).await {
            if !is_away(&error) || tokio::time::Instant::now() >= patience {
                return Err(error);
            }
            tracing::info!(partition, lane = lane.as_str(), %error, "the log's tail cannot be read yet");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Ok(())
}

/// Waits until the log is back, then lets the door remember its tail.
async fn catch_up(
    log: &dyn Log,
    partitions: &OnceLock<i32>,
    backend: &WriterBackend,
    config: &IngestConfig,
    acceptor: &Acceptor,
) {
    loop {
        let mut tail = RecentEvents::new(config.recent_events, config.recent_bytes);
        let reached = async {
            let count = log.identity().await?.partitions;
            let count = *partitions.get_or_init(|| count);
            remember_tails(log, count, backend, config, &mut tail).await
        };
        match reached.await {
            Ok(()) => {
                tracing::info!(events = tail.len(), "the log is back; the door remembers its tail");
                acceptor.remember_older(tail);
                return;
            }
            Err(error) if is_away(&error) => tracing::debug!(%error, "the log is still away"),
            Err(error) => tracing::error!(%error, "the log answers, but cannot be used"),
        }
        tokio::time::sleep(BACK_PAUSE).await;
    }
}

/// Opens the spool; the door remembers what waits in it.
async fn open_spool(spool: SpoolConfig, mut recent: RecentEvents) -> Result<(Arc<Spool>, RecentEvents), StartError> {
    let folder = spool.folder.clone();
    let opening = tokio::task::spawn_blocking(move || {
        let opened = Spool::open(&spool.folder, spool.max_bytes, |event| {
            let accepted = Accepted::of_record(event, Lane::Live);
            recent.remember(EventName::new(&event.tenant, &event.event_id), accepted);
            recent.forget_surplus();
        });
        opened.map(|spool| (Arc::new(spool), recent))
    });
    let opened = opening.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    opened.map_err(|source| StartError::Spool { folder, source })
}

/// How many records of the tail are read, and asked about, at once.
const TAIL_CHUNK: i64 = 500;

/// Reads a partition's tail backwards in chunks, then remembers it in order. An exact door goes on until the writer knows the first
/// event of a chunk: the sink takes a partition in order, so everything before is known to it, too.
async fn remember_tail(
    log: &dyn Log,
    lane: Lane,
    partition: i32,
    backend: &WriterBackend,
    config: &IngestConfig,
    recent: &mut RecentEvents,
) -> Result<(), StartError> {
    let topic = match lane {
        Lane::Live => Topic::ConversationsLive,
        Lane::Backfill => Topic::ConversationsBackfill,
    };
    let source = TopicPartition { topic, partition };
    let (start, end) = log.watermarks(source).await?;
    let mut chunks: Vec<Vec<(EventName, Accepted)>> = Vec::new();
    let mut upper = end;
    let mut read = 0;
    while upper > start {
        let lower = (upper - TAIL_CHUNK).max(start);
        let records = log.read(source, lower, usize::try_from(upper - lower).unwrap_or(0)).await?;
        let events: Vec<(EventName, Accepted)> = records
            .iter()
            .filter(|record| record.offset < upper)
            .filter_map(|record| match framing::decode(&record.payload) {
                Ok(LogRecordBody::Conversation(event)) => {
                    Some((EventName::new(&event.tenant, &event.event_id), Accepted::of_record(&event, lane)))
                }
                _ => None,
            })
            .collect();
        let first = events.first().cloned();
        read += events.len();
        chunks.push(events);
        upper = lower;
        let enough = match (config.lookup, first) {
            (Lookup::BestEffort(_), _) => read >= config.tail_records,
            (Lookup::Exact, Some((name, accepted))) => {
                let known = known_at_writer(backend, &name.tenant, std::slice::from_ref(&name), Duration::from_secs(30)).await?;
                known
                    .get(&*name.event_id)
                    .is_some_and(|known| known.iter().any(|k| k.content_hash == accepted.claim.content_hash))
            }
            (Lookup::Exact, None) => false,
        };
        if enough {
            break;
        }
    }
    for (name, accepted) in chunks.into_iter().rev().flatten() {
        recent.remember(name, accepted);
        if config.lookup != Lookup::Exact {
            recent.forget_surplus();
        }
    }
    Ok(())
}

/// What all redrives of this process share.
#[derive(Debug)]
pub(crate) struct Redrives {
    allowance: Mutex<Allowance>,
    recent: Mutex<RecentCopies>,
    /// How long one call goes on.
    pub(crate) time: Duration,
}

impl Redrives {
    /// Copies that are remembered.
    const RECENT: usize = 50_000;

    fn new(per_second: u32, time: Duration) -> Self {
        Self {
            time,
            allowance: Mutex::new(Allowance::new(per_second, Instant::now())),
            recent: Mutex::new(RecentCopies::new(Self::RECENT)),
        }
    }

    /// How many of `wanted` may go now; of none, how long to wait.
    pub(crate) fn take(&self, wanted: usize) -> Result<usize, Duration> {
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match allowance.take(wanted, now) {
            0 => Err(allowance.wait(now)),
            taken => Ok(taken),
        }
    }

    /// What was taken and not used.
    pub(crate) fn give_back(&self, unused: usize) {
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner).give_back(unused);
    }

    /// Whether this copy has not gone lately; from now on it has.
    pub(crate) fn begin(&self, copy: Copy) -> bool {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).remember(copy)
    }

    /// It did not get onto the log.
    pub(crate) fn failed(&self, copy: &Copy) {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).forget(copy);
    }
}

/// Erasures that were accepted here lately, until the writer has their receipts.
#[derive(Debug, Default)]
pub(crate) struct PendingErasures(Mutex<PendingTable>);

#[derive(Debug, Default)]
struct PendingTable {
    by_id: HashMap<String, (String, Micros)>,
    oldest_first: VecDeque<String>,
}

impl PendingErasures {
    /// The most that are remembered.
    const MAX: usize = 10_000;

    pub(crate) fn remember(&self, tenant: &str, erasure_id: &str, requested_at: Micros) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.oldest_first.len() >= Self::MAX
            && let Some(oldest) = table.oldest_first.pop_front()
        {
            table.by_id.remove(&oldest);
        }
        table.oldest_first.push_back(erasure_id.to_owned());
        table.by_id.insert(erasure_id.to_owned(), (tenant.to_owned(), requested_at));
    }

    /// When an erasure of this tenant was asked for.
    pub(crate) fn get(&self, tenant: &str, erasure_id: &str) -> Option<Micros> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (owner, requested_at) = table.by_id.get(erasure_id)?;
        (owner == tenant).then_some(*requested_at)
    }
}
