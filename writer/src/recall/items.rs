//! The items of an entity over its chunks: which are there, in which order, and how like a query each is.
//!
//! What is computed depends on the items alone and not on which chunk holds which, so an image that was brought up to date and one
//! that was read anew answer alike to the last bit.

use std::collections::HashMap;
use std::sync::Arc;

use memori_embedding::Embedding;
use memori_schemas::EntityKey;

use super::bm25::{K1, LENGTH_SHARE};
use super::islands::{self, Unnamed};
use super::packed::{FactChunk, MessageChunk, SessionRef, Vectors};
use super::text::{QueryWord, Term};
use crate::reads::rows::UnnamedRow;

/// Stands for an item that is no longer there, a session that is not known, a name that nobody has.
pub(super) const NONE: u32 = u32::MAX;

/// The model whose vectors an image holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Its id and version.
    pub id: Arc<str>,
    /// Components of its vectors.
    pub dimensions: usize,
}

/// What chunks of facts and of messages have in common.
pub(super) trait Chunk: Send + Sync {
    fn len(&self) -> usize;
    fn bytes(&self) -> usize;
    fn words(&self, item: usize) -> u32;
    fn hits(&self, term: Term) -> impl Iterator<Item = (u16, u16)> + '_;
    fn vectors(&self, model: &Model) -> Option<&Vectors>;
    fn sessions(&self) -> impl Iterator<Item = SessionRef<'_>>;
}

macro_rules! chunk {
    ($type:ty, $item:ident) => {
        impl Chunk for $type {
            fn len(&self) -> usize {
                self.len()
            }
            fn bytes(&self) -> usize {
                self.bytes()
            }
            fn words(&self, item: usize) -> u32 {
                self.$item(item).words()
            }
            fn hits(&self, term: Term) -> impl Iterator<Item = (u16, u16)> + '_ {
                self.hits(term)
            }
            fn vectors(&self, model: &Model) -> Option<&Vectors> {
                self.vectors(model)
            }
            fn sessions(&self) -> impl Iterator<Item = SessionRef<'_>> {
                self.sessions()
            }
        }
    };
}
chunk!(FactChunk, fact);
chunk!(MessageChunk, message);

/// A chunk with what is left of it.
#[derive(Debug)]
pub(super) struct Segment<C> {
    pub(super) chunk: Arc<C>,
    /// Its items that count, in their order.
    pub(super) alive: Vec<u16>,
}

impl<C> Clone for Segment<C> {
    fn clone(&self) -> Self {
        Self { chunk: self.chunk.clone(), alive: self.alive.clone() }
    }
}

impl<C: Chunk> Segment<C> {
    /// All of it.
    pub(super) fn whole(chunk: C) -> Self {
        let alive = (0..chunk.len()).map(|item| u16::try_from(item).expect("a chunk has at most 65,535 items")).collect();
        Self { chunk: Arc::new(chunk), alive }
    }
}

/// The distinct names that chunks know, as hashes of their words, and the number of each name of each segment.
pub(super) fn names<'s, C, Names, Words>(
    segments: &'s [Segment<C>],
    of: impl Fn(&'s C) -> Names,
) -> (Vec<Box<[Term]>>, Vec<Vec<u32>>)
where
    Names: Iterator<Item = (&'s str, Words)>,
    Words: Iterator<Item = Term>,
{
    let mut known: HashMap<&str, u32> = HashMap::new();
    let mut names: Vec<Box<[Term]>> = Vec::new();
    let mut number = |(name, words): (&'s str, Words)| {
        *known.entry(name).or_insert_with(|| {
            names.push(words.collect());
            u32::try_from(names.len() - 1).expect("an entity has fewer than 2^32 names")
        })
    };
    let numbers = segments.iter().map(|segment| of(&segment.chunk).map(&mut number).collect()).collect();
    (names, numbers)
}

/// How many of the last segments a new one of `size` items takes in, so that segments stay few and each item is rewritten a few
/// times in its life.
pub(super) fn absorbed<C>(segments: &[Segment<C>], mut size: usize, most: usize) -> usize {
    let mut count = 0;
    for segment in segments.iter().rev() {
        let items = segment.alive.len();
        if items + size > most || items > 2 * size {
            break;
        }
        size += items;
        count += 1;
    }
    count
}

/// An item of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) item: u32,
}

