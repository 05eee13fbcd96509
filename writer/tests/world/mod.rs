//! A small world for tests of the API: records as they would stand on the log, flushed by the real planner into a real store.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use memori_embedding::Embedder;
use memori_event_log::sqlite::SqliteDatabase;
use memori_schemas::{
    ContentFormat, ConversationEvent, Cover, DeadLetter, DeadLetterClass, EraseEntity, Evidence, ExtractorInfo, Fact, FactKind,
    FactsExtracted, ForgetFact, Lane, Message, MessageVector, Micros, Role, Supplied, ids,
};
use memori_writer::api::{ApiConfig, ApiState, router};
use memori_writer::notify::Commits;
use memori_writer::plan::intake::{self, Place};
use memori_writer::plan::{DeadLetterRow, EntityBatch, EntityRef};
use memori_writer::reads::{ReadStore, SqliteReads};
use memori_writer::store::sqlite::SqliteStore;
use memori_writer::store::{self, FlushInput, Store};
use serde_json::Value;
use tower::ServiceExt as _;

pub(crate) const TENANT: &str = "acme";
/// 2026-01-01T00:00:00Z.
pub(crate) const START_US: i64 = 1_767_225_600_000_000;
pub(crate) const MINUTE_US: i64 = 60_000_000;

pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) commits: Commits,
    pub(crate) router: Router,
    next_offset: i64,
    batch: BTreeMap<EntityRef, EntityBatch>,
    unowned: Vec<DeadLetterRow>,
    _folder: Option<tempfile::TempDir>,
}

/// An answer: status, media type, body.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        String::from_utf8(self.bytes.clone()).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// One event with its facts to be.
pub(crate) fn event(entity_id: &str, event_id: &str, minute: i64, said: &[(Role, &str)]) -> ConversationEvent {
    let messages: Vec<Message> = said
        .iter()
        .map(|(role, content)| Message {
            message_id: None,
            role: *role,
            name: None,
            content: (*content).to_owned(),
            content_format: ContentFormat::Text,
            created_at: None,
        })
        .collect();
    with_messages(entity_id, event_id, minute, messages)
}

pub(crate) fn with_messages(entity_id: &str, event_id: &str, minute: i64, messages: Vec<Message>) -> ConversationEvent {
    let mut event = ConversationEvent {
        tenant: TENANT.into(),
        entity_id: entity_id.into(),
        process_id: None,
        session_id: None,
        event_id: event_id.into(),
        content_hash: ids::content_hash(entity_id, None, &messages, &[]),
        occurred_at: Micros(START_US + minute * MINUTE_US),
        accepted_at: Micros(START_US + minute * MINUTE_US + 5),
        messages,
        metadata: Vec::new(),
        supplied: Supplied { event_id: true, occurred_at: true },
        spooled: false,
        attempt: 0,
        origin: None,
        key_id: None,
    };
    rehash(&mut event);
    event
}

pub(crate) fn rehash(event: &mut ConversationEvent) {
    event.content_hash = ids::content_hash(&event.entity_id, event.process_id.as_deref(), &event.messages, &event.metadata);
}

pub(crate) fn fact(event: &ConversationEvent, index: usize, kind: FactKind, text: &str) -> Fact {
    Fact {
        kind,
        text: text.into(),
        subject: None,
        predicate: None,
        object: None,
        slot: None,
        valid_from: None,
        valid_to: None,
        confidence: 0.75,
        evidence: vec![Evidence {
            event_id: event.event_id.clone(),
            content_hash: event.content_hash,
            message_key: event.message_key(index),
            message_index: i32::try_from(index).unwrap(),
            message_id: event.shown_message_id(index),
            occurred_at: event.occurred_at,
        }],
        vector: None,
    }
}

pub(crate) fn cover(event: &ConversationEvent) -> Cover {
    Cover {
        event_id: event.event_id.clone(),
        content_hash: event.content_hash,
        lane: Lane::Live,
        offset: 1_000_000,
        origin: event.origin,
        spooled: event.spooled,
        accepted_at: event.accepted_at,
        occurred_at: event.occurred_at,
        attempt: event.attempt,
    }
}

