//! `memori migrate`: brings the store's tables in Postgres to this version. Idempotent, forward only.

use std::time::Duration;

use memori_service::{ProcessError, Settings, process};
use memori_writer::store::Store as _;

use crate::output::say;
use crate::platform;

pub(crate) async fn run(settings: Settings) -> Result<(), ProcessError> {
    let store = platform::postgres(&settings)?;
    process::reach("postgres", Duration::from_millis(settings.start.deadline_ms), || store.migrate()).await?;
    say("the store is at this version");
    Ok(())
}
