//! The rooms behind the front door, over a storage that is open: reads, the worker and the sink.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use memori_augment_worker::{
    Burst, BurstLimits, Complaint, Extractor, Followers, InFlight, KnownFacts, Replays, Scope, WorkerConfig, extractor_with,
};
use memori_embedding::Embedder;
use memori_event_log::LogError;
use memori_event_log::driver::{Levels, LiveBound};
use memori_ingest::ExtractingProbe;
use memori_service::{Health, ProcessError, Settings};
use memori_writer::api::{ApiConfig, ApiState, Estimates};
use memori_writer::generations::{DroppedGenerations, KEEPER_PAUSE, follow_dropped_until, keep_generations_until};
use memori_writer::notify::Commits;
use memori_writer::packer::PackerConfig;
use memori_writer::recall::service::RecallConfig;
use memori_writer::run::{SinkConfig, run_sink};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::kept::Kept;
use crate::known::Known;
use crate::storage::Storage;

/// Before what the sink must know is asked again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What each of requests, worker and sink may take of the shutdown's deadline: they end one after the other, and a part is left
/// for closing files.
pub(crate) fn drain_share(settings: &Settings) -> Duration {
    Duration::from_millis(settings.shutdown.deadline_ms) * 3 / 10
}

/// What may be moved, and looked at, while the rooms run. It outlives them.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) max_concurrency: LiveBound,
    pub(crate) batch_rows: LiveBound,
    pub(crate) worker: Levels,
    pub(crate) sink: Levels,
    pub(crate) in_flight: InFlight,
    pub(crate) burst: Burst,
}

impl Live {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            max_concurrency: settings.extractor.max_concurrency.into(),
            batch_rows: settings.writer.batch_rows.into(),
            worker: Levels::default(),
            sink: Levels::default(),
            in_flight: InFlight::new(),
            burst: Burst::new(BurstLimits::from_settings(&settings.worker)),
        }
    }

    /// Says in `health` while a burst of dead letters holds the worker back. The front door and recall do their work all the same.
    pub(crate) fn tell_of_bursts(&self, health: &Health) {
        let burst = self.burst.clone();
        health.degraded_while("dead letters", move || burst.complaint().or_else(|| burst.caution()));
    }

    /// What the front door asks whether an event is being extracted.
    pub(crate) fn probe(&self) -> Arc<dyn ExtractingProbe> {
        Arc::new(Extracting(self.in_flight.clone()))
    }
}

/// One room that runs beside the others, until its own token.
struct Room {
    name: &'static str,
    stop: CancellationToken,
    /// `None` once it has been seen to end.
    task: Option<JoinHandle<Result<(), LogError>>>,
}

impl Room {
    fn run(name: &'static str, room: impl FnOnce(CancellationToken) -> JoinHandle<Result<(), LogError>>) -> Self {
        let stop = CancellationToken::new();
        Self { name, task: Some(room(stop.clone())), stop }
    }

    /// Why it ended. Pending where that has been said.
    async fn ended(&mut self) -> (&'static str, String) {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let ended = task.await;
        self.task = None;
        let why = match ended {
            Ok(Ok(())) => "it stopped without being asked".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        (self.name, why)
    }

    async fn stop(self) {
        self.stop.cancel();
        let Some(task) = self.task else { return };
        match task.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(room = self.name, %error, "did not end well"),
            Err(error) => tracing::error!(room = self.name, %error, "did not end well"),
        }
    }
}

/// Worker and sink, and the routes that read.
pub(crate) struct Rooms {
    pub(crate) writer: Router,
    pub(crate) extractor: Arc<dyn Extractor>,
    worker: Room,
    sink: Room,
    replays: Option<Room>,
}

