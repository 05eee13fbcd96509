//! What a provider's refusal means for the event, and for everybody. A pure function of its status and its error object.
//!
//! Promises: nothing of a provider's words is passed on but a short code, since they may quote the conversation or the key.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;

use super::dialect::Parameter;
use crate::extractor::RetryReason;
use crate::pace::Wait;

/// The longest code that is passed on.
const MAX_CODE_BYTES: usize = 64;

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    /// It may work later, for this event or for any.
    Transient { reason: RetryReason, message: String, retry_after: Option<Duration> },
    /// No endpoint was asked: this stands in the way.
    NotAsked(Wait),
    /// The server does not know a part of the request.
    Unsupported { parameter: Option<Parameter>, message: String },
    /// The conversation is too long for the model, or for the account.
    TooLarge(String),
    /// The provider's rules forbid this conversation.
    Refused(String),
}

/// What a status other than 2xx says. `body` is the beginning of the answer's body.
pub(crate) fn classify(status: StatusCode, body: &[u8], retry_after: Option<Duration>) -> CallError {
    let error = ProviderError::of(body);
    let message = error.message_for(status);
    let transient = |reason, message| CallError::Transient { reason, message, retry_after };
    match status.as_u16() {
        _ if error.is_too_long() => CallError::TooLarge(message),
        _ if error.is_out_of_quota() => transient(RetryReason::OutOfQuota, message),
        400 | 422 if error.is_forbidden_content() => CallError::Refused(message),
        400 | 422 if error.is_about_the_key() => transient(RetryReason::Misconfigured, message),
        400 | 422 => CallError::Unsupported { parameter: error.parameter(), message },
        402 => transient(RetryReason::OutOfQuota, message),
        403 | 451 if error.is_forbidden_content() => CallError::Refused(message),
        408 => transient(RetryReason::Timeout, message),
        409 | 425 => transient(RetryReason::Unavailable, message),
        413 => CallError::TooLarge(message),
        429 => transient(RetryReason::RateLimited, message),
        451 => CallError::Refused(message),
        500.. => transient(RetryReason::Unavailable, message),
        // The key, the model, the address, or a redirection: whatever it is, it is no fault of the event.
        _ => transient(RetryReason::Misconfigured, message),
    }
}

/// `{"error": {"code", "type", "param", "message"}}`, or some of it, or as text; lower case.
#[derive(Debug, Default)]
struct ProviderError {
    code: String,
    text: String,
}

impl ProviderError {
    fn of(body: &[u8]) -> Self {
        let Ok(value) = serde_json::from_slice::<Value>(body) else {
            return Self { code: String::new(), text: String::from_utf8_lossy(body).to_lowercase() };
        };
        // Some put it in a list.
        let error = value.get(0).unwrap_or(&value);
        let error = error.get("error").filter(|error| !error.is_null()).unwrap_or(error);
        let member = |name: &str| error.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        let code = ["code", "type", "status"].into_iter().filter_map(member).find(|code| is_code(code)).unwrap_or_default();
        Self { code, text: error.to_string().to_lowercase() }
    }

    fn message_for(&self, status: StatusCode) -> String {
        let code = if self.code.is_empty() { String::new() } else { format!(" ({})", self.code) };
        format!("the provider answered {}{code}", status.as_u16())
    }

    fn says(&self, any_of: &[&str]) -> bool {
        any_of.iter().any(|words| self.text.contains(words))
    }

    fn is_too_long(&self) -> bool {
        self.says(&[
            "context_length_exceeded",
            "exceed_context_size",
            "maximum context length",
            "context size",
            "context window",
            "prompt is too long",
            "input is too long",
            "string_above_max_length",
            "request too large",
            "request_too_large",
        ])
    }

    fn is_out_of_quota(&self) -> bool {
        self.says(&[
            "insufficient_quota",
            "exceeded your current quota",
            "billing_hard_limit",
            "credit balance",
            "insufficient balance",
        ])
    }

    fn is_forbidden_content(&self) -> bool {
        self.says(&[
            "content_filter",
            "content_policy",
            "content management policy",
            "responsibleaipolicyviolation",
            "safety_violation",
            "moderation",
            "invalid_prompt",
        ])
    }

    fn is_about_the_key(&self) -> bool {
        self.says(&["invalid_api_key", "api key not valid", "api_key_invalid", "model_not_found"])
    }

