//! The log on Apache Kafka, through librdkafka.
//!
//! What this provider adds to the seam's promises: the producer is idempotent and waits for all in-sync replicas; members share
//! a group per topic by cooperative-sticky assignment and learn of every change through [`Consumer::next`](crate::seam::Consumer::next), which
//! never skips over records that are gone; nothing blocks the runtime.

mod blocking;
mod config;
mod consumer;
mod describe;
mod names;
mod per_topic;
mod producer;
mod reader;
mod retention;

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use self::blocking::{REQUEST_TIMEOUT, detached};
use self::config::Properties;
pub use self::config::{GroupProtocol, KafkaConfig, MAX_MESSAGE_BYTES};
use self::names::{Names, log_error};
use self::per_topic::PerTopic;
use self::producer::KafkaProducer;
use self::reader::Readers;
pub use self::retention::Drift;
use crate::seam::{Consumer, Log, LogError, LogIdentity, LogRecord, Producer};
use crate::topic::{Topic, TopicPartition};

/// How long new topics may take until every partition has a leader.
const TOPICS_DEADLINE: Duration = Duration::from_secs(30);

/// How long the brokers may take to list the topics. Shorter than a start's deadline by far, so that a start that fails can say why.
const METADATA_TIMEOUT: Duration = Duration::from_secs(4);
/// The most that the client may say at once.
const SAID_AT_ONCE: usize = 64;

/// A log on a Kafka cluster.
pub struct KafkaLog {
    shared: Arc<Shared>,
    producer: Arc<KafkaProducer>,
    readers: Arc<Readers>,
}

/// What producer, consumers and readers share.
pub(crate) struct Shared {
    names: Names,
    properties: Properties,
    replication_factor: Option<i32>,
    retention_days: std::collections::BTreeMap<String, u32>,
    /// For metadata, offsets and administration; a member of no group.
    client: Arc<BaseConsumer<Quiet>>,
    /// Per topic, in the order of [`Topic::ALL`]; 0 while unknown. It never changes in a topic's life.
    partition_counts: [AtomicI32; Topic::ALL.len()],
}

impl KafkaLog {
    /// Checks the configuration. The cluster need not be reachable: every call says for itself when it is not.
    ///
    /// # Errors
    /// [`LogError::Fatal`] for a configuration that cannot work, with what to change.
    pub async fn connect(config: KafkaConfig) -> Result<Self, LogError> {
        let properties = Properties::validate(&config)?;
        let refused = |error: KafkaError| LogError::Fatal(format!("the Kafka client refuses its configuration: {error}"));
        let client: BaseConsumer<Quiet> = properties.plain().create_with_context(Quiet::default()).map_err(refused)?;
        let shared = Arc::new(Shared {
            names: Names::new(&config.topic_prefix),
            properties,
            replication_factor: config.replication_factor,
            retention_days: config.retention_days,
            client: Arc::new(client),
            partition_counts: Default::default(),
        });
        let producer = Arc::new(KafkaProducer::new(Arc::clone(&shared)).map_err(refused)?);
        Ok(Self { readers: Arc::new(Readers::new(Arc::clone(&shared))), shared, producer })
    }
}

/// A topic of ours as the brokers list it.
struct Listed {
    topic: Topic,
    partitions: i32,
    has_leaders: bool,
}

impl Shared {
    /// The partition count of a topic; asked for once.
    async fn partition_count(self: &Arc<Self>, topic: Topic) -> Result<i32, LogError> {
        let known = Topic::ALL.iter().position(|t| *t == topic).and_then(|i| self.partition_counts.get(i));
        if let Some(count) = known.map(|count| count.load(Ordering::Acquire))
            && count > 0
        {
            return Ok(count);
        }
        let listed = self.listed().await?;
        let count = listed.iter().find(|listed| listed.topic == topic).map(|listed| listed.partitions);
        let count = count.ok_or_else(|| self.missing(topic))?;
        if let Some(known) = known {
            known.store(count, Ordering::Release);
        }
        Ok(count)
    }

    fn missing(&self, topic: Topic) -> LogError {
        LogError::Fatal(format!("topic {} does not exist; make the topics with `memori topics create`", self.names.of(topic)))
    }

    /// Our topics that exist and whose partitions have leaders, with their partition counts.
    async fn existing(self: &Arc<Self>) -> Result<Vec<(Topic, i32)>, LogError> {
        let listed = self.listed().await?;
        Ok(listed.into_iter().filter(|listed| listed.has_leaders).map(|listed| (listed.topic, listed.partitions)).collect())
    }

