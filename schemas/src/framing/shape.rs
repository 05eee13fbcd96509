//! The form of a datum, checked before anything is built from it.
//!
//! A length or a count inside hostile bytes may say anything. [`Shape::check`] walks a datum without allocating and lets it
//! pass only where every length lies within the bytes that are there, every item of an array takes at least one of them, and
//! nothing is left over. So what a decoder then allocates is bounded by the datum's length.

use apache_avro::Schema;
use apache_avro::schema::NamesRef;

/// How deep a schema may nest. Ours nest five deep; a recursive schema has no bounded shape and is refused.
const MAX_DEPTH: usize = 16;

/// A schema with its references followed and its names dropped.
#[derive(Debug)]
pub(super) enum Shape {
    Null,
    Boolean,
    Int,
    Long,
    Skip(usize),
    Bytes,
    Text,
    Enum(usize),
    Array { item: Box<Shape>, min_item_bytes: usize },
    Union(Vec<Shape>),
    Record(Vec<Shape>),
}

impl Shape {
    /// Fails for what our schemas do not use: maps, recursion, arrays of items that may take no bytes.
    pub(super) fn compile(schema: &Schema, names: &NamesRef<'_>) -> Result<Self, &'static str> {
        Self::compile_at(schema, names, 0)
    }

    fn compile_at(schema: &Schema, names: &NamesRef<'_>, depth: usize) -> Result<Self, &'static str> {
        if depth > MAX_DEPTH {
            return Err("the schema nests too deep or is recursive");
        }
        let inner = |schema: &Schema| Self::compile_at(schema, names, depth + 1);
        Ok(match schema {
            Schema::Null => Self::Null,
            Schema::Boolean => Self::Boolean,
            Schema::Int => Self::Int,
            Schema::Long => Self::Long,
            Schema::Float => Self::Skip(4),
            Schema::Double => Self::Skip(8),
            Schema::Bytes => Self::Bytes,
            Schema::String => Self::Text,
            Schema::Fixed(fixed) => Self::Skip(fixed.size),
            Schema::Enum(symbols) => Self::Enum(symbols.symbols.len()),
            Schema::Array(array) => {
                let item = inner(&array.items)?;
                let min_item_bytes = item.min_bytes();
                if min_item_bytes == 0 {
                    return Err("an array's items may take no bytes");
                }
                Self::Array { item: Box::new(item), min_item_bytes }
            }
            Schema::Union(union) => Self::Union(union.variants().iter().map(inner).collect::<Result<_, _>>()?),
            Schema::Record(record) => Self::Record(record.fields.iter().map(|f| inner(&f.schema)).collect::<Result<_, _>>()?),
            Schema::Ref { name } => inner(names.get(name).ok_or("a reference leads nowhere")?)?,
            _ => return Err("the schema uses a type that is not supported"),
        })
    }

    /// The fewest bytes that a datum of this shape can take.
    fn min_bytes(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Skip(bytes) => *bytes,
            Self::Boolean | Self::Int | Self::Long | Self::Bytes | Self::Text | Self::Enum(_) | Self::Array { .. } => 1,
            Self::Union(variants) => 1 + variants.iter().map(Self::min_bytes).min().unwrap_or(0),
            Self::Record(fields) => fields.iter().map(Self::min_bytes).sum(),
        }
    }

    /// Whether `datum` is one of this shape, from its first byte to its last.
    pub(super) fn check(&self, datum: &[u8]) -> Result<(), &'static str> {
        let mut cursor = Cursor(datum);
        self.walk(&mut cursor)?;
        if cursor.0.is_empty() { Ok(()) } else { Err("bytes are left over behind the record") }
    }

    fn walk(&self, cursor: &mut Cursor<'_>) -> Result<(), &'static str> {
        match self {
            Self::Null => Ok(()),
            Self::Boolean => match cursor.take(1)? {
                [0 | 1] => Ok(()),
                _ => Err("a boolean is neither 0 nor 1"),
            },
            Self::Int => i32::try_from(cursor.long()?).map(drop).map_err(|_| "an int is out of range"),
            Self::Long => cursor.long().map(drop),
            Self::Skip(bytes) => cursor.take(*bytes).map(drop),
            Self::Bytes => cursor.sized().map(drop),
            Self::Text => std::str::from_utf8(cursor.sized()?).map(drop).map_err(|_| "a string is not UTF-8"),
            Self::Enum(symbols) => cursor.index(*symbols).map(drop).map_err(|_| "an enum has no such symbol"),
            Self::Array { item, min_item_bytes } => walk_array(cursor, item, *min_item_bytes),
            Self::Union(variants) => {
                let index = cursor.index(variants.len())?;
                variants[index].walk(cursor)
            }
            Self::Record(fields) => fields.iter().try_for_each(|field| field.walk(cursor)),
        }
    }
}

fn walk_array(cursor: &mut Cursor<'_>, item: &Shape, min_item_bytes: usize) -> Result<(), &'static str> {
    loop {
        let count = cursor.long()?;
        let items = usize::try_from(count.unsigned_abs()).map_err(|_| "an array is longer than the payload")?;
        if items == 0 {
            return Ok(());
        }
        // A negative count is followed by the block's size in bytes.
        let block_bytes = if count < 0 { Some(cursor.length()?) } else { None };
        if items.checked_mul(min_item_bytes).is_none_or(|least| least > cursor.0.len()) {
            return Err("an array is longer than the payload");
        }
        let before = cursor.0.len();
        for _ in 0..items {
            item.walk(cursor)?;
        }
        if block_bytes.is_some_and(|bytes| bytes != before - cursor.0.len()) {
            return Err("an array's block has another size than it says");
        }
    }
}

/// What is left of the datum.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or("it ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    /// A zigzag varint of at most ten bytes.
    fn long(&mut self) -> Result<i64, &'static str> {
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

    fn sized(&mut self) -> Result<&'a [u8], &'static str> {
        let length = self.length()?;
        self.take(length)
    }

    /// An index below `bound`.
    fn index(&mut self, bound: usize) -> Result<usize, &'static str> {
        usize::try_from(self.long()?).ok().filter(|index| *index < bound).ok_or("a union has no such branch")
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
        for schema in [recursive, of_nothing, of_empty, map] {
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
