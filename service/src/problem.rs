//! Errors of every HTTP API as RFC 9457 problem details, and the strict reading of request bodies.
//!
//! Promises: an answer carries a status of the contract and never a stack, SQL or key; a body that breaks several rules is told
//! about all of them (up to [`MAX_FIELD_ERRORS`]); nothing here panics on any bytes.

mod body;
mod fields;
mod json;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

pub use body::{BodyBounds, ContentKind, content_kind, read_bytes, read_json};
pub use fields::{FieldErrors, Fields, MAX_FIELD_ERRORS, join};
pub use json::parse_json;

/// What a handler answers: its value or a [`Problem`].
pub type Answer<T> = Result<T, Problem>;

/// What is wrong with one field of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Where, such as `messages[0].role`; empty for the body itself.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The status of the answer.
    pub status: StatusCode,
    /// The status in words.
    pub title: String,
    /// What is wrong here, for a person.
    pub detail: String,
    /// What is wrong with which field.
    pub errors: Vec<FieldError>,
    /// When it is worth trying again, in seconds.
    pub retry_after: Option<u64>,
}

/// How a [`Problem`] looks on the wire.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
}

impl Problem {
    /// The media type of problem details.
    pub const CONTENT_TYPE: &'static str = "application/problem+json";

    /// A problem of that status.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Self { status, title, detail: detail.into(), errors: Vec::new(), retry_after: None }
    }

    /// 400: the request is not what the protocol or JSON allows.
    #[must_use]
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 401: no key, or one that nobody knows.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "a known key is needed, as `Authorization: Bearer KEY` or `X-Memori-Api-Key: KEY`")
    }

    /// 403: the key lacks a right.
    #[must_use]
    pub fn forbidden(right: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, format!("the key lacks the right `{right}`"))
    }

    /// 404: nothing there.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 405: the route is there, the method is not.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "this route does not have this method; `Allow` names those that it has")
    }

    /// 409: it contradicts what is there.
    #[must_use]
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// 413: a bound in bytes.
    #[must_use]
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    /// 415: not a media type that this route reads.
    #[must_use]
    pub fn unsupported_media_type(expected: &str) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("the body must be {expected}, without a content encoding"))
    }

    /// 422: these fields break rules.
    #[must_use]
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [] => "the request breaks a rule".to_owned(),
            [one] if one.path.is_empty() => one.message.clone(),
            [one] => format!("{}: {}", one.path, one.message),
            [one, rest @ ..] => format!("{}: {} (and {} more)", one.path, one.message, rest.len()),
        };
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    /// 422 with one field.
    #[must_use]
    pub fn invalid_field(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError { path: path.into(), message: message.into() }])
    }

    /// 429: a quota is used up.
    #[must_use]
    pub fn too_many(detail: impl Into<String>, retry_after_seconds: u64) -> Self {
        Self { retry_after: Some(retry_after_seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, detail) }
    }

    /// 500: our fault. Says nothing more; the log does.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "an internal error, recorded in the service's log")
    }

    /// 503: not now.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>, retry_after_seconds: u64) -> Self {
        Self { retry_after: Some(retry_after_seconds), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// The body of the answer, also as the `error` of one item of a batch.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self.shown()).unwrap_or_default()
    }

    fn shown(&self) -> Shown<'_> {
        Shown {
            kind: "about:blank",
            title: &self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            errors: &self.errors,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.shown()).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(Self::CONTENT_TYPE));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_problem_is_rfc_9457_json_with_its_fields_and_retry_after() {
        let mut problem = Problem::unavailable("the log is away", 3);
        problem.errors.push(FieldError { path: "messages[0].role".into(), message: "must be one of user".into() });
        let response = problem.into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["retry-after"], "3");
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "the log is away",
                "errors": [{"path": "messages[0].role", "message": "must be one of user"}],
            })
        );
    }

    #[test]
    fn a_401_names_the_scheme() {
        assert_eq!(Problem::unauthorized().into_response().headers()["www-authenticate"], "Bearer");
    }
}
