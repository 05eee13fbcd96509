//! Packs in a store: what a packer needs to know of an entity, and how packs come in.
//!
//! Promises: packs that are stored show the entity as of [`crate::reads::rows::EntityVersion::packed_version`], changes after it
//! apart; nothing that was removed is ever in them. They come in one transaction, which writes them before it locks the entity's
//! row and checks that nothing was removed meanwhile, so that a flush waits for that check at most.

use async_trait::async_trait;
use bytes::Bytes;

use super::StoreError;
use crate::plan::EntityRef;

/// What a pack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PackKind {
    /// Facts of the generation.
    Facts,
    /// Messages, with the vectors that the generation has of them.
    Messages,
    /// Events without a session.
    Unnamed,
    /// The vectors of the facts, chunk by chunk.
    Vectors,
    /// What ranks the facts, beside their vectors.
    Outline,
}

impl PackKind {
    /// The column's value.
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Self::Facts => 1,
            Self::Messages => 2,
            Self::Unnamed => 3,
            Self::Vectors => 4,
            Self::Outline => 5,
        }
    }

    /// The kind of a column's value.
    #[must_use]
    pub fn of_code(code: i64) -> Option<Self> {
        [Self::Facts, Self::Messages, Self::Unnamed, Self::Vectors, Self::Outline]
            .into_iter()
            .find(|kind| i64::from(kind.code()) == code)
    }
}

/// What decides whether an entity is to be packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackState {
    /// The generation that recall reads.
    pub generation: i32,
    /// Facts of that generation, and messages.
    pub items: usize,
    /// Facts and messages that flushes have named since the packs were made; since ever where there are none.
    pub changed: usize,
    /// Generation of the packs and what made them, where there are packs.
    pub packed: Option<(i32, String)>,
}

/// Packs of one entity.
#[derive(Clone, Debug)]
pub struct NewPacks {
    /// Whose.
    pub entity: EntityRef,
    /// Of which generation.
    pub generation: i32,
    /// What made them: [`crate::recall::packed::made_by`].
    pub made_by: String,
    /// The entity's version that they show at least.
    pub version: i64,
    /// Chunks of each kind, in their order.
    pub chunks: Vec<(PackKind, Vec<Bytes>)>,
}

impl NewPacks {
    /// Each chunk with its kind's code and its number.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (i16, i32, &[u8])> {
        self.chunks.iter().flat_map(|(kind, chunks)| (0..).zip(chunks).map(|(number, bytes)| (kind.code(), number, &**bytes)))
    }
}

/// How storing packs ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// They are there.
    Packed,
    /// Something was removed after their version, or newer ones are there: they were not stored.
    Outrun,
}

/// A store that keeps packs.
#[async_trait]
pub trait PackStore: Send + Sync + 'static {
    /// What decides whether an entity is to be packed; `None` where it is not known.
    async fn pack_state(&self, entity: &EntityRef) -> Result<Option<PackState>, StoreError>;

    /// Stores packs in the place of older ones, and forgets the changes that led to those.
    async fn put_packs(&self, packs: &NewPacks) -> Result<Packing, StoreError>;
}

/// Generation, items, changed; generation and model of the packs.
pub(super) type StateColumns = (i32, i64, i64, Option<i32>, Option<String>);

pub(super) fn state_of((generation, items, changed, packed_generation, model): StateColumns) -> PackState {
    let count = |n: i64| usize::try_from(n).unwrap_or(0);
    PackState { generation, items: count(items), changed: count(changed), packed: packed_generation.zip(model) }
}

/// Whether packs of `version` may come in where the entity's row says this.
pub(super) fn may_follow(version: i64, rebased: i64, packed: Option<i64>) -> bool {
    rebased <= version && packed.is_none_or(|packed| packed < version)
}
