//! Compares what the public API tells with what the input implies.
//!
//! Checks: nothing lost, nothing twice, mentions exact, order kept, no entity or tenant sees another's. Differences are sentences.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use memori_schemas::{FactId, Micros};
use memori_writer::store::Dump;
use serde_json::Value;

use crate::client::Api;
use crate::model::{ExpectedEntity, ExpectedFact, ExpectedMessage, Model};

/// What the API tells of one tenant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Export lines by entity.
    pub entities: BTreeMap<String, Vec<Value>>,
    /// Status by event id; `None` where the id is unknown.
    pub events: BTreeMap<String, Option<Value>>,
}

/// Asks the API for everything about one tenant, after its events are final.
///
/// # Errors
/// The API fails, or events do not become final in time.
pub async fn observe(api: &Api, event_ids: &[String], final_within: Duration) -> anyhow::Result<Observed> {
    api.wait_final(event_ids, final_within).await?;
    let mut observed = Observed::default();
    for entity in api.entities().await? {
        let lines = api.export(&entity).await?;
        anyhow::ensure!(observed.entities.insert(entity.clone(), lines).is_none(), "entity {entity:?} is listed twice");
    }
    for event_id in event_ids {
        observed.events.insert(event_id.clone(), api.event(event_id).await?);
    }
    Ok(observed)
}

impl Observed {
    /// What must be the same whether or not anything died on the way: everything but when the door took an event and when it was
    /// applied.
    #[must_use]
    pub fn lasting(&self) -> Self {
        let mut lasting = self.clone();
        for status in lasting.events.values_mut().flatten() {
            for field in ["accepted_at", "applied_at"] {
                if let Some(object) = status.as_object_mut() {
                    object.remove(field);
                }
            }
        }
        for line in lasting.entities.values_mut().flatten() {
            if let Some(object) = line.as_object_mut() {
                object.remove("accepted_at");
            }
        }
        lasting
    }
}

/// Every difference between what `model` implies for `tenant` and what was observed.
#[must_use]
pub fn differences(model: &Model, tenant: &str, observed: &Observed) -> Vec<String> {
    let mut found = Vec::new();
    let expected = model.entities(tenant);
    let listed: BTreeSet<String> = observed.entities.keys().cloned().collect();
    for missing in expected.difference(&listed) {
        found.push(format!("{tenant}: entity {missing:?} is not listed"));
    }
    for extra in listed.difference(&expected) {
        found.push(format!("{tenant}: entity {extra:?} is listed, but nothing was posted about it"));
    }
    for entity in expected.intersection(&listed) {
        entity_differences(&format!("{tenant}/{entity}"), &model.entity(tenant, entity), &observed.entities[entity], &mut found);
    }
    for (event_id, facts) in model.events(tenant) {
        let place = format!("{tenant}: event {event_id:?}");
        match observed.events.get(&event_id) {
            Some(Some(status)) if status["status"] == "applied" => {
                if status["facts"].as_u64() != Some(facts as u64) {
                    found.push(format!("{place} supports {facts} facts, its status says {}", status["facts"]));
                }
                if status["event_id"] != event_id.as_str() {
                    found.push(format!("{place}: the status is another event's: {status}"));
                }
            }
            other => found.push(format!("{place} is not applied: {other:?}")),
        }
    }
    found
}

fn entity_differences(place: &str, expected: &ExpectedEntity, lines: &[Value], found: &mut Vec<String>) {
    let of_type = |wanted: &str| lines.iter().filter(move |line| line["type"] == wanted).collect::<Vec<_>>();
    if let (Some(last_message), Some(first_fact)) =
        (lines.iter().rposition(|line| line["type"] == "message"), lines.iter().position(|line| line["type"] == "fact"))
        && first_fact < last_message
    {
        found.push(format!("{place}: facts stand before messages in the export"));
    }
    messages(place, &expected.messages, &of_type("message"), found);
    // Digests are made of the facts when they are read: what a model of the input implies is the facts.
    let stated: Vec<&Value> =
        of_type("fact").into_iter().filter(|line| !text(line, "extractor").starts_with("digests/")).collect();
    facts(place, &expected.facts, &stated, found);
}

