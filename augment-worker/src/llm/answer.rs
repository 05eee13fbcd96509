//! From JSON to items of the schema: what each says, not yet tied to messages. Every list and every text is bounded.

use memori_schemas::FactKind;
use serde_json::{Map, Value};

use super::refused::Refusal;

/// The lists of an answer, and what their items are.
const LISTS: [(&str, FactKind); 5] = [
    ("facts", FactKind::Fact),
    ("instructions", FactKind::Instruction),
    ("attributes", FactKind::Attribute),
    ("summaries", FactKind::Summary),
    ("timeline", FactKind::Timeline),
];
/// Items of one list; more are refused.
pub(crate) const MAX_ITEMS: usize = 200;
/// Messages that one item may name.
pub(crate) const MAX_EVIDENCE: usize = 100;
/// Bytes of a statement.
pub(crate) const MAX_TEXT_BYTES: usize = 2_000;
/// Bytes of a subject, predicate or object.
pub(crate) const MAX_PART_BYTES: usize = 256;
/// Members by which an item claims to belong to somebody. Owners are never the model's to name.
const OWNERS: [&str; 12] = [
    "tenant",
    "tenant_id",
    "entity",
    "entity_id",
    "user_id",
    "account",
    "account_id",
    "process_id",
    "session_id",
    "event_id",
    "fact_id",
    "message_id",
];
/// The confidence of an item that has none.
const CONFIDENCE: f32 = 0.7;

/// One item of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) kind: FactKind,
    pub(crate) text: String,
    pub(crate) subject: Option<String>,
    pub(crate) predicate: Option<String>,
    pub(crate) object: Option<String>,
    pub(crate) slot: Option<String>,
    pub(crate) valid_from: Option<String>,
    pub(crate) valid_to: Option<String>,
    pub(crate) confidence: f32,
    pub(crate) evidence: Vec<i64>,
}

/// What an answer holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) items: Vec<Item>,
    /// Items that are none, with their place in words.
    pub(crate) refused: Vec<(String, Refusal)>,
}

/// Whether a value looks like an answer: one of our lists, a list of items, or one item alone.
pub(crate) fn looks_like_one(value: &Value) -> bool {
    match value {
        Value::Object(members) => LISTS.iter().any(|(name, _)| members.contains_key(*name)) || is_item(members),
        Value::Array(items) => !items.is_empty() && items.iter().all(|item| item.as_object().is_some_and(is_item)),
        _ => false,
    }
}

fn is_item(members: &Map<String, Value>) -> bool {
    members.contains_key("text") && members.contains_key("evidence")
}

/// Reads an answer that [`looks_like_one`].
pub(crate) fn read(value: Value) -> Answer {
    let mut answer = Answer::default();
    match value {
        Value::Object(members) if is_item(&members) => answer.list("facts", FactKind::Fact, Value::Object(members)),
        Value::Object(mut members) => {
            for (name, kind) in LISTS {
                answer.list(name, kind, members.remove(name).unwrap_or(Value::Null));
            }
        }
        list => answer.list("facts", FactKind::Fact, list),
    }
    answer
}

impl Answer {
    fn list(&mut self, name: &str, kind: FactKind, value: Value) {
        let items = match value {
            Value::Null => return,
            Value::Array(items) => items,
            // One that is not in a list is a list of one.
            item => vec![item],
        };
        for (at, item) in items.into_iter().enumerate() {
            let item = match item {
                _ if at >= MAX_ITEMS => Err(Refusal::TooMany),
                Value::Object(members) => item_of(kind, members),
                _ => Err(Refusal::Malformed),
            };
            match item {
                Ok(item) => self.items.push(item),
                Err(refusal) => self.refused.push((format!("{name}[{at}]"), refusal)),
            }
        }
    }
}

fn item_of(kind: FactKind, mut members: Map<String, Value>) -> Result<Item, Refusal> {
    if OWNERS.iter().any(|owner| members.get(*owner).is_some_and(|value| !value.is_null())) {
        return Err(Refusal::NamesOwner);
    }
    let mut text_of = |name: &str, most: usize| match members.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() > most => Err(Refusal::TooLong),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(Refusal::Malformed),
    };
    let text = text_of("text", MAX_TEXT_BYTES)?.ok_or(Refusal::Malformed)?;
    let subject = text_of("subject", MAX_PART_BYTES)?;
    let predicate = text_of("predicate", MAX_PART_BYTES)?;
    let object = text_of("object", MAX_PART_BYTES)?;
    let slot = text_of("slot", MAX_PART_BYTES)?;
    let valid_to = text_of("valid_to", MAX_PART_BYTES)?;
    let begins = if kind == FactKind::Timeline { "date" } else { "valid_from" };
    let valid_from = text_of(begins, MAX_PART_BYTES)?;
    #[expect(clippy::cast_possible_truncation, reason = "a confidence has few digits")]
    let confidence = match members.remove("confidence") {
        None | Some(Value::Null) => CONFIDENCE,
        Some(value) => value.as_f64().ok_or(Refusal::Malformed)?.clamp(0.0, 1.0) as f32,
    };
    let evidence = evidence_of(members.remove("evidence"))?;
    Ok(Item { kind, text, subject, predicate, object, slot, valid_from, valid_to, confidence, evidence })
}

