//! What the input implies, computed the slow and plain way: no planner, no ranks, no offsets, just sets of what was accepted.
//!
//! It reads posted JSON by the HTTP contract, makes ids by decision 1, and asks the pure builtin extractor, event by event, what
//! is to be learned. It shares no code with door or writer.

use std::collections::{BTreeMap, BTreeSet};

use memori_schemas::{
    ContentFormat, ConversationEvent, EntityKey, Fact, FactId, Message, MessageKey, MetadataEntry, Micros, Role, Supplied, ids,
};
use serde_json::Value;
use uuid::Uuid;

use crate::phrases::RECALLED_BLOCK;

/// The only generation of these tests.
pub const GENERATION: i32 = 1;

/// A silence that ends a conversation whose session has no name.
const ISLAND_GAP_US: i64 = 30 * 60 * 1_000_000;

/// Where something was said, in conversation order.
pub type Place = (Micros, String, usize);

/// One message's support for a fact: where it stands, its shown id, and how it words the fact.
type Said = (Place, String, Fact);

/// A message as the entity's history shows it: once per key, where it was said first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedMessage {
    /// Its place.
    pub place: Place,
    /// The id that the API shows.
    pub message_id: String,
    /// The session: the client's name for it, else the island's id.
    pub session_id: String,
    /// Who spoke.
    pub role: Role,
    /// What was said; parts as their canonical JSON.
    pub content: String,
}

/// A fact as the entity's memory shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedFact {
    /// What it is: wording of its first mention.
    pub wording: Fact,
    /// Where it was said first.
    pub first: Place,
    /// (event id, shown message id) of every distinct message that says it.
    pub sources: BTreeSet<(String, String)>,
    /// Time of its first mention.
    pub first_mentioned_at: Micros,
    /// Time of its last mention.
    pub last_mentioned_at: Micros,
    /// From when to when it holds.
    pub validity: Vec<(Micros, Option<Micros>)>,
}

/// All that is known of one entity.
#[derive(Clone, Debug, Default)]
pub struct ExpectedEntity {
    /// In conversation order.
    pub messages: Vec<ExpectedMessage>,
    /// By id.
    pub facts: BTreeMap<FactId, ExpectedFact>,
}

/// Keys of rows by table, columns in the order of the table's key.
pub type Rows = BTreeMap<&'static str, BTreeSet<String>>;

/// Accepted events, from which everything follows.
#[derive(Clone, Debug, Default)]
pub struct Model {
    events: BTreeMap<(String, String), BTreeMap<String, ConversationEvent>>,
}

impl Model {
    /// Takes an accepted event. Accepting the same again changes nothing: the first copy stands.
    ///
    /// # Panics
    /// Where the body breaks the contract: a test would be wrong.
    pub fn accept(&mut self, tenant: &str, body: &Value) {
        let event = read(tenant, body);
        let events = self.events.entry((tenant.to_owned(), event.entity_id.clone())).or_default();
        events.entry(event.event_id.clone()).or_insert(event);
    }

    /// Drops all that was accepted so far about an entity, as an erasure does.
    pub fn erase(&mut self, tenant: &str, entity_id: &str) {
        self.events.remove(&(tenant.to_owned(), entity_id.to_owned()));
    }

    /// Entities of a tenant.
    #[must_use]
    pub fn entities(&self, tenant: &str) -> BTreeSet<String> {
        self.events.keys().filter(|(owner, _)| owner == tenant).map(|(_, entity)| entity.clone()).collect()
    }

    /// Event ids of a tenant, with the number of facts that each supports.
    #[must_use]
    pub fn events(&self, tenant: &str) -> BTreeMap<String, usize> {
        let owned = self.events.iter().filter(|((owner, _), _)| owner == tenant);
        owned.flat_map(|(_, events)| events.values()).map(|event| (event.event_id.clone(), facts_of(event).len())).collect()
    }

