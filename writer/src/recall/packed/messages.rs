//! Chunks of messages.

use bytes::Bytes;
use memori_schemas::{ContentFormat, MessageKey, Role};

use super::layout::{self, Arena, ArenaWriter, Column, NONE, Put};
use super::tables::{
    AllVectors, Names, NamesWriter, SessionRef, Sessions, SessionsWriter, Vectors, Words, place, write_vectors, write_words,
};
use super::{Analysed, DATED, MESSAGES, MessageInput, PackError, QUESTION, flags};
use crate::recall::items::Model;
use crate::recall::language::Languages;
use crate::recall::text;

const RECORD_BYTES: usize = 104;

// Places in a record.
const MESSAGE_ID: usize = 16;
const EVENT_ID: usize = 24;
const CONTENT: usize = 32;
const HASH: usize = 40;
const INDEX: usize = 56;
const OCCURRED: usize = 64;
const CREATED: usize = 72;
const SESSION: usize = 80;
const PROCESS: usize = 84;
const NAME: usize = 88;
const WORDS: usize = 92;
const LANGUAGES: usize = 96;
const ROLE: usize = 100;
const FORMAT: usize = 101;
const FLAGS: usize = 102;
const HAS_CREATED: usize = 103;

/// A chunk of messages, in the order in which they were given.
#[derive(Clone, Debug, Default)]
pub struct MessageChunk {
    count: usize,
    bytes: usize,
    arena: Arena,
    records: Column,
    processes: Names,
    sessions: Sessions,
    speakers: Names,
    words: Words,
    vectors: AllVectors,
}

