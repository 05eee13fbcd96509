//! What an engine is asked to be: as it was given, and validated.

use std::path::PathBuf;
use std::time::Duration;

use memori_ingest::without_credentials;
use memori_service::{Secret, Settings};
use serde::Deserialize;

/// Why a configuration cannot be right; says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    mode: String,
    path: Option<PathBuf>,
    url: Option<Secret>,
    api_key: Option<Secret>,
    data_dir: Option<PathBuf>,
    queue_events: Option<usize>,
    queue_bytes: Option<usize>,
    recall_deadline_ms: Option<u64>,
    unreachable_after_ms: Option<u64>,
    exit_deadline_ms: Option<u64>,
    spool_max_bytes: Option<u64>,
    token_budget: Option<usize>,
    recall_limit: Option<usize>,
    workers: Option<usize>,
    batch_rows: Option<usize>,
    extractor: Option<Extractor>,
    embedding: Option<Embedding>,
}

/// How events become facts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Extractor {
    /// `builtin` or `llm`.
    pub kind: Option<String>,
    /// For `llm`: what stands before `/chat/completions`.
    pub base_url: Option<String>,
    /// For `llm`.
    pub api_key: Option<Secret>,
    /// For `llm`.
    pub model: Option<String>,
}

/// How text becomes vectors.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Embedding {
    /// `builtin`, `openai` or `none`.
    pub kind: Option<String>,
    /// For `openai`.
    pub base_url: Option<String>,
    /// For `openai`.
    pub api_key: Option<Secret>,
    /// For `openai`.
    pub model: Option<String>,
    /// For `openai`.
    pub dimensions: Option<usize>,
    /// Where converted models lie; absent: the user's cache folder.
    pub model_dir: Option<PathBuf>,
    /// For `builtin`: the installed package's folder that holds `resources/weights.npz`.
    pub weights_dir: Option<PathBuf>,
}

/// Where memory lives.
#[derive(Clone, Debug)]
pub enum Target {
    /// In a SQLite file.
    Sqlite(PathBuf),
    /// In a schema of ours, in this Postgres database.
    Postgres(Secret),
    /// On a platform.
    Platform {
        /// Its front door, without a slash at the end.
        url: String,
        /// The key that names the tenant.
        api_key: Option<Secret>,
    },
}

/// A validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where memory lives.
    pub target: Target,
    /// Spools and what else is this machine's own.
    pub data_dir: PathBuf,
    /// Events that wait to be durable, at most.
    pub queue_events: usize,
    /// Their bytes, at most.
    pub queue_bytes: usize,
    /// What a call to a model waits for recall, at most.
    pub recall_deadline: Duration,
    /// After how long without an answer a wait gives up.
    pub unreachable_after: Duration,
    /// What the end of the process waits for, at most.
    pub exit_deadline: Duration,
    /// Bound of a spool.
    pub spool_max_bytes: u64,
    /// Estimated tokens of an injected block, at most.
    pub token_budget: usize,
    /// Facts that are recalled for a block.
    pub recall_limit: usize,
    /// Extractions at once.
    pub workers: usize,
    /// Rows of a flush of the writer, at most.
    pub batch_rows: usize,
    /// How events become facts.
    pub extractor: Extractor,
    /// How text becomes vectors.
    pub embedding: Embedding,
}

/// The same configuration is the same text, whatever the order of its keys.
///
/// # Errors
/// [`ConfigError`] where it is no JSON object.
pub fn canonical(json: &str) -> Result<String, ConfigError> {
    let value: serde_json::Value =
        serde_json::from_str(json).map_err(|e| ConfigError(format!("the configuration is no JSON: {e}")))?;
    if !value.is_object() {
        return Err(ConfigError("the configuration must be a JSON object".to_owned()));
    }
    Ok(value.to_string())
}

