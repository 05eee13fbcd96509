//! `memori backfill SOURCE`: imports conversations that were had elsewhere, through a front door or straight onto Kafka.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use memori_event_log::Producer;
use memori_event_log::registry::behind;
use memori_event_log::seam::Log;
use memori_history::checkpoint::with_suffix;
use memori_history::input::{CHECKPOINT_SUFFIX, InputError, REJECTED_SUFFIX, expand, shown};
use memori_history::survey::{MOST_DISTINCT, Survey};
use memori_history::{Format, Import, ImportError, Mapping, Options, Progress, Summary, importer};
use memori_ingest::backfill::Admission;
use memori_ingest::remote::{Platform, RemoteLog};
use memori_schemas::Micros;
use memori_service::settings::Settings;
use memori_service::{ProcessError, Shutdown};
use serde_json::json;

use crate::client::ClientFlags;
use crate::output::{aside, say, table};
use crate::platform;

/// Where events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum To {
    /// A front door, at --url.
    Platform,
    /// The topics of the settings under `kafka`, past the front door.
    Kafka,
}

/// Calls of Kafka's producer at once: they keep their order in its queue.
const CALLS: usize = 64;

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Files, folders, patterns, `-` for stdin, or `postgres://…` for a database of the library Memori. Gzip, zstd and zip are seen through.
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<String>,
    /// events, export, chatgpt, claude, sharegpt, openai, langchain, mem0, memori, csv, json, parquet; else it is told from the content.
    #[arg(long)]
    format: Option<Format>,
    /// Whom everything is about that names nobody.
    #[arg(long, value_name = "ID")]
    entity: Option<String>,
    /// The agent of everything that names none.
    #[arg(long, value_name = "ID")]
    process: Option<String>,
    /// When conversations without any time began, such as 2024-01-31T12:00:00Z; without it they have the time of the import.
    #[arg(long, value_name = "TIME")]
    occurred_at: Option<String>,
    /// Which field is what, such as entity=user_id,session=chat,role=who,content=text,time=sent_at.
    #[arg(long, value_name = "TARGET=FIELD,…")]
    map: Option<Mapping>,
    /// What stands between the columns of CSV.
    #[arg(long, value_name = "CHARACTER")]
    delimiter: Option<char>,
    /// Import a Memori database's own facts, too, as what the person said.
    #[arg(long)]
    facts: bool,
    /// Read and count everything, send nothing: entities, events, tokens, and what a model would cost.
    #[arg(long)]
    dry_run: bool,
    /// The price of a million tokens that a model reads, for --dry-run; else that of the settings.
    #[arg(long, value_name = "PRICE")]
    price_per_million_tokens: Option<f64>,
    /// Events a second, at most.
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Where it is kept how far the import is; else beside the source.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Where records go that cannot be imported; else beside the source.
    #[arg(long, value_name = "FILE")]
    rejected: Option<PathBuf>,
    /// Begin anew, whatever a checkpoint says.
    #[arg(long)]
    restart: bool,
    /// How many seconds a log that confirms nothing is waited for.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    give_up_after: u64,
    /// Where events go.
    #[arg(long, value_enum, default_value = "platform")]
    to: To,
    /// Whose they are, with --to kafka; a front door tells that by the key.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Print progress and result as lines of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

fn usage(error: impl std::fmt::Display) -> ProcessError {
    ProcessError::Usage(error.to_string())
}

pub(crate) async fn run(settings: Settings, flags: Flags) -> Result<(), ProcessError> {
    let occurred_at = match &flags.occurred_at {
        None => None,
        Some(text) => Some(
            Micros::parse_rfc3339(text)
                .ok_or_else(|| usage(format!("--occurred-at {text:?} is no RFC 3339 time such as 2024-01-31T12:00:00Z")))?,
        ),
    };
    let tenant = match (flags.to, &flags.tenant) {
        (To::Platform, Some(_)) => return Err(usage("--tenant is for --to kafka: a front door tells the tenant by the key")),
        (To::Platform, None) => None,
        (To::Kafka, tenant) => Some(tenant.clone().unwrap_or_else(|| "default".to_owned())),
    };
    let inputs = expanded(&flags.sources).await?;
    let beside = |given: &Option<PathBuf>, suffix: &str| match given {
        Some(path) => Some(path.clone()),
        // What is piped in has no place beside it.
        None if flags.sources[0] == "-" => None,
        None => Some(beside_source(&flags.sources[0], suffix)),
    };
    let (checkpoint, rejected) = (beside(&flags.checkpoint, CHECKPOINT_SUFFIX), beside(&flags.rejected, REJECTED_SUFFIX));
    let shutdown = Shutdown::new(Duration::from_millis(settings.shutdown.deadline_ms));
    shutdown.on_signals().map_err(|e| ProcessError::Failed(format!("no signal handlers: {e}")))?;
    let producer = if flags.dry_run { None } else { Some(producer(&settings, &flags).await?) };
    let prices = prices(&settings, &flags);
    let import = Import {
        inputs,
        options: Options {
            format: flags.format,
            entity: flags.entity.clone(),
            process: flags.process.clone(),
            occurred_at,
            map: flags.map.clone().unwrap_or_default(),
            delimiter: flags.delimiter,
            facts: flags.facts,
        },
        admit: Arc::new(Admission::new(tenant.as_deref().unwrap_or("default"))),
        producer: producer.clone(),
        calls: if flags.to == To::Kafka { CALLS } else { 1 },
        tenant,
        checkpoint: checkpoint.filter(|_| !flags.dry_run),
        rejected: rejected.clone().filter(|_| !flags.dry_run),
        restart: flags.restart,
        rate: flags.rate,
        give_up_after: Duration::from_secs(flags.give_up_after),
        stop: shutdown.token(),
    };
    let json = flags.json;
    let ended = importer::run(import, |progress| tell(progress, json)).await;
    if let Some(producer) = producer {
        producer.flush(Duration::from_secs(5)).await;
    }
    let summary = ended.map_err(|error| match error {
        ImportError::Checkpoint(_) | ImportError::Source(_) => usage(error),
        ImportError::Log(_) => ProcessError::Unreachable(error.to_string()),
        ImportError::Rejected { .. } | ImportError::Broken(_) => ProcessError::Failed(error.to_string()),
    })?;
    conclude(&summary, rejected.as_deref().filter(|_| !flags.dry_run), prices, flags.json)
}

