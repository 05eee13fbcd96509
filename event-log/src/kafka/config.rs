//! What an operator may set, and the librdkafka properties that come of it.
//!
//! The log's promises rest on some properties (acknowledgement by all replicas, idempotence, partitioner, manual offsets, no reset
//! of offsets): these are fixed here and refused from outside, with the reason. Of the others those are passed on that are known
//! to be harmless: connection, TLS, SASL, time-outs, sizes of buffers. A misspelt one is refused too.

use std::collections::BTreeMap;
use std::time::Duration;

use memori_schemas::Lane;
use rdkafka::ClientConfig;

use crate::seam::LogError;
use crate::topic::Topic;

/// The largest record that a topic takes: key, payload and headers.
pub const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
/// What one process's members of groups fetch ahead together, at most, but for each one's last answer.
const FETCHED_AHEAD_KBYTES: usize = 16 * 1024;
/// How much of history a broker gathers before it answers, and for how long at most, in ms.
const HISTORY_FETCH_BYTES: &str = "65536";
const HISTORY_WAIT_MS: &str = "50";

/// Whether somebody waits for a record. Nobody waits for history, and hardly for what is late: such records travel in company, which costs
/// client and broker less than one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    Live,
    History,
}

impl Haste {
    /// What is in no lane is waited for.
    pub(super) fn of(topic: Topic) -> Self {
        match topic.lane() {
            Some(Lane::Backfill) => Self::History,
            Some(Lane::Live) | None => Self::Live,
        }
    }

    fn linger_ms(self) -> &'static str {
        match self {
            Self::Live => "2",
            Self::History => "10",
        }
    }
}

/// How members of a group agree on who reads what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupProtocol {
    /// By one of the members, cooperatively, and sticky.
    #[default]
    Classic,
    /// By the broker, from version 4.0 on (KIP-848). Session and heartbeat are then the broker's settings.
    Consumer,
}

impl GroupProtocol {
    /// The protocol of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "classic" => Some(Self::Classic),
            "consumer" => Some(Self::Consumer),
            _ => None,
        }
    }
}

/// How to reach and use a Kafka cluster.
#[derive(Clone)]
pub struct KafkaConfig {
    /// Bootstrap servers, `host:port,…`.
    pub brokers: String,
    /// In front of every topic's and group's name.
    pub topic_prefix: String,
    /// librdkafka's own, with `_` for `.`, as `security_protocol`.
    pub properties: BTreeMap<String, String>,
    /// Replicas of every topic when it is made; none: the broker's default.
    pub replication_factor: Option<i32>,
    /// Days that topics keep records when they are made, by [`Topic::kind`](crate::topic::Topic::kind); of others without limit.
    pub retention_days: BTreeMap<String, u32>,
    /// For how long the producer tries to deliver a record before it reports it as unconfirmed.
    pub delivery_timeout: Duration,
    /// A name of this process' members that outlives it, unlike any other process'. A member that stops then keeps its partitions
    /// for the session timeout, so that one that starts again within that moves nothing; until then nobody reads them.
    pub group_instance_id: Option<String>,
    /// How members of a group agree on who reads what.
    pub group_protocol: GroupProtocol,
}

impl KafkaConfig {
    /// With the defaults.
    #[must_use]
    pub fn new(brokers: impl Into<String>, topic_prefix: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topic_prefix: topic_prefix.into(),
            properties: BTreeMap::new(),
            replication_factor: None,
            retention_days: BTreeMap::new(),
            delivery_timeout: Duration::from_secs(30),
            group_instance_id: None,
            group_protocol: GroupProtocol::Classic,
        }
    }
}

/// Properties may hold passwords: their values are not shown.
impl std::fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("topic_prefix", &self.topic_prefix)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .field("replication_factor", &self.replication_factor)
            .field("retention_days", &self.retention_days)
            .field("delivery_timeout", &self.delivery_timeout)
            .field("group_instance_id", &self.group_instance_id)
            .field("group_protocol", &self.group_protocol)
            .finish()
    }
}

