//! Reads of the Postgres store: a pool of its own, statements prepared once per connection, and what must agree sent in one go.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use deadpool_postgres::{Client, Pool};
use futures::TryStreamExt;
use futures::future::join_all;
use postgres_types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::types::Kind;

use super::ReadError;
use super::db::{Database, Dialect, Param, Row, Statement, Statements, Value};
use super::sql::SqlReads;

/// The reads over Postgres.
pub type PostgresReads = SqlReads<PostgresDb>;

/// The reading side of one cluster.
#[derive(Clone)]
pub struct PostgresDb {
    pool: Pool,
    /// Where `pool` is of a role that row level security holds to one tenant at a time: connections of whoever administers.
    across_tenants: Option<Pool>,
    statements: Arc<Statements>,
}

impl PostgresReads {
    /// Over a pool whose connections nobody else uses.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self::over(PostgresDb { pool, across_tenants: None, statements: Arc::new(Statements::new(Dialect::Postgres)) })
    }

    /// Over a pool of a role that sees one tenant's rows at a time: each statement says whose. What operators ask across tenants goes
    /// over the other pool.
    #[must_use]
    pub fn behind_walls(pool: Pool, across_tenants: Pool) -> Self {
        let statements = Arc::new(Statements::new(Dialect::Postgres));
        Self::over(PostgresDb { pool, across_tenants: Some(across_tenants), statements })
    }

    /// Whether row level security holds the role of these connections.
    ///
    /// # Errors
    /// It cannot be asked.
    pub async fn is_walled(&self) -> Result<bool, ReadError> {
        let client = self.database().pool.get().await?;
        Ok(client.query_one("SELECT row_security_active('memori.facts')", &[]).await?.get(0))
    }
}

/// Names the tenant whose rows the connection sees, until the next one is named. Nobody else uses it in between.
const NAME_TENANT: &str = "SELECT set_config('memori.tenant', $1, false)";

/// Whatever the planner believes of a table that was empty yesterday: an entity is found by its key, and what is joined are two
/// sets of its rows, never each row with a set.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
    SET LOCAL jit = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_nestloop = off";

#[async_trait]
impl Database for PostgresDb {
    async fn query(&self, statement: Statement) -> Result<Vec<Row>, ReadError> {
        let sql = self.statements.of(&statement);
        let (client, tenant) = self.client(statement.tenant()).await?;
        let prepared = client.prepare_cached(&sql).await?;
        let params: Vec<&(dyn ToSql + Sync)> = statement.params.iter().map(|param| param as _).collect();
        // Polled in order, so sent in order, in one round trip.
        let (named, rows) = futures::join!(name_tenant(&client, &tenant), client.query(&prepared, &params));
        named?;
        rows?.into_iter().map(values).collect()
    }

    async fn each(
        &self,
        statement: Statement,
        take: &mut (dyn FnMut(Row) -> Result<(), ReadError> + Send),
    ) -> Result<(), ReadError> {
        let sql = self.statements.of(&statement);
        let (client, tenant) = self.client(statement.tenant()).await?;
        let prepared = client.prepare_cached(&sql).await?;
        // Polled in order, so sent in order, in one round trip.
        let (named, rows) = futures::join!(name_tenant(&client, &tenant), client.query_raw(&prepared, &statement.params));
        named?;
        let mut rows = std::pin::pin!(rows?);
        while let Some(row) = rows.try_next().await? {
            take(values(row)?)?;
        }
        Ok(())
    }

    async fn snapshot(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, ReadError> {
        let this = self.clone();
        // A task of its own: a caller that goes away does not leave a transaction open on a pooled connection.
        tokio::spawn(async move { this.in_transaction(statements).await }).await.map_err(|_| ReadError::Closed)?
    }
}

/// Whom to name, where the connection is held to one tenant.
type Named<'a> = Option<(tokio_postgres::Statement, &'a str)>;

async fn name_tenant(client: &Client, named: &Named<'_>) -> Result<(), tokio_postgres::Error> {
    match named {
        Some((statement, tenant)) => client.execute(statement, &[tenant]).await.map(drop),
        None => Ok(()),
    }
}

