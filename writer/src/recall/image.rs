//! What is known about one entity, laid out for recall: facts with their words indexed, and apart from them the messages.
//!
//! Promises: built from the rows alone, the same from the same rows in any order; a text that an earlier image has taken apart is
//! not taken apart again; [`EntityImage::bytes`] is what it holds, about.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use memori_schemas::{ContentFormat, ContentHash, EntityKey, FactId, FactKind, Message, MessageKey, Micros, Role};

use super::bm25::Postings;
use super::islands;
use super::language::Languages;
use super::text::{self, DocumentTerms};
use crate::reads::rows::{FactRow, FactRows, MentionRow, MessageRows, UnnamedRow};

/// Messages on each side whose words count for a message.
const WINDOW: usize = 6;

/// A message that supports a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its event.
    pub event_id: String,
    /// As the API shows it.
    pub message_id: String,
    /// As given, or its island; none while the event itself has not arrived.
    pub session_id: Option<Arc<str>>,
    /// When it was said, µs.
    pub occurred_at_us: i64,
}

/// When a fact holds, µs; open ended where `to_us` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// From then on.
    pub from_us: i64,
    /// Until before then.
    pub to_us: Option<i64>,
}

/// A fact as recall sees it.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields of the API")]
pub struct FactItem {
    pub fact_id: FactId,
    pub kind: FactKind,
    pub content: String,
    pub subject: Option<String>,
    pub predicate: Option<String>,
    pub object: Option<String>,
    pub confidence: f64,
    pub occurred_at_us: i64,
    pub first_mentioned_at_us: i64,
    pub last_mentioned_at_us: i64,
    pub mentions: i64,
    pub extractor: Arc<str>,
    /// In order; never empty.
    pub intervals: Box<[Interval]>,
    /// Each message once, in conversation order.
    pub sources: Box<[Source]>,
    /// Of all mentions.
    pub processes: Box<[Arc<str>]>,
    /// Of all mentions.
    pub sessions: Box<[Arc<str>]>,
    /// The session of the mention that words it.
    pub session_id: Option<Arc<str>>,
    /// Which of [`EntityImage::subjects`].
    pub subject_number: Option<u32>,
    terms: Arc<DocumentTerms>,
}

/// All facts of an entity in one generation, in the order of the mentions that word them.
#[derive(Default)]
pub struct EntityImage {
    /// The entity's version that it shows.
    pub version: Option<i64>,
    /// As in [`crate::reads::rows::EntityVersion`].
    pub epoch: i64,
    /// The generation that it shows.
    pub generation: i32,
    /// In conversation order.
    pub facts: Vec<FactItem>,
    /// The distinct subjects, as folded words.
    pub subjects: Vec<Vec<String>>,
    /// The languages of the facts.
    pub languages: Languages,
    /// Where words stand in the facts.
    pub postings: Postings,
    /// What it holds, about.
    pub bytes: usize,
}

/// A message as recall sees it.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields of the API")]
pub struct MessageItem {
    pub message_key: MessageKey,
    pub message_id: String,
    pub event_id: String,
    pub message_index: i64,
    pub session_id: Option<Arc<str>>,
    pub process_id: Option<Arc<str>>,
    pub role: Role,
    pub name: Option<String>,
    pub content: String,
    pub content_format: ContentFormat,
    pub created_at_us: Option<i64>,
    pub occurred_at_us: i64,
    /// Which of [`MessageImage::speakers`].
    pub speaker_number: Option<u32>,
    terms: Arc<DocumentTerms>,
}

impl MessageItem {
    /// What was said, as text.
    #[must_use]
    pub fn text(&self) -> String {
        spoken_text(&self.content, self.content_format)
    }
}

/// All messages of an entity, each once, session by session and in conversation order within.
#[derive(Default)]
pub struct MessageImage {
    /// The entity's version that it shows.
    pub version: Option<i64>,
    /// As in [`crate::reads::rows::EntityVersion`].
    pub epoch: i64,
    /// Session by session.
    pub messages: Vec<MessageItem>,
    /// The numbers of the messages in conversation order over all sessions.
    pub conversation: Vec<u32>,
    /// The sessions as ranges of messages.
    pub sessions: Vec<Range<usize>>,
    /// The session of each message.
    pub session_of: Vec<u32>,
    /// Words of each session.
    pub session_words: Vec<u32>,
    /// Words that people say around each message.
    pub window_words: Vec<u32>,
    /// The distinct names, as folded words.
    pub speakers: Vec<Vec<String>>,
    /// The languages of the messages.
    pub languages: Languages,
    /// Where words stand in the messages.
    pub postings: Postings,
    /// What it holds, about.
    pub bytes: usize,
}

