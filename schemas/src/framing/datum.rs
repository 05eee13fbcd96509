//! A datum of one schema into a type and back, through serde, in one walk and without a value in between.
//!
//! The field order of the type is the schema's, and so are the symbols of its enums: [`fits`] proves it once per type, so that a walk needs
//! no names. What a decoder allocates is bounded by the datum's length, as [`super::shape`] says. The format is that of the
//! [Avro specification](https://avro.apache.org/docs/1.12.0/specification/#binary-encoding); tests hold it to the library's bytes.

mod de;
mod ser;

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::shape::{Cursor, DOUBLE_BYTES, FLOAT_BYTES, Shape};

const MISFIT: &str = "its fields do not fit the record's type";

/// Why a datum and a type do not fit: never with words of the datum.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misfit(pub(super) &'static str);

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Misfit {}

impl serde::ser::Error for Misfit {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(MISFIT)
    }
}

impl serde::de::Error for Misfit {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(MISFIT)
    }
}

impl From<&'static str> for Misfit {
    fn from(reason: &'static str) -> Self {
        Self(reason)
    }
}

/// Whether names are compared on the way, or known to be the same.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Compared,
    Known,
}

/// Appends `record` to `out`.
pub(super) fn write<T: Serialize>(shape: &Shape, record: &T, out: &mut Vec<u8>) -> Result<(), Misfit> {
    record.serialize(ser::Encoder { shape, out, names: Names::Known })
}

/// The record that `datum` is, from its first byte to its last.
pub(super) fn read<T: DeserializeOwned>(shape: &Shape, datum: &[u8]) -> Result<T, Misfit> {
    read_with(shape, datum, Names::Known)
}

fn read_with<T: DeserializeOwned>(shape: &Shape, datum: &[u8], names: Names) -> Result<T, Misfit> {
    let mut cursor = Cursor(datum);
    let record = T::deserialize(de::Decoder { shape, cursor: &mut cursor, names })?;
    cursor.end()?;
    Ok(record)
}

/// Whether the type has the schema's fields in their order, and its enums the schema's symbols: by a datum in which everything is there.
pub(super) fn fits<T: Serialize + DeserializeOwned>(shape: &Shape) -> Result<(), Misfit> {
    let mut whole = Vec::new();
    write_whole(shape, &mut whole);
    let record: T = read_with(shape, &whole, Names::Compared)?;
    let mut written = Vec::with_capacity(whole.len());
    record.serialize(ser::Encoder { shape, out: &mut written, names: Names::Compared })?;
    if written == whole { Ok(()) } else { Err(Misfit(MISFIT)) }
}

/// A datum with one item in each array and every optional there.
fn write_whole(shape: &Shape, out: &mut Vec<u8>) {
    match shape {
        Shape::Boolean | Shape::Int | Shape::Long | Shape::Bytes | Shape::Text | Shape::Enum(_) => out.push(0),
        Shape::Float => out.extend([0; FLOAT_BYTES]),
        Shape::Double => out.extend([0; DOUBLE_BYTES]),
        Shape::Fixed(bytes) => out.resize(out.len() + bytes, 0),
        Shape::Array { item, .. } => {
            ser::long(1, out);
            write_whole(item, out);
            ser::long(0, out);
        }
        Shape::Optional(inner) => {
            ser::long(1, out);
            write_whole(inner, out);
        }
        Shape::Record(fields) => fields.iter().for_each(|(_, field)| write_whole(field, out)),
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::Schema;
    use apache_avro::schema::ResolvedSchema;
    use serde::Deserialize;

    use super::*;

    fn shape(fields: &str) -> Shape {
        let json = format!(r#"{{"type": "record", "name": "R", "fields": [{fields}]}}"#);
        let schema = Schema::parse_str(&json).expect("it is a schema");
        Shape::compile(&schema, ResolvedSchema::new(&schema).expect("it resolves").get_names()).expect("it is bounded")
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct R {
        a: Option<i64>,
        b: Vec<Sign>,
        c: f64,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Sign {
        Plus,
        Minus,
    }

    const A: &str = r#"{"name": "a", "type": ["null", "long"]}"#;
    const C: &str = r#"{"name": "c", "type": "double"}"#;

    fn b(symbols: &str) -> String {
        format!(
            r#"{{"name": "b", "type": {{"type": "array", "items": {{"type": "enum", "name": "E", "symbols": [{symbols}]}}}}}}"#
        )
    }

    #[test]
    fn a_type_fits_the_schema_of_its_fields_in_their_order_and_no_other() {
        let signs = b(r#""plus", "minus""#);
        assert_eq!(fits::<R>(&shape(&[A, &signs, C].join(","))), Ok(()));
        for other in [
            [&signs, A, C].join(","),
            [A, &signs].join(","),
            [A, &signs, C, r#"{"name": "d", "type": "long"}"#].join(","),
            [A, &b(r#""minus", "plus""#), C].join(","),
            [A, &b(r#""plus""#), C].join(","),
            [A, &signs, r#"{"name": "c", "type": "float"}"#].join(","),
            [A, &signs, r#"{"name": "z", "type": "double"}"#].join(","),
            [r#"{"name": "a", "type": "long"}"#, &signs, C].join(","),
            [r#"{"name": "a", "type": ["null", "string"]}"#, &signs, C].join(","),
        ] {
            assert_eq!(fits::<R>(&shape(&other)), Err(Misfit(MISFIT)), "{other}");
        }
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for number in [0, 1, -1, 63, 64, -64, -65, 1 << 40, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            ser::long(number, &mut out);
            let mut cursor = Cursor(&out);
            assert_eq!(cursor.long(), Ok(number));
            assert_eq!(cursor.end(), Ok(()), "{number}");
        }
    }
}
