//! What ranks an entity's facts, without what they say: read where an image of them is not at hand, so that only the few that an
//! answer shows have to be read besides.
//!
//! Promises: it is made of packs that show the entity as it is, and ranks as the image of the same packs does, to the last bit of
//! every score. What it does not know (texts, who said it, when everything held) it is not asked for: [`can_answer`].

use memori_embedding::Embedding;
use memori_schemas::{FactId, Micros};

use super::items::{Likeness, Model, NONE, VectorIndex, WordHits, hits_of};
use super::language::Languages;
use super::packed::{Interval, OUTLINE_ITEMS, OutlineChunk, OutlineHead, PackError, VectorChunk};
use super::query::RecallQuery;
use super::rank_facts::Facts;
use super::text::{QueryWord, Term};
use super::traits::Traits;

/// Whether an outline knows all that the answer to a query depends on.
#[must_use]
pub fn can_answer(query: &RecallQuery) -> bool {
    !query.include_messages && query.process_id.is_none() && query.session_id.is_none() && query.as_of.is_none()
}

/// What ranks the facts of an entity, in the order of their image.
#[derive(Debug)]
pub struct Outline {
    head: OutlineHead,
    chunks: Vec<OutlineChunk>,
    subjects: Vec<Box<[Term]>>,
    groups: Vec<u32>,
    subjects_of: Vec<u32>,
    traits: Vec<Traits>,
    words: Vec<u32>,
    mean_words: f64,
    instructions: Vec<u32>,
    vectors: Option<VectorIndex>,
    vector_chunks: Vec<VectorChunk>,
    /// The number of each item of each chunk of facts, or [`NONE`].
    numbers: Vec<Box<[u32]>>,
}

impl Outline {
    /// Of its chunks and those of the vectors, all in their order. `None` where it does not know the vectors of `model`.
    ///
    /// # Errors
    /// They do not belong together.
    pub fn of(
        mut chunks: Vec<OutlineChunk>,
        vector_chunks: Vec<VectorChunk>,
        model: Option<&Model>,
    ) -> Result<Option<Self>, PackError> {
        let wrong = || PackError::Malformed("an outline");
        let head = chunks.first().and_then(OutlineChunk::head).ok_or_else(wrong)?;
        let subjects = chunks[0].take_subjects();
        let count: usize = chunks.iter().map(OutlineChunk::len).sum();
        let last = chunks.len() - 1;
        let full = chunks[..last].iter().all(|chunk| chunk.len() == OUTLINE_ITEMS);
        let single = chunks[1..].iter().all(|chunk| chunk.head().is_none());
        if count != head.items || !full || !single || head.segments != vector_chunks.len() || head.first_digest > count {
            return Err(wrong());
        }
        let mut numbers: Vec<Box<[u32]>> = vector_chunks.iter().map(|chunk| vec![NONE; chunk.len()].into()).collect();
        let mut groups = Vec::with_capacity(count);
        let mut subjects_of = Vec::with_capacity(count);
        let mut traits = Vec::with_capacity(count);
        let mut words = Vec::with_capacity(count);
        let mut instructions = Vec::new();
        let (mut own, mut with_neighbours) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut number = 0_u32;
        for chunk in &chunks {
            for item in 0..chunk.len() {
                let (segment, place) = chunk.place(item);
                let at = numbers.get_mut(usize::from(segment)).and_then(|of| of.get_mut(usize::from(place))).ok_or_else(wrong)?;
                let subject = chunk.subject(item);
                if *at != NONE || (subject != NONE && subject as usize >= subjects.len()) {
                    return Err(wrong());
                }
                *at = number;
                groups.push(chunk.group(item));
                subjects_of.push(subject);
                words.push(chunk.words(item));
                let of_item = chunk.traits(item);
                if of_item.kind() == memori_schemas::FactKind::Instruction {
                    instructions.push(number);
                }
                traits.push(of_item);
                let [length, length_with_neighbours] = chunk.lengths(item);
                own.push(length);
                with_neighbours.push(length_with_neighbours);
                number += 1;
            }
        }
        let vectors = match model.filter(|_| head.vectors) {
            None => None,
            Some(model) if vector_chunks.iter().any(|chunk| chunk.of_model(model).is_some()) => {
                Some(VectorIndex::known(model, own, with_neighbours))
            }
            Some(_) => return Ok(None),
        };
        let mean_words = super::items::mean(&words);
        Ok(Some(Self {
            head,
            chunks,
            subjects,
            groups,
            subjects_of,
            traits,
            words,
            mean_words,
            instructions,
            vectors,
            vector_chunks,
            numbers,
        }))
    }

    /// What an image of the same facts holds, about.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        self.head.bytes
    }

    /// The model whose vectors it knows.
    #[must_use]
    pub fn model(&self) -> Option<&Model> {
        self.vectors.as_ref().map(|vectors| &vectors.model)
    }

    /// The chunk of facts that a digest by rules stands in; none for what is stored.
    #[must_use]
    pub fn digest_chunk(&self, number: usize) -> Option<u16> {
        (number >= self.head.first_digest).then(|| self.at(number, OutlineChunk::place).0)
    }

    fn at<T>(&self, number: usize, of: impl FnOnce(&OutlineChunk, usize) -> T) -> T {
        of(&self.chunks[number / OUTLINE_ITEMS], number % OUTLINE_ITEMS)
    }
}

/// Whether a fact no longer holds, by the intervals in which it does.
fn is_over(mut intervals: impl DoubleEndedIterator<Item = Interval>, now: Micros) -> bool {
    let Some(last) = intervals.next_back() else { return false };
    let holds = |interval: &Interval| interval.from_us <= now.0 && interval.to_us.is_none_or(|to| now.0 < to);
    !holds(&last) && intervals.all(|interval| !holds(&interval)) && last.to_us.is_some_and(|to| to <= now.0)
}

impl Facts for Outline {
    fn len(&self) -> usize {
        self.traits.len()
    }

    fn languages(&self) -> Languages {
        self.head.languages
    }

    fn hits(&self, word: &QueryWord, into: &mut WordHits) {
        into.begin(self.traits.len());
        for (first, chunk) in (0_u32..).step_by(OUTLINE_ITEMS).zip(&self.chunks) {
            hits_of(word, |term| chunk.hits(term), |item| Some(first + u32::from(item)), into);
        }
    }

    fn words(&self) -> (&[u32], f64) {
        (&self.words, self.mean_words)
    }

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

    fn first_digest(&self) -> usize {
        self.head.first_digest
    }

    fn instructions(&self) -> &[u32] {
        &self.instructions
    }

    fn likeness(&self, query: &Embedding) -> Option<Likeness> {
        let vectors = self.vectors.as_ref()?;
        let of_model = |chunk| VectorChunk::of_model(chunk, &vectors.model);
        let chunks = self.vector_chunks.iter().zip(&self.numbers);
        let chunks = chunks.filter_map(|(chunk, numbers)| Some((of_model(chunk)?, &**numbers)));
        Some(vectors.likeness(chunks, &self.groups, query))
    }

    fn fact_id(&self, number: usize) -> FactId {
        self.at(number, OutlineChunk::fact_id)
    }

    fn last_mentioned_at_us(&self, number: usize) -> i64 {
        self.at(number, OutlineChunk::last_mentioned_at_us)
    }

    fn is_out_of_force(&self, number: usize, _: Option<Micros>, now: Micros) -> bool {
        self.at(number, |chunk, item| is_over(chunk.bounds(item), now))
    }
}
