//! One SQLite file, opened once per process: the SQL log and the SQLite store share this handle.
//!
//! Promises: what a committed transaction wrote survives the loss of power (WAL, `synchronous=FULL`); writers queue fairly for
//! the one writing connection, readers never wait for them. It knows nothing of the tables inside.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection as _};
use tokio::sync::watch;

/// How long a statement waits for another process's write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a caller queues for a connection of its own process.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(120);
const READ_CONNECTIONS: u32 = 8;

/// An open database file. Clones share it.
#[derive(Clone, Debug)]
pub struct SqliteDatabase {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    reads: SqlitePool,
    writes: SqlitePool,
    appended: watch::Sender<u64>,
    groups_changed: watch::Sender<u64>,
}

impl SqliteDatabase {
    /// Opens the file, making it where it is missing.
    ///
    /// # Errors
    /// The file cannot be opened, or is not a database.
    pub async fn open(path: &Path) -> Result<Self, sqlx::Error> {
        let base = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY_TIMEOUT)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(false)
            .statement_cache_capacity(256)
            .disable_statement_logging();
        let pool = |connections: u32| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .acquire_slow_threshold(ACQUIRE_TIMEOUT)
                .test_before_acquire(false)
                .idle_timeout(None)
                .max_lifetime(None)
        };
        let writes = pool(1)
            .min_connections(1)
            // SQLite ends a transaction by itself when the disk is full or fails; sqlx's ROLLBACK then fails, and the connection
            // believes for ever that it is inside. Such a one is closed, and the next caller opens another.
            .after_release(|connection, _| {
                Box::pin(async move {
                    if connection.is_in_transaction() {
                        // After the rollback of a transaction that was dropped.
                        connection.ping().await?;
                    }
                    Ok(!connection.is_in_transaction())
                })
            })
            .connect_with(base.clone().create_if_missing(true).journal_mode(SqliteJournalMode::Wal))
            .await?;
        let reads = pool(READ_CONNECTIONS).connect_with(base.pragma("query_only", "ON")).await?;
        let shared = Shared {
            path: path.to_owned(),
            reads,
            writes,
            appended: watch::Sender::new(0),
            groups_changed: watch::Sender::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Several connections that cannot write.
    #[must_use]
    pub fn reads(&self) -> &SqlitePool {
        &self.shared.reads
    }

    /// Exactly one connection: a fair mutex over this process's writers. Begin with `BEGIN IMMEDIATE`, so that a transaction
    /// that has read never fails for want of the write lock; never drop one half way.
    #[must_use]
    pub fn writes(&self) -> &SqlitePool {
        &self.shared.writes
    }

    /// Closes every connection; the WAL is folded into the file by the last one. Later use of any clone fails.
    pub async fn close(&self) {
        self.shared.reads.close().await;
        self.shared.writes.close().await;
    }

    /// Bumped after every append of this process.
    pub(crate) fn appended(&self) -> &watch::Sender<u64> {
        &self.shared.appended
    }

    /// Bumped after every change of a group's members or leases by this process.
    pub(crate) fn groups_changed(&self) -> &watch::Sender<u64> {
        &self.shared.groups_changed
    }
}
