//! A data file: an Avro object container of records as they stood on the log, in the order of their offsets.

use std::borrow::Cow;
use std::sync::LazyLock;

use apache_avro::{Codec, Reader, Schema, Writer, ZstandardSettings};
use bytes::Bytes;
use memori_event_log::{Header, LogRecord, TopicPartition};
use serde::{Deserialize, Serialize};

use crate::store::ArchiveError;

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    Schema::parse_str(
        r#"{"type": "record", "name": "ArchivedRecord", "namespace": "memori.archive", "fields": [
            {"name": "offset", "type": "long"},
            {"name": "appended_at_ms", "type": "long", "doc": "When the log took it, since 1970."},
            {"name": "key", "type": "bytes"},
            {"name": "payload", "type": "bytes", "doc": "As it stood on the log."},
            {"name": "headers", "type": {"type": "array", "items": {"type": "record", "name": "Header", "fields": [
                {"name": "name", "type": "string"}, {"name": "value", "type": "bytes"}]}}}]}"#,
    )
    .expect("a compiled-in schema parses")
});

#[derive(Serialize, Deserialize)]
#[serde(rename = "ArchivedRecord")]
struct Row<'a> {
    offset: i64,
    appended_at_ms: i64,
    #[serde(with = "apache_avro::serde::bytes")]
    key: Vec<u8>,
    #[serde(with = "apache_avro::serde::bytes")]
    payload: Vec<u8>,
    headers: Vec<RowHeader<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename = "Header")]
struct RowHeader<'a> {
    name: Cow<'a, str>,
    #[serde(with = "apache_avro::serde::bytes")]
    value: Vec<u8>,
}

fn broken(error: &apache_avro::Error) -> ArchiveError {
    ArchiveError::Broken(format!("a data file: {error}"))
}

/// The bytes of a file.
pub(crate) fn encode<'a>(records: impl IntoIterator<Item = &'a LogRecord>) -> Result<Vec<u8>, ArchiveError> {
    let codec = Codec::Zstandard(ZstandardSettings::new(3));
    let mut writer = Writer::with_codec(&SCHEMA, Vec::new(), codec).map_err(|e| broken(&e))?;
    for record in records {
        let header = |header: &Header| RowHeader { name: Cow::Owned(header.name.to_string()), value: header.value.to_vec() };
        let row = Row {
            offset: record.offset,
            appended_at_ms: record.appended_at_ms,
            key: record.key.to_vec(),
            payload: record.payload.to_vec(),
            headers: record.headers.iter().map(header).collect(),
        };
        writer.append_ser(row).map_err(|e| broken(&e))?;
    }
    writer.into_inner().map_err(|e| broken(&e))
}

/// The records of a file.
pub(crate) fn decode(bytes: &[u8], source: TopicPartition) -> Result<Vec<LogRecord>, ArchiveError> {
    let rows = Reader::new(bytes).map_err(|e| broken(&e))?.into_deser_iter::<Row<'static>>();
    rows.map(|row| {
        let row = row.map_err(|e| broken(&e))?;
        Ok(LogRecord {
            source,
            offset: row.offset,
            appended_at_ms: row.appended_at_ms,
            key: Bytes::from(row.key),
            payload: Bytes::from(row.payload),
            headers: row.headers.into_iter().map(|h| Header::read(&h.name, Bytes::from(h.value))).collect(),
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use memori_event_log::Topic;

    use super::*;

    #[test]
    fn records_come_back_byte_for_byte() {
        let source = TopicPartition { topic: Topic::Controls, partition: 2 };
        let record = |offset: i64| LogRecord {
            source,
            offset,
            appended_at_ms: 1_700_000_000_000 + offset,
            key: Bytes::from_static(&[0, 0, 0, 1, 0xff]),
            payload: Bytes::from([0xc3, 1, 0, u8::try_from(offset % 256).unwrap()].repeat(usize::try_from(offset).unwrap())),
            headers: vec![Header::read("tenant", Bytes::from_static(b"\xff\x00")), Header::read("of their own", Bytes::new())],
        };
        let records: Vec<LogRecord> = (0..300).map(record).collect();
        assert_eq!(decode(&encode(&records).unwrap(), source).unwrap(), records);
        assert!(decode(b"Obj\x01nonsense", source).is_err());
    }
}