/// Message numbers: a list of integers, one alone, or integers as text.
fn evidence_of(value: Option<Value>) -> Result<Vec<i64>, Refusal> {
    let numbers = match value {
        None | Some(Value::Null) => return Err(Refusal::NoEvidence),
        Some(Value::Array(numbers)) => numbers,
        Some(number) => vec![number],
    };
    if numbers.is_empty() {
        return Err(Refusal::NoEvidence);
    }
    if numbers.len() > MAX_EVIDENCE {
        return Err(Refusal::TooLong);
    }
    let number = |value: &Value| match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    numbers.iter().map(number).collect::<Option<Vec<i64>>>().ok_or(Refusal::Malformed)
}

#[cfg(test)]
mod tests {
    use memori_schemas::FactKind;
    use serde_json::{Value, json};

    use super::{Answer, MAX_ITEMS, looks_like_one, read};
    use crate::llm::refused::Refusal;

    fn refusals(answer: &Answer) -> Vec<Refusal> {
        answer.refused.iter().map(|(_, refusal)| *refusal).collect()
    }

    #[test]
    fn every_list_is_read_and_kinds_are_those_of_their_list() {
        let answer = read(json!({
            "facts": [{"text": "a", "subject": "A", "predicate": "likes", "object": "x", "slot": "attitude", "valid_from": "2024",
                "valid_to": null, "confidence": 0.9, "evidence": [0, 2]}],
            "instructions": [{"text": "b", "confidence": 3, "evidence": ["1"]}],
            "attributes": {"text": "c", "confidence": null, "evidence": 1},
            "summaries": [{"text": "d", "evidence": [0]}],
            "timeline": [{"text": "e", "subject": "trip", "date": "2024-05-03", "evidence": [0]}],
        }));
        assert!(answer.refused.is_empty(), "{:?}", answer.refused);
        let kinds: Vec<FactKind> = answer.items.iter().map(|item| item.kind).collect();
        assert_eq!(kinds, FactKind::ALL);
        let items = &answer.items;
        assert_eq!((items[0].evidence.as_slice(), items[0].confidence, items[1].confidence), (&[0, 2][..], 0.9, 1.0));
        assert_eq!((items[1].evidence.as_slice(), items[2].evidence.as_slice()), (&[1][..], &[1][..]));
        assert_eq!((items[4].valid_from.as_deref(), items[4].subject.as_deref()), (Some("2024-05-03"), Some("trip")));
    }

    #[test]
    fn one_item_alone_and_a_bare_list_are_facts() {
        for value in [json!({"text": "a", "evidence": [0]}), json!([{"text": "a", "evidence": [0]}])] {
            assert!(looks_like_one(&value));
            assert_eq!(read(value).items.len(), 1);
        }
        for value in [json!({}), json!({"memories": []}), json!([]), json!([1]), json!("facts"), json!([{"text": "a"}])] {
            assert!(!looks_like_one(&value), "{value}");
        }
    }

    #[test]
    fn an_item_that_is_none_costs_no_other() {
        let long = "x".repeat(2_001);
        let bad: [(Value, Refusal); 9] = [
            (json!("a"), Refusal::Malformed),
            (json!({"evidence": [0]}), Refusal::Malformed),
            (json!({"text": 1.5, "evidence": [{}]}), Refusal::Malformed),
            (json!({"text": "a"}), Refusal::NoEvidence),
            (json!({"text": "a", "evidence": []}), Refusal::NoEvidence),
            (json!({"text": long, "evidence": [0]}), Refusal::TooLong),
            (json!({"text": "a", "evidence": vec![0; 101]}), Refusal::TooLong),
            (json!({"text": "a", "evidence": [0], "entity_id": "bob"}), Refusal::NamesOwner),
            (json!({"text": "a", "evidence": [0], "tenant": "other"}), Refusal::NamesOwner),
        ];
        for (item, refusal) in bad {
            let answer = read(json!({"facts": [item, {"text": "good", "evidence": [0]}]}));
            assert_eq!((answer.items.len(), refusals(&answer)), (1, vec![refusal]));
            assert_eq!(answer.refused[0].0, "facts[0]");
        }
        let many: Vec<Value> = (0..MAX_ITEMS + 2).map(|i| json!({"text": format!("{i}"), "evidence": [0]})).collect();
        let answer = read(json!({"facts": many}));
        assert_eq!((answer.items.len(), refusals(&answer)), (MAX_ITEMS, vec![Refusal::TooMany; 2]));
    }
}
