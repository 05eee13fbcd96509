//! BM25 over all documents of one entity, and over groups of them.
//!
//! A query word matches a document by any of its alternatives: its frequency there is the greatest of theirs, and the documents
//! that have it are the union of theirs. Sums run in the order of the query's words, so that equal inputs give equal bits.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::text::{DocumentTerms, QueryTerms, QueryWord, Term};

/// How fast a word's repetition stops to count.
const K1: f64 = 1.2;
/// How much a long document is held back.
const B: f64 = 0.75;

/// Terms are hashes already.
#[derive(Default)]
pub struct TermHasher(u64);

impl Hasher for TermHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, term: u64) {
        self.0 = term;
    }
}

/// A document that has a query word, and how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// The document's number.
    pub document: u32,
    /// How often.
    pub count: f64,
}

/// Where each term stands.
#[derive(Default)]
pub struct Postings {
    places: HashMap<Term, (u32, u32), BuildHasherDefault<TermHasher>>,
    entries: Vec<(u32, u16)>,
    words: Vec<u32>,
    mean_words: f64,
}

impl Postings {
    /// The postings of documents, numbered as they come.
    #[must_use]
    pub fn of<'a>(documents: impl IntoIterator<Item = &'a DocumentTerms>) -> Self {
        let mut words = Vec::new();
        let mut all: Vec<(Term, u32, u16)> = Vec::new();
        for (number, document) in documents.into_iter().enumerate() {
            let number = u32::try_from(number).expect("an entity has fewer than 2^32 items");
            words.push(document.words);
            all.extend(document.terms.iter().map(|(term, count)| (*term, number, *count)));
        }
        all.sort_unstable();
        let mut places = HashMap::<_, _, BuildHasherDefault<TermHasher>>::default();
        let mut entries = Vec::with_capacity(all.len());
        for run in all.chunk_by(|a, b| a.0 == b.0) {
            places.insert(run[0].0, (u32_of(entries.len()), u32_of(run.len())));
            entries.extend(run.iter().map(|(_, number, count)| (*number, *count)));
        }
        places.shrink_to_fit();
        let mean_words = mean(&words);
        Self { places, entries, words, mean_words }
    }

    /// The number of documents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Words of each document.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// What it holds in memory, about, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.places.capacity() * 20 + self.entries.capacity() * 8 + self.words.capacity() * 4
    }

    /// The documents that have a query word, in the order of their numbers.
    #[must_use]
    pub fn hits(&self, word: &QueryWord) -> Vec<Hit> {
        let mut hits: Vec<Hit> = Vec::new();
        let mut lists = 0;
        for term in &word.alternatives {
            if let Some((start, len)) = self.places.get(term) {
                lists += 1;
                let list = &self.entries[*start as usize..(*start + *len) as usize];
                hits.extend(list.iter().map(|(document, count)| Hit { document: *document, count: f64::from(*count) }));
            }
        }
        if lists > 1 {
            hits.sort_unstable_by(|a, b| a.document.cmp(&b.document).then(b.count.total_cmp(&a.count)));
            hits.dedup_by_key(|hit| hit.document);
        }
        hits
    }

    /// The hits of every word of a query.
    #[must_use]
    pub fn all_hits(&self, query: &QueryTerms) -> Vec<(f64, Vec<Hit>)> {
        query.words.iter().map(|word| (word.weight, self.hits(word))).filter(|(_, hits)| !hits.is_empty()).collect()
    }

    /// Every document's score for the hits of a query.
    #[must_use]
    pub fn scores(&self, hits: &[(f64, Vec<Hit>)]) -> Vec<f64> {
        let mut scores = vec![0.0; self.words.len()];
        for (weight, hits) in hits {
            add_word(&mut scores, *weight, hits, &self.words, self.mean_words);
        }
        scores
    }
}

/// Adds one query word's part to the scores of documents of these lengths.
pub fn add_word(scores: &mut [f64], weight: f64, hits: &[Hit], words: &[u32], mean_words: f64) {
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let (all, having) = (words.len() as f64, hits.len() as f64);
    let rarity = weight * (1.0 + (all - having + 0.5) / (having + 0.5)).ln();
    for hit in hits {
        let document = hit.document as usize;
        let length = if mean_words > 0.0 { f64::from(words[document]) / mean_words } else { 1.0 };
        scores[document] += rarity * hit.count * (K1 + 1.0) / (hit.count + K1 * (1.0 - B + B * length));
    }
}

