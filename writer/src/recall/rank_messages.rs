//! Ranking of messages: the measured recipe of [`super::recipe`].

use memori_embedding::Embedding;

use super::asks::Asks;
use super::items::{Likeness, WordHits, beside, rarity, saturated};
use super::messages::MessageImage;
use super::recipe::{self, Parts, Weights, length};
use super::text::QueryTerms;

/// What a query matches among the messages of an entity, counted to the best of those that may be shown.
pub struct Matches<'a> {
    image: &'a MessageImage,
    weights: &'static Weights,
    role: bool,
    when: bool,
    /// Divided by the best that may be shown.
    bm25: Vec<f64>,
    of_session: Vec<f64>,
    around: Vec<f64>,
    named: Vec<bool>,
    likeness: Likeness,
}

impl<'a> Matches<'a> {
    /// Looks the query up; with a vector, where the image has vectors of its model.
    #[must_use]
    pub fn of(image: &'a MessageImage, query: &QueryTerms, asks: Asks, vector: Option<&Embedding>, shown: &[bool]) -> Self {
        let mut scores = ByWords::of(image);
        for word in &query.words {
            scores.add(word.weight, |hits| image.items.hits(word, hits));
        }
        let ByWords { mut bm25, mut of_session, mut around, .. } = scores;
        let best = bm25.iter().zip(shown).filter(|(_, shown)| **shown).map(|(score, _)| *score).fold(0.0, f64::max);
        if best > 0.0 {
            for score in &mut bm25 {
                *score = (*score / best).min(1.0);
            }
        }
        by_the_best(&mut of_session);
        by_the_best(&mut around);
        let likeness = vector
            .zip(image.vectors.as_ref())
            .map(|(vector, index)| index.likeness(image.items.vectors(&index.model), &image.session_of, vector));
        Self {
            image,
            weights: if likeness.is_some() { &recipe::MESSAGES } else { &recipe::MESSAGES_BY_WORDS },
            role: !asks.assistant && !asks.summary,
            when: asks.when,
            bm25,
            of_session,
            around,
            named: image.speakers.iter().map(|speaker| query.names(speaker)).collect(),
            likeness: likeness.unwrap_or_default(),
        }
    }

    /// What a score is a share of.
    #[must_use]
    pub fn most(&self) -> f64 {
        self.weights.most(self.role)
    }

    /// What each sign adds to the score of a message.
    #[must_use]
    #[inline]
    pub fn parts(&self, number: usize) -> Parts {
        let Self { image, weights, bm25, likeness, .. } = self;
        let (mut beside_bm25, mut beside_like) = (0.0_f64, None::<f32>);
        for other in beside(&image.session_of, number, 1).into_iter().flatten() {
            beside_bm25 = beside_bm25.max(bm25[other]);
            // What has no vector is like nothing, and neither better nor worse than what has one.
            if let Some(like) = likeness.own.get(other).filter(|like| **like != 0.0) {
                beside_like = Some(beside_like.map_or(*like, |best| best.max(*like)));
            }
        }
        let two_away = beside(&image.session_of, number, 2).into_iter().flatten().filter(|other| image.by_a_person(*other));
        let two_away = two_away.map(|other| bm25[other]).fold(0.0, f64::max);
        let session = image.session_of[number] as usize;
        let among_people = image.among_people[session];
        let like = |of: &[f32]| of.get(number).copied().map_or(0.0, f64::from);
        let yes = |holds: bool| f64::from(u8::from(holds));
        let speaker = image.speakers_of[number] as usize;
        Parts {
            bm25: weights.bm25 * bm25[number],
            role: weights.role * yes(self.role && image.by_a_person(number)),
            neighbour: weights.neighbour * beside_bm25,
            person_two_away: weights.person_two_away * two_away,
            session: weights.session * self.of_session[session],
            window: weights.window * self.around[number],
            speaker: weights.speaker * yes(self.named.get(speaker).copied().unwrap_or(false)),
            length: weights.length * length(image.items.words[number]),
            vector: weights.vector * like(&likeness.own),
            vector_context: weights.vector_context * like(&likeness.with_neighbours),
            vector_neighbour: weights.vector_neighbour * beside_like.map_or(0.0, f64::from),
            time: weights.time * yes(self.when && among_people && image.is_dated(number)),
            question: weights.question * yes(among_people && image.is_question(number)),
        }
    }
}

