//! What was said to and by one entity, laid out for recall. The promises are those of [`super::image`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use memori_schemas::{EntityKey, MessageKey, Role};

use super::analyse;
use super::image::join;
use super::items::{Items, Model, NONE, Place, Segment, SessionTable, VectorIndex, absorbed, names};
use super::language::Languages;
use super::packed::{
    CHUNK_ITEMS, MessageChunk, MessageInput, MessageView, SessionRef, encode_messages, message_inputs, order_of_messages,
};
use super::text::Term;
use crate::reads::rows::{MessageRows, UnnamedRow};

/// Messages on each side whose words count for a message.
const WINDOW: usize = 6;

const PERSON: u8 = 1;
const QUESTION: u8 = 2;
const DATED: u8 = 4;

/// All messages of an entity, each once, session by session and in conversation order within.
#[derive(Debug, Default)]
pub struct MessageImage {
    /// The entity's version that it shows.
    pub version: Option<i64>,
    /// As in [`crate::reads::rows::EntityVersion`].
    pub epoch: i64,
    /// The generation of its vectors.
    pub generation: i32,
    /// The languages of the messages.
    pub languages: Languages,
    /// What it holds, about.
    pub bytes: usize,
    pub(super) items: Items<MessageChunk>,
    /// The sessions as ranges of messages.
    pub(super) sessions: Vec<Range<u32>>,
    /// Whether people talk to each other in it: several, and no assistant.
    pub(super) among_people: Vec<bool>,
    /// The session of each message.
    pub(super) session_of: Vec<u32>,
    /// Words of each session, and their mean.
    pub(super) session_words: Vec<u32>,
    pub(super) mean_session_words: f64,
    /// Words that people say around each message, and their mean.
    pub(super) window_words: Vec<u32>,
    pub(super) mean_window_words: f64,
    /// The speaker of each message, or [`NONE`].
    pub(super) speakers_of: Vec<u32>,
    /// The distinct names, as hashes of their folded words.
    pub(super) speakers: Vec<Box<[Term]>>,
    pub(super) vectors: Option<VectorIndex>,
    ids: SessionTable,
    traits: Vec<u8>,
    /// The numbers of the messages in conversation order over all sessions.
    conversation: Vec<u32>,
    unnamed: Arc<Vec<UnnamedRow>>,
    model: Option<Model>,
}

#[derive(Clone, Copy)]
struct Head {
    version: Option<i64>,
    epoch: i64,
    generation: i32,
}

impl Head {
    fn of(rows: &MessageRows) -> Self {
        Self { version: rows.version, epoch: rows.epoch, generation: rows.generation }
    }
}

impl MessageImage {
    /// Of an entity that nobody has heard of.
    #[must_use]
    pub fn empty(generation: i32) -> Self {
        Self { generation, ..Self::default() }
    }

    /// From all rows, with what `previous` has already taken apart.
    #[must_use]
    pub fn build(entity_key: &EntityKey, rows: MessageRows, model: Option<&Model>, previous: Option<&Self>) -> Self {
        let mut known = HashMap::new();
        if let Some(previous) = previous {
            for segment in &previous.items.segments {
                for input in segment.chunk.inputs() {
                    // A message's key covers its content.
                    known.insert((input.message_key, input.occurred_at_us), input.analysed);
                }
            }
        }
        let of_model = model.map(|model| &*model.id);
        let inputs = message_inputs(&rows, of_model, |row| known.get(&(row.message_key, row.occurred_at_us)).cloned());
        let segments = inputs.chunks(CHUNK_ITEMS).map(segment).collect();
        let head = Head::of(&rows);
        Self::assemble(entity_key, head, segments, model.cloned(), Arc::new(rows.unnamed))
    }

    /// From packed chunks and what changed after they were packed.
    #[must_use]
    pub fn unpack(
        entity_key: &EntityKey,
        chunks: Vec<MessageChunk>,
        mut unnamed: Vec<UnnamedRow>,
        since: &MessageRows,
        model: Option<&Model>,
    ) -> Self {
        let segments = chunks.into_iter().map(Segment::whole).collect();
        let segments = with_changes(segments, since, model);
        join(&mut unnamed, &since.unnamed);
        Self::assemble(entity_key, Head::of(since), segments, model.cloned(), Arc::new(unnamed))
    }

    /// The image after `since`: every changed message with all its rows, and events without a session that came.
    #[must_use]
    pub fn refreshed(&self, entity_key: &EntityKey, since: &MessageRows) -> Self {
        let segments = with_changes(self.items.segments.clone(), since, self.model.as_ref());
        let unnamed = if since.unnamed.is_empty() {
            self.unnamed.clone()
        } else {
            let mut unnamed = self.unnamed.to_vec();
            join(&mut unnamed, &since.unnamed);
            Arc::new(unnamed)
        };
        Self::assemble(entity_key, Head::of(since), segments, self.model.clone(), unnamed)
    }