    /// The keys of every row that the store's base tables must hold, and no other.
    #[must_use]
    pub fn rows(&self) -> Rows {
        let mut rows = Rows::from(
            ["events", "messages", "outcomes", "mentions", "facts", "fact_stats", "entities"].map(|t| (t, BTreeSet::new())),
        );
        let mut row = |table, columns: &[&dyn ToString]| {
            let key: Vec<String> = columns.iter().map(|column| column.to_string()).collect();
            rows.entry(table).or_default().insert(key.join(" "));
        };
        for ((tenant, entity_id), events) in &self.events {
            let entity = ids::entity_key(tenant, entity_id);
            row("entities", &[tenant, &entity, entity_id]);
            for event in events.values() {
                let (id, hash) = (&event.event_id, &event.content_hash);
                row("events", &[tenant, id, &entity, hash]);
                row("outcomes", &[tenant, &entity, &GENERATION, id, hash]);
                for index in 0..event.messages.len() {
                    row("messages", &[tenant, &entity, &event.message_key(index), id, hash, &index]);
                }
                for (fact_id, (_, evidence)) in facts_of(event) {
                    row("facts", &[tenant, &entity, &GENERATION, &fact_id]);
                    row("fact_stats", &[tenant, &entity, &GENERATION, &fact_id]);
                    for (_, message_key) in evidence {
                        row("mentions", &[tenant, &entity, &GENERATION, &fact_id, &message_key, id, hash]);
                    }
                }
            }
        }
        rows
    }

    /// All that is to be known of an entity.
    #[must_use]
    pub fn entity(&self, tenant: &str, entity_id: &str) -> ExpectedEntity {
        let Some(events) = self.events.get(&(tenant.to_owned(), entity_id.to_owned())) else {
            return ExpectedEntity::default();
        };
        ExpectedEntity { messages: messages(tenant, entity_id, events), facts: facts(events) }
    }
}

/// The facts of one event by id, each with its evidence: (index, key, shown id).
fn facts_of(event: &ConversationEvent) -> BTreeMap<FactId, (Fact, BTreeSet<(usize, MessageKey)>)> {
    let entity_key = event.entity_key();
    let mut found: BTreeMap<FactId, (Fact, BTreeSet<(usize, MessageKey)>)> = BTreeMap::new();
    for fact in memori_augment_worker::builtin::extract(event) {
        let evidence: BTreeSet<(usize, MessageKey)> = fact
            .evidence
            .iter()
            .map(|evidence| (usize::try_from(evidence.message_index).expect("an index"), evidence.message_key))
            .collect();
        for (index, key) in &evidence {
            assert_eq!(*key, event.message_key(*index), "the extractor names the message it quotes");
            assert_eq!(event.messages[*index].role, Role::User, "only people's words are evidence");
        }
        found.entry(fact.id(&entity_key, GENERATION)).or_insert_with(|| (fact, BTreeSet::new())).1.extend(evidence);
    }
    found
}

fn facts(events: &BTreeMap<String, ConversationEvent>) -> BTreeMap<FactId, ExpectedFact> {
    let mut mentions: BTreeMap<FactId, BTreeMap<MessageKey, Said>> = BTreeMap::new();
    for event in events.values() {
        for (id, (fact, evidence)) in facts_of(event) {
            for (index, key) in evidence {
                let place = (event.occurred_at, event.event_id.clone(), index);
                let said = (place, event.shown_message_id(index), fact.clone());
                let by_message = mentions.entry(id).or_default();
                // A message that was sent again adds nothing: it stands where it was sent first.
                if by_message.get(&key).is_none_or(|present| said.0 < present.0) {
                    by_message.insert(key, said);
                }
            }
        }
    }
    let mut said: BTreeMap<FactId, Vec<Said>> = mentions
        .into_iter()
        .map(|(id, by_message)| {
            let mut said: Vec<Said> = by_message.into_values().collect();
            said.sort_by(|a, b| a.0.cmp(&b.0));
            (id, said)
        })
        .collect();
    let validity = validity(&said);
    validity
        .into_iter()
        .map(|(id, validity)| {
            let said = said.remove(&id).unwrap_or_default();
            let (first, _, wording) = said[0].clone();
            let fact = ExpectedFact {
                wording,
                sources: said.iter().map(|said| (said.0.1.clone(), said.1.clone())).collect(),
                first_mentioned_at: first.0,
                last_mentioned_at: said.iter().map(|said| said.0.0).max().unwrap_or(first.0),
                first,
                validity,
            };
            (id, fact)
        })
        .collect()
}

