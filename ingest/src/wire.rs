//! The wire formats of LLM providers, as whoever stands between a program and its provider needs them.
//!
//! Promises: pure, no I/O, no clock. A request or an answer that is not understood costs nothing but memory of that call: nothing
//! here panics, and cost and memory are bounded by the bytes given and by the caps stated at each type. A request's bytes are never
//! written anew: a block is put between them ([`Request::with_block`]). What of a call becomes a conversation event is in
//! `docs/decisions/0013-what-an-interceptor-captures.md`; system and developer texts never do, failed calls never do.
//!
//! [`Request::parse`] says what a call is and what is new in it, [`Stream`] (or [`Answer::read`]) puts the answer together, and
//! [`captured_event`] makes the body for `POST /v1/events` of the two.

mod answer;
mod anthropic;
mod chat;
mod event;
mod json;
mod parts;
mod request;
mod responses;
mod sse;
mod stream;
mod turns;

pub use self::answer::{Answer, Cut, Usage};
pub use self::event::{Capture, captured_event};
pub use self::request::{Message, Request};
pub use self::stream::Stream;

/// Which of a provider's calls: what its request and its answer look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Surface {
    /// `POST …/chat/completions` of OpenAI, and of all who speak its language.
    OpenAiChat,
    /// `POST …/responses` of OpenAI.
    OpenAiResponses,
    /// `POST …/v1/messages` of Anthropic.
    AnthropicMessages,
}

impl Surface {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::OpenAiChat, Self::OpenAiResponses, Self::AnthropicMessages];

    /// By the end of a URL's path, with or without its query. Only the calls that make an answer: no batches, no counting of
    /// tokens, nothing about one stored answer.
    #[must_use]
    pub fn of_path(url_path: &str) -> Option<Self> {
        let path = url_path.split(['?', '#']).next().unwrap_or_default();
        let path = path.strip_suffix('/').unwrap_or(path);
        if path.ends_with("/chat/completions") {
            Some(Self::OpenAiChat)
        } else if path.ends_with("/responses") {
            Some(Self::OpenAiResponses)
        } else if path.ends_with("/v1/messages") {
            Some(Self::AnthropicMessages)
        } else {
            None
        }
    }

    /// Its name in metadata and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::OpenAiChat => "openai.chat_completions",
            Self::OpenAiResponses => "openai.responses",
            Self::AnthropicMessages => "anthropic.messages",
        }
    }
}

#[cfg(test)]
mod tests;
