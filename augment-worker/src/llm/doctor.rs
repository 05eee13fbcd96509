//! Whether the configured endpoint can be used, found out with one cheap call: for `memori doctor`.

use memori_service::settings::Settings;

use super::classify::CallError;
use super::client::{Client, advice};
use super::config::LlmConfig;
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

/// Asks the endpoint once.
pub async fn diagnose(settings: &Settings) -> Diagnosis {
    let broken = |found: String, do_this: String| Diagnosis { works: false, found, do_this: Some(do_this) };
    let client = match LlmConfig::of(settings).and_then(Client::new) {
        Ok(client) => client,
        Err(error) => return broken("llm, which is not configured".to_owned(), error),
    };
    let config = client.config();
    let at = format!("llm {} at {}", config.model, config.url.host_str().unwrap_or_default());
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
