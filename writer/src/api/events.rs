//! What ingest asks about events and deletions: where they stand, and to be told when they have come through.

use std::collections::HashMap;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use http::HeaderMap;
use memori_schemas::{Micros, ids};
use memori_service::problem::{Answer, FieldErrors, Fields, Problem};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::request::{MAX_ENTITY_ID_BYTES, Tenant, json_body};
use super::{ApiState, unreadable};
use crate::metrics;
use crate::reads::rows::{ControlId, EventState};

/// Bytes of a body with 1,000 ids of 128 characters, each escaped.
const MAX_BODY_BYTES: usize = 2 << 20;
/// Ids of one request.
const MAX_EVENTS: usize = 1_000;
/// Bytes of an event's id: 128 characters.
const MAX_EVENT_ID_BYTES: usize = 512;
/// The longest wait.
const MAX_TIMEOUT_MS: i64 = 600_000;
/// How long a wait lasts that does not say.
const DEFAULT_TIMEOUT_MS: i64 = 10_000;
/// The shortest pause between two looks of one waiter, so that a storm of commits is looked at once.
const LEAST_PAUSE: Duration = Duration::from_millis(2);

/// The distinct ids in a body, in order, and what else is in it.
fn event_ids_of(fields: &mut Fields<'_>) -> Vec<String> {
    let list = fields.required_list("event_ids", 0..=MAX_EVENTS).unwrap_or_default();
    let mut event_ids: Vec<String> = Vec::with_capacity(list.len());
    let mut seen = std::collections::HashSet::new();
    for (i, value) in list.into_iter().enumerate() {
        match value {
            Value::String(id) if (1..=MAX_EVENT_ID_BYTES).contains(&id.len()) && !id.contains('\0') => {
                if seen.insert(id.clone()) {
                    event_ids.push(id);
                }
            }
            _ => {
                let path = format!("{}[{i}]", fields.path_of("event_ids"));
                fields.errors().push(path, "must be a string of 1 to 128 characters without U+0000");
            }
        }
    }
    event_ids
}

async fn ids_body(headers: &HeaderMap, body: Body) -> Answer<Vec<String>> {
    let mut errors = FieldErrors::default();
    let event_ids = Fields::of(json_body(headers, body, MAX_BODY_BYTES).await?, "", &mut errors).map(|mut fields| {
        let event_ids = event_ids_of(&mut fields);
        fields.finish();
        event_ids
    });
    Ok(errors.into_result(event_ids)?.unwrap_or_default())
}

pub(super) async fn status(State(state): State<ApiState>, tenant: Tenant, headers: HeaderMap, body: Body) -> Answer<Json<Value>> {
    let event_ids = ids_body(&headers, body).await?;
    let events = state.store.event_status(&tenant.0, &event_ids).await.map_err(unreadable)?;
    let counts = state.store.fact_counts(&tenant.0, &events).await.map_err(unreadable)?;
    let shown: Vec<Value> = events
        .iter()
        .zip(counts)
        .map(|(event, facts)| {
            let mut shown = Map::new();
            shown.insert("event_id".into(), event.event_id.clone().into());
            shown.insert("status".into(), event.state.as_str().into());
            shown.insert("accepted_at".into(), Micros(event.accepted_at_us).to_rfc3339().into());
            if let (EventState::Applied, Some(ended_at_us)) = (event.state, event.ended_at_us) {
                shown.insert("applied_at".into(), Micros(ended_at_us).to_rfc3339().into());
            }
            shown.insert("facts".into(), facts.into());
            for (name, value) in [("reason", &event.reason), ("class", &event.class)] {
                if let Some(value) = value {
                    shown.insert(name.into(), value.clone().into());
                }
            }
            Value::Object(shown)
        })
        .collect();
    Ok(Json(json!({"events": shown})))
}

pub(super) async fn known(State(state): State<ApiState>, tenant: Tenant, headers: HeaderMap, body: Body) -> Answer<Json<Value>> {
    let event_ids = ids_body(&headers, body).await?;
    let events = state.store.known_events(&tenant.0, &event_ids).await.map_err(unreadable)?;
    let shown: Vec<Value> = events
        .into_iter()
        .map(|event| {
            // What the client gave is spread out beside the identity; what it did not give is null.
            let given: Value = event.client_fields.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
            let list = |name: &str| given.get(name).filter(|list| list.is_array()).cloned().unwrap_or_else(|| json!([]));
            json!({
                "event_id": event.event_id,
                "entity_key": event.entity_key.to_string(),
                "content_hash": event.content_hash.to_string(),
                "accepted_at_us": event.accepted_at_us,
                "occurred_at_us": given.get("occurred_at_us"),
                "session_id": given.get("session_id"),
                "message_ids": list("message_ids"),
                "created_at_us": list("created_at_us"),
            })
        })
        .collect();
    Ok(Json(json!({"events": shown})))
}

