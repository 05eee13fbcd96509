//! A double of object stores at the network's edge, as far as readers need one: S3's and Google's XML interface, Azure's blobs, a server
//! with WebDAV's listing, one that knows no ranges, and URLs that are signed for getting one object.
//!
//! Promises: a request without what its store lets in by is refused, as is a signed URL for another method or with another query; listings
//! come in pages; it breaks as it is told to. What a signature is made of is not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri, header};
use percent_encoding::percent_decode_str;

/// What is in front of Azure's containers, of a plain server's files, of those of one without ranges, and of what is signed for.
const AZURE: &str = "azure/";
/// As [`AZURE`].
pub const WEB: &str = "web/";
/// As [`AZURE`].
pub const RANGELESS: &str = "rangeless/";
/// As [`AZURE`].
pub const SIGNED: &str = "signed/";
/// Keys of a page of a listing.
const PAGE: usize = 2;

/// A running store.
#[derive(Debug)]
pub struct ObjectStore {
    address: SocketAddr,
    world: Arc<World>,
    serving: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct World {
    /// By `BUCKET/KEY`.
    objects: BTreeMap<String, Bytes>,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    refused: BTreeSet<String>,
    failures: usize,
    cuts: usize,
    signatures: BTreeSet<String>,
    got: Vec<(String, Range<usize>)>,
}

impl World {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ObjectStore {
    /// Serves `objects` until dropped.
    ///
    /// # Errors
    /// No address is free.
    pub async fn start(objects: BTreeMap<String, Bytes>) -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let world = Arc::new(World { objects, now: Mutex::default() });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&world));
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, world, serving })
    }

    /// The variables that lead clients of S3, Google and Azure here.
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
            of("GOOGLE_BASE_URL", &endpoint),
            of("GOOGLE_ALLOW_HTTP", "true"),
            of("GOOGLE_BEARER_TOKEN", "reader"),
            of("AZURE_STORAGE_ENDPOINT", &format!("{endpoint}/{}", AZURE.trim_end_matches('/'))),
            of("AZURE_ALLOW_HTTP", "true"),
            of("AZURE_STORAGE_ACCOUNT_NAME", "reader"),
            of("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0"),
        ]
    }

    /// The URL of an object of [`WEB`], [`RANGELESS`] or [`SIGNED`].
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// From now on what is [`SIGNED`] is given to whoever has this query.
    pub fn sign(&self, query: &str) {
        self.world.now().signatures.insert(query.to_owned());
    }

    /// The next requests are answered 503.
    pub fn fail(&self, times: usize) {
        self.world.now().failures = times;
    }

    /// The next bodies of more than a kilobyte end in their middle, and their connection with them.
    pub fn cut(&self, times: usize) {
        self.world.now().cuts = times;
    }

    /// Refuses to give an object, or gives it again. That it is there is told all the same.
    pub fn refuse(&self, name: &str, refused: bool) {
        let mut now = self.world.now();
        if refused {
            now.refused.insert(name.to_owned());
        } else {
            now.refused.remove(name);
        }
    }

    /// What was got until now, and how much of it; what was cut on the way included.
    #[must_use]
    pub fn got(&self) -> Vec<(String, Range<usize>)> {
        self.world.now().got.clone()
    }

    /// How many cuts are still to come.
    #[must_use]
    pub fn cuts_left(&self) -> usize {
        self.world.now().cuts
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(State(world): State<Arc<World>>, request: Request) -> Response {
    {
        let mut now = world.now();
        if now.failures > 0 {
            now.failures -= 1;
            return (StatusCode::SERVICE_UNAVAILABLE, "<Error><Code>ServiceUnavailable</Code></Error>").into_response();
        }
    }
    let (method, uri, headers) = (request.method().clone(), request.uri().clone(), request.headers().clone());
    let path = percent_decode_str(uri.path().trim_start_matches('/')).decode_utf8_lossy().into_owned();
    let query = uri.query().unwrap_or_default();
    if path.starts_with(SIGNED) {
        if method == Method::GET && world.now().signatures.contains(query) {
            return object(&world, &path, &method, &headers);
        }
        // As stores do, who say what they would have signed.
        let words = format!("<Error><Code>SignatureDoesNotMatch</Code><StringToSign>{method} {query}</StringToSign></Error>");
        return (StatusCode::FORBIDDEN, words).into_response();
    }
    if path.starts_with(WEB) || path.starts_with(RANGELESS) {
        return match method.as_str() {
            "PROPFIND" => listed_by_dav(&world, &path),
            _ => object(&world, &path, &method, &headers),
        };
    }
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if let Some(path) = path.strip_prefix(AZURE) {
        if !authorization.starts_with("SharedKey reader:") {
            return StatusCode::FORBIDDEN.into_response();
        }
        return if query.contains("comp=list") {
            listed_by_azure(&world, path, &uri)
        } else {
            object(&world, path, &method, &headers)
        };
    }
    if !authorization.starts_with("AWS4-HMAC-SHA256 Credential=reader/") && authorization != "Bearer reader" {
        return StatusCode::FORBIDDEN.into_response();
    }
    if query.contains("list-type=2") { listed_by_s3(&world, &path, &uri) } else { object(&world, &path, &method, &headers) }
}

fn object(world: &World, path: &str, method: &Method, headers: &HeaderMap) -> Response {
    let Some(object) = world.objects.get(path) else {
        return (StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>").into_response();
    };
    if *method != Method::HEAD && world.now().refused.contains(path) {
        return (StatusCode::FORBIDDEN, "<Error><Code>AccessDenied</Code></Error>").into_response();
    }
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok()).filter(|_| !path.starts_with(RANGELESS));
    let range = range.and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let first: usize = first.parse().ok()?;
        Some(first..last.parse::<usize>().map_or(object.len(), |last| last + 1).min(object.len()))
    });
    let mut response = Response::builder().header(header::ETAG, format!("\"{}\"", object.len()));
    response = response.header(header::LAST_MODIFIED, "Wed, 01 May 2024 10:00:00 GMT");
    let given = range.clone().unwrap_or(0..object.len());
    if range.is_some() {
        response = response.status(StatusCode::PARTIAL_CONTENT);
        response =
            response.header(header::CONTENT_RANGE, format!("bytes {}-{}/{}", given.start, given.end.max(1) - 1, object.len()));
    }
    response = response.header(header::CONTENT_LENGTH, given.len());
    if *method == Method::HEAD {
        return built(response.body(Body::empty()));
    }
    let bytes = object.slice(given.clone());
    let mut now = world.now();
    now.got.push((path.to_owned(), given));
    let body = if now.cuts > 0 && bytes.len() > 1_024 {
        now.cuts -= 1;
        let half = bytes.slice(..bytes.len() / 2);
        Body::from_stream(futures::stream::iter([Ok(half), Err(std::io::Error::other("cut"))]))
    } else {
        Body::from(bytes)
    };
    built(response.body(body))
}

