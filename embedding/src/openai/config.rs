//! The endpoint and its bounds, validated.

use std::time::Duration;

use memori_service::Settings;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};

/// More components than any model has.
const MAX_DIMENSIONS: usize = 16_384;

#[derive(Clone)]
pub(crate) struct Config {
    /// The whole address of `embeddings`.
    pub(crate) url: Url,
    pub(crate) credentials: Option<(HeaderName, HeaderValue)>,
    pub(crate) model: String,
    pub(crate) dimensions: usize,
    /// Of one request, from its first byte to its answer's last.
    pub(crate) timeout: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) batch_texts: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) max_concurrency: usize,
}

impl Config {
    /// What the settings say.
    ///
    /// # Errors
    /// What to change, in words.
    pub(crate) fn of(settings: &Settings) -> Result<Self, String> {
        let given = &settings.embedding;
        let missing = |what: &str, set: &str| format!("embedding.kind is `openai` and embedding.{what} is not set: set {set}");
        let filled =
            |value: &Option<String>| value.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(ToOwned::to_owned);
        let base = filled(&given.base_url)
            .ok_or_else(|| missing("base_url", "MEMORI__EMBEDDING__BASE_URL, such as https://api.openai.com/v1"))?;
        let model = filled(&given.model).ok_or_else(|| missing("model", "MEMORI__EMBEDDING__MODEL"))?;
        let dimensions = given
            .dimensions
            .ok_or_else(|| missing("dimensions", "MEMORI__EMBEDDING__DIMENSIONS to the length of the model's vectors"))?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(format!("embedding.dimensions is {dimensions}; it must be 1 to {MAX_DIMENSIONS}"));
        }
        for (name, value) in [
            ("timeout_ms", given.timeout_ms),
            ("max_attempts", u64::from(given.max_attempts)),
            ("batch_texts", given.batch_texts as u64),
            ("batch_bytes", given.batch_bytes as u64),
            ("max_concurrency", given.max_concurrency as u64),
        ] {
            if value == 0 {
                return Err(format!("embedding.{name} is 0; it must be at least 1"));
            }
        }
        let credentials = match given.api_key.as_ref().map(|key| key.expose().trim()).filter(|key| !key.is_empty()) {
            None => None,
            Some(key) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                    .map_err(|_| "embedding.api_key must be printable ASCII".to_owned())?;
                value.set_sensitive(true);
                Some((AUTHORIZATION, value))
            }
        };
        Ok(Self {
            url: embeddings_url(&base)?,
            credentials,
            model,
            dimensions,
            timeout: Duration::from_millis(given.timeout_ms),
            max_attempts: given.max_attempts,
            batch_texts: given.batch_texts,
            batch_bytes: given.batch_bytes,
            max_concurrency: given.max_concurrency,
        })
    }
}

/// `BASE/embeddings`, with the base's query kept behind it.
fn embeddings_url(base: &str) -> Result<Url, String> {
    let bad = |why: &str| format!("embedding.base_url cannot be used: {why}; such as https://api.openai.com/v1");
    let mut url = Url::parse(base).map_err(|e| bad(&e.to_string()))?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return Err(bad("it must be http:// or https:// and name a host"));
    }
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    if !path.ends_with("/embeddings") {
        url.set_path(&format!("{path}/embeddings"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use memori_service::Secret;

    use super::*;

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.embedding.kind = "openai".to_owned();
        settings.embedding.base_url = Some("https://e.example/v1/".to_owned());
        settings.embedding.model = Some("m".to_owned());
        settings.embedding.dimensions = Some(8);
        settings
    }

    #[test]
    fn the_address_is_the_base_and_the_route() {
        for (base, url) in [
            ("https://api.openai.com/v1", "https://api.openai.com/v1/embeddings"),
            ("http://127.0.0.1:11434/v1/", "http://127.0.0.1:11434/v1/embeddings"),
            ("http://h/v1/embeddings", "http://h/v1/embeddings"),
            ("https://x/deployments/d?api-version=1", "https://x/deployments/d/embeddings?api-version=1"),
        ] {
            assert_eq!(embeddings_url(base).unwrap().as_str(), url);
        }
        for base in ["api.openai.com/v1", "ftp://h/v1", "http://"] {
            assert!(embeddings_url(base).is_err(), "{base}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_and_the_key_is_not() {
        assert!(Config::of(&settings()).is_ok());
        type Change = fn(&mut Settings);
        let wrong: [(&str, Change); 7] = [
            ("base_url", |s| s.embedding.base_url = None),
            ("base_url", |s| s.embedding.base_url = Some("x".into())),
            ("model", |s| s.embedding.model = Some(" ".into())),
            ("dimensions", |s| s.embedding.dimensions = None),
            ("dimensions", |s| s.embedding.dimensions = Some(1 << 20)),
            ("timeout_ms", |s| s.embedding.timeout_ms = 0),
            ("api_key", |s| s.embedding.api_key = Some(Secret::new("hunter2\n\u{1}x"))),
        ];
        for (named, change) in wrong {
            let mut settings = settings();
            change(&mut settings);
            let error = Config::of(&settings).map(|_| ()).unwrap_err();
            assert!(error.contains(named) && !error.contains("hunter2"), "{error}");
        }
    }
}
