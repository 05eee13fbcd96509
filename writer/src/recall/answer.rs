//! The answer to a recall query: what is shown, in which order, and how it looks.
//!
//! Promises: a pure function of the images, the query and the time; facts and messages best first, equal scores by the later
//! mention, then by id; instructions are chosen among themselves and cost no fact its place or its tokens.

use std::cmp::Ordering;

use memori_schemas::{FactKind, Micros};
use serde::Serialize;

use super::image::{EntityImage, FactItem, MessageImage, MessageItem, Source};
use super::query::RecallQuery;
use super::rank_facts::Matches;
use super::{budget, rank_messages, text};

/// The sources that an answer names for one fact; `mentions` counts them all, and its lineage lists them.
pub const MAX_SOURCES: usize = 100;

/// A source as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields of the API")]
pub struct ShownSource {
    pub event_id: String,
    pub message_id: String,
    pub session_id: Option<String>,
    pub occurred_at: Micros3339,
}

impl ShownSource {
    /// As it looks.
    #[must_use]
    pub fn of(source: &Source) -> Self {
        Self {
            event_id: source.event_id.clone(),
            message_id: source.message_id.clone(),
            session_id: source.session_id.as_deref().map(str::to_owned),
            occurred_at: Micros3339(source.occurred_at_us),
        }
    }
}

/// A time as the API shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Micros3339(pub i64);

impl Serialize for Micros3339 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Micros(self.0).to_rfc3339())
    }
}

/// A fact as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the fields of the API")]
pub struct RecalledFact {
    pub fact_id: String,
    pub kind: &'static str,
    pub content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    pub subject: Option<String>,
    pub predicate: Option<String>,
    pub object: Option<String>,
    pub occurred_at: Micros3339,
    pub first_mentioned_at: Micros3339,
    pub last_mentioned_at: Micros3339,
    pub mentions: i64,
    pub valid_from: Micros3339,
    pub valid_to: Option<Micros3339>,
    pub sources: Vec<ShownSource>,
    pub extractor: String,
    pub generation: i32,
}

/// A message as recall shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the fields of the API")]
pub struct RecalledMessage {
    pub message_id: String,
    pub event_id: String,
    pub session_id: Option<String>,
    pub role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub content: String,
    pub occurred_at: Micros3339,
    pub score: f64,
}

/// The answer.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the fields of the API")]
pub struct Recalled {
    pub facts: Vec<RecalledFact>,
    pub instructions: Vec<RecalledFact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<RecalledMessage>>,
    /// Filled in by the shell, which has the clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<f64>,
}

/// A fact as the API shows it, with the interval that holds at `at`, else the last.
#[must_use]
pub fn shown_fact(image: &EntityImage, fact: &FactItem, at: Option<Micros>, now: Micros) -> RecalledFact {
    let (interval, _) = fact.holds(at, now);
    RecalledFact {
        fact_id: fact.fact_id.to_string(),
        kind: fact.kind.as_str(),
        content: fact.content.clone(),
        score: None,
        subject: fact.subject.clone(),
        predicate: fact.predicate.clone(),
        object: fact.object.clone(),
        occurred_at: Micros3339(fact.occurred_at_us),
        first_mentioned_at: Micros3339(fact.first_mentioned_at_us),
        last_mentioned_at: Micros3339(fact.last_mentioned_at_us),
        mentions: fact.mentions,
        valid_from: Micros3339(interval.from_us),
        valid_to: interval.to_us.map(Micros3339),
        sources: fact.sources.iter().take(MAX_SOURCES).map(ShownSource::of).collect(),
        extractor: fact.extractor.to_string(),
        generation: image.generation,
    }
}

/// Answers a query from what is known of its entity. `messages` is what was said, where the query asks for it.
#[must_use]
pub fn answer(image: &EntityImage, messages: Option<&MessageImage>, query: &RecallQuery, now: Micros) -> Recalled {
    let budget = query.token_budget.unwrap_or(usize::MAX);
    let matches = Matches::of(image, &text::query(&query.query, image.languages));
    let (facts, left) = facts(image, query, &matches, now, budget);
    let instructions = instructions(image, query, &matches, now);
    let messages = messages.map(|messages| said(messages, query, left));
    Recalled { facts, instructions, messages, took_ms: None }
}

