//! The front door's own process: the API on Kafka, with a spool behind it and the writer over HTTP.
//!
//! Start: keys and addresses are checked, the log is reached (or, where it is away, the spool stands in for it), the door's memory is
//! filled, then the ready line. Stop: requests get their answers, the spool's replay ends, what the producer still has is flushed, then
//! the admin address ends.

use std::sync::Arc;
use std::time::Duration;

use memori_event_log::LogError;
use memori_event_log::kafka::{KafkaConfig, KafkaLog};
use memori_event_log::registry::behind;
use memori_service::auth::KeyRing;
use memori_service::process::{ProcessError, reach};
use memori_service::settings::Settings;
use memori_service::{Scaffold, admin};
use tokio_util::sync::CancellationToken;

use crate::accept::Lookup;
use crate::backend::WriterBackend;
use crate::backfill::BackfillsConfig;
use crate::state::{IngestConfig, IngestParts, IngestState, SpoolConfig, StartError};
use crate::tenants::TenantsConfig;

/// The process's name, in logs and traces.
pub const NAME: &str = "memori-ingest";
const DEFAULT_ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 7710);
/// How long a record without a spool behind it is waited for: a broker that restarts is back by then.
const PATIENCE_WITHOUT_SPOOL: Duration = Duration::from_secs(10);
/// What the producer may take to settle what it still has.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);

/// Where imports lie in the spool's folder that the API starts.
const BACKFILLS: &str = "backfills";

fn ingest_config(settings: &Settings, draining: CancellationToken) -> IngestConfig {
    let ingest = &settings.ingest;
    let log_timeout = Duration::from_millis(ingest.log_timeout_ms);
    IngestConfig {
        max_requests: ingest.max_requests,
        max_body_bytes_in_flight: ingest.max_body_bytes_in_flight,
        log_timeout: Some(if ingest.spool_dir.is_some() { log_timeout } else { log_timeout.max(PATIENCE_WITHOUT_SPOOL) }),
        recent_events: ingest.recent_events,
        redrive_per_second: ingest.redrive_per_second,
        tenants: TenantsConfig::from_settings(settings),
        start_deadline: Duration::from_millis(settings.start.deadline_ms),
        lookup: Lookup::BestEffort(Duration::from_millis(ingest.lookup_timeout_ms)),
        // How the workers elsewhere extract is not known here.
        flush_on_wait: ingest.flush_on_wait.unwrap_or(true),
        backfills: ingest.backfill_dir.clone().or_else(|| Some(ingest.spool_dir.as_ref()?.join(BACKFILLS))).map(|folder| {
            BackfillsConfig {
                folder,
                sources: BackfillsConfig::sources(&ingest.backfill_sources),
                running: ingest.backfills_running,
                shutdown: draining.clone(),
            }
        }),
        draining,
        ..IngestConfig::default()
    }
}

fn start_failed(error: StartError) -> ProcessError {
    match error {
        StartError::Log(LogError::Transient(_)) => ProcessError::Unreachable(error.to_string()),
        StartError::Log(LogError::Fatal(_)) | StartError::Spool { .. } | StartError::Backfills { .. } => {
            ProcessError::Usage(error.to_string())
        }
        _ => ProcessError::Failed(error.to_string()),
    }
}

/// Runs until a signal.
///
/// # Errors
/// As the contract numbers exits: bad configuration, a dependency that was not reachable, a failure.
pub async fn run(settings: Settings) -> Result<(), ProcessError> {
    let usage = |error: &dyn std::fmt::Display| ProcessError::Usage(error.to_string());
    let keys = KeyRing::for_listener(settings.auth.keys_file.as_deref(), settings.has_key_store(), settings.ingest.listen)
        .map_err(|e| usage(&e))?;
    let backend =
        WriterBackend::http(&settings.ingest.writer_url, settings.auth.internal_token.as_ref()).map_err(|e| usage(&e))?;
    let scaffold = Scaffold::start(&settings, DEFAULT_ADMIN).await?;
    crate::metrics::describe();
    let (api_listener, api_address) = admin::bind("MEMORI__INGEST__LISTEN", settings.ingest.listen).await?;
    let kafka = KafkaConfig {
        properties: settings.kafka.client_properties(),
        replication_factor: settings.kafka.replication_factor,
        ..KafkaConfig::new(&settings.kafka.brokers, &settings.kafka.topic_prefix)
    };

    let replay_stop = CancellationToken::new();
    let starting = async {
        let log = KafkaLog::connect(kafka).await.map_err(|e| start_failed(e.into()))?;
        let deadline = Duration::from_millis(settings.start.deadline_ms);
        let log = behind(Arc::new(log), settings.registry.url.as_deref(), deadline).await.map_err(|e| start_failed(e.into()))?;
        let log = memori_archive::behind(log, settings.archive.url.as_deref()).map_err(|e| start_failed(e.into()))?;
        // Where there is a spool, it stands in for a log that is away.
        if settings.ingest.spool_dir.is_none() {
            reach("the log (run `memori topics create` once)", deadline, || async { log.identity().await.map(drop) }).await?;
        }
        let spool = settings.ingest.spool_dir.clone().map(|folder| SpoolConfig {
            folder,
            max_bytes: settings.ingest.spool_max_bytes,
            shutdown: replay_stop.clone(),
            beside: None,
        });
        let config = ingest_config(&settings, scaffold.shutdown.token());
        let parts = IngestParts { log: Arc::clone(&log), backend, keys, extracting: None, config };
        let state = IngestState::start_with_spool(parts, spool).await.map_err(start_failed)?;
        Ok((log, state))
    };
    let Some((log, state)) = scaffold.unless_stopped(starting).await? else { return Ok(()) };

    scaffold.health.degraded_while("log", state.degraded());
    let api_stop = CancellationToken::new();
    let mut api_server = tokio::spawn(admin::serve(api_listener, crate::app(state), api_stop.clone()));
    scaffold.ready(Some(api_address));

    let ended = tokio::select! {
        () = scaffold.shutdown.requested() => Ok(()),
        _ = &mut api_server => Err(ProcessError::Failed("the API's server ended by itself".to_owned())),
    };
    let stopping = async {
        api_stop.cancel();
        if !api_server.is_finished() {
            let _ = api_server.await;
        }
        replay_stop.cancel();
        log.producer().flush(FLUSH_DEADLINE).await;
    };
    scaffold.stop(Duration::from_millis(settings.shutdown.deadline_ms), stopping).await;
    ended
}
