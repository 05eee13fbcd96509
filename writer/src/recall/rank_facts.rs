//! Ranking of facts. A fact stands for itself: it owes little to its neighbours and nothing to who said it. Nothing is ranked by
//! recency; that only breaks ties.

use memori_embedding::Embedding;

use super::asks::Asks;
use super::image::EntityImage;
use super::items::{Likeness, WordHits};
use super::recipe::{self, Parts, Weights, length};
use super::text::QueryTerms;

/// What a query matches among the facts of an entity, before anything is left out.
pub struct Matches<'a> {
    image: &'a EntityImage,
    weights: &'static Weights,
    asks: Asks,
    bm25: Vec<f64>,
    named: Vec<bool>,
    likeness: Likeness,
}

impl<'a> Matches<'a> {
    /// Looks the query up; with a vector, where the image has vectors of its model.
    #[must_use]
    pub fn of(image: &'a EntityImage, query: &QueryTerms, asks: Asks, vector: Option<&Embedding>) -> Self {
        let mut bm25 = vec![0.0; image.len()];
        let mut hits = WordHits::default();
        for word in &query.words {
            image.items.hits(word, &mut hits);
            image.items.add(word.weight, &hits, &mut bm25);
            hits.clear();
        }
        let likeness =
            vector.zip(image.vectors.as_ref()).map(|(vector, index)| index.likeness(&image.items, &image.groups, vector));
        Self {
            image,
            weights: if likeness.is_some() { &recipe::FACTS } else { &recipe::FACTS_BY_WORDS },
            asks,
            bm25,
            named: image.subjects.iter().map(|subject| query.names(subject)).collect(),
            likeness: likeness.unwrap_or_default(),
        }
    }

    /// The facts for which `shown` is true, each counted to the best of them.
    #[must_use]
    pub fn among<'m>(&'m self, shown: &'m [bool]) -> Among<'m> {
        let of_shown = self.bm25.iter().zip(shown).filter(|(_, shown)| **shown).map(|(score, _)| *score);
        let best = of_shown.fold(0.0, f64::max);
        Among { matches: self, shown, factor: if best > 0.0 { 1.0 / best } else { 0.0 } }
    }
}

/// What the signs of a digest by rules count.
pub const DIGEST: f64 = 0.6;

/// A query's facts that may be shown.
pub struct Among<'m> {
    matches: &'m Matches<'m>,
    shown: &'m [bool],
    factor: f64,
}

impl Among<'_> {
    /// What a score is a share of.
    #[must_use]
    pub fn most(&self) -> f64 {
        self.matches.weights.most(false)
    }

    /// What each sign adds to the score of a fact.
    #[must_use]
    #[inline]
    pub fn parts(&self, number: usize) -> Parts {
        let Self { matches, shown, factor } = self;
        let Matches { image, weights, asks, bm25, named, likeness } = matches;
        let (mut beside_bm25, mut beside_like) = (0.0_f64, None::<f32>);
        for other in image.beside(number).into_iter().flatten() {
            if shown[other] {
                beside_bm25 = beside_bm25.max(bm25[other]);
            }
            if let Some(like) = likeness.own.get(other).filter(|like| **like != 0.0) {
                beside_like = Some(beside_like.map_or(*like, |best| best.max(*like)));
            }
        }
        let like = |of: &[f32]| of.get(number).copied().map_or(0.0, f64::from);
        let yes = |holds: bool| f64::from(u8::from(holds));
        let subject = image.subjects_of[number] as usize;
        // A digest repeats what facts say: it goes before them only where the question gathers or asks when.
        let gathers = asks.summary || asks.when;
        let own = if number >= image.first_digest && !gathers { DIGEST } else { 1.0 };
        Parts {
            bm25: weights.bm25 * bm25[number] * factor,
            neighbour: weights.neighbour * beside_bm25 * factor,
            speaker: weights.speaker * yes(named.get(subject).copied().unwrap_or(false)),
            length: weights.length * length(image.items.words[number]),
            vector: weights.vector * like(&likeness.own),
            vector_context: weights.vector_context * like(&likeness.with_neighbours),
            vector_neighbour: weights.vector_neighbour * beside_like.map_or(0.0, f64::from),
            time: weights.time * yes(asks.when && image.is_dated(number)),
            ..Parts::default()
        }
        .times(own)
    }
}
