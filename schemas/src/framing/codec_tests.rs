//! What a later version will rely on, shown now with schemas of tests: the same codec reads older bytes with defaults.

use serde::{Deserialize, Serialize};

use super::{Codec, FramingError, Shape};
use crate::framing::{self, RELEASED, unframe};
use crate::records::{ConversationEvent, Flush, LogRecordBody};
use crate::time::Micros;

const FLUSH_V1: &str = include_str!("../../avro/flush.v1.avsc");
const FLUSH_V1_GOLDEN: &str = include_str!("../../golden/flush.v1.full.hex");

/// What a second version might be: new fields of several types, another order, a nested record, an enum.
const FLUSH_V2: &str = r#"{"type": "record", "name": "Flush", "namespace": "memori", "fields": [
    {"name": "note", "type": ["null", "string"], "default": null},
    {"name": "tenant", "type": "string"},
    {"name": "entity_id", "type": "string"},
    {"name": "urgency", "type": "int", "default": 5},
    {"name": "requested_at", "type": "long"},
    {"name": "why", "type": {"type": "enum", "name": "Why", "symbols": ["asked", "idle"]}, "default": "idle"},
    {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
    {"name": "digest", "type": ["null", {"type": "fixed", "name": "Digest", "size": 16}], "default": null},
    {"name": "key_id", "type": ["null", "string"], "default": null}
]}"#;

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Why {
    Asked,
    Idle,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename = "Flush")]
struct FlushV2 {
    note: Option<String>,
    tenant: String,
    entity_id: String,
    urgency: i32,
    requested_at: Micros,
    why: Why,
    tags: Vec<String>,
    digest: Option<crate::ids::TextHash>,
    key_id: Option<String>,
}

fn decode<T: Serialize + serde::de::DeserializeOwned>(codec: &Codec<T>, payload: &[u8]) -> Result<T, FramingError> {
    let (fingerprint, datum) = unframe(payload)?;
    codec.try_decode(fingerprint, datum, |record| record).unwrap_or_else(|| Err(FramingError::NotFramed))
}

#[test]
fn bytes_of_the_first_version_are_read_by_a_second_with_defaults() {
    let codec = Codec::<FlushV2>::new("Flush", &[FLUSH_V1, FLUSH_V2]);
    let golden = hex::decode(FLUSH_V1_GOLDEN.trim()).expect("hex");
    let Ok(LogRecordBody::Flush(first)) = framing::decode(&golden) else { panic!("the golden bytes are of the first version") };
    let read = decode(&codec, &golden).expect("they resolve");
    let expected = FlushV2 {
        note: None,
        tenant: first.tenant,
        entity_id: first.entity_id,
        urgency: 5,
        requested_at: first.requested_at,
        why: Why::Idle,
        tags: vec![],
        digest: None,
        key_id: first.key_id,
    };
    assert_eq!(read, expected);

    let second = FlushV2 { why: Why::Asked, tags: vec!["a".into()], digest: Some(crate::ids::TextHash([7; 16])), ..expected };
    let payload = codec.encode(&second).expect("it is written with the second version");
    assert_eq!(decode(&codec, &payload), Ok(second));
    assert!(matches!(framing::decode(&payload), Err(FramingError::UnknownFingerprint(_))), "an older build says: upgrade first");
}

#[test]
fn hostile_bytes_of_an_older_version_are_errors_too() {
    let codec = Codec::<FlushV2>::new("Flush", &[FLUSH_V1, FLUSH_V2]);
    let golden = hex::decode(FLUSH_V1_GOLDEN.trim()).expect("hex");
    for cut in 0..golden.len() {
        assert!(decode(&codec, &golden[..cut]).is_err(), "cut at {cut}");
    }
    assert!(decode(&codec, &[golden, vec![0]].concat()).is_err());
}

/// The present types read records that lack the fields which are optional now: nested ones too.
#[test]
fn the_present_types_read_an_older_schema() {
    let present = RELEASED.iter().rfind(|v| v.record == "ConversationEvent").expect("it is released").avsc;
    let mut older: serde_json::Value = serde_json::from_str(present).expect("JSON");
    let without = |fields: &mut serde_json::Value, names: &[&str]| {
        fields.as_array_mut().expect("fields").retain(|field| !names.iter().any(|name| field["name"] == *name));
    };
    let message =
        older["fields"].as_array_mut().expect("fields").iter_mut().find(|field| field["name"] == "messages").expect("messages");
    without(&mut message["type"]["items"]["fields"], &["message_id", "created_at"]);
    without(&mut older["fields"], &["process_id", "session_id", "origin", "key_id"]);
    let older = older.to_string();

    let LogRecordBody::Conversation(event) = sample() else { unreachable!("it is a conversation") };
    let payload = Codec::<OldEvent>::new("ConversationEvent", &[&older]).encode(&OldEvent::from(&event)).expect("it is written");
    let codec = Codec::<ConversationEvent>::new("ConversationEvent", &[&older, present]);
    let expected = ConversationEvent {
        process_id: None,
        session_id: None,
        origin: None,
        key_id: None,
        messages: event.messages.iter().map(|m| crate::Message { message_id: None, created_at: None, ..m.clone() }).collect(),
        ..event
    };
    assert_eq!(decode(&codec, &payload), Ok(expected));
}

