//! Placing a block: one insertion behind the text of the user's last message, and what ingest makes of the result.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::RequestShape::{AnthropicMessages, OpenAiChat, OpenAiResponses};
use super::*;
use crate::new_event::NewEvent;

const BLOCK: &str = "<memori_context>\n- \"he said \\\"hi\\\" ä\"\n</memori_context>";

fn placed(body: &Value, shape: RequestShape) -> Option<Value> {
    let body = body.to_string();
    let insertion = place(body.as_bytes(), shape, BLOCK)?;
    Some(serde_json::from_slice(&insertion.into_request(body.as_bytes())).expect("still JSON"))
}

#[test]
fn a_text_is_followed_by_the_block() {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "first"}, {"role": "assistant", "content": "x"},
        {"role": "user", "content": "say \"hi\""}, {"role": "tool", "content": "t", "tool_call_id": "1"}], "stream": true});
    let mut expected = body.clone();
    expected["messages"][2]["content"] = json!(format!("say \"hi\"{BLOCK}"));
    assert_eq!(placed(&body, OpenAiChat), Some(expected.clone()));
    assert_eq!(placed(&body, AnthropicMessages), Some(expected));
    assert_eq!(placed(&json!({"input": "hi"}), OpenAiResponses), Some(json!({"input": format!("hi{BLOCK}")})));
}

#[test]
fn parts_are_followed_by_a_part() {
    let part = json!({"type": "text", "text": BLOCK});
    let cached = json!({"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}});
    let body = json!({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}, cached]}]});
    let mut expected = body.clone();
    expected["messages"][0]["content"].as_array_mut().unwrap().push(part);
    assert_eq!(placed(&body, AnthropicMessages), Some(expected));
    let body = json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "function_call_output", "call_id": "1", "output": "x"}]});
    let mut expected = body.clone();
    expected["input"][0]["content"].as_array_mut().unwrap().push(json!({"type": "input_text", "text": BLOCK}));
    assert_eq!(placed(&body, OpenAiResponses), Some(expected));
}

#[test]
fn through_the_calls_of_a_turn_it_stays_where_it_was() {
    let ask = json!({"role": "user", "content": [{"type": "text", "text": "weather?"}]});
    let first = json!({"messages": [ask]});
    let second = json!({"messages": [ask, {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "w", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "rain"}]}]});
    let (first, second) = (placed(&first, AnthropicMessages).unwrap(), placed(&second, AnthropicMessages).unwrap());
    assert_eq!(first["messages"][0], second["messages"][0]);
    assert_eq!(second["messages"][2]["content"].as_array().unwrap().len(), 1);
}

#[test]
fn a_picture_will_do_where_there_is_no_text() {
    let body = json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]});
    assert_eq!(placed(&body, OpenAiChat).unwrap()["messages"][0]["content"][1]["text"], BLOCK);
}

#[test]
fn what_is_not_understood_has_no_place() {
    for body in [
        "",
        "x",
        "[]",
        "{}",
        r#"{"messages": 1}"#,
        r#"{"messages": []}"#,
        r#"{"messages": [1, null]}"#,
        r#"{"messages": [{"role": "system", "content": "x"}]}"#,
        r#"{"messages": [{"role": "user"}]}"#,
        r#"{"messages": [{"role": "user", "content": null}]}"#,
        r#"{"messages": [{"role": "user", "content": []}]}"#,
        r#"{"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}"#,
        r#"{"messages": [{"role": "user", "content": "a"}], "messages": []}"#,
        r#"{"input": 3}"#,
    ] {
        for shape in [OpenAiChat, OpenAiResponses, AnthropicMessages] {
            assert_eq!(place(body.as_bytes(), shape, BLOCK), None, "{body}");
        }
    }
    assert_eq!(place(b"{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}", OpenAiChat, BLOCK), None);
}

#[derive(Clone, Debug)]
struct Message {
    json: String,
    has_user_text: bool,
}

fn text() -> impl Strategy<Value = String> {
    let pieces =
        ["<memori_context>", "</memori_context>", "a", "\"", "\\", "\\u003c", "}", "]", ",", "\n", "ä", "{\"role\":\"user\"}"];
    prop::collection::vec(prop_oneof![prop::sample::select(pieces.to_vec()).prop_map(str::to_owned), "[^\u{0}]{0,5}"], 0..6)
        .prop_map(|pieces| pieces.concat())
}

