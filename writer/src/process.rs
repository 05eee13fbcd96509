//! The writer's own process: the sink on Kafka and Postgres, and the API that reads what it wrote.
//!
//! Start: addresses are bound, dependencies reached, then the ready line. Stop: the sink drains and waiters get their answers,
//! then the API ends, then the admin address.

use std::sync::Arc;
use std::time::Duration;

use memori_event_log::kafka::{GroupProtocol, KafkaConfig, KafkaLog};
use memori_event_log::registry::behind;
use memori_event_log::{Log, LogError};
use memori_service::process::{ProcessError, reach};
use memori_service::settings::Settings;
use memori_service::{Scaffold, admin};
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiConfig, ApiState, Estimates};
use crate::control::{ControlStore, PostgresControl, ROLL_UP_PAUSE, roll_up_until};
use crate::generations::{DroppedGenerations, GenerationStore, KEEPER_PAUSE, follow_dropped_until, keep_generations_until};
use crate::notify::Commits;
use crate::packer::PackerConfig;
use crate::postgres::PostgresTarget;
use crate::reads::postgres::PostgresReads;
use crate::recall::RecallConfig;
use crate::run::{SinkConfig, run_sink};
use crate::store::postgres::{PostgresStore, listen};
use crate::store::{Store, StoreError};
use memori_service::background::Background;

/// The process's name, in logs, traces and `pg_stat_activity`.
pub const NAME: &str = "memori-writer";
/// For keys, administration, and counting what is used.
const CONTROL_CONNECTIONS: usize = 3;
/// For generations: what compares and frees them keeps nobody from a key.
const GENERATION_CONNECTIONS: usize = 3;
const DEFAULT_ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 7712);

/// Settings that were understood.
struct Validated {
    sink: PostgresTarget,
    recall: PostgresTarget,
    control: PostgresTarget,
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
    Ok(Validated {
        sink: target("postgres.sink_url", &postgres.sink_url)?,
        recall: target("postgres.recall_url", &postgres.recall_url)?,
        control: target("postgres.url", &None)?,
        admin_url: url.expose().to_owned(),
        internal_token,
    })
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
    let scaffold = Scaffold::start(&settings, DEFAULT_ADMIN).await?;
    crate::metrics::describe_reads();
    crate::sink::metrics::describe();
    crate::packer::describe();
    let (api_listener, api_address) = admin::bind("MEMORI__WRITER__LISTEN", settings.writer.listen).await?;
    let usage = |e: &dyn std::fmt::Display| ProcessError::Usage(e.to_string());
    let sink_pool = validated.sink.pool(settings.writer.sink_connections).map_err(|e| usage(&e))?;
    let recall_pool = validated.recall.pool(settings.writer.recall_connections).map_err(|e| usage(&e))?;
    let store: Arc<dyn Store> = Arc::new(PostgresStore::new(sink_pool, validated.admin_url.clone()));
    let (packs_pool, packer_reads) =
        (validated.sink.pool(1).map_err(|e| usage(&e))?, validated.recall.pool(1).map_err(|e| usage(&e))?);
    let control_pool = validated.control.pool(CONTROL_CONNECTIONS).map_err(|e| usage(&e))?;
    let control: Arc<dyn ControlStore> = Arc::new(PostgresControl::new(control_pool.clone()));
    let generation_pool = validated.control.pool(GENERATION_CONNECTIONS).map_err(|e| usage(&e))?;
    let generations: Arc<dyn GenerationStore> = Arc::new(PostgresControl::new(generation_pool));
    // A role of its own is held to one tenant at a time.
    let own_role = settings.postgres.recall_url.is_some();
    let reads = |pool| if own_role { PostgresReads::behind_walls(pool, control_pool.clone()) } else { PostgresReads::new(pool) };
    let kafka = KafkaConfig {
        properties: settings.kafka.client_properties(),
        replication_factor: settings.kafka.replication_factor,
        group_instance_id: settings.kafka.group_instance_id.clone(),
        group_protocol: GroupProtocol::parse(&settings.kafka.group_protocol).unwrap_or_default(),
        ..KafkaConfig::new(&settings.kafka.brokers, &settings.kafka.topic_prefix)
    };
    let dropped = DroppedGenerations::default();
    let start_deadline = Duration::from_millis(settings.start.deadline_ms);
    let starting = async {
        reach("the store (run `memori migrate` once)", start_deadline, || async {
            store.next_offsets(&[]).await.map(drop).map_err(|e: StoreError| e.to_string())
        })
        .await?;
        let log: Arc<dyn Log> = Arc::new(KafkaLog::connect(kafka).await.map_err(start_failed)?);
        let log = behind(log, settings.registry.url.as_deref(), start_deadline).await.map_err(start_failed)?;
        let log = memori_archive::behind(log, settings.archive.url.as_deref()).map_err(start_failed)?;
        reach("the log (run `memori topics create` once)", start_deadline, || async { log.identity().await.map(drop) }).await?;
        reach("the generations (run `memori migrate` once)", start_deadline, || async {
            dropped.look(&*generations).await.map_err(|e| e.to_string())
        })
        .await?;
        Ok(log)
    };
    let Some(log) = scaffold.unless_stopped(starting).await? else { return Ok(()) };