/// The items that are there.
#[derive(Debug)]
pub(super) struct Items<C> {
    pub(super) segments: Vec<Segment<C>>,
    /// The places of the items in their order.
    pub(super) order: Vec<Place>,
    /// The number of each item of each segment, or [`NONE`].
    numbers: Vec<Box<[u32]>>,
    /// Words of each.
    pub(super) words: Vec<u32>,
    pub(super) mean_words: f64,
}

impl<C> Default for Items<C> {
    fn default() -> Self {
        Self { segments: Vec::new(), order: Vec::new(), numbers: Vec::new(), words: Vec::new(), mean_words: 0.0 }
    }
}

/// The counts of one query word, item by item.
#[derive(Default)]
pub(super) struct WordHits {
    /// How often each item has it; 0 again after each word.
    pub(super) counts: Vec<u16>,
    /// The items that have it.
    pub(super) items: Vec<u32>,
}

impl<C: Chunk> Items<C> {
    /// In an order of their places.
    pub(super) fn arranged(segments: Vec<Segment<C>>, order: Vec<Place>) -> Self {
        let mut numbers: Vec<Box<[u32]>> = segments.iter().map(|segment| vec![NONE; segment.chunk.len()].into()).collect();
        let mut words = Vec::with_capacity(order.len());
        for (number, place) in (0_u32..).zip(&order) {
            numbers[place.segment as usize][place.item as usize] = number;
            words.push(segments[place.segment as usize].chunk.words(place.item as usize));
        }
        let mean_words = mean(&words);
        Self { segments, order, numbers, words, mean_words }
    }

    /// Every place, segment by segment.
    pub(super) fn places(segments: &[Segment<C>]) -> Vec<Place> {
        let mut places = Vec::with_capacity(segments.iter().map(|segment| segment.alive.len()).sum());
        for (segment, of) in (0_u32..).zip(segments) {
            places.extend(of.alive.iter().map(|item| Place { segment, item: u32::from(*item) }));
        }
        places
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The items that have a query word.
    pub(super) fn hits(&self, word: &QueryWord, into: &mut WordHits) {
        into.begin(self.order.len());
        for (segment, numbers) in self.segments.iter().zip(&self.numbers) {
            let number = |item| Some(numbers[usize::from(item)]).filter(|number| *number != NONE);
            hits_of(word, |term| segment.chunk.hits(term), number, into);
        }
    }

    /// The vectors of a model, with the number of each item of their chunk.
    pub(super) fn vectors<'a>(&'a self, model: &'a Model) -> impl Iterator<Item = (&'a Vectors, &'a [u32])> {
        let chunks = self.segments.iter().zip(&self.numbers);
        chunks.filter_map(|(segment, numbers)| Some((segment.chunk.vectors(model)?, &**numbers)))
    }

    /// What the chunks and the order hold, about.
    pub(super) fn bytes(&self) -> usize {
        let of_segments: usize = self.segments.iter().map(|s| s.chunk.bytes() + s.alive.capacity() * 2 + 400).sum();
        of_segments
            + self.numbers.iter().map(|n| n.len() * 4).sum::<usize>()
            + self.order.capacity() * 8
            + self.words.capacity() * 4
    }
}

