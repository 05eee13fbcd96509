//! A program that has opened Memori as a library, for tests: its in-process front door, made reachable at an address.
//!
//! `MEMORI_LIBRARY_DATABASE` is `postgres://…` or a SQLite file, `MEMORI_LIBRARY_DATA_DIR` a folder; the rest of the environment is as
//! everywhere. `/library` answers what the library says of itself, `/library/suspend` and `/library/resume` do so.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State as Shared;
use axum::routing::{get, post};
use memori_embedded::{Database, LibraryConfig, Start, System};
use memori_service::{ProcessError, Secret, Settings, Shutdown, admin, process};

const STOP_WITHIN: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    memori_service::run("memori-library", Settings::load(None), false, serve)
}

async fn serve(given: Settings) -> Result<(), ProcessError> {
    let variable = |name: &str| std::env::var(name).map_err(|_| ProcessError::Usage(format!("{name} is not set")));
    let database = match variable("MEMORI_LIBRARY_DATABASE")? {
        url if url.starts_with("postgres://") => Database::Postgres(Secret::new(url)),
        file => Database::Sqlite(PathBuf::from(file)),
    };
    let mut config = LibraryConfig::new(database, PathBuf::from(variable("MEMORI_LIBRARY_DATA_DIR")?));
    config.settings.embedding = given.embedding;
    config.settings.extractor = given.extractor;
    config.settings.embedded = given.embedded;
    let before = resident_kib();
    let system = match System::start(config).await? {
        Start::System(system) => Arc::new(system),
        Start::Elsewhere { address } => return Err(ProcessError::Usage(format!("a server has it at {address}"))),
    };
    tracing::info!(before_kib = before, after_kib = resident_kib(), "started");
    if system.up(STOP_WITHIN).await.is_ok() {
        tracing::info!(up_kib = resident_kib(), "up");
    }

    let shutdown = Shutdown::new(STOP_WITHIN);
    shutdown.on_signals().map_err(|e| ProcessError::Failed(e.to_string()))?;
    let (listener, address) = admin::bind("ingest.listen", given.ingest.listen).await?;
    let about = Router::new()
        .route("/library", get(about))
        .route(
            "/library/suspend",
            post(async |Shared(system): Shared<Arc<System>>| system.suspend(STOP_WITHIN).await.to_string()),
        )
        .route("/library/resume", post(async |Shared(system): Shared<Arc<System>>| system.resume()))
        .with_state(system.clone());
    let serving = tokio::spawn(admin::serve(listener, about.fallback_service(system.router()), shutdown.token()));
    process::ready_line(Some(address), None);
    shutdown.requested().await;
    let _ = tokio::time::timeout(STOP_WITHIN, serving).await;
    let system = Arc::into_inner(system).ok_or_else(|| ProcessError::Failed("a request still holds the system".to_owned()))?;
    if system.stop(STOP_WITHIN).await { Ok(()) } else { Err(ProcessError::Failed("it did not stop in time".to_owned())) }
}

async fn about(Shared(system): Shared<Arc<System>>) -> String {
    format!("{:?} {:?} {:?} {:?}", &*system.state().borrow(), system.knobs(), system.levels(), system.health().degradations())
}

/// What this process keeps in memory; 0 where the system does not say.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
