//! The vectors of a chunk of facts, apart from all else of them.

use bytes::Bytes;

use super::layout::{self, Arena, ArenaWriter};
use super::tables::{AllVectors, Vectors, write_vectors};
use super::{FactInput, PackError, VECTORS, VectorInput};
use crate::recall::items::Model;

/// The vectors of the facts of a chunk, in their order.
#[derive(Clone, Debug, Default)]
pub struct VectorChunk {
    count: usize,
    bytes: usize,
    arena: Arena,
    vectors: AllVectors,
}

/// The vectors of facts as the bytes of one chunk.
///
/// # Panics
/// There are more than 65,535 facts, or more than 4 GiB.
#[must_use]
pub fn encode_vectors(facts: &[FactInput<'_>]) -> Vec<u8> {
    let mut arena = ArenaWriter::default();
    let [groups, numbers, scales, products, values] = write_vectors(facts.iter().map(|fact| fact.vectors.as_slice()), &mut arena);
    layout::close(VECTORS, 0, facts.len(), &[arena.bytes, groups, numbers, scales, products, values])
}

impl VectorChunk {
    /// Takes the bytes of a chunk apart: they are checked and then used where they are.
    ///
    /// # Errors
    /// They are not what [`encode_vectors`] of this version wrote.
    pub fn decode(bytes: impl Into<Bytes>) -> Result<Self, PackError> {
        let bytes = bytes.into();
        let (count, sections) = layout::open::<6>(&bytes, VECTORS, 0)?;
        let [arena, groups, numbers, scales, products, values] = sections;
        if count > usize::from(u16::MAX) {
            return Err(PackError::Malformed("too many items"));
        }
        let arena = Arena::open(arena)?;
        let vectors = AllVectors::open(groups, numbers, scales, products, values, count, &arena)?;
        Ok(Self { count, bytes: bytes.len(), arena, vectors })
    }

    /// The facts that it is about.
    pub(in crate::recall) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Those of a model.
    pub(in crate::recall) fn of_model(&self, model: &Model) -> Option<&Vectors> {
        self.vectors.of_model(&self.arena, &model.id, model.dimensions)
    }

    pub(super) fn by_item(&self) -> Vec<Vec<VectorInput<'_>>> {
        self.vectors.by_item(&self.arena, self.count)
    }
}
