//! Topics by their full names, and errors by their kind.

use rdkafka::TopicPartitionList;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};

use bytes::Bytes;

use crate::seam::{Header, LogError, LogRecord};
use crate::topic::{Topic, TopicPartition};

/// The full names of all topics.
#[derive(Debug)]
pub(super) struct Names {
    prefix: String,
    topics: Vec<(Topic, String)>,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), topics: Topic::ALL.into_iter().map(|t| (t, format!("{prefix}.{t}"))).collect() }
    }

    pub(super) fn of(&self, topic: Topic) -> &str {
        self.topics.iter().find(|(t, _)| *t == topic).map_or("", |(_, name)| name)
    }

    pub(super) fn topic(&self, name: &str) -> Option<Topic> {
        self.topics.iter().find(|(_, n)| n == name).map(|(topic, _)| *topic)
    }

    pub(super) fn group(&self, group: &str) -> String {
        format!("{}.{group}", self.prefix)
    }

    /// The group in which the members of `group` share a topic's partitions.
    pub(super) fn group_of(&self, group: &str, topic: Topic) -> String {
        format!("{}.{topic}", self.group(group))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (Topic, &str)> {
        self.topics.iter().map(|(topic, name)| (*topic, name.as_str()))
    }

    pub(super) fn list<'a>(&self, partitions: impl IntoIterator<Item = &'a TopicPartition>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(self.of(partition.topic), partition.partition);
        }
        list
    }

    /// The partitions of topics of ours, in librdkafka's order.
    pub(super) fn partitions(&self, list: &TopicPartitionList) -> Vec<TopicPartition> {
        list.elements()
            .iter()
            .filter_map(|e| self.topic(e.topic()).map(|topic| TopicPartition { topic, partition: e.partition() }))
            .collect()
    }

    /// Copies a message out of librdkafka's memory. None: a topic that is not ours.
    pub(super) fn record(&self, message: &BorrowedMessage<'_>) -> Option<LogRecord> {
        let topic = self.topic(message.topic())?;
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            // All values lie in one piece.
            let values: Vec<u8> = headers.iter().filter_map(|header| header.value).flatten().copied().collect();
            let mut values = Bytes::from(values);
            headers.iter().map(|h| Header::read(h.key, values.split_to(h.value.map_or(0, <[u8]>::len)))).collect()
        });
        Some(LogRecord {
            source: TopicPartition { topic, partition: message.partition() },
            offset: message.offset(),
            appended_at_ms: message.timestamp().to_millis().unwrap_or(0),
            key: message.key().map_or_else(Bytes::new, Bytes::copy_from_slice),
            payload: message.payload().map_or_else(Bytes::new, Bytes::copy_from_slice),
            headers,
        })
    }
}

/// Whether a wait may mend it. What an operator must mend is fatal and says so.
pub(super) fn log_error(what: &str, error: &KafkaError) -> LogError {
    let hint = match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
            "check kafka.properties: security_protocol, sasl_mechanism, sasl_username, sasl_password"
        }
        Some(RDKafkaErrorCode::SSL) => "check kafka.properties: security_protocol and the ssl_* ones",
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed,
        ) => "give this user the right to read, write and describe the topics and groups of kafka.topic_prefix",
        Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
            "make the topics with `memori topics create`"
        }
        Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::UnsupportedVersion | RDKafkaErrorCode::InvalidGroupId) => {
            "this does not mend by itself"
        }
        _ => return LogError::Transient(format!("{what}: {error}")),
    };
    LogError::Fatal(format!("{what}: {error}; {hint}"))
}
