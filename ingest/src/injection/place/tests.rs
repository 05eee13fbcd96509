//! Placing a block: one insertion behind the text of the user's last message, and what ingest makes of the result.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::Insertion;
use crate::new_event::NewEvent;
use crate::wire::Request;
use crate::wire::Surface::{self, AnthropicMessages, OpenAiChat, OpenAiResponses};

const BLOCK: &str = "<memori_context>\n- \"he said \\\"hi\\\" ä\"\n</memori_context>";

fn request(body: &[u8], surface: Surface) -> Option<Request> {
    let path = match surface {
        OpenAiChat => "/v1/chat/completions",
        OpenAiResponses => "/v1/responses",
        AnthropicMessages => "/v1/messages",
    };
    Request::parse(path, None, &body.to_vec().into())
}

fn with_block(body: &[u8], surface: Surface) -> Option<Vec<u8>> {
    request(body, surface)?.with_block(BLOCK).map(Into::into)
}

fn insertions(body: &[u8], surface: Surface) -> Option<Vec<Insertion>> {
    Some(request(body, surface)?.place()?.insertions(BLOCK))
}

fn placed(body: &Value, surface: Surface) -> Option<Value> {
    Some(serde_json::from_slice(&with_block(body.to_string().as_bytes(), surface)?).expect("still JSON"))
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
fn the_last_message_counts_even_where_only_an_older_one_has_text() {
    let picture = json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]});
    let body = json!({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x"}, picture]});
    let placed = placed(&body, OpenAiChat).unwrap();
    assert_eq!((&placed["messages"][0], &placed["messages"][2]["content"][1]["text"]), (&body["messages"][0], &json!(BLOCK)));
}

#[test]
fn where_the_whole_is_cached_the_users_own_part_is_marked_and_the_block_stands_behind() {
    let mark = json!({"type": "ephemeral", "ttl": "1h"});
    let block = json!({"type": "text", "text": BLOCK});
    let marked = |text: &str| json!({"type": "text", "text": text, "cache_control": mark});
    let plain = |text: &str| json!({"type": "text", "text": text});
    for (content, expected) in [
        (json!("hi"), json!([marked("hi"), block])),
        (json!([plain("a"), plain("b")]), json!([plain("a"), marked("b"), block])),
        (json!([plain("a"), marked("b")]), json!([plain("a"), marked("b"), block])),
        // A mark on nothing is refused by the provider.
        (json!(""), json!(BLOCK)),
    ] {
        let body = json!({"cache_control": mark, "messages": [{"role": "user", "content": content}]});
        assert_eq!(placed(&body, AnthropicMessages).unwrap()["messages"][0]["content"], expected, "{body}");
    }
    // Four marks are the most.
    let system = json!([marked("s"), marked("s"), marked("s")]);
    let body = json!({"cache_control": mark, "system": system, "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(placed(&body, AnthropicMessages).unwrap()["messages"][0]["content"], format!("hi{BLOCK}"));
    // No other provider knows such marks.
    let body = json!({"cache_control": mark, "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(placed(&body, OpenAiChat).unwrap()["messages"][0]["content"], format!("hi{BLOCK}"));
}

#[test]
fn what_a_turn_wrote_to_the_cache_begins_the_next_one() {
    // The provider stores what stands before a mark; the next request's history has no block.
    let mark = json!({"type": "ephemeral"});
    let turn = |text: &str| json!({"role": "user", "content": text});
    let first = json!({"cache_control": mark, "system": "s", "messages": [turn("one")]});
    let sent = placed(&first, AnthropicMessages).unwrap();
    let written = sent["messages"][0]["content"][0]["text"].clone();
    let next = json!({"cache_control": mark, "system": "s", "messages": [turn("one"), {"role": "assistant", "content": "x"}, turn("two")]});
    let next = placed(&next, AnthropicMessages).unwrap();
    assert_eq!(next["messages"][0]["content"], written);
    assert!(!next["messages"][0].to_string().contains("memori_context"));
}

#[test]
fn one_block_is_enough() {
    let body = json!({"messages": [{"role": "user", "content": format!("hi{BLOCK}")}]});
    assert_eq!(placed(&body, OpenAiChat), None);
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
        for surface in [OpenAiChat, OpenAiResponses, AnthropicMessages] {
            assert_eq!(with_block(body.as_bytes(), surface), None, "{body}");
        }
    }
    assert_eq!(with_block(b"{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}", OpenAiChat), None);
}

#[derive(Clone, Debug)]
struct Message {
    json: String,
    /// A user wrote something of it.
    is_own: bool,
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
        let is_own =
            content.is_string() || content.as_array().is_some_and(|parts| parts.iter().any(|part| part["type"] != "tool_result"));
        let message = json!({"role": role, "content": content, "z": {"content": "x"}});
        let json = if pretty { serde_json::to_string_pretty(&message).unwrap() } else { message.to_string() };
        Message { json, is_own: role == "user" && is_own }
    })
}

/// The request's bytes, and where each message starts in it.
fn body(list: &str, messages: &[Message], is_cached: bool) -> (String, Vec<usize>) {
    let cached = if is_cached { r#""cache_control": { "type": "ephemeral"}, "# } else { "" };
    let mut body = format!("{{ \"model\":\"m\", {cached}\"metadata\": {{\"messages\": [1]}}, \"{list}\" :[ ");
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

fn check(list: &str, surface: Surface, messages: &[Message], is_cached: bool) -> Result<(), TestCaseError> {
    let (body, starts) = body(list, messages, is_cached);
    let Some(last) = messages.iter().rposition(|m| m.is_own) else {
        prop_assert_eq!(with_block(body.as_bytes(), surface), None);
        return Ok(());
    };
    let (before, own): (Value, &Message) = (serde_json::from_str(&body).unwrap(), &messages[last]);
    let Some(insertions) = insertions(body.as_bytes(), surface) else {
        // Only where one is there already.
        prop_assert!(own.json.contains("<memori_context>") && own.json.contains("</memori_context>"));
        return Ok(());
    };
    let end = starts[last] + own.json.len();
    prop_assert!(insertions.iter().all(|insertion| starts[last] < insertion.at && insertion.at < end));
    prop_assert!(insertions.is_sorted_by_key(|insertion| insertion.at));
    prop_assert!(insertions.len() == 1 || is_cached && surface == AnthropicMessages);
    let result = with_block(body.as_bytes(), surface).expect("there is a place");
    // Nothing is taken away or changed: without what was put in, it is what it was.
    let mut without = result.clone();
    for insertion in &insertions {
        prop_assert_eq!(&without[insertion.at..insertion.at + insertion.text.len()], insertion.text.as_bytes());
        without.drain(insertion.at..insertion.at + insertion.text.len());
    }
    prop_assert_eq!(&without, body.as_bytes());
    let after: Value = serde_json::from_slice(&result).expect("still JSON");
    for i in 0..messages.len() {
        let (one, other) = (&before[list][i], &after[list][i]);
        prop_assert_eq!(one == other, i != last);
        // A client that sends back what it was sent is heard as if nothing had been injected.
        let (one, other) = (as_event(&one["content"]), as_event(&other["content"]));
        let texts = |event: &NewEvent| event.messages.iter().map(|message| message.text().into_owned()).collect::<Vec<_>>();
        prop_assert_eq!(texts(&one), texts(&other));
        prop_assert!(insertions.len() > 1 || one.messages == other.messages);
        prop_assert_eq!(other.context_blocks_removed - one.context_blocks_removed, usize::from(i == last));
    }
    let marks = |value: &Value| value.to_string().matches("\"cache_control\":{\"type\"").count();
    prop_assert_eq!(marks(&after), marks(&before) + insertions.len() - 1);
    prop_assert!(marks(&after) <= marks(&before).max(4));
    Ok(())
}

proptest! {
    #[test]
    fn bytes_before_the_last_message_are_untouched_and_ingest_takes_the_block_out_again(
        texts in prop::collection::vec(message("text"), 1..6), inputs in prop::collection::vec(message("input_text"), 1..6),
    ) {
        for is_cached in [false, true] {
            check("messages", OpenAiChat, &texts, is_cached)?;
            check("messages", AnthropicMessages, &texts, is_cached)?;
            check("input", OpenAiResponses, &inputs, is_cached)?;
        }
    }

    #[test]
    fn any_bytes_are_left_alone_or_stay_json(body in prop::collection::vec(any::<u8>(), 0..60), text in "\\PC{0,80}") {
        for surface in [OpenAiChat, OpenAiResponses, AnthropicMessages] {
            for body in [&body[..], text.as_bytes()] {
                if let Some(request) = with_block(body, surface) {
                    prop_assert!(serde_json::from_slice::<Value>(&request).is_ok());
                }
            }
        }
    }
}