async fn expanded(sources: &[String]) -> Result<Vec<memori_history::input::Input>, ProcessError> {
    let sources = sources.to_vec();
    let expanding = tokio::task::spawn_blocking(move || expand(&sources));
    expanding.await.map_err(|e| ProcessError::Failed(e.to_string()))?.map_err(|error: InputError| usage(error))
}

/// A file beside what a source names; of what is no file, in the working directory.
fn beside_source(source: &str, suffix: &str) -> PathBuf {
    if source.contains("://") {
        // A signature may hold what ends a path.
        let shown = shown(source);
        let last = shown.trim_end_matches('/').rsplit('/').next().filter(|last| !last.is_empty() && *last != "…");
        return PathBuf::from(format!("{}{suffix}", last.unwrap_or("backfill")));
    }
    let trimmed = source.trim_end_matches('/');
    // A pattern's characters are legal in a name, and confusing in one.
    let plain: String = trimmed.chars().map(|c| if matches!(c, '*' | '?' | '[' | ']') { '_' } else { c }).collect();
    with_suffix(Path::new(&plain), suffix)
}

async fn producer(settings: &Settings, flags: &Flags) -> Result<Arc<dyn Producer>, ProcessError> {
    let patience = Duration::from_millis(settings.start.deadline_ms);
    match flags.to {
        To::Platform => {
            let platform = Platform::new(&flags.client.url, flags.client.key.as_ref()).map_err(usage)?;
            let log = RemoteLog::new(Arc::clone(&platform));
            log.identity().await.map_err(|error| {
                ProcessError::Unreachable(format!(
                    "the front door at {} takes no events: {error}; start it with `memori up`, name it with --url and --key, \
                     or import onto Kafka with --to kafka",
                    memori_ingest::without_credentials(&flags.client.url)
                ))
            })?;
            Ok(log.producer())
        }
        To::Kafka => {
            let log = Arc::new(platform::kafka(settings, patience).await?);
            let log = behind(log, settings.registry.url.as_deref(), patience)
                .await
                .map_err(|e| ProcessError::Unreachable(e.to_string()))?;
            log.identity().await.map_err(|e| ProcessError::Unreachable(format!("{e}; run `memori topics create` once")))?;
            Ok(log.producer())
        }
    }
}

/// Prices of a million tokens, read and written.
fn prices(settings: &Settings, flags: &Flags) -> (f64, f64) {
    let read = flags.price_per_million_tokens.unwrap_or(settings.extractor.price_in_per_million);
    let written = if flags.price_per_million_tokens.is_some() && settings.extractor.price_out_per_million == 0.0 {
        read
    } else {
        settings.extractor.price_out_per_million
    };
    (read, written)
}

fn tell(progress: &Progress, json: bool) {
    let Progress { counts, bytes, bytes_total, events_per_second, eta_seconds, waiting, .. } = progress;
    if json {
        say(json!({"type": "progress", "records": counts.records, "events": counts.events, "messages": counts.messages,
            "rejected": counts.rejected, "bytes": bytes, "bytes_total": bytes_total, "events_per_second": events_per_second,
            "eta_seconds": eta_seconds, "waiting": waiting})
        .to_string());
        return;
    }
    if let Some(why) = waiting {
        aside(format!("waiting: {why}"));
        return;
    }
    #[allow(clippy::cast_precision_loss, reason = "a percentage")]
    let share = bytes_total.filter(|total| *total > 0).map(|total| 100.0 * *bytes as f64 / total as f64);
    let share = share.map_or_else(|| format!("{} read", human(*bytes)), |share| format!("{:.0} %", share.min(100.0)));
    let left = eta_seconds.map_or_else(String::new, |seconds| format!(", {} left", duration(seconds)));
    aside(format!(
        "{share}: {} events, {} messages, {} rejected, {events_per_second:.0} events/s{left}",
        counts.events, counts.messages, counts.rejected
    ));
}

