//! Acts of administration that are the front door's own, in the audit log, which the writer keeps.
//!
//! Promises: an act is noted before it is done, and what cannot be noted is not done.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use memori_service::problem::{Answer, Problem};
use serde_json::{Value, json};

use crate::app::Caller;
use crate::handlers::name_actor;
use crate::state::IngestState;

/// How long the writer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Notes what is about to be done to something of a tenant's.
pub(crate) async fn note(
    state: &IngestState,
    caller: &Caller,
    tenant: &str,
    act: &str,
    subject: &str,
    detail: Value,
) -> Answer<()> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    name_actor(&mut headers, state, caller);
    let body = json!({"tenant": tenant, "act": act, "subject": subject, "detail": detail}).to_string();
    let noting = state.backend.forward(&caller.tenant, Method::POST, "/internal/v1/acts", &headers, Bytes::from(body), TIMEOUT);
    let status = noting.await?.status();
    if status == StatusCode::NO_CONTENT {
        return Ok(());
    }
    tracing::error!(%status, act, "the writer does not note an act of administration");
    Err(Problem::unavailable("nothing is done: the audit log, which the writer keeps, does not take it now", 5))
}
