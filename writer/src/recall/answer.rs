//! The answer to a recall query: what is shown, in which order, and how it looks.
//!
//! Promises: a pure function of the images, the query and the time; facts and messages best first, equal scores by the later
//! mention, then by id; instructions are chosen among themselves and cost no fact its place or its tokens.

use std::cmp::Ordering;
use std::collections::HashMap;

use memori_embedding::Embedding;
use memori_schemas::{FactId, FactKind, Micros};
use serde::Serialize;
use serde::ser::SerializeMap as _;

use super::asks::Asks;
use super::image::EntityImage;
use super::messages::MessageImage;
use super::outline::Outline;
use super::packed::{FactChunk, FactView, SessionRef, SourceView};
use super::query::RecallQuery;
use super::rank_facts::Facts;
use super::recipe::{self, Parts, millionths};
use super::{budget, rank_facts, rank_messages, text};

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
    /// Of a fact of an image, as it looks.
    #[must_use]
    pub fn of(image: &EntityImage, number: usize, source: &SourceView<'_>) -> Self {
        Self {
            event_id: source.event_id().to_owned(),
            message_id: source.message_id().to_owned(),
            session_id: image.session_of(number, source).map(str::to_owned),
            occurred_at: Micros3339(source.occurred_at_us()),
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
    /// Only with `explain`.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub explained: Option<Explained>,
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
    /// Only with `explain`.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub explained: Option<Explained>,
}

/// Why an item stands where it does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explained {
    /// What each sign adds; those that add nothing are left out.
    #[serde(serialize_with = "signs")]
    pub score_parts: Parts,
    /// Their sum, to six decimals.
    pub score_raw: f64,
}

fn signs<S: serde::Serializer>(parts: &Parts, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for (name, value) in parts.named().into_iter().filter(|(_, value)| *value != 0.0) {
        map.serialize_entry(name, &value)?;
    }
    map.end()
}

/// By what an answer was ranked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ranking {
    /// `vectors` or `lexical`.
    pub recipe: &'static str,
    /// The model whose vectors were compared.
    pub model: Option<String>,
    /// Why by words alone.
    pub reason: Option<&'static str>,
}

impl Ranking {
    /// By words and vectors.
    #[must_use]
    pub fn with_vectors(model: &str) -> Self {
        Self { recipe: "vectors", model: Some(model.to_owned()), reason: None }
    }

    /// By words alone, and why.
    #[must_use]
    pub fn lexical(reason: &'static str) -> Self {
        Self { recipe: "lexical", model: None, reason: Some(reason) }
    }
}

/// The answer.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the fields of the API")]
pub struct Recalled {
    pub facts: Vec<RecalledFact>,
    pub instructions: Vec<RecalledFact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<RecalledMessage>>,
    /// Only with `explain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranking: Option<Ranking>,
    /// Filled in by the shell, which has the clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<f64>,
}

/// A fact of an image as the API shows it, with the interval that holds at `at`, else the last.
#[must_use]
pub fn shown_fact(image: &EntityImage, number: usize, at: Option<Micros>, now: Micros) -> RecalledFact {
    let session_of = |source: &SourceView<'_>| image.session_of(number, source).map(str::to_owned);
    shown_view(&image.fact(number), image.generation, session_of, at, now)
}

/// A fact as the API shows it.
fn shown_view(
    fact: &FactView<'_>,
    generation: i32,
    session_of: impl Fn(&SourceView<'_>) -> Option<String>,
    at: Option<Micros>,
    now: Micros,
) -> RecalledFact {
    let source = |source: SourceView<'_>| ShownSource {
        session_id: session_of(&source),
        event_id: source.event_id().to_owned(),
        message_id: source.message_id().to_owned(),
        occurred_at: Micros3339(source.occurred_at_us()),
    };
    let (interval, _) = fact.holds(at, now);
    RecalledFact {
        fact_id: fact.fact_id().to_string(),
        kind: fact.kind().as_str(),
        content: fact.content().to_owned(),
        score: None,
        subject: fact.subject().map(str::to_owned),
        predicate: fact.predicate().map(str::to_owned),
        object: fact.object().map(str::to_owned),
        occurred_at: Micros3339(fact.occurred_at_us()),
        first_mentioned_at: Micros3339(fact.first_mentioned_at_us()),
        last_mentioned_at: Micros3339(fact.last_mentioned_at_us()),
        mentions: fact.mentions(),
        valid_from: Micros3339(interval.from_us),
        valid_to: interval.to_us.map(Micros3339),
        sources: fact.sources().take(MAX_SOURCES).map(source).collect(),
        extractor: fact.extractor().to_owned(),
        generation,
        explained: None,
    }
}