/// The items of one chunk that have a query word, by their numbers.
#[inline]
pub(super) fn hits_of<I: Iterator<Item = (u16, u16)>>(
    word: &QueryWord,
    find: impl Fn(Term) -> I,
    number: impl Fn(u16) -> Option<u32>,
    into: &mut WordHits,
) {
    for term in &word.alternatives {
        for (item, count) in find(*term) {
            let Some(number) = number(item) else { continue };
            let known = &mut into.counts[number as usize];
            if *known == 0 {
                into.items.push(number);
            }
            *known = (*known).max(count).max(1);
        }
    }
}

impl WordHits {
    /// Ready for the first word over so many items.
    pub(super) fn begin(&mut self, items: usize) {
        self.items.clear();
        if self.counts.len() < items {
            self.counts.resize(items, 0);
        }
    }

    /// Adds one word's part to the BM25 of the items that have it, of which each has so many words.
    pub(super) fn add(&self, weight: f64, (words, mean_words): (&[u32], f64), scores: &mut [f64]) {
        let rarity = rarity(weight, words.len(), self.items.len());
        for item in &self.items {
            let item = *item as usize;
            scores[item] += rarity * saturated(f64::from(self.counts[item]), words[item], mean_words);
        }
    }

    /// Ready for the next word.
    pub(super) fn clear(&mut self) {
        for item in self.items.drain(..) {
            self.counts[item as usize] = 0;
        }
    }
}

#[allow(clippy::cast_precision_loss)] // far below 2^52
pub(super) fn mean(words: &[u32]) -> f64 {
    let all: u64 = words.iter().map(|n| u64::from(*n)).sum();
    if words.is_empty() { 0.0 } else { all as f64 / words.len() as f64 }
}

/// What a word weighs that `having` of `all` documents have.
#[allow(clippy::cast_precision_loss)] // far below 2^52
pub(super) fn rarity(weight: f64, all: usize, having: usize) -> f64 {
    let (all, having) = (all as f64, having as f64);
    weight * (1.0 + (all - having + 0.5) / (having + 0.5)).ln()
}

/// What a word counts that stands so often in a document of so many words.
pub(super) fn saturated(count: f64, words: u32, mean_words: f64) -> f64 {
    let length = if mean_words > 0.0 { f64::from(words) / mean_words } else { 1.0 };
    count * (K1 + 1.0) / (count + K1 * (1.0 - LENGTH_SHARE + LENGTH_SHARE * length))
}

/// The sessions of an entity by number.
#[derive(Debug, Default)]
pub(super) struct SessionTable {
    pub(super) ids: Vec<Arc<str>>,
    of_segment: Vec<Box<[u32]>>,
}

impl SessionTable {
    /// Of segments, with the islands that these events make.
    pub(super) fn of<C: Chunk>(entity_key: &EntityKey, segments: &[Segment<C>], unnamed: &[UnnamedRow]) -> Self {
        let events: Vec<Unnamed> = unnamed.iter().map(|row| row.event.clone()).collect();
        let mut ids: Vec<Arc<str>> = Vec::new();
        let mut number_of_island = HashMap::new();
        let mut island_of_event: HashMap<(&str, &[u8]), u32> = HashMap::with_capacity(events.len());
        for (row, island) in unnamed.iter().zip(islands::islands(entity_key, &events)) {
            let number = *number_of_island.entry(island).or_insert_with(|| push(&mut ids, island.to_string().into()));
            island_of_event.insert((&row.event.event_id, &row.content_hash.0[..16]), number);
        }
        // Who takes a conversation up again by the id that was shown for its island is in that session.
        let mut named: HashMap<Arc<str>, u32> = ids.iter().cloned().zip(0..).collect();
        let of_segment = segments
            .iter()
            .map(|segment| {
                let number = |session| match session {
                    SessionRef::Unnamed(event, hash) => island_of_event.get(&(event, &hash[..])).copied().unwrap_or(NONE),
                    SessionRef::Named(id) => named.get(id).copied().unwrap_or_else(|| {
                        let id: Arc<str> = id.into();
                        let number = push(&mut ids, id.clone());
                        named.insert(id, number);
                        number
                    }),
                };
                segment.chunk.sessions().map(number).collect()
            })
            .collect();
        Self { ids, of_segment }
    }

