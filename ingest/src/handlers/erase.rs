//! Deletions: controls on the log (decision 5), and what became of them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use memori_event_log::{Topic, TopicPartition};
use memori_schemas::{EraseEntity, ForgetFact, Lane, LogRecordBody, MessageKey, TextHash, TripleHash, ids};
use memori_service::problem::{Answer, Problem};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::{path_id, traceparent, within};
use crate::app::Caller;
use crate::metrics;
use crate::new_event::MAX_ID_BYTES;
use crate::publish::{RETRY_AFTER_SECONDS, append, new_record, refusal};
use crate::state::{IngestState, Patience};

/// How long the writer may take for a look-up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the log may take to confirm a control.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the caller of a forget waits for its effect.
const FORGET_TIMEOUT: Duration = Duration::from_secs(10);

/// What a forget needs to know of its fact.
#[derive(Deserialize)]
struct Forgettable {
    entity_id: String,
    text_hash: String,
    #[serde(default)]
    triple_hash: Option<String>,
    message_keys: Vec<String>,
}

impl Forgettable {
    fn into_control(self, tenant: &str, fact_id: Uuid, state: &IngestState) -> Option<ForgetFact> {
        let bytes = |text: &str| hex::decode(text).ok();
        let triple_hash = match self.triple_hash {
            None => None,
            Some(text) => Some(TripleHash::from_slice(&bytes(&text)?)?),
        };
        Some(ForgetFact {
            tenant: tenant.to_owned(),
            entity_id: self.entity_id,
            forget_id: Uuid::now_v7().to_string(),
            fact_id: fact_id.to_string(),
            requested_at: state.acceptor.now(),
            text_hash: TextHash::from_slice(&bytes(&self.text_hash)?)?,
            triple_hash,
            message_keys: self.message_keys.iter().map(|key| MessageKey::from_slice(&bytes(key)?)).collect::<Option<_>>()?,
            key_id: None,
        })
    }
}

/// To whom deletions are their own to judge, once that has all that came before the deletion. Without a key that is all of everybody.
async fn passed_on(
    state: &IngestState,
    caller: &Caller,
    uri: &Uri,
    headers: &HeaderMap,
    key: Option<&[u8]>,
    patience: Option<Extension<Patience>>,
) -> Result<Response, Problem> {
    state.delivered(key, patience.map_or(CONTROL_TIMEOUT, |Extension(Patience(patience))| patience)).await?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let timeout = FORGET_TIMEOUT + Duration::from_secs(5);
    state.backend.forward(&caller.tenant, Method::DELETE, target, headers, Bytes::new(), timeout).await
}

