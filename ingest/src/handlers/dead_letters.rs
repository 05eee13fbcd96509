//! Redriving: the writer says what ends in a dead letter, the log takes it again. Listing and showing are reads, passed on as others.
//!
//! A call is bounded in letters, in time and in how fast events go; what it did not come to, it names, so that the next call goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use memori_event_log::{AppendError, LogError, LogIdentity, NewRecord, Topic, TopicPartition};
use memori_schemas::{ConversationEvent, Lane, LogRecordBody};
use memori_service::problem::{Answer, ContentKind, FieldErrors, Fields, Problem, content_kind, parse_json};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{traceparent, within};
use crate::app::Caller;
use crate::audit;
use crate::metrics;
use crate::publish::{RETRY_AFTER_SECONDS, append, new_record};
use crate::redrive::{self, Candidate, Copy, Refusal, Wanted};
use crate::state::IngestState;

/// Bytes of a request: a thousand ids.
const MAX_BODY_BYTES: usize = 2 << 20;
/// Letters of one call.
const MAX_LETTERS: i64 = 1_000;
/// Bytes of the writer's answer: records within its own bound, in base64.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// How long the writer may take to hand letters out.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the log may take to confirm, or to be read.
const LOG_TIMEOUT: Duration = Duration::from_secs(10);
/// Events that go onto the log together.
const TOGETHER: usize = 50;

/// What was asked.
struct Request {
    /// Those that are left, or `None` where a filter finds them.
    ids: Option<Vec<Value>>,
    filter: Option<Value>,
    cursor: Option<Value>,
    limit: usize,
    to_lane: Option<Lane>,
    dry_run: bool,
}

impl Request {
    /// What the writer reads, the writer judges.
    fn read(bytes: &[u8]) -> Answer<Self> {
        let mut errors = FieldErrors::default();
        let Some(mut fields) = Fields::of(parse_json(bytes)?, "", &mut errors) else { return Err(errors.into_problem()) };
        let to_lane = fields.parsed("to_lane", "backfill (without it, events go to the lane that they were in)", |text| {
            Lane::parse(text).filter(|lane| *lane == Lane::Backfill)
        });
        let dry_run = fields.boolean("dry_run").unwrap_or(false);
        let limit = fields.integer("limit", 1..=MAX_LETTERS).unwrap_or(MAX_LETTERS);
        let ids = fields.list("ids", 1..=usize::try_from(MAX_LETTERS).unwrap_or(1));
        let (filter, cursor) = (fields.take("filter"), fields.take("cursor"));
        match (&ids, &filter) {
            (None, None) if fields.errors().is_empty() => {
                fields.broken("ids", "is required, or `filter` (an empty one means all)")
            }
            (Some(_), Some(_)) => fields.broken("filter", "does not go with `ids`"),
            (Some(_), None) if cursor.is_some() => fields.broken("cursor", "does not go with `ids`"),
            _ => {}
        }
        fields.finish();
        errors.into_result(Self { ids, filter, cursor, limit: usize::try_from(limit).unwrap_or(1), to_lane, dry_run })
    }

    /// What the audit log says of it.
    fn told(&self) -> Value {
        match &self.ids {
            Some(ids) => json!({"ids": ids.len(), "to_lane": self.to_lane}),
            None => json!({"filter": self.filter, "to_lane": self.to_lane}),
        }
    }

    fn question(&self, left: usize) -> Value {
        let mut question = Map::new();
        question.insert("limit".into(), left.into());
        match &self.ids {
            Some(ids) => question.insert("ids".into(), ids[..ids.len().min(left)].into()),
            None => question.insert("filter".into(), self.filter.clone().unwrap_or_else(|| json!({}))),
        };
        if let Some(cursor) = &self.cursor {
            question.insert("cursor".into(), cursor.clone());
        }
        question.into()
    }
}

#[derive(Deserialize)]
struct HandedOut {
    letters: Vec<Candidate>,
    next_cursor: Option<String>,
}

/// What came of a call so far.
#[derive(Default)]
struct Report {
    redriven: usize,
    refused: usize,
    reasons: BTreeMap<&'static str, usize>,
    results: Vec<Value>,
    /// Why it ended early.
    stopped: Option<&'static str>,
}

impl Report {
    fn refuse(&mut self, letter: &Candidate, event: Option<usize>, refusal: Refusal) {
        self.refused += 1;
        *self.reasons.entry(refusal.as_str()).or_default() += 1;
        self.results.push(json!({
            "id": letter.id,
            "event_id": event.and_then(|number| letter.events.get(number)).map(|event| &event.event_id),
            "result": "refused",
            "reason": refusal.as_str(),
            "detail": refusal.detail(),
        }));
    }

    fn redriven(&mut self, going: &Going<'_>, dry_run: bool) {
        self.redriven += 1;
        self.results.push(json!({
            "id": going.letter.id,
            "event_id": going.event.event_id,
            "result": if dry_run { "would_redrive" } else { "redriven" },
            "attempt": going.event.attempt,
            "lane": going.lane.as_str(),
        }));
    }
}

