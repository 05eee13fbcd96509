//! What each part of a score is worth: the same answers sorted without it.
//!
//! The parts come from answers with `explain`, whose sum is what the service sorted by, so nothing is asked twice. Where a whole
//! question's ranking is needed otherwise (no vectors at all), it was asked so.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::ask::{Found, Item, Ranking};
use super::format::{Data, Question};
use super::measure::{self, Mean, mean, recall_at, reciprocal_rank, without_digests};

/// One row: what was left out, and what that leaves.
#[derive(Clone, Debug)]
pub(super) struct Ablation {
    pub(super) name: String,
    pub(super) turn_recall: Option<Mean>,
    pub(super) turn_mrr: Option<Mean>,
    pub(super) fact_recall: Option<Mean>,
    /// Of turn recall against the whole, question by question.
    pub(super) turn_difference: Option<Mean>,
    /// Of fact recall against the whole.
    pub(super) fact_difference: Option<Mean>,
}

/// Sorted by parts: highest first, then the later, as the service breaks ties, then by id.
fn sorted(items: &[Item], score: impl Fn(&BTreeMap<String, f64>) -> f64) -> Vec<Item> {
    let mut scored: Vec<(f64, &Item)> = items.iter().map(|item| (score(&item.parts), item)).collect();
    scored.sort_by(|(a, one), (b, other)| match (a - b).abs() < 1e-9 {
        true => other.at.cmp(&one.at).then_with(|| one.messages.cmp(&other.messages)),
        false => b.partial_cmp(a).unwrap_or(Ordering::Equal),
    });
    scored.into_iter().map(|(_, item)| item.clone()).collect()
}

type Figures = (Vec<f64>, Vec<f64>, Vec<f64>);

/// The table, the whole first. Empty where the answers hold no parts.
pub(super) fn table(data: &Data, asked: &[(&Question, &Found)]) -> Vec<Ablation> {
    let asked: Vec<&(&Question, &Found)> =
        asked.iter().filter(|(q, _)| !q.instruction && !q.unanswerable && !q.evidence.messages.is_empty()).collect();
    let items = || asked.iter().flat_map(|(_, found)| found.whole.messages.iter().chain(&found.whole.facts));
    let parts: BTreeSet<String> = items().flat_map(|item| item.parts.keys().cloned()).collect();
    if parts.is_empty() {
        return Vec::new();
    }
    let figures = |rankings: &dyn Fn(&Found) -> Ranking| -> Figures {
        let mut figures = Figures::default();
        for (question, found) in &asked {
            let ranking = rankings(found);
            let wanted = &question.evidence.messages;
            figures.0.push(recall_at(&ranking.messages, wanted, 10));
            figures.1.push(reciprocal_rank(&ranking.messages, wanted));
            let by_people = measure::of_people(data, question);
            if !by_people.is_empty() {
                figures.2.push(recall_at(&without_digests(&ranking.facts), &by_people, 10));
            }
        }
        figures
    };
    let whole = figures(&|found| found.whole.clone());
    let row = |name: &str, these: &Figures| Ablation {
        name: name.to_owned(),
        turn_recall: mean(&these.0),
        turn_mrr: mean(&these.1),
        fact_recall: mean(&these.2),
        turn_difference: mean(&difference(&these.0, &whole.0)),
        fact_difference: mean(&difference(&these.2, &whole.2)),
    };
    let by = |found: &Found, score: &dyn Fn(&BTreeMap<String, f64>) -> f64| Ranking {
        messages: sorted(&found.whole.messages, score),
        facts: sorted(&found.whole.facts, score),
        instructions: Vec::new(),
    };
    let mut rows = vec![row("whole", &whole)];
    for part in &parts {
        let without = |parts: &BTreeMap<String, f64>| parts.iter().filter(|(name, _)| *name != part).map(|(_, v)| v).sum();
        rows.push(row(&format!("without {part}"), &figures(&|found| by(found, &without))));
    }
    if asked.iter().all(|(_, found)| found.lexical.is_some()) {
        rows.push(row("vectors: false", &figures(&|found| found.lexical.clone().unwrap_or_default())));
    }
    let bm25 = |parts: &BTreeMap<String, f64>| parts.get("bm25").copied().unwrap_or_default();
    rows.push(row("bm25 alone", &figures(&|found| by(found, &bm25))));
    rows
}

fn difference(these: &[f64], whole: &[f64]) -> Vec<f64> {
    these.iter().zip(whole).map(|(a, b)| a - b).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{ask, format};
    use super::*;
    use serde_json::json;

    #[test]
    fn a_part_is_worth_what_its_removal_costs() {
        let data = format::parse(concat!(
            r#"{"type":"conversation","entity_id":"a","language":"en","sessions":[{"session_id":"s","started_at":"2025-01-01T10:00:00Z","messages":[{"message_id":"m1","role":"user","content":"x"},{"message_id":"m2","role":"assistant","content":"y"}]}]}"#,
            "\n",
            r#"{"type":"question","question_id":"q","entity_id":"a","text":"?","category":"single","evidence":{"messages":["m1"]}}"#
        ))
        .unwrap();
        let mut messages = vec![json!({"message_id": "m1", "role": "user", "score_parts": {"bm25": 0.2, "role": 1.3}})];
        messages.extend((0..10).map(|n| {
            json!({"message_id": format!("long{n}"), "role": "assistant", "score_parts": {"bm25": 1.0}, "occurred_at": "2025"})
        }));
        let whole = ask::ranking(&json!({"messages": messages, "facts": []}));
        let found = Found { whole, ..Found::default() };
        let rows = table(&data, &[(&data.questions[0], &found)]);
        let recall = |name: &str| rows.iter().find(|row| row.name == name).and_then(|row| row.turn_recall).map(|mean| mean.mean);
        assert_eq!(recall("whole"), Some(1.0));
        assert_eq!(recall("without role"), Some(0.0));
        assert_eq!(recall("bm25 alone"), Some(0.0));
        assert_eq!(recall("without bm25"), Some(1.0));
        assert_eq!(recall("vectors: false"), None);
        let role = rows.iter().find(|row| row.name == "without role").unwrap();
        assert_eq!(role.turn_difference.map(|mean| mean.mean), Some(-1.0));
        assert!(role.fact_recall.is_some_and(|mean| mean.mean == 0.0), "facts are not there at all");
    }

    #[test]
    fn answers_without_parts_have_no_table() {
        let data = format::parse(concat!(
            r#"{"type":"conversation","entity_id":"a","language":"en","sessions":[{"session_id":"s","started_at":"2025-01-01T10:00:00Z","messages":[{"message_id":"m1","role":"user","content":"x"}]}]}"#,
            "\n",
            r#"{"type":"question","question_id":"q","entity_id":"a","text":"?","category":"single","evidence":{"messages":["m1"]}}"#
        ))
        .unwrap();
        assert!(table(&data, &[(&data.questions[0], &Found::default())]).is_empty());
    }
}
