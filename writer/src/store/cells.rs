//! Values on their way to a column and back, the same for both dialects: what a Rust type looks like in columns.

use std::collections::BTreeSet;

use memori_schemas::{ContentHash, EntityKey, FactId, Lane, MessageKey, Origin, TextHash, TripleHash, Vector};
use uuid::Uuid;

use super::StoreError;
use crate::plan::rows::OutcomeKind;
use crate::plan::{DeadCover, DeadLetterKey, EntityRef, EventRef, Marks, MentionKey, MessageVectorKey, Surface};

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
    F32(Option<f32>),
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
    fn f32(&self, at: usize) -> Result<Option<f32>, StoreError>;
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

    fn bytes(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        let at = self.next();
        self.0.bytes(at)
    }

    /// The first two columns.
    pub(crate) fn owner(&mut self) -> Result<EntityRef, StoreError> {
        Ok(EntityRef { tenant: Field::get(self)?, key: fixed(EntityKey::from_slice(&some(self.bytes()?)?))? })
    }

    pub(crate) fn skip_owner(&mut self) {
        self.1 += 2;
    }
}

fn some<T>(value: Option<T>) -> Result<T, StoreError> {
    value.ok_or_else(|| StoreError::Broken("a column that cannot be null is null".to_owned()))
}

fn fixed<T>(value: Option<T>) -> Result<T, StoreError> {
    value.ok_or_else(|| StoreError::Broken("a stored hash has another length".to_owned()))
}

/// Tenant and entity; null for rows that nobody owns.
pub(crate) fn put_owner<'a>(owner: Option<&'a EntityRef>, out: &mut Vec<Cell<'a>>) {
    out.push(Cell::Text(owner.map(|o| o.tenant.as_str())));
    out.push(Cell::Bytes(owner.map(|o| o.key.as_bytes())));
}

/// A value of a row, and the columns that hold it.
pub(crate) trait Field: Sized {
    /// One for each of its columns.
    const KINDS: &'static [Kind];

    /// Its cells.
    fn put<'a>(&'a self, out: &mut Vec<Cell<'a>>);

    /// From its cells.
    fn get<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError>;
}

/// Types of one column that are written as they are, with and without null.
macro_rules! plain {
    ($($type:ty, $kind:ident, $read:ident, |$value:ident| $cell:expr;)*) => {$(
        impl Field for $type {
            const KINDS: &'static [Kind] = &[Kind::$kind];

            fn put<'a>(&'a self, out: &mut Vec<Cell<'a>>) {
                let $value = self;
                out.push($cell);
            }

            fn get<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
                let at = r.next();
                r.0.$read(at)?.into_field()
            }
        }
    )*};
}

/// A column's value, where the field may or may not be null.
trait IntoField<T> {
    fn into_field(self) -> Result<T, StoreError>;
}

impl<T> IntoField<T> for Option<T> {
    fn into_field(self) -> Result<T, StoreError> {
        some(self)
    }
}

impl<T> IntoField<Self> for Option<T> {
    fn into_field(self) -> Result<Self, StoreError> {
        Ok(self)
    }
}

impl IntoField<Self> for bool {
    fn into_field(self) -> Result<Self, StoreError> {
        Ok(self)
    }
}

plain! {
    String, Text, text, |v| Cell::Text(Some(v));
    Option<String>, Text, text, |v| Cell::Text(v.as_deref());
    i64, I64, i64, |v| Cell::I64(Some(*v));
    Option<i64>, I64, i64, |v| Cell::I64(*v);
    i32, I32, i32, |v| Cell::I32(*v);
    i16, I16, i16, |v| Cell::I16(Some(*v));
    Option<i16>, I16, i16, |v| Cell::I16(*v);
    bool, Bool, bool, |v| Cell::Bool(*v);
    f32, F32, f32, |v| Cell::F32(Some(*v));
    Option<f32>, F32, f32, |v| Cell::F32(*v);
    Vec<u8>, Bytes, bytes, |v| Cell::Bytes(Some(v));
    Option<Vec<u8>>, Bytes, bytes, |v| Cell::Bytes(v.as_deref());
    Uuid, Uuid, uuid, |v| Cell::Uuid(Some(*v));
    Option<Uuid>, Uuid, uuid, |v| Cell::Uuid(*v);
}

