//! Spooled events on their way back to the log, oldest first.
//!
//! Of each key one record is on its way at a time. A record is handed over and then waited for without a deadline of ours, so that none is sent twice while the log still holds on to
//! it. Behind a failure everything is sent again: what was delivered twice is a duplicate, which harms nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use memori_event_log::{AppendError, NewRecord, Producer, Topic};
use memori_schemas::{Lane, framing, ids};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::frame::Entry;
use super::index::Undelivered;
use super::{Command, Spool, disk};
use crate::metrics;
use crate::publish::{append, headers};

/// The most records sent at once.
const WAVE_ENTRIES: usize = 500;
/// About the most bytes sent at once.
const WAVE_BYTES: usize = 2 << 20;
/// The first pause after a failure; doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// Delivers what waits, until `stop`.
pub async fn replay(spool: Arc<Spool>, producer: Arc<dyn Producer>, stop: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    loop {
        let oldest = spool.shared.index().oldest_undelivered();
        let Some(what) = oldest else {
            tokio::select! {
                () = stop.cancelled() => return,
                () = spool.shared.grown.notified() => continue,
            }
        };
        let wave = tokio::select! {
            () = stop.cancelled() => return,
            wave = send_wave(&spool, &producer, what) => wave,
        };
        match wave {
            Ok(()) => pause = FIRST_PAUSE,
            Err(why) => {
                tracing::debug!(why, "the spool waits for the log");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))) => {}
                }
                pause = (pause * 2).min(LAST_PAUSE);
            }
        }
    }
}

/// Sends some of the oldest. An error says why not all of it arrived.
async fn send_wave(spool: &Arc<Spool>, producer: &Arc<dyn Producer>, what: Undelivered) -> Result<(), String> {
    // While it is not known that the log is back, one record asks.
    let max_entries = if spool.shared.log_away.load(Ordering::Relaxed) { 1 } else { WAVE_ENTRIES };
    let folder = spool.shared.folder.clone();
    let reading = tokio::task::spawn_blocking(move || disk::read(&folder, what, max_entries, WAVE_BYTES));
    let read = reading.await.map_err(|error| error.to_string())?.map_err(|error| {
        tracing::error!(%error, "the spool cannot be read");
        error.to_string()
    })?;
    let entries: Vec<&Entry> = read.iter().filter_map(|(entry, _)| entry.as_ref()).collect();
    let mut results = send_in_order(producer, &entries).await.into_iter();

    let mut delivered: Vec<Entry> = Vec::new();
    let mut up_to = what.from;
    let mut failed = None;
    for (entry, end) in read {
        if let Some(entry) = entry {
            match results
                .next()
                .flatten()
                .unwrap_or_else(|| Err(AppendError::Unconfirmed("not sent behind a failure".to_owned())))
            {
                Ok(()) => {
                    spool.shared.log_away.store(false, Ordering::Relaxed);
                    metrics::count(metrics::SPOOL_DELIVERED, 1);
                }
                Err(AppendError::TooLarge(why) | AppendError::Unacceptable(why)) => {
                    tracing::error!(why, "the log refuses a spooled event for good; it is set aside in the spool's folder");
                    if let Err(error) = set_aside(spool, entry.clone()).await {
                        failed = Some(error);
                        break;
                    }
                    metrics::count(metrics::SPOOL_SET_ASIDE, 1);
                }
                Err(error) => {
                    if !matches!(error, AppendError::Unconfirmed(_)) {
                        tracing::error!(%error, "the log refuses a spooled event now");
                    }
                    spool.shared.log_away.store(true, Ordering::Relaxed);
                    failed = Some(error.to_string());
                    break;
                }
            }
            delivered.push(entry);
        }
        up_to = end;
    }
    if up_to > what.from {
        {
            let mut index = spool.shared.index();
            index.deliver(what.segment, up_to);
            delivered.iter().for_each(|entry| index.remove(entry));
        }
        let _ = spool.to_thread.send(Command::Delivered { segment: what.segment }).await;
    } else if failed.is_none() {
        return Err("nothing could be read".to_owned());
    }
    failed.map_or(Ok(()), Err)
}

/// Sends entries in rounds with one of each key: none of a key is on its way before the one ahead of it has arrived. Ends after a
/// round with a failure; what was not sent has no result.
async fn send_in_order(producer: &Arc<dyn Producer>, entries: &[&Entry]) -> Vec<Option<Result<(), AppendError>>> {
    let mut results = vec![None; entries.len()];
    let mut rest: Vec<usize> = (0..entries.len()).collect();
    while !rest.is_empty() {
        let mut keys = HashSet::new();
        let (round, later): (Vec<usize>, Vec<usize>) = rest.into_iter().partition(|place| keys.insert(&entries[*place].key));
        let sent = append(producer, round.iter().map(|place| record(entries[*place])).collect(), None).await;
        let failed =
            sent.iter().any(|result| !matches!(result, Ok(()) | Err(AppendError::TooLarge(_) | AppendError::Unacceptable(_))));
        for (place, result) in round.into_iter().zip(sent) {
            results[place] = Some(result);
        }
        if failed {
            break;
        }
        rest = later;
    }
    results
}

fn record(entry: &Entry) -> NewRecord {
    let tenant = ids::parse_log_key(&entry.key).map_or("", |(tenant, _)| tenant);
    let schema = framing::registry::fingerprint_of_payload(&entry.payload).map(|fingerprint| hex::encode(fingerprint).into());
    NewRecord {
        topic: Topic::ConversationsLive,
        key: entry.key.clone(),
        payload: entry.payload.clone(),
        headers: headers(tenant, Some(Lane::Live), schema, entry.traceparent.as_deref()),
    }
}

async fn set_aside(spool: &Spool, entry: Entry) -> Result<(), String> {
    let (done, written) = oneshot::channel();
    let gone = "the spool's thread is gone";
    spool.to_thread.send(Command::SetAside { entry: Box::new(entry), done }).await.map_err(|_| gone.to_owned())?;
    written.await.map_err(|_| gone.to_owned())?.map_err(|error| error.to_string())
}
