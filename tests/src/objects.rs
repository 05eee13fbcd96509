//! A double of an S3-compatible store, as far as readers need one: HEAD, GET with ranges, and LIST. Signatures are not looked at.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{Method, StatusCode, header};

type Objects = Arc<BTreeMap<String, Bytes>>;

/// A running store with these objects, by `BUCKET/KEY`.
#[derive(Debug)]
pub struct ObjectStore {
    address: SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

impl ObjectStore {
    /// Serves `objects` until dropped.
    ///
    /// # Errors
    /// No address is free.
    pub async fn start(objects: BTreeMap<String, Bytes>) -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let app = Router::new().fallback(answer).with_state(Arc::new(objects));
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, serving })
    }

    /// The variables that lead a client of S3 here.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.address);
        let of = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            of("AWS_ENDPOINT_URL", &endpoint),
            of("AWS_ALLOW_HTTP", "true"),
            of("AWS_ACCESS_KEY_ID", "reader"),
            of("AWS_SECRET_ACCESS_KEY", "secret"),
            of("AWS_REGION", "eu-test-1"),
        ]
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(State(objects): State<Objects>, request: Request) -> Response {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    if request.uri().query().is_some_and(|query| query.contains("list-type=2")) {
        return list(&objects, path.trim_end_matches('/'), request.uri().query().unwrap_or_default());
    }
    let Some(object) = objects.get(&path) else {
        return (StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>").into_response();
    };
    let range = request.headers().get(header::RANGE).and_then(|range| range.to_str().ok()).and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let first: usize = first.parse().ok()?;
        Some(first..last.parse::<usize>().map_or(object.len(), |last| last + 1).min(object.len()))
    });
    let mut response = Response::builder().header(header::ETAG, format!("\"{}\"", object.len()));
    response = response.header(header::LAST_MODIFIED, "Wed, 01 May 2024 10:00:00 GMT");
    let body = match range {
        Some(range) => {
            response = response.status(StatusCode::PARTIAL_CONTENT);
            response = response
                .header(header::CONTENT_RANGE, format!("bytes {}-{}/{}", range.start, range.end.max(1) - 1, object.len()));
            object.slice(range)
        }
        None => object.clone(),
    };
    response = response.header(header::CONTENT_LENGTH, body.len());
    let body = if request.method() == Method::HEAD { Bytes::new() } else { body };
    response.body(axum::body::Body::from(body)).unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn list(objects: &Objects, bucket: &str, query: &str) -> Response {
    let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or_default().replace("%2F", "/");
    let mut xml = format!("<ListBucketResult><Name>{bucket}</Name><IsTruncated>false</IsTruncated>");
    for (name, object) in objects.iter() {
        let Some(key) = name.strip_prefix(bucket).and_then(|key| key.strip_prefix('/')).filter(|key| key.starts_with(&prefix))
        else {
            continue;
        };
        let size = object.len();
        let _ = write!(
            xml,
            "<Contents><Key>{key}</Key><LastModified>2024-05-01T10:00:00.000Z</LastModified><ETag>\"{size}\"</ETag><Size>{size}</Size></Contents>"
        );
    }
    xml.push_str("</ListBucketResult>");
    ([(header::CONTENT_TYPE, "application/xml")], xml).into_response()
}
