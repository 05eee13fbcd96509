//! Withdrawing what a lineage made, and having it extracted again. The writer knows which entities and events; ingest owns producing.
//!
//! A call is bounded in entities or events and in time; where it ended, it says, so that the next call goes on. Repeating one is harmless:
//! what is withdrawn is not found again, and a copy that went is under way.

mod re_extract;
mod withdraw;

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use memori_service::problem::{Answer, ContentKind, FieldErrors, Fields, Problem, content_kind, parse_json};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::name_actor;
use crate::app::Caller;
use crate::state::IngestState;

pub(crate) use re_extract::re_extract;
pub(crate) use withdraw::withdraw;

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

    /// Names the act that a question is part of: each call is one, one that goes on with another too.
    fn name_act(question: &mut Map<String, Value>, act: &str, subject: &str) {
        question.insert("act".into(), act.into());
        question.insert("subject".into(), subject.into());
    }

    fn selected(&self, name: &str) -> Option<String> {
        self.selection.get(name).and_then(Value::as_str).map(str::to_owned)
    }
}

/// What is this front door's to do, or what somebody else has answered: the writer its refusal, a platform elsewhere everything.
enum Asked<T> {
    This(T),
    Elsewhere(Response),
}

/// Reads what is asked at `path`; a platform elsewhere does it itself.
async fn taken(
    state: &IngestState,
    caller: &Caller,
    path: &str,
    headers: &HeaderMap,
    body: Body,
    withdraws: bool,
) -> Answer<Asked<Request>> {
    if content_kind(headers) != Some(ContentKind::Json) {
        return Err(Problem::unsupported_media_type("application/json in UTF-8"));
    }
    let held = state.limits.read(headers, body, MAX_BODY_BYTES).await?;
    if state.backend.takes_deletions() {
        let bytes = held.bytes.clone();
        let answer = state.backend.forward(&caller.tenant, Method::POST, path, headers, bytes, 2 * READ_TIMEOUT).await?;
        return Ok(Asked::Elsewhere(answer));
    }
    Request::read(&held.bytes, withdraws).map(Asked::This)
}

/// Asks the writer.
async fn ask<T: DeserializeOwned>(
    state: &IngestState,
    caller: &Caller,
    path: &str,
    question: Map<String, Value>,
) -> Answer<Asked<T>> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    name_actor(&mut headers, state, caller);
    let body = Bytes::from(Value::Object(question).to_string());
    let answer = state.backend.forward(&caller.tenant, Method::POST, path, &headers, body, READ_TIMEOUT).await?;
    let status = answer.status();
    if status.is_client_error() {
        return Ok(Asked::Elsewhere(answer));
    }
    let bytes = axum::body::to_bytes(answer.into_body(), MAX_ANSWER_BYTES).await.unwrap_or_default();
    if status != StatusCode::OK {
        return Err(Problem::unavailable("the writer, which knows the lineages, does not answer now", 1));
    }
    match serde_json::from_slice(&bytes) {
        Ok(answer) => Ok(Asked::This(answer)),
        Err(error) => {
            tracing::error!(%error, "the writer's answer about lineages is not as agreed");
            Err(Problem::internal())
        }
    }
}
