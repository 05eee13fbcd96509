//! Brings a file's conversations into a running system, and takes them out again.
//!
//! Promises: when [`post`] returns, every event is applied. Entities stand under a prefix of their own, so that no real entity of
//! the same name is touched.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use memori_schemas::Micros;
use memori_service::ProcessError;
use reqwest::Method;
use serde_json::{Value, json};

use super::format::{Conversation, Data, Message};
use crate::client::{Client, segment};
use crate::output::aside;

/// Events in one request.
const BATCH_EVENTS: usize = 400;
/// Bytes of one request; the contract allows 16 MiB.
const BATCH_BYTES: usize = 8 << 20;
/// Messages of one event; the contract allows 1,000.
const EVENT_MESSAGES: usize = 200;
/// How long the system may take for all of them after the last was accepted.
const APPLIED_WITHIN_SECONDS: u64 = 900;
/// How long erasing may take.
const ERASED_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at a receipt.
const RECEIPT_EVERY: Duration = Duration::from_millis(50);

/// The entity as the system knows it.
pub(super) fn entity_id(prefix: &str, entity: &str) -> String {
    format!("{prefix}{entity}")
}

/// The events of one conversation: each begins with a message of role user, and what is not a user's belongs to the one before.
fn events(prefix: &str, number: usize, conversation: &Conversation, data: &Data) -> Vec<Value> {
    let mut events = Vec::new();
    for (s, session) in conversation.sessions.iter().enumerate() {
        let mut turns: Vec<Vec<&Message>> = Vec::new();
        for message in &session.messages {
            match turns.last_mut().filter(|turn| message.role != "user" && turn.len() < EVENT_MESSAGES) {
                Some(turn) => turn.push(message),
                None => turns.push(vec![message]),
            }
        }
        for (n, turn) in turns.iter().enumerate() {
            let at = |message: &Message| {
                data.place(&conversation.entity_id, &message.message_id).map_or(Micros(0), |place| place.at).to_rfc3339()
            };
            let messages: Vec<Value> = turn
                .iter()
                .map(|m| {
                    json!({"message_id": m.message_id, "role": m.role, "name": m.name, "content": m.content, "created_at": at(m)})
                })
                .collect();
            events.push(json!({
                "event_id": format!("{prefix}{number}.{s}.{n}"),
                "entity_id": entity_id(prefix, &conversation.entity_id),
                "process_id": conversation.process_id,
                "session_id": session.session_id,
                "occurred_at": at(turn[0]),
                "messages": messages,
            }));
        }
    }
    events
}

/// Runs of events that fit one request each.
fn batches(events: &[Value]) -> Vec<&[Value]> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (n, event) in events.iter().enumerate() {
        let size = event.to_string().len();
        if n > start && (n - start == BATCH_EVENTS || bytes + size > BATCH_BYTES) {
            batches.push(&events[start..n]);
            (start, bytes) = (n, 0);
        }
        bytes += size;
    }
    batches.push(&events[start..]);
    batches
}

/// Posts everything and waits until it is applied. Answers the number of events.
pub(super) async fn post(client: &Client, prefix: &str, data: &Data) -> Result<usize, ProcessError> {
    let events: Vec<Value> = data.conversations.iter().enumerate().flat_map(|(n, c)| events(prefix, n, c, data)).collect();
    let mut ids = Vec::with_capacity(events.len());
    for batch in batches(&events) {
        let answer = client.post("/v1/events/batch", &json!({ "events": batch })).await?;
        for (result, event) in answer["results"].as_array().into_iter().flatten().zip(batch) {
            if result["status"] == "rejected" {
                return Err(ProcessError::Usage(format!(
                    "the session {} of entity {} was refused: {}",
                    event["session_id"], event["entity_id"], result["error"]
                )));
            }
            ids.push(result["event_id"].as_str().unwrap_or_default().to_owned());
        }
        aside(format!("{} of {} events are accepted", ids.len(), events.len()));
    }
    if !crate::commands::ingest::wait(client, &ids, APPLIED_WITHIN_SECONDS).await? {
        return Err(ProcessError::Failed(format!(
            "not all events were applied within {APPLIED_WITHIN_SECONDS} s; `memori doctor`"
        )));
    }
    all_applied(client, &ids).await?;
    Ok(ids.len())
}

