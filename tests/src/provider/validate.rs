//! Whether a provider would take a request: key, address, model, messages, parameters, and the rules of structured output.

use axum::response::Response;
use http::request::Parts;
use http::{Method, header};
use serde_json::{Value, json};

use super::json_response;

/// What this server can do, and whom it serves.
#[derive(Clone, Debug)]
pub struct Abilities {
    /// `response_format: json_schema`.
    pub json_schema: bool,
    /// `response_format: json_object`.
    pub json_object: bool,
    /// Whether it takes `max_tokens` (else only `max_completion_tokens`).
    pub max_tokens: bool,
    /// Whether it takes a temperature other than 1.
    pub temperature: bool,
    /// Whether its answers count tokens.
    pub usage: bool,
    /// The key that it wants, if any.
    pub key: Option<String>,
    /// The models that it has; none: any.
    pub models: Vec<String>,
    /// What stands behind a model's name in answers, as providers name their exact versions.
    pub model_suffix: String,
}

impl Default for Abilities {
    fn default() -> Self {
        Self {
            json_schema: true,
            json_object: true,
            max_tokens: true,
            temperature: true,
            usage: true,
            key: None,
            models: Vec::new(),
            model_suffix: "-2026-01-01".to_owned(),
        }
    }
}

/// Parameters that a provider knows.
const KNOWN: [&str; 14] = [
    "model",
    "messages",
    "response_format",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "n",
    "user",
    "stream",
    "tools",
    "metadata",
];

/// The provider's refusal, where there is a reason for one.
pub(super) fn refusal(abilities: &Abilities, parts: &Parts, body: &Value) -> Option<Response> {
    if let Some(key) = &abilities.key {
        let bearer = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let plain = parts.headers.get("api-key").and_then(|value| value.to_str().ok());
        if bearer != Some(&format!("Bearer {key}")) && plain != Some(key) {
            return Some(error(401, "invalid_api_key", None, "Incorrect API key provided"));
        }
    }
    if !parts.uri.path().ends_with("/chat/completions") {
        return Some(error(404, "unknown_url", None, "Unknown request URL"));
    }
    if parts.method != Method::POST {
        return Some(error(405, "method_not_supported", None, "Only POST requests are accepted"));
    }
    let bad = |param: &str, message: &str| Some(error(400, "invalid_request", Some(param), message));
    let Some(members) = body.as_object() else {
        return bad("body", "We could not parse the JSON body of your request");
    };
    if let Some(unknown) = members.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        return bad(unknown, "Unrecognized request argument supplied");
    }
    let Some(model) = body["model"].as_str().filter(|model| !model.is_empty()) else {
        return bad("model", "you must provide a model parameter");
    };
    if !abilities.models.is_empty() && !abilities.models.iter().any(|known| known == model) {
        return Some(error(404, "model_not_found", Some("model"), "The model does not exist or you do not have access to it"));
    }
    if let Some(message) = wrong_messages(&body["messages"]) {
        return bad("messages", message);
    }
    let is_count = |name: &str| body[name].is_null() || body[name].as_u64().is_some_and(|n| n > 0);
    if !is_count("max_tokens") || !is_count("max_completion_tokens") {
        return bad("max_tokens", "expected a value >= 1");
    }
    if !body["max_tokens"].is_null() && !abilities.max_tokens {
        let message =
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.";
        return Some(error(400, "unsupported_parameter", Some("max_tokens"), message));
    }
    if !body["temperature"].is_null() {
        let Some(temperature) = body["temperature"].as_f64().filter(|t| (0.0..=2.0).contains(t)) else {
            return bad("temperature", "expected a number between 0 and 2");
        };
        if !abilities.temperature && (temperature - 1.0).abs() > f64::EPSILON {
            let message = "Unsupported value: 'temperature' does not support this value with this model.";
            return Some(error(400, "unsupported_value", Some("temperature"), message));
        }
    }
    if body["stream"] == json!(true) {
        return bad("stream", "this server does not stream");
    }
    wrong_format(abilities, body)
}

fn wrong_messages(messages: &Value) -> Option<&'static str> {
    let Some(messages) = messages.as_array().filter(|messages| !messages.is_empty()) else {
        return Some("expected a non-empty array");
    };
    let is_fine = |message: &Value| {
        let known = ["system", "developer", "user", "assistant", "tool"].contains(&message["role"].as_str().unwrap_or_default());
        known && (message["content"].is_string() || message["content"].is_array())
    };
    (!messages.iter().all(is_fine)).then_some("each message needs a role and a content")
}

