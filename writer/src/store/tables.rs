//! How each row stands in its table, once for both dialects: column names and types, cells to write, fields to read.

use memori_schemas::{ContentHash, EntityKey, FactId, Lane, MessageKey, Origin, TextHash, TripleHash};
use uuid::Uuid;

use super::StoreError;
use crate::plan::rows::OutcomeKind;
use crate::plan::{
    DeadLetterKey, DeadLetterRow, EntityRef, ErasureRow, EventRef, EventRow, FactRow, ForgetRow, Marks, MentionKey, MentionRow,
    MessageRow, OutcomeRow, StatsRow, ValidityRow,
};

/// A column's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Bytes,
    Uuid,
    I64,
    I32,
    I16,
    Bool,
    F32,
}

/// A value on its way to a column.
#[derive(Clone, Debug)]
pub(crate) enum Cell<'a> {
    Text(Option<&'a str>),
    OwnedText(String),
    Bytes(Option<&'a [u8]>),
    OwnedBytes(Vec<u8>),
    Uuid(Option<Uuid>),
    I64(Option<i64>),
    I32(i32),
    I16(Option<i16>),
    Bool(bool),
    F32(f32),
}

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

/// A value that was read.
pub(crate) trait Fields {
    fn text(&self, at: usize) -> Result<Option<String>, StoreError>;
    fn bytes(&self, at: usize) -> Result<Option<Vec<u8>>, StoreError>;
    fn uuid(&self, at: usize) -> Result<Option<Uuid>, StoreError>;
    fn i64(&self, at: usize) -> Result<Option<i64>, StoreError>;
    fn i32(&self, at: usize) -> Result<Option<i32>, StoreError>;
    fn i16(&self, at: usize) -> Result<Option<i16>, StoreError>;
    fn bool(&self, at: usize) -> Result<bool, StoreError>;
    fn f32(&self, at: usize) -> Result<f32, StoreError>;
}

/// Reads the columns of a row one after the other.
pub(crate) struct Reader<'a, F>(&'a F, usize);

impl<'a, F: Fields> Reader<'a, F> {
    /// From the first column on.
    pub(crate) fn new(fields: &'a F) -> Self {
        Self(fields, 0)
    }

    fn next(&mut self) -> usize {
        self.1 += 1;
        self.1 - 1
    }

    fn opt_text(&mut self) -> Result<Option<String>, StoreError> {
        let at = self.next();
        self.0.text(at)
    }

    pub(crate) fn text(&mut self) -> Result<String, StoreError> {
        self.opt_text()?.ok_or_else(missing)
    }

    fn opt_bytes(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        let at = self.next();
        self.0.bytes(at)
    }

    fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        self.opt_bytes()?.ok_or_else(missing)
    }

    fn opt_uuid(&mut self) -> Result<Option<Uuid>, StoreError> {
        let at = self.next();
        self.0.uuid(at)
    }

    fn uuid(&mut self) -> Result<Uuid, StoreError> {
        self.opt_uuid()?.ok_or_else(missing)
    }

    fn opt_i64(&mut self) -> Result<Option<i64>, StoreError> {
        let at = self.next();
        self.0.i64(at)
    }

    fn i64(&mut self) -> Result<i64, StoreError> {
        self.opt_i64()?.ok_or_else(missing)
    }

    fn i32(&mut self) -> Result<i32, StoreError> {
        let at = self.next();
        self.0.i32(at)?.ok_or_else(missing)
    }

    fn opt_i16(&mut self) -> Result<Option<i16>, StoreError> {
        let at = self.next();
        self.0.i16(at)
    }

    fn i16(&mut self) -> Result<i16, StoreError> {
        self.opt_i16()?.ok_or_else(missing)
    }

    fn bool(&mut self) -> Result<bool, StoreError> {
        let at = self.next();
        self.0.bool(at)
    }

    fn f32(&mut self) -> Result<f32, StoreError> {
        let at = self.next();
        self.0.f32(at)
    }

    /// The first two columns.
    pub(crate) fn owner(&mut self) -> Result<EntityRef, StoreError> {
        Ok(EntityRef { tenant: self.text()?, key: fixed(EntityKey::from_slice(&self.bytes()?))? })
    }

    fn skip_owner(&mut self) {
        self.1 += 2;
    }

    fn event(&mut self) -> Result<EventRef, StoreError> {
        Ok(EventRef { event_id: self.text()?, content_hash: self.content_hash()? })
    }

    fn content_hash(&mut self) -> Result<ContentHash, StoreError> {
        fixed(ContentHash::from_slice(&self.bytes()?))
    }

    fn message_key(&mut self) -> Result<MessageKey, StoreError> {
        fixed(MessageKey::from_slice(&self.bytes()?))
    }

    fn lane(&mut self) -> Result<Lane, StoreError> {
        let code = self.i16()?;
        lane_of(code)
    }

    fn origin(&mut self) -> Result<Option<Origin>, StoreError> {
        match (self.opt_i16()?, self.opt_i64()?) {
            (Some(lane), Some(offset)) => Ok(Some(Origin { lane: lane_of(lane)?, offset })),
            _ => Ok(None),
        }
    }
}