/// When each fact holds. Values of one slot take turns in the order in which they begin; a fact without a slot holds on.
fn validity(said: &BTreeMap<FactId, Vec<Said>>) -> BTreeMap<FactId, Vec<(Micros, Option<Micros>)>> {
    let begins = |said: &Said| said.2.valid_from.unwrap_or(said.0.0);
    let mut slots: BTreeMap<&str, Vec<(Micros, &Place, FactId)>> = BTreeMap::new();
    let mut validity: BTreeMap<FactId, Vec<(Micros, Option<Micros>)>> = BTreeMap::new();
    for (id, said) in said {
        match &said[0].2.slot {
            Some(slot) => slots.entry(slot).or_default().extend(said.iter().map(|said| (begins(said), &said.0, *id))),
            None => {
                validity.insert(*id, said.iter().map(begins).min().map(|from| (from, None)).into_iter().collect());
            }
        }
    }
    for mut turns in slots.into_values() {
        turns.sort();
        // What is said again while it holds begins nothing.
        turns.dedup_by(|later, earlier| later.2 == earlier.2);
        for (n, (from, _, id)) in turns.iter().enumerate() {
            let to = turns.get(n + 1).map(|next| next.0);
            let intervals = validity.entry(*id).or_default();
            match intervals.iter_mut().find(|interval| interval.0 == *from) {
                // Several values at one instant: of two intervals that begin together the longer one stands.
                Some(present) if present.1.is_some_and(|end| to.is_none_or(|to| to > end)) => present.1 = to,
                Some(_) => {}
                None => intervals.push((*from, to)),
            }
        }
    }
    validity
}

fn messages(tenant: &str, entity_id: &str, events: &BTreeMap<String, ConversationEvent>) -> Vec<ExpectedMessage> {
    let entity_key = ids::entity_key(tenant, entity_id);
    let islands = islands(&entity_key, events);
    let mut first: BTreeMap<MessageKey, ExpectedMessage> = BTreeMap::new();
    for event in events.values() {
        for (index, message) in event.messages.iter().enumerate() {
            let shown = ExpectedMessage {
                place: (event.occurred_at, event.event_id.clone(), index),
                message_id: event.shown_message_id(index),
                session_id: event.session_id.clone().unwrap_or_else(|| islands[&event.event_id].to_string()),
                role: message.role,
                content: message.content.clone(),
            };
            let key = event.message_key(index);
            if first.get(&key).is_none_or(|present| shown.place < present.place) {
                first.insert(key, shown);
            }
        }
    }
    let mut messages: Vec<ExpectedMessage> = first.into_values().collect();
    messages.sort_by(|a, b| a.place.cmp(&b.place));
    messages
}

/// The island of every event without a named session.
fn islands(entity_key: &EntityKey, events: &BTreeMap<String, ConversationEvent>) -> BTreeMap<String, Uuid> {
    let mut by_process: BTreeMap<Option<&str>, Vec<(Micros, &str)>> = BTreeMap::new();
    for event in events.values().filter(|event| event.session_id.is_none() && !event.messages.is_empty()) {
        by_process.entry(event.process_id.as_deref()).or_default().push((event.occurred_at, &event.event_id));
    }
    let mut islands = BTreeMap::new();
    for (process, mut said) in by_process {
        said.sort_unstable();
        let mut before: Option<(Micros, Uuid)> = None;
        for (at, event_id) in said {
            let id = match before {
                Some((last, id)) if at.0 - last.0 <= ISLAND_GAP_US => id,
                _ => ids::island_session_id(entity_key, process, event_id),
            };
            before = Some((at, id));
            islands.insert(event_id.to_owned(), id);
        }
    }
    islands
}

