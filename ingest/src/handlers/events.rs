//! Posting events, asking for their status, waiting for their ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri};
use memori_schemas::Lane;
use memori_service::problem::{Answer, ContentKind, Problem, content_kind};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{path_id, traceparent};
use crate::accept::Outcome;
use crate::app::{Caller, out_of_binding};
use crate::backend::BackendError;
use crate::events::{self, Item, MAX_BATCH_BYTES, MAX_EVENT_IDS, WaitRequest};
use crate::flush::Awaited;
use crate::limits::HeldBody;
use crate::metrics;
use crate::new_event::{MAX_EVENT_BYTES, is_event_id};
use crate::state::IngestState;
use crate::tenants::quotas::Refusal;

/// Bodies above this are taken apart on a thread that may block.
const SMALL_BODY_BYTES: usize = 128 * 1024;
/// How long the writer may take to say what it knows of an event.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the writer may take beyond the wait that it was asked for.
const WAIT_GRACE: Duration = Duration::from_secs(5);
/// How long to pause before the writer is asked again.
const WAIT_PAUSE: Duration = Duration::from_millis(200);
/// When a wait looks where its events are: at once, and later for those that another replica took, which the writer knows soon.
const LOOKS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_secs(1)];
/// How long the writer may take beyond such a look.
const LOOK_GRACE: Duration = Duration::from_secs(1);
/// A `wait` of 1,000 ids of 128 characters, each of them escaped, fits.
const MAX_WAIT_BYTES: usize = 4 << 20;

/// `POST /v1/events`.
pub(crate) async fn post_one(
    State(state): State<Arc<IngestState>>,
    caller: Caller,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let lane = lane_of(&uri).inspect_err(|problem| metrics::rejected(problem.status))?;
    let reading = async {
        if content_kind(&headers) != Some(ContentKind::Json) {
            return Err(Problem::unsupported_media_type("application/json in UTF-8"));
        }
        let held = state.limits.read(&headers, body, MAX_EVENT_BYTES).await?;
        off_the_runtime(held, events::read_event).await?
    };
    let admitted = async {
        let event = reading.await?;
        if !caller.binding.covers(&event.entity_id) {
            return Err(out_of_binding());
        }
        match taken(&state, &caller.tenant, 1).await {
            (0, Some(refusal)) => Err(refusal.to_problem()),
            _ => Ok(event),
        }
    };
    let event = admitted.await.inspect_err(|problem: &Problem| metrics::rejected(problem.status))?;
    let accepted = state.acceptor.accept(Arc::clone(&caller.tenant), vec![event], lane, traceparent(&headers)).await;
    let (event_id, outcome) = accepted.into_iter().next().ok_or_else(Problem::internal)?;
    let (status, durable_in) = match outcome {
        Outcome::Accepted(durable_in) => ("accepted", durable_in),
        Outcome::Duplicate(durable_in) => ("duplicate", durable_in),
        Outcome::Refused(problem) => return Err(problem),
    };
    let answer = json!({"event_id": event_id, "status": status, "durable_in": durable_in.as_str()});
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

/// The lane that a request names: history goes where it does not hold up the present.
fn lane_of(uri: &Uri) -> Answer<Lane> {
    let mut lane = None;
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
        if name != "lane" {
            return Err(Problem::invalid_field(memori_service::problem::join("", &name), "is not a known parameter"));
        }
        let given = Lane::parse(value).ok_or_else(|| Problem::invalid_field("lane", "must be live or backfill"))?;
        if lane.replace(given).is_some() {
            return Err(Problem::invalid_field("lane", "is there more than once"));
        }
    }
    Ok(lane.unwrap_or(Lane::Live))
}

