//! The way to the writer: over HTTP, or to its router in the same process. Both take the same requests.
//!
//! Promises: a request carries our tenant and our token, never the caller's credentials; what the writer says about itself (that it
//! refuses our token, that it is broken) reaches the caller as 503 only.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper_tls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use memori_service::problem::Problem;
use memori_service::{Secret, trace_context};
use serde_json::Value;
use tower::ServiceExt as _;

use crate::remote::Platform;
use crate::shown_url::without_credentials;

/// The header that names the tenant.
pub const TENANT_HEADER: &str = "x-memori-tenant";

/// The header that names who administers.
pub const ACTOR_HEADER: HeaderName = HeaderName::from_static("x-memori-actor");

/// The most that an internal answer may hold: 1,000 events with 1,000 messages each fit.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Headers of an answer that are passed on.
pub(crate) const PASSED_ON: [HeaderName; 5] =
    [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::RETRY_AFTER, header::CONTENT_DISPOSITION, header::CACHE_CONTROL];

/// Why there is no usable answer of the writer.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// It is away, or too slow.
    #[error("the writer is not reachable: {0}")]
    Unreachable(String),
    /// It answered something that is not in the contract.
    #[error("the writer answered {status}: {detail}")]
    Unexpected {
        /// Its status.
        status: StatusCode,
        /// Some of its words.
        detail: String,
    },
    /// Its address is not usable; says what to change.
    #[error("{0}")]
    Address(String),
}

impl BackendError {
    /// What the caller is told.
    #[must_use]
    pub fn to_problem(&self) -> Problem {
        tracing::warn!(error = %self, "no answer from the writer");
        Problem::unavailable("the writer, which answers reads, is not reachable now", 1)
    }
}

/// The writer over HTTP.
#[derive(Clone)]
pub struct HttpWriter {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    scheme: http::uri::Scheme,
    authority: http::uri::Authority,
    /// In front of every path, without a slash at its end.
    base_path: String,
    authorization: Option<HeaderValue>,
}

/// The writer.
#[derive(Clone)]
pub enum WriterBackend {
    /// A process of its own.
    Http(HttpWriter),
    /// In this process.
    InProcess(Router),
    /// A platform's front door: reads and deletions are its own to judge.
    Remote(Arc<Platform>),
}

impl std::fmt::Debug for WriterBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(writer) => write!(f, "Http({})", writer.authority),
            Self::InProcess(_) => f.write_str("InProcess"),
            Self::Remote(platform) => platform.fmt(f),
        }
    }
}

