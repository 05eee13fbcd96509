//! Where a block stands in a provider's request.
//!
//! Promises: pure; the request's bytes stay as they are and in their order, and what is put between them stands in or around the
//! content of the last message that the user wrote (a tool's result is none), behind all of it. So nothing before that message
//! changes, through all calls of a turn the block stands at one place, and what a client marked to be cached is not behind it.
//!
//! Where a request of Anthropic's asks for caching as a whole, the provider marks its last block, which would be ours: what is
//! written to the cache would hold the block, and the next turn, whose history has none, would never find it. There the user's own
//! last part gets the same mark, so that the cache is written up to the end of what the client will send again.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::wire::Surface;

/// The most marks that Anthropic takes in one request, the one for the whole included.
const MAX_MARKS: usize = 4;

/// Bytes to put into a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Insertion {
    /// Before which byte of the request.
    pub(crate) at: usize,
    /// What.
    pub(crate) text: String,
}

/// Where a block goes in one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where the content ends: before its closing quotation mark or bracket.
    at: usize,
    form: Form,
    /// For an Anthropic request that is to be cached as a whole.
    mark: Option<Mark>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// More of a string.
    Text,
    /// One more part of this type.
    Part(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mark {
    /// On a string, which becomes a part: where it starts, and the mark as the client gave it.
    String(usize, String),
    /// On a part: where it ends.
    Part(usize, String),
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    cache_control: Option<&'a RawValue>,
}

impl Place {
    /// In or behind `content`, which was borrowed from `body`. None where no user wrote it. `cached` is how the request as a whole
    /// is to be cached.
    pub(crate) fn of_content(body: &str, surface: Surface, content: &RawValue, cached: Option<&RawValue>) -> Option<Self> {
        let at = end(body, content) - 1;
        let has_room = || body.matches(r#""cache_control""#).nth(MAX_MARKS - 1).is_none();
        let cached = cached.filter(|mark| mark.get().starts_with('{') && has_room()).map(|mark| mark.get().to_owned());
        if content.get().starts_with('"') {
            // The provider refuses a mark on nothing.
            let mark = cached.filter(|_| content.get() != r#""""#).map(|mark| Mark::String(start(body, content), mark));
            return Some(Self { at, form: Form::Text, mark });
        }
        let parts: Vec<&RawValue> = serde_json::from_str(content.get()).ok()?;
        let (mut is_own, mut mark) = (false, None);
        for raw in parts {
            let Ok(part) = serde_json::from_str::<Part<'_>>(raw.get()) else { continue };
            let kind = part.kind.as_deref();
            is_own |= kind.is_some_and(|kind| kind != "tool_result");
            let can_be_marked =
                part.cache_control.is_none() && matches!(kind, Some("text" | "image" | "document" | "tool_result"));
            mark = can_be_marked.then(|| end(body, raw) - 1);
        }
        let mark = cached.zip(mark).map(|(cached, at)| Mark::Part(at, cached));
        let kind = if surface == Surface::OpenAiResponses { "input_text" } else { "text" };
        is_own.then_some(Self { at, form: Form::Part(kind), mark })
    }

    /// What puts `block` there, in the order of its places.
    #[must_use]
    pub(crate) fn insertions(&self, block: &str) -> Vec<Insertion> {
        let text = json_string(block);
        let insertion = |at, text: String| Insertion { at, text };
        match (self.form, &self.mark) {
            (Form::Text, Some(Mark::String(start, mark))) => vec![
                insertion(*start, r#"[{"type":"text","text":"#.to_owned()),
                insertion(self.at + 1, format!(r#","cache_control":{mark}}},{{"type":"text","text":{text}}}]"#)),
            ],
            (Form::Text, _) => vec![insertion(self.at, text[1..text.len() - 1].to_owned())],
            (Form::Part(kind), mark) => {
                let mut insertions = Vec::with_capacity(2);
                if let Some(Mark::Part(at, mark)) = mark {
                    insertions.push(insertion(*at, format!(r#","cache_control":{mark}"#)));
                }
                // A part of its own behind the others: what is marked is not moved, and tools' results stay in front.
                insertions.push(insertion(self.at, format!(r#",{{"type":"{kind}","text":{text}}}"#)));
                insertions
            }
        }
    }

    /// `body` with `block`.
    #[must_use]
    pub(crate) fn with_block(&self, body: &[u8], block: &str) -> Vec<u8> {
        let insertions = self.insertions(block);
        let mut request = Vec::with_capacity(body.len() + insertions.iter().map(|insertion| insertion.text.len()).sum::<usize>());
        let mut copied = 0;
        for insertion in insertions {
            request.extend_from_slice(&body[copied..insertion.at]);
            request.extend_from_slice(insertion.text.as_bytes());
            copied = insertion.at;
        }
        request.extend_from_slice(&body[copied..]);
        request
    }
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Where a value that was borrowed from `body` starts.
fn start(body: &str, value: &RawValue) -> usize {
    value.get().as_ptr() as usize - body.as_ptr() as usize
}

/// Where a value that was borrowed from `body` ends.
fn end(body: &str, value: &RawValue) -> usize {
    start(body, value) + value.get().len()
}

#[cfg(test)]
mod tests;
