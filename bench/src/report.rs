//! Figures as ratios to this machine's floor: a table for people, JSON for the record.

use std::path::Path;

use serde::Serialize;

/// One figure: ours beside the floor, both medians of `runs` runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) bench: String,
    pub(crate) case: String,
    pub(crate) unit: String,
    pub(crate) ours: f64,
    pub(crate) floor: f64,
    /// 1 is the floor itself, larger is better.
    pub(crate) ratio: f64,
    pub(crate) runs: usize,
}

/// Which way a unit is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    /// Rates.
    Higher,
    /// Times.
    Lower,
}

/// Figures as they come in.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
}

impl Report {
    /// Takes runs of both sides, and shows the figure at once.
    pub(crate) fn add(&mut self, bench: &str, case: &str, unit: &str, better: Better, ours: &[f64], floor: &[f64]) {
        let runs = ours.len().min(floor.len());
        let (ours, floor) = (median(ours), median(floor));
        let ratio = match better {
            Better::Higher => ours / floor,
            Better::Lower => floor / ours,
        };
        let figure = Figure { bench: bench.to_owned(), case: case.to_owned(), unit: unit.to_owned(), ours, floor, ratio, runs };
        if self.figures.is_empty() {
            say(&format!("{:<12} {:<42} {:>14} {:>14} {:>7} {:>5}  unit", "bench", "case", "ours", "floor", "ratio", "runs"));
        }
        say(&format!(
            "{:<12} {:<42} {:>14} {:>14} {:>7.3} {:>5}  {}",
            figure.bench,
            figure.case,
            rounded(figure.ours),
            rounded(figure.floor),
            figure.ratio,
            figure.runs,
            figure.unit
        ));
        self.figures.push(figure);
    }

    /// Writes the JSON array.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, serde_json::to_string_pretty(&self.figures)? + "\n")?;
        Ok(())
    }
}

fn rounded(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

/// The middle value; the mean of the two in the middle of an even number; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The value that `share` of all do not exceed.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index from a share in 0–1"
    )]
    let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(index).copied().unwrap_or(0.0)
}

/// A line of the table, or of progress.
#[allow(clippy::print_stdout, reason = "the table is what this program is for")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_say_larger_is_better_whatever_the_unit() {
        let mut report = Report::default();
        report.add("a", "rate", "rows/s", Better::Higher, &[50.0, 60.0, 40.0], &[100.0; 3]);
        report.add("a", "time", "ms", Better::Lower, &[2.0; 3], &[1.0; 3]);
        assert!(report.figures.iter().all(|figure| (figure.ratio - 0.5).abs() < 1e-9 && figure.runs == 3));
    }

    #[test]
    fn middles_and_tails() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert!((quantile(&hundred, 0.99) - 99.0).abs() < 1e-9);
        assert!((quantile(&hundred, 0.5) - 50.0).abs() < 1e-9);
    }
}
