//! Bytes in sections: a header, the sections' lengths, the sections. All numbers are little-endian.
//!
//! Header: version `u8`, kind `u8`, words' version `u16`, CRC-32 of all behind it `u32`, items `u32`, sections `u32`. Whatever is
//! not exactly that is an error before anything is built from it.

use bytes::Bytes;

use super::PackError;

/// Changes with the layout of any kind of chunk.
pub(super) const VERSION: u8 = 4;
const HEADER_BYTES: usize = 16;
/// Stands for an absent place in a table.
pub(super) const NONE: u32 = u32::MAX;

/// Puts a chunk together.
pub(super) fn close(kind: u8, words_version: u16, count: usize, sections: &[Vec<u8>]) -> Vec<u8> {
    let total: usize = sections.iter().map(|section| section.len() + 4).sum();
    let mut out = Vec::with_capacity(HEADER_BYTES + total);
    out.extend_from_slice(&[VERSION, kind]);
    out.extend_from_slice(&words_version.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&u32_of(count).to_le_bytes());
    out.extend_from_slice(&u32_of(sections.len()).to_le_bytes());
    for section in sections {
        out.extend_from_slice(&u32_of(section.len()).to_le_bytes());
    }
    for section in sections {
        out.extend_from_slice(section);
    }
    let sum = crc32fast::hash(&out[8..]);
    out[4..8].copy_from_slice(&sum.to_le_bytes());
    out
}

/// Takes a chunk apart: its items, and as many sections as there must be.
pub(super) fn open<const N: usize>(bytes: &Bytes, kind: u8, words_version: u16) -> Result<(usize, [Bytes; N]), PackError> {
    let short = PackError::Malformed("it is shorter than its header");
    let table = HEADER_BYTES + 4 * N;
    if bytes.len() < HEADER_BYTES {
        return Err(short);
    }
    let head = Column(bytes.clone());
    if bytes[0] != VERSION || head.u16(2) != words_version {
        return Err(PackError::Version);
    }
    if bytes[1] != kind || head.u32(12) as usize != N || bytes.len() < table {
        return Err(PackError::Malformed("it is of another kind"));
    }
    if crc32fast::hash(&bytes[8..]) != head.u32(4) {
        return Err(PackError::Checksum);
    }
    let mut start = table;
    let mut sections: [Bytes; N] = std::array::from_fn(|_| Bytes::new());
    for (n, section) in sections.iter_mut().enumerate() {
        let end = start.saturating_add(head.u32(HEADER_BYTES + 4 * n) as usize);
        if end > bytes.len() {
            return Err(short);
        }
        *section = bytes.slice(start..end);
        start = end;
    }
    if start != bytes.len() {
        return Err(PackError::Malformed("it is longer than its sections"));
    }
    Ok((head.u32(8) as usize, sections))
}

/// Numbers at places of a section. Places are checked when a chunk is opened; a wrong one afterwards is a bug and panics.
#[derive(Clone, Debug, Default)]
pub(super) struct Column(pub(super) Bytes);

macro_rules! number {
    ($name:ident, $type:ty) => {
        #[inline]
        pub(super) fn $name(&self, at: usize) -> $type {
            const WIDTH: usize = size_of::<$type>();
            let mut raw = [0; WIDTH];
            raw.copy_from_slice(&self.0[at..at + WIDTH]);
            <$type>::from_le_bytes(raw)
        }
    };
}

impl Column {
    number!(u16, u16);
    number!(u32, u32);
    number!(u64, u64);
    number!(i64, i64);
    number!(f32, f32);
    number!(f64, f64);

    /// How many rows of a width; an error where they do not fill it.
    pub(super) fn rows(&self, width: usize) -> Result<usize, PackError> {
        if self.0.len().is_multiple_of(width) { Ok(self.0.len() / width) } else { Err(PackError::Malformed("a part of a row")) }
    }

    /// As many rows as there must be.
    pub(super) fn expect_rows(&self, width: usize, count: usize) -> Result<(), PackError> {
        if self.rows(width)? == count { Ok(()) } else { Err(PackError::Malformed("another number of rows")) }
    }