fn missing() -> StoreError {
    StoreError::Broken("a column that cannot be null is null".to_owned())
}

fn fixed<T>(value: Option<T>) -> Result<T, StoreError> {
    value.ok_or_else(|| StoreError::Broken("a stored hash has another length".to_owned()))
}

fn lane_of(code: i16) -> Result<Lane, StoreError> {
    usize::try_from(code)
        .ok()
        .and_then(|i| Lane::ALL.get(i).copied())
        .ok_or_else(|| StoreError::Broken(format!("a stored lane is {code}")))
}

fn lane_code(lane: Lane) -> i16 {
    i16::from(lane == Lane::Backfill)
}

/// A row of a table.
pub(crate) trait Row: Sized {
    const TABLE: Table;

    /// In the order of the table's columns.
    fn cells<'a>(&'a self, owner: Option<&'a EntityRef>) -> Vec<Cell<'a>>;

    /// From the table's columns, tenant and entity_key included.
    fn read<F: Fields>(fields: &mut Reader<'_, F>) -> Result<Self, StoreError>;
}

fn tenant(owner: Option<&EntityRef>) -> Cell<'_> {
    Cell::Text(owner.map(|o| o.tenant.as_str()))
}

fn entity(owner: Option<&EntityRef>) -> Cell<'_> {
    Cell::Bytes(owner.map(|o| o.key.as_bytes()))
}

fn text(value: &str) -> Cell<'_> {
    Cell::Text(Some(value))
}

fn opt(value: &Option<String>) -> Cell<'_> {
    Cell::Text(value.as_deref())
}

fn bytes(value: &[u8]) -> Cell<'_> {
    Cell::Bytes(Some(value))
}

fn long(value: i64) -> Cell<'static> {
    Cell::I64(Some(value))
}

fn lane(value: Lane) -> Cell<'static> {
    Cell::I16(Some(lane_code(value)))
}

fn origin(value: Option<Origin>) -> [Cell<'static>; 2] {
    [Cell::I16(value.map(|o| lane_code(o.lane))), Cell::I64(value.map(|o| o.offset))]
}

impl Row for EventRow {
    const TABLE: Table = Table {
        name: "events",
        columns: &[
            ("tenant", Kind::Text),
            ("entity_key", Kind::Bytes),
            ("event_id", Kind::Text),
            ("content_hash", Kind::Bytes),
            ("erased", Kind::Bool),
            ("process_id", Kind::Text),
            ("session_id", Kind::Text),
            ("occurred_at_us", Kind::I64),
            ("accepted_at_us", Kind::I64),
            ("spooled", Kind::Bool),
            ("lane", Kind::I16),
            ("log_partition", Kind::I32),
            ("log_offset", Kind::I64),
            ("origin_lane", Kind::I16),
            ("origin_offset", Kind::I64),
            ("attempt", Kind::I32),
            ("first_live_offset", Kind::I64),
            ("first_backfill_offset", Kind::I64),
            ("first_spooled_at_us", Kind::I64),
            ("client_fields", Kind::Text),
        ],
        key: &["tenant", "event_id", "entity_key", "content_hash"],
    };