/// The messages around message `i` that share its window.
#[must_use]
pub fn window(session: &Range<usize>, i: usize) -> Range<usize> {
    i.saturating_sub(WINDOW).max(session.start)..(i + WINDOW + 1).min(session.end)
}

/// Each distinct text once.
#[derive(Default)]
struct Interned(HashSet<Arc<str>>);

impl Interned {
    fn of(&mut self, text: &str) -> Arc<str> {
        match self.0.get(text) {
            Some(known) => known.clone(),
            None => {
                let new: Arc<str> = text.into();
                self.0.insert(new.clone());
                new
            }
        }
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|text| text.len() + 32).sum()
    }
}

/// Each distinct name once, as folded words.
#[derive(Default)]
struct Names(HashMap<String, u32>, Vec<Vec<String>>);

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        let number = u32::try_from(self.1.len()).expect("an entity has fewer than 2^32 names");
        self.0.insert(name.to_owned(), number);
        self.1.push(text::words(name));
        number
    }
}

type EventPlace<'a> = (&'a str, ContentHash);

fn sessions_of_unnamed<'a>(
    entity_key: &EntityKey,
    unnamed: &'a [UnnamedRow],
    interned: &mut Interned,
) -> HashMap<EventPlace<'a>, Arc<str>> {
    let events: Vec<islands::Unnamed> = unnamed.iter().map(|row| row.event.clone()).collect();
    let ids = islands::islands(entity_key, &events);
    unnamed
        .iter()
        .zip(ids)
        .map(|(row, id)| ((row.event.event_id.as_str(), row.content_hash), interned.of(&id.to_string())))
        .collect()
}

/// The words that a text is found by: its own, and its date's.
fn dated_terms(content: &str, occurred_at_us: i64) -> DocumentTerms {
    let date = jiff::Timestamp::from_microsecond(occurred_at_us)
        .map(|instant| instant.to_zoned(jiff::tz::TimeZone::UTC).strftime("%B %-d %Y").to_string())
        .unwrap_or_default();
    let mut terms = text::document(&format!("{content}\n{date}"));
    // The date is there to be found; it does not make the text longer.
    terms.words = terms.words.saturating_sub(3).max(1);
    terms
}

fn spoken_text(content: &str, format: ContentFormat) -> String {
    let message = Message {
        message_id: None,
        role: Role::User,
        name: None,
        content: content.to_owned(),
        content_format: format,
        created_at: None,
    };
    message.text().into_owned()
}