/// Answers a query from what is known of its entity. `messages` is what was said, where the query asks for it; `vector` is the
/// query's, of the model whose vectors the images hold.
#[must_use]
pub fn answer(
    image: &EntityImage,
    messages: Option<&MessageImage>,
    query: &RecallQuery,
    vector: Option<&Embedding>,
    now: Micros,
) -> Recalled {
    let terms = text::query(&query.query, image.languages);
    let asked = Asked { query, asks: Asks::of(&query.query, &terms.spoken), vector, now };
    let wanted: Vec<bool> =
        (0..image.len()).map(|number| asked.wants(image, number) && asked.wants_source(image, number)).collect();
    let Chosen { facts: best, instructions } = asked.chosen(image, &terms, &wanted);
    let mut fits = None;
    let messages = messages.map(|messages| {
        asked.said(messages, |mut said| {
            let tokens = query.token_budget?;
            let statements: Vec<_> = best.iter().map(|one| statement(image, one.number)).collect();
            count_statements(image, &wanted, &mut said);
            let (of_facts, of_messages) = budget::together(&statements, &said, tokens);
            fits = Some(of_facts);
            Some(of_messages)
        })
    });
    let cost = |one: &ChosenFact| budget::tokens(image.fact(one.number).content());
    let fits = fits.or_else(|| query.token_budget.map(|tokens| budget::fitting(best.iter().map(cost), tokens)));
    let shown = |one: ChosenFact| {
        let fact = shown_fact(image, one.number, query.as_of, now);
        RecalledFact { score: Some(one.score), explained: one.explained, ..fact }
    };
    let facts = fitting(best, fits).map(shown).collect();
    let instructions = instructions.into_iter().map(shown).collect();
    Recalled { facts, instructions, messages, ranking: None, took_ms: None }
}

/// A fact that an answer shows, by its number.
#[derive(Clone, Debug, PartialEq)]
pub struct ChosenFact {
    /// Which.
    pub number: usize,
    score: f64,
    explained: Option<Explained>,
}

/// What an answer shows: facts, of which a budget of tokens may take only some, and instructions; best first.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "as in `Recalled`")]
pub struct Chosen {
    pub facts: Vec<ChosenFact>,
    pub instructions: Vec<ChosenFact>,
}

/// The facts that answer a query, told by what ranks them; [`super::outline::can_answer`] says of which queries it can tell.
#[must_use]
pub fn chosen(outline: &Outline, query: &RecallQuery, vector: Option<&Embedding>, now: Micros) -> Chosen {
    let terms = text::query(&query.query, outline.languages());
    let asked = Asked { query, asks: Asks::of(&query.query, &terms.spoken), vector, now };
    let wanted: Vec<bool> = (0..outline.len()).map(|number| asked.wants(outline, number)).collect();
    asked.chosen(outline, &terms, &wanted)
}

/// What [`answer`] would say of facts that were chosen, from chunks that hold them; `None` where one is in none of them. Sessions that
/// no client named have no place here.
#[must_use]
pub fn told(
    chosen: Chosen,
    fact_id: impl Fn(usize) -> FactId,
    chunks: &[FactChunk],
    generation: i32,
    query: &RecallQuery,
    now: Micros,
) -> Option<Recalled> {
    let known: HashMap<FactId, FactView<'_>> =
        chunks.iter().flat_map(FactChunk::facts).map(|fact| (fact.fact_id(), fact)).collect();
    let view = |one: &ChosenFact| known.get(&fact_id(one.number));
    if chosen.facts.iter().chain(&chosen.instructions).any(|one| view(one).is_none()) {
        return None;
    }
    let cost = |one: &ChosenFact| view(one).map_or(0, |fact| budget::tokens(fact.content()));
    let fits = query.token_budget.map(|tokens| budget::fitting(chosen.facts.iter().map(cost), tokens));
    let session_of = |source: &SourceView<'_>| match source.session() {
        SessionRef::Named(id) => Some(id.to_owned()),
        SessionRef::Unnamed(..) => None,
    };
    let shown = |one: ChosenFact| {
        let fact = shown_view(view(&one)?, generation, session_of, query.as_of, now);
        Some(RecalledFact { score: Some(one.score), explained: one.explained, ..fact })
    };
    let facts = fitting(chosen.facts, fits).filter_map(shown).collect();
    let instructions = chosen.instructions.into_iter().filter_map(shown).collect();
    Some(Recalled { facts, instructions, messages: None, ranking: None, took_ms: None })
}

