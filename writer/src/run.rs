//! Runs the sink: the one piece that the writer's own process and the embedded one share.

use std::sync::Arc;
use std::time::Duration;

use memori_event_log::driver::{BatchConfig, Levels, LiveBound, StandBack, run_batches};
use memori_event_log::{Log, LogError, Topic};
use memori_service::settings;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::generations::DroppedGenerations;
use crate::notify::Commits;
use crate::pace::{Pace, Readers};
use crate::packer::{Packer, PackerConfig, SlowReads};
use crate::sink::Sink;
use crate::sink::metrics::SinkObserver;
use crate::store::Store;

/// The consumer group of all writers on one log.
pub const GROUP: &str = "memori-writer";
/// Commits this close together are announced to other writers once.
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(5);

/// How often it is looked whether the view was made anew.
const EPOCH_INTERVAL: Duration = Duration::from_millis(500);

/// How long the sink's end waits for the packer's.
const PACKER_DEADLINE: Duration = Duration::from_millis(500);

/// How the sink behaves.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    /// Records that close a batch.
    pub batch_rows: LiveBound,
    /// Bytes that close a batch.
    pub batch_bytes: usize,
    /// Age that closes a batch.
    pub batch_max_age: Duration,
    /// How what nobody waits for stands back behind the present.
    pub backfill: StandBack,
    /// How long what was gathered may take to be written when the process stops.
    pub drain_deadline: Duration,
    /// Keeps packs of what flushes change; without it entities are read by rows.
    pub packer: Option<PackerConfig>,
    /// How fast it goes while somebody recalls.
    pub pace: Pace,
    /// Told how full the sink is.
    pub levels: Levels,
    /// What recall tells the packer.
    pub slow_reads: SlowReads,
    /// What is passed over.
    pub dropped: DroppedGenerations,
}

impl SinkConfig {
    /// As configured; at the end a quarter of the shutdown's deadline is left for everything else.
    #[must_use]
    pub fn from_settings(writer: &settings::Writer, shutdown: &settings::Stop) -> Self {
        Self {
            batch_rows: writer.batch_rows.into(),
            batch_bytes: writer.batch_bytes,
            batch_max_age: Duration::from_millis(writer.batch_max_age_ms),
            backfill: StandBack {
                late_max_age: Duration::from_millis(writer.late_batch_max_age_ms),
                max_age: Duration::from_millis(writer.backfill_batch_max_age_ms),
                rows_beside: writer.backfill_rows_beside_live,
            },
            drain_deadline: Duration::from_millis(shutdown.deadline_ms / 4 * 3),
            packer: None,
            pace: Pace { share_percent: writer.sink_share_percent, ..Pace::default() },
            levels: Levels::default(),
            slow_reads: SlowReads::default(),
            dropped: DroppedGenerations::default(),
        }
    }

    /// Beside recall: paced by these, and packing what it reads slowly.
    #[must_use]
    pub fn beside(mut self, readers: Readers, slow_reads: SlowReads) -> Self {
        self.pace.readers = readers;
        self.slow_reads = slow_reads;
        self
    }
}

/// Moves everything on the log into the store, until `shutdown`; then drains. The store's tables must be there.
///
/// # Errors
/// What no retry mends: the text says what to do.
pub async fn run_sink(
    log: Arc<dyn Log>,
    store: Arc<dyn Store>,
    commits: Commits,
    config: SinkConfig,
    shutdown: CancellationToken,
) -> Result<(), LogError> {
    let identity = log.identity().await?;
    let committed = Arc::new(Notify::new());
    let announcing = tokio::spawn(announce(store.clone(), committed.clone()));
    let batches = BatchConfig {
        group: GROUP.to_owned(),
        topics: Topic::ALL.to_vec(),
        batch_rows: config.batch_rows.clone(),
        batch_bytes: config.batch_bytes,
        batch_max_age: config.batch_max_age,
        backfill: config.backfill,
        // One batch is being written while the next gathers.
        budget_events: config.batch_rows.get().max(1).saturating_mul(2),
        budget_bytes: config.batch_bytes.saturating_mul(2),
        drain_deadline: config.drain_deadline,
    };
    let stop_packing = CancellationToken::new();
    let (packer, packing) = config
        .packer
        .map(Packer::new)
        .map_or((None, None), |(packer, handle)| (Some(handle), Some(tokio::spawn(packer.run(stop_packing.clone())))));
    if let Some(packer) = &packer {
        config.slow_reads.to(packer.clone());
    }
    let observer: Arc<SinkObserver> = Arc::new(SinkObserver::telling(config.levels));
    let ended = loop {
        let round = shutdown.child_token();
        let Some(epoch) = shutdown.run_until_cancelled(epoch(&*store)).await else { break Ok(()) };
        let watching = tokio::spawn(watch_epoch(store.clone(), epoch, round.clone()));
        let sink = Sink::new(log.clone(), store.clone(), identity.clone(), commits.clone(), committed.clone());
        let sink = Box::new(sink.with_packer(packer.clone()).at_pace(config.pace.clone()).without(config.dropped.clone()));
        let ended = run_batches(log.clone(), batches.clone(), sink, observer.clone(), round).await;
        watching.abort();
        if ended.is_ok() && !shutdown.is_cancelled() {
            tracing::warn!("the view was made anew; reading the log from where the store says");
            continue;
        }
        break ended;
    };
    announcing.abort();
    stop_packing.cancel();
    if let Some(packing) = packing {
        // What it is at goes on beside: its transaction is not cut off, and nobody needs what it makes.
        let _ = tokio::time::timeout(PACKER_DEADLINE, packing).await;
    }
    ended
}

/// Which making of the view this is, as soon as the store tells.
async fn epoch(store: &dyn Store) -> i64 {
    loop {
        match store.epoch().await {
            Ok(epoch) => return epoch,
            Err(error) => tracing::warn!(%error, "which view this is is not known now"),
        }
        tokio::time::sleep(EPOCH_INTERVAL).await;
    }
}

/// Ends a round of the sink once somebody has emptied the view: what it has read is of another one, and where nothing new comes, no flush
/// would tell it.
async fn watch_epoch(store: Arc<dyn Store>, began: i64, round: CancellationToken) {
    while epoch(&*store).await == began {
        tokio::time::sleep(EPOCH_INTERVAL).await;
    }
    round.cancel();
}

/// Tells other writers of commits, one message for all since the last.
async fn announce(store: Arc<dyn Store>, committed: Arc<Notify>) {
    loop {
        committed.notified().await;
        if let Err(error) = store.announce().await {
            tracing::debug!(%error, "a commit was not announced; others look for themselves");
        }
        tokio::time::sleep(ANNOUNCE_PAUSE).await;
    }
}
