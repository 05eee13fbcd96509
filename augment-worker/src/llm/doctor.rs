//! Whether the configured endpoints can be used, found out with one cheap call each: for `memori doctor`.

use std::sync::Arc;

use memori_service::settings::Settings;

use super::classify::CallError;
use super::client::{Client, advice};
use super::config::{EndpointConfig, LlmConfig};
use crate::extractor::RetryReason;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// Whether events can be extracted.
    pub works: bool,
    /// In words; no key.
    pub found: String,
    /// What to do about it.
    pub do_this: Option<String>,
}

/// Asks each endpoint once.
pub async fn diagnose(settings: &Settings) -> Diagnosis {
    let config = match LlmConfig::of(settings) {
        Ok(config) => Arc::new(config),
        Err(error) => return broken("llm, which is not configured".to_owned(), error),
    };
    let all = config.endpoints.iter().map(|endpoint| of_one(Arc::clone(&config), endpoint.clone()));
    let all = futures::future::join_all(all).await;
    let mut together = Diagnosis {
        works: all.iter().all(|one| one.works),
        found: all.iter().map(|one| one.found.as_str()).collect::<Vec<_>>().join("; "),
        do_this: None,
    };
    together.do_this = all.into_iter().find_map(|one| one.do_this);
    together
}

fn broken(found: String, do_this: String) -> Diagnosis {
    Diagnosis { works: false, found, do_this: Some(do_this) }
}

async fn of_one(shared: Arc<LlmConfig>, endpoint: EndpointConfig) -> Diagnosis {
    let at = format!("llm {} at {}", endpoint.model, endpoint.url.host_str().unwrap_or_default());
    let client = match Client::new(shared, endpoint) {
        Ok(client) => client,
        Err(error) => return broken(at, error),
    };
    match client.probe().await {
        Ok(answered) => {
            let dialect = client.dialect();
            let counted = if answered.reply.usage.is_some() { "" } else { "; it does not count tokens, so they are estimated" };
            let found = format!("{at} answers; structured output: {}{counted}", dialect.structured_output.as_str());
            Diagnosis { works: true, found, do_this: None }
        }
        Err(CallError::Transient { reason, message, .. }) => broken(format!("{at}: {message}"), advice(reason).to_owned()),
        Err(error) => broken(format!("{at}: {error}"), advice(RetryReason::Misconfigured).to_owned()),
    }
}
