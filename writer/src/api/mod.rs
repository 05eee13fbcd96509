//! The writer's HTTP API: recall, reads, and what ingest asks.
//!
//! Promises: the same routes whether a process of its own serves them or the embedded one calls them; every error is a problem of
//! the contract; a request sees nothing outside the tenant that its header names (administration may name all); waiting requests are bounded and are woken by
//! commits, not by polling.
//!
//! It trusts `x-memori-tenant`: whoever mounts it lets in only callers that may set it (see [`with_internal_token`]).

mod dead_letters;
mod estimate;
mod events;
mod export;
mod facts;
mod generations;
mod keys;
mod lineages;
mod recall;
mod replays;
mod request;
mod tenants;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header;
use memori_embedding::Embedder;
use memori_service::problem::Problem;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use crate::control::ControlStore;
use crate::generations::GenerationStore;
use crate::notify::Commits;
use crate::pace::Readers;
use crate::reads::{ReadError, ReadStore};
use crate::recall::{Recall, RecallConfig};

/// The header that names the tenant.
pub const TENANT_HEADER: &str = "x-memori-tenant";
/// The header that names who administers, for the audit log.
pub const ACTOR_HEADER: &str = "x-memori-actor";
pub use estimate::Estimates;
pub use memori_service::auth::EVERY_TENANT;

/// Bounds of the API.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Of recall.
    pub recall: RecallConfig,
    /// What topics' names begin with, as lineage shows them.
    pub topic_prefix: String,
    /// Requests that may wait for a commit at one time.
    pub max_waiters: usize,
    /// How often a waiter looks without having been woken, for commits that no notification told of.
    pub look_again: Duration,
    /// Told of every recall, for the sink's pace.
    pub readers: Readers,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            recall: RecallConfig::default(),
            topic_prefix: "memori".to_owned(),
            max_waiters: 1_024,
            look_again: Duration::from_secs(1),
            readers: Readers::default(),
        }
    }
}

/// What the routes share.
#[derive(Clone)]
pub struct ApiState {
    recall: Recall,
    store: Arc<dyn ReadStore>,
    commits: Commits,
    waiters: Arc<Semaphore>,
    config: Arc<ApiConfig>,
    control: Option<Arc<dyn ControlStore>>,
    generations: Option<Arc<dyn GenerationStore>>,
    estimates: Estimates,
}

impl ApiState {
    /// Over a store whose commits are told by `commits`.
    #[must_use]
    pub fn new(store: Arc<dyn ReadStore>, commits: Commits, config: ApiConfig) -> Self {
        Self::with_embedder(store, commits, config, None)
    }

    /// The same, with the model by which recall compares vectors.
    #[must_use]
    pub fn with_embedder(
        store: Arc<dyn ReadStore>,
        commits: Commits,
        config: ApiConfig,
        embedder: Option<Arc<dyn Embedder>>,
    ) -> Self {
        Self {
            recall: Recall::with_embedder(store.clone(), config.recall, embedder),
            store,
            commits,
            waiters: Arc::new(Semaphore::new(config.max_waiters)),
            config: Arc::new(config),
            control: None,
            generations: None,
            estimates: Estimates::default(),
        }
    }

    /// The same, keeping tenants and their keys there.
    #[must_use]
    pub fn with_control(self, control: Arc<dyn ControlStore>) -> Self {
        Self { control: Some(control), ..self }
    }

    /// The same, keeping generations there, and estimating replays by these settings.
    #[must_use]
    pub fn with_generations(self, generations: Arc<dyn GenerationStore>, estimates: Estimates) -> Self {
        Self { generations: Some(generations), estimates, ..self }
    }

    /// Where generations are kept.
    fn generations(&self) -> Result<&Arc<dyn GenerationStore>, Problem> {
        self.generations.as_ref().ok_or_else(|| Problem::not_found("no generations are kept here"))
    }

    /// Where tenants and their keys are kept.
    fn control(&self) -> Result<&Arc<dyn ControlStore>, Problem> {
        self.control.as_ref().ok_or_else(|| Problem::not_found("no tenants are kept here"))
    }

    /// Recall, for callers in the same process.
    #[must_use]
    pub fn recall(&self) -> &Recall {
        &self.recall
    }

    /// Who recalls through these routes.
    #[must_use]
    pub fn readers(&self) -> Readers {
        self.config.readers.clone()
    }
}

