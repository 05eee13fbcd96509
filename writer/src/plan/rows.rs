//! The rows of the base tables, as the planner sees them: without tenant and entity, which stand beside them.
//!
//! What ranks, orders or erases is computed here and nowhere else.

use memori_schemas::{ContentHash, Cover, EntityKey, FactId, Lane, MessageKey, Origin, TextHash, TripleHash, Vector};
use serde::{Deserialize, Serialize};

/// Whose rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityRef {
    /// The owner.
    pub tenant: String,
    /// Whom they are about.
    pub key: EntityKey,
}

/// An event of one entity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventRef {
    /// The caller's id.
    pub event_id: String,
    /// What it says.
    pub content_hash: ContentHash,
}

/// A fact of one entity: generation and id.
pub type FactKey = (i32, FactId);
/// An outcome of one entity: event and generation.
pub type OutcomeKey = (EventRef, i32);

/// A mention of one entity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MentionKey {
    /// The pipeline's version.
    pub generation: i32,
    /// The fact.
    pub fact_id: FactId,
    /// The message.
    pub message_key: MessageKey,
    /// The message's event.
    pub event: EventRef,
}

/// A message's vector, of one entity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageVectorKey {
    /// The pipeline's version.
    pub generation: i32,
    /// The message.
    pub message_key: MessageKey,
    /// The message's event.
    pub event: EventRef,
}

/// What an erasure needs to know of an event: minima over its copies, so that they merge in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// The lowest live offset, of a copy or of a copy's origin.
    pub first_live_offset: Option<i64>,
    /// The lowest backfill offset, of a copy or of a copy's origin.
    pub first_backfill_offset: Option<i64>,
    /// When the first spooled copy was accepted.
    pub first_spooled_at_us: Option<i64>,
}

fn lower(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

impl Marks {
    /// Of one copy.
    #[must_use]
    pub fn of(lane: Lane, offset: i64, origin: Option<Origin>, spooled: bool, accepted_at_us: i64) -> Self {
        let mut marks = Self { first_spooled_at_us: spooled.then_some(accepted_at_us), ..Self::default() };
        for (lane, offset) in [Some((lane, offset)), origin.map(|o| (o.lane, o.offset))].into_iter().flatten() {
            let first = match lane {
                Lane::Live => &mut marks.first_live_offset,
                Lane::Backfill => &mut marks.first_backfill_offset,
            };
            *first = lower(*first, Some(offset));
        }
        marks
    }

    /// Of the copy that a cover names.
    #[must_use]
    pub fn of_cover(cover: &Cover) -> Self {
        Self::of(cover.lane, cover.offset, cover.origin, cover.spooled, cover.accepted_at.0)
    }

    /// Of these copies and those.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            first_live_offset: lower(self.first_live_offset, other.first_live_offset),
            first_backfill_offset: lower(self.first_backfill_offset, other.first_backfill_offset),
            first_spooled_at_us: lower(self.first_spooled_at_us, other.first_spooled_at_us),
        }
    }
}

/// One event: its shown copy, which is the one with the smallest (accepted_at, lane, offset).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns' names; the migration comments them")]
pub struct EventRow {
    pub event: EventRef,
    pub erased: bool,
    pub process_id: Option<String>,
    pub session_id: Option<String>,
    pub occurred_at_us: i64,
    pub accepted_at_us: i64,
    pub spooled: bool,
    pub lane: Lane,
    pub log_partition: i32,
    pub log_offset: i64,
    pub origin: Option<Origin>,
    pub attempt: i32,
    pub marks: Marks,
    pub client_fields: Option<String>,
}

impl EventRow {
    /// The smallest is shown.
    #[must_use]
    pub fn order(&self) -> (i64, Lane, i64) {
        (self.accepted_at_us, self.lane, self.log_offset)
    }

    /// Without content.
    #[must_use]
    pub fn blank(mut self) -> Self {
        self.erased = true;
        self.process_id = None;
        self.session_id = None;
        self.client_fields = None;
        self
    }
}

