//! One record type's schemas: the one it is written with, and every one it can be read from.

use std::marker::PhantomData;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::ResolvedSchema;
use apache_avro::writer::datum::GenericDatumWriter;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::shape::Shape;
use super::{FINGERPRINT_BYTES, FramingError, HEADER_BYTES, MARKER, MAX_PAYLOAD_BYTES, RELEASED};

/// Writes with the newest schema and reads all of them.
pub(super) struct Codec<T> {
    record: &'static str,
    header: [u8; HEADER_BYTES],
    fingerprint_hex: String,
    writer: GenericDatumWriter<'static>,
    /// Newest first: nearly everything that is read is of the present version.
    readers: Vec<Reader>,
    types: PhantomData<fn(T) -> T>,
}

/// Reads what one released schema wrote.
struct Reader {
    fingerprint: [u8; FINGERPRINT_BYTES],
    shape: Shape,
    datum: GenericDatumReader<'static>,
    path: Path,
}

enum Path {
    /// The schema is the present one: bytes go straight into the type.
    Direct,
    /// An older one: bytes → value → value of the present schema → type. The direct path would panic here.
    Resolve,
}

impl<T: Serialize + DeserializeOwned> Codec<T> {
    /// The codec of a record's released versions.
    pub(super) fn released(record: &'static str) -> Self {
        let sources: Vec<&str> = RELEASED.iter().filter(|version| version.record == record).map(|version| version.avsc).collect();
        Self::new(record, &sources)
    }

    /// Panics where a schema is broken: they are compiled in, so a test sees it before anybody else does.
    /// Schemas live as long as the process; codecs are made once.
    pub(super) fn new(record: &'static str, oldest_first: &[&str]) -> Self {
        let schemas: Vec<&'static Schema> = oldest_first
            .iter()
            .map(|source| &*Box::leak(Box::new(Schema::parse_str(source).expect("a compiled-in schema parses"))))
            .collect();
        let present = *schemas.last().expect("a record has at least one schema");
        let mut readers: Vec<Reader> = schemas.iter().map(|schema| Reader::new(schema, present)).collect();
        readers.reverse();
        let fingerprint = fingerprint_of(present);
        let mut header = [0; HEADER_BYTES];
        header[..MARKER.len()].copy_from_slice(&MARKER);
        header[MARKER.len()..].copy_from_slice(&fingerprint);
        let writer = GenericDatumWriter::builder(present).human_readable(false).build().expect("a compiled-in schema resolves");
        Self { record, header, fingerprint_hex: hex::encode(fingerprint), writer, readers, types: PhantomData }
    }

    pub(super) fn fingerprint_hex(&self) -> &str {
        &self.fingerprint_hex
    }

    pub(super) fn encode(&self, record: &T) -> Result<Vec<u8>, FramingError> {
        let mut payload = Vec::with_capacity(512);
        payload.extend_from_slice(&self.header);
        self.writer.write_ser(&mut payload, record).map_err(|error| self.invalid(error.to_string()))?;
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
        let (path, reader_schema) =
            if fingerprint == fingerprint_of(present) { (Path::Direct, None) } else { (Path::Resolve, Some(present)) };
        let datum = GenericDatumReader::builder(schema)
            .maybe_reader_schema(reader_schema)
            .human_readable(false)
            .build()
            .expect("a compiled-in schema resolves");
        Self { fingerprint, shape, datum, path }
    }

    fn read<T: DeserializeOwned>(&self, datum: &[u8]) -> Result<T, &'static str> {
        self.shape.check(datum)?;
        let mut rest = datum;
        // The library's words may quote the datum, and a reason is shown to operators: it is said in ours.
        match self.path {
            Path::Direct => self.datum.read_deser(&mut rest).map_err(|_| "its fields do not fit the record's type"),
            Path::Resolve => {
                let value = self.datum.read_value(&mut rest).map_err(|_| "it does not resolve to the present schema")?;
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
