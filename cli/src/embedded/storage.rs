//! Where the embedded process keeps its log and its store: one SQLite file in its folder, or the user's own Postgres database.

use std::sync::Arc;
use std::time::Duration;

use memori_event_log::sql::{SqlLog, SqlLogConfig};
use memori_event_log::sqlite::SqliteDatabase;
use memori_event_log::{Log, LogError};
use memori_ingest::{IngestConfig, Lookup, SpoolConfig};
use memori_service::{ProcessError, Secret, Settings, process};
use memori_writer::notify::Commits;
use memori_writer::packer::PackerConfig;
use memori_writer::postgres::PostgresTarget;
use memori_writer::reads::{PostgresReads, ReadStore, SqliteReads};
use memori_writer::store::postgres::{PostgresStore, listen};
use memori_writer::store::sqlite::SqliteStore;
use memori_writer::store::{Store, StoreError};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::folder::DataFolder;

/// In `pg_stat_activity`.
const NAME: &str = "memori";
/// Consumers are woken by notifications; looking is for where those do not come, as behind a pooler.
const POSTGRES_POLL: Duration = Duration::from_secs(1);
/// What the producer may take to settle what it still has.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);

/// The log and the store, with their tables made.
pub(crate) struct Storage {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) reads: Arc<dyn ReadStore>,
    pub(crate) packer: PackerConfig,
    kind: Kind,
}

enum Kind {
    Sqlite(SqliteDatabase),
    Postgres { replay_stop: CancellationToken, _listening: DropGuard },
}

impl Storage {
    /// Opens what the settings name.
    pub(crate) async fn open(settings: &Settings, folder: &DataFolder, commits: &Commits) -> Result<Self, ProcessError> {
        let storage = match &settings.embedded.database_url {
            None => sqlite(folder).await?,
            Some(url) => postgres(settings, url, folder, commits).await?,
        };
        if matches!(storage.log.identity().await, Err(LogError::Fatal(_))) {
            let made = storage.log.create_topics(settings.embedded.partitions).await;
            made.map_err(|e| ProcessError::Failed(format!("cannot make the topics: {e}; `memori doctor` looks closer")))?;
        }
        Ok(storage)
    }

    /// How the front door stands on it. Another process may share a Postgres database, and the server may be away: there the door
    /// is as on a platform, with a spool behind it.
    pub(crate) fn door(
        &self,
        settings: &Settings,
        folder: &DataFolder,
        config: IngestConfig,
    ) -> (IngestConfig, Option<SpoolConfig>) {
        match &self.kind {
            Kind::Sqlite(_) => (IngestConfig { log_timeout: None, lookup: Lookup::Exact, ..config }, None),
            Kind::Postgres { replay_stop, .. } => {
                let ingest = &settings.ingest;
                let spool = SpoolConfig {
                    folder: ingest.spool_dir.clone().unwrap_or_else(|| folder.spool()),
                    max_bytes: ingest.spool_max_bytes,
                    shutdown: replay_stop.clone(),
                };
                let lookup = Lookup::BestEffort(Duration::from_millis(ingest.lookup_timeout_ms));
                let log_timeout = Some(Duration::from_millis(ingest.log_timeout_ms));
                let start_deadline = Duration::from_millis(settings.start.deadline_ms);
                (IngestConfig { log_timeout, lookup, start_deadline, ..config }, Some(spool))
            }
        }
    }

    /// After everything that uses it has ended.
    pub(crate) async fn close(self) {
        match self.kind {
            Kind::Sqlite(database) => database.close().await,
            Kind::Postgres { replay_stop, .. } => {
                replay_stop.cancel();
                self.log.producer().flush(FLUSH_DEADLINE).await;
            }
        }
    }
}

async fn sqlite(folder: &DataFolder) -> Result<Storage, ProcessError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        ProcessError::Failed(format!("{what} in {}: {error}; `memori doctor` looks closer", folder.path().display()))
    };
    let database = SqliteDatabase::open(&folder.database()).await.map_err(|e| failed("cannot open the database", &e))?;
    // The folder's lock keeps other processes out, so leases that are recorded there are a dead process's.
    let config = SqlLogConfig { exclusive: true, ..SqlLogConfig::default() };
    let log = SqlLog::open(database.clone(), config).await.map_err(|e| failed("cannot open the log", &e))?;
    let store = SqliteStore::new(database.clone());
    store.migrate().await.map_err(|e| failed("cannot migrate the store", &e))?;
    let reads = Arc::new(SqliteReads::new(database.reads().clone()));
    Ok(Storage {
        log: Arc::new(log),
        packer: PackerConfig { store: Arc::new(store.clone()), reads: reads.clone(), model: None },
        store: Arc::new(store),
        reads,
        kind: Kind::Sqlite(database),
    })
}

async fn postgres(settings: &Settings, url: &Secret, folder: &DataFolder, commits: &Commits) -> Result<Storage, ProcessError> {
    let usage = |e: &dyn std::fmt::Display| ProcessError::Usage(format!("embedded.database_url (--database): {e}"));
    let target = PostgresTarget::parse(url.expose(), NAME).map_err(|e| usage(&e))?;
    let pool = |connections: usize| target.pool(connections).map_err(|e| usage(&e));
    let (sink, recall) = (pool(settings.writer.sink_connections)?, pool(settings.writer.recall_connections)?);
    let deadline = Duration::from_millis(settings.start.deadline_ms);
    // The folder's lock makes its name ours alone, so what an earlier process of this folder held is free; what other processes
    // hold in the same database is theirs.
    let config = SqlLogConfig { instance: Some(folder.instance()?), poll_interval: POSTGRES_POLL, ..SqlLogConfig::default() };
    let opened =
        process::reach("the database", deadline, async || match SqlLog::open_postgres(url.expose(), config.clone()).await {
            Err(error @ LogError::Transient(_)) => Err(error),
            settled => Ok(settled),
        });
    let log = opened.await?.map_err(|e| usage(&e))?;
    let store = PostgresStore::new(sink, url.expose());
    let packer = PackerConfig {
        store: Arc::new(PostgresStore::new(pool(1)?, url.expose())),
        reads: Arc::new(PostgresReads::new(pool(1)?)),
        model: None,
    };
    let migrated = process::reach("the database", deadline, async || match store.migrate().await {
        Err(error @ StoreError::Retry(_)) => Err(error),
        settled => Ok(settled),
    });
    migrated.await?.map_err(|e| usage(&e))?;
    let listening = CancellationToken::new();
    let look_again = Duration::from_millis(settings.writer.look_again_ms);
    tokio::spawn(listen::listen(target.clone(), commits.clone(), look_again, listening.clone()));
    Ok(Storage {
        log: Arc::new(log),
        store: Arc::new(store),
        reads: Arc::new(PostgresReads::new(recall)),
        packer,
        kind: Kind::Postgres { replay_stop: CancellationToken::new(), _listening: listening.drop_guard() },
    })
}
