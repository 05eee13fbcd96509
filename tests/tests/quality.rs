//! Recall finds what it found: `memori quality` on the project's own conversations stays above what was measured, and gives the
//! same figures whenever it is run.
//!
//! A system that is measured from outside is left as it was.
//!
//! The floors stand a few points under the figures of the day they were set. A change that lifts them well above lifts the floors;
//! one that falls below has made recall worse, or shows here why it has not.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, ensure};
use memori_tests::client::Api;
use memori_tests::process::{Process, Program, binary};
use serde_json::{Value, json};

/// A measure and the least that it may be.
type Floor = (&'static str, f64);

/// Without vectors: where no model is installed, and always as the recipe that is asked for by `vectors: false`.
const TUNING_LEXICAL: &[Floor] = &[("turn_recall@10", 0.72), ("turn_mrr", 0.53), ("fact_recall@10", 0.65)];
const HELD_OUT_LEXICAL: &[Floor] = &[("turn_recall@10", 0.70), ("turn_mrr", 0.53), ("fact_recall@10", 0.645)];
/// In any recipe.
const TUNING_ALWAYS: &[Floor] = &[("instruction_recall", 0.61), ("answer_in_messages@10", 0.76)];
const HELD_OUT_ALWAYS: &[Floor] = &[("instruction_recall", 0.51), ("answer_in_messages@10", 0.72)];

/// Runs the real program.
fn quality(data: &Path, flags: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(binary("memori")?);
    command.args(["quality", "--json", "--limit-budget", "500", "--data"]).arg(data).args(flags);
    command.env_clear().stdin(Stdio::null());
    for name in ["PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.output().context("cannot start memori")
}

/// The report on one of the project's files.
fn measured(file: &str, flags: &[&str]) -> anyhow::Result<Value> {
    report(&quality(&Path::new(env!("CARGO_MANIFEST_DIR")).join("quality").join(file), flags)?)
}

fn report(output: &Output) -> anyhow::Result<Value> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}\n{errors}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("not JSON\n{errors}"))
}

fn mean(measures: &Value, name: &str) -> anyhow::Result<f64> {
    measures[name]["mean"].as_f64().with_context(|| format!("no {name} in {measures}"))
}

/// What falls below its floor, for all floors at once.
fn below(what: &str, measures: &Value, floors: &[Floor]) -> anyhow::Result<Vec<String>> {
    let mut below = Vec::new();
    for (name, least) in floors {
        let value = mean(measures, name)?;
        if value < *least {
            below.push(format!("{what}: {name} is {value}, under {least}"));
        }
    }
    Ok(below)
}

fn check(file: &str, always: &[Floor], lexical: &[Floor]) -> anyhow::Result<()> {
    let report = measured(file, &["--ablations"])?;
    let overall = &report["overall"]["measures"];
    let mut wrong = below(file, overall, always)?;
    wrong.extend(below(&format!("{file}, lexical"), overall, lexical)?);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn recall_finds_on_the_tuning_set_what_it_found() -> anyhow::Result<()> {
    check("tuning.jsonl", TUNING_ALWAYS, TUNING_LEXICAL)
}

#[test]
fn recall_finds_on_the_held_out_set_what_it_found() -> anyhow::Result<()> {
    check("held_out.jsonl", HELD_OUT_ALWAYS, HELD_OUT_LEXICAL)
}

#[test]
fn the_same_file_gives_the_same_figures() -> anyhow::Result<()> {
    let run = || -> anyhow::Result<Value> {
        let mut report = measured("held_out.jsonl", &["--misses", "1000"])?;
        // The one thing that a clock decides.
        report.as_object_mut().context("a report is an object")?.remove("ms_per_query");
        Ok(report)
    };
    let (one, other) = (run()?, run()?);
    ensure!(one["misses"].as_array().is_some_and(|misses| !misses.is_empty()), "a set that nothing misses measures nothing");
    ensure!(one == other, "two runs differ:\n{one}\n{other}");
    Ok(())
}

/// Two lines of a file: what was said, and what is asked.
fn lines() -> [Value; 2] {
    let messages = json!([
        {"message_id": "m1", "role": "user", "content": "My boat is called Tern and lies in Poole."},
        {"message_id": "m2", "role": "assistant", "content": "Tern is a fine name for a boat."}]);
    let sessions = json!([{"session_id": "s1", "started_at": "2025-03-04T18:30:00Z", "messages": messages}]);
    [
        json!({"type": "conversation", "entity_id": "ana", "language": "en", "sessions": sessions}),
        json!({"type": "question", "question_id": "q1", "entity_id": "ana", "text": "Where does the boat lie?", "category": "single",
            "evidence": {"messages": ["m1"]}, "answer": ["Poole"]}),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_measured_from_outside_is_left_as_it_was() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let program = Program {
        binary: "memori",
        args: vec!["up".to_owned()],
        env: vec![("MEMORI__EMBEDDED__DATA_DIR".to_owned(), dir.path().join("data").display().to_string())],
        listen_key: Some("MEMORI__INGEST__LISTEN"),
        has_admin: false,
    };
    let system = Process::start("memori", program, dir.path())?;
    let api = Api::new(&system.api(), None);
    let file = dir.path().join("small.jsonl");
    std::fs::write(&file, lines().map(|line| line.to_string()).join("\n"))?;
    let measure = async |flags: &'static [&'static str]| {
        let (file, url) = (file.clone(), system.api());
        tokio::task::spawn_blocking(move || report(&quality(&file, &[&["--url", url.as_str()], flags].concat())?)).await?
    };

    let first = measure(&[]).await?;
    ensure!(mean(&first["overall"]["measures"], "turn_recall@5")? == 1.0, "{first}");
    ensure!(api.entities().await?.is_empty(), "erased at the end");
    // The same file again: what was erased does not stand in the way.
    let again = measure(&["--keep"]).await?;
    ensure!(again["overall"] == first["overall"], "{again}");
    let kept = api.entities().await?;
    ensure!(kept.len() == 1 && kept[0].starts_with("quality-") && kept[0].ends_with("-ana"), "{kept:?}");
    Ok(())
}

#[test]
fn a_file_that_is_wrong_is_refused_with_the_line() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("wrong.jsonl");
    let [conversation, mut question] = lines();
    question["evidence"]["messages"] = json!(["m3"]);
    std::fs::write(&file, format!("{conversation}\n\n{question}\n"))?;
    let output = quality(&file, &[])?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2) && errors.contains("line 3: no message \"m3\""), "{}: {errors}", output.status);
    Ok(())
}
