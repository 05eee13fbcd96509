//! An OpenAI-compatible endpoint: `POST BASE/embeddings`.
//!
//! Promises: requests are bounded in texts, bytes, time, attempts and number at once; every answer is checked (count, order by
//! `index`, dimensions, finite numbers) before any of it is used; nothing that is said or counted holds a text or the key. An endpoint
//! that failed a call in spite of its retries is left alone for a moment: calls in that time fail at once, so that nobody queues
//! behind it.

mod answer;
mod breaker;
mod config;
mod failure;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use memori_service::Settings;
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::metrics::{self, Cause, Kind};
use crate::{EmbedError, Embedder, Embedding};

use breaker::Breaker;
use config::Config;
use failure::Failure;

/// Bytes of one text that are sent. No tokenizer makes more than a token of a byte, and the endpoints take 8,191 tokens.
const MAX_TEXT_BYTES: usize = 8_000;
/// The most of a refusal that is read: to see what it is about.
const MAX_REFUSAL_BYTES: usize = 16 << 10;

/// The embedder at an endpoint.
pub(crate) struct Endpoint {
    http: reqwest::Client,
    config: Config,
    name: String,
    slots: Semaphore,
    breaker: Mutex<Breaker>,
    /// The endpoint knows neither `dimensions` nor `encoding_format`.
    plain: AtomicBool,
}

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    input: &'a [&'a str],
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding_format: Option<&'static str>,
}

impl Endpoint {
    /// As the settings say.
    ///
    /// # Errors
    /// [`EmbedError::Configuration`], with what to change.
    pub(crate) fn of(settings: &Settings) -> Result<Self, EmbedError> {
        let config = Config::of(settings).map_err(EmbedError::Configuration)?;
        // A redirection would take the key and the texts elsewhere.
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(config.timeout.min(Duration::from_secs(10)))
            .timeout(config.timeout)
            .tcp_nodelay(true)
            .build()
            .map_err(|e| EmbedError::Configuration(format!("no HTTP client: {}", e.without_url())))?;
        Ok(Self {
            http,
            name: format!("openai:{}@{}", config.model, config.dimensions),
            slots: Semaphore::new(config.max_concurrency),
            breaker: Mutex::default(),
            plain: AtomicBool::new(false),
            config,
        })
    }

    /// One request, in the form that the endpoint is known to understand; in a plainer one where it refuses that.
    async fn ask(&self, texts: &[&str]) -> Result<Vec<Embedding>, Failure> {
        let plain = self.plain.load(Ordering::Relaxed);
        match self.request(texts, plain).await {
            Err(Failure { form: true, .. }) if !plain => {
                let vectors = self.request(texts, true).await?;
                if !self.plain.swap(true, Ordering::Relaxed) {
                    tracing::warn!("the embedding endpoint refused `dimensions` or `encoding_format`; it is asked without them");
                }
                Ok(vectors)
            }
            ended => ended,
        }
    }

