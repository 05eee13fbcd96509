//! The tables that chunks of facts and of messages share: names, sessions, words, vectors.

use std::collections::HashMap;

use bytes::Bytes;

use super::layout::{Arena, ArenaWriter, Column, NONE, Put, Span, u32_of};
use super::{PackError, VectorInput};
use crate::recall::items::dot;
use crate::recall::text::{self, Term};

/// A session as a chunk knows it: named, or that of an event whose client named none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionRef<'a> {
    /// By its id.
    Named(&'a str),
    /// By its event: id, and the first half of its content hash.
    Unnamed(&'a str, [u8; 16]),
}

pub(super) const SESSION_BYTES: usize = 28;
pub(super) const NAME_BYTES: usize = 16;

/// Distinct sessions.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(Column);

impl Sessions {
    pub(super) fn open(bytes: Bytes, arena: &Arena) -> Result<Self, PackError> {
        let column = Column(bytes);
        for n in 0..column.rows(SESSION_BYTES)? {
            let at = n * SESSION_BYTES;
            if column.u32(at) > 1 || !arena.has((column.u32(at + 4), column.u32(at + 8))) {
                return Err(PackError::Malformed("a session"));
            }
        }
        Ok(Self(column))
    }

    pub(super) fn len(&self) -> usize {
        self.0.0.len() / SESSION_BYTES
    }

    pub(super) fn get<'a>(&self, arena: &'a Arena, n: usize) -> SessionRef<'a> {
        let at = n * SESSION_BYTES;
        let text = arena.text((self.0.u32(at + 4), self.0.u32(at + 8)));
        if self.0.u32(at) == 0 { SessionRef::Named(text) } else { SessionRef::Unnamed(text, self.0.array(at + 12)) }
    }
}

#[derive(Default)]
pub(super) struct SessionsWriter<'a> {
    known: HashMap<SessionRef<'a>, u32>,
    pub(super) bytes: Vec<u8>,
}

impl<'a> SessionsWriter<'a> {
    pub(super) fn number(&mut self, session: SessionRef<'a>, arena: &mut ArenaWriter) -> u32 {
        let next = u32_of(self.known.len());
        *self.known.entry(session).or_insert_with(|| {
            let (tag, text, hash) = match session {
                SessionRef::Named(text) => (0, text, [0; 16]),
                SessionRef::Unnamed(event, hash) => (1, event, hash),
            };
            self.bytes.put_u32(tag);
            self.bytes.put_span(arena.span(text));
            self.bytes.extend_from_slice(&hash);
            next
        })
    }
}

/// Distinct names, with the hashes of their folded words.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    rows: Column,
    words: Column,
}

impl Names {
    pub(super) fn open(rows: Bytes, words: Bytes, arena: &Arena) -> Result<Self, PackError> {
        let (rows, words) = (Column(rows), Column(words));
        let hashes = words.rows(8)?;
        for n in 0..rows.rows(NAME_BYTES)? {
            let at = n * NAME_BYTES;
            let end = (rows.u32(at + 8) as usize).saturating_add(rows.u32(at + 12) as usize);
            if !arena.has((rows.u32(at), rows.u32(at + 4))) || end > hashes {
                return Err(PackError::Malformed("a name"));
            }
        }
        Ok(Self { rows, words })
    }

    pub(super) fn len(&self) -> usize {
        self.rows.0.len() / NAME_BYTES
    }

    pub(super) fn get<'a>(&self, arena: &'a Arena, n: usize) -> &'a str {
        arena.text((self.rows.u32(n * NAME_BYTES), self.rows.u32(n * NAME_BYTES + 4)))
    }

    /// The hashes of a name's words.
    pub(super) fn words(&self, n: usize) -> impl Iterator<Item = Term> + '_ {
        let start = self.rows.u32(n * NAME_BYTES + 8) as usize;
        let len = self.rows.u32(n * NAME_BYTES + 12) as usize;
        (start..start + len).map(|word| self.words.u64(word * 8))
    }
}

#[derive(Default)]
pub(super) struct NamesWriter<'a> {
    known: HashMap<&'a str, u32>,
    pub(super) rows: Vec<u8>,
    pub(super) words: Vec<u8>,
}

impl<'a> NamesWriter<'a> {
    pub(super) fn number(&mut self, name: &'a str, arena: &mut ArenaWriter) -> u32 {
        let next = u32_of(self.known.len());
        *self.known.entry(name).or_insert_with(|| {
            let start = u32_of(self.words.len() / 8);
            let words = text::words(name);
            for word in &words {
                self.words.put_u64(text::term(word));
            }
            self.rows.put_span(arena.span(name));
            self.rows.put_u32(start);
            self.rows.put_u32(u32_of(words.len()));
            next
        })
    }
}

/// Where each word stands: sorted hashes, and behind each the items that have it, with how often.
#[derive(Clone, Debug, Default)]
pub(super) struct Words {
    terms: Column,
    starts: Column,
    entries: Column,
}

