//! From a model's words to JSON, tolerantly.
//!
//! Taken: JSON in code fences or prose, behind `<think>` blocks, with trailing commas, with raw line ends in strings, and JSON that was
//! cut off between whole items (it is closed there). Refused: what was cut off inside an item, since something is missing then. Any
//! text gives an answer or an error, in time and memory bounded by its length.

use serde_json::{Map, Number, Value};

/// The longest text that is looked at, in bytes.
pub(crate) const MAX_TEXT_BYTES: usize = 1 << 20;
/// Deeper nesting is no answer of ours.
const MAX_DEPTH: usize = 16;
/// Places at which JSON may begin that are tried.
const MAX_STARTS: usize = 32;

/// Why there is no JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseError {
    #[error("the answer is too long")]
    TooLong,
    #[error("the answer holds no JSON object")]
    NoJson,
    #[error("the answer was cut off inside an item: answer more briefly")]
    CutOff,
}

/// What a text holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) value: Value,
    /// It was cut off between whole items; whether more would have come is not known.
    pub(crate) is_cut: bool,
}

/// The object or list in `text` that `fits`.
pub(crate) fn json_in(text: &str, fits: impl Fn(&Value) -> bool) -> Result<Found, ParseError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(ParseError::TooLong);
    }
    // Whole JSON first: it may well speak of thoughts.
    for text in [text.trim(), without_thoughts(text).trim()] {
        if let Ok(value) = serde_json::from_str::<Value>(text)
            && fits(&value)
        {
            return Ok(Found { value, is_cut: false });
        }
    }
    let text = without_thoughts(text).trim();
    let mut from = 0;
    for _ in 0..MAX_STARTS {
        let Some(start) = text[from..].find(['{', '[']).map(|at| from + at) else { break };
        let mut reader = Reader { text: &text[start..], at: 0, cut: None };
        match (reader.value(1), reader.cut) {
            (Ok(value), cut @ (None | Some(Cut::BetweenItems))) if fits(&value) => {
                return Ok(Found { value, is_cut: cut.is_some() });
            }
            // What is cut reaches to the end, so there is nothing behind it; what lies in it is only a part.
            (Ok(_), Some(_)) | (Err(Fault::End), _) => return Err(ParseError::CutOff),
            (Ok(_), None) => from = start + reader.at,
            (Err(Fault::Syntax), _) => from = start + 1,
        }
    }
    Err(ParseError::NoJson)
}

/// Without what a model thought aloud. Thoughts that do not end are all there is.
fn without_thoughts(text: &str) -> &str {
    match (text.rfind("</think>"), text.find("<think>")) {
        (Some(end), _) => &text[end + "</think>".len()..],
        (None, Some(begin)) if text[..begin].trim().is_empty() => "",
        (None, _) => text,
    }
}

