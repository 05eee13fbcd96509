//! The form of a datum, checked before anything is built from it.
//!
//! A length or a count inside hostile bytes may say anything. [`Shape::check`] walks a datum without allocating and lets it
//! pass only where every length lies within the bytes that are there, every item of an array takes at least one of them, and
//! nothing is left over. So what a decoder then allocates is bounded by the datum's length. [`super::datum`] does both in one walk, with
//! the same [`Cursor`].

use apache_avro::Schema;
use apache_avro::schema::{NamesRef, RecordField};

pub(super) const FLOAT_BYTES: usize = 4;
pub(super) const DOUBLE_BYTES: usize = 8;

/// How deep a schema may nest. Ours nest five deep; a recursive schema has no bounded shape and is refused.
const MAX_DEPTH: usize = 16;

/// A schema with its references followed and its names dropped.
#[derive(Debug)]
pub(super) enum Shape {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    /// So many bytes.
    Fixed(usize),
    Bytes,
    Text,
    /// Its symbols.
    Enum(Vec<String>),
    Array {
        item: Box<Shape>,
        min_item_bytes: usize,
    },
    /// A union of null and this, in this order.
    Optional(Box<Shape>),
    /// Its fields, by name.
    Record(Vec<(String, Shape)>),
}

impl Shape {
    /// Fails for what our schemas do not use: maps, recursion, arrays of items that may take no bytes, unions but of null and another.
    pub(super) fn compile(schema: &Schema, names: &NamesRef<'_>) -> Result<Self, &'static str> {
        Self::compile_at(schema, names, 0)
    }

    fn compile_at(schema: &Schema, names: &NamesRef<'_>, depth: usize) -> Result<Self, &'static str> {
        if depth > MAX_DEPTH {
            return Err("the schema nests too deep or is recursive");
        }
        let inner = |schema: &Schema| Self::compile_at(schema, names, depth + 1);
        Ok(match schema {
            Schema::Boolean => Self::Boolean,
            Schema::Int => Self::Int,
            Schema::Long => Self::Long,
            Schema::Float => Self::Float,
            Schema::Double => Self::Double,
            Schema::Bytes => Self::Bytes,
            Schema::String => Self::Text,
            Schema::Fixed(fixed) => Self::Fixed(fixed.size),
            Schema::Enum(symbols) => Self::Enum(symbols.symbols.clone()),
            Schema::Array(array) => {
                let item = inner(&array.items)?;
                let min_item_bytes = item.min_bytes();
                if min_item_bytes == 0 {
                    return Err("an array's items may take no bytes");
                }
                Self::Array { item: Box::new(item), min_item_bytes }
            }
            Schema::Union(union) => match union.variants() {
                [Schema::Null, other] => Self::Optional(Box::new(inner(other)?)),
                _ => return Err("a union is not of null and another"),
            },
            Schema::Record(record) => {
                let field = |field: &RecordField| inner(&field.schema).map(|shape| (field.name.clone(), shape));
                Self::Record(record.fields.iter().map(field).collect::<Result<_, _>>()?)
            }
            Schema::Ref { name } => inner(names.get(name).ok_or("a reference leads nowhere")?)?,
            _ => return Err("the schema uses a type that is not supported"),
        })
    }

    /// The fewest bytes that a datum of this shape can take.
    fn min_bytes(&self) -> usize {
        match self {
            Self::Float => FLOAT_BYTES,
            Self::Double => DOUBLE_BYTES,
            Self::Fixed(bytes) => *bytes,
            Self::Boolean | Self::Int | Self::Long | Self::Bytes | Self::Text => 1,
            Self::Enum(_) | Self::Array { .. } | Self::Optional(_) => 1,
            Self::Record(fields) => fields.iter().map(|(_, field)| field.min_bytes()).sum(),
        }
    }

    /// Whether `datum` is one of this shape, from its first byte to its last.
    pub(super) fn check(&self, datum: &[u8]) -> Result<(), &'static str> {
        let mut cursor = Cursor(datum);
        self.walk(&mut cursor)?;
        cursor.end()
    }

    fn walk(&self, cursor: &mut Cursor<'_>) -> Result<(), &'static str> {
        match self {
            Self::Boolean => cursor.boolean().map(drop),
            Self::Int => cursor.int().map(drop),
            Self::Long => cursor.long().map(drop),
            Self::Float => cursor.take(FLOAT_BYTES).map(drop),
            Self::Double => cursor.take(DOUBLE_BYTES).map(drop),
            Self::Fixed(bytes) => cursor.take(*bytes).map(drop),
            Self::Bytes => cursor.sized().map(drop),
            Self::Text => cursor.text().map(drop),
            Self::Enum(symbols) => cursor.symbol(symbols.len()).map(drop),
            Self::Array { item, min_item_bytes } => {
                let mut blocks = Blocks::new(*min_item_bytes);
                while blocks.next(cursor)?.is_some() {
                    item.walk(cursor)?;
                }
                Ok(())
            }
            Self::Optional(inner) => {
                if cursor.is_some()? {
                    inner.walk(cursor)?;
                }
                Ok(())
            }
            Self::Record(fields) => fields.iter().try_for_each(|(_, field)| field.walk(cursor)),
        }
    }
}

/// The blocks of an array, as they are walked.
pub(super) struct Blocks {
    min_item_bytes: usize,
    /// Items of this block that are still to come.
    left: usize,
    /// What must be left of the datum behind this block, where the block told its size.
    rest_bytes: Option<usize>,
}

impl Blocks {
    pub(super) fn new(min_item_bytes: usize) -> Self {
        Self { min_item_bytes, left: 0, rest_bytes: None }
    }

    /// `Some` before each item: how many are left of its block, itself included. What is left of the datum could hold them.
    pub(super) fn next(&mut self, cursor: &mut Cursor<'_>) -> Result<Option<usize>, &'static str> {
        if self.left == 0 {
            if self.rest_bytes.is_some_and(|bytes| bytes != cursor.0.len()) {
                return Err("an array's block has another size than it says");
            }
            let count = cursor.long()?;
            self.left = usize::try_from(count.unsigned_abs()).map_err(|_| "an array is longer than the payload")?;
            if self.left == 0 {
                return Ok(None);
            }
            // A negative count is followed by the block's size in bytes.
            self.rest_bytes = if count < 0 { Some(cursor.length()?).map(|bytes| cursor.0.len() - bytes) } else { None };
            if self.left.checked_mul(self.min_item_bytes).is_none_or(|least| least > cursor.0.len()) {
                return Err("an array is longer than the payload");
            }
        }
        self.left -= 1;
        Ok(Some(self.left + 1))
    }

    /// How many items of the present block are still to come.
    pub(super) fn left(&self) -> usize {
        self.left
    }
}

/// What is left of the datum.
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or("it ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn end(&self) -> Result<(), &'static str> {
        if self.0.is_empty() { Ok(()) } else { Err("bytes are left over behind the record") }
    }

    pub(super) fn boolean(&mut self) -> Result<bool, &'static str> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err("a boolean is neither 0 nor 1"),
        }
    }

