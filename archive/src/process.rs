//! The archiver as a process of its own, on Kafka.

use std::sync::Arc;
use std::time::Duration;

use memori_event_log::kafka::{GroupProtocol, KafkaConfig, KafkaLog};
use memori_event_log::registry::behind as behind_registry;
use memori_event_log::{Log, LogError};
use memori_service::Scaffold;
use memori_service::process::{ProcessError, reach};
use memori_service::settings::Settings;

use crate::log::ArchivedLog;
use crate::metrics;
use crate::sink::{ArchiverConfig, run_archiver};
use crate::store::Archive;

const DEFAULT_ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 7713);

fn log_failed(error: LogError) -> ProcessError {
    match error {
        LogError::Transient(_) => ProcessError::Unreachable(error.to_string()),
        LogError::Fatal(_) => ProcessError::Usage(error.to_string()),
        LogError::BelowLogStart { .. } | LogError::Fenced(_) => ProcessError::Failed(error.to_string()),
    }
}

/// Opens the archive that the settings name.
///
/// # Errors
/// They name none, or none that is usable.
pub fn open(settings: &Settings) -> Result<Archive, ProcessError> {
    let url = settings.archive.url.as_deref().ok_or_else(|| {
        ProcessError::Usage("no archive: name a folder or an object store in MEMORI__ARCHIVE__URL (archive.url)".to_owned())
    })?;
    Archive::open(url).map_err(|e| ProcessError::Usage(format!("archive.url: {e}")))
}

/// Runs until a signal, or until something happens that no retry mends.
///
/// # Errors
/// Bad configuration, a dependency that was not reachable, a failure.
pub async fn run(settings: Settings) -> Result<(), ProcessError> {
    let archive = Arc::new(open(&settings)?);
    let scaffold = Scaffold::start(&settings, DEFAULT_ADMIN).await?;
    metrics::describe();
    let kafka = KafkaConfig {
        properties: settings.kafka.client_properties(),
        group_instance_id: settings.kafka.group_instance_id.clone(),
        group_protocol: GroupProtocol::parse(&settings.kafka.group_protocol).unwrap_or_default(),
        ..KafkaConfig::new(&settings.kafka.brokers, &settings.kafka.topic_prefix)
    };
    let deadline = Duration::from_millis(settings.start.deadline_ms);
    let starting = async {
        let log: Arc<dyn Log> = Arc::new(KafkaLog::connect(kafka).await.map_err(log_failed)?);
        let log = behind_registry(log, settings.registry.url.as_deref(), deadline).await.map_err(log_failed)?;
        reach("the log (run `memori topics create` once)", deadline, || async { log.identity().await.map(drop) }).await?;
        Ok(log)
    };
    let Some(log) = scaffold.unless_stopped(starting).await? else { return Ok(()) };
    // Controls that the topic has lost are read from the archive, too.
    let log: Arc<dyn Log> = Arc::new(ArchivedLog::new(log, archive.clone()));
    let config = ArchiverConfig {
        roll_bytes: settings.archive.roll_bytes,
        roll_age: Duration::from_secs(settings.archive.roll_age_s),
        begin_at_log_start: settings.archive.begin_at_log_start,
        drain_deadline: Duration::from_millis(settings.shutdown.deadline_ms / 4 * 3),
    };
    let archiving = tokio::spawn(run_archiver(log, archive, config, scaffold.shutdown.token()));
    scaffold.ready(None);
    let ended = match archiving.await {
        Ok(ended) => ended.map_err(|e| ProcessError::Failed(e.to_string())),
        Err(panic) => Err(ProcessError::Failed(format!("the archiver ended: {panic}"))),
    };
    scaffold.stop(Duration::from_millis(settings.shutdown.deadline_ms / 5), async {}).await;
    ended
}
