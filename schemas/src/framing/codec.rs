//! One record type's schemas: the one it is written with, and every one it can be read from.

use std::marker::PhantomData;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::ResolvedSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::datum;
use super::shape::Shape;
use super::{FINGERPRINT_BYTES, FramingError, HEADER_BYTES, MARKER, MAX_PAYLOAD_BYTES, RELEASED};

/// Writes with the newest schema and reads all of them.
pub(super) struct Codec<T> {
    record: &'static str,
    header: [u8; HEADER_BYTES],
    fingerprint_hex: String,
    /// Newest first: nearly everything that is read is of the present version.
    readers: Vec<Reader>,
    types: PhantomData<fn(T) -> T>,
}

/// Reads what one released schema wrote.
struct Reader {
    fingerprint: [u8; FINGERPRINT_BYTES],
    shape: Shape,
    path: Path,
}

enum Path {
    /// The schema is the present one: bytes go straight into the type.
    Direct,
    /// An older one: bytes → value → value of the present schema → type.
    Resolve(Box<GenericDatumReader<'static>>),
}

impl<T: Serialize + DeserializeOwned> Codec<T> {
    /// The codec of a record's released versions.
    pub(super) fn released(record: &'static str) -> Self {
        let sources: Vec<&str> = RELEASED.iter().filter(|version| version.record == record).map(|version| version.avsc).collect();
        Self::new(record, &sources)
    }

    /// Panics where a schema is broken or is not the type's: they are compiled in, so a test sees it before anybody else does.
    /// Schemas live as long as the process; codecs are made once.
    pub(super) fn new(record: &'static str, oldest_first: &[&str]) -> Self {
        let schemas: Vec<&'static Schema> = oldest_first
            .iter()
            .map(|source| &*Box::leak(Box::new(Schema::parse_str(source).expect("a compiled-in schema parses"))))
            .collect();
        let present = *schemas.last().expect("a record has at least one schema");
        let mut readers: Vec<Reader> = schemas.iter().map(|schema| Reader::new(schema, present)).collect();
        readers.reverse();
        datum::fits::<T>(&readers[0].shape).expect("a record's type has the fields of its present schema, in their order");
        let fingerprint = fingerprint_of(present);
        let mut header = [0; HEADER_BYTES];
        header[..MARKER.len()].copy_from_slice(&MARKER);
        header[MARKER.len()..].copy_from_slice(&fingerprint);
        Self { record, header, fingerprint_hex: hex::encode(fingerprint), readers, types: PhantomData }
    }

    pub(super) fn fingerprint_hex(&self) -> &str {
        &self.fingerprint_hex
    }

    pub(super) fn encode(&self, record: &T) -> Result<Vec<u8>, FramingError> {
        self.encode_as(record)
    }

    /// The same of a type with the same fields in their order, which a test has to show.
    pub(super) fn encode_as<S: Serialize>(&self, record: &S) -> Result<Vec<u8>, FramingError> {
        let mut payload = Vec::with_capacity(512);
        payload.extend_from_slice(&self.header);
        datum::write(&self.readers[0].shape, record, &mut payload).map_err(|error| self.invalid(error.to_string()))?;
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(FramingError::TooLarge { bytes: payload.len() });
        }
        Ok(payload)
    }

    /// `None` where the fingerprint is of no schema of this record.
    pub(super) fn try_decode<R>(
        &self,
        fingerprint: &[u8; FINGERPRINT_BYTES],
        datum: &[u8],
        wrap: impl FnOnce(T) -> R,
    ) -> Option<Result<R, FramingError>> {
        let reader = self.readers.iter().find(|reader| reader.fingerprint == *fingerprint)?;
        Some(reader.read(datum).map(wrap).map_err(|reason| self.invalid(reason)))
    }

    fn invalid(&self, reason: impl Into<String>) -> FramingError {
        FramingError::Invalid { record: self.record, reason: reason.into() }
    }
}

impl Reader {
    fn new(schema: &'static Schema, present: &'static Schema) -> Self {
        let names = ResolvedSchema::new(schema).expect("a compiled-in schema resolves");
        let shape = Shape::compile(schema, names.get_names()).expect("a compiled-in schema has a bounded shape");
        let fingerprint = fingerprint_of(schema);
        let path = if fingerprint == fingerprint_of(present) {
            Path::Direct
        } else {
            let reader = GenericDatumReader::builder(schema).maybe_reader_schema(Some(present)).human_readable(false).build();
            Path::Resolve(Box::new(reader.expect("a compiled-in schema resolves")))
        };
        Self { fingerprint, shape, path }
    }

    fn read<T: DeserializeOwned>(&self, datum: &[u8]) -> Result<T, &'static str> {
        match &self.path {
            Path::Direct => datum::read(&self.shape, datum).map_err(|datum::Misfit(reason)| reason),
            Path::Resolve(reader) => {
                self.shape.check(datum)?;
                let mut rest = datum;
                // The library's words may quote the datum, and a reason is shown to operators: it is said in ours.
                let value = reader.read_value(&mut rest).map_err(|_| "it does not resolve to the present schema")?;
                apache_avro::from_value(&value).map_err(|_| "its fields do not fit the record's type")
            }
        }
    }
}

fn fingerprint_of(schema: &Schema) -> [u8; FINGERPRINT_BYTES] {
    schema.fingerprint::<Rabin>().bytes.try_into().expect("a Rabin fingerprint has eight bytes")
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
