//! `memori migrate`: brings the store's tables in Postgres to this version. Idempotent, forward only.

use memori_service::{ProcessError, Secret, Settings};
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::Store as _;
use memori_writer::store::postgres::PostgresStore;

use crate::output::say;

pub(crate) async fn run(settings: Settings) -> Result<(), ProcessError> {
    let store = administration(&settings)?;
    let patience = std::time::Duration::from_millis(settings.start.deadline_ms);
    memori_service::process::reach("postgres", patience, || store.migrate()).await?;
    say("the store is at this version");
    Ok(())
}

/// The store as the administrator reaches it.
pub(crate) fn administration(settings: &Settings) -> Result<PostgresStore, ProcessError> {
    let url = settings.postgres.url.as_ref().map(Secret::expose).ok_or_else(|| {
        ProcessError::Usage(
            "postgres.url is missing: set MEMORI__POSTGRES__URL to a role that may create schemas and tables".into(),
        )
    })?;
    let usage = |e: &dyn std::fmt::Display| ProcessError::Usage(e.to_string());
    let pool = PostgresTarget::parse(url, "memori-migrate").map_err(|e| usage(&e))?.pool(1).map_err(|e| usage(&e))?;
    Ok(PostgresStore::new(pool, url))
}