#[test]
fn every_released_schema_has_a_fingerprint_of_its_own_and_a_present_type() {
    let fingerprints: std::collections::BTreeSet<_> = RELEASED
        .iter()
        .map(|version| super::fingerprint_of(&apache_avro::Schema::parse_str(version.avsc).expect("it parses")))
        .collect();
    assert_eq!(fingerprints.len(), RELEASED.len());
    for pair in RELEASED.windows(2).filter(|pair| pair[0].record == pair[1].record) {
        assert_eq!(pair[0].version + 1, pair[1].version, "versions of {} are in order", pair[0].record);
    }
}

#[test]
fn an_oversized_record_is_not_written() {
    let flush =
        Flush { tenant: "x".repeat(framing::MAX_PAYLOAD_BYTES), entity_id: String::new(), requested_at: Micros(0), key_id: None };
    let bytes = framing::encode(&LogRecordBody::Flush(flush)).expect_err("it is over the bound");
    assert!(matches!(bytes, FramingError::TooLarge { bytes } if bytes > framing::MAX_PAYLOAD_BYTES));
}

fn sample() -> LogRecordBody {
    let golden = hex::decode(include_str!("../../golden/conversation_event.v1.full.hex").trim()).expect("hex");
    framing::decode(&golden).expect("golden bytes decode")
}

/// [`ConversationEvent`] as it would have been before some of its fields.
#[derive(Serialize, Deserialize)]
#[serde(rename = "ConversationEvent")]
struct OldEvent {
    tenant: String,
    entity_id: String,
    event_id: String,
    content_hash: crate::ContentHash,
    occurred_at: Micros,
    accepted_at: Micros,
    messages: Vec<OldMessage>,
    metadata: Vec<crate::MetadataEntry>,
    supplied: crate::Supplied,
    spooled: bool,
    attempt: i32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename = "Message")]
struct OldMessage {
    role: crate::Role,
    name: Option<String>,
    content: String,
    content_format: crate::ContentFormat,
}

impl From<&ConversationEvent> for OldEvent {
    fn from(event: &ConversationEvent) -> Self {
        let old = |m: &crate::Message| OldMessage {
            role: m.role,
            name: m.name.clone(),
            content: m.content.clone(),
            content_format: m.content_format,
        };
        Self {
            tenant: event.tenant.clone(),
            entity_id: event.entity_id.clone(),
            event_id: event.event_id.clone(),
            content_hash: event.content_hash,
            occurred_at: event.occurred_at,
            accepted_at: event.accepted_at,
            messages: event.messages.iter().map(old).collect(),
            metadata: event.metadata.clone(),
            supplied: event.supplied,
            spooled: event.spooled,
            attempt: event.attempt,
        }
    }
}

/// A datum of a shape with whatever may stand in one.
fn any_datum(shape: &Shape, seed: &mut impl FnMut(u64) -> u64, out: &mut Vec<u8>) {
    let long = |number: i64, out: &mut Vec<u8>| {
        let mut bits = ((number << 1) ^ (number >> 63)).cast_unsigned();
        while bits >= 0x80 {
            out.push(u8::try_from(bits & 0x7f).expect("seven bits") | 0x80);
            bits >>= 7;
        }
        out.push(u8::try_from(bits).expect("seven bits"));
    };
    match shape {
        Shape::Boolean => out.push(u8::try_from(seed(2)).expect("0 or 1")),
        Shape::Int => long(i64::from((seed(u64::MAX) as u32).cast_signed()), out),
        Shape::Long => {
            let bits = seed(64);
            long((seed(u64::MAX) >> bits).cast_signed(), out);
        }
        Shape::Float => out.extend_from_slice(&(seed(1_000) as f32 / 7.0).to_le_bytes()),
        Shape::Double => out.extend_from_slice(&(seed(1_000) as f64 / 7.0).to_le_bytes()),
        Shape::Fixed(bytes) => (0..*bytes).for_each(|_| out.push(seed(256) as u8)),
        Shape::Bytes => {
            let bytes = seed(200);
            long(bytes.cast_signed(), out);
            (0..bytes).for_each(|_| out.push(seed(256) as u8));
        }
        Shape::Text => {
            let text: String = (0..seed(80)).map(|_| ['a', 'é', '語', '😀', '\0', '\n'][seed(6) as usize]).collect();
            long(text.len() as i64, out);
            out.extend_from_slice(text.as_bytes());
        }
        Shape::Enum(symbols) => long(seed(symbols.len() as u64).cast_signed(), out),
        Shape::Array { item, .. } => {
            let items = seed(4);
            if items > 0 {
                long(items.cast_signed(), out);
            }
            (0..items).for_each(|_| any_datum(item, seed, out));
            out.push(0);
        }
        Shape::Optional(inner) => {
            let some = seed(2);
            long(some.cast_signed(), out);
            if some == 1 {
                any_datum(inner, seed, out);
            }
        }
        Shape::Record(fields) => fields.iter().for_each(|(_, field)| any_datum(field, seed, out)),
    }
}

