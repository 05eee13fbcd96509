//! Recall and reads, passed on to the writer as they are.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use memori_service::problem::Problem;

use crate::app::Caller;
use crate::state::IngestState;

/// How long the writer may take to the head of its answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes of a recall, batched or not.
const MAX_RECALL_BYTES: usize = 16 << 20;

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
