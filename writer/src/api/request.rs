//! What the routes take from a request beside its body: tenant, path and query parameters.

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, RawQuery};
use http::HeaderMap;
use http::request::Parts;
use memori_schemas::FactId;
use memori_service::problem::{Answer, BodyBounds, FieldErrors, Problem, read_json};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use uuid::Uuid;

use super::TENANT_HEADER;

/// Bytes of an `entity_id`.
pub(super) const MAX_ENTITY_ID_BYTES: usize = 256;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Whose data a request is about.
pub(super) struct Tenant(pub(super) String);

impl<S: Sync> FromRequestParts<S> for Tenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let value = parts.headers.get(TENANT_HEADER).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
        value.filter(|tenant| !tenant.is_empty()).map(|tenant| Self(tenant.to_owned())).ok_or_else(Problem::unauthorized)
    }
}

/// A path parameter that is the tenant's own text.
pub(super) struct EntityId(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for EntityId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        let Ok(Path(entity_id)) = path else { return Err(Problem::invalid_field("entity_id", "must be UTF-8, percent-encoded")) };
        if !(1..=MAX_ENTITY_ID_BYTES).contains(&entity_id.len()) {
            return Err(Problem::invalid_field("entity_id", format!("must be 1 to {MAX_ENTITY_ID_BYTES} bytes of UTF-8")));
        }
        if entity_id.contains('\0') {
            return Err(Problem::invalid_field("entity_id", "must not contain U+0000"));
        }
        Ok(Self(entity_id))
    }
}

/// A path parameter that names a fact. What cannot be a fact's id names none.
pub(super) struct FactPath(pub(super) FactId);

impl<S: Send + Sync> FromRequestParts<S> for FactPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        let id = path.ok().and_then(|Path(text)| Uuid::try_parse(&text).ok());
        id.map(|id| Self(FactId(id))).ok_or_else(no_such_fact)
    }
}

pub(super) fn no_such_fact() -> Problem {
    Problem::not_found("there is no such fact")
}

/// Query parameters: each at most once, and none but those that are taken.
pub(super) struct QueryParameters {
    given: Vec<(String, String)>,
    errors: FieldErrors,
}

impl<S: Send + Sync> FromRequestParts<S> for QueryParameters {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let RawQuery(raw) = RawQuery::from_request_parts(parts, state).await.unwrap_or(RawQuery(None));
        let mut given: Vec<(String, String)> = Vec::new();
        let mut errors = FieldErrors::default();
        for pair in raw.as_deref().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (decoded(name), decoded(value)) {
                (Some(name), Some(value)) => {
                    if given.iter().any(|(known, _)| *known == name) {
                        errors.push(name, "is given more than once");
                    } else {
                        given.push((name, value));
                    }
                }
                _ => errors.push("", "the query string must be UTF-8, percent-encoded"),
            }
        }
        Ok(Self { given, errors })
    }
}

fn decoded(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

impl QueryParameters {
    /// A parameter as `read` takes it. An empty one is an absent one.
    pub(super) fn take<T>(&mut self, name: &str, expected: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let place = self.given.iter().position(|(given, _)| given == name)?;
        let (_, value) = self.given.remove(place);
        if value.is_empty() {
            return None;
        }
        let read = read(&value);
        if read.is_none() {
            self.errors.push(name, format!("must be {expected}"));
        }
        read
    }

    /// How many items of a listing.
    pub(super) fn limit(&mut self) -> usize {
        let limit = self.take("limit", "a whole number from 1 to 1000", |text| {
            text.parse::<usize>().ok().filter(|limit| (1..=1_000).contains(limit))
        });
        limit.unwrap_or(100)
    }

    /// Refuses what was not taken, and whatever was wrong.
    pub(super) fn finish(mut self) -> Answer<()> {
        for (name, _) in self.given {
            self.errors.push(memori_service::problem::join("", &name), "is not a known parameter");
        }
        self.errors.into_result(())
    }
}

/// A body of JSON within a bound of bytes.
pub(super) async fn json_body(headers: &HeaderMap, body: Body, max_bytes: usize) -> Answer<Value> {
    read_json(headers, body, BodyBounds { max_bytes, timeout: BODY_TIMEOUT }).await
}
