//! Configuration as it was read: built-in defaults → `--config FILE` → environment `MEMORI__SECTION__KEY` → flags.
//!
//! Unknown keys are refused. Each process validates what it needs into types of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// Why configuration could not be read: the text says what to change.
#[derive(Debug, thiserror::Error)]
#[error("configuration: {0}")]
pub struct SettingsError(pub String);

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident : $ty:ty = $default:expr),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty),+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),+ }
            }
        }
    };
}

section!(
    /// Everything that can be configured, by section.
    Settings {
        /// The front door.
        ingest: Ingest = Ingest::default(),
        /// Sink and recall.
        writer: Writer = Writer::default(),
        /// The augmentation worker.
        worker: Worker = Worker::default(),
        /// Health and metrics.
        admin: Admin = Admin::default(),
        /// Who may call.
        auth: Auth = Auth::default(),
        /// The log.
        kafka: Kafka = Kafka::default(),
        /// The schema registry.
        registry: Registry = Registry::default(),
        /// Where the log's records are kept beyond its retention.
        archive: Archive = Archive::default(),
        /// The store.
        postgres: Postgres = Postgres::default(),
        /// Text to vectors.
        embedding: Embedding = Embedding::default(),
        /// Events to facts.
        extractor: Extractor = Extractor::default(),
        /// The embedded mode.
        embedded: Embedded = Embedded::default(),
        /// Logging.
        log: Log = Log::default(),
        /// Traces.
        otlp: Otlp = Otlp::default(),
        /// Starting.
        start: Start = Start::default(),
        /// Stopping.
        shutdown: Stop = Stop::default(),
    }
);

section!(
    /// The front door.
    Ingest {
        /// Address of the API.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7700)),
        /// Where recall and reads are forwarded, and where the worker asks what is known.
        writer_url: String = "http://127.0.0.1:7702".to_owned(),
        /// Folder of the spool; absent: no spool, and the log away means 503.
        spool_dir: Option<PathBuf> = None,
        /// Bound of the spool, in bytes.
        spool_max_bytes: u64 = 1 << 30,
        /// How long a delivery report is waited for before the spool takes the event, in milliseconds.
        log_timeout_ms: u64 = 1_000,
        /// How many recent events the door remembers.
        recent_events: usize = 200_000,
        /// How long the door waits for the writer's look-up of an id, in milliseconds.
        lookup_timeout_ms: u64 = 50,
        /// Whether a `wait` asks the worker to begin with what it gathers in windows. Absent: it does, unless the worker is in this process
        /// and extracts each event alone.
        flush_on_wait: Option<bool> = None,
        /// Requests served at once; more get 503.
        max_requests: usize = 1_024,
        /// Bytes of request bodies held at once; more get 503.
        max_body_bytes_in_flight: usize = 256 << 20,
        /// Dead-lettered events that are put back in a second, at most.
        redrive_per_second: u32 = 100,
        /// Where imports keep their files that `/v1/admin/backfills` starts; absent: in the spool's folder (`memori up`: in its own), and
        /// without a spool it starts none.
        backfill_dir: Option<PathBuf> = None,
        /// Beginnings of the URLs that such imports may read, such as `s3://history/`, with commas between; they are read with this
        /// process's rights.
        backfill_sources: String = String::new(),
        /// Such imports that run at once.
        backfills_running: usize = 2,
        /// Front doors that share the tenants' quotas; each keeps its part.
        replicas: u32 = 1,
        /// How often a front door asks how tenants stand with their quotas, in milliseconds.
        quota_refresh_ms: u64 = 5_000,
    }
);

