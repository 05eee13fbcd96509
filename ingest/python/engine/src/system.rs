//! What stands behind an engine: the front door in this process, and whatever is behind that.

use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, header};
use serde_json::Value;
use tower::ServiceExt as _;

use crate::notices::Level;

/// The most bytes of an answer.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A running system.
#[async_trait]
pub trait System: Send + Sync + 'static {
    /// Its front door.
    fn router(&self) -> Router;

    /// Waits until events get to where memory lives, and reads come back from there.
    ///
    /// # Errors
    /// Where that takes longer than `patience`: what stands in the way.
    async fn up(&self, patience: Duration) -> Result<(), String>;

    /// Waits until reads and deletions have somebody to answer them, were it to say that it cannot.
    ///
    /// # Errors
    /// Where that takes longer than `patience`: what stands in the way.
    async fn open(&self, patience: Duration) -> Result<(), String>;

    /// Why events or reads do not get to where memory lives, where they do not.
    fn complaint(&self) -> Option<String>;

    /// While events are refused for quota: what was said, and how long it holds at least.
    fn quota(&self) -> Option<(String, Duration)> {
        None
    }

    /// What the user should know once, such as that recall goes by words alone.
    fn remarks(&self) -> Vec<(&'static str, Level, String)>;

    /// Extractions at once, from now on.
    fn set_workers(&self, count: usize);

    /// Rows of a flush, from now on.
    fn set_batch_rows(&self, count: usize);

    /// What is in force, and what it acts on.
    fn shown(&self) -> Value;

    /// Closes what a child must not inherit open. Whether that was done within `patience`.
    async fn suspend(&self, patience: Duration) -> bool;

    /// Opens it again.
    fn resume(&self);

    /// Stops in order, at most so long.
    async fn stop(&self, deadline: Duration);
}

/// Why a system did not start. It is tried again.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartFailure(pub String);

/// Asks a route of the front door. Never fails: what goes wrong on the way is a 500.
pub async fn ask(router: Router, method: Method, path: &str, body: Option<Bytes>) -> (u16, Bytes) {
    ask_within(router, method, path, body, None).await
}

/// As [`ask`], and says how long the answer is waited for.
pub(crate) async fn ask_within(
    router: Router,
    method: Method,
    path: &str,
    body: Option<Bytes>,
    patience: Option<Duration>,
) -> (u16, Bytes) {
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
    if let Some(patience) = patience {
        request = request.extension(memori_ingest::Patience(patience));
    }
    if let Some(body) = &body {
        // Without its length a body would be taken for the largest that may be.
        request = request.header(header::CONTENT_TYPE, "application/json").header(header::CONTENT_LENGTH, body.len());
    }
    let request = match request.body(body.map_or_else(Body::empty, Body::from)) {
        Ok(request) => request,
        Err(error) => return (400, problem(400, &format!("the path is no path: {error}"))),
    };
    let response = match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let status = response.status().as_u16();
    match axum::body::to_bytes(response.into_body(), MAX_ANSWER_BYTES).await {
        Ok(bytes) => (status, bytes),
        Err(error) => (502, problem(502, &format!("the answer broke off: {error}"))),
    }
}

/// Problem details of ours, as the front door words them.
#[must_use]
pub fn problem(status: u16, detail: &str) -> Bytes {
    let status = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    memori_service::problem::Problem::new(status, detail).to_json().to_string().into()
}