impl World {
    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = SqliteDatabase::open(&folder.path().join("memori.db")).await.unwrap();
        let store = SqliteStore::new(database.clone());
        let reads = SqliteReads::new(database.reads().clone());
        Self { _folder: Some(folder), ..Self::over(Arc::new(store), Arc::new(reads), ApiConfig::default()).await }
    }

    pub(crate) async fn over(store: Arc<dyn Store>, reads: Arc<dyn ReadStore>, config: ApiConfig) -> Self {
        Self::with_embedder(store, reads, config, None).await
    }

    pub(crate) async fn with_embedder(
        store: Arc<dyn Store>,
        reads: Arc<dyn ReadStore>,
        config: ApiConfig,
        embedder: Option<Arc<dyn Embedder>>,
    ) -> Self {
        store.migrate().await.unwrap();
        let commits = Commits::new();
        let router = router(ApiState::with_embedder(reads, commits.clone(), config, embedder));
        Self { store, commits, router, next_offset: 0, batch: BTreeMap::new(), unowned: Vec::new(), _folder: None }
    }

    fn place(&mut self, topic: &str) -> Place {
        self.next_offset += 1;
        Place { lane: Lane::Live, topic_id: topic.into(), partition: 3, offset: self.next_offset }
    }

    fn of(&mut self, entity_id: &str) -> (EntityRef, &mut EntityBatch) {
        let owner = EntityRef { tenant: TENANT.into(), key: ids::entity_key(TENANT, entity_id) };
        let batch = self.batch.entry(owner.clone()).or_default();
        batch.entity_id = entity_id.into();
        (owner, batch)
    }

    /// Puts the event's conversation into the next flush.
    pub(crate) fn said(&mut self, event: &ConversationEvent) {
        let place = self.place("conversations");
        let copy = intake::event_copy(event, &place).unwrap();
        self.of(&event.entity_id).1.copies.push(copy);
    }

    /// Puts an applied outcome of the event into the next flush.
    pub(crate) fn learned(&mut self, event: &ConversationEvent, generation: i32, facts: Vec<Fact>) {
        self.learned_with_vectors(event, generation, facts, Vec::new());
    }

    /// The same, with vectors of messages.
    pub(crate) fn learned_with_vectors(
        &mut self,
        event: &ConversationEvent,
        generation: i32,
        facts: Vec<Fact>,
        message_vectors: Vec<MessageVector>,
    ) {
        let place = self.place("facts");
        let record = FactsExtracted {
            tenant: TENANT.into(),
            entity_id: event.entity_id.clone(),
            process_id: event.process_id.clone(),
            session_id: event.session_id.clone(),
            generation,
            covers: vec![cover(event)],
            facts,
            message_vectors,
            extractor: ExtractorInfo {
                name: "builtin".into(),
                version: "1".into(),
                model: Some("m".into()),
                prompt_hash: Some("abc".into()),
                tokens_in: 11,
                tokens_out: 7,
                cost_micros: 5,
            },
            extracted_at: Micros(event.accepted_at.0 + 100),
            key_id: None,
        };
        let (owner, batch) = self.of(&event.entity_id);
        let extraction = intake::extraction(&owner, &record, &place).unwrap();
        batch.extractions.push(extraction);
    }

    /// Conversation and facts of one event, each `(kind, text)` from its first message.
    pub(crate) fn told(&mut self, event: &ConversationEvent, facts: &[(FactKind, &str)]) {
        self.said(event);
        self.learned(event, 1, facts.iter().map(|(kind, text)| fact(event, 0, *kind, text)).collect());
    }

    pub(crate) fn buried(&mut self, event: &ConversationEvent, reason: &str) {
        let place = self.place("dead-letters");
        let letter = DeadLetter {
            tenant: Some(TENANT.into()),
            entity_id: Some(event.entity_id.clone()),
            source_topic: "conversations.live".into(),
            source_topic_id: "conversations".into(),
            source_partition: 3,
            source_offset: 5,
            lane: Lane::Live,
            generation: 1,
            class: DeadLetterClass::Refused,
            reason: reason.into(),
            attempts: 3,
            covers: vec![cover(event)],
            original_key: Vec::new(),
            original_payload: Vec::new(),
            failed_at: Micros(event.accepted_at.0 + 200),
            key_id: None,
        };
        self.of(&event.entity_id).1.burials.push(intake::burial(&letter, &place));
    }

    /// Puts this letter into the next flush.
    pub(crate) fn letter(&mut self, letter: &DeadLetter) {
        let place = self.place("dead-letters");
        let burial = intake::burial(letter, &place);
        match (&letter.tenant, &letter.entity_id) {
            (Some(tenant), Some(entity_id)) => {
                let owner = EntityRef { tenant: tenant.clone(), key: ids::entity_key(tenant, entity_id) };
                let batch = self.batch.entry(owner).or_default();
                batch.entity_id = entity_id.clone();
                batch.burials.push(burial);
            }
            _ => self.unowned.push(burial.row),
        }
    }

    pub(crate) fn erased(&mut self, entity_id: &str, erasure_id: &str) {
        let control = EraseEntity {
            tenant: TENANT.into(),
            entity_id: entity_id.into(),
            erasure_id: erasure_id.into(),
            requested_at: Micros(START_US),
            live_end_offset: 10_000_000,
            backfill_end_offset: 0,
            key_id: None,
        };
        self.of(entity_id).1.erasures.push(intake::erasure(&control, START_US + 9).unwrap());
    }

    pub(crate) fn forgotten(&mut self, entity_id: &str, fact: &Fact, forget_id: &str) {
        let control = ForgetFact {
            tenant: TENANT.into(),
            entity_id: entity_id.into(),
            forget_id: forget_id.into(),
            fact_id: fact.id(&ids::entity_key(TENANT, entity_id), 1).to_string(),
            requested_at: Micros(START_US),
            text_hash: fact.text_hash(),
            triple_hash: fact.triple_hash(),
            message_keys: fact.evidence.iter().map(|e| e.message_key).collect(),
            key_id: None,
        };
        self.of(entity_id).1.forgets.push(intake::forget(&control, START_US + 9).unwrap());
    }

    /// Puts a control that forgets into the next flush.
    pub(crate) fn forget(&mut self, control: ForgetFact) {
        let entity_id = control.entity_id.clone();
        self.of(&entity_id).1.forgets.push(intake::forget(&control, START_US + 9).unwrap());
    }

    /// Writes what was put together in one flush, and tells of it.
    pub(crate) async fn flush(&mut self) {
        let (entities, unowned) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.unowned));
        store::flush(&*self.store, &FlushInput { entities: entities.into(), unowned, ..FlushInput::default() }).await.unwrap();
        self.commits.bump();
    }

    pub(crate) async fn call(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let media_type = response.headers().get("content-type").map_or("", |v| v.to_str().unwrap()).to_owned();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec();
        Answer { status, media_type, bytes }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(request("GET", path, TENANT).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn get_as(&self, tenant: &str, path: &str) -> Answer {
        self.call(request("GET", path, tenant).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Value>) -> Answer {
        self.post_as(TENANT, path, body).await
    }

    pub(crate) async fn post_as(&self, tenant: &str, path: &str, body: impl Into<Value>) -> Answer {
        let body = Body::from(body.into().to_string());
        self.call(request("POST", path, tenant).header("content-type", "application/json").body(body).unwrap()).await
    }

    /// A recall that must succeed.
    pub(crate) async fn recall(&self, body: Value) -> Value {
        let answer = self.post("/v1/recall", body).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
        answer.json()
    }
}

pub(crate) fn request(method: &str, path: &str, tenant: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header("x-memori-tenant", tenant)
}

/// The `content` of each item.
pub(crate) fn contents(items: &Value) -> Vec<&str> {
    items.as_array().unwrap().iter().map(|item| item["content"].as_str().unwrap()).collect()
}
