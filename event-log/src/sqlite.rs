//! One SQLite file, opened once per process: the SQL log and the SQLite store share this handle.
//!
//! Promises: what a committed transaction wrote survives the loss of power (WAL, `synchronous=FULL`); writers queue fairly for
//! the one writing connection, readers never wait for them. It knows nothing of the tables inside.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a statement waits for another process's write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a caller queues for a connection of its own process.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(120);
const READ_CONNECTIONS: u32 = 8;
/// How often the file is looked at for other processes' commits: while there are some, and while there are none.
const LOOK_BUSY: Duration = Duration::from_millis(10);
const LOOK_IDLE: Duration = Duration::from_millis(50);
/// How long after a commit it counts as busy.
const BUSY: Duration = Duration::from_secs(1);
/// Between two tries to look at a file that cannot be looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// An open database file. Clones share it.
#[derive(Clone, Debug)]
pub struct SqliteDatabase {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    options: SqliteConnectOptions,
    reads: SqlitePool,
    writes: SqlitePool,
    appended: watch::Sender<u64>,
    groups_changed: watch::Sender<u64>,
    closing: CancellationToken,
    looking: Mutex<Option<JoinHandle<()>>>,
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
        let options = base.pragma("query_only", "ON");
        let reads = pool(READ_CONNECTIONS).connect_with(options.clone()).await?;
        let shared = Shared {
            path: path.to_owned(),
            options,
            reads,
            writes,
            appended: watch::Sender::new(0),
            groups_changed: watch::Sender::new(0),
            closing: CancellationToken::new(),
            looking: Mutex::default(),
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

    /// Looks at the file, until the database is closed, for commits of whatever process: after one, whoever waits here for records is
    /// woken, and the receiver changes. A look reads one number of the file's shared memory. To be called once.
    #[must_use]
    pub fn watch_file(&self) -> watch::Receiver<u64> {
        let (seen, receiver) = watch::channel(0);
        let looking = tokio::spawn(look(Arc::downgrade(&self.shared), self.shared.closing.clone(), seen));
        *self.looking() = Some(looking);
        receiver
    }

    fn looking(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.shared.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes every connection; the WAL is folded into the file by the last one. Later use of any clone fails.
    pub async fn close(&self) {
        self.shared.closing.cancel();
        let looking = self.looking().take();
        if let Some(looking) = looking {
            let _ = looking.await;
        }
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

/// Runs until the database is closed or gone.
async fn look(database: Weak<Shared>, closing: CancellationToken, seen: watch::Sender<u64>) {
    let mut connection: Option<SqliteConnection> = None;
    let mut version: Option<i64> = None;
    let mut busy_until = Instant::now();
    loop {
        let Some(shared) = database.upgrade().filter(|_| !closing.is_cancelled()) else { break };
        let pause = match looked(&mut connection, &shared.options).await {
            Ok(found) => {
                // A connection that is new knows nothing of what came before it.
                if version.replace(found) != Some(found) {
                    shared.appended.send_modify(|n| *n += 1);
                    seen.send_modify(|n| *n += 1);
                    busy_until = Instant::now() + BUSY;
                }
                if Instant::now() < busy_until { LOOK_BUSY } else { LOOK_IDLE }
            }
            Err(error) => {
                tracing::debug!(%error, "the database's file cannot be looked at");
                (connection, version) = (None, None);
                LOOK_AGAIN
            }
        };
        drop(shared);
        tokio::select! {
            () = closing.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    if let Some(connection) = connection {
        let _ = connection.close().await;
    }
}

/// A number that changes with every commit that another connection made.
async fn looked(connection: &mut Option<SqliteConnection>, options: &SqliteConnectOptions) -> Result<i64, sqlx::Error> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(options.connect().await?),
    };
    sqlx::query_scalar("PRAGMA data_version").fetch_one(connection).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_commit_through_another_handle_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memori.db");
        let (one, other) = (SqliteDatabase::open(&path).await.unwrap(), SqliteDatabase::open(&path).await.unwrap());
        let mut seen = one.watch_file();
        seen.changed().await.unwrap();
        seen.mark_unchanged();
        let mut appended = one.appended().subscribe();
        sqlx::query("CREATE TABLE t (a)").execute(other.writes()).await.unwrap();
        let began = Instant::now();
        seen.changed().await.unwrap();
        assert!(appended.has_changed().unwrap(), "consumers are woken");
        appended.mark_unchanged();
        assert!(began.elapsed() < Duration::from_secs(5));
        one.close().await;
        // The looking ends with the database.
        while seen.changed().await.is_ok() {}
    }
}
