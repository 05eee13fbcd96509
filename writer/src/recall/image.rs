//! What is known about one entity, laid out for recall: facts in chunks, with what ranking needs of each at hand.
//!
//! Digests by rules ([`super::digests`]) are items of it like the facts that they are made from. Promises: a function of the rows alone, whether it was made from all of them, from packed chunks, or from an earlier image and
//! what changed since; a text is taken apart again only where its fact has changed; [`EntityImage::bytes`] is what it holds, about.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use memori_embedding::Embedding;
use memori_schemas::{EntityKey, FactId, FactKind, MessageKey, Micros, TextHash};

use super::digest_items::{Members, holds_digests};
use super::digests::Digests;
use super::items::{Items, Likeness, Model, NONE, Place, Segment, SessionTable, VectorIndex, WordHits, absorbed, names};
use super::language::Languages;
use super::packed::{
    CHUNK_ITEMS, FactChunk, FactInput, FactView, OutlineHead, OutlineItem, PackError, SourceView, encode_facts, encode_outline,
    encode_vectors, fact_inputs, order_of_facts,
};
use super::rank_facts::Facts;
use super::text::{QueryWord, Term};
use super::traits::Traits;
use crate::reads::rows::{FactRows, ForgottenRow, UnnamedRow};

pub use super::packed::Interval;

/// All facts of an entity in one generation, in the order of the mentions that word them; behind them the digests by rules.
#[derive(Debug, Default)]
pub struct EntityImage {
    /// The entity's version that it shows.
    pub version: Option<i64>,
    /// As in [`crate::reads::rows::EntityVersion`].
    pub epoch: i64,
    /// The generation that it shows.
    pub generation: i32,
    /// The languages of the facts.
    pub languages: Languages,
    /// What it holds, about.
    pub bytes: usize,
    pub(super) items: Items<FactChunk>,
    /// The session of each fact, where it has neighbours.
    pub(super) groups: Vec<u32>,
    /// The subject of each fact, or [`NONE`].
    pub(super) subjects_of: Vec<u32>,
    /// The distinct subjects, as hashes of their folded words.
    pub(super) subjects: Vec<Box<[Term]>>,
    /// Where the instructions stand.
    pub(super) instructions: Vec<u32>,
    pub(super) vectors: Option<VectorIndex>,
    sessions: SessionTable,
    traits: Vec<Traits>,
    unnamed: Arc<Vec<UnnamedRow>>,
    model: Option<Model>,
    forgotten: Vec<ForgottenRow>,
    /// The first segments hold what is stored, the others the digests that were made of it.
    stored_segments: usize,
    digests: Digests,
    /// From this number on there are digests by rules: behind the facts, so that none parts neighbours.
    pub(super) first_digest: usize,
}

/// Which state of the entity rows or chunks show.
#[derive(Clone, Copy, Debug)]
struct Head {
    version: Option<i64>,
    epoch: i64,
    generation: i32,
}

impl Head {
    fn of(rows: &FactRows) -> Self {
        Self { version: rows.version, epoch: rows.epoch, generation: rows.generation }
    }
}

/// What was known before an image is made.
enum Before<'a> {
    Nothing,
    Image(&'a EntityImage),
    /// Digests that were packed with the facts, and whether the facts are still those.
    Packed {
        made: Vec<Segment<FactChunk>>,
        unchanged: bool,
    },
}

/// The facts of an entity as they are packed.
#[derive(Clone, Debug, Default)]
pub struct FactPacks {
    /// Chunks of facts, and behind them of the digests that they make.
    pub facts: Vec<Bytes>,
    /// The vectors of each of those chunks.
    pub vectors: Vec<Bytes>,
    /// What ranks them, where that is worth to be read apart: of many facts whose sessions all have names.
    pub outline: Vec<Bytes>,
}

/// From so many facts on an answer is had earlier by reading what ranks them, and then what is shown, than by reading everything.
pub const OUTLINED: usize = 1_500;

