//! `POST /v1/recall` and `/v1/recall/batch`.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use http::HeaderMap;
use memori_schemas::{FactKind, Micros};
use memori_service::problem::{Answer, FieldErrors, Fields, Problem};
use serde_json::{Value, json};

use super::request::{MAX_ENTITY_ID_BYTES, Tenant, json_body};
use super::{ApiState, unreadable};
use crate::recall::{RecallQuery, Recalled};

/// Bytes of one query's body.
const MAX_BODY_BYTES: usize = 1 << 20;
/// Bytes of a batch's body.
const MAX_BATCH_BYTES: usize = 16 << 20;
/// Queries of a batch.
const MAX_BATCH: usize = 100;
/// Bytes of a query's text.
const MAX_QUERY_BYTES: usize = 64 << 10;
/// Items of each list of an answer.
const MAX_LIMIT: i64 = 1_000;

pub(super) async fn single(
    State(state): State<ApiState>,
    tenant: Tenant,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<Recalled>> {
    let mut errors = FieldErrors::default();
    let query = query_of(json_body(&headers, body, MAX_BODY_BYTES).await?, "", &mut errors);
    let query = errors.into_result(query)?.ok_or_else(|| Problem::invalid(Vec::new()))?;
    let _reading = state.config.readers.enter();
    state.recall.recall(&tenant.0, &query, "single").await.map(Json).map_err(unreadable)
}

/// Of a generation, whichever the tenant reads: for whoever extracts it.
pub(super) async fn of_generation(
    State(state): State<ApiState>,
    tenant: Tenant,
    Path(generation): Path<i32>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<Recalled>> {
    let mut errors = FieldErrors::default();
    let query = query_of(json_body(&headers, body, MAX_BODY_BYTES).await?, "", &mut errors);
    let query = errors.into_result(query)?.ok_or_else(|| Problem::invalid(Vec::new()))?;
    state.recall.recall_of(&tenant.0, &query, generation, "worker").await.map(Json).map_err(unreadable)
}

pub(super) async fn batch(State(state): State<ApiState>, tenant: Tenant, headers: HeaderMap, body: Body) -> Answer<Json<Value>> {
    let mut errors = FieldErrors::default();
    let queries = Fields::of(json_body(&headers, body, MAX_BATCH_BYTES).await?, "", &mut errors).and_then(|mut fields| {
        let queries = fields.required_list("queries", 0..=MAX_BATCH);
        fields.finish();
        queries
    });
    let queries = errors.into_result(queries)?.unwrap_or_default();
    // One bad query does not cost the others their answers.
    let (mut good, mut refused) = (Vec::with_capacity(queries.len()), Vec::with_capacity(queries.len()));
    for query in queries {
        let mut errors = FieldErrors::default();
        let query = query_of(query, "", &mut errors);
        match errors.into_result(query).and_then(|query| query.ok_or_else(|| Problem::invalid(Vec::new()))) {
            Ok(query) => {
                good.push(query);
                refused.push(None);
            }
            Err(problem) => refused.push(Some(problem)),
        }
    }
    let _reading = state.config.readers.enter();
    let mut answers = state.recall.recall_all(&tenant.0, &good, "batch").await.into_iter();
    let result = |refused: Option<Problem>| match refused {
        Some(problem) => json!({"error": problem.to_json()}),
        None => match answers.next() {
            Some(Ok(recalled)) => serde_json::to_value(recalled).unwrap_or_default(),
            Some(Err(error)) => json!({"error": unreadable(error).to_json()}),
            None => json!({"error": Problem::internal().to_json()}),
        },
    };
    let results: Vec<Value> = refused.into_iter().map(result).collect();
    Ok(Json(json!({"results": results})))
}

fn query_of(value: Value, path: &str, errors: &mut FieldErrors) -> Option<RecallQuery> {
    let mut fields = Fields::of(value, path, errors)?;
    let entity_id = fields.required_text("entity_id", 1..=MAX_ENTITY_ID_BYTES);
    let query = fields.required_text("query", 0..=MAX_QUERY_BYTES);
    let limit = fields.integer("limit", 1..=MAX_LIMIT);
    let instruction_limit = fields.integer("instruction_limit", 0..=MAX_LIMIT);
    let kinds = fields.list("kinds", 0..=RecallQuery::KINDS.len() * 2).and_then(|list| kinds_of(list, &mut fields));
    let process_id = fields.text("process_id", 0..=256);
    let session_id = fields.text("session_id", 0..=256);
    let as_of = fields.parsed("as_of", "an RFC 3339 time", Micros::parse_rfc3339);
    let include_superseded = fields.boolean("include_superseded").unwrap_or(false);
    let include_messages = fields.boolean("include_messages").unwrap_or(false);
    let token_budget = fields.integer("token_budget", 0..=100_000_000);
    let min_score = fields.number("min_score", 0.0..=1.0);
    let explain = fields.boolean("explain").unwrap_or(false);
    let vectors = fields.boolean("vectors").unwrap_or(true);
    fields.finish();
    let size = |n: Option<i64>| n.and_then(|n| usize::try_from(n).ok());
    Some(RecallQuery {
        limit: size(limit).unwrap_or(RecallQuery::LIMIT),
        kinds: kinds.unwrap_or_else(|| RecallQuery::KINDS.to_vec()),
        instruction_limit: size(instruction_limit).unwrap_or(RecallQuery::INSTRUCTION_LIMIT),
        process_id,
        session_id,
        as_of,
        include_superseded,
        include_messages,
        token_budget: size(token_budget),
        min_score,
        explain,
        vectors,
        ..RecallQuery::new(entity_id?, query?)
    })
}

fn kinds_of(list: Vec<Value>, fields: &mut Fields<'_>) -> Option<Vec<FactKind>> {
    let mut kinds = Vec::with_capacity(list.len());
    for (i, value) in list.iter().enumerate() {
        match value.as_str().and_then(FactKind::parse).filter(|kind| RecallQuery::KINDS.contains(kind)) {
            Some(kind) => kinds.push(kind),
            None => {
                let names: Vec<&str> = RecallQuery::KINDS.iter().map(|kind| kind.as_str()).collect();
                let path = format!("{}[{i}]", fields.path_of("kinds"));
                fields.errors().push(path, format!("must be one of {}; instructions have a list of their own", names.join(", ")));
            }
        }
    }
    Some(kinds)
}
