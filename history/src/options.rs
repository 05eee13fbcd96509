//! What the caller says about a source.

use std::collections::BTreeMap;

use memori_schemas::Micros;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::source::Format;

/// What a field of a source can become.
pub const TARGETS: [&str; 12] = [
    "entity",
    "process",
    "session",
    "event_id",
    "message_id",
    "role",
    "name",
    "content",
    "user",
    "assistant",
    "time",
    "metadata.NAME",
];

/// How a source is read. What changes here makes other events, so a checkpoint holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The format; else it is told from the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Whom everything is about that names nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// The agent of everything that names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// When a conversation without any time began; its turns follow each other by a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Micros>,
    /// Fields of rows, by what they become.
    #[serde(skip_serializing_if = "Mapping::is_empty")]
    pub map: Mapping,
    /// Between the columns of CSV; else it is told from the first line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// Whether a foreign system's own facts are imported, as what the person said.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub facts: bool,
}

impl Options {
    /// Nothing here changes an event of our own form that has an id.
    #[must_use]
    pub(crate) fn leave_events_as_they_are(&self) -> bool {
        self.entity.is_none() && self.process.is_none() && self.map.is_empty()
    }
}

/// Fields by what they become.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Mapping(BTreeMap<String, String>);

impl TryFrom<BTreeMap<String, String>> for Mapping {
    type Error = String;

    fn try_from(fields: BTreeMap<String, String>) -> Result<Self, String> {
        for (target, field) in &fields {
            let known =
                TARGETS.contains(&target.as_str()) || target.strip_prefix("metadata.").is_some_and(|name| !name.is_empty());
            if !known || target == "metadata.NAME" {
                return Err(format!("{target:?} is nothing that a field can become: it must be one of {}", TARGETS.join(", ")));
            }
            if field.is_empty() {
                return Err(format!("the field for {target:?} has no name"));
            }
        }
        Ok(Self(fields))
    }
}

impl From<Mapping> for BTreeMap<String, String> {
    fn from(mapping: Mapping) -> Self {
        mapping.0
    }
}

impl std::str::FromStr for Mapping {
    type Err = String;

    /// `entity=user_id,content=text`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = BTreeMap::new();
        for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
            let Some((target, field)) = pair.split_once('=') else {
                return Err(format!("{pair:?} is not of the form entity=user_id"));
            };
            if fields.insert(target.trim().to_owned(), field.trim().to_owned()).is_some() {
                return Err(format!("{} is mapped twice", target.trim()));
            }
        }
        Self::try_from(fields)
    }
}

impl Mapping {
    /// Nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The field that becomes `target`.
    #[must_use]
    pub fn field(&self, target: &str) -> Option<&str> {
        self.0.get(target).map(String::as_str)
    }

    /// Fields that become metadata, with the names that they get.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(target, field)| Some((target.strip_prefix("metadata.")?, field.as_str())))
    }
}

/// A field of an object by its name, or by the names on the way to it: `config.thread_id`.
#[must_use]
pub fn at<'v>(members: &'v serde_json::Map<String, Value>, path: &str) -> Option<&'v Value> {
    if let Some(value) = members.get(path) {
        return Some(value).filter(|value| !value.is_null());
    }
    let (first, rest) = path.split_once('.')?;
    at(members.get(first)?.as_object()?, rest)
}

/// A value as an id: text, or a whole number. Nothing where it is empty.
#[must_use]
pub fn id(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mapping_says_what_is_wrong_with_it() {
        let mapping: Mapping = "entity=user_id, content=text,metadata.channel=src".parse().unwrap();
        assert_eq!(mapping.field("content"), Some("text"));
        assert_eq!(mapping.metadata().collect::<Vec<_>>(), [("channel", "src")]);
        for (text, part) in [
            ("entity", "form"),
            ("person=x", "nothing"),
            ("entity=", "no name"),
            ("role=a,role=b", "twice"),
            ("metadata.=a", "nothing"),
        ] {
            let error = text.parse::<Mapping>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        let row = json!({"a.b": 1, "a": {"b": 2, "c": {"d": "x"}}, "n": null});
        let row = row.as_object().unwrap();
        assert_eq!(
            (at(row, "a.b"), at(row, "a.c.d"), at(row, "n"), at(row, "a.x.y")),
            (Some(&json!(1)), Some(&json!("x")), None, None)
        );
    }
}
