//! What the reads return: rows as they stand in the tables, by the words of the tables.

use bytes::Bytes;
use memori_schemas::{ContentFormat, ContentHash, EntityKey, FactId, FactKind, Lane, MessageKey, Role, TextHash, TripleHash};

use crate::recall::islands::Unnamed;
use crate::store::packs::PackKind;

/// What decides whether something cached about an entity is still true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntityVersion {
    /// Bumped by every flush that touches the entity; `None` where nothing is known of it.
    pub version: Option<i64>,
    /// Changes when the table of versions itself is made anew, as a rebuild does.
    pub epoch: i64,
    /// The generation that recall reads.
    pub generation: i32,
    /// Images older than this are read whole.
    pub rebased_version: i64,
    /// The version that the packs show, where there are packs.
    pub packed_version: Option<i64>,
}

impl EntityVersion {
    /// Whether the changes since tell everything that an image lacks.
    #[must_use]
    pub fn tells_since(&self, shown: Shown) -> bool {
        self.version.is_some_and(|version| shown.version <= version)
            && self.epoch == shown.epoch
            && self.rebased_version <= shown.version
    }
}

/// What an image shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The entity's version.
    pub version: i64,
    /// As in [`EntityVersion`].
    pub epoch: i64,
}

/// Packs of an entity and what changed after them, at one instant.
#[derive(Clone, Debug)]
pub struct Packed<R> {
    /// Chunks of the facts or messages, each with what goes with it, in their order.
    pub chunks: Vec<(PackKind, Bytes)>,
    /// Chunks of the events without a session.
    pub unnamed: Vec<Bytes>,
    /// As [`Changes::Since`], over what the chunks hold.
    pub since: R,
}

/// The version of an entity; and where packs show just that, what there is beside their chunks: those of the events without a
/// session, and rows that say that nothing has changed since.
pub type AsPacked<R> = (EntityVersion, Option<(Vec<Bytes>, R)>);

/// Is given chunks in their order, each as it comes.
pub type TakeChunk<'a> = &'a mut (dyn FnMut(PackKind, Bytes) + Send);

/// What an image lacks.
#[derive(Clone, Debug)]
pub enum Changes<R> {
    /// Everything of each fact or message that changed, in place of what the image has of it, and the events without a session
    /// that came: they are added. Nothing is to be removed.
    Since(R),
    /// Only all of the rows tell.
    Reload,
}

/// An embedding: int8 values (two's complement), each worth `scale`. Of which model is known to whoever asked for it.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorRow {
    /// What a step of the values is worth.
    pub scale: f32,
    /// One for each dimension.
    pub values: Vec<u8>,
}

/// All that recall needs of an entity's facts, read at one instant.
#[derive(Clone, Debug, Default)]
pub struct FactRows {
    /// The entity's version; `None` where nothing is known of it.
    pub version: Option<i64>,
    /// As in [`EntityVersion`].
    pub epoch: i64,
    /// The generation of the facts.
    pub generation: i32,
    /// In no particular order.
    pub facts: Vec<FactRow>,
    /// In no particular order.
    pub mentions: Vec<MentionRow>,
    /// In no particular order.
    pub validity: Vec<IntervalRow>,
    /// Events without a session.
    pub unnamed: Vec<UnnamedRow>,
    /// All that was asked to be forgotten of the entity, in no particular order.
    pub forgets: Vec<ForgottenRow>,
}

/// All messages of an entity, read at one instant.
#[derive(Clone, Debug, Default)]
pub struct MessageRows {
    /// The entity's version; `None` where nothing is known of it.
    pub version: Option<i64>,
    /// As in [`EntityVersion`].
    pub epoch: i64,
    /// The generation of the vectors.
    pub generation: i32,
    /// In no particular order.
    pub messages: Vec<MessageRow>,
    /// Events without a session.
    pub unnamed: Vec<UnnamedRow>,
}

/// A fact with its counts.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "columns of the tables, whose migration describes them")]
pub struct FactRow {
    pub fact_id: FactId,
    pub kind: FactKind,
    pub body: String,
    pub subject: Option<String>,
    pub predicate: Option<String>,
    pub object: Option<String>,
    pub confidence: f64,
    pub process_id: Option<String>,
    pub extractor: String,
    pub rep_occurred_at_us: i64,
    pub rep_event_id: String,
    pub rep_message_index: i64,
    pub mentions: i64,
    pub first_mentioned_at_us: i64,
    pub last_mentioned_at_us: i64,
    /// That of the smallest mention that has one of the wanted model.
    pub vector: Option<VectorRow>,
}

/// One message's support for a fact.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "columns of the tables, whose migration describes them")]
pub struct MentionRow {
    pub fact_id: FactId,
    pub message_key: MessageKey,
    pub event_id: String,
    pub content_hash: ContentHash,
    pub message_index: i64,
    pub message_id: String,
    pub session_id: Option<String>,
    pub process_id: Option<String>,
    pub occurred_at_us: i64,
}