/// The mean of lengths; 0 where there is none.
#[must_use]
pub fn mean(words: &[u32]) -> f64 {
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let count = words.len() as f64;
    if words.is_empty() { 0.0 } else { words.iter().map(|n| f64::from(*n)).sum::<f64>() / count }
}

/// Divides by the greatest, where that is above 0.
pub fn by_the_best(scores: &mut [f64]) {
    let best = scores.iter().copied().fold(0.0, f64::max);
    if best > 0.0 {
        for score in scores {
            *score /= best;
        }
    }
}

fn u32_of(n: usize) -> u32 {
    u32::try_from(n).expect("an entity's postings are fewer than 2^32")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::recall::text::{document, query, term};

    /// BM25 as the books write it, over lists of words, with a query word given as a set of equal spellings.
    #[allow(clippy::cast_precision_loss)]
    fn naive(documents: &[Vec<String>], query: &[(f64, Vec<String>)]) -> Vec<f64> {
        let mean = documents.iter().map(Vec::len).sum::<usize>() as f64 / documents.len() as f64;
        let frequency = |document: &Vec<String>, spellings: &Vec<String>| {
            spellings.iter().map(|s| document.iter().filter(|w| *w == s).count()).max().unwrap_or(0) as f64
        };
        documents
            .iter()
            .map(|document| {
                query
                    .iter()
                    .map(|(weight, spellings)| {
                        let having = documents.iter().filter(|d| frequency(d, spellings) > 0.0).count() as f64;
                        let idf = ((documents.len() as f64 - having + 0.5) / (having + 0.5) + 1.0).ln();
                        let f = frequency(document, spellings);
                        let length = if mean > 0.0 { document.len() as f64 / mean } else { 1.0 };
                        weight * idf * (f * 2.2) / (f + 1.2 * (0.25 + 0.75 * length))
                    })
                    .sum()
            })
            .collect()
    }

    proptest! {
        #[test]
        fn scores_are_those_of_the_definition(
            documents in prop::collection::vec(prop::collection::vec("[a-e]", 0..12), 1..12),
            words in prop::collection::vec((0.1..1.0_f64, prop::collection::btree_set("[a-f]", 1..3)), 0..5),
        ) {
            let indexed: Vec<DocumentTerms> = documents.iter().map(|words| {
                let mut counts = std::collections::BTreeMap::new();
                for word in words {
                    *counts.entry(term(word)).or_insert(0) += 1;
                }
                DocumentTerms { terms: counts.into_iter().collect(), words: words.len() as u32, ..DocumentTerms::default() }
            }).collect();
            let words: Vec<(f64, Vec<String>)> = words.into_iter().map(|(w, s)| (w, s.into_iter().collect())).collect();
            let query = QueryTerms {
                words: words.iter().map(|(weight, spellings)| {
                    let mut alternatives: Vec<Term> = spellings.iter().map(|s| term(s)).collect();
                    alternatives.sort_unstable();
                    QueryWord { alternatives, weight: *weight }
                }).collect(),
                spoken: Vec::new(),
            };
            let postings = Postings::of(&indexed);
            let scores = postings.scores(&postings.all_hits(&query));
            for (ours, naive) in scores.iter().zip(naive(&documents, &words)) {
                prop_assert!((ours - naive).abs() < 1e-9, "{} {}", ours, naive);
            }
        }
    }

    #[test]
    fn the_rarer_word_and_the_shorter_document_win() {
        let documents: Vec<DocumentTerms> =
            ["Alice likes tea", "Alice likes green tea in the morning", "Alice likes coffee"].map(document).into();
        let postings = Postings::of(&documents);
        let scores = |text| postings.scores(&postings.all_hits(&query(text, documents[0].languages)));
        let tea = scores("tea");
        assert!(tea[0] > tea[1] && tea[1] > tea[2] && tea[2] == 0.0);
        let coffee = scores("does Alice like coffee");
        assert!(coffee[2] > coffee[0]);
    }
}
