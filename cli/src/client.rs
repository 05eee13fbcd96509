//! A client of the front door, for the commands that talk to a running system.

use std::time::Duration;

use memori_service::{ProcessError, Secret};
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// Which front door, and as whom.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClientFlags {
    /// Address of the front door.
    #[arg(long, env = "MEMORI_API_URL", default_value = "http://127.0.0.1:7700")]
    pub(crate) url: String,
    /// API key, where the front door wants one.
    #[arg(long, env = "MEMORI_API_KEY", hide_env_values = true, value_parser = |text: &str| Ok::<_, std::convert::Infallible>(Secret::new(text)))]
    pub(crate) key: Option<Secret>,
}

/// Speaks to the front door.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    key: Option<Secret>,
}

impl Client {
    pub(crate) fn new(flags: &ClientFlags) -> Result<Self, ProcessError> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(60))
            .build()
            .map_err(|e| ProcessError::Failed(format!("no HTTP client: {e}")))?;
        Ok(Self { http, url: flags.url.trim_end_matches('/').to_owned(), key: flags.key.clone() })
    }

    /// The answer's JSON; a problem becomes an error with its title, detail and fields.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ProcessError> {
        Ok(serde_json::from_str(&self.send(method, path, body).await?).unwrap_or(Value::Null))
    }

    /// The answer as it came.
    pub(crate) async fn text(&self, path: &str) -> Result<String, ProcessError> {
        self.send(Method::GET, path, None).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<String, ProcessError> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.expose());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|e| {
            ProcessError::Unreachable(format!(
                "{} does not answer ({e}); start it with `memori up`, or name it with --url",
                self.url
            ))
        })?;
        let status = answer.status();
        let text = answer.text().await.map_err(|e| ProcessError::Failed(format!("the answer broke off: {e}")))?;
        if status.is_success() {
            return Ok(text);
        }
        Err(problem(status, &serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, ProcessError> {
        self.call(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, ProcessError> {
        self.call(Method::GET, path, None).await
    }
}

/// Percent-encodes one segment of a path: any text is a legal id.
pub(crate) fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn problem(status: StatusCode, json: &Value) -> ProcessError {
    let part = |name: &str| json.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut text = format!("{}: {}", status.as_u16(), part("title"));
    if !part("detail").is_empty() {
        text.push_str(&format!(": {}", part("detail")));
    }
    for field in json.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let of = |name: &str| field.get(name).and_then(Value::as_str).unwrap_or_default();
        text.push_str(&format!("\n  {}: {}", of("path"), of("message")));
    }
    match status.as_u16() {
        400..=499 => ProcessError::Usage(text),
        503 => ProcessError::Unreachable(text),
        _ => ProcessError::Failed(text),
    }
}
