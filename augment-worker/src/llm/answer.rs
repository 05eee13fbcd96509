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
/// The list of what messages mean for what is known.
const UPDATES: &str = "updates";
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

/// What became of a known fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A person said it again.
    Repeated,
    /// It holds no longer.
    Ended,
}

/// What messages mean for one known fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Update {
    /// Its number among those that were shown.
    pub(crate) known: i64,
    pub(crate) change: Change,
    /// Since when it holds no longer.
    pub(crate) at: Option<String>,
    pub(crate) evidence: Vec<i64>,
}

/// What an answer holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) items: Vec<Item>,
    pub(crate) updates: Vec<Update>,
    /// Items that are none, with their place in words.
    pub(crate) refused: Vec<(String, Refusal)>,
}

/// Whether a value looks like an answer: one of our lists, a list of items, or one item alone.
pub(crate) fn looks_like_one(value: &Value) -> bool {
    match value {
        Value::Object(members) => {
            LISTS.iter().any(|(name, _)| members.contains_key(*name)) || members.contains_key(UPDATES) || is_item(members)
        }
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
            answer.updates(members.remove(UPDATES).unwrap_or(Value::Null));
        }
        list => answer.list("facts", FactKind::Fact, list),
    }
    answer
}

impl Answer {
    fn list(&mut self, name: &str, kind: FactKind, value: Value) {
        for (at, item) in listed(value).into_iter().enumerate() {
            match members_of(at, item).and_then(|members| item_of(kind, members)) {
                Ok(item) => self.items.push(item),
                Err(refusal) => self.refused.push((format!("{name}[{at}]"), refusal)),
            }
        }
    }

    fn updates(&mut self, value: Value) {
        for (at, item) in listed(value).into_iter().enumerate() {
            match members_of(at, item).and_then(update_of) {
                Ok(update) => self.updates.push(update),
                Err(refusal) => self.refused.push((format!("{UPDATES}[{at}]"), refusal)),
            }
        }
    }
}

/// The items of a list; one that is not in a list is a list of one.
fn listed(value: Value) -> Vec<Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(items) => items,
        item => vec![item],
    }
}

fn members_of(at: usize, item: Value) -> Result<Map<String, Value>, Refusal> {
    let members = match item {
        _ if at >= MAX_ITEMS => return Err(Refusal::TooMany),
        Value::Object(members) => members,
        _ => return Err(Refusal::Malformed),
    };
    if OWNERS.iter().any(|owner| members.get(*owner).is_some_and(|value| !value.is_null())) {
        return Err(Refusal::NamesOwner);
    }
    Ok(members)
}

/// A text of at most so many bytes; a number is taken as its digits.
fn text_in(members: &mut Map<String, Value>, name: &str, most: usize) -> Result<Option<String>, Refusal> {
    match members.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() > most => Err(Refusal::TooLong),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(Refusal::Malformed),
    }
}

fn update_of(mut members: Map<String, Value>) -> Result<Update, Refusal> {
    let known = members.remove("known").as_ref().and_then(integer).ok_or(Refusal::Malformed)?;
    let change = match members.remove("change").as_ref().and_then(Value::as_str) {
        Some("repeated") => Change::Repeated,
        Some("ended") => Change::Ended,
        _ => return Err(Refusal::Malformed),
    };
    let at = text_in(&mut members, "at", MAX_PART_BYTES)?;
    let evidence = evidence_of(members.remove("evidence"))?;
    Ok(Update { known, change, at, evidence })
}

fn item_of(kind: FactKind, mut members: Map<String, Value>) -> Result<Item, Refusal> {
    let mut text_of = |name: &str, most: usize| text_in(&mut members, name, most);
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
    numbers.iter().map(integer).collect::<Option<Vec<i64>>>().ok_or(Refusal::Malformed)
}

/// An integer, or one as text.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use memori_schemas::FactKind;
    use serde_json::{Value, json};

    use super::{Answer, Change, MAX_ITEMS, Update, looks_like_one, read};
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
    fn updates_name_what_is_known_by_number() {
        let answer = read(json!({"updates": [
            {"known": 2, "change": "repeated", "at": null, "evidence": [0]},
            {"known": "0", "change": "ended", "at": "2024-05", "evidence": 1},
            {"known": 1, "change": "mended", "evidence": [0]},
            {"known": null, "change": "ended", "evidence": [0]},
            {"known": 1, "change": "ended", "evidence": []},
            {"known": 1, "change": "ended", "evidence": [0], "entity_id": "bob"},
        ]}));
        let update = |known, change, at: Option<&str>, evidence: i64| Update {
            known,
            change,
            at: at.map(str::to_owned),
            evidence: vec![evidence],
        };
        assert_eq!(answer.updates, [update(2, Change::Repeated, None, 0), update(0, Change::Ended, Some("2024-05"), 1)]);
        let expected = [Refusal::Malformed, Refusal::Malformed, Refusal::NoEvidence, Refusal::NamesOwner];
        assert_eq!((refusals(&answer), answer.refused[0].0.as_str()), (expected.to_vec(), "updates[2]"));
        assert!(looks_like_one(&json!({"updates": []})));
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