    fn cells<'a>(&'a self, owner: Option<&'a EntityRef>) -> Vec<Cell<'a>> {
        let [origin_lane, origin_offset] = origin(self.origin);
        vec![
            tenant(owner),
            entity(owner),
            text(&self.event.event_id),
            bytes(self.event.content_hash.as_bytes()),
            Cell::Bool(self.erased),
            opt(&self.process_id),
            opt(&self.session_id),
            long(self.occurred_at_us),
            long(self.accepted_at_us),
            Cell::Bool(self.spooled),
            lane(self.lane),
            Cell::I32(self.log_partition),
            long(self.log_offset),
            origin_lane,
            origin_offset,
            Cell::I32(self.attempt),
            Cell::I64(self.marks.first_live_offset),
            Cell::I64(self.marks.first_backfill_offset),
            Cell::I64(self.marks.first_spooled_at_us),
            opt(&self.client_fields),
        ]
    }

    fn read<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        r.skip_owner();
        Ok(Self {
            event: r.event()?,
            erased: r.bool()?,
            process_id: r.opt_text()?,
            session_id: r.opt_text()?,
            occurred_at_us: r.i64()?,
            accepted_at_us: r.i64()?,
            spooled: r.bool()?,
            lane: r.lane()?,
            log_partition: r.i32()?,
            log_offset: r.i64()?,
            origin: r.origin()?,
            attempt: r.i32()?,
            marks: Marks {
                first_live_offset: r.opt_i64()?,
                first_backfill_offset: r.opt_i64()?,
                first_spooled_at_us: r.opt_i64()?,
            },
            client_fields: r.opt_text()?,
        })
    }
}

impl Row for MessageRow {
    const TABLE: Table = Table {
        name: "messages",
        columns: &[
            ("tenant", Kind::Text),
            ("entity_key", Kind::Bytes),
            ("message_key", Kind::Bytes),
            ("event_id", Kind::Text),
            ("content_hash", Kind::Bytes),
            ("message_index", Kind::I32),
            ("message_id", Kind::Text),
            ("role", Kind::I16),
            ("name", Kind::Text),
            ("content", Kind::Text),
            ("content_format", Kind::I16),
            ("created_at_us", Kind::I64),
            ("process_id", Kind::Text),
            ("session_id", Kind::Text),
            ("occurred_at_us", Kind::I64),
        ],
        key: &["tenant", "entity_key", "message_key", "event_id", "content_hash", "message_index"],
    };

    fn cells<'a>(&'a self, owner: Option<&'a EntityRef>) -> Vec<Cell<'a>> {
        vec![
            tenant(owner),
            entity(owner),
            bytes(self.message_key.as_bytes()),
            text(&self.event.event_id),
            bytes(self.event.content_hash.as_bytes()),
            Cell::I32(self.message_index),
            text(&self.message_id),
            Cell::I16(Some(self.role)),
            opt(&self.name),
            text(&self.content),
            Cell::I16(Some(self.content_format)),
            Cell::I64(self.created_at_us),
            opt(&self.process_id),
            opt(&self.session_id),
            long(self.occurred_at_us),
        ]
    }

    fn read<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        r.skip_owner();
        Ok(Self {
            message_key: r.message_key()?,
            event: r.event()?,
            message_index: r.i32()?,
            message_id: r.text()?,
            role: r.i16()?,
            name: r.opt_text()?,
            content: r.text()?,
            content_format: r.i16()?,
            created_at_us: r.opt_i64()?,
            process_id: r.opt_text()?,
            session_id: r.opt_text()?,
            occurred_at_us: r.i64()?,
        })
    }
}

