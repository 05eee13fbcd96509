//! Ranking of messages by words: the measured recipe without vectors.
//!
//! score = (1·B + 1.3·role + .6·B_nb + .1·B_nb2 + .4·sb + .2·win + .2·spk + .6·len) ÷ the most that can be. B: BM25 ÷ the best; role: a
//! person said it (off where the query asks what the assistant said, or for a summary); B_nb: the better neighbour in the session;
//! B_nb2: the better person-written message two steps away; sb: BM25 of the whole session ÷ the best; win: BM25 of people's words
//! within six messages ÷ the best; spk: the query names the speaker; len: ln(1 + min(words, 60)) / 4.

use memori_schemas::Role;

use super::bm25::{Hit, add_word, by_the_best, mean};
use super::image::{MessageImage, window};
use super::rank_facts::{length, names, rounded};
use super::text::QueryTerms;

const ROLE: f64 = 1.3;
const NEIGHBOUR: f64 = 0.6;
const SECOND_NEIGHBOUR: f64 = 0.1;
const SESSION: f64 = 0.4;
const AROUND: f64 = 0.2;
const SPEAKER: f64 = 0.2;
/// .6 · ln(61) / 4.
const LENGTH: f64 = 0.616_63;

/// The score of each message, 0–1, counted to the best of those for which `shown` is true.
#[must_use]
pub fn scores(image: &MessageImage, query: &QueryTerms, shown: &[bool]) -> Vec<f64> {
    let hits = image.postings.all_hits(query);
    let mut bm25 = image.postings.scores(&hits);
    let best_shown = bm25.iter().zip(shown).filter(|(_, shown)| **shown).map(|(score, _)| *score).fold(0.0, f64::max);
    if best_shown > 0.0 {
        for score in &mut bm25 {
            *score = (*score / best_shown).min(1.0);
        }
    }
    let mut of_session = sessions(image, &hits);
    by_the_best(&mut of_session);
    let mut around = windows(image, &hits);
    by_the_best(&mut around);
    let named: Vec<bool> = image.speakers.iter().map(|speaker| names(query, speaker)).collect();
    let role_weight = if asks_for_the_assistant(query) { 0.0 } else { ROLE };
    let most = 1.0 + role_weight + NEIGHBOUR + SECOND_NEIGHBOUR + SESSION + AROUND + SPEAKER + LENGTH;

    image
        .messages
        .iter()
        .enumerate()
        .map(|(i, message)| {
            let session = &image.sessions[image.session_of[i] as usize];
            let at = |j: Option<usize>| j.filter(|j| session.contains(j));
            let neighbour = [i.checked_sub(1), i.checked_add(1)].into_iter().filter_map(at).map(|j| bm25[j]).fold(0.0, f64::max);
            let second = [i.checked_sub(2), i.checked_add(2)]
                .into_iter()
                .filter_map(at)
                .filter(|j| image.messages[*j].role == Role::User)
                .map(|j| bm25[j])
                .fold(0.0, f64::max);
            let person = f64::from(u8::from(message.role == Role::User));
            let speaker = f64::from(u8::from(message.speaker_number.is_some_and(|number| named[number as usize])));
            let raw = bm25[i]
                + role_weight * person
                + NEIGHBOUR * neighbour
                + SECOND_NEIGHBOUR * second
                + SESSION * of_session[image.session_of[i] as usize]
                + AROUND * around[i]
                + SPEAKER * speaker
                + LENGTH * length(image.postings.words()[i]);
            rounded(raw / most)
        })
        .collect()
}

/// BM25 with each session as one document.
fn sessions(image: &MessageImage, hits: &[(f64, Vec<Hit>)]) -> Vec<f64> {
    let mut scores = vec![0.0; image.sessions.len()];
    let mean_words = mean(&image.session_words);
    for (weight, hits) in hits {
        // Messages stand session by session, so the hits of one session lie together.
        let grouped: Vec<Hit> = hits
            .chunk_by(|a, b| image.session_of[a.document as usize] == image.session_of[b.document as usize])
            .map(|run| Hit { document: image.session_of[run[0].document as usize], count: run.iter().map(|hit| hit.count).sum() })
            .collect();
        add_word(&mut scores, *weight, &grouped, &image.session_words, mean_words);
    }
    scores
}

/// BM25 with, for each message, what people say around it as one document.
fn windows(image: &MessageImage, hits: &[(f64, Vec<Hit>)]) -> Vec<f64> {
    let mut scores = vec![0.0; image.messages.len()];
    let mean_words = mean(&image.window_words);
    let mut counts = vec![0.0; image.messages.len()];
    for (weight, hits) in hits {
        let mut touched: Vec<u32> = Vec::new();
        for hit in hits {
            let i = hit.document as usize;
            if image.messages[i].role != Role::User {
                continue;
            }
            for j in window(&image.sessions[image.session_of[i] as usize], i) {
                if counts[j] == 0.0 {
                    touched.push(u32::try_from(j).expect("an entity has fewer than 2^32 messages"));
                }
                counts[j] += hit.count;
            }
        }
        touched.sort_unstable();
        let grouped: Vec<Hit> =
            touched.iter().map(|j| Hit { document: *j, count: std::mem::take(&mut counts[*j as usize]) }).collect();
        add_word(&mut scores, *weight, &grouped, &image.window_words, mean_words);
    }
    scores
}

