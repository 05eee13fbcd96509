//! The formats that are read: how each is told, how it is cut into records, and what a record becomes. No I/O but reading.

mod chatgpt;
mod claude;
mod detect;
mod events;
mod export;
mod langchain;
mod mem0;
mod memori;
mod openai;
mod rows;
mod sharegpt;

use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use detect::{HEAD_BYTES, tell};
pub(crate) use memori::{FACTS_SQL, MESSAGES_SQL};

use crate::cut::{CsvRows, Cut, Elements, Grouped, Grouping, Lines};
use crate::options::Options;
use crate::record::{Bad, Body, Raw, Row};
use crate::turns::{self, Conversation};

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Bodies of `POST /v1/events`.
    Events,
    /// What `GET /v1/entities/{entity_id}/export` gives.
    Export,
    /// The data export of ChatGPT.
    ChatGpt,
    /// The data export of Claude.
    Claude,
    /// Lists of `from` and `value`.
    ShareGpt,
    /// Chats for fine-tuning at OpenAI, and any `messages` of `role` and `content`.
    OpenAi,
    /// Message histories of LangChain, states and checkpoints of LangGraph.
    LangChain,
    /// Memories of mem0.
    Mem0,
    /// The database of the library Memori.
    Memori,
    /// Rows of CSV with a mapping.
    Csv,
    /// JSON objects with a mapping.
    Json,
    /// Rows of Parquet with a mapping.
    Parquet,
}

/// Every format, with its name.
pub const FORMATS: [(Format, &str); 12] = [
    (Format::Events, "events"),
    (Format::Export, "export"),
    (Format::ChatGpt, "chatgpt"),
    (Format::Claude, "claude"),
    (Format::ShareGpt, "sharegpt"),
    (Format::OpenAi, "openai"),
    (Format::LangChain, "langchain"),
    (Format::Mem0, "mem0"),
    (Format::Memori, "memori"),
    (Format::Csv, "csv"),
    (Format::Json, "json"),
    (Format::Parquet, "parquet"),
];

impl Format {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        FORMATS.iter().find(|(format, _)| *format == self).map_or("", |(_, name)| name)
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || FORMATS.map(|(_, name)| name).join(", ");
        FORMATS
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(format, _)| *format)
            .ok_or_else(|| format!("there is no format {text:?}; there are {}", names()))
    }
}

/// How records lie in an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One a line.
    Lines,
    /// In a list, or one after the other; `true`: the list is the first member of an object.
    Elements(bool),
    /// Rows of CSV with this between the columns.
    Csv(u8),
    /// Rows of Parquet.
    Parquet,
    /// Rows of a SQLite database.
    Sqlite,
}

/// A format as it lies in an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What it says.
    pub format: Format,
    /// How it lies there.
    pub layout: Layout,
}

/// Records of text; those of tables in binary files are cut elsewhere and grouped by [`grouped`].
///
/// # Errors
/// The input cannot be read.
pub fn cut<'r, R: Read + 'r>(reader: R, shape: Shape, options: &Options, skip: u64) -> io::Result<Box<dyn Cut + 'r>> {
    let groups = rows_of(shape.format);
    let from = if groups { 0 } else { skip };
    let cut: Box<dyn Cut + 'r> = match shape.layout {
        Layout::Csv(delimiter) => Box::new(CsvRows::new(reader, delimiter)?),
        Layout::Lines => Box::new(Lines::new(reader, from)?),
        Layout::Elements(wrapped) => Box::new(Elements::new(reader, from, wrapped)?),
        Layout::Parquet | Layout::Sqlite => {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a table is not read as text"));
        }
    };
    Ok(if groups { grouped(cut, shape.format, options, skip) } else { cut })
}

/// Whether records of this format are rows, several of which make a conversation.
fn rows_of(format: Format) -> bool {
    matches!(format, Format::Export | Format::LangChain | Format::Memori | Format::Csv | Format::Json | Format::Parquet)
}

/// Groups rows into conversations.
pub fn grouped<'r>(cut: Box<dyn Cut + 'r>, format: Format, options: &Options, skip: u64) -> Box<dyn Cut + 'r> {
    Box::new(Grouped::new(cut, Rows { format, options: options.clone() }, skip))
}

impl<C: Cut + ?Sized> Cut for Box<C> {
    fn next(&mut self) -> io::Result<Option<Raw>> {
        (**self).next()
    }
}

struct Rows {
    format: Format,
    options: Options,
}