impl Words {
    pub(super) fn open(terms: Bytes, starts: Bytes, entries: Bytes, items: usize) -> Result<Self, PackError> {
        let wrong = PackError::Malformed("its words");
        let (terms, starts, entries) = (Column(terms), Column(starts), Column(entries));
        let (distinct, all) = (terms.rows(8)?, entries.rows(4)?);
        starts.expect_rows(4, distinct + 1)?;
        let sorted = (1..distinct).all(|n| terms.u64(n * 8 - 8) < terms.u64(n * 8));
        let rising = (1..=distinct).all(|n| starts.u32(n * 4 - 4) <= starts.u32(n * 4));
        if !sorted || !rising || starts.u32(0) != 0 || starts.u32(distinct * 4) as usize != all {
            return Err(wrong);
        }
        let inside = entries.0.chunks_exact(4).all(|entry| usize::from(u16::from_le_bytes([entry[0], entry[1]])) < items);
        if inside { Ok(Self { terms, starts, entries }) } else { Err(wrong) }
    }

    /// The items that have a word, in order, with how often.
    pub(super) fn hits(&self, term: Term) -> impl Iterator<Item = (u16, u16)> + '_ {
        let (mut low, mut high) = (0, self.terms.0.len() / 8);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.terms.u64(middle * 8) < term { low = middle + 1 } else { high = middle }
        }
        let found = low < self.terms.0.len() / 8 && self.terms.u64(low * 8) == term;
        let range = if found { self.starts.u32(low * 4) as usize..self.starts.u32(low * 4 + 4) as usize } else { 0..0 };
        let entries = &self.entries.0[range.start * 4..range.end * 4];
        entries.chunks_exact(4).map(|entry| (u16::from_le_bytes([entry[0], entry[1]]), u16::from_le_bytes([entry[2], entry[3]])))
    }

    /// The words of each item, sorted.
    pub(super) fn by_item(&self, items: usize) -> Vec<Vec<(Term, u16)>> {
        let mut out = vec![Vec::new(); items];
        for n in 0..self.terms.0.len() / 8 {
            let term = self.terms.u64(n * 8);
            for at in self.starts.u32(n * 4) as usize..self.starts.u32(n * 4 + 4) as usize {
                out[usize::from(self.entries.u16(at * 4))].push((term, self.entries.u16(at * 4 + 2)));
            }
        }
        out
    }
}

/// The words of items in their order, as three sections.
pub(super) fn write_words<'a>(items: impl Iterator<Item = &'a [(Term, u16)]>) -> [Vec<u8>; 3] {
    let mut all: Vec<(Term, u16, u16)> = Vec::new();
    for (number, terms) in items.enumerate() {
        let number = u16::try_from(number).expect("a chunk has at most 65,535 items");
        all.extend(terms.iter().map(|(term, count)| (*term, number, *count)));
    }
    all.sort_unstable();
    let (mut terms, mut starts, mut entries) = (Vec::new(), Vec::new(), Vec::with_capacity(all.len() * 4));
    for run in all.chunk_by(|a, b| a.0 == b.0) {
        terms.put_u64(run[0].0);
        starts.put_u32(u32_of(entries.len() / 4));
        for (_, item, count) in run {
            entries.put_u16(*item);
            entries.put_u16(*count);
        }
    }
    starts.put_u32(u32_of(entries.len() / 4));
    [terms, starts, entries]
}

/// The vectors of one model in a chunk, those of one dimension side by side.
#[derive(Clone, Debug, Default)]
pub(in crate::recall) struct Vectors {
    dimensions: usize,
    items: Column,
    scales: Column,
    /// Of each with itself, with the next and with the one behind that.
    products: Column,
    values: Bytes,
}

/// The vectors of all models.
#[derive(Clone, Debug, Default)]
pub(super) struct AllVectors {
    groups: Vec<(Span, Vectors)>,
}

const GROUP_BYTES: usize = 16;
/// Products that are kept of each vector: they are what an image would compute of all when it is made.
const PRODUCTS: usize = 3;

