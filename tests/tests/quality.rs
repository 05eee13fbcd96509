//! Recall finds what it found: `memori quality` on the project's own conversations stays above what was measured, and gives the
//! same figures whenever it is run.
//!
//! The floors stand a few points under the figures of the day they were set. A change that lifts them well above lifts the floors;
//! one that falls below has made recall worse, or shows here why it has not.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use memori_tests::process::binary;
use serde_json::Value;

/// A measure and the least that it may be.
type Floor = (&'static str, f64);

/// Without vectors: where no model is installed, and always as the recipe that is asked for by `vectors: false`.
const TUNING_LEXICAL: &[Floor] = &[("turn_recall@10", 0.72), ("turn_mrr", 0.53), ("fact_recall@10", 0.65)];
const HELD_OUT_LEXICAL: &[Floor] = &[("turn_recall@10", 0.70), ("turn_mrr", 0.53), ("fact_recall@10", 0.645)];
/// In any recipe.
const TUNING_ALWAYS: &[Floor] = &[("instruction_recall", 0.61), ("answer_in_messages@10", 0.76)];
const HELD_OUT_ALWAYS: &[Floor] = &[("instruction_recall", 0.51), ("answer_in_messages@10", 0.72)];

/// Runs the real program on one of the files.
fn measured(file: &str, flags: &[&str]) -> anyhow::Result<Value> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("quality").join(file);
    let mut command = Command::new(binary("memori")?);
    command.args(["quality", "--json", "--limit-budget", "500", "--data"]).arg(&data).args(flags);
    command.env_clear().stdin(Stdio::null());
    for name in ["PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let output = command.output().context("cannot start memori")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{file}: {}\n{errors}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("{file}: not JSON\n{errors}"))
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
