//! docs/metrics.md is what the code says of its metrics: `MEMORI_WRITE=1` writes its tables, without it a difference is a failure.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Mutex;

use anyhow::{Context as _, ensure};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

const MENDS: &str = "MEMORI_WRITE=1 cargo test -p memori-tests --test metrics_reference";
/// What stands between a description and the labels that its metric has.
const LABELS: &str = "; labels: ";

/// Keeps what is described, in its order.
#[derive(Default)]
struct Catalogue(Mutex<Vec<(String, String)>>);

impl Catalogue {
    fn note(&self, name: &KeyName, kind: &str, description: &str) {
        self.0.lock().expect("no panic").push((name.as_str().to_owned(), format!("{kind}{description}")));
    }
}

impl Recorder for Catalogue {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, description: SharedString) {
        self.note(&name, "", &description);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, description: SharedString) {
        self.note(&name, "", &description);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, description: SharedString) {
        self.note(&name, "histogram: ", &description);
    }

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

fn described(describe: impl FnOnce()) -> Vec<(String, String)> {
    let catalogue = Catalogue::default();
    metrics::with_local_recorder(&catalogue, describe);
    catalogue.0.into_inner().expect("no panic")
}

fn table(metrics: &[(String, String)]) -> anyhow::Result<String> {
    let mut text = "| metric | labels | meaning |\n|---|---|---|\n".to_owned();
    for (name, description) in metrics {
        let (meaning, labels) = description.split_once(LABELS).unwrap_or((description, ""));
        ensure!(!meaning.trim().is_empty() && !description.contains(['|', '\n']), "{name} is described as {description:?}");
        let labels: Vec<String> =
            labels.split(", ").filter(|label| !label.is_empty()).map(|label| format!("`{label}`")).collect();
        writeln!(text, "| `{name}` | {} | {meaning} |", labels.join(", "))?;
    }
    Ok(text.replace("|  |", "| |"))
}

#[test]
fn the_reference_is_what_the_code_says() -> anyhow::Result<()> {
    let of_worker = described(memori_augment_worker::metrics::describe);
    let (llm, worker): (Vec<_>, Vec<_>) = of_worker.into_iter().partition(|(name, _)| name.starts_with("memori_llm_"));
    let sections = [
        ("front door", described(memori_ingest::metrics::describe)),
        ("embedding", described(memori_embedding::metrics::describe)),
        ("worker", worker),
        ("llm", llm),
        (
            "writer",
            described(|| {
                memori_writer::sink::metrics::describe();
                memori_writer::packer::describe();
            }),
        ),
        ("archiver", described(memori_archive::metrics::describe)),
        ("recall", described(memori_writer::metrics::describe_reads)),
    ];
    let names: Vec<&String> = sections.iter().flat_map(|(_, metrics)| metrics.iter().map(|(name, _)| name)).collect();
    let distinct: BTreeSet<&&String> = names.iter().collect();
    ensure!(distinct.len() == names.len() && names.len() > 100, "{} metrics, {} of them distinct", names.len(), distinct.len());

    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let present = std::fs::read_to_string(file)?;
    let mut made = present.clone();
    for (section, metrics) in &sections {
        let (begin, end) = (format!("<!-- generated: {section} -->\n"), "<!-- end -->");
        let from = made.find(&begin).with_context(|| format!("docs/metrics.md has no {begin}"))? + begin.len();
        let to = from + made[from..].find(end).with_context(|| format!("docs/metrics.md has no {end} after {begin}"))?;
        made.replace_range(from..to, &table(metrics)?);
    }
    if std::env::var_os("MEMORI_WRITE").is_some() {
        return Ok(std::fs::write(file, made)?);
    }
    let differs = made.lines().zip(present.lines()).find(|(made, present)| made != present);
    ensure!(made == present, "docs/metrics.md is not what the code says; first difference: {differs:#?}\n\n    {MENDS}\n");
    Ok(())
}
