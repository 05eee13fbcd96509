//! What processes that are gone left in their spools is delivered by one that lives.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use memori_event_log::Producer;
use memori_ingest::spool::{Spool, replay};
use tokio_util::sync::CancellationToken;

use crate::slot::Slot;

/// How often orphans are looked for.
const LOOK: Duration = Duration::from_secs(5);
/// How often it is looked whether an orphan has been delivered.
const DELIVERED: Duration = Duration::from_millis(100);

/// Looks for orphans until `stop`; `found` is told of each before it is delivered.
pub async fn adopt(
    spools: PathBuf,
    max_bytes: u64,
    producer: Arc<dyn Producer>,
    found: impl AsyncFn(u32),
    stop: CancellationToken,
) {
    loop {
        let looked = spools.clone();
        let orphans = tokio::task::spawn_blocking(move || Slot::orphans(&looked)).await;
        match orphans.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(orphans) => {
                for orphan in orphans {
                    found(orphan.number).await;
                    if let Err(error) = deliver(&orphan, max_bytes, &producer, &stop).await {
                        tracing::warn!(%error, spool = %orphan.folder.display(), "the spool of a process that is gone cannot be delivered now");
                    }
                }
            }
            Err(error) => tracing::warn!(%error, spools = %spools.display(), "the spools cannot be listed"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Delivers all that waits in an orphan, and removes it then. Once stopped, the rest is left for the next.
async fn deliver(orphan: &Slot, max_bytes: u64, producer: &Arc<dyn Producer>, stop: &CancellationToken) -> std::io::Result<()> {
    let folder = orphan.folder.clone();
    let opening = tokio::task::spawn_blocking(move || Spool::open(&folder, max_bytes, |_| {}));
    let spool = Arc::new(opening.await.unwrap_or_else(|error| Err(std::io::Error::other(error)))?);
    let waiting = spool.waiting();
    if waiting > 0 {
        tracing::info!(events = waiting, spool = %orphan.folder.display(), "delivering what a process that is gone left behind");
        let done = stop.child_token();
        let replaying = tokio::spawn(replay(spool.clone(), producer.clone(), done.clone()));
        while spool.waiting() > 0 && !stop.is_cancelled() {
            tokio::time::sleep(DELIVERED).await;
        }
        done.cancel();
        let _ = replaying.await;
    }
    if spool.waiting() == 0 {
        drop(spool);
        let folder = orphan.folder.clone();
        tokio::task::spawn_blocking(move || remove(&folder)).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))?;
    }
    Ok(())
}

/// Removes a spool's folder, unless an operator is to find something in it.
///
/// # Errors
/// The system's own.
pub fn remove(folder: &Path) -> std::io::Result<()> {
    if !folder.is_dir() || folder.join("set-aside").exists() {
        return Ok(());
    }
    std::fs::remove_dir_all(folder)
}
