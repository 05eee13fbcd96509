//! A call as a conversation event: what was new in the request, and what was answered.

use memori_schemas::{Micros, Role};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::answer::{Answer, Cut};
use super::parts;
use super::request::Request;
use crate::new_event::{MAX_EVENT_BYTES, MAX_METADATA};

/// Where an event's texts must be cut, they are tried at so many bytes each, and at halves of it down to [`MIN_TEXT_BYTES`].
const MAX_TEXT_BYTES: usize = 256 << 10;
/// What fits at least once a text of every message is cut.
const MIN_TEXT_BYTES: usize = 256;
/// Room for what is noted only then.
const NOTES: usize = 2;
/// One entry of metadata is cut to so many bytes.
const MAX_METADATA_BYTES: usize = 4 << 10;
/// What a text loses is said where it stood.
const CUT_MARK: &str = " […]";

/// What a call's event says beside the call itself.
#[derive(Clone, Copy, Debug)]
pub struct Capture<'a> {
    /// The idempotency key: one for a call and all of its retries.
    pub event_id: &'a str,
    /// Whom it is about.
    pub entity_id: &'a str,
    /// The agent that talks.
    pub process_id: Option<&'a str>,
    /// The conversation.
    pub session_id: Option<&'a str>,
    /// When the call began.
    pub occurred_at: Micros,
    /// From the call's beginning to the answer's end.
    pub latency_ms: f64,
    /// More entries; names that begin with `llm.` are taken.
    pub metadata: &'a [(String, String)],
}

/// The body for `POST /v1/events`, within its bounds: what is too long is cut, and metadata says so. None where there is nothing to
/// capture: the call failed, or nobody said anything new.
#[must_use]
pub fn captured_event(request: &Request, answer: &Answer, capture: &Capture<'_>) -> Option<Vec<u8>> {
    if answer.is_failure() || !request.is_worth_capturing() {
        return None;
    }
    let mut messages: Vec<Value> = request
        .messages()
        .iter()
        .map(|message| {
            let mut said = json!({"role": message.role.as_str(), "content": message.content});
            if let Some(name) = &message.name {
                said["name"] = name.as_str().into();
            }
            said
        })
        .collect();
    messages.extend(content(request, answer).map(|content| json!({"role": Role::Assistant.as_str(), "content": content})));
    if messages.is_empty() {
        return None;
    }
    let event = Event {
        event_id: capture.event_id,
        entity_id: capture.entity_id,
        process_id: capture.process_id.filter(|id| !id.is_empty()),
        session_id: capture.session_id.filter(|id| !id.is_empty()),
        occurred_at: capture.occurred_at.to_rfc3339(),
        messages,
        metadata: metadata(request, answer, capture),
    };
    Some(event.within_bounds(request.left_out().messages))
}

#[derive(Serialize)]
struct Event<'a> {
    event_id: &'a str,
    entity_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    process_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    occurred_at: String,
    messages: Vec<Value>,
    metadata: Map<String, Value>,
}

/// The answer as a message's content: a text where it is words alone, else its parts. None where nothing was said.
fn content(request: &Request, answer: &Answer) -> Option<Value> {
    let mut parts = answer.parts.clone();
    if let Some(prefill) = request.prefill().filter(|_| !parts.is_empty()) {
        match parts.first_mut().and_then(|part| part.get_mut("text")) {
            Some(Value::String(text)) => text.insert_str(0, prefill),
            _ => parts.insert(0, json!({"type": "text", "text": prefill})),
        }
    }
    let is_words = |part: &Value| part.as_object().is_some_and(|part| part.len() == 2 && part["type"] == "text");
    match parts.as_slice() {
        [] => None,
        [part] if is_words(part) => Some(parts::said(part["text"].as_str()?.to_owned())?.into()),
        _ => Some(parts.into()),
    }
}