section!(
    /// Sink and recall.
    Writer {
        /// Address of the API.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7702)),
        /// Records that close a batch.
        batch_rows: usize = 5_000,
        /// Bytes that close a batch.
        batch_bytes: usize = 16 << 20,
        /// Age that closes a batch, in milliseconds. While a flush is under way the next batch gathers on, so a busy writer's batches
        /// grow whatever this is; an idle one makes an event recallable that much later.
        batch_max_age_ms: u64 = 5,
        /// The same of what was extracted over a second after its event was accepted: a twentieth more of that, for fewer flushes.
        late_batch_max_age_ms: u64 = 50,
        /// The same of backfill, which waits longer and so is written in fewer flushes: whoever comes live waits for one less often.
        backfill_batch_max_age_ms: u64 = 30,
        /// Records of backfill in a batch, at most, while anything live comes: about how long that may have to wait.
        backfill_rows_beside_live: usize = 128,
        /// How often waiters look for commits that nobody told of, in milliseconds.
        look_again_ms: u64 = 1_000,
        /// Bound of recall's cache, in bytes.
        recall_cache_bytes: usize = 256 << 20,
        /// How long recall waits for a query's vector before it goes by words alone, in milliseconds.
        query_embedding_timeout_ms: u64 = 100,
        /// Connections for recall.
        recall_connections: usize = 16,
        /// Connections for the sink.
        sink_connections: usize = 4,
        /// Share of its time that the sink may flush while somebody recalls, in percent; 100: recalls do not slow it. Where the
        /// processors are few, less keeps recall quick while a backlog is written.
        sink_share_percent: u32 = 100,
    }
);

section!(
    /// The augmentation worker.
    Worker {
        /// Events taken from the log and not yet finished, at most.
        budget_events: usize = 10_000,
        /// Their bytes, at most.
        budget_bytes: usize = 64 << 20,
        /// How often the frontier is committed, in milliseconds.
        commit_interval_ms: u64 = 1_000,
        /// How often an event is tried before it is dead-lettered.
        max_attempts: u32 = 8,
        /// How long an event is tried before it is dead-lettered, in milliseconds.
        max_retry_ms: u64 = 600_000,
        /// Dead letters of one cause within a minute before the worker pauses, unless few of all events are; 0: it never does.
        dead_letter_burst: u32 = 100,
        /// The share of all events that may be dead-lettered, whatever their number, in percent.
        dead_letter_burst_percent: u32 = 20,
        /// How long it pauses first, in milliseconds; while events still fail then, twice as long each time, up to an hour.
        dead_letter_pause_ms: u64 = 300_000,
        /// The generation that is written.
        generation: i32 = 1,
        /// Whether this process extracts for replays too: `on`, `off`, or `only` (nothing else).
        replays: String = "on".to_owned(),
        /// Replays that it runs at a time, at most.
        max_replays: usize = 4,
        /// Events that one replay extracts in a second, at most, while live events come to this process: what it makes nobody reads yet.
        /// 0: as many as it can.
        replay_events_per_second_beside_live: u32 = 200,
        /// For extractors that take several events in one call: events of one session that are extracted together, at most. 1: each alone.
        window_events: usize = 8,
        /// Their messages, at most; an event with more is extracted alone.
        window_messages: usize = 24,
        /// Their estimated tokens, at most; an event with more is extracted alone.
        window_tokens: u64 = 3_000,
        /// How long a live window waits for its next event, in milliseconds. A `wait` for one of its events ends it at once.
        window_idle_ms: u64 = 10_000,
        /// The same for backfill, where the next event is in the log already or does not come.
        backfill_window_idle_ms: u64 = 1_000,
        /// How long a window waits from its first event on, in milliseconds.
        window_age_ms: u64 = 60_000,
        /// Share of the places in flight that history leaves free for live events, in percent.
        live_floor_percent: u32 = 10,
        /// Share of the places in flight that history gets however many live events wait, in percent.
        backfill_floor_percent: u32 = 10,
        /// Estimated tokens that one turn of a tenant is good for.
        quantum_tokens: u64 = 2_000,
        /// Tenants that get more or less than one turn, or a cap: `[worker.tenants.NAME]`.
        tenants: BTreeMap<String, TenantShare> = BTreeMap::new(),
        /// Events of a partition read ahead of one that is not done, past those of tenants that hold their share of a full budget, at
        /// most; 0: nobody is read past.
        read_ahead_records: usize = 1_000_000,
        /// How long an event may be worked on before the process ends, to be started again, in milliseconds. Waiting for the log or
        /// for a provider that is away does not count.
        stall_after_ms: u64 = 900_000,
    }
);

section!(
    /// What one tenant gets of the worker.
    TenantShare {
        /// Its turns for each turn of others.
        weight: u32 = 1,
        /// Calls in flight at most; absent: no cap.
        max_in_flight: Option<usize> = None,
    }
);

section!(
    /// Health and metrics.
    Admin {
        /// Address of `/healthz`, `/readyz` and `/metrics`; absent: the process's own default.
        listen: Option<SocketAddr> = None,
    }
);