/// Properties on which a promise rests, and which.
const FIXED: &[(&str, &str)] = &[
    ("bootstrap.servers", "set kafka.brokers instead"),
    ("metadata.broker.list", "set kafka.brokers instead"),
    ("acks", "a record counts as accepted only when all in-sync replicas have it"),
    ("request.required.acks", "a record counts as accepted only when all in-sync replicas have it"),
    ("enable.idempotence", "without it a retry would append twice or out of order"),
    ("enable.gapless.guarantee", "a producer with a gap is replaced"),
    ("transactional.id", "nothing here uses Kafka's transactions"),
    ("max.in.flight.requests.per.connection", "idempotence fixes it"),
    ("max.in.flight", "idempotence fixes it"),
    ("retries", "delivery ends by time, not by count"),
    ("message.send.max.retries", "delivery ends by time, not by count"),
    ("delivery.timeout.ms", "the process sets it"),
    ("message.timeout.ms", "the process sets it"),
    ("message.max.bytes", "it goes with the topics' max.message.bytes"),
    ("partitioner", "the partition of a key is the same everywhere and forever"),
    ("queuing.strategy", "the order of a key's records depends on it"),
    ("group.id", "the process sets it"),
    ("group.instance.id", "set kafka.group_instance_id instead"),
    ("group.protocol", "set kafka.group_protocol instead"),
    ("group.remote.assignor", "the assignment is the broker's uniform one, which is sticky"),
    ("partition.assignment.strategy", "the assignment is cooperative-sticky"),
    ("enable.auto.commit", "an offset is committed only when its record is finished"),
    ("auto.commit.enable", "an offset is committed only when its record is finished"),
    ("auto.commit.interval.ms", "an offset is committed only when its record is finished"),
    ("enable.auto.offset.store", "an offset is committed only when its record is finished"),
    ("auto.offset.reset", "a consumer halts where records are gone, and never skips"),
    ("isolation.level", "records are read once they are settled"),
    ("enable.partition.eof", "the process sets it"),
    ("max.partition.fetch.bytes", "it goes with the topics' max.message.bytes"),
    ("fetch.message.max.bytes", "it goes with the topics' max.message.bytes"),
    ("fetch.max.bytes", "it goes with the topics' max.message.bytes"),
    ("receive.message.max.bytes", "it goes with the topics' max.message.bytes"),
    ("allow.auto.create.topics", "topics are made by `memori topics create`, with their settings"),
    ("enabled_events", "the client library sets it"),
];

/// Properties of the connection, for producer and consumers alike.
const CONNECTION: &[&str] = &[
    "client.id",
    "client.rack",
    "client.dns.lookup",
    "security.protocol",
    "enable.ssl.certificate.verification",
    "broker.address.family",
    "broker.address.ttl",
    "connections.max.idle.ms",
    "reconnect.backoff.ms",
    "reconnect.backoff.max.ms",
    "retry.backoff.ms",
    "retry.backoff.max.ms",
    "socket.timeout.ms",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.nagle.disable",
    "socket.send.buffer.bytes",
    "socket.receive.buffer.bytes",
    "socket.max.fails",
    "metadata.max.age.ms",
    "metadata.recovery.strategy",
    "metadata.recovery.rebootstrap.trigger.ms",
    "topic.metadata.refresh.interval.ms",
    "topic.metadata.refresh.fast.interval.ms",
    "topic.metadata.propagation.max.ms",
    "enable.metrics.push",
    "log.connection.close",
    "debug",
];

/// Families of those.
const CONNECTION_PREFIXES: &[&str] = &["ssl.", "sasl.", "https."];

const PRODUCER: &[&str] = &[
    "compression.type",
    "compression.codec",
    "compression.level",
    "linger.ms",
    "queue.buffering.max.ms",
    "queue.buffering.max.messages",
    "queue.buffering.max.kbytes",
    "batch.size",
    "batch.num.messages",
    "request.timeout.ms",
    "sticky.partitioning.linger.ms",
];

const CONSUMER: &[&str] = &[
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "coordinator.query.interval.ms",
    "queued.min.messages",
    "queued.max.messages.kbytes",
    "fetch.wait.max.ms",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.error.backoff.ms",
    "check.crcs",
];

/// A configuration whose properties were checked.
#[derive(Clone)]
pub(super) struct Properties {
    brokers: String,
    delivery_timeout: Duration,
    group_instance_id: Option<String>,
    group_protocol: GroupProtocol,
    connection: BTreeMap<String, String>,
    producer: BTreeMap<String, String>,
    consumer: BTreeMap<String, String>,
}

