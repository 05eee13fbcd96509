//! A client as the contract describes one: keys, retries of what was not acknowledged, paging, and nothing cleverer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// How long one request may take before it counts as not acknowledged.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a request is repeated before the test gives up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(180);

/// One tenant's way to the front door.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    key: Option<String>,
    http: reqwest::Client,
    repeated: Arc<Repeated>,
}

/// How often something was sent again, and why.
#[derive(Debug, Default)]
pub struct Repeated {
    /// The answer was 429 or 503.
    pub refused: AtomicUsize,
    /// There was no whole answer.
    pub unanswered: AtomicUsize,
}

/// An answer: status and body; a body that is not JSON is a string.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// The body.
    pub body: Value,
}

impl Api {
    /// Calls `base` with `key`.
    ///
    /// # Panics
    /// Where the HTTP client cannot be made.
    #[must_use]
    pub fn new(base: &str, key: Option<&str>) -> Self {
        // No connection outlives a killed server.
        let http = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).no_proxy().build().expect("an http client");
        Self { base: base.to_owned(), key: key.map(str::to_owned), http, repeated: Arc::default() }
    }

    /// The same with another key, over the same connections.
    #[must_use]
    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), ..self.clone() }
    }

    /// What this client, and all that were cloned from it, had to send again.
    #[must_use]
    pub fn repeated(&self) -> &Repeated {
        &self.repeated
    }

    /// A request with this tenant's key.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends once.
    ///
    /// # Errors
    /// There was no whole answer.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer { status, body })
    }

    /// Sends until there is an answer that is not 429 or 503.
    ///
    /// # Errors
    /// None came for a long time, or one that says the service is broken (5xx but 503).
    pub async fn insist(&self, make: impl Fn() -> reqwest::RequestBuilder) -> anyhow::Result<Answer> {
        let since = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            let last = match self.send(make()).await {
                Ok(answer) if ![StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&answer.status) => {
                    ensure!(!answer.status.is_server_error(), "{}: {}", answer.status, answer.body);
                    return Ok(answer);
                }
                Ok(answer) => {
                    self.repeated.refused.fetch_add(1, Ordering::Relaxed);
                    format!("{}: {}", answer.status, answer.body)
                }
                Err(error) => {
                    self.repeated.unanswered.fetch_add(1, Ordering::Relaxed);
                    format!("{error:#}")
                }
            };
            if since.elapsed() > GIVE_UP_AFTER {
                bail!("no answer within {GIVE_UP_AFTER:?}; last: {last}");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// `GET`, insisting.
    ///
    /// # Errors
    /// As [`Api::insist`].
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.insist(|| self.request(Method::GET, path)).await
    }

    /// `POST` of JSON, insisting.
    ///
    /// # Errors
    /// As [`Api::insist`].
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.insist(|| self.request(Method::POST, path).json(body)).await
    }

    /// `DELETE`, insisting.
    ///
    /// # Errors
    /// As [`Api::insist`].
    pub async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.insist(|| self.request(Method::DELETE, path)).await
    }

    /// Waits until all of these are final.
    ///
    /// # Errors
    /// They are not within `deadline`; the text names some that are not.
    pub async fn wait_final(&self, event_ids: &[String], deadline: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + deadline;
        for chunk in event_ids.chunks(1_000) {
            loop {
                let answer = self.post("/v1/events/wait", &json!({"event_ids": chunk, "timeout_ms": 5_000})).await?;
                ensure!(answer.status == StatusCode::OK, "wait answered {}: {}", answer.status, answer.body);
                if answer.body["complete"] == json!(true) {
                    break;
                }
                if Instant::now() > end {
                    let open: Vec<String> = answer.body["events"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter(|event| !["applied", "dead_lettered", "erased"].contains(&event["status"].as_str().unwrap_or("")))
                        .map(Value::to_string)
                        .collect();
                    bail!(
                        "{} events are not final within {deadline:?}, such as {:?}",
                        open.len(),
                        open.first_chunk::<3>().map_or(&open[..], |few| few)
                    );
                }
            }
        }
        Ok(())
    }

    /// Every entity of the tenant, over all pages.
    ///
    /// # Errors
    /// As [`Api::insist`], or an answer that is not a page.
    pub async fn entities(&self) -> anyhow::Result<Vec<String>> {
        let items = self.pages("/v1/entities?limit=7", "entities").await?;
        items.iter().map(|item| item["entity_id"].as_str().map(str::to_owned).context("an entity without id")).collect()
    }

    /// Every fact of an entity, over all pages.
    ///
    /// # Errors
    /// As [`Api::entities`].
    pub async fn facts(&self, entity_id: &str) -> anyhow::Result<Vec<Value>> {
        self.pages(&format!("/v1/entities/{}/facts?limit=3", escape(entity_id)), "facts").await
    }

    async fn pages(&self, path: &str, items: &str) -> anyhow::Result<Vec<Value>> {
        let mut found = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = match &cursor {
                None => path.to_owned(),
                Some(cursor) => format!("{path}&cursor={}", escape(cursor)),
            };
            let answer = self.get(&page).await?;
            ensure!(answer.status == StatusCode::OK, "{page}: {}: {}", answer.status, answer.body);
            found.extend(answer.body[items].as_array().with_context(|| format!("{page} has no {items}"))?.iter().cloned());
            match answer.body["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return Ok(found),
            }
        }
    }

    /// The lines of an entity's export.
    ///
    /// # Errors
    /// As [`Api::insist`], or a line that is not JSON.
    pub async fn export(&self, entity_id: &str) -> anyhow::Result<Vec<Value>> {
        let path = format!("/v1/entities/{}/export", escape(entity_id));
        let answer = self.get(&path).await?;
        ensure!(answer.status == StatusCode::OK, "{path}: {}: {}", answer.status, answer.body);
        match answer.body {
            // One line alone is JSON as a whole.
            Value::String(text) => text.lines().map(|line| serde_json::from_str(line).context("an export line")).collect(),
            line => Ok(vec![line]),
        }
    }

    /// The status of an event, 404 as `None`.
    ///
    /// # Errors
    /// As [`Api::insist`].
    pub async fn event(&self, event_id: &str) -> anyhow::Result<Option<Value>> {
        let answer = self.get(&format!("/v1/events/{}", escape(event_id))).await?;
        match answer.status {
            StatusCode::OK => Ok(Some(answer.body)),
            StatusCode::NOT_FOUND => Ok(None),
            status => bail!("GET event {event_id}: {status}: {}", answer.body),
        }
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// As [`Api::insist`].
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let answer = self.get("/metrics").await?;
        match answer.body {
            Value::String(text) => Ok(text),
            other => bail!("metrics are not text: {other}"),
        }
    }
}

