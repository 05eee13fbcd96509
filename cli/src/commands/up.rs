//! `memori up`: everything in one process, on one folder.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use memori_service::{ProcessError, Settings, Shutdown, process};

use crate::embedded::Embedded;

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Address of the API, health and metrics; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// The folder that holds everything.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
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
    }
}

pub(crate) async fn run(settings: Settings) -> Result<(), ProcessError> {
    let shutdown = Shutdown::new(Duration::from_millis(settings.shutdown.deadline_ms));
    shutdown.on_signals().map_err(|e| ProcessError::Failed(format!("no signal handlers: {e}")))?;
    let system = Embedded::start(settings, shutdown.clone()).await?;
    process::ready_line(Some(system.address()), None);
    system.run().await
}
