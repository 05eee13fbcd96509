//! What a library is started with.

use std::path::PathBuf;
use std::sync::Arc;

use memori_embedding::Embedder;
use memori_service::{Secret, Settings};

/// Where log and store are.
#[derive(Clone, Debug)]
pub enum Database {
    /// Tables of this SQLite file, which no other SQLite library of this process may open.
    Sqlite(PathBuf),
    /// The schema `memori` of this database, `postgres://…`.
    Postgres(Secret),
}

/// How a library is started.
#[derive(Clone)]
pub struct LibraryConfig {
    /// Where log and store are. Processes that name the same share them, and the work.
    pub database: Database,
    /// The folder of what is this machine's own: the spools, one per process, and the folder's name among those that share a database.
    pub data_dir: PathBuf,
    /// Extractor, embedding, bounds and times. Addresses, keys, logging and the section `embedded`, but for the number of
    /// partitions, mean nothing here.
    pub settings: Settings,
    /// Makes the vectors, instead of what `settings.embedding` names; it may say that it cannot yet.
    pub embedder: Option<Arc<dyn Embedder>>,
    /// Whether this process counts metrics. A recorder that the host has installed stays, and gets them.
    pub metrics: bool,
}

impl LibraryConfig {
    /// With bounds for a guest in somebody's process: few connections, small caches, a short drain.
    #[must_use]
    pub fn new(database: Database, data_dir: PathBuf) -> Self {
        let mut settings = Settings::default();
        settings.ingest.recent_events = 20_000;
        settings.ingest.max_body_bytes_in_flight = 64 << 20;
        settings.ingest.spool_max_bytes = 256 << 20;
        settings.writer.recall_cache_bytes = 64 << 20;
        settings.writer.recall_connections = 4;
        settings.writer.sink_connections = 2;
        settings.shutdown.deadline_ms = 5_000;
        Self { database, data_dir, settings, embedder: None, metrics: false }
    }
}

impl std::fmt::Debug for LibraryConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { database, data_dir, settings, embedder, metrics } = self;
        f.debug_struct("LibraryConfig")
            .field("database", database)
            .field("data_dir", data_dir)
            .field("settings", settings)
            .field("embedder", &embedder.as_ref().map(|embedder| embedder.model()))
            .field("metrics", metrics)
            .finish()
    }
}
