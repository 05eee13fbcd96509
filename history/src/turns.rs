//! A conversation as events: one for each turn, from what a person says to the last answer before the person speaks again.
//!
//! Promises: an event's id is a function of whose conversation it is and of the source's own ids, or else of what is said, so a
//! repeated or overlapping import makes the same events; nothing an event may not have (size, number of messages) is made, but for a
//! message that alone is too large.

use std::collections::HashMap;

use memori_schemas::Micros;
use serde_json::{Map, Value, json};

use crate::options::Options;
use crate::record::Bad;

/// The most messages of one event.
const MAX_MESSAGES: usize = 500;
/// About the most bytes of one event; the log takes 1 MiB of JSON.
const MAX_BYTES: usize = 768 << 10;

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// The source's own id.
    pub id: Option<String>,
    /// `user`, `assistant`, `system` or `tool`.
    pub role: &'static str,
    /// Who of several.
    pub name: Option<String>,
    /// Text, or a provider's list of parts.
    pub content: Value,
    /// When, where the source says.
    pub at: Option<Micros>,
}

/// A conversation, or a part of one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The source's own id of it.
    pub id: Option<String>,
    /// Whom it is about, where the source says.
    pub entity: Option<String>,
    /// With which agent.
    pub process: Option<String>,
    /// Its session; else its own id.
    pub session: Option<String>,
    /// When it began.
    pub at: Option<Micros>,
    /// What is kept beside each of its events.
    pub metadata: Map<String, Value>,
    /// In order.
    pub messages: Vec<Said>,
}

/// An event's id from its parts: each counts with its length, so that no two lists of parts look alike.
pub(crate) fn event_id<'a>(parts: impl IntoIterator<Item = Option<&'a str>>) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        match part {
            None => {
                hasher.update(&[0]);
            }
            Some(part) => {
                hasher.update(&[1]).update(&(part.len() as u64).to_be_bytes()).update(part.as_bytes());
            }
        }
    }
    format!("bf-{}", hex::encode(&hasher.finalize().as_bytes()[..16]))
}

/// The roles that sources use.
#[must_use]
pub fn role(text: &str) -> Option<&'static str> {
    Some(match text.to_ascii_lowercase().as_str() {
        "user" | "human" | "humanmessage" | "humanmessagechunk" | "prompter" => "user",
        "assistant" | "ai" | "gpt" | "model" | "bot" | "bard" | "bing" | "chatgpt" | "claude" | "aimessage"
        | "aimessagechunk" => "assistant",
        "system" | "developer" | "systemmessage" => "system",
        "tool" | "function" | "toolmessage" | "functionmessage" | "function_call" | "function_response" | "observation" => "tool",
        _ => return None,
    })
}

/// Whether there is nothing to read in it.
#[must_use]
pub fn is_empty(content: &Value) -> bool {
    match content {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(parts) => parts.is_empty(),
        _ => false,
    }
}

fn bytes(content: &Value) -> usize {
    match content {
        Value::String(text) => text.len(),
        other => other.to_string().len(),
    }
}

/// Cuts messages into turns within the bounds of an event.
fn turns(messages: Vec<Said>) -> Vec<Vec<Said>> {
    let mut turns: Vec<Vec<Said>> = Vec::new();
    let (mut size, mut answered) = (0, false);
    for message in messages {
        let own = bytes(&message.content) + 256;
        let speaks_anew = message.role == "user" && answered;
        match turns.last_mut() {
            Some(turn) if !speaks_anew && turn.len() < MAX_MESSAGES && size + own <= MAX_BYTES => {
                size += own;
                answered |= message.role != "user" && message.role != "system";
                turn.push(message);
            }
            _ => {
                size = own;
                answered = message.role != "user" && message.role != "system";
                turns.push(vec![message]);
            }
        }
    }
    turns
}

/// The events of a conversation, in order, as bodies of `POST /v1/events`.
///
/// # Errors
/// It is nobody's.
pub fn events(format: &str, conversation: Conversation, options: &Options) -> Result<Vec<Value>, Bad> {
    let Conversation { id, entity, process, session, at, metadata, messages } = conversation;
    let Some(entity) = entity.or_else(|| options.entity.clone()) else {
        return Err(Bad::new(
            "the record names no entity: say whose it is with --entity, or which field does with --map entity=FIELD",
            b"",
        ));
    };
    let process = process.or_else(|| options.process.clone());
    let session = session.or_else(|| id.clone());
    let messages: Vec<Said> = messages.into_iter().filter(|message| !is_empty(&message.content)).collect();
    // A message without a time has that of the one before it; the first have the conversation's.
    let began = at.or_else(|| messages.iter().find_map(|message| message.at));
    let mut known = began;
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut made = Vec::new();
    for (number, turn) in turns(messages).into_iter().enumerate() {
        let occurred_at = turn.iter().find_map(|message| message.at).or(known);
        known = turn.iter().filter_map(|message| message.at).next_back().or(occurred_at);
        let occurred_at = occurred_at.or_else(|| {
            let second = i64::try_from(number).unwrap_or(i64::MAX).saturating_mul(1_000_000);
            options.occurred_at.map(|base| Micros(base.0.saturating_add(second)))
        });
        let event_id = turn_id(format, &entity, process.as_deref(), id.as_deref().or(session.as_deref()), &turn, &mut seen);
        let mut event = Map::new();
        event.insert("event_id".into(), event_id.into());
        event.insert("entity_id".into(), entity.as_str().into());
        for (field, value) in [("process_id", &process), ("session_id", &session)] {
            if let Some(value) = value {
                event.insert(field.into(), value.as_str().into());
            }
        }
        if let Some(at) = occurred_at {
            event.insert("occurred_at".into(), at.to_rfc3339().into());
        }
        event.insert("messages".into(), turn.into_iter().map(shown).collect());
        if !metadata.is_empty() {
            event.insert("metadata".into(), Value::Object(metadata.clone()));
        }
        made.push(Value::Object(event));
    }
    Ok(made)
}