/// Percent-encodes one segment of a path or one value of a query.
#[must_use]
pub fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => char::from(byte).to_string(),
            // A dot segment would be taken for a step in the path.
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Sums the samples of a metric whose line holds all of `labels`; `None` where there is none.
#[must_use]
pub fn metric(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let mut sum = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some(rest) = line.strip_prefix(name) else { continue };
        if !rest.starts_with([' ', '{']) || !labels.iter().all(|label| rest.contains(label)) {
            continue;
        }
        if let Some(value) = rest.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()) {
            sum = Some(sum.unwrap_or(0.0) + value);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_label_and_not_by_prefix() {
        let text = "# HELP a_total x\na_total{lane=\"live\"} 2\na_total{lane=\"backfill\"} 3\na_total_more 7\nb 1\n";
        assert_eq!(metric(text, "a_total", &[]), Some(5.0));
        assert_eq!(metric(text, "a_total", &["lane=\"live\""]), Some(2.0));
        assert_eq!(metric(text, "b", &[]), Some(1.0));
        assert_eq!(metric(text, "c", &[]), None);
    }

    #[test]
    fn any_text_fits_in_a_path() {
        assert_eq!(escape("a/b c?%2F"), "a%2Fb%20c%3F%252F");
        assert_eq!(escape(".."), "%2E%2E");
        assert_eq!(escape("１"), "%EF%BC%91");
    }
}