/// Numbers below what is asked, the same each time.
fn seeds() -> impl FnMut(u64) -> u64 {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

/// The library reads what is written here as the same record, and writes it as the same bytes.
fn agrees_with_the_library<T>(record: &'static str)
where
    T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let codec = Codec::<T>::released(record);
    let source = RELEASED.iter().rfind(|version| version.record == record).expect("it is released").avsc;
    let schema = apache_avro::Schema::parse_str(source).expect("it parses");
    let reader =
        apache_avro::reader::datum::GenericDatumReader::builder(&schema).human_readable(false).build().expect("it resolves");
    let writer =
        apache_avro::writer::datum::GenericDatumWriter::builder(&schema).human_readable(false).build().expect("it resolves");
    let mut seed = seeds();
    for _ in 0..500 {
        let mut datum = Vec::new();
        any_datum(&codec.readers[0].shape, &mut seed, &mut datum);
        let ours: T = codec.readers[0].read(&datum).expect("it is a datum of that shape");
        let theirs: T = reader.read_deser(&mut &datum[..]).expect("it is a datum of that schema");
        assert_eq!(ours, theirs);
        let mut by_library = Vec::new();
        writer.write_ser(&mut by_library, &ours).expect("it is written");
        assert_eq!(codec.encode(&ours).expect("it is written")[framing::HEADER_BYTES..], by_library);
        assert_eq!(by_library, datum);
    }
}

#[test]
fn records_are_read_and_written_as_the_library_does() {
    agrees_with_the_library::<ConversationEvent>("ConversationEvent");
    agrees_with_the_library::<Flush>("Flush");
    agrees_with_the_library::<crate::FactsExtracted>("FactsExtracted");
    agrees_with_the_library::<crate::EraseEntity>("EraseEntity");
    agrees_with_the_library::<crate::ForgetFact>("ForgetFact");
    agrees_with_the_library::<crate::WithdrawFacts>("WithdrawFacts");
    agrees_with_the_library::<crate::DeadLetter>("DeadLetter");
}

fn cover(cover: &crate::Cover) -> crate::CoverToWrite<'_> {
    crate::CoverToWrite {
        event_id: &cover.event_id,
        content_hash: cover.content_hash,
        lane: cover.lane,
        offset: cover.offset,
        origin: cover.origin,
        spooled: cover.spooled,
        accepted_at: cover.accepted_at,
        occurred_at: cover.occurred_at,
        attempt: cover.attempt,
    }
}

#[test]
fn facts_are_written_from_their_parts_as_their_record_is() {
    let codec = Codec::<crate::FactsExtracted>::released("FactsExtracted");
    let mut seed = seeds();
    for _ in 0..500 {
        let mut datum = Vec::new();
        any_datum(&codec.readers[0].shape, &mut seed, &mut datum);
        let record: crate::FactsExtracted = codec.readers[0].read(&datum).expect("it is a datum of that shape");
        let parts = crate::FactsToWrite {
            tenant: &record.tenant,
            entity_id: &record.entity_id,
            process_id: record.process_id.as_deref(),
            session_id: record.session_id.as_deref(),
            generation: record.generation,
            covers: record.covers.iter().map(cover).collect(),
            facts: &record.facts,
            message_vectors: &record.message_vectors,
            extractor: &record.extractor,
            extracted_at: record.extracted_at,
            key_id: record.key_id.as_deref(),
        };
        assert_eq!(parts.covers.iter().map(|cover| crate::Cover::from(*cover)).collect::<Vec<_>>(), record.covers);
        let (payload, fingerprint) = framing::encode_facts(&parts).expect("it is written");
        let body = LogRecordBody::Facts(record);
        assert_eq!((payload, fingerprint), (framing::encode(&body).expect("it is written"), framing::fingerprint_hex(&body)));
    }
}
