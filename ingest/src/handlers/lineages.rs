//! Withdrawing what a lineage made, and having it extracted again. The writer knows which entities and events; ingest owns producing.
//!
//! A call is bounded in entities or events and in time; where it ended, it says, so that the next call goes on. Repeating one is harmless:
//! what is withdrawn is not found again, and a copy that went is under way.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures::future::join_all;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use memori_event_log::{LogError, Topic, TopicPartition};
use memori_schemas::{ConversationEvent, Lane, LogRecordBody, Origin, WithdrawFacts, framing, ids};
use memori_service::problem::{Answer, ContentKind, FieldErrors, Fields, Problem, content_kind, parse_json};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::traceparent;
use crate::app::Caller;
use crate::backend::ACTOR_HEADER;
use crate::metrics;
use crate::publish::{RETRY_AFTER_SECONDS, append, new_record, refusal};
use crate::redrive::{Copy, Refusal};
use crate::state::IngestState;

const MAX_BODY_BYTES: usize = 64 << 10;
/// Bytes of a name.
const MAX_NAME: usize = 512;
/// Entities, or events, of one question to the writer.
const PAGE: usize = 100;
/// Entities, or events, of one call.
const MAX_OF_CALL: i64 = 10_000;
/// Bytes of the writer's answer.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// How long the writer may take.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the log may take to confirm, or to be read.
const LOG_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call waits for its withdrawals to take effect, after each page.
const EFFECT_TIMEOUT_MS: u64 = 5_000;

/// What was asked: a selection of lineages and how to go about it.
struct Request {
    tenant: Option<String>,
    /// As the writer takes it.
    selection: Map<String, Value>,
    withdrawal_id: Option<String>,
    cursor: Option<String>,
    limit: usize,
    dry_run: bool,
}

const SELECTORS: [&str; 4] = ["extractor", "version", "model", "prompt_hash"];

impl Request {
    fn read(bytes: &[u8], withdraws: bool) -> Answer<Self> {
        let mut errors = FieldErrors::default();
        let Some(mut fields) = Fields::of(parse_json(bytes)?, "", &mut errors) else { return Err(errors.into_problem()) };
        let mut selection = Map::new();
        for name in SELECTORS {
            if let Some(text) = fields.text(name, 1..=MAX_NAME) {
                selection.insert(name.to_owned(), text.into());
            }
        }
        if let Some(generation) = fields.integer("generation", 1..=i32::MAX.into()) {
            selection.insert("generation".to_owned(), generation.into());
        }
        let request = Self {
            tenant: fields.text("tenant", 1..=MAX_NAME),
            withdrawal_id: if withdraws { fields.text("withdrawal_id", 1..=128) } else { None },
            cursor: fields.text("cursor", 1..=4_096),
            limit: fields.integer("limit", 1..=MAX_OF_CALL).and_then(|n| usize::try_from(n).ok()).unwrap_or(1_000),
            dry_run: fields.boolean("dry_run").unwrap_or(false),
            selection,
        };
        if withdraws && request.selection.is_empty() && fields.errors().is_empty() {
            fields.broken("extractor", "name at least one of extractor, version, model, prompt_hash, generation");
        }
        fields.finish();
        errors.into_result(request)
    }

    fn question(&self, cursor: Option<&str>, left: usize) -> Map<String, Value> {
        let mut question = self.selection.clone();
        question.insert("limit".into(), left.min(PAGE).into());
        if let Some(tenant) = &self.tenant {
            question.insert("tenant".into(), tenant.as_str().into());
        }
        if let Some(cursor) = cursor {
            question.insert("cursor".into(), cursor.into());
        }
        question
    }

    fn selected(&self, name: &str) -> Option<String> {
        self.selection.get(name).and_then(Value::as_str).map(str::to_owned)
    }
}

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