/// Messages as the bytes of one chunk.
///
/// # Panics
/// There are more than 65,535, or more than 4 GiB of them.
#[must_use]
pub fn encode_messages(messages: &[MessageInput<'_>]) -> Vec<u8> {
    let mut arena = ArenaWriter::default();
    let mut processes = NamesWriter::default();
    let mut speakers = NamesWriter::default();
    let mut sessions = SessionsWriter::default();
    let mut records = Vec::with_capacity(messages.len() * RECORD_BYTES);
    for message in messages {
        records.extend_from_slice(&message.message_key.0);
        let (message_id, event_id) = arena.span_with_prefix(message.message_id, message.event_id);
        records.put_span(message_id);
        records.put_span(event_id);
        records.put_span(arena.span(message.content));
        records.extend_from_slice(&message.content_hash);
        records.put_i64(message.message_index);
        records.put_i64(message.occurred_at_us);
        records.put_i64(message.created_at_us.unwrap_or_default());
        records.put_u32(sessions.number(message.session, &mut arena));
        records.put_u32(message.process_id.map_or(NONE, |process| processes.number(process, &mut arena)));
        records.put_u32(message.name.map_or(NONE, |name| speakers.number(name, &mut arena)));
        records.put_u32(message.analysed.words);
        records.put_u32(message.analysed.languages.bits());
        let role = Role::ALL.iter().position(|role| *role == message.role).unwrap_or_default();
        let format = u8::from(message.content_format == ContentFormat::Parts);
        let role = u8::try_from(role).expect("few roles");
        records.extend_from_slice(&[role, format, flags(&message.analysed), u8::from(message.created_at_us.is_some())]);
    }
    let [terms, starts, entries] = write_words(messages.iter().map(|message| message.analysed.terms.as_slice()));
    let [groups, numbers, scales, products, values] =
        write_vectors(messages.iter().map(|message| message.vectors.as_slice()), &mut arena);
    let sections = [
        arena.bytes,
        records,
        processes.rows,
        processes.words,
        sessions.bytes,
        speakers.rows,
        speakers.words,
        terms,
        starts,
        entries,
        groups,
        numbers,
        scales,
        products,
        values,
    ];
    layout::close(MESSAGES, text::VERSION, messages.len(), &sections)
}

impl MessageChunk {
    /// Takes the bytes of a chunk apart: they are checked and then used where they are.
    ///
    /// # Errors
    /// They are not what [`encode_messages`] of this version wrote.
    pub fn decode(bytes: impl Into<Bytes>) -> Result<Self, PackError> {
        let bytes = bytes.into();
        let (count, sections) = layout::open::<15>(&bytes, MESSAGES, text::VERSION)?;
        let [
            arena,
            records,
            processes,
            process_words,
            sessions,
            speakers,
            speaker_words,
            terms,
            starts,
            entries,
            groups,
            numbers,
            scales,
            products,
            values,
        ] = sections;
        if count > usize::from(u16::MAX) {
            return Err(PackError::Malformed("too many items"));
        }
        let arena = Arena::open(arena)?;
        let chunk = Self {
            count,
            bytes: bytes.len(),
            records: Column(records),
            processes: Names::open(processes, process_words, &arena)?,
            sessions: Sessions::open(sessions, &arena)?,
            speakers: Names::open(speakers, speaker_words, &arena)?,
            words: Words::open(terms, starts, entries, count)?,
            vectors: AllVectors::open(groups, numbers, scales, products, values, count, &arena)?,
            arena,
        };
        chunk.check()?;
        Ok(chunk)
    }

    fn check(&self) -> Result<(), PackError> {
        let records = &self.records;
        records.expect_rows(RECORD_BYTES, self.count)?;
        let text = |at: usize| self.arena.has((records.u32(at), records.u32(at + 4)));
        let inside = |number: u32, all: usize| place(number).is_none_or(|number| number < all);
        for item in 0..self.count {
            let at = item * RECORD_BYTES;
            let good = text(at + MESSAGE_ID)
                && text(at + EVENT_ID)
                && text(at + CONTENT)
                && (records.u32(at + SESSION) as usize) < self.sessions.len()
                && inside(records.u32(at + PROCESS), self.processes.len())
                && inside(records.u32(at + NAME), self.speakers.len())
                && usize::from(records.0[at + ROLE]) < Role::ALL.len()
                && records.0[at + FORMAT] <= 1;
            if !good {
                return Err(PackError::Malformed("a message"));
            }
        }
        Ok(())
    }

    /// The number of its messages.
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

    /// A message by its place.
    #[must_use]
    pub fn message(&self, item: usize) -> MessageView<'_> {
        MessageView { chunk: self, item, at: item * RECORD_BYTES }
    }

    /// All messages, in order.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = MessageView<'_>> {
        (0..self.count).map(|item| self.message(item))
    }

    /// The distinct sessions.
    pub fn sessions(&self) -> impl ExactSizeIterator<Item = SessionRef<'_>> {
        (0..self.sessions.len()).map(|n| self.sessions.get(&self.arena, n))
    }

    /// The distinct names of speakers: each with the hashes of its folded words.
    pub(in crate::recall) fn speakers(&self) -> impl ExactSizeIterator<Item = (&str, impl Iterator<Item = text::Term> + '_)> {
        (0..self.speakers.len()).map(|n| (self.speakers.get(&self.arena, n), self.speakers.words(n)))
    }

    pub(in crate::recall) fn hits(&self, term: text::Term) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.words.hits(term)
    }

    pub(in crate::recall) fn vectors(&self, model: &Model) -> Option<&Vectors> {
        self.vectors.of_model(&self.arena, &model.id, model.dimensions)
    }

    /// Every message as it was given.
    #[must_use]
    pub fn inputs(&self) -> Vec<MessageInput<'_>> {
        let terms = self.words.by_item(self.count);
        let vectors = self.vectors.by_item(&self.arena, self.count);
        let parts = terms.into_iter().zip(vectors);
        self.messages()
            .zip(parts)
            .map(|(message, (terms, vectors))| MessageInput {
                message_key: message.message_key(),
                message_id: message.message_id(),
                event_id: message.event_id(),
                content_hash: message.content_hash(),
                message_index: message.message_index(),
                session: message.session(),
                process_id: message.process_id(),
                role: message.role(),
                name: message.name(),
                content: message.content(),
                content_format: message.content_format(),
                created_at_us: message.created_at_us(),
                occurred_at_us: message.occurred_at_us(),
                analysed: Analysed {
                    terms,
                    words: message.words(),
                    languages: message.languages(),
                    question: message.is_question(),
                    dated: message.is_dated(),
                },
                vectors,
            })
            .collect()
    }
}

