//! What a model answered, put together from one JSON or from a stream's events.

use serde_json::{Value, json};

use super::parts::{self, LeftOut};
use super::{Surface, anthropic, chat, json as text_json, responses};

/// Words and arguments of one answer are kept up to so many bytes; what is longer is captured as cut.
pub(super) const MAX_ANSWER_BYTES: usize = 1 << 20;
/// The most parts (texts, calls of tools) of one answer.
pub(super) const MAX_PARTS: usize = 512;
/// Names and reasons of a provider's are cut to so many bytes.
const MAX_WORD_BYTES: usize = 256;

/// Why an answer is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It ended before the provider said that it was the end: the client went, or the connection.
    Incomplete,
    /// It is larger than what is kept.
    TooLong,
    /// The provider broke off with an error.
    Failed,
}

impl Cut {
    /// Its name in metadata and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::TooLong => "too_long",
            Self::Failed => "failed",
        }
    }
}

/// What a call cost, where the provider said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All tokens of the request, those from a cache included.
    pub input_tokens: Option<u64>,
    /// All tokens of the answer.
    pub output_tokens: Option<u64>,
    /// Of the request's tokens, those that came from a cache.
    pub cached_input_tokens: Option<u64>,
}

/// One answer of a model. Of several choices, the first is the answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// What it says, in the provider's parts: `text`, `refusal`, calls of tools, what tools of the provider's own gave. The model's
    /// reasoning is left out.
    pub parts: Vec<Value>,
    /// Why it ended, in the provider's word.
    pub finish_reason: Option<String>,
    /// What it cost.
    pub usage: Usage,
    /// The model that answered.
    pub model: Option<String>,
    /// The provider's id of the answer.
    pub response_id: Option<String>,
    /// How many choices there were.
    pub choices: u32,
    /// Why it is not whole; None where it is.
    pub cut: Option<Cut>,
    /// The type of the provider's error, where it ended with one. Never the error's text.
    pub error: Option<String>,
    pub(super) left_out: LeftOut,
}

impl Answer {
    /// Reads a whole answer.
    #[must_use]
    pub fn read(surface: Surface, body: &[u8]) -> Self {
        let mut stream = super::Stream::new(surface);
        stream.feed(body);
        stream.finish(true)
    }

    /// Whether the call failed: there is an error and nothing that was said. A failed call is not captured.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.error.is_some() && self.parts.is_empty()
    }

    /// Its words.
    #[must_use]
    pub fn text(&self) -> String {
        let texts: Vec<&str> = self.parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect();
        texts.join("\n")
    }

    /// A part of words; nothing for no words.
    pub(super) fn push_text(&mut self, text: String) {
        if !text.is_empty() {
            self.parts.push(json!({"type": "text", "text": text}));
        }
    }

    /// A part of any kind, without what is too large to keep.
    pub(super) fn push(&mut self, part: Value) {
        if self.parts.len() >= MAX_PARTS {
            self.cut = self.cut.or(Some(Cut::TooLong));
        } else if let Some(part) = parts::kept(part, &mut self.left_out) {
            self.parts.push(part);
        }
    }
}

/// Puts the answer of one surface together.
#[derive(Debug)]
pub(super) enum Assembly {
    Chat(chat::Assembly),
    Responses(responses::Assembly),
    Anthropic(anthropic::Assembly),
}

impl Assembly {
    pub(super) fn new(surface: Surface) -> Self {
        match surface {
            Surface::OpenAiChat => Self::Chat(chat::Assembly::default()),
            Surface::OpenAiResponses => Self::Responses(responses::Assembly::default()),
            Surface::AnthropicMessages => Self::Anthropic(anthropic::Assembly::default()),
        }
    }

    /// One event of a stream. What is no JSON is no event.
    pub(super) fn event(&mut self, name: &str, data: &[u8]) {
        if data == b"[DONE]" {
            match self {
                Self::Chat(chat) => chat.done(),
                Self::Responses(_) | Self::Anthropic(_) => {}
            }
            return;
        }
        let Some(event) = text_json::read_bytes::<Value>(data) else { return };
        match self {
            Self::Chat(chat) => chat.event(name, &event),
            Self::Responses(responses) => responses.event(name, event),
            Self::Anthropic(anthropic) => anthropic.event(name, event),
        }
    }

    /// An event that was too large to be kept: all that is known of it is its name.
    pub(super) fn event_left_out(&mut self, name: &str) {
        match self {
            Self::Chat(chat) => chat.left_out(),
            Self::Responses(responses) => responses.left_out(name),
            Self::Anthropic(anthropic) => anthropic.left_out(),
        }
    }

    /// The answer as one JSON.
    pub(super) fn whole(&mut self, body: &[u8]) {
        let Some(body) = text_json::read_bytes::<Value>(body) else { return };
        match self {
            Self::Chat(chat) => chat.whole(&body),
            Self::Responses(responses) => responses.whole(body),
            Self::Anthropic(anthropic) => anthropic.whole(body),
        }
    }

    /// Whether the provider said that this was all.
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Chat(chat) => chat.is_done(),
            Self::Responses(responses) => responses.is_done(),
            Self::Anthropic(anthropic) => anthropic.is_done(),
        }
    }

    pub(super) fn finish(self) -> Answer {
        match self {
            Self::Chat(chat) => chat.finish(),
            Self::Responses(responses) => responses.finish(),
            Self::Anthropic(anthropic) => anthropic.finish(),
        }
    }
}

/// What is left of [`MAX_ANSWER_BYTES`].
#[derive(Debug)]
pub(super) struct Room {
    left: usize,
    /// Something had no room.
    pub(super) is_over: bool,
}

impl Default for Room {
    fn default() -> Self {
        Self { left: MAX_ANSWER_BYTES, is_over: false }
    }
}

impl Room {
    /// Appends as much as there is room for.
    pub(super) fn push(&mut self, to: &mut String, more: &str) {
        let kept = &more[..more.floor_char_boundary(self.left)];
        self.left -= kept.len();
        self.is_over |= kept.len() < more.len();
        to.push_str(kept);
    }

    /// What took `known` bytes is replaced by something that takes `bytes`. Answers whether there was room.
    pub(super) fn replace(&mut self, known: usize, bytes: usize) -> bool {
        match (self.left + known).checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                true
            }
            None => {
                self.is_over = true;
                false
            }
        }
    }

    /// Whether one more part may follow `count` others.
    pub(super) fn has_part(&mut self, count: usize) -> bool {
        self.is_over |= count >= MAX_PARTS;
        count < MAX_PARTS
    }
}

/// A short text of the provider's, such as a model's name.
pub(super) fn word(value: Option<&Value>) -> Option<String> {
    let text = value?.as_str().filter(|text| !text.is_empty())?;
    Some(text[..text.floor_char_boundary(MAX_WORD_BYTES)].to_owned())
}

/// The type of an error: never its text, which may quote the request.
pub(super) fn error_word(error: &Value) -> String {
    let named = ["type", "code"].iter().find_map(|name| word(error.get(name)));
    named.unwrap_or_else(|| "error".into())
}

/// A count of tokens.
pub(super) fn count(usage: &Value, path: &[&str]) -> Option<u64> {
    path.iter().try_fold(usage, |value, name| value.get(name))?.as_u64()
}
