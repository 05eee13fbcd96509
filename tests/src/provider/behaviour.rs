//! How the double answers: well, badly, and not at all.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::{StreamExt as _, stream};
use http::{HeaderValue, header};
use serde_json::{Value, json};

use super::validate::{Abilities, error};
use super::{Wire, answers, json_response};

/// One way to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// As asked.
    Well,
    /// Prose instead of JSON.
    NotJson,
    /// JSON of another shape.
    WrongSchema,
    /// As asked, until the middle of an item; `finish_reason: length`.
    CutOff,
    /// As asked, until behind an item; `finish_reason: length`.
    CutBetweenItems,
    /// As asked, in a code fence with prose around it and trailing commas.
    Fenced,
    /// As asked, behind a `<think>` block.
    Thinking,
    /// Every item names a message that is not there.
    EvidenceOutOfRange,
    /// As asked, and one item that names a message that is not there.
    SomeEvidenceOutOfRange,
    /// Items that name no message.
    NoEvidence,
    /// As asked, and the assistant's words as facts about the user, with the assistant's message as evidence.
    EvidenceOfAssistant,
    /// A model that was fooled: as asked, and facts that claim to be of other users and tenants.
    Obeying,
    /// The model declines.
    Refusal,
    /// The provider's filter ends the answer.
    ContentFilter,
    /// It calls tools that it was not given.
    ToolCalls,
    /// A choice without content.
    Empty,
    /// 200, and no completion.
    Garbage,
    /// 429 with `Retry-After: 1`.
    RateLimited,
    /// 429 with `Retry-After` as a date one second ahead.
    RateLimitedUntil,
    /// 429 because the account's quota is used up.
    OutOfQuota,
    /// 500.
    ServerError,
    /// 503.
    Unavailable,
    /// 400 because the conversation is too long for the model.
    ContextTooLong,
    /// 400 because the provider's rules forbid the conversation.
    ContentPolicy,
    /// 400 without a reason.
    BadRequest,
    /// 401.
    Unauthorized,
    /// 404: no such model.
    ModelNotFound,
    /// The request is taken, and nothing comes.
    Hang,
    /// The head and the beginning of the body, then a reset.
    Reset,
    /// As asked, a few bytes a second.
    Drip,
}

impl Behaviour {
    /// All of them with their names in markers.
    pub const ALL: [(&'static str, Self); 30] = [
        ("well", Self::Well),
        ("not-json", Self::NotJson),
        ("wrong-schema", Self::WrongSchema),
        ("cut-off", Self::CutOff),
        ("cut-between-items", Self::CutBetweenItems),
        ("fenced", Self::Fenced),
        ("thinking", Self::Thinking),
        ("evidence-out-of-range", Self::EvidenceOutOfRange),
        ("some-evidence-out-of-range", Self::SomeEvidenceOutOfRange),
        ("no-evidence", Self::NoEvidence),
        ("evidence-of-assistant", Self::EvidenceOfAssistant),
        ("obeying", Self::Obeying),
        ("refusal", Self::Refusal),
        ("content-filter", Self::ContentFilter),
        ("tool-calls", Self::ToolCalls),
        ("empty", Self::Empty),
        ("garbage", Self::Garbage),
        ("rate-limited", Self::RateLimited),
        ("rate-limited-until", Self::RateLimitedUntil),
        ("out-of-quota", Self::OutOfQuota),
        ("server-error", Self::ServerError),
        ("unavailable", Self::Unavailable),
        ("context-too-long", Self::ContextTooLong),
        ("content-policy", Self::ContentPolicy),
        ("bad-request", Self::BadRequest),
        ("unauthorized", Self::Unauthorized),
        ("model-not-found", Self::ModelNotFound),
        ("hang", Self::Hang),
        ("reset", Self::Reset),
        ("drip", Self::Drip),
    ];

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(own, _)| *own == name).map(|(_, behaviour)| behaviour)
    }

    pub(super) fn respond(self, abilities: &Abilities, request: &Value, wire: &Wire) -> Response {
        let well = || answers::text(request);
        let complete = |content: &str, finish: &str| json_response(200, &completion(abilities, request, content, finish));
        match self {
            Self::Well | Self::Hang => complete(&well(), "stop"),
            Self::NotJson => complete("I am sorry, but as a model of language I would rather talk about the weather.", "stop"),
            Self::WrongSchema => complete(r#"{"memories": ["likes tea"], "mood": 7}"#, "stop"),
            Self::CutOff => {
                let text = well();
                // Inside the first item that there is.
                let at = text.find("\"text\"").map_or(text.len() / 2, |at| at + 12);
                complete(&text[..text.floor_char_boundary(at)], "length")
            }
            Self::CutBetweenItems => {
                let text = well();
                let at = text.find("}]").map_or(text.len(), |at| at + 1);
                complete(&text[..at], "length")
            }
            Self::Fenced => {
                let text = well().replace("}]", "},]");
                complete(&format!("Sure, here is {{the JSON}}:\n```json\n{text}\n```\nAnything else?"), "stop")
            }
            Self::Thinking => complete(&format!("<think>Perhaps {{\"facts\": []}}?\n</think>\n\n{}", well()), "stop"),
            Self::EvidenceOutOfRange => complete(&answers::with_evidence(request, &json!([999])), "stop"),
            Self::NoEvidence => complete(&answers::with_evidence(request, &json!([])), "stop"),
            Self::SomeEvidenceOutOfRange => {
                complete(&answers::and(request, &[json!({"text": "User owns a yacht", "evidence": [999, -1]})]), "stop")
            }
            Self::EvidenceOfAssistant => complete(&answers::and(request, &answers::of_assistants(request)), "stop"),
            Self::Obeying => complete(&answers::and(request, &answers::of_others()), "stop"),
            Self::Refusal => {
                let mut body = completion(abilities, request, "", "stop");
                body["choices"][0]["message"] =
                    json!({"role": "assistant", "content": null, "refusal": "I can't help with that."});
                json_response(200, &body)
            }
            Self::ContentFilter => complete("", "content_filter"),
            Self::ToolCalls => {
                let mut body = completion(abilities, request, "", "tool_calls");
                let call = json!({"id": "call_1", "type": "function", "function": {"name": "remember", "arguments": "{}"}});
                body["choices"][0]["message"] = json!({"role": "assistant", "content": null, "tool_calls": [call]});
                json_response(200, &body)
            }
            Self::Empty => complete("", "stop"),
            Self::Garbage => {
                let mut response = Response::new(Body::from("<html><body>Bad gateway</body></html>"));
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
                response
            }
            Self::RateLimited => retry_after(error(429, "rate_limit_exceeded", None, "Rate limit reached for requests"), "1"),
            Self::RateLimitedUntil => {
                let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
                let date = at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
                retry_after(error(429, "rate_limit_exceeded", None, "Rate limit reached for requests"), &date)
            }
            Self::OutOfQuota => error(429, "insufficient_quota", None, "You exceeded your current quota, please check your plan"),
            Self::ServerError => error(500, "server_error", None, "The server had an error while processing your request"),
            Self::Unavailable => error(503, "overloaded", None, "The engine is currently overloaded, please try again later"),
            Self::ContextTooLong => {
                error(400, "context_length_exceeded", Some("messages"), "This model's maximum context length is 8 tokens")
            }
            Self::ContentPolicy => error(400, "content_policy_violation", None, "Your request was rejected by our safety system"),
            Self::BadRequest => error(400, "invalid_value", None, "The request could not be processed"),
            Self::Unauthorized => error(401, "invalid_api_key", None, "Incorrect API key provided"),
            Self::ModelNotFound => {
                error(404, "model_not_found", Some("model"), "The model does not exist or you do not have access to it")
            }
            Self::Reset => {
                let body = completion(abilities, request, &well(), "stop").to_string();
                wire.will_reset();
                let half = Bytes::copy_from_slice(&body.as_bytes()[..body.len() / 2]);
                let torn = Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
                streamed(body.len(), Body::from_stream(stream::iter([Ok(half), torn])))
            }
            Self::Drip => {
                let body = completion(abilities, request, &well(), "stop").to_string();
                let bytes: Vec<u8> = body.into_bytes();
                let length = bytes.len();
                let chunks: Vec<Bytes> = bytes.chunks(2).map(Bytes::copy_from_slice).collect();
                let slow = stream::iter(chunks).then(|chunk| async move {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    Ok::<_, std::io::Error>(chunk)
                });
                streamed(length, Body::from_stream(slow))
            }
        }
    }
}

