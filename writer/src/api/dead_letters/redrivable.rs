//! What ingest asks to redrive dead letters: the letters with their records, as many as fit one answer.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use memori_schemas::EntityKey;
use memori_service::problem::{Answer, FieldErrors, Fields, Problem};
use serde_json::{Value, json};

use super::super::request::{Tenant, json_body};
use super::super::{ApiState, unreadable};
use super::{Asked, CURSOR, Scope, of_keys, page};
use crate::plan::DeadLetterKey;
use crate::reads::cursor;
use crate::reads::letters::{Letter, LetterBytes, LetterOrder, LetterPlace, LetterState};

/// Letters that are handed out at a time.
const MAX_REDRIVABLE: usize = 200;
/// Bytes of their records, at most (one is always handed out).
const MAX_REDRIVABLE_BYTES: i64 = 8 << 20;
/// Bytes of a body: a thousand ids.
const MAX_BODY_BYTES: usize = 2 << 20;
/// Bytes of an id.
const MAX_ID_BYTES: usize = 1_100;

/// What is to be redriven: by ids, or what a filter finds, oldest first.
enum Wanted {
    Ids(Vec<String>),
    Found(Box<Asked>, Option<LetterPlace>),
}

async fn wanted(headers: &HeaderMap, body: Body) -> Answer<(Wanted, usize)> {
    let mut errors = FieldErrors::default();
    let read = Fields::of(json_body(headers, body, MAX_BODY_BYTES).await?, "", &mut errors).map(|mut fields| {
        let limit = fields.integer("limit", 1..=1_000).and_then(|n| usize::try_from(n).ok()).unwrap_or(MAX_REDRIVABLE);
        let after = fields.parsed("cursor", CURSOR, cursor::letter);
        let ids = fields.list("ids", 1..=1_000).map(|list| ids_of(&mut fields, list));
        let filter = fields.take("filter");
        match (&ids, &filter) {
            (None, None) if fields.errors().is_empty() => {
                fields.broken("ids", "is required, or `filter` (an empty one means all)")
            }
            (Some(_), Some(_)) => fields.broken("filter", "does not go with `ids`"),
            (Some(_), None) if after.is_some() => fields.broken("cursor", "does not go with `ids`"),
            _ => {}
        }
        let asked = filter.and_then(|filter| {
            let path = fields.path_of("filter");
            let mut within = Fields::of(filter, path, fields.errors())?;
            let asked = Asked::of_fields(&mut within);
            within.finish();
            Some(asked)
        });
        fields.finish();
        let wanted = match ids {
            Some(ids) => Wanted::Ids(ids),
            None => Wanted::Found(Box::new(asked.unwrap_or_default()), after),
        };
        (wanted, limit)
    });
    errors.into_result(read)?.ok_or_else(Problem::internal)
}

fn ids_of(fields: &mut Fields<'_>, list: Vec<Value>) -> Vec<String> {
    let mut ids = Vec::with_capacity(list.len());
    for (i, value) in list.into_iter().enumerate() {
        match value {
            Value::String(id) if id.len() <= MAX_ID_BYTES => ids.push(id),
            _ => {
                let path = format!("{}[{i}]", fields.path_of("ids"));
                fields.errors().push(path, "must be the id of a dead letter");
            }
        }
    }
    ids
}

/// Letters with their records, for ingest: as many as fit one answer, each with the place after it.
pub(in crate::api) async fn redrivable(
    State(state): State<ApiState>,
    tenant: Tenant,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<Value>> {
    let (wanted, limit) = wanted(&headers, body).await?;
    let (scope, limit) = (Scope::of(tenant), limit.min(MAX_REDRIVABLE));
    let (letters, mut next): (Vec<(String, Option<Letter>)>, Option<LetterPlace>) = match wanted {
        Wanted::Ids(mut ids) => {
            ids.truncate(limit);
            let keys: Vec<Option<DeadLetterKey>> = ids.iter().map(|id| cursor::letter_key(id)).collect();
            let known: Vec<DeadLetterKey> = keys.iter().flatten().cloned().collect();
            let mut found = of_keys(&state, &known).await?.into_iter();
            let mut letter = |key: &Option<DeadLetterKey>| {
                let letter = key.as_ref().and_then(|_| found.next().flatten());
                letter.filter(|letter| scope.may_see(letter))
            };
            let letters: Vec<Option<Letter>> = keys.iter().map(&mut letter).collect();
            (ids.into_iter().zip(letters).collect(), None)
        }
        Wanted::Found(asked, after) => {
            let filter = asked.within(&scope, "filter")?;
            let (letters, next) = page(&state, &filter, LetterOrder::OldestFirst, after, limit).await?;
            (letters.into_iter().map(|letter| (cursor::letter_id(&letter.row.key), Some(letter))).collect(), next)
        }
    };
    let mut bytes = 0;
    let mut fitting = 0;
    for (_, letter) in &letters {
        bytes += letter.as_ref().filter(|letter| wants_bytes(letter)).map_or(0, |letter| letter.row.payload_bytes);
        if fitting > 0 && bytes > MAX_REDRIVABLE_BYTES {
            next = letters[fitting - 1].1.as_ref().map(|letter| letter.row.place());
            break;
        }
        fitting += 1;
    }
    let letters = &letters[..fitting];
    let with_bytes: Vec<DeadLetterKey> =
        letters.iter().filter_map(|(_, l)| l.as_ref()).filter(|l| wants_bytes(l)).map(|l| l.row.key.clone()).collect();
    let mut records = state.store.letter_bytes(&with_bytes).await.map_err(unreadable)?.into_iter();
    let mut handed = Vec::with_capacity(letters.len());
    for (id, letter) in letters {
        let Some(letter) = letter else {
            handed.push(json!({"id": id, "state": "not_found", "events": []}));
            continue;
        };
        let record = if wants_bytes(letter) { records.next().flatten() } else { None };
        handed.push(handed_out(id, letter, record));
    }
    Ok(Json(json!({"letters": handed, "next_cursor": next.as_ref().map(cursor::of_letter)})))
}

/// Of a letter about facts the record is of no use: its events are read from the log again.
fn wants_bytes(letter: &Letter) -> bool {
    letter.row.source_topic.starts_with("conversations.") && matches!(letter.state(), LetterState::Open | LetterState::Unreadable)
}

fn handed_out(id: &str, letter: &Letter, record: Option<LetterBytes>) -> Value {
    let row = &letter.row;
    let event = |cover: usize| {
        let (event, standing) = (&row.covers[cover], letter.standings.get(cover).copied().flatten());
        json!({
            "event_id": event.event_id,
            "content_hash": event.content_hash,
            "state": letter.state_of(cover).as_str(),
            "attempt": standing.map(|standing| standing.attempt),
            "lane": standing.map(|standing| standing.event_lane.as_str()),
            "offset": standing.map(|standing| standing.event_offset),
        })
    };
    json!({
        "id": id,
        "cursor": cursor::of_letter(&row.place()),
        "state": letter.state().as_str(),
        "class": row.class,
        "source_topic": row.source_topic,
        "source_topic_id": row.key.source_topic_id,
        "partition": row.key.source_partition,
        "offset": row.key.source_offset,
        "entity_key": row.entity_key.as_ref().map(EntityKey::to_string),
        "events": (0..row.covers.len()).map(event).collect::<Vec<_>>(),
        "payload": record.map(|record| STANDARD.encode(record.payload)),
    })
}
