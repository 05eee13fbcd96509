//! Flush records: they ask the worker to begin with what it gathers of an entity in a window, because somebody waits for it.
//!
//! Promises: one per entity and lane, and another only for an event that came after it, or once it may have been lost; a bounded number
//! per wait and in memory; what cannot be put on the log is counted, and the wait goes on: a window ends by itself, too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use memori_event_log::{Producer, Topic};
use memori_schemas::{Flush, Lane, LogRecordBody, Micros};
use serde_json::Value;
use tokio::time::Instant;

use crate::metrics::{self, Flushed};
use crate::publish;

/// When a flush that somebody still waits behind is sent again.
const AGAIN: Duration = Duration::from_secs(5);
/// Entities of one wait that are flushed.
const MAX_PER_WAIT: usize = 100;
/// Flushes that are remembered.
const MAX_REMEMBERED: usize = 10_000;
/// How long the log may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// An event that somebody waits for, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Awaited {
    pub(crate) entity_id: Arc<str>,
    pub(crate) lane: Lane,
    pub(crate) accepted_at: Micros,
}

impl Awaited {
    /// As the writer tells of an event that it knows and that is not final.
    pub(crate) fn of_writer(event: &Value) -> Option<Self> {
        let lane = event["lane"].as_str().and_then(Lane::parse)?;
        Some(Self {
            entity_id: event["entity_id"].as_str()?.into(),
            lane,
            accepted_at: Micros(event["accepted_at_us"].as_i64()?),
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Last {
    sent_at: Instant,
    /// Events accepted later stand behind it.
    asked_at: Micros,
}

/// Which flushes were sent lately. Given the time.
#[derive(Debug, Default)]
struct Table(HashMap<(Arc<str>, Arc<str>, Lane), Last>);

impl Table {
    /// Whether a flush is to be sent for `event`; notes that it is.
    fn is_due(&mut self, tenant: &Arc<str>, event: &Awaited, now: Instant, asked_at: Micros) -> Result<(), Flushed> {
        let key = (Arc::clone(tenant), Arc::clone(&event.entity_id), event.lane);
        match self.0.get(&key) {
            Some(last) if event.accepted_at <= last.asked_at && now.duration_since(last.sent_at) < AGAIN => {
                return Err(Flushed::AskedBefore);
            }
            Some(_) => {}
            None => {
                if self.0.len() >= MAX_REMEMBERED {
                    self.0.retain(|_, last| now.duration_since(last.sent_at) < AGAIN);
                }
                if self.0.len() >= MAX_REMEMBERED {
                    return Err(Flushed::TooMany);
                }
            }
        }
        self.0.insert(key, Last { sent_at: now, asked_at });
        Ok(())
    }
}

/// Sends flushes.
pub(crate) struct Flushes {
    producer: Arc<dyn Producer>,
    table: Mutex<Table>,
}

impl Flushes {
    pub(crate) fn new(producer: Arc<dyn Producer>) -> Self {
        Self { producer, table: Mutex::default() }
    }

    /// Asks for what `awaited` needs, `asked_at` being later than any of them was accepted; does not wait for the log.
    pub(crate) fn ask(&self, tenant: &Arc<str>, awaited: &[Awaited], asked_at: Micros) {
        let now = Instant::now();
        let mut records = Vec::new();
        {
            let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            for event in awaited {
                if records.len() >= MAX_PER_WAIT {
                    metrics::flushed(Flushed::TooMany);
                    continue;
                }
                match table.is_due(tenant, event, now, asked_at) {
                    Ok(()) => records.extend(record(tenant, event, asked_at)),
                    Err(why) => metrics::flushed(why),
                }
            }
        }
        if records.is_empty() {
            return;
        }
        let producer = Arc::clone(&self.producer);
        tokio::spawn(async move {
            for result in publish::append(&producer, records, Some(PATIENCE)).await {
                match result {
                    Ok(()) => metrics::flushed(Flushed::Sent),
                    Err(error) => {
                        tracing::debug!(%error, "a flush did not reach the log");
                        metrics::flushed(Flushed::Failed);
                    }
                }
            }
        });
    }
}

fn record(tenant: &str, event: &Awaited, asked_at: Micros) -> Option<memori_event_log::NewRecord> {
    let flush = Flush { tenant: tenant.to_owned(), entity_id: event.entity_id.to_string(), requested_at: asked_at, key_id: None };
    let topic = Topic::conversations(event.lane);
    publish::new_record(topic, tenant, &event.entity_id, &LogRecordBody::Flush(flush), None)
        .inspect_err(|_| metrics::flushed(Flushed::Failed))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use memori_schemas::{Lane, Micros};
    use tokio::time::Instant;

    use super::{AGAIN, Awaited, MAX_REMEMBERED, Table};
    use crate::metrics::Flushed;

    fn awaited(entity: &str, lane: Lane, accepted_at: i64) -> Awaited {
        Awaited { entity_id: entity.into(), lane, accepted_at: Micros(accepted_at) }
    }

    #[test]
    fn an_entity_is_asked_for_once_unless_more_came_or_it_may_be_lost() {
        let (mut table, tenant, start) = (Table::default(), Arc::<str>::from("t"), Instant::now());
        let mut ask =
            |event: Awaited, after: Duration, asked_at: i64| table.is_due(&tenant, &event, start + after, Micros(asked_at));
        let zero = Duration::ZERO;
        assert_eq!(ask(awaited("a", Lane::Live, 1), zero, 10), Ok(()));
        assert_eq!(ask(awaited("a", Lane::Live, 2), zero, 11), Err(Flushed::AskedBefore));
        assert_eq!(ask(awaited("a", Lane::Backfill, 2), zero, 11), Ok(()), "a lane has windows of its own");
        assert_eq!(ask(awaited("b", Lane::Live, 2), zero, 11), Ok(()));
        assert_eq!(ask(awaited("a", Lane::Live, 12), zero, 13), Ok(()), "it came behind the first");
        assert_eq!(ask(awaited("a", Lane::Live, 12), AGAIN - Duration::from_millis(1), 14), Err(Flushed::AskedBefore));
        assert_eq!(ask(awaited("a", Lane::Live, 12), AGAIN, 15), Ok(()), "it may have been lost");
    }

    #[test]
    fn memory_of_flushes_is_bounded() {
        let (mut table, tenant, start) = (Table::default(), Arc::<str>::from("t"), Instant::now());
        for n in 0..MAX_REMEMBERED {
            assert_eq!(table.is_due(&tenant, &awaited(&n.to_string(), Lane::Live, 1), start, Micros(2)), Ok(()));
        }
        let more = awaited("more", Lane::Live, 1);
        assert_eq!(table.is_due(&tenant, &more, start, Micros(2)), Err(Flushed::TooMany));
        assert_eq!(table.is_due(&tenant, &awaited("0", Lane::Live, 3), start, Micros(4)), Ok(()), "a known one needs no room");
        assert_eq!(table.is_due(&tenant, &more, start + AGAIN, Micros(2)), Ok(()));
        assert!(table.0.len() <= 2);
    }
}
