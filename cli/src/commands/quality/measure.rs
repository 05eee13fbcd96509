//! What the answers are worth: pure functions of rankings and evidence.
//!
//! Promises: equal answers give equal figures, intervals included (their resampling has a fixed seed). A question counts only in
//! measures that apply to it; how many did stands beside each mean.

use std::collections::{BTreeMap, HashSet};

use super::ask::{Found, Item, Ranking};
use super::format::{Data, Question, plain};

/// Resamplings behind an interval.
const RESAMPLES: usize = 1_000;
/// Of the resampling.
const SEED: u64 = 0x6d65_6d6f_7269;

/// One question's figures by the measure's name, each 0–1.
pub(super) type Scores = BTreeMap<String, f64>;

/// A mean with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mean {
    pub(super) questions: usize,
    pub(super) mean: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// The figures of one question.
pub(super) fn scores(data: &Data, question: &Question, found: &Found) -> Scores {
    let mut scores = Scores::new();
    if question.unanswerable {
        return scores;
    }
    let mut put = |name: &str, value: Option<f64>| {
        if let Some(value) = value {
            scores.insert(name.to_owned(), value);
        }
    };
    if question.instruction {
        put("instruction_recall", recall_of(&question.evidence.messages, covered(&found.whole.instructions)));
        return scores;
    }
    let said = &question.evidence.messages;
    let by_people = of_people(data, question);
    let messages = &found.whole.messages;
    let facts: Vec<Item> = without_digests(&found.whole.facts);
    for k in [5, 10] {
        let at = |name: &str| format!("{name}@{k}");
        put(&at("turn_recall"), recall_of(said, covered(first(messages, k))));
        let sessions = first(messages, k).iter().flat_map(|item| item.sessions.iter().map(String::as_str)).collect();
        put(&at("session_recall"), recall_of(&question.evidence.sessions, sessions));
        put(&at("fact_recall"), recall_of(&by_people, covered(first(&facts, k))));
    }
    put("turn_mrr", (!said.is_empty()).then(|| reciprocal_rank(messages, said)));
    put("fact_mrr", (!by_people.is_empty()).then(|| reciprocal_rank(&facts, &by_people)));
    put("answer_in_facts@10", answer_recall(&question.answer, first(&found.whole.facts, 10)));
    put("answer_in_messages@10", answer_recall(&question.answer, first(messages, 10)));
    for fitting in &found.fitting {
        let ways = [("facts", &fitting.by_facts), ("messages", &fitting.by_messages), ("both", &fitting.by_both)];
        for (way, covered) in ways {
            let covered = covered.iter().map(String::as_str).collect();
            put(&format!("recall_in_{}_tokens_{way}", fitting.budget), recall_of(said, covered));
        }
    }
    scores
}

/// Evidence that people wrote: facts about people rest on nothing else.
pub(super) fn of_people(data: &Data, question: &Question) -> std::collections::BTreeSet<String> {
    let is_person = |id: &&String| data.place(&question.entity_id, id).is_some_and(|place| place.role == "user");
    question.evidence.messages.iter().filter(is_person).cloned().collect()
}

/// The facts that rest on single statements: a digest rests on a whole session and would cover its evidence by size alone.
pub(super) fn without_digests(facts: &[Item]) -> Vec<Item> {
    facts.iter().filter(|fact| !["summary", "timeline"].contains(&fact.kind.as_str())).cloned().collect()
}

pub(super) fn first(items: &[Item], k: usize) -> &[Item] {
    &items[..items.len().min(k)]
}

fn covered(items: &[Item]) -> HashSet<&str> {
    items.iter().flat_map(|item| item.messages.iter().map(String::as_str)).collect()
}

fn recall_of<'a>(wanted: impl IntoIterator<Item = &'a String>, covered: HashSet<&str>) -> Option<f64> {
    let (mut all, mut there) = (0, 0);
    for id in wanted {
        all += 1;
        there += usize::from(covered.contains(id.as_str()));
    }
    (all > 0).then(|| share(there, all))
}

/// The share of the evidence among the first `k` items.
pub(super) fn recall_at(items: &[Item], wanted: &std::collections::BTreeSet<String>, k: usize) -> f64 {
    recall_of(wanted, covered(first(items, k))).unwrap_or_default()
}

/// One over the place of the first item that is evidence; 0 where none is.
pub(super) fn reciprocal_rank(items: &[Item], wanted: &std::collections::BTreeSet<String>) -> f64 {
    let place = items.iter().position(|item| item.messages.iter().any(|id| wanted.contains(id)));
    place.map_or(0.0, |place| share(1, place + 1))
}

fn answer_recall(answer: &[String], items: &[Item]) -> Option<f64> {
    let shown: String = items.iter().map(|item| plain(&item.text) + "\n").collect();
    let there = answer.iter().filter(|part| shown.contains(&plain(part))).count();
    (!answer.is_empty()).then(|| share(there, answer.len()))
}

#[allow(clippy::cast_precision_loss, reason = "counts of questions and items")]
pub(super) fn share(part: usize, of: usize) -> f64 {
    part as f64 / of as f64
}