/// Hashes and keys: bytes of one length.
macro_rules! hashes {
    ($($type:ty),*) => {$(
        impl Field for $type {
            const KINDS: &'static [Kind] = &[Kind::Bytes];

            fn put<'a>(&'a self, out: &mut Vec<Cell<'a>>) {
                out.push(Cell::Bytes(Some(self.as_bytes())));
            }

            fn get<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
                fixed(Self::from_slice(&some(r.bytes()?)?))
            }
        }
    )*};
}

hashes!(ContentHash, MessageKey, TextHash);

impl Field for Option<TripleHash> {
    const KINDS: &'static [Kind] = &[Kind::Bytes];

    fn put<'a>(&'a self, out: &mut Vec<Cell<'a>>) {
        out.push(Cell::Bytes(self.as_ref().map(|hash| hash.as_bytes())));
    }

    fn get<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        r.bytes()?.map(|b| fixed(TripleHash::from_slice(&b))).transpose()
    }
}

impl Field for FactId {
    const KINDS: &'static [Kind] = Uuid::KINDS;

    fn put<'a>(&'a self, out: &mut Vec<Cell<'a>>) {
        self.0.put(out);
    }

    fn get<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        Uuid::get(r).map(Self)
    }
}

impl Field for Option<FactId> {
    const KINDS: &'static [Kind] = Uuid::KINDS;

    fn put<'a>(&'a self, out: &mut Vec<Cell<'a>>) {
        out.push(Cell::Uuid(self.map(|fact| fact.0)));
    }

    fn get<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        Ok(Option::<Uuid>::get(r)?.map(FactId))
    }
}

/// Message keys one after the other.
impl Field for BTreeSet<MessageKey> {
    const KINDS: &'static [Kind] = &[Kind::Bytes];

    fn put<'a>(&'a self, out: &mut Vec<Cell<'a>>) {
        out.push(Cell::OwnedBytes(self.iter().flat_map(|key| key.0).collect()));
    }

    fn get<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        some(r.bytes()?)?.chunks(MessageKey::LEN).map(|b| fixed(MessageKey::from_slice(b))).collect()
    }
}

/// Ids one after the other.
impl Field for BTreeSet<FactId> {
    const KINDS: &'static [Kind] = &[Kind::Bytes];

    fn put<'a>(&'a self, out: &mut Vec<Cell<'a>>) {
        out.push(Cell::OwnedBytes(self.iter().flat_map(|fact| *fact.0.as_bytes()).collect()));
    }

    fn get<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        let id = |bytes: &[u8]| fixed(Uuid::from_slice(bytes).ok()).map(FactId);
        some(r.bytes()?)?.chunks(16).map(id).collect()
    }
}

fn lane_code(lane: Lane) -> i16 {
    i16::from(lane == Lane::Backfill)
}

fn lane_of(code: i16) -> Result<Lane, StoreError> {
    usize::try_from(code)
        .ok()
        .and_then(|i| Lane::ALL.get(i).copied())
        .ok_or_else(|| StoreError::Broken(format!("a stored lane is {code}")))
}

impl Field for Lane {
    const KINDS: &'static [Kind] = i16::KINDS;

    fn put<'a>(&'a self, out: &mut Vec<Cell<'a>>) {
        out.push(Cell::I16(Some(lane_code(*self))));
    }

    fn get<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        lane_of(i16::get(r)?)
    }
}

impl Field for OutcomeKind {
    const KINDS: &'static [Kind] = i16::KINDS;

