//! Listings, single facts with their lineage, receipts.

use std::collections::{BTreeSet, HashMap, HashSet};

use axum::Json;
use axum::extract::{Path, State};
use memori_event_log::Topic;
use memori_schemas::{EntityKey, FactId, FactKind, MessageKey, Micros, ids};
use memori_service::problem::{Answer, Problem};
use serde_json::{Value, json};

use super::request::{EntityId, FactPath, QueryParameters, Tenant, no_such_fact};
use super::{ApiState, unreadable};
use crate::reads::cursor;
use crate::reads::rows::{FactPlace, LineageRow};
use crate::recall::answer::{MAX_SOURCES, shown_fact};
use crate::recall::image::Interval;

/// Entities that one id may be of: their keys share 60 bits, so two are a rarity.
const ENTITIES_OF_AN_ID: usize = 16;

pub(super) async fn entities(
    State(state): State<ApiState>,
    tenant: Tenant,
    mut parameters: QueryParameters,
) -> Answer<Json<Value>> {
    let limit = parameters.limit();
    let after = parameters.take("cursor", "a cursor of this listing", cursor::entity);
    parameters.finish()?;
    // One more than is shown tells whether there is another page.
    let mut rows = state.store.entities(&tenant.0, after.as_ref(), limit + 1).await.map_err(unreadable)?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows.last().filter(|_| more).map(|row| cursor::of_entity(&row.entity_key));
    let entities: Vec<Value> = rows.into_iter().map(|row| json!({"entity_id": row.entity_id})).collect();
    Ok(Json(json!({"entities": entities, "next_cursor": next_cursor})))
}

pub(super) async fn of_entity(
    State(state): State<ApiState>,
    tenant: Tenant,
    EntityId(entity_id): EntityId,
    mut parameters: QueryParameters,
) -> Answer<Json<Value>> {
    let limit = parameters.limit();
    let after = parameters.take("cursor", "a cursor of this listing", cursor::fact);
    let names: Vec<&str> = FactKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let kind = parameters.take("kind", &format!("one of {}", names.join(", ")), FactKind::parse);
    parameters.finish()?;
    let entity_key = ids::entity_key(&tenant.0, &entity_id);
    // A listing goes on in the generation in which it began.
    let image = match after {
        Some((generation, _)) => state.recall.facts_of_generation(&tenant.0, entity_key, generation).await,
        None => state.recall.facts(&tenant.0, entity_key).await,
    };
    let image = image.map_err(unreadable)?;
    let mut page: Vec<_> = image
        .facts()
        .map(|fact| (fact.fact_id(), fact.kind()))
        .enumerate()
        .filter(|(_, (id, of))| after.is_none_or(|(_, last)| *id > last) && kind.is_none_or(|kind| *of == kind))
        .map(|(number, (id, _))| (id, number))
        .collect();
    page.sort_unstable();
    let more = page.len() > limit;
    page.truncate(limit);
    let next_cursor = page.last().filter(|_| more).map(|(id, _)| cursor::of_fact(image.generation, *id));
    let now = Micros::now();
    let facts: Vec<_> = page.into_iter().map(|(_, number)| shown_fact(&image, number, None, now)).collect();
    Ok(Json(json!({"facts": facts, "next_cursor": next_cursor})))
}

pub(super) async fn by_id(
    State(state): State<ApiState>,
    tenant: Tenant,
    FactPath(fact_id): FactPath,
    parameters: QueryParameters,
) -> Answer<Json<Value>> {
    parameters.finish()?;
    let place = located(&state, &tenant.0, fact_id).await?;
    let image = state.recall.facts_of_generation(&tenant.0, place.entity_key, place.generation).await.map_err(unreadable)?;
    let number = image.find(fact_id).ok_or_else(no_such_fact)?;
    let fact = image.fact(number);
    let mut shown = serde_json::to_value(shown_fact(&image, number, None, Micros::now())).unwrap_or_default();
    shown["confidence"] = confidence(fact.confidence());
    shown["validity"] = validity(fact.intervals());
    Ok(Json(shown))
}

