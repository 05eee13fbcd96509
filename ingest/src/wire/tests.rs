//! Calls as they are on the wire, surface by surface: what is new in them, what was answered, and the event of the two.

mod answers;
mod events;
mod requests;

use bytes::Bytes;
use serde_json::Value;

use super::Surface::{self, AnthropicMessages, OpenAiChat, OpenAiResponses};
use super::{Answer, Request, Stream};

fn path(surface: Surface) -> &'static str {
    match surface {
        OpenAiChat => "/v1/chat/completions",
        OpenAiResponses => "/v1/responses",
        AnthropicMessages => "/v1/messages?beta=true",
    }
}

fn request(surface: Surface, body: &Value) -> Request {
    Request::parse(path(surface), Some("application/json"), &Bytes::from(body.to_string())).expect("a call of ours")
}

fn streamed(surface: Surface, bytes: &[u8], complete: bool) -> Answer {
    let mut stream = Stream::new(surface);
    stream.feed(bytes);
    stream.finish(complete)
}
