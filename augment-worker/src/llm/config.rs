//! The endpoint and its bounds, validated.

use std::time::Duration;

use memori_service::Secret;
use memori_service::settings::{Endpoint as EndpointSettings, Extractor as ExtractorSettings, Settings};
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};

use super::dialect::StructuredOutput;
use super::tokens::Prices;
use crate::pace::Terms;

/// The most that a provider may be asked to write.
const MAX_OUTPUT_TOKENS: u32 = 1_000_000;
/// Bytes of an endpoint's name.
const MAX_NAME_BYTES: usize = 64;

/// One place where a model is asked.
#[derive(Clone)]
pub(crate) struct EndpointConfig {
    /// In metrics and logs.
    pub(crate) name: String,
    /// The whole address of `chat/completions`.
    pub(crate) url: Url,
    /// Name and value of the header that carries the key.
    pub(crate) credentials: Option<(HeaderName, HeaderValue)>,
    pub(crate) model: String,
    pub(crate) prices: Prices,
    pub(crate) terms: Terms,
}

/// Where and how models are asked.
#[derive(Clone)]
pub(crate) struct LlmConfig {
    /// At least one.
    pub(crate) endpoints: Vec<EndpointConfig>,
    /// Calls at a time by all of them together.
    pub(crate) max_concurrency: usize,
    /// Of one call, from its first byte to its answer's last.
    pub(crate) timeout: Duration,
    pub(crate) max_output_tokens: u32,
    /// Prompts with more estimated tokens are not sent.
    pub(crate) max_prompt_tokens: Option<u64>,
    pub(crate) temperature: f64,
    /// None: find out.
    pub(crate) structured_output: Option<StructuredOutput>,
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
        let structured_output = match given.structured_output.as_str() {
            "auto" => None,
            other => Some(StructuredOutput::parse(other).ok_or_else(|| {
                format!("extractor.structured_output is {other:?}; it must be auto, json_schema, json_object or text")
            })?),
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
            endpoints: endpoints(given)?,
            max_concurrency: given.max_concurrency,
            timeout: Duration::from_millis(given.timeout_ms),
            max_output_tokens: given.max_output_tokens,
            max_prompt_tokens: given.max_prompt_tokens,
            temperature: bounded("extractor.temperature", given.temperature, 2.0)?,
            structured_output,
            known_facts_tokens: given.known_facts_tokens,
            known_facts_timeout: Duration::from_millis(given.known_facts_timeout_ms),
        })
    }
}

fn bounded(name: &str, value: f64, most: f64) -> Result<f64, String> {
    (0.0..=most).contains(&value).then_some(value).ok_or_else(|| format!("{name} is {value}; it must be 0 to {most}"))
}

/// The endpoints of the list, or the one of the section.
fn endpoints(given: &ExtractorSettings) -> Result<Vec<EndpointConfig>, String> {
    if given.endpoints.is_empty() {
        return Ok(vec![endpoint(given, &EndpointSettings::default(), None)?]);
    }
    let all: Vec<EndpointConfig> = given
        .endpoints
        .iter()
        .enumerate()
        .map(|(place, one)| endpoint(given, one, Some(place)))
        .collect::<Result<_, String>>()?;
    if let Some(twice) = all.iter().enumerate().find(|(at, one)| all[..*at].iter().any(|other| other.name == one.name)) {
        return Err(format!("two of extractor.endpoints are called {:?}; give each a name of its own", twice.1.name));
    }
    Ok(all)
}

/// One endpoint: what it does not say itself, the section around it says.
fn endpoint(around: &ExtractorSettings, given: &EndpointSettings, place: Option<usize>) -> Result<EndpointConfig, String> {
    let section = place.map_or_else(|| "extractor".to_owned(), |place| format!("extractor.endpoints[{place}]"));
    let missing = |what: &str, such_as: &str| {
        let variable =
            place.map_or_else(|| "MEMORI__EXTRACTOR__".to_owned(), |place| format!("MEMORI__EXTRACTOR__ENDPOINTS__{place}__"));
        format!("extractor.kind is `llm` and {section}.{what} is not set: set {variable}{}{such_as}", what.to_uppercase())
    };
    let base = given.base_url.as_deref().or(around.base_url.as_deref()).filter(|text| !text.trim().is_empty());
    let base = base.ok_or_else(|| missing("base_url", ", such as https://api.openai.com/v1"))?;
    let model = given.model.as_deref().or(around.model.as_deref()).map(str::trim).filter(|text| !text.is_empty());
    let model = model.ok_or_else(|| missing("model", ""))?;
    let name = given.name.clone().unwrap_or_else(|| place.unwrap_or_default().to_string());
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(is_name) {
        return Err(format!("{section}.name is {name:?}; it must be up to {MAX_NAME_BYTES} of a-z, A-Z, 0-9, `_`, `-` and `.`"));
    }
    let price = |key: &str, own: Option<f64>, shared: f64| bounded(&format!("{section}.{key}"), own.unwrap_or(shared), 1e6);
    // A budget of the section is each endpoint's, as everything else is that stands there.
    #[expect(clippy::cast_precision_loss, reason = "a budget per minute is far below 2^52")]
    let part =
        |own: Option<u64>, shared: Option<u64>| own.or(shared).map(|budget| budget as f64 / f64::from(around.replicas.max(1)));
    let header = given.api_key_header.as_deref().unwrap_or(&around.api_key_header);
    Ok(EndpointConfig {
        name,
        url: completions_url(&section, base)?,
        credentials: credentials(&section, given.api_key.as_ref().or(around.api_key.as_ref()), header)?,
        model: model.to_owned(),
        prices: Prices {
            read: price("price_in_per_million", given.price_in_per_million, around.price_in_per_million)?,
            written: price("price_out_per_million", given.price_out_per_million, around.price_out_per_million)?,
        },
        terms: Terms {
            weight: given.weight,
            most: given.max_concurrency.unwrap_or(around.max_concurrency).min(around.max_concurrency),
            is_adaptive: around.adaptive,
            requests_per_minute: part(given.requests_per_minute, around.requests_per_minute),
            tokens_per_minute: part(given.tokens_per_minute, around.tokens_per_minute),
        },
    })
}

