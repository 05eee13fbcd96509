//! Ranking of facts by words.
//!
//! A fact is self-contained, so unlike a message it owes little to its neighbours and nothing to a speaker's role:
//! score = (1·B + .3·spk + .2·B_nb + .1·len) ÷ the most that can be, where B is BM25 ÷ the best of those that may be shown, spk is 1
//! where the query names the fact's subject, B_nb is the better B of the facts before and after it in its session, and len grows
//! with its words. Nothing is ranked by recency; that only breaks ties.

use super::bm25::by_the_best;
use super::image::EntityImage;
use super::text::QueryTerms;

const SUBJECT: f64 = 0.3;
const NEIGHBOUR: f64 = 0.2;
const LENGTH: f64 = 0.1;
const MOST: f64 = 1.0 + SUBJECT + NEIGHBOUR + LENGTH;

/// Words by which the user speaks of themselves: they name the subject `user`.
const OWN_WORDS: &[&str] = &[
    "i", "i'm", "i've", "me", "my", "mine", "ich", "mein", "meine", "meinen", "mir", "mich", "je", "j'ai", "mon", "ma", "mes",
    "moi", "yo", "mi", "mis", "io", "mio", "mia", "eu", "meu", "minha", "ik", "mijn", "я", "мой", "моя", "мне", "меня", "我",
    "我的", "私", "僕", "저", "내",
];

/// What a query matches among the facts of an entity, before anything is left out.
pub struct Matches {
    bm25: Vec<f64>,
    named: Vec<bool>,
}

impl Matches {
    /// Looks the query up.
    #[must_use]
    pub fn of(image: &EntityImage, query: &QueryTerms) -> Self {
        Self {
            bm25: image.postings.scores(&image.postings.all_hits(query)),
            named: image.subjects.iter().map(|subject| names(query, subject)).collect(),
        }
    }

    /// The score of each fact, 0–1, counted to the best of those for which `shown` is true; only theirs mean anything.
    #[must_use]
    pub fn scores(&self, image: &EntityImage, shown: &[bool]) -> Vec<f64> {
        let mut bm25: Vec<f64> = self.bm25.iter().zip(shown).map(|(score, shown)| if *shown { *score } else { 0.0 }).collect();
        by_the_best(&mut bm25);
        let facts = &image.facts;
        let beside = |i: usize, j: usize| match facts.get(j) {
            Some(other) if other.session_id.is_some() && other.session_id == facts[i].session_id => bm25[j],
            _ => 0.0,
        };
        facts
            .iter()
            .enumerate()
            .map(|(i, fact)| {
                let neighbour = beside(i, i + 1).max(i.checked_sub(1).map_or(0.0, |before| beside(i, before)));
                let subject = fact.subject_number.is_some_and(|number| self.named[number as usize]);
                let raw = bm25[i]
                    + SUBJECT * f64::from(u8::from(subject))
                    + NEIGHBOUR * neighbour
                    + LENGTH * length(image.postings.words()[i]);
                rounded(raw / MOST)
            })
            .collect()
    }
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
