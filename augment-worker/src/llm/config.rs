//! The endpoint and its bounds, validated.

use std::time::Duration;

use memori_service::settings::{Extractor as ExtractorSettings, Settings};
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};

use super::dialect::StructuredOutput;
use super::tokens::Prices;

/// The most that a provider may be asked to write.
const MAX_OUTPUT_TOKENS: u32 = 1_000_000;

/// Where and how the model is asked.
#[derive(Clone)]
pub(crate) struct LlmConfig {
    /// The whole address of `chat/completions`.
    pub(crate) url: Url,
    /// Name and value of the header that carries the key.
    pub(crate) credentials: Option<(HeaderName, HeaderValue)>,
    pub(crate) model: String,
    /// Of one call, from its first byte to its answer's last.
    pub(crate) timeout: Duration,
    pub(crate) max_output_tokens: u32,
    /// Prompts with more estimated tokens are not sent.
    pub(crate) max_prompt_tokens: Option<u64>,
    pub(crate) temperature: f64,
    /// None: find out.
    pub(crate) structured_output: Option<StructuredOutput>,
    pub(crate) prices: Prices,
    /// Of what is known already, in estimated tokens; 0: do not ask.
    pub(crate) known_facts_tokens: usize,
    pub(crate) known_facts_timeout: Duration,
}

impl LlmConfig {
    /// What the settings say.
    ///
    /// # Errors
    /// What to change, in words.
    pub(crate) fn of(settings: &Settings) -> Result<Self, String> {
        let given = &settings.extractor;
        let missing =
            |what: &str, variable: &str| format!("extractor.kind is `llm` and extractor.{what} is not set: set {variable}");
        let base = given.base_url.as_deref().filter(|text| !text.trim().is_empty());
        let base = base.ok_or_else(|| missing("base_url", "MEMORI__EXTRACTOR__BASE_URL, such as https://api.openai.com/v1"))?;
        let model = given.model.as_deref().map(str::trim).filter(|text| !text.is_empty());
        let model = model.ok_or_else(|| missing("model", "MEMORI__EXTRACTOR__MODEL"))?;
        let structured_output = match given.structured_output.as_str() {
            "auto" => None,
            other => Some(StructuredOutput::parse(other).ok_or_else(|| {
                format!("extractor.structured_output is {other:?}; it must be auto, json_schema, json_object or text")
            })?),
        };
        let bounded = |name: &str, value: f64, least: f64, most: f64| {
            (least..=most)
                .contains(&value)
                .then_some(value)
                .ok_or(format!("extractor.{name} is {value}; it must be {least} to {most}"))
        };
        if !(1..=MAX_OUTPUT_TOKENS).contains(&given.max_output_tokens) {
            return Err(format!(
                "extractor.max_output_tokens is {}; it must be 1 to {MAX_OUTPUT_TOKENS}",
                given.max_output_tokens
            ));
        }
        if given.timeout_ms == 0 {
            return Err("extractor.timeout_ms is 0; it must be at least 1".to_owned());
        }
        Ok(Self {
            url: completions_url(base)?,
            credentials: credentials(given)?,
            model: model.to_owned(),
            timeout: Duration::from_millis(given.timeout_ms),
            max_output_tokens: given.max_output_tokens,
            max_prompt_tokens: given.max_prompt_tokens,
            temperature: bounded("temperature", given.temperature, 0.0, 2.0)?,
            structured_output,
            prices: Prices {
                read: bounded("price_in_per_million", given.price_in_per_million, 0.0, 1e6)?,
                written: bounded("price_out_per_million", given.price_out_per_million, 0.0, 1e6)?,
            },
            known_facts_tokens: given.known_facts_tokens,
            known_facts_timeout: Duration::from_millis(given.known_facts_timeout_ms),
        })
    }
}

