//! A log in memory that can be away, and a writer that knows what a test tells it.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use http::{HeaderMap, Request, StatusCode};
use memori_event_log::{
    AppendError, Consumer, Fence, Log, LogError, LogIdentity, LogRecord, NewRecord, Position, Producer, Topic, TopicPartition,
};
use memori_ingest::{IngestConfig, IngestParts, IngestState, SpoolConfig, WriterBackend, app};
use memori_schemas::{ConversationEvent, LogRecordBody, framing, ids};
use memori_service::auth::KeyRing;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::ServiceExt as _;

pub const PARTITIONS: i32 = 4;

/// What the log does with what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Takes it.
    Up,
    /// Says nothing until it is up again; then takes it.
    Silent,
    /// Takes it, and never says so until it is up again.
    Forgetful,
    /// Says at once that it is away.
    Away,
    /// Refuses it as too large.
    TooLarge,
}

struct Inner {
    mode: Mode,
    records: BTreeMap<TopicPartition, Vec<LogRecord>>,
    appends: usize,
}

#[derive(Clone)]
pub struct FakeLog {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
}

impl FakeLog {
    pub fn new() -> Self {
        let inner = Inner { mode: Mode::Up, records: BTreeMap::new(), appends: 0 };
        Self { inner: Arc::new(Mutex::new(inner)), changed: Arc::new(Notify::new()) }
    }

    pub fn set(&self, mode: Mode) {
        self.inner.lock().unwrap().mode = mode;
        self.changed.notify_waiters();
    }

    /// How often records were handed over.
    pub fn appends(&self) -> usize {
        self.inner.lock().unwrap().appends
    }

    /// Every record of a topic, in order per partition.
    pub fn records(&self, topic: Topic) -> Vec<LogRecord> {
        let inner = self.inner.lock().unwrap();
        inner.records.iter().filter(|(source, _)| source.topic == topic).flat_map(|(_, records)| records.clone()).collect()
    }

    pub fn events(&self) -> Vec<ConversationEvent> {
        let decoded = self.records(Topic::ConversationsLive).into_iter().map(|record| framing::decode(&record.payload).unwrap());
        decoded
            .map(|body| match body {
                LogRecordBody::Conversation(event) => event,
                other => panic!("{other:?} among conversations"),
            })
            .collect()
    }

    /// Whose windows were to be closed on a topic, in order per partition, once there are so many.
    pub async fn flushed(&self, topic: Topic, wanted: usize) -> Vec<String> {
        let flushes = || -> Vec<String> {
            let decoded = self.records(topic).into_iter().map(|record| (record.key, framing::decode(&record.payload).unwrap()));
            let flush = |(key, body): (bytes::Bytes, LogRecordBody)| match body {
                LogRecordBody::Flush(flush) => {
                    assert_eq!(&key[..], ids::log_key(&flush.tenant, &flush.entity_id));
                    Some(flush.entity_id)
                }
                _ => None,
            };
            let mut all: Vec<String> = decoded.filter_map(flush).collect();
            all.sort();
            all
        };
        let waiting = async {
            while flushes().len() < wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the flushes are sent");
        flushes()
    }

    pub fn event_ids(&self) -> Vec<String> {
        self.events().into_iter().map(|event| event.event_id).collect()
    }

    fn take(&self, records: &[NewRecord]) -> Vec<Result<Position, AppendError>> {
        let mut inner = self.inner.lock().unwrap();
        let mut results = Vec::new();
        for record in records {
            let source = TopicPartition { topic: record.topic, partition: ids::partition_of(&record.key, PARTITIONS) };
            let list = inner.records.entry(source).or_default();
            let offset = i64::try_from(list.len()).unwrap();
            list.push(LogRecord {
                source,
                offset,
                appended_at_ms: 0,
                key: record.key.clone(),
                payload: record.payload.clone(),
                headers: record.headers.clone(),
            });
            results.push(Ok(Position { source, offset: Some(offset) }));
        }
        results
    }
}

#[async_trait]
impl Producer for FakeLog {
    async fn append(&self, records: &[NewRecord], _: Option<&Fence>) -> Vec<Result<Position, AppendError>> {
        self.inner.lock().unwrap().appends += 1;
        let mut taken = None;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let mode = self.inner.lock().unwrap().mode;
            match mode {
                Mode::Up => return taken.unwrap_or_else(|| self.take(records)),
                Mode::Away => return records.iter().map(|_| Err(AppendError::Unconfirmed("away".into()))).collect(),
                Mode::TooLarge => return records.iter().map(|_| Err(AppendError::TooLarge("8 MiB".into()))).collect(),
                Mode::Forgetful if taken.is_none() => taken = Some(self.take(records)),
                Mode::Forgetful | Mode::Silent => {}
            }
            changed.await;
        }
    }