fn messages(place: &str, expected: &[ExpectedMessage], shown: &[&Value], found: &mut Vec<String>) {
    let id = |line: &Value| (text(line, "event_id"), text(line, "message_id"));
    let wanted: Vec<_> = expected.iter().map(|message| (message.place.1.clone(), message.message_id.clone())).collect();
    let got: Vec<_> = shown.iter().map(|line| id(line)).collect();
    let mut counts: BTreeMap<&(String, String), i64> = BTreeMap::new();
    for key in &wanted {
        *counts.entry(key).or_default() += 1;
    }
    for key in &got {
        *counts.entry(key).or_default() -= 1;
    }
    let mut sets_agree = true;
    for (key, count) in counts.into_iter().filter(|(_, count)| *count != 0) {
        sets_agree = false;
        let what = if count > 0 { "lost" } else { "there, but not implied (or twice)" };
        found.push(format!("{place}: message {key:?} is {what}"));
    }
    if !sets_agree {
        return;
    }
    if wanted != got {
        let at = wanted.iter().zip(&got).position(|(a, b)| a != b).unwrap_or(0);
        found.push(format!("{place}: order: message {at} is {:?}, expected {:?}", got[at], wanted[at]));
        return;
    }
    for (message, line) in expected.iter().zip(shown) {
        let place = format!("{place}: message {:?}", message.message_id);
        let mut field = |name: &str, expected: String, shown: String| {
            if expected != shown {
                found.push(format!("{place}: {name} is {shown:?}, expected {expected:?}"));
            }
        };
        field("role", message.role.as_str().to_owned(), text(line, "role"));
        field("session_id", message.session_id.clone(), text(line, "session_id"));
        field("occurred_at", instant(message.place.0), same_instant(line, "occurred_at"));
        // Parts may be shown as a list; a list's canonical text is what was hashed.
        let content = match &line["content"] {
            Value::String(text) => text.clone(),
            parts => memori_schemas::ids::canonical_json(parts),
        };
        field("content", message.content.clone(), content);
    }
}

fn facts(place: &str, expected: &BTreeMap<FactId, ExpectedFact>, shown: &[&Value], found: &mut Vec<String>) {
    let mut by_id: BTreeMap<String, &Value> = BTreeMap::new();
    for line in shown {
        if by_id.insert(text(line, "fact_id"), line).is_some() {
            found.push(format!("{place}: fact {} is there twice: {}", line["fact_id"], line["content"]));
        }
    }
    for (id, fact) in expected {
        let Some(line) = by_id.remove(&id.to_string()) else {
            found.push(format!("{place}: fact {id} {:?} is lost", fact.wording.text));
            continue;
        };
        fact_differences(&format!("{place}: fact {id} {:?}", fact.wording.text), fact, line, found);
    }
    for line in by_id.values() {
        found.push(format!("{place}: fact {} {} is not implied", line["fact_id"], line["content"]));
    }
}

fn fact_differences(place: &str, fact: &ExpectedFact, line: &Value, found: &mut Vec<String>) {
    let mut field = |name: &str, expected: String, shown: String| {
        if expected != shown {
            found.push(format!("{place}: {name} is {shown:?}, expected {expected:?}"));
        }
    };
    let wording = &fact.wording;
    field("kind", wording.kind.as_str().to_owned(), text(line, "kind"));
    field("content", wording.text.clone(), text(line, "content"));
    field("subject", wording.subject.clone().unwrap_or_default(), text(line, "subject"));
    field("predicate", wording.predicate.clone().unwrap_or_default(), text(line, "predicate"));
    field("object", wording.object.clone().unwrap_or_default(), text(line, "object"));
    field("mentions", fact.sources.len().to_string(), line["mentions"].to_string());
    field("first_mentioned_at", instant(fact.first_mentioned_at), same_instant(line, "first_mentioned_at"));
    field("last_mentioned_at", instant(fact.last_mentioned_at), same_instant(line, "last_mentioned_at"));
    field("occurred_at", instant(fact.first.0), same_instant(line, "occurred_at"));
    let interval = |from: String, to: Option<String>| format!("{from} to {}", to.unwrap_or_else(|| "now".to_owned()));
    let implied: Vec<String> = fact.validity.iter().map(|(from, to)| interval(instant(*from), to.map(instant))).collect();
    let shown: Vec<String> = line["validity"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|shown| {
            interval(same_instant(shown, "valid_from"), shown["valid_to"].as_str().map(|_| same_instant(shown, "valid_to")))
        })
        .collect();
    field("validity", format!("{implied:?}"), format!("{shown:?}"));
    let shown: Vec<(String, String)> = line["sources"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|source| (text(source, "event_id"), text(source, "message_id")))
        .collect();
    let sources: BTreeSet<(String, String)> = shown.iter().cloned().collect();
    field("sources", format!("{:?}", fact.sources), format!("{sources:?}"));
    field("the number of sources", fact.sources.len().to_string(), shown.len().to_string());
}