/// A copy that is about to go.
struct Going<'a> {
    letter: &'a Candidate,
    /// The place of its event in the letter.
    number: Option<usize>,
    event: ConversationEvent,
    lane: Lane,
}

/// `POST /v1/admin/dead-letters/redrive`.
pub(crate) async fn redrive(
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
        // A platform redrives its own.
        let path = "/v1/admin/dead-letters/redrive";
        return state.backend.forward(&caller.tenant, Method::POST, path, &headers, held.bytes.clone(), 2 * READ_TIMEOUT).await;
    }
    let mut request = Request::read(&held.bytes)?;
    drop(held);
    let identity = within(LOG_TIMEOUT, state.log.identity()).await?;
    let call = Call {
        state: &state,
        tenant: &caller.tenant,
        identity,
        traceparent: traceparent(&headers),
        to_lane: request.to_lane,
        dry_run: request.dry_run,
        end: Instant::now() + state.redrives.time,
    };
    let mut report = Report::default();
    let (mut left, mut told) = (request.limit, request.dry_run);
    loop {
        let handed = match call.ask(&request.question(left)).await? {
            Asked::Letters(handed) => handed,
            // Nothing has been done yet: the first question is judged as a whole.
            Asked::Refused(answer) => return Ok(answer),
        };
        if !handed.letters.is_empty() && !std::mem::replace(&mut told, true) {
            let tenant = &*caller.tenant;
            audit::note(&state, &caller, tenant, "dead_letters.redrive", tenant, request.told()).await?;
        }
        let done = call.work(&handed.letters, &mut report).await;
        left -= done.min(left);
        let all = done == handed.letters.len();
        match &mut request.ids {
            Some(ids) => {
                ids.drain(..done.min(ids.len()));
                if ids.is_empty() || left == 0 || !all || handed.letters.is_empty() {
                    break;
                }
            }
            None => {
                // Before the first letter of a listing there is no place: it goes on where it began.
                match done.checked_sub(1) {
                    _ if all => request.cursor = handed.next_cursor.map(Value::from),
                    Some(last) => request.cursor = handed.letters[last].cursor.clone().map(Value::from),
                    None => {}
                }
                if request.cursor.is_none() || left == 0 || !all {
                    break;
                }
            }
        }
        if Instant::now() >= call.end {
            report.stopped = Some("the call has taken its time; go on with the next one");
            break;
        }
    }
    if let (0, 0, Some(why)) = (report.redriven, report.refused, report.stopped) {
        return Err(Problem::unavailable(why, RETRY_AFTER_SECONDS));
    }
    Ok(Json(json!({
        "dry_run": request.dry_run,
        "redriven": report.redriven,
        "refused": report.refused,
        "reasons": report.reasons,
        "results": report.results,
        "next_cursor": request.cursor.filter(|_| request.ids.is_none()),
        "left": request.ids.unwrap_or_default(),
        "stopped": report.stopped,
    }))
    .into_response())
}

enum Asked {
    Letters(HandedOut),
    Refused(Response),
}

struct Call<'a> {
    state: &'a IngestState,
    tenant: &'a str,
    identity: LogIdentity,
    traceparent: Option<String>,
    to_lane: Option<Lane>,
    dry_run: bool,
    end: Instant,
}

