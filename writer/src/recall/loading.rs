//! What the two images of an entity have in common: where the rows of each come from, and how it is made of them.

use std::sync::Arc;

use bytes::Bytes;
use memori_schemas::EntityKey;

use super::cache::Images;
use super::image::EntityImage;
use super::items::Model;
use super::messages::MessageImage;
use super::outline::Outline;
use super::packed::{FactChunk, MessageChunk, OutlineChunk, PackError, VectorChunk, unpack_unnamed};
use crate::reads::rows::{AsPacked, Changes, EntityVersion, FactRows, MessageRows, Packed, Shown, TakeChunk, UnnamedRow};
use crate::reads::{ReadError, ReadStore};
use crate::store::packs::PackKind;

/// Whose rows, of which generation, with vectors of which model.
#[derive(Clone, Copy)]
pub(super) struct Whose<'a> {
    pub(super) store: &'a dyn ReadStore,
    pub(super) tenant: &'a str,
    pub(super) entity_key: &'a EntityKey,
    pub(super) generation: i32,
    pub(super) model: Option<&'a str>,
}

/// What chunks that were read are.
pub(super) enum Outlining<I: Image> {
    /// What ranks, alone.
    Known(Outline),
    /// The same, of vectors that nobody asks about.
    Unknown,
    /// Everything.
    Whole(I::Chunks),
}

