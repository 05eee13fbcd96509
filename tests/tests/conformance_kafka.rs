//! The log on Kafka, held to the suite of all providers. Each connection has clients of its own, so that members see each other
//! as processes do: through the broker alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use memori_event_log::conformance::Provider;
use memori_event_log::kafka::{GroupProtocol, KafkaConfig, KafkaLog};
use memori_event_log::{Log, TopicPartition};
use memori_tests::Servers;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// Whose members agree among themselves, or by the broker.
struct Kafka<const BY_BROKER: bool> {
    brokers: String,
    prefix: String,
}

impl<const BY_BROKER: bool> Kafka<BY_BROKER> {
    async fn log(&self) -> KafkaLog {
        let mut config = KafkaConfig::new(&self.brokers, &self.prefix);
        if BY_BROKER {
            config.group_protocol = GroupProtocol::Consumer;
        } else {
            // a member that is silent is given up soon
            config.properties = BTreeMap::from(
                [("session_timeout_ms", "2000"), ("heartbeat_interval_ms", "300")].map(|(k, v)| (k.to_owned(), v.to_owned())),
            );
        }
        KafkaLog::connect(config).await.expect("connects")
    }
}

#[async_trait]
impl<const BY_BROKER: bool> Provider for Kafka<BY_BROKER> {
    /// Its broker knows members of groups, not whose results a record is.
    const FENCES_APPENDS: bool = false;

    async fn fresh(partitions: i32) -> Self {
        let servers = tokio::task::spawn_blocking(Servers::shared).await.expect("no panic").expect("the servers start");
        let kafka = Self { brokers: servers.kafka_brokers().to_owned(), prefix: servers.fresh_prefix() };
        kafka.log().await.create_topics(partitions).await.expect("makes the topics");
        kafka
    }

    fn address(&self) -> String {
        format!("{} {}", self.brokers, self.prefix)
    }

    async fn reach(address: &str) -> Self {
        let (brokers, prefix) = address.split_once(' ').expect("brokers and prefix");
        Self { brokers: brokers.to_owned(), prefix: prefix.to_owned() }
    }

    async fn connect(&self) -> Arc<dyn Log> {
        Arc::new(self.log().await)
    }

    async fn delete_before(&self, partition: TopicPartition, offset: i64) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create().expect("a client");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&format!("{}.{}", self.prefix, partition.topic), partition.partition, Offset::Offset(offset))
            .expect("an offset");
        let deleted = admin.delete_records(&list, &AdminOptions::new()).await.expect("an answer");
        for element in deleted.elements() {
            element.error().expect("deletes");
        }
    }
}

memori_event_log::conformance_suite!(Kafka<false>);

/// What depends on how a group agrees.
mod by_the_broker {
    use super::Kafka;

    memori_event_log::conformance_suite!(
        Kafka<true>: assigning_again_moves, paused_partitions_rest, redelivery_after_a_crash, rebalance_while_work_is_in_flight,
        late_completions_of_an_old_epoch_are_dropped, what_stands_beside_an_offset_goes_to_the_next_owner,
    );
}