    /// The number of a session of a segment, or [`NONE`].
    pub(super) fn number(&self, segment: u32, session: usize) -> u32 {
        self.of_segment[segment as usize][session]
    }

    /// The id of a session of a segment; none while its event has not arrived.
    pub(super) fn id(&self, segment: u32, session: usize) -> Option<&Arc<str>> {
        self.ids.get(self.number(segment, session) as usize)
    }

    pub(super) fn bytes(&self) -> usize {
        self.ids.iter().map(|id| id.len() + 32).sum::<usize>() + self.of_segment.iter().map(|of| of.len() * 4).sum::<usize>()
    }
}

fn push(ids: &mut Vec<Arc<str>>, id: Arc<str>) -> u32 {
    ids.push(id);
    u32::try_from(ids.len() - 1).expect("an entity has fewer than 2^32 sessions")
}

/// The neighbours of an item: those before and after it, where they belong together.
pub(super) fn beside(groups: &[u32], item: usize, steps: usize) -> [Option<usize>; 2] {
    let same = |other: &usize| groups[*other] == groups[item];
    if groups[item] == NONE {
        return [None, None];
    }
    let before = item.checked_sub(steps).filter(same);
    let after = Some(item + steps).filter(|other| *other < groups.len()).filter(same);
    [before, after]
}

/// The vectors of an image: how long each is, and how long it is together with half of each neighbour. 0 is none.
#[derive(Debug)]
pub(super) struct VectorIndex {
    pub(super) model: Model,
    lengths: Vec<f32>,
    with_neighbours: Vec<f32>,
}

/// A vector where it lies.
#[derive(Clone, Copy)]
struct Slot<'a> {
    vectors: &'a Vectors,
    slot: usize,
    scale: f32,
}

impl Slot<'_> {
    fn product(self, other: Self) -> i32 {
        if std::ptr::eq(self.vectors, other.vectors) {
            return self.vectors.product(self.slot.min(other.slot), self.slot.max(other.slot));
        }
        dot(self.vectors.get(self.slot).1, other.vectors.get(other.slot).1)
    }
}

/// How like a query each item is, in standard deviations from the mean of those that have a vector, a quarter of that; 0 is none.
#[derive(Default)]
pub(super) struct Likeness {
    pub(super) own: Vec<f32>,
    pub(super) with_neighbours: Vec<f32>,
}

/// Standard deviations count a quarter, so that a likeness weighs about as much as a word's score.
const DEVIATIONS: f64 = 4.0;

impl VectorIndex {
    /// Of items whose neighbours are those of the same group. `None` where there is no vector of the model.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // lengths, far inside f32
    pub(super) fn of<C: Chunk>(model: &Model, items: &Items<C>, groups: &[u32]) -> Option<Self> {
        let mut at: Vec<Option<Slot<'_>>> = vec![None; items.len()];
        let mut any = false;
        for (segment, numbers) in items.segments.iter().zip(&items.numbers) {
            let Some(vectors) = segment.chunk.vectors(model) else { continue };
            for slot in 0..vectors.len() {
                let number = numbers[vectors.item(slot)];
                if number != NONE {
                    let scale = vectors.scale(slot);
                    let usable = scale.is_finite() && scale > 0.0 && vectors.product(slot, slot) != 0;
                    at[number as usize] = usable.then_some(Slot { vectors, slot, scale });
                    any |= usable;
                }
            }
        }
        if !any {
            return None;
        }
        let product = |a: Option<Slot<'_>>, b: Option<Slot<'_>>| match (a, b) {
            (Some(a), Some(b)) => f64::from(a.scale) * f64::from(b.scale) * f64::from(a.product(b)),
            _ => 0.0,
        };
        let mut lengths = Vec::with_capacity(at.len());
        let mut with_neighbours = Vec::with_capacity(at.len());
        for item in 0..at.len() {
            let own = product(at[item], at[item]);
            let [before, after] = beside(groups, item, 1).map(|other| other.and_then(|other| at[other]));
            let around = 0.25 * (product(before, before) + product(after, after))
                + product(at[item], before)
                + product(at[item], after)
                + 0.5 * product(before, after);
            // A scale beyond all bounds is no vector.
            let length = |square: f64| Some(square.max(0.0).sqrt() as f32).filter(|length| length.is_finite()).unwrap_or(0.0);
            lengths.push(length(own));
            with_neighbours.push(length(own + around));
        }
        Some(Self { model: model.clone(), lengths, with_neighbours })
    }