impl Row for OutcomeRow {
    const TABLE: Table = Table {
        name: "outcomes",
        columns: &[
            ("tenant", Kind::Text),
            ("entity_key", Kind::Bytes),
            ("event_id", Kind::Text),
            ("content_hash", Kind::Bytes),
            ("generation", Kind::I32),
            ("kind", Kind::I16),
            ("lane", Kind::I16),
            ("log_topic_id", Kind::Text),
            ("log_partition", Kind::I32),
            ("log_offset", Kind::I64),
            ("event_lane", Kind::I16),
            ("event_offset", Kind::I64),
            ("event_origin_lane", Kind::I16),
            ("event_origin_offset", Kind::I64),
            ("event_spooled", Kind::Bool),
            ("event_accepted_at_us", Kind::I64),
            ("attempt", Kind::I32),
            ("dead_letter_class", Kind::Text),
            ("dead_letter_reason", Kind::Text),
            ("extractor_name", Kind::Text),
            ("extractor_version", Kind::Text),
            ("extractor_model", Kind::Text),
            ("prompt_hash", Kind::Text),
            ("tokens_in", Kind::I64),
            ("tokens_out", Kind::I64),
            ("cost_micros", Kind::I64),
            ("ended_at_us", Kind::I64),
        ],
        key: &["tenant", "entity_key", "event_id", "content_hash", "generation"],
    };

    fn cells<'a>(&'a self, owner: Option<&'a EntityRef>) -> Vec<Cell<'a>> {
        let [origin_lane, origin_offset] = origin(self.event_origin);
        vec![
            tenant(owner),
            entity(owner),
            text(&self.event.event_id),
            bytes(self.event.content_hash.as_bytes()),
            Cell::I32(self.generation),
            Cell::I16(Some(self.kind.code())),
            lane(self.lane),
            text(&self.log_topic_id),
            Cell::I32(self.log_partition),
            long(self.log_offset),
            lane(self.event_lane),
            long(self.event_offset),
            origin_lane,
            origin_offset,
            Cell::Bool(self.event_spooled),
            long(self.event_accepted_at_us),
            Cell::I32(self.attempt),
            opt(&self.dead_letter_class),
            opt(&self.dead_letter_reason),
            opt(&self.extractor_name),
            opt(&self.extractor_version),
            opt(&self.extractor_model),
            opt(&self.prompt_hash),
            long(self.tokens_in),
            long(self.tokens_out),
            long(self.cost_micros),
            long(self.ended_at_us),
        ]
    }

    fn read<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        r.skip_owner();
        let event = r.event()?;
        let generation = r.i32()?;
        let code = r.i16()?;
        let kind =
            OutcomeKind::from_code(code).ok_or_else(|| StoreError::Broken(format!("a stored outcome is of kind {code}")))?;
        Ok(Self {
            event,
            generation,
            kind,
            lane: r.lane()?,
            log_topic_id: r.text()?,
            log_partition: r.i32()?,
            log_offset: r.i64()?,
            event_lane: r.lane()?,
            event_offset: r.i64()?,
            event_origin: r.origin()?,
            event_spooled: r.bool()?,
            event_accepted_at_us: r.i64()?,
            attempt: r.i32()?,
            dead_letter_class: r.opt_text()?,
            dead_letter_reason: r.opt_text()?,
            extractor_name: r.opt_text()?,
            extractor_version: r.opt_text()?,
            extractor_model: r.opt_text()?,
            prompt_hash: r.opt_text()?,
            tokens_in: r.i64()?,
            tokens_out: r.i64()?,
            cost_micros: r.i64()?,
            ended_at_us: r.i64()?,
        })
    }
}

impl Row for MentionRow {
    const TABLE: Table = Table {
        name: "mentions",
        columns: &[
            ("tenant", Kind::Text),
            ("entity_key", Kind::Bytes),
            ("generation", Kind::I32),
            ("fact_id", Kind::Uuid),
            ("message_key", Kind::Bytes),
            ("event_id", Kind::Text),
            ("content_hash", Kind::Bytes),
            ("message_index", Kind::I32),
            ("message_id", Kind::Text),
            ("session_id", Kind::Text),
            ("occurred_at_us", Kind::I64),
            ("lane", Kind::I16),
            ("log_partition", Kind::I32),
            ("log_offset", Kind::I64),
            ("text_hash", Kind::Bytes),
            ("triple_hash", Kind::Bytes),
            ("surface", Kind::Text),
        ],
        key: &["tenant", "entity_key", "generation", "fact_id", "message_key", "event_id", "content_hash"],
    };