impl Call<'_> {
    async fn ask(&self, question: &Value) -> Answer<Asked> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let (path, body) = ("/internal/v1/dead-letters/redrivable", Bytes::from(question.to_string()));
        let answer = self.state.backend.forward(self.tenant, Method::POST, path, &headers, body, READ_TIMEOUT).await?;
        if answer.status() == StatusCode::UNPROCESSABLE_ENTITY {
            return Ok(Asked::Refused(answer));
        }
        let status = answer.status();
        let bytes = axum::body::to_bytes(answer.into_body(), MAX_ANSWER_BYTES).await.unwrap_or_default();
        if status != StatusCode::OK {
            return Err(Problem::unavailable("the writer, which knows the dead letters, does not answer now", 1));
        }
        match serde_json::from_slice(&bytes) {
            Ok(handed) => Ok(Asked::Letters(handed)),
            Err(error) => {
                tracing::error!(%error, "the writer's answer about dead letters is not as agreed");
                Err(Problem::internal())
            }
        }
    }

    /// How many letters, from the first on, it has come through with. Where it ends among letters that went together, those that went
    /// are asked for again, and are under way then.
    async fn work(&self, letters: &[Candidate], report: &mut Report) -> usize {
        let mut done = 0;
        while done < letters.len() {
            let next = (letters.len() - done).min(TOGETHER);
            let Some(allowed) = self.allowed(next).await else {
                report.stopped = Some("as many events have gone as may go in one call; go on with the next one");
                break;
            };
            let before = report.redriven;
            let ended = self.some(&letters[done..done + allowed], report).await;
            if !self.dry_run {
                self.state.redrives.give_back(allowed.saturating_sub(report.redriven - before));
            }
            if let Err(why) = ended {
                report.stopped = Some(why);
                break;
            }
            done += allowed;
        }
        done
    }

    /// How many of `next` letters may go now, once some may; `None` where that is not before the call's end.
    async fn allowed(&self, next: usize) -> Option<usize> {
        if self.dry_run {
            return Some(next);
        }
        loop {
            match self.state.redrives.take(next) {
                Ok(allowed) => return Some(allowed),
                Err(wait) if Instant::now() + wait < self.end => tokio::time::sleep(wait).await,
                Err(_) => return None,
            }
        }
    }

    /// Letters that go together; why to go no further where the log is away.
    async fn some(&self, letters: &[Candidate], report: &mut Report) -> Result<(), &'static str> {
        let mut going = Vec::new();
        for letter in letters {
            let topic = Topic::parse(&letter.source_topic);
            let own = topic.and_then(|topic| self.identity.topic_ids.get(&topic)).map(String::as_str);
            for (place, wanted) in redrive::wanted(letter, own).into_iter().enumerate() {
                let number = (place < letter.events.len()).then_some(place);
                let copy = match wanted {
                    Ok(wanted) => {
                        let copy = self.copy(letter, &wanted).await.map_err(|error| {
                            tracing::warn!(%error, "the log cannot be read for a redrive");
                            "the log is not reachable now; go on with the next call"
                        })?;
                        copy.map(|event| (event, wanted.place.lane))
                    }
                    Err(refusal) => Err(refusal),
                };
                match copy {
                    Ok((event, lane)) => going.push(Going { letter, number, event, lane: self.to_lane.unwrap_or(lane) }),
                    Err(refusal) => self.refuse(letter, number, refusal, report),
                }
            }
        }
        if self.dry_run {
            for copy in &going {
                report.redriven(copy, true);
            }
            return Ok(());
        }
        let (begun, under_way): (Vec<_>, Vec<_>) =
            going.into_iter().partition(|copy| self.state.redrives.begin(Copy::of(&copy.event)));
        for copy in under_way {
            self.refuse(copy.letter, copy.number, Refusal::UnderWay, report);
        }
        self.append(begun, report).await
    }

    fn refuse(&self, letter: &Candidate, event: Option<usize>, refusal: Refusal, report: &mut Report) {
        if !self.dry_run {
            metrics::redrive_refused(refusal);
        }
        report.refuse(letter, event, refusal);
    }

    /// The copy, or why it does not go.
    async fn copy(&self, letter: &Candidate, wanted: &Wanted) -> Result<Result<ConversationEvent, Refusal>, LogError> {
        let payload = match wanted.bytes {
            redrive::Bytes::InLetter => {
                let Some(bytes) = letter.payload.as_ref().and_then(|text| STANDARD.decode(text).ok()) else {
                    return Ok(Err(Refusal::Unreadable));
                };
                Bytes::from(bytes)
            }
            redrive::Bytes::InLog => {
                let source = TopicPartition { topic: Topic::conversations(wanted.place.lane), partition: letter.partition };
                let reading = self.state.log.read(source, wanted.place.offset, 1);
                let read =
                    tokio::time::timeout(LOG_TIMEOUT, reading).await.map_err(|late| LogError::Transient(late.to_string()))?;
                match read {
                    Ok(records) => match records.into_iter().find(|record| record.offset == wanted.place.offset) {
                        Some(record) => record.payload,
                        None => return Ok(Err(Refusal::NotInLog)),
                    },
                    Err(LogError::BelowLogStart { .. }) => return Ok(Err(Refusal::NotInLog)),
                    Err(error) => return Err(error),
                }
            }
        };
        Ok(redrive::copy_of(letter, wanted, &payload))
    }

    /// Puts copies onto the log, in order; why to go no further where it is away.
    async fn append(&self, going: Vec<Going<'_>>, report: &mut Report) -> Result<(), &'static str> {
        let mut records: Vec<NewRecord> = Vec::with_capacity(going.len());
        let mut sent = Vec::with_capacity(going.len());
        for copy in going {
            let body = LogRecordBody::Conversation(copy.event.clone());
            let topic = Topic::conversations(copy.lane);
            match new_record(topic, &copy.event.tenant, &copy.event.entity_id, &body, self.traceparent.as_deref()) {
                Ok(record) => {
                    records.push(record);
                    sent.push(copy);
                }
                Err(_) => self.not_taken(&copy, report),
            }
        }
        let mut ended = Ok(());
        let appended = append(self.state.acceptor.publisher().producer(), records, Some(LOG_TIMEOUT)).await;
        for (copy, result) in sent.iter().zip(appended) {
            match result {
                Ok(()) => {
                    metrics::redriven(copy.lane, 1);
                    report.redriven(copy, false);
                }
                Err(AppendError::TooLarge(_) | AppendError::Unacceptable(_)) => self.not_taken(copy, report),
                Err(error) => {
                    tracing::warn!(%error, "a redriven event is not confirmed by the log");
                    self.state.redrives.failed(&Copy::of(&copy.event));
                    ended = Err("the log did not confirm an event; redriving it again is harmless");
                }
            }
        }
        ended
    }

    fn not_taken(&self, copy: &Going<'_>, report: &mut Report) {
        self.state.redrives.failed(&Copy::of(&copy.event));
        self.refuse(copy.letter, copy.number, Refusal::NotTaken, report);
    }
}
