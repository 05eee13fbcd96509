//! Chunks: up to [`CHUNK_ITEMS`] facts or messages of one entity as bytes, with their words indexed and their vectors side by side.
//! The vectors of facts are bytes of their own, which an outline ([`OutlineChunk`]) is read with, too.
//!
//! The same bytes are what recall keeps in memory and what the store keeps packed, so taking a packed chunk apart is checking it.
//! Promises: bytes that are not exactly what an encoder of this version wrote are an error, whose cost is bounded by their length,
//! and never a panic; what is read back is what was written; equal items in equal order are equal bytes.

mod facts;
mod layout;
mod messages;
mod outline;
mod pack;
mod tables;
#[cfg(test)]
mod tests;
mod vectors;

use memori_schemas::{ContentFormat, FactId, FactKind, MessageKey, Role};

use super::language::Languages;
use super::text::Term;

pub use facts::{FactChunk, FactView, SourceView, encode_facts};
pub use messages::{MessageChunk, MessageView, encode_messages};
pub use outline::OutlineChunk;
pub(super) use outline::{OUTLINE_ITEMS, OutlineHead, OutlineItem, encode_outline};
pub(super) use pack::{fact_inputs, message_inputs, order_of_facts, order_of_messages};
pub use pack::{pack_messages, pack_unnamed, unpack_unnamed};
pub use tables::SessionRef;
pub(super) use tables::Vectors;
pub use vectors::{VectorChunk, encode_vectors};

/// Items of a chunk as they are packed; an encoder takes up to 65,535.
pub const CHUNK_ITEMS: usize = 256;

/// What packs are made by: the model of their vectors, and the versions of their layout, of how text is taken apart, and of the rules
/// of the digests in them. Packs that were made by anything else are as good as none, and are made anew.
#[must_use]
pub fn made_by(model: Option<&str>) -> String {
    let (layout, words, digests) = (layout::VERSION, super::text::VERSION, super::digests::EXTRACTOR);
    format!("{} packs/{layout} words/{words} {digests}", model.unwrap_or_default())
}

/// Why bytes are not a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// Another version wrote it.
    #[error("the chunk is of another version")]
    Version,
    /// It was damaged.
    #[error("the chunk's checksum is another")]
    Checksum,
    /// It is not what an encoder writes.
    #[error("the chunk is malformed: {0}")]
    Malformed(&'static str),
}

impl PackError {
    /// Its name as a metric's label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Checksum => "checksum",
            Self::Malformed(_) => "malformed",
        }
    }
}

/// When a fact holds, µs; open ended where `to_us` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// From then on.
    pub from_us: i64,
    /// Until before then.
    pub to_us: Option<i64>,
}

/// What the words of a text come to, once it has been taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Analysed {
    /// Distinct terms with how often each stands in the text, sorted.
    pub terms: Vec<(Term, u16)>,
    /// Words of the text.
    pub words: u32,
    /// The languages of the text.
    pub languages: Languages,
    /// Whether it asks something.
    pub question: bool,
    /// Whether it says when.
    pub dated: bool,
}

/// A vector as it stands in a record: `values` are `i8`, a byte each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VectorInput<'a> {
    /// The model's id and version.
    pub model: &'a str,
    /// What a step of the values is worth.
    pub scale: f32,
    /// The components.
    pub values: &'a [u8],
}

/// A message that supports a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceInput<'a> {
    /// The message.
    pub message_key: MessageKey,
    /// As the API shows it.
    pub message_id: &'a str,
    /// Its event.
    pub event_id: &'a str,
    /// Its session.
    pub session: SessionRef<'a>,
    /// Its process.
    pub process_id: Option<&'a str>,
    /// When it was said, µs.
    pub occurred_at_us: i64,
}

/// A fact that goes into a chunk.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the columns of the tables")]
pub struct FactInput<'a> {
    pub fact_id: FactId,
    pub kind: FactKind,
    pub content: &'a str,
    pub subject: Option<&'a str>,
    pub predicate: Option<&'a str>,
    pub object: Option<&'a str>,
    pub confidence: f64,
    pub process_id: Option<&'a str>,
    pub extractor: &'a str,
    pub occurred_at_us: i64,
    pub rep_event_id: &'a str,
    pub rep_message_index: i64,
    pub mentions: i64,
    pub first_mentioned_at_us: i64,
    pub last_mentioned_at_us: i64,
    /// In order; never empty.
    pub intervals: Vec<Interval>,
    /// Each message once, in conversation order.
    pub sources: Vec<SourceInput<'a>>,
    pub analysed: Analysed,
    /// At most one of each model.
    pub vectors: Vec<VectorInput<'a>>,
}

/// A message that goes into a chunk.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the columns of the tables")]
pub struct MessageInput<'a> {
    pub message_key: MessageKey,
    pub message_id: &'a str,
    pub event_id: &'a str,
    /// The first half of the event's.
    pub content_hash: [u8; 16],
    pub message_index: i64,
    pub session: SessionRef<'a>,
    pub process_id: Option<&'a str>,
    pub role: Role,
    pub name: Option<&'a str>,
    pub content: &'a str,
    pub content_format: ContentFormat,
    pub created_at_us: Option<i64>,
    pub occurred_at_us: i64,
    pub analysed: Analysed,
    /// At most one of each model.
    pub vectors: Vec<VectorInput<'a>>,
}

/// The kinds of chunks.
const FACTS: u8 = 1;
const MESSAGES: u8 = 2;
const UNNAMED: u8 = 3;
const VECTORS: u8 = 4;
const OUTLINE: u8 = 5;

const QUESTION: u8 = 1;
const DATED: u8 = 2;

fn flags(analysed: &Analysed) -> u8 {
    u8::from(analysed.question) * QUESTION + u8::from(analysed.dated) * DATED
}