    fn cells<'a>(&'a self, owner: Option<&'a EntityRef>) -> Vec<Cell<'a>> {
        vec![
            tenant(owner),
            entity(owner),
            Cell::I32(self.key.generation),
            Cell::Uuid(Some(self.key.fact_id.0)),
            bytes(self.key.message_key.as_bytes()),
            text(&self.key.event.event_id),
            bytes(self.key.event.content_hash.as_bytes()),
            Cell::I32(self.message_index),
            text(&self.message_id),
            opt(&self.session_id),
            long(self.occurred_at_us),
            lane(self.lane),
            Cell::I32(self.log_partition),
            long(self.log_offset),
            bytes(self.text_hash.as_bytes()),
            Cell::Bytes(self.triple_hash.as_ref().map(|h| h.as_bytes())),
            // Strings, finite numbers and nulls always have a JSON form.
            Cell::OwnedText(serde_json::to_string(&self.surface).unwrap_or_default()),
        ]
    }

    fn read<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        r.skip_owner();
        let key =
            MentionKey { generation: r.i32()?, fact_id: FactId(r.uuid()?), message_key: r.message_key()?, event: r.event()? };
        Ok(Self {
            key,
            message_index: r.i32()?,
            message_id: r.text()?,
            session_id: r.opt_text()?,
            occurred_at_us: r.i64()?,
            lane: r.lane()?,
            log_partition: r.i32()?,
            log_offset: r.i64()?,
            text_hash: fixed(TextHash::from_slice(&r.bytes()?))?,
            triple_hash: r.opt_bytes()?.map(|b| fixed(TripleHash::from_slice(&b))).transpose()?,
            surface: serde_json::from_str(&r.text()?).map_err(|e| StoreError::Broken(format!("a mention's surface: {e}")))?,
        })
    }
}

impl Row for FactRow {
    const TABLE: Table = Table {
        name: "facts",
        columns: &[
            ("tenant", Kind::Text),
            ("entity_key", Kind::Bytes),
            ("generation", Kind::I32),
            ("fact_id", Kind::Uuid),
            ("kind", Kind::I16),
            ("body", Kind::Text),
            ("subject", Kind::Text),
            ("predicate", Kind::Text),
            ("object", Kind::Text),
            ("slot", Kind::Text),
            ("confidence", Kind::F32),
            ("process_id", Kind::Text),
            ("extractor", Kind::Text),
            ("rep_occurred_at_us", Kind::I64),
            ("rep_event_id", Kind::Text),
            ("rep_message_index", Kind::I32),
        ],
        key: &["tenant", "entity_key", "generation", "fact_id"],
    };

    fn cells<'a>(&'a self, owner: Option<&'a EntityRef>) -> Vec<Cell<'a>> {
        vec![
            tenant(owner),
            entity(owner),
            Cell::I32(self.generation),
            Cell::Uuid(Some(self.fact_id.0)),
            Cell::I16(Some(self.kind)),
            text(&self.body),
            opt(&self.subject),
            opt(&self.predicate),
            opt(&self.object),
            opt(&self.slot),
            Cell::F32(self.confidence),
            opt(&self.process_id),
            text(&self.extractor),
            long(self.rep_occurred_at_us),
            text(&self.rep_event_id),
            Cell::I32(self.rep_message_index),
        ]
    }