impl FactPacks {
    fn push(&mut self, inputs: &[FactInput<'_>]) -> FactChunk {
        let (facts, vectors) = (Bytes::from(encode_facts(inputs)), Bytes::from(encode_vectors(inputs)));
        let chunk = FactChunk::decode(facts.clone(), vectors.clone()).expect("what was just encoded can be decoded");
        self.facts.push(facts);
        self.vectors.push(vectors);
        chunk
    }

    /// The chunks, taken apart.
    ///
    /// # Errors
    /// They are not what [`pack`] of this version made.
    pub fn chunks(&self) -> Result<Vec<FactChunk>, PackError> {
        self.facts.iter().zip(&self.vectors).map(|(facts, vectors)| FactChunk::decode(facts.clone(), vectors.clone())).collect()
    }
}

/// All facts of complete rows as chunks; the rows' vectors are those of `model`. An outline is made from `outlined` facts on.
///
/// # Panics
/// There are more than 65,535 chunks of them.
#[must_use]
pub fn pack(entity_key: &EntityKey, rows: &FactRows, model: Option<&str>, outlined: usize) -> FactPacks {
    let mut packs = FactPacks::default();
    let mut chunks: Vec<FactChunk> =
        fact_inputs(rows, model, |_| None).chunks(CHUNK_ITEMS).map(|inputs| packs.push(inputs)).collect();
    let segments: Vec<Segment<FactChunk>> = chunks.iter().cloned().map(Segment::whole).collect();
    let sessions = SessionTable::of(entity_key, &segments, &rows.unnamed);
    let members = Members::of(&segments, &sessions);
    let digests = members.digests(entity_key, rows.generation, &rows.forgets, None);
    members.inputs(&digests, &[], |inputs| chunks.extend(inputs.chunks(CHUNK_ITEMS).map(|inputs| packs.push(inputs))));
    if rows.facts.len() >= outlined && rows.unnamed.is_empty() && rows.forgets.is_empty() {
        let dimensions = rows.facts.iter().find_map(|fact| Some(fact.vector.as_ref()?.values.len()));
        let model = model.zip(dimensions).map(|(id, dimensions)| Model { id: id.into(), dimensions });
        let nothing_since = FactRows { generation: rows.generation, ..FactRows::default() };
        let image = EntityImage::unpack(entity_key, chunks, Vec::new(), &nothing_since, model.as_ref());
        packs.outline = image.outline().into_iter().map(Bytes::from).collect();
    }
    packs
}

impl EntityImage {
    /// Of an entity that nobody has heard of.
    #[must_use]
    pub fn empty(generation: i32) -> Self {
        Self { generation, ..Self::default() }
    }

    /// From all rows, with what `previous` has already taken apart.
    #[must_use]
    pub fn build(entity_key: &EntityKey, rows: FactRows, model: Option<&Model>, previous: Option<&Self>) -> Self {
        let mut known = HashMap::new();
        if let Some(previous) = previous {
            for segment in &previous.items.segments {
                for input in segment.chunk.inputs() {
                    let print = (input.fact_id, input.occurred_at_us);
                    known.insert(print, (input.content.to_owned(), input.analysed));
                }
            }
        }
        let of_model = model.map(|model| &*model.id);
        let inputs = fact_inputs(&rows, of_model, |row| {
            let (content, analysed) = known.get(&(row.fact_id, row.rep_occurred_at_us))?;
            (*content == row.body).then(|| analysed.clone())
        });
        let segments = inputs.chunks(CHUNK_ITEMS).map(segment).collect();
        let head = Head::of(&rows);
        let before = previous.map_or(Before::Nothing, Before::Image);
        Self::assemble(entity_key, head, segments, model.cloned(), Arc::new(rows.unnamed), &rows.forgets, before)
    }

    /// From packed chunks and what changed after they were packed.
    #[must_use]
    pub fn unpack(
        entity_key: &EntityKey,
        chunks: Vec<FactChunk>,
        mut unnamed: Vec<UnnamedRow>,
        since: &FactRows,
        model: Option<&Model>,
    ) -> Self {
        let (made, stored): (Vec<_>, Vec<_>) = chunks.into_iter().map(Segment::whole).partition(|s| holds_digests(&s.chunk));
        let before = Before::Packed { made, unchanged: since.facts.is_empty() && since.unnamed.is_empty() };
        let segments = with_changes(stored, since, model);
        join(&mut unnamed, &since.unnamed);
        Self::assemble(entity_key, Head::of(since), segments, model.cloned(), Arc::new(unnamed), &since.forgets, before)
    }