impl Rooms {
    pub(crate) fn start(
        settings: &Settings,
        storage: &Storage,
        commits: &Commits,
        embedder: Option<Arc<dyn Embedder>>,
        live: &Live,
    ) -> Result<Self, ProcessError> {
        // Packs hold the vectors that recall compares.
        let model = embedder.as_ref().map(|one| one.model().to_owned());
        let packer = PackerConfig { model, ..storage.packer.clone() };
        let writer = reads(settings, storage, commits, embedder.clone());
        let known: Arc<dyn KnownFacts> = Arc::new(Known { recall: writer.recall().clone(), generation: None });
        let extractor = extractor_with(settings, Some(known.clone()))?;
        let followers = Followers::default();
        let replays = Replays {
            log: storage.log.clone(),
            generations: Arc::new(Kept(storage.generations.clone())),
            settings: settings.clone(),
            embedder: embedder.clone(),
            known: Some(known),
            followers: followers.clone(),
            // The database's connections are everybody's here, so its threads are, too.
            background: None,
            complaint: Complaint::default(),
        };
        let dropped = DroppedGenerations::default();
        let share = drain_share(settings);
        let sink = SinkConfig {
            batch_rows: live.batch_rows.clone(),
            drain_deadline: share,
            packer: Some(packer),
            levels: live.sink.clone(),
            dropped: dropped.clone(),
            ..SinkConfig::from_settings(&settings.writer, &settings.shutdown)
                .beside(writer.readers(), writer.recall().slow_reads())
        };
        let worker = WorkerConfig {
            max_concurrency: live.max_concurrency.clone(),
            drain_deadline: share,
            levels: live.worker.clone(),
            burst: live.burst.clone(),
            scope: Scope::everything(settings.worker.generation, followers),
            ..WorkerConfig::from_settings(settings)
        };
        let (log, store, commits) = (storage.log.clone(), storage.store.clone(), commits.clone());
        let generations = storage.generations.clone();
        let sink = Room::run("sink", |stop| {
            tokio::spawn(async move {
                // Of what is dropped nothing is to come back, by a rebuild neither.
                while let Some(Err(error)) = stop.run_until_cancelled(dropped.look(&*generations)).await {
                    tracing::warn!(%error, "generations cannot be read; trying again");
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                let follow = follow_dropped_until(dropped, generations.clone(), stop.clone());
                let keep = keep_generations_until(generations, KEEPER_PAUSE, stop.clone());
                let beside = tokio::spawn(async move { tokio::join!(follow, keep) });
                let ended = run_sink(log, store, commits, sink, stop).await;
                beside.abort();
                ended
            })
        });
        let (log, working, in_flight) = (storage.log.clone(), extractor.clone(), live.in_flight.clone());
        let worker =
            Room::run("worker", |stop| tokio::spawn(memori_augment_worker::run(log, worker, working, embedder, in_flight, stop)));
        let replays = (settings.worker.replays != "off").then(|| {
            Room::run("replays", |stop| {
                tokio::spawn(async move {
                    replays.run(stop).await;
                    Ok(())
                })
            })
        });
        Ok(Self { writer: memori_writer::api::router(writer), extractor, worker, sink, replays })
    }

    /// Waits until one of them ends by itself; says which, and why.
    pub(crate) async fn ended(&mut self) -> (&'static str, String) {
        tokio::select! {
            ended = self.worker.ended() => ended,
            ended = self.sink.ended() => ended,
        }
    }

    /// Stops them in the data's order: the worker, then the sink. Each drains within its share.
    pub(crate) async fn stop(self) {
        let replays = async {
            if let Some(replays) = self.replays {
                replays.stop().await;
            }
        };
        tokio::join!(self.worker.stop(), replays);
        self.sink.stop().await;
    }
}

fn reads(settings: &Settings, storage: &Storage, commits: &Commits, embedder: Option<Arc<dyn Embedder>>) -> ApiState {
    let config = ApiConfig {
        recall: RecallConfig::from_settings(&settings.writer),
        topic_prefix: settings.kafka.topic_prefix.clone(),
        ..ApiConfig::default()
    };
    ApiState::with_embedder(storage.reads.clone(), commits.clone(), config, embedder)
        .with_control(storage.control.clone())
        .with_generations(storage.generations.clone(), Estimates::of(settings))
}

struct Extracting(InFlight);

impl ExtractingProbe for Extracting {
    fn is_extracting(&self, tenant: &str, event_id: &str) -> bool {
        self.0.contains(tenant, event_id)
    }
}