fn human(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    let bytes = bytes as f64;
    match bytes {
        n if n < 1e3 => format!("{n} B"),
        n if n < 1e6 => format!("{:.1} kB", n / 1e3),
        n if n < 1e9 => format!("{:.1} MB", n / 1e6),
        n => format!("{:.1} GB", n / 1e9),
    }
}

fn duration(seconds: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 0, and saturating")]
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

fn conclude(summary: &Summary, rejected: Option<&Path>, prices: (f64, f64), json: bool) -> Result<(), ProcessError> {
    let Summary { counts, events_now, done, was_done, took, survey, rejected: shown } = summary;
    if json {
        let survey = survey.as_ref().map(|survey| {
            let (read, written) = survey.model_tokens();
            json!({"entities": survey.entities(), "sessions": survey.sessions(), "tokens": survey.tokens, "windows": survey.windows,
                "model_tokens_in": read, "model_tokens_out": written, "cost": cost(survey, prices)})
        });
        say(json!({"type": "result", "done": done, "was_done": was_done, "records": counts.records, "events": counts.events,
            "events_now": events_now, "messages": counts.messages, "rejected": counts.rejected, "passed": counts.passed,
            "timeless": counts.timeless, "seconds": took.as_secs_f64(), "survey": survey,
            "rejected_file": rejected.filter(|path| path.exists())})
        .to_string());
    } else if *was_done {
        say(format!("nothing to do: this was imported before ({} events); --restart begins anew", counts.events));
    } else {
        for line in shown {
            aside(line);
        }
        match survey {
            Some(survey) => say_survey(survey, counts, prices),
            None => {
                let state = if *done { "imported" } else { "stopped; run the same command again to go on:" };
                say(format!(
                    "{state} {} events with {} messages from {} records, {} rejected ({:.1} s, {events_now} events in this run)",
                    counts.events,
                    counts.messages,
                    counts.records,
                    counts.rejected,
                    took.as_secs_f64()
                ));
            }
        }
        if counts.timeless > 0 {
            say(format!("{} events name no time: they have that of the import; --occurred-at gives another", counts.timeless));
        }
        if counts.rejected > 0
            && let Some(path) = rejected
        {
            say(format!("what was rejected is in {}", path.display()));
        }
    }
    if counts.events == 0 && counts.rejected > 0 {
        return Err(ProcessError::Failed(format!("nothing could be imported: all {} records were rejected", counts.rejected)));
    }
    Ok(())
}

fn cost(survey: &Survey, (read_price, written_price): (f64, f64)) -> f64 {
    let (read, written) = survey.model_tokens();
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    let cost = (read as f64 * read_price + written as f64 * written_price) / 1e6;
    cost
}

fn say_survey(survey: &Survey, counts: &memori_history::frontier::Counts, prices: (f64, f64)) {
    let distinct = |count: usize| if count >= MOST_DISTINCT { format!("{count} or more") } else { count.to_string() };
    let (read, written) = survey.model_tokens();
    let mut rows = vec![
        vec!["entities".to_owned(), distinct(survey.entities())],
        vec!["sessions".to_owned(), distinct(survey.sessions())],
        vec!["events".to_owned(), survey.events.to_string()],
        vec!["messages".to_owned(), survey.messages.to_string()],
        vec!["rejected".to_owned(), counts.rejected.to_string()],
        vec!["tokens of conversation, about".to_owned(), survey.tokens.to_string()],
        vec!["calls to a model, about".to_owned(), survey.windows.to_string()],
        vec!["tokens that it reads and writes, about".to_owned(), format!("{read} + {written}")],
    ];
    if prices != (0.0, 0.0) {
        rows.push(vec!["its cost, about".to_owned(), format!("{:.2}", cost(survey, prices))]);
    }
    say(table(&["found", ""], &rows));
    say("nothing was sent");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_an_import_lie_beside_its_source() {
        let at = |source| beside_source(source, ".x").display().to_string();
        assert_eq!((at("a/b.jsonl"), at("a/"), at("a/*.json")), ("a/b.jsonl.x".into(), "a.x".into(), "a/_.json.x".into()));
        assert_eq!(at("postgres://u:secret@host/memori?x=1"), "memori.x");
        assert_eq!(at("https://host/a/b.jsonl?credential=AKIA/2024/s3&signature=x/secret"), "b.jsonl.x");
    }

    #[test]
    fn times_and_sizes_are_for_people() {
        assert_eq!((duration(-1.0), duration(61.0), duration(7_260.0)), ("0 s".into(), "1 min 1 s".into(), "2 h 1 min".into()));
        assert_eq!((human(7), human(1_500), human(2_000_000)), ("7 B".into(), "1.5 kB".into(), "2.0 MB".into()));
    }
}
