//! `GET /v1/entities/{entity_id}/export`: everything known about an entity, a line of JSON each.
//!
//! Promises: messages in conversation order, then facts in the order of what words them; nothing in it depends on the order or
//! the time of arrival, nor on when it is asked for, so two exports of the same memory are the same bytes.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use memori_schemas::{ContentFormat, Micros, ids};
use memori_service::problem::Answer;
use serde_json::{Value, json};

use super::facts::{confidence, validity};
use super::request::{EntityId, QueryParameters, Tenant};
use super::{ApiState, unreadable};
use crate::recall::answer::ShownSource;
use crate::recall::{EntityImage, MessageImage};

/// Lines are sent in pieces of about so many bytes.
const PIECE_BYTES: usize = 64 << 10;

pub(super) async fn export(
    State(state): State<ApiState>,
    tenant: Tenant,
    EntityId(entity_id): EntityId,
    parameters: QueryParameters,
) -> Answer<Response> {
    parameters.finish()?;
    let entity_key = ids::entity_key(&tenant.0, &entity_id);
    let facts = state.recall.facts(&tenant.0, entity_key).await.map_err(unreadable)?;
    let messages = state.recall.messages(&tenant.0, entity_key).await.map_err(unreadable)?;
    // The images are immutable and shared: what is streamed is one instant of each, however slowly it is read.
    let mut next = 0;
    let pieces = std::iter::from_fn(move || {
        let mut piece = Vec::new();
        while piece.len() < PIECE_BYTES {
            let said = messages.conversation().len();
            let line = if next < said {
                message_line(&entity_id, &messages, messages.conversation()[next] as usize)
            } else if next - said < facts.len() {
                fact_line(&facts, next - said)
            } else {
                break;
            };
            next += 1;
            piece.extend_from_slice(line.to_string().as_bytes());
            piece.push(b'\n');
        }
        (!piece.is_empty()).then(|| Ok::<_, std::convert::Infallible>(Bytes::from(piece)))
    });
    let body = Body::from_stream(futures::stream::iter(pieces));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// Whatever `memori backfill` needs to make the same event again is in it.
fn message_line(entity_id: &str, image: &MessageImage, number: usize) -> Value {
    let message = image.message(number);
    // Parts are shown as the list that they are.
    let content = match message.content_format() {
        ContentFormat::Text => json!(message.content()),
        ContentFormat::Parts => serde_json::from_str(message.content()).unwrap_or_else(|_| json!(message.content())),
    };
    json!({
        "type": "message",
        "entity_id": entity_id,
        "message_id": message.message_id(),
        "event_id": message.event_id(),
        "message_index": message.message_index(),
        "session_id": image.session_id(number),
        "session_named": image.is_session_named(number),
        "process_id": message.process_id(),
        "role": message.role().as_str(),
        "name": message.name(),
        "content": content,
        "created_at": message.created_at_us().map(|at| Micros(at).to_rfc3339()),
        "occurred_at": Micros(message.occurred_at_us()).to_rfc3339(),
    })
}

fn fact_line(image: &EntityImage, number: usize) -> Value {
    let fact = image.fact(number);
    json!({
        "type": "fact",
        "fact_id": fact.fact_id().to_string(),
        "kind": fact.kind().as_str(),
        "content": fact.content(),
        "subject": fact.subject(),
        "predicate": fact.predicate(),
        "object": fact.object(),
        "confidence": confidence(fact.confidence()),
        "occurred_at": Micros(fact.occurred_at_us()).to_rfc3339(),
        "first_mentioned_at": Micros(fact.first_mentioned_at_us()).to_rfc3339(),
        "last_mentioned_at": Micros(fact.last_mentioned_at_us()).to_rfc3339(),
        "mentions": fact.mentions(),
        "validity": validity(fact.intervals()),
        "sources": fact.sources().map(|source| ShownSource::of(image, number, &source)).collect::<Vec<_>>(),
        "extractor": fact.extractor(),
        "generation": image.generation,
    })
}
