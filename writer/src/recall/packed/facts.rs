//! Chunks of facts.

use std::collections::HashMap;

use bytes::Bytes;
use memori_schemas::{FactId, FactKind, MessageKey, Micros};
use uuid::Uuid;

use super::layout::{self, Arena, ArenaWriter, Column, NONE, Put, Span, u32_of};
use super::tables::{Names, NamesWriter, SessionRef, Sessions, SessionsWriter, Vectors, Words, place, write_words};
use super::vectors::{VectorChunk, encode_vectors};
use super::{Analysed, DATED, FACTS, FactInput, Interval, PackError, QUESTION, SourceInput, flags};
use crate::recall::items::Model;
use crate::recall::language::Languages;
use crate::recall::text;

const RECORD_BYTES: usize = 140;
const SOURCE_BYTES: usize = 48;
const LINK_BYTES: usize = 4;
const INTERVAL_BYTES: usize = 17;

// Places in a record.
const SUBJECT: usize = 24;
const CONFIDENCE: usize = 44;
const OCCURRED: usize = 52;
const FIRST: usize = 60;
const LAST: usize = 68;
const MENTIONS: usize = 76;
const REP_EVENT: usize = 84;
const REP_INDEX: usize = 92;
const EXTRACTOR: usize = 100;
const PROCESS: usize = 104;
const INTERVALS: usize = 108;
const SOURCES: usize = 116;
const WORDS: usize = 124;
const LANGUAGES: usize = 128;
const SESSION: usize = 132;
const KIND: usize = 136;
const FLAGS: usize = 137;

/// A chunk of facts, in the order in which they were given.
#[derive(Clone, Debug, Default)]
pub struct FactChunk {
    count: usize,
    bytes: usize,
    arena: Arena,
    records: Column,
    /// Which of the sources a fact has: facts of one message share it, and a digest has those of all that it is made of.
    links: Column,
    sources: Column,
    intervals: Column,
    names: Names,
    sessions: Sessions,
    subjects: Names,
    words: Words,
    vectors: VectorChunk,
}

