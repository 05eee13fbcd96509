//! Records on their way to the log, and how long a caller waits for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use memori_event_log::{AppendError, Header, NewRecord, Producer, Topic};
use memori_schemas::{ConversationEvent, Lane, LogRecordBody, Micros, framing, ids};
use memori_service::problem::Problem;
use memori_service::trace_context::TRACEPARENT;

use crate::metrics;
use crate::spool::{Spool, SpoolError};

/// Seconds after which a caller may try again when the log is away.
pub(crate) const RETRY_AFTER_SECONDS: u64 = 2;

/// Where an accepted event is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DurableIn {
    /// In the log.
    Log,
    /// In the spool.
    Spool,
}

impl DurableIn {
    /// As the API says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Spool => "spool",
        }
    }
}

/// A record for the log: payload and headers.
///
/// # Errors
/// 413 where it is too large for the log.
pub(crate) fn new_record(
    topic: Topic,
    tenant: &str,
    entity_id: &str,
    body: &LogRecordBody,
    traceparent: Option<&str>,
) -> Result<NewRecord, Problem> {
    let payload = framing::encode(body).map_err(|error| match error {
        framing::FramingError::TooLarge { .. } => Problem::too_large("the event is too large for the log"),
        other => {
            tracing::error!(error = %other, "a record does not encode");
            Problem::internal()
        }
    })?;
    let headers = headers(tenant, topic.lane(), Some(Bytes::from_static(framing::fingerprint_hex(body).as_bytes())), traceparent);
    Ok(NewRecord { topic, key: ids::log_key(tenant, entity_id).into(), payload: payload.into(), headers })
}

/// The headers of a record of ours.
pub(crate) fn headers(tenant: &str, lane: Option<Lane>, schema: Option<Bytes>, traceparent: Option<&str>) -> Vec<Header> {
    let header = |name: &'static str, value: Bytes| Header { name: name.into(), value };
    let copied = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let known = |text: &'static str| Bytes::from_static(text.as_bytes());
    let mut headers = Vec::with_capacity(4);
    headers.push(header("tenant", copied(tenant)));
    headers.extend(lane.map(|lane| header("lane", known(lane.as_str()))));
    headers.extend(schema.map(|schema| header("schema", schema)));
    headers.extend(traceparent.map(|traceparent| header(TRACEPARENT, copied(traceparent))));
    headers
}

/// Appends to the log without being cancelled by a caller that goes away. One that waits longer than `patience` is told so; what the
/// log had taken over by then is settled all the same.
pub(crate) async fn append(
    producer: &Arc<dyn Producer>,
    records: Vec<NewRecord>,
    patience: Option<Duration>,
) -> Vec<Result<(), AppendError>> {
    let count = records.len();
    let all = |error: AppendError| vec![Err(error); count];
    let producer = Arc::clone(producer);
    let mut appending = tokio::spawn(async move { producer.append(&records, None).await });
    let settled = match patience {
        None => appending.await,
        Some(patience) => match tokio::time::timeout(patience, &mut appending).await {
            Ok(settled) => settled,
            Err(_) => {
                // What the log has taken over it still delivers; what waits for a place behind a full queue must not pile up.
                appending.abort();
                return all(AppendError::Unconfirmed(format!("no delivery report within {} ms", patience.as_millis())));
            }
        },
    };
    match settled {
        Ok(results) if results.len() == count => results.into_iter().map(|result| result.map(|_| ())).collect(),
        Ok(_) => all(AppendError::Unconfirmed("the producer answered for fewer records than it was given".to_owned())),
        Err(error) => all(AppendError::Unconfirmed(error.to_string())),
    }
}

/// What a caller is told of a record that the log did not take.
pub(crate) fn refusal(error: &AppendError) -> Problem {
    match error {
        AppendError::TooLarge(_) => Problem::too_large("the event is too large for the log"),
        AppendError::Unacceptable(why) => Problem::invalid_field("", why.clone()),
        AppendError::Unconfirmed(_) => {
            Problem::unavailable("the log did not confirm the event; sending it again is harmless", RETRY_AFTER_SECONDS)
        }
        AppendError::Fenced(_) | AppendError::Refused(_) => {
            tracing::error!(%error, "the log refuses a record");
            Problem::unavailable("the log refuses records now", RETRY_AFTER_SECONDS)
        }
    }
}

