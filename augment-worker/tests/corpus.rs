//! The builtin extractor against turns whose facts were written down by hand: precision and recall, as a floor under changes.
//!
//! `corpus/turns.jsonl` may be looked at while rules are written; `corpus/held-back.jsonl` only measures. An expected fact is a list of
//! pieces of text that one fact must hold, all of them (`!` in front: it is an instruction). Each expected fact is matched by one fact
//! at most, so that a whole sentence does not count for the two statements in it.

use std::fmt::Write as _;

use memori_augment_worker::builtin::extract;
use memori_schemas::{ContentFormat, ConversationEvent, Fact, FactKind, Message, Micros, Role, Supplied, ids};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Turn {
    #[expect(dead_code, reason = "for whoever reads the corpus")]
    domain: String,
    lang: String,
    text: String,
    facts: Vec<String>,
    name: Option<String>,
    at: String,
}

impl Turn {
    fn event(&self) -> ConversationEvent {
        let messages = vec![Message {
            message_id: None,
            role: Role::User,
            name: self.name.clone(),
            content: self.text.clone(),
            content_format: ContentFormat::Text,
            created_at: None,
        }];
        let at = Micros::parse_rfc3339(&self.at).expect("a time");
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

#[derive(Default)]
struct Score {
    expected: usize,
    yielded: usize,
    matched: usize,
    misses: String,
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred facts")]
impl Score {
    fn precision(&self) -> f64 {
        self.matched as f64 / self.yielded.max(1) as f64
    }

    fn recall(&self) -> f64 {
        self.matched as f64 / self.expected.max(1) as f64
    }

    fn add(&mut self, turn: &Turn, facts: &[Fact]) {
        let mut free: Vec<&Fact> = facts.iter().collect();
        self.expected += turn.facts.len();
        self.yielded += facts.len();
        for expected in &turn.facts {
            // The shortest fact that holds it all, so that a whole sentence is left for what only it holds.
            let best = (0..free.len()).filter(|&i| holds(free[i], expected)).min_by_key(|&i| free[i].text.len());
            match best {
                Some(i) => {
                    free.remove(i);
                    self.matched += 1;
                }
                None => {
                    let _ = writeln!(self.misses, "  missing  [{}] {:?} in {:?}", turn.lang, expected, turn.text);
                }
            }
        }
        for fact in free {
            let _ = writeln!(self.misses, "  needless [{}] {:?} from {:?}", turn.lang, fact.text, turn.text);
        }
    }
}

fn holds(fact: &Fact, expected: &str) -> bool {
    let (kind, pieces) = match expected.strip_prefix('!') {
        Some(pieces) => (FactKind::Instruction, pieces),
        None => (FactKind::Fact, expected),
    };
    let text = fact.text.to_lowercase().replace('\u{307}', "");
    fact.kind == kind && pieces.split_whitespace().all(|piece| text.contains(piece))
}

fn score(corpus: &str) -> (Score, usize) {
    let mut score = Score::default();
    let mut turns = 0;
    for line in corpus.lines() {
        let turn: Turn = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        score.add(&turn, &extract(&turn.event()));
        turns += 1;
    }
    (score, turns)
}

#[expect(clippy::print_stdout, reason = "the figures are what the test is for")]
fn guard(name: &str, corpus: &str, floor: (f64, f64)) {
    let (score, turns) = score(corpus);
    println!(
        "{name}: {turns} turns, {} facts expected, precision {:.3}, recall {:.3}",
        score.expected,
        score.precision(),
        score.recall()
    );
    print!("{}", score.misses);
    assert!(score.precision() >= floor.0, "precision {:.3} is under {}\n{}", score.precision(), floor.0, score.misses);
    assert!(score.recall() >= floor.1, "recall {:.3} is under {}\n{}", score.recall(), floor.1, score.misses);
}

#[test]
fn the_turns_that_rules_were_written_for() {
    guard("turns", include_str!("../corpus/turns.jsonl"), (0.90, 0.90));
}

#[test]
fn the_turns_that_were_held_back() {
    guard("held back", include_str!("../corpus/held-back.jsonl"), (0.85, 0.80));
}
