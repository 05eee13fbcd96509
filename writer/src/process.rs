//! The writer's own process: the sink on Kafka and Postgres, and the API that reads what it wrote.
//!
//! Start: addresses are bound, dependencies reached, then the ready line. Stop: the sink drains and waiters get their answers,
//! then the API ends, then the admin address.

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

use crate::api::{self, ApiConfig, ApiState};
use crate::notify::Commits;
use crate::postgres::PostgresTarget;
use crate::reads::postgres::PostgresReads;
use crate::recall::RecallConfig;
use crate::run::{SinkConfig, run_sink};
use crate::store::postgres::{PostgresStore, listen};
use crate::store::{Store, StoreError};

/// The process's name, in logs, traces and `pg_stat_activity`.
pub const NAME: &str = "memori-writer";
const DEFAULT_ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 7712);

/// Settings that were understood.
struct Validated {
    sink: PostgresTarget,
    recall: PostgresTarget,
    admin_url: String,
    internal_token: Option<String>,
}

fn validate(settings: &Settings) -> Result<Validated, ProcessError> {
    let postgres = &settings.postgres;
    let url = postgres.url.as_ref().or(postgres.sink_url.as_ref());
    let url = url.ok_or_else(|| ProcessError::Usage("no store: set MEMORI__POSTGRES__URL".to_owned()))?;
    let target = |key: &str, wanted: &Option<memori_service::secret::Secret>| {
        PostgresTarget::parse(wanted.as_ref().unwrap_or(url).expose(), NAME)
            .map_err(|e| ProcessError::Usage(format!("{key}: {e}")))
    };
    let internal_token = settings.auth.internal_token.as_ref().map(|token| token.expose().to_owned());
    if internal_token.is_none() && !settings.writer.listen.ip().is_loopback() {
        return Err(ProcessError::Usage(format!(
            "the writer would listen on {} for everyone: set MEMORI__AUTH__INTERNAL_TOKEN, here and for ingest, or a loopback address",
            settings.writer.listen
        )));
    }
    if settings.registry.url.is_some() {
        return Err(ProcessError::Usage(
            "registry.url is set, but the schema registry's framing is not supported yet".to_owned(),
        ));
    }
    Ok(Validated {
        sink: target("postgres.sink_url", &postgres.sink_url)?,
        recall: target("postgres.recall_url", &postgres.recall_url)?,
        admin_url: url.expose().to_owned(),
        internal_token,
    })
}

fn kafka_config(settings: &Settings) -> KafkaConfig {
    let mut config = KafkaConfig::new(&settings.kafka.brokers, &settings.kafka.topic_prefix);
    let properties = settings.kafka.properties.iter().map(|(name, value)| (name.clone(), value.expose().to_owned()));
    config.properties = properties.collect();
    config.replication_factor = settings.kafka.replication_factor;
    config
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
    let validated = validate(&settings)?;
    let prometheus = metrics_endpoint::install();
    crate::metrics::describe_reads();
    crate::sink::metrics::describe();
    let shutdown = Shutdown::new(Duration::from_millis(settings.shutdown.deadline_ms));
    shutdown.on_signals().map_err(|e| ProcessError::Failed(format!("no signal handlers: {e}")))?;

    let health = Health::new();
    let (api_listener, api_address) = admin::bind("MEMORI__WRITER__LISTEN", settings.writer.listen).await?;
    let admin_wanted = settings.admin.listen.unwrap_or_else(|| DEFAULT_ADMIN.into());
    let (admin_listener, admin_address) = admin::bind("MEMORI__ADMIN__LISTEN", admin_wanted).await?;
    let admin_stop = CancellationToken::new();
    let admin_server = tokio::spawn(admin::serve(admin_listener, admin::router(health.clone(), prometheus), admin_stop.clone()));

    let sink_pool = validated.sink.pool(settings.writer.sink_connections).map_err(|e| ProcessError::Usage(e.to_string()))?;
    let recall_pool =
        validated.recall.pool(settings.writer.recall_connections).map_err(|e| ProcessError::Usage(e.to_string()))?;
    let store: Arc<dyn Store> = Arc::new(PostgresStore::new(sink_pool, validated.admin_url));
    let start_deadline = Duration::from_millis(settings.start.deadline_ms);
    let starting = async {
        reach("the store (run `memori migrate` once)", start_deadline, || async {
            store.next_offsets(&[]).await.map(drop).map_err(|e: StoreError| e.to_string())
        })
        .await?;
        let log: Arc<dyn Log> = Arc::new(KafkaLog::connect(kafka_config(&settings)).await.map_err(start_failed)?);
        reach("the log (run `memori topics create` once)", start_deadline, || async { log.identity().await.map(drop) }).await?;
        Ok::<_, ProcessError>(log)
    };
    let log = tokio::select! {
        started = starting => started?,
        () = shutdown.requested() => return Ok(()),
    };

    let commits = Commits::new();
    let listening = tokio::spawn(listen::listen(validated.recall, commits.clone(), shutdown.token()));
    let recall = RecallConfig { cache_bytes: settings.writer.recall_cache_bytes, ..RecallConfig::default() };
    let config = ApiConfig { recall, topic_prefix: settings.kafka.topic_prefix.clone(), ..ApiConfig::default() };
    let state = ApiState::new(Arc::new(PostgresReads::new(recall_pool)), commits.clone(), config);
    let mut router = api::router(state);
    if let Some(token) = validated.internal_token {
        router = api::with_internal_token(router, token);
    }
    let api_stop = CancellationToken::new();
    let api_server = tokio::spawn(admin::serve(api_listener, router, api_stop.clone()));
    let sink_config = SinkConfig::from_settings(&settings.writer, &settings.shutdown);
    let sink = tokio::spawn(run_sink(log, store, commits, sink_config, shutdown.token()));
    health.started();
    ready_line(Some(api_address), Some(admin_address));

    let draining = {
        let (health, shutdown) = (health.clone(), shutdown.clone());
        tokio::spawn(async move {
            shutdown.requested().await;
            health.draining();
        })
    };
    let ended = match sink.await {
        Ok(ended) => ended.map_err(|e| ProcessError::Failed(e.to_string())),
        Err(panic) => Err(ProcessError::Failed(format!("the sink ended: {panic}"))),
    };
    // Where the sink failed by itself, everything else stops, too.
    shutdown.trigger();
    let stopping = async {
        api_stop.cancel();
        let _ = api_server.await;
        admin_stop.cancel();
        let _ = admin_server.await;
        let _ = listening.await;
        let _ = draining.await;
    };
    // The drain has used its share; requests that still wait get the rest.
    let left = Duration::from_millis(settings.shutdown.deadline_ms / 5);
    if tokio::time::timeout(left, stopping).await.is_err() {
        tracing::warn!("requests were cut off at the deadline");
    }
    ended
}
