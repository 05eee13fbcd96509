//! Request bodies that carry events, taken apart without I/O: one bad event never costs the others.

use std::fmt;

use memori_service::problem::{Answer, FieldErrors, Fields, Problem, parse_json};
use serde::de::{Deserializer as _, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, error::Category};

use crate::new_event::{MAX_EVENT_BYTES, NewEvent, is_event_id};

/// The most events in one batch.
pub const MAX_BATCH_EVENTS: usize = 1_000;
/// The most bytes of one batch.
pub const MAX_BATCH_BYTES: usize = 16 << 20;
/// The most ids in one question.
pub const MAX_EVENT_IDS: usize = 1_000;
/// How long a `wait` waits where it does not say.
const DEFAULT_WAIT_MS: i64 = 10_000;
/// The longest that a `wait` may ask for.
const MAX_WAIT_MS: i64 = 600_000;

/// One event of a request: valid, or why not, with its id where it could be read.
pub type Item = Result<NewEvent, (Option<String>, Problem)>;

/// Reads one event.
///
/// # Errors
/// 400 or 422.
pub fn read_event(bytes: &[u8]) -> Answer<NewEvent> {
    NewEvent::read_text(bytes)
}

fn read_item(bytes: &[u8]) -> Item {
    if bytes.len() > MAX_EVENT_BYTES {
        return Err((None, Problem::too_large(format!("an event is at most {MAX_EVENT_BYTES} bytes of JSON"))));
    }
    if let Some(event) = NewEvent::read_plain(bytes) {
        return Ok(event);
    }
    let value = parse_json(bytes).map_err(|problem| (None, problem))?;
    let id = value.get("event_id").and_then(Value::as_str).filter(|id| is_event_id(id)).map(str::to_owned);
    NewEvent::read(value).map_err(|problem| (id, problem))
}

/// Reads a batch of events, one JSON object a line. Blank lines do not count.
///
/// # Errors
/// 422 where there are too many.
pub fn read_ndjson(bytes: &[u8]) -> Answer<Vec<Item>> {
    let lines: Vec<&[u8]> = bytes
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .take(MAX_BATCH_EVENTS + 1)
        .collect();
    if lines.len() > MAX_BATCH_EVENTS {
        return Err(Problem::invalid_field("", format!("a batch has at most {MAX_BATCH_EVENTS} events")));
    }
    Ok(lines.into_iter().map(read_item).collect())
}

/// Reads a batch of events as `{"events": […]}`.
///
/// # Errors
/// 400 where the whole is not JSON, 422 where it is not such an object or has too many events.
pub fn read_batch(bytes: &[u8]) -> Answer<Vec<Item>> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Problem::bad_request(format!("the body is not UTF-8 from byte {} on", error.valid_up_to())))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut errors = FieldErrors::default();
    let read =
        deserializer.deserialize_any(BatchVisitor { errors: &mut errors }).and_then(|events| deserializer.end().map(|()| events));
    match read {
        Ok(events) => {
            let items = events.unwrap_or_default();
            errors.into_result(())?;
            Ok(items.into_iter().map(|raw| read_item(raw.get().as_bytes())).collect())
        }
        // What the visitor refuses ends the reading early: what follows may still not be JSON.
        Err(error) if error.classify() == Category::Data => {
            serde_json::from_str::<IgnoredAny>(text)
                .map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))?;
            if errors.is_empty() {
                errors.push("", "must be an object with `events`");
            }
            Err(errors.into_problem())
        }
        Err(error) => Err(Problem::bad_request(format!("the body is not JSON: {error}"))),
    }
}

/// Takes the body's members one by one without building their values: events stay raw text until each is read on its own.
struct BatchVisitor<'e> {
    errors: &'e mut FieldErrors,
}

