//! Chunks of an outline: what ranking needs of an entity's facts beside their vectors, in the order of an image of them.
//!
//! It is derived from the image that the chunks of facts make, and says where in them each fact stands. The first chunk says too what
//! is said once of the entity.

use std::mem::size_of;

use bytes::Bytes;
use memori_schemas::FactId;
use uuid::Uuid;

use super::layout::{self, Column, Put, u32_of};
use super::tables::{Words, write_words};
use super::{Interval, OUTLINE, PackError};
use crate::recall::language::Languages;
use crate::recall::text::{self, Term};
use crate::recall::traits::Traits;

/// Facts of a chunk: each takes about an eighth of what a fact with its vector and its texts takes.
pub(in crate::recall) const OUTLINE_ITEMS: usize = 2_048;

/// What is said once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::recall) struct OutlineHead {
    /// Facts in all chunks.
    pub(in crate::recall) items: usize,
    /// What an image of them holds, about.
    pub(in crate::recall) bytes: usize,
    /// Chunks of facts that they stand in.
    pub(in crate::recall) segments: usize,
    /// From this fact on they are digests by rules.
    pub(in crate::recall) first_digest: usize,
    pub(in crate::recall) languages: Languages,
    /// Whether the lengths of vectors of a model are known.
    pub(in crate::recall) vectors: bool,
}

/// One fact.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::recall) struct OutlineItem {
    pub(in crate::recall) fact_id: FactId,
    pub(in crate::recall) last_mentioned_at_us: i64,
    /// The chunk of facts that it stands in, and its place there.
    pub(in crate::recall) place: (u16, u16),
    /// What it shares with its neighbours, or none.
    pub(in crate::recall) group: u32,
    /// Its subject's number, or none.
    pub(in crate::recall) subject: u32,
    /// As [`Traits`] has them.
    pub(in crate::recall) traits: Traits,
    pub(in crate::recall) words: u32,
    /// Of its vector, and of that with half of each neighbour's; 0 is none.
    pub(in crate::recall) lengths: [f32; 2],
    /// When it holds, where it may not hold.
    pub(in crate::recall) bounds: Vec<Interval>,
    pub(in crate::recall) terms: Vec<(Term, u16)>,
}

const HEAD_BYTES: usize = 28;
const ITEM_BYTES: usize = 40;
const LENGTHS_BYTES: usize = 8;
const BOUND_BYTES: usize = 21;

// Places in a record.
const LAST: usize = 16;
const SEGMENT: usize = 24;
const ITEM: usize = 26;
const GROUP: usize = 28;
const SUBJECT: usize = 32;
const WORDS: usize = 36;
/// The number of words, below the byte of the traits.
const MOST_WORDS: u32 = 0x00FF_FFFF;

/// An outline as chunks; subjects are hashes of folded words.
///
/// # Panics
/// There are more than 4 GiB of it.
pub(in crate::recall) fn encode_outline(head: OutlineHead, subjects: &[Box<[Term]>], items: &[OutlineItem]) -> Vec<Vec<u8>> {
    let chunks = items.chunks(OUTLINE_ITEMS).enumerate();
    chunks.map(|(n, items)| if n == 0 { encode(Some((head, subjects)), items) } else { encode(None, items) }).collect()
}

fn encode(head: Option<(OutlineHead, &[Box<[Term]>])>, items: &[OutlineItem]) -> Vec<u8> {
    let (mut heads, mut starts, mut words) = (Vec::new(), Vec::new(), Vec::new());
    if let Some((head, subjects)) = head {
        heads.put_u32(u32_of(head.items));
        heads.put_u64(head.bytes as u64);
        heads.put_u32(u32_of(head.segments));
        heads.put_u32(u32_of(head.first_digest));
        heads.put_u32(head.languages.bits());
        heads.put_u32(u32::from(head.vectors));
        for subject in subjects {
            starts.put_u32(u32_of(words.len() / size_of::<Term>()));
            subject.iter().for_each(|word| words.put_u64(*word));
        }
        starts.put_u32(u32_of(words.len() / size_of::<Term>()));
    }
    let mut records = Vec::with_capacity(items.len() * ITEM_BYTES);
    let (mut lengths, mut bounds) = (Vec::new(), Vec::new());
    for (n, item) in items.iter().enumerate() {
        records.extend_from_slice(item.fact_id.0.as_bytes());
        records.put_i64(item.last_mentioned_at_us);
        records.put_u16(item.place.0);
        records.put_u16(item.place.1);
        records.put_u32(item.group);
        records.put_u32(item.subject);
        records.put_u32(item.words.min(MOST_WORDS) | u32::from(item.traits.0) << 24);
        item.lengths.iter().for_each(|length| lengths.extend_from_slice(&length.to_le_bytes()));
        for interval in &item.bounds {
            bounds.put_u32(u32_of(n));
            bounds.put_i64(interval.from_us);
            bounds.put_i64(interval.to_us.unwrap_or_default());
            bounds.push(u8::from(interval.to_us.is_some()));
        }
    }
    let [terms, term_starts, entries] = write_words(items.iter().map(|item| item.terms.as_slice()));
    layout::close(
        OUTLINE,
        text::VERSION,
        items.len(),
        &[heads, starts, words, records, lengths, bounds, terms, term_starts, entries],
    )
}

/// A chunk of an outline, checked.
#[derive(Debug)]
pub struct OutlineChunk {
    head: Option<OutlineHead>,
    subjects: Vec<Box<[Term]>>,
    count: usize,
    records: Column,
    lengths: Column,
    bounds: Column,
    words: Words,
}