section!(
    /// Who may call.
    Auth {
        /// TOML list of tenant, rights and sha256.
        keys_file: Option<PathBuf> = None,
        /// Between ingest or worker and writer.
        internal_token: Option<Secret> = None,
        /// Whether keys of the key store are let in, beside those of the file, and quotas are kept; absent: where there is a file.
        key_store: Option<bool> = None,
        /// Keys of the key store that a front door remembers, at most.
        key_cache_keys: usize = 10_000,
        /// How long it takes one for true, in milliseconds: a revoked key works so long at most.
        key_cache_ms: u64 = 10_000,
        /// How long it uses one while the key store does not answer, in milliseconds.
        key_cache_keep_ms: u64 = 86_400_000,
        /// How long an unknown key is not asked for again, in milliseconds.
        key_cache_absent_ms: u64 = 5_000,
    }
);

section!(
    /// The log.
    Kafka {
        /// Bootstrap servers, `host:port,…`.
        brokers: String = "127.0.0.1:9092".to_owned(),
        /// In front of every topic's name.
        topic_prefix: String = "memori".to_owned(),
        /// Partitions of every topic, when they are made.
        partitions: i32 = 12,
        /// Replicas of every topic, when they are made; absent: the broker's default.
        replication_factor: Option<i32> = None,
        /// Name of this process in its group, unlike any other's and the same after a restart (a stateful set's pod name): what it
        /// reads waits for it for the session timeout when it stops, and nothing moves if it is back by then. Absent: what it read goes
        /// to others at once.
        group_instance_id: Option<String> = None,
        /// Who assigns partitions: `classic` (the group's members) or `consumer` (the brokers, from 4.0 on).
        group_protocol: String = "classic".to_owned(),
        /// Days that topics keep records, when they are made, by what they carry: `conversations`, `facts`, `controls`, `dead-letters`.
        /// Absent: without limit. What is older is read from the archive.
        retention_days: BTreeMap<String, u32> = BTreeMap::new(),
        /// librdkafka's own, with `_` for `.`.
        properties: BTreeMap<String, Secret> = BTreeMap::new(),
    }
);

section!(
    /// The schema registry.
    Registry {
        /// Its Confluent API; absent: single-object encoding.
        url: Option<String> = None,
    }
);

section!(
    /// Where the log's records are kept beyond its retention.
    Archive {
        /// A folder, or `s3://BUCKET/PREFIX`, `gs://…`, `az://…`, `http(s)://…`; absent: there is none.
        url: Option<String> = None,
        /// Bytes of records that close a range, over all partitions of one archiver.
        roll_bytes: usize = 64 << 20,
        /// Age that closes a range, in seconds: so long it takes at most until a record is archived, or an erasure applied.
        roll_age_s: u64 = 300,
        /// Whether to begin at the log's start where the archive has nothing and the log has lost its head.
        begin_at_log_start: bool = false,
    }
);

section!(
    /// The store.
    Postgres {
        /// For administration and migrations.
        url: Option<Secret> = None,
        /// For the sink; absent: `url`.
        sink_url: Option<Secret> = None,
        /// For recall; absent: `url`.
        recall_url: Option<Secret> = None,
    }
);

section!(
    /// Text to vectors.
    Embedding {
        /// `builtin`, `minilm` (where the program is built with it), `openai` or `none`.
        kind: String = "builtin".to_owned(),
        /// For `openai`.
        base_url: Option<String> = None,
        /// For `openai`.
        api_key: Option<Secret> = None,
        /// For `openai`.
        model: Option<String> = None,
        /// For `openai`.
        dimensions: Option<usize> = None,
        /// Of one request to the endpoint, in milliseconds.
        timeout_ms: u64 = 10_000,
        /// How often a request to the endpoint is made before its texts are left without vectors.
        max_attempts: u32 = 4,
        /// Texts in one request to the endpoint, at most.
        batch_texts: usize = 64,
        /// Their bytes, at most; a text is cut to that.
        batch_bytes: usize = 128 << 10,
        /// Requests to the endpoint in flight, at most.
        max_concurrency: usize = 8,
        /// Threads that a model in this process keeps busy, at most; absent: half of the machine's processors.
        threads: Option<usize> = None,
        /// Where models lie; absent: `memori-stream/models` in the user's cache folder.
        model_dir: Option<PathBuf> = None,
    }
);