    let recall_reads = reads(recall_pool);
    if own_role && !recall_reads.is_walled().await.unwrap_or(true) {
        tracing::warn!(
            "the role of postgres.recall_url is not held by row level security: name one that is no superuser, does not own the tables \
             and may not bypass it"
        );
    }
    let commits = Commits::new();
    let look_again = Duration::from_millis(settings.writer.look_again_ms);
    let listening = tokio::spawn(listen::listen(validated.recall, commits.clone(), look_again, scaffold.shutdown.token()));
    let recall = RecallConfig::from_settings(&settings.writer);
    let embedder = memori_embedding::start(&settings)?;
    let model = embedder.as_ref().map(|embedder| embedder.model().to_owned());
    let topic_prefix = settings.kafka.topic_prefix.clone();
    let config = ApiConfig { recall, topic_prefix, look_again, ..ApiConfig::default() };
    let state = ApiState::with_embedder(Arc::new(recall_reads), commits.clone(), config, embedder)
        .with_control(Arc::clone(&control))
        .with_generations(Arc::clone(&generations), Estimates::of(&settings));
    let (readers, slow_reads) = (state.readers(), state.recall().slow_reads());
    let router = api::router(state);
    let router = match validated.internal_token {
        Some(token) => api::with_internal_token(router, token),
        None => api::with_own_host(router),
    };
    let api_stop = CancellationToken::new();
    let api_server = tokio::spawn(admin::serve(api_listener, router, api_stop.clone()));
    let packer = PackerConfig {
        store: Arc::new(PostgresStore::new(packs_pool, validated.admin_url)),
        reads: Arc::new(reads(packer_reads)),
        model,
    };
    let sink_config = SinkConfig::from_settings(&settings.writer, &settings.shutdown).beside(readers, slow_reads);
    let sink_config = SinkConfig { packer: Some(packer), dropped: dropped.clone(), ..sink_config };
    // Its connections are its own, so all of it can stand behind those who answer.
    let background = Background::start("memori-sink").map_err(|e| ProcessError::Failed(e.to_string()))?;
    let counting = roll_up_until(control, commits.clone(), ROLL_UP_PAUSE, scaffold.shutdown.token());
    let sink = background.spawn(run_sink(log, store, commits, sink_config, scaffold.shutdown.token()));
    let counting = tokio::spawn(counting);
    let stop = scaffold.shutdown.token();
    let keeping = tokio::spawn(async move {
        tokio::join!(
            follow_dropped_until(dropped, Arc::clone(&generations), stop.clone()),
            keep_generations_until(generations, KEEPER_PAUSE, stop),
        )
    });
    scaffold.ready(Some(api_address));

    // The sink keeps its own deadline, except while a log that hangs takes no commit and lets no partition go.
    let overdue = async {
        scaffold.shutdown.requested().await;
        tokio::time::sleep(scaffold.shutdown.deadline() / 5 * 4).await;
    };
    let ended = tokio::select! {
        biased;
        ended = sink => match ended {
            Ok(ended) => ended.map_err(|e| ProcessError::Failed(e.to_string())),
            Err(panic) => Err(ProcessError::Failed(format!("the sink ended: {panic}"))),
        },
        () = overdue => Err(ProcessError::Failed("the sink did not end before the shutdown's deadline".to_owned())),
    };
    // The drain has used its share of the deadline; requests that still wait get the rest.
    let stopping = async {
        api_stop.cancel();
        let _ = api_server.await;
    };
    scaffold.stop(Duration::from_millis(settings.shutdown.deadline_ms / 5), stopping).await;
    listening.abort();
    counting.abort();
    keeping.abort();
    ended
}