fn message(part_kind: &'static str) -> impl Strategy<Value = Message> {
    let role = prop::sample::select(vec!["user", "user", "assistant", "system", "tool"]);
    let part = prop_oneof![
        text().prop_map(move |text| json!({"type": part_kind, "text": text})),
        text().prop_map(move |text| json!({"type": part_kind, "text": text, "cache_control": {"type": "ephemeral"}})),
        Just(json!({"type": "image", "source": {"data": "AA=="}})),
        Just(json!({"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "inner"}]})),
    ];
    let content = prop_oneof![text().prop_map(Value::from), prop::collection::vec(part, 0..4).prop_map(Value::from)];
    (role, content, any::<bool>()).prop_map(move |(role, content, pretty)| {
        let has_text =
            content.is_string() || content.as_array().is_some_and(|parts| parts.iter().any(|part| part["type"] == part_kind));
        let message = json!({"role": role, "content": content, "z": {"content": "x"}});
        let json = if pretty { serde_json::to_string_pretty(&message).unwrap() } else { message.to_string() };
        Message { json, has_user_text: role == "user" && has_text }
    })
}

/// The request's bytes, and where each message starts in it.
fn request(list: &str, messages: &[Message]) -> (String, Vec<usize>) {
    let mut body = format!("{{ \"model\":\"m\", \"metadata\": {{\"messages\": [1]}}, \"{list}\" :[ ");
    let mut starts = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        body.push_str(if i == 0 { "" } else { " ,\n" });
        starts.push(body.len());
        body.push_str(&message.json);
    }
    body.push_str(" ],\"stream\":true}\n");
    (body, starts)
}

fn as_event(content: &Value) -> NewEvent {
    NewEvent::read(json!({"entity_id": "e", "messages": [{"role": "user", "content": content}]})).expect("a valid event")
}

fn check(list: &str, shape: RequestShape, messages: &[Message]) -> Result<(), TestCaseError> {
    let (body, starts) = request(list, messages);
    let Some(last) = messages.iter().rposition(|m| m.has_user_text) else { return Ok(()) };
    let insertion = place(body.as_bytes(), shape, BLOCK).expect("there is a place");
    let end = starts[last] + messages[last].json.len();
    prop_assert!(starts[last] < insertion.at && insertion.at < end);
    let result = insertion.clone().into_request(body.as_bytes());
    // Nothing is taken away, and what comes before the message is as it was.
    prop_assert_eq!(&result[..insertion.at], &body.as_bytes()[..insertion.at]);
    prop_assert_eq!(&result[insertion.at + insertion.text.len()..], &body.as_bytes()[insertion.at..]);
    let (before, after): (Value, Value) =
        (serde_json::from_str(&body).unwrap(), serde_json::from_slice(&result).expect("still JSON"));
    for i in 0..messages.len() {
        let (one, other) = (&before[list][i], &after[list][i]);
        prop_assert_eq!(one == other, i != last);
        // A client that sends back what it was sent is heard as if nothing had been injected.
        let (one, other) = (as_event(&one["content"]), as_event(&other["content"]));
        prop_assert_eq!(one.messages, other.messages);
        prop_assert_eq!(other.context_blocks_removed - one.context_blocks_removed, usize::from(i == last));
    }
    Ok(())
}

proptest! {
    #[test]
    fn bytes_before_the_last_message_are_untouched_and_ingest_takes_the_block_out_again(
        texts in prop::collection::vec(message("text"), 1..6), inputs in prop::collection::vec(message("input_text"), 1..6),
    ) {
        check("messages", OpenAiChat, &texts)?;
        check("messages", AnthropicMessages, &texts)?;
        check("input", OpenAiResponses, &inputs)?;
    }

    #[test]
    fn any_bytes_are_left_alone_or_stay_json(body in prop::collection::vec(any::<u8>(), 0..60), text in "\\PC{0,80}") {
        for shape in [OpenAiChat, OpenAiResponses, AnthropicMessages] {
            for body in [&body[..], text.as_bytes()] {
                if let Some(insertion) = place(body, shape, BLOCK) {
                    prop_assert!(serde_json::from_slice::<Value>(&insertion.into_request(body)).is_ok());
                }
            }
        }
    }
}
