//! All derived tables made again from the log.
//!
//! Promises: nothing is emptied unless the log reaches back to the first record of every partition; the view is emptied and its
//! offsets go back to the start in one transaction, so that a flush of whoever runs beside is in the old view or fails; controls are
//! applied before the first conversation, as by every sink that starts; what is truth is left alone. Writers that run go on and share
//! the work: they see that the view is another one, and begin anew.

use std::sync::Arc;
use std::time::Duration;

use memori_event_log::{Log, LogError, LogIdentity, Topic, TopicPartition};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::notify::Commits;
use crate::run::{SinkConfig, run_sink};
use crate::store::{OffsetKey, Store, StoreError};

/// How often it is looked how far the view is.
const LOOK: Duration = Duration::from_millis(250);
/// Tries to empty the view, and to look how far it is, while the store is away or its tables are locked.
const TRIES: u32 = 20;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(500);

/// Why the view was not rebuilt: says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Nothing was touched.
    #[error(
        "{partition} begins at offset {log_start}: what stood before it is gone from the log, and a rebuild would lose it; name the archive \
         that has it in archive.url, or restore the log. Nothing was touched"
    )]
    Gone {
        /// Which partition.
        partition: TopicPartition,
        /// Its first record.
        log_start: i64,
    },
    /// The log's own.
    #[error("{0}")]
    Log(#[from] LogError),
    /// The store's own.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// It was asked to stop.
    #[error("stopped half way: the tables hold what was read so far, and every writer goes on from there")]
    Stopped,
    /// The sink ended by itself.
    #[error("the sink ended: {0}; the tables hold what was read so far, and every writer goes on from there")]
    Sink(String),
}

/// How far a rebuild is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Progress {
    /// Records that are in the view again.
    pub records: i64,
    /// Records that were on the log when it began.
    pub of: i64,
    /// Since when, in seconds.
    pub seconds: f64,
    /// How many a second.
    pub per_second: f64,
    /// How long the rest takes at that rate, in seconds.
    pub eta_seconds: Option<f64>,
}

impl Progress {
    fn of(records: i64, of: i64, took: Duration) -> Self {
        let seconds = took.as_secs_f64();
        let per_second = if seconds > 0.0 { records as f64 / seconds } else { 0.0 };
        let eta_seconds = (per_second > 0.0).then(|| (of - records).max(0) as f64 / per_second);
        Self { records, of, seconds, per_second, eta_seconds }
    }
}

/// What a rebuild reads.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Each partition and the end that it has now.
    pub ends: Vec<(TopicPartition, i64)>,
}

impl Extent {
    /// How many records that is, gaps of the log's own counted.
    #[must_use]
    pub fn records(&self) -> i64 {
        self.ends.iter().map(|(_, end)| end).sum()
    }
}

/// What a rebuild would read.
///
/// # Errors
/// [`RebuildError::Gone`] where the log does not reach back far enough.
pub async fn extent(log: &dyn Log, identity: &LogIdentity) -> Result<Extent, RebuildError> {
    let mut ends = Vec::new();
    for topic in Topic::ALL {
        for partition in 0..identity.partitions {
            let partition = TopicPartition { topic, partition };
            let (log_start, end) = log.watermarks(partition).await?;
            if log_start > 0 {
                return Err(RebuildError::Gone { partition, log_start });
            }
            ends.push((partition, end));
        }
    }
    Ok(Extent { ends })
}

/// Empties the view and fills it until all that was on the log when it began is in it again. A sink of its own joins the writers' group.
///
/// # Errors
/// See [`RebuildError`]: only after [`RebuildError::Stopped`] and [`RebuildError::Sink`], and where the store went away half way, was the
/// view touched.
pub async fn rebuild(
    log: Arc<dyn Log>,
    store: Arc<dyn Store>,
    config: SinkConfig,
    mut told: impl FnMut(Progress),
    stop: CancellationToken,
) -> Result<Progress, RebuildError> {
    let identity = log.identity().await?;
    let extent = extent(&*log, &identity).await?;
    patiently(|| store.empty_view()).await?;
    let began = Instant::now();
    let sinking = stop.child_token();
    let mut sink = tokio::spawn(run_sink(log, store.clone(), Commits::new(), config, sinking.clone()));
    let keys: Vec<OffsetKey> = extent.ends.iter().map(|(partition, _)| key(&identity, *partition)).collect();
    let caught_up = async {
        loop {
            let offsets = patiently(|| store.next_offsets(&keys)).await?;
            let records = extent.ends.iter().zip(offsets).map(|((_, end), next)| next.unwrap_or(0).min(*end)).sum();
            let progress = Progress::of(records, extent.records(), began.elapsed());
            told(progress);
            if progress.records >= progress.of {
                return Ok(progress);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => Err(RebuildError::Stopped),
        ended = &mut sink => {
            let why = match ended {
                Ok(Ok(())) => "it stopped without being asked".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(panic) => panic.to_string(),
            };
            return Err(RebuildError::Sink(why));
        }
        done = caught_up => done,
    };
    sinking.cancel();
    let _ = sink.await;
    ended
}

fn key(identity: &LogIdentity, partition: TopicPartition) -> OffsetKey {
    OffsetKey {
        cluster_id: identity.cluster_id.as_str().into(),
        topic_id: identity.topic_ids.get(&partition.topic).map_or("", String::as_str).into(),
        partition: partition.partition,
    }
}

/// Again and again while the store says that it may work later.
async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(mut ask: impl FnMut() -> F) -> Result<T, StoreError> {
    let mut tries = 1;
    loop {
        match ask().await {
            Err(StoreError::Retry(why)) if tries < TRIES => tracing::warn!(why, "the store cannot do it now; asked again"),
            settled => return settled,
        }
        tries += 1;
        tokio::time::sleep(PAUSE).await;
    }
}