    pub(super) fn array<const W: usize>(&self, at: usize) -> [u8; W] {
        let mut raw = [0; W];
        raw.copy_from_slice(&self.0[at..at + W]);
        raw
    }
}

/// Part of the arena: offset and length.
pub(super) type Span = (u32, u32);

/// All texts of a chunk, one behind the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Arena(Bytes);

impl Arena {
    pub(super) fn open(bytes: Bytes) -> Result<Self, PackError> {
        if std::str::from_utf8(&bytes).is_err() {
            return Err(PackError::Malformed("a text is not UTF-8"));
        }
        Ok(Self(bytes))
    }

    /// Whether a span lies inside and between characters.
    pub(super) fn has(&self, (start, len): Span) -> bool {
        let boundary = |at: usize| at == self.0.len() || self.0.get(at).is_some_and(|byte| !(0x80..0xC0).contains(byte));
        let end = (start as usize).saturating_add(len as usize);
        end <= self.0.len() && boundary(start as usize) && boundary(end)
    }

    pub(super) fn bytes(&self, (start, len): Span) -> &[u8] {
        &self.0[start as usize..(start + len) as usize]
    }

    pub(super) fn text(&self, span: Span) -> &str {
        std::str::from_utf8(self.bytes(span)).unwrap_or_default()
    }
}

/// Writes the arena: equal short texts once.
#[derive(Default)]
pub(super) struct ArenaWriter {
    pub(super) bytes: Vec<u8>,
    known: std::collections::HashMap<String, Span>,
}

/// Texts up to this length are looked for before they are written again.
const SHARED_BYTES: usize = 64;

impl ArenaWriter {
    pub(super) fn span(&mut self, text: &str) -> Span {
        if text.len() > SHARED_BYTES {
            return self.append(text);
        }
        if let Some(span) = self.known.get(text) {
            return *span;
        }
        let span = self.append(text);
        self.known.insert(text.to_owned(), span);
        span
    }

    fn append(&mut self, text: &str) -> Span {
        let span = (u32_of(self.bytes.len()), u32_of(text.len()));
        self.bytes.extend_from_slice(text.as_bytes());
        span
    }

    /// A text that another one often quotes, which lies at a span: the two share their bytes.
    pub(super) fn span_within(&mut self, text: &str, (start, _): Span, whole: &str) -> Span {
        match whole.find(text) {
            Some(at) => (start + u32_of(at), u32_of(text.len())),
            None => self.span(text),
        }
    }

    /// A text that often begins with another one: the two share their bytes.
    pub(super) fn span_with_prefix(&mut self, text: &str, prefix: &str) -> (Span, Span) {
        let span = self.span(text);
        if text.starts_with(prefix) { (span, (span.0, u32_of(prefix.len()))) } else { (span, self.span(prefix)) }
    }
}

/// Appends numbers to a section.
pub(super) trait Put {
    fn put_u16(&mut self, n: u16);
    fn put_u32(&mut self, n: u32);
    fn put_u64(&mut self, n: u64);
    fn put_i64(&mut self, n: i64);
    fn put_span(&mut self, span: Span);
    fn put_opt_span(&mut self, span: Option<Span>);
}

impl Put for Vec<u8> {
    fn put_u16(&mut self, n: u16) {
        self.extend_from_slice(&n.to_le_bytes());
    }

    fn put_u32(&mut self, n: u32) {
        self.extend_from_slice(&n.to_le_bytes());
    }

    fn put_u64(&mut self, n: u64) {
        self.extend_from_slice(&n.to_le_bytes());
    }

    fn put_i64(&mut self, n: i64) {
        self.extend_from_slice(&n.to_le_bytes());
    }

    fn put_span(&mut self, (start, len): Span) {
        self.put_u32(start);
        self.put_u32(len);
    }

    fn put_opt_span(&mut self, span: Option<Span>) {
        self.put_span(span.unwrap_or((NONE, 0)));
    }
}

pub(super) fn u32_of(n: usize) -> u32 {
    u32::try_from(n).expect("a chunk is far below 4 GiB")
}