impl OutlineChunk {
    /// Takes the bytes of a chunk apart: they are checked and then used where they are.
    ///
    /// # Errors
    /// They are not what the encoder of this version wrote.
    pub fn decode(bytes: impl Into<Bytes>) -> Result<Self, PackError> {
        let (count, sections) = layout::open::<9>(&bytes.into(), OUTLINE, text::VERSION)?;
        let [head, starts, subjects, records, lengths, bounds, terms, term_starts, entries] = sections;
        if count > OUTLINE_ITEMS {
            return Err(PackError::Malformed("too many items"));
        }
        let (head, starts, subjects) = (Column(head), Column(starts), Column(subjects));
        let head = (head.rows(HEAD_BYTES)? == 1).then(|| OutlineHead {
            items: head.u32(0) as usize,
            bytes: usize::try_from(head.u64(4)).unwrap_or(usize::MAX),
            segments: head.u32(12) as usize,
            first_digest: head.u32(16) as usize,
            languages: Languages::of_bits(head.u32(20)),
            vectors: head.u32(24) != 0,
        });
        let chunk = Self {
            head,
            subjects: subjects_of(&starts, &subjects)?,
            count,
            records: Column(records),
            lengths: Column(lengths),
            bounds: Column(bounds),
            words: Words::open(terms, term_starts, entries, count)?,
        };
        chunk.records.expect_rows(ITEM_BYTES, count)?;
        chunk.lengths.expect_rows(LENGTHS_BYTES, count)?;
        let bounds = chunk.bounds.rows(BOUND_BYTES)?;
        let rising = (1..bounds).all(|n| chunk.bounds.u32((n - 1) * BOUND_BYTES) <= chunk.bounds.u32(n * BOUND_BYTES));
        let inside = bounds == 0 || (chunk.bounds.u32((bounds - 1) * BOUND_BYTES) as usize) < count;
        if !rising || !inside || !(0..count).all(|item| chunk.traits(item).is_good()) {
            return Err(PackError::Malformed("an item of an outline"));
        }
        Ok(chunk)
    }

    pub(in crate::recall) fn head(&self) -> Option<OutlineHead> {
        self.head
    }

    pub(in crate::recall) fn take_subjects(&mut self) -> Vec<Box<[Term]>> {
        std::mem::take(&mut self.subjects)
    }

    pub(in crate::recall) fn len(&self) -> usize {
        self.count
    }

    pub(in crate::recall) fn fact_id(&self, item: usize) -> FactId {
        FactId(Uuid::from_bytes(self.records.array(item * ITEM_BYTES)))
    }

    pub(in crate::recall) fn last_mentioned_at_us(&self, item: usize) -> i64 {
        self.records.i64(item * ITEM_BYTES + LAST)
    }

    pub(in crate::recall) fn place(&self, item: usize) -> (u16, u16) {
        (self.records.u16(item * ITEM_BYTES + SEGMENT), self.records.u16(item * ITEM_BYTES + ITEM))
    }

    pub(in crate::recall) fn group(&self, item: usize) -> u32 {
        self.records.u32(item * ITEM_BYTES + GROUP)
    }

    pub(in crate::recall) fn subject(&self, item: usize) -> u32 {
        self.records.u32(item * ITEM_BYTES + SUBJECT)
    }

    pub(in crate::recall) fn words(&self, item: usize) -> u32 {
        self.records.u32(item * ITEM_BYTES + WORDS) & MOST_WORDS
    }

    pub(in crate::recall) fn traits(&self, item: usize) -> Traits {
        Traits(self.records.0[item * ITEM_BYTES + WORDS + 3])
    }

    pub(in crate::recall) fn lengths(&self, item: usize) -> [f32; 2] {
        [self.lengths.f32(item * LENGTHS_BYTES), self.lengths.f32(item * LENGTHS_BYTES + 4)]
    }

    /// When an item holds that may not hold, in order.
    pub(in crate::recall) fn bounds(&self, item: usize) -> impl DoubleEndedIterator<Item = Interval> + '_ {
        let all = self.bounds.0.len() / BOUND_BYTES;
        let below = |item: usize| {
            let (mut low, mut high) = (0, all);
            while low < high {
                let middle = usize::midpoint(low, high);
                if (self.bounds.u32(middle * BOUND_BYTES) as usize) < item { low = middle + 1 } else { high = middle }
            }
            low
        };
        (below(item)..below(item + 1)).map(|n| {
            let at = n * BOUND_BYTES;
            let to_us = (self.bounds.0[at + 20] != 0).then(|| self.bounds.i64(at + 12));
            Interval { from_us: self.bounds.i64(at + 4), to_us }
        })
    }

    pub(in crate::recall) fn hits(&self, term: Term) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.words.hits(term)
    }
}

fn subjects_of(starts: &Column, words: &Column) -> Result<Vec<Box<[Term]>>, PackError> {
    let (count, all) = (starts.rows(4)?, words.rows(size_of::<Term>())?);
    let start = |n: usize| starts.u32(n * 4) as usize;
    if count == 0 {
        return if all == 0 { Ok(Vec::new()) } else { Err(PackError::Malformed("its subjects")) };
    }
    if start(0) != 0 || start(count - 1) != all || (1..count).any(|n| start(n) < start(n - 1)) {
        return Err(PackError::Malformed("its subjects"));
    }
    let word = |n: usize| words.u64(n * size_of::<Term>());
    Ok((1..count).map(|n| (start(n - 1)..start(n)).map(word).collect()).collect())
}
