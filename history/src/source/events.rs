//! Our own form: a body of `POST /v1/events` a record. What it leaves out is filled in by the caller's options; one without an id gets
//! one from what it says.

use memori_service::problem::parse_json;
use serde_json::Value;

use super::Converted;
use crate::options::{Options, at, id};
use crate::turns::event_id;

pub(super) fn convert(text: &[u8], options: &Options) -> Converted {
    let mut event = match parse_json(text) {
        Ok(Value::Object(event)) => event,
        Ok(_) => return Converted::bad("the record must be an object", text),
        Err(problem) => return Converted::bad(problem.detail, text),
    };
    let missing = |event: &serde_json::Map<String, Value>, name: &str| event.get(name).is_none_or(Value::is_null);
    for (field, target, fallback) in
        [("entity_id", "entity", &options.entity), ("process_id", "process", &options.process), ("session_id", "session", &None)]
    {
        let given = options.map.field(target).and_then(|field| id(at(&event, field)));
        if let Some(value) = given.or_else(|| fallback.clone().filter(|_| missing(&event, field))) {
            event.insert(field.to_owned(), value.into());
        }
    }
    if missing(&event, "event_id") {
        event.remove("event_id");
        let said = memori_schemas::ids::canonical_json(&Value::Object(event.clone()));
        event.insert("event_id".to_owned(), event_id([Some("events"), Some(said.as_str())]).into());
    }
    Converted { events: vec![Value::Object(event)], ..Converted::default() }
}
