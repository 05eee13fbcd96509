//! The worker's own process: on Kafka, with an admin address.
//!
//! Start: the admin address is bound, the log reached, then the ready line. Stop: work in flight ends and is committed, then the
//! admin address closes.

use std::sync::Arc;
use std::time::Duration;

use memori_event_log::kafka::{GroupProtocol, KafkaConfig, KafkaLog};
use memori_event_log::registry::behind;
use memori_event_log::{Log, LogError};
use memori_service::Scaffold;
use memori_service::process::{ProcessError, reach};
use memori_service::settings::Settings;

use crate::in_flight::InFlight;
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
        reach("the log (run `memori topics create` once)", start_deadline, || async { log.identity().await.map(drop) }).await?;
        Ok(log)
    };
    let Some(log) = scaffold.unless_stopped(starting).await? else { return Ok(()) };
    let config = WorkerConfig { health: Some(scaffold.health.clone()), ..WorkerConfig::from_settings(&settings) };
    let (paused, tried) = (config.burst.clone(), config.burst.clone());
    scaffold.health.fails_while("dead letters", move || paused.complaint());
    scaffold.health.degraded_while("dead letters", move || tried.caution());
    let asked = Arc::clone(&extractor);
    scaffold.health.degraded_while("extractor", move || asked.complaint());
    let working =
        tokio::spawn(worker::run(Arc::clone(&log), config, extractor, embedder, InFlight::unasked(), scaffold.shutdown.token()));
    scaffold.ready(None);
    let ended = match working.await {
        Ok(ended) => ended.map_err(|e| ProcessError::Failed(e.to_string())),
        Err(panic) => Err(ProcessError::Failed(format!("the worker ended: {panic}"))),
    };
    // The drain has used its share of the deadline.
    let left = Duration::from_millis(settings.shutdown.deadline_ms / 5);
    scaffold.stop(left, async { log.producer().flush(Duration::from_secs(1)).await }).await;
    ended
}