    fn read<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        r.skip_owner();
        Ok(Self {
            generation: r.i32()?,
            fact_id: FactId(r.uuid()?),
            kind: r.i16()?,
            body: r.text()?,
            subject: r.opt_text()?,
            predicate: r.opt_text()?,
            object: r.opt_text()?,
            slot: r.opt_text()?,
            confidence: r.f32()?,
            process_id: r.opt_text()?,
            extractor: r.text()?,
            rep_occurred_at_us: r.i64()?,
            rep_event_id: r.text()?,
            rep_message_index: r.i32()?,
        })
    }
}

impl Row for StatsRow {
    const TABLE: Table = Table {
        name: "fact_stats",
        columns: &[
            ("tenant", Kind::Text),
            ("entity_key", Kind::Bytes),
            ("generation", Kind::I32),
            ("fact_id", Kind::Uuid),
            ("mentions", Kind::I64),
            ("first_mentioned_at_us", Kind::I64),
            ("last_mentioned_at_us", Kind::I64),
        ],
        key: &["tenant", "entity_key", "generation", "fact_id"],
    };

    fn cells<'a>(&'a self, owner: Option<&'a EntityRef>) -> Vec<Cell<'a>> {
        vec![
            tenant(owner),
            entity(owner),
            Cell::I32(self.generation),
            Cell::Uuid(Some(self.fact_id.0)),
            long(self.mentions),
            long(self.first_mentioned_at_us),
            long(self.last_mentioned_at_us),
        ]
    }

    fn read<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        r.skip_owner();
        Ok(Self {
            generation: r.i32()?,
            fact_id: FactId(r.uuid()?),
            mentions: r.i64()?,
            first_mentioned_at_us: r.i64()?,
            last_mentioned_at_us: r.i64()?,
        })
    }
}

impl Row for ValidityRow {
    const TABLE: Table = Table {
        name: "validity",
        columns: &[
            ("tenant", Kind::Text),
            ("entity_key", Kind::Bytes),
            ("generation", Kind::I32),
            ("fact_id", Kind::Uuid),
            ("valid_from_us", Kind::I64),
            ("valid_to_us", Kind::I64),
            ("closed_by", Kind::Uuid),
        ],
        key: &["tenant", "entity_key", "generation", "fact_id", "valid_from_us"],
    };

    fn cells<'a>(&'a self, owner: Option<&'a EntityRef>) -> Vec<Cell<'a>> {
        vec![
            tenant(owner),
            entity(owner),
            Cell::I32(self.generation),
            Cell::Uuid(Some(self.fact_id.0)),
            long(self.valid_from_us),
            Cell::I64(self.valid_to_us),
            Cell::Uuid(self.closed_by.map(|f| f.0)),
        ]
    }

    fn read<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        r.skip_owner();
        Ok(Self {
            generation: r.i32()?,
            fact_id: FactId(r.uuid()?),
            valid_from_us: r.i64()?,
            valid_to_us: r.opt_i64()?,
            closed_by: r.opt_uuid()?.map(FactId),
        })
    }
}

impl Row for ErasureRow {
    const TABLE: Table = Table {
        name: "erasures",
        columns: &[
            ("tenant", Kind::Text),
            ("entity_key", Kind::Bytes),
            ("erasure_id", Kind::Text),
            ("requested_at_us", Kind::I64),
            ("live_end_offset", Kind::I64),
            ("backfill_end_offset", Kind::I64),
            ("applied_at_us", Kind::I64),
        ],
        key: &["tenant", "entity_key", "erasure_id"],
    };

    fn cells<'a>(&'a self, owner: Option<&'a EntityRef>) -> Vec<Cell<'a>> {
        vec![
            tenant(owner),
            entity(owner),
            text(&self.erasure_id),
            long(self.requested_at_us),
            long(self.live_end_offset),
            long(self.backfill_end_offset),
            long(self.applied_at_us),
        ]
    }

    fn read<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        r.skip_owner();
        Ok(Self {
            erasure_id: r.text()?,
            requested_at_us: r.i64()?,
            live_end_offset: r.i64()?,
            backfill_end_offset: r.i64()?,
            applied_at_us: r.i64()?,
        })
    }
}

