//! A call to a model: what it is, what is new in it, and where memory goes.

use bytes::Bytes;
use memori_schemas::Role;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::parts::{self, LeftOut};
use super::turns::{Speaker, Turn};
use super::{Surface, json as text_json};
use crate::context_block::{CLOSE, OPEN};
use crate::injection::Place;
use crate::new_event::MAX_MESSAGES;

/// Of a long message, so many bytes of its beginning and of its end are what recall is asked with.
const QUERY_END_BYTES: usize = 2_048;

/// The newest so many are kept: an event has room for them and the answer.
const MAX_NEW_MESSAGES: usize = MAX_MESSAGES - 1;

/// A message as an event has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// Which person or tool, where the request says so.
    pub name: Option<String>,
    /// A text or a list of parts.
    pub content: Value,
}

/// One call to a model, as its request says it.
#[derive(Clone, Debug)]
pub struct Request {
    surface: Surface,
    provider: &'static str,
    body: Bytes,
    model: Option<String>,
    streams: bool,
    messages: Vec<Message>,
    left_out: LeftOut,
    continues: bool,
    query: String,
    previous_response_id: Option<String>,
    conversation_id: Option<String>,
    prefill: Option<String>,
    place: Option<Place>,
    turn_key: Option<[u8; 16]>,
    is_within_turn: bool,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    stream: Option<&'a RawValue>,
    #[serde(borrow, default)]
    messages: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
    #[serde(borrow, default)]
    previous_response_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    conversation: Option<&'a RawValue>,
    #[serde(borrow, default)]
    cache_control: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Texted<'a> {
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
}

impl Request {
    /// The largest body that is looked at: the most that Anthropic takes.
    pub const MAX_BODY_BYTES: usize = 32 << 20;

    /// Reads a call's request. None where it is no call of a known surface, is too large, or is not understood: then the call is
    /// none of ours.
    #[must_use]
    pub fn parse(url_path: &str, content_type: Option<&str>, body: &Bytes) -> Option<Self> {
        let surface = Surface::of_path(url_path)?;
        if body.len() > Self::MAX_BODY_BYTES || !content_type.is_none_or(is_json) {
            return None;
        }
        let text = std::str::from_utf8(body).ok()?;
        let head: Body<'_> = serde_json::from_str(text).ok()?;
        let list = match surface {
            Surface::OpenAiResponses => head.input,
            Surface::OpenAiChat | Surface::AnthropicMessages => Some(head.messages?),
        };
        let mut request = Self {
            surface,
            provider: provider(surface, url_path),
            body: body.clone(),
            model: Turn::text_of(head.model),
            streams: head.stream.is_some_and(|stream| stream.get() == "true"),
            messages: Vec::new(),
            left_out: LeftOut::default(),
            continues: head.previous_response_id.is_some() || head.conversation.is_some(),
            query: String::new(),
            previous_response_id: Turn::text_of(head.previous_response_id),
            conversation_id: head.conversation.and_then(id_of),
            prefill: None,
            place: None,
            turn_key: None,
            is_within_turn: false,
        };
        match list {
            Some(input) if surface == Surface::OpenAiResponses && input.get().starts_with('"') => {
                request.read_text(text, input);
            }
            Some(list) => {
                let turns: Vec<&RawValue> = serde_json::from_str(list.get()).ok()?;
                // No other provider knows such a mark.
                let cached = head.cache_control.filter(|_| surface == Surface::AnthropicMessages);
                request.read_turns(text, &turns, cached);
            }
            // A stored prompt may need no input.
            None => {}
        }
        Some(request)
    }

    /// Which call it is.
    #[must_use]
    pub fn surface(&self) -> Surface {
        self.surface
    }