fn streamed(length: usize, body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn retry_after(mut response: Response, when: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(when) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

/// A chat completion; tokens are words, so that a test can count them.
fn completion(abilities: &Abilities, request: &Value, content: &str, finish: &str) -> Value {
    let model = request["model"].as_str().unwrap_or_default();
    let mut body = json!({
        "id": "chatcmpl-double",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": format!("{model}{}", abilities.model_suffix),
        "choices": [{"index": 0, "finish_reason": finish, "logprobs": null,
            "message": {"role": "assistant", "content": content, "refusal": null}}],
    });
    if abilities.usage {
        let read = answers::prompt_tokens(request);
        let written = answers::tokens(content);
        body["usage"] = json!({"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written});
    }
    body
}

/// An order to the double in what a person said.
pub(super) struct Marker {
    pub(super) behaviour: Behaviour,
    pub(super) times: Option<u32>,
    /// The marker in its conversation.
    pub(super) key: String,
}

/// The markers in a text, in order. Panics on one that names no behaviour: a test that is misspelt must not pass.
pub(super) fn markers(text: &str) -> Vec<Marker> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, behind)) = rest.split_once("[[provider:") {
        let Some((order, behind)) = behind.split_once("]]") else { break };
        let (name, times) = match order.split_once('*') {
            Some((name, times)) => (name, times.parse().ok()),
            None => (order, None),
        };
        let behaviour = Behaviour::named(name).unwrap_or_else(|| panic!("no behaviour is called {name:?}"));
        found.push(Marker { behaviour, times, key: format!("{}:{order}:{text}", found.len()) });
        rest = behind;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Behaviour, markers};

    #[test]
    fn markers_are_read_in_order_with_their_counts() {
        let found = markers("I ski. [[provider:not-json*2]] and [[provider:hang]]");
        let orders: Vec<_> = found.iter().map(|m| (m.behaviour, m.times)).collect();
        assert_eq!(orders, [(Behaviour::NotJson, Some(2)), (Behaviour::Hang, None)]);
        assert!(markers("no marker [[provider").is_empty());
    }

    #[test]
    fn every_name_is_one_behaviours() {
        for (name, behaviour) in Behaviour::ALL {
            assert_eq!(Behaviour::named(name), Some(behaviour));
        }
    }
}