#[derive(Deserialize)]
struct Withdrawn {
    tenant: String,
    events: Vec<Event>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Event {
    entity_id: String,
    event_id: String,
    content_hash: String,
    attempt: i32,
    lane: String,
    partition: i32,
    offset: i64,
}

/// The writer's answer, or its own refusal.
enum Asked<T> {
    Answer(T),
    Refused(Response),
}

async fn ask<T: serde::de::DeserializeOwned>(
    state: &IngestState,
    caller: &Caller,
    path: &str,
    question: Map<String, Value>,
) -> Answer<Asked<T>> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let actor = match caller.key {
        Some(key) => key.to_string(),
        None if state.keys.has_keys() => "keys-file".to_owned(),
        None => "no-key".to_owned(),
    };
    if let Ok(actor) = HeaderValue::from_str(&actor) {
        headers.insert(ACTOR_HEADER, actor);
    }
    let body = bytes::Bytes::from(Value::Object(question).to_string());
    let answer = state.backend.forward(&caller.tenant, Method::POST, path, &headers, body, READ_TIMEOUT).await?;
    if answer.status().is_client_error() {
        return Ok(Asked::Refused(answer));
    }
    let status = answer.status();
    let bytes = axum::body::to_bytes(answer.into_body(), MAX_ANSWER_BYTES).await.unwrap_or_default();
    if status != StatusCode::OK {
        return Err(Problem::unavailable("the writer, which knows the lineages, does not answer now", 1));
    }
    match serde_json::from_slice(&bytes) {
        Ok(answer) => Ok(Asked::Answer(answer)),
        Err(error) => {
            tracing::error!(%error, "the writer's answer about lineages is not as agreed");
            Err(Problem::internal())
        }
    }
}

fn log_away(error: &dyn std::fmt::Display) -> Problem {
    tracing::warn!(%error, "the log is not reachable for a withdrawal");
    Problem::unavailable("the log is not reachable now", RETRY_AFTER_SECONDS)
}

async fn within<T>(asking: impl Future<Output = Result<T, LogError>>) -> Answer<T> {
    match tokio::time::timeout(LOG_TIMEOUT, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(log_away(&error)),
        Err(late) => Err(log_away(&late)),
    }
}

/// The ends of a partition's facts topics.
async fn ends(state: &IngestState, partition: i32) -> Answer<(i64, i64)> {
    let of = |lane| TopicPartition { topic: Topic::facts(lane), partition };
    let (_, live) = within(state.log.watermarks(of(Lane::Live))).await?;
    let (_, backfill) = within(state.log.watermarks(of(Lane::Backfill))).await?;
    Ok((live, backfill))
}

/// What a platform elsewhere does itself.
async fn passed_on(
    state: &IngestState,
    caller: &Caller,
    path: &str,
    headers: &HeaderMap,
    body: bytes::Bytes,
) -> Result<Response, Problem> {
    state.backend.forward(&caller.tenant, Method::POST, path, headers, body, 2 * READ_TIMEOUT).await
}

