//! Where a process keeps its log and its store: one SQLite file, or the user's own Postgres database.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use memori_event_log::sql::{SqlLog, SqlLogConfig};
use memori_event_log::sqlite::SqliteDatabase;
use memori_event_log::{Log, LogError};
use memori_service::{ProcessError, Secret, Settings, process};
use memori_writer::control::{ControlStore, PostgresControl, SqliteControl};
use memori_writer::generations::GenerationStore;
use memori_writer::notify::Commits;
use memori_writer::packer::PackerConfig;
use memori_writer::postgres::PostgresTarget;
use memori_writer::reads::{PostgresReads, ReadStore, SqliteReads};
use memori_writer::store::postgres::{PostgresStore, listen};
use memori_writer::store::sqlite::SqliteStore;
use memori_writer::store::{Store, StoreError};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::Database;

/// In `pg_stat_activity`.
const NAME: &str = "memori";
/// Where other processes' records are told of, looking is for where that does not come, as behind a pooler.
const POLL: Duration = Duration::from_secs(1);
/// For keys, administration, and counting what is used.
const CONTROL_CONNECTIONS: usize = 2;
/// What the producer may take to settle what it still has.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);

/// Who else may be at the same database.
#[derive(Clone, Debug)]
pub(crate) enum Sharing {
    /// Nobody, by a lock that the caller holds.
    Exclusive,
    /// Others. `instance` is a name that is the caller's alone, by a lock that it holds; `connections` are the log's to Postgres.
    Shared { instance: String, connections: u32 },
}

impl Sharing {
    fn log_config(&self) -> SqlLogConfig {
        match self {
            // Leases that are recorded there are a dead process's.
            Self::Exclusive => SqlLogConfig { exclusive: true, ..SqlLogConfig::default() },
            // What an earlier process of that name held is free; what others hold is theirs.
            Self::Shared { instance, connections } => SqlLogConfig {
                instance: Some(instance.clone()),
                connections: *connections,
                poll_interval: POLL,
                ..SqlLogConfig::default()
            },
        }
    }
}

/// The log and the store, with their tables made.
pub(crate) struct Storage {
    pub(crate) log: Arc<SqlLog>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) reads: Arc<dyn ReadStore>,
    pub(crate) packer: PackerConfig,
    pub(crate) control: Arc<dyn ControlStore>,
    pub(crate) generations: Arc<dyn GenerationStore>,
    sqlite: Option<SqliteDatabase>,
    _listening: DropGuard,
}

impl Storage {
    /// Opens a database, waiting for one that is away for as long as `settings.start` lets.
    pub(crate) async fn open(
        settings: &Settings,
        database: &Database,
        sharing: &Sharing,
        commits: &Commits,
    ) -> Result<Self, ProcessError> {
        let storage = match database {
            Database::Sqlite(file) => sqlite(file, sharing, commits).await?,
            Database::Postgres(url) => postgres(settings, url, sharing, commits).await?,
        };
        if matches!(storage.log.identity().await, Err(LogError::Fatal(_))) {
            let made = storage.log.create_topics(settings.embedded.partitions).await;
            // Another process may have been quicker, with another number: then that is the log's.
            if let Err(e) = made
                && storage.log.identity().await.is_err()
            {
                storage.close().await;
                return Err(ProcessError::Failed(format!("cannot make the topics: {e}; `memori doctor` looks closer")));
            }
        }
        Ok(storage)
    }

    /// After everything that uses it has ended.
    pub(crate) async fn close(self) {
        self.log.producer().flush(FLUSH_DEADLINE).await;
        if let Some(database) = &self.sqlite {
            database.close().await;
        }
    }
}

async fn sqlite(file: &Path, sharing: &Sharing, commits: &Commits) -> Result<Storage, ProcessError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        ProcessError::Failed(format!("{what} in {}: {error}; `memori doctor` looks closer", file.display()))
    };
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|e| failed("cannot make the folder of the database", &e))?;
    }
    let database = SqliteDatabase::open(file).await.map_err(|e| failed("cannot open the database", &e))?;
    let store = SqliteStore::new(database.clone());
    let opened = async {
        let log = SqlLog::open(database.clone(), sharing.log_config()).await.map_err(|e| failed("cannot open the log", &e))?;
        store.migrate().await.map_err(|e| failed("cannot migrate the store", &e))?;
        Ok(log)
    };
    let log = match opened.await {
        Ok(log) => log,
        Err(error) => {
            // Not some time after this, as if it were dropped: the process may be about to fork.
            database.close().await;
            return Err(error);
        }
    };
    let reads = Arc::new(SqliteReads::new(database.reads().clone()));
    let listening = CancellationToken::new();
    if let Sharing::Shared { .. } = sharing {
        let (mut seen, commits) = (database.watch_file(), commits.clone());
        tokio::spawn(listening.clone().run_until_cancelled_owned(async move {
            while seen.changed().await.is_ok() {
                commits.bump();
            }
        }));
    }
    Ok(Storage {
        log: Arc::new(log),
        control: Arc::new(SqliteControl::new(database.clone())),
        generations: Arc::new(SqliteControl::new(database.clone())),
        packer: PackerConfig { store: Arc::new(store.clone()), reads: reads.clone(), model: None },
        store: Arc::new(store),
        reads,
        sqlite: Some(database),
        _listening: listening.drop_guard(),
    })
}

async fn postgres(settings: &Settings, url: &Secret, sharing: &Sharing, commits: &Commits) -> Result<Storage, ProcessError> {
    let usage = |e: &dyn std::fmt::Display| ProcessError::Usage(format!("embedded.database_url (--database): {e}"));
    let target = PostgresTarget::parse(url.expose(), NAME).map_err(|e| usage(&e))?;
    let pool = |connections: usize| target.pool(connections).map_err(|e| usage(&e));
    let (sink, recall) = (pool(settings.writer.sink_connections)?, pool(settings.writer.recall_connections)?);
    let deadline = Duration::from_millis(settings.start.deadline_ms);
    let opened = process::reach("the database", deadline, async || {
        match SqlLog::open_postgres(url.expose(), sharing.log_config()).await {
            Err(error @ LogError::Transient(_)) => Err(error),
            settled => Ok(settled),
        }
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
    let control_pool = pool(CONTROL_CONNECTIONS)?;
    let control: Arc<dyn ControlStore> = Arc::new(PostgresControl::new(control_pool.clone()));
    let generations: Arc<dyn GenerationStore> = Arc::new(PostgresControl::new(control_pool));
    let listening = CancellationToken::new();
    let look_again = Duration::from_millis(settings.writer.look_again_ms);
    tokio::spawn(listen::listen(target.clone(), commits.clone(), look_again, listening.clone()));
    Ok(Storage {
        log: Arc::new(log),
        control,
        generations,
        store: Arc::new(store),
        reads: Arc::new(PostgresReads::new(recall)),
        packer,
        sqlite: None,
        _listening: listening.drop_guard(),
    })
}