/// BM25 of messages, of sessions as one document each, and for each message of what people say around it as one document.
struct ByWords<'a> {
    image: &'a MessageImage,
    bm25: Vec<f64>,
    of_session: Vec<f64>,
    around: Vec<f64>,
    hits: WordHits,
    sessions: Grouped,
    windows: Grouped,
}

/// Counts of one word summed over groups of messages.
#[derive(Default)]
struct Grouped {
    counts: Vec<u32>,
    touched: Vec<u32>,
}

impl Grouped {
    fn of(groups: usize) -> Self {
        Self { counts: vec![0; groups], touched: Vec::new() }
    }

    #[inline]
    fn add(&mut self, group: u32, count: u16) {
        let known = &mut self.counts[group as usize];
        if *known == 0 {
            self.touched.push(group);
        }
        *known += u32::from(count);
    }

    /// Adds the word's part to the scores of the groups that have it, and is ready for the next.
    fn score(&mut self, weight: f64, words: &[u32], mean_words: f64, scores: &mut [f64]) {
        let rarity = rarity(weight, words.len(), self.touched.len());
        for group in self.touched.drain(..) {
            let group = group as usize;
            let count = f64::from(std::mem::take(&mut self.counts[group]));
            scores[group] += rarity * saturated(count, words[group], mean_words);
        }
    }
}

impl<'a> ByWords<'a> {
    fn of(image: &'a MessageImage) -> Self {
        let (messages, sessions) = (image.len(), image.sessions.len());
        Self {
            image,
            bm25: vec![0.0; messages],
            of_session: vec![0.0; sessions],
            around: vec![0.0; messages],
            hits: WordHits::default(),
            sessions: Grouped::of(sessions),
            windows: Grouped::of(messages),
        }
    }

    fn add(&mut self, weight: f64, hits: impl FnOnce(&mut WordHits)) {
        hits(&mut self.hits);
        let image = self.image;
        self.hits.add(weight, (&image.items.words, image.items.mean_words), &mut self.bm25);
        for message in &self.hits.items {
            let (number, count) = (*message as usize, self.hits.counts[*message as usize]);
            self.sessions.add(image.session_of[number], count);
            if image.by_a_person(number) {
                for other in image.window(number) {
                    self.windows.add(u32::try_from(other).expect("an entity has fewer than 2^32 messages"), count);
                }
            }
        }
        self.sessions.score(weight, &image.session_words, image.mean_session_words, &mut self.of_session);
        self.windows.score(weight, &image.window_words, image.mean_window_words, &mut self.around);
        self.hits.clear();
    }
}

/// Divides by the greatest, where that is above 0.
fn by_the_best(scores: &mut [f64]) {
    let best = scores.iter().copied().fold(0.0, f64::max);
    if best > 0.0 {
        for score in scores {
            *score /= best;
        }
    }
}

#[cfg(test)]
mod tests {
    use memori_schemas::{ContentFormat, ContentHash, EntityKey, MessageKey, Role};

    use super::*;
    use crate::reads::rows::{MessageRow, MessageRows};
    use crate::recall::text;

    fn scores(image: &MessageImage, question: &str) -> Vec<f64> {
        let query = text::query(question, image.languages);
        let asks = Asks::of(question, &query.spoken);
        let matches = Matches::of(image, &query, asks, None, &vec![true; image.len()]);
        (0..image.len()).map(|number| matches.parts(number).sum()).collect()
    }

