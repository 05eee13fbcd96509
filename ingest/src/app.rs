//! The router of the front door, used by the process of its own and by the embedded one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
#[cfg(not(feature = "backfill"))]
use axum::routing::any;
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Router};
use http::{HeaderValue, Method, Uri, header};
use memori_service::auth::{Binding, Principal};
use memori_service::metrics_endpoint::bucket_of_seconds;
use memori_service::problem::{Answer, Problem};
use memori_service::trace_context;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument as _;

#[cfg(feature = "backfill")]
use crate::handlers::backfills;
use crate::handlers::{admin, dead_letters, erase, events, lineages, path_id, reads};
use crate::state::IngestState;
use crate::{metrics, routes};

/// The document that describes every route.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// Every route of the front door, guarded and bounded.
pub fn app(state: IngestState) -> Router {
    let state = Arc::new(state);
    let mut router: Router<Arc<IngestState>> = Router::new();
    for path in declared_paths() {
        router = router.route(path, handlers_of(path));
    }
    router
        .route_layer(middleware::from_fn_with_state(Arc::clone(&state), guard))
        .fallback(async || no_route())
        .layer(CatchPanicLayer::custom(|panic: Box<dyn std::any::Any + Send>| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            tracing::error!(panic = text.unwrap_or("of unknown kind"), "a handler panicked");
            Problem::internal().into_response()
        }))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), own_host))
        .layer(middleware::from_fn(observe))
        .with_state(state)
}

#[cfg(not(feature = "backfill"))]
async fn no_backfills() -> Problem {
    Problem::not_found("this front door keeps no backfills")
}

/// Each path of the table once.
fn declared_paths() -> Vec<&'static str> {
    let mut paths: Vec<&'static str> = routes::ROUTES.iter().map(|route| route.path).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

fn handlers_of(path: &str) -> MethodRouter<Arc<IngestState>> {
    match path {
        "/v1/events" => post(events::post_one),
        "/v1/events/batch" => post(events::post_batch).get(events::status),
        "/v1/events/wait" => post(events::wait).get(events::status),
        "/v1/events/{event_id}" => get(events::status),
        "/v1/recall" | "/v1/recall/batch" => post(reads::recall),
        "/v1/entities" | "/v1/entities/{entity_id}/facts" | "/v1/entities/{entity_id}/export" | "/v1/facts/{fact_id}/lineage" => {
            get(reads::forward)
        }
        "/v1/entities/{entity_id}" => axum::routing::delete(erase::erase_entity),
        "/v1/facts/{fact_id}" => get(reads::forward).delete(erase::forget_fact),
        "/v1/erasures/{erasure_id}" => get(erase::receipt),
        "/v1/admin/dead-letters" | "/v1/admin/dead-letters/{id}" => get(reads::forward),
        "/v1/admin/dead-letters/redrive" => post(dead_letters::redrive),
        #[cfg(feature = "backfill")]
        "/v1/admin/backfills" => get(backfills::list).post(backfills::begin),
        #[cfg(feature = "backfill")]
        "/v1/admin/backfills/{backfill_id}" => get(backfills::get).delete(backfills::delete),
        #[cfg(feature = "backfill")]
        "/v1/admin/backfills/{backfill_id}/pause"
        | "/v1/admin/backfills/{backfill_id}/resume"
        | "/v1/admin/backfills/{backfill_id}/cancel" => post(backfills::act),
        #[cfg(not(feature = "backfill"))]
        path if path.starts_with("/v1/admin/backfills") => any(no_backfills),
        "/v1/admin/lineages" => get(reads::forward),
        "/v1/admin/lineages/withdraw" => post(lineages::withdraw),
        "/v1/admin/lineages/re-extract" => post(lineages::re_extract),
        "/v1/admin/tenants" | "/v1/admin/tenants/{tenant}/keys" => get(admin::forward).post(admin::forward),
        "/v1/admin/tenants/{tenant}" => get(admin::forward).patch(admin::forward),
        "/v1/admin/tenants/{tenant}/keys/{key_id}" => get(admin::forward).delete(admin::forward),
        "/v1/admin/tenants/{tenant}/keys/{key_id}/rotate" => post(admin::forward),
        "/v1/admin/tenants/{tenant}/quotas" => get(admin::forward).put(admin::forward),
        "/v1/admin/replays" => get(admin::forward).post(admin::forward),
        "/v1/admin/replays/{generation}" | "/v1/admin/replays/{generation}/diff" => get(admin::forward),
        "/v1/admin/replays/estimate" | "/v1/admin/replays/{generation}/{act}" => post(admin::forward),
        "/v1/admin/tenants/{tenant}/usage" | "/v1/admin/usage" | "/v1/admin/audit" => get(admin::forward),
        "/openapi.json" => get(async || ([(header::CONTENT_TYPE, "application/json")], OPENAPI)),
        other => unreachable!("{other} is declared and has no handler"),
    }
}

/// Without keys, answers only who means this machine: a page whose name resolves to it means another.
async fn own_host(State(state): State<Arc<IngestState>>, request: Request, next: Next) -> Response {
    if !state.keys.has_keys() && !memori_service::host::means_this_machine(&request) {
        metrics::host_refused();
        return Problem::new(
            http::StatusCode::FORBIDDEN,
            "the request's `Host` is not a name of this machine: without keys only localhost and loopback addresses are answered",
        )
        .into_response();
    }
    next.run(request).await
}

