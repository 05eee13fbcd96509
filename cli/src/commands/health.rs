//! `memori health`: whether a process is ready, for a container's health check, and whether a front door may go: the image has no shell
//! and no curl.

use std::time::{Duration, Instant};

use memori_service::ProcessError;

use crate::exposition;
use crate::output::say;

/// Longer than that is not healthy; below what health checks are given by default.
const PATIENCE: Duration = Duration::from_secs(3);
/// So long clients may still be sent to a front door that was told to go.
const STILL_FOUND: Duration = Duration::from_secs(5);
/// How often the spool is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const SPOOL_EVENTS: &str = "memori_ingest_spool_events";

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// The process's admin address: 7710 is the front door's, 7711 the worker's, 7712 the writer's.
    #[arg(long, default_value = "http://127.0.0.1:7710")]
    url: String,
    /// Before a front door is stopped for good: wait until its spool has reached the log, so many seconds at most, and at least 5, for
    /// clients to stop coming. Ends with 0 either way; what is left stays on its volume.
    #[arg(long, value_name = "SECONDS")]
    until_spool_empty: Option<u64>,
}

pub(crate) async fn run(flags: Flags) -> Result<(), ProcessError> {
    let base = flags.url.trim_end_matches('/').to_owned();
    let http = reqwest::Client::builder()
        .timeout(PATIENCE)
        .no_proxy()
        .build()
        .map_err(|e| ProcessError::Failed(format!("no HTTP client: {e}")))?;
    if let Some(seconds) = flags.until_spool_empty {
        say(until_spool_empty(&http, &base, Duration::from_secs(seconds)).await);
        return Ok(());
    }
    let url = format!("{base}/readyz");
    let answer = http.get(&url).send().await.map_err(|e| ProcessError::Unreachable(format!("{url} does not answer ({e})")))?;
    let status = answer.status();
    let text = answer.text().await.unwrap_or_default();
    if status.is_success() {
        say(text.trim_end());
        return Ok(());
    }
    Err(ProcessError::Failed(format!("{url} answers {status}: {}", text.trim_end())))
}

async fn until_spool_empty(http: &reqwest::Client, base: &str, within: Duration) -> String {
    let since = Instant::now();
    tokio::time::sleep(STILL_FOUND.min(within)).await;
    loop {
        let text = match http.get(format!("{base}/metrics")).send().await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(error) => return format!("the front door does not answer ({error})"),
        };
        match spooled(&text) {
            None => return "no spool".to_owned(),
            Some(0.0) => return "the spool is empty".to_owned(),
            Some(left) if since.elapsed() >= within => return format!("{left} events are left in the spool"),
            Some(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// How many events wait in the spool, by a front door's `/metrics`.
fn spooled(metrics: &str) -> Option<f64> {
    exposition::samples(metrics).into_iter().find(|sample| sample.name == SPOOL_EVENTS).map(|sample| sample.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spool_is_read_off_the_metrics() {
        let text = "# TYPE memori_ingest_spool_events gauge\nmemori_ingest_spool_bytes 9\nmemori_ingest_spool_events 3\n";
        assert_eq!(spooled(text), Some(3.0));
        assert_eq!(spooled("memori_ingest_spool_events_total 3\n"), None);
        assert_eq!(spooled(""), None);
    }
}