/// `POST /v1/events/batch`.
pub(crate) async fn post_batch(
    State(state): State<Arc<IngestState>>,
    caller: Caller,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let lane = lane_of(&uri).inspect_err(|problem| metrics::rejected(problem.status))?;
    let reading = async {
        let kind = content_kind(&headers)
            .ok_or_else(|| Problem::unsupported_media_type("application/json or application/x-ndjson in UTF-8"))?;
        let held = state.limits.read(&headers, body, MAX_BATCH_BYTES).await?;
        let read = match kind {
            ContentKind::Json => events::read_batch,
            ContentKind::NdJson => events::read_ndjson,
        };
        off_the_runtime(held, read).await?
    };
    let items: Vec<Item> = reading.await.inspect_err(|problem: &Problem| metrics::rejected(problem.status))?;

    let mut results: Vec<Option<Value>> = vec![None; items.len()];
    let mut places = Vec::with_capacity(items.len());
    let mut valid = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        match item {
            Ok(event) if !caller.binding.covers(&event.entity_id) => {
                let problem = out_of_binding();
                metrics::rejected(problem.status);
                results[index] = Some(rejected(index, event.event_id.as_deref(), &problem));
            }
            Ok(event) => {
                places.push(index);
                valid.push(event);
            }
            Err((event_id, problem)) => {
                metrics::rejected(problem.status);
                results[index] = Some(rejected(index, event_id.as_deref(), &problem));
            }
        }
    }
    if let (count, Some(refusal)) = taken(&state, &caller.tenant, valid.len()).await {
        let problem = refusal.to_problem();
        // Nothing can go: then the whole request comes again later. Else what came last does.
        if count == 0 {
            metrics::rejected(problem.status);
            return Err(problem);
        }
        for (index, event) in places.drain(count..).zip(valid.drain(count..)) {
            metrics::rejected(problem.status);
            results[index] = Some(rejected(index, event.event_id.as_deref(), &problem));
        }
    }
    let outcomes = state.acceptor.accept(Arc::clone(&caller.tenant), valid, lane, traceparent(&headers)).await;
    for (index, (event_id, outcome)) in places.into_iter().zip(outcomes) {
        results[index] = Some(match outcome {
            Outcome::Accepted(durable_in) => {
                json!({"index": index, "event_id": event_id, "status": "accepted", "durable_in": durable_in.as_str()})
            }
            Outcome::Duplicate(durable_in) => {
                json!({"index": index, "event_id": event_id, "status": "duplicate", "durable_in": durable_in.as_str()})
            }
            Outcome::Refused(problem) => rejected(index, Some(&event_id), &problem),
        });
    }
    Ok(Json(json!({"results": results})))
}

/// How many of a tenant's events its quotas let in; where not all, why.
async fn taken(state: &IngestState, tenant: &str, wanted: usize) -> (usize, Option<Refusal>) {
    match &state.standings {
        Some(standings) if wanted > 0 => standings.events(tenant, wanted, || state.spool_level(tenant)).await,
        _ => (wanted, None),
    }
}

fn rejected(index: usize, event_id: Option<&str>, problem: &Problem) -> Value {
    json!({"index": index, "event_id": event_id, "status": "rejected", "error": problem.to_json()})
}

/// Takes a body apart; a large one on a thread that may block. The body's share of the bytes in flight ends afterwards.
async fn off_the_runtime<T: Send + 'static>(held: HeldBody, read: fn(&[u8]) -> T) -> Answer<T> {
    if held.bytes.len() <= SMALL_BODY_BYTES {
        return Ok(read(&held.bytes));
    }
    tokio::task::spawn_blocking(move || read(&held.bytes)).await.map_err(|error| {
        tracing::error!(%error, "reading a body ended early");
        Problem::internal()
    })
}

/// `GET /v1/events/{event_id}`: the writer's word, else ours for what was accepted just now.
pub(crate) async fn status(State(state): State<Arc<IngestState>>, caller: Caller, uri: Uri) -> Result<Json<Value>, Problem> {
    let event_id = path_id(&uri, 2, "event_id")?;
    let unknown = || Problem::not_found("no event of this id is known");
    if !is_event_id(&event_id) {
        return Err(unknown());
    }
    let tenant = &*caller.tenant;
    // Looked up before the writer is asked: an event that moves on in between is then known there.
    let accepted_at = state.acceptor.accepted_at(tenant, &event_id);
    let question = json!({"event_ids": [event_id]});
    let answer = state.backend.ask(tenant, "/internal/v1/events/status", Some(&question), STATUS_TIMEOUT).await;
    let known = match answer {
        Ok(answer) => answer.as_ref().and_then(|answer| answer["events"].get(0)).and_then(Value::as_object).cloned(),
        Err(error) if accepted_at.is_none() => return Err(error.to_problem()),
        Err(error) => {
            tracing::debug!(%error, "status without the writer");
            None
        }
    };
    let mut event = match (known, accepted_at) {
        (Some(known), _) => known,
        (None, Some(accepted_at)) => {
            let mut event = Map::new();
            event.insert("event_id".into(), event_id.as_str().into());
            event.insert("status".into(), "accepted".into());
            event.insert("accepted_at".into(), accepted_at.to_rfc3339().into());
            event.insert("facts".into(), 0.into());
            event
        }
        (None, None) => return Err(unknown()),
    };
    state.note_extracting(tenant, &event_id, event.get_mut("status"));
    Ok(Json(Value::Object(event)))
}

