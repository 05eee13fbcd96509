//! Events as the platform reads them, and what it says of them. Pure.

use bytes::Bytes;
use http::StatusCode;
use memori_schemas::{ContentFormat, ConversationEvent};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::platform::Refused;

/// The most events of one request.
pub(super) const MAX_EVENTS: usize = 500;
/// About the most bytes of one request.
const MAX_BYTES: usize = 4 << 20;

/// A record's event as the body of `POST /v1/events` has it: what the client gave, and an id and a time of ours where it gave
/// neither; so it is the same event however often it is sent.
pub(super) fn to_json(event: ConversationEvent) -> Value {
    let mut shown = Map::new();
    shown.insert("event_id".into(), event.event_id.into());
    shown.insert("entity_id".into(), event.entity_id.into());
    for (name, value) in [("process_id", event.process_id), ("session_id", event.session_id)] {
        if let Some(value) = value {
            shown.insert(name.into(), value.into());
        }
    }
    // An id that the client gave may come again without a time, and is then the same event.
    if event.supplied.occurred_at || !event.supplied.event_id {
        shown.insert("occurred_at".into(), event.occurred_at.to_rfc3339().into());
    }
    let messages = event.messages.into_iter().map(|message| {
        let content = match message.content_format {
            ContentFormat::Text => Value::from(message.content),
            ContentFormat::Parts => serde_json::from_str(&message.content).unwrap_or(Value::Null),
        };
        let mut shown = json!({"role": message.role.as_str(), "content": content});
        for (name, value) in [("message_id", message.message_id), ("name", message.name)] {
            if let Some(value) = value {
                shown[name] = value.into();
            }
        }
        if let Some(created_at) = message.created_at {
            shown["created_at"] = created_at.to_rfc3339().into();
        }
        shown
    });
    shown.insert("messages".into(), messages.collect());
    if !event.metadata.is_empty() {
        let metadata: Map<String, Value> = event.metadata.into_iter().map(|entry| (entry.key, entry.value.into())).collect();
        shown.insert("metadata".into(), metadata.into());
    }
    Value::Object(shown)
}

/// How many of these, from the first on, go into one request: at least one.
pub(super) fn fitting(sizes: impl Iterator<Item = usize>, max_events: usize) -> usize {
    let mut bytes = 0;
    let fitting = sizes.take(max_events).take_while(|size| {
        bytes += size;
        bytes <= MAX_BYTES
    });
    fitting.count().max(1)
}

/// Some events as one body of `POST /v1/events/batch`.
pub(super) fn batch(events: &[Bytes]) -> Bytes {
    let mut body = Vec::with_capacity(events.iter().map(|event| event.len() + 1).sum::<usize>() + 16);
    body.extend_from_slice(br#"{"events":["#);
    for (place, event) in events.iter().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        body.extend_from_slice(event);
    }
    body.extend_from_slice(b"]}");
    body.into()
}

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The platform has it.
    Taken,
    /// It refuses it for good.
    Refused(Refused),
    /// It may take it later.
    Later(String),
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdicts {
    /// Of each event.
    Each(Vec<Verdict>),
    /// It is refused as a whole: each is to be sent alone, to find which.
    Apart,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    results: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Result {
    index: usize,
    status: String,
    #[serde(default)]
    error: Option<Problem>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    status: u16,
    detail: String,
}

/// Reads the answer to a request with `count` events.
pub(super) fn verdicts(count: usize, status: StatusCode, answer: &[u8]) -> Verdicts {
    let later = |why: String| Verdicts::Each(vec![Verdict::Later(why); count]);
    let code = status.as_u16();
    if !status.is_success() {
        let detail = serde_json::from_slice::<Problem>(answer).map(|problem| problem.detail).unwrap_or_default();
        return match code {
            400 | 413 | 415 | 422 if count > 1 => Verdicts::Apart,
            400 | 413 | 422 => Verdicts::Each(vec![Verdict::Refused(refused(code, &detail))]),
            _ => later(format!("the platform answers {code}: {detail}")),
        };
    }
    let Ok(answer) = serde_json::from_slice::<Answer<'_>>(answer) else {
        return later(format!("the platform answers {code} with what is no answer of a front door"));
    };
    let mut verdicts = vec![Verdict::Later("the platform did not speak of it".to_owned()); count];
    for result in answer.results {
        // One that is not readable costs no other.
        let Ok(result) = serde_json::from_str::<Result>(result.get()) else { continue };
        let Some(verdict) = verdicts.get_mut(result.index) else { continue };
        *verdict = match (result.status.as_str(), result.error.unwrap_or_default()) {
            ("accepted" | "duplicate", _) => Verdict::Taken,
            ("rejected", Problem { status: status @ (400 | 409 | 413 | 422), detail }) => {
                Verdict::Refused(refused(status, &detail))
            }
            (_, problem) => Verdict::Later(format!("the platform says of it {}: {}", problem.status, problem.detail)),
        };
    }
    Verdicts::Each(verdicts)
}

fn refused(status: u16, detail: &str) -> Refused {
    Refused { class: format!("refused_{status}"), reason: format!("the platform refuses it: {detail}") }
}