fn metadata(request: &Request, answer: &Answer, capture: &Capture<'_>) -> Map<String, Value> {
    let usage = &answer.usage;
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let many = |count: usize| (count > 0).then(|| count.to_string());
    let payloads = request.left_out().payloads + answer.left_out.payloads;
    let ours = [
        ("llm.provider", Some(request.provider().to_owned())),
        ("llm.surface", Some(request.surface().label().to_owned())),
        ("llm.model", answer.model.clone().or_else(|| request.model().map(str::to_owned))),
        ("llm.response_id", answer.response_id.clone()),
        ("llm.previous_response_id", request.previous_response_id().map(str::to_owned)),
        ("llm.conversation_id", request.conversation_id().map(str::to_owned)),
        ("llm.finish_reason", answer.finish_reason.clone()),
        ("llm.cut", answer.cut.map(|cut| Cut::label(cut).to_owned())),
        ("llm.error", answer.error.clone()),
        ("llm.choices", (answer.choices > 1).then(|| answer.choices.to_string())),
        ("llm.input_tokens", number(usage.input_tokens)),
        ("llm.output_tokens", number(usage.output_tokens)),
        ("llm.cached_input_tokens", number(usage.cached_input_tokens)),
        ("llm.latency_ms", Some(format!("{:.1}", capture.latency_ms))),
        ("llm.payloads_left_out", many(payloads)),
        ("llm.messages_left_out", many(request.left_out().messages)),
    ];
    let ours = ours.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let mut entries: Map<String, Value> = Map::new();
    for (name, mut value) in ours.chain(capture.metadata.iter().filter(|(name, _)| !name.starts_with("llm.")).cloned()) {
        if entries.len() < MAX_METADATA - NOTES && name.len() <= MAX_METADATA_BYTES && !name.contains('\0') {
            value.truncate(value.floor_char_boundary(MAX_METADATA_BYTES));
            entries.insert(name, value.replace('\0', "\u{FFFD}").into());
        }
    }
    entries
}

impl Event<'_> {
    /// The event's bytes: as it is, or with its longest texts cut, or, at the very last, with its newest messages only.
    fn within_bounds(mut self, mut left_out: usize) -> Vec<u8> {
        let mut bytes = self.bytes();
        let (mut max_bytes, mut cut) = (MAX_TEXT_BYTES, 0);
        while bytes.len() > MAX_EVENT_BYTES && max_bytes >= MIN_TEXT_BYTES {
            self.messages.iter_mut().for_each(|message| shorten(message, max_bytes, &mut cut));
            self.note("llm.texts_cut", cut);
            bytes = self.bytes();
            max_bytes /= 2;
        }
        while bytes.len() > MAX_EVENT_BYTES {
            match self.messages.as_mut_slice() {
                // Of a message of too many small parts, half of the parts is as good.
                [message] => match &mut message["content"] {
                    Value::Array(parts) if parts.len() > 1 => parts.truncate(parts.len() / 2),
                    content => *content = CUT_MARK.trim().into(),
                },
                all => {
                    let older = all.len() / 2;
                    left_out += older;
                    self.messages.drain(..older);
                }
            }
            self.note("llm.messages_left_out", left_out);
            self.note("llm.texts_cut", cut.max(1));
            bytes = self.bytes();
        }
        bytes
    }

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn note(&mut self, name: &str, count: usize) {
        if count > 0 {
            self.metadata.insert(name.into(), count.to_string().into());
        }
    }
}

/// Cuts every text inside to `max_bytes`, and counts those that it cut.
fn shorten(value: &mut Value, max_bytes: usize, cut: &mut usize) {
    match value {
        Value::String(text) if text.len() > max_bytes => {
            *cut += usize::from(!text.ends_with(CUT_MARK));
            text.truncate(text.floor_char_boundary(max_bytes - CUT_MARK.len()));
            text.push_str(CUT_MARK);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| shorten(item, max_bytes, cut)),
        Value::Object(members) => members.values_mut().for_each(|member| shorten(member, max_bytes, cut)),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