    fn assemble(
        entity_key: &EntityKey,
        head: Head,
        segments: Vec<Segment<MessageChunk>>,
        model: Option<Model>,
        unnamed: Arc<Vec<UnnamedRow>>,
    ) -> Self {
        let mut said = Items::places(&segments);
        let view = |place: &Place| segments[place.segment as usize].chunk.message(place.item as usize);
        // Chunks are sorted and mostly follow each other, which a stable sort uses.
        said.sort_by(|a, b| {
            let (a, b) = (view(a), view(b));
            a.occurred_at_us()
                .cmp(&b.occurred_at_us())
                .then_with(|| a.event_id().cmp(b.event_id()))
                .then_with(|| a.message_index().cmp(&b.message_index()))
                .then_with(|| a.content_hash().cmp(&b.content_hash()))
                .then_with(|| a.message_key().cmp(&b.message_key()))
        });
        let ids = SessionTable::of(entity_key, &segments, &unnamed);
        let (order, conversation, sessions) = session_by_session(&said, &segments, &ids);
        let (speakers, numbers) = names(&segments, |chunk| chunk.speakers());
        let mut session_of = Vec::with_capacity(order.len());
        for (number, session) in (0_u32..).zip(&sessions) {
            session_of.extend(session.clone().map(|_| number));
        }
        let mut traits = Vec::with_capacity(order.len());
        let mut speakers_of = Vec::with_capacity(order.len());
        let mut assistants = vec![false; sessions.len()];
        let mut voices: Vec<HashSet<u32>> = vec![HashSet::new(); sessions.len()];
        let mut languages = Languages::default();
        for (place, session) in order.iter().zip(&session_of) {
            let message = view(place);
            let person = message.role() == Role::User;
            let flags = u8::from(person) * PERSON + u8::from(message.is_question()) * QUESTION;
            traits.push(flags + u8::from(message.is_dated()) * DATED);
            let speaker = message.speaker_number().map_or(NONE, |speaker| numbers[place.segment as usize][speaker]);
            speakers_of.push(speaker);
            if person {
                voices[*session as usize].insert(speaker);
            }
            assistants[*session as usize] |= message.role() == Role::Assistant;
            languages = languages.union(message.languages());
        }
        let among_people = voices.iter().zip(&assistants).map(|(voices, assistant)| voices.len() > 1 && !assistant).collect();
        let items = Items::arranged(segments, order);
        let words = &items.words;
        let sum = |words: &mut dyn Iterator<Item = u32>| words.fold(0, u32::saturating_add);
        let in_session = |session: &Range<u32>| sum(&mut words[session.start as usize..session.end as usize].iter().copied());
        let session_words: Vec<u32> = sessions.iter().map(in_session).collect();
        let window_words: Vec<u32> = (0..items.len())
            .map(|i| {
                let around = window(&sessions[session_of[i] as usize], i);
                sum(&mut around.filter(|j| traits[*j] & PERSON != 0).map(|j| words[j]))
            })
            .collect();
        let vectors = model.as_ref().and_then(|model| VectorIndex::of(model, &items, &session_of));
        let of_unnamed: usize = unnamed.iter().map(|row| size_of::<UnnamedRow>() + row.event.event_id.len()).sum();
        let bytes = items.bytes()
            + ids.bytes()
            + of_unnamed
            + items.len() * 17
            + sessions.len() * 13
            + speakers.iter().map(|words| words.len() * 8 + 16).sum::<usize>()
            + vectors.as_ref().map_or(0, VectorIndex::bytes);
        let Head { version, epoch, generation } = head;
        Self {
            version,
            epoch,
            generation,
            languages,
            bytes,
            sessions,
            among_people,
            session_of,
            mean_session_words: mean(&session_words),
            session_words,
            mean_window_words: mean(&window_words),
            window_words,
            speakers_of,
            speakers,
            vectors,
            ids,
            traits,
            conversation,
            unnamed,
            model,
            items,
        }
    }

    /// The number of messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing was said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A message by its number.
    #[must_use]
    pub fn message(&self, number: usize) -> MessageView<'_> {
        let place = self.items.order[number];
        self.items.segments[place.segment as usize].chunk.message(place.item as usize)
    }

    /// All messages in conversation order, over all sessions: their numbers.
    #[must_use]
    pub fn conversation(&self) -> &[u32] {
        &self.conversation
    }

    /// The session of a message; none while its event has not arrived.
    #[must_use]
    pub fn session_id(&self, number: usize) -> Option<&str> {
        let segment = self.items.order[number].segment;
        self.ids.id(segment, self.message(number).session_number()).map(|id| &**id)
    }

    /// Whether the client named a message's session; else it is the island that the message stands on.
    #[must_use]
    pub fn is_session_named(&self, number: usize) -> bool {
        let segment = &self.items.segments[self.items.order[number].segment as usize];
        matches!(segment.chunk.sessions().nth(self.message(number).session_number()), Some(SessionRef::Named(_)))
    }

    /// What was said, as text.
    #[must_use]
    pub fn text(&self, number: usize) -> String {
        let message = self.message(number);
        analyse::spoken(message.content(), message.content_format())
    }

    /// The model whose vectors it holds.
    #[must_use]
    pub fn model(&self) -> Option<&Model> {
        self.vectors.as_ref().map(|vectors| &vectors.model)
    }

    #[inline]
    pub(super) fn by_a_person(&self, number: usize) -> bool {
        self.traits[number] & PERSON != 0
    }

    #[inline]
    pub(super) fn is_question(&self, number: usize) -> bool {
        self.traits[number] & QUESTION != 0
    }

    #[inline]
    pub(super) fn is_dated(&self, number: usize) -> bool {
        self.traits[number] & DATED != 0
    }

    /// The messages around it that share its window.
    #[inline]
    pub(super) fn window(&self, number: usize) -> Range<usize> {
        window(&self.sessions[self.session_of[number] as usize], number)
    }
}

