//! What `docs/backfill.md` tells somebody to type, typed: each line of its shell blocks, against running systems, an object store and a
//! database as the page takes them for given. And that the page names every flag that there is.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use memori_tests::documents::{self, Shell};
use memori_tests::embedded::Embedded;
use memori_tests::keys::Keys;
use memori_tests::objects::ObjectStore;
use memori_tests::process::binary;
use memori_tests::servers::Servers;
use serde_json::Value;

const DOC: &str = include_str!("../../docs/backfill.md");
const TENANT: &str = "acme";
const WITHIN: Duration = Duration::from_secs(120);

fn fixture(name: &str) -> anyhow::Result<Vec<u8>> {
    Ok(std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("backfill").join(name))?)
}

/// What the page takes to lie where it is typed.
fn lay_out(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(folder.join("Downloads"))?;
    let mut zip = zip::ZipWriter::new(std::fs::File::create(folder.join("Downloads/chatgpt-export.zip"))?);
    zip.start_file("conversations.json", zip::write::SimpleFileOptions::default())?;
    zip.write_all(&fixture("chatgpt-conversations.json")?)?;
    zip.finish()?;
    std::fs::create_dir(folder.join("dumps"))?;
    for year in ["2022", "2023"] {
        let file = std::fs::File::create(folder.join(format!("dumps/{year}.csv.gz")))?;
        let mut file = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        let row = format!("user_id,chat,who,text,sent_at\neve,c-{year},user,I moved in {year}.,{year}-05-01 10:00:00\n");
        file.write_all(row.as_bytes())?;
        file.finish()?;
    }
    Ok(())
}

async fn object_store() -> anyhow::Result<ObjectStore> {
    let asked = |person: &str| {
        format!(
            "{{\"customer\": {{\"id\": \"{person}\"}}, \"question\": \"I speak Dutch.\", \"answer\": \"Mooi!\", \"ts\": 1700000000}}\n"
        )
    };
    // Long enough to be paused on the way.
    let long: String = (0..5_000)
        .map(|n| format!("{{\"event_id\": \"h{n}\", \"messages\": [{{\"role\": \"user\", \"content\": \"I saw bird {n}.\"}}], \"entity_id\": \"b{}\"}}\n", n % 50))
        .collect();
    ObjectStore::start(BTreeMap::from([
        ("archive/2023/a.jsonl".to_owned(), Bytes::from(asked("gina"))),
        ("archive/2023/b.jsonl".to_owned(), Bytes::from(asked("hugo"))),
        ("history/2024/birds.jsonl".to_owned(), Bytes::from(long)),
        (
            "signed/team.jsonl".to_owned(),
            Bytes::from("{\"entity_id\": \"ivy\", \"messages\": [{\"role\": \"user\", \"content\": \"I sail.\"}]}\n"),
        ),
    ]))
    .await
}