    /// The image after `since`: every changed fact complete, and events without a session that came.
    #[must_use]
    pub fn refreshed(&self, entity_key: &EntityKey, since: &FactRows) -> Self {
        let stored = self.items.segments[..self.stored_segments].to_vec();
        let segments = with_changes(stored, since, self.model.as_ref());
        let unnamed = if since.unnamed.is_empty() {
            self.unnamed.clone()
        } else {
            let mut unnamed = self.unnamed.to_vec();
            join(&mut unnamed, &since.unnamed);
            Arc::new(unnamed)
        };
        Self::assemble(entity_key, Head::of(since), segments, self.model.clone(), unnamed, &since.forgets, Before::Image(self))
    }

    fn assemble(
        entity_key: &EntityKey,
        head: Head,
        mut segments: Vec<Segment<FactChunk>>,
        model: Option<Model>,
        unnamed: Arc<Vec<UnnamedRow>>,
        forgotten: &[ForgottenRow],
        before: Before<'_>,
    ) -> Self {
        let stored_segments = segments.len();
        let (sessions, replaced, digests) = match before {
            Before::Packed { made, unchanged: true } if !made.is_empty() => {
                segments.extend(made);
                let sessions = SessionTable::of(entity_key, &segments, &unnamed);
                let replaced = Members::of(&segments[..stored_segments], &sessions).replaced();
                (sessions, replaced, Digests::default())
            }
            before => {
                let sessions = SessionTable::of(entity_key, &segments, &unnamed);
                let members = Members::of(&segments, &sessions);
                let (known, made_before) = match &before {
                    Before::Image(image) => {
                        let of_this_generation = image.generation == head.generation;
                        (of_this_generation.then_some(&image.digests), &image.items.segments[image.stored_segments..])
                    }
                    Before::Packed { made, .. } => (None, &made[..]),
                    Before::Nothing => (None, &[][..]),
                };
                let digests = members.digests(entity_key, head.generation, forgotten, known);
                let (made, replaced) = (members.segments(&digests, made_before), members.places_of(&digests.replaced));
                if made.is_empty() {
                    (sessions, replaced, digests)
                } else {
                    segments.extend(made);
                    (SessionTable::of(entity_key, &segments, &unnamed), replaced, digests)
                }
            }
        };
        let mut order = Items::places(&segments);
        order.retain(|place| replaced.is_empty() || !replaced.contains(&(place.segment, place.item)));
        let view = |place: &Place| segments[place.segment as usize].chunk.fact(place.item as usize);
        // Chunks are sorted and mostly follow each other, which a stable sort uses.
        order.sort_by(|a, b| {
            let is_made = |place: &Place| place.segment as usize >= stored_segments;
            let apart = is_made(a).cmp(&is_made(b));
            let (a, b) = (view(a), view(b));
            apart
                .then_with(|| a.occurred_at_us().cmp(&b.occurred_at_us()))
                .then_with(|| a.rep_event_id().cmp(b.rep_event_id()))
                .then_with(|| a.rep_message_index().cmp(&b.rep_message_index()))
                .then_with(|| a.fact_id().cmp(&b.fact_id()))
        });
        let (subjects, numbers) = names(&segments, |chunk| chunk.subjects());
        let mut groups = Vec::with_capacity(order.len());
        let mut subjects_of = Vec::with_capacity(order.len());
        let mut traits = Vec::with_capacity(order.len());
        let mut instructions = Vec::new();
        let mut languages = Languages::default();
        for (number, place) in (0_u32..).zip(&order) {
            let fact = view(place);
            let kind = fact.kind();
            let alone = matches!(kind, FactKind::Summary | FactKind::Timeline | FactKind::Instruction);
            let session = fact.session_number().filter(|_| !alone);
            groups.push(session.map_or(NONE, |session| sessions.number(place.segment, session)));
            subjects_of.push(fact.subject_number().map_or(NONE, |subject| numbers[place.segment as usize][subject]));
            let mut intervals = fact.intervals();
            let unbounded = intervals.len() == 1 && intervals.next().is_some_and(|interval| interval.to_us.is_none());
            traits.push(Traits::of(kind, !unbounded, fact.is_dated()));
            languages = languages.union(fact.languages());
            if kind == FactKind::Instruction {
                instructions.push(number);
            }
        }
        let first_digest = order.partition_point(|place| (place.segment as usize) < stored_segments);
        let items = Items::arranged(segments, order);
        let vectors = model.as_ref().and_then(|model| VectorIndex::of(model, &items, &groups));
        let of_unnamed: usize = unnamed.iter().map(|row| size_of::<UnnamedRow>() + row.event.event_id.len()).sum();
        let bytes = items.bytes()
            + sessions.bytes()
            + of_unnamed
            + items.len() * 9
            + subjects.iter().map(|words| words.len() * 8 + 16).sum::<usize>()
            + vectors.as_ref().map_or(0, VectorIndex::bytes)
            + digests.bytes();
        let Head { version, epoch, generation } = head;
        Self {
            version,
            epoch,
            generation,
            languages,
            bytes,
            items,
            groups,
            subjects_of,
            subjects,
            instructions,
            vectors,
            sessions,
            traits,
            unnamed,
            model,
            forgotten: forgotten.to_vec(),
            stored_segments,
            digests,
            first_digest,
        }
    }

