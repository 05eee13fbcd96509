//! `memori quality`: how well recall finds what a file's questions ask for, through the public API.
//!
//! Promises: nothing but the HTTP API is used, so that the figures are a client's; without `--url` a system of its own runs in a
//! temporary folder, and then the same file gives the same figures. In a system named by `--url` the conversations stand under
//! names of their own and are erased at the end.

mod ablate;
mod ask;
mod format;
mod load;
mod measure;
mod report;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memori_service::{ProcessError, Secret, Settings, Shutdown};

use crate::client::{Client, ClientFlags};
use crate::output::{aside, say};
use format::Data;
use memori_embedded::Embedded;

/// Token budgets where none are given.
const BUDGETS: [u64; 4] = [250, 500, 1_000, 2_000];
/// How long a system of its own waits for the vector of a query.
const PATIENCE_MS: u64 = 30_000;

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Conversations and questions, in the form of docs/quality.md; `-` is stdin.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Measure a running system at this address, and not one of its own.
    #[arg(long)]
    url: Option<String>,
    /// Its API key, with the rights events, recall and erase.
    #[arg(long, env = "MEMORI_API_KEY", hide_env_values = true, value_parser = |text: &str| Ok::<_, std::convert::Infallible>(Secret::new(text)))]
    key: Option<Secret>,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
    /// Show what each part of the score is worth.
    #[arg(long)]
    ablations: bool,
    /// Ask for the recipe without vectors.
    #[arg(long)]
    lexical: bool,
    /// A token budget at which recall is measured; may be given several times.
    #[arg(long = "limit-budget", value_name = "TOKENS")]
    budgets: Vec<u64>,
    /// Show up to so many questions whose evidence was not found, with what came instead.
    #[arg(long, value_name = "QUESTIONS", num_args = 0..=1, default_value_t = 0, default_missing_value = "20")]
    misses: usize,
    /// Leave the conversations where they are, and say where.
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(settings: Settings, flags: Flags) -> Result<(), ProcessError> {
    let data = format::parse(&read(&flags.data)?)
        .map_err(|problems| ProcessError::Usage(format!("{}: {problems}", flags.data.display())))?;
    match &flags.url {
        Some(url) => {
            let client = Client::new(&ClientFlags { url: url.clone(), key: flags.key.clone() })?;
            // What was erased never comes back under its old event ids.
            let prefix = format!("quality-{:016x}-", rand::random::<u64>());
            let measured = measure(&client, &prefix, &data, &flags).await;
            if flags.keep {
                aside(format!("kept: the entities whose ids begin with {prefix}"));
                return measured;
            }
            measured.and(load::erase(&client, &prefix, &data.entities()).await)
        }
        None => embedded(settings, &data, &flags).await,
    }
}

async fn embedded(mut settings: Settings, data: &Data, flags: &Flags) -> Result<(), ProcessError> {
    let folder = tempfile::Builder::new()
        .prefix("memori-quality-")
        .tempdir()
        .map_err(|e| ProcessError::Failed(format!("no temporary folder: {e}")))?;
    settings.embedded.data_dir = Some(folder.path().to_owned());
    settings.embedded.database_url = None;
    settings.ingest.listen.set_port(0);
    settings.auth.keys_file = None;
    // A slow machine waits for a query's vector: figures that depend on its speed would be worth nothing.
    settings.writer.query_embedding_timeout_ms = PATIENCE_MS;
    let shutdown = Shutdown::new(Duration::from_millis(settings.shutdown.deadline_ms));
    let Some(system) = Embedded::start(settings, shutdown).await? else { return Ok(()) };
    let client = Client::new(&ClientFlags { url: format!("http://{}", system.address()), key: None })?;
    let measured = measure(&client, "", data, flags).await;
    let stopped = system.stop().await;
    if flags.keep {
        aside(format!("kept: `memori up --data-dir {}`", folder.keep().display()));
    }
    measured.and(stopped)
}

async fn measure(client: &Client, prefix: &str, data: &Data, flags: &Flags) -> Result<(), ProcessError> {
    let began = Instant::now();
    let events = load::post(client, prefix, data).await?;
    aside(format!("{events} events are applied after {:.1} s", began.elapsed().as_secs_f64()));
    let asking = ask::Asking {
        prefix: prefix.to_owned(),
        lexical: flags.lexical,
        ablations: flags.ablations,
        budgets: if flags.budgets.is_empty() { BUDGETS.to_vec() } else { flags.budgets.clone() },
    };
    let found = ask::all(client, &asking, data).await?;
    let report = report::Report::of(data, &found, flags.ablations, flags.misses);
    say(if flags.json { report.json().to_string() } else { report.text() });
    Ok(())
}

fn read(path: &Path) -> Result<String, ProcessError> {
    let failed = |e: std::io::Error| ProcessError::Usage(format!("{}: {e}", path.display()));
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).map_err(failed)
}