/// The mean of values and the interval in which 95 % of the means of resampled questions lie. `None` without values.
pub(super) fn mean(values: &[f64]) -> Option<Mean> {
    let count = values.len();
    if count == 0 {
        return None;
    }
    let average = |sum: f64| sum * share(1, count);
    let mut random = SplitMix(SEED);
    let mut means: Vec<f64> = (0..RESAMPLES).map(|_| average((0..count).map(|_| values[random.below(count)]).sum())).collect();
    means.sort_unstable_by(f64::total_cmp);
    Some(Mean {
        questions: count,
        mean: average(values.iter().sum()),
        low: means[RESAMPLES * 25 / 1_000],
        high: means[RESAMPLES * 975 / 1_000 - 1],
    })
}

/// Every measure's mean over these questions.
pub(super) fn means<'a>(scores: impl IntoIterator<Item = &'a Scores>) -> BTreeMap<String, Mean> {
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, value) in scores.into_iter().flatten() {
        values.entry(name.clone()).or_default().push(*value);
    }
    values.into_iter().filter_map(|(name, values)| Some((name, mean(&values)?))).collect()
}

/// The value at a share of the sorted values (nearest rank); 0 without values.
pub(super) fn percentile(values: &mut [f64], share_of_100: usize) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let rank = (values.len() * share_of_100).div_ceil(100).max(1);
    values.get(rank - 1).copied().unwrap_or_default()
}

/// How well the best score tells questions that have an answer from those that have none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Separation {
    pub(super) unanswerable: usize,
    pub(super) mean_answerable: f64,
    pub(super) mean_unanswerable: f64,
    /// The probability that an answerable question's best score is the higher one.
    pub(super) auc: f64,
}

/// The separation by the best score of `items`. `None` where one side is empty.
pub(super) fn separation<'a>(
    asked: impl IntoIterator<Item = (&'a Question, &'a Found)>,
    items: fn(&Ranking) -> &[Item],
) -> Option<Separation> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for (question, found) in asked.into_iter().filter(|(question, _)| !question.instruction) {
        let best = items(&found.whole).iter().map(|item| item.score).fold(0.0, f64::max);
        if question.unanswerable { without.push(best) } else { with.push(best) }
    }
    if with.is_empty() || without.is_empty() {
        return None;
    }
    let wins: f64 = with
        .iter()
        .flat_map(|a| {
            without.iter().map(move |b| {
                if a > b {
                    1.0
                } else if (a - b).abs() < f64::EPSILON {
                    0.5
                } else {
                    0.0
                }
            })
        })
        .sum();
    let average = |values: &[f64]| values.iter().sum::<f64>() * share(1, values.len());
    Some(Separation {
        unanswerable: without.len(),
        mean_answerable: average(&with),
        mean_unanswerable: average(&without),
        auc: wins * share(1, with.len() * without.len()),
    })
}

/// A small generator whose sequence will never change.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = (u128::from(z ^ (z >> 31)) * bound as u128) >> 64;
        usize::try_from(high).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn item(id: &str, kind: &str, text: &str) -> Item {
        Item {
            kind: kind.into(),
            text: text.into(),
            messages: vec![id.into()],
            sessions: vec![format!("s-{id}")],
            ..Item::default()
        }
    }

    fn ids(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn recall_and_rank_are_those_of_the_definition() {
        let ranked: Vec<Item> = ["a", "b", "c", "d", "e", "f"].map(|id| item(id, "user", id)).into();
        assert_eq!(recall_at(&ranked, &ids(&["b", "f", "z"]), 5), 1.0 / 3.0);
        assert_eq!(recall_at(&ranked, &ids(&["b", "f", "z"]), 10), 2.0 / 3.0);
        assert_eq!(reciprocal_rank(&ranked, &ids(&["f", "c"])), 1.0 / 3.0);
        assert_eq!(reciprocal_rank(&ranked, &ids(&["z"])), 0.0);
        assert_eq!(answer_recall(&["A".into(), "q".into()], &ranked), Some(0.5));
        assert_eq!(answer_recall(&[], &ranked), None);
    }

    #[test]
    fn digests_cover_no_evidence_but_hold_answers() {
        let facts = [item("a", "summary", "trips: Oslo"), item("b", "fact", "x")];
        assert_eq!(without_digests(&facts).len(), 1);
        assert_eq!(answer_recall(&["oslo".into()], &facts), Some(1.0));
    }

    #[test]
    fn intervals_hold_their_mean_and_come_out_the_same() {
        let values: Vec<f64> = (0..100).map(|n| f64::from(n % 2)).collect();
        let one = mean(&values).unwrap();
        assert_eq!(Some(one), mean(&values));
        assert_eq!((one.questions, one.mean), (100, 0.5));
        // The normal approximation's interval is ± .098.
        assert!((one.low - 0.402).abs() < 0.03 && (one.high - 0.598).abs() < 0.03, "{one:?}");
        assert_eq!(mean(&[1.0]).map(|m| (m.low, m.high)), Some((1.0, 1.0)));
        assert_eq!(mean(&[]), None);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!((percentile(&mut values, 50), percentile(&mut values, 99), percentile(&mut values, 1)), (3.0, 5.0, 1.0));
        assert_eq!(percentile(&mut [], 50), 0.0);
    }
}
