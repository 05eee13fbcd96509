//! `memori doctor`: checks configuration, log and store, and says what to do.

use std::path::Path;
use std::time::Duration;

use memori_augment_worker::llm::doctor::{Diagnosis, diagnose};
use memori_embedding::EmbedError;
use memori_service::{ProcessError, Settings};
use serde::Serialize;
use serde_json::json;

use crate::output::{say, table};
use memori_embedded::folder;

mod database;
mod embedded;
mod platform;

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Check Kafka, Postgres and the services instead of the embedded data folder.
    #[arg(long)]
    platform: bool,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// How one check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    /// It works, but somebody should know.
    Note,
    Failed,
}

/// One check: what was found, and what to do about it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    do_this: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), do_this: None }
    }

    fn note(check: &'static str, found: impl Into<String>, do_this: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Note, found: found.into(), do_this: Some(do_this.into()) }
    }

    fn failed(check: &'static str, found: impl Into<String>, do_this: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Failed, found: found.into(), do_this: Some(do_this.into()) }
    }
}

/// How long one dependency is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn run(settings: Settings, flags: Flags) -> Result<(), ProcessError> {
    let mut findings = vec![Finding::ok("configuration", "read; `memori --print-config doctor` shows it")];
    findings.extend(keys(&settings));
    findings.push(extractor(&settings).await);
    findings.push(embedding(&settings).await);
    if flags.platform {
        findings.extend(platform::check(&settings).await);
    } else {
        let path = settings.embedded.data_dir.clone().unwrap_or_else(folder::default_path);
        findings.extend(embedded::check(&path, settings.embedded.database_url.is_some()).await);
        if let Some(url) = &settings.embedded.database_url {
            findings.extend(database::check(url).await);
        }
    }
    let failed = findings.iter().filter(|f| f.verdict == Verdict::Failed).count();
    if flags.json {
        say(json!({"healthy": failed == 0, "findings": findings}).to_string());
    } else {
        let rows: Vec<Vec<String>> = findings
            .iter()
            .map(|f| {
                let mark = match f.verdict {
                    Verdict::Ok => "ok",
                    Verdict::Note => "note",
                    Verdict::Failed => "FAILED",
                };
                vec![mark.to_owned(), f.check.to_owned(), f.found.clone()]
            })
            .collect();
        say(table(&["", "check", "found"], &rows));
        for finding in &findings {
            if let Some(advice) = &finding.do_this {
                say(format!("\n   {}: {advice}", finding.check));
            }
        }
    }
    if failed > 0 {
        return Err(ProcessError::Failed(format!("{failed} of {} checks failed", findings.len())));
    }
    Ok(())
}

fn keys(settings: &Settings) -> Vec<Finding> {
    let (file, store) = (settings.auth.keys_file.as_deref(), settings.has_key_store());
    let finding = match memori_service::auth::KeyRing::for_listener(file, store, settings.ingest.listen) {
        Ok(_) if file.is_none() && store => Finding::ok("keys", "those of the key store"),
        Ok(ring) if ring.has_keys() => Finding::ok("keys", "the keys file is readable"),
        Ok(_) => Finding::ok("keys", "none: everything belongs to the tenant `default`, on loopback only"),
        Err(error) => Finding::failed("keys", "cannot be used", error.to_string()),
    };
    vec![finding]
}

/// For `llm` by one cheap call.
async fn extractor(settings: &Settings) -> Finding {
    if settings.extractor.kind == "builtin" {
        return Finding::ok("extractor", "builtin: rules, no network, no key");
    }
    let Diagnosis { works, found, do_this } = diagnose(settings).await;
    let verdict = if works { Verdict::Ok } else { Verdict::Failed };
    Finding { check: "extractor", verdict, found, do_this }
}

/// By one vector. Without one the system works, by words alone.
async fn embedding(settings: &Settings) -> Finding {
    const CHECK: &str = "embedding";
    match memori_embedding::probe(settings).await {
        Ok(None) => Finding::ok(CHECK, "none, as configured: recall goes by words alone"),
        Ok(Some(model)) => Finding::ok(CHECK, format!("{model} makes vectors")),
        Err(EmbedError::Unavailable(why)) => {
            // `memori model fetch` takes the model that the settings name.
            let advice = if ["builtin", "minilm"].contains(&settings.embedding.kind.as_str()) {
                "run `memori model fetch`; until then recall goes by words, not by meaning (MEMORI__EMBEDDING__KIND=none silences this)"
            } else {
                "see whether the endpoint at embedding.base_url is up; until then recall goes by words, not by meaning"
            };
            Finding::note(CHECK, why, advice)
        }
        Err(error @ (EmbedError::Configuration(_) | EmbedError::Refused(_))) => {
            Finding::failed(CHECK, error.to_string(), "change the settings of embedding, or set MEMORI__EMBEDDING__KIND=none")
        }
    }
}

/// Whether files can be made in a folder that is there.
fn writable(path: &Path) -> Result<(), std::io::Error> {
    let probe = path.join(".memori-doctor");
    std::fs::write(&probe, b"probe")?;
    std::fs::remove_file(&probe)
}