impl Config {
    /// Reads and validates a configuration.
    ///
    /// # Errors
    /// [`ConfigError`], with what to change.
    pub fn read(json: &str) -> Result<Self, ConfigError> {
        let given: Given =
            serde_json::from_str(json).map_err(|e| ConfigError(format!("the configuration is not usable: {e}")))?;
        let data_dir = given.data_dir.unwrap_or_else(default_data_dir);
        let target = match (given.mode.as_str(), given.url) {
            ("sqlite", None) => Target::Sqlite(given.path.unwrap_or_else(|| data_dir.join("memori.db"))),
            ("sqlite", Some(_)) => return Err(ConfigError("`url` is not for mode sqlite; its file is `path`".to_owned())),
            ("postgres", Some(url)) => {
                let scheme = url.expose().split("://").next().unwrap_or_default();
                if !["postgres", "postgresql"].contains(&scheme) {
                    return Err(ConfigError("`url` must begin with postgres:// or postgresql://".to_owned()));
                }
                Target::Postgres(url)
            }
            ("platform", Some(url)) => {
                let url = url.expose().trim_end_matches('/').to_owned();
                if !url.starts_with("http://") && !url.starts_with("https://") {
                    return Err(ConfigError(format!(
                        "the platform's URL is {}; it must begin with http:// or https://",
                        without_credentials(&url)
                    )));
                }
                Target::Platform { url, api_key: given.api_key }
            }
            ("postgres" | "platform", None) => return Err(ConfigError(format!("mode {} needs `url`", given.mode))),
            (other, _) => return Err(ConfigError(format!("mode is {other:?}; it must be sqlite, postgres or platform"))),
        };
        let at_least_one = |name: &str, value: Option<usize>, default: usize| match value {
            Some(0) => Err(ConfigError(format!("{name} is 0; it must be at least 1"))),
            Some(value) => Ok(value),
            None => Ok(default),
        };
        let config = Self {
            target,
            data_dir,
            queue_events: at_least_one("queue_events", given.queue_events, 10_000)?,
            queue_bytes: at_least_one("queue_bytes", given.queue_bytes, 64 << 20)?,
            recall_deadline: Duration::from_millis(given.recall_deadline_ms.unwrap_or(150)),
            unreachable_after: Duration::from_millis(given.unreachable_after_ms.unwrap_or(5_000)),
            exit_deadline: Duration::from_millis(given.exit_deadline_ms.unwrap_or(5_000)),
            spool_max_bytes: given.spool_max_bytes.unwrap_or(256 << 20),
            token_budget: given.token_budget.unwrap_or(memori_ingest::injection::Options::TOKEN_BUDGET),
            recall_limit: at_least_one("recall_limit", given.recall_limit, 10)?.min(1_000),
            workers: at_least_one("workers", given.workers, 50)?,
            batch_rows: at_least_one("batch_rows", given.batch_rows, 5_000)?,
            extractor: given.extractor.unwrap_or_default(),
            embedding: given.embedding.unwrap_or_default(),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        match self.extractor.kind.as_deref() {
            None | Some("builtin") => {}
            Some("llm") if self.extractor.base_url.is_none() || self.extractor.model.is_none() => {
                return Err(ConfigError("extractor llm needs `base_url` and `model`".to_owned()));
            }
            Some("llm") => {}
            Some(other) => return Err(ConfigError(format!("extractor.kind is {other:?}; it must be builtin or llm"))),
        }
        match self.embedding.kind.as_deref() {
            None | Some("builtin" | "none") => Ok(()),
            Some("openai") if self.embedding.base_url.is_none() || self.embedding.model.is_none() => {
                Err(ConfigError("embedding openai needs `base_url` and `model`".to_owned()))
            }
            Some("openai") => Ok(()),
            Some(other) => Err(ConfigError(format!("embedding.kind is {other:?}; it must be builtin, openai or none"))),
        }
    }

    /// Sets what this configuration says among the settings of a system in this process.
    pub fn apply(&self, settings: &mut Settings) {
        settings.shutdown.deadline_ms = u64::try_from(self.exit_deadline.as_millis()).unwrap_or(u64::MAX);
        settings.ingest.spool_max_bytes = self.spool_max_bytes;
        settings.writer.batch_rows = self.batch_rows;
        settings.extractor.max_concurrency = self.workers;
        let extractor = &self.extractor;
        if let Some(kind) = &extractor.kind {
            settings.extractor.kind.clone_from(kind);
        }
        settings.extractor.base_url.clone_from(&extractor.base_url);
        settings.extractor.api_key.clone_from(&extractor.api_key);
        settings.extractor.model.clone_from(&extractor.model);
        let embedding = &self.embedding;
        if let Some(kind) = &embedding.kind {
            settings.embedding.kind.clone_from(kind);
        }
        settings.embedding.base_url.clone_from(&embedding.base_url);
        settings.embedding.api_key.clone_from(&embedding.api_key);
        settings.embedding.model.clone_from(&embedding.model);
        settings.embedding.dimensions = embedding.dimensions;
        settings.embedding.model_dir.clone_from(&embedding.model_dir);
    }

    /// The folder of this target's own spools: what waits for one must never get to another.
    #[must_use]
    pub fn target_dir(&self) -> PathBuf {
        let mut hash = blake3::Hasher::new();
        hash.update(self.place().as_bytes());
        match &self.target {
            // A place that cannot be shown is told apart by the whole URL.
            Target::Postgres(url) if self.place().contains('…') => {
                hash.update(&[1]).update(url.expose().as_bytes());
            }
            Target::Platform { url, .. } if self.place().contains('…') => {
                hash.update(&[1]).update(url.as_bytes());
            }
            _ => {}
        }
        if let Target::Platform { api_key: Some(key), .. } = &self.target {
            hash.update(&[0]).update(key.expose().as_bytes());
        }
        self.data_dir.join("targets").join(&hash.finalize().to_hex()[..16])
    }

    /// Where memory lives, for a person. No secret is in it.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.target {
            Target::Sqlite(path) => format!("the SQLite file {}", path.display()),
            Target::Postgres(url) => format!("the schema `memori` of {}", without_credentials(url.expose())),
            Target::Platform { url, .. } => format!("the platform at {}", without_credentials(url)),
        }
    }
}