impl AllVectors {
    pub(super) fn open(
        groups: Bytes,
        items: Bytes,
        scales: Bytes,
        products: Bytes,
        values: Bytes,
        count: usize,
        arena: &Arena,
    ) -> Result<Self, PackError> {
        let wrong = || PackError::Malformed("its vectors");
        let (table, all_items) = (Column(groups), Column(items));
        let all = all_items.rows(2)?;
        Column(scales.clone()).expect_rows(4, all)?;
        Column(products.clone()).expect_rows(4 * PRODUCTS, all)?;
        let (mut groups, mut item, mut value) = (Vec::new(), 0_usize, 0_usize);
        for n in 0..table.rows(GROUP_BYTES)? {
            let at = n * GROUP_BYTES;
            let (name, dimensions, size) =
                ((table.u32(at), table.u32(at + 4)), table.u32(at + 8) as usize, table.u32(at + 12) as usize);
            let (last_item, last_value) = (item.saturating_add(size), value.saturating_add(size.saturating_mul(dimensions)));
            if !arena.has(name) || dimensions == 0 || last_item > all || last_value > values.len() {
                return Err(wrong());
            }
            let part = Vectors {
                dimensions,
                items: Column(all_items.0.slice(item * 2..last_item * 2)),
                scales: Column(scales.slice(item * 4..last_item * 4)),
                products: Column(products.slice(item * 4 * PRODUCTS..last_item * 4 * PRODUCTS)),
                values: values.slice(value..last_value),
            };
            let rising = (1..size).all(|n| part.items.u16(n * 2 - 2) < part.items.u16(n * 2));
            if !rising || (size > 0 && usize::from(part.items.u16(size * 2 - 2)) >= count) {
                return Err(wrong());
            }
            groups.push((name, part));
            (item, value) = (last_item, last_value);
        }
        if item == all && value == values.len() { Ok(Self { groups }) } else { Err(wrong()) }
    }

    /// Those of a model and of a length.
    pub(super) fn of_model(&self, arena: &Arena, model: &str, dimensions: usize) -> Option<&Vectors> {
        self.groups.iter().find(|(name, group)| group.dimensions == dimensions && arena.text(*name) == model).map(|(_, g)| g)
    }

    /// All vectors of each item.
    pub(super) fn by_item<'a>(&'a self, arena: &'a Arena, items: usize) -> Vec<Vec<VectorInput<'a>>> {
        let mut out = vec![Vec::new(); items];
        for (name, group) in &self.groups {
            for slot in 0..group.len() {
                let (scale, values) = group.get(slot);
                out[group.item(slot)].push(VectorInput { model: arena.text(*name), scale, values });
            }
        }
        out
    }
}

impl Vectors {
    pub(in crate::recall) fn len(&self) -> usize {
        self.items.0.len() / 2
    }

    /// Which item the vector at a place belongs to.
    #[inline]
    pub(in crate::recall) fn item(&self, slot: usize) -> usize {
        usize::from(self.items.u16(slot * 2))
    }

    /// Scale and values; each byte is an `i8`.
    #[inline]
    pub(in crate::recall) fn get(&self, slot: usize) -> (f32, &[u8]) {
        (self.scales.f32(slot * 4), &self.values[slot * self.dimensions..(slot + 1) * self.dimensions])
    }

    /// All values, one vector behind the other.
    pub(in crate::recall) fn values(&self) -> &[u8] {
        &self.values[..self.len() * self.dimensions]
    }

    #[inline]
    pub(in crate::recall) fn scale(&self, slot: usize) -> f32 {
        self.scales.f32(slot * 4)
    }

    /// The product of the values of one vector and of one not before it.
    #[inline]
    pub(in crate::recall) fn product(&self, slot: usize, later: usize) -> i32 {
        let ahead = later - slot;
        if ahead < PRODUCTS {
            return self.products.u32((slot * PRODUCTS + ahead) * 4).cast_signed();
        }
        dot(self.get(slot).1, self.get(later).1)
    }
}

/// The vectors of items in their order, as five sections. Grouped by model and dimensions; an item's second of a group is left out.
pub(super) fn write_vectors<'a>(items: impl Iterator<Item = &'a [VectorInput<'a>]>, arena: &mut ArenaWriter) -> [Vec<u8>; 5] {
    /// By model and dimensions: item, scale, values.
    type Groups<'a> = std::collections::BTreeMap<(&'a str, usize), Vec<(u16, f32, &'a [u8])>>;
    let mut groups = Groups::new();
    for (number, vectors) in items.enumerate() {
        let number = u16::try_from(number).expect("a chunk has at most 65,535 items");
        for vector in vectors.iter().filter(|vector| !vector.values.is_empty()) {
            let group = groups.entry((vector.model, vector.values.len())).or_default();
            if group.last().is_none_or(|(last, ..)| *last != number) {
                group.push((number, vector.scale, vector.values));
            }
        }
    }
    let (mut table, mut numbers, mut scales, mut values) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut products = Vec::new();
    for ((model, dimensions), group) in groups {
        table.put_span(arena.span(model));
        table.put_u32(u32_of(dimensions));
        table.put_u32(u32_of(group.len()));
        for (slot, (_, _, of_item)) in group.iter().enumerate() {
            for ahead in 0..PRODUCTS {
                products.put_u32(group.get(slot + ahead).map_or(0, |(_, _, other)| dot(of_item, other)).cast_unsigned());
            }
        }
        for (number, scale, of_item) in group {
            numbers.put_u16(number);
            scales.extend_from_slice(&scale.to_le_bytes());
            values.extend_from_slice(of_item);
        }
    }
    [table, numbers, scales, products, values]
}

/// An optional place in a table.
pub(super) fn place(n: u32) -> Option<usize> {
    (n != NONE).then_some(n as usize)
}