section!(
    /// Events to facts.
    Extractor {
        /// `builtin` or `llm`.
        kind: String = "builtin".to_owned(),
        /// For `llm`: what stands before `/chat/completions`, such as `https://api.openai.com/v1`.
        base_url: Option<String> = None,
        /// For `llm`; absent: none is sent.
        api_key: Option<Secret> = None,
        /// For `llm`: the header that carries the key; in `authorization` it stands behind `Bearer`.
        api_key_header: String = "authorization".to_owned(),
        /// For `llm`.
        model: Option<String> = None,
        /// Calls in flight, at most.
        max_concurrency: usize = 50,
        /// For `llm`: whether the calls in flight are so many, below that, as the endpoint answers without refusing or queueing.
        adaptive: bool = true,
        /// For `llm`: requests per minute, at most; absent: as many as there are.
        requests_per_minute: Option<u64> = None,
        /// For `llm`: tokens per minute, in and out, at most.
        tokens_per_minute: Option<u64> = None,
        /// For `llm`: processes that use the same keys; each takes its part of what is per minute.
        replicas: u32 = 1,
        /// Of one call, in milliseconds.
        timeout_ms: u64 = 60_000,
        /// For `llm`: `auto` (found out), `json_schema`, `json_object` or `text`.
        structured_output: String = "auto".to_owned(),
        /// For `llm`: tokens of one answer, at most.
        max_output_tokens: u32 = 4_096,
        /// For `llm`: conversations whose prompt has more estimated tokens are dead-lettered without a call; absent: the server decides.
        max_prompt_tokens: Option<u64> = None,
        /// For `llm`: 0 to 2.
        temperature: f64 = 0.0,
        /// For `llm`: price of a million tokens that are read, in any currency.
        price_in_per_million: f64 = 0.0,
        /// For `llm`: price of a million tokens that are written.
        price_out_per_million: f64 = 0.0,
        /// For `llm`: estimated tokens of what is known already that are shown to the model; 0: none.
        known_facts_tokens: usize = 1_000,
        /// For `llm`: how long that is waited for, in milliseconds.
        known_facts_timeout_ms: u64 = 300,
        /// For `llm`, by tenant: what its operator wishes. Tenants that are named here or in `worker.tenants` are counted by name.
        tenants: BTreeMap<String, ExtractorTenant> = BTreeMap::new(),
        /// For `llm`: several endpoints beside each other instead of the one above. In the environment
        /// `MEMORI__EXTRACTOR__ENDPOINTS__0__BASE_URL` and so on, over what a file says of the same one.
        endpoints: Vec<Endpoint> = Vec::new(),
    }
);

section!(
    /// What is worth remembering in one tenant's conversations.
    ExtractorTenant {
        /// In words, for the model; at most 4,000 bytes.
        instructions: String = String::new(),
        /// The topics to look for, at most 50; none: all.
        categories: Vec<ExtractorCategory> = Vec::new(),
    }
);

section!(
    /// A topic to look for.
    ExtractorCategory {
        /// At most 64 bytes.
        name: String = String::new(),
        /// What belongs to it, at most 300 bytes.
        description: Option<String> = None,
    }
);

section!(
    /// One of several endpoints. What is absent is as it stands in the section around it.
    Endpoint {
        /// In metrics and logs; absent: its place in the list, from 0.
        name: Option<String> = None,
        /// What stands before `/chat/completions`.
        base_url: Option<String> = None,
        /// Its key.
        api_key: Option<Secret> = None,
        /// The header that carries it.
        api_key_header: Option<String> = None,
        /// The model.
        model: Option<String> = None,
        /// Its share of the calls, beside the others' weights.
        weight: u32 = 1,
        /// Calls in flight, at most.
        max_concurrency: Option<usize> = None,
        /// Requests per minute, at most.
        requests_per_minute: Option<u64> = None,
        /// Tokens per minute, in and out, at most.
        tokens_per_minute: Option<u64> = None,
        /// Price of a million tokens that are read, in any currency.
        price_in_per_million: Option<f64> = None,
        /// Price of a million tokens that are written.
        price_out_per_million: Option<f64> = None,
    }
);

section!(
    /// The embedded mode.
    Embedded {
        /// The folder that holds everything, or all but the database; absent: `memori-stream` in the user's data folder.
        data_dir: Option<PathBuf> = None,
        /// `postgres://…`: log and store live in this database; absent: in a SQLite file in the folder.
        database_url: Option<Secret> = None,
        /// Partitions of its log, when it is made.
        partitions: i32 = 4,
    }
);

