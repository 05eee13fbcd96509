//! `memori top`: what runs right now, read off the processes themselves: lanes, lag, throughput, in flight, the model's health.

mod view;

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use futures::future::join_all;
use memori_service::ProcessError;

use self::view::{Look, View};
use crate::exposition;
use crate::output::say;

/// Longer than that a process is not waited for.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Where a process tells its metrics; once for each. Of `memori up` it is its API's address, else the admin address.
    #[arg(long = "from", value_name = "URL", default_value = "http://127.0.0.1:7700")]
    from: Vec<String>,
    /// How often, and over how long rates are taken.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    interval_ms: u64,
    /// One view, then the end. So it is also where the output is no terminal, but for `--json`.
    #[arg(long)]
    once: bool,
    /// A line of JSON for each view.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(flags: Flags) -> Result<(), ProcessError> {
    let http = reqwest::Client::builder()
        .timeout(PATIENCE)
        .no_proxy()
        .build()
        .map_err(|e| ProcessError::Failed(format!("no HTTP client: {e}")))?;
    let live = std::io::stdout().is_terminal() && !flags.json;
    let once = flags.once || !(live || flags.json);
    let interval = Duration::from_millis(flags.interval_ms);
    let mut before = looks(&http, &flags.from).await;
    if before.iter().all(|look| look.samples.is_none()) {
        return Err(ProcessError::Unreachable(format!(
            "nobody tells metrics at {}; name the processes' admin addresses with --from",
            flags.from.join(", ")
        )));
    }
    loop {
        tokio::time::sleep(interval).await;
        let now = looks(&http, &flags.from).await;
        let view = View::between(&before, &now);
        if flags.json {
            say(serde_json::to_string(&view).map_err(|e| ProcessError::Failed(e.to_string()))?);
        } else {
            if live && !once {
                // Home, and all below it gone.
                let _ = std::io::stdout().write_all(b"\x1b[H\x1b[2J");
            }
            say(view.to_string());
        }
        if once {
            return Ok(());
        }
        before = now;
    }
}

/// All processes at the same time.
async fn looks(http: &reqwest::Client, from: &[String]) -> Vec<Look> {
    join_all(from.iter().map(|url| async {
        let answer = http.get(format!("{}/metrics", url.trim_end_matches('/'))).send().await;
        let text = match answer.and_then(reqwest::Response::error_for_status) {
            Ok(answer) => answer.text().await.ok(),
            Err(_) => None,
        };
        Look { url: url.clone(), at: Instant::now(), samples: text.map(|text| exposition::samples(&text)) }
    }))
    .await
}
