//! The `builtin` extractor: rules, no network, no key, no clock. The same event yields the same facts, always.
//!
//! Promises: only messages of role `user` are read; every plain statement in them yields at least one fact, in any script;
//! greetings, questions, requests, code, quoted blocks and recalled context yield none; linear time; bounded output.

mod clean;
mod dates;
mod english;
mod foreign;
mod instructions;
mod junk;
mod sentences;
mod words;

use std::collections::HashMap;

use memori_schemas::{ConversationEvent, Evidence, ExtractorInfo, Fact, FactId, FactKind, Micros, Role};

pub(crate) use self::clean::without_context;
use self::english::{Mentioned, Setting};

/// The extractor's version: a change of what it yields is a change of this.
pub const VERSION: &str = "2";

/// Facts of one event that stand for themselves; what follows is kept in blocks of [`MAX_BLOCK_BYTES`].
const MAX_SINGLE_FACTS: usize = 2_048;
/// Sentences of one event that are parsed; what follows is kept in blocks too.
const MAX_PARSED_SENTENCES: usize = 4_096;
/// The longest text of a fact, in bytes.
const MAX_BLOCK_BYTES: usize = 2_000;
/// Sentences over this many bytes are not parsed, only kept.
const MAX_PARSED_BYTES: usize = 1_000;
/// A run without white space of this many bytes in ASCII is data, not language.
const MAX_ASCII_RUN_BYTES: usize = 300;
/// A speaker's name is cut to this many bytes.
const MAX_NAME_BYTES: usize = 128;

/// Who says "I".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Speaker {
    name: Option<String>,
}

impl Speaker {
    /// The speaker of a message with this `name`.
    pub(crate) fn of(name: Option<&str>) -> Self {
        let name = name.map(|name| name.split_whitespace().collect::<Vec<_>>().join(" "));
        let name = name.map(|name| words::cut(&name, MAX_NAME_BYTES).trim().to_owned());
        Self { name: name.filter(|name| !name.is_empty()) }
    }

    /// The name, else `User`.
    pub(crate) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("User")
    }

    /// Whether the message named its speaker.
    pub(crate) fn is_named(&self) -> bool {
        self.name.is_some()
    }
}

/// One statement of a message, not yet tied to its evidence.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Statement {
    pub(crate) kind: FactKind,
    pub(crate) text: String,
    pub(crate) subject: Option<String>,
    pub(crate) predicate: Option<String>,
    pub(crate) object: Option<String>,
    pub(crate) slot: Option<String>,
    pub(crate) valid_from: Option<Micros>,
    pub(crate) confidence: f32,
}

impl Statement {
    fn whole(text: &str, speaker: &Speaker) -> Self {
        Self {
            kind: FactKind::Fact,
            text: plain_text(text),
            subject: speaker.name.clone(),
            predicate: None,
            object: None,
            slot: None,
            valid_from: None,
            confidence: 0.6,
        }
    }
}

/// A statement's text as it is shown: one line, without the stop that normalisation drops anyway.
pub(crate) fn plain_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    let kept = if out.ends_with("...") {
        out.len()
    } else {
        out.strip_suffix(['.', '!', '。']).map_or(out.len(), |s| s.trim_end().len())
    };
    out.truncate(kept);
    out
}

/// Who this extractor is, for the lineage.
#[must_use]
pub fn info() -> ExtractorInfo {
    ExtractorInfo {
        name: "builtin".into(),
        version: VERSION.into(),
        model: None,
        prompt_hash: None,
        tokens_in: 0,
        tokens_out: 0,
        cost_micros: 0,
    }
}

/// What the users of an event state. Pure; linear in the event's size.
#[must_use]
pub fn extract(event: &ConversationEvent) -> Vec<Fact> {
    let mut facts = Collected::default();
    let mut sentences_left = MAX_PARSED_SENTENCES;
    for (index, message) in event.messages.iter().enumerate().filter(|(_, m)| m.role == Role::User) {
        let speaker = Speaker::of(message.name.as_deref());
        let evidence = Evidence {
            event_id: event.event_id.clone(),
            content_hash: event.content_hash,
            message_key: event.message_key(index),
            message_index: i32::try_from(index).unwrap_or(i32::MAX),
            message_id: event.shown_message_id(index),
            occurred_at: event.occurred_at,
        };
        let said_at = message.created_at.unwrap_or(event.occurred_at);
        of_message(&message.text(), &speaker, said_at, &mut sentences_left, &mut |statement| {
            facts.add(event, statement, &evidence)
        });
    }
    facts.into_facts()
}

/// Facts in the order of their first mention; the same fact once, with every message that supports it.
#[derive(Default)]
struct Collected {
    facts: Vec<Fact>,
    places: HashMap<FactId, usize>,
}

