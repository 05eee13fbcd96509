//! Answers whole and streamed.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::wire::{Cut, Usage};

fn sse(events: &[Value]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

fn named(events: &[Value]) -> String {
    events.iter().map(|event| format!("event: {}\r\ndata: {event}\r\n\r\n", event["type"].as_str().unwrap())).collect()
}

/// As Azure sends it: filters first, then words, then what it cost.
fn chat_stream() -> String {
    let chunk =
        |choices: Value| json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-x", "choices": choices});
    let delta = |delta: Value| chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]));
    let call = |call: Value| delta(json!({"tool_calls": [call]}));
    let mut usage = chunk(json!([]));
    usage["usage"] = json!({"prompt_tokens": 20, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 16}});
    let events = [
        json!({"id": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}),
        delta(json!({"role": "assistant", "content": "", "refusal": null})),
        delta(json!({"content": "Let me "})),
        chunk(json!([{"index": 1, "delta": {"content": "other choice"}}])),
        delta(json!({"content": "see… 🌧"})),
        call(json!({"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}})),
        call(json!({"index": 1, "id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}})),
        call(json!({"index": 0, "function": {"arguments": "{\"city\":"}})),
        call(json!({"index": 0, "function": {"arguments": "\"Paris\"}"}})),
        chunk(json!([{"index": 0, "delta": {}, "finish_reason": "tool_calls", "content_filter_results": {}}])),
        usage,
    ];
    format!(": keep-alive\n\n{}data: [DONE]\n\n", sse(&events))
}

fn chat_whole() -> Value {
    json!({"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-x", "choices": [
        {"index": 0, "finish_reason": "tool_calls", "message": {"role": "assistant", "content": "Let me see… 🌧", "refusal": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Paris\"}"}},
            {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}}]}},
        {"index": 1, "finish_reason": "stop", "message": {"role": "assistant", "content": "other choice"}}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 16}}})
}

fn anthropic_stream() -> String {
    let start = |index: u64, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
    let delta = |index: u64, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
    let stop = |index: u64| json!({"type": "content_block_stop", "index": index});
    named(&[
        json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": [],
            "stop_reason": null, "usage": {"input_tokens": 4, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 6, "output_tokens": 1}}}),
        json!({"type": "ping"}),
        start(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
        delta(0, json!({"type": "thinking_delta", "thinking": "secret thought"})),
        delta(0, json!({"type": "signature_delta", "signature": "sig"})),
        stop(0),
        start(1, json!({"type": "text", "text": ""})),
        delta(1, json!({"type": "text_delta", "text": "Let me "})),
        delta(1, json!({"type": "text_delta", "text": "see… 🌧"})),
        stop(1),
        start(2, json!({"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}})),
        delta(2, json!({"type": "input_json_delta", "partial_json": ""})),
        delta(2, json!({"type": "input_json_delta", "partial_json": "{\"city\": \"Pa"})),
        delta(2, json!({"type": "input_json_delta", "partial_json": "ris\"}"})),
        stop(2),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": null}, "usage": {"output_tokens": 7}}),
        json!({"type": "message_stop"}),
    ])
}

fn anthropic_whole() -> Value {
    json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "stop_reason": "tool_use", "content": [
        {"type": "thinking", "thinking": "secret thought", "signature": "sig"},
        {"type": "text", "text": "Let me "}, {"type": "text", "text": "see… 🌧", "citations": []},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}],
        "usage": {"input_tokens": 4, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 6, "output_tokens": 7}})
}

fn output() -> Value {
    json!([{"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "secret thought"}]},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "Let me see… 🌧", "annotations": []}]},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather", "arguments": "{\"city\":\"Paris\"}", "status": "completed"}])
}

fn responses_whole() -> Value {
    json!({"id": "resp_1", "object": "response", "status": "completed", "model": "gpt-x", "error": null, "incomplete_details": null, "output": output(),
        "usage": {"input_tokens": 20, "input_tokens_details": {"cached_tokens": 10}, "output_tokens": 7}})
}

fn responses_stream() -> String {
    let begun = json!({"id": "resp_1", "object": "response", "status": "in_progress", "model": "gpt-x", "output": []});
    let mut events =
        vec![json!({"type": "response.created", "response": begun}), json!({"type": "response.in_progress", "response": begun})];
    for (index, item) in output().as_array().unwrap().iter().enumerate() {
        let mut added = item.clone();
        for (name, value) in [("content", json!([])), ("arguments", json!(""))] {
            if added.get(name).is_some() {
                added[name] = value;
            }
        }
        events.push(json!({"type": "response.output_item.added", "output_index": index, "item": added}));
        match item["type"].as_str().unwrap() {
            "message" => {
                for delta in ["Let me ", "see… 🌧"] {
                    events.push(
                        json!({"type": "response.output_text.delta", "output_index": index, "content_index": 0, "delta": delta}),
                    );
                }
                events.push(json!({"type": "response.output_text.done", "output_index": index, "content_index": 0, "text": "Let me see… 🌧"}));
            }
            "function_call" => {
                for delta in ["{\"city\":", "\"Paris\"}"] {
                    events.push(json!({"type": "response.function_call_arguments.delta", "output_index": index, "delta": delta}));
                }
            }
            _ => events
                .push(json!({"type": "response.reasoning_summary_text.delta", "output_index": index, "delta": "secret thought"})),
        }
        events.push(json!({"type": "response.output_item.done", "output_index": index, "item": item}));
    }
    events.push(json!({"type": "response.completed", "response": responses_whole()}));
    named(&events)
}

