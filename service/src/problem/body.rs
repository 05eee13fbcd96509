//! Reading a request's body within bounds of bytes and time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use super::{Answer, Problem, json::parse_json};

/// How far past its bound a body is still read (and thrown away), so that a client that sends first and reads afterwards sees the
/// 413 instead of a reset connection.
const DRAINED_BYTES: usize = 32 * 1024 * 1024;

/// What a body may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyBounds {
    /// Bytes.
    pub max_bytes: usize,
    /// From the head of the request to the last byte of its body.
    pub timeout: Duration,
}

/// The media types that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentKind {
    /// `application/json`.
    Json,
    /// `application/x-ndjson`.
    NdJson,
}

/// The body's media type; `None` where it is absent, another one, in another charset than UTF-8, or encoded.
#[must_use]
pub fn content_kind(headers: &HeaderMap) -> Option<ContentKind> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return None;
    }
    let mut parts = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.split(';').map(str::trim);
    let essence = parts.next()?;
    let kind = if essence.eq_ignore_ascii_case("application/json") {
        ContentKind::Json
    } else if essence.eq_ignore_ascii_case("application/x-ndjson") {
        ContentKind::NdJson
    } else {
        return None;
    };
    let utf8 = parts.filter_map(|parameter| parameter.split_once('=')).all(|(name, value)| {
        !name.trim().eq_ignore_ascii_case("charset") || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
    });
    utf8.then_some(kind)
}

/// Reads a JSON body.
///
/// # Errors
/// 415, 413, 408, 400 and 422 as [`content_kind`], [`read_bytes`] and [`parse_json`] say.
pub async fn read_json(headers: &HeaderMap, body: Body, bounds: BodyBounds) -> Answer<Value> {
    if content_kind(headers) != Some(ContentKind::Json) {
        return Err(Problem::unsupported_media_type("application/json in UTF-8"));
    }
    parse_json(&read_bytes(headers, body, bounds).await?)
}

/// Reads a body whole.
///
/// # Errors
/// 413 over the bound, 408 where it does not arrive in time, 400 where it breaks off.
pub async fn read_bytes(headers: &HeaderMap, body: Body, bounds: BodyBounds) -> Answer<Bytes> {
    let declared =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()).and_then(|length| length.parse::<u64>().ok());
    let over = || Problem::too_large(format!("the body is over the bound of {} bytes", bounds.max_bytes));
    // A client that asks for leave (`Expect: 100-continue`) reads before it sends: nothing has to be drained.
    let drained = if headers.contains_key(header::EXPECT) { 0 } else { DRAINED_BYTES };
    if declared.is_some_and(|length| length > bounds.max_bytes.saturating_add(drained) as u64) {
        return Err(over());
    }
    let reading = gather(body, bounds.max_bytes);
    match tokio::time::timeout(bounds.timeout, reading).await {
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
        Ok(Err(())) => Err(Problem::bad_request("the body broke off")),
        Ok(Ok(None)) => Err(over()),
        Ok(Ok(Some(bytes))) => Ok(bytes),
    }
}

/// The bytes; `None` where there are more than `max_bytes`, of which no more are kept.
async fn gather(body: Body, max_bytes: usize) -> Result<Option<Bytes>, ()> {
    let mut stream = body.into_data_stream();
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let mut total = 0_usize;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| ())?;
        total = total.saturating_add(chunk.len());
        if total > max_bytes {
            first = None;
            rest = BytesMut::new();
            if total > max_bytes.saturating_add(DRAINED_BYTES) {
                break;
            }
        } else if first.is_none() && rest.is_empty() {
            first = Some(chunk);
        } else {
            if let Some(first) = first.take() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&chunk);
        }
    }
    Ok((total <= max_bytes).then(|| first.unwrap_or_else(|| rest.freeze())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn media_types() {
        let kind = |value: &'static str| content_kind(&headers(&[("content-type", value)]));
        assert_eq!(kind("application/json"), Some(ContentKind::Json));
        assert_eq!(kind("Application/JSON; charset=UTF-8"), Some(ContentKind::Json));
        assert_eq!(kind("application/json;charset=\"utf-8\""), Some(ContentKind::Json));
        assert_eq!(kind("application/x-ndjson"), Some(ContentKind::NdJson));
        assert_eq!(kind("application/json; charset=latin1"), None);
        assert_eq!(kind("text/json"), None);
        assert_eq!(kind("application/jsonp"), None);
        assert_eq!(content_kind(&HeaderMap::new()), None);
        assert_eq!(content_kind(&headers(&[("content-type", "application/json"), ("content-encoding", "gzip")])), None);
        assert_eq!(
            content_kind(&headers(&[("content-type", "application/json"), ("content-encoding", "identity")])),
            Some(ContentKind::Json)
        );
    }

    fn bounds(max_bytes: usize) -> BodyBounds {
        BodyBounds { max_bytes, timeout: Duration::from_secs(5) }
    }

    fn chunked(chunks: Vec<Vec<u8>>) -> Body {
        Body::from_stream(futures::stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>)))
    }

    #[tokio::test]
    async fn the_bound_is_exact_for_whole_and_chunked_bodies() {
        for split in 0..=10 {
            let chunks = |n: usize| chunked(vec![vec![b'a'; split.min(n)], vec![b'a'; n - split.min(n)]]);
            let read = read_bytes(&HeaderMap::new(), chunks(10), bounds(10)).await.unwrap();
            assert_eq!(read.as_ref(), b"aaaaaaaaaa");
            assert_eq!(read_bytes(&HeaderMap::new(), chunks(11), bounds(10)).await.unwrap_err().status, 413);
        }
        assert_eq!(
            read_bytes(&headers(&[("content-length", "99999999999")]), Body::empty(), bounds(10)).await.unwrap_err().status,
            413
        );
    }

    #[tokio::test]
    async fn a_body_that_stalls_is_408_and_one_that_breaks_off_400() {
        let hurried = BodyBounds { max_bytes: 10, timeout: Duration::from_millis(10) };
        let stalled = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read_bytes(&HeaderMap::new(), stalled, hurried).await.unwrap_err().status, 408);
        let broken = Body::from_stream(futures::stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("gone"))]));
        assert_eq!(read_bytes(&HeaderMap::new(), broken, bounds(10)).await.unwrap_err().status, 400);
    }
}
