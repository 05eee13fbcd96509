//! What is new in a request, what recall is asked, and what is none of ours.

use memori_schemas::Role;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Roles and contents of what is new.
fn new_of(surface: Surface, body: &Value) -> Vec<(Role, Value)> {
    request(surface, body).messages().iter().map(|message| (message.role, message.content.clone())).collect()
}

#[test]
fn surfaces_are_known_by_the_end_of_the_path() {
    for (path, surface) in [
        ("/v1/chat/completions", Some(OpenAiChat)),
        ("https://api.example.org/v1/chat/completions/", Some(OpenAiChat)),
        ("/openai/deployments/gpt/chat/completions?api-version=2024-10-21", Some(OpenAiChat)),
        ("/v1beta/openai/chat/completions", Some(OpenAiChat)),
        ("/v1/responses", Some(OpenAiResponses)),
        ("/openai/v1/responses?api-version=preview", Some(OpenAiResponses)),
        ("/v1/messages", Some(AnthropicMessages)),
        ("/v1/messages?beta=true", Some(AnthropicMessages)),
        ("/v1/messages/batches", None),
        ("/v1/messages/count_tokens?beta=true", None),
        ("/v1/threads/t/messages", None),
        ("/v1/chat/completions/c1", None),
        ("/v1/responses/r1", None),
        ("/v1/responses/r1/cancel", None),
        ("/v1/responses/compact", None),
        ("/v1/embeddings", None),
        ("", None),
    ] {
        assert_eq!(Surface::of_path(path), surface, "{path}");
    }
    let azure = "/openai/deployments/gpt/chat/completions";
    let body = Bytes::from(r#"{"messages": []}"#);
    assert_eq!(Request::parse(azure, None, &body).unwrap().provider(), "azure_openai");
    assert!(Request::parse(azure, Some("multipart/form-data; boundary=x"), &body).is_none());
    assert!(Request::parse(azure, Some("Application/JSON; charset=utf-8"), &body).is_some());
}

#[test]
fn what_stands_behind_the_models_last_message_is_new() {
    let user = |text: &str| json!({"role": "user", "content": text});
    let assistant = |text: &str| json!({"role": "assistant", "content": text});
    let chat_call = json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]});
    let chat_result = json!({"role": "tool", "tool_call_id": "c1", "content": "rain"});
    let use_block = json!({"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {}}]});
    let result_block = json!({"type": "tool_result", "tool_use_id": "t1", "content": "rain"});
    let call_item = json!({"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"});
    let output_item = json!({"type": "function_call_output", "call_id": "c1", "output": "rain"});
    let said = |text: &str| (Role::User, json!(text));
    for (surface, body, expected) in [
        (
            OpenAiChat,
            json!({"messages": [{"role": "developer", "content": "d"}, {"role": "system", "content": "s"}, user("a"), assistant("b"), user("c"), user("d")]}),
            vec![said("c"), said("d")],
        ),
        (
            OpenAiChat,
            json!({"messages": [user("a"), chat_call, chat_result]}),
            vec![(Role::Tool, json!([{"type": "tool_result", "tool_call_id": "c1", "content": "rain"}]))],
        ),
        (OpenAiChat, json!({"messages": [{"role": "system", "content": "only this"}]}), vec![]),
        // Parts, and a part that is a block and nothing else.
        (
            OpenAiChat,
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"},
                {"type": "text", "text": "<memori_context>\n</memori_context>"}]}]}),
            vec![(Role::User, json!([{"type": "text", "text": "a"}]))],
        ),
        (OpenAiResponses, json!({"input": "hi<memori_context>x</memori_context>", "instructions": "i"}), vec![said("hi")]),
        (
            OpenAiResponses,
            json!({"input": [{"role": "developer", "content": "d"}, user("a"), {"type": "reasoning", "id": "r", "summary": []},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]}, user("c")]}),
            vec![said("c")],
        ),
        (OpenAiResponses, json!({"input": [user("a"), call_item, output_item]}), vec![(Role::Tool, json!([output_item]))]),
        (
            OpenAiResponses,
            json!({"previous_response_id": "resp_1", "input": [output_item]}),
            vec![(Role::Tool, json!([output_item]))],
        ),
        (AnthropicMessages, json!({"system": "s", "messages": [user("a"), assistant("b"), user("c")]}), vec![said("c")]),
        (
            AnthropicMessages,
            json!({"messages": [user("a"), use_block, {"role": "user", "content": [result_block, {"type": "text", "text": "and?"}]}]}),
            vec![(Role::Tool, json!([result_block])), (Role::User, json!([{"type": "text", "text": "and?"}]))],
        ),
        // Words that the model is to go on with are no answer yet.
        (AnthropicMessages, json!({"messages": [user("a"), assistant("b"), user("c"), assistant("{")]}), vec![said("c")]),
        // A turn that the provider paused goes on: nobody said anything new.
        (AnthropicMessages, json!({"messages": [user("a"), use_block]}), vec![]),
    ] {
        assert_eq!(new_of(surface, &body), expected, "{body}");
    }
}

