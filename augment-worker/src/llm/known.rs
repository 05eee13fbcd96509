//! What is known of an entity already, shown to the model so that it need not say it again. It helps, and nothing rests on it: without
//! an answer in time the call goes on.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use memori_schemas::{FactKind, Micros};
use memori_service::Secret;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde::Deserialize;
use serde_json::json;

use super::metrics::{self, KnownOutcome};
use super::tokens;

/// Facts that are asked for.
pub const KNOWN_FACTS: usize = 30;
/// Instructions that are asked for.
pub const KNOWN_INSTRUCTIONS: usize = 10;
/// The header that names the tenant to the writer.
pub(crate) const TENANT_HEADER: &str = "x-memori-tenant";
/// The most that an answer may hold.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// One thing that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFact {
    /// What it is.
    pub kind: FactKind,
    /// The statement.
    pub text: String,
    /// Whom or what it is about.
    pub subject: Option<String>,
    /// The relation.
    pub predicate: Option<String>,
    /// What it is related to.
    pub object: Option<String>,
    /// When it began to hold.
    pub since: Option<Micros>,
    /// When it was said first.
    pub first_mentioned_at: Option<Micros>,
    /// When it was said last.
    pub last_mentioned_at: Option<Micros>,
}

impl KnownFact {
    /// Whether an answer may say of it that it was said again, or that it ended: what a person stated, and nothing that was computed.
    #[must_use]
    pub fn may_be_named(&self) -> bool {
        matches!(self.kind, FactKind::Fact | FactKind::Instruction) && self.last_mentioned_at.is_some()
    }
}

/// Why nothing is known: in words, without content.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KnownFactsError(pub String);

/// Whoever knows what is known.
#[async_trait]
pub trait KnownFacts: Send + Sync + 'static {
    /// The same of one generation, whichever is read.
    fn of_generation(&self, generation: i32) -> Arc<dyn KnownFacts>;

    /// What is known of the tenant's entity about `query`, the most useful first: at most [`KNOWN_FACTS`] facts and
    /// [`KNOWN_INSTRUCTIONS`] instructions, of about `token_budget` tokens. The caller has a deadline of its own and bounds the answer.
    ///
    /// # Errors
    /// Whatever stands in the way; it is counted and nothing else.
    async fn known(
        &self,
        tenant: &str,
        entity_id: &str,
        query: &str,
        token_budget: usize,
    ) -> Result<Vec<KnownFact>, KnownFactsError>;
}

/// What is known, within `deadline` and `token_budget`; nothing where it cannot be had.
pub(crate) async fn ask(
    source: Option<&Arc<dyn KnownFacts>>,
    tenant: &str,
    entity_id: &str,
    query: &str,
    token_budget: usize,
    deadline: Duration,
) -> Vec<KnownFact> {
    let Some(source) = source.filter(|_| token_budget > 0).cloned() else { return Vec::new() };
    let (tenant, entity_id, query) = (tenant.to_owned(), entity_id.to_owned(), query.to_owned());
    // In a task of its own: a read that is too late is not torn out of its transaction.
    let asking = tokio::spawn(async move { source.known(&tenant, &entity_id, &query, token_budget).await });
    let known = match tokio::time::timeout(deadline, asking).await {
        Ok(Ok(Ok(known))) => known,
        Ok(Ok(Err(error))) => {
            tracing::debug!(%error, "going on without known facts");
            metrics::known_facts(KnownOutcome::Failed);
            return Vec::new();
        }
        Ok(Err(_)) => {
            metrics::known_facts(KnownOutcome::Failed);
            return Vec::new();
        }
        Err(_) => {
            metrics::known_facts(KnownOutcome::Timeout);
            return Vec::new();
        }
    };
    let known = within(known, token_budget);
    metrics::known_facts(if known.is_empty() { KnownOutcome::Empty } else { KnownOutcome::Used });
    known
}

/// Without what was said first after `end`: at the time of a conversation in the past that was not known, and what it repeats of it is
/// the first mention.
pub(crate) fn by_then(mut known: Vec<KnownFact>, end: Micros) -> Vec<KnownFact> {
    known.retain(|fact| fact.first_mentioned_at.is_none_or(|first| first <= end));
    known
}

/// As many of the first as fit.
fn within(known: Vec<KnownFact>, token_budget: usize) -> Vec<KnownFact> {
    let mut left = token_budget as u64;
    let fits = |fact: &KnownFact| {
        // Its kind and time take room too.
        let cost = tokens::estimate(&fact.text) + 12;
        let fits = cost <= left;
        left = left.saturating_sub(cost);
        fits
    };
    known.into_iter().take(KNOWN_FACTS + KNOWN_INSTRUCTIONS).take_while(fits).collect()
}

/// The writer's recall over HTTP.
#[derive(Clone)]
pub struct HttpKnownFacts {
    http: reqwest::Client,
    url: reqwest::Url,
    authorization: Option<HeaderValue>,
}

impl HttpKnownFacts {
    /// The writer at `base_url`, with the internal token where there is one.
    ///
    /// # Errors
    /// What to change, in words.
    pub fn new(base_url: &str, token: Option<&Secret>) -> Result<Self, String> {
        let url = format!("{}/v1/recall", base_url.trim_end_matches('/'));
        let url = reqwest::Url::parse(&url).map_err(|e| format!("the writer's address cannot be used: {e}"))?;
        let (http, authorization) = client(token)?;
        Ok(Self { http, url, authorization })
    }
}