impl Properties {
    pub(super) fn validate(config: &KafkaConfig) -> Result<Self, LogError> {
        if config.brokers.trim().is_empty() {
            return Err(LogError::Fatal("kafka.brokers is empty: name at least one broker as host:port".to_owned()));
        }
        let prefix_is_legal = !config.topic_prefix.is_empty()
            && config.topic_prefix.len() <= 200
            && config.topic_prefix.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !prefix_is_legal {
            return Err(LogError::Fatal(format!(
                "kafka.topic_prefix is `{}`: it takes 1 to 200 letters, digits, `.`, `_` and `-`",
                config.topic_prefix
            )));
        }
        let mut properties = Self {
            brokers: config.brokers.clone(),
            delivery_timeout: config.delivery_timeout,
            group_instance_id: config.group_instance_id.clone(),
            group_protocol: config.group_protocol,
            connection: BTreeMap::new(),
            producer: BTreeMap::new(),
            consumer: BTreeMap::new(),
        };
        for (given, value) in &config.properties {
            let key = given.to_ascii_lowercase().replace('_', ".");
            if let Some((_, reason)) = FIXED.iter().find(|(fixed, _)| fixed.replace('_', ".") == key) {
                return Err(LogError::Fatal(format!("kafka.properties.{given} may not be set: {reason}")));
            }
            let group = if CONNECTION.contains(&key.as_str()) || CONNECTION_PREFIXES.iter().any(|p| key.starts_with(p)) {
                &mut properties.connection
            } else if PRODUCER.contains(&key.as_str()) {
                &mut properties.producer
            } else if CONSUMER.contains(&key.as_str()) {
                &mut properties.consumer
            } else {
                return Err(LogError::Fatal(format!(
                    "kafka.properties.{given} is not a property that can be passed on (librdkafka's names, with _ for .)"
                )));
            };
            group.insert(key, value.clone());
        }
        if config.group_protocol == GroupProtocol::Consumer
            && let Some(key) =
                ["session.timeout.ms", "heartbeat.interval.ms"].iter().find(|key| properties.consumer.contains_key(**key))
        {
            return Err(LogError::Fatal(format!(
                "kafka.properties: {key} goes with kafka.group_protocol classic; set group.consumer.{key} of the brokers instead"
            )));
        }
        // librdkafka's own check of names and values, before anything is connected
        for client in [properties.producer(Haste::Live), properties.consumer("check", 1, Haste::Live)] {
            client.create_native_config().map_err(|error| LogError::Fatal(format!("kafka.properties: {error}")))?;
        }
        Ok(properties)
    }

    fn base(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "memori")
            .set("socket.keepalive.enable", "true")
            // a broker that is back is used again within a second
            .set("reconnect.backoff.max.ms", "1000");
        client
    }

    /// For metadata and administration.
    pub(super) fn plain(&self) -> ClientConfig {
        with(self.base(), &[&self.connection])
    }

    pub(super) fn producer(&self, haste: Haste) -> ClientConfig {
        let mut client = self.base();
        client
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("compression.type", "zstd")
            .set("linger.ms", haste.linger_ms())
            .set("message.max.bytes", MAX_MESSAGE_BYTES.to_string())
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536")
            .set("delivery.timeout.ms", self.delivery_timeout.as_millis().to_string());
        with(client, &[&self.connection, &self.producer])
    }

    /// Common to members of groups and to readers outside any.
    fn fetching(&self) -> ClientConfig {
        let mut client = self.base();
        client
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("max.partition.fetch.bytes", MAX_MESSAGE_BYTES.to_string())
            .set("fetch.max.bytes", (2 * MAX_MESSAGE_BYTES).to_string())
            // what is fetched ahead is in no budget of ours, so it is kept small …
            .set("queued.max.messages.kbytes", FETCHED_AHEAD_KBYTES.to_string())
            .set("queued.min.messages", "2000")
            // … and once it is used up, fetching goes on at once and not after a second
            .set("fetch.queue.backoff.ms", "10");
        client
    }

    /// For one of `beside` members of groups that share what may be fetched ahead.
    pub(super) fn consumer(&self, group_id: &str, beside: usize, haste: Haste) -> ClientConfig {
        let mut client = self.fetching();
        client
            .set("group.id", group_id)
            .set("max.poll.interval.ms", "300000")
            .set("queued.max.messages.kbytes", (FETCHED_AHEAD_KBYTES / beside.max(1)).to_string());
        if haste == Haste::History {
            client.set("fetch.min.bytes", HISTORY_FETCH_BYTES).set("fetch.wait.max.ms", HISTORY_WAIT_MS);
        }
        match self.group_protocol {
            GroupProtocol::Classic => client
                .set("partition.assignment.strategy", "cooperative-sticky")
                .set("session.timeout.ms", "10000")
                .set("heartbeat.interval.ms", "2000"),
            GroupProtocol::Consumer => client.set("group.protocol", "consumer").set("group.remote.assignor", "uniform"),
        };
        if let Some(name) = &self.group_instance_id {
            client.set("group.instance.id", name);
        }
        with(client, &[&self.connection, &self.consumer])
    }

    /// For reading a partition outside any group: librdkafka wants the name of one all the same. It never joins or commits.
    pub(super) fn reader(&self, group_id: &str) -> ClientConfig {
        let mut shared = self.consumer.clone();
        for of_groups in ["session.timeout.ms", "heartbeat.interval.ms", "max.poll.interval.ms", "coordinator.query.interval.ms"]
        {
            shared.remove(of_groups);
        }
        let mut client = self.fetching();
        client.set("group.id", group_id);
        with(client, &[&self.connection, &shared])
    }
}

