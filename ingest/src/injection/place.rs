//! Where a block stands in a provider's request.
//!
//! Promises: pure; the request's bytes stay as they are and in their order, and one run of bytes is put between them, inside the
//! last message of the user that has text (a tool's result is none) and behind its text. So nothing before that message changes,
//! through all calls of a turn the block stands at one place, and what a client marked to be cached is not behind it. A request
//! that is not understood has no place: it passes as it is.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Whose request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestShape {
    /// `POST /chat/completions` of OpenAI.
    OpenAiChat,
    /// `POST /responses` of OpenAI.
    OpenAiResponses,
    /// `POST /messages` of Anthropic.
    AnthropicMessages,
}

/// Bytes to put into a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insertion {
    /// Before which byte of the request.
    pub at: usize,
    /// What.
    pub text: String,
}

impl Insertion {
    /// The request with it.
    #[must_use]
    pub fn into_request(self, body: &[u8]) -> Vec<u8> {
        let mut request = Vec::with_capacity(body.len() + self.text.len());
        let (before, behind) = body.split_at(self.at);
        request.extend_from_slice(before);
        request.extend_from_slice(self.text.as_bytes());
        request.extend_from_slice(behind);
        request
    }
}

#[derive(Deserialize)]
struct ChatRequest<'a> {
    #[serde(borrow)]
    messages: &'a RawValue,
}

#[derive(Deserialize)]
struct ResponsesRequest<'a> {
    #[serde(borrow)]
    input: &'a RawValue,
}

#[derive(Deserialize)]
struct Turn<'a> {
    #[serde(borrow, default)]
    role: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
}

/// Where `block` goes in the request. None where the request has no message of a user, or is not understood.
#[must_use]
pub fn place(body: &[u8], shape: RequestShape, block: &str) -> Option<Insertion> {
    let body = std::str::from_utf8(body).ok()?;
    let turns = match shape {
        RequestShape::OpenAiChat | RequestShape::AnthropicMessages => {
            serde_json::from_str::<ChatRequest<'_>>(body).ok()?.messages
        }
        RequestShape::OpenAiResponses => serde_json::from_str::<ResponsesRequest<'_>>(body).ok()?.input,
    };
    if shape == RequestShape::OpenAiResponses && turns.get().starts_with('"') {
        return Some(within_string(body, turns, block));
    }
    let turns: Vec<&RawValue> = serde_json::from_str(turns.get()).ok()?;
    let contents = turns.iter().rev().filter_map(|turn| {
        let turn: Turn<'_> = serde_json::from_str(turn.get()).ok()?;
        turn.content.filter(|_| turn.role.as_deref() == Some("user"))
    });
    // Where nobody wrote a text, a picture or file of the user will do.
    let mut fallback = None;
    for content in contents {
        match Content::of(content) {
            Content::Text => return Some(within_string(body, content, block)),
            Content::Parts { has_text: true, .. } => return Some(as_part(body, content, shape, block)),
            Content::Parts { has_own: true, .. } => fallback = fallback.or(Some(content)),
            Content::Parts { .. } | Content::Unknown => {}
        }
    }
    fallback.map(|content| as_part(body, content, shape, block))
}

enum Content {
    Text,
    Parts { has_text: bool, has_own: bool },
    Unknown,
}

impl Content {
    fn of(content: &RawValue) -> Self {
        if content.get().starts_with('"') {
            return Self::Text;
        }
        let Ok(parts) = serde_json::from_str::<Vec<Part<'_>>>(content.get()) else { return Self::Unknown };
        let kinds = || parts.iter().filter_map(|part| part.kind.as_deref());
        Self::Parts {
            has_text: kinds().any(|kind| matches!(kind, "text" | "input_text")),
            has_own: kinds().any(|kind| kind != "tool_result"),
        }
    }
}

/// Before the closing quotation mark of a JSON string.
fn within_string(body: &str, string: &RawValue, block: &str) -> Insertion {
    let escaped = json_string(block);
    Insertion { at: end(body, string) - 1, text: escaped[1..escaped.len() - 1].to_owned() }
}

/// A part of its own behind the others: a mark to cache one of those is not moved, and tools' results stay in front.
fn as_part(body: &str, parts: &RawValue, shape: RequestShape, block: &str) -> Insertion {
    let kind = if shape == RequestShape::OpenAiResponses { "input_text" } else { "text" };
    Insertion { at: end(body, parts) - 1, text: format!(r#",{{"type":"{kind}","text":{}}}"#, json_string(block)) }
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Where a value that was borrowed from `body` ends.
fn end(body: &str, value: &RawValue) -> usize {
    value.get().as_ptr() as usize - body.as_ptr() as usize + value.get().len()
}

#[cfg(test)]
mod tests;