fn calls() -> [(Surface, Value, String); 3] {
    [
        (OpenAiChat, chat_whole(), chat_stream()),
        (OpenAiResponses, responses_whole(), responses_stream()),
        (AnthropicMessages, anthropic_whole(), anthropic_stream()),
    ]
}

#[test]
fn a_stream_and_one_json_are_the_same_answer() {
    for (surface, whole, stream) in calls() {
        let answer = Answer::read(surface, whole.to_string().as_bytes());
        assert_eq!(streamed(surface, stream.as_bytes(), true), answer, "{surface:?}");
        assert_eq!((answer.text().as_str(), answer.cut, answer.error.as_deref()), ("Let me see… 🌧", None, None));
        assert!(!answer.parts.iter().any(|part| part.to_string().contains("secret thought")));
        let usage =
            Usage { input_tokens: Some(20), output_tokens: Some(7), cached_input_tokens: answer.usage.cached_input_tokens };
        assert_eq!(answer.usage, usage);
        assert!(answer.usage.cached_input_tokens >= Some(10));
        assert_eq!(answer.choices, if surface == OpenAiChat { 2 } else { 1 });
        let call = match surface {
            OpenAiChat => &answer.parts[1]["function"]["arguments"],
            OpenAiResponses => &answer.parts[1]["arguments"],
            AnthropicMessages => &answer.parts[1]["input"],
        };
        let call = call.as_str().map_or_else(|| call.clone(), |text| serde_json::from_str(text).unwrap());
        assert_eq!(call, json!({"city": "Paris"}));
        assert_eq!(answer.parts.len(), if surface == OpenAiChat { 3 } else { 2 });
        assert!(answer.response_id.is_some() && answer.model.is_some() && answer.finish_reason.is_some());
    }
}

#[test]
fn what_ends_too_soon_is_cut_and_what_is_whole_is_known_before_the_bytes_end() {
    for (surface, _, stream) in calls() {
        let at = stream.find("see…").unwrap();
        let half = streamed(surface, &stream.as_bytes()[..at], false);
        assert_eq!((half.text().as_str(), half.cut), ("Let me ", Some(Cut::Incomplete)), "{surface:?}");
        assert!(!half.is_failure());
        let mut all = Stream::new(surface);
        all.feed(&stream.as_bytes()[..at]);
        assert!(!all.is_done());
        all.feed(&stream.as_bytes()[at..]);
        assert!(all.is_done());
        // The client goes once it has seen the end.
        assert_eq!(all.finish(false).cut, None);
        assert_eq!(streamed(surface, b"", false).cut, Some(Cut::Incomplete));
    }
}