impl WriterBackend {
    /// The writer at `base_url`, with the internal token where there is one.
    ///
    /// # Errors
    /// [`BackendError::Address`] where the URL or the token cannot be used.
    pub fn http(base_url: &str, token: Option<&Secret>) -> Result<Self, BackendError> {
        let bad = |why: &str| BackendError::Address(format!("ingest.writer_url is {}: {why}", without_credentials(base_url)));
        let uri: Uri = base_url.parse().map_err(|_| bad("not a URL"))?;
        let parts = uri.into_parts();
        let scheme = parts
            .scheme
            .filter(|s| ["http", "https"].contains(&s.as_str()))
            .ok_or_else(|| bad("it must be http:// or https://"))?;
        let authority = parts.authority.ok_or_else(|| bad("no host"))?;
        let base_path = parts.path_and_query.map(|p| p.path().trim_end_matches('/').to_owned()).unwrap_or_default();
        let authorization = match token {
            None => None,
            Some(token) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                    .map_err(|_| BackendError::Address("auth.internal_token must be printable ASCII".to_owned()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let client = https_client("the writer")?;
        Ok(Self::Http(HttpWriter { client, scheme, authority, base_path, authorization }))
    }

    /// A request on behalf of `tenant`. `path_and_query` is passed on as it is, byte for byte.
    fn request(&self, tenant: &str, method: Method, path_and_query: &str, body: Body) -> Result<Request<Body>, BackendError> {
        let unusable = |e: http::Error| BackendError::Address(e.to_string());
        let mut builder = Request::builder().method(method);
        match self {
            Self::InProcess(_) | Self::Remote(_) => builder = builder.uri(path_and_query),
            Self::Http(writer) => {
                let uri = Uri::builder()
                    .scheme(writer.scheme.clone())
                    .authority(writer.authority.clone())
                    .path_and_query(format!("{}{path_and_query}", writer.base_path))
                    .build()
                    .map_err(unusable)?;
                builder = builder.uri(uri);
                if let Some(authorization) = &writer.authorization {
                    builder = builder.header(header::AUTHORIZATION, authorization.clone());
                }
            }
        }
        if let Some(traceparent) = trace_context::traceparent_of(&tracing::Span::current()) {
            builder = builder.header(trace_context::TRACEPARENT, traceparent);
        }
        builder.header(TENANT_HEADER, tenant).body(body).map_err(unusable)
    }

    async fn send(&self, request: Request<Body>, timeout: Duration) -> Result<Response<Body>, BackendError> {
        match self {
            Self::Remote(_) => Err(BackendError::Unreachable("a platform is asked by its own routes".to_owned())),
            Self::InProcess(router) => router.clone().oneshot(request).await.map_err(|never| match never {}),
            Self::Http(writer) => match tokio::time::timeout(timeout, writer.client.request(request)).await {
                Err(_) => Err(BackendError::Unreachable(format!("no answer within {} ms", timeout.as_millis()))),
                Ok(Err(error)) => Err(BackendError::Unreachable(with_sources(&error))),
                Ok(Ok(response)) => Ok(response.map(Body::new)),
            },
        }
    }

    /// Asks one of the writer's internal routes. `None` where it answers 404.
    ///
    /// # Errors
    /// Where it does not answer within `timeout` (which a call inside the process does not have), or not as agreed.
    pub async fn ask(
        &self,
        tenant: &str,
        path: &str,
        question: Option<&Value>,
        timeout: Duration,
    ) -> Result<Option<Value>, BackendError> {
        if let Self::Remote(platform) = self {
            return platform.ask_as_writer(path, question, timeout).await;
        }
        let (method, body) = match question {
            None => (Method::GET, Body::empty()),
            Some(question) => (Method::POST, Body::from(question.to_string())),
        };
        let mut request = self.request(tenant, method, path, body)?;
        if question.is_some() {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let asking = async {
            let response = self.send(request, timeout).await?;
            let status = response.status();
            let bytes = axum::body::to_bytes(response.into_body(), MAX_ANSWER_BYTES)
                .await
                .map_err(|e| BackendError::Unreachable(with_sources(&e)))?;
            Ok((status, bytes))
        };
        let (status, bytes) = match self {
            Self::InProcess(_) | Self::Remote(_) => asking.await?,
            Self::Http(_) => tokio::time::timeout(timeout, asking)
                .await
                .map_err(|_| BackendError::Unreachable(format!("no answer within {} ms", timeout.as_millis())))??,
        };
        let unexpected =
            || BackendError::Unexpected { status, detail: String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned() };
        match status {
            StatusCode::OK => serde_json::from_slice(&bytes).map(Some).map_err(|_| unexpected()),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(unexpected()),
        }
    }

    /// Whether deletions are passed on as they are, as reads are.
    #[must_use]
    pub fn takes_deletions(&self) -> bool {
        matches!(self, Self::Remote(_))
    }

    /// Passes a read on, and streams its answer back.
    ///
    /// # Errors
    /// 503 where the writer does not answer or is broken.
    pub async fn forward(
        &self,
        tenant: &str,
        method: Method,
        path_and_query: &str,
        headers: &HeaderMap,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Response<Body>, Problem> {
        if let Self::Remote(platform) = self {
            let passed = platform.forward(method, path_and_query, headers, body, timeout).await;
            return passed.map_err(|away| {
                tracing::debug!(why = away.0, "no answer from the platform");
                Problem::unavailable("the platform, which answers reads, is not reachable now", 1)
            });
        }
        let mut request = self.request(tenant, method, path_and_query, Body::from(body)).map_err(|e| e.to_problem())?;
        for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::ACCEPT, ACTOR_HEADER] {
            if let Some(value) = headers.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        let response = self.send(request, timeout).await.map_err(|e| e.to_problem())?;
        let (parts, body) = response.into_parts();
        let ours = matches!(parts.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if ours || (parts.status.is_server_error() && parts.status != StatusCode::SERVICE_UNAVAILABLE) {
            let detail = "for a forwarded read".to_owned();
            return Err(BackendError::Unexpected { status: parts.status, detail }.to_problem());
        }
        let mut passed = Response::new(body);
        *passed.status_mut() = parts.status;
        for name in PASSED_ON {
            if let Some(value) = parts.headers.get(&name) {
                passed.headers_mut().insert(name, value.clone());
            }
        }
        Ok(passed)
    }
}

/// A client for one server of ours; `whom` is for the error.
pub(crate) fn https_client(whom: &str) -> Result<Client<HttpsConnector<HttpConnector>, Body>, BackendError> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(Duration::from_secs(2)));
    let tls = hyper_tls::native_tls::TlsConnector::new()
        .map_err(|e| BackendError::Address(format!("no TLS for the way to {whom}: {e}")))?;
    let connector = HttpsConnector::from((connector, tls.into()));
    Ok(Client::builder(TokioExecutor::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_timer(TokioTimer::new())
        .retry_canceled_requests(true)
        .build(connector))
}

/// An error with what lies below it, on one line.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
