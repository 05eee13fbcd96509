//! What workers ask about generations: which there are, and what came of events that they carry over.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use memori_schemas::{ContentHash, LogRecordBody, framing};
use memori_service::problem::{Answer, FieldErrors, Fields, Problem};
use serde_json::{Value, json};

use super::request::{MAX_ENTITY_ID_BYTES, Tenant, json_body};
use super::{ApiState, unreadable};
use crate::generations::{MAX_MADE, Made};

/// Bytes of a question with as many events as may be.
const MAX_QUESTION_BYTES: usize = 2 << 20;

pub(super) async fn followed(State(state): State<ApiState>) -> Answer<Json<Value>> {
    Ok(Json(json!(state.generations()?.followed().await.map_err(unreadable)?)))
}

/// What came of each event that is named: a framed fact event in base64, or what it is instead.
pub(super) async fn made(
    State(state): State<ApiState>,
    Tenant(tenant): Tenant,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<Value>> {
    let mut errors = FieldErrors::default();
    let asked = Fields::of(json_body(&headers, body, MAX_QUESTION_BYTES).await?, "", &mut errors).and_then(|mut fields| {
        let entity_id = fields.required_text("entity_id", 1..=MAX_ENTITY_ID_BYTES);
        let generation = fields.integer("generation", 1..=i64::from(i32::MAX)).and_then(|n| i32::try_from(n).ok());
        let events = fields.required_list("events", 0..=MAX_MADE).unwrap_or_default();
        let events: Option<Vec<(String, ContentHash)>> = events.iter().map(named).collect();
        if events.is_none() {
            fields.broken("events", "must be pairs of an id and the hash of a content");
        }
        fields.finish();
        Some((entity_id?, generation?, events?))
    });
    let Some((entity_id, generation, events)) = errors.into_result(asked)? else {
        return Err(Problem::invalid_field("generation", "must be named"));
    };
    let made = state.generations()?.made_of(&tenant, &entity_id, generation, &events).await.map_err(unreadable)?;
    let shown = |made: Made| match made {
        Made::Pending => Ok(json!({"pending": true})),
        Made::Dead => Ok(json!({"dead": true})),
        Made::Facts(facts) => {
            let bytes = framing::encode(&LogRecordBody::Facts(*facts)).map_err(|error| {
                tracing::error!(%error, "what was made of an event cannot be told");
                Problem::internal()
            })?;
            Ok(json!({"record": STANDARD.encode(bytes)}))
        }
    };
    Ok(Json(json!({"made": made.into_iter().map(shown).collect::<Answer<Vec<Value>>>()?})))
}

fn named(event: &Value) -> Option<(String, ContentHash)> {
    let [event_id, content_hash] = event.as_array()?.as_slice() else { return None };
    let content_hash = hex::decode(content_hash.as_str()?).ok()?;
    Some((event_id.as_str()?.to_owned(), ContentHash::from_slice(&content_hash)?))
}