fn facts(image: &EntityImage, query: &RecallQuery, matches: &Matches, now: Micros, budget: usize) -> (Vec<RecalledFact>, usize) {
    let wanted = |fact: &FactItem| {
        fact.kind != FactKind::Instruction
            && query.kinds.contains(&fact.kind)
            && in_scope(&fact.processes, query.process_id.as_deref())
            && in_scope(&fact.sessions, query.session_id.as_deref())
            && (query.include_superseded || !fact.holds(query.as_of, now).1)
    };
    let shown: Vec<bool> = image.facts.iter().map(wanted).collect();
    let scores = matches.scores(image, &shown);
    let enough = |score: f64| query.min_score.is_none_or(|least| score >= least);
    let candidates: Vec<usize> = (0..scores.len()).filter(|i| shown[*i] && enough(scores[*i])).collect();
    let best = best(candidates, query.limit, |a, b| order_of_facts(image, &scores, *a, *b));
    let (fits, left) = match query.token_budget {
        Some(_) => budget::fitting(best.iter().map(|i| budget::tokens(&image.facts[*i].content)), budget),
        None => (vec![true; best.len()], budget),
    };
    let facts = best.iter().zip(fits).filter(|(_, fits)| *fits);
    (facts.map(|(i, _)| scored(shown_fact(image, &image.facts[*i], query.as_of, now), scores[*i])).collect(), left)
}

/// All standing instructions, by relevance; every one that holds is a candidate.
fn instructions(image: &EntityImage, query: &RecallQuery, matches: &Matches, now: Micros) -> Vec<RecalledFact> {
    let wanted =
        |fact: &FactItem| fact.kind == FactKind::Instruction && (query.include_superseded || !fact.holds(query.as_of, now).1);
    let shown: Vec<bool> = image.facts.iter().map(wanted).collect();
    if query.instruction_limit == 0 || !shown.contains(&true) {
        return Vec::new();
    }
    let scores = matches.scores(image, &shown);
    let candidates: Vec<usize> = (0..scores.len()).filter(|i| shown[*i]).collect();
    let best = best(candidates, query.instruction_limit, |a, b| order_of_facts(image, &scores, *a, *b));
    best.iter().map(|i| scored(shown_fact(image, &image.facts[*i], query.as_of, now), scores[*i])).collect()
}

fn scored(fact: RecalledFact, score: f64) -> RecalledFact {
    RecalledFact { score: Some(score), ..fact }
}

fn order_of_facts(image: &EntityImage, scores: &[f64], a: usize, b: usize) -> Ordering {
    let (one, other) = (&image.facts[a], &image.facts[b]);
    scores[b]
        .total_cmp(&scores[a])
        .then(other.last_mentioned_at_us.cmp(&one.last_mentioned_at_us))
        .then_with(|| one.fact_id.cmp(&other.fact_id))
}

fn said(image: &MessageImage, query: &RecallQuery, budget: usize) -> Vec<RecalledMessage> {
    let terms = text::query(&query.query, image.languages);
    let wanted =
        |message: &MessageItem| query.process_id.is_none() || message.process_id.as_deref() == query.process_id.as_deref();
    let shown: Vec<bool> = image
        .messages
        .iter()
        .map(|m| wanted(m) && (query.session_id.is_none() || m.session_id.as_deref() == query.session_id.as_deref()))
        .collect();
    let scores = rank_messages::scores(image, &terms, &shown);
    let enough = |score: f64| query.min_score.is_none_or(|least| score >= least);
    let candidates: Vec<usize> = (0..scores.len()).filter(|i| shown[*i] && enough(scores[*i])).collect();
    let best = best(candidates, query.limit, |a, b| {
        let (one, other) = (&image.messages[*a], &image.messages[*b]);
        scores[*b]
            .total_cmp(&scores[*a])
            .then(other.occurred_at_us.cmp(&one.occurred_at_us))
            .then_with(|| one.event_id.cmp(&other.event_id))
            .then(one.message_index.cmp(&other.message_index))
            .then(one.message_key.cmp(&other.message_key))
    });
    let texts: Vec<String> = best.iter().map(|i| image.messages[*i].text()).collect();
    let (fits, _) = match query.token_budget {
        Some(_) => budget::fitting(texts.iter().map(|text| budget::tokens(text)), budget),
        None => (vec![true; best.len()], budget),
    };
    best.iter()
        .zip(texts)
        .zip(fits)
        .filter(|(_, fits)| *fits)
        .map(|((i, content), _)| {
            let message = &image.messages[*i];
            RecalledMessage {
                message_id: message.message_id.clone(),
                event_id: message.event_id.clone(),
                session_id: message.session_id.as_deref().map(str::to_owned),
                role: message.role.as_str(),
                name: message.name.clone(),
                content,
                occurred_at: Micros3339(message.occurred_at_us),
                score: scores[*i],
            }
        })
        .collect()
}

fn in_scope(of_fact: &[std::sync::Arc<str>], asked: Option<&str>) -> bool {
    asked.is_none_or(|asked| of_fact.iter().any(|one| &**one == asked))
}

/// The first `limit` in a total order.
fn best(mut candidates: Vec<usize>, limit: usize, mut order: impl FnMut(&usize, &usize) -> Ordering) -> Vec<usize> {
    if limit == 0 {
        return Vec::new();
    }
    if candidates.len() > limit {
        candidates.select_nth_unstable_by(limit - 1, &mut order);
        candidates.truncate(limit);
    }
    candidates.sort_unstable_by(order);
    candidates
}