/// One message of an event's shown copy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns' names")]
pub struct MessageRow {
    pub message_key: MessageKey,
    pub event: EventRef,
    pub message_index: i32,
    pub message_id: String,
    pub role: i16,
    pub name: Option<String>,
    pub content: String,
    pub content_format: i16,
    pub created_at_us: Option<i64>,
    pub process_id: Option<String>,
    pub session_id: Option<String>,
    pub occurred_at_us: i64,
}

/// How an event ended in one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutcomeKind {
    /// Its facts, perhaps none, were taken.
    Applied,
    /// It was given up.
    Dead,
}

impl OutcomeKind {
    /// The column's value.
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Self::Applied => 1,
            Self::Dead => 2,
        }
    }

    /// From the column's value.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        [Self::Applied, Self::Dead].into_iter().find(|kind| kind.code() == code)
    }
}

/// The best-ranked outcome of an event in one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns' names; the migration comments them")]
pub struct OutcomeRow {
    pub event: EventRef,
    pub generation: i32,
    pub kind: OutcomeKind,
    pub lane: Lane,
    pub log_topic_id: String,
    pub log_partition: i32,
    pub log_offset: i64,
    pub event_lane: Lane,
    pub event_offset: i64,
    pub event_origin: Option<Origin>,
    pub event_spooled: bool,
    pub event_accepted_at_us: i64,
    pub attempt: i32,
    /// It is applied, and what it made was withdrawn.
    pub withdrawn: bool,
    pub dead_letter_class: Option<String>,
    pub dead_letter_reason: Option<String>,
    pub extractor_name: Option<String>,
    pub extractor_version: Option<String>,
    pub extractor_model: Option<String>,
    pub prompt_hash: Option<String>,
    pub tokens_in: i64,
    pub tokens_out: i64,
    pub cost_micros: i64,
    pub ended_at_us: i64,
}

impl OutcomeRow {
    /// The smallest wins: applied before dead; the higher attempt first; among applied live before backfill; then the lower offset. That
    /// something was withdrawn does not move it: what takes its place is the next attempt.
    #[must_use]
    pub fn rank(&self) -> impl Ord + '_ {
        let history = self.kind == OutcomeKind::Applied && self.lane == Lane::Backfill;
        (
            self.kind,
            -i64::from(self.attempt),
            history,
            self.log_offset,
            self.log_topic_id.as_str(),
            self.event_lane,
            self.event_offset,
        )
    }

    /// What it says of its event.
    #[must_use]
    pub fn marks(&self) -> Marks {
        Marks::of(self.event_lane, self.event_offset, self.event_origin, self.event_spooled, self.event_accepted_at_us)
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> OutcomeKey {
        (self.event.clone(), self.generation)
    }
}

/// What a mention says and the fact's id does not fix; stored as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in the fact on the log")]
pub struct Surface {
    pub kind: memori_schemas::FactKind,
    pub text: String,
    pub subject: Option<String>,
    pub predicate: Option<String>,
    pub object: Option<String>,
    pub slot: Option<String>,
    pub confidence: f32,
    pub valid_from_us: Option<i64>,
    pub valid_to_us: Option<i64>,
    pub extractor: String,
    pub process_id: Option<String>,
}

/// One event's support for a fact by one message.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the columns' names")]
pub struct MentionRow {
    pub key: MentionKey,
    pub message_index: i32,
    pub message_id: String,
    pub session_id: Option<String>,
    pub occurred_at_us: i64,
    pub lane: Lane,
    pub log_partition: i32,
    pub log_offset: i64,
    pub text_hash: TextHash,
    pub triple_hash: Option<TripleHash>,
    pub surface: Surface,
    /// Part of what the mention says. The planner compares new ones only: what it reads of stored mentions is without.
    pub vector: Option<Vector>,
}

/// A message's vector, by a winning outcome.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the columns' names")]
pub struct MessageVectorRow {
    pub key: MessageVectorKey,
    pub message_index: i32,
    pub vector: Vector,
}

impl MessageVectorRow {
    /// Of several that one record gives of one message the smallest is kept.
    #[must_use]
    pub fn order(&self) -> impl Ord + '_ {
        (self.message_index, vector_order(&self.vector))
    }
}