fn wrong_format(abilities: &Abilities, body: &Value) -> Option<Response> {
    let format = &body["response_format"];
    let bad = |message: &str| Some(error(400, "invalid_request_error", Some("response_format"), message));
    match format["type"].as_str() {
        None if format.is_null() => None,
        Some("text") => None,
        Some("json_object") if !abilities.json_object => bad("'response_format' of type 'json_object' is not supported"),
        Some("json_object") => {
            let says_json = body["messages"].to_string().to_lowercase().contains("json");
            if says_json { None } else { bad("'messages' must contain the word 'json' in some form, to use 'response_format'") }
        }
        Some("json_schema") if !abilities.json_schema => {
            bad("'response_format' of type 'json_schema' is not supported with this model")
        }
        Some("json_schema") => {
            let asked = &format["json_schema"];
            let name = asked["name"].as_str().unwrap_or_default();
            let is_name =
                (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if !is_name {
                return bad("'response_format.json_schema.name' is missing or invalid");
            }
            if asked["strict"] == json!(true) && !is_strict(&asked["schema"]) {
                return bad(
                    "Invalid schema for response_format: every object needs 'additionalProperties': false and all of its properties in 'required'",
                );
            }
            None
        }
        _ => bad("'response_format.type' must be one of 'text', 'json_object', 'json_schema'"),
    }
}

/// The rules of strict schemas: closed objects whose members are all required, and no keyword that the provider does not know.
fn is_strict(schema: &Value) -> bool {
    const KEYWORDS: [&str; 8] =
        ["type", "properties", "required", "additionalProperties", "items", "enum", "anyOf", "description"];
    let Some(members) = schema.as_object() else { return false };
    if members.keys().any(|keyword| !KEYWORDS.contains(&keyword.as_str())) {
        return false;
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices.iter().all(is_strict);
    }
    match schema["type"].as_str() {
        Some("object") => {
            let Some(properties) = schema["properties"].as_object() else { return false };
            let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            schema["additionalProperties"] == json!(false)
                && properties.keys().all(|name| required.contains(&name.as_str()))
                && properties.values().all(is_strict)
        }
        Some("array") => is_strict(&schema["items"]),
        _ => true,
    }
}

/// An error as the provider words it.
pub(super) fn error(status: u16, code: &str, param: Option<&str>, message: &str) -> Response {
    let kind = if status == 400 { "invalid_request_error" } else { code };
    json_response(status, &json!({"error": {"message": message, "type": kind, "param": param, "code": code}}))
}

#[cfg(test)]
mod tests {
    use http::Request;
    use serde_json::{Value, json};

    use super::{Abilities, refusal};

    fn status(abilities: &Abilities, path: &str, key: &str, body: &Value) -> Option<u16> {
        let request = Request::post(path).header("authorization", format!("Bearer {key}")).body(()).unwrap();
        refusal(abilities, &request.into_parts().0, body).map(|response| response.status().as_u16())
    }

    #[test]
    fn requests_are_checked_as_a_provider_does() {
        let good = json!({"model": "m", "messages": [{"role": "user", "content": "json"}], "max_tokens": 5, "temperature": 0,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema":
                {"type": "object", "properties": {}, "required": [], "additionalProperties": false}}}});
        let all = Abilities { key: Some("k".into()), models: vec!["m".into()], ..Abilities::default() };
        let path = "/v1/chat/completions";
        assert_eq!(status(&all, path, "k", &good), None);
        assert_eq!(status(&all, path, "other", &good), Some(401));
        assert_eq!(status(&all, "/v1/completions", "k", &good), Some(404));
        type Change = fn(&mut Value);
        let wrong: [(u16, Change); 10] = [
            (400, |b| *b = Value::Null),
            (404, |b| b["model"] = json!("other")),
            (400, |b| b["model"] = json!("")),
            (400, |b| b["messages"] = json!([])),
            (400, |b| b["messages"] = json!([{"role": "bard", "content": "x"}])),
            (400, |b| b["max_tokens"] = json!(0)),
            (400, |b| b["temperature"] = json!(3)),
            (400, |b| b["mood"] = json!(1)),
            (400, |b| b["response_format"]["json_schema"]["schema"]["additionalProperties"] = json!(true)),
            (400, |b| b["response_format"]["json_schema"]["schema"]["properties"] = json!({"a": {"type": "string"}})),
        ];
        for (expected, change) in wrong {
            let mut body = good.clone();
            change(&mut body);
            assert_eq!(status(&all, path, "k", &body), Some(expected), "{body}");
        }
        for poor in [
            Abilities { json_schema: false, ..all.clone() },
            Abilities { max_tokens: false, ..all.clone() },
            Abilities { temperature: false, ..all.clone() },
        ] {
            assert_eq!(status(&poor, path, "k", &good), Some(400));
        }
    }
}
