//! What `docs/replay.md` tells an operator to type, typed: each line of its shell blocks runs as it stands, against a running system.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use memori_tests::client::Api;
use memori_tests::documents::{self, Shell};
use memori_tests::embedded::Embedded;
use memori_tests::keys::Keys;
use reqwest::StatusCode;
use serde_json::{Value, json};

const TENANT: &str = "acme";

async fn teach(api: &Api) -> anyhow::Result<()> {
    let mut ids = Vec::new();
    for (n, (at, text)) in [
        ("2024-06-01T10:00:00Z", "I live in Rome."),
        ("2025-02-01T10:00:00Z", "I like green tea."),
        ("2025-07-01T10:00:00Z", "I live in Lisbon."),
        ("2026-01-02T10:00:00Z", "Always answer in short sentences."),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("e-{n}");
        let body =
            json!({"event_id": id, "entity_id": "alice", "occurred_at": at, "messages": [{"role": "user", "content": text}]});
        let answer = api.post("/v1/events", &body).await?;
        ensure!(answer.status == StatusCode::ACCEPTED, "{}: {}", answer.status, answer.body);
        ids.push(id);
    }
    api.wait_final(&ids, Duration::from_secs(120)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_guide_runs() -> anyhow::Result<()> {
    let shape = Embedded::start(&[TENANT.to_owned()], &[])?;
    teach(&shape.api(TENANT)).await?;
    let folder = tempfile::tempdir()?;
    let mut shell =
        Shell::new(folder.path())?.with("MEMORI_API_URL", &shape.process.api()).with("MEMORI_API_KEY", Keys::OPERATOR);
    tokio::task::spawn_blocking(move || {
        let lines = documents::page("docs/replay.md")?;
        ensure!(lines.len() >= 17, "{lines:?}");
        let mut acts = 0;
        for line in &lines {
            // Once a line, and the tables of what only looks as JSON, too.
            let output = shell.run(line)?;
            let (out, told) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
            ensure!(output.status.success(), "{line}: {}: {out} {told}", output.status);
            let shown = |text: &str| -> anyhow::Result<()> {
                ensure!(out.contains(text), "{line} does not show {text:?}: {out}");
                Ok(())
            };
            if line.contains("--dry-run") {
                shown("events               2")?;
                shown("carried events       2")?;
            } else if line.contains("cut-over 2") {
                shown("acme reads generation 2")?;
                acts += 1;
            } else if line.contains("roll-back") {
                shown("acme reads generation 1")?;
                acts += 1;
            } else if line.contains("--wait") {
                shown("events               4 of 4")?;
            } else if line.contains("diff") {
                shown("generation 2 of acme over generation 1, 1 entities")?;
            } else if line.contains("audit") {
                for act in ["replay.start", "replay.pause", "replay.resume", "replay.cut_over", "replay.roll_back", "replay.drop"]
                {
                    shown(act)?;
                }
            }
            if ["list", "show", "diff", "audit", "--dry-run"].iter().any(|looks| line.contains(looks)) {
                let output = shell.run(&format!("{line} --json"))?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                ensure!(!text.trim().is_empty(), "{line} --json tells nothing");
                for json in text.lines() {
                    serde_json::from_str::<Value>(json).with_context(|| format!("{line} --json: {text}"))?;
                }
            }
        }
        ensure!(acts == 3, "the guide switches, switches back and switches again");
        // Refused in words that say what to do.
        let refused = shell.run("memori replay drop 2 --tenant acme")?;
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && told.contains("reads this generation"), "{told}");
        Ok(())
    })
    .await?
}