/// By the source's ids where every message has one; else by what is said, when, and how often before in this conversation.
fn turn_id(
    format: &str,
    entity: &str,
    process: Option<&str>,
    conversation: Option<&str>,
    turn: &[Said],
    seen: &mut HashMap<String, u32>,
) -> String {
    let head = [Some(format), Some(entity), process, conversation];
    if turn.iter().all(|message| message.id.is_some()) {
        return event_id(head.into_iter().chain(turn.iter().map(|message| message.id.as_deref())));
    }
    let texts: Vec<String> = turn
        .iter()
        .flat_map(|message| {
            let at = message.at.map(|at| at.0.to_string()).unwrap_or_default();
            [
                message.role.to_owned(),
                message.name.clone().unwrap_or_default(),
                at,
                memori_schemas::ids::canonical_json(&message.content),
            ]
        })
        .collect();
    let first = event_id(head.into_iter().chain(texts.iter().map(|text| Some(text.as_str()))));
    let times = seen.entry(first.clone()).or_default();
    *times += 1;
    if *times == 1 { first } else { event_id([Some(first.as_str()), Some(times.to_string().as_str())]) }
}

fn shown(message: Said) -> Value {
    let mut shown = json!({"role": message.role, "content": message.content});
    if let Some(id) = message.id {
        shown["message_id"] = id.into();
    }
    if let Some(name) = message.name {
        shown["name"] = name.into();
    }
    if let Some(at) = message.at {
        shown["created_at"] = at.to_rfc3339().into();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(role: &'static str, text: &str) -> Said {
        Said { role, content: text.into(), ..Said::default() }
    }

    fn options() -> Options {
        Options { entity: Some("ada".to_owned()), ..Options::default() }
    }

    fn shape(events: &[Value]) -> Vec<Vec<&str>> {
        let texts = |event: &Value| -> Vec<String> {
            event["messages"].as_array().unwrap().iter().map(|m| m["content"].as_str().unwrap().to_owned()).collect()
        };
        events.iter().map(|event| texts(event).into_iter().map(|text| &*text.leak()).collect()).collect()
    }

    #[test]
    fn a_turn_ends_where_the_person_speaks_again() {
        let messages = vec![
            said("system", "s"),
            said("user", "a"),
            said("user", "b"),
            said("assistant", "c"),
            said("tool", "d"),
            said("assistant", "e"),
            said("user", "f"),
            said("user", " "),
        ];
        let conversation = Conversation { messages, ..Conversation::default() };
        let events = events("test", conversation, &options()).unwrap();
        assert_eq!(shape(&events), [vec!["s", "a", "b", "c", "d", "e"], vec!["f"]]);
    }

    #[test]
    fn times_come_from_the_nearest_before() {
        let at = |seconds: i64| Some(Micros(seconds * 1_000_000));
        let mut messages =
            vec![said("user", "a"), said("assistant", "b"), said("user", "c"), said("assistant", "d"), said("user", "e")];
        messages[1].at = at(7);
        messages[3].at = at(9);
        let times = |at, options: &Options, messages: &[Said]| -> Vec<Option<String>> {
            let conversation = Conversation { at, messages: messages.to_vec(), ..Conversation::default() };
            events("test", conversation, options).unwrap().iter().map(|e| e["occurred_at"].as_str().map(str::to_owned)).collect()
        };
        let shown = |seconds: i64| Some(Micros(seconds * 1_000_000).to_rfc3339());
        assert_eq!(times(at(1), &options(), &messages), [shown(7), shown(9), shown(9)]);
        let silent: Vec<Said> = messages.iter().cloned().map(|m| Said { at: None, ..m }).collect();
        assert_eq!(times(at(1), &options(), &silent), [shown(1), shown(1), shown(1)]);
        assert_eq!(times(None, &options(), &silent), [None, None, None]);
        let based = Options { occurred_at: at(100), ..options() };
        assert_eq!(times(None, &based, &silent), [shown(100), shown(101), shown(102)]);
    }

    #[test]
    fn ids_hold_over_a_longer_export_and_differ_by_person() {
        let ids = |entity: &str, messages: Vec<Said>| -> Vec<String> {
            let conversation =
                Conversation { id: Some("c".into()), entity: Some(entity.into()), messages, ..Conversation::default() };
            events("test", conversation, &options()).unwrap().iter().map(|e| e["event_id"].as_str().unwrap().to_owned()).collect()
        };
        let short = vec![said("user", "ok"), said("assistant", "x"), said("user", "ok"), said("assistant", "x")];
        let long = [short.clone(), vec![said("user", "more")]].concat();
        let (a, b) = (ids("ada", short.clone()), ids("ada", long));
        assert_eq!(a, b[..2]);
        assert_ne!(a[0], a[1], "said twice is two events");
        assert_ne!(a[0], ids("bob", short)[0]);
    }

    #[test]
    fn a_long_turn_is_several_events_within_the_bounds() {
        let messages = std::iter::once(said("user", "go")).chain((0..1_200).map(|_| said("tool", &"x".repeat(2_000))));
        let events =
            events("test", Conversation { messages: messages.collect(), ..Conversation::default() }, &options()).unwrap();
        assert!(events.len() > 3);
        assert!(events.iter().all(|event| event.to_string().len() < 1 << 20));
        let ids: std::collections::HashSet<_> = events.iter().map(|event| event["event_id"].to_string()).collect();
        assert_eq!(ids.len(), events.len());
    }
}
