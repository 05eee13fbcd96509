//! Parts of messages as they are kept: small, and fit for an event.
//!
//! Promises: words stay. A picture, a sound or a file that is in the request or answer itself becomes a placeholder that keeps the
//! part's type, its short names, its media type and its size in bytes. U+0000, which no event may hold, becomes U+FFFD. Linear in
//! the part's size.

use serde_json::{Map, Value, json};

use crate::context_block::remove_blocks;

/// Base64 of fewer bytes is kept: an id, a signature, an icon.
const MIN_PAYLOAD_BYTES: usize = 512;
/// What names a payload is at most so long.
const MAX_NAME_BYTES: usize = 256;
/// Deeper JSON is left out, so that the door's parser takes the event with the part inside.
const MAX_DEPTH: usize = 64;

/// What of a call is not in its event as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// Payloads that became placeholders.
    pub(super) payloads: usize,
    /// Whole messages.
    pub(super) messages: usize,
}

/// `part` as it is kept. None where nothing is left of it: it held an injected block and nothing else.
pub(super) fn kept(part: Value, left_out: &mut LeftOut) -> Option<Value> {
    match part {
        Value::String(text) => said(text).map(Value::String),
        Value::Object(mut members) => {
            if let Some(Value::String(text)) = members.get_mut("text") {
                let (words, blocks) = remove_blocks(text);
                if blocks > 0 {
                    let words = words.into_owned();
                    if words.is_empty() && members.len() == 2 && members.contains_key("type") {
                        return None;
                    }
                    members.insert("text".into(), words.into());
                }
            }
            Some(small(members, 1, left_out))
        }
        _ => None,
    }
}

/// `text` without injected blocks and U+0000. None where nothing is left.
pub(super) fn said(text: String) -> Option<String> {
    let (words, blocks) = remove_blocks(&text);
    let words = if blocks == 0 { text } else { words.into_owned() };
    (!words.is_empty()).then(|| without_nul(words))
}

fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}") } else { text }
}

/// An object that may hold a payload itself, or in objects inside; of lists inside, every item is looked at for itself.
fn small(members: Map<String, Value>, depth: usize, left_out: &mut LeftOut) -> Value {
    match payload(&members) {
        Some(payload) => {
            left_out.payloads += 1;
            placeholder(members, payload)
        }
        None => object(members, depth, left_out),
    }
}

fn object(members: Map<String, Value>, depth: usize, left_out: &mut LeftOut) -> Value {
    let kept = members.into_iter().filter(|(name, _)| !name.contains('\0'));
    Value::Object(kept.map(|(name, value)| (name, inner(value, depth + 1, left_out))).collect())
}

fn inner(value: Value, depth: usize, left_out: &mut LeftOut) -> Value {
    match value {
        Value::Array(_) | Value::Object(_) if depth > MAX_DEPTH => Value::from("[left out: nested too deep]"),
        Value::String(text) => Value::String(without_nul(text)),
        Value::Object(members) => object(members, depth, left_out),
        Value::Array(items) => {
            let mut item = |item| match item {
                Value::Object(members) if depth < MAX_DEPTH => small(members, depth + 1, left_out),
                other => inner(other, depth + 1, left_out),
            };
            Value::Array(items.into_iter().map(&mut item).collect())
        }
        other => other,
    }
}

struct Payload {
    media_type: Option<String>,
    bytes: usize,
    file_name: Option<String>,
}

/// The first payload among the members or those of objects inside.
fn payload(members: &Map<String, Value>) -> Option<Payload> {
    members.iter().find_map(|(name, value)| match value {
        Value::String(text) if name != "text" => payload_of(text, members),
        Value::Object(inner) => payload(inner),
        _ => None,
    })
}

fn payload_of(text: &str, beside: &Map<String, Value>) -> Option<Payload> {
    if text.len() < MIN_PAYLOAD_BYTES {
        return None;
    }
    let of = |name: &str| beside.get(name).and_then(Value::as_str).filter(|text| text.len() <= MAX_NAME_BYTES);
    let file_name = of("filename").map(str::to_owned);
    let head = &text[..text.floor_char_boundary(MAX_NAME_BYTES)];
    if let Some((media_type, _)) = head.strip_prefix("data:").and_then(|rest| rest.split_once(',')) {
        let base64 = text.len() - media_type.len() - "data:,".len();
        let media_type = media_type.split(';').next().filter(|media_type| !media_type.is_empty());
        return Some(Payload { media_type: media_type.map(str::to_owned), bytes: base64 / 4 * 3, file_name });
    }
    let is_base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_' | b'=' | b'\r' | b'\n');
    if !text.bytes().all(is_base64) {
        return None;
    }
    let media_type = of("media_type").or_else(|| of("mime_type")).map(str::to_owned);
    let media_type = media_type.or_else(|| of("output_format").map(|format| format!("image/{format}")));
    let media_type = media_type.or_else(|| of("format").map(|format| format!("audio/{format}")));
    Some(Payload { media_type, bytes: text.len() / 4 * 3, file_name })
}

