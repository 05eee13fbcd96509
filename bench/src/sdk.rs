//! What memory costs a Python program: calls and streams with the registered client over those with one that nobody registered.
//! `bench/sdk` measures, in a virtual environment with the release wheel; the floor is the same program without memory.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::Options;
use crate::report::{Better, Report};

/// As `bench/sdk` writes it: a value a run.
#[derive(Deserialize)]
struct Row {
    case: String,
    unit: String,
    better: Direction,
    ours: Vec<f64>,
    floor: Vec<f64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Higher,
    Lower,
}

impl From<Direction> for Better {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Higher => Self::Higher,
            Direction::Lower => Self::Lower,
        }
    }
}

pub(crate) fn run(options: Options, report: &mut Report) -> anyhow::Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/bench-sdk.sh");
    let folder = tempfile::tempdir()?;
    let rows = folder.path().join("rows.json");
    let mut command = Command::new(&script);
    command.arg("--json").arg(&rows).args(["--runs", &options.runs.to_string()]);
    if options.quick {
        command.arg("--quick");
    }
    let status = command.status().with_context(|| format!("{} does not start", script.display()))?;
    ensure!(status.success(), "{} ended with {status}; what it said stands above", script.display());
    for row in serde_json::from_slice::<Vec<Row>>(&std::fs::read(&rows)?)? {
        report.add("sdk", &row.case, &row.unit, row.better.into(), &row.ours, &row.floor);
    }
    Ok(())
}
