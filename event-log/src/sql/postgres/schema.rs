//! The schemas in a user's own database: made where they are missing and may be made, else the refusal says what to run.
//!
//! Promises: no right is asked for that is not needed. The right to create schemas is used only for one that is missing; with
//! schemas that are there already, the right to make tables in them is enough.

use sqlx::{Connection as _, PgConnection};

use super::connection::{connect, log_error};
use crate::seam::LogError;

/// The oldest server that is tested.
pub const LEAST_SERVER_VERSION: u32 = 15;
/// Held to a transaction's end by whoever makes schemas or tables.
const MIGRATION_LOCK: i64 = 7_303_014_480_372;

/// Inside a transaction: waits for its turn among all that migrate, refuses servers that are too old, and makes the schemas that
/// are missing.
///
/// # Errors
/// [`LogError::Fatal`] with what to run as the database's owner; [`LogError::Transient`] where the server is away.
pub async fn prepare(transaction: &mut PgConnection, schemas: &[&str]) -> Result<(), LogError> {
    let (version, shown): (i32, String) =
        sqlx::query_as("SELECT current_setting('server_version_num')::int4, current_setting('server_version')")
            .fetch_one(&mut *transaction)
            .await
            .map_err(log_error)?;
    new_enough(version, &shown)?;
    sqlx::raw_sql("SET LOCAL lock_timeout = '30s'").execute(&mut *transaction).await.map_err(log_error)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATION_LOCK).execute(&mut *transaction).await.map_err(log_error)?;
    for schema in schemas {
        make(transaction, schema).await?;
    }
    Ok(())
}

/// `version` as `server_version_num` has it.
fn new_enough(version: i32, shown: &str) -> Result<(), LogError> {
    if u32::try_from(version / 10_000).is_ok_and(|major| major >= LEAST_SERVER_VERSION) {
        return Ok(());
    }
    Err(LogError::Fatal(format!(
        "the server is Postgres {shown}; the least that is supported is {LEAST_SERVER_VERSION}: upgrade it, or use another"
    )))
}

/// Looks whether [`prepare`] would do, without leaving anything behind; answers the server's version as it shows it.
///
/// # Errors
/// As [`prepare`].
pub async fn probe(url: &str, schemas: &[&str]) -> Result<String, LogError> {
    let mut connection = connect(&super::options(url)?).await?;
    let mut transaction = connection.begin().await.map_err(log_error)?;
    prepare(&mut transaction, schemas).await?;
    let version =
        sqlx::query_scalar("SELECT current_setting('server_version')").fetch_one(&mut *transaction).await.map_err(log_error)?;
    transaction.rollback().await.map_err(log_error)?;
    connection.close().await.map_err(log_error)?;
    Ok(version)
}

async fn make(transaction: &mut PgConnection, schema: &str) -> Result<(), LogError> {
    let (there, may_fill, may_make, role, database): (bool, bool, bool, String, String) = sqlx::query_as(
        "SELECT n.oid IS NOT NULL, coalesce(has_schema_privilege(n.oid, 'CREATE') AND has_schema_privilege(n.oid, 'USAGE'), false), \
           has_database_privilege(current_database(), 'CREATE'), quote_ident(current_user), quote_ident(current_database()) \
         FROM (SELECT $1::text AS name) AS wanted LEFT JOIN pg_namespace n ON n.nspname = wanted.name",
    )
    .bind(schema)
    .fetch_one(&mut *transaction)
    .await
    .map_err(log_error)?;
    match (there, may_fill, may_make) {
        (true, true, _) => Ok(()),
        (true, false, _) => Err(LogError::Fatal(format!(
            "the role {role} may not make tables in the schema {schema} of the database {database}: as the schema's owner run \
             `GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}`, or give the schema away with `ALTER SCHEMA {schema} OWNER TO {role}`"
        ))),
        (false, _, true) => sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}")))
            .execute(&mut *transaction)
            .await
            .map(drop)
            .map_err(log_error),
        (false, _, false) => Err(LogError::Fatal(format!(
            "the database {database} has no schema {schema}, and the role {role} may not make it: as the database's owner run \
             `GRANT CREATE ON DATABASE {database} TO {role}`, or make it once with `CREATE SCHEMA {schema} AUTHORIZATION {role}`"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_is_refused_by_its_name() {
        for version in [150_000, 150_018, 180_004] {
            new_enough(version, "x").unwrap();
        }
        for (version, shown) in [(149_999, "14.99"), (90_624, "9.6.24"), (-1, "?")] {
            let refusal = new_enough(version, shown).unwrap_err().to_string();
            assert!(refusal.contains(shown) && refusal.contains("15"), "{refusal}");
        }
    }
}