/// Stores keep it in single precision: what that adds behind the sixth decimal was never said.
pub(super) fn confidence(stored: f64) -> Value {
    json!((stored * 1e6).round() / 1e6)
}

/// All intervals in which a fact holds.
pub(super) fn validity(intervals: impl Iterator<Item = Interval>) -> Value {
    let time = |us: i64| Micros(us).to_rfc3339();
    intervals.map(|i| json!({"valid_from": time(i.from_us), "valid_to": i.to_us.map(time)})).collect()
}

pub(super) async fn lineage(
    State(state): State<ApiState>,
    tenant: Tenant,
    FactPath(fact_id): FactPath,
    parameters: QueryParameters,
) -> Answer<Json<Value>> {
    parameters.finish()?;
    let place = located(&state, &tenant.0, fact_id).await?;
    // The image knows the sessions that nobody named.
    let image = state.recall.facts_of_generation(&tenant.0, place.entity_key, place.generation).await.map_err(unreadable)?;
    let rows = match state.recall.digest(&image, place.entity_key, fact_id).await.map_err(unreadable)? {
        Some((_, evidence)) => of_digest(&state, &tenant.0, &place, evidence).await?,
        None => state.store.lineage(&tenant.0, &place, fact_id).await.map_err(unreadable)?,
    };
    if rows.is_empty() {
        return Err(no_such_fact());
    }
    let number = image.find(fact_id);
    let mentions: Vec<Value> = rows
        .into_iter()
        .map(|row| {
            let of_event = |number: usize| {
                let source = image.fact(number).sources().find(|source| source.event_id() == row.mention.event_id)?;
                image.session_of(number, &source).map(str::to_owned)
            };
            let session_id = row.mention.session_id.clone().or_else(|| number.and_then(of_event));
            mention(&state.config.topic_prefix, row, session_id)
        })
        .collect();
    Ok(Json(json!({"fact_id": fact_id.to_string(), "generation": place.generation, "mentions": mentions})))
}

/// The mentions of a digest's facts that count for it, in conversation order; of very many facts those of the latest.
async fn of_digest(
    state: &ApiState,
    tenant: &str,
    place: &FactPlace,
    evidence: Vec<(FactId, MessageKey)>,
) -> Answer<Vec<LineageRow>> {
    let mut counts: HashMap<FactId, HashSet<MessageKey>> = HashMap::new();
    for (fact_id, message_key) in evidence.into_iter().rev() {
        if counts.len() < MAX_SOURCES || counts.contains_key(&fact_id) {
            counts.entry(fact_id).or_default().insert(message_key);
        }
    }
    let mut rows = Vec::new();
    for (fact_id, message_keys) in counts {
        let of_fact = state.store.lineage(tenant, place, fact_id).await.map_err(unreadable)?;
        rows.extend(of_fact.into_iter().filter(|row| message_keys.contains(&row.mention.message_key)));
    }
    rows.sort_unstable_by(|a, b| {
        let (one, other) = (&a.mention, &b.mention);
        (one.occurred_at_us, &one.event_id, one.message_index, one.fact_id).cmp(&(
            other.occurred_at_us,
            &other.event_id,
            other.message_index,
            other.fact_id,
        ))
    });
    Ok(rows)
}

/// Where a fact is: by its id in the tables, or, of a digest by rules, which is in none, in the images of the entities that its id may
/// be of.
async fn located(state: &ApiState, tenant: &str, fact_id: FactId) -> Answer<FactPlace> {
    if let Some(place) = state.store.locate_fact(tenant, fact_id).await.map_err(unreadable)? {
        return Ok(place);
    }
    let (first, last) = ids::entity_key_range(fact_id);
    let before = u128::from_be_bytes(first.0).checked_sub(1).map(|key| EntityKey(key.to_be_bytes()));
    let entities = state.store.entities(tenant, before.as_ref(), ENTITIES_OF_AN_ID).await.map_err(unreadable)?;
    for entity in entities.into_iter().take_while(|entity| entity.entity_key <= last) {
        let image = state.recall.facts(tenant, entity.entity_key).await.map_err(unreadable)?;
        if state.recall.digest(&image, entity.entity_key, fact_id).await.map_err(unreadable)?.is_some() {
            return Ok(FactPlace { entity_key: entity.entity_key, generation: image.generation });
        }
    }
    Err(no_such_fact())
}