fn text(line: &Value, field: &str) -> String {
    line[field].as_str().unwrap_or_default().to_owned()
}

fn instant(at: Micros) -> String {
    at.to_rfc3339()
}

/// Times are compared as instants, whatever the number of digits.
fn same_instant(line: &Value, field: &str) -> String {
    let shown = text(line, field);
    Micros::parse_rfc3339(&shown).map_or(shown, instant)
}

/// Every difference between the rows that `model` implies and the store's base tables. Nothing was erased, forgotten or buried.
#[must_use]
pub fn table_differences(model: &Model, tables: &Dump) -> Vec<String> {
    const KEYS: [(&str, &[&str]); 7] = [
        ("events", &["tenant", "event_id", "entity_key", "content_hash"]),
        ("messages", &["tenant", "entity_key", "message_key", "event_id", "content_hash", "message_index"]),
        ("outcomes", &["tenant", "entity_key", "generation", "event_id", "content_hash"]),
        ("mentions", &["tenant", "entity_key", "generation", "fact_id", "message_key", "event_id", "content_hash"]),
        ("facts", &["tenant", "entity_key", "generation", "fact_id"]),
        ("fact_stats", &["tenant", "entity_key", "generation", "fact_id"]),
        ("entities", &["tenant", "entity_key", "entity_id"]),
    ];
    let mut found = Vec::new();
    let implied = model.rows();
    for (table, columns) in KEYS {
        let rows = tables.0.get(table).map(Vec::as_slice).unwrap_or_default();
        let cell = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut held = BTreeSet::new();
        for row in rows {
            let key = columns.iter().map(|column| row.get(*column).map(cell).unwrap_or_default()).collect::<Vec<_>>().join(" ");
            if !held.insert(key.clone()) {
                found.push(format!("table {table} holds {key} twice"));
            }
        }
        found.extend(implied[table].difference(&held).map(|key| format!("table {table} lacks {key}")));
        found.extend(held.difference(&implied[table]).map(|key| format!("table {table} holds {key}, which nothing implies")));
    }
    let column = |table: &str, column: &str, expected: Value| {
        let rows = tables.0.get(table).map(Vec::as_slice).unwrap_or_default();
        rows.iter()
            .filter(|row| row.get(column) != Some(&expected))
            .map(|row| format!("table {table}: {column} of {row:?}"))
            .collect::<Vec<_>>()
    };
    found.extend(column("events", "erased", Value::Bool(false)));
    found.extend(column("outcomes", "kind", Value::from(1)));
    for table in ["erasures", "forgets", "dead_letters"] {
        found.extend(tables.0.get(table).into_iter().flatten().map(|row| format!("table {table} holds {row:?}")));
    }
    found
}

/// Fails with the first differences, readable.
///
/// # Errors
/// There is at least one.
pub fn none(found: &[String]) -> anyhow::Result<()> {
    const SHOWN: usize = 25;
    if found.is_empty() {
        return Ok(());
    }
    let more = found.len().saturating_sub(SHOWN);
    let head = found[..found.len().min(SHOWN)].join("\n  ");
    anyhow::bail!(
        "{} differences:\n  {head}{}",
        found.len(),
        if more > 0 { format!("\n  … and {more} more") } else { String::new() }
    )
}