/// Inside the platform: no proxy stands between, and nobody is followed elsewhere with our token.
pub(crate) fn client(token: Option<&Secret>) -> Result<(reqwest::Client, Option<HeaderValue>), String> {
    let authorization = match token {
        None => None,
        Some(token) => {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                .map_err(|_| "auth.internal_token must be printable ASCII".to_owned())?;
            value.set_sensitive(true);
            Some(value)
        }
    };
    let http = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(2))
        .timeout(Duration::from_secs(30))
        .build()
        .map_err(|e| format!("no HTTP client: {}", e.without_url()))?;
    Ok((http, authorization))
}

#[derive(Deserialize)]
struct RecallAnswer {
    #[serde(default)]
    facts: Vec<RecalledFact>,
    #[serde(default)]
    instructions: Vec<RecalledFact>,
}

#[derive(Deserialize)]
struct RecalledFact {
    kind: String,
    content: String,
    subject: Option<String>,
    predicate: Option<String>,
    object: Option<String>,
    valid_from: Option<String>,
    first_mentioned_at: Option<String>,
    last_mentioned_at: Option<String>,
}

#[async_trait]
impl KnownFacts for HttpKnownFacts {
    fn of_generation(&self, generation: i32) -> Arc<dyn KnownFacts> {
        let mut one = self.clone();
        // In place of `/v1/recall`, behind whatever stands before it.
        let path = one.url.path().trim_end_matches("/v1/recall").to_owned();
        one.url.set_path(&format!("{path}/internal/v1/generations/{generation}/recall"));
        Arc::new(one)
    }

    async fn known(
        &self,
        tenant: &str,
        entity_id: &str,
        query: &str,
        token_budget: usize,
    ) -> Result<Vec<KnownFact>, KnownFactsError> {
        let failed = |e: reqwest::Error| KnownFactsError(format!("the writer's recall: {}", e.without_url()));
        let tenant =
            HeaderValue::from_bytes(tenant.as_bytes()).map_err(|_| KnownFactsError("a tenant that no header holds".into()))?;
        let mut request = self.http.post(self.url.clone()).header(TENANT_HEADER, tenant).json(&json!({
            "entity_id": entity_id,
            "query": query,
            "limit": KNOWN_FACTS,
            "instruction_limit": KNOWN_INSTRUCTIONS,
            "token_budget": token_budget,
        }));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let mut response = request.send().await.map_err(failed)?;
        if !response.status().is_success() {
            return Err(KnownFactsError(format!("the writer's recall answered {}", response.status().as_u16())));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(KnownFactsError("the writer's recall answered too much".into()));
            }
            body.extend_from_slice(&chunk);
        }
        let answer: RecallAnswer =
            serde_json::from_slice(&body).map_err(|_| KnownFactsError("the writer's recall answered something else".into()))?;
        let known = answer.instructions.into_iter().chain(answer.facts).filter_map(|fact| {
            let time = |text: Option<String>| text.as_deref().and_then(Micros::parse_rfc3339);
            Some(KnownFact {
                kind: FactKind::parse(&fact.kind)?,
                text: fact.content,
                subject: fact.subject,
                predicate: fact.predicate,
                object: fact.object,
                since: time(fact.valid_from),
                first_mentioned_at: time(fact.first_mentioned_at),
                last_mentioned_at: time(fact.last_mentioned_at),
            })
        });
        Ok(known.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use async_trait::async_trait;
    use memori_schemas::FactKind;

    use super::{KnownFact, KnownFacts, KnownFactsError, ask};
    use crate::llm::prompt::tests::known as known_fact;

    struct Answers(Option<usize>);

    #[async_trait]
    impl KnownFacts for Answers {
        fn of_generation(&self, _: i32) -> Arc<dyn KnownFacts> {
            Arc::new(Self(self.0))
        }

        async fn known(&self, _: &str, _: &str, _: &str, _: usize) -> Result<Vec<KnownFact>, KnownFactsError> {
            match self.0 {
                Some(0) => Err(KnownFactsError("away".into())),
                Some(n) => Ok((0..n).map(|i| known_fact(FactKind::Fact, &format!("fact {i:04}"))).collect()),
                None => std::future::pending().await,
            }
        }
    }

    async fn known(source: Option<Answers>, token_budget: usize) -> usize {
        let source = source.map(|answers| Arc::new(answers) as Arc<dyn KnownFacts>);
        ask(source.as_ref(), "t", "e", "q", token_budget, Duration::from_millis(50)).await.len()
    }

    #[tokio::test]
    async fn what_is_known_is_bounded_and_never_waited_for() {
        assert_eq!(known(Some(Answers(Some(3))), 1_000).await, 3);
        assert_eq!(known(Some(Answers(Some(1_000))), 10_000).await, 40);
        assert_eq!(known(Some(Answers(Some(1_000))), 100).await, 6);
        for (source, budget) in
            [(None, 1_000), (Some(Answers(Some(3))), 0), (Some(Answers(Some(0))), 1_000), (Some(Answers(None)), 1_000)]
        {
            assert_eq!(known(source, budget).await, 0);
        }
    }
}