/// `BASE/chat/completions`, with the base's query kept behind it.
fn completions_url(section: &str, base: &str) -> Result<Url, String> {
    let bad = |why: &str| format!("{section}.base_url cannot be used: {why}; such as https://api.openai.com/v1");
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

fn credentials(section: &str, key: Option<&Secret>, header: &str) -> Result<Option<(HeaderName, HeaderValue)>, String> {
    let Some(key) = key.map(|key| key.expose().trim()).filter(|key| !key.is_empty()) else { return Ok(None) };
    let name = HeaderName::try_from(header).map_err(|_| format!("{section}.api_key_header is not the name of a header"))?;
    let text = if name == AUTHORIZATION { format!("Bearer {key}") } else { key.to_owned() };
    let mut value = HeaderValue::from_str(&text).map_err(|_| format!("{section}.api_key must be printable ASCII"))?;
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
            assert_eq!(completions_url("extractor", base).unwrap().as_str(), url);
        }
        for base in ["", "api.openai.com/v1", "ftp://h/v1", "http://"] {
            assert!(completions_url("extractor", base).is_err(), "{base}");
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
        assert!(LlmConfig::of(&settings).unwrap().endpoints[0].credentials.clone().is_none(), "a local server needs none");
        settings.extractor.api_key = Some(Secret::new("k"));
        let (name, value) = LlmConfig::of(&settings).unwrap().endpoints[0].credentials.clone().unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap(), value.is_sensitive()), ("authorization", "Bearer k", true));
        settings.extractor.api_key_header = "api-key".into();
        let (name, value) = LlmConfig::of(&settings).unwrap().endpoints[0].credentials.clone().unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("api-key", "k"));
    }

    #[test]
    fn an_endpoint_of_the_list_has_what_the_section_says_unless_it_says_otherwise() {
        use memori_service::settings::Endpoint;
        let mut settings = settings();
        settings.extractor.api_key = Some(Secret::new("shared"));
        settings.extractor.requests_per_minute = Some(600);
        settings.extractor.replicas = 4;
        settings.extractor.price_in_per_million = 2.0;
        settings.extractor.endpoints = vec![
            Endpoint { weight: 3, ..Endpoint::default() },
            Endpoint {
                name: Some("spare".into()),
                base_url: Some("http://b/v1".into()),
                api_key: Some(Secret::new("own")),
                model: Some("other".into()),
                requests_per_minute: Some(60),
                tokens_per_minute: Some(1_000),
                max_concurrency: Some(5),
                price_in_per_million: Some(0.5),
                ..Endpoint::default()
            },
        ];
        let config = LlmConfig::of(&settings).unwrap();
        let [a, b] = &config.endpoints[..] else { panic!("two") };
        assert_eq!((a.name.as_str(), a.url.host_str(), a.model.as_str()), ("0", Some("llm.example"), "m"));
        assert_eq!((a.terms.weight, a.terms.most, a.terms.requests_per_minute, a.prices.read), (3, 50, Some(150.0), 2.0));
        assert_eq!(a.credentials.as_ref().unwrap().1.to_str().unwrap(), "Bearer shared");
        assert_eq!((b.name.as_str(), b.url.host_str(), b.model.as_str()), ("spare", Some("b"), "other"));
        assert_eq!((b.terms.weight, b.terms.most, b.prices.read), (1, 5, 0.5));
        assert_eq!((b.terms.requests_per_minute, b.terms.tokens_per_minute), (Some(15.0), Some(250.0)));
        assert_eq!(b.credentials.as_ref().unwrap().1.to_str().unwrap(), "Bearer own");
        settings.extractor.endpoints[0].name = Some("spare".into());
        assert!(LlmConfig::of(&settings).map(|_| ()).unwrap_err().contains("spare"));
        settings.extractor.endpoints[0].name = Some("a name".into());
        assert!(LlmConfig::of(&settings).map(|_| ()).unwrap_err().contains("endpoints[0].name"));
        settings.extractor.endpoints = vec![Endpoint::default()];
        settings.extractor.base_url = None;
        assert!(LlmConfig::of(&settings).map(|_| ()).unwrap_err().contains("ENDPOINTS__0__BASE_URL"));
    }
}