/// Every difference between two observations that should be equal.
#[must_use]
pub fn unlike(calm: &Observed, stormy: &Observed) -> Vec<String> {
    let (calm, stormy) = (calm.lasting(), stormy.lasting());
    let mut found = Vec::new();
    let entities: BTreeSet<&String> = calm.entities.keys().chain(stormy.entities.keys()).collect();
    for entity in entities {
        let (a, b) = (calm.entities.get(entity), stormy.entities.get(entity));
        if a != b {
            let lines = |side: Option<&Vec<Value>>| side.into_iter().flatten().map(Value::to_string).collect::<Vec<_>>();
            let (a, b) = (lines(a), lines(b));
            let at = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or_else(|| a.len().min(b.len()));
            found.push(format!("entity {entity:?}, line {at}:\n    calm   {:?}\n    stormy {:?}", a.get(at), b.get(at)));
        }
    }
    for (event_id, a) in &calm.events {
        let b = stormy.events.get(event_id);
        if Some(a) != b {
            found.push(format!("event {event_id:?}: calm {a:?}, stormy {b:?}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tampered(change: impl FnOnce(&mut Vec<Value>)) -> Vec<String> {
        let mut model = Model::default();
        for (event_id, said) in [("a", "I live in Lima."), ("b", "I like tea.")] {
            let at = format!("2026-01-0{}T00:00:00Z", if event_id == "a" { 1 } else { 2 });
            model.accept("t", &json!({"event_id": event_id, "entity_id": "e", "session_id": "s", "occurred_at": at, "messages": [{"role": "user", "content": said}]}));
        }
        let expected = model.entity("t", "e");
        let mut lines: Vec<Value> = expected
            .messages
            .iter()
            .map(|m| json!({"type": "message", "event_id": m.place.1, "message_id": m.message_id, "session_id": m.session_id, "role": m.role.as_str(), "content": m.content, "occurred_at": instant(m.place.0)}))
            .collect();
        for (id, fact) in &expected.facts {
            let sources: Vec<Value> = fact.sources.iter().map(|(e, m)| json!({"event_id": e, "message_id": m})).collect();
            lines.push(json!({"type": "fact", "fact_id": id.to_string(), "kind": fact.wording.kind.as_str(), "content": fact.wording.text,
                "subject": fact.wording.subject, "predicate": fact.wording.predicate, "object": fact.wording.object, "mentions": fact.sources.len(),
                "first_mentioned_at": instant(fact.first_mentioned_at), "last_mentioned_at": instant(fact.last_mentioned_at),
                "occurred_at": instant(fact.first.0), "sources": sources,
                "validity": fact.validity.iter().map(|(from, to)| json!({"valid_from": instant(*from), "valid_to": to.map(instant)})).collect::<Vec<_>>()}));
        }
        change(&mut lines);
        let events = model
            .events("t")
            .into_iter()
            .map(|(id, facts)| (id.clone(), Some(json!({"event_id": id, "status": "applied", "facts": facts}))));
        let observed = Observed { entities: [("e".to_owned(), lines)].into(), events: events.collect() };
        differences(&model, "t", &observed)
    }

    #[test]
    fn what_the_input_implies_is_no_difference() {
        assert_eq!(tampered(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn every_kind_of_damage_is_found() {
        type Damage = fn(&mut Vec<Value>);
        let damages: [(&str, Damage); 8] = [
            ("validity", |lines| lines.last_mut().unwrap()["validity"][0]["valid_to"] = json!("2026-01-03T00:00:00Z")),
            ("lost", |lines| drop(lines.remove(0))),
            ("twice", |lines| lines.push(lines[0].clone())),
            ("order", |lines| lines.swap(0, 1)),
            ("mentions", |lines| lines.last_mut().unwrap()["mentions"] = json!(7)),
            ("there twice", |lines| lines.push(lines.last().unwrap().clone())),
            ("is lost", |lines| drop(lines.pop())),
            ("sources", |lines| lines.last_mut().unwrap()["sources"][0]["event_id"] = json!("z")),
        ];
        for (word, damage) in damages {
            let found = tampered(damage);
            assert!(found.iter().any(|sentence| sentence.contains(word)), "{word}: {found:?}");
        }
    }
}
