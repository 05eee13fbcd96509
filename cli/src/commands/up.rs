//! `memori up`: everything in one process, on one folder or one Postgres database.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use memori_service::{ProcessError, Secret, Settings, Shutdown, process};

use memori_embedded::Embedded;

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Address of the API, health and metrics; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// The folder that holds everything.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Keep log and store in this Postgres database instead of the folder. MEMORI__EMBEDDED__DATABASE_URL says the same without
    /// showing a password in the list of processes.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
}

impl Flags {
    /// Flags go over all other layers.
    pub(crate) fn apply(&self, settings: &mut Settings) {
        if let Some(listen) = self.listen {
            settings.ingest.listen = listen;
        }
        if let Some(dir) = &self.data_dir {
            settings.embedded.data_dir = Some(dir.clone());
        }
        if let Some(url) = &self.database {
            settings.embedded.database_url = Some(Secret::new(url.clone()));
        }
    }
}

pub(crate) async fn run(settings: Settings) -> Result<(), ProcessError> {
    let shutdown = Shutdown::new(Duration::from_millis(settings.shutdown.deadline_ms));
    shutdown.on_signals().map_err(|e| ProcessError::Failed(format!("no signal handlers: {e}")))?;
    let Some(system) = Embedded::start(settings, shutdown.clone()).await? else { return Ok(()) };
    process::ready_line(Some(system.address()), None);
    system.run().await
}
