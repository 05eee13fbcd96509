//! The SQL log on SQLite, held to the suite of all providers. Each connection opens the file anew, so that members see each
//! other as processes do: through the database alone.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use memori_event_log::conformance::Provider;
use memori_event_log::sql::{SqlLog, SqlLogConfig};
use memori_event_log::sqlite::SqliteDatabase;
use memori_event_log::{Log, TopicPartition};

struct Sqlite {
    path: PathBuf,
    /// Deletes the file at the end, where it is ours.
    _folder: Option<tempfile::TempDir>,
}

impl Sqlite {
    async fn open(&self) -> SqlLog {
        let config = SqlLogConfig {
            lease_ttl: Duration::from_secs(2),
            heartbeat: Duration::from_millis(100),
            poll_interval: Duration::from_millis(50),
            ..SqlLogConfig::default()
        };
        let database = SqliteDatabase::open(&self.path).await.expect("opens");
        SqlLog::open(database, config).await.expect("migrates")
    }
}

#[async_trait]
impl Provider for Sqlite {
    const FENCES_APPENDS: bool = true;

    async fn fresh(partitions: i32) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let sqlite = Self { path: folder.path().join("log.db"), _folder: Some(folder) };
        sqlite.open().await.create_topics(partitions).await.expect("makes the topics");
        sqlite
    }

    fn address(&self) -> String {
        self.path.to_str().expect("a path in UTF-8").to_owned()
    }

    async fn reach(address: &str) -> Self {
        Self { path: PathBuf::from(address), _folder: None }
    }

    async fn connect(&self) -> Arc<dyn Log> {
        Arc::new(self.open().await)
    }

    async fn delete_before(&self, partition: TopicPartition, offset: i64) {
        self.open().await.delete_before(partition, offset).await.expect("deletes");
    }
}

memori_event_log::conformance_suite!(Sqlite);
