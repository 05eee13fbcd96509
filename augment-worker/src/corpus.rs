//! An extractor against turns whose facts were written down by hand: how many of its facts are right (precision), and how many of
//! the expected ones it found (recall), over all, per language and per domain.
//!
//! A turn is one line of JSON. An expected fact is a list of pieces of text that one fact must hold, all of them (`!` in front: it
//! is an instruction), whatever their case. Each expected fact is matched by one fact at most, so that a whole sentence does not
//! count for the two statements in it; every fact that matches none is a mistake.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use memori_schemas::{ContentFormat, ConversationEvent, Fact, FactKind, Message, Micros, Role, Supplied, ids};
use serde::Deserialize;

/// Turns that may be looked at while rules are written.
pub const TUNING: &str = include_str!("../corpus/turns.jsonl");
/// Turns that only measure: written before anyone saw what the extractor makes of them, and never looked at to write a rule.
pub const HELD_BACK: &str = include_str!("../corpus/held-back.jsonl");

/// What a person says, and what is to be learned from it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// What it is about, such as `travel`; `group` is a conversation of several people.
    pub domain: String,
    /// As in ISO 639.
    pub lang: String,
    /// What is said.
    pub text: String,
    /// What is to be learned.
    pub facts: Vec<String>,
    /// Who speaks, where the message says so.
    pub name: Option<String>,
    /// When, RFC 3339.
    pub at: String,
}

/// Why a corpus cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of the corpus is no turn: {reason}")]
pub struct CorpusError {
    line: usize,
    reason: String,
}

/// The turns of a corpus.
///
/// # Errors
/// A line that is no turn.
pub fn turns(corpus: &str) -> Result<Vec<Turn>, CorpusError> {
    let read = |(i, line): (usize, &str)| {
        let broken = |reason: String| CorpusError { line: i + 1, reason };
        let turn: Turn = serde_json::from_str(line).map_err(|error| broken(error.to_string()))?;
        if Micros::parse_rfc3339(&turn.at).is_none() {
            return Err(broken("`at` is no RFC 3339 time".to_owned()));
        }
        Ok(turn)
    };
    corpus.lines().enumerate().map(read).collect()
}

impl Turn {
    /// The event in which a client would post it.
    #[must_use]
    pub fn event(&self) -> ConversationEvent {
        let messages = vec![Message {
            message_id: None,
            role: Role::User,
            name: self.name.clone(),
            content: self.text.clone(),
            content_format: ContentFormat::Text,
            created_at: None,
        }];
        let at = Micros::parse_rfc3339(&self.at).unwrap_or_default();
        ConversationEvent {
            tenant: "t".into(),
            entity_id: "e".into(),
            process_id: None,
            session_id: None,
            event_id: "ev".into(),
            content_hash: ids::content_hash("e", None, &messages, &[]),
            occurred_at: at,
            accepted_at: at,
            messages,
            metadata: Vec::new(),
            supplied: Supplied::default(),
            spooled: false,
            attempt: 0,
            origin: None,
            key_id: None,
        }
    }
}

/// Counts of facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Turns.
    pub turns: usize,
    /// Facts written down by hand.
    pub expected: usize,
    /// Facts that the extractor made.
    pub yielded: usize,
    /// Those that are one another.
    pub matched: usize,
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred facts")]
impl Tally {
    /// The share of the extractor's facts that are right; 1 where it made none.
    #[must_use]
    pub fn precision(&self) -> f64 {
        if self.yielded == 0 { 1.0 } else { self.matched as f64 / self.yielded as f64 }
    }

    /// The share of the expected facts that it found; 1 where there are none.
    #[must_use]
    pub fn recall(&self) -> f64 {
        if self.expected == 0 { 1.0 } else { self.matched as f64 / self.expected as f64 }
    }

    fn add(&mut self, other: Self) {
        self.turns += other.turns;
        self.expected += other.expected;
        self.yielded += other.yielded;
        self.matched += other.matched;
    }
}

/// What an extractor made of a corpus.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// Over all turns.
    pub all: Tally,
    /// Per language.
    pub by_language: BTreeMap<String, Tally>,
    /// Per domain.
    pub by_domain: BTreeMap<String, Tally>,
    /// What was missed and what was needless, a line each.
    pub mistakes: String,
}

