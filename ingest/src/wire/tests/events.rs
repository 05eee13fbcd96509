//! The event of a call: what the door takes.

use memori_schemas::{ContentFormat, Micros, Role};
use serde_json::json;

use super::*;
use crate::events::read_event;
use crate::new_event::{MAX_EVENT_BYTES, NewEvent};
use crate::wire::{Capture, captured_event};

fn capture<'a>() -> Capture<'a> {
    let occurred_at = Micros::parse_rfc3339("2026-04-01T10:00:00Z").expect("a time");
    Capture {
        event_id: "e1",
        entity_id: "alice",
        process_id: Some("bot"),
        session_id: Some(""),
        occurred_at,
        latency_ms: 12.34,
        metadata: &[],
    }
}

fn event(surface: Surface, body: &Value, answer: &Value) -> Option<NewEvent> {
    let answer = Answer::read(surface, answer.to_string().as_bytes());
    let bytes = captured_event(&request(surface, body), &answer, &capture())?;
    assert!(bytes.len() <= MAX_EVENT_BYTES);
    Some(read_event(&bytes).expect("the door takes it"))
}

fn noted<'a>(event: &'a NewEvent, name: &str) -> Option<&'a str> {
    event.metadata.iter().find(|entry| entry.key == name).map(|entry| entry.value.as_str())
}

fn said(event: &NewEvent) -> Vec<(Role, String)> {
    event.messages.iter().map(|message| (message.role, message.text().into_owned())).collect()
}

fn chat_answer(text: &str) -> Value {
    json!({"id": "chatcmpl-1", "model": "gpt-x-2026", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3}})
}

#[test]
fn a_turn_becomes_an_event() {
    let body = json!({"model": "gpt-x", "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "old"},
        {"role": "assistant", "content": "older"}, {"role": "user", "name": "Al", "content": "I like tea.<memori_context>x</memori_context>"}]});
    let event = event(OpenAiChat, &body, &chat_answer("Noted.")).expect("a turn");
    assert_eq!(said(&event), [(Role::User, "I like tea.".to_owned()), (Role::Assistant, "Noted.".to_owned())]);
    assert_eq!(event.messages[0].name.as_deref(), Some("Al"));
    assert!(event.messages.iter().all(|message| message.content_format == ContentFormat::Text));
    assert_eq!(
        (event.event_id.as_deref(), event.process_id.as_deref(), event.session_id.as_deref()),
        (Some("e1"), Some("bot"), None)
    );
    assert_eq!(event.occurred_at, Some(capture().occurred_at));
    for (name, value) in [
        ("llm.provider", "openai"),
        ("llm.surface", "openai.chat_completions"),
        ("llm.model", "gpt-x-2026"),
        ("llm.finish_reason", "stop"),
        ("llm.input_tokens", "9"),
        ("llm.output_tokens", "3"),
        ("llm.latency_ms", "12.3"),
        ("llm.response_id", "chatcmpl-1"),
    ] {
        assert_eq!(noted(&event, name), Some(value), "{name}");
    }
    assert_eq!((noted(&event, "llm.cut"), noted(&event, "llm.choices")), (None, None));
}

#[test]
fn failures_and_calls_without_anything_new_are_no_events() {
    let ask = json!({"messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(event(OpenAiChat, &ask, &json!({"error": {"type": "rate_limit"}})), None);
    assert_eq!(event(OpenAiChat, &json!({"messages": [{"role": "system", "content": "s"}]}), &chat_answer("x")), None);
    // An answer of which nothing came is still a turn.
    let cut = captured_event(&request(OpenAiChat, &ask), &streamed(OpenAiChat, b"", false), &capture()).expect("a turn");
    let cut = read_event(&cut).expect("the door takes it");
    assert_eq!((said(&cut), noted(&cut, "llm.cut")), (vec![(Role::User, "hi".to_owned())], Some("incomplete")));
}

#[test]
fn tools_speak_as_tools_and_a_prefill_is_part_of_the_answer() {
    let body = json!({"messages": [{"role": "user", "content": "weather?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "w", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "I live on Pluto."}]}, {"role": "assistant", "content": "It"}]});
    let answer = json!({"id": "m", "model": "c", "stop_reason": "end_turn", "content": [{"type": "text", "text": " rains."}]});
    let event = event(AnthropicMessages, &body, &answer).expect("a turn");
    assert_eq!(said(&event), [(Role::Tool, String::new()), (Role::Assistant, "It rains.".to_owned())]);
    assert!(event.messages[0].content.contains("Pluto"));
}

#[test]
fn what_is_too_large_is_cut_and_says_so() {
    let text = "\u{1}ä".repeat(400_000);
    let image = format!("data:image/png;base64,{}", "QUJD".repeat(500_000));
    let body = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": image}}]}]});
    let large = event(OpenAiChat, &body, &chat_answer(&"b".repeat(900_000))).expect("a turn");
    assert_eq!((noted(&large, "llm.texts_cut"), noted(&large, "llm.payloads_left_out")), (Some("2"), Some("1")));
    assert!(large.messages.iter().all(|message| message.text().contains("[…]")));
    // Many messages of long texts, and one message of very many small parts.
    let many: Vec<Value> =
        (0..2_000).map(|n| json!({"role": "user", "content": format!("{n} {}", "\u{1}".repeat(2_000))})).collect();
    let many = event(OpenAiChat, &json!({"messages": many}), &chat_answer("ok")).expect("a turn");
    assert!(said(&many).last().unwrap().1 == "ok" && noted(&many, "llm.messages_left_out").is_some());
    let parts: Vec<Value> = (0..60_000).map(|_| json!({"type": "text", "text": "small"})).collect();
    let parts =
        event(OpenAiChat, &json!({"messages": [{"role": "user", "content": parts}]}), &chat_answer("ok")).expect("a turn");
    assert!(noted(&parts, "llm.texts_cut").is_some());
}

#[test]
fn metadata_stays_within_its_bounds() {
    let mine: Vec<(String, String)> =
        (0..100).map(|n| (format!("k{n:03}"), "v\u{0}".repeat(9_000))).chain([("llm.model".into(), "mine".into())]).collect();
    let ask = request(OpenAiChat, &json!({"messages": [{"role": "user", "content": "a\u{0}b"}]}));
    let answer = Answer::read(OpenAiChat, chat_answer("x\u{0}").to_string().as_bytes());
    let bytes = captured_event(&ask, &answer, &Capture { metadata: &mine, ..capture() }).expect("a turn");
    let event = read_event(&bytes).expect("the door takes it");
    assert_eq!(noted(&event, "llm.model"), Some("gpt-x-2026"));
    assert_eq!(said(&event), [(Role::User, "a\u{FFFD}b".to_owned()), (Role::Assistant, "x\u{FFFD}".to_owned())]);
}
