//! Extracting again: each withdrawn event goes onto the backfill lane as its next attempt, from its own record on the log.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use memori_event_log::{LogError, Topic, TopicPartition};
use memori_schemas::{ConversationEvent, Lane, LogRecordBody, Origin, framing};
use memori_service::problem::{Answer, Problem};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::super::{traceparent, within};
use super::{Asked, LOG_TIMEOUT, Request, ask, taken};
use crate::app::Caller;
use crate::metrics;
use crate::publish::{append, new_record, refusal};
use crate::redrive::{Copy, Refusal};
use crate::state::IngestState;

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

/// `POST /v1/admin/lineages/re-extract`.
pub(crate) async fn re_extract(
    State(state): State<Arc<IngestState>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let request = match taken(&state, &caller, "/v1/admin/lineages/re-extract", &headers, body, false).await? {
        Asked::This(request) => request,
        Asked::Elsewhere(answer) => return Ok(answer),
    };
    let end = Instant::now() + state.redrives.time;
    let (mut gone, mut looked_at) = (0_usize, 0_usize);
    let mut reasons: HashMap<&'static str, usize> = HashMap::new();
    let mut told = false;
    let mut cursor = request.cursor.clone();
    loop {
        let mut question = request.question(cursor.as_deref(), request.limit - looked_at);
        if !request.dry_run && !std::mem::replace(&mut told, true) {
            Request::name_act(&mut question, "facts.re_extract", request.tenant.as_deref().unwrap_or(&caller.tenant));
        }
        let page: Withdrawn = match ask(&state, &caller, "/internal/v1/lineages/withdrawn", question).await? {
            Asked::This(page) => page,
            Asked::Elsewhere(answer) => return Ok(answer),
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
    let read = within(LOG_TIMEOUT, async {
        match state.log.read(source, event.offset, 1).await {
            Err(LogError::BelowLogStart { .. }) => Ok(Vec::new()),
            answer => answer,
        }
    });
    let read = read.await?;
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