    async fn flush(&self, _: Duration) {}
}

#[async_trait]
impl Log for FakeLog {
    fn producer(&self) -> Arc<dyn Producer> {
        Arc::new(self.clone())
    }

    async fn subscribe(&self, _: &str, _: &[Topic]) -> Result<Box<dyn Consumer>, LogError> {
        Err(LogError::Fatal("this log is not consumed".into()))
    }

    async fn create_topics(&self, _: i32) -> Result<(), LogError> {
        Ok(())
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        let topic_ids = Topic::ALL.into_iter().map(|topic| (topic, format!("id-of-{topic}"))).collect();
        Ok(LogIdentity { cluster_id: "fake".into(), topic_ids, partitions: PARTITIONS })
    }

    async fn watermarks(&self, partition: TopicPartition) -> Result<(i64, i64), LogError> {
        let inner = self.inner.lock().unwrap();
        if inner.mode != Mode::Up {
            return Err(LogError::Transient("away".into()));
        }
        Ok((0, inner.records.get(&partition).map_or(0, |list| i64::try_from(list.len()).unwrap())))
    }

    async fn read(&self, partition: TopicPartition, offset: i64, max_records: usize) -> Result<Vec<LogRecord>, LogError> {
        let inner = self.inner.lock().unwrap();
        let list = inner.records.get(&partition).cloned().unwrap_or_default();
        Ok(list.into_iter().skip(usize::try_from(offset).unwrap()).take(max_records).collect())
    }
}

/// A writer that knows what it is told.
#[derive(Clone, Default)]
pub struct FakeWriter(pub Arc<Mutex<WriterInner>>);

#[derive(Default)]
pub struct WriterInner {
    /// (tenant, event id) to the answer of `status`.
    pub status: HashMap<(String, String), Value>,
    /// (tenant, event id) to the answers of `known`.
    pub known: HashMap<(String, String), Vec<Value>>,
    /// (tenant, fact id) to the answer of `forget`.
    pub forgettable: HashMap<(String, String), Value>,
    pub controls_applied: bool,
    /// Each forwarded request: method, target, tenant, body.
    pub seen: Vec<(String, String, String, String)>,
    /// How often `known` was asked.
    pub known_asked: usize,
    pub delay: Duration,
    /// Answers everything with this instead.
    pub broken: Option<StatusCode>,
    pub receipts: HashMap<(String, String), Value>,
    /// What is handed out to be redriven, and what was asked.
    pub redrivable: Vec<Value>,
    pub redrives_asked: Vec<(String, Value)>,
    /// Acts of administration that were noted.
    pub acts: Vec<Value>,
    /// None is noted.
    pub takes_no_acts: bool,
}