/// Lets nothing through that is not in the table of routes, without its right, or beyond the bound of requests.
async fn guard(State(state): State<Arc<IngestState>>, path: MatchedPath, mut request: Request, next: Next) -> Response {
    if has_empty_id(path.as_str(), request.uri().path()) {
        return no_route();
    }
    let Some(route) = routes::find(path.as_str(), request.method()) else {
        let mut response = Problem::method_not_allowed().into_response();
        if let Ok(allow) = HeaderValue::from_str(&routes::allowed(path.as_str())) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        return response;
    };
    if let Some(right) = route.right {
        let admitted = state.authenticate(request.headers()).await;
        let admitted = admitted.and_then(|principal| {
            principal.require(right)?;
            within_binding(&principal, route, request.uri())?;
            within_tenant(&principal, route, request.uri())?;
            Ok(principal)
        });
        let principal = match admitted {
            Ok(principal) => principal,
            Err(problem) => return problem.into_response(),
        };
        request.extensions_mut().insert(principal);
        if let Some(problem) = unknown_parameter(request.uri()).filter(|_| !routes::takes_parameters(route)) {
            return problem.into_response();
        }
    }
    let _place = match state.limits.admit(route.path == "/v1/events/wait") {
        Ok(place) => place,
        Err(problem) => {
            if route.right == Some(memori_service::auth::Right::Events) && route.method == Method::POST {
                metrics::rejected(problem.status);
            }
            return problem.into_response();
        }
    };
    next.run(request).await
}

/// Passes where a key that is bound to entities may call: what a body names, its handler judges.
fn within_binding(principal: &Principal, route: &routes::Route, uri: &Uri) -> Answer<()> {
    match (&principal.binding, routes::names_entity(route)) {
        (Binding::Any, _) | (_, routes::Named::Body) => Ok(()),
        (binding, routes::Named::Path) if binding.covers(&path_id(uri, 2, "entity_id")?) => Ok(()),
        (_, routes::Named::Path) => Err(out_of_binding()),
        (_, routes::Named::Nowhere) => {
            Err(Problem::new(http::StatusCode::FORBIDDEN, "the key is bound to entities, and this route names none"))
        }
    }
}

/// Passes where a key administers what the path names. Of another tenant it is not told whether there is one.
fn within_tenant(principal: &Principal, route: &routes::Route, uri: &Uri) -> Answer<()> {
    if principal.is_operator() {
        return Ok(());
    }
    if route.path.starts_with("/v1/admin/tenants/{tenant}") && path_id(uri, 3, "tenant")? != *principal.tenant {
        return Err(Problem::not_found("there is no such tenant"));
    }
    if routes::takes_operator(route) {
        let why = "the key administers one tenant; this takes a key that is bound to `*`";
        return Err(Problem::new(http::StatusCode::FORBIDDEN, why));
    }
    Ok(())
}

/// What a key that is bound to entities is told of another.
pub(crate) fn out_of_binding() -> Problem {
    Problem::new(http::StatusCode::FORBIDDEN, "the key is bound to other entities than this one")
}

fn no_route() -> Response {
    Problem::not_found("no such route").into_response()
}

/// What a route that reads no query parameters says to the first that is given.
fn unknown_parameter(uri: &Uri) -> Option<Problem> {
    let given = uri.query()?.split('&').find(|pair| !pair.is_empty())?;
    let name = given.split('=').next().unwrap_or_default();
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
    Some(Problem::invalid_field(memori_service::problem::join("", &name), "is not a known parameter"))
}

/// Whether an id of the declared path is empty in this one: that is another path, which is not there.
fn has_empty_id(declared: &str, path: &str) -> bool {
    declared.split('/').zip(path.split('/')).any(|(declared, given)| declared.starts_with('{') && given.is_empty())
}

/// Counts and times every request, inside a span that continues the caller's trace.
async fn observe(path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let _in_flight = metrics::InFlight::begin();
    let route = path.as_ref().map_or("unknown", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let span = tracing::info_span!("request", %method, route, status = tracing::field::Empty);
    if let Some(parent) = request.headers().get(trace_context::TRACEPARENT) {
        trace_context::set_parent(&span, parent.as_bytes());
    }
    let response = next.run(request).instrument(span.clone()).await;
    span.record("status", response.status().as_u16());
    let took = started.elapsed();
    metrics::answered(&route, &method, response.status(), took);
    if took >= SLOW && !WAITS.contains(&route.as_str()) && may_tell_of_another() {
        let seconds = took.as_secs_f64();
        // What an exemplar would be: the bucket of the histogram, and the trace.
        span.in_scope(|| tracing::info!(seconds, bucket = bucket_of_seconds(seconds), "a slow request"));
    }
    response
}

/// A request that takes so long is told of. It is a bound of the histogram's buckets.
const SLOW: Duration = Duration::from_secs(1);
/// Routes that take as long as their caller asks.
const WAITS: [&str; 1] = ["/v1/events/wait"];
/// Between two lines about slow requests: when all are slow, some say so.
const BETWEEN_SLOW: Duration = Duration::from_millis(100);

fn may_tell_of_another() -> bool {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let now = Instant::now();
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let may = last.is_none_or(|last| now.duration_since(last) >= BETWEEN_SLOW);
    if may {
        *last = Some(now);
    }
    may
}

/// What every guarded handler gets of its caller.
pub(crate) type Caller = Extension<Principal>;