/// What a fact costs, and the messages that it rests on: event and message id.
fn statement(image: &EntityImage, number: usize) -> budget::Statement<(&str, &str)> {
    let fact = image.fact(number);
    budget::Statement {
        tokens: budget::tokens(fact.content()),
        rests_on: fact.sources().map(|source| (source.event_id(), source.message_id())).collect(),
        // A digest is shorter than what it is made of: it does not stand for it.
        stands_for_them: !matches!(fact.kind(), FactKind::Summary | FactKind::Timeline),
    }
}

/// How many statements of the entity rest on each message.
fn count_statements<'a>(image: &'a EntityImage, wanted: &[bool], said: &mut [budget::Said<(&'a str, &'a str)>]) {
    let mut at: HashMap<(&str, &str), &mut usize> = said.iter_mut().map(|one| (one.place, &mut one.statements)).collect();
    for number in (0..image.len()).filter(|number| wanted[*number]) {
        let statement = statement(image, number);
        for place in statement.rests_on.iter().filter(|_| statement.stands_for_them) {
            if let Some(count) = at.get_mut(place) {
                **count += 1;
            }
        }
    }
}

/// Those that fit; without a budget all.
fn fitting<T>(best: Vec<T>, fits: Option<Vec<bool>>) -> impl Iterator<Item = T> {
    let fits = fits.unwrap_or_else(|| vec![true; best.len()]);
    best.into_iter().zip(fits).filter(|(_, fits)| *fits).map(|(one, _)| one)
}

/// A query with what is known of it.
struct Asked<'a> {
    query: &'a RecallQuery,
    asks: Asks,
    vector: Option<&'a Embedding>,
    now: Micros,
}