impl FakeWriter {
    pub fn inner(&self) -> std::sync::MutexGuard<'_, WriterInner> {
        self.0.lock().unwrap()
    }

    /// As if it had applied this event of the log.
    pub fn knows(&self, event: &ConversationEvent, status: &str) {
        let key = (event.tenant.clone(), event.event_id.clone());
        let mut inner = self.inner();
        inner.status.insert(
            key.clone(),
            json!({"event_id": event.event_id, "status": status, "accepted_at": event.accepted_at.to_rfc3339(), "facts": 1}),
        );
        inner.known.entry(key).or_default().push(json!({
            "event_id": event.event_id, "entity_key": event.entity_key().to_string(), "content_hash": event.content_hash.to_string(),
            "accepted_at_us": event.accepted_at.0, "occurred_at_us": event.supplied.occurred_at.then_some(event.occurred_at.0),
            "session_id": event.session_id, "message_ids": event.messages.iter().map(|m| m.message_id.clone()).collect::<Vec<_>>(),
            "created_at_us": event.messages.iter().map(|m| m.created_at.map(|t| t.0)).collect::<Vec<_>>(),
        }));
    }

    pub fn router(&self) -> Router {
        Router::new()
            .route("/internal/v1/events/status", post(Self::answer_status))
            .route("/internal/v1/events/known", post(Self::answer_known))
            .route("/internal/v1/events/wait", post(Self::answer_wait))
            .route("/internal/v1/facts/{id}/forget", get(Self::answer_forget))
            .route("/internal/v1/controls/wait", post(Self::answer_controls))
            .route("/internal/v1/dead-letters/redrivable", post(Self::answer_redrivable))
            .route("/internal/v1/acts", post(Self::answer_acts))
            .route("/v1/erasures/{id}", get(Self::answer_receipt))
            .fallback(any(Self::echo))
            .with_state(self.clone())
    }

    async fn pause(&self) -> Option<Response> {
        let (delay, broken) = {
            let inner = self.inner();
            (inner.delay, inner.broken)
        };
        tokio::time::sleep(delay).await;
        broken.map(|status| (status, "a stack trace with SELECT * FROM secrets").into_response())
    }

    fn tenant(headers: &HeaderMap) -> String {
        headers["x-memori-tenant"].to_str().unwrap().to_owned()
    }

    fn ids(body: &Value) -> Vec<String> {
        body["event_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    }

    async fn answer_status(State(writer): State<Self>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
        if let Some(broken) = writer.pause().await {
            return broken;
        }
        let tenant = Self::tenant(&headers);
        let inner = writer.inner();
        let events: Vec<_> =
            Self::ids(&body).into_iter().filter_map(|id| inner.status.get(&(tenant.clone(), id)).cloned()).collect();
        Json(json!({"events": events})).into_response()
    }

    async fn answer_known(State(writer): State<Self>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
        if let Some(broken) = writer.pause().await {
            return broken;
        }
        let tenant = Self::tenant(&headers);
        let mut inner = writer.inner();
        inner.known_asked += 1;
        let events: Vec<_> =
            Self::ids(&body).into_iter().filter_map(|id| inner.known.get(&(tenant.clone(), id)).cloned()).flatten().collect();
        Json(json!({"events": events})).into_response()
    }

    async fn answer_wait(State(writer): State<Self>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
        if let Some(broken) = writer.pause().await {
            return broken;
        }
        let tenant = Self::tenant(&headers);
        let inner = writer.inner();
        let mut complete = true;
        let mut events = Vec::new();
        for id in Self::ids(&body) {
            let unknown = json!({"event_id": id, "status": "unknown"});
            let event = inner.status.get(&(tenant.clone(), id.clone())).cloned().unwrap_or(unknown);
            complete &= ["applied", "dead_lettered", "erased"].contains(&event["status"].as_str().unwrap());
            events.push(event);
        }
        Json(json!({"complete": complete, "events": events})).into_response()
    }

    async fn answer_forget(State(writer): State<Self>, headers: HeaderMap, Path(id): Path<String>) -> Response {
        if let Some(broken) = writer.pause().await {
            return broken;
        }
        match writer.inner().forgettable.get(&(Self::tenant(&headers), id)) {
            Some(answer) => Json(answer.clone()).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        }
    }

    async fn answer_controls(State(writer): State<Self>, Json(_): Json<Value>) -> Response {
        if let Some(broken) = writer.pause().await {
            return broken;
        }
        Json(json!({"applied": writer.inner().controls_applied})).into_response()
    }

    async fn answer_receipt(State(writer): State<Self>, headers: HeaderMap, Path(id): Path<String>) -> Response {
        match writer.inner().receipts.get(&(Self::tenant(&headers), id)) {
            Some(receipt) => Json(receipt.clone()).into_response(),
            None => memori_service::Problem::not_found("no such erasure").into_response(),
        }
    }

    /// By ids those, else a page after the cursor, which is a letter's number.
    async fn answer_acts(State(writer): State<Self>, Json(body): Json<Value>) -> Response {
        let mut inner = writer.inner();
        if inner.takes_no_acts {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        inner.acts.push(body);
        StatusCode::NO_CONTENT.into_response()
    }

    async fn answer_redrivable(State(writer): State<Self>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
        if let Some(broken) = writer.pause().await {
            return broken;
        }
        if body["filter"]["class"] == "none of them" {
            return memori_service::Problem::invalid_field("filter.class", "must be a class").into_response();
        }
        let mut inner = writer.inner();
        inner.redrives_asked.push((Self::tenant(&headers), body.clone()));
        let limit = usize::try_from(body["limit"].as_u64().unwrap()).unwrap().min(3);
        if let Some(ids) = body["ids"].as_array() {
            let letter = |id: &Value| {
                let known = inner.redrivable.iter().find(|letter| letter["id"] == *id).cloned();
                known.unwrap_or_else(|| json!({"id": id, "state": "not_found", "events": []}))
            };
            let letters: Vec<Value> = ids.iter().take(limit).map(letter).collect();
            return Json(json!({"letters": letters, "next_cursor": null})).into_response();
        }
        let from = body["cursor"].as_str().map_or(0, |cursor| cursor.parse::<usize>().unwrap());
        let letters: Vec<Value> = inner.redrivable.iter().skip(from).take(limit).cloned().collect();
        let next = from + letters.len();
        let next_cursor = (next < inner.redrivable.len()).then(|| next.to_string());
        Json(json!({"letters": letters, "next_cursor": next_cursor})).into_response()
    }

    async fn echo(State(writer): State<Self>, request: Request<Body>) -> Response {
        if let Some(broken) = writer.pause().await {
            return broken;
        }
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 26).await.unwrap();
        let target = parts.uri.path_and_query().unwrap().as_str().to_owned();
        let tenant = Self::tenant(&parts.headers);
        let body = String::from_utf8_lossy(&body).into_owned();
        let credentials = parts.headers.contains_key("authorization") || parts.headers.contains_key("x-memori-api-key");
        writer.inner().seen.push((parts.method.to_string(), target.clone(), tenant.clone(), body));
        Json(json!({"echo": target, "tenant": tenant, "credentials": credentials})).into_response()
    }
}

/// A front door with its surroundings.
pub struct Door {
    pub log: FakeLog,
    pub writer: FakeWriter,
    pub app: Router,
}

impl Door {
    pub async fn open() -> Self {
        Self::with(FakeLog::new(), FakeWriter::default(), KeyRing::open(), IngestConfig::default()).await
    }

    pub async fn with(log: FakeLog, writer: FakeWriter, keys: KeyRing, config: IngestConfig) -> Self {
        Self::with_spool(log, writer, keys, config, None).await
    }

    pub async fn with_spool(
        log: FakeLog,
        writer: FakeWriter,
        keys: KeyRing,
        config: IngestConfig,
        spool: Option<SpoolConfig>,
    ) -> Self {
        let backend = WriterBackend::InProcess(writer.router());
        let parts = IngestParts { log: Arc::new(log.clone()), backend, keys, extracting: None, config };
        let app = app(IngestState::start_with_spool(parts, spool).await.unwrap());
        Self { log, writer, app }
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 28).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status: parts.status.as_u16(), headers: parts.headers, body, bytes: bytes.to_vec() }
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(json_request("POST", path, body.to_string())).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path).body(Body::empty()).unwrap()).await
    }
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
    pub bytes: Vec<u8>,
}

impl Answer {
    /// That it is a problem of this status, as RFC 9457 wants it.
    #[track_caller]
    pub fn problem(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.body["status"], status);
        assert!(self.body["title"].is_string() && self.body["type"].is_string());
        self
    }

    #[track_caller]
    pub fn ok(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        self
    }
}

pub fn json_request(method: &str, path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder().method(method).uri(path).header("content-type", "application/json").body(body.into()).unwrap()
}

pub fn event(id: &str, entity: &str, text: &str) -> Value {
    json!({"event_id": id, "entity_id": entity, "messages": [{"role": "user", "content": text}]})
}
