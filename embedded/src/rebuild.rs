//! The view of an embedded system made again from its log, while nothing else uses it.

use memori_event_log::Log as _;
use memori_service::{ProcessError, Settings};
use memori_writer::notify::Commits;
use memori_writer::rebuild::{Extent, Progress, extent, rebuild};
use memori_writer::run::SinkConfig;
use tokio_util::sync::CancellationToken;

use crate::config::Database;
use crate::folder::{self, DataFolder};
use crate::server::LOG_CONNECTIONS;
use crate::storage::{Sharing, Storage};

/// A data folder that is held for a rebuild.
pub struct Rebuild {
    settings: Settings,
    storage: Storage,
    _folder: DataFolder,
}

impl std::fmt::Debug for Rebuild {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rebuild").finish_non_exhaustive()
    }
}

impl Rebuild {
    /// Opens the folder that the settings name, which must be there and be nobody else's.
    ///
    /// # Errors
    /// It is in use, it is not there, or its database cannot be opened.
    pub async fn open(settings: Settings) -> Result<Self, ProcessError> {
        let path = settings.embedded.data_dir.clone().unwrap_or_else(folder::default_path);
        if !path.is_dir() {
            return Err(ProcessError::Usage(format!(
                "there is no data folder {}: name it with --data-dir, or a platform with --platform",
                path.display()
            )));
        }
        let folder = DataFolder::hold(&path)?;
        let (database, sharing) = match &settings.embedded.database_url {
            None => (Database::Sqlite(folder.database()), Sharing::Exclusive),
            Some(url) => {
                let sharing = Sharing::Shared { instance: folder.instance()?, connections: LOG_CONNECTIONS };
                (Database::Postgres(url.clone()), sharing)
            }
        };
        let storage = Storage::open(&settings, &database, &sharing, &Commits::new()).await?;
        Ok(Self { settings, storage, _folder: folder })
    }

    /// What it would read.
    ///
    /// # Errors
    /// The log cannot tell, or does not reach back far enough.
    pub async fn extent(&self) -> Result<Extent, ProcessError> {
        let failed = |e: &dyn std::fmt::Display| ProcessError::Failed(e.to_string());
        let identity = self.storage.log.identity().await.map_err(|e| failed(&e))?;
        extent(&*self.storage.log, &identity).await.map_err(|e| failed(&e))
    }

    /// Makes the view anew; then closes the database.
    ///
    /// # Errors
    /// As [`memori_writer::rebuild::rebuild`].
    pub async fn run(self, told: impl FnMut(Progress), stop: CancellationToken) -> Result<Progress, ProcessError> {
        let config = SinkConfig::from_settings(&self.settings.writer, &self.settings.shutdown);
        let done = rebuild(self.storage.log.clone(), self.storage.store.clone(), config, told, stop).await;
        self.storage.close().await;
        done.map_err(|e| ProcessError::Failed(e.to_string()))
    }

    /// Closes the database without having touched anything.
    pub async fn close(self) {
        self.storage.close().await;
    }
}
