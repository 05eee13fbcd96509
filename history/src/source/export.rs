//! What `GET /v1/entities/{entity_id}/export` gives. Its messages come back as the events that they were; its facts are passed by, since
//! the same messages teach them again.

use serde_json::{Map, Value, json};

use super::Converted;
use crate::options::{Options, id};
use crate::record::{Bad, Row};

/// Messages of one event follow each other; facts stand alone.
pub(super) fn group(row: &Row) -> Option<String> {
    if row.get("type").and_then(Value::as_str) != Some("message") {
        return None;
    }
    let event = row.get("event_id").and_then(Value::as_str)?;
    let entity = row.get("entity_id").and_then(Value::as_str).unwrap_or_default();
    Some(format!("{} {entity}{event}", entity.len()))
}

pub(super) fn convert(rows: Vec<Row>, options: &Options) -> Converted {
    let Some(first) = rows.first() else { return Converted::default() };
    let text = |row: &Row| Value::Object(row.clone()).to_string();
    match first.get("type").and_then(Value::as_str) {
        Some("message") => {}
        Some("fact") => return Converted { passed: 1, ..Converted::default() },
        _ => return Converted::bad("the line is neither a message nor a fact of an export", text(first).as_bytes()),
    }
    let Some(event_id) = id(first.get("event_id")) else {
        return Converted::bad("the message names no event", text(first).as_bytes());
    };
    let Some(entity) = id(first.get("entity_id")).or_else(|| options.entity.clone()) else {
        return Converted::bad(
            "the export is of an older release and does not say whose it is: say so with --entity",
            text(first).as_bytes(),
        );
    };
    let mut event = Map::new();
    event.insert("entity_id".into(), entity.into());
    let of = |name: &str| first.get(name).filter(|value| !value.is_null()).cloned();
    if let Some(process) = of("process_id") {
        event.insert("process_id".into(), process);
    }
    // A session that nobody named is an island, found again from the times.
    if first.get("session_named").and_then(Value::as_bool).unwrap_or(true)
        && let Some(session) = of("session_id")
    {
        event.insert("session_id".into(), session);
    }
    if let Some(at) = of("occurred_at") {
        event.insert("occurred_at".into(), at);
    }
    if let Some(metadata) = of("metadata") {
        event.insert("metadata".into(), metadata);
    }
    let mut bad = Vec::new();
    let mut messages = Vec::new();
    for row in &rows {
        let of = |name: &str| row.get(name).filter(|value| !value.is_null()).cloned();
        let (Some(role), Some(content)) = (of("role"), of("content")) else {
            bad.push(Bad::new("the message has no role or no content", text(row).as_bytes()));
            continue;
        };
        let mut message = json!({"role": role, "content": content});
        // The id that a message gets which has none: it gets it again.
        let default = format!("{event_id}#{}", messages.len());
        if let Some(given) = of("message_id").filter(|given| *given != default.as_str()) {
            message["message_id"] = given;
        }
        for name in ["name", "created_at"] {
            if let Some(value) = of(name) {
                message[name] = value;
            }
        }
        messages.push(message);
    }
    if messages.is_empty() {
        return Converted { bad, ..Converted::default() };
    }
    event.insert("event_id".into(), event_id.into());
    event.insert("messages".into(), messages.into());
    Converted { events: vec![Value::Object(event)], bad, passed: 0 }
}