    fn put<'a>(&'a self, out: &mut Vec<Cell<'a>>) {
        out.push(Cell::I16(Some(self.code())));
    }

    fn get<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        let code = i16::get(r)?;
        Self::from_code(code).ok_or_else(|| StoreError::Broken(format!("a stored outcome is of kind {code}")))
    }
}

impl Field for Option<Origin> {
    const KINDS: &'static [Kind] = &[Kind::I16, Kind::I64];

    fn put<'a>(&'a self, out: &mut Vec<Cell<'a>>) {
        out.push(Cell::I16(self.map(|origin| lane_code(origin.lane))));
        out.push(Cell::I64(self.map(|origin| origin.offset)));
    }

    fn get<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        match (Option::<i16>::get(r)?, Option::<i64>::get(r)?) {
            (Some(lane), Some(offset)) => Ok(Some(Origin { lane: lane_of(lane)?, offset })),
            _ => Ok(None),
        }
    }
}

impl Field for Option<Vector> {
    const KINDS: &'static [Kind] = Vector::KINDS;

    fn put<'a>(&'a self, out: &mut Vec<Cell<'a>>) {
        out.push(Cell::Text(self.as_ref().map(|vector| vector.model.as_str())));
        out.push(Cell::F32(self.as_ref().map(|vector| vector.scale)));
        out.push(Cell::Bytes(self.as_ref().map(|vector| vector.values.as_slice())));
    }

    fn get<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
        match (Option::<String>::get(r)?, Option::<f32>::get(r)?, Option::<Vec<u8>>::get(r)?) {
            (Some(model), Some(scale), Some(values)) => Ok(Some(Vector { model, scale, values })),
            _ => Ok(None),
        }
    }
}

/// Values as JSON in one column; strings, finite numbers and nulls always have a JSON form.
macro_rules! json {
    ($($type:ty, $what:literal;)*) => {$(
        impl Field for $type {
            const KINDS: &'static [Kind] = &[Kind::Text];

            fn put<'a>(&'a self, out: &mut Vec<Cell<'a>>) {
                out.push(Cell::OwnedText(serde_json::to_string(self).unwrap_or_default()));
            }

            fn get<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
                serde_json::from_str(&String::get(r)?).map_err(|e| StoreError::Broken(format!(concat!($what, ": {}"), e)))
            }
        }
    )*};
}

json! {
    Surface, "a mention's surface";
    Vec<DeadCover>, "a dead letter's covers";
}

/// Values of several columns, each by its own fields in their order.
macro_rules! composite {
    ($($type:ident { $($field:ident: $part:ty),* } = [$($kind:ident),*];)*) => {$(
        impl Field for $type {
            const KINDS: &'static [Kind] = &[$(Kind::$kind),*];

            fn put<'a>(&'a self, out: &mut Vec<Cell<'a>>) {
                $(self.$field.put(out);)*
            }

            fn get<F: Fields>(r: &mut Reader<'_, F>) -> Result<Self, StoreError> {
                Ok(Self { $($field: <$part as Field>::get(r)?),* })
            }
        }
    )*};
}

composite! {
    EventRef { event_id: String, content_hash: ContentHash } = [Text, Bytes];
    Marks { first_live_offset: Option<i64>, first_backfill_offset: Option<i64>, first_spooled_at_us: Option<i64> }
        = [I64, I64, I64];
    MentionKey { generation: i32, fact_id: FactId, message_key: MessageKey, event: EventRef }
        = [I32, Uuid, Bytes, Text, Bytes];
    MessageVectorKey { generation: i32, message_key: MessageKey, event: EventRef } = [I32, Bytes, Text, Bytes];
    Vector { model: String, scale: f32, values: Vec<u8> } = [Text, F32, Bytes];
    DeadLetterKey { source_topic_id: String, source_partition: i32, source_offset: i64, generation: i32 }
        = [Text, I32, I64, I32];
}
