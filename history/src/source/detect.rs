//! Telling a format by an input's beginning.

use serde_json::Value;

use super::{Format, Layout, Shape};
use crate::cut::{Cut as _, Elements, Lines};
use crate::options::Options;
use crate::record::Body;

/// As much of an input is looked at.
pub const HEAD_BYTES: usize = 256 << 10;

/// Lists that stand as the first member of an object.
const WRAPPERS: [&str; 4] = ["results", "memories", "data", "events"];

/// The format and layout of an input that begins with `head`.
///
/// # Errors
/// It is none that is known; says what to do.
pub fn tell(head: &[u8], options: &Options) -> Result<Shape, String> {
    let with = |layout| -> Result<Shape, String> {
        let format = options.format.map_or_else(|| told(head, layout, options), Ok)?;
        Ok(Shape { format, layout })
    };
    if head.starts_with(b"PAR1") {
        return Ok(Shape { format: Format::Parquet, layout: Layout::Parquet });
    }
    if head.starts_with(b"SQLite format 3\0") {
        return Ok(Shape { format: Format::Memori, layout: Layout::Sqlite });
    }
    if std::str::from_utf8(head).is_err_and(|error| error.error_len().is_some()) && head.contains(&0) {
        return Err("this is a binary file of no format that is known".to_owned());
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    match text.first() {
        None => Err("it is empty".to_owned()),
        Some(b'[') if !a_line_alone(text) => with(Layout::Elements(false)),
        Some(b'{' | b'[') if a_line_alone(text) => with(Layout::Lines),
        Some(b'{') if wrapper(text) => with(Layout::Elements(true)),
        Some(b'{') => with(Layout::Elements(false)),
        Some(_)
            if options.format.is_none_or(|format| format == Format::Csv) && !options.map.is_empty()
                || options.format == Some(Format::Csv) =>
        {
            Ok(Shape { format: Format::Csv, layout: Layout::Csv(delimiter(text, options)) })
        }
        Some(_) if options.format.is_some_and(|format| format != Format::Csv) => with(Layout::Lines),
        Some(_) => Err("this is no format that is known: for CSV say which column is what, such as \
                        --map entity=user_id,role=role,content=text; for another, name it with --format"
            .to_owned()),
    }
}

/// Whether records are lines: the first line is a whole value, and not all there is of a list of records; or most lines are, where the
/// first one is broken. A list that is written over several lines has some that are whole values, too.
fn a_line_alone(text: &[u8]) -> bool {
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let Some(first) = lines.next() else { return false };
    let rest: Vec<&[u8]> = lines.take(20).collect();
    match serde_json::from_slice::<Value>(first) {
        Ok(Value::Object(_)) => !rest.is_empty() || !wrapper(first),
        Ok(Value::Array(_)) => !rest.is_empty(),
        Ok(_) => false,
        Err(_) => {
            let whole = rest.iter().filter(|line| serde_json::from_slice::<Value>(line).is_ok_and(|value| value.is_object()));
            first.starts_with(b"{") && 2 * whole.count() > rest.len()
        }
    }
}

/// Whether it begins with `{"results": [`.
fn wrapper(text: &[u8]) -> bool {
    let Some(rest) = text.strip_prefix(b"{") else { return false };
    let rest = rest.trim_ascii_start();
    WRAPPERS.iter().any(|name| {
        let rest = rest.strip_prefix(b"\"").and_then(|rest| rest.strip_prefix(name.as_bytes()));
        let rest = rest.and_then(|rest| rest.strip_prefix(b"\"")).map(<[u8]>::trim_ascii_start);
        let rest = rest.and_then(|rest| rest.strip_prefix(b":")).map(<[u8]>::trim_ascii_start);
        rest.is_some_and(|rest| rest.starts_with(b"["))
    })
}

fn delimiter(text: &[u8], options: &Options) -> u8 {
    if let Some(given) = options.delimiter.and_then(|given| u8::try_from(given).ok()) {
        return given;
    }
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let count = |delimiter: u8| first.iter().filter(|byte| **byte == delimiter).count();
    *b",;\t|".iter().max_by_key(|delimiter| (count(**delimiter), **delimiter == b',')).unwrap_or(&b',')
}

/// By the first records that are whole.
fn told(head: &[u8], layout: Layout, options: &Options) -> Result<Format, String> {
    let raws: Vec<Vec<u8>> = {
        let json = |raw: crate::record::Raw| match raw.body {
            Body::Json(text) => Some(text),
            _ => None,
        };
        let cut: Box<dyn crate::cut::Cut> = match layout {
            Layout::Lines => Box::new(Lines::new(head, 0).map_err(|error| error.to_string())?),
            Layout::Elements(wrapped) => Box::new(Elements::new(head, 0, wrapped).map_err(|error| error.to_string())?),
            _ => return Err("this is no format that is known".to_owned()),
        };
        let mut cut = cut;
        std::iter::from_fn(|| cut.next().ok().flatten()).take(50).filter_map(json).collect()
    };
    let values = raws.iter().filter_map(|text| serde_json::from_slice::<Value>(text).ok());
    if let Some(format) = values.filter_map(|value| of_value(&value)).next() {
        return Ok(format);
    }
    // The first record may be longer than the head.
    let text = String::from_utf8_lossy(head);
    let names = [
        ("\"chat_messages\"", Format::Claude),
        ("\"mapping\"", Format::ChatGpt),
        ("\"channel_values\"", Format::LangChain),
        ("\"from\"", Format::ShareGpt),
        ("\"entity_id\"", Format::Events),
        ("\"role\"", Format::OpenAi),
    ];
    if let Some((_, format)) = names.iter().find(|(name, _)| text.contains(name)) {
        return Ok(*format);
    }
    if options.map.field("content").is_some() || options.map.field("user").is_some() {
        return Ok(Format::Json);
    }
    Err("this is JSON of no format that is known: name one with --format, or say which field is what, such as \
         --map entity=user_id,role=role,content=text"
        .to_owned())
}

fn of_value(value: &Value) -> Option<Format> {
    let elements = |value: &Value, member: &str| value[member].as_array().and_then(|list| list.first()).cloned();
    if let Value::Array(list) = value {
        return of_list(list);
    }
    let kind = value["type"].as_str();
    if (kind == Some("message") && value["event_id"].is_string()) || (kind == Some("fact") && value["fact_id"].is_string()) {
        return Some(Format::Export);
    }
    if value["mapping"].is_object() {
        return Some(Format::ChatGpt);
    }
    if value["chat_messages"].is_array() {
        return Some(Format::Claude);
    }
    if ["conversations", "conversation", "items"]
        .iter()
        .any(|name| elements(value, name).is_some_and(|first| first["from"].is_string()))
    {
        return Some(Format::ShareGpt);
    }
    if value["entity_id"].is_string() && value["messages"].is_array() {
        return Some(Format::Events);
    }
    if value["memory"].is_string() && (value["id"].is_string() || value["user_id"].is_string() || value["hash"].is_string()) {
        return Some(Format::Mem0);
    }
    if super::langchain::is_one(value) {
        return Some(Format::LangChain);
    }
    super::openai::is_one(value).then_some(Format::OpenAi)
}

/// The format of a conversation that is nothing but a list of messages.
fn of_list(list: &[Value]) -> Option<Format> {
    let first = list.first()?;
    if first["from"].is_string() && first["value"].is_string() {
        return Some(Format::ShareGpt);
    }
    if super::langchain::message(first).is_some() {
        return Some(Format::LangChain);
    }
    (first["role"].is_string() && !first["content"].is_null()).then_some(Format::OpenAi)
}
