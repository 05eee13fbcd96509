//! The importer over a raw producer: a file of our own form, read, judged, encoded and confirmed by all replicas, over the same records
//! ready made, put on the same topic by a producer with the same settings.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use memori_event_log::kafka::{KafkaConfig, KafkaLog};
use memori_event_log::seam::Log;
use memori_event_log::topic::Topic;
use memori_history::input::expand;
use memori_history::{Admit as _, Import, Options as Reading, importer};
use memori_ingest::backfill::Admission;
use memori_tests::servers::Servers;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::report::{Better, Report, say};
use crate::{Options, allocations, input, producer};

const PARTITIONS: i32 = 6;

/// A turn of two messages, about as long as people's are.
fn body(n: usize) -> serde_json::Value {
    let (event, _) = input::event("tenant", &format!("user-{}", n % 997), n, 2);
    let messages: Vec<_> =
        event.messages.iter().map(|message| json!({"role": message.role.as_str(), "content": message.content})).collect();
    json!({"event_id": event.event_id, "entity_id": event.entity_id, "process_id": "bench", "session_id": event.session_id,
        "occurred_at": event.occurred_at.to_rfc3339(), "messages": messages})
}

async fn ours(log: &KafkaLog, file: &Path, events: usize) -> anyhow::Result<(f64, f64)> {
    let import = Import {
        inputs: expand(&[file.display().to_string()])?,
        options: Reading::default(),
        admit: Arc::new(Admission::new("tenant")),
        producer: Some(log.producer()),
        calls: 64,
        tenant: Some("tenant".to_owned()),
        checkpoint: Some(file.with_extension("checkpoint")),
        rejected: Some(file.with_extension("rejected")),
        restart: true,
        rate: None,
        give_up_after: Duration::from_secs(60),
        stop: CancellationToken::new(),
    };
    let before = allocations::count();
    let summary = importer::run(import, |_| {}).await?;
    let used = allocations::count() - before;
    ensure!(summary.done && summary.counts.events == events as u64, "{summary:?}");
    #[allow(clippy::cast_precision_loss, reason = "rates")]
    let rates = (events as f64 / summary.took.as_secs_f64(), used.allocations as f64 / events as f64);
    Ok(rates)
}

pub(crate) async fn run(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    let prefix = servers.fresh_prefix();
    let log = KafkaLog::connect(KafkaConfig::new(servers.kafka_brokers(), &prefix)).await?;
    log.create_topics(PARTITIONS).await?;
    let topic = format!("{prefix}.{}", Topic::ConversationsBackfill);
    let events = if options.quick { 50_000 } else { 300_000 };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("history.jsonl");
    let admission = Admission::new("tenant");
    let mut records = Vec::with_capacity(events);
    let mut out = std::io::BufWriter::new(std::fs::File::create(&file)?);
    for n in 0..events {
        let body = body(n);
        writeln!(out, "{body}")?;
        records.push(admission.admit(body).map_err(anyhow::Error::msg)?.record);
    }
    out.flush()?;
    let bytes = std::fs::metadata(&file)?.len() / events as u64;
    let (mut our_runs, mut floor_runs, mut allocated) = (Vec::new(), Vec::new(), Vec::new());
    // The first pair warms broker and page cache up, and is dropped.
    for run in 0..=options.runs {
        let floor = tokio::task::block_in_place(|| producer::raw(servers.kafka_brokers(), &topic, "10", &records))?;
        let (own, allocations) = ours(&log, &file, events).await?;
        if run > 0 {
            floor_runs.push(floor);
            our_runs.push(own);
            allocated.push(allocations);
        }
    }
    report.add("backfill", &format!("{events} events x {bytes} B"), "events/s", Better::Higher, &our_runs, &floor_runs);
    say(&format!("             {:.1} allocations an event", crate::report::median(&allocated)));
    Ok(())
}
