//! Ranking of facts. A fact stands for itself: it owes little to its neighbours and nothing to who said it. Nothing is ranked by
//! recency; that only breaks ties.

use memori_embedding::Embedding;
use memori_schemas::{FactId, Micros};

use super::asks::Asks;
use super::items::{Likeness, WordHits, beside};
use super::language::Languages;
use super::recipe::{self, Parts, Weights, length};
use super::text::{QueryTerms, QueryWord, Term};
use super::traits::Traits;

/// What ranking needs of the facts of an entity, by their numbers.
pub(super) trait Facts {
    fn len(&self) -> usize;
    /// The languages of the facts.
    fn languages(&self) -> Languages;
    /// The facts that have a query word.
    fn hits(&self, word: &QueryWord, into: &mut WordHits);
    /// Words of each, and their mean.
    fn words(&self) -> (&[u32], f64);
    /// What each shares with its neighbours.
    fn groups(&self) -> &[u32];
    /// The distinct subjects, as hashes of their folded words.
    fn subjects(&self) -> &[Box<[Term]>];
    /// Which of them a fact has; another number is none.
    fn subject_of(&self, number: usize) -> u32;
    fn traits(&self, number: usize) -> Traits;
    /// From this number on there are digests by rules.
    fn first_digest(&self) -> usize;
    /// Where the instructions stand.
    fn instructions(&self) -> &[u32];
    /// How like a vector each is, where there are vectors of the query's model.
    fn likeness(&self, query: &Embedding) -> Option<Likeness>;
    fn fact_id(&self, number: usize) -> FactId;
    fn last_mentioned_at_us(&self, number: usize) -> i64;
    /// Whether it has been superseded or does not hold yet; asked of facts of which it may be so, and of all where `as_of` is given.
    fn is_out_of_force(&self, number: usize, as_of: Option<Micros>, now: Micros) -> bool;
}

/// What a query matches among the facts of an entity, before anything is left out.
pub(super) struct Matches<'a, F> {
    facts: &'a F,
    weights: &'static Weights,
    asks: Asks,
    bm25: Vec<f64>,
    named: Vec<bool>,
    likeness: Likeness,
}

impl<'a, F: Facts> Matches<'a, F> {
    /// Looks the query up; with a vector, where there are vectors of its model.
    pub(super) fn of(facts: &'a F, query: &QueryTerms, asks: Asks, vector: Option<&Embedding>) -> Self {
        let mut bm25 = vec![0.0; facts.len()];
        let mut hits = WordHits::default();
        for word in &query.words {
            facts.hits(word, &mut hits);
            hits.add(word.weight, facts.words(), &mut bm25);
            hits.clear();
        }
        let likeness = vector.and_then(|vector| facts.likeness(vector));
        Self {
            facts,
            weights: if likeness.is_some() { &recipe::FACTS } else { &recipe::FACTS_BY_WORDS },
            asks,
            bm25,
            named: facts.subjects().iter().map(|subject| query.names(subject)).collect(),
            likeness: likeness.unwrap_or_default(),
        }
    }

    /// The facts for which `shown` is true, each counted to the best of them.
    pub(super) fn among<'m>(&'m self, shown: &'m [bool]) -> Among<'m, F> {
        let of_shown = self.bm25.iter().zip(shown).filter(|(_, shown)| **shown).map(|(score, _)| *score);
        let best = of_shown.fold(0.0, f64::max);
        Among { matches: self, shown, factor: if best > 0.0 { 1.0 / best } else { 0.0 } }
    }
}

/// What the signs of a digest by rules count.
pub const DIGEST: f64 = 0.6;

/// A query's facts that may be shown.
pub(super) struct Among<'m, F> {
    matches: &'m Matches<'m, F>,
    shown: &'m [bool],
    factor: f64,
}

impl<F: Facts> Among<'_, F> {
    /// What a score is a share of.
    pub(super) fn most(&self) -> f64 {
        self.matches.weights.most(false)
    }

    /// What each sign adds to the score of a fact.
    #[inline]
    pub(super) fn parts(&self, number: usize) -> Parts {
        let Self { matches, shown, factor } = self;
        let Matches { facts, weights, asks, bm25, named, likeness } = matches;
        let (mut beside_bm25, mut beside_like) = (0.0_f64, None::<f32>);
        let mut see = |other: Option<usize>| {
            let Some(other) = other else { return };
            if shown[other] {
                beside_bm25 = beside_bm25.max(bm25[other]);
            }
            if let Some(like) = likeness.own.get(other).filter(|like| **like != 0.0) {
                beside_like = Some(beside_like.map_or(*like, |best| best.max(*like)));
            }
        };
        // One after the other: a loop over both took a tenth of a ranking.
        let [before, after] = beside(facts.groups(), number, 1);
        see(before);
        see(after);
        let like = |of: &[f32]| of.get(number).copied().map_or(0.0, f64::from);
        let yes = |holds: bool| f64::from(u8::from(holds));
        let subject = facts.subject_of(number) as usize;
        // A digest repeats what facts say: it goes before them only where the question gathers or asks when.
        let gathers = asks.summary || asks.when;
        let own = if number >= facts.first_digest() && !gathers { DIGEST } else { 1.0 };
        Parts {
            bm25: weights.bm25 * bm25[number] * factor,
            neighbour: weights.neighbour * beside_bm25 * factor,
            speaker: weights.speaker * yes(named.get(subject).copied().unwrap_or(false)),
            length: weights.length * length(facts.words().0[number]),
            vector: weights.vector * like(&likeness.own),
            vector_context: weights.vector_context * like(&likeness.with_neighbours),
            vector_neighbour: weights.vector_neighbour * beside_like.map_or(0.0, f64::from),
            time: weights.time * yes(asks.when && facts.traits(number).is_dated()),
            ..Parts::default()
        }
        .times(own)
    }
}
