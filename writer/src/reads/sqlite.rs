//! Reads of the SQLite store.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use sqlx::sqlite::{SqliteArguments, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Column, Row as _, Sqlite, SqliteConnection, TypeInfo, ValueRef};

use super::ReadError;
use super::db::{Database, Dialect, Param, Row, Statement, Statements, Value};
use super::sql::SqlReads;

/// The reads over SQLite.
pub type SqliteReads = SqlReads<SqliteDb>;

/// The reading side of one file.
#[derive(Clone, Debug)]
pub struct SqliteDb {
    pool: SqlitePool,
    statements: Arc<Statements>,
}

impl SqliteReads {
    /// Over the reading connections of a database file.
    #[must_use]
    pub fn new(pool: SqlitePool) -> Self {
        Self::over(SqliteDb { pool, statements: Arc::new(Statements::new(Dialect::Sqlite)) })
    }
}

#[async_trait]
impl Database for SqliteDb {
    async fn query(&self, statement: Statement) -> Result<Vec<Row>, ReadError> {
        let sql = self.statements.of(&statement);
        let mut connection = self.pool.acquire().await?;
        rows(&mut connection, &sql, statement.params).await
    }

    async fn snapshot(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, ReadError> {
        let this = self.clone();
        // A task of its own: a caller that goes away does not leave a transaction open on a pooled connection.
        tokio::spawn(async move { this.in_transaction(statements).await }).await.map_err(|_| ReadError::Closed)?
    }
}

impl SqliteDb {
    async fn in_transaction(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, ReadError> {
        let mut connection = self.pool.acquire().await?;
        sqlx::raw_sql("BEGIN DEFERRED").execute(&mut *connection).await?;
        let mut results = Vec::with_capacity(statements.len());
        let mut failed = None;
        for statement in statements {
            let sql = self.statements.of(&statement);
            match rows(&mut connection, &sql, statement.params).await {
                Ok(found) => results.push(found),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await?;
        match failed {
            Some(error) => Err(error),
            None => Ok(results),
        }
    }
}

pub(crate) async fn rows(connection: &mut SqliteConnection, sql: &Arc<str>, params: Vec<Param>) -> Result<Vec<Row>, ReadError> {
    let mut query: sqlx::query::Query<'_, Sqlite, SqliteArguments> = sqlx::query(AssertSqlSafe(sql.to_string()));
    for param in params {
        query = match param {
            Param::Text(text) => query.bind(text),
            Param::Int(n) => query.bind(n),
            Param::OptText(text) => query.bind(text),
            Param::OptInt(n) => query.bind(n),
            Param::Bytes(bytes) => query.bind(bytes),
            Param::Texts(texts) => query.bind(serde_json::Value::from(texts).to_string()),
        };
    }
    let mut stream = query.fetch(connection);
    let mut found = Vec::new();
    while let Some(row) = stream.try_next().await? {
        found.push(values(row)?);
    }
    Ok(found)
}

/// A blob of a row that stays.
struct Blob(Arc<SqliteRow>, usize);

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        self.0.try_get_unchecked(self.1).unwrap_or_default()
    }
}

/// Blobs from this many bytes on are not copied out of their row.
const CHUNK_BYTES: usize = 16 << 10;

fn values(row: SqliteRow) -> Result<Row, ReadError> {
    let mut values = Vec::with_capacity(row.len());
    let mut large = Vec::new();
    for column in row.columns() {
        let place = column.ordinal();
        let raw = row.try_get_raw(place)?;
        let value = if raw.is_null() {
            Value::Null
        } else {
            let info = raw.type_info();
            match info.name() {
                "INTEGER" | "BOOLEAN" => Value::Int(row.try_get_unchecked(place)?),
                "REAL" => Value::Real(row.try_get_unchecked(place)?),
                "BLOB" => {
                    let bytes: &[u8] = row.try_get_unchecked(place)?;
                    if bytes.len() < CHUNK_BYTES {
                        Value::Bytes(bytes.to_vec())
                    } else {
                        large.push(place);
                        Value::Null
                    }
                }
                _ => Value::Text(row.try_get_unchecked(place)?),
            }
        };
        values.push(value);
    }
    if !large.is_empty() {
        let row = Arc::new(row);
        for place in large {
            values[place] = Value::Chunk(Bytes::from_owner(Blob(row.clone(), place)));
        }
    }
    Ok(Row::new(values))
}