    /// Of vectors whose lengths are known, alone and with half of each neighbour's.
    pub(super) fn known(model: &Model, lengths: Vec<f32>, with_neighbours: Vec<f32>) -> Self {
        Self { model: model.clone(), lengths, with_neighbours }
    }

    /// The length of an item's vector, and of that with half of each neighbour's.
    pub(super) fn lengths(&self, item: usize) -> [f32; 2] {
        [self.lengths[item], self.with_neighbours[item]]
    }

    pub(super) fn bytes(&self) -> usize {
        (self.lengths.capacity() + self.with_neighbours.capacity()) * 4
    }

    /// How like the query's vector each item is.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // products of int8, far inside f32
    pub(super) fn likeness<'v>(
        &self,
        chunks: impl Iterator<Item = (&'v Vectors, &'v [u32])>,
        groups: &[u32],
        query: &Embedding,
    ) -> Likeness {
        if query.values.len() != self.model.dimensions {
            return Likeness::default();
        }
        let query: Vec<u8> = query.values.iter().map(|value| value.cast_unsigned()).collect();
        let mut products = vec![0.0_f32; self.lengths.len()];
        let mut of_chunk = Vec::new();
        for (vectors, numbers) in chunks {
            dots(&query, vectors.values(), &mut of_chunk);
            for (slot, product) in of_chunk.iter().enumerate() {
                let number = numbers[vectors.item(slot)] as usize;
                if number < products.len() && self.lengths[number] > 0.0 {
                    let product = vectors.scale(slot) * *product as f32;
                    products[number] = if product.is_finite() { product } else { 0.0 };
                }
            }
        }
        let own: Vec<f32> = products
            .iter()
            .zip(&self.lengths)
            .map(|(product, length)| if *length > 0.0 { product / length } else { f32::NAN })
            .collect();
        let with_neighbours = (0..products.len())
            .map(|item| {
                let [before, after] = beside(groups, item, 1).map(|other| other.map_or(0.0, |other| products[other]));
                let around = before + after;
                let length = self.with_neighbours[item];
                if length > 0.0 { (products[item] + 0.5 * around) / length } else { f32::NAN }
            })
            .collect();
        Likeness { own: deviations(own), with_neighbours: deviations(with_neighbours) }
    }
}

/// From values (NaN is none) to standard deviations from their mean, a quarter of that.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // small numbers
fn deviations(mut values: Vec<f32>) -> Vec<f32> {
    let (mut count, mut sum, mut squares) = (0_u32, 0.0_f64, 0.0_f64);
    for value in values.iter().filter(|value| !value.is_nan()).map(|value| f64::from(*value)) {
        count += 1;
        sum += value;
        squares += value * value;
    }
    let mean = sum / f64::from(count.max(1));
    let deviation = (squares / f64::from(count.max(1)) - mean * mean).max(0.0).sqrt();
    let factor = if deviation > 1e-6 { 1.0 / (deviation * DEVIATIONS) } else { 0.0 };
    for value in &mut values {
        *value = if value.is_nan() { 0.0 } else { ((f64::from(*value) - mean) * factor) as f32 };
    }
    values
}

