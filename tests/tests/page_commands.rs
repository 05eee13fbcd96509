//! What the README and the pages for one process tell people to type, typed: addresses, keys and ids are this run's, all else stands as it
//! is. (Processes on Kafka: `page_processes`; models: `page_models`; that no page is forgotten: `page_guard`.)

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_tests::client::Api;
use memori_tests::documents::{Shell, on_a_free_port, page, root};
use memori_tests::embedded::Embedded;
use memori_tests::keys::Keys;
use memori_tests::process::binary;
use memori_tests::provider::Provider;
use memori_tests::servers::Servers;
use serde_json::{Value, json};

const TENANT: &str = "acme";
const WITHIN: Duration = Duration::from_secs(60);

/// A `make` that builds nothing: the run's programs are there, and cargo is `true`.
fn make(shell: Shell, line: &str) -> anyhow::Result<(Shell, String)> {
    let programs = binary("memori")?;
    let target = programs.ancestors().nth(2).context("a target folder")?.display().to_string();
    ensure!(programs.ends_with("debug/memori"), "make takes its programs from debug: {}", programs.display());
    // Where a toolchain is found, which make looks for.
    let home = std::env::var("HOME").unwrap_or_default();
    let own = |name: &str, folder: &str| std::env::var(name).unwrap_or_else(|_| format!("{home}/{folder}"));
    let shell = shell
        .with_weights()
        .with("CARGO", "true")
        .with("CARGO_TARGET_DIR", &target)
        .with("RUSTUP_HOME", &own("RUSTUP_HOME", ".rustup"))
        .with("CARGO_HOME", &own("CARGO_HOME", ".cargo"))
        .with("MEMORI__INGEST__LISTEN", "127.0.0.1:0");
    let line = line.replacen("make ", &format!("make --no-print-directory -C '{}' ", root().display()), 1);
    Ok((shell, line))
}

