//! Metrics of a loaded system: every family that operators rely on is there, `promtool` finds nothing to complain about, and no
//! label carries what belongs to a tenant.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_tests::client::{Api, metric};
use memori_tests::distributed::Distributed;
use memori_tests::drive::{self, Pace, Weather};
use memori_tests::embedded::Embedded;
use memori_tests::process::binary;
use memori_tests::servers::Servers;
use memori_tests::storm::tell;
use memori_tests::workload::{self, Workload, WorkloadConfig};

const CONFIG: WorkloadConfig = WorkloadConfig { seed: 3, events: 90, tenants: 2, entities: 12, clients_per_tenant: 1 };
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// More values than this of one label is more than an operator's dashboard can mean.
const LABEL_VALUES: usize = 40;

async fn load(workload: &Workload, api: impl Fn(&str) -> Api) -> anyhow::Result<()> {
    drive::drive(workload, &api, &Pace::free(), Weather::Calm).await?;
    for tenant in &workload.tenants {
        api(tenant).wait_final(&drive::event_ids(workload, tenant), Duration::from_secs(120)).await?;
        api(tenant).post("/v1/recall", &serde_json::json!({"entity_id": "1", "query": "tea"})).await?;
    }
    Ok(())
}

/// All must be there, with a value above zero where `lively`.
fn families(text: &str, wanted: &[(&str, bool)]) -> anyhow::Result<()> {
    for (name, lively) in wanted {
        let value = metric(text, name, &[]).with_context(|| format!("{name} is missing from\n{text}"))?;
        ensure!(!lively || value > 0.0, "{name} is {value} after load");
        ensure!(value.is_finite(), "{name} is {value}");
    }
    Ok(())
}

/// The text of `/metrics` once every family is there: lag is measured now and then, not at once.
async fn settled(admin: &Api, wanted: &[(&str, bool)]) -> anyhow::Result<String> {
    let since = Instant::now();
    loop {
        let text = admin.metrics().await?;
        match families(&text, wanted) {
            Ok(()) => return Ok(text),
            Err(error) if since.elapsed() > SETTLED_WITHIN => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    }
}

fn check(what: &str, text: &str, workload: &Workload) -> anyhow::Result<()> {
    let mut values: BTreeMap<(String, String), std::collections::BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        ensure!(name.starts_with("memori_"), "{what}: {name} is nobody's");
        let Some((_, rest)) = line.split_once('{') else { continue };
        let labels = rest.rsplit_once('}').context("labels end")?.0;
        for label in labels.split("\",") {
            let (label, value) = label.split_once("=\"").context("a label")?;
            values.entry((name.to_owned(), label.to_owned())).or_default().insert(value.trim_end_matches('"').to_owned());
        }
    }
    // What a metric's description names is what it has.
    let mut described: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, description) = line.split_once(' ').context("a description")?;
        described
            .insert(name, description.split_once("; labels: ").map_or_else(Vec::new, |(_, labels)| labels.split(", ").collect()));
    }
    for (name, label) in values.keys().filter(|(_, label)| label != "le") {
        let family =
            ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).filter(|f| described.contains_key(f));
        let labels = described.get(family.unwrap_or(name)).with_context(|| format!("{what}: {name} is not described"))?;
        ensure!(labels.contains(&label.as_str()), "{what}: {name} is described without its label {label}");
    }
    let secret: Vec<String> = workload
        .accepted()
        .into_iter()
        .flat_map(|((tenant, event_id), body)| [tenant, event_id, body["entity_id"].as_str().unwrap_or_default().to_owned()])
        .filter(|text| text.len() > 3)
        .collect();
    for ((name, label), values) in &values {
        ensure!(values.len() <= LABEL_VALUES || label == "le", "{what}: {name} has {} values of {label}", values.len());
        for value in values {
            ensure!(
                !secret.iter().any(|text| value.contains(text.as_str())),
                "{what}: {name}{{{label}={value:?}}} names a tenant's own"
            );
        }
    }
    promtool(what, text)
}

fn promtool(what: &str, text: &str) -> anyhow::Result<()> {
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match started {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tell("SKIPPED: promtool is not installed (Debian: apt-get install prometheus), so metrics are not linted");
            return Ok(());
        }
        started => started?,
    };
    child.stdin.take().context("stdin")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let complaints = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success() && complaints.trim().is_empty(), "{what}: promtool: {complaints}");
    Ok(())
}

const DOOR: [(&str, bool); 1] = [("memori_ingest_events_accepted_total", true)];
const WORKER: [(&str, bool); 5] = [
    ("memori_worker_events_in_flight", false),
    ("memori_worker_events_extracted_total", true),
    ("memori_worker_events_dead_lettered_total", false),
    ("memori_worker_lag_events", false),
    ("memori_worker_lag_seconds", false),
];
const WRITER: [(&str, bool); 9] = [
    ("memori_writer_applied_total", true),
    ("memori_writer_in_flight_records", false),
    ("memori_writer_flush_rows_sum", true),
    ("memori_writer_flush_seconds_count", true),
    ("memori_writer_rows_written_total", true),
    ("memori_writer_lag_events", false),
    ("memori_writer_lag_seconds", false),
    ("memori_accepted_to_recallable_seconds_count", true),
    ("memori_recall_seconds_count", true),
];

