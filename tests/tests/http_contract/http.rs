//! A plain HTTP client over a socket: any path and any bytes go out as they are, which no URL library allows.
//!
//! Every answer is judged at once: an error has the contract's shape and says nothing of the inside, and what the OpenAPI document
//! does not describe is not answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer takes no longer, on any machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// What would show the inside of the service.
const INSIDES: [&str; 10] =
    ["panicked", "SELECT ", "INSERT ", "sqlite", "postgres", "stack backtrace", ".rs:", "/src/", "x-memori-tenant", "sha256"];

/// A client with or without a key.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    address: SocketAddr,
    key: Option<String>,
    document: Arc<Value>,
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The body where it is one JSON value, else null.
    pub(crate) json: Value,
    what: String,
}

impl Http {
    /// Reads the document that describes the API, and holds every answer to it.
    pub(crate) async fn new(address: SocketAddr) -> Self {
        let mut http = Self { address, key: None, document: Arc::new(Value::Null) };
        let document = http.get("/openapi.json").await.ok(200);
        assert_eq!(document.header("content-type"), Some("application/json"));
        assert!(document.json["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
        http.document = Arc::new(document.json);
        http
    }

    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self.clone() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, "application/json", body.to_string().as_bytes()).await
    }

    pub(crate) async fn post_bytes(&self, path: &str, content_type: &str, body: &[u8]) -> Answer {
        self.send("POST", path, &[("content-type", content_type)], Some(body)).await
    }

    /// Sends one request, and judges its answer.
    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        if let Some(key) = &self.key {
            head.push_str(&format!("authorization: Bearer {key}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let bytes = [head.as_bytes(), body.unwrap_or_default()].concat();
        let answer = Answer::parse(&self.raw(&bytes).await, format!("{method} {:.100}", path));
        if answer.status >= 400 {
            answer.is_a_problem(self.key.as_deref());
        }
        self.is_described(method, path, &answer);
        answer
    }

    /// Sends bytes as they are, and reads to the end of the connection.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.expect("the service is up");
        let (mut reader, mut writer) = stream.split();
        let mut answer = Vec::new();
        let exchange = async {
            // A refusal may come before the last byte is sent.
            tokio::join!(writer.write_all(bytes), reader.read_to_end(&mut answer))
        };
        tokio::time::timeout(ANSWER_WITHIN, exchange).await.expect("an answer in time").1.ok();
        answer
    }

    /// Opens a connection, for whoever does not want an answer.
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the service is up")
    }

    fn is_described(&self, method: &str, path: &str, answer: &Answer) {
        let bare = path.split('?').next().unwrap_or_default();
        let fits = |template: &str| {
            let (one, other): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), bare.split('/').collect());
            one.len() == other.len() && one.iter().zip(&other).all(|(t, p)| t == p || (t.starts_with('{') && !p.is_empty()))
        };
        // A path that is written out comes before one with a place for an id.
        let mut paths: Vec<(&String, &Value)> =
            self.document["paths"].as_object().into_iter().flatten().filter(|(template, _)| fits(template)).collect();
        paths.sort_by_key(|(template, _)| template.contains('{'));
        let Some((template, item)) = paths.first() else { return };
        let Some(operation) = item.get(method.to_lowercase()) else { return };
        let described = operation["responses"].get(answer.status.to_string()).is_some();
        assert!(described, "{method} {template} answers {}, which its description does not know", answer.status);
    }
}

impl Answer {
    fn parse(bytes: &[u8], what: String) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("{what}: no answer: {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let headers: Vec<(String, String)> =
            lines.filter_map(|line| line.split_once(':')).map(|(n, v)| (n.to_lowercase(), v.trim().to_owned())).collect();
        let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if chunked { unchunked(&bytes[end + 4..]) } else { bytes[end + 4..].to_vec() };
        let json = serde_json::from_slice(&body).unwrap_or_default();
        Self { status: status.unwrap_or_else(|| panic!("{what}: no status: {head}")), headers, body, json, what }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The lines of NDJSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// Passes where it has this status.
    #[track_caller]
    pub(crate) fn ok(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {:.2000}", self.what, self.text());
        self
    }

    /// The paths that the problem names, in order.
    pub(crate) fn paths(&self) -> Vec<&str> {
        self.json["errors"].as_array().into_iter().flatten().filter_map(|error| error["path"].as_str()).collect()
    }

    fn is_a_problem(&self, key: Option<&str>) {
        if self.body.is_empty() && self.what.starts_with("HEAD ") {
            return;
        }
        let (what, text) = (&self.what, self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{what}: {} {text}", self.status);
        assert_eq!(self.json["status"], json!(self.status), "{what}: {text}");
        for name in ["type", "title", "detail"] {
            assert!(self.json[name].as_str().is_some_and(|text| !text.is_empty()), "{what}: no {name}: {text}");
        }
        for error in self.json["errors"].as_array().into_iter().flatten() {
            assert!(error["path"].is_string() && error["message"].is_string(), "{what}: {text}");
        }
        let known = ["type", "title", "status", "detail", "errors"];
        assert!(self.json.as_object().into_iter().flatten().all(|(name, _)| known.contains(&name.as_str())), "{what}: {text}");
        if [429, 503].contains(&self.status) {
            let seconds = self.header("retry-after").and_then(|seconds| seconds.parse::<u32>().ok());
            assert!(seconds.is_some_and(|seconds| seconds > 0), "{what}: {} without retry-after", self.status);
        }
        if self.status == 405 {
            assert!(self.header("allow").is_some_and(|allow| !allow.is_empty()), "{what}: 405 without allow");
        }
        for inside in INSIDES.into_iter().chain(key) {
            assert!(!text.contains(inside), "{what} tells of {inside:?}: {text}");
        }
        assert!(text.len() < 50_000, "{what}: an error of {} bytes", text.len());
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").expect("the size of a chunk");
        let size = std::str::from_utf8(&rest[..end]).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok()).expect("a size");
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
}