/// `DELETE /v1/facts/{fact_id}`.
pub(crate) async fn forget_fact(
    State(state): State<Arc<IngestState>>,
    caller: Caller,
    uri: Uri,
    headers: HeaderMap,
    patience: Option<Extension<Patience>>,
) -> Result<Response, Problem> {
    if state.backend.takes_deletions() {
        // Whose fact it is only the platform knows.
        return passed_on(&state, &caller, &uri, &headers, None, patience).await;
    }
    let unknown = || Problem::not_found("no fact of this id is known");
    let fact_id = path_id(&uri, 2, "fact_id")?;
    let fact_id = Uuid::try_parse(&fact_id).map_err(|_| unknown())?;
    let tenant = &*caller.tenant;
    let found = state.backend.ask(tenant, &format!("/internal/v1/facts/{fact_id}/forget"), None, LOOKUP_TIMEOUT).await;
    let found = found.map_err(|error| error.to_problem())?.ok_or_else(unknown)?;
    let found: Forgettable = serde_json::from_value(found).map_err(|error| strange(&error))?;
    let control = found.into_control(tenant, fact_id, &state).ok_or_else(|| strange(&"hashes that are no hashes"))?;
    let (entity_id, forget_id) = (control.entity_id.clone(), control.forget_id.clone());
    publish(&state, tenant, &entity_id, LogRecordBody::ForgetFact(control), &headers).await?;
    metrics::control("forget");
    let timeout_ms = u64::try_from(FORGET_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
    let question = json!({"entity_id": entity_id, "forget_id": forget_id, "timeout_ms": timeout_ms});
    let waited =
        state.backend.ask(tenant, "/internal/v1/controls/wait", Some(&question), FORGET_TIMEOUT + Duration::from_secs(1)).await;
    match waited {
        Ok(Some(answer)) if answer["applied"] == true => Ok(StatusCode::NO_CONTENT.into_response()),
        _ => Err(Problem::unavailable(
            "the deletion stands, and is not applied yet; repeating it is harmless",
            RETRY_AFTER_SECONDS,
        )),
    }
}

/// `DELETE /v1/entities/{entity_id}`.
pub(crate) async fn erase_entity(
    State(state): State<Arc<IngestState>>,
    caller: Caller,
    uri: Uri,
    headers: HeaderMap,
    patience: Option<Extension<Patience>>,
) -> Result<Response, Problem> {
    let entity_id = path_id(&uri, 2, "entity_id")?;
    if state.backend.takes_deletions() {
        let key = ids::log_key(&caller.tenant, &entity_id);
        return passed_on(&state, &caller, &uri, &headers, Some(&key), patience).await;
    }
    if entity_id.is_empty() || entity_id.len() > MAX_ID_BYTES {
        return Err(Problem::invalid_field(
            "entity_id",
            format!("must be 1 to {MAX_ID_BYTES} bytes of UTF-8 and is {}", entity_id.len()),
        ));
    }
    let tenant = &*caller.tenant;
    let requested_at = state.acceptor.now();
    let partition = ids::partition_of(&ids::log_key(tenant, &entity_id), within(CONTROL_TIMEOUT, state.partitions()).await?);
    let control = EraseEntity {
        tenant: tenant.to_owned(),
        entity_id: entity_id.clone(),
        erasure_id: Uuid::now_v7().to_string(),
        requested_at,
        live_end_offset: end_offset(&state, Lane::Live, partition).await?,
        backfill_end_offset: end_offset(&state, Lane::Backfill, partition).await?,
        key_id: None,
    };
    let erasure_id = control.erasure_id.clone();
    publish(&state, tenant, &entity_id, LogRecordBody::EraseEntity(control), &headers).await?;
    metrics::control("erase");
    state.erasures.remember(tenant, &erasure_id, requested_at);
    Ok((StatusCode::ACCEPTED, Json(json!({"erasure_id": erasure_id}))).into_response())
}

async fn end_offset(state: &IngestState, lane: Lane, partition: i32) -> Answer<i64> {
    let asked = TopicPartition { topic: Topic::conversations(lane), partition };
    within(CONTROL_TIMEOUT, state.log.watermarks(asked)).await.map(|(_, end)| end)
}

async fn publish(state: &IngestState, tenant: &str, entity_id: &str, control: LogRecordBody, headers: &HeaderMap) -> Answer<()> {
    let record = new_record(Topic::Controls, tenant, entity_id, &control, traceparent(headers).as_deref())?;
    let appended = append(state.acceptor.publisher().producer(), vec![record], Some(CONTROL_TIMEOUT)).await;
    appended.into_iter().collect::<Result<Vec<()>, _>>().map(|_| ()).map_err(|error| refusal(&error))
}

/// `GET /v1/erasures/{erasure_id}`: the writer's receipt, else ours for what was accepted just now.
pub(crate) async fn receipt(State(state): State<Arc<IngestState>>, caller: Caller, uri: Uri) -> Result<Response, Problem> {
    let erasure_id = path_id(&uri, 2, "erasure_id")?;
    let tenant = &*caller.tenant;
    let pending = state.erasures.get(tenant, &erasure_id);
    let path = format!("/v1/erasures/{}", utf8_percent_encode(&erasure_id, NON_ALPHANUMERIC));
    let answer =
        state.backend.forward(tenant, Method::GET, &path, &HeaderMap::new(), bytes::Bytes::new(), LOOKUP_TIMEOUT).await?;
    match pending {
        Some(requested_at) if answer.status() == StatusCode::NOT_FOUND => {
            let receipt = json!({"erasure_id": erasure_id, "status": "pending", "requested_at": requested_at.to_rfc3339()});
            Ok(Json(receipt).into_response())
        }
        _ => Ok(answer),
    }
}

fn strange(error: &dyn std::fmt::Display) -> Problem {
    tracing::error!(%error, "the writer's answer about a fact is not as agreed");
    Problem::internal()
}
