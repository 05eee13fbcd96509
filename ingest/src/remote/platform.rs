//! The way to the platform: one HTTP client, its key, and what is known of how it stands.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper_tls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use memori_service::Secret;
use memori_service::problem::Problem;
use tokio::time::Instant;

use super::events::MAX_EVENTS;
use crate::backend::{BackendError, PASSED_ON, https_client, with_sources};
use crate::shown_url::without_credentials;

/// How long the platform is left alone after it refused the key.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause that a platform is given, whatever it asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A pause that is asked for without a length.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);
/// The most refused events that are remembered.
const MAX_REFUSED: usize = 10_000;

/// Why there is no usable answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Away(pub(crate) String);

/// The platform.
pub struct Platform {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    scheme: http::uri::Scheme,
    authority: http::uri::Authority,
    base_path: String,
    authorization: Option<HeaderValue>,
    batch_events: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What somebody has to change before events are taken.
    complaint: Option<String>,
    /// Before this it is not asked.
    not_before: Option<Instant>,
    /// What it said when it refused for quota, until it takes something again.
    quota: Option<String>,
    /// Events that it refuses for good, with why.
    refused: HashMap<String, Refused>,
    oldest_first: VecDeque<String>,
}

/// Why an event is refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// `refused_422` and the like.
    pub class: String,
    /// The platform's words.
    pub reason: String,
}

