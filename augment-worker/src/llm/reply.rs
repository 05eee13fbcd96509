//! A provider's answer, read without trust: what is not where it belongs is absent.

use serde_json::Value;

use super::tokens::Tokens;

/// How the model came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// By itself, or nothing was said about it.
    Stop,
    /// It had written as much as it may.
    Length,
    /// The provider's filter ended it.
    Filtered,
    /// It wants to call tools, of which it was given none.
    ToolCalls,
}

/// What came back from one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// What the model wrote; perhaps nothing.
    pub(crate) text: String,
    pub(crate) finish: Finish,
    /// It declined. What it said about that is not kept: it may quote the conversation.
    pub(crate) is_refusal: bool,
    /// As the provider counted, if it did.
    pub(crate) usage: Option<Tokens>,
    /// Which model answered, if it was said.
    pub(crate) model: Option<String>,
}

impl Reply {
    /// A chat completion; `None` where the body is none.
    pub(crate) fn of(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        let choice = value.get("choices")?.get(0)?;
        let message = choice.get("message")?;
        let finish = match choice.get("finish_reason").and_then(Value::as_str).unwrap_or_default() {
            "length" | "max_tokens" => Finish::Length,
            "content_filter" => Finish::Filtered,
            "tool_calls" | "function_call" => Finish::ToolCalls,
            _ => Finish::Stop,
        };
        let is_refusal = message.get("refusal").and_then(Value::as_str).is_some_and(|text| !text.trim().is_empty());
        let model = value.get("model").and_then(Value::as_str).map(str::to_owned);
        Some(Self { text: text_of(message), finish, is_refusal, usage: usage_of(value.get("usage")), model })
    }
}

/// A text, or the texts of a list of parts.
fn text_of(message: &Value) -> String {
    match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect(),
        _ => String::new(),
    }
}

fn usage_of(usage: Option<&Value>) -> Option<Tokens> {
    let count = |name: &str| usage?.get(name)?.as_u64();
    let tokens = Tokens { read: count("prompt_tokens")?, written: count("completion_tokens")? };
    // Some report zeros where they do not count.
    (tokens.read > 0).then_some(tokens)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Finish, Reply};
    use crate::llm::tokens::Tokens;

    fn of(value: &serde_json::Value) -> Option<Reply> {
        Reply::of(value.to_string().as_bytes())
    }

    #[test]
    fn a_completion_is_read_wherever_its_parts_are() {
        let reply = of(&json!({"model": "m-1", "usage": {"prompt_tokens": 10, "completion_tokens": 2},
            "choices": [{"finish_reason": "stop", "message": {"content": "{}", "refusal": null}}]}))
        .unwrap();
        assert_eq!((reply.text.as_str(), reply.finish, reply.is_refusal), ("{}", Finish::Stop, false));
        assert_eq!((reply.usage, reply.model.as_deref()), (Some(Tokens { read: 10, written: 2 }), Some("m-1")));
        let parts =
            of(&json!({"choices": [{"message": {"content": [{"type": "text", "text": "{"}, {"text": "}"}, {"image": 1}]}}]}))
                .unwrap();
        assert_eq!((parts.text.as_str(), parts.usage), ("{}", None));
        for (reason, finish) in
            [("length", Finish::Length), ("content_filter", Finish::Filtered), ("tool_calls", Finish::ToolCalls)]
        {
            let reply =
                of(&json!({"choices": [{"finish_reason": reason, "message": {"content": null, "refusal": "no"}}]})).unwrap();
            assert_eq!((reply.finish, reply.is_refusal, reply.text.as_str()), (finish, true, ""));
        }
    }

    #[test]
    fn what_is_no_completion_is_none() {
        for value in [json!({}), json!([]), json!({"choices": []}), json!({"choices": [{}]}), json!("x"), json!({"error": {}})] {
            assert_eq!(of(&value), None, "{value}");
        }
        assert_eq!(Reply::of(b"<html>"), None);
        let zeros =
            of(&json!({"usage": {"prompt_tokens": 0, "completion_tokens": 0}, "choices": [{"message": {"content": "x"}}]}));
        assert_eq!(zeros.unwrap().usage, None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = Reply::of(&bytes);
            let inside = json!({"choices": [{"message": {"content": String::from_utf8_lossy(&bytes)}}]});
            proptest::prop_assert!(of(&inside).is_some());
        }
    }
}