impl Collected {
    /// Adds a statement; answers whether single facts are still welcome.
    fn add(&mut self, event: &ConversationEvent, statement: Statement, evidence: &Evidence) -> bool {
        if statement.text.is_empty() {
            return self.facts.len() < MAX_SINGLE_FACTS;
        }
        let fact = Fact {
            kind: statement.kind,
            text: statement.text,
            subject: statement.subject,
            predicate: statement.predicate,
            object: statement.object,
            slot: statement.slot,
            valid_from: statement.valid_from,
            valid_to: None,
            confidence: statement.confidence,
            evidence: vec![evidence.clone()],
            vector: None,
        };
        // The generation does not matter here: within one event ids are only compared.
        let id = fact.id(&event.entity_key(), 0);
        match self.places.get(&id) {
            Some(place) => {
                let known = &mut self.facts[*place].evidence;
                if known.last().is_none_or(|last| last.message_key != evidence.message_key) {
                    known.push(evidence.clone());
                }
            }
            None => {
                self.places.insert(id, self.facts.len());
                self.facts.push(fact);
            }
        }
        self.facts.len() < MAX_SINGLE_FACTS
    }

    fn into_facts(self) -> Vec<Fact> {
        self.facts
    }
}

/// Hands every statement of one message to `found`, which answers whether single ones are still welcome.
fn of_message(
    text: &str,
    speaker: &Speaker,
    said_at: Micros,
    sentences_left: &mut usize,
    found: &mut dyn FnMut(Statement) -> bool,
) {
    let today = dates::day_of(said_at);
    let text = clean::without_context(text);
    let mut mentioned = Mentioned::default();
    let mut welcome = true;
    let mut block = String::new();
    for paragraph in clean::paragraphs(&text) {
        for sentence in sentences::sentences(&paragraph) {
            *sentences_left = sentences_left.saturating_sub(1);
            if !welcome || *sentences_left == 0 {
                if !block.is_empty() && block.len() + sentence.len() >= MAX_BLOCK_BYTES {
                    found(Statement::whole(&std::mem::take(&mut block), speaker));
                }
                if sentence.len() < MAX_BLOCK_BYTES {
                    if !is_data(sentence) {
                        block.push_str(if block.is_empty() { "" } else { " " });
                        block.push_str(sentence);
                    }
                    continue;
                }
            }
            if sentence.len() > MAX_PARSED_BYTES {
                welcome = of_long_sentence(sentence, speaker, found) && welcome;
                continue;
            }
            let mut setting = Setting { speaker, today, mentioned: &mut mentioned };
            for statement in of_sentence(sentence, &mut setting) {
                welcome = found(statement);
            }
        }
    }
    if !block.is_empty() {
        found(Statement::whole(&block, speaker));
    }
}

/// A sentence too long to parse is kept in blocks that end between words where there are any.
fn of_long_sentence(sentence: &str, speaker: &Speaker, found: &mut dyn FnMut(Statement) -> bool) -> bool {
    let mut welcome = true;
    let mut rest = sentence;
    if junk::is_question(sentence) {
        return welcome;
    }
    while !rest.is_empty() {
        let head = words::cut(rest, MAX_BLOCK_BYTES);
        let end = if head.len() == rest.len() {
            head.len()
        } else {
            head.rfind(char::is_whitespace).filter(|at| *at > 0).unwrap_or(head.len())
        };
        let (block, behind) = rest.split_at(end);
        if !is_data(block) {
            welcome = found(Statement::whole(block, speaker));
        }
        rest = behind.trim_start();
    }
    welcome
}

/// Mostly one run without white space: a key, a blob, a data URL.
fn is_data(text: &str) -> bool {
    text.split_whitespace().any(|run| run.len() > MAX_ASCII_RUN_BYTES && run.is_ascii() && run.len() * 2 > text.len())
}

/// The statements of one sentence, in any language.
fn of_sentence(sentence: &str, setting: &mut Setting<'_>) -> Vec<Statement> {
    let sentence = trimmed(sentence);
    if sentence.is_empty() || junk::is_small_talk(sentence) || sentences::is_quotation(sentence) || is_data(sentence) {
        return Vec::new();
    }
    let speaker = setting.speaker;
    let language = foreign::language(sentence);
    let is_question = junk::is_question(sentence);
    if language == "en" || (language.is_empty() && sentence.is_ascii()) {
        return english::statements(sentence, is_question, setting);
    }
    if is_question {
        return Vec::new();
    }
    if let Some(instruction) = instructions::foreign(sentence, language, speaker) {
        return vec![instruction];
    }
    let clauses = foreign::clauses(sentence, language);
    clauses
        .iter()
        .filter(|clause| !junk::is_small_talk(clause))
        .map(|clause| of_foreign_clause(clause, language, setting))
        .collect()
}

fn of_foreign_clause(clause: &str, language: &str, setting: &Setting<'_>) -> Statement {
    let speaker = setting.speaker;
    let mut statement = Statement::whole(&dates::annotate(clause, language, setting.today), speaker);
    if let Some(cue) = foreign::cue(clause, language) {
        statement.slot = cue.slot_of(speaker.name());
        statement.subject = Some(speaker.name().to_owned());
        statement.predicate = Some(cue.predicate.to_owned());
        statement.object = Some(cue.object);
        statement.confidence = 0.8;
    }
    statement
}

/// Without marks and emojis at its ends that say nothing.
fn trimmed(sentence: &str) -> &str {
    let is_ornament =
        |c: char| c.is_whitespace() || matches!(c, '\u{2190}'..='\u{2bff}' | '\u{fe0f}' | '\u{1f000}'..='\u{1faff}' | '•' | '·');
    sentence.trim_matches(is_ornament)
}

#[cfg(test)]
mod tests;