/// A message of a chunk.
#[derive(Clone, Copy, Debug)]
pub struct MessageView<'a> {
    chunk: &'a MessageChunk,
    item: usize,
    at: usize,
}

impl<'a> MessageView<'a> {
    fn text_at(&self, place: usize) -> &'a str {
        let records = &self.chunk.records;
        self.chunk.arena.text((records.u32(self.at + place), records.u32(self.at + place + 4)))
    }

    fn byte(&self, place: usize) -> u8 {
        self.chunk.records.0[self.at + place]
    }

    /// Its place in its chunk.
    #[must_use]
    pub fn item(&self) -> usize {
        self.item
    }

    /// Which message.
    #[must_use]
    pub fn message_key(&self) -> MessageKey {
        MessageKey(self.chunk.records.array(self.at))
    }

    /// As the API shows it.
    #[must_use]
    pub fn message_id(&self) -> &'a str {
        self.text_at(MESSAGE_ID)
    }

    /// Its event.
    #[must_use]
    pub fn event_id(&self) -> &'a str {
        self.text_at(EVENT_ID)
    }

    /// The first half of its event's.
    #[must_use]
    pub fn content_hash(&self) -> [u8; 16] {
        self.chunk.records.array(self.at + HASH)
    }

    /// Its place in its event.
    #[must_use]
    pub fn message_index(&self) -> i64 {
        self.chunk.records.i64(self.at + INDEX)
    }

    /// Which of its chunk's sessions.
    #[must_use]
    pub fn session_number(&self) -> usize {
        self.chunk.records.u32(self.at + SESSION) as usize
    }

    /// Its session.
    #[must_use]
    pub fn session(&self) -> SessionRef<'a> {
        self.chunk.sessions.get(&self.chunk.arena, self.session_number())
    }

    /// Its process.
    #[must_use]
    pub fn process_id(&self) -> Option<&'a str> {
        place(self.chunk.records.u32(self.at + PROCESS)).map(|n| self.chunk.processes.get(&self.chunk.arena, n))
    }

    /// Who said it.
    #[must_use]
    #[inline]
    pub fn role(&self) -> Role {
        Role::ALL[usize::from(self.byte(ROLE))]
    }

    /// Which of its chunk's speakers.
    #[must_use]
    pub fn speaker_number(&self) -> Option<usize> {
        place(self.chunk.records.u32(self.at + NAME))
    }

    /// The name of who said it.
    #[must_use]
    pub fn name(&self) -> Option<&'a str> {
        self.speaker_number().map(|n| self.chunk.speakers.get(&self.chunk.arena, n))
    }

    /// As it was given.
    #[must_use]
    pub fn content(&self) -> &'a str {
        self.text_at(CONTENT)
    }

    /// How that is to be read.
    #[must_use]
    pub fn content_format(&self) -> ContentFormat {
        if self.byte(FORMAT) == 0 { ContentFormat::Text } else { ContentFormat::Parts }
    }

    /// When it was made, µs, where the client says so.
    #[must_use]
    pub fn created_at_us(&self) -> Option<i64> {
        (self.byte(HAS_CREATED) != 0).then(|| self.chunk.records.i64(self.at + CREATED))
    }

    /// When its event happened, µs.
    #[must_use]
    pub fn occurred_at_us(&self) -> i64 {
        self.chunk.records.i64(self.at + OCCURRED)
    }

    /// How many words it has.
    #[must_use]
    pub fn words(&self) -> u32 {
        self.chunk.records.u32(self.at + WORDS)
    }

    /// The languages that it is in.
    #[must_use]
    pub fn languages(&self) -> Languages {
        Languages::of_bits(self.chunk.records.u32(self.at + LANGUAGES))
    }

    /// Whether it asks something.
    #[must_use]
    pub fn is_question(&self) -> bool {
        self.byte(FLAGS) & QUESTION != 0
    }

    /// Whether it says when.
    #[must_use]
    pub fn is_dated(&self) -> bool {
        self.byte(FLAGS) & DATED != 0
    }
}