/// Final may also mean a dead letter; figures over half of the conversations would be wrong without a word.
async fn all_applied(client: &Client, ids: &[String]) -> Result<(), ProcessError> {
    for group in ids.chunks(1_000) {
        let answer = client.post("/v1/events/wait", &json!({"event_ids": group, "timeout_ms": 10_000})).await?;
        let other = answer["events"].as_array().into_iter().flatten().find(|event| event["status"] != "applied");
        if let Some(event) = other {
            return Err(ProcessError::Failed(format!(
                "event {} is {}, not applied; `memori event` shows why",
                event["event_id"], event["status"]
            )));
        }
    }
    Ok(())
}

/// Erases what [`post`] brought in, and waits for the receipts.
pub(super) async fn erase(client: &Client, prefix: &str, entities: &BTreeSet<&str>) -> Result<(), ProcessError> {
    let mut receipts = Vec::new();
    for entity in entities {
        let asked = client.call(Method::DELETE, &format!("/v1/entities/{}", segment(&entity_id(prefix, entity))), None).await?;
        receipts.push(asked["erasure_id"].as_str().unwrap_or_default().to_owned());
    }
    let end = Instant::now() + ERASED_WITHIN;
    for receipt in receipts {
        while client.get(&format!("/v1/erasures/{}", segment(&receipt))).await?["status"] != "applied" {
            if Instant::now() > end {
                return Err(ProcessError::Failed(format!(
                    "the entities that begin with {prefix} are not all erased yet; what is left of it happens by itself"
                )));
            }
            tokio::time::sleep(RECEIPT_EVERY).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::format;
    use super::*;

    #[test]
    fn requests_are_bounded_in_events_and_in_bytes() {
        let small: Vec<Value> = (0..BATCH_EVENTS * 2 + 1).map(|n| json!(n)).collect();
        assert_eq!(batches(&small).iter().map(|batch| batch.len()).collect::<Vec<_>>(), [BATCH_EVENTS, BATCH_EVENTS, 1]);
        let large: Vec<Value> = (0..3).map(|_| json!("x".repeat(BATCH_BYTES / 2))).collect();
        assert_eq!(batches(&large).len(), 3);
    }

    #[test]
    fn an_event_is_a_users_message_and_what_follows_it() {
        let line = |roles: &[&str]| {
            let messages: Vec<Value> = (0..)
                .zip(roles)
                .map(|(n, role)| json!({"message_id": format!("m{n}"), "role": role, "content": "words"}))
                .collect();
            let sessions = json!([{"session_id": "s", "started_at": "2025-01-01T10:00:00Z", "messages": messages}]);
            json!({"type": "conversation", "entity_id": "a", "language": "en", "sessions": sessions})
        };
        let question =
            json!({"type": "question", "question_id": "q", "entity_id": "a", "text": "?", "category": "c", "unanswerable": true});
        let data =
            format::parse(&format!("{}\n{question}", line(&["user", "assistant", "tool", "user", "user", "assistant"]))).unwrap();
        let events = events("p:", 3, &data.conversations[0], &data);
        let sizes: Vec<usize> = events.iter().map(|e| e["messages"].as_array().unwrap().len()).collect();
        assert_eq!(sizes, [3, 1, 2]);
        assert_eq!(events[1]["event_id"], "p:3.0.1");
        assert_eq!(events[1]["entity_id"], "p:a");
        assert_eq!(events[1]["occurred_at"], "2025-01-01T10:03:00Z");
    }
}