/// `POST /v1/admin/lineages/withdraw`.
pub(crate) async fn withdraw(
    State(state): State<Arc<IngestState>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if content_kind(&headers) != Some(ContentKind::Json) {
        return Err(Problem::unsupported_media_type("application/json in UTF-8"));
    }
    let held = state.limits.read(&headers, body, MAX_BODY_BYTES).await?;
    if state.backend.takes_deletions() {
        return passed_on(&state, &caller, "/v1/admin/lineages/withdraw", &headers, held.bytes.clone()).await;
    }
    let request = Request::read(&held.bytes, true)?;
    drop(held);
    let partitions = within(state.partitions()).await?;
    let end = Instant::now() + state.redrives.time;
    let withdrawal_id = request.withdrawal_id.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
    let (mut entities, mut events, mut applied) = (0_usize, 0_i64, 0_usize);
    let mut cursor = request.cursor.clone();
    // What is extracted after it was asked for stands.
    let mut bounds: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    loop {
        let mut question = request.question(cursor.as_deref(), request.limit - entities);
        if !request.dry_run && entities == 0 && request.withdrawal_id.is_none() {
            question.insert("act".into(), "facts.withdraw".into());
            question.insert("subject".into(), withdrawal_id.as_str().into());
        }
        let page: Entities = match ask(&state, &caller, "/internal/v1/lineages/entities", question).await? {
            Asked::Answer(page) => page,
            Asked::Refused(answer) => return Ok(answer),
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

/// `POST /v1/admin/lineages/re-extract`.
pub(crate) async fn re_extract(
    State(state): State<Arc<IngestState>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if content_kind(&headers) != Some(ContentKind::Json) {
        return Err(Problem::unsupported_media_type("application/json in UTF-8"));
    }
    let held = state.limits.read(&headers, body, MAX_BODY_BYTES).await?;
    if state.backend.takes_deletions() {
        return passed_on(&state, &caller, "/v1/admin/lineages/re-extract", &headers, held.bytes.clone()).await;
    }
    let request = Request::read(&held.bytes, false)?;
    drop(held);
    let end = Instant::now() + state.redrives.time;
    let (mut gone, mut looked_at) = (0_usize, 0_usize);
    let mut reasons: HashMap<&'static str, usize> = HashMap::new();
    let mut cursor = request.cursor.clone();
    loop {
        let question = request.question(cursor.as_deref(), request.limit - looked_at);
        let page: Withdrawn = match ask(&state, &caller, "/internal/v1/lineages/withdrawn", question).await? {
            Asked::Answer(page) => page,
            Asked::Refused(answer) => return Ok(answer),
        };
        let allowed = if request.dry_run { page.events.len() } else { allowance(&state, page.events.len(), end).await };
        if allowed < page.events.len() {
            // The page is asked for again by the next call.
            state.redrives.give_back(allowed);
            break;
        }
        looked_at += page.events.len();
        let mut copies = Vec::with_capacity(page.events.len());
        for event in &page.events {
            match copy(&state, &page.tenant, event).await? {
                Ok(copy) if request.dry_run || state.redrives.begin(Copy::of(&copy)) => copies.push(copy),
                Ok(_) => *reasons.entry(Refusal::UnderWay.as_str()).or_default() += 1,
                Err(refusal) => *reasons.entry(refusal.as_str()).or_default() += 1,
            }
        }
        gone += copies.len();
        if !request.dry_run {
            let mut records = Vec::with_capacity(copies.len());
            for copy in &copies {
                let body = LogRecordBody::Conversation(copy.clone());
                let topic = Topic::ConversationsBackfill;
                records.push(new_record(topic, &copy.tenant, &copy.entity_id, &body, traceparent(&headers).as_deref())?);
            }
            let appended = append(state.acceptor.publisher().producer(), records, Some(LOG_TIMEOUT)).await;
            let mut failed = None;
            for (copy, result) in copies.iter().zip(appended) {
                if let Err(error) = result {
                    state.redrives.failed(&Copy::of(copy));
                    failed = Some(error);
                }
            }
            if let Some(error) = failed {
                return Err(refusal(&error));
            }
            metrics::redriven(Lane::Backfill, copies.len());
        }
        cursor = page.next_cursor;
        if cursor.is_none() || looked_at >= request.limit || Instant::now() >= end {
            break;
        }
    }
    Ok(Json(json!({
        "dry_run": request.dry_run,
        "events": gone,
        "refused": reasons.values().sum::<usize>(),
        "reasons": reasons,
        "next_cursor": cursor,
    }))
    .into_response())
}

/// How many may go: all, once there is room for them, or none before the call's end.
async fn allowance(state: &IngestState, wanted: usize, end: Instant) -> usize {
    let mut allowed = 0;
    while allowed < wanted {
        match state.redrives.take(wanted - allowed) {
            Ok(more) => allowed += more,
            Err(wait) if Instant::now() + wait < end => tokio::time::sleep(wait).await,
            Err(_) => break,
        }
    }
    allowed
}

/// The event's next attempt, from its own record on the log; or why it does not go.
async fn copy(state: &IngestState, tenant: &str, event: &Event) -> Answer<Result<ConversationEvent, Refusal>> {
    let Some(lane) = Lane::parse(&event.lane) else { return Ok(Err(Refusal::Unreadable)) };
    let source = TopicPartition { topic: Topic::conversations(lane), partition: event.partition };
    let read = match tokio::time::timeout(LOG_TIMEOUT, state.log.read(source, event.offset, 1)).await {
        Ok(Ok(records)) => records,
        Ok(Err(LogError::BelowLogStart { .. })) => return Ok(Err(Refusal::NotInLog)),
        Ok(Err(error)) => return Err(log_away(&error)),
        Err(late) => return Err(log_away(&late)),
    };
    let Some(record) = read.into_iter().find(|record| record.offset == event.offset) else {
        return Ok(Err(Refusal::NotInLog));
    };
    let Ok(LogRecordBody::Conversation(mut copy)) = framing::decode(&record.payload) else {
        return Ok(Err(Refusal::Unreadable));
    };
    let is_that = copy.tenant == tenant
        && copy.entity_id == event.entity_id
        && copy.event_id == event.event_id
        && copy.content_hash.to_string() == event.content_hash;
    if !is_that {
        return Ok(Err(Refusal::OtherLog));
    }
    if copy.key_id.is_some() {
        return Ok(Err(Refusal::Sealed));
    }
    copy.attempt = event.attempt.max(copy.attempt).saturating_add(1);
    copy.origin = copy.origin.or(Some(Origin { lane, offset: event.offset }));
    Ok(Ok(copy))
}