impl PostgresDb {
    /// A connection that may see a tenant's rows, or those of all.
    async fn client<'a>(&self, tenant: Option<&'a str>) -> Result<(Client, Named<'a>), ReadError> {
        match (&self.across_tenants, tenant) {
            (Some(pool), None) => Ok((pool.get().await?, None)),
            (None, _) => Ok((self.pool.get().await?, None)),
            (Some(_), Some(tenant)) => {
                let client = self.pool.get().await?;
                let statement = client.prepare_cached(NAME_TENANT).await?;
                Ok((client, Some((statement, tenant))))
            }
        }
    }

    async fn in_transaction(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, ReadError> {
        // Statements of one snapshot are about one tenant, or each about whatever tenant.
        let (client, tenant) = self.client(statements.first().and_then(Statement::tenant)).await?;
        let mut prepared = Vec::with_capacity(statements.len());
        for statement in &statements {
            prepared.push(client.prepare_cached(&self.statements.of(statement)).await?);
        }
        let params: Vec<Vec<&(dyn ToSql + Sync)>> =
            statements.iter().map(|statement| statement.params.iter().map(|param| param as _).collect()).collect();
        // Polled in order, so sent in order, in one round trip. The last is sent whatever comes of those before it.
        let begin = client.batch_execute(BEGIN);
        let queries = join_all(prepared.iter().zip(&params).map(|(statement, params)| client.query(statement, params)));
        let commit = client.batch_execute("COMMIT");
        let (named, began, results, committed) = futures::join!(name_tenant(&client, &tenant), begin, queries, commit);
        named?;
        began?;
        let results: Vec<Vec<tokio_postgres::Row>> = results.into_iter().collect::<Result<_, _>>()?;
        committed?;
        results.into_iter().map(|rows| rows.into_iter().map(values).collect()).collect()
    }
}

impl ToSql for Param {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Text(text) => text.to_sql(ty, out),
            Self::Texts(texts) => texts.to_sql(ty, out),
            // A UUID travels as its 16 bytes, like any others.
            Self::Bytes(bytes) => bytes.to_sql(&Type::BYTEA, out),
            Self::OptText(text) => text.to_sql(ty, out),
            Self::OptInt(None) => Ok(IsNull::Yes),
            Self::Int(n) | Self::OptInt(Some(n)) => match *ty {
                Type::INT2 => i16::try_from(*n)?.to_sql(ty, out),
                Type::INT4 => i32::try_from(*n)?.to_sql(ty, out),
                _ => n.to_sql(&Type::INT8, out),
            },
        }
    }

    fn accepts(ty: &Type) -> bool {
        let one = |ty: &Type| {
            matches!(*ty, Type::TEXT | Type::VARCHAR | Type::BYTEA | Type::UUID | Type::INT2 | Type::INT4 | Type::INT8)
        };
        one(ty) || matches!(ty.kind(), Kind::Array(member) if one(member))
    }

    to_sql_checked!();
}

/// A column of any type that our tables use.
struct Plain(Value);

impl<'a> FromSql<'a> for Plain {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let value = match *ty {
            Type::BOOL => Value::Int(bool::from_sql(ty, raw)?.into()),
            Type::INT2 => Value::Int(i16::from_sql(ty, raw)?.into()),
            Type::INT4 => Value::Int(i32::from_sql(ty, raw)?.into()),
            Type::INT8 => Value::Int(i64::from_sql(ty, raw)?),
            Type::FLOAT4 => Value::Real(f32::from_sql(ty, raw)?.into()),
            Type::FLOAT8 => Value::Real(f64::from_sql(ty, raw)?),
            Type::BYTEA | Type::UUID => Value::Bytes(raw.to_vec()),
            _ => Value::Text(String::from_sql(&Type::TEXT, raw)?),
        };
        Ok(Self(value))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(Value::Null))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(
            *ty,
            Type::BOOL
                | Type::INT2
                | Type::INT4
                | Type::INT8
                | Type::FLOAT4
                | Type::FLOAT8
                | Type::BYTEA
                | Type::UUID
                | Type::TEXT
                | Type::VARCHAR
        )
    }
}

/// Bytes as they were received.
struct Received<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Received<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::BYTEA
    }
}

/// A column of a row that stays.
struct Column(Arc<tokio_postgres::Row>, usize);

impl AsRef<[u8]> for Column {
    fn as_ref(&self) -> &[u8] {
        self.0.try_get::<_, Received<'_>>(self.1).map_or(&[], |received| received.0)
    }
}

/// Bytes from this many on are not copied out of what was received.
const CHUNK_BYTES: usize = 16 << 10;

pub(crate) fn values(row: tokio_postgres::Row) -> Result<Row, ReadError> {
    let large = |row: &tokio_postgres::Row, i: usize| {
        *row.columns()[i].type_() == Type::BYTEA
            && row.try_get::<_, Option<Received<'_>>>(i).ok().flatten().is_some_and(|bytes| bytes.0.len() >= CHUNK_BYTES)
    };
    if !(0..row.len()).any(|i| large(&row, i)) {
        let values = (0..row.len()).map(|i| row.try_get::<_, Plain>(i).map(|plain| plain.0)).collect::<Result<_, _>>()?;
        return Ok(Row::new(values));
    }
    let row = Arc::new(row);
    let value = |i| match large(&row, i) {
        true => Ok(Value::Chunk(Bytes::from_owner(Column(row.clone(), i)))),
        false => row.try_get::<_, Plain>(i).map(|plain| plain.0),
    };
    Ok(Row::new((0..row.len()).map(value).collect::<Result<_, _>>()?))
}
