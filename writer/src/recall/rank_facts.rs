//! Ranking of facts by words.
//!
//! A fact is self-contained, so unlike a message it owes little to its neighbours and nothing to a speaker's role:
//! score = (1·B + .3·spk + .2·B_nb + .1·len) ÷ the most that can be, where B is BM25 ÷ the best of those that may be shown, spk is 1
//! where the query names the fact's subject, B_nb is the better B of the facts before and after it in its session, and len grows
//! with its words. Nothing is ranked by recency; that only breaks ties.

use super::bm25::by_the_best;
use super::image::EntityImage;
use super::text::{self, QueryTerms};

const SUBJECT: f64 = 0.3;
const NEIGHBOUR: f64 = 0.2;
const LENGTH: f64 = 0.1;
const MOST: f64 = 1.0 + SUBJECT + NEIGHBOUR + LENGTH;

/// Words by which the user speaks of themselves: they name the subject `user`.
const OWN_WORDS: &[&str] = &[
    "i", "i'm", "i've", "me", "my", "mine", "ich", "mein", "meine", "meinen", "mir", "mich", "je", "j'ai", "mon", "ma", "mes", "moi", "yo",
    "mi", "mis", "io", "mio", "mia", "eu", "meu", "minha", "ik", "mijn", "я", "мой", "моя", "мне", "меня", "我", "我的", "私", "僕", "저", "내",
];

/// The score of each fact, 0–1, counted to the best of those for which `shown` is true.
#[must_use]
pub fn scores(image: &EntityImage, query: &QueryTerms, shown: &[bool]) -> Vec<f64> {
    let mut bm25 = image.postings.scores(&image.postings.all_hits(query));
    for (score, shown) in bm25.iter_mut().zip(shown) {
        if !shown {
            *score = 0.0;
        }
    }
    by_the_best(&mut bm25);
    let named: Vec<bool> = image.subjects.iter().map(|subject| names(query, subject)).collect();
    let facts = &image.facts;
    (0..facts.len())
        .map(|i| {
            let fact = &facts[i];
            let beside = |j: usize| {
                facts.get(j).filter(|other| other.session_id.is_some() && other.session_id == fact.session_id).map_or(0.0, |_| bm25[j])
            };
            let neighbour = beside(i + 1).max(if i > 0 { beside(i - 1) } else { 0.0 });
            let subject = fact.subject_number.is_some_and(|number| named[number as usize]);
            let raw = bm25[i]
                + SUBJECT * f64::from(u8::from(subject))
                + NEIGHBOUR * neighbour
                + LENGTH * length(image.postings.words()[i]);
            rounded(raw / MOST)
        })
        .collect()
}

/// ln(1 + min(words, 60)) as a share of its greatest value.
pub(super) fn length(words: u32) -> f64 {
    f64::from(words.min(60)).ln_1p() / 60.0_f64.ln_1p()
}

/// Six decimals: what is shown is what is sorted by.
pub(super) fn rounded(score: f64) -> f64 {
    (score.clamp(0.0, 1.0) * 1e6).round() / 1e6
}

/// Whether the query names someone by all words of the name.
pub(super) fn names(query: &QueryTerms, name: &[String]) -> bool {
    let spoken = |word: &str| query.spoken.iter().any(|said| said == word || said.strip_suffix("'s") == Some(word));
    if name.len() == 1 && matches!(name[0].as_str(), "user" | "i" | "me") && OWN_WORDS.iter().any(|own| spoken(own)) {
        return true;
    }
    !name.is_empty() && name.iter().all(|word| spoken(word))
}

/// The query's terms for the facts of an entity.
#[must_use]
pub fn query_terms(image: &EntityImage, query: &str) -> QueryTerms {
    text::query(query, image.languages)
}