    /// The number of facts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A fact by its number.
    #[must_use]
    pub fn fact(&self, number: usize) -> FactView<'_> {
        let place = self.items.order[number];
        self.items.segments[place.segment as usize].chunk.fact(place.item as usize)
    }

    /// All facts, by their numbers.
    pub fn facts(&self) -> impl ExactSizeIterator<Item = FactView<'_>> {
        (0..self.len()).map(|number| self.fact(number))
    }

    /// The number of a fact.
    #[must_use]
    pub fn find(&self, fact_id: FactId) -> Option<usize> {
        self.facts().position(|fact| fact.fact_id() == fact_id)
    }

    /// Of the digest by rules of this id, the hash of its identity and what it rests on: its facts, and the messages that count for it.
    #[must_use]
    pub fn digest(&self, entity_key: &EntityKey, fact_id: FactId) -> Option<(TextHash, Vec<(FactId, MessageKey)>)> {
        self.find(fact_id).filter(|number| *number >= self.first_digest)?;
        let members = Members::of(&self.items.segments[..self.stored_segments], &self.sessions);
        // Packed digests come without what they were made of.
        let made = self.digests.list.is_empty().then(|| members.digests(entity_key, self.generation, &self.forgotten, None));
        let digest = made.as_ref().unwrap_or(&self.digests).list.iter().find(|digest| digest.fact_id == fact_id)?;
        Some((digest.text_hash, members.evidence(digest)))
    }

    /// The session of one of a fact's sources; none while its event has not arrived.
    #[must_use]
    pub fn session_of(&self, number: usize, source: &SourceView<'_>) -> Option<&str> {
        self.sessions.id(self.items.order[number].segment, source.session_number()).map(|id| &**id)
    }

    /// The model whose vectors it holds.
    #[must_use]
    pub fn model(&self) -> Option<&Model> {
        self.vectors.as_ref().map(|vectors| &vectors.model)
    }

    /// What ranks it, as chunks.
    fn outline(&self) -> Vec<Vec<u8>> {
        let mut terms: Vec<_> = self.items.segments.iter().map(|segment| segment.chunk.terms()).collect();
        let items: Vec<OutlineItem> = (0..self.len())
            .map(|number| {
                let (place, fact) = (self.items.order[number], self.fact(number));
                let traits = self.traits[number];
                OutlineItem {
                    fact_id: fact.fact_id(),
                    last_mentioned_at_us: fact.last_mentioned_at_us(),
                    place: (u16_of(place.segment), u16_of(place.item)),
                    group: self.groups[number],
                    subject: self.subjects_of[number],
                    traits,
                    words: self.items.words[number],
                    lengths: self.vectors.as_ref().map_or([0.0; 2], |vectors| vectors.lengths(number)),
                    bounds: if traits.is_bounded() { fact.intervals().collect() } else { Vec::new() },
                    terms: std::mem::take(&mut terms[place.segment as usize][place.item as usize]),
                }
            })
            .collect();
        let head = OutlineHead {
            items: items.len(),
            bytes: self.bytes,
            segments: self.items.segments.len(),
            first_digest: self.first_digest,
            languages: self.languages,
            vectors: self.vectors.is_some(),
        };
        encode_outline(head, &self.subjects, &items)
    }
}