    pub(super) fn int(&mut self) -> Result<i32, &'static str> {
        i32::try_from(self.long()?).map_err(|_| "an int is out of range")
    }

    /// A zigzag varint of at most ten bytes.
    pub(super) fn long(&mut self) -> Result<i64, &'static str> {
        // Nearly all are short.
        if let [byte @ 0..0x80, rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(i64::from(byte >> 1) ^ -i64::from(byte & 1));
        }
        let mut bits = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let seven = u64::from(byte & 0x7f);
            if shift == 63 && byte > 1 {
                break;
            }
            bits |= seven << shift;
            if byte & 0x80 == 0 {
                return Ok((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed());
            }
        }
        Err("a number is longer than 64 bits")
    }

    /// A length that lies within what is left.
    fn length(&mut self) -> Result<usize, &'static str> {
        let length = usize::try_from(self.long()?).map_err(|_| "a length is negative")?;
        if length > self.0.len() { Err("a length goes past the payload's end") } else { Ok(length) }
    }

    pub(super) fn sized(&mut self) -> Result<&'a [u8], &'static str> {
        let length = self.length()?;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, &'static str> {
        std::str::from_utf8(self.sized()?).map_err(|_| "a string is not UTF-8")
    }

    /// The index of one of so many symbols.
    pub(super) fn symbol(&mut self, symbols: usize) -> Result<usize, &'static str> {
        usize::try_from(self.long()?).ok().filter(|index| *index < symbols).ok_or("an enum has no such symbol")
    }

    /// Which branch of an optional it is.
    pub(super) fn is_some(&mut self) -> Result<bool, &'static str> {
        match self.long()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("a union has no such branch"),
        }
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::schema::ResolvedSchema;

    use super::{Cursor, Schema, Shape};

    fn compile(json: &str) -> Result<Shape, &'static str> {
        let schema = Schema::parse_str(json).expect("it is a schema");
        let names = ResolvedSchema::new(&schema).expect("it resolves");
        Shape::compile(&schema, names.get_names())
    }

    #[test]
    fn schemas_whose_data_could_not_be_bounded_are_refused() {
        let recursive = r#"{"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}"#;
        let of_nothing = r#"{"type": "array", "items": "null"}"#;
        let of_empty = r#"{"type": "array", "items": {"type": "record", "name": "Empty", "fields": []}}"#;
        let map = r#"{"type": "map", "values": "long"}"#;
        let of_three = r#"["null", "long", "string"]"#;
        for schema in [recursive, of_nothing, of_empty, map, of_three] {
            assert!(compile(schema).is_err(), "{schema}");
        }
    }

    #[test]
    fn numbers_are_read_as_avro_writes_them() {
        for (bytes, number) in [
            (&[0x00][..], 0),
            (&[0x01], -1),
            (&[0x02], 1),
            (&[0x7f], -64),
            (&[0x80, 0x01], 64),
            (&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], i64::MAX),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], i64::MIN),
        ] {
            assert_eq!(Cursor(bytes).long(), Ok(number), "{bytes:x?}");
        }
        for bytes in [&[][..], &[0x80], &[0xff; 10], &[0xff; 11]] {
            assert!(Cursor(bytes).long().is_err(), "{bytes:x?}");
        }
    }

    #[test]
    fn the_fewest_bytes_of_a_shape_are_not_guessed_too_high() {
        let shape = compile(
            r#"{"type": "record", "name": "R", "fields": [
                {"name": "a", "type": ["null", "string"]}, {"name": "b", "type": {"type": "fixed", "name": "F", "size": 3}},
                {"name": "c", "type": "float"}, {"name": "d", "type": {"type": "array", "items": "long"}}, {"name": "e", "type": "boolean"}]}"#,
        )
        .expect("it is bounded");
        assert_eq!(shape.min_bytes(), 1 + 3 + 4 + 1 + 1);
        assert_eq!(shape.check(&[0; 10]), Ok(()));
        assert!(shape.check(&[0; 9]).is_err());
        assert!(shape.check(&[0; 11]).is_err());
    }
}