/// A total order of vectors, for choices that any fixed order settles.
fn vector_order(vector: &Vector) -> (&str, u32, &[u8]) {
    (&vector.model, vector.scale.to_bits(), &vector.values)
}

impl MentionRow {
    /// The fact that it supports.
    #[must_use]
    pub fn fact(&self) -> FactKey {
        (self.key.generation, self.key.fact_id)
    }

    /// The total order of a fact's mentions; the smallest is the representative.
    #[must_use]
    pub fn order(&self) -> (i64, &str, i32, &ContentHash, &MessageKey) {
        let event = &self.key.event;
        (self.occurred_at_us, &event.event_id, self.message_index, &event.content_hash, &self.key.message_key)
    }

    /// Of several mentions of one fact by one message in one record the smallest is kept.
    #[must_use]
    pub fn wording_order(&self) -> impl Ord + '_ {
        let surface = serde_json::to_string(&self.surface).unwrap_or_default();
        (self.message_index, surface, self.vector.as_ref().map(vector_order))
    }

    /// When what it says begins to hold.
    #[must_use]
    pub fn start_us(&self) -> i64 {
        self.surface.valid_from_us.unwrap_or(self.occurred_at_us)
    }

    /// When what it says ceases to hold, where it says so; never before it begins.
    #[must_use]
    pub fn end_us(&self) -> Option<i64> {
        self.surface.valid_to_us.map(|end| end.max(self.start_us()))
    }
}

/// A fact as its representative words it.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the columns' names")]
pub struct FactRow {
    pub generation: i32,
    pub fact_id: FactId,
    pub kind: i16,
    pub body: String,
    pub subject: Option<String>,
    pub predicate: Option<String>,
    pub object: Option<String>,
    pub slot: Option<String>,
    pub confidence: f32,
    pub process_id: Option<String>,
    pub extractor: String,
    pub rep_occurred_at_us: i64,
    pub rep_event_id: String,
    pub rep_message_index: i32,
}

/// How often a fact was said, and when: over distinct messages, each at its first time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns' names")]
pub struct StatsRow {
    pub generation: i32,
    pub fact_id: FactId,
    pub mentions: i64,
    pub first_mentioned_at_us: i64,
    pub last_mentioned_at_us: i64,
}

/// An interval in which a fact holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns' names")]
pub struct ValidityRow {
    pub generation: i32,
    pub fact_id: FactId,
    pub valid_from_us: i64,
    pub valid_to_us: Option<i64>,
    pub closed_by: Option<FactId>,
}

/// An erasure of the entity.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns' names")]
pub struct ErasureRow {
    pub erasure_id: String,
    pub requested_at_us: i64,
    pub live_end_offset: i64,
    pub backfill_end_offset: i64,
    pub applied_at_us: i64,
}

impl ErasureRow {
    /// Whether an event with these marks is erased by it.
    #[must_use]
    pub fn erases(&self, marks: &Marks) -> bool {
        marks.first_live_offset.is_some_and(|offset| offset < self.live_end_offset)
            || marks.first_backfill_offset.is_some_and(|offset| offset < self.backfill_end_offset)
            || marks.first_spooled_at_us.is_some_and(|at| at <= self.requested_at_us)
    }
}

/// A fact that was forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns' names")]
pub struct ForgetRow {
    pub forget_id: String,
    pub fact_id: uuid::Uuid,
    pub text_hash: TextHash,
    pub triple_hash: Option<TripleHash>,
    pub message_keys: std::collections::BTreeSet<MessageKey>,
    pub requested_at_us: i64,
    pub applied_at_us: i64,
}

impl ForgetRow {
    /// Whether it drops a mention.
    #[must_use]
    pub fn drops(&self, mention: &MentionRow) -> bool {
        self.message_keys.contains(&mention.key.message_key)
            && (self.text_hash == mention.text_hash || (self.triple_hash.is_some() && self.triple_hash == mention.triple_hash))
    }
}

