//! How much each sign counts, in one table, and what the signs come to for one item.
//!
//! The weights for messages were measured on two public sets of long conversations, one between people and one between a person and
//! an assistant, tuned on one part of both and checked on the rest. With vectors recall@10 is .55–.60 and .81, by words alone .53 and
//! .79, plain BM25 .36 and .61. A fact stands for itself, so its own likeness takes what a message's neighbours have, and a role
//! means nothing. The weights for facts were tuned on `tests/quality/tuning.jsonl`, where recall@10 went from .87 to .88 and MRR from
//! .70 to .73; on `held_out.jsonl`, which took no part, from .88 to .88 and from .71 to .73.

use std::sync::LazyLock;

/// What each sign weighs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// BM25, as a share of the best of the items that may be shown.
    pub bm25: f64,
    /// A person said it; off where the question asks what the assistant said, or for a summary.
    pub role: f64,
    /// The better BM25 of the items before and after it in its session.
    pub neighbour: f64,
    /// The better BM25 of the messages by people two steps away.
    pub person_two_away: f64,
    /// BM25 of its whole session, as a share of the best.
    pub session: f64,
    /// BM25 of what people say within six messages, as a share of the best.
    pub window: f64,
    /// The query names who said it; for a fact, whom it is about.
    pub speaker: f64,
    /// ln(1 + min(words, 60)) / 4.
    pub length: f64,
    /// Cosine with the query, in standard deviations over the entity's items, a quarter of that.
    pub vector: f64,
    /// The same with half of each neighbour's vector added.
    pub vector_context: f64,
    /// The better likeness of its neighbours.
    pub vector_neighbour: f64,
    /// The query asks when, and the item says when; of messages, only where people talk to each other.
    pub time: f64,
    /// The item asks something itself, where people talk to each other.
    pub question: f64,
}

/// Messages, with vectors.
pub const MESSAGES: Weights = Weights {
    bm25: 1.0,
    role: 1.3,
    neighbour: 0.3,
    person_two_away: 0.4,
    session: 0.4,
    window: 0.2,
    speaker: 0.3,
    length: 0.6,
    vector: 0.4,
    vector_context: 0.4,
    vector_neighbour: 0.3,
    time: 0.4,
    question: -0.2,
};

/// Messages, by words alone.
pub const MESSAGES_BY_WORDS: Weights = Weights {
    neighbour: 0.6,
    person_two_away: 0.1,
    speaker: 0.2,
    vector: 0.0,
    vector_context: 0.0,
    vector_neighbour: 0.0,
    ..MESSAGES
};

/// Facts, with vectors.
pub const FACTS: Weights = Weights {
    bm25: 0.5,
    role: 0.0,
    neighbour: 0.1,
    person_two_away: 0.0,
    session: 0.0,
    window: 0.0,
    speaker: 0.3,
    length: 0.2,
    vector: 1.0,
    vector_context: 0.1,
    vector_neighbour: 0.0,
    time: 0.2,
    question: 0.0,
};

/// Facts, by words alone.
pub const FACTS_BY_WORDS: Weights =
    Weights { bm25: 1.0, neighbour: 0.2, length: 0.1, vector: 0.0, vector_context: 0.0, vector_neighbour: 0.0, ..FACTS };

/// What each sign of an item adds to its score.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the signs of `Weights`")]
pub struct Parts {
    pub bm25: f64,
    pub role: f64,
    pub neighbour: f64,
    pub person_two_away: f64,
    pub session: f64,
    pub window: f64,
    pub speaker: f64,
    pub length: f64,
    pub vector: f64,
    pub vector_context: f64,
    pub vector_neighbour: f64,
    pub time: f64,
    pub question: f64,
}

