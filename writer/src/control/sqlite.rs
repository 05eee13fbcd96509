//! The control store in a SQLite file.

use std::sync::Arc;

use async_trait::async_trait;
use memori_event_log::sqlite::SqliteDatabase;

use super::sql::{Changing, SqlControl};
use crate::reads::ReadError;
use crate::reads::db::{Database, Dialect, Row, Statement, Statements};
use crate::reads::sqlite::rows;

/// The control store in SQLite.
pub type SqliteControl = SqlControl<SqliteDb>;

/// An open file.
#[derive(Clone, Debug)]
pub struct SqliteDb {
    database: SqliteDatabase,
    statements: Arc<Statements>,
}

impl SqliteControl {
    /// In an open database.
    #[must_use]
    pub fn new(database: SqliteDatabase) -> Self {
        Self(SqliteDb { database, statements: Arc::new(Statements::new(Dialect::Sqlite)) })
    }
}

impl SqliteDb {
    /// Reads, and keeps nobody from writing.
    async fn at_one_instant(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, ReadError> {
        let mut transaction = self.database.reads().begin_with("BEGIN DEFERRED").await?;
        let mut results = Vec::with_capacity(statements.len());
        for statement in statements {
            let sql = self.statements.of(&statement);
            match rows(&mut transaction, &sql, statement.params).await {
                Ok(found) => results.push(found),
                Err(error) => {
                    transaction.rollback().await?;
                    return Err(error);
                }
            }
        }
        transaction.rollback().await?;
        Ok(results)
    }

    async fn in_transaction(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, ReadError> {
        let mut transaction = self.database.writes().begin_with("BEGIN IMMEDIATE").await?;
        let mut results = Vec::with_capacity(statements.len());
        for statement in statements {
            let sql = self.statements.of(&statement);
            match rows(&mut transaction, &sql, statement.params).await {
                Ok(found) => results.push(found),
                Err(error) => {
                    transaction.rollback().await?;
                    return Err(error);
                }
            }
        }
        transaction.commit().await?;
        Ok(results)
    }
}

#[async_trait]
impl Database for SqliteDb {
    async fn query(&self, statement: Statement) -> Result<Vec<Row>, ReadError> {
        let sql = self.statements.of(&statement);
        let mut connection = self.database.reads().acquire().await?;
        rows(&mut connection, &sql, statement.params).await
    }

    async fn snapshot(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, ReadError> {
        let this = self.clone();
        // As a change.
        tokio::spawn(async move { this.at_one_instant(statements).await }).await.map_err(|_| ReadError::Closed)?
    }
}

#[async_trait]
impl Changing for SqliteDb {
    async fn change(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, ReadError> {
        let this = self.clone();
        // A task of its own: a transaction is never dropped half way.
        tokio::spawn(async move { this.in_transaction(statements).await }).await.map_err(|_| ReadError::Closed)?
    }
}