fn conversations(folder: &Path) -> anyhow::Result<()> {
    let event =
        json!({"event_id": "alice-1", "entity_id": "alice", "messages": [{"role": "user", "content": "I live in Lisbon."}]});
    Ok(std::fs::write(folder.join("conversations.jsonl"), format!("{event}\n"))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme() -> anyhow::Result<()> {
    tokio::task::spawn_blocking(|| {
        let folder = tempfile::tempdir()?;
        let mut shell = Shell::new(folder.path())?;
        let serving = shell.serves("memori up --listen 127.0.0.1:0")?;
        let mut said = String::new();
        for line in page("README.md")? {
            said = if line.starts_with("make ") {
                let (mut shell, line) = make(shell.clone(), &line)?;
                let out = shell.types(&line)?;
                ensure!(out.contains("standing instruction"), "{line}: {out}");
                out
            } else {
                shell.types(&line.replace("curl -s localhost:7700", &format!("curl -fsS {}", serving.api())))?
            };
        }
        ensure!(said.contains("Paris"), "the last recalls where she lives: {said}");
        serving.stops()
    })
    .await?
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_embedded_system() -> anyhow::Result<()> {
    const NAME: &str = "docs/running-embedded.md";
    let of_the_page = ["postgres://app:secret@db/app?sslmode=verify-full", "postgres://app@localhost/app"];
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let mut databases = Vec::new();
    for line in page(NAME)?.iter().filter(|line| line.contains("postgres://")) {
        databases.push((line.clone(), servers.empty_database().await?));
    }
    tokio::task::spawn_blocking(move || {
        let folder = tempfile::tempdir()?;
        let shell = Shell::new(folder.path())?;
        conversations(folder.path())?;
        // What asks is beside one that serves.
        let serving = shell.serves("memori up --listen 127.0.0.1:0 --data-dir beside")?;
        let mut asking = shell.clone().with("MEMORI_API_URL", &serving.api());
        for line in page(NAME)? {
            if line.starts_with("make ") {
                let (shell, line) = make(shell.clone(), &line)?;
                // make itself does not end well when it is interrupted.
                drop(shell.serves(&line)?);
                continue;
            }
            let database = databases.iter().find(|(of, _)| *of == line).map(|(_, database)| database);
            let typed = database
                .map_or(line.clone(), |database| of_the_page.iter().fold(line.clone(), |l, url| l.replace(url, database)));
            ensure!(database.is_none_or(|database| typed.contains(database)), "another database: {line}");
            if typed.contains("memori up") {
                let serving = shell.serves(&on_a_free_port(&typed))?;
                if line.contains("KEYS_FILE") {
                    let ask = format!("curl -s -o /dev/null -w '%{{http_code}}' {}/v1/entities", serving.api());
                    let refused = asking.types(&ask)?;
                    ensure!(refused == "401", "without a key: {refused}");
                }
                serving.stops()?;
                ensure!(!line.contains("./memory") || folder.path().join("memory").is_dir(), "the folder is elsewhere");
            } else {
                let out = asking.types(&typed)?;
                ensure!(!line.contains("recall") || line.contains("key hash") || out.contains("Lisbon"), "{line}: {out}");
            }
        }
        serving.stops()
    })
    .await?
}

/// A call as the page has it, and the status that it was answered with.
fn calls(shell: &mut Shell, line: &str) -> anyhow::Result<(u16, String)> {
    let out = shell.types(&line.replacen("curl ", "curl -w '\\n%{http_code}' ", 1))?;
    let (body, status) = out.rsplit_once('\n').context("a status")?;
    Ok((status.parse()?, body.to_owned()))
}

/// What the page's calls stand for, as answers tell it.
#[derive(Default)]
struct Named {
    fact: String,
    erasure: String,
    letters: Vec<String>,
}

impl Named {
    fn meant(&self, line: &str) -> String {
        let mut line = line.replace("FACT_ID", &self.fact).replace("ERASURE_ID", &self.erasure);
        for (n, id) in self.letters.iter().enumerate() {
            // In a body there are two of them, in a path one.
            line = line.replacen("\"ID\"", &format!("\"{id}\""), 1);
            if n == 0 {
                line = line.replace("/ID\"", &format!("/{}\"", memori_tests::client::escape(id)));
            }
        }
        line
    }

    fn learn(&mut self, line: &str, body: &str) -> anyhow::Result<()> {
        let text = |value: &Value| value.as_str().map(str::to_owned).context("an id");
        if line.contains("/facts?") {
            self.fact = text(&serde_json::from_str::<Value>(body)?["facts"][0]["fact_id"])?;
        } else if line.contains("-X DELETE") && line.contains("/entities/") {
            self.erasure = text(&serde_json::from_str::<Value>(body)?["erasure_id"])?;
        } else if line.contains("dead-letters?") {
            let page: Value = serde_json::from_str(body)?;
            self.letters =
                page["dead_letters"].as_array().context("letters")?.iter().map(|l| text(&l["id"])).collect::<Result<_, _>>()?;
            ensure!(self.letters.len() == 2, "{body}");
        }
        Ok(())
    }
}

/// The status of each call, by what is in it; the rest is 200.
fn expected(line: &str) -> u16 {
    let others = [
        ("$api/v1/events -H", 202),
        ("-X DELETE \"$api/v1/facts", 204),
        ("-X DELETE \"$api/v1/entities", 202),
        ("admin/tenants", 201),
    ];
    others.iter().find(|(part, _)| line.contains(part)).map_or(200, |(_, status)| *status)
}

/// Two events that were given up, on a system that is made for it.
async fn given_up(api: &str) -> anyhow::Result<()> {
    let api = Api::new(api, None);
    for n in 0..2 {
        let event = json!({"event_id": format!("bad-{n}"), "entity_id": format!("person-{n}"),
            "messages": [{"role": "user", "content": "I like soup. [[provider:not-json]]"}]});
        ensure!(api.post("/v1/events", &event).await?.status == 202, "an event");
    }
    api.wait_final(&["bad-0".to_owned(), "bad-1".to_owned()], WITHIN).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_the_api_s_page() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    let keyed = Embedded::start(&[TENANT.to_owned()], &[("MEMORI__EMBEDDING__KIND", "none")])?;
    let (with_keys, key) = (keyed.process.api(), keyed.key(TENANT).to_owned());
    let folder = tempfile::tempdir()?;
    let shell = Shell::new(folder.path())?;
    let (plain, model) = tokio::task::block_in_place(|| {
        let model = shell
            .clone()
            .with("MEMORI__EXTRACTOR__KIND", "llm")
            .with("MEMORI__EXTRACTOR__BASE_URL", &provider.base_url())
            .with("MEMORI__EXTRACTOR__MODEL", "double-1");
        anyhow::Ok((
            shell.serves("memori up --listen 127.0.0.1:0 --data-dir plain")?,
            model.serves("memori up --listen 127.0.0.1:0 --data-dir model")?,
        ))
    })?;
    given_up(&model.api()).await?;
    tokio::task::spawn_blocking(move || {
        let mut shell = shell.with("operator", Keys::OPERATOR);
        conversations(shell.folder())?;
        let old = json!({"entity_id": "old", "occurred_at": "2020-01-01T00:00:00Z", "messages": [{"role": "user", "content": "I sail."}]});
        std::fs::write(shell.folder().join("history.jsonl"), format!("{old}\n"))?;
        let mut named = Named::default();
        let mut called = 0;
        for line in page("docs/http-api.md")? {
            if !line.starts_with("curl ") {
                shell.types(&line.replace("http://127.0.0.1:7700", &plain.api()))?;
                continue;
            }
            // Without keys there are no rights, and no other tenants.
            let api = if line.contains("KEY'") || line.contains("$operator") {
                &with_keys
            } else if line.contains("dead-letters") {
                &model.api()
            } else {
                &plain.api()
            };
            let typed = named.meant(&line).replace("KEY'", &format!("{key}'")).replace(" …", &format!(" {api}/v1/entities"));
            let typed = typed.replace("$api", api);
            let since = Instant::now();
            let (status, body) = loop {
                let (status, body) = calls(&mut shell, &typed)?;
                // An erasure's receipt is there when it is through.
                if status != 404 || !line.contains("/erasures/") || since.elapsed() > WITHIN {
                    break (status, body);
                }
            };
            ensure!(status == expected(&line), "{typed}: {status}: {body}");
            ensure!(!line.contains("/wait") || body.contains("\"complete\":true"), "{line}: {body}");
            ensure!(!line.contains("/v1/recall") || body.contains("Berlin"), "{line}: {body}");
            ensure!(!line.contains("\"to_lane\"") || body.contains("\"redriven\":2"), "{line}: {body}");
            named.learn(&line, &body)?;
            called += 1;
        }
        ensure!(called > 20, "{called} calls");
        plain.stops()?;
        model.stops()
    })
    .await?
}
