//! The way to one endpoint: one HTTP call, bounded in time and bytes, in the form that it understands.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use memori_service::trace_context;
use serde_json::{Map, Value};

use super::allowed::allowed;
use super::classify::{CallError, classify};
use super::config::{EndpointConfig, LlmConfig};
use super::dialect::Dialect;
use super::metrics::{self, Purpose};
use super::prompt::{self, ChatMessage};
use super::reply::Reply;
use super::retry_after::retry_after;
use super::standing::Standing;
use super::tokens::{self, Tokens};
use crate::extractor::RetryReason;
use crate::pace::Allowed;

/// The most of an answer that is read.
const MAX_REPLY_BYTES: usize = 4 << 20;
/// The most of a refusal that is read.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// Requests for one call: every step down, and some.
const MAX_FORMS: usize = 6;
/// Tokens of a probe's answer.
const PROBE_TOKENS: u32 = 64;

/// An answer and what it cost.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) reply: Reply,
    pub(crate) tokens: Tokens,
    /// What was sent, for a repair.
    pub(crate) sent: Vec<ChatMessage>,
    /// Which endpoint answered, by its place in the configuration.
    pub(crate) at: usize,
}

/// One endpoint.
pub(crate) struct Client {
    http: reqwest::Client,
    shared: Arc<LlmConfig>,
    config: EndpointConfig,
    dialect: Mutex<Dialect>,
    standing: Standing,
}

impl Client {
    /// # Errors
    /// No TLS on this machine.
    pub(crate) fn new(shared: Arc<LlmConfig>, config: EndpointConfig) -> Result<Self, String> {
        // A redirection would take the key and the conversation elsewhere.
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(shared.timeout.min(Duration::from_secs(10)))
            .timeout(shared.timeout)
            .tcp_nodelay(true)
            .build()
            .map_err(|e| format!("no HTTP client: {}", e.without_url()))?;
        let dialect = Mutex::new(Dialect::new(shared.structured_output));
        Ok(Self { http, shared, config, dialect, standing: Standing::default() })
    }

    pub(crate) fn config(&self) -> &EndpointConfig {
        &self.config
    }