/// Holds an extractor against a corpus.
///
/// # Errors
/// A line that is no turn.
pub fn score(corpus: &str, extract: impl Fn(&ConversationEvent) -> Vec<Fact>) -> Result<Score, CorpusError> {
    let mut score = Score::default();
    for turn in turns(corpus)? {
        let tally = of_turn(&turn, &extract(&turn.event()), &mut score.mistakes);
        score.all.add(tally);
        score.by_language.entry(turn.lang).or_default().add(tally);
        score.by_domain.entry(turn.domain).or_default().add(tally);
    }
    Ok(score)
}

fn of_turn(turn: &Turn, facts: &[Fact], mistakes: &mut String) -> Tally {
    let mut free: Vec<&Fact> = facts.iter().collect();
    let mut matched = 0;
    for expected in &turn.facts {
        // The shortest fact that holds it all, so that a whole sentence is left for what only it holds.
        match (0..free.len()).filter(|&i| holds(free[i], expected)).min_by_key(|&i| free[i].text.len()) {
            Some(i) => {
                free.remove(i);
                matched += 1;
            }
            None => {
                let _ = writeln!(mistakes, "  missing  [{}] {expected:?} in {:?}", turn.lang, turn.text);
            }
        }
    }
    for fact in free {
        let _ = writeln!(mistakes, "  needless [{}] {:?} from {:?}", turn.lang, fact.text, turn.text);
    }
    Tally { turns: 1, expected: turn.facts.len(), yielded: facts.len(), matched }
}

fn holds(fact: &Fact, expected: &str) -> bool {
    let (kind, pieces) = match expected.strip_prefix('!') {
        Some(pieces) => (FactKind::Instruction, pieces),
        None => (FactKind::Fact, expected),
    };
    let text = fact.text.to_lowercase().replace('\u{307}', "");
    fact.kind == kind && pieces.split_whitespace().all(|piece| text.contains(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(text: &str, kind: FactKind) -> Fact {
        Fact {
            kind,
            text: text.into(),
            subject: None,
            predicate: None,
            object: None,
            slot: None,
            valid_from: None,
            valid_to: None,
            confidence: 1.0,
            evidence: Vec::new(),
            vector: None,
        }
    }

    #[test]
    fn right_wrong_and_missing_are_told_apart() {
        let corpus = r#"{"domain": "a", "lang": "en", "text": "x", "facts": ["tea green", "!metric", "rome"], "at": "2024-05-15T10:00:00Z"}"#;
        let facts = vec![
            fact("User drinks Green tea", FactKind::Fact),
            fact("Use metric units", FactKind::Instruction),
            fact("Something else", FactKind::Fact),
            fact("Rome", FactKind::Instruction),
        ];
        let score = score(corpus, |_| facts.clone()).unwrap();
        assert_eq!(score.all, Tally { turns: 1, expected: 3, yielded: 4, matched: 2 });
        assert!((score.all.precision() - 0.5).abs() < 1e-9 && (score.all.recall() - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!((score.by_language["en"], score.by_domain["a"]), (score.all, score.all));
        assert_eq!(score.mistakes.lines().count(), 3, "{}", score.mistakes);
    }

    #[test]
    fn one_sentence_does_not_count_twice() {
        let corpus = r#"{"domain": "a", "lang": "en", "text": "x", "facts": ["tea", "rome"], "at": "2024-05-15T10:00:00Z"}"#;
        let score = score(corpus, |_| vec![fact("User drinks tea in Rome", FactKind::Fact)]).unwrap();
        assert_eq!((score.all.matched, score.all.expected), (1, 2));
    }

    #[test]
    fn a_line_that_is_no_turn_is_named() {
        assert_eq!(turns("{}").unwrap_err().line, 1);
        let bad_time = r#"{"domain": "a", "lang": "en", "text": "x", "facts": [], "at": "yesterday"}"#;
        assert!(turns(bad_time).unwrap_err().to_string().contains("RFC 3339"));
    }
}