fn u16_of(n: u32) -> u16 {
    u16::try_from(n).expect("a packed entity has few enough chunks, and a chunk few enough items")
}

impl Facts for EntityImage {
    fn len(&self) -> usize {
        self.items.len()
    }

    fn languages(&self) -> Languages {
        self.languages
    }

    fn hits(&self, word: &QueryWord, into: &mut WordHits) {
        self.items.hits(word, into);
    }

    #[inline]
    fn words(&self) -> (&[u32], f64) {
        (&self.items.words, self.items.mean_words)
    }

    #[inline]
    fn groups(&self) -> &[u32] {
        &self.groups
    }

    fn subjects(&self) -> &[Box<[Term]>] {
        &self.subjects
    }

    #[inline]
    fn subject_of(&self, number: usize) -> u32 {
        self.subjects_of[number]
    }

    #[inline]
    fn traits(&self, number: usize) -> Traits {
        self.traits[number]
    }

    #[inline]
    fn first_digest(&self) -> usize {
        self.first_digest
    }

    fn instructions(&self) -> &[u32] {
        &self.instructions
    }

    fn likeness(&self, query: &Embedding) -> Option<Likeness> {
        let vectors = self.vectors.as_ref()?;
        Some(vectors.likeness(self.items.vectors(&vectors.model), &self.groups, query))
    }

    fn fact_id(&self, number: usize) -> FactId {
        self.fact(number).fact_id()
    }

    fn last_mentioned_at_us(&self, number: usize) -> i64 {
        self.fact(number).last_mentioned_at_us()
    }

    fn is_out_of_force(&self, number: usize, as_of: Option<Micros>, now: Micros) -> bool {
        self.fact(number).holds(as_of, now).1
    }
}

fn segment(inputs: &[FactInput<'_>]) -> Segment<FactChunk> {
    Segment::whole(FactChunk::of(inputs))
}

/// The segments once these facts stand in them anew.
fn with_changes(mut segments: Vec<Segment<FactChunk>>, since: &FactRows, model: Option<&Model>) -> Vec<Segment<FactChunk>> {
    if since.facts.is_empty() {
        return segments;
    }
    let changed: HashSet<FactId> = since.facts.iter().map(|fact| fact.fact_id).collect();
    for segment in &mut segments {
        let chunk = segment.chunk.clone();
        segment.alive.retain(|item| !changed.contains(&chunk.fact(usize::from(*item)).fact_id()));
    }
    segments.retain(|segment| !segment.alive.is_empty());
    let alive: usize = segments.iter().map(|segment| segment.alive.len()).sum();
    let held: usize = segments.iter().map(|segment| segment.chunk.len()).sum();
    // Chunks of which most is gone cost memory and hits: then all are written anew.
    let count = if held > 2 * alive + CHUNK_ITEMS { segments.len() } else { absorbed(&segments, since.facts.len(), CHUNK_ITEMS) };
    let taken = segments.split_off(segments.len() - count);
    let mut inputs: Vec<FactInput<'_>> = fact_inputs(since, model.map(|model| &*model.id), |_| None);
    for segment in &taken {
        let mut of_chunk: Vec<Option<FactInput<'_>>> = segment.chunk.inputs().into_iter().map(Some).collect();
        inputs.extend(segment.alive.iter().filter_map(|item| of_chunk[usize::from(*item)].take()));
    }
    inputs.sort_by(|a, b| order_of_facts(a).cmp(&order_of_facts(b)));
    segments.extend(inputs.chunks(CHUNK_ITEMS).map(segment));
    segments
}

/// Adds the events that are not there yet.
pub(super) fn join(unnamed: &mut Vec<UnnamedRow>, more: &[UnnamedRow]) {
    if more.is_empty() {
        return;
    }
    let known: HashSet<(String, [u8; 32])> = unnamed.iter().map(|row| (row.event.event_id.clone(), row.content_hash.0)).collect();
    let new = more.iter().filter(|row| !known.contains(&(row.event.event_id.clone(), row.content_hash.0)));
    unnamed.extend(new.cloned());
}