    /// How this endpoint is spoken to, as far as is known.
    pub(crate) fn dialect(&self) -> Dialect {
        *self.dialect.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an operator must mend, if anything.
    pub(crate) fn complaint(&self) -> Option<String> {
        self.standing.complaint()
    }

    /// Whether key, model, address and quota are in order, as far as is known.
    pub(crate) fn is_usable(&self) -> bool {
        self.standing.is_usable()
    }

    /// Asks, and asks again in simpler forms where the server does not know one; and what the last answer told of its limits.
    pub(crate) async fn complete(
        &self,
        purpose: Purpose,
        messages: impl Fn(Dialect) -> Vec<ChatMessage>,
    ) -> (Result<Answered, CallError>, Allowed) {
        let known = self.dialect();
        let mut dialect = known;
        let mut allowed = Allowed::default();
        for _ in 0..MAX_FORMS {
            let sent = messages(dialect);
            let estimated = prompt::estimated_tokens(&sent);
            if let Some(most) = self.shared.max_prompt_tokens.filter(|most| estimated > *most) {
                let message = format!("the prompt has about {estimated} tokens; max_prompt_tokens is {most}");
                return (Err(CallError::TooLarge(message)), allowed);
            }
            let (answer, told) = self.call(purpose, &sent, dialect).await;
            allowed = told;
            match answer {
                Ok(reply) => {
                    self.remember(known, dialect);
                    if self.standing.answered() {
                        tracing::info!(endpoint = self.config.name, "the extractor's endpoint can be used again");
                    }
                    let tokens = reply.usage.unwrap_or(Tokens { read: estimated, written: tokens::estimate(&reply.text) });
                    metrics::spent(tokens, reply.usage.is_some(), self.config.prices.micros(tokens));
                    return (Ok(Answered { reply, tokens, sent, at: 0 }), allowed);
                }
                Err(CallError::Unsupported { parameter, message }) => {
                    let next = dialect.stepped_down(parameter).or_else(|| dialect.stepped_down(None));
                    let Some(next) = next else { return (Err(CallError::Unsupported { parameter, message }), allowed) };
                    metrics::stepped_down();
                    dialect = next;
                }
                Err(error) => {
                    self.heed(&error);
                    return (Err(error), allowed);
                }
            }
        }
        let message = "the provider takes no form of the request".to_owned();
        (Err(CallError::Unsupported { parameter: None, message }), allowed)
    }

    fn remember(&self, known: Dialect, worked: Dialect) {
        if worked == known {
            return;
        }
        let mut current = self.dialect.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == known {
            *current = worked;
            tracing::warn!(
                structured_output = worked.structured_output.as_str(),
                completion_tokens = worked.completion_tokens,
                temperature = worked.sends_temperature,
                endpoint = self.config.name,
                "the endpoint refused a part of the request; from now on it is asked in this form"
            );
        }
    }

    /// Says aloud what only an operator can mend.
    fn heed(&self, error: &CallError) {
        let CallError::Transient { reason, message, .. } = error else { return };
        let why = format!("{message}: {}", advice(*reason));
        match reason {
            // The endpoint answers.
            RetryReason::RateLimited | RetryReason::NotAsked => {}
            RetryReason::Timeout | RetryReason::Unavailable => self.standing.unanswered(Instant::now(), &why),
            RetryReason::Misconfigured | RetryReason::OutOfQuota => self.complain(&why),
        }
    }

    pub(crate) fn complain(&self, what: &str) {
        if self.standing.complain(Instant::now(), what) {
            tracing::error!(
                endpoint = self.config.name,
                what,
                "the extractor's endpoint cannot be used; events wait until it can"
            );
        }
    }

    async fn call(&self, purpose: Purpose, messages: &[ChatMessage], dialect: Dialect) -> (Result<Reply, CallError>, Allowed) {
        let began = Instant::now();
        let mut told = Allowed::default();
        let answer = self.post(purpose, messages, dialect, &mut told).await;
        metrics::called(purpose, answer.as_ref().map_or_else(CallError::name, |_| "answered"), began.elapsed());
        (answer, told)
    }

    async fn post(
        &self,
        purpose: Purpose,
        messages: &[ChatMessage],
        dialect: Dialect,
        told: &mut Allowed,
    ) -> Result<Reply, CallError> {
        let mut body = Map::new();
        body.insert("model".to_owned(), self.config.model.as_str().into());
        body.insert("messages".to_owned(), messages.iter().map(ChatMessage::to_json).collect());
        let most = self.shared.max_output_tokens;
        let most = if purpose == Purpose::Probe { most.min(PROBE_TOKENS) } else { most };
        dialect.apply(&mut body, most, self.shared.temperature);
        let mut request = self.http.post(self.config.url.clone()).json(&Value::Object(body));
        if let Some((name, value)) = &self.config.credentials {
            request = request.header(name, value.clone());
        }
        if let Some(traceparent) = trace_context::traceparent_of(&tracing::Span::current()) {
            request = request.header(trace_context::TRACEPARENT, traceparent);
        }
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        *told = allowed(response.headers(), jiff::Timestamp::now());
        let most = if status.is_success() { MAX_REPLY_BYTES } else { MAX_ERROR_BYTES };
        let mut bytes = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if bytes.len() + chunk.len() <= most => bytes.extend_from_slice(&chunk),
                Ok(Some(_)) if status.is_success() => {
                    return Err(CallError::TooLarge("the provider's answer is too long".to_owned()));
                }
                // The beginning of a refusal says enough, and so does its status where the rest is cut off.
                Ok(Some(_) | None) => break,
                Err(_) if !status.is_success() => break,
                Err(e) => return Err(failed(e)),
            }
        }
        if status.is_success() {
            return Reply::of(&bytes).ok_or_else(|| CallError::Transient {
                reason: RetryReason::Unavailable,
                message: format!("the provider answered {} with something that is no chat completion", status.as_u16()),
                retry_after: None,
            });
        }
        let wait = retry_after(response.headers(), jiff::Timestamp::now());
        Err(classify(status, &bytes, wait))
    }

    /// One call, whatever is known: for `memori doctor`.
    pub(crate) async fn probe(&self) -> Result<Answered, CallError> {
        self.complete(Purpose::Probe, |_| prompt::probe()).await.0
    }
}

/// What an operator does about it.
pub(crate) fn advice(reason: RetryReason) -> &'static str {
    match reason {
        RetryReason::Misconfigured => {
            "check extractor.base_url, extractor.api_key and extractor.model (status 401 and 403: the key; 404: address or model)"
        }
        RetryReason::OutOfQuota => "the account's quota is used up: raise it, or set another key",
        RetryReason::RateLimited => "too many calls: lower extractor.max_concurrency, or raise the account's limits",
        RetryReason::Timeout => "no answer in time: is the server overloaded, or extractor.timeout_ms too short?",
        RetryReason::Unavailable => "is the server up, and extractor.base_url right?",
        RetryReason::NotAsked => "it is waited for",
    }
}

/// Without the URL, which may hold credentials.
fn failed(error: reqwest::Error) -> CallError {
    let reason = if error.is_timeout() { RetryReason::Timeout } else { RetryReason::Unavailable };
    let what = if error.is_timeout() {
        "the provider did not answer in time"
    } else if error.is_connect() {
        "the provider cannot be reached"
    } else {
        "the connection to the provider broke"
    };
    CallError::Transient { reason, message: what.to_owned(), retry_after: None }
}

impl CallError {
    /// The name in metrics.
    fn name(&self) -> &'static str {
        match self {
            Self::Transient { reason, .. } => reason.as_str(),
            Self::NotAsked(_) => RetryReason::NotAsked.as_str(),
            Self::Unsupported { .. } => "unsupported",
            Self::TooLarge(_) => "too_large",
            Self::Refused(_) => "refused",
        }
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Self::NotAsked(wait) = self {
            return write!(f, "no endpoint has room: {}", wait.as_str());
        }
        let (Self::Transient { message, .. }
        | Self::Unsupported { message, .. }
        | Self::TooLarge(message)
        | Self::Refused(message)) = self
        else {
            return Ok(());
        };
        f.write_str(message)
    }
}