section!(
    /// Logging, on stderr.
    Log {
        /// `text` or `json`.
        format: String = "text".to_owned(),
        /// A level, or `tracing` directives such as `info,memori_writer=debug`.
        level: String = "info".to_owned(),
    }
);

section!(
    /// Traces.
    Otlp {
        /// OTLP/HTTP base address, such as `http://127.0.0.1:4318`; absent: no traces leave.
        endpoint: Option<String> = None,
    }
);

section!(
    /// Starting.
    Start {
        /// How long a dependency is waited for, in milliseconds; then exit 75.
        deadline_ms: u64 = 30_000,
    }
);

section!(
    /// Stopping.
    Stop {
        /// Everything is drained within this, in milliseconds.
        deadline_ms: u64 = 25_000,
    }
);

impl Kafka {
    /// librdkafka's own properties, uncovered for the one place that hands them over.
    #[must_use]
    pub fn client_properties(&self) -> BTreeMap<String, String> {
        self.properties.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect()
    }
}

impl Settings {
    /// Reads defaults, then `file` (TOML or YAML), then the environment.
    ///
    /// # Errors
    /// An unreadable file, an unknown key, a value of the wrong type: the text names it.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        let environment: Vec<(String, String)> = std::env::vars().collect();
        Self::load_from(file, &environment)
    }

    /// [`Settings::load`] with a given environment.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn load_from(file: Option<&Path>, environment: &[(String, String)]) -> Result<Self, SettingsError> {
        let mut builder = config::Config::builder();
        if let Some(path) = file {
            if !path.is_file() {
                return Err(SettingsError(format!("the file {} is not there", path.display())));
            }
            builder = builder.add_source(config::File::from(path));
        }
        let ours = environment.iter().filter(|(name, _)| name.starts_with("MEMORI__"));
        let (of_lists, variables): (Vec<_>, Vec<_>) = ours.partition(|(name, _)| name.starts_with(ENDPOINTS));
        let variables: config::Map<String, String> = variables.into_iter().cloned().collect();
        builder = builder.add_source(config::Environment::with_prefix("MEMORI").separator("__").source(Some(variables)));
        for (name, value) in of_lists {
            let key = endpoint_key(name)?;
            builder = builder.set_override(key, value.as_str()).map_err(|e| SettingsError(format!("{name}: {e}")))?;
        }
        let read = builder.build().map_err(|e| SettingsError(e.to_string()))?;
        let settings: Self = read.try_deserialize().map_err(|e| {
            SettingsError(format!("{e}; see `--print-config` for every key, and write MEMORI__SECTION__KEY in the environment"))
        })?;
        settings.check()?;
        Ok(settings)
    }

    /// Whether keys of the key store are let in.
    #[must_use]
    pub fn has_key_store(&self) -> bool {
        self.auth.key_store.unwrap_or(self.auth.keys_file.is_some())
    }

    /// What can be judged without knowing which process reads it.
    fn check(&self) -> Result<(), SettingsError> {
        let bad = |key: &str, value: &str, allowed: &str| Err(SettingsError(format!("{key} is {value:?}; it must be {allowed}")));
        if !["text", "json"].contains(&self.log.format.as_str()) {
            return bad("log.format", &self.log.format, "text or json");
        }
        if !["builtin", "llm"].contains(&self.extractor.kind.as_str()) {
            return bad("extractor.kind", &self.extractor.kind, "builtin or llm");
        }
        if !["on", "off", "only"].contains(&self.worker.replays.as_str()) {
            return bad("worker.replays", &self.worker.replays, "on, off or only");
        }
        if !["builtin", "minilm", "openai", "none"].contains(&self.embedding.kind.as_str()) {
            return bad("embedding.kind", &self.embedding.kind, "builtin, minilm, openai or none");
        }
        if !["classic", "consumer"].contains(&self.kafka.group_protocol.as_str()) {
            return bad("kafka.group_protocol", &self.kafka.group_protocol, "classic or consumer");
        }
        let bounds: [(&str, u64); 36] = [
            ("archive.roll_bytes", self.archive.roll_bytes as u64),
            ("archive.roll_age_s", self.archive.roll_age_s),
            ("worker.max_replays", self.worker.max_replays as u64),
            ("ingest.replicas", u64::from(self.ingest.replicas)),
            ("ingest.quota_refresh_ms", self.ingest.quota_refresh_ms),
            ("auth.key_cache_keys", self.auth.key_cache_keys as u64),
            ("auth.key_cache_ms", self.auth.key_cache_ms),
            ("auth.key_cache_keep_ms", self.auth.key_cache_keep_ms),
            ("worker.dead_letter_pause_ms", self.worker.dead_letter_pause_ms),
            ("ingest.redrive_per_second", u64::from(self.ingest.redrive_per_second)),
            ("embedding.dimensions", self.embedding.dimensions.unwrap_or(1) as u64),
            ("embedding.timeout_ms", self.embedding.timeout_ms),
            ("embedding.max_attempts", u64::from(self.embedding.max_attempts)),
            ("embedding.batch_texts", self.embedding.batch_texts as u64),
            ("embedding.batch_bytes", self.embedding.batch_bytes as u64),
            ("embedding.max_concurrency", self.embedding.max_concurrency as u64),
            ("embedding.threads", self.embedding.threads.unwrap_or(1) as u64),
            ("extractor.max_concurrency", self.extractor.max_concurrency as u64),
            ("extractor.requests_per_minute", self.extractor.requests_per_minute.unwrap_or(1)),
            ("extractor.tokens_per_minute", self.extractor.tokens_per_minute.unwrap_or(1)),
            ("extractor.replicas", u64::from(self.extractor.replicas)),
            ("writer.batch_rows", self.writer.batch_rows as u64),
            ("writer.batch_bytes", self.writer.batch_bytes as u64),
            ("writer.look_again_ms", self.writer.look_again_ms),
            ("writer.recall_connections", self.writer.recall_connections as u64),
            ("writer.sink_connections", self.writer.sink_connections as u64),
            ("worker.budget_events", self.worker.budget_events as u64),
            ("worker.budget_bytes", self.worker.budget_bytes as u64),
            ("worker.max_attempts", u64::from(self.worker.max_attempts)),
            ("worker.window_events", self.worker.window_events as u64),
            ("worker.window_messages", self.worker.window_messages as u64),
            ("worker.window_tokens", self.worker.window_tokens),
            ("worker.quantum_tokens", self.worker.quantum_tokens),
            ("worker.live_floor_percent", u64::from(self.worker.live_floor_percent)),
            ("worker.backfill_floor_percent", u64::from(self.worker.backfill_floor_percent)),
            ("worker.stall_after_ms", self.worker.stall_after_ms),
        ];
        if let Some((key, _)) = bounds.into_iter().find(|(_, value)| *value == 0) {
            return bad(key, "0", "at least 1");
        }
        for (kind, days) in &self.kafka.retention_days {
            let key = format!("kafka.retention_days.{kind}");
            if !RETENTION_KINDS.contains(&kind.as_str()) {
                return bad(&key, &days.to_string(), "one of conversations, facts, controls, dead-letters");
            }
            if *days == 0 {
                return bad(&key, "0", "at least 1; leave it out to keep records without limit");
            }
        }
        for (key, value) in [("kafka.partitions", self.kafka.partitions), ("embedded.partitions", self.embedded.partitions)] {
            if !(1..=10_000).contains(&value) {
                return bad(key, &value.to_string(), "between 1 and 10000");
            }
        }
        if !(1..=100).contains(&self.writer.sink_share_percent) {
            return bad("writer.sink_share_percent", &self.writer.sink_share_percent.to_string(), "between 1 and 100");
        }
        if self.worker.live_floor_percent.saturating_add(self.worker.backfill_floor_percent) > 100 {
            let percent = self.worker.live_floor_percent.to_string();
            return bad("worker.live_floor_percent", &percent, "at most 100 together with worker.backfill_floor_percent");
        }
        if let Some((tenant, _)) =
            self.worker.tenants.iter().find(|(_, share)| share.weight == 0 || share.max_in_flight == Some(0))
        {
            return bad(&format!("worker.tenants.{tenant}"), "0", "of weight and max_in_flight at least 1");
        }
        if self.worker.stall_after_ms <= self.extractor.timeout_ms.saturating_mul(2) {
            let least = format!("more than twice extractor.timeout_ms ({})", self.extractor.timeout_ms);
            return bad("worker.stall_after_ms", &self.worker.stall_after_ms.to_string(), &least);
        }
        if self.extractor.endpoints.len() > MAX_ENDPOINTS {
            return bad("extractor.endpoints", &self.extractor.endpoints.len().to_string(), "at most 16");
        }
        for (place, endpoint) in self.extractor.endpoints.iter().enumerate() {
            let bounds = [
                ("weight", u64::from(endpoint.weight)),
                ("max_concurrency", endpoint.max_concurrency.unwrap_or(1) as u64),
                ("requests_per_minute", endpoint.requests_per_minute.unwrap_or(1)),
                ("tokens_per_minute", endpoint.tokens_per_minute.unwrap_or(1)),
            ];
            if let Some((key, _)) = bounds.into_iter().find(|(_, value)| *value == 0) {
                return bad(&format!("extractor.endpoints[{place}].{key}"), "0", "at least 1");
            }
        }
        if self.worker.generation < 1 {
            return bad("worker.generation", &self.worker.generation.to_string(), "at least 1");
        }
        Ok(())
    }

    /// The effective configuration as TOML, secrets as `***`; passwords inside URLs too, since those are secrets as a whole.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(&self.shown()).unwrap_or_else(|e| format!("# not printable: {e}\n"))
    }

    /// The same as one value, for the log.
    #[must_use]
    pub fn shown(&self) -> toml::Value {
        let mut shown = toml::Value::try_from(self).unwrap_or_else(|e| toml::Value::String(format!("not printable: {e}")));
        mask_credentials(&mut shown);
        shown
    }
}