/// `POST /v1/events/wait`: woken by the writer, asked again while it is away.
pub(crate) async fn wait(
    State(state): State<Arc<IngestState>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    if content_kind(&headers) != Some(ContentKind::Json) {
        return Err(Problem::unsupported_media_type("application/json in UTF-8"));
    }
    let held = state.limits.read(&headers, body, MAX_WAIT_BYTES).await?;
    let request = events::read_wait(&held.bytes)?;
    drop(held);
    debug_assert!(request.event_ids.len() <= MAX_EVENT_IDS);
    let tenant = &*caller.tenant;
    let end = Instant::now() + Duration::from_millis(request.timeout_ms);
    let mut answer = tokio::select! {
        answer = until_final(&state, &caller.tenant, &request, end) => answer?,
        () = state.draining.cancelled() => return Err(Problem::unavailable("this process is stopping; wait at another", 1)),
    };
    let complete = answer["complete"].as_bool().unwrap_or(false);
    let statuses: HashMap<String, Value> = answer["events"]
        .as_array_mut()
        .map(std::mem::take)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|mut event| Some((event["event_id"].as_str()?.to_owned(), event["status"].take())))
        .collect();
    // One answer per id as it was asked, repeats included.
    let shown: Vec<Value> = request
        .event_ids
        .iter()
        .map(|event_id| {
            let mut status = statuses.get(event_id).cloned().unwrap_or_else(|| "unknown".into());
            if status == "unknown" && state.acceptor.accepted_at(tenant, event_id).is_some() {
                status = "accepted".into();
            }
            state.note_extracting(tenant, event_id, Some(&mut status));
            json!({"event_id": event_id, "status": status})
        })
        .collect();
    Ok(Json(json!({"complete": complete, "events": shown})))
}

/// Waits until `end` for the writer to say that all are final. Where windows may be open, the worker is asked first to begin with those
/// that hold any of them.
async fn until_final(state: &IngestState, tenant: &Arc<str>, request: &WaitRequest, end: Instant) -> Answer<Value> {
    if let Some(flushes) = state.flushes.as_ref().filter(|_| request.flush && request.timeout_ms > 0) {
        for pause in LOOKS {
            let until = end.min(Instant::now() + pause);
            let left = until.saturating_duration_since(Instant::now());
            let question =
                json!({"event_ids": request.event_ids, "timeout_ms": u64::try_from(left.as_millis()).unwrap_or(u64::MAX)});
            let looking = state.backend.ask(tenant, "/internal/v1/events/wait", Some(&question), left + LOOK_GRACE);
            // Without the writer it goes by what the door remembers.
            let answer = looking.await.ok().flatten().unwrap_or_default();
            if answer["complete"] == true {
                return Ok(answer);
            }
            let (awaited, unplaced) = awaited(state, tenant, &request.event_ids, &answer);
            flushes.ask(tenant, &awaited, state.acceptor.now());
            if unplaced == 0 {
                break;
            }
        }
    }
    ask_to_wait(state, tenant, &request.event_ids, end).await
}

/// Those of `event_ids` that are not final by the writer's answer, where they are; and how many are nobody knows where.
fn awaited(state: &IngestState, tenant: &str, event_ids: &[String], answer: &Value) -> (Vec<Awaited>, usize) {
    let told: HashMap<&str, &Value> = answer["events"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|event| Some((event["event_id"].as_str()?, event)))
        .collect();
    let mut awaited: Vec<Awaited> = Vec::new();
    let mut unplaced = 0;
    for event_id in event_ids {
        let event = told.get(event_id.as_str());
        let status = event.and_then(|event| event["status"].as_str()).unwrap_or("unknown");
        if !matches!(status, "accepted" | "unknown") {
            continue;
        }
        let mut places = Vec::from_iter(event.and_then(|event| Awaited::of_writer(event)));
        if places.is_empty() {
            places = state.acceptor.on_the_log(tenant, event_id);
        }
        unplaced += usize::from(places.is_empty());
        for place in places {
            // Of one entity and lane the latest says enough.
            match awaited.iter_mut().find(|known| known.entity_id == place.entity_id && known.lane == place.lane) {
                Some(known) => known.accepted_at = known.accepted_at.max(place.accepted_at),
                None => awaited.push(place),
            }
        }
    }
    (awaited, unplaced)
}

/// Asks the writer to wait until `end`, and asks again while it is away.
async fn ask_to_wait(state: &IngestState, tenant: &str, event_ids: &[String], end: Instant) -> Answer<Value> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let question = json!({"event_ids": event_ids, "timeout_ms": left_ms});
        match state.backend.ask(tenant, "/internal/v1/events/wait", Some(&question), left + WAIT_GRACE).await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {
                let missing = BackendError::Unexpected { status: StatusCode::NOT_FOUND, detail: "to a wait".into() };
                return Err(missing.to_problem());
            }
            // The writer is away, or its store is, or too many wait there already.
            Err(
                error @ (BackendError::Unreachable(_) | BackendError::Unexpected { status: StatusCode::SERVICE_UNAVAILABLE, .. }),
            ) if Instant::now() + WAIT_PAUSE < end => {
                tracing::debug!(%error, "waiting for the writer itself");
                tokio::time::sleep(WAIT_PAUSE).await;
            }
            Err(error) => return Err(error.to_problem()),
        }
    }
}
