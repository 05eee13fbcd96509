//! The log on Kafka, held to the suite of all providers. Each connection has clients of its own, so that members see each other
//! as processes do: through the broker alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use memori_event_log::conformance::Provider;
use memori_event_log::kafka::{KafkaConfig, KafkaLog};
use memori_event_log::{Log, TopicPartition};
use memori_tests::Servers;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

struct Kafka {
    brokers: String,
    prefix: String,
}

impl Kafka {
    async fn log(&self) -> KafkaLog {
        let mut config = KafkaConfig::new(&self.brokers, &self.prefix);
        // a member that is silent is given up soon
        config.properties = BTreeMap::from(
            [("session_timeout_ms", "2000"), ("heartbeat_interval_ms", "300")].map(|(k, v)| (k.to_owned(), v.to_owned())),
        );
        KafkaLog::connect(config).await.expect("connects")
    }
}

#[async_trait]
impl Provider for Kafka {
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

memori_event_log::conformance_suite!(Kafka);
