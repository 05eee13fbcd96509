//! `memori health`: whether a process is ready, for a container's health check: the image has no shell and no curl.

use std::time::Duration;

use memori_service::ProcessError;

use crate::output::say;

/// Longer than that is not healthy; below what health checks are given by default.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// The process's admin address: 7710 is the front door's, 7711 the worker's, 7712 the writer's.
    #[arg(long, default_value = "http://127.0.0.1:7710")]
    url: String,
}

pub(crate) async fn run(flags: Flags) -> Result<(), ProcessError> {
    let url = format!("{}/readyz", flags.url.trim_end_matches('/'));
    let http = reqwest::Client::builder()
        .timeout(PATIENCE)
        .no_proxy()
        .build()
        .map_err(|e| ProcessError::Failed(format!("no HTTP client: {e}")))?;
    let answer = http.get(&url).send().await.map_err(|e| ProcessError::Unreachable(format!("{url} does not answer ({e})")))?;
    let status = answer.status();
    let text = answer.text().await.unwrap_or_default();
    if status.is_success() {
        say(text.trim_end());
        return Ok(());
    }
    Err(ProcessError::Failed(format!("{url} answers {status}: {}", text.trim_end())))
}
