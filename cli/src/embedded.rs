//! Everything in one process: the same rooms as on a platform, over one SQLite file or one Postgres database.

pub(crate) mod folder;
mod known;
mod storage;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use memori_augment_worker::{InFlight, WorkerConfig, extractor_with};
use memori_embedding::Embedder;
use memori_event_log::LogError;
use memori_ingest::{ExtractingProbe, IngestConfig, IngestParts, IngestState, WriterBackend};
use memori_service::auth::KeyRing;
use memori_service::{Health, ProcessError, Settings, Shutdown, admin, metrics_endpoint};
use memori_writer::api::{ApiConfig, ApiState};
use memori_writer::notify::Commits;
use memori_writer::packer::PackerConfig;
use memori_writer::reads::ReadStore;
use memori_writer::recall::service::RecallConfig;
use memori_writer::run::{SinkConfig, run_sink};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use folder::DataFolder;
use storage::Storage;

/// What each of requests, worker and sink may take of the shutdown's deadline: they end one after the other, and a part is left
/// for closing files.
fn drain_share(settings: &Settings) -> Duration {
    Duration::from_millis(settings.shutdown.deadline_ms) * 3 / 10
}

/// One room that runs beside the others, until its own token.
struct Room {
    name: &'static str,
    stop: CancellationToken,
    task: JoinHandle<Result<(), LogError>>,
}

/// The running system.
pub(crate) struct Embedded {
    folder: DataFolder,
    storage: Storage,
    address: SocketAddr,
    health: Health,
    shutdown: Shutdown,
    drain_share: Duration,
    api_stop: CancellationToken,
    api: JoinHandle<()>,
    worker: Room,
    sink: Room,
}