/// `BASE/chat/completions`, with the base's query kept behind it.
fn completions_url(base: &str) -> Result<Url, String> {
    let bad = |why: &str| format!("extractor.base_url cannot be used: {why}; such as https://api.openai.com/v1");
    let mut url = Url::parse(base.trim()).map_err(|e| bad(&e.to_string()))?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return Err(bad("it must be http:// or https:// and name a host"));
    }
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    if !path.ends_with("/chat/completions") {
        url.set_path(&format!("{path}/chat/completions"));
    }
    Ok(url)
}

fn credentials(given: &ExtractorSettings) -> Result<Option<(HeaderName, HeaderValue)>, String> {
    let Some(key) = given.api_key.as_ref().map(|key| key.expose().trim()).filter(|key| !key.is_empty()) else { return Ok(None) };
    let name = HeaderName::try_from(given.api_key_header.as_str())
        .map_err(|_| "extractor.api_key_header is not the name of a header".to_owned())?;
    let text = if name == AUTHORIZATION { format!("Bearer {key}") } else { key.to_owned() };
    let mut value = HeaderValue::from_str(&text).map_err(|_| "extractor.api_key must be printable ASCII".to_owned())?;
    value.set_sensitive(true);
    Ok(Some((name, value)))
}

#[cfg(test)]
mod tests {
    use memori_service::Secret;
    use memori_service::settings::Settings;

    use super::{LlmConfig, completions_url};

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.extractor.kind = "llm".to_owned();
        settings.extractor.base_url = Some("https://llm.example/v1/".to_owned());
        settings.extractor.model = Some("m".to_owned());
        settings
    }

    #[test]
    fn the_address_is_the_base_and_the_route() {
        for (base, url) in [
            ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
            ("http://127.0.0.1:11434/v1/", "http://127.0.0.1:11434/v1/chat/completions"),
            ("http://h:1", "http://h:1/chat/completions"),
            ("http://h/v1/chat/completions", "http://h/v1/chat/completions"),
            (
                "https://x.openai.azure.com/openai/deployments/d?api-version=2024-10-21",
                "https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
            ),
        ] {
            assert_eq!(completions_url(base).unwrap().as_str(), url);
        }
        for base in ["", "api.openai.com/v1", "ftp://h/v1", "http://"] {
            assert!(completions_url(base).is_err(), "{base}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        assert!(LlmConfig::of(&settings()).is_ok());
        type Change = fn(&mut Settings);
        let wrong: [(&str, Change); 9] = [
            ("base_url", |s| s.extractor.base_url = None),
            ("base_url", |s| s.extractor.base_url = Some("x".into())),
            ("model", |s| s.extractor.model = Some(" ".into())),
            ("structured_output", |s| s.extractor.structured_output = "xml".into()),
            ("temperature", |s| s.extractor.temperature = 2.5),
            ("price_in_per_million", |s| s.extractor.price_in_per_million = f64::NAN),
            ("max_output_tokens", |s| s.extractor.max_output_tokens = 0),
            ("timeout_ms", |s| s.extractor.timeout_ms = 0),
            ("api_key_header", |s| {
                s.extractor.api_key = Some(Secret::new("k"));
                s.extractor.api_key_header = "a header".into();
            }),
        ];
        for (named, change) in wrong {
            let mut settings = settings();
            change(&mut settings);
            let error = LlmConfig::of(&settings).map(|_| ()).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn the_key_goes_where_the_endpoint_wants_it() {
        let mut settings = settings();
        assert!(LlmConfig::of(&settings).unwrap().credentials.is_none(), "a local server needs none");
        settings.extractor.api_key = Some(Secret::new("k"));
        let (name, value) = LlmConfig::of(&settings).unwrap().credentials.unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap(), value.is_sensitive()), ("authorization", "Bearer k", true));
        settings.extractor.api_key_header = "api-key".into();
        let (name, value) = LlmConfig::of(&settings).unwrap().credentials.unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("api-key", "k"));
    }
}
