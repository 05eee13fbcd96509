//! Every base table in one list: its name, its columns in order, and which value of a row each holds.

use std::collections::BTreeSet;

use memori_schemas::{FactId, Lane, MessageKey, Origin, TextHash, TripleHash, Vector};
use uuid::Uuid;

use super::StoreError;
use super::cells::{Cell, Field, Fields, Kind, Reader, put_owner};
use crate::plan::rows::OutcomeKind;
use crate::plan::{
    ChangesRow, DeadCover, DeadLetterKey, DeadLetterRow, EntityRef, ErasureRow, EventRef, EventRow, FactRow, ForgetRow, Marks,
    MentionKey, MentionRow, MessageRow, MessageVectorKey, MessageVectorRow, OutcomeRow, StatsRow, Surface, ValidityRow,
    WithdrawalRow,
};

/// A table: the first two columns are always tenant and entity_key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [(&'static str, Kind)],
    pub(crate) key: &'static [&'static str],
}

impl Table {
    /// `a, b, c`, each behind `alias.` where there is one.
    pub(crate) fn column_list(&self, alias: &str) -> String {
        let names: Vec<String> = self.columns.iter().map(|(name, _)| format!("{alias}{name}")).collect();
        names.join(", ")
    }

    /// As [`Table::column_list`] with what a removal or a look-up has no use for left out: `null` stands for a vector's columns.
    pub(crate) fn lean_list(&self, alias: &str, null: impl Fn(Kind) -> String) -> String {
        let is_vector = |name: &str| ["vector_model", "vector_scale", "vector"].contains(&name);
        let column = |(name, kind): &(&str, Kind)| if is_vector(name) { null(*kind) } else { format!("{alias}{name}") };
        self.columns.iter().map(column).collect::<Vec<_>>().join(", ")
    }

    /// `ON CONFLICT (key) DO UPDATE SET …` of everything else.
    pub(crate) fn on_conflict(&self) -> String {
        let set: Vec<String> = self
            .columns
            .iter()
            .filter(|(name, _)| !self.key.contains(name))
            .map(|(name, _)| format!("{name} = excluded.{name}"))
            .collect();
        let then = if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
        format!("ON CONFLICT ({}) DO {then}", self.key.join(", "))
    }
}

/// A row of a table.
pub(crate) trait Row: Sized {
    const TABLE: Table;

    /// In the order of the table's columns.
    fn cells<'a>(&'a self, owner: Option<&'a EntityRef>) -> Vec<Cell<'a>>;