/// `memori-stream` in the user's data folder.
fn default_data_dir() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    base.unwrap_or_else(std::env::temp_dir).join("memori-stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        Config::read(json).unwrap_err().0
    }

    #[test]
    fn what_cannot_be_right_is_refused_with_what_to_change() {
        for (json, said) in [
            (r"{}", "mode"),
            (r#"{"mode":"mysql"}"#, "sqlite, postgres or platform"),
            (r#"{"mode":"postgres"}"#, "needs `url`"),
            (r#"{"mode":"postgres","url":"mysql://x"}"#, "postgres://"),
            (r#"{"mode":"platform","url":"localhost:7700"}"#, "http://"),
            (r#"{"mode":"sqlite","queue_events":0}"#, "queue_events"),
            (r#"{"mode":"sqlite","more":1}"#, "more"),
            (r#"{"mode":"sqlite","extractor":{"kind":"llm"}}"#, "base_url"),
            (r#"{"mode":"sqlite","extractor":{"kind":"magic"}}"#, "builtin or llm"),
            (r#"{"mode":"sqlite","embedding":{"kind":"magic"}}"#, "builtin, openai or none"),
        ] {
            assert!(refused(json).contains(said), "{json}: {}", refused(json));
        }
    }

    #[test]
    fn where_memory_lives_is_said_without_a_secret() {
        let of = |json: &str| Config::read(json).unwrap().place();
        let postgres = of(r#"{"mode":"postgres","url":"postgresql://me:p@ss@db:5432/app?password=secret"}"#);
        assert_eq!(postgres, "the schema `memori` of postgresql://db:5432/app");
        assert_eq!(of(r#"{"mode":"platform","url":"http://127.0.0.1:7700/"}"#), "the platform at http://127.0.0.1:7700");
        assert_eq!(of(r#"{"mode":"sqlite","data_dir":"/x"}"#), "the SQLite file /x/memori.db");
        let shown = format!("{:?}", Config::read(r#"{"mode":"platform","url":"http://h","api_key":"sesame"}"#).unwrap());
        assert!(!shown.contains("sesame"), "{shown}");
    }

    #[test]
    fn no_error_and_no_place_shows_a_password_of_a_url_that_is_none() {
        for url in ["ftp://me:s3cret@h", "me:s3cret@h", "http:me:s3cret@h"] {
            let said = refused(&serde_json::json!({"mode": "platform", "url": url}).to_string());
            assert!(!said.contains("s3cret"), "{said}");
        }
        let of =
            |url: &str| Config::read(&serde_json::json!({"mode": "platform", "url": url, "data_dir": "/x"}).to_string()).unwrap();
        let (one, other) = (of("http://me:s3c/ret@h"), of("http://me:s3c/ret@i"));
        assert!(!one.place().contains("s3c") && !one.place().contains("ret"), "{}", one.place());
        assert_ne!(one.target_dir(), other.target_dir(), "what waits for one never gets to another");
    }

    #[test]
    fn the_order_of_keys_does_not_matter() {
        assert_eq!(canonical(r#"{"b":1,"a":{"d":2,"c":3}}"#), canonical(r#" {"a":{"c":3,"d":2},"b":1}"#));
        assert!(canonical("[]").is_err() && canonical("{").is_err());
    }
}