/// What topics carry, as their retention is named.
const RETENTION_KINDS: [&str; 4] = ["conversations", "facts", "controls", "dead-letters"];

/// What the variables of the one list of sections begin with.
const ENDPOINTS: &str = "MEMORI__EXTRACTOR__ENDPOINTS__";
/// Endpoints at most.
const MAX_ENDPOINTS: usize = 16;

/// `MEMORI__EXTRACTOR__ENDPOINTS__0__BASE_URL` as the path of a setting.
fn endpoint_key(name: &str) -> Result<String, SettingsError> {
    let rest = name.strip_prefix(ENDPOINTS).and_then(|rest| rest.split_once("__"));
    let place = rest.and_then(|(place, key)| Some((place.parse::<usize>().ok().filter(|place| *place < MAX_ENDPOINTS)?, key)));
    match place {
        Some((place, key)) => Ok(format!("extractor.endpoints[{place}].{}", key.to_lowercase())),
        None => Err(SettingsError(format!("{name}: write {ENDPOINTS}N__KEY with N from 0 to {}", MAX_ENDPOINTS - 1))),
    }
}

/// Replaces `USER:PASSWORD` before the host of every URL, wherever it stands.
fn mask_credentials(value: &mut toml::Value) {
    match value {
        toml::Value::String(text) => {
            let Some((scheme, rest)) = text.split_once("://") else { return };
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            if let Some((credentials, _)) = authority.rsplit_once('@') {
                *text = format!("{scheme}://***{}", &rest[credentials.len()..]);
            }
        }
        toml::Value::Array(items) => items.iter_mut().for_each(mask_credentials),
        toml::Value::Table(members) => members.iter_mut().for_each(|(_, member)| mask_credentials(member)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(vars: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let owned: Vec<_> = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::load_from(None, &owned)
    }

    #[test]
    fn the_environment_reaches_every_type_of_value() {
        let settings = load(&[
            ("MEMORI__INGEST__LISTEN", "127.0.0.1:0"),
            ("MEMORI__WRITER__BATCH_ROWS", "17"),
            ("MEMORI__KAFKA__PROPERTIES__SECURITY_PROTOCOL", "ssl"),
            ("MEMORI__AUTH__INTERNAL_TOKEN", "007"),
            ("MEMORI_API_KEY", "not ours"),
        ])
        .unwrap();
        assert_eq!(settings.ingest.listen.port(), 0);
        assert_eq!(settings.writer.batch_rows, 17);
        assert_eq!(settings.kafka.properties["security_protocol"].expose(), "ssl");
        assert_eq!(settings.auth.internal_token.unwrap().expose(), "007");
    }

    #[test]
    fn unknown_keys_and_bad_values_are_refused_by_name() {
        for (name, value, named) in [
            ("MEMORI__WRITER__BATCH_ROW", "1", "batch_row"),
            ("MEMORI__NONSENSE__KEY", "1", "nonsense"),
            ("MEMORI__WRITER__BATCH_ROWS", "many", "batch_rows"),
            ("MEMORI__WRITER__BATCH_ROWS", "0", "writer.batch_rows"),
            ("MEMORI__LOG__FORMAT", "xml", "log.format"),
        ] {
            let error = load(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn endpoints_come_from_a_file_and_from_the_environment_together() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            (
                "a.toml",
                "[[extractor.endpoints]]\nbase_url = \"http://a\"\nweight = 3\n[[extractor.endpoints]]\nbase_url = \"http://b\"\n",
            ),
            ("a.yaml", "extractor:\n  endpoints:\n    - base_url: http://a\n      weight: 3\n    - base_url: http://b\n"),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            let environment: Vec<_> = [
                ("MEMORI__EXTRACTOR__ENDPOINTS__0__API_KEY", "hunter2"),
                ("MEMORI__EXTRACTOR__ENDPOINTS__1__REQUESTS_PER_MINUTE", "60"),
                ("MEMORI__EXTRACTOR__ENDPOINTS__2__BASE_URL", "http://c"),
                ("MEMORI__EXTRACTOR__ENDPOINTS__2__PRICE_IN_PER_MILLION", "0.15"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
            let settings = Settings::load_from(Some(&path), &environment).unwrap();
            let [a, b, c] = &settings.extractor.endpoints[..] else { panic!("{:?}", settings.extractor.endpoints) };
            assert_eq!((a.base_url.as_deref(), a.weight, b.base_url.as_deref()), (Some("http://a"), 3, Some("http://b")));
            assert_eq!((b.requests_per_minute, b.weight), (Some(60), 1));
            assert_eq!((c.base_url.as_deref(), c.price_in_per_million), (Some("http://c"), Some(0.15)));
            assert_eq!(a.api_key.as_ref().unwrap().expose(), "hunter2");
            assert!(!settings.to_toml().contains("hunter2") && settings.to_toml().contains("http://c"));
        }
        for (name, value, named) in [
            ("MEMORI__EXTRACTOR__ENDPOINTS__0__BASE_URI", "http://a", "base_uri"),
            ("MEMORI__EXTRACTOR__ENDPOINTS__0__WEIGHT", "0", "endpoints[0].weight"),
            ("MEMORI__EXTRACTOR__ENDPOINTS__16__WEIGHT", "1", "0 to 15"),
            ("MEMORI__EXTRACTOR__ENDPOINTS__A__WEIGHT", "1", "0 to 15"),
            ("MEMORI__EXTRACTOR__ENDPOINTS", "http://a", "endpoints"),
        ] {
            let error = load(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn secrets_print_as_stars() {
        let settings =
            load(&[("MEMORI__POSTGRES__URL", "postgres://u:hunter2@h/d"), ("MEMORI__AUTH__INTERNAL_TOKEN", "hunter2")]).unwrap();
        let printed = settings.to_toml();
        assert!(printed.contains("***") && !printed.contains("hunter2"), "{printed}");
        assert!(!format!("{settings:?}").contains("hunter2"));
        let settings = load(&[
            ("MEMORI__REGISTRY__URL", "http://u:hunter2@registry:8081/x"),
            ("MEMORI__EXTRACTOR__BASE_URL", "https://hunter2@llm"),
            ("MEMORI__OTLP__ENDPOINT", "http://u:hunter@2@otlp?a=b@c"),
        ])
        .unwrap();
        let printed = settings.to_toml();
        assert!(!printed.contains("hunter"), "{printed}");
        for shown in ["http://***@registry:8081/x", "https://***@llm", "http://***@otlp?a=b@c"] {
            assert!(printed.contains(shown), "{printed}");
        }
        let again: Settings = toml::from_str(&Settings::default().to_toml()).unwrap();
        assert_eq!(again.to_toml(), Settings::default().to_toml());
    }

    #[test]
    fn a_file_is_read_and_the_environment_wins() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("a.toml", "[writer]\nbatch_rows = 3\nbatch_bytes = 4\n"),
            ("a.yaml", "writer:\n  batch_rows: 3\n  batch_bytes: 4\n"),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            let environment = vec![("MEMORI__WRITER__BATCH_BYTES".to_owned(), "5".to_owned())];
            let settings = Settings::load_from(Some(&path), &environment).unwrap();
            assert_eq!((settings.writer.batch_rows, settings.writer.batch_bytes), (3, 5));
        }
        assert!(Settings::load_from(Some(&dir.path().join("none.toml")), &[]).is_err());
    }
}
