//! Administration of tenants, passed on to the writer, which keeps them, with who asks.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, Method, Uri, header};
use memori_service::problem::Problem;

use super::name_actor;
use crate::app::Caller;
use crate::state::IngestState;

/// How long the writer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request.
const MAX_BYTES: usize = 2 << 20;

/// Passes a request on as it is.
pub(crate) async fn forward(
    State(state): State<Arc<IngestState>>,
    caller: Caller,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let method = if method == Method::HEAD { Method::GET } else { method };
    let held = match method {
        Method::GET | Method::DELETE => None,
        _ => Some(state.limits.read(&headers, body, MAX_BYTES).await?),
    };
    let bytes = held.as_ref().map_or_else(Bytes::new, |held| held.bytes.clone());
    let mut passed = HeaderMap::new();
    for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING] {
        if let Some(value) = headers.get(&name) {
            passed.insert(name, value.clone());
        }
    }
    name_actor(&mut passed, &state, &caller);
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    state.backend.forward(&caller.tenant, method, target, &passed, bytes, TIMEOUT).await
}