impl Row for ForgetRow {
    const TABLE: Table = Table {
        name: "forgets",
        columns: &[
            ("tenant", Kind::Text),
            ("entity_key", Kind::Bytes),
            ("forget_id", Kind::Text),
            ("fact_id", Kind::Uuid),
            ("text_hash", Kind::Bytes),
            ("triple_hash", Kind::Bytes),
            ("message_keys", Kind::Bytes),
            ("requested_at_us", Kind::I64),
            ("applied_at_us", Kind::I64),
        ],
        key: &["tenant", "entity_key", "forget_id"],
    };

    fn cells<'a>(&'a self, owner: Option<&'a EntityRef>) -> Vec<Cell<'a>> {
        vec![
            tenant(owner),
            entity(owner),
            text(&self.forget_id),
            Cell::Uuid(Some(self.fact_id)),
            bytes(self.text_hash.as_bytes()),
            Cell::Bytes(self.triple_hash.as_ref().map(|h| h.as_bytes())),
            Cell::OwnedBytes(self.message_keys.iter().flat_map(|key| key.0).collect()),
            long(self.requested_at_us),
            long(self.applied_at_us),
        ]
    }

    fn read<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        r.skip_owner();
        Ok(Self {
            forget_id: r.text()?,
            fact_id: r.uuid()?,
            text_hash: fixed(TextHash::from_slice(&r.bytes()?))?,
            triple_hash: r.opt_bytes()?.map(|b| fixed(TripleHash::from_slice(&b))).transpose()?,
            message_keys: r
                .bytes()?
                .chunks(MessageKey::LEN)
                .map(|b| fixed(MessageKey::from_slice(b)))
                .collect::<Result<_, _>>()?,
            requested_at_us: r.i64()?,
            applied_at_us: r.i64()?,
        })
    }
}

impl Row for DeadLetterRow {
    const TABLE: Table = Table {
        name: "dead_letters",
        columns: &[
            ("tenant", Kind::Text),
            ("entity_key", Kind::Bytes),
            ("source_topic_id", Kind::Text),
            ("source_partition", Kind::I32),
            ("source_offset", Kind::I64),
            ("generation", Kind::I32),
            ("source_topic", Kind::Text),
            ("lane", Kind::I16),
            ("class", Kind::Text),
            ("reason", Kind::Text),
            ("attempts", Kind::I32),
            ("covers", Kind::Text),
            ("erased", Kind::Bool),
            ("original_key", Kind::Bytes),
            ("original_payload", Kind::Bytes),
            ("failed_at_us", Kind::I64),
        ],
        key: &["source_topic_id", "source_partition", "source_offset", "generation"],
    };

    fn cells<'a>(&'a self, owner: Option<&'a EntityRef>) -> Vec<Cell<'a>> {
        vec![
            tenant(owner),
            entity(owner),
            text(&self.key.source_topic_id),
            Cell::I32(self.key.source_partition),
            long(self.key.source_offset),
            Cell::I32(self.key.generation),
            text(&self.source_topic),
            lane(self.lane),
            text(&self.class),
            text(&self.reason),
            Cell::I32(self.attempts),
            Cell::OwnedText(serde_json::to_string(&self.covers).unwrap_or_default()),
            Cell::Bool(self.erased),
            Cell::Bytes(self.original_key.as_deref()),
            Cell::Bytes(self.original_payload.as_deref()),
            long(self.failed_at_us),
        ]
    }

    fn read<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        r.skip_owner();
        Ok(Self {
            key: DeadLetterKey {
                source_topic_id: r.text()?,
                source_partition: r.i32()?,
                source_offset: r.i64()?,
                generation: r.i32()?,
            },
            source_topic: r.text()?,
            lane: r.lane()?,
            class: r.text()?,
            reason: r.text()?,
            attempts: r.i32()?,
            covers: serde_json::from_str(&r.text()?).map_err(|e| StoreError::Broken(format!("a dead letter's covers: {e}")))?,
            erased: r.bool()?,
            original_key: r.opt_bytes()?,
            original_payload: r.opt_bytes()?,
            failed_at_us: r.i64()?,
        })
    }
}