/// What tells apart: lanes, classes, causes.
fn labelled(text: &str, wanted: &[(&str, &str)]) -> anyhow::Result<()> {
    for (name, label) in wanted {
        ensure!(metric(text, name, &[&format!("{label}=\"")]).is_some(), "{name} does not tell {label} apart");
    }
    Ok(())
}

const WORKER_LABELS: [(&str, &str); 4] = [
    ("memori_worker_lag_events", "lane"),
    ("memori_worker_lag_seconds", "lane"),
    ("memori_worker_events_extracted_total", "lane"),
    ("memori_worker_events_dead_lettered_total", "class"),
];
const WRITER_LABELS: [(&str, &str); 4] = [
    ("memori_writer_lag_events", "lane"),
    ("memori_writer_lag_seconds", "lane"),
    ("memori_writer_flush_rows_sum", "cause"),
    ("memori_writer_flush_seconds_count", "cause"),
];

#[tokio::test(flavor = "multi_thread")]
async fn embedded() -> anyhow::Result<()> {
    let workload = workload::generate(CONFIG);
    let shape = Embedded::start(&workload.tenants, &[])?;
    load(&workload, |tenant| shape.api(tenant)).await?;
    let text = settled(&Api::new(&shape.process.admin(), None), &[&DOOR[..], &WORKER, &WRITER].concat()).await?;
    labelled(&text, &[WORKER_LABELS, WRITER_LABELS].concat())?;
    check("embedded", &text, &workload)
}

#[tokio::test(flavor = "multi_thread")]
async fn distributed() -> anyhow::Result<()> {
    let workload = workload::generate(CONFIG);
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let shape = Distributed::start(servers, &workload.tenants, 1, &[]).await?;
    load(&workload, |tenant| shape.api(tenant)).await?;
    for (what, process, wanted) in
        [("ingest", &shape.ingest, &DOOR[..]), ("worker", &shape.workers[0], &WORKER[..]), ("writer", &shape.writer, &WRITER[..])]
    {
        let text = settled(&Api::new(&process.admin(), None), wanted).await?;
        check(what, &text, &workload)?;
    }
    Ok(())
}

/// Each posts an event, waits for it, recalls.
async fn used_by(shape: &Embedded, tenants: &[String], turn: usize) -> anyhow::Result<()> {
    const AT_ONCE: usize = 16;
    let door = Api::new(&shape.process.api(), None);
    let mut using = tokio::task::JoinSet::new();
    for tenant in tenants {
        let (api, event_id) = (door.with_key(Some(shape.key(tenant))), format!("{tenant}-{turn}"));
        using.spawn(async move {
            let said = serde_json::json!([{"role": "user", "content": "I like tea."}]);
            api.post("/v1/events", &serde_json::json!({"entity_id": "e", "event_id": event_id, "messages": said})).await?;
            api.wait_final(&[event_id], Duration::from_secs(120)).await?;
            api.post("/v1/recall", &serde_json::json!({"entity_id": "e", "query": "tea"})).await
        });
        if using.len() >= AT_ONCE
            && let Some(done) = using.join_next().await
        {
            done??;
        }
    }
    while let Some(done) = using.join_next().await {
        done??;
    }
    Ok(())
}

/// What a scraper keeps: names with labels, without values.
async fn series(shape: &Embedded) -> anyhow::Result<std::collections::BTreeSet<String>> {
    let text = Api::new(&shape.process.admin(), None).metrics().await?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines.filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series.to_owned()).collect())
}

/// `memori top` sees what goes on between its two looks.
async fn watched(shape: &Embedded) -> anyhow::Result<()> {
    let mut command = tokio::process::Command::new(binary("memori")?);
    command.args(["top", "--once", "--json", "--interval-ms", "2000", "--from", &shape.process.admin()]);
    let watching = command.output();
    let using = async {
        let few: Vec<String> = (0..10).map(|n| format!("customer-{n}")).collect();
        for turn in 2.. {
            used_by(shape, &few, turn).await?;
        }
        anyhow::Ok(())
    };
    let output = tokio::select! {
        output = watching => output?,
        ended = using => return ended,
    };
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let view: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    for what in
        ["accepted_per_second", "applied_per_second", "recalls_per_second", "recallable_p99_seconds", "recall_p99_seconds"]
    {
        ensure!(view[what].as_f64().is_some_and(|value| value > 0.0), "{what} in {view}");
    }
    ensure!(view["lanes"].as_array().is_some_and(|lanes| lanes.len() == 2), "{view}");
    Ok(())
}

/// `MEMORI_SOAK=1` has ten thousand of them.
#[tokio::test(flavor = "multi_thread")]
async fn series_do_not_grow_with_tenants() -> anyhow::Result<()> {
    let many = if std::env::var_os("MEMORI_SOAK").is_some() { 10_000 } else { 500 };
    let tenants: Vec<String> = (0..many).map(|n| format!("customer-{n}")).collect();
    let shape = Embedded::start(&tenants, &[])?;
    used_by(&shape, &tenants[..10], 0).await?;
    let few = series(&shape).await?;
    used_by(&shape, &tenants, 1).await?;
    let all = series(&shape).await?;
    tell(&format!("series of 10 tenants: {}, of {many}: {}", few.len(), all.len()));
    watched(&shape).await?;
    // Some causes are met only under load; none of them belongs to a tenant.
    ensure!(all.len() * 10 <= few.len() * 11, "grown by {:?}", all.difference(&few).collect::<Vec<_>>());
    ensure!(!all.iter().any(|one| one.contains("customer-")), "a series names a tenant");
    Ok(())
}
