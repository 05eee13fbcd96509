//! The control store in Postgres, on connections of whoever administers.

use std::sync::Arc;

use async_trait::async_trait;
use deadpool_postgres::Pool;
use tokio_postgres::types::ToSql;

use super::sql::{Changing, SqlControl};
use crate::reads::ReadError;
use crate::reads::db::{Database, Dialect, Row, Statement, Statements};
use crate::reads::postgres::values;

/// The control store in Postgres.
pub type PostgresControl = SqlControl<PostgresDb>;

/// Connections that may change what is in the schema `memori_control`, and count what is in `memori`.
#[derive(Clone)]
pub struct PostgresDb {
    pool: Pool,
    statements: Arc<Statements>,
}

impl PostgresControl {
    /// Over a pool of the role that administers.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self(PostgresDb { pool, statements: Arc::new(Statements::new(Dialect::Postgres)) })
    }
}

/// The server's own bounds: nothing here is cut off from this side. A plan that was made while a table was small must not stay a scan.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = '60s'; SET LOCAL lock_timeout = '10s'; \
    SET LOCAL idle_in_transaction_session_timeout = '30s'; SET LOCAL jit = off; SET LOCAL enable_seqscan = off";

/// What is read at one instant.
const BEGIN_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '60s'; \
    SET LOCAL idle_in_transaction_session_timeout = '30s'; SET LOCAL jit = off; SET LOCAL enable_seqscan = off";

impl PostgresDb {
    async fn in_transaction(&self, begin: &'static str, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, ReadError> {
        let client = self.pool.get().await?;
        let mut prepared = Vec::with_capacity(statements.len());
        for statement in &statements {
            prepared.push(client.prepare_cached(&self.statements.of(statement)).await?);
        }
        client.batch_execute(begin).await?;
        let mut results = Vec::with_capacity(statements.len());
        for (statement, prepared) in statements.iter().zip(&prepared) {
            let params: Vec<&(dyn ToSql + Sync)> = statement.params.iter().map(|param| param as _).collect();
            match client.query(prepared, &params).await {
                Ok(rows) => results.push(rows),
                Err(error) => {
                    client.batch_execute("ROLLBACK").await?;
                    return Err(error.into());
                }
            }
        }
        client.batch_execute("COMMIT").await?;
        results.into_iter().map(|rows: Vec<tokio_postgres::Row>| rows.into_iter().map(values).collect()).collect()
    }
}

#[async_trait]
impl Database for PostgresDb {
    async fn query(&self, statement: Statement) -> Result<Vec<Row>, ReadError> {
        let sql = self.statements.of(&statement);
        let client = self.pool.get().await?;
        let prepared = client.prepare_cached(&sql).await?;
        let params: Vec<&(dyn ToSql + Sync)> = statement.params.iter().map(|param| param as _).collect();
        client.query(&prepared, &params).await?.into_iter().map(values).collect()
    }

    async fn snapshot(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, ReadError> {
        let this = self.clone();
        // As a change.
        tokio::spawn(async move { this.in_transaction(BEGIN_SNAPSHOT, statements).await }).await.map_err(|_| ReadError::Closed)?
    }
}

#[async_trait]
impl Changing for PostgresDb {
    async fn change(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, ReadError> {
        let this = self.clone();
        // A task of its own: a caller that goes away leaves no transaction open on a pooled connection.
        tokio::spawn(async move { this.in_transaction(BEGIN, statements).await }).await.map_err(|_| ReadError::Closed)?
    }
}