fn with(mut client: ClientConfig, given: &[&BTreeMap<String, String>]) -> ClientConfig {
    for (key, value) in given.iter().copied().flatten() {
        // librdkafka knows some by two names, and the later one would win by chance
        let key = match key.as_str() {
            "compression.codec" => "compression.type",
            "queue.buffering.max.ms" => "linger.ms",
            key => key,
        };
        client.set(key, value);
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(properties: &[(&str, &str)]) -> KafkaConfig {
        let mut config = KafkaConfig::new("broker:9092", "memori");
        config.properties = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        config
    }

    fn listing(client: &ClientConfig) -> String {
        let sorted: BTreeMap<_, _> = client.config_map().into_iter().collect();
        sorted.into_iter().map(|(k, v)| format!("{k}={v}\n")).collect()
    }

    fn refusal(properties: &[(&str, &str)]) -> String {
        match Properties::validate(&config(properties)) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn history_waits_for_company() {
        assert_eq!(Topic::ALL.map(Haste::of).iter().filter(|haste| **haste == Haste::History).count(), 2);
        let properties = Properties::validate(&config(&[])).unwrap();
        let more = |live: &ClientConfig, history: &ClientConfig| {
            let (live, history) = (listing(live), listing(history));
            history.lines().filter(|line| !live.contains(line)).map(str::to_owned).collect::<Vec<_>>()
        };
        let (live, history) = (Haste::Live, Haste::History);
        assert_eq!(more(&properties.producer(live), &properties.producer(history)), ["linger.ms=10"]);
        let consumers = (properties.consumer("g", 1, live), properties.consumer("g", 1, history));
        assert_eq!(more(&consumers.0, &consumers.1), ["fetch.min.bytes=65536", "fetch.wait.max.ms=50"]);
        let given = Properties::validate(&config(&[("linger_ms", "7")])).unwrap();
        assert_eq!(given.producer(history).get("linger.ms"), Some("7"), "an operator's word is for both");
    }

    #[test]
    fn the_producers_properties() {
        let properties = Properties::validate(&config(&[])).unwrap();
        assert_eq!(
            listing(&properties.producer(Haste::Live)),
            "acks=all\n\
             bootstrap.servers=broker:9092\n\
             client.id=memori\n\
             compression.type=zstd\n\
             delivery.timeout.ms=30000\n\
             enable.idempotence=true\n\
             linger.ms=2\n\
             message.max.bytes=8388608\n\
             partitioner=murmur2_random\n\
             queue.buffering.max.kbytes=65536\n\
             queue.buffering.max.messages=100000\n\
             reconnect.backoff.max.ms=1000\n\
             socket.keepalive.enable=true\n"
        );
    }

    #[test]
    fn a_consumers_properties() {
        let properties = Properties::validate(&config(&[])).unwrap();
        assert_eq!(
            listing(&properties.consumer("memori.writer", 1, Haste::Live)),
            "auto.offset.reset=error\n\
             bootstrap.servers=broker:9092\n\
             check.crcs=true\n\
             client.id=memori\n\
             enable.auto.commit=false\n\
             enable.auto.offset.store=false\n\
             fetch.max.bytes=16777216\n\
             fetch.queue.backoff.ms=10\n\
             group.id=memori.writer\n\
             heartbeat.interval.ms=2000\n\
             isolation.level=read_committed\n\
             max.partition.fetch.bytes=8388608\n\
             max.poll.interval.ms=300000\n\
             partition.assignment.strategy=cooperative-sticky\n\
             queued.max.messages.kbytes=16384\n\
             queued.min.messages=2000\n\
             reconnect.backoff.max.ms=1000\n\
             session.timeout.ms=10000\n\
             socket.keepalive.enable=true\n"
        );
    }

    #[test]
    fn a_member_of_the_brokers_protocol_leaves_the_session_to_it() {
        let mut config = config(&[]);
        (config.group_protocol, config.group_instance_id) = (GroupProtocol::Consumer, Some("worker-1".to_owned()));
        let client = Properties::validate(&config).unwrap().consumer("g", 1, Haste::Live);
        for (key, value) in
            [("group.protocol", "consumer"), ("group.remote.assignor", "uniform"), ("group.instance.id", "worker-1")]
        {
            assert_eq!(client.get(key), Some(value));
        }
        for key in ["partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms"] {
            assert_eq!(client.get(key), None, "{key}");
        }
        config.properties.insert("session_timeout_ms".to_owned(), "6000".to_owned());
        assert!(Properties::validate(&config).is_err_and(|e| e.to_string().contains("session.timeout.ms")));
    }

    #[test]
    fn security_reaches_every_client_and_the_rest_only_its_own() {
        let properties = Properties::validate(&config(&[
            ("security_protocol", "sasl_ssl"),
            ("sasl_mechanism", "SCRAM-SHA-512"),
            ("SASL_USERNAME", "memori"),
            ("sasl_password", "secret"),
            ("ssl_ca_location", "probe"),
            ("compression_codec", "lz4"),
            ("session_timeout_ms", "6000"),
        ]))
        .unwrap();
        for client in [
            properties.plain(),
            properties.producer(Haste::Live),
            properties.consumer("g", 1, Haste::Live),
            properties.reader("r"),
        ] {
            assert_eq!(client.get("security.protocol"), Some("sasl_ssl"));
            assert_eq!(client.get("sasl.mechanism"), Some("SCRAM-SHA-512"));
            assert_eq!(client.get("sasl.username"), Some("memori"));
            assert_eq!(client.get("sasl.password"), Some("secret"));
            assert_eq!(client.get("ssl.ca.location"), Some("probe"));
        }
        assert_eq!(properties.producer(Haste::Live).get("compression.type"), Some("lz4"));
        assert_eq!(properties.producer(Haste::Live).get("session.timeout.ms"), None);
        assert_eq!(properties.consumer("g", 1, Haste::Live).get("session.timeout.ms"), Some("6000"));
        assert_eq!(properties.consumer("g", 1, Haste::Live).get("compression.type"), None);
        assert_eq!(properties.reader("r").get("session.timeout.ms"), None);
    }

    #[test]
    fn what_would_break_a_promise_is_refused_with_the_reason() {
        for (key, reason) in FIXED {
            let given = key.replace('.', "_");
            let said = refusal(&[(&given, "1")]);
            assert!(said.contains(&given) && said.contains(reason), "{given}: {said}");
        }
    }

    #[test]
    fn unknown_and_invalid_ones_are_refused() {
        assert!(refusal(&[("securty_protocol", "ssl")]).contains("kafka.properties.securty_protocol is not a property"));
        assert!(refusal(&[("ssl_no_such_thing", "x")]).contains("kafka.properties"));
        assert!(refusal(&[("security_protocol", "carrier-pigeon")]).contains("kafka.properties"));
        assert!(refusal(&[("linger_ms", "soon")]).contains("kafka.properties"));
    }

    #[test]
    fn brokers_and_prefix_are_checked() {
        for (brokers, prefix, word) in [("", "memori", "brokers"), ("b:1", "", "topic_prefix"), ("b:1", "a/b", "topic_prefix")] {
            let said = Properties::validate(&KafkaConfig::new(brokers, prefix)).map(|_| ()).unwrap_err().to_string();
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", config(&[("sasl_password", "hunter2")]));
        assert!(shown.contains("sasl_password") && !shown.contains("hunter2"));
    }
}
