//! Records on their way to the log, and how long a caller waits for them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use memori_event_log::{AppendError, Header, NewRecord, Producer, Topic};
use memori_schemas::{ConversationEvent, Lane, LogRecordBody, framing, ids};
use memori_service::problem::Problem;
use memori_service::trace_context::TRACEPARENT;

use crate::metrics;

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
    let headers = headers(tenant, topic.lane(), &payload, traceparent);
    Ok(NewRecord { topic, key: ids::log_key(tenant, entity_id).into(), payload: payload.into(), headers })
}

/// The headers of a record of ours.
pub(crate) fn headers(tenant: &str, lane: Option<Lane>, payload: &[u8], traceparent: Option<&str>) -> Vec<Header> {
    let header = |name: &str, value: &str| Header { name: name.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()) };
    let mut headers = vec![header("tenant", tenant)];
    if let Some(lane) = lane {
        headers.push(header("lane", lane.as_str()));
    }
    if let Some(fingerprint) = payload.get(2..10) {
        headers.push(header("schema", &hex::encode(fingerprint)));
    }
    if let Some(traceparent) = traceparent {
        headers.push(header(TRACEPARENT, traceparent));
    }
    headers
}

/// Appends to the log without being cancelled by whoever stops waiting: a record that was handed over is settled either way.
pub(crate) async fn append(
    producer: &Arc<dyn Producer>,
    records: Vec<NewRecord>,
    patience: Option<Duration>,
) -> Vec<Result<(), AppendError>> {
    let count = records.len();
    let all = |error: AppendError| vec![Err(error); count];
    let producer = Arc::clone(producer);
    let appending = tokio::spawn(async move { producer.append(records, None).await });
    let settled = match patience {
        None => appending.await,
        Some(patience) => match tokio::time::timeout(patience, appending).await {
            Ok(settled) => settled,
            Err(_) => return all(AppendError::Unconfirmed(format!("no delivery report within {} ms", patience.as_millis()))),
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
        AppendError::Unconfirmed(_) => {
            Problem::unavailable("the log did not confirm the event; sending it again is harmless", RETRY_AFTER_SECONDS)
        }
        AppendError::Fenced(_) | AppendError::Refused(_) => {
            tracing::error!(%error, "the log refuses a record");
            Problem::unavailable("the log refuses records now", RETRY_AFTER_SECONDS)
        }
    }
}

/// Puts conversation events into the log.
pub struct Publisher {
    producer: Arc<dyn Producer>,
    /// How long a delivery report is waited for; `None` where the log itself ends the wait.
    patience: Option<Duration>,
}

impl Publisher {
    /// Onto this log.
    #[must_use]
    pub fn new(producer: Arc<dyn Producer>, patience: Option<Duration>) -> Self {
        Self { producer, patience }
    }

    /// The log's producer.
    pub(crate) fn producer(&self) -> &Arc<dyn Producer> {
        &self.producer
    }

    /// Makes events durable; answers in their order. Events of one entity keep their order.
    pub async fn publish(&self, events: Vec<ConversationEvent>, traceparent: Option<&str>) -> Vec<Result<DurableIn, Problem>> {
        let mut results: Vec<Result<DurableIn, Problem>> = Vec::with_capacity(events.len());
        let mut records = Vec::with_capacity(events.len());
        let mut places = Vec::with_capacity(events.len());
        for (place, event) in events.into_iter().enumerate() {
            let (tenant, entity_id) = (event.tenant.clone(), event.entity_id.clone());
            let body = LogRecordBody::Conversation(event);
            match new_record(Topic::ConversationsLive, &tenant, &entity_id, &body, traceparent) {
                Ok(record) => {
                    records.push(record);
                    places.push(place);
                    results.push(Ok(DurableIn::Log));
                }
                Err(problem) => results.push(Err(problem)),
            }
        }
        let appended = append(&self.producer, records, self.patience).await;
        for (place, result) in places.into_iter().zip(appended) {
            if let Err(error) = result {
                if matches!(error, AppendError::Unconfirmed(_)) {
                    metrics::count(metrics::UNCONFIRMED, 1);
                }
                tracing::warn!(%error, "an event is not in the log");
                results[place] = Err(refusal(&error));
            }
        }
        results
    }
}