fn built(response: http::Result<Response>) -> Response {
    response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn xml(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/xml")], text).into_response()
}

fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let mut found = pairs.filter(|(given, _)| *given == name);
    found.next().map(|(_, value)| percent_decode_str(value).decode_utf8_lossy().into_owned())
}

/// Keys of a bucket behind `after`, with their lengths, and whether there are more.
fn page(world: &World, bucket: &str, prefix: &str, after: Option<&str>) -> (Vec<(String, usize)>, bool) {
    let keys = world.objects.iter().filter_map(|(name, object)| {
        let key = name.strip_prefix(bucket)?.strip_prefix('/')?;
        (key.starts_with(prefix) && after.is_none_or(|after| key > after)).then(|| (key.to_owned(), object.len()))
    });
    let mut found: Vec<(String, usize)> = keys.take(PAGE + 1).collect();
    let more = found.len() > PAGE;
    found.truncate(PAGE);
    (found, more)
}

fn listed_by_s3(world: &World, bucket: &str, uri: &Uri) -> Response {
    let (bucket, prefix) = (bucket.trim_end_matches('/'), parameter(uri, "prefix").unwrap_or_default());
    let (found, more) = page(world, bucket, &prefix, parameter(uri, "continuation-token").as_deref());
    let mut text = format!("<ListBucketResult><Name>{bucket}</Name><IsTruncated>{more}</IsTruncated>");
    if let Some((last, _)) = found.last().filter(|_| more) {
        let _ = write!(text, "<NextContinuationToken>{last}</NextContinuationToken>");
    }
    for (key, size) in &found {
        let _ = write!(
            text,
            "<Contents><Key>{key}</Key><LastModified>2024-05-01T10:00:00.000Z</LastModified><ETag>\"{size}\"</ETag><Size>{size}</Size></Contents>"
        );
    }
    text.push_str("</ListBucketResult>");
    xml(text)
}

fn listed_by_azure(world: &World, container: &str, uri: &Uri) -> Response {
    let (container, prefix) = (container.trim_end_matches('/'), parameter(uri, "prefix").unwrap_or_default());
    let (found, more) = page(world, container, &prefix, parameter(uri, "marker").as_deref());
    let mut text = "<EnumerationResults><Blobs>".to_owned();
    for (key, size) in &found {
        let _ = write!(
            text,
            "<Blob><Name>{key}</Name><Properties><Last-Modified>Wed, 01 May 2024 10:00:00 GMT</Last-Modified><Etag>\"{size}\"</Etag>\
             <Content-Length>{size}</Content-Length><Content-Type>application/json</Content-Type></Properties></Blob>"
        );
    }
    let next = found.last().filter(|_| more).map_or("", |(last, _)| last);
    let _ = write!(text, "</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>");
    xml(text)
}

fn listed_by_dav(world: &World, path: &str) -> Response {
    let mut text = "<?xml version=\"1.0\"?><D:multistatus xmlns:D=\"DAV:\">".to_owned();
    let folder = path.trim_end_matches('/');
    let below = |name: &str| name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    if !world.objects.keys().any(|name| below(name)) {
        return StatusCode::NOT_FOUND.into_response();
    }
    for (name, object) in world.objects.iter().filter(|(name, _)| below(name)) {
        let (size, href) = (object.len(), name.replace(' ', "%20"));
        let _ = write!(
            text,
            "<D:response><D:href>/{href}</D:href><D:propstat><D:prop><D:getlastmodified>Wed, 01 May 2024 10:00:00 GMT</D:getlastmodified>\
             <D:getcontentlength>{size}</D:getcontentlength><D:resourcetype/><D:getetag>\"{size}\"</D:getetag></D:prop>\
             <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
        );
    }
    text.push_str("</D:multistatus>");
    (StatusCode::MULTI_STATUS, [(header::CONTENT_TYPE, "application/xml")], text).into_response()
}