#[test]
fn what_a_call_is_can_be_read() {
    let chat = request(
        OpenAiChat,
        &json!({"model": "gpt-x", "stream": true, "messages": [{"role": "user", "name": "alice", "content": " Tea? \u{0}"}]}),
    );
    assert_eq!((chat.model(), chat.streams(), chat.query()), (Some("gpt-x"), true, "Tea? \u{FFFD}"));
    assert_eq!(chat.messages()[0].name.as_deref(), Some("alice"));
    assert!(chat.is_worth_capturing() && !chat.is_within_turn());
    let responses = request(
        OpenAiResponses,
        &json!({"model": "m", "previous_response_id": "resp_1", "conversation": {"id": "conv_1"}, "input": []}),
    );
    assert_eq!((responses.previous_response_id(), responses.conversation_id()), (Some("resp_1"), Some("conv_1")));
    assert!(!request(OpenAiChat, &json!({"messages": [{"role": "system", "content": "s"}]})).is_worth_capturing());
    // The most of a long message's two ends.
    let long = format!("{}{}", "ä".repeat(3_000), "b".repeat(3_000));
    let query = request(OpenAiResponses, &json!({"input": long})).query().to_owned();
    assert!(query.len() < 4_200 && query.starts_with('ä') && query.ends_with("bbb"));
}

#[test]
fn a_tool_loop_is_one_turn_with_one_key_and_one_place() {
    let ask = json!({"role": "user", "content": [{"type": "text", "text": "weather?"}]});
    let mut messages = vec![json!({"role": "user", "content": "hi"}), json!({"role": "assistant", "content": "yes?"}), ask];
    let first = request(AnthropicMessages, &json!({"messages": messages}));
    messages.push(json!({"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "w", "input": {}}]}));
    messages.push(json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "rain"}]}));
    let second = request(AnthropicMessages, &json!({"messages": messages}));
    messages.push(json!({"role": "assistant", "content": "rain"}));
    messages.push(json!({"role": "user", "content": "weather?"}));
    let third = request(AnthropicMessages, &json!({"messages": messages}));
    assert!(first.turn_key().is_some());
    assert_eq!(first.turn_key(), second.turn_key());
    assert_ne!(first.turn_key(), third.turn_key());
    assert_eq!([first.is_within_turn(), second.is_within_turn(), third.is_within_turn()], [false, true, false]);
    assert_eq!([first.query(), second.query(), third.query()], ["weather?"; 3]);
    // What the first call sent is how the second begins, up to the end of its last message.
    let (first, second) = (first.with_block("<b>").unwrap(), second.with_block("<b>").unwrap());
    let shared = first.len() - "]}".len();
    assert_eq!(first[..shared], second[..shared]);
}

#[test]
fn halves_of_pairs_and_strange_members_cost_no_message() {
    let body =
        r#"{"model": 3, "stream": "x", "messages": [{"role": "user", "name": {}, "content": "a\ud83d"}, {"role": 4}, 7, null]}"#;
    let request = Request::parse(path(OpenAiChat), None, &Bytes::from(body)).unwrap();
    assert_eq!(request.messages()[0].content, "a\u{FFFD}");
    assert_eq!(request.model(), None);
}

#[test]
fn more_messages_than_an_event_holds_leave_the_newest() {
    let messages: Vec<Value> = (0..3_000).map(|n| json!({"role": "user", "content": n.to_string()})).collect();
    let request = request(OpenAiChat, &json!({"messages": messages}));
    assert_eq!((request.messages().len(), request.left_out().messages), (999, 2_001));
    assert_eq!(request.messages()[998].content, "2999");
    // One message of Anthropic's can be many.
    let parts: Vec<Value> =
        (0..3_000).map(|n| json!({"type": (["text", "tool_result"][n % 2]), "text": n.to_string()})).collect();
    let body = json!({"messages": [{"role": "user", "content": parts}]});
    assert_eq!(super::request(AnthropicMessages, &body).messages().len(), 999);
}

proptest! {
    #[test]
    fn garbage_is_none_of_ours_or_stays_what_it_was(
        bytes in prop::collection::vec(any::<u8>(), 0..80),
        pieces in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"messages\"", "\"input\"", "\"role\"", "\"user\"", "\"assistant\"", "\"content\"", "\"type\"", "\"text\"",
            "\"tool_result\"", "\"a\\ud800\"", "null", "1", " ", "\"cache_control\"", "\"model\"", "\\"]), 0..60),
    ) {
        for surface in Surface::ALL {
            for body in [Bytes::from(bytes.clone()), Bytes::from(pieces.concat())] {
                if let Some(request) = Request::parse(path(surface), None, &body) {
                    prop_assert_eq!(request.body(), &body);
                    if let Some(with) = request.with_block("<x>") {
                        prop_assert!(serde_json::from_slice::<Value>(&with).is_ok() || serde_json::from_slice::<Value>(&body).is_err());
                    }
                }
            }
        }
    }
}