/// The facts of an entity, or what was said.
pub(super) trait Image: Send + Sync + Sized + 'static {
    /// Its name as a metric's label.
    const PART: &'static str;
    /// What it is made of.
    type Rows: Send + 'static;
    /// Packed chunks of it, taken apart.
    type Chunks: Default + Send + 'static;

    /// Of an entity that nothing is known of.
    fn empty(generation: i32) -> Self;

    /// What it shows: version, generation, epoch.
    fn stamp(&self) -> (Option<i64>, i32, i64);

    /// The one that is cached.
    fn cached(images: &Images) -> Option<&Arc<Self>>;

    /// The same with this one in its place.
    fn cache(images: Images, image: Arc<Self>) -> Images;

    fn rows(whose: Whose<'_>) -> impl Future<Output = Result<Self::Rows, ReadError>> + Send;

    fn changes_since(whose: Whose<'_>, shown: Shown) -> impl Future<Output = Result<Changes<Self::Rows>, ReadError>> + Send;

    fn packs(whose: Whose<'_>) -> impl Future<Output = Result<Option<Packed<Self::Rows>>, ReadError>> + Send;

    /// The entity's version, and packs that show just that; an outline in their place where that will do and there is one.
    fn as_packed(
        store: &dyn ReadStore,
        whose: (&str, &EntityKey, Option<&str>),
        outline_will_do: bool,
        take: TakeChunk<'_>,
    ) -> impl Future<Output = Result<AsPacked<Self::Rows>, ReadError>> + Send;

    /// How many items these rows are about.
    fn items_of(rows: &Self::Rows) -> usize;

    /// From all rows, with what `previous` has already taken apart.
    fn of_rows(entity_key: &EntityKey, rows: Self::Rows, model: Option<&Model>, previous: Option<&Self>) -> Self;

    /// Takes a packed chunk apart and puts it to those before it.
    fn take(chunks: &mut Self::Chunks, kind: PackKind, bytes: Bytes) -> Result<(), PackError>;

    /// What ranks it, where the chunks are such.
    fn outline(chunks: Self::Chunks, _: Option<&Model>) -> Result<Outlining<Self>, PackError> {
        Ok(Outlining::Whole(chunks))
    }

    /// From chunks, those of the events without a session, and the rows of what changed since.
    fn of_chunks(
        entity_key: &EntityKey,
        chunks: Self::Chunks,
        unnamed: Vec<Bytes>,
        since: &Self::Rows,
        model: Option<&Model>,
    ) -> Result<Self, PackError>;

    /// From packs.
    fn of_packs(entity_key: &EntityKey, packed: Packed<Self::Rows>, model: Option<&Model>) -> Result<Self, PackError> {
        let mut chunks = Self::Chunks::default();
        for (kind, bytes) in packed.chunks {
            Self::take(&mut chunks, kind, bytes)?;
        }
        Self::of_chunks(entity_key, chunks, packed.unnamed, &packed.since, model)
    }

    /// Brought up to date.
    fn with(&self, entity_key: &EntityKey, since: &Self::Rows) -> Self;

    /// Whether it is as the store has it.
    fn shows(&self, version: EntityVersion) -> bool {
        self.stamp() == (version.version, version.generation, version.epoch)
    }

    /// Since when it wants to be told of changes, where it shows the same generation.
    fn shown(&self, of_generation: i32) -> Option<Shown> {
        let (version, generation, epoch) = self.stamp();
        version.filter(|_| generation == of_generation).map(|version| Shown { version, epoch })
    }
}

impl Image for EntityImage {
    const PART: &'static str = "facts";
    type Rows = FactRows;
    type Chunks = FactChunks;

    fn empty(generation: i32) -> Self {
        Self::empty(generation)
    }

    fn stamp(&self) -> (Option<i64>, i32, i64) {
        (self.version, self.generation, self.epoch)
    }

    fn cached(images: &Images) -> Option<&Arc<Self>> {
        images.facts.as_ref()
    }

    fn cache(images: Images, image: Arc<Self>) -> Images {
        Images { facts: Some(image), ..images }
    }

    async fn rows(whose: Whose<'_>) -> Result<FactRows, ReadError> {
        whose.store.fact_rows(whose.tenant, whose.entity_key, whose.generation, whose.model).await
    }

    async fn changes_since(whose: Whose<'_>, shown: Shown) -> Result<Changes<FactRows>, ReadError> {
        whose.store.fact_changes_since(whose.tenant, whose.entity_key, whose.generation, whose.model, shown).await
    }

    async fn packs(whose: Whose<'_>) -> Result<Option<Packed<FactRows>>, ReadError> {
        whose.store.packed_facts(whose.tenant, whose.entity_key, whose.generation, whose.model).await
    }

    async fn as_packed(
        store: &dyn ReadStore,
        (tenant, entity_key, model): (&str, &EntityKey, Option<&str>),
        outline_will_do: bool,
        take: TakeChunk<'_>,
    ) -> Result<AsPacked<FactRows>, ReadError> {
        match outline_will_do {
            true => store.facts_outlined(tenant, entity_key, model, take).await,
            false => store.facts_as_packed(tenant, entity_key, model, take).await,
        }
    }

    fn items_of(rows: &FactRows) -> usize {
        rows.facts.len()
    }

    fn of_rows(entity_key: &EntityKey, rows: FactRows, model: Option<&Model>, previous: Option<&Self>) -> Self {
        Self::build(entity_key, rows, model, previous)
    }

    fn take(chunks: &mut FactChunks, kind: PackKind, bytes: Bytes) -> Result<(), PackError> {
        chunks.take(kind, bytes)
    }

    fn outline(chunks: FactChunks, model: Option<&Model>) -> Result<Outlining<Self>, PackError> {
        if chunks.outline.is_empty() {
            return Ok(Outlining::Whole(chunks));
        }
        let outline = Outline::of(chunks.outline, chunks.vectors, model)?;
        Ok(outline.map_or(Outlining::Unknown, Outlining::Known))
    }

    fn of_chunks(
        entity_key: &EntityKey,
        chunks: FactChunks,
        of_unnamed: Vec<Bytes>,
        since: &FactRows,
        model: Option<&Model>,
    ) -> Result<Self, PackError> {
        Ok(Self::unpack(entity_key, chunks.whole()?, unnamed(of_unnamed)?, since, model))
    }

    fn with(&self, entity_key: &EntityKey, since: &FactRows) -> Self {
        self.refreshed(entity_key, since)
    }
}

impl Image for MessageImage {
    const PART: &'static str = "messages";
    type Rows = MessageRows;
    type Chunks = Vec<MessageChunk>;

    fn empty(generation: i32) -> Self {
        Self::empty(generation)
    }

    fn stamp(&self) -> (Option<i64>, i32, i64) {
        (self.version, self.generation, self.epoch)
    }

    fn cached(images: &Images) -> Option<&Arc<Self>> {
        images.messages.as_ref()
    }

    fn cache(images: Images, image: Arc<Self>) -> Images {
        Images { messages: Some(image), ..images }
    }

    async fn rows(whose: Whose<'_>) -> Result<MessageRows, ReadError> {
        whose.store.message_rows(whose.tenant, whose.entity_key, whose.generation, whose.model).await
    }

    async fn changes_since(whose: Whose<'_>, shown: Shown) -> Result<Changes<MessageRows>, ReadError> {
        whose.store.message_changes_since(whose.tenant, whose.entity_key, whose.generation, whose.model, shown).await
    }

    async fn packs(whose: Whose<'_>) -> Result<Option<Packed<MessageRows>>, ReadError> {
        whose.store.packed_messages(whose.tenant, whose.entity_key, whose.generation, whose.model).await
    }

    async fn as_packed(
        store: &dyn ReadStore,
        (tenant, entity_key, model): (&str, &EntityKey, Option<&str>),
        _: bool,
        take: TakeChunk<'_>,
    ) -> Result<AsPacked<MessageRows>, ReadError> {
        store.messages_as_packed(tenant, entity_key, model, take).await
    }

    fn items_of(rows: &MessageRows) -> usize {
        rows.messages.len()
    }

    fn of_rows(entity_key: &EntityKey, rows: MessageRows, model: Option<&Model>, previous: Option<&Self>) -> Self {
        Self::build(entity_key, rows, model, previous)
    }

    fn take(chunks: &mut Vec<MessageChunk>, _: PackKind, bytes: Bytes) -> Result<(), PackError> {
        chunks.push(MessageChunk::decode(bytes)?);
        Ok(())
    }

    fn of_chunks(
        entity_key: &EntityKey,
        chunks: Vec<MessageChunk>,
        of_unnamed: Vec<Bytes>,
        since: &MessageRows,
        model: Option<&Model>,
    ) -> Result<Self, PackError> {
        Ok(Self::unpack(entity_key, chunks, unnamed(of_unnamed)?, since, model))
    }

    fn with(&self, entity_key: &EntityKey, since: &MessageRows) -> Self {
        self.refreshed(entity_key, since)
    }
}

/// Packed chunks of facts, or of their outline, each with its vectors.
#[derive(Default)]
pub(super) struct FactChunks {
    /// Its vectors come next.
    facts: Option<Bytes>,
    whole: Vec<FactChunk>,
    outline: Vec<OutlineChunk>,
    vectors: Vec<VectorChunk>,
}

impl FactChunks {
    fn take(&mut self, kind: PackKind, bytes: Bytes) -> Result<(), PackError> {
        match (kind, self.facts.take()) {
            (PackKind::Facts, None) => self.facts = Some(bytes),
            (PackKind::Vectors, Some(facts)) => self.whole.push(FactChunk::decode(facts, bytes)?),
            (PackKind::Vectors, None) => self.vectors.push(VectorChunk::decode(bytes)?),
            (PackKind::Outline, None) => self.outline.push(OutlineChunk::decode(bytes)?),
            _ => return Err(PackError::Malformed("chunks that do not follow each other")),
        }
        Ok(())
    }

    /// All of the facts.
    fn whole(self) -> Result<Vec<FactChunk>, PackError> {
        let complete = self.facts.is_none() && self.outline.is_empty() && self.vectors.is_empty();
        if complete { Ok(self.whole) } else { Err(PackError::Malformed("chunks without their vectors")) }
    }
}

fn unnamed(chunks: Vec<Bytes>) -> Result<Vec<UnnamedRow>, PackError> {
    let mut rows = Vec::new();
    for chunk in chunks {
        rows.extend(unpack_unnamed(chunk)?);
    }
    Ok(rows)
}
