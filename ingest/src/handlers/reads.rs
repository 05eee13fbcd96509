//! Recall and reads, passed on to the writer as they are.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use memori_service::auth::Binding;
use memori_service::problem::{ContentKind, Problem, content_kind, parse_json};

use crate::app::{Caller, out_of_binding};
use crate::state::IngestState;

/// How long the writer may take to the head of its answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes of a recall, batched or not.
const MAX_RECALL_BYTES: usize = 16 << 20;

/// `POST /v1/recall` and `/v1/recall/batch`. What is asked is looked at only where somebody may not ask everything.
pub(crate) async fn recall(
    State(state): State<Arc<IngestState>>,
    caller: Caller,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let tenant = &*caller.tenant;
    let limited = match &state.standings {
        Some(standings) => standings.limits_recalls(tenant).await,
        None => false,
    };
    let held = state.limits.read(&headers, body, MAX_RECALL_BYTES).await?;
    let batch = uri.path() == "/v1/recall/batch";
    let bound = caller.binding != Binding::Any;
    let mut queries = 1;
    if bound || (limited && batch) {
        if content_kind(&headers) != Some(ContentKind::Json) {
            return Err(Problem::unsupported_media_type("application/json in UTF-8"));
        }
        let asked = parse_json(&held.bytes)?;
        let asked = if batch { asked["queries"].as_array().map_or(&[][..], Vec::as_slice) } else { std::slice::from_ref(&asked) };
        queries = asked.len();
        // What names no entity is refused where it is read.
        if asked.iter().filter_map(|query| query["entity_id"].as_str()).any(|entity_id| !caller.binding.covers(entity_id)) {
            return Err(out_of_binding());
        }
    }
    if let Some(standings) = state.standings.as_ref().filter(|_| limited) {
        standings.recalls(tenant, queries)?;
    }
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    state.backend.forward(tenant, Method::POST, target, &headers, held.bytes.clone(), READ_TIMEOUT).await
}

/// Passes a read on, path and query byte for byte.
pub(crate) async fn forward(
    State(state): State<Arc<IngestState>>,
    caller: Caller,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let (method, held) = if method == Method::POST {
        (method, Some(state.limits.read(&headers, body, MAX_RECALL_BYTES).await?))
    } else {
        (Method::GET, None)
    };
    let bytes = held.as_ref().map_or_else(Bytes::new, |held| held.bytes.clone());
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    state.backend.forward(&caller.tenant, method, target, &headers, bytes, READ_TIMEOUT).await
}