/// Looks, and after each commit again, until `look` is satisfied or time is up; what it said last.
async fn until<T, F>(state: &ApiState, timeout_ms: i64, mut look: impl FnMut() -> F) -> Answer<T>
where
    F: Future<Output = Answer<(bool, T)>>,
{
    let deadline = Instant::now() + Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
    // Subscribed before the first look, so that no commit falls between a look and the wait for the next.
    let mut commits = state.commits.subscribe();
    let (done, seen) = look().await?;
    if done || timeout_ms == 0 {
        return Ok(seen);
    }
    let Ok(_permit) = state.waiters.try_acquire() else {
        metrics::wait_refused();
        return Err(Problem::unavailable("too many requests are waiting already", 1));
    };
    let _waiting = Waiting::new();
    let mut seen = seen;
    loop {
        let now = Instant::now();
        if now >= deadline {
            return Ok(seen);
        }
        // A bound on each wait, for commits that no notification told of.
        let next_look = deadline.min(now + state.config.look_again);
        let _ = tokio::time::timeout_at(next_look, commits.changed()).await;
        tokio::time::sleep_until(deadline.min(now + LEAST_PAUSE)).await;
        commits.mark_unchanged();
        let (done, latest) = look().await?;
        if done {
            return Ok(latest);
        }
        seen = latest;
    }
}

/// Counts a waiter for as long as it lives.
struct Waiting;

impl Waiting {
    fn new() -> Self {
        metrics::waiters(1.0);
        Self
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        metrics::waiters(-1.0);
    }
}

pub(super) async fn wait(State(state): State<ApiState>, tenant: Tenant, headers: HeaderMap, body: Body) -> Answer<Json<Value>> {
    let mut errors = FieldErrors::default();
    let asked = Fields::of(json_body(&headers, body, MAX_BODY_BYTES).await?, "", &mut errors).map(|mut fields| {
        let event_ids = event_ids_of(&mut fields);
        let timeout_ms = fields.integer("timeout_ms", 0..=MAX_TIMEOUT_MS).unwrap_or(DEFAULT_TIMEOUT_MS);
        fields.finish();
        (event_ids, timeout_ms)
    });
    let (event_ids, timeout_ms) = errors.into_result(asked)?.unwrap_or_default();
    let final_states: std::sync::Mutex<HashMap<String, EventState>> = std::sync::Mutex::default();
    let look = || async {
        // A final state stays one for the length of a wait (it may only become another final one): asked for once.
        let pending: Vec<String> = {
            let known = final_states.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            event_ids.iter().filter(|id| !known.contains_key(*id)).cloned().collect()
        };
        let found = state.store.event_status(&tenant.0, &pending).await.map_err(unreadable)?;
        let mut known = final_states.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut accepted = HashMap::new();
        for event in found {
            if event.state.is_final() {
                known.insert(event.event_id, event.state);
            } else {
                // Where it is: ingest may ask the worker to begin with it.
                let place = json!({"event_id": event.event_id, "status": event.state.as_str(), "entity_id": event.entity_id,
                    "lane": event.lane.as_str(), "accepted_at_us": event.accepted_at_us});
                accepted.insert(event.event_id, place);
            }
        }
        let complete = known.len() == event_ids.len();
        let shown = |id: &String| match known.get(id) {
            Some(state) => json!({"event_id": id, "status": state.as_str()}),
            None => accepted.remove(id).unwrap_or_else(|| json!({"event_id": id, "status": "unknown"})),
        };
        let events: Vec<Value> = event_ids.iter().map(shown).collect();
        Ok((complete, json!({"complete": complete, "events": events})))
    };
    until(&state, timeout_ms, look).await.map(Json)
}

pub(super) async fn controls_wait(
    State(state): State<ApiState>,
    tenant: Tenant,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<Value>> {
    let mut errors = FieldErrors::default();
    let asked = Fields::of(json_body(&headers, body, MAX_BODY_BYTES).await?, "", &mut errors).and_then(|mut fields| {
        let entity_id = fields.required_text("entity_id", 1..=MAX_ENTITY_ID_BYTES);
        let forget = fields.text("forget_id", 1..=256);
        let erasure = fields.text("erasure_id", 1..=256);
        let withdrawal = fields.text("withdrawal_id", 1..=256);
        let timeout_ms = fields.integer("timeout_ms", 0..=MAX_TIMEOUT_MS).unwrap_or(DEFAULT_TIMEOUT_MS);
        let control = match (forget, erasure, withdrawal) {
            (Some(id), None, None) => Some(ControlId::Forget(id)),
            (None, Some(id), None) => Some(ControlId::Erasure(id)),
            (None, None, Some(id)) => Some(ControlId::Withdrawal(id)),
            _ => {
                fields.broken("forget_id", "one of this, erasure_id and withdrawal_id is required");
                None
            }
        };
        fields.finish();
        Some((entity_id?, control?, timeout_ms))
    });
    let (entity_id, control, timeout_ms) = errors.into_result(asked)?.ok_or_else(|| Problem::invalid(Vec::new()))?;
    let entity_key = ids::entity_key(&tenant.0, &entity_id);
    let look = || async {
        let applied = state.store.control_applied(&tenant.0, &entity_key, &control).await.map_err(unreadable)?;
        Ok((applied, json!({"applied": applied})))
    };
    until(&state, timeout_ms, look).await.map(Json)
}