    fn image(said: &[(&str, Role, &str)]) -> MessageImage {
        let messages = (0_i64..)
            .zip(said)
            .map(|(n, (session, role, content))| {
                let mut key = [0; 16];
                key[..8].copy_from_slice(&n.to_be_bytes());
                MessageRow {
                    message_key: MessageKey(key),
                    event_id: format!("e{n:03}"),
                    content_hash: ContentHash([0; 32]),
                    message_index: 0,
                    message_id: format!("e{n}#0"),
                    role: *role,
                    name: None,
                    content: (*content).to_owned(),
                    content_format: ContentFormat::Text,
                    created_at_us: None,
                    process_id: None,
                    session_id: Some((*session).to_owned()),
                    occurred_at_us: n * 1_000_000,
                    vector: None,
                }
            })
            .collect();
        MessageImage::build(&EntityKey([1; 16]), MessageRows { version: Some(1), messages, ..MessageRows::default() }, None, None)
    }

    /// Conversations in which the assistant repeats the user's words at length, and answers follow in other words.
    const SAID: &[(&str, Role, &str)] = &[
        ("1", Role::User, "I finally adopted a puppy yesterday"),
        (
            "1",
            Role::Assistant,
            "How wonderful that you adopted a puppy! A puppy needs food, a puppy needs walks, and the name of a puppy matters",
        ),
        ("1", Role::User, "We call him Biscuit"),
        ("1", Role::Assistant, "Biscuit is a lovely choice"),
        ("2", Role::User, "What should I cook with lentils tonight?"),
        (
            "2",
            Role::Assistant,
            "Lentils cook in twenty minutes. Lentils go well with cumin. For dinner lentils with rice are a classic dish",
        ),
        ("2", Role::User, "No onions please, I am allergic to them"),
        (
            "2",
            Role::Assistant,
            "Understood, lentils without onions. Many people are allergic to onions, and an onion allergy asks for care",
        ),
        ("3", Role::User, "My flight to Lisbon leaves on the ninth"),
        (
            "3",
            Role::Assistant,
            "A flight to Lisbon takes three hours. For your flight bring a passport; the flight board shows every flight",
        ),
        ("3", Role::User, "I booked the hotel near the river"),
        ("3", Role::Assistant, "Hotels by the river are popular with people who book late"),
    ];

    const ASKED: &[(&str, usize)] = &[
        ("what is the name of my puppy", 2),
        ("when did I adopt the puppy", 0),
        ("what food am I allergic to, onions?", 6),
        ("when is my flight to Lisbon", 8),
        ("which hotel did I book", 10),
    ];

    fn reciprocal_rank(scores: &[f64], wanted: usize) -> f64 {
        let better = scores.iter().filter(|score| **score > scores[wanted]).count();
        1.0 / f64::from(u32::try_from(better + 1).unwrap())
    }

    #[test]
    fn the_recipe_beats_plain_bm25() {
        let image = image(SAID);
        let (mut plain, mut ours) = (0.0, 0.0);
        for (question, wanted) in ASKED {
            let query = text::query(question, image.languages);
            let matches = Matches::of(&image, &query, Asks::default(), None, &[true; 12]);
            plain += reciprocal_rank(&matches.bm25, *wanted);
            ours += reciprocal_rank(&scores(&image, question), *wanted);
        }
        let of = f64::from(u32::try_from(ASKED.len()).unwrap());
        assert!(ours / of >= 0.9 && ours > plain + 0.5, "{} against {}", ours / of, plain / of);
    }

    #[test]
    fn the_assistants_words_count_when_they_are_asked_for() {
        let image = image(SAID);
        let first = |question: &str| {
            let scores = scores(&image, question);
            (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap()
        };
        assert_eq!(SAID[first("what did you say about cumin and lentils")].1, Role::Assistant);
        assert_eq!(SAID[first("lentils with cumin")].1, Role::User);
    }

    #[test]
    fn neighbours_are_never_those_of_another_session() {
        let image = image(&[("1", Role::User, "apples"), ("2", Role::User, "pears"), ("2", Role::User, "plums")]);
        let scores = scores(&image, "apples");
        assert_eq!(scores[1], scores[2], "both know nothing of apples");
        assert!(scores[0] > scores[1]);
    }
}