/// Facts as the bytes of one chunk; their vectors are bytes of their own ([`encode_vectors`]).
///
/// # Panics
/// There are more than 65,535, or more than 4 GiB of them.
#[must_use]
pub fn encode_facts(facts: &[FactInput<'_>]) -> Vec<u8> {
    let mut arena = ArenaWriter::default();
    let mut names = NamesWriter::default();
    let mut subjects = NamesWriter::default();
    let mut sessions = SessionsWriter::default();
    let mut known_sources: HashMap<&SourceInput<'_>, u32> = HashMap::new();
    let (mut links, mut sources, mut intervals) = (Vec::new(), Vec::new(), Vec::new());
    let mut records = Vec::with_capacity(facts.len() * RECORD_BYTES);
    for fact in facts {
        records.extend_from_slice(fact.fact_id.0.as_bytes());
        let content = arena.span(fact.content);
        records.put_span(content);
        records.put_u32(fact.subject.map_or(NONE, |subject| subjects.number(subject, &mut arena)));
        records.put_opt_span(fact.predicate.map(|text| arena.span(text)));
        records.put_opt_span(fact.object.map(|text| arena.span_within(text, content, fact.content)));
        records.extend_from_slice(&fact.confidence.to_le_bytes());
        records.put_i64(fact.occurred_at_us);
        records.put_i64(fact.first_mentioned_at_us);
        records.put_i64(fact.last_mentioned_at_us);
        records.put_i64(fact.mentions);
        let (first_link, first_interval) = (links.len() / LINK_BYTES, intervals.len() / INTERVAL_BYTES);
        let mut session = NONE;
        for (n, source) in fact.sources.iter().enumerate() {
            if n == 0 {
                session = sessions.number(source.session, &mut arena);
            }
            let next = u32_of(known_sources.len());
            let number = *known_sources.entry(source).or_insert(next);
            links.put_u32(number);
            if number < next {
                continue;
            }
            let (message_id, event_id) = arena.span_with_prefix(source.message_id, source.event_id);
            sources.extend_from_slice(&source.message_key.0);
            sources.put_span(message_id);
            sources.put_span(event_id);
            sources.put_u32(sessions.number(source.session, &mut arena));
            sources.put_u32(source.process_id.map_or(NONE, |process| names.number(process, &mut arena)));
            sources.put_i64(source.occurred_at_us);
        }
        records.put_span(arena.span(fact.rep_event_id));
        records.put_i64(fact.rep_message_index);
        records.put_u32(names.number(fact.extractor, &mut arena));
        records.put_u32(fact.process_id.map_or(NONE, |process| names.number(process, &mut arena)));
        for interval in &fact.intervals {
            intervals.put_i64(interval.from_us);
            intervals.put_i64(interval.to_us.unwrap_or_default());
            intervals.push(u8::from(interval.to_us.is_some()));
        }
        records.put_u32(u32_of(first_interval));
        records.put_u32(u32_of(fact.intervals.len()));
        records.put_u32(u32_of(first_link));
        records.put_u32(u32_of(fact.sources.len()));
        records.put_u32(fact.analysed.words);
        records.put_u32(fact.analysed.languages.bits());
        records.put_u32(session);
        records.extend_from_slice(&[place_of(fact.kind), flags(&fact.analysed), 0, 0]);
    }
    let [terms, starts, entries] = write_words(facts.iter().map(|fact| fact.analysed.terms.as_slice()));
    let sections = [
        arena.bytes,
        records,
        links,
        sources,
        intervals,
        names.rows,
        names.words,
        sessions.bytes,
        subjects.rows,
        subjects.words,
        terms,
        starts,
        entries,
    ];
    layout::close(FACTS, text::VERSION, facts.len(), &sections)
}

fn place_of(kind: FactKind) -> u8 {
    let place = FactKind::ALL.iter().position(|one| *one == kind);
    u8::try_from(place.unwrap_or_default()).expect("few kinds")
}

impl FactChunk {
    /// Of facts as they are.
    #[must_use]
    pub(in crate::recall) fn of(facts: &[FactInput<'_>]) -> Self {
        Self::decode(encode_facts(facts), encode_vectors(facts)).expect("what was just encoded can be decoded")
    }

    /// Takes the bytes of a chunk and of its vectors apart: they are checked and then used where they are.
    ///
    /// # Errors
    /// They are not what [`encode_facts`] and [`encode_vectors`] of this version wrote of the same facts.
    pub fn decode(bytes: impl Into<Bytes>, vectors: impl Into<Bytes>) -> Result<Self, PackError> {
        let chunk = Self::without_vectors(bytes)?;
        let vectors = VectorChunk::decode(vectors)?;
        if vectors.len() != chunk.count {
            return Err(PackError::Malformed("vectors of other facts"));
        }
        Ok(Self { bytes: chunk.bytes + vectors.bytes(), vectors, ..chunk })
    }

    /// As [`Self::decode`], where nobody asks for vectors.
    ///
    /// # Errors
    /// They are not what [`encode_facts`] of this version wrote.
    pub fn without_vectors(bytes: impl Into<Bytes>) -> Result<Self, PackError> {
        let bytes = bytes.into();
        let (count, sections) = layout::open::<13>(&bytes, FACTS, text::VERSION)?;
        let [
            arena,
            records,
            links,
            sources,
            intervals,
            names,
            name_words,
            sessions,
            subjects,
            subject_words,
            terms,
            starts,
            entries,
        ] = sections;
        if count > usize::from(u16::MAX) {
            return Err(PackError::Malformed("too many items"));
        }
        let arena = Arena::open(arena)?;
        let chunk = Self {
            count,
            bytes: bytes.len(),
            records: Column(records),
            links: Column(links),
            sources: Column(sources),
            intervals: Column(intervals),
            names: Names::open(names, name_words, &arena)?,
            sessions: Sessions::open(sessions, &arena)?,
            subjects: Names::open(subjects, subject_words, &arena)?,
            words: Words::open(terms, starts, entries, count)?,
            vectors: VectorChunk::default(),
            arena,
        };
        chunk.check()?;
        Ok(chunk)
    }

    fn check(&self) -> Result<(), PackError> {
        self.records.expect_rows(RECORD_BYTES, self.count)?;
        let (sources, intervals) = (self.sources.rows(SOURCE_BYTES)?, self.intervals.rows(INTERVAL_BYTES)?);
        let links = self.links.rows(LINK_BYTES)?;
        let fits = |column: &Column, at: usize, all: usize| {
            (column.u32(at) as usize).checked_add(column.u32(at + 4) as usize).is_some_and(|end| end <= all)
        };
        let inside = |number: u32, all: usize| place(number).is_none_or(|number| number < all);
        let text = |column: &Column, at: usize| self.arena.has((column.u32(at), column.u32(at + 4)));
        let opt_text = |column: &Column, at: usize| column.u32(at) == NONE || text(column, at);
        for item in 0..self.count {
            let (at, records) = (item * RECORD_BYTES, &self.records);
            let good = text(records, at + 16)
                && inside(records.u32(at + SUBJECT), self.subjects.len())
                && opt_text(records, at + 28)
                && opt_text(records, at + 36)
                && text(records, at + REP_EVENT)
                && (records.u32(at + EXTRACTOR) as usize) < self.names.len()
                && inside(records.u32(at + PROCESS), self.names.len())
                && records.u32(at + INTERVALS + 4) > 0
                && fits(records, at + INTERVALS, intervals)
                && fits(records, at + SOURCES, links)
                && inside(records.u32(at + SESSION), self.sessions.len())
                && usize::from(records.0[at + KIND]) < FactKind::ALL.len();
            if !good {
                return Err(PackError::Malformed("a fact"));
            }
        }
        if (0..links).any(|link| self.links.u32(link * LINK_BYTES) as usize >= sources) {
            return Err(PackError::Malformed("a fact's source"));
        }
        for source in 0..sources {
            let (at, column) = (source * SOURCE_BYTES, &self.sources);
            let good = text(column, at + 16)
                && text(column, at + 24)
                && (column.u32(at + 32) as usize) < self.sessions.len()
                && inside(column.u32(at + 36), self.names.len());
            if !good {
                return Err(PackError::Malformed("a source"));
            }
        }
        Ok(())
    }

    /// The number of its facts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A fact by its place.
    #[must_use]
    pub fn fact(&self, item: usize) -> FactView<'_> {
        FactView { chunk: self, item, at: item * RECORD_BYTES }
    }

    /// All facts, in order.
    pub fn facts(&self) -> impl ExactSizeIterator<Item = FactView<'_>> {
        (0..self.count).map(|item| self.fact(item))
    }

    /// The distinct sessions of its sources.
    pub fn sessions(&self) -> impl ExactSizeIterator<Item = SessionRef<'_>> {
        (0..self.sessions.len()).map(|n| self.sessions.get(&self.arena, n))
    }

    /// The distinct subjects: each with the hashes of its folded words.
    pub(in crate::recall) fn subjects(&self) -> impl ExactSizeIterator<Item = (&str, impl Iterator<Item = text::Term> + '_)> {
        (0..self.subjects.len()).map(|n| (self.subjects.get(&self.arena, n), self.subjects.words(n)))
    }

    pub(in crate::recall) fn hits(&self, term: text::Term) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.words.hits(term)
    }

    pub(in crate::recall) fn vectors(&self, model: &Model) -> Option<&Vectors> {
        self.vectors.of_model(model)
    }

    /// The words of each fact, sorted.
    pub(in crate::recall) fn terms(&self) -> Vec<Vec<(text::Term, u16)>> {
        self.words.by_item(self.count)
    }

    /// Every fact as it was given.
    #[must_use]
    pub fn inputs(&self) -> Vec<FactInput<'_>> {
        let terms = self.terms();
        let mut vectors = self.vectors.by_item();
        vectors.resize(self.count, Vec::new());
        let parts = terms.into_iter().zip(vectors);
        self.facts()
            .zip(parts)
            .map(|(fact, (terms, vectors))| FactInput {
                fact_id: fact.fact_id(),
                kind: fact.kind(),
                content: fact.content(),
                subject: fact.subject(),
                predicate: fact.predicate(),
                object: fact.object(),
                confidence: fact.confidence(),
                process_id: fact.process_id(),
                extractor: fact.extractor(),
                occurred_at_us: fact.occurred_at_us(),
                rep_event_id: fact.rep_event_id(),
                rep_message_index: fact.rep_message_index(),
                mentions: fact.mentions(),
                first_mentioned_at_us: fact.first_mentioned_at_us(),
                last_mentioned_at_us: fact.last_mentioned_at_us(),
                intervals: fact.intervals().collect(),
                sources: fact.sources().map(|source| source.input()).collect(),
                analysed: Analysed {
                    terms,
                    words: fact.words(),
                    languages: fact.languages(),
                    question: fact.is_question(),
                    dated: fact.is_dated(),
                },
                vectors,
            })
            .collect()
    }
}

