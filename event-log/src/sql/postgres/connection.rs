//! Connections to Postgres that are given back clean or not at all.
//!
//! Promises: a connection whose work was cut off, at whatever point, is closed and never lent again, which rolls its transaction
//! back; time-outs inside a transaction are the server's own; a server that has vanished without a word is given up after
//! [`OVERDUE`]. Nothing here depends on a session, so a pooler that lends sessions per transaction may stand between.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, PgPool, Postgres};

use crate::seam::LogError;

/// How many connections are tried, at most, that rested while the server was restarted.
const RESTED_CONNECTIONS: u32 = 12;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that has rested this long is asked whether it lives before it is lent.
const RESTED: Duration = Duration::from_secs(1);
/// Far above what the server's own time-outs let anything take.
pub(super) const OVERDUE: Duration = Duration::from_secs(90);

/// Begins a transaction. Whoever is stopped in the middle of one holds rows that others wait for, so the server ends it soon.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = '30s'; \
    SET LOCAL lock_timeout = '10s'; SET LOCAL idle_in_transaction_session_timeout = '5s'; SET LOCAL jit = off; \
    SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'";

/// One connection outside the pools, whose refusal says why.
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, LogError> {
    let options = options.clone().disable_statement_logging();
    match tokio::time::timeout(ACQUIRE_TIMEOUT, options.connect()).await {
        Ok(connected) => connected.map_err(log_error),
        Err(_) => Err(LogError::Transient(format!("the log's database has not answered for {} s", ACQUIRE_TIMEOUT.as_secs()))),
    }
}

/// The pools of one database: work (appends take one connection, each member one now and then, each consumer one while it reads), and
/// one connection that listens.
pub(super) fn pools(options: PgConnectOptions, connections: u32) -> (PgPool, PgPool) {
    let options = options.disable_statement_logging();
    let pool = |connections: u32| {
        PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .acquire_slow_threshold(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > RESTED {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
    };
    let listening = pool(1).idle_timeout(None).max_lifetime(None);
    (pool(connections.max(2)).connect_lazy_with(options.clone()), listening.connect_lazy_with(options))
}

/// What is known of what an error left behind.
pub(super) fn log_error(error: sqlx::Error) -> LogError {
    let message = match &error {
        sqlx::Error::Database(e) => format!("the log's database: {} ({})", e.message(), e.code().unwrap_or_default()),
        error => format!("the log's database: {error}"),
    };
    match &error {
        sqlx::Error::Database(e) => {
            let code = e.code().unwrap_or_default();
            // Connection, resources, rolled back, cancelled or starting or stopping, system; a lock waited for too long; read-only
            // after a failover; a transaction that was idle too long.
            let passing = ["08", "53", "40", "57", "58"].iter().any(|class| code.starts_with(class))
                || ["55P03", "25006", "25P03"].contains(&code.as_ref());
            if passing { LogError::Transient(message) } else { LogError::Fatal(message) }
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => LogError::Transient(message),
        _ => LogError::Fatal(message),
    }
}

/// A connection that goes back to its pool by [`Lent::give_back`] only; dropped in any other way it is closed.
pub(super) struct Lent(Option<PoolConnection<Postgres>>);

impl Lent {
    pub(super) async fn from(pool: &PgPool) -> Result<Self, LogError> {
        Ok(Self(Some(pool.acquire().await.map_err(log_error)?)))
    }

    /// A connection that has just answered; those that do not are closed, of which there are at most as many as the pool holds.
    pub(super) async fn answering(pool: &PgPool) -> Result<Self, LogError> {
        for _ in 0..RESTED_CONNECTIONS {
            let mut lent = Self::from(pool).await?;
            if lent.ping().await.is_ok() {
                return Ok(lent);
            }
        }
        Self::from(pool).await
    }

    /// A connection inside a new transaction.
    pub(super) async fn begin(pool: &PgPool) -> Result<Self, LogError> {
        let mut lent = Self::from(pool).await?;
        sqlx::raw_sql(BEGIN).execute(&mut *lent).await.map_err(log_error)?;
        Ok(lent)
    }

    pub(super) fn give_back(mut self) {
        drop(self.0.take());
    }

    /// Ends a transaction well. An error that the server did not send leaves open whether it did.
    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("COMMIT").execute(&mut *self).await?;
        self.give_back();
        Ok(())
    }

    /// Ends a transaction without a trace; where that fails the connection's end does it.
    pub(super) async fn rollback(mut self) {
        if sqlx::raw_sql("ROLLBACK").execute(&mut *self).await.is_ok() {
            self.give_back();
        }
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect("taken only where it is consumed")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("taken only where it is consumed")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// Waits for work with the server, not for ever. What is cut off closes its connection.
pub(super) async fn in_time<T>(work: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
    tokio::time::timeout(OVERDUE, work).await.unwrap_or_else(|_| Err(overdue()))
}

/// What is said of a server that has vanished.
pub(super) fn overdue() -> LogError {
    LogError::Transient(format!("the log's database has not answered for {} s", OVERDUE.as_secs()))
}