/// What was asked to be forgotten: messages that no longer count for what has this text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForgottenRow {
    /// Of the text.
    pub text_hash: TextHash,
    /// The messages.
    pub message_keys: Vec<MessageKey>,
}

/// When a fact holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "columns of the tables, whose migration describes them")]
pub struct IntervalRow {
    pub fact_id: FactId,
    pub valid_from_us: i64,
    pub valid_to_us: Option<i64>,
}

/// An event whose client named no session.
#[derive(Clone, Debug)]
pub struct UnnamedRow {
    /// What islands are made from.
    pub event: Unnamed,
    /// Tells two events of one id apart.
    pub content_hash: ContentHash,
}

/// A message of an event.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "columns of the tables, whose migration describes them")]
pub struct MessageRow {
    pub message_key: MessageKey,
    pub event_id: String,
    pub content_hash: ContentHash,
    pub message_index: i64,
    pub message_id: String,
    pub role: Role,
    pub name: Option<String>,
    pub content: String,
    pub content_format: ContentFormat,
    pub created_at_us: Option<i64>,
    pub process_id: Option<String>,
    pub session_id: Option<String>,
    pub occurred_at_us: i64,
    /// Of the wanted model.
    pub vector: Option<VectorRow>,
}

/// How far an event has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventState {
    /// In the tables, without an outcome.
    Accepted,
    /// Its outcome counts.
    Applied,
    /// It was given up.
    DeadLettered,
    /// It was erased on request.
    Erased,
}

impl EventState {
    /// The name in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Applied => "applied",
            Self::DeadLettered => "dead_lettered",
            Self::Erased => "erased",
        }
    }

    /// Whether waiting for more is pointless.
    #[must_use]
    pub fn is_final(self) -> bool {
        self != Self::Accepted
    }
}

/// An event's state, of several contents of one id that with the smallest (accepted_at, content_hash).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventStatus {
    /// The event.
    pub event_id: String,
    /// Whom it is about.
    pub entity_key: EntityKey,
    /// Which content of it.
    pub content_hash: ContentHash,
    /// How far it has come.
    pub state: EventState,
    /// When the door took it.
    pub accepted_at_us: i64,
    /// The lane in which it is shown.
    pub lane: Lane,
    /// Its entity as the tenant names it, where that is kept.
    pub entity_id: Option<String>,
    /// When its outcome was made.
    pub ended_at_us: Option<i64>,
    /// Why it was given up, as a class.
    pub class: Option<String>,
    /// Why it was given up, in words.
    pub reason: Option<String>,
}

/// What the door compares a re-sent event with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownEvent {
    /// The event.
    pub event_id: String,
    /// Whom it is about.
    pub entity_key: EntityKey,
    /// Which content of it.
    pub content_hash: ContentHash,
    /// When the door took it.
    pub accepted_at_us: i64,
    /// JSON of what the client gave besides the content; `None` once it is erased.
    pub client_fields: Option<String>,
}

/// One mention with the outcome that brought it.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "columns of the tables, whose migration describes them")]
pub struct LineageRow {
    pub mention: MentionRow,
    pub surface: String,
    pub lane: Lane,
    pub log_partition: i64,
    pub log_offset: i64,
    pub log_topic_id: Option<String>,
    pub extractor_name: Option<String>,
    pub extractor_version: Option<String>,
    pub extractor_model: Option<String>,
    pub prompt_hash: Option<String>,
    pub tokens_in: i64,
    pub tokens_out: i64,
    pub cost_micros: i64,
    pub ended_at_us: Option<i64>,
}

/// Where a fact stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FactPlace {
    /// Whose it is.
    pub entity_key: EntityKey,
    /// In which generation.
    pub generation: i32,
}

/// What a control that forgets a fact has to carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForgetTarget {
    /// Whose fact.
    pub entity_id: String,
    /// Its text.
    pub text_hash: TextHash,
    /// Its triple, where it has one.
    pub triple_hash: Option<TripleHash>,
    /// The messages that support it, sorted.
    pub message_keys: Vec<MessageKey>,
}

/// A deletion that may have been applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlId {
    /// A forget.
    Forget(String),
    /// An erasure.
    Erasure(String),
    /// A withdrawal.
    Withdrawal(String),
}

/// What an erasure did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasureReceipt {
    /// Its id.
    pub erasure_id: String,
    /// Whom it erased.
    pub entity_key: EntityKey,
    /// When it was asked.
    pub requested_at_us: i64,
    /// When it was applied.
    pub applied_at_us: i64,
    /// Events of the entity that are erased.
    pub events_erased: i64,
    /// Events of the entity that are not, because they came later.
    pub events_kept: i64,
}

/// A page of the entities of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityRow {
    /// Its key, the place in the order.
    pub entity_key: EntityKey,
    /// The tenant's own string.
    pub entity_id: String,
}
