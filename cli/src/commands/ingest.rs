//! `memori ingest FILE`: posts conversation events, one JSON object a line, in batches.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use memori_service::ProcessError;
use serde_json::{Value, json};

use crate::client::{Client, ClientFlags};
use crate::output::{aside, say};

/// Events in one request; the contract allows 1,000.
const BATCH_EVENTS: usize = 500;
/// Bytes in one request; the contract allows 16 MiB.
const BATCH_BYTES: usize = 8 << 20;
/// Rejected lines that are shown; all are counted.
const SHOWN_REJECTIONS: usize = 20;

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// JSON lines in the form of `POST /v1/events`; `-` is stdin.
    file: PathBuf,
    /// Wait until every accepted event is applied, at most this many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "60")]
    wait: Option<u64>,
    /// Print the counts as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(Debug, Default)]
struct Counts {
    lines: u64,
    accepted: u64,
    duplicate: u64,
    rejected: u64,
}

pub(crate) async fn run(flags: Flags) -> Result<(), ProcessError> {
    let client = Client::new(&flags.client)?;
    let reader: Box<dyn BufRead> = if flags.file.as_os_str() == "-" {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        let file = std::fs::File::open(&flags.file).map_err(|e| ProcessError::Usage(format!("{}: {e}", flags.file.display())))?;
        Box::new(BufReader::new(file))
    };
    let mut counts = Counts::default();
    let mut ids = Vec::new();
    let mut batch: Vec<(u64, Value)> = Vec::new();
    let mut batch_bytes = 0;
    let mut number = 0;
    for line in reader.lines() {
        number += 1;
        let line = line.map_err(|e| ProcessError::Usage(format!("line {number}: {e}")))?;
        if line.trim().is_empty() {
            continue;
        }
        counts.lines += 1;
        match serde_json::from_str::<Value>(&line) {
            Ok(event) => {
                batch_bytes += line.len();
                batch.push((number, event));
            }
            Err(error) => reject(&mut counts, number, &format!("not JSON: {error}")),
        }
        if batch.len() >= BATCH_EVENTS || batch_bytes >= BATCH_BYTES {
            post(&client, &mut batch, &mut counts, &mut ids).await?;
            batch_bytes = 0;
            aside(format!("{} lines, {} accepted", counts.lines, counts.accepted));
        }
    }
    post(&client, &mut batch, &mut counts, &mut ids).await?;
    let applied = match flags.wait {
        None => None,
        Some(seconds) => Some(wait(&client, &ids, seconds).await?),
    };
    if flags.json {
        say(json!({"lines": counts.lines, "accepted": counts.accepted, "duplicate": counts.duplicate, "rejected": counts.rejected,
            "complete": applied})
        .to_string());
    } else {
        say(format!(
            "{} lines: {} accepted, {} duplicate, {} rejected",
            counts.lines, counts.accepted, counts.duplicate, counts.rejected
        ));
        match applied {
            Some(true) => say("all applied: a recall sees their facts now"),
            Some(false) => say("not all are applied yet; ask again with `memori event ID`"),
            None => {}
        }
    }
    if counts.rejected > 0 {
        return Err(ProcessError::Failed(format!("{} of {} lines were rejected", counts.rejected, counts.lines)));
    }
    Ok(())
}

fn reject(counts: &mut Counts, line: u64, why: &str) {
    counts.rejected += 1;
    match counts.rejected as usize {
        n if n <= SHOWN_REJECTIONS => aside(format!("line {line}: {why}")),
        n if n == SHOWN_REJECTIONS + 1 => aside("more lines were rejected; they are counted"),
        _ => {}
    }
}

async fn post(
    client: &Client,
    batch: &mut Vec<(u64, Value)>,
    counts: &mut Counts,
    ids: &mut Vec<String>,
) -> Result<(), ProcessError> {
    if batch.is_empty() {
        return Ok(());
    }
    let (lines, events): (Vec<u64>, Vec<Value>) = batch.drain(..).unzip();
    let answer = client.post("/v1/events/batch", &json!({ "events": events })).await?;
    for result in answer["results"].as_array().into_iter().flatten() {
        let index = result["index"].as_u64().unwrap_or_default() as usize;
        match result["status"].as_str() {
            Some("accepted") => counts.accepted += 1,
            Some("duplicate") => counts.duplicate += 1,
            _ => {
                reject(counts, lines.get(index).copied().unwrap_or_default(), &result["error"].to_string());
                continue;
            }
        }
        if let Some(id) = result["event_id"].as_str() {
            ids.push(id.to_owned());
        }
    }
    Ok(())
}

/// Waits for all ids, in groups as large as the contract allows. `false` where time ran out.
pub(crate) async fn wait(client: &Client, ids: &[String], seconds: u64) -> Result<bool, ProcessError> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    for group in ids.chunks(1_000) {
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(10_000);
            let answer = client.post("/v1/events/wait", &json!({"event_ids": group, "timeout_ms": timeout_ms})).await?;
            if answer["complete"].as_bool() == Some(true) {
                break;
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}