/// Where the text ended too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    BetweenItems,
    InsideItem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The text ended before a value was whole.
    End,
    Syntax,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    cut: Option<Cut>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// The end of the text between the members of a container at `depth`: the outermost and the lists in it may end there.
    fn ends(&mut self, depth: usize, is_list: bool) {
        if self.cut.is_none() {
            let between = depth == 1 || (depth == 2 && is_list);
            self.cut = Some(if between { Cut::BetweenItems } else { Cut::InsideItem });
        }
    }

    /// A member was cut: what it was part of ends here, and an item's part is an item lost.
    fn ends_inside(&mut self, depth: usize, is_list: bool) {
        if self.cut.is_none() {
            // A member of the outermost object that is no list holds no item yet.
            self.cut = Some(if depth == 1 && !is_list { Cut::BetweenItems } else { Cut::InsideItem });
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        self.skip_space();
        match self.peek().ok_or(Fault::End)? {
            b'{' if depth <= MAX_DEPTH => self.object(depth),
            b'[' if depth <= MAX_DEPTH => self.list(depth),
            b'"' => self.string().map(Value::String),
            _ => self.scalar(),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, Fault> {
        self.at += 1;
        let mut items = Vec::new();
        loop {
            self.skip_space();
            match self.peek() {
                None => {
                    self.ends(depth, true);
                    return Ok(Value::Array(items));
                }
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::Array(items));
                }
                Some(b',') => self.at += 1,
                Some(_) => match self.value(depth + 1) {
                    Ok(item) => {
                        items.push(item);
                        if self.cut.is_some() {
                            return Ok(Value::Array(items));
                        }
                    }
                    Err(Fault::End) => {
                        self.ends_inside(depth, true);
                        return Ok(Value::Array(items));
                    }
                    Err(fault) => return Err(fault),
                },
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, Fault> {
        self.at += 1;
        let mut members = Map::new();
        loop {
            self.skip_space();
            match self.peek() {
                None => {
                    self.ends(depth, false);
                    return Ok(Value::Object(members));
                }
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Object(members));
                }
                Some(b',') => self.at += 1,
                Some(b'"') => match self.member(depth) {
                    Ok((name, value)) => {
                        members.insert(name, value);
                        if self.cut.is_some() {
                            return Ok(Value::Object(members));
                        }
                    }
                    Err(Fault::End) => {
                        self.ends_inside(depth, false);
                        return Ok(Value::Object(members));
                    }
                    Err(fault) => return Err(fault),
                },
                Some(_) => return Err(Fault::Syntax),
            }
        }
    }

    fn member(&mut self, depth: usize) -> Result<(String, Value), Fault> {
        let name = self.string()?;
        self.skip_space();
        if self.peek().ok_or(Fault::End)? != b':' {
            return Err(Fault::Syntax);
        }
        self.at += 1;
        Ok((name, self.value(depth + 1)?))
    }

    /// A string; raw line ends and tabs are taken as they are, unknown escapes as the character that they escape.
    fn string(&mut self) -> Result<String, Fault> {
        self.at += 1;
        let mut out = String::new();
        let mut chars = self.text[self.at..].char_indices();
        while let Some((offset, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += offset + 1;
                    return Ok(out);
                }
                '\\' => {
                    let Some((_, escaped)) = chars.next() else { break };
                    match escaped {
                        'n' => out.push('\n'),
                        't' => out.push('\t'),
                        'r' => out.push('\r'),
                        'b' | 'f' => out.push(' '),
                        'u' => {
                            let Some(c) = unicode_escape(&mut chars) else {
                                if chars.as_str().is_empty() {
                                    break;
                                }
                                return Err(Fault::Syntax);
                            };
                            out.push(c);
                        }
                        other => out.push(other),
                    }
                }
                c => out.push(c),
            }
        }
        self.at = self.text.len();
        Err(Fault::End)
    }

    fn scalar(&mut self) -> Result<Value, Fault> {
        let rest = &self.text[self.at..];
        let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))).unwrap_or(rest.len());
        // A number at the very end may go on.
        if length == rest.len() {
            self.at = self.text.len();
            return Err(Fault::End);
        }
        let word = &rest[..length];
        self.at += length;
        match word {
            "null" | "None" => Ok(Value::Null),
            "true" | "True" => Ok(Value::Bool(true)),
            "false" | "False" => Ok(Value::Bool(false)),
            number => number.parse::<Number>().map(Value::Number).map_err(|_| Fault::Syntax),
        }
    }
}

