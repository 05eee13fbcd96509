//! The builtin extractor against its corpus: precision and recall, of the turns that rules were written for and of those held back,
//! over all, per language and per domain.

use memori_augment_worker::builtin::extract;
use memori_augment_worker::corpus::{self, Tally};

use crate::report::{Better, Report};

/// Languages and domains with fewer facts are only counted in the whole.
const LEAST_FACTS: usize = 4;

pub(crate) fn run(report: &mut Report) -> anyhow::Result<()> {
    for (part, turns) in [("tuning", corpus::TUNING), ("held back", corpus::HELD_BACK)] {
        let score = corpus::score(turns, extract)?;
        add(report, part, &score.all);
        for (of, tally) in score.by_language.iter().chain(&score.by_domain) {
            if tally.expected >= LEAST_FACTS {
                add(report, &format!("{part}, {of}"), tally);
            }
        }
    }
    Ok(())
}

/// The floor is an extractor that makes no mistake.
fn add(report: &mut Report, of: &str, tally: &Tally) {
    let facts = tally.expected;
    report.add(
        "extraction",
        &format!("precision, {of}"),
        &format!("of {facts} facts"),
        Better::Higher,
        &[tally.precision()],
        &[1.0],
    );
    report.add("extraction", &format!("recall, {of}"), &format!("of {facts} facts"), Better::Higher, &[tally.recall()], &[1.0]);
}