/// What stands for something else in the page, and what it is here.
struct Meant {
    words: Vec<(&'static str, String)>,
    met: Vec<&'static str>,
}

impl Meant {
    fn typed(&mut self, line: &str) -> String {
        let mut typed = line.to_owned();
        for (word, meant) in &self.words {
            if typed.contains(word) {
                typed = typed.replace(word, meant);
                self.met.push(word);
            }
        }
        typed
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_page_runs() -> anyhow::Result<()> {
    let lines = documents::page("docs/backfill.md")?;
    ensure!(lines.len() >= 20, "{lines:?}");
    let store = object_store().await?;
    let database = tokio::task::block_in_place(Servers::shared)?.empty_database().await?;
    let (client, connection) = tokio_postgres::connect(&database, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    client.batch_execute(&String::from_utf8(fixture("memori-postgres.sql")?)?).await?;

    // What is set before a front door starts is in the page, too.
    let leave = lines.iter().find_map(|line| line.strip_prefix("export MEMORI__INGEST__BACKFILL_SOURCES="));
    let leave = leave.and_then(|rest| rest.split_whitespace().next()).context("the page says how reading is allowed")?;
    let mut env = store.env();
    env.push(("MEMORI__INGEST__BACKFILL_SOURCES".to_owned(), leave.to_owned()));
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
    let signed =
        lines.iter().find_map(|line| line.split_once("files.example")?.1.split(['?', '\'']).nth(1)).context("a signed URL")?;
    store.sign(signed);
    let tenants = [TENANT.to_owned()];
    let (here, elsewhere) = (Embedded::start(&tenants, &env)?, Embedded::start(&tenants, &[])?);

    let folder = tempfile::tempdir()?;
    lay_out(folder.path())?;
    let mut shell = Shell::new(folder.path())?;
    for (name, value) in store.env() {
        shell = shell.with(&name, &value);
    }
    let mut meant = Meant {
        words: vec![
            ("http://127.0.0.1:7700", here.process.api()),
            ("https://elsewhere.example", elsewhere.process.api()),
            ("https://files.example", store.url("").trim_end_matches('/').to_owned()),
            ("postgres://reader@db.internal/app", database.clone()),
            ("OTHER_KEY", elsewhere.key(TENANT).to_owned()),
            ("ADMIN_KEY", Keys::admin_of(TENANT)),
            ("API_KEY=KEY", format!("API_KEY={}", here.key(TENANT))),
        ],
        met: Vec::new(),
    };
    let (api, there) = (here.api(TENANT), elsewhere.api(TENANT));
    let mut imports = 0;
    for line in &lines {
        let typed = meant.typed(line);
        let (output, back) = tokio::task::spawn_blocking(move || (shell.run(&typed), shell)).await?;
        shell = back;
        let output = output?;
        let (out, told) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{line}: {}: {out} {told}", output.status);
        let shown = |text: &str| -> anyhow::Result<()> {
            ensure!(out.contains(text), "{line} does not show {text:?}: {out} {told}");
            Ok(())
        };
        if line.contains("--dry-run") {
            shown("events")?;
            shown("nothing was sent")?;
        } else if line.contains("interrupted?") {
            shown("this was imported before (1 events)")?;
        } else if line.contains("chats.jsonl") && line.starts_with("memori backfill") {
            shown("imported 1 events with 1 messages")?;
            let entities = async || anyhow::Ok(api.entities().await?.contains(&"ada".to_owned()));
            until(entities, "what was imported is known").await?;
        } else if line.starts_with("memori recall") {
            shown("Lisbon")?;
        } else if line.starts_with("memori backfill") {
            let events = [
                ("chatgpt-export", 2),
                (".csv.gz", 2),
                ("s3://archive", 2),
                ("postgres://", 4),
                ("ada.jsonl", 3),
                ("files.example", 1),
            ];
            let expected = events.iter().find(|(part, _)| line.contains(part)).context("what the test expects of it")?.1;
            shown(&format!("imported {expected} events"))?;
            imports += 1;
        } else if line.contains("\"source\"") {
            let begun: Value = serde_json::from_str(&out)?;
            ensure!(begun["state"] == "running" && begun["tenant"] == TENANT, "{begun}");
            // Longer than the words that it is part of.
            let id = begun["backfill_id"].as_str().context("an id")?;
            meant.words.push(("backfills/ID", format!("backfills/{id}")));
        } else if line.contains("/ID/") {
            let state = if line.contains("/pause") {
                "paused"
            } else if line.contains("/cancel") {
                "cancelled"
            } else {
                "running"
            };
            shown(&format!("\"state\":\"{state}\""))?;
        } else if line.contains("/export") {
            ensure!(!std::fs::read(folder.path().join("ada.jsonl"))?.is_empty(), "{line}: nothing is in the export");
        }
        // The export takes along what the imports before brought.
        if line.starts_with("memori backfill postgres") {
            let exported =
                async || anyhow::Ok(api.export("ada").await?.iter().filter(|line| line["type"] == "message").count() >= 5);
            until(exported, "what was imported for the export").await?;
        }
    }
    ensure!(imports == 6, "{imports} sources were imported");
    for (word, _) in &meant.words {
        ensure!(meant.met.contains(word), "the page says {word} nowhere any more");
    }
    let same = async || {
        let facts = async |lines: Vec<Value>| -> Vec<Value> { lines.into_iter().filter(|line| line["type"] == "fact").collect() };
        let (a, b) = (facts(api.export("ada").await?).await, facts(there.export("ada").await?).await);
        anyhow::Ok(!a.is_empty() && a == b)
    };
    until(same, "the memory elsewhere is the same").await?;
    drop(client);
    connection.abort();
    Ok(())
}

async fn until(mut holds: impl AsyncFnMut() -> anyhow::Result<bool>, what: &str) -> anyhow::Result<()> {
    let since = std::time::Instant::now();
    while !holds().await? {
        ensure!(since.elapsed() < WITHIN, "{what}: not within {WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[test]
fn the_page_names_every_flag_and_no_other() -> anyhow::Result<()> {
    let help = Command::new(binary("memori")?).args(["backfill", "--help"]).output()?;
    let help = String::from_utf8(help.stdout)?;
    let flags = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        let mut found: Vec<String> = words
            .filter(|word| word.len() > 3 && word.starts_with("--") && !word.starts_with("---"))
            .map(str::to_owned)
            .collect();
        found.sort();
        found.dedup();
        found
    };
    let options = help.split_once("Options:").context("the options")?.1;
    // Of an option the line begins with it; its text may name others.
    let there: Vec<String> = options
        .lines()
        .filter_map(|line| {
            flags(line)
                .into_iter()
                .find(|flag| line.trim_start().starts_with(flag.as_str()) || line.trim_start().starts_with('-'))
        })
        .collect();
    let common = ["--help", "--config", "--print-config", "--version", "--data-binary"];
    let named = flags(DOC);
    for flag in there.iter().filter(|flag| !common.contains(&flag.as_str())) {
        ensure!(named.contains(flag), "the page does not name {flag}");
    }
    for flag in named.iter().filter(|flag| !common.contains(&flag.as_str())) {
        ensure!(there.contains(flag), "there is no flag {flag}: {there:?}");
    }
    Ok(())
}
