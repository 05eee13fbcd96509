//! The worker's own process: on Kafka, with an admin address.
//!
//! Start: the admin address is bound, the log reached, then the ready line. Stop: work in flight ends and is committed, then the
//! admin address closes.

use std::sync::Arc;
use std::time::Duration;

use memori_embedding::Embedder;
use memori_event_log::kafka::{GroupProtocol, KafkaConfig, KafkaLog};
use memori_event_log::registry::behind;
use memori_event_log::{Log, LogError};
use memori_service::Scaffold;
use memori_service::background::Background;
use memori_service::process::{ProcessError, reach};
use memori_service::settings::Settings;
use tokio_util::sync::CancellationToken;

use crate::in_flight::InFlight;
use crate::llm::{HttpKnownFacts, KnownFacts};
use crate::replay::{Complaint, Followers, HttpGenerations, Replays, Scope};
use crate::worker::{self, WorkerConfig};

/// The process's name, in logs and traces.
pub const NAME: &str = "memori-augment-worker";
const DEFAULT_ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 7711);

fn start_failed(error: LogError) -> ProcessError {
    match error {
        LogError::Transient(_) => ProcessError::Unreachable(error.to_string()),
        LogError::Fatal(_) => ProcessError::Usage(error.to_string()),
        _ => ProcessError::Failed(error.to_string()),
    }
}

/// What replays run on here; none where another process runs them.
fn replays(
    settings: &Settings,
    log: &Arc<dyn Log>,
    embedder: Option<&Arc<dyn Embedder>>,
    followers: Followers,
    scaffold: &Scaffold,
) -> Result<Option<Replays>, ProcessError> {
    if settings.worker.replays == "off" {
        return Ok(None);
    }
    let (url, token) = (&settings.ingest.writer_url, settings.auth.internal_token.as_ref());
    let usage = |why: String| ProcessError::Usage(format!("ingest.writer_url: {why}"));
    let generations = Arc::new(HttpGenerations::new(url, token).map_err(usage)?);
    let known: Arc<dyn KnownFacts> = Arc::new(HttpKnownFacts::new(url, token).map_err(usage)?);
    let complaint = Complaint::default();
    let told = complaint.clone();
    scaffold.health.degraded_while("replays", move || told.get());
    Ok(Some(Replays {
        log: Arc::clone(log),
        generations,
        settings: settings.clone(),
        embedder: embedder.cloned(),
        known: Some(known),
        followers,
        background: Some(Background::start("memori-replays").map_err(|e| ProcessError::Failed(e.to_string()))?),
        complaint,
    }))
}

/// Runs until a signal, or until something happens that no retry mends.
///
/// # Errors
/// As the contract numbers exits: bad configuration, a dependency that was not reachable, a failure.
pub async fn run(settings: Settings) -> Result<(), ProcessError> {
    let extractor = crate::extractor_of(&settings)?;
    let scaffold = Scaffold::start(&settings, DEFAULT_ADMIN).await?;
    crate::metrics::describe();
    let embedder = memori_embedding::start(&settings)?;
    let kafka = KafkaConfig {
        properties: settings.kafka.client_properties(),
        replication_factor: settings.kafka.replication_factor,
        group_instance_id: settings.kafka.group_instance_id.clone(),
        group_protocol: GroupProtocol::parse(&settings.kafka.group_protocol).unwrap_or_default(),
        ..KafkaConfig::new(&settings.kafka.brokers, &settings.kafka.topic_prefix)
    };
    let start_deadline = Duration::from_millis(settings.start.deadline_ms);
    let starting = async {
        let log: Arc<dyn Log> = Arc::new(KafkaLog::connect(kafka).await.map_err(start_failed)?);
        let log = behind(log, settings.registry.url.as_deref(), start_deadline).await.map_err(start_failed)?;
        let log = memori_archive::behind(log, settings.archive.url.as_deref()).map_err(start_failed)?;
        reach("the log (run `memori topics create` once)", start_deadline, || async { log.identity().await.map(drop) }).await?;
        Ok(log)
    };
    let Some(log) = scaffold.unless_stopped(starting).await? else { return Ok(()) };
    let followers = Followers::default();
    let config = WorkerConfig {
        health: Some(scaffold.health.clone()),
        scope: Scope::everything(settings.worker.generation, followers.clone()),
        ..WorkerConfig::from_settings(&settings)
    };
    let stop_replays = CancellationToken::new();
    let replaying = replays(&settings, &log, embedder.as_ref(), followers, &scaffold)?
        .map(|replays| tokio::spawn(replays.run(stop_replays.clone())));
    let (paused, tried) = (config.burst.clone(), config.burst.clone());
    scaffold.health.fails_while("dead letters", move || paused.complaint());
    scaffold.health.degraded_while("dead letters", move || tried.caution());
    let asked = Arc::clone(&extractor);
    scaffold.health.degraded_while("extractor", move || asked.complaint());
    let stop = scaffold.shutdown.token();
    let working = if settings.worker.replays == "only" {
        tokio::spawn(async move {
            stop.cancelled().await;
            Ok(())
        })
    } else {
        tokio::spawn(worker::run(Arc::clone(&log), config, extractor, embedder, InFlight::unasked(), stop))
    };
    let stopping = (scaffold.shutdown.token(), stop_replays.clone());
    tokio::spawn(async move {
        stopping.0.cancelled().await;
        stopping.1.cancel();
    });
    scaffold.ready(None);
    let ended = match working.await {
        Ok(ended) => ended.map_err(|e| ProcessError::Failed(e.to_string())),
        Err(panic) => Err(ProcessError::Failed(format!("the worker ended: {panic}"))),
    };
    stop_replays.cancel();
    if let Some(replaying) = replaying {
        // They drain beside the worker, within the same bound.
        let _ = tokio::time::timeout(Duration::from_millis(settings.shutdown.deadline_ms / 10), replaying).await;
    }
    // The drain has used its share of the deadline.
    let left = Duration::from_millis(settings.shutdown.deadline_ms / 5);
    scaffold.stop(left, async { log.producer().flush(Duration::from_secs(1)).await }).await;
    ended
}
