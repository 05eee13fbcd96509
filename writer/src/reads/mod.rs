//! Every read of the store behind one trait, for SQLite and Postgres with the same statements.
//!
//! Promises: no statement leaves its tenant; several statements that must agree see one instant; a list of ids is one statement,
//! however long; a read never waits for a writer.

pub mod cursor;
pub mod db;
mod images;
pub mod letters;
pub mod lineages;
pub mod postgres;
pub mod rows;
mod sql;
pub mod sqlite;

use async_trait::async_trait;
use bytes::Bytes;
use memori_schemas::{EntityKey, FactId};

use self::letters::{Letter, LetterBytes, LetterFilter, LetterOrder, LetterPlace};
use self::lineages::{Lineage, LineageCount, LineageEntity, WithdrawnEvent, WithdrawnPlace};
use self::rows::{
    AsPacked, Changes, ControlId, EntityRow, EntityVersion, ErasureReceipt, EventStatus, FactPlace, FactRows, ForgetTarget,
    KnownEvent, LineageRow, MessageRows, Packed, Shown, TakeChunk,
};

use crate::plan::DeadLetterKey;

pub use self::postgres::PostgresReads;
pub use self::sql::SqlReads;
pub use self::sqlite::SqliteReads;

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// SQLite refused.
    #[error("the store cannot be read")]
    Sqlite(#[from] sqlx::Error),
    /// Postgres refused.
    #[error("the store cannot be read")]
    Postgres(#[from] tokio_postgres::Error),
    /// No connection to Postgres.
    #[error("no connection to the store")]
    Pool(#[from] deadpool_postgres::PoolError),
    /// A row is not what the migrations promise.
    #[error("the store holds what it should not: {0}")]
    Corrupt(&'static str),
    /// The process is stopping.
    #[error("the process is stopping")]
    Closed,
}

/// The reads.
#[async_trait]
pub trait ReadStore: Send + Sync + 'static {
    /// What decides whether something cached about an entity is still true. One cheap statement.
    async fn entity_version(&self, tenant: &str, entity_key: &EntityKey) -> Result<EntityVersion, ReadError>;

    /// All facts of an entity in a generation, with what recall shows of them, and their vectors of `model`.
    async fn fact_rows(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        generation: i32,
        model: Option<&str>,
    ) -> Result<FactRows, ReadError>;

    /// All messages of an entity, with the vectors of `model` that a generation has of them.
    async fn message_rows(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        generation: i32,
        model: Option<&str>,
    ) -> Result<MessageRows, ReadError>;

    /// What of [`ReadStore::fact_rows`] has changed since an image of the same generation and model was made, in one round trip.
    async fn fact_changes_since(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        generation: i32,
        model: Option<&str>,
        shown: Shown,
    ) -> Result<Changes<FactRows>, ReadError>;

    /// What of [`ReadStore::message_rows`] has changed since an image of the same generation and model was made, in one round
    /// trip.
    async fn message_changes_since(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        generation: i32,
        model: Option<&str>,
        shown: Shown,
    ) -> Result<Changes<MessageRows>, ReadError>;

    /// All facts as they were packed, and what changed since, in one round trip; `None` where there are no packs of this
    /// generation and model.
    async fn packed_facts(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        generation: i32,
        model: Option<&str>,
    ) -> Result<Option<Packed<FactRows>>, ReadError>;

    /// All messages as they were packed, and what changed since, in one round trip; `None` where there are no packs of this
    /// generation and model.
    async fn packed_messages(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        generation: i32,
        model: Option<&str>,
    ) -> Result<Option<Packed<MessageRows>>, ReadError>;

    /// The entity's version as in [`ReadStore::entity_version`], and in the same statement all facts of that generation as they were
    /// packed, chunk by chunk; `None` where no packs of this model show the entity just as it is, or something of it was asked to be
    /// forgotten.
    async fn facts_as_packed(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        model: Option<&str>,
        take: TakeChunk<'_>,
    ) -> Result<AsPacked<FactRows>, ReadError>;

    /// As [`ReadStore::facts_as_packed`]; where the facts have an outline, its chunks come in place of theirs, which their vectors
    /// do not.
    async fn facts_outlined(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        model: Option<&str>,
        take: TakeChunk<'_>,
    ) -> Result<AsPacked<FactRows>, ReadError>;

    /// Some facts of a generation as their rows tell them, without vectors and without the events without a session, and packed chunks
    /// of facts by their numbers, at one instant.
    async fn named_facts(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        generation: i32,
        model: Option<&str>,
        fact_ids: &[FactId],
        chunks: &[u16],
    ) -> Result<(EntityVersion, FactRows, Vec<Bytes>), ReadError>;

    /// As [`ReadStore::facts_as_packed`], of the messages.
    async fn messages_as_packed(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        model: Option<&str>,
        take: TakeChunk<'_>,
    ) -> Result<AsPacked<MessageRows>, ReadError>;

    /// Where events stand; only those that are known, in the order of their ids.
    async fn event_status(&self, tenant: &str, event_ids: &[String]) -> Result<Vec<EventStatus>, ReadError>;

    /// How many facts of the active generation each of these events supports, in their order.
    async fn fact_counts(&self, tenant: &str, events: &[EventStatus]) -> Result<Vec<i64>, ReadError>;

    /// What the door compares re-sent events with: every content of each id, that with the smallest (accepted_at, content_hash)
    /// first.
    async fn known_events(&self, tenant: &str, event_ids: &[String]) -> Result<Vec<KnownEvent>, ReadError>;

    /// Entities with something live in the order of their keys, after `after`.
    async fn entities(&self, tenant: &str, after: Option<&EntityKey>, limit: usize) -> Result<Vec<EntityRow>, ReadError>;

    /// Where a fact stands: in the active generation, else in the latest of the others.
    async fn locate_fact(&self, tenant: &str, fact_id: FactId) -> Result<Option<FactPlace>, ReadError>;

    /// The mentions of a fact in conversation order, each with its outcome.
    async fn lineage(&self, tenant: &str, place: &FactPlace, fact_id: FactId) -> Result<Vec<LineageRow>, ReadError>;

    /// The tenant's own id of an entity; `None` where nothing has named it.
    async fn entity_id(&self, tenant: &str, entity_key: &EntityKey) -> Result<Option<String>, ReadError>;

    /// What forgetting a fact takes; `None` where it has no mention or its entity no name.
    async fn forget_target(&self, tenant: &str, place: &FactPlace, fact_id: FactId) -> Result<Option<ForgetTarget>, ReadError>;

    /// Whether a deletion has been applied.
    async fn control_applied(&self, tenant: &str, entity_key: &EntityKey, control: &ControlId) -> Result<bool, ReadError>;

    /// How much each lineage made of a tenant's events.
    async fn lineages(&self, tenant: &str) -> Result<Vec<LineageCount>, ReadError>;

    /// Entities with something of these lineages that was not withdrawn, by key, after one.
    async fn lineage_entities(
        &self,
        tenant: &str,
        lineage: &Lineage,
        after: Option<&EntityKey>,
        limit: usize,
    ) -> Result<Vec<LineageEntity>, ReadError>;

    /// Events whose outcome, of these lineages, was withdrawn, by entity and id, after one.
    async fn withdrawn_events(
        &self,
        tenant: &str,
        lineage: &Lineage,
        after: Option<&WithdrawnPlace>,
        limit: usize,
    ) -> Result<Vec<WithdrawnEvent>, ReadError>;

    /// What an erasure did; `None` until it has been applied.
    async fn erasure(&self, tenant: &str, erasure_id: &str) -> Result<Option<ErasureReceipt>, ReadError>;

    /// Dead letters after a place, each with where its events stand.
    async fn letters(
        &self,
        filter: &LetterFilter,
        order: LetterOrder,
        after: Option<&LetterPlace>,
        limit: usize,
    ) -> Result<Vec<Letter>, ReadError>;

    /// These dead letters, whosever they are, in the order of their keys.
    async fn letters_by_key(&self, keys: &[DeadLetterKey]) -> Result<Vec<Option<Letter>>, ReadError>;

    /// The records that these dead letters are about, in the order of their keys; `None` where they were erased.
    async fn letter_bytes(&self, keys: &[DeadLetterKey]) -> Result<Vec<Option<LetterBytes>>, ReadError>;
}
