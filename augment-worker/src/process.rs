//! The worker's own process: on Kafka, with an admin address.
//!
//! Start: the admin address is bound, the log reached, then the ready line. Stop: work in flight ends and is committed, then the
//! admin address closes.

use std::sync::Arc;
use std::time::Duration;

use memori_event_log::kafka::{KafkaConfig, KafkaLog};
use memori_event_log::{Log, LogError};
use memori_service::health::Health;
use memori_service::process::{ProcessError, reach, ready_line};
use memori_service::settings::Settings;
use memori_service::shutdown::Shutdown;
use memori_service::{admin, metrics_endpoint};
use tokio_util::sync::CancellationToken;

use crate::in_flight::InFlight;
use crate::worker::{self, WorkerConfig};

/// The process's name, in logs and traces.
pub const NAME: &str = "memori-augment-worker";
const DEFAULT_ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 7711);

fn kafka_config(settings: &Settings) -> KafkaConfig {
    let kafka = &settings.kafka;
    KafkaConfig {
        properties: kafka.properties.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect(),
        replication_factor: kafka.replication_factor,
        ..KafkaConfig::new(&kafka.brokers, &kafka.topic_prefix)
    }
}

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
    if settings.registry.url.is_some() {
        return Err(ProcessError::Usage(
            "registry.url is set, but the schema registry's framing is not supported yet".to_owned(),
        ));
    }
    let prometheus = metrics_endpoint::install();
    crate::metrics::describe();
    let shutdown = Shutdown::new(Duration::from_millis(settings.shutdown.deadline_ms));
    shutdown.on_signals().map_err(|e| ProcessError::Failed(format!("no signal handlers: {e}")))?;

    let health = Health::new();
    let admin_wanted = settings.admin.listen.unwrap_or_else(|| DEFAULT_ADMIN.into());
    let (admin_listener, admin_address) = admin::bind("MEMORI__ADMIN__LISTEN", admin_wanted).await?;
    let admin_stop = CancellationToken::new();
    let admin_server = tokio::spawn(admin::serve(admin_listener, admin::router(health.clone(), prometheus), admin_stop.clone()));

    let start_deadline = Duration::from_millis(settings.start.deadline_ms);
    let starting = async {
        let log: Arc<dyn Log> = Arc::new(KafkaLog::connect(kafka_config(&settings)).await.map_err(start_failed)?);
        reach("the log (run `memori topics create` once)", start_deadline, || async { log.identity().await.map(drop) }).await?;
        Ok::<_, ProcessError>(log)
    };
    let log = tokio::select! {
        started = starting => started?,
        () = shutdown.requested() => return Ok(()),
    };
    let config = WorkerConfig::from_settings(&settings);
    let working = tokio::spawn(worker::run(Arc::clone(&log), config, extractor, InFlight::new(), shutdown.token()));
    health.started();
    ready_line(None, Some(admin_address));

    let draining = {
        let (health, shutdown) = (health.clone(), shutdown.clone());
        tokio::spawn(async move {
            shutdown.requested().await;
            health.draining();
        })
    };
    let ended = match working.await {
        Ok(ended) => ended.map_err(|e| ProcessError::Failed(e.to_string())),
        Err(panic) => Err(ProcessError::Failed(format!("the worker ended: {panic}"))),
    };
    // Where the worker failed by itself, everything else stops, too.
    shutdown.trigger();
    let stopping = async {
        log.producer().flush(Duration::from_secs(1)).await;
        admin_stop.cancel();
        let _ = admin_server.await;
        let _ = draining.await;
    };
    // The drain has used its share.
    let left = Duration::from_millis(settings.shutdown.deadline_ms / 5);
    if tokio::time::timeout(left, stopping).await.is_err() {
        tracing::warn!("the admin address was cut off at the deadline");
    }
    ended
}