impl Asked<'_> {
    fn holds<F: Facts>(&self, facts: &F, number: usize) -> bool {
        let simple = self.query.as_of.is_none() && !facts.traits(number).is_bounded();
        self.query.include_superseded || simple || !facts.is_out_of_force(number, self.query.as_of, self.now)
    }

    /// Whether a fact may be shown, beside instructions and whoever said it.
    fn wants<F: Facts>(&self, facts: &F, number: usize) -> bool {
        let kind = facts.traits(number).kind();
        kind != FactKind::Instruction && self.query.kinds.contains(&kind) && self.holds(facts, number)
    }

    /// Whether a fact is of the process and of the session that are asked for.
    fn wants_source(&self, image: &EntityImage, number: usize) -> bool {
        let query = self.query;
        query.process_id.as_deref().is_none_or(|process| {
            let fact = image.fact(number);
            fact.process_id() == Some(process) || fact.sources().any(|source| source.process_id() == Some(process))
        }) && query
            .session_id
            .as_deref()
            .is_none_or(|session| image.fact(number).sources().any(|source| image.session_of(number, &source) == Some(session)))
    }

    /// The best of the facts that are wanted, and the instructions.
    fn chosen<F: Facts>(&self, facts: &F, terms: &text::QueryTerms, wanted: &[bool]) -> Chosen {
        let matches = rank_facts::Matches::of(facts, terms, self.asks, self.vector);
        let among = matches.among(wanted);
        let ranked = self.ranked(0..facts.len(), wanted, |number| among.parts(number), among.most());
        let best = best(ranked, self.query.limit, |a, b| order_of_facts(facts, a, b));
        Chosen {
            facts: best.into_iter().map(|one| self.chosen_fact(&one, &among)).collect(),
            instructions: self.instructions(facts, &matches),
        }
    }

    /// All standing instructions, by relevance; every one that holds is a candidate.
    fn instructions<F: Facts>(&self, facts: &F, matches: &rank_facts::Matches<'_, F>) -> Vec<ChosenFact> {
        if self.query.instruction_limit == 0 || facts.instructions().is_empty() {
            return Vec::new();
        }
        let mut shown = vec![false; facts.len()];
        for number in facts.instructions() {
            shown[*number as usize] = self.holds(facts, *number as usize);
        }
        let among = matches.among(&shown);
        let numbers = facts.instructions().iter().map(|number| *number as usize);
        let ranked = Self::every(numbers, &shown, |number| among.parts(number));
        let best = best(ranked, self.query.instruction_limit, |a, b| order_of_facts(facts, a, b));
        best.into_iter().map(|one| self.chosen_fact(&one, &among)).collect()
    }

    fn chosen_fact<F: Facts>(&self, one: &Ranked, among: &rank_facts::Among<'_, F>) -> ChosenFact {
        ChosenFact {
            number: one.number,
            score: recipe::shown(recipe::raw(one.score), among.most()),
            explained: self.explained(one, || among.parts(one.number)),
        }
    }

    fn explained(&self, one: &Ranked, parts: impl FnOnce() -> Parts) -> Option<Explained> {
        self.query.explain.then(|| Explained { score_parts: parts(), score_raw: recipe::raw(one.score) })
    }

    /// The best messages, of them those that `choose` takes: all where it has no say.
    fn said<'m>(
        &self,
        image: &'m MessageImage,
        choose: impl FnOnce(Vec<budget::Said<(&'m str, &'m str)>>) -> Option<Vec<bool>>,
    ) -> Vec<RecalledMessage> {
        let query = self.query;
        let terms = text::query(&query.query, image.languages);
        let in_process =
            |number: usize| query.process_id.is_none() || image.message(number).process_id() == query.process_id.as_deref();
        let in_session = |number: usize| query.session_id.is_none() || image.session_id(number) == query.session_id.as_deref();
        let shown: Vec<bool> = (0..image.len()).map(|number| in_process(number) && in_session(number)).collect();
        let matches = rank_messages::Matches::of(image, &terms, self.asks, self.vector, &shown);
        let ranked = self.ranked(0..image.len(), &shown, |number| matches.parts(number), matches.most());
        let best = best(ranked, query.limit, |a, b| order_of_messages(image, a, b));
        let cost = |one: &Ranked| {
            let message = image.message(one.number);
            let tokens = budget::tokens(&image.text(one.number));
            budget::Said { tokens, place: (message.event_id(), message.message_id()), statements: 0 }
        };
        let fits = if query.token_budget.is_some() { choose(best.iter().map(cost).collect()) } else { None };
        fitting(best, fits)
            .map(|one| {
                let message = image.message(one.number);
                RecalledMessage {
                    message_id: message.message_id().to_owned(),
                    event_id: message.event_id().to_owned(),
                    session_id: image.session_id(one.number).map(str::to_owned),
                    role: message.role().as_str(),
                    name: message.name().map(str::to_owned),
                    content: image.text(one.number),
                    occurred_at: Micros3339(message.occurred_at_us()),
                    score: recipe::shown(recipe::raw(one.score), matches.most()),
                    explained: self.explained(&one, || matches.parts(one.number)),
                }
            })
            .collect()
    }

    /// The items that may be shown and score enough.
    fn ranked(
        &self,
        numbers: impl Iterator<Item = usize>,
        shown: &[bool],
        parts: impl Fn(usize) -> Parts,
        most: f64,
    ) -> Vec<Ranked> {
        let mut ranked = Self::every(numbers, shown, parts);
        if let Some(least) = self.query.min_score {
            ranked.retain(|one| recipe::shown(recipe::raw(one.score), most) >= least);
        }
        ranked
    }

    fn every(numbers: impl Iterator<Item = usize>, shown: &[bool], parts: impl Fn(usize) -> Parts) -> Vec<Ranked> {
        let mut ranked = Vec::with_capacity(numbers.size_hint().0);
        ranked.extend(
            numbers.filter(|number| shown[*number]).map(|number| Ranked { number, score: millionths(parts(number).sum()) }),
        );
        ranked
    }
}

/// An item with its score in millionths.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    number: usize,
    score: i64,
}

fn order_of_facts<F: Facts>(facts: &F, a: &Ranked, b: &Ranked) -> Ordering {
    let by_mention = || facts.last_mentioned_at_us(b.number).cmp(&facts.last_mentioned_at_us(a.number));
    let by_id = || facts.fact_id(a.number).cmp(&facts.fact_id(b.number));
    b.score.cmp(&a.score).then_with(by_mention).then_with(by_id)
}

fn order_of_messages(image: &MessageImage, a: &Ranked, b: &Ranked) -> Ordering {
    b.score.cmp(&a.score).then_with(|| {
        let (one, other) = (image.message(a.number), image.message(b.number));
        other
            .occurred_at_us()
            .cmp(&one.occurred_at_us())
            .then_with(|| one.event_id().cmp(other.event_id()))
            .then_with(|| one.message_index().cmp(&other.message_index()))
            .then_with(|| one.message_key().cmp(&other.message_key()))
    })
}

/// The first `limit` in a total order.
fn best(mut candidates: Vec<Ranked>, limit: usize, mut order: impl FnMut(&Ranked, &Ranked) -> Ordering) -> Vec<Ranked> {
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
