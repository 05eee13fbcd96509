//! Withdrawing: one control per entity, in pages that the writer finds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures::future::join_all;
use http::HeaderMap;
use memori_event_log::{Topic, TopicPartition};
use memori_schemas::{Lane, LogRecordBody, WithdrawFacts, ids};
use memori_service::problem::{Answer, Problem};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::super::{traceparent, within};
use super::{Asked, LOG_TIMEOUT, Request, ask, taken};
use crate::app::Caller;
use crate::metrics;
use crate::publish::{append, new_record, refusal};
use crate::state::IngestState;

/// How long a call waits for its withdrawals to take effect, after each page.
const EFFECT_TIMEOUT_MS: u64 = 5_000;

#[derive(Deserialize)]
struct Entities {
    tenant: String,
    entities: Vec<Entity>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Entity {
    entity_id: String,
    events: i64,
}

/// The ends of a partition's facts topics.
async fn ends(state: &IngestState, partition: i32) -> Answer<(i64, i64)> {
    let of = |lane| TopicPartition { topic: Topic::facts(lane), partition };
    let (_, live) = within(LOG_TIMEOUT, state.log.watermarks(of(Lane::Live))).await?;
    let (_, backfill) = within(LOG_TIMEOUT, state.log.watermarks(of(Lane::Backfill))).await?;
    Ok((live, backfill))
}

/// `POST /v1/admin/lineages/withdraw`.
pub(crate) async fn withdraw(
    State(state): State<Arc<IngestState>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let request = match taken(&state, &caller, "/v1/admin/lineages/withdraw", &headers, body, true).await? {
        Asked::This(request) => request,
        Asked::Elsewhere(answer) => return Ok(answer),
    };
    let partitions = within(LOG_TIMEOUT, state.partitions()).await?;
    let end = Instant::now() + state.redrives.time;
    let withdrawal_id = request.withdrawal_id.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
    let (mut entities, mut events, mut applied) = (0_usize, 0_i64, 0_usize);
    let mut cursor = request.cursor.clone();
    let mut told = false;
    // What is extracted after it was asked for stands.
    let mut bounds: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    loop {
        let mut question = request.question(cursor.as_deref(), request.limit - entities);
        if !request.dry_run && !std::mem::replace(&mut told, true) {
            Request::name_act(&mut question, "facts.withdraw", &withdrawal_id);
        }
        let page: Entities = match ask(&state, &caller, "/internal/v1/lineages/entities", question).await? {
            Asked::This(page) => page,
            Asked::Elsewhere(answer) => return Ok(answer),
        };
        entities += page.entities.len();
        events += page.entities.iter().map(|entity| entity.events).sum::<i64>();
        if !request.dry_run {
            let mut records = Vec::with_capacity(page.entities.len());
            for Entity { entity_id, .. } in &page.entities {
                let partition = ids::partition_of(&ids::log_key(&page.tenant, entity_id), partitions);
                let (live_end_offset, backfill_end_offset) = match bounds.get(&partition) {
                    Some(ends) => *ends,
                    None => {
                        let found = ends(&state, partition).await?;
                        bounds.insert(partition, found);
                        found
                    }
                };
                let control = WithdrawFacts {
                    tenant: page.tenant.clone(),
                    entity_id: entity_id.clone(),
                    withdrawal_id: withdrawal_id.clone(),
                    requested_at: state.acceptor.now(),
                    extractor: request.selected("extractor"),
                    version: request.selected("version"),
                    model: request.selected("model"),
                    prompt_hash: request.selected("prompt_hash"),
                    generation: request.selection.get("generation").and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok()),
                    live_end_offset,
                    backfill_end_offset,
                    key_id: None,
                };
                let body = LogRecordBody::WithdrawFacts(control);
                records.push(new_record(Topic::Controls, &page.tenant, entity_id, &body, traceparent(&headers).as_deref())?);
            }
            let appended = append(state.acceptor.publisher().producer(), records, Some(LOG_TIMEOUT)).await;
            appended.into_iter().collect::<Result<Vec<()>, _>>().map_err(|error| refusal(&error))?;
            page.entities.iter().for_each(|_| metrics::control("withdraw"));
            applied += take_effect(&state, &page, &withdrawal_id).await;
        }
        cursor = page.next_cursor;
        if cursor.is_none() || entities >= request.limit || Instant::now() >= end {
            break;
        }
    }
    Ok(Json(json!({
        "dry_run": request.dry_run,
        "withdrawal_id": (!request.dry_run).then_some(withdrawal_id),
        "entities": entities,
        "events": events,
        "applied": applied,
        "next_cursor": cursor,
    }))
    .into_response())
}

/// Of how many of these entities the withdrawal is applied, after a while.
async fn take_effect(state: &IngestState, page: &Entities, withdrawal_id: &str) -> usize {
    let waiting = page.entities.iter().map(|entity| async move {
        let question = json!({"entity_id": entity.entity_id, "withdrawal_id": withdrawal_id, "timeout_ms": EFFECT_TIMEOUT_MS});
        let patience = Duration::from_millis(EFFECT_TIMEOUT_MS) + Duration::from_secs(1);
        let asked = state.backend.ask(&page.tenant, "/internal/v1/controls/wait", Some(&question), patience).await;
        matches!(asked, Ok(Some(answer)) if answer["applied"] == true)
    });
    join_all(waiting).await.into_iter().filter(|applied| *applied).count()
}
