//! The SQL log on Postgres, held to the suite of all providers. Each connection has a pool of its own, so that members see each
//! other as processes do: through the database alone.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use memori_event_log::conformance::Provider;
use memori_event_log::sql::{SqlLog, SqlLogConfig};
use memori_event_log::{Log, TopicPartition};
use memori_tests::Servers;

struct Postgres {
    url: String,
}

impl Postgres {
    async fn log(&self) -> SqlLog {
        let config = SqlLogConfig {
            lease_ttl: Duration::from_secs(2),
            heartbeat: Duration::from_millis(100),
            poll_interval: Duration::from_millis(500),
            ..SqlLogConfig::default()
        };
        SqlLog::open_postgres(&self.url, config).await.expect("migrates")
    }
}

#[async_trait]
impl Provider for Postgres {
    const FENCES_APPENDS: bool = true;

    async fn fresh(partitions: i32) -> Self {
        let servers = tokio::task::spawn_blocking(Servers::shared).await.expect("no panic").expect("the servers start");
        let postgres = Self { url: servers.empty_database().await.expect("a database") };
        postgres.log().await.create_topics(partitions).await.expect("makes the topics");
        postgres
    }

    fn address(&self) -> String {
        self.url.clone()
    }

    async fn reach(address: &str) -> Self {
        Self { url: address.to_owned() }
    }

    async fn connect(&self) -> Arc<dyn Log> {
        Arc::new(self.log().await)
    }

    async fn delete_before(&self, partition: TopicPartition, offset: i64) {
        self.log().await.delete_before(partition, offset).await.expect("deletes");
    }
}

memori_event_log::conformance_suite!(Postgres);