    /// Whose language it is: `openai`, `azure_openai` or `anthropic`.
    #[must_use]
    pub fn provider(&self) -> &'static str {
        self.provider
    }

    /// The model that is asked for.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Whether the answer is asked for as a stream.
    #[must_use]
    pub fn streams(&self) -> bool {
        self.streams
    }

    /// What is new: users' messages and tools' results behind the last that the model said.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// What the user last said, for recall. Empty: nothing to ask with.
    #[must_use]
    pub fn query(&self) -> &str {
        &self.query
    }

    /// Whether somebody said something new, or the model goes on with what it began.
    #[must_use]
    pub fn is_worth_capturing(&self) -> bool {
        !self.messages.is_empty() || self.continues
    }

    /// The same for all calls of one turn, while tools run: whoever made a block for the first call puts that one into the others
    /// too, so that what the provider cached stays the beginning of what it is sent. Meant beside a scope. None where a block has
    /// no place.
    #[must_use]
    pub fn turn_key(&self) -> Option<[u8; 16]> {
        self.turn_key
    }

    /// Whether this is a later call of a turn: the model spoke since the user did. Only then does an earlier block still fit.
    #[must_use]
    pub fn is_within_turn(&self) -> bool {
        self.is_within_turn
    }

    /// The response that it goes on from, where the provider keeps the history.
    #[must_use]
    pub fn previous_response_id(&self) -> Option<&str> {
        self.previous_response_id.as_deref()
    }

    /// The conversation that the provider keeps, where the request names one.
    #[must_use]
    pub fn conversation_id(&self) -> Option<&str> {
        self.conversation_id.as_deref()
    }

    /// The request as it came.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The request with `block` beside the user's last message. None where it has no place, or one is there already.
    #[must_use]
    pub fn with_block(&self, block: &str) -> Option<Bytes> {
        self.place.as_ref().map(|place| place.with_block(&self.body, block).into())
    }

    #[cfg(test)]
    pub(crate) fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// How the model's answer begins, given by the client, who does not get it again.
    pub(super) fn prefill(&self) -> Option<&str> {
        self.prefill.as_deref()
    }

    pub(super) fn left_out(&self) -> LeftOut {
        self.left_out
    }

    fn read_text(&mut self, body: &str, input: &RawValue) {
        let Some(said) = text_json::text(input) else { return };
        self.anchor(body, input, &said, 0, None);
        if let Some(said) = parts::said(said) {
            self.query = bounded_query(&said);
            self.messages.push(Message { role: Role::User, name: None, content: said.into() });
        }
    }

    fn read_turns(&mut self, body: &str, turns: &[&RawValue], cached: Option<&RawValue>) {
        let mut last = turns.len();
        // What the client lets the model go on with, where that is words alone, answers what stands before it.
        while let Some(turn) = last.checked_sub(1).map(|at| Turn::of(turns[at], self.surface)).filter(|turn| turn.is_only_words) {
            if self.surface == Surface::AnthropicMessages && self.prefill.is_none() {
                self.prefill = turn.content.and_then(content_words);
            }
            last -= 1;
        }
        let (mut is_new, mut has_anchor) = (true, false);
        for at in (0..last).rev() {
            let turn = Turn::of(turns[at], self.surface);
            match turn.speaker {
                Speaker::Model if has_anchor => break,
                Speaker::Model => {
                    self.continues = true;
                    is_new = false;
                }
                Speaker::User if !has_anchor || self.query.is_empty() => {
                    let said = turn.content.and_then(content_words).unwrap_or_default();
                    if !has_anchor && let Some(content) = turn.content {
                        has_anchor = self.anchor(body, content, &said, at, cached);
                        self.is_within_turn = has_anchor && !is_new;
                    }
                    if has_anchor && self.query.is_empty() {
                        self.query = parts::said(said).map(|said| bounded_query(&said)).unwrap_or_default();
                    }
                }
                Speaker::User | Speaker::Tool | Speaker::Other => {}
            }
            if is_new {
                self.take(&turn);
            }
        }
        self.left_out.messages += self.messages.len().saturating_sub(MAX_NEW_MESSAGES);
        self.messages.truncate(MAX_NEW_MESSAGES);
        self.messages.reverse();
    }

    /// Finds the place of a block beside `content`, and what the turn is known by. Answers whether a user wrote the content.
    fn anchor(&mut self, body: &str, content: &RawValue, said: &str, at: usize, cached: Option<&RawValue>) -> bool {
        let Some(place) = Place::of_content(body, self.surface, content, cached) else { return false };
        // Who stands before us may have put a block there: one is enough.
        if !(said.contains(OPEN) && said.contains(CLOSE)) {
            self.place = Some(place);
            let mut hash = blake3::Hasher::new();
            hash.update(self.surface.label().as_bytes()).update(&(at as u64).to_le_bytes()).update(said.as_bytes());
            self.turn_key = hash.finalize().as_bytes().first_chunk().copied();
        }
        true
    }

    /// Keeps what is new, the last first.
    fn take(&mut self, turn: &Turn<'_>) {
        if self.messages.len() >= MAX_NEW_MESSAGES {
            self.left_out.messages += usize::from(matches!(turn.speaker, Speaker::User | Speaker::Tool));
            return;
        }
        let name = Turn::text_of(turn.name).and_then(parts::said);
        let left_out = &mut self.left_out;
        match turn.speaker {
            Speaker::User => {
                let Some(content) = turn.content.and_then(|content| content_of(content, left_out)) else { return };
                for (role, content) in by_speaker(content).into_iter().rev() {
                    self.messages.push(Message { role, name: name.clone(), content });
                }
            }
            Speaker::Tool => {
                let content = match self.surface {
                    Surface::OpenAiResponses => {
                        text_json::read::<Value>(turn.raw.get()).and_then(|item| parts::kept(item, left_out))
                    }
                    // The form of an event has no field for the call: the result becomes a part, as with the others.
                    Surface::OpenAiChat | Surface::AnthropicMessages => {
                        let result = turn.content.and_then(text_json_value).unwrap_or_default();
                        let mut part = json!({"type": "tool_result", "content": result});
                        if let Some(id) = Turn::text_of(turn.tool_call_id) {
                            part["tool_call_id"] = id.into();
                        }
                        parts::kept(part, left_out)
                    }
                };
                if let Some(part) = content {
                    self.messages.push(Message { role: Role::Tool, name, content: Value::Array(vec![part]) });
                }
            }
            Speaker::Model | Speaker::Other => {}
        }
    }
}