    fn parameter(&self) -> Option<Parameter> {
        if self.says(&["response_format", "json_schema", "json_object", "structured", "guided", "grammar", "schema"]) {
            Some(Parameter::ResponseFormat)
        } else if self.says(&["max_tokens", "max_completion_tokens"]) {
            Some(Parameter::MaxTokens)
        } else if self.says(&["temperature"]) {
            Some(Parameter::Temperature)
        } else {
            None
        }
    }
}

/// A word of the protocol, and no prose.
fn is_code(text: &str) -> bool {
    (1..=MAX_CODE_BYTES).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        && text != "null"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::StatusCode;

    use super::{CallError, classify};
    use crate::llm::dialect::Parameter;

    fn kind(status: u16, body: &str) -> String {
        match classify(StatusCode::from_u16(status).unwrap(), body.as_bytes(), None) {
            CallError::Transient { reason, .. } => reason.as_str().to_owned(),
            CallError::Unsupported { parameter, .. } => format!("{parameter:?}"),
            CallError::TooLarge(_) => "too_large".to_owned(),
            CallError::Refused(_) => "refused".to_owned(),
            CallError::NotAsked(_) => panic!("it was asked"),
        }
    }

    #[test]
    fn what_providers_answer_is_told_apart() {
        let schema = format!("{:?}", Some(Parameter::ResponseFormat));
        for (status, body, expected) in [
            (
                400,
                r#"{"error":{"message":"x","type":"invalid_request_error","param":"response_format","code":null}}"#,
                schema.as_str(),
            ),
            (400, r#"{"error":{"message":"Invalid schema for response_format 'memory'"}}"#, &schema),
            (422, r#"{"detail":[{"loc":["body","response_format"],"msg":"extra fields not permitted"}]}"#, &schema),
            (
                400,
                r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","code":"unsupported_parameter"}}"#,
                "Some(MaxTokens)",
            ),
            (
                400,
                r#"{"error":{"message":"Unsupported value: 'temperature' does not support 0 with this model.","code":"unsupported_value"}}"#,
                "Some(Temperature)",
            ),
            (
                400,
                r#"{"error":{"message":"This model's maximum context length is 8192 tokens","code":"context_length_exceeded"}}"#,
                "too_large",
            ),
            (
                400,
                r#"{"object":"error","message":"This model's maximum context length is 4096 tokens. However, you requested 5000","code":400}"#,
                "too_large",
            ),
            (
                400,
                r#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error"}}"#,
                "too_large",
            ),
            (
                400,
                r#"{"error":{"code":"content_filter","message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy."}}"#,
                "refused",
            ),
            (
                400,
                r#"[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}]"#,
                "misconfigured",
            ),
            (400, r#"{"error":{"message":"something else"}}"#, "None"),
            (400, "", "None"),
            (401, r#"{"error":{"code":"invalid_api_key"}}"#, "misconfigured"),
            (402, "", "out_of_quota"),
            (403, "forbidden", "misconfigured"),
            (404, r#"{"error":{"code":"model_not_found","message":"The model `x` does not exist"}}"#, "misconfigured"),
            (405, "", "misconfigured"),
            (302, "", "misconfigured"),
            (408, "", "timeout"),
            (413, "<html>Request Entity Too Large</html>", "too_large"),
            (429, r#"{"error":{"code":"rate_limit_exceeded"}}"#, "rate_limited"),
            (429, r#"{"error":{"code":"insufficient_quota","message":"You exceeded your current quota"}}"#, "out_of_quota"),
            (
                429,
                r#"{"error":{"code":"rate_limit_exceeded","message":"Request too large for gpt-4o on tokens per min"}}"#,
                "too_large",
            ),
            (500, "", "unavailable"),
            (503, "overloaded", "unavailable"),
            (529, "", "unavailable"),
        ] {
            assert_eq!(kind(status, body), expected, "{status} {body}");
        }
    }

    #[test]
    fn only_codes_of_the_protocol_are_repeated() {
        let message = |body: &str| match classify(StatusCode::UNAUTHORIZED, body.as_bytes(), None) {
            CallError::Transient { message, .. } => message,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            message(r#"{"error":{"code":"invalid_api_key","message":"Incorrect key sk-secret"}}"#),
            "the provider answered 401 (invalid_api_key)"
        );
        assert_eq!(message(r#"{"error":{"code":"my key is sk secret"}}"#), "the provider answered 401");
        assert_eq!(message("sk-secret"), "the provider answered 401");
    }

    proptest! {
        #[test]
        fn any_answer_is_classified(status in 100_u16..1_000, body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let status = StatusCode::from_u16(status).expect("a status");
            let _ = classify(status, &body, None);
        }
    }
}