/// The product of two int8 vectors of one length.
#[inline]
pub(super) fn dot(a: &[u8], b: &[u8]) -> i32 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has been asked whether it has AVX2.
        return unsafe { dot_avx2(a, b) };
    }
    dot_plain(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dot_avx2(a: &[u8], b: &[u8]) -> i32 {
    dot_plain(a, b)
}

#[inline(always)]
fn dot_plain(a: &[u8], b: &[u8]) -> i32 {
    a.iter().zip(b).map(|(a, b)| i32::from(a.cast_signed()) * i32::from(b.cast_signed())).sum()
}

/// The products of one int8 vector with each of those of its length that lie one behind the other.
fn dots(one: &[u8], many: &[u8], out: &mut Vec<i32>) {
    out.clear();
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512bw") && has!("avx512vnni") {
            // SAFETY: the processor has been asked whether it has these.
            return unsafe { dots_vnni(one, many, out) };
        }
        if has!("avx2") {
            // SAFETY: the processor has been asked whether it has AVX2.
            return unsafe { dots_avx2(one, many, out) };
        }
    }
    dots_plain(one, many, out);
}

#[inline(always)]
fn dots_plain(one: &[u8], many: &[u8], out: &mut Vec<i32>) {
    out.extend(many.chunks_exact(one.len()).map(|other| dot_plain(one, other)));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dots_avx2(one: &[u8], many: &[u8], out: &mut Vec<i32>) {
    dots_plain(one, many, out);
}

/// The instruction multiplies bytes without a sign by bytes with one, so the others' are moved up by 128, and 128 times the sum of
/// the one is taken off again.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dots_vnni(one: &[u8], many: &[u8], out: &mut Vec<i32>) {
    use std::arch::x86_64::{
        __m512i, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_maskz_loadu_epi8, _mm512_reduce_add_epi32, _mm512_set1_epi8,
        _mm512_setzero_si512, _mm512_xor_si512,
    };
    const WIDTH: usize = 64;
    let moved = 128 * one.iter().map(|value| i32::from(value.cast_signed())).sum::<i32>();
    let sign = _mm512_set1_epi8(i8::MIN);
    let step = |sum: __m512i, one: __m512i, other: __m512i| _mm512_dpbusd_epi32(sum, _mm512_xor_si512(other, sign), one);
    let whole = one.len() - one.len() % WIDTH;
    let rest = (1_u64 << (one.len() % WIDTH)) - 1;
    out.extend(many.chunks_exact(one.len()).map(|other| {
        let mut sum = _mm512_setzero_si512();
        for at in (0..whole).step_by(WIDTH) {
            // SAFETY: both have `WIDTH` bytes from here on.
            let (one, other) =
                unsafe { (_mm512_loadu_si512(one.as_ptr().add(at).cast()), _mm512_loadu_si512(other.as_ptr().add(at).cast())) };
            sum = step(sum, one, other);
        }
        if rest != 0 {
            // SAFETY: only the bytes of the mask are read, which both have; the others count as nothing.
            let (one, other) = unsafe {
                (
                    _mm512_maskz_loadu_epi8(rest, one.as_ptr().add(whole).cast()),
                    _mm512_maskz_loadu_epi8(rest, other.as_ptr().add(whole).cast()),
                )
            };
            sum = step(sum, one, other);
        }
        _mm512_reduce_add_epi32(sum).wrapping_sub(moved)
    }));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn many_products_at_once_are_those_one_by_one(
            (one, many) in (1..200_usize, 0..5_usize).prop_flat_map(|(length, count)| {
                (prop::collection::vec(any::<u8>(), length), prop::collection::vec(any::<u8>(), length * count))
            }),
        ) {
            let expected: Vec<i32> = many.chunks_exact(one.len()).map(|other| dot_plain(&one, other)).collect();
            let mut made = vec![7];
            dots(&one, &many, &mut made);
            prop_assert_eq!(&made, &expected);
            made.clear();
            dots_plain(&one, &many, &mut made);
            prop_assert_eq!(made, expected);
        }
    }
}