impl<'de> Visitor<'de> for BatchVisitor<'_> {
    type Value = Option<Vec<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `events`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut events = None;
        while let Some(name) = access.next_key::<String>()? {
            if name != "events" {
                self.errors.push(memori_service::problem::join("", &name), "is not a known field");
                access.next_value::<IgnoredAny>()?;
            } else if events.is_some() {
                self.errors.push("events", "is there more than once");
                access.next_value::<IgnoredAny>()?;
            } else {
                events = Some(access.next_value_seed(EventsSeed { errors: &mut *self.errors })?);
            }
        }
        if events.is_none() {
            self.errors.push("events", "is required");
        }
        Ok(events)
    }
}

struct EventsSeed<'e> {
    errors: &'e mut FieldErrors,
}

impl<'de> serde::de::DeserializeSeed<'de> for EventsSeed<'_> {
    type Value = Vec<&'de RawValue>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> EventsSeed<'_> {
    fn no_list<E: serde::de::Error>(self) -> Result<Vec<&'de RawValue>, E> {
        self.errors.push("events", "must be a list");
        Err(E::custom("events is no list"))
    }
}

impl<'de> Visitor<'de> for EventsSeed<'_> {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut events = Vec::new();
        while let Some(raw) = access.next_element::<&RawValue>()? {
            if events.len() == MAX_BATCH_EVENTS {
                self.errors.push("events", format!("must have at most {MAX_BATCH_EVENTS} items"));
                return Err(A::Error::custom("too many events"));
            }
            events.push(raw);
        }
        Ok(events)
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        self.no_list()
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Self::Value, E> {
        self.no_list()
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Self::Value, E> {
        self.no_list()
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Self::Value, E> {
        self.no_list()
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Self::Value, E> {
        self.no_list()
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Self::Value, E> {
        self.no_list()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        self.errors.push("events", "is required");
        Err(E::custom("events is null"))
    }
}

/// A `wait`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitRequest {
    /// Whose ends are waited for, as asked.
    pub event_ids: Vec<String>,
    /// How long, in milliseconds.
    pub timeout_ms: u64,
    /// Whether the worker is asked to begin with what it gathers in windows.
    pub flush: bool,
}

/// Reads a `wait`.
///
/// # Errors
/// 400 or 422.
pub fn read_wait(bytes: &[u8]) -> Answer<WaitRequest> {
    let mut errors = FieldErrors::default();
    let value = parse_json(bytes)?;
    let Some(mut fields) = Fields::of(value, "", &mut errors) else { return Err(errors.into_problem()) };
    let list = fields.required_list("event_ids", 0..=MAX_EVENT_IDS).unwrap_or_default();
    let mut event_ids = Vec::with_capacity(list.len());
    for (index, value) in list.into_iter().enumerate() {
        match value {
            Value::String(id) if is_event_id(&id) => event_ids.push(id),
            _ => fields.errors().push(format!("event_ids[{index}]"), "must be an event id: a string of 1 to 128 characters"),
        }
    }
    let timeout_ms = fields.integer("timeout_ms", 0..=MAX_WAIT_MS).unwrap_or(DEFAULT_WAIT_MS);
    let flush = fields.boolean("flush").unwrap_or(true);
    fields.finish();
    errors.into_result(WaitRequest { event_ids, timeout_ms: timeout_ms.unsigned_abs(), flush })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"{"event_id":"e","entity_id":"a","messages":[{"role":"user","content":"x"}]}"#;

    fn statuses(items: &[Item]) -> Vec<u16> {
        items.iter().map(|item| item.as_ref().map_or_else(|(_, problem)| problem.status.as_u16(), |_| 202)).collect()
    }

    #[test]
    fn in_a_batch_each_event_stands_alone() {
        let big = format!(r#"{{"entity_id":"a","messages":[{{"role":"user","content":"{}"}}]}}"#, "x".repeat(MAX_EVENT_BYTES));
        let body = format!(r#"{{"events":[{GOOD}, 7, {{"entity_id":1}}, {{"a":1,"a":2}}, "\ud800", {big}, {GOOD}]}}"#);
        assert_eq!(statuses(&read_batch(body.as_bytes()).unwrap()), [202, 422, 422, 422, 400, 413, 202]);
        let lines = format!("{GOOD}\r\n\n7\n{{\"entity_id\":1\n\"\\ud800\"\n{big}\n  {GOOD}");
        let mut lines = lines.into_bytes();
        lines.extend_from_slice(b"\n\"\xff\"\n");
        assert_eq!(statuses(&read_ndjson(&lines).unwrap()), [202, 422, 400, 400, 413, 202, 400]);
    }

    #[test]
    fn a_refused_event_is_named_where_its_id_could_be_read() {
        let items = read_batch(br#"{"events":[{"event_id":"mine"},{"event_id":""},{"event_id":7}]}"#).unwrap();
        let ids: Vec<_> = items.into_iter().map(|item| item.unwrap_err().0).collect();
        assert_eq!(ids, [Some("mine".to_owned()), None, None]);
    }

    #[test]
    fn the_batch_itself_is_judged_as_a_whole() {
        let status = |body: &str| read_batch(body.as_bytes()).map_or_else(|problem| problem.status.as_u16(), |_| 200);
        for (body, expected) in [
            ("", 400),
            ("{", 400),
            (r#"{"events":[}"#, 400),
            (r#"{"events":[]} x"#, 400),
            (r#"{"events":[1 2]}"#, 400),
            ("[]", 422),
            ("7", 422),
            ("null", 422),
            (r#""events""#, 422),
            ("{}", 422),
            (r#"{"events":null}"#, 422),
            (r#"{"events":{}}"#, 422),
            (r#"{"events":"x"}"#, 422),
            (r#"{"events":1.5}"#, 422),
            (r#"{"events":[],"more":1}"#, 422),
            (r#"{"events":[],"events":[]}"#, 422),
            (r#"{"events":[]}"#, 200),
        ] {
            assert_eq!(status(body), expected, "{body}");
        }
        let many = |n: usize| format!(r#"{{"events":[{}]}}"#, vec!["1"; n].join(","));
        assert_eq!((status(&many(1_000)), status(&many(1_001))), (200, 422));
        assert!(read_ndjson("1\n".repeat(1_000).as_bytes()).is_ok());
        assert_eq!(read_ndjson("1\n".repeat(1_001).as_bytes()).unwrap_err().status, 422);
        assert!(read_ndjson(b"").unwrap().is_empty());
    }

    #[test]
    fn a_wait_has_ids_and_a_time() {
        let wait = read_wait(br#"{"event_ids":["a","b","a"]}"#).unwrap();
        assert_eq!((wait.event_ids.len(), wait.timeout_ms, wait.flush), (3, 10_000, true));
        assert!(!read_wait(br#"{"event_ids":[],"flush":false}"#).unwrap().flush);
        for (body, path) in [
            (r#"{}"#, "event_ids"),
            (r#"{"event_ids":"a"}"#, "event_ids"),
            (r#"{"event_ids":[1]}"#, "event_ids[0]"),
            (r#"{"event_ids":[""]}"#, "event_ids[0]"),
            (r#"{"event_ids":[],"timeout_ms":-1}"#, "timeout_ms"),
            (r#"{"event_ids":[],"timeout_ms":1e300}"#, "timeout_ms"),
            (r#"{"event_ids":[],"flush":1}"#, "flush"),
            (r#"{"event_ids":[],"x":1}"#, "x"),
            ("[]", ""),
        ] {
            let problem = read_wait(body.as_bytes()).unwrap_err();
            assert_eq!((problem.status.as_u16(), problem.errors[0].path.as_str()), (422, path), "{body}");
        }
        let many = format!(r#"{{"event_ids":[{}]}}"#, vec![r#""a""#; 1_001].join(","));
        assert_eq!(read_wait(many.as_bytes()).unwrap_err().status, 422);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in r#"[\[\]{}:,"a-e0-9 \n]{0,60}"#, bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for bytes in [text.as_bytes(), &bytes] {
                let _ = (read_batch(bytes), read_ndjson(bytes), read_wait(bytes), read_event(bytes).is_ok());
            }
        }
    }
}