/// A fact of a chunk.
#[derive(Clone, Copy, Debug)]
pub struct FactView<'a> {
    chunk: &'a FactChunk,
    item: usize,
    at: usize,
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident: $type:ident at $place:expr),+ $(,)?) => {
        $($(#[$doc])* #[must_use] #[inline] pub fn $name(&self) -> $type { self.chunk.records.$type(self.at + $place) })+
    };
}

impl<'a> FactView<'a> {
    /// Its place in its chunk.
    #[must_use]
    pub fn item(&self) -> usize {
        self.item
    }

    /// Its id.
    #[must_use]
    pub fn fact_id(&self) -> FactId {
        FactId(Uuid::from_bytes(self.chunk.records.array(self.at)))
    }

    /// What it is.
    #[must_use]
    #[inline]
    pub fn kind(&self) -> FactKind {
        FactKind::ALL[usize::from(self.chunk.records.0[self.at + KIND])]
    }

    fn span(&self, place: usize) -> Span {
        (self.chunk.records.u32(self.at + place), self.chunk.records.u32(self.at + place + 4))
    }

    fn opt_text(&self, place: usize) -> Option<&'a str> {
        let span = self.span(place);
        (span.0 != NONE).then(|| self.chunk.arena.text(span))
    }

    /// Its words.
    #[must_use]
    pub fn content(&self) -> &'a str {
        self.chunk.arena.text(self.span(16))
    }

    /// Whom it is about.
    #[must_use]
    pub fn subject(&self) -> Option<&'a str> {
        self.subject_number().map(|number| self.chunk.subjects.get(&self.chunk.arena, number))
    }

    /// Which of its chunk's subjects.
    #[must_use]
    pub fn subject_number(&self) -> Option<usize> {
        place(self.chunk.records.u32(self.at + SUBJECT))
    }

    /// What holds between subject and object.
    #[must_use]
    pub fn predicate(&self) -> Option<&'a str> {
        self.opt_text(28)
    }

    /// The other side of the predicate.
    #[must_use]
    pub fn object(&self) -> Option<&'a str> {
        self.opt_text(36)
    }

    numbers! {
        /// How sure the extractor is, 0–1.
        confidence: f64 at CONFIDENCE,
        /// When what words it was said, µs.
        occurred_at_us: i64 at OCCURRED,
        /// When it was first said, µs.
        first_mentioned_at_us: i64 at FIRST,
        /// When it was last said, µs.
        last_mentioned_at_us: i64 at LAST,
        /// How often it was said.
        mentions: i64 at MENTIONS,
        /// Which message of its event words it.
        rep_message_index: i64 at REP_INDEX,
        /// How many words it has.
        words: u32 at WORDS,
    }

    /// The event that words it.
    #[must_use]
    pub fn rep_event_id(&self) -> &'a str {
        self.chunk.arena.text(self.span(REP_EVENT))
    }

    /// Name and version of what yielded it.
    #[must_use]
    pub fn extractor(&self) -> &'a str {
        self.chunk.names.get(&self.chunk.arena, self.chunk.records.u32(self.at + EXTRACTOR) as usize)
    }

    /// The process of the mention that words it.
    #[must_use]
    pub fn process_id(&self) -> Option<&'a str> {
        place(self.chunk.records.u32(self.at + PROCESS)).map(|n| self.chunk.names.get(&self.chunk.arena, n))
    }

    /// The languages that it is in.
    #[must_use]
    pub fn languages(&self) -> Languages {
        Languages::of_bits(self.chunk.records.u32(self.at + LANGUAGES))
    }

    /// Whether it asks something.
    #[must_use]
    pub fn is_question(&self) -> bool {
        self.chunk.records.0[self.at + FLAGS] & QUESTION != 0
    }

    /// Whether it says when.
    #[must_use]
    pub fn is_dated(&self) -> bool {
        self.chunk.records.0[self.at + FLAGS] & DATED != 0
    }

    /// Which of its chunk's sessions the mention that words it belongs to.
    #[must_use]
    pub fn session_number(&self) -> Option<usize> {
        place(self.chunk.records.u32(self.at + SESSION))
    }

    /// When it holds, in order; never empty.
    pub fn intervals(&self) -> impl ExactSizeIterator<Item = Interval> + DoubleEndedIterator + use<'a> {
        let column = &self.chunk.intervals;
        let (start, len) = self.span(INTERVALS);
        (start as usize..(start + len) as usize).map(move |n| {
            let at = n * INTERVAL_BYTES;
            Interval { from_us: column.i64(at), to_us: (column.0[at + 16] != 0).then(|| column.i64(at + 8)) }
        })
    }

    /// The messages that support it, each once, in conversation order.
    pub fn sources(&self) -> impl ExactSizeIterator<Item = SourceView<'a>> + use<'a> {
        let chunk = self.chunk;
        let (start, len) = self.span(SOURCES);
        (start as usize..(start + len) as usize).map(move |n| {
            let number = chunk.links.u32(n * LINK_BYTES) as usize;
            SourceView { chunk, at: number * SOURCE_BYTES }
        })
    }

    /// The interval that holds at `at`, else the last, and whether the fact has been superseded or does not hold yet then.
    /// Without an instant it is the last interval's end that counts, against `now`.
    #[must_use]
    pub fn holds(&self, at: Option<Micros>, now: Micros) -> (Interval, bool) {
        let instant = at.unwrap_or(now).0;
        let holding = self.intervals().rev().find(|i| i.from_us <= instant && i.to_us.is_none_or(|to| instant < to));
        let last = || self.intervals().next_back().unwrap_or(Interval { from_us: self.first_mentioned_at_us(), to_us: None });
        match (holding, at) {
            (Some(interval), _) => (interval, false),
            // What is dated ahead of the clock was said all the same.
            (None, None) => (last(), last().to_us.is_some_and(|to| to <= instant)),
            (None, Some(_)) => (last(), true),
        }
    }
}