#[test]
fn errors_are_failures_and_after_words_a_cut() {
    for (surface, _, stream) in calls() {
        let error = match surface {
            OpenAiResponses => json!({"type": "error", "code": "server_error", "message": "quotes the request"}),
            _ => json!({"type": "error", "error": {"type": "server_error", "message": "quotes the request"}}),
        };
        let event = format!("event: error\ndata: {error}\n\n");
        let failed = streamed(surface, event.as_bytes(), true);
        assert!(failed.is_failure() && failed.error.is_some());
        assert!(!format!("{failed:?}").contains("quotes"));
        let words = &stream[..stream.find("see…").unwrap()];
        let words = &words[..words.rfind("data:").unwrap()];
        let words = &words[..words.rfind("\n").unwrap() + 1];
        let broken = streamed(surface, format!("{words}\n{event}").as_bytes(), true);
        assert_eq!(
            (broken.text().as_str(), broken.cut, broken.is_failure()),
            ("Let me ", Some(Cut::Failed), false),
            "{surface:?}"
        );
        for body in ["", "{}", "<html>no</html>", "{\"error\": {\"type\": \"x\", \"message\": \"quotes\"}}", "[1]", "{", "\u{0}"]
        {
            assert!(Answer::read(surface, body.as_bytes()).is_failure(), "{surface:?} {body}");
        }
    }
    let failed = json!({"id": "r", "status": "failed", "error": {"code": "server_error", "message": "m"}, "output": []});
    assert!(Answer::read(OpenAiResponses, failed.to_string().as_bytes()).is_failure());
    let later = json!({"id": "r", "status": "queued", "output": []});
    assert_eq!(Answer::read(OpenAiResponses, later.to_string().as_bytes()).cut, Some(Cut::Incomplete));
    let short = json!({"id": "r", "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []});
    let short = Answer::read(OpenAiResponses, short.to_string().as_bytes());
    assert_eq!((short.cut, short.finish_reason.as_deref()), (None, Some("max_output_tokens")));
}

#[test]
fn other_accents_of_chat_are_understood() {
    let refusal =
        json!({"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": null, "refusal": "I cannot."}}]});
    assert_eq!(
        Answer::read(OpenAiChat, refusal.to_string().as_bytes()).parts,
        [json!({"type": "refusal", "refusal": "I cannot."})]
    );
    let delta = |delta: Value| json!({"choices": [{"delta": delta}]});
    let call = |call: Value| delta(json!({"tool_calls": [call]}));
    let stream = sse(&[
        delta(json!({"content": [{"type": "text", "text": "parts"}]})),
        call(json!({"id": "a", "function": {"name": "f", "arguments": "{"}})),
        call(json!({"function": {"arguments": "}"}})),
        call(json!({"id": "b", "function": {"name": "g", "arguments": {"x": 1}}})),
        delta(json!({"function_call": {"name": "old", "arguments": "{"}})),
        delta(json!({"function_call": {"arguments": "}"}})),
    ]);
    let answer = streamed(OpenAiChat, format!("{stream}data: [DONE]\n\n").as_bytes(), true);
    let function = |name: &str, arguments: &str| json!({"name": name, "arguments": arguments});
    let expected = [
        json!({"type": "text", "text": "parts"}),
        json!({"type": "function", "id": "a", "function": function("f", "{}")}),
        json!({"type": "function", "id": "b", "function": function("g", "{\"x\":1}")}),
        json!({"type": "function", "function": function("old", "{}")}),
    ];
    assert_eq!((answer.parts.as_slice(), answer.cut), (&expected[..], None));
    let spoken = json!({"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": null, "audio": {"id": "au", "data": "QUJD", "transcript": "hello"}}}]});
    assert_eq!(Answer::read(OpenAiChat, spoken.to_string().as_bytes()).text(), "hello");
}

#[test]
fn an_endless_answer_is_kept_up_to_its_bound() {
    let piece = "x".repeat(1_000);
    let chat = sse(&[json!({"choices": [{"index": 0, "delta": {"content": piece}}]})]);
    let anthropic = named(&[json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}})]);
    let responses =
        named(&[json!({"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": piece})]);
    for (surface, event) in [(OpenAiChat, chat), (AnthropicMessages, anthropic), (OpenAiResponses, responses)] {
        let mut stream = Stream::new(surface);
        for _ in 0..1_200 {
            stream.feed(event.as_bytes());
        }
        let answer = stream.finish(true);
        assert_eq!((answer.cut, answer.text().len()), (Some(Cut::TooLong), 1 << 20), "{surface:?}");
    }
    let mut stream = Stream::new(OpenAiChat);
    stream.feed(b"{");
    for _ in 0..40 {
        stream.feed(&vec![b' '; 1 << 20]);
    }
    assert_eq!(stream.finish(true).cut, Some(Cut::TooLong));
}

#[test]
fn a_last_event_that_is_too_large_ends_a_whole_answer() {
    let stream = responses_stream();
    let (before, _) = stream.split_once("event: response.completed").unwrap();
    let large = format!("{before}event: response.completed\ndata: {}\n\n", "x".repeat(9 << 20));
    let answer = streamed(OpenAiResponses, large.as_bytes(), true);
    assert_eq!((answer.text().as_str(), answer.cut, answer.parts.len()), ("Let me see… 🌧", None, 2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_split_gives_the_same_answer(
        which in 0..3_usize, is_whole in any::<bool>(), end in any::<prop::sample::Index>(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let (surface, whole, stream) = Vec::from(calls()).swap_remove(which);
        let bytes = if is_whole { whole.to_string().into_bytes() } else { stream.into_bytes() };
        let bytes = &bytes[..end.index(bytes.len() + 1)];
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let mut stream = Stream::new(surface);
        for pair in cuts.windows(2) {
            stream.feed(&bytes[pair[0]..pair[1]]);
        }
        prop_assert_eq!(stream.finish(false), streamed(surface, bytes, false));
    }

    #[test]
    fn garbage_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        pieces in prop::collection::vec(prop::sample::select(vec![
            "data: ", "event: error", "\n\n", "\n", "{", "}", "[", "]", ":", ",", "\"choices\"", "\"delta\"", "\"type\"", "\"index\"", "1e99", "-1", "18446744073709551615",
            "\"content_block_delta\"", "\"response.output_item.done\"", "\"item\"", "\"text\"", "null", "\"\\ud800\"", "[DONE]"]), 0..80),
    ) {
        for surface in Surface::ALL {
            for bytes in [&bytes[..], pieces.concat().as_bytes()] {
                let answer = streamed(surface, bytes, true);
                prop_assert!(answer.text().len() <= bytes.len());
            }
        }
    }
}