    /// Our topics that exist. Of brokers that come up, some partitions have no leader for a while.
    async fn listed(self: &Arc<Self>) -> Result<Vec<Listed>, LogError> {
        let shared = Arc::clone(self);
        detached(move || {
            let fetched = shared.client.fetch_metadata(None, METADATA_TIMEOUT);
            let failure = shared.last_failure();
            let metadata = fetched.map_err(|error| with_reason(log_error("ask for the topics", &error), failure))?;
            let ours = metadata.topics().iter().filter(|topic| topic.error().is_none() && !topic.partitions().is_empty());
            Ok(ours
                .filter_map(|topic| {
                    Some(Listed {
                        topic: shared.names.topic(topic.name())?,
                        partitions: i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX),
                        has_leaders: topic.partitions().iter().all(|partition| partition.leader() >= 0),
                    })
                })
                .collect())
        })
        .await?
    }

    /// Log start and end of a partition. Blocks.
    fn watermarks(&self, partition: TopicPartition) -> Result<(i64, i64), LogError> {
        let fetched = self.client.fetch_watermarks(self.names.of(partition.topic), partition.partition, REQUEST_TIMEOUT);
        let failure = self.last_failure();
        fetched.map_err(|error| with_reason(log_error(&format!("ask for the offsets of {partition}"), &error), failure))
    }

    /// Why a connection failed since the last time that this was asked. It also lets the client say what it has to say: it is in no
    /// group, so nobody else polls it, and what it wants to say would pile up.
    fn last_failure(&self) -> Option<String> {
        for _ in 0..SAID_AT_ONCE {
            if let Some(Err(error)) = self.client.poll(Duration::ZERO) {
                tracing::debug!(%error, "kafka");
            }
        }
        self.client.context().failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether reading may start at `wanted`. Blocks.
    fn check_start(&self, partition: TopicPartition, wanted: i64) -> Result<(i64, i64), LogError> {
        let span = self.watermarks(partition)?;
        check_place(partition, wanted, span).map(|()| span)
    }
}

/// Whether reading may start at `wanted` of a partition with this start and end.
fn check_place(partition: TopicPartition, wanted: i64, (log_start, end): (i64, i64)) -> Result<(), LogError> {
    if wanted < log_start {
        return Err(LogError::BelowLogStart { source_partition: partition, wanted, log_start });
    }
    if wanted > end {
        return Err(LogError::Fatal(format!(
            "{partition} ends at offset {end}, but {wanted} is wanted: the log was replaced or has lost its end; restore it, or rebuild"
        )));
    }
    Ok(())
}

#[async_trait]
impl Log for KafkaLog {
    fn producer(&self) -> Arc<dyn Producer> {
        Arc::clone(&self.producer) as Arc<dyn Producer>
    }