impl EntityImage {
    /// From rows, with what `previous` has already taken apart.
    #[must_use]
    pub fn build(entity_key: &EntityKey, rows: FactRows, previous: Option<&Self>) -> Self {
        let mut interned = Interned::default();
        let mut subjects = Names::default();
        let islands = sessions_of_unnamed(entity_key, &rows.unnamed, &mut interned);
        let mut mentions: HashMap<FactId, Vec<MentionRow>> = HashMap::with_capacity(rows.facts.len());
        for mention in rows.mentions {
            mentions.entry(mention.fact_id).or_default().push(mention);
        }
        let mut intervals: HashMap<FactId, Vec<Interval>> = HashMap::with_capacity(rows.facts.len());
        for row in rows.validity {
            intervals.entry(row.fact_id).or_default().push(Interval { from_us: row.valid_from_us, to_us: row.valid_to_us });
        }
        let known: HashMap<FactId, &FactItem> =
            previous.map(|image| image.facts.iter().map(|fact| (fact.fact_id, fact)).collect()).unwrap_or_default();

        let mut facts: Vec<FactRow> = rows.facts;
        facts.sort_unstable_by(|a, b| {
            let place = |f: &FactRow| (f.rep_occurred_at_us, f.rep_message_index, f.fact_id);
            (a.rep_occurred_at_us, &a.rep_event_id)
                .cmp(&(b.rep_occurred_at_us, &b.rep_event_id))
                .then_with(|| place(a).cmp(&place(b)))
        });
        let items: Vec<FactItem> = facts
            .into_iter()
            .map(|row| {
                let mut own = mentions.remove(&row.fact_id).unwrap_or_default();
                own.sort_unstable_by(|a, b| {
                    (a.occurred_at_us, &a.event_id, a.message_index).cmp(&(b.occurred_at_us, &b.event_id, b.message_index))
                });
                let session_of = |mention: &MentionRow, interned: &mut Interned| match &mention.session_id {
                    Some(session) => Some(interned.of(session)),
                    None => islands.get(&(mention.event_id.as_str(), mention.content_hash)).cloned(),
                };
                let mut seen = HashSet::new();
                own.retain(|mention| seen.insert(mention.message_key));
                let mut sessions: Vec<Arc<str>> = own.iter().filter_map(|m| session_of(m, &mut interned)).collect();
                let session_id = own.first().and_then(|m| session_of(m, &mut interned));
                sessions.sort_unstable();
                sessions.dedup();
                let mut processes: Vec<Arc<str>> =
                    own.iter().filter_map(|m| m.process_id.as_ref()).chain(&row.process_id).map(|p| interned.of(p)).collect();
                processes.sort_unstable();
                processes.dedup();
                let mut holds = intervals.remove(&row.fact_id).unwrap_or_default();
                holds.sort_unstable_by_key(|interval| interval.from_us);
                if holds.is_empty() {
                    holds.push(Interval { from_us: row.first_mentioned_at_us, to_us: None });
                }
                let sources = own
                    .into_iter()
                    .map(|m| {
                        let session_id = session_of(&m, &mut interned);
                        Source { event_id: m.event_id, message_id: m.message_id, session_id, occurred_at_us: m.occurred_at_us }
                    })
                    .collect();
                let terms = known
                    .get(&row.fact_id)
                    .filter(|fact| fact.content == row.body && fact.occurred_at_us == row.rep_occurred_at_us)
                    .map_or_else(|| Arc::new(dated_terms(&row.body, row.rep_occurred_at_us)), |fact| fact.terms.clone());
                FactItem {
                    fact_id: row.fact_id,
                    kind: row.kind,
                    content: row.body,
                    subject_number: row.subject.as_deref().map(|subject| subjects.number(subject)),
                    subject: row.subject,
                    predicate: row.predicate,
                    object: row.object,
                    confidence: row.confidence,
                    occurred_at_us: row.rep_occurred_at_us,
                    first_mentioned_at_us: row.first_mentioned_at_us,
                    last_mentioned_at_us: row.last_mentioned_at_us,
                    mentions: row.mentions,
                    extractor: interned.of(&row.extractor),
                    intervals: holds.into(),
                    sources,
                    processes: processes.into(),
                    sessions: sessions.into(),
                    session_id,
                    terms,
                }
            })
            .collect();
        let postings = Postings::of(items.iter().map(|fact| fact.terms.as_ref()));
        let languages = items.iter().fold(Languages::default(), |all, fact| all.union(fact.terms.languages));
        let bytes =
            items.iter().map(FactItem::bytes).sum::<usize>() + postings.bytes() + interned.bytes() + 64 * subjects.1.len();
        Self {
            version: rows.version,
            epoch: rows.epoch,
            generation: rows.generation,
            facts: items,
            subjects: subjects.1,
            languages,
            postings,
            bytes,
        }
    }
}

impl FactItem {
    fn bytes(&self) -> usize {
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        size_of::<Self>()
            + self.content.len()
            + optional(&self.subject)
            + optional(&self.predicate)
            + optional(&self.object)
            + self.intervals.len() * size_of::<Interval>()
            + self.sources.iter().map(|s| size_of::<Source>() + s.event_id.len() + s.message_id.len()).sum::<usize>()
            + (self.processes.len() + self.sessions.len()) * 16
            + self.terms.terms.len() * 16
            + 64
    }

    /// The interval that holds at `at`, else the last, and whether the fact has been superseded or does not hold yet then.
    /// Without an instant it is the last interval's end that counts, against `now`.
    #[must_use]
    pub fn holds(&self, at: Option<Micros>, now: Micros) -> (Interval, bool) {
        let instant = at.unwrap_or(now).0;
        let last = self.intervals[self.intervals.len() - 1];
        let holding = self.intervals.iter().rev().find(|i| i.from_us <= instant && i.to_us.is_none_or(|to| instant < to));
        match (holding, at) {
            (Some(interval), _) => (*interval, false),
            // What is dated ahead of the clock was said all the same.
            (None, None) => (last, last.to_us.is_some_and(|to| to <= instant)),
            (None, Some(_)) => (last, true),
        }
    }
}

