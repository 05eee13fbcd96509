//! A front door in this process whose log and writer are a platform's.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use memori_embedded::{Slot, adopt, remove};
use memori_event_log::Log as _;
use memori_ingest::remote::{Platform, RemoteLog};
use memori_ingest::{IngestConfig, IngestParts, IngestState, Lookup, SpoolConfig, WriterBackend};
use memori_service::Secret;
use memori_service::auth::KeyRing;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::engine::lock;
use crate::notices::Level;
use crate::system::{StartFailure, System};

/// How long the platform may take to take an event before the spool does.
const LOG_TIMEOUT: Duration = Duration::from_secs(1);
/// Events that the door remembers: ids are made in this process, so few come twice.
const RECENT_EVENTS: usize = 10_000;
/// Their bytes.
const RECENT_BYTES: usize = 8 << 20;
/// Requests at once.
const MAX_REQUESTS: usize = 1_024;
/// Bytes of requests at once.
const MAX_BODY_BYTES: usize = 64 << 20;
/// How often it is looked whether the spool is empty at the end.
const LOOK: Duration = Duration::from_millis(10);

struct Remote {
    router: Router,
    platform: Arc<Platform>,
    degraded: Box<dyn Fn() -> Option<String> + Send + Sync>,
    spooled: Box<dyn Fn() -> usize + Send + Sync>,
    draining: CancellationToken,
    replay_stop: CancellationToken,
    adopting: std::sync::Mutex<Option<JoinHandle<()>>>,
    slot: std::sync::Mutex<Option<Slot>>,
    place: String,
}

pub(super) async fn start(config: &Config, url: &str, api_key: Option<&Secret>) -> Result<Arc<dyn System>, StartFailure> {
    let platform = Platform::new(url, api_key).map_err(|error| StartFailure(error.to_string()))?;
    let spools = config.target_dir().join("spool");
    let folder = spools.clone();
    let slot =
        tokio::task::spawn_blocking(move || Slot::lowest_free(&folder)).await.map_err(|error| StartFailure(error.to_string()))?;
    let slot = slot.map_err(|error| {
        StartFailure(format!(
            "the spool in {} cannot be used: {error}; make it writable, or name another data_dir",
            spools.display()
        ))
    })?;
    let (draining, replay_stop) = (CancellationToken::new(), CancellationToken::new());
    let log = Arc::new(RemoteLog::new(Arc::clone(&platform)));
    let parts = IngestParts {
        log: log.clone(),
        backend: WriterBackend::Remote(Arc::clone(&platform)),
        keys: KeyRing::open(),
        extracting: None,
        config: IngestConfig {
            max_requests: MAX_REQUESTS,
            max_body_bytes_in_flight: MAX_BODY_BYTES,
            log_timeout: Some(LOG_TIMEOUT),
            recent_events: RECENT_EVENTS,
            recent_bytes: RECENT_BYTES,
            tail_records: 0,
            lookup: Lookup::BestEffort(Duration::ZERO),
            draining: draining.clone(),
            ..IngestConfig::default()
        },
    };
    let spool = SpoolConfig {
        folder: slot.folder.clone(),
        max_bytes: config.spool_max_bytes,
        shutdown: replay_stop.clone(),
        beside: Some(spools.clone()),
    };
    let door = IngestState::start_with_spool(parts, Some(spool)).await.map_err(|error| StartFailure(error.to_string()))?;
    let (degraded, spooled) = (Box::new(door.degraded()), Box::new(door.spooled()));
    let adopting = adopt(spools, config.spool_max_bytes, log.producer(), async |_| {}, replay_stop.clone());
    Ok(Arc::new(Remote {
        router: memori_ingest::app(door),
        platform,
        degraded,
        spooled,
        draining,
        replay_stop,
        adopting: std::sync::Mutex::new(Some(tokio::spawn(adopting))),
        slot: std::sync::Mutex::new(Some(slot)),
        place: config.place(),
    }))
}

#[async_trait]
impl System for Remote {
    fn router(&self) -> Router {
        self.router.clone()
    }

    async fn up(&self, patience: Duration) -> Result<(), String> {
        let up = async {
            while self.complaint().is_some() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let late = || self.complaint().unwrap_or_else(|| "it does not answer".to_owned());
        tokio::time::timeout(patience, up).await.map_err(|_| late())
    }

    /// Reads go to the platform, whatever waits here.
    async fn open(&self, _patience: Duration) -> Result<(), String> {
        Ok(())
    }

    fn complaint(&self) -> Option<String> {
        let degraded = (self.degraded)()?;
        Some(self.platform.complaint().map_or(degraded.clone(), |why| format!("{why} ({degraded})")))
    }

    fn quota(&self) -> Option<(String, Duration)> {
        self.platform.quota()
    }

    fn remarks(&self) -> Vec<(&'static str, Level, String)> {
        self.platform.complaint().map(|why| ("platform", Level::Error, format!("{}: {why}", self.place))).into_iter().collect()
    }

    fn set_workers(&self, _count: usize) {}

    fn set_batch_rows(&self, count: usize) {
        self.platform.set_batch_events(count);
    }

    fn shown(&self) -> Value {
        json!({
            "kind": "platform",
            "workers": {"effective": null, "acts_on": "nothing here: the platform extracts with its own"},
            "batch_rows": {"effective": self.platform.batch_events(), "acts_on": "the events of one request to the platform"},
            "spooled": (self.spooled)(),
        })
    }

    async fn suspend(&self, _patience: Duration) -> bool {
        true
    }

    fn resume(&self) {}

    /// What waits in the spool is given the time that there is to get away; what does not is for the next process.
    async fn stop(&self, deadline: Duration) {
        let emptied = async {
            while (self.spooled)() > 0 && (self.degraded)().is_none() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(deadline / 2, emptied).await;
        self.draining.cancel();
        self.replay_stop.cancel();
        let adopting = lock(&self.adopting).take();
        if let Some(adopting) = adopting {
            let _ = tokio::time::timeout(deadline / 4, adopting).await;
        }
        // The lock is let go of with the slot, after what it guards.
        if let Some(slot) = lock(&self.slot).take().filter(|_| (self.spooled)() == 0) {
            let _ = remove(&slot.folder);
        }
    }
}