/// A message that supports a fact of a chunk.
#[derive(Clone, Copy, Debug)]
pub struct SourceView<'a> {
    chunk: &'a FactChunk,
    at: usize,
}

impl<'a> SourceView<'a> {
    fn text(&self, place: usize) -> &'a str {
        self.chunk.arena.text((self.chunk.sources.u32(self.at + place), self.chunk.sources.u32(self.at + place + 4)))
    }

    /// The message.
    #[must_use]
    pub fn message_key(&self) -> MessageKey {
        MessageKey(self.chunk.sources.array(self.at))
    }

    /// As the API shows it.
    #[must_use]
    pub fn message_id(&self) -> &'a str {
        self.text(16)
    }

    /// Its event.
    #[must_use]
    pub fn event_id(&self) -> &'a str {
        self.text(24)
    }

    /// Which of its chunk's sessions.
    #[must_use]
    pub fn session_number(&self) -> usize {
        self.chunk.sources.u32(self.at + 32) as usize
    }

    /// Its session.
    #[must_use]
    pub fn session(&self) -> SessionRef<'a> {
        self.chunk.sessions.get(&self.chunk.arena, self.session_number())
    }

    /// Its process.
    #[must_use]
    pub fn process_id(&self) -> Option<&'a str> {
        place(self.chunk.sources.u32(self.at + 36)).map(|n| self.chunk.names.get(&self.chunk.arena, n))
    }

    /// When it was said, µs.
    #[must_use]
    pub fn occurred_at_us(&self) -> i64 {
        self.chunk.sources.i64(self.at + 40)
    }

    fn input(&self) -> SourceInput<'a> {
        SourceInput {
            message_key: self.message_key(),
            message_id: self.message_id(),
            event_id: self.event_id(),
            session: self.session(),
            process_id: self.process_id(),
            occurred_at_us: self.occurred_at_us(),
        }
    }
}