impl MessageImage {
    /// From rows, with what `previous` has already taken apart.
    #[must_use]
    pub fn build(entity_key: &EntityKey, mut rows: MessageRows, previous: Option<&Self>) -> Self {
        let mut interned = Interned::default();
        let mut speakers = Names::default();
        let islands = sessions_of_unnamed(entity_key, &rows.unnamed, &mut interned);
        let known: HashMap<MessageKey, &MessageItem> =
            previous.map(|image| image.messages.iter().map(|m| (m.message_key, m)).collect()).unwrap_or_default();
        rows.messages.sort_unstable_by(|a, b| {
            (a.occurred_at_us, &a.event_id, a.message_index, &a.content_hash).cmp(&(
                b.occurred_at_us,
                &b.event_id,
                b.message_index,
                &b.content_hash,
            ))
        });
        let mut seen = HashSet::with_capacity(rows.messages.len());
        let mut items: Vec<MessageItem> = Vec::with_capacity(rows.messages.len());
        for row in rows.messages {
            if !seen.insert(row.message_key) {
                continue;
            }
            let terms = known
                .get(&row.message_key)
                .filter(|m| m.occurred_at_us == row.occurred_at_us && m.content == row.content)
                .map_or_else(
                    || Arc::new(dated_terms(&spoken_text(&row.content, row.content_format), row.occurred_at_us)),
                    |m| m.terms.clone(),
                );
            let session_id = match &row.session_id {
                Some(session) => Some(interned.of(session)),
                None => islands.get(&(row.event_id.as_str(), row.content_hash)).cloned(),
            };
            items.push(MessageItem {
                message_key: row.message_key,
                message_id: row.message_id,
                event_id: row.event_id,
                message_index: row.message_index,
                session_id,
                process_id: row.process_id.map(|process| interned.of(&process)),
                role: row.role,
                speaker_number: row.name.as_deref().map(|name| speakers.number(name)),
                name: row.name,
                content: row.content,
                content_format: row.content_format,
                created_at_us: row.created_at_us,
                occurred_at_us: row.occurred_at_us,
                terms,
            });
        }
        // A stable sort keeps conversation order within each session; where each stood before is the order over all.
        let mut numbered: Vec<(u32, MessageItem)> = (0..).zip(items).collect();
        numbered.sort_by(|(_, a), (_, b)| (&a.process_id, &a.session_id).cmp(&(&b.process_id, &b.session_id)));
        let mut conversation = vec![0; numbered.len()];
        for (number, (place, _)) in (0..).zip(&numbered) {
            conversation[*place as usize] = number;
        }
        let messages: Vec<MessageItem> = numbered.into_iter().map(|(_, item)| item).collect();
        Self { version: rows.version, epoch: rows.epoch, ..Self::arrange(messages, conversation, speakers.1, interned.bytes()) }
    }

    fn arrange(messages: Vec<MessageItem>, conversation: Vec<u32>, speakers: Vec<Vec<String>>, names_bytes: usize) -> Self {
        let postings = Postings::of(messages.iter().map(|m| m.terms.as_ref()));
        let words = postings.words();
        let mut sessions: Vec<Range<usize>> = Vec::new();
        let mut session_of = Vec::with_capacity(messages.len());
        for (i, message) in messages.iter().enumerate() {
            match sessions.last_mut() {
                Some(session)
                    if messages[session.start].session_id == message.session_id
                        && messages[session.start].process_id == message.process_id =>
                {
                    session.end = i + 1;
                }
                _ => sessions.push(i..i + 1),
            }
            session_of.push(u32::try_from(sessions.len() - 1).expect("an entity has fewer than 2^32 sessions"));
        }
        let session_words = sessions.iter().map(|session| sum(words[session.clone()].iter().copied())).collect();
        let window_words = (0..messages.len())
            .map(|i| {
                let around = window(&sessions[session_of[i] as usize], i);
                sum(around.filter(|j| messages[*j].role == Role::User).map(|j| words[j]))
            })
            .collect();
        let languages = messages.iter().fold(Languages::default(), |all, m| all.union(m.terms.languages));
        let bytes = messages.iter().map(MessageItem::bytes).sum::<usize>() + postings.bytes() + names_bytes + messages.len() * 16;
        Self {
            messages,
            conversation,
            sessions,
            session_of,
            session_words,
            window_words,
            speakers,
            languages,
            postings,
            bytes,
            ..Self::default()
        }
    }
}

impl MessageItem {
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.message_id.len()
            + self.event_id.len()
            + self.content.len()
            + self.name.as_ref().map_or(0, String::len)
            + self.terms.terms.len() * 16
            + 64
    }
}

fn sum(words: impl Iterator<Item = u32>) -> u32 {
    words.fold(0, u32::saturating_add)
}