/// Anthropic's messages of a user may hold tools' results: those are the tools' messages.
fn by_speaker(content: Value) -> Vec<(Role, Value)> {
    let Value::Array(parts) = content else { return vec![(Role::User, content)] };
    let mut messages: Vec<(Role, Value)> = Vec::new();
    for part in parts {
        let role = if part.get("type").is_some_and(|kind| kind == "tool_result") { Role::Tool } else { Role::User };
        match messages.last_mut() {
            Some((last, Value::Array(parts))) if *last == role => parts.push(part),
            _ => messages.push((role, Value::Array(vec![part]))),
        }
    }
    messages
}

fn content_of(raw: &RawValue, left_out: &mut LeftOut) -> Option<Value> {
    match text_json_value(raw)? {
        Value::String(text) => parts::said(text).map(Value::String),
        Value::Array(list) => {
            let parts: Vec<Value> = list.into_iter().filter_map(|part| parts::kept(part, left_out)).collect();
            (!parts.is_empty()).then_some(Value::Array(parts))
        }
        _ => None,
    }
}

/// The words of a message: its text, or the `text` of its parts, one a line. What is no text is not decoded.
fn content_words(raw: &RawValue) -> Option<String> {
    if raw.get().starts_with('"') {
        return text_json::text(raw);
    }
    let parts: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
    let texts = parts.iter().filter_map(|part| {
        let text = if part.get().starts_with('"') { part } else { serde_json::from_str::<Texted<'_>>(part.get()).ok()?.text? };
        text_json::text(text)
    });
    Some(texts.collect::<Vec<_>>().join("\n"))
}

fn text_json_value(raw: &RawValue) -> Option<Value> {
    text_json::read(raw.get())
}

/// A conversation is an id, or an object that has it.
fn id_of(raw: &RawValue) -> Option<String> {
    match text_json_value(raw)? {
        Value::String(id) => Some(id),
        Value::Object(members) => members.get("id").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    }
}

fn bounded_query(text: &str) -> String {
    let text = text.trim();
    if text.len() <= 2 * QUERY_END_BYTES {
        return text.to_owned();
    }
    let head = &text[..text.floor_char_boundary(QUERY_END_BYTES)];
    let tail = &text[text.ceil_char_boundary(text.len() - QUERY_END_BYTES)..];
    format!("{head}\n{tail}")
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

fn provider(surface: Surface, url_path: &str) -> &'static str {
    match surface {
        Surface::AnthropicMessages => "anthropic",
        // What Azure serves below `/openai/v1` looks like OpenAI's own.
        _ if url_path.contains("/openai/deployments/") => "azure_openai",
        _ => "openai",
    }
}
