//! The systems that may stand behind an engine.

mod embedded;
mod platform;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use memori_embedded::Database;

use crate::config::{Config, Target};
use crate::engine::lock;
use crate::process::PerProcess;
use crate::system::{StartFailure, System};

/// SQLite files that this process inherited open from the one that it was forked from.
static INHERITED: PerProcess<Mutex<HashSet<String>>> = PerProcess::new();

/// This process must not open the database of this configuration.
pub(crate) fn inherited_open(place: String) {
    lock(INHERITED.get_or_make(Mutex::default)).insert(place);
}

/// Starts what the configuration asks for. Waits for this machine's disk, never for a database or a platform.
pub(crate) async fn start(config: &Config) -> Result<Arc<dyn System>, StartFailure> {
    if lock(INHERITED.get_or_make(Mutex::default)).contains(&config.place()) {
        return Err(StartFailure(
            "this process was forked while the file was in use, and could not close it: two processes would lose each other's locks. \
             Fork earlier, or start processes instead of forking them"
                .to_owned(),
        ));
    }
    let database = match &config.target {
        Target::Sqlite(path) => Database::Sqlite(path.clone()),
        Target::Postgres(url) => Database::Postgres(url.clone()),
        Target::Platform { url, api_key } => return platform::start(config, url, api_key.as_ref()).await,
    };
    match embedded::start(config, database).await? {
        embedded::Started::Here(system) => Ok(system),
        // `memori up` has this database to itself, and answers for it.
        embedded::Started::Elsewhere(address) => platform::start(config, &address, None).await,
    }
}