impl Grouping for Rows {
    fn key(&self, row: &Row) -> Option<String> {
        match self.format {
            Format::Export => export::group(row),
            Format::LangChain => langchain::group(row),
            Format::Memori => memori::group(row),
            _ => rows::group(row, &self.options),
        }
    }

    fn may_cut_before(&self, row: &Row) -> bool {
        match self.format {
            Format::Export => false,
            Format::LangChain => langchain::speaks(row),
            Format::Memori => memori::speaks(row),
            _ => rows::speaks(row, &self.options),
        }
    }
}

/// What a record became.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Converted {
    /// Bodies of `POST /v1/events`, in order.
    pub events: Vec<Value>,
    /// What is set aside.
    pub bad: Vec<Bad>,
    /// Parts of it that are passed by on purpose, such as facts of an export.
    pub passed: u64,
}

impl Converted {
    fn bad(reason: impl Into<String>, text: &[u8]) -> Self {
        Self { bad: vec![Bad::new(reason, text)], ..Self::default() }
    }
}

/// What a record of a format becomes. Pure; never panics, whatever it holds.
#[must_use]
pub fn convert(format: Format, body: Body, options: &Options) -> Converted {
    match body {
        Body::Bad(bad) => Converted { bad: vec![bad], ..Converted::default() },
        Body::Rows(rows) => convert_rows(format, rows, options),
        Body::Json(text) => {
            if format == Format::Events {
                return events::convert(&text, options);
            }
            let value: Value = match serde_json::from_slice(&text) {
                Ok(value) => value,
                Err(error) => return Converted::bad(format!("not JSON: {error}"), &text),
            };
            let told = match format {
                Format::ChatGpt => chatgpt::conversation(&value),
                Format::Claude => claude::conversation(&value),
                Format::ShareGpt => sharegpt::conversation(&value),
                Format::OpenAi => openai::conversation(&value),
                Format::LangChain => langchain::conversation(&value),
                Format::Mem0 => mem0::conversation(&value),
                _ => Err("the record must be an object".to_owned()),
            };
            let told = told.map(|conversation| around(conversation, &value, options));
            match told {
                Ok(conversation) => made(format, conversation, options, &text),
                Err(reason) => Converted::bad(reason, &text),
            }
        }
    }
}

fn convert_rows(format: Format, rows: Vec<Row>, options: &Options) -> Converted {
    let text = || rows.first().map(|row| Value::Object(row.clone()).to_string()).unwrap_or_default();
    match format {
        Format::Export => export::convert(rows, options),
        _ => {
            let told = match format {
                Format::LangChain => langchain::conversation_of(&rows),
                Format::Memori => memori::conversation_of(&rows),
                _ => rows::conversation_of(&rows, options),
            };
            match told {
                Ok((conversation, bad)) => {
                    let mut converted = made(format, conversation, options, text().as_bytes());
                    converted.bad.extend(bad);
                    converted
                }
                Err(reason) => Converted::bad(reason, text().as_bytes()),
            }
        }
    }
}

fn made(format: Format, conversation: Conversation, options: &Options, text: &[u8]) -> Converted {
    match turns::events(format.as_str(), conversation, options) {
        Ok(events) if events.is_empty() => Converted { passed: 1, ..Converted::default() },
        Ok(events) => Converted { events, ..Converted::default() },
        Err(bad) => Converted::bad(bad.reason, text),
    }
}

/// What a mapping says about a whole record.
fn around(mut conversation: Conversation, value: &Value, options: &Options) -> Conversation {
    let Some(members) = value.as_object() else { return conversation };
    let mapped = |target| options.map.field(target).and_then(|field| crate::options::id(crate::options::at(members, field)));
    conversation.entity = mapped("entity").or(conversation.entity);
    conversation.process = mapped("process").or(conversation.process);
    conversation.session = mapped("session").or(conversation.session);
    let time = options.map.field("time").and_then(|field| crate::options::at(members, field)).and_then(crate::time::read);
    conversation.at = time.or(conversation.at);
    conversation.metadata.extend(metadata(members, options));
    conversation
}

/// Fields that are mapped to metadata, as text.
fn metadata(members: &Map<String, Value>, options: &Options) -> Map<String, Value> {
    let of = |(name, field): (&str, &str)| Some((name.to_owned(), as_text(crate::options::at(members, field)?).into()));
    options.map.metadata().filter_map(of).collect()
}

/// A value as metadata holds it.
fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A provider's list of parts as it is, a text as it is; from an object its text.
fn content(value: &Value) -> Value {
    match value {
        Value::Object(members) => members.get("text").or_else(|| members.get("content")).cloned().unwrap_or(Value::Null),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests;