impl Parts {
    /// Each by its name in the API.
    #[must_use]
    pub fn named(&self) -> [(&'static str, f64); 13] {
        [
            ("bm25", self.bm25),
            ("role", self.role),
            ("neighbour", self.neighbour),
            ("person_two_away", self.person_two_away),
            ("session", self.session),
            ("window", self.window),
            ("speaker", self.speaker),
            ("length", self.length),
            ("vector", self.vector),
            ("vector_context", self.vector_context),
            ("vector_neighbour", self.vector_neighbour),
            ("time", self.time),
            ("question", self.question),
        ]
    }

    /// Each as many times.
    #[must_use]
    #[inline]
    pub fn times(self, factor: f64) -> Self {
        Self {
            bm25: self.bm25 * factor,
            role: self.role * factor,
            neighbour: self.neighbour * factor,
            person_two_away: self.person_two_away * factor,
            session: self.session * factor,
            window: self.window * factor,
            speaker: self.speaker * factor,
            length: self.length * factor,
            vector: self.vector * factor,
            vector_context: self.vector_context * factor,
            vector_neighbour: self.vector_neighbour * factor,
            time: self.time * factor,
            question: self.question * factor,
        }
    }

    /// The score.
    #[must_use]
    #[inline]
    pub fn sum(&self) -> f64 {
        self.bm25
            + self.role
            + self.neighbour
            + self.person_two_away
            + self.session
            + self.window
            + self.speaker
            + self.length
            + self.vector
            + self.vector_context
            + self.vector_neighbour
            + self.time
            + self.question
    }
}

/// A score in millionths, which is what items are sorted by: equal to what is shown, and free of the order of sums.
#[must_use]
#[inline]
#[allow(clippy::cast_possible_truncation)] // far below 2^63
pub fn millionths(score: f64) -> i64 {
    let scaled = score * 1e6;
    // Half away from zero; the processor's own rounding is a call on the oldest that we run on.
    (scaled + 0.5_f64.copysign(scaled)) as i64
}

/// A sum of parts as it is shown.
#[must_use]
#[allow(clippy::cast_precision_loss)] // far below 2^52
pub fn raw(millionths: i64) -> f64 {
    millionths as f64 / 1e6
}

/// Where the shown score leaves the straight line at either end.
const BEND: f64 = 0.05;
/// What a likeness of one deviation short of extreme adds at most to what scores are a share of: that of four deviations.
const EXTREME: f64 = 1.0;

impl Weights {
    /// What a score is a share of: all signs at their greatest, where the role counts or not.
    #[must_use]
    pub fn most(&self, role: bool) -> f64 {
        let role = if role { self.role } else { 0.0 };
        let words = self.bm25 + role + self.neighbour + self.person_two_away + self.session + self.window + self.speaker;
        words + self.length * LONGEST + (self.vector + self.vector_context + self.vector_neighbour) * EXTREME
    }
}

/// ln(61) / 4.
const LONGEST: f64 = 1.027_718_5;

/// Words from which on an item is no longer.
const MOST_WORDS: u32 = 60;

/// Of each number of words, since a logarithm for each item costs a fifth of a ranking.
static LENGTHS: LazyLock<Vec<f64>> = LazyLock::new(|| (0..=MOST_WORDS).map(|words| f64::from(words).ln_1p() / 4.0).collect());

/// What the length of an item counts.
#[must_use]
#[inline]
pub fn length(words: u32) -> f64 {
    LENGTHS[words.min(MOST_WORDS) as usize]
}

/// A score as a share of the most, within 0 and 1 and rising with it: a straight line that bends towards either end, since likeness
/// may lie below the mean, or far above it.
#[must_use]
pub fn shown(raw: f64, most: f64) -> f64 {
    let share = raw / most;
    let bent = if share < BEND {
        BEND * ((share - BEND) / BEND).exp()
    } else if share > 1.0 - BEND {
        1.0 - BEND * ((1.0 - BEND - share) / BEND).exp()
    } else {
        share
    };
    (bent * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shown_scores_rise_with_the_raw_ones(a in -9.0..9.0_f64, b in -9.0..9.0_f64) {
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            prop_assert!(shown(low, 3.0) <= shown(high, 3.0));
            prop_assert!((0.0..=1.0).contains(&shown(a, 3.0)));
            prop_assert!((raw(millionths(a)) - a).abs() <= 5e-7);
        }
    }

    #[test]
    fn the_middle_is_a_straight_line() {
        assert_eq!(shown(1.5, 3.0), 0.5);
        assert!((length(60) - LONGEST).abs() < 1e-6 && length(600) == length(60));
    }
}