    async fn request(&self, texts: &[&str], plain: bool) -> Result<Vec<Embedding>, Failure> {
        let body = Request {
            model: &self.config.model,
            input: texts,
            dimensions: (!plain).then_some(self.config.dimensions),
            encoding_format: (!plain).then_some("base64"),
        };
        let mut request = self.http.post(self.config.url.clone()).json(&body);
        if let Some((name, value)) = &self.config.credentials {
            request = request.header(name.clone(), value.clone());
        }
        let mut response = request.send().await.map_err(|e| Failure::of_transport(&e))?;
        let status = response.status();
        if !status.is_success() {
            let headers = response.headers().clone();
            let mut said = Vec::new();
            while let Ok(Some(chunk)) = response.chunk().await
                && said.len() < MAX_REFUSAL_BYTES
            {
                said.extend_from_slice(&chunk);
            }
            return Err(Failure::of_status(status, &headers, &said, Timestamp::now()));
        }
        let most = answer::most_bytes(texts.len(), self.config.dimensions);
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| Failure::of_transport(&e))? {
            if bytes.len() + chunk.len() > most {
                return Err(Failure::invalid("it is longer than such vectors can be"));
            }
            bytes.extend_from_slice(&chunk);
        }
        answer::read(&bytes, texts.len(), self.config.dimensions)
    }

    /// [`Endpoint::ask`], again where that may help.
    async fn insist(&self, texts: &[&str]) -> Result<Vec<Embedding>, Failure> {
        let mut attempt = 1;
        loop {
            let failure = match self.ask(texts).await {
                Ok(vectors) => return Ok(vectors),
                Err(failure) => failure,
            };
            let Some(wait) = failure.wait(attempt, self.config.max_attempts, rand::random()) else { return Err(failure) };
            metrics::retried(failure.cause);
            tracing::debug!(attempt, wait_ms = wait.as_millis(), cause = failure.cause.as_str(), "asking for vectors again");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    async fn batch(&self, texts: &[&str]) -> Result<Vec<Embedding>, Failure> {
        let _slot = self.slots.acquire().await.map_err(|_| Failure::invalid("the embedder is closed"))?;
        metrics::batch(Kind::Endpoint, texts.len());
        self.insist(texts).await
    }

    async fn all(&self, texts: &[String]) -> Result<Vec<Embedding>, Failure> {
        let cut: Vec<&str> =
            texts.iter().map(|text| &text[..text.floor_char_boundary(MAX_TEXT_BYTES.min(self.config.batch_bytes))]).collect();
        // Endpoints refuse a text without anything to see; it is like nothing.
        let seen: Vec<&str> = cut.iter().copied().filter(|text| !text.trim().is_empty()).collect();
        let batches = batches(&seen, self.config.batch_texts, self.config.batch_bytes);
        let mut asked = Vec::with_capacity(batches.len());
        for batch in batches {
            asked.push(self.batch(batch));
        }
        let answers: Vec<Vec<Embedding>> =
            futures::stream::iter(asked).buffered(self.config.max_concurrency).try_collect().await?;
        let mut vectors = answers.into_iter().flatten();
        let nothing = || Embedding { scale: 0.0, values: vec![0; self.config.dimensions].into() };
        let vector = |text: &&str| if text.trim().is_empty() { Some(nothing()) } else { vectors.next() };
        cut.iter().map(vector).collect::<Option<_>>().ok_or_else(|| Failure::invalid("a vector is missing"))
    }

    fn breaker<T>(&self, f: impl FnOnce(&mut Breaker) -> T) -> T {
        f(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// `texts` in order, in runs of at most `most_texts` and `most_bytes`.
fn batches<'a, 't>(texts: &'a [&'t str], most_texts: usize, most_bytes: usize) -> Vec<&'a [&'t str]> {
    let mut out = Vec::new();
    let mut rest = texts;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fit = rest.iter().take(most_texts).take_while(|text| {
            bytes += text.len();
            bytes <= most_bytes
        });
        let (now, later) = rest.split_at(fit.count().max(1));
        out.push(now);
        rest = later;
    }
    out
}

#[async_trait]
impl Embedder for Endpoint {
    fn model(&self) -> &str {
        &self.name
    }

    fn dimensions(&self) -> usize {
        self.config.dimensions
    }

    async fn embed(&self, texts: &[String]) -> Result<Vec<Embedding>, EmbedError> {
        let since = Instant::now();
        if let Err(cause) = self.breaker(|breaker| breaker.enter(since)) {
            metrics::failed(Kind::Endpoint, cause);
            return Err(EmbedError::Unavailable(format!("the endpoint failed a moment ago ({})", cause.as_str())));
        }
        match self.all(texts).await {
            Ok(vectors) => {
                self.breaker(Breaker::worked);
                metrics::done(Kind::Endpoint, texts.len(), since.elapsed());
                Ok(vectors)
            }
            Err(failure) => {
                metrics::failed(Kind::Endpoint, failure.cause);
                if matches!(failure.cause, Cause::Timeout | Cause::Connection | Cause::Unavailable | Cause::RateLimited) {
                    self.breaker(|breaker| breaker.failed(failure.cause, Instant::now()));
                }
                Err(failure.into_error())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::batches;

    proptest! {
        #[test]
        fn batches_keep_order_and_bounds(texts in prop::collection::vec("[a-z]{0,9}", 0..40), most in 1_usize..7, bytes in 1_usize..30) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let cut = batches(&texts, most, bytes);
            prop_assert_eq!(cut.concat(), texts.clone());
            for batch in cut {
                let total: usize = batch.iter().map(|text| text.len()).sum();
                prop_assert!((1..=most).contains(&batch.len()) && (total <= bytes || batch.len() == 1));
            }
        }
    }
}