/// Puts conversation events into the log, or into the spool while it is away.
pub struct Publisher {
    producer: Arc<dyn Producer>,
    /// How long a delivery report is waited for; `None` where the log itself ends the wait.
    patience: Option<Duration>,
    spool: Option<Arc<Spool>>,
}

/// One event on its way: its place in the answer, and its record.
struct OnItsWay {
    place: usize,
    event: ConversationEvent,
}

impl Publisher {
    /// Onto this log, with this spool behind it.
    #[must_use]
    pub fn new(producer: Arc<dyn Producer>, patience: Option<Duration>, spool: Option<Arc<Spool>>) -> Self {
        Self { producer, patience, spool }
    }

    /// The log's producer.
    pub(crate) fn producer(&self) -> &Arc<dyn Producer> {
        &self.producer
    }

    /// When an event that waits in the spool was accepted.
    #[must_use]
    pub fn spooled_at(&self, tenant: &str, event_id: &str) -> Option<Micros> {
        self.spool.as_ref().and_then(|spool| spool.accepted_at(tenant, event_id))
    }

    /// Makes events of a lane durable; answers in their order. Events of one entity keep their order. The spool is the live lane's:
    /// history comes again by itself, and takes no place of what does not.
    pub async fn publish(
        &self,
        events: Vec<ConversationEvent>,
        lane: Lane,
        traceparent: Option<&str>,
    ) -> Vec<Result<DurableIn, Problem>> {
        let spool = self.spool.as_ref().filter(|_| lane == Lane::Live);
        let topic = match lane {
            Lane::Live => Topic::ConversationsLive,
            Lane::Backfill => Topic::ConversationsBackfill,
        };
        let mut results: Vec<Result<DurableIn, Problem>> = vec![Ok(DurableIn::Log); events.len()];
        let mut direct = Vec::with_capacity(events.len());
        let mut records = Vec::with_capacity(events.len());
        let mut to_spool = Vec::new();
        // Asked once per key, so that the events of one request do not overtake each other when the spool runs dry in between.
        let mut queues: HashMap<Vec<u8>, bool> = HashMap::new();
        for (place, event) in events.into_iter().enumerate() {
            let queue = spool.is_some_and(|spool| {
                let key = ids::log_key(&event.tenant, &event.entity_id);
                *queues.entry(key).or_insert_with_key(|key| spool.must_queue(key))
            });
            if queue {
                to_spool.push(OnItsWay { place, event });
                continue;
            }
            let body = LogRecordBody::Conversation(event);
            let (tenant, entity_id) = match &body {
                LogRecordBody::Conversation(event) => (&*event.tenant, &*event.entity_id),
                _ => unreachable!("made two lines above"),
            };
            match new_record(topic, tenant, entity_id, &body, traceparent) {
                Ok(record) => {
                    records.push(record);
                    let LogRecordBody::Conversation(event) = body else { unreachable!("made above") };
                    direct.push(OnItsWay { place, event });
                }
                Err(problem) => results[place] = Err(problem),
            }
        }
        if !records.is_empty() {
            let appended = append(&self.producer, records, self.patience).await;
            for (sent, result) in direct.into_iter().zip(appended) {
                let Err(error) = result else { continue };
                match (&error, spool) {
                    (AppendError::Unconfirmed(_), Some(_)) => to_spool.push(sent),
                    _ => results[sent.place] = Err(refusal(&error)),
                }
                if let AppendError::Unconfirmed(why) = &error {
                    metrics::count(metrics::UNCONFIRMED, 1);
                    tracing::debug!(why, "an event is not confirmed by the log");
                    if let Some(spool) = spool {
                        spool.log_is_away();
                    }
                }
            }
        }
        if let Some(spool) = spool
            && !to_spool.is_empty()
        {
            // Back in the order of the request.
            to_spool.sort_by_key(|sent| sent.place);
            let (places, events): (Vec<usize>, Vec<ConversationEvent>) =
                to_spool.into_iter().map(|sent| (sent.place, sent.event)).unzip();
            for (place, spooled) in places.into_iter().zip(spool.append(events, traceparent).await) {
                results[place] = match spooled {
                    Ok(()) => Ok(DurableIn::Spool),
                    Err(SpoolError::Full) => {
                        Err(Problem::unavailable("the log is away and the spool is full", RETRY_AFTER_SECONDS))
                    }
                    Err(SpoolError::Failed(_)) => {
                        Err(Problem::unavailable("the log is away and the spool cannot be written", RETRY_AFTER_SECONDS))
                    }
                };
            }
        }
        results
    }
}
