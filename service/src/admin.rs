//! `/healthz`, `/readyz` and `/metrics`.

use std::fmt::Write as _;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use crate::health::Health;
use crate::problem::Problem;
use crate::process::ProcessError;
use crate::server::{self, ServerBounds};

/// The three routes; the embedded process serves them beside its API.
pub fn router(health: Health, metrics: PrometheusHandle) -> Router {
    let upkeep = metrics.clone();
    Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(readyz).with_state(health))
        .route("/metrics", get(serve_metrics).with_state(upkeep))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .fallback(async || Problem::not_found("no such route"))
}

async fn readyz(State(health): State<Health>) -> Response {
    match health.readiness() {
        Ok(()) => {
            let mut text = "ready\n".to_owned();
            for lack in health.degradations() {
                let _ = writeln!(text, "degraded: {lack}");
            }
            (StatusCode::OK, text).into_response()
        }
        Err(reasons) => {
            let mut text = String::new();
            for reason in reasons {
                let _ = writeln!(text, "{reason}");
            }
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn serve_metrics(State(handle): State<PrometheusHandle>) -> Response {
    handle.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render()).into_response()
}

/// Binds an address; port 0 takes a free one.
///
/// # Errors
/// [`ProcessError::Usage`], naming the key to change, where the address cannot be had.
pub async fn bind(key: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), ProcessError> {
    let refused = |e: std::io::Error| ProcessError::Usage(format!("cannot listen on {address}: {e}; change {key}"));
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    Ok((listener, bound))
}

/// Serves `router` until `stop`, then finishes the requests that are under way.
pub async fn serve(listener: TcpListener, router: Router, stop: tokio_util::sync::CancellationToken) {
    server::serve(listener, router, stop, ServerBounds::default()).await;
}