fn window(session: &Range<u32>, i: usize) -> Range<usize> {
    i.saturating_sub(WINDOW).max(session.start as usize)..(i + WINDOW + 1).min(session.end as usize)
}

#[allow(clippy::cast_precision_loss)] // far below 2^52
fn mean(words: &[u32]) -> f64 {
    let all: u64 = words.iter().map(|n| u64::from(*n)).sum();
    if words.is_empty() { 0.0 } else { all as f64 / words.len() as f64 }
}

/// From conversation order to session by session: the places, where each stands in the conversation, and the sessions.
fn session_by_session(
    said: &[Place],
    segments: &[Segment<MessageChunk>],
    ids: &SessionTable,
) -> (Vec<Place>, Vec<u32>, Vec<Range<u32>>) {
    // A session is of one process. They stand by their names.
    let mut numbers: HashMap<(Option<&str>, u32), u32> = HashMap::new();
    let mut names: Vec<(Option<&str>, Option<&str>)> = Vec::new();
    let mut of_message: Vec<u32> = Vec::with_capacity(said.len());
    for place in said {
        let message = segments[place.segment as usize].chunk.message(place.item as usize);
        let session = ids.number(place.segment, message.session_number());
        let number = *numbers.entry((message.process_id(), session)).or_insert_with(|| {
            names.push((message.process_id(), ids.ids.get(session as usize).map(|id| &**id)));
            u32::try_from(names.len() - 1).expect("an entity has fewer than 2^32 sessions")
        });
        of_message.push(number);
    }
    // By its number too, so that none is ever left out.
    /// Process and session.
    type Name<'a> = (Option<&'a str>, Option<&'a str>);
    let by_name: BTreeSet<(Name<'_>, u32)> = names.iter().copied().zip(0_u32..).collect();
    let mut sizes = vec![0_u32; names.len()];
    for session in &of_message {
        sizes[*session as usize] += 1;
    }
    let mut sessions = Vec::with_capacity(names.len());
    let mut next = vec![0_u32; names.len()];
    let mut start = 0;
    for (_, number) in &by_name {
        next[*number as usize] = start;
        let end = start + sizes[*number as usize];
        sessions.push(start..end);
        start = end;
    }
    let mut order = vec![Place { segment: NONE, item: NONE }; said.len()];
    let mut conversation = Vec::with_capacity(said.len());
    for (place, session) in said.iter().zip(of_message) {
        let number = &mut next[session as usize];
        order[*number as usize] = *place;
        conversation.push(*number);
        *number += 1;
    }
    (order, conversation, sessions)
}

fn segment(inputs: &[MessageInput<'_>]) -> Segment<MessageChunk> {
    let chunk = MessageChunk::decode(encode_messages(inputs)).expect("what was just encoded can be decoded");
    Segment::whole(chunk)
}

/// The segments once these messages stand in them anew.
fn with_changes(
    mut segments: Vec<Segment<MessageChunk>>,
    since: &MessageRows,
    model: Option<&Model>,
) -> Vec<Segment<MessageChunk>> {
    if since.messages.is_empty() {
        return segments;
    }
    let changed: HashSet<MessageKey> = since.messages.iter().map(|message| message.message_key).collect();
    for segment in &mut segments {
        let chunk = segment.chunk.clone();
        segment.alive.retain(|item| !changed.contains(&chunk.message(usize::from(*item)).message_key()));
    }
    segments.retain(|segment| !segment.alive.is_empty());
    let alive: usize = segments.iter().map(|segment| segment.alive.len()).sum();
    let held: usize = segments.iter().map(|segment| segment.chunk.len()).sum();
    // Chunks of which most is gone cost memory and hits: then all are written anew.
    let count = if held > 2 * alive + CHUNK_ITEMS { segments.len() } else { absorbed(&segments, changed.len(), CHUNK_ITEMS) };
    let taken = segments.split_off(segments.len() - count);
    let mut inputs: Vec<MessageInput<'_>> = message_inputs(since, model.map(|model| &*model.id), |_| None);
    for segment in &taken {
        let mut of_chunk: Vec<Option<MessageInput<'_>>> = segment.chunk.inputs().into_iter().map(Some).collect();
        inputs.extend(segment.alive.iter().filter_map(|item| of_chunk[usize::from(*item)].take()));
    }
    inputs.sort_by(|a, b| order_of_messages(a).cmp(&order_of_messages(b)));
    segments.extend(inputs.chunks(CHUNK_ITEMS).map(segment));
    segments
}