fn mention(topic_prefix: &str, row: LineageRow, session_id: Option<String>) -> Value {
    let surface: Value = serde_json::from_str(&row.surface).unwrap_or_default();
    let extractor = match (&row.extractor_name, &row.extractor_version) {
        (Some(name), Some(version)) => json!(format!("{name}/{version}")),
        _ => surface.get("extractor").cloned().unwrap_or_default(),
    };
    json!({
        "event_id": row.mention.event_id,
        "message_id": row.mention.message_id,
        "message_index": row.mention.message_index,
        "session_id": session_id,
        "process_id": row.mention.process_id,
        "occurred_at": Micros(row.mention.occurred_at_us).to_rfc3339(),
        "content": surface.get("text"),
        "subject": surface.get("subject"),
        "predicate": surface.get("predicate"),
        "object": surface.get("object"),
        "confidence": surface.get("confidence"),
        "lane": row.lane.as_str(),
        "topic": format!("{topic_prefix}.{}", Topic::facts(row.lane).as_str()),
        "topic_id": row.log_topic_id,
        "partition": row.log_partition,
        "offset": row.log_offset,
        "extractor": extractor,
        "model": row.extractor_model,
        "prompt_hash": row.prompt_hash,
        "tokens_in": row.tokens_in,
        "tokens_out": row.tokens_out,
        "cost_micros": row.cost_micros,
        "extracted_at": row.ended_at_us.map(|at| Micros(at).to_rfc3339()),
    })
}

pub(super) async fn forget_target(
    State(state): State<ApiState>,
    tenant: Tenant,
    FactPath(fact_id): FactPath,
) -> Answer<Json<Value>> {
    let place = located(&state, &tenant.0, fact_id).await?;
    let image = state.recall.facts_of_generation(&tenant.0, place.entity_key, place.generation).await.map_err(unreadable)?;
    if let Some((text_hash, evidence)) = state.recall.digest(&image, place.entity_key, fact_id).await.map_err(unreadable)? {
        let entity_id =
            state.store.entity_id(&tenant.0, &place.entity_key).await.map_err(unreadable)?.ok_or_else(no_such_fact)?;
        let message_keys: BTreeSet<String> = evidence.into_iter().map(|(_, message_key)| message_key.to_string()).collect();
        return Ok(Json(json!({
            "entity_id": entity_id,
            "text_hash": text_hash.to_string(),
            "triple_hash": null,
            "message_keys": message_keys,
        })));
    }
    let target = state.store.forget_target(&tenant.0, &place, fact_id).await.map_err(unreadable)?.ok_or_else(no_such_fact)?;
    Ok(Json(json!({
        "entity_id": target.entity_id,
        "text_hash": target.text_hash.to_string(),
        "triple_hash": target.triple_hash.map(|hash| hash.to_string()),
        "message_keys": target.message_keys.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })))
}

pub(super) async fn erasure(
    State(state): State<ApiState>,
    tenant: Tenant,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
    parameters: QueryParameters,
) -> Answer<Json<Value>> {
    parameters.finish()?;
    let none = || Problem::not_found("there is no such erasure, or it has not been applied yet");
    let Ok(Path(erasure_id)) = path else { return Err(none()) };
    if erasure_id.contains('\0') {
        return Err(none());
    }
    let receipt = state.store.erasure(&tenant.0, &erasure_id).await.map_err(unreadable)?.ok_or_else(none)?;
    Ok(Json(json!({
        "erasure_id": receipt.erasure_id,
        "status": "applied",
        "requested_at": Micros(receipt.requested_at_us).to_rfc3339(),
        "applied_at": Micros(receipt.applied_at_us).to_rfc3339(),
        "events_erased": receipt.events_erased,
        "events_kept": receipt.events_kept,
    })))
}