impl Embedded {
    /// Brings everything up; when this returns, events are taken. `None` where it was asked to stop before its database answered.
    pub(crate) async fn start(settings: Settings, shutdown: Shutdown) -> Result<Option<Self>, ProcessError> {
        let metrics = metrics_endpoint::install();
        memori_ingest::metrics::describe();
        memori_writer::sink::metrics::describe();
        memori_writer::packer::describe();
        memori_writer::metrics::describe_reads();
        let health = Health::new();
        let path = settings.embedded.data_dir.clone().unwrap_or_else(folder::default_path);
        let folder = DataFolder::hold(&path)?;
        let keys = KeyRing::for_listener(settings.auth.keys_file.as_deref(), settings.ingest.listen)
            .map_err(|e| ProcessError::Usage(e.to_string()))?;
        let (listener, address) = admin::bind("ingest.listen (--listen)", settings.ingest.listen).await?;

        let embedder = memori_embedding::start(&settings)?;
        let commits = Commits::new();
        let storage = tokio::select! {
            opened = Storage::open(&settings, &folder, &commits) => opened?,
            // A database that is away is waited for; nothing runs yet that would have to be drained.
            () = shutdown.requested() => return Ok(None),
        };
        // Packs hold the vectors that recall compares.
        let packer = PackerConfig { model: embedder.as_ref().map(|one| one.model().to_owned()), ..storage.packer.clone() };
        let writer = writer_api(&settings, storage.reads.clone(), commits.clone(), embedder.clone());
        let known = Arc::new(known::Known(writer.recall().clone()));
        let extractor = extractor_with(&settings, Some(known))?;
        let asked = Arc::clone(&extractor);
        health.degraded_while("extractor", move || asked.complaint());
        let sink_stop = CancellationToken::new();
        let share = drain_share(&settings);
        let sink_config = SinkConfig {
            drain_deadline: share,
            packer: Some(packer),
            ..SinkConfig::from_settings(&settings.writer, &settings.shutdown).beside(writer.readers())
        };
        let sink = tokio::spawn(run_sink(storage.log.clone(), storage.store.clone(), commits, sink_config, sink_stop.clone()));
        let in_flight = InFlight::new();
        let worker_stop = CancellationToken::new();
        let worker = tokio::spawn(memori_augment_worker::run(
            storage.log.clone(),
            WorkerConfig { drain_deadline: share, ..WorkerConfig::from_settings(&settings) },
            extractor,
            embedder,
            in_flight.clone(),
            worker_stop.clone(),
        ));

        let api_stop = CancellationToken::new();
        let config = IngestConfig {
            max_requests: settings.ingest.max_requests,
            max_body_bytes_in_flight: settings.ingest.max_body_bytes_in_flight,
            recent_events: settings.ingest.recent_events,
            draining: api_stop.clone(),
            ..IngestConfig::default()
        };
        let (config, spool) = storage.door(&settings, &folder, config);
        let parts = IngestParts {
            log: storage.log.clone(),
            backend: WriterBackend::InProcess(memori_writer::api::router(writer)),
            keys,
            extracting: Some(Arc::new(Extracting(in_flight))),
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
        Ok(Some(Self {
            folder,
            storage,
            address,
            health,
            shutdown,
            drain_share: share,
            api_stop,
            api,
            worker: Room { name: "worker", stop: worker_stop, task: worker },
            sink: Room { name: "sink", stop: sink_stop, task: sink },
        }))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs until shutdown is asked for, then drains. A room that ends by itself ends everything.
    pub(crate) async fn run(mut self) -> Result<(), ProcessError> {
        let token = self.shutdown.token();
        let ended = tokio::select! {
            () = token.cancelled() => None,
            ended = &mut self.worker.task => Some((self.worker.name, ended)),
            ended = &mut self.sink.task => Some((self.sink.name, ended)),
        };
        let Some((room, ended)) = ended else {
            return self.stop().await;
        };
        let why = match ended {
            Ok(Ok(())) => "it stopped without being asked".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        tracing::error!(room, why, "a room ended; stopping everything");
        self.health.part_failed(room, why.clone());
        // Its own task is spent and must not be awaited again: the others still drain.
        if room == self.worker.name {
            self.worker.task = tokio::spawn(async { Ok(()) });
        } else {
            self.sink.task = tokio::spawn(async { Ok(()) });
        }
        let _ = self.stop().await;
        Err(ProcessError::Failed(format!("the {room} ended: {why}")))
    }

    /// Stops in the data's order: no more requests, then the worker, then the sink, then the files.
    pub(crate) async fn stop(self) -> Result<(), ProcessError> {
        self.health.draining();
        let Self { folder, storage, shutdown, drain_share, api_stop, api, worker, sink, .. } = self;
        let in_time = shutdown
            .within_deadline(async move {
                folder.withdraw_address();
                api_stop.cancel();
                let aborting = api.abort_handle();
                if tokio::time::timeout(drain_share, api).await.is_err() {
                    tracing::warn!("requests were still waiting; they are cut off");
                    aborting.abort();
                }
                for room in [worker, sink] {
                    room.stop.cancel();
                    match room.task.await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::warn!(room = room.name, %error, "did not end well"),
                        Err(error) => tracing::error!(room = room.name, %error, "did not end well"),
                    }
                }
                storage.close().await;
                drop(folder);
            })
            .await;
        if in_time { Ok(()) } else { Err(ProcessError::Failed("draining took longer than shutdown.deadline_ms".into())) }
    }
}

fn writer_api(settings: &Settings, reads: Arc<dyn ReadStore>, commits: Commits, embedder: Option<Arc<dyn Embedder>>) -> ApiState {
    let config = ApiConfig {
        recall: RecallConfig::from_settings(&settings.writer),
        topic_prefix: settings.kafka.topic_prefix.clone(),
        ..ApiConfig::default()
    };
    ApiState::with_embedder(reads, commits, config, embedder)
}

struct Extracting(InFlight);

impl ExtractingProbe for Extracting {
    fn is_extracting(&self, tenant: &str, event_id: &str) -> bool {
        self.0.contains(tenant, event_id)
    }
}