/// Every route.
pub fn router(state: ApiState) -> Router {
    Router::new()
        .route("/v1/recall", post(recall::single))
        .route("/v1/recall/batch", post(recall::batch))
        .route("/v1/entities", get(facts::entities))
        .route("/v1/entities/{entity_id}/facts", get(facts::of_entity))
        .route("/v1/entities/{entity_id}/export", get(export::export))
        .route("/v1/facts/{fact_id}", get(facts::by_id))
        .route("/v1/facts/{fact_id}/lineage", get(facts::lineage))
        .route("/v1/erasures/{erasure_id}", get(facts::erasure))
        .route("/v1/admin/dead-letters", get(dead_letters::list))
        .route("/v1/admin/dead-letters/{id}", get(dead_letters::show))
        .route("/v1/admin/lineages", get(lineages::list))
        .route("/v1/admin/tenants", get(tenants::list).post(tenants::create))
        .route("/v1/admin/tenants/{tenant}", get(tenants::show).patch(tenants::change))
        .route("/v1/admin/tenants/{tenant}/keys", get(keys::list).post(keys::create))
        .route("/v1/admin/tenants/{tenant}/keys/{key_id}", get(keys::show).delete(keys::revoke))
        .route("/v1/admin/tenants/{tenant}/keys/{key_id}/rotate", post(keys::rotate))
        .route("/v1/admin/tenants/{tenant}/quotas", get(tenants::quotas).put(tenants::set_quotas))
        .route("/v1/admin/tenants/{tenant}/usage", get(usage::of_tenant))
        .route("/v1/admin/usage", get(usage::of_all))
        .route("/v1/admin/audit", get(usage::audit))
        .route("/v1/admin/replays", get(replays::list).post(replays::start))
        .route("/v1/admin/replays/estimate", post(replays::estimate))
        .route("/v1/admin/replays/{generation}", get(replays::show))
        .route("/v1/admin/replays/{generation}/diff", get(replays::diff))
        .route("/v1/admin/replays/{generation}/{act}", post(replays::act))
        .route("/internal/v1/acts", post(usage::note))
        .route("/internal/v1/generations", get(generations::followed))
        .route("/internal/v1/generations/{generation}/recall", post(recall::of_generation))
        .route("/internal/v1/generations/made", post(generations::made))
        .route("/internal/v1/keys/grants", post(keys::grants))
        .route("/internal/v1/keys/used", post(keys::used))
        .route("/internal/v1/tenants/standings", post(tenants::standings))
        .route("/internal/v1/dead-letters/redrivable", post(dead_letters::redrivable))
        .route("/internal/v1/lineages/entities", post(lineages::entities))
        .route("/internal/v1/lineages/withdrawn", post(lineages::withdrawn))
        .route("/internal/v1/events/status", post(events::status))
        .route("/internal/v1/events/wait", post(events::wait))
        .route("/internal/v1/events/known", post(events::known))
        .route("/internal/v1/facts/{fact_id}/forget", get(facts::forget_target))
        .route("/internal/v1/controls/wait", post(events::controls_wait))
        .fallback(|| async { Problem::not_found("there is no such route") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .with_state(state)
}

/// Lets in only requests with `authorization: Bearer TOKEN`, compared in constant time.
pub fn with_internal_token(router: Router, token: impl Into<String>) -> Router {
    let expected: Arc<str> = format!("Bearer {}", token.into()).into();
    router.layer(axum::middleware::from_fn(move |request: Request, next: Next| {
        let expected = expected.clone();
        async move { guarded(&expected, request, next).await }
    }))
}

/// Answers only who means this machine: without a token, whoever reaches the listener names the tenant himself, and a web page whose
/// name resolves to a loopback address reaches it.
pub fn with_own_host(router: Router) -> Router {
    router.layer(axum::middleware::from_fn(async |request: Request, next: Next| {
        if memori_service::host::means_this_machine(&request) {
            return next.run(request).await;
        }
        let why =
            "the request's `Host` is not a name of this machine: without auth.internal_token only loopback names are answered";
        Problem::new(axum::http::StatusCode::FORBIDDEN, why).into_response()
    }))
}

async fn guarded(expected: &str, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    if bool::from(given.ct_eq(expected.as_bytes())) { next.run(request).await } else { Problem::unauthorized().into_response() }
}

/// A read that failed, as an answer: it may work again in a moment.
fn unreadable(error: ReadError) -> Problem {
    if let ReadError::Corrupt(_) = error {
        tracing::error!(error = &error as &dyn std::error::Error, "a read found what it should not");
        return Problem::internal();
    }
    tracing::warn!(error = &error as &dyn std::error::Error, "a read failed");
    Problem::unavailable("the store cannot be read now", 1)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn without_a_token_only_names_of_this_machine_are_answered() {
        let router = with_own_host(Router::new().route("/v1/entities", get(async || "all of a tenant")));
        for (host, status) in [
            ("127.0.0.1:7702", StatusCode::OK),
            ("localhost:7702", StatusCode::OK),
            ("evil.example:7702", StatusCode::FORBIDDEN),
            ("10.0.0.1", StatusCode::FORBIDDEN),
        ] {
            let request = Request::get("/v1/entities").header("host", host).header("x-memori-tenant", "acme").body(Body::empty());
            let answer = router.clone().oneshot(request.expect("a request")).await.expect("an answer");
            assert_eq!(answer.status(), status, "{host}");
        }
    }
}
