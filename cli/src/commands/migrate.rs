//! `memori migrate`: brings the store's tables in Postgres to this version. Idempotent, forward only.

use std::time::Duration;

use memori_service::{ProcessError, Settings, process};
use memori_writer::store::Store as _;

use crate::output::say;
use crate::platform;

pub(crate) async fn run(settings: Settings) -> Result<(), ProcessError> {
    let store = platform::postgres(&settings)?;
    process::reach("postgres", Duration::from_millis(settings.start.deadline_ms), || store.migrate()).await?;
    if let Some(role) = platform::recall_role(&settings)? {
        store.let_read(&role).await.map_err(|e| {
            ProcessError::Failed(format!(
                "the role {role} of postgres.recall_url cannot be let in: {e}; make it with `CREATE ROLE {role} LOGIN`, and migrate again"
            ))
        })?;
        say(format!("the role {role} may read, one tenant at a time"));
    }
    say("the store is at this version");
    Ok(())
}
