//! What `memori up` runs: the system with its folder to itself, behind a listener.

use std::net::SocketAddr;
use std::time::Duration;

#[cfg(feature = "backfill")]
use memori_ingest::backfill::BackfillsConfig;
use memori_ingest::{IngestConfig, IngestParts, IngestState, Lookup, SpoolConfig, WriterBackend};
use memori_service::auth::KeyRing;
use memori_service::{Health, ProcessError, Settings, Shutdown, admin, metrics_endpoint};
use memori_writer::control::{ROLL_UP_PAUSE, roll_up_until};
use memori_writer::notify::Commits;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Database;
use crate::folder::{self, DataFolder};
use crate::rooms::{Live, Rooms, drain_share};
use crate::storage::{Sharing, Storage};

/// Connections of the log to Postgres.
pub(crate) const LOG_CONNECTIONS: u32 = 12;

/// The running system.
pub struct Embedded {
    folder: DataFolder,
    storage: Storage,
    address: SocketAddr,
    health: Health,
    shutdown: Shutdown,
    drain_share: Duration,
    api_stop: CancellationToken,
    api: JoinHandle<()>,
    replay_stop: CancellationToken,
    rooms: Rooms,
    counting_stop: CancellationToken,
    counting: JoinHandle<()>,
}

impl Embedded {
    /// Brings everything up; when this returns, events are taken. `None` where it was asked to stop before its database answered.
    ///
    /// # Errors
    /// The folder is somebody else's, the settings cannot work, or the database is not reachable in time.
    pub async fn start(settings: Settings, shutdown: Shutdown) -> Result<Option<Self>, ProcessError> {
        let metrics = metrics_endpoint::install();
        describe_metrics();
        let health = Health::new();
        let path = settings.embedded.data_dir.clone().unwrap_or_else(folder::default_path);
        let folder = DataFolder::hold(&path)?;
        let keys = KeyRing::for_listener(settings.auth.keys_file.as_deref(), settings.has_key_store(), settings.ingest.listen)
            .map_err(|e| ProcessError::Usage(e.to_string()))?;
        let (listener, address) = admin::bind("ingest.listen (--listen)", settings.ingest.listen).await?;

        let embedder = memori_embedding::start(&settings)?;
        let commits = Commits::new();
        let (database, sharing) = match &settings.embedded.database_url {
            None => (Database::Sqlite(folder.database()), Sharing::Exclusive),
            // The folder's lock makes its name ours alone.
            Some(url) => {
                let sharing = Sharing::Shared { instance: folder.instance()?, connections: LOG_CONNECTIONS };
                (Database::Postgres(url.clone()), sharing)
            }
        };
        let storage = tokio::select! {
            opened = Storage::open(&settings, &database, &sharing, &commits) => opened?,
            // A database that is away is waited for; nothing runs yet that would have to be drained.
            () = shutdown.requested() => return Ok(None),
        };
        let live = Live::of(&settings);
        let rooms = Rooms::start(&settings, &storage, &commits, embedder, &live)?;
        let asked = rooms.extractor.clone();
        health.degraded_while("extractor", move || asked.complaint());
        live.tell_of_bursts(&health);

        let (api_stop, replay_stop) = (CancellationToken::new(), CancellationToken::new());
        let (config, spool) = door(&settings, &folder, &database, &api_stop, &replay_stop);
        #[cfg(feature = "backfill")]
        let config = IngestConfig { backfills: Some(imports(&settings, &folder, &api_stop)), ..config };
        let parts = IngestParts {
            log: storage.log.clone(),
            backend: WriterBackend::InProcess(rooms.writer.clone()),
            keys,
            extracting: Some(live.probe()),
            config,
        };
        let state = IngestState::start_with_spool(parts, spool).await.map_err(|error| {
            ProcessError::Failed(format!(
                "cannot open the front door on {}: {error}; `memori doctor` looks closer",
                folder.path().display()
            ))
        })?;
        health.degraded_while("log", state.degraded());
        // The admin routes beside the API; what neither knows is answered by the API.
        let app = admin::router(health.clone(), metrics).fallback_service(memori_ingest::app(state));
        let api = tokio::spawn(admin::serve(listener, app, api_stop.clone()));
        folder.publish_address(address)?;
        health.started();
        tracing::info!(%address, folder = %folder.path().display(), "up");
        let counting_stop = CancellationToken::new();
        let counting = roll_up_until(storage.control.clone(), commits, ROLL_UP_PAUSE, counting_stop.clone());
        let counting = tokio::spawn(counting);
        let drain_share = drain_share(&settings);
        Ok(Some(Self {
            folder,
            storage,
            address,
            health,
            shutdown,
            drain_share,
            api_stop,
            api,
            replay_stop,
            rooms,
            counting_stop,
            counting,
        }))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs until shutdown is asked for, then drains. A room that ends by itself ends everything.
    ///
    /// # Errors
    /// A room ended by itself, or draining took too long.
    pub async fn run(mut self) -> Result<(), ProcessError> {
        let token = self.shutdown.token();
        let (room, why) = tokio::select! {
            () = token.cancelled() => return self.stop().await,
            ended = self.rooms.ended() => ended,
        };
        tracing::error!(room, why, "a room ended; stopping everything");
        self.health.part_failed(room, why.clone());
        let _ = self.stop().await;
        Err(ProcessError::Failed(format!("the {room} ended: {why}")))
    }

    /// Stops in the data's order: no more requests, then the worker, then the sink, then the files.
    ///
    /// # Errors
    /// Draining took too long.
    pub async fn stop(self) -> Result<(), ProcessError> {
        self.health.draining();
        let Self { folder, storage, shutdown, drain_share, api_stop, api, replay_stop, rooms, counting_stop, counting, .. } =
            self;
        let in_time = shutdown
            .within_deadline(async move {
                folder.withdraw_address();
                api_stop.cancel();
                let aborting = api.abort_handle();
                if tokio::time::timeout(drain_share, api).await.is_err() {
                    tracing::warn!("requests were still waiting; they are cut off");
                    aborting.abort();
                }
                rooms.stop().await;
                replay_stop.cancel();
                counting_stop.cancel();
                let _ = counting.await;
                storage.close().await;
                drop(folder);
            })
            .await;
        if in_time { Ok(()) } else { Err(ProcessError::Failed("draining took longer than shutdown.deadline_ms".into())) }
    }
}

/// Every metric that a process with all rooms has.
pub(crate) fn describe_metrics() {
    memori_ingest::metrics::describe();
    memori_writer::sink::metrics::describe();
    memori_writer::packer::describe();
    memori_writer::metrics::describe_reads();
}

/// How the front door stands on the database. Another process may share one in Postgres, and the server may be away: there the door
/// is as on a platform, with a spool behind it.
fn door(
    settings: &Settings,
    folder: &DataFolder,
    database: &Database,
    draining: &CancellationToken,
    replay_stop: &CancellationToken,
) -> (IngestConfig, Option<SpoolConfig>) {
    let ingest = &settings.ingest;
    let config = door_config(settings, draining);
    match database {
        Database::Sqlite(_) => (IngestConfig { log_timeout: None, lookup: Lookup::Exact, ..config }, None),
        Database::Postgres(_) => {
            let folder = ingest.spool_dir.clone().unwrap_or_else(|| folder.spool());
            (config, Some(SpoolConfig { folder, max_bytes: ingest.spool_max_bytes, shutdown: replay_stop.clone(), beside: None }))
        }
    }
}

/// Imports that the API starts lie in the folder.
#[cfg(feature = "backfill")]
fn imports(settings: &Settings, folder: &DataFolder, draining: &CancellationToken) -> BackfillsConfig {
    let ingest = &settings.ingest;
    BackfillsConfig {
        folder: ingest.backfill_dir.clone().unwrap_or_else(|| folder.path().join("backfills")),
        sources: BackfillsConfig::sources(&ingest.backfill_sources),
        running: ingest.backfills_running,
        shutdown: draining.clone(),
    }
}

/// A front door beside others, on a log that may be away.
pub(crate) fn door_config(settings: &Settings, draining: &CancellationToken) -> IngestConfig {
    let ingest = &settings.ingest;
    IngestConfig {
        max_requests: ingest.max_requests,
        max_body_bytes_in_flight: ingest.max_body_bytes_in_flight,
        tenants: memori_ingest::TenantsConfig::from_settings(settings),
        recent_events: ingest.recent_events,
        redrive_per_second: ingest.redrive_per_second,
        draining: draining.clone(),
        log_timeout: Some(Duration::from_millis(ingest.log_timeout_ms)),
        lookup: Lookup::BestEffort(Duration::from_millis(ingest.lookup_timeout_ms)),
        start_deadline: Duration::from_millis(settings.start.deadline_ms),
        flush_on_wait: ingest.flush_on_wait.unwrap_or(memori_augment_worker::gathers_windows(settings)),
        ..IngestConfig::default()
    }
}