impl Platform {
    /// The platform whose front door is at `url`, with the key that names the tenant.
    ///
    /// # Errors
    /// [`BackendError::Address`] where URL or key cannot be used.
    pub fn new(url: &str, api_key: Option<&Secret>) -> Result<Arc<Self>, BackendError> {
        let bad = |why: &str| BackendError::Address(format!("the platform's URL is {}: {why}", without_credentials(url)));
        let uri: Uri = url.parse().map_err(|_| bad("not a URL"))?;
        let parts = uri.into_parts();
        let scheme = parts.scheme.filter(|s| ["http", "https"].contains(&s.as_str()));
        let scheme = scheme.ok_or_else(|| bad("it must be http:// or https://"))?;
        let authority = parts.authority.ok_or_else(|| bad("no host"))?;
        let base_path = parts.path_and_query.map(|p| p.path().trim_end_matches('/').to_owned()).unwrap_or_default();
        let authorization = match api_key {
            None => None,
            Some(key) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
                    .map_err(|_| BackendError::Address("the API key must be printable ASCII".to_owned()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let client = https_client("the platform")?;
        let batch_events = AtomicUsize::new(MAX_EVENTS);
        Ok(Arc::new(Self { client, scheme, authority, base_path, authorization, batch_events, state: Mutex::default() }))
    }

    /// How many events one request carries at most.
    #[must_use]
    pub fn batch_events(&self) -> usize {
        self.batch_events.load(Ordering::Relaxed)
    }

    /// From the next request on; at least one, and no more than a platform takes.
    pub fn set_batch_events(&self, count: usize) {
        self.batch_events.store(count.clamp(1, MAX_EVENTS), Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What somebody has to change before events are taken.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        self.state().complaint.clone()
    }

    /// Why the platform refuses this event for good, where it does.
    #[must_use]
    pub fn refusal(&self, event_id: &str) -> Option<Refused> {
        self.state().refused.get(event_id).cloned()
    }

    /// The platform refuses this event for good.
    pub(crate) fn refuse(&self, event_id: &str, refused: Refused) {
        let mut state = self.state();
        if state.refused.insert(event_id.to_owned(), refused).is_none() {
            state.oldest_first.push_back(event_id.to_owned());
            if state.oldest_first.len() > MAX_REFUSED
                && let Some(oldest) = state.oldest_first.pop_front()
            {
                state.refused.remove(&oldest);
            }
        }
    }

    /// Sends a request. An answer of any status is one.
    pub(crate) async fn send(
        &self,
        method: Method,
        path_and_query: &str,
        headers: &HeaderMap,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Response<Body>, Away> {
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(format!("{}{path_and_query}", self.base_path))
            .build()
            .map_err(|error| Away(error.to_string()))?;
        let mut request = Request::builder().method(method).uri(uri);
        for name in [header::CONTENT_TYPE, header::ACCEPT] {
            if let Some(value) = headers.get(&name) {
                request = request.header(name, value.clone());
            }
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        let request = request.body(Body::from(body)).map_err(|error| Away(error.to_string()))?;
        match tokio::time::timeout(timeout, self.client.request(request)).await {
            Err(_) => Err(Away(format!("{} did not answer within {} ms", self.authority.host(), timeout.as_millis()))),
            Ok(Err(error)) => Err(Away(with_sources(&error))),
            Ok(Ok(response)) => Ok(response.map(Body::new)),
        }
    }

    /// As [`Platform::send`], for a JSON question about events, with the whole answer read within the time. A platform that asked for a
    /// pause, or refuses the key, is not asked before its time.
    pub(crate) async fn ask_events(
        &self,
        method: Method,
        path: &str,
        question: Option<Bytes>,
        max_answer_bytes: usize,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), Away> {
        if let Some(why) = self.paused(Instant::now()) {
            return Err(Away(why));
        }
        let mut headers = HeaderMap::new();
        if question.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let asking = async {
            let response = self.send(method, path, &headers, question.unwrap_or_default(), timeout).await?;
            let (parts, body) = response.into_parts();
            let bytes = axum::body::to_bytes(body, max_answer_bytes).await.map_err(|error| Away(with_sources(&error)))?;
            Ok((parts, bytes))
        };
        let late = || Away(format!("{} did not answer within {} ms", self.authority.host(), timeout.as_millis()));
        let (parts, bytes) = tokio::time::timeout(timeout, asking).await.map_err(|_| late())??;
        self.heard(parts.status, &parts.headers, Instant::now());
        self.heard_of_quota(parts.status, &parts.headers, &bytes);
        Ok((parts.status, bytes))
    }

    /// While it refuses for quota: what it said, and how long it is not asked again.
    #[must_use]
    pub fn quota(&self) -> Option<(String, Duration)> {
        let state = self.state();
        let said = state.quota.clone()?;
        let left = state.not_before?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        Some((said, left))
    }

    /// Anybody on the way may say 429; of quota it speaks only as problem details, or with a time.
    fn heard_of_quota(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) {
        if status == StatusCode::TOO_MANY_REQUESTS {
            let of_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let is_problem = of_type.is_some_and(|of_type| of_type.trim_start().starts_with(Problem::CONTENT_TYPE));
            let problem: Option<serde_json::Value> = if is_problem { serde_json::from_slice(body).ok() } else { None };
            let problem = problem.filter(|problem| problem["type"].is_string() || problem["title"].is_string());
            if problem.is_some() || headers.contains_key(header::RETRY_AFTER) {
                let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
                self.state().quota = Some(detail.unwrap_or("the platform takes no more events for now").to_owned());
            }
        } else if status.is_success() {
            self.state().quota = None;
        }
    }

    /// Why it is not asked now, where it is not.
    fn paused(&self, now: Instant) -> Option<String> {
        let state = self.state();
        let left = state.not_before?.checked_duration_since(now).filter(|left| !left.is_zero())?;
        let why = state.complaint.clone().unwrap_or_else(|| "the platform asked for a pause".to_owned());
        Some(format!("{why}; it is asked again in {} ms", left.as_millis()))
    }

    /// What an answer's status says about the next request.
    fn heard(&self, status: StatusCode, headers: &HeaderMap, now: Instant) {
        let mut state = self.state();
        let standing = match status {
            StatusCode::UNAUTHORIZED => Some("the platform does not know the API key; check it".to_owned()),
            StatusCode::FORBIDDEN => Some("the API key may not post events; give it the right `events`".to_owned()),
            StatusCode::METHOD_NOT_ALLOWED => {
                Some("what answers at the platform's URL is no front door of ours; check the URL".to_owned())
            }
            _ => None,
        };
        state.not_before = match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Some(now + pause_asked_for(headers)),
            _ if standing.is_some() => Some(now + REFUSED_PAUSE),
            _ => None,
        };
        // A passing failure says nothing about the key.
        if status.is_success() || standing.is_some() {
            if let Some(why) = standing.as_ref().filter(|why| state.complaint.as_ref() != Some(*why)) {
                tracing::error!(why, "the platform takes no events");
            }
            state.complaint = standing;
        }
    }

    /// Passes a read or a deletion on, and streams its answer back.
    pub(crate) async fn forward(
        &self,
        method: Method,
        path_and_query: &str,
        headers: &HeaderMap,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Response<Body>, Away> {
        let (parts, body) = self.send(method, path_and_query, headers, body, timeout).await?.into_parts();
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

impl std::fmt::Debug for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Platform({})", self.authority.host())
    }
}

/// `Retry-After` in seconds, with some of it added at random so that not all come back at once.
fn pause_asked_for(headers: &HeaderMap) -> Duration {
    let seconds =
        headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.trim().parse().ok());
    let asked = seconds.map_or(DEFAULT_PAUSE, Duration::from_secs).min(LONGEST_PAUSE);
    asked.mul_f64(rand::random_range(1.0..1.25))
}