/// A posted body as the contract reads it.
///
/// # Panics
/// Where it breaks the contract.
#[must_use]
pub fn read(tenant: &str, body: &Value) -> ConversationEvent {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let time = |value: &Value| value.as_str().map(|at| Micros::parse_rfc3339(at).expect("a time"));
    let messages: Vec<Message> = body["messages"]
        .as_array()
        .expect("messages")
        .iter()
        .map(|message| {
            let (content, content_format) = match &message["content"] {
                Value::String(text) => (text.replace(RECALLED_BLOCK, ""), ContentFormat::Text),
                parts => (ids::canonical_json(parts), ContentFormat::Parts),
            };
            Message {
                message_id: text(&message["message_id"]),
                role: Role::parse(message["role"].as_str().expect("a role")).expect("a role"),
                name: text(&message["name"]),
                content,
                content_format,
                created_at: time(&message["created_at"]),
            }
        })
        .collect();
    let mut metadata: Vec<MetadataEntry> = body["metadata"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| MetadataEntry { key: key.clone(), value: text(value).expect("metadata holds strings") })
        .collect();
    metadata.sort();
    let entity_id = text(&body["entity_id"]).expect("an entity");
    let process_id = text(&body["process_id"]);
    ConversationEvent {
        content_hash: ids::content_hash(&entity_id, process_id.as_deref(), &messages, &metadata),
        tenant: tenant.to_owned(),
        entity_id,
        process_id,
        session_id: text(&body["session_id"]),
        event_id: text(&body["event_id"]).expect("the workload names its events"),
        occurred_at: time(&body["occurred_at"]).expect("the workload dates its events"),
        accepted_at: Micros(0),
        messages,
        metadata,
        supplied: Supplied { event_id: true, occurred_at: true },
        spooled: false,
        attempt: 0,
        origin: None,
        key_id: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::phrases::LANGUAGES;

    fn learned(text: &str) -> Vec<String> {
        let event = read(
            "t",
            &json!({"event_id": "e", "entity_id": "e", "occurred_at": "2026-01-01T00:00:00Z", "messages": [{"role": "user", "content": text}]}),
        );
        facts_of(&event).into_values().map(|(fact, _)| fact.text).collect()
    }

    #[test]
    fn every_statement_teaches_and_chatter_does_not() {
        for language in &LANGUAGES {
            for statement in language.statements {
                let statement = statement.replace("{}", "Otter").replace("{n}", "3");
                assert!(!learned(&statement).is_empty(), "{statement} teaches nothing");
            }
            for chatter in language.chatter {
                let chatter = chatter.replace("{}", "Otter");
                assert_eq!(learned(&chatter), Vec::<String>::new(), "{chatter}");
            }
        }
    }

    #[test]
    fn what_was_recalled_is_not_learned() {
        assert_eq!(learned(RECALLED_BLOCK), Vec::<String>::new());
    }

    #[test]
    fn a_change_of_mind_is_three_intervals() {
        let mut model = Model::default();
        for (n, city) in ["Paris", "Berlin", "Paris"].iter().enumerate() {
            let at = format!("2026-01-0{}T00:00:00Z", n + 1);
            let said = json!([{"role": "user", "content": format!("I live in {city}.")}]);
            model.accept("t", &json!({"event_id": format!("e{n}"), "entity_id": "e", "occurred_at": at, "messages": said}));
        }
        let facts = model.entity("t", "e").facts;
        let intervals: Vec<usize> = facts.values().map(|fact| fact.validity.len()).collect();
        assert_eq!(intervals.iter().sum::<usize>(), 3, "{facts:?}");
        let open = facts.values().flat_map(|fact| &fact.validity).filter(|(_, to)| to.is_none()).count();
        assert_eq!(open, 1);
    }
}