    /// From the table's columns, tenant and entity_key included.
    fn read<F: Fields>(fields: &mut Reader<'_, F>) -> Result<Self, StoreError>;
}

/// The names and kinds of each field, one after the other, behind the owner's.
const fn columns<const N: usize>(fields: &[(&[&'static str], &'static [Kind])]) -> [(&'static str, Kind); N] {
    let mut out = [("tenant", Kind::Text); N];
    out[1] = ("entity_key", Kind::Bytes);
    let (mut field, mut at) = (0, 2);
    while field < fields.len() {
        let (names, kinds) = fields[field];
        assert!(names.len() == kinds.len(), "a name for every column");
        let mut i = 0;
        while i < names.len() {
            out[at] = (names[i], kinds[i]);
            (i, at) = (i + 1, at + 1);
        }
        field += 1;
    }
    out
}

/// `field: Type => columns;` of each value, in the order of the columns.
macro_rules! tables {
    ($($row:ident in $name:literal key($($key:literal),*) { $($field:ident: $type:ty => $($column:literal),+;)* })*) => {$(
        impl Row for $row {
            const TABLE: Table = Table {
                name: $name,
                columns: &columns::<{ 2 $(+ <$type as Field>::KINDS.len())* }>(
                    &[$((&[$($column),+], <$type as Field>::KINDS)),*],
                ),
                key: &[$($key),*],
            };

            fn cells<'a>(&'a self, owner: Option<&'a EntityRef>) -> Vec<Cell<'a>> {
                let mut out = Vec::with_capacity(Self::TABLE.columns.len());
                put_owner(owner, &mut out);
                $(self.$field.put(&mut out);)*
                out
            }

            fn read<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
                r.skip_owner();
                Ok(Self { $($field: <$type as Field>::get(r)?),* })
            }
        }
    )*};
}

tables! {
    EventRow in "events" key("tenant", "event_id", "entity_key", "content_hash") {
        event: EventRef => "event_id", "content_hash";
        erased: bool => "erased";
        process_id: Option<String> => "process_id";
        session_id: Option<String> => "session_id";
        occurred_at_us: i64 => "occurred_at_us";
        accepted_at_us: i64 => "accepted_at_us";
        spooled: bool => "spooled";
        lane: Lane => "lane";
        log_partition: i32 => "log_partition";
        log_offset: i64 => "log_offset";
        origin: Option<Origin> => "origin_lane", "origin_offset";
        attempt: i32 => "attempt";
        marks: Marks => "first_live_offset", "first_backfill_offset", "first_spooled_at_us";
        client_fields: Option<String> => "client_fields";
    }

    MessageRow in "messages" key("tenant", "entity_key", "message_key", "event_id", "content_hash", "message_index") {
        message_key: MessageKey => "message_key";
        event: EventRef => "event_id", "content_hash";
        message_index: i32 => "message_index";
        message_id: String => "message_id";
        role: i16 => "role";
        name: Option<String> => "name";
        content: String => "content";
        content_format: i16 => "content_format";
        created_at_us: Option<i64> => "created_at_us";
        process_id: Option<String> => "process_id";
        session_id: Option<String> => "session_id";
        occurred_at_us: i64 => "occurred_at_us";
    }

    OutcomeRow in "outcomes" key("tenant", "entity_key", "event_id", "content_hash", "generation") {
        event: EventRef => "event_id", "content_hash";
        generation: i32 => "generation";
        kind: OutcomeKind => "kind";
        lane: Lane => "lane";
        log_topic_id: String => "log_topic_id";
        log_partition: i32 => "log_partition";
        log_offset: i64 => "log_offset";
        event_lane: Lane => "event_lane";
        event_offset: i64 => "event_offset";
        event_origin: Option<Origin> => "event_origin_lane", "event_origin_offset";
        event_spooled: bool => "event_spooled";
        event_accepted_at_us: i64 => "event_accepted_at_us";
        attempt: i32 => "attempt";
        withdrawn: bool => "withdrawn";
        dead_letter_class: Option<String> => "dead_letter_class";
        dead_letter_reason: Option<String> => "dead_letter_reason";
        extractor_name: Option<String> => "extractor_name";
        extractor_version: Option<String> => "extractor_version";
        extractor_model: Option<String> => "extractor_model";
        prompt_hash: Option<String> => "prompt_hash";
        tokens_in: i64 => "tokens_in";
        tokens_out: i64 => "tokens_out";
        cost_micros: i64 => "cost_micros";
        ended_at_us: i64 => "ended_at_us";
    }

    MentionRow in "mentions"
        key("tenant", "entity_key", "generation", "fact_id", "message_key", "event_id", "content_hash")
    {
        key: MentionKey => "generation", "fact_id", "message_key", "event_id", "content_hash";
        message_index: i32 => "message_index";
        message_id: String => "message_id";
        session_id: Option<String> => "session_id";
        occurred_at_us: i64 => "occurred_at_us";
        lane: Lane => "lane";
        log_partition: i32 => "log_partition";
        log_offset: i64 => "log_offset";
        text_hash: TextHash => "text_hash";
        triple_hash: Option<TripleHash> => "triple_hash";
        surface: Surface => "surface";
        vector: Option<Vector> => "vector_model", "vector_scale", "vector";
    }

    MessageVectorRow in "message_vectors"
        key("tenant", "entity_key", "generation", "message_key", "event_id", "content_hash")
    {
        key: MessageVectorKey => "generation", "message_key", "event_id", "content_hash";
        message_index: i32 => "message_index";
        vector: Vector => "vector_model", "vector_scale", "vector";
    }

    FactRow in "facts" key("tenant", "entity_key", "generation", "fact_id") {
        generation: i32 => "generation";
        fact_id: FactId => "fact_id";
        kind: i16 => "kind";
        body: String => "body";
        subject: Option<String> => "subject";
        predicate: Option<String> => "predicate";
        object: Option<String> => "object";
        slot: Option<String> => "slot";
        confidence: f32 => "confidence";
        process_id: Option<String> => "process_id";
        extractor: String => "extractor";
        rep_occurred_at_us: i64 => "rep_occurred_at_us";
        rep_event_id: String => "rep_event_id";
        rep_message_index: i32 => "rep_message_index";
    }

    StatsRow in "fact_stats" key("tenant", "entity_key", "generation", "fact_id") {
        generation: i32 => "generation";
        fact_id: FactId => "fact_id";
        mentions: i64 => "mentions";
        first_mentioned_at_us: i64 => "first_mentioned_at_us";
        last_mentioned_at_us: i64 => "last_mentioned_at_us";
    }

    ValidityRow in "validity" key("tenant", "entity_key", "generation", "fact_id", "valid_from_us") {
        generation: i32 => "generation";
        fact_id: FactId => "fact_id";
        valid_from_us: i64 => "valid_from_us";
        valid_to_us: Option<i64> => "valid_to_us";
        closed_by: Option<FactId> => "closed_by";
    }

    ErasureRow in "erasures" key("tenant", "entity_key", "erasure_id") {
        erasure_id: String => "erasure_id";
        requested_at_us: i64 => "requested_at_us";
        live_end_offset: i64 => "live_end_offset";
        backfill_end_offset: i64 => "backfill_end_offset";
        applied_at_us: i64 => "applied_at_us";
    }

    ForgetRow in "forgets" key("tenant", "entity_key", "forget_id") {
        forget_id: String => "forget_id";
        fact_id: Uuid => "fact_id";
        text_hash: TextHash => "text_hash";
        triple_hash: Option<TripleHash> => "triple_hash";
        message_keys: BTreeSet<MessageKey> => "message_keys";
        requested_at_us: i64 => "requested_at_us";
        applied_at_us: i64 => "applied_at_us";
    }

    WithdrawalRow in "withdrawals" key("tenant", "entity_key", "withdrawal_id") {
        withdrawal_id: String => "withdrawal_id";
        extractor_name: Option<String> => "extractor_name";
        extractor_version: Option<String> => "extractor_version";
        extractor_model: Option<String> => "extractor_model";
        prompt_hash: Option<String> => "prompt_hash";
        generation: Option<i64> => "generation";
        live_end_offset: i64 => "live_end_offset";
        backfill_end_offset: i64 => "backfill_end_offset";
        requested_at_us: i64 => "requested_at_us";
        applied_at_us: i64 => "applied_at_us";
    }

    DeadLetterRow in "dead_letters" key("source_topic_id", "source_partition", "source_offset", "generation") {
        key: DeadLetterKey => "source_topic_id", "source_partition", "source_offset", "generation";
        source_topic: String => "source_topic";
        lane: Lane => "lane";
        class: String => "class";
        reason: String => "reason";
        attempts: i32 => "attempts";
        covers: Vec<DeadCover> => "covers";
        erased: bool => "erased";
        original_key: Option<Vec<u8>> => "original_key";
        original_payload: Option<Vec<u8>> => "original_payload";
        failed_at_us: i64 => "failed_at_us";
    }
}

tables! {
    ChangesRow in "entity_changes" key("tenant", "entity_key", "version") {
        version: i64 => "version";
        facts: BTreeSet<FactId> => "facts";
        messages: BTreeSet<MessageKey> => "messages";
    }
}

/// The keys alone, for those who remove.
#[derive(Debug)]
pub(crate) struct StoredMessageVector {
    pub(crate) key: MessageVectorKey,
}

tables! {
    StoredMessageVector in "message_vectors"
        key("tenant", "entity_key", "generation", "message_key", "event_id", "content_hash")
    {
        key: MessageVectorKey => "generation", "message_key", "event_id", "content_hash";
    }
}