/// Whether the query is after what the assistant said, or after a summary: then people's words are not preferred.
#[must_use]
pub fn asks_for_the_assistant(query: &QueryTerms) -> bool {
    const ADDRESS: &[&str] = &[
        "you",
        "your",
        "du",
        "dein",
        "deine",
        "tu",
        "ton",
        "ta",
        "te",
        "tú",
        "você",
        "je",
        "jij",
        "ты",
        "你",
        "您",
        "assistant",
    ];
    const SAYING: &[&str] = &[
        "said",
        "say",
        "told",
        "tell",
        "suggested",
        "suggest",
        "recommended",
        "recommend",
        "recommendation",
        "recommendations",
        "suggestion",
        "suggestions",
        "answer",
        "answered",
        "replied",
        "reply",
        "advice",
        "advised",
        "explained",
        "mentioned",
        "provided",
        "gave",
        "wrote",
        "listed",
        "gesagt",
        "empfohlen",
        "vorgeschlagen",
        "geantwortet",
        "dit",
        "recommandé",
        "conseillé",
        "suggéré",
        "dijiste",
        "recomendaste",
        "sugeriste",
        "сказал",
        "посоветовал",
        "рекомендовал",
        "说",
        "建议",
        "推荐",
    ];
    const SUMMARY: &[&str] =
        &["summary", "summarize", "summarise", "recap", "overview", "zusammenfassung", "résumé", "resumen", "总结"];
    let any = |list: &[&str]| query.spoken.iter().any(|word| list.contains(&word.as_str()));
    any(SUMMARY)
        || query.spoken.iter().any(|word| word == "assistant")
        || (any(ADDRESS) && any(SAYING) && !asks_to_be_told(query))
}

/// `Can you tell me …` asks for anything at all, not for what was said.
fn asks_to_be_told(query: &QueryTerms) -> bool {
    query.spoken.windows(3).any(|three| {
        matches!(three[0].as_str(), "can" | "could" | "would" | "will" | "please" | "do")
            && three[1] == "you"
            && matches!(three[2].as_str(), "tell" | "say" | "suggest" | "recommend" | "answer" | "reply")
    })
}

#[cfg(test)]
mod tests {
    use memori_schemas::{ContentFormat, ContentHash, EntityKey, MessageKey};

    use super::*;
    use crate::reads::rows::{MessageRow, MessageRows};
    use crate::recall::text;

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
        MessageImage::build(&EntityKey([1; 16]), MessageRows { version: Some(1), messages, ..MessageRows::default() }, None)
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
        let shown = vec![true; SAID.len()];
        let (mut plain, mut ours) = (0.0, 0.0);
        for (question, wanted) in ASKED {
            let query = text::query(question, image.languages);
            plain += reciprocal_rank(&image.postings.scores(&image.postings.all_hits(&query)), *wanted);
            ours += reciprocal_rank(&scores(&image, &query, &shown), *wanted);
        }
        let of = f64::from(u32::try_from(ASKED.len()).unwrap());
        assert!(ours / of >= 0.9 && ours > plain + 0.5, "{} against {}", ours / of, plain / of);
    }

    #[test]
    fn the_assistants_words_count_when_they_are_asked_for() {
        let image = image(SAID);
        let shown = vec![true; SAID.len()];
        let first = |question: &str| {
            let scores = scores(&image, &text::query(question, image.languages), &shown);
            (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap()
        };
        assert_eq!(SAID[first("what did you say about cumin and lentils")].1, Role::Assistant);
        assert_eq!(SAID[first("lentils with cumin")].1, Role::User);
        for (question, asked) in [
            ("what did you recommend", true),
            ("give me a summary of the trip", true),
            ("can you tell me where I live", false),
            ("where do I live", false),
        ] {
            assert_eq!(asks_for_the_assistant(&text::query(question, image.languages)), asked, "{question}");
        }
    }

    #[test]
    fn neighbours_are_never_those_of_another_session() {
        let image = image(&[("1", Role::User, "apples"), ("2", Role::User, "pears"), ("2", Role::User, "plums")]);
        let scores = scores(&image, &text::query("apples", image.languages), &[true; 3]);
        assert_eq!(scores[1], scores[2], "both know nothing of apples");
        assert!(scores[0] > scores[1]);
    }
}