    async fn subscribe(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Consumer>, LogError> {
        for topic in topics {
            self.shared.partition_count(*topic).await?;
        }
        Ok(Box::new(PerTopic::join(&self.shared, group, topics)?))
    }

    async fn create_topics(&self, partitions: i32) -> Result<(), LogError> {
        let mut existing = self.shared.existing().await?;
        let admin: AdminClient<Quiet> = self
            .shared
            .properties
            .plain()
            .create_with_context(Quiet::default())
            .map_err(|error| log_error("make the topics", &error))?;
        let settings = |topic| retention::settings_of(topic, &self.shared.retention_days, self.shared.replication_factor);
        let made: Vec<(Topic, Vec<(&'static str, String)>)> =
            Topic::ALL.into_iter().map(|topic| (topic, settings(topic))).collect();
        let replicas = self.shared.replication_factor.unwrap_or(-1);
        let missing: Vec<NewTopic<'_>> = self
            .shared
            .names
            .all()
            .filter(|(topic, _)| !existing.iter().any(|(there, _)| there == topic))
            .map(|(topic, name)| {
                let settings = made.iter().find(|(of, _)| *of == topic).map_or(&[][..], |(_, settings)| settings);
                let new = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
                settings.iter().fold(new, |new, (setting, value)| new.set(setting, value))
            })
            .collect();
        if !missing.is_empty() {
            let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT));
            let results = admin.create_topics(&missing, &options).await.map_err(|error| log_error("make the topics", &error))?;
            for result in results {
                match result {
                    Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                    Err((name, code)) => return Err(create_error(&name, code)),
                }
            }
            let until = Instant::now() + TOPICS_DEADLINE;
            loop {
                existing = self.shared.existing().await?;
                if existing.len() == Topic::ALL.len() {
                    break;
                }
                if Instant::now() > until {
                    return Err(LogError::Transient("the new topics have no leaders yet".to_owned()));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        // dropping it waits for its threads
        detached(move || drop(admin)).await?;
        for (topic, count) in existing {
            if count != partitions {
                return Err(LogError::Fatal(format!(
                    "topic {} has {count} partitions, not {partitions}: the count is fixed when topics are made; set kafka.partitions to \
                     {count}, or fill topics of another kafka.topic_prefix by a replay",
                    self.shared.names.of(topic)
                )));
            }
        }
        Ok(())
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        let listed = self.shared.listed().await?;
        let mut partitions = None;
        for topic in Topic::ALL {
            let Some(Listed { partitions: count, has_leaders, .. }) = listed.iter().find(|listed| listed.topic == topic) else {
                return Err(self.shared.missing(topic));
            };
            if !has_leaders {
                return Err(LogError::Transient(format!("partitions of {} have no leader now", self.shared.names.of(topic))));
            }
            if *partitions.get_or_insert(*count) != *count {
                return Err(LogError::Fatal(format!(
                    "topic {} has {count} partitions, others have another count: all topics need the same",
                    self.shared.names.of(topic)
                )));
            }
        }
        let shared = Arc::clone(&self.shared);
        let (cluster_id, topic_ids) = detached(move || {
            let client = shared.client.client();
            let cluster_id = client
                .fetch_cluster_id(REQUEST_TIMEOUT)
                .ok_or_else(|| LogError::Transient("the broker did not tell the cluster's id".to_owned()))?;
            let (topics, names): (Vec<Topic>, Vec<&str>) = shared.names.all().unzip();
            let ids = describe::topic_ids(client, &names, REQUEST_TIMEOUT)?;
            Ok::<_, LogError>((cluster_id, topics.into_iter().zip(ids).collect()))
        })
        .await??;
        Ok(LogIdentity { cluster_id, topic_ids, partitions: partitions.unwrap_or(0) })
    }

    async fn watermarks(&self, partition: TopicPartition) -> Result<(i64, i64), LogError> {
        let shared = Arc::clone(&self.shared);
        detached(move || shared.watermarks(partition)).await?
    }

    async fn read(&self, partition: TopicPartition, offset: i64, max_records: usize) -> Result<Vec<LogRecord>, LogError> {
        let readers = Arc::clone(&self.readers);
        detached(move || readers.read(partition, offset, max_records)).await?
    }
}

fn create_error(name: &str, code: RDKafkaErrorCode) -> LogError {
    let said = format!("topic {name} cannot be made: {code}");
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
            LogError::Fatal(format!("{said}; give this user the right to create topics"))
        }
        RDKafkaErrorCode::InvalidReplicationFactor => {
            LogError::Fatal(format!("{said}; set kafka.replication_factor to no more than the number of brokers"))
        }
        RDKafkaErrorCode::InvalidPartitions
        | RDKafkaErrorCode::InvalidTopic
        | RDKafkaErrorCode::InvalidConfig
        | RDKafkaErrorCode::PolicyViolation => LogError::Fatal(said),
        _ => LogError::Transient(said),
    }
}

/// What a request's time-out does not tell: why there is no connection.
fn with_reason(error: LogError, failure: Option<String>) -> LogError {
    match (error, failure) {
        (LogError::Transient(what), Some(failure)) => {
            let hint = if failure.to_ascii_lowercase().contains("authentication") {
                "; check kafka.properties: security_protocol, sasl_mechanism, sasl_username, sasl_password"
            } else if failure.contains("SSL") {
                "; check kafka.properties: security_protocol and the ssl_* ones"
            } else {
                ""
            };
            LogError::Transient(format!("{what}: {failure}{hint}"))
        }
        (error, _) => error,
    }
}

/// A client whose log goes to ours.
#[derive(Default)]
pub(crate) struct Quiet {
    /// The last failure that nobody asked for yet.
    failure: Mutex<Option<String>>,
}

impl Quiet {
    fn note(&self, failure: &str) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.to_owned());
    }
}

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if matches!(level, RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error)
            && facility == "FAIL"
        {
            self.note(message);
        }
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            self.note(reason);
        }
        tracing::warn!(%error, reason, "kafka");
    }
}

impl ConsumerContext for Quiet {}

fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::error!(facility, "librdkafka: {message}");
        }
        RDKafkaLogLevel::Warning => tracing::warn!(facility, "librdkafka: {message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(facility, "librdkafka: {message}"),
        RDKafkaLogLevel::Debug => tracing::debug!(facility, "librdkafka: {message}"),
    }
}
