//! What an import that the API starts is told, and how it is kept.

use std::collections::BTreeMap;

use memori_history::{Format, Mapping, Options};
use memori_schemas::Micros;
use memori_service::problem::{Answer, FieldErrors, Fields, Problem};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::new_event::MAX_ID_BYTES;

/// The longest URL.
const MAX_URL_BYTES: usize = 2_048;

/// Where it reads from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// An object, or all below a prefix.
    Url(String),
    /// What came with the request.
    Upload,
}

/// An import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) backfill_id: String,
    pub(crate) tenant: String,
    pub(crate) source: Source,
    pub(crate) options: Options,
    pub(crate) rate: Option<u32>,
    pub(crate) created_at: Micros,
}

impl Spec {
    /// Where it reads from, for people: without what lets in.
    pub(crate) fn shown_source(&self) -> String {
        match &self.source {
            Source::Url(url) => crate::without_credentials(url),
            Source::Upload => "upload".to_owned(),
        }
    }

    /// What the audit log says of its beginning.
    pub(crate) fn told(&self) -> Value {
        json!({"source": self.shown_source(), "format": self.options.format, "entity_id": self.options.entity,
            "process_id": self.options.process, "rate": self.rate})
    }
}

/// What a request says of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) source: Option<String>,
    /// For whom; an operator says so.
    pub(crate) tenant: Option<String>,
    pub(crate) options: Options,
    pub(crate) rate: Option<u32>,
}

impl Asked {
    /// Reads a request's JSON.
    pub(crate) fn read(value: Value) -> Answer<Self> {
        let mut errors = FieldErrors::default();
        let asked = Self::take_apart(value, &mut errors);
        match asked {
            Some(asked) if errors.is_empty() => Ok(asked),
            _ => Err(errors.into_problem()),
        }
    }

    fn take_apart(value: Value, errors: &mut FieldErrors) -> Option<Self> {
        let mut fields = Fields::of(value, "", errors)?;
        let source = fields.text("source", 1..=MAX_URL_BYTES);
        let tenant = fields.text("tenant", 1..=MAX_ID_BYTES);
        let rate = fields.integer("rate", 1..=1_000_000).and_then(|rate| u32::try_from(rate).ok());
        let known = "one of events, export, chatgpt, claude, sharegpt, openai, langchain, mem0, memori, csv, json, parquet";
        let format = fields.parsed("format", known, |text| text.parse::<Format>().ok());
        let occurred_at = fields.parsed("occurred_at", "an RFC 3339 time such as 2026-01-31T12:00:00Z", Micros::parse_rfc3339);
        let entity = fields.text("entity_id", 1..=MAX_ID_BYTES);
        let process = fields.text("process_id", 1..=MAX_ID_BYTES);
        let delimiter = fields.parsed("delimiter", "one ASCII character", |text| {
            let mut characters = text.chars();
            characters.next().filter(|one| one.is_ascii() && characters.next().is_none())
        });
        let facts = fields.boolean("facts").unwrap_or(false);
        let map = match fields.take("map") {
            None => Mapping::default(),
            Some(value) => {
                let read: Result<BTreeMap<String, String>, String> =
                    serde_json::from_value(value).map_err(|_| "must be an object of strings".to_owned());
                read.and_then(Mapping::try_from).unwrap_or_else(|why| {
                    fields.broken("map", why);
                    Mapping::default()
                })
            }
        };
        fields.finish();
        Some(Self { source, tenant, options: Options { format, entity, process, occurred_at, map, delimiter, facts }, rate })
    }

    /// Reads the query parameters beside an uploaded body: the same names, without `source`.
    pub(crate) fn of_query(query: Option<&str>) -> Answer<Self> {
        let mut members = serde_json::Map::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |raw: &str| {
                let spaced = raw.replace('+', " ");
                percent_encoding::percent_decode_str(&spaced).decode_utf8().map(std::borrow::Cow::into_owned)
            };
            let (Ok(name), Ok(value)) = (text(name), text(value)) else {
                return Err(Problem::invalid_field("", "parameters must be percent-encoded UTF-8"));
            };
            let value = match name.as_str() {
                "rate" => value.parse::<i64>().map_or(Value::String(value), Value::from),
                "facts" => value.parse::<bool>().map_or(Value::String(value), Value::from),
                "source" | "map" => {
                    return Err(Problem::invalid_field(name, "is for requests in JSON"));
                }
                _ => Value::String(value),
            };
            if members.insert(name.clone(), value).is_some() {
                return Err(Problem::invalid_field(memori_service::problem::join("", &name), "is there more than once"));
            }
        }
        Self::read(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_what_is_wrong_with_it() {
        let asked = Asked::read(
            json!({"source": "s3://b/x", "format": "csv", "map": {"entity": "u", "content": "t"}, "rate": 5, "delimiter": ";"}),
        )
        .unwrap();
        assert_eq!((asked.source.as_deref(), asked.rate, asked.options.delimiter), (Some("s3://b/x"), Some(5), Some(';')));
        for (body, path) in [
            (json!({"format": "word"}), "format"),
            (json!({"rate": 0}), "rate"),
            (json!({"map": {"person": "x"}}), "map"),
            (json!({"map": 1}), "map"),
            (json!({"delimiter": "ab"}), "delimiter"),
            (json!({"occurred_at": "yesterday"}), "occurred_at"),
            (json!({"surprise": 1}), "surprise"),
            (json!([]), ""),
        ] {
            let problem = Asked::read(body.clone()).unwrap_err();
            assert_eq!((problem.status.as_u16(), problem.errors[0].path.as_str()), (422, path), "{body}");
        }
    }

    #[test]
    fn parameters_say_the_same() {
        let asked = Asked::of_query(Some("entity_id=a%20b&rate=7&facts=true")).unwrap();
        assert_eq!((asked.options.entity.as_deref(), asked.rate, asked.options.facts), (Some("a b"), Some(7), true));
        for query in ["rate=x", "source=s3://b", "map=x", "entity_id=a&entity_id=b", "x=1", "entity_id=%ff"] {
            assert_eq!(Asked::of_query(Some(query)).unwrap_err().status, 422, "{query}");
        }
    }
}