/// What a lineage made, withdrawn.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns' names")]
pub struct WithdrawalRow {
    pub withdrawal_id: String,
    pub extractor_name: Option<String>,
    pub extractor_version: Option<String>,
    pub extractor_model: Option<String>,
    pub prompt_hash: Option<String>,
    pub generation: Option<i64>,
    pub live_end_offset: i64,
    pub backfill_end_offset: i64,
    pub requested_at_us: i64,
    pub applied_at_us: i64,
}

impl WithdrawalRow {
    /// Whether it withdraws what this outcome's fact event says.
    #[must_use]
    pub fn withdraws(&self, outcome: &OutcomeRow) -> bool {
        let is = |wanted: &Option<String>, present: &Option<String>| wanted.is_none() || wanted == present;
        let end = match outcome.lane {
            Lane::Live => self.live_end_offset,
            Lane::Backfill => self.backfill_end_offset,
        };
        outcome.kind == OutcomeKind::Applied
            && outcome.log_offset < end
            && self.generation.is_none_or(|generation| generation == i64::from(outcome.generation))
            && is(&self.extractor_name, &outcome.extractor_name)
            && is(&self.extractor_version, &outcome.extractor_version)
            && is(&self.extractor_model, &outcome.extractor_model)
            && is(&self.prompt_hash, &outcome.prompt_hash)
    }
}

/// What identifies a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the columns' names")]
pub struct DeadLetterKey {
    pub source_topic_id: String,
    pub source_partition: i32,
    pub source_offset: i64,
    pub generation: i32,
}

/// An event that ends in a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeadCover {
    /// Its id.
    pub event_id: String,
    /// Its content's hash in hex.
    pub content_hash: String,
    /// As [`Marks::first_live_offset`].
    pub first_live_offset: Option<i64>,
    /// As [`Marks::first_backfill_offset`].
    pub first_backfill_offset: Option<i64>,
    /// As [`Marks::first_spooled_at_us`].
    pub first_spooled_at_us: Option<i64>,
}

impl DeadCover {
    /// Of one event.
    #[must_use]
    pub fn new(event: &EventRef, marks: &Marks) -> Self {
        Self {
            event_id: event.event_id.clone(),
            content_hash: event.content_hash.to_string(),
            first_live_offset: marks.first_live_offset,
            first_backfill_offset: marks.first_backfill_offset,
            first_spooled_at_us: marks.first_spooled_at_us,
        }
    }

    /// What an erasure needs to know.
    #[must_use]
    pub fn marks(&self) -> Marks {
        Marks {
            first_live_offset: self.first_live_offset,
            first_backfill_offset: self.first_backfill_offset,
            first_spooled_at_us: self.first_spooled_at_us,
        }
    }
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns' names")]
pub struct DeadLetterRow {
    pub key: DeadLetterKey,
    pub source_topic: String,
    pub lane: Lane,
    pub class: String,
    pub reason: String,
    pub attempts: i32,
    pub covers: Vec<DeadCover>,
    pub erased: bool,
    pub original_key: Option<Vec<u8>>,
    pub original_payload: Option<Vec<u8>>,
    pub failed_at_us: i64,
}

impl DeadLetterRow {
    /// Of several letters about one record the smallest is kept.
    #[must_use]
    pub fn order(&self) -> impl Ord + '_ {
        (self.failed_at_us, &self.class, &self.reason, self.attempts, &self.covers)
    }

    /// Without the bytes.
    #[must_use]
    pub fn blank(mut self) -> Self {
        self.erased = true;
        self.original_key = None;
        self.original_payload = None;
        self
    }

    /// Whether an erasure takes its bytes, by what the letter itself tells. Where the bytes could not be read, nobody knows
    /// which events they held: then the place in the log decides, or, for fact events, the time.
    #[must_use]
    pub fn erased_by(&self, erasure: &ErasureRow) -> bool {
        if !self.covers.is_empty() {
            return self.covers.iter().any(|cover| erasure.erases(&cover.marks()));
        }
        if self.source_topic.starts_with("conversations.") {
            return erasure.erases(&Marks::of(self.lane, self.key.source_offset, None, false, 0));
        }
        self.failed_at_us <= erasure.requested_at_us
    }
}