fn placeholder(members: Map<String, Value>, payload: Payload) -> Value {
    let is_short = |value: &Value| value.as_str().is_some_and(|text| text.len() <= MAX_NAME_BYTES);
    let mut kept: Map<String, Value> = members
        .into_iter()
        .filter(|(name, value)| !name.contains('\0') && (name == "text" || is_short(value)))
        .map(|(name, value)| (name, inner(value, MAX_DEPTH, &mut LeftOut::default())))
        .collect();
    if let Some(name) = payload.file_name {
        kept.insert("filename".into(), without_nul(name).into());
    }
    let media_type = without_nul(payload.media_type.unwrap_or_else(|| "application/octet-stream".into()));
    kept.insert("omitted".into(), json!({"media_type": media_type, "bytes": payload.bytes}));
    Value::Object(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(part: Value) -> (Option<Value>, usize) {
        let mut left_out = LeftOut::default();
        (kept(part, &mut left_out), left_out.payloads)
    }

    #[test]
    fn payloads_become_placeholders_and_words_stay() {
        let base64 = "QUJD".repeat(300);
        let url = format!("data:image/png;base64,{base64}");
        let omitted = |media_type: &str| json!({"media_type": media_type, "bytes": 900});
        let words = "w".repeat(2_000);
        for (part, expected, payloads) in [
            (
                json!({"type": "image_url", "image_url": {"url": url, "detail": "low"}}),
                json!({"type": "image_url", "omitted": omitted("image/png")}),
                1,
            ),
            (
                json!({"type": "input_image", "image_url": url, "detail": "low"}),
                json!({"type": "input_image", "detail": "low", "omitted": omitted("image/png")}),
                1,
            ),
            (
                json!({"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": base64}}),
                json!({"type": "image", "omitted": omitted("image/webp")}),
                1,
            ),
            (
                json!({"type": "input_audio", "input_audio": {"data": base64, "format": "wav"}}),
                json!({"type": "input_audio", "omitted": omitted("audio/wav")}),
                1,
            ),
            (
                json!({"type": "file", "file": {"file_data": url, "filename": "a.pdf"}}),
                json!({"type": "file", "filename": "a.pdf", "omitted": omitted("image/png")}),
                1,
            ),
            (
                json!({"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "seen"},
                    {"type": "image", "source": {"type": "base64", "data": base64}}]}),
                json!({"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "seen"},
                    {"type": "image", "omitted": omitted("application/octet-stream")}]}),
                1,
            ),
            (
                json!({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}),
                json!({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}),
                0,
            ),
            (json!({"type": "text", "text": words}), json!({"type": "text", "text": words}), 0),
            (json!({"type": "text", "text": "a\0b", "x\0": 1}), json!({"type": "text", "text": "a\u{FFFD}b"}), 0),
        ] {
            assert_eq!(of(part), (Some(expected), payloads));
        }
    }

    #[test]
    fn blocks_go_and_take_an_emptied_part_with_them() {
        let block = "<memori_context>\n- \"x\"\n</memori_context>";
        assert_eq!(of(json!({"type": "text", "text": block})).0, None);
        assert_eq!(of(json!(block)).0, None);
        assert_eq!(of(json!({"type": "text", "text": format!("hi{block}")})).0, Some(json!({"type": "text", "text": "hi"})));
        let marked = json!({"type": "text", "text": block, "cache_control": {}});
        assert_eq!(of(marked).0, Some(json!({"type": "text", "text": "", "cache_control": {}})));
    }

    #[test]
    fn what_is_nested_too_deep_is_left_out() {
        let deep = (0..120).fold(json!("x"), |inner, i| if i % 2 == 0 { json!([inner]) } else { json!({"a": inner}) });
        let kept = of(json!({"type": "tool_use", "input": deep})).0.expect("a part");
        let event = json!({"events": [{"messages": [{"content": [kept]}]}]}).to_string();
        assert!(event.contains("nested too deep"));
        assert!(serde_json::from_str::<Value>(&event).is_ok());
    }
}