/// The character behind `\u`, surrogate pairs included; half a pair is U+FFFD. `None` where the digits are not there.
fn unicode_escape(chars: &mut std::str::CharIndices<'_>) -> Option<char> {
    let unit =
        |chars: &mut std::str::CharIndices<'_>| (0..4).try_fold(0_u32, |unit, _| Some(unit * 16 + chars.next()?.1.to_digit(16)?));
    let first = unit(chars)?;
    if !(0xd800..0xdc00).contains(&first) {
        return Some(char::from_u32(first).unwrap_or('\u{fffd}'));
    }
    let mut ahead = chars.clone();
    if ahead.next().is_some_and(|(_, c)| c == '\\')
        && ahead.next().is_some_and(|(_, c)| c == 'u')
        && let Some(second @ 0xdc00..0xe000) = unit(&mut ahead)
    {
        *chars = ahead;
        return Some(char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)).unwrap_or('\u{fffd}'));
    }
    Some('\u{fffd}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{Found, ParseError, json_in};

    fn read(text: &str) -> Result<Value, ParseError> {
        let found = json_in(text, |value| value.get(0).is_some_and(Value::is_object) || value.get("facts").is_some())?;
        Ok(found.value)
    }

    #[test]
    fn json_is_found_in_whatever_models_put_around_it() {
        let whole = json!({"facts": [{"text": "a", "evidence": [0]}]});
        for text in [
            r#"{"facts": [{"text": "a", "evidence": [0]}]}"#,
            "```json\n{\"facts\": [{\"text\": \"a\", \"evidence\": [0]}]}\n```",
            "Here {as you wished} it is:\n{\"facts\": [{\"text\": \"a\", \"evidence\": [0,],},],}\nDone!",
            "<think>maybe {\"facts\": []}?</think>\n{\"facts\": [{\"text\": \"a\", \"evidence\": [0]}]}",
            "maybe so</think>{\"facts\": [{\"text\": \"a\", \"evidence\": [0]}]}",
            r#"{"facts": [{"text": "\u0061", "evidence": [0]}"#,
            r#"{"facts": [{"text": "a", "evidence": [0]}, "#,
            r#"{"facts": [{"text": "a", "evidence": [0]}], "instr"#,
            r#"{"facts": [{"text": "a", "evidence": [0]}], "instructions"#,
        ] {
            assert_eq!(read(text).as_ref(), Ok(&whole), "{text}");
        }
        let closed = json!({"facts": [{"text": "a", "evidence": [0]}], "instructions": []});
        assert_eq!(read(r#"{"facts": [{"text": "a", "evidence": [0]}], "instructions": ["#), Ok(closed));
        assert_eq!(read("[{\"text\": \"a\"}]"), Ok(json!([{"text": "a"}])));
        assert_eq!(read("{\"facts\": [\"a\nb\\'c \\ud83d\\ude00\\ud83d\"],}"), Ok(json!({"facts": ["a\nb'c 😀\u{fffd}"]})));
    }

    #[test]
    fn what_was_cut_inside_an_item_is_not_closed() {
        for text in [
            r#"{"facts": [{"text": "a", "evidence": [0]}, {"text": "b", "evid"#,
            r#"{"facts": [{"text": "a", "evidence": [0"#,
            r#"{"facts": [{"text": "a"#,
            r#"{"facts": [{"#,
            r#"{"facts": {"text": "a", "evidence": [0]"#,
            r#"[{"text": "a"}, {"text": "#,
            "```json\n{\"facts\": [{\"text\": \"a\\",
            r#"{"fac"#,
            r#"{"#,
        ] {
            assert_eq!(read(text), Err(ParseError::CutOff), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_said_to_be_none() {
        for text in [
            "",
            "I cannot do that.",
            "<think>endless",
            "{}",
            r#"{"memories": []}"#,
            "{facts: 1}",
            "{\"facts\": nothing}",
            "[1] and [2]",
        ] {
            assert_eq!(read(text), Err(ParseError::NoJson), "{text}");
        }
        assert_eq!(read(&"[".repeat(super::MAX_TEXT_BYTES + 1)), Err(ParseError::TooLong));
        assert!(read(&"[".repeat(10_000)).is_err());
        assert!(read(&"{\"facts\":".repeat(10_000)).is_err());
    }

    /// A rough measure of what a value holds.
    fn size(value: &Value) -> usize {
        1 + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(size).sum(),
            Value::Object(members) => members.iter().map(|(name, value)| name.len() + size(value)).sum(),
            _ => 0,
        }
    }

    fn json_like() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("{".to_owned()),
            Just("}".to_owned()),
            Just("[".to_owned()),
            Just("]".to_owned()),
            Just(",".to_owned()),
            Just(":".to_owned()),
            Just("\"facts\"".to_owned()),
            Just("\"".to_owned()),
            Just("\\".to_owned()),
            Just("\\ud83d".to_owned()),
            Just("\\u00".to_owned()),
            Just("null".to_owned()),
            Just("1e9".to_owned()),
            Just("```".to_owned()),
            Just("<think>".to_owned()),
            Just("</think>".to_owned()),
            any::<String>(),
        ];
        proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_text_is_an_answer_or_an_error(text in prop_oneof![any::<String>(), json_like()]) {
            if let Ok(Found { value, .. }) = json_in(&text, |_| true) {
                prop_assert!(size(&value) <= 3 * text.len() + 1);
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = json_in(&String::from_utf8_lossy(&bytes), |_| true);
        }

        /// Cut anywhere, an answer is refused or holds a beginning of the whole items.
        #[test]
        fn a_cut_answer_never_holds_half_an_item(n in 0_usize..6, at in any::<proptest::sample::Index>()) {
            let items: Vec<Value> = (0..n).map(|i| json!({"text": format!("item {i}"), "evidence": [i]})).collect();
            let whole = json!({"facts": items}).to_string();
            let cut = &whole[..at.index(whole.len())];
            if let Ok(Found { value, is_cut }) = json_in(cut, |value| value.get("facts").is_some()) {
                prop_assert_eq!(is_cut, serde_json::from_str::<Value>(cut).is_err());
                let found = value["facts"].as_array().cloned().unwrap_or_default();
                prop_assert!(items.starts_with(&found), "{cut}: {value}");
                prop_assert!(!cut.ends_with(['x', 'i']), "cut inside a word");
            }
        }
    }
}
