//! Dead letters for operators.
//!
//! Promises: who administers one tenant sees that tenant's letters alone; only who administers all sees those that nobody owns.
//! Nothing of what was said is in a listing; a letter's record is shown to who asks for that letter.

mod redrivable;

use axum::Json;
use axum::extract::{Path, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memori_schemas::{
    ContentFormat, ConversationEvent, DeadLetterClass, FactsExtracted, Lane, LogRecordBody, Message, Micros, framing, ids,
};
use memori_service::problem::{Answer, Fields, Problem, join};
use serde_json::{Map, Value, json};

pub(super) use self::redrivable::redrivable;
use super::request::{MAX_ENTITY_ID_BYTES, QueryParameters, Tenant};
use super::{ApiState, EVERY_TENANT, unreadable};
use crate::plan::DeadLetterKey;
use crate::reads::cursor;
use crate::reads::letters::{Letter, LetterBytes, LetterFilter, LetterOrder, LetterPlace, LetterState};

/// Letters that one request looks at, at most, where it wants those of one state.
const MAX_SIEVED: usize = 5_000;
/// Letters that are read at a time.
const PAGE: usize = 200;

/// Whose letters a request may be about.
enum Scope {
    All,
    One(String),
}

impl Scope {
    fn of(tenant: Tenant) -> Self {
        if tenant.0 == EVERY_TENANT { Self::All } else { Self::One(tenant.0) }
    }

    fn may_see(&self, letter: &Letter) -> bool {
        match self {
            Self::All => true,
            Self::One(tenant) => letter.row.tenant.as_deref() == Some(tenant),
        }
    }
}

/// What narrows a listing, as it was asked for.
#[derive(Default)]
struct Asked {
    tenant: Option<String>,
    entity_id: Option<String>,
    filter: LetterFilter,
}

const CLASS: &str = "one of poison, unknown_record, sealed, invalid_output, refused, too_large, quota, expired";
const LANE: &str = "live or backfill";
const STATE: &str = "one of open, superseded, applied, erased, unreadable";
const TIME: &str = "an RFC 3339 time";
const GENERATION: &str = "a whole number";
const CURSOR: &str = "a cursor of this listing";

fn some_text(text: &str, most: usize) -> Option<String> {
    (text.len() <= most && !text.contains('\0')).then(|| text.to_owned())
}

fn time_us(text: &str) -> Option<i64> {
    Micros::parse_rfc3339(text).map(|at| at.0)
}

impl Asked {
    fn of_query(parameters: &mut QueryParameters) -> Self {
        Self {
            tenant: parameters.take("tenant", "a tenant", |text| some_text(text, 128)),
            entity_id: parameters.take("entity_id", "an entity's id", |text| some_text(text, MAX_ENTITY_ID_BYTES)),
            filter: LetterFilter {
                event_id: parameters.take("event_id", "an event's id", |text| some_text(text, 512)),
                class: parameters.take("class", CLASS, DeadLetterClass::parse),
                since_us: parameters.take("since", TIME, time_us),
                until_us: parameters.take("until", TIME, time_us),
                generation: parameters.take("generation", GENERATION, |text| text.parse().ok()),
                lane: parameters.take("lane", LANE, Lane::parse),
                state: parameters.take("state", STATE, LetterState::parse),
                ..LetterFilter::default()
            },
        }
    }

    fn of_fields(fields: &mut Fields<'_>) -> Self {
        let generation = fields.integer("generation", i32::MIN.into()..=i32::MAX.into());
        Self {
            tenant: fields.text("tenant", 1..=128),
            entity_id: fields.text("entity_id", 1..=MAX_ENTITY_ID_BYTES),
            filter: LetterFilter {
                event_id: fields.text("event_id", 1..=512),
                class: fields.parsed("class", CLASS, DeadLetterClass::parse),
                since_us: fields.parsed("since", TIME, time_us),
                until_us: fields.parsed("until", TIME, time_us),
                generation: generation.and_then(|n| i32::try_from(n).ok()),
                lane: fields.parsed("lane", LANE, Lane::parse),
                state: fields.parsed("state", STATE, LetterState::parse),
                ..LetterFilter::default()
            },
        }
    }

    /// Within what the caller may see. `path` is where the filter stands in the request.
    fn within(self, scope: &Scope, path: &str) -> Answer<LetterFilter> {
        let tenant = match (scope, self.tenant) {
            (Scope::All, tenant) => tenant,
            (Scope::One(own), Some(tenant)) if tenant != *own => {
                let why = "the key sees its own tenant's dead letters only; one that is bound to `*` sees all";
                return Err(Problem::invalid_field(join(path, "tenant"), why));
            }
            (Scope::One(own), _) => Some(own.clone()),
        };
        let entity_key = match (&tenant, &self.entity_id) {
            (Some(tenant), Some(entity_id)) => Some(ids::entity_key(tenant, entity_id)),
            (None, Some(_)) => {
                return Err(Problem::invalid_field(join(path, "entity_id"), "belongs to a tenant: name it in `tenant`, too"));
            }
            (_, None) => None,
        };
        Ok(LetterFilter { tenant, entity_key, ..self.filter })
    }
}

/// A page of letters, and where the next one goes on. Of a state that is rare a page may hold less than was asked for.
async fn page(
    state: &ApiState,
    filter: &LetterFilter,
    order: LetterOrder,
    after: Option<LetterPlace>,
    limit: usize,
) -> Answer<(Vec<Letter>, Option<LetterPlace>)> {
    let mut found = Vec::new();
    let (mut after, mut looked_at) = (after, 0);
    loop {
        let wanted = match filter.state {
            None => limit - found.len(),
            Some(_) => PAGE,
        };
        // One more than is wanted tells whether there is another page.
        let mut letters = state.store.letters(filter, order, after.as_ref(), wanted + 1).await.map_err(unreadable)?;
        let mut more = letters.len() > wanted;
        letters.truncate(wanted);
        for letter in letters {
            if found.len() == limit {
                more = true;
                break;
            }
            looked_at += 1;
            after = Some(letter.row.place());
            if filter.state.is_none_or(|state| letter.state() == state) {
                found.push(letter);
            }
        }
        if !more {
            return Ok((found, None));
        }
        if found.len() == limit || looked_at >= MAX_SIEVED {
            return Ok((found, after));
        }
    }
}

pub(super) async fn list(State(state): State<ApiState>, tenant: Tenant, mut parameters: QueryParameters) -> Answer<Json<Value>> {
    let limit = parameters.limit();
    let after = parameters.take("cursor", CURSOR, cursor::letter);
    let asked = Asked::of_query(&mut parameters);
    parameters.finish()?;
    let filter = asked.within(&Scope::of(tenant), "")?;
    let (letters, next) = page(&state, &filter, LetterOrder::NewestFirst, after, limit).await?;
    let shown: Vec<Value> = letters.iter().map(|letter| shown(&state.config.topic_prefix, letter)).collect();
    Ok(Json(json!({"dead_letters": shown, "next_cursor": next.as_ref().map(cursor::of_letter)})))
}

pub(super) async fn show(
    State(state): State<ApiState>,
    tenant: Tenant,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
    mut parameters: QueryParameters,
) -> Answer<Json<Value>> {
    let raw = parameters.take("raw", "true or false", |text| text.parse::<bool>().ok()).unwrap_or(false);
    parameters.finish()?;
    let none = || Problem::not_found("there is no such dead letter");
    let scope = Scope::of(tenant);
    let key = path.ok().and_then(|Path(id)| cursor::letter_key(&id)).ok_or_else(none)?;
    let letter = of_keys(&state, std::slice::from_ref(&key)).await?.pop().flatten();
    let letter = letter.filter(|letter| scope.may_see(letter)).ok_or_else(none)?;
    let bytes = state.store.letter_bytes(&[key]).await.map_err(unreadable)?.pop().flatten();
    let mut answer = shown(&state.config.topic_prefix, &letter);
    let (key, payload) = match bytes {
        Some(LetterBytes { key, payload }) => (shown_key(&key, raw), shown_payload(&payload, raw)),
        None => (Value::Null, Value::Null),
    };
    answer["key"] = key;
    answer["payload"] = payload;
    Ok(Json(answer))
}

async fn of_keys(state: &ApiState, keys: &[DeadLetterKey]) -> Answer<Vec<Option<Letter>>> {
    state.store.letters_by_key(keys).await.map_err(unreadable)
}

fn shown(topic_prefix: &str, letter: &Letter) -> Value {
    let row = &letter.row;
    let event = |cover: usize| {
        let event = &row.covers[cover];
        json!({
            "event_id": event.event_id,
            "content_hash": event.content_hash,
            "state": letter.state_of(cover).as_str(),
            "attempt": letter.standings.get(cover).copied().flatten().map(|standing| standing.attempt),
        })
    };
    json!({
        "id": cursor::letter_id(&row.key),
        "state": letter.state().as_str(),
        "tenant": row.tenant,
        "entity_id": row.entity_id,
        "class": row.class,
        "reason": row.reason,
        "attempts": row.attempts,
        "failed_at": Micros(row.failed_at_us).to_rfc3339(),
        "generation": row.key.generation,
        "lane": row.lane.as_str(),
        "source": {
            "topic": format!("{topic_prefix}.{}", row.source_topic),
            "topic_id": row.key.source_topic_id,
            "partition": row.key.source_partition,
            "offset": row.key.source_offset,
        },
        "events": (0..row.covers.len()).map(event).collect::<Vec<_>>(),
        "key_bytes": row.key_bytes,
        "payload_bytes": row.payload_bytes,
    })
}

fn in_base64(bytes: &[u8]) -> Value {
    json!({"format": "base64", "value": STANDARD.encode(bytes)})
}

fn shown_key(key: &[u8], raw: bool) -> Value {
    match ids::parse_log_key(key).filter(|_| !raw) {
        Some((tenant, entity_id)) => json!({"format": "entity", "value": {"tenant": tenant, "entity_id": entity_id}}),
        None => in_base64(key),
    }
}

/// The record, read where it can be.
fn shown_payload(payload: &[u8], raw: bool) -> Value {
    match framing::decode(payload) {
        Ok(LogRecordBody::Conversation(event)) if !raw => {
            json!({"format": "conversation_event", "value": shown_event(&event)})
        }
        Ok(LogRecordBody::Facts(facts)) if !raw => json!({"format": "facts_extracted", "value": shown_facts(facts)}),
        _ => in_base64(payload),
    }
}

fn shown_event(event: &ConversationEvent) -> Value {
    let message = |message: &Message| {
        let parts = || serde_json::from_str::<Value>(&message.content).ok();
        let content = match message.content_format {
            ContentFormat::Parts => parts(),
            ContentFormat::Text => None,
        };
        json!({
            "message_id": message.message_id,
            "role": message.role.as_str(),
            "name": message.name,
            "content": content.unwrap_or_else(|| message.content.as_str().into()),
            "created_at": message.created_at.map(Micros::to_rfc3339),
        })
    };
    let metadata: Map<String, Value> =
        event.metadata.iter().map(|entry| (entry.key.clone(), entry.value.as_str().into())).collect();
    json!({
        "tenant": event.tenant,
        "entity_id": event.entity_id,
        "process_id": event.process_id,
        "session_id": event.session_id,
        "event_id": event.event_id,
        "content_hash": event.content_hash.to_string(),
        "occurred_at": event.occurred_at.to_rfc3339(),
        "accepted_at": event.accepted_at.to_rfc3339(),
        "messages": event.messages.iter().map(message).collect::<Vec<_>>(),
        "metadata": metadata,
        "spooled": event.spooled,
        "attempt": event.attempt,
        "origin": event.origin.map(|origin| json!({"lane": origin.lane.as_str(), "offset": origin.offset})),
        "sealed": event.key_id.is_some(),
    })
}

/// Without vectors, which say nothing to people.
fn shown_facts(mut facts: FactsExtracted) -> Value {
    for fact in &mut facts.facts {
        fact.vector = None;
    }
    facts.message_vectors.clear();
    let mut shown = serde_json::to_value(&facts).unwrap_or_default();
    shown["extracted_at"] = facts.extracted_at.to_rfc3339().into();
    shown
}
